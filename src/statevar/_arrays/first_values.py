"""The first value of a variable that nobody else has: a library makes it where it stores it, or takes its memory."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._public import public
from . import draws
from .dtypes import HOST
from .host import empty_aligned
from .shapes import Shape
from .types import Array, HostArray

__all__ = ["Constant", "Drawn", "FirstValue", "Made"]

#: The number of elements that are drawn at once on the way to a device, or for a part of an array.
_AT_ONCE = 16 * draws.BLOCK


@public("statevar.backends")
class FirstValue(ABC):
    """A first value that a library asks for in the way that suits it: as a constant, in ranges, or as a whole.

    Whatever it returns is fresh, so that the library may keep the memory.

    Attributes:
        shape: its shape.
        dtype: the canonical name of its dtype, in which `to_host` makes it.
        constant: the number that every element has; None if they differ.
    """

    __slots__ = ("constant", "dtype", "shape")

    shape: Shape
    dtype: str
    constant: Any

    @abstractmethod
    def to_host(self) -> HostArray:
        """Makes the whole value as a C-contiguous host array that nobody else has."""

    @abstractmethod
    def fill(self, out: HostArray, start: int) -> None:
        """Writes the elements from the position ``start`` on, in C order, into a contiguous flat host array."""

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def ranges(self) -> list[range]:
        """The positions of the elements, in ranges of a few megabytes: a library that copies each takes no more."""
        size = self.size
        return [range(start, min(start + _AT_ONCE, size)) for start in range(0, size, _AT_ONCE)]

    def part(self, index: Sequence[slice]) -> HostArray:
        """Makes the elements that slices of step 1 select, one slice for each axis, without most of the others."""
        spans = [range(*each.indices(length)) for each, length in zip(index, self.shape, strict=True)]
        out = empty_aligned(tuple(map(len, spans)), HOST[self.dtype])
        if out.size:
            self._fill_part(out, 0, self.shape, spans)
        return out

    def _fill_part(self, out: HostArray, start: int, shape: Shape, spans: list[range]) -> None:
        """Fills ``out`` from the part of the value that starts at a position and has a shape."""
        inner = math.prod(shape[1:])
        if all(len(span) == length for span, length in zip(spans[1:], shape[1:], strict=True)):
            self.fill(out.reshape(-1), start + (spans[0].start * inner if spans else 0))
        elif inner > _AT_ONCE:
            for place, number in enumerate(spans[0]):
                self._fill_part(out[place], start + number * inner, shape[1:], spans[1:])
        else:
            rows = _AT_ONCE // inner
            select = tuple(slice(span.start, span.stop) for span in spans[1:])
            for place in range(0, len(spans[0]), rows):
                some = spans[0][place : place + rows]
                whole = np.empty((len(some), *shape[1:]), out.dtype)
                self.fill(whole.reshape(-1), start + some.start * inner)
                out[place : place + rows] = whole[(slice(None), *select)]


class Constant(FirstValue):
    """The same number, or the same text, in every element."""

    __slots__ = ()

    def __init__(self, shape: Shape, dtype: str, constant: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self.constant = constant

    def to_host(self) -> HostArray:
        dtype = HOST[self.dtype]
        if self.dtype == "string" or self.constant.tobytes().strip(b"\0"):
            out = empty_aligned(self.shape, dtype)
            out[...] = self.constant
            return out
        return empty_aligned(self.shape, dtype, zeros=True)

    def fill(self, out: HostArray, start: int) -> None:
        out[...] = self.constant


class Drawn(FirstValue):
    """Random numbers, each of which depends on the seed, its position and the size of the whole."""

    __slots__ = ("_distribution", "_seed")

    def __init__(self, shape: Shape, dtype: str, seed: Any, distribution: draws.Distribution) -> None:
        self.shape, self.dtype = shape, dtype
        self.constant = None
        self._seed = draws.seed_sequence(seed)
        self._distribution = distribution

    def to_host(self) -> HostArray:
        out = empty_aligned(self.shape, HOST[self.dtype])
        self.fill(out.reshape(-1), 0)
        return out

    def fill(self, out: HostArray, start: int) -> None:
        draws.draw(out, start, self.size, self._seed, self._distribution)


@public("statevar.backends")
class Made(FirstValue):
    """An array that is made already, and that nobody else has.

    Attributes:
        array: the array, of the library that stores it or of NumPy; it has the right dtype.
    """

    __slots__ = ("array",)

    def __init__(self, array: Array, shape: Shape, dtype: str) -> None:
        self.shape: Shape = shape
        self.dtype: str = dtype
        self.constant: Array | None = None
        self.array: Array = array

    def to_host(self) -> HostArray:
        host: HostArray = self.array
        return host

    def fill(self, out: HostArray, start: int) -> None:
        out[...] = self.array.reshape(-1)[start : start + out.size]
