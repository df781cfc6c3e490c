"""Tells whether Dynamo is tracing, and leaves the modes in which torch traces for `sv.jit`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.tracing import AccessCheck, Tracing

__all__ = ["TRACING", "TorchTracing"]

# Asked at every write; each dot costs 30 ns.
_is_compiling = torch.compiler.is_compiling
_is_grad_enabled = torch.is_grad_enabled
_modes_open = torch._C._len_torch_dispatch_stack
_mode_of = torch._C._get_dispatch_mode
_modes_that_trace = [
    each
    for name in ("FAKE", "PROXY", "FUNCTIONAL")
    if (each := getattr(torch._C._TorchDispatchModeKey, name, None)) is not None
]
_jit_trace = torch._C._get_tracing_state
_fx: Any = torch.fx._symbolic_trace


def _is_kept() -> bool:
    """Whether Dynamo, ``torch.export``, ``torch.fx``, ``torch.jit.trace`` or a fake mode runs the Python code."""
    return (
        _is_compiling()
        or _fx._is_fx_tracing_flag
        or _jit_trace() is not None
        or (_modes_open() > 0 and any(_mode_of(each) is not None for each in _modes_that_trace))
    )


class _Mark:
    """Remembers whether gradients were recorded, and code was traced, where an overlay was opened."""

    __slots__ = ("grad", "kept")

    def __init__(self, grad: bool, kept: bool) -> None:
        self.grad = grad
        self.kept = kept


class TorchTracing(Tracing):
    inlines_python = True
    writes_when_traced = True

    def is_tracing(self) -> bool:
        return _is_compiling()

    def keeps(self, mark: Any = None) -> bool:
        return _is_kept() and not (mark is not None and mark.kept)

    def kept(self, mark: Any) -> bool:
        return mark is not None and bool(mark.kept)

    def trace_mark(self, check_access: AccessCheck) -> Any:
        return _Mark(_is_grad_enabled(), _is_kept())

    def outside_trace(self) -> AbstractContextManager[Any]:
        return _disable_current_modes() if _modes_open() else nullcontext()

    def traced_value(self, handle: Any) -> Any:
        value: torch.Tensor = handle.parameter.clone()
        return value


TRACING = TorchTracing()
