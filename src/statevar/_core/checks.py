"""What a write checks, under the lock, against the shape that the variable has then."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._arrays.indexing import Selection, select
from .._arrays.shapes import Shape, broadcasts_into, fits
from .._arrays.types import Array
from ..errors import ShapeError, describe

if TYPE_CHECKING:
    from .variable import Variable

__all__ = ["Check", "broadcasts", "fits_declared", "multiplies", "redeclares", "selects"]

#: Raises if an operand does not fit; returns the selection, the new shape, or None. Functions and not methods of the
#: variable: looking one up in a class takes 40 ns.
Check = Callable[[Any, str, Any, Any], Any]


def fits_declared(variable: Variable, operation: str, x: Array, index: None) -> Shape | None:
    if getattr(x, "shape", False) == variable._shape:  # most arrays have it; a verb call costs 0.1 us
        return None
    shape = variable._backend.shape(x)
    if not fits(shape, variable._declared):
        raise ShapeError(
            describe(
                operation,
                f"expected shape {variable._declared}, got {shape}",
                variable._path,
                "pass validate_shape=False to change the shape",
            )
        )
    return shape


def redeclares(variable: Variable, operation: str, x: Array, index: None) -> Shape:
    return variable._backend.shape(x)


def broadcasts(variable: Variable, operation: str, x: Array, index: None) -> None:
    shape = getattr(x, "shape", None)
    if shape == variable._shape or shape == ():
        return
    shape = variable._backend.shape(x)
    if not broadcasts_into(shape, variable.shape):
        raise ShapeError(
            describe(operation, f"shape {shape} does not broadcast into {variable._shape}", variable._path)
        )


def selects(variable: Variable, operation: str, x: Array, index: Any) -> Selection:
    where = select(index, variable.shape, variable._path)
    shape = variable._backend.shape(x)
    if not broadcasts_into(shape, where.shape):
        raise ShapeError(
            describe(operation, f"shape {shape} does not broadcast into the selected {where.shape}", variable._path)
        )
    return where


def multiplies(variable: Variable, operation: str, x: Array, index: None) -> None:
    shape, mine = variable._backend.shape(x), variable.shape
    square = (mine[-1:] or (0,)) * 2
    if not mine or shape[-2:] != square or not broadcasts_into(shape[:-2], mine[:-2]):
        raise ShapeError(
            describe(operation, f"expected a matrix of shape {square} for {mine}, got {shape}", variable._path)
        )
