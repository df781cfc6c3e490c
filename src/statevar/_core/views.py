"""Views: the variables over state of others, one for each thing; and whose parameter an object of a library is."""

from __future__ import annotations

from copy import deepcopy
from itertools import count
from threading import RLock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from .._arrays.dtypes import is_differentiable
from .._arrays.registry import get_backend
from .._arrays.slot_backend import SlotHandle, slot_backend
from .._arrays.slots import Place, Slot, place_of
from ..errors import ForeignStateError
from .cell import Cell
from .foreign import check_readable
from .forks import guarded, register

__all__ = [
    "copied_with_its_thing",
    "is_lent",
    "keep",
    "keep_subscribed",
    "lender_of",
    "lent",
    "owner_of_thing",
    "view_of",
]

_Cell = TypeVar("_Cell", bound=Cell)

#: The variables by the thing whose state they are. A view keeps its thing alive, so no place is used again meanwhile.
_known: WeakValueDictionary[Place, Any] = WeakValueDictionary()
_constrained: dict[int, Cell] = {}
_subscribed: WeakKeyDictionary[Any, Cell] = WeakKeyDictionary()
_lenders: dict[int, ref[Any]] = {}  # the variables that have lent their parameter, by id
_lock = guarded(RLock())  # reentrant, since a finalizer may make a view
_numbers = count(1)


def owner_of_thing(thing: Any) -> Any:
    """The variable whose state a thing is: one of ours that has lent its parameter, or a view; else None."""
    return _known.get(place_of(thing))


def lender_of(thing: Any) -> Any:
    """The variable of ours, and no view, whose parameter a thing is; else None."""
    found = _known.get(place_of(thing))
    return None if found is None or found._backend.is_view else found


def lent(parameter: Any, variable: Any) -> None:
    """Takes note that user code has the parameter of a variable, and may keep it in an object of its library."""
    place = place_of(parameter)
    if _known.get(place) is not variable:
        with _lock:
            _known[place] = variable
        number = id(variable)
        _lenders[number] = ref(variable, lambda _: _lenders.pop(number, None))


def is_lent(variable: Any) -> bool:
    """Whether user code has got the parameter of a variable, and may keep it in an object of its library."""
    found = _lenders.get(id(variable))
    return found is not None and found() is variable


def view_of(slot: Slot, cls: type[_Cell]) -> _Cell:
    """The variable over a slot: the same one for the same thing.

    A variable of ours whose parameter the thing is stands for it. A thing that has another dtype than its view had gets
    a new view, and the old one raises an error when it is used.

    Raises:
        ForeignStateError: the slot gives no array of its backend.
        DeviceError, DTypeError: its array cannot be in a variable.
    """
    place = place_of(slot.thing)
    found: Any = _known.get(place)
    if found is not None and type(found._handle) is not SlotHandle:
        return cast("_Cell", found)
    native = get_backend(slot.backend)
    array = slot.read()
    if (
        found is None
        or found._dtype_name != native.dtype_name(array)
        or _is_spread_otherwise(found, slot, array, native)
    ):
        arrays = _adapter_of(array, native)
        with _lock:
            again = _known.get(place)
            if again is None or again is found:
                found = _known[place] = _made(slot, native, arrays, array, cls)
            else:
                found = again
    else:
        known: Slot = found._handle.slot  # of a plain array only this slot knows what the user has said
        found._trainable = known.trainable and is_differentiable(found._dtype_name)
    return cast("_Cell", found)


def copied_with_its_thing(view: Any, memo: dict[Any, Any]) -> Any:
    """The view of a copy of the thing, which is that of the same `copy.deepcopy` if it copies the thing too."""
    return view_of(deepcopy(view._handle.slot, memo), type(view))


def keep(view: Cell, constraint: Any) -> None:
    """Keeps a view, and so its thing, for as long as it has a constraint: a new view of the thing would have none."""
    if constraint is None:
        _constrained.pop(id(view), None)
    else:
        _constrained[id(view)] = view


def keep_subscribed(view: Cell, subscription: Any) -> None:
    """Keeps a view, and so its thing, until a subscription is cancelled."""
    _subscribed[subscription] = view


def _is_spread_otherwise(view: Any, slot: Slot, array: Any, native: Any) -> bool:
    """Whether another array is in the place of a view now, which is spread, or is not, unlike the one before."""
    return type(slot.thing) is Place and view._backend.is_sharded != (native.spread(array) is not None)


def _adapter_of(array: Any, native: Any) -> Any:
    """The adapter of an array, which is another one if its parts are in several processes."""
    if native.spread(array) is None:
        return native
    placed = native.placement(array, None, None)
    return native if placed is None else placed[0]


def _made(slot: Slot, native: Any, arrays: Any, array: Any, cls: type[_Cell]) -> _Cell:
    what = type(slot.thing.holder if isinstance(slot.thing, Place) else slot.thing).__name__
    if not native.owns(array):
        problem = f"the slot of {what} has given {type(array).__name__}, which is no array of {native.name}"
        raise ForeignStateError.of("view", problem, hint="its method read must return an array of Slot.backend")
    check_readable(array, native, "view", what, arrays)
    view: Any = object.__new__(cls)
    view._name = what.lower()
    path = f"{view._name}_{next(_numbers)}"  # in errors, and in a snapshot of several views
    view._autocast = False
    view._aggregation = "none"
    view._over(slot_backend(arrays), SlotHandle(slot), array, trainable=slot.trainable, path=path)
    register(view)
    return cast("_Cell", view)
