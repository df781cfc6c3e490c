"""The cases of the suite: shapes, indices, values, and the results of NumPy.

Values are small whole numbers. Every dtype, down to four bits, can represent their sums, products and quotients
exactly, so that results are compared without a tolerance.
"""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import numpy as np

from .._arrays.dtypes import HOST, dtype_kind, dtype_name, is_integer
from .._arrays.host import AT_OPERATIONS
from .._arrays.indexing import Selection, select
from .._arrays.shapes import Shape
from .._arrays.types import HostArray, Operation

__all__ = [
    "CLOSED",
    "EVERY_FORM",
    "INDICES",
    "NUMERIC",
    "OPERATORS",
    "SHAPES",
    "BoundIndex",
    "aligned",
    "cast",
    "closed_under",
    "counted",
    "expected_put",
    "powers_of_two",
    "small",
    "small_operand",
]

SHAPES: tuple[Shape, ...] = ((), (0,), (1,), (5,), (3, 4), (2, 0, 3), (2, 1, 3))

#: The operators for which `Backend.apply` is called.
CLOSED: tuple[Operation, ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.and_,
    operator.or_,
    operator.xor,
)

#: By dtype kind, the operators other than `CLOSED` for which `Backend.compute` is called.
OPERATORS: dict[str, tuple[Operation, ...]] = {
    "float": (operator.truediv, operator.floordiv, operator.mod, operator.pow),
    "int": (operator.floordiv, operator.mod, operator.pow),
}

NUMERIC = ("int", "uint", "float", "complex")


class BoundIndex(NamedTuple):
    """An index into an array of a shape."""

    shape: Shape
    index: Any

    @property
    def where(self) -> Selection:
        """The index in the form that a backend gets."""
        return select(self.index, self.shape, "")

    def __str__(self) -> str:
        return f"index {self.index!r} of shape {self.shape}"


#: The indices that are tried with every kind of write: a block, a list with duplicates, and a backwards block.
EVERY_FORM: tuple[BoundIndex, ...] = (
    BoundIndex((3, 4), (slice(1, None), slice(0, 3))),
    BoundIndex((5,), np.array([0, 2, 2, 2])),
    BoundIndex((3, 4), (slice(None, None, -1), slice(None, None, -2))),
)

_MASK = np.array([[True, False, False, True], [False, False, False, False], [False, True, True, True]])
_BY_SHAPE: dict[Shape, tuple[Any, ...]] = {
    (): ((), ..., None, True),
    (5,): (
        0,
        -1,
        slice(None),
        slice(1, 4),
        slice(3, 3),
        slice(None, None, 2),
        slice(None, None, -1),
        slice(4, 0, -2),
        (None, slice(1, 3)),
        [3, 0],
        np.array([-1, 1, -1]),
        np.array([[0, 1], [1, 3]], np.int8),
        [],
        np.array([True, False, True, True, False]),
        np.zeros(5, bool),
    ),
    (3, 4): (
        2,
        (1, -2),
        (slice(None), 1),
        (..., -1),
        (None, 1, slice(1, None)),
        (1, ..., None),
        [0, 2],
        (slice(None), [3, 0, 3]),
        ([0, 2], slice(None, None, -1)),
        ([0, 1], [1, 2]),
        (np.array([[0], [2]]), np.array([1, 3])),
        ([0, 1], None, [1, 2]),
        _MASK,
        _MASK[:, 0],
        (slice(None), _MASK[0]),
        (_MASK[:, 0], [1, 2]),
    ),
    (2, 3, 4): ((..., 0), (slice(None), [0, 2], slice(1, 3)), ([0, 1], slice(None), [1, 2]), (1, _MASK)),
    (2, 0, 3): ((slice(None), slice(None), 1), [1, 1]),
}

#: One index of each form.
INDICES: tuple[BoundIndex, ...] = (
    *EVERY_FORM,
    *(BoundIndex(shape, index) for shape, indices in _BY_SHAPE.items() for index in indices),
)


def closed_under(dtype: str) -> tuple[Operation, ...]:
    """Returns the operators of `CLOSED` that a dtype has."""
    if dtype_kind(dtype) in ("int", "uint"):
        return CLOSED
    return {"bool": CLOSED[3:], "string": ()}.get(dtype_kind(dtype), CLOSED[:3])


def counted(shape: Shape, dtype: str, start: int = 1) -> HostArray:
    """Returns 1, 2, 3, …, so that all elements differ. The dtype needs 16 bits or more."""
    return (np.arange(math.prod(shape)) + start).reshape(shape).astype(HOST[dtype])


def aligned(host: HostArray) -> HostArray:
    """Returns a copy whose memory is aligned so that every library can use it without a copy."""
    memory = np.empty(host.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + host.nbytes].view(host.dtype).reshape(host.shape)
    copy[...] = host
    return copy


def cast(host: HostArray, dtype: str) -> HostArray:
    """Casts values that the dtype can represent, also between the dtypes of ml_dtypes for which NumPy has no cast."""
    wide = {"c": np.complex128, "b": np.int64, "i": np.int64, "u": np.uint64}.get(host.dtype.kind)
    wide = wide or (np.int64 if is_integer(dtype_name(host.dtype)) else np.float64)
    return host.astype(wide).astype(HOST[dtype])


def powers_of_two(shape: Shape, dtype: str) -> HostArray:
    """Returns 1, 2, 4, 1, 2, 4, …, by which a division is exact."""
    return (2 ** (np.arange(math.prod(shape)) % 3)).reshape(shape).astype(HOST[dtype])


def small(shape: Shape, dtype: str) -> HostArray:
    """Returns 2, 3, 2, … (floats: half of it). Any dtype can represent sums and products with `small_operand`."""
    return _made(np.arange(math.prod(shape)) % 2 + 2, shape, dtype)


def small_operand(shape: Shape, dtype: str) -> HostArray:
    """Returns 1, 2, 2, 1, 2, 2, … (floats: half of it). Any dtype can represent these values."""
    return _made(2 - (np.arange(math.prod(shape)) % 3 == 0), shape, dtype)


def _made(numbers: HostArray, shape: Shape, dtype: str) -> HostArray:
    if dtype_kind(dtype) == "string":
        return numbers.astype(str).astype(HOST[dtype]).reshape(shape)
    if dtype_kind(dtype) == "bool":
        numbers = numbers % 2
    elif dtype_kind(dtype) == "complex":
        numbers = numbers * (1 + 1j)
    elif not is_integer(dtype):
        numbers = numbers / 2
    return numbers.astype(HOST[dtype]).reshape(shape)


def expected_put(old: HostArray, x: HostArray, name: str, where: Selection) -> HostArray:
    """Returns the result of a write at an index, computed element by element."""
    result = old.ravel().copy()
    positions = np.arange(old.size).reshape(old.shape)[where.index].ravel()
    values = np.broadcast_to(x, where.shape).ravel()
    for position, value in zip(positions, values, strict=True):
        result[position] = value if name == "set" else AT_OPERATIONS[name](result[position], value)
    return result.reshape(old.shape)
