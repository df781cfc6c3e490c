"""Reads blocks of arrays from a checkpoint in pieces: the bytes that are needed, rounded to chunks, each checked.

A block is assembled from the pieces that have a part of it. Contiguous bytes are read where they are to be, without a
copy; others into a buffer of at most 8 MiB.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np

from ..._arrays.dtypes import STORED
from ..._arrays.types import HostArray
from ...errors import CheckpointError
from .. import _files
from .._formats.safetensors.header import digest_of
from .._formats.safetensors.values import PARTIAL, fresh_bytes, from_tensor
from .blocks import Block, shared
from .contents import Contents, Located
from .part import CHUNK, PartFile

__all__ = ["PiecesSource"]

_READERS = min(4, os.cpu_count() or 1)
_WORTH_THREADS = 1 << 20  # bytes that are read faster by several threads
_WINDOW = 8 << 20  # bytes that are read at once
#: Parts that stay open. Of more, each is opened when it is read.
_OPEN = 256


class PiecesSource:
    """The arrays of a checkpoint in pieces: a `Source`, which can also read a block of an array.

    Args:
        folder: where the parts are.
        contents: the parsed index.
        where: the path to name in errors.

    Raises:
        CheckpointError: a part is damaged, missing, or of another save.
    """

    checks_blocks: ClassVar[bool] = True
    has_chunks: ClassVar[bool] = True

    def __init__(self, folder: Path, contents: Contents, where: Path) -> None:
        self.variables = contents.variables
        self.nbytes_read = 0  #: bytes of tensors that were read so far
        self._contents = contents
        self._folder = folder
        self._where = where
        self._lock = Lock()
        self._parts: dict[str, PartFile] = {}
        self._stay_open = len(contents.files) <= _OPEN
        try:
            for name in contents.files if self._stay_open else ():
                self._part(name)
        except BaseException:
            _close(self._parts)
            raise

    def block(self, name: str, block: Block) -> HostArray:
        """Reads a block of an array. Several threads may call this at once.

        Raises:
            CheckpointError: a part of it is damaged.
        """
        record = self.variables[name]
        assert record.shape is not None
        record = record._replace(shape=block.sizes)
        if not block.size or record.dtype == "string":
            return from_tensor(self._text(name) if block.size else fresh_bytes(0), record, f"{self._where}: {name}")
        width = STORED[record.dtype].itemsize
        raw = fresh_bytes(block.size * width)
        target = raw.view(_UNITS[width]).reshape(block.sizes)
        jobs = [
            partial(self._copy, each, common, target[common.index_in(block.offsets)])
            for each in self._contents.pieces[name]
            if (common := shared(each.block, block)) is not None
        ]
        _do(jobs, threads=len(jobs) > 1 and raw.nbytes >= _WORTH_THREADS)
        return from_tensor(raw, record, f"{self._where}: {name}")

    # -- as a source -----------------------------------------------------------------------------------

    def arrays(self, names: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        return {name: self._attempt(partial(self.block, name, self._whole(name))) for name in names}

    def mapped(self, name: str) -> HostArray:
        """Reads an array: its pieces are in several places."""
        return self.block(name, self._whole(name))

    def damage(self, names: Iterable[str]) -> dict[str, CheckpointError]:
        found: dict[str, CheckpointError] = {}
        for name in names:
            pieces = self._contents.pieces[name]
            results = [self._attempt(partial(self._check, each)) for each in pieces]
            error = next((each for each in results if isinstance(each, CheckpointError)), None)
            if error is None and self.variables[name].dtype in PARTIAL:
                for each in pieces:
                    result = self._attempt(partial(self.block, name, each.block))
                    error = result if isinstance(result, CheckpointError) else error
            if error is not None:
                found[name] = error
        return found

    def checksum(self, name: str) -> str | None:
        """Returns a checksum of an array. Two that are equal and cut in the same way have the same one."""
        digests = []
        for each in sorted(self._contents.pieces[name], key=lambda each: each.block):
            part = self._part(each.file)
            digests.append(f"{each.block}{part.checksums(part.entries[each.tensor])}".encode())
        return digest_of(*digests)

    def closer(self) -> Callable[[], object]:
        return partial(_close, self._parts)

    # -- parts -----------------------------------------------------------------------------------------

    def _whole(self, name: str) -> Block:
        shape = self.variables[name].shape
        assert shape is not None
        return Block((0,) * len(shape), shape)

    def _attempt(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except CheckpointError as error:
            return error

    def _part(self, name: str) -> PartFile:
        with self._lock:
            if (part := self._parts.get(name)) is not None:
                return part
        path = self._folder / name
        with _files.os_errors_as("load", path):
            try:
                part = PartFile(path, self._contents.files[name], stays_open=self._stay_open)
            except FileNotFoundError as error:
                raise CheckpointError.of("load", f"the file {name} is missing", str(self._where)) from error
        try:
            self._contents.check(name, part)
        except BaseException:
            part.close()
            raise
        with self._lock:
            kept = self._parts.setdefault(name, part)
        if kept is not part:  # another thread was first
            part.close()
        return kept

    def _text(self, name: str) -> HostArray:
        """The bytes of strings, which are in one piece."""
        (piece,) = self._contents.pieces[name]
        part = self._part(piece.file)
        entry = part.entries[piece.tensor]
        raw = fresh_bytes(entry.nbytes)
        with _files.os_errors_as("load", part.path), part.opened() as file:
            self._count(part.read(file, entry, 0, memoryview(raw)))  # type: ignore[arg-type]  # NumPy's buffer
        return raw

    def _check(self, piece: Located) -> None:
        """Reads a piece in a small buffer, to check it."""
        part = self._part(piece.file)
        entry = part.entries[piece.tensor]
        buffer = memoryview(bytearray(min(CHUNK, entry.nbytes)))
        with _files.os_errors_as("load", part.path), part.opened() as file:
            for start in range(0, entry.nbytes, CHUNK):
                self._count(part.read(file, entry, start // CHUNK, buffer[: entry.nbytes - start]))

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self.nbytes_read += nbytes

    # -- blocks of pieces ------------------------------------------------------------------------------

    def _copy(self, piece: Located, block: Block, target: HostArray) -> None:
        """Reads a block of a piece into an array of its sizes."""
        part = self._part(piece.file)
        with _files.os_errors_as("load", part.path), part.opened() as file:
            waiting = [(block, target)]
            while waiting:
                some, into = waiting.pop()
                start, stop = _span(piece.block, some, into.itemsize)
                if stop - start == into.nbytes and into.flags.c_contiguous:
                    self._read_contiguous(file, part, piece, start, into)
                elif stop - start > _WINDOW and (halves := _halves(some)):
                    waiting += [(half, into[half.index_in(some.offsets)]) for half in halves]
                else:
                    self._read_window(file, part, piece, some, into)

    def _read_contiguous(self, file: int, part: PartFile, piece: Located, start: int, target: HostArray) -> None:
        """Reads bytes that follow each other: whole chunks where they are to be, and those at the ends beside it."""
        entry = part.entries[piece.tensor]
        memory = memoryview(target.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # as in the writer
        at, stop = start, start + len(memory)
        while at < stop:
            chunk = at // CHUNK
            first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, entry.nbytes)
            if first == at and last <= stop:
                whole = (stop - first) // CHUNK * CHUNK or last - first
                end = entry.nbytes if stop == entry.nbytes else first + whole
                end = min(end, first + _WINDOW)
                self._count(part.read(file, entry, chunk, memory[at - start : end - start]))
                at = end
            else:
                buffer = memoryview(bytearray(last - first))
                self._count(part.read(file, entry, chunk, buffer))
                end = min(last, stop)
                memory[at - start : end - start] = buffer[at - first : end - first]
                at = end

    def _read_window(self, file: int, part: PartFile, piece: Located, block: Block, target: HostArray) -> None:
        """Reads the chunks that have a block into a buffer, and copies the block from there."""
        entry, width = part.entries[piece.tensor], target.itemsize
        start, stop = _span(piece.block, block, width)
        first, last = start // CHUNK * CHUNK, min(-(-stop // CHUNK) * CHUNK, entry.nbytes)
        buffer = fresh_bytes(last - first)
        for begin, end in _needed(piece.block, block, width, first, last):
            memory = memoryview(buffer[begin - first : end - first])  # type: ignore[arg-type]  # NumPy's buffer
            self._count(part.read(file, entry, begin // CHUNK, memory))
        elements = _units(buffer[start - first : stop - first], width)
        source = np.lib.stride_tricks.as_strided(elements, block.sizes, _strides(piece.block, width), writeable=False)
        target[...] = source


#: What stands for an element of so many bytes while it is moved.
_UNITS: dict[int, Any] = {
    1: np.dtype("u1"),
    2: np.dtype("u2"),
    4: np.dtype("u4"),
    8: np.dtype("u8"),
    16: np.dtype("V16"),
}


def _units(raw: HostArray, width: int) -> HostArray:
    """Bytes as elements. They need not be aligned."""
    return np.ndarray(raw.nbytes // width, _UNITS[width], raw)


def _strides(whole: Block, width: int) -> tuple[int, ...]:
    """The distances of neighbours in a piece, in bytes."""
    strides, step = [], width
    for size in reversed(whole.sizes):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _span(whole: Block, block: Block, width: int) -> tuple[int, int]:
    """The bytes of a piece from the first element of a block to the end of its last one."""
    strides = _strides(whole, width)
    begin = sum((a - b) * step for a, b, step in zip(block.offsets, whole.offsets, strides, strict=True))
    end = sum((a - 1 - b) * step for a, b, step in zip(block.stops, whole.offsets, strides, strict=True))
    return begin, end + width


def _needed(whole: Block, block: Block, width: int, first: int, last: int) -> list[tuple[int, int]]:
    """The ranges of chunks, between two of them, that have elements of a block."""
    strides = _strides(whole, width)
    starts, length = np.full(1, _span(whole, block, width)[0], np.int64), width
    for axis, (size, step) in enumerate(zip(block.sizes, strides, strict=True)):
        if step <= CHUNK:  # no chunk lies between two elements of this axis
            rest = zip(block.sizes[axis:], strides[axis:], strict=True)
            length += sum((each - 1) * distance for each, distance in rest)
            break
        starts = (starts[:, None] + np.arange(size, dtype=np.int64) * step).reshape(-1)
    needed = np.zeros(-(-(last - first) // CHUNK) + 1, np.int64)
    np.add.at(needed, (starts - first) // CHUNK, 1)
    np.add.at(needed, (starts + length - 1 - first) // CHUNK + 1, -1)
    wanted = np.cumsum(needed)[:-1] > 0
    edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False]))))
    return [
        (first + int(a) * CHUNK, min(first + int(b) * CHUNK, last))
        for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]


def _halves(block: Block) -> Sequence[Block]:
    """The two halves of a block over its first axis that can be cut; none if it is one element."""
    for axis, size in enumerate(block.sizes):
        if size > 1:
            half = size // 2
            sizes = [(*block.sizes[:axis], each, *block.sizes[axis + 1 :]) for each in (half, size - half)]
            second = (*block.offsets[:axis], block.offsets[axis] + half, *block.offsets[axis + 1 :])
            return Block(block.offsets, sizes[0]), Block(second, sizes[1])
    return ()


def _do(jobs: Sequence[Callable[[], None]], *, threads: bool) -> None:
    """Does jobs, in several threads if that is worth it, so that one hashes while another reads."""
    if not threads:
        for job in jobs:
            job()
        return
    with ThreadPoolExecutor(min(_READERS, len(jobs))) as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def _close(parts: dict[str, PartFile]) -> None:
    while parts:
        _, part = parts.popitem()
        with suppress(OSError):  # nothing was written, so nothing is lost
            part.close()
