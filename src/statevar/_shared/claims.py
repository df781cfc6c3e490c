"""Claims: which process may write a record now.

A claim is a lock of the kernel on one byte, which belongs to an open file description. The kernel drops it when its
process ends, however it ends; the next owner finds in the record what was not finished, and settles it.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import time
from collections.abc import Sequence
from typing import Any

from ..errors import ConflictError
from .entry import Entry
from .layout import OWNER, SINCE, TRANSACTION, WAITS_FOR, WRITING
from .memory import is_locked
from .recovery import recover, settle

__all__ = ["Claim", "circle", "claim", "claim_if_free", "conflict", "ended", "holder"]

_numbers = itertools.count(1)
_fcntl, _set, _wait = fcntl.fcntl, fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW
_now, _pid = time.monotonic_ns, os.getpid
# Seconds that a claim waits which might be part of a deadlock over several pools, where nobody can see it.
_PATIENCE = 5.0
# Seconds between two looks of a claim that might be part of a deadlock.
_LOOK = 0.001


class Claim:
    """The right to write a record, until it is released or nothing refers to it.

    Attributes:
        number: counts the claims of this process.
        record: what is claimed.
        pid: the process that has claimed it.
    """

    __slots__ = ("__weakref__", "number", "pid", "record")

    pid: int

    def __init__(self, record: Any) -> None:
        self.number = next(_numbers)
        self.record = record

    def is_valid(self) -> bool:
        """Whether it is the claim of its record: False once released or taken over, and in a forked child."""
        return bool(self.record.owner == self.number)

    def release(self) -> None:
        """Ends it. What was prepared and not committed is dropped. Again, it does nothing."""
        entry: Entry = self.record
        with entry.turn:  # no newer claim of this process comes between the question and the end
            if entry.owner != self.number:
                return
            words = entry.words
            try:
                if words[WRITING] or words[TRANSACTION] != entry.quiet:
                    # A transaction that was decided and then interrupted is concluded while all of it can be seen here.
                    for other, number in entry.together:
                        if other.owner == number:
                            settle(other)
                    settle(entry)
                words[WAITS_FOR] = words[OWNER] = 0
            finally:
                _fcntl(entry.opened.claims.fd, _set, entry.claim_unlock)
                entry.owner = None

    __call__ = release

    def __del__(self) -> None:
        record = getattr(self, "record", None)  # an interrupt may have come before it has one
        if record is not None and record.owner == self.number:
            self.release()


def claim_if_free(entry: Entry) -> Claim | None:
    """Claims a record if no other process has it.

    Raises:
        SharedError: it is damaged.
    """
    return _claim(entry, _set)


def claim(entry: Entry, operation: str, path: str, others: Sequence[Entry]) -> Claim:
    """Claims a record for a holder that has claimed others; waits for whoever has it.

    Raises:
        ConflictError: waiting for it would be a deadlock.
        SharedError: it is damaged.
    """
    if not others:
        return _claim(entry, _wait) or claim(entry, operation, path, others)
    found = _claim(entry, _set)
    if found is not None:
        return found
    if any(other.key == entry.key for other in others):
        problem = "this thread holds it already, through another variable over the same place in the pool"
        raise ConflictError.of(operation, problem, path, "write both through one variable")
    held = [other for other in others if other.key[0] == entry.key[0]]
    try:
        for other in held:
            other.words[WAITS_FOR] = entry.index + 1
        if all(other.key < entry.key for other in others):  # of a circle, somebody waits against the order
            return _claim(entry, _wait) or claim(entry, operation, path, others)
        return _claimed_against_the_order(entry, operation, path, held, bounded=len(held) < len(others))
    finally:
        for other in held:
            other.words[WAITS_FOR] = 0


def holder(entry: Entry) -> tuple[int, float] | None:
    """The process that has the claim of a record, and for how many seconds."""
    owner, since = entry.words[OWNER], entry.words[SINCE]
    if not owner or not (entry.owner is not None or is_locked(entry.opened.claims.fd, entry.claim_lock)):
        return None
    return owner, max(0.0, (_now() - since) / 1e9)


def circle(entry: Entry, held: Sequence[Entry]) -> list[tuple[int, int, int]] | None:
    """Notes that the owner of some records waits for one that another thread of its process waits for.

    Returns:
        The records through which the holder of that one waits for one of the owner; None if it does not.
    """
    here = [other for other in held if other.key[0] == entry.key[0]]
    for other in here:
        other.words[WAITS_FOR] = entry.index + 1
    return _circle(entry, {other.index for other in here})


def _claim(entry: Entry, how: int) -> Claim | None:
    """Claims a record; waits for it, or returns None, if somebody else has it."""
    mine = Claim(entry)
    with entry.turn:
        entry.owner = mine.number  # before the lock is taken, so that an interrupt at any moment drops it
    try:
        _fcntl(entry.opened.claims.fd, how, entry.claim_lock)
        words = entry.words
        if words[OWNER] or words[WRITING] or words[TRANSACTION] != entry.quiet:
            recover(entry)
        words[SINCE] = _now()
        words[OWNER] = mine.pid = _pid()
        return mine  # noqa: TRY300  # here an interrupt is seen below, and drops the lock
    except BlockingIOError:
        with entry.turn:
            if entry.owner == mine.number:
                entry.owner = None
        return None
    except BaseException:
        with entry.turn:
            if entry.owner == mine.number:
                _fcntl(entry.opened.claims.fd, _set, entry.claim_unlock)
                entry.owner = None
        raise


def _claimed_against_the_order(
    entry: Entry, operation: str, path: str, held: Sequence[Entry], *, bounded: bool
) -> Claim:
    """Claims a record, and looks meanwhile whether those who have it wait for what this holder has."""
    seen: list[tuple[int, int, int]] | None = None
    mine = {other.index for other in held}
    began = time.monotonic()
    while (found := _claim(entry, _set)) is None:
        way = _circle(entry, mine)
        if way is not None and way == seen:  # two looks that agree: it has not only just been solved
            raise conflict(entry, operation, path)
        if bounded and time.monotonic() - began > _PATIENCE:
            raise conflict(entry, operation, path)
        seen = way
        time.sleep(_LOOK)
    return found


def _circle(entry: Entry, mine: set[int]) -> list[tuple[int, int, int]] | None:
    """The records through which the holder of this one waits for one of ours: of each its number, owner and since when.

    None if it does not, so far as the records tell.
    """
    found: list[tuple[int, int, int]] = []
    while len(found) < len(entry.siblings.by_number):
        words = entry.words
        found.append((entry.index, words[OWNER], words[SINCE]))
        following = words[WAITS_FOR] - 1
        if following in mine:
            return found if is_locked(entry.opened.claims.fd, entry.claim_lock) else None
        if not 0 <= following < len(entry.siblings.by_number):
            return None
        entry = entry.siblings.by_number[following]
    return None


def ended(claim: Claim, operation: str) -> ConflictError:
    """The error for a write with a claim that is not valid."""
    path = claim.record.path
    if claim.pid == _pid():
        return ConflictError.of(operation, "the claim of it has ended", path, "claim it anew")
    problem = f"process {claim.pid} held it when it forked this process, and only that process can write under its hold"
    hint = "let the child leave the block of the parent without writing, and begin a block of its own"
    return ConflictError.of(operation, problem, path, hint)


def conflict(entry: Entry, operation: str, path: str) -> ConflictError:
    """The error for a claim that would wait for ever."""
    held = holder(entry)
    by = "another process has it" if held is None else f"process {held[0]} has had it for {held[1]:.1f} s"
    return ConflictError.of(
        operation,
        f"waiting for it would be a deadlock: {by}",
        path,
        "list all the variables in one sv.transaction(...), which always takes them in the same order",
    )
