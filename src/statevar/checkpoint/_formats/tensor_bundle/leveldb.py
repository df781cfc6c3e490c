"""The sorted table of LevelDB, which is the index of a TensorFlow checkpoint.

::

    data blocks, a block of metadata, the index block; each with its type and its checksum behind it
    footer    48 bytes: the places of the block of metadata and of the index block, zeros, the magic number

A block is a list of (key, value) in the order of the keys, of which each shares its beginning with the one before. The
values of the index block are the places of the data blocks.

Source: https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..reader import LONGEST_HEADER
from ..safetensors.header import refuse
from .crc32c import crc32c, masked
from .wire import varint

__all__ = ["MAGIC", "entries_of"]

MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  #: the last bytes of a table
_FOOTER = 48
_TRAILER = 5  # bytes behind a block: its type, and its checksum
_SNAPPY = 1


def entries_of(table: bytes, where: Any) -> Iterator[tuple[bytes, bytes]]:
    """Returns the keys and values of a table.

    Raises:
        CheckpointError: the table is damaged.
    """
    if len(table) < _FOOTER or not table.endswith(MAGIC):
        refuse("load", "the index is damaged: it does not end as an index of TensorFlow does", where)
    footer = table[-_FOOTER:]
    _, _, at = _place(footer, 0, where)
    start, size, _ = _place(footer, at, where)
    last, total, used = b"", 0, 0
    for _, place in _entries(_block(table, start, size, where), where):
        begin, length, _ = _place(place, 0, where)
        if begin < used:  # else a small file could have us read one block again and again
            refuse("load", "the index is damaged: its blocks overlap", where)
        used = begin + length + _TRAILER
        for key, value in _entries(_block(table, begin, length, where), where):
            if key <= last and total:
                refuse("load", "the index is damaged: its names are out of order", where)
            total += len(key) + 1
            if total > LONGEST_HEADER:  # since a name shares its beginning with the one before
                refuse("load", f"the names in the index take more than {LONGEST_HEADER} bytes", where)
            last = key
            yield key, value


def _place(data: bytes, at: int, where: Any) -> tuple[int, int, int]:
    """The offset and the size of a block, and the offset behind these two."""
    offset, at = varint(data, at, where)
    size, at = varint(data, at, where)
    return offset, size, at


def _block(table: bytes, offset: int, size: int, where: Any) -> bytes:
    if offset + size + _TRAILER > len(table) - _FOOTER:
        refuse("load", "the index is damaged: a block reaches beyond it", where)
    stored = table[offset : offset + size + _TRAILER]
    if masked(crc32c(stored[:-4])) != int.from_bytes(stored[-4:], "little"):
        refuse("load", "the index is damaged: the checksum of a block does not match", where)
    if stored[size]:
        kind = "with Snappy" if stored[size] == _SNAPPY else "in an unknown way"
        hint = "load it with tf.train.Checkpoint, and write it again: TensorFlow does not compress it any more"
        refuse("load", f"the index is compressed {kind}", where, hint)
    return stored[:size]


def _entries(block: bytes, where: Any) -> Iterator[tuple[bytes, bytes]]:
    # At the end is a list of the entries that are stored with their whole keys, to search in: not needed here.
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if len(block) < 4 or end < 0:
        refuse("load", "the index is damaged: a block is too short", where)
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at, where)
        fresh, at = varint(block, at, where)
        length, at = varint(block, at, where)
        stop = at + fresh + length
        if shared > len(key) or stop > end:
            refuse("load", "the index is damaged: an entry reaches beyond its block", where)
        key = key[:shared] + block[at : at + fresh]
        yield key, block[at + fresh : stop]
        at = stop
