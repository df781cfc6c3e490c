"""Overlays, such as a transaction, which redirect the reads and writes of the running code; and open gradient tapes.

The open overlay is a ContextVar, so it is seen by its own thread or asyncio task and by no other.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from contextvars import ContextVar
from threading import RLock, get_ident
from typing import Any, ClassVar

from .forks import in_child
from .holds import Hold, running_task

__all__ = [
    "Overlay",
    "active",
    "close_tape",
    "close_values",
    "current",
    "current_values",
    "inherits",
    "open_tape",
    "open_values",
    "pop",
    "push",
    "seen_by_tapes",
    "tapes",
    "values_of",
]


class Overlay(Hold, ABC):
    """A hold whose owner reads and writes drafts in place of the variables."""

    __slots__ = ("_lock",)

    _lock: Any
    #: Whether its drafts are values that each write replaces, as in an overlay of values but not in a transaction.
    holds_values: ClassVar[bool] = False

    @property
    def lock(self) -> Any:
        """The lock of its drafts, which no other thread uses."""
        try:
            return self._lock
        except AttributeError:  # it is made for the first draft: a transaction of small writes may have none
            self._lock = RLock()
            return self._lock

    def on_create(self, variable: Any, value: Any) -> None:
        """Called after a variable was made under this overlay.

        Args:
            value: its initial value if that is traced, which only this overlay may store; else None.
        """

    def lane_of(self, variable: Any) -> Any:
        """The index of the example for which the code runs, if it shares a variable with other examples; else None."""
        return None

    @abstractmethod
    def read(self, variable: Any) -> Any:
        """Returns the cell to read in place of the variable."""

    def write_apart(self, variable: Any, write: Any, x: Any) -> bool:
        """Does a write of a whole variable without a draft, if that is possible. Returns whether it has."""
        return False

    @abstractmethod
    def write(self, variable: Any) -> Any:
        """Returns the cell to write in place of the variable, after this overlay has taken hold of the variable."""


_modules = sys.modules
_overlay: ContextVar[Overlay | None] = ContextVar("statevar_overlay", default=None)
_tapes: ContextVar[tuple[Any, ...]] = ContextVar("statevar_tapes", default=())

#: One element for each overlay, gradient tape and autocast scope that is open in the process. While it is empty, no
#: read or write looks at the ContextVars. It is a list, since `append` and `pop` are atomic: a counter needs a lock.
active: list[None] = []


#: The open overlays of values by thread, from the outermost to the innermost, for other threads that work for it.
values_of: dict[int, list[Overlay]] = {}
in_child(values_of.clear)


def open_values(overlay: Overlay) -> None:
    """Lets the threads that work for this one know of an overlay of values."""
    values_of.setdefault(overlay._thread, []).append(overlay)


def close_values(overlay: Overlay) -> None:
    """Ends `open_values`; may be called twice."""
    opened = values_of.get(overlay._thread, [])
    if overlay in opened:
        opened.remove(overlay)
    if not opened:
        values_of.pop(overlay._thread, None)


def current() -> Overlay | None:
    """The overlay that the running thread or task has opened, or None."""
    found = _overlay.get()
    # `is_mine` inlined, since every read and write under an overlay comes here.
    if found is None or found._over or found._thread != get_ident():
        return None
    if found._task is None and "asyncio" not in _modules:  # as `running_task`, of which the call takes as long
        return found
    return found if found._task is running_task() else None


def current_values() -> Overlay | None:
    """The innermost open overlay if it is an overlay of values, else None."""
    found = current()
    return found if found is not None and found.holds_values else None


def inherits(hold: Any) -> bool:
    """Whether the running code inherited its context from the owner of this overlay, as a task or worker thread may."""
    return _overlay.get() is hold


def push(new: Overlay) -> Overlay | None:
    """Opens an overlay for the running code and returns the one around it. Append to `active` before the call."""
    around = _overlay.get()
    _overlay.set(new)
    return around


def pop(old: Overlay, around: Overlay | None) -> None:
    """Closes an overlay; may be called twice. Pop from `active` once, after the call."""
    if _overlay.get() is old:
        _overlay.set(around)


def tapes() -> tuple[Any, ...]:
    """The gradient tapes that are open, from the outermost to the innermost."""
    return _tapes.get()


def open_tape(tape: Any) -> None:
    """Opens a gradient tape, which then sees every read."""
    active.append(None)
    _tapes.set((*_tapes.get(), tape))


def close_tape(tape: Any) -> None:
    """Closes a gradient tape, which then sees no further reads."""
    _tapes.set(tuple(each for each in _tapes.get() if each is not tape))
    active.pop()


def seen_by_tapes(variable: Any, value: Any, around: Overlay | None) -> Any:
    """The value for a read to return, after the open tapes have seen it.

    Args:
        around: the overlay of values that the value comes from; None for the variable's own value.
    """
    for tape in _tapes.get():
        if tape.around is around:
            value = tape.see(variable, value)
    return value
