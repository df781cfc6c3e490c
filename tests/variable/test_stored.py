"""What code outside does to a stored value is followed or refused: its dtype, shape, memory and version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same

#: Whatever reads or writes a variable.
USES: dict[str, Any] = {
    "read": lambda v: v.value,
    "v[0]": lambda v: v[0],
    "numpy": lambda v: v.numpy(),
    "snapshot": lambda v: sv.snapshot(v)["w"],
    "assign": lambda v: v.assign(np.zeros(4)),
    "assign_add": lambda v: v.assign_add(1.0),
    "setitem": lambda v: v.__setitem__(0, 1.0),
    "update": lambda v: v.update(lambda a: a),
    "edit": lambda v: v.edit().__enter__(),
    "batch_set_value": lambda v: sv.batch_set_value([(sv.Variable(0.0), 1.0), (v, np.zeros(4))]),
}


def in_transaction(use: Any) -> Any:
    def run(v: sv.Variable) -> None:
        with sv.transaction(v):
            use(v)

    return run


def save_and_load(v: sv.Variable, folder: Path) -> sv.Variable:
    sv.save({"w": v}, folder / "f")
    other = sv.Variable(np.full(v.shape, 9), dtype=v.dtype_name)
    sv.load({"w": other}, folder / "f")
    return other


def module_of(parameter: Any) -> Any:
    torch = pytest.importorskip("torch")
    module = torch.nn.Module()
    module.p = parameter
    return module


CASTS: dict[str, tuple[Any, str]] = {
    "p.data = p.data.half()": (lambda module: setattr(module.p, "data", module.p.data.half()), "float16"),
    "half": (lambda module: module.half(), "float16"),
    "double": (lambda module: module.double(), "float64"),
    "to": (lambda module: module.to(pytest.importorskip("torch").bfloat16), "bfloat16"),
}


@pytest.mark.parametrize("use", [*USES, "save", "a transaction"])
@pytest.mark.parametrize("cast", CASTS)
def test_a_parameter_of_another_dtype_is_refused(cast: str, use: str, tmp_path: Path) -> None:
    v = sv.Variable([1.0, 2.0, 3.0, 4.0], backend="torch", name="w")
    module = module_of(v.parameter)
    change, dtype = CASTS[cast]
    change(module)
    uses = USES | {"save": lambda v: save_and_load(v, tmp_path), "a transaction": in_transaction(USES["assign_add"])}
    problem = (
        f"code outside has changed the value to {dtype}, and the variable is float32, at 'w'. Hint: set v.parameter"
    )
    with pytest.raises(sv.errors.DTypeError, match=re.escape(problem)):
        uses[use](v)
    assert not list(tmp_path.iterdir()), "no file without the tensor"
    module.p.data = module.p.data.float()
    assert_same(v, [1.0, 2.0, 3.0, 4.0])
    uses[use](v)


@pytest.mark.slow
def test_a_compiled_program_does_not_use_a_parameter_of_another_dtype() -> None:
    pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch", name="w")
    program = sv.jit(lambda: v.value * 2)
    assert_same(program(), [2.0, 4.0])
    v.parameter.data = v.parameter.data.half()
    with pytest.raises(sv.errors.DTypeError, match="read: code outside has changed the value to float16"):
        program()


def resize(torch: Any, parameter: Any, length: int) -> None:
    parameter.data = torch.arange(float(length))


def put(torch: Any, parameter: Any, length: int) -> None:
    with torch.no_grad():
        parameter.set_(torch.arange(float(length)))


@pytest.mark.parametrize("change", [resize, put])
@pytest.mark.parametrize("use", USES)
def test_a_parameter_of_another_shape_is_refused_unless_it_is_declared(change: Any, use: str) -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0, 3.0, 4.0], backend="torch", name="w")
    change(torch, v.parameter, 5)
    problem = (
        r"code outside has changed the shape to \(5,\), and the declared shape is \(4,\), at 'w'. Hint: set v.param"
    )
    with pytest.raises(sv.errors.ShapeError, match=problem):
        USES[use](v)
    with pytest.raises(sv.errors.ShapeError, match=problem):
        _ = v.shape


def test_a_declared_shape_is_followed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable(torch.zeros(4), shape=(None,), name="w")
    parameter, version = v.parameter, v.version
    resize(torch, parameter, 5)
    assert v.shape == (5,)
    assert v.version > version
    v.assign_add(np.ones(5))
    assert_same(v, [1.0, 2.0, 3.0, 4.0, 5.0])
    resize(torch, parameter, 6)
    with sv.transaction(v):
        v[5] = 7.0
    assert_same(v, [0.0, 1.0, 2.0, 3.0, 4.0, 7.0])
    resize(torch, parameter, 3)
    assert_same(save_and_load(v, tmp_path), [0.0, 1.0, 2.0])
    assert v.parameter is parameter


def test_a_declared_shape_of_tensorflow_is_followed(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    v = sv.Variable(tf.zeros(4), shape=(None,), name="w")
    v.parameter.assign(tf.range(5.0))
    assert v.shape == (5,)
    v.assign_add(np.ones(5))
    assert_same(v, [1.0, 2.0, 3.0, 4.0, 5.0])
    v.parameter.assign(tf.range(3.0))
    assert_same(save_and_load(v, tmp_path), [0.0, 1.0, 2.0])


@pytest.mark.parametrize("use", USES)
def test_freed_memory_is_refused(use: str) -> None:
    pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0, 3.0, 4.0], backend="torch", name="w")
    v.parameter.untyped_storage().resize_(0)
    with pytest.raises(sv.errors.DeviceError, match="code outside has freed the memory of the parameter, at 'w'. Hint"):
        USES[use](v)


def test_a_module_on_the_meta_device_is_refused() -> None:
    pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch", name="w")
    module = module_of(v.parameter)
    module.to("meta")
    with pytest.raises(
        sv.errors.DeviceError, match="Module.p was the parameter of a variable, and is a parameter on the"
    ):
        v.assign_add(1.0)


def test_two_parameters_may_share_memory() -> None:
    pytest.importorskip("torch")
    v, w = (sv.Variable([1.0, 2.0], backend="torch") for _ in range(2))
    v.parameter.data = w.parameter.data
    v.assign_add(1.0)
    assert_same(v, [2.0, 3.0])
    assert_same(w, [1.0, 2.0])
    w.parameter.data = v.parameter.data
    w.assign([7.0, 7.0])
    assert_same(v, [2.0, 3.0])
    assert_same(w, [7.0, 7.0])


def test_tensors_that_are_swapped_are_followed_or_refused() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    other = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="weakref"):
        torch.utils.swap_tensors(v.parameter, other)
    assert_same(v, [1.0, 2.0])


def test_a_version_never_goes_back() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    parameter = v.parameter
    versions = [v.version]
    for step in range(4):
        with torch.no_grad():
            parameter.add_(1.0)
            parameter.mul_(2.0)
        versions.append(v.version)
        parameter.data = parameter.data.clone()
        versions.append(v.version)
        (v.assign_add(1.0), v.assign([1.0, 2.0]), v.assign([3.0, 4.0], validate_shape=False), v.at[0].add(1.0))
        with sv.transaction(v):
            v.assign_add(step)
        versions.append(v.version)
    assert versions == sorted(set(versions))
    assert versions[-1] == 4 * (2 + 1 + 5)


def test_a_version_counts_the_writes_of_compiled_code() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    add = torch.compile(lambda x: (v.assign_add(x), x)[1], backend="eager")
    for _ in range(3):
        add(torch.ones(2))
    assert v.version == 3
    v.assign_add(1.0)
    assert v.version == 4
    add(torch.ones(2))
    v.assign([0.0, 0.0], validate_shape=False)
    assert v.version == 6


WIDE = ("float64", "int64", "uint64", "complex128")


def in_scope(use: Any) -> Any:
    def run(v: sv.Variable) -> None:
        with sv.StatelessScope():
            use(v)

    return run


WRITES = {name: USES[name] for name in ("assign", "assign_add", "setitem", "update", "edit", "batch_set_value")}


@pytest.mark.parametrize(
    "write", [*WRITES, "at", "a first write", "a transaction", "use_locking=False", "a scope", "jit"]
)
@pytest.mark.parametrize("dtype", WIDE)
def test_64_bits_are_not_lost_on_jax(dtype: str, write: str, tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    first = write == "a first write"
    with jax.enable_x64(True):
        v = sv.Variable(None if first else np.arange(4), shape=(4,), dtype=dtype, backend="jax", name="w")
    writes = WRITES | {
        "at": lambda v: v.at[0].add(1),
        "a first write": lambda v: v.assign([0, 1, 2, 3]),
        "a transaction": in_transaction(lambda v: v.assign_add(1)),
        "a scope": in_scope(lambda v: v.assign_add(1)),
        "jit": lambda v: sv.jit(lambda: (v.assign_add(1), None)[1])(),
        "use_locking=False": lambda v: v.assign_add(1, use_locking=False),
    }
    problem = "the variable was made with 64 bits enabled, and now JAX would store .* and not " + dtype
    x = np.arange(4) if write == "assign" else None
    with pytest.raises(sv.errors.DTypeError, match=f"{problem}, at 'w'. Hint: write it in `with jax.enable_x64"):
        v.assign(x) if x is not None else writes[write](v)
    assert v.version == 0
    if not first:
        assert v.value.dtype == dtype
        assert_same(save_and_load(v, tmp_path), np.arange(4))
    with jax.enable_x64(True):
        v.assign(np.full(4, 2))
        v.assign_add(1)
    assert v.value.dtype == dtype
    assert_same(v, np.full(4, 3))


@pytest.mark.parametrize("use", USES)
def test_the_default_dtype_of_torch_changes_nothing(use: str) -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0, 3.0, 4.0], backend="torch", name="w")
    torch.set_default_dtype(torch.float64)
    try:
        w = sv.Variable([1.0, 2.0, 3.0, 4.0], backend="torch", name="w")
        for each in (v, w):
            USES[use](each)
            each.assign_add(1).assign_sub(2.0)
            each.update(lambda a: a / 2)
            assert each.value.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
