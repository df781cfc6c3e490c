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
from .entry import Entry, barrier
from .layout import (
    CURRENT,
    DIRTY,
    OWNER,
    RECOVERIES,
    SINCE,
    SLOTS,
    TRANSACTION,
    VERSION,
    VERSIONS,
    WAITERS,
    WRITING,
)
from .memory import is_locked, unlock_of
from .opened import CLAIMS
from .waiting import announce

__all__ = ["Claim", "claim", "claim_if_free", "holder", "settle"]

_numbers = itertools.count(1)
_set, _wait = fcntl.F_OFD_SETLK, fcntl.F_OFD_SETLKW
# Seconds that a claim waits which might be part of a deadlock.
_PATIENCE = 5.0


class Claim:
    """The right to write a record, until it is released or nothing refers to it.

    Attributes:
        number: counts the claims of this process.
        record: what is claimed.
    """

    __slots__ = ("__weakref__", "_entry", "number", "record")

    def __init__(self, entry: Entry) -> None:
        self.number = next(_numbers)
        self._entry = entry
        self.record: Any = entry

    def is_valid(self) -> bool:
        """Whether it is the claim of its record: False once released or taken over, and in a forked child."""
        return self._entry.owner == self.number

    def release(self) -> None:
        """Ends it. What was prepared and not committed is dropped. Again, it does nothing."""
        entry = self._entry
        with entry.turn:  # no newer claim of this process comes between the question and the end
            if entry.owner != self.number:
                return
            words = entry.words
            try:
                if words[WRITING] or words[TRANSACTION]:
                    settle(entry)
                words[OWNER] = words[SINCE] = 0
            finally:
                fcntl.fcntl(entry.opened.claims.fd, _set, unlock_of(CLAIMS + entry.index))
                entry.owner = None

    __call__ = release

    def __del__(self) -> None:
        self.release()


def claim_if_free(entry: Entry) -> Claim | None:
    """Claims a record if no other process has it."""
    return claim(entry, _set)


def claim(entry: Entry, how: int = _wait) -> Claim | None:
    """Claims a record; waits for it, or returns None, if somebody else has it."""
    mine = Claim(entry)
    with entry.turn:
        entry.owner = mine.number  # before the lock is taken, so that an interrupt at any moment drops it
    try:
        fcntl.fcntl(entry.opened.claims.fd, how, entry.claim_lock)
    except BlockingIOError:
        entry.owner = None
        return None
    words = entry.words
    try:
        if words[OWNER] or words[WRITING] or words[TRANSACTION]:
            _recover(entry)
        words[OWNER] = os.getpid()
        words[SINCE] = time.monotonic_ns()
    except BaseException:
        fcntl.fcntl(entry.opened.claims.fd, _set, unlock_of(CLAIMS + entry.index))
        entry.owner = None
        raise
    return mine


def claim_in_order(entry: Entry, operation: str, path: str, others: Sequence[Entry]) -> Claim:
    """Claims a record for a holder that has claimed others.

    Raises:
        ConflictError: waiting for it would be a deadlock.
    """
    found = claim_if_free(entry)
    if found is None and not any(other.key > entry.key for other in others):
        found = claim(entry)
    end = time.monotonic() + _PATIENCE
    while found is None:
        if time.monotonic() > end:
            raise _conflict(entry, operation, path)
        time.sleep(0.001)
        found = claim_if_free(entry)
    return found


def _conflict(entry: Entry, operation: str, path: str) -> ConflictError:
    held = holder(entry)
    by = "another process has it" if held is None else f"process {held[0]} has had it for {held[1]:.1f} s"
    return ConflictError.of(
        operation,
        f"waiting for it would be a deadlock: {by}",
        path,
        "list all the variables in one sv.transaction(...), which always takes them in the same order",
    )


def holder(entry: Entry) -> tuple[int, float] | None:
    """The process that has the claim of a record, and for how many seconds."""
    owner, since = entry.words[OWNER], entry.words[SINCE]
    if not owner or not (entry.owner is not None or is_locked(entry.opened.claims.fd, entry.claim_lock)):
        return None
    return owner, max(0.0, (time.monotonic_ns() - since) / 1e9)


def _recover(entry: Entry) -> None:
    """Settles what the last owner has left, which has died."""
    settle(entry)
    entry.words[RECOVERIES] += 1


def settle(entry: Entry) -> None:
    """Finishes or drops what was prepared and not committed. Our caller has the claim; again, it does nothing."""
    words = entry.words
    transaction = words[TRANSACTION]
    if transaction:
        following = entry.word()  # which knows whether it was decided
        if words[CURRENT] != following:
            words[CURRENT] = following
        barrier()
        words[TRANSACTION] = 0
        announce(words, WAITERS, entry.address, -1)  # whoever was killed had no time for it
    version = words[CURRENT] & VERSION
    for slot in range(SLOTS):  # a slot of a version that was never committed
        stamp = words[VERSIONS + slot]
        if stamp != DIRTY and stamp >> 16 > version:
            words[VERSIONS + slot] = DIRTY
    words[WRITING] = 0
