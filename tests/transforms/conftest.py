"""Fixtures of the tests of transforms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.internals import engine, overlays


@pytest.fixture
def nothing_is_left_open() -> Iterator[None]:
    yield
    assert not overlays.active, "a scope is still open"
    assert not engine("jax_pytree").by_identity.on
