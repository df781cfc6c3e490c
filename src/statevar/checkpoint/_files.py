"""Every file operation that persistence does: the one place where a disk can fail, and where tests make it fail.

The others call these functions through this module (``_files.write(…)``), so that a test replaces them there.
"""

from __future__ import annotations

import errno
import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointNotFoundError, StatevarError, StorageError, describe

try:
    import fcntl

    _missing = []
except ImportError:  # Windows
    _missing = ["fcntl"]

__all__ = [
    "close",
    "create",
    "identity",
    "link",
    "lock",
    "make_folder",
    "names",
    "open_file",
    "os_errors_as",
    "place_of",
    "read",
    "remove",
    "remove_folder",
    "rename",
    "require_posix",
    "size",
    "storage_error",
    "sync",
    "sync_folder",
    "wait_for",
    "write",
]

#: What a save needs, and this system does not have.
_missing += [f"os.{name}" for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NONBLOCK", "pwritev") if not hasattr(os, name)]
_HAS_PREADV = hasattr(os, "preadv")
_one_reader = threading.Lock()
#: Windows has none of the first two, and changes line ends without the third.
_READ_ONLY = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


def require_posix(operation: str, path: Any) -> None:
    """Raises StorageError where the system cannot lock a file, or write it as a save must. Reading needs neither."""
    if _missing:
        error = StorageError.of(
            operation,
            f"checkpoints can be saved on POSIX systems only: {platform.system()} lacks {', '.join(_missing)}",
            str(path),
            "save on Linux or macOS, or store the values with numpy.savez; sv.load and sv.verify work here",
        )
        error.errno, error.strerror, error.filename = errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(path)
        raise error


def create(path: Path) -> int:
    """A new file that did not exist, to write; its mode is what the user's umask leaves."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)


def open_file(path: Path) -> int:
    """A file that exists, to read and to lock. A pipe has no bytes: nobody waits for its writer."""
    return os.open(path, _READ_ONLY)


def write(file: int, buffers: Sequence[Any], offset: int) -> int:
    """Writes as much as the system takes at once; returns how many bytes."""
    return os.pwritev(file, buffers, offset)


def read(file: int, buffers: Sequence[Any], offset: int) -> int:
    """Reads as much as the system gives at once; 0 at the end of the file."""
    if _HAS_PREADV:
        return os.preadv(file, buffers, offset)
    with _one_reader:  # the offset belongs to the file, and several threads read it
        os.lseek(file, offset, os.SEEK_SET)
        content = os.read(file, len(buffers[0]))
    buffers[0][: len(content)] = content
    return len(content)


def size(file: int) -> int:
    """In bytes."""
    return os.fstat(file).st_size


def sync(file: int) -> None:
    """Returns once the file's bytes are on the disk."""
    os.fsync(file)


def sync_folder(folder: Path) -> None:
    """Returns once the names in the folder are on the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def rename(source: Path, target: Path) -> None:
    """Puts a file or folder in the place of another, in one step."""
    source.replace(target)


def link(source: Path, target: Path) -> None:
    """A second name for a file."""
    target.hardlink_to(source)


def remove(path: Path) -> None:
    path.unlink()


def make_folder(path: Path) -> None:
    path.mkdir()


def remove_folder(path: Path) -> None:
    """An empty one."""
    path.rmdir()


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return [path.name for path in folder.iterdir()]


def lock(file: int) -> bool:
    """Whether the file is now ours alone. The system lets it go when we die."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(file: int, seconds: float) -> bool:
    """As `lock`, but tries for so long."""
    end = time.monotonic() + seconds
    while not lock(file):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def close(file: int) -> None:
    os.close(file)


def identity(file: int) -> tuple[int, int]:
    """Which file it is, whatever its name."""
    status = os.fstat(file)
    return status.st_dev, status.st_ino


def place_of(path: Path) -> tuple[int, int] | None:
    """Which file has this name now."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def os_errors_as(operation: str, path: Any, hint: str = "") -> Iterator[None]:
    """Tells of a system error as ours, with what was attempted and where.

    Raises:
        CheckpointNotFoundError: there is no such file or folder.
        StorageError: the system refused anything else.
    """
    try:
        yield
    except StatevarError:
        raise
    except OSError as error:
        raise storage_error(operation, path, error, hint) from error


def storage_error(operation: str, path: Any, error: OSError, hint: str = "") -> StorageError:
    """Our error for one of the system's."""
    error_type = CheckpointNotFoundError if isinstance(error, FileNotFoundError) else StorageError
    ours = error_type(describe(operation, f"the system said {error.strerror or repr(error)}", str(path), hint))
    ours.errno, ours.strerror, ours.filename = error.errno, error.strerror, os.fspath(path)
    return ours
