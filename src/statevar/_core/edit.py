"""Implements ``with v.edit() as array``: a writable host copy that is stored when the block ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .._arrays.dtypes import KEYS, keys_are_no_numbers
from .._arrays.host import empty_aligned
from .._arrays.indexing import select
from .._arrays.types import HostArray
from .cell import Cell
from .draft import commit, draft_of
from .operators import index_part
from .reentry import enterable_again
from .sharded import refused_at
from .writes import ASSIGN, PUT

__all__ = ["edit"]

_ASSIGN, _PUT = ASSIGN.of("edit"), PUT.of("edit")


@enterable_again("edit")
def edit(cell: Cell, index: Any) -> Iterator[HostArray]:
    """The context manager that `Variable.edit` returns.

    The array is copied when the block ends, and its memory is never adopted. No count of references tells whether
    somebody can still write it: after ``a = memoryview(a)`` or ``a = torch.from_numpy(a)`` in the block, the array has
    as many references as the name ``a`` gave it.
    """
    backend = cell._backend
    with cell._held("edit", "an edit") as (target, hold):
        target._initialized("edit")
        where = None if index is ... else select(index, target.shape, target._path, backend, index_part)
        if cell._dtype_name in KEYS:
            raise keys_are_no_numbers("edit", cell._dtype_name, cell._path)
        with refused_at("edit", cell._path):
            array = _copy(backend.to_host(target._stored() if where is None else backend.get(target._stored(), where)))
        yield array
        if where is not None:
            target._write_held(_PUT, array, hold, index)
        elif backend.is_host or target._constraint is not None or target._is_value:
            target._write_held(_ASSIGN, array, hold)
        else:  # the library can use the memory of a copy that nobody else has
            draft = draft_of(target, hold, target._lock)
            draft._give(_copy(array))
            hold.committing = True
            commit({target: draft})
        if array.base is not None:
            array.base.setflags(write=False)
        array.setflags(write=False)


def _copy(host: HostArray) -> HostArray:
    array = empty_aligned(host.shape, host.dtype)
    array[...] = host
    return array
