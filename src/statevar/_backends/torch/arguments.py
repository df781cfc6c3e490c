"""Splits arguments and results of a compiled function into tensors, and structure that is part of the cache key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ...errors import TraceError
from .adapter import BACKEND

__all__ = ["Slot", "Static", "built", "replaced", "signature", "template_of"]

Tensor = torch.Tensor

_PLAIN = frozenset({int, bool, str, bytes, type(None), complex})
_is_grad_enabled = torch.is_grad_enabled


class Static:
    """Marks a static argument in a signature."""


def signature(value: Any, tensors: list[Tensor]) -> Any:
    """What of an argument makes a program another one."""
    cls = type(value)
    if cls in _PLAIN:
        return cls, value
    if isinstance(value, Tensor):
        if value.requires_grad:
            value = _cut(value)
        tensors.append(value)
        return value.dtype, value.shape, value.stride(), value.device
    if cls is float:
        return cls, value if value and value == value else repr(value)  # 0.0 and -0.0 are equal
    if isinstance(value, list | tuple):
        return cls, tuple([signature(each, tensors) for each in value])
    if isinstance(value, dict):
        return cls, tuple([(name, signature(each, tensors)) for name, each in value.items()])
    if isinstance(value, np.ndarray | np.generic):
        tensor = BACKEND.import_array(np.asarray(value))
        tensors.append(tensor)
        return cls, tensor.dtype, tensor.shape, tensor.device
    return cls, value


def _cut(value: Tensor) -> Tensor:
    if _is_grad_enabled():
        raise TraceError.of(
            "jit",
            "an argument requires a gradient, which does not go through a compiled function",
            hint="call sv.value_and_grad inside or around it; or pass x.detach(), or call it under torch.no_grad()",
        )
    return value.detach()


def replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """An argument with the next tensors in place of its own."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return next(tensors)
    if isinstance(value, list | tuple):
        parts = [replaced(each, tensors) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return type(value)((name, replaced(each, tensors)) for name, each in value.items())
    return value


class Slot:
    """The place of a tensor in what a function returned."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def template_of(out: Any, found: list[Tensor]) -> Any:
    """What the function returned, with slots in place of its tensors, which are collected."""
    if isinstance(out, Tensor):
        found.append(out.detach() if out.requires_grad else out)
        return Slot(len(found) - 1)
    if isinstance(out, list | tuple):
        parts = [template_of(each, found) for each in out]
        return type(out)(*parts) if hasattr(out, "_fields") else type(out)(parts)
    if isinstance(out, dict):
        return type(out)((name, template_of(each, found)) for name, each in out.items())
    return out


def built(template: Any, found: Any) -> Any:
    if type(template) is Slot:
        return found[template.index]
    if isinstance(template, list | tuple):
        parts = [built(each, found) for each in template]
        return type(template)(*parts) if hasattr(template, "_fields") else type(template)(parts)
    if isinstance(template, dict):
        return type(template)((name, built(each, found)) for name, each in template.items())
    return template
