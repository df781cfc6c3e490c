"""Reads the directory of a zip archive, for the formats that are archives of arrays.

The module zipfile accepts archives that another program reads otherwise, and a hostile directory keeps it busy for
minutes. This one wants what NumPy and torch write, and nothing else: no duplicate names, no members that overlap.

Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from .reader import ByteFile
from .safetensors.header import refuse

__all__ = ["Archive", "Member"]

_END = struct.Struct("<4s4H2LH")  # the end record of the archive
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")  # the record of one member in the directory
_LOCAL = struct.Struct("<4s5H3L2H")  # the record before the bytes of a member
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 1, 1 << 11
_MOST_MEMBERS = 200_000  # parsing them takes half a second
_LONGEST_COMMENT = 0xFFFF
_MAXIMUM = 0xFFFFFFFF
_LARGEST_RATIO = 1032  # of deflate: a byte becomes no more than these
_PIECE = 1 << 20


class Member(NamedTuple):
    """A member of an archive.

    Attributes:
        name: its name.
        start: where its bytes begin in the file.
        size: the number of its bytes.
        stored: the number of bytes in the file: fewer if it is compressed.
        is_compressed: whether it is compressed.
        crc: the checksum of its bytes.
    """

    name: str
    start: int
    size: int
    stored: int
    is_compressed: bool
    crc: int


class Archive:
    """An open zip archive.

    Args:
        path: its path, which errors name.
        file: the file, if it is open already, or is a part of another one.

    Raises:
        CheckpointError: it is damaged, or uses what neither NumPy nor torch do.
    """

    def __init__(self, path: Path, file: ByteFile | None = None) -> None:
        self.path = path
        self.file = file or ByteFile(path)
        try:
            self._records = self._parsed()
        except BaseException:
            self.file.close()
            raise

    def __iter__(self) -> Iterator[str]:
        """Iterates over the names."""
        return iter(self._records)

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def member(self, name: str) -> Member:
        """Returns the place of a member, after a look at the record before its bytes."""
        record = self._records[name]
        encoded, header = record.name, self.file.read(_LOCAL.size + len(record.name), record.header)
        magic, _, flags, method, *_, name_length, extra = _LOCAL.unpack_from(header)
        if magic != b"PK\x03\x04" or name_length != len(encoded) or header[_LOCAL.size :] != encoded:
            self._refuse(f"the record of {name!r:.100} does not match the directory")
        if (flags | record.flags) & _ENCRYPTED or method != record.method or method not in (_STORED, _DEFLATED):
            self._refuse(f"{name!r:.100} is encrypted, or compressed in an unusual way")
        start = record.header + len(header) + extra
        self.file.check(record.stored, start)
        if method == _STORED and record.stored != record.size:
            self._refuse(f"{name!r:.100} has two different sizes")
        if method == _DEFLATED and record.size > _LARGEST_RATIO * record.stored:
            self._refuse(f"{name!r:.100} claims more bytes than {record.stored} compressed ones can give")
        return Member(name, start, record.size, record.stored, method == _DEFLATED, record.crc)

    def read(self, name: str, limit: int) -> bytes:
        """Returns the bytes of a member that is not compressed and has at most ``limit`` bytes."""
        member = self.member(name)
        if member.is_compressed or member.size > limit:
            self._refuse(f"{name!r:.100} is compressed, or has more than {limit} bytes")
        content = self.file.read(member.size, member.start)
        if zlib.crc32(content) != member.crc:
            self._refuse(f"{name!r:.100} does not match its checksum")
        return content

    def inflate(self, member: Member, memory: memoryview, skipped: int = 0) -> None:
        """Fills memory with the bytes of a compressed member after the first ``skipped`` ones.

        If the memory reaches to the end of the member, the checksum is checked too.
        """
        inflater, crc, done, place, pending = zlib.decompressobj(-zlib.MAX_WBITS), 0, 0, member.start, b""
        end = member.start + member.stored
        wanted = skipped + len(memory)
        while done < wanted:
            if not pending and place < end:
                pending = self.file.read(min(_PIECE, end - place), place)
                place += len(pending)
            try:
                piece = inflater.decompress(pending, min(_PIECE, wanted - done))
            except zlib.error as error:
                self._refuse(f"{member.name!r:.100} is damaged: {error}")
            if not piece and (inflater.eof or (not inflater.unconsumed_tail and place >= end)):
                self._refuse(f"{member.name!r:.100} ends after {done} bytes, and claims {member.size}")
            pending = inflater.unconsumed_tail
            crc = zlib.crc32(piece, crc)
            begin = max(0, skipped - done)
            if begin < len(piece):
                at = max(0, done - skipped)
                memory[at : at + len(piece) - begin] = piece[begin:]
            done += len(piece)
        if wanted == member.size and crc != member.crc:
            self._refuse(f"{member.name!r:.100} does not match its checksum")

    def _refuse(self, problem: str) -> NoReturn:
        refuse("load", f"the zip archive cannot be read: {problem}", self.path)

    def _parsed(self) -> dict[str, _Record]:
        count, size, offset, end = self._directory()
        if count > _MOST_MEMBERS:
            self._refuse(f"it has {count} members, and the limit is {_MOST_MEMBERS}")
        if offset + size > end or size < count * _CENTRAL.size:
            self._refuse("its directory is not where its end record says")
        content = self.file.read(size, offset)
        records: dict[str, _Record] = {}
        place = 0
        for _ in range(count):
            if place + _CENTRAL.size > size:
                self._refuse("its directory is cut short")
            magic, _, _, flags, method, _, _, crc, stored, length, n, m, k, disk, _, _, header = _CENTRAL.unpack_from(
                content, place
            )
            place += _CENTRAL.size
            encoded, extra = content[place : place + n], content[place + n : place + n + m]
            place += n + m + k
            if magic != b"PK\x01\x02" or place > size:
                self._refuse("its directory is damaged")
            if _MAXIMUM in (stored, length, header) or disk:
                length, stored, header = self._wide(extra, length, stored, header, disk)
            try:
                name = encoded.decode("utf-8" if flags & _UTF8 else "cp437")
            except UnicodeDecodeError:
                self._refuse("a name is no UTF-8")
            if name in records:
                self._refuse(f"the name {name!r:.100} occurs twice")
            records[name] = _Record(encoded, header, length, stored, method, flags, crc)
        self._check_places(records, offset)
        return records

    def _directory(self) -> tuple[int, int, int, int]:
        """The number of members, the size and the place of the directory, and the place of the end record."""
        size = self.file.size
        tail = self.file.read(min(size, _END.size + _LONGEST_COMMENT), max(0, size - _END.size - _LONGEST_COMMENT))
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or at + _END.size > len(tail):
            self._refuse("it has no end record, so it may be cut short")
        end = size - len(tail) + at
        _, disk, first_disk, here, count, length, offset, _ = _END.unpack_from(tail, at)
        if end >= _LOCATOR.size and (found := self.file.read(_LOCATOR.size, end - _LOCATOR.size)).startswith(
            b"PK\x06\x07"
        ):
            _, _, end, _ = _LOCATOR.unpack(found)
            magic, _, _, _, disk, first_disk, here, count, length, offset = _END_64.unpack(
                self.file.read(_END_64.size, end)
            )
            if magic != b"PK\x06\x06":
                self._refuse("its end record is damaged")
        if disk or first_disk or here != count:
            self._refuse("it has several parts")
        return count, length, offset, end

    def _wide(self, extra: bytes, size: int, stored: int, header: int, disk: int) -> tuple[int, int, int]:
        """The numbers of a record that take 64 bits, which are in its extra field."""
        place, numbers = 0, ()
        while place + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, place)
            if kind == 1:
                field = extra[place + 4 : place + 4 + length]
                numbers = struct.unpack_from(f"<{len(field) // 8}Q", field)
                break
            place += 4 + length
        wanted = [each == _MAXIMUM for each in (size, stored, header)]
        if disk or len(numbers) < sum(wanted):
            self._refuse("a record of its directory is damaged")
        found = iter(numbers)
        size, stored, header = (
            next(found) if is_wide else each for is_wide, each in zip(wanted, (size, stored, header), strict=True)
        )
        return size, stored, header

    def _check_places(self, records: dict[str, _Record], directory: int) -> None:
        """Refuses members that overlap: such archives expand to any size."""
        end = 0
        for record in sorted(records.values(), key=lambda each: each.header):
            if record.header < end:
                self._refuse("two members overlap")
            end = record.header + _LOCAL.size + len(record.name) + record.stored
        if end > directory:
            self._refuse("a member overlaps the directory")


class _Record(NamedTuple):
    name: bytes
    header: int
    size: int
    stored: int
    method: int
    flags: int
    crc: int
