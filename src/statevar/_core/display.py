"""The text that shows a variable: one line of facts, then the value, abridged. Never raises."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .._arrays.backend import Backend
from .._arrays.indexing import select
from .._arrays.types import HostArray

__all__ = ["variable_repr"]

# NumPy's own limits: a larger array is printed with three elements at each end of each axis.
_THRESHOLD = 1000
_EDGE = 3


def variable_repr(variable: Any) -> str:
    """The text of ``repr(variable)``.

    >>> import statevar as sv
    >>> sv.Variable([1.0, 2.0], name="w")
    <Variable 'w' shape=(2,) dtype=float32 device=CPU:0 backend=numpy value=[1. 2.]>
    """
    name = type(variable).__name__
    try:
        shape = variable.shape if variable.is_initialized else variable.declared_shape
        facts = (
            f"{variable.path!r} shape={_shape(shape)} dtype={variable.dtype_name} "
            f"device={variable._backend.device_name(variable.device)} backend={variable.backend}"
        )
    except Exception as error:  # noqa: BLE001  # a repr never raises
        return f"<{name} at {id(variable):#x}, unavailable: {type(error).__name__}>"
    return f"<{name} {facts} value={value_text(variable)}>"


def value_text(variable: Any) -> str:
    """The value as NumPy prints it; it starts on a new line if it has several."""
    if not variable.is_initialized:
        return "<uninitialized>"
    try:
        backend, value = variable._backend, variable.value
        if backend.is_symbolic(value):
            return "<traced>"
        text = _text(backend, value)
    except Exception as error:  # noqa: BLE001  # a repr never raises
        return f"<unavailable: {type(error).__name__}>"
    return f"\n{text}" if "\n" in text else text


def _shape(shape: Any) -> str:
    return "..." if shape is ... else str(shape)


def _text(backend: Backend, value: Any) -> str:
    shape = backend.shape(value)
    if np.prod(shape, dtype=float) <= _THRESHOLD:
        return np.array2string(_numbers(backend.packed(value)), separator=" ")
    return np.array2string(_numbers(_edges(backend, value, shape)), threshold=0, edgeitems=_EDGE)


def _numbers(host: HostArray) -> HostArray:
    """A packed value as it is shown: of random keys their numbers, which have one axis more."""
    return host if host.dtype.names is None else host[host.dtype.names[0]]


def _edges(backend: Backend, value: Any, shape: tuple[int, ...]) -> HostArray:
    """The corners of a large array, with one row between that NumPy abridges. Only the corners leave the device."""
    ends = [_ends(size) for size in shape]
    dtype = backend.packed(backend.get(value, select((slice(0, 1),) * len(shape), shape, ""))).dtype
    result = np.zeros([min(size, 2 * _EDGE + 1) for size in shape], dtype)
    for corner in itertools.product(*ends):
        source = tuple(pair[0] for pair in corner)
        target = tuple(pair[1] for pair in corner)
        result[target] = backend.packed(backend.get(value, select(source, shape, "")))
    return result


def _ends(size: int) -> list[tuple[slice, slice]]:
    if size <= 2 * _EDGE + 1:
        return [(slice(0, size), slice(0, size))]
    return [
        (slice(0, _EDGE), slice(0, _EDGE)),
        (slice(size - _EDGE, size), slice(_EDGE + 1, 2 * _EDGE + 1)),
    ]
