"""The folder of a `CheckpointManager`: checkpoints by step, and a lock that ends with the process.

::

    .lock                           locked by the manager that uses the folder
    step-0000000100/                a checkpoint: an index and its files
    .step-0000000200.1f0a….tmp/     a checkpoint that is being written
    .step-0000000000.77c2….deleted/ a checkpoint that is being removed
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ..errors import ConflictError
from . import _files
from ._formats.safetensors.writer import LOST_BY_POWER

__all__ = ["StepFolder", "is_step"]

_STEP = re.compile(r"step-(\d{10,})")
_LEFTOVER = re.compile(r"\.step-\d{10,}\.[0-9a-f]{8}\.(tmp|deleted)")


class StepFolder:
    """A folder that is locked for one manager until `free`.

    Args:
        directory: the folder.
        locks: whether to make, lock and clean it. If not, another process of the same program does it.

    Raises:
        ConflictError: another manager uses the folder.
    """

    def __init__(self, directory: Path, *, locks: bool = True) -> None:
        self.directory = directory
        self._claim: int | None = None
        self.is_free = False  #: whether the lock was released
        if not locks:
            return
        self._make()
        self._claim = self._claimed()
        try:
            self._clean()
        except BaseException:
            self.free()
            raise

    def path(self, step: int) -> Path:
        """Returns the path of the checkpoint of a step."""
        return self.directory / f"step-{step:010d}"

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, in order."""
        return sorted(int(match[1]) for name in _files.names(self.directory) if (match := _STEP.fullmatch(name)))

    def begin(self, step: int) -> Path:
        """Makes a temporary folder to write a checkpoint to, for `commit` or `drop`."""
        self._reclaim()
        with suppress(OSError):  # leftovers do not prevent a save
            self._clean()
        folder = self._aside(step, "tmp")
        _files.make_folder(folder)
        return folder

    def commit(self, folder: Path, step: int) -> None:
        """Makes a folder, whose files are synced, the checkpoint of a step. On return the names are synced too."""
        _files.sync_folder(folder)
        _files.rename(folder, self.path(step))
        try:
            _files.sync_folder(self.directory)
        except OSError as error:
            raise _files.storage_error("save", self.path(step), error, LOST_BY_POWER) from error

    def drop(self, folder: Path) -> None:
        """Removes the temporary folder of a failed save, as far as that is possible now."""
        with suppress(OSError):
            _remove_tree(folder)

    def delete(self, step: int) -> None:
        """Removes a checkpoint. Readers see all of it or none."""
        doomed = self._aside(step, "deleted")
        _files.rename(self.path(step), doomed)
        _files.sync_folder(self.directory)  # else a power cut could restore the name, with some of the files gone
        _remove_tree(doomed)

    def _aside(self, step: int, why: str) -> Path:
        return self.directory / f".step-{step:010d}.{os.urandom(4).hex()}.{why}"

    # -- the lock ---------------------------------------------------------------------------------------

    def free(self) -> None:
        """Releases the lock."""
        self.is_free = True
        self._release()

    def _release(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            with suppress(OSError):  # the lock is released anyway
                _files.close(claim)

    def _make(self) -> None:
        folders = (self.directory, *self.directory.parents)
        for folder in reversed([each for each in folders if _files.place_of(each) is None]):
            with suppress(FileExistsError):
                _files.make_folder(folder)
            _files.sync_folder(folder.parent)

    def _claimed(self) -> int:
        path = self.directory / ".lock"
        try:
            file = _files.create(path)
        except FileExistsError:
            file = _files.open_file(path)
        try:
            if _files.lock(file):
                return file
        except BaseException:
            _files.close(file)
            raise
        _files.close(file)
        hint = "close it first, or choose another folder"
        raise ConflictError.of("CheckpointManager", "another manager uses this folder", str(self.directory), hint)

    def _reclaim(self) -> None:
        """Locks the folder again if it was removed and made anew."""
        if self._claim is None or _files.place_of(self.directory / ".lock") != _files.identity(self._claim):
            claim = self._claimed()
            self._release()
            self._claim = claim

    def _clean(self) -> None:
        """Removes the leftovers of managers that were killed."""
        for name in _files.names(self.directory):
            if _LEFTOVER.fullmatch(name):
                _remove_tree(self.directory / name)


def is_step(folder: Path) -> bool:
    """Whether a folder is the checkpoint of a step, in a folder that a manager has used."""
    return _STEP.fullmatch(folder.name) is not None and _files.place_of(folder.parent / ".lock") is not None


def _remove_tree(folder: Path) -> None:
    for name in _files.names(folder):
        _files.remove(folder / name)
    _files.remove_folder(folder)
