"""The Ising model of a magnet, by random numbers whose place in their stream is saved with the spins.

    python examples/ising.py
    python examples/ising.py --backend jax --size 128 --picture spins.png
    python examples/ising.py --resume runs/ising  # killed at any moment and run again, it ends with the same spins

Lattices at several temperatures are simulated side by side by Metropolis' rule, on the black points of a checkerboard
and on the white ones by turns. The program prints the magnetisation beside Onsager's exact one, which is 0 above the
critical temperature of 2.269.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from recipe import Step, compare, parser, picture, run

import statevar as sv

TEMPERATURES = (1.8, 2.1, 2.6)  # two that are below the critical one, and one above
TOGETHER = 5  # sweeps in one call of the compiled function


def exact(temperature: float) -> float:
    """The magnetisation of an infinite lattice (Onsager 1948, Yang 1952)."""
    inside = 1 - math.sinh(2 / temperature) ** -4
    return float(inside**0.125) if inside > 0 else 0.0


def chances(temperatures: Sequence[float]) -> list[np.ndarray[Any, Any]]:
    """How probable a flip is that costs the energy 4, and one that costs 8, at each temperature."""
    return [np.exp(-cost / np.reshape(temperatures, (-1, 1, 1))).astype("float32") for cost in (4, 8)]


def checkerboard(size: int) -> np.ndarray[Any, Any]:
    """True at the black points."""
    return np.asarray(np.add.outer(np.arange(size), np.arange(size)) % 2 == 0)


def neighbours(roll: Callable[[Any, int, int], Any], spins: Any) -> Any:
    """The sum of the four spins around each point, on a lattice whose edges meet."""
    return roll(spins, 1, 1) + roll(spins, -1, 1) + roll(spins, 1, 2) + roll(spins, -1, 2)


class Ising(sv.Module):
    """Spins of +1 and -1 on a lattice for each temperature, the random numbers, and what was measured."""

    def __init__(self, backend: str, size: int, temperatures: Sequence[float], seed: int):
        state = partial(sv.Variable, backend=backend, trainable=False)
        self.spins = state("ones", (len(temperatures), size, size), name="spins")
        self.random = sv.Generator(seed, backend=backend)
        self.rare, self.rarer = map(state, chances(temperatures))
        self.sweeps = state(0, name="sweeps")
        self.measured = state(0, name="measured")
        self.total = state("zeros", len(temperatures), name="total")  # of the magnetisation, over what was measured
        self.xp = sv.namespace(self.spins)

    def half(self, numbers: Any, points: Any) -> None:
        """Flips spins at points of one colour, which are not neighbours: always if that costs no energy."""
        xp, spins = self.xp, self.spins.value
        aligned = spins * neighbours(lambda x, by, axis: xp.roll(x, by, axis=axis), spins)
        chance = xp.where(aligned > 3, self.rarer, xp.where(aligned > 1, self.rare, 1.0))
        self.spins.assign(xp.where((numbers < chance) & points, -spins, spins))

    @sv.jit
    def advance(self) -> Any:
        """Several sweeps; returns the magnetisation after each."""
        columns = self.xp.arange(self.spins.shape[-1])
        black = (columns[:, None] + columns) % 2 == 0

        def sweep(carry: Any, numbers: Any) -> tuple[Any, Any]:
            self.half(numbers, black)
            self.half(numbers, ~black)
            self.sweeps.assign_add(1)
            return carry, self.xp.mean(self.spins.value, axis=(1, 2))

        return sv.scan(sweep, None, self.random.uniform((TOGETHER, *self.spins.shape)))[1]

    def measure(self) -> None:
        """Several sweeps, which count."""
        with sv.transaction(self):
            self.total.assign_add(self.xp.sum(self.xp.abs(self.advance()), axis=0))
            self.measured.assign_add(TOGETHER)

    def magnetisation(self) -> np.ndarray[Any, Any]:
        """The mean over what was measured."""
        return np.asarray(self.total.numpy() / max(1, int(self.measured)))


def simulate(model: Ising, sweeps: int, resume: str | None = None, every: int = 100) -> None:
    """Goes on until so many sweeps are done. The first fifth of them does not count: it forgets the start."""
    with checkpoints(resume, model) as manager:
        while (done := int(model.sweeps)) < sweeps:
            (model.advance if done < sweeps // 5 else model.measure)()
            if manager is not None and (done // every < int(model.sweeps) // every or int(model.sweeps) >= sweeps):
                manager.save(model.sweeps)


@contextmanager
def checkpoints(folder: str | None, model: Ising) -> Iterator[sv.CheckpointManager | None]:
    """What keeps checkpoints in a folder, once the newest of them is restored."""
    if folder is None:
        yield None
        return
    with sv.CheckpointManager(folder, model, keep=2) as manager:
        restored = manager.restore()
        if restored is not None:
            print(f"{model.spins.backend}: resumed from sweep {restored.step}")
        yield manager


# -- the plain programs, which the speed is compared with ------------------------------------------------------------
# Each takes random numbers from its own library.


def plain_numpy(spins: Any, black: Any, rare: Any, rarer: Any) -> Step:
    rng = np.random.default_rng(0)

    def step() -> Any:
        for _ in range(TOGETHER):
            numbers = rng.random(spins.shape, "float32")
            for points in (black, ~black):
                aligned = spins * neighbours(np.roll, spins)
                chance = np.where(aligned > 3, rarer, np.where(aligned > 1, rare, np.float32(1)))
                np.negative(spins, out=spins, where=(numbers < chance) & points)
            mean = spins.mean((1, 2))
        return mean[0]

    return step


def plain_jax(spins: Any, black: Any, rare: Any, rarer: Any) -> Step:
    import jax
    import jax.numpy as jnp

    def advance(state: Any, black: Any, rare: Any, rarer: Any) -> Any:
        def sweep(spins: Any, key: Any) -> Any:
            numbers = jax.random.uniform(key, spins.shape)
            for points in (black, ~black):
                aligned = spins * neighbours(jnp.roll, spins)
                chance = jnp.where(aligned > 3, rarer, jnp.where(aligned > 1, rare, 1.0))
                spins = jnp.where((numbers < chance) & points, -spins, spins)
            return spins, spins.mean((1, 2))

        key, *keys = jax.random.split(state[1], TOGETHER + 1)
        spins, means = jax.lax.scan(sweep, state[0], jnp.stack(keys))
        return (spins, key), means[-1, 0]

    compiled = jax.jit(advance, donate_argnums=0)
    others = [jnp.array(each) for each in (black, rare, rarer)]
    state = jnp.array(spins), jax.random.key(0)

    def step() -> Any:
        nonlocal state
        state, mean = compiled(state, *others)
        return mean

    return step


def plain_torch(spins: Any, black: Any, rare: Any, rarer: Any) -> Step:
    import torch

    spins, black, rare, rarer = (torch.tensor(each) for each in (spins, black, rare, rarer))

    def step() -> Any:
        for _ in range(TOGETHER):
            numbers = torch.rand(spins.shape)
            for points in (black, ~black):
                aligned = spins * neighbours(torch.roll, spins)
                chance = torch.where(aligned > 3, rarer, torch.where(aligned > 1, rare, 1.0))
                spins.mul_(1 - 2.0 * ((numbers < chance) & points))
            mean = spins.mean((1, 2))
        return mean[0]

    return step


def plain_tensorflow(spins: Any, black: Any, rare: Any, rarer: Any) -> Step:
    import tensorflow as tf

    rng, spins = tf.random.Generator.from_seed(0), tf.Variable(spins)
    black, rare, rarer = (tf.constant(each) for each in (black, rare, rarer))

    @tf.function  # type: ignore[untyped-decorator]  # the library ships no types
    def step() -> Any:
        mean = tf.constant(0.0)
        for _ in tf.range(TOGETHER):
            numbers = rng.uniform(spins.shape)
            for points in (black, ~black):
                now = spins.read_value()
                aligned = now * neighbours(tf.roll, now)
                chance = tf.where(aligned > 3, rarer, tf.where(aligned > 1, rare, 1.0))
                spins.assign(tf.where((numbers < chance) & points, -now, now))
            mean = tf.reduce_mean(spins, (1, 2))[0]
        return mean

    return step  # type: ignore[no-any-return]  # the library ships no types


PLAIN: dict[str, tuple[str, Callable[..., Step]]] = {
    "numpy": ("NumPy, in place", plain_numpy),
    "jax": ("jax.random and lax.scan in jax.jit", plain_jax),
    "torch": ("torch, in place", plain_torch),
    "tensorflow": ("a loop in tf.function", plain_tensorflow),
}

# -- the command ---------------------------------------------------------------------------------------------------


def draw(file: Any, backend: str, size: int, sweeps: int, seed: int, found: dict[float, float]) -> None:
    """Spins at three temperatures, and the magnetisation at many."""
    many = np.unique(np.round([*np.linspace(1.5, 3.2, 18), *found], 2))
    model = Ising(backend, size, many.tolist(), seed)
    simulate(model, sweeps)
    with picture(file, 6.4, 2.2) as figure:
        *lattices, curve = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.5])
        for axes, temperature in zip(lattices, found, strict=True):
            spins = model.spins.value[int(np.argmin(np.abs(many - temperature)))]
            axes.imshow(np.asarray(spins), cmap="gray", interpolation="nearest")
            axes.set(title=f"T = {temperature}", xticks=(), yticks=())
        fine = np.linspace(many[0], many[-1], 400)
        curve.plot(fine, [exact(each) for each in fine], label="exact")
        curve.plot(many, model.magnetisation(), "o", markersize=3, label="simulated")
        curve.set(xlabel="temperature T", title="magnetisation")
        curve.legend(loc="upper right")


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    command = parser(__doc__, steps=2000)
    command.add_argument("--size", default=64, type=int, help="points on each side of a lattice")
    command.add_argument("--resume", metavar="FOLDER", help="keep checkpoints there, and go on from the newest")
    command.add_argument("--every", default=100, type=int, help="sweeps from one checkpoint to the next")
    options = command.parse_args(arguments)
    backend, size, seed = options.backend, options.size, options.seed
    model = Ising(backend, size, TEMPERATURES, seed)
    simulate(model, options.steps, options.resume, options.every)
    found = dict(zip(TEMPERATURES, model.magnetisation().tolist(), strict=True))
    for temperature, magnetisation in found.items():
        print(f"{backend}: T = {temperature}: magnetisation {magnetisation:.4f}, exact {exact(temperature):.4f}")
    name, make = PLAIN[backend]
    plain = make(model.spins.numpy().copy(), checkerboard(size), *chances(TEMPERATURES))
    compare(f"{backend}: {TOGETHER} sweeps", lambda: model.advance()[-1, 0], {name: plain}, options.rounds)
    if options.picture:
        draw(options.picture, backend, size, options.steps, seed, found)
    return {f"T = {temperature}": each for temperature, each in found.items()}


if __name__ == "__main__":
    run(main)
