"""Operands that are no plain arrays: what an operator makes of them is the same on every backend, and never a guess."""

from __future__ import annotations

import datetime as dt
import operator
from decimal import Decimal
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_type, assert_same

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.matmul]
ORDER = [operator.lt, operator.le, operator.gt, operator.ge]


def variable(backend: str, value: Any = (2.0, 1.0), dtype: str = "float32") -> sv.Variable:
    return sv.Variable(value, dtype=dtype, backend=backend, trainable=False, name="v")


@pytest.mark.parametrize("op", [*ARITHMETIC, *ORDER, operator.eq, operator.ne], ids=lambda op: op.__name__)
def test_the_byte_order_of_an_array_does_not_matter(backend: str, op: Any) -> None:
    v, native = variable(backend), np.array([2.0, 3.0], "float32")
    foreign = native.astype(native.dtype.newbyteorder("S"))
    op(v, native)  # JAX finds the program of a native array for a foreign one, and misreads its bytes
    assert_same(op(v, foreign), op(np.array([2.0, 1.0], "float32"), native), rtol=1e-6)
    assert_same(op(foreign, v), op(native, np.array([2.0, 1.0], "float32")), rtol=1e-6)


UNKNOWN: dict[str, tuple[Any, str]] = {
    "datetime64[D]": (np.array(["2020-01-01", "2021-01-01"], "M8[D]"), r"x.astype('int64')"),
    "timedelta64[s]": (np.array([1, 2], "m8[s]"), "x.astype('int64')"),
    "object": (np.array([1.0, None]), "x.astype('float64')"),
    "float128": (np.ones(2, np.longdouble), "x.astype('float64'), which rounds"),
    "complex256": (np.ones(2, np.clongdouble), "x.astype('complex128'), which rounds"),
}


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_an_array_of_a_dtype_that_no_variable_has_is_an_error_that_says_where(backend: str, name: str) -> None:
    array, hint = UNKNOWN[name]
    if name not in str(array.dtype):
        pytest.skip(f"NumPy has no {name} here")
    v = variable(backend)
    problem = f"got an array of the dtype {name}, which no variable has, at 'v'. Hint:"

    def write(operation: str) -> None:
        if operation == "setitem":
            v[:] = array
        else:
            getattr(v, operation)(array)

    for operation in ("assign", "assign_add", "setitem"):
        with pytest.raises(sv.errors.DTypeError) as caught:
            write(operation)
        assert str(caught.value).startswith(f"{operation}: {problem}")
        assert hint in str(caught.value)
    with pytest.raises(sv.errors.DTypeError, match="^Variable: got an array of the dtype"):
        sv.Variable(array, backend=backend)
    with pytest.raises(sv.errors.DTypeError, match="^assign: got an array of the dtype"):
        v.assign([array[1], array[1]] if name != "object" else [np.array([None, None])])
    if backend != "numpy":  # which computes with the array as NumPy does
        for op in (operator.add, operator.eq):
            with pytest.raises(sv.errors.DTypeError) as caught:
                op(v, array)
            assert str(caught.value).startswith(f"{op.__name__}: {problem}")
    assert_same(v, [2.0, 1.0])


@pytest.mark.parametrize("number", [Decimal(2), Fraction(2), Fraction(1, 3)])
@pytest.mark.parametrize("op", [*ARITHMETIC, *ORDER, operator.eq, operator.ne], ids=lambda op: op.__name__)
def test_a_number_that_no_library_has_is_never_compared_by_identity(backend: str, op: Any, number: Any) -> None:
    v = variable(backend)
    with pytest.raises(sv.errors.DTypeError, match=r"cannot be read as an array, at 'v'. Hint: pass float\(x\)"):
        op(v, number)
    if op is not operator.matmul:
        assert_same(op(v, float(number)), op(np.array([2.0, 1.0], "float32"), float(number)), rtol=1e-6)


@pytest.mark.parametrize("other", ["text", b"bytes", {1.0}, {"a": 1.0}, object(), None, dt.date(2020, 1, 1), len])
def test_what_is_no_operand_equals_no_variable(backend: str, other: Any) -> None:
    v = variable(backend)
    assert (v == other) is False
    assert (other == v) is False
    assert (v != other) is True
    assert other not in v
    for op in ORDER:
        with pytest.raises(TypeError):
            op(v, other)
    assert v == mock.ANY


@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.truediv, operator.pow], ids=lambda op: op.__name__)
def test_arithmetic_with_what_is_no_operand_is_an_error_of_ours(backend: str, op: Any) -> None:
    v = variable(backend)
    for other, problem in {
        "text": "cannot combine float32 with string, at 'v'",
        b"text": "cannot combine float32 with string, at 'v'",
        frozenset((1.0,)): "a value of type frozenset has no order, so it is no array, at 'v'. Hint: pass sorted",
        None: "a value of type NoneType is no array, at 'v'. Hint: pass a number",
        iter([1.0]): "is an iterator and not an array, at 'v'. Hint: pass list",
        float: "the class float is no value, at 'v'. Hint: pass an object of the class",
    }.items():
        for operands in ((v, other), (other, v)):
            with pytest.raises(sv.errors.DTypeError) as caught:
                op(*operands)
            assert str(caught.value).startswith(f"{op.__name__}: ")
            assert problem in str(caught.value)
    if backend != "numpy":
        with pytest.raises(sv.errors.DTypeError, match="cannot combine float32 with string, at 'v'"):
            op(v, np.array(["a", "b"]))


class Money:
    def __radd__(self, other: Any) -> str:
        return f"money and {np.asarray(other).tolist()}"

    def __gt__(self, other: Any) -> str:
        return f"more than {np.asarray(other).tolist()}"


def test_an_object_with_an_operator_of_its_own_is_asked(backend: str) -> None:
    v = variable(backend)
    assert v + Money() == "money and [2.0, 1.0]"
    assert (v < Money()) == "more than [2.0, 1.0]"


def test_texts_are_operands_of_a_variable_of_texts() -> None:
    v = sv.Variable(["a", "b"])
    assert (v == "a").tolist() == [True, False]
    assert (v + "c").tolist() == ["ac", "bc"]


def test_an_integer_that_the_library_does_not_have(backend: str) -> None:
    large, v, n = 2**70, variable(backend), variable(backend, [2, 1], "int32")
    assert_same(v + large, np.array([large, large], "float32"), rtol=1e-6)
    assert_same(large - v, np.array([large, large], "float32"), rtol=1e-6)
    assert_same(n / large, np.array([2.0 / large, 1.0 / large]), rtol=1e-6)
    for number, below in ((large, True), (-large, False)):
        for each in (v, n):
            assert_same(each < number, [below, below])
            assert_same(number >= each, [below, below])
            assert_same(each == number, [False, False])
            assert_same(each != number, [True, True])
    for op in (operator.add, operator.mul, operator.sub):
        with pytest.raises(sv.errors.RangeError, match=f"{large} is out of the range of int32, at 'v'. Hint: pass a f"):
            op(n, large)


@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.lt, operator.eq], ids=lambda op: op.__name__)
def test_integers_of_64_bits_do_not_wrap_where_the_library_has_32(op: Any) -> None:
    pytest.importorskip("jax")
    v = variable("jax", [0, 1], "int32")
    for operand in (np.array([2**40, 1]), np.int64(2**40), [2**40, 1]):
        if op in (operator.add, operator.mul) and isinstance(operand, list):
            continue
        with pytest.raises(sv.errors.RangeError, match="1099511627776 is out of the range of int32"):
            op(v, operand)
    assert_same(op(v, np.array([1, 1])), op(np.array([0, 1], "int32"), np.array([1, 1])))


@pytest.mark.parametrize("dtype", ["float64", "int64", "int32", "bool"])
def test_a_matrix_product_promotes(backend: str, dtype: str) -> None:
    matrix, v = np.array([[1, 0], [1, 1]], dtype), variable(backend)
    for result in (v @ matrix, v.dot(matrix)):
        assert isinstance(result, array_type(backend))
        assert_same(result, [3.0, 1.0])
    assert_same(matrix @ v, [2.0, 3.0])
    other = variable(backend, [2, 1], "int32")
    assert_same(other @ [0.5, 1.0], 2.0)
    assert_same(v @ other, 5.0)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8", "uint16", "uint32", "bool"])
def test_a_matrix_product_of_small_integers(backend: str, dtype: str) -> None:
    if backend == "torch" and dtype in ("bool", "uint16", "uint32"):
        pytest.skip("torch has no such product")
    v = sv.Variable([[1, 0], [1, 1]], dtype=dtype, backend=backend)
    expected = np.array([[1, 0], [1, 1]], dtype)
    assert_same(v @ v, expected @ expected, dtype=True)
    if dtype != "bool":
        v @= [[1, 0], [1, 1]]
        assert_same(v, expected @ expected, dtype=True)


def test_bools_are_numbers_in_arithmetic(backend: str) -> None:
    b, v = variable(backend, [True, False], "bool"), variable(backend)
    assert_same(v - True, [1.0, 0.0])
    assert_same(True - v, [-1.0, 0.0])
    assert_same(v - np.bool_(True), [1.0, 0.0])
    assert_same(b - 1, [0, -1])
    assert_same(b - [1.0, 1.0], [0.0, -1.0])
    assert_same(operator.add(b, [True, False]), [True, False])
    assert_same(b < True, [False, True])
    assert_same(b / 2, [0.5, 0.0])
    assert_same(b**2, [1, 0])
