"""What a variable is in a file: one tensor, and what the format of tensors has no room for.

================  =============================================================================
dtype             as a tensor
================  =============================================================================
complex           real numbers, with a last axis of two
int4, uint4       int8, uint8
string            bytes: the lengths of the strings (int64), then their UTF-8
all others        themselves
================  =============================================================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .._backend import HostArray, empty_aligned
from .._dtypes import HOST
from .._shapes import DeclaredShape, Shape
from ._format import Entry, refuse

__all__ = ["Saved", "code_of", "from_tensor", "of_foreign", "parsed", "tensor_shape", "to_tensor"]

_CODES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{'U' if sign else 'I'}{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "F32",
    "complex128": "F64",
    "int4": "I8",
    "uint4": "U8",
    "string": "U8",
}
_PARTS = {"complex64": "float32", "complex128": "float64", "int4": "int8", "uint4": "uint8"}
_DTYPES = {code: name for name, code in _CODES.items() if name not in (*_PARTS, "string")}
_AGGREGATIONS = ("none", "mean", "sum", "only_first_replica")


@dataclass(frozen=True, slots=True)
class Saved:
    """A variable as it was saved.

    Attributes:
        dtype: its canonical name.
        shape: of the value; None if there was none.
        declared: what the shape could be.
        trainable, autocast, aggregation: its flags.
        backend: the library that held it.
    """

    dtype: str
    shape: Shape | None
    declared: DeclaredShape
    trainable: bool = True
    autocast: bool = True
    aggregation: str = "mean"
    backend: str = "numpy"

    def described(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "dtype": self.dtype,
            "shape": self.shape,
            "declared": "..." if self.declared is ... else self.declared,
            "trainable": self.trainable,
            "autocast": self.autocast,
            "aggregation": self.aggregation,
            "backend": self.backend,
        }


def parsed(path: str, value: Any, entry: Entry | None, where: Any) -> Saved:
    """What `Saved.described` gave, checked; it must fit its tensor."""
    try:
        shape = None if value["shape"] is None else tuple(value["shape"])
        declared = ... if value["declared"] == "..." else tuple(value["declared"])
        known = value.keys() == {"dtype", "shape", "declared", *_FLAGS} and value["dtype"] in HOST
        sizes = [*(shape or ()), *(each for each in (() if declared is ... else declared) if each is not None)]
        flags = [value[name] for name in _FLAGS]
    except (KeyError, TypeError, AttributeError):
        known, sizes, flags = False, [], []
    if not known or any(type(each) is not int or each < 0 for each in sizes) or not _are_flags(*flags):
        refuse("load", "what is said about the variable is malformed", f"{where}: {path}")
    saved = Saved(value["dtype"], shape, declared, *flags)
    if (entry is None) != (shape is None) or (entry is not None and not _fits(saved, entry)):
        refuse("load", "what is said about the variable does not fit its tensor", f"{where}: {path}")
    return saved


def _are_flags(trainable: Any, autocast: Any, aggregation: Any, backend: Any) -> bool:
    truths = type(trainable) is type(autocast) is bool
    return truths and aggregation in _AGGREGATIONS and isinstance(backend, str)


_FLAGS = ("trainable", "autocast", "aggregation", "backend")


def _fits(saved: Saved, entry: Entry) -> bool:
    assert saved.shape is not None
    if entry.code != _CODES[saved.dtype]:
        return False
    if saved.dtype == "string":
        return len(entry.shape) == 1 and entry.shape[0] >= 8 * math.prod(saved.shape)
    return entry.shape == tensor_shape(saved.dtype, saved.shape)


def of_foreign(entry: Entry) -> Saved:
    """What a tensor that somebody else has written would be as a variable."""
    return Saved(_DTYPES[entry.code], entry.shape, entry.shape)


def code_of(dtype: str) -> str:
    """The format's name for the elements of a tensor that holds the dtype."""
    return _CODES[dtype]


def tensor_shape(dtype: str, shape: Shape) -> Shape:
    """The shape of the tensor that holds an array; not for strings, whose length depends on them."""
    return (*shape, 2) if dtype.startswith("complex") else shape


def to_tensor(host: HostArray, dtype: str) -> HostArray:
    """The array as bytes in one piece, in C order. Nothing is copied that is so already."""
    if dtype == "string":
        texts = [str(each).encode() for each in host.ravel()]
        lengths = np.array([len(each) for each in texts], "<i8").tobytes()
        return np.frombuffer(b"".join((lengths, *texts)), np.uint8)
    if dtype.endswith("int4"):
        host = host.astype(_PARTS[dtype])
    return np.ascontiguousarray(host).reshape(-1).view(np.uint8)


def from_tensor(raw: HostArray, saved: Saved, where: Any) -> HostArray:
    """The array that bytes in one piece hold; it shares their memory where it can."""
    assert saved.shape is not None
    if saved.dtype == "string":
        return _texts(raw, saved.shape, where)
    if saved.dtype in ("int4", "uint4"):
        wide = raw.view(_PARTS[saved.dtype])
        narrow = wide.astype(HOST[saved.dtype])
        if not np.array_equal(narrow.astype(wide.dtype), wide):
            refuse("load", f"a number is out of the range of {saved.dtype}", where)
        return narrow.reshape(saved.shape)
    if saved.dtype == "bool" and raw.size and raw.max() > 1:
        refuse("load", "a truth value is neither 0 nor 1", where)
    return raw.view(HOST[saved.dtype]).reshape(saved.shape)


def _texts(raw: HostArray, shape: Shape, where: Any) -> HostArray:
    count = math.prod(shape)
    lengths = raw[: 8 * count].tobytes()
    ends = np.cumsum([8 * count, *np.frombuffer(lengths, "<i8").tolist()], dtype=object)
    if any(stop < start for start, stop in pairwise(ends)) or ends[-1] != raw.size:
        refuse("load", "the lengths of the strings do not fit their bytes", where)
    memory = raw.tobytes()
    try:
        texts = [memory[start:stop].decode() for start, stop in pairwise(ends)]
    except UnicodeDecodeError:
        refuse("load", "a string is no UTF-8", where)
    array = np.empty(count, HOST["string"])
    for i, text in enumerate(texts):
        array[i] = text
    return array.reshape(shape)


def fresh_bytes(count: int) -> HostArray:
    """Memory to read into, aligned for every library."""
    return empty_aligned((count,), np.uint8)
