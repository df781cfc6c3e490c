"""The suite of spread values passes for a library of the tests, which spreads its arrays over four devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from statevar.testing import ShardedSuite
from tests import boxes
from tests.launch import run


@pytest.fixture(autouse=True, scope="module")
def installed() -> Iterator[None]:
    with boxes.installed():
        yield


#: The processes, and the devices of each.
PLACES = {"jax": [(1, 4), (2, 2)], "torch": [(1, 1), (2, 1)]}


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["one process", "two processes"])
def test_it_passes_where_values_are_spread(backend: str, number: int) -> None:
    if backend not in PLACES:
        pytest.skip(f"a variable of {backend} lies in one place")
    count, devices = PLACES[backend][number]
    for printed in run(["tests/backends/sharded_program.py", backend], count, library=backend, devices=devices):
        assert printed.endswith("done\n")


class TestBoxes(ShardedSuite):
    backend = "boxarray"

    def mesh(self) -> Any:
        return boxes.mesh()
