"""Beside the real ``tf.Variable`` and ``keras.Variable``: where we agree, and every difference that is meant."""

from __future__ import annotations

import copy
import importlib
import operator
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import statevar as sv
from tests.helpers import assert_same, host

# One backend a process, chosen at import; this is the one whose variable is a tf.Variable too.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

Call = Callable[..., Any]

#: The `backend` fixture is a name that no example changes.
FIXED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
FEW = settings(max_examples=15, **FIXED)  # type: ignore[arg-type]  # a dict has one type of values
SOME = settings(max_examples=30, **FIXED)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def keras() -> Any:
    keras = pytest.importorskip("keras")
    if keras.config.backend() != "tensorflow":
        pytest.skip(f"keras was loaded with its {keras.config.backend()} backend, and takes one a process")
    return keras


def make(backend: str, value: Any, **options: Any) -> sv.Variable:
    return sv.Variable(value, backend=backend, **options)


def held(backend: str, dtype: str) -> bool:
    """Whether a backend holds a dtype as it is set up here."""
    return not (backend == "jax" and dtype in ("int64", "uint64", "float64", "complex128"))


def outcome(call: Call, *args: Any) -> Any:
    """What a call gives, or the class of what it raises for a value that does not fit."""
    try:
        return call(*args)
    except ValueError as error:
        return type(error)
    except importlib.import_module("tensorflow").errors.InvalidArgumentError as error:
        return type(error)


# -- values that every library computes alike: sums and products of eighths are exact ------------------------


SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3)
EIGHTHS = st.integers(-800, 800).map(lambda x: x / 8)
INT32 = st.integers(-(2**31), 2**31 - 1)


def arrays(dtype: str, shape: Any, elements: Any = None) -> Any:
    if elements is None:
        elements = {"float32": EIGHTHS, "int32": INT32, "bool": st.booleans()}[dtype]
    return hnp.arrays(dtype, shape, elements=elements)


@st.composite
def programs(draw: Any) -> Any:
    """An initial value and writes of its shape: ``[(name, operand), …]``."""
    dtype, shape = draw(st.sampled_from(["float32", "int32"])), draw(SHAPES)
    names = st.sampled_from(["assign", "assign_add", "assign_sub"])
    writes = st.lists(st.tuples(names, arrays(dtype, shape)), min_size=1, max_size=6)
    return draw(arrays(dtype, shape)), draw(writes)


# -- creation ----------------------------------------------------------------------------------------------


NESTED = st.recursive(st.integers(-9, 9) | EIGHTHS, lambda inner: st.lists(inner, min_size=1, max_size=1), max_leaves=3)
ROWS = st.lists(st.lists(st.integers(-9, 9) | EIGHTHS, min_size=2, max_size=2), min_size=1, max_size=3)


@SOME
@given(value=NESTED | ROWS | st.booleans() | st.lists(st.booleans(), min_size=1, max_size=3))
def test_python_values_have_the_same_dtype_as_in_tensorflow(backend: str, tf: Any, value: Any) -> None:
    theirs, ours = tf.Variable(value), make(backend, value)
    assert ours.dtype_name == theirs.dtype.name
    assert ours.shape == tuple(theirs.shape)
    assert_same(ours.numpy(), theirs.numpy(), dtype=True)


@pytest.mark.parametrize(
    "dtype",
    [
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    ],
)
def test_arrays_keep_their_dtype_as_in_tensorflow_and_keras(backend: str, tf: Any, keras: Any, dtype: str) -> None:
    if not held(backend, dtype):
        pytest.skip("JAX holds 64 bits only when told to")
    array = np.array([[0, 1], [1, 0]], dtype)
    ours = make(backend, array)
    assert ours.dtype_name == tf.Variable(array).dtype.name == keras.Variable(array, trainable=False).dtype
    assert_same(ours.numpy(), tf.Variable(array).numpy(), dtype=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8", "int32", "uint8", "complex64"])
def test_a_given_dtype_wins_as_in_tensorflow_and_keras(backend: str, tf: Any, keras: Any, dtype: str) -> None:
    theirs, kerases = tf.Variable([1, 2], dtype=dtype), keras.Variable([1, 2], dtype=dtype, trainable=False)
    ours = make(backend, [1, 2], dtype=dtype)
    assert ours.dtype_name == theirs.dtype.name == kerases.dtype
    assert_same(ours.numpy(), theirs.numpy(), dtype=True)


def test_an_initializer_is_called_with_shape_and_dtype_as_in_keras(backend: str, keras: Any) -> None:
    calls = []

    def initializer(shape: Any, dtype: Any) -> Any:
        calls.append((tuple(shape), str(dtype)))
        return np.ones(shape, dtype)

    theirs = keras.Variable(initializer, shape=(2, 3), dtype="float32")
    ours = make(backend, initializer, shape=(2, 3), dtype="float32")
    assert_same(ours.numpy(), theirs.numpy(), dtype=True)
    assert calls == [((2, 3), "float32")] * 2


def test_a_variable_made_from_a_variable_is_independent_as_in_tensorflow(backend: str, tf: Any) -> None:
    theirs, ours = tf.Variable([1.0, 2.0]), make(backend, [1.0, 2.0])
    copies = tf.Variable(theirs), sv.Variable(ours)
    for each in (theirs, ours):
        each.assign([5.0, 6.0])
    assert_same(copies[1].numpy(), copies[0].numpy())


# -- writes --------------------------------------------------------------------------------------------------


@SOME
@given(program=programs())
def test_writes_give_what_they_give_in_tensorflow(backend: str, tf: Any, program: Any) -> None:
    start, writes = program
    theirs, ours = tf.Variable(start), make(backend, start)
    for name, operand in writes:
        before = ours.numpy()
        assert getattr(ours, name)(operand) is ours
        getattr(theirs, name)(operand)
        assert_same(ours.numpy(), theirs.numpy(), dtype=True)
        before[...] = 7  # what numpy() gave is the caller's own
        assert_same(ours.numpy(), theirs.numpy())


@FEW
@given(program=programs())
def test_writes_give_what_they_give_in_keras(backend: str, keras: Any, program: Any) -> None:
    start, writes = program
    theirs, ours = keras.Variable(start, trainable=False), make(backend, start)
    for name, operand in writes:
        getattr(theirs, name)(operand)
        getattr(ours, name)(operand)
        assert_same(ours.numpy(), theirs.numpy(), dtype=True)


def _as_given(tf: Any, how: str, array: Any) -> tuple[Any, Any]:
    """An operand for theirs and for ours."""
    if how == "list":
        return array.tolist(), array.tolist()
    if how == "tensor":
        return tf.constant(array), tf.constant(array)
    if how == "tf.Variable":
        return tf.Variable(array), tf.Variable(array)
    return tf.Variable(array), sv.Variable(array)


@FEW
@given(
    operands=st.tuples(SHAPES, st.sampled_from(["float32", "int32"])).flatmap(lambda x: arrays(x[1], x[0])),
    how=st.sampled_from(["list", "tensor", "tf.Variable", "own variable"]),
)
def test_any_kind_of_operand_is_taken_as_in_tensorflow(backend: str, tf: Any, operands: Any, how: str) -> None:
    theirs, ours = tf.Variable(np.zeros_like(operands)), make(backend, np.zeros_like(operands))
    for name in ("assign", "assign_add", "assign_sub", "assign_sub"):
        operand, own = _as_given(tf, how, operands)
        getattr(theirs, name)(operand)
        getattr(ours, name)(own)
        assert_same(ours.numpy(), theirs.numpy(), dtype=True)


def test_writes_chain_as_in_tensorflow(backend: str, tf: Any) -> None:
    theirs, ours = tf.Variable([1.0, 2.0]), make(backend, [1.0, 2.0])
    for each in (theirs, ours):
        each.assign([3.0, 4.0]).assign_add([1.0, 1.0]).assign_sub([2.0, 3.0])
    assert_same(ours.numpy(), theirs.numpy())


@FEW
@given(shapes=st.tuples(SHAPES, SHAPES).filter(lambda pair: pair[0] != pair[1]))
def test_a_value_of_another_shape_is_refused_by_all(backend: str, tf: Any, keras: Any, shapes: Any) -> None:
    have, want = shapes
    ours = make(backend, np.zeros(have, np.float32), name="w")
    value = np.ones(want, np.float32)
    for each in (ours, tf.Variable(np.zeros(have, np.float32)), keras.Variable(np.zeros(have, np.float32))):
        with pytest.raises(ValueError, match="shape") as caught:
            each.assign(value)
        text = str(caught.value).replace(",)", ")")
        assert str(have).replace(",)", ")") in text
        assert str(want).replace(",)", ")") in text
        assert_same(each.numpy(), np.zeros(have))


# -- operators -------------------------------------------------------------------------------------------------


ARITHMETIC = [operator.add, operator.sub, operator.mul]
DIVISIONS = [operator.truediv, operator.floordiv, operator.mod]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge]
SMALL = st.integers(-50, 50)
DIVISORS = SMALL.filter(bool)


def _same_results(ours: Any, other: Any, theirs: Any, others: Any, call: Call, rtol: float = 0.0) -> None:
    assert_same(call(ours, other), call(theirs, others), rtol=rtol, dtype=True)
    if not isinstance(other, sv.Variable):
        assert_same(call(other, ours), call(others, theirs), rtol=rtol, dtype=True)


@SOME
@given(
    left=arrays("float32", (2, 3), DIVISORS),
    right=arrays("float32", (2, 3), DIVISORS) | DIVISORS.map(float) | DIVISORS,
    call=st.sampled_from([*ARITHMETIC, *DIVISIONS, *COMPARISONS]),
)
def test_operators_give_what_they_give_in_tensorflow_and_keras(
    backend: str, tf: Any, keras: Any, left: Any, right: Any, call: Call
) -> None:
    ours = make(backend, left)
    rtol = 1e-6 if call in DIVISIONS else 0.0
    _same_results(ours, right, tf.Variable(left), right, call, rtol)
    assert_same(call(ours, right), call(keras.Variable(left), right), rtol=rtol, dtype=True)
    if isinstance(right, np.ndarray):
        _same_results(ours, make(backend, right), tf.Variable(left), tf.Variable(right), call, rtol)


@SOME
@given(
    operands=st.tuples(
        st.sampled_from([*ARITHMETIC, *COMPARISONS, operator.and_, operator.or_, operator.xor]),
        arrays("int32", (3,), INT32),
        arrays("int32", (3,), INT32) | SMALL,
    )
    | st.tuples(
        st.sampled_from([operator.floordiv, operator.mod]),
        arrays("int32", (3,), DIVISORS),
        arrays("int32", (3,), DIVISORS) | DIVISORS,
    )
)
def test_integer_operators_give_what_they_give_in_tensorflow(backend: str, tf: Any, operands: Any) -> None:
    call, left, right = operands
    _same_results(make(backend, left), right, tf.Variable(left), right, call)


@FEW
@given(left=arrays("bool", (4,)), right=arrays("bool", (4,)))
def test_logical_operators_give_what_they_give_in_tensorflow_and_keras(
    backend: str, tf: Any, keras: Any, left: Any, right: Any
) -> None:
    ours, theirs, kerases = make(backend, left), tf.Variable(left), keras.Variable(left, trainable=False)
    for call in (operator.and_, operator.or_, operator.xor, operator.eq):
        _same_results(ours, right, theirs, right, call)
        assert_same(call(ours, right), call(kerases, right), dtype=True)
    assert_same(~ours, ~theirs, dtype=True)
    assert_same(~ours, ~kerases, dtype=True)


@FEW
@given(left=arrays("float32", (2, 3)), right=arrays("float32", (3, 2)))
def test_the_rest_of_the_operators(backend: str, tf: Any, keras: Any, left: Any, right: Any) -> None:
    ours, theirs, kerases = make(backend, left), tf.Variable(left), keras.Variable(left)
    for call in (operator.neg, operator.abs, lambda v: v @ right, lambda v: v**2, lambda v: v[1]):
        assert_same(call(ours), call(theirs), rtol=1e-5, dtype=True)
        assert_same(call(ours), call(kerases), rtol=1e-5, dtype=True)
    assert [float(x) for x in np.asarray(list(map(host, ours))).ravel()] == left.ravel().tolist()


# -- items -----------------------------------------------------------------------------------------------------


@st.composite
def slices(draw: Any) -> Any:
    """An array, a basic index into it, and a value that broadcasts to what it selects."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    array = draw(arrays("float32", shape))
    index = draw(hnp.basic_indices(shape, allow_newaxis=True, max_dims=4))
    selected = array[index].shape
    return array, index, draw(arrays("float32", selected) | EIGHTHS.map(np.float32))


@SOME
@given(case=slices())
def test_slices_read_and_write_what_they_do_in_tensorflow(backend: str, tf: Any, case: Any) -> None:
    array, index, value = case
    theirs, ours = tf.Variable(array), make(backend, array)
    assert_same(ours[index], theirs[index], dtype=True)
    theirs[index].assign(value)
    ours[index] = value
    assert_same(ours.numpy(), theirs.numpy(), dtype=True)


SCATTERS = {
    "scatter_update": "set",
    "scatter_add": "add",
    "scatter_sub": "subtract",
    "scatter_mul": "multiply",
    "scatter_div": "divide",
    "scatter_max": "max",
    "scatter_min": "min",
}
POWERS = st.sampled_from([-2.0, -1.0, 0.5, 1.0, 2.0, 4.0])  # exact in any order


@SOME
@given(
    name=st.sampled_from(list(SCATTERS)),
    array=arrays("float32", (4, 2)),
    positions=st.lists(st.integers(0, 3), min_size=1, max_size=5),
    data=st.data(),
)
def test_scatters_are_writes_at_an_index(
    backend: str, tf: Any, name: str, array: Any, positions: Any, data: Any
) -> None:
    elements = POWERS if name in ("scatter_mul", "scatter_div") else EIGHTHS
    updates = data.draw(arrays("float32", (len(positions), 2), elements))
    theirs, ours = tf.Variable(array), make(backend, array)
    getattr(theirs, name)(tf.IndexedSlices(tf.constant(updates), tf.constant(positions)))
    getattr(ours.at[positions], SCATTERS[name])(updates)
    assert_same(ours.numpy(), theirs.numpy(), dtype=True)
    assert_same(ours[positions], tf.gather(theirs, positions))
    assert_same(ours[positions], theirs.sparse_read(positions))


@FEW
@given(
    array=arrays("float32", (3, 2)),
    positions=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=5),
    data=st.data(),
)
def test_scatter_nd_is_a_write_at_coordinates(backend: str, tf: Any, array: Any, positions: Any, data: Any) -> None:
    updates = data.draw(arrays("float32", len(positions)))
    theirs, ours = tf.Variable(array), make(backend, array)
    where = tuple(np.array(positions).T)
    theirs.scatter_nd_add(positions, updates)
    ours.at[where].add(updates)
    theirs.scatter_nd_sub(positions, updates * 2)
    ours.at[where].subtract(updates * 2)
    assert_same(ours.numpy(), theirs.numpy(), dtype=True)
    assert_same(ours[where], tf.gather_nd(theirs, positions))


# -- get_value and set_value ---------------------------------------------------------------------------------------


@FEW
@given(program=programs())
def test_set_value_and_get_value_do_what_they_do_in_tensorflow(backend: str, tf: Any, program: Any) -> None:
    keras_backend = tf.keras.backend
    start, writes = program
    theirs, ours = tf.Variable(start), make(backend, start)
    assert_same(sv.get_value(ours), keras_backend.get_value(theirs), dtype=True)
    for _, value in writes:
        assert sv.set_value(ours, value) is keras_backend.set_value(theirs, value)
        assert_same(sv.get_value(ours), keras_backend.get_value(theirs), dtype=True)
        # Reassign through the two, as the page does.
        sv.set_value(ours, sv.get_value(ours) // 2)
        keras_backend.set_value(theirs, keras_backend.get_value(theirs) // 2)
        assert_same(sv.batch_get_value([ours])[0], keras_backend.batch_get_value([theirs])[0], dtype=True)
    sv.batch_set_value([(ours, start)])
    keras_backend.batch_set_value([(theirs, start)])
    assert_same(ours.numpy(), theirs.numpy())


def test_set_value_refuses_another_shape_as_in_tensorflow(backend: str, tf: Any) -> None:
    theirs, ours = tf.Variable([1.0, 2.0]), make(backend, [1.0, 2.0])
    for value in (np.float32(1), np.ones(3, np.float32)):
        with pytest.raises(ValueError, match="Shape mismatch"):
            tf.keras.backend.set_value(theirs, value)
        with pytest.raises(ValueError, match="expected shape"):
            sv.set_value(ours, value)


# -- tf.raw_ops.Assign: graph mode only, on a reference variable ------------------------------------------------------


class Reference:
    """A ``VariableV2`` in a graph of its own, with the call of ``tf.raw_ops.Assign`` that the rows are about."""

    def __init__(self, tf: Any, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self.tf, self.graph = tf, tf.Graph()
        with self.graph.as_default():
            self.ref = tf.raw_ops.VariableV2(shape=shape, dtype=dtype)
            self.initialized = tf.raw_ops.IsVariableInitialized(ref=self.ref)
            self.value = tf.compat.v1.placeholder(dtype)
        self.session = tf.compat.v1.Session(graph=self.graph)

    def assign(self, value: Any, **options: bool) -> Any:
        with self.graph.as_default():
            assigned = self.tf.raw_ops.Assign(ref=self.ref, value=self.value, **options)
            return self.session.run(assigned, {self.value: value})

    def read(self) -> Any:
        return self.session.run(self.ref)


STEPS = st.tuples(st.sampled_from([(2,), (3,), (2, 2), (), (0,)]), st.booleans(), st.booleans())


@FEW
@given(steps=st.lists(STEPS, min_size=1, max_size=5))
def test_assign_does_what_the_raw_op_does(backend: str, tf: Any, steps: Any) -> None:
    """Rows 003.1 to 003.5: initializing, the shape check, taking on a shape, locking, and what it returns."""
    theirs, ours = Reference(tf, (2,)), make(backend, None, shape=(2,), dtype="float32")
    for count, (shape, validate_shape, use_locking) in enumerate(steps):
        assert ours.is_initialized == bool(theirs.session.run(theirs.initialized))
        value = np.full(shape, count, np.float32)
        options = {"validate_shape": validate_shape, "use_locking": use_locking}
        expected = outcome(lambda v, o: theirs.assign(v, **o), value, options)
        got = outcome(lambda v, o: sv.assign(ours, v, **o), value, options)
        if isinstance(expected, type):
            assert expected is tf.errors.InvalidArgumentError
            assert got is sv.errors.ShapeError
        else:
            assert got is ours
            assert_same(ours.numpy(), expected, dtype=True)
        if ours.is_initialized:
            assert_same(ours.numpy(), theirs.read(), dtype=True)
            assert ours.shape == theirs.read().shape


def test_an_uninitialized_variable_cannot_be_read_or_added_to_as_the_raw_one(backend: str, tf: Any) -> None:
    theirs, ours = Reference(tf, (2,)), make(backend, None, shape=(2,), dtype="float32")
    with pytest.raises(tf.errors.FailedPreconditionError, match="uninitialized value"):
        theirs.read()
    with pytest.raises(sv.errors.UninitializedError, match="no value yet"):
        ours.value  # noqa: B018  # the read is the point
    with theirs.graph.as_default(), pytest.raises(tf.errors.FailedPreconditionError):
        theirs.session.run(tf.raw_ops.AssignAdd(ref=theirs.ref, value=tf.ones(2)))
    with pytest.raises(sv.errors.UninitializedError):
        ours.assign_add([1.0, 1.0])


def test_what_assign_returns_can_be_chained_as_in_the_raw_op(backend: str, tf: Any) -> None:
    theirs, ours = Reference(tf, (2,)), make(backend, None, shape=(2,), dtype="float32")
    with theirs.graph.as_default():
        first = tf.raw_ops.Assign(ref=theirs.ref, value=tf.constant([1.0, 2.0]))
        second = tf.raw_ops.AssignAdd(ref=first, value=tf.constant([10.0, 10.0]))
    expected = theirs.session.run(second)
    assert_same(sv.assign(ours, [1.0, 2.0]).assign_add([10.0, 10.0]).numpy(), expected, dtype=True)


def test_assign_checks_the_dtype_as_the_raw_op(backend: str, tf: Any) -> None:
    theirs, ours = Reference(tf, (2,), "int32"), make(backend, None, shape=(2,), dtype="int32")
    with theirs.graph.as_default(), pytest.raises(TypeError, match="float32 that does not match type int32"):
        tf.raw_ops.Assign(ref=theirs.ref, value=tf.constant([1.5, 2.5]))
    with pytest.raises(TypeError, match="cannot cast float32 to int32"):
        sv.assign(ours, np.array([1.5, 2.5], np.float32))


# -- the differences that are meant: theirs first, then ours ---------------------------------------------------------


LOSSY: dict[str, tuple[Any, str, Any, type[Exception]]] = {
    "a fraction": (np.array([1.5], np.float32), "int32", [1], sv.errors.DTypeError),
    "NaN": (np.array([np.nan], np.float32), "int32", [-(2**31)], sv.errors.DTypeError),
    "an integer out of range": (np.array([300], np.int32), "int8", [44], sv.errors.RangeError),
    "a Python int out of range": ([300], "int8", [44], sv.errors.RangeError),
    "a float out of range": (np.array([1e300]), "float32", [np.inf], sv.errors.RangeError),
    "a truth": (np.array([2], np.int32), "bool", [True], sv.errors.DTypeError),
}


@pytest.mark.parametrize(("value", "dtype", "theirs", "ours"), list(LOSSY.values()), ids=list(LOSSY))
def test_tensorflow_stores_another_value(
    backend: str, tf: Any, value: Any, dtype: str, theirs: Any, ours: type[Exception]
) -> None:
    with np.errstate(all="ignore"):  # NumPy, which casts for TensorFlow, warns of some
        stored = tf.Variable(np.zeros(1, dtype)).assign(value).numpy()
    assert_same(stored, np.array(theirs, dtype))
    v = make(backend, [0], dtype=dtype)
    with pytest.raises(ours):
        v.assign(value)
    assert_same(v.numpy(), np.zeros(1, dtype))


def test_keras_truncates_a_fraction(backend: str, keras: Any) -> None:
    theirs = keras.Variable([0], dtype="int32", trainable=False)
    theirs.assign(np.array([1.5], np.float32))
    assert_same(theirs.numpy(), [1])
    with pytest.raises(sv.errors.DTypeError):
        make(backend, [0], dtype="int32").assign(np.array([1.5], np.float32))


def test_set_value_cuts_a_fraction(backend: str, tf: Any) -> None:
    theirs, ours = tf.Variable(1), make(backend, 1)
    tf.keras.backend.set_value(theirs, 2.7)
    assert int(theirs) == 2
    with pytest.raises(sv.errors.DTypeError):
        sv.set_value(ours, 2.7)
    assert int(ours) == 1


def test_set_value_of_a_keras_variable(backend: str, tf: Any, keras: Any) -> None:
    with pytest.raises(AttributeError):
        tf.keras.backend.set_value(keras.Variable([1.0]), np.array([2.0]))
    ours = make(backend, [1.0])
    sv.set_value(ours, np.array([2.0]))
    assert_same(ours.numpy(), [2.0])


def test_a_failed_batch_keeps_the_first_of_theirs_and_none_of_ours(backend: str, tf: Any) -> None:
    theirs, ours = (tf.Variable(0.0), tf.Variable([0.0, 0.0])), (make(backend, 0.0), make(backend, [0.0, 0.0]))
    with pytest.raises(ValueError, match="Shape mismatch"):
        tf.keras.backend.batch_set_value([(theirs[0], 1.0), (theirs[1], [1.0])])
    with pytest.raises(ValueError, match="expected shape"):
        sv.batch_set_value([(ours[0], 1.0), (ours[1], [1.0])])
    assert float(theirs[0]) == 1.0
    assert float(ours[0]) == 0.0


def test_validate_shape_changes_nothing_in_tensorflow(backend: str, tf: Any) -> None:
    theirs, ours = tf.Variable([1.0, 2.0], validate_shape=False), make(backend, [1.0, 2.0])
    with pytest.raises(ValueError, match="Shape mismatch"):
        theirs.assign([1.0, 2.0, 3.0])
    assert ours.assign([1.0, 2.0, 3.0], validate_shape=False).shape == (3,)
    assert ours.assign_add([1.0, 1.0, 1.0]).shape == (3,)


def test_assign_add_broadcasts_in_keras_and_here(backend: str, tf: Any, keras: Any) -> None:
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        tf.Variable([1.0, 2.0]).assign_add(1.0)
    theirs, ours = keras.Variable([1.0, 2.0]), make(backend, [1.0, 2.0])
    theirs.assign_add(1.0)
    assert_same(ours.assign_add(1.0).numpy(), theirs.numpy())


def test_in_place_operators_write_only_here(backend: str, tf: Any, keras: Any) -> None:
    theirs = tf.Variable([1.0, 2.0])
    with pytest.raises(RuntimeError, match="not supported"):
        theirs += 1.0
    kerases = rebound = keras.Variable([1.0, 2.0])
    rebound += 1.0
    assert rebound is not kerases
    assert_same(kerases.numpy(), [1.0, 2.0])
    ours = same = make(backend, [1.0, 2.0])
    same += 1.0
    assert same is ours
    assert_same(ours.numpy(), [2.0, 3.0])


def test_items_are_assigned_only_here(backend: str, tf: Any, keras: Any) -> None:
    for theirs in (tf.Variable([1.0, 2.0]), keras.Variable([1.0, 2.0])):
        with pytest.raises(TypeError, match="item assignment"):
            theirs[0] = 5.0
    ours = make(backend, [1.0, 2.0])
    ours[0] = 5.0
    assert_same(ours.numpy(), [5.0, 2.0])


def test_assign_returns_the_variable_only_here(backend: str, tf: Any, keras: Any) -> None:
    theirs, kerases, ours = tf.Variable(1.0), keras.Variable(1.0), make(backend, 1.0)
    assert theirs.assign(2.0) is not theirs
    assert isinstance(kerases.assign(2.0), tf.Tensor)
    assert ours.assign(2.0) is ours


def test_an_index_of_a_list_selects_rows_only_here(backend: str, tf: Any) -> None:
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    assert float(tf.Variable(array)[[0, 1]]) == 1.0
    assert_same(make(backend, array)[[0, 1]], array)


def test_a_failing_scatter_leaves_part_of_it_in_tensorflow(backend: str, tf: Any) -> None:
    theirs, ours = tf.Variable([1.0, 2.0]), make(backend, [1.0, 2.0])
    with pytest.raises(tf.errors.InvalidArgumentError):
        theirs.scatter_update(tf.IndexedSlices(tf.constant([100.0, 7.0]), tf.constant([0, 5])))
    assert_same(theirs.numpy(), [100.0, 2.0])
    with pytest.raises(sv.errors.IndexingError):
        ours.at[[0, 5]].set([100.0, 7.0])
    assert_same(ours.numpy(), [1.0, 2.0])


def test_variables_are_hashable_and_equal_no_none_only_here(backend: str, tf: Any, keras: Any) -> None:
    for theirs in (tf.Variable(1.0), keras.Variable(1.0)):
        with pytest.raises(TypeError, match="unhashable"):
            hash(theirs)
        with pytest.raises(ValueError, match="None"):
            theirs == None  # noqa: B015, E711  # the comparison is the point
    ours = make(backend, 1.0)
    assert {ours: "w"}[ours] == "w"
    assert (ours == None) is False  # noqa: E711


def test_unknown_keywords_are_swallowed_by_both(backend: str, tf: Any, keras: Any) -> None:
    tf.Variable(1.0, no_such_option=3)
    keras.Variable(1.0, no_such_option=3)
    with pytest.raises(TypeError, match="no_such_option"):
        make(backend, 1.0, no_such_option=3)


def test_integers_are_trainable_in_both(backend: str, tf: Any, keras: Any) -> None:
    assert tf.Variable(1).trainable
    assert keras.Variable(1).trainable
    assert not make(backend, 1).trainable
    assert make(backend, 1.0).trainable


def test_python_complex_numbers_are_complex128_in_tensorflow(backend: str, tf: Any) -> None:
    assert tf.Variable(1 + 2j).dtype == tf.complex128
    assert make(backend, 1 + 2j).dtype_name == "complex64"


def test_a_large_python_int_widens_in_tensorflow(backend: str, tf: Any) -> None:
    assert tf.Variable(2**40).dtype == tf.int64
    with pytest.raises(sv.errors.RangeError):
        make(backend, 2**40)


def test_the_aggregation_of_the_page_is_only_here(backend: str, keras: Any) -> None:
    assert keras.Variable(1.0).aggregation == "none"
    assert make(backend, 1.0).aggregation == "mean"


def test_an_initializers_shape_is_checked_only_here(backend: str, keras: Any) -> None:
    def wrong(shape: Any, dtype: Any) -> Any:
        return np.ones(3, dtype)

    assert outcome(lambda: tuple(keras.Variable(wrong, shape=(2,)).value.shape)) in ((3,), ValueError)
    with pytest.raises(sv.errors.ShapeError):
        make(backend, wrong, shape=(2,))


def test_a_copy_is_the_same_variable_in_tensorflow(backend: str, tf: Any) -> None:
    theirs, ours = tf.Variable(1.0), make(backend, 1.0)
    assert copy.copy(theirs) is theirs
    other = copy.copy(ours)
    other.assign(5.0)
    assert float(ours) == 1.0


def test_numpy_gets_a_view_only_from_ours(backend: str, tf: Any, keras: Any) -> None:
    for theirs in (tf.Variable([1.0]), keras.Variable([1.0])):
        with pytest.raises((DeprecationWarning, TypeError, ValueError)):
            np.asarray(theirs, copy=False)
        with pytest.raises((AttributeError, TypeError)):
            np.from_dlpack(theirs)
        with pytest.raises(TypeError):
            len(theirs)
    ours = make(backend, [1.0], trainable=False)
    assert_same(np.asarray(ours, copy=False), [1.0])
    assert_same(np.from_dlpack(ours), [1.0])
    assert len(ours) == 1


def test_an_operand_of_unknown_shape_is_refused_only_here(tf: Any) -> None:
    """In a graph nothing can be checked later, and row 004.4 asks for the check."""
    theirs, ours = tf.Variable([1.0, 2.0]), sv.Variable([1.0, 2.0], backend="tensorflow")
    unknown = tf.TensorSpec(None, tf.float32)
    add = tf.function(lambda x: ours.assign_add(x).value, input_signature=[unknown])
    with pytest.raises(sv.errors.ShapeError, match="ensure_shape"):
        add(tf.ones(2))
    tf.function(lambda x: theirs.assign_add(x), input_signature=[unknown])(tf.ones(2))
    assert_same(theirs.numpy(), [2.0, 3.0])
    assert_same(ours.numpy(), [1.0, 2.0])


def test_keras_rounds_what_is_stored_under_autocast(backend: str, keras: Any) -> None:
    scope = importlib.import_module("keras.src.backend").AutocastScope
    theirs, ours = keras.Variable([1.0001]), make(backend, [1.0001])
    with scope("float16"):
        theirs.assign_add([0.0])
    with sv.autocast("float16"):
        ours.assign_add([0.0])
    assert_same(theirs.numpy(), [1.0])
    assert_same(ours.numpy(), np.array([1.0001], np.float32))


def _in_threads(work: Call, threads: int) -> None:
    started = [threading.Thread(target=work) for _ in range(threads)]
    for each in started:
        each.start()
    for each in started:
        each.join()


@pytest.fixture
def impatient() -> Any:
    """Makes threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("impatient")
def test_keras_loses_updates_between_threads(backend: str, keras: Any) -> None:
    threads, times = 4, 100
    ours = make(backend, 0.0)
    for _ in range(10):  # which of them are lost is chance; that some are is not
        theirs = keras.Variable(0.0)
        _in_threads(lambda v=theirs: [v.assign_add(1.0) for _ in range(times)], threads)
        if float(theirs.numpy()) < threads * times:
            break
    else:
        pytest.fail("keras lost nothing: say so in the page of differences")
    _in_threads(lambda: [ours.assign_add(1.0) for _ in range(times)], threads)
    assert float(ours) == threads * times


@pytest.mark.usefixtures("impatient")
def test_tensorflow_and_ours_add_every_update(backend: str, tf: Any) -> None:
    threads, times = 4, 100
    for v in (tf.Variable(0.0), make(backend, 0.0)):
        _in_threads(lambda v=v: [v.assign_add(1.0) for _ in range(times)], threads)
        assert float(v) == threads * times
