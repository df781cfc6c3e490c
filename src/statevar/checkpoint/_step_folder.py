"""The folder of a `CheckpointManager`: checkpoints by step, and a lock that dies with its holder.

::

    .lock                           locked by the manager that has the folder
    step-0000000100/                a checkpoint: an index and its files
    .step-0000000200.1f0a….tmp/     one that is being written
    .step-0000000000.77c2….deleted/ one that is being removed
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ..errors import ConflictError
from . import _files
from ._formats.safetensors.writer import LOST_BY_POWER

__all__ = ["StepFolder"]

_STEP = re.compile(r"step-(\d{10,})")
_LEFTOVER = re.compile(r"\.step-\d{10,}\.[0-9a-f]{8}\.(tmp|deleted)")


class StepFolder:
    """A folder that is ours alone until `free`.

    Raises:
        ConflictError: somebody else has it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._make()
        self._claim: int | None = self._claimed()
        self.is_free = False  #: whether it is not ours any more
        try:
            self._clean()
        except BaseException:
            self.free()
            raise

    def path(self, step: int) -> Path:
        """Where a checkpoint is."""
        return self.directory / f"step-{step:010d}"

    def steps(self) -> list[int]:
        """Of which there are checkpoints, in order."""
        return sorted(int(match[1]) for name in _files.names(self.directory) if (match := _STEP.fullmatch(name)))

    def begin(self, step: int) -> Path:
        """A folder to write a checkpoint to; `commit` or `drop` it."""
        self._reclaim()
        with suppress(OSError):  # what could not be removed before
            self._clean()
        folder = self._aside(step, "tmp")
        _files.make_folder(folder)
        return folder

    def commit(self, folder: Path, step: int) -> None:
        """Makes it the checkpoint of a step: its files are on the disk; when this returns, their names are too."""
        _files.sync_folder(folder)
        _files.rename(folder, self.path(step))
        try:
            _files.sync_folder(self.directory)
        except OSError as error:
            raise _files.storage_error("save", self.path(step), error, LOST_BY_POWER) from error

    def drop(self, folder: Path) -> None:
        """Removes one that was not completed, as far as that can be done now."""
        with suppress(OSError):
            _remove_tree(folder)

    def delete(self, step: int) -> None:
        """Removes a checkpoint; it is gone in one step."""
        doomed = self._aside(step, "deleted")
        _files.rename(self.path(step), doomed)
        _files.sync_folder(self.directory)  # else a power cut could bring the name back, over a part of the files
        _remove_tree(doomed)

    def _aside(self, step: int, why: str) -> Path:
        return self.directory / f".step-{step:010d}.{os.urandom(4).hex()}.{why}"

    # -- whose it is -------------------------------------------------------------------------------------

    def free(self) -> None:
        """Lets it go."""
        self.is_free = True
        self._release()

    def _release(self) -> None:
        claim, self._claim = self._claim, None
        if claim is not None:
            with suppress(OSError):  # the lock is gone all the same
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
        raise ConflictError.of("CheckpointManager", "another manager has this folder", str(self.directory), hint)

    def _reclaim(self) -> None:
        """The folder may have vanished, and come again."""
        if self._claim is None or _files.place_of(self.directory / ".lock") != _files.identity(self._claim):
            claim = self._claimed()
            self._release()
            self._claim = claim

    def _clean(self) -> None:
        """Removes what dead managers left."""
        for name in _files.names(self.directory):
            if _LEFTOVER.fullmatch(name):
                _remove_tree(self.directory / name)


def _remove_tree(folder: Path) -> None:
    for name in _files.names(folder):
        _files.remove(folder / name)
    _files.remove_folder(folder)
