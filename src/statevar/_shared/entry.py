"""A record in memory: its words, its slots, and the one word that says which value is current."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .._arrays.dtypes import STORED
from .._arrays.types import HostArray
from ..errors import ConflictError, SharedError
from . import layout
from .layout import (
    CHECK,
    CURRENT,
    DECIDED,
    DIRTY,
    FIRST,
    NEXT,
    OFFSETS,
    PAGE,
    RECORD,
    SLOTS,
    SMALL,
    SYNCED,
    TRANSACTION,
    UNMADE,
    VERSION,
    VERSIONS,
    damaged,
    new_transaction,
    open_offset,
    pending_check,
    quiet_of,
    rounded,
    salts_of,
    sealed_offset,
    stamp_of,
)
from .memory import is_locked, lock_of, unlock_of, words_of
from .opened import CLAIMS, LEASES, LEASES_OF_A_SLOT, Opened
from .waiting import fence

__all__ = ["Entry", "Siblings", "barrier"]


def barrier() -> None:
    """Keeps the processor from moving loads over loads and stores over stores. On x86-64 it never does."""
    if layout.WEAK:
        fence()


class Siblings:
    """The records of a pool by number, as far as this process knows them, and where the newest block of them ends."""

    def __init__(self, refresh: Callable[[], object]) -> None:
        self.by_number: list[Entry] = []
        self.end = PAGE
        self.refresh = refresh

    def numbered(self, number: int) -> Entry | None:
        """A record that perhaps another process has added; None if there is none with this number."""
        if number >= len(self.by_number):
            self.refresh()
        return self.by_number[number] if number < len(self.by_number) else None

    def used(self) -> int:
        """Where the file is free. What a process had begun there when it was killed is overwritten."""
        self.refresh()
        return rounded(max([self.end, *(end for each in self.by_number for end in each.ends())]))


class Entry:
    """What all that is done with a record needs.

    Attributes:
        words: its 128 words in the memory of all processes.
        pool: where it is.
    """

    #: The id of the pool and the number in it: the order in which holders claim several.
    key: tuple[str, int]
    pool: Any

    def __init__(
        self, opened: Opened, siblings: Siblings, index: int, at: int, meta: dict[str, Any], pool: str
    ) -> None:
        self.opened, self.siblings, self.index = opened, siblings, index
        self.path: str = meta["path"]
        self.shape: tuple[int, ...] = tuple(meta["shape"])
        self.dtype_name: str = meta["dtype"]
        self.dtype: np.dtype[Any] = np.dtype(STORED[self.dtype_name])
        self.facts: dict[str, Any] = meta["facts"]
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self.is_small = self.nbytes < SMALL
        self.stride = stride_of(self.nbytes)
        array, start, self.address = opened.view(at, RECORD)  # of the first word
        self.words = words_of(array, start, RECORD)
        self.key = pool, index
        self.salts = salts_of(pool, index)
        #: The word TRANSACTION while there is none.
        self.quiet = quiet_of(pool, index)
        #: The arrays of the slots that were used already: see `slot`.
        self.slots: list[tuple[HostArray, HostArray, int] | None] = [None] * SLOTS
        self.claim_lock, self.claim_unlock = lock_of(CLAIMS + index), unlock_of(CLAIMS + index)
        #: The number of the claim that this process has; of claims that begin and end in several threads, of the last.
        self.owner: int | None = None
        self.turn = threading.RLock()  # reentrant, since a finalizer may release a claim
        #: Of a transaction whose commit has begun and not ended: the entries, and the numbers of their claims.
        self.together: Sequence[tuple[Entry, int]] = ()

    # Slots

    def stamp(self, slot: int, version: int) -> int:
        """The word of a slot that has a version."""
        return stamp_of(version, self.salts[slot])

    def stamped(self, slot: int) -> int:
        """The version of a slot; -1 if it is being written, was left half-written, or its word is damaged."""
        word = self.words[VERSIONS + slot]
        version = word >> 16
        return version if word < UNMADE and word == self.stamp(slot, version) else -1

    def slot(self, slot: int) -> tuple[HostArray, HostArray, int]:
        """An array on a slot, a read-only one, and the address.

        Raises:
            SharedError: the word that says where it lies is damaged.
        """
        found = self.slots[slot] if slot < SLOTS else None
        if found is not None:
            return found
        word = self.words[OFFSETS + slot] if slot < SLOTS else 0
        offset = open_offset(word, self.salts[slot]) if word else None
        if offset is None or not offset >= PAGE:
            raise self.damaged(f"slot {slot} cannot be found")
        memory, at, address = self.opened.view(offset, max(self.nbytes, 1))
        array: HostArray = np.ndarray(self.shape, self.dtype, memory, at)
        reading = array.view()
        reading.flags.writeable = False
        found = self.slots[slot] = array, reading, address
        return found

    def place_slot(self, slot: int, offset: int) -> None:
        self.words[OFFSETS + slot] = sealed_offset(offset, self.salts[slot])

    def ends(self) -> list[int]:
        """Where the slots that were made end in the file."""
        found = []
        for slot, word in enumerate(self.words[OFFSETS : OFFSETS + SLOTS]):
            offset = open_offset(word, self.salts[slot]) if word else 0
            if offset is None:
                raise self.damaged(f"slot {slot} cannot be found")
            found.append(offset + self.stride if word else 0)
        return found

    def is_leased(self, slot: int) -> bool:
        """Whether somebody reads a slot of a large value without having copied it, in this process or another."""
        start = LEASES + (self.index * SLOTS + slot) * LEASES_OF_A_SLOT
        return is_locked(self.opened.claims.fd, lock_of(start, LEASES_OF_A_SLOT))

    def free_slot(self, current: int) -> int:
        """A slot that nobody reads. Makes one if there is none; our caller has the claim.

        Raises:
            ConflictError: as many old values as there are slots are being read.
            StorageError: there is no room for a further slot.
        """
        words = self.words
        following = (current + 1) % SLOTS
        is_synced = words[SYNCED] or words[SYNCED + 1]
        if self.is_small and not is_synced and words[OFFSETS + following]:
            return following  # the one that is out of use longest: whoever copies it now has the time of some writes
        made = words[OFFSETS : OFFSETS + SLOTS]
        kept: tuple[int, int] = (words[SYNCED] >> 48) - 1, (words[SYNCED + 1] >> 48) - 1  # what is on the disk
        if self.is_small:
            for slot in [*range(current + 1, SLOTS), *range(current)]:
                if made[slot] and slot not in kept:
                    return int(slot)
        free = [slot for slot in range(SLOTS) if made[slot] and slot != current and slot not in kept]
        free.sort(key=self.stamped, reverse=True)  # the least has to be copied into the newest
        for slot in free:
            if self.is_small or not self.is_leased(slot):
                return slot
        for slot in range(SLOTS):
            if not made[slot] and slot != current:
                if words[VERSIONS + slot] != UNMADE:  # others may have found it already
                    raise self.damaged(f"slot {slot} cannot be found")
                self._make(slot)
                return slot
        gc.collect()  # a circle of garbage may have the arrays, such as the drafts of an interrupted transaction
        for slot in free:
            if not self.is_leased(slot):
                return slot
        raise ConflictError.of(
            "assign",
            f"{SLOTS - 1} older values of it are still being read without a copy",
            self.path,
            "copy what you keep (np.array(v.value)), or drop it before more is written",
        )

    def _make(self, slot: int) -> None:
        opened = self.opened
        with opened.growing():
            offset = self.siblings.used()
            opened.place.grow(opened.claims.fd, offset, self.stride)
            self.place_slot(slot, offset)
            self.words[VERSIONS + slot] = DIRTY

    # The current value

    def word(self) -> int:
        """The word of the current value: ``slot << 48 | version``. A transaction that was decided counts."""
        words = self.words
        while (transaction := words[TRANSACTION]) != self.quiet:
            current, first, following, check = words[CURRENT], words[FIRST], words[NEXT], words[CHECK]
            barrier()
            if words[TRANSACTION] != transaction or words[CURRENT] != current:
                continue
            if check != pending_check(transaction, first, following):
                if words[TRANSACTION] == transaction and words[CHECK] == check:
                    raise self.damaged("a transaction that has prepared a write of it is unreadable")
                continue
            decided = self._decided(first)
            barrier()
            if words[TRANSACTION] == transaction and words[CURRENT] == current:
                return following if decided == transaction else current
        return int(words[CURRENT])

    def _decided(self, number: int) -> int:
        """The transaction that was decided last at the record with a number."""
        sibling = self.siblings.numbered(number)
        if sibling is None:
            raise self.damaged(f"a transaction names record {number}, which there is not")
        decided: int = sibling.words[DECIDED]
        if not layout.is_transaction(decided, sibling.salts[0]):
            raise self.damaged("the transaction that was decided last is unreadable")
        return decided

    @property
    def version(self) -> int:
        """The version that is committed now, by whichever process."""
        words = self.words
        return int((words[CURRENT] if words[TRANSACTION] == self.quiet else self.word()) & VERSION)

    def forget_transactions(self) -> None:
        """Makes the words of transactions those of a new record."""
        self.words[TRANSACTION], self.words[DECIDED] = self.quiet, new_transaction(self.salts[0])

    def damaged(self, problem: str) -> SharedError:
        return damaged(self.opened.name, f"{problem}, of {self.path!r}")


def stride_of(nbytes: int) -> int:
    """The bytes between slots. Large ones begin with a page, so that readers can share them with no one."""
    return rounded(nbytes, 64 if nbytes < SMALL else PAGE)
