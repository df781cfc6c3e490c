"""What the transforms of a library must do for ours: gradients, compilation, loops. On arrays, not on variables."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Self

from .._public import public
from .types import Array

__all__ = ["Program", "Tape", "Transforms"]


@public("statevar.backends")
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

    def pull_back(
        self, target: Array, weight: Array | None, sources: Sequence[Array], *, keep: bool
    ) -> list[Array | None]:
        """`gradients` of the sum of ``target * weight``, of any shape; without a weight, of the sum of the target.

        The sources may be computed arrays too. None for one on which the target does not depend. For `GradientTape`.
        """
        raise NotImplementedError

    def paused(self) -> AbstractContextManager[None]:
        """Records nothing meanwhile. For `GradientTape`."""
        raise NotImplementedError

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


@public("statevar.backends")
@dataclass(frozen=True)
class Program:
    """What `sv.jit` was given."""

    fn: Callable[..., Any]
    static_argnums: tuple[int, ...]
    static_argnames: tuple[str, ...]
    donate: bool


@public("statevar.backends")
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

    # -- compilation ---------------------------------------------------------------------------------------

    @abstractmethod
    def jit(self, program: Program) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        """What runs a call, given its positional and keyword arguments. Never called inside a `ValueOverlay`."""

    # -- control flow --------------------------------------------------------------------------------------
    #
    # Where `stages_loops` says no, our own Python loop runs, on arrays that compute at once, and only `stack` is asked.
    # Where it says yes, the functions below get pure functions of pytrees (tuples, lists, dicts) of arrays, with the
    # values of the variables among them. They have the signatures of ``jax.lax``.

    #: A loop of so many steps, known before, is written out where it would be lifted.
    unrolls = 0.0

    def stages_loops(self, pytree: Any) -> bool:
        """Whether control flow over these values must be the library's own, because it is traced or always is."""
        return False

    def written_by(self, fn: Callable[..., Any], *args: Any) -> None:
        """Calls ``fn(*args)`` only to see which variables it writes: nothing is computed, no value leaves."""
        raise NotImplementedError

    def scan(self, body: Callable[..., Any], carry: Any, xs: Any, length: int | None, *, reverse: bool) -> Any:
        raise NotImplementedError

    def cond(self, predicate: Any, on_true: Callable[..., Any], on_false: Callable[..., Any], operands: Any) -> Any:
        raise NotImplementedError

    def while_loop(self, condition: Callable[..., Any], body: Callable[..., Any], carry: Any) -> Any:
        raise NotImplementedError

    def vmap(self, fn: Callable[..., Any], in_axes: Any, out_axes: Any, axis_size: int | None) -> Callable[..., Any]:
        raise NotImplementedError

    def remat(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """``fn``, whose intermediate results are computed again for the gradient."""
        return fn

    @abstractmethod
    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Array:
        """Arrays or numbers, all of one shape, as one array with an axis more."""
