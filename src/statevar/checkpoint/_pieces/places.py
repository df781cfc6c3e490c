"""Where a checkpoint in pieces is written: beside an index at a path, or in the folder of a manager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from .. import _files
from .._formats.safetensors.index import INDEX
from .._formats.safetensors.writer import NewFile, Replacement, shared_stem, write_all, write_file
from .._step_folder import StepFolder
from .saving import Place

__all__ = ["BesideIndex", "InStepFolder"]


class BesideIndex(Place):
    """The path that is saved to becomes the index; the parts are beside it.

    Args:
        path: the path.
        sweep: removes the parts of older saves, and of saves that were killed, of an index.
    """

    def __init__(self, path: Path, sweep: Callable[[Path], None]) -> None:
        self._path = path
        self._sweep = sweep
        self._new: NewFile | None = None

    @cached_property
    def _target(self) -> Path:
        return _files.place_to_save(self._path)

    def begin(self) -> str:
        self._sweep(self._target)
        return ""

    @contextmanager
    def part(self, told: str, index: int, count: int) -> Iterator[tuple[str, int]]:
        stem = shared_stem(self._target)

        def name(token: str) -> str:
            return f"{stem}.{token}-{index + 1:05d}-of-{count:05d}.safetensors"

        with NewFile(self._target.parent, name, self._target) as new:
            self._new = new
            yield new.path.name, new.file

    def keep(self, keeps: bool) -> None:
        assert self._new is not None
        self._new.keep(keeps)

    def folder(self, told: str) -> Path:
        return self._target.parent

    def commit(self, content: bytes) -> None:
        _files.sync_folder(self._target.parent)  # the files must be on the disk before an index names them
        with Replacement(self._target) as index:
            write_all(index.file, [memoryview(content)], 0)
            _files.sync(index.file)
            index.commit([] if self._new is None else [self._new])
        with suppress(OSError):  # the save is complete, and the next one sweeps again
            self._sweep(self._target)

    def drop(self) -> None:
        """Does nothing: each process removes its own file."""


class InStepFolder(Place):
    """A folder for each step, which is hidden until it is complete.

    Args:
        folder: the folder of the manager.
        step: the step.
    """

    def __init__(self, folder: StepFolder, step: int) -> None:
        self._folder = folder
        self._step = step
        self._hidden: Path | None = None

    def begin(self) -> str:
        self._hidden = self._folder.begin(self._step)
        return self._hidden.name

    @contextmanager
    def part(self, told: str, index: int, count: int) -> Iterator[tuple[str, int]]:
        name = f"part-{index:05d}-of-{count:05d}.safetensors"
        file = _files.create(self.folder(told) / name)
        try:
            yield name, file
        finally:
            with suppress(OSError):  # its bytes are on the disk already
                _files.close(file)

    def keep(self, keeps: bool) -> None:
        """Does nothing: process 0 removes the folder."""

    def folder(self, told: str) -> Path:
        return self._folder.directory / told

    def commit(self, content: bytes) -> None:
        assert self._hidden is not None
        write_file(self._hidden / INDEX, content)
        self._folder.commit(self._hidden, self._step)
        self._hidden = None

    def drop(self) -> None:
        if self._hidden is not None:
            self._folder.drop(self._hidden)
