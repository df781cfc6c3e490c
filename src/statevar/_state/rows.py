"""`Row`: a line of a summary, which is a variable, or several that share it; and its cells as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .._arrays.statistics import Statistics, merged
from .._core.tables import bytes_text, number_text, shape_text
from .entries import Entry

__all__ = ["HEADS", "RIGHT", "Row", "cells_of", "row_of"]


class Row(NamedTuple):
    """A line of a `Summary`: a variable, or several that share the line. What they do not share is None.

    Attributes:
        path: the path of the variable. ``*`` in it stands for several numbers; with a slash at its end it is the
            beginning of the paths of all variables of the line.
        variables: the number of variables.
        shape: the shape; of a variable without a value the declared one.
        dtype: the name of the dtype.
        where: the library and the device, or how the values are spread.
        elements: the number of elements of all of them.
        bytes: the number of bytes that these take.
        trainable: whether they are trainable.
        mean: the mean of all finite elements; None if it was not computed.
        std: their standard deviation.
        minimum: the smallest of them.
        maximum: the largest of them.
        not_finite: the number of elements that are infinite or not a number.
        note: why there is no value, or why it could not be read.
    """

    path: str
    variables: int
    shape: Any
    dtype: str | None
    where: str | None
    elements: int
    bytes: int
    trainable: bool | None
    mean: float | None
    std: float | None
    minimum: float | None
    maximum: float | None
    not_finite: int | None
    note: str


def row_of(
    label: str, own: list[int], entries: Sequence[Entry], figures: Mapping[int, Statistics], notes: Mapping[int, str]
) -> Row:
    """The line of the entries at some places.

    Args:
        label: what the line is called.
        own: the places of its entries.
        entries: all entries.
        figures: the statistics of those that were looked at, by place.
        notes: notes about others, by place.
    """
    mine = [entries[at] for at in own]
    first = mine[0]
    elements, size = sum(each.elements for each in mine), sum(each.bytes for each in mine)
    known = [figures[at] for at in own if at in figures]
    found = merged(known) if len(known) == sum(1 for each in mine if each.elements) else None
    texts = dict.fromkeys(note for at in own if (note := entries[at].note or notes.get(at, "")))
    return Row(
        label,
        len(own),
        first.shape if all(each.shape == first.shape for each in mine) else None,
        first.dtype if all(each.dtype == first.dtype for each in mine) else None,
        first.where if all(each.where == first.where for each in mine) else None,
        elements,
        size,
        first.trainable if all(each.trainable == first.trainable for each in mine) else None,
        None if found is None else found.mean,
        None if found is None else found.std,
        None if found is None else found.minimum,
        None if found is None else found.maximum,
        None if found is None else found.nan + found.infinite,
        ", ".join(texts),
    )


#: The heads of the columns; those of numbers, which are aligned on the right.
HEADS = (
    *("path", "variables", "shape", "dtype", "where", "elements", "bytes"),
    *("mean", "std", "not finite", "trainable", "note"),
)
RIGHT = frozenset({"variables", "elements", "bytes", "mean", "std", "not finite"})


def cells_of(row: Row, *, several: bool, mixed: bool, grouped: bool) -> list[str]:
    """The texts of a line, in the order of `HEADS`; empty where all lines would say the same.

    Args:
        row: the line.
        several: whether the variables are in several places.
        mixed: whether some are trainable, and others not.
        grouped: whether variables share a line.
    """
    return [
        row.path,
        f"{row.variables:,}" if row.variables > 1 else "",
        "" if row.shape is None else shape_text(row.shape),
        row.dtype or "",
        (row.where or "several") if several and not row.note.startswith("unavailable") else "",
        f"{row.elements:,}" if grouped else "",
        bytes_text(row.bytes) if row.elements else "",
        _value(row),
        number_text(row.std) if row.elements > 1 else "",
        f"{row.not_finite:,}" if row.not_finite else "",
        "" if not mixed else "some" if row.trainable is None else "yes" if row.trainable else "no",
        row.note,
    ]


def _value(row: Row) -> str:
    """The mean; of one element itself, which is written with more digits."""
    if row.elements != 1 or row.minimum is None:
        return number_text(row.mean)
    return str(row.minimum) if isinstance(row.minimum, int) else f"{row.minimum:.6g}"
