"""Pools that survive a loss of power: what `sync` has returned from is on the disk, as one state of all variables.

The kernel writes the pages of a file back whenever it likes, so the disk may have any mixture of what was in memory
since the last flush. Hence a sync is a generation. It takes the values of all records at one moment, and keeps their
slots from being used again; it notes them in each record, with a checksum, in the word for even or for odd generations;
it flushes; and only then it stores the number of the generation in the header, by one word, and flushes that. Until
then the generation before is whole, since its slots, and its words in the records, are untouched.

The first process that opens the file after the machine has started anew goes back to the last generation.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xxhash

from ..errors import ConflictError, SharedError, StateWarning, describe
from .layout import (
    BOOT,
    CURRENT,
    DIRTY,
    DURABLE,
    LOG,
    OFFSETS,
    OWNER,
    SLOTS,
    SUMS,
    SYNCED,
    UNMADE,
    VERSION,
    VERSIONS,
    WAITERS,
    WAITS_FOR,
    WRITING,
    damaged,
    open_offset,
    sealed_offset,
)
from .room import storage_error
from .waiting import fence

if TYPE_CHECKING:
    from .entry import Entry, Siblings
    from .opened import Opened

__all__ = ["begin", "check_mode", "checksum", "flush", "recover", "sync", "synced"]

MODES = ("no", "sync", "commit")
_UNIT = 64  # of a sealed offset, in which the number of a generation is stored
#: Seconds for which a sync looks for a moment at which nothing is written.
_PATIENCE = 10.0


class Pool(Protocol):
    """The part of a pool that is needed here."""

    name: str
    place: Any
    durable: str
    opened: Opened
    siblings: Siblings
    _head: memoryview
    _salt: int

    def refresh(self) -> None: ...


def check_mode(durable: str, place: Any) -> None:
    """Raises ValueError for a mode that does not exist, or that a place in memory cannot have."""
    if durable not in MODES:
        modes = ", ".join(map(repr, MODES))
        raise ValueError(describe("share", f"expected durable to be one of {modes}, got {durable!r}"))
    if durable != "no" and place.kind != "file":
        problem = f"durable={durable!r} needs a file, and {place.name!r} is in memory, which ends with the machine"
        raise ValueError(describe("share", problem, hint="pass the path of a file on a disk: '/data/run7.svs'"))


def checksum(content: Any, version: int) -> int:
    """The checksum of the bytes of a slot that has a version; never 0."""
    return xxhash.xxh3_64_intdigest(content, seed=version) or 1


def synced(slot: int, version: int) -> int:
    """The word of a record for a generation."""
    return slot + 1 << 48 | version


def begin(head: memoryview, pool: str) -> None:
    """Writes what the header of a new pool says of its first generation."""
    head[DURABLE], head[BOOT] = sealed_offset(0, int(pool, 16)), _boot()


def flush(opened: Opened) -> None:
    """Returns when everything that was stored in the file is on the disk."""
    os.fdatasync(opened.claims.fd)


def sync(pool: Pool) -> None:
    """Returns when the values of this moment, or later ones, are on the disk: all of one moment.

    Raises:
        SharedError: the pool was made without it, or is damaged.
        StorageError: the disk reports an error.
        ConflictError: other processes write so often that there is no moment without a write.
    """
    if pool.durable == "no":
        if pool.place.kind != "file":
            return  # it survives every process, and nothing in memory survives the machine
        hint = "share the model in a file: sv.share(model, '/data/run7.svs', durable='sync')"
        raise SharedError.of("sync", f"{pool.name!r} was shared without durable=, and cannot be synced", hint=hint)
    with pool.opened.syncing():
        pool.refresh()
        entries: list[Entry] = list(pool.siblings.by_number)
        generation = _generation(pool)
        now, following = SYNCED + generation % 2, SYNCED + (generation + 1) % 2
        if not any(each.words[following] or each.words[now] != _synced_now(each) for each in entries):
            return  # whoever was here before has done it
        if any(each.words[following] for each in entries):  # a sync was killed, perhaps before its last flush
            _flush(pool)
        _at_one_moment(pool, entries, following)
        for each in entries:
            if each.words[following] != each.words[now]:
                _sum(each, each.words[following])
        _flush(pool)
        pool._head[DURABLE] = sealed_offset((generation + 1) * _UNIT, pool._salt)
        _flush(pool)
        for each in entries:
            each.words[now] = 0  # its slot may be used again


def _flush(pool: Pool) -> None:
    try:
        flush(pool.opened)
    except OSError as error:
        problem = f"the values are written, and the disk does not keep them ({error.strerror})"
        raise storage_error(
            "sync", problem, pool.name, "save the state elsewhere: sv.save", error.errno or 5
        ) from error


def _generation(pool: Pool) -> int:
    offset = open_offset(pool._head[DURABLE], pool._salt)
    if offset is None:
        raise damaged(pool.name, "the number of the last sync is unreadable")
    return offset // _UNIT


def _synced_now(entry: Entry) -> int:
    word = entry.word()
    return synced(word >> 48, word & VERSION)


def _at_one_moment(pool: Pool, entries: Sequence[Entry], following: int) -> None:
    """Notes the current value of each record, so that its slot is kept, until all are of one moment."""
    end, nap = time.monotonic() + _PATIENCE, 0.0
    while True:
        for each in entries:
            each.words[following] = _synced_now(each)
        fence()
        if all(each.words[following] == _synced_now(each) for each in entries):
            return
        if time.monotonic() > end:
            problem = f"the variables of {pool.name!r} are written all the time, so that no moment is whole"
            raise ConflictError.of("sync", problem, hint="sync while fewer processes write")
        time.sleep(nap)
        nap = min(nap + 1e-5, 1e-3)


def _sum(entry: Entry, word: int) -> None:
    slot, version = (word >> 48) - 1, word & VERSION
    content = _content(entry, slot)
    if entry.stamped(slot) != version:
        raise entry.damaged(f"slot {slot} is not of the version {version}, which is current")
    entry.words[SUMS + slot] = checksum(content, version)


def _content(entry: Entry, slot: int) -> Any:
    return entry.slot(slot)[1].reshape(-1).view(np.uint8).data if entry.nbytes else b""


# -- after a start of the machine ----------------------------------------------------------------------------------


def _boot() -> int:
    """A number of this start of the machine."""
    try:
        return xxhash.xxh3_64_intdigest(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    except OSError:
        return 1


def recover(pool: Pool) -> None:
    """Goes back to the last generation, if the machine has been started since the pool was last opened.

    Raises:
        SharedError: a variable has no whole value.
    """
    if pool.durable == "no" or pool._head[BOOT] == _boot():
        return
    with pool.opened.growing():
        if pool._head[BOOT] == _boot():
            return
        generation = _generation(pool)
        found = [(each, *_last_whole(each, generation)) for each in pool.siblings.by_number]
        problems = [problem for entry, slot, version, bad in found if (problem := _lost(entry, version, bad))]
        for entry, slot, version, _ in found:
            _go_back(entry, slot, version)
        pool._head[BOOT] = _boot()
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        text = f"the machine has stopped before the last values were synced: {'; '.join(problems[:3])}{more}"
        hint = "call v.sync() after what must not be lost"
        warnings.warn(describe("attach", text, pool.name, hint), StateWarning, 4)


def _last_whole(entry: Entry, generation: int) -> tuple[int, int, bool]:
    """The slot and version of the last generation, and whether it is damaged, so that this is an older value."""
    words = entry.words
    noted = [words[SYNCED + (generation + each) % 2] for each in (0, 1)]
    candidates = [((word >> 48) - 1, word & VERSION) for word in noted if 0 < word >> 48 <= SLOTS]
    stamped = [(entry.stamped(slot), slot) for slot in range(SLOTS)]
    candidates += [(slot, version) for version, slot in sorted(stamped, reverse=True) if version >= 0]
    wanted = noted[0]
    for slot, version in candidates:
        if _is_whole(entry, slot, version):
            return slot, version, synced(slot, version) != wanted
    raise damaged(entry.opened.name, f"no value of {entry.path!r} is whole since the machine has stopped")


def _is_whole(entry: Entry, slot: int, version: int) -> bool:
    try:
        content = _content(entry, slot)
    except SharedError:
        return False
    return entry.stamped(slot) == version and entry.words[SUMS + slot] == checksum(content, version)


def _lost(entry: Entry, version: int, is_older: bool) -> str:
    newest = entry.words[CURRENT] & VERSION
    if newest == version and not is_older:
        return ""
    why = "the synced value is damaged, and " if is_older else f"version {newest} was not, and "
    return f"of {entry.path!r} {why}version {version} is used"


def _go_back(entry: Entry, slot: int, version: int) -> None:
    """Makes a value the current one. Of all else that is in the record, the disk may have anything."""
    words, size = entry.words, entry.opened.size()
    for each in range(SLOTS):
        if each != slot:
            words[VERSIONS + each] = DIRTY
            offset = open_offset(words[OFFSETS + each], entry.salts[each])
            if offset is None or offset + entry.nbytes > size:
                words[OFFSETS + each] = 0
                words[VERSIONS + each] = UNMADE
    entry.forget_transactions()
    for each in (WRITING, OWNER, WAITERS, WAITS_FOR, *range(LOG, len(words))):
        words[each] = 0
    words[SYNCED] = words[SYNCED + 1] = synced(slot, version)
    words[CURRENT] = slot << 48 | version
