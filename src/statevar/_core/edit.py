"""``with v.edit() as array``: a writable copy on the host, stored when the block ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from sys import getrefcount
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays.host import empty_aligned
from .._arrays.indexing import select
from .._arrays.types import HostArray
from .checks import fits_declared, selects
from .commit import commit

if TYPE_CHECKING:
    from .variable import Variable

__all__ = ["edit"]


@contextmanager
def edit(variable: Variable, index: Any) -> Iterator[HostArray]:
    """What `Variable.edit` returns."""
    backend = variable._backend
    with variable._held("edit", "an edit") as (target, hold):
        target._initialized("edit")
        where = None if index is ... else select(index, target.shape, target.path)
        array = _copy(backend.to_host(target._stored() if where is None else backend.get(target._stored(), where)))
        yield array
        # Counted here and not in a function: torch.compile switches off Python's inlined calls (PEP 523), and not
        # always on again, and an argument of a function is then held twice.
        unheld = (getrefcount(array), getrefcount(array.base)) == _UNHELD
        if where is not None:
            target._write_held("edit", backend.put, selects, array, "set", index, hold)
        elif unheld and target._constraint is None and not target._is_value:
            draft = target._draft(hold, target._lock)
            draft._handle = backend.given(target._handle, array)
            draft._version += 1
            hold.committing = True
            commit({target: draft})
        else:  # a view of it is left, which could write into the variable's memory
            target._write_held("edit", backend.assign, fits_declared, array, None, None, hold)
        if array.base is not None:
            array.base.setflags(write=False)
        array.setflags(write=False)


def _copy(host: HostArray) -> HostArray:
    array = empty_aligned(host.shape, host.dtype)
    array[...] = host
    return array


def _calibrate() -> tuple[int, int]:
    """The references of an array that is known by the name after ``as`` and by no other."""
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


_UNHELD = _calibrate()
