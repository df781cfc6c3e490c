"""Row 5: values, operators, comparisons, and Python's own protocols."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, array_type, assert_same, host

ARITHMETIC = [operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow]
BITWISE = [operator.and_, operator.or_, operator.xor]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]


def test_numpy_is_the_callers_own(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    mine = v.numpy()
    assert type(mine) is np.ndarray
    assert mine.flags.writeable
    mine[...] = 9.0
    assert_same(v, [1.0, 2.0])
    v.assign_add(1.0)
    assert_same(mine, [9.0, 9.0])


@pytest.mark.parametrize("op", [*ARITHMETIC, *COMPARISONS], ids=lambda op: op.__name__)
def test_operators_are_the_librarys_own(backend: str, op: Any) -> None:
    v = sv.Variable([[1.5, 2.0], [3.0, 4.0]], backend=backend)
    for other in (2.0, 3, array_of(backend, [[2.0], [1.0]], "float32")):
        for ours, theirs in ((op(v, other), op(v.value, other)), (op(other, v), op(other, v.value))):
            assert type(ours) is type(theirs)
            assert ours.dtype == theirs.dtype
            assert_same(ours, theirs)
    assert_same(op(v, v), op(v.value, v.value))
    assert v.version == 0


@pytest.mark.parametrize("op", BITWISE, ids=lambda op: op.__name__)
def test_bitwise_operators_are_the_librarys_own(backend: str, op: Any) -> None:
    for values in ([12, 10], [True, False]):
        v = sv.Variable(values, backend=backend)
        other = array_of(backend, np.array(values)[::-1].copy(), v.dtype_name)
        assert_same(op(v, other), op(v.value, other))
        assert_same(op(other, v), op(other, v.value))


def test_unary_operators_round_and_divmod_give_values(backend: str) -> None:
    v = sv.Variable([-1.5, 2.25], backend=backend)
    assert_same(-v, [1.5, -2.25])
    assert_same(+v, [-1.5, 2.25])
    assert_same(abs(v), [1.5, 2.25])
    assert_same(round(v), [-2.0, 2.0])
    assert_same(round(v, 1), [-1.5, 2.2], rtol=1e-6)
    assert_same(round(sv.Variable([1, 2], backend=backend)), [1, 2])
    assert_same(~sv.Variable([1, -2], backend=backend), [-2, 1])
    assert_same(~sv.Variable([True, False], backend=backend), [False, True])
    quotient, remainder = divmod(v, 2.0)
    assert_same(quotient, [-1.0, 1.0])
    assert_same(remainder, [0.5, 0.25])
    quotient, remainder = divmod(5.0, sv.Variable([2.0], backend=backend))
    assert_same(quotient, [2.0])
    assert_same(remainder, [1.0])


def test_matmul_takes_a_variable_on_either_side(backend: str) -> None:
    v = sv.Variable([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], backend=backend)
    w = sv.Variable([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], backend=backend)
    assert_same(w @ v, [[22.0, 28.0], [49.0, 64.0]])
    assert_same(w.value @ v, [[22.0, 28.0], [49.0, 64.0]])
    assert_same(w @ v.value, [[22.0, 28.0], [49.0, 64.0]])


def test_numpy_operands_stay_with_the_variables_library(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    x = np.array([10.0, 20.0], "float32")
    for result, expected in ((v + x, [11.0, 22.0]), (x + v, [11.0, 22.0]), (x - v, [9.0, 18.0]), (x / v, [10.0, 10.0])):
        assert isinstance(result, array_type(backend))
        assert_same(result, expected)
    assert isinstance(x > v, array_type(backend))
    assert_same(np.float32(2) * v, [2.0, 4.0])


def test_an_operand_of_another_library_decides_the_result(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    for other in ("jax", "torch", "tensorflow"):
        x = array_of(other, [10.0, 20.0], "float32")
        # The result is an array of the other library: it converts us, as it would convert NumPy.
        for result in (v + x, x + v, v * x):
            assert isinstance(result, array_type(other))
        assert_same(x - v, [9.0, 18.0])
        assert_same(v - x, [-9.0, -18.0])


def test_variables_of_two_libraries_meet_in_one_of_them(backend: str) -> None:
    other = "torch" if backend != "torch" else "jax"
    v, w = sv.Variable([1.0], backend=backend), sv.Variable([2.0], backend=other)
    # As beside an array: the result is of the other's library, and NumPy's is always the other.
    assert isinstance(v - w, array_type(other))
    assert isinstance(w - v, array_type(other if backend == "numpy" else backend))
    assert_same(v - w, [-1.0])
    assert_same(w - v, [1.0])


def test_equality_compares_elements_and_hashes_by_identity(backend: str) -> None:
    v, w = sv.Variable([1.0, 2.0], backend=backend), sv.Variable([1.0, 3.0], backend=backend)
    assert_same(v == w, [True, False])
    assert_same(v != w, [False, True])
    assert (v == None) is False  # noqa: E711  # the point
    assert (v != None) is True  # noqa: E711
    assert (None == v) is False  # noqa: E711, SIM300
    assert hash(v) != hash(w)
    assert {v: 1, w: 2}[v] == 1
    assert v in [w, v][1:]


def test_scalars_convert_to_numbers_of_python_and_others_do_not(backend: str) -> None:
    s = sv.Variable(2.5, backend=backend)
    assert (float(s), int(s), bool(s), complex(s)) == (2.5, 2, True, 2.5 + 0j)
    n = sv.Variable(3, backend=backend)
    assert [10, 11, 12, 13][n] == 13
    assert list(range(n)) == [0, 1, 2]
    assert np.zeros(5)[n] == 0
    assert f"{float(s):.2f}" == "2.50"
    with pytest.raises(TypeError):
        operator.index(s)
    v = sv.Variable([1.0, 2.0], backend=backend)
    for convert in (float, int, bool, complex, operator.index):
        with pytest.raises(TypeError, match=r"expected a scalar, got shape \(2,\). Hint: index it first"):
            convert(v)


def test_it_is_a_sequence_of_rows_that_do_not_change(backend: str) -> None:
    v = sv.Variable([[1.0, 2.0], [3.0, 4.0]], backend=backend)
    assert len(v) == 2
    rows = list(v)
    v.assign_add(10.0)
    assert_same(rows[0], [1.0, 2.0])
    assert_same(rows[1], [3.0, 4.0])
    first, second = iter(v)
    assert_same(second - first, [2.0, 2.0])
    assert 12.0 in v
    assert 5.0 not in v
    scalar = sv.Variable(1.0, backend=backend)
    for use in (len, iter, list):
        with pytest.raises(TypeError, match="a scalar has no"):
            use(scalar)


def test_facts_are_read_and_cannot_be_set(backend: str) -> None:
    v = sv.Variable(np.zeros((2, 3), "float32"), name="w", backend=backend)
    assert (v.shape, v.ndim, v.size, v.nbytes, v.backend, v.name) == ((2, 3), 2, 6, 24, backend, "w")
    assert v.dtype == v.value.dtype
    assert type(v.shape) is tuple
    for attribute in ("shape", "dtype", "device", "name", "path", "version", "value"):
        with pytest.raises(AttributeError):
            setattr(v, attribute, 1)


def test_the_namespace_computes_on_values(backend: str) -> None:
    v = sv.Variable([[1.0, 2.0], [3.0, 4.0]], backend=backend)
    xp = v.__array_namespace__()
    x = xp.asarray([[1.0], [2.0]], dtype=v.dtype)
    y = xp.maximum(v.value @ x, xp.zeros((2, 1), dtype=v.dtype))
    assert_same(
        xp.sum(xp.exp(y - xp.max(y, axis=0, keepdims=True)), axis=0), [1.0 + np.exp(np.float32(-6.0))], rtol=1e-6
    )
    assert_same(xp.matrix_transpose(v.value), [[1.0, 3.0], [2.0, 4.0]])
    assert_same(xp.argmax(v.value, axis=1), [1, 1])
    assert_same(xp.argmin(v.value), 0)
    assert_same(xp.argmax(v.value, axis=1, keepdims=True), [[1], [1]])
    assert_same(xp.concat([v.value, v.value], axis=0), np.concatenate([host(v), host(v)]))
    assert_same(xp.astype(v.value, xp.int32), [[1, 2], [3, 4]])
    assert xp.isdtype(v.dtype, "real floating")
    assert not xp.isdtype(v.dtype, "integral")
    assert xp.isdtype(v.dtype, ("bool", "real floating"))
    assert_same(xp.pow(v.value, xp.asarray(2.0)), [[1.0, 4.0], [9.0, 16.0]])
    assert_same(xp.permute_dims(v.value, (1, 0)), [[1.0, 3.0], [2.0, 4.0]])


def test_the_parameter_is_one_object_that_shows_every_write(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", backend=backend)
    if backend in ("numpy", "jax"):
        with pytest.raises(AttributeError, match=f"{backend} has no mutable parameter object, at 'w'. Hint: use v.val"):
            _ = v.parameter
        return
    parameter = v.parameter
    v.assign_add(1.0)
    assert v.parameter is parameter
    assert_same(parameter, [2.0, 3.0])


def test_torch_optimizers_write_through_the_parameter() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    before = v.value
    optimizer = torch.optim.SGD([v.parameter], lr=0.5)
    (v.value**2).sum().backward()
    optimizer.step()
    assert_same(v, [0.0, 0.0])
    assert_same(before, [1.0, 2.0])
    assert v.version == 1
    v.assign([3.0, 4.0])
    assert_same(v.parameter, [3.0, 4.0])
    v.parameter.data = torch.tensor([7.0, 8.0])
    assert_same(v.assign_add(1.0), [8.0, 9.0])


def test_tensorflow_optimizers_write_through_the_parameter() -> None:
    tf = pytest.importorskip("tensorflow")
    v = sv.Variable([1.0, 2.0], backend="tensorflow")
    before = v.value
    v.parameter.assign_sub([1.0, 1.0])
    assert_same(v, [0.0, 1.0])
    assert_same(before, [1.0, 2.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(v.value**2)
    assert_same(tape.gradient(loss, v.parameter), [0.0, 2.0])
