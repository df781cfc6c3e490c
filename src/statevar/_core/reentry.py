"""Context managers that are written as generators, and can be entered again once their block has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, _GeneratorContextManager
from functools import wraps
from typing import Any, ParamSpec, SupportsIndex, TypeVar

from ..errors import describe

__all__ = ["enterable_again"]

_T = TypeVar("_T")
_P = ParamSpec("_P")


def enterable_again(operation: str) -> Callable[[Callable[_P, Iterator[_T]]], Callable[_P, AbstractContextManager[_T]]]:
    """Like `contextlib.contextmanager`, but the context manager can be entered again, one block at a time.

    Args:
        operation: the operation to name in the error of a block inside a block.
    """

    def decorated(generator: Callable[_P, Iterator[_T]]) -> Callable[_P, AbstractContextManager[_T]]:
        @wraps(generator)
        def made(*args: _P.args, **kwargs: _P.kwargs) -> AbstractContextManager[_T]:
            each = _Again(generator, args, kwargs)  # type: ignore[arg-type]  # typeshed calls it private
            each.operation = operation
            return each

        return made

    return decorated


class _Again(_GeneratorContextManager[Any]):
    operation: str

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        problem = "a context manager belongs to the code that enters it, and cannot be copied or pickled"
        raise TypeError(describe(self.operation, problem, hint="make one for each block"))

    def __enter__(self) -> Any:
        generator: Any = self.gen
        if generator.gi_frame is None:  # it has ended
            generator = self.gen = self.func(*self.args, **self.kwds)
        elif generator.gi_suspended:  # it is at its `yield`
            problem = "this context manager is open already, here or in another thread"
            raise RuntimeError(describe(self.operation, problem, hint="make one for each block"))
        try:
            return next(generator)
        except StopIteration:
            raise RuntimeError("the generator did not yield") from None

    def _recreate_cm(self) -> Any:  # for a function that it decorates
        each = super()._recreate_cm()
        each.operation = self.operation
        return each
