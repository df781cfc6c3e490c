"""Learns to read handwritten digits, with the same code on NumPy, JAX, PyTorch and TensorFlow.

    python examples/digits.py
    python examples/digits.py --backend jax --epochs 40
    python examples/digits.py --resume runs/digits  # killed at any moment and run again, it ends with the same weights

What the program remembers is in variables: the weights and their momenta, the learning rate, the count of steps, the
running loss. What it computes, it computes in the array API namespace of its variables; `sv.value_and_grad`
differentiates that, and `sv.jit` compiles it. No line asks which library that is.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress
from sklearn.datasets import load_digits

import statevar as sv

HELD_OUT, BATCH, HIDDEN = 360, 64, 32
RATE, DECAY, MOMENTUM = 0.3, 0.997, 0.9


class Network(sv.Module):
    """Two dense layers, trained by gradient descent with momentum."""

    def __init__(self, backend: str, seed: int) -> None:
        weight = partial(sv.Variable, backend=backend)
        state = partial(sv.Variable, backend=backend, trainable=False)
        self.kernel = weight("glorot_uniform", (64, HIDDEN), name="kernel", seed=seed)
        self.bias = weight("zeros", HIDDEN, name="bias")
        self.output_kernel = weight("glorot_uniform", (HIDDEN, 10), name="output_kernel", seed=seed + 1)
        self.output_bias = weight("zeros", 10, name="output_bias")
        self.weights = [self.kernel, self.bias, self.output_kernel, self.output_bias]
        self.momenta = [state("zeros", each.shape, name=f"{each.name}_momentum") for each in self.weights]
        self.rate = state(RATE, name="rate")
        self.steps = state(0, name="steps")
        self.loss = state(math.log(10), name="loss")  # what guessing costs
        self.xp = sv.namespace(self.kernel)

    def array(self, values: np.ndarray[Any, Any]) -> Any:
        return self.xp.asarray(values, device=self.kernel.device)

    def log_probabilities(self, x: Any) -> Any:
        """The logarithm of the probability of each digit."""
        xp = self.xp
        hidden = xp.tanh(x @ self.kernel + self.bias)
        scores = hidden @ self.output_kernel + self.output_bias
        scores = scores - xp.max(scores, axis=1, keepdims=True)
        return scores - xp.log(xp.sum(xp.exp(scores), axis=1, keepdims=True))

    def cross_entropy(self, x: Any, y: Any) -> Any:
        """The mean over the examples."""
        return -self.xp.sum(y * self.log_probabilities(x)) / x.shape[0]

    @sv.jit
    def step(self, x: Any, y: Any) -> None:
        """Moves the weights against the gradient."""
        loss, gradients = sv.value_and_grad(self.cross_entropy, self.weights)(x, y)
        for weight, momentum, gradient in zip(self.weights, self.momenta, gradients, strict=True):
            momentum.assign(MOMENTUM * momentum - self.rate * gradient)
            weight.assign_add(momentum)
        self.rate.assign(DECAY * self.rate)
        self.loss.assign_add(0.05 * (loss - self.loss))
        self.steps.assign_add(1)


class Sampler(sv.Module):
    """Batches of rows in random order, without end. All that it remembers is in variables, the random numbers too."""

    def __init__(self, rows: np.ndarray[Any, Any], generator: sv.Generator) -> None:
        state = partial(sv.Variable, backend="numpy", trainable=False)
        self.order = state(rows)
        self.position = state(len(rows))
        self.generator = generator

    def batch(self) -> np.ndarray[Any, Any]:
        """The next rows; the last ones of a round, if too few, are left out."""
        with sv.transaction(self):
            if int(self.position) + BATCH > self.order.size:
                self.order.assign(self.generator.permutation(self.order))
                self.position.assign(0)
            start = int(self.position)
            self.position.assign_add(BATCH)
            return np.asarray(self.order[start : start + BATCH])


def train(
    backend: str = "numpy", epochs: int = 20, seed: int = 0, resume: str | None = None, every: int = 20
) -> tuple[float, Network]:
    """Trains on four fifths of the digits; returns the accuracy on the others, and the network."""
    digits, generator = load_digits(), sv.Generator(seed)
    images, labels = (digits.data / 16).astype("float32"), np.eye(10, dtype="float32")[digits.target]
    held_out, training = np.split(generator.permutation(len(images)), [HELD_OUT])
    network, sampler = Network(backend, seed), Sampler(training, generator)
    steps = len(training) // BATCH * epochs
    columns = (BarColumn(), "{task.completed:.0f}/{task.total:.0f}", "{task.fields[note]}")
    with ExitStack() as opened:
        progress = opened.enter_context(Progress("{task.description}", *columns))
        manager = opened.enter_context(checkpoints(resume, {"network": network, "sampler": sampler}, progress))
        done = int(network.steps)
        task = progress.add_task(f"{backend}: steps", total=steps, completed=done, note="")
        for step in range(done + 1, steps + 1):
            rows = sampler.batch()
            network.step(network.array(images[rows]), network.array(labels[rows]))
            if manager is not None and (step % every == 0 or step == steps):
                manager.save(step, {"loss": float(network.loss)})
            progress.update(task, advance=1, note=f"loss {float(network.loss):.4f}")
    log_p = network.log_probabilities(network.array(images[held_out]))
    read = np.asarray(network.xp.argmax(log_p, axis=1))
    return float(np.mean(read == digits.target[held_out])), network


@contextmanager
def checkpoints(folder: str | None, state: Any, progress: Progress) -> Iterator[sv.CheckpointManager | None]:
    """What keeps checkpoints in a folder, once the newest of them is restored; and shows how far it is."""
    if folder is None:
        yield None
        return
    task = progress.add_task("checkpoint: bytes", total=1, note="")

    def show(saving: Any) -> None:
        progress.update(task, completed=saving.done, total=saving.total, note=f"{saving.rate / 1e6:.0f} MB/s")

    with sv.CheckpointManager(folder, state, keep=3, progress=show) as manager:
        restored = manager.restore()
        if restored is not None:
            progress.console.print(f"resumed from step {restored.step}")
        yield manager


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="Learns to read handwritten digits.")
    parser.add_argument("--backend", default="numpy", choices=sv.backend_names())
    parser.add_argument("--epochs", default=20, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--resume", metavar="FOLDER", help="keep checkpoints there, and go on from the newest")
    parser.add_argument("--every", default=20, type=int, help="steps from one checkpoint to the next")
    options = parser.parse_args(arguments)
    accuracy, network = train(**vars(options))
    correct, loss = f"{100 * accuracy:.1f} % of {HELD_OUT} held-out digits", float(network.loss)
    print(f"{options.backend}: {correct}, training loss {loss:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
