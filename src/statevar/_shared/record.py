"""One variable of an open pool: how it is read and written."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays.types import HostArray
from ..errors import ConflictError
from . import claims
from .claims import Claim
from .commit import Fill, Prepared, filled, publish
from .entry import Entry, barrier
from .layout import CURRENT, TRANSACTION, VERSION, VERSIONS, WAITERS, WAITS_FOR, WRITING
from .leases import leased
from .memory import is_locked
from .waiting import wait_for

__all__ = ["Record"]

# See `Record.is_kept`; in bytes.
_KEPT = 1024


class Record(Entry):
    """One variable of an open pool.

    Attributes:
        pool: where it is.
        path: its path there.
        facts: what the caller of `Pool.create` or `Pool.add` had to say of it.
        index: its number in the pool.
    """

    pool: Any

    def __init__(self, pool: Any, index: int, at: int, meta: dict[str, Any]) -> None:
        super().__init__(pool.opened, pool.siblings, index, at, meta, pool.id)
        self.pool = pool
        #: Whether the value is so small that a copy of it may be kept as long as the version is the same.
        self.is_kept = self.nbytes <= _KEPT
        self._copied: tuple[int, tuple[HostArray, int] | None] = -1, None
        self._leased: tuple[int, Any] = -1, None

    def read(self) -> tuple[HostArray, int]:
        """The value and its version. The array is read-only, never changes, and cannot be made writable.

        A value of less than 64 kB is copied. A larger one is not: the array is on the memory of all processes, and no
        writer uses that memory again until the last array, view or tensor on it is gone. Code that writes the memory
        all the same changes pages of its own process only.

        Raises:
            SharedError: the record is damaged.
        """
        words = self.words
        if words[TRANSACTION] == self.quiet:
            word, result = self._copied
            if word == words[CURRENT] and result is not None:
                return result
        return self._copy() if self.is_small else self._lease()

    def read_own(self, *, writable: bool = True) -> tuple[HostArray, int]:
        """The value and its version, in memory that no other array of this process is on."""
        if not self.is_small:
            try:
                word, array = leased(self, writable=writable)
                return array, word & VERSION
            except OSError:  # as in `_lease`
                pass
        array, version = self.read() if self.is_small and writable else self._copy()
        return (array.copy() if writable else array), version

    def _copy(self) -> tuple[HostArray, int]:
        words = self.words
        while True:
            word = self.word()
            slot, version = word >> 48, word & VERSION
            source = self.slot(slot)[1]
            barrier()
            # The base of the array is an object that cannot change, so NumPy refuses to make it writable.
            array: HostArray = np.ndarray(self.shape, self.dtype, source.tobytes())
            barrier()
            stamp = words[VERSIONS + slot]
            if stamp >> 16 == version:
                result = array, version
                if self.is_kept:
                    self._copied = word, result
                return result
            if self.word() == word:  # a slot is only written while it is not current
                raise self.damaged(f"slot {slot} is not of the version {version}, which is current")

    def _lease(self) -> tuple[HostArray, int]:
        word, found = self._leased
        if found is not None and word == self.word():
            array = found()
            if array is not None:
                return array, word & VERSION
        try:
            word, array = leased(self)
        except OSError:  # the kernel gives no more mappings or locks to this process, which has ten thousands
            return self._copy()
        self._leased = word, weakref.ref(array)
        return array, word & VERSION

    def claim(self, operation: str, path: str, *, others: Sequence[Record] = ()) -> Claim:
        """Claims the right to write it; waits for another process that has it, and holds no lock of Python meanwhile.

        A claim of this process that was not released ends: the caller sees to it that its own threads take turns.

        Args:
            operation, path: for errors.
            others: the records that the same holder has claimed already.

        Raises:
            ConflictError: a process waits for one of ``others`` while it has this one: it would be a deadlock.
            SharedError: the record is damaged.
        """
        return claims.claim(self, operation, path, others)

    def claim_if_free(self) -> Claim | None:
        """Claims it if no other process has it."""
        return claims.claim_if_free(self)

    def holder(self) -> tuple[int, float] | None:
        """The process that has the claim, and for how many seconds; None if nobody has it."""
        return claims.holder(self)

    def circle(self, held: Sequence[Record]) -> object:
        """Notes that the owner of ``held`` waits for a thread of its process that waits for this record.

        Returns:
            The way by which the owner of this record waits for one of ``held``, to be compared with that of the next
            call; None if it does not.
        """
        return claims.circle(self, held)

    def waits_no_longer(self) -> None:
        """Takes back what `circle` has noted in this record, which is one of ``held``."""
        self.words[WAITS_FOR] = 0

    def conflict(self, operation: str, path: str) -> ConflictError:
        """The error for a wait that would be for ever, since it is in such a circle."""
        return claims.conflict(self, operation, path)

    def is_committing(self) -> bool:
        """Whether another process, which is alive, has begun a write of it and has not finished."""
        words = self.words
        return bool(words[WRITING] or words[TRANSACTION] != self.quiet) and is_locked(
            self.opened.claims.fd, self.claim_lock
        )

    def write(self, claim: Claim, fill: Fill, rows: tuple[int, int] | None = None) -> int:
        """Writes a value; returns its version, which is the one before plus one.

        Whoever reads meanwhile gets the value before. If ``fill`` raises, or this process is killed, nothing has
        happened.

        Args:
            fill: ``fill(old, new)`` gets the current value, read-only, and an array that nobody reads. If ``rows`` is
                None the array has any content and ``fill`` writes all of it.
            rows: ``(start, end)``: the array has the current value, and ``fill`` changes only ``new[start:end]``.

        Raises:
            ConflictError: the claim is not valid, or all slots are being read.
            StorageError: there is no room for a further slot.
        """
        word = filled(self, claim, fill, None, rows)
        publish(self, word)
        if self.pool.durable == "commit":
            self.pool.sync()
        return word & VERSION

    def prepare(self, claim: Claim, fill: Fill, version: int, rows: tuple[int, int] | None = None) -> Prepared:
        """Writes a value without committing it, for `commit` of several. The version must be after the current one."""
        return Prepared(self, claim, filled(self, claim, fill, version, rows))

    def wait(self, version: int, timeout: float | None) -> bool:
        """Waits until it has at least a version, by whichever process writes it; returns whether it has.

        Args:
            version: to wait for.
            timeout: seconds, or None.

        Raises:
            SharedError: the record is damaged.
        """
        return wait_for(lambda: self.version >= version, self.words, WAITERS, self.address, timeout)
