"""`Rules`: which weights of one library are which of another, as data that serves both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, overload

from ..._public import public
from ...errors import describe
from .axes import Axes, parsed

__all__ = ["Names", "Rule", "Rules", "captured", "filled"]

#: The names of one side: a pattern, several for several arrays, or None if this side has no such weight.
Names = str | tuple[str, ...] | None


class Rule(NamedTuple):
    """One row of `Rules`.

    Attributes:
        source: a pattern of names in the source.
        target: a pattern of names in the target. Each ``*`` stands for what it stood for in the other one.
        axes: the axes of the source's array and of the target's, as ``"o i h w -> h w i o"``; empty if the arrays are
            the same.
        sizes: lengths of axes that cannot be computed from the shapes.
        kind: the kind of layer that it is for; empty for any.
        zeros: the name of the entries that must be zero in all summed arrays but the first, because the sum has no
            place for them.
    """

    source: Names
    target: Names
    axes: str = ""
    sizes: Mapping[str, int] = MappingProxyType({})
    kind: str = ""
    zeros: str = ""

    def inverse(self) -> Rule:
        axes = " -> ".join(reversed([side.strip() for side in self.axes.split("->")]))
        return self._replace(source=self.target, target=self.source, axes=axes)

    def sources(self) -> tuple[str, ...]:
        return _tuple(self.source)

    def targets(self) -> tuple[str, ...]:
        return _tuple(self.target)

    def parsed(self) -> Axes | None:
        """The axes; None if the arrays are the same."""
        axes = parsed(self.axes) if self.axes else None
        assert not isinstance(axes, str)  # `Rules` has checked it
        return axes

    def __str__(self) -> str:
        return f"({self.source!r}, {self.target!r}, {self.axes!r})"


@public()
class Rules(Sequence[Rule]):
    """Rules that turn names and arrays of one library into those of another, for `load`.

    A rule is a tuple ``(source, target, axes)``. Both names are patterns, in which ``*`` stands for any text, and
    ``*/`` at the beginning of a segment also for nothing. The target is None for weights that the other library does
    not have. The axes are in the notation of einops, and may be left out if the array stays as it is. A fourth item
    gives the lengths of axes that the shapes do not tell. The first rule that fits a weight counts.

    Args:
        rows: the rules.
        libraries: the names of both libraries, ``("torch", "nnx")``, by which the states of optimizers are found.
        kinds: the kind of layer at a path, for a target that does not tell, ``{"up": "conv_transpose"}``.

    Raises:
        ValueError: a rule is malformed.

    >>> import numpy as np
    >>> import statevar as sv
    >>> rules = sv.Rules([("*/weight", "*/kernel", "o (c h w) -> (h w c) o", {"h": 2, "w": 2})])
    >>> model = {"fc": {"kernel": sv.Variable(np.zeros((12, 5)))}}
    >>> sv.load(model, {"fc.weight": np.ones((5, 12))}, rules=rules).loaded
    ['fc/kernel']
    >>> rules.inverse()[0].axes
    '(h w c) o -> o (c h w)'
    """

    def __init__(
        self,
        rows: Iterable[Sequence[Any]],
        *,
        libraries: tuple[str, str] | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self.libraries = libraries
        self.kinds: Mapping[str, str] = kinds or {}
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise TypeError(describe("rules", f"expected a list of rules, got {type(rows).__name__}", hint=_FORM))
        self._rows = tuple(_checked(row) for row in rows)

    def inverse(self) -> Rules:
        """Returns the same rules for the other direction."""
        libraries = None if self.libraries is None else (self.libraries[1], self.libraries[0])
        return Rules((row.inverse() for row in self._rows), libraries=libraries, kinds=self.kinds)

    @overload
    def __getitem__(self, index: int) -> Rule: ...
    @overload
    def __getitem__(self, index: slice) -> Rules: ...
    def __getitem__(self, index: int | slice) -> Rule | Rules:
        return self._with(self._rows[index]) if isinstance(index, slice) else self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __add__(self, other: Iterable[Sequence[Any]]) -> Rules:
        return self._with([*self, *Rules(other)])

    def __radd__(self, other: Iterable[Sequence[Any]]) -> Rules:
        return self._with([*Rules(other), *self])

    def _with(self, rows: Iterable[Sequence[Any]]) -> Rules:
        return Rules(rows, libraries=self.libraries, kinds=self.kinds)

    def __eq__(self, other: object) -> bool:
        return self._rows == other._rows if isinstance(other, Rules) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(row[:3] for row in self._rows))

    def __repr__(self) -> str:
        return f"<Rules: {len(self)} rows>"


_FORM = 'a rule is ("*/weight", "*/kernel", "o i -> i o"): two patterns, the second may be None, and axes'


def _tuple(names: Names) -> tuple[str, ...]:
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)


def _checked(row: Any) -> Rule:
    """Returns a row as a `Rule`.

    Raises:
        ValueError: it is malformed.
    """
    if isinstance(row, str | bytes) or not isinstance(row, Sequence) or not 2 <= len(row) <= len(Rule._fields):
        raise ValueError(describe("rules", f"{row!r} is no rule", hint=_FORM))
    items: list[Any] = [tuple(each) if isinstance(each, list) else each for each in row]
    rule = Rule(*items)

    def refuse(problem: str) -> ValueError:
        return ValueError(describe("rules", f"{problem}, in the rule {rule}", hint=_FORM))

    for names in items[:2]:
        patterns = names if isinstance(names, tuple) else (names,)
        if names is not None and not (patterns and all(isinstance(each, str) and each for each in patterns)):
            raise refuse(f"expected a pattern, a tuple of patterns or None, got {names!r}")
    if rule.source is None and rule.target is None:
        raise refuse("both sides are None")
    axes: Any = rule.axes
    if not isinstance(axes, str):
        raise refuse(f"expected axes as a text, got {axes!r}")
    sizes: Any = rule.sizes
    if not isinstance(sizes, Mapping) or not all(isinstance(each, int) for each in sizes.values()):
        raise refuse(f"expected the lengths of axes by name, got {rule.sizes!r}")
    stars = {name.count("*") for name in (*rule.sources(), *rule.targets())}
    if len(stars) > 1:
        raise refuse("the patterns must have the same number of '*'")
    axes = parsed(axes) if axes.strip() else None
    if isinstance(axes, str):
        raise refuse(axes)
    if axes is None:
        if len(rule.sources()) > 1 or len(rule.targets()) > 1:
            raise refuse("several arrays need axes, whose first one counts the arrays")
        return rule._replace(axes="")
    for several, side, letter in ((rule.source, axes.left, "left"), (rule.target, axes.right, "right")):
        count = len(_tuple(several))
        if count > 1 and axes.summed != letter:
            first: Sequence[Any] = side.groups[0] if side.groups else ()
            if len(first) != 1 or (first[0].labels and len(first[0].labels) != count):
                raise refuse(f"the first of the axes {side.text!r} must count {count} arrays")
    known = {axis.name for axis in axes.left.axes()}
    if unknown := [name for name in rule.sizes if name not in known]:
        raise refuse(f"{unknown[0]!r} is none of the axes")
    return rule


def captured(pattern: str, name: str) -> tuple[str, ...] | None:
    """Returns what each ``*`` of a pattern stands for in a name; None if the name does not match.

    >>> captured("*/weight", "encoder/0/weight"), captured("*/weight", "weight"), captured("*/weight", "bias")
    (('encoder/0',), ('',), None)
    """
    found = _compiled(pattern).fullmatch(name)
    return None if found is None else tuple(each or "" for each in found.groups())


#: A star, with the slash that it takes along if it stands for nothing.
_STAR = re.compile(r"(?:(?<=/)|^)\*/|\*")


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    stars = ["(?:(.*)/)?" if star.endswith("/") else "(.*)" for star in _STAR.findall(pattern)]
    between = [re.escape(part) for part in _STAR.split(pattern)]
    return re.compile(between[0] + "".join(map("".join, zip(stars, between[1:], strict=True))), re.DOTALL)


def filled(pattern: str, texts: Sequence[str]) -> str:
    """Returns the name for a pattern, with a text in the place of each ``*``.

    >>> filled("params/*/kernel", ["encoder/0"]), filled("params/*/kernel", [""])
    ('params/encoder/0/kernel', 'params/kernel')
    """
    left = iter(texts)

    def text(star: re.Match[str]) -> str:
        found = next(left)
        return f"{found}/" if found and star[0].endswith("/") else found

    return _STAR.sub(text, pattern)


def no_table(source: str, target: str, libraries: Iterable[str], near: Sequence[str]) -> ValueError:
    hint = f"the libraries are {', '.join(libraries)}"
    if near and list(near) != [source, target]:
        hint = f"use sv.rules({near[0]!r}, {near[1]!r}); {hint}"
    return ValueError(describe("rules", f"there are no rules from {source!r} to {target!r}", hint=hint))
