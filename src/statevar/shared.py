"""The pools of shared variables on this machine: ``sv.shared``.

`statevar.share` makes a pool and `statevar.attach` finds it. The functions here list and remove those that have a name.

>>> import statevar as sv
>>> model = {"w": sv.Variable([1.0, 2.0])}
>>> _ = sv.share(model, "docs-of-shared")
>>> [(each.name, each.variables) for each in sv.shared.ls() if each.name == "docs-of-shared"]
[('docs-of-shared', {'w': 0})]
>>> sv.shared.unlink("docs-of-shared")
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ._public import public
from .errors import CheckpointError, SharedError

__all__ = ["SharedPool", "collect", "ls", "unlink"]


@public("statevar.shared")
@dataclass(frozen=True)
class SharedPool:
    """A pool that has a name, as it was when `ls` looked.

    Attributes:
        name: its name.
        nbytes: the bytes of memory that it takes, with the slots for values that are being read or written.
        variables: the version of each variable, by its path.
        pids: the processes that have it open, as far as this user may see them.
        problem: why it cannot be opened; empty if it can.
    """

    name: str
    nbytes: int
    variables: dict[str, int]
    pids: tuple[int, ...]
    problem: str = ""


@public("statevar.shared")
def ls() -> list[SharedPool]:
    """Lists the pools of this user that have a name, by name. No value is read.

    Pools without a name are gone with their processes, and those in files are where their paths say.

    >>> import statevar as sv
    >>> "no-such-pool" in [each.name for each in sv.shared.ls()]
    False
    """
    from ._shared import places  # noqa: PLC0415  # imported by the first program that shares something

    places.check_platform()
    found = []
    for name in places.names():
        with suppress(FileNotFoundError):  # it was unlinked at this moment
            found.append(_looked_at(name))
    return found


def _looked_at(name: str) -> SharedPool:
    from ._shared.places import place_of  # noqa: PLC0415  # imported by those who share
    from ._shared.pool import Pool  # noqa: PLC0415  # as above

    place = place_of(name)
    status = os.lstat(place.path)  # type: ignore[attr-defined]  # the place of a name has a path
    nbytes, pids = status.st_blocks * 512, _open_in(status)
    try:
        pool = Pool.open(place)
    except CheckpointError as error:
        return SharedPool(name, nbytes, {}, pids, str(error))
    try:
        return SharedPool(name, nbytes, {path: each.version for path, each in pool.records.items()}, pids)
    except SharedError as error:
        return SharedPool(name, nbytes, {}, pids, str(error))
    finally:
        pool.opened.claims.close()
        pool.opened.leases.close()


def _open_in(wanted: os.stat_result) -> tuple[int, ...]:
    """The processes that have a file open. Those of other users do not say."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                if any(_is(each, wanted) for each in (process / "fd").iterdir()):
                    found.append(int(process.name))
    return tuple(sorted(found))


def _is(descriptor: Path, wanted: os.stat_result) -> bool:
    with suppress(OSError):
        # A file that was made without a name is shown by its number, in the folder where it was made.
        if os.readlink(descriptor).startswith("/dev/shm/"):  # noqa: PTH115, S108  # a path object cannot hold all of them
            return os.path.samestat(descriptor.stat(), wanted)
    return False


@public("statevar.shared")
def unlink(name: str | os.PathLike[str], *, missing_ok: bool = False) -> None:
    """Removes the name of a pool, or its file. Nobody finds it any more, and a new one can be made.

    Processes that have it open keep it, with all that they write. Its memory is free when the last of them has ended.

    Args:
        name: its name, or the path of its file.
        missing_ok: whether it need not exist.

    Raises:
        CheckpointNotFoundError: there is no such pool.
        SharedError: the file at the path is no pool.
    """
    from ._shared import places  # noqa: PLC0415  # imported by the first program that shares something

    places.check_platform()
    places.unlink(name, missing_ok=missing_ok)


@public("statevar.shared")
def collect() -> list[str]:
    """Removes what processes that were killed have left of pools that were not complete, and returns their names.

    That is all that statevar can tell is of no use: files with temporary names whose makers have gone, in the folder
    of the pools with a name. The next `statevar.share` by name does the same. A pool that is complete stays, also if no
    process has it open, until `unlink` removes it: its state may be what somebody wants to go on with. A pool without a
    name needs no removal.

    >>> import statevar as sv
    >>> sv.shared.collect()
    []
    """
    from ._shared import places  # noqa: PLC0415  # imported by the first program that shares something

    places.check_platform()
    return places.collect()
