"""Operators with numbers, lists and other dtypes, the same on every backend; and writes that integers do not allow."""

from __future__ import annotations

import array
import operator
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, array_type, assert_same, total

Call = Callable[..., Any]


def _in_place(name: str) -> Call:
    """An operator in place, which has no type."""
    found: Call = getattr(operator, name)
    return found


LISTS: dict[str, Any] = {
    "a list": [[3.0, 1.0]],
    "integers": [3, 1],
    "a tuple": (3.0, 1.0),
    "a range": range(1, 3),
    "a deque": deque([3.0, 1.0]),
    "NumPy scalars": [np.float64(3.0), np.int8(1)],
    "arrays": [np.ones(2, "float32")],
    "one number": [3.0],
}
ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


@pytest.mark.parametrize("name", list(LISTS))
def test_an_operator_takes_a_list_as_an_array_of_the_variables_dtype(backend: str, name: str) -> None:
    v, host, other = sv.Variable([[3.0, 2.0]], backend=backend), np.array([[3.0, 2.0]], "float32"), LISTS[name]
    given = np.asarray(list(other)).astype("float32")
    for op in (*ARITHMETIC, *COMPARISONS):
        got, reflected = op(v, other), op(other, v)
        assert type(got) is type(reflected) or backend == "jax"
        assert isinstance(got, array_type(backend))
        assert_same(got, op(host, given), rtol=1e-6, dtype=True)
        assert_same(reflected, op(given, host), rtol=1e-6, dtype=True)
    assert_same(sv.Variable([[1.0, 2.0], [3.0, 4.0]], backend=backend) @ [1.0, 1.0], [3.0, 7.0])


@pytest.mark.parametrize("other", [array.array("f", [3.0, 1.0]), memoryview(array.array("f", [3.0, 1.0]))])
def test_an_operator_takes_what_has_a_buffer(backend: str, other: Any) -> None:
    v = sv.Variable([[3.0, 2.0]], backend=backend)
    assert_same(v + other, [[6.0, 3.0]], dtype=False)
    assert_same(v == other, [[True, False]])


def test_lists_of_a_higher_kind_raise_the_kind_as_a_number_does(backend: str) -> None:
    v, b, u = (sv.Variable(*each, backend=backend) for each in (([1, 2],), ([True, False],), ([200, 1], (2,), "uint8")))
    assert_same(operator.add(v, [0.5, 0.5]), [1.5, 2.5])
    assert_same(v * [1j, 1j], [1j, 2j])
    assert_same(b & [True, True], [True, False])
    assert_same(operator.add(b, [1, 2]), [2, 2])
    with pytest.raises(sv.errors.RangeError, match="add: -1 is out of the range of uint8, which is 0 to 255"):
        operator.add(u, [-1, 0])
    assert_same(u == [-1, 1], [False, True])
    assert_same(u < [300, 300], [True, True])


def test_a_list_that_is_no_operand_is_an_error_and_never_one_false(backend: str) -> None:
    v = sv.Variable([[2.0, 1.0]], name="w", backend=backend)
    for op in (operator.eq, operator.add):
        name = op.__name__
        with pytest.raises(
            sv.errors.ShapeError, match=rf"{name}: shapes \(1, 2\) and \(3,\) do not fit together, at 'w'"
        ):
            op(v, [1.0, 2.0, 3.0])
        with pytest.raises(sv.errors.InitializerError, match=f"{name}: a value of type list cannot be read"):
            op(v, [[1.0], [1.0, 2.0]])
        with pytest.raises(sv.errors.InitializerError, match=f"{name}: a value of type list cannot be read"):
            op([None, 1.0], v)
        with pytest.raises(sv.errors.DTypeError, match=f"{name}: cannot combine float32 with string, at 'w'"):
            op(v, ["a", "b"])
    assert (v == None) is False  # noqa: E711
    assert (v != None) is True  # noqa: E711


def test_arrays_whose_shapes_do_not_fit_are_not_compared(backend: str) -> None:
    v = sv.Variable([2.0, 1.0], backend=backend)
    for other in (array_of(backend, [1.0, 2.0, 3.0], "float32"), sv.Variable([1.0, 2.0, 3.0], backend=backend)):
        for op in (operator.eq, operator.ne):
            with pytest.raises(Exception, match=r"(?i)shape|broadcast|size"):
                op(v, other)


def test_variables_in_a_list_keep_their_gradients(backend: str) -> None:
    v, w = sv.Variable([1.0, 2.0], backend=backend), sv.Variable(3.0, backend=backend)
    gradients = sv.grad(lambda: (v * [w, 4.0])[0], [v, w])()
    assert_same(gradients[0], [3.0, 0.0])
    assert_same(gradients[1], 1.0)


MIXED: dict[str, tuple[Call, Call]] = {
    "int + 0.5": (lambda i, f: i + 0.5, lambda i, f: i + 0.5),
    "int * 1.5": (lambda i, f: i * 1.5, lambda i, f: i * 1.5),
    "int ** 0.5": (lambda i, f: i**0.5, lambda i, f: i**0.5),
    "0.9 ** int": (lambda i, f: 0.9**i, lambda i, f: 0.9**i),
    "1.5 - int": (lambda i, f: 1.5 - i, lambda i, f: 1.5 - i),
    "int // 0.5": (lambda i, f: i // 0.5, lambda i, f: i // 0.5),
    "int < 1.5": (lambda i, f: i < 1.5, lambda i, f: i < 1.5),
    "int == 1.0": (lambda i, f: i == 1.0, lambda i, f: i == 1.0),
    "int + True": (lambda i, f: i + True, lambda i, f: i + 1),
    "int + 1j": (lambda i, f: i + 1j, lambda i, f: i + 1j),
    "float + int": (lambda i, f: f + i, lambda i, f: f + i),
    "int / float": (lambda i, f: i / f, lambda i, f: i / f),
    "float * 1j": (lambda i, f: f * 1j, lambda i, f: f * 1j),
    "int + float array": (lambda i, f: i + np.array([0.5, 0.5], "float32"), lambda i, f: i + 0.5),
    "float array - int": (lambda i, f: np.array([0.5, 0.5], "float32") - i, lambda i, f: 0.5 - i),
    "(int > 1) + int": (lambda i, f: sv.Variable(i > 1, backend=i.backend) + i, lambda i, f: (i > 1) + i),
}


@pytest.mark.parametrize(("call", "expected"), list(MIXED.values()), ids=list(MIXED))
def test_operators_promote_dtypes(backend: str, call: Call, expected: Call) -> None:
    i, f = sv.Variable([1, 2], backend=backend), sv.Variable([0.5, 4.0], backend=backend)
    assert_same(call(i, f), expected(np.array([1, 2]), np.array([0.5, 4.0])), rtol=1e-6)


MATRIX, VECTOR = np.array([[1.0, 2.0], [3.0, 4.0]], "float32"), np.array([1.0, 2.0], "float32")
CUBE = np.arange(8.0, dtype="float32").reshape(2, 2, 2)


@pytest.mark.parametrize(
    ("left", "right"),
    [(MATRIX, VECTOR), (VECTOR, MATRIX), (VECTOR, VECTOR), (MATRIX, MATRIX), (CUBE, VECTOR), (VECTOR, CUBE)],
)
def test_matmul_takes_vectors(backend: str, left: Any, right: Any) -> None:
    v, w = sv.Variable(left, backend=backend), sv.Variable(right, backend=backend)
    assert_same(v @ w, left @ right)
    assert_same(v @ w.value, left @ right)
    assert_same(v @ right, left @ right)
    assert_same(left @ w, left @ right)
    assert_same(sv.grad(lambda: total(v @ w), v)(), _vjp(left, right))


def _vjp(left: Any, right: Any) -> Any:
    """The gradient of ``sum(left @ right)`` by ``left``, by differences: the function is linear."""
    gradient = np.zeros_like(left)
    for place in np.ndindex(left.shape):
        step = np.zeros_like(left)
        step[place] = 1
        gradient[place] = (step @ right).sum()
    return gradient


def test_a_vector_is_multiplied_in_place(backend: str) -> None:
    v = sv.Variable(VECTOR, backend=backend)
    v @= sv.Variable(MATRIX, backend=backend)
    assert_same(v, VECTOR @ MATRIX)


def test_shifts_of_bits(backend: str) -> None:
    v = sv.Variable([1, 5], backend=backend)
    assert_same(v << 2, [4, 20])
    assert_same(v >> [0, 1], [1, 2])
    assert_same(1 << v, [2, 32])
    assert_same(np.array([64, 64], "int32") >> v, [32, 2])
    v <<= 3
    v >>= np.array([1, 0], "int32")
    assert_same(v, [4, 40])
    for count in (-1, 32, [0, 40]):
        wrong = max(count) if isinstance(count, list) else count
        with pytest.raises(
            sv.errors.RangeError, match=f"left_shift: expected a shift by 0 to 31 bits, got {wrong}, at"
        ):
            v <<= count
    assert_same(v, [4, 40])
    with pytest.raises(sv.errors.DTypeError, match="right_shift: float32 variables do not support shifts of bits"):
        _in_place("irshift")(sv.Variable([1.0], backend=backend), 1)


# -- writes that integers do not allow ---------------------------------------------------------------------------


ZERO: dict[str, Call] = {
    "floor_divide": _in_place("ifloordiv"),
    "remainder": _in_place("imod"),
    "at.floor_divide": lambda v, x: v.at[[0, 0]].floor_divide(x),
    "at.remainder": lambda v, x: v.at[:2].remainder(x),
}
NEGATIVE: dict[str, Call] = {
    "pow": _in_place("ipow"),
    "at.power": lambda v, x: v.at[[0, 0]].power(x),
}


@pytest.mark.parametrize("dtype", ["int32", "uint8", "int8"])
@pytest.mark.parametrize("operation", list(ZERO))
def test_a_write_that_divides_integers_by_zero_is_one_error(backend: str, operation: str, dtype: str) -> None:
    v = sv.Variable([7, 3], dtype=dtype, name="w", backend=backend)
    message = rf"^{operation}: a division of {dtype} by zero, at 'w'\. Hint: use a floating-point variable"
    for x in (0, [1, 0], sv.Variable([0, 1], dtype=dtype, backend=backend)):
        with pytest.raises(sv.errors.DivisionError, match=message):
            ZERO[operation](v, x)
        with pytest.raises(ZeroDivisionError), sv.transaction(v):
            ZERO[operation](v, x)
    assert_same(v, [7, 3])
    assert v.version == 0
    ZERO[operation](v, 2)
    assert v.version == 1


@pytest.mark.parametrize("dtype", ["int32", "int8"])
@pytest.mark.parametrize("operation", list(NEGATIVE))
def test_a_write_of_integers_to_a_negative_power_is_one_error(backend: str, operation: str, dtype: str) -> None:
    v = sv.Variable([2, 3], dtype=dtype, name="w", backend=backend)
    message = rf"^{operation}: {dtype} to the power of -1 is no integer, at 'w'\. Hint: use a floating-point variable"
    for x in (-1, [1, -1]):
        with pytest.raises(sv.errors.RangeError, match=message):
            NEGATIVE[operation](v, x)
    assert_same(v, [2, 3])
    assert v.version == 0


def test_such_a_write_in_a_compiled_function_is_the_same_error(backend: str) -> None:
    v = sv.Variable([2, 3], name="w", backend=backend)

    def write() -> None:
        nonlocal v
        v **= -1

    with pytest.raises(sv.errors.RangeError, match="pow: int32 to the power of -1"):
        sv.jit(write)()
    assert_same(v, [2, 3])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_a_power_of_integers_wraps_around(backend: str, dtype: str) -> None:
    v = sv.Variable([100, 3], dtype=dtype, backend=backend)
    v **= 5
    assert_same(v, np.array([100, 3], dtype) ** np.array(5, dtype))


AT = {
    "divide": np.divide,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "power": np.power,
}


@pytest.mark.parametrize("index", [[0, 2, 0, 0], slice(None), (slice(None, None, -1)), 1, [True, False, True, False]])
@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize("operation", list(AT))
def test_at_applies_repeated_indices_one_after_the_other(backend: str, operation: str, dtype: str, index: Any) -> None:
    if operation == "divide" and dtype == "int32":
        with pytest.raises(
            sv.errors.DTypeError, match=r"at.divide: a quotient is a float.*v\.at\[i\]\.floor_divide\(x\)"
        ):
            sv.Variable([1, 2], backend=backend).at[0].divide(2)
        return
    model = np.array([3, 2, 2, 4] if operation == "power" else [100, 50, 7, 12], dtype)
    v = sv.Variable(model, backend=backend)
    x = np.array([3, 2, 4, 2], dtype)[: np.size(model[index])].reshape(model[index].shape)
    before, was = v.value, model.copy()
    AT[operation].at(model, index, x)
    assert getattr(v.at[index], operation)(x) is v
    assert_same(v, model, rtol=1e-5)
    assert_same(before, was)
    assert v.version == 1


def test_at_divides_without_multiplying_the_divisors_first(backend: str) -> None:
    v = sv.Variable([1e30, 1.0], backend=backend)
    v.at[[0, 0]].divide(1e30)
    assert_same(v, [1e-30, 1.0], rtol=1e-5)
    v.at[[0, 0, 1]].multiply([1e30, 1e30, 2.0])
    assert_same(v, [1e30, 2.0], rtol=1e-5)


@pytest.mark.parametrize("operation", ["power", "remainder", "floor_divide"])
def test_at_works_in_compiled_functions(backend: str, operation: str) -> None:
    v = sv.Variable([9.0, 2.0], backend=backend)

    @sv.jit
    def step() -> None:
        getattr(v.at[[0, 0, 1]], operation)([2.0, 0.5, 2.0])

    step()
    model = np.array([9.0, 2.0], "float32")
    AT[operation].at(model, [0, 0, 1], np.array([2.0, 0.5, 2.0], "float32"))
    assert_same(v, model, rtol=1e-5)


def test_a_power_at_an_index_has_a_gradient(backend: str) -> None:
    v, x = sv.Variable([3.0, 2.0], backend=backend), sv.Variable([5.0], backend=backend)

    def loss() -> Any:
        v.at[[0, 0]].power([2.0, 1.0])
        return v[0] * x[0]

    with sv.rollback(v):
        gradient = sv.grad(loss, [v])()[0]
    assert_same(gradient, [30.0, 0.0], rtol=1e-5)
