"""Converts any value to an operand of a backend's write verbs, by the casting rule of `_arrays.dtypes`."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from .._arrays.backend import Backend
from .._arrays.dtypes import KEYS, cast_host, check_kind, default_for, dtype_kind, dtype_name, narrows, number_to_host
from .._arrays.first_values import FirstValue, Made
from .._arrays.registry import owner_of
from .._arrays.types import Array, HostArray
from ..errors import DTypeError, InitializerError, RangeError, StatevarError, TraceError
from .foreign import array_in, check_readable, described, is_one_array, may_be_text
from .replicas import combined_operand, is_per_replica

#: Where an operand of a write is made: the verb moves it to the device of the variable.
ANYWHERE: Final = object()

__all__ = ["ANYWHERE", "host_from_python", "inferred_dtype", "to_first", "to_operand", "to_value", "unwrapped"]


def unwrapped(value: Any) -> Any:
    """The stored array if the value is a variable, as the open transaction sees it; any other value as it is."""
    if getattr(type(value), "_is_ours", False):
        current = getattr(value, "_current", None)
        return current()._stored() if current is not None else value.value
    return value


def to_operand(
    value: Any, backend: Backend, dtype: str, *, operation: str, path: str, device: Any = ANYWHERE, cell: Any = None
) -> Array:
    """Converts and casts a value for a backend.

    Args:
        cell: the cell that is written, by whose aggregation a value that differs by replica is combined.
        device: for a first value, the device that was asked for, or None for the library's default.

    Raises:
        DTypeError: the cast would change the kind downwards.
        DeviceError: the elements are spread over several devices or processes, and cannot be moved to one.
        InitializerError: the value is ragged, of objects, or otherwise no array.
        RangeError: an element is out of the dtype's range.
        TraceError: the value exists only inside a traced function.
    """
    number = number_to_host(value, dtype)
    if number is not None:
        return backend.operand_from_host(number) if device is ANYWHERE else backend.from_host(number, device)
    value = unwrapped(value)
    native = backend.dtype(dtype)
    operand = backend.operand(value, native)
    if operand is not None:
        return operand
    if is_per_replica(value):
        value = combined_operand(value, cell, operation, path, to_operand)
        return to_operand(value, backend, dtype, operation=operation, path=path, device=device)
    owner = owner_of(value)
    if owner is not None and owner.is_symbolic(value) and not (owner is backend.native and _keeps_symbolic(backend)):
        raise TraceError.of(
            operation,
            "a traced value cannot be stored in a variable: it is only valid while the function is being traced",
            path,
            "return it from the traced function and assign it outside",
        )
    check_readable(value, owner, operation, path, backend)
    if owner is backend.native and not backend.is_host:
        return _cast_native(value, backend, dtype, native, operation, path)
    if owner is not None:
        try:
            host, exact = owner.to_host(value), False
        except DTypeError:
            check_kind(owner.dtype_name(value), dtype, operation, path)  # its error says what was written where
            raise
    else:
        if (inner := array_in(value)) is not value:
            return to_operand(inner, backend, dtype, operation=operation, path=path, device=device)
        host, exact = host_from_python(value, operation, path)
    host = cast_host(host, dtype, exact=exact, operation=operation, path=path)
    return backend.operand_from_host(host) if device is ANYWHERE else backend.from_host(host, device)


def to_first(value: Any, backend: Backend, dtype: str, *, operation: str, path: str) -> FirstValue | None:
    """A value that nobody else has, cast for a backend; None if its memory cannot be taken, as of a third library.

    Args:
        value: an array, or a `FirstValue` of the dtype, which is returned as it is.

    Raises:
        DTypeError, RangeError: as `to_operand`.
    """
    if isinstance(value, FirstValue):
        return value
    if type(value) is np.ndarray:
        host = cast_host(value, dtype, exact=False, operation=operation, path=path)
        return Made(host, host.shape, dtype)
    if owner_of(value) is backend:
        native = backend.dtype(dtype)
        made = backend.operand(value, native)
        if made is None:
            made = _cast_native(value, backend, dtype, native, operation, path)
        return Made(made, backend.shape(made), dtype)
    return None


def _keeps_symbolic(backend: Backend) -> bool:
    """Whether symbolic values can be stored: the write is traced too, or they have values, as with NumPy autograd."""
    return backend.tracing is None or backend.tracing.writes_when_traced


def to_value(
    value: Any,
    backend: Backend,
    dtype: str,
    *,
    operation: str,
    path: str,
    old: Array | None = None,
    cell: Any = None,
) -> Array:
    """Converts and casts a value that may be traced, and keeps its gradient; otherwise like `to_operand`.

    Args:
        old: the value that it replaces, on whose device it must lie; None for a first value.

    Raises:
        DTypeError, InitializerError, RangeError: as `to_operand`.
        TraceError: the value is traced by another library.
    """
    value = unwrapped(value)
    if is_per_replica(value):
        value = combined_operand(value, cell, operation, path, to_operand)
    if owner_of(value) is None:
        value = array_in(value)  # which may be traced too
    if owner_of(value) is not backend.native:
        device = None if old is None else ANYWHERE
        made = backend.import_array(to_operand(value, backend, dtype, operation=operation, path=path, device=device))
        return made if old is None else backend.beside(made, old)
    if old is not None:
        value = backend.beside(value, old)
    check_readable(value, backend.native, operation, path, backend)
    source = backend.dtype_name(value)
    if source == dtype:
        return backend.without_weak_type(value)
    check_kind(source, dtype, operation, path)
    result = backend.cast(value, backend.dtype(dtype))
    known = backend.is_host or not backend.is_symbolic(value)  # NumPy values are known even under a gradient
    if narrows(source, dtype) and known and not backend.in_range(value, result):
        raise _out_of_range(source, dtype, operation, path)
    return result


def _cast_native(value: Array, backend: Backend, dtype: str, native: Any, operation: str, path: str) -> Array:
    source = backend.dtype_name(value)
    check_kind(source, dtype, operation, path)
    result = backend.cast(value, native)
    if narrows(source, dtype) and not backend.in_range(value, result):
        raise _out_of_range(source, dtype, operation, path)
    operand = backend.operand(result, native)
    assert operand is not None
    return operand


def _out_of_range(source: str, dtype: str, operation: str, path: str) -> RangeError:
    return RangeError.of(
        operation,
        f"the {source} array has an element out of the range of {dtype}",
        path,
        f"use a wider dtype, clip the value first, or cast it to {dtype} yourself",
    )


def host_from_python(value: Any, operation: str, path: str) -> tuple[HostArray, bool]:
    """Reads numbers, nested sequences, and anything with ``__array__``.

    Returns:
        The array, and whether its elements are Python numbers, for which exact casts are allowed.
    """
    exact = isinstance(value, bool | int | float | complex | str | list | tuple | range)
    problem = ""
    try:
        host = np.asarray(value if exact or is_one_array(value) else None)
    except StatevarError:
        raise
    except Exception as error:  # noqa: BLE001  # an object's own conversion may raise anything
        problem = f" ({type(error).__name__}: {error})"
        host = np.empty(0, object)
    if host.dtype == object and isinstance(value, list | tuple):
        try:
            # A tensor may have to be detached, or brought from its device.
            host = np.asarray(_to_host(value, operation, path))
        except StatevarError:
            raise
        except Exception as error:  # noqa: BLE001
            problem = f" ({type(error).__name__}: {error})"
    if host.dtype.kind in "US" and not may_be_text(value):
        host = np.empty(0, object)
    if host.dtype.kind in "US" and isinstance(value, list | tuple) and not _is_text(value):
        raise DTypeError.of(
            operation, "a list has texts and numbers", path, "convert the texts to numbers, or the numbers to texts"
        )
    if host.dtype == object:
        if not problem and _is_integers(value):
            raise RangeError.of(
                operation, "an integer does not fit into 64 bits", path, "pass floats instead of integers"
            )
        what, hint = described(value)
        raise InitializerError.of(operation, f"{what}{problem}", path, hint)
    check_readable(host, owner_of(host), operation, path)
    return host, exact


def _to_host(value: Any, operation: str, path: str) -> Any:
    """A nested list with the arrays in it as NumPy arrays."""
    if isinstance(value, list | tuple):
        return [_to_host(each, operation, path) for each in value]
    owner = owner_of(value := array_in(unwrapped(value)))
    if owner is None:
        return value
    try:
        return owner.to_host(value)
    except DTypeError:
        if (dtype := owner.dtype_name(value)) not in KEYS:
            raise
        problem = f"a list has keys of jax.random ({dtype})"
        raise DTypeError.of(operation, problem, path, "make one array of them: jnp.stack(keys)") from None


def _is_integers(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_integers(each) for each in value)
    return isinstance(value, int)


def _is_text(value: Any) -> bool:
    """Whether all elements of a nested list are texts. NumPy makes texts of the numbers beside a text."""
    if isinstance(value, list | tuple):
        return all(map(_is_text, value))
    return isinstance(value, str | bytes) or (not isinstance(value, bool | int | float | complex) and _has_text(value))


def _has_text(value: Any) -> bool:
    return dtype_kind(dtype_name(np.asarray(value).dtype)) == "string"


def inferred_dtype(value: Any, operation: str, path: str) -> str:
    """The dtype of a variable that is made from this value without ``dtype=``."""
    owner = owner_of(value)
    if owner is not None:
        return owner.dtype_name(value)
    if is_per_replica(value):
        combined_operand(value, None, operation, path, to_operand)  # raises
    host, from_python = host_from_python(value, operation, path)
    return default_for(host) if from_python else dtype_name(host.dtype)
