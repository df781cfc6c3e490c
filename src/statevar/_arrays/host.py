"""Helpers of adapters for arrays in host memory: aligned buffers, DLPack, writes at a selection."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from .._public import public
from .indexing import Selection
from .shapes import Shape
from .types import HostArray, Operation

__all__ = ["AT_OPERATIONS", "ONE_BY_ONE", "combine", "dlpack_of_host", "empty_aligned", "put_in_place"]

#: The operations of ``v.at[i]``, each with its NumPy ufunc; ``set`` has none.
AT_OPERATIONS: dict[str, Any] = {
    "set": None,
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "power": np.power,
    "min": np.minimum,
    "max": np.maximum,
}

_BINARY: dict[str, Operation] = {
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "power": operator.pow,
}

#: The operations of which the results depend on the order, or on whether two operands are combined first.
ONE_BY_ONE = ("divide", "floor_divide", "remainder", "power")

# JAX and TensorFlow share a host buffer only if it has this alignment in bytes; malloc gives 16.
_ALIGNMENT = 64


def empty_aligned(shape: Shape, dtype: Any) -> HostArray:
    """Makes an uninitialized, C-contiguous host array that every library can share without a copy."""
    dtype = np.dtype(dtype)
    if dtype.hasobject or dtype.kind == "T":
        return np.empty(shape, dtype)
    memory = np.empty(math.prod(shape) * dtype.itemsize + _ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.ctypes.data % _ALIGNMENT)


@public("statevar.backends")
def dlpack_of_host(array: HostArray, request: dict[str, Any]) -> Any:
    """The DLPack capsule of a read-only host array, or of a copy if the consumer does not support read-only arrays."""
    return (array if request.get("max_version") else array.copy()).__dlpack__(**request)


@public("statevar.backends")
def put_in_place(target: HostArray, x: HostArray, operation: str, where: Selection) -> None:
    """Does `Backend.put` in a writable NumPy array."""
    ufunc = AT_OPERATIONS[operation]
    if ufunc is None:
        target[where.index] = x
    elif where.basic:
        target[where.index] = ufunc(target[where.index], x)
    else:
        if (
            0 < x.ndim < len(where.shape)
        ):  # NumPy reads past the end of x: np.add.at(zeros(5), [[0, 0], [0, 0]], ones(2))
            x = np.broadcast_to(x, where.shape)
        ufunc.at(target, where.index, x)


@public("statevar.backends")
def combine(operation: str, old: Any, x: Any, minimum: Operation, maximum: Operation) -> Any:
    """Computes one of `AT_OPERATIONS` on arrays of a library, with the minimum and maximum functions of the library."""
    if operation == "set":
        return x
    if operation == "min":
        return minimum(old, x)
    if operation == "max":
        return maximum(old, x)
    return _BINARY[operation](old, x)
