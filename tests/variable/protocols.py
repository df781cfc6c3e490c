"""What the tests of the table of ``docs/protocols.md`` share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_type, assert_same

Call = Callable[..., Any]

#: What every variable holds unless a test says otherwise, and the other operand; they are equal in one place.
VALUE = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
OTHER = np.array([[0.5, 2.0], [0.25, 1.0]], np.float32)
LIBRARIES = ("numpy", "jax", "torch", "tensorflow")


def lib(name: str) -> Any:
    """A module that a call of a table needs; imported when the call is made."""
    return importlib.import_module(name)


def variable(backend: str, value: Any = VALUE, **options: Any) -> sv.Variable:
    return sv.Variable(np.asarray(value), backend=backend, **options)


def row(table: Mapping[str, Any]) -> pytest.MarkDecorator:
    """One test for each call of a row of the table: name -> (call, what NumPy gives for it)."""
    return pytest.mark.parametrize(("call", "expected"), list(table.values()), ids=list(table))


def calls(table: Mapping[str, Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", list(table.values()), ids=list(table))


def assert_result(got: Any, library: str, expected: Any, rtol: float = 1e-6) -> None:
    """Asserts that a result has the value, and belongs to the library."""
    if isinstance(got, tuple | list):
        assert len(got) == len(expected)
        for each, one in zip(got, expected, strict=True):
            assert_result(each, library, one, rtol)
        return
    kinds = (np.ndarray, np.generic) if library == "numpy" else array_type(library)
    assert isinstance(got, kinds), f"a {type(got)}, expected one of {library}"
    assert_same(got, expected, rtol=rtol)


def pointer(array: Any) -> int:
    """Where any library's array lies."""
    if isinstance(array, np.ndarray):
        return int(array.ctypes.data)
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr())
    if hasattr(array, "unsafe_buffer_pointer"):
        return int(array.unsafe_buffer_pointer())
    return int(np.asarray(array).ctypes.data)


def double(v: Any) -> None:
    v *= 2.0
