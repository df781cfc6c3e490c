"""Reads and writes at indices that are on the host, where NumPy has checked them.

Each kind of write is one compiled program, which gets the indices as an argument. JAX compiles a program again for each
number of indices, and the number varies from call to call. So on the host it is rounded up to a power of two, with
indices that the program ignores.

On the CPU a loop over the rows takes the place of JAX's scatter. JAX runs a program in a thread of its own if there is
much to compute, and to wait for that thread takes longer than to change a few rows; of a loop it counts one step. A row
that is there twice is changed twice, in order. Many rows that are set are scattered, which computes nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.host import ONE_BY_ONE, combine
from ..._arrays.indexing import OwnSelection, Selection, last_of_each, repeats, turns
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from .arrays import are_together, beside, is_concrete, is_on_host, settled, store
from .indices import get_own, program_of_masked, program_of_put

__all__ = ["OwnRows", "get", "get_at_once", "lines_of", "put", "select_rows", "winners"]

_WHOLE = slice(None)
_LIMIT = 2**31  # JAX's integers have 32 bits, unless 64 are enabled
_PROGRAMS = 4096  # of which JAX itself keeps as many
#: The elements up to which one thread changes those of a mask sooner than JAX wakes up a second thread.
_SMALL = 1 << 17
#: The elements of a piece, which JAX computes at once where it is called, and of which it makes one step of a loop.
_PIECE, _LEAST_PIECE = 512, 32
#: The elements from which a table is large, and the number of rows that are few.
_LARGE_TABLE, _FEW = 1 << 17, 256
_SingleDevice = jax.sharding.SingleDeviceSharding


class OwnRows(Selection):
    """Rows whose numbers are in a JAX array on the host, at which NumPy can look without a copy.

    Attributes:
        given: the JAX array.
        is_straight: whether a program can take the array as it is: it has a power of two of numbers, none from the end.
    """

    __slots__ = ("given", "is_straight")

    mask = None  # of the class, since each attribute that an object sets takes time
    basic = reverses = False

    def __init__(self, given: Any, ids: HostArray, of_shape: Shape, is_straight: bool) -> None:
        self.given = given
        self.is_straight = is_straight
        self.index = (ids,)
        self.of_shape = of_shape
        self._selected = (ids.size, *of_shape[1:])


class OwnMask(Selection):
    """A mask in a JAX array on the host, at which NumPy can look without a copy.

    Attributes:
        given: the JAX array.
    """

    __slots__ = ("given",)

    def __init__(self, given: Any, mask: HostArray, of_shape: Shape) -> None:
        super().__init__((mask,), of_shape)
        self.given = given


def select_rows(index: Any, shape: Shape) -> Selection | None:
    """Does what `Backend.select_rows` does, for arrays on the host. It waits until the indices are computed."""
    if not is_concrete(index) or not shape or not is_on_host(index) or type(index.sharding) is not _SingleDevice:
        return None
    ids = np.asarray(index)
    if (kind := ids.dtype.kind) == "b":
        return OwnMask(index, ids, shape) if ids.ndim and ids.shape == shape[: ids.ndim] else None
    if kind not in "iu" or ids.itemsize < 4 or ids.ndim != 1 or not (count := ids.size) or 0 in shape:
        return None  # JAX computes with the size of the axis in the dtype of the index, which may be too small for it
    low, size = ids.item(ids.argmin()), shape[0]  # in a third of the time of `min`
    if low < -size or ids.item(ids.argmax()) >= size:
        return None
    return OwnRows(index, ids, shape, low >= 0 and size < _LIMIT and not count & (count - 1))


def get(array: Any, where: Selection) -> Any:
    """The selected elements of an array, which may be traced. Compiled for each number of indices, as is the result."""
    if where.basic:
        return array[where.index]
    if isinstance(where, OwnSelection):
        return get_own(array, where)
    if type(where) is OwnRows and is_concrete(array) and array.is_ready():
        return get_at_once(array, where)
    if (lines := lines_of(where)) is not None:
        numbered = where.shape[: len(where.shape) + lines.axis + lines.rank - len(array.shape)]
        ids = lines.ids if lines.axis else lines.ids.reshape(numbered)
        return _gather(lines.axis, lines.rank)(array, ids)
    if not where.of_shape:
        return array.reshape(1)[where.flat()]
    return array[where.coordinates()]


def get_at_once(array: Any, where: OwnRows) -> Any:
    """Does what `get` does for an array that is computed already."""
    return settled(_gather_own(array, beside(where.given, array)), where.given)


def put(kept: list[Any], array: Any, x: Any, operation: str, where: Selection, *, donate: bool) -> Any:
    """Does what `Backend.put` does. ``x`` and the arrays in an `OwnSelection` lie beside the array.

    Args:
        kept: gets the result before Python looks for signals, if the array is donated.
    """
    if type(where) is OwnRows:
        ids = where.given
        if where.is_straight and are_together(array, ids, x):  # so all are on the host, as the numbers are
            if operation != "set" or (numbers := where.index[0]).size <= _FEW:
                return store(kept, _loop(operation, 0, 1, donate), array, x, ids)
            if repeats(numbers):
                ids = winners(numbers, where.of_shape[0])
            return store(kept, _scatter(operation, 0, 1, donate), array, x, ids)
        x = beside(x, array)
    scalar = not x.ndim
    if isinstance(where, OwnSelection):
        if array.size < _LIMIT and (operation not in ONE_BY_ONE or (where.mask is not None and scalar)):
            program, rest = program_of_put(x, operation, where, donate=donate)
            return store(kept, program, array, x, *rest)
        # A position in the array may not fit into JAX's integers; or repeated ones must be found.
        where = where.on_host()
    if scalar and where.mask is not None:
        # JAX may read the mask after this has returned, so it gets a copy of NumPy's that the caller cannot change.
        mask = beside(where.given, array) if type(where) is OwnMask else where.mask.copy()
        pieces = array.size <= _SMALL and _may_loop(array, x)
        program = _masked_pieces(operation, donate) if pieces else program_of_masked(operation, donate=donate)
        return store(kept, program, array, x, mask)
    if (block := _block_of(where)) is not None:
        starts, sizes = block
        return store(
            kept,
            _block(operation, sizes, where.shape, donate),
            array,
            x,
            np.array(starts, np.int32 if array.size < _LIMIT else np.int64),
        )
    if not where.of_shape:  # a scalar has no coordinates
        line = Selection((where.flat(),), (1,))
        return put([], array.reshape(1), x, operation, line, donate=False).reshape(())
    if (found := lines_of(where)) is not None:
        return _put_lines(kept, array, x, operation, where.shape, found, donate=donate)
    return _put_elements(kept, array, x, operation, where, donate=donate)


# -- whole lines along an axis, most often rows ----------------------------------------------------------------------


class _Lines:
    """The numbers of lines along one axis, or of rows along the leading axes.

    Args:
        ids: the numbers, from 0, in an array with one axis that nobody else has.
        rank: how many axes the numbers count through, from ``axis`` on.
        once: whether it is known that no number is there twice.
    """

    __slots__ = ("axis", "ids", "once", "rank")

    def __init__(self, ids: HostArray, axis: int, rank: int, *, once: bool) -> None:
        self.ids = ids
        self.axis = axis
        self.rank = rank
        self.once = once


def lines_of(where: Selection) -> _Lines | None:
    """The lines that an index selects; None if it selects parts of them."""
    shape, index = where.of_shape, where.index
    if (rows := where.rows()) is not None:
        rank = len(shape) - len(rows.table) + 1
        fits = rows.table[0] < _LIMIT
        return _Lines(rows.numbers.astype(np.int32), 0, rank, once=rows.is_mask) if fits else None
    at = next((n for n, part in enumerate(index) if type(part) is np.ndarray), 0)
    ids, others = index[at], index[:at] + index[at + 1 :]
    if type(ids) is not np.ndarray or ids.dtype.kind == "b" or ids.ndim != 1:
        return None
    if not all(part is ... or (type(part) is slice and part == _WHOLE) for part in others):
        return None
    axis = len(shape) - len(index) + at if any(part is ... for part in index[:at]) else at
    if (size := shape[axis]) >= _LIMIT:
        return None
    return _Lines(np.where(ids < 0, ids + np.int64(size), ids).astype(np.int32), axis, 1, once=False)


def _put_lines(
    kept: list[Any], array: Any, x: Any, operation: str, selected: Shape, lines: _Lines, *, donate: bool
) -> Any:
    ids, axis, rank = lines.ids, lines.axis, lines.rank
    count, rest = ids.size, len(array.shape) - axis - rank
    along = x.ndim - rest - 1  # the axis of x along which the lines vary, if it has one
    varies = along >= 0
    if varies and len(selected) - rest - axis != 1:  # the numbers had more axes than one, or none
        x = (np if isinstance(x, np.ndarray) else jnp).broadcast_to(x, selected)
        x = x.reshape(*selected[:axis], count, *selected[len(selected) - rest :])
        along = axis
    elif varies and x.shape[along] != count:
        varies = False  # it is 1
    size = array.shape[axis] if rank == 1 else math.prod(array.shape[axis : axis + rank])
    loops = (operation != "set" or count <= _FEW) and _may_loop(array, x)
    in_turn: list[HostArray] = []
    if not lines.once and not loops:
        if operation == "set" and varies and repeats(ids):
            ids = winners(ids, size)
        elif operation in ONE_BY_ONE and repeats(ids):
            in_turn = turns(ids)
    missing = (1 << (count - 1).bit_length()) - count
    if missing and (not varies or _is_on_host(x)):
        ids = np.concatenate([ids, np.full(missing, size, np.int32)])  # which is out of range
        if varies:
            x = np.asarray(x)
            x = np.concatenate([x, np.zeros((*x.shape[:along], missing, *x.shape[along + 1 :]), x.dtype)], along)
    if loops:
        return store(kept, _loop(operation, axis, rank, donate), array, x, ids)
    if operation not in ONE_BY_ONE:
        return store(kept, _scatter(operation, axis, rank, donate), array, x, ids)
    if not in_turn:
        return store(kept, _turn(operation, axis, rank, donate), array, x, ids)
    for number, turn in enumerate(in_turn):
        at = np.full(ids.size, size, np.int32)
        at[turn] = ids[turn]
        # The first turn leaves the array as it is, to which an interrupt between two turns goes back.
        array = _turn(operation, axis, rank, donate and number > 0)(array, x, at)
    return array


def _may_loop(array: Any, x: Any) -> bool:
    """Whether the lines can be changed one after the other: on the CPU, where nothing may be traced for a gradient."""
    return is_concrete(array) and is_on_host(array) and (isinstance(x, np.ndarray) or is_concrete(x))


def winners(ids: HostArray, size: int) -> HostArray:
    """The numbers of lines, each only where it stands last, since the last write wins; elsewhere one out of range."""
    order = ids.argsort(kind="stable")
    line = ids[order]
    winners = ids.astype(np.int32)
    winners[order[:-1][line[1:] == line[:-1]]] = size
    return winners


def _is_on_host(x: Any) -> bool:
    """Whether an operand can be looked at without bringing it from a device; this may wait until it is computed."""
    return isinstance(x, np.ndarray) or (is_concrete(x) and is_on_host(x))


def _at(axis: int, ids: Any) -> tuple[Any, ...]:
    return (*(_WHOLE,) * axis, ids)


def _flat(array: Any, rank: int) -> Any:
    """The array with one axis in place of the leading axes that a mask covers."""
    return array if rank == 1 else array.reshape(-1, *array.shape[rank:])


@functools.cache
def _gather(axis: int, rank: int) -> Callable[..., Any]:
    @jax.jit
    def get_lines(array: Any, ids: Any) -> Any:
        return _flat(array, rank).at[_at(axis, ids)].get(mode="clip")  # nothing is out of range

    return get_lines


@jax.jit
def _gather_own(array: Any, ids: Any) -> Any:
    """Reads rows. On the CPU JAX reads even a few rows of a large table in two threads: not if each row is a step."""
    if ids.size > _FEW or array.size <= _LARGE_TABLE or array.size // array.shape[0] > _PIECE:
        return array.at[ids].get(mode="clip")

    def get_row(n: Any, rows: Any) -> Any:
        return jax.lax.dynamic_update_slice_in_dim(rows, jax.lax.dynamic_slice_in_dim(array, ids[n], 1), n, 0)

    return jax.lax.fori_loop(0, ids.size, get_row, jnp.zeros((ids.size, *array.shape[1:]), array.dtype))


@functools.cache
def _scatter(operation: str, axis: int, rank: int, donate: bool) -> Callable[..., Any]:
    def put_lines(array: Any, x: Any, ids: Any) -> Any:
        rows = _flat(array, rank).at[_at(axis, ids)]
        return getattr(rows, operation)(x, mode="drop").reshape(array.shape)

    return jax.jit(put_lines, donate_argnums=(0,) if donate else ())


@functools.cache
def _loop(operation: str, axis: int, rank: int, donate: bool) -> Callable[..., Any]:
    """Changes the lines one after the other, but for those whose numbers are out of range."""

    def put_lines(array: Any, x: Any, ids: Any) -> Any:
        table = _flat(array, rank)
        along = x.ndim - (len(array.shape) - axis - rank) - 1
        varies = along >= 0 and x.shape[along] != 1

        def change(n: Any, lines: Any) -> Any:
            old = jax.lax.dynamic_slice_in_dim(lines, ids[n], 1, axis)  # the last one, if it is out of range
            part = jax.lax.dynamic_slice_in_dim(x, n, 1, along) if varies else x
            new = combine(operation, old, part, jnp.minimum, jnp.maximum)
            new = jnp.where(ids[n] < table.shape[axis], new, old)
            return jax.lax.dynamic_update_slice_in_dim(lines, new, ids[n], axis)

        return jax.lax.fori_loop(0, ids.size, change, table).reshape(array.shape)

    return jax.jit(put_lines, donate_argnums=(0,) if donate else ())


@functools.cache
def _turn(operation: str, axis: int, rank: int, donate: bool) -> Callable[..., Any]:
    """For an operation that changes an element twice only one after the other: no row occurs twice."""

    def put_lines(array: Any, x: Any, ids: Any) -> Any:
        rows = _flat(array, rank).at[_at(axis, ids)]
        new = combine(operation, rows.get(mode="clip"), x, jnp.minimum, jnp.maximum)
        return rows.set(new, mode="drop").reshape(array.shape)

    return jax.jit(put_lines, donate_argnums=(0,) if donate else ())


@functools.cache
def _masked_pieces(operation: str, donate: bool) -> Callable[..., Any]:
    """Does what `program_of_masked` does, piece after piece."""
    at_once = program_of_masked(operation, donate=donate)

    def put_masked(array: Any, x: Any, mask: Any) -> Any:
        size = math.gcd(array.size, _PIECE)
        if size in (0, array.size) or size < _LEAST_PIECE:
            return at_once(array, x, mask)
        mask = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
        masks = jnp.broadcast_to(mask, array.shape).reshape(-1, size)

        def change(n: Any, pieces: Any) -> Any:
            old = jax.lax.dynamic_index_in_dim(pieces, n, 0)
            new = combine(operation, old, x, jnp.minimum, jnp.maximum)
            new = jnp.where(jax.lax.dynamic_index_in_dim(masks, n, 0), new, old)
            return jax.lax.dynamic_update_index_in_dim(pieces, new, n, 0)

        return jax.lax.fori_loop(0, array.size // size, change, array.reshape(-1, size)).reshape(array.shape)

    return jax.jit(put_masked, donate_argnums=(0,) if donate else ())


# -- a block, and any other index ------------------------------------------------------------------------------------


def _block_of(where: Selection) -> tuple[Shape, Shape] | None:
    """Does what `Selection.block` does, and sooner for one number or one slice."""
    index, shape = where.index, where.of_shape
    if len(index) == 1 and shape:
        part, size, rest = index[0], shape[0], shape[1:]
        if type(part) is int:
            return (part % size, *(0,) * len(rest)), (1, *rest)
        if type(part) is slice and part.step is None:
            start, stop, _ = part.indices(size)
            return (start, *(0,) * len(rest)), (stop - start, *rest)
    return where.block()


@functools.lru_cache(_PROGRAMS)
def _block(operation: str, sizes: Shape, shape: Shape, donate: bool) -> Callable[..., Any]:
    def put_block(array: Any, x: Any, starts: Any) -> Any:
        old = jax.lax.dynamic_slice(array, starts, sizes)
        new = combine(operation, old.reshape(shape), x, jnp.minimum, jnp.maximum)
        return jax.lax.dynamic_update_slice(array, jnp.broadcast_to(new, shape).reshape(sizes), starts)

    return jax.jit(put_block, donate_argnums=(0,) if donate else ())


def _put_scattered(array: Any, x: Any, coordinates: Any, *, operation: str) -> Any:
    return getattr(array.at[coordinates], operation)(x, mode="drop")


def _put_turn(array: Any, x: Any, coordinates: Any, *, operation: str) -> Any:
    new = combine(operation, array[coordinates], x, jnp.minimum, jnp.maximum)
    return array.at[coordinates].set(new, mode="drop")


_SCATTERED = {
    donate: jax.jit(_put_scattered, static_argnames="operation", donate_argnums=(0,) if donate else ())
    for donate in (False, True)
}
_TURN = {
    donate: jax.jit(_put_turn, static_argnames="operation", donate_argnums=(0,) if donate else ())
    for donate in (False, True)
}


def _put_elements(kept: list[Any], array: Any, x: Any, operation: str, where: Selection, *, donate: bool) -> Any:
    """Writes at the coordinates of each element."""
    coordinates = [line.reshape(-1).astype(np.int32) for line in where.coordinates()]
    values = x if isinstance(x, np.ndarray) else jnp.asarray(x)
    values = (np if isinstance(values, np.ndarray) else jnp).broadcast_to(values, where.shape).reshape(-1)
    if operation == "set":
        keep = last_of_each(where.flat())
        coordinates = [line[keep] for line in coordinates]
        values = values[keep]
    if operation in ONE_BY_ONE:
        for number, turn in enumerate(turns(where.flat().reshape(-1))):
            at, part = [line[turn] for line in coordinates], values[turn]
            if isinstance(part, np.ndarray):
                at, part = _padded(at, part, array.shape)
            # The first turn leaves the array as it is, to which an interrupt between two turns goes back.
            array = _TURN[donate and number > 0](array, part, tuple(at), operation=operation)
        return array
    if isinstance(values, np.ndarray):
        coordinates, values = _padded(coordinates, values, array.shape)
    return store(kept, partial(_SCATTERED[donate], operation=operation), array, values, tuple(coordinates))


def _padded(coordinates: list[Any], values: Any, shape: Any) -> tuple[list[Any], Any]:
    """Rounds the number of elements up to a power of two with elements that fall outside and are dropped."""
    missing = (1 << (values.size - 1).bit_length()) - values.size
    if not missing:
        return coordinates, values
    outside = [np.full(missing, size, np.int32) for size in shape]
    padded = [np.concatenate(pair) for pair in zip(coordinates, outside, strict=True)]
    return padded, np.concatenate([values, np.zeros(missing, values.dtype)])
