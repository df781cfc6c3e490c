"""Fixtures of the tests of transforms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.internals import adapter, scopes


@pytest.fixture
def nothing_is_left_open() -> Iterator[None]:
    yield
    assert not scopes.active, "a scope is still open"
    assert not adapter("jax").by_identity.on
