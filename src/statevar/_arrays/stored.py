"""`Stored`: what a handle really stores, where code outside may have changed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._public import public
from ..errors import StatevarError
from .shapes import Shape

__all__ = ["Stored"]


@public("statevar.backends")
class Stored:
    """The dtype and shape of a value that code outside can reach, and why it cannot be used.

    Args:
        dtype: the canonical name of the dtype, or the library's if there is none.
        shape: the shape.
        hint: how to put the value in order.
        problem: why the value can be neither followed nor used; empty if it can.
        error: the exception that the problem is.
        move: if code outside has put another object in the place of the variable's own, which the variable can follow:
            returns the adapter, the device and the handle that it has then, and the object.
    """

    # No named tuple, which would take 0.4 ms of every import.
    __slots__ = ("dtype", "error", "hint", "move", "problem", "shape")

    def __init__(
        self,
        dtype: str,
        shape: Shape,
        hint: str,
        problem: str = "",
        error: type[StatevarError] = StatevarError,
        *,
        move: Callable[[], tuple[Any, Any, Any, Any]] | None = None,
    ) -> None:
        self.dtype: str = dtype
        self.shape: Shape = shape
        self.hint: str = hint
        self.problem: str = problem
        self.error: type[StatevarError] = error
        self.move: Callable[[], tuple[Any, Any, Any, Any]] | None = move
