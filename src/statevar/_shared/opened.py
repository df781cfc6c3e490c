"""The file of a pool, open here: its descriptions, its memory, and the lock for what makes it larger."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

from .._arrays.types import HostArray
from .layout import PAGE, damaged
from .memory import Description, Mapped, lock_of, unlock_of
from .written import is_written

__all__ = ["CLAIMS", "LEASES", "LEASES_OF_A_SLOT", "Opened", "Room"]


class Room(Protocol):
    """The place of a pool, of which a pool needs three calls."""

    name: str

    def create_file(self, size: int) -> tuple[int, Callable[..., None]]: ...
    def open_file(self) -> int: ...
    def grow(self, fd: int, offset: int, nbytes: int) -> None: ...


# The kernel's locks lie behind any file, so that no program which locks what it reads is in their way.
_GROWING = (1 << 60) - 1
_SYNCING = (1 << 60) - 2
#: The byte that is the claim of the record with number 0.
CLAIMS = 1 << 60
#: The first byte that is a lease of the slot with number 0 of the record with number 0. Each lease has a byte of its
#: own, so that the end of one never ends another one.
LEASES = 1 << 61
LEASES_OF_A_SLOT = 1 << 28
# The bytes and the number of the mappings of its own that a process keeps; the kernel gives it some ten thousand.
_SPARE_SIZE, _SPARES = 16 << 20, 1000
# Seconds that a fork waits for a thread which makes the file larger.
_PATIENCE = 5.0


class Opened:
    """The file of a pool that is open in this process.

    Attributes:
        name: what errors call it.
        claims: the description that claims belong to. Each object has its own, so that two exclude each other.
        leases: the description that new leases belong to; another one than that of the claims, so that a claim sees
            the leases of its own process.
        memory: the description through which the file is mapped, and in which nobody locks anything. A mapping keeps
            its description, also in a child that a fork has given it to, and would keep the locks in it.
    """

    def __init__(self, fd: int, place: Room) -> None:
        self.place, self.name = place, place.name
        self.claims = Description(fd)
        self.leases = Description.again(fd)
        self.memory = Description.again(fd)
        self._maps: list[tuple[int, Mapped, HostArray]] = []
        self._spare: dict[int, Mapped] = {}
        self.lock = threading.RLock()
        self._taken = False
        self._syncing = threading.Lock()

    def size(self) -> int:
        return os.fstat(self.claims.fd).st_size

    def view(self, offset: int, nbytes: int) -> tuple[HostArray, int, int]:
        """Memory with a part of the file: an array of bytes, where in it the part begins, and its address.

        Raises:
            SharedError: the part is not in the file.
        """
        with self.lock:
            for start, mapped, array in self._maps:
                if start <= offset and offset + nbytes <= start + mapped.size:
                    return array, offset - start, mapped.address + offset - start
            size = self.size()
            if offset < 0 or offset + nbytes > size:
                raise damaged(self.name, f"{nbytes:,} bytes at {offset:,} are behind its end, at {size:,}")
            start = offset // PAGE * PAGE
            mapped = Mapped(self.memory.fd, start, size - start)
            array = mapped.bytes()
            self._maps.append((start, mapped, array))
            return array, offset - start, mapped.address + offset - start

    def own(self, address: int, nbytes: int) -> Mapped:
        """A part of the file again, which `view` has at an address: what is written there stays in this process.

        The caller alone has it, until he returns it to `give_back`.

        Raises:
            OSError: the kernel gives no more memory to this process.
        """
        found = self._spare.pop(address, None)
        if found is not None and not is_written(found.address, nbytes):
            return found
        start, mapped = next((start, each) for start, each, _ in self._maps if 0 <= address - each.address < each.size)
        return Mapped(self.memory.fd, start + address - mapped.address, nbytes, own=True)

    def give_back(self, address: int, mapped: Mapped) -> None:
        """Keeps what `own` has returned, since its pages need not be found again by who reads them next.

        That saves more than it costs to ask whether it was written, but for a few values of something very large.
        """
        if mapped.size <= _SPARE_SIZE and len(self._spare) < _SPARES:
            self._spare[address] = mapped

    def read(self, offset: int, nbytes: int) -> bytes:
        """A copy of a part of the file."""
        array, at, _ = self.view(offset, nbytes)
        return array[at : at + nbytes].tobytes()

    def growing(self) -> AbstractContextManager[None]:
        """Keeps everybody else from making the file larger."""
        return self._alone(self.lock, _GROWING)

    def syncing(self) -> AbstractContextManager[None]:
        """Keeps everybody else from syncing the file."""
        return self._alone(self._syncing, _SYNCING)

    @contextmanager
    def _alone(self, lock: AbstractContextManager[object], byte: int) -> Iterator[None]:
        """Has a lock of this process and one of the kernel, which ends the second one if this process dies."""
        with lock:
            try:
                fcntl.fcntl(self.claims.fd, fcntl.F_OFD_SETLKW, lock_of(byte))
                yield
            finally:
                fcntl.fcntl(self.claims.fd, fcntl.F_OFD_SETLK, unlock_of(byte))

    def new_leases(self) -> None:
        """Gives new leases a description of their own. The old one is closed with the last lease that it has."""
        self.leases = Description.again(self.claims.fd)

    def before_fork(self) -> None:
        """Leases of now will belong to two processes: neither may drop them for the other."""
        self._taken = self.lock.acquire(timeout=_PATIENCE)
        self.leases.inherited = True

    def in_parent(self) -> None:
        try:
            with suppress(OSError):  # no descriptor is left: the next lease tries again
                self.new_leases()
        finally:
            if self._taken:
                self.lock.release()

    def in_child(self) -> None:
        """No claim of the parent is ours, and none may live longer than it because we have its description open."""
        self.claims.close()  # first, so that there is a descriptor for ours also if the process may have no more
        self.claims = Description.again(self.memory.fd)
        with suppress(OSError):  # as in the parent
            self.new_leases()
        self.lock = threading.RLock()
        self._syncing = threading.Lock()
