"""What tests share: making arrays of a library, and comparing."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.internals import HOST, engine, get_backend

#: Seconds after which something hangs. Nothing that the tests wait for takes as long on the busiest machine.
PATIENCE = 120.0

#: The folder of the project: a program that a test starts there finds `tests` and `examples`.
ROOT = Path(__file__).parents[1]


def thorough(usual: Any, exhaustive: Any) -> Any:
    """How much of something is tried: less in the usual run than by ``python dev.py full``, which tries everything."""
    return exhaustive if os.environ.get("STATEVAR_EXHAUSTIVE") else usual


def array_of(backend: str, value: Any, dtype: str | None = None) -> Any:
    """A library's own array, made by the library itself."""
    host = np.asarray(value, None if dtype is None else HOST[dtype])
    if backend == "numpy":
        return host.copy()
    if backend == "jax":
        import jax.numpy as jnp

        return jnp.array(host)
    if backend == "torch":
        import torch

        return torch.tensor(host)
    import tensorflow as tf

    return tf.constant(host)


def array_type(backend: str) -> type:
    """The type of a library's arrays."""
    library, name = {
        "numpy": ("numpy", "ndarray"),
        "jax": ("jax", "Array"),
        "torch": ("torch", "Tensor"),
        "tensorflow": ("tensorflow", "Tensor"),
    }[backend]
    kind: type = getattr(import_module(library), name)
    return kind


def host(value: Any) -> np.ndarray[Any, Any]:
    """Any library's array, or a variable, as NumPy."""
    if isinstance(value, sv.Variable):
        return value.numpy()
    for name in ("numpy", "jax", "torch", "tensorflow"):
        if name not in sys.modules:  # then nobody has an array of it
            continue
        backend = get_backend(name)
        if backend.owns(value):
            return np.array(backend.to_host(value))
    return np.asarray(value)


def assert_same(got: Any, expected: Any, *, rtol: float = 0.0, dtype: bool = False) -> None:
    """Asserts that two arrays of any library have the same shape and values; NaN equals NaN."""
    got, expected = host(got), host(expected)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    if dtype:
        assert got.dtype == expected.dtype, f"dtype {got.dtype}, expected {expected.dtype}"
    if expected.dtype.kind in "TUOS":
        assert got.tolist() == expected.tolist()
        return
    wide = np.complex128 if expected.dtype.kind == "c" else None if expected.dtype.kind in "biu" else np.float64
    np.testing.assert_allclose(got.astype(wide or got.dtype), expected.astype(wide or expected.dtype), rtol=rtol)


def counts_prove() -> bool:
    """Whether NumPy's variables know from counts of references that nobody has their value any more.

    Where they do not, as without the GIL, a value that was read once is left to its reader.
    """
    backend: Any = import_module(type(get_backend("numpy")).__module__)
    return bool(backend._UNHELD_PUBLISHED > 0)


@contextmanager
def every_table_has_a_log() -> Iterator[None]:
    """On NumPy a transaction keeps the rows that it writes apart from any table, as otherwise from a large one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine("numpy_row_log"), "_SMALL_TABLE", 0)
        patch.setattr(engine("numpy_row_log"), "_PART", 0)
        patch.setattr(engine("numpy_row_log"), "_PART_SET", 0)
        yield


def total(array: Any) -> Any:
    """The sum of an array of any library."""
    if hasattr(array, "sum"):
        return array.sum()
    import tensorflow as tf

    return tf.reduce_sum(array)


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Waits for what nobody tells of, and looks again and again."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.001)


def let_pass(seconds: float) -> None:
    """Lets a time pass that was drawn: the moment of a kill. Whoever waits for something takes `until`."""
    time.sleep(seconds)


def address(v: sv.Variable) -> int:
    """Where the variable's buffer lies. Holds nothing when it returns."""
    handle = v._handle
    if v.backend == "numpy":
        return int(handle.writer.ctypes.data)
    if v.backend == "jax":
        return int(handle.array.unsafe_buffer_pointer())
    if v.backend == "torch":
        return int(handle.parameter.data_ptr())
    handle.cached = None
    return int(np.asarray(handle.variable.read_value()).ctypes.data)


def reference_entries() -> list[str]:
    """The paths of what the pages of the reference describe."""
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    return [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
