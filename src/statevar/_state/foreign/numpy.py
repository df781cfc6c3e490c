"""NumPy: arrays in trees that are views, and the generators of `numpy.random`."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np

from ..._arrays.slots import Adapter, Opened, Shared
from ...errors import DTypeError, ReadOnlyError
from .states import BytesState

__all__ = ["ADAPTER", "ArraySlot"]


class ArraySlot:
    """The slot of an array, which is written in place."""

    backend = "numpy"
    trainable = False
    shared: Shared = "in_place"

    def __init__(self, array: Any) -> None:
        self.thing = array

    def read(self) -> Any:
        """The array itself, or its base class: a variable knows no matrices."""
        return self.thing if type(self.thing) is np.ndarray else np.asarray(self.thing)

    def write(self, array: Any) -> None:
        """Writes the elements in place."""
        if not self.thing.flags.writeable:
            raise ReadOnlyError.of("assign", "the array is read-only", hint="make a view of a writable array")
        self.thing[...] = array

    def version(self) -> None:
        """Returns None: NumPy counts no writes."""


def _open(x: Any) -> Opened:
    if isinstance(x, np.ndarray | np.generic):
        return None
    if isinstance(x, np.random.Generator):
        return _state(x.bit_generator)  # which another generator may share
    return _state(x) if isinstance(x, np.random.RandomState | np.random.BitGenerator) else None


def _open_plain(x: Any) -> Opened:
    if not isinstance(x, np.ndarray):
        return None
    if x.dtype.hasobject:
        problem = f"an array of the dtype {x.dtype} holds references to objects, and is no state of numbers"
        raise DTypeError.of("view", problem, hint="give its elements a dtype: x.astype('float64')")
    return ArraySlot(x)


def _state(holder: Any) -> Opened:
    """The state of a generator as text: a dict of numbers and arrays."""
    return BytesState(holder, partial(_read, holder), partial(_write, holder), room=_ROOM)


def _state_of(holder: Any) -> Any:
    return holder.get_state(legacy=False) if isinstance(holder, np.random.RandomState) else holder.state


def _read(holder: Any) -> bytes:
    return json.dumps(_state_of(holder), default=_as_json).encode()


def _write(holder: Any, data: bytes) -> None:
    state = json.loads(data, object_hook=_array)
    own, other = _state_of(holder)["bit_generator"], state.get("bit_generator")
    if own != other:
        hint = f"make it with the same algorithm: np.random.Generator(np.random.{other}())"
        raise ReadOnlyError.of("assign", f"a generator of {own} cannot take the state of {other}", hint=hint)
    if isinstance(holder, np.random.RandomState):
        holder.set_state(state)
    else:
        holder.state = state


#: For the 624 numbers of a Mersenne twister, of up to ten digits; a state has one shape whatever its numbers are.
_ROOM = 8192


def _as_json(each: Any) -> Any:
    return {"array": each.tolist(), "dtype": str(each.dtype)} if isinstance(each, np.ndarray) else each.item()


def _array(state: dict[str, Any]) -> Any:
    return np.array(state["array"], state["dtype"]) if state.keys() == {"array", "dtype"} else state


ADAPTER = Adapter(_open, _open_plain)
