"""The adapter of boxarray: what a library must do to have variables."""

from __future__ import annotations

import operator
from functools import cache
from typing import Any

import boxarray
import numpy as np
from boxarray import Box

from statevar.backends import (
    Backend,
    DeclaredShape,
    HostArray,
    Operation,
    Selection,
    ShardedBackend,
    Spread,
    dlpack_of_host,
    is_integer,
    no_such_device,
    parse_device,
)
from statevar.errors import DTypeError, describe

__all__ = ["BACKEND"]

_DTYPES = {
    dtype.name: dtype
    for dtype in (
        boxarray.boolean,
        boxarray.int8,
        boxarray.int32,
        boxarray.uint8,
        boxarray.float16,
        boxarray.float32,
        boxarray.float64,
    )
}
_OPERATORS: tuple[Operation, ...] = (operator.add, operator.sub, operator.mul)


class _Handle:
    """A box is immutable, so the value itself is the snapshot."""

    __slots__ = ("published",)

    def __init__(self, box: Box) -> None:
        self.published = box


class BoxBackend(Backend):
    name = "boxarray"

    # -- whose is it ---------------------------------------------------------------------------------

    def owns(self, value: Any) -> bool:
        return isinstance(value, Box)

    # -- dtypes, shapes and devices -------------------------------------------------------------------

    def dtype(self, name: str) -> Any:
        if name not in _DTYPES:
            raise DTypeError(describe("dtype", f"boxarray cannot hold {name}", hint="use backend='numpy'"))
        return _DTYPES[name]

    def dtype_name(self, array: Box) -> str:
        return array.dtype.name

    def device(self, name: Any) -> Any:
        if name is None or (isinstance(name, str) and parse_device(name) == ("cpu", 0)):
            return "cpu"
        raise no_such_device(name, "'CPU:0'")

    def device_of(self, array: Box) -> Any:
        return "cpu"

    def device_name(self, device: Any) -> str:
        return "CPU:0"

    # -- conversion ------------------------------------------------------------------------------------

    def operand(self, value: Any, dtype: Any) -> Box | None:
        return value if isinstance(value, Box) and value.dtype is dtype else None

    def from_host(self, array: HostArray, device: Any) -> Box:
        return Box(array, self.dtype(array.dtype.name))

    def to_host(self, array: Box) -> HostArray:
        return array.unbox()

    def import_array(self, array: Any, dtype: Any = None) -> Box:
        return array if isinstance(array, Box) else self.from_host(np.asarray(array), None)

    def as_other_operand(self, array: HostArray) -> Any:
        return self.from_host(array, None)

    def cast(self, array: Box, dtype: Any) -> Box:
        return array.astype(dtype)

    def in_range(self, before: Box, after: Box) -> bool:
        old, new = before.unbox(), after.unbox()
        if is_integer(after.dtype.name):
            return bool((old == new).all())
        return bool((np.isfinite(new) | ~np.isfinite(old)).all())

    def namespace(self) -> Any:
        return boxarray

    def dlpack(self, array: Box, request: dict[str, Any]) -> Any:
        return dlpack_of_host(array.unbox(), request)

    def dlpack_device(self, array: Box) -> tuple[int, int]:
        return 1, 0  # the CPU

    def round(self, array: Box, decimals: int) -> Box:
        return array.round(decimals)

    # -- a handle's life ---------------------------------------------------------------------------------

    def create(self, array: Box, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        return _Handle(array)

    def device_of_handle(self, handle: Any) -> Any:
        return "cpu"

    def snapshot(self, handle: Any) -> Box:
        box: Box = handle.published
        return box

    def assign(self, handle: Any, x: Box, _op: Any = None, _where: Any = None) -> Any:
        return _Handle(x)

    def apply(self, handle: Any, x: Box, op: Operation, _where: Any = None) -> Any:
        return _Handle(self.compute(handle.published, x, op))

    def put(self, handle: Any, x: Box, kind: str, where: Selection) -> Any:
        return _Handle(self.compute_put(handle.published, x, kind, where))

    def redeclare(self, handle: Any, x: Box, _op: Any = None, _where: Any = None) -> Any:
        return _Handle(x)

    def fork(self, handle: Any, array: Box | None) -> Any:
        return _Handle(handle.published if array is None else array)

    def adopt(self, handle: Any, other: Any) -> Any:
        return other

    def compute(self, old: Box, x: Any, op: Operation) -> Box:
        result: Box = op(old, x) if op in _OPERATORS else self.compute_on_host(old, x, op)
        return result

    def compute_put(self, old: Box, x: Box, kind: str, where: Selection) -> Box:
        result: Box = self.put_on_host(old, x, kind, where)
        return result

    def get(self, array: Box, where: Selection) -> Box:
        return self.from_host(array.unbox()[where.index], None)


class _WithMeshes(BoxBackend):
    """Knows boxes that lie on several devices, too: `statevar_boxes` is their adapter."""

    def owns(self, value: Any) -> bool:
        return isinstance(value, Box | boxarray.Boxes)

    def spread(self, value: Any) -> Spread | None:
        if not isinstance(value, boxarray.Boxes):
            return None
        return Spread("boxes over a mesh", "pass value.collect()")

    def placement(self, value: Any, spec: Any, mesh: Any) -> tuple[Backend, Any] | None:
        if isinstance(value, boxarray.Boxes) and spec is None:
            return _sharded(), value.spread
        return None if spec is None else (_sharded(), _sharded().sharding(spec, mesh))


BACKEND = _WithMeshes()


@cache
def _sharded() -> ShardedBackend:
    """The adapter of boxes on several devices, which is made on first use."""
    from statevar_boxes import ShardedBoxBackend

    backend = ShardedBoxBackend()
    backend.native = BACKEND
    return backend
