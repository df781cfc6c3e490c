"""What the index of a TensorFlow checkpoint says about each tensor: its dtype, its shape, and where its bytes are.

Source: ``tensorflow/core/protobuf/tensor_bundle.proto``, and ``tensor_slice_writer`` for the keys of slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...._arrays.shapes import Shape
from ..reader import DEEPEST
from ..safetensors.header import refuse
from .leveldb import entries_of
from .wire import Message

__all__ = ["DTYPES", "UNREADABLE", "Index", "Stored", "Window", "parse_index"]

#: The names of the dtypes, by their number in ``types.proto``. Quantized numbers are read as integers.
DTYPES: dict[int, str] = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    7: "string",
    8: "complex64",
    9: "int64",
    10: "bool",
    11: "int8",
    12: "uint8",
    13: "int32",
    14: "bfloat16",
    15: "int16",
    16: "uint16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    27: "float8_e4m3b11fnuz",
    28: "float8_e5m2fnuz",
    29: "int4",
    30: "uint4",
    31: "int2",
    32: "uint2",
}
#: What is in a checkpoint and is no array: handles; the state of iterators, and lists of tensors.
UNREADABLE = {20: "resource", 21: "variant"}

_NEWEST = 1  # the version of the format
_LITTLE_ENDIAN = 0
_FULL = -1  # the length of a slice that has the whole axis
_MOST_AXES = 64  # of an array of NumPy
_MOST_SLASHES = 2 * DEEPEST  # the path of an optimizer's slot has two paths in it
_MOST_FILES = 99_999  # their numbers have five digits


class Window(NamedTuple):
    """The part of a partitioned variable that one tensor of the file has: a range of one axis.

    Attributes:
        start: the index of its beginning.
        key: the key of the tensor.
    """

    start: int
    length: int
    key: bytes


class Stored(NamedTuple):
    """An entry of the index.

    Attributes:
        code: the number of the dtype.
        shape: the shape.
        file: the number of the file.
        offset: where its bytes begin.
        size: the number of its bytes.
        crc: the masked checksum of its bytes.
        axis: the axis by which a variable is partitioned.
        windows: the parts of a partitioned variable, which has no bytes of its own.
    """

    code: int
    shape: Shape
    file: int
    offset: int
    size: int
    crc: int
    axis: int = 0
    windows: tuple[Window, ...] = ()


class Index(NamedTuple):
    """The index of a checkpoint.

    Attributes:
        files: the number of its files.
        tensors: the entries by key.
        parts: the entries of the parts of partitioned variables, by the key in their `Window`.
    """

    files: int
    tensors: dict[str, Stored]
    parts: dict[bytes, Stored]


def parse_index(content: bytes, where: Any) -> Index:
    """Parses the index of a checkpoint.

    Raises:
        CheckpointError: it is damaged, or from another kind of machine, or from a newer TensorFlow.
    """
    files = None
    tensors: dict[str, Stored] = {}
    parts: dict[bytes, Stored] = {}
    for key, value in entries_of(content, where):
        message = Message(value, where)
        if files is None:
            if key:
                refuse("load", "the index is damaged: it has no header", where)
            files = _files_of(message, where)
        elif key.startswith(b"\0"):  # the key of a slice begins with a zero
            parts[key] = _entry(message, "", where)
        else:
            name = message.decoded(key)
            if "\0" in name or name.count("/") > _MOST_SLASHES:
                refuse("load", f"a tensor has the name {name!r:.100}, with NUL or too many slashes", where)
            tensors[name] = _entry(message, name, where)
    if files is None:
        refuse("load", "the index is damaged: it has no header", where)
    for name, entry in tensors.items():
        _check_windows(entry, parts, f"{where}: {name}")
    return Index(files, tensors, parts)


def _files_of(header: Message, where: Any) -> int:
    if header.number(2) != _LITTLE_ENDIAN:
        hint = "load it with TensorFlow on a machine of the same kind"
        refuse("load", "the checkpoint was written on a big-endian machine", where, hint)
    if header.message(3).number(2) > _NEWEST:
        refuse("load", "the checkpoint is in a newer format of TensorFlow", where, "update statevar")
    files = header.number(1)
    if files > _MOST_FILES:
        refuse("load", f"the index says that there are {files} files", where)
    return files


def _entry(message: Message, name: str, where: Any) -> Stored:
    shape = message.message(2)
    if shape.number(3) or shape.count(2) > _MOST_AXES:
        refuse("load", f"the index is damaged: a tensor has an unknown shape, or more than {_MOST_AXES} axes", where)
    sizes = tuple(axis.size(1) for axis in shape.messages(2))
    slices = [_extents(each, sizes, where) for each in message.messages(7)]
    axis, windows = _windows(name, sizes, slices, where) if slices else (0, ())
    return Stored(
        message.number(1), sizes, message.size(3), message.size(4), message.size(5), message.number(6), axis, windows
    )


def _extents(part: Message, shape: Shape, where: Any) -> list[tuple[int, int]]:
    """The start and the length of a slice on each axis; the whole axis has the length -1."""
    extents = list(part.messages(1))
    if len(extents) != len(shape):
        refuse("load", "the index is damaged: a slice has another number of axes than its variable", where)
    return [(each.size(1), each.size(2)) if each.has(2) else (0, _FULL) for each in extents]


def _windows(
    name: str, shape: Shape, slices: Sequence[Sequence[tuple[int, int]]], where: Any
) -> tuple[int, tuple[Window, ...]]:
    axes = {i for each in slices for i, extent in enumerate(each) if extent not in ((0, _FULL), (0, shape[i]))}
    if len(axes) > 1:
        refuse("load", f"the variable is partitioned by more than one axis, {sorted(axes)}", f"{where}: {name}")
    axis = min(axes, default=0)
    windows, end = [], 0
    for each in sorted(slices, key=lambda extents: extents[axis] if extents else (0, 0)):
        start, length = each[axis] if each else (0, 1)
        length = length if each and length != _FULL else shape[axis] if shape else 1
        if start != end:
            refuse("load", "the parts of the variable overlap, or leave a gap", f"{where}: {name}")
        windows.append(Window(start, length, _key_of_slice(name, each)))
        end = start + length
    if shape and end != shape[axis]:
        refuse("load", "the parts of the variable are not the whole of it", f"{where}: {name}")
    return axis, tuple(windows)


def _check_windows(entry: Stored, parts: dict[bytes, Stored], where: str) -> None:
    for window in entry.windows:
        part = parts.get(window.key)
        expected = (*entry.shape[: entry.axis], window.length, *entry.shape[entry.axis + 1 :])
        if part is None:
            refuse("load", "a part of the variable is missing", where)
        if part.code != entry.code or part.shape != (expected if entry.shape else ()) or part.windows:
            refuse("load", "a part of the variable has another dtype or shape", where)


# -- keys of slices ------------------------------------------------------------------------------------


def _key_of_slice(name: str, extents: Sequence[tuple[int, int]]) -> bytes:
    """The key under which a slice is stored: ordered as the name, the number of axes, and the extents are."""
    key = _unsigned(0) + name.encode().replace(b"\xff", b"\xff\0").replace(b"\0", b"\0\xff") + b"\0\x01"
    key += _unsigned(len(extents))
    return key + b"".join(_signed(number) for extent in extents for number in extent)


def _unsigned(value: int) -> bytes:
    """The number of bytes, and the number in as many bytes."""
    length = (value.bit_length() + 7) // 8
    return bytes([length]) + value.to_bytes(length, "big")


def _signed(value: int) -> bytes:
    """As many ones as there are bytes, then a zero and the number; all bits inverted if it is negative."""
    size = ~value if value < 0 else value
    length = size.bit_length() // 7 + 1  # of which one bit in eight says how long it is
    positive = size | ((1 << length) - 1) << 7 * length
    ones = (1 << 8 * length) - 1
    return ((ones ^ positive) if value < 0 else positive).to_bytes(length, "big")
