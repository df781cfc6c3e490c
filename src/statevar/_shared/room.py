"""Room for shared variables: asked for before anything is written, so that a lack of it is an error and no signal.

A page of a memory-mapped file for which there is no room ends the process with a bus error, and memory that a control
group does not grant ends it by the kernel's killer. So bytes are allocated when a file is made or grows, and only after
a look at the memory that is free.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from ..errors import StorageError

__all__ = ["descriptors", "file_system", "is_memory", "memory_available", "reserve", "storage_error"]

#: Where the kernel shows itself. Tests replace them.
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")

#: File systems that are made of memory: tmpfs, which is also what a memfd is on, and ramfs.
_OF_MEMORY = {0x01021994, 0x858458F6}
#: The rest is left to the program, and to whatever else runs: 1 / 16.
_LEFT = 16
#: A control group without a limit has a number close to the largest.
_UNLIMITED = 1 << 60


def file_system(fd: int) -> int:
    """The number of the type of the file system that a file is on, which only `fstatfs` tells."""
    # The type is the first field: a long, except that s390x has 32 bits there. The whole is never 512 bytes long.
    buffer = (ctypes.c_ubyte * 512)()
    if _libc().fstatfs(fd, ctypes.byref(buffer)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    first = ctypes.c_uint32 if os.uname().machine == "s390x" else ctypes.c_ulong
    return first.from_buffer(buffer).value & 0xFFFFFFFF


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def is_memory(fd: int) -> bool:
    """Whether the bytes of a file are memory."""
    return file_system(fd) in _OF_MEMORY


def memory_available() -> int | None:
    """The bytes of memory that this process may still take, by the kernel and by its control groups; None: unknown."""
    found = [*_of_the_machine(), *_of_cgroup_2(), *_of_cgroup_1()]
    return max(0, min(found)) if found else None


def _of_the_machine() -> Iterator[int]:
    for line in _lines(PROC / "meminfo"):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _of_cgroup_2() -> Iterator[int]:
    for folder in _groups("", (CGROUPS, CGROUPS / "unified")):
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is not None and used is not None and limit < _UNLIMITED:
            yield limit - used + _reclaimable(folder, "inactive_file")


def _of_cgroup_1() -> Iterator[int]:
    for folder in _groups("memory", (CGROUPS / "memory",)):
        limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
        if limit is not None and used is not None and limit < _UNLIMITED:
            yield limit - used + _reclaimable(folder, "total_inactive_file")


def _groups(controller: str, roots: tuple[Path, ...]) -> Iterator[Path]:
    """The folders of the control group of this process and of those that it is in, as far as they are visible here.

    In a container the group's path may be that of the host, which is not there: its root is the container's own group.
    """
    for line in _lines(PROC / "self" / "cgroup"):
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            for root in roots:
                folder = root / path.strip("/")
                for each in (folder, *folder.parents):
                    yield each
                    if each == root:
                        break


def _reclaimable(folder: Path, name: str) -> int:
    """Bytes of files that the kernel keeps in memory, and drops when it needs room."""
    for line in _lines(folder / "memory.stat"):
        key, _, number = line.partition(" ")
        if key == name:
            return int(number)
    return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """The number in a file; None if it is not there, or says "max"."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None


def reserve(fd: int, offset: int, nbytes: int, *, operation: str, name: str, folder: str) -> None:
    """Allocates bytes of a file for good.

    Args:
        fd: a file that is open for writing.
        offset: where they begin. A file that ends before ``offset + nbytes`` grows.
        nbytes: how many.
        operation: what needs them, for the error.
        name: the pool, for the error.
        folder: where the file is, for the error.

    Raises:
        StorageError: there is no room.
    """
    if nbytes <= 0:
        return
    if is_memory(fd):
        available = memory_available()
        if available is not None and nbytes > available - available // _LEFT:
            problem = f"{nbytes:,} bytes of memory are needed, and this process can have {available:,}"
            hint = (
                "share fewer or smaller variables, raise the limit of memory of the container, or keep them in a file"
            )
            raise storage_error(operation, problem, name, f"{hint} on a disk: '/data/run7.svs'", errno.ENOMEM)
    try:
        os.posix_fallocate(fd, offset, nbytes)
    except OSError as error:
        raise _refused(error, fd, nbytes, operation, name, folder) from error


def _refused(error: OSError, fd: int, nbytes: int, operation: str, name: str, folder: str) -> StorageError:
    number = error.errno or errno.EIO
    if number not in (errno.ENOSPC, errno.EDQUOT):
        hint = "look at the limits of the process (ulimit -f) and at the file system"
        return storage_error(operation, f"{nbytes:,} bytes were refused ({error.strerror})", name, hint, number)
    room = os.fstatvfs(fd)
    free = room.f_bavail * room.f_frsize
    problem = f"{nbytes:,} bytes do not fit in {folder}, which has {free:,} free"
    if not is_memory(fd):
        return storage_error(operation, problem, name, "free some room, or use another disk", number)
    size = room.f_blocks * room.f_frsize + nbytes - free
    mib = -(-size * 5 // 4 >> 20)
    hint = "keep the variables in a file on a disk, '/data/run7.svs', or make the folder larger"
    if folder.startswith("/dev/shm"):  # noqa: S108  # of another file system in memory, only who mounts it knows
        hint += f": mount -o remount,size={mib}M /dev/shm, or docker run --shm-size={mib}m"
    return storage_error(operation, problem, name, hint, number)


@contextmanager
def descriptors(operation: str, name: str) -> Iterator[None]:
    """Code that opens files: says what to do if this process or the system may have no more of them.

    Raises:
        StorageError: so it is.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        problem = f"no further file can be opened ({error.strerror}); a pool that is open takes three"
        hint = "keep the variables in fewer pools, or raise the limit: ulimit -n 4096"
        raise storage_error(operation, problem, name, hint, error.errno) from error


def storage_error(operation: str, problem: str, name: str, hint: str, number: int) -> StorageError:
    """Makes a StorageError that has the number of the system's error."""
    error = StorageError.of(operation, problem, name, hint)
    error.errno, error.strerror = number, os.strerror(number)
    return error
