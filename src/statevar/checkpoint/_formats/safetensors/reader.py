"""Reads files of tensors: the header when a file is opened, each tensor when it is asked for, with its checksum."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from ...._arrays.types import HostArray
from ....errors import CheckpointError
from ... import _files
from .header import CHECKSUMS, DIGITS, FORMAT, PIECES, Entry, Header, decode, header_length, parse_json, refuse
from .values import VariableRecord, fresh_bytes, of_tensor, parsed
from .writer import rest_of

__all__ = ["TensorFile", "is_whole", "neighbours", "read_bytes", "read_header", "read_into"]

_PIECE = 1 << 20  # bytes to read at once: they are hashed while they are in the processor's cache
_BUFFERS = 512


class TensorFile:
    """An open file of tensors.

    Args:
        path: the path of the file.
        expected: the checksum that its header must have; None for any.

    Raises:
        CheckpointError: the file is damaged, or has another checksum.
    """

    def __init__(self, path: Path, expected: str | None) -> None:
        self.path = path
        self.file = _files.open_file(path)
        try:
            self.total = _files.size(self.file)
            header = read_header(self.file, self.total, path, expected)
            self.begin, self.digest, self.texts = header.begin, header.digest, header.metadata
            self.entries = header.entries
            self.checksums = _checksums(header, path)
            self.variables = _variables(header, path)
        except BaseException:
            _files.close(self.file)
            raise

    def fill(self, arrays: Sequence[HostArray], entries: Sequence[Entry]) -> list[CheckpointError | None]:
        """Reads tensors that follow each other into arrays. Returns the error of each; None if it is whole."""
        views = [memoryview(array) for array in arrays]  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
        errors: list[CheckpointError | None] = []
        for batch in neighbours(entries, _PIECE):
            mine = views[len(errors) : len(errors) + len(batch)]
            if len(batch) > 1:
                read_into(self.file, [view for view in mine if len(view)], self.begin + batch[0].start, self.path)
                digests = [xxhash.xxh3_128(view).hexdigest() for view in mine]
            else:
                digests = [self._digest_of(batch[0], _pieces(mine[0]))]
            errors += map(self._error, batch, digests)
        return errors

    def check(self, entries: Iterable[Entry]) -> list[CheckpointError | None]:
        """Checks tensors, without keeping their bytes. Returns the error of each; None if it is whole."""
        buffer = memoryview(bytearray(_PIECE))
        errors = []
        for entry in entries:
            pieces = (buffer[: entry.nbytes - start] for start in range(0, entry.nbytes, _PIECE))
            errors.append(self._error(entry, self._digest_of(entry, pieces)))
        return errors

    def is_whole(self) -> bool:
        """Whether every tensor has the checksum that it was saved with."""
        return len(self.checksums) == len(self.entries) and not any(self.check(self.entries.values()))

    def _digest_of(self, entry: Entry, pieces: Iterable[memoryview]) -> str:
        """Reads a tensor into pieces of memory, one after the other, and returns its checksum."""
        digest = xxhash.xxh3_128()
        offset = self.begin + entry.start
        for piece in pieces:
            read_into(self.file, [piece], offset, self.path)
            digest.update(piece)
            offset += len(piece)
        return digest.hexdigest()

    def _error(self, entry: Entry, digest: str) -> CheckpointError | None:
        if self.checksums.get(entry.name, digest) == digest:
            return None
        where = f"{self.path}: {entry.name}"
        return CheckpointError.of("load", "the tensor is damaged: its checksum does not match", where)

    def mapped(self, entry: Entry) -> HostArray:
        """Maps the bytes of a tensor into memory, without a check of their checksum."""
        if not entry.nbytes:
            return fresh_bytes(0)
        if _files.size(self.file) < self.total:
            refuse("load", f"the file was cut short after it was opened: it had {self.total} bytes", self.path)
        memory = mmap.mmap(self.file, 0, access=mmap.ACCESS_READ)
        return np.frombuffer(memory, np.uint8, entry.nbytes, self.begin + entry.start)


def read_header(file: int, total: int, path: Path, expected: str | None) -> Header:
    """Reads the header of an open file, and checks it.

    Args:
        file: the file.
        total: its size.
        path: its path, for errors.
        expected: the checksum that the header must have; None for any.

    Raises:
        CheckpointError: the file is damaged, or has another checksum.
    """
    beginning = read_bytes(file, min(8, total), 0, path)
    length = header_length(beginning, total, path)
    header = decode(beginning + read_bytes(file, length, 8, path), total, path)
    if expected is not None and header.digest != expected:
        refuse("load", "the file and the index are from different saves", path)
    return header


def _pieces(memory: memoryview) -> Iterator[memoryview]:
    return (memory[start : start + _PIECE] for start in range(0, len(memory), _PIECE))


def is_whole(path: Path, digest: str) -> bool:
    """Whether a file of tensors exists, its header has this checksum, and no tensor is damaged."""
    try:
        part = TensorFile(path, digest)
        try:
            return part.is_whole()
        finally:
            _files.close(part.file)
    except (CheckpointError, OSError):
        return False


def _checksums(header: Header, path: Path) -> dict[str, str]:
    if header.digest is None:
        return {}
    text = header.metadata.pop(CHECKSUMS, "")
    version = header.metadata.pop("statevar.format", "")
    if version == PIECES:
        hint = "load its index: the folder of the checkpoint, or the path that was saved to"
        refuse("load", "the file has only the part of a checkpoint that one process has saved", path, hint)
    if version != FORMAT:
        refuse("load", "the file was written by a newer statevar", path, "update statevar")
    if len(text) != DIGITS * len(header.entries):
        refuse("load", "the number of checksums differs from the number of tensors", path)
    return {name: text[DIGITS * i : DIGITS * (i + 1)] for i, name in enumerate(header.entries)}


def _variables(header: Header, path: Path) -> dict[str, VariableRecord]:
    entries = header.entries
    backend = header.metadata.pop("statevar.backend", "numpy")
    recorded = parse_json(header.metadata.pop("statevar.variables", "{}").encode(), path)
    variables = {
        name: parsed(name, recorded.pop(name), entry, backend, path) if name in recorded else of_tensor(entry, backend)
        for name, entry in entries.items()
    }
    return variables | {name: parsed(name, value, None, backend, path) for name, value in recorded.items()}


def read_bytes(file: int, count: int, offset: int, path: Path) -> bytes:
    """Reads ``count`` bytes of an open file.

    Raises:
        CheckpointError: the file ends before that.
    """
    memory = bytearray(count)
    read_into(file, [memoryview(memory)], offset, path)
    return bytes(memory)


def read_into(file: int, buffers: list[memoryview], offset: int, path: Path) -> None:
    """Reads bytes of an open file into memory until it is full.

    Raises:
        CheckpointError: the file ends before that.
    """
    while buffers and len(buffers[-1]):
        count = _files.read(file, buffers, offset)
        if count <= 0:
            refuse("load", f"the file ends at byte {offset}, but more bytes should follow", path)
        offset += count
        buffers = rest_of(buffers, count)


def neighbours(entries: Iterable[Entry], limit: int) -> Iterator[list[Entry]]:
    """Groups tensors that follow each other in the file, to read each group at once.

    A group has at most ``limit`` bytes; a larger tensor is a group of its own.
    """
    group: list[Entry] = []
    for entry in sorted(entries, key=lambda each: (each.start, each.stop)):
        adjoins = group and group[-1].stop == entry.start and len(group) < _BUFFERS
        if group and not (adjoins and entry.stop - group[0].start <= limit):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group
