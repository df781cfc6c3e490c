"""Reads and writes at an index that is not basic, as reads and writes of whole rows of a table.

Torch's own operations on rows take the numbers of the rows along one axis, and copy a row at a time. Any other index
selects single elements, which are rows of one number in the flattened array.

A write ends with one call that changes the target, since a signal handler may read in between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..._arrays.host import ONE_BY_ONE, combine
from ..._arrays.indexing import OwnSelection, Rows, Selection, last_of_each, repeats, turns
from ..._arrays.types import HostArray
from .dtypes import ON_HOST
from .indices import get_own, last_of_same, rows_of

__all__ = ["get_rows", "put"]

Tensor = torch.Tensor

_REDUCTIONS = {"multiply": "prod", "min": "amin", "max": "amax"}


def get_rows(array: Tensor, where: Selection) -> Tensor:
    """Does what `Backend.get` does, for an index that is not basic or has a negative step."""
    if isinstance(where, OwnSelection):
        return get_own(array, where)
    rows = None if array.dtype in ON_HOST else where.rows()
    if rows is None:
        return array.reshape(-1)[_to(where.flat(), array)]
    table = array if len(rows.table) == array.ndim else array.reshape(rows.table)
    part = table.index_select(0, _to(rows.numbers, array))  # its gradient takes a tenth of that of ``table[numbers]``
    return part if part.shape == where.shape else part.reshape(where.shape)


def put(target: Tensor, x: Tensor, operation: str, where: Selection) -> None:
    """Does what `Backend.put` does, on a contiguous tensor that is not shared."""
    if where.basic and not where.reverses:
        view = target[where.index]
        view.copy_(combine(operation, view, x, torch.minimum, torch.maximum))
        return
    if not x.ndim and (mask := _mask_of(where)) is not None:
        _put_masked(target, x, operation, mask)
        return
    if isinstance(where, OwnSelection) and operation in ONE_BY_ONE:
        where = where.on_host()  # to find the repeated rows
    if isinstance(where, OwnSelection):
        numbers = None
        ids, shape = rows_of(where, target.device)
        distinct = where.mask is not None
    else:
        rows = where.rows() or Rows(where.flat().ravel(), target.ndim, target.shape, False)
        numbers, shape, distinct = rows.numbers, rows.table, rows.is_mask
        ids = _to(numbers, target)
    table = target if len(shape) == target.ndim else target.view(shape)
    if x.shape != where.shape:
        x = x.expand(where.shape)
    if x.ndim != table.ndim or x.shape[0] != ids.shape[0]:
        x = x.reshape(ids.shape[0], *shape[1:])
    _put_rows(table, x, operation, ids, numbers, distinct)


def _put_rows(table: Tensor, x: Tensor, operation: str, ids: Tensor, numbers: HostArray | None, distinct: bool) -> None:
    """Writes rows.

    Args:
        x: one row for each of ``ids``.
        ids: the numbers of the rows, none of which is negative.
        numbers: the same on the host, if they are known there.
        distinct: whether it is known that no row is there twice.
    """
    if operation in ("add", "subtract"):
        table.index_add_(0, ids, x, alpha=1 if operation == "add" else -1)
    elif distinct or (numbers is not None and not repeats(numbers)):
        if operation != "set":
            x = combine(operation, table.index_select(0, ids), x, torch.minimum, torch.maximum)
        table.index_copy_(0, ids, x)
    elif operation == "set" and numbers is not None:
        keep = _to(last_of_each(numbers), table)
        table.index_copy_(0, ids[keep], x[keep])
    elif operation == "set":
        table.index_copy_(0, ids, x[last_of_same(ids)])
    elif operation in ONE_BY_ONE:
        assert numbers is not None, "repeated rows are found on the host"
        _put_in_turns(table, x, operation, numbers)
    else:
        ids = ids.view(-1, *[1] * (table.ndim - 1)).expand(x.shape)
        table.scatter_reduce_(0, ids, x, _REDUCTIONS[operation])


def _put_in_turns(table: Tensor, x: Tensor, operation: str, numbers: HostArray) -> None:
    """Writes rows that are there several times one after the other, aside."""
    found, places = np.unique(numbers, return_inverse=True)
    there = _to(found, table)
    part = table[there]
    for each in turns(numbers):
        turn, place = _to(each, table), _to(places[each], table)
        part[place] = combine(operation, part[place], x[turn], torch.minimum, torch.maximum)
    table[there] = part


def _mask_of(where: Selection) -> Tensor | None:
    """The mask of the leading axes, if the index is nothing but a mask."""
    if isinstance(where, OwnSelection):
        own: Tensor | None = where.mask
        return own
    mask = where.index[0] if len(where.index) == 1 else None
    if type(mask) is not np.ndarray or mask.dtype.kind != "b" or not mask.ndim:
        return None
    return _from_host(mask)


def _put_masked(target: Tensor, x: Tensor, operation: str, mask: Tensor) -> None:
    """Writes one number at a mask of the leading axes. Nothing has to be counted."""
    mask = mask.to(target.device).reshape(tuple(mask.shape) + (1,) * (target.ndim - mask.ndim))
    if operation == "set":
        target.masked_fill_(mask, x)
        return
    new = combine(operation, target, x, torch.minimum, torch.maximum)
    target.copy_(torch.where(mask, new, target))


def _to(numbers: HostArray, other: Tensor) -> Tensor:
    """Numbers from the host as a tensor on the device of another one."""
    tensor = _from_host(numbers)
    return tensor if other.is_cpu else tensor.to(other.device)


def _from_host(array: Any) -> Tensor:
    if not array.flags.c_contiguous or not array.flags.writeable:  # torch refuses the one, and warns of the other
        array = array.copy()
    return torch.from_numpy(array)
