"""State that is no array: bytes or text of any length, in an array of fixed length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..._arrays.slots import Shared
from ...errors import ShapeError

__all__ = ["BytesState"]

_STEP = 512  # bytes by which the arrays grow
_COUNT = 8  # bytes at the beginning that tell how many follow


class BytesState:
    """The slot of state that its owner gives and takes as bytes: a variable of uint8.

    The array has the length of the state in its first eight bytes, and zeros at the end, so that states of about the
    same length have one shape.

    Args:
        thing: as in `Slot`.
        read: returns the state.
        write: sets it: as a whole, or it raises and nothing has changed.
        room: the least number of bytes that the array has, for states whose length varies.
    """

    backend = "numpy"
    trainable = False
    shared: Shared = "never"  # each read makes a new array

    def __init__(self, thing: Any, read: Callable[[], bytes], write: Callable[[bytes], object], room: int = 0) -> None:
        self.thing = thing
        self._read = read
        self._write = write
        self._room = room

    def read(self) -> Any:
        """The state as an array."""
        data = self._read()
        length = -(-max(len(data) + _COUNT, self._room) // _STEP) * _STEP
        array = np.zeros(length, np.uint8)
        array[:_COUNT] = np.frombuffer(len(data).to_bytes(_COUNT, "little"), np.uint8)
        array[_COUNT : _COUNT + len(data)] = np.frombuffer(data, np.uint8)
        array.setflags(write=False)
        return array

    def write(self, array: Any) -> None:
        """Sets the state that an array has."""
        data = np.asarray(array).tobytes()
        count = int.from_bytes(data[:_COUNT], "little")
        if count > len(data) - _COUNT:
            raise ShapeError.of("assign", f"the bytes are no state: they say that {count} follow {_COUNT}")
        self._write(data[_COUNT : _COUNT + count])

    def version(self) -> None:
        """Returns None: nobody counts."""
