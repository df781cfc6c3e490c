"""What is asked of a variable that is, or is to be, spread over several devices or processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._arrays.backend import Backend
from .._arrays.first_values import FirstValue, Made
from .._arrays.registry import owner_of
from .._arrays.shapes import DeclaredShape, is_static
from ..errors import InitializerError, NotAddressableError, ShardingError
from .cell import Cell
from .deferring import DEPTH, recipe_of
from .moving import Move, move_all
from .scopes import current_mesh
from .views import is_lent

__all__ = [
    "asked_of",
    "asked_sharding",
    "check_seeded",
    "check_shardable",
    "placement_of",
    "planned",
    "refused_at",
    "reshard",
]


def asked_sharding(sharding: Any, mesh: Any, device: Any, path: str) -> tuple[Any, Any]:
    """The sharding and the mesh that were asked for, where the mesh may be that of the scope.

    Raises:
        ShardingError: a device was asked for as well.
    """
    if device is not None:
        problem = f"got device={device!r} and a sharding or a mesh, which say both where the value is"
        raise ShardingError.of("Variable", problem, path, "pass one of them")
    _check_one_mesh("Variable", sharding, mesh, path)
    return (() if sharding is None else sharding), (current_mesh() if mesh is None else mesh)


def _check_one_mesh(operation: str, sharding: Any, mesh: Any, path: str) -> None:
    """Raises ShardingError if a mesh was passed, and a sharding of the library that has another one."""
    own = getattr(sharding, "mesh", None)
    if mesh is not None and own is not None and own is not mesh and not _equal(own, mesh):
        problem = "got a sharding of the library, which has a mesh, and another mesh"
        raise ShardingError.of(operation, problem, path, "leave out mesh=, or pass the axes: sharding=(None, 'model')")


def placement_of(operation: str, library: Any, value: Any, spec: Any, mesh: Any, path: str) -> Any:
    """What `Backend.placement` says of what was asked for; its errors name the operation and the variable."""
    try:
        return library.placement(value, spec, mesh)
    except ShardingError as error:
        raise error._at(operation, path) from None


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


def check_seeded(path: str, operation: str = "Variable") -> None:
    """Raises InitializerError if other processes would draw other numbers for a variable that has no seed."""
    from .._arrays.world import current_world  # noqa: PLC0415  # few variables need it

    if current_world().count > 1:
        problem = "each process would draw other random numbers, since there is no seed"
        raise InitializerError.of(operation, problem, path, "pass seed=, the same one in every process")


@contextmanager
def refused_at(operation: str, path: str) -> Iterator[None]:
    """Names the operation and the variable in the error of a value that spans processes."""
    try:
        yield
    except NotAddressableError as error:
        raise error._at(operation, path) from None


def reshard(cell: Cell, spec: Any, mesh: Any) -> None:
    """Implements `Variable.reshard`."""
    _check_one_mesh("reshard", spec, mesh, cell._path)
    move = planned("reshard", cell, spec, mesh, cell._path)
    if move is not None:
        move_all("reshard", [move])


def planned(operation: str, cell: Any, spec: Any, mesh: Any, path: str) -> Move | None:
    """The move that gives a variable a sharding, or one place if ``spec`` is None; None if it has it already.

    A variable that was made in `deferred` gets its value, unless the scope is still open.

    Raises:
        ShardingError: the variable cannot have it.
    """
    old: Any = cell._backend
    recipe = None if DEPTH.get() else recipe_of(cell)
    if old.is_view and spec is None:
        return None
    if old.is_view:
        problem = "the variable is a view of state that another object has, which says where it is"
        hint = "spread that object with its library; or None, which leaves it as it is"
        raise ShardingError.of(operation, problem, path, hint)
    new: Any = old.native
    sharding = cell._device
    if spec is None:
        if not old.is_sharded:
            return None if recipe is None else Move(cell, old, sharding, None, recipe)
        sharding = None
    else:
        if mesh is None and (mesh := current_mesh()) is None and old.is_sharded:
            mesh = getattr(cell.sharding, "mesh", None)
        new, sharding = asked_of(operation, new, spec, mesh, path)
        new = new.for_aggregation(cell._aggregation)
        shape = cell.shape if is_static(cell.declared_shape) or cell.is_initialized else None
        check_shardable(new, sharding, None, shape if recipe is None else recipe.shape, path, operation)
    if recipe is not None and recipe.chosen and new.is_sharded:
        check_seeded(path, operation)
    if recipe is None and old is new and _equal(cell.device, sharding):
        return None
    if is_lent(cell):
        problem = "code outside has v.parameter, such as an optimizer or a module, and it would keep the old place"
        raise ShardingError.of(operation, problem, path, "spread the variable first, and then give out v.parameter")
    return Move(cell, new, sharding, _mover(cell, old, new, sharding), recipe)


def asked_of(operation: str, plain: Any, spec: Any, mesh: Any, path: str) -> tuple[Any, Any]:
    """The adapter and the sharding that a library has for what was asked for.

    Raises:
        ShardingError: it has none.
    """
    found = placement_of(operation, plain, None, spec, mesh, path)
    if found is None:
        raise ShardingError.of(operation, f"{plain.name} cannot spread a value as {spec!r}", path)
    return found  # type: ignore[no-any-return]  # as `Backend.placement` says


def _equal(mine: Any, asked: Any) -> bool:
    try:
        return bool(mine == asked)
    except Exception:  # noqa: BLE001  # of an object of a library
        return False


def _mover(cell: Cell, old: Any, new: Any, sharding: Any) -> Any:
    """A function that makes the new handle from a snapshot of the value."""

    def move(value: Any) -> Any:
        if old.is_sharded and new.is_sharded:
            return cell._made(new, sharding, new.resharded(value, sharding), None)
        if old.is_sharded:
            host = old.gather(value)
            return cell._made(new, None, None, Made(host, host.shape, cell._dtype_name))
        return cell._made(new, sharding, value, None)

    return move
