"""Rows 4 and 5: NumPy's indexing, read and written, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import statevar as sv
from tests.helpers import array_of, assert_same
from tests.internals import Selection, last_of_each

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def shaped_index(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    """A shape, and an index into it: basic, a mask, or integer arrays mixed with slices."""
    shape = draw(SHAPES)
    choice = draw(st.integers(0, 3))
    if choice == 0 or 0 in shape or not shape:
        return shape, draw(hnp.basic_indices(shape, allow_ellipsis=True, allow_newaxis=True))
    if choice == 1:
        return shape, draw(hnp.arrays(np.bool_, shape))
    if choice == 2:
        return shape, draw(hnp.arrays(np.bool_, shape[:1]))
    lengths = draw(hnp.array_shapes(min_dims=1, max_dims=2, max_side=3))
    parts: list[Any] = []
    rank = draw(st.integers(1, len(shape)))
    for size in shape[:rank]:
        if len(parts) > 0 and draw(st.booleans()):
            part: Any = draw(st.slices(size))
        else:
            part = draw(hnp.arrays(np.int64, lengths, elements=st.integers(-size, size - 1)))
        parts.append(part)
    return shape, tuple(parts)


def model_of(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


@settings(max_examples=80)
@given(case=shaped_index())
def test_reads_are_numpys(backend: str, case: Any) -> None:
    shape, index = case
    v = sv.Variable(model_of(shape), backend=backend)
    assert_same(v[index], model_of(shape)[index])


@settings(max_examples=80)
@given(case=shaped_index(), data=st.data())
def test_writes_are_numpys(backend: str, case: Any, data: st.DataObject) -> None:
    shape, index = case
    model = model_of(shape)
    v = sv.Variable(model, backend=backend)
    selected = model[index].shape
    x = np.full(selected if data.draw(st.booleans()) else (), -1.0, np.float32)
    if x.ndim and data.draw(st.booleans()):
        x = -np.arange(x.size, dtype=np.float32).reshape(selected) - 1
    model[index] = x
    v[index] = array_of(backend, x) if data.draw(st.booleans()) else x
    assert_same(v, model)


UFUNCS = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "min": np.minimum,
    "max": np.maximum,
}


@settings(max_examples=80)
@given(case=shaped_index(), kind=st.sampled_from(list(UFUNCS)), data=st.data())
def test_at_accumulates_like_numpy(backend: str, case: Any, kind: str, data: st.DataObject) -> None:
    shape, index = case
    model = model_of(shape)
    v = sv.Variable(model, backend=backend)
    x: Any = np.float32(3.0)
    if data.draw(st.booleans()):
        x = np.arange(1, model[index].size + 1, dtype=np.float32).reshape(model[index].shape)
    UFUNCS[kind].at(model, index, x)
    getattr(v.at[index], kind)(x)
    assert_same(v, model, rtol=1e-5)
    assert v.version == 1


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (5, "index 5 is out of bounds for axis 0 with size 3"),
        (-4, "index -4 is out of bounds"),
        ((0, 0, 0), "too many indices"),
        (([0, 3],), "index 3 is out of bounds"),
        (np.array([True, False]), "boolean index did not match"),
        ("a", "expected an index of integers, slices"),
        (1.5, "expected an index of integers, slices"),
        ([0.5], "expected an index of integers, slices"),
        (slice(0, 1, 0), "slice step cannot be zero"),
        ((..., ...), "ellipsis"),
    ],
)
def test_bad_indices_are_refused_by_reads_and_writes(backend: str, index: Any, message: str) -> None:
    v = sv.Variable(np.zeros((3, 2), "float32"), name="w", backend=backend)
    for use in (lambda: v[index], lambda: v.__setitem__(index, 1.0), lambda: v.at[index].add(1.0)):
        with pytest.raises(IndexError, match=message):
            use()
    with pytest.raises(IndexError, match=r"index: .* \(shape \(3, 2\)\), at 'w'. Hint: indexing follows NumPy's rules"):
        v[index] = 1.0
    assert v.version == 0


def test_a_value_that_does_not_broadcast_into_the_selection(backend: str) -> None:
    v = sv.Variable(np.zeros((3, 2), "float32"), name="w", backend=backend)
    message = r"setitem: shape \(3,\) does not broadcast into the selected shape \(2,\), at 'w'"
    with pytest.raises(sv.errors.ShapeError, match=message):
        v[0] = [1.0, 2.0, 3.0]
    with pytest.raises(sv.errors.ShapeError, match="at.add: shape"):
        v.at[[0, 1]].add(np.ones((2, 3), "float32"))
    assert_same(v, np.zeros((3, 2)))


def test_indices_of_every_library_are_taken(backend: str) -> None:
    for other in ("numpy", "jax", "torch", "tensorflow"):
        v = sv.Variable([1.0, 2.0, 3.0], backend=backend)
        v[array_of(other, [0, 2], "int32")] = 9.0
        v[array_of(other, [False, True, False])] = 8.0
        v[array_of(other, 0, "int32")] = 7.0
        assert_same(v, [7.0, 8.0, 9.0])
        assert_same(v[array_of(other, [2, 0], "int32")], [9.0, 7.0])
    v[v.value > 7.5] = 0.0
    assert_same(v, [7.0, 0.0, 0.0])
    v[sv.Variable(1, backend=backend)] = 5.0
    v[sv.Variable([2], backend=backend)] = 6.0
    assert_same(v, [7.0, 5.0, 6.0])


def test_duplicates_with_set_keep_the_last(backend: str) -> None:
    v = sv.Variable(np.zeros(4, "float32"), backend=backend)
    v[[1, 1, 3, 1]] = [1.0, 2.0, 3.0, 4.0]
    assert_same(v, [0.0, 4.0, 0.0, 3.0])


def test_item_reads_carry_gradients_on_torch() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0, 3.0], backend="torch")
    (v[0] * 2 + v[[1, 1]].sum() + v[::-1][0]).backward()
    assert_same(v.parameter.grad, [2.0, 2.0, 1.0])
    assert isinstance(v[0], torch.Tensor)


def test_selection_takes_no_memory_for_what_it_does_not_select() -> None:
    where = Selection((slice(0, 2), 5), (10**6, 10**6, 10**3)[:2])
    assert where.shape == (2,)
    assert [line.tolist() for line in where.coordinates()] == [[0, 1], [5, 5]]
    assert where.flat().tolist() == [5, 10**6 + 5]
    assert where.block() == ((0, 5), (2, 1))
    assert last_of_each(np.array([3, 1, 3, 2])).tolist() == [1, 2, 3]
