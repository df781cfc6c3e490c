"""Gives every documented example `sv`, in src, docs and README."""

from __future__ import annotations

import os

import pytest

import statevar as sv

# Before TensorFlow is imported: its start-up log is not what a failing test should show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(autouse=True, scope="session")
def _doctest_imports(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace["sv"] = sv


for _name in sv.__all__:  # a doctest is found in the module that its function says it is of: all of them must be loaded
    getattr(sv, _name)
