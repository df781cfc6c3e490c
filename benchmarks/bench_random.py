"""What a million random numbers of `Generator` cost, beside those of the library's own generator.

Run ``python benchmarks/bench_random.py``, a minute; ``--only jax`` for one library. It prints a table of the ratios
of processor time, each of the least of several calls that are made in turns. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import statevar as sv

_COUNT = 1_000_000
_ROUNDS = 15

Draws = dict[str, Callable[[], Any]]


def numpy_draws() -> Draws:
    rng = np.random.default_rng(0)
    return {
        "normal": lambda: rng.standard_normal(_COUNT, np.float32),
        "uniform": lambda: rng.random(_COUNT, np.float32),
        "integers": lambda: rng.integers(0, 10, _COUNT, np.int32),
        "permutation": lambda: rng.permutation(_COUNT),
    }


def jax_draws() -> Draws:
    import jax

    key = jax.random.key(0)
    return {
        "normal": lambda: jax.random.normal(key, (_COUNT,)).block_until_ready(),
        "uniform": lambda: jax.random.uniform(key, (_COUNT,)).block_until_ready(),
        "integers": lambda: jax.random.randint(key, (_COUNT,), 0, 10).block_until_ready(),
        "permutation": lambda: jax.random.permutation(key, _COUNT).block_until_ready(),
    }


def torch_draws() -> Draws:
    import torch

    return {
        "normal": lambda: torch.randn(_COUNT),
        "uniform": lambda: torch.rand(_COUNT),
        "integers": lambda: torch.randint(0, 10, (_COUNT,), dtype=torch.int32),
        "permutation": lambda: torch.randperm(_COUNT),
    }


def tensorflow_draws() -> Draws:
    import tensorflow as tf

    return {
        "normal": lambda: tf.random.normal([_COUNT]).numpy(),
        "uniform": lambda: tf.random.uniform([_COUNT]).numpy(),
        "integers": lambda: tf.random.uniform([_COUNT], 0, 10, tf.int32).numpy(),
        "permutation": lambda: tf.random.shuffle(tf.range(_COUNT)).numpy(),
    }


_LIBRARIES = {"numpy": numpy_draws, "jax": jax_draws, "torch": torch_draws, "tensorflow": tensorflow_draws}


def our_draws(backend: str) -> Draws:
    rng = sv.Generator(0, backend=backend)

    def ready(x: Any) -> Any:
        return x.block_until_ready() if backend == "jax" else x

    return {
        "normal": lambda: ready(rng.normal(_COUNT)),
        "uniform": lambda: ready(rng.uniform(_COUNT)),
        "integers": lambda: ready(rng.integers(0, 10, _COUNT)),
        "permutation": lambda: ready(rng.permutation(_COUNT)),
    }


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    best = [float("inf"), float("inf")]
    for _ in range(_ROUNDS):
        for i, draw in enumerate((ours, theirs)):
            start = time.process_time()
            draw()
            best[i] = min(best[i], time.process_time() - start)
    return best[0] / best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=_LIBRARIES)
    options = parser.parse_args()
    print("| | normal | uniform | integers | permutation |\n|---|---|---|---|---|")
    for name, draws in _LIBRARIES.items():
        if options.only in (None, name):
            ours, theirs = our_draws(name), draws()
            print(
                f"| {name} |", " | ".join(f"{ratio(ours[each], theirs[each]):.1f}" for each in theirs), "|", flush=True
            )


if __name__ == "__main__":
    main()
