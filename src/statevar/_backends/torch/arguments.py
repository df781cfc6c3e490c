"""Splits arguments and results of a compiled function into tensors, and structure that is part of the cache key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..._arrays.trees import like, tree_map  # `torch.utils._pytree` takes subclasses of list and dict for leaves
from ...errors import TraceError
from .adapter import BACKEND
from .parts import kind_of, part_of, spec_of, whole_of

__all__ = ["Slot", "Static", "built", "replaced", "signature", "template_of"]

Tensor = torch.Tensor

_PLAIN = frozenset({int, bool, str, bytes, type(None), complex})
_is_grad_enabled = torch.is_grad_enabled


class Static:
    """Marks a static argument in a signature."""


def signature(value: Any, tensors: list[Tensor]) -> Any:
    """Returns the part of an argument that belongs to the cache key; appends its tensors to ``tensors``."""
    cls = type(value)
    if cls in _PLAIN:
        return cls, value
    if isinstance(value, Tensor):
        if value.requires_grad:
            value = _cut(value)
        tensors.append(part_of(value))
        return kind_of(value), value.shape, value.stride()
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
            "an argument requires a gradient, but gradients do not pass through a compiled function",
            hint="call sv.value_and_grad inside or around it; or pass x.detach(), or call it under torch.no_grad()",
        )
    return value.detach()


def replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """Returns an argument with its arrays replaced by the next tensors, in the order of `signature`."""

    def traced(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return whole_of(next(tensors), spec_of(leaf))
        return next(tensors) if isinstance(leaf, np.ndarray | np.generic) else leaf

    return tree_map(traced, value)


class Slot:
    """The place of a tensor in the result of a function."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class _SlotOfPart(Slot):
    """The place of the part of a value over a mesh."""

    __slots__ = ("spec",)

    def __init__(self, index: int, spec: Any) -> None:
        super().__init__(index)
        self.spec = spec


def template_of(out: Any, found: list[Tensor]) -> Any:
    """Returns the result of a function with a `Slot` in place of each tensor; appends the tensors to ``found``."""

    def slot_of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        found.append(part_of(leaf.detach() if leaf.requires_grad else leaf))
        spec = spec_of(leaf)
        return Slot(len(found) - 1) if spec is None else _SlotOfPart(len(found) - 1, spec)

    return tree_map(slot_of, out)


def built(template: Any, found: Any) -> Any:
    """Returns the result that a template describes, with tensors in its slots."""
    # By hand, since it runs at every call: `tree_map` takes four times as long.
    if type(template) is Slot:
        return found[template.index]
    if isinstance(template, list | tuple):
        return like(template, [built(each, found) for each in template])
    if isinstance(template, dict):
        return like(template, [built(each, found) for each in template.values()])
    return whole_of(found[template.index], template.spec) if type(template) is _SlotOfPart else template
