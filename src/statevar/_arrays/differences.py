"""How two arrays differ: how many elements, by how much, and how many are NaN in one of them only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .types import HostArray

__all__ = ["Difference", "difference"]

#: The number of elements that are compared at once, so that large arrays, or mapped files, take no memory.
_BLOCK = 1 << 18


class Difference(NamedTuple):
    """Figures of the difference of two arrays of the same shape.

    Attributes:
        elements: the number of elements.
        changed: how many differ by more than the tolerance. NaN equals NaN.
        maximum: the largest absolute difference of two finite elements; None if they are no numbers.
        relative: the norm of the differences by the norm of the first array, of elements that are finite in both;
            None if that norm is zero, or if they are no numbers.
        nan: how many elements are NaN in one of the two arrays.
    """

    elements: int
    changed: int
    maximum: float | None
    relative: float | None
    nan: int


def difference(a: HostArray, b: HostArray, atol: float = 0.0, rtol: float = 0.0) -> Difference:
    """Compares two arrays of the same shape. An element may differ by ``atol + rtol * abs(a)``.

    >>> difference(np.array([0.0, 4.0, np.nan]), np.array([0.0, 3.0, np.nan]))
    Difference(elements=3, changed=1, maximum=1.0, relative=0.25, nan=0)
    >>> difference(np.array(["a", "b"]), np.array(["a", "c"])).changed
    1
    """
    assert a.shape == b.shape, "only arrays of one shape are compared"
    if not (_is_numeric(a) and _is_numeric(b)):
        return Difference(a.size, sum(int(np.count_nonzero(x != y)) for x, y in _pairs(a, b)), None, None, 0)
    changed = nan = 0
    largest = squares = norm = 0.0
    with np.errstate(all="ignore"):
        for x, y in _pairs(a, b):
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            if same.all():
                norm += _squares(x)
                continue
            nan += int(np.count_nonzero(np.isnan(x) != np.isnan(y)))
            apart = _apart(x, y)
            finite = np.isfinite(x) & np.isfinite(y)
            near = finite & (apart <= atol + rtol * np.abs(x).astype(np.float64))
            changed += int(np.count_nonzero(~(same | near)))
            apart = np.where(finite, apart, 0).astype(np.float64)
            largest = max(largest, float(apart.max(initial=0.0)))
            squares += float(np.square(apart).sum())
            norm += _squares(np.where(finite, x, 0))
    return Difference(a.size, changed, largest, math.sqrt(squares / norm) if norm else None, nan)


def _is_numeric(array: HostArray) -> bool:
    return array.dtype.names is None and array.dtype.kind not in "OSUTMm"


def _pairs(a: HostArray, b: HostArray) -> Iterator[tuple[HostArray, HostArray]]:
    """The elements of both, some at a time; numbers as integers, as float64, or as complex128."""
    flat, other = a.reshape(-1), b.reshape(-1)  # copies only of what lies in no order of memory
    for start in range(0, flat.size, _BLOCK):
        yield _wide(flat[start : start + _BLOCK]), _wide(other[start : start + _BLOCK])


def _wide(block: HostArray) -> HostArray:
    kind = block.dtype.kind
    if block.dtype.names is not None or kind in "iuOSUTMm":
        return block
    return block.astype(np.complex128 if kind == "c" else np.int8 if kind == "b" else np.float64)


def _apart(x: HostArray, y: HostArray) -> Any:
    """The absolute differences: exact ones of integers of one kind, however far they are apart."""
    if x.dtype.kind in "iu" and x.dtype.kind == y.dtype.kind:
        dtype = np.result_type(x, y)
        x, y = x.astype(dtype), y.astype(dtype)
        return (np.maximum(x, y) - np.minimum(x, y)).view(f"u{dtype.itemsize}")  # what wraps around is right so
    wide = np.complex128 if "c" in (x.dtype.kind, y.dtype.kind) else np.float64
    return np.abs(x.astype(wide) - y.astype(wide))


def _squares(x: HostArray) -> float:
    return float(np.square(np.abs(x).astype(np.float64)).sum(where=np.isfinite(x)))
