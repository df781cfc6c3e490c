"""Every file operation of this package. A disk can fail only here, and tests make it fail here.

The other modules call these functions through this module (``_files.write(…)``), so that a test can replace them.
"""

from __future__ import annotations

import errno
import os
import platform
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
    "attributes",
    "close",
    "create",
    "identity",
    "kind_of_mode",
    "link",
    "lock",
    "make_folder",
    "names",
    "open_file",
    "os_errors_as",
    "path_of",
    "place_of",
    "place_to_save",
    "read",
    "remove",
    "remove_folder",
    "rename",
    "require_posix",
    "set_attributes",
    "size",
    "storage_error",
    "sync",
    "sync_folder",
    "wait_for",
    "write",
]

#: The parts of POSIX that a save needs and this system lacks.
_missing += [f"os.{name}" for name in ("O_CLOEXEC", "O_DIRECTORY", "O_NONBLOCK", "pwritev") if not hasattr(os, name)]
_HAS_PREADV = hasattr(os, "preadv")
_one_reader = threading.Lock()
#: Windows has only the last one, and would translate line ends without it.
_READ_ONLY = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


def require_posix(operation: str, path: Any) -> None:
    """Raises StorageError if the system lacks the parts of POSIX that a save needs. A load needs none of them."""
    if _missing:
        error = StorageError.of(
            operation,
            f"checkpoints can be saved on POSIX systems only: {platform.system()} lacks {', '.join(_missing)}",
            str(path),
            "save on Linux or macOS, or store the values with numpy.savez; sv.load and sv.verify work here",
        )
        error.errno, error.strerror, error.filename = errno.ENOSYS, os.strerror(errno.ENOSYS), os.fspath(path)
        raise error


def path_of(operation: str, path: Any) -> Path:
    """Returns a path that a user has passed: a text, bytes, or an object that is a path.

    Raises:
        TypeError: it is none of them.
    """
    try:
        return Path(os.fsdecode(path))
    except TypeError:
        raise TypeError(describe(operation, f"expected a path, got {type(path).__name__}")) from None


def place_to_save(path: Path) -> Path:
    """Returns the place of the file that a save at a path writes or replaces. Links are followed.

    Raises:
        StorageError: something that is not a file is there.
    """
    place = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return place
    if stat.S_ISREG(mode):
        return place
    if stat.S_ISDIR(mode):
        error = StorageError.of("save", "the path is a folder", str(path), "pass the path of a file in it")
        error.errno = errno.EISDIR
    else:
        problem = f"the path is {kind_of_mode(mode) or 'no file'}, which a save does not replace"
        error = StorageError.of("save", problem, str(path), "pass the path of a file, which need not exist")
        error.errno = errno.EEXIST
    error.strerror, error.filename = os.strerror(error.errno), os.fspath(path)
    raise error


def kind_of_mode(mode: int) -> str | None:
    """The name of what is neither a file nor a folder, by its mode."""
    kinds: tuple[tuple[Callable[[int], bool], str], ...] = (
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), None)


class Attributes:
    """The mode, the owner and the extended attributes of a file."""

    def __init__(self, path: Path) -> None:
        status = path.stat()
        self.mode = stat.S_IMODE(status.st_mode)
        self.owner, self.group = status.st_uid, status.st_gid
        self.extended: dict[str, bytes] = {}
        for name in os.listxattr(path) if hasattr(os, "listxattr") and _keeps_xattrs(path) else ():
            if not name.startswith(_OF_THE_CONTENT):
                with _permitted():
                    self.extended[name] = os.getxattr(path, name)


_OF_THE_CONTENT = ("security.capability", "security.evm", "security.ima")  # of the bytes, which will be others
_ACL = "system.posix_acl_access"


@contextmanager
def _permitted() -> Iterator[None]:
    """Leaves out what the system or the file system does not allow this user."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODATA):
            raise


def _keeps_xattrs(path: Path) -> bool:
    try:
        os.listxattr(path)
    except OSError:
        return False
    return True


def attributes(path: Path) -> Attributes | None:
    """Returns the attributes of a file; None if there is none."""
    try:
        return Attributes(path)
    except FileNotFoundError:
        return None


def set_attributes(file: int, wanted: Attributes) -> None:
    """Gives an open file the attributes of another one, as far as this user may, and never more rights to anybody."""
    status = os.fstat(file)
    mode, extended = wanted.mode, dict(wanted.extended)
    if status.st_gid != wanted.group:
        try:
            os.fchown(file, -1, wanted.group)
        except PermissionError:  # the group is another one: it gets the rights of everybody
            mode = mode & ~0o2070 | (mode & 0o007) << 3 & mode
            extended.pop(_ACL, None)
    if status.st_uid != wanted.owner:
        try:
            os.fchown(file, wanted.owner, -1)
        except PermissionError:
            mode &= ~stat.S_ISUID
    if stat.S_IMODE(os.fstat(file).st_mode) != mode:
        os.fchmod(file, mode)
    for name, value in extended.items():
        with _permitted():
            os.setxattr(file, name, value)


def create(path: Path, mode: int = 0o666) -> int:
    """Creates a file that must not exist, and opens it for writing. Its mode follows the user's umask."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)


def open_file(path: Path) -> int:
    """Opens an existing file for reading and locking. A pipe counts as empty, instead of waiting for its writer."""
    return os.open(path, _READ_ONLY)


def write(file: int, buffers: Sequence[Any], offset: int) -> int:
    """Writes as much as the system takes at once, and returns the number of bytes."""
    return os.pwritev(file, buffers, offset)


def read(file: int, buffers: Sequence[Any], offset: int) -> int:
    """Reads as much as the system gives at once, and returns the number of bytes: 0 at the end of the file."""
    if _HAS_PREADV:
        return os.preadv(file, buffers, offset)
    with _one_reader:  # the offset belongs to the file, and several threads read it
        os.lseek(file, offset, os.SEEK_SET)
        content = os.read(file, len(buffers[0]))
    buffers[0][: len(content)] = content
    return len(content)


def size(file: int) -> int:
    """Returns the size of a file in bytes."""
    return os.fstat(file).st_size


def sync(file: int) -> None:
    """Waits until the bytes of a file are on the disk."""
    os.fsync(file)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def rename(source: Path, target: Path) -> None:
    """Renames a file or folder in one step. An existing target is replaced."""
    source.replace(target)


def link(source: Path, target: Path) -> None:
    """Gives a file a second name."""
    target.hardlink_to(source)


def remove(path: Path) -> None:
    path.unlink()


def make_folder(path: Path) -> None:
    path.mkdir()


def remove_folder(path: Path) -> None:
    """Removes an empty folder."""
    path.rmdir()


def names(folder: Path) -> list[str]:
    """Returns the names in a folder."""
    return [path.name for path in folder.iterdir()]


def lock(file: int) -> bool:
    """Tries to lock a file, and returns whether that worked. The lock ends with the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for(file: int, seconds: float) -> bool:
    """Tries to lock a file for some seconds, and returns whether that worked."""
    end = time.monotonic() + seconds
    while not lock(file):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def close(file: int) -> None:
    os.close(file)


def identity(file: int) -> tuple[int, int]:
    """Returns the device and inode of an open file, which identify it under any name."""
    status = os.fstat(file)
    return status.st_dev, status.st_ino


def place_of(path: Path) -> tuple[int, int] | None:
    """Returns the device and inode of the file that has this path now; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def os_errors_as(operation: str, path: Any, hint: str = "") -> Iterator[None]:
    """Turns system errors in the block into errors of statevar that name the operation and the path.

    Raises:
        CheckpointNotFoundError: the file or folder does not exist.
        StorageError: the system reported another error.
    """
    try:
        yield
    except StatevarError:
        raise
    except OSError as error:
        raise storage_error(operation, path, error, hint) from error
    except ValueError as error:
        if "\0" not in str(path):
            raise
        raise StorageError.of(operation, "a path cannot contain NUL", repr(str(path))) from error


def storage_error(operation: str, path: Any, error: OSError, hint: str = "") -> StorageError:
    """Returns the error of statevar for a system error."""
    error_type = CheckpointNotFoundError if isinstance(error, FileNotFoundError) else StorageError
    ours = error_type.of(operation, f"the system said {error.strerror or repr(error)}", str(path), hint)
    ours.errno, ours.strerror, ours.filename = error.errno, error.strerror, os.fspath(path)
    return ours
