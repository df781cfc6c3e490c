"""`Generator`: the same random numbers on every library, and a state that is a variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.internals import random_words


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_the_vectors_of_random123(key: tuple[int, int], counter: tuple[int, int], expected: tuple[int, int]) -> None:
    state = np.array([*key, *counter], np.uint32).view(np.int32)
    assert [int(each[0]) for each in random_words.blocks(state, 1)] == list(expected)


def test_draws_are_the_same_on_every_library(backend: str) -> None:
    a, b = sv.Generator(7, backend=backend), sv.Generator(7)
    draws: list[Callable[[sv.Generator], Any]] = [
        lambda g: g.normal((2, 3)),
        lambda g: g.uniform(5, low=-1.5, high=2.25),
        lambda g: g.integers(-3, 10, 7),
        lambda g: g.bernoulli(0.3, 9),
        lambda g: g.permutation(6),
        lambda g: g.choice(5, (2, 2), p=[0.1, 0.2, 0.3, 0.2, 0.2]),
    ]
    for draw in draws:
        assert_same(draw(a), draw(b), dtype=True)
        assert_same(a.state, b.state)
