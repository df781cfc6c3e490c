"""The array API names that TensorFlow's NumPy module has, and those it lacks.

TensorFlow publishes no array API namespace. ``tensorflow.experimental.numpy`` has most functions under
NumPy's names; what the standard calls otherwise is added here.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tensorflow.experimental.numpy as _numpy

__array_api_version__ = "2022.12"

_RENAMED = {
    "acos": "arccos",
    "acosh": "arccosh",
    "asin": "arcsin",
    "asinh": "arcsinh",
    "atan": "arctan",
    "atan2": "arctan2",
    "atanh": "arctanh",
    "bitwise_invert": "bitwise_not",
    "concat": "concatenate",
    "permute_dims": "transpose",
    "pow": "power",
}
_DTYPES = (
    "bool",
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bfloat16", "float32", "float64", "complex64", "complex128"),
)


def __getattr__(name: str) -> Any:
    if name in _DTYPES:
        return tf.as_dtype(name)
    return getattr(_numpy, _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted({*dir(_numpy), *_RENAMED, *_DTYPES, *globals()})


def asarray(obj: Any, /, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
    with tf.device(device):
        tensor = tf.convert_to_tensor(obj)
        return tensor if dtype is None else tf.cast(tensor, dtype)


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    return tf.cast(x, dtype)


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


def matrix_transpose(x: Any, /) -> Any:
    return tf.linalg.matrix_transpose(x)


def argmax(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    return _arg(tf.argmax, x, axis, keepdims)


def argmin(x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    return _arg(tf.argmin, x, axis, keepdims)


def _arg(function: Any, x: Any, axis: int | None, keepdims: bool) -> Any:
    x = tf.convert_to_tensor(x)
    flat = tf.reshape(x, [-1]) if axis is None else x
    found = function(flat, axis=axis or 0)
    if not keepdims:
        return found
    return tf.reshape(found, [1] * x.shape.rank) if axis is None else tf.expand_dims(found, axis)
