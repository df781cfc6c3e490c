"""Reads and writes at an index that is not basic, as reads and writes of whole rows of a table.

Torch's own operations on rows take the numbers of the rows along one axis, and copy a row at a time. Any other index
selects single elements, which are rows of one number in the flattened array.

A write ends with one call that changes the target, since a signal handler may read in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..._arrays.host import ONE_BY_ONE, combine
from ..._arrays.indexing import OwnSelection, Rows, Selection, last_of_each, turns
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from . import indices
from .dtypes import ON_HOST
from .indices import get_own, last_of_same, rows_of

__all__ = ["get_rows", "put", "select_rows", "set_in_numpy"]

Tensor = torch.Tensor

_IN_PLACE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "set": Tensor.copy_,
    "add": Tensor.add_,
    "subtract": Tensor.sub_,
    "multiply": Tensor.mul_,
}
_REDUCTIONS = {"multiply": "prod", "min": "amin", "max": "amax"}
_SMALL = 16_384  # rows of a table for which an array of numbers is faster to get than repeated ones are to sort
_FEW = 32_768  # elements up to which torch writes in one thread
_INDICES = frozenset((torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool))

# Asked at every write; each dot costs 30 ns.
_in_dynamo = torch.compiler.is_dynamo_compiling
_modes_open = torch._C._len_torch_dispatch_stack


class TensorRows(Selection):
    """A checked tensor of row numbers that lies on the host: the commonest index.

    Attributes:
        ids: the numbers of the rows, none of which is negative.
    """

    __slots__ = ("_line", "ids")

    # For the class, since each assignment in `__init__` takes 20 ns.
    mask = None
    basic = False
    reverses = False

    def __init__(self, index: HostArray, of_shape: Shape, ids: Tensor, line: HostArray) -> None:
        self.index = (index,)
        self.of_shape = of_shape
        self._selected = index.shape + of_shape[1:]
        self.ids = ids
        self._line = line  # the numbers in their order

    def repeats(self) -> bool:
        """Whether a row is selected twice, if no number is negative."""
        same = self._line[1:] == self._line[:-1]
        return bool(same.size and same[same.argmax()])  # in half the time of `any`


class TensorMask(Selection):
    """A mask of the leading axes that is a tensor on the host.

    Attributes:
        tensor: the same mask.
    """

    __slots__ = ("tensor",)

    def __init__(self, index: HostArray, of_shape: Shape, tensor: Tensor) -> None:
        super().__init__((index,), of_shape)
        self.tensor = tensor


def select_rows(index: Any, shape: Shape) -> Selection | None:
    """Does what `Backend.select_rows` does, for tensors on the host, of which NumPy sees the memory itself."""
    if type(index) is not Tensor or not index.is_cpu or (dtype := index.dtype) not in _INDICES or not shape:
        return None  # each question to a tensor takes 60 ns
    if indices.on_host or _in_dynamo() or _modes_open() or not index.ndim:
        return None
    if dtype is torch.bool:
        return TensorMask(index.numpy(), shape, index)
    if dtype is not torch.int64:
        index = index.long()  # torch would take uint8 for a mask
    numbers = index.numpy()
    if numbers.ndim != 1 or not numbers.size:
        return Selection((numbers,), shape)
    line = numbers.copy()
    line.sort()  # of a few numbers in less time than it takes to find the lowest and the highest
    low, size = line.item(0), shape[0]
    if low < -size or line.item(-1) >= size:
        return Selection((numbers,), shape)  # which raises
    if low < 0:
        numbers = np.where(numbers < 0, numbers + size, numbers)
        index, line = torch.from_numpy(numbers), np.sort(numbers)
    return TensorRows(numbers, shape, index, line)


def get_rows(array: Tensor, where: Selection) -> Tensor:
    """Does what `Backend.get` does, for an index that is not basic or has a negative step."""
    # The gradient of `index_select` takes a tenth of that of ``array[ids]``.
    if isinstance(where, OwnSelection):
        return get_own(array, where)
    if type(where) is TensorRows and array.is_cpu and array.dtype not in ON_HOST:
        return array.index_select(0, where.ids)
    rows = None if array.dtype in ON_HOST else where.rows()
    if rows is None:
        return array.reshape(-1)[_to(where.flat(), array)]
    table = array if len(rows.table) == array.ndim else array.reshape(rows.table)
    part = table.index_select(0, _to(rows.numbers, array))
    return part if part.shape == where.shape else part.reshape(where.shape)


def set_in_numpy(target: Tensor, x: Tensor, where: Selection) -> bool:
    """Sets few rows by NumPy, which takes half the time, and which promises that the last of several values counts.

    Returns False if it cannot. Torch's version of the target does not count the write.

    Args:
        target: a tensor in the memory of the host that is no view of another library's array.
    """
    if type(where) is not TensorRows or x.numel() > _FEW or type(x) is not Tensor or not x.is_cpu:
        return False
    try:
        table, values = target.numpy(), x.numpy()
    except (RuntimeError, TypeError):  # in a transform of torch, of a dtype that NumPy has not, or of a lazy negation
        return False
    table[where.index] = values
    return True


def put(target: Tensor, x: Tensor, operation: str, where: Selection) -> None:
    """Does what `Backend.put` does, on a contiguous tensor that is not shared."""
    if type(where) is TensorRows and target.is_cpu:
        if x.shape != where._selected:
            x = x.expand(where.shape)
        if operation == "add":  # in fewer steps: where there are `TensorRows`, `_add_rows` has nothing to ask
            target.index_add_(0, where.ids, x)
            return
        once = operation in _IN_ANY_ORDER or not where.repeats()
        _put_rows(target, x, operation, where.ids, where.index[0], once)
        return
    if where.basic and not where.reverses:
        view = target[where.index]
        if (in_place := _IN_PLACE.get(operation)) is not None:
            in_place(view, x)
        else:
            view.copy_(combine(operation, view, x, torch.minimum, torch.maximum))
        return
    if where.mask is not None and not x.ndim:
        own = where.mask if isinstance(where, OwnSelection) else getattr(where, "tensor", None)
        _put_masked(target, x, operation, _from_host(where.mask) if own is None else own)
        return
    if isinstance(where, OwnSelection) and operation in ONE_BY_ONE and where.mask is None:
        where = where.on_host()  # to find the repeated rows
    numbers: HostArray | None = None
    if isinstance(where, OwnSelection):
        ids, shape = rows_of(where, target.device)
        once = where.mask is not None
    else:
        rows = where.rows() or Rows(where.flat().ravel(), target.ndim, target.shape, False)
        numbers, shape = rows.numbers, rows.table
        ids = _to(numbers, target)
        once = operation in _IN_ANY_ORDER or not rows.repeats
    table = target if len(shape) == target.ndim else target.view(shape)
    if x.shape != where.shape:
        x = x.expand(where.shape)
    if x.ndim != table.ndim or x.shape[0] != ids.shape[0]:
        x = x.reshape(ids.shape[0], *shape[1:])
    _put_rows(table, x, operation, ids, numbers, once)


#: The operations that torch does on repeated rows as it does on others.
_IN_ANY_ORDER = ("add", "subtract")


def _put_rows(table: Tensor, x: Tensor, operation: str, ids: Tensor, numbers: HostArray | None, once: bool) -> None:
    """Writes rows.

    Args:
        x: one row for each of ``ids``.
        ids: the numbers of the rows, none of which is negative.
        numbers: the same on the host, if they are known there.
        once: whether it is known that no row is there twice, or does not matter.
    """
    if operation in _IN_ANY_ORDER:
        _add_rows(table, ids, x, 1 if operation == "add" else -1)
    elif once:
        if operation != "set":
            x = combine(operation, table.index_select(0, ids), x, torch.minimum, torch.maximum)
        _set_rows(table, ids, x)
    elif operation == "set" and numbers is not None and table.shape[0] <= _SMALL:
        last = np.empty(table.shape[0], np.int64)
        last[numbers] = np.arange(numbers.size)
        _set_rows(table, ids, x.index_select(0, _to(last[numbers], table)))  # each writes what the last one says
    elif operation == "set" and numbers is not None:
        keep = _to(last_of_each(numbers), table)
        _set_rows(table, ids.index_select(0, keep), x.index_select(0, keep))
    elif operation == "set":
        _set_rows(table, ids, x[last_of_same(ids)])
    elif operation in ONE_BY_ONE:
        assert numbers is not None, "repeated rows are found on the host"
        _put_in_turns(table, x, operation, numbers)
    else:
        table.scatter_reduce_(0, _for_elements(ids, x), x, _REDUCTIONS[operation])


# Inductor (torch 2.13) compiles `index_copy_`, `index_put_` and `index_add_` to a loop that writes in place, even where
# a later row is computed from what the loop has overwritten: ``v *= 2; v[::-1] = v.value`` was wrong. It keeps the
# operations apart that take an index for each element.


def _set_rows(table: Tensor, ids: Tensor, x: Tensor) -> None:
    """Sets rows, each of them once or to the same values."""
    if _modes_open() or _in_dynamo():
        table.scatter_(0, _for_elements(ids, x), x)
    else:
        table.index_copy_(0, ids, x)


def _add_rows(table: Tensor, ids: Tensor, x: Tensor, sign: int) -> None:
    if _modes_open() or _in_dynamo():
        table.scatter_add_(0, _for_elements(ids, x), x if sign > 0 else -x)
    else:
        table.index_add_(0, ids, x, alpha=sign)


def _for_elements(ids: Tensor, x: Tensor) -> Tensor:
    """The number of the row of each element of ``x``, without memory of its own."""
    return ids.view(-1, *[1] * (x.ndim - 1)).expand(x.shape)


def _put_in_turns(table: Tensor, x: Tensor, operation: str, numbers: HostArray) -> None:
    """Writes rows that are there several times one after the other, aside."""
    found, places = np.unique(numbers, return_inverse=True)
    there = _to(found, table)
    part = table[there]
    for each in turns(numbers):
        turn, place = _to(each, table), _to(places[each], table)
        _set_rows(part, place, combine(operation, part[place], x[turn], torch.minimum, torch.maximum))
    _set_rows(table, there, part)


def _put_masked(target: Tensor, x: Tensor, operation: str, mask: Tensor) -> None:
    """Writes one number at a mask of the leading axes. Nothing has to be counted."""
    if not target.is_cpu:
        mask = mask.to(target.device)
    if mask.ndim < target.ndim:
        mask = mask.reshape(tuple(mask.shape) + (1,) * (target.ndim - mask.ndim))
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
