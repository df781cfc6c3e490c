"""Row 1: what a variable can be made from, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import statevar as sv
from tests.helpers import array_of, array_type, assert_same, host
from tests.internals import HOST
from tests.variable.dtypes import CANNOT_HOLD

DTYPES = list(HOST)


@pytest.mark.parametrize(
    ("value", "dtype", "shape"),
    [
        (2.0, "float32", ()),
        (2, "int32", ()),
        (True, "bool", ()),
        (1 + 2j, "complex64", ()),
        ([1.0, 2.0], "float32", (2,)),
        ([[1, 2, 3]], "int32", (1, 3)),
        ([1, 2.5], "float32", (2,)),
        ([True, False], "bool", (2,)),
        ((1, 2), "int32", (2,)),
        (range(3), "int32", (3,)),
        ([], "float32", (0,)),
        ([np.float16(1)], "float16", (1,)),
        ([np.int8(1), np.int8(2)], "int8", (2,)),
        ([np.ones(2, "float32"), np.zeros(2, "float32")], "float32", (2, 2)),
    ],
)
def test_python_values_have_the_usual_dtype(backend: str, value: Any, dtype: str, shape: tuple[int, ...]) -> None:
    v = sv.Variable(value, backend=backend)
    assert (v.dtype_name, v.shape, v.backend) == (dtype, shape, backend)
    assert_same(v, np.asarray(value).astype(HOST[dtype]), dtype=True)
    assert isinstance(v.value, array_type(backend))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_held_or_refused_by_name(backend: str, dtype: str) -> None:
    values = ["a", "bc"] if dtype == "string" else np.array([0, 1], HOST[dtype])
    if dtype in CANNOT_HOLD[backend]:
        with pytest.raises(sv.errors.DTypeError, match=CANNOT_HOLD[backend][dtype]):
            sv.Variable(values, dtype=dtype, backend=backend)
        return
    v = sv.Variable(values, dtype=dtype, backend=backend)
    assert v.dtype_name == dtype
    assert v.value.dtype == v.dtype
    assert sv.Variable(v.value).dtype_name == dtype
    assert_same(v, np.asarray(values, HOST[dtype]), dtype=True)


def test_numpy_arrays_keep_their_dtype(backend: str) -> None:
    for dtype in ("float16", "int8", "uint16", "complex64", "bool"):
        assert sv.Variable(np.zeros(2, dtype), backend=backend).dtype_name == dtype


def test_the_variable_follows_the_library_of_an_array(backend: str) -> None:
    array = array_of(backend, [1.0, 2.0], "float32")
    assert sv.Variable(array).backend == backend
    assert sv.Variable(array, backend="numpy").backend == "numpy"
    assert_same(sv.Variable(array, backend="numpy"), [1.0, 2.0])


@settings(deadline=None, max_examples=30)
@given(
    array=hnp.arrays(
        st.sampled_from([np.float32, np.int16, np.bool_, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    )
)
def test_any_array_of_numpy_is_held_as_it_is(backend: str, array: np.ndarray[Any, Any]) -> None:
    v = sv.Variable(array, backend=backend)
    assert (v.shape, v.ndim, v.size, v.nbytes) == (array.shape, array.ndim, array.size, array.nbytes)
    assert_same(v, array, dtype=True)


@pytest.mark.parametrize("make", [np.asfortranarray, lambda a: a[::-1], lambda a: a.T, lambda a: a[:, ::2]])
def test_any_memory_layout_is_copied_in_order(backend: str, make: Any) -> None:
    array = make(np.arange(12, dtype="float32").reshape(3, 4))
    assert_same(sv.Variable(array, backend=backend), array)


@pytest.mark.parametrize("size", [1, 7, 100, 5000, 300_000])
def test_a_callers_array_is_never_aliased(backend: str, size: int) -> None:
    # 64-byte aligned: what JAX and TensorFlow take without copying.
    memory = np.zeros(4 * size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + 4 * size].view(np.float32)
    made = sv.Variable(array, backend=backend)
    assigned = sv.Variable(np.ones(size, np.float32), backend=backend).assign(array)
    added = sv.Variable(np.zeros(size, np.float32), backend=backend).assign_add(array)
    array[...] = 9
    for v in (made, assigned, added):
        assert_same(v, np.zeros(size))


def test_a_callers_own_array_is_never_aliased(backend: str) -> None:
    array = array_of(backend, np.zeros(1000), "float32")
    v, w = sv.Variable(array), sv.Variable(np.ones(1000, "float32"), backend=backend).assign(array)
    v.assign_add(1.0)
    w.assign_add(2.0)
    assert_same(array, np.zeros(1000))
    if hasattr(array, "fill_"):
        array.fill_(7.0)
    elif isinstance(array, np.ndarray):
        array[...] = 7.0
    assert_same(v, np.ones(1000))
    assert_same(w, np.full(1000, 2.0))


def test_a_variable_from_a_variable_has_its_own_memory(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    w = sv.Variable(v)
    assert w.backend == backend
    w.assign_add(1.0)
    v.assign_add(10.0)
    assert_same(v, [11.0, 12.0])
    assert_same(w, [2.0, 3.0])


def test_a_variable_from_a_variable_of_another_library(backend: str) -> None:
    for other in ("numpy", "torch"):
        assert_same(sv.Variable(sv.Variable([1.0, 2.0], backend=other), backend=backend), [1.0, 2.0], dtype=False)


class Ones:
    """As a Keras initializer."""

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return np.ones(shape, dtype)


def test_a_callable_is_called_with_shape_and_dtype(backend: str) -> None:
    v = sv.Variable(initializer=Ones(), shape=(3, 3), dtype="float16", backend=backend)
    assert (v.shape, v.dtype_name) == ((3, 3), "float16")
    assert_same(v, np.ones((3, 3)))
    assert sv.Variable(Ones(), shape=2, backend=backend).dtype_name == "float32"
    assert sv.Variable(lambda shape, dtype: [0] * shape[0], shape=(2,), backend=backend).dtype_name == "float32"
    follows = sv.Variable(lambda shape, dtype: array_of(backend, np.zeros(shape), dtype), shape=(2,))
    assert follows.backend == backend


NAMES = [name for name in sv.initializers.__all__ if name != "get"]


@pytest.mark.parametrize("name", NAMES)
def test_named_initializers_give_the_same_numbers_on_every_backend(backend: str, name: str) -> None:
    v = sv.Variable(name, shape=(4, 3), seed=7, backend=backend)
    assert_same(v, sv.initializers.get(name)((4, 3), "float32", 7), dtype=True)
    assert_same(v, sv.Variable(name, shape=(4, 3), seed=7))


@pytest.mark.parametrize("name", [name for name in NAMES if "normal" in name or "uniform" in name])
def test_random_initializers_have_the_scale_of_keras(name: str) -> None:
    import keras

    arguments = {"normal": {"stddev": 0.05}, "truncated_normal": {"stddev": 0.05}}.get(name, {})
    theirs_name = {"normal": "RandomNormal", "truncated_normal": "TruncatedNormal", "uniform": "RandomUniform"}.get(
        name, "".join(part.title() for part in name.split("_"))
    )
    theirs = np.asarray(getattr(keras.initializers, theirs_name)(**arguments, seed=1)((300, 200)))
    ours = sv.initializers.get(name)((300, 200), "float32", 1)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.2)
    assert abs(ours.mean()) < 0.05 * ours.std()


def test_the_same_seed_gives_the_same_numbers() -> None:
    make = sv.initializers.normal
    assert (make((5,), "float32", 1) == make((5,), "float32", 1)).all()
    assert (make((5,), "float32", 1) != make((5,), "float32", 2)).any()
    assert (make((5,)) != make((5,))).any()


def test_orthogonal_is_orthogonal() -> None:
    for shape in ((4, 4), (6, 3), (3, 6), (2, 3, 4)):
        q = sv.initializers.orthogonal(shape, "float64", 0).reshape(-1, shape[-1])
        product = q.T @ q if q.shape[0] >= q.shape[1] else q @ q.T
        np.testing.assert_allclose(product, np.eye(min(q.shape)), atol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sv.Variable([[1, 2], [3]]), ValueError, "cannot be read as an array"),
        (lambda: sv.Variable(object()), ValueError, "type object cannot be read as an array"),
        (lambda: sv.Variable(np.array([{}])), TypeError, "unknown dtype dtype\\('O'\\)"),
        (lambda: sv.Variable(np.array(["2020-01-01"], "M8[D]")), TypeError, "unknown dtype"),
        (lambda: sv.Variable(2**31), OverflowError, "2147483648 is out of the range of int32"),
        (lambda: sv.Variable([2**70]), OverflowError, "does not fit into 64 bits"),
        (lambda: sv.Variable(1.0, dtype="float31"), TypeError, "unknown dtype 'float31'.*known dtypes are bool, int8"),
        (lambda: sv.Variable(1.5, dtype="int32"), TypeError, "1.5 cannot be represented as int32"),
        (lambda: sv.Variable(1.0, aggregation="max"), ValueError, "none, mean, sum, only_first_replica, got 'max'"),  # type: ignore[arg-type]
        (lambda: sv.Variable(1.0, constraint=3), TypeError, "expected a callable or None, got 3"),  # type: ignore[arg-type]
        (lambda: sv.Variable(), ValueError, "neither an initial value nor a shape"),
        (lambda: sv.Variable("normals", shape=(2,)), ValueError, "unknown initializer 'normals'.*zeros, ones"),
        (lambda: sv.Variable("normal"), ValueError, "needs a shape without open axes, got None"),
        (lambda: sv.Variable("normal", shape=(None, 2)), ValueError, "needs a shape without open axes"),
        (lambda: sv.Variable("normal", shape=(2,), dtype="int32"), TypeError, "need a floating-point dtype"),
        (lambda: sv.Variable("orthogonal", shape=(2,)), ValueError, "a shape with at least two axes, got \\(2,\\)"),
        (lambda: sv.Variable("identity", shape=(2,)), ValueError, "a shape with two axes, got \\(2,\\)"),
        (lambda: sv.Variable([1.0], seed=3), ValueError, "seed= works only with the name of an initializer"),
        (lambda: sv.Variable(lambda shape, dtype: np.ones(3), shape=(2,)), ValueError, "has shape \\(3,\\)"),
        (
            lambda: sv.Variable([1.0], shape=(2,)),
            ValueError,
            "shape \\(1,\\), which does not fit the declared shape \\(2,\\)",
        ),
        (lambda: sv.Variable([1.0], shape="abc"), ValueError, "expected non-negative integers or None, got 'abc'"),
        (lambda: sv.Variable([1.0], shape=(-1,)), ValueError, "got \\(-1,\\)"),
        (lambda: sv.Variable([1.0], name="a/b"), ValueError, "without '/', got 'a/b'"),
        (lambda: sv.Variable([1.0], name=""), ValueError, "non-empty"),
        (
            lambda: sv.Variable([1.0], device="GPU:7"),
            ValueError,
            "there is no device 'GPU:7'.*available devices are 'CPU:0'",
        ),
        (lambda: sv.Variable([1.0], foo=1), TypeError, "foo"),  # type: ignore[call-arg]
    ],
)
def test_what_makes_no_variable_is_an_error_that_says_why(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_a_failed_creation_takes_no_name() -> None:
    with sv.name_scope("test_a_failed_creation_takes_no_name"):
        with pytest.raises(sv.errors.InitializerError):
            sv.Variable(object())
        assert sv.Variable(0).name == "variable"


def test_every_backend_knows_its_devices(backend: str) -> None:
    with sv.device("cpu:0"):
        v = sv.Variable([1.0], backend=backend)
    w = sv.Variable([1.0], backend=backend, device=v.device)
    assert w.device == v.device
    with pytest.raises(sv.errors.DeviceError, match="there is no device 'TPU:3'"):
        sv.Variable([1.0], backend=backend, device="TPU:3")
    with sv.device("TPU:3"), pytest.raises(sv.errors.DeviceError):
        sv.Variable([1.0], backend=backend)


def test_strings_are_held_written_and_not_mixed_with_numbers() -> None:
    v = sv.Variable(["a", "bc"])
    assert v.dtype_name == "string"
    v[0] = "xyz"
    v += "!"
    assert v.numpy().tolist() == ["xyz!", "bc!"]
    with pytest.raises(sv.errors.DTypeError, match="cannot cast int64 to string"):
        v.assign([1, 2])


def test_64_bits_on_jax_are_refused_unless_they_are_enabled() -> None:
    jax = pytest.importorskip("jax")
    with pytest.raises(
        sv.errors.DTypeError, match=r"pass dtype='float32', or call jax.config.update\('jax_enable_x64'"
    ):
        sv.Variable(np.ones(2), backend="jax")
    with jax.experimental.enable_x64() if hasattr(jax.experimental, "enable_x64") else jax.enable_x64(True):
        assert host(sv.Variable(np.ones(2), backend="jax")).dtype == np.float64
