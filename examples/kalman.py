"""A Kalman filter by `sv.scan`, whose two noises are found by gradients of its likelihood.

    python examples/kalman.py
    python examples/kalman.py --backend jax --picture kalman.svg
    python examples/kalman.py --backend torch --eager

Something moves along a line and is pushed at random; its position is measured with an error. The state of the filter is
in variables: `Filter.step` takes in one measurement, in a program that is online, and `sv.scan` makes a likelihood of
it. Neither is written for the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optimizers import Adam
from recipe import Step, array_like, compare, parser, picture, run

import statevar as sv

PUSH, NOISE = 0.3, 1.0  # the true ones
MOVE = np.array([[1.0, 1.0], [0.0, 1.0]])  # position and velocity, a unit of time later
PUSHED = np.array([[1 / 3, 1 / 2], [1 / 2, 1.0]])  # their covariance after a unit of time, of white acceleration
PRIOR = np.diag([100.0, 1.0])


class Filter(sv.Module):
    """Where it is and how fast it goes, as a mean and a covariance; and the noises, whose logarithms are learned."""

    def __init__(self, backend: str):
        self.log_push = sv.Variable(0.0, name="log_push", backend=backend)
        self.log_noise = sv.Variable(math.log(3.0), name="log_noise", backend=backend)
        self.noises = [self.log_push, self.log_noise]
        self.mean = sv.Variable("zeros", 2, name="mean", backend=backend, trainable=False)
        self.covariance = sv.Variable(PRIOR, dtype="float32", name="covariance", backend=backend, trainable=False)
        self.xp = sv.namespace(self.mean)
        self.move, self.move_transposed = array_like(self.mean, MOVE), array_like(self.mean, MOVE.T)
        self.pushed, self.prior = array_like(self.mean, PUSHED), array_like(self.mean, PRIOR)

    def step(self, measured: Any) -> Any:
        """Predicts, and takes in one measurement. Returns the logarithm of how probable that was."""
        xp = self.xp
        mean = xp.matmul(self.move, self.mean)  # a tensor of TensorFlow takes no vector after @
        covariance = self.move @ self.covariance @ self.move_transposed + xp.exp(2 * self.log_push) * self.pushed
        variance = covariance[0, 0] + xp.exp(2 * self.log_noise)
        gain, surprise = covariance[:, 0] / variance, measured - mean[0]
        self.mean.assign(mean + gain * surprise)
        self.covariance.assign(covariance - variance * gain[:, None] * gain[None, :])
        return -0.5 * (math.log(2 * math.pi) + xp.log(variance) + surprise**2 / variance)

    def run(self, measured: Any) -> tuple[Any, tuple[Any, Any]]:
        """From the prior through all measurements: the log-likelihood, and the positions and their variances."""
        self.mean.assign(0.0 * self.mean)
        self.covariance.assign(self.prior)

        def body(total: Any, one: Any) -> tuple[Any, tuple[Any, Any]]:
            total = total + self.step(one)
            return total, (self.mean[0], self.covariance[0, 0])

        return sv.scan(body, array_like(self.mean, 0.0), measured)

    def loss(self, measured: Any) -> Any:
        """What a measurement costs on average."""
        return -self.run(measured)[0] / measured.shape[0]


def simulate(length: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """True positions, and measurements of them."""
    rng = np.random.default_rng(seed)
    pushes = PUSH * rng.normal(size=(length, 2)) @ np.linalg.cholesky(PUSHED).T
    state, positions = np.zeros(2), []
    for push in pushes:
        state = MOVE @ state + push
        positions.append(state[0])
    return np.array(positions), positions + NOISE * rng.normal(size=length)


# -- the plain programs, which the speed is compared with ------------------------------------------------------------
# Each computes the loss and its two derivatives, compiled where the library compiles loops.


def filtered(xp: Any, matrices: Any, state: Any, one: Any, push: Any, noise: Any) -> tuple[Any, Any]:
    """One step, of arrays: the next state, and the log-likelihood."""
    (move, pushed), (mean, covariance) = matrices, state
    mean = move @ mean
    covariance = move @ covariance @ move.T + xp.exp(2 * push) * pushed
    variance = covariance[0, 0] + xp.exp(2 * noise)
    gain, surprise = covariance[:, 0] / variance, one - mean[0]
    state = mean + gain * surprise, covariance - variance * gain[:, None] * gain[None, :]
    return state, -0.5 * (math.log(2 * math.pi) + xp.log(variance) + surprise**2 / variance)


def plain_loss(measured: Any, push: float, noise: float) -> float:
    """The loss in NumPy, in double precision."""
    total, state = 0.0, (np.zeros(2), PRIOR)
    for one in measured:
        state, each = filtered(np, (MOVE, PUSHED), state, one, push, noise)
        total += float(each)
    return -total / len(measured)


def differences(measured: Any, push: float, noise: float, width: float = 1e-5) -> tuple[float, float]:
    """The derivatives of the loss, by central differences."""
    by_push = plain_loss(measured, push + width, noise) - plain_loss(measured, push - width, noise)
    by_noise = plain_loss(measured, push, noise + width) - plain_loss(measured, push, noise - width)
    return by_push / (2 * width), by_noise / (2 * width)


def plain_numpy(measured: Any, push: float, noise: float) -> Step:
    def step() -> float:
        return plain_loss(measured, push, noise) + 0 * sum(differences(measured, push, noise))

    return step


def plain_jax(measured: Any, push: float, noise: float) -> Step:
    import jax
    import jax.numpy as jnp

    measured, matrices = jnp.array(measured, "float32"), (jnp.array(MOVE), jnp.array(PUSHED))

    @jax.jit
    @jax.value_and_grad
    def loss(noises: Any) -> Any:
        def body(state: Any, one: Any) -> Any:
            return filtered(jnp, matrices, state, one, *noises)

        return -jax.lax.scan(body, (jnp.zeros(2), jnp.array(PRIOR)), measured)[1].mean()

    noises = (jnp.array(push), jnp.array(noise))
    return lambda: loss(noises)[0]


def plain_torch(measured: Any, push: float, noise: float) -> Step:
    import torch

    noises = [torch.tensor(each, requires_grad=True) for each in (push, noise)]
    move, pushed, prior = (torch.tensor(each, dtype=torch.float32) for each in (MOVE, PUSHED, PRIOR))
    measured = torch.tensor(measured, dtype=torch.float32)

    def step() -> Any:
        total, state = torch.tensor(0.0), (torch.zeros(2), prior)
        for one in measured:
            state, each = filtered(torch, (move, pushed), state, one, *noises)
            total = total - each / len(measured)
        torch.autograd.grad(total, noises)
        return total.detach()

    return step


def plain_tensorflow(measured: Any, push: float, noise: float) -> Step:
    import tensorflow as tf

    noises = [tf.Variable(each) for each in (push, noise)]
    move, pushed, prior = (tf.constant(each, tf.float32) for each in (MOVE, PUSHED, PRIOR))
    measured = tf.constant(measured, tf.float32)

    class Tensors:
        exp, log = tf.exp, tf.math.log

    @tf.function  # type: ignore[untyped-decorator]  # the library ships no types
    def step() -> Any:
        with tf.GradientTape() as tape:
            total, mean, covariance = tf.constant(0.0), tf.zeros(2), prior
            for one in measured:
                mean = tf.linalg.matvec(move, mean)
                covariance = move @ covariance @ tf.transpose(move) + tf.exp(2 * noises[0]) * pushed
                variance = covariance[0, 0] + tf.exp(2 * noises[1])
                gain, surprise = covariance[:, 0] / variance, one - mean[0]
                mean = mean + gain * surprise
                covariance = covariance - variance * gain[:, None] * gain[None, :]
                total += 0.5 * (math.log(2 * math.pi) + tf.math.log(variance) + surprise**2 / variance)
            loss = total / len(measured)
        return loss + 0 * sum(tape.gradient(loss, noises))

    return step  # type: ignore[no-any-return]  # the library ships no types


PLAIN: dict[str, tuple[str, Callable[[Any, float, float], Step]]] = {
    "numpy": ("NumPy and differences", plain_numpy),
    "jax": ("jax.lax.scan in jax.jit", plain_jax),
    "torch": ("torch", plain_torch),
    "tensorflow": ("a loop in tf.function", plain_tensorflow),
}


# -- the command ---------------------------------------------------------------------------------------------------


def draw(file: Any, found: Any, positions: Any, measured: Any, path: list[tuple[float, float]]) -> None:
    means, variances = (np.asarray(each) for each in found)
    times, band = np.arange(len(positions)), 2 * np.sqrt(variances)
    with picture(file, 7.2, 2.8) as figure:
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        left.plot(times, measured - positions, ".", color="C1", markersize=4, label="measured")
        left.fill_between(times, means - positions - band, means - positions + band, alpha=0.3, label="filter, 95 %")
        left.plot(times, means - positions, color="C0", linewidth=1)
        left.axhline(0, color="black", linewidth=0.8)
        left.set(xlabel="time", ylabel="error of the position")
        left.legend(ncols=2, loc="upper right")
        axis = np.linspace(-2.5, 1.5, 15)
        losses = [[plain_loss(measured, push, noise) for push in axis] for noise in axis]
        right.contour(
            axis, axis, losses, levels=np.min(losses) + np.geomspace(0.01, 3, 10), colors="0.7", linewidths=0.8
        )
        right.plot(*zip(*path[::5], strict=True), color="C3", label="fit")
        right.plot(math.log(PUSH), math.log(NOISE), "k*", label="true")
        right.set(xlabel="log push", ylabel="log noise")
        right.legend()


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    command = parser(__doc__, steps=150)
    command.add_argument("--length", default=120, type=int, help="of the series")
    command.add_argument("--eager", action="store_true", help="do not compile: for torch, which writes out every loop")
    options = command.parse_args(arguments)
    backend, compiled = options.backend, (lambda f: f) if options.eager else sv.jit
    positions, measured = simulate(options.length, options.seed)
    model = Filter(backend)
    optimizer, series = Adam(model.noises, rate=0.05), array_like(model.mean, measured)

    @compiled  # type: ignore[untyped-decorator]  # the library ships no types
    def step(series: Any) -> Any:
        loss, gradients = sv.value_and_grad(model.loss, model.noises)(series)
        optimizer.apply(model.noises, gradients)
        return loss

    losses, path = [], [(float(model.log_push), float(model.log_noise))]
    for _ in range(options.steps):
        losses.append(float(step(series)))
        path.append((float(model.log_push), float(model.log_noise)))
    push, noise = (math.exp(each) for each in path[-1])
    noises = f"push {push:.3f}, where {PUSH} is true, noise {noise:.3f}, where {NOISE} is true"
    print(f"{backend}: loss {losses[0]:.4f}, then {losses[-1]:.4f}; {noises}")
    if options.rounds:
        title, likelihood = (
            f"{backend}: the loss and its gradient",
            compiled(sv.value_and_grad(model.loss, model.noises)),
        )
        name, make = PLAIN[backend]
        compare(title, lambda: likelihood(series)[0], {name: make(measured, *path[-1])}, options.rounds)
    if options.picture:
        draw(options.picture, model.run(series)[1], positions, measured, path)
    return {"loss": losses[-1], "push": push, "noise": noise}


if __name__ == "__main__":
    run(main)
