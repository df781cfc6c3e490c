"""The adapter of arrays that boxarray spreads over a mesh: `ShardedBackend` beside `BoxBackend`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from boxarray import Box, Boxes, Mesh, Spread
from statevar_box import BoxBackend

from statevar.backends import (
    DeclaredShape,
    FirstValue,
    HostArray,
    Operation,
    Piece,
    ReadBlock,
    Selection,
    Shape,
    ShardedBackend,
)
from statevar.errors import NotAddressableError, ShardingError

__all__ = ["ShardedBoxBackend"]


class _Handle:
    __slots__ = ("published",)

    def __init__(self, boxes: Boxes) -> None:
        self.published = boxes


class ShardedBoxBackend(ShardedBackend, BoxBackend):
    def sharding(self, spec: Any, mesh: Any) -> Spread:
        if isinstance(spec, Spread):
            return spec
        if not isinstance(mesh, Mesh):
            problem = "there is no mesh" if mesh is None else f"{type(mesh).__name__} is no mesh of boxarray"
            raise ShardingError.of("sharding", problem, hint="pass mesh=boxarray.Mesh(…)")
        cuts = tuple(() if each is None else (each,) if isinstance(each, str) else tuple(each) for each in spec)
        for name in (name for cut in cuts for name in cut):
            if name not in mesh.axes:
                problem = f"the mesh has no axis {name!r}; its axes are {', '.join(mesh.axes)}"
                raise ShardingError.of("sharding", problem, hint="name an axis of the mesh")
        return Spread(mesh, cuts)

    def problem_with(self, shape: Shape, sharding: Spread) -> str | None:
        if len(sharding.cuts) > len(shape):
            return f"it has {len(shape)} axes, and the sharding {len(sharding.cuts)}"
        for axis, length in enumerate(shape):
            if length % (parts := sharding.parts(length, axis)):
                return f"axis {axis} of size {length} does not divide by {parts}"
        return None

    def sharding_name(self, sharding: Spread) -> str:
        return repr(sharding)

    def pieces(self, array: Boxes) -> list[Piece]:
        firsts = set()
        seen: set[tuple[int, ...]] = set()
        for device in array.spread.mesh.devices:
            start = tuple(each.start for each in array.spread.index(device, array.shape))
            if start not in seen and device not in array.spread.mesh.elsewhere:
                firsts.add(start)
            seen.add(start)
        return [Piece(start, box, start in firsts) for start, box in array.here().items()]

    def from_pieces(self, shape: Shape, dtype: str, sharding: Spread, read: ReadBlock) -> Boxes:
        whole = np.zeros(shape, dtype)
        done = set()
        for device in sharding.mesh.devices:
            index = sharding.index(device, shape)
            if (start := tuple(each.start for each in index)) not in done:
                done.add(start)
                whole[index] = read(start, tuple(each.stop - each.start for each in index))
        return Boxes(whole, self.dtype(dtype), sharding)

    def spans(self, array: Boxes) -> bool:
        return sum(math.prod(box.shape) for box in array.here().values()) < math.prod(array.shape)

    def gather(self, array: Boxes) -> HostArray:
        return array.collect()

    def resharded(self, array: Boxes, sharding: Spread) -> Boxes:
        return Boxes(array.collect(), array.dtype, sharding)

    def from_local(self, local: Any, sharding: Spread) -> Boxes:
        host = local.unbox() if isinstance(local, Box) else np.asarray(local)
        if problem := self.problem_with(host.shape, sharding):
            raise ShardingError.of("from_local", problem)
        return Boxes(host, self.dtype(host.dtype.name), sharding)

    # -- what BoxBackend does with a box on one device -----------------------------------------------------

    def device(self, name: Any) -> Spread:
        assert isinstance(name, Spread)
        return name

    def device_of(self, array: Any) -> Any:
        return array.spread if isinstance(array, Boxes) else "cpu"

    def device_of_handle(self, handle: Any) -> Spread:
        spread: Spread = handle.published.spread
        return spread

    def spread(self, value: Any) -> None:
        return None

    def operand(self, value: Any, dtype: Any) -> Any:
        return value if isinstance(value, Box | Boxes) and value.dtype is dtype else None

    def to_host(self, array: Box | Boxes) -> HostArray:
        if isinstance(array, Box):
            return array.unbox()
        if self.spans(array):
            problem = "other processes have parts of the value"
            raise NotAddressableError.of("read", problem, hint="sv.gather(v), on every process")
        return array.collect()

    def in_range(self, before: Any, after: Any) -> bool:
        return super().in_range(_whole(before), _whole(after))

    def round(self, array: Any, decimals: int) -> Any:
        return Boxes(_whole(array).round(decimals).unbox(), array.dtype, array.spread)

    def create(self, array: Any, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        return _Handle(_placed(array, device))

    def create_from(self, first: FirstValue, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        def read(start: Shape, sizes: Shape) -> HostArray:
            return first.part([slice(at, at + size) for at, size in zip(start, sizes, strict=True)])

        return _Handle(self.from_pieces(first.shape, first.dtype, device, read))

    def assign(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        return _Handle(_placed(x, handle.published.spread))

    redeclare = assign

    def apply(self, handle: Any, x: Any, op: Operation, _where: Any = None) -> Any:
        return _Handle(self.compute(handle.published, x, op))

    def put(self, handle: Any, x: Any, kind: str, where: Selection) -> Any:
        return _Handle(self.compute_put(handle.published, x, kind, where))

    def fork(self, handle: Any, array: Any) -> Any:
        return _Handle(handle.published if array is None else array)

    def compute(self, old: Any, x: Any, op: Operation) -> Any:
        whole = BoxBackend.compute(_PLAIN, _whole(old), _whole(x), op)
        return Boxes(whole.unbox(), whole.dtype, old.spread)

    def compute_put(self, old: Any, x: Any, kind: str, where: Selection) -> Any:
        whole = BoxBackend.compute_put(_PLAIN, _whole(old), _whole(x), kind, where)
        return Boxes(whole.unbox(), whole.dtype, old.spread)

    def get(self, array: Any, where: Selection) -> Box:
        return BoxBackend.get(_PLAIN, _whole(array), where)


_PLAIN = BoxBackend()


def _whole(array: Any) -> Any:
    return Box(array.collect(), array.dtype) if isinstance(array, Boxes) else array


def _placed(array: Any, spread: Spread) -> Boxes:
    values = array.collect() if isinstance(array, Boxes) else array.unbox()
    return Boxes(values, array.dtype, spread)
