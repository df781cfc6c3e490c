"""Torch's transforms, for variables whose values an overlay hands in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import local
from typing import Any

import torch

from .. import _scopes
from .._transforms import Program, Tape, Transforms

__all__ = ["TRANSFORMS"]

Tensor = torch.Tensor


class _Open(local):
    """How many tapes of the running thread record."""

    def __init__(self) -> None:
        self.count = 0


_open = _Open()


class TorchTape(Tape):
    """Autograd. What it watches is a leaf of its own, so that no gradient reaches the variable's parameter."""

    def __init__(self) -> None:
        # The gradient of a gradient is wanted by a tape around this one, or by ``torch.func.grad``.
        self._nested = _open.count > 0 or torch._C._functorch.peek_interpreter_stack() is not None
        self._modes = ExitStack()
        if torch.is_inference_mode_enabled():
            self._modes.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled() and not _stopped_inside():
            self._modes.enter_context(torch.enable_grad())
        self._closed = False
        _open.count += 1

    def watch(self, array: Tensor) -> Tensor:
        if self._nested and array.requires_grad:
            return array.view_as(array)
        return array.detach().requires_grad_()

    def gradients(self, target: Tensor, sources: Sequence[Tensor], *, keep: bool) -> list[Tensor]:
        if not target.requires_grad or not sources:
            return [torch.zeros_like(source.detach()) for source in sources]
        found = torch.autograd.grad(
            target, list(sources), retain_graph=keep or self._nested, create_graph=self._nested, allow_unused=True
        )
        return [
            torch.zeros_like(source.detach()) if gradient is None else gradient
            for source, gradient in zip(sources, found, strict=True)
        ]

    def concrete(self, array: Any) -> Any:
        if self._nested or not isinstance(array, Tensor):
            return array
        return array.detach()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _open.count -= 1
            self._modes.close()


def _stopped_inside() -> bool:
    """Whether the code itself, not its caller, has turned gradients off: it means them to be off."""
    overlay: Any = _scopes.overlay() if _scopes.active else None
    mark = getattr(overlay, "_marks", {}).get("torch")
    return mark is not None and bool(mark.grad)


class TorchTransforms(Transforms):
    # -- gradients -----------------------------------------------------------------------------------------

    def tape(self) -> Tape:
        return TorchTape()

    def zeros_like(self, array: Tensor) -> Tensor:
        return torch.zeros_like(array.detach())

    # -- compilation ---------------------------------------------------------------------------------------

    def jit(self, program: Program) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        from .torch_jit import TorchJit  # noqa: PLC0415  # for those who compile

        return TorchJit(program)

    # -- control flow --------------------------------------------------------------------------------------

    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Tensor:
        return torch.stack([torch.as_tensor(each) for each in arrays], axis)


TRANSFORMS = TorchTransforms()
