"""The functions of a namespace that rearrange elements, or select them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import ShapeError
from .reductions import Reductions

__all__ = ["Shapes"]


class Shapes(Reductions):
    """Manipulation and indexing functions. Of several arrays, the results have their common dtype."""

    def broadcast_arrays(self, *arrays: Any) -> list[Any]:
        """The arrays, each with the shape to which all broadcast, and with its own dtype."""
        return list(self._own("broadcast_arrays")(*(self._array(each, "broadcast_arrays") for each in arrays)))

    def broadcast_to(self, x: Any, /, shape: tuple[int, ...]) -> Any:
        """The array, repeated along axes of length 1 and new first axes, so that it has a shape."""
        return self._own("broadcast_to")(self._array(x, "broadcast_to"), shape)

    def concat(self, arrays: Sequence[Any], /, *, axis: int | None = 0) -> Any:
        """The arrays one after another along an axis; of the flattened arrays if it is None."""
        found, _ = self._common("concat", list(arrays))
        if axis is None:
            found, axis = [self._own("reshape")(each, (-1,)) for each in found], 0
        return self._own("concat")(found, axis=axis)

    def stack(self, arrays: Sequence[Any], /, *, axis: int = 0) -> Any:
        """The arrays, which have one shape, along a new axis."""
        return self._own("stack")(self._common("stack", list(arrays))[0], axis=axis)

    def unstack(self, x: Any, /, *, axis: int = 0) -> tuple[Any, ...]:
        """The arrays that `stack` would put together to this one."""
        return tuple(self._own("unstack")(self._array(x, "unstack"), axis=axis))

    def expand_dims(self, x: Any, /, *, axis: Any = 0) -> Any:
        """The array with a new axis of length 1, or several."""
        return self._own("expand_dims")(self._array(x, "expand_dims"), axis=axis)

    def squeeze(self, x: Any, /, axis: Any) -> Any:
        """The array without axes of length 1."""
        array = self._array(x, "squeeze")
        shape = self._backend.shape(array)
        for each in axis if isinstance(axis, tuple) else (axis,):
            if -len(shape) <= each < len(shape) and shape[each] not in (1, None):
                raise ShapeError.of("squeeze", f"axis {each} has the length {shape[each]}, expected 1")
        return self._own("squeeze")(array, axis=axis)

    def flip(self, x: Any, /, *, axis: Any = None) -> Any:
        """The elements in reverse order, along all axes or some."""
        return self._own("flip")(self._array(x, "flip"), axis=axis)

    def moveaxis(self, x: Any, source: Any, destination: Any, /) -> Any:
        """The array with axes moved to other places."""
        return self._own("moveaxis")(self._array(x, "moveaxis"), source, destination)

    def permute_dims(self, x: Any, /, axes: tuple[int, ...]) -> Any:
        """The array with its axes in another order."""
        return self._own("permute_dims")(self._array(x, "permute_dims"), axes)

    def reshape(self, x: Any, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Any:
        """The elements in another shape; -1 is the length that is left."""
        more = {} if copy is None else {"copy": copy}
        return self._own("reshape")(self._array(x, "reshape"), shape, **more)

    def repeat(self, x: Any, repeats: Any, /, *, axis: int | None = None) -> Any:
        """Each element several times in a row, along an axis or of the flattened array."""
        if type(repeats) is not int:
            repeats = self._indices(repeats, "repeat")
        return self._own("repeat")(self._array(x, "repeat"), repeats, axis=axis)

    def tile(self, x: Any, repetitions: tuple[int, ...], /) -> Any:
        """The array several times, along each axis."""
        return self._own("tile")(self._array(x, "tile"), repetitions)

    def roll(self, x: Any, /, shift: Any, *, axis: Any = None) -> Any:
        """The elements moved along axes; those that leave one end enter at the other."""
        return self._own("roll")(self._array(x, "roll"), shift, axis=axis)

    def tril(self, x: Any, /, *, k: int = 0) -> Any:
        """The lower triangle of matrices, with zeros above the diagonal with number k."""
        return self._own("tril")(self._array(x, "tril"), k=k)

    def triu(self, x: Any, /, *, k: int = 0) -> Any:
        """The upper triangle of matrices, with zeros below the diagonal with number k."""
        return self._own("triu")(self._array(x, "triu"), k=k)

    def meshgrid(self, *arrays: Any, indexing: str = "xy") -> list[Any]:
        """The coordinates of the points of a grid, of those along each axis."""
        found, _ = self._common("meshgrid", arrays) if arrays else ([], "")
        return list(self._own("meshgrid")(*found, indexing=indexing))

    def take(self, x: Any, indices: Any, /, *, axis: int | None = None) -> Any:
        """The elements at indices along an axis; a negative index counts from the end."""
        array = self._array(x, "take")
        places = self._beside(self._indices(indices, "take"), array)
        return self._own("take")(array, places, axis=0 if axis is None else axis)

    def take_along_axis(self, x: Any, indices: Any, /, *, axis: int = -1) -> Any:
        """The elements at indices along an axis, where each place along the other axes has its own indices."""
        array = self._array(x, "take_along_axis")
        places = self._beside(self._indices(indices, "take_along_axis"), array)
        return self._own("take_along_axis")(array, places, axis=axis)
