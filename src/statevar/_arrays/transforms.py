"""The interface to the transforms of a library: gradients, compilation, loops. It knows arrays, not variables."""

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
    """A recording of the computations on the arrays it watches, from its creation until it is closed."""

    @abstractmethod
    def watch(self, array: Array) -> Array:
        """Returns the array that the code must compute with instead, so that its gradient is recorded."""

    def watch_in_place(self, array: Array) -> Array:
        """Watches an array of the user; the library may be able to record computations on that one itself."""
        return self.watch(array)

    def watch_object(self, thing: Any) -> Array | None:
        """The array that stands for an object of the library, such as a parameter, that other code computes with.

        Then the gradient with respect to it counts those computations too. None if the library cannot do that.
        """
        return None

    @abstractmethod
    def gradients(self, target: Array, sources: Sequence[Array], *, keep: bool) -> list[Array]:
        """The gradient of a scalar with respect to each of the arrays that `watch` returned; zeros where there is none.

        Args:
            keep: the tape will be used for another gradient.
        """

    def pull_back(
        self, target: Array, weight: Array | None, sources: Sequence[Array], *, keep: bool
    ) -> list[Array | None]:
        """The gradients of the sum of ``target * weight``, or of the sum of the target, which may have any shape.

        The sources may be computed arrays too. The gradient is None for a source on which the target does not depend.
        Only `GradientTape` calls it.
        """
        raise NotImplementedError

    def paused(self) -> AbstractContextManager[None]:
        """A block in which the tape records nothing. Only `GradientTape` calls it."""
        raise NotImplementedError

    def concrete(self, array: Array) -> Array:
        """A computed array without the wrapper of this tape; outer tapes still record it."""
        return array

    @abstractmethod
    def close(self) -> None:
        """Stops the recording. May be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@public("statevar.backends")
@dataclass(frozen=True)
class Program:
    """The arguments of `sv.jit`."""

    fn: Callable[..., Any]
    static_argnums: tuple[int, ...]
    static_argnames: tuple[str, ...]
    donate: bool


@public("statevar.backends")
class Transforms(ABC):
    """The transforms of one library, which `Backend.transforms` returns."""

    # -- gradients -----------------------------------------------------------------------------------------

    #: Whether gradients come from a `tape`; else they come from `value_and_grad`.
    tapes = True

    def tape(self) -> Tape:
        """Makes a tape that is recording."""
        raise NotImplementedError

    def value_and_grad(
        self, fn: Callable[[list[Array]], tuple[Array, Any]], values: list[Array]
    ) -> tuple[tuple[Array, Any], list[Array]]:
        """Returns ``fn(values)``, which is a scalar and an auxiliary result, and the gradients of the scalar."""
        raise NotImplementedError

    @abstractmethod
    def zeros_like(self, array: Array) -> Array:
        """Zeros like an array, which are its gradient if the target does not depend on it."""

    # -- compilation ---------------------------------------------------------------------------------------

    def takes_apart(self, argument: Any) -> bool:
        """Whether a compiled function can get an object that is no tuple, list or dict, with the arrays in it.

        Any other object that has variables is part of the program, and is never passed to the library.
        """
        return False

    @abstractmethod
    def jit(self, program: Program) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        """Returns a function that runs a call of the program, given its positional and keyword arguments.

        The function is never called inside a `ValueOverlay`.
        """

    # -- control flow --------------------------------------------------------------------------------------
    #
    # Where `stages_loops` is False, our own Python loop runs on arrays that compute at once, and only `stack` is used.
    # Where it is True, the functions below get pure functions of pytrees (tuples, lists, dicts) of arrays, with the
    # values of the variables among them. They have the signatures of ``jax.lax``.

    #: A staged loop is unrolled if its number of steps is known and not larger than this.
    unrolls: float = 0.0

    def stages_loops(self, pytree: Any) -> bool:
        """Whether control flow over these values must be the library's own, because it is traced or always is."""
        return False

    def written_by(self, fn: Callable[..., Any], *args: Any) -> None:
        """Calls ``fn(*args)`` only to find the variables that it writes, without computing anything."""
        raise NotImplementedError

    def scan(self, body: Callable[..., Any], carry: Any, xs: Any, length: int | None, *, reverse: bool) -> Any:
        raise NotImplementedError

    def cond(self, predicate: Any, on_true: Callable[..., Any], on_false: Callable[..., Any], operands: Any) -> Any:
        raise NotImplementedError

    def while_loop(self, condition: Callable[..., Any], body: Callable[..., Any], carry: Any) -> Any:
        raise NotImplementedError

    #: Whether code in `vmap` can use the name of the mapped axis; else it is never given.
    names_axes = False

    def vmap(
        self, fn: Callable[..., Any], in_axes: Any, out_axes: Any, axis_size: int | None, axis_name: Any = None
    ) -> Callable[..., Any]:
        raise NotImplementedError

    def remat(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Returns ``fn`` with its intermediate results computed again, instead of stored, for the gradient."""
        return fn

    @abstractmethod
    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Array:
        """Stacks arrays or numbers of one shape into an array with one more axis."""
