"""Variables whose values were destroyed: by a compiled program that failed, or by the user's own code.

A library may overwrite ("donate") the array that a program gets. If a program of ours fails while it runs, the arrays
that it was to overwrite no longer exist. If the user donates ``v.value``, the array of the variable is gone too.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

from ..errors import UninitializedError
from . import deferring

__all__ = ["check_not_lost", "destroyed", "forget", "lose", "missing", "was_lost"]

_lost: dict[int, ref[Any]] = {}


def lose(cell: Any) -> None:
    """Remembers that a program has destroyed the value of a variable and then failed."""
    number = id(cell)
    _lost[number] = ref(cell, lambda _: _lost.pop(number, None))


def was_lost(cell: Any) -> bool:
    """Whether the value of a variable was lost, and none was assigned since."""
    found = _lost.get(id(cell)) if _lost else None
    return found is not None and found() is cell


def forget(cell: Any) -> None:
    """Called when a variable without a value gets one."""
    if _lost:
        _lost.pop(id(cell), None)
    if deferring.RECIPES:
        deferring.forget(cell)


def missing(cell: Any, operation: str, path: str = "") -> UninitializedError:
    """The error for a variable without a value."""
    path = path or cell._path
    if deferring.recipe_of(getattr(cell, "_origin", cell)) is not None:
        hint = (
            "sv.shard(model, {…}) makes the value in its shards, sv.load reads it from a file, and "
            "sv.materialize(model) makes it where the variable is"
        )
        return UninitializedError.of(operation, "the variable was made in sv.deferred and has no value yet", path, hint)
    if not was_lost(getattr(cell, "_origin", cell)):
        return UninitializedError.of(operation, "the variable has no value yet", path, "assign a value first")
    return UninitializedError.of(
        operation,
        "the value was lost: a compiled program had overwritten it, as it was donated, and then failed",
        path,
        "assign a value, or load a checkpoint; sv.jit(fn, donate=False) keeps the old values until a call has ended",
    )


def check_not_lost(cell: Any, operation: str) -> None:
    """Raises UninitializedError if the value of a variable was lost: it must not be taken for no value."""
    if was_lost(getattr(cell, "_origin", cell)):
        raise missing(cell, operation)


def destroyed(operation: str, path: str) -> UninitializedError:
    """The error for a variable whose array no longer exists."""
    return UninitializedError.of(
        operation,
        "the array of the variable was donated or deleted outside of it, so the value no longer exists",
        path,
        "assign a value; donate a copy, v.value.copy(), or compile with sv.jit, which gives the variable the new value",
    )
