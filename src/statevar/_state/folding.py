"""Which variables of a large model share a line: those that are alike in numbered places, then all below a depth."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .entries import Entry

__all__ = ["folded_groups"]

#: A number that is a segment of a path.
_NUMBER = re.compile(r"(?:(?<=/)|^)\d+(?=/|$)")


def folded_groups(entries: Sequence[Entry], depth: int | None, most: int | None) -> list[tuple[str, list[int]]]:
    """The lines of a summary: what each is called, and the places of its entries.

    Args:
        entries: the entries.
        depth: the number of segments of a path that are told apart; None for as many as give at most ``most`` lines.
        most: the number of lines to aim at; None for a line for each entry.
    """
    if depth is not None:
        return _below(entries, [each.path for each in entries], depth)
    if most is None or len(entries) <= most:
        return [(each.path, [at]) for at, each in enumerate(entries)]
    patterns = [_NUMBER.sub("*", each.path) for each in entries]
    alike: dict[object, list[int]] = {}
    for at, (pattern, each) in enumerate(zip(patterns, entries, strict=True)):
        alike.setdefault((pattern, each[1:8]), []).append(at)
    groups = [(patterns[own[0]] if len(own) > 1 else entries[own[0]].path, own) for own in alike.values()]
    if len(groups) <= most:
        return groups
    return _below(entries, patterns, _deepest(patterns, most))


def _deepest(patterns: Sequence[str], most: int) -> int:
    """The largest depth at which there are few enough lines; at least 1."""
    segments = [pattern.split("/") for pattern in dict.fromkeys(patterns)]
    depth = 1
    while depth < max(map(len, segments)) and len({tuple(each[: depth + 1]) for each in segments}) <= most:
        depth += 1
    return depth


def _below(entries: Sequence[Entry], names: Sequence[str], depth: int) -> list[tuple[str, list[int]]]:
    """The entries whose names begin with the same segments. One with no more segments than that has its own path."""
    found: dict[str, list[int]] = {}
    for at, name in enumerate(names):
        parts = name.split("/", depth)
        found.setdefault(name if len(parts) <= depth else "/".join(parts[:depth]) + "/", []).append(at)
    return [
        (label if len(own) > 1 or label.endswith("/") else entries[own[0]].path, own) for label, own in found.items()
    ]
