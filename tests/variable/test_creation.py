"""Row 1: what a variable can be made from, and what it refuses."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import statevar as sv
from tests.helpers import array_of, array_type, assert_same, host
from tests.internals import HOST, elsewhere
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


NAMES = [name for name in sv.initializers.__all__ if name not in ("get", "part")]


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
        (lambda: sv.Variable(np.array([{}])), TypeError, "got an array of the dtype object, which no variable has"),
        (
            lambda: sv.Variable(np.array(["2020-01-01"], "M8[D]")),
            TypeError,
            "the dtype datetime64\\[D\\], which no var",
        ),
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
        (lambda: sv.Variable([1.0], shape="abc"), ValueError, "expected non-negative integers or None, got 'abc'"),  # type: ignore[arg-type]
        (lambda: sv.Variable([1.0], shape=(-1,)), ValueError, "got \\(-1,\\)"),
        (lambda: sv.Variable([1.0], name="a/b"), ValueError, "without '/', got 'a/b'"),
        (lambda: sv.Variable([1.0], name=""), ValueError, "non-empty"),
        (
            lambda: sv.Variable([1.0], device="GPU:7"),
            ValueError,
            "there is no device 'GPU:7'.*available devices are 'CPU:0'",
        ),
        (lambda: sv.Variable([1.0], foo=1), TypeError, "foo"),  # type: ignore[arg-type]
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


def test_64_bits_that_are_asked_for_are_refused_on_jax_unless_they_are_enabled() -> None:
    jax = pytest.importorskip("jax")
    hint = r"pass dtype='float32', or call jax.config.update\('jax_enable_x64'"
    with pytest.raises(sv.errors.DTypeError, match=hint):
        sv.Variable(np.ones(2), dtype="float64", backend="jax")
    with pytest.raises(sv.errors.DTypeError, match="JAX has int64 only with 64 bits enabled"):
        sv.Variable(shape=(2,), dtype=np.int64, backend="jax")
    with jax.experimental.enable_x64() if hasattr(jax.experimental, "enable_x64") else jax.enable_x64(True):
        assert host(sv.Variable(np.ones(2), backend="jax")).dtype == np.float64


WIDE = {
    "float64": ("float32", np.array([1.5, -2.0])),
    "complex128": ("complex64", np.array([1.5j, -2.0])),
    "int64": ("int32", np.array([1, -(2**31)])),
    "uint64": ("uint32", np.array([1, 2**32 - 1], np.uint64)),
}


class Child(sv.Variable):
    pass


@pytest.mark.parametrize("wide", WIDE)
@pytest.mark.parametrize(
    "make",
    [
        lambda array, backend: sv.Variable(array, backend=backend),
        lambda array, backend: Child(array, backend=backend),
        lambda array, backend: sv.Variable(sv.Variable(array), backend=backend),
        lambda array, backend: sv.Variable(lambda: array, backend=backend),
        lambda array, backend: sv.Variable(array, shape=(None,), backend=backend),
        lambda array, backend: sv.Variable(array[:1][0].reshape(1), backend=backend),
    ],
)
def test_an_array_of_64_bits_is_taken_on_every_backend(backend: str, wide: str, make: Any) -> None:
    narrow, array = WIDE[wide]
    v = make(array, backend)
    assert v.dtype_name == (narrow if backend == "jax" else wide)
    assert_same(v, array[: v.shape[0]])
    assert_same(v.assign(array[: v.shape[0]]), array[: v.shape[0]])


@pytest.mark.parametrize(
    ("array", "number", "narrow"),
    [
        (np.array([1, 2**31]), "2147483648", "int32"),
        (np.array([2**40], np.uint64), "1099511627776", "uint32"),
        (np.array([1e300]), r"1e\+300", "float32"),
    ],
)
def test_a_number_that_needs_64_bits_is_an_error_on_jax(array: Any, number: str, narrow: str) -> None:
    pytest.importorskip("jax")
    with pytest.raises(sv.errors.RangeError, match=f"Variable: {number} is out of the range of {narrow}"):
        sv.Variable(array, backend="jax")


def test_a_pickle_of_64_bits_is_not_narrowed(backend: str) -> None:
    """A dtype that was stored was asked for."""
    if backend != "jax":
        return
    state = sv.Variable(np.ones(2)).__reduce__()[1][0] | {"backend": "jax"}
    with pytest.raises(sv.errors.DTypeError, match="JAX has float64 only with 64 bits enabled"):
        sv.Variable._restore(state)


def test_a_file_of_64_bits_is_loaded_with_cast(backend: str, tmp_path: Path) -> None:
    arrays = dict(WIDE.values())
    sv.save({name: sv.Variable(array) for name, array in arrays.items()}, tmp_path / "file")
    model = {name: sv.Variable(np.zeros_like(array), backend=backend) for name, array in arrays.items()}
    if backend == "jax":
        with pytest.raises(sv.errors.CheckpointMismatchError, match="expected float32, got float64; pass cast=True"):
            sv.load(model, tmp_path / "file")
    sv.load(model, tmp_path / "file", cast=True)
    for name, array in arrays.items():
        assert_same(model[name], array)


def zero(i: int = 3) -> float:
    return 2.0 * i


@pytest.mark.parametrize(
    ("make", "shape", "value", "dtype"),
    [
        (lambda: 1, None, 1, "int32"),
        (lambda: [1.0, 2.0], None, [1.0, 2.0], "float32"),
        (lambda: np.ones((2, 1)), None, [[1.0], [1.0]], "float64"),
        (lambda: [1.0, 2.0], (2,), [1.0, 2.0], "float32"),
        (lambda: [1.0, 2.0], (None,), [1.0, 2.0], "float32"),
        (lambda: [1.0, 2.0], ..., [1.0, 2.0], "float32"),
        (lambda *, scale=2: scale, (), 2, "int32"),
        (zero, None, 6.0, "float32"),
        (lambda shape: np.ones(shape), (2,), [1.0, 1.0], "float32"),
        (lambda shape, dtype: np.ones(shape, dtype), (2,), [1.0, 1.0], "float32"),
        (lambda s, d: np.ones(s, d), (2,), [1.0, 1.0], "float32"),
        (lambda shape, d: np.ones(shape, d), (2,), [1.0, 1.0], "float32"),
        (lambda s, dtype=None: np.ones(s, dtype), (2,), [1.0, 1.0], "float32"),
        (lambda dtype, shape: np.ones(shape, dtype), (2,), [1.0, 1.0], "float32"),
        (lambda *, shape, dtype: np.ones(shape, dtype), (2,), [1.0, 1.0], "float32"),
        (lambda shape, **keywords: np.ones(shape, keywords["dtype"]), (2,), [1.0, 1.0], "float32"),
        (lambda *, shape=(): np.ones(shape), (2,), [1.0, 1.0], "float32"),
        (lambda **keywords: 1.0, None, 1.0, "float32"),
        (lambda *a, **kw: 1.0, (), 1.0, "float32"),
        (lambda *a: np.ones(*a), (2,), [1.0, 1.0], "float32"),
        (np.zeros, (2,), [0.0, 0.0], "float32"),
        (partial(np.full, fill_value=3), (2,), [3.0, 3.0], "float32"),
        (Ones, (2,), [1.0, 1.0], "float32"),
        (Ones(), (2,), [1.0, 1.0], "float32"),
    ],
)
def test_an_initializer_is_called_as_its_signature_says(
    backend: str, make: Any, shape: Any, value: Any, dtype: str
) -> None:
    v = sv.Variable(make, shape, backend=backend)
    assert_same(v, value)
    assert v.dtype_name == ("float32" if backend == "jax" and dtype == "float64" else dtype)
    assert sv.Variable(make, shape, "float16", backend=backend).dtype_name == "float16"


def test_a_callable_without_arguments_follows_the_library_of_its_array(backend: str) -> None:
    v = sv.Variable(lambda: array_of(backend, [1.0, 2.0], "float16"))
    assert (v.backend, v.dtype_name) == (backend, "float16")
    made = sv.Variable(lambda: v)
    v.assign_add(1.0)
    assert_same(made, [1.0, 2.0])


def fails() -> None:
    raise RuntimeError("of the user")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sv.Variable(fails), RuntimeError, "of the user"),
        (
            lambda: sv.Variable(lambda: None),
            sv.errors.InitializerError,
            "Variable: the initializer <lambda> returned None",
        ),
        (
            lambda: sv.Variable(lambda: [1.0], shape=(2,)),
            ValueError,
            r"initial value has shape \(1,\), which does not fit",
        ),
        (lambda: sv.Variable(lambda shape: np.ones(shape)), ValueError, "needs a shape without open axes, got None"),
        (lambda: sv.Variable(np.zeros), ValueError, "needs a shape without open axes, got None"),
        (
            lambda: sv.Variable(zero, shape=()),
            ValueError,
            r"zero takes \(i\), of which none is named shape.*lambda shape",
        ),
        (lambda: sv.Variable(lambda x: x, shape=()), ValueError, r"<lambda> takes \(x\), of which none is named shape"),
        (
            lambda: sv.Variable(lambda key, shape, dtype=None: 1, shape=()),
            ValueError,
            r"or with nothing; <lambda> takes \(key, shape, dtype\), and needs key as well. Hint: write a function",
        ),
        (
            lambda: sv.Variable(lambda a, b, c: 1, shape=()),
            ValueError,
            r"takes \(a, b, c\), of which none is named shape",
        ),
        (lambda: sv.Variable(lambda a, b=1: 1, shape=()), ValueError, r"takes \(a, b\), of which none is named shape"),
        (
            lambda: sv.Variable(np.random.rand, shape=(2,)),
            ValueError,
            r"the initializer rand cannot be called with the shape \(2,\) and the dtype 'float32' \(.*dtype: rand",
        ),
        (
            lambda: sv.Variable(float),
            ValueError,
            "the class float is no initial value. Hint: for a dtype, write dtype='float32'",
        ),
        (lambda: sv.Variable(dict), ValueError, "the class dict is no initial value. Hint: pass a value, a list"),
        (
            lambda: sv.Variable(partial),
            ValueError,
            r"the class partial cannot be made without arguments .*partial\(…\)",
        ),
    ],
)
def test_an_initializer_that_cannot_be_called_is_an_error_that_says_how(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("random_normal", "normal"),
        ("RandomNormal", "normal"),
        ("random_uniform", "uniform"),
        ("RandomUniform", "uniform"),
        ("TruncatedNormal", "truncated_normal"),
        ("GlorotUniform", "glorot_uniform"),
        ("GlorotNormal", "glorot_normal"),
        ("HeUniform", "he_uniform"),
        ("HeNormal", "he_normal"),
        ("LecunUniform", "lecun_uniform"),
        ("LecunNormal", "lecun_normal"),
        ("VarianceScaling", "variance_scaling"),
        ("Orthogonal", "orthogonal"),
        ("OrthogonalInitializer", "orthogonal"),
        ("Identity", "identity"),
        ("IdentityInitializer", "identity"),
        ("Constant", "constant"),
        ("Ones", "ones"),
        ("one", "ones"),
        ("Zeros", "zeros"),
        ("zero", "zeros"),
    ],
)
def test_an_initializer_may_be_named_as_in_keras(backend: str, theirs: str, ours: str) -> None:
    assert_same(*(sv.Variable(name, (2, 2), seed=0, backend=backend) for name in (theirs, ours)))


def test_every_name_of_keras_is_known_or_answered() -> None:
    keras = pytest.importorskip("keras")
    for name in sorted(keras.src.initializers.ALL_OBJECTS_DICT):
        snake = keras.src.utils.naming.to_snake_case(name)
        if snake in ("stft", "stft_initializer", "initializer"):  # of audio layers; the base class
            with pytest.raises(sv.errors.InitializerError, match=f"unknown initializer '{name}'"):
                sv.initializers.get(name)
        else:
            assert callable(sv.initializers.get(name)), name


def test_a_misspelled_initializer_is_told_the_nearest_one() -> None:
    with pytest.raises(
        sv.errors.InitializerError, match="unknown initializer 'gloro_uniform'. Hint: did you mean 'glorot_"
    ):
        sv.Variable("gloro_uniform", (2, 2))


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["truncated_normal", "untruncated_normal", "uniform"])
def test_variance_scaling_has_the_variance_of_keras(mode: str, distribution: str) -> None:
    keras = pytest.importorskip("keras")
    arguments = {"scale": 3.0, "mode": mode, "distribution": distribution}
    theirs = np.asarray(keras.initializers.VarianceScaling(**arguments, seed=1)((300, 200)))
    ours = sv.initializers.variance_scaling((300, 200), "float32", 1, **arguments)  # type: ignore[arg-type]
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    with pytest.raises(sv.errors.InitializerError, match="expected mode in fan_in, fan_out, fan_avg, got 'fan'"):
        sv.initializers.variance_scaling((2, 2), mode="fan")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf", "unknown backend 'tf'. Hint: did you mean 'tensorflow'[?] known backends are numpy"),
        ("TensorFlow", "did you mean 'tensorflow'"),
        ("pytorch", "did you mean 'torch'"),
        ("PyTorch", "did you mean 'torch'"),
        ("np", "did you mean 'numpy'"),
        ("jnp", "did you mean 'jax'"),
        ("keras", "did you mean 'tensorflow'"),
        ("mxnet", "unknown backend 'mxnet'. Hint: known backends are numpy, jax, torch, tensorflow"),
        (np, "the module numpy. Hint: did you mean 'numpy'"),
        (3, "unknown backend 3"),
        (["numpy"], r"unknown backend \['numpy'\]"),
    ],
)
def test_a_backend_by_another_name_is_told_which_was_meant(name: Any, message: str) -> None:
    with pytest.raises(sv.errors.UnknownBackendError, match=message):
        sv.Variable(1.0, backend=name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"initial_value": 1.0},
            "Variable: got an unexpected keyword argument 'initial_value'. Hint: write the first argument, i",
        ),
        ({"requires_grad": False}, "Hint: write trainable="),
        ({"validate_shape": False}, "Hint: write shape=..., which lets the shape change"),
        ({"read_value": False}, r"Hint: write v.assign\(x, read_value=False\)"),
        ({"caching_device": "CPU:0"}, "Hint: write device="),
        ({"synchronization": "auto"}, "Hint: write nothing: a variable has one value"),
        ({"framework": "jax"}, "Hint: write backend="),
        ({"expected_shape": (2,)}, "Hint: write shape="),
        ({"collections": None}, "Hint: write nothing: there are no graphs and collections"),
        ({"partitioner": None}, "Hint: write sharding="),
        ({"sharding_names": ("x",)}, "Hint: write sharding="),
        ({"overwrite_with_gradient": True}, "Hint: write an attribute of your own: v.tag = 3"),
        ({"custom_getter": None}, "Hint: write nothing, and keep the variable where you need it again"),
        ({"on_set_value": print}, r"Hint: write constraint=, or v.subscribe\(fn\)"),
        ({"traineable": True}, "Hint: did you mean trainable="),
        ({"shpe": (2,)}, "Hint: did you mean shape="),
        (
            {"zzz": 1},
            "Hint: the arguments are initializer, shape, dtype, trainable, autocast, aggregation, name, backend",
        ),
    ],
)
def test_an_argument_of_another_library_is_told_what_to_write(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        sv.Variable(1.0, **arguments)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sv.Variable(1.0, True), ValueError, "integers or None, got True.*trainable= and name= by name"),
        (lambda: sv.Variable(1.0, "float16"), ValueError, "got 'float16'.*so pass dtype="),  # type: ignore[arg-type]
        (lambda: sv.Variable(1.0, None, None, "w"), TypeError, "trainable: expected True or False, got 'w'"),  # type: ignore[arg-type]
        (lambda: sv.Variable(1.0, trainable=None), TypeError, "trainable: expected True or False, got None"),  # type: ignore[arg-type]
        (lambda: sv.Variable(1.0, autocast="no"), TypeError, "autocast: expected True or False, got 'no'"),  # type: ignore[arg-type]
    ],
)
def test_an_argument_in_the_place_of_another_is_an_error(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_trainable_is_a_truth_value(backend: str) -> None:
    v = sv.Variable(1.0, trainable=np.bool_(False), autocast=0, backend=backend)  # type: ignore[arg-type]
    assert (v.trainable, v.autocast) == (False, False)
    with pytest.raises(TypeError, match="trainable: expected True or False, got 'yes', at 'variable"):
        v.trainable = "yes"  # type: ignore[assignment]
    assert v.trainable is False


def test_an_aggregation_may_be_none_or_a_member_of_an_enumeration() -> None:
    tf = pytest.importorskip("tensorflow")
    assert sv.Variable(1.0, aggregation=None).aggregation == "none"
    for member in tf.VariableAggregation:
        assert sv.Variable(1.0, aggregation=member).aggregation == member.name.lower()
    with pytest.raises(ValueError, match="expected one of none, mean, sum, only_first_replica, got 'SUM'"):
        sv.Variable(1.0, aggregation="SUM")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[("float", "float32"), ("int", "int32"), ("complex", "complex64"), ("boolean", "bool"), ("str", "string")],
        *[("double", "float64"), ("half", "float16"), ("long", "int64"), ("short", "int16"), ("cdouble", "complex128")],
        *[("f4", "float32"), ("<i8", "int64"), ("fp16", "float16"), ("bf16", "bfloat16"), ("f32", "float32")],
        *[("i64", "int64"), ("u8", "uint8"), ("Float32", "float32"), ("tf.float32", "float32"), ("torch.int8", "int8")],
        *[("q", "int64"), ("Q", "uint64"), ("np.float32", "float32")],
    ],
)
def test_a_dtype_by_another_name_is_told_which_was_meant(name: str, meant: str) -> None:
    with pytest.raises(sv.errors.DTypeError, match=f"unknown dtype '{name}'. Hint: did you mean '{meant}'[?] known"):
        sv.Variable(0, dtype=name)


def test_a_dtype_in_the_place_of_the_shape(backend: str) -> None:
    for dtype in (np.float32, np.dtype("float32"), sv.Variable(1.0, backend=backend).dtype):
        with pytest.raises(sv.errors.ShapeError, match="the second argument is the shape, so pass dtype="):
            sv.Variable(1.0, dtype, backend=backend)  # type: ignore[arg-type]


def test_a_name_in_the_place_of_the_value() -> None:
    with pytest.raises(sv.errors.InitializerError, match=r"unknown initializer 'w'.*\['w'\], and for a name, name='w'"):
        sv.Variable("w", shape=(2,))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Parameter", ". Hint: write sv.Variable(x)."),
        ("assign_add", ". Hint: write v.assign_add(x)."),
        ("function", ". Hint: write sv.jit."),
        ("Varable", ". Hint: did you mean sv.Variable?"),
        ("value_and_gard", ". Hint: did you mean sv.value_and_grad?"),
        ("zzz", ""),
        ("__zzz__", ""),
    ],
)
def test_a_function_of_another_library_is_told_what_to_write(name: str, hint: str) -> None:
    with pytest.raises(AttributeError) as raised:
        getattr(sv, name)
    assert str(raised.value) == f"module 'statevar' has no attribute {name!r}{hint}"
    with pytest.raises(AttributeError, match="has no attribute 'HeNormal'. Hint: write sv.initializers.he_normal, or"):
        sv.initializers.HeNormal  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError, match="module 'statevar.initializers' has no attribute 'zzz'"):
        sv.initializers.zzz  # type: ignore[attr-defined]  # noqa: B018


def test_every_function_that_is_named_exists() -> None:
    """The hints of the test before."""
    for hint in elsewhere.FUNCTIONS.values():
        for name in re.findall(r"\bsv\.(\w+)", hint):
            assert hasattr(sv, name), hint
        for name in re.findall(r"\bv\.(\w+)", hint):
            assert hasattr(sv.Variable, name), hint
    assert not any(hasattr(sv, name) for name in elsewhere.FUNCTIONS)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *[("xavier_uniform_", "glorot_uniform"), ("xavier_normal", "glorot_normal"), ("kaiming_normal_", "he_normal")],
        *[("kaiming_uniform_", "he_uniform"), ("trunc_normal_", "truncated_normal"), ("eye_", "identity")],
        *[("normal_", "normal"), ("uniform_", "uniform"), ("randn", "normal"), ("XAVIER_UNIFORM", "glorot_uniform")],
    ],
)
def test_an_initializer_of_torch_is_told_which_was_meant(name: str, meant: str) -> None:
    # None is taken as it is: `normal_` of torch draws with a standard deviation of 1, for instance.
    with pytest.raises(sv.errors.InitializerError, match=f"initializer '{name}'. Hint: did you mean '{meant}'[?]"):
        sv.Variable(name, shape=(2, 2))


@pytest.mark.parametrize("shape", [{2, 3}, frozenset((2,)), {2: 3}, b"2", bytearray(b"2")])
def test_the_lengths_of_the_axes_have_an_order(shape: Any) -> None:
    with pytest.raises(sv.errors.ShapeError, match="shape: expected non-negative integers or None, got"):
        sv.Variable("zeros", shape=shape)


def test_dtypes_that_are_loaded_late_are_in_every_view_of_the_table() -> None:
    table = type(HOST)({"float32": np.dtype("float32")})  # in which nothing was looked up
    assert set(table.keys()) == set(table) == {"float32", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"}
    assert len(table) == len(table.keys()) == len(table.values()) == len(table.items()) == 6
    assert dict(table.items())["int4"] == dict(table)["int4"] == table["int4"] == HOST["int4"]
