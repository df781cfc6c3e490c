"""Leaves that are replaced in the dict, list or attribute that holds them, since they cannot change themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence
from typing import Any

import numpy as np

from ..._arrays.slots import Place, Shared
from ..._public import public
from ...errors import ReadOnlyError

__all__ = ["Item", "Number"]


@public("statevar.interop")
class Item:
    """The slot of an array that cannot change: a write replaces it in the dict, the list or the attribute.

    Args:
        holder: the object that has the array.
        key: the key or index of it there, or the name of the attribute.
        backend: the name of the library of the array.
        shared: as in `Slot`.
        attribute: whether the key is the name of an attribute; by default, if the holder has no items.
        thing: as in `Slot`; by default the place of the key in the holder.

    A write to an item of a tuple, or of another holder that cannot change, is a `ReadOnlyError`.
    """

    trainable = False

    def __init__(
        self,
        holder: Any,
        key: Any,
        backend: str,
        shared: Shared = "never",
        *,
        attribute: bool | None = None,
        thing: Any = None,
    ) -> None:
        self.backend = backend
        self.shared = shared
        self.thing: Any = Place(holder, key) if thing is None else thing
        self._owner = holder
        self._key = key
        self._attribute = not _has_item(holder, key) if attribute is None else attribute

    def present(self) -> Any:
        """What the holder has now."""
        return getattr(self._owner, self._key) if self._attribute else self._owner[self._key]

    def read(self) -> Any:
        """Returns the array that is there now, without a copy."""
        return self.present()

    def write(self, array: Any) -> None:
        """Puts an array in the place of the present one, in the dict, the list or the attribute."""
        try:
            if self._attribute:
                setattr(self._owner, self._key, array)
            else:
                self._owner[self._key] = array
        except (TypeError, AttributeError) as error:  # of a frozen dataclass, which is the second one
            what = type(self._owner).__qualname__
            problem = f"an item of a {what} cannot be replaced ({error})"
            hint = "keep it in a dict or a list, or make a new tree with other values: sv.filled(tree, source)"
            raise ReadOnlyError.of("assign", problem, str(self._key), hint) from error

    def version(self) -> None:
        """Returns None: nobody counts."""


class Number(Item):
    """The slot of a Python number, which keeps its type: an array of no axes, of 64 bits for an int or a float."""

    def __init__(self, holder: Any, key: Any, *, attribute: bool | None = None, thing: Any = None) -> None:
        super().__init__(holder, key, "numpy", attribute=attribute, thing=thing)
        self._type: Callable[[Any], Any] = type(self.present())

    def read(self) -> Any:
        """The number as an array, which nobody else has."""
        number = self.present()
        self._type = type(number)
        array: Any = np.asarray(number, _DTYPES[self._type])
        array.setflags(write=False)
        return array

    def write(self, array: Any) -> None:
        """Replaces the number by another one of its type."""
        super().write(self._type(array.item()))


_DTYPES = {bool: np.bool_, int: np.int64, float: np.float64, complex: np.complex128}


def _has_item(holder: Any, key: Any) -> bool:
    if isinstance(holder, tuple):
        return not (isinstance(key, str) and hasattr(type(holder), "_fields"))  # else it is the name of a field
    return isinstance(holder, Mapping | MutableSequence) or (
        hasattr(type(holder), "__getitem__") and hasattr(type(holder), "__setitem__")
    )
