"""Rows 2 and 3: declared and open shapes, and variables without a value."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same
from tests.internals import broadcasts_into, canonical_shape, fits


def test_an_open_axis_takes_any_length(backend: str) -> None:
    v = sv.Variable(np.zeros((2, 4), "float32"), shape=(None, 4), backend=backend)
    assert (v.shape, v.declared_shape) == ((2, 4), (None, 4))
    v.assign(np.ones((5, 4), "float32"))
    assert (v.shape, v.size, len(v)) == ((5, 4), 20, 5)
    assert_same(v, np.ones((5, 4)))
    v.assign_add(np.arange(4, dtype="float32"))
    assert_same(v, np.ones((5, 4)) + np.arange(4))
    v[4] = 7.0
    assert_same(v[4], np.full(4, 7.0))
    with pytest.raises(sv.errors.ShapeError, match=r"assign: expected shape \(None, 4\), got \(5, 3\)"):
        v.assign(np.ones((5, 3), "float32"))
    assert v.shape == (5, 4)


def test_an_open_shape_takes_any_shape(backend: str) -> None:
    v = sv.Variable(1.0, shape=..., backend=backend)
    for shape in ((), (3,), (2, 2), (0,)):
        assert v.assign(np.full(shape, 2.0, "float32")).shape == shape
        assert_same(v.assign_add(1.0), np.full(shape, 3.0))
    assert v.declared_shape is ...


def test_validate_shape_false_takes_on_the_shape(backend: str) -> None:
    v = sv.Variable(np.zeros((4, 4), "float32"), name="w", backend=backend)
    message = (
        r"assign: expected shape \(4, 4\), got \(2, 8\), at 'w'. Hint: pass validate_shape=False to change the shape."
    )
    with pytest.raises(ValueError, match=message):
        v.assign(np.ones((2, 8), "float32"))
    assert (v.shape, v.version) == ((4, 4), 0)
    before = v.value
    assert v.assign(np.ones((2, 8), "float32"), validate_shape=False) is v
    assert (v.shape, v.declared_shape, v.version) == ((2, 8), (2, 8), 1)
    assert_same(v, np.ones((2, 8)))
    assert_same(before, np.zeros((4, 4)))
    with pytest.raises(sv.errors.ShapeError, match=r"expected shape \(2, 8\)"):
        v.assign(np.ones((4, 4), "float32"))
    assert_same(v.assign_add(1.0), np.full((2, 8), 2.0))


def test_validate_shape_false_keeps_a_declaration_that_allows_it(backend: str) -> None:
    v = sv.Variable(np.zeros((2, 4), "float32"), shape=(None, 4), backend=backend)
    v.assign(np.zeros((3, 4), "float32"), validate_shape=False)
    assert v.declared_shape == (None, 4)


def test_validate_shape_false_keeps_flags(backend: str) -> None:
    v = sv.Variable([1.0], trainable=False, constraint=abs, backend=backend)
    v.assign([[-2.0]], validate_shape=False)
    assert (v.trainable, v.dtype_name, v.backend) == (False, "float32", backend)
    assert_same(v, [[2.0]])


@pytest.mark.parametrize(
    ("shape", "value"), [((2,), 1.0), ((2, 2), [1.0, 2.0]), ((2,), [[1.0, 2.0]]), ((1,), 1.0), ((0,), 1.0), ((), [1.0])]
)
def test_assign_does_not_broadcast(backend: str, shape: tuple[int, ...], value: Any) -> None:
    v = sv.Variable(np.zeros(shape, "float32"), backend=backend)
    with pytest.raises(sv.errors.ShapeError, match="expected shape"):
        v.assign(value)
    assert v.version == 0


@pytest.mark.parametrize("shape", [(), (3,), (1, 3), (2, 1), (2, 3), (1, 1)])
def test_assign_add_broadcasts_into_the_shape(backend: str, shape: tuple[int, ...]) -> None:
    v = sv.Variable(np.zeros((2, 3), "float32"), backend=backend)
    x = np.arange(1, np.prod(shape, dtype=int) + 1, dtype="float32").reshape(shape)
    assert_same(v.assign_add(x), np.zeros((2, 3)) + x)
    assert_same(v.assign_sub(array_of(backend, x)), np.zeros((2, 3)))
    v *= x
    assert v.shape == (2, 3)


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 2, 3), (0,), (4, 2, 3)])
def test_assign_add_never_broadcasts_out_of_the_shape(backend: str, shape: tuple[int, ...]) -> None:
    v = sv.Variable(np.zeros((2, 3), "float32"), name="w", backend=backend)
    message = re.escape(f"assign_add: shape {shape} does not broadcast into (2, 3), at 'w'")
    with pytest.raises(sv.errors.ShapeError, match=message):
        v.assign_add(np.ones(shape, "float32"))
    with pytest.raises(sv.errors.ShapeError):
        v /= np.ones(shape, "float32")
    with pytest.raises(sv.errors.ShapeError):
        v[...] = np.ones(shape, "float32")
    assert_same(v, np.zeros((2, 3)))
    assert v.version == 0


def test_without_a_value_reads_fail_until_it_is_assigned(backend: str) -> None:
    v = sv.Variable(shape=(2,), dtype="float32", name="u", backend=backend)
    assert v.is_initialized is False
    assert (v.shape, v.dtype_name, v.version, v.trainable) == ((2,), "float32", 0, True)
    assert "value=<uninitialized>" in repr(v)
    reads: list[Any] = [
        lambda: v.value,
        v.numpy,
        lambda: v + 1,
        lambda: v[0],
        lambda: np.asarray(v),
        lambda: v.assign_add(1.0),
        lambda: v.__setitem__(0, 1.0),
        lambda: v.at[0].add(1.0),
        lambda: v.parameter,
    ]
    for read in reads:
        with pytest.raises(sv.errors.UninitializedError, match="the variable has no value yet, at 'u'. Hint: assign"):
            read()
    with pytest.raises(sv.errors.ShapeError):
        v.assign([1.0, 2.0, 3.0])
    assert not v.is_initialized
    v = v.assign([1.0, 2.0])
    assert v.is_initialized is True
    assert v.version == 1
    assert_same(v.assign_add(1.0), [2.0, 3.0])


def test_without_a_value_and_an_open_shape(backend: str) -> None:
    v = sv.Variable(shape=(None, 2), name="u", backend=backend)
    with pytest.raises(
        sv.errors.UninitializedError,
        match=r"shape: the variable has no value yet, and its declared shape \(None, 2\) is open, at 'u'",
    ):
        _ = v.shape
    assert "shape=(None, 2)" in repr(v)
    v.assign([[1.0, 2.0]])
    assert (v.shape, v.declared_shape) == ((1, 2), (None, 2))


def test_without_a_value_takes_any_shape_unvalidated(backend: str) -> None:
    v = sv.Variable(shape=(2,), dtype="float32", backend=backend)
    assert v.assign([1.0, 2.0, 3.0], validate_shape=False).shape == (3,)
    assert v.declared_shape == (3,)


def test_a_first_assignment_that_fails_leaves_it_without_a_value(backend: str) -> None:
    def refuse(value: Any) -> Any:
        raise ArithmeticError

    v = sv.Variable(shape=(2,), backend=backend, constraint=refuse)
    with pytest.raises(ArithmeticError):
        v.assign([1.0, 2.0])
    assert not v.is_initialized


def test_shapes_are_made_canonical_and_compared() -> None:
    assert canonical_shape(np.int64(3)) == (3,)
    assert canonical_shape([]) == ()
    assert canonical_shape((np.int32(2), None)) == (2, None)
    assert fits((2, 3), (None, 3))
    assert not fits((2, 3), (3,))
    assert broadcasts_into((), ())
    assert not broadcasts_into((1,), ())
    assert not broadcasts_into((2,), (1,))
