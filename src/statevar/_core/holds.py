"""Holds and locks: the exclusive right to write a variable, and the detection of deadlocks between waiting threads.

The lock of a variable is taken for moments and never while the user's code runs, so nobody waits for it long and the
order of taking locks does not matter. A longer operation (an `update`, an edit, a transaction) marks the variable with
a hold and releases the lock: readers do not wait, writers wait for the hold to end.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from operator import attrgetter, methodcaller
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar

from ..errors import ConflictError, ReentrantWriteError
from .forks import guarded, in_child

__all__ = [
    "BUSY",
    "IN_PROGRAMS",
    "PATIENCE",
    "Hold",
    "Locks",
    "Moving",
    "begin_program",
    "drain",
    "end_program",
    "releasing",
    "running_task",
    "while_locked",
]

_waiting: dict[int, Hold] = {}  # by thread, the hold that it waits for
_graph = guarded(threading.Lock())  # guards `_waiting`, and the making of the `_calls` of a hold
in_child(_waiting.clear)
PATIENCE: Final = 0.5  # seconds between two looks at a hold that is waited for
# As long, if other processes may wait for the one who waits: of a circle through them nobody is told.
_LOOK = 0.05

_running_loop: Callable[[], Any] | None = None  # asyncio's, once somebody has imported it


def running_task() -> Any:
    """The asyncio task that is running, or None. Does not import asyncio."""
    global _running_loop  # noqa: PLW0603  # found once, since every read and write in a transaction comes here
    if _running_loop is None:
        if (asyncio := sys.modules.get("asyncio")) is None:
            return None
        _running_loop = asyncio._get_running_loop
    return None if _running_loop() is None else sys.modules["asyncio"].current_task()


class Hold:
    """The exclusive right of one thread or asyncio task to write some variables, until the hold ends.

    Args:
        what: the operation to name in errors: ``"an update"``, ``"an edit"``, ``"a transaction"``.
    """

    __slots__ = ("_calls", "_ended", "_over", "_task", "_thread", "claims", "committing", "what")

    #: Whether a reader or writer calls `give_back`, which ends it for one variable, instead of waiting.
    lends: ClassVar[bool] = False
    #: Seconds between two looks at the hold by one who waits for it.
    patience: ClassVar[float] = PATIENCE
    #: Whether its owner replaces the handle at the end, so that a write without locking waits for it too.
    moves: ClassVar[bool] = False

    def __init__(self, what: str) -> None:
        self.what = what
        self._thread = get_ident()
        self._task = running_task()
        self._over = False
        self.committing = False
        self._calls: deque[Callable[[], object]] | None = None
        self.claims: list[Any] | None = None  # of shared variables, by which other processes are kept out too
        self._ended = threading.Lock()
        self._ended.acquire()  # released once it ends

    def is_mine(self) -> bool:
        """Whether the running thread and task made this hold, and it has not ended."""
        return self._thread == get_ident() and self._task is running_task() and not self._over

    def is_of(self, thread: int | None) -> bool:
        """Whether a thread made this hold, and it has not ended."""
        return self._thread == thread and not self._over

    def is_over(self) -> bool:
        """Whether the hold has ended."""
        return self._over

    def is_writing(self, variable: Any) -> bool:
        """Whether the owner is changing a variable at this moment."""
        return self.committing

    def writes_here(self, variable: Any) -> bool:
        """Whether the running code was called in the middle of a write of the owner, in the owner's thread.

        A signal handler, a finalizer and a trace function may be. The lock does not keep them out.
        """
        return self._thread == get_ident() and self.is_writing(variable)

    def give_back(self, variable: Any) -> None:
        """Ends the hold on one variable, at once. Called with the lock of the variable taken."""
        raise NotImplementedError

    def end(self) -> None:
        """Ends the hold and wakes every waiting thread. May be called again, for example after Ctrl-C."""
        if self.claims is not None:
            for claim in self.claims:
                claim.release()
        if not self._over:
            self._over = True
            self._ended.release()  # once: a second release would take the lock from a thread that `wait` wakes
        if self._calls is not None:
            self.wake()

    def wake(self) -> None:
        """Calls the functions that were given to `when_over`: each of them, whatever the others raise."""
        calls = self._calls
        for _ in range(len(calls or ())):
            try:
                calls.popleft()()  # type: ignore[union-attr]  # there are calls
            except IndexError:  # another thread has called the rest
                return
            except Exception:  # the hold has ended, and a write that was committed must not fail
                import logging  # noqa: PLC0415  # takes 8 ms, and is needed only here

                logging.getLogger("statevar").exception("%s: a callback of its end raised an exception", self.what)

    def when_over(self, call: Callable[[], object]) -> None:
        """Has ``call()`` run when the hold ends, in the thread that ends it; at once if it has ended.

        The call may also come earlier, or be lost to Ctrl-C, so the caller must look again from time to time. A caller
        who has stopped waiting takes it back with `forget`.
        """
        with _graph:
            if self._calls is None:
                self._calls = deque()
        self._calls.append(call)
        if self._over:
            self.wake()

    def forget(self, call: Callable[[], object]) -> None:
        """Takes back a function that was given to `when_over`, if it has not been called."""
        if self._calls is not None:
            with suppress(ValueError):
                self._calls.remove(call)

    def wait(
        self,
        operation: str,
        path: Callable[[], str],
        still: Callable[[], bool],
        look: Callable[[int], object] | None = None,
    ) -> None:
        """Blocks until the hold ends.

        Args:
            path: returns the path of the variable, for errors.
            still: whether the hold still prevents the caller from going on. It is asked again from time to time, since
                Ctrl-C may keep the owner from waking the caller.
            look: is called from time to time with the thread that the caller waits for in the end, through others that
                wait too. May raise.

        Raises:
            ConflictError: the owner of the hold waits, directly or indirectly, for this thread.
            ReentrantWriteError: the caller owns the hold.
        """
        if self.is_mine():
            raise ReentrantWriteError.of(
                operation,
                f"this thread is already inside {self.what} of this variable",
                path(),
                f"write before or after {self.what}",
            )
        me = get_ident()
        with _graph:
            self._check_cycle(me, operation, path)
            _waiting[me] = self
        try:
            while still():
                if self._ended.acquire(timeout=PATIENCE if look is None else _LOOK):
                    self._ended.release()  # for the next waiting thread
                    break
                if look is not None:
                    look(self._last())
        finally:
            _waiting.pop(me, None)

    def _last(self) -> int:
        """The thread that the owner of the hold waits for, through others that wait, or the owner's own."""
        hold = self
        with _graph:
            for _ in range(len(_waiting)):  # no more, since a thread whose hold is over may seem to wait in a circle
                if (following := _waiting.get(hold._thread)) is None:
                    break
                hold = following
        return hold._thread

    def _check_cycle(self, me: int, operation: str, path: Callable[[], str]) -> None:
        """Raises ConflictError if waiting for the hold would be a deadlock."""
        if self._thread == me:
            raise ConflictError.of(
                operation,
                f"another asyncio task of this thread holds the variable for {self.what}",
                path(),
                "use `async with sv.transaction(…)`, which waits without blocking the event loop",
            )
        hold: Hold | None = self
        while hold is not None and not hold._over:  # a thread that waited for a hold that is over is about to go on
            if hold._thread == me:
                raise ConflictError.of(
                    operation,
                    f"waiting for {self.what} of another thread would be a deadlock: that thread waits for this one",
                    path(),
                    "list all the variables in one sv.transaction(…), which always takes them in the same order",
                )
            hold = _waiting.get(hold._thread)


#: By thread, the ids of the variables that a compiled program of the thread is writing in place at this moment.
IN_PROGRAMS: Final[dict[int, frozenset[int]]] = {}
in_child(IN_PROGRAMS.clear)


def begin_program(thread: int, variables: frozenset[int]) -> frozenset[int] | None:
    """Marks the variables that a program will write, before it looks at them. Returns those of a program around it.

    Code in the middle of the program, such as a signal handler, then reads copies of them.
    """
    around = IN_PROGRAMS.get(thread)
    IN_PROGRAMS[thread] = variables if around is None else variables | around
    return around


def end_program(thread: int, around: frozenset[int] | None) -> None:
    """Unmarks the variables of a program that has ended; one around it, whose callback has called it, goes on."""
    if around is None:
        IN_PROGRAMS.pop(thread, None)
    else:
        IN_PROGRAMS[thread] = around


class Moving(Hold):
    """The hold of a move, which gives a variable another device or sharding."""

    __slots__ = ()
    moves = True


class _Busy(Hold):
    """The hold that marks a write in progress under the lock: only code inside that write can find it."""

    __slots__ = ()

    def is_mine(self) -> bool:
        return True

    def is_writing(self, variable: Any) -> bool:
        return True

    def writes_here(self, variable: Any) -> bool:
        return True


BUSY: Final = _Busy("a write")


# -- many locks at once, which Ctrl-C cannot leave taken -------------------------------------------------------
#
# Python checks for signals where a Python function begins, after a call, and where a loop repeats. So Ctrl-C can leave
# a Python loop that releases locks half-way. The code here makes an iterator of C functions beforehand and runs through
# it in one call of a C function, which no signal interrupts.


if TYPE_CHECKING:  # a protocol takes 0.1 ms of every import

    class Lockable(Protocol):
        """The part of a cell that these functions need."""

        _lock: Any


_Lockable = TypeVar("_Lockable", bound="Lockable")
_Result = TypeVar("_Result")

#: Consumes an iterator. Call it first in a ``finally``, with the iterator that `releasing` has returned.
drain: Final[Callable[[Iterable[Any]], None]] = deque[Any](maxlen=0).extend

_lock_of = attrgetter("_lock")
_is_taken = methodcaller("_is_owned")
_release = methodcaller("release")


def releasing(locks: Iterable[Any]) -> Iterator[Any]:
    """Returns an iterator which, as `drain` consumes it, releases those of the reentrant locks that this thread has."""
    return map(_release, filter(_is_taken, locks))


def while_locked(cells: Iterable[_Lockable], body: Callable[[list[_Lockable]], _Result]) -> _Result:
    """Calls ``body(cells)`` with the locks of all cells taken, always in the same order."""
    ordered = sorted(cells, key=id)  # the lock of a shared variable is one of this process, too
    release = releasing(map(_lock_of, ordered))
    try:
        for cell in ordered:
            cell._lock.acquire()
        return body(ordered)
    finally:
        drain(release)


class Locks:
    """The locks of some variables, sorted once to be taken many times: sorting takes as long as taking them."""

    __slots__ = ("_acquires", "_locks")

    def __init__(self, cells: Iterable[Lockable]) -> None:
        self._locks = [cell._lock for cell in sorted(cells, key=id)]
        self._acquires = [lock.acquire for lock in self._locks]

    def while_taken(self, body: Callable[[], _Result]) -> _Result:
        """Calls ``body()`` with all of the locks taken."""
        release = releasing(self._locks)
        try:
            for acquire in self._acquires:
                acquire()
            return body()
        finally:
            drain(release)
