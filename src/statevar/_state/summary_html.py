"""A summary as HTML: a table, or for a large model parts that fold, one in the other as the paths are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .._core.html import folded, page, table, text
from .._core.tables import bytes_text, count_text
from .rows import HEADS, RIGHT, Row

__all__ = ["html_of"]

_FEW = 24  # lines that need not be folded
_DEEP = 8  # parts in parts
_ALIASES = 100


def html_of(
    name: str, head: str, rows: Sequence[Row], cells: Sequence[Sequence[str]], aliases: Mapping[str, str], left: int
) -> str:
    """The HTML of a summary.

    Args:
        name: the name of the object's class.
        head: the totals.
        rows: the lines.
        cells: the text of each line, in the order of `HEADS`.
        aliases: each further path of a variable or a container, and its first path.
        left: the number of variables that are on no line.
    """
    body = _parts(list(zip(rows, cells, strict=True)), "", _DEEP)
    if left:
        body += _more(f"… and {count_text(left, 'more variable')}")
    for path, first in list(aliases.items())[:_ALIASES]:
        whose = f'<span class="name">{text(first)}</span>' if first else "the object itself"
        body += f'<div><span class="name">{text(path)}</span> is {whose}</div>'
    if len(aliases) > _ALIASES:
        body += _more(f"… and {count_text(len(aliases) - _ALIASES, 'more shared path')}")
    return page(folded(f'<b>{text(name)}</b> <span class="more">{text(head)}</span>', body, opened=True))


def _more(words: str) -> str:
    return f'<div class="more">{text(words)}</div>'


def _parts(lines: list[tuple[Row, Sequence[str]]], prefix: str, depth: int) -> str:
    """A table of lines whose paths begin with a prefix; if they are many, a part that folds for each next segment."""
    if len(lines) <= _FEW or not depth:
        return table(HEADS, [cells for _, cells in lines], RIGHT) if lines else ""
    parts: dict[str, list[tuple[Row, Sequence[str]]]] = {}
    for row, cells in lines:
        step, slash, rest = row.path[len(prefix) :].partition("/")
        parts.setdefault(f"{prefix}{step}/" if slash and rest else "", []).append((row, cells))
    alone = parts.pop("", [])
    if not alone and len(parts) == 1:
        ((longer, _),) = parts.items()
        return _parts(lines, longer, depth - 1)
    shown = table(HEADS, [cells for _, cells in alone], RIGHT) if alone else ""
    for path, own in parts.items():
        sizes = [count_text(sum(row.variables for row, _ in own), "variable")]
        sizes.append(count_text(sum(row.elements for row, _ in own), "element"))
        sizes.append(bytes_text(sum(row.bytes for row, _ in own)))
        part_head = f'<span class="name">{text(path)}</span> <span class="more">{text(", ".join(sizes))}</span>'
        shown += folded(part_head, _parts(own, path, depth - 1))
    return shown
