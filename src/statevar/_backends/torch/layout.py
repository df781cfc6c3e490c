"""Which part of a value over a mesh this process has, and what of an operand or an index concerns that part.

Nothing here communicates, except `Layout.part` of a tensor over a mesh that is placed in another way.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor.placement_types import Placement
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.indexing import Selection
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ...errors import ShardingError
from .meshes import TorchSharding

__all__ = ["Layout", "layout_of", "local_of", "over_mesh"]

Tensor = torch.Tensor

#: The positions along one axis that a process has: consecutive ones, or any in ascending order.
Positions: TypeAlias = "range | HostArray"


def local_of(array: Any) -> Tensor:
    """The part that this process has, without a copy and a gradient."""
    local: Any = array._local_tensor
    found: Tensor = local.trigger_wait() if hasattr(local, "trigger_wait") else local  # of a collective under way
    return found


def over_mesh(local: Tensor, spec: DTensorSpec) -> DTensor:
    """A tensor over a mesh from the part of this process, without a copy and a gradient."""
    made: Any = DTensor
    found: DTensor = made(local, spec, requires_grad=False)
    return found


class Layout:
    """Where the part of this process lies in a value of a shape.

    Attributes:
        sharding: how the value is spread.
        shape: the shape of the whole value.
        axes: the positions along each axis that this process has.
        sizes: the shape of its part.
        cut: the axes of which it has only a part.
    """

    __slots__ = ("axes", "cut", "in_blocks", "shape", "sharding", "sizes")

    def __init__(self, sharding: TorchSharding, shape: Shape, where: tuple[int, ...]) -> None:
        self.sharding = sharding
        self.shape = shape
        self.axes = _axes(sharding, shape, where)
        self.sizes = tuple(map(len, self.axes))
        self.cut = [axis for axis, size in enumerate(shape) if self.sizes[axis] != size]
        self.in_blocks = all(type(each) is range for each in self.axes)

    def wrapped(self, local: Tensor) -> DTensor:
        """The tensor over the mesh of which this is the part of this process, without a copy and a gradient."""
        return over_mesh(local, self.spec(local))

    def spec(self, local: Tensor) -> DTensorSpec:
        """What torch keeps with a tensor over the mesh."""
        mesh, placements = self.sharding
        stride = _strides(self.shape)
        return DTensorSpec(mesh, placements, tensor_meta=TensorMeta(torch.Size(self.shape), stride, local.dtype))

    def part(self, x: Any) -> Any:
        """The part of an operand, which broadcasts into the shape of the value, that belongs to this process.

        A tensor over a mesh is moved to the sharding of the value, by torch's own collectives.
        """
        x = x.detach() if x.requires_grad else x
        if not isinstance(x, DTensor):
            return self.part_of_whole(x)
        mesh, placements = self.sharding
        if x.device_mesh != mesh:
            return self.part_of_whole(x.full_tensor())
        if x.shape != self.shape:
            placements = self._broadcast(x)
        if tuple(x.placements) != placements:
            with torch.no_grad():
                x = x.redistribute(mesh, placements)
        local = local_of(x)
        return local if x.shape == self.shape else self.part_of_whole(local, [])

    def part_of_whole(self, x: Any, axes: list[int] | None = None) -> Any:
        """The same of a tensor or a NumPy array that has the whole operand."""
        skip = len(self.shape) - x.ndim
        for axis in self.cut if axes is None else axes:
            at = axis - skip
            if at >= 0 and (x.shape[at] != 1 or self.shape[axis] == 1):
                x = _taken(x, at, self.axes[axis])
        return x

    def _broadcast(self, x: DTensor) -> tuple[Placement, ...]:
        """The placements of an operand of another shape of which each process then has what its part needs."""
        skip = len(self.shape) - x.ndim
        found: list[Placement] = []
        for each in self.sharding.placements:
            dim: int = getattr(each, "dim", -1)
            whole = dim < max(skip, 0) or x.shape[dim - skip] != self.shape[dim]
            if not whole and type(each) is not Shard:
                raise ShardingError.of(
                    "write",
                    f"an operand of shape {tuple(x.shape)} over a mesh cannot be moved to {each} of another shape",
                    hint="pass x.full_tensor()",
                )
            found.append(Replicate() if whole else Shard(dim - skip))
        return tuple(found)

    # -- writes at an index ------------------------------------------------------------------------------------------

    def selected(self, where: Selection, x: Tensor) -> tuple[Selection, Tensor] | None:
        """What a write at an index is for the part of this process; None if it does not concern it.

        Args:
            where: an index into the whole value, without tensors on a device.
            x: the whole operand, which broadcasts into the selection.
        """
        if not self.cut:
            return where, x
        if not math.prod(self.sizes):
            return None
        if where.mask is not None and not x.ndim:
            mask = where.mask
            for axis in self.cut:
                mask = mask if axis >= mask.ndim else _taken(mask, axis, self.axes[axis])
            return Selection((mask,), self.sizes), x
        if where.basic and self.in_blocks:
            return self._block(where, x)
        if (rows := _rows(where)) is not None and type(self.axes[0]) is range:
            return self._rows(rows, where, x)
        return self._elements(where, x)

    def _block(self, where: Selection, x: Tensor) -> tuple[Selection, Tensor] | None:
        if x.ndim:
            x = _with_all_axes(where, x)
        index = []
        for axis, ((start, count, step), here) in enumerate(zip(where.spans(), self.axes, strict=True)):
            low, high = here.start, here.stop - 1  # type: ignore[union-attr]  # in blocks
            first, last = (low - start, high - start) if step > 0 else (start - high, start - low)
            begin, end = max(0, -(-first // abs(step))), min(count, last // abs(step) + 1)
            if begin >= end:
                return None
            one, other = start + begin * step - low, start + (end - 1) * step - low
            if x.ndim:
                x = x.narrow(axis, begin, end - begin)
                x = x.flip(axis) if step < 0 else x
            index.append(slice(min(one, other), max(one, other) + 1, abs(step)))
        return Selection(tuple(index), self.sizes), x

    def _rows(self, rows: HostArray, where: Selection, x: Tensor) -> tuple[Selection, Tensor] | None:
        here = self.axes[0]
        rows = np.where(rows < 0, rows + self.shape[0], rows)
        inside = (rows >= here.start) & (rows < here.stop)  # type: ignore[union-attr]  # a range
        if not inside.any():
            return None
        if x.ndim:
            x = _at(x.expand(where.shape), inside)
            for axis in self.cut:
                x = x if axis == 0 else _taken(x, axis, self.axes[axis])
        return Selection((rows[inside] - here.start,), self.sizes), x  # type: ignore[union-attr]  # not None for rows

    def _elements(self, where: Selection, x: Tensor) -> tuple[Selection, Tensor] | None:
        inside = np.ones(where.shape, np.bool_)
        local = []
        for positions, size, line in zip(self.axes, self.shape, where.coordinates(), strict=True):
            known = np.full(size, -1)
            known[positions if type(positions) is not range else slice(positions.start, positions.stop)] = np.arange(
                len(positions)
            )
            local.append(known[line])
            inside &= local[-1] >= 0
        if not inside.any():
            return None
        if x.ndim:
            x = _at(x.expand(where.shape), inside)
        return Selection(tuple(line[inside] for line in local), self.sizes), x


def layout_of(sharding: TorchSharding, shape: Shape) -> Layout:
    """The layout of a value of a shape.

    Raises:
        ShardingError: this process is not in the mesh.
    """
    where = sharding.mesh.get_coordinate()
    if where is None:
        problem = f"this process is not in the mesh {sharding.mesh}"
        raise ShardingError.of("sharding", problem, hint="make the variable in the processes of its mesh only")
    return _layout_of(sharding, shape, tuple(where))  # the place of a process may change if it starts torch again


@lru_cache(maxsize=4096)
def _layout_of(sharding: TorchSharding, shape: Shape, where: tuple[int, ...]) -> Layout:
    return Layout(sharding, shape, where)


def _axes(sharding: TorchSharding, shape: Shape, where: tuple[int, ...]) -> list[Positions]:
    """The positions that the process at a place of the mesh has, found out by torch's own way to split a tensor."""
    mesh, placements = sharding
    axes: list[Any] = [range(size) for size in shape]
    with _disable_current_modes():  # of `sv.jit`, which traces this code
        for dim, (placement, rank) in enumerate(zip(placements, where, strict=True)):
            if not placement.is_replicate():
                axis: int = placement.dim  # type: ignore[attr-defined]  # of Shard
                line = torch.as_tensor(np.asarray(axes[axis])).view(*[1] * axis, -1)
                split = placement._split_tensor  # type: ignore[attr-defined]  # of Shard
                parts, _ = split(line, mesh.size(dim), with_padding=False)
                axes[axis] = parts[rank].reshape(-1).numpy()
    return [_as_range(each) for each in axes]


def _as_range(line: Any) -> Positions:
    if type(line) is range:
        return line
    if not len(line):
        return range(0)
    span = range(int(line[0]), int(line[-1]) + 1)
    return span if len(span) == len(line) else line


def _taken(x: Any, axis: int, positions: Positions) -> Any:
    """The elements of a tensor or a NumPy array at positions along an axis."""
    if type(positions) is range:
        return x[(slice(None),) * axis + (slice(positions.start, positions.stop),)]
    if isinstance(x, np.ndarray):
        return x.take(positions, axis)
    return x.index_select(axis, torch.from_numpy(positions).to(x.device))


def _at(x: Tensor, mask: HostArray) -> Tensor:
    """The elements at a mask of the leading axes, whose number a program that is traced knows."""
    return x[tuple(torch.from_numpy(line) for line in mask.nonzero())]


def _strides(shape: Shape) -> tuple[int, ...]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(size, 1))
    return tuple(reversed(strides)) if shape else ()


def _rows(where: Selection) -> HostArray | None:
    """The row numbers of an index that is one array of them and nothing but full slices."""
    first, *rest = where.index or (None,)
    if where.basic or type(first) is not np.ndarray or first.dtype.kind not in "iu":
        return None
    full = all(part is ... or (type(part) is slice and part == slice(None)) for part in rest)
    return first.astype(np.int64, copy=False) if full else None


def _with_all_axes(where: Selection, x: Tensor) -> Tensor:
    """An operand of a basic selection, with one axis for each axis of what is indexed."""
    x = x.expand(where.shape)
    explicit = sum(part is not None and part is not ... for part in where.index)
    axis = 0
    for part in where.index:
        if part is None:
            x = x.select(axis, 0)
        elif part is ...:
            axis += len(where.of_shape) - explicit
        elif isinstance(part, int):
            x = x.unsqueeze(axis)
            axis += 1
        else:
            axis += 1
    return x
