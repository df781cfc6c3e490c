"""Moves values to a sharding, and compiles programs whose result has one.

A value of the host is cut by each process for its own devices. `jax.device_put` would compare it over all processes
first, which takes a hundred times as long, and waits for ever if only one process calls it.

On a mesh with Explicit axes the sharding is a part of an array's type, and JAX refuses what it cannot tell the sharding
of the result of, such as a write at an index. There is nothing to tell: the result has that of the variable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, Sharding

from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ...errors import ShardingError
from .arrays import CONCRETE, is_concrete
from .keys import is_key

__all__ = [
    "along",
    "beside",
    "call_traced",
    "copy",
    "from_host",
    "keys_spread",
    "natural_sharding",
    "on_devices_of",
    "pinned",
    "placed",
    "problem_with",
    "program",
    "sharding_name",
    "sharding_of",
    "to_devices",
]

_PROGRAMS = 4096  # of which JAX itself keeps as many
_Tracer = jax.core.Tracer
_Spec: Any = PartitionSpec  # JAX gives it no types, nor these
_wait: Any = jax.block_until_ready
#: It was in another place before JAX 0.7.
_reshard: Any = (jax.sharding if hasattr(jax.sharding, "reshard") else import_module("jax.experimental.shard")).reshard
_constrained: Any = jax.lax.with_sharding_constraint
#: The bytes at a multiple of which JAX takes over memory of the host in place of copying it.
_ALIGNED = 64


# -- shardings ---------------------------------------------------------------------------------------------------------


def sharding_of(spec: Any, mesh: Any) -> Any:
    """Does what `ShardedBackend.sharding` does."""
    if isinstance(spec, Sharding):
        return _in_memory_of_devices(spec)
    if mesh is None:
        mesh = _mesh_of_jax()
    if not isinstance(mesh, jax.sharding.Mesh):
        hint = "pass mesh=jax.make_mesh(sizes, names), or make it in `with sv.mesh(mesh):` or `jax.set_mesh(mesh)`"
        got = "there is no mesh" if mesh is None else f"got a mesh of type {type(mesh).__name__}"
        raise ShardingError.of("sharding", f"sharding={spec!r} names axes of a mesh of JAX, and {got}", hint=hint)
    if isinstance(spec, str) or not isinstance(spec, tuple | list | PartitionSpec):
        hint = f"write ({spec!r},)" if isinstance(spec, str) else "write for example (None, 'model')"
        problem = f"expected the name of a mesh axis, several or None for each axis of the value, got {spec!r}"
        raise ShardingError.of("sharding", problem, hint=hint)
    used: list[str] = []
    for part in spec:
        names = part if isinstance(part, tuple | list) else () if part is None else (part,)
        for name in names:
            if name not in mesh.axis_names:
                known = ", ".join(map(repr, mesh.axis_names))
                raise ShardingError.of("sharding", f"the mesh has no axis {name!r}", hint=f"its axes are {known}")
            if name in used:
                raise ShardingError.of("sharding", f"the mesh axis {name!r} is used twice in {spec!r}")
            used.append(name)
    return NamedSharding(mesh, _Spec(*(tuple(part) if isinstance(part, list) else part for part in spec)))


def _in_memory_of_devices(sharding: Any) -> Any:
    """The sharding; raises ShardingError if it is in a memory with which JAX does not compute as with any other."""
    kind = sharding.memory_kind
    if kind not in (None, next(iter(sharding.device_set)).default_memory().kind):
        problem = f"a variable is stored in the memory of its devices, and the sharding is in {kind!r}"
        hint = (
            "pass sharding.with_memory_kind('device'); in a compiled function JAX can move values from and to the host"
        )
        raise ShardingError.of("sharding", problem, hint=hint)
    return sharding


def sharding_name(sharding: Any) -> str:
    """Does what `ShardedBackend.sharding_name` does."""
    if not isinstance(sharding, NamedSharding):
        return str(sharding)
    axes = ", ".join(f"{name!r}: {size}" for name, size in sharding.mesh.shape.items())
    kind = "" if sharding.memory_kind in (None, "device") else f" in {sharding.memory_kind}"
    return f"{tuple(sharding.spec)} over {{{axes}}}{kind}"


def _mesh_of_jax() -> Any:
    """The mesh of `jax.set_mesh`, or None."""
    if jax.sharding.get_abstract_mesh().empty:
        return None
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError as error:
        problem = "a variable is made in code that is traced, where JAX does not tell the mesh of `jax.set_mesh`"
        hint = "pass mesh=, with sharding=() for the whole value on each device; or make it before"
        raise ShardingError.of("Variable", problem, hint=hint) from error
    return None if mesh.empty else mesh


def natural_sharding(value: Any) -> Any:
    """The sharding of a variable for which none was asked; None if it is on one device.

    It is that of its first value. In the scope of `jax.set_mesh` all that JAX makes is on all devices of the mesh.
    """
    if isinstance(value, _Tracer):
        return None
    if isinstance(value, jax.Array) and (len(value.sharding.device_set) > 1 or getattr(value, "committed", True)):
        return value.sharding if len(value.sharding.device_set) > 1 else None
    mesh = _mesh_of_jax()
    return None if mesh is None or mesh.size == 1 else NamedSharding(mesh, _Spec())


def problem_with(shape: Shape, sharding: Any) -> str | None:
    """Does what `ShardedBackend.problem_with` does."""
    if isinstance(sharding, NamedSharding):
        spec, sizes = sharding.spec, sharding.mesh.shape
        if len(spec) > len(shape):
            return f"it names {len(spec)} axes, and the value has {len(shape)}"
        for axis, (size, part) in enumerate(zip(shape, spec, strict=False)):
            names = part if isinstance(part, tuple) else () if part is None else (part,)
            count = int(np.prod([sizes[name] for name in names], dtype=np.int64))
            if size % count:
                over = " x ".join(map(repr, names))
                return f"axis {axis} of size {size} does not divide over the {count} of mesh axis {over}"
        return None
    try:
        sharding.shard_shape(shape)
    except ValueError as error:
        return str(error)
    return None


def along(sharding: Any, parts: list[int | None], rank: int) -> Any:
    """The sharding of an array that is cut as an array with the sharding is.

    Args:
        parts: for each axis the axis of the other array that it goes with; None for one that is not cut.
        rank: the number of axes of the other array.

    Returns:
        None for a sharding that is not by the axes of a mesh.
    """
    if not isinstance(sharding, NamedSharding):
        return None
    spec = (*sharding.spec, *(None,) * (rank - len(sharding.spec)))
    return NamedSharding(sharding.mesh, _Spec(*(None if part is None else spec[part] for part in parts)))


def _explicit_axes(sharding: Any) -> tuple[str, ...]:
    mesh = getattr(sharding, "mesh", None)
    if mesh is None or not mesh.axis_names:
        return ()
    return tuple(n for n, each in zip(mesh.axis_names, mesh.axis_types, strict=True) if each == AxisType.Explicit)


# -- programs ----------------------------------------------------------------------------------------------------------


@functools.lru_cache(_PROGRAMS)
def program(function: Callable[..., Any], sharding: Any, donate: bool = False) -> Callable[..., Any]:
    """The compiled function whose result has a sharding; its first argument is the value that may be donated."""
    return jax.jit(
        _unchecked(function, sharding), donate_argnums=(0,) if donate else (), keep_unused=True, out_shardings=sharding
    )


def _unchecked(function: Callable[..., Any], sharding: Any) -> Callable[..., Any]:
    axes = _explicit_axes(sharding)
    if not axes:
        return function
    result: Callable[..., Any] = jax.sharding.auto_axes(function, axes=axes, out_sharding=sharding)
    return result


def call_traced(function: Callable[..., Any], array: Any, *rest: Any, parts: list[int | None] | None = None) -> Any:
    """Calls a function of a traced array whose result has the sharding of the array.

    Args:
        parts: for each axis of the result the axis of the array that it goes with; by default the result has them all.
    """
    sharding = jax.typeof(array).sharding
    if _explicit_axes(sharding):
        for each in rest:
            _check_mesh(each, sharding)
        result = sharding if parts is None else along(sharding, parts, array.ndim)
        return _unchecked(function, result)(array, *rest)
    return function(array, *rest)


def copy(array: Any) -> Any:
    return jnp.copy(array)


# -- values ------------------------------------------------------------------------------------------------------------


def from_host(host: HostArray, sharding: Any) -> Any:
    """A JAX array with a copy of a host array, which is the same in every process. The copy is made at once."""
    if host.dtype.names is not None:
        raise AssertionError("keys are unpacked before they are placed")
    made = jax.make_array_from_callback(host.shape, sharding, lambda index: _block(host, index), dtype=host.dtype)
    return _wait(made)  # JAX may read the host array until then


def _block(host: HostArray, index: Any) -> HostArray:
    """A block of an array of which JAX makes a copy: it would take over what lies at a multiple of 64 bytes.

    Memory that JAX takes over belongs to somebody who may write it, and is never written in place by JAX itself.
    """
    view = host[(*index, ...)]  # an array also of one element
    if not view.flags.c_contiguous or view.ctypes.data % _ALIGNED or not view.size:
        return view
    memory = np.empty(view.nbytes + 2 * _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED + max(view.itemsize, 1)
    block: HostArray = memory[start : start + view.nbytes].view(view.dtype).reshape(view.shape)
    block[...] = view
    return block


def placed(x: Any, sharding: Any) -> Any:
    """The operand with a sharding; the result may share the memory of an operand of JAX.

    Raises:
        ShardingError: JAX cannot move it there.
    """
    if isinstance(x, np.ndarray):
        return from_host(x, sharding)
    if isinstance(x, _Tracer):
        return pinned(x, sharding)
    there = x.sharding
    if there is sharding or there == sharding:
        return x
    if not sharding.is_fully_addressable and x.is_fully_addressable:  # it is the same in every process
        return keys_spread(x, sharding, from_host) if is_key(x) else from_host(np.asarray(x), sharding)
    if is_key(x) and not x.is_fully_addressable:
        return program(copy, sharding)(x)  # JAX moves no keys of several processes otherwise
    try:
        return jax.device_put(x, sharding)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        problem = f"JAX cannot move an array from {there} to {sharding} ({error})"
        raise ShardingError.of("reshard", problem, hint="use a mesh of the same devices") from error


def keys_spread(keys: Any, sharding: Any, make: Callable[[HostArray, Any], Any]) -> Any:
    """Random keys over the devices of several processes; ``make`` makes their numbers with a sharding."""
    if not isinstance(sharding, NamedSharding):
        problem = f"keys of jax.random cannot be spread over processes as {sharding}"
        raise ShardingError.of("reshard", problem, hint="use a NamedSharding")
    numbers = np.asarray(jax.random.key_data(keys))
    flat = along(sharding, [*range(keys.ndim), None], keys.ndim)
    wrap = functools.partial(jax.random.wrap_key_data, impl=jax.random.key_impl(keys))
    return jax.jit(wrap, out_shardings=sharding)(make(numbers, flat))


def pinned(x: Any, sharding: Any) -> Any:
    """A value, which may be traced, with a sharding."""
    if not isinstance(x, _Tracer):
        return placed(x, sharding)
    if (problem := problem_with(x.shape, sharding)) is not None:
        raise ShardingError.of("assign", f"a value of shape {x.shape} cannot be spread as {sharding}: {problem}")
    if _explicit_axes(sharding):
        _check_mesh(x, sharding)
        return _reshard(x, sharding)
    return _constrained(x, sharding)


def _check_mesh(x: Any, sharding: Any) -> None:
    """Raises ShardingError if a traced operand has another mesh with Explicit axes, which JAX does not mix."""
    if isinstance(x, _Tracer) and _explicit_axes(other := jax.typeof(x).sharding):
        mesh, mine = other.mesh, sharding.mesh
        if (mesh.axis_names, mesh.axis_sizes) != (mine.axis_names, mine.axis_sizes):
            problem = f"a compiled function combines values on the meshes {dict(mine.shape)} and {dict(mesh.shape)}"
            hint = "use one mesh, or meshes whose axes have jax.sharding.AxisType.Auto"
            raise ShardingError.of("jit", problem, hint=hint)


def beside(x: Any, sharding: Any, shape: Shape) -> Any:
    """An operand that broadcasts into a value of this shape and sharding, on its devices.

    An operand of the host must not be passed to JAX as it is: each device would get all of it.
    """
    if type(x) in CONCRETE and x.sharding == sharding and x.shape == shape:
        return x
    if isinstance(x, _Tracer) or not isinstance(x, jax.Array | np.ndarray):
        return x
    if not x.ndim and isinstance(x, np.ndarray):
        return x.copy()  # JAX may read it later
    first = len(shape) - x.ndim
    parts = [first + axis if size == shape[first + axis] else None for axis, size in enumerate(x.shape)]
    there = along(sharding, parts, len(shape)) if first >= 0 else along(sharding, [None] * x.ndim, 0)
    return to_devices(x, there, sharding)


def on_devices_of(x: Any, sharding: Any) -> Any:
    """An array on the devices of a sharding, to compute with a value that has it: spread so, or whole on each."""
    if isinstance(x, _Tracer) or problem_with(x.shape, sharding) is None:
        return placed(x, sharding)
    return to_devices(x, along(sharding, [None] * x.ndim, 0), sharding)


def to_devices(x: Any, there: Any, sharding: Any) -> Any:
    """An operand with the sharding ``there``; None stands for a copy on each device of another sharding."""
    if there is not None:
        return placed(x, there)
    if isinstance(x, np.ndarray):
        return x.copy()
    devices = sharding.device_set
    return x if x.sharding.device_set == devices or (is_concrete(x) and not x.committed) else np.array(x)
