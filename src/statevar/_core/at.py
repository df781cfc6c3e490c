"""``v.at[i].add(x)``: the writes of elements, as methods of an index."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["At"]

#: The type of the variable, which may be a subclass.
_Target = TypeVar("_Target")


class At(Generic[_Target]):
    """The object ``v.at``, which takes an index in brackets."""

    __slots__ = ("_put",)

    def __init__(self, put: Callable[[str, Any, Any], _Target]) -> None:
        self._put = put

    def __getitem__(self, index: Any) -> _AtIndex[_Target]:
        return _AtIndex(self._put, index)


class _AtIndex(Generic[_Target]):
    """The object ``v.at[i]``, whose methods write at the index and return the variable."""

    __slots__ = ("_index", "_put")

    def __init__(self, put: Callable[[str, Any, Any], _Target], index: Any) -> None:
        self._put = put
        self._index = index

    # fmt: off

    def set(self, value: Any) -> _Target: return self._put("at.set", self._index, value)
    def add(self, value: Any) -> _Target: return self._put("at.add", self._index, value)
    def subtract(self, value: Any) -> _Target: return self._put("at.subtract", self._index, value)
    def multiply(self, value: Any) -> _Target: return self._put("at.multiply", self._index, value)
    def divide(self, value: Any) -> _Target: return self._put("at.divide", self._index, value)
    def floor_divide(self, value: Any) -> _Target: return self._put("at.floor_divide", self._index, value)
    def remainder(self, value: Any) -> _Target: return self._put("at.remainder", self._index, value)
    def power(self, value: Any) -> _Target: return self._put("at.power", self._index, value)
    def min(self, value: Any) -> _Target: return self._put("at.min", self._index, value)
    def max(self, value: Any) -> _Target: return self._put("at.max", self._index, value)
    # fmt: on
