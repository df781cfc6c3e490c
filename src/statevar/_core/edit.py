"""Implements ``with v.edit() as array``: a writable host copy that is stored when the block ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from sys import getrefcount
from typing import Any

import numpy as np

from .._arrays.host import empty_aligned
from .._arrays.indexing import select
from .._arrays.types import HostArray
from .cell import Cell
from .draft import commit, draft_of
from .writes import ASSIGN, PUT

__all__ = ["edit"]

_ASSIGN, _PUT = ASSIGN.of("edit"), PUT.of("edit")


@contextmanager
def edit(cell: Cell, index: Any) -> Iterator[HostArray]:
    """The context manager that `Variable.edit` returns."""
    backend = cell._backend
    with cell._held("edit", "an edit") as (target, hold):
        target._initialized("edit")
        where = None if index is ... else select(index, target.shape, target._path)
        array = _copy(backend.to_host(target._stored() if where is None else backend.get(target._stored(), where)))
        yield array
        # Counted here and not in a function: torch.compile switches off Python's inlined calls (PEP 523), not always
        # on again, and the argument of a function then has one more reference.
        unshared = (getrefcount(array), getrefcount(array.base)) == _UNSHARED
        if where is not None:
            target._write_held(_PUT, array, hold, index)
        elif unshared and target._constraint is None and not target._is_value:
            draft = draft_of(target, hold, target._lock)
            draft._give(array)
            hold.committing = True
            commit({target: draft})
        else:  # something else refers to the array and could write into the variable's memory, so copy
            target._write_held(_ASSIGN, array, hold)
        if array.base is not None:
            array.base.setflags(write=False)
        array.setflags(write=False)


def _copy(host: HostArray) -> HostArray:
    array = empty_aligned(host.shape, host.dtype)
    array[...] = host
    return array


def _calibrate() -> tuple[int, int]:
    """Counts the references to an array, and to its base, that only the name after ``as`` refers to.

    (-1, -1), which no count equals, where the counts cannot tell that from a second reference.
    """
    counts = []

    @contextmanager
    def probe() -> Iterator[HostArray]:
        array = _copy(np.zeros(2))
        yield array
        counts.append((getrefcount(array), getrefcount(array.base)))

    with probe() as array:
        array[0] = 1
    with probe() as array:
        view = array[1:]
    with probe() as array:
        another = array
    del view, another
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return counts[0] if gil and counts[0] not in counts[1:] else (-1, -1)


_UNSHARED = _calibrate()
