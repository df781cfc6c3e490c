"""A value that JAX has destroyed: in a compiled program that failed, or because the user donated it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import assert_free
from tests.helpers import assert_same

jax = pytest.importorskip("jax")
jnp = jax.numpy

USES: dict[str, Callable[[sv.Variable, Path], object]] = {
    "value": lambda v, _: v.value,
    "snapshot": lambda v, _: sv.snapshot([v]),
    "pickle": lambda v, _: pickle.dumps(v),
    "deepcopy": lambda v, _: copy.deepcopy(v),
    "read in a transaction": lambda v, _: _in_transaction(lambda: v.value),
    "write in a transaction": lambda v, _: _in_transaction(lambda: v.assign_add(1.0)),
    "read in a scope": lambda v, _: _in_scope(lambda: v.value),
    "functionalize": lambda v, _: sv.functionalize(lambda: v.value, [v])([v.value]),
    "method": lambda v, _: v.sum(),
    "namespace": lambda v, _: v.__array_namespace__().sum(v),
    "pytree": lambda v, _: jax.jit(lambda v: v * 2)(v),
    "numpy": lambda v, _: v.numpy(),
    "asarray": lambda v, _: np.asarray(v),
    "operator": lambda v, _: v + 1.0,
    "reflected operator": lambda v, _: 1.0 - v,
    "jnp": lambda v, _: jnp.sin(v),
    "item": lambda v, _: v[0],
    "assign_add": lambda v, _: v.assign_add(1.0),
    "setitem": lambda v, _: v.__setitem__(0, 1.0),
    "update": lambda v, _: v.update(lambda a: a + 1),
    "save": lambda v, folder: sv.save({"v": v}, folder / "x.safetensors"),
    "jit that writes": lambda v, _: sv.jit(lambda: v.assign_add(1.0).value)(),
    "jit that reads": lambda v, _: sv.jit(lambda: v.value * 2)(),
    "grad": lambda v, _: sv.grad(lambda: (v.value**2).sum(), v)(),
}


def _in_transaction(use: Callable[[], object]) -> None:
    with sv.transaction():
        use()


def _in_scope(use: Callable[[], object]) -> None:
    with sv.StatelessScope():
        use()


@pytest.mark.parametrize("use", USES)
def test_the_user_has_donated_it(use: str, tmp_path: Path) -> None:
    """It was a raw "Array has been deleted"."""
    v = sv.Variable(jnp.arange(4.0), name="w")
    jax.jit(lambda a: a * 2, donate_argnums=0)(v.value)
    with pytest.raises(
        sv.errors.UninitializedError,
        match="(?s)^[^:]*: the array of the variable was donated or deleted .*, at '[vw]'. Hint: assign a value; ",
    ):
        USES[use](v, tmp_path)
    assert not list(tmp_path.iterdir())
    assert "unavailable" in repr(v)
    assert_same(v.assign([1.0, 2.0, 3.0, 4.0]), [1.0, 2.0, 3.0, 4.0])
    USES[use](v, tmp_path)
    assert_free(v)


@pytest.mark.parametrize("use", [use for use in USES if use != "setitem"])
def test_a_donated_step_has_failed(use: str, tmp_path: Path) -> None:
    """The text was "has no value yet", and a file was saved without the tensor."""
    v = sv.Variable(jnp.arange(4.0), name="w")

    def fail(x: Any) -> Any:
        raise ValueError("boom")

    def step() -> None:
        v.assign_add(jax.pure_callback(fail, jax.ShapeDtypeStruct((), "float32"), v.value[0]))

    try:
        sv.jit(step)()
        jax.block_until_ready(v.value)
    except Exception:  # noqa: BLE001  # of JAX
        pass
    if v.is_initialized:
        pytest.skip("this JAX tells of it later, so the value that could not be computed is there")
    with pytest.raises(
        sv.errors.UninitializedError,
        match="(?s)^[^:]*: the value was lost: a compiled program had .*, at '[vw]'. Hint: .*donate=False",
    ):
        USES[use](v, tmp_path)
    assert not list(tmp_path.iterdir())
    assert_same(v.assign([1.0, 2.0, 3.0, 4.0]), [1.0, 2.0, 3.0, 4.0])
    USES[use](v, tmp_path)


def test_a_variable_without_a_value_is_told_apart() -> None:
    v = sv.Variable(shape=(2,), dtype="float32", backend="jax", name="w")
    with pytest.raises(sv.errors.UninitializedError, match="^read: the variable has no value yet, at 'w'. Hint: "):
        v.value  # noqa: B018
