"""Checks that raise AssertionError.

They do not use ``assert``: pytest does not explain one outside test modules, and ``python -O`` removes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ..errors import StatevarError

__all__ = ["expect", "raises", "same", "scribble"]


def expect(condition: object, what: str) -> None:
    """Raises AssertionError with the text unless the condition is true."""
    if not condition:
        raise AssertionError(what)


def same(got: Any, expected: Any, what: str, *, rtol: float = 0.0) -> None:
    """Raises AssertionError unless two NumPy arrays have the same shape, dtype and values. NaN equals NaN.

    Args:
        got: the result of the library.
        expected: the result of NumPy.
        what: the name of the result, for the message.
        rtol: the relative error to allow, for results that libraries round differently.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    expect(got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}")
    expect(got.dtype == expected.dtype, f"{what}: dtype {got.dtype}, expected {expected.dtype}")
    if rtol:
        equal = np.allclose(got, expected, rtol=rtol, atol=0, equal_nan=True)
    else:
        equal = np.array_equal(got, expected, equal_nan=expected.dtype.kind in "fcV")
    expect(equal, f"{what}: got {_short(got)}, expected {_short(expected)}")


@contextmanager
def raises(error: type[StatevarError], what: str, *, saying: str = "") -> Iterator[None]:
    """Raises AssertionError unless the block raises the error with ``saying`` in its message."""
    try:
        yield
    except error as raised:
        expect(saying in str(raised), f"{what}: the message should say {saying!r}: {raised}")
    except Exception as raised:
        message = f"{what}: raised {type(raised).__name__}, expected {error.__name__}: {raised}"
        raise AssertionError(message) from raised
    else:
        raise AssertionError(f"{what}: raised nothing, expected {error.__name__}")


def scribble(array: Any) -> None:
    """Overwrites an array, if it is writable."""
    with suppress(Exception):
        array[...] = 77


def _short(array: Any) -> str:
    return np.array2string(array, separator=", ", threshold=50, edgeitems=3)
