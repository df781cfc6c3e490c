"""What a summary knows of each variable or saved value, and the statistics of as many as it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

from .._arrays.dtypes import STORED
from .._arrays.statistics import Statistics, merged, statistics
from .._arrays.types import HostArray
from .._core.display import facts_of, host_parts, parts_of, unavailable
from .._core.shown_variable import ENOUGH
from .._core.variable import Variable

__all__ = ["Entry", "Source", "entries_of_values", "entry_of", "figures_of"]

#: What looking at a variable costs beside its elements, in elements.
_EACH = 1 << 12

#: Where the value of an entry is read: the variable; a function that returns it as arrays of NumPy, several if it is
#: spread, or none and why a display shows none; or nowhere.
Source = Variable | Callable[[], tuple[list[HostArray], str]] | None


class Entry(NamedTuple):
    """The facts about one variable or saved value, which keep no value alive.

    Attributes:
        path: its path.
        shape: the shape; of a variable without a value the declared one, and None if nothing is known.
        dtype: the name of the dtype.
        where: the library and the device, or how the value is spread; empty for a value in a file.
        elements: the number of elements; 0 if there is no value.
        bytes: the number of bytes that they take in NumPy.
        trainable: whether it is trainable.
        note: why there is no value, else empty.
    """

    path: str
    shape: Any
    dtype: str
    where: str
    elements: int
    bytes: int
    trainable: bool
    note: str


def entry_of(path: str, variable: Variable) -> Entry:
    """The facts about a variable, none of which takes a look at its value."""
    try:
        shape, has_value, where, _ = facts_of(variable)
        where = f"{variable.backend} on {where}"
        trainable, dtype = variable.trainable, variable.dtype_name
        if not has_value:
            return Entry(path, shape, dtype, where, 0, 0, trainable, host_parts(variable)[1])
        elements = prod(shape)
        return Entry(path, shape, dtype, where, elements, elements * STORED[dtype].itemsize, trainable, "")
    except Exception as error:  # noqa: BLE001  # a display never raises
        return Entry(path, None, "", "", 0, 0, False, unavailable(error))


def entries_of_values(values: Iterable[tuple[str, Variable, Any]]) -> tuple[list[Entry], list[Source]]:
    """The facts about values that variables had, or None, each with its path; and where each is read."""
    entries: list[Entry] = []
    sources: list[Source] = []
    for path, variable, value in values:
        backend, dtype, trainable = variable._backend, variable.dtype_name, variable.trainable
        try:
            if value is None:
                entry = Entry(path, variable._declared, dtype, backend.name, 0, 0, trainable, "uninitialized")
            else:
                shape, where = backend.shape(value), backend.device_name(backend.device_of(value))
                where = f"{backend.name} on {where}"
                elements = prod(shape)
                entry = Entry(path, shape, dtype, where, elements, elements * STORED[dtype].itemsize, trainable, "")
        except Exception as error:  # noqa: BLE001  # a display never raises
            entry = Entry(path, None, dtype, "", 0, 0, trainable, unavailable(error))
        entries.append(entry)
        sources.append(None if value is None else partial(parts_of, backend, value))
    return entries, sources


def figures_of(
    entries: Sequence[Entry], sources: Sequence[Source], stats: bool | None
) -> tuple[Mapping[int, Statistics], Mapping[int, str]]:
    """The statistics of entries by their place, and notes about those that could not be had.

    Args:
        entries: the entries.
        sources: where the value of each is read.
        stats: whether to look at all values; None looks at the smallest ones, as long as that takes no time.
    """
    figures: dict[int, Statistics] = {}
    notes: dict[int, str] = {}
    left = ENOUGH
    for at in _smallest_first(entries) if stats is not False else ():
        left -= entries[at].elements + _EACH
        if stats is None and left < 0:
            break
        found, note = _looked_at(sources[at])
        if note:
            notes[at] = note
        if found is not None:
            figures[at] = found
    return figures, notes


def _smallest_first(entries: Sequence[Entry]) -> list[int]:
    return sorted((at for at, each in enumerate(entries) if each.elements), key=lambda at: entries[at].elements)


def _looked_at(source: Source) -> tuple[Statistics | None, str]:
    if source is None:
        return None, ""
    try:
        parts, note = host_parts(source) if isinstance(source, Variable) else source()
        return merged(each for part in parts if (each := statistics(part)) is not None), note
    except Exception as error:  # noqa: BLE001  # a display never raises
        return None, unavailable(error)
