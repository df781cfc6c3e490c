"""The optimizers that people have, on variables of each library: optax, torch.optim, Keras' and TensorFlow's own.

    python examples/library_optimizers.py
    python examples/library_optimizers.py --backend torch --steps 500

Each trains the same logistic regression by gradient descent with momentum, and prints the same loss. An optimizer that
changes objects in place gets the object that it knows, ``v.parameter``; optax, which returns new values, gets values.
Either way the variable is the one place where the weights are: reads, checkpoints and other threads see every step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import statevar as sv

EXAMPLES, FEATURES = 256, 8
RATE, MOMENTUM = 0.5, 0.9


class Model:
    """Logistic regression, and the data it is trained on."""

    def __init__(self, backend: str, seed: int = 0) -> None:
        self.kernel = sv.Variable("zeros", (FEATURES, 1), name="kernel", backend=backend)
        self.bias = sv.Variable("zeros", (), name="bias", backend=backend)
        self.weights = [self.kernel, self.bias]
        self.xp = sv.namespace(self.kernel)
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(EXAMPLES, FEATURES)).astype("float32")
        noise = rng.logistic(size=(EXAMPLES, 1))
        y = np.where(x @ rng.normal(size=(FEATURES, 1)) + 0.5 + noise > 0, 1, -1).astype("float32")
        self.x, self.y = (self.xp.asarray(each, device=self.kernel.device) for each in (x, y))

    def loss(self) -> Any:
        margins = self.y * (self.x @ self.kernel + self.bias)
        return self.xp.mean(self.xp.log1p(self.xp.exp(-margins)))


# -- NumPy: no optimizer, so written out -------------------------------------------------------------------------


def by_hand(model: Model, steps: int) -> None:
    """Runs on every library: `sv.value_and_grad` and writes. Here momentum is a variable like any other."""
    momenta = [sv.Variable("zeros", each.shape, backend=each.backend, trainable=False) for each in model.weights]

    @sv.jit
    def step() -> None:
        _, gradients = sv.value_and_grad(model.loss, model.weights)()
        for weight, momentum, gradient in zip(model.weights, momenta, gradients, strict=True):
            momentum.assign(MOMENTUM * momentum + gradient)
            weight.assign_sub(RATE * momentum)

    for _ in range(steps):
        step()


# -- JAX: optax, which is pure functions of values -----------------------------------------------------------------


def optax_in_variables(model: Model, steps: int) -> None:
    """What optax remembers is in variables, beside the weights; one compiled step writes both in place."""
    import jax
    import optax

    optimizer = optax.sgd(RATE, MOMENTUM)
    leaves, form = jax.tree.flatten(optimizer.init([each.value for each in model.weights]))
    state = [sv.Variable(leaf, trainable=False) for leaf in leaves]

    @sv.jit
    def step() -> None:
        _, gradients = sv.value_and_grad(model.loss, model.weights)()
        remembered = jax.tree.unflatten(form, [each.value for each in state])
        updates, remembered = optimizer.update(gradients, remembered, [each.value for each in model.weights])
        for weight, update in zip(model.weights, updates, strict=True):
            weight.assign_add(update)
        for each, value in zip(state, jax.tree.leaves(remembered), strict=True):
            each.assign(value)

    for _ in range(steps):
        step()


def optax_as_argument(model: Model, steps: int) -> None:
    """What optax remembers is passed in and returned, as optax's own examples do."""
    import optax

    optimizer = optax.sgd(RATE, MOMENTUM)
    state = optimizer.init([each.value for each in model.weights])

    @sv.jit
    def step(state: Any) -> Any:
        _, gradients = sv.value_and_grad(model.loss, model.weights)()
        updates, state = optimizer.update(gradients, state, [each.value for each in model.weights])
        for weight, update in zip(model.weights, updates, strict=True):
            weight.assign_add(update)
        return state

    for _ in range(steps):
        state = step(state)


# -- torch: torch.optim, which changes parameters in place -----------------------------------------------------------


def torch_optim(model: Model, steps: int) -> None:
    """The loop of every torch program."""
    import torch

    optimizer = torch.optim.SGD([each.parameter for each in model.weights], RATE, MOMENTUM)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss().backward()
        optimizer.step()


# -- TensorFlow: Keras' optimizers and TensorFlow's own, which change a tf.Variable ----------------------------------


def keras_optimizer(model: Model, steps: int) -> None:
    """The parameter is the ``tf.Variable`` itself, which Keras, running on TensorFlow, takes as one of its own."""
    import keras

    optimizer = keras.optimizers.SGD(RATE, MOMENTUM)
    parameters = [each.parameter for each in model.weights]
    for _ in range(steps):
        _, gradients = sv.value_and_grad(model.loss, model.weights)()
        optimizer.apply(gradients, parameters)


def tensorflow_optimizer(model: Model, steps: int) -> None:
    """With TensorFlow's tape: reading a trainable variable is seen by it."""
    import tensorflow as tf

    optimizer = tf.compat.v1.train.MomentumOptimizer(RATE, MOMENTUM)
    parameters = [each.parameter for each in model.weights]
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = model.loss()
        optimizer.apply_gradients(zip(tape.gradient(loss, parameters), parameters, strict=True))


TRAINERS: dict[str, dict[str, Callable[[Model, int], None]]] = {
    "numpy": {"by hand": by_hand},
    "jax": {"optax, state in variables": optax_in_variables, "optax, state as argument": optax_as_argument},
    "torch": {"torch.optim": torch_optim},
    "tensorflow": {"keras.optimizers": keras_optimizer, "tf.compat.v1.train": tensorflow_optimizer},
}


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description="Trains by the optimizers of each library.")
    parser.add_argument("--backend", choices=list(TRAINERS), help="one only; all that are installed by default")
    parser.add_argument("--steps", default=100, type=int)
    options = parser.parse_args(arguments)
    losses = {}
    for backend in [options.backend] if options.backend else TRAINERS:
        for name, trainer in TRAINERS[backend].items():
            label = f"{backend}, {name}"
            try:
                model = Model(backend)
                trainer(model, options.steps)
            except (ModuleNotFoundError, sv.errors.BackendNotInstalledError) as error:
                if options.backend:
                    raise
                print(f"{label}: {error}")
                continue
            losses[label] = float(sv.Variable(model.loss()))  # a variable keeps the value, not how it was computed
            print(f"{label}: loss {losses[label]:.6f} after {options.steps} steps")
    return losses


if __name__ == "__main__":
    main()
