"""An array API namespace for TensorFlow, which publishes none.

Most functions come from ``tensorflow.experimental.numpy``. Those that it lacks, names in another way, or breaks on
(bfloat16, and integers where it calls ``.astype``) are written here with TensorFlow's own functions. Operands may be
variables, which TensorFlow's NumPy functions do not ask for their tensor.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import tensorflow as tf
import tensorflow.experimental.numpy as _numpy

from . import fft, linalg  # noqa: F401  # the extensions of the standard
from .linalg import matmul, matrix_transpose, tensordot, vecdot  # noqa: F401  # also here in the standard
from .operators import operate, promoted
from .receive import received, taking_variables, tensor_of
from .sets import unique_all, unique_counts, unique_inverse, unique_values  # noqa: F401  # part of the namespace

__array_api_version__ = "2023.12"

e, inf, nan, newaxis, pi = math.e, math.inf, math.nan, None, math.pi

_RENAMED = {
    "atan2": "arctan2",
    "bitwise_invert": "bitwise_not",
    "permute_dims": "transpose",
}
_DTYPES = (
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float16", "float32", "float64", "complex64", "complex128"),
)
# Functions of one array that work for every dtype for which they are defined.
_UNARY: dict[str, Callable[[Any], Any]] = {
    **{name: getattr(tf.math, name) for name in ("acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh")},
    **{name: getattr(tf.math, name) for name in ("exp", "expm1", "log", "log1p", "sin", "sinh", "sqrt", "tan", "tanh")},
    **{name: getattr(tf.math, name) for name in ("abs", "conj", "imag", "logical_not", "negative", "real")},
    **{name: getattr(tf.math, name) for name in ("reciprocal", "sign", "square")},
    "positive": tf.identity,
}
# Functions of one array that return integers unchanged.
_ROUNDING = {
    "ceil": tf.math.ceil,
    "floor": tf.math.floor,
    "round": tf.math.round,
    "trunc": lambda x: tf.sign(x) * tf.floor(tf.abs(x)),
}
# Functions of one array: (function for floating-point numbers, result for other dtypes).
_TESTS = {"isfinite": (tf.math.is_finite, True), "isinf": (tf.math.is_inf, False), "isnan": (tf.math.is_nan, False)}


class _Finfo(NamedTuple):
    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: Any


# What those of numbers with a sign are of numbers without one, for which TensorFlow has no kernels.
_UNSIGNED: dict[str, Callable[[Any], Any]] = {
    "abs": tf.identity,
    "negative": lambda x: tf.cast(-tf.cast(x, tf.int64), x.dtype),  # the low bits are the same
    "sign": lambda x: tf.cast(tf.not_equal(x, 0), x.dtype),
}


@functools.cache  # not stored as globals: `any` and `map` would hide Python's own in this file
def __getattr__(name: str) -> Any:
    if name in _DTYPES:
        return tf.as_dtype(name)
    if name in _UNARY:
        found: Any = functools.partial(_of_numbers, name) if name in _UNSIGNED else _UNARY[name]
    elif name in _ROUNDING:
        found = functools.partial(_rounded, _ROUNDING[name])
    elif name in _TESTS:
        found = functools.partial(_tested, *_TESTS[name])
    else:
        found = getattr(_numpy, _RENAMED.get(name, name))
        if not inspect.isfunction(found):
            return found
    return taking_variables(found, name)


def __dir__() -> list[str]:
    return sorted({*dir(_numpy), *_RENAMED, *_DTYPES, *_UNARY, *_ROUNDING, *_TESTS, *globals()})


def _of_numbers(name: str, x: Any) -> Any:
    x = tf.convert_to_tensor(x)
    return (_UNSIGNED if x.dtype.is_unsigned else _UNARY)[name](x)


def _rounded(function: Callable[[Any], Any], x: Any) -> Any:
    x = tf.convert_to_tensor(x)
    if x.dtype.is_complex:
        return tf.complex(function(tf.math.real(x)), function(tf.math.imag(x)))
    return x if x.dtype.is_integer else function(x)


def _tested(function: Callable[[Any], Any], otherwise: bool, x: Any) -> Any:
    x = tf.convert_to_tensor(x)
    if x.dtype.is_complex:
        parts = function(tf.math.real(x)), function(tf.math.imag(x))
        return tf.logical_and(*parts) if otherwise else tf.logical_or(*parts)
    return function(x) if x.dtype.is_floating else tf.fill(tf.shape(x), otherwise)


# -- creation ------------------------------------------------------------------------------------------


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    with tf.device(device):
        tensor = tensor_of(obj)
        return tf.identity(tensor) if dtype is None else tf.cast(tensor, dtype)


def from_dlpack(x: Any, /, *, device: Any = None, copy: bool | None = None) -> Any:
    return tf.experimental.dlpack.from_dlpack(x.__dlpack__())


def _placed(name: str) -> Callable[..., Any]:
    function = getattr(_numpy, name)

    def create(*args: Any, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
        if dtype is not None:
            kwargs["dtype"] = tf.as_dtype(dtype)
        with tf.device(device):
            made = function(*map(received, args), **kwargs)
            return made if dtype is None else tf.cast(made, dtype)  # `linspace` of no numbers forgets it

    create.__name__ = create.__qualname__ = name
    return create


arange, empty, full, ones, zeros = map(_placed, ("arange", "empty", "full", "ones", "zeros"))
empty_like, full_like, ones_like, zeros_like = map(_placed, ("empty_like", "full_like", "ones_like", "zeros_like"))


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: Any = None) -> Any:
    n_cols = n_rows if n_cols is None else n_cols  # of 0 columns, TensorFlow makes n_rows
    with tf.device(device):
        return tf.cast(tf.range(n_rows)[:, None] + k == tf.range(n_cols)[None, :], dtype or tf.float32)


def linspace(
    start: Any, stop: Any, /, num: int, *, dtype: Any = None, device: Any = None, endpoint: bool = True
) -> Any:
    with tf.device(device):
        if isinstance(start, tf.Tensor) or isinstance(stop, tf.Tensor):
            start, stop = _both(start, stop)
            numbers = tf.cast(tf.range(num), start.dtype) / max(num - 1 if endpoint else num, 1)
            return tf.cast(start + (stop - start) * numbers, dtype or start.dtype)
        return tf.constant(np.linspace(start, stop, num, endpoint), dtype or tf.float32)  # TensorFlow's is less exact


# -- dtypes --------------------------------------------------------------------------------------------


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    return tf.cast(received(x), dtype)


def can_cast(from_: Any, to: Any, /) -> bool:
    return bool(result_type(from_, to) == tf.as_dtype(to))


def result_type(*arrays_and_dtypes: Any) -> Any:
    return tf.as_dtype(_numpy.result_type(*[getattr(each, "dtype", each) for each in arrays_and_dtypes]))


def finfo(type: Any, /) -> _Finfo:  # noqa: A002  # the standard's name
    dtype = tf.as_dtype(getattr(type, "dtype", type))
    info = ml_dtypes.finfo(dtype.real_dtype.as_numpy_dtype)
    low, high, tiny = float(info.min), float(info.max), float(info.smallest_normal)
    return _Finfo(info.bits, float(info.eps), high, low, tiny, dtype.real_dtype)


def isdtype(dtype: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return any(isdtype(dtype, each) for each in kind)
    dtype = tf.as_dtype(dtype)
    if not isinstance(kind, str):
        return bool(dtype == tf.as_dtype(kind))
    signed = dtype.is_integer and not dtype.is_unsigned
    kinds: dict[str, bool] = {
        "bool": dtype.is_bool,
        "signed integer": signed,
        "unsigned integer": dtype.is_unsigned,
        "integral": dtype.is_integer,
        "real floating": dtype.is_floating,
        "complex floating": dtype.is_complex,
        "numeric": dtype.is_integer or dtype.is_floating or dtype.is_complex,
    }
    return kinds[kind]


# -- of two arrays -------------------------------------------------------------------------------------


def bitwise_left_shift(x1: Any, x2: Any, /) -> Any:
    return tf.bitwise.left_shift(received(x1), received(x2))


def bitwise_right_shift(x1: Any, x2: Any, /) -> Any:
    return tf.bitwise.right_shift(received(x1), received(x2))


def copysign(x1: Any, x2: Any, /) -> Any:
    x1, x2 = _both(x1, x2)
    size = tf.abs(x1)
    return tf.where(signbit(x2), -size, size)


def pow(x1: Any, x2: Any, /) -> Any:  # noqa: A001  # the standard's name
    return operate(operator.pow, *_both(x1, x2))


def log2(x: Any, /) -> Any:
    return _logarithm(x, _numpy.log2, 2)


def log10(x: Any, /) -> Any:
    return _logarithm(x, _numpy.log10, 10)


def _logarithm(x: Any, function: Callable[[Any], Any], base: int) -> Any:
    x = tensor_of(x)
    if x.dtype == tf.bfloat16:
        return tf.cast(function(tf.cast(x, tf.float32)), x.dtype)
    if not x.dtype.is_complex:
        return function(x)
    found = tf.math.log(x)  # a division by a complex number would overflow
    return tf.complex(tf.math.real(found) / math.log(base), tf.math.imag(found) / math.log(base))


def signbit(x: Any, /) -> Any:
    x = tensor_of(x)
    if not x.dtype.is_floating:
        return x < 0
    return tf.bitcast(x, {2: tf.int16, 4: tf.int32, 8: tf.int64}[x.dtype.size]) < 0  # also of -0.0


def hypot(x1: Any, x2: Any, /) -> Any:
    x1, x2 = _both(x1, x2)
    return tf.sqrt(x1 * x1 + x2 * x2)


def _both(x1: Any, x2: Any) -> tuple[Any, Any]:
    """Two operands as tensors of one dtype; one of them may be a number."""
    x1, x2 = received(x1), received(x2)
    tensor = x1 if isinstance(x1, tf.Tensor | tf.Variable) else tf.convert_to_tensor(x2)
    x1, x2 = promoted(x1, x2) if isinstance(x1, tf.Tensor | tf.Variable) else promoted(x1, tensor)
    dtype = x1.dtype if isinstance(x1, tf.Tensor | tf.Variable) else x2.dtype
    return tf.convert_to_tensor(x1, dtype), tf.convert_to_tensor(x2, dtype)


def logaddexp(x1: Any, x2: Any, /) -> Any:
    x1, x2 = _both(x1, x2)
    return _logaddexp(x1 + tf.zeros_like(x2), x2 + tf.zeros_like(x1))


@tf.custom_gradient  # type: ignore[untyped-decorator]  # the library ships no types
def _logaddexp(x1: Any, x2: Any) -> Any:
    """The operands have one shape. Where they are equal, the steps below have another gradient than the whole."""
    gap = -tf.abs(x1 - x2)
    found = tf.where(tf.math.is_nan(gap), x1 + x2, tf.maximum(x1, x2) + tf.math.log1p(tf.exp(gap)))
    return found, lambda g: (g * tf.sigmoid(x1 - x2), g * tf.sigmoid(x2 - x1))


def nextafter(x1: Any, x2: Any, /) -> Any:
    x1, x2 = _both(x1, x2)
    if x1.dtype.size > 2:
        return tf.math.nextafter(x1, x2)
    one = tf.constant(1, tf.int16)
    away = tf.equal(x2 > x1, x1 > 0)  # from 0
    found = tf.bitcast(tf.bitcast(x1, tf.int16) + tf.where(away, one, -one), x1.dtype)
    least = tf.bitcast(tf.where(x2 > 0, one, one - 2**15), x1.dtype)
    found = tf.where(tf.equal(x1, x2), x2, tf.where(tf.equal(x1, 0), least, found))
    return tf.where(tf.math.is_nan(x1 + x2), x1 + x2, found)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Any:  # noqa: A002  # the standard's names
    x = tensor_of(x)
    for bound, function in ((min, tf.maximum), (max, tf.minimum)):
        if bound is not None:
            x = function(x, tf.cast(received(bound), x.dtype))
    return x


# -- along axes ----------------------------------------------------------------------------------------


def std(x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    return tf.sqrt(var(x, axis=axis, correction=correction, keepdims=keepdims))


def var(x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    x = tensor_of(x)
    result = tf.math.reduce_variance(x, axis, keepdims)
    if not correction:
        return result
    count = tf.cast(tf.size(x) / tf.size(tf.reduce_sum(x, axis)), result.dtype)
    return result * (count / (count - tf.cast(correction, result.dtype)))


def cumulative_sum(x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Any:
    return _cumulative(tf.cumsum, 0, x, axis, dtype, include_initial)


def cumulative_prod(x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Any:
    return _cumulative(tf.math.cumprod, 1, x, axis, dtype, include_initial)


def _cumulative(function: Any, first: int, x: Any, axis: int | None, dtype: Any, include_initial: bool) -> Any:
    x = tensor_of(x)
    x = tf.cast(x, tf.int32) if x.dtype.is_bool else x
    x = x if dtype is None else tf.cast(x, dtype)
    axis = (0 if x.shape.rank == 1 else axis) if axis is None else axis
    result = function(x, axis)
    if not include_initial:
        return result
    start = tf.fill(tf.shape(tf.reduce_sum(x, axis, keepdims=True)), tf.cast(first, x.dtype))
    return tf.concat([start, result], axis)


def count_nonzero(x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
    return tf.math.count_nonzero(tensor_of(x), axis, keepdims)


def concat(arrays: Any, /, *, axis: int | None = 0) -> Any:
    tensors = list(map(tensor_of, arrays))
    if axis is None:
        tensors, axis = [tf.reshape(each, [-1]) for each in tensors], 0
    dtype = functools.reduce(result_type, (each.dtype for each in tensors))
    return tf.concat([tf.cast(each, dtype) for each in tensors], axis)


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    return tf.sort(received(x), axis, "DESCENDING" if descending else "ASCENDING")


def argsort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    found = tf.argsort(received(x), axis, "DESCENDING" if descending else "ASCENDING", stable)
    return tf.cast(found, tf.int64)


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
    x1 = received(x1) if sorter is None else tf.gather(received(x1), sorter)
    x2 = tf.convert_to_tensor(received(x2))
    found = tf.searchsorted(x1, tf.reshape(x2, [-1]), side, tf.int64)
    return tf.reshape(found, tf.shape(x2))


def tril(x: Any, /, *, k: int = 0) -> Any:
    return _triangle(x, lambda rows, columns: columns - rows <= k)


def triu(x: Any, /, *, k: int = 0) -> Any:
    return _triangle(x, lambda rows, columns: columns - rows >= k)


def _triangle(x: Any, inside: Callable[[Any, Any], Any]) -> Any:
    x = tensor_of(x)
    shape = tf.shape(x)
    return tf.where(inside(tf.range(shape[-2])[:, None], tf.range(shape[-1])[None, :]), x, tf.zeros_like(x))


def repeat(x: Any, repeats: Any, /, *, axis: int | None = None) -> Any:
    x = tensor_of(x)
    x, axis = (tf.reshape(x, [-1]), 0) if axis is None else (x, axis)
    return tf.gather(x, tf.repeat(tf.range(tf.shape(x)[axis]), repeats), axis=axis)  # `tf.repeat` has fewer dtypes


def tile(x: Any, repetitions: Any, /) -> Any:
    x = tensor_of(x)
    repetitions = (1,) * (x.shape.rank - len(repetitions)) + tuple(repetitions)
    x = tf.reshape(x, tf.concat([[1] * (len(repetitions) - x.shape.rank), tf.shape(x)], 0))
    for axis, times in enumerate(repetitions):
        if times != 1:  # `tf.tile` has fewer dtypes
            length = tf.shape(x)[axis]
            x = tf.gather(x, tf.range(length * times) % length, axis=axis)
    return x


def squeeze(x: Any, /, axis: Any) -> Any:
    return tensor_of(x) if axis == () else tf.squeeze(tensor_of(x), axis)  # which takes () for all axes


def take(x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
    x, indices = tensor_of(x), tensor_of(indices)
    axis = 0 if axis is None else axis
    length = tf.shape(x, indices.dtype)[axis]
    return tf.gather(x, tf.where(indices < 0, indices + length, indices), axis=axis)


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
    return tuple(tf.unstack(received(x), axis=axis))


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    return _arg(tf.argmax, x, axis, keepdims)


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    return _arg(tf.argmin, x, axis, keepdims)


def _arg(function: Any, x: Any, axis: int | None, keepdims: bool) -> Any:
    x = tensor_of(x)
    flat = tf.reshape(x, [-1]) if axis is None else x
    if x.dtype.is_floating:  # the first NaN is found, as by the other libraries
        nan = tf.math.is_nan(flat)
        chosen = tf.cast(nan, x.dtype) if function is tf.argmax else -tf.cast(nan, x.dtype)
        flat = tf.where(tf.reduce_any(nan, axis or 0, keepdims=True), chosen, flat)
    found = function(flat, axis=axis or 0)
    if not keepdims:
        return found
    return tf.reshape(found, [1] * x.shape.rank) if axis is None else tf.expand_dims(found, axis)
