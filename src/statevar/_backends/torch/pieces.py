"""The blocks of which the part of a process consists: to be saved, and to be read."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..._arrays.shapes import Shape
from ..._arrays.sharded_backend import Piece, ReadBlock
from ..._arrays.types import HostArray
from .host import shared_tensor
from .layout import Layout

__all__ = ["from_pieces", "own", "pieces"]

Tensor = torch.Tensor


def pieces(local: Tensor, layout: Layout, first: bool) -> list[Piece]:
    """The blocks of the part of this process, without copies; none if its part is empty and others have the value."""
    if layout.cut and not local.numel():
        return []
    return [
        Piece(offsets, local[tuple(slice(start, start + size) for start, size in zip(at, sizes, strict=True))], first)
        for offsets, at, sizes in _blocks(layout)
    ]


def from_pieces(layout: Layout, dtype: Any, read: ReadBlock) -> Tensor:
    """The part of this process, from the blocks that are read."""
    device = layout.sharding.mesh.device_type
    blocks = _blocks(layout)
    if layout.cut and not all(layout.sizes):
        return torch.empty(layout.sizes, dtype=dtype, device=device)
    if len(blocks) == 1:
        return shared_tensor(_kept(read(blocks[0][0], layout.sizes))).to(device)
    local = torch.empty(layout.sizes, dtype=dtype, device=device)
    for offsets, at, sizes in blocks:
        block = shared_tensor(_kept(read(offsets, sizes)))
        local[tuple(slice(start, start + size) for start, size in zip(at, sizes, strict=True))] = block.to(device)
    return local


def _kept(host: HostArray) -> HostArray:
    """A block that was read, in memory that nobody else has."""
    return host if host.flags.writeable and host.flags.c_contiguous else own(host)


def own(host: HostArray) -> HostArray:
    """The same elements in memory of their own."""
    return np.array(host, order="C")


def _runs(positions: Any) -> list[tuple[int, int, int]]:
    """(start, index, size) of the consecutive positions."""
    if type(positions) is range:
        return [(positions.start, 0, len(positions))]
    cuts = [0, *(np.flatnonzero(np.diff(positions) != 1) + 1).tolist(), len(positions)]
    return [(int(positions[a]), a, b - a) for a, b in pairwise(cuts)]


def _blocks(layout: Layout) -> list[tuple[Shape, Shape, Shape]]:
    """(offsets, place in the part, sizes) of the blocks of which a part consists."""
    found: list[tuple[Shape, Shape, Shape]] = [((), (), ())]
    for positions in layout.axes:
        found = [
            ((*offsets, start), (*at, index), (*sizes, size))
            for offsets, at, sizes in found
            for start, index, size in _runs(positions)
        ]
    return found
