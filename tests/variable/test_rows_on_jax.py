"""Rows on JAX: what is compiled, and that no index is read after the write has returned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import address, assert_same
from tests.variable.memory_ways import aligned

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")

WRITES: dict[str, Callable[[sv.Variable, Any, Any], object]] = {
    "set": lambda v, index, x: v.__setitem__(index, x),
    "add": lambda v, index, x: v.at[index].add(x),
    "max": lambda v, index, x: v.at[index].max(x),
    "divide": lambda v, index, x: v.at[index].divide(x),
    "set columns": lambda v, index, x: v.__setitem__((slice(None), index), np.asarray(x).T),
    "one number": lambda v, index, x: v.at[index].add(2.0),
}


@contextmanager
def compiled(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The messages of JAX about what it compiles in the block."""
    found: list[str] = []
    caplog.clear()
    with caplog.at_level(logging.WARNING, "jax"), jax.log_compiles():
        yield found
    found += [each.getMessage() for each in caplog.records if each.getMessage().startswith("Compiling")]


@pytest.mark.parametrize("own", [False, True], ids=["numpy", "jax"])
@pytest.mark.parametrize("write", WRITES)
def test_no_program_for_each_number_of_indices(write: str, own: bool, caplog: pytest.LogCaptureFixture) -> None:
    v, model = (sv.Variable(np.ones((9, 9), "float32"), backend=each) for each in ("jax", "numpy"))
    give = jnp.asarray if own else np.asarray
    messages: dict[int, list[str]] = {}
    for number in (8, 5, 6, 7):
        ids = np.arange(number, dtype="int32")
        if write != "divide":  # which has a turn for each time that a row is there
            ids = ids % 5 - 1  # some are there twice, one counts from the end
        x = np.arange(1, number * 9 + 1, dtype="float32").reshape(number, 9)
        given = give(ids), give(x)
        if number == 8:
            WRITES[write](v, *given)  # compiles
        with compiled(caplog) as messages[number]:
            WRITES[write](v, *given)
    assert not any(messages.values()), messages
    for each in (v, model):
        each.assign(np.ones((9, 9), "float32"))
        WRITES[write](each, ids, x)
    assert_same(v, model.numpy(), rtol=1e-6)


def test_jax_would_tell_what_it_compiles(caplog: pytest.LogCaptureFixture) -> None:
    with compiled(caplog) as messages:
        jax.jit(lambda x: x * 3 + 2)(jnp.ones(17)).block_until_ready()
    assert messages


def slowly(x: Any) -> Any:
    """The same array, still being computed."""
    return jax.jit(lambda a: jax.lax.fori_loop(0, 60, lambda _, b: jnp.abs(jnp.tanh(b) * 0 + a), a))(x)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", ["mask", "mask of jax", "ids", "ids of jax", "x"])
def test_nothing_is_read_after_the_write(kind: str, held: bool) -> None:
    size = 300_000
    v = sv.Variable(jnp.zeros(size))
    v.assign_add(slowly(jnp.ones(size)))
    kept = v.value if held else None
    memory = aligned("int32", (8,))  # twos, which JAX shares without a copy
    mask = aligned("int32", (size,)).view(np.uint8)[:size].view(np.bool_)
    mask[:] = False
    mask[2] = True
    if kind.startswith("mask"):
        v[jnp.asarray(mask) if kind == "mask of jax" else mask] = 5.0
    elif kind == "x":
        v.at[[0, 1, 2, 3, 4, 5, 6, 7]].set(jnp.asarray(memory).astype("float32") + 3.0)
    else:
        v[jnp.asarray(memory) if kind == "ids of jax" else memory] = 5.0
    mask[:] = True
    memory[:] = 3
    expected = np.ones(size, "float32")
    expected[: 8 if kind == "x" else 3] = 5.0
    if kind != "x":
        expected[:2] = 1.0
    assert_same(v, expected)
    if kept is not None:
        assert_same(kept, np.ones(size))


@pytest.mark.parametrize("held", [False, True])
def test_indices_are_not_read_after_a_read(held: bool) -> None:
    size = 300_000
    v = sv.Variable(jnp.arange(size))
    if not held:
        v.assign_add(slowly(jnp.ones(size)).astype("int32"))
    memory = aligned("int32", (8,))
    found = v[jnp.asarray(memory)]
    memory[:] = 3
    assert_same(found, np.full(8, 2 if held else 3))


@pytest.mark.parametrize(
    "index",
    [
        (slice(None), [2, 0, 2]),
        (..., [1, -1]),
        (slice(None), [1], slice(None)),
        ([0, 1], ..., slice(None)),
        (slice(None), [[0, 1], [2, 2]]),
        (slice(0, 1), [0, 1]),
        ([0, 1, 0], [2, 1, 2]),
        (1, [2, 0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("operation", ["set", "add", "divide"])
@pytest.mark.parametrize("given", ["numpy", "jax", "one number"])
def test_lines_along_any_axis(index: Any, operation: str, given: str) -> None:
    values = np.arange(24, dtype="float32").reshape(2, 3, 4)
    v, model = sv.Variable(values, backend="jax"), sv.Variable(values)
    x: Any = np.arange(1, values[index].size + 1, dtype="float32").reshape(values[index].shape)
    x = np.float32(2.0) if given == "one number" else x
    getattr(v.at[index], operation)(jnp.asarray(x) if given == "jax" else x)
    getattr(model.at[index], operation)(x)
    assert_same(v, model.numpy(), rtol=1e-6)
    assert_same(v[index], model.numpy()[index], rtol=1e-6)


def test_the_gradient_of_rows() -> None:
    v = sv.Variable(np.arange(6, dtype="float32").reshape(3, 2), backend="jax")
    ids = jnp.array([2, 0, 2, -1])
    for given in (ids, np.asarray(ids), ids.tolist()):
        gradient = sv.grad(lambda given=given: (v[given] * 2).sum(), [v])()[0]
        assert_same(gradient, [[2, 2], [0, 0], [6, 6]])


@pytest.mark.parametrize("index", [[0, 2], jnp.array([0, 2]), np.arange(9) % 2 == 0, (slice(None), [0, 2])], ids=str)
def test_a_read_at_indices_leaves_the_value_in_place(index: Any) -> None:
    """Only what somebody has must not be written; an array that JAX has handed out may always be in use."""
    model = np.arange(81, dtype="float32").reshape(9, 9)
    v = sv.Variable(model, backend="jax")
    at = np.asarray(index) if isinstance(index, jax.Array) else index
    v.at[[0]].add(0.0)
    place = address(v)
    for _ in range(3):
        before, found = model[at], v[index]
        v.at[[0, 2]].add(1.0)
        model[[0, 2]] += 1.0
        assert address(v) == place
        assert_same(found, before)
        assert_same(v[index], model[at])
    whole = v.value
    assert_same(v[index], model[at])
    v.at[[0]].add(1.0)
    assert address(v) != place, "somebody has the whole value"
    assert_same(whole, model)


def test_a_read_at_indices_waits_for_nothing_but_its_value() -> None:
    """It is the value before or after a write of another thread, and the value before it within an update."""
    v = sv.Variable(jnp.zeros(5))
    v.assign([1.0, 2.0, 3.0, 4.0, 5.0])
    v.update(lambda a: a + v[[0, 0, 0, 0, 0]])
    assert_same(v, [2, 3, 4, 5, 6])
    v.assign_add(1.0)
    with sv.transaction(v):
        v.assign_add(1.0)
        assert_same(v[[0, 4]], [4, 8])
    assert_same(sv.jit(lambda: v[[0, 4]])(), [4, 8])
    v.assign_add(1.0)
    assert_same(jax.vmap(lambda i: v[i])(jnp.arange(2)), [5, 6])
    with pytest.raises(sv.errors.TraceError, match="jax is tracing this code"):
        jax.jit(lambda: v[[0, 1]])()
    with pytest.raises(IndexError, match="index 5 is out of bounds"):
        _ = v[[5]]


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("count", [1, 2, 128, 300, 512])  # few and many, in a table of which JAX reads parts in threads
@pytest.mark.parametrize("operation", ["set", "add", "divide", "min"])
def test_rows_of_a_large_table(operation: str, count: int, repeated: bool) -> None:
    shape = (4000, 64)
    random = np.random.default_rng(count)
    ids = random.integers(0, max(1, count // 2), count) if repeated else random.choice(4000, count, replace=False)
    x = random.uniform(1.0, 2.0, (count, 64)).astype("float32")
    v, model = (sv.Variable(np.ones(shape, "float32"), backend=each) for each in ("jax", "numpy"))
    held = v.value
    for _ in range(2):  # the first one copies, and the second one is in place
        getattr(v.at[jnp.asarray(ids, "int32")], operation)(jnp.asarray(x))
        getattr(model.at[ids], operation)(x)
    assert_same(v[jnp.asarray(ids, "int32")], model.numpy()[ids], rtol=1e-5)
    assert_same(v, model.numpy(), rtol=1e-5)
    assert_same(held, np.ones(shape, "float32"))


@pytest.mark.parametrize("shape", [(1000, 64), (300, 7), (17,), (8, 64), (2048,), (64, 3, 5), (0, 4)], ids=str)
@pytest.mark.parametrize("operation", ["set", "add", "divide", "max"])
def test_masks_of_small_tables(operation: str, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    v, model = (sv.Variable(np.ones(shape, "float32"), backend=each) for each in ("jax", "numpy"))
    for of in (shape, shape[:1]):
        mask = random.random(of) < 0.3
        for given in (mask, jnp.asarray(mask)):
            getattr(v.at[given], operation)(3.0)
            getattr(model.at[mask], operation)(3.0)
            assert_same(v, model.numpy(), rtol=1e-6)


@pytest.mark.own_process  # since JAX itself ends the process when it is asked where such an array is
@pytest.mark.parametrize("index", [[0, 1], [0, 1, 1], [-1, 2], [True, False, False, False]], ids=str)
def test_a_destroyed_index_or_operand_is_an_error_and_changes_nothing(index: Any) -> None:
    v = sv.Variable(np.zeros((4, 2), "float32"), backend="jax")
    gone: Any = jnp.array(index)
    ones: Callable[..., Any] = jnp.ones
    x = ones(np.zeros((4, 2))[np.array(index)].shape)
    x.delete()
    for write in (WRITES["set"], WRITES["add"], WRITES["divide"]):
        with pytest.raises(RuntimeError, match="deleted"):
            write(v, jnp.array(index), x)
    gone.delete()
    for change in WRITES.values():
        with pytest.raises(RuntimeError, match="deleted"):
            change(v, gone, np.float32(1))
    with pytest.raises(RuntimeError, match="deleted"):
        v[gone]
    assert_same(v, np.zeros((4, 2)))
    assert v.version == 0
