"""What each process has of each value, and who writes what of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from heapq import heapify, heapreplace

from ..._arrays.dtypes import STORED
from ..._arrays.shapes import Shape
from ..._arrays.sharded_backend import Piece
from .._formats.safetensors.writer import ToWrite
from .blocks import Block, cut
from .part import Pieces

__all__ = ["Holding", "dealt", "holding_of"]

#: The smallest and the largest block of a value that all processes have, of which each writes some.
_LEAST, _MOST = 1 << 20, 64 << 20
_SHARES = 8  # blocks that each process writes at least, so that none writes much more than another one


@dataclass(frozen=True, slots=True)
class Holding:
    """What this process has of the value of a variable."""

    item: ToWrite
    is_whole: bool  #: whether it has all of it
    pieces: list[Piece]  #: of a value that is spread

    def piece(self, piece: Piece) -> Pieces:
        """A piece, to be written."""
        native, shape = self.item.backend.native, self.shape
        block = Block(tuple(piece.offsets), tuple(native.shape(piece.array)))
        return Pieces(self.item.path, self.item.saved.dtype, shape, native, piece.array, block.offsets, [block])

    def blocks(self, blocks: list[Block]) -> Pieces:
        """Some blocks of a value that this process has as a whole, to be written."""
        item, shape = self.item, self.shape
        backend, value = (item.backend, item.value) if not self.pieces else (item.backend.native, self.pieces[0].array)
        return Pieces(item.path, item.saved.dtype, shape, backend, value, (0,) * len(shape), blocks)

    def whole(self) -> Block:
        """The block that is the whole value."""
        return Block((0,) * len(self.shape), self.shape)

    def described(self) -> tuple[str, Shape, int]:
        """The dtype, the shape, and the size in bytes of the value."""
        saved = self.item.saved
        nbytes = self.item.tensor().nbytes if saved.dtype == "string" else math.prod(self.shape) * _width(saved.dtype)
        return saved.dtype, self.shape, nbytes

    @property
    def shape(self) -> Shape:
        """The shape of the whole value."""
        assert self.item.saved.shape is not None
        return self.item.saved.shape


def holding_of(item: ToWrite) -> Holding:
    """Looks at what this process has of a value, without communication."""
    if not item.backend.is_sharded:
        return Holding(item, True, [])
    pieces = item.backend.pieces(item.value)  # type: ignore[attr-defined]  # of a ShardedBackend
    sizes = [tuple(item.backend.native.shape(each.array)) for each in pieces]
    if item.saved.shape in sizes:
        return Holding(item, True, [pieces[sizes.index(item.saved.shape)]])
    return Holding(item, False, pieces)


def _width(dtype: str) -> int:
    width: int = STORED[dtype].itemsize
    return width


def dealt(shapes: Mapping[str, tuple[str, Shape, int]], count: int) -> dict[str, dict[int, list[Block]]]:
    """Deals values that all processes have, so that each writes as many bytes. Every process computes the same.

    Args:
        shapes: by path, the dtype, the shape and the size in bytes.
        count: the number of processes.

    Returns:
        By path, the blocks that each process writes.
    """
    limit = min(_MOST, max(_LEAST, sum(nbytes for _, _, nbytes in shapes.values()) // (_SHARES * count)))
    loads = [(0, index) for index in range(count)]
    heapify(loads)
    shares: list[tuple[int, str, Block]] = []
    for path, (dtype, shape, nbytes) in shapes.items():
        whole = Block((0,) * len(shape), shape)
        if dtype == "string" or not whole.size:
            shares.append((nbytes, path, whole))
            continue
        width = _width(dtype)
        shares += [(math.prod(each.sizes) * width, path, each) for each in cut(whole, shape, width, limit)]
    found: dict[str, dict[int, list[Block]]] = {path: {} for path in shapes}
    for nbytes, path, block in sorted(shares, key=lambda share: (-share[0], *share[1:])):
        load, index = loads[0]
        heapreplace(loads, (load + nbytes, index))
        found[path].setdefault(index, []).append(block)
    return found
