"""How torch spreads a value: a mesh of processes and placements, from the axes of a mesh, and as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch.distributed.device_mesh
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement

from ..._arrays.shapes import Shape
from ...errors import ShardingError

__all__ = ["TorchSharding", "is_first", "problem_with", "sharding", "sharding_name", "sharding_of"]


class TorchSharding(NamedTuple):
    """How torch spreads a value: a mesh of processes, and a placement for each of its axes."""

    mesh: DeviceMesh
    placements: tuple[Placement, ...]


def sharding_of(array: DTensor) -> TorchSharding:
    """The sharding in which the value of a tensor can be stored: parts of sums are added up everywhere."""
    placements = tuple(Replicate() if each.is_partial() else each for each in array.placements)
    return TorchSharding(array.device_mesh, placements)


def is_first(array: DTensor) -> bool:
    """Whether this process, of all that have the same part, is the one that saves it."""
    mesh = array.device_mesh
    where = mesh.get_coordinate()
    return (
        where is not None
        and not any(rank for rank, each in zip(where, array.placements, strict=True) if each.is_replicate())
        and _is_first_of_its_kind(mesh)
    )


def _is_first_of_its_kind(mesh: DeviceMesh) -> bool:
    """Whether a mesh, such as ``mesh["model"]``, is the first of those that lie beside each other in a larger one."""
    whole = _whole_mesh(mesh)
    if whole.size() == mesh.size():
        return True
    where = np.argwhere(np.isin(whole.mesh.numpy(), mesh.mesh.numpy()))
    same = (where == where[0]).all(0)  # the axes of the larger one along which it has no extent
    return not where[0][same].any()


def _whole_mesh(mesh: Any) -> Any:
    """The mesh of which this one is a part, or itself. Torch has no public call for it."""
    if hasattr(mesh, "_get_root_mesh"):
        return mesh._get_root_mesh()
    return torch.distributed.device_mesh._mesh_resources.get_root_mesh(mesh)  # of older versions


def sharding(spec: Any, mesh: Any) -> TorchSharding:
    """Does what `ShardedBackend.sharding` does. The spec may also be placements of torch, one for each mesh axis."""
    if isinstance(spec, TorchSharding):
        return spec
    if isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[0], DeviceMesh):
        mesh, spec = spec
    if not isinstance(mesh, DeviceMesh):
        what = "there is no mesh" if mesh is None else f"the mesh is a {type(mesh).__name__}"
        hint = "pass mesh=torch.distributed.device_mesh.init_device_mesh(…), or use `with sv.mesh(mesh):`"
        raise ShardingError.of("sharding", f"{what}, and torch needs a DeviceMesh", hint=hint)
    spec = (spec,) if isinstance(spec, Placement) else tuple(spec)
    if spec and all(isinstance(each, Placement) for each in spec):
        return _of_placements(mesh, spec)
    return _of_axes(mesh, spec)


def problem_with(shape: Shape, sharding: TorchSharding) -> str | None:
    """Does what `ShardedBackend.problem_with` does. Torch cuts an axis whose size does not divide into uneven parts."""
    for dim, each in enumerate(sharding.placements):
        if (axis := getattr(each, "dim", -1)) >= len(shape):
            return f"it has no axis {axis} to cut over the mesh axis {_dim_name(sharding.mesh, dim)}"
    return None


def sharding_name(sharding: TorchSharding) -> str:
    """The device, and for each axis of the mesh its size and the placement: ``CPU mesh ['data'=2: S(0)]``."""
    mesh, placements = sharding
    dims = (f"{_dim_name(mesh, dim)}={mesh.size(dim)}: {each}" for dim, each in enumerate(placements))
    return f"{mesh.device_type.upper()} mesh [{', '.join(dims)}]"


def _dim_name(mesh: DeviceMesh, dim: int) -> str:
    names = mesh.mesh_dim_names
    return str(dim) if names is None else repr(names[dim])


def _of_placements(mesh: DeviceMesh, placements: Sequence[Placement]) -> TorchSharding:
    if len(placements) != mesh.ndim:
        problem = f"expected one placement for each of the {mesh.ndim} axes of the mesh, got {len(placements)}"
        raise ShardingError.of("sharding", problem, hint="torch's placements are by mesh axis: [Shard(0), Replicate()]")
    if any(each.is_partial() for each in placements):
        problem = f"a value cannot be stored as the parts of a sum ({', '.join(map(str, placements))})"
        raise ShardingError.of("sharding", problem, hint="use Replicate() or Shard(axis)")
    if any(getattr(each, "dim", 0) < 0 for each in placements):
        raise ShardingError.of("sharding", "a Shard counts its axis from the end", hint="count it from 0")
    return TorchSharding(mesh, tuple(placements))


def _of_axes(mesh: DeviceMesh, axes: Sequence[Any]) -> TorchSharding:
    """For each axis of the value the name of the mesh axis, several, or None; torch has it by mesh axis."""
    names = mesh.mesh_dim_names or ()
    placements: list[Placement] = [Replicate()] * mesh.ndim
    for axis, named in enumerate(axes):
        asked = () if named is None else (named,) if isinstance(named, str) else tuple(named)
        dims = []
        for name in asked:
            if name not in names:
                known = f"its axes are {', '.join(map(repr, names))}" if names else "its axes have no names"
                hint = "pass mesh_dim_names= to init_device_mesh" if not names else "name one of them"
                raise ShardingError.of("sharding", f"the mesh has no axis {name!r}: {known}", hint=hint)
            dims.append(names.index(name))
        if dims != sorted(dims):
            problem = f"torch cuts an axis over the axes of the mesh in their order, and got {asked!r}"
            raise ShardingError.of("sharding", problem, hint=f"write {tuple(names[dim] for dim in sorted(dims))!r}")
        for dim in dims:
            if not placements[dim].is_replicate():
                raise ShardingError.of("sharding", f"the mesh axis {names[dim]!r} is named for two axes of the value")
            placements[dim] = Shard(axis)
    return TorchSharding(mesh, tuple(placements))
