"""Which files and folders shared variables may be in: nobody else can change them, and one kernel sees all writes."""

from __future__ import annotations

import os
import stat

from ..errors import SharedError
from .room import file_system

__all__ = ["check_file", "check_folder", "check_system"]

#: File systems that other machines may write, or of which the kernel does not see every write: a lock, a lease and a
#: mapped page are worth nothing there. The numbers are in Linux's magic.h and in the sources of each.
_NETWORK = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x00C36400: "Ceph",
    0x01021997: "9P",
    0x65735546: "FUSE",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x73757245: "Coda",
    0x0BD00BD0: "Lustre",
    0x01161970: "GFS2",
    0x7461636F: "OCFS2",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x20030528: "OrangeFS",
    0xAAD7AAEA: "PanFS",
    0x786F4256: "a folder of the host of this virtual machine",
    0xBACBACBC: "a folder of the host of this virtual machine",
    0x7C7C6673: "a folder of the host of this virtual machine",
}
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def check_file(status: os.stat_result, operation: str, name: str) -> None:
    """Raises SharedError for what is no regular file, belongs to somebody else, or may be written by others."""
    kind = _kind(status.st_mode)
    if kind != "a file":
        hint = "pass the name that sv.share was called with, or the path of its file"
        raise SharedError.of(operation, f"expected a file, got {kind}", name, hint)
    if status.st_uid != os.geteuid():
        problem = f"the file belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}"
        raise SharedError.of(operation, problem, name, "run as its owner, or choose another name")
    if status.st_mode & _WRITABLE:
        problem = f"other users may write the file (its mode is {stat.S_IMODE(status.st_mode):04o})"
        raise SharedError.of(operation, problem, name, "take their right away if you trust its content: chmod 600")


def check_folder(status: os.stat_result, folder: str, operation: str, name: str, *, ours: bool) -> None:
    """Raises SharedError for a folder in which somebody else could put another file in the place of ours.

    A sticky folder such as ``/tmp`` is accepted: nobody removes or renames files of others there. So is a folder that
    the own group may write, as many systems give each user a group of its own; the file itself is checked in any case.

    Args:
        status: of the folder.
        folder: its path, for the error.
        operation: for the error.
        name: for the error.
        ours: whether it is the folder of the named pools, which nobody else has any right in.
    """
    mode, me = status.st_mode, os.geteuid()
    if ours and (not stat.S_ISDIR(mode) or status.st_uid != me):
        what = _kind(mode) if not stat.S_ISDIR(mode) else f"a folder of user {status.st_uid}"
        hint = "have it removed, or keep the variables in a file: '/data/run7.svs'"
        raise SharedError.of(operation, f"expected a folder of user {me} at {folder}, got {what}", name, hint)
    if ours:
        open_to = mode & _WRITABLE
    elif mode & stat.S_ISVTX and status.st_uid in (0, me):
        open_to = 0
    else:
        open_to = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and status.st_gid != os.getegid())
    if open_to:
        problem = f"other users may write the folder {folder} (its mode is {stat.S_IMODE(mode):04o})"
        raise SharedError.of(operation, problem, name, f"take their right away: chmod go-w {folder}")


def check_system(fd: int, operation: str, name: str) -> None:
    """Raises SharedError for a file or folder on a file system that other machines may write."""
    if system := _NETWORK.get(file_system(fd)):
        problem = f"the file system is {system}, on which locks and mapped memory of other machines are not seen"
        hint = "use a name without a slash, 'run7', which is in memory, or a path on a disk of this machine"
        raise SharedError.of(operation, problem, name, hint)


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "something else")
