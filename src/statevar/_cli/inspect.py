"""`statevar inspect`: the variables in a file, with shapes, dtypes and sizes, and figures of their values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from .._arrays.dtypes import is_differentiable
from .._arrays.shapes import DeclaredShape
from .._arrays.statistics import Statistics, statistics
from .._core.tables import bytes_text, escaped, number_text, shape_text
from ..checkpoint._checkpoint import Checkpoint
from ..checkpoint._formats.safetensors.values import VariableRecord
from ..errors import CheckpointError
from .exits import CommandError, Exit
from .options import add_json, add_only, add_path, natural
from .output import bars, colored, complain, reason, say, say_json, say_table, width
from .paths import is_known, nbytes_of, opened, selected, size_of
from .progress import progress
from .reading import checked

__all__ = ["arguments", "run"]

#: Terminals with fewer columns get narrower histograms.
_WIDE = 110
_PICTURE_BINS = 64
_LONGEST_TEXT = 600


class _Row(NamedTuple):
    """What is known of a variable.

    Attributes:
        name: its path.
        record: what the header says of it.
        figures: those of its value; None if they were not asked for, or if it has none.
        damage: why its value cannot be read.
    """

    name: str
    record: VariableRecord
    figures: Statistics | None = None
    damage: CheckpointError | None = None


def arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)
    parser.add_argument("--stats", action="store_true", help="read the values too: mean, spread, range, histogram")
    parser.add_argument("--depth", metavar="N", type=natural, help="add up what is below the first N parts of a path")
    add_only(parser)
    parser.add_argument("--sort", choices=("file", "name", "size"), default="file", help="the order of the variables")
    parser.add_argument("--limit", metavar="N", type=natural, default=0, help="print at most N variables (0: all)")
    add_json(parser)
    parser.add_argument("--png", metavar="FILE", help="draw the histograms (needs matplotlib)")
    parser.add_argument("--svg", metavar="FILE", help="as --png, as a vector drawing")


def run(options: argparse.Namespace) -> int:
    if options.stats and options.depth:
        raise CommandError("--stats is of single variables, and --depth adds them up", hint="leave out one of them")
    pictures = [each for each in (options.png, options.svg) if each is not None]
    if pictures:
        from .plot import check_picture  # only a picture needs it

        for each, kind in ((options.png, "png"), (options.svg, "svg")):
            check_picture(each, kind, options.path)
    with opened(options.path, options.step) as checkpoint:
        names = selected(checkpoint.variables, options.only, options.path)
        if options.sort == "name":
            names.sort()
        elif options.sort == "size":
            names.sort(key=lambda name: -(nbytes_of(checkpoint.variables[name]) or 0))
        shown = names[: options.limit or None]
        reads = options.stats or bool(pictures)
        bins = _PICTURE_BINS if pictures else _bins()
        rows = list(_with_figures(checkpoint, shown, bins) if reads else _rows(checkpoint, shown))
        for each in pictures:
            from .plot import draw

            draw(each, [(row.name, row.record, row.figures) for row in rows if row.figures is not None])
        if options.json:
            say_json(_document(checkpoint, rows, options))
        else:
            _print(checkpoint, names, rows, options)
    for row in rows:
        if row.damage is not None:
            complain("inspect", row.damage)
    return Exit.DAMAGED if any(row.damage is not None for row in rows) else Exit.OK


def _rows(checkpoint: Checkpoint, names: Iterable[str]) -> Iterator[_Row]:
    return (_Row(name, checkpoint.variables[name]) for name in names)


def _with_figures(checkpoint: Checkpoint, names: list[str], bins: int) -> Iterator[_Row]:
    """Reads one variable after the other. One that is damaged does not prevent the figures of the others."""
    sizes = {name: nbytes_of(checkpoint.variables[name]) or 0 for name in names}
    with progress(sum(sizes.values()), "reading") as advance:
        for name, record in ((name, checkpoint.variables[name]) for name in names):
            if record.shape is None or record.dtype.startswith("key<"):
                yield _Row(name, record)
                continue
            try:
                yield _Row(name, record, statistics(checked(checkpoint, name), bins))
            except CheckpointError as error:
                yield _Row(name, record, None, error)
            advance(sizes[name])


def _bins() -> int:
    columns = width()
    return 24 if columns is None or columns >= _WIDE else 10


# -- as text ------------------------------------------------------------------------------------------


def _print(checkpoint: Checkpoint, names: list[str], rows: list[_Row], options: argparse.Namespace) -> None:
    records = {name: checkpoint.variables[name] for name in names}
    if options.depth:
        sums = ("path", "variables", "elements", "size", "share")
        lines = [
            (
                each["path"],
                each["variables"],
                f"{each['elements']:,}",
                bytes_text(each["nbytes"]),
                f"{100 * each['share']:.1f} %",
            )
            for each in _groups(records, options.depth)
        ]
        say_table(sums, lines, right=sums[1:])
    else:
        figures = any(row.figures is not None for row in rows)
        heads = ("path", "shape", "dtype", "size", "", "mean", "std", "range", "not finite", "histogram")
        say_table(heads, map(_cells, rows), right=("size",), spare=("size", "", "dtype", "shape") if figures else ())
        if len(rows) < len(names):
            say(f"... and {len(names) - len(rows):,} more: --limit 0 prints all")
    _print_rest(checkpoint, records)


def _cells(row: _Row) -> tuple[object, ...]:
    name, record, figures, damage = row
    nbytes = nbytes_of(record)
    size = "" if nbytes is None or record.shape is None else bytes_text(nbytes)
    shape = "no value" if record.shape is None else shape_text(record.shape)
    flags = [*_flags(record), *([] if damage is None else ["DAMAGED" if is_known(record) else "unreadable"])]
    facts = (name, shape, record.dtype, size, ", ".join(flags))
    if figures is None:
        return (*facts, "", "", "", "", "")
    finite = figures.minimum is not None
    spread = f"[{number_text(figures.minimum)}, {number_text(figures.maximum)}]" if finite else ""
    wrong = ", ".join(f"{count:,} {what}" for count, what in ((figures.nan, "NaN"), (figures.infinite, "inf")) if count)
    histogram = bars(_fewer(figures.histogram)) if figures.minimum != figures.maximum else ""
    return (*facts, number_text(figures.mean), number_text(figures.std), spread, wrong, histogram)


def _fewer(histogram: tuple[int, ...]) -> list[int]:
    """The histogram of a picture, as one of as many bins as there is room for."""
    bins = _bins()
    if len(histogram) <= bins:
        return list(histogram)
    cuts = [round(at * len(histogram) / bins) for at in range(bins + 1)]
    return [sum(histogram[start:stop]) for start, stop in pairwise(cuts)]


def _flags(record: VariableRecord) -> Iterator[str]:
    """What is not as usual of a variable."""
    if not is_known(record):
        return
    if not record.trainable and is_differentiable(record.dtype):
        yield "frozen"
    if record.shape is None or record.declared != record.shape:
        yield f"declared {shape_text(record.declared)}"
    if record.aggregation != "mean":
        yield f"aggregation {record.aggregation}"


def _print_rest(checkpoint: Checkpoint, records: dict[str, VariableRecord]) -> None:
    """What is said below the table: how much it is, and what else is in the file."""
    elements = sum(map(size_of, records.values()))
    total = sum(nbytes_of(record) or 0 for record in records.values())
    count = f"{len(records):,} variable{'' if len(records) == 1 else 's'}"
    say(colored(f"{count}, {elements:,} element{'' if elements == 1 else 's'}, {bytes_text(total)}", "bold"))
    if aliases := [f"{alias} = {first or '(all)'}" for alias, first in checkpoint.aliases.items()]:
        say(f"also known as: {_shortened('; '.join(aliases))}")
    for what, value in (("metrics", checkpoint.metrics), ("metadata", dict(checkpoint.metadata))):
        if value:
            say(f"{what}: {_shortened(json.dumps(value, default=str, ensure_ascii=False))}")


def _shortened(text: str) -> str:
    """A text that fits on a few lines, escaped."""
    text = escaped(text)
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} ... (--json prints all)"


# -- as JSON ------------------------------------------------------------------------------------------


def _groups(records: dict[str, VariableRecord], depth: int) -> list[dict[str, Any]]:
    """The sums of what is below the same first parts of a path."""
    separator = "/" if any("/" in name for name in records) else "."
    groups: dict[str, list[VariableRecord]] = {}
    for name, record in records.items():
        groups.setdefault(separator.join(name.split(separator)[:depth]), []).append(record)
    total = sum(nbytes_of(record) or 0 for record in records.values()) or 1
    found = []
    for path, group in groups.items():
        nbytes = sum(nbytes_of(record) or 0 for record in group)
        elements = sum(map(size_of, group))
        found.append(
            {"path": path, "variables": len(group), "elements": elements, "nbytes": nbytes, "share": nbytes / total}
        )
    return found


def _document(checkpoint: Checkpoint, rows: list[_Row], options: argparse.Namespace) -> dict[str, Any]:
    """What `--json` prints; its schema is docs/schemas/inspect.json."""
    document: dict[str, Any] = {"path": str(checkpoint.path)}
    if options.depth:
        names = selected(checkpoint.variables, options.only, options.path)
        document["groups"] = _groups({name: checkpoint.variables[name] for name in names}, options.depth)
    else:
        document["variables"] = [_facts(row, figures=options.stats) for row in rows]
    aliases, metadata = dict(checkpoint.aliases), dict(checkpoint.metadata)
    return {**document, "aliases": aliases, "metadata": metadata, "metrics": checkpoint.metrics}


def _facts(row: _Row, *, figures: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "path": row.name,
        "shape": row.record.shape,
        "dtype": row.record.dtype,
        "nbytes": nbytes_of(row.record),
        "declared_shape": _declared(row.record.declared),
        "trainable": row.record.trainable,
        "autocast": row.record.autocast,
        "aggregation": row.record.aggregation,
        "backend": row.record.backend,
    }
    if figures:
        facts["statistics"] = None if row.figures is None else row.figures._asdict()
        facts["damage"] = None if row.damage is None else reason(row.damage)
    return facts


def _declared(declared: DeclaredShape) -> list[int | None] | None:
    return None if declared is ... else list(declared)
