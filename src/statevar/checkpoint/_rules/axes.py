"""The axes of a rule, such as ``o i h w -> h w i o``: reads the notation, and rearranges arrays by it.

The notation is that of einops, with three additions that weights need. Each can be undone, so a rule serves both ways:

=============  =====================================================================================================
``(c h w)``    one axis of the array that consists of several
``1``          an axis of length one, which the other side does not have
``-h``         the axis runs backwards: kernels of transposed convolutions
``[r z n]``    an axis whose entries have names; the other side may have them in another order: the gates of a GRU
``+``          only at the beginning: the first axis, of which the other side has the sum. On the way back the first
               entry is the sum, and the others are zero
=============  =====================================================================================================

If a side of a rule has several arrays, its first axis counts them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray

__all__ = ["Axes", "parsed"]


class _Axis(NamedTuple):
    name: str
    backwards: bool = False
    labels: tuple[str, ...] = ()


class _Side(NamedTuple):
    """One side of the arrow: for each axis of the array, the axes that it consists of."""

    text: str
    groups: tuple[tuple[_Axis, ...], ...]

    def axes(self) -> list[_Axis]:
        return [axis for group in self.groups for axis in group]


class Axes(NamedTuple):
    """Both sides of a rule's axes.

    Attributes:
        summed: the side that begins with ``+``, ``"left"`` or ``"right"``; empty if there is none. That axis is not
            among those of the side.
    """

    left: _Side
    right: _Side
    summed: str = ""

    def inverse(self) -> Axes:
        return Axes(self.right, self.left, {"left": "right", "right": "left"}.get(self.summed, ""))

    def sizes(self, shape: Shape, target: Shape | None, known: Mapping[str, int]) -> dict[str, int] | str:
        """Returns the length of each axis, from the shapes of both sides; a text that says why if there is none.

        Args:
            shape: the shape of the left side.
            target: the shape of the right side; None if it is not known.
            known: lengths that the rule gives.
        """
        sizes = {axis.name: len(axis.labels) for axis in self.left.axes() if axis.labels} | dict(known)
        sides = [(self.left, shape)] + ([] if target is None else [(self.right, target)])
        for side, lengths in sides:
            if len(side.groups) != len(lengths):
                return f"{side.text!r} has {len(side.groups)} axes, and the array of shape {lengths} has {len(lengths)}"
        open_groups = [
            (side.text, lengths, group, length)
            for side, lengths in sides
            for group, length in zip(side.groups, lengths, strict=True)
        ]
        while open_groups:
            still = []
            for text, lengths, group, length in open_groups:
                unknown = [axis.name for axis in group if axis.name not in sizes]
                rest = math.prod(sizes[axis.name] for axis in group if axis.name in sizes)
                if len(unknown) > 1 or (unknown and rest == 0):
                    still.append((text, lengths, group, length))
                elif unknown and length % rest == 0:
                    sizes[unknown[0]] = length // rest
                elif unknown or rest != length:
                    return f"{text!r} does not fit the shape {lengths}"
            if len(still) == len(open_groups):
                names = [axis.name for axis in still[0][2] if axis.name not in sizes]
                return f"the lengths of {' and '.join(names)} are not known; add {{{names[-1]!r}: ...}} to the rule"
            open_groups = still
        return sizes

    def apply(self, array: HostArray, sizes: Mapping[str, int]) -> HostArray:
        """Rearranges the array of the left side to the right side: a view of it where NumPy has one."""
        before, after = self.left.axes(), self.right.axes()
        place = {axis.name: i for i, axis in enumerate(before)}
        array = array.reshape([sizes[axis.name] for axis in before])
        array = array.transpose([place[axis.name] for axis in after])
        for i, axis in enumerate(after):
            old = before[place[axis.name]]
            if axis.backwards != old.backwards:
                array = np.flip(array, i)
            if axis.labels != old.labels:
                array = array.take([old.labels.index(label) for label in axis.labels], i)
        return array.reshape(self.shape(sizes))

    def shape(self, sizes: Mapping[str, int]) -> Shape:
        """The shape of the right side."""
        return tuple(math.prod(sizes[axis.name] for axis in group) for group in self.right.groups)


@lru_cache(maxsize=1024)
def parsed(text: str) -> Axes | str:
    """Reads the axes of a rule; returns a text that says what is wrong if they are malformed.

    >>> axes = parsed("o (c h w) -> (h w c) o")
    >>> sizes = axes.sizes((5, 24), None, {"h": 2, "w": 3})
    >>> axes.apply(np.zeros((5, 24)), sizes).shape
    (24, 5)
    >>> parsed("o i -> i")
    "'o' is on one side only"
    """
    sides = text.split("->")
    if len(sides) != 2:
        return "there must be exactly one '->'"
    summed = ""
    read: list[_Side] = []
    for name, side in zip(("left", "right"), sides, strict=True):
        rest = side.strip()
        if rest.startswith("+"):
            if summed:
                return "'+' is on both sides"
            summed, rest = name, rest[1:].strip()
        found = _side(rest)
        if isinstance(found, str):
            return found
        read.append(found)
    left, right = read
    names = [[axis.name for axis in side.axes()] for side in read]
    for mine, other in (names, names[::-1]):
        if alone := [each for each in mine if each not in other]:
            return f"{alone[0]!r} is on one side only"
    return Axes(left, right, summed)


_TOKEN = re.compile(
    r"\s*(?:(?P<open>\()|(?P<close>\))|\[(?P<labels>[^\]]*)\]|(?P<name>-?[A-Za-z_]\w*)|(?P<one>1(?!\w)))"
)


def _side(text: str) -> _Side | str:
    groups: list[tuple[_Axis, ...]] = []
    group: list[_Axis] | None = None  # the axes since an opening bracket
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            return f"{text[place:].split(maxsplit=1)[0]!r} is no axis"
        place = token.end()
        if token["open"]:
            if group is not None:
                return "a bracket in a bracket"
            group = []
        elif token["close"]:
            if group is None:
                return "a ')' without a '('"
            groups.append(tuple(group))
            group = None
        elif token["one"]:
            if group is None:
                groups.append(())
        else:
            axis = _axis(token["name"], token["labels"])
            if isinstance(axis, str):
                return axis
            if group is None:
                groups.append((axis,))
            else:
                group.append(axis)
    if group is not None:
        return "a '(' without a ')'"
    side = _Side(text, tuple(groups))
    names = [axis.name for axis in side.axes()]
    if twice := [name for name in names if names.count(name) > 1]:
        return f"{twice[0]!r} is twice on one side"
    return side


def _axis(name: str | None, labels: str | None) -> _Axis | str:
    if name is not None:
        return _Axis(name.removeprefix("-"), name.startswith("-"))
    found = tuple((labels or "").split())
    if not found or len(set(found)) < len(found):
        return f"'[{labels}]' needs different names"
    return _Axis(f"[{' '.join(sorted(found))}]", labels=found)
