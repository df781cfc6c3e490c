"""Learns to read handwritten digits, with the same code on NumPy, JAX, PyTorch and TensorFlow.

    python examples/digits.py
    python examples/digits.py --backend jax --epochs 40

What the program remembers is in variables: the weights and their momenta, the count of steps, the running loss.
What it computes, it computes in the array API namespace of its variables. No line asks which library that is.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from rich.progress import BarColumn, Progress
from sklearn.datasets import load_digits

import statevar as sv

HELD_OUT, BATCH, HIDDEN = 360, 64, 32
RATE, DECAY, MOMENTUM = 0.3, 0.997, 0.9


class Network:
    """Two dense layers, trained by gradient descent with momentum."""

    def __init__(self, backend: str, seed: int) -> None:
        # The gradients below are written by hand; for a trainable variable torch would record its own.
        variable = partial(sv.Variable, backend=backend, trainable=False)
        self.kernel = variable("glorot_uniform", (64, HIDDEN), name="kernel", seed=seed)
        self.bias = variable("zeros", HIDDEN, name="bias")
        self.output_kernel = variable("glorot_uniform", (HIDDEN, 10), name="output_kernel", seed=seed + 1)
        self.output_bias = variable("zeros", 10, name="output_bias")
        self.weights = [self.kernel, self.bias, self.output_kernel, self.output_bias]
        self.momenta = [variable("zeros", weight.shape, name=f"{weight.name}_momentum") for weight in self.weights]
        self.steps = variable(0, name="steps")
        self.loss = variable(math.log(10), name="loss")  # what guessing costs
        self.xp = self.kernel.__array_namespace__()

    def array(self, values: np.ndarray[Any, Any]) -> Any:
        return self.xp.asarray(values, device=self.kernel.device)

    def forward(self, x: Any) -> tuple[Any, Any]:
        """The hidden activations, and the logarithm of the probability of each digit."""
        xp = self.xp
        hidden = xp.tanh(x @ self.kernel + self.bias)
        scores = hidden @ self.output_kernel + self.output_bias
        scores = scores - xp.max(scores, axis=1, keepdims=True)
        return hidden, scores - xp.log(xp.sum(xp.exp(scores), axis=1, keepdims=True))

    def step(self, x: Any, y: Any) -> None:
        """Moves the weights against the gradient of the mean cross-entropy between the output and y."""
        xp, size = self.xp, len(x)
        hidden, log_p = self.forward(x)
        output_error = (xp.exp(log_p) - y) / size
        error = output_error @ xp.matrix_transpose(self.output_kernel) * (1 - hidden**2)
        gradients = [
            xp.matrix_transpose(x) @ error,
            xp.sum(error, axis=0),
            xp.matrix_transpose(hidden) @ output_error,
            xp.sum(output_error, axis=0),
        ]
        rate = RATE * DECAY ** int(self.steps)
        for weight, momentum, gradient in zip(self.weights, self.momenta, gradients, strict=True):
            momentum.assign(MOMENTUM * momentum - rate * gradient)
            weight.assign_add(momentum)
        self.loss.assign_add(0.05 * (-xp.sum(y * log_p) / size - self.loss))
        self.steps.assign_add(1)


def train(backend: str = "numpy", epochs: int = 20, seed: int = 0) -> tuple[float, Network]:
    """Trains on four fifths of the digits; returns the accuracy on the others, and the network."""
    digits, rng = load_digits(), np.random.default_rng(seed)
    images, labels = (digits.data / 16).astype("float32"), np.eye(10, dtype="float32")[digits.target]
    held_out, training = np.split(rng.permutation(len(images)), [HELD_OUT])
    network = Network(backend, seed)
    with Progress("{task.description}", BarColumn(), "loss {task.fields[loss]:.4f}") as progress:
        task = progress.add_task(backend, total=epochs, loss=float(network.loss))
        for _ in range(epochs):
            order = rng.permutation(training)
            for rows in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
                network.step(network.array(images[rows]), network.array(labels[rows]))
            progress.update(task, advance=1, loss=float(network.loss))
    _, log_p = network.forward(network.array(images[held_out]))
    read = np.asarray(network.xp.argmax(log_p, axis=1))
    return float(np.mean(read == digits.target[held_out])), network


def main(arguments: Sequence[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="Learns to read handwritten digits.")
    parser.add_argument("--backend", default="numpy", choices=sv.backend_names())
    parser.add_argument("--epochs", default=20, type=int)
    parser.add_argument("--seed", default=0, type=int)
    options = parser.parse_args(arguments)
    accuracy, network = train(**vars(options))
    correct, loss = f"{100 * accuracy:.1f} % of {HELD_OUT} held-out digits", float(network.loss)
    print(f"{options.backend}: {correct}, training loss {loss:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
