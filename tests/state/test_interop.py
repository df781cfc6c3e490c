"""Row 11: get_value, set_value, their batches, and assign as a function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same


def test_get_value_gives_a_copy_and_set_value_writes(backend: str) -> None:
    v = sv.Variable(2.0, backend=backend)
    value = sv.get_value(v)
    assert (type(value), value.dtype, value.shape) == (np.ndarray, np.float32, ())
    assert sv.set_value(v, value + 1) is None  # as in Keras
    assert float(sv.get_value(v)) == 3.0
    mine = sv.get_value(v)
    mine[...] = 9.0
    assert float(v) == 3.0


def test_plain_arrays_are_read_and_written_as_variables_are() -> None:
    x = np.zeros((2, 2), "float32")
    sv.set_value(x, [[1.0, 2.0], [3.0, 4.0]])
    assert_same(x, [[1.0, 2.0], [3.0, 4.0]])
    copied = sv.get_value(x)
    copied[...] = 0.0
    assert_same(x, [[1.0, 2.0], [3.0, 4.0]])
    sv.set_value(x, sv.Variable(np.ones((2, 2), "float32"), backend="torch"))
    assert_same(x, np.ones((2, 2)))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([1.0, 2.0, 3.0], ValueError, r"set_value: expected shape \(2,\), got \(3,\)"),
        (1.0, ValueError, r"expected shape \(2,\), got \(\)"),
        ([2.5, 1.0], TypeError, "set_value: 2.5 cannot be represented as int32"),
        ([float("nan"), 1.0], TypeError, "nan cannot be represented as int32"),
        (np.array([1.0, 2.0]), TypeError, "cannot cast float64 to int32"),
        ([2**40, 0], OverflowError, "out of the range of int32"),
        (None, ValueError, "a value of type NoneType"),
    ],
)
def test_a_refused_value_changes_nothing(backend: str, value: Any, error: type[Exception], message: str) -> None:
    v, x = sv.Variable([1, 2], name="n", backend=backend), np.array([1, 2], "int32")
    for target in (v, x):
        with pytest.raises(error, match=message):
            sv.set_value(target, value)
    assert_same(v, [1, 2])
    assert_same(x, [1, 2])
    assert v.version == 0


def test_what_holds_no_state_is_refused() -> None:
    for target in (3.0, [1.0], None, "w"):
        with pytest.raises(TypeError, match="get_value: expected a variable or a NumPy array, got"):
            sv.get_value(target)
        with pytest.raises(TypeError, match="set_value: expected a variable or a NumPy array, got"):
            sv.set_value(target, 1.0)
    x = np.zeros(2)
    x.setflags(write=False)
    with pytest.raises(sv.errors.ReadOnlyError, match="the array is read-only"):
        sv.set_value(x, [1.0, 2.0])


def test_a_batch_is_written_and_read_in_order(backend: str) -> None:
    v, x = sv.Variable([0.0, 0.0], backend=backend), np.zeros(2, "int32")
    sv.batch_set_value([(v, array_of(backend, [1.0, 2.0], "float32")), (x, [3, 4])])
    first, second = sv.batch_get_value([v, x])
    assert_same(first, [1.0, 2.0])
    assert_same(second, [3, 4])


def test_a_batch_is_checked_before_anything_is_written(backend: str) -> None:
    v, w, x = sv.Variable([0.0], backend=backend), sv.Variable([0], backend=backend), np.zeros(1)
    batches: list[list[tuple[Any, Any]]] = [
        [(v, [1.0]), (w, [0.5])],
        [(v, [1.0]), (x, [1.0, 2.0])],
        [(x, [5.0]), (v, [1.0, 2.0])],
    ]
    for pairs in batches:
        with pytest.raises((TypeError, ValueError)):
            sv.batch_set_value(pairs)
    assert_same(v, [0.0])
    assert v.version == 0
    assert_same(x, [0.0])


def test_batch_get_refuses_what_holds_no_state() -> None:
    with pytest.raises(TypeError, match="get_value: expected"):
        sv.batch_get_value([sv.Variable(0), 3])


def test_assign_is_a_function_that_returns_the_variable(backend: str) -> None:
    ref = sv.Variable(shape=(2,), dtype="float32", backend=backend)
    assert sv.assign(ref, [1.0, 2.0]) is ref
    assert_same(sv.assign(ref, [3.0, 4.0], use_locking=False).assign_add(1.0), [4.0, 5.0])
    with pytest.raises(sv.errors.ShapeError):
        sv.assign(ref, [1.0])
    assert_same(sv.assign(ref, [[1.0]], validate_shape=False, name="op"), [[1.0]])
    with pytest.raises(TypeError, match="assign: expected a variable, got ndarray"):
        sv.assign(np.zeros(2), [1.0, 2.0])


def test_setting_several_values_is_one_step(backend: str) -> None:
    """A constraint that fails at the last of them leaves all as they were."""

    def refuses(_: Any) -> Any:
        raise RuntimeError("refused")

    v, w = sv.Variable([1.0], backend=backend), sv.Variable([2.0], backend=backend)
    array = np.zeros(1)
    w.constraint = refuses
    with pytest.raises(RuntimeError, match="refused"):
        sv.batch_set_value([(v, [5.0]), (array, [6.0]), (w, [7.0])])
    assert_same(v, [1.0])
    assert_same(w, [2.0])
    assert (array == 0).all()
    assert (v.version, w.version) == (0, 0)


def test_nobody_sees_half_of_several_values(backend: str) -> None:
    v, w = sv.Variable(0, backend=backend), sv.Variable(0, backend=backend)
    seen = []
    with v.subscribe(lambda *_: seen.append((int(v), int(w)))), w.subscribe(lambda *_: seen.append((int(v), int(w)))):
        sv.batch_set_value([(v, 1), (w, 2)])
    assert seen == [(1, 2), (1, 2)]
