"""Row 4: assign, operators that write, item writes, and the rule by which values are cast."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.helpers import array_of, assert_same, host
from tests.internals import HOST, dtype_kind
from tests.variable.dtypes import CANNOT_HOLD

IN_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
}
BITWISE = {operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor}


def test_assign_returns_the_variable(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    assert v.assign([3.0, 4.0]) is v
    assert v.assign_add(1.0) is v
    assert v.assign_sub([1.0, 2.0]) is v
    assert v.at[0].set(9.0) is v
    assert_same(v, [9.0, 3.0])
    assert v.version == 4


@pytest.mark.parametrize("op", IN_PLACE, ids=lambda op: op.__name__)
def test_operators_write_the_variable(backend: str, op: Any) -> None:
    start = np.array([[1.5, 2.0], [3.0, 4.25]], "float32")
    v = original = sv.Variable(start, backend=backend)
    for operand in (2.0, np.array([2.0, 4.0], "float32"), array_of(backend, [[2.0], [1.0]], "float32")):
        expected = IN_PLACE[op](v.numpy(), host(operand).astype("float32"))
        version = v.version
        v = op(v, operand)
        assert v is original
        assert v.version == version + 1
        assert_same(v, expected, rtol=1e-6, dtype=True)


@pytest.mark.parametrize("op", BITWISE, ids=lambda op: op.__name__)
def test_bitwise_operators_write_the_variable(backend: str, op: Any) -> None:
    v = original = sv.Variable([12, 10], backend=backend)
    v = op(v, 6)
    assert v is original
    assert_same(v, BITWISE[op](np.array([12, 10]), 6))
    b = sv.Variable([True, False], backend=backend)
    b = op(b, [True, True])
    assert_same(b, BITWISE[op](np.array([True, False]), True))


def test_matmul_writes_the_variable(backend: str) -> None:
    v = original = sv.Variable([[1.0, 2.0], [3.0, 4.0]], backend=backend)
    v @= [[0.0, 1.0], [1.0, 0.0]]
    assert v is original
    assert_same(v, [[2.0, 1.0], [4.0, 3.0]])
    with pytest.raises(
        sv.errors.ShapeError,
        match=r"matmul: expected a matrix of shape \(2, 2\) for a variable of shape \(2, 2\), got shape \(2, 3\)",
    ):
        v @= np.ones((2, 3), "float32")
    assert_same(v, [[2.0, 1.0], [4.0, 3.0]])


def test_operators_that_a_dtype_lacks_are_refused(backend: str) -> None:
    flag, count, weight = (sv.Variable(value, name="x", backend=backend) for value in ([True], [3], [1.0]))
    for op in list[Any](IN_PLACE):
        with pytest.raises(sv.errors.DTypeError, match="bool variables do not support arithmetic, at 'x'. Hint: use &"):
            op(flag, True)
    with pytest.raises(sv.errors.DTypeError, match="divide: a quotient is a float, not int32, at 'x'. Hint: use //="):
        count /= 2
    with pytest.raises(sv.errors.DTypeError, match="at.divide: a quotient is a float, not int32"):
        count.at[0].divide(2)
    with pytest.raises(sv.errors.DTypeError, match="bitwise_and: float32 variables do not support bitwise operations"):
        weight &= 1
    with pytest.raises(sv.errors.DTypeError, match="0.5 cannot be represented as int32"):
        count += 0.5
    assert [flag.version, count.version, weight.version] == [0, 0, 0]


ARITHMETIC = [name for name in HOST if dtype_kind(name) in ("int", "uint", "float", "complex")]


@pytest.mark.parametrize("dtype", ARITHMETIC)
def test_every_dtype_adds_indexes_and_accumulates(backend: str, dtype: str) -> None:
    if dtype in CANNOT_HOLD[backend]:
        pytest.skip(f"{backend} cannot hold {dtype}")
    model = np.array([1, 2, 3, 1], HOST[dtype])
    v = sv.Variable(model, backend=backend)
    one = np.array(1, HOST[dtype])
    v += 1
    model = model + one
    assert_same(v, model, dtype=True)
    v -= 1
    v *= 2
    model = (model - one) * (one + one)
    assert_same(v, model, dtype=True)
    v[::-1] = v.numpy()
    model = model[::-1].copy()
    assert_same(v, model, dtype=True)
    v[[0, 2]] = 1
    model[[0, 2]] = one
    v.at[[1, 1]].add(1)
    np.add.at(model, [1, 1], one)
    v.at[1:3].subtract(1)
    model[1:3] -= one
    assert_same(v, model, dtype=True)
    v.at[[0, 0]].multiply(2)
    np.multiply.at(model, [0, 0], one + one)
    assert_same(v, model, dtype=True)
    if dtype_kind(dtype) != "complex":
        v.at[[0, 3]].min([2, 1])
        v.at[[1, 1]].max([2, 3])
        np.minimum.at(model, [0, 3], np.array([2, 1], HOST[dtype]))
        np.maximum.at(model, [1, 1], np.array([2, 3], HOST[dtype]))
        assert_same(v, model, dtype=True)
    mask = np.array([True, False, True, False])
    v[mask] = 0
    model[mask] = 0
    assert_same(v, model, dtype=True)


# What casts, and what raises. "python" values are numbers and lists of them.
SAME_KIND = [("int8", "int32"), ("int32", "int8"), ("uint8", "int16"), ("int32", "float32"), ("float32", "float16"),
             ("bool", "int32"), ("bool", "float32"), ("float16", "float32"), ("float32", "complex64"),
             ("float32", "bfloat16"), ("bfloat16", "float32"), ("int32", "uint8")]  # fmt: skip
REFUSED = [("float32", "int32"), ("complex64", "float32"), ("complex64", "int32"), ("int32", "bool"),
           ("float16", "uint8"), ("float32", "bool")]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), SAME_KIND)
def test_arrays_cast_within_their_kind_and_upwards(backend: str, source: str, target: str) -> None:
    given = np.array([1, 0], HOST[source])
    for value in (given, sv.Variable(given, backend=backend).value):
        v = sv.Variable([0, 0], dtype=target, backend=backend)
        assert_same(v.assign(value), np.array([1, 0], HOST[target]), dtype=True)
        v.assign_add(value)
        v[:1] = value[:1]
        assert v.dtype_name == target


@pytest.mark.parametrize(("source", "target"), REFUSED)
def test_arrays_do_not_cast_downwards(backend: str, source: str, target: str) -> None:
    v = sv.Variable([1, 0], dtype=target, name="w", backend=backend)
    message = f"cannot cast {source} to {target} without losing information, at 'w'.*x.astype\\('{target}'\\)"
    for value in (np.array([1, 0], source), array_of(backend, np.array([1, 0], source))):
        for write in (v.assign, v.at[:].set):
            with pytest.raises(TypeError, match=message):
                write(value)
    assert_same(v, np.array([1, 0], HOST[target]))
    assert v.version == 0


@pytest.mark.parametrize(
    ("value", "target", "stored"),
    [(2.0, "int32", 2), (2 + 0j, "float32", 2.0), (2 + 0j, "int8", 2), (1, "bool", True), (0.0, "bool", False),
     (True, "float32", 1.0), ([1.0, 2.0], "int32", [1, 2]), (-1, "float16", -1.0), (16777217, "float32", 16777216.0),
     (float("inf"), "float16", float("inf")), (float("nan"), "float32", float("nan")),
     (0.1, "float16", np.float16(0.1))],
)  # fmt: skip
def test_python_numbers_that_are_exact_cast(backend: str, value: Any, target: str, stored: Any) -> None:
    v = sv.Variable(np.zeros(np.shape(value), HOST[target]), backend=backend)
    assert_same(v.assign(value), np.array(stored, HOST[target]), dtype=True)


@pytest.mark.parametrize(
    ("value", "target", "error", "message"),
    [
        (2.7, "int32", TypeError, "2.7 cannot be represented as int32"),
        ([1.0, 2.5], "int32", TypeError, "2.5 cannot be represented as int32"),
        (1 + 1j, "float32", TypeError, r"\(1\+1j\) cannot be represented as float32"),
        (float("nan"), "int32", TypeError, "nan cannot be represented as int32"),
        (float("inf"), "int8", TypeError, "inf cannot be represented as int8"),
        (1e30, "int32", TypeError, "1e\\+30 cannot be represented as int32"),
        (2, "bool", TypeError, "2 cannot be represented as bool"),
        (
            300,
            "int8",
            OverflowError,
            "300 is out of the range of int8, which is -128 to 127, at 'w'. Hint: use a wider dtype",
        ),
        (-1, "uint8", OverflowError, "-1 is out of the range of uint8"),
        (2**40, "int32", OverflowError, "is out of the range of int32"),
        (8, "int4", OverflowError, "8 is out of the range of int4, which is -8 to 7"),
        (1e300, "float32", OverflowError, "1e\\+300 is out of the range of float32"),
        (70000, "float16", OverflowError, "70000 is out of the range of float16"),
        (500.0, "float8_e4m3fn", OverflowError, "500.0 is out of the range of float8_e4m3fn"),
        (math.inf, "float8_e4m3fn", OverflowError, "inf is out of the range of float8_e4m3fn"),
        (10**400, "float32", OverflowError, "does not fit into 64 bits"),
    ],
)
def test_python_numbers_that_would_be_changed_raise(
    backend: str, value: Any, target: str, error: type[Exception], message: str
) -> None:
    if target in CANNOT_HOLD[backend]:
        pytest.skip(f"{backend} cannot hold {target}")
    zero = np.zeros(np.shape(value) if not isinstance(value, int) else (), HOST[target])
    v = sv.Variable(zero, name="w", backend=backend)
    for write in (v.assign, v.at[...].set) if target == "bool" else (v.assign, v.assign_add, v.at[...].set):
        with pytest.raises(error, match=message):
            write(value)
    assert_same(v, zero)
    assert v.version == 0


@pytest.mark.parametrize(
    ("value", "target"),
    [(np.array([300], "int32"), "int8"), (np.array([-1], "int8"), "uint8"), (np.array([2**15], "int32"), "int16"),
     (np.array([1e20], "float32"), "float16"), (np.array([200], "uint8"), "int8")],
)  # fmt: skip
def test_arrays_out_of_range_raise(backend: str, value: Any, target: str) -> None:
    v = sv.Variable(np.zeros(1, target), name="w", backend=backend)
    for each in (value, array_of(backend, value)):
        with pytest.raises(OverflowError, match=f"out of the range of {target}"):
            v.assign(each)
    assert v.version == 0


@settings(max_examples=60)
@given(
    source=st.sampled_from(["int8", "uint8", "int16", "int32", "float16", "float32", "bool", "complex64"]),
    target=st.sampled_from(["int8", "uint8", "int16", "int32", "float16", "float32", "bool", "complex64", "bfloat16"]),
    numbers=st.lists(st.integers(-300, 300), min_size=1, max_size=4),
)
def test_a_cast_is_lossless_or_an_error(backend: str, source: str, target: str, numbers: list[int]) -> None:
    with np.errstate(all="ignore"):
        value = np.array(numbers).astype(source)
    v = sv.Variable(np.zeros(len(numbers), HOST[target]), backend=backend)
    results: list[Any] = []
    for each in (value, array_of(backend, value)):
        try:
            results.append(v.assign(each).numpy().astype(np.complex128))
        except (TypeError, OverflowError) as error:
            results.append(type(error))
    if isinstance(results[0], type):
        assert results[0] is results[1]
        return
    assert_same(results[0], results[1])
    rounding = 0 if target != "bfloat16" else 0.01
    assert_same(results[0], value.astype(np.complex128), rtol=rounding)


def test_assign_takes_arrays_of_other_libraries(backend: str) -> None:
    v = sv.Variable(np.zeros((2, 2), "float32"), backend=backend)
    for other in ("numpy", "jax", "torch", "tensorflow"):
        x = array_of(other, [[1.0, 2.0], [3.0, 4.0]], "float32")
        assert_same(v.assign(x), [[1.0, 2.0], [3.0, 4.0]])
        assert_same(v.assign_add(x), [[2.0, 4.0], [6.0, 8.0]])
        v[0] = x[1]
        assert_same(v, [[3.0, 4.0], [6.0, 8.0]])
        w = sv.Variable(x)
        assert_same(v.assign(w), [[1.0, 2.0], [3.0, 4.0]])


def test_assign_takes_a_tensor_that_requires_grad(backend: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    v = sv.Variable([0.0, 0.0], backend=backend)
    assert_same(v.assign(x * 2), [2.0, 4.0])
    assert_same(v.assign_add(x), [3.0, 6.0])


def test_assign_takes_pandas(backend: str) -> None:
    pd = pytest.importorskip("pandas")

    v = sv.Variable([0.0, 0.0], backend=backend)
    assert_same(v.assign(pd.Series([1.0, 2.0], dtype="float32")), [1.0, 2.0])


def test_values_that_are_no_array_are_refused(backend: str) -> None:
    v = sv.Variable([0.0, 0.0], name="w", backend=backend)
    for value in (None, object(), [[1.0], [2.0, 3.0]], {"a": 1}, [None, 1.0]):
        with pytest.raises(sv.errors.InitializerError, match="assign: a value of type .*, at 'w'. Hint: pass a number"):
            v.assign(value)
    with pytest.raises(sv.errors.DTypeError, match="cannot cast string to float32"):
        v.assign("ab")
    assert_same(v, [0.0, 0.0])


def test_a_variable_can_be_assigned_to_itself(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    assert_same(v.assign(v), [1.0, 2.0])
    assert_same(v.assign_add(v), [2.0, 4.0])
    v[::-1] = v
    assert_same(v, [4.0, 2.0])
    v[:] = v.value[::-1] if backend != "torch" else v.value.flip(0)
    assert_same(v, [2.0, 4.0])


def test_use_locking_false_still_writes(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    v.assign([2.0], use_locking=False).assign_add(1.0, use_locking=False).assign_sub(0.5, use_locking=False)
    assert_same(v, [2.5])
    assert v.version == 3
