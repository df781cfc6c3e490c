"""Writes the checkpoints of a `CheckpointManager`: files and an index. Unchanged files of the last one are linked."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .._state.paths import Paths
from .._state.snapshot import Snapshot
from . import _files
from ._formats.safetensors.header import digest_of
from ._formats.safetensors.index import INDEX
from ._formats.safetensors.reader import is_whole
from ._formats.safetensors.writer import FileDigest, ToWrite, write_file, write_tensors
from ._progress import Report
from ._save import index_of, items_of, nbytes_of, shards_of
from ._step_folder import StepFolder

__all__ = ["Request", "StepWriter"]

#: A variable, and its version at the time of the save.
_Origin: TypeAlias = tuple[weakref.ReferenceType[Any], int]


@dataclass(frozen=True, slots=True)
class Request:
    """A save that is to be written."""

    step: int
    found: Paths
    cut: Snapshot
    texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Shard:
    """A file of the last save, with the variables in it and their versions."""

    name: str
    written: FileDigest
    made_from: list[_Origin]


class StepWriter:
    """Writes the checkpoints of one process, one at a time.

    Args:
        folder: where they are.
        shard_size: the size of a file in bytes.
    """

    def __init__(self, folder: StepFolder, shard_size: int) -> None:
        self._folder = folder
        self._shard_size = shard_size
        self._previous: dict[tuple[str, ...], _Shard] = {}  # the files of the last save, by the paths in them
        self._previous_step = -1

    def write(self, request: Request, report: Report) -> None:
        """Writes and commits a checkpoint. An error leaves the folder as it was."""
        folder = self._folder.begin(request.step)
        try:
            shards = self._write_shards(folder, request, report)
            written = {shard.name: shard.written for shard in shards.values()}
            write_file(folder / INDEX, index_of(written, request.texts))
            self._folder.commit(folder, request.step)
        except BaseException:
            self._folder.drop(folder)
            raise
        self._previous, self._previous_step = shards, request.step

    def _write_shards(self, folder: Path, request: Request, report: Report) -> dict[tuple[str, ...], _Shard]:
        found, cut = request.found, request.cut
        origins = {
            path: (weakref.ref(variable), version)
            for (path, variable), version in zip(found.variables.items(), cut._versions, strict=True)
        }
        groups = shards_of(items_of(found, cut), self._shard_size)
        cut._values.clear()  # each value is released once it is written, so that the program can write in place again
        wrote = report(sum(nbytes_of(item) for group in groups for item in group))
        shards = {}
        for i, items in enumerate(groups):
            paths = tuple(item.path for item in items)
            made_from = [origins[path] for path in paths]
            name = f"part-{i:05d}.safetensors"
            written = self._linked(folder / name, items, made_from)
            if written is None:
                file = _files.create(folder / name)
                try:
                    written = write_tensors(file, items, {}, wrote)
                finally:
                    _files.close(file)
            elif wrote is not None:
                wrote(sum(nbytes_of(item) for item in items))
            shards[paths] = _Shard(name, written, made_from)
        return shards

    def _linked(self, path: Path, items: list[ToWrite], made_from: list[_Origin]) -> FileDigest | None:
        """Links an unchanged file of the last save into this one. Returns None if it must be written."""
        previous = self._previous.get(tuple(item.path for item in items))
        if previous is None or not (_same(previous.made_from, made_from) and _unchanged(items, previous)):
            return None
        source = self._folder.path(self._previous_step) / previous.name
        if not is_whole(source, previous.written.digest):  # damaged or gone, but the values in memory are whole
            return None
        try:
            _files.link(source, path)
        except OSError:  # too many links, or a file system without links
            return None
        return previous.written


def _same(before: list[_Origin], now: list[_Origin]) -> bool:
    """Whether the variables are the same, and have the same versions."""
    # ``==`` of two weak references compares their variables, element by element.
    return all(old() is new() and was == is_now for (old, was), (new, is_now) in zip(before, now, strict=True))


def _unchanged(items: list[ToWrite], previous: _Shard) -> bool:
    """Whether the bytes equal those of the last save. They are compared only if the library can write unnoticed."""
    return all(
        item.backend.counts_all_writes
        or item.value is None
        or digest_of(item.tensor()) == previous.written.checksums.get(item.path)
        for item in items
    )
