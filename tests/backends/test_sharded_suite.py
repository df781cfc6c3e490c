"""The suite of spread values passes for a library of the tests, which spreads its arrays over four devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from statevar.testing import ShardedSuite
from tests import boxes


@pytest.fixture(autouse=True, scope="module")
def installed() -> Iterator[None]:
    with boxes.installed():
        yield


class TestBoxes(ShardedSuite):
    backend = "boxarray"

    def mesh(self) -> Any:
        return boxes.mesh()
