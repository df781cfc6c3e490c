"""Gives every documented example `sv`, in src, docs and README, and sets up the libraries before they are imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import statevar as sv

# Before TensorFlow is imported: its start-up log is not what a failing test should show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Before JAX is: what one worker has compiled, the others find, and the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(autouse=True, scope="session")
def _doctest_imports(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace["sv"] = sv


@pytest.fixture(autouse=True)
def _pools_of_examples_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """Removes the pool of shared variables that an example has made under a name with its process, if it has failed."""
    yield
    if isinstance(request.node, pytest.DoctestItem) and "statevar._shared.places" in sys.modules:
        for each in sv.shared.ls():
            if each.name.endswith(f"-{os.getpid()}"):
                sv.shared.unlink(each.name, missing_ok=True)


for _name in sv.__all__:  # a doctest is found in the module that its function says it is of: all of them must be loaded
    getattr(sv, _name)
