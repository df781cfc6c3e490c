"""Python's operators between TensorFlow's tensors, where TensorFlow's own do less than those of other libraries.

TensorFlow does not promote dtypes, multiplies no vectors with ``@``, has no ``<<`` and ``>>``, and compares tensors of
shapes that do not fit by returning one False.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import tensorflow as tf

from ..._arrays.dtypes import dtype_name
from ..._arrays.types import Operation

__all__ = ["MULTIPLIED_AS", "matmul", "operate", "promoted"]

#: The dtype in which a tensor of a lower kind meets a Python number.
_MEETS: Final = {bool: tf.bool, int: tf.int32, float: tf.float32, complex: tf.complex64}
#: TensorFlow has no kernel of `pow` for these.
_NO_POWER: Final = {tf.uint8, tf.uint16, tf.uint32, tf.uint64}
#: TensorFlow has no kernel of `matmul` for the keys.
MULTIPLIED_AS: Final = {
    **dict.fromkeys((tf.bool, tf.int8, tf.int16, tf.uint8, tf.uint16), tf.int32),
    **dict.fromkeys((tf.uint32, tf.uint64), tf.int64),
}


def operate(op: Operation, left: Any, right: Any) -> Any:
    """Returns ``op(left, right)``; the operands may differ in dtype, and one of them may be a number or NumPy array."""
    left, right = promoted(left, right)
    own = _OWN.get(op)
    return op(left, right) if own is None else own(left, right)


def promoted(left: Any, right: Any) -> tuple[Any, Any]:
    """Two operands that TensorFlow's operators take: of the same dtype, or one of them a number that fits the other."""
    tensors = isinstance(left, tf.Tensor | tf.Variable), isinstance(right, tf.Tensor | tf.Variable)
    if tensors == (True, True):
        if left.dtype == right.dtype:
            return left, right
        dtype = _common(left.dtype, right.dtype)
        return tf.cast(left, dtype), tf.cast(right, dtype)
    if tensors == (True, False):
        return _beside(left, right)
    right, left = _beside(right, left)
    return left, right


def _beside(tensor: Any, other: Any) -> tuple[Any, Any]:
    """A tensor and a Python number or NumPy array, which TensorFlow itself converts unless it is of a higher kind."""
    cls = type(other)
    if cls in _MEETS:
        if _kind(tensor.dtype) >= _kind(_MEETS[cls]):
            return tensor, int(other) if cls is bool and not tensor.dtype.is_bool else other
        dtype = _common(tensor.dtype, _MEETS[cls])
        return tf.cast(tensor, dtype), other
    if isinstance(other, np.ndarray | np.generic) and other.dtype.kind not in "TUOS":
        theirs = tf.as_dtype(dtype_name(other.dtype))
        if _kind(theirs) > _kind(tensor.dtype) or not _fits(other, tensor.dtype):
            dtype = _common(tensor.dtype, theirs)
            return tf.cast(tensor, dtype), tf.cast(tf.convert_to_tensor(other), dtype)
    return tensor, other


def _fits(array: Any, dtype: Any) -> bool:
    """Whether integers fit a dtype of integers, to which TensorFlow would cast them without a look."""
    if not dtype.is_integer or not np.size(array):
        return True
    return bool(int(np.min(array)) >= dtype.min and int(np.max(array)) <= dtype.max)


def _kind(dtype: Any) -> int:
    return 0 if dtype.is_bool else 1 if dtype.is_integer else 2 if dtype.is_floating else 3 if dtype.is_complex else -1


def _common(left: Any, right: Any) -> Any:
    """The dtype that holds the values of both, by the rule of JAX: of a higher kind, without more bits than needed."""
    low, high = sorted((tf.as_dtype(left).base_dtype, tf.as_dtype(right).base_dtype), key=_kind)
    if low == high:
        return high
    if _kind(low) == _kind(high) == 1:
        return tf.as_dtype(np.promote_types(low.as_numpy_dtype, high.as_numpy_dtype))
    if _kind(low) == _kind(high):
        return max(low, high, key=lambda each: each.size) if low.size != high.size else tf.float32
    if high.is_complex and low == tf.float64:
        return tf.complex128
    return high


def matmul(left: Any, right: Any) -> Any:
    """Returns ``left @ right``, also of vectors, and of dtypes for which TensorFlow has no kernel."""
    dtype = getattr(left if isinstance(left, tf.Tensor | tf.Variable) else right, "dtype", None)
    left, right = tf.convert_to_tensor(left, dtype), tf.convert_to_tensor(right, dtype)
    if (wide := MULTIPLIED_AS.get(left.dtype)) is not None:  # the low bits are the same
        product = _product(tf.cast(left, wide), tf.cast(right, wide))
        return tf.not_equal(product, 0) if left.dtype.is_bool else tf.cast(product, left.dtype)
    return _product(left, right)


def _product(left: Any, right: Any) -> Any:
    ranks = left.shape.rank, right.shape.rank
    if ranks == (1, 1):
        return tf.tensordot(left, right, 1)
    if ranks[0] == 1 and ranks[1]:
        return tf.squeeze(tf.matmul(left[None, :], right), -2)
    if ranks[1] == 1 and ranks[0]:
        return tf.linalg.matvec(left, right)
    return tf.matmul(left, right)


def _add(left: Any, right: Any) -> Any:
    tensor = left if isinstance(left, tf.Tensor | tf.Variable) else right
    return tf.logical_or(left, right) if tensor.dtype.is_bool else left + right  # which TensorFlow does not add


def _power(left: Any, right: Any) -> Any:
    tensor = left if isinstance(left, tf.Tensor | tf.Variable) else right
    if tensor.dtype not in _NO_POWER:
        return left**right
    # The low bits are the same in 64 bits.
    return tf.cast(tf.pow(tf.cast(left, tf.int64), tf.cast(right, tf.int64)), tensor.dtype)


def _both(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A function that takes tensors only, as one of a tensor and a number."""

    def call(left: Any, right: Any) -> Any:
        tensor = left if isinstance(left, tf.Tensor | tf.Variable) else right
        return function(tf.convert_to_tensor(left, tensor.dtype), tf.convert_to_tensor(right, tensor.dtype))

    return call


def _compare(op: Operation, function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Compares element by element; TensorFlow's operator returns one False if the shapes do not fit."""

    def call(left: Any, right: Any) -> Any:
        known = all(isinstance(each, tf.Tensor | tf.Variable | np.ndarray | np.generic) for each in (left, right))
        return function(left, right) if known else op(left, right)

    return call


_OWN: Final[dict[Operation, Callable[[Any, Any], Any]]] = {
    operator.add: _add,
    operator.matmul: matmul,
    operator.pow: _power,
    operator.lshift: _both(tf.bitwise.left_shift),
    operator.rshift: _both(tf.bitwise.right_shift),
    operator.eq: _compare(operator.eq, tf.equal),
    operator.ne: _compare(operator.ne, tf.not_equal),
}
