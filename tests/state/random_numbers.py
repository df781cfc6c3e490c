"""The numbers of the seed 7, on every library and in every version of statevar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import statevar as sv

Draw = Callable[[sv.Generator], Any]

#: Each draw from a new generator.
DRAWS: dict[str, Draw] = {
    "normal": lambda g: g.normal((2, 3)),
    "normal of float16": lambda g: g.normal(3, "float16"),
    "normal of bfloat16": lambda g: g.normal(3, "bfloat16"),
    "uniform": lambda g: g.uniform(4),
    "uniform between bounds": lambda g: g.uniform(4, low=-1.5, high=2.3),
    "uniform of bfloat16": lambda g: g.uniform(3, "bfloat16", low=-1.0, high=3.0),
    "integers": lambda g: g.integers(-5, 20, 6),
    "integers of all words": lambda g: g.integers(-(2**31), 2**31, 3),
    "integers of int8": lambda g: g.integers(100, 128, 4, "int8"),
    "integers between arrays": lambda g: g.integers([0, 10], [5, 1000], (2, 2)),
    "bernoulli": lambda g: g.bernoulli(0.3, 8),
    "bernoulli of an array": lambda g: g.bernoulli([0.0, 0.5, 0.5, 1.0]),
    "permutation": lambda g: g.permutation(7),
    "permutation of an array": lambda g: g.permutation(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)),
    "choice": lambda g: g.choice(10, (2, 2)),
    "choice of an array": lambda g: g.choice(np.array([1.5, 2.5, 3.5], np.float32), 4),
    "choice without replacement": lambda g: g.choice(9, 4, replace=False),
    "choice with probabilities": lambda g: g.choice(4, 6, p=[0.1, 0.2, 0.3, 0.4]),
    "normal of float64": lambda g: g.normal(3, "float64"),
    "uniform of float64": lambda g: g.uniform(3, "float64"),
    "uniform of float64 between bounds": lambda g: g.uniform(3, "float64", low=-1.0, high=4.7),
    "integers of int64": lambda g: g.integers(-5, 2**40, 3, "int64"),
    "integers of uint64": lambda g: g.integers(0, 2**64, 2, "uint64"),
}

NUMBERS: dict[str, Any] = {
    "normal": [
        [-0.4012800455093384, 0.11259851604700089, 0.18615765869617462],
        [-0.23957136273384094, -1.0344648361206055, 1.5707405805587769],
    ],
    "normal of float16": [-0.4013671875, 0.11260986328125, 0.1861572265625],
    "normal of bfloat16": [-0.400390625, 0.11279296875, 0.1865234375],
    "uniform": [0.844106912612915, 0.4551742672920227, 0.42616039514541626, 0.9053314924240112],
    "uniform between bounds": [1.707606315612793, 0.22966217994689941, 0.11940932273864746, 1.9402594566345215],
    "uniform of bfloat16": [2.375, 0.8125, 0.703125],
    "integers": [16, 5, 11, 10, 9, -4],
    "integers of all words": [1477928075, -317138616, 646217582],
    "integers of int8": [123, 111, 118, 117],
    "integers between arrays": [[4, 431], [3, 612]],
    "bernoulli": [False, False, False, False, False, True, False, False],
    "bernoulli of an array": [False, True, True, True],
    "permutation": [5, 1, 6, 4, 3, 2, 0],
    "permutation of an array": [[3.0, 4.0], [5.0, 6.0], [1.0, 2.0]],
    "choice": [[8, 4], [6, 6]],
    "choice of an array": [3.5, 2.5, 2.5, 2.5],
    "choice without replacement": [5, 8, 1, 6],
    "choice with probabilities": [3, 2, 3, 3, 2, 0],
    "normal of float64": [-0.401280035581609, 0.18615802238348292, -1.0344647747438633],
    "uniform of float64": [0.8441069458065502, 0.4261604167918227, 0.6504592527309165],
    "uniform of float64 between bounds": [3.811409586969412, 1.429114349084065, 2.707617756754926],
    "integers of int64": [928105401203, 715187514893, 640579576258],
    "integers of uint64": [15571024786774969728, 11998855417894603699],
}

#: Those that JAX has not without 64 bits.
WIDE = [name for name in DRAWS if "64" in name]

#: Those that are drawn in a compiled program too.
COMPILED = (
    *("normal", "uniform between bounds", "integers", "integers between arrays", "bernoulli of an array"),
    *("permutation of an array", "choice with probabilities", "normal of float64", "integers of int64"),
)
