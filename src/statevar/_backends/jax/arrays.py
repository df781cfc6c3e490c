"""What JAX's arrays tell of themselves, asked as rarely as possible; moves, waits, and calls that donate an array.

An attribute of a JAX array takes 0.05 to 0.3 us, where a compiled function of a small array takes 5 us.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import starmap
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "CONCRETE",
    "FAILED",
    "are_together",
    "beside",
    "brought_home",
    "is_concrete",
    "is_memory_short",
    "is_on_host",
    "is_spread",
    "like",
    "same_place",
    "settled",
    "store",
    "to_device",
]

_OneDevice = jax.sharding.SingleDeviceSharding
FAILED: Final[type[Exception]] = getattr(jax.errors, "JaxRuntimeError", RuntimeError)
#: The elements of an array from which a write asks whether memory is short; a smaller one is written too quickly.
_LARGE = 1 << 20

#: The types of arrays of numbers that have values, as far as `is_concrete` has met them. JAX names no such type.
CONCRETE: Final[set[type]] = set()


def is_concrete(x: Any) -> bool:
    """Whether something is a JAX array of numbers with a value: it is neither traced, nor has it keys."""
    return type(x) in CONCRETE or _learns(x)


def is_on_host(x: Any) -> bool:
    """Whether an array that `is_concrete` is on the host; one that was destroyed is nowhere.

    JAX 0.10 ends the process by a segmentation fault if it is asked for the platform of a destroyed array.
    """
    return not x.is_deleted() and bool(x.platform() == "cpu")


def is_spread(x: Any) -> bool:
    """Whether something is an array with a value over several devices: in a view, or in the handle of a sharded one."""
    return type(x) in CONCRETE and type(x.sharding) is not _OneDevice and len(x.sharding.device_set) > 1


def _learns(x: Any) -> bool:
    found = isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and hasattr(x, "is_ready")
    if found:
        CONCRETE.add(type(x))
    return found


def store(kept: list[Any], function: Any, *arguments: Any) -> Any:
    """Calls ``function(*arguments)``; C code stores the result before Python looks for signals."""
    kept.extend(starmap(function, (arguments,)))
    return kept[0]


#: Pairs of shardings that are equal, by their ids. JAX compares them in Python, and each program has one of its own.
_equal: dict[tuple[int, int], tuple[Any, Any]] = {}
_MANY = 256


def same_place(x: Any, array: Any) -> bool:
    """Whether two arrays have the same sharding."""
    one, other = x.sharding, array.sharding
    if one is other or (id(one), id(other)) in _equal:
        return True
    if one != other:
        return False
    if len(_equal) >= _MANY:
        _equal.clear()
    _equal[id(one), id(other)] = one, other  # kept, so that the ids stay theirs
    return True


def are_together(array: Any, other: Any, x: Any) -> bool:
    """Whether three arrays are known to be concrete and in one place; ``x`` may be an array of NumPy instead."""
    if type(array) not in CONCRETE or type(other) not in CONCRETE:
        return False
    place, there = array.sharding, other.sharding
    if place is not there and (id(there), id(place)) not in _equal and not same_place(other, array):
        return False
    if type(x) is np.ndarray:
        return True
    if type(x) not in CONCRETE:
        return False
    there = x.sharding
    return place is there or (id(there), id(place)) in _equal or same_place(x, array)


def like(x: Any, array: Any) -> Any:
    """Moves ``x`` to the devices of the variable's array."""
    if same_place(x, array):
        return x
    if len(x.sharding.device_set) > 1 and not getattr(array, "committed", True):  # keys do not tell
        return brought_home(x, array.sharding, committed=False)
    return jax.device_put(x, array.sharding)


def to_device(x: Any, device: Any) -> Any:
    """Moves an array to a device. JAX leaves an array that was spread the type of one, if it is given a device."""
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and type(x.sharding) is not _OneDevice:
        device = device if isinstance(device, jax.sharding.Sharding) else _OneDevice(device)
    return jax.device_put(x, device)


def brought_home(x: Any, home: Any, *, committed: bool) -> Any:
    """Moves an array to one device. A program that computes over several devices makes such arrays of all variables.

    Args:
        committed: whether JAX may not move the result to other devices by itself. It moves the variable to those of the
            others in a program if the variable was not placed by the user.
    """
    with jax.ensure_compile_time_eval():  # while a program is traced, too
        if not x.is_fully_addressable and x.is_fully_replicated:
            x = x.addressable_data(0)  # JAX moves no array to one device of which other processes have a copy
        if committed or not x.is_fully_replicated:
            return jax.device_put(x, home)
        with jax.default_device(next(iter(home.device_set))):
            return jnp.array(np.asarray(x))


def beside(x: Any, array: Any) -> Any:
    """Moves ``x`` to the device of the variable's array, if it is committed to another device."""
    if type(x) in CONCRETE and type(array) in CONCRETE and same_place(x, array):
        return x
    if type(x) not in CONCRETE and (not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer)):
        return x
    if isinstance(array, jax.core.Tracer) or same_place(x, array):
        return x
    devices = array.sharding.device_set
    if x.sharding.device_set == devices or len(devices) > 1:
        return x
    return to_device(x, next(iter(devices)))


def settled(result: Any, *sources: Any) -> Any:
    """Waits for the result if JAX may read a source later, and the caller may write its memory before that.

    JAX computes while Python goes on. An array that shares the memory of a NumPy array is complete when it is made, so
    nothing waits for a source that is still being computed; nor on an accelerator, which computes in order. But where
    memory is short, an accelerator may have failed to make the result, and only waiting for it tells.
    """
    if type(result) not in CONCRETE and not is_concrete(result):
        if not isinstance(result, jax.core.Tracer) and next(iter(result.sharding.device_set)).platform == "cpu":
            with suppress(FAILED):  # a key, which does not tell, and is soon computed
                result.block_until_ready()
        return result
    is_ready, on_host = result.is_ready(), result.platform() == "cpu"
    if is_ready and on_host:
        return result
    if result.size >= _LARGE and is_memory_short(result):
        result.block_until_ready()
    elif not is_ready and on_host and any(is_concrete(each) and each.is_ready() for each in sources):
        with suppress(FAILED):  # the next read names what could not be computed
            result.block_until_ready()
    return result


def is_memory_short(*arrays: Any) -> bool:
    """Whether new arrays are together larger than half of what is free, so that they may have failed already."""
    free = _free_memory(arrays[0])
    return free is not None and sum(array.nbytes for array in arrays) > free / 2


def _free_memory(array: Any) -> int | None:
    """The free bytes of the device of an array; None where JAX does not tell, as on the host."""
    stats = next(iter(array.sharding.device_set)).memory_stats()
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats and "bytes_limit" in stats else None
