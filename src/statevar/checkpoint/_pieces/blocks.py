"""Blocks of an array: how one is cut, which part of it another one needs, and whether some cover an array exactly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ..._arrays.shapes import Shape

__all__ = ["Block", "cut", "flaw_of", "shared"]

#: Bytes of the contiguous elements that a cut leaves at least: copying shorter ones is slow.
_RUN = 512
#: Levels at which an array is cut into blocks. Those of a mesh take one for each axis, and those of `cut` another one.
_DEEPEST = 200


class Block(NamedTuple):
    """A block of an array: where it begins, and its size, on each axis."""

    offsets: Shape
    sizes: Shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.sizes)

    @property
    def stops(self) -> Shape:
        """Where the block ends on each axis."""
        return tuple(offset + size for offset, size in zip(self.offsets, self.sizes, strict=True))

    def index_in(self, origin: Shape) -> Any:
        """The index of the block in an array that begins at ``origin``. It selects an array in any case."""
        found = zip(self.offsets, self.sizes, origin, strict=True)
        return (*(slice(offset - start, offset - start + size) for offset, size, start in found), ...)

    def ranges(self) -> str:
        """The block as an index is written: ``0:512,1024:2048``."""
        return ",".join(f"{start}:{stop}" for start, stop in zip(self.offsets, self.stops, strict=True))


def shared(one: Block, other: Block) -> Block | None:
    """The elements that two blocks of an array have in common; None if there are none."""
    offsets = tuple(map(max, one.offsets, other.offsets))
    stops = tuple(map(min, one.stops, other.stops))
    sizes = tuple(stop - offset for stop, offset in zip(stops, offsets, strict=True))
    return Block(offsets, sizes) if all(size > 0 for size in sizes) else None


def cut(block: Block, shape: Shape, width: int, limit: int) -> list[Block]:
    """Cuts a block into blocks of at most ``limit`` bytes each, as square as possible.

    The axis is halved on which the whole array has been cut least, and of several the last one. So a reader that needs
    another part of the array, cut over any axis, needs few elements that it does not want.

    Args:
        block: the block.
        shape: the shape of the whole array.
        width: bytes of an element.
        limit: the largest size.
    """
    sizes = list(block.sizes)
    while math.prod(sizes) * width > limit:
        axes = [axis for axis, size in enumerate(sizes) if size > 1 and _run(sizes, axis, width) >= _RUN]
        if not axes:
            break
        axis = min(axes, key=lambda each: (shape[each] / sizes[each], -each))
        sizes[axis] = -(-sizes[axis] // 2)
    starts = [range(0, whole, size) if size else (0,) for whole, size in zip(block.sizes, sizes, strict=True)]
    found: list[tuple[int, ...]] = [()]
    for each in starts:
        found = [(*before, start) for before in found for start in each]
    return [
        Block(
            tuple(offset + at for offset, at in zip(block.offsets, start, strict=True)),
            tuple(min(size, whole - at) for size, whole, at in zip(sizes, block.sizes, start, strict=True)),
        )
        for start in found
    ]


def _run(sizes: Sequence[int], axis: int, width: int) -> int:
    """The bytes of contiguous elements after a cut of this axis."""
    return -(-sizes[axis] // 2) * math.prod(sizes[axis + 1 :]) * width


def flaw_of(shape: Shape, blocks: Iterable[Block]) -> str | None:
    """Says why blocks do not cover an array exactly, each element once; None if they do.

    Blocks that no sequence of straight cuts makes, as in a pinwheel, are refused too: no mesh has them, and a forged
    file must not make this take long.
    """
    found = [each for each in blocks if each.size]
    for each in found:
        if len(each.sizes) != len(shape) or any(stop > whole for stop, whole in zip(each.stops, shape, strict=True)):
            return f"the piece [{each.ranges()}] is no part of an array of shape {shape}"
    covered, needed = sum(each.size for each in found), math.prod(shape)
    if covered < needed:
        return f"the pieces have {covered} of the {needed} elements"
    if covered > needed or not _are_apart(found, len(shape)):
        return "some pieces overlap"
    return None


def _are_apart(blocks: list[Block], ndim: int) -> bool:
    """Whether no two of some blocks overlap, as straight cuts show."""
    waiting = [(blocks, 0, 0, 0)]  # some blocks, the axis to try, the axes that were tried in vain, and the depth
    while waiting:
        some, axis, failed, depth = waiting.pop()
        if len(some) < 2:
            continue
        if failed == ndim or depth > _DEEPEST:
            return False
        groups = _parted(some, axis)
        following = (axis + 1) % ndim
        if len(groups) == 1:
            waiting.append((groups[0], following, failed + 1, depth))
        else:
            waiting += [(group, following, 0, depth + 1) for group in groups]
    return True


def _parted(blocks: list[Block], axis: int) -> list[list[Block]]:
    """Blocks in groups that straight cuts of one axis part."""
    groups: list[list[Block]] = []
    end = 0
    for each in sorted(blocks, key=lambda block: block.offsets[axis]):
        start = each.offsets[axis]
        if not groups or start >= end:
            groups.append([])
        groups[-1].append(each)
        end = max(end, start + each.sizes[axis])
    return groups
