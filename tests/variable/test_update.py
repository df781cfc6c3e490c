"""`update` and `edit`: read, change and write in one step that nobody comes between."""

from __future__ import annotations

import threading
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import PATIENCE, address, array_of, assert_same, counts_prove, host
from tests.threads import in_threads, repeat

# -- update ------------------------------------------------------------------------------------------------


def test_update_stores_and_returns_what_it_wrote(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    new = v.update(lambda a: a * 2)
    assert_same(new, [2.0, 4.0])
    assert v.version == 1
    v.assign_add(1.0)
    assert_same(new, [2.0, 4.0])
    assert_same(v, [3.0, 5.0])


def test_update_gets_the_librarys_array_and_arguments(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    library = type(v.value)
    kinds: list[type] = []

    def scaled(a: Any, by: float, plus: float) -> Any:
        kinds.append(type(a))
        return a * by + plus

    v.update(scaled, 3.0, 1.0)
    assert kinds == [library]
    assert_same(v, [4.0, 7.0])


def test_updates_of_many_threads_are_counted_and_distinct(backend: str) -> None:
    v = sv.Variable(0, backend=backend)
    written: list[int] = []
    turns = 200
    in_threads(*[repeat(turns, lambda: written.append(int(v.update(lambda a: a + 1))))] * 8)
    assert int(v) == v.version == 8 * turns
    assert sorted(written) == list(range(1, 8 * turns + 1)), "each call returns its own value (TensorFlow's do not)"


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (lambda a: [1.0, 2.0, 3.0], sv.errors.ShapeError, r"update: expected shape \(2,\), got \(3,\), at 'w'"),
        (lambda a: "x", (sv.errors.StatevarError, TypeError), "update"),
        (lambda a: np.array([1j, 2j]), sv.errors.DTypeError, "update: .*complex128.*float32.*'w'"),
        (lambda a: 1 / 0, ZeroDivisionError, "division"),
    ],
)
def test_update_that_fails_changes_nothing(backend: str, fn: Any, error: Any, message: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", backend=backend)
    with pytest.raises(error, match=message):
        v.update(fn)
    assert_same(v, [1.0, 2.0])
    assert v.version == 0
    v.assign_add(1.0)
    assert v.version == 1


def test_update_without_a_value_is_an_error(backend: str) -> None:
    v = sv.Variable(shape=(2,), name="w", backend=backend)
    with pytest.raises(sv.errors.UninitializedError, match="update: the variable has no value yet, at 'w'"):
        v.update(lambda a: a)


@pytest.mark.parametrize(
    "again",
    [
        lambda v: v.assign([0.0]),
        lambda v: v.update(lambda a: a),
        lambda v: v.edit().__enter__(),
        lambda v: sv.transaction(v).__enter__(),
    ],
    ids=["assign", "update", "edit", "transaction"],
)
def test_update_inside_an_update_is_an_error(backend: str, again: Any) -> None:
    v = sv.Variable([1.0], name="w", backend=backend)
    with pytest.raises(sv.errors.ReentrantWriteError, match="this thread is already inside an update of this variable"):
        v.update(lambda a: again(v))
    assert_same(v.assign_add(1.0), [2.0])


def test_update_may_read_the_variable_and_write_others(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    count = sv.Variable(0, backend=backend)

    def fn(a: Any) -> Any:
        count.assign_add(1)
        assert_same(v, host(a))
        return a + v.value

    v.update(fn)
    assert_same(v, [2.0])
    assert int(count) == 1


def test_update_applies_the_constraint(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend, constraint=lambda a: a * 0)
    assert_same(v.update(lambda a: a + 1), [0.0, 0.0])


def test_readers_pass_while_an_update_runs(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    inside, done = threading.Event(), threading.Event()

    def slow(a: Any) -> Any:
        inside.set()
        assert done.wait(PATIENCE), "a reader waited for the update"
        return a + 1

    def reader() -> None:
        assert inside.wait(PATIENCE)
        assert_same(v, [1.0])
        done.set()

    in_threads(lambda: v.update(slow), reader)
    assert_same(v, [2.0])


def test_two_updates_that_wait_for_each_other_do_not_hang(backend: str) -> None:
    a, b = (sv.Variable(0, backend=backend, name=name) for name in "ab")
    both = threading.Barrier(2, timeout=PATIENCE)
    failed: list[str] = []

    def crossing(first: sv.Variable, second: sv.Variable) -> None:
        def fn(value: Any) -> Any:
            both.wait()
            second.assign_add(1)
            return value + 1

        try:
            first.update(fn)
        except sv.errors.ConflictError as error:
            failed.append(str(error))

    in_threads(lambda: crossing(a, b), lambda: crossing(b, a))
    assert len(failed) == 1, "one of them goes on"
    assert (
        "waiting for an update of another thread would be a deadlock: that thread waits for this one, at '" in failed[0]
    )
    assert "Hint: list all the variables in one sv.transaction" in failed[0]
    assert int(a) + int(b) == 2, "the other one wrote both"


# -- edit ------------------------------------------------------------------------------------------------


def test_edit_stores_when_it_ends(backend: str) -> None:
    v = sv.Variable([[1.0, 7.0], [9.0, 2.0]], backend=backend)
    before = v.value
    with v.edit() as array:
        assert type(array) is np.ndarray
        array[array > 5] = -1
        assert_same(v, [[1.0, 7.0], [9.0, 2.0]])
    assert_same(v, [[1.0, -1.0], [-1.0, 2.0]])
    assert_same(before, [[1.0, 7.0], [9.0, 2.0]])
    assert v.version == 1


def test_edit_is_dropped_on_an_exception(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    with pytest.raises(ZeroDivisionError), v.edit() as array:
        array[:] = array / 0 if not array.any() else [1 / 0, 0]
    assert_same(v, [1.0, 2.0])
    assert v.version == 0
    assert_same(v.assign_add(1.0), [2.0, 3.0])


@pytest.mark.parametrize(
    "index", [1, slice(1, 3), (slice(None), 0), (..., slice(None, None, -1)), [0, 0, 2], np.array([True, False, True])]
)
def test_edit_of_a_region_writes_that_region(backend: str, index: Any) -> None:
    start = np.arange(6, dtype="float32").reshape(3, 2)
    v = sv.Variable(start, backend=backend)
    expected = start.copy()
    expected[index] = expected[index] * 10 + 1
    with v.edit(index) as array:
        assert array.shape == start[index].shape
        array[...] = array * 10 + 1
    assert_same(v, expected)
    assert v.version == 1


def test_edit_outside_the_shape_is_an_error_and_holds_nothing(backend: str) -> None:
    v = sv.Variable([1.0], name="w", backend=backend)
    with pytest.raises(sv.errors.IndexingError, match="index 7 is out of bounds.*'w'"), v.edit(7):
        pass
    v.assign([2.0])


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "float16", "bfloat16", "float8_e4m3fn", "complex64"]
)
def test_edit_keeps_every_kind_of_dtype(backend: str, dtype: str) -> None:
    v = sv.Variable([1, 0, 1], dtype=dtype, backend=backend)
    with v.edit() as array:
        array[1] = 1
    assert v.dtype_name == dtype
    assert_same(v, np.ones(3, np.complex64 if dtype == "complex64" else np.float32))


def test_edit_applies_the_constraint(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend, constraint=lambda a: a * 0)
    with v.edit() as array:
        array[...] = 1
    assert_same(v, [0.0, 0.0])


def test_edits_are_not_lost(backend: str) -> None:
    v = sv.Variable(np.zeros(4, "float32"), backend=backend)

    def add(i: int) -> None:
        with v.edit() as array:
            array[i] += 1

    in_threads(*[repeat(50, partial(add, i)) for i in (0, 1, 1, 2)])
    assert_same(v, [50.0, 100.0, 50.0, 0.0])


def test_an_edit_in_an_edit_is_an_error(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", backend=backend)
    with (
        pytest.raises(
            sv.errors.ReentrantWriteError,
            match="assign_add: this thread is already inside an edit of this variable, at 'w'",
        ),
        v.edit(),
    ):
        v.assign_add(1.0)
    with pytest.raises(sv.errors.ReentrantWriteError), v.edit(), v.edit():
        pass
    assert_same(v, [1.0, 2.0])


def test_what_is_left_of_an_edit_writes_nothing(backend: str) -> None:
    v = sv.Variable(np.zeros(10_000, "float32"), backend=backend)
    with v.edit() as array:
        part, lent = array[1:], memoryview(array)  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
        array[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 5
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.setflags(write=True)
    part[...] = 7  # was writable when it was made, and still is
    lent[3] = 7
    assert_same(v, [1.0] + [0.0] * 9999)


by_counts = pytest.mark.skipif(not counts_prove(), reason="an edit reads the value, which is then left to its reader")


@by_counts
def test_an_edit_is_in_place_if_nobody_holds_the_old_value() -> None:
    v = sv.Variable(np.zeros(10_000, "float32"))
    lies_at = address(v)
    with v.edit() as array:
        assert array.ctypes.data != lies_at, "what is edited is a copy"
        array[0] = 1
    assert address(v) == lies_at, "and it is copied back, since somebody may still write it"
    with np.errstate(all="ignore"):
        v.assign_add(1.0)
    assert address(v) == lies_at


@by_counts
def test_an_edit_of_a_part_is_in_place() -> None:
    v = sv.Variable(np.zeros(10_000, "float32"))
    before = address(v)
    with v.edit(slice(0, 3)) as array:
        assert array.size == 3
        array[0] = 1
    assert address(v) == before
    assert v[0] == 1


def test_edit_keeps_the_type_of_the_library(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    with v.edit() as array:
        array[...] = 1
    assert type(v.value) is type(sv.Variable(array_of(backend, [1.0], "float32")).value)


@by_counts
@pytest.mark.parametrize("kept", ["by nobody", "by the function", "ready", "constrained"])
def test_jax_keeps_what_it_is_still_computing_for_an_update(kept: str) -> None:
    """Nobody can write the memory of such a result, and nobody else can donate it if nobody has it."""
    jax, jnp = pytest.importorskip("jax"), pytest.importorskip("jax.numpy")
    constraint = (lambda a: a) if kept == "constrained" else None
    v = sv.Variable(jnp.zeros(300_000), constraint=constraint)
    double = jax.jit(lambda a: jax.lax.fori_loop(0, 200, lambda _, b: jnp.abs(jnp.tanh(b) * 0 + a + 1), a))
    made: list[Any] = []

    def fn(a: Any) -> Any:
        new = double(a)
        if kept == "ready":
            new.block_until_ready()
        made.append(new if kept == "by the function" else weakref.ref(new))
        return new

    for number in (1, 2):
        returned = v.update(fn)
        assert returned is v.value
        new = made[-1] if kept == "by the function" else made[-1]()
        assert (new is returned) == (kept == "by nobody")
        assert_same(v, np.full(300_000, number))
        assert v.version == number
    v.assign_add(1.0)
    assert_same(returned, np.full(300_000, 2))
    assert_same(v, np.full(300_000, 3))
