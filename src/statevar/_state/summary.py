"""`summary`: what is in a model, as a table. `print(model)` and the displays of notebooks are made of it."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._core.shown import Raw, Shown
from .._core.tables import bytes_text, columns, count_text, escaped
from .._core.variable import Variable
from .._public import public
from ..errors import describe
from .entries import Entry, Source, entry_of, figures_of
from .folding import folded_groups
from .names import named
from .paths import path_matches, paths_in
from .rows import HEADS, RIGHT, Row, cells_of, row_of

__all__ = ["Summary", "shown_summary", "summary"]

#: The lines of a summary, if nobody says how many.
_LINES = 50
_ALIASES = 10
_LINES_OF_HTML = 1000
#: The columns whose cells say nothing without their heads.
_NAMED = frozenset({"variables", "mean", "std", "not finite", "trainable"})


@public()
class Summary(Shown):
    """The variables of an object at one moment, as a table that prints. `summary` makes it.

    Attributes:
        name: the name of the object's class.
        rows: the lines of the table, as named tuples, which ``pandas.DataFrame(summary.rows)`` takes.
        left_out: the number of variables that are on no line, since there would be too many.
        aliases: each further path of a variable or a container, and its first path.
        variables: the number of variables.
        elements: the number of elements of all variables.
        trainable_elements: the number of elements of the variables that are trainable.
        bytes: the number of bytes that the elements take in NumPy.

    >>> import statevar as sv
    >>> found = sv.summary({"w": sv.Variable([1.0, 3.0]), "steps": sv.Variable(7)})
    >>> found.variables, found.bytes
    (2, 12)
    >>> [(row.path, row.shape, row.mean) for row in found.rows]
    [('w', (2,), 2.0), ('steps', (), 7.0)]
    """

    def __init__(
        self,
        name: str,
        entries: Sequence[Entry],
        sources: Sequence[Source],
        aliases: Mapping[str, str],
        *,
        depth: int | None = None,
        limit: int | None = _LINES,
        stats: bool | None = None,
    ) -> None:
        self.name = name
        self.aliases: dict[str, str] = dict(aliases)
        self.variables: int = len(entries)
        self.elements: int = 0
        self.trainable_elements: int = 0
        self.bytes: int = 0
        for each in entries:
            self.elements += each.elements
            self.bytes += each.bytes
            self.trainable_elements += each.elements * each.trainable
        self._entries = entries
        self._figures, self._notes = figures_of(entries, sources, stats)
        self._is_default = depth is None and limit == _LINES
        rows = self._grouped(depth, limit)
        self.rows: list[Row] = rows if limit is None else rows[:limit]
        self.left_out: int = sum(row.variables for row in rows[len(self.rows) :])

    def head(self) -> str:
        """The totals, in one line."""
        counts = [count_text(self.variables, "variable")]
        without = sum(1 for each in self._entries if each.note)
        if without:
            counts.append(f"{without:,} without a value")
        elements = count_text(self.elements, "element")
        if self.trainable_elements < self.elements:
            elements += f" ({self.trainable_elements:,} trainable)"
        counts += [elements, bytes_text(self.bytes)]
        places = self._places()
        return ", ".join([*counts, *(places if len(places) == 1 else ())])

    def _places(self) -> list[str]:
        return [each for each in dict.fromkeys(each.where for each in self._entries) if each]

    def _grouped(self, depth: int | None, most: int | None) -> list[Row]:
        """The lines, which may be more than ``most`` where folding does not help."""
        groups = folded_groups(self._entries, depth, most)
        return [row_of(label, own, self._entries, self._figures, self._notes) for label, own in groups]

    def cells(self, rows: Sequence[Row]) -> list[list[str]]:
        """The cells of lines, by column; a column that would say the same in each line is empty."""
        several = len(self._places()) > 1
        mixed = 0 < self.trainable_elements < self.elements
        grouped = any(row.variables > 1 for row in rows)
        return [cells_of(row, several=several, mixed=mixed, grouped=grouped) for row in rows]

    def lines(self, width: int | None = None) -> list[str]:
        """The lines of the text. The paths are cut so that a line has ``width`` characters."""
        cells = self.cells(self.rows)
        lines = [f"{escaped(self.name)}: {self.head()}"]
        if cells:
            lines += [f"  {line}" for line in columns(HEADS, cells, RIGHT, None if width is None else width - 2)]
        if self.left_out:
            lines.append(f"  … and {count_text(self.left_out, 'more variable')}")
        aliases = list(self.aliases.items())
        lines += [f"  {escaped(path)} is {escaped(first) or 'the object itself'}" for path, first in aliases[:_ALIASES]]
        if len(aliases) > _ALIASES:
            lines.append(f"  … and {count_text(len(aliases) - _ALIASES, 'more shared path')}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())

    __repr__ = __str__
    _repr_pretty_ = Shown._repr_pretty_  # IPython looks no further than the class with `__repr__`

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Yields the lines, which fit the width of rich's console."""
        from rich.text import Text  # noqa: PLC0415  # only rich itself calls this

        yield Text("\n".join(self.lines(options.max_width)), no_wrap=True, overflow="ellipsis")

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        yield "", self.name
        yield from self.parts()

    def parts(self) -> Iterator[tuple[str, Any]]:
        """The totals and the lines for printers of nested objects: the facts of each by its path."""
        yield "variables", self.variables
        yield "elements", self.elements
        yield "bytes", self.bytes
        for path, *cells in self.cells(self.rows):
            facts = [
                f"{head}={cell}" if cell and head in _NAMED else cell
                for head, cell in zip(HEADS[1:], cells, strict=True)
            ]
            yield path, Raw(escaped(" ".join(filter(None, facts))))

    def _shown_html(self) -> str:
        from .summary_html import html_of  # noqa: PLC0415  # imported when a notebook asks for it

        rows = self._grouped(None, _LINES_OF_HTML)[:_LINES_OF_HTML] if self._is_default else self.rows
        left = self.variables - sum(row.variables for row in rows)
        return html_of(self.name, self.head(), rows, self.cells(rows), self.aliases, left)


@public()
def summary(
    obj: Any,
    *,
    depth: int | None = None,
    only: str | Sequence[str] | None = None,
    limit: int | None = _LINES,
    stats: bool | None = None,
) -> Summary:
    """Lists the variables in any object: path, shape, dtype, bytes, mean and standard deviation, and the totals.

    The columns for the device and for trainable are there if they differ. A variable that several paths lead to is
    listed once. Nothing is changed, initialized or sent to other processes, and no value is read while it is traced.

    Args:
        obj: anything that `named_variables` and `save` take: a `Module`, a model or an optimizer of another library, a
            container, a variable; also a `Snapshot`, or an opened `Checkpoint`.
        depth: the number of segments of the paths that are told apart; variables below share a line. By default
            variables that differ only in the numbers of their paths share one if there are more than ``limit`` lines
            otherwise (``layers/*/kernel``); and if there are still more, all that is below some depth does.
        only: a pattern, or several, for the paths to list: ``"*/kernel"``.
        limit: the largest number of lines; None is one line for each variable.
        stats: whether the mean and standard deviation are computed. By default they are for the smallest values, up to
            about 16 million elements in all, and for none in a file; True looks at all of them, one after the other.

    Raises:
        ForeignStateError: the object contains state that cannot be taken.
        TypeError: the object contains no variable.
        ValueError: ``depth`` or ``limit`` is no positive number; or no path matches ``only``.

    Source: ``keras.Model.summary``, ``flax.nnx.tabulate``.

    >>> import statevar as sv
    >>> model = {"kernel": sv.Variable([[1.0, 2.0], [3.0, 4.0]]), "steps": sv.Variable(1172)}
    >>> sv.summary(model)
    dict: 2 variables, 5 elements (4 trainable), 20 B, numpy on CPU:0
      path    shape   dtype    bytes  mean   std  trainable
      kernel  2x2     float32   16 B   2.5  1.12  yes
      steps   scalar  int32      4 B  1172        no
    """
    for name, number in (("depth", depth), ("limit", limit)):
        if number is not None and (isinstance(number, bool) or operator.index(number) < 1):
            raise ValueError(describe("summary", f"expected a positive {name}, got {number!r}"))
    own = getattr(type(obj), "_summarized", None)
    if own is not None:
        entries, sources, aliases, stats = own(obj, stats)
    else:
        obj = list(obj) if isinstance(obj, Iterator) else obj
        paths = paths_in("summary", obj)
        entries, sources = [entry_of(*each) for each in paths.variables.items()], list(paths.variables.values())
        aliases = paths.aliases
    if only is not None:
        wanted = path_matches(only)
        kept = [at for at, each in enumerate(entries) if wanted(each.path)]
        if not kept:
            raise ValueError(describe("summary", f"no path matches only={only!r}"))
        entries, sources = [entries[at] for at in kept], [sources[at] for at in kept]
        aliases = {path: first for path, first in aliases.items() if wanted(first)}
    return Summary(type(obj).__name__, entries, sources, aliases, depth=depth, limit=limit, stats=stats)


def shown_summary(obj: Any) -> Summary:
    """The summary of an object for a display, which shows what it can: of the state of others only what is taken."""
    own = getattr(type(obj), "_summarized", None)
    if own is not None:
        entries, sources, aliases, stats = own(obj, None)
        return Summary(type(obj).__name__, entries, sources, aliases, stats=stats)
    variables, names = named(obj, Variable)
    found = list(variables.items())
    for parent, _, each in names.unnamed(variables, Variable):
        found.append((f"{names.path_to(parent)}/?".lstrip("/"), each))
    aliases = names.aliases(variables.values())
    return Summary(type(obj).__name__, [entry_of(*each) for each in found], [each for _, each in found], aliases)
