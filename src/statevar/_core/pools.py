"""The pools that are open in this process, and which variable has which record.

A pool is opened once, and once more for a second variable over the same record, since the claims of one open pool do
not exclude each other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import RLock
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

from ..errors import ConflictError, SharedError
from .forks import guarded

if TYPE_CHECKING:
    from .._shared.pool import New, Pool
    from .._shared.record import Record

__all__ = ["give_back", "made_pool", "opened", "pool_at", "record_for", "reserve", "variable_over"]

_ATTEMPTS = 100  # another process may unlink the pool between two looks

#: The pools that are open in this process.
_pools: WeakSet[Pool] = WeakSet()
#: The variable over each record, by the id of the record, which its variable keeps alive.
_bound: WeakValueDictionary[int, Any] = WeakValueDictionary()
_reserving = guarded(RLock())  # reentrant, since a finalizer may share a variable


def pool_at(where: Any, new: Sequence[New] | None = None, durable: str = "no", operation: str = "share") -> Pool:
    """Opens a pool, or makes it with some variables if it does not exist and there are any.

    Raises:
        FileNotFoundError: it does not exist, and there is nothing to make it with.
    """
    from .._shared.places import Place, check_platform, place_of  # noqa: PLC0415  # imported by the first that shares
    from .._shared.pool import Pool  # noqa: PLC0415  # as above

    check_platform()
    found_at = where if isinstance(where, Place) else place_of(where, operation)
    for _ in range(_ATTEMPTS):
        if (known := next((each for each in _open_here() if _is_at(each, found_at)), None)) is not None:
            return known
        try:
            return opened(Pool.open(found_at))
        except FileNotFoundError:
            if new is None:
                raise
        try:
            return opened(Pool.create(found_at, new, durable=durable))
        except FileExistsError:  # another process was faster
            continue
    raise ConflictError.of("share", "other processes make the pool and unlink it all the time", str(where))


def _is_at(pool: Pool, place: Any) -> bool:
    """Whether an open pool is the file that is at a place now: a name may have been given to another one."""
    if place.kind == "anonymous":
        return pool.place is place
    if pool.place.name != place.name or pool.place.kind != place.kind:
        return False
    try:
        there = os.lstat(place.path)
    except OSError:
        return False
    return os.path.samestat(there, os.fstat(pool.opened.claims.fd))


def made_pool(where: Any, new: Sequence[New], durable: str) -> Pool:
    """Makes a pool with some variables.

    Raises:
        FileExistsError: there is one.
    """
    from .._shared.places import check_platform, place_of  # noqa: PLC0415  # imported by the first that shares
    from .._shared.pool import Pool  # noqa: PLC0415  # as above

    check_platform()
    return Pool.create(place_of(where), new, durable=durable)


def opened(pool: Pool) -> Pool:
    with _reserving:
        _pools.add(pool)
    return pool


def _open_here() -> list[Pool]:
    """The pools that are open in this process; another thread may open one meanwhile."""
    with _reserving:
        return list(_pools)


def record_for(cell: Any, pool: Pool, path: str) -> Record:
    """The record of a path for a variable, of an open pool in which no variable of this process has it yet.

    The record is the variable's from now on, for other threads too; `_bind_all` gives it back if it fails.
    """
    again = [pool, *[each for each in _open_here() if each.id == pool.id and each is not pool]]
    for each in again:
        if path not in each.records:
            each.refresh()
        if (record := each.records.get(path)) is not None and reserve(record, cell):
            return record
    if path not in pool.records:
        some = ", ".join(map(repr, list(pool.records)[:3])) + (", …" if len(pool.records) > 3 else "")
        raise SharedError.of(
            "attach", f"the pool {pool.place.name!r} has no variable {path!r}; it has {some or 'none'}"
        )
    record = pool.again().records[path]
    reserve(record, cell)  # before other threads can find the pool
    opened(record.pool)
    return record


def reserve(record: Record, cell: Any) -> bool:
    """Takes a record for a variable, unless another one has it."""
    with _reserving:
        if _bound.get(id(record)) is not None:
            return False
        _bound[id(record)] = cell
        return True


def variable_over(pool: str, path: str) -> Any:
    """The variable of this process over a record, by the id of its pool and its path there; None if there is none."""
    records = (each.records.get(path) for each in _open_here() if each.id == pool)
    return next((found for each in records if each is not None and (found := _bound.get(id(each))) is not None), None)


def give_back(record: Record) -> None:
    """Gives a record back that was taken for a variable which did not get its place."""
    with _reserving:
        _bound.pop(id(record), None)
