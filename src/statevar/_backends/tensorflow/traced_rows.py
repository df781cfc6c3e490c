"""Rows of which only the graph knows the numbers: `rows` for an index that is traced.

What is out of bounds is not written, and read at the nearest row, since a graph cannot raise before it writes. So a row
out of bounds is written at the nearest one, with what that row would have without it. No shape depends on the numbers,
as `tf.vectorized_map` and XLA need it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ..._arrays.host import ONE_BY_ONE
from ..._arrays.indexing import Selection
from ..._arrays.shapes import Shape
from ..._arrays.traced_index import cannot_write
from .rows import combined

__all__ = ["TracedRows", "gathered_rows", "scattered_rows", "traced_rows"]

_RAW = tf.raw_ops


class TracedRows(NamedTuple):
    """The rows that a traced index selects.

    Args:
        positions: the number of each row along each of the first axes, inside the bounds.
        inside: whether that is the number which the index gave.
        shape: the shape of the selection.
        axes: the sizes of the first axes.
    """

    positions: Any
    inside: Any
    shape: Shape
    axes: Shape


def traced_rows(index: Any, shape: Shape, shape_of: Callable[[Any], Shape | None]) -> TracedRows | None:
    """The rows of a traced index; None if it has a slice, a mask or a new axis beside or before an array.

    Args:
        shape_of: returns the shape of a traced array of integers; None for any other part.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    while parts and (parts[-1] is ... or (isinstance(parts[-1], slice) and _is_whole(parts[-1]))):
        parts.pop()
    shapes = [shape_of(part) for part in parts]
    known = [None if of is not None else _known(part) for part, of in zip(parts, shapes, strict=True)]
    if any(of is None and array is None for of, array in zip(shapes, known, strict=True)):
        return None
    zeros = [array if of is None else np.zeros(of, np.intp) for array, of in zip(known, shapes, strict=True)]
    selected = Selection(tuple(zeros), shape).shape  # which checks the numbers that are known
    axes = shape[: len(parts)]
    if 0 in axes:
        return None  # there is no nearest row
    columns, inside = [], tf.constant(True)
    for part, array, size in zip(parts, known, axes, strict=True):
        numbers = tf.constant(np.asarray(array) % size, tf.int64) if array is not None else tf.cast(part, tf.int64)
        if array is None:
            numbers = tf.where(numbers < 0, numbers + size, numbers)
            inside = inside & (numbers >= 0) & (numbers < size)
            numbers = tf.clip_by_value(numbers, 0, size - 1)
        columns.append(numbers)
    lengths = selected[: len(selected) - (len(shape) - len(parts))]
    positions = tf.stack([tf.broadcast_to(each, lengths) for each in columns], -1)
    return TracedRows(positions, tf.broadcast_to(inside, lengths), selected, axes)


def gathered_rows(array: Any, rows: TracedRows) -> Any:
    """The selected rows of an array."""
    if len(rows.axes) == 1:  # of which the gradient is sparse for any number of axes of the index
        return _RAW.Gather(params=array, indices=rows.positions[..., 0])
    return _RAW.GatherNd(params=array, indices=rows.positions)


def scattered_rows(old: Any, x: Any, operation: str, rows: TracedRows) -> Any:
    """The value after an operation on the rows: one scatter into the old value, which a variable can do in place."""
    if 0 in rows.shape:
        return tf.identity(old)
    count = math.prod(rows.shape[: rows.inside.shape.rank])
    rest = old.shape[len(rows.axes) :]
    at = tf.reshape(rows.positions, [count, len(rows.axes)])
    inside = tf.reshape(rows.inside, [count, *[1] * len(rest)])
    x = tf.reshape(tf.broadcast_to(x, rows.shape), [count, *rest])
    if operation in ("add", "subtract"):
        nothing = tf.constant(-0.0 if operation == "add" else 0.0, x.dtype)  # which leaves a negative zero negative
        scatter = _RAW.TensorScatterAdd if operation == "add" else _RAW.TensorScatterSub
        return scatter(tensor=old, indices=at, updates=tf.where(inside, x, nothing))
    if operation in ("min", "max"):
        scatter = _RAW.TensorScatterMin if operation == "min" else _RAW.TensorScatterMax
        return scatter(tensor=old, indices=at, updates=tf.where(inside, x, _RAW.GatherNd(params=old, indices=at)))
    if count < 2:
        present = _RAW.GatherNd(params=old, indices=at)
        new = tf.where(inside, tf.cast(combined(operation, present, x), old.dtype), present)
        return _RAW.TensorScatterUpdate(tensor=old, indices=at, updates=new)
    if operation in ONE_BY_ONE:
        raise cannot_write(operation)
    return _grouped(old, x, operation, at, inside, rows.axes)


def _grouped(old: Any, x: Any, operation: str, at: Any, inside: Any, axes: Shape) -> Any:
    """Sets or multiplies rows of which some may be the same: each of these writes what is right for all of them."""
    count = at.shape[0]
    line = at[:, 0]
    for axis, size in enumerate(axes[1:], 1):
        line = line * size + at[:, axis]
    valid = tf.reshape(inside, [count])
    # In the order of the rows; of the same row those out of bounds first, then in the order of the index.
    key = (line * 2 + tf.cast(valid, tf.int64)) * count + tf.range(count, dtype=tf.int64)
    order = tf.argsort(key)
    line, at = tf.gather(line, order), tf.gather(at, order)
    begins = tf.concat([[False], line[1:] != line[:-1]], 0)
    group = tf.cumsum(tf.cast(begins, tf.int32))
    present = _RAW.GatherNd(params=old, indices=at)
    if operation == "multiply":
        factors = tf.gather(tf.where(inside, x, tf.ones_like(x)), order)
        new = present * tf.gather(tf.math.unsorted_segment_prod(factors, group, count), group)
    else:
        last = tf.gather(tf.math.unsorted_segment_max(tf.range(count), group, count), group)
        last = tf.gather(order, last)
        new = tf.where(tf.gather(inside, last), tf.gather(x, last), present)
    return _RAW.TensorScatterUpdate(tensor=old, indices=at, updates=new)


def _known(part: Any) -> Any | None:
    """A part of an index that is a number or an array of integers as NumPy has it, else None."""
    if isinstance(part, bool | np.bool_ | slice) or part is None or part is ...:
        return None
    array = np.asarray(part)
    return array if array.dtype.kind in "iu" else None


def _is_whole(part: slice) -> bool:
    return part.start is None and part.stop is None and part.step in (None, 1)
