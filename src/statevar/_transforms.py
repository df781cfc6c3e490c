"""What the transforms of a library must do for ours: gradients, compilation, loops. On arrays, not on variables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

from ._backend import Array

__all__ = ["Tape", "Transforms"]


class Tape(ABC):
    """Records what is computed from the arrays it watches, from when it is made until it is closed."""

    @abstractmethod
    def watch(self, array: Array) -> Array:
        """What the code must compute with in place of the array, so that a gradient reaches it."""

    @abstractmethod
    def gradients(self, target: Array, sources: Sequence[Array], *, keep: bool) -> list[Array]:
        """The gradient of a scalar with respect to each of the arrays that `watch` returned; zeros where there is none.

        Args:
            keep: the tape will be asked again.
        """

    def concrete(self, array: Array) -> Array:
        """A computed array without what this tape has put around it; outer tapes still see it."""
        return array

    @abstractmethod
    def close(self) -> None:
        """Stops recording. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transforms(ABC):
    """The transforms of one library. `Backend.transforms` gives them."""

    # -- gradients -----------------------------------------------------------------------------------------

    #: Whether gradients come from a `tape`; else from `value_and_grad`.
    tapes = True

    def tape(self) -> Tape:
        """A new tape, recording."""
        raise NotImplementedError

    def value_and_grad(
        self, fn: Callable[[list[Array]], tuple[Array, Any]], values: list[Array]
    ) -> tuple[tuple[Array, Any], list[Array]]:
        """``fn(values)``, which is a scalar and something else, and the gradients of the scalar."""
        raise NotImplementedError

    @abstractmethod
    def zeros_like(self, array: Array) -> Array:
        """The gradient where there is none."""
