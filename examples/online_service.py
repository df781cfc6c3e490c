"""A service that learns while it answers, and that loses nothing which it has confirmed, even if it is killed.

    python examples/online_service.py
    python examples/online_service.py --resume runs/service  # killed at any moment and run again, its counts are exact
    python examples/online_service.py --backend torch --picture service.svg

Clients are tasks of asyncio. They send examples to learn from and ask for predictions. Threads learn; another thread
saves the model while it changes, and confirms to the clients what is on the disk. The clients and their examples are
made here, without a network, and each example is known by its number. So the program can check at its end that the
model has learned each example once.
"""

from __future__ import annotations

import asyncio
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from recipe import Step, array_like, compare, parser, picture, run

import statevar as sv

FEATURES, CLIENTS, LEARNERS, MOST, RATE = 16, 8, 3, 32, 0.2
TRUTH = np.random.default_rng(7).normal(size=FEATURES)


class Example(NamedTuple):
    """What a client sends. It numbers its examples, so that each is learned once even if it is sent twice."""

    client: int
    number: int
    x: np.ndarray[Any, Any]
    y: float


def drawn(seed: int, client: int, number: int) -> Example:
    """An example of a client: always the same."""
    rng = np.random.default_rng([seed, client, number])
    x = rng.normal(size=FEATURES)
    return Example(client, number, x.astype("float32"), float(x @ TRUTH + rng.normal() > 0))


def stacked(examples: Sequence[Example]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return np.stack([each.x for each in examples]), np.array([each.y for each in examples], "float32")


class Model(sv.Module):
    """Logistic regression, and a ledger of what it has learned: both are always of the same moment."""

    def __init__(self, backend: str):
        state = partial(sv.Variable, backend=backend, trainable=False)
        self.kernel = sv.Variable("zeros", FEATURES, name="kernel", backend=backend)
        self.bias = sv.Variable(0.0, name="bias", backend=backend)
        self.learned = state(0, name="learned")  # examples
        self.ledger = state("zeros", CLIENTS, dtype="int32", name="ledger")  # the number of each client's next example
        self.xp = sv.namespace(self.kernel)

    def probability(self, x: Any) -> Any:
        return 1 / (1 + self.xp.exp(-(self.xp.matmul(x, self.kernel) + self.bias)))

    def learn(self, examples: Sequence[Example]) -> None:
        """One step from those that the ledger does not have. Other threads see all of it, or nothing."""
        with sv.transaction(self):
            ledger, new = self.ledger.numpy().copy(), []
            for each in examples:
                if each.number == ledger[each.client]:
                    ledger[each.client] += 1
                    new.append(each)
            if not new:
                return
            x, y = (array_like(self.kernel, each) for each in stacked(new))
            error = (RATE / len(new)) * (self.probability(x) - y)
            self.kernel.assign_sub(self.xp.matmul(error, x))
            self.bias.assign_sub(self.xp.sum(error))
            self.ledger.assign(ledger)
            self.learned.assign_add(len(new))


class Service:
    """Answers tasks of asyncio, learns in threads, and saves all the time."""

    def __init__(self, model: Model, manager: sv.CheckpointManager):
        self.model, self.manager = model, manager
        self.saved = model.ledger.numpy()  # the ledger that is on the disk
        self._requests: queue.SimpleQueue[tuple[Example, Answer] | None] = queue.SimpleQueue()
        self._waiting: list[tuple[int, int, Answer]] = []
        self._changed, self._stopping = threading.Event(), False
        self._loop, self._workers = asyncio.get_running_loop(), ThreadPoolExecutor(LEARNERS + 1)

    # -- what clients call ---------------------------------------------------------------------------------

    async def predict(self, x: Any) -> float:
        """An answer from the model as it is now. It waits for no learner."""
        cut = sv.snapshot([self.model.kernel, self.model.bias])
        with sv.StatelessScope({v: cut[v] for v in (self.model.kernel, self.model.bias)}):
            return float(self.model.probability(array_like(self.model.kernel, x)))

    async def learn(self, example: Example) -> None:
        """Returns when the model has learned from the example. It may still be lost."""
        answer: Answer = self._loop.create_future()
        self._requests.put((example, answer))
        await answer

    async def on_disk(self, client: int, number: int) -> None:
        """Returns when a checkpoint has this example of the client: from then on it is never lost."""
        if number >= self.saved[client]:
            answer: Answer = self._loop.create_future()
            self._waiting.append((client, number, answer))
            await answer

    # -- the threads ---------------------------------------------------------------------------------------

    def _learner(self) -> None:
        while together := self._next_requests():
            error = None
            try:
                self.model.learn([example for example, _ in together])
            except Exception as raised:  # noqa: BLE001  # the clients get it; the model is as it was
                error = raised
            self._changed.set()
            self._loop.call_soon_threadsafe(give, [answer for _, answer in together], error)

    def _next_requests(self) -> list[tuple[Example, Answer]]:
        """Waits for one, and takes along those that have come as well; none when the service ends."""
        together: list[tuple[Example, Answer]] = []
        while len(together) < MOST and not (together and self._requests.empty()):
            request = self._requests.get()
            if request is None:
                self._requests.put(None)  # for the other learners, and for the next call
                break
            together.append(request)
        return together

    def _saver(self) -> None:
        while not self._stopping:
            self._changed.wait()
            self._changed.clear()
            error, ledger = None, self.model.ledger.numpy()  # the checkpoint is of a later moment, so it has these
            try:
                self.manager.save(self.model.learned, exist_ok=True, wait=True)
            except Exception as raised:  # noqa: BLE001  # as above
                error = raised
            self._loop.call_soon_threadsafe(self._confirm, ledger, error)

    # -- in the loop ---------------------------------------------------------------------------------------

    def _confirm(self, ledger: np.ndarray[Any, Any], error: Exception | None) -> None:
        if error is None:
            self.saved = ledger
            print(f"{self.model.kernel.backend}: saved {' '.join(map(str, ledger))}", flush=True)
        ready = [each for each in self._waiting if error or ledger[each[0]] > each[1]]
        self._waiting = [each for each in self._waiting if each not in ready]
        give([answer for _, _, answer in ready], error)

    async def __aenter__(self) -> Self:
        self._learning = [self._loop.run_in_executor(self._workers, self._learner) for _ in range(LEARNERS)]
        self._saving = self._loop.run_in_executor(self._workers, self._saver)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._requests.put(None)
        await asyncio.gather(*self._learning)
        self._stopping = True
        self._changed.set()
        await self._saving
        self._workers.shutdown()


Answer = asyncio.Future[None]


def give(answers: Sequence[Answer], error: Exception | None) -> None:
    """Wakes those that wait, but for those that have gone away."""
    for answer in answers:
        if not answer.done():
            answer.set_exception(error) if error else answer.set_result(None)


async def client(service: Service, seed: int, number: int, examples: int, window: int = 16) -> None:
    """Sends its examples in order, from the first that is not on the disk; some at a time are not confirmed yet."""
    sent = int(service.saved[number])
    while sent < examples:
        some = range(sent, min(examples, sent + window))
        for each in some:
            await service.learn(drawn(seed, number, each))
        sent = some.stop
        await service.on_disk(number, sent - 1)


async def asker(service: Service, seed: int, progress: list[tuple[int, float]]) -> None:
    """Asks for predictions until it is cancelled, and notes how often they are right."""
    held_out = [drawn(seed, CLIENTS, each) for each in range(100)]
    while True:
        right, learned = 0, int(service.model.learned)
        for each in held_out:
            right += (await service.predict(each.x) > 0.5) == (each.y > 0.5)
            await asyncio.sleep(0)
        progress.append((learned, right / len(held_out)))


async def serve(model: Model, manager: sv.CheckpointManager, seed: int, examples: int) -> list[tuple[int, float]]:
    """Serves clients until each has sent its examples; returns how often predictions were right, over time."""
    progress: list[tuple[int, float]] = []
    async with Service(model, manager) as service, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(asker(service, seed, progress))
        sending = [tasks.create_task(client(service, seed, each, examples)) for each in range(CLIENTS)]
        await asyncio.wait(sending)
        asking.cancel()
    return progress


# -- the plain programs, which the speed is compared with ------------------------------------------------------------
# Each learns from a batch under one lock. A thread that reads without it may see weights of two moments.


def plain_numpy(kernel: Any, bias: Any, examples: Sequence[Example]) -> Step:
    def step() -> Any:
        nonlocal bias
        x, y = stacked(examples)
        error = (RATE / len(y)) * (1 / (1 + np.exp(-(x @ kernel + bias))) - y)
        np.subtract(kernel, error @ x, out=kernel)
        bias = bias - error.sum()
        return bias

    return step


def plain_jax(kernel: Any, bias: Any, examples: Sequence[Example]) -> Step:
    import jax.numpy as jnp

    kernel, bias = jnp.array(kernel), jnp.array(bias)

    def step() -> Any:
        nonlocal kernel, bias
        x, y = map(jnp.array, stacked(examples))
        error = (RATE / len(y)) * (1 / (1 + jnp.exp(-(x @ kernel + bias))) - y)
        kernel, bias = kernel - error @ x, bias - error.sum()
        return bias

    return step


def plain_torch(kernel: Any, bias: Any, examples: Sequence[Example]) -> Step:
    import torch

    kernel, bias = torch.tensor(kernel), torch.tensor(bias)

    def step() -> Any:
        x, y = map(torch.tensor, stacked(examples))
        error = (RATE / len(y)) * (1 / (1 + torch.exp(-(x @ kernel + bias))) - y)
        kernel.sub_(error @ x)
        bias.sub_(error.sum())
        return bias

    return step


def plain_tensorflow(kernel: Any, bias: Any, examples: Sequence[Example]) -> Step:
    import tensorflow as tf

    kernel, bias = tf.Variable(kernel), tf.Variable(bias)

    def step() -> Any:
        x, y = map(tf.constant, stacked(examples))
        error = (RATE / len(y)) * (1 / (1 + tf.exp(-(tf.linalg.matvec(x, kernel) + bias))) - y)
        kernel.assign_sub(tf.linalg.matvec(x, error, transpose_a=True))
        bias.assign_sub(tf.reduce_sum(error))
        return bias

    return step


def locked(step: Step, ledger: np.ndarray[Any, Any], examples: Sequence[Example]) -> Step:
    lock = threading.Lock()

    def one() -> Any:
        with lock:
            for each in examples:
                ledger[each.client] += 1
            return step()

    return one


PLAIN: dict[str, tuple[str, Callable[[Any, Any, Sequence[Example]], Step]]] = {
    "numpy": ("NumPy under a lock", plain_numpy),
    "jax": ("JAX under a lock", plain_jax),
    "torch": ("torch under a lock", plain_torch),
    "tensorflow": ("TensorFlow under a lock", plain_tensorflow),
}


def beside(backend: str, seed: int, rounds: int) -> dict[str, float]:
    model, number = Model(backend), 0
    examples = [drawn(seed, 0, each) for each in range(MOST)]
    name, make = PLAIN[backend]
    plain = make(np.zeros(FEATURES, "float32"), np.zeros((), "float32"), examples)

    def step() -> Any:
        nonlocal number
        model.learn([each._replace(number=number + i) for i, each in enumerate(examples)])
        number += MOST
        return model.bias

    others = {name: locked(plain, np.zeros(CLIENTS, "int32"), examples)}
    return compare(f"{backend}: learning from {MOST} examples", step, others, rounds)


# -- the command ---------------------------------------------------------------------------------------------------


@contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    """The one that was given; or one that is removed at the end."""
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def draw(file: Path, progress: list[tuple[int, float]], best: float) -> None:
    with picture(file) as figure:
        axes = figure.subplots()
        shown = progress[:: len(progress) // 100 + 1]
        axes.plot(*zip(*shown, strict=True), ".", label="while it learns")
        axes.axhline(best, color="0.5", linewidth=0.8, label="by the true weights")
        axes.set(xlabel="examples learned", ylabel="answers that are right", ylim=(0.4, 1.0))
        axes.legend()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    command = parser(__doc__, steps=500)
    command.add_argument(
        "--resume", metavar="FOLDER", type=Path, help="keep checkpoints there, and go on from the newest"
    )
    options = command.parse_args(arguments)
    backend, seed, examples = options.backend, options.seed, options.steps
    model = Model(backend)
    with folder(options.resume) as where, sv.CheckpointManager(where, model, keep=3) as manager:
        restored = manager.restore()
        if restored is not None:
            print(f"{backend}: resumed from {' '.join(map(str, model.ledger.tolist()))}", flush=True)
        start, done = time.perf_counter(), int(model.learned)
        progress = asyncio.run(serve(model, manager, seed, examples))
        seconds = time.perf_counter() - start
    counts = {f"client {i}": float(each) for i, each in enumerate(model.ledger.tolist())}
    learned = int(model.learned)
    print(f"{backend}: {learned} examples learned, {sum(counts.values()):.0f} in the ledger, all of them on the disk")
    rates = f"{(learned - done) / seconds:.0f} examples and {100 * len(progress) / seconds:.0f} predictions"
    print(f"{backend}: {rates} a second")
    beside(backend, seed, options.rounds)
    if options.picture:
        held_out = [drawn(seed, CLIENTS, each) for each in range(100)]
        draw(options.picture, progress, float(np.mean([(each.x @ TRUTH > 0) == (each.y > 0.5) for each in held_out])))
    return {"learned": float(learned), **counts}


if __name__ == "__main__":
    run(main)
