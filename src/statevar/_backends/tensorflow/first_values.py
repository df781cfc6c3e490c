"""Makes large first values in memory of TensorFlow, where they are stored."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from ..._arrays.dtypes import HOST
from ..._arrays.first_values import FirstValue, Made
from ..._arrays.types import HostArray

__all__ = ["made"]

#: In bytes. A smaller value is copied from the host in less time than TensorFlow takes for two operations.
_LARGE = 1 << 20


def made(first: FirstValue, device: Callable[[], str]) -> Any | None:
    """A large value, made on a device, whose memory nobody else has; None if it is better made on the host.

    Args:
        device: returns the name of the device, which takes 40 us.
    """
    dtype = HOST[first.dtype]
    if isinstance(first, Made) or first.size * dtype.itemsize < _LARGE or not tf.executing_eagerly():
        return None
    try:
        with tf.device(place := device()):
            if first.constant is not None:
                return tf.fill(first.shape, tf.constant(first.constant, first.dtype))
            if not place.startswith("CPU"):
                return None
            tensor = tf.raw_ops.Empty(shape=first.shape, dtype=first.dtype)
    except tf.errors.NotFoundError:  # there is no kernel for the dtype
        return None
    line = _memory_of(tensor, dtype)
    if line is None:
        return None
    first.fill(line, 0)
    return tensor


def _memory_of(tensor: Any, dtype: np.dtype[Any]) -> HostArray | None:
    """The memory of a tensor that nothing has read yet, to be written; None if TensorFlow shows only copies of it."""
    views = np.asarray(tensor), np.asarray(tensor)
    address = views[0].ctypes.data
    if views[1].ctypes.data != address or views[0].dtype != dtype:
        return None
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * views[0].nbytes).from_address(address))
    return memory.view(dtype)
