"""The commit of several variables: all of them change, for everybody at once, or none does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from .variable import Variable

__all__ = ["Locks", "commit", "while_locked"]

_Result = TypeVar("_Result")

_ATTEMPTS = (None,) * 100  # Ctrl-C does not come a hundred times in a millisecond


def commit(drafts: dict[Variable, Variable], check: Callable[[], None] | None = None) -> None:
    """Makes each variable what its draft is. The caller holds the variables.

    No reader sees some of them new and then another one old: first every snapshot is hidden, so that readers come
    for the lock, then all values and versions change, and only then the first snapshot is published.

    Args:
        check: called when nobody can read any more; what it raises leaves everything as it was.
    """
    while_locked(drafts, partial(_exchange, drafts, check))


def _exchange(drafts: dict[Variable, Variable], check: Callable[[], None] | None, variables: list[Variable]) -> None:
    """What `commit` does under the locks: first all that can fail, then all that cannot."""
    before: list[tuple[Variable, Any]] = []
    for variable in variables:
        variable._snapshot = None
    try:
        if check is not None:
            check()
        several = len(variables) > 1
        for variable in variables:
            if not variable._backend.adopts_surely:
                if several:
                    before.append((variable, variable._remember()))
                variable._adopt(drafts[variable])
    except BaseException:
        with ExitStack() as undo:  # puts each back, even if another one cannot be
            undo.callback(_publish, variables)
            for variable, state in before:
                undo.callback(variable._put_back, state)
        raise
    # No call stands between the try above and the one below: Ctrl-C comes where one begins.
    interrupt: BaseException | None = None
    for _ in _ATTEMPTS:
        try:
            for variable in variables:
                if variable._backend.adopts_surely:
                    variable._adopt(drafts[variable])
                if (handle := variable._handle) is not None:
                    variable._snapshot = handle.published
            break
        except BaseException as error:  # noqa: BLE001  # Ctrl-C: there is no way back, and the way on can be gone again
            interrupt = error
    for variable in variables:
        if variable._watchers is not None:
            variable._watchers.record(variable._version)
    if interrupt is not None:
        raise interrupt


def _publish(variables: list[Variable]) -> None:
    for variable in variables:
        handle = variable._handle
        variable._snapshot = None if handle is None else handle.published


def while_locked(variables: Iterable[Variable], body: Callable[[list[Variable]], _Result]) -> _Result:
    """``body(variables)`` with all their locks taken, in one order for everybody."""
    ordered = sorted(variables, key=id)
    interrupt: KeyboardInterrupt | None = None
    try:
        for variable in ordered:
            variable._lock.acquire()
        return body(ordered)
    finally:
        # No call that Python runs stands before this loop: Ctrl-C comes where one begins.
        while True:
            try:
                for variable in ordered:
                    if variable._lock._is_owned():
                        variable._lock.release()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


class Locks:
    """The locks of the same variables, to be taken many times: sorted once, which takes as long as taking them."""

    __slots__ = ("_acquires", "_locks", "_releases")

    def __init__(self, variables: Iterable[Variable]) -> None:
        self._locks = [variable._lock for variable in sorted(variables, key=id)]
        self._acquires = [lock.acquire for lock in self._locks]
        self._releases = [lock.release for lock in self._locks]

    def while_taken(self, body: Callable[[], _Result]) -> _Result:
        """``body()`` with all of them taken."""
        try:
            for acquire in self._acquires:
                acquire()
            result = body()
            for release in self._releases:
                release()
        except BaseException:
            # No call that Python runs stands before this loop: Ctrl-C comes where one begins.
            interrupt: KeyboardInterrupt | None = None
            while True:
                try:
                    for lock in self._locks:
                        if lock._is_owned():
                            lock.release()
                    break
                except KeyboardInterrupt as error:
                    interrupt = error
            if interrupt is not None:
                raise interrupt from None
            raise
        return result
