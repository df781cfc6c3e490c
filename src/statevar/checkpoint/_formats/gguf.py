"""Reads GGUF, the format of llama.cpp: metadata, a table of tensors, and their bytes, which may be quantised.

::

    "GGUF", version, number of tensors, number of keys
    keys      name, type, value
    tensors   name, sizes (the fastest axis first), type, offset
    data      the bytes of each tensor, at a multiple of the alignment

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and the reader of the package ``gguf``, with which
the tests compare.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ..._state.walk import segment
from .cursor import Cursor
from .reader import DEEPEST, ByteFile, Extent, Extents, described
from .safetensors.header import nbytes_of, refuse
from .safetensors.values import fresh_bytes

__all__ = ["open_gguf"]

#: The types of tensors whose bytes are the array, by number.
_PLAIN = {
    0: "float32",
    1: "float16",
    24: "int8",
    25: "int16",
    26: "int32",
    27: "int64",
    28: "float64",
    30: "bfloat16",
}
#: The names of the others. Programs have written the numbers 4, 5, 31 to 33 and 36 to 38, and read them no longer.
_QUANTISED = {
    2: "Q4_0",
    3: "Q4_1",
    4: "Q4_2",
    5: "Q4_3",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    34: "TQ1_0",
    35: "TQ2_0",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
_BLOCK = 32  # the elements that share one scale

#: The types of values, by number.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_PIECE = 1 << 15  # blocks to dequantise at once: a megabyte, which stays in the processor's cache


class _Tensor(NamedTuple):
    type: int
    shape: Shape
    offset: int


class _Part(NamedTuple):
    """An open file with its header."""

    file: ByteFile
    metadata: Mapping[str, Any]
    tensors: Mapping[str, _Tensor]
    begin: int  # where the data begins


def open_gguf(path: Path) -> Extents:
    """Opens a file, or all parts of a model that is split, of which one is given.

    The tensors have the shape that NumPy gives them, which is the reverse of the file's.
    """
    parts: list[_Part] = []
    try:
        parts.append(_part(path))
        count = parts[0].metadata.get("split.count", 1)
        if count != 1:
            parts += [_part(each) for each in _other_parts(path, count)]
            _check_split(path, parts, count)
        return _GGUF(path, parts)
    except BaseException:
        for part in parts:
            part.file.close()
        raise


def _part(path: Path) -> _Part:
    file = ByteFile(path)
    try:
        return _Part(file, *_header(Cursor(file, _MOST_VALUES)))
    except BaseException:
        file.close()
        raise


def _other_parts(path: Path, count: Any) -> list[Path]:
    """The paths of the other parts of a model, whose names tell their number."""
    found = _SPLIT.fullmatch(path.name)
    if found is None or type(count) is not int or not 0 < count <= _MOST_PARTS or int(found[3]) != count:
        problem = f"this is a part of a model in {count!r:.20} parts, and its name is not NAME-00001-of-0000N.gguf"
        refuse("load", problem, path, "give the parts their names back, or join them with llama-gguf-split --merge")
    names = [f"{found[1]}-{number + 1:05d}-of-{count:05d}.gguf" for number in range(count)]
    if path.name not in names:
        refuse("load", f"a model in {count} parts has no part of this name", path)
    for name in names:
        if not path.with_name(name).exists():
            refuse("load", f"the part {name} of the model is missing", path)
    return [path.with_name(name) for name in names if name != path.name]


def _check_split(path: Path, parts: list[_Part], count: int) -> None:
    """Checks that files are the parts of one model, and puts them into their order."""
    parts.sort(key=lambda part: str(part.file.path))
    claims = [(part.metadata.get("split.count"), part.metadata.get("split.no")) for part in parts]
    if claims != [(count, number) for number in range(count)]:
        refuse("load", "the files are not the parts of one model", path)
    if sum(len(part.tensors) for part in parts) != len({name for part in parts for name in part.tensors}):
        refuse("load", "a tensor is in two parts of the model", path)


_SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MOST_PARTS = 1000


class _GGUF(Extents):
    """An open GGUF file. Tensors of a type that is not read are listed too, with the name of the type as the dtype."""

    separator = "."

    def __init__(self, path: Path, parts: list[_Part]) -> None:
        tensors = {name: (part, each) for part in parts for name, each in part.tensors.items()}
        plain = {
            name: Extent(part.file, part.begin + each.offset, _PLAIN[each.type], each.shape)
            for name, (part, each) in tensors.items()
            if each.type in _PLAIN
        }
        refused = {
            name: (described(_type_name(each.type), each.shape), _NOT_READ.format(_type_name(each.type)))
            for name, (_, each) in tensors.items()
            if each.type not in _PLAIN and each.type not in _READ
        }
        super().__init__(path, plain, [part.file for part in parts], refused=refused, metadata=parts[0].metadata)
        #: By name, how a tensor is quantised, its file, and where its bytes begin.
        self._quantised = {
            name: self._checked(name, each, part) for name, (part, each) in tensors.items() if each.type in _READ
        }
        known = self.variables
        self.variables = {  # in the order of the file
            name: described("float32", each.shape) if name in self._quantised else known[name]
            for name, (_, each) in tensors.items()
        }

    def _checked(self, name: str, tensor: _Tensor, part: _Part) -> tuple[_Quantisation, ByteFile, int]:
        row = tensor.shape[-1] if tensor.shape else 1
        if row % _BLOCK:
            problem = f"a row of {row} elements is not a multiple of the {_BLOCK} that are quantised together"
            refuse("load", problem, f"{self.path}: {name}")
        quantisation, offset = _READ[tensor.type], part.begin + tensor.offset
        part.file.check(math.prod(tensor.shape) // _BLOCK * quantisation.width, offset)
        return quantisation, part.file, offset

    def read(self, name: str) -> HostArray:
        if name not in self._quantised:
            return super().read(name)
        quantisation, file, offset = self._quantised[name]
        shape = self.variables[name].shape or ()
        array = fresh_bytes(4 * math.prod(shape)).view(np.float32)
        quantisation.fill(array.reshape(-1, _BLOCK), file, offset)
        return array.reshape(shape)


def _type_name(number: int) -> str:
    return _QUANTISED.get(number, f"type {number} of GGUF")


_NOT_READ = (
    "the tensor is quantised as {}, and only Q8_0 and Q4_0 are read: convert the file with llama-quantize "
    "--allow-requantize IN.gguf OUT.gguf F32, or assign gguf.quants.dequantize(tensor.data, tensor.tensor_type) "
    "with the package gguf"
)


# -- quantised tensors -------------------------------------------------------------------------------


class _Quantisation(NamedTuple):
    """A way to store 32 numbers as one scale (float16) and bytes."""

    width: int  # the bytes of a block, with its scale
    expand: Callable[[HostArray, HostArray], None]  # from the bytes of blocks to their numbers before scaling

    def fill(self, blocks: HostArray, file: ByteFile, offset: int) -> None:
        """Reads blocks from a file, a piece at a time, so that the quantised bytes take no memory to speak of."""
        memory = np.empty((min(len(blocks), _PIECE), self.width), np.uint8)
        for start in range(0, len(blocks), _PIECE):
            wanted = blocks[start : start + _PIECE]
            raw = memory[: len(wanted)]
            file.fill(memoryview(raw.reshape(-1)), offset + start * self.width)  # type: ignore[arg-type]
            self.expand(raw[:, 2:], wanted)
            with np.errstate(all="ignore"):  # a scale may be infinite or NaN, as in the package gguf
                wanted *= raw[:, :2].copy().view("<f2").astype(np.float32)


def _expand_q8(raw: HostArray, blocks: HostArray) -> None:
    blocks[...] = raw.view(np.int8)


def _expand_q4(raw: HostArray, blocks: HostArray) -> None:
    # The low halves of the bytes are the first 16 numbers, the high halves the others.
    half = _BLOCK // 2
    blocks[:, :half] = raw & 15
    blocks[:, half:] = raw >> 4
    blocks -= 8


_READ = {2: _Quantisation(2 + 16, _expand_q4), 8: _Quantisation(2 + 32, _expand_q8)}


# -- the header --------------------------------------------------------------------------------------


def _header(cursor: Cursor) -> tuple[Mapping[str, Any], Mapping[str, _Tensor], int]:
    """Parses the metadata and the table of tensors. Returns them, and the place where the data begins."""
    if cursor.take(4) != b"GGUF":
        cursor.refuse("this is no GGUF file")
    version = cursor.number("<I")
    if version and not version & 0xFFFF:
        cursor.refuse("the numbers of this GGUF file are big-endian", "convert it: gguf-convert-endian FILE little")
    if version not in (2, 3):
        cursor.refuse(f"expected version 2 or 3 of GGUF, got {version}", "convert it with a newer llama.cpp")
    tensor_count, key_count = cursor.number("<Q"), cursor.number("<Q")
    if (tensor_count * 24 + key_count * 13) > cursor.rest():  # the fewest bytes that they take
        cursor.refuse(f"the file claims {tensor_count} tensors and {key_count} keys, more than it has room for")
    cursor.count(tensor_count + key_count)
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        name = _unique(cursor, metadata, "key")
        metadata[name] = _value(cursor, cursor.number("<I"), 0)
    tensors: dict[str, _Tensor] = {}
    for _ in range(tensor_count):
        name = segment(_unique(cursor, tensors, "tensor"))
        axes = cursor.number("<I")
        if axes > _MOST_AXES:
            cursor.refuse(f"the tensor {name!r:.100} has {axes} axes")
        shape = struct.unpack(f"<{axes}Q", cursor.take(8 * axes))[::-1]
        if nbytes_of(shape, 8) is None:
            cursor.refuse(f"the tensor {name!r:.100} has a shape that no array can have")
        tensors[name] = _Tensor(cursor.number("<I"), shape, cursor.number("<Q"))
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        cursor.refuse(f"the alignment must be a power of two, got {alignment!r:.40}")
    return metadata, tensors, cursor.position + -cursor.position % alignment


_MOST_VALUES = 2_000_000  # keys, tensors, and texts in lists: a large vocabulary has half a million
_MOST_AXES = 64  # of NumPy; GGML has 4


def _unique(cursor: Cursor, known: Mapping[str, Any], what: str) -> str:
    name = _text(cursor)
    if not name or "\0" in name:
        cursor.refuse(f"a {what} has the name {name!r:.100}, which is empty or contains NUL")
    if segment(name) in known or name in known:
        cursor.refuse(f"the {what} {name!r:.100} occurs twice")
    return name


def _text(cursor: Cursor) -> str:
    raw = cursor.take(cursor.number("<Q"))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        cursor.refuse(f"the text {raw!r:.100} is not UTF-8")


def _value(cursor: Cursor, kind: int, depth: int) -> Any:
    if (code := _NUMBERS.get(kind)) is not None:
        return cursor.number("<" + code)
    if kind == _TEXT:
        return _text(cursor)
    if kind != _LIST:
        cursor.refuse(f"a value has the unknown type {kind}")
    if depth == DEEPEST:
        cursor.refuse(f"lists are nested more than {DEEPEST} deep")
    item, count = cursor.number("<I"), cursor.number("<Q")
    if (code := _NUMBERS.get(item)) is not None:
        return list(struct.unpack(f"<{count}{code}", cursor.take(count * struct.calcsize("<" + code))))
    if count * 8 > cursor.rest():  # the fewest bytes that they take
        cursor.refuse(f"a list claims {count} values, more than the file has room for")
    cursor.count(count)
    if item == _TEXT:
        return _texts(cursor, count)
    return [_value(cursor, item, depth + 1) for _ in range(count)]


def _texts(cursor: Cursor, count: int) -> list[str]:
    """Takes many texts: a vocabulary has hundreds of thousands, and a call for each would take a second."""
    texts: list[str] = []
    length_at = struct.Struct("<Q").unpack_from
    while len(texts) < count:
        memory, place, left = cursor.ahead(_AHEAD), 0, count - len(texts)
        try:
            while left and (stop := place + 8 + length_at(memory, place)[0]) <= len(memory):
                texts.append(str(memory[place + 8 : stop], "utf-8"))
                place, left = stop, left - 1
        except struct.error:  # the length is cut off
            pass
        except UnicodeDecodeError:
            cursor.refuse("a text is not UTF-8")
        cursor.take(place)
        if left:
            texts.append(_text(cursor))  # it reaches beyond the memory
    return texts


_AHEAD = 1 << 20  # bytes of texts to take at once
