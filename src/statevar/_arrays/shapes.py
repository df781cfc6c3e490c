"""Declared shapes, which limit the shape of a variable: an axis may be open (``None``), or everything (``...``)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from types import EllipsisType
from typing import Any, SupportsIndex, TypeAlias

from ..errors import ShapeError

__all__ = ["DeclaredShape", "Shape", "ShapeLike", "broadcasts_into", "canonical_shape", "fits", "is_static"]

Shape: TypeAlias = tuple[int, ...]
DeclaredShape: TypeAlias = "tuple[int | None, ...] | EllipsisType"
#: What users write for a declared shape: ``3``, ``(3, None)``, ``[3, 4]``, ``...``.
ShapeLike: TypeAlias = SupportsIndex | Iterable[SupportsIndex | None] | EllipsisType


def canonical_shape(shape: Any) -> DeclaredShape:
    """Reads a shape given as an int, any iterable of ints and None, or ``...``.

    Raises:
        ShapeError: a dimension is negative or not an integer.

    >>> canonical_shape([2, None]), canonical_shape(3), canonical_shape(...)
    ((2, None), (3,), Ellipsis)
    """
    if shape is ...:
        return ...
    if hasattr(shape, "rank") and shape.rank is None:  # a shape object of unknown rank
        return ...
    try:
        if isinstance(shape, AbstractSet | Mapping | bytes | bytearray):
            raise TypeError  # noqa: TRY301  # the lengths of the axes have an order
        if hasattr(shape, "__index__") and not getattr(shape, "ndim", 0):  # an array of lengths has axes
            return (_dimension(shape),)
        return tuple(None if size is None else _dimension(size) for size in shape)
    except (TypeError, ValueError):
        hint = "write for example shape=(3, None), or shape=... for any shape"
        if not isinstance(shape, Iterable) or isinstance(shape, str):
            hint += "; the second argument is the shape, so pass dtype=, trainable= and name= by name"
        raise ShapeError.of("shape", f"expected non-negative integers or None, got {shape!r}", hint=hint) from None


def _dimension(size: Any) -> int:
    dimension = operator.index(size)
    if dimension < 0 or isinstance(size, bool):
        raise ValueError
    return dimension


def is_static(declared: DeclaredShape) -> bool:
    """Whether a declared shape leaves nothing open."""
    return declared is not ... and None not in declared


def fits(shape: Shape, declared: DeclaredShape) -> bool:
    """Whether a shape fits a declared shape."""
    if declared is ... or shape == declared:
        return True
    return len(shape) == len(declared) and all(
        want is None or want == have for have, want in zip(shape, declared, strict=True)
    )


def broadcasts_into(shape: Shape, target: Shape) -> bool:
    """Whether a value of this shape can be broadcast to exactly the target shape."""
    return len(shape) <= len(target) and all(
        have in (1, want) for have, want in zip(reversed(shape), reversed(target), strict=False)
    )
