"""JAX: immutable arrays; a write donates the old array if it was never handed out.

``published`` also marks an array that has been handed out, which a write must not donate. Reference counts would not
do: ``device_put`` and ``addressable_data`` make aliases that do not show in the count and become invalid when the array
is donated.

An array that comes in is copied. It cannot be written itself, but ``jax.device_put`` and ``jax.dlpack.from_dlpack``
make arrays that share the memory of somebody who can write it, and JAX does not tell which arrays those are.
"""

from __future__ import annotations

import operator
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.backend import Backend
from ..._arrays.dtypes import HOST, KEYS, is_integer, keys_are_no_numbers
from ..._arrays.first_values import FirstValue, Made
from ..._arrays.host import ONE_BY_ONE, combine
from ..._arrays.indexing import OwnSelection, Selection, last_of_each, turns
from ..._arrays.placement import Spread, no_such_device, parse_device
from ..._arrays.shapes import DeclaredShape
from ..._arrays.stored import Stored
from ..._arrays.types import HostArray, Operation
from ...errors import DeviceError, DTypeError, ReentrantWriteError
from .first_values import made
from .indices import count_nonzero, get_own, is_outside, program_of_put, takes_index
from .keys import is_key, key_dtype, packed, unpacked
from .pytree import register
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


_Tracer = jax.core.Tracer
_Failed: type[Exception] = getattr(jax.errors, "JaxRuntimeError", RuntimeError)
#: The elements of an array from which a write asks whether memory is short; a smaller one is written too quickly.
_LARGE = 1 << 20
_SingleDevice = jax.sharding.SingleDeviceSharding


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
    late_errors = (_Failed,)
    tracing = TRACING

    # -- whose is it ---------------------------------------------------------------------------------

    def owns(self, value: Any) -> bool:
        return isinstance(value, jax.Array)

    def is_symbolic(self, array: Any) -> bool:
        return isinstance(array, jax.core.Tracer)

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

    def dtype_name(self, array: Any) -> str:
        try:
            return super().dtype_name(array)
        except DTypeError as error:
            if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
                raise
            raise DTypeError.of(
                "dtype",
                f"a variable can store the keys of JAX's own implementations, and not {array.dtype}",
                hint="store its numbers, jax.random.key_data(key), and use jax.random.wrap_key_data(v.value)",
            ) from error

    def device(self, name: Any) -> Any:
        if name is None:
            return jax.config.values.get("jax_default_device") or jax.local_devices()[0]
        if isinstance(name, jax.sharding.Sharding) and len(name.device_set) > 1:
            raise DeviceError.of(
                "device",
                f"expected one device, got a sharding over {len(name.device_set)} devices",
                hint="pass one of jax.local_devices(); a variable is stored in one place",
            )
        if not isinstance(name, str):
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
            return str(device)
        platform = device.platform.upper()
        if device.process_index != jax.process_index():
            return f"{platform}:{device.id} of process {device.process_index}"  # no name that `device` accepts
        return f"{platform}:{jax.local_devices(backend=device.platform).index(device)}"

    def spread(self, value: Any) -> Spread | None:
        if isinstance(value, _Tracer) or (isinstance(value, jax.Array) and value.is_fully_addressable):
            return None  # a variable that has a value moves it to its device
        return _spread(value)

    def spread_handle(self, handle: Any) -> Spread | None:
        return None if type(handle.array.sharding) is _SingleDevice else _spread(handle.array)

    # -- conversion ------------------------------------------------------------------------------------

    def operand(self, value: Any, dtype: Any) -> Any | None:
        if isinstance(value, jax.Array) and value.dtype == dtype and not isinstance(value, _Tracer):
            if type(value.sharding) is not _SingleDevice and not value.is_fully_addressable:
                return None
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

    def moved(self, array: Any, device: Any) -> Any:
        return jax.device_put(array, device)

    def beside(self, array: Any, other: Any) -> Any:
        return _beside(array, other)

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
            fresh = jnp.array(array) if device is None else jax.device_put(array.copy(), device)
            return _Handle(fresh)
        return _Handle(_copied(array if device is None else jax.device_put(array, device)))

    def create_from(self, first: FirstValue, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if self.tracing.is_tracing():  # as in `create`
            with self.tracing.outside_trace():
                return self._create_from(first, device)
        return self._create_from(first, device)

    def _create_from(self, first: FirstValue, device: Any) -> Any:
        if isinstance(first, Made) and not isinstance(first.array, np.ndarray):
            return self._create(first.array, device)
        array = made(first, device)
        return self._create(first.to_host(), device) if array is None else _Handle(array)

    def device_of_handle(self, handle: Any) -> Any:
        return self.device_of(handle.array)

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
        if not array.is_deleted():
            return jnp.copy(array)
        raise ReentrantWriteError.of(
            "read",
            "a write of this thread is under way: JAX has destroyed the old value and not yet returned the new one",
            hint="read the variable before or after the write",
        )

    def assign(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        old = handle.array
        if isinstance(x, np.ndarray):
            return _Handle(_like(jnp.array(x), old))
        moved = _like(x, old)
        if _op is not None:  # computed from the variable's own value, so nobody can write its memory
            return _Handle(moved, published=moved)
        if handle.published is not None or old.shape != moved.shape or not _is_whole(old):
            return _Handle(_copied(moved))
        kept: list[Any] = []
        handle.fresh = kept
        try:
            return _Handle(_settled(_store(kept, _replace_donating, old, moved), moved))
        except BaseException:
            _rescue(handle, kept)
            raise

    def apply(self, handle: Any, x: Any, op: Operation, _where: Any = None) -> Any:
        x = _beside(x, handle.array)
        if handle.published is not None:
            return _Handle(_settled(_apply[op](handle.array, x), x))
        array = handle.array
        kept: list[Any] = []
        handle.fresh = kept
        try:
            return _Handle(_settled(_store(kept, _apply_donating[op], array, x), x))
        except BaseException:
            _rescue(handle, kept)
            raise

    def put(self, handle: Any, x: Any, operation: str, where: Selection) -> Any:
        if not isinstance(where, OwnSelection) and 0 in where.shape:
            return handle
        if handle.published is not None:
            return _Handle(_settled(_put(handle.array, x, operation, where, donate=False), x))
        array = handle.array
        kept: list[Any] = []
        handle.fresh = kept
        try:
            return _Handle(_settled(_put(array, x, operation, where, donate=True, kept=kept), x))
        except BaseException:
            _rescue(handle, kept)
            raise

    def redeclare(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        return self.assign(handle, x, _op)

    def fork(self, handle: Any, array: Any) -> Any:
        if array is None:  # whether it is whole is no matter: it may be replaced
            array = handle.published = handle.array
        return handle if array is handle.published else _Handle(array, published=array)

    def fork_from_host(self, handle: Any, array: HostArray) -> Any:
        # Aliases the memory if it is aligned, and never donates what it aliases.
        made = jnp.asarray(array) if array.dtype.names is None else unpacked(array)
        return _Handle(_like(made, handle.array))

    def adopt(self, handle: Any, other: Any) -> Any:
        return other

    def compute(self, old: Any, x: Any, op: Operation) -> Any:
        x = _beside(x, old)
        return _settled(op(old, x), x)

    def compute_put(self, old: Any, x: Any, operation: str, where: Selection) -> Any:
        if not isinstance(where, OwnSelection) and 0 in where.shape:
            return old
        return _settled(_put(old, x, operation, where, donate=False), x)

    def get(self, array: Any, where: Selection) -> Any:
        if where.basic:
            return array[where.index]
        if isinstance(where, OwnSelection):
            return get_own(array, _own_beside(where, array))
        if not where.of_shape:
            return array.reshape(1)[where.flat()]
        return array[where.coordinates()]

    def takes_index(self, part: Any) -> bool:
        return takes_index(part) and not self.tracing.is_tracing()

    def is_outside(self, indices: list[tuple[Any, int]]) -> bool:
        return is_outside(indices)

    def count_nonzero(self, mask: Any) -> int:
        return count_nonzero(mask)

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
    _settled(copy, array)
    # The compiler may place the copy elsewhere than the array, for instance an array in pinned memory.
    return copy if copy.sharding == array.sharding else jax.device_put(array, array.sharding, may_alias=False)


def _settled(result: Any, x: Any) -> Any:
    """Waits for the result if JAX may read ``x`` later, and the caller may write the memory of ``x`` before that.

    JAX computes while Python goes on. An array that shares the memory of a NumPy array is complete when it is made, so
    nothing waits for an ``x`` that is still being computed; nor on an accelerator, which computes in order. But where
    memory is short, an accelerator may have failed to make the result, and only waiting for it tells.
    """
    if isinstance(result, jax.core.Tracer):
        return result
    if not hasattr(result, "is_ready"):  # a key, which does not tell, and is soon computed
        if next(iter(result.sharding.device_set)).platform == "cpu":
            with suppress(_Failed):  # as below
                result.block_until_ready()
        return result
    known: Any = x if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) else None
    reads_later = known is not None and known.is_ready() and not result.is_ready() and result.platform() == "cpu"
    if result.size >= _LARGE and _is_memory_short(result):
        result.block_until_ready()
    elif reads_later:
        with suppress(_Failed):  # the next read names what could not be computed
            result.block_until_ready()
    return result


def _is_whole(array: Any) -> bool:
    """Whether an array is known to be computed. One that failed would pass its error on, if it were donated."""
    if not hasattr(array, "is_ready"):
        return False  # a key does not tell, and is too small to be worth it
    if not array.is_ready():
        return False
    try:
        array.block_until_ready()
    except _Failed:
        return False
    return True


def _is_memory_short(array: Any) -> bool:
    """Whether a new array is larger than half of what is free, so that it may have failed already."""
    if isinstance(array, _Tracer):
        return False
    free = _free_memory(array)
    return free is not None and array.nbytes > free / 2


def _free_memory(array: Any) -> int | None:
    """The free bytes of the device of an array; None where JAX does not tell, as on the host."""
    stats = next(iter(array.sharding.device_set)).memory_stats()
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats and "bytes_limit" in stats else None


def _store(kept: list[Any], function: Any, *arguments: Any) -> Any:
    """Calls ``function(*arguments)``; C code stores the result before Python looks for signals."""
    kept.extend(map(function, *((each,) for each in arguments)))
    return kept[0]


def _rescue(handle: _Handle, kept: list[Any]) -> None:
    """Stores the result of a donating call that Ctrl-C interrupted, since the old array no longer exists."""
    if kept:
        handle.array = kept[0]
    handle.fresh = None


def _has_64_bits() -> bool:
    return bool(getattr(jax.config, "jax_enable_x64"))  # noqa: B009  # not in its stubs


def _put_block(array: Any, x: Any, starts: Any, *, operation: str, sizes: tuple[int, ...], shape: Any) -> Any:
    old = jax.lax.dynamic_slice(array, starts, sizes)
    new = combine(operation, old.reshape(shape), x, jnp.minimum, jnp.maximum)
    return jax.lax.dynamic_update_slice(array, jnp.broadcast_to(new, shape).reshape(sizes), starts)


def _put_scattered(array: Any, x: Any, coordinates: Any, *, operation: str) -> Any:
    return getattr(array.at[coordinates], operation)(x, mode="drop")


def _put_turn(array: Any, x: Any, coordinates: Any, *, operation: str) -> Any:
    new = combine(operation, array[coordinates], x, jnp.minimum, jnp.maximum)
    return array.at[coordinates].set(new, mode="drop")


def _put_masked(array: Any, x: Any, mask: Any) -> Any:
    return jnp.where(mask, x, array)


_BLOCK = {
    donate: jax.jit(_put_block, static_argnames=("operation", "sizes", "shape"), donate_argnums=(0,) if donate else ())
    for donate in (False, True)
}
_SCATTERED = {
    donate: jax.jit(_put_scattered, static_argnames="operation", donate_argnums=(0,) if donate else ())
    for donate in (False, True)
}
_TURN = {
    donate: jax.jit(_put_turn, static_argnames="operation", donate_argnums=(0,) if donate else ())
    for donate in (False, True)
}
_MASKED = {donate: jax.jit(_put_masked, donate_argnums=(0,) if donate else ()) for donate in (False, True)}


def _put(array: Any, x: Any, operation: str, where: Selection, *, donate: bool, kept: list[Any] | None = None) -> Any:
    x = _beside(x, array)
    kept = [] if kept is None else kept
    if isinstance(where, OwnSelection):
        one_by_one = operation in ONE_BY_ONE and not (where.mask is not None and not np.ndim(x))
        if array.size < 2**31 and not one_by_one:
            put, rest = program_of_put(x, operation, _own_beside(where, array), donate=donate)
            return _store(kept, put, array, x, *rest)
        # A position in the array may not fit into JAX's integers; or repeated ones must be found.
        where = where.on_host()
    if len(where.index) == 1 and operation == "set" and x.ndim == 0:
        mask = where.index[0]
        if isinstance(mask, np.ndarray) and mask.dtype == np.bool_ and mask.shape == array.shape:
            return _store(kept, _MASKED[donate], array, x, mask)
    if (block := where.block()) is not None:
        starts, sizes = block
        put = partial(_BLOCK[donate], operation=operation, sizes=sizes, shape=where.shape)
        return _store(kept, put, array, x, starts)
    if not where.of_shape:  # a scalar has no coordinates
        line = Selection((where.flat(),), (1,))
        return _put(array.reshape(1), x, operation, line, donate=False).reshape(())
    coordinates = [line.reshape(-1).astype(np.int32) for line in where.coordinates()]
    values = x if isinstance(x, np.ndarray) else jnp.asarray(x)
    values = (np if isinstance(values, np.ndarray) else jnp).broadcast_to(values, where.shape).reshape(-1)
    if operation == "set":
        keep = last_of_each(where.flat())
        coordinates = [line[keep] for line in coordinates]
        values = values[keep]
    if operation in ONE_BY_ONE:
        for number, turn in enumerate(turns(where.flat().reshape(-1))):
            at, part = [line[turn] for line in coordinates], values[turn]
            if isinstance(part, np.ndarray):
                at, part = _padded(at, part, array.shape)
            # The first turn leaves the array as it is, to which an interrupt between two turns goes back.
            array = _TURN[donate and number > 0](array, part, tuple(at), operation=operation)
        return array
    if isinstance(values, np.ndarray):
        coordinates, values = _padded(coordinates, values, array.shape)
    return _store(kept, partial(_SCATTERED[donate], operation=operation), array, values, tuple(coordinates))


def _padded(coordinates: list[Any], values: Any, shape: Any) -> tuple[list[Any], Any]:
    """Rounds the number of elements up to a power of two with elements that fall outside and are dropped.

    JAX compiles for each number of elements; a mask selects another number each time.
    """
    missing = (1 << (values.size - 1).bit_length()) - values.size
    if not missing:
        return coordinates, values
    outside = [np.full(missing, size, np.int32) for size in shape]
    padded = [np.concatenate(pair) for pair in zip(coordinates, outside, strict=True)]
    return padded, np.concatenate([values, np.zeros(missing, values.dtype)])


def _spread(array: Any) -> Spread | None:
    devices = array.sharding.device_set
    if array.is_fully_addressable and len(devices) == 1:
        return None
    if array.is_fully_addressable:
        hint = "pass jax.device_put(x, jax.local_devices()[0]), or give the variable a device: device='CPU:0'"
        return Spread(f"a JAX array over {len(devices)} devices ({array.sharding})", hint)
    hint = "pass the part of this process: x.addressable_data(0), or a value that is the same in all processes"
    return Spread(f"a JAX array of which other processes have a part ({array.sharding})", hint)


def _like(x: Any, array: Any) -> Any:
    """Moves ``x`` to the devices of the variable's array."""
    if x.sharding == array.sharding:
        return x
    return jax.device_put(x, array.sharding)


def _own_beside(where: OwnSelection, array: Any) -> OwnSelection:
    """The selection with its arrays on the device of the variable's array."""
    parts = [where.mask, *where.index]
    moved = [_beside(part, array) if isinstance(part, jax.Array) else part for part in parts]
    if all(new is old for new, old in zip(moved, parts, strict=True)):
        return where
    return OwnSelection(
        BACKEND, tuple(moved[1:]), where.of_shape, moved[0], None if moved[0] is not None else where.shape
    )


def _beside(x: Any, array: Any) -> Any:
    """Moves ``x`` to the device of the variable's array, if it is committed to another device."""
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer) or isinstance(array, jax.core.Tracer):
        return x
    if x.sharding == array.sharding:
        return x
    devices = array.sharding.device_set
    if x.sharding.device_set == devices or len(devices) > 1:
        return x
    return jax.device_put(x, next(iter(devices)))


BACKEND = JAXBackend()
