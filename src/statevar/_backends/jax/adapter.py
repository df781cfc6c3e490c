"""JAX: immutable arrays; a write donates the old array if it was never handed out.

``published`` also marks an array that has been handed out, which a write must not donate. Reference counts would not
do: ``device_put`` and ``addressable_data`` make aliases that do not show in the count and become invalid when the array
is donated.

An array that comes in is copied. It cannot be written itself, but ``jax.device_put`` and ``jax.dlpack.from_dlpack``
make arrays that share the memory of somebody who can write it, and JAX does not tell which arrays those are.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.backend import Backend
from ..._arrays.dtypes import HOST, KEYS, is_integer, keys_are_no_numbers
from ..._arrays.first_values import FirstValue, Made
from ..._arrays.indexing import OwnSelection, Selection
from ..._arrays.placement import Spread, no_such_device, parse_device
from ..._arrays.shapes import DeclaredShape, Shape
from ..._arrays.stored import Stored
from ..._arrays.types import HostArray, Operation
from ..._arrays.unreadable import Unreadable
from ...errors import DeviceError, DTypeError, ReentrantWriteError, UninitializedError
from . import collectives, indices, rows, sharded_rows
from .arrays import (
    CONCRETE,
    FAILED,
    beside,
    brought_home,
    is_concrete,
    is_spread,
    like,
    same_place,
    settled,
    store,
    to_device,
)
from .first_values import made
from .keys import is_key, key_dtype, packed, unpacked
from .placing import beside as beside_spread
from .placing import natural_sharding, on_devices_of, sharding_name
from .pytree import register
from .together import result_for, write_all
from .tracing import TRACING

__all__ = ["BACKEND"]

_WIDE = {"int64": "int32", "uint64": "uint32", "float64": "float32", "complex128": "complex64"}
_CLOSED: tuple[Operation, ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.and_,
    operator.or_,
    operator.xor,
)


_is_ready = operator.methodcaller("is_ready")
_wait: Any = jax.block_until_ready  # JAX gives it no types
_Tracer = jax.core.Tracer
_SingleDevice = jax.sharding.SingleDeviceSharding
#: The elements up to which an array is copied as fast as JAX dispatches anything: no memory is used again for it.
_SMALL = 4096


class _Handle:
    __slots__ = ("array", "fresh", "published")

    def __init__(self, array: jax.Array, published: jax.Array | None = None) -> None:
        self.array = array
        self.published = published
        self.fresh: list[Any] | None = None  # gets the result of a write that donates the array

    @property
    def present(self) -> jax.Array:
        """The array, without taking it from a compiled program that has it, as a handle of `Residence` may."""
        return self.array


class JAXBackend(Backend):
    name = "jax"
    replaceable = True
    adopt_cannot_fail = True
    late_errors = (FAILED,)
    tracing = TRACING

    # -- whose is it ---------------------------------------------------------------------------------

    def owns(self, value: Any) -> bool:
        return isinstance(value, jax.Array)

    def is_symbolic(self, array: Any) -> bool:
        return type(array) not in CONCRETE and isinstance(array, jax.core.Tracer)

    def attach(self, variable_type: type, snapshot_type: type) -> None:
        register(variable_type, snapshot_type)

    # -- dtypes, shapes and devices -------------------------------------------------------------------

    def dtype(self, name: str) -> Any:
        if name == "string":
            raise DTypeError.of("dtype", "JAX cannot store strings", hint="use backend='numpy'")
        if name in _WIDE and not _has_64_bits():
            raise DTypeError.of(
                "dtype",
                f"JAX has {name} only with 64 bits enabled",
                hint=f"pass dtype={_WIDE[name]!r}, or call jax.config.update('jax_enable_x64', True) first",
            )
        return key_dtype(name) if name in KEYS else HOST[name]

    def default_dtype(self, name: str) -> str:
        return name if _has_64_bits() else _WIDE.get(name, name)

    def device(self, name: Any) -> Any:
        if name is None:
            return jax.config.values.get("jax_default_device") or jax.local_devices()[0]
        if isinstance(name, jax.sharding.Sharding) and len(name.device_set) > 1:
            raise DeviceError.of(
                "device",
                f"expected one device, got a sharding over {len(name.device_set)} devices",
                hint="pass it as sharding=, to spread the variable over them; or pass one of jax.local_devices()",
            )
        if any(hasattr(name, each) for each in ("platform", "device_set", "sharding", "kind")):  # an object of JAX
            return name
        platform, index = parse_device(name)
        try:  # of those of this process: no other process can read what lies on the others
            return jax.local_devices(backend=platform)[index]
        except (RuntimeError, IndexError):
            known = ", ".join(repr(self.device_name(each)) for each in jax.local_devices())
            raise no_such_device(name, known) from None

    def device_of(self, array: Any) -> Any:
        if isinstance(array, np.ndarray):  # an operand, which JAX will put there
            return self.device(None)
        while isinstance(array, _Tracer):
            if (array := getattr(array, "primal", None)) is None:  # of a gradient; of a program it may be any device
                return None
        return array.sharding if len(array.sharding.device_set) > 1 else next(iter(array.sharding.device_set))

    def device_name(self, device: Any) -> str:
        if not hasattr(device, "platform"):
            return sharding_name(device)  # of an operand or a view that is spread
        platform = device.platform.upper()
        if device.process_index != jax.process_index():
            return f"{platform}:{device.id} of process {device.process_index}"  # no name that `device` accepts
        return f"{platform}:{jax.local_devices(backend=device.platform).index(device)}"

    def devices(self) -> list[Any]:
        found = jax.local_devices()
        return found if found[0].platform == "cpu" else [*found, *jax.local_devices(backend="cpu")]

    def holds(self, device: Any, dtype: str) -> bool:
        platform = getattr(device, "platform", "cpu")  # a sharding of one device has none
        return platform == "cpu" or dtype in KEYS or _stores(device, dtype)

    def spread(self, value: Any) -> Spread | None:
        if isinstance(value, _Tracer) or (isinstance(value, jax.Array) and _is_readable(value)):
            return None  # a variable that has a value moves it to its device
        return _spread(value)

    def placement(self, value: Any, spec: Any, mesh: Any) -> tuple[Backend, Any] | None:
        if spec is None:
            spec = natural_sharding(value)
            if spec is None:
                return None
        sharded = import_module(f"{__package__}.sharding").SHARDED  # a class made of the one here
        return sharded, sharded.sharding(spec, mesh)

    def unreadable(self, value: Any) -> Unreadable | None:
        if not is_key(value) or str(value.dtype) in KEYS:
            return None
        problem = f"a key, and a variable can store those of JAX's own implementations, and not {value.dtype}"
        hint = "store its numbers, jax.random.key_data(key), and use jax.random.wrap_key_data(v.value)"
        return Unreadable(problem, hint)

    def spread_handle(self, handle: Any) -> Spread | None:
        return None if type(handle.array.sharding) is _SingleDevice else _spread(handle.array)

    # -- conversion ------------------------------------------------------------------------------------

    def operand(self, value: Any, dtype: Any) -> Any | None:
        if type(value) in CONCRETE and type(value.sharding) is _SingleDevice and not value.weak_type:
            return value if value.dtype == dtype else None
        if isinstance(value, jax.Array) and value.dtype == dtype and not isinstance(value, _Tracer):
            if type(value.sharding) is not _SingleDevice and not value.is_fully_addressable:
                return brought_home(value, _local(), committed=False) if value.is_fully_replicated else None
            try:
                return jax.lax.convert_element_type(value, dtype) if value.weak_type else value
            except AttributeError:  # a key has no such attribute
                return value
        return None

    def from_host(self, array: HostArray, device: Any) -> Any:
        # jit takes a NumPy array as it is, in less time than it takes to make a JAX array (6.7 against 18 us). It may
        # read the array later, so it gets a copy that the caller cannot change.
        return np.array(array) if array.dtype.names is None else unpacked(array)

    def to_host(self, array: Any) -> HostArray:
        try:
            return np.asarray(array)
        except TypeError as error:
            if not is_key(array):
                raise
            raise keys_are_no_numbers("np.asarray", str(array.dtype)) from error

    def packed(self, array: Any) -> HostArray:
        return packed(array, self.dtype_name(array)) if is_key(array) else self.to_host(array)

    def import_array(self, array: Any, dtype: Any = None) -> Any:
        return array if isinstance(array, jax.Array) else jnp.asarray(array, dtype)

    def cast(self, array: Any, dtype: Any) -> Any:
        return jax.lax.convert_element_type(array, dtype)

    def without_weak_type(self, array: Any) -> Any:
        weak = getattr(array, "weak_type", False)  # which a key does not have
        return jax.lax.convert_element_type(array, array.dtype) if weak else array

    def as_immutable(self, array: Any, *, fresh: bool) -> Any:
        return array if fresh else _copied(array)

    def copied(self, array: Any) -> Any:
        try:
            # Without a device the copy is where the array is, in half the time.
            return self.snapshot(self.create(array, declared=array.shape, device=None, trainable=False))
        except (RuntimeError, ValueError) as error:
            if not self.is_lost(array):
                raise
            problem = "the array was donated to a program, or deleted, so the value no longer exists"
            hint = "restore a snapshot, load a checkpoint, or make the object anew"
            raise UninitializedError.of("read", problem, hint=hint) from error

    def over_host(self, array: HostArray, device: Any) -> Any:
        # As `jax.device_put`, which takes three times as long: the array is over the memory, if that is aligned. It is
        # no part of a program that is being traced.
        place = jax.sharding.SingleDeviceSharding(device)
        return jax.make_array_from_callback(array.shape, place, lambda _: array)

    def moved(self, array: Any, device: Any) -> Any:
        if isinstance(device, jax.sharding.Sharding) and len(device.device_set) > 1:
            return on_devices_of(array, device)
        return to_device(array, device)

    def are_apart(self, left: Any, right: Any) -> bool:
        if is_concrete(left) and is_concrete(right) and same_place(left, right):
            return False
        places = self.device_of(left), self.device_of(right)  # None of a traced array, a sharding of a spread one
        return places[0] != places[1] and all(hasattr(each, "platform") for each in places)

    def beside(self, array: Any, other: Any) -> Any:
        return beside(array, other)

    def in_range(self, before: Any, after: Any) -> bool:
        if isinstance(after, jax.core.Tracer):
            return not is_integer(self.dtype_name(after))
        if is_integer(self.dtype_name(after)):
            same = after.astype(before.dtype) == before
            return bool((same & ((after < 0) == (before < 0))).all())
        return bool((jnp.isfinite(after) | ~jnp.isfinite(before)).all())

    def namespace(self) -> Any:
        return jnp

    def dlpack(self, array: Any, request: dict[str, Any]) -> Any:
        if is_key(array):
            raise keys_are_no_numbers("dlpack", str(array.dtype))
        return super().dlpack(array, request)

    def dlpack_device(self, array: Any) -> tuple[int, int]:
        if is_key(array):
            raise keys_are_no_numbers("dlpack", str(array.dtype))
        return super().dlpack_device(array)

    def round(self, array: Any, decimals: int) -> Any:
        return jnp.round(array, decimals)

    # -- a handle's life ---------------------------------------------------------------------------------

    def create(self, array: Any, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if self.tracing.is_tracing():  # the variable gets a real array although JAX traces
            with self.tracing.outside_trace():
                return self._create(array, device)
        return self._create(array, device)

    def _create(self, array: Any, device: Any) -> Any:
        if isinstance(array, np.ndarray):
            return _Handle(_of_host(array) if device is None else jax.device_put(array.copy(), device))
        return _Handle(_copied(array if device is None else to_device(array, device)))

    def create_from(self, first: FirstValue, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if self.tracing.is_tracing():  # as in `create`
            with self.tracing.outside_trace():
                return self._create_from(first, device)
        return self._create_from(first, device)

    def _create_from(self, first: FirstValue, device: Any) -> Any:
        if first.dtype in KEYS and isinstance(first, Made):
            return self._create(unpacked(first.array), device)
        if isinstance(first, Made) and not isinstance(first.array, np.ndarray):
            return self._create(first.array, device)
        array = made(first, device)
        return self._create(first.to_host(), device) if array is None else _Handle(array)

    def relocated(self, handle: Any, array: Any, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        # On the old device it has the memory of a snapshot, which somebody may have.
        return _Handle(array, published=array if same_place(array, handle.array) else None)

    def device_of_handle(self, handle: Any) -> Any:
        return self.device_of(handle.array)

    def sharding_on(self, device: Any) -> Any:
        # Of a view, or of a variable that has followed the scope of `jax.set_mesh`.
        return device if isinstance(device, jax.sharding.Sharding) else None

    def snapshot(self, handle: Any) -> Any:
        array = handle.array
        try:
            if array.is_ready():
                array.block_until_ready()  # at once; it raises if the device has failed to compute the value
        except AttributeError:  # a key does not tell
            pass
        handle.published = array
        return array

    is_destroyed = operator.methodcaller("is_deleted")

    def is_lost(self, array: Any) -> bool:
        return isinstance(array, jax.Array) and not isinstance(array, jax.core.Tracer) and bool(array.is_deleted())

    def snapshot_within_write(self, handle: Any) -> Any:
        array = handle.fresh[0] if handle.fresh else handle.present
        if array.is_deleted() and (written := result_for(handle)) is not None:
            array = written
        if not array.is_deleted():
            return jnp.copy(array)
        raise ReentrantWriteError.of(
            "read",
            "a write of this thread is under way: JAX has destroyed the old value and not yet returned the new one",
            hint="read the variable before or after the write",
        )

    def is_computed(self, array: Any) -> bool:
        # An array that shares memory with anybody else is complete when it is made. (On an accelerator it need not be.)
        return is_concrete(array) and not array.is_ready() and bool(array.platform() == "cpu")

    def assign(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        old = handle.array
        if isinstance(x, np.ndarray):
            return _Handle(like(_of_host(x), old))
        moved = like(x, old)
        if _op is not None:  # computed from the variable's own value, so nobody can write its memory
            return _Handle(moved, published=moved)
        if moved.size <= _SMALL or handle.published is not None or old.shape != moved.shape or not _is_whole(old):
            return _Handle(_copied(moved))
        kept: list[Any] = []
        handle.fresh = kept
        try:
            return _Handle(settled(store(kept, _replace_donating, old, moved), moved))
        except BaseException:
            _rescue(handle, kept)
            raise

    def apply(self, handle: Any, x: Any, op: Operation, _where: Any = None) -> Any:
        x = beside(x, handle.array)
        if handle.published is not None:
            return _Handle(settled(_apply[op](handle.array, x), x))
        array = handle.array
        kept: list[Any] = []
        handle.fresh = kept
        try:
            return _Handle(settled(store(kept, _apply_donating[op], array, x), x))
        except BaseException:
            _rescue(handle, kept)
            raise

    def put(self, handle: Any, x: Any, operation: str, where: Selection) -> Any:
        if handle.published is not None:
            new = self.compute_put(handle.array, x, operation, where)
            return handle if new is handle.array else _Handle(new)
        array = handle.array
        if is_spread(array):
            return _Handle(self.compute_put(array, x, operation, where))
        if type(where) is not rows.OwnRows:  # for which `rows.put` asks the same in less time
            if 0 in (where.shape if where.mask is None else where.of_shape):
                return handle
            x, where = beside(x, array), _indices_beside(where, array)
        kept: list[Any] = []
        handle.fresh = kept
        try:
            return _Handle(settled(rows.put(kept, array, x, operation, where, donate=True), x, _ids_of(where)))
        except BaseException:
            _rescue(handle, kept)
            raise

    def redeclare(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        return self.assign(handle, x, _op)

    def write_all(self, handles: list[Any], xs: list[Any], op: Operation | None, began: list[bool]) -> bool:
        arrays = [handle.array for handle in handles]
        donate = all(handle.published is None for handle in handles) and _are_whole(arrays)
        if not (_has_64_bits() or _WIDE.keys().isdisjoint(map(str, {array.dtype for array in arrays}))):
            return False
        return write_all(handles, arrays, xs, op, began, donate=donate)

    def fork(self, handle: Any, array: Any) -> Any:
        if array is None:  # whether it is whole is no matter: it may be replaced
            array = handle.published = handle.array
        return handle if array is handle.published else _Handle(array, published=array)

    def fork_from_host(self, handle: Any, array: HostArray) -> Any:
        # Aliases the memory if it is aligned, and never donates what it aliases.
        made = jnp.asarray(array) if array.dtype.names is None else unpacked(array)
        return _Handle(like(made, handle.array))

    def adopt(self, handle: Any, other: Any) -> Any:
        return other

    def compute(self, old: Any, x: Any, op: Operation) -> Any:
        x = beside_spread(x, old.sharding, old.shape) if is_spread(old) else beside(x, old)
        return settled(op(old, x), x)

    def compute_put(self, old: Any, x: Any, operation: str, where: Selection) -> Any:
        if 0 in (where.shape if where.mask is None else where.of_shape):
            return old
        if is_spread(old):  # of a view
            return settled(sharded_rows.put([], old, x, operation, where, donate=False), x)
        x = beside(x, old)
        new = rows.put([], old, x, operation, _indices_beside(where, old), donate=False)
        return settled(new, x, _ids_of(where))

    def get(self, array: Any, where: Selection) -> Any:
        if is_spread(array):
            return sharded_rows.get(array, where)
        return rows.get(array, _indices_beside(where, array))

    marks_reads = True

    def get_within(self, handle: Any, where: Selection) -> Any | None:
        array = handle.array
        if not is_concrete(array):
            return None
        try:
            if array.is_ready():
                array.block_until_ready()  # at once; it raises if the device has failed to compute the value
                if type(where) is rows.OwnRows:
                    return rows.get_at_once(array, where)
            return rows.get(array, _indices_beside(where, array))
        except Exception:
            if array.is_deleted():  # a signal handler has written the variable in the middle of this
                return None
            raise

    def select_rows(self, index: Any, shape: Shape) -> Selection | None:
        return None if indices.on_host else rows.select_rows(index, shape)

    def takes_index(self, part: Any) -> bool:
        return indices.takes_index(part) and not self.tracing.is_tracing()

    def is_outside(self, parts: list[tuple[Any, int]]) -> bool:
        return indices.is_outside(parts)

    def count_nonzero(self, mask: Any) -> int:
        return indices.count_nonzero(mask)

    drifts = True

    def stored(self, handle: Any, dtype: str, writing: bool) -> Stored | None:
        if not writing or dtype not in _WIDE or _has_64_bits():
            return None
        return Stored(
            dtype,
            (),
            "write it in `with jax.enable_x64(True):`, or call jax.config.update('jax_enable_x64', True) first",
            f"the variable was made with 64 bits enabled, and now JAX would store {_WIDE[dtype]} and not {dtype}",
            DTypeError,
        )

    def unseen_writes(self, handle: Any) -> int:
        handle.array  # noqa: B018  # if a compiled program has the array, this updates the variable's version
        return 0

    # -- the processes of a distributed program ----------------------------------------------------------

    facts = operator.attrgetter("dtype", "shape", "sharding")

    def processes(self) -> int:
        return collectives.processes()

    def runs_per_shard(self) -> bool:
        return collectives.manual_axes() is not None

    def all_reduce(self, arrays: Sequence[Any], reduction: str) -> list[Any]:
        return collectives.all_reduce(arrays, reduction)


@functools.cache
def _stores(device: Any, dtype: str) -> bool:
    """Whether JAX can put values of a dtype on an accelerator and copy them there, as a variable does."""
    try:
        _copy(jax.device_put(np.zeros(1, HOST[dtype]), device)).block_until_ready()
    except Exception:  # noqa: BLE001  # each plugin of JAX has errors of its own
        return False
    return True


# Compiled on first use, once for each shape; the donating functions write in place.
_apply = {op: jax.jit(op) for op in _CLOSED}
_apply_donating = {op: jax.jit(op, donate_argnums=0) for op in _CLOSED}
_copy = jax.jit(jnp.copy)


def _second(_: Any, x: Any) -> Any:
    return jnp.copy(x)


_replace_donating = jax.jit(_second, donate_argnums=0, keep_unused=True)


def _copied(array: Any) -> Any:
    """A copy of an array whose memory somebody else may write."""
    copy = _copy(array)
    if isinstance(copy, jax.core.Tracer):
        return copy  # XLA removes the copy, unless the program would return one of its arguments
    settled(copy, array)
    # The compiler may place the copy elsewhere than the array, for instance an array in pinned memory.
    return copy if same_place(copy, array) else jax.device_put(array, array.sharding, may_alias=False)


def _of_host(array: HostArray) -> Any:
    """A JAX array with a copy of a NumPy array."""
    if array.size > _SMALL:
        return jnp.array(array)
    copy = _copy(array)  # in a third of the time
    if is_concrete(copy) and not copy.is_ready():
        copy.block_until_ready()  # it may read the array later
    return copy


def _is_whole(array: Any) -> bool:
    """Whether an array is known to be computed. One that failed would pass its error on, if it were donated."""
    if not hasattr(array, "is_ready"):
        return False  # a key does not tell, and is too small to be worth it
    if not array.is_ready():
        return False
    try:
        array.block_until_ready()
    except FAILED:
        return False
    return True


def _are_whole(arrays: list[Any]) -> bool:
    """Whether all arrays are whole, as in `_is_whole`, in half the time."""
    try:
        if not all(map(_is_ready, arrays)):
            return False
        _wait(arrays)
    except (AttributeError, FAILED):
        return False
    return True


def _rescue(handle: _Handle, kept: list[Any]) -> None:
    """Stores the result of a donating call that Ctrl-C interrupted, since the old array no longer exists."""
    if kept:
        handle.array = kept[0]
    handle.fresh = None


def _has_64_bits() -> bool:
    return bool(getattr(jax.config, "jax_enable_x64"))  # noqa: B009  # not in its stubs


def _local() -> Any:
    return jax.sharding.SingleDeviceSharding(BACKEND.device(None))


def _is_readable(array: Any) -> bool:
    return bool(array.is_fully_addressable or array.is_fully_replicated)


def _spread(array: Any) -> Spread | None:
    devices = array.sharding.device_set
    if array.is_fully_addressable and len(devices) == 1:
        return None
    if array.is_fully_addressable:
        hint = "pass jax.device_put(x, jax.local_devices()[0]), or give the variable a device: device='CPU:0'"
        return Spread(f"a JAX array over {len(devices)} devices ({array.sharding})", hint)
    hint = "pass sv.gather(x), on every process; or a value that is the same in all of them"
    return Spread(f"a JAX array of which other processes have a part ({array.sharding})", hint)


def _ids_of(where: Selection) -> Any:
    """The JAX array of an index, which a program may read after it has been called, or None."""
    return getattr(where, "given", None)


def _indices_beside(where: Selection, array: Any) -> Selection:
    """The selection with its arrays on the device of the variable's array."""
    if not isinstance(where, OwnSelection):
        return where
    parts = [where.mask, *where.index]
    moved = [beside(part, array) if isinstance(part, jax.Array) else part for part in parts]
    if all(new is old for new, old in zip(moved, parts, strict=True)):
        return where
    return OwnSelection(
        BACKEND, tuple(moved[1:]), where.of_shape, moved[0], None if moved[0] is not None else where.shape
    )


BACKEND = JAXBackend()
