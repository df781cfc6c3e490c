"""What is asked of a variable that is to be spread over several devices or processes."""

from __future__ import annotations

from typing import Any

from .._arrays.backend import Backend
from .._arrays.first_values import FirstValue
from .._arrays.registry import owner_of
from .._arrays.shapes import DeclaredShape, is_static
from ..errors import ShardingError
from .scopes import current_mesh

__all__ = ["asked_sharding", "check_shardable"]


def asked_sharding(sharding: Any, mesh: Any, device: Any, path: str) -> tuple[Any, Any]:
    """The sharding and the mesh that were asked for, where the mesh may be that of the scope.

    Raises:
        ShardingError: a device was asked for as well.
    """
    if device is not None:
        problem = f"got device={device!r} and a sharding or a mesh, which say both where the value is"
        raise ShardingError.of("Variable", problem, path, "pass one of them")
    return (() if sharding is None else sharding), (current_mesh() if mesh is None else mesh)


def check_shardable(
    backend: Backend, sharding: Any, value: Any, declared: DeclaredShape | None, path: str, operation: str = "Variable"
) -> None:
    """Raises ShardingError if a value of a known shape cannot have the sharding."""
    shape: Any = declared
    if isinstance(value, FirstValue):
        shape = value.shape
    elif value is not None and (owner := owner_of(value)) is not None:
        shape = owner.shape(value)
    if shape is None or not is_static(shape):
        return
    problem = backend.problem_with(shape, sharding)  # type: ignore[attr-defined]  # of a ShardedBackend
    if problem is not None:
        name = backend.device_name(sharding)
        raise ShardingError.of(
            operation, f"a value of shape {shape} cannot be spread as {name}: {problem}", path, "choose other axes"
        )
