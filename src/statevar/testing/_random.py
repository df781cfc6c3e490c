"""Tests that a backend draws the random numbers that every other one draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._state.generator import Generator
from ..errors import DTypeError
from ._base import SuiteBase
from ._checks import expect, same

__all__ = ["RandomNumbers"]

_DRAWS: dict[str, Callable[[Generator], Any]] = {
    "normal": lambda rng: rng.normal((3, 5)),
    "uniform": lambda rng: rng.uniform(7, low=-2.0, high=3.5),
    "integers": lambda rng: rng.integers(-9, 1000, 7),
    "integers between arrays": lambda rng: rng.integers([0, 5], [5, 1000], (3, 2)),
    "bernoulli": lambda rng: rng.bernoulli(0.3, 9),
    "permutation": lambda rng: rng.permutation(7),
    "choice": lambda rng: rng.choice(4, 9, p=[0.1, 0.2, 0.3, 0.4]),
    "normal of float64": lambda rng: rng.normal(5, "float64"),
    "integers of int64": lambda rng: rng.integers(-9, 2**50, 5, "int64"),
    "split": lambda rng: rng.split(2)[1].normal(3),
}


class RandomNumbers(SuiteBase):
    """Tests of the random numbers of this backend."""

    def test_random_numbers_are_those_of_numpy(self) -> None:
        """Every kind of numbers has the bits that NumPy computes, and the state moves as far."""
        for name, draw in _DRAWS.items():
            rng, reference = Generator(7, backend=self.backend), Generator(7)
            expected = draw(reference)
            try:
                found = draw(rng)
            except DTypeError:
                expect(expected.dtype.itemsize == 8, f"{name} needs no dtype that a library may lack")
                continue
            same(self.host(found), expected, name)
            same(rng.state.numpy(), reference.state.numpy(), f"the state after {name}")
