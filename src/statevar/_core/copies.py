"""Copies and pickles of variables, and how a snapshot that is copied or pickled finds its variables again.

A copy has the value and the declaration of one moment, the flags, and the attributes that a subclass has added. Its
``__init__`` is not called, as with any Python object.

A snapshot refers to variables. If they are copied by the same `copy.deepcopy`, or loaded by the same `pickle.load`, the
new snapshot refers to the new variables, whichever comes first. Else it refers to the old ones, if they still exist in
this process.
"""

from __future__ import annotations

import copyreg
import os
from collections.abc import Callable
from itertools import count
from typing import Any, SupportsIndex, TypeAlias
from weakref import WeakValueDictionary

from ..errors import describe

__all__ = [
    "LOADING",
    "Loading",
    "Uncopied",
    "added_state",
    "follow",
    "is_copied",
    "living",
    "process",
    "set_added_state",
    "token",
]

# -- the attributes that a subclass has added --------------------------------------------------------------------------


def added_state(each: Any, base: type) -> Any:
    """The attributes that subclasses of a class have added to an object, in the form of ``object.__getstate__``."""
    names = set(_slot_names(type(each))) - set(_slot_names(base))
    slots = {name: getattr(each, name) for name in names if hasattr(each, name)}
    attributes = getattr(each, "__dict__", None) or None
    return (attributes, slots) if slots else attributes


def set_added_state(each: Any, state: Any) -> None:
    """Gives an object the attributes that its ``__getstate__`` returned, as pickle does."""
    if state is None:
        return
    if hasattr(each, "__setstate__"):
        each.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        each.__dict__.update(attributes)
    for name, value in (slots or {}).items():
        object.__setattr__(each, name, value)


def _slot_names(cls: type) -> list[str]:
    names: list[str] = copyreg._slotnames(cls)  # type: ignore[attr-defined]  # pickle calls it too
    return names


# -- objects that cannot be copied -------------------------------------------------------------------------------------


class Uncopied:
    """An object of the code or of the threads that use it now: a copy or a pickle of it would mean nothing."""

    __slots__ = ()

    def _uncopied(self) -> tuple[str, str, str]:
        """The operation, what the object is and belongs to, and what to do instead."""
        raise NotImplementedError

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        operation, problem, hint = self._uncopied()
        raise TypeError(describe(operation, f"{problem}, and cannot be copied or pickled", hint=hint))


# -- copy.deepcopy -----------------------------------------------------------------------------------------------------

#: Called with a variable and its copy.
_Follower: TypeAlias = Callable[[Any, Any], object]
_FOLLOWERS = "statevar followers"  # a key of the memo; its other keys are integers


def follow(memo: dict[Any, Any], follower: _Follower) -> None:
    """Has ``follower(variable, copy)`` called for each variable that the same `copy.deepcopy` copies later."""
    memo.setdefault(_FOLLOWERS, []).append(follower)


def is_copied(variable: Any, copy: Any, memo: dict[Any, Any]) -> None:
    """Tells that a variable was copied, before its attributes are, since these may refer to it."""
    memo[id(variable)] = copy
    for follower in memo.get(_FOLLOWERS, ()):
        follower(variable, copy)


# -- pickle ------------------------------------------------------------------------------------------------------------

_numbers = count(1)
_variables: WeakValueDictionary[int, Any] = WeakValueDictionary()
_tokens: dict[int, int] = {}  # by the id of a variable, which may be that of one that is gone
_STAMP = os.urandom(8).hex()


def process() -> str:
    """Identifies this process: no other one, before or later, has the same text."""
    return f"{_STAMP}-{os.getpid()}"


def token(variable: Any) -> int:
    """The number that identifies a variable in this process, in pickles."""
    number = _tokens.get(id(variable))
    if number is None or _variables.get(number) is not variable:
        number = next(_numbers)
        _variables[number] = variable
        _tokens[id(variable)] = number
        if len(_tokens) > 2 * len(_variables) + 100:
            for which, old in list(_tokens.items()):
                if old not in _variables:
                    _tokens.pop(which, None)
    return number


def living(number: int) -> Any:
    """The variable with a token; None if it is gone."""
    return _variables.get(number)


class Loading:
    """One call of `pickle.load`: all variables and snapshots that it loads share one of these.

    Each refers to `LOADING` when it is pickled. Pickle stores an object once, so each load makes one new object of it.
    """

    __module__, __qualname__ = "statevar", "Variable._Loading"  # pickles contain only public names

    def __init__(self) -> None:
        self.loaded: WeakValueDictionary[int, Any] = WeakValueDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


LOADING = Loading()
