"""HTML for notebooks: tables, and parts that fold.

It needs no script and nothing from elsewhere, and suits light and dark pages. Every text is escaped, since names come
from files and from other people.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence

from .tables import escaped

__all__ = ["folded", "page", "table", "text"]

#: Colours are those of the page around it, and gray lines that are seen on white and on black.
_STYLE = """<style>
.statevar{font-size:13px;line-height:1.5;overflow-x:auto}
.statevar table{border-collapse:collapse;border:0;margin:2px 0 6px}
.statevar th,.statevar td{border:0;border-bottom:1px solid rgba(128,128,128,.25);padding:1px 12px 1px 0;text-align:left;
vertical-align:top;white-space:nowrap;background:none;color:inherit}
.statevar th{font-weight:600;opacity:.65}
.statevar .right{text-align:right;font-variant-numeric:tabular-nums}
.statevar .name,.statevar pre{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:12px}
.statevar .name{white-space:normal;overflow-wrap:anywhere;min-width:14em}
.statevar pre{margin:2px 0;background:none;color:inherit;border:0;padding:0;overflow-x:auto}
.statevar details>:not(summary){margin-left:14px}
.statevar summary{cursor:pointer}
.statevar .more{opacity:.65}
</style>"""


def text(value: object, *, lines: bool = False) -> str:
    r"""A text as HTML; characters that do not print are written as escapes, but for line ends if there are ``lines``.

    >>> text("<script>"), text("a\nb"), text("a\nb", lines=True) == "a\nb"
    ('&lt;script&gt;', 'a\\nb', True)
    """
    shown = "\n".join(map(escaped, str(value).split("\n"))) if lines else escaped(value)
    return html.escape(shown)


def page(*parts: str) -> str:
    """The whole HTML of a display."""
    return f'{_STYLE}<div class="statevar">{"".join(parts)}</div>'


def folded(head: str, body: str, *, opened: bool = False) -> str:
    """A part of which only the head is seen until somebody opens it."""
    return f"<details{' open' if opened else ''}><summary>{head}</summary>{body}</details>"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], right: Collection[str] = ()) -> str:
    """A table; its first column has names if it is not aligned on the right. Columns without any text are left out.

    >>> table(["path", "size"], [["w", "24 B"]])  # doctest: +ELLIPSIS
    '<table><thead><tr><th>path</th><th>size</th></tr></thead>...<td class="name">w</td><td>24 B</td></tr>...</table>'
    """
    cells = [[text(cell) for cell in row] for row in rows]
    kept = [at for at in range(len(heads)) if any(row[at] for row in cells)]
    mark = [' class="right"' if heads[at] in right else "" if at else ' class="name"' for at in kept]
    top = "".join(
        f"<th{each if 'right' in each else ''}>{text(heads[at])}</th>" for at, each in zip(kept, mark, strict=True)
    )
    body = "".join(
        f"<tr>{''.join(f'<td{each}>{row[at]}</td>' for at, each in zip(kept, mark, strict=True))}</tr>" for row in cells
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
