"""What the recipes cost, beside plain programs and beside flax's nnx.

Run ``python benchmarks/bench_recipes.py``, some minutes; ``--only REGEX`` for the sections (training, recipes) in whose
name it is found. The first table is a training step of a network of three layers with Adam, by `Adam` of
examples/optimizers.py. The second one is what each recipe prints of itself, each in a process of its own. Nothing is
asserted: a busy machine gives other figures.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from bench_variable import machine, set_environment
from harness import Case, Contender, Names, Race, Target, Workers, load, row, table_head

EXAMPLES = Path(__file__).parents[1] / "examples"
RECIPES = ("optimizers", "kalman", "wave_equation", "batch_norm", "word_vectors")
#: What a recipe is given, so that it soon comes to the measure; and what it cannot do with a library's compiler.
FEW = {"wave_equation": ("--steps=30",)}
EAGER = {("kalman", "torch")}
PLAIN = {"numpy": "by hand", "jax": "jax.jit and optax", "torch": "torch.optim", "tensorflow": "tf.function and Keras"}
INPUTS, OUTPUTS, BATCH, RATE = 64, 10, 64, 1e-3
HIDDEN = (16, 128)  # in a small network a step is mostly the way to the compiled program

# -- a network with Adam -------------------------------------------------------------------------------------------


def _data(sizes: tuple[int, ...]) -> tuple[Any, Any, list[Any]]:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(BATCH, size)).astype("float32") for size in (INPUTS, OUTPUTS))
    kernels = [(0.1 * rng.normal(size=shape)).astype("float32") for shape in pairwise(sizes)]
    return x, y, kernels + [np.zeros(size, "float32") for size in sizes[1:]]


def _loss(xp: Any, weights: Any, x: Any, y: Any) -> Any:
    """Three kernels, and then three biases."""
    for kernel, bias in zip(weights[:2], weights[3:5], strict=True):
        x = xp.tanh(x @ kernel + bias)
    error = x @ weights[2] + weights[5] - y
    return xp.mean(error * error)


def open_names(worker: str, size: int) -> Names:
    """The names of one worker, with hidden layers of so many units: `step` is ours, `raw` the plain one."""
    library, sizes = worker, (INPUTS, size, size, OUTPUTS)
    x, y, values = _data(sizes)
    if library == "flax":
        return _flax(x, y, sizes)
    sys.path.append(str(EXAMPLES))
    from optimizers import Adam

    import statevar as sv

    weights = [sv.Variable(each, backend=library) for each in values]
    optimizer = Adam(weights, RATE)
    xp = weights[0].__array_namespace__()
    x, y = xp.asarray(x), xp.asarray(y)

    def eager(x: Any, y: Any) -> Any:
        loss, gradients = sv.value_and_grad(lambda: _loss(xp, weights, x, y), weights)()
        optimizer.apply(weights, gradients)
        return loss

    return {"x": x, "y": y, "eager": eager, "step": sv.jit(eager), "raw": _RAW[library](values, x, y)}


def _numpy(values: Any, x: Any, y: Any) -> Any:
    from optimizers import plain_numpy

    step = plain_numpy(values, x, y)
    return lambda x, y: step()


def _jax(values: Any, x: Any, y: Any) -> Any:
    import jax
    import optax

    optimizer = optax.adam(RATE)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(weights: Any, state: Any, x: Any, y: Any) -> Any:
        loss, gradients = jax.value_and_grad(lambda weights: _loss(jax.numpy, weights, x, y))(weights)
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    weights = [jax.numpy.array(each) for each in values]
    held = [weights, optimizer.init(weights)]

    def raw(x: Any, y: Any) -> Any:
        *held[:], loss = step(*held, x, y)
        return loss

    return raw


def _torch(values: Any, x: Any, y: Any) -> Any:
    import torch

    parameters = [torch.nn.Parameter(torch.tensor(each)) for each in values]
    optimizer = torch.optim.Adam(parameters, RATE)

    def raw(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = _loss(torch, parameters, x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return raw


def _tensorflow(values: Any, x: Any, y: Any) -> Any:
    import keras
    import tensorflow as tf

    variables = [tf.Variable(each) for each in values]
    optimizer = keras.optimizers.Adam(RATE)
    optimizer.build(variables)

    @tf.function  # type: ignore[untyped-decorator]  # the library ships no types
    def raw(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            for kernel, bias in zip(variables[:2], variables[3:5], strict=True):
                x = tf.tanh(x @ kernel + bias)
            loss = tf.reduce_mean((x @ variables[2] + variables[5] - y) ** 2)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return raw


_RAW = {"numpy": _numpy, "jax": _jax, "torch": _torch, "tensorflow": _tensorflow}


def _flax(x: Any, y: Any, sizes: tuple[int, ...]) -> Names:
    import jax.numpy as jnp
    import optax
    from flax import nnx

    class Network(nnx.Module):  # type: ignore[misc]  # flax is not installed where this is checked
        def __init__(self) -> None:
            self.layers = nnx.List([nnx.Linear(*shape, rngs=nnx.Rngs(0)) for shape in pairwise(sizes)])

        def __call__(self, x: Any) -> Any:
            for layer in self.layers[:2]:
                x = jnp.tanh(layer(x))
            return self.layers[2](x)

    model = Network()
    optimizer = nnx.Optimizer(model, optax.adam(RATE), wrt=nnx.Param)

    @nnx.jit  # type: ignore[untyped-decorator]  # the library ships no types
    def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        loss, gradients = nnx.value_and_grad(lambda model: jnp.mean((model(x) - y) ** 2))(model)
        optimizer.update(model, gradients)
        return loss

    return {"x": jnp.array(x), "y": jnp.array(y), "step": lambda x, y: step(model, optimizer, x, y)}


def cases() -> list[Case]:
    wait = "float(loss)"

    def contender(label: str, worker: str, name: str) -> Contender:
        return Contender(label, worker, f"loss = {name}(x, y)", wait)

    peers = {"jax": (contender("nnx.jit and nnx.Optimizer", "flax", "step"),)}
    return [
        Case(
            f"Adam, {hidden} hidden units, beside {label}",
            library,
            hidden,
            contender("statevar, sv.jit", library, "step"),
            contender(label, library, "raw"),
            (contender("statevar, not compiled", library, "eager"), *peers.get(library, ())),
            Target(1.1, "ratio") if library == "jax" else None,
        )
        for hidden in HIDDEN
        for library, label in PLAIN.items()
    ]


def training(rounds: int) -> None:
    found = cases()
    workers = Workers(sorted({each.worker for case in found for each in case.contenders}), open_names)
    for name, problem in workers.missing.items():
        print(f"\nNot measured: {name} ({problem})")
    print(f"\n### A training step\n\n{table_head()}", flush=True)
    size = 0
    for case in found:
        if case.size != size:
            workers.open(size := case.size)
        if case.ours.worker in workers:
            race = Race(case, workers)
            race.run(rounds, 0.01, 30)
            print(row(race.result()), flush=True)
    workers.close()


# -- the recipes ---------------------------------------------------------------------------------------------------


def recipes(rounds: int) -> None:
    print("\n### Recipes\n\n| recipe | on | time | beside |\n|---|---|---|---|", flush=True)
    for name in RECIPES:
        for library in ("numpy", "jax", "torch", "tensorflow"):
            options = [*FEW.get(name, ("--steps=3",)), *["--eager"] * ((name, library) in EAGER)]
            command = [
                sys.executable,
                str(EXAMPLES / f"{name}.py"),
                f"--backend={library}",
                f"--rounds={rounds}",
                *options,
            ]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            if ran.returncode:
                print(f"| {name} | {library} | failed: {ran.stderr.strip().splitlines()[-1][:200]} | |", flush=True)
                continue
            found = re.fullmatch(r"\w+: (.+): ([\d.]+ \S+), (.+)", ran.stdout.splitlines()[-1])
            assert found is not None
            print(f"| {name}: {found[1]} | {library} | {found[2]} | {found[3]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="REGEX", help="to find in training, recipes")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    set_environment(1)
    print(machine(1))
    for section in (training, recipes):
        if re.search(options.only, section.__name__):
            section(options.rounds)
    print(f"\nLoad {load()} at the end.")


if __name__ == "__main__":
    main()
