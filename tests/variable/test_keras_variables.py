"""The cases of Keras's own tests of its variable, on every library.

They follow ``keras/src/backend/common/variables_test.py`` of Keras 3.15 class by class. Where we decided otherwise, the
test says so, and docs/migrating.md why.
"""

from __future__ import annotations

import itertools
import operator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, array_type, assert_same, host
from tests.internals import HOST
from tests.variable.dtypes import CANNOT_HOLD

# -- VariableInitializationTest ---------------------------------------------------------------------------


def test_a_variable_can_be_used_in_the_stateless_scope_in_which_it_is_made(backend: str) -> None:
    with sv.StatelessScope():
        v = sv.Variable("random_normal", shape=(2, 2), backend=backend)
        assert_same(v + 1, host(v.value) + 1)
    assert v.shape == (2, 2)
    with sv.StatelessScope():
        assert_same(sv.Variable(initializer=0, backend=backend), 0)  # Keras refuses a value there


def test_arrays_of_numpy_and_of_the_library_and_lists(backend: str) -> None:
    for value, dtype in (
        (np.ones((2, 2), np.int32), "int32"),
        (array_of(backend, np.ones((2, 2)), "int32"), "int32"),
        ([[1, 1], [1, 1]], "int32"),
        ([[1.0, 1.0], [1.0, 1.0]], "float32"),
    ):
        v = sv.Variable(initializer=value, trainable=False, backend=backend)
        assert_same(v, np.ones((2, 2)))
        assert (v.dtype_name, v.trainable) == (dtype, False)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_lambda_may_return_a_number_a_list_or_any_array(backend: str, shape: tuple[int, ...]) -> None:
    for value in (1.0, [1.0], np.ones(1), array_of(backend, np.ones(1), "float32")):
        if (np.ndim(host(value)) == 0) == (shape == ()):
            v = sv.Variable(initializer=lambda *a, _=value, **kw: _, shape=shape, dtype="float32", backend=backend)
            assert_same(v, np.ones(shape))
            assert v.dtype_name == "float32"


def test_the_name_of_an_initializer(backend: str) -> None:
    assert_same(sv.Variable(initializer="ones", shape=(2, 2), backend=backend), np.ones((2, 2)))


def test_an_initializer_without_a_shape(backend: str) -> None:
    keras = pytest.importorskip("keras")
    for initializer in (keras.initializers.RandomNormal(), "normal", np.ones):
        with pytest.raises(ValueError, match="an initializer needs a shape without open axes, got None"):
            sv.Variable(initializer=initializer, backend=backend)
    v = sv.Variable(initializer=lambda: np.ones((2, 2)), dtype="float32", backend=backend)  # Keras refuses it
    assert_same(v, np.ones((2, 2)))


# -- VariablePropertiesTest -------------------------------------------------------------------------------


def test_writes_in_a_stateless_scope_stay_in_it(backend: str) -> None:
    with sv.StatelessScope() as scope:
        v = sv.Variable("zeros", shape=(2, 2), backend=backend)
        v.assign(np.zeros((2, 2)))
        v.assign_add(2 * np.ones((2, 2)))
        v.assign_sub(np.ones((2, 2)))
    assert_same(scope.get_current_value(v), np.ones((2, 2)))
    assert_same(v, np.zeros((2, 2)))


def test_trainable_can_be_set(backend: str) -> None:
    v = sv.Variable("normal", shape=(2, 2), backend=backend)
    assert v.trainable
    v.trainable = False
    assert not v.trainable
    if backend == "torch":
        v.trainable = True
        assert v.parameter.requires_grad
        v.trainable = False
        assert not v.parameter.requires_grad


class NonNegative:
    def __call__(self, w: Any) -> Any:
        return w * (w >= 0)


def test_the_constraint_can_be_set_to_any_callable(backend: str) -> None:
    v = sv.Variable("ones", shape=(2,), backend=backend)
    for constraint in (lambda w: w * 0.5, NonNegative(), None):
        v.constraint = constraint
        assert v.constraint is constraint
    with pytest.raises(TypeError, match="constraint: expected a callable or None, got 'not callable', at"):
        v.constraint = "not callable"  # type: ignore[assignment]
    assert v.constraint is None


def test_a_regularizer_is_an_attribute_of_the_users_own(backend: str) -> None:
    v: Any = sv.Variable("ones", shape=(2,), backend=backend)
    assert not hasattr(v, "regularizer")
    v.regularizer = len
    assert v.regularizer is len
    v.overwrite_with_gradient = True
    assert v.overwrite_with_gradient is True


def test_floats_are_cast_in_a_scope_and_stored_as_they_are(backend: str) -> None:
    v = sv.Variable("normal", shape=(2, 2), dtype="float32", backend=backend)
    assert sv.Variable(v.value).dtype_name == "float32"
    with sv.autocast("float16"):
        assert sv.Variable(v.value).dtype_name == "float16"
        assert v.dtype_name == "float32"
    assert sv.Variable(v.value).dtype_name == "float32"
    for dtype in ("float16", "float32"):
        with sv.autocast("float16"):
            v.assign(array_of(backend, np.full((2, 2), 0.5), dtype))
        assert v.numpy().dtype == np.float32
        assert_same(v, np.full((2, 2), 0.5))


def test_what_a_scope_does_not_cast(backend: str) -> None:
    integer = sv.Variable("ones", shape=(2, 2), dtype="int32", trainable=False, backend=backend)
    off = sv.Variable("normal", shape=(2, 2), autocast=False, backend=backend)
    with sv.autocast("float16"):
        assert sv.Variable(integer.value).dtype_name == "int32"
        assert sv.Variable(off.value).dtype_name == "float32"
    with pytest.raises(sv.errors.DTypeError, match="float"), sv.autocast("int32"):  # a TypeError; a ValueError in Keras
        pass


def test_every_dtype_of_keras_has_the_same_name(backend: str) -> None:
    dtypes = pytest.importorskip("keras.src.backend.common.dtypes").ALLOWED_DTYPES
    assert set(dtypes) - {"string"} <= HOST.keys() | {"complex32"}
    for dtype in set(dtypes) & HOST.keys() - CANNOT_HOLD[backend].keys() - {"string"}:
        if not (backend == "jax" and "64" in dtype and dtype != "complex64") and dtype != "complex128":
            v = sv.Variable(np.zeros((), HOST[dtype]), backend=backend)
            assert v.dtype_name == sv.Variable(v.value).dtype_name == sv.Variable(0, dtype=v.dtype).dtype_name == dtype


@pytest.mark.parametrize("name", [12345, "invalid/name"])
def test_a_name_is_a_string_without_a_slash(backend: str, name: Any) -> None:
    with pytest.raises(ValueError, match=f"without '/', got {name!r}"):
        sv.Variable("normal", shape=(2,), name=name, backend=backend)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((3, 4, 5), (3, 4, 5)),
        ([3, 4, 5], (3, 4, 5)),
        ((3, None, 5), (3, None, 5)),
        ((None, None, None, 64), (None, None, None, 64)),
        ((None, 224, 224, 3), (None, 224, 224, 3)),
        ([3, np.int32(4), np.int64(5)], (3, 4, 5)),
        (np.array([3, 4, 5]), (3, 4, 5)),
        (42, (42,)),  # Keras refuses a number
        (np.int64(42), (42,)),
    ],
)
def test_a_shape_is_standardized(backend: str, shape: Any, expected: Any) -> None:
    declared = sv.Variable(shape=shape, dtype="float32", backend=backend).declared_shape
    assert declared == expected
    assert type(declared) is tuple
    assert all(each is None or type(each) is int for each in declared)


@pytest.mark.parametrize("shape", [(3, 4, "5"), (3, 4, 5.0), (3, 4, object()), (3, 4, -5), "345", 4.5, (True, 2)])
def test_a_shape_that_is_none_is_an_error(backend: str, shape: Any) -> None:
    with pytest.raises(ValueError, match="shape: expected non-negative integers or None, got"):
        sv.Variable(shape=shape, dtype="float32", backend=backend)


def test_shapes_of_the_libraries_are_shapes() -> None:
    torch = pytest.importorskip("torch")
    shapes = [torch.randn(3, 4, 5).size(), torch.tensor([3, 4, 5])]
    tf = pytest.importorskip("tensorflow")
    for dtype in (tf.int32, tf.int64):
        shapes += [(3, tf.constant(4, dtype), 5), tf.constant([3, 4, 5], dtype), tf.shape(tf.zeros((3, 4, 5)), dtype)]
    shapes += [tf.TensorShape([3, 4, 5]), tf.TensorShape([3, 4, 5]).as_list()]
    for shape in shapes:
        declared = sv.Variable(shape=shape, dtype="float32").declared_shape
        assert declared == (3, 4, 5)
        assert all(type(each) is int for each in declared)
    assert sv.Variable(shape=tf.TensorShape([None, 2]), dtype="float32").declared_shape == (None, 2)
    assert sv.Variable(shape=tf.TensorShape(None), dtype="float32").declared_shape is ...


def test_paths(backend: str) -> None:
    assert sv.Variable(np.ones((2, 2), "float32"), name="test_var", backend=backend).path == "test_var"
    with sv.name_scope("test_scope"):
        v = sv.Variable(np.ones((2, 2), "float32"), name="test_var", backend=backend)
    assert v.path == "test_scope/test_var"


# -- VariableNumpyValueAndAssignmentTest and VariableDtypeShapeNdimRepr -----------------------------------------


@pytest.fixture
def v(backend: str) -> sv.Variable:
    return sv.Variable(initializer=np.array([1.0, 2.0, 3.0]), name="test_var", backend=backend)


def test_reading(backend: str, v: sv.Variable) -> None:
    assert type(v.numpy()) is np.ndarray
    assert isinstance(v.value, array_type(backend))
    for read in (v.numpy(), v.value, v.__array__(), np.asarray(v), v[:]):
        assert_same(read, [1.0, 2.0, 3.0])
    assert type(sv.Variable(0.0, backend=backend).numpy()) is np.ndarray
    assert v[0] == 1
    assert (v.shape, v.ndim) == ((3,), 1)
    assert v.dtype_name == ("float32" if backend == "jax" else "float64")


def test_writing_returns_the_new_value(v: sv.Variable) -> None:
    for write, expected in (
        (v.assign, [4.0, 5.0, 6.0]),
        (v.assign_add, [5.0, 6.0, 7.0]),
        (v.assign_sub, [4.0, 5.0, 6.0]),
    ):
        operand = [4.0, 5.0, 6.0] if write == v.assign else [1.0, 1.0, 1.0]
        assert_same(write(np.array(operand)), expected)
        assert_same(v, expected)


def test_the_text_has_path_shape_dtype_and_value(v: sv.Variable) -> None:
    assert repr(v).startswith("<Variable 'test_var' shape=(3,) dtype=float")
    assert repr(v).endswith("value=[1. 2. 3.]>")
    with sv.StatelessScope():
        zeros = sv.Variable("zeros", shape=(3,), name="test_var", backend=v.backend)
        assert "'test_var' shape=(3,) dtype=float32" in repr(zeros)


# -- VariableOpsCorrectnessTest and VariableOpsBehaviorTest -----------------------------------------------------


def test_numbers(backend: str) -> None:
    scalar = sv.Variable(np.array(-1.1), backend=backend)
    assert int(scalar) == -1
    assert float(scalar) == pytest.approx(-1.1)
    whole = sv.Variable(np.ones((2, 2)), backend=backend)
    for convert in (bool, int, float):
        with pytest.raises(TypeError, match=rf"{convert.__name__}: expected a scalar, got shape \(2, 2\)"):
            convert(whole)


UNARY = [
    (operator.neg, [-1.0, 2.0], [1.0, -2.0]),
    (abs, [-1.0, 2.0], [1.0, 2.0]),
    (operator.pos, [-1.0, 2.0], [-1.0, 2.0]),
    (operator.invert, [True, False], [False, True]),
    (round, [1.1, 2.2, 3.3], [1.0, 2.0, 3.0]),
]


@pytest.mark.parametrize(("op", "value", "expected"), UNARY)
def test_operators_of_one(backend: str, op: Any, value: Any, expected: Any) -> None:
    assert_same(op(sv.Variable(np.array(value), backend=backend)), expected)


COMPARED = [("eq", True), ("ne", False), ("lt", False), ("le", True), ("gt", False), ("ge", True)]


@pytest.mark.parametrize(("name", "expected"), COMPARED)
def test_comparisons(backend: str, name: str, expected: bool) -> None:
    v = sv.Variable(np.array([1.0, 2.0]), trainable=False, backend=backend)
    for other in (np.array([1.0, 2.0]), sv.Variable(np.array([1.0, 2.0]), backend=backend), v.value):
        assert_same(getattr(v, f"__{name}__")(other), [expected, expected])


A, B = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
SQUARE, OTHER = [[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]
T, F = True, False
BINARY = [
    ("__add__", A, B, [5.0, 7.0, 9.0]),
    ("__radd__", A, B, [5.0, 7.0, 9.0]),
    ("__sub__", A, B, [-3.0, -3.0, -3.0]),
    ("__rsub__", B, A, [-3.0, -3.0, -3.0]),
    ("__mul__", A, B, [4.0, 10.0, 18.0]),
    ("__rmul__", A, B, [4.0, 10.0, 18.0]),
    ("__truediv__", A, B, [0.25, 0.4, 0.5]),
    ("__rtruediv__", B, A, [0.25, 0.4, 0.5]),
    ("__floordiv__", A, [-4.0, 5.0, 6.0], [-1.0, 0.0, 0.0]),
    ("__rfloordiv__", [-4.0, 5.0, 6.0], A, [-1.0, 0.0, 0.0]),
    ("__mod__", A, [-4.0, 5.0, 6.0], [-3.0, 2.0, 3.0]),
    ("__rmod__", A, A, [0.0, 0.0, 0.0]),
    ("__pow__", A, [-4.0, 5.0, 6.0], [1.0, 32.0, 729.0]),
    ("__rpow__", A, A, [1.0, 4.0, 27.0]),
    ("__pow__", B, A, [4.0, 25.0, 216.0]),
    ("__matmul__", SQUARE, OTHER, [[19.0, 22.0], [43.0, 50.0]]),
    ("__rmatmul__", SQUARE, OTHER, [[23.0, 34.0], [31.0, 46.0]]),
    ("__and__", [T, F], [T, T], [T, F]),
    ("__rand__", [T, F], [T, T], [T, F]),
    ("__or__", [T, F], [T, T], [T, T]),
    ("__ror__", [T, F], [T, T], [T, T]),
    ("__xor__", [T, F], [T, T], [F, T]),
    ("__rxor__", [T, F], [T, T], [F, T]),
]


@pytest.mark.parametrize(("name", "left", "right", "expected"), BINARY)
def test_operators_of_two(backend: str, name: str, left: Any, right: Any, expected: Any) -> None:
    v, w = sv.Variable(np.array(left), backend=backend), sv.Variable(np.array(right), backend=backend)
    for other in (w, w.value, np.array(right)):
        assert_same(getattr(v, name)(other), expected, rtol=1e-6)


# -- VariableOpsDTypeTest -----------------------------------------------------------------------------------------

DTYPES = [
    *("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32"),
    *("float16", "bfloat16", "float32", "complex64"),
]
#: Operators, and what JAX calls them; `and` of integers is bitwise here, and logical in Keras.
OPERATORS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "mod",
    "pow": "power",
    "matmul": "matmul",
    "and_": "bitwise_and",
    "or_": "bitwise_or",
    "xor": "bitwise_xor",
}


@pytest.mark.slow  # JAX compiles each operator for each pair
@pytest.mark.parametrize("name", OPERATORS)
def test_the_dtype_of_an_operator_on_jax(name: str) -> None:
    jax, jnp = pytest.importorskip("jax"), pytest.importorskip("jax.numpy")
    op, theirs = getattr(operator, name), getattr(jnp, OPERATORS[name])
    for one, two in itertools.combinations(
        ["bool", "int8", "uint16", "int32", "bfloat16", "float16", "complex64", None], 2
    ):
        v, w = (sv.Variable("ones", (1,), each, trainable=False, backend="jax") for each in (one, two))
        x, y = (jax.ShapeDtypeStruct((1,), each or "float32") for each in (one, two))
        try:
            expected = jax.eval_shape(theirs, x, y).dtype
        except TypeError:
            with pytest.raises(TypeError):
                op(v, w)
            continue
        assert op(v, w).dtype == expected, (one, two)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_dtype_of_an_operator_is_that_of_the_librarys_own(backend: str, name: str) -> None:
    op = getattr(operator, name)
    for dtype in set(DTYPES) - CANNOT_HOLD[backend].keys():
        v, w = (sv.Variable("ones", (1,), dtype, trainable=False, backend=backend) for _ in range(2))
        try:
            expected = sv.Variable(op(v.value, w.value)).dtype_name
        except Exception:  # noqa: BLE001  # the library has no such operator for the dtype; ours may compute it
            continue
        assert sv.Variable(op(v, w)).dtype_name == expected, dtype
