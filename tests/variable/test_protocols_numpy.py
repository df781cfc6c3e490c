"""The table of ``docs/protocols.md``: NumPy, Python, and operators beside any library's array."""

from __future__ import annotations

import io
import math
import operator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import address, array_of, assert_same
from tests.variable.protocols import LIBRARIES, OTHER, VALUE, Call, assert_result, calls, pointer, row, variable

# -- NumPy ---------------------------------------------------------------------------------------------


ASARRAY: dict[str, Call] = {
    "np.asarray(v)": np.asarray,
    "np.asarray(v, copy=False)": lambda v: np.asarray(v, copy=False),
    "np.array(v, copy=None)": lambda v: np.array(v, copy=None),
    "np.asanyarray(v)": np.asanyarray,
    "np.ascontiguousarray(v)": np.ascontiguousarray,
    "np.atleast_1d(v)": np.atleast_1d,
    "np.asarray(v, its own dtype)": lambda v: np.asarray(v, np.float32),
}


@calls(ASARRAY)
def test_asarray_is_a_read_only_view_of_the_buffer(backend: str, call: Call) -> None:
    v = variable(backend)
    got = call(v)
    assert type(got) is np.ndarray
    assert_same(got, VALUE, dtype=True)
    assert pointer(got) == pointer(call(v)) == address(v)
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 9.0


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "float16", "bfloat16", "float32", "complex64"])
def test_asarray_views_every_dtype(backend: str, dtype: str) -> None:
    v = sv.Variable([[0, 1], [1, 0]], dtype=dtype, backend=backend)
    got = np.asarray(v, copy=False)
    assert got.dtype.name == dtype
    assert_same(got, np.array([[0, 1], [1, 0]], got.dtype))
    assert pointer(got) == address(v)


COPIES: dict[str, Call] = {
    "np.array(v)": np.array,
    "np.array(v, copy=True)": lambda v: np.array(v, copy=True),
    "np.asarray(v, copy=True)": lambda v: np.asarray(v, copy=True),
    "np.asarray(v, another dtype)": lambda v: np.asarray(v, np.float64),
    "np.copy(v)": np.copy,
    "v.numpy()": lambda v: v.numpy(),
}


@calls(COPIES)
def test_a_copy_is_the_callers_own(backend: str, call: Call) -> None:
    v = variable(backend)
    got = call(v)
    assert_same(got, VALUE)
    assert pointer(got) != address(v)
    got[0, 0] = 9.0
    assert_same(v, VALUE)


def test_a_cast_without_a_copy_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match="needs a copy"):
        np.asarray(variable(backend), np.float64, copy=False)


UFUNCS: dict[str, tuple[Call, Call]] = {
    "np.sin": (np.sin, np.sin),
    "np.exp": (np.exp, np.exp),
    "np.negative": (np.negative, np.negative),
    "np.isfinite": (np.isfinite, np.isfinite),
    "np.maximum": (lambda v: np.maximum(v, 2), lambda a: np.maximum(a, 2)),
    "np.arctan2": (lambda v: np.arctan2(OTHER, v), lambda a: np.arctan2(OTHER, a)),
    "np.divmod": (lambda v: np.divmod(v, 2), lambda a: np.divmod(a, 2)),
    "np.modf": (np.modf, np.modf),
    "dtype=": (lambda v: np.add(v, 1, dtype=np.float64), lambda a: np.add(a, 1, dtype=np.float64)),
    "out=": (lambda v: np.add(OTHER, v, out=np.empty_like(VALUE)), lambda a: OTHER + a),
    "where=": (lambda v: np.sqrt(v, out=OTHER * 0, where=OTHER > 0.4), lambda a: np.sqrt(a) * (OTHER > 0.4)),
    "add.reduce": (np.add.reduce, np.add.reduce),
    "add.reduce, axis=1": (lambda v: np.add.reduce(v, axis=1), lambda a: a.sum(1)),
    "add.accumulate": (np.add.accumulate, np.add.accumulate),
    "add.reduceat": (lambda v: np.add.reduceat(v, [0, 1]), lambda a: np.add.reduceat(a, [0, 1])),
    "multiply.outer": (lambda v: np.multiply.outer(v, v), lambda a: np.multiply.outer(a, a)),
}


@row(UFUNCS)
def test_ufuncs_of_numpy_take_a_variable(backend: str, call: Call, expected: Call) -> None:
    assert_result(call(variable(backend)), "numpy", expected(VALUE))


def test_ufunc_at_of_numpy_takes_variables_as_index_and_operand(backend: str) -> None:
    counts = np.zeros(3, np.int32)
    np.add.at(
        counts, variable(backend, np.array([0, 2, 2], np.int32)), variable(backend, np.array([1, 10, 100], np.int32))
    )
    assert_same(counts, [1, 0, 110])


FUNCTIONS: dict[str, tuple[Call, Call]] = {
    "np.sum": (np.sum, np.sum),
    "np.mean": (lambda v: np.mean(v, axis=0), lambda a: a.mean(0)),
    "np.median": (np.median, np.median),
    "np.argmax": (np.argmax, np.argmax),
    "np.concatenate": (lambda v: np.concatenate([v, OTHER, v]), lambda a: np.concatenate([a, OTHER, a])),
    "np.stack": (lambda v: np.stack((v, OTHER)), lambda a: np.stack((a, OTHER))),
    "np.block": (lambda v: np.block([[v, v]]), lambda a: np.block([[a, a]])),
    "np.where": (lambda v: np.where(OTHER > 1, v, 0), lambda a: np.where(OTHER > 1, a, 0)),
    "np.where on v": (lambda v: np.where(np.asarray(v) > 1, v, OTHER), lambda a: np.where(a > 1, a, OTHER)),
    "np.dot": (lambda v: np.dot(v, OTHER), lambda a: a @ OTHER),
    "np.einsum": (lambda v: np.einsum("ij,jk", v, OTHER), lambda a: a @ OTHER),
    "np.tensordot": (lambda v: np.tensordot(v, v), lambda a: np.tensordot(a, a)),
    "np.clip": (lambda v: np.clip(v, 2, 3), lambda a: np.clip(a, 2, 3)),
    "np.clip by v": (lambda v: np.clip(OTHER, 0, v), lambda a: np.clip(OTHER, 0, a)),
    "np.sort": (lambda v: np.sort(v, axis=None), lambda a: np.sort(a, axis=None)),
    "np.round": (lambda v: np.round(v, 1), lambda a: np.round(a, 1)),
    "np.reshape": (lambda v: np.reshape(v, -1), lambda a: a.reshape(-1)),
    "np.transpose": (np.transpose, np.transpose),
    "np.broadcast_to": (lambda v: np.broadcast_to(v, (2, 2, 2)), lambda a: np.broadcast_to(a, (2, 2, 2))),
    "np.take": (lambda v: np.take(v, [0, 3]), lambda a: np.take(a, [0, 3])),
    "np.cumsum": (np.cumsum, np.cumsum),
    "np.histogram": (lambda v: np.histogram(v, 2), lambda a: np.histogram(a, 2)),
    "np.linalg.inv": (np.linalg.inv, np.linalg.inv),
    "np.linalg.norm": (np.linalg.norm, np.linalg.norm),
    "np.fft.fft": (np.fft.fft, np.fft.fft),
    "np.zeros_like": (np.zeros_like, np.zeros_like),
    "np.isclose": (lambda v: np.isclose(v, VALUE), lambda a: np.isclose(a, VALUE)),
}


@row(FUNCTIONS)
def test_functions_of_numpy_take_a_variable(backend: str, call: Call, expected: Call) -> None:
    assert_result(call(variable(backend)), "numpy", expected(VALUE))


def test_numpy_knows_its_shape_and_compares_it(backend: str) -> None:
    v = variable(backend)
    assert (np.shape(v), np.ndim(v), np.size(v)) == ((2, 2), 2, 4)
    assert np.allclose(v, VALUE)
    assert np.array_equal(v, VALUE)
    np.testing.assert_array_equal(np.asarray(v), VALUE)
    target = np.zeros_like(VALUE)
    target[...] = v
    np.copyto(target, v)
    assert_same(target, VALUE)


def test_numpy_saves_a_variable(backend: str) -> None:
    file = io.BytesIO()
    np.savez(file, w=np.asarray(variable(backend)))
    file.seek(0)
    assert_same(np.load(file)["w"], VALUE)


OPERATORS: dict[str, Call] = {
    each.__name__: each
    for each in (
        *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
        *(operator.pow, operator.matmul),
        *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    )
}


@calls(OPERATORS)
def test_operators_with_an_ndarray_stay_with_the_variables_library(backend: str, call: Call) -> None:
    v = variable(backend)
    assert_result(call(v, OTHER), backend, call(VALUE, OTHER))
    assert_result(call(OTHER, v), backend, call(OTHER, VALUE))


@pytest.mark.parametrize("call", [operator.and_, operator.or_, operator.xor])
def test_bitwise_operators_with_an_ndarray_stay_with_the_variables_library(backend: str, call: Call) -> None:
    bits, other = np.array([1, 2, 3], np.int32), np.array([2, 2, 1], np.int32)
    v = variable(backend, bits)
    assert_result(call(v, other), backend, call(bits, other))
    assert_result(call(other, v), backend, call(other, bits))


@pytest.mark.parametrize("scalar", [np.float32(2), np.array(2, np.float32), 2, 2.0], ids=repr)
def test_operators_with_a_scalar_stay_with_the_variables_library(backend: str, scalar: Any) -> None:
    v = variable(backend)
    assert_result(scalar * v, backend, VALUE * 2)
    assert_result(v * scalar, backend, VALUE * 2)
    assert_result(scalar < v, backend, VALUE > 2)
    assert_result(np.multiply(scalar, v), backend, VALUE * 2)


def test_in_place_operators_of_an_ndarray_write_the_ndarray(backend: str) -> None:
    v = variable(backend)
    x = same = OTHER.copy()
    x += v
    x *= v
    x @= v
    assert x is same
    assert_same(x, ((OTHER + VALUE) * VALUE) @ VALUE)
    assert_same(v, VALUE)


OUT: dict[str, Call] = {
    "np.sin(x, out=v)": lambda v: np.sin(OTHER, out=v),
    "np.add(v, x, out=v)": lambda v: np.add(v, OTHER, out=v),
    "np.modf(x, out=(v, v))": lambda v: np.modf(OTHER, out=(v, v)),
    "np.add.reduce(x, out=v)": lambda v: np.add.reduce(OTHER, out=v),
    "np.sum(x, out=v)": lambda v: np.sum(OTHER, out=v),
    "np.add.at(v, 0, 1)": lambda v: np.add.at(v, 0, 1),
    "np.copyto(v, x)": lambda v: np.copyto(v, OTHER),
}


@calls(OUT)
def test_numpy_does_not_write_into_a_variable(backend: str, call: Call) -> None:
    v = variable(backend)
    with pytest.raises((TypeError, ValueError)):
        call(v)
    assert_same(v, VALUE)
    assert v.version == 0


def test_the_error_for_out_names_the_way_round(backend: str) -> None:
    v: Any = variable(backend)
    with pytest.raises(TypeError, match=r"v\.assign\(np\.sin\("):
        np.sin(OTHER, out=v)


# -- operators with the arrays of another library --------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES[1:])
@pytest.mark.parametrize("call", [operator.add, operator.mul, operator.matmul, operator.lt, operator.eq])
def test_operators_with_another_librarys_array_go_to_that_library(backend: str, library: str, call: Call) -> None:
    pytest.importorskip(library)
    v, other = variable(backend), array_of(library, OTHER)
    assert_result(call(v, other), library, call(VALUE, OTHER))
    assert_result(call(other, v), library, call(OTHER, VALUE))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("call", [operator.add, operator.matmul, operator.lt])
def test_a_variable_as_the_other_operand_is_what_its_value_would_be(backend: str, library: str, call: Call) -> None:
    pytest.importorskip(library)
    v, w = variable(backend), variable(library, OTHER)
    assert_result(call(v, w), backend if library == "numpy" else library, call(VALUE, OTHER))


@pytest.mark.parametrize("library", LIBRARIES)
def test_any_librarys_array_can_be_assigned(backend: str, library: str) -> None:
    pytest.importorskip(library)
    v = variable(backend)
    assert_same(v.assign(array_of(library, OTHER)), OTHER)
    assert_same(v.assign_add(array_of(library, VALUE)), OTHER + VALUE)
    v[0] = array_of(library, VALUE[0])
    assert_same(v.value[0], VALUE[0])
    v += variable(library)
    assert_same(v.value[0], 2 * VALUE[0])


# -- Python ----------------------------------------------------------------------------------------------


SCALARS: dict[str, tuple[Call, Any]] = {
    "float": (float, 2.0),
    "int": (int, 2),
    "complex": (complex, 2 + 0j),
    "bool": (bool, True),
    "operator.index": (operator.index, 2),
    "range": (range, range(2)),
    "math.sqrt": (math.sqrt, math.sqrt(2)),
    "list[v]": (lambda v: [5, 6, 7][v], 7),
    "list[:v]": (lambda v: [5, 6, 7][:v], [5, 6]),
    "list * v": (lambda v: "ab" * operator.index(v), "abab"),
    "np.arange(3)[v]": (lambda v: np.arange(3)[v], 2),
    "np.zeros(v)": (lambda v: np.zeros(v).shape, (2,)),
    "np.float32(v)": (np.float32, 2),
    "round": (lambda v: float(round(v)), 2.0),
}


@row(SCALARS)
def test_a_scalar_variable_is_a_number_to_python(backend: str, call: Call, expected: Any) -> None:
    got = call(variable(backend, np.array(2, np.int32)))
    assert type(got) is type(expected) or isinstance(got, np.generic)
    assert got == expected


def test_a_variable_is_a_sequence_to_python(backend: str) -> None:
    v = variable(backend, trainable=False)
    first, second = v
    assert_result(first, backend, VALUE[0])
    assert_result(second, backend, VALUE[1])
    assert len(v) == 2
    assert 3.0 in v
    assert 5.0 not in v
    assert [float(x) for x in v[0]] == [1.0, 2.0]
    assert float(sum(v[0])) == 3.0


def test_a_fractional_index_is_refused(backend: str) -> None:
    v = variable(backend, np.float32(2))
    with pytest.raises(TypeError):
        operator.index(v)
    with pytest.raises((TypeError, IndexError)):
        np.arange(3)[v]
