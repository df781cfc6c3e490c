"""The cases of TensorFlow's own tests of its variables, on every library.

They follow, in eager mode, ``dense_update_ops_test``, ``variables_test``, ``resource_variable_ops_test``,
``scatter_ops_test``, ``scatter_nd_ops_test``, ``batch_scatter_ops_test`` and the assignments to slices of
``array_ops_test``. Where we decided otherwise, the test says so, and docs/migrating.md why.
"""

from __future__ import annotations

import copy
import operator
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, assert_same, host, total
from tests.internals import HOST

FLOATS = ("float16", "float32", "float64", "bfloat16")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8")


def held(backend: str, *dtypes: str) -> Iterator[str]:
    """Those of the dtypes that the library has; JAX has no 64 bits here."""
    return (each for each in dtypes if not (backend == "jax" and each in ("float64", "int64", "complex128")))


# -- dense_update_ops_test ------------------------------------------------------------------------------------


def test_dense_updates(backend: str) -> None:
    for dtype in held(backend, "float32", "float64", "int32", "int64", "bfloat16"):
        y = np.arange(20).reshape(4, 5).astype(HOST[dtype])
        x = np.zeros_like(y)
        for name, expected in (("assign", y), ("assign_add", x + y), ("assign_sub", x - y)):
            p = sv.Variable(x, backend=backend)
            assert_same(getattr(p, name)(y), expected, dtype=True)
            assert_same(p, expected, dtype=True)


# -- variables_test -----------------------------------------------------------------------------------------


def test_initialization(backend: str) -> None:
    with sv.name_scope(f"initialization_on_{backend}"):
        one, two = sv.Variable(0.0, backend=backend), sv.Variable(1.1, backend=backend)
    assert one.path != two.path
    assert (one.shape, one.is_initialized) == ((), True)
    assert_same(two, np.float32(1.1))
    empty = sv.Variable(shape=(), dtype="float32", name="empty", backend=backend)
    assert not empty.is_initialized
    with pytest.raises(sv.errors.UninitializedError, match="read: the variable has no value yet, at 'empty'"):
        empty.value  # noqa: B018


def test_variables_made_of_variables(backend: str) -> None:
    one = sv.Variable("uniform", shape=(3, 6), backend=backend)
    two = sv.Variable(one, name="dep")
    three = sv.Variable(one + two + 2.0)
    assert two.shape == three.shape == (3, 6)
    assert_same(three, host(one) + host(two) + np.float32(2.0))


def test_iteration(backend: str) -> None:
    with pytest.raises(TypeError, match="iter: a scalar has no elements"):
        iter(sv.Variable(0.0, backend=backend))
    assert [float(host(each)) for each in sv.Variable([0.0, 1.0], backend=backend)] == [0.0, 1.0]


def test_assignments(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)
    for write, expected in ((v.assign_add, 1.0), (v.assign_sub, -1.0), (v.assign, 4.0)):
        operand = {1.0: 1.0, -1.0: 2.0, 4.0: 4.0}[expected]
        assert_same(write(operand), expected)
        assert_same(v, expected)


def test_a_value_of_another_shape(backend: str) -> None:
    v = sv.Variable(np.zeros((1, 1), "float32"), backend=backend)
    with pytest.raises(ValueError, match=r"assign: expected shape \(1, 1\), got \(2, 2\)"):
        v.assign(np.zeros((2, 2)))
    tf_shape = ... if backend != "tensorflow" else pytest.importorskip("tensorflow").TensorShape(None)
    v = sv.Variable(np.zeros((1, 1), "float32"), shape=tf_shape, backend=backend)
    assert_same(v.assign(np.zeros((2, 2))), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"the initial value has shape \(3,\), which does not fit .* \(4,\)"):
        sv.Variable(np.zeros(3, "float32"), shape=[4], backend=backend)


def test_strings_of_no_size() -> None:
    v = sv.Variable(np.zeros(0, "T"), name="foo", trainable=False)
    assert v.assign(v.value).numpy().tolist() == []


def count_up_to(v: sv.Variable, limit: int) -> Any:
    """As in docs/migrating.md."""

    def step(count: Any) -> Any:
        if count >= limit:
            raise OverflowError(f"reached the limit of {limit}")
        return count + 1

    return v.update(step) - 1


def test_counting_up_to_a_limit(backend: str) -> None:
    for dtype in held(backend, "int32", "int64"):
        v = sv.Variable(0, dtype=dtype, backend=backend)
        for expected in range(3):
            assert int(count_up_to(v, 3)) == expected
            assert int(v) == expected + 1
        for _ in range(2):
            with pytest.raises(OverflowError, match="reached the limit of 3"):
                count_up_to(v, 3)
            assert int(v) == 3


def test_variables_of_no_size(backend: str) -> None:
    v = sv.Variable(np.zeros((0, 2), "float32"), backend=backend)
    assert v.is_initialized
    assert_same(array_of(backend, np.ones((2, 0)), "float32") @ v, np.zeros((2, 2)))
    if backend == "numpy":
        pytest.importorskip("autograd")
    b = sv.Variable(np.ones((2, 2), "float32"), backend=backend)
    _, gradients = sv.value_and_grad(lambda: total(b.value) + total(v.value))()
    assert_same(b.assign_sub(0.1 * gradients[b]), np.full((2, 2), np.float32(0.9)))
    assert_same(gradients[v], np.zeros((0, 2)))


def test_operators(backend: str) -> None:
    v = sv.Variable([2.0], backend=backend)
    for got, expected in (
        (v + 0.0, [2.0]),
        (1.0 + v, [3.0]),
        (v - 1.0, [1.0]),
        (1.0 - v, [-1.0]),
        (v * 10.0, [20.0]),
        (10.0 * v, [20.0]),
        (v / 10.0, [np.float32(0.2)]),
        (10.0 / v, [5.0]),
        (-v, [-2.0]),
        (abs(v), [2.0]),
        (v < 3.0, [True]),
        (3.0 < v, [False]),  # noqa: SIM300
        (v <= 2.0, [True]),
        (2.0 <= v, [True]),  # noqa: SIM300
        (v > 3.0, [False]),
        (3.0 > v, [True]),  # noqa: SIM300
        (v >= 2.0, [True]),
        (2.0 >= v, [True]),  # noqa: SIM300
        (sv.Variable([20], backend=backend) % 7, [6]),
        (103 % sv.Variable([20], backend=backend), [3]),
    ):
        assert_same(got, expected)
    b = sv.Variable([True, False], backend=backend)
    for other in (np.array, list):
        assert_same(operator.and_(b, other([True, True])), [True, False])
        assert_same(operator.or_(b, other([False, True])), [True, True])
        assert_same(operator.xor(b, other([False, False])), [True, False])
    assert_same(~b, [False, True])
    t = np.random.default_rng(0).random((4, 4), "float32")
    assert_same(sv.Variable(t, backend=backend)[2, 0:0], t[2, 0:0])
    m = sv.Variable([[2.0, 3.0]], backend=backend)
    for column in (np.array([[10.0], [20.0]], "float32"), [[10.0], [20.0]]):
        assert_same(m.__matmul__(column), [[80.0]])
        assert_same(m.__rmatmul__(column), [[20.0, 30.0], [40.0, 60.0]])


def test_initial_values_from_functions(backend: str) -> None:
    value = [[-42.0], [133.7]]
    one = sv.Variable(lambda: value, dtype="float32", backend=backend)
    two = sv.Variable(lambda: -one.value, dtype="float32", backend=backend)
    assert one.shape == two.shape == (2, 1)
    assert_same(two, np.negative(np.array(value, "float32")))
    assert sv.Variable(lambda: 1, dtype="float32", backend=backend).dtype_name == "float32"
    assert sv.Variable(lambda: 1, backend=backend).dtype_name == "int32"
    assert np.array(sv.Variable(lambda: 1, backend=backend)) == 1
    assert np.array(sv.Variable(lambda: [1, 2], backend=backend)).tolist() == [1, 2]


def test_the_constraint(backend: str) -> None:
    def constraint(x: Any) -> Any:
        return x

    assert sv.Variable(lambda: 1.0, constraint=constraint, backend=backend).constraint is constraint
    with pytest.raises(TypeError, match="constraint: expected a callable or None, got 0"):  # a ValueError there
        sv.Variable(lambda: 1.0, constraint=0, backend=backend)  # type: ignore[arg-type]


def test_flags(backend: str) -> None:
    assert sv.Variable(1.0, backend=backend).trainable
    assert not sv.Variable(1.0, trainable=False, backend=backend).trainable
    with pytest.raises(TypeError, match="'synchronization'. Hint: write nothing: a variable has one value"):
        sv.Variable(1.0, synchronization="ON_READ", backend=backend)  # type: ignore[arg-type]
    tf = pytest.importorskip("tensorflow")
    v = sv.Variable(1.0, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA, backend=backend)
    assert v.aggregation == "only_first_replica"


# -- resource_variable_ops_test ------------------------------------------------------------------------------


def test_a_variable_made_in_a_compiled_function(backend: str) -> None:
    @sv.jit
    def f() -> Any:
        return sv.Variable(3, backend=backend).assign_add(5).value

    assert [int(f()) for _ in range(3)] == [8, 8, 8]


def test_four_bits(backend: str) -> None:
    for dtype in ("int4", "uint4"):
        if backend == "torch":
            with pytest.raises(sv.errors.DTypeError, match=dtype):
                sv.Variable(1, dtype=dtype, backend=backend)
        else:
            v = sv.Variable(1, dtype=dtype, backend=backend)
            assert v.numpy() == 1
            assert v.assign(2).numpy() == 2


def test_variables_with_the_same_name(backend: str) -> None:
    one, two = (sv.Variable(value, name="a", backend=backend) for value in (1.0, 2.0))
    two.assign(3.0)
    assert (float(one), float(two)) == (1.0, 3.0)


def test_a_value_of_another_dtype(backend: str) -> None:
    v = sv.Variable([1], name="foo", backend=backend)
    with pytest.raises(sv.errors.DTypeError, match="assign: cannot cast float32 to int32 .*, at 'foo'"):
        v.assign(array_of(backend, [1.0], "float32"))
    assert sv.Variable(False, backend=backend).dtype_name == "bool"
    assert bool(sv.Variable(False, backend=backend)) is False


def test_copies_and_pickles(backend: str) -> None:
    v = sv.Variable(np.ones((4, 4, 4), "float32"), name="init", aggregation="sum", backend=backend)
    copied = copy.deepcopy(v)
    for name in ("name", "shape", "device", "aggregation", "dtype_name"):
        assert getattr(copied, name) == getattr(v, name)
    copied.assign(4 * np.ones((4, 4, 4)))
    assert_same(v, np.ones((4, 4, 4)))
    v = sv.Variable(10.0, dtype="float16", name="v", trainable=False, backend=backend)
    loaded = pickle.loads(pickle.dumps(v))
    for name in ("name", "shape", "dtype", "trainable"):
        assert getattr(loaded, name) == getattr(v, name)
    assert_same(loaded, v, dtype=True)


def test_the_text_never_raises(backend: str) -> None:
    assert repr(sv.Variable(1, name="one", backend=backend)).startswith("<Variable 'one' shape=() dtype=int32")

    class Broken(sv.Variable):
        @property
        def is_initialized(self) -> bool:
            raise ValueError("this does not work")

    assert "unavailable: ValueError>" in repr(Broken(1, backend=backend))


def test_writes_return_the_variable(backend: str) -> None:
    v = sv.Variable(1.0, name="var0", backend=backend)
    assert v.assign(2.0) is v
    assert float(v.assign(3.0, read_value=True)) == 3.0
    assert v.assign(4.0, read_value=False) is None
    assert float(v.assign_add(1.0).assign_add(1.0)) == 6.0
    assert v.assign_add(1.0, read_value=False) is None
    assert float(v.assign_sub(1.0).assign_sub(1.0)) == 5.0
    assert v.assign_sub(1.0, read_value=False) is None
    assert float(v) == 4.0
    w = sv.Variable([1.0, 2.0], backend=backend)
    assert_same(w.at[[1]].add(2.0).at[[1]].add(2.0), [1.0, 6.0])
    assert_same(w.at[[1]].subtract(2.0).at[[1]].subtract(2.0), [1.0, 2.0])
    assert_same(w.at[[0]].max(3.0).at[[1]].add(2.0), [3.0, 4.0])
    assert_same(w.at[[1]].add(2.0).at[[1]].min(2.0), [3.0, 2.0])
    assert_same(w.at[[1]].multiply(2.0).at[[1]].multiply(2.0), [3.0, 8.0])
    assert_same(w.at[[1]].divide(2.0).at[[1]].divide(2.0), [3.0, 2.0])
    assert_same(w.at[([1],)].set([4.0]).at[([0],)].add([2.0]).at[([1],)].subtract([3.0]), [5.0, 1.0])
    batch = sv.Variable(np.ones((2, 2), "float32"), backend=backend)
    rows = np.arange(2)[:, None]
    assert_same(
        batch.at[rows, [[1], [0]]].set([[2.0], [2.0]]).at[rows, [[1], [1]]].set([[3.0], [3.0]]), [[1, 3], [2, 3]]
    )


def test_a_shape_that_only_a_call_knows(backend: str) -> None:
    v = sv.Variable([1.0, 1.0], backend=backend)
    write = sv.jit(lambda x: v.assign(x).value)
    with pytest.raises(Exception, match=r"shape \(2,\), got \(3,\)|[Ss]hape"):
        write(array_of(backend, np.zeros(3), "float32"))
    assert_same(v, [1.0, 1.0])


def test_a_scatter_of_one_row(backend: str) -> None:
    for name, old, x, expected in (
        ("add", 1, 2, 3),
        ("subtract", 1, 2, -1),
        ("multiply", 1, 5, 5),
        ("min", 6, 3, 3),
        ("max", 6, 3, 6),
    ):
        for update in ([[x]], x):
            v = sv.Variable([[old]], backend=backend)
            assert_same(getattr(v.at[[0]], name)(update), [[expected]])
    v = sv.Variable([[6]], backend=backend)
    with pytest.raises(sv.errors.DTypeError, match="at.divide: a quotient is a float, not int32"):  # 2 in TensorFlow
        v.at[[0]].divide([[3]])


@pytest.mark.slow
def test_scatters_of_floats(backend: str) -> None:
    for dtype in held(backend, *FLOATS):
        for name, old, x, expected in (
            ("add", 1.5, 2.5, 4.0),
            ("subtract", 2.5, 1.5, 1.0),
            ("max", 4.0, 5.0, 5.0),
            ("max", 3.5, 2.0, 3.5),
            ("min", 4.0, 5.0, 4.0),
            ("min", 3.5, 2.0, 2.0),
            ("multiply", 4.0, 3.0, 12.0),
            ("divide", 6.0, 2.0, 3.0),
            ("set", 6.0, 3.0, 3.0),
        ):
            v = sv.Variable([0.0, old], dtype=dtype, backend=backend)
            assert_same(getattr(v.at[[1]], name)(np.array([x], HOST[dtype])), [0.0, expected])


def test_scatters_of_strings_and_bools(backend: str) -> None:
    v = sv.Variable([["a"]])
    assert v.at[[0]].set([["b"]]).numpy().tolist() == [["b"]]
    assert v.at[[0]].set("c").numpy().tolist() == [["c"]]
    w = sv.Variable([False, True, False], trainable=False, backend=backend)
    assert_same(w.at[np.arange(3)].set([True, True, True]), [True, True, True])
    assert_same(sv.Variable([True, False], backend=backend).at[1].set(True).at[np.int64(0)].set(False), [False, True])


def test_reads_of_rows_and_positions(backend: str) -> None:
    value = np.arange(64, dtype="int32").reshape(4, 4, 4)
    v = sv.Variable(value, name="var3", backend=backend)
    assert_same(v[[0, 3, 1, 2]], value[[0, 3, 1, 2]])
    assert_same(v[tuple(np.transpose([[0, 0], [1, 2], [3, 3]]))], [[0, 1, 2, 3], [24, 25, 26, 27], [60, 61, 62, 63]])
    assert_same(v[tuple(np.transpose([[0, 0, 0], [1, 2, 3], [3, 3, 3]]))], [0, 27, 63])
    assert tuple(v[[0, 1, 2]].shape) == (3, 4, 4)


BATCHES: list[tuple[int, Any, Any, Any]] = [
    (0, [6, 7, 8, 9], [[2, 1], [0, 3]], [[8, 7], [6, 9]]),
    (0, [6, 7, 8, 9], [[[3, 1], [2, 0]], [[0, 3], [2, 2]]], [[[9, 7], [8, 6]], [[6, 9], [8, 8]]]),
    (1, [[10, 11, 12, 13], [20, 21, 22, 23]], [[2, 1], [0, 3]], [[12, 11], [20, 23]]),
    (
        2,
        [[[100, 101], [110, 111]], [[200, 201], [210, 211]]],
        [[[0, 1], [1, 0]], [[0, 0], [1, 1]]],
        [[[100, 101], [111, 110]], [[200, 200], [211, 211]]],
    ),
    (
        1,
        [[10, 11, 12, 13], [20, 21, 22, 23]],
        [[[3, 1], [2, 0]], [[0, 3], [2, 2]]],
        [[[13, 11], [12, 10]], [[20, 23], [22, 22]]],
    ),
]


@pytest.mark.parametrize(("dims", "value", "indices", "expected"), BATCHES)
def test_reads_of_a_batch(backend: str, dims: int, value: Any, indices: Any, expected: Any) -> None:
    v, i = sv.Variable(value, backend=backend), np.array(indices)
    batch = tuple(np.arange(n).reshape((-1,) + (1,) * (i.ndim - axis - 1)) for axis, n in enumerate(i.shape[:dims]))
    assert_same(v[(*batch, i)], expected)


def test_what_is_cast_broadcast_and_refused(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="update", backend=backend)
    assert_same(v.at[[1]].set([3]), [1.0, 3.0])
    assert_same(v.at[[1]].add([3]), [1.0, 6.0])
    assert_same(v.at[[1]].subtract([3]), [1.0, 3.0])
    w = sv.Variable([0, 1, 2, 3], backend=backend)
    with pytest.raises(ValueError, match=r"shape \(3,\) does not broadcast into the selected shape \(2,\)"):
        w.at[[0, 1]].set([0, 1, 2])
    assert_same(w.assign_add(1), [1, 2, 3, 4])  # it broadcasts, as in NumPy; TensorFlow refuses it
    empty = sv.Variable(np.zeros((10, 0), "float32"), shape=..., backend=backend)
    with pytest.raises(ValueError, match=r"shape \(5,\) does not broadcast into the selected shape \(0,\)"):
        empty.at[-1].set(np.zeros(5))


def test_an_int64_index_is_not_narrowed(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    for update in (2.0, [2.0]):
        for index in (np.iinfo(np.int64).min, np.iinfo(np.int64).max, 2**32):
            with pytest.raises(sv.errors.IndexingError, match=f"index {index} is out of bounds"):
                v.at[np.array([index])].set(update)
    assert_same(v, [1.0])


def test_scatters_are_deterministic(backend: str) -> None:
    data = np.random.default_rng(0).normal(size=10_000).astype("float32")
    results = []
    for _ in range(3):
        v = sv.Variable(np.zeros(1024, "float32"), backend=backend)
        v.at[np.zeros(10_000, "int32")].add(data)
        w = sv.Variable(np.zeros(1, "float32"), backend=backend).at[np.zeros(10_000, "int32")].set(data)
        results.append((host(v)[0], host(w)[0]))
    assert len(set(results)) == 1
    assert results[0][1] == data[-1]


def test_gradients_of_reads_at_positions(backend: str) -> None:
    if backend == "numpy":
        pytest.importorskip("autograd")
    v = sv.Variable(np.random.default_rng(0).random((2, 2), "float32"), backend=backend)
    for index, expected in ((([1], [1]), [[0.0, 0.0], [0.0, 1.0]]), ([1, 1], [[0.0, 0.0], [2.0, 2.0]])):
        _, gradients = sv.value_and_grad(lambda i=index: total(v[i]))()
        assert_same(gradients[v], expected)


# -- scatter_ops_test, scatter_nd_ops_test, batch_scatter_ops_test ----------------------------------------------

SCATTERS: dict[str, Callable[[Any, Any], Any]] = {
    "set": lambda old, x: x,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "min": np.minimum,
    "max": np.maximum,
}


def drawn(rng: Any, shape: Any, dtype: str) -> Any:
    """Numbers away from zero."""
    numbers = rng.uniform(1, 5, shape) * rng.choice([-1, 1], shape)
    return numbers.astype(HOST[dtype])


def close(v: sv.Variable, expected: Any, dtype: str) -> None:
    tolerance = {"float16": 5e-3, "bfloat16": 5e-2}.get(dtype, 1e-5)
    np.testing.assert_allclose(np.asarray(v.numpy(), "float64"), np.asarray(expected, "float64"), tolerance, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCATTERS)
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("scalar", [False, True])
def test_scatters_of_any_rank(backend: str, name: str, repeated: bool, scalar: bool) -> None:
    rng = np.random.default_rng(8)
    other = {"set": "int32", "add": "float16", "min": "float64", "max": "float64"}.get(name, "bfloat16")
    for dtype in held(backend, "float32", other):
        for shape, extra in (((), ()), ((2,), (5,)), ((3, 7), ()), ((3, 4, 2), (5, 2))):
            size = int(np.prod(shape))
            indices = rng.permutation(3 * size)[:size]
            if repeated and size > 1 and not (name == "set" and not scalar):
                indices[size // 2 :] = rng.choice(indices[: size // 2], size - size // 2)
            indices = indices.reshape(shape).astype(rng.choice(["int32", "int64"]))
            old = drawn(rng, (3 * size, *extra), dtype)
            updates = drawn(rng, () if scalar else (*shape, *extra), dtype)
            expected = old.copy()
            for at, index in np.ndenumerate(indices):
                expected[index] = SCATTERS[name](expected[index], updates if scalar else updates[at])
            v = sv.Variable(old, backend=backend)
            close(getattr(v.at[indices], name)(updates), expected, dtype)


@pytest.mark.parametrize("name", SCATTERS)
def test_an_index_out_of_range(backend: str, name: str) -> None:
    v = sv.Variable(np.arange(1, 7, dtype="float32"), name="ref", backend=backend)
    updates = np.array([-3, -4, -5], "float32")
    getattr(v.at[[2, 0, 5]], name)(updates)
    before = v.numpy()
    with pytest.raises(sv.errors.IndexingError, match="index 6 is out of bounds for axis 0 with size 6"):
        getattr(v.at[[2, 0, 6]], name)(updates)
    with pytest.raises(sv.errors.IndexingError, match="index -7 is out of bounds for axis 0 with size 6"):
        getattr(v.at[[-7, 0, 5]], name)(updates)
    assert_same(v, before)
    getattr(v.at[[-1, 0, 1]], name)(updates)  # the last element, as in NumPy; TensorFlow refuses it


@pytest.mark.slow
@pytest.mark.parametrize("name", ["set", "add", "subtract"])
@pytest.mark.parametrize("repeated", [False, True])
def test_scatters_at_positions(backend: str, name: str, repeated: bool) -> None:
    rng = np.random.default_rng(8)
    for dtype in held(backend, "int32", "float16", "float32", "float64", "complex64", "complex128", "bfloat16"):
        for shape, count, depth in (((3, 6), 2, 1), ((3, 6), 2, 2), ((3, 6, 9), 2, 2), ((3, 6, 9), 3, 3)):
            where = np.array([index for index, _ in np.ndenumerate(np.empty(shape[:depth]))])
            positions = rng.permutation(where)[:count]
            if repeated and name != "set":
                positions[count // 2 :] = positions[0]
            old = drawn(rng, shape, dtype)
            updates = drawn(rng, (count, *shape[depth:]), dtype)
            expected = old.copy()
            for position, update in zip(positions, updates, strict=True):
                expected[tuple(position)] = SCATTERS[name](expected[tuple(position)], update)
            v = sv.Variable(old, backend=backend)
            getattr(v.at[tuple(np.transpose(positions))], name)(updates)
            assert np.allclose(v.numpy().astype("complex128"), expected.astype("complex128"), 1e-2, 1e-2)


def test_simple_scatters_at_positions(backend: str) -> None:
    indices = tuple(np.transpose([[4], [3], [1], [7]]))
    for dtype in held(backend, "int32", "int64", "float32", "float64", "complex64", "complex128", "bfloat16"):
        v = sv.Variable(np.zeros(8, HOST[dtype]), backend=backend)
        assert_same(v.at[indices].set([9, 10, 11, 12]), [0, 11, 0, 10, 9, 0, 0, 12])
    words = sv.Variable(["qq", "ww", "ee", "rr", "", "", "", ""])
    assert words.at[indices].set(["aa", "dd", "cc", "bb"]).numpy().tolist() == [
        "qq",
        "cc",
        "ee",
        "dd",
        "aa",
        "",
        "",
        "bb",
    ]
    v = sv.Variable(np.zeros((3, 2), "float32"), backend=backend)
    assert_same(v.at[tuple(np.transpose([[1, 0], [1, 1]]))].set([11.0, 12.0]), [[0, 0], [11, 12], [0, 0]])
    assert_same(v.at[tuple(np.transpose([[1]]))].set([[13.0, 14.0]]), [[0, 0], [13, 14], [0, 0]])
    ones = np.ones(8, "int32")
    for name, expected in (
        ("min", [1, -1, 1, 1, 0, 1, 1, 1]),
        ("max", [1, 1, 1, 2, 1, 1, 1, 2]),
        ("add", [1, 0, 1, 3, 1, 1, 1, 3]),
        ("subtract", [1, 2, 1, -1, 1, 1, 1, -1]),
    ):
        assert_same(getattr(sv.Variable(ones, backend=backend).at[[4, 3, 1, 7]], name)([0, 2, -1, 2]), expected)


def test_positions_that_do_not_fit(backend: str) -> None:
    v = sv.Variable(np.zeros((2, 2, 2), "int32"), backend=backend)
    zeros = np.zeros((2, 2), int)
    assert v.at[zeros, zeros].set(np.zeros((2, 2, 2), int)).shape == (2, 2, 2)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2\) does not broadcast into the selected shape \(3, 2, 2\)"):
        v.at[np.zeros((3, 2), int), np.zeros((3, 2), int)].set(np.zeros((2, 2, 2), int))
    with pytest.raises(ValueError, match=r"shape \(3, 2\) does not broadcast into the selected shape \(2, 2, 2, 2\)"):
        v.at[(zeros,)].set(np.zeros((3, 2), int))
    scalar = sv.Variable(0.0, backend=backend)
    with pytest.raises(sv.errors.IndexingError, match="too many indices"):
        scalar.at[tuple(np.transpose([[0]]))].set([0.22])
    square = sv.Variable(np.zeros((2, 2), "int32"), backend=backend)
    assert_same(square.at[tuple(np.transpose(np.zeros((1, 1, 2), int)))].set([[0]]), np.zeros((2, 2)))


def test_many_updates_of_one_element(backend: str) -> None:
    data = np.random.default_rng(0).random(10_000).astype("float32")
    v = sv.Variable(np.zeros((2, 2), "float32"), backend=backend)
    v.at[np.zeros(10_000, int), np.ones(10_000, int)].add(data)
    assert host(v)[0, 1] == pytest.approx(data.sum(), rel=1e-4)
    threads = [threading.Thread(target=lambda: [v.at[1, 0].add(1.0) for _ in range(50)]) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert host(v)[1, 0] == 200.0


def test_scatters_of_batches(backend: str) -> None:
    rng = np.random.default_rng(8)
    for dtype in held(backend, "float32", "float64"):
        for shape in ((2,), (3, 7), (3, 4, 7)):
            for extra in ((), (5,), (5, 9)):
                indices = rng.integers(shape[-1], size=shape)
                updates, old = drawn(rng, (*shape, *extra), dtype), drawn(rng, (*shape, *extra), dtype)
                expected = old.copy()
                for at, index in np.ndenumerate(indices):
                    expected[(*at[:-1], index)] = updates[at]
                batch = np.indices(shape)[:-1]
                v = sv.Variable(old, backend=backend)
                assert_same(v.at[(*batch, indices)].set(updates), expected)


# -- array_ops_test: assignments to slices -----------------------------------------------------------------------

WHOLE: list[tuple[Any, Any]] = [
    (np.s_[:], [[10, 20, 30], [40, 50, 60]]),
    (np.s_[1:2, 1:2], [[66]]),
    (np.s_[1:2, 1], [66]),
    (np.s_[1, 1:2], [66]),
    (np.s_[1, 1], 66),
    (np.s_[:, None, :], [[[10, 20, 30]], [[40, 50, 50]]]),
    (np.s_[None, None, 0, 0:1], [[[99]]]),
    (np.s_[::1, ::-2], [[3, 33], [4, 44]]),
    (np.s_[8:10, 0], []),
    (np.s_[8:10, 8:10], [[]]),
]
BROADCAST: list[tuple[Any, Any]] = [
    (np.s_[:], [[40, 50, 60]]),
    (np.s_[1:2, 1:2], 66),
    (np.s_[1:2, 1], 66),
    (np.s_[1, 1:2], 66),
    (np.s_[:, None, :], [10, 20, 30]),
    (np.s_[None, None, 0, 0:1], 99),
    (np.s_[::1, ::-2], [[4, 44]]),
    (np.s_[8:10, 8:10], []),
]


@pytest.mark.parametrize(("index", "value"), WHOLE + BROADCAST)
def test_an_assignment_to_a_slice(backend: str, index: Any, value: Any) -> None:
    for dtype in held(backend, *INTEGERS, *FLOATS, "complex64", "complex128"):
        expected, new = np.array([[1, 2, 3], [4, 5, 6]], HOST[dtype]), np.array(value).astype(HOST[dtype])
        if dtype.startswith("complex"):
            expected, new = expected - 1j * expected, new - 1j * new
        v = sv.Variable(expected, backend=backend)
        w = sv.Variable(v)
        expected[index] = new
        v[index] = new
        assert_same(v, expected, dtype=True)
        assert_same(w.at[index].set(new), expected, dtype=True)
        if not dtype.startswith("complex"):
            w[index] = value
            assert_same(w, expected, dtype=True)


def test_an_assignment_to_a_scalar_by_an_index(backend: str) -> None:
    v = sv.Variable(222, backend=backend)
    for index, value in (((), 6), (..., 7), (None, [8])):
        v[index] = value
        assert_same(v, np.squeeze(value))


def test_an_assignment_of_another_dtype_to_a_slice(backend: str) -> None:
    v = sv.Variable([1, 2], name="v", backend=backend)
    v[:] = np.array([3, 4], "int8")  # TensorFlow refuses both
    assert_same(v, np.array([3, 4], "int32"), dtype=True)
    v[:] = np.array([5, 6], "int64")
    assert_same(v, np.array([5, 6], "int32"), dtype=True)
    with pytest.raises(sv.errors.RangeError, match="out of the range of int32.*, at 'v'"):
        v[:] = np.array([2**40, 6])
    with pytest.raises(sv.errors.DTypeError, match="cannot cast float64 to int32"):
        v[:] = np.array([1.5, 2.5])
    assert_same(v, [5, 6])
    read = v[:1]
    with pytest.raises((AttributeError, TypeError)):
        read.assign([1])
