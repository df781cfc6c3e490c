"""Functions of the array API in forms of which the package ``autograd`` knows the gradients.

They give what those of ``array_api_compat.numpy`` give. An array may be one whose gradient is being recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from ...errors import TraceError

__all__ = ["FUNCTIONS"]


def _is_recorded(x: Any) -> bool:
    return not isinstance(x, np.ndarray | np.generic)


def _along(x: Any, axis: int, index: Any) -> Any:
    return x[(*(slice(None),) * (axis % x.ndim), index)]


def _astype(x: Any, dtype: Any, *, copy: bool = True) -> Any:
    return x.astype(dtype, copy=copy)


def _broadcast_to(x: Any, shape: tuple[int, ...]) -> Any:
    if not _is_recorded(x):
        return np.broadcast_to(x, shape)
    return np.broadcast_to(np.reshape(x, (1,) * (len(shape) - x.ndim) + x.shape), shape)


def _broadcast_arrays(*arrays: Any) -> list[Any]:
    shape = np.broadcast_shapes(*(each.shape for each in arrays))
    return [_broadcast_to(each, shape) for each in arrays]


def _copysign(x1: Any, x2: Any) -> Any:
    size = np.abs(x1)
    return np.where(np.signbit(x2), -size, size)


def _cumulative_prod(x: Any, *, axis: int, **more: Any) -> Any:
    return np.cumprod(x, axis=axis, **more)


def _cumulative_sum(x: Any, *, axis: int, **more: Any) -> Any:
    return np.cumsum(x, axis=axis, **more)


def _diagonal(x: Any, *, offset: int) -> Any:
    rows, columns = x.shape[-2:]
    places = np.arange(max(0, min(rows + min(offset, 0), columns - max(offset, 0))))
    return x[..., places - min(offset, 0), places + max(offset, 0)]


def _matrix_norm(x: Any, *, keepdims: bool, ord: Any) -> Any:  # noqa: A002  # the standard's name
    if ord == "fro":
        return np.sqrt(np.sum(np.abs(x) ** 2, axis=(-2, -1), keepdims=keepdims))
    if ord in (1, -1, np.inf, -np.inf):
        first, second = (-2, -1) if abs(ord) == 1 else (-1, -2)
        sums = np.sum(np.abs(x), axis=first, keepdims=True)
        found = (np.max if ord > 0 else np.min)(sums, axis=second, keepdims=True)
    else:
        s = np.linalg.svd(x, full_matrices=False)[1]
        reduce: Any = {"nuc": np.sum, 2: np.max, -2: np.min}[ord]
        found = reduce(s, axis=-1)[..., None, None]
    return found if keepdims else np.squeeze(found, axis=(-2, -1))


def _matrix_power(x: Any, n: int) -> Any:
    if n < 0:
        x, n = np.linalg.inv(x), -n
    result = None
    while n:
        if n % 2:
            result = x if result is None else np.matmul(result, x)
        n //= 2
        x = np.matmul(x, x) if n else x
    return np.zeros_like(x) + np.eye(x.shape[-1], dtype=x.dtype) if result is None else result


def _matrix_transpose(x: Any) -> Any:
    return np.swapaxes(x, -1, -2)


def _meshgrid(*arrays: Any, indexing: Any) -> list[Any]:
    if not any(map(_is_recorded, arrays)):
        return list(np.meshgrid(*arrays, indexing=indexing))
    count = len(arrays)
    found = [np.reshape(x, (1,) * i + (-1,) + (1,) * (count - i - 1)) for i, x in enumerate(arrays)]
    found = _broadcast_arrays(*found)
    return [np.swapaxes(each, 0, 1) for each in found] if indexing == "xy" and count > 1 else found


def _outer(x1: Any, x2: Any) -> Any:
    return x1[:, None] * x2[None, :]


def _pinv(x: Any, *, rtol: Any = None) -> Any:
    if _is_recorded(x):
        if rtol is not None:
            raise TraceError.of("pinv", "NumPy has no gradient with rtol=", "", "leave rtol= out")
        return np.linalg.pinv(x)
    if rtol is None:
        rtol = max(x.shape[-2:]) * np.finfo(x.dtype).eps
    return np.linalg.pinv(x, rtol)


def _solve(x1: Any, x2: Any) -> Any:
    if x2.ndim == 1:
        shape = (*x1.shape[:-2], x2.shape[0], 1)
        return np.squeeze(np.linalg.solve(x1, _broadcast_to(x2[:, None], shape)), axis=-1)
    return np.linalg.solve(x1, x2)


def _sort(x: Any, *, axis: int, descending: bool, stable: bool) -> Any:
    if not _is_recorded(x):
        found = np.sort(x, axis=axis, kind="stable")
        return np.flip(found, axis) if descending else found
    places = np.argsort(x, axis=axis, kind="stable")
    return np.take_along_axis(x, np.flip(places, axis) if descending else places, axis)


def _take(x: Any, indices: Any, *, axis: int) -> Any:
    return _along(x, axis, indices)


def _unstack(x: Any, *, axis: int) -> list[Any]:
    return [_along(x, axis, i) for i in range(x.shape[axis])]


def _vecdot(x1: Any, x2: Any, *, axis: int) -> Any:
    return np.sum(np.conj(x1) * x2, axis=axis, dtype=None if x1.dtype.kind in "fc" else x1.dtype)


def _vector_norm(x: Any, *, axis: Any, keepdims: bool, ord: Any) -> Any:  # noqa: A002  # the standard's name
    size = np.abs(x)
    if ord == 2:
        return np.sqrt(np.sum(size * size, axis=axis, keepdims=keepdims))
    if ord in (np.inf, -np.inf):
        return (np.max if ord > 0 else np.min)(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return np.sum((size != 0).astype(size.dtype), axis=axis, keepdims=keepdims)
    if ord == 1:
        return np.sum(size, axis=axis, keepdims=keepdims)
    return np.sum(size**ord, axis=axis, keepdims=keepdims) ** (1 / ord)


#: By the names of the standard.
FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "astype": _astype,
    "broadcast_arrays": _broadcast_arrays,
    "broadcast_to": _broadcast_to,
    "copysign": _copysign,
    "cumulative_prod": _cumulative_prod,
    "cumulative_sum": _cumulative_sum,
    "linalg.diagonal": _diagonal,
    "linalg.matrix_norm": _matrix_norm,
    "linalg.matrix_power": _matrix_power,
    "linalg.outer": _outer,
    "linalg.pinv": _pinv,
    "linalg.solve": _solve,
    "linalg.vector_norm": _vector_norm,
    "matrix_transpose": _matrix_transpose,
    "meshgrid": _meshgrid,
    "sort": _sort,
    "take": _take,
    "unstack": _unstack,
    "vecdot": _vecdot,
}
