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

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from ..._arrays.host import combine
from ..._arrays.host import put_in_place as put_on_host
from ..._arrays.indexing import OwnSelection, Rows, Selection, last_of_each, repeats, turns
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from . import eager
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
    "select_rows",
    "slice_of",
    "takes_index",
    "where_masked",
]

_RAW = tf.raw_ops
_NAMES = {"add": "ResourceScatterNdAdd", "subtract": "ResourceScatterNdSub", "set": "ResourceScatterNdUpdate"}
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
#: How many elements of a large mask are looked at in each of 16 places.
_SAMPLE = 1 << 12
#: The operations on repeated rows that NumPy does as TensorFlow does, and faster.
_SAME_ON_HOST = ("multiply", "divide", "min", "max")
_NUMBERS = (tf.int64, tf.int32)
#: How many row numbers are sorted to check them. The sorted ones also tell which rows are repeated.
_SORTED = 1 << 9


def takes_index(part: Any) -> bool:
    """Whether a part of an index is a mask of TensorFlow's, of which the elements need not be counted."""
    return isinstance(part, tf.Tensor) and part.dtype is tf.bool and not tf.is_symbolic_tensor(part)


class TensorRows(Selection):
    """A selection of the rows at the numbers in a tensor on the host, of which NumPy sees the memory itself.

    Attributes:
        numbers: the tensor, or a NumPy array if a number in it counts from the end.
        line: the numbers in ascending order, if somebody has sorted them.
    """

    __slots__ = ("line", "numbers")

    def __init__(self, host: HostArray, of_shape: Shape, numbers: Any, line: HostArray | None) -> None:
        self.index = (host,)
        self.of_shape = of_shape
        self.mask = None
        self.basic = self.reverses = False
        self.numbers = numbers
        self.line = line
        self._selected = host.shape + of_shape[1:]

    def rows(self) -> Rows:
        return TableRows(self)


class TableRows(Rows):
    """The rows of `TensorRows`, whose numbers count from the start."""

    __slots__ = ("line",)

    def __init__(self, where: TensorRows) -> None:
        host = where.index[0]
        self.numbers = host.ravel() if host.dtype.type is np.int64 else host.ravel().astype(np.int64)
        self.table = where.of_shape
        self.is_mask = False
        self.line = where.line

    @property
    def repeats(self) -> bool:
        if (line := self.line) is None:
            return repeats(self.numbers)
        same = line[1:] == line[:-1]
        return bool(same.size and same[same.argmax()])  # in half the time of `any`


def select_rows(index: Any, shape: Shape) -> Selection | None:
    """Does what `Backend.select_rows` does."""
    if not isinstance(index, tf.Tensor) or index.dtype not in _NUMBERS or not shape or tf.is_symbolic_tensor(index):
        return None
    if "CPU" not in index.device or not (host := np.asarray(index)).ndim:
        return None
    if not host.size:
        return Selection((host,), shape)
    line = None
    if host.size <= _SORTED:  # in less time than it takes to find the lowest and the highest
        line = np.sort(host, None)
        low, high = line.item(0), line.item(-1)
    else:
        low, high = host.min().item(), host.max().item()
    if low < -shape[0] or high >= shape[0]:
        return Selection((host,), shape)  # which raises
    if low >= 0:
        return TensorRows(host, shape, index, line)
    host = np.where(host < 0, host + shape[0], host)
    return TensorRows(host, shape, host, None)


def combined(operation: str, old: Any, x: Any) -> Any:
    """Computes one of `AT_OPERATIONS` of tensors."""
    if operation == "power":
        return operate(operator.pow, old, x)
    return combine(operation, old, x, tf.minimum, tf.maximum)


def gathered(array: Any, where: Selection) -> Any:
    """Does what `Backend.get` does with an index that is not basic."""
    if type(where) is TensorRows:
        return _RAW.Gather(params=array, indices=where.numbers)
    rows = where.rows()
    if rows is None:
        positions = tf.constant(where.flat(), tf.int64, where.shape)
        return tf.gather(tf.reshape(array, [-1]), positions)
    numbers = rows.numbers.reshape(where.shape[: len(where.shape) - len(rows.table) + 1])
    return _rows_of(array, rows, numbers, where.of_shape)


def scattered(old: Any, x: Any, operation: str, where: Selection) -> Any:
    """Does what `Backend.compute_put` does with an index that is not basic."""
    rows = where.rows()
    if rows is None:
        line = tf.reshape(old, [-1])
        elements = Rows(where.flat().reshape(-1), len(where.of_shape), where.of_shape, False)
        x = tf.reshape(_filling(x, where.shape), [-1])
        kind, numbers, updates = _plan(lambda numbers: tf.gather(line, numbers), x, operation, elements)
        return tf.reshape(_PURE[kind](tensor=line, indices=numbers[:, None], updates=updates), tf.shape(old))
    x = _as_table(x, rows, where)
    kind, numbers, updates = _plan(lambda numbers: _rows_of(old, rows, numbers, where.of_shape), x, operation, rows)
    return _PURE[kind](tensor=old, indices=_positions(rows, numbers, where.of_shape), updates=updates)


def on_host(where: Selection) -> Selection:
    """A selection whose arrays are NumPy's."""
    return where.on_host() if type(where) is OwnSelection else where


def mask_for(x: Any, where: Selection) -> Any | None:
    """The mask of a selection, made to broadcast, if the whole is better computed with it; else None.

    That is so if it selects not few elements, and x is the same for all that it selects.
    """
    mask = where.mask
    if mask is None:
        return None
    rest = len(where.of_shape) - len(mask.shape)
    host = np.asarray(mask) if not isinstance(mask, tf.Tensor) or mask.shape.rank else mask.numpy()
    if len(x.shape) > rest or not _selects_many(host):
        return None
    return tf.reshape(mask, [*mask.shape, *[1] * rest]) if rest else tf.convert_to_tensor(mask)


def _selects_many(mask: HostArray) -> bool:
    """Whether a mask selects not few elements, which a look at a sample often tells."""
    if mask.size > 16 * _SAMPLE:
        parts = mask.reshape(-1)[: mask.size // 16 * 16].reshape(16, -1)[:, :_SAMPLE]
        if np.count_nonzero(parts) >= _FEW * parts.size:
            return True
    return bool(np.count_nonzero(mask) >= _FEW * mask.size)


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
    rows = where.rows()
    if rows is None:
        return False
    if 0 in where.shape:
        return True

    def rows_at(numbers: HostArray) -> Any:  # and keeps the whole no longer
        return _rows_of(eager.read(resource, x.dtype), rows, numbers, where.of_shape)

    kind, numbers, updates = _plan(rows_at, _as_table(x, rows, where), operation, rows, on_host=True)
    at = _positions(rows, numbers, where.of_shape)
    # An operation would copy an array of NumPy's, in another 4 us. Of these nobody can write the memory.
    if type(rows) is TableRows or numbers is not rows.numbers:
        at = eager.sharing(at, resource.device)
    if type(updates) is np.ndarray:
        updates = eager.sharing(updates, resource.device)
    try:
        eager.scatter(_NAMES[kind], resource, at, updates)
    finally:
        eager.share(resource)
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
    _RAW.DisableCopyOnRead(resource=resource)


def _put_slices(resource: Any, x: Any, operation: str, where: Selection) -> bool:
    where_to = slice_of(where)
    sizes = where_to.pop("sizes")
    if tuple(sizes) == where.of_shape:
        return False
    if 0 in sizes:
        return True
    x = _shaped(_filling(x, where.shape), sizes)
    if operation != "set":
        value = eager.read(resource, x.dtype)
        old = _RAW.StridedSlice(input=value, **where_to)
        del value  # else the write would copy it
        x = combined(operation, old, x)
    try:
        _RAW.ResourceStridedSliceAssign(ref=resource, value=x, **where_to)
    finally:
        eager.share(resource)
    return True


def slice_of(where: Selection) -> dict[str, Any]:
    """The arguments by which TensorFlow takes a basic selection, and the ``sizes`` of the axes."""
    starts, sizes, steps = np.array(where.spans(), np.int64).reshape(-1, 3).T
    end = starts + sizes * steps
    before_the_first = sum(1 << axis for axis, each in enumerate(end.tolist()) if each < 0)  # -1 is the last element
    # As arrays, since a list of numbers takes TensorFlow ten times as long.
    return {
        "begin": starts,
        "end": end,
        "strides": steps,
        "end_mask": before_the_first,
        "sizes": sizes.tolist(),
    }


def _plan(
    rows_at: Callable[[HostArray], Any],
    x: Any,
    operation: str,
    rows: Rows,
    on_host: bool = False,
) -> tuple[str, HostArray, Any]:
    """The one scatter that does an operation: to add or to set, at which rows, and with what.

    Args:
        rows_at: returns the present rows with these numbers.
        x: a value for each row.
        on_host: whether x is there, and no gradient follows. Then what is done with repeated rows is done there.
    """
    numbers = rows.numbers
    if operation in ("add", "subtract"):
        return operation, numbers, x
    if not rows.repeats:
        return "set", numbers, x if operation == "set" else combined(operation, rows_at(numbers), x)
    if operation == "set":
        keep = last_of_each(numbers)
        return "set", numbers[keep], np.asarray(x)[keep] if on_host else _RAW.Gather(params=x, indices=keep)
    each, which = np.unique(numbers, return_inverse=True)
    if on_host and operation in _SAME_ON_HOST:
        block = np.asarray(rows_at(each)).copy()
        with np.errstate(all="ignore"):  # TensorFlow does not warn
            put_on_host(block, np.asarray(x), operation, Selection((which.reshape(-1),), block.shape))
        return "set", each, block
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


def _rows_of(array: Any, rows: Rows, numbers: HostArray, of_shape: Shape) -> Any:
    """The rows with these numbers of an array of a shape."""
    if len(rows.table) == len(of_shape):
        return _RAW.Gather(params=array, indices=numbers)  # GatherV2 would make a tensor of the axis at each call
    return _RAW.GatherNd(params=array, indices=_positions(rows, numbers, of_shape))


def _positions(rows: Rows, numbers: HostArray, of_shape: Shape) -> HostArray:
    """The positions of rows with one number for each axis that they count.

    An operation makes a tensor of a NumPy array itself, faster than `tf.constant`.
    """
    axes = len(of_shape) - len(rows.table) + 1
    return numbers[..., None] if axes == 1 else np.stack(np.unravel_index(numbers, of_shape[:axes]), -1)


def _as_table(x: Any, rows: Rows, where: Selection) -> Any:
    """An operand that broadcasts into a selection, with one axis for the rows."""
    x = _filling(x, where.shape)
    rest = len(rows.table) - 1
    return x if len(where.shape) == rest + 1 else _shaped(x, (rows.numbers.size, *rows.table[1:]))


def _filling(x: Any, shape: Shape) -> Any:
    return x if tuple(x.shape) == shape else _RAW.BroadcastTo(input=x, shape=np.array(shape, np.int64))


def _shaped(x: Any, shape: Any) -> Any:
    return x if tuple(x.shape) == tuple(shape) else _RAW.Reshape(tensor=x, shape=np.array(shape, np.int64))
