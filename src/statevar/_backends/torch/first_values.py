"""Makes a first value in memory of torch, and says whether a tensor that a callable has returned can be taken."""

from __future__ import annotations

import sys
from typing import Any
from weakref import getweakrefcount

import torch

from ..._arrays.dtypes import HOST
from ..._arrays.first_values import FirstValue, Made
from ..._arrays.host import empty_aligned
from .host import shared_array, shared_tensor

__all__ = ["fill_in_ranges", "is_unshared", "made"]

Tensor = torch.Tensor


def made(first: FirstValue, dtype: Any, device: Any) -> Tensor:
    """A tensor of a first value, whose memory nobody else has: no part of it is ever twice in memory."""
    if device.type == "meta":
        return torch.empty(first.shape, dtype=dtype, device=device)
    if isinstance(first, Made):
        tensor = shared_tensor(first.to_host())
        return tensor if device.type == "cpu" else tensor.to(device)
    if first.constant is not None:
        try:
            return torch.full(first.shape, first.constant.item(), dtype=dtype, device=device)
        except (RuntimeError, OverflowError, TypeError):
            pass  # torch has no such function for a few dtypes, nor for the largest uint64
    tensor = torch.empty(first.shape, dtype=dtype, device=device)
    if device.type == "cpu":
        first.fill(shared_array(tensor).reshape(-1), 0)
        return tensor
    fill_in_ranges(tensor, first)
    return tensor


def fill_in_ranges(tensor: Tensor, first: FirstValue) -> None:
    """Writes a first value into a tensor of any device, by way of the host, a few megabytes at a time."""
    line = tensor.view(-1)
    for each in first.ranges():
        host = empty_aligned((len(each),), HOST[first.dtype])
        first.fill(host, each.start)
        line[each.start : each.stop].copy_(shared_tensor(host))
        del host


def is_unshared(held: list[Any]) -> bool:
    """Whether nobody but the list has the tensor, its memory, or a part of it."""
    if not _UNHELD or type(held[0]) is not Tensor or getweakrefcount(held[0]) or _counts_in(held) != _UNHELD:
        return False
    return _is_whole(held[0])


def _counts_in(held: list[Any]) -> tuple[int, ...]:
    """The references to the Python objects of a tensor and its storage, and in C++, where a graph may keep them."""
    storage = held[0].untyped_storage()
    references = sys.getrefcount(held[0]), sys.getrefcount(storage)
    return *references, held[0]._use_count(), torch._C._storage_Use_Count(storage._cdata)


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is as we would make it: no gradient, no view, contiguous, and in memory that is torch's own."""
    if tensor.requires_grad or tensor._is_view() or tensor.is_inference() or tensor.layout is not torch.strided:
        return False
    if not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg() or tensor.__dict__:
        return False
    storage = tensor.untyped_storage()
    # Torch cannot resize memory that it shares with NumPy, with DLPack, or with another process.
    return storage.resizable() and storage.nbytes() == tensor.numel() * tensor.element_size()


def _calibrate() -> tuple[int, ...]:
    """The counts of a tensor that only a list has; none, which never match, where counts prove nothing."""
    try:
        unheld = _counts_in([torch.empty(4, device="cpu")])
        counts = []
        for share in (Tensor.detach, Tensor.numpy, Tensor.untyped_storage, lambda each: each):
            held = [torch.empty(4, device="cpu")]
            other = share(held[0])
            counts.append(_counts_in(held))
            del other
    except AttributeError:  # not public
        return ()
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return unheld if gil and unheld not in counts else ()


_UNHELD = _calibrate()
