"""The arguments of draws from a `Generator`, checked."""

from __future__ import annotations

import math
import secrets
from typing import Any

import numpy as np

from .._arrays.dtypes import HOST, dtype_name, is_integer
from .._arrays.random.numbers import PRECISION
from .._arrays.shapes import Shape, canonical_shape, is_static
from .._arrays.types import Array
from ..errors import DTypeError, RangeError, ShapeError, StatevarError, describe

__all__ = ["check_bounds", "count_of", "floating", "integral", "is_number", "key_of", "shape_of", "wider"]

_KEYS = 1 << 64
_LEAST = 2.0**-126  # the least normal number of float32: libraries may take smaller ones for zero


def key_of(seed: Any) -> int:
    """The key that a seed stands for."""
    if seed is None:
        return secrets.randbits(64)
    if isinstance(seed, list | tuple | np.ndarray) and np.ndim(seed) == 1:
        if not all(is_number(each) and each >= 0 for each in seed):
            raise TypeError(describe("Generator", f"expected non-negative integers as seed, got {seed!r}"))
        upper, lower = np.random.SeedSequence(list(seed)).generate_state(2).tolist()
        return int(upper) << 32 | int(lower)
    if not is_number(seed):
        raise TypeError(describe("Generator", f"expected an integer as seed, got {seed!r}", hint="pass seed=0"))
    if not 0 <= int(seed) < _KEYS:
        hint = "pass a sequence of integers, which is hashed: [seed, run]"
        raise RangeError.of("Generator", f"expected a seed from 0 to 2**64 - 1, got {seed}", hint=hint)
    return int(seed)


def is_number(x: Any) -> bool:
    """Whether it is an integer of Python or NumPy."""
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def shape_of(operation: str, shape: Any, path: str) -> Shape:
    """A shape of integers."""
    try:
        declared = canonical_shape(shape)
    except StatevarError:  # its hint is about declared shapes
        declared = ...
    if not is_static(declared):
        hint = "write an integer, or a tuple of integers; () is one number"
        raise ShapeError.of(operation, f"expected a shape of non-negative integers, got {shape!r}", path, hint)
    return declared  # type: ignore[return-value]  # static: no axis is None


def count_of(operation: str, count: Any, path: str) -> int:
    """A number of objects."""
    if not is_number(count):
        raise TypeError(describe(operation, f"expected an integer, got {count!r}", path))
    if count < 0:
        raise RangeError.of(operation, f"expected a number of generators, got {count}", path)
    return int(count)


def wider(operation: str, shape: Any, operands: list[Array], path: str) -> Shape:
    """The shape into which the operands broadcast: the given one or, without one, their own."""
    shapes = [tuple(int(n) for n in each.shape) for each in operands]
    try:
        own = np.broadcast_shapes(*shapes)
        wanted = own if shape is None else shape_of(operation, shape, path)
        if np.broadcast_shapes(own, wanted) == wanted:
            return wanted
    except ValueError as error:
        if isinstance(error, StatevarError):
            raise
    problem = f"arguments of the shapes {', '.join(map(str, shapes))} do not broadcast"
    raise ShapeError.of(operation, problem if shape is None else f"{problem} into {shape}", path)


def floating(operation: str, dtype: Any, path: str) -> str:
    """The name of a floating-point dtype."""
    name = _name(operation, dtype, path)
    if name not in PRECISION:
        raise DTypeError.of(operation, f"expected one of {', '.join(PRECISION)} as dtype, got {name}", path)
    return name


def integral(operation: str, dtype: Any, path: str) -> str:
    """The name of an integer dtype."""
    name = _name(operation, dtype, path)
    if not is_integer(name) or name in ("int4", "uint4"):
        raise DTypeError.of(operation, f"expected an integer dtype of at least 8 bits, got {name}", path)
    return name


def _name(operation: str, dtype: Any, path: str) -> str:
    if dtype is None:  # which NumPy reads as float64
        raise DTypeError.of(operation, "expected a dtype, got None", path, "leave it out for the default")
    return dtype_name(dtype)


def check_bounds(name: str, low: float, high: float, path: str) -> None:
    """Raises RangeError unless numbers of a floating-point dtype lie between two bounds."""
    host = HOST[name]
    with np.errstate(over="ignore"):
        rounded = float(host.type(low)), float(host.type(high)), float(host.type(high - low))
    fits = all(map(math.isfinite, rounded)) and rounded[0] < rounded[1] and high - low > _LEAST * 2**53
    if not fits:
        problem = f"expected bounds with low < high as finite numbers of {name}, got low={low} and high={high}"
        raise RangeError.of("uniform", problem, path)
