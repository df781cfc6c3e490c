"""How a pool lies in its file: the words of a record, and the forms that show damage.

A pool is one file::

    header page      | magic, layout, id, checksum | one word: where the newest block begins
    block            | magic, the block before, how many records, checksum | index (JSON) | records | first slots
    slot             | one copy of a value; made when a further one is needed
    block            | ... of the variables that were added later

What never changes (header, blocks and their indices) has a checksum. A word that changes has a form of which only
some values are valid: an offset and a version have a remainder beside them, which one flipped bit always contradicts.
Everything is little-endian, and a word is 8 bytes at a multiple of 8, which the processor stores at once.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
from typing import Any

import xxhash

from ..errors import SharedError

__all__ = [
    "BOOT",
    "CHECK",
    "CURRENT",
    "DECIDED",
    "DIRTY",
    "DURABLE",
    "FIRST",
    "HEAD",
    "LOG",
    "LOGGED",
    "MAGIC",
    "NEXT",
    "OFFSETS",
    "OWNER",
    "PAGE",
    "RECORD",
    "RECOVERIES",
    "SINCE",
    "SLOTS",
    "SMALL",
    "SUMS",
    "SYNCED",
    "TRANSACTION",
    "UNMADE",
    "VERSION",
    "VERSIONS",
    "WAITERS",
    "WAITS_FOR",
    "WEAK",
    "WRITING",
    "Block",
    "Header",
    "damaged",
    "is_transaction",
    "new_transaction",
    "open_offset",
    "pending_check",
    "quiet_of",
    "rounded",
    "salts_of",
    "sealed_offset",
    "stamp_of",
]

PAGE = 4096
#: The bytes of a record, and the copies of a value that it can have.
RECORD, SLOTS = 1024, 16
#: Values with fewer bytes are copied by their readers; the slots of larger ones are leased.
SMALL = 65536
#: The number of the layout, which another program must know to open the file.
LAYOUT = 1

# The words of a record.
CURRENT = 0  #: slot << 48 | version: the value. The store of this word is the commit of a write.
TRANSACTION = 1  #: the number of a transaction that has prepared a write of this record, or the record's word for none
FIRST = 2  #: the number of the record of which DECIDED decides that transaction
NEXT = 3  #: what CURRENT becomes when it is decided
CHECK = 4  #: of the three words before
DECIDED = 5  #: the number of the last transaction that was decided here
OWNER = 6  #: the process that has the claim
SINCE = 7  #: since when, in nanoseconds of the monotonic clock
WRITING = 8  #: not 0 while a write has begun and is not finished
WAITERS = 9  #: one more than the newest version at which somebody sleeps until the next one
RECOVERIES = 10  #: how often an owner had died before it was finished
WAITS_FOR = 11  #: the record for which the owner of this one waits, or 0
SYNCED = 12  #: (slot + 1) << 48 | version, on the disk with even generations; the next word: with odd ones
OFFSETS = 16  #: where each slot lies, sealed; 0 if it was not made
VERSIONS = 32  #: of which version each slot is, sealed; DIRTY while it is written, UNMADE before it was made
SUMS = 48  #: a checksum of each slot, from when it was last synced
LOG = 64  #: the ring of changes: of each, its version (sealed), the first row and how many versions it covers, the end
#: How many changes the ring has.
LOGGED = 21

#: Whether this processor may move loads and stores over each other, so that the code needs barriers.
WEAK = os.uname().machine not in ("x86_64", "i686") if hasattr(os, "uname") else True

DIRTY = (1 << 64) - 1
#: Of a slot that was never made.
UNMADE = (1 << 64) - 2
#: The part of CURRENT that is the version.
VERSION = (1 << 48) - 1

#: The word of the header page that says where the newest block begins. Its store is the commit of what was added.
HEAD = 32
#: Of the header page as well: the number of the last generation on the disk, and of the start of the machine.
DURABLE, BOOT = 33, 34

_HEADER = struct.Struct("<8sIIII32s8s")
_BLOCK = struct.Struct("<8sQQQQQQ32s")
_SUM = struct.Struct("<Q")
#: What the file of a pool begins with.
MAGIC = b"SVSHARED"
_BLOCK_MAGIC = b"SVBLOCK\0"
_INDEX_AT = 128  # in a block
# Primes: a flipped bit changes a number by a power of two, which is no multiple of them.
_OF_OFFSETS, _OF_TRANSACTIONS, _OF_VERSIONS = 16777213, 65521, 65521
_UNIT = 64  # of offsets: JAX and TensorFlow share memory only with this alignment


def damaged(name: str, problem: str) -> SharedError:
    """The error for a pool that cannot be used."""
    hint = "open another copy of it, or remove it with sv.shared.unlink and share the model anew"
    return SharedError.of("shared", f"the file of {name!r} is damaged: {problem}", hint=hint)


def salts_of(pool: str, index: int) -> list[int]:
    """Numbers for the forms of the words of each slot, so that a word of another record or pool is noticed."""
    salt = int(pool, 16) + index * SLOTS
    return [(salt + slot) * 40503 % _OF_VERSIONS for slot in range(SLOTS)]


def stamp_of(version: int, salt: int) -> int:
    """The word of a slot that has a version."""
    return version << 16 | (version * 40503 + salt) % _OF_VERSIONS


def rounded(nbytes: int, unit: int = PAGE) -> int:
    """The next multiple of ``unit``, which is at least one unit."""
    return -(-max(nbytes, 1) // unit) * unit


def sealed_offset(offset: int, salt: int) -> int:
    """A word that says where something lies, and shows if a bit of it was flipped."""
    units = offset // _UNIT
    return units << 24 | (units + salt) % _OF_OFFSETS


def open_offset(word: int, salt: int) -> int | None:
    """The offset in a word of `sealed_offset`; None if the word is damaged."""
    units = word >> 24
    return units * _UNIT if (units + salt) % _OF_OFFSETS == word & 0xFFFFFF else None


def new_transaction(salt: int) -> int:
    """A random number for a transaction that one record decides, so that a dropped one never looks decided.

    Args:
        salt: the first one of that record.
    """
    return (secrets.randbits(46) + 1) * _OF_TRANSACTIONS + salt


def is_transaction(number: int, salt: int) -> bool:
    """Whether a word can be the number of a transaction that this record decides; no word with one flipped bit can."""
    return number % _OF_TRANSACTIONS == salt and number >= _OF_TRANSACTIONS


def quiet_of(pool: str, index: int) -> int:
    """The word that says that no transaction has prepared a write of a record; a damaged word says something else."""
    return xxhash.xxh3_64_intdigest(f"{pool} {index}".encode()) | 1 << 63


def pending_check(transaction: int, first: int, following: int) -> int:
    """The checksum of what a record says of a transaction that has prepared a write of it."""
    return xxhash.xxh3_64_intdigest(struct.pack("<QQQ", transaction, first, following))


class Header:
    """The part of the first page that never changes."""

    def __init__(self, pool: str, durable: str) -> None:
        self.pool, self.durable = pool, durable

    def encode(self) -> bytes:
        fields = _HEADER.pack(MAGIC, LAYOUT, PAGE, RECORD, SLOTS, self.pool.encode(), self.durable.encode())
        return fields + _SUM.pack(xxhash.xxh3_64_intdigest(fields))

    @classmethod
    def decode(cls, page: bytes, name: str) -> Header:
        """Reads the header of the file of a pool.

        Raises:
            SharedError: it is no file of a pool, or is of another layout, or is damaged.
        """
        size = _HEADER.size
        if len(page) < PAGE:
            raise damaged(name, f"it has {len(page)} bytes, and the header alone has {PAGE}")
        magic, layout, *sizes, pool, durable = _HEADER.unpack(page[:size])
        if magic != MAGIC:
            hint = "pass the path of a file that sv.share has made"
            raise SharedError.of("shared", f"{name!r} is no file of shared variables", hint=hint)
        if layout != LAYOUT:
            hint = "open it with the version of statevar that made it"
            raise SharedError.of("shared", f"{name!r} has layout {layout}, and this version has {LAYOUT}", hint=hint)
        if _SUM.unpack_from(page, size)[0] != xxhash.xxh3_64_intdigest(page[:size]) or sizes != [PAGE, RECORD, SLOTS]:
            raise damaged(name, "the checksum of the header is wrong")
        return cls(pool.decode(), durable.rstrip(b"\0").decode())


class Block:
    """The variables that were added to a pool at one time: their index, and where their records lie."""

    def __init__(self, at: int, previous: int, first: int, index: list[dict[str, Any]], end: int = 0) -> None:
        self.at, self.previous, self.first, self.index, self.end = at, previous, first, index, end
        self._json = json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode()
        self.records = at + rounded(_INDEX_AT + len(self._json))

    @property
    def slots(self) -> int:
        """Where the first slot begins: behind the records."""
        return self.records + rounded(len(self.index) * RECORD)

    def encode(self, pool: str) -> bytes:
        numbers = (self.previous, self.first, len(self.index), len(self._json), self.records, self.end)
        fields = _BLOCK.pack(_BLOCK_MAGIC, *numbers, pool.encode())
        total = xxhash.xxh3_64_intdigest(fields + self._json)
        return (fields + _SUM.pack(total)).ljust(_INDEX_AT, b"\0") + self._json

    @classmethod
    def decode(cls, read: Any, at: int, size: int, pool: str, name: str) -> Block:
        """Reads a block.

        Args:
            read: ``read(offset, nbytes)`` gives bytes of the file.
            at: where it begins.
            size: the bytes of the file.

        Raises:
            SharedError: it is damaged, or the file was cut short.
        """
        problem = f"the list of variables at {at:,} cannot be read"
        if at % PAGE or not PAGE <= at <= size - _INDEX_AT:
            raise damaged(name, f"{problem}: the file has {size:,} bytes")
        start = read(at, _INDEX_AT)
        fields = start[: _BLOCK.size]
        magic, previous, first, count, length, records, end, owner = _BLOCK.unpack(fields)
        if magic != _BLOCK_MAGIC or length > size - at - _INDEX_AT:
            raise damaged(name, f"{problem}: it does not begin there")
        text = read(at + _INDEX_AT, length)
        if xxhash.xxh3_64_intdigest(fields + text) != _SUM.unpack_from(start, _BLOCK.size)[0] or owner != pool.encode():
            raise damaged(name, f"{problem}: its checksum is wrong")
        if end > size:
            raise damaged(name, f"it was cut short: it has {size:,} bytes, of {end:,}")
        block = cls(at, previous, first, json.loads(text), end)
        if (block.records, len(block.index)) != (records, count) or previous >= at:
            raise damaged(name, f"{problem}: it contradicts itself")
        return block
