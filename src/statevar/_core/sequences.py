"""Lists, tuples and ranges as operands: their numbers take the dtype of the variable, as a single number does."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from .._arrays.dtypes import KEYS, cast_host, default_for, dtype_kind, dtype_name
from .._arrays.registry import owner_of
from .._arrays.shapes import Shape
from .._arrays.types import HostArray, Operation
from ..errors import DTypeError, InitializerError, RangeError, ShapeError, StatevarError
from .foreign import check_readable, described

__all__ = ["has_arrays", "host_of_buffer", "host_of_sequence", "is_sequence"]

_RANK: Final = {"bool": 0, "int": 1, "uint": 1, "float": 2, "complex": 3}
_COMPARES: Final = {"eq", "ne", "lt", "le", "gt", "ge"}


def is_sequence(value: Any) -> bool:
    """Whether a value is a list or a sequence like one; a text is none."""
    return isinstance(value, list | tuple | Sequence | deque) and not isinstance(value, str | bytes | bytearray)


def has_arrays(sequence: Any) -> bool:
    """Whether a nested list has variables, or arrays that may have gradients, among its elements."""
    return any(has_arrays(each) if is_sequence(each) else _may_have_gradient(each) for each in sequence)


def _may_have_gradient(value: Any) -> bool:
    if isinstance(value, np.generic | np.ndarray):
        return False
    return owner_of(value) is not None or hasattr(type(value), "__array_namespace__")


def host_of_buffer(value: Any) -> HostArray | None:
    """The array of an object that has ``__array__`` or a buffer, and no operators of its own; None of any other."""
    cls = type(value)
    if hasattr(cls, "__radd__") or isinstance(value, str | bytes):
        return None
    if not any(hasattr(cls, name) for name in ("__array__", "__array_interface__", "__array_struct__")):
        try:
            memoryview(value)
        except TypeError:
            return None
    return np.asarray(value)


def host_of_sequence(sequence: Any, op: Operation, dtype: str, shape: Shape, path: str) -> HostArray:
    """Reads a nested list as an operand for an array.

    Args:
        dtype: the dtype of the array, which the numbers take unless they are of a higher kind.
        shape: the shape of the array.

    Raises:
        DTypeError: one of the two is of strings.
        InitializerError: the rows differ in length, or an element is no number.
        RangeError: a number is out of the range of ``dtype``.
        ShapeError: the shapes do not broadcast.
    """
    operation, problem = op.__name__.strip("_"), ""
    check_readable(list(sequence), None, operation, path)
    try:
        host = np.asarray(list(sequence) if isinstance(sequence, deque) else sequence)
    except StatevarError:
        raise
    except Exception as error:  # noqa: BLE001  # an element's own conversion may raise anything
        host, problem = np.empty(0, object), f" ({type(error).__name__}: {error})"
    if host.dtype == object:
        what, hint = described(sequence)
        raise InitializerError.of(operation, f"{what}{problem}", path, hint)
    source = dtype_name(host.dtype)
    if (source == "string") != (dtype == "string") or dtype in KEYS:
        raise DTypeError.of(operation, f"cannot combine {dtype} with {source}", path)
    if operation != "matmul":
        try:
            np.broadcast_shapes(host.shape, shape)
        except ValueError:
            raise ShapeError.of(operation, f"shapes {shape} and {host.shape} do not fit together", path) from None
    fits = source == "string" or _RANK[dtype_kind(source)] <= _RANK[dtype_kind(dtype)]
    target = dtype if fits else default_for(host)
    try:
        return cast_host(host, target, exact=True, operation=operation, path=path)
    except RangeError:
        if operation not in _COMPARES:
            raise
        return host  # no element of the variable is equal to it
