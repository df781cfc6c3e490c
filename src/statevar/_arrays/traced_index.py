"""An index of which only the traced program knows the numbers: where the elements are that it selects.

The layout of a selection depends only on the shapes in the index, so NumPy finds it, with zeros for what is traced. The
library then adds what the traced parts contribute to the position of each element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from types import EllipsisType
from typing import Any, NamedTuple

import numpy as np

from ..errors import TraceError
from .indexing import Selection
from .shapes import Shape
from .types import HostArray

__all__ = ["TracedSelection", "cannot_write", "check_for_mask", "check_slices", "traced_selection"]


class TracedSelection(NamedTuple):
    """The elements that an index selects in a flattened array.

    Args:
        shape: the shape of the selection.
        base: the position of each element if all traced numbers were zero, as a flat array.
        terms: for each traced part: its array, the size and the stride of its axis, and which of its numbers each
            element of the selection has.
        unique: whether no element can be selected twice.
    """

    shape: Shape
    base: HostArray
    terms: list[tuple[Any, int, int, HostArray]]
    unique: bool


def cannot_write(operation: str) -> TraceError:
    """The error for an operation on elements of which only the program knows whether they are selected twice."""
    return TraceError.of(
        f"at.{operation}",
        "whether an index that is traced selects an element twice is not known",
        hint="use an index of integers and slices, or an array that is not traced",
    )


def check_slices(parts: Iterable[Any]) -> None:
    """Raises TraceError if the ends of a slice are traced."""
    for part in parts:
        if isinstance(part, slice) and any(hasattr(end, "dtype") for end in (part.start, part.stop, part.step)):
            raise TraceError.of(
                "index",
                "the ends of a slice are traced, so that its length is not known",
                hint="use a slice of a fixed length: v[start + arange(length)]",
            )


def check_for_mask(x: Shape, mask: Shape, array: Shape) -> None:
    """Raises TraceError for a value that differs between the elements of a mask of which the count is not known."""
    if len(x) > len(array) - len(mask):
        raise TraceError.of(
            "put",
            "how many elements a traced mask selects is not known, so each needs the same value",
            hint="assign a scalar, or use the library's where",
        )


def traced_selection(index: Any, shape: Shape, traced: Callable[[Any], Shape | None]) -> TracedSelection:
    """Finds the layout of a selection.

    Args:
        index: the index; its traced parts are integers, or arrays of them.
        shape: the shape of the array that is indexed.
        traced: returns the shape of a traced array of integers; None for any other part.

    Raises:
        TraceError: the number of elements is known only to the program.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    shapes = [traced(part) for part in parts]
    check_slices(parts)
    zeros = [part if of is None else np.zeros(of, np.intp) for part, of in zip(parts, shapes, strict=True)]
    plain = Selection(tuple(zeros), shape)
    terms = []
    for number, (axis, of) in enumerate(zip(_axes(parts, len(shape)), shapes, strict=True)):
        if of is None:
            continue
        count = math.prod(of)
        lengths = tuple(max(count, 1) if each == axis else size for each, size in enumerate(shape))
        numbers = np.arange(max(count, 1)).reshape([-1 if each == axis else 1 for each in range(len(shape))])
        probe = [*zeros[:number], np.arange(count).reshape(of), *zeros[number + 1 :]]
        which = np.broadcast_to(numbers, lengths)[tuple(probe)].reshape(-1)
        terms.append((parts[number], shape[axis], math.prod(shape[axis + 1 :]), which))
    base = plain.flat().reshape(-1).astype(np.int64)
    unique = all(math.prod(of) == 1 for of in shapes if of is not None) and np.unique(base).size == base.size
    return TracedSelection(plain.shape, base, terms, unique)


def _axes(parts: list[Any], rank: int) -> list[int]:
    """The axis of the indexed array to which each part of an index belongs, or begins."""
    lengths = [_axes_of(part) for part in parts]
    missing = rank - sum(lengths)
    axes, axis = [], 0
    for part, length in zip(parts, lengths, strict=True):
        axes.append(axis)
        axis += missing if isinstance(part, EllipsisType) else length
    return axes


def _axes_of(part: Any) -> int:
    if part is None or isinstance(part, EllipsisType):
        return 0
    if getattr(part, "dtype", None) == np.bool_:
        return int(part.ndim)
    return 1
