"""Whether a process has written to memory that is its own as soon as it is written, as the kernel knows it."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct

__all__ = ["is_written"]

# ``struct pm_scan_arg`` of <linux/fs.h>, and the ioctl that takes it (Linux 6.7).
_QUESTION = struct.Struct("12Q")
_SCAN = 0xC0606610
_OF_FILE, _PRESENT, _SWAPPED = 1 << 2, 1 << 3, 1 << 4

_found = (ctypes.c_uint64 * 3)()  # where the kernel says which pages; we ask only whether there is one
_file: int | None = None  # a descriptor; -1 if the kernel does not tell


def is_written(address: int, nbytes: int) -> bool:
    """Whether a page of a private mapping of a file is a copy that a write has made. True if nobody can tell."""
    fd = _file if _file is not None else _opened()
    if fd < 0:
        return True
    question = _QUESTION.pack(
        *(_QUESTION.size, 0, address, address + nbytes, 0, ctypes.addressof(_found), 1, 1),
        *(_OF_FILE, _OF_FILE, _PRESENT | _SWAPPED, _OF_FILE),  # a page that is there, and not of the file
    )
    try:
        found: int = fcntl.ioctl(fd, _SCAN, bytearray(question))  # of bytes it would return bytes
    except OSError:
        return True
    return found != 0


def _opened() -> int:
    global _file  # noqa: PLW0603  # opened once
    try:
        _file = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # some containers have no such file
        _file = -1
    return _file


def _forget() -> None:
    """In a child: the file tells of the memory of the process that has opened it."""
    global _file
    fd, _file = _file, None
    if fd is not None and fd >= 0:
        os.close(fd)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
