"""Where the variables and the arguments of a program of JAX lie, and whether one program can have them all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

from ..._core.variable import Variable
from ...errors import DeviceError
from .adapter import BACKEND
from .tracing import is_eager

__all__ = ["check_places", "on_mesh_of", "on_several", "shardings_of"]


def shardings_of(variables: Sequence[Variable]) -> list[Any] | None:
    """The shardings that the new values of variables must have, None for one on one device; None if all are."""
    found = [each._device if each._backend.is_sharded else None for each in variables]
    return found if any(each is not None for each in found) else None


def on_mesh_of(values: Sequence[Any]) -> AbstractContextManager[Any]:
    """The scope of the mesh of values whose types have their shardings, which JAX asks for to make their gradients."""
    for each in values:
        mesh = None if isinstance(each, jax.core.Tracer) else getattr(getattr(each, "sharding", None), "mesh", None)
        if mesh is not None and jax.sharding.AxisType.Explicit in mesh.axis_types:
            scope: AbstractContextManager[Any] = jax.set_mesh(mesh) if is_eager() else nullcontext()
            return scope
    return nullcontext()


def check_places(variables: Sequence[Variable], values: Sequence[Any], arguments: Any) -> None:
    """Raises DeviceError if variables and arguments lie on devices that no program has all.

    Or if an argument lies on several devices and the variables on one: they would follow it.
    """
    own = [(variable, value) for variable, value in zip(variables, values, strict=True) if value is not None]
    given = [each for each in jax.tree.leaves(arguments) if _is_array(each)]
    spread = next(((variable, value) for variable, value in own if variable._backend.is_sharded), None)
    if spread is not None:
        _check_beside(*spread, own, given)
    elif own:
        _check_on_one(*own[0], given)


def _check_on_one(variable: Variable, value: Any, arguments: Sequence[Any]) -> None:
    for argument in arguments:
        if len(there := argument.sharding.device_set) > 1:
            raise DeviceError.of(
                "jit",
                f"an argument is a JAX array over {len(there)} devices ({argument.sharding}), but the variables of "
                f"the function lie on {variable._backend.device_name(next(iter(value.sharding.device_set)))}",
                variable.path,
                "pass jax.device_put(x, v.device); or use jax.jit, and sv.functionalize to get a pure function",
            )


def _check_beside(spread: Variable, value: Any, own: Sequence[tuple[Variable, Any]], arguments: Sequence[Any]) -> None:
    """Raises DeviceError if something is not on the devices of a spread variable, and JAX may not move it there."""
    devices = value.sharding.device_set
    for variable, other in own:
        if other.sharding.device_set != devices and (variable._backend.is_sharded or _is_committed(other)):
            raise DeviceError.of(
                "jit",
                f"the function uses variables on different devices: this one is on {_place_of(variable)}, and "
                f"{spread.path!r} is spread as {_place_of(spread)}",
                variable.path,
                "give it the same mesh: sv.Variable(…, sharding=(), mesh=mesh), or leave out its device",
            )
    for argument in arguments:
        if _is_committed(argument) and argument.sharding.device_set != devices:
            raise _argument_beside(spread, argument)


def _argument_beside(spread: Variable, argument: Any) -> DeviceError:
    return DeviceError.of(
        "jit",
        f"an argument is on {BACKEND.device_name(BACKEND.device_of(argument))}, and a variable of the function "
        f"is spread as {_place_of(spread)}",
        spread.path,
        "pass an array of NumPy, or one on the same devices: jax.device_put(x, v.sharding)",
    )


def on_several(error: Exception, variables: Sequence[Variable], arguments: Any) -> DeviceError | None:
    """The error for a program whose variables or arguments lie on several devices; None for any other error of JAX."""
    if not str(error).startswith("Received incompatible devices for jitted computation"):
        return None
    found: dict[str, tuple[str, str]] = {}  # by the device, what lies there
    for variable in variables:
        if variable.is_initialized and variable.value.committed:
            found.setdefault(_place_of(variable), (repr(variable.path), variable.path))
    path = next((path for _, path in found.values()), "")
    spread = next((variable for variable in variables if variable._backend.is_sharded), None)
    for argument in filter(_is_array, jax.tree.leaves(arguments)):
        if argument.committed:
            if spread is not None and argument.sharding.device_set != spread.value.sharding.device_set:
                return _argument_beside(spread, argument)
            found.setdefault(BACKEND.device_name(BACKEND.device_of(argument)), ("an argument", ""))
    if len(found) < 2 or not path:
        return None
    where = " and ".join(f"{what} on {device}" for device, (what, _) in found.items())
    problem = f"JAX compiles a program for one device, and this one uses {where}"
    return DeviceError.of("jit", problem, path, "move them to one: v.to(device), jax.device_put(x, device)")


def _is_array(argument: Any) -> bool:
    return isinstance(argument, jax.Array) and not isinstance(argument, jax.core.Tracer)


def _is_committed(array: Any) -> bool:
    return bool(getattr(array, "committed", True))  # of keys JAX does not tell


def _place_of(variable: Variable) -> str:
    return variable._backend.device_name(variable.device)
