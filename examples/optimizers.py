"""Optimizers on variables: SGD with momentum, Adam and AdamW, clipping by the global norm, an average of the weights.

    python examples/optimizers.py
    python examples/optimizers.py --backend jax --picture optimizers.svg

Each trains the same network to draw a curve. What an optimizer remembers is in variables, so it is saved, restored and
compiled with the weights. Copy the classes: they need nothing from this file but each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from recipe import Step, array_like, compare, parser, picture, run

import statevar as sv

POINTS, HIDDEN, BATCH = 512, 32, 64
SGD_RATE, MOMENTUM, ADAM_RATE, LIMIT, DECAY = 0.05, 0.9, 0.02, 1.0, 0.98

# -- the optimizers ------------------------------------------------------------------------------------------------


def zeros_like(v: sv.Variable) -> sv.Variable:
    """A variable of zeros where `v` is, spread as `v` is, that is not trained."""
    xp = sv.namespace(v)
    return sv.Variable(xp.zeros_like(v.value), name=v.name, trainable=False)


class SGD(sv.Module):
    """Gradient descent, with momentum and Nesterov's variant of it, as `torch.optim.SGD` and `optax.sgd`."""

    def __init__(self, weights: Sequence[sv.Variable], rate: float, momentum: float = 0.0, nesterov: bool = False):
        self.rate = sv.Variable(rate, backend=weights[0].backend, trainable=False)
        self.momenta = [zeros_like(each) for each in weights] if momentum else []
        self.momentum, self.nesterov = momentum, nesterov

    def apply(self, weights: Sequence[sv.Variable], gradients: Sequence[Any]) -> None:
        """Changes the weights."""
        for i, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            direction = gradient
            if self.momenta:
                moved = self.momentum * self.momenta[i] + gradient
                self.momenta[i].assign(moved)
                direction = gradient + self.momentum * moved if self.nesterov else moved
            weight.assign_sub(self.rate * direction)


class Adam(sv.Module):
    """Adam, as `torch.optim.Adam`; with `decay`, which shrinks the weights by themselves, as `torch.optim.AdamW`."""

    def __init__(
        self,
        weights: Sequence[sv.Variable],
        rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        decay: float = 0.0,
    ):
        self.rate = sv.Variable(rate, backend=weights[0].backend, trainable=False)
        self.steps = sv.Variable(0, backend=weights[0].backend, trainable=False)
        self.means = [zeros_like(each) for each in weights]
        self.squares = [zeros_like(each) for each in weights]
        self.betas, self.epsilon, self.decay = betas, epsilon, decay

    def apply(self, weights: Sequence[sv.Variable], gradients: Sequence[Any]) -> None:
        """Changes the weights."""
        xp, (b1, b2) = sv.namespace(self.rate), self.betas
        self.steps.assign_add(1)
        steps = xp.astype(self.steps.value, xp.float32)
        # 1 - b**steps. In float32 the difference itself would lose half of the digits: b2 is nearly 1.
        unbiased1, unbiased2 = (-xp.expm1(math.log(b) * steps) for b in (b1, b2))
        for weight, mean, square, gradient in zip(weights, self.means, self.squares, gradients, strict=True):
            mean.assign(b1 * mean + (1 - b1) * gradient)
            square.assign(b2 * square + (1 - b2) * gradient * gradient)
            direction = (mean / unbiased1) / (xp.sqrt(square / unbiased2) + self.epsilon)
            weight.assign_sub(self.rate * (direction + self.decay * weight if self.decay else direction))


def clip_by_global_norm(gradients: Sequence[Any], limit: float, xp: Any) -> list[Any]:
    """The gradients, all made shorter by one factor if they are longer than the limit, taken as one vector."""
    norm = xp.sqrt(sum(xp.sum(each * each) for each in gradients))
    factor = limit / xp.clip(norm, min=limit)
    return [factor * each for each in gradients]


class Average(sv.Module):
    """The exponential moving average of weights."""

    def __init__(self, weights: Sequence[sv.Variable], decay: float = 0.999):
        self.means = [sv.Variable(each.value, name=each.name, trainable=False) for each in weights]
        self.decay = decay

    def update(self, weights: Sequence[sv.Variable]) -> None:
        """Comes after each step of the optimizer."""
        for mean, weight in zip(self.means, weights, strict=True):
            mean.assign_add((1 - self.decay) * (weight - mean))

    @contextmanager
    def applied(self, weights: Sequence[sv.Variable]) -> Iterator[None]:
        """In the block, this thread reads the averages where it reads the weights. Nothing is written."""
        with sv.StatelessScope({w: mean.value for w, mean in zip(weights, self.means, strict=True)}):
            yield


# -- what they train -----------------------------------------------------------------------------------------------


def curve(seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Noisy points of a curve."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-4, 4, size=(POINTS, 1))
    y = np.sin(2 * x) * (1 - x / 8) + 0.1 * rng.normal(size=x.shape)
    return x.astype("float32"), y.astype("float32")


class Network(sv.Module):
    """Two hidden layers."""

    def __init__(self, backend: str, seed: int):
        weight = partial(sv.Variable, backend=backend)
        sizes = (1, HIDDEN, HIDDEN, 1)
        self.kernels = [
            weight("glorot_uniform", shape, name="kernel", seed=seed + i) for i, shape in enumerate(pairwise(sizes))
        ]
        self.biases = [weight("zeros", size, name="bias") for size in sizes[1:]]
        self.weights = [*self.kernels, *self.biases]
        self.xp = sv.namespace(self.kernels[0])

    def loss(self, x: Any, y: Any) -> Any:
        return squared_error(self.xp, self.kernels, self.biases, x, y)


def squared_error(xp: Any, kernels: Sequence[Any], biases: Sequence[Any], x: Any, y: Any) -> Any:
    """Of arrays or of variables; the plain programs below use it too."""
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        x = xp.tanh(x @ kernel + bias)
    error = x @ kernels[-1] + biases[-1] - y
    return xp.mean(error * error)


class Training(sv.Module):
    """A network and its optimizer: one thing to compile, and one to save."""

    def __init__(self, backend: str, seed: int, make: Callable[[Sequence[sv.Variable]], Any]):
        self.network = Network(backend, seed)
        self.optimizer = make(self.network.weights)
        self.average = Average(self.network.weights, DECAY)

    @sv.jit
    def step(self, x: Any, y: Any) -> Any:
        """Returns the loss before the step."""
        weights = self.network.weights
        loss, gradients = sv.value_and_grad(self.network.loss, weights)(x, y)
        self.optimizer.apply(weights, clip_by_global_norm(gradients, LIMIT, self.network.xp))
        return loss

    @sv.jit
    def keep(self) -> None:
        """Comes after a step. It may as well stand in it; apart, the step is that of the plain programs below."""
        self.average.update(self.network.weights)


OPTIMIZERS: dict[str, Callable[[Sequence[sv.Variable]], Any]] = {
    "SGD": lambda weights: SGD(weights, SGD_RATE, MOMENTUM),
    "Adam": lambda weights: Adam(weights, ADAM_RATE),
    "AdamW": lambda weights: Adam(weights, ADAM_RATE, decay=0.01),
}


def train(training: Training, steps: int, seed: int) -> Iterator[int]:
    """Trains on random batches, and yields the number of each step."""
    rng, (x, y) = np.random.default_rng(seed), curve(seed)
    as_array = partial(array_like, training.network.weights[0])
    for step in range(steps):
        rows = rng.integers(POINTS, size=BATCH)
        training.step(as_array(x[rows]), as_array(y[rows]))
        training.keep()
        yield step


def losses(training: Training, seed: int) -> tuple[float, float]:
    """The losses of the weights and of their averages, on all points."""
    network = training.network
    x, y = (array_like(network.weights[0], each) for each in curve(seed))
    now = network.loss(x, y)
    with training.average.applied(network.weights):
        averaged = network.loss(x, y)
    return float(sv.Variable(now)), float(sv.Variable(averaged))  # a variable keeps the value, not how it was computed


# -- the plain programs, which the speed is compared with ------------------------------------------------------------
# Each trains the same network with the library's own Adam; NumPy has neither that nor gradients.

Arrays = list[np.ndarray[Any, Any]]


def plain_numpy(weights: Arrays, x: Any, y: Any) -> Step:
    kernels, biases = weights[:3], weights[3:]
    means, squares = ([np.zeros_like(each) for each in weights] for _ in range(2))
    count = 0

    def step() -> Any:
        nonlocal count
        layers = [x]
        for kernel, bias in zip(kernels[:2], biases[:2], strict=True):
            layers.append(np.tanh(layers[-1] @ kernel + bias))
        error = layers[2] @ kernels[2] + biases[2] - y
        back, gradients = 2 / len(x) * error, [np.empty(0)] * 6
        for i in (2, 1, 0):
            gradients[i], gradients[3 + i] = layers[i].T @ back, back.sum(0)
            back = back @ kernels[i].T * (1 - layers[i] ** 2)
        norm = np.sqrt(sum(np.vdot(each, each) for each in gradients))
        count += 1
        for i, gradient in enumerate(gradients):
            shorter = gradient * (LIMIT / max(norm, LIMIT))
            means[i] += 0.1 * (shorter - means[i])
            squares[i] += 0.001 * (shorter**2 - squares[i])
            direction = means[i] / (1 - 0.9**count) / (np.sqrt(squares[i] / (1 - 0.999**count)) + 1e-8)
            weights[i] -= ADAM_RATE * direction
        return np.mean(error**2)

    return step


def plain_jax(weights: Arrays, x: Any, y: Any) -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.chain(optax.clip_by_global_norm(LIMIT), optax.adam(ADAM_RATE))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(weights: Any, state: Any, x: Any, y: Any) -> Any:
        def loss(weights: Any) -> Any:
            return squared_error(jnp, weights[:3], weights[3:], x, y)

        value, gradients = jax.value_and_grad(loss)(weights)
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, value

    values = [jnp.array(each) for each in weights]
    held = [values, optimizer.init(values)]

    def run() -> Any:
        *held[:], value = step(*held, x, y)
        return value

    return run


def plain_torch(weights: Arrays, x: Any, y: Any) -> Step:
    import torch

    parameters = [torch.nn.Parameter(torch.tensor(each)) for each in weights]
    optimizer = torch.optim.Adam(parameters, ADAM_RATE)

    def step() -> Any:
        optimizer.zero_grad()
        loss = squared_error(torch, parameters[:3], parameters[3:], x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, LIMIT)
        optimizer.step()
        return loss.detach()

    return step


def plain_tensorflow(weights: Arrays, x: Any, y: Any) -> Step:
    import keras
    import tensorflow as tf

    variables = [tf.Variable(each) for each in weights]
    optimizer = keras.optimizers.Adam(ADAM_RATE, global_clipnorm=LIMIT)
    optimizer.build(variables)

    @tf.function  # type: ignore[untyped-decorator]  # the library ships no types
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            hidden = x
            for kernel, bias in zip(variables[:2], variables[3:5], strict=True):
                hidden = tf.tanh(hidden @ kernel + bias)
            loss = tf.reduce_mean((hidden @ variables[2] + variables[5] - y) ** 2)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return lambda: step(x, y)


PLAIN: dict[str, tuple[str, Callable[[Arrays, Any, Any], Step]]] = {
    "numpy": ("NumPy by hand", plain_numpy),
    "jax": ("jax.jit and optax", plain_jax),
    "torch": ("torch.optim", plain_torch),
    "tensorflow": ("tf.function and keras.optimizers", plain_tensorflow),
}


def beside(training: Training, seed: int, rounds: int) -> dict[str, float]:
    weights = training.network.weights
    x, y = (array_like(weights[0], each[:BATCH]) for each in curve(seed))
    name, make = PLAIN[weights[0].backend]
    plain = make([each.numpy().copy() for each in weights], x, y)
    return compare(f"{weights[0].backend}: a step", lambda: training.step(x, y), {name: plain}, rounds)


# -- the command ---------------------------------------------------------------------------------------------------


def draw(file: str, backend: str, steps: int, seed: int) -> None:
    with picture(file) as figure:
        axes = figure.subplots()
        for name, make in OPTIMIZERS.items():
            training = Training(backend, seed, make)
            curves = np.array([losses(training, seed) for _ in train(training, steps, seed)])
            (line,) = axes.semilogy(curves[:, 0], alpha=0.4, linewidth=0.8)
            axes.semilogy(curves[:, 1], color=line.get_color(), label=f"{name}, averaged")
        axes.set(xlabel="step", ylabel="squared error")
        axes.legend()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    command = parser(__doc__, steps=400)
    command.add_argument("--optimizer", default="Adam", choices=OPTIMIZERS)
    options = command.parse_args(arguments)
    backend, steps, seed = options.backend, options.steps, options.seed
    training = Training(backend, seed, OPTIMIZERS[options.optimizer])
    for _ in train(training, steps, seed):
        pass
    loss, averaged = losses(training, seed)
    print(f"{backend}: {options.optimizer}, {steps} steps: error {loss:.4f}, of the averaged weights {averaged:.4f}")
    if options.rounds:
        beside(training, seed, options.rounds)
    if options.picture:
        draw(options.picture, backend, steps, seed)
    return {"loss": loss, "averaged": averaged}


if __name__ == "__main__":
    run(main)
