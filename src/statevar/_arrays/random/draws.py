"""`Draws`: the random numbers of one library, of a state that is an array of it."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..shapes import Shape
from ..types import Array
from .host import WORDS, draw_on_host
from .numbers import Numbers

__all__ = ["Draws"]


class Draws:
    """Random numbers by position, of a state of four words, see `Words`.

    Here NumPy computes them on the host, which needs the state to be known. A library that traces code overrides the
    methods. Whatever computes them, they have the same bits.

    Args:
        backend: the adapter of the library.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def after(self, state: Array, blocks: int) -> Array:
        """The state after so many blocks of random words."""
        return self._from_host(WORDS.after(self._on_host(state), blocks), state)

    def child(self, state: Array, number: int) -> Array:
        """The state of a new stream, whose key is the block so many blocks ahead."""
        host = self._on_host(state)
        return self._from_host(WORDS.child(host, WORDS.ahead(host, number)), state)

    def lane(self, state: Array, index: Any) -> Array:
        """The state with the key of one of several lanes, by its index: a number, or an array of no axes."""
        return self._from_host(WORDS.lane(self._on_host(state), np.array([int(index)], np.uint32)), state)

    def draw(self, state: Array, numbers: Numbers, shape: Shape, operands: tuple[Array, ...]) -> Array:
        """An array of random numbers, on the device of the state.

        Args:
            operands: parameters of the numbers. If these are drawn one by one, each broadcasts into the shape.
        """
        hosts = [np.asarray(self._backend.to_host(each)) for each in operands]
        if numbers.elementwise:
            hosts = [each.reshape(1) if each.size == 1 else np.broadcast_to(each, shape).reshape(-1) for each in hosts]
        found = draw_on_host(self._on_host(state), numbers, prod(shape), tuple(hosts))
        return self._from_host(found.reshape(shape), state)

    def taken(self, array: Array, indices: Array) -> Array:
        """The elements along the first axis at some indices."""
        return self._backend.namespace().take(array, indices, axis=0)

    def _on_host(self, state: Array) -> Any:
        return self._backend.to_host(state)

    def _from_host(self, array: Any, state: Array) -> Array:
        return self._backend.from_host(array, self._backend.device_of(state))
