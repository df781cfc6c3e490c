"""Files that have no name yet, and what creators that were killed have left behind."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
from contextlib import suppress

if sys.platform == "linux":
    import fcntl

__all__ = ["NewFile", "remove_leftovers", "started"]

_TEMPORARY = re.compile(r"\.statevar-(\d+)-(\d+)-[0-9a-f]{16}\.tmp")
#: Of file systems that have no files without a name.
_HAS_NONE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)


class NewFile:
    """A file in a folder that nobody sees before it is called: then it gets its name, unless that is taken.

    Most file systems have files without a name, which vanish with the process. On others the file has a temporary name,
    which says who makes it, and a lock (`flock`) that is held until it is complete: the next creator in the folder
    removes the file if that process has gone.

    Attributes:
        fd: the open file, which its user closes.
    """

    def __init__(self, folder: int, path: str, leaf: str) -> None:
        self._pid = os.getpid()
        self._temporary: str | None = None
        self._path, self._leaf = path, leaf
        self._folder = os.dup(folder)
        try:
            self.fd = self._opened()
            os.fchmod(self.fd, 0o600)  # whatever the umask is, and whatever the folder gives to new files
        except BaseException:
            self.abandon()
            raise

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(".", os.O_TMPFILE | flags, 0o600, dir_fd=self._folder)
        except OSError as error:
            if error.errno not in _HAS_NONE:
                raise
        remove_leftovers(self._folder)
        pid = os.getpid()
        self._temporary = f".statevar-{pid}-{started(pid) or 0}-{secrets.token_hex(8)}.tmp"
        fd = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | flags, 0o600, dir_fd=self._folder)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def __call__(self, *, sync: bool = False) -> None:
        """Gives the file its name.

        Args:
            sync: whether the file and its name are on the disk when this returns.

        Raises:
            FileExistsError: the name is taken.
        """
        if sync:
            os.fsync(self.fd)
        try:
            # With folders given, Python asks the kernel to follow the link in /proc, which leads to the file.
            source = self._temporary or f"/proc/self/fd/{self.fd}"
            os.link(source, self._leaf, src_dir_fd=self._folder, dst_dir_fd=self._folder, follow_symlinks=True)
            if self._temporary is not None:
                fcntl.flock(self.fd, fcntl.LOCK_UN)
            if sync:
                folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._folder)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except FileExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{self._path}/{self._leaf}") from None
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Removes the temporary name. Does nothing if there is none, or in a child of its maker."""
        folder, self._folder = self._folder, -1
        if folder < 0:
            return
        if self._temporary is not None and os.getpid() == self._pid:
            with suppress(OSError):
                os.unlink(self._temporary, dir_fd=folder)
        os.close(folder)

    def __del__(self) -> None:
        if getattr(self, "_folder", -1) >= 0:
            self.abandon()


def remove_leftovers(folder: int) -> list[str]:
    """Removes the temporary files of creators that have gone, and returns their names."""
    removed = []
    try:
        names = os.listdir(f"/proc/self/fd/{folder}")
    except OSError:  # it may be written but not read
        return []
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        if match is not None and started(int(match[1])) != int(match[2]) and _is_unlocked(name, folder):
            with suppress(FileNotFoundError, PermissionError):
                os.unlink(name, dir_fd=folder)
                removed.append(name)
    return removed


def _is_unlocked(name: str, folder: int) -> bool:
    """Whether nobody is making the file: its maker may be in a container, which has process numbers of its own."""
    try:
        fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def started(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None
