"""Learns to read digits with many threads at once, while another one saves and a third one answers.

    python examples/hogwild.py
    python examples/hogwild.py --learners 8 --seconds 5

The learners share one model: a matrix of weights and a count of the examples it has seen. Each takes the next batch
from a stream, computes a gradient from a snapshot, and adds its step to whatever the others have made of the model
meanwhile. The saver takes consistent cuts of the running model; the server predicts from them. It is run three times:

- in transactions, where weights, bias and count always belong together;
- without locks (Hogwild!, Niu et al. 2011), where an update may overwrite another one, whole;
- on plain NumPy arrays, as one would write it without statevar.

It prints how many batches were learned, how many of them the model lost count of, how many cuts were taken, how many
of those mix models of different ages, how many questions were answered, and the accuracy on held-out digits.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import statevar as sv

BATCH, RATE, HELD_OUT = 16, 0.1, 360
Array = np.ndarray[Any, Any]


@dataclass
class Outcome:
    """What one run kept and lost."""

    learned: int = 0  # batches, as the learners counted for themselves
    counted: int = 0  # batches, as the model says
    cuts: int = 0
    mixed: int = 0  # cuts in which the parts of the model are of different ages
    predictions: int = 0
    accuracy: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, batches: int) -> None:
        with self.lock:
            self.learned += batches


class Shared:
    """The model in variables. ``seen`` counts batches three times, so that a mixture of ages shows."""

    def __init__(self, locking: bool) -> None:
        self.kernel = sv.Variable("zeros", (64, 10), name="kernel")
        self.bias = sv.Variable("zeros", 10, name="bias")
        self.seen = [sv.Variable(0, dtype="int64", name=f"seen_{i}") for i in range(3)]
        self.locking = locking

    def read(self) -> tuple[Array, Array]:
        return self.kernel.value, self.bias.value

    def learn(self, kernel_step: Array, bias_step: Array) -> None:
        if not self.locking:
            for variable, step in zip(self._all(), (kernel_step, bias_step, 1, 1, 1), strict=True):
                variable.assign_add(step, use_locking=False)
            return
        with sv.transaction(self._all()):
            self.kernel += kernel_step
            self.bias += bias_step
            for count in self.seen:
                count.assign_add(1)

    def cut(self) -> tuple[Array, Array, list[int]]:
        cut = sv.snapshot(self._all())
        return cut[self.kernel], cut[self.bias], [int(cut[count]) for count in self.seen]

    def _all(self) -> list[sv.Variable]:
        return [self.kernel, self.bias, *self.seen]


class Plain:
    """The same in NumPy arrays."""

    def __init__(self) -> None:
        self.kernel, self.bias = np.zeros((64, 10), "float32"), np.zeros(10, "float32")
        self.seen = [np.zeros((), "int64") for _ in range(3)]

    def read(self) -> tuple[Array, Array]:
        return self.kernel.copy(), self.bias.copy()

    def learn(self, kernel_step: Array, bias_step: Array) -> None:
        self.kernel += kernel_step
        self.bias += bias_step
        for count in self.seen:
            np.add(count, 1, out=count)

    def cut(self) -> tuple[Array, Array, list[int]]:
        return self.kernel.copy(), self.bias.copy(), [int(count) for count in self.seen]


def probabilities(x: Array, kernel: Array, bias: Array) -> Array:
    scores = x @ kernel + bias
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = scores / scores.sum(axis=1, keepdims=True)
    return result


def run(model: Any, learners: int, seconds: float, seed: int = 0) -> Outcome:
    """Lets the learners, the saver and the server work on one model for a while."""
    digits = load_digits()
    images, labels = (digits.data / 16).astype("float32"), np.eye(10, dtype="float32")[digits.target]
    rows = np.random.default_rng(seed).permutation(len(images))
    held_out, training = rows[:HELD_OUT], rows[HELD_OUT:]
    outcome, done = Outcome(), threading.Event()
    latest = model.cut()

    def stream(rng: np.random.Generator) -> Iterator[Array]:
        while not done.is_set():
            yield rng.choice(training, BATCH)

    def learner(number: int) -> None:
        batches = 0
        for batch in stream(np.random.default_rng([seed, number])):
            x, y = images[batch], labels[batch]
            error = (probabilities(x, *model.read()) - y) * (-RATE / BATCH)
            model.learn(x.T @ error, error.sum(axis=0))
            batches += 1
        outcome.add(batches)

    def saver() -> None:
        nonlocal latest
        while not done.is_set():
            latest = model.cut()
            outcome.cuts += 1
            outcome.mixed += len(set(latest[2])) > 1

    def server() -> None:
        for i in itertools.count():
            if done.is_set():
                return
            kernel, bias, _ = latest
            probabilities(images[held_out[i % HELD_OUT, None]], kernel, bias)
            outcome.predictions += 1

    threads = [threading.Thread(target=learner, args=(i,)) for i in range(learners)]
    threads += [threading.Thread(target=each) for each in (saver, server)]
    with switching_often():
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        done.set()
        for thread in threads:
            thread.join()
    kernel, bias, seen = model.cut()
    outcome.counted = seen[0]
    read = probabilities(images[held_out], kernel, bias).argmax(axis=1)
    outcome.accuracy = float((read == digits.target[held_out]).mean())
    return outcome


@contextmanager
def switching_often() -> Iterator[None]:
    """Threads take turns every 10 us and not every 5 ms, so that a few seconds show what else takes a day."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


MODELS: dict[str, Callable[[], Any]] = {
    "transactions": lambda: Shared(locking=True),
    "no locks": lambda: Shared(locking=False),
    "NumPy arrays": Plain,
}


def main(arguments: Sequence[str] | None = None) -> dict[str, Outcome]:
    parser = argparse.ArgumentParser(description="Learns with many threads at once.")
    parser.add_argument("--learners", default=4, type=int)
    parser.add_argument("--seconds", default=3.0, type=float, help="for each of the three runs")
    options = parser.parse_args(arguments)
    table = Table("", "learned", "lost", "cuts", "mixed", "answers", "accuracy")
    outcomes = {name: run(make(), options.learners, options.seconds) for name, make in MODELS.items()}
    for name, each in outcomes.items():
        lost, correct = each.learned - each.counted, f"{100 * each.accuracy:.1f} %"
        table.add_row(name, *map(str, (each.learned, lost, each.cuts, each.mixed, each.predictions)), correct)
    Console().print(table)
    return outcomes


if __name__ == "__main__":
    main()
