"""How a variable is stored in a file: as a tensor, and as metadata for the facts that a tensor has no room for.

================  =============================================================================
dtype             tensor
================  =============================================================================
complex           real numbers, with a last axis of two
int4, uint4       int8, uint8
string            bytes: the lengths of the strings (int64), then their UTF-8
key<…>            uint32: the numbers of a key are a last axis (the dtype names the implementation)
all others        the same dtype
================  =============================================================================
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...._arrays.dtypes import KEYS, STORED, is_differentiable, is_floating
from ...._arrays.host import empty_aligned
from ...._arrays.shapes import DeclaredShape, Shape
from ...._arrays.types import HostArray
from .header import Entry, nbytes_of, refuse

__all__ = [
    "PARTIAL",
    "VariableRecord",
    "code_of",
    "difference",
    "facts_of",
    "fits_tensor",
    "fresh_bytes",
    "from_tensor",
    "of_tensor",
    "parsed",
    "plain",
    "record_of",
    "tensor_shape",
    "to_tensor",
]


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
    **dict.fromkeys(KEYS, "U32"),
}
_PARTS = {"complex64": "float32", "complex128": "float64", "int4": "int8", "uint4": "uint8"}
_LAST_AXES: dict[str, Shape] = {  #: the axes that the tensor has and the array does not
    **dict.fromkeys(("complex64", "complex128"), (2,)),
    **{name: dtype[0].shape for name, dtype in KEYS.items()},
}
PARTIAL = ("bool", "int4", "uint4", "string")  #: dtypes for which some bytes are invalid
_DTYPES = {code: name for name, code in _CODES.items() if name not in (*_PARTS, *KEYS, "string")} | {"C64": "complex64"}
_AGGREGATIONS = ("none", "mean", "sum", "only_first_replica")


class VariableRecord(NamedTuple):
    """The facts about a saved variable.

    Attributes:
        dtype: the canonical name of the dtype.
        shape: the shape of the value; None if the variable had no value.
        declared: the declared shape.
        trainable: whether the variable was trainable.
        autocast: whether `autocast` scopes applied to its reads.
        aggregation: how replicas are combined.
        backend: the name of its backend.
    """

    dtype: str
    shape: Shape | None
    declared: DeclaredShape
    trainable: bool
    autocast: bool
    aggregation: str
    backend: str


def plain(dtype: str, shape: Shape, backend: str = "numpy") -> VariableRecord:
    """Returns the record of a variable with this dtype and shape, and the default of every other option."""
    trainable, autocast = _FLAGS[dtype]
    return VariableRecord(dtype, shape, shape, trainable, autocast, "mean", backend)


_FLAGS = {dtype: (is_differentiable(dtype), is_floating(dtype)) for dtype in STORED}


def of_tensor(entry: Entry, backend: str = "numpy") -> VariableRecord:
    """Returns the record of a tensor that has no metadata of ours."""
    return _default(entry.code, entry.shape, backend)


@lru_cache(maxsize=1024)  # many tensors have the same record, and it is immutable
def _default(code: str, shape: Shape, backend: str) -> VariableRecord:
    return plain(_DTYPES[code], shape, backend)


def difference(saved: VariableRecord, backend: str) -> dict[str, Any]:
    """Returns the facts, as JSON, that are neither in the tensor nor the default: mostly none, for a short header."""
    if saved.shape is None:
        default = plain(saved.dtype, (), backend)._replace(shape=None)
    else:
        default = plain(_DTYPES[_CODES[saved.dtype]], saved.shape, backend)
    if saved == default and saved.shape is not None:  # without a tensor, what is said here is all there is
        return {}
    differs = {name: value for name, value in saved._asdict().items() if value != getattr(default, name)}
    if saved.shape is None or saved.dtype == "string":
        differs |= {"dtype": saved.dtype, "shape": saved.shape}
    if "declared" in differs and saved.declared is ...:
        differs["declared"] = "..."
    return differs


def parsed(path: str, value: Any, entry: Entry | None, backend: str, where: Any) -> VariableRecord:
    """Returns the record that a tensor and its `difference` describe.

    Raises:
        CheckpointError: they contradict each other.
    """
    try:
        unknown = value.keys() - set(VariableRecord._fields)
        dtype = value["dtype"] if "dtype" in value or entry is None else _DTYPES[entry.code]
        shape = _sizes(value["shape"]) if "shape" in value else _shape_of(dtype, entry)
        default = plain(dtype, shape or (), backend)._replace(shape=shape)
        declared = _declared(value["declared"]) if "declared" in value else default.declared
        saved = default._replace(**{**value, "dtype": dtype, "shape": shape, "declared": declared})
        sound = not unknown and (entry is None) == (shape is None) and _are_flags(saved)
        sound = sound and (entry is None or _fits(saved, entry))
    except (KeyError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        refuse("load", "the metadata of the variable does not match its tensor", f"{where}: {path}")
    return saved


def facts_of(saved: VariableRecord, backend: str) -> dict[str, Any]:
    """Returns the facts, as JSON, that are not the default of a variable of this dtype and shape."""
    default = plain(saved.dtype, saved.shape or (), backend)._replace(shape=saved.shape)
    facts = {name: value for name, value in saved._asdict().items() if value != getattr(default, name)}
    if "declared" in facts and saved.declared is ...:
        facts["declared"] = "..."
    return facts


def record_of(path: str, dtype: Any, shape: Any, facts: Any, backend: str, where: Any) -> VariableRecord:
    """Returns the record that a dtype, a shape and `facts_of` describe; all of them are as JSON has them.

    Raises:
        CheckpointError: they contradict each other, or describe no array.
    """
    try:
        _CODES[dtype]
        sizes = _sizes(shape)
        default = plain(dtype, sizes or (), backend)._replace(shape=sizes)
        known = not facts.keys() & {"dtype", "shape"} and not facts.keys() - set(VariableRecord._fields)
        declared = _declared(facts["declared"]) if "declared" in facts else default.declared
        saved = default._replace(**{**facts, "declared": declared})
        sound = known and _are_flags(saved)
    except (KeyError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound:
        refuse("load", "the index describes no variable that there can be", f"{where}: {path:.100}")
    return saved


def fits_tensor(saved: VariableRecord, code: str, shape: Shape) -> bool:
    """Whether a tensor of this dtype code and shape has the value of a variable, or a block of this shape of it."""
    return _fits(saved, Entry("", code, shape, 0, 0))


def _shape_of(dtype: str, entry: Entry | None) -> Shape:
    last = _LAST_AXES.get(dtype, ())
    if entry is None or (last and entry.shape[-1:] != last):
        raise ValueError(dtype)
    return entry.shape[:-1] if last else entry.shape


def _sizes(value: Any) -> Shape | None:
    if value is None:
        return None
    if type(value) is not list or nbytes_of(value, _WIDEST) is None:
        raise ValueError(value)
    return tuple(value)


_WIDEST = 16  # bytes of the largest element


def _declared(value: Any) -> DeclaredShape:
    if value == "...":
        return ...
    if type(value) is not list:
        raise ValueError(value)
    known = _sizes([each for each in value if each is not None])
    assert known is not None
    sizes = iter(known)
    return tuple(None if each is None else next(sizes) for each in value)


def _are_flags(saved: VariableRecord) -> bool:
    truths = type(saved.trainable) is type(saved.autocast) is bool
    return truths and saved.aggregation in _AGGREGATIONS and isinstance(saved.backend, str)


def _fits(saved: VariableRecord, entry: Entry) -> bool:
    assert saved.shape is not None
    if entry.code != _CODES[saved.dtype]:
        return False
    if saved.dtype == "string":
        return len(entry.shape) == 1 and entry.shape[0] >= 8 * math.prod(saved.shape)
    return entry.shape == tensor_shape(saved.dtype, saved.shape)


def code_of(dtype: str) -> str:
    """Returns the format's name of the element type that stores a dtype."""
    return _CODES[dtype]


def tensor_shape(dtype: str, shape: Shape) -> Shape:
    """Returns the shape of the tensor that stores an array, of any dtype but string."""
    return (*shape, *_LAST_AXES.get(dtype, ()))


def to_tensor(host: HostArray, dtype: str) -> HostArray:
    """Returns the array as contiguous bytes in C order, without a copy if they are that already."""
    if dtype == "string":
        texts = [str(each).encode() for each in host.ravel()]
        lengths = np.array([len(each) for each in texts], "<i8").tobytes()
        return np.frombuffer(b"".join((lengths, *texts)), np.uint8)
    if dtype.endswith("int4"):
        host = host.astype(_PARTS[dtype])
    if not host.flags.c_contiguous:
        host = np.ascontiguousarray(host)
    return host.reshape(-1).view(np.uint8)


def from_tensor(raw: HostArray, saved: VariableRecord, where: Any) -> HostArray:
    """Returns the array that is stored in contiguous bytes; it shares their memory if it can.

    Raises:
        CheckpointError: the bytes are not valid for the dtype.
    """
    assert saved.shape is not None
    if saved.dtype == "string":
        return _texts(raw, saved.shape, where)
    if saved.dtype in ("int4", "uint4"):
        wide = raw.view(_PARTS[saved.dtype])
        narrow = wide.astype(STORED[saved.dtype])
        if not np.array_equal(narrow.astype(wide.dtype), wide):
            refuse("load", f"a value is out of the range of {saved.dtype}", where)
        return narrow.reshape(saved.shape)
    if saved.dtype == "bool" and raw.size and raw.max() > 1:
        refuse("load", "a bool is stored as neither 0 nor 1", where)
    return raw.view(STORED[saved.dtype]).reshape(saved.shape)


def _texts(raw: HostArray, shape: Shape, where: Any) -> HostArray:
    count = math.prod(shape)
    lengths = raw[: 8 * count].tobytes()
    ends = np.cumsum([8 * count, *np.frombuffer(lengths, "<i8").tolist()], dtype=object)
    if any(stop < start for start, stop in pairwise(ends)) or ends[-1] != raw.size:
        refuse("load", "the lengths of the strings do not match their bytes", where)
    memory = raw.tobytes()
    try:
        texts = [memory[start:stop].decode() for start, stop in pairwise(ends)]
    except UnicodeDecodeError:
        refuse("load", "a string is not valid UTF-8", where)
    array = np.empty(count, STORED["string"])
    for i, text in enumerate(texts):
        array[i] = text
    return array.reshape(shape)


def fresh_bytes(count: int) -> HostArray:
    """Returns memory to read into, aligned so that every library can use a large array without a copy."""
    # The alignment takes 6 us, and libraries copy a small array anyway.
    return np.empty(count, np.uint8) if count < _SMALL else empty_aligned((count,), np.uint8)


_SMALL = 4096
