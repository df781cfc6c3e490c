"""Tells whether Dynamo is tracing, and leaves the modes in which torch traces for `sv.jit`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.tracing import AccessCheck, Tracing

__all__ = ["TorchTracing"]

# Asked at every write; each dot costs 30 ns.
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled
_modes_open = torch._C._len_torch_dispatch_stack


class _Mark:
    """Remembers whether gradients were recorded where an overlay was opened."""

    __slots__ = ("grad",)

    def __init__(self, grad: bool) -> None:
        self.grad = grad


class TorchTracing(Tracing):
    writes_when_traced = True

    def is_tracing(self) -> bool:
        return _is_compiling()

    def trace_mark(self, check_access: AccessCheck) -> Any:
        return _Mark(_is_grad_enabled())

    def outside_trace(self) -> AbstractContextManager[Any]:
        return _disable_current_modes() if _modes_open() else nullcontext()

    def traced_value(self, handle: Any) -> Any:
        value: torch.Tensor = handle.parameter.clone()
        return value
