"""The safetensors file format: a header of names, dtypes, shapes and offsets, then the bytes.

::

    8 bytes   the length of the header, little-endian
    header    JSON: {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets"}, …}, padded with spaces
    data      the bytes of each tensor, one after the other, without holes

Any reader of that format opens our files. What they have beyond it is in the metadata, under keys that begin with
``statevar.``. The checksum of the header is one of them, so that no bit of a file is left unguarded.

Our own writer and reader, since those of the package safetensors write strided arrays wrongly and never sync
(measured, 0.8), and accept a name that comes twice.

Source: https://huggingface.co/docs/safetensors, and the package's own ``validate``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import xxhash

from ....errors import CheckpointError

__all__ = [
    "CODES",
    "DIGITS",
    "FORMAT",
    "Entry",
    "Header",
    "decode",
    "digest_of",
    "encode",
    "header_length",
    "laid_out",
    "nbytes_of",
    "parse_json",
    "refuse",
    "room_for_checksums",
    "with_checksums",
]


#: The bytes of one element, by the format's name of a dtype.
CODES: dict[str, int] = {
    "BOOL": 1,
    **{f"{sign}{bits}": bits // 8 for sign in "UI" for bits in (8, 16, 32, 64)},
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "F64": 8,
    "C64": 8,  # others write it; not all of them read it
}

#: What other readers take (safetensors refuses more), and an end to what a hostile file can make us parse.
_LONGEST_HEADER = 100_000_000
#: A page of memory that is mapped begins here, and so does what the fastest loads of a CPU need.
_ALIGNMENT = 64

FORMAT = "1"  #: of what our metadata says; a reader refuses what is newer
DIGITS = 32  #: of a checksum, xxh3_128 in hexadecimal
_OURS = "statevar."
_GUARD = "statevar.header"
_CHECKSUMS = "statevar.checksums"
_NOTHING = "0" * DIGITS


class Entry(NamedTuple):
    """One tensor: where it lies, counted from the end of the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """How many bytes the tensor takes in the file."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """What the beginning of a file says."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    #: Where the data begins, in bytes from the beginning of the file.
    begin: int
    #: The checksum of the header; None in a file that somebody else has written.
    digest: str | None


def digest_of(*buffers: Any) -> str:
    """The checksum of some bytes: xxh3, 128 bits; the fastest of those measured (docs/persistence.md)."""
    digest = xxhash.xxh3_128()
    for buffer in buffers:
        digest.update(buffer)
    return digest.hexdigest()


def refuse(operation: str, problem: str, where: Any, hint: str = "") -> NoReturn:
    """Raises CheckpointError."""
    raise CheckpointError.of(operation, problem, str(where), hint)


# -- writing -----------------------------------------------------------------------------------------


def laid_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[Entry]:
    """Where each tensor, given by name, dtype and shape, will lie: widest elements first, so that all are aligned."""
    entries, offset = [], 0
    for name, code, shape in sorted(tensors, key=lambda tensor: -CODES[tensor[1]]):
        stop = offset + math.prod(shape) * CODES[code]
        entries.append(Entry(name, code, shape, offset, stop))
        offset = stop
    return entries


def encode(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    """The beginning of a file, with its checksum. Its length does not depend on the values of equally long texts."""
    content: dict[str, Any] = {"__metadata__": {**metadata, _GUARD: _NOTHING}}
    for entry in entries:
        content[entry.name] = {
            "dtype": entry.code,
            "shape": entry.shape,
            "data_offsets": (entry.start, entry.stop),
        }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    if len(text) > _LONGEST_HEADER:
        raise CheckpointError.of(
            "save", f"the header takes {len(text)} bytes, more than readers accept", hint="set max_shard_size"
        )
    return _guarded(len(text).to_bytes(8, "little") + text, _NOTHING)[0]


def room_for_checksums(count: int) -> dict[str, str]:
    """The metadata to `encode`, until `with_checksums` puts them there."""
    return {_CHECKSUMS: _NOTHING * count}


def with_checksums(header: bytes, checksums: Iterable[str]) -> tuple[bytes, str]:
    """The header that `encode` made, with the checksums of the tensors in its order; and its own checksum."""
    text = "".join(checksums)
    before, after = (f'"{_CHECKSUMS}":"{each}"'.encode() for each in ("0" * len(text), text))
    start = header.index(b'"%s":"' % _GUARD.encode()) + len(_GUARD) + 4
    return _guarded(header.replace(before, after, 1), header[start : start + DIGITS].decode())


def _guarded(header: bytes, present: str) -> tuple[bytes, str]:
    """The header with its checksum in place of the present one."""
    blank = header.replace(_guard(present), _guard(_NOTHING), 1)
    digest = digest_of(blank)
    return blank.replace(_guard(_NOTHING), _guard(digest), 1), digest


def _guard(digest: str) -> bytes:
    # No text has these bytes but as this key: a quote in a text is escaped.
    return f'"{_GUARD}":"{digest}"'.encode()


# -- reading -----------------------------------------------------------------------------------------


def decode(beginning: bytes, total: int, where: Any) -> Header:
    """Reads a header, and believes nothing that it says.

    Args:
        beginning: of the file: eight bytes, or the whole header.
        total: how many bytes the file has.
        where: for errors.

    Raises:
        CheckpointError: the file is damaged, or no safetensors file.
    """
    length = header_length(beginning, total, where)
    text = beginning[8 : 8 + length]
    content = _json_object(text, where)
    texts = 1 if "__metadata__" in content else 0
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        refuse("load", "the metadata is no mapping of text to text", where)
    texts += 2 * len(metadata)
    digest = _checked_digest(beginning[: 8 + length], metadata, where)
    entries = {name: _entry(name, value, where) for name, value in content.items()}
    # Its name, that of its dtype, and three keys. To look at each object's keys would take as long as to parse it.
    if texts + 5 * len(entries) != _count_texts(text):
        refuse("load", _TWICE, where)
    _check_coverage(entries.values(), total - 8 - length, where)
    return Header(entries, metadata, 8 + length, digest)


def header_length(beginning: bytes, total: int, where: Any) -> int:
    """How many bytes the header has, from the first eight of the file."""
    if len(beginning) < 8 or total < 8:
        refuse("load", f"the file has {total} bytes, too few for a header", where)
    length = int.from_bytes(beginning[:8], "little")
    if length > _LONGEST_HEADER or length > total - 8:
        refuse("load", f"the header is said to have {length} bytes, of {total - 8} that there are", where)
    return length


def parse_json(text: bytes, where: Any, *, numbers: bool = False) -> dict[str, Any]:
    """Strict JSON: an object, without names that come twice, and without numbers but integers.

    Args:
        numbers: whether there may be any finite numbers.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) == len(pairs):
            return result
        refuse("load", _TWICE, where)

    return _json_object(text, where, unique, numbers=numbers)


_TWICE = "a name comes twice"


def _json_object(
    text: bytes,
    where: Any,
    make: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None,
    *,
    numbers: bool = False,
) -> dict[str, Any]:
    """As `parse_json`, which see; of a name that comes twice ``make`` is told, if given."""

    def other(number: str) -> NoReturn:
        refuse("load", f"a number is {'too long' if numbers else 'no size'}: {number[:40]}", where)

    def integer(number: str) -> int:
        if len(number) > _MOST_DIGITS or (number[0] == "-" and not numbers):
            other(number)
        return int(number)

    try:
        content = json.loads(
            text.decode(),
            object_pairs_hook=make,
            # To be asked for each number takes as long as to parse it: only where one may be too long, or minus zero.
            parse_int=integer if _has_suspect_number(text) else None,
            parse_float=_finite if numbers else other,
            parse_constant=other,
        )
        if _ESCAPED.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # half a pair of surrogates is no Unicode
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:  # too deep, no UTF-8, no JSON
        refuse("load", f"the header is no JSON ({type(error).__name__}: {str(error)[:80]})", where)
    if not isinstance(content, dict):
        refuse("load", "the header is no JSON object", where)
    return content


def _count_texts(text: bytes) -> int:
    """How many there are in JSON that was parsed: two quotes each, but for those within a text."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return text.count(b'"') // 2


def _has_suspect_number(text: bytes) -> bool:
    """Whether there may be one that would pass as another once it is parsed, or takes too long to."""
    if _LONG in text.translate(_DIGITS_TO_ZERO):
        return True
    return b"-0" in text and _MINUS_ZERO.search(text) is not None  # that search alone takes as long as to parse


_MOST_DIGITS = 400  # more than any float has; converting n digits takes n * n steps
_LONG = b"0" * _MOST_DIGITS
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"0" * 9)
_MINUS_ZERO = re.compile(rb"[\[,:\s]-0")
_ESCAPED = re.compile(rb"\\u[dD]")


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(number[:40])
    return value


def _checked_digest(header: bytes, metadata: dict[str, Any], where: Any) -> str | None:
    if not any(name.startswith(_OURS) for name in metadata):
        return None  # written by somebody else
    digest: str = metadata.pop(_GUARD, "")
    if len(digest) != DIGITS or digest_of(header.replace(_guard(digest), _guard(_NOTHING), 1)) != digest:
        refuse("load", "the header is damaged: its checksum does not fit", where)
    return digest


def _entry(name: str, value: Any, where: Any) -> Entry:
    if not name or "\0" in name:
        refuse("load", f"a tensor has the name {name!r:.100}", where)
    if type(value) is not dict or value.keys() != _KEYS:
        refuse("load", f"the tensor {name!r:.100} is not described by dtype, shape and data_offsets", where)
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    width = CODES.get(code) if type(code) is str else None
    if width is None:
        refuse("load", f"the tensor {name!r:.100} has the unknown dtype {code!r:.40}", where)
    nbytes = nbytes_of(shape, width) if type(shape) is list else None
    if nbytes is None:
        refuse("load", f"the tensor {name!r:.100} has a shape that no array can have", where)
    if type(offsets) is not list or len(offsets) != 2:
        refuse("load", f"the tensor {name!r:.100} has offsets that are no two numbers", where)
    start, stop = offsets
    if type(start) is not int or type(stop) is not int or start < 0 or stop - start != nbytes:
        refuse("load", f"the tensor {name!r:.100} has offsets that do not enclose its {nbytes} bytes", where)
    return Entry(name, code, tuple(shape), start, stop)


def nbytes_of(shape: Sequence[Any], width: int) -> int | None:
    """The bytes of an array, if there can be one: 64 axes at most, and bytes to count, whatever axis is empty."""
    if len(shape) > 64:
        return None
    nbytes = width
    for length in shape:
        if type(length) is not int or length < 0:
            return None
        nbytes *= length or 1
    if nbytes >= _TOO_LARGE:
        return None
    return 0 if 0 in shape else nbytes


_KEYS = {"dtype", "shape", "data_offsets"}
_TOO_LARGE = 2**63


def _check_coverage(entries: Iterable[Entry], available: int, where: Any) -> None:
    offset = 0
    for entry in sorted(entries, key=lambda each: (each.start, each.stop)):
        if entry.start != offset:
            refuse("load", f"the tensor {entry.name!r:.100} overlaps another, or leaves a hole", where)
        offset = entry.stop
    if offset != available:
        refuse("load", f"the tensors take {offset} bytes, and the file has {available}", where)
