"""Helpers of adapters for arrays in host memory: aligned buffers, DLPack, writes at a selection."""

from __future__ import annotations

import math
import operator
import warnings
from typing import Any

import numpy as np

from .._public import public
from .indexing import Selection, repeats
from .shapes import Shape
from .types import HostArray, Operation

__all__ = [
    "AT_OPERATIONS",
    "IN_PLACE",
    "ONE_BY_ONE",
    "combine",
    "dlpack_of_host",
    "empty_aligned",
    "may_raise",
    "put_in_place",
    "rows_of",
]

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

#: The operators that `Backend.apply` gets, by their names in the module ``operator``, each with its NumPy ufunc.
IN_PLACE: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "and_": np.bitwise_and,
    "or_": np.bitwise_or,
    "xor": np.bitwise_xor,
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

# The elements of a row from which it is faster to look whether rows are repeated, and then to read, compute and write
# them, than `ufunc.at` is, which takes ten times as long for each element.
_WIDE = 8
# The number of elements of which no more positions are made than take 8 MB.
_MANY = 2**20

# JAX and TensorFlow share a host buffer only if it has this alignment in bytes; malloc gives 16.
_ALIGNMENT = 64


def empty_aligned(shape: Shape, dtype: Any, *, zeros: bool = False) -> HostArray:
    """Makes an uninitialized, C-contiguous host array that every library can share without a copy.

    Args:
        zeros: its bytes are zeros; the system gives the memory when somebody writes it.
    """
    dtype = np.dtype(dtype)
    make = np.zeros if zeros else np.empty
    if dtype.hasobject or dtype.kind == "T":
        return make(shape, dtype)
    memory = make(math.prod(shape) * dtype.itemsize + _ALIGNMENT, np.uint8)
    return np.ndarray(shape, dtype, memory, -memory.ctypes.data % _ALIGNMENT)


@public("statevar.backends")
def dlpack_of_host(array: HostArray, request: dict[str, Any]) -> Any:
    """The DLPack capsule of a read-only host array, or of a copy if the consumer does not support read-only arrays."""
    return (array if request.get("max_version") else array.copy()).__dlpack__(**request)


@public("statevar.backends")
def put_in_place(target: HostArray, x: HostArray, operation: str, where: Selection) -> None:
    """Does `Backend.put` in a writable NumPy array. If it raises, the array is as it was."""
    ufunc = AT_OPERATIONS[operation]
    index = where.index if where.basic else _in_order(where.index)
    if ufunc is None:
        target[index] = x
        return
    if where.basic or where.mask is not None:
        target[index] = ufunc(target[index], x)
        return
    rows = rows_of(where)
    if rows is not None and math.prod(where.of_shape[1:]) >= _WIDE and not repeats(rows.ravel()):
        target[index] = ufunc(target[index], x)
        return
    if 0 < x.ndim < len(where.shape):
        x = np.broadcast_to(x, where.shape)  # np.add.at(zeros(5), [[0, 1], [0, 1]], ones(2)) reads past the end of x
    if rows is None:
        changed = target.copy() if may_raise() else target
        ufunc.at(changed, index, x)
        if changed is not target:
            target[...] = changed
    elif not may_raise():
        _change_rows(target, rows, x, ufunc)
    else:
        found, places = np.unique(rows, return_inverse=True)
        changed = target[found]
        _change_rows(changed, places.reshape(rows.shape), x, ufunc)
        target[found] = changed


def _in_order(index: tuple[Any, ...]) -> tuple[Any, ...]:
    """An index with the same elements, which NumPy takes one after the other, so that the last of several stays.

    NumPy goes through arrays of several axes as they lie in memory: backwards if an axis is reversed.
    """
    for part in index:
        if type(part) is np.ndarray and not part.flags.c_contiguous:
            return tuple(each.copy("C") if type(each) is np.ndarray else each for each in index)
    return index


def _change_rows(target: HostArray, rows: HostArray, x: HostArray, ufunc: Any) -> None:
    """Changes rows one after the other, in one call of `ufunc.at`, so that Ctrl-C comes before or after."""
    width = math.prod(target.shape[1:])
    if width < _WIDE or rows.size * width > _MANY or not target.flags.c_contiguous:
        ufunc.at(target, rows, x)
        return
    # NumPy is three times faster at positions along one axis, although they are so many.
    positions = rows.reshape(-1, 1) * width + np.arange(width)
    ufunc.at(target.reshape(-1), positions.reshape(-1), np.broadcast_to(x, rows.shape + target.shape[1:]).reshape(-1))


def rows_of(where: Selection) -> HostArray | None:
    """The numbers of the selected rows, none of them negative; None if the index is not one array of numbers."""
    index = where.index
    if len(index) != 1 or type(rows := index[0]) is not np.ndarray or rows.dtype.kind == "b":
        return None
    rows = rows.astype(np.intp, "C")  # for the reason in `_in_order`
    if rows.size and np.minimum.reduce(rows, None) < 0:
        rows[rows < 0] += where.of_shape[0]
    return rows


def may_raise() -> bool:
    """Whether a floating-point error would raise an exception, which NumPy does after it has written the result."""
    modes = set(np.geterr().values())
    if modes <= {"ignore"}:
        return False
    return not modes <= {"ignore", "warn"} or any(each[0] == "error" for each in warnings.filters)


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
