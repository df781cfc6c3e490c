"""`Held`: who may write a variable now. It is *held* during anything longer than one write.

That is an `update`, an edit, a write with a constraint, a transaction. The owner of the hold writes the variable, or a
draft in its place. Readers do not wait; other writers do. The holder is all that this file changes of a variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from ..errors import ConflictError, ReentrantWriteError
from . import overlays, sharing
from .holds import IN_PROGRAMS, Hold
from .readable import Readable
from .traced import check_no_trace
from .watchers import Watchers

__all__ = ["Held", "are_free", "hold_each", "release_each"]


class Held(Readable):
    """What a `Hold` does to a variable, and who watches the writes."""

    __slots__ = ()

    def _while_held(self, operation: str, what: str, body: Callable[[Any, Hold], Any]) -> Any:
        """Calls ``body(cell, hold)`` with the cell to write and a hold of it: other writers wait, readers do not."""
        overlay = overlays.current() if overlays.active else None
        if overlay is None or not overlay.holds_values:
            check_no_trace(self, operation)
        target: Held = self if overlay is None else overlay.write(self)
        hold = Hold(what)
        try:  # begins before `_take`, since Ctrl-C may come right after it
            target._take(hold, operation, overlay)
            if target._backend.drifts:
                target._observe(operation, writing=True)
            return body(target, hold)
        finally:
            if target._holder is hold:  # stands first, with no call before it: Ctrl-C comes where a call begins or ends
                target._holder = overlay
            hold.end()
            if target._watchers is not None:
                target._watchers.deliver(target)

    @contextmanager
    def _held(self, operation: str, what: str) -> Iterator[tuple[Any, Hold]]:
        """Holds the cell during a ``with`` block, as `_while_held` does during a call."""
        overlay = overlays.current() if overlays.active else None
        if overlay is None or not overlay.holds_values:
            check_no_trace(self, operation)
        target: Held = self if overlay is None else overlay.write(self)
        hold = Hold(what)
        try:
            target._take(hold, operation, overlay)
            if target._backend.drifts:
                target._observe(operation, writing=True)
            yield target, hold
        finally:
            if target._holder is hold:
                target._holder = overlay
            hold.end()
            target._deliver()

    def _take(
        self, hold: Hold, operation: str, within: Hold | None = None, path_of: Callable[[Any], str] | None = None
    ) -> None:
        """Waits until nobody but ``within`` holds the cell, then holds it.

        Args:
            path_of: returns the path to name in errors; by default the variable's own.
        """
        with self._lock:
            if self._holder is not within:
                self._wait_for_holder(operation, path_of)
            self._holder = hold
        if within is None and self._backend.is_shared:
            self._claimed(hold, operation, path_of)

    def _claimed(self, hold: Hold, operation: str, path_of: Callable[[Any], str] | None) -> None:
        """Waits until no other process holds the shared variable, for the owner of a hold of this process.

        The lock of the variable is free meanwhile, so that this process can read.
        """
        try:
            sharing.claim(self, hold, operation, self._path if path_of is None else path_of(self))
            self._catch_up()
        except BaseException:
            if self._holder is hold:
                self._holder = None
            raise

    if TYPE_CHECKING:  # `Cell` has it, since it writes

        def _catch_up(self) -> None: ...

    def _take_if_free(self, hold: Hold, operation: str, path_of: Callable[[Any], str]) -> Hold | None:
        """Holds the cell and returns None, or returns the hold that prevents it."""
        with self._lock:
            holder = self._holder
            if holder is not None and holder.lends:
                holder.give_back(self)
                holder = None
            if holder is None:
                self._holder = hold
            elif holder.is_mine():
                self._wait_for_holder(operation, path_of)  # which raises
        if holder is None and self._backend.is_shared:
            if (busy := sharing.claim_if_free(self, hold)) is not None:
                self._holder = None
                return busy
            self._catch_up()
        return holder

    def _wait_for_holder(self, operation: str, path_of: Callable[[Any], str] | None = None) -> None:
        """Waits until nobody holds the cell. The caller has the lock, which is released while waiting."""

        def path() -> str:
            return self._path if path_of is None else path_of(self)

        while (holder := self._holder) is not None:
            if holder.lends:
                holder.give_back(self)
                continue
            if overlays.active and overlays.inherits(holder) and not holder.is_mine():
                raise ConflictError.of(
                    operation,
                    "the variable is held by the transaction that started this thread or task",
                    path(),
                    "write after that transaction has ended, since it may be waiting for this code",
                )
            look = sharing.Look.of_this_thread(operation, path) if sharing.active else None
            self._lock.release()
            try:
                holder.wait(operation, path, lambda: self._holder is holder, look)
            finally:
                if look is not None:
                    look.end()
                self._lock.acquire()

    def _check_not_writing(self, operation: str) -> None:
        """Raises ReentrantWriteError in the middle of a write of this thread. The caller has the lock."""
        if (holder := self._holder) is not None and holder.writes_here(self):
            raise ReentrantWriteError.of(
                operation,
                f"this thread is already inside {holder.what} of this variable",
                self._path,
                "do it before or after the write",
            )

    def _wait_until_free(self, operation: str) -> None:
        """Takes the lock and waits until nobody holds the cell."""
        with self._lock:
            self._wait_for_holder(operation)

    def _watched(self) -> Watchers:
        """The watchers of the variable, which are made on the first call."""
        with self._lock:
            if self._watchers is None:
                if self._holder is not None and self._holder.lends:
                    self._holder.give_back(self)  # a compiled program does not notify watchers
                self._watchers = Watchers()
            return self._watchers

    def _become_watched(self, watchers: Watchers) -> Watchers:
        """Takes on watchers, whose subscribers are those that it had before. The caller has the lock."""
        if self._watchers is not None:
            watchers.take_over(self._watchers)
        self._watchers = watchers
        return watchers

    def _deliver(self) -> None:
        watchers = self._watchers
        if watchers is not None:
            watchers.deliver(self)

    def _after_fork(self) -> None:
        if self._holder is not None and not self._holder.is_mine():
            self._holder = None
        if self._watchers is not None:
            self._watchers.after_fork()


# -- many variables at once: a method call for each would take as long as the work itself --------------------

_holder_of = attrgetter("_holder")


def hold_each(cells: Iterable[Held], hold: Hold, held: list[Any], otherwise: Callable[[Any], object]) -> None:
    """Holds cells in their order; calls ``otherwise(cell)`` for each cell that is held already.

    Args:
        held: each cell is appended before it is held, since Ctrl-C may come between.
    """
    for cell in cells:
        with cell._lock:
            if cell._holder is None and not (sharing.active and cell._backend.is_shared):
                held.append(cell)
                cell._holder = hold
                continue
        otherwise(cell)


def release_each(cells: Iterable[Held], hold: Hold) -> None:
    """Ends a hold on each cell that it still holds."""
    for cell in cells:
        if cell._holder is hold:
            cell._holder = None


def are_free(cells: Iterable[Held]) -> bool:
    """Whether nobody writes any of the cells at this moment, or holds it to write it later."""
    return not IN_PROGRAMS and not any(map(_holder_of, cells))
