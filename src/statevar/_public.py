"""Gives classes and functions the public module name that users import them from, wherever they are defined."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

__all__ = ["public"]

_OURS = __name__.partition(".")[0]
_Definition = TypeVar("_Definition", bound=type | Callable[..., object])


def public(module: str = "statevar") -> Callable[[_Definition], _Definition]:
    """Decorates a class or function so that it belongs to a public module.

    Pickles and the messages of other libraries then contain no private module name, so files of statevar can move.
    """

    def name(definition: _Definition) -> _Definition:
        definition.__module__ = module
        for member in vars(definition).values() if isinstance(definition, type) else ():
            function = getattr(member, "__func__", member)  # the function of a class method or static method
            if isinstance(function, FunctionType) and function.__module__.partition(".")[0] == _OURS:
                function.__module__ = module  # not `__replace__`, which Python 3.13 shares between all dataclasses
        return definition

    return name
