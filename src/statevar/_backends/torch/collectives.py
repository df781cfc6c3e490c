"""Combines tensors over the processes of torch.distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["all_reduce", "processes"]


def processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce(arrays: Sequence[torch.Tensor], reduction: str) -> list[torch.Tensor]:
    """Does what `Backend.all_reduce` does."""
    devices = {each.device for each in arrays}
    place = _place(arrays[0].device)
    with torch.no_grad():
        given = arrays if devices == {place} else [each.to(place) for each in arrays]
        flat = torch.cat([each if each.dim() == 1 else each.reshape(-1) for each in given])
        plain = torch.view_as_real(flat) if flat.is_complex() else flat
        if reduction == "first":
            dist.broadcast(plain, 0)
        else:
            dist.all_reduce(plain, getattr(dist.ReduceOp, _OPERATIONS[reduction]))
            if reduction == "mean":  # gloo has no mean
                flat.div_(dist.get_world_size())
        pieces: Any = flat.split([each.numel() for each in given])  # type: ignore[no-untyped-call]  # torch has no types there
        parts = [part if each.dim() == 1 else part.view(each.shape) for part, each in zip(pieces, given, strict=True)]
        if devices == {place}:
            return parts
        return [part.to(each.device) for part, each in zip(parts, arrays, strict=True)]


_OPERATIONS = {"mean": "SUM", "sum": "SUM", "min": "MIN", "max": "MAX"}


def _place(device: torch.device) -> torch.device:
    """Where the engine takes tensors of a device: NCCL takes none of the host."""
    if device.type == "cpu" and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return device
