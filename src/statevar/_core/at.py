"""``v.at[i].add(x)``: writes at an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .variable import Variable

__all__ = ["At"]


class At:
    """``v.at``: waits for an index."""

    __slots__ = ("_variable",)

    def __init__(self, variable: Variable) -> None:
        self._variable = variable

    def __getitem__(self, index: Any) -> _AtIndex:
        return _AtIndex(self._variable, index)


class _AtIndex:
    """``v.at[i]``: every method writes at the index and returns the variable."""

    __slots__ = ("_index", "_variable")

    def __init__(self, variable: Variable, index: Any) -> None:
        self._variable = variable
        self._index = index

    # fmt: off
    def set(self, value: Any) -> Variable: return self._variable._put("set", self._index, value)
    def add(self, value: Any) -> Variable: return self._variable._put("add", self._index, value)
    def subtract(self, value: Any) -> Variable: return self._variable._put("subtract", self._index, value)
    def multiply(self, value: Any) -> Variable: return self._variable._put("multiply", self._index, value)
    def divide(self, value: Any) -> Variable: return self._variable._put("divide", self._index, value)
    def min(self, value: Any) -> Variable: return self._variable._put("min", self._index, value)
    def max(self, value: Any) -> Variable: return self._variable._put("max", self._index, value)
    # fmt: on
