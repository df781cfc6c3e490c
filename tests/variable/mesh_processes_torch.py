"""A program for `test_sharding_torch`, on two processes: what communicates, and what must not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

import statevar as sv
from tests.variable import mesh_modules_torch
from tests.variable.mesh_torch import (
    GRID,
    LINE,
    PLACES,
    TABLE,
    both,
    refused,
    remove,
    same,
    shared_folder,
    spread,
    whole,
)


def operands() -> None:
    """An operand over a mesh, in any placement, is moved to that of the variable."""
    halves = DTensor.from_local(torch.tensor(TABLE) / 2, LINE, [Partial()], run_check=False)
    given = [spread(TABLE, mesh, placements) for mesh, placements in PLACES]
    for mesh, placements in PLACES:
        v, expected = both(mesh, placements)
        x: Any
        y: Any
        for x in [*given, halves, sv.Variable(given[0])]:
            for each, y in ((v, x), (expected, TABLE)):
                each.assign_add(y)
                each._apply("multiply", y)
                each[1:5] = y[1:5]
            same(v, expected)
            same(v.assign(x), expected.assign(TABLE))
            assert v.sharding == (mesh, placements)
        row, ids = spread(TABLE[0]), spread(np.array([3, 1, 3, 6]))
        for each, x, numbers in ((v, row, ids), (expected, TABLE[0], ids.full_tensor())):
            each.assign_sub(x)
            each[2] = x
            each.at[numbers].add(1.0)
            each[each.value > 3] = -1.0
            count = int(whole(each.value < 0).sum())
            each[each.value < 0] = np.arange(count, dtype="float32")
            mean = each.value.mean()  # over the mesh, a part of a sum
            each.assign_sub(mean)
            each[each.value > 1] = mean
            each.at[3].add(mean)
        same(v, expected)
        square, expected = both(mesh, placements, TABLE[:5])
        for each in (square, expected):
            each._apply("matmul", TABLE[2:])
        same(square, expected)
        assert v.sharding == square.sharding == (mesh, placements)


def numbers_out_of_range() -> None:
    """Where an operand is refused, every process refuses it."""
    v, _ = both(LINE, (Shard(0),))
    same(v.assign(spread(TABLE.astype("float64"))), TABLE)
    large = spread(np.where(TABLE > 4, 1e300, 0.0))  # in the part of one process only
    refused(lambda: v.assign(large), sv.errors.RangeError, "out of the range of float32")
    counts = sv.Variable(np.arange(7, dtype="int32"), backend="torch", sharding=("data",), mesh=LINE)
    zero = spread(np.array([1, 1, 1, 1, 1, 1, 0], "int32"))
    refused(lambda: counts.__ifloordiv__(zero), sv.errors.DivisionError, "by zero")
    assert v.version == 1
    assert counts.version == 0


def shapes() -> None:
    """A value of another shape: the parameter stays the same object."""
    for mesh, placements in PLACES:
        v = sv.Variable(TABLE, shape=(None, 5), backend="torch", sharding=(mesh, placements))
        parameter = v.parameter
        for count in (4, 7, 1):
            v.assign(TABLE[:count])
            same(v, TABLE[:count])
            with sv.transaction():
                v.assign(spread(TABLE[: count + 1]))
            same(v, TABLE[: count + 1])
            assert v.parameter is parameter
            assert parameter.shape == v.shape
            same(parameter, v)
            (v.value**2).sum().backward()
            same(parameter.grad, 2 * TABLE[: count + 1])


def creation() -> None:
    for late in (TABLE, spread(TABLE, LINE, (Shard(1),))):
        v = sv.Variable(shape=(7, 5), dtype="float32", backend="torch", sharding=("data", None), mesh=LINE)
        same(v.assign(late), TABLE)
        assert v.sharding.placements == (Shard(0),)
    for axes in (("data",), (None, "data"), (), ((), ("data",))):
        with sv.mesh(LINE):
            v = sv.Variable("glorot_uniform", shape=(7, 5), seed=3, backend="torch", sharding=axes)
        same(v, sv.Variable("glorot_uniform", shape=(7, 5), seed=3, backend="torch"))
    v = sv.Variable(TABLE, backend="torch", sharding=(("data", "model"),), mesh=GRID)
    assert v.sharding.placements == (Shard(0), Shard(0))
    followed = sv.Variable(spread(TABLE, LINE, (Shard(1),)))
    assert followed.sharding == (LINE, (Shard(1),))
    parts = sv.Variable(DTensor.from_local(torch.ones(3), LINE, [Partial()], run_check=False))
    assert parts.numpy().tolist() == [2, 2, 2]

    def asked(sharding: Any, mesh: Any = LINE) -> Callable[[], object]:
        return lambda: sv.Variable(TABLE, backend="torch", sharding=sharding, mesh=mesh, name="w")

    for sharding, mesh, problem in (
        (("rows",), LINE, "the mesh has no axis 'rows': its axes are 'data'"),
        ((None, None, "data"), LINE, "it has no axis 2 to cut over the mesh axis 'data', at 'w'"),
        (("data",), None, "there is no mesh, and torch needs a DeviceMesh"),
        (("data", "data"), LINE, "the mesh axis 'data' is named for two axes of the value"),
        ((("model", "data"),), GRID, "Hint: write ('data', 'model')"),
        ([Shard(0)], GRID, "expected one placement for each of the 2 axes of the mesh, got 1"),
        ([Partial()], LINE, "a value cannot be stored as the parts of a sum"),
    ):
        refused(asked(sharding, mesh), sv.errors.ShardingError, problem)


INDICES = (
    0,
    (1, 2),
    slice(1, 6),
    (slice(None), 1),
    (slice(0, 7, 2), slice(1, 3)),
    slice(None, None, -1),
    (..., None, 2),
    np.array([0, 6, 0]),
    TABLE > 2,
    ([0, 1], slice(1, 3)),
)


def reads() -> None:
    plain = sv.Variable(TABLE, backend="torch")
    tensor: Any = torch.tensor(TABLE)
    for mesh, placements in PLACES:
        v: Any = both(mesh, placements)[0]
        for index in INDICES:
            same(v[index], TABLE[index])
        for found, expected in (
            (v + 1, TABLE + 1),
            (2 * v, 2 * TABLE),
            (v + TABLE, 2 * TABLE),
            (v * tensor, TABLE**2),
            (tensor - v, 0 * TABLE),
            (v @ TABLE.T, TABLE @ TABLE.T),
            (v + v, 2 * TABLE),
            (v + plain, 2 * TABLE),
            (plain + v, 2 * TABLE),
            (v - TABLE[0].tolist(), TABLE - TABLE[0]),
            (v > 2, TABLE > 2),
            (torch.sin(v), np.sin(TABLE)),
            (torch.add(tensor, v), 2 * TABLE),
            (round(v, 1), np.round(TABLE, 1)),
            (v.value.sum(), TABLE.sum()),
        ):
            same(found, expected, 2e-5)
        for copied in (sv.Variable(v), copy.copy(v), copy.deepcopy(v)):
            assert copied.sharding == v.sharding
            same(copied.assign_add(1.0), TABLE + 1)
            same(v, TABLE)


def nothing_communicates_unnamed() -> None:
    """Only one process does it: were it a collective, it would hang."""
    v, _ = both(LINE, (Shard(0),))
    copies, _ = both(LINE, (Replicate(),))
    count = sv.Variable(3, backend="torch", mesh=LINE)
    if dist.get_rank() == 0:
        for read in (v.numpy, v.tolist, lambda: np.asarray(v), v.edit().__enter__, lambda: np.sin(v)):
            refused(read, sv.errors.NotAddressableError, "only a part of the value", "sv.gather(v), on every process")
        assert "DTensor" not in repr(v)
        assert copies.numpy().tolist() == TABLE.tolist()
        assert np.sin(copies).shape == TABLE.shape
        with sv.rollback(copies), copies.edit() as array:
            array[0] = 9.0
        v[0] = 3.0
        v.assign_add(TABLE).assign(TABLE)
        v.at[[1, 6]].add(1.0)
        assert count.numpy() == int(count) == 3
        with sv.rollback(count):
            count += 1
            assert int(count) == 4
        refused(partial(pickle.dumps, v), sv.errors.NotAddressableError, "only a part of the value")
        assert pickle.loads(pickle.dumps(copies)).numpy().tolist() == TABLE.tolist()
    dist.barrier()


def files() -> None:
    """Every process calls the save and the load of a file; the sharding may be another one then."""
    folder = shared_folder()
    path = f"{folder}/model.safetensors"
    sv.save({"w": both(LINE, (Shard(1),))[0]}, path)
    for mesh, placements in PLACES:
        v, _ = both(mesh, placements, TABLE * 0)
        before = v.value
        sv.load({"w": v}, path)
        same(v, TABLE)
        same(before, TABLE * 0)
        assert v.sharding == (mesh, placements)
        v.assign_add(1.0)
        sv.load({"w": v}, path)
        same(v, TABLE)
    remove(folder)


def gradients() -> None:
    for mesh, placements in PLACES:
        v, expected = both(mesh, placements)
        x = torch.tensor(TABLE) + 1

        def loss(w: Any, x: Any) -> Any:
            w.assign_add(x)
            w[1:3] = x[0] * 2
            w.at[[0, 0]].add(1.0)
            return (w.value * w.value).sum()

        for _ in range(2):
            found, given = (sv.value_and_grad(partial(loss, w), [w])(x) for w in (v, expected))
            same(found[0], given[0])
            same(found[1][0], given[1][0])
            same(v, expected)
            assert found[1][0].placements == placements == v.sharding.placements
            for w, gradient in ((v, found[1][0]), (expected, given[1][0])):
                w.assign_sub(gradient * 0.1)
            same(v, expected)
        with sv.GradientTape() as tape:
            y = tape.watch(x)
            target = (v * y * v).sum() + v[1].sum()
        with sv.GradientTape() as other:
            z = other.watch(x)
            goal = (expected * z * expected).sum() + expected[1].sum()
        for one, two in zip(tape.gradient(target, [v, y]), other.gradient(goal, [expected, z]), strict=True):
            same(one, two)


def optimizers() -> None:
    """An optimizer of torch writes the parameter: the variable has the new value, and no snapshot changes."""
    for mesh, placements in PLACES:
        v, expected = both(mesh, placements)
        for make in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
            pairs = [(w, make([w.parameter], lr=0.1)) for w in (v, expected)]
            for _ in range(2):
                before, version = v.value, v.version
                kept = before.to_local().detach().clone()
                for w, optimizer in pairs:
                    optimizer.zero_grad()
                    ((w.value - 1) ** 2).sum().backward()
                    optimizer.step()
                    w.assign_add(0.5)
                assert torch.equal(before.to_local(), kept)
                assert v.version > version + 1
        same(v, expected, 1e-4)
        with torch.inference_mode():
            for w in (v, expected):
                w.assign_add(1.0)
                w[0] = 1.0
        same(v, expected, 1e-4)
        (v.value**2).sum().backward()  # what was written in inference mode can be trained


def sections() -> Iterator[Callable[[], None]]:
    yield from (operands, numbers_out_of_range, shapes, creation, reads, nothing_communicates_unnamed)
    yield from (files, gradients, optimizers)
    yield from mesh_modules_torch.SECTIONS


if __name__ == "__main__":
    torch.set_num_threads(1)
    for section in sections():
        section()
        print(section.__name__, flush=True)
    dist.destroy_process_group()
