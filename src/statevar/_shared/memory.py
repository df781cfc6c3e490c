"""A file in memory, and the open descriptions that the kernel's locks belong to.

A lock of the kernel belongs to an *open file description*: it is dropped when every descriptor of it is closed, in
every process. `mmap.mmap` keeps a descriptor of its own, and so would keep locks alive; the memory here is mapped by
the C library, which keeps none.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import mmap
import os
import struct
from typing import Any

import numpy as np

from .._arrays.types import HostArray
from .room import storage_error

__all__ = ["Description", "Mapped", "is_locked", "lock_of", "unlock_of", "words_of"]

_FLOCK = struct.Struct("hhqqi4x")
_kernel = ctypes.CDLL(None, use_errno=True)
_mmap = _kernel.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_munmap = _kernel.munmap
_munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_READ_AND_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
_FAILED = ctypes.c_void_p(-1).value


def lock_of(offset: int, length: int = 1, *, shared: bool = False) -> bytes:
    """The argument of ``fcntl`` for a lock of bytes, which need not be in the file."""
    return _FLOCK.pack(fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, offset, length, 0)


def unlock_of(offset: int, length: int = 1) -> bytes:
    """The argument of ``fcntl`` that drops a lock of bytes."""
    return _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, offset, length, 0)


def words_of(array: HostArray, at: int, nbytes: int) -> memoryview:
    """A part of an array of bytes as words of 8 bytes, of which each is read and written at once."""
    buffer: Any = array
    return memoryview(buffer)[at : at + nbytes].cast("Q")


def is_locked(fd: int, lock: bytes) -> bool:
    """Whether another description than that of ``fd`` has a lock that excludes this one."""
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


class Description:
    """An open file description of ours, closed with the last that uses it.

    Attributes:
        fd: its descriptor.
        inherited: whether a fork has given it to another process too, so that no lock in it may be dropped by hand:
            the other process may still need it. The kernel drops all of them when both have closed it.
        numbers: counts what is locked in it.
    """

    __slots__ = ("__weakref__", "fd", "inherited", "numbers")

    def __init__(self, fd: int) -> None:
        self.fd, self.inherited, self.numbers = fd, False, itertools.count()

    @classmethod
    def again(cls, fd: int) -> Description:
        """A new description of the file that ``fd`` is open on, also where the file has lost its name."""
        return cls(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC))

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class Mapped:
    """A part of a file in memory, for as long as an array on it lives.

    Args:
        own: what is written to the memory stays in this process: the kernel copies each page that is written. What is
            only read takes no memory, since all processes have the pages of the file.
    """

    __slots__ = ("__weakref__", "address", "size")

    def __init__(self, fd: int, offset: int, size: int, *, own: bool = False) -> None:
        address = _mmap(None, size, _READ_AND_WRITE, mmap.MAP_PRIVATE if own else mmap.MAP_SHARED, fd, offset)
        if address is None or address == _FAILED:
            code = ctypes.get_errno()
            problem = f"the system does not map {size:,} bytes of memory ({os.strerror(code)})"
            hint = "look at the limits of the process (ulimit -v) and of its mappings (sysctl vm.max_map_count)"
            raise storage_error("map", problem, "", hint, code)
        self.address: int = address
        self.size = size

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"version": 3, "shape": (self.size,), "typestr": "|u1", "data": (self.address, False)}

    def bytes(self) -> HostArray:
        """All of it as an array of bytes, which keeps it mapped."""
        return np.asarray(self)

    def __del__(self, unmap: Any = _munmap) -> None:
        if size := getattr(self, "size", 0):  # an interrupt may have come before it has one
            unmap(self.address, size)
