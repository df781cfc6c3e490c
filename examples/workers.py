"""Four processes train one model, one more answers from it, and every second one of the four is killed.

    python examples/workers.py
    python examples/workers.py --backend torch --workers 2 --seconds 10
    python examples/workers.py --pool runs/model.svs  # killed at any moment and run again, it goes on from there

The variables of the model are shared: each process attaches to them by the name of their pool, and reads and writes
them as if they were its own. It is run twice:

- in transactions, where the weights and the counts of steps always belong together;
- without transactions (as Hogwild!, Niu et al. 2011), where an update is computed from weights that others may have
  changed meanwhile. Each is added in one step, so that none is lost.

A worker is killed by SIGKILL at a random moment, also in the middle of a write. A new one takes its place. At half of
the time all processes are killed, and the model goes on as it is in the pool. Each worker notes its steps in memory of
its own kind when the model has them, so that none can be lost unseen: the model counts as many steps, and at most one
more for each kill, which came between the step and the note.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from recipe import array_like, run
from rich.console import Console
from rich.table import Table

import statevar as sv

FEATURES, BATCH, RATE, HELD_OUT = 16, 32, 0.2, 500
#: JAX and TensorFlow do not survive a fork, which takes milliseconds. A new interpreter imports the library first.
STARTS = {"numpy": "fork"}
PATIENCE = 60.0  # seconds in which a process must have begun: TensorFlow takes some to import
TRUTH = np.random.default_rng(7).normal(size=FEATURES)
Array = np.ndarray[Any, Any]


def drawn(rng: np.random.Generator, count: int) -> tuple[Array, Array]:
    """Examples, and whether each is of the first class."""
    x = rng.normal(size=(count, FEATURES)).astype("float32")
    return x, (x @ TRUTH + rng.normal(size=count) > 0).astype("float32")


class Model(sv.Module):
    """Logistic regression, and what it has learned: the steps of each worker, and all steps."""

    def __init__(self, backend: str, workers: int):
        state = partial(sv.Variable, backend=backend, dtype="int32", trainable=False)
        self.kernel = sv.Variable("zeros", FEATURES, backend=backend)
        self.bias = sv.Variable(0.0, backend=backend)
        self.steps = state("zeros", workers)
        self.all_steps = state(0)
        self.xp = sv.namespace(self.kernel)

    def error(self, kernel: Any, bias: Any, x: Array, y: Array) -> tuple[Any, Any]:
        """The gradients of the mean loss."""
        x, y = array_like(self.kernel, x), array_like(self.kernel, y)
        probability = 1 / (1 + self.xp.exp(-(self.xp.matmul(x, kernel) + bias)))
        error = (probability - y) / len(y)
        return self.xp.matmul(error, x), self.xp.sum(error)

    def learn(self, worker: int, x: Array, y: Array, *, locking: bool) -> None:
        """One step. In a transaction the other processes see all of it, or nothing."""
        if locking:
            with sv.transaction(self):
                kernel_gradient, bias_gradient = self.error(self.kernel, self.bias, x, y)
                self.kernel.assign_sub(RATE * kernel_gradient)
                self.bias.assign_sub(RATE * bias_gradient)
                self.steps.at[worker].add(1)
                self.all_steps.assign_add(1)
            return
        kernel_gradient, bias_gradient = self.error(self.kernel.value, self.bias.value, x, y)
        self.kernel.assign_sub(RATE * kernel_gradient)
        self.bias.assign_sub(RATE * bias_gradient)
        self.steps.at[worker].add(1)
        self.all_steps.assign_add(1)


def accuracy(kernel: Any, bias: Any) -> float:
    """On examples that no worker has."""
    x, y = drawn(np.random.default_rng(-1 % 2**32), HELD_OUT)
    return float(((x @ np.asarray(kernel) + float(bias) > 0) == (y > 0.5)).mean())


# -- the processes -------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """What every process gets. The notes are memory that is shared without statevar: each place has one writer."""

    pool: str
    backend: str
    workers: int
    locking: bool
    seed: int
    noted: Any  # steps of each worker
    answers: Any  # of the server, and how many cuts were mixed

    def attached(self) -> Model:
        model = Model(self.backend, self.workers)
        sv.attach(model, self.pool)
        return model


def parent_lives() -> bool:
    """Whether the program still runs that has started this process."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.is_alive()


def work(job: Job, number: int) -> None:
    """Learns until it is killed, or alone."""
    model = job.attached()
    rng = np.random.default_rng([job.seed, number, int(model.all_steps)])
    while parent_lives():
        model.learn(number, *drawn(rng, BATCH), locking=job.locking)
        job.noted[number] += 1


def serve(job: Job) -> None:
    """Answers from consistent cuts of the model. In a cut of transactions the two counts are the same."""
    model = job.attached()
    rng = np.random.default_rng(job.seed)
    while parent_lives():
        cut = sv.snapshot(model)
        x, _ = drawn(rng, 1)
        float((x @ np.asarray(cut[model.kernel]))[0] + float(cut[model.bias]))
        job.answers[0] += 1
        job.answers[1] += int(np.asarray(cut[model.steps]).sum() != int(cut[model.all_steps]))


class Team:
    """The workers and the server, all of which may be killed at any moment."""

    def __init__(self, job: Job) -> None:
        self._context: Any = multiprocessing.get_context(STARTS.get(job.backend, "spawn"))
        self._job = job
        self._processes: list[BaseProcess] = []

    def start(self) -> None:
        before, answers = list(self._job.noted), self._job.answers[0]
        for number in range(self._job.workers):
            self._processes.append(self._start(work, self._job, number))
        self._processes.append(self._start(serve, self._job))
        self._wait(lambda: all(n > b for n, b in zip(self._job.noted, before, strict=True)))
        self._wait(lambda: self._job.answers[0] > answers)

    def _start(self, target: Any, *arguments: Any) -> BaseProcess:
        process: BaseProcess = self._context.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    def replace(self, number: int) -> None:
        """Kills a worker, and starts another one in its place."""
        kill(self._processes[number])
        noted = self._job.noted[number]
        self._processes[number] = self._start(work, self._job, number)
        self._wait(lambda: self._job.noted[number] > noted)

    def kill_all(self) -> None:
        for process in self._processes:
            kill(process)
        self._processes.clear()

    def _wait(self, condition: Any) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            dead = [process.exitcode for process in self._processes if not process.is_alive()]
            if dead or time.monotonic() > end:
                raise RuntimeError(f"a process has not begun; exit codes {dead}")
            time.sleep(0.01)


def kill(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


# -- the program ---------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What one run kept and lost."""

    noted: int  # steps, as the workers noted them
    counted: int  # steps, as the model says
    kills: int
    answers: int
    mixed: int  # answers from cuts in which the parts of the model are of different moments
    accuracy: float

    @property
    def lost(self) -> int:
        return max(0, self.noted - self.counted)


def train(options: argparse.Namespace, pool: str, *, locking: bool) -> Outcome:
    """Lets the processes work for some time, and kills one of them again and again; at half of the time, all."""
    model = Model(options.backend, options.workers)
    sv.share(model, pool, exist_ok=True)
    before = model.steps.numpy().copy()
    if before.any():
        print(f"{options.backend}: goes on from {before.sum()} steps", flush=True)
    noted, answers = multiprocessing.RawArray("q", before.tolist()), multiprocessing.RawArray("q", 2)
    team = Team(Job(pool, options.backend, options.workers, locking, options.seed, noted, answers))
    draw, kills = random.Random(options.seed), 0
    try:
        for half in range(2):
            team.start()
            end = time.monotonic() + options.seconds / 2
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, options.every))
                if time.monotonic() < end:
                    team.replace(draw.randrange(options.workers))
                    kills += 1
            team.kill_all()
            kills += options.workers
            if half == 0:  # whoever attaches now finds the model as it was
                again = Model(options.backend, options.workers)
                sv.attach(again, pool)
                model = again
    finally:
        team.kill_all()
    cut = sv.snapshot(model)
    return Outcome(
        noted=sum(noted),
        counted=int(np.asarray(cut[model.steps]).sum()),
        kills=kills,
        answers=answers[0],
        mixed=answers[1],
        accuracy=accuracy(cut[model.kernel], cut[model.bias]),
    )


def main(arguments: Sequence[str] | None = None) -> dict[str, Outcome]:
    parser = argparse.ArgumentParser(description="Trains one model in many processes, which are killed.")
    parser.add_argument("--backend", default="numpy", choices=sv.backend_names())
    parser.add_argument("--workers", default=4, type=int)
    parser.add_argument("--seconds", default=3.0, type=float, help="for each of the two runs")
    parser.add_argument("--every", default=1.0, type=float, metavar="SECONDS", help="between two kills")
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--pool", metavar="FILE", type=Path, help="keep the model there, and go on from it")
    options = parser.parse_args(arguments)
    outcomes = {}
    for name, locking in (("transactions", True), ("Hogwild", False)):
        # A pool with a name is in memory; one that was given is a file, and keeps both models.
        pool = f"workers-{os.getpid()}-{name}"
        if options.pool is not None:
            pool = str(options.pool.with_name(f"{options.pool.stem}-{name.lower()}{options.pool.suffix}").resolve())
        try:
            outcomes[name] = train(options, pool, locking=locking)
        finally:
            if options.pool is None:
                sv.shared.unlink(pool, missing_ok=True)
    table = Table("", "noted", "counted", "lost", "kills", "answers", "mixed", "accuracy")
    for name, each in outcomes.items():
        figures = (each.noted, each.counted, each.lost, each.kills, each.answers, each.mixed)
        table.add_row(name, *map(str, figures), f"{100 * each.accuracy:.1f} %")
    Console().print(table)
    return outcomes


if __name__ == "__main__":
    run(main)
