"""Reads what Flax writes with msgpack (``flax.serialization.to_bytes``), without Flax and without msgpack.

The file is one tree of msgpack: mappings, lists, numbers, texts, and arrays as extensions that Flax defines:

====  =====================================================================
code  payload
====  =====================================================================
1     an array: msgpack of (shape, name of the dtype, bytes in C order)
2     a complex number: msgpack of (real part, imaginary part)
3     a number of NumPy: as an array without axes
====  =====================================================================

An array of more than a gigabyte is a mapping with the key ``__msgpack_chunked_array__`` and the array in parts. The
walk skips the bytes of arrays, so a file opens in no time whatever its size.

Source: https://github.com/msgpack/msgpack/blob/master/spec.md and ``flax/serialization.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ..._state.walk import segment
from .cursor import Cursor
from .reader import DEEPEST, ByteFile, Extent, Extents, described, numpy_dtype
from .safetensors.header import nbytes_of
from .safetensors.values import fresh_bytes

__all__ = ["open_flax_msgpack"]

_ARRAY, _COMPLEX, _NUMBER = 1, 2, 3  # the extensions of Flax
_CHUNKED = "__msgpack_chunked_array__"
_MOST = 300_000  # values in a file; a tree of parameters has thousands


class _Array(NamedTuple):
    """An array of a file, before it has a name."""

    offset: int
    nbytes: int
    dtype: str
    shape: Shape


class _Parts(NamedTuple):
    """An array in parts, which follow each other in C order."""

    dtype: str
    shape: Shape
    parts: list[_Array]


def open_flax_msgpack(path: Path) -> Extents:
    """Opens a file. The names are the keys of the tree, joined by ``/``."""
    file = ByteFile(path)
    try:
        return _FlaxMsgpack(file)
    except BaseException:
        file.close()
        raise


class _FlaxMsgpack(Extents):
    """An open msgpack file of Flax. Python's numbers, texts and None are its metadata."""

    def __init__(self, file: ByteFile) -> None:
        walk = _Walk(Cursor(file, _MOST))
        tree = walk.value(0)
        if walk.cursor.rest():
            walk.cursor.refuse(f"{walk.cursor.rest()} bytes follow the end of the msgpack tree")
        leaves = dict(_leaves("", tree)) if isinstance(tree, dict | list) else {"value": tree}
        arrays = {name: each for name, each in leaves.items() if isinstance(each, _Array)}
        metadata = {name: each for name, each in leaves.items() if not isinstance(each, _Array | _Parts)}
        super().__init__(
            file.path,
            {name: Extent(file, x.offset, x.dtype, x.shape) for name, x in arrays.items() if _width(x.dtype)},
            [file],
            refused={
                name: (described(x.dtype, x.shape), f"no variable has the dtype {x.dtype}: read it with Flax")
                for name, x in arrays.items()
                if not _width(x.dtype)
            },
            metadata=metadata,
        )
        self._file = file
        self._parts = {name: each for name, each in leaves.items() if isinstance(each, _Parts)}
        known = {**self.variables, **{name: described(x.dtype, x.shape) for name, x in self._parts.items()}}
        self.variables = {name: known[name] for name in leaves if name in known}  # in the order of the file

    def read(self, name: str) -> HostArray:
        if (whole := self._parts.get(name)) is None:
            return super().read(name)
        raw = fresh_bytes(sum(part.nbytes for part in whole.parts))
        start = 0
        for part in whole.parts:
            self._file.fill(memoryview(raw[start : start + part.nbytes]), part.offset)  # type: ignore[arg-type]
            start += part.nbytes
        return raw.view(numpy_dtype(whole.dtype)).reshape(whole.shape)


def _leaves(path: str, tree: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a tree with their paths. A list has the keys "0", "1" and so on, as in Flax's state dicts."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, each in items:
        step = segment(str(key))
        place = f"{path}/{step}" if path else step
        if isinstance(each, dict) or type(each) is list:
            yield from _leaves(place, each)
        else:
            yield place, each


class _Walk:
    """Parses the values of a msgpack file one after the other."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor

    def value(self, depth: int) -> Any:
        """Takes the next value: a tree of dicts and lists, with `_Array` and `_Parts` where arrays are."""
        cursor = self.cursor
        first = cursor.take(1)[0]
        if first < 0x80:
            return first
        if first < 0x90:
            return self._mapping(first & 0x0F, depth)
        if first < 0xA0:
            return self._list(first & 0x0F, depth)
        if first < 0xC0:
            return self._text(first & 0x1F)
        if first >= 0xE0:
            return first - 0x100
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _SCALARS:
            return cursor.number(_SCALARS[first])
        if first not in _SIZED:
            cursor.refuse(f"the byte {first:#x} is no value of msgpack")
        kind, length = _SIZED[first]
        return self._sized(kind, cursor.number(length) if length else 1 << (first - 0xD4), depth)

    def _sized(self, kind: str, count: int, depth: int) -> Any:
        if kind == "map":
            return self._mapping(count, depth)
        if kind == "list":
            return self._list(count, depth)
        if kind == "text":
            return self._text(count)
        if kind == "ext":
            return self._extension(count, depth)
        return _Array(self.cursor.skip(count), count, "uint8", (count,))

    def _nested(self, count: int, width: int, depth: int) -> None:
        if depth == DEEPEST:
            self.cursor.refuse(f"the tree is nested more than {DEEPEST} deep")
        if count * width > self.cursor.rest():
            self.cursor.refuse(f"a part of the tree claims {count} values, more than the file has room for")
        self.cursor.count(count)

    def _mapping(self, count: int, depth: int) -> Any:
        self._nested(count, 2, depth)
        tree: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(DEEPEST)
            if type(key) not in (str, int) or "\0" in str(key) or key == "":
                self.cursor.refuse(f"a key must be a text or an integer, got {key!r:.100}")
            if str(key) in tree:
                self.cursor.refuse(f"the key {str(key)!r:.100} occurs twice in one mapping")
            tree[str(key)] = self.value(depth + 1)
        return self._joined(tree) if _CHUNKED in tree else tree

    def _list(self, count: int, depth: int) -> list[Any]:
        self._nested(count, 1, depth)
        return [self.value(depth + 1) for _ in range(count)]

    def _text(self, count: int) -> str:
        raw = self.cursor.take(count)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.cursor.refuse(f"the text {raw!r:.100} is not UTF-8")

    def _extension(self, count: int, depth: int) -> Any:
        code = self.cursor.number("<b")
        stop = self.cursor.position + count
        if count > self.cursor.rest():
            self.cursor.refuse(f"an extension claims {count} bytes, more than the file has")
        if code not in (_ARRAY, _COMPLEX, _NUMBER):
            self.cursor.refuse(f"the file has an extension of msgpack with the code {code}, which Flax does not have")
        if depth >= DEEPEST - 2:
            self.cursor.refuse("an extension of msgpack is in another one, or nested too deep")
        content = self.value(DEEPEST - 2)
        if self.cursor.position != stop:
            self.cursor.refuse(f"an extension of {count} bytes has content of another length")
        return self._complex(content) if code == _COMPLEX else self._array(content)

    def _complex(self, content: Any) -> str:
        if type(content) is not list or [type(each) for each in content] != [float, float]:
            self.cursor.refuse("a complex number must have two parts")
        return str(complex(*content))

    def _array(self, content: Any) -> _Array:
        if type(content) is not list or len(content) != 3 or not isinstance(content[2], _Array):
            self.cursor.refuse("an array must have a shape, a dtype and bytes")
        shape, dtype, raw = content
        width = _width(dtype) if isinstance(dtype, str) else None
        nbytes = nbytes_of(shape, width or 1) if type(shape) is list and width is not None else None
        if nbytes is None or (width and nbytes != raw.nbytes):
            problem = f"an array of {dtype!r:.40} with the shape {shape!r:.100} cannot have {raw.nbytes} bytes"
            self.cursor.refuse(problem)
        return _Array(raw.offset, raw.nbytes, dtype, tuple(shape))

    def _joined(self, tree: dict[str, Any]) -> _Parts:
        """The array that a mapping holds in parts."""
        shape, chunks = _numbered(tree.get("shape")), _numbered(tree.get("chunks"))
        if len(tree) != 3 or shape is None or not chunks or not all(isinstance(each, _Array) for each in chunks):
            self.cursor.refuse("an array in parts must have a shape and parts")
        dtype = chunks[0].dtype
        width = _width(dtype)
        nbytes = nbytes_of(shape, width)
        sound = nbytes is not None and width > 0 and all(each.dtype == dtype for each in chunks)
        if not sound or nbytes != sum(each.nbytes for each in chunks):
            self.cursor.refuse("the parts of an array do not fit its shape")
        return _Parts(dtype, tuple(shape), chunks)


#: By the first byte: values without content; numbers, with their format; and the others, with that of their length.
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_SCALARS = dict(zip(range(0xCA, 0xD4), (f">{code}" for code in "fdBHIQbhiq"), strict=True))
_SIZED = {
    0xC4: ("bytes", ">B"),
    0xC5: ("bytes", ">H"),
    0xC6: ("bytes", ">I"),
    0xC7: ("ext", ">B"),
    0xC8: ("ext", ">H"),
    0xC9: ("ext", ">I"),
    **dict.fromkeys(range(0xD4, 0xD9), ("ext", "")),
    0xD9: ("text", ">B"),
    0xDA: ("text", ">H"),
    0xDB: ("text", ">I"),
    0xDC: ("list", ">H"),
    0xDD: ("list", ">I"),
    0xDE: ("map", ">H"),
    0xDF: ("map", ">I"),
}
_NUMBERS = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "complex64", "complex128"),
)


def _numbered(tree: Any) -> list[Any] | None:
    """The values of a mapping with the keys "0", "1" and so on; None if it has others."""
    if not isinstance(tree, dict):
        return None
    return list(tree.values()) if list(tree) == [str(i) for i in range(len(tree))] else None


@lru_cache(maxsize=64)
def _width(dtype: str) -> int:
    """The bytes of one element of a dtype; 0 if it is none of numbers."""
    if dtype in _NUMBERS:
        return np.dtype(dtype).itemsize
    import ml_dtypes  # noqa: PLC0415  # which a program without such arrays does not need

    found = getattr(ml_dtypes, dtype, None)
    return np.dtype(found).itemsize if isinstance(found, type) and issubclass(found, np.generic) else 0
