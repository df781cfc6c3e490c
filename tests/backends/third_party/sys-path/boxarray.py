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


class Mesh:
    """Devices in rows and columns, each axis with a name.

    Args:
        axes: the name and the length of each axis.
        elsewhere: the devices that are in another process, which this one cannot read.
    """

    def __init__(self, axes: dict[str, int], elsewhere: tuple[int, ...] = ()) -> None:
        self.axes = axes
        self.elsewhere = elsewhere
        self.devices = range(int(np.prod(list(axes.values()))))


class Spread:
    """How an array lies on a mesh: for each of its axes the axes of the mesh over which it is cut."""

    def __init__(self, mesh: Mesh, cuts: tuple[tuple[str, ...], ...]) -> None:
        self.mesh = mesh
        self.cuts = cuts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spread) and self.mesh is other.mesh and self.cuts == other.cuts

    def __hash__(self) -> int:
        return hash((id(self.mesh), self.cuts))

    def __repr__(self) -> str:
        return f"Spread({', '.join('+'.join(cut) or '-' for cut in self.cuts)})"

    def parts(self, length: int, axis: int) -> int:
        """Into how many parts an axis is cut."""
        return int(np.prod([self.mesh.axes[name] for name in self.cuts[axis]])) if axis < len(self.cuts) else 1

    def index(self, device: int, shape: tuple[int, ...]) -> tuple[slice, ...]:
        """The part of an array of this shape that a device has."""
        names = list(self.mesh.axes)
        place = dict(zip(names, np.unravel_index(device, tuple(self.mesh.axes.values())), strict=True))
        index = []
        for axis, length in enumerate(shape):
            number = 0
            for name in self.cuts[axis] if axis < len(self.cuts) else ():
                number = number * self.mesh.axes[name] + int(place[name])
            size = length // self.parts(length, axis)
            index.append(slice(number * size, (number + 1) * size))
        return tuple(index)


class Boxes:
    """An immutable array that is spread over a mesh: a box on each device."""

    __slots__ = ("blocks", "dtype", "shape", "spread")

    def __init__(self, values: Any, dtype: DType, spread: Spread) -> None:
        whole = np.asarray(values, dtype.name)
        self.dtype, self.shape, self.spread = dtype, whole.shape, spread
        self.blocks = [Box(whole[spread.index(device, whole.shape)], dtype) for device in spread.mesh.devices]

    def here(self) -> dict[tuple[int, ...], Box]:
        """The boxes of this process by where they begin, each once."""
        found: dict[tuple[int, ...], Box] = {}
        for device in self.spread.mesh.devices:
            if device not in self.spread.mesh.elsewhere:
                index = self.spread.index(device, self.shape)
                found.setdefault(tuple(each.start for each in index), self.blocks[device])
        return found

    def collect(self) -> np.ndarray[Any, Any]:
        """The whole array, for which the processes have to talk to each other."""
        whole = np.empty(self.shape, self.dtype.name)
        for device in self.spread.mesh.devices:
            whole[self.spread.index(device, self.shape)] = self.blocks[device].unbox()
        return whole

    def __mul__(self, number: float) -> Boxes:
        return Boxes(self.collect() * number, self.dtype, self.spread)

    def astype(self, dtype: DType) -> Boxes:
        with np.errstate(all="ignore"):
            return Boxes(self.collect().astype(dtype.name), dtype, self.spread)
