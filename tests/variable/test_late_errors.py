"""A value that JAX failed to compute after the write had returned: nothing is lost in silence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import PATIENCE, assert_same, until
from tests.internals import engine

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
pytestmark = pytest.mark.host  # it stands in for a device


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """JAX logs the error of a callback."""
    logger = logging.getLogger("jax")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def _fails(_: Any) -> Any:
    raise ValueError("out of something")


def failing() -> Any:
    """An array that is still being computed, and will fail."""
    x = jnp.ones((600, 600))
    slow = jax.jit(lambda a: jax.lax.fori_loop(0, 30, lambda _, b: jnp.tanh(b @ b * 1e-3) + 1, a))
    fail = jax.jit(lambda a: jax.pure_callback(_fails, jax.ShapeDtypeStruct((4,), np.float32), a)).lower(x).compile()
    slow(x).block_until_ready()
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            return fail(slow(x))
        except jax.errors.JaxRuntimeError:  # the machine is so busy that `slow` has ended before: once more
            continue
    raise AssertionError("JAX never computed behind our back")


MESSAGE = (
    r"{}: jax reports that the value which was last written could not be computed \(.*out of something.*\), at 'w'. "
    r"Hint: assign a value that you still have"
)


def lost(v: sv.Variable) -> None:
    until(v._handle.array.is_ready)
    with pytest.raises(sv.errors.ComputationError, match=rf"(?s){MESSAGE.format('read')}") as caught:
        _ = v.value
    assert isinstance(caught.value.__cause__, jax.errors.JaxRuntimeError)
    assert isinstance(caught.value, RuntimeError)


def test_the_next_read_names_the_variable_and_a_snapshot_can_be_restored() -> None:
    v = sv.Variable(jnp.zeros(4), name="w")
    snapshot = sv.snapshot(v)
    v.assign_add(failing())
    lost(v)
    sv.restore(snapshot)
    assert_same(v, np.zeros(4))


@pytest.mark.parametrize("write", ["donated", "copied", "item", "assigned", "compiled"])
def test_whatever_the_write_was(write: str) -> None:
    v = sv.Variable(jnp.zeros(4), name="w")
    kept = v.value if write == "copied" else None
    if write == "donated":
        v.assign_add(1.0)
    step = sv.jit(lambda x: (v.assign_add(x), None)[1])
    step(jnp.zeros(4))
    bad = failing()
    if write == "item":
        v[1:3] = bad[1:3]
    elif write == "assigned":
        v.assign(bad)
    elif write == "compiled":
        step(bad)
    else:
        v.assign_add(bad)
    lost(v)
    v.assign([1.0, 2.0, 3.0, 4.0])
    assert_same(v.assign_add(1.0), [2, 3, 4, 5])
    del kept


def test_a_read_at_indices_names_the_variable() -> None:
    v = sv.Variable(jnp.zeros(4), name="w")
    v.assign_add(1.0)
    v.assign_add(failing())
    until(v._handle.array.is_ready)
    with pytest.raises(sv.errors.ComputationError, match=rf"(?s){MESSAGE.format('read')}"):
        _ = v[[0, 1]]
    v.assign(jnp.ones(4))
    assert_same(v[[0, 1]], np.ones(2))


def test_a_value_is_assigned_while_the_lost_one_is_still_being_computed() -> None:
    v = sv.Variable(jnp.zeros(4), name="w")
    v.assign_add(1.0)
    v.assign_add(failing())
    v.assign(jnp.ones(4))
    assert_same(v, np.ones(4))


def test_the_host_finds_it_too(tmp_path: Path) -> None:
    v = sv.Variable(jnp.zeros(4), name="w")
    v.assign_add(failing())
    value = v.value  # not known yet
    with pytest.raises(sv.errors.ComputationError, match=rf"(?s){MESSAGE.format('np.asarray')}"):
        v.numpy()
    with pytest.raises(sv.errors.ComputationError, match=rf"(?s){MESSAGE.format('save')}"):
        sv.save(v, tmp_path / "state.safetensors")
    assert not list(tmp_path.iterdir())
    del value


def test_a_write_waits_if_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    module = engine("jax_arrays")
    monkeypatch.setattr(module, "_LARGE", 4)
    monkeypatch.setattr(module, "_free_memory", lambda _: 31)  # less than two arrays of 16 bytes
    v = sv.Variable(jnp.zeros(4), name="w")
    kept = v.value
    writes: list[Callable[[Any], Any]] = [v.assign_add, v.assign, lambda x: v.at[:].add(x)]
    for write in writes:
        with pytest.raises(jax.errors.JaxRuntimeError, match="out of something"):
            write(failing())
        assert v.version == 0
        assert_same(v, np.zeros(4))
    monkeypatch.setattr(module, "_free_memory", lambda _: 32)
    v.assign_add(failing())
    assert v.version == 1
    del kept


def test_the_host_has_no_limit() -> None:
    assert engine("jax_arrays")._free_memory(jnp.zeros(4)) is None
