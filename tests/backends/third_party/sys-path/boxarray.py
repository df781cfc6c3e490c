"""A small array library that knows nothing of statevar, NumPy's protocols, or the array API.

Like many young libraries it has its own dtypes, immutable arrays, three operators between arrays of one dtype,
and basic indexing without negative steps. Everything else is an error.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np


class DType:
    """A dtype; there is one object of each."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"boxarray.{self.name}"


boolean = DType("bool")
int8 = DType("int8")
int32 = DType("int32")
uint8 = DType("uint8")
float16 = DType("float16")
float32 = DType("float32")
float64 = DType("float64")


class Box:
    """An immutable array."""

    __slots__ = ("_memory", "dtype", "shape")

    def __init__(self, values: Any, dtype: DType) -> None:
        """Copies the values."""
        self._memory = np.array(values, dtype.name)
        self._memory.flags.writeable = False
        self.dtype = dtype
        self.shape = self._memory.shape

    def unbox(self) -> np.ndarray[Any, Any]:
        """The values, read-only, not copied."""
        return self._memory.view()

    def astype(self, dtype: DType) -> Box:
        """Another dtype; what does not fit wraps around or becomes infinite, without a word."""
        with np.errstate(all="ignore"):
            return Box(self._memory.astype(dtype.name), dtype)

    def round(self, decimals: int = 0) -> Box:
        return Box(self._memory.round(decimals), self.dtype)

    def __getitem__(self, index: Any) -> Box:
        for part in index if isinstance(index, tuple) else (index,):
            if not (isinstance(part, int) or (isinstance(part, slice) and (part.step or 1) > 0)):
                raise TypeError(f"boxarray cannot index by {part!r}")
        return Box(self._memory[index], self.dtype)

    def __add__(self, other: Any) -> Any:
        return self._computed(operator.add, other)

    def __sub__(self, other: Any) -> Any:
        return self._computed(operator.sub, other)

    def __mul__(self, other: Any) -> Any:
        return self._computed(operator.mul, other)

    def _computed(self, op: Callable[[Any, Any], Any], other: Any) -> Any:
        if isinstance(other, Box) and other.dtype is self.dtype:
            return Box(op(self._memory, other._memory), self.dtype)
        if type(other) in (bool, int, float):
            return Box(op(self._memory, other), self.dtype)
        return NotImplemented

    def __repr__(self) -> str:
        return f"Box({self._memory.tolist()}, {self.dtype})"
