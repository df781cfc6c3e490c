"""Batch normalisation, whose running statistics are variables, in a network that trains and predicts.

    python examples/batch_norm.py
    python examples/batch_norm.py --backend jax --picture batch_norm.svg

The features of the data are in unlike units. With the layer the network learns; without it, it does not. The layer
writes its statistics in the loss function, which is differentiated and compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from optimizers import Adam
from recipe import Step, array_like, compare, parser, picture, run

import statevar as sv

POINTS, BATCH, HIDDEN = 512, 64, 16


class BatchNorm(sv.Module):
    """Normalises each feature, the last axis, over the first axis of the batch.

    Libraries differ in what they keep, so both are said here:

    - ``momentum`` is the part of the new statistic, as in `torch.nn.BatchNorm1d`. What Keras and flax call momentum is
      the part of the old one, 1 - ``momentum``.
    - The batch is normalised by its variance over n. With ``unbiased``, the running variance takes the one over n - 1,
      as torch does; without, that over n, as Keras and flax do.
    """

    def __init__(self, size: int, backend: str, *, momentum: float = 0.1, epsilon: float = 1e-5, unbiased: bool = True):
        weight, statistic = (partial(sv.Variable, backend=backend, trainable=each) for each in (True, False))
        self.scale, self.shift = weight("ones", size, name="scale"), weight("zeros", size, name="shift")
        self.mean, self.variance = statistic("zeros", size, name="mean"), statistic("ones", size, name="variance")
        self.momentum, self.epsilon, self.unbiased = momentum, epsilon, unbiased
        self.xp = sv.namespace(self.scale)

    def __call__(self, x: Any, *, training: bool) -> Any:
        """In training by the statistics of the batch, which enter the running ones; else by the running ones."""
        mean, variance = self.mean.value, self.variance.value
        if training:
            mean = self.xp.mean(x, axis=0)
            variance = self.xp.mean((x - mean) ** 2, axis=0)
            of_all = variance * (x.shape[0] / (x.shape[0] - 1)) if self.unbiased else variance
            self.mean.assign_add(self.momentum * (mean - self.mean))
            self.variance.assign_add(self.momentum * (of_all - self.variance))
        return (x - mean) / self.xp.sqrt(variance + self.epsilon) * self.scale + self.shift


class Network(sv.Module):
    """One hidden layer, with or without normalised inputs."""

    def __init__(self, backend: str, seed: int, *, normalised: bool):
        weight = partial(sv.Variable, backend=backend)
        self.norm = BatchNorm(2, backend) if normalised else None
        self.kernel = weight("glorot_uniform", (2, HIDDEN), name="kernel", seed=seed)
        self.bias = weight("zeros", HIDDEN, name="bias")
        self.output = weight("glorot_uniform", (HIDDEN, 1), name="output", seed=seed + 1)
        self.weights = [v for v in sv.variables(self) if v.trainable]
        self.optimizer = Adam(self.weights, rate=0.02)
        self.xp = sv.namespace(self.kernel)

    def scores(self, x: Any, *, training: bool) -> Any:
        """Above 0 for the points of one class, below for those of the other."""
        if self.norm is not None:
            x = self.norm(x, training=training)
        return self.xp.tanh(x @ self.kernel + self.bias) @ self.output

    def loss(self, x: Any, y: Any) -> Any:
        return self.xp.mean((self.scores(x, training=True) - y) ** 2)

    @sv.jit
    def step(self, x: Any, y: Any) -> Any:
        loss, gradients = sv.value_and_grad(self.loss, self.weights)(x, y)
        self.optimizer.apply(self.weights, gradients)
        return loss

    def accuracy(self, x: Any, y: Any) -> float:
        """In evaluation: it depends on no other point of the batch, and changes nothing."""
        right = self.scores(x, training=False) * y > 0
        return float(np.mean(np.asarray(right)))


def rings(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Points on a ring and on another one within it; the two axes have unlike units, and lie far from 0."""
    rng = np.random.default_rng(seed)
    y = np.where(np.arange(POINTS) % 2, 1, -1)[:, None]
    angle, radius = rng.uniform(0, 2 * np.pi, size=y.shape), 1.5 + 0.5 * y + 0.15 * rng.normal(size=y.shape)
    x = np.hstack([60 + 5 * radius * np.cos(angle), 4 + 0.1 * radius * np.sin(angle)])
    return x.astype("float32"), y.astype("float32")


def train(network: Network, steps: int, seed: int) -> list[float]:
    """The loss of every batch."""
    rng, (x, y), losses = np.random.default_rng(seed), rings(seed), []
    for _ in range(steps):
        rows = rng.integers(POINTS, size=BATCH)
        losses.append(float(network.step(array_like(network.kernel, x[rows]), array_like(network.kernel, y[rows]))))
    return losses


# -- the plain programs, which the speed is compared with ------------------------------------------------------------
# Each normalises a batch and updates the running statistics.


def plain_numpy(x: Any) -> Step:
    scale, shift = np.ones(x.shape[1], "float32"), np.zeros(x.shape[1], "float32")
    running_mean, running_variance = shift.copy(), scale.copy()

    def step() -> Any:
        mean = x.mean(0)
        variance = ((x - mean) ** 2).mean(0)
        np.add(running_mean, 0.1 * (mean - running_mean), out=running_mean)
        unbiased = variance * (len(x) / (len(x) - 1))
        np.add(running_variance, 0.1 * (unbiased - running_variance), out=running_variance)
        return ((x - mean) / np.sqrt(variance + 1e-5) * scale + shift)[0, 0]

    return step


def plain_jax(x: Any) -> Step:
    import jax
    import jax.numpy as jnp

    x = jnp.array(x)
    scale, shift = jnp.ones(x.shape[1]), jnp.zeros(x.shape[1])

    @partial(jax.jit, donate_argnums=0)
    def normalise(running: Any, scale: Any, shift: Any, x: Any) -> Any:
        mean = x.mean(0)
        variance = ((x - mean) ** 2).mean(0)
        now = mean, variance * (len(x) / (len(x) - 1))
        running = [old + 0.1 * (new - old) for old, new in zip(running, now, strict=True)]
        return running, ((x - mean) / jnp.sqrt(variance + 1e-5) * scale + shift)[0, 0]

    running = [jnp.zeros(x.shape[1]), jnp.ones(x.shape[1])]

    def step() -> Any:
        nonlocal running
        running, first = normalise(running, scale, shift, x)
        return first

    return step


def plain_torch(x: Any) -> Step:
    import torch

    layer, x = torch.nn.BatchNorm1d(x.shape[1]), torch.tensor(x)

    @torch.no_grad()
    def step() -> Any:
        return layer(x)[0, 0]

    return step


def plain_tensorflow(x: Any) -> Step:
    import keras
    import tensorflow as tf

    layer, x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5), tf.constant(x)
    layer.build(x.shape)
    return tf.function(lambda: layer(x, training=True)[0, 0])  # type: ignore[no-any-return]  # the library ships no types


PLAIN: dict[str, tuple[str, Callable[[Any], Step]]] = {
    "numpy": ("NumPy by hand", plain_numpy),
    "jax": ("jax.jit by hand", plain_jax),
    "torch": ("nn.BatchNorm1d", plain_torch),
    "tensorflow": ("Keras in tf.function", plain_tensorflow),
}


def beside(backend: str, rounds: int) -> dict[str, float]:
    """A layer of 128 features in training."""
    values = np.random.default_rng(0).normal(size=(256, 128)).astype("float32")
    layer = BatchNorm(128, backend)
    x, normalise = array_like(layer.scale, values), sv.jit(lambda x: layer(x, training=True)[0, 0])
    name, make = PLAIN[backend]
    return compare(f"{backend}: a layer in training", lambda: normalise(x), {name: make(values)}, rounds)


# -- the command ---------------------------------------------------------------------------------------------------


def draw(file: Any, backend: str, steps: int, seed: int) -> None:
    with picture(file) as figure:
        axes = figure.subplots()
        for normalised, label in ((False, "without"), (True, "with batch normalisation")):
            losses = train(Network(backend, seed, normalised=normalised), steps, seed)
            axes.plot(losses, label=label)
        axes.set(xlabel="step", ylabel="squared error", ylim=(0, None))
        axes.legend()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    options = parser(__doc__, steps=200).parse_args(arguments)
    backend, steps, seed = options.backend, options.steps, options.seed
    network = Network(backend, seed, normalised=True)
    losses = train(network, steps, seed)
    x, y = (array_like(network.kernel, each) for each in rings(seed))
    accuracy = network.accuracy(x, y)
    assert network.norm is not None
    mean, variance = network.norm.mean.numpy(), network.norm.variance.numpy()
    print(f"{backend}: loss {losses[0]:.3f}, then {losses[-1]:.3f}; {100 * accuracy:.1f} % right in evaluation")
    statistics = ", ".join(f"{m:.2f} ± {v**0.5:.3f}" for m, v in zip(mean, variance, strict=True))
    print(f"{backend}: running statistics of the inputs {statistics}")
    if options.rounds:
        beside(backend, options.rounds)
    if options.picture:
        draw(options.picture, backend, steps, seed)
    return {"loss": losses[-1], "mean": float(mean[0]), "variance": float(variance[0])}


if __name__ == "__main__":
    run(main)
