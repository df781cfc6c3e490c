"""Reads and writes at indices of values that are spread over several devices, without gathering what is written.

A block is written as a selection from the whole value: each device compares the positions of its own part with the
block. A slice update would have JAX gather the whole value on every device. Rows and elements are scattered: each
device drops those that are not its own.

NumPy has checked the indices on the host, where they are the same in every process. An array may be traced, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.host import ONE_BY_ONE, combine
from ..._arrays.indexing import OwnSelection, Selection, last_of_each, turns
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from .arrays import store
from .placing import along, call_traced, program, to_devices
from .rows import lines_of, winners

__all__ = ["get", "put"]

_PROGRAMS = 4096
_Tracer = jax.core.Tracer
_WHOLE = slice(None)
#: The elements of an operand of which each device may have all.
_FEW = 256
_LIMIT = 2**31  # JAX's integers have 32 bits, unless 64 are enabled
_Parts = list[int | None]


class _Target:
    """The array that is read or written: its sharding, unless it is traced, and how programs are called with it."""

    def __init__(self, kept: list[Any], array: Any, *, donate: bool) -> None:
        self.kept = kept
        self.array = array
        self.sharding = None if isinstance(array, _Tracer) else array.sharding
        self.donate = donate
        self.steps = 0

    def cut(self, x: Any, parts: _Parts) -> Any:
        """An operand of which the axes ``parts`` are cut as those axes of the array."""
        if self.sharding is None or isinstance(x, _Tracer):
            return x
        if isinstance(x, np.ndarray) and x.size <= _FEW:
            return x.copy()  # JAX gives each device all of it, and may read it later
        return to_devices(x, along(self.sharding, parts, self.array.ndim), self.sharding)

    def write(self, function: Callable[..., Any], *rest: Any) -> Any:
        if self.sharding is None:
            return call_traced(function, self.array, *rest)
        return store(self.kept, program(function, self.sharding, self.donate), self.array, *rest)

    def step(self, function: Callable[..., Any], *rest: Any) -> None:
        """One of several writes. The first one leaves the array as it is, to which an interrupt between goes back."""
        self.array = _Target([], self.array, donate=self.donate and self.steps > 0).write(function, *rest)
        self.steps += 1

    def read(self, function: Callable[..., Any], parts: _Parts, *rest: Any) -> Any:
        if self.sharding is None:
            return call_traced(function, self.array, *rest, parts=parts)
        return program(function, along(self.sharding, parts, self.array.ndim))(self.array, *rest)


def put(kept: list[Any], array: Any, x: Any, operation: str, where: Selection, *, donate: bool) -> Any:
    """Does what `Backend.put` does.

    Args:
        kept: gets the result before Python looks for signals, if the array is donated.
    """
    target = _Target(kept, array, donate=donate)
    where = _on_host(where)
    if where.mask is not None and not x.ndim:
        mask = target.cut(where.mask, list(range(where.mask.ndim)))
        return target.write(_masked(operation), target.cut(x, []), mask)
    if where.basic or not where.of_shape:
        return _put_basic(target, x, operation, where)
    if (lines := lines_of(where)) is not None and lines.rank == 1:
        return _put_lines(target, x, operation, where.shape, lines)
    return _put_elements(target, x, operation, where)


def get(array: Any, where: Selection) -> Any:
    """The selected elements of an array. A part of it that is selected whole is spread as it was."""
    target = _Target([], array, donate=False)
    where = _on_host(where)
    if 0 in where.shape:  # whole on each device: JAX's programs give the shards of no elements other shapes
        return target.read(_nothing(where.shape), [None] * len(where.shape))
    if where.basic:
        spans = where.spans()
        taken = tuple(axis for axis, (_, size, _) in enumerate(spans) if size != where.of_shape[axis])
        numbers = [_span(spans[axis], where.of_shape[axis]) for axis in taken]
        reverse = tuple(axis for axis, span in enumerate(spans) if axis not in taken and span[2] < 0)
        parts = _parts_of(where, taken)
        return target.read(_take(taken, reverse, where.shape), parts, numbers)
    if (lines := lines_of(where)) is not None and lines.rank == 1:
        axis, rank = lines.axis, len(where.shape) - array.ndim + 1
        numbered = where.shape[axis : axis + rank]
        parts = [*range(axis), *(None,) * rank, *range(axis + 1, array.ndim)]
        shape = (*array.shape[:axis], *numbered, *array.shape[axis + 1 :])
        return target.read(_take((axis,), (), shape), parts, [lines.ids])
    found = where.coordinates() if where.of_shape else (where.flat(),)
    return target.read(_gather, [None] * len(where.shape), tuple(line.astype(np.int32) for line in found))


def _on_host(where: Selection) -> Selection:
    """The selection with arrays of the host, which a view of an array on an accelerator does not ask for."""
    return where.on_host() if isinstance(where, OwnSelection) else where


# -- basic indices: numbers and slices ---------------------------------------------------------------------------------


def _span(span: tuple[int, int, int], size: int) -> HostArray:
    start, count, step = span
    return (start + step * np.arange(count)).astype(np.int32 if size < _LIMIT else np.int64)


def _parts_of(where: Selection, taken: tuple[int, ...]) -> _Parts:
    """For each axis of the selected elements the axis of the array that is selected whole there, or None."""
    rank = len(where.of_shape)
    given = [part for part in where.index if part is not None and part is not ...]
    parts: _Parts = []
    axis = 0
    index = where.index if ... in where.index else (*where.index, ...)
    for part in index:
        if part is None:
            parts.append(None)
        elif part is ...:
            whole = range(axis, axis + rank - len(given))
            parts += [None if each in taken else each for each in whole]
            axis += len(whole)
        else:
            if isinstance(part, slice):
                parts.append(None if axis in taken else axis)
            axis += 1
    return parts


def _put_basic(target: _Target, x: Any, operation: str, where: Selection) -> Any:
    spans = where.spans() if where.of_shape else []
    rank = len(where.of_shape)
    steps = np.array([(start, step) for start, _, step in spans], np.int64).reshape(rank, 2)
    if max(where.of_shape, default=0) < _LIMIT:
        steps = steps.astype(np.int32)
    sizes = tuple(size for _, size, _ in spans)
    if x.ndim:
        x = x.reshape(_as_spans(x.shape, where.shape, sizes))
    whole = [axis for axis in range(rank) if spans[axis] == (0, where.of_shape[axis], 1)]
    parts = [axis if axis in whole and x.shape[axis] == where.of_shape[axis] else None for axis in range(x.ndim)]
    return target.write(_span_put(operation, sizes, tuple(whole)), target.cut(x, parts), steps)


def _as_spans(shape: Shape, selected: Shape, sizes: Shape) -> Shape:
    """The shape of an operand with an axis for each of the array: those that a number selects have size 1."""
    full = (1,) * (len(selected) - len(shape)) + tuple(shape)
    axes = iter([mine for mine, size in zip(full, selected, strict=True) if size != 1])
    return tuple(1 if size == 1 else next(axes) for size in sizes)


@functools.lru_cache(_PROGRAMS)
def _span_put(operation: str, sizes: Shape, whole: tuple[int, ...]) -> Callable[..., Any]:
    def put_spans(array: Any, x: Any, steps: Any) -> Any:
        mask: Any = True
        for axis, size in enumerate(sizes):
            if axis in whole:
                continue
            start, step = steps[axis, 0], steps[axis, 1]
            distance = jnp.arange(array.shape[axis], dtype=steps.dtype) - start
            place = distance // step
            selected = (place * step == distance) & (place >= 0) & (place < size)
            mask = mask & jnp.expand_dims(selected, [each for each in range(array.ndim) if each != axis])
            if x.ndim and x.shape[axis] != 1:
                x = jnp.take(x, jnp.clip(place, 0, size - 1), axis=axis, mode="clip")
        new = combine(operation, array, x, jnp.minimum, jnp.maximum)
        new = jnp.broadcast_to(new, array.shape).astype(array.dtype)
        return new if mask is True else jnp.where(mask, new, array)

    return put_spans


@functools.cache
def _nothing(shape: Shape) -> Callable[..., Any]:
    return lambda array: jnp.zeros_like(array, shape=shape)


@functools.lru_cache(_PROGRAMS)
def _take(axes: tuple[int, ...], reverse: tuple[int, ...], shape: Shape) -> Callable[..., Any]:
    def take(array: Any, numbers: list[Any]) -> Any:
        for axis, each in zip(axes, numbers, strict=True):
            array = jnp.take(array, each, axis=axis, mode="clip")  # nothing is out of range
        return jnp.flip(array, reverse).reshape(shape) if reverse else array.reshape(shape)

    return take


# -- masks, lines along an axis, and elements --------------------------------------------------------------------------


@functools.cache
def _masked(operation: str) -> Callable[..., Any]:
    def put_masked(array: Any, x: Any, mask: Any) -> Any:
        mask = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
        return jnp.where(mask, combine(operation, array, x, jnp.minimum, jnp.maximum), array)

    return put_masked


def _put_lines(target: _Target, x: Any, operation: str, selected: Shape, lines: Any) -> Any:
    ids, axis = lines.ids, lines.axis
    size, rank = target.array.shape[axis], target.array.ndim
    count, rest = ids.size, rank - axis - 1
    along_ids = x.ndim - rest - 1  # the axis of x along which the lines vary, if it has one
    varies = along_ids >= 0
    if varies and len(selected) - rest - axis != 1:  # the numbers had more axes than one, or none
        x = (np if isinstance(x, np.ndarray) else jnp).broadcast_to(x, selected)
        x = x.reshape(*selected[:axis], count, *selected[len(selected) - rest :])
        along_ids = axis
    elif varies and x.shape[along_ids] != count:
        varies = False  # it is 1
    in_turn = turns(ids) if operation in ONE_BY_ONE and not lines.once else []
    if operation == "set" and varies and not lines.once:
        ids = winners(ids, size)
    missing = (1 << (count - 1).bit_length()) - count
    if missing and (not varies or isinstance(x, np.ndarray)):
        ids = np.concatenate([ids, np.full(missing, size, np.int32)])  # which is out of range
        if varies:
            zeros = np.zeros((*x.shape[:along_ids], missing, *x.shape[along_ids + 1 :]), x.dtype)
            x = np.concatenate([x, zeros], along_ids)
    first = rank - x.ndim
    parts = [
        at if at != axis and n == target.array.shape[at] else None
        for at, n in zip(range(first, rank), x.shape, strict=True)
    ]
    x = target.cut(x, parts)
    if len(in_turn) < 2:
        return target.write(_scatter(operation, axis), x, ids)
    for turn in in_turn:
        at = np.full(ids.size, size, np.int32)
        at[turn] = ids[turn]
        target.step(_scatter(operation, axis), x, at)
    return target.array


@functools.cache
def _scatter(operation: str, axis: int) -> Callable[..., Any]:
    def put_lines(array: Any, x: Any, ids: Any) -> Any:
        at = (*(_WHOLE,) * axis, ids)
        if operation not in ONE_BY_ONE:
            return getattr(array.at[at], operation)(x, mode="drop")
        line = jnp.zeros(array.shape[axis], bool).at[ids].set(True, mode="drop")
        mask = jnp.expand_dims(line, [each for each in range(array.ndim) if each != axis])
        return _changed(array, jnp.ones_like(array).at[at].set(x, mode="drop"), mask, operation)

    return put_lines


@functools.cache
def _scatter_elements(operation: str) -> Callable[..., Any]:
    def put_elements(array: Any, x: Any, coordinates: Any) -> Any:
        if operation not in ONE_BY_ONE:
            return getattr(array.at[coordinates], operation)(x, mode="drop")
        mask = jnp.zeros(array.shape, bool).at[coordinates].set(True, mode="drop")
        return _changed(array, jnp.ones_like(array).at[coordinates].set(x, mode="drop"), mask, operation)

    return put_elements


def _changed(array: Any, x: Any, mask: Any, operation: str) -> Any:
    """For an operation of which JAX has no scatter: to read the elements would communicate."""
    return jnp.where(mask, combine(operation, array, x, jnp.minimum, jnp.maximum), array)


def _gather(array: Any, coordinates: Any) -> Any:
    return (array if array.ndim else array.reshape(1))[coordinates]


def _put_elements(target: _Target, x: Any, operation: str, where: Selection) -> Any:
    """Writes at the coordinates of each element."""
    shape = target.array.shape
    coordinates = [line.reshape(-1).astype(np.int32) for line in where.coordinates()]
    xp = np if isinstance(x, np.ndarray) else jnp
    values = xp.broadcast_to(x, where.shape).reshape(-1)
    if operation == "set":
        keep = last_of_each(where.flat())
        coordinates, values = [line[keep] for line in coordinates], values[keep]
    in_turn = turns(where.flat().reshape(-1)) if operation in ONE_BY_ONE else []
    if len(in_turn) > 1:
        for turn in in_turn:
            at, part = _padded([line[turn] for line in coordinates], values[turn], shape)
            target.step(_scatter_elements(operation), target.cut(part, [None]), tuple(at))
        return target.array
    coordinates, values = _padded(coordinates, values, shape)
    return target.write(_scatter_elements(operation), target.cut(values, [None]), tuple(coordinates))


def _padded(coordinates: list[Any], values: Any, shape: Shape) -> tuple[list[Any], Any]:
    """Rounds the number of elements up to a power of two with elements that fall outside and are dropped."""
    missing = (1 << (values.size - 1).bit_length()) - values.size
    if not missing or not isinstance(values, np.ndarray):
        return coordinates, values
    outside = [np.full(missing, size, np.int32) for size in shape]
    padded = [np.concatenate(pair) for pair in zip(coordinates, outside, strict=True)]
    return padded, np.concatenate([values, np.zeros(missing, values.dtype)])
