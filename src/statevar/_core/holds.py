"""Holds and locks: who alone may write a variable, for a while or for a moment, and who waits for whom.

A variable's own lock is taken for moments and never while foreign code runs, so nobody waits for it long and
no order of taking it matters. What takes longer (an `update`, an edit, a transaction) marks the variable with
a hold and lets the lock go: readers pass, writers wait for the hold to end.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar

from ..errors import ConflictError, ReentrantWriteError
from .forks import guarded, in_child

__all__ = ["BUSY", "Hold", "Locks", "drain", "releasing", "running_task", "while_locked"]

_waiting: dict[int, Hold] = {}  # by thread: what it waits for
_graph = guarded(threading.Lock())  # guards _waiting, and the list of each hold
in_child(_waiting.clear)
_PATIENCE = 0.5  # seconds


_running_loop: Callable[[], Any] | None = None  # asyncio's, once somebody has imported it


def running_task() -> Any:
    """The asyncio task that runs, if any; asyncio is not imported for it."""
    global _running_loop  # noqa: PLW0603  # found once: this is asked at every read and write in a transaction
    if _running_loop is None:
        if (asyncio := sys.modules.get("asyncio")) is None:
            return None
        _running_loop = asyncio._get_running_loop
    return None if _running_loop() is None else sys.modules["asyncio"].current_task()


class Hold:
    """One thread's, or one asyncio task's, right to write some variables alone, until it ends.

    Args:
        what: for errors: ``"update"``, ``"edit"``, ``"transaction"``.
    """

    __slots__ = ("_calls", "_ended", "_over", "_task", "_thread", "committing", "what")

    #: Whether nobody need wait for it: `give_back` ends it for one variable.
    lends: ClassVar[bool] = False

    def __init__(self, what: str) -> None:
        self.what = what
        self._thread = get_ident()
        self._task = running_task()
        self._over = False
        self.committing = False
        self._calls: list[Callable[[], object]] | None = None
        self._ended = threading.Lock()
        self._ended.acquire()  # released once it ends

    def is_mine(self) -> bool:
        """Whether the thread and the task that run now are those that made it, and it has not ended."""
        return self._thread == get_ident() and self._task is running_task() and not self._over

    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._over

    def is_writing(self, variable: Any) -> bool:
        """Whether a variable is changing at this moment."""
        return self.committing

    def give_back(self, variable: Any) -> None:
        """Lets one variable go, at once. Called with its lock taken."""
        raise NotImplementedError

    def end(self) -> None:
        """Lets everybody go who waits. May be called again if Ctrl-C came between."""
        self._over = True
        if self._ended.locked():
            self._ended.release()
        if self._calls is not None:
            self.wake()

    def wake(self) -> None:
        """Calls those back who asked for it."""
        if self._calls is not None:
            with _graph:
                calls, self._calls = self._calls, None
            for call in calls or ():
                call()

    def when_over(self, call: Callable[[], object]) -> None:
        """Calls back once it has ended, in the thread that ends it; at once if it has. It may come too early."""
        with _graph:
            self._calls = [*(self._calls or ()), call]
        if self._over:
            self.wake()

    def wait(self, operation: str, path: Callable[[], str], still: Callable[[], bool]) -> None:
        """Blocks until it ends. Whoever made it, or could never be let go, gets an error instead.

        Args:
            path: gives the path of the variable, for errors.
            still: whether it is in the way; asked now and then, since Ctrl-C may keep its owner from telling us.

        Raises:
            ConflictError: the one who holds it waits, directly or not, for this thread.
            ReentrantWriteError: it is the caller's own.
        """
        if self.is_mine():
            raise ReentrantWriteError.of(operation, f"{self.what} of this variable is under way in this thread", path())
        me = get_ident()
        with _graph:
            self._check_cycle(me, operation, path)
            _waiting[me] = self
        try:
            while still():
                if self._ended.acquire(timeout=_PATIENCE):
                    self._ended.release()  # lets the next one go
                    break
        finally:
            _waiting.pop(me, None)

    def _check_cycle(self, me: int, operation: str, path: Callable[[], str]) -> None:
        """Raises if the chain of those who wait leads back to this thread."""
        if self._thread == me:
            raise ConflictError.of(
                operation,
                f"another asyncio task of this thread holds it for {self.what}",
                path(),
                "use `async with sv.transaction(…)`, which waits without blocking the event loop",
            )
        hold: Hold | None = self
        while hold is not None and not hold._over:  # who waited for one that is over is about to go on
            if hold._thread == me:
                raise ConflictError.of(
                    operation,
                    f"waiting for {self.what} of another thread would never end: it waits for this one",
                    path(),
                    "list all the variables in one sv.transaction(…), which takes them in one order",
                )
            hold = _waiting.get(hold._thread)


class _Busy(Hold):
    """The mark of a write under way, under the lock: who meets it is inside that write, in the same thread."""

    __slots__ = ()

    def is_mine(self) -> bool:
        return True

    def is_writing(self, variable: Any) -> bool:
        return True


BUSY: Final = _Busy("a write")


# -- many locks at once, which Ctrl-C cannot leave taken -------------------------------------------------------
#
# Python looks for signals where a Python function begins, after a call, and where a loop goes back. So a loop in Python
# that releases locks can be left half-way. Here it is an iterator made beforehand, of functions that run in C only, and
# one call in C goes through it: nothing comes between.


if TYPE_CHECKING:  # a protocol takes 0.1 ms of every import

    class Lockable(Protocol):
        """A cell, as these functions see it."""

        _lock: Any


_Lockable = TypeVar("_Lockable", bound="Lockable")
_Result = TypeVar("_Result")

#: Goes through an iterator. To be called in a ``finally`` with what `releasing` has returned, and nothing before it.
drain: Final[Callable[[Iterable[Any]], None]] = deque[Any](maxlen=0).extend

_lock_of = attrgetter("_lock")
_RLock: Any = type(threading.RLock())
_is_taken, _release = _RLock._is_owned, _RLock.release


def releasing(locks: Iterable[Any]) -> Iterator[Any]:
    """An iterator that releases those of some reentrant locks that the thread has, while `drain` goes through it."""
    return map(_release, filter(_is_taken, locks))


def while_locked(cells: Iterable[_Lockable], body: Callable[[list[_Lockable]], _Result]) -> _Result:
    """``body(cells)`` with all their locks taken, in one order for everybody."""
    ordered = sorted(cells, key=id)
    release = releasing(map(_lock_of, ordered))
    try:
        for cell in ordered:
            cell._lock.acquire()
        return body(ordered)
    finally:
        drain(release)


class Locks:
    """The locks of the same variables, to be taken many times: sorted once, which takes as long as taking them."""

    __slots__ = ("_acquires", "_locks")

    def __init__(self, cells: Iterable[Lockable]) -> None:
        self._locks = [cell._lock for cell in sorted(cells, key=id)]
        self._acquires = [lock.acquire for lock in self._locks]

    def while_taken(self, body: Callable[[], _Result]) -> _Result:
        """``body()`` with all of them taken."""
        release = releasing(self._locks)
        try:
            for acquire in self._acquires:
                acquire()
            return body()
        finally:
            drain(release)
