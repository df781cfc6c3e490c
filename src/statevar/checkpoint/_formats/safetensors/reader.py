"""One file of tensors, open: its header is read, its tensors are read when they are wanted, and checked."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from ...._arrays.types import HostArray
from ....errors import CheckpointError
from ... import _files
from .header import DIGITS, FORMAT, Entry, Header, decode, header_length, parse_json, refuse
from .values import VariableRecord, fresh_bytes, of_tensor, parsed
from .writer import rest_of

__all__ = ["TensorFile", "is_whole", "neighbours", "read_bytes"]

_PIECE = 1 << 20  # bytes that are read at once, and are hashed while they are in the cache
_BUFFERS = 512


class TensorFile:
    """One file of tensors, open."""

    def __init__(self, path: Path, expected: str | None) -> None:
        self.path = path
        self.file = _files.open_file(path)
        try:
            self.total = _files.size(self.file)
            beginning = read_bytes(self.file, min(8, self.total), 0, path)
            length = header_length(beginning, self.total, path)
            header = decode(beginning + read_bytes(self.file, length, 8, path), self.total, path)
            if expected is not None and header.digest != expected:
                refuse("load", "the file belongs to another save than the index", path)
            self.begin, self.digest, self.texts = header.begin, header.digest, header.metadata
            self.entries = header.entries
            self.checksums = _checksums(header, path)
            self.variables = _variables(header, path)
        except BaseException:
            _files.close(self.file)
            raise

    def fill(self, arrays: Sequence[HostArray], entries: Sequence[Entry]) -> list[CheckpointError | None]:
        """Reads the bytes of tensors that lie one after the other, and checks them; an error for each damaged one."""
        views = [memoryview(array) for array in arrays]  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
        errors: list[CheckpointError | None] = []
        for batch in neighbours(entries, _PIECE):
            mine = views[len(errors) : len(errors) + len(batch)]
            if len(batch) > 1:
                _read_into(self.file, [view for view in mine if len(view)], self.begin + batch[0].start, self.path)
                digests = [xxhash.xxh3_128(view).hexdigest() for view in mine]
            else:
                digests = [self._digest_of(batch[0], _pieces(mine[0]))]
            errors += map(self._error, batch, digests)
        return errors

    def check(self, entries: Iterable[Entry]) -> list[CheckpointError | None]:
        """As `fill`, with no more memory than a piece, and nothing kept."""
        buffer = memoryview(bytearray(_PIECE))
        errors = []
        for entry in entries:
            pieces = (buffer[: entry.nbytes - start] for start in range(0, entry.nbytes, _PIECE))
            errors.append(self._error(entry, self._digest_of(entry, pieces)))
        return errors

    def is_whole(self) -> bool:
        """Whether each tensor has the checksum that it was saved with."""
        return len(self.checksums) == len(self.entries) and not any(self.check(self.entries.values()))

    def _digest_of(self, entry: Entry, pieces: Iterable[memoryview]) -> str:
        """Of a tensor, which is read to pieces of memory, one after the other."""
        digest = xxhash.xxh3_128()
        offset = self.begin + entry.start
        for piece in pieces:  # is hashed while it is in the cache
            _read_into(self.file, [piece], offset, self.path)
            digest.update(piece)
            offset += len(piece)
        return digest.hexdigest()

    def _error(self, entry: Entry, digest: str) -> CheckpointError | None:
        if self.checksums.get(entry.name, digest) == digest:
            return None
        where = f"{self.path}: {entry.name}"
        return CheckpointError.of("load", "the tensor is damaged: its checksum does not fit", where)

    def mapped(self, entry: Entry) -> HostArray:
        """The bytes of a tensor as they lie in the file, not checked."""
        if not entry.nbytes:
            return fresh_bytes(0)
        if _files.size(self.file) < self.total:
            refuse("load", f"the file was cut short: it had {self.total} bytes", self.path)
        memory = mmap.mmap(self.file, 0, access=mmap.ACCESS_READ)
        return np.frombuffer(memory, np.uint8, entry.nbytes, self.begin + entry.start)


def _pieces(memory: memoryview) -> Iterator[memoryview]:
    return (memory[start : start + _PIECE] for start in range(0, len(memory), _PIECE))


def is_whole(path: Path, digest: str) -> bool:
    """Whether a file of tensors is there, is the one that has this checksum, and is not damaged."""
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
    text = header.metadata.pop("statevar.checksums", "")
    if header.metadata.pop("statevar.format", "") != FORMAT:
        refuse("load", "the file was written by a newer statevar", path, "update statevar")
    if len(text) != DIGITS * len(header.entries):
        refuse("load", "the file has not one checksum for each tensor", path)
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
    """Some bytes of an open file, as many as were asked for."""
    memory = bytearray(count)
    _read_into(file, [memoryview(memory)], offset, path)
    return bytes(memory)


def _read_into(file: int, buffers: list[memoryview], offset: int, path: Path) -> None:
    while buffers and len(buffers[-1]):
        count = _files.read(file, buffers, offset)
        if count <= 0:
            refuse("load", f"the file ends at byte {offset}, where more should come", path)
        offset += count
        buffers = rest_of(buffers, count)


def neighbours(entries: Iterable[Entry], limit: int) -> Iterator[list[Entry]]:
    """Groups of tensors that lie one after the other, to be read at once; a large one is alone."""
    group: list[Entry] = []
    for entry in sorted(entries, key=lambda each: (each.start, each.stop)):
        adjoins = group and group[-1].stop == entry.start and len(group) < _BUFFERS
        if group and not (adjoins and entry.stop - group[0].start <= limit):
            yield group
            group = []
        group.append(entry)
    if group:
        yield group
