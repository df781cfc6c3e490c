"""The suite of spread values passes for a library of the tests, which spreads its arrays over four devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.testing import ShardedSuite
from tests import boxes
from tests.helpers import assert_same
from tests.launch import run


@pytest.fixture(autouse=True, scope="module")
def installed() -> Iterator[None]:
    with boxes.installed():
        yield


#: The processes, and the devices of each.
PLACES = {"jax": [(1, 4), (2, 2)], "torch": [(1, 1), (2, 1)]}


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1], ids=["one process", "two processes"])
def test_it_passes_where_values_are_spread(backend: str, number: int, tmp_path: Path) -> None:
    if backend not in PLACES:
        pytest.skip(f"a variable of {backend} lies in one place")
    count, devices = PLACES[backend][number]
    arguments = ["tests/backends/sharded_program.py", backend, str(tmp_path)]
    for printed in run(arguments, count, library=backend, devices=devices):
        assert printed.endswith("done\n")


NAMES = st.sampled_from([None, "data", "model", ("data", "model"), ("model", "data")])


@st.composite
def layouts(draw: st.DrawFn, rank: int) -> tuple[Any, ...]:
    """Axes for a value of a rank, each axis of the mesh at most once."""
    found: list[Any] = []
    for _ in range(draw(st.integers(0, rank))):
        name = draw(NAMES)
        used = {each for cut in found for each in ((cut,) if isinstance(cut, str) else cut or ())}
        found.append(None if used & set((name,) if isinstance(name, str) else name or ()) else name)
    return tuple(found)


@given(data=st.data())
@settings(max_examples=100)
def test_a_value_is_the_same_wherever_it_is(data: st.DataObject) -> None:
    """In any shape and layout: what is read, shown, written at items and moved is what one array has."""
    shape = tuple(data.draw(st.lists(st.sampled_from([0, 4, 8, 32]), max_size=3)))
    host = np.arange(np.prod(shape, dtype=int), dtype="float32").reshape(shape)
    plain = sv.Variable(host)
    axes, other = data.draw(layouts(len(shape))), data.draw(layouts(len(shape)))
    v = sv.Variable(host, sharding=axes, mesh=boxes.mesh())
    for each in (v, v.reshard(other)):
        assert_same(sv.gather(each), plain)
        assert repr(each).partition("value=")[2] == repr(plain).partition("value=")[2]
    if host.size:
        index = tuple(data.draw(st.integers(0, length - 1)) for length in shape)
        v[index] = plain[index] = -1.0
    assert_same(sv.gather(v.reshard(None)), plain)
    assert_same(v.numpy(), plain)


class TestBoxes(ShardedSuite):
    backend = "boxarray"

    def mesh(self) -> Any:
        return boxes.mesh()
