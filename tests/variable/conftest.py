"""Libraries that a test needs."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax")


@pytest.fixture
def jnp() -> Any:
    return pytest.importorskip("jax.numpy")


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def tf() -> Any:
    return pytest.importorskip("tensorflow")
