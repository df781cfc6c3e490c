"""Combines tensors over the processes of torch.distributed."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["all_reduce", "processes"]


def processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce(arrays: Sequence[torch.Tensor], reduction: str) -> list[torch.Tensor]:
    """Does what `Backend.all_reduce` does."""
    homes = [each.device for each in arrays]
    with torch.no_grad():
        place = _place(homes[0])
        flat = torch.cat([each.detach().reshape(-1).to(place) for each in arrays])  # a copy, also of one
        plain = torch.view_as_real(flat) if flat.is_complex() else flat
        if reduction == "first":
            dist.broadcast(plain, 0)
        else:
            dist.all_reduce(plain, getattr(dist.ReduceOp, _OPERATIONS[reduction]))
            if reduction == "mean":  # gloo has no mean
                flat.div_(dist.get_world_size())
        parts: Any = flat.split([prod(each.shape) for each in arrays])  # type: ignore[no-untyped-call]
        return [part.view(each.shape).to(home) for part, each, home in zip(parts, arrays, homes, strict=True)]


_OPERATIONS = {"mean": "SUM", "sum": "SUM", "min": "MIN", "max": "MAX"}


def _place(device: torch.device) -> torch.device:
    """Where the engine takes tensors of a device: NCCL takes none of the host."""
    if device.type == "cpu" and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return device
