"""Where the arrays of a `Checkpoint` come from: files of ours, or a file of another program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar, Protocol, TypeVar

from .._arrays.dtypes import STORED
from .._arrays.types import HostArray
from ..errors import CheckpointError
from . import _files
from ._formats.reader import Reader, nbytes_in_memory
from ._formats.safetensors.header import Entry
from ._formats.safetensors.reader import TensorFile, neighbours, read_into
from ._formats.safetensors.values import PARTIAL, VariableRecord, fresh_bytes, from_tensor
from ._pieces.blocks import Block

__all__ = ["OtherFile", "OwnFiles", "Source", "close_all"]

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

_CHUNK = 8 << 20  # bytes that a thread reads in one job
_READERS = min(4, os.cpu_count() or 1)
_WORTH_THREADS = 1 << 20  # bytes that are read faster by several threads


class Source(Protocol):
    """Open files with tensors by name. A tensor without a value has no array."""

    #: Whether `block` compares the checksum of what it reads.
    checks_blocks: ClassVar[bool]
    #: Whether `block` reads the chunks that have the block, and nothing else.
    has_chunks: ClassVar[bool]

    @property
    def variables(self) -> Mapping[str, VariableRecord]:
        """The facts about each tensor, by name."""

    def arrays(self, names: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        """Reads arrays, by name. The error of a damaged array takes its place."""

    def mapped(self, name: str) -> HostArray:
        """Returns an array in the mapped memory of the file."""

    def block(self, name: str, block: Block) -> HostArray:
        """Reads a block of an array, in memory that nobody else has.

        Raises:
            CheckpointError: it is damaged.
        """

    def damage(self, names: Iterable[str]) -> dict[str, CheckpointError]:
        """Reads tensors, and returns the error of each damaged one, by name."""

    def checksum(self, name: str) -> str | None:
        """Returns the checksum of a tensor that a read checks; None if there is none."""

    def closer(self) -> Callable[[], object]:
        """Returns the function that closes the files. It does not refer to this object."""


class OwnFiles:
    """Files in the format of safetensors."""

    checks_blocks: ClassVar[bool] = False
    has_chunks: ClassVar[bool] = False

    def __init__(self, parts: Sequence[TensorFile]) -> None:
        self.parts = parts
        self._part_of = {name: part for part in parts for name in part.variables}
        self.variables = {name: saved for part in parts for name, saved in part.variables.items()}

    def arrays(self, names: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        def read(part: TensorFile, entries: Sequence[Entry]) -> list[HostArray | CheckpointError]:
            memory = [fresh_bytes(entry.nbytes) for entry in entries]
            errors = part.fill(memory, entries)
            return [
                self._array(part, entry, raw) if error is None else error
                for entry, raw, error in zip(entries, memory, errors, strict=True)
            ]

        return self._in_threads(read, names)

    def mapped(self, name: str) -> HostArray:
        part = self._part_of[name]
        with _files.os_errors_as("load", part.path):
            return from_tensor(part.mapped(part.entries[name]), self.variables[name], f"{part.path}: {name}")

    def block(self, name: str, block: Block) -> HostArray:
        """Reads the rows that have the block, some at a time. Their checksum is of the whole array."""
        record, part = self.variables[name], self._part_of[name]
        if record.dtype == "string" or not block.sizes or not block.size:
            return _block_of(self.arrays([name])[name], block)
        assert record.shape is not None
        below = record.shape[1:]
        width = part.entries[name].nbytes // record.shape[0]
        begin = part.begin + part.entries[name].start + block.offsets[0] * width
        memory = fresh_bytes(block.size * STORED[record.dtype].itemsize)
        found = memory.view(STORED[record.dtype]).reshape(block.sizes)
        columns = Block(block.offsets[1:], block.sizes[1:]).index_in((0,) * len(below))
        step = block.sizes[0] if block.sizes[1:] == below else max(1, _CHUNK // width)
        for first in range(0, block.sizes[0], step):
            count = min(step, block.sizes[0] - first)
            raw = memory if count == block.sizes[0] and block.sizes[1:] == below else fresh_bytes(count * width)
            with _files.os_errors_as("load", part.path):
                read_into(part.file, [memoryview(raw)], begin + first * width, part.path)  # type: ignore[arg-type]
            rows = from_tensor(raw, record._replace(shape=(count, *below)), f"{part.path}: {name}")
            if raw is memory:
                return rows
            found[first : first + count] = rows[(slice(None), *columns)]
        return found

    def damage(self, names: Iterable[str]) -> dict[str, CheckpointError]:
        names = list(names)
        found: dict[str, Any] = self._in_threads(TensorFile.check, names)
        for name in names:
            if found[name] is None and self.variables[name].dtype in PARTIAL:
                found[name] = self.arrays([name])[name]
        return {name: error for name, error in found.items() if isinstance(error, CheckpointError)}

    def checksum(self, name: str) -> str | None:
        return self._part_of[name].checksums.get(name)

    def closer(self) -> Callable[[], object]:
        files = [part.file for part in self.parts]
        return lambda: close_all(files)

    def _array(self, part: TensorFile, entry: Entry, raw: HostArray) -> HostArray | CheckpointError:
        try:
            return from_tensor(raw, self.variables[entry.name], f"{part.path}: {entry.name}")
        except CheckpointError as error:
            return error

    def _in_threads(
        self, read: Callable[[TensorFile, list[Entry]], list[_Result]], names: Iterable[str]
    ) -> dict[str, _Result | CheckpointError]:
        """Returns the results of ``read`` by name. Several threads call it, so that one hashes while another reads."""
        wanted: dict[TensorFile, list[Entry]] = {}
        for name in names:
            part = self._part_of[name]
            if (entry := part.entries.get(name)) is not None:
                wanted.setdefault(part, []).append(entry)
        groups = [(part, group) for part, entries in wanted.items() for group in neighbours(entries, _CHUNK)]

        def attempt(job: tuple[TensorFile, list[Entry]]) -> Sequence[_Result | CheckpointError]:
            part, group = job
            try:
                with _files.os_errors_as("load", part.path):
                    return read(part, group)
            except CheckpointError as error:  # the file was cut short
                return [error] * len(group)

        found = _done(attempt, groups, threads=len(groups) > 1)
        return {
            entry.name: result
            for (_, group), results in zip(groups, found, strict=True)
            for entry, result in zip(group, results, strict=True)
        }


class OtherFile:
    """The file of another program, through its reader."""

    checks_blocks: ClassVar[bool] = True
    has_chunks: ClassVar[bool] = False

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.variables = reader.variables

    def arrays(self, names: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        names = list(names)
        large = len(names) > 1 and self._nbytes(names) >= _WORTH_THREADS
        return dict(zip(names, _done(self._attempt, names, threads=large), strict=True))

    def mapped(self, name: str) -> HostArray:
        with _files.os_errors_as("load", self._reader.path):
            return self._reader.mapped(name)

    def block(self, name: str, block: Block) -> HostArray:
        return _block_of(self._attempt(name), block)

    def damage(self, names: Iterable[str]) -> dict[str, CheckpointError]:
        def error_of(name: str) -> CheckpointError | None:
            try:
                with _files.os_errors_as("load", self._reader.path):
                    self._reader.check(name)
            except CheckpointError as error:
                return error
            return None

        # One after the other, so that only one of them is in memory.
        return {name: error for name in names if (error := error_of(name)) is not None}

    def checksum(self, name: str) -> str | None:
        return self._reader.checksum(name)

    def closer(self) -> Callable[[], object]:
        return self._reader.close

    def _nbytes(self, names: Iterable[str]) -> int:
        return sum(nbytes_in_memory(self.variables[name]) for name in names)

    def _attempt(self, name: str) -> HostArray | CheckpointError:
        try:
            with _files.os_errors_as("load", self._reader.path):
                return self._reader.read(name)
        except CheckpointError as error:
            return error


def _block_of(array: HostArray | CheckpointError, block: Block) -> HostArray:
    if isinstance(array, CheckpointError):
        raise array
    return array if array.shape == block.sizes else array[block.index_in((0,) * array.ndim)].copy()


def _done(attempt: Callable[[_Job], _Result], jobs: Sequence[_Job], *, threads: bool) -> list[_Result]:
    """Does jobs, in several threads if that is worth it: starting one takes longer than reading a small array."""
    if not threads:
        return [attempt(job) for job in jobs]
    with ThreadPoolExecutor(min(_READERS, len(jobs))) as pool:
        return list(pool.map(attempt, jobs))


def close_all(files: list[int]) -> None:
    """Closes files, whatever happens meanwhile."""
    try:
        while files:
            with suppress(OSError):  # nothing was written, so nothing is lost
                _files.close(files.pop())
    finally:
        if files:  # Ctrl-C
            close_all(files)
