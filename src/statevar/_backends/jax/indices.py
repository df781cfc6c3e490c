"""Reads and writes at indices that lie on a device, which stay there; and at masks, wherever they lie.

NumPy checks and resolves an index on the host. An array on an accelerator would have to be copied there. Here JAX does
the same with it; only one flag, whether an index is out of range, is waited for, and for some masks a count.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.host import combine
from ..._arrays.indexing import OwnSelection

__all__ = ["count_nonzero", "get_own", "is_outside", "program_of_masked", "program_of_put", "takes_index"]

#: Whether arrays on the host are indices that stay where they are, too, which only a test pretends.
on_host = False

# How an index is passed to a compiled function: its arrays as arguments, and the rest as a part of the program.
_ARRAY, _INT, _SLICE, _OTHER = range(4)


def takes_index(part: Any) -> bool:
    """Whether a part of an index is an array on a device. JAX must not trace: the flag below would be traced too."""
    if not isinstance(part, jax.Array) or isinstance(part, jax.core.Tracer):
        return False
    device: Any = next(iter(part.sharding.device_set))
    return on_host or device.platform != "cpu"


def is_outside(indices: list[tuple[Any, int]]) -> bool:
    arrays, sizes = [each for each, _ in indices], tuple(size for _, size in indices)
    return bool(jax.device_get(_outside(arrays, sizes=sizes)))


def count_nonzero(mask: Any) -> int:
    return int(jax.device_get(_count(mask)))


def get_own(array: Any, where: OwnSelection) -> Any:
    template, arrays = _split(where)
    return _get(array, arrays, template=template)


def program_of_put(x: Any, operation: str, where: OwnSelection, *, donate: bool) -> tuple[Any, tuple[Any, ...]]:
    """The compiled function that does what `Backend.put` does, and its arguments after the array and x."""
    if where.mask is not None and not np.ndim(x):
        return program_of_masked(operation, donate=donate), (where.mask,)
    template, arrays = _split(where)
    once = where.mask is not None
    return partial(_PUT[donate], template=template, operation=operation, once=once), (arrays,)


@functools.cache
def program_of_masked(operation: str, *, donate: bool) -> Any:
    """The compiled function of the array, one number and a mask over the leading axes that changes what is selected."""

    def put_masked(array: Any, x: Any, mask: Any) -> Any:
        mask = mask.reshape(mask.shape + (1,) * (array.ndim - mask.ndim))
        return jnp.where(mask, combine(operation, array, x, jnp.minimum, jnp.maximum), array)

    return jax.jit(put_masked, donate_argnums=(0,) if donate else ())


@partial(jax.jit, static_argnames="sizes")
def _outside(arrays: list[Any], *, sizes: tuple[int, ...]) -> Any:
    found = jnp.zeros((), bool)
    for given, size in zip(arrays, sizes, strict=True):
        index = given.astype(jnp.int32) if given.dtype.itemsize < 4 else given  # which the size may not fit into
        outside = index >= size
        if index.dtype.kind == "i":
            outside |= index < -size
        found |= outside.any()
    return found


_count = jax.jit(jnp.count_nonzero)


def _split(where: OwnSelection) -> tuple[tuple[Any, ...], list[Any]]:
    if where.mask is not None:
        arrays = _nonzero(where.mask, size=where.shape[0])
        return ((_ARRAY,),) * len(arrays), list(arrays)
    arrays = []
    template: list[Any] = []
    for part in where.index:
        if isinstance(part, jax.Array | np.ndarray):
            arrays.append(part)
            template.append((_ARRAY,))
        elif isinstance(part, slice):
            template.append((_SLICE, part.start, part.stop, part.step))
        else:
            template.append((_INT if isinstance(part, int) else _OTHER, part))
    return tuple(template), arrays


_nonzero = jax.jit(jnp.nonzero, static_argnames="size")


def _joined(template: tuple[Any, ...], arrays: list[Any]) -> tuple[Any, ...]:
    given = iter(arrays)
    return tuple(
        next(given) if kind == _ARRAY else slice(*rest) if kind == _SLICE else rest[0] for kind, *rest in template
    )


@partial(jax.jit, static_argnames="template")
def _get(array: Any, arrays: list[Any], *, template: Any) -> Any:
    return array[_joined(template, arrays)]


def _put_own(array: Any, x: Any, arrays: list[Any], *, template: Any, operation: str, once: bool) -> Any:
    """Does `Backend.put` with the arrays of an index; ``once`` if no element is selected twice."""
    index = _joined(template, arrays)
    if operation != "set" or once or not x.ndim:
        return getattr(array.at[index], operation)(x)
    # Of several values for one element the last one counts, but JAX promises no order: all get the last value.
    if template == ((_ARRAY,),):
        return _set_rows(array, x, arrays[0])
    total: Any = 0
    stride = 1
    for axis in reversed(range(array.ndim)):
        total += jax.lax.broadcasted_iota(jnp.int32, array.shape, axis)[index] * stride
        stride *= array.shape[axis]
    flat = total.reshape(-1)
    values = jnp.broadcast_to(x, total.shape).reshape(-1)[_last_of_same(flat)]
    return array.reshape(-1).at[flat].set(values).reshape(array.shape)


def _set_rows(array: Any, x: Any, ids: Any) -> Any:
    if x.ndim < array.ndim:  # the same value for each row
        return array.at[ids].set(x)
    size, row = array.shape[0], array.shape[1:]
    line = (ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids).reshape(-1)
    line = jnp.where(line < 0, line + size, line)
    values = jnp.broadcast_to(x, (*ids.shape, *row)).reshape(-1, *row)
    return array.at[line].set(values[_last_of_same(line)])


def _last_of_same(positions: Any) -> Any:
    """For each position, where in the list the same position stands last."""
    order = jnp.argsort(positions, stable=True)
    found = positions[order]
    is_last = jnp.append(found[1:] != found[:-1], True)
    ends = jax.lax.cummin(jnp.where(is_last, jnp.arange(found.size), found.size), reverse=True)
    return jnp.zeros_like(order).at[order].set(order[ends])


_PUT = {
    donate: jax.jit(_put_own, static_argnames=("template", "operation", "once"), donate_argnums=(0,) if donate else ())
    for donate in (False, True)
}
