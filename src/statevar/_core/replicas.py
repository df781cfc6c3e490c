"""Values that differ by replica: `per_replica`, and how they are combined before a variable is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from .._arrays.backend import Backend
from .._arrays.collectives import Leaf, plan_of, reduced, state_of
from .._arrays.dtypes import dtype_kind
from .._arrays.registry import owner_of
from .._arrays.types import Array
from .._public import public
from ..errors import DTypeError, ReplicaError, TraceError
from .traced import code_is_traced

__all__ = ["PerReplica", "ToOperand", "combined_operand", "is_per_replica", "per_replica", "reduction_of"]

#: What the reduction of values is called that each aggregation makes.
_REDUCTIONS = {"mean": "mean", "sum": "sum", "only_first_replica": "first"}


#: Converts a value to an operand of an adapter, in a dtype.
ToOperand: TypeAlias = Callable[..., Array]


class PerReplica:
    """A value that differs by replica. Only a write of a variable takes it, and combines the values."""

    __slots__ = ("axis", "value")

    def __init__(self, value: Any, axis: int | None) -> None:
        self.value: Any = value
        self.axis: int | None = axis

    def __repr__(self) -> str:
        axis = "" if self.axis is None else f", axis={self.axis}"
        return f"sv.per_replica({self.value!r}{axis})"


@public()
def per_replica(value: Any, axis: int | None = None) -> PerReplica:
    """Marks a value that differs by replica: a write combines the values of all of them by ``v.aggregation``.

    ``v.assign(sv.per_replica(x))`` stores the same value in all processes: the mean or the sum of their ``x``, or that
    of the first one. So every process has to do the same write, at the same place in the program. The processes are
    those of JAX, torch.distributed or `tf.distribute`; with one process the value is stored as it is. Every other write
    takes such a value too.

    Args:
        value: the value of this process. A value of `tf.distribute` with one tensor for each replica is taken as well.
        axis: the axis along which ``value`` has one value for each replica of this process, such as the first axis of
            an array over the devices of JAX; None if it is one value.

    Returns:
        An object for the writes of a variable; it is no array.

    >>> import statevar as sv
    >>> loss = sv.Variable(0.0, aggregation="mean")
    >>> float(loss.assign(sv.per_replica(3.0)))  # one process
    3.0
    >>> float(loss.assign_add(sv.per_replica([1.0, 2.0], axis=0)))
    4.5
    """
    return PerReplica(value, axis)


def is_per_replica(value: Any) -> bool:
    """Whether a value differs by replica: one of ours, or of `tf.distribute`. By name, since any write asks it."""
    return type(value).__name__ == "PerReplica"


def combined_operand(value: Any, cell: Any, operation: str, path: str, to_operand: ToOperand) -> Any:
    """The values of all replicas as one, by the aggregation of a variable.

    Args:
        to_operand: converts the value of this process.

    Raises:
        DTypeError: the dtype of the variable has no mean, or no sum.
        ReplicaError: the aggregation is ``"none"``; the processes do different writes; or no variable is written.
    """
    if cell is None:
        problem, hint = "a value that differs by replica is no first value", "assign it to a variable that has a value"
        raise ReplicaError.of(operation, problem, path, hint)
    backend, dtype = cell._backend.native, cell._dtype_name
    reduction = reduction_of(cell, operation)
    if (owner := owner_of(value)) is not None:  # of tf.distribute
        value = PerReplica(owner.reduced_replicas(value, reduction), None)
    inner, axis = value.value, value.axis
    if is_per_replica(inner):
        return combined_operand(inner, cell, operation, path, to_operand)
    if cell._backend.is_sharded and cell._backend.runs_per_replica():
        return inner  # the write itself combines what the replicas write
    if code_is_traced(cell):
        problem = "values of several replicas cannot be combined in code that is traced or differentiated"
        hint = "combine them outside: sv.all_reduce, or a write of sv.per_replica(x)"
        raise TraceError.of(operation, problem, path, hint)
    x = to_operand(inner, backend, dtype, operation=operation, path=path)
    if axis is not None:
        x = _along(backend, x, axis, reduction, operation, path)
    key = operation, path, reduction, backend.name, dtype, backend.shape(x), state_of()
    plan = plan_of(key)
    if plan is not None:
        return plan.run([x])[0]
    return reduced([Leaf(backend, x, dtype)], reduction, operation, path, key=key)[0]


def reduction_of(cell: Any, operation: str) -> str:
    aggregation, dtype, path = cell._aggregation, cell._dtype_name, cell._path
    if aggregation == "none":
        problem = "the value differs by replica, and the variable has the aggregation 'none'"
        hint = "you must specify an aggregation: sv.Variable(…, aggregation='mean'), 'sum' or 'only_first_replica'"
        raise ReplicaError.of(operation, problem, path, hint)
    kind = dtype_kind(dtype)
    if aggregation == "mean" and kind not in ("float", "complex"):
        problem = f"the mean of {dtype} values of several replicas is no {dtype}"
        hint = "make the variable with aggregation='sum' or 'only_first_replica', or of a floating-point dtype"
        raise DTypeError.of(operation, problem, path, hint)
    if aggregation == "sum" and kind in ("bool", "string", "key"):
        problem = f"{dtype} values have no sum"
        raise DTypeError.of(operation, problem, path, "make the variable with aggregation='only_first_replica'")
    return _REDUCTIONS[aggregation]


def _along(backend: Backend, x: Array, axis: int, reduction: str, operation: str, path: str) -> Array:
    """Combines the values that lie along an axis."""
    host = backend.to_host(x)
    if not -host.ndim <= axis < host.ndim:
        problem = f"axis {axis} is out of bounds for a value of shape {host.shape}"
        raise ReplicaError.of(operation, problem, path, "pass the axis along which the replicas lie")
    if reduction == "first":
        result = host.take(0, axis)
    else:
        result = host.sum(axis, dtype=host.dtype) if reduction == "sum" else host.mean(axis)
    return backend.from_host(result.astype(host.dtype, copy=False), backend.device_of(x))
