"""The text that shows a variable: one line of facts, then the value, abridged. Never raises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .._arrays.backend import Backend
from .._arrays.indexing import select
from .._arrays.slot_backend import SlotHandle
from .._arrays.types import HostArray
from . import overlays
from .deferring import recipe_of

__all__ = ["facts_of", "host_parts", "parts_of", "seen", "shape_repr", "unavailable", "value_text", "variable_repr"]

# NumPy's own limits: a larger array is printed with three elements at each end of each axis.
_THRESHOLD = 1000
_EDGE = 3


def facts_of(variable: Any) -> tuple[Any, bool, str, bool]:
    """The shape; whether there is a value; the device, or how the value is spread; and whether it is spread.

    Without a value the shape is the declared one. A variable is not made a part of a program that is traced.
    """
    traced = _is_traced(variable)
    has_value = variable._handle is not None if traced else variable.is_initialized
    if traced:
        shape = variable._declared if variable._shape is None else variable._shape
    else:
        shape = variable.shape if has_value else variable.declared_shape
    device = variable.device
    backend = variable._backend
    return shape, has_value, backend.device_name(device), backend.sharding_on(device) is not None


def variable_repr(variable: Any) -> str:
    """The text of ``repr(variable)``.

    >>> import statevar as sv
    >>> sv.Variable([1.0, 2.0], name="w")
    <Variable 'w' shape=(2,) dtype=float32 device=CPU:0 backend=numpy value=[1. 2.]>
    """
    name = type(variable).__name__
    try:
        shape, _, where, is_spread = facts_of(variable)
        facts = (
            f"{variable.path!r} shape={shape_repr(shape)} dtype={variable.dtype_name} "
            f"{'sharding' if is_spread else 'device'}={where} backend={variable.backend}"
        )
        if (shared := variable.shared) is not None:
            facts += f" shared={shared!r}"
    except Exception as error:  # noqa: BLE001  # a repr never raises
        return f"<{name} at {id(variable):#x}, unavailable: {type(error).__name__}>"
    return f"<{name} {facts} value={value_text(variable)}>"


def value_text(variable: Any) -> str:
    """The value as NumPy prints it; it starts on a new line if it has several."""
    try:
        backend, value, why = seen(variable)
        if why:
            return f"<{why}>"
        text = _text_of_pieces(backend, value) if backend.is_sharded else _text(backend, value)
    except Exception as error:  # noqa: BLE001  # a repr never raises
        return f"<{unavailable(error)}>"
    return f"\n{text}" if "\n" in text else text


def host_parts(variable: Any) -> tuple[list[HostArray], str]:
    """The whole value as arrays of NumPy, several if it is spread; or none, and why a display shows none."""
    backend, value, why = seen(variable)
    return ([], why) if why else parts_of(backend, value)


def parts_of(backend: Any, value: Any) -> tuple[list[HostArray], str]:
    """A value as arrays of NumPy, several if it is spread; or none, if other processes would have to send a part."""
    if not backend.is_sharded:
        return [backend.packed(value)], ""
    if backend.spans(value):
        return [], _text_of_pieces(backend, value).strip("<>")
    return [backend.native.packed(piece.array) for piece in backend.pieces(value)], ""


def seen(variable: Any) -> tuple[Any, Any, str]:
    """What a display looks at: the adapter and the value as it is stored; or why there is none to show.

    Nothing is copied: neither what an `autocast` scope would cast, nor the array of another library, which a read of a
    view copies if its owner may write into it.
    """
    if _is_traced(variable):
        return variable._backend, None, "traced" if variable._handle is not None else _why_without(variable)
    cell = variable._current() if overlays.active else variable
    if not variable.is_initialized:
        return variable._backend, None, _why_without(variable)
    handle = cell._handle
    value = handle.slot.read() if type(handle) is SlotHandle else cell._stored()
    return cell._backend, value, "traced" if cell._backend.is_symbolic(value) else ""


def unavailable(error: BaseException) -> str:
    """What stands in the place of something whose display has failed."""
    return f"unavailable: {type(error).__name__}"


def _why_without(variable: Any) -> str:
    return "uninitialized" if recipe_of(variable) is None else "deferred"


def _is_traced(variable: Any) -> bool:
    """Whether the library of a variable traces this code, so that a read would make the variable part of a program."""
    tracing = variable._backend.tracing
    return tracing is not None and tracing.is_tracing()


def shape_repr(shape: Any) -> str:
    return "..." if shape is ... else str(shape)


def _text(backend: Backend, value: Any) -> str:
    shape = backend.shape(value)
    if np.prod(shape, dtype=float) <= _THRESHOLD:
        return np.array2string(_numbers(backend.packed(value)), separator=" ")
    read = partial(_read, backend, value, shape)
    return np.array2string(_numbers(_edges(read, shape)), threshold=0, edgeitems=_EDGE)


def _read(backend: Backend, value: Any, shape: tuple[int, ...], index: tuple[slice, ...]) -> HostArray:
    return backend.packed(backend.get(value, select(index, shape, "")))


def _text_of_pieces(backend: Any, value: Any) -> str:
    """The text of a value that is spread. It is made of the pieces that lie in this process, since it must not wait."""
    shape, pieces = backend.shape(value), backend.pieces(value)
    blocks = [(piece.offsets, backend.native.shape(piece.array), piece.array) for piece in pieces]
    if backend.spans(value):
        return _shards(shape, [(offsets, sizes) for offsets, sizes, _ in blocks])
    read = partial(_read_of_pieces, backend.native, blocks)
    if math.prod(shape) <= _THRESHOLD:
        return np.array2string(_numbers(read(tuple(slice(0, length) for length in shape))), separator=" ")
    return np.array2string(_numbers(_edges(read, shape)), threshold=0, edgeitems=_EDGE)


def _read_of_pieces(native: Backend, blocks: list[Any], index: tuple[slice, ...]) -> HostArray:
    """The elements that slices with a start and a stop select, from blocks that have all of them."""
    out = None
    for offsets, sizes, array in blocks:
        low = [max(part.start - at, 0) for part, at in zip(index, offsets, strict=True)]
        high = [min(part.stop - at, size) for part, at, size in zip(index, offsets, sizes, strict=True)]
        if any(begin > end for begin, end in zip(low, high, strict=True)):
            continue
        part = tuple(map(slice, low, high))
        host = native.packed(native.get(array, select(part, sizes, "")))
        if out is None:
            shape = tuple(each.stop - each.start for each in index)
            out = np.zeros(shape + host.shape[len(shape) :], host.dtype)
        starts = [at + begin - each.start for at, begin, each in zip(offsets, low, index, strict=True)]
        out[tuple(slice(at, at + length) for at, length in zip(starts, host.shape, strict=False))] = host
    assert out is not None, "a process that has the whole value has pieces of it"
    return out


def _shards(shape: tuple[int, ...], blocks: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> str:
    """The text of a value of which other processes have parts.

    >>> _shards((8, 4), [((4, 0), (2, 4)), ((6, 0), (2, 4))])
    '<shards 2-3 of 4, 2x4 each>'
    """
    if not blocks:
        return "<no shards in this process>"
    largest = tuple(max(lengths) for lengths in zip(*(sizes for _, sizes in blocks), strict=True))
    counts = tuple(-(-length // size) if size else 1 for length, size in zip(shape, largest, strict=True))
    numbers = sorted(_number(offsets, largest, counts) for offsets, _ in blocks)
    first, last = numbers[0], numbers[-1]
    which = f"{first}-{last}" if last - first == len(numbers) - 1 > 0 else ",".join(map(str, numbers))
    each = "x".join(map(str, largest))
    if len(numbers) > 1:
        each += " each" if len({sizes for _, sizes in blocks}) == 1 else " or less"
    return f"<shard{'s' if len(numbers) > 1 else ''} {which} of {math.prod(counts)}, {each}>"


def _number(offsets: tuple[int, ...], largest: tuple[int, ...], counts: tuple[int, ...]) -> int:
    """The place of a block among all blocks, in C order."""
    number = 0
    for at, size, count in zip(offsets, largest, counts, strict=True):
        number = number * count + (at // size if size else 0)
    return number


def _numbers(host: HostArray) -> HostArray:
    """A packed value as it is shown: of random keys their numbers, which have one axis more."""
    return host if host.dtype.names is None else host[host.dtype.names[0]]


def _edges(read: Callable[[tuple[slice, ...]], HostArray], shape: tuple[int, ...]) -> HostArray:
    """The corners of a large array, with one row between that NumPy abridges. Only the corners leave the device."""
    ends = [_ends(size) for size in shape]
    dtype = read((slice(0, 1),) * len(shape)).dtype
    result = np.zeros([min(size, 2 * _EDGE + 1) for size in shape], dtype)
    for corner in itertools.product(*ends):
        source = tuple(pair[0] for pair in corner)
        target = tuple(pair[1] for pair in corner)
        result[target] = read(source)
    return result


def _ends(size: int) -> list[tuple[slice, slice]]:
    if size <= 2 * _EDGE + 1:
        return [(slice(0, size), slice(0, size))]
    return [
        (slice(0, _EDGE), slice(0, _EDGE)),
        (slice(size - _EDGE, size), slice(_EDGE + 1, 2 * _EDGE + 1)),
    ]
