"""Overlays: what redirects the reads and writes of the running code, such as a transaction; and open gradient tapes.

Which overlay is open is a ContextVar, so it holds in its own thread or asyncio task and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextvars import ContextVar
from threading import get_ident
from typing import Any, ClassVar

from .holds import Hold, running_task

__all__ = [
    "Overlay",
    "active",
    "close_tape",
    "current",
    "current_values",
    "inherits",
    "open_tape",
    "pop",
    "push",
    "seen_by_tapes",
    "tapes",
]


class Overlay(Hold, ABC):
    """A hold whose owner reads and writes drafts in place of the variables."""

    __slots__ = ("lock",)

    lock: Any  # of its drafts, which nobody else knows
    #: Whether its drafts are values that each write replaces: an overlay of values, and not a transaction.
    holds_values: ClassVar[bool] = False

    def on_create(self, variable: Any, value: Any) -> None:
        """Called when a variable was made inside; ``value`` is its traced value, which only this overlay may have."""

    @abstractmethod
    def read(self, variable: Any) -> Any:
        """The cell to read in place of the variable."""

    @abstractmethod
    def write(self, variable: Any) -> Any:
        """The cell to write in place of the variable; this overlay holds it."""


_overlay: ContextVar[Overlay | None] = ContextVar("statevar_overlay", default=None)
_tapes: ContextVar[tuple[Any, ...]] = ContextVar("statevar_tapes", default=())

#: An element for each overlay, gradient tape and autocast scope that is open in the process. While it is empty nobody
#: need ask the ContextVars. A list, since its `append` and `pop` are atomic: a counter would need a lock.
active: list[None] = []


def current() -> Overlay | None:
    """The overlay that the running thread or task has opened, if any."""
    found = _overlay.get()
    # `is_mine`, written out: asked at every read and write inside.
    if found is None or found._over or found._thread != get_ident() or found._task is not running_task():
        return None
    return found


def current_values() -> Overlay | None:
    """The overlay of values that is open, if the innermost one is: a transaction has the variable's own values."""
    found = current()
    return found if found is not None and found.holds_values else None


def inherits(hold: Any) -> bool:
    """Whether the running code got its context from the owner of an overlay, as a task or a worker thread does."""
    return _overlay.get() is hold


def push(new: Overlay) -> Overlay | None:
    """Opens an overlay for the running code, and returns the one around it. The caller appends to `active` before."""
    around = _overlay.get()
    _overlay.set(new)
    return around


def pop(old: Overlay, around: Overlay | None) -> None:
    """Closes an overlay; may be called twice. The caller pops from `active` after it, once."""
    if _overlay.get() is old:
        _overlay.set(around)


def tapes() -> tuple[Any, ...]:
    """The gradient tapes that are open, from the outermost to the innermost."""
    return _tapes.get()


def open_tape(tape: Any) -> None:
    """Opens a tape: every read asks it."""
    active.append(None)
    _tapes.set((*_tapes.get(), tape))


def close_tape(tape: Any) -> None:
    """Closes a tape: no read asks it any more."""
    _tapes.set(tuple(each for each in _tapes.get() if each is not tape))
    active.pop()


def seen_by_tapes(variable: Any, value: Any, around: Overlay | None) -> Any:
    """The value that a read returns, after the open tapes have seen it.

    Args:
        around: the overlay of values that the value comes from; None for the variable's own.
    """
    for tape in _tapes.get():
        if tape.around is around:
            value = tape.see(variable, value)
    return value
