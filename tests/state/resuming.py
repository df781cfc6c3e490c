"""Programs that train with a `CheckpointManager`, for a test that kills them. Run as a program, it kills itself.

To add a library, write a function that returns the model and what does one step with it, and add it to PROGRAMS.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import statevar as sv

STEPS = 12
EVERY = 3  # steps from save to save
KILLED = 8  # in the middle of this step

#: Makes a model, and a function that does one step and calls what it gets in the middle of it.
Program = Callable[[], tuple[Any, Callable[[Callable[[], None]], None]]]


def torch() -> tuple[Any, Callable[[Callable[[], None]], None]]:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    plan = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9)
    noise = torch.Generator().manual_seed(3)

    def step(middle: Callable[[], None]) -> None:
        optimizer.zero_grad()
        net(torch.randn(8, 3, generator=noise)).square().mean().backward()
        optimizer.step()
        middle()
        plan.step()

    return {"net": net, "optimizer": optimizer, "plan": plan, "noise": noise}, step


def keras() -> tuple[Any, Callable[[Callable[[], None]], None]]:
    """A model of Keras, whose trainer donates what it finds on JAX. Dropout has a seed generator."""
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(4),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(1),
    ]
    net = keras.Sequential([keras.layers.Input((3,)), *layers])
    net.compile(keras.optimizers.AdamW(0.1), "mse")
    noise = np.random.default_rng(3)

    def step(middle: Callable[[], None]) -> None:
        x = noise.normal(size=(8, 4)).astype(np.float32)
        net.fit(x[:, :3], x[:, 3:], batch_size=4, shuffle=False, verbose=0)
        middle()

    return {"net": net, "noise": noise}, step


def flax() -> tuple[Any, Callable[[Callable[[], None]], None]]:
    """A model of nnx, whose compiled step takes the memory of what it gets."""
    import optax as updates
    from flax import nnx

    rngs = nnx.Rngs(0, noise=3)
    layers = [nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)]
    net = nnx.Sequential(*layers, nnx.Linear(4, 1, rngs=rngs))
    optimizer = nnx.Optimizer(net, updates.adamw(0.1), wrt=nnx.Param)

    def update(net: Any, optimizer: Any, rngs: Any) -> None:
        x = rngs.noise.normal((8, 3))
        optimizer.update(net, nnx.grad(lambda net: (net(x) ** 2).mean())(net))

    compiled = nnx.jit(update, donate_argnums=(0, 1, 2))

    def step(middle: Callable[[], None]) -> None:
        compiled(net, optimizer, rngs)
        middle()

    return {"net": net, "optimizer": optimizer, "rngs": rngs}, step


def optax() -> tuple[Any, Callable[[Any], Any]]:
    """Parameters, a state and a key that each step replaces; the step destroys what it gets."""
    import jax
    import optax as updates

    adam = updates.adamw(0.1)
    params = {"w": jax.numpy.ones((3, 2)), "b": jax.numpy.zeros(2)}

    def step(state: Any) -> Any:
        params, inner, key = state
        key, now = jax.random.split(key)
        x = jax.random.normal(now, (8, 3))
        gradients = jax.grad(lambda params: ((x @ params["w"] + params["b"]) ** 2).mean())(params)
        change, inner = adam.update(gradients, inner, params)
        return updates.apply_updates(params, change), inner, key

    return (params, adam.init(params), jax.random.key(3)), jax.jit(step, donate_argnums=0)


PROGRAMS: dict[str, Any] = {"torch": torch, "keras": keras, "flax": flax, "optax": optax}


def run(program: Program, folder: Path, killed: int | None = None) -> dict[str, bytes]:
    """Trains to the end, from the last save in a folder if there is one; returns all state as bytes."""
    if program is optax:
        return run_functional(folder, killed)
    model, step = program()
    steps = sv.Variable(0, trainable=False)
    with sv.CheckpointManager(folder, {"model": model, "steps": steps}, keep=2) as manager:
        manager.restore()
        while (number := int(steps)) < STEPS:
            step(_kill if number == killed else _go_on)
            steps.assign_add(1)
            if int(steps) % EVERY == 0:
                manager.save(int(steps))
    return bytes_in(model)


def run_functional(folder: Path, killed: int | None) -> dict[str, bytes]:
    """As `run`, for a loop whose state is a new tree after each step."""
    state, step = optax()
    with sv.CheckpointManager(folder, keep=2) as manager:
        found = manager.restore(like=(0, state))
        number, state = (0, state) if found is None else found
        while number < STEPS:
            state = step(state)
            (_kill if number == killed else _go_on)()
            number += 1
            if number % EVERY == 0:
                manager.save(number, state=(number, state))
    return bytes_in(sv.view(state))


def bytes_in(model: Any) -> dict[str, bytes]:
    """All state, of random keys their numbers."""
    with TemporaryDirectory() as name:
        sv.save(model, Path(name) / "x.safetensors")
        with sv.load(Path(name) / "x.safetensors") as saved:
            return {path: saved[path].tobytes() for path in saved}


def _go_on() -> None:
    pass


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    name, folder, end = sys.argv[1:]
    state = run(PROGRAMS[name], Path(folder), KILLED if end == "killed" else None)
    print(*(f"{path} {sha256(data).hexdigest()}" for path, data in state.items()), sep="\n")
