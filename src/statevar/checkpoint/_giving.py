"""Gives variables the values that were read for them: all in one step, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from .._arrays.shapes import fits
from .._core import overlays
from .._core.variable import Variable
from .._state.transaction import Transaction
from ..errors import CheckpointMismatchError, TraceError

__all__ = ["Value", "give"]

#: A path, its variable, and its value: a host array, or of a variable that is spread an array of its library.
Value: TypeAlias = tuple[str, Variable, Any]


def give(values: list[Value], ready: Callable[[], object] = lambda: None) -> None:
    """Gives all variables their values in one transaction.

    Args:
        ready: called when nothing but the commit itself is left to do; if it raises an error, nothing changes.
    """
    if not values:
        ready()
        return
    overlay: Any = overlays.current() if overlays.active else None
    if overlay is not None and overlay.holds_values:
        raise TraceError.of(
            "load", "variables cannot be loaded inside a transformed function", hint="load before the call"
        )
    paths = {variable: path for path, variable, _ in values}
    with Transaction(paths, paths.get) as transaction:
        for path, variable, value in values:
            cell = transaction._cell(variable)
            shape = None if value is None else tuple(value.shape)
            if shape is not None and not fits(shape, cell._declared):  # which has changed since the check
                problem = f"expected shape {cell._declared}, got {shape}"
                raise CheckpointMismatchError.of("load", problem, path)
            if value is not None and variable._backend.is_sharded:
                cell._give_pieces(value)
            else:
                cell._give(value)
        ready()
