"""Functions of the array API that ``array_api_compat.torch`` lacks, or has for fewer dtypes than the standard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import array_api_compat.torch as compat
import torch

__all__ = ["FUNCTIONS"]

#: Of these torch computes next to nothing.
_UNSIGNED: Final = frozenset((torch.uint16, torch.uint32, torch.uint64))
#: The functions whose results have, in the low bits, the same bits if they are computed in 64 bits with a sign.
_LOW_BITS: Final = (
    *("add", "bitwise_invert", "bitwise_left_shift", "broadcast_to", "concat", "cumulative_prod", "cumulative_sum"),
    *("flip", "full_like"),
    *(
        "linalg.cross",
        "linalg.outer",
        "matmul",
        "multiply",
        "negative",
        "ones_like",
        "prod",
        "repeat",
        "roll",
        "square",
    ),
    *("stack", "subtract", "sum", "take", "take_along_axis", "tensordot", "tile", "tril", "triu", "vecdot", "where"),
)
#: Those for which that is so only of numbers below 2**63.
_SMALL: Final = ("abs", "bitwise_right_shift", "floor_divide", "pow", "remainder")
#: The functions that depend on the order of the numbers, and return some of them, or something else.
_ORDERED: Final = ("max", "maximum", "min", "minimum", "sort")
_COMPARED: Final = (
    *("argmax", "argmin", "argsort", "count_nonzero", "greater", "greater_equal", "less", "less_equal"),
    "searchsorted",
)
_LOWEST: Final = -(2**63)


def _in_64_bits(name: str, dtypes: frozenset[torch.dtype]) -> Callable[..., Any]:
    """A function of the namespace that computes with the dtypes in 64 bits, if torch does not compute with them."""
    function: Any = compat
    for part in name.split("."):
        function = getattr(function, part)
    if name in _OWN:
        function = _OWN[name]

    def call(*args: Any, **kwargs: Any) -> Any:
        tensors = args[0] if type(args[0]) is list else args
        dtype = next((each.dtype for each in tensors if getattr(each, "dtype", None) in dtypes), None)
        if dtype is None:
            return function(*args, **kwargs)
        if "dtype" in kwargs:
            kwargs["dtype"] = torch.int64
        return function(*(_wide(each) for each in args), **kwargs).to(dtype)

    return call


def _in_order(name: str, *, returns_them: bool) -> Callable[..., Any]:
    """A function of the namespace that gets unsigned numbers as numbers with a sign in the same order."""
    function = getattr(compat, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        dtype = args[0].dtype
        if dtype not in _UNSIGNED:
            return function(*args, **kwargs)
        if dtype != torch.uint64:
            result = function(*map(_wide, args), **kwargs)
            return result.to(dtype) if returns_them else result
        if name == "count_nonzero":
            return function(args[0].view(torch.int64), **kwargs)
        result = function(*(each.view(torch.int64) ^ _LOWEST for each in args), **kwargs)
        return (result ^ _LOWEST).view(dtype) if returns_them else result

    return call


def _wide(x: Any) -> Any:
    if type(x) is list:
        return list(map(_wide, x))
    return x.to(torch.int64) if getattr(x, "dtype", None) in _UNSIGNED else x


def _var(x: Any, *, axis: Any, correction: float, keepdims: bool) -> Any:
    if axis == ():  # which torch takes for all axes
        return (x - x) / max(1 - correction, 0)
    return torch.var(x, axis, correction=correction, keepdim=keepdims)


def _std(x: Any, *, axis: Any, correction: float, keepdims: bool) -> Any:
    if axis == ():
        return torch.sqrt(_var(x, axis=axis, correction=correction, keepdims=keepdims))
    return torch.std(x, axis, correction=correction, keepdim=keepdims)


def _take(x: Any, indices: Any, *, axis: int) -> Any:
    return torch.index_select(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _unique_all(x: Any) -> tuple[Any, Any, Any, Any]:
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
    order = torch.argsort(torch.reshape(inverse, (-1,)), stable=True)
    firsts = order[torch.cumsum(counts, 0) - counts]
    return values, firsts, inverse, counts


_OWN: Final[dict[str, Callable[..., Any]]] = {"std": _std, "take": _take, "unique_all": _unique_all, "var": _var}

#: By the names of the standard.
FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    **_OWN,
    **{name: _in_64_bits(name, _UNSIGNED) for name in _LOW_BITS},
    **{name: _in_64_bits(name, _UNSIGNED - {torch.uint64}) for name in _SMALL},
    **{name: _in_order(name, returns_them=True) for name in _ORDERED},
    **{name: _in_order(name, returns_them=False) for name in _COMPARED},
}
