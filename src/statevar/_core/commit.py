"""The commit of several variables: all of them change, for everybody at once, or none does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from .cell import Cell, State, hide, publish
from .draft import Draft
from .locks import drain, releasing

__all__ = ["Locks", "commit", "while_locked"]

_Cell = TypeVar("_Cell", bound=Cell)
_Result = TypeVar("_Result")

_ATTEMPTS = (None,) * 100  # Ctrl-C does not come a hundred times in a millisecond


def commit(drafts: Mapping[Any, Draft], check: Callable[[], None] | None = None) -> None:
    """Makes each variable what its draft is. The caller holds the variables.

    No reader sees some of them new and then another one old: first every snapshot is hidden, so that readers come
    for the lock, then all values and versions change, and only then the first snapshot is published.

    Args:
        check: called when nobody can read any more; what it raises leaves everything as it was.
    """
    while_locked(drafts, partial(_exchange, drafts, check))


def _exchange(drafts: Mapping[Any, Draft], check: Callable[[], None] | None, cells: list[Cell]) -> None:
    """The part of `commit` under the locks: first all that can fail, then all that cannot."""
    before: list[tuple[Cell, tuple[Any, State]]] = []
    hide(cells)
    try:
        if check is not None:
            check()
        several = len(cells) > 1
        for cell in cells:
            if not cell._backend.adopt_cannot_fail:
                if several:
                    before.append((cell, cell._savepoint()))
                cell._adopt(drafts[cell])
    except BaseException:
        with ExitStack() as undo:  # puts each back, even if another one cannot be
            undo.callback(publish, cells)
            for cell, savepoint in before:
                undo.callback(cell._put_back, savepoint)
        raise
    # No call stands between the try above and the one below: Ctrl-C comes where one begins.
    interrupt: BaseException | None = None
    for _ in _ATTEMPTS:
        try:
            for cell in cells:
                if cell._backend.adopt_cannot_fail:
                    cell._adopt(drafts[cell])
            publish(cells)
            break
        except BaseException as error:  # noqa: BLE001  # Ctrl-C: there is no way back, and the way on can be gone again
            interrupt = error
    for cell in cells:
        if cell._watchers is not None:
            cell._watchers.record(cell._version)
    if interrupt is not None:
        raise interrupt


def while_locked(cells: Iterable[_Cell], body: Callable[[list[_Cell]], _Result]) -> _Result:
    """``body(cells)`` with all their locks taken, in one order for everybody."""
    ordered = sorted(cells, key=id)
    release = releasing([cell._lock for cell in ordered])
    try:
        for cell in ordered:
            cell._lock.acquire()
        return body(ordered)
    finally:
        drain(release)


class Locks:
    """The locks of the same variables, to be taken many times: sorted once, which takes as long as taking them."""

    __slots__ = ("_acquires", "_locks")

    def __init__(self, cells: Iterable[Cell]) -> None:
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
