"""The safetensors file format: a header of names, dtypes, shapes and offsets, then the bytes.

::

    8 bytes   the length of the header, little-endian
    header    JSON: {"__metadata__": {str: str}, name: {"dtype", "shape", "data_offsets"}, …}, padded with spaces
    data      the bytes of each tensor, one after the other, without gaps

Any reader of that format opens our files. Our additions are in the metadata, under keys that begin with ``statevar.``.
One of them is the checksum of the header, so that every bit of a file is covered by a checksum.

statevar has its own writer and reader, because those of the package safetensors write strided arrays wrongly, never
sync (measured, 0.8), and accept a file in which a name occurs twice.

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
    "CHECKSUMS",
    "CODES",
    "DIGITS",
    "FORMAT",
    "PIECES",
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

#: The limit of the package safetensors. It also limits how much a hostile file can make us parse.
_LONGEST_HEADER = 100_000_000
#: The data begins at a multiple of this, so that a mapped tensor is aligned for the widest loads of a CPU.
_ALIGNMENT = 64

FORMAT = "1"  #: the version of our metadata; a reader refuses any other
PIECES = "2"  #: the version of a checkpoint in pieces: of its index and of its parts
DIGITS = 32  #: the length of a checksum, xxh3_128 in hexadecimal
_OURS = "statevar."
_GUARD = "statevar.header"
CHECKSUMS = "statevar.checksums"
_NOTHING = "0" * DIGITS


class Entry(NamedTuple):
    """A tensor of a file. Its bytes are ``start:stop``, counted from the end of the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """The number of bytes that the tensor takes in the file."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Header:
    """The parsed header of a file."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    #: The offset of the data in the file, in bytes.
    begin: int
    #: The checksum of the header; None in a file that another program wrote.
    digest: str | None


def digest_of(*buffers: Any) -> str:
    """Returns the checksum of bytes: xxh3 of 128 bits, the fastest of those measured (docs/persistence.md)."""
    digest = xxhash.xxh3_128()
    for buffer in buffers:
        digest.update(buffer)
    return digest.hexdigest()


def refuse(operation: str, problem: str, where: Any, hint: str = "") -> NoReturn:
    """Raises CheckpointError."""
    raise CheckpointError.of(operation, problem, str(where), hint)


# -- writing -----------------------------------------------------------------------------------------


def laid_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> list[Entry]:
    """Lays out tensors, given as (name, dtype code, shape): the widest elements first, so that all are aligned."""
    entries, offset = [], 0
    for name, code, shape in sorted(tensors, key=lambda tensor: -CODES[tensor[1]]):
        stop = offset + math.prod(shape) * CODES[code]
        entries.append(Entry(name, code, shape, offset, stop))
        offset = stop
    return entries


def encode(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    """Returns the bytes of a header, with its checksum. Their number depends only on the length of the metadata."""
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
            "save",
            f"the header takes {len(text)} bytes, and readers accept {_LONGEST_HEADER}",
            hint="set max_shard_size",
        )
    return _guarded(len(text).to_bytes(8, "little") + text, _NOTHING)[0]


def room_for_checksums(count: int, key: str = CHECKSUMS, digits: int = DIGITS) -> dict[str, str]:
    """Returns metadata for `encode` that reserves room for the checksums, which `with_checksums` fills in."""
    return {key: "0" * digits * count}


def with_checksums(header: bytes, checksums: Iterable[str], key: str = CHECKSUMS) -> tuple[bytes, str]:
    """Returns a header of `encode` with the checksums of its tensors, in their order, and its own checksum."""
    text = "".join(checksums)
    before, after = (f'"{key}":"{each}"'.encode() for each in ("0" * len(text), text))
    start = header.index(b'"%s":"' % _GUARD.encode()) + len(_GUARD) + 4
    return _guarded(header.replace(before, after, 1), header[start : start + DIGITS].decode())


def _guarded(header: bytes, present: str) -> tuple[bytes, str]:
    """Returns the header with its checksum in place of the present one, and the checksum."""
    blank = header.replace(_guard(present), _guard(_NOTHING), 1)
    digest = digest_of(blank)
    return blank.replace(_guard(_NOTHING), _guard(digest), 1), digest


def _guard(digest: str) -> bytes:
    # These bytes occur only as this key: inside a JSON string a quote is escaped.
    return f'"{_GUARD}":"{digest}"'.encode()


# -- reading -----------------------------------------------------------------------------------------


def decode(beginning: bytes, total: int, where: Any) -> Header:
    """Parses a header, and checks every claim that it makes.

    Args:
        beginning: the first bytes of the file, up to the end of the header.
        total: the size of the file in bytes.
        where: the place to name in errors.

    Raises:
        CheckpointError: the file is damaged, or is not a safetensors file.
    """
    length = header_length(beginning, total, where)
    text = beginning[8 : 8 + length]
    content = _json_object(text, where)
    texts = 1 if "__metadata__" in content else 0
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        refuse("load", "the __metadata__ of the header must map strings to strings", where)
    texts += 2 * len(metadata)
    digest = _checked_digest(beginning[: 8 + length], metadata, where)
    entries = {name: _entry(name, value, where) for name, value in content.items()}
    # Each entry has five strings: its name, its dtype code and three keys. Counting strings finds a duplicate key; a
    # look at the keys of each object would take as long as the parsing.
    if texts + 5 * len(entries) != _count_texts(text):
        refuse("load", _TWICE, where)
    _check_coverage(entries.values(), total - 8 - length, where)
    return Header(entries, metadata, 8 + length, digest)


def header_length(beginning: bytes, total: int, where: Any) -> int:
    """Returns the number of bytes of the header, given by the first eight bytes of the file."""
    if len(beginning) < 8 or total < 8:
        refuse("load", f"the file has {total} bytes, too few for a safetensors header", where)
    length = int.from_bytes(beginning[:8], "little")
    if length > _LONGEST_HEADER or length > total - 8:
        possible = min(_LONGEST_HEADER, total - 8)
        problem = f"this is no safetensors file, or it is damaged: its header claims {length} bytes"
        refuse("load", f"{problem}, and can have {possible}", where)
    return length


def parse_json(text: bytes, where: Any, *, numbers: bool = False) -> dict[str, Any]:
    """Parses strict JSON: one object, in which no key occurs twice and every number is an integer >= 0.

    Args:
        numbers: whether any finite number is allowed.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) == len(pairs):
            return result
        refuse("load", _TWICE, where)

    return _json_object(text, where, unique, numbers=numbers)


_TWICE = "a name occurs twice"


def _json_object(
    text: bytes,
    where: Any,
    make: Callable[[list[tuple[str, Any]]], dict[str, Any]] | None = None,
    *,
    numbers: bool = False,
) -> dict[str, Any]:
    """Parses strict JSON as `parse_json` does, but a duplicate key is an error only if ``make`` raises it."""

    def other(number: str) -> NoReturn:
        expected = "a finite number of ordinary length" if numbers else "a size (an integer >= 0)"
        refuse("load", f"expected {expected}, got {number[:40]}", where)

    def integer(number: str) -> int:
        if len(number) > _MOST_DIGITS or (number[0] == "-" and not numbers):
            other(number)
        return int(number)

    try:
        content = json.loads(
            text.decode(),
            object_pairs_hook=make,
            # A call for each number takes as long as the parsing: only if one may be too long, or minus zero.
            parse_int=integer if _has_suspect_number(text) else None,
            parse_float=_finite if numbers else other,
            parse_constant=other,
        )
        if _ESCAPED.search(text):
            json.dumps(content, ensure_ascii=False).encode()  # fails for half a pair of surrogates
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:  # nested too deeply, no UTF-8, no JSON
        refuse("load", f"invalid JSON ({type(error).__name__}: {str(error)[:80]})", where)
    if not isinstance(content, dict):
        refuse("load", f"expected a JSON object, got {type(content).__name__}", where)
    return content


def _count_texts(text: bytes) -> int:
    """Counts the strings in valid JSON: each has two quotes, and quotes inside a string are escaped."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return text.count(b'"') // 2


def _has_suspect_number(text: bytes) -> bool:
    """Whether JSON may contain a number that takes too long to parse, or a minus zero, which would be parsed as 0."""
    if _LONG in text.translate(_DIGITS_TO_ZERO):
        return True
    return b"-0" in text and _MINUS_ZERO.search(text) is not None  # the search alone takes as long as the parsing


_MOST_DIGITS = 400  # more than any float has; parsing n digits takes n * n steps
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
        return None  # written by another program
    digest: str = metadata.pop(_GUARD, "")
    if len(digest) != DIGITS or digest_of(header.replace(_guard(digest), _guard(_NOTHING), 1)) != digest:
        refuse("load", "the header is damaged: its checksum does not match", where)
    return digest


def _entry(name: str, value: Any, where: Any) -> Entry:
    if not name or "\0" in name:
        refuse("load", f"a tensor has the name {name!r:.100}, which is empty or contains NUL", where)
    if type(value) is not dict or value.keys() != _KEYS:
        refuse("load", f"the tensor {name!r:.100} must be described by dtype, shape and data_offsets", where)
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    width = CODES.get(code) if type(code) is str else None
    if width is None:
        refuse("load", f"the tensor {name!r:.100} has the unknown dtype {code!r:.40}", where)
    nbytes = nbytes_of(shape, width) if type(shape) is list else None
    if nbytes is None:
        refuse("load", f"the tensor {name!r:.100} has a shape that no array can have", where)
    if type(offsets) is not list or len(offsets) != 2:
        refuse("load", f"the tensor {name!r:.100} must have two data_offsets", where)
    start, stop = offsets
    if type(start) is not int or type(stop) is not int or start < 0 or stop - start != nbytes:
        refuse("load", f"the tensor {name!r:.100} has {nbytes} bytes, and its data_offsets do not match", where)
    return Entry(name, code, tuple(shape), start, stop)


def nbytes_of(shape: Sequence[Any], width: int) -> int | None:
    """Returns the number of bytes of an array, or None if no array has the shape.

    NumPy allows 64 axes, and limits the product of the sizes other than zero even if the array is empty.
    """
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
            refuse("load", f"the tensor {entry.name!r:.100} overlaps another one, or leaves a gap before it", where)
        offset = entry.stop
    if offset != available:
        refuse("load", f"the tensors take {offset} bytes, but the file has {available} bytes of data", where)
