"""Takes variables in place of tensors, for functions that do not ask an object for its tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["received", "taking_variables", "tensor_of"]


def received(x: Any) -> Any:
    """Replaces objects that have a tensor, also in lists and tuples, by their tensor."""
    if type(x) in (list, tuple):
        return type(x)(received(each) for each in x)
    if isinstance(x, tf.Tensor | tf.Variable) or not hasattr(x, "__tf_tensor__"):
        return x
    return x.__tf_tensor__()


def tensor_of(x: Any) -> Any:
    """An operand as a tensor."""
    return tf.convert_to_tensor(received(x))


def taking_variables(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A function whose arguments may be variables."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*map(received, args), **{key: received(each) for key, each in kwargs.items()})

    call.__name__ = call.__qualname__ = name
    call.__doc__ = function.__doc__
    call.__module__ = getattr(function, "__module__", None) or __name__  # so that our tests do not run its examples
    return call
