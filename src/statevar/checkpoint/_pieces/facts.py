"""What each process has of each variable: whether all have the same, and who writes what of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Any

from ..._arrays.dtypes import STORED
from ..._arrays.shapes import Shape
from ..._arrays.sharded_backend import Piece
from .._formats.safetensors.header import digest_of
from .._formats.safetensors.values import to_tensor
from .._formats.safetensors.writer import ToWrite
from .blocks import Block, cut
from .part import Pieces

__all__ = ["WHOLE", "Holding", "dealt", "differences", "fact_of", "holding_of"]

#: Bytes of a block of a value that all processes have, of which each writes some.
_SHARE = 64 << 20

WHOLE, PARTS, NOTHING = "whole", "parts", "nothing"


@dataclass(frozen=True, slots=True)
class Holding:
    """What this process has of the value of a variable."""

    item: ToWrite
    kind: str  #: WHOLE, PARTS or NOTHING
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
        """The whole value."""
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
        return Holding(item, WHOLE, [])
    pieces = item.backend.pieces(item.value)  # type: ignore[attr-defined]  # of a ShardedBackend
    sizes = [tuple(item.backend.native.shape(each.array)) for each in pieces]
    if item.saved.shape in sizes:
        return Holding(item, WHOLE, [pieces[sizes.index(item.saved.shape)]])
    return Holding(item, PARTS if pieces else NOTHING, pieces)


def _width(dtype: str) -> int:
    width: int = STORED[dtype].itemsize
    return width


def fact_of(item: ToWrite, holding: Holding | None, version: int) -> list[Any]:
    """What must be the same in every process, as JSON: dtype, shape, what it has, and the version or the checksum.

    A value that all processes have is compared by its bytes. One that is spread is different in each process by its
    nature, so the number of writes is compared.
    """
    saved = item.saved
    if holding is None:
        return [saved.dtype, None, "", ""]
    if holding.kind != WHOLE:
        return [saved.dtype, saved.shape, holding.kind, version if holding.kind == PARTS else None]
    host = holding.blocks([]).host()
    return [saved.dtype, saved.shape, WHOLE, digest_of(to_tensor(host, saved.dtype))]


def differences(facts: Sequence[Mapping[str, list[Any]]]) -> list[tuple[str, str]]:
    """The path and the reason of each variable that is not the same in every process.

    Args:
        facts: `fact_of` each variable by path, of each process.
    """
    found = []
    for path in dict.fromkeys(path for mine in facts for path in mine):
        if absent := [index for index, mine in enumerate(facts) if path not in mine]:
            found.append((path, f"{_named(absent)} {'has' if len(absent) == 1 else 'have'} no such variable"))
            continue
        described = [f"{mine[path][0]}{'' if mine[path][1] is None else tuple(mine[path][1])}" for mine in facts]
        by_kind: dict[str, dict[int, Any]] = {WHOLE: {}, PARTS: {}, NOTHING: {}, "": {}}
        for index, mine in enumerate(facts):
            by_kind[mine[path][2]][index] = mine[path][3]
        if len(set(described)) > 1:
            found.append((path, f"its dtype or its shape differs: {_grouped(dict(enumerate(described)))}"))
        elif len(set(by_kind[WHOLE].values())) > 1:
            groups = _grouped(by_kind[WHOLE], show=False)
            found.append((path, f"its value is not the same in {groups}"))
        elif len(set(by_kind[PARTS].values())) > 1:
            counts = {index: f"{number} writes" for index, number in by_kind[PARTS].items()}
            found.append((path, f"it was not written as often in each process: {_grouped(counts)}"))
    return found


def _grouped(values: Mapping[int, str], *, show: bool = True) -> str:
    """Which processes have which value."""
    by_value: dict[str, list[int]] = {}
    for index, value in values.items():
        by_value.setdefault(value, []).append(index)
    if show:
        return ", ".join(f"{value} in {_named(indices)}" for value, indices in by_value.items())
    return " and in ".join(map(_named, by_value.values()))


def _named(indices: Sequence[int]) -> str:
    if len(indices) == 1:
        return f"process {indices[0]}"
    listed = ", ".join(map(str, indices[:8]))
    return f"processes {listed}" + (f" and {len(indices) - 8} more" if len(indices) > 8 else "")


def dealt(shapes: Mapping[str, tuple[str, Shape, int]], count: int) -> dict[str, dict[int, list[Block]]]:
    """Deals values that all processes have, so that each writes as many bytes. Every process computes the same.

    Args:
        shapes: by path, the dtype, the shape and the size in bytes.
        count: the number of processes.

    Returns:
        By path, the blocks that each process writes.
    """
    loads = [(0, index) for index in range(count)]
    heapify(loads)
    shares: list[tuple[int, str, Block]] = []
    for path, (dtype, shape, nbytes) in shapes.items():
        whole = Block((0,) * len(shape), shape)
        if dtype == "string" or not whole.size:
            shares.append((nbytes, path, whole))
            continue
        width = _width(dtype)
        shares += [(math.prod(each.sizes) * width, path, each) for each in cut(whole, shape, width, _SHARE)]
    found: dict[str, dict[int, list[Block]]] = {path: {} for path in shapes}
    for nbytes, path, block in sorted(shares, key=lambda share: (-share[0], *share[1:])):
        load, index = loads[0]
        heapreplace(loads, (load + nbytes, index))
        found[path].setdefault(index, []).append(block)
    return found
