"""The rows of a table that a transaction has written, apart from the table.

A transaction that writes some rows of a large table then costs these rows, and not a copy of the table. What is kept
are the new values of the rows and not the operations, so the rows may be written into the table again and again: a
commit that Ctrl-C has interrupted is repeated.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np

from ..._arrays.host import put_in_place, rows_of
from ..._arrays.indexing import Selection
from ..._arrays.types import HostArray

__all__ = ["RowLog", "Rows", "rows_in"]

# A table of fewer bytes is copied in less time than a log takes.
_SMALL_TABLE = 128 * 1024
# The part of the rows up to which a log pays; and up to which it does if all that is done with them is to set them.
_PART = 8
_PART_SET = 4

_NOTHING = np.empty(0, np.intp)
_WHOLE = slice(None)

_Written: TypeAlias = "tuple[HostArray, HostArray | None, HostArray]"


class Rows(NamedTuple):
    """Some rows of a table. A row is everything at one place along the leading axes: with all axes, one element.

    Args:
        numbers: the number of each row, from 0, in the shape that the index gives them.
        axes: the number of leading axes.
    """

    numbers: HostArray
    axes: int


def rows_in(where: Selection, table: HostArray, already: int = 0, *, first_set: bool = False) -> Rows | None:
    """The rows that are selected; None if a log of them does not pay, or only parts of rows are selected.

    Args:
        already: the number of rows in the log.
        first_set: whether the log is empty, and the rows are set.
    """
    at_most = _PART_SET if first_set else _PART
    if table.nbytes < _SMALL_TABLE or not table.ndim:
        return None
    parts, axes = where.index, 1
    while parts and (parts[-1] is ... or (type(parts[-1]) is slice and parts[-1] == _WHOLE)):
        parts = parts[:-1]
    if (mask := where.mask) is not None:
        axes = mask.ndim
        if np.count_nonzero(mask) * at_most > mask.size:
            return None
        numbers = np.flatnonzero(mask)
    elif not where.basic:
        if (only := rows_of(where)) is not None:
            numbers = only
        elif (several := where.rows()) is not None:
            axes = table.ndim + 1 - len(several.table)
            numbers = several.numbers.reshape(where.shape[: len(where.shape) + axes - table.ndim])
        else:
            return None
    elif len(parts) == 1 and type(parts[0]) is slice:
        span = range(*parts[0].indices(table.shape[0]))
        if len(span) * at_most > table.shape[0]:
            return None
        numbers = np.arange(span.start, span.stop, span.step)
    elif parts and all(type(part) is int for part in parts):
        axes, number = len(parts), 0
        for part, size in zip(parts, table.shape, strict=False):
            number = number * size + part % size
        numbers = np.array(number)
    else:
        return None
    return None if (numbers.size + already) * at_most > math.prod(table.shape[:axes]) else Rows(numbers, axes)


class RowLog:
    """The written rows of a table: their numbers and their values. The table itself is only read.

    Args:
        axes: the number of leading axes along which the rows are counted.
    """

    __slots__ = ("_written", "axes", "table")

    def __init__(self, table: HostArray, axes: int) -> None:
        self.table = table
        self.axes = axes
        #: The numbers of the rows in increasing order; for each its place among the values; the values, with room for
        #: more at the end. They are replaced together, since a signal handler may read in between. Without places, the
        #: rows are as they were set: in any order, and of a row that is there several times, the last value counts.
        self._written: _Written = (_NOTHING, _NOTHING, np.empty((0, *table.shape[axes:]), table.dtype))

    def __len__(self) -> int:
        return self._written[0].size

    def copy(self) -> RowLog:
        """A log that is written independently of this one."""
        numbers, places, values = self._in_order()
        other = RowLog(self.table, self.axes)
        other._written = numbers, places, values.copy()
        return other

    def put(self, rows: HostArray, x: HostArray, operation: str) -> None:
        """Does `Backend.put` at rows, given by their numbers. If it raises, the values are as they were."""
        if not len(self):
            if operation == "set" and rows.size:  # most transactions set rows once, and the rest takes much longer
                row = self.table.shape[self.axes :]
                values = np.empty(rows.shape + row, self.table.dtype)
                values[...] = x
                self._written = rows.flatten(), None, values.reshape(rows.size, *row)
                return
            new = rows
        else:
            new = rows[~self._find(rows)[1]]
        if new.size:
            self._add(_distinct(new))
        numbers, places, values = self._in_order()
        at = places.take(numbers.searchsorted(rows))
        put_in_place(values, x, operation, Selection((np.asarray(at),), values.shape))

    def _add(self, new: HostArray) -> None:
        """Takes rows into the log as they are in the table.

        Args:
            new: their numbers, in increasing order.
        """
        numbers, places, values = self._in_order()
        used = numbers.size
        if not used:
            self._written = new, np.arange(new.size), self._along_rows(self.table).take(new, 0)
            return
        count = used + new.size
        if count > values.shape[0]:
            grown = np.empty((max(count, 2 * used), *values.shape[1:]), values.dtype)
            grown[:used] = values[:used]
            values = grown
        values[used:count] = self._along_rows(self.table).take(new, 0)
        numbers = np.concatenate((numbers, new))
        order = numbers.argsort(kind="stable")
        self._written = numbers[order], np.concatenate((places, np.arange(used, count)))[order], values

    def get(self, rows: HostArray) -> HostArray:
        """The present values of rows, given by an array of one axis or more, in new memory."""
        _, places, values = self._in_order()
        at, known = self._find(rows)
        if known.all():
            return values.take(places.take(at), 0)
        part: HostArray = self._along_rows(self.table).take(rows, 0)
        part[known] = values[places[at[known]]]
        return part

    def span(self) -> tuple[int, int]:
        """The first place along the first axis that has a written row, and the one after the last."""
        if not len(self):
            return 0, 0
        numbers = self._written[0]
        inner = math.prod(self.table.shape[1 : self.axes])
        return int(numbers.min()) // inner, int(numbers.max()) // inner + 1

    def write_into(self, array: HostArray) -> None:
        """Writes the rows into the table, or a copy of it. It may be repeated."""
        numbers, places, values = self._written
        if places is None:
            self._along_rows(array)[numbers] = values
            return
        in_order = np.empty_like(numbers)
        in_order[places] = numbers
        self._along_rows(array)[in_order] = values[: numbers.size]

    def _in_order(self) -> tuple[HostArray, HostArray, HostArray]:
        """The numbers, the places and the values, with places, and each number once."""
        numbers, places, values = self._written
        if places is None:
            places = numbers.argsort(kind="stable")
            numbers = numbers.take(places)
            last = np.empty(numbers.size, np.bool_)
            last[-1] = True
            np.not_equal(numbers[1:], numbers[:-1], out=last[:-1])
            if np.count_nonzero(last) < last.size:
                numbers, values = numbers[last], values.take(places[last], 0)
                places = np.arange(numbers.size)
            self._written = numbers, places, values
        return numbers, places, values

    def _along_rows(self, array: HostArray) -> HostArray:
        """The table, or a copy of it, with one axis along the rows. Nobody may keep it: it counts as a reader."""
        axes = self.axes
        return array if axes == 1 else array.reshape(math.prod(array.shape[:axes]), *array.shape[axes:])

    def _find(self, rows: HostArray) -> tuple[HostArray, HostArray]:
        """Where rows are among the numbers in the log; and which of them are there."""
        numbers = self._in_order()[0]
        if not numbers.size:
            return np.zeros(rows.shape, np.intp), np.zeros(rows.shape, np.bool_)
        at = numbers.searchsorted(rows)
        return at, numbers.take(at, mode="clip") == rows


def _distinct(rows: HostArray) -> HostArray:
    """One number or more, in increasing order, each one once; `numpy.unique` takes three times as long."""
    ordered = rows.flatten()
    ordered.sort()
    first = np.empty(ordered.size, np.bool_)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered if np.count_nonzero(first) == first.size else ordered[first]
