"""The kinds of write: the check of each, the backend verb that does it, and the dtypes that have it.

The checks run under the lock, against the variable's shape at that moment.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from .._arrays.backend import Backend
from .._arrays.dtypes import HOST, dtype_kind, is_integer
from .._arrays.host import AT_OPERATIONS
from .._arrays.indexing import Selection, select
from .._arrays.shapes import DeclaredShape, Shape, broadcasts_into, fits
from .._arrays.types import Array
from ..errors import DivisionError, DTypeError, RangeError, ShapeError, ShardingError
from .operators import index_part

__all__ = ["ASSIGN", "KEPT", "OPERATIONS", "PUT", "REDECLARE", "Write", "refused", "writes_of"]


if TYPE_CHECKING:  # a protocol takes 0.1 ms of every import

    class Shaped(Protocol):
        """A variable or its draft, as a check sees it."""

        _shape: Shape | None
        _declared: DeclaredShape
        _path: str

        @property
        def _backend(self) -> Backend: ...

        @property
        def _sharding(self) -> Any: ...

        @property
        def shape(self) -> Shape: ...


#: Raises ShapeError if an operand does not fit; returns the selection, the new shape, or None. A function and not a
#: method of the variable: looking one up in a class takes 40 ns.
Check: TypeAlias = "Callable[[Shaped, str, Array, Any], Any]"


class Write:
    """One kind of write.

    Args:
        operation: the name of the write, for errors.
        verb: the name of the backend's write verb; None if the new value is computed first and then assigned.
        check: raises if an operand does not fit.
        op: the operator, or the name of an operation at an index; None to store the operand as it is.
        first: whether this write may give a variable its first value.
        looks: whether the check looks at the elements of the operand.

    Attributes:
        is_whole: whether it is one of the usual writes of a whole variable, which keep its shape: `Backend.assign` or
            `Backend.apply`.
    """

    __slots__ = ("check", "first", "is_whole", "looks", "op", "operation", "verb")

    def __init__(
        self,
        operation: str,
        verb: str | None,
        check: Check,
        op: Any = None,
        *,
        first: bool = False,
        looks: bool = False,
    ) -> None:
        self.looks = looks
        self.operation = operation
        self.verb = verb
        self.is_whole = verb in ("assign", "apply")
        self.check = check
        self.op = op
        self.first = first

    def of(self, operation: str, op: Any = None) -> Write:
        """A copy of this write with another name and, if ``op`` is given, another operator."""
        return Write(operation, self.verb, self.check, self.op if op is None else op, first=self.first)


def fits_declared(cell: Shaped, operation: str, x: Array, index: None) -> Shape | None:
    """Raises ShapeError unless the operand has a shape that the variable has or may have."""
    if getattr(x, "shape", False) == cell._shape:  # most arrays have it, and `Backend.shape` takes 0.1 us
        return None
    shape = cell._backend.shape(x)
    if not fits(shape, cell._declared):
        raise ShapeError.of(
            operation,
            f"expected shape {cell._declared}, got {shape}",
            cell._path,
            "pass validate_shape=False to change the shape",
        )
    _check_sharding(cell, operation, shape)
    return shape


def redeclares(cell: Shaped, operation: str, x: Array, index: None) -> Shape:
    """Returns the shape of the operand, which becomes the shape of the variable."""
    shape = cell._backend.shape(x)
    _check_sharding(cell, operation, shape)
    return shape


def _check_sharding(cell: Shaped, operation: str, shape: Shape) -> None:
    """Raises ShardingError if a value of another shape cannot be spread as the variable is."""
    backend: Any = cell._backend
    if backend.is_sharded and (problem := backend.problem_with(shape, cell._sharding)) is not None:
        problem = f"a value of shape {shape} cannot be spread as {backend.device_name(cell._sharding)}: {problem}"
        raise ShardingError.of(operation, problem, cell._path, "call v.reshard(…) first")


def broadcasts(cell: Shaped, operation: str, x: Array, index: None) -> None:
    """Raises ShapeError unless the operand broadcasts into the variable's shape."""
    shape = getattr(x, "shape", None)
    if shape == cell._shape or shape == ():
        return
    shape = cell._backend.shape(x)
    if not broadcasts_into(shape, cell.shape):
        raise ShapeError.of(operation, f"shape {shape} does not broadcast into {cell._shape}", cell._path)


def multiplies(cell: Shaped, operation: str, x: Array, index: None) -> None:
    """Raises ShapeError unless the operand is a square matrix, or a stack of them, to multiply the variable by."""
    shape, mine = cell._backend.shape(x), cell.shape
    square = (mine[-1:] or (0,)) * 2
    if not mine or shape[-2:] != square or not broadcasts_into(shape[:-2], mine[:-2]):
        raise ShapeError.of(
            operation,
            f"expected a matrix of shape {square} for a variable of shape {mine}, got shape {shape}",
            cell._path,
        )


def selects(cell: Shaped, operation: str, x: Array, index: Any) -> Selection:
    """Returns the selection of an index; raises ShapeError unless the operand broadcasts into it."""
    shape, backend = cell._shape, cell._backend
    where = select(index, cell.shape if shape is None else shape, cell._path, backend, index_part)
    given = getattr(x, "shape", None)  # most arrays have it, and `Backend.shape` takes 0.1 us
    if not isinstance(given, tuple):  # TensorFlow takes 4 us to compare its own shape with a tuple
        given = backend.shape(x)
    if given == () or given == where.shape:
        return where
    shape = backend.shape(x)
    if shape and not broadcasts_into(shape, where.shape):
        raise ShapeError.of(
            operation, f"shape {shape} does not broadcast into the selected shape {where.shape}", cell._path
        )
    return where


ASSIGN: Final = Write("assign", "assign", fits_declared, first=True)
REDECLARE: Final = Write("assign", "redeclare", redeclares, first=True)
PUT: Final = Write("setitem", "put", selects, "set")
#: The operator of an assignment whose operand is a value of ours already, so that no caller can write its memory.
KEPT: Final = "kept"

#: The operators that write a variable, by the name of the operation.
_OPERATORS: dict[str, Any] = {
    "assign_add": operator.add,
    "assign_sub": operator.sub,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "remainder": operator.mod,
    "pow": operator.pow,
    "matmul": operator.matmul,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "left_shift": operator.lshift,
    "right_shift": operator.rshift,
}
#: The names of the operations that change a whole variable.
OPERATIONS: Final = tuple(_OPERATORS)
_BITWISE = {operator.and_, operator.or_, operator.xor}
_ARITHMETIC = {operator.add, operator.sub, operator.mul}
_ORDERED = {operator.floordiv, operator.mod, "floor_divide", "remainder", "min", "max"}
_SHIFTS = {operator.lshift, operator.rshift}
_DIVISIONS = {operator.floordiv, operator.mod, "floor_divide", "remainder"}
_POWERS = {operator.pow, "power"}


@functools.cache
def writes_of(dtype: str) -> dict[str, Write]:
    """The writes that variables of a dtype have, by the name of the operation: ``"add"``, ``"at.add"``.

    The backend applies an operator in place if it keeps dtype and shape on every library. The result of any other
    operator is computed first, checked, and then stored.
    """
    name = dtype_kind(dtype)
    closed = _BITWISE if name == "bool" else _ARITHMETIC | (_BITWISE if name in ("int", "uint") else set())
    found = {
        operation: Write(
            operation,
            "apply" if op in closed else None,
            _takes(op, dtype, multiplies if op is operator.matmul else broadcasts),
            op,
            looks=_looks(op, dtype),
        )
        for operation, op in _OPERATORS.items()
        if not _problem(op, dtype)
    }
    at = (
        Write(f"at.{each}", "put", _takes(each, dtype, selects), each, looks=_looks(each, dtype))
        for each in AT_OPERATIONS
        if each == "set" or not _problem(each, dtype)
    )
    return found | {write.operation: write for write in at}


def _looks(op: Any, dtype: str) -> bool:
    """Whether an operation of integers is not defined for every operand."""
    return is_integer(dtype) and op in _DIVISIONS | _POWERS | _SHIFTS


def _takes(op: Any, dtype: str, check: Check) -> Check:
    """The check of an operation, which for some operations of integers looks at the operand too.

    For these operands each library raises another error, or none: JAX divides 7 by 0 to -2, and torch computes 2 ** -1
    as 0. What a traced program will have computed is not known.
    """
    if not _looks(op, dtype):
        return check
    bits = HOST[dtype].itemsize * 8 if dtype not in ("int4", "uint4") else 4

    def checked(cell: Shaped, operation: str, x: Array, index: Any) -> Any:
        where = check(cell, operation, x, index)
        host = cell._backend.known(x)
        if host is None or not host.size:
            return where
        low = host.item() if host.size == 1 else host.min()  # the methods of arrays take 2 us
        if op in _DIVISIONS:
            if not (low if host.size == 1 else host.all()):
                hint = "use a floating-point variable, or replace the zeros first"
                raise DivisionError.of(operation, f"a division of {dtype} by zero", cell._path, hint)
        elif op in _POWERS:
            if low < 0:
                problem = f"{dtype} to the power of {low} is no integer"
                raise RangeError.of(operation, problem, cell._path, "use a floating-point variable")
        elif low < 0 or host.max() >= bits:
            wrong = low if low < 0 else host.max()
            raise RangeError.of(operation, f"expected a shift by 0 to {bits - 1} bits, got {wrong}", cell._path)
        return where

    return checked


def refused(operation: str, dtype: str, path: str) -> DTypeError:
    """The error for an operation that variables of this dtype do not have."""
    return DTypeError.of(
        operation, path=path, **_problem(_OPERATORS.get(operation, operation.removeprefix("at.")), dtype)
    )


def _problem(op: Any, dtype: str) -> dict[str, str]:
    """The problem and the hint if variables of a dtype do not have an operation; empty if they have it.

    NumPy adds booleans, torch refuses to subtract them, TensorFlow refuses both; and a quotient of integers is a float
    everywhere. So these are refused before any library is called.
    """
    name = dtype_kind(dtype)
    if name == "key":
        hint = "make a new key with jax.random.split or jax.random.fold_in, and assign it"
        return {"problem": f"{dtype} variables do not support arithmetic", "hint": hint}
    if op in _SHIFTS and name not in ("int", "uint"):
        return {"problem": f"{dtype} variables do not support shifts of bits", "hint": "use an integer dtype"}
    if name == "bool" and op not in _BITWISE:
        return {"problem": "bool variables do not support arithmetic", "hint": "use &, | and ^"}
    if op in _BITWISE and name not in ("bool", "int", "uint"):
        return {
            "problem": f"{dtype} variables do not support bitwise operations",
            "hint": "use bool or an integer dtype",
        }
    if name == "complex" and op in _ORDERED:
        return {"problem": "complex numbers have no order, which this operation needs"}
    if op in (operator.truediv, "divide") and name in ("int", "uint"):
        whole = "//=" if op is operator.truediv else "v.at[i].floor_divide(x)"
        return {"problem": f"a quotient is a float, not {dtype}", "hint": f"use {whole}, or a floating-point variable"}
    return {}
