"""What a variable is made from: values, names of initializers, callables, or nothing yet."""

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
    """The initial value, called for if need be, and the dtype to cast it to; None for what is left open."""
    if isinstance(initializer, str):
        initializer = partial(initializers.get(initializer), seed=seed)
    elif seed is not None:
        raise InitializerError.of(
            "Variable", "seed= is for named initializers only", hint="give your callable its own seed"
        )
    if initializer is None:
        if declared is None:
            raise InitializerError.of(
                "Variable",
                "neither an initial value nor a shape",
                hint="pass a value, or shape= and dtype= for a variable that is assigned later",
            )
        return None, dtype
    if not callable(initializer):
        return unwrapped(initializer), dtype
    if declared is None or not is_static(declared):
        raise ShapeError.of(
            "Variable", f"an initializer needs a shape without open axes, got {declared}", hint="pass shape="
        )
    dtype = dtype or "float32"
    with ExitStack() as stack:
        if overlays.active:  # it may be called while a library traces
            for backend in loaded_backends():
                if backend.tracing is not None:
                    stack.enter_context(backend.tracing.outside_trace())
        value = initializer(declared, dtype)
    return unwrapped(value), dtype
