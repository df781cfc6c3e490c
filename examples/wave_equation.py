"""The wave equation on a membrane, by `sv.scan`: a wave passes two slits in a wall.

    python examples/wave_equation.py
    python examples/wave_equation.py --backend jax --size 400 --picture field.png

The leapfrog method: the height and the velocity of every point are two variables, which are changed in place by turns.
What is conserved, it conserves to rounding errors; the program prints how well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from recipe import Step, array_like, compare, parser, picture, run

import statevar as sv

TIME_STEP = 0.5  # the largest that is stable in two dimensions is 0.7: a wave goes one point in one unit of time
TOGETHER = 10  # steps in one call of the compiled function


def walls(size: int) -> np.ndarray[Any, Any]:
    """1 where the membrane can move, 0 at the edges and on a wall with two slits."""
    free = np.ones((size, size), "float32")
    free[[0, -1]], free[:, [0, -1]] = 0, 0
    wall, middle, distance, width = size // 3, size // 2, max(2, size // 9), max(1, size // 70)
    free[:, wall] = 0
    for slit in (middle - distance, middle + distance):
        free[slit - width : slit + width + 1, wall] = 1
    return free


class Membrane(sv.Module):
    """Heights and velocities on a square grid. Waves are reflected where nothing moves."""

    def __init__(self, backend: str, size: int):
        free, from_start = walls(size), np.arange(size) / size - 0.17
        front = np.cos(110 * from_start) * np.exp(-((18 * from_start) ** 2))
        state = partial(sv.Variable, backend=backend, trainable=False, dtype="float32")
        self.height = state(front * free, name="height")
        self.velocity = state(-np.gradient(front) * free, name="velocity")  # so the wave goes to the right
        self.xp = sv.namespace(self.height)
        self.free = array_like(self.height, free)

    def energy(self) -> Any:
        """Kinetic and potential energy, of moments half a step apart: the leapfrog method conserves this sum."""
        xp, height = self.xp, self.height.value
        before = height - TIME_STEP * self.velocity
        bends = [(height - xp.roll(height, 1, axis=axis)) * (before - xp.roll(before, 1, axis=axis)) for axis in (0, 1)]
        return 0.5 * xp.sum(self.velocity**2 + bends[0] + bends[1])

    def leap(self) -> None:
        """One step of time."""
        self.velocity.assign_add(TIME_STEP * self.free * laplacian(self.xp, self.height.value))
        self.height.assign_add(TIME_STEP * self.velocity)

    @sv.jit
    def advance(self) -> Any:
        """Several steps; returns the energy after each."""

        def body(carry: Any, _: Any) -> tuple[Any, Any]:
            self.leap()
            return carry, self.energy()

        return sv.scan(body, None, length=TOGETHER)[1]


def laplacian(xp: Any, height: Any) -> Any:
    """How much higher the four neighbours of each point are. The edges, which do not move, meet nobody's neighbour."""
    neighbours = sum(xp.roll(height, shift, axis=axis) for axis in (0, 1) for shift in (1, -1))
    return neighbours - 4 * height


# -- the plain programs, which the speed is compared with ------------------------------------------------------------


def energy_of(xp: Any, height: Any, velocity: Any) -> Any:
    before = height - TIME_STEP * velocity
    bends = [(height - xp.roll(height, 1, axis)) * (before - xp.roll(before, 1, axis)) for axis in (0, 1)]
    return 0.5 * (velocity**2 + bends[0] + bends[1]).sum()


def plain_numpy(height: Any, free: Any) -> Step:
    velocity = np.zeros_like(height)

    def advance() -> Any:
        energies = []
        for _ in range(TOGETHER):
            np.add(velocity, TIME_STEP * free * laplacian(np, height), out=velocity)
            np.add(height, TIME_STEP * velocity, out=height)
            energies.append(energy_of(np, height, velocity))
        return energies[-1]

    return advance


def plain_jax(height: Any, free: Any) -> Step:
    import jax
    import jax.numpy as jnp

    def advance(state: Any, free: Any) -> Any:
        def body(state: Any, _: Any) -> Any:
            height, velocity = state
            velocity = velocity + TIME_STEP * free * laplacian(jnp, height)
            height = height + TIME_STEP * velocity
            return (height, velocity), energy_of(jnp, height, velocity)

        return jax.lax.scan(body, state, length=TOGETHER)

    compiled = jax.jit(advance, donate_argnums=0)
    free, state = jnp.array(free), (jnp.array(height), jnp.zeros_like(height))

    def step() -> Any:
        nonlocal state
        state, energies = compiled(state, free)
        return energies[-1]

    return step


def plain_torch(height: Any, free: Any) -> Step:
    import torch

    class Numpys:  # torch names the axis in another way
        @staticmethod
        def roll(x: Any, shift: int, axis: int) -> Any:
            return torch.roll(x, shift, axis)

    height, free = torch.tensor(height), torch.tensor(free)
    velocity = torch.zeros_like(height)

    def advance() -> Any:
        for _ in range(TOGETHER):
            velocity.add_(TIME_STEP * free * laplacian(Numpys, height))
            height.add_(TIME_STEP * velocity)
            energy = energy_of(Numpys, height, velocity)
        return energy

    return advance


def plain_tensorflow(height: Any, free: Any) -> Step:
    import tensorflow as tf

    free, height = tf.constant(free), tf.Variable(height)
    velocity = tf.Variable(tf.zeros_like(height))

    @tf.function  # type: ignore[untyped-decorator]  # the library ships no types
    def advance() -> Any:
        energy = tf.constant(0.0)
        for _ in tf.range(TOGETHER):
            now = height.read_value()
            around = tf.roll(now, 1, 0) + tf.roll(now, -1, 0) + tf.roll(now, 1, 1) + tf.roll(now, -1, 1) - 4 * now
            height.assign_add(TIME_STEP * velocity.assign_add(TIME_STEP * free * around))
            now = height.read_value()
            before = now - TIME_STEP * velocity
            bends = [(now - tf.roll(now, 1, axis)) * (before - tf.roll(before, 1, axis)) for axis in (0, 1)]
            energy = 0.5 * tf.reduce_sum(velocity**2 + bends[0] + bends[1])
        return energy

    return advance  # type: ignore[no-any-return]  # the library ships no types


PLAIN: dict[str, tuple[str, Callable[[Any, Any], Step]]] = {
    "numpy": ("NumPy, in place", plain_numpy),
    "jax": ("jax.lax.scan in jax.jit", plain_jax),
    "torch": ("torch, in place", plain_torch),
    "tensorflow": ("a loop in tf.function", plain_tensorflow),
}

# -- the command ---------------------------------------------------------------------------------------------------


def draw(file: Any, size: int, heights: dict[int, Any]) -> None:
    with picture(file, 6.4, 2.4) as figure:
        for axes, (step, height) in zip(figure.subplots(1, len(heights)), heights.items(), strict=True):
            shown = np.where(walls(size) == 0, np.nan, height)
            axes.set_facecolor("0.2")
            axes.imshow(shown, cmap="RdBu", vmin=-0.3, vmax=0.3, interpolation="nearest")
            axes.set(title=f"step {step}", xticks=(), yticks=())


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    command = parser(__doc__, steps=300)
    command.add_argument("--size", default=200, type=int, help="points on each side of the membrane")
    options = command.parse_args(arguments)
    backend, size = options.backend, options.size
    membrane = Membrane(backend, size)
    energies, heights = [float(membrane.energy())], {}
    for done in range(TOGETHER, options.steps + 1, TOGETHER):
        energies.extend(np.asarray(membrane.advance()).tolist())
        if done % (options.steps // 3) < TOGETHER:
            heights[done] = membrane.height.value  # a snapshot: no later step changes it
    drift = max(abs(each / energies[0] - 1) for each in energies)
    print(f"{backend}: {options.steps} steps, energy {energies[0]:.4f}, conserved to {drift:.1e}")
    found = {"energy": energies[-1], "height": float(membrane.height.value[size // 2, size // 4])}
    name, make = PLAIN[backend]
    plain = make(membrane.height.numpy().copy(), walls(size))
    compare(f"{backend}: {TOGETHER} steps", lambda: membrane.advance()[-1], {name: plain}, options.rounds)
    if options.picture:
        draw(options.picture, size, heights)
    return found


if __name__ == "__main__":
    run(main)
