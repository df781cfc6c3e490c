"""The name under which users know a class or a function, wherever it is defined."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

__all__ = ["public"]

_Definition = TypeVar("_Definition", bound=type | Callable[..., object])


def public(module: str = "statevar") -> Callable[[_Definition], _Definition]:
    """Says that a class or a function belongs to a public module.

    Pickles and error messages of other libraries then hold no private name, so that a file of ours can move.
    """

    def name(definition: _Definition) -> _Definition:
        definition.__module__ = module
        for member in vars(definition).values() if isinstance(definition, type) else ():
            function = getattr(member, "__func__", member)  # of a class method, or a static one
            if isinstance(function, FunctionType):
                function.__module__ = module
        return definition

    return name
