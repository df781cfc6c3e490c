"""The file that one process writes: an ordinary file of safetensors, whose tensors are pieces of arrays.

Its metadata are those of any file of ours, with ``2`` for ``statevar.format``, and instead of the checksums of whole
tensors:

=====================  =====================================================================================
``statevar.pieces``    JSON: by tensor, the path of its variable, and the offsets of the piece in the array
``statevar.chunks``    the xxh3-64 of each MiB of each tensor, 16 hexadecimal digits each, in the header's order
=====================  =====================================================================================

So a part of a piece can be read and checked without the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from ..._arrays.backend import Backend
from ..._arrays.dtypes import STORED
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ...errors import CheckpointError, ComputationError
from .. import _files
from .._formats.safetensors.header import (
    CODES,
    PIECES,
    Entry,
    Header,
    encode,
    laid_out,
    parse_json,
    refuse,
    room_for_checksums,
    with_checksums,
)
from .._formats.safetensors.reader import read_header, read_into
from .._formats.safetensors.values import code_of, tensor_shape, to_tensor
from .._formats.safetensors.writer import Stream, write_all
from .blocks import Block, cut

__all__ = ["CHUNK", "PartFile", "Pieces", "Wrote", "nbytes_of", "write_part"]

CHUNK = 1 << 20  #: bytes that have a checksum of their own
#: The largest tensor of a small checkpoint: who needs another part of the array reads few bytes that he does not want.
_TILE = 1 << 20
#: The number of such tensors in a large checkpoint, whose tensors are larger. Each takes 0.2 kB of headers.
_MOST_TILES = 1 << 16
_CHUNKS = "statevar.chunks"
_DIGITS = 16  # of a checksum, xxh3_64 in hexadecimal


@dataclass(slots=True)
class Pieces:
    """Some pieces of a variable, from one array. ``array`` is released once they are written.

    Attributes:
        path: the path of the variable.
        dtype: the name of its dtype.
        shape: its whole shape.
        backend: the adapter of the array.
        array: a block of the value.
        origin: where in the value the array begins.
        blocks: what is to be written of it, as blocks of the value.
    """

    path: str
    dtype: str
    shape: Shape
    backend: Backend
    array: Any
    origin: Shape
    blocks: list[Block]

    def host(self) -> HostArray:
        """Returns the array in host memory, and releases it."""
        array, self.array = self.array, None
        try:
            return self.backend.packed(array)
        except self.backend.late_errors as error:
            raise ComputationError.late("save", self.backend.name, error, self.path) from error


class Wrote(NamedTuple):
    """The facts about a complete part: the checksum of its header, and its size in bytes."""

    digest: str
    nbytes: int


def write_part(
    file: int,
    pieces: Sequence[Pieces],
    paths: Sequence[str],
    total: int,
    wrote: Callable[[int], None] | None = None,
) -> Wrote:
    """Writes a part, and waits until it is on the disk. Beside the arrays it takes the memory of one tensor.

    Args:
        file: the open file.
        pieces: what it is to contain.
        paths: the paths of all variables of the checkpoint, which are no names of other tensors.
        total: the size of the whole checkpoint in bytes.
        wrote: called after each write, with the number of bytes written.
    """
    known, limit = frozenset(paths), max(_TILE, total // _MOST_TILES)
    ordered = sorted(pieces, key=lambda each: -CODES[code_of(each.dtype)])
    texts = [to_tensor(each.host(), "string") if each.dtype == "string" else None for each in ordered]
    tensors: list[tuple[str, str, Shape]] = []
    places: dict[str, list[Any]] = {}
    tiles: list[list[Block]] = []
    for each, text in zip(ordered, texts, strict=True):
        tiles.append(_tiles(each, limit))
        for tile in tiles[-1]:
            name = _name(each, tile, known)
            stored = tensor_shape(each.dtype, tile.sizes) if text is None else text.shape
            tensors.append((name, code_of(each.dtype), stored))
            places[name] = [each.path, tile.offsets]
    entries = laid_out(tensors)
    metadata = {"statevar.format": PIECES, "statevar.pieces": _json(places)}
    count = sum(_count(entry.nbytes) for entry in entries)
    header = encode(entries, metadata | room_for_checksums(count, _CHUNKS, _DIGITS))
    stream = Stream(file, len(header), wrote)
    digests: list[str] = []
    for each, text, mine in zip(ordered, texts, tiles, strict=True):
        host = each.host() if text is None else None
        for tile in mine:
            tensor = text if host is None else to_tensor(host[tile.index_in(each.origin)], each.dtype)
            assert tensor is not None
            memory = memoryview(tensor)  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
            for start in range(0, len(memory), CHUNK):
                chunk = memory[start : start + CHUNK]
                digests.append(xxhash.xxh3_64_hexdigest(chunk))  # while it is in the processor's cache
                stream.add(chunk)
        del host
    stream.flush()
    header, digest = with_checksums(header, digests, _CHUNKS)
    write_all(file, [memoryview(header)], 0)
    _files.sync(file)
    return Wrote(digest, stream.offset)


def nbytes_of(pieces: Pieces) -> int:
    """The number of bytes that pieces take, but for strings."""
    width: int = 0 if pieces.dtype == "string" else STORED[pieces.dtype].itemsize
    return sum(block.size for block in pieces.blocks) * width


def _tiles(pieces: Pieces, limit: int) -> list[Block]:
    if pieces.dtype == "string":
        return [block for block in pieces.blocks if block.size]
    width = STORED[pieces.dtype].itemsize
    return [tile for block in pieces.blocks if block.size for tile in cut(block, pieces.shape, width, limit)]


def _name(pieces: Pieces, tile: Block, known: frozenset[str]) -> str:
    """The name of a tensor: the path if it is the whole value, else the path and where the piece lies."""
    if tile.sizes == pieces.shape:
        return pieces.path
    name = f"{pieces.path}[{tile.ranges()}]"
    while name in known:  # the path of another variable looks like that
        name += "'"
    return name


def _count(nbytes: int) -> int:
    return -(-nbytes // CHUNK)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class PartFile:
    """A part that is open, or that is opened for each read.

    Args:
        path: the path of the file.
        expected: the checksum that its header must have.
        stays_open: whether the file stays open until `close`, so that it can be read after it was removed.

    Raises:
        CheckpointError: the file is damaged, or is of another save.
    """

    def __init__(self, path: Path, expected: str, *, stays_open: bool = True) -> None:
        self.path = path
        self.file: int | None = _files.open_file(path)
        try:
            self.total = _files.size(self.file)
            header = read_header(self.file, self.total, path, expected)
            self._begin = header.begin
            self.entries = header.entries
            #: By tensor, the path of its variable and the offsets of the piece.
            self.places: Mapping[str, Any] = _places(header, path)
            self._chunks = header.metadata.get(_CHUNKS, "")
            self._first: dict[str, int] = {}
            count = 0
            for name, entry in self.entries.items():
                self._first[name] = count
                count += _count(entry.nbytes)
            if len(self._chunks) != _DIGITS * count:
                refuse("load", "the number of checksums differs from the number of chunks", path)
        except BaseException:
            self.close()
            raise
        if not stays_open:
            self.close()

    def close(self) -> None:
        """Closes the file, once."""
        file, self.file = self.file, None
        if file is not None:
            _files.close(file)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The open file."""
        if self.file is not None:
            yield self.file
            return
        file = _files.open_file(self.path)
        try:
            yield file
        finally:
            _files.close(file)

    def checksums(self, entry: Entry) -> str:
        """The checksums of a tensor's chunks, one after the other."""
        first = self._first[entry.name]
        return self._chunks[_DIGITS * first : _DIGITS * (first + _count(entry.nbytes))]

    def read(self, file: int, entry: Entry, chunk: int, memory: memoryview) -> int:
        """Reads the chunks of a tensor from one on, as many as memory has room for, and checks them.

        Args:
            file: the open file.
            entry: the tensor.
            chunk: the number of the first chunk.
            memory: as long as whole chunks, or as the rest of the tensor.

        Returns:
            The number of bytes that were read.
        """
        read_into(file, [memory], self._begin + entry.start + chunk * CHUNK, self.path)
        first = self._first[entry.name] + chunk
        for at in range(0, len(memory), CHUNK):
            digest = xxhash.xxh3_64_hexdigest(memory[at : at + CHUNK])
            place = _DIGITS * (first + at // CHUNK)
            if digest != self._chunks[place : place + _DIGITS]:
                raise CheckpointError.of(
                    "load", "the tensor is damaged: its checksum does not match", f"{self.path}: {entry.name}"
                )
        return len(memory)


def _places(header: Header, path: Path) -> dict[str, Any]:
    if header.metadata.get("statevar.format") != PIECES:
        refuse("load", "the index names a file that is no part of a checkpoint in pieces", path)
    places = parse_json(header.metadata.get("statevar.pieces", "{}").encode(), path)
    if places.keys() != header.entries.keys():
        refuse("load", "statevar.pieces must say of each tensor where it belongs", path)
    return places
