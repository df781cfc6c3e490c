"""Combines arrays over the processes of JAX, or over the shards of a `jax.shard_map`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ...errors import NotAddressableError, TraceError

__all__ = ["all_reduce", "manual_axes", "processes"]

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "mean": partial(jnp.mean, axis=0),
    "sum": partial(jnp.sum, axis=0),
    "min": partial(jnp.min, axis=0),
    "max": partial(jnp.max, axis=0),
    "first": lambda x: x[0],
}
_IN_SHARDS: dict[str, Callable[..., Any]] = {
    "mean": jax.lax.pmean,
    "sum": jax.lax.psum,
    "min": jax.lax.pmin,
    "max": jax.lax.pmax,
}


def processes() -> int:
    return jax.process_count() if jax.distributed.is_initialized() else 1


def manual_axes() -> tuple[str, ...] | None:
    """The mesh axes of the `jax.shard_map` in which the code runs; None outside of one."""
    mesh = jax.sharding.get_abstract_mesh()
    return tuple(getattr(mesh, "manual_axes", ())) or None


def all_reduce(arrays: Sequence[Any], reduction: str) -> list[Any]:
    """Does what `Backend.all_reduce` does."""
    if (axes := manual_axes()) is not None:
        return _over_shards(arrays, reduction, axes)
    arrays = [each if isinstance(each, jax.Array) else jnp.asarray(each) for each in arrays]  # of `from_host`
    shardings = {each.sharding for each in arrays if not isinstance(each, jax.core.Tracer)}
    mesh, own = _one_device_each()
    here = shardings == {SingleDeviceSharding(own)} and not any(isinstance(each, jax.core.Tracer) for each in arrays)
    if not here:
        for each in arrays:
            _check_local(each)
    flat = _joined(arrays if here else [jax.device_put(each, own) for each in arrays])
    rows = NamedSharding(mesh, PartitionSpec("process"))  # type: ignore[no-untyped-call]  # JAX has no types there
    whole = jax.make_array_from_single_device_arrays((mesh.size, *flat.shape[1:]), rows, [flat])
    result = _combining(mesh, reduction)(whole).addressable_data(0)
    parts: list[Any] = _split(result, tuple([each.shape for each in arrays]))
    if here:
        return parts
    return [jax.device_put(part, each.sharding) for part, each in zip(parts, arrays, strict=True)]


def _over_shards(arrays: Sequence[Any], reduction: str, axes: tuple[str, ...]) -> list[Any]:
    flat = _IN_SHARDS[reduction](jnp.concatenate([jnp.ravel(each) for each in arrays]), axes)
    ends = np.cumsum([each.size for each in arrays])[:-1]
    return [part.reshape(each.shape) for part, each in zip(jnp.split(flat, ends), arrays, strict=True)]


@cache
def _one_device_each() -> tuple[Mesh, Any]:
    """A mesh of the first device of each process, and the one of this process."""
    first: dict[int, Any] = {}
    for each in jax.devices():
        first.setdefault(each.process_index, each)
    return Mesh(np.array([first[index] for index in sorted(first)]), ("process",)), first[jax.process_index()]


@cache
def _combining(mesh: Mesh, reduction: str) -> Callable[[Any], Any]:
    whole = NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]  # JAX has no types there
    return jax.jit(_REDUCTIONS[reduction], out_shardings=whole)


@jax.jit
def _joined(arrays: list[Any]) -> Any:
    return jnp.concatenate([jnp.ravel(each) for each in arrays])[None]


@partial(jax.jit, static_argnums=1)
def _split(flat: Any, shapes: tuple[tuple[int, ...], ...]) -> list[Any]:
    sizes = [int(np.prod(each)) for each in shapes]
    ends = np.cumsum(sizes)
    return [flat[end - size : end].reshape(shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)]


def _check_local(array: Any) -> None:
    """Raises unless this process has a value of its own."""
    if isinstance(array, jax.core.Tracer):
        problem = "jax is tracing this code, in which a value of one process cannot be combined with those of others"
        hint = "call it outside of the traced function; or in jax.shard_map, where it combines the shards"
        raise TraceError.of("all_reduce", problem, hint=hint)
    if not array.is_fully_addressable:
        problem = "an array over several processes has one value, and not one for each process"
        hint = "compute with it as it is: JAX combines what must be combined; or pass the part of this process"
        raise NotAddressableError.of("all_reduce", problem, hint=hint)
