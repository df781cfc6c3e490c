"""NumPy's indexing for libraries that lack part of it.

JAX ignores indices that are out of bounds, torch has no negative steps, TensorFlow has no integer arrays. So the index
is checked here, once, against an array of the variable's shape that takes no memory. Adapters get a `Selection`, from
which they use the index itself if it is basic, and coordinates if it is not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np

from .._public import public
from ..errors import IndexingError
from .dtypes import is_integer
from .shapes import Shape

__all__ = ["OwnSelection", "Rows", "Selection", "is_basic", "last_of_each", "repeats", "select", "turns"]

Index: TypeAlias = Any
HostArray: TypeAlias = "np.ndarray[Any, Any]"

_BYTE = np.zeros(1, np.uint8)
_BASIC = (int, slice, EllipsisType, type(None))
_FOR_NUMPY: Any = object()


@public("statevar.backends")
class Selection:
    """A checked index into an array of a known shape.

    Attributes:
        index: a tuple of ints, slices, Ellipsis, None and NumPy arrays.
        of_shape: the shape of the array that is indexed.
        mask: the index as a boolean array that covers the leading axes, or None if it is anything else.
        basic: whether the index has no arrays, so that no element is selected twice.
        reverses: whether a slice has a negative step.
    """

    __slots__ = ("_selected", "basic", "index", "mask", "of_shape", "reverses")

    index: tuple[Any, ...]
    of_shape: Shape
    mask: Any
    basic: bool
    reverses: bool
    _selected: Shape | None

    def __init__(self, index: tuple[Any, ...], of_shape: Shape) -> None:
        self.index = index
        self.of_shape = of_shape
        self.mask = None
        if len(index) == 1 and of_shape and type(only := index[0]) is np.ndarray:
            self.basic = self.reverses = False
            if only.dtype.kind != "b":  # only the first axis need be looked at
                self._selected = _probe(of_shape[:1])[only].shape + of_shape[1:]
                return
            if only.ndim and only.shape == of_shape[: only.ndim]:
                self.mask = only
                self._selected = None
                return
        self._selected = _probe(of_shape)[index].shape
        self.basic = all(type(part) in _BASIC for part in index)
        self.reverses = any(type(part) is slice and (part.step or 1) < 0 for part in index)

    @property
    def shape(self) -> Shape:
        """The shape of the selected elements. Those of a mask are counted when somebody asks."""
        if (selected := self._selected) is None:
            selected = self._selected = (self._count(), *self.of_shape[len(self.mask.shape) :])
        return selected

    def _count(self) -> int:
        return int(np.count_nonzero(self.mask))

    def coordinates(self) -> tuple[HostArray, ...]:
        """The positions of the selected elements along each axis: one integer array of `shape` per axis."""
        # Axis i is an arange with stride 0 along the other axes, so no array of the full size is made.
        rank = len(self.of_shape)
        return tuple(
            np.lib.stride_tricks.as_strided(
                line := np.arange(size),
                self.of_shape,
                tuple(line.itemsize if axis == other else 0 for other in range(rank)),
                writeable=False,
            )[self.index]
            for axis, size in enumerate(self.of_shape)
        )

    def flat(self) -> HostArray:
        """The positions of the selected elements in the flattened array: an int64 array of `shape`."""
        if not self.of_shape:
            return np.zeros(self.shape, np.int64)
        total = np.zeros(self.shape, np.int64)
        stride = 1
        for size, line in zip(reversed(self.of_shape), reversed(self.coordinates()), strict=True):
            total += line * stride
            stride *= size
        return total

    def rows(self) -> Rows | None:
        """The selection as whole rows; None if it is basic, or selects only parts of the rows.

        It is made of rows if all its arrays and numbers come first, and nothing but full slices follows.
        """
        parts = self.index
        while parts and (parts[-1] is ... or (type(parts[-1]) is slice and parts[-1] == slice(None))):
            parts = parts[:-1]
        numbers: Any = 0
        axis = 0
        for part in parts:
            if type(part) is not np.ndarray:
                if type(part) is not int:
                    return None
                lines: tuple[Any, ...] = (part,)
            elif part.dtype.kind != "b":
                lines = (part if part.dtype.type is np.int64 else part.astype(np.int64),)
            elif part.ndim:
                lines = part.nonzero()
            else:
                return None
            for line in lines:
                size = self.of_shape[axis]
                if type(line) is int:
                    line %= size  # noqa: PLW2901  # from a negative number
                elif line.size and np.minimum.reduce(line, None) < 0:
                    line = np.where(line < 0, line + size, line)  # noqa: PLW2901  # as above
                numbers = numbers * size + line if axis else line
                axis += 1
        if type(numbers) is int:  # without any array
            return None
        mask = len(parts) == 1 and parts[0].dtype.kind == "b"
        return Rows(numbers.ravel(), axis, self.of_shape, mask)

    def spans(self) -> list[tuple[int, int, int]]:
        """(start, size, step) along each axis of a basic selection; axes that None adds are left out."""
        spans = []
        parts = [part for part in self.index if part is not None]
        for part, size in zip(_expand(tuple(parts), len(self.of_shape)), self.of_shape, strict=True):
            if isinstance(part, int):
                spans.append((part % size, 1, 1))
                continue
            selected = range(size)[part]
            spans.append((selected.start, len(selected), selected.step))
        return spans

    def block(self) -> tuple[Shape, Shape] | None:
        """(starts, sizes) if the selection is one contiguous block with unit steps, else None."""
        if not self.basic or None in self.index:
            return None
        spans = self.spans()
        if any(step != 1 for _, _, step in spans):
            return None
        return tuple(start for start, _, _ in spans), tuple(size for _, size, _ in spans)


@public("statevar.backends")
class Rows:
    """The rows of a table that an index selects. A row is everything at one place along the leading axes.

    Attributes:
        numbers: the number of each selected row, from 0: an int64 array with one axis, in the order of the selection.
        table: the shape of the array as a table of rows: ``(count, *rest)``.
        is_mask: whether a mask selects the rows, so that none is selected twice.
    """

    __slots__ = ("is_mask", "numbers", "table")

    def __init__(self, numbers: HostArray, axes: int, of_shape: Shape, is_mask: bool) -> None:
        self.numbers: HostArray = numbers
        self.table: Shape = of_shape if axes == 1 else (math.prod(of_shape[:axes]), *of_shape[axes:])
        self.is_mask: bool = is_mask

    @property
    def repeats(self) -> bool:
        """Whether a row is selected twice."""
        return not self.is_mask and repeats(self.numbers)


if TYPE_CHECKING:  # a protocol takes 0.1 ms of every import

    class OwnArrays(Protocol):
        """The part of a backend that finds out whether arrays of its own are valid indices, without moving them."""

        is_host: ClassVar[bool]

        def select_rows(self, index: Any, shape: Shape) -> Selection | None: ...
        def takes_index(self, part: Any) -> bool: ...
        def is_outside(self, indices: list[tuple[Any, int]]) -> bool: ...
        def count_nonzero(self, mask: Any) -> int: ...
        def dtype_name(self, array: Any) -> str: ...
        def to_host(self, array: Any) -> HostArray: ...


@public("statevar.backends")
class OwnSelection(Selection):
    """A checked index with arrays of the variable's library, which stay on their device.

    Only a backend with `takes_index` gets one. Either it is a mask, or its index has integer arrays.

    Attributes:
        mask: as in `Selection`, an array of the library.
        index: without a mask, a tuple of ints, slices with positive steps, Ellipsis, None and arrays, also of NumPy.
    """

    __slots__ = ("_library",)

    def __init__(self, library: OwnArrays, index: tuple[Any, ...], of_shape: Shape, mask: Any, shape: Any) -> None:
        self._library = library
        self.index = index
        self.of_shape = of_shape
        self.mask = mask
        self.basic = self.reverses = False
        self._selected = shape

    def _count(self) -> int:
        return self._library.count_nonzero(self.mask)  # for which the device is waited for

    def rows(self) -> Rows | None:
        """None, since the numbers of the rows are not known on the host."""
        return None

    def on_host(self) -> Selection:
        """The same selection with NumPy arrays."""
        take, to_host = self._library.takes_index, self._library.to_host
        return Selection(tuple(to_host(part) if take(part) else part for part in self.index), self.of_shape)


@public("statevar.backends")
def repeats(positions: HostArray) -> bool:
    """Whether an array of one axis has an element twice."""
    ordered = np.sort(positions)
    same = ordered[1:] == ordered[:-1]
    return bool(same.size and same[same.argmax()])  # in half the time of `any`


@public("statevar.backends")
def last_of_each(positions: HostArray) -> HostArray:
    """The index of the last occurrence of each distinct position, since the last write wins, as in NumPy."""
    line = positions.reshape(-1)
    order = line.argsort(kind="stable")
    line = line[order]
    is_last = np.ones(line.size, np.bool_)
    np.not_equal(line[1:], line[:-1], out=is_last[:-1])
    return np.sort(order[is_last])


@public("statevar.backends")
def turns(positions: HostArray) -> list[HostArray]:
    """Divides positions into turns, none of which has a position twice, to change an element twice that is twice there.

    >>> [turn.tolist() for turn in turns(np.array([5, 7, 5]))]
    [[0, 1], [2]]
    """
    if not positions.size:
        return []
    order = np.argsort(positions, kind="stable")
    line = positions[order]
    starts = np.flatnonzero(np.r_[True, line[1:] != line[:-1]])
    rank = np.empty_like(order)
    rank[order] = np.arange(line.size) - np.repeat(starts, np.diff(np.r_[starts, line.size]))
    return [np.flatnonzero(rank == turn) for turn in range(int(rank.max()) + 1)]


def is_basic(index: Index) -> bool:
    """Whether an index consists of ints, slices, Ellipsis and None only."""
    if type(index) is tuple:
        return all(type(part) in _BASIC for part in index)
    return type(index) in _BASIC


def select(
    index: Index,
    shape: Shape,
    path: str,
    library: OwnArrays | None = None,
    opened: Callable[[Any, Any], Any] | None = None,
) -> Selection:
    """Checks an index against a shape.

    Args:
        library: the backend of the array that is indexed, whose own arrays may stay where they are.
        opened: gets each part of an index that is not basic, and the library, and returns the array in the part.

    Raises:
        IndexingError: the index is out of bounds, has too many parts or a mask of another shape, or is no index.
    """
    try:
        cls = type(index)
        if cls is np.ndarray and index.ndim and index.dtype.kind in "iub":  # most often: rows, or a mask
            return Selection((index,), shape)
        parts = index if cls is tuple else (index,)
        if not (is_basic(index) if cls is tuple else cls in _BASIC):
            if library is not None and (found := library.select_rows(index, shape)) is not None:
                return found
            if opened is not None:
                parts = tuple([opened(part, library) for part in parts])
            if library is not None and not library.is_host and any(map(library.takes_index, parts)):
                if (own := _own(parts, shape, library)) is not None:
                    return own
                parts = tuple(library.to_host(part) if library.takes_index(part) else part for part in parts)
            parts = tuple(map(_clean, parts))
        return Selection(parts, shape)
    except (IndexError, TypeError, ValueError) as error:
        raise IndexingError.of(
            "index", f"{error} (shape {shape})", path, "indexing follows NumPy's rules on every backend"
        ) from None


def _own(parts: tuple[Any, ...], shape: Shape, library: OwnArrays) -> Selection | None:
    """The selection of an index with arrays of a library; None if NumPy must look at it, or has an error to raise."""
    if len(parts) == 1 and library.dtype_name(parts[0]) == "bool":
        mask = parts[0]
        rank = len(mask.shape)
        return OwnSelection(library, parts, shape, mask, None) if rank and tuple(mask.shape) == shape[:rank] else None
    cleaned = [_clean_own(part, library) for part in parts]
    if any(part is _FOR_NUMPY for part in cleaned):
        return None
    arrays = [library.takes_index(part) for part in cleaned]
    if not any(arrays):
        return Selection(tuple(cleaned), shape)
    # An index of zeros selects the same shape. The probe takes one byte for each selected element.
    zeros = [
        np.broadcast_to(np.intp(0), tuple(part.shape)) if own else part
        for part, own in zip(cleaned, arrays, strict=True)
    ]
    selected = _probe(shape)[tuple(zeros)].shape
    along = _expand(tuple(part for part in cleaned if part is not None), len(shape))
    if library.is_outside([each for each in zip(along, shape, strict=True) if library.takes_index(each[0])]):
        return None
    return OwnSelection(library, tuple(cleaned), shape, None, selected)


def _clean_own(part: Any, library: OwnArrays) -> Any:
    """A part of an index beside or on a device; `_FOR_NUMPY` in place of a mask beside other parts, and the like."""
    if library.takes_index(part):
        if not is_integer(library.dtype_name(part)):
            return _FOR_NUMPY
        return part if part.shape else int(library.to_host(part))
    part = _clean(part)
    if isinstance(part, np.ndarray):
        return _FOR_NUMPY if part.dtype.kind == "b" else part
    return _FOR_NUMPY if isinstance(part, slice) and (part.step or 1) < 0 else part  # torch has no negative steps


def _clean(part: Any) -> Any:
    if type(part) in _BASIC or (type(part) is np.ndarray and part.ndim and part.dtype.kind in "iub"):
        return part
    if isinstance(part, slice):
        return slice(part.start, part.stop, part.step)
    if isinstance(part, bool | np.bool_):
        return np.asarray(part)
    if hasattr(part, "__index__") and not getattr(part, "ndim", 0) and not hasattr(part, "__len__"):
        return part.__index__()
    if hasattr(part, "mask") and hasattr(part, "filled"):
        raise IndexError("a masked array is no index, since its mask would be lost; write x.filled(…) or x[~x.mask]")
    array = np.asarray(part)
    if array.size == 0 and array.dtype.kind == "f":  # an empty list
        return array.astype(np.intp)
    if array.dtype.kind not in "biu":
        raise IndexError(
            f"expected an index of integers, slices, Ellipsis, None, and integer or boolean arrays, got {part!r}"
        )
    return array if array.ndim or array.dtype.kind == "b" else int(array)


@functools.lru_cache(maxsize=64)  # the same tables are indexed again and again
def _probe(shape: Shape) -> HostArray:
    """Makes an array of any shape that takes one byte of memory, only to be indexed."""
    return np.ndarray(shape, np.uint8, _BYTE, 0, (0,) * len(shape))


def _expand(index: tuple[Any, ...], rank: int) -> list[Any]:
    """Replaces the Ellipsis, given or implied, by full slices."""
    at = next((i for i, part in enumerate(index) if part is ...), len(index))
    before, after = index[:at], index[at + 1 :]
    return [*before, *[slice(None)] * (rank - len(before) - len(after)), *after]
