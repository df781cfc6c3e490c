"""Reads and writes at indices that lie on a device, which stay there.

NumPy checks and resolves an index on the host. A tensor on an accelerator would have to be copied there, and what it
selects copied back. Here torch does the same with it; only one flag, whether an index is out of range, is waited for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.indexing import OwnSelection
from .dtypes import ON_HOST

__all__ = ["get_own", "is_outside", "last_of_same", "rows_of", "takes_index"]

Tensor = torch.Tensor

#: Whether tensors on the host are indices that stay where they are, too, which only a test pretends.
on_host = False


def takes_index(part: Any) -> bool:
    return isinstance(part, Tensor) and (on_host or not part.is_cpu) and not isinstance(part, FakeTensor)


def is_outside(indices: list[tuple[Tensor, int]]) -> bool:
    with _disable_current_modes():
        wide = [(index.long(), size) for index, size in indices]
        flags = [((index < -size) | (index >= size)).any() for index, size in wide]
        return bool(torch.stack(flags).any()) if flags else False


def get_own(array: Tensor, where: OwnSelection) -> Tensor:
    if where.mask is not None:
        return array[where.mask.to(array.device)]
    index = _index(where, array.device)
    if len(index) == 1 and index[0].ndim == 1 and array.dtype not in ON_HOST:
        # The gradient of `index_select` adds rows, and that of ``array[index]`` sorts elements.
        return array.index_select(0, index[0] % array.shape[0])
    return array[index]


def rows_of(where: OwnSelection, device: Any) -> tuple[Tensor, tuple[int, ...]]:
    """The numbers of the selected rows, from 0, and the shape of the array as a table of rows.

    Where only a part of a row is selected, the rows are the single elements.
    """
    shape = where.of_shape
    if where.mask is not None:
        axes = where.mask.ndim
        return where.mask.to(device).reshape(-1).nonzero().reshape(-1), _table(shape, axes)
    parts = list(_index(where, device))
    while type(parts[-1]) is not Tensor and (parts[-1] is ... or parts[-1] == slice(None)):
        del parts[-1]
    if any(type(part) is not Tensor for part in parts):
        return _positions(where, device), (math.prod(shape),)
    numbers = parts[0] % shape[0]
    for part, size in zip(parts[1:], shape[1:], strict=False):
        numbers = numbers * size + part % size
    return numbers.reshape(-1), _table(shape, len(parts))


def _table(shape: tuple[int, ...], axes: int) -> tuple[int, ...]:
    return (math.prod(shape[:axes]), *shape[axes:])


def _positions(where: OwnSelection, device: Any) -> Tensor:
    """The positions of the selected elements in the flattened array."""
    shape = where.of_shape
    index = _index(where, device)
    total = torch.zeros((), dtype=torch.int64, device=device)
    stride = 1
    for axis in reversed(range(len(shape))):
        # A line with stride 0 along the other axes, so that no array of the full size is made.
        line = torch.arange(shape[axis], device=device)
        line = line.view([-1 if axis == other else 1 for other in range(len(shape))]).expand(shape)
        total = total + line[index] * stride
        stride *= shape[axis]
    return total.reshape(-1)


def last_of_same(positions: Tensor) -> Tensor:
    """For each position, where in the list the same position stands last: then the order of writes does not matter."""
    found, order = torch.sort(positions, stable=True)
    numbers = torch.arange(found.numel(), device=found.device)
    is_last = torch.ones_like(found, dtype=torch.bool)
    is_last[:-1] = found[1:] != found[:-1]
    ends = torch.where(is_last, numbers, found.numel()).flip(0).cummin(0).values.flip(0)
    return torch.empty_like(order).index_copy_(0, order, order[ends])


def _index(where: OwnSelection, device: Any) -> tuple[Any, ...]:
    """The index as torch takes it."""
    if where.mask is not None:
        return tuple(where.mask.to(device).nonzero(as_tuple=True))
    rank = max(part.ndim for part in where.index if isinstance(part, Tensor | np.ndarray))

    def taken(part: Any) -> Any:
        if isinstance(part, np.ndarray):
            return torch.from_numpy(part.astype(np.int64)).to(device)
        if isinstance(part, int):  # NumPy takes it for an array here; torch would select first
            return torch.full((1,) * rank, part, device=device)
        return part.to(device, torch.int64) if isinstance(part, Tensor) else part

    return tuple(map(taken, where.index))
