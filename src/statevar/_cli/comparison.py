"""Compares two checkpoints: variables, values, flags, aliases, metadata and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._arrays.differences import Difference, difference
from .._core.tables import escaped, number_text, shape_text
from .._state.by_path import needed
from ..checkpoint._checkpoint import Checkpoint
from ..checkpoint._formats.safetensors.header import DIGITS
from ..checkpoint._formats.safetensors.values import VariableRecord
from .output import colored
from .reading import checked, first_name

__all__ = ["EXACT", "Comparison", "Tolerance", "compare", "compare_one", "counted"]


@dataclass(frozen=True)
class Tolerance:
    """What an element may differ by: ``absolute + relative * abs(a)``."""

    absolute: float = 0.0
    relative: float = 0.0


EXACT = Tolerance()


@dataclass
class Comparison:
    """How a second checkpoint differs from a first one.

    Attributes:
        same: how many variables are the same.
        added: the paths of variables that only the second one has.
        removed: the paths of variables that only the first one has.
        changed: the paths of variables that both have and that differ.
        facts: by path, each fact that differs: its name, and what it is in both.
        values: by path, how the values differ.
        aliases: the aliases that only one of them has: the path, the first path, and whether it is the second one.
        texts: what else differs, ``"metadata"`` or ``"metrics"``, by key: the value in ``"a"``, in ``"b"``, or in both.
    """

    same: int = 0
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    facts: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    values: dict[str, Difference] = field(default_factory=dict)
    aliases: list[tuple[str, str, bool]] = field(default_factory=list)
    texts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def is_same(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed or self.aliases or self.texts)

    def as_json(self) -> dict[str, Any]:
        """The comparison as JSON has it."""
        changed = {}
        for path in self.changed:
            each: dict[str, Any] = {}
            if path in self.facts:
                each["facts"] = {name: {"a": _json(a), "b": _json(b)} for name, (a, b) in self.facts[path].items()}
            if path in self.values:
                each["values"] = self.values[path]._asdict()
            changed[path] = each
        return {
            "same": self.same,
            "added": self.added,
            "removed": self.removed,
            "changed": changed,
            "aliases": {
                "added": {path: first for path, first, new in self.aliases if new},
                "removed": {path: first for path, first, new in self.aliases if not new},
            },
            **{what: self.texts.get(what, {}) for what in ("metadata", "metrics")},
        }

    def lines(self) -> Iterator[str]:
        """The comparison as lines of text, escaped and coloured."""
        for path in self.removed:
            yield colored(f"- {escaped(path)}", "red")
        for path in self.added:
            yield colored(f"+ {escaped(path)}", "green")
        for path in self.changed:
            parts = [f"{name} {_text(a)} -> {_text(b)}" for name, (a, b) in self.facts.get(path, {}).items()]
            parts += [value_text(self.values[path])] if path in self.values else []
            yield f"{colored(f'~ {escaped(path)}', 'cyan')}  {'; '.join(parts)}"
        for path, first, new in self.aliases:
            yield colored(f"{'+' if new else '-'} alias {escaped(path)} = {escaped(first)}", "green" if new else "red")
        for what, keys in self.texts.items():
            for key, sides in keys.items():
                a, b = (escaped(repr(sides[side])) if side in sides else "nothing" for side in "ab")
                yield f"{colored(f'~ {what} {escaped(key)}', 'cyan')}  {a} -> {b}"


_FACTS = ("dtype", "shape", "declared", "trainable", "autocast", "aggregation")


def compare(
    a: Checkpoint, b: Checkpoint, wanted: Callable[[str], bool] | None = None, tolerance: Tolerance = EXACT
) -> Comparison:
    """Compares two open checkpoints. Arrays with the same checksum are not read.

    Which library a variable was saved from is not compared: it changes no value.

    Args:
        a: the first one.
        b: the second one.
        wanted: whether to compare the variable at a path; None for all, and for metadata and metrics.
        tolerance: what elements may differ by.

    Raises:
        CheckpointError: an array is damaged.
    """
    found = Comparison()
    seen: dict[str, str] = {}  # the paths in the first one, and those in the second one
    for name in {**a.variables, **b.variables}:
        if wanted is not None and not wanted(name):
            continue
        here, there = first_name(a, name), first_name(b, name)
        # One variable may have its first path here, and the same path as a further one there.
        if here is None or there is None:
            if here not in seen and there not in seen.values():
                (found.added if here is None else found.removed).append(name)
            continue
        if seen.get(here) == there:
            continue
        seen[here] = there
        compare_one(found, name, (a, here), (b, there), tolerance)
    _compare_aliases(found, a, b, wanted)
    if wanted is None:
        _compare_texts(found, "metadata", a.metadata, b.metadata)
        _compare_texts(found, "metrics", a.metrics, b.metrics)
    return found


def compare_one(
    found: Comparison,
    name: str,
    one: tuple[Checkpoint, str],
    other: tuple[Checkpoint, str],
    tolerance: Tolerance = EXACT,
) -> None:
    """Adds to a comparison how a variable of one checkpoint and one of another differ, under a name."""
    (a, here), (b, there) = one, other
    facts = _facts(a.variables[here], b.variables[there])
    values = _values(a, here, b, there, tolerance)
    if facts:
        found.facts[name] = facts
    if values is not None and values.changed:
        found.values[name] = values
    if name in found.facts or name in found.values:
        found.changed.append(name)
    else:
        found.same += 1


def _facts(a: VariableRecord, b: VariableRecord) -> dict[str, tuple[Any, Any]]:
    different = {name: (getattr(a, name), getattr(b, name)) for name in _FACTS if getattr(a, name) != getattr(b, name)}
    if "shape" in different and (a.declared, b.declared) == (a.shape, b.shape):
        different.pop("declared")  # it says the same again
    return different


def _values(a: Checkpoint, here: str, b: Checkpoint, there: str, tolerance: Tolerance) -> Difference | None:
    """How two values differ; None if they cannot be compared, or are the same by their checksums."""
    x, y = a.variables[here], b.variables[there]
    if x.shape is None or x.shape != y.shape or (x.dtype != y.dtype and {x.dtype[:3], y.dtype[:3]} & {"key", "str"}):
        return None
    if x.dtype == y.dtype:
        ours, theirs = a.checksum(here), b.checksum(there)
        if ours is not None and ours == theirs and len(ours) == DIGITS:
            return None
    return difference(checked(a, here), checked(b, there), tolerance.absolute, tolerance.relative)


def _compare_aliases(found: Comparison, a: Checkpoint, b: Checkpoint, wanted: Callable[[str], bool] | None) -> None:
    """Adds the aliases that differ. Which of two paths is the first one makes no difference."""
    for one, other, new in ((a, b, False), (b, a, True)):
        aliases = one.aliases if wanted is None else needed(one.aliases, filter(wanted, one.variables))
        for path, first in aliases.items():
            if other.aliases.get(path) != first and other.aliases.get(first) != path:
                found.aliases.append((path, first, new))


def _compare_texts(found: Comparison, what: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    different: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys((*a, *b)):
        sides = {side: each[key] for side, each in (("a", a), ("b", b)) if key in each}
        if len(sides) == 1 or not _equal(*sides.values()):
            different[str(key)] = sides
    if different:
        found.texts[what] = different


def _equal(a: Any, b: Any) -> bool:
    """Whether two values of JSON are equal; NaN equals NaN, and True is not 1."""
    return repr(a) == repr(b) if type(a) is not dict else bool(a == b)


def value_text(found: Difference) -> str:
    """How values differ, as a phrase."""
    text = f"{found.changed:,} of {found.elements:,} differ"
    if found.maximum:
        text += f", by at most {number_text(found.maximum)}"
    if found.relative:
        text += f" (relative {number_text(found.relative)})"
    return text + (f", {found.nan:,} NaN on one side" if found.nan else "")


def counted(variables: int) -> str:
    """A number of variables as a phrase.

    >>> counted(1), counted(2)
    ('1 variable', '2 variables')
    """
    return f"{variables} variable{'' if variables == 1 else 's'}"


def _json(fact: Any) -> Any:
    return "..." if fact is ... else list(fact) if isinstance(fact, tuple) else fact


def _text(fact: Any) -> str:
    if isinstance(fact, bool):
        return str(fact).lower()
    if isinstance(fact, str):
        return escaped(fact)
    return "no value" if fact is None else shape_text(fact)
