"""PyTorch: modules, optimizers, schedulers, scalers and generators. Every write of a tensor is in place."""

from __future__ import annotations

from typing import Any

import torch

from ..._arrays.slots import Adapter, Opened, Shared
from ...errors import ReadOnlyError
from .torch_module import children_of_module
from .torch_optimizer import (
    accept_state,
    children_of_optimizer,
    children_of_scaler,
    children_of_scheduler,
    forget_state,
)
from .torch_tensor import TensorSlot

__all__ = ["ADAPTER"]


def _open(x: Any) -> Opened:
    if isinstance(x, torch.Tensor):
        is_state = isinstance(x, torch.nn.Parameter | torch.nn.Buffer) or (x.requires_grad and x.is_leaf)
        return TensorSlot(x) if is_state else None
    if isinstance(x, torch.nn.Module):
        return children_of_module(x)
    if isinstance(x, torch.optim.Optimizer):
        return children_of_optimizer(x)
    if isinstance(x, torch.optim.lr_scheduler.LRScheduler):
        return children_of_scheduler(x)
    if isinstance(x, torch.amp.GradScaler):
        return children_of_scaler(x)
    return GeneratorSlot(x) if isinstance(x, torch.Generator) else None


def _open_plain(x: Any) -> Opened:
    return TensorSlot(x) if isinstance(x, torch.Tensor) else None


class GeneratorSlot:
    """The slot of a `torch.Generator`: its state, a tensor of bytes."""

    backend = "torch"
    trainable = False
    shared: Shared = "never"  # each read makes a new tensor

    def __init__(self, generator: torch.Generator) -> None:
        self.thing = generator

    def read(self) -> torch.Tensor:
        """The state."""
        return self.thing.get_state()

    def write(self, array: torch.Tensor) -> None:
        """Sets the state."""
        try:
            self.thing.set_state(array.cpu())
        except RuntimeError as error:
            raise ReadOnlyError.of("assign", f"torch.Generator refuses the state ({error})") from error

    def version(self) -> None:
        """Returns None: nobody counts."""


ADAPTER = Adapter(_open, _open_plain, accept=accept_state, forget=forget_state)
