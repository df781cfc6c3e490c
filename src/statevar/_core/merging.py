"""Writes in code that runs once for each replica, where the operands of all of them are combined."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays.dtypes import HOST
from .._arrays.types import Array
from .operators import has_traced, unwrapped_index
from .replicas import reduction_of

__all__ = ["for_replicas"]


def for_replicas(cell: Any, write: Any, x: Array, index: Any) -> tuple[Any, Array, Any]:
    """The write, the operand and the index for code that runs once for each replica, whose operands are combined.

    A sum at an index becomes a sum of the whole, since each replica may have another index.
    """
    reduction_of(cell, write.operation)
    if write.verb != "put" or write.op not in ("add", "subtract"):
        return write, x, index
    backend = cell._backend
    zeros = backend.from_host(np.zeros(cell.shape, HOST[cell._dtype_name]), None)
    if has_traced(backend, index):
        delta = backend.tracing.put_symbolic(zeros, x, "add", unwrapped_index(index))
    else:
        delta = backend.compute_put(zeros, x, "add", write.check(cell, write.operation, x, index))
    return cell._writes["assign_add" if write.op == "add" else "assign_sub"], delta, None
