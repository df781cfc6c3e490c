"""Where pools are: a name in memory, the path of a file, or nowhere that has a name.

A pool appears whole: its file has no name until it is complete. Nothing here takes a lock of a pool or maps it.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from ..errors import CheckpointNotFoundError, NameScopeError, SharedError, StorageError, describe
from .layout import MAGIC
from .room import reserve, storage_error
from .temporary import NewFile, remove_leftovers, started
from .trust import check_file, check_folder, check_system

if sys.platform == "linux":
    import fcntl

__all__ = ["Place", "check_platform", "collect", "names", "place_of", "unlink"]

#: Where the folder of the named pools is. Tests replace it.
MEMORY = "/dev/shm"  # noqa: S108  # the folder in it is checked
#: The longest name of a pool, in bytes of UTF-8.
LONGEST = 200
_SUFFIX = ".svs"
_NAMES = "pass a name, 'run7', or the path of a file, '/data/run7.svs'"
_LOOK = os.O_NOFOLLOW | getattr(os, "O_PATH", 0) | getattr(os, "O_CLOEXEC", 0) if os.name == "posix" else 0
_WRITE = os.O_RDWR | getattr(os, "O_CLOEXEC", 0)


@cache
def check_platform() -> None:
    """Raises NotImplementedError where the kernel lacks what shared variables are made of.

    They need locks that the kernel drops with their owner (open file description locks), futexes, and ``/proc``.
    """
    if sys.platform != "linux":
        problem = f"variables are shared between processes on Linux only, and this is {sys.platform}"
        hint = "it has no locks that are dropped with their owner; save and load the state: sv.save, sv.load"
        raise NotImplementedError(describe("share", problem, hint=hint))
    try:
        with open("/proc/self/exe", "rb") as file:
            fcntl.fcntl(file, fcntl.F_OFD_GETLK, bytes(32))  # asks for a read lock
    except (OSError, AttributeError) as error:
        problem = f"this system lacks open file description locks, or /proc ({error})"
        raise NotImplementedError(
            describe("share", problem, hint="shared variables need Linux 3.15 or newer")
        ) from None


class Place(ABC):
    """Where a pool is, or will be.

    Attributes:
        kind: ``"named"``, ``"file"`` or ``"anonymous"``.
        name: for errors: the name, the path, or "anonymous pool of process 123".
    """

    kind: str
    name: str

    @abstractmethod
    def create_file(self, size: int, *, operation: str = "share") -> tuple[int, Callable[..., None]]:
        """Makes a file without a name, all bytes of which are allocated and zero.

        Returns:
            A descriptor, which the caller closes, and a function that makes the file appear in its place. With
            ``sync=True`` it is on the disk when the function returns. If it is never called, nothing is left.

        Raises:
            StorageError: there is no room, or the system refuses.
            SharedError: the folder is not safe.
            FileExistsError: raised by the function: something has been put in the place meanwhile.
        """

    @abstractmethod
    def open_file(self, *, operation: str = "attach") -> int:
        """Opens the file; each call has an open file description of its own.

        Raises:
            CheckpointNotFoundError: there is none, which is a FileNotFoundError.
            SharedError: it is no file that can be trusted.
            StorageError: the system refuses.
        """

    @abstractmethod
    def grow(self, fd: int, offset: int, nbytes: int, *, operation: str = "write") -> None:
        """Allocates further bytes of a file.

        Raises:
            StorageError: there is no room. The file is as it was, but perhaps longer.
        """

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{self.kind} place {self.name!r}>"


def place_of(where: str | os.PathLike[str] | None, operation: str = "share") -> Place:
    """The place that a user means.

    Args:
        where: a name, which is text without a slash; the path of a file: text with a slash or that ends with
            ``.svs``, or a path object; or None for a pool without a name, which only ``share`` can make.
        operation: for errors.

    Raises:
        NameScopeError: it is no name, which is a ValueError.
        TypeError: it is of another type.

    >>> place_of("run7").kind, place_of("./run7.svs").kind, place_of(None).kind
    ('named', 'file', 'anonymous')
    """
    if where is None and operation == "share":
        return _Anonymous()
    path: object = os.fspath(where) if isinstance(where, os.PathLike) else where
    if not isinstance(path, str):
        expected = "a name, a path or None" if operation == "share" else "the name or the path of a pool"
        raise TypeError(describe(operation, f"expected {expected}, got {type(path).__name__}", hint=_NAMES))
    if not path or "\0" in path:
        raise NameScopeError.of(operation, f"expected the name of a pool, got {path!r}", hint=_NAMES)
    if path is where and "/" not in path and not path.endswith(_SUFFIX):
        return _Named(path, operation)
    folder, leaf = os.path.split(path)
    if leaf in ("", ".", ".."):
        raise NameScopeError.of(
            operation, f"expected the path of a file, got {path!r}", hint="add the name of the file"
        )
    return _File(os.path.join(os.path.abspath(folder), leaf))  # the leaf stays as it is


class _File(Place):
    """The place of a pool that is a file at a path."""

    kind = "file"

    def __init__(self, path: str) -> None:
        self.name = self.path = path
        self._where, self._leaf = os.path.split(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return place_of, (self.name,)

    def create_file(self, size: int, *, operation: str = "share") -> tuple[int, Callable[..., None]]:
        folder = self._folder(operation, create=True)
        try:
            new = NewFile(folder, self._where, self._leaf)
        except OSError as error:
            raise self._refused(error, operation) from error
        finally:
            os.close(folder)
        try:
            check_system(new.fd, operation, self.name)
            reserve(new.fd, 0, size, operation=operation, name=self.name, folder=self._where)
        except BaseException:
            os.close(new.fd)
            new.abandon()
            raise
        return new.fd, new

    def open_file(self, *, operation: str = "attach") -> int:
        folder = self._folder(operation)
        try:
            seen = os.open(self._leaf, _LOOK, dir_fd=folder)  # which does nothing to a pipe or a device
        except OSError as error:
            raise self._refused(error, operation) from error
        finally:
            os.close(folder)
        try:
            check_file(os.fstat(seen), operation, self.name)
            check_system(seen, operation, self.name)
            return os.open(f"/proc/self/fd/{seen}", _WRITE)
        except OSError as error:
            raise self._refused(error, operation) from error
        finally:
            os.close(seen)

    def grow(self, fd: int, offset: int, nbytes: int, *, operation: str = "write") -> None:
        reserve(fd, offset, nbytes, operation=operation, name=self.name, folder=self._where)

    def _folder(self, operation: str, *, create: bool = False) -> int:  # a user makes the folder
        """Opens the folder, after a look whether it is safe."""
        try:
            folder = os.open(self._where, _LOOK & ~os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError as error:
            raise self._refused(error, operation) from error
        return self._checked(folder, operation, ours=False)

    def _checked(self, folder: int, operation: str, *, ours: bool) -> int:
        try:
            check_folder(os.fstat(folder), self._where, operation, self.name, ours=ours)
            check_system(folder, operation, self.name)
        except BaseException:
            os.close(folder)
            raise
        return folder

    def _refused(self, error: OSError, operation: str) -> Exception:
        if isinstance(error, SharedError | StorageError):
            return error
        if isinstance(error, FileNotFoundError):
            found = CheckpointNotFoundError.of(operation, self._absent(), self.name, self._way())
            found.errno, found.strerror, found.filename = errno.ENOENT, os.strerror(errno.ENOENT), self.name
            return found
        number = error.errno or errno.EIO
        return storage_error(
            operation, f"the system refuses the file ({os.strerror(number)})", self.name, self._way(), number
        )

    def _absent(self) -> str:
        return "there is no file at this path" if os.path.isdir(self._where) else f"there is no folder {self._where}"

    def _way(self) -> str:
        return "pass a path in a folder that you may write, '/data/run7.svs'"


class _Named(_File):
    """A name: a file in a folder in memory that only this user can enter."""

    kind = "named"

    def __init__(self, name: str, operation: str) -> None:
        nbytes = len(name.encode("utf-8", "surrogatepass"))
        if name[0] == "." or nbytes > LONGEST or not name.isprintable():
            got = repr(name) if nbytes <= LONGEST else f"one of {nbytes} bytes"
            rule = f"a name has at most {LONGEST} bytes, no slash, no leading dot and no control characters: 'run7'"
            raise NameScopeError.of(operation, f"expected the name of a pool, got {got}", hint=rule)
        super().__init__(f"{_folder_of_names()}/{name}")
        self.name = name

    def _folder(self, operation: str, *, create: bool = False) -> int:
        try:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(self._where, 0o700)
            folder = os.open(self._where, _LOOK)
        except OSError as error:
            raise self._refused(error, operation) from error
        self._checked(folder, operation, ours=True)
        if create:
            remove_leftovers(folder)
        return folder

    def _absent(self) -> str:
        return "there are no shared variables of this name" if os.path.isdir(MEMORY) else f"there is no {MEMORY}"

    def _way(self) -> str:
        if not os.path.isdir(MEMORY):
            return "keep the variables in a file: '/data/run7.svs'"
        return "sv.shared.ls() lists the names that exist; sv.share(model, name) makes a new one"


class _Anonymous(Place):
    """A file without a name, which is gone with the last process that has it open. Others open it by ``/proc``."""

    kind = "anonymous"

    def __init__(self, at: tuple[int, int, int, str] | None = None, maker: int = 0) -> None:
        self._maker = maker or os.getpid()
        self.name = f"anonymous pool of process {self._maker}"
        self._at = at  # in another process: pid, when it began, its descriptor, and which file that is
        self._kept: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self._kept is None and self._at is None:
            raise SharedError.of("pickle", "the pool is not complete", self.name)
        at = self._at
        if self._kept is not None:  # a forked child has it open by the same number
            at = os.getpid(), started(os.getpid()) or 0, self._kept, _identity(os.fstat(self._kept))
        return _anonymous_at, (at, self._maker)

    def create_file(self, size: int, *, operation: str = "share") -> tuple[int, Callable[..., None]]:
        fd = self._in_memory(size, operation)

        def finish(*, sync: bool = False) -> None:
            del sync  # it ends with its processes
            self._keep(fd)

        return fd, finish

    def _in_memory(self, size: int, operation: str) -> int:
        """In /dev/shm, whose size bounds it; if that is too small, in memory that only the system's limits bound."""
        try:
            fd = os.open(MEMORY, os.O_TMPFILE | os.O_EXCL | _WRITE, 0o600)
        except OSError:  # it is not there, is no tmpfs, or nobody may write it
            fd = -1
        if fd >= 0:
            try:
                reserve(fd, 0, size, operation=operation, name=self.name, folder=MEMORY)
            except BaseException as error:
                os.close(fd)
                if not isinstance(error, StorageError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
            else:
                return fd
        fd = os.memfd_create("statevar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)
            reserve(fd, 0, size, operation=operation, name=self.name, folder="memory")
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)  # nobody can cut it short under those who map it
        except BaseException:
            os.close(fd)
            raise
        return fd

    def open_file(self, *, operation: str = "attach") -> int:
        if self._kept is None:
            if self._at is None:
                raise SharedError.of(operation, "the pool is not complete", self.name)
            pid, since, number, which = self._at
            self._keep_of(pid, since, number, which, operation)
        return os.open(f"/proc/self/fd/{self._kept}", _WRITE)

    def grow(self, fd: int, offset: int, nbytes: int, *, operation: str = "write") -> None:
        reserve(fd, offset, nbytes, operation=operation, name=self.name, folder=MEMORY)

    def _keep(self, fd: int) -> None:
        """Keeps the file open: by a description in which nobody takes locks, since children inherit it."""
        self._kept = os.open(f"/proc/self/fd/{fd}", _WRITE)
        weakref.finalize(self, os.close, self._kept).atexit = False
        _open_here[_identity(os.fstat(self._kept))] = self

    def _keep_of(self, pid: int, since: int, number: int, which: str, operation: str) -> None:
        hint = "the process that shares them has to live until others have attached; give the pool a name: 'run7'"
        try:
            fd = os.open(f"/proc/{pid}/fd/{number}", _WRITE)
        except OSError as error:
            if started(pid) == since and not isinstance(error, FileNotFoundError):
                problem = f"process {pid} has it, and the system does not let this process open it ({error.strerror})"
                raise SharedError.of(operation, problem, self.name, "share them by a name or a file") from None
            ended = f"process {pid} has ended" if started(pid) != since else f"process {pid} has dropped the variables"
            raise SharedError.of(operation, ended, self.name, hint) from None
        try:
            status = os.fstat(fd)
            if _identity(status) != which:
                raise SharedError.of(operation, f"process {pid} has dropped the variables", self.name, hint)
            check_file(status, operation, self.name)
            self._keep(fd)
        finally:
            os.close(fd)


#: The anonymous places of this process, by which file they are.
_open_here: weakref.WeakValueDictionary[str, _Anonymous] = weakref.WeakValueDictionary()


def _anonymous_at(at: tuple[int, int, int, str], maker: int) -> _Anonymous:
    """Unpickles. A process that has the file open already, as the child of a fork has, needs nobody else."""
    return _open_here.get(at[3]) or _Anonymous(at, maker)


def _identity(status: os.stat_result) -> str:
    return f"{status.st_dev:x}:{status.st_ino:x}"


def _folder_of_names() -> str:
    return f"{MEMORY}/statevar-{os.geteuid()}"


def names() -> list[str]:
    """The names of the pools of this user, sorted."""
    try:
        with os.scandir(_folder_of_names()) as entries:
            return sorted(each.name for each in entries if each.name[0] != "." and each.is_file(follow_symlinks=False))
    except FileNotFoundError:
        return []


def collect() -> list[str]:
    """Removes the temporary files of creators that have gone, and returns their names."""
    try:
        folder = os.open(_folder_of_names(), _LOOK)
    except FileNotFoundError:
        return []
    try:
        check_folder(os.fstat(folder), _folder_of_names(), "collect", "", ours=True)
        return remove_leftovers(folder)
    finally:
        os.close(folder)


def unlink(name: str | os.PathLike[str], *, missing_ok: bool = False) -> None:
    """Removes a name. Processes that have the pool open keep it; nobody finds it any more.

    Raises:
        CheckpointNotFoundError: there is none.
        SharedError: a file at a path is no pool.
    """
    place = place_of(name, "unlink")
    assert isinstance(place, _File)
    try:
        if place.kind == "file":
            _check_pool(place)
        folder = place._folder("unlink")
        try:
            os.unlink(place._leaf, dir_fd=folder)
        except OSError as error:
            raise place._refused(error, "unlink") from error
        finally:
            os.close(folder)
    except FileNotFoundError:
        if not missing_ok:
            raise


def _check_pool(place: _File) -> None:
    """Sees to it that no other file of the user is removed by mistake."""
    fd = place.open_file(operation="unlink")
    try:
        if os.pread(fd, len(MAGIC), 0) != MAGIC:
            raise SharedError.of("unlink", "the file is no pool of shared variables", place.name, "remove it yourself")
    finally:
        os.close(fd)
