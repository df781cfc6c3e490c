"""Finds the initial value of a variable from a value, the name of an initializer, a callable, or None."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from .. import initializers
from .._arrays.registry import loaded_backends
from .._arrays.shapes import DeclaredShape, is_static
from ..errors import InitializerError, ShapeError
from . import overlays
from .convert import unwrapped

__all__ = ["initial_value"]


def initial_value(
    initializer: Any, declared: DeclaredShape | None, dtype: str | None, seed: int | None
) -> tuple[Any, str | None]:
    """The initial value and the dtype to cast it to. Calls the initializer if it is a callable.

    The value is None if the variable has none yet; the dtype is None if it follows from the value.
    """
    if isinstance(initializer, str):
        initializer = partial(initializers.get(initializer), seed=seed)
    elif seed is not None:
        raise InitializerError.of(
            "Variable",
            "seed= works only with the name of an initializer",
            hint="pass a name such as 'normal', or seed your callable yourself",
        )
    if initializer is None:
        if declared is None:
            raise InitializerError.of(
                "Variable",
                "got neither an initial value nor a shape",
                hint="pass a value, or shape= and dtype= for a variable that is assigned later",
            )
        return None, dtype
    if not callable(initializer):
        return unwrapped(initializer), dtype
    if declared is None or not is_static(declared):
        raise ShapeError.of(
            "Variable",
            f"an initializer needs a shape without open axes, got {declared}",
            hint="pass a full shape, such as shape=(3, 4)",
        )
    dtype = dtype or "float32"
    with ExitStack() as stack:
        if overlays.active:  # a library may be tracing this code
            for backend in loaded_backends():
                if backend.tracing is not None:
                    stack.enter_context(backend.tracing.outside_trace())
        value = initializer(declared, dtype)
    return unwrapped(value), dtype
