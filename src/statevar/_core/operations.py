"""Which operators write which dtypes, the same for every library."""

from __future__ import annotations

import functools
import operator
from typing import Any

from .._arrays.dtypes import kind
from ..errors import DTypeError, describe

__all__ = ["check_operator", "closed_operators"]

_BITWISE = {operator.and_, operator.or_, operator.xor}
_ORDERED = {operator.floordiv, operator.mod, "min", "max"}

_ARITHMETIC = {operator.add, operator.sub, operator.mul}


@functools.cache
def closed_operators(dtype: str) -> frozenset[Any]:
    """The operators that keep dtype and shape on every library, so that an adapter may do them in place.

    The others are computed first, checked, and then stored.
    """
    bits = _BITWISE if kind(dtype) in ("bool", "int", "uint") else set()
    return frozenset(bits if kind(dtype) == "bool" else _ARITHMETIC | bits)


def check_operator(operation: str, op: Any, dtype: str, path: str) -> None:
    """Raises DTypeError if a variable of the dtype cannot be written by an operator, or a kind of ``v.at``.

    NumPy adds booleans, torch refuses to subtract them, TensorFlow refuses both; and a quotient of integers
    is a float everywhere. So these are refused before any library is asked.
    """
    name = kind(dtype)
    if name == "bool" and op not in _BITWISE:
        raise DTypeError(describe(operation, "bool variables have no arithmetic", path, "use &, | and ^"))
    if op in _BITWISE and name not in ("bool", "int", "uint"):
        raise DTypeError(describe(operation, f"{dtype} variables have no bits", path))
    if name == "complex" and op in _ORDERED:
        raise DTypeError(describe(operation, "complex numbers have no order", path))
    if op in (operator.truediv, "divide") and name in ("int", "uint"):
        raise DTypeError(
            describe(operation, f"a quotient is not {dtype}", path, "use //=, or a floating-point variable")
        )
