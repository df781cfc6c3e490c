"""JAX arrays over several devices or processes, as variables store them.

The *device* of such a variable is its sharding, of any class of JAX. Each write is a compiled program whose result has
that sharding; it donates the old array, as a write on one device does, so it is in place on every device.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.dtypes import HOST, KEYS
from ..._arrays.first_values import FirstValue, Made
from ..._arrays.indexing import Selection
from ..._arrays.shapes import Shape
from ..._arrays.sharded_backend import Piece, ReadBlock, ShardedBackend
from ..._arrays.types import HostArray, Operation
from ...errors import NotAddressableError, ShardingError
from . import sharded_rows
from .adapter import BACKEND, JAXBackend, _Handle, _is_whole, _rescue
from .arrays import CONCRETE, settled, store
from .keys import is_key, packed, unpacked
from .placing import (
    along,
    beside,
    call_traced,
    copy,
    from_host,
    keys_spread,
    pinned,
    placed,
    problem_with,
    program,
    sharding_name,
    sharding_of,
)

__all__ = ["SHARDED"]

_Tracer = jax.core.Tracer
_from_local: Any = jax.make_array_from_process_local_data  # JAX gives it no types


class ShardedJAXBackend(ShardedBackend, JAXBackend):
    # -- shardings -------------------------------------------------------------------------------------

    def sharding(self, spec: Any, mesh: Any) -> Any:
        return sharding_of(spec, mesh)

    def problem_with(self, shape: Shape, sharding: Any) -> str | None:
        return problem_with(shape, sharding)

    def sharding_name(self, sharding: Any) -> str:
        return sharding_name(sharding)

    def device(self, name: Any) -> Any:
        return name if isinstance(name, jax.sharding.Sharding) else super().device(name)

    def device_of(self, array: Any) -> Any:
        if isinstance(array, jax.Array) and not isinstance(array, _Tracer):
            return array.sharding
        return super().device_of(array)

    def pieces(self, array: Any) -> list[Piece]:
        return list(_blocks(array).values())

    def copies(self, array: Any) -> list[Piece]:
        return [_piece(each) for each in array.addressable_shards]

    def from_pieces(self, shape: Shape, dtype: str, sharding: Any, read: ReadBlock) -> Any:
        blocks: dict[Shape, Any] = {}

        def block(index: Any) -> Any:
            spans = [range(*part.indices(size)) for part, size in zip(index, shape, strict=True)]
            offsets = tuple(span.start for span in spans)
            if offsets not in blocks:
                blocks[offsets] = read(offsets, tuple(map(len, spans)))
            return blocks[offsets]

        if dtype in KEYS:
            whole = np.empty(shape, KEYS[dtype])
            for index in set(map(_hashable, sharding.addressable_devices_indices_map(shape).values())):
                part = tuple(slice(*each) for each in index)
                whole[part] = block(part)
            return placed(unpacked(whole), sharding)
        made = jax.make_array_from_callback(shape, sharding, block, dtype=HOST[dtype])
        return _copied(made, sharding)  # JAX may have taken over the memory, which then no write can donate

    def created_from_pieces(self, array: Any, *, trainable: bool) -> Any:
        return _Handle(array)

    def spans(self, array: Any) -> bool:
        if array.is_fully_addressable or array.is_fully_replicated:
            return False
        return bool(len(_blocks(array)) * math.prod(array.sharding.shard_shape(array.shape)) < array.size)

    def gather(self, array: Any) -> HostArray:
        if not self.spans(array):
            return self.packed(array)
        sharding = array.sharding
        if not isinstance(sharding, jax.sharding.NamedSharding):
            problem, hint = f"JAX cannot gather an array that is spread as {sharding}", "use a NamedSharding"
            raise ShardingError.of("gather", problem, hint=hint)
        return self.packed(program(copy, along(sharding, [None] * array.ndim, 0))(array))

    def resharded(self, array: Any, sharding: Any) -> Any:
        there = placed(array, sharding)
        return _copied(there, sharding)  # `device_put` may share the memory of what it moves

    def from_local(self, local: Any, sharding: Any) -> Any:
        if isinstance(local, jax.Array) and is_key(local):
            return keys_spread(local, sharding, lambda numbers, flat: _from_local(flat, numbers))
        return _from_local(sharding, np.array(local))  # JAX may take over its memory, or read it later

    def pinned(self, array: Any, sharding: Any) -> Any:
        return pinned(array, sharding)

    # -- conversion ------------------------------------------------------------------------------------

    def spread(self, value: Any) -> None:
        return None

    def spread_handle(self, handle: Any) -> None:
        return None

    def operand(self, value: Any, dtype: Any) -> Any | None:
        if type(value) in CONCRETE and not value.weak_type:
            return value if value.dtype == dtype else None
        if not isinstance(value, jax.Array) or isinstance(value, _Tracer) or value.dtype != dtype:
            return None
        return self.without_weak_type(value)

    def from_host(self, array: HostArray, device: Any) -> Any:
        return array if array.dtype.names is None else unpacked(array)  # the verbs copy it before they return

    def import_array(self, array: Any, dtype: Any = None) -> Any:
        return array if isinstance(array, jax.Array) else jnp.array(array, dtype)

    def to_host(self, array: Any) -> HostArray:
        if isinstance(array, _Tracer) or not isinstance(array, jax.Array):
            return super().to_host(array)
        if not array.size and not is_key(array):  # JAX's programs give the shards of no elements other shapes
            return np.empty(array.shape, array.dtype)
        if array.is_fully_addressable or array.is_fully_replicated:
            return super().to_host(array)
        self._check_readable(array)
        host = np.empty(array.shape, array.dtype)
        for piece in _blocks(array).values():
            host[tuple(slice(o, o + n) for o, n in zip(piece.offsets, piece.array.shape, strict=True))] = piece.array
        host.flags.writeable = False
        return host

    def packed(self, array: Any) -> HostArray:
        if not is_key(array):
            return super().packed(array)
        self._check_readable(array)
        return packed(array, self.dtype_name(array), self.to_host(jax.random.key_data(array)))

    def _check_readable(self, array: Any) -> None:
        """Raises NotAddressableError if this process does not have all of the value."""
        if self.spans(array):
            problem = f"the value is spread as {self.sharding_name(array.sharding)}, and other processes have a part"
            raise NotAddressableError.of("read", problem, hint="write sv.gather(v), on every process")

    def beside(self, array: Any, other: Any) -> Any:
        return array if isinstance(other, _Tracer) else beside(array, other.sharding, other.shape)

    def copied(self, array: Any) -> Any:
        return array.copy() if isinstance(array, np.ndarray) else super().copied(array)

    def dlpack(self, array: Any, request: dict[str, Any]) -> Any:
        self.dlpack_device(array)
        return super().dlpack(array, request)

    def dlpack_device(self, array: Any) -> tuple[int, int]:
        if len(array.sharding.device_set) > 1:
            problem = f"DLPack passes the memory of one device, and the value is {self.sharding_name(array.sharding)}"
            raise ShardingError.of("dlpack", problem, hint="pass one part of it: v.value.addressable_data(0)")
        return super().dlpack_device(array)

    # -- a handle's life ---------------------------------------------------------------------------------

    def _create(self, array: Any, device: Any) -> Any:
        sharding = array.sharding if device is None else device
        if (problem := problem_with(array.shape, sharding)) is not None:
            problem = f"a value of shape {array.shape} cannot be spread as {self.sharding_name(sharding)}: {problem}"
            raise ShardingError.of("Variable", problem, hint="choose other axes")
        there = placed(array, sharding)
        return _Handle(there if isinstance(array, np.ndarray) else _copied(there, sharding))

    def _create_from(self, first: FirstValue, device: Any) -> Any:
        if isinstance(first, Made):
            return self._create(first.array, device)
        if device.is_fully_addressable and first.constant is None:
            return _Handle(from_host(first.to_host(), device))
        return _Handle(self.from_pieces(first.shape, first.dtype, device, partial(_part, first)))

    def device_of_handle(self, handle: Any) -> Any:
        return handle.present.sharding

    def assign(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        old = handle.array
        sharding = old.sharding
        there = placed(x, sharding)
        if isinstance(x, np.ndarray) or not there.size:  # an older JAX makes no result without elements in a sharding
            return _Handle(there)
        if _op is not None:  # computed from the variable's own value, so nobody can write its memory
            return _Handle(there, published=there)
        if handle.published is not None or old.shape != there.shape or not _is_whole(old):
            return _Handle(settled(program(copy, sharding)(there), there))
        return self._donating(handle, program(_second, sharding, True), there)

    def apply(self, handle: Any, x: Any, op: Operation, _where: Any = None) -> Any:
        array = handle.array
        if not array.size:  # as in `assign`
            return handle
        x = beside(x, array.sharding, array.shape)
        if handle.published is not None:
            return _Handle(settled(program(op, array.sharding)(array, x), x))
        return self._donating(handle, program(op, array.sharding, True), x)

    def put(self, handle: Any, x: Any, operation: str, where: Selection) -> Any:
        if handle.published is not None:
            new = self.compute_put(handle.array, x, operation, where)
            return handle if new is handle.array else _Handle(new)
        if _is_empty(where):
            return handle
        kept: list[Any] = []
        array = handle.array
        handle.fresh = kept
        try:
            return _Handle(settled(sharded_rows.put(kept, array, x, operation, where, donate=True), x))
        except BaseException:
            _rescue(handle, kept)
            raise

    def _donating(self, handle: Any, call: Any, x: Any) -> Any:
        kept: list[Any] = []
        array = handle.array
        handle.fresh = kept
        try:
            return _Handle(settled(store(kept, call, array, x), x))
        except BaseException:
            _rescue(handle, kept)
            raise

    def write_all(self, handles: list[Any], xs: list[Any], op: Operation | None, began: list[bool]) -> bool:
        return False

    def fork(self, handle: Any, array: Any) -> Any:
        if array is None:
            array = handle.published = handle.array
        if array is handle.published:
            return handle
        there = placed(array, self.device_of_handle(handle))  # from before the variable got its sharding
        return _Handle(there, published=there)

    def fork_from_host(self, handle: Any, array: HostArray) -> Any:
        return _Handle(placed(self.from_host(array, None), self.device_of_handle(handle)))

    def compute(self, old: Any, x: Any, op: Operation) -> Any:
        if isinstance(old, _Tracer):
            return call_traced(op, old, x)
        if not old.size:
            return old
        x = beside(x, old.sharding, old.shape)
        return settled(program(op, old.sharding)(old, x), x)

    def compute_put(self, old: Any, x: Any, operation: str, where: Selection) -> Any:
        if _is_empty(where):
            return old
        return settled(sharded_rows.put([], old, x, operation, where, donate=False), x)

    def get(self, array: Any, where: Selection) -> Any:
        return sharded_rows.get(array, where)

    def get_within(self, handle: Any, where: Selection) -> Any | None:
        array = handle.array
        try:
            return sharded_rows.get(array, where)
        except Exception:
            if array.is_deleted():  # a signal handler has written the variable in the middle of this
                return None
            raise

    def select_rows(self, index: Any, shape: Shape) -> Selection | None:
        return None

    def takes_index(self, part: Any) -> bool:
        if isinstance(part, jax.Array) and not isinstance(part, _Tracer):
            self._check_readable(part)
        return False  # the indices are needed on the host, where each process takes those of its own part


def _part(first: FirstValue, offsets: Shape, sizes: Shape) -> HostArray:
    return first.part([slice(start, start + size) for start, size in zip(offsets, sizes, strict=True)])


def _blocks(array: Any) -> dict[Shape, Piece]:
    """The blocks of an array that this process has, by their offsets."""
    found: dict[Shape, Piece] = {}
    for shard in array.addressable_shards:
        piece = _piece(shard)
        if piece.offsets not in found or piece.first:
            found[piece.offsets] = piece
    return found


def _piece(shard: Any) -> Piece:
    places = shard.index[: shard.data.ndim]  # JAX counts the numbers of a random key as one axis more
    return Piece(tuple(part.start or 0 for part in places), shard.data, shard.replica_id == 0)


def _copied(array: Any, sharding: Any) -> Any:
    """A copy; an array without elements itself, of which an older JAX makes no result in a sharding."""
    return program(copy, sharding)(array) if array.size else array


def _second(_: Any, x: Any) -> Any:
    return jnp.copy(x)


def _is_empty(where: Selection) -> bool:
    return 0 in (where.shape if where.mask is None else where.of_shape)


def _hashable(index: Any) -> tuple[tuple[Any, Any, Any], ...]:
    return tuple((part.start, part.stop, part.step) for part in index)


SHARDED = ShardedJAXBackend()
SHARDED.native = BACKEND
