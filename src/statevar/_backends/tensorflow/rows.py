"""Reads and writes of a part of a variable, by TensorFlow's own operations on rows, slices and masks.

An index that begins with arrays, as in ``v[ids]`` or ``v[ids, 3]``, selects whole *rows*: the parts of the array that
one number for each of its first axes gives. TensorFlow gathers and scatters rows itself, so no index is expanded to the
positions of elements, and what a write costs depends on the rows and not on the table.

The operations that write a variable at some positions are in place if nobody else has its memory, and copy it once if
somebody has. They also switch the variable to a mode in which each read is a copy. ``DisableCopyOnRead`` ends that
mode, and the variable is copy-on-write as before. All of them take the variable's own lock in TensorFlow for writing
(`ResourceScatterAdd` and the like only take it for reading), so that a graph that reads the variable at the same moment
sees no half of the write.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from ..._arrays.host import combine
from ..._arrays.indexing import OwnSelection, Selection, last_of_each, turns
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from .operators import operate

__all__ = [
    "EVERYWHERE",
    "combined",
    "gathered",
    "mask_for",
    "on_host",
    "put_in_place",
    "scatter_in_place",
    "scattered",
    "scatters_of",
    "slice_of",
    "takes_index",
    "where_masked",
]

_RAW = tf.raw_ops
_READ = tf.raw_ops.ReadVariableOp
_SHARE = tf.raw_ops.DisableCopyOnRead
_IN_PLACE: dict[str, Any] = {
    "add": _RAW.ResourceScatterNdAdd,
    "subtract": _RAW.ResourceScatterNdSub,
    "set": _RAW.ResourceScatterNdUpdate,
}
_PURE: dict[str, Any] = {
    "add": _RAW.TensorScatterAdd,
    "subtract": _RAW.TensorScatterSub,
    "set": _RAW.TensorScatterUpdate,
}
#: For each scatter into a tensor the one that does the same to a variable.
_SAME: dict[str, Any] = {
    "TensorScatterAdd": _RAW.ResourceScatterNdAdd,
    "TensorScatterSub": _RAW.ResourceScatterNdSub,
    "TensorScatterUpdate": _RAW.ResourceScatterNdUpdate,
    "TensorScatterMin": _RAW.ResourceScatterNdMin,
    "TensorScatterMax": _RAW.ResourceScatterNdMax,
}
#: The operations that have a right gradient though they are computed also of the elements that a mask leaves out.
EVERYWHERE = ("set", "add", "subtract")
#: A mask that selects a smaller part of the elements is made a list of positions.
_FEW = 1 / 32


def takes_index(part: Any) -> bool:
    """Whether a part of an index is a mask of TensorFlow's, of which the elements need not be counted."""
    return isinstance(part, tf.Tensor) and part.dtype is tf.bool and not tf.is_symbolic_tensor(part)


class Rows(NamedTuple):
    """The rows that an index selects.

    Args:
        lines: the number of each row, in the order of the index, if the first axes are counted as one.
        axes: the sizes of those axes.
    """

    lines: HostArray
    axes: Shape

    @classmethod
    def of(cls, where: Selection) -> Rows | None:
        """The rows of a selection; None if its index has a slice or a new axis beside or before an array."""
        parts = list(where.index)
        while parts and (parts[-1] is ... or (type(parts[-1]) is slice and parts[-1] == slice(None))):
            parts.pop()
        arrays: list[Any] = []
        for part in parts:
            if isinstance(part, np.ndarray) and part.dtype.kind == "b" and part.ndim:
                arrays.extend(part.nonzero())
            elif isinstance(part, int) or (isinstance(part, np.ndarray) and part.dtype.kind in "iu"):
                arrays.append(part)
            else:
                return None
        if where.basic:
            return None
        axes = where.of_shape[: len(arrays)]
        first, *others = map(_from_zero, arrays, axes)
        lines = first
        for size, numbers in zip(axes[1:], others, strict=True):
            lines = lines * size + numbers
        return cls(lines, axes)

    def at(self, lines: HostArray) -> HostArray:
        """The positions of rows as TensorFlow takes them, with one number for each axis.

        An operation makes a tensor of a NumPy array itself, faster than `tf.constant`.
        """
        if len(self.axes) == 1:
            return lines[..., None]
        return np.stack(np.unravel_index(lines, self.axes), -1)

    def repeat(self) -> bool:
        """Whether a row is selected twice."""
        ordered = np.sort(self.lines, axis=None)
        return bool((ordered[1:] == ordered[:-1]).any())


def combined(operation: str, old: Any, x: Any) -> Any:
    """Computes one of `AT_OPERATIONS` of tensors."""
    if operation == "power":
        return operate(operator.pow, old, x)
    return combine(operation, old, x, tf.minimum, tf.maximum)


def gathered(array: Any, where: Selection) -> Any:
    """Does what `Backend.get` does with an index that is not basic."""
    rows = Rows.of(where)
    if rows is None:
        positions = tf.constant(where.flat(), tf.int64, where.shape)
        return tf.gather(tf.reshape(array, [-1]), positions)
    return _rows_of(array, rows, rows.lines)


def scattered(old: Any, x: Any, operation: str, where: Selection) -> Any:
    """Does what `Backend.compute_put` does with an index that is not basic."""
    rows = Rows.of(where)
    if rows is None:
        line = tf.reshape(old, [-1])
        rows = Rows(where.flat().reshape(-1), (math.prod(where.of_shape),))
        x = tf.reshape(tf.broadcast_to(x, where.shape), [-1])
        kind, lines, updates = _plan(lambda lines: tf.gather(line, lines), x, operation, rows)
        return tf.reshape(_PURE[kind](tensor=line, indices=rows.at(lines), updates=updates), tf.shape(old))
    x = _filling(x, where.shape)
    kind, lines, updates = _plan(lambda lines: _rows_of(old, rows, lines), x, operation, rows)
    return _PURE[kind](tensor=old, indices=rows.at(lines), updates=updates)


def on_host(where: Selection) -> Selection:
    """A selection whose arrays are NumPy's."""
    return where.on_host() if type(where) is OwnSelection else where


def mask_for(x: Any, where: Selection) -> Any | None:
    """The mask of a selection, made to broadcast, if the whole is better computed with it; else None.

    That is so if it selects not few elements, and x is the same for all that it selects.
    """
    mask = where.mask if type(where) is OwnSelection else where.index[0] if len(where.index) == 1 else None
    if type(mask) is np.ndarray:
        if mask.dtype.kind != "b" or not mask.ndim:
            return None
    elif not isinstance(mask, tf.Tensor):
        return None
    rest = len(where.of_shape) - len(mask.shape)
    host = mask.numpy() if isinstance(mask, tf.Tensor) else mask
    if len(x.shape) > rest or np.count_nonzero(host) < _FEW * host.size:
        return None
    return tf.reshape(mask, [*mask.shape, *[1] * rest]) if rest else tf.convert_to_tensor(mask)


def where_masked(mask: Any, old: Any, x: Any, operation: str) -> Any:
    """The new value for a mask that `mask_for` has returned."""
    return _RAW.SelectV2(condition=mask, t=combined(operation, old, x), e=old)


def put_in_place(resource: Any, x: Any, operation: str, where: Selection) -> bool:
    """Does what `Backend.put` does with the resource of a variable, whose value nobody else computes meanwhile.

    Returns:
        Whether it did: the whole new value must be computed for a mixture of arrays and slices, and for all elements.
    """
    if where.basic:
        return _put_slices(resource, x, operation, where)
    rows = Rows.of(where)
    if rows is None:
        return False
    if 0 in where.shape:
        return True

    def rows_at(lines: HostArray) -> Any:
        return _rows_of(_READ(resource=resource, dtype=x.dtype), rows, lines)  # which keeps the whole no longer

    kind, lines, updates = _plan(rows_at, _filling(x, where.shape), operation, rows)
    at = rows.at(lines)
    try:
        _IN_PLACE[kind](ref=resource, indices=at, updates=updates)
    finally:
        _SHARE(resource=resource)
    return True


def scatters_of(new: Any, old: Any) -> list[tuple[str, Any, Any]]:
    """The scatters by which a graph makes a new value of an old one, if nothing else uses what is between; else none.

    Returns:
        The type of each operation, its positions and its updates.
    """
    found: list[tuple[str, Any, Any]] = []
    while tf.is_symbolic_tensor(new) and new is not old:
        if new.op.type not in _SAME or len(new.consumers()) > bool(found):
            return []
        before, at, updates = new.op.inputs
        found.append((new.op.type, at, updates))
        new = before
    return found[::-1] if new is old else []


def scatter_in_place(resource: Any, scatters: list[tuple[str, Any, Any]]) -> None:
    """Adds operations to a graph that do scatters in a variable, whose lock the graph has."""
    for kind, at, updates in scatters:
        _SAME[kind](ref=resource, indices=at, updates=updates)
    _SHARE(resource=resource)


def _put_slices(resource: Any, x: Any, operation: str, where: Selection) -> bool:
    begin, end, strides, end_mask, sizes = slice_of(where)
    if tuple(sizes) == where.of_shape:
        return False
    if 0 in sizes:
        return True
    x = tf.reshape(_filling(x, where.shape), sizes)
    if operation != "set":
        value = _READ(resource=resource, dtype=x.dtype)
        old = _RAW.StridedSlice(input=value, begin=begin, end=end, strides=strides, end_mask=end_mask)
        del value  # else the write would copy it
        x = combined(operation, old, x)
    try:
        _RAW.ResourceStridedSliceAssign(ref=resource, begin=begin, end=end, strides=strides, value=x, end_mask=end_mask)
    finally:
        _SHARE(resource=resource)
    return True


def slice_of(where: Selection) -> tuple[list[int], list[int], list[int], int, list[int]]:
    """A basic selection as TensorFlow takes it: begin, end, strides and end_mask; and the sizes of the axes."""
    spans = where.spans()
    end = [start + size * step for start, size, step in spans]
    before_the_first = sum(1 << axis for axis, each in enumerate(end) if each < 0)  # -1 would be the last element
    starts, sizes, steps = ([span[i] for span in spans] for i in range(3))
    return starts, end, steps, before_the_first, sizes


def _plan(rows_at: Callable[[HostArray], Any], x: Any, operation: str, rows: Rows) -> tuple[str, HostArray, Any]:
    """The one scatter that does an operation: to add or to set, at which rows, and with what.

    Args:
        rows_at: returns the present rows with these numbers.
        x: a value for each row.
    """
    lines = rows.lines
    if operation in ("add", "subtract"):
        return operation, lines, x
    if not rows.repeat():
        return "set", lines, x if operation == "set" else combined(operation, rows_at(lines), x)
    lines = lines.reshape(-1)
    x = tf.reshape(x, [lines.size, *x.shape[rows.lines.ndim :]])
    if operation == "set":
        keep = last_of_each(lines)
        return "set", lines[keep], tf.gather(x, keep)
    each, which = np.unique(lines, return_inverse=True)
    return "set", each, _one_after_the_other(rows_at(each), x, operation, which.reshape(-1))


def _one_after_the_other(block: Any, x: Any, operation: str, which: HostArray) -> Any:
    """The rows of a block after an operation on some of them again and again."""
    if operation in ("min", "max"):
        scatter = _RAW.TensorScatterMin if operation == "min" else _RAW.TensorScatterMax
        at = which[:, None]
        new = scatter(tensor=block, indices=at, updates=x)
        if not x.dtype.is_floating:
            return new
        lost = tf.where(tf.math.is_nan(x), x, tf.zeros_like(x))  # the scatter skips NaN
        return _RAW.TensorScatterAdd(tensor=new, indices=at, updates=lost)
    for turn in turns(which):
        at = which[turn]
        part = combined(operation, tf.gather(block, at), tf.gather(x, turn))
        block = _RAW.TensorScatterUpdate(tensor=block, indices=at[:, None], updates=part)
    return block


def _from_zero(numbers: Any, size: int) -> HostArray:
    """Indices along an axis, counted from its beginning."""
    found = np.asarray(numbers, np.int64)
    return np.where(found < 0, found + size, found) if found.size and found.min() < 0 else found


def _rows_of(array: Any, rows: Rows, lines: HostArray) -> Any:
    if len(rows.axes) == 1:
        return _RAW.Gather(params=array, indices=lines)  # GatherV2 would make a tensor of the axis at each call
    return _RAW.GatherNd(params=array, indices=rows.at(lines))


def _filling(x: Any, shape: Shape) -> Any:
    return x if tuple(x.shape) == shape else tf.broadcast_to(x, shape)
