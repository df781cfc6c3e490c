"""`update_all`: one kind of write to many variables, in one step and, where the library can, in one call of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter
from typing import Any, Literal, TypeAlias

from .._arrays.types import Array
from .._core import overlays, placement
from .._core.convert import to_operand
from .._core.draft import write_all
from .._core.variable import Variable
from .._core.writes import ASSIGN, OPERATIONS, Write, refused, writes_of
from .._public import public
from ..errors import describe
from .paths import Targets
from .transaction import transaction

__all__ = ["together", "update_all"]

#: The operations of `update_all`, for type checkers.
Operation: TypeAlias = Literal[
    "assign",
    "assign_add",
    "assign_sub",
    "add",
    "subtract",
    "multiply",
    "divide",
    "floor_divide",
    "remainder",
    "pow",
    "matmul",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "left_shift",
    "right_shift",
]

_backend = attrgetter("_backend")
_constraint = attrgetter("_constraint")
_dtype = attrgetter("_dtype")
_dtype_name = attrgetter("_dtype_name")


@public()
def update_all(variables: Any, operation: Operation, values: Any) -> None:
    """Does the same kind of write to many variables: all of them are written or, on an exception, none.

    Other threads see all writes at once, as those of a transaction. On torch and JAX, variables of one device are
    written in one call of the library, and in place where nobody holds the old value; elsewhere, and within a transform
    or a transaction, one after the other.

    Args:
        variables: variables, in a list or in any object that `transaction` takes.
        operation: ``"assign"``; or an operator by the name that it has in the array API standard: ``"add"``,
            ``"subtract"``, ``"multiply"``, ``"divide"`` and so on.
        values: a value for each variable, in the same order; a mapping from the variables, such as `grad` returns; or
            one number for all of them.

    Raises:
        DTypeError, RangeError, ShapeError: as the same write of one variable. No variable has changed then.
        ValueError: there is no such operation, or there are more or fewer values than variables.

    Source: ``torch._foreach_add_`` and its siblings.

    >>> import statevar as sv
    >>> w, b = sv.Variable([1.0, 2.0]), sv.Variable(3.0)
    >>> sv.update_all([w, b], "subtract", [[0.5, 0.5], 1.0])
    >>> sv.update_all([w, b], "multiply", 10)
    >>> w.value, b.value
    (array([ 5., 15.], dtype=float32), array(20., dtype=float32))
    """
    found = _variables(variables)
    given = _values(values, found)
    writes = _writes(found, operation)
    if found and not _written_in_one_call(found, writes, given):
        with together(found):
            for variable, value in zip(found, given, strict=True):
                variable._write(writes[variable._dtype_name], value)


def _variables(variables: Any) -> list[Variable]:
    """The variables, each as often as it was passed in a list."""
    if isinstance(variables, list | tuple) and all(isinstance(each, Variable) for each in variables):
        return list(variables)
    return list(Targets("update_all", (variables,)).variables)


def _values(values: Any, found: list[Variable]) -> list[Any]:
    if isinstance(values, bool | int | float | complex):
        return [values] * len(found)
    if isinstance(values, Mapping):
        missing = next((each for each in found if each not in values), None)
        if missing is not None:
            raise ValueError(describe("update_all", "the mapping has no value for a variable", missing.path))
        return [values[each] for each in found]
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        hint = "pass a list with a value for each variable, a mapping from variables, or one number for all"
        raise TypeError(describe("update_all", f"expected several values, got {type(values).__name__}", hint=hint))
    given = list(values)
    if len(given) != len(found):
        raise ValueError(describe("update_all", f"got {len(given)} values for {len(found)} variables"))
    return given


def _writes(found: list[Variable], operation: str) -> dict[str, Write]:
    """The write for variables of each dtype."""
    if operation == "assign":
        return dict.fromkeys(map(_dtype_name, found), ASSIGN)
    if operation not in OPERATIONS:
        known = ", ".join(map(repr, ("assign", *OPERATIONS)))
        raise ValueError(describe("update_all", f"unknown operation {operation!r}", hint=f"known are {known}"))
    writes = {}
    for dtype in dict.fromkeys(map(_dtype_name, found)):
        if (write := writes_of(dtype).get(operation)) is None:
            raise refused(operation, dtype, next(each for each in found if each._dtype_name == dtype)._path)
        writes[dtype] = write
    return writes


def _written_in_one_call(found: list[Variable], writes: dict[str, Write], values: list[Any]) -> bool:
    """Whether the library could write all of them in one call, and has."""
    backend, (write, *others) = found[0]._backend, writes.values()
    if (
        overlays.active
        or len(set(map(id, found))) != len(values)  # one of them is written twice
        or set(map(_backend, found)) != {backend}
        or list(map(_constraint, found)).count(None) != len(found)
        or write.verb not in ("assign", "apply")
        or any(each.op is not write.op or each.verb != write.verb for each in others)
        or (backend.tracing is not None and backend.tracing.is_tracing())
        or (backend.traced_elsewhere is not None and backend.traced_elsewhere())
        or (placement.several and _on_several_devices(found))
    ):
        return False
    return write_all([*found], write, _operands(found, write, values))


def _on_several_devices(found: list[Variable]) -> bool:
    handles = [handle for each in found if (handle := each._handle) is not None]
    return len(set(map(found[0]._backend.device_of_handle, handles))) > 1


def _operands(found: list[Variable], write: Write, values: list[Any]) -> list[Array]:
    """The values as operands. One number for many variables becomes one array."""
    backend = found[0]._backend
    xs: list[Any] = list(map(backend.operand, values, map(_dtype, found)))
    made: dict[Any, Any] = {}
    for i, x in enumerate(xs):
        if x is None:
            dtype = found[i]._dtype_name
            key = (id(values[i]), dtype)
            if key not in made:
                made[key] = to_operand(values[i], backend, dtype, operation=write.operation, path=found[i]._path)
            xs[i] = made[key]
    return xs


def together(variables: list[Variable]) -> AbstractContextManager[object]:
    """Returns a transaction if there are several variables and no library traces the code, else an empty context."""
    traced = any(each is not None and each.is_tracing() for each in {v._backend.tracing for v in variables})
    return nullcontext() if len(variables) < 2 or traced else transaction(variables)
