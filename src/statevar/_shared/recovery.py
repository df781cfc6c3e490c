"""What a write has left that was not finished: its process was killed, or an interrupt has stopped it.

A value becomes visible by one store, so nothing has to be undone. What is left is a slot that looks like a version that
was never committed, or a transaction that was decided and of which some records do not say so yet. Whoever claims the
record next settles both, before anything else.
"""

from __future__ import annotations

import fcntl
import time

from .entry import Entry, barrier
from .layout import (
    CURRENT,
    DECIDED,
    DIRTY,
    FIRST,
    RECOVERIES,
    SLOTS,
    TRANSACTION,
    UNMADE,
    VERSION,
    VERSIONS,
    WAITERS,
    WAITS_FOR,
    WRITING,
)
from .memory import Description
from .waiting import announce

__all__ = ["recover", "settle"]

# Seconds between two looks whether another process has settled its part.
_LOOK = 0.0005


def settle(entry: Entry) -> None:
    """Finishes or drops what was prepared and not committed. Our caller has the claim; again, it does nothing.

    Raises:
        SharedError: the record is damaged.
    """
    words = entry.words
    _conclude(entry)
    version = words[CURRENT] & VERSION
    for slot in range(SLOTS):  # one of a version that was never committed
        stamp = words[VERSIONS + slot]
        if stamp < UNMADE and stamp >> 16 > version:
            words[VERSIONS + slot] = DIRTY
    barrier()
    words[WRITING] = 0


def recover(entry: Entry) -> None:
    """Settles what the last owner has left, which has died. Our caller has the claim.

    Raises:
        SharedError: the record is damaged.
    """
    _conclude_others(entry)
    settle(entry)
    words = entry.words
    words[WAITS_FOR] = 0
    words[RECOVERIES] = (words[RECOVERIES] + 1) & 0xFFFFFFFF


def _conclude(entry: Entry) -> None:
    """Makes the value current that a transaction has prepared, if the transaction was decided, else drops it."""
    words = entry.words
    if words[TRANSACTION] != entry.quiet:
        word = entry.word()  # it knows whether it was decided
        if words[CURRENT] != word:
            words[CURRENT] = word
            barrier()
        words[TRANSACTION] = entry.quiet
        announce(words, WAITERS, entry.address, -1)  # whoever was killed had no time for it


def _conclude_others(entry: Entry) -> None:
    """Concludes the transaction that was decided in this record in all others, which look here whether it was.

    A later transaction that is decided here would make them believe that it never was.
    """
    decided = entry.words[DECIDED]
    entry.siblings.refresh()
    mine = None
    try:
        for other in list(entry.siblings.by_number):
            words = other.words
            while other is not entry and words[TRANSACTION] == decided and words[FIRST] == entry.index:
                # A description of its own: a thread of this process may claim the other one now, and takes its turn.
                mine = mine or Description.again(entry.opened.claims.fd)
                try:
                    fcntl.fcntl(mine.fd, fcntl.F_OFD_SETLK, other.claim_lock)
                except BlockingIOError:
                    time.sleep(_LOOK)  # its new owner concludes it, and waits for nobody before that
                else:
                    _conclude(other)
                    fcntl.fcntl(mine.fd, fcntl.F_OFD_SETLK, other.claim_unlock)
    finally:
        if mine is not None:
            mine.close()
