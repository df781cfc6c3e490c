"""A program for `test_sharding_torch`: every write of a variable over a mesh, as the process of one rank sees it.

No process communicates here: torch's "fake" group does nothing. So the part of this process is compared with the block
of a NumPy variable to which the same program was applied; run it for each rank, as ``mesh_writes_torch.py RANK``.
"""

from __future__ import annotations

import itertools
import operator
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.testing._internal.distributed.fake_pg import FakeStore

import statevar as sv

Program = Callable[[Any], object]

TABLE = (np.arange(48, dtype="float32") / 7).reshape(8, 6)
IDS = np.array([0, 5, 5, -1, 2])
#: By the names that `At` and Python have for them; the rest is asserted to be known too.
AT = ("set", "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "min", "max")
OPERATORS = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow")
OF_INTEGERS: tuple[str, ...] = ("iand", "ior", "ixor", "ilshift", "irshift", "iadd", "ifloordiv", "imod", "ipow")
COMMUNICATES = ("imatmul",)  # see the program for two processes


def own(v: Any, array: Any) -> Any:
    """An array of the library of a variable."""
    return torch.from_numpy(np.ascontiguousarray(array)) if v.backend == "torch" else array


def x(v: Any) -> Any:
    """An operand of the shape of a variable."""
    return TABLE[: v.shape[0], : v.shape[1]] + 1.5


def rows(v: Any, count: int) -> Any:
    return TABLE[1 : 1 + count, : v.shape[1]]


def mask(v: Any) -> Any:
    return x(v) > 4


def several(v: Any) -> None:
    v.assign_add(1.0)
    v[0] = 3.0
    v.assign(v.value * 2)
    v -= 1.0


def transacted(v: Any, inner: Program = several) -> None:
    with sv.transaction():
        inner(v)
        v.at[1].add(2.0)


def rolled_back(v: Any) -> None:
    with sv.rollback(v):
        several(v)


def failed(v: Any) -> None:
    with suppress(ZeroDivisionError), sv.transaction():
        several(v)
        _ = 1 / 0
    v.assign_add(0.25)


def restored(v: Any) -> None:
    before = sv.snapshot(v)
    several(v)
    sv.restore(before)


def constrained(v: Any) -> None:
    v.constraint = lambda a: abs(a) * 2
    v.assign_sub(3.0)
    v[1] = -4.0


#: The writes of a whole variable.
WHOLE: dict[str, Program] = {
    "a list": lambda v: v.assign(x(v).tolist()),
    "an array": lambda v: v.assign(x(v)),
    "an array of the library": lambda v: v.assign(own(v, x(v))),
    "the value": lambda v: v.assign(v.value),
    "assign_add": lambda v: v.assign_add(2.0),
    "a row": lambda v: v.assign_add(x(v)[0]),
    "a column": lambda v: v.assign_add(x(v)[:, :1]),
    "assign_sub": lambda v: v.assign_sub(own(v, x(v))),
    "without a lock": lambda v: v.assign(x(v), use_locking=False).assign_add(1.0, use_locking=False),
    "update": lambda v: v.update(lambda a: a * 0.9),
    "set_value": lambda v: sv.set_value(v, x(v)),
    "update_all": lambda v: sv.update_all([v], "add", 1.5),
    "a transaction": transacted,
    "a transaction in a transaction": lambda v: transacted(v, transacted),
    "rollback": rolled_back,
    "a transaction that fails": failed,
    "a snapshot that is restored": restored,
    "a constraint": constrained,
}


def in_place(name: str, operand: Callable[[Any], Any], v: Any) -> None:
    getattr(operator, name)(v, operand(v))


def at(operation: str, index: Callable[[Any], Any], value: Callable[[Any], Any], v: Any) -> None:
    getattr(v.at[index(v)], operation)(value(v))


def set_item(index: Callable[[Any], Any], value: Callable[[Any], Any], v: Any) -> None:
    v[index(v)] = value(v)


#: What is written at an index: the index, and the values.
ITEMS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "a number": (lambda v: (1, 2), lambda v: 5.0),
    "from the end": (lambda v: (-1, -2), lambda v: 5.0),
    "a row": (lambda v: 4, lambda v: rows(v, 1)[0]),
    "a slice": (lambda v: slice(1, 5), lambda v: rows(v, 4)),
    "a block": (lambda v: (slice(1, 6), slice(1, 3)), lambda v: rows(v, 5)[:, :2]),
    "steps": (lambda v: (slice(0, None, 2), slice(1, None, 2)), lambda v: -1.0),
    "steps of rows": (lambda v: slice(1, None, 3), lambda v: rows(v, len(range(v.shape[0])[1::3]))),
    "backwards": (lambda v: slice(None, None, -1), lambda v: x(v)),
    "both backwards": (lambda v: (slice(5, None, -2), slice(None, None, -1)), lambda v: rows(v, 3)),
    "a new axis": (lambda v: (None, slice(0, 5), 2), lambda v: rows(v, 5)[:, 0][None]),
    "an ellipsis": (lambda v: (..., 1), lambda v: x(v)[:, 0]),
    "nothing": (lambda v: slice(3, 3), lambda v: 1.0),
    "all": (lambda v: ..., lambda v: x(v)[0]),
    "numbers": (lambda v: IDS, lambda v: rows(v, 5)),
    "numbers of the library": (lambda v: own(v, IDS), lambda v: rows(v, 5)),
    "numbers, one value": (lambda v: IDS, lambda v: 7.0),
    "a list": (lambda v: [0, 3], lambda v: rows(v, 2)),
    "an outer index": (lambda v: (IDS[:, None], np.array([0, 2])), lambda v: rows(v, 5)[:, :2]),
    "numbers and a slice": (lambda v: (IDS, slice(1, 3)), lambda v: rows(v, 5)[:, :2]),
    "columns": (lambda v: (slice(None), [0, -1]), lambda v: x(v)[:, :2]),
    "a mask": (mask, lambda v: -1.0),
    "a mask of rows": (lambda v: mask(v)[:, 0], lambda v: -2.0),
    "a mask, values": (mask, lambda v: np.arange(mask(v).sum(), dtype="float32")),
    "a mask of the library": (lambda v: own(v, mask(v)), lambda v: -1.0),
    "a mask of rows, values": (lambda v: np.arange(v.shape[0]) % 3 == 0, lambda v: rows(v, -(-v.shape[0] // 3))),
    "a mask of its own value": (lambda v: v.value > 3, lambda v: -1.0),
}


def programs() -> dict[str, Program]:
    found = dict(WHOLE)
    for name in OPERATORS:
        found |= {name: partial(in_place, name, x), f"{name} a number": partial(in_place, name, lambda v: 2.0)}
    found |= {f"[{name}]": partial(set_item, *item) for name, item in ITEMS.items()}
    for operation, name in itertools.product(AT, ("a row", "a slice", "numbers", "a mask of rows", "an outer index")):
        found[f"at[{name}].{operation}"] = partial(at, operation, *ITEMS[name])
    return found


def part_of(whole: Any, mesh: Any, placements: Any) -> Any:
    """The block of this process, as torch says."""
    sizes, offsets = compute_local_shape_and_global_offset(torch.Size(whole.shape), mesh, placements)
    return whole[tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))]


def check(program: Program, shape: tuple[int, int], mesh: Any, placements: Any, held: bool) -> None:
    first = TABLE[: shape[0], : shape[1]]
    expected = sv.Variable(first, backend="numpy")
    v = sv.Variable(first, backend="torch", sharding=(mesh, placements), name="w")
    parameter = v._handle.parameter  # which `v.parameter` would lend, so that reads copy
    before: Any = v.value if held else None
    kept = before.to_local().detach().clone() if held else torch.empty(0)
    program(expected)
    program(v)
    found = v.value.to_local().detach().numpy()
    np.testing.assert_allclose(found, part_of(expected.numpy(), mesh, placements), rtol=1e-5, atol=1e-6)
    assert (v.version, v.shape, v.sharding.placements) == (expected.version, shape, placements)
    assert v._handle.parameter is parameter
    assert before is None or torch.equal(before.to_local(), kept)


def check_all_are_known() -> None:
    public = {name for name in dir(type(sv.Variable(0.0).at[...])) if not name.startswith("_")}
    assert public == set(AT), public
    in_place = {name for name in dir(operator) if name.startswith("i") and hasattr(sv.Variable, f"__{name}__")}
    assert in_place - {"index", "invert", "inv"} == {*OPERATORS, *OF_INTEGERS, *COMMUNICATES}, in_place


def check_dtypes(mesh: Any) -> None:
    """The dtypes that torch computes with only on the host, and the operators that only some dtypes have."""
    placements = (Shard(0), Shard(1))
    numbers = np.arange(35).reshape(7, 5) % 5 + 1
    for dtype in ("int32", "uint16", "int8", "bfloat16", "float16", "complex64", "bool"):
        names = OF_INTEGERS
        if dtype in ("bfloat16", "float16", "complex64", "bool"):
            names = ("iand", "ior", "ixor") if dtype == "bool" else ("iadd", "imul")
        first = numbers > 3 if dtype == "bool" else numbers
        expected = sv.Variable(first, dtype=dtype, backend="numpy")
        v = sv.Variable(first, dtype=dtype, backend="torch", sharding=(mesh, placements))
        for each in (expected, v):
            for name in names:
                getattr(operator, name)(each, first[:1])
            each[IDS] = first[1]
            each[1:5] = first[0]
        host = sv.Variable(v.value.to_local()).numpy()
        np.testing.assert_array_equal(host, part_of(expected.numpy(), mesh, placements), err_msg=dtype)


def check_in_place(mesh: Any) -> None:
    """A write takes no new memory if nobody has the old value."""
    v = sv.Variable(TABLE, backend="torch", sharding=(mesh, [Shard(0), Shard(1)]))
    address = v.value.to_local().data_ptr()
    for write in (lambda: v.assign_add(1.0), lambda: v.assign(TABLE), lambda: v.__setitem__(0, 1.0)):
        write()
        assert v.value.to_local().data_ptr() == address
    held = v.value
    v.assign_add(1.0)
    assert v.value.to_local().data_ptr() != held.to_local().data_ptr() == address


def check_threads(mesh: Any) -> None:
    """No write is lost, and no reader sees half a write, whether or not user code has the parameter."""
    for lent in (False, True):
        v = sv.Variable(np.zeros((64, 8), "float32"), backend="torch", sharding=(mesh, [Shard(0), Shard(1)]))
        if lent:
            v.parameter.grad = None
        torn: list[Any] = []

        def write(v: sv.Variable = v) -> None:
            for _ in range(50):
                v.assign_add(1.0)
                v.at[:].add(1.0)

        def read(v: sv.Variable = v, torn: list[Any] = torn) -> None:
            for _ in range(200):
                part = v.value.to_local().detach()
                if part.min() != part.max():
                    torn.append(part)

        threads = [threading.Thread(target=each) for each in (write, write, write, read, read)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert not torn
        assert v.version == 300
        assert bool((v.value.to_local() == 300).all())


def check_first(grid: Any) -> None:
    """Of all processes that have a part, one saves it, also where several meshes lie beside each other in one."""
    for mesh, placements, expected in (
        (grid, (Shard(0), Shard(1)), True),
        (grid, (Shard(0), Replicate()), False),
        (grid["data"], (Shard(0),), False),
        (grid["model"], (Shard(0),), False),
    ):
        v = sv.Variable(np.ones((4, 6)), sharding=(mesh, placements), backend="torch")
        assert {each.first for each in v._backend.pieces(v.value)} == {expected}  # type: ignore[attr-defined]


def main(rank: int) -> None:
    dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())
    line, grid = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
    places: list[tuple[Any, tuple[Any, ...]]] = [
        (line, (Shard(0),)),
        (line, (Shard(1),)),
        (line, (Replicate(),)),
        (grid, (Shard(0), Shard(1))),
        (grid, (Shard(1), Shard(0))),
        (grid, (Shard(0), Shard(0))),
        (grid, (Replicate(), Shard(0))),
    ]
    wrong = []
    cases = itertools.product(programs().items(), places, [(7, 5), (6, 3)])
    for number, ((name, program), place, shape) in enumerate(cases):
        held = number % 3 == 0
        try:
            check(program, shape, place[0], place[1], held)
        except Exception as error:  # noqa: BLE001  # all that are wrong are told together
            wrong.append(f"{name}, {shape} as {place[1]}, held={held}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join([f"{len(wrong)} are wrong", *wrong[:5]])
    check_all_are_known()
    check_dtypes(grid)
    check_in_place(grid)
    check_threads(grid)
    check_first(grid)
    print(f"{len(programs())} programs")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]))
