"""Large values are read without a copy: a lease keeps the slot from being written while somebody has an array on it.

A lease is a read lock of the kernel on a byte of its own. A writer asks for them before it takes a slot, and nobody
waits for one. The kernel drops the leases of a process that has ended, however it ended.
"""

from __future__ import annotations

import fcntl
from typing import Any

import numpy as np

from .._arrays.types import HostArray
from .entry import Entry, barrier
from .layout import SLOTS, VERSION, VERSIONS
from .memory import Description, lock_of, unlock_of
from .opened import LEASES, LEASES_OF_A_SLOT

__all__ = ["leased"]


class Lease:
    """The right to read a slot, which ends when nothing refers to it: it is the base of every array on the slot.

    Its memory is a mapping of its own, in which a write changes nothing but what this process sees. NumPy refuses to
    write a read-only array, but other libraries that take the array write its memory.

    Args:
        writable: what NumPy says of the array.

    Raises:
        OSError: the kernel gives no further mapping to this process; it gives some ten thousand.
    """

    __slots__ = ("__array_interface__", "__weakref__", "_address", "_byte", "_description", "_memory", "_opened")

    def __init__(self, entry: Entry, slot: int, writable: bool) -> None:
        opened = entry.opened
        self._opened, self._address = opened, entry.slot(slot)[2]
        description = opened.leases
        number = next(description.numbers)
        if number >= LEASES_OF_A_SLOT or description.inherited:
            opened.new_leases()
            description = opened.leases
            number = next(description.numbers)
        self._byte = LEASES + (entry.index * SLOTS + slot) * LEASES_OF_A_SLOT + number
        self._description: Description = description
        fcntl.fcntl(description.fd, fcntl.F_OFD_SETLK, lock_of(self._byte, shared=True))
        self._memory = opened.own(self._address, entry.nbytes)
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "shape": entry.shape,
            "typestr": entry.dtype.str if entry.dtype.isbuiltin == 1 else f"|V{entry.dtype.itemsize}",
            "data": (self._memory.address, not writable),
        }

    def __del__(self, fcntl: Any = fcntl.fcntl, drop: int = fcntl.F_OFD_SETLK, unlock: Any = unlock_of) -> None:
        description = getattr(self, "_description", None)
        if description is not None and not description.inherited and description.fd >= 0:
            fcntl(description.fd, drop, unlock(self._byte))
        if (memory := getattr(self, "_memory", None)) is not None:
            self._opened.give_back(self._address, memory)


def leased(entry: Entry, *, writable: bool = False) -> tuple[int, HostArray]:
    """The word of the current value, and an array on its slot that no write to the variable changes.

    Raises:
        SharedError: the record is damaged.
    """
    words = entry.words
    while True:
        word = entry.word()
        slot = word >> 48
        lease = Lease(entry, slot, writable)  # from here on no writer takes the slot, if it is current still
        barrier()
        stamp = words[VERSIONS + slot]
        if entry.word() == word:
            if stamp >> 16 != word & VERSION:
                raise entry.damaged(f"slot {slot} is not of the version {word & VERSION}, which is current")
            array = np.asarray(lease)
            return word, array if array.dtype == entry.dtype else array.view(entry.dtype)
