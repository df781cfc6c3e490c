"""The slots of tensors of PyTorch, by themselves or in a dict that may get another one."""

from __future__ import annotations

from typing import Any

import torch

from ..._arrays.slots import Place, Shared
from ...errors import ReadOnlyError
from .torch_fsdp import let_go

__all__ = ["TensorItem", "TensorSlot", "write_in_place"]


def write_in_place(tensor: torch.Tensor, array: torch.Tensor) -> None:
    """Copies an array into the memory of a tensor, which others may share, and has torch count the write."""
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):
            write_in_place(tensor, array)
        return
    if tensor.is_inference():
        problem = "a tensor that was made in torch.inference_mode() cannot be written outside of it"
        raise ReadOnlyError.of("assign", problem, hint="make a normal tensor of it: x.clone()")
    tensor.detach().copy_(array.detach())


def version_of(tensor: torch.Tensor) -> int | None:
    """The number of writes that torch has counted; it counts none of inference tensors."""
    return None if tensor.is_inference() else tensor._version


class TensorSlot:
    """The slot of a tensor that stays the same object, such as a parameter."""

    backend = "torch"
    shared: Shared = "in_place"

    def __init__(self, tensor: torch.Tensor) -> None:
        self.thing = tensor

    @property
    def trainable(self) -> bool:
        """Whether it wants a gradient."""
        return bool(self.thing.requires_grad)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self.thing.requires_grad_(trainable)

    def read(self) -> torch.Tensor:
        """The tensor itself."""
        tensor: torch.Tensor = self.thing
        return tensor

    def write(self, array: torch.Tensor) -> None:
        """Copies into the memory of the tensor."""
        write_in_place(self.thing, array)
        let_go(self.thing)

    def version(self) -> int | None:
        """The version that autograd counts."""
        return version_of(self.thing)


class TensorItem:
    """The slot of a tensor in a dict, where its owner may put another one: a buffer, the state of an optimizer."""

    backend = "torch"
    trainable = False
    shared: Shared = "in_place"

    def __init__(self, place: Place, items: Any, key: Any) -> None:
        self.thing = place
        self._items = items
        self._key = key

    def read(self) -> torch.Tensor:
        """The tensor that is there now."""
        tensor: torch.Tensor = self._items[self._key]
        return tensor

    def write(self, array: torch.Tensor) -> None:
        """Copies into the memory of the tensor that is there now."""
        write_in_place(self._items[self._key], array)

    def version(self) -> None:
        """Returns None: the tensors that were there before had counts of their own."""
