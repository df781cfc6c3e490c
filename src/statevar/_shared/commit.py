"""Writes: a value is written to a slot that nobody reads, and one store makes it the current one.

Of several records, each says first which value is prepared and which record decides; then one store in that record
commits all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xxhash

from ..errors import ConflictError
from .claims import Claim, ended
from .entry import Entry, barrier
from .layout import (
    CHECK,
    CURRENT,
    DECIDED,
    DIRTY,
    FIRST,
    LOG,
    LOGGED,
    NEXT,
    TRANSACTION,
    VERSION,
    VERSIONS,
    WAITERS,
    WEAK,
    WRITING,
    new_transaction,
    pending_check,
)
from .recovery import settle
from .waiting import announce

__all__ = ["Fill", "Prepared", "abandon", "commit", "filled", "publish"]

_CHANGE = struct.Struct("<4Q")

#: Writes a value: of the old array, which is read-only, and the new one, which it fills.
Fill = Callable[[Any, Any], object]


class Prepared:
    """A value that was written and is not committed."""

    __slots__ = ("before", "claim", "entry", "transaction", "version", "word")

    def __init__(self, entry: Entry, claim: Claim, word: int) -> None:
        self.entry, self.claim, self.word = entry, claim, word
        self.version = word & VERSION
        self.before = entry.words[CURRENT] & VERSION
        self.transaction = 0


def filled(entry: Entry, claim: Claim, fill: Fill, version: int | None, rows: tuple[int, int] | None) -> int:
    """Writes a value to a free slot; returns the word that would make it the current one.

    Raises:
        ConflictError: the claim is not valid.
    """
    if entry.owner != claim.number:
        raise ended(claim, "assign")
    words = entry.words
    if words[WRITING]:  # what was prepared before, and is not wanted
        settle(entry)
    word = words[CURRENT]
    current, before = word >> 48, word & VERSION
    old = entry.slot(current)[1]
    if words[VERSIONS + current] >> 16 != before:
        raise entry.damaged(f"slot {current} is not of the version {before}, which is current")
    if version is None:
        version = before + 1
    elif version <= before:
        raise ConflictError.of("assign", f"version {version} is not after version {before}, which it has", entry.path)
    slot = entry.free_slot(current)
    new = entry.slot(slot)[0]
    words[WRITING] = slot + 1
    try:
        had = entry.stamped(slot) if rows is not None else 0
        words[VERSIONS + slot] = DIRTY
        if WEAK:
            barrier()
        if rows is not None:
            _catch_up(entry, old, new, had, before)
        fill(old, new)
        if not entry.is_small:
            _log(entry, rows, version, before)
        if WEAK:
            barrier()
        words[VERSIONS + slot] = entry.stamp(slot, version)
        if WEAK:
            barrier()
    except BaseException:
        settle(entry)
        raise
    return slot << 48 | version


def publish(entry: Entry, word: int) -> None:
    """Makes a value that was written to a slot the current one, and wakes those who wait for it."""
    words = entry.words
    before = words[CURRENT] & VERSION
    words[CURRENT] = word
    words[WRITING] = 0
    announce(words, WAITERS, entry.address, before)


def commit(prepared: Sequence[Prepared]) -> None:
    """Commits all at once, of records of one pool. May be called again if it was interrupted.

    Raises:
        ConflictError: the records are of several pools, or a claim is not valid.
    """
    if not prepared:
        return
    for each in prepared:
        if each.entry.owner != each.claim.number:
            raise ended(each.claim, "transaction")
    if len({id(each.entry.opened) for each in prepared}) > 1:
        pools = sorted({each.entry.opened.name for each in prepared})
        raise ConflictError.of(
            "transaction",
            f"it writes variables of {len(pools)} pools, which no single store can commit: {', '.join(pools)}",
            hint="share the variables in one pool",
        )
    if len(prepared) == 1:
        publish(prepared[0].entry, prepared[0].word)
    else:
        _publish_together(sorted(prepared, key=lambda each: each.entry.index))
    pool = prepared[0].entry.pool
    if pool.durable == "commit":
        pool.sync()


def _publish_together(ordered: Sequence[Prepared]) -> None:
    first = ordered[0]
    if not first.transaction:
        first.transaction = new_transaction(first.entry.salts[0])
    transaction, decides = first.transaction, first.entry.words
    if decides[DECIDED] != transaction:
        together = [(each.entry, each.claim.number) for each in ordered]
        for each in ordered:
            each.entry.together = together
        for each in ordered:
            words = each.entry.words
            words[TRANSACTION] = each.entry.quiet
            barrier()
            words[FIRST], words[NEXT] = first.entry.index, each.word
            words[CHECK] = pending_check(transaction, first.entry.index, each.word)
            barrier()
            words[TRANSACTION] = transaction
        barrier()
        decides[DECIDED] = transaction  # the commit of all of them
        barrier()
    for each in ordered:
        words = each.entry.words
        if words[TRANSACTION] == transaction:
            words[CURRENT] = each.word
            barrier()
            words[TRANSACTION] = each.entry.quiet
    for each in ordered:
        each.entry.words[WRITING], each.entry.together = 0, ()
        announce(each.entry.words, WAITERS, each.entry.address, each.before)


def abandon(prepared: Sequence[Prepared]) -> None:
    """Drops what was prepared."""
    for each in prepared:
        if each.entry.owner == each.claim.number:
            settle(each.entry)


def _catch_up(entry: Entry, old: Any, new: Any, had: int, before: int) -> None:
    """Copies what has changed since an old slot was written, if the ring of changes knows it, else everything."""
    words, changes = entry.words, []
    version = before
    while 0 <= had < version and not entry.is_small:
        at = LOG + version % LOGGED * 3
        stamp, lower, end = words[at], words[at + 1], words[at + 2]
        if stamp != _log_stamp(entry, version, lower, end):
            break
        start, covers = lower & VERSION, lower >> 48
        changes.append((start, end))
        version -= covers
    if version != had:
        np.copyto(new, old)
        return
    for start, end in changes:
        new[start:end] = old[start:end]


def _log(entry: Entry, rows: tuple[int, int] | None, version: int, before: int) -> None:
    """Notes which rows a version has changed."""
    words = entry.words
    start, end = rows if rows is not None else (0, entry.shape[0] if entry.shape else 1)
    at = LOG + version % LOGGED * 3
    words[at] = 0
    covers = version - before
    if covers > 0xFFFF:
        return
    lower = covers << 48 | start
    words[at + 1], words[at + 2] = lower, end
    words[at] = _log_stamp(entry, version, lower, end)


def _log_stamp(entry: Entry, version: int, lower: int, end: int) -> int:
    """A checksum of a change, by which a damaged one is noticed: then everything is copied."""
    return xxhash.xxh3_64_intdigest(_CHANGE.pack(entry.index, version, lower, end))
