"""What a person wants to know of many numbers: their range, mean, spread, and how many are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .types import HostArray

__all__ = ["Statistics", "merged", "statistics"]

#: The number of elements that are looked at at once, so that a large array, or a mapped file, takes no memory.
_BLOCK = 1 << 18


class Statistics(NamedTuple):
    """Figures of the elements of an array; of complex numbers, of their absolute values.

    Attributes:
        elements: the number of elements.
        minimum: the smallest finite element; None if there is none.
        maximum: the largest finite element; None if there is none.
        mean: the mean of the finite elements; None if there is none.
        std: their standard deviation (of the elements themselves, with no correction); None if there is none.
        nan: the number of elements that are not a number.
        infinite: the number of elements that are infinite.
        zeros: the number of elements that are zero.
        histogram: how many finite elements are in each of several bins of the same width, from the minimum to the
            maximum; empty if it was not asked for, or if there is no finite element.
    """

    elements: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None
    nan: int
    infinite: int
    zeros: int
    histogram: tuple[int, ...] = ()


def statistics(array: HostArray, bins: int = 0) -> Statistics | None:
    """Looks at each element once, and once more for a histogram of ``bins``; None if they are no numbers.

    >>> statistics(np.array([0.0, 1.0, 3.0, np.nan]), bins=3)  # doctest: +NORMALIZE_WHITESPACE
    Statistics(elements=4, minimum=0.0, maximum=3.0, mean=1.3333333333333333, std=1.247219128924647, nan=1, infinite=0,
               zeros=1, histogram=(1, 1, 1))
    >>> statistics(np.array(["a"]))
    """
    if array.dtype.names is not None or array.dtype.kind in "OSUTMm":
        return None
    nan = infinite = zeros = 0
    count, mean, squares = 0, 0.0, 0.0  # of the finite elements: Chan's way to join the moments of two sets
    low: Any = None
    high: Any = None
    with np.errstate(all="ignore"):
        for block in _blocks(array):
            zeros += block.size - int(np.count_nonzero(block))
            numbers = block.astype(np.float64, copy=False)
            if not math.isfinite(float(numbers.sum())):  # which is asked in a third of the time of the rest
                nan += int(np.count_nonzero(np.isnan(block)))
                infinite += int(np.count_nonzero(np.isinf(block)))
                block = block[np.isfinite(block)]  # noqa: PLW2901  # of which the figures are
                numbers = block.astype(np.float64, copy=False)
            if not block.size:
                continue
            least, most = block.min(), block.max()
            low, high = (least, most) if low is None else (min(low, least), max(high, most))
            middle = float(numbers.mean())
            total, step = count + numbers.size, middle - mean
            squares += float(np.square(numbers - middle).sum()) + step * step * count * numbers.size / total
            mean += step * numbers.size / total
            count = total
        if not count:
            return Statistics(array.size, None, None, None, None, nan, infinite, zeros)
        histogram = _histogram(_blocks(array), float(low), float(high), bins) if bins else ()
    std = math.sqrt(squares / count) if math.isfinite(squares) else math.inf
    return Statistics(array.size, low.item(), high.item(), mean, std, nan, infinite, zeros, histogram)


def merged(parts: Iterable[Statistics]) -> Statistics | None:
    """The figures of all elements of several arrays, without a histogram; None of no arrays.

    >>> merged([statistics(np.array([0.0, 1.0])), statistics(np.array([5.0]))]) == statistics(np.array([0.0, 1.0, 5.0]))
    True
    """
    total: Statistics | None = None
    for part in parts:
        total = part._replace(histogram=()) if total is None else _joined(total, part)
    return total


def _joined(one: Any, two: Any) -> Statistics:
    elements, nan, infinite = one.elements + two.elements, one.nan + two.nan, one.infinite + two.infinite
    zeros = one.zeros + two.zeros
    if one.mean is None or two.mean is None:
        some: Statistics = one if two.mean is None else two
        return some._replace(elements=elements, nan=nan, infinite=infinite, zeros=zeros, histogram=())
    first, second = _finite(one), _finite(two)
    total, step = first + second, two.mean - one.mean
    variance = (first * one.std * one.std + second * two.std * two.std + step * step * first * second / total) / total
    return Statistics(
        elements,
        min(one.minimum, two.minimum),
        max(one.maximum, two.maximum),
        one.mean + step * second / total,
        math.sqrt(variance),
        nan,
        infinite,
        zeros,
    )


def _finite(one: Statistics) -> int:
    return one.elements - one.nan - one.infinite


def _blocks(array: HostArray) -> Iterator[HostArray]:
    """The elements, some at a time, as integers or as float64 or wider."""
    flat = array.reshape(-1)  # a copy only if it lies in no order of memory
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        if block.dtype.kind == "c":
            yield np.abs(block)
        elif block.dtype.kind in "iu" or (block.dtype.kind == "f" and block.dtype.itemsize >= 8):
            yield block
        else:  # bool, float16 and the dtypes of ml_dtypes, for which NumPy does not compute all of this
            yield block.astype(np.float64)


def _histogram(blocks: Iterable[HostArray], low: float, high: float, bins: int) -> tuple[int, ...]:
    counts = np.zeros(bins, np.int64)
    for block in blocks:
        numbers = block[np.isfinite(block)].astype(np.float64, copy=False)
        if high > low and math.isfinite(high - low):
            counts += np.histogram(np.clip(numbers, low, high), bins, (low, high))[0]
        else:
            counts[bins // 2] += numbers.size
    return tuple(counts.tolist())
