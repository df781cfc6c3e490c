"""Text for people: tables in columns, sizes in bytes, numbers in few digits, names that cannot harm a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

__all__ = ["bytes_text", "columns", "count_text", "escaped", "number_text", "shape_text", "width_of"]


def escaped(text: object) -> str:
    r"""A text with an escape in the place of each character that does not print, such as a terminal's commands.

    >>> print(escaped("layer\x1b[2J\n"))
    layer\x1b[2J\n
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(text))


def bytes_text(size: float) -> str:
    """A number of bytes in units of 1000.

    >>> bytes_text(512), bytes_text(32_768), bytes_text(4_000_000_000)
    ('512 B', '32.8 kB', '4.0 GB')
    """
    units = iter(("kB", "MB", "GB", "TB", "PB"))
    unit = "B"
    while size >= (1000 if unit == "B" else 999.95) and (larger := next(units, None)):
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


def number_text(number: float | None) -> str:
    """A number in three significant digits, or "" of None.

    >>> number_text(0.0123456), number_text(1200.0), number_text(None)
    ('0.0123', '1.2e+03', '')
    """
    return "" if number is None else f"{number:.3g}"


def count_text(number: int, what: str) -> str:
    """A number of things.

    >>> count_text(1, "variable"), count_text(1200, "variable")
    ('1 variable', '1,200 variables')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shape_text(shape: Any) -> str:
    """A shape as people write it; ``?`` is an axis of any length.

    >>> shape_text((64, 128)), shape_text(()), shape_text((None, 4)), shape_text(...)
    ('64x128', 'scalar', '?x4', 'any')
    """
    if shape is None or shape is ...:
        return "any"
    return "x".join("?" if each is None else str(each) for each in shape) or "scalar"


def width_of(text: str) -> int:
    """The number of columns that a text takes in a terminal: East Asian characters take two, accents none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(each) in "WF" for each in text)
    return len(text) + wide - sum(unicodedata.combining(each) > 0 for each in text)


def columns(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Collection[str] = (),
    width: int | None = None,
    cut: str = "…",
) -> list[str]:
    r"""The lines of a table. Columns without any text are left out, and cells are escaped.

    Args:
        heads: the head of each column.
        rows: the cells of each row, as many as there are heads.
        right: the heads of the columns that are aligned on the right, as numbers are.
        width: the number of columns of the terminal. The first column, which has names, is cut on its left to fit.
        cut: the character that stands for what was cut off.

    >>> print(*columns(["path", "size"], [["w", "24 B"], ["steps", "4 B"]], right=["size"]), sep="\n")
    path   size
    w      24 B
    steps   4 B
    """
    cells = [[escaped(cell) for cell in row] for row in rows]
    kept = [at for at in range(len(heads)) if not cells or any(row[at] for row in cells)]
    table = [[heads[at] for at in kept], *([row[at] for at in kept] for row in cells)]
    widths = [max(map(width_of, column)) for column in zip(*table, strict=True)]
    if width is not None and widths:
        room = width - sum(widths[1:]) - 2 * (len(widths) - 1)
        widths[0] = max(min(widths[0], room), min(widths[0], 10))
    on_right = [heads[at] in right for at in kept]
    return [
        "  ".join(
            _aligned(_shortened(cell, length, cut) if not at else cell, length, on_right[at])
            for at, (cell, length) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _aligned(text: str, width: int, right: bool) -> str:
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def _shortened(text: str, width: int, mark: str) -> str:
    if width_of(text) <= width:
        return text
    text = text[-width:]  # a name from a file may have a million characters
    while width_of(text) > width - 1:
        text = text[1:]
    return f"{mark}{text}"
