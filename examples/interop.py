"""Fine-tunes a net of PyTorch, is killed, goes on, moves the net to JAX (flax.nnx), and goes on training there.

    python examples/interop.py
    python examples/interop.py --steps 100

No line of the training is statevar's: the modules, the optimizers and the generators of random numbers are those of the
libraries. statevar keeps their state. One `CheckpointManager` has the net, the optimizer and the generator, so training
goes on from a checkpoint bit for bit. And `sv.load` moves the weights and the averages of the optimizer to the other
library, by rules that know the layers of both.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import statevar as sv

HELD_OUT, BATCH, CHANNELS, RATE = 360, 64, 16, 3e-3

#: The flatten before the last layer goes through the channels first on torch, and last on JAX. Only the model knows.
FLATTEN = ("*/out/weight", "*/out/kernel", "o (c h w) -> (h w c) o", {"h": 4, "w": 4})


def digits() -> tuple[Any, ...]:
    """Pictures of handwritten digits, 8 by 8 with one channel, and what they show: to learn from, and held out."""
    pictures, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = pictures[order].reshape(-1, 8, 8, 1).astype("float32") / 16, labels[order].astype("int64")
    return x[HELD_OUT:], y[HELD_OUT:], x[:HELD_OUT], y[:HELD_OUT]


# -- PyTorch -----------------------------------------------------------------------------------------------------------


class OnTorch:
    """A convolution and a linear layer, an optimizer and a generator."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        torch.manual_seed(0)
        self.net = torch.nn.Sequential()
        self.net.add_module("conv", torch.nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1))
        self.net.add_module("relu", torch.nn.ReLU())
        self.net.add_module("flatten", torch.nn.Flatten())
        self.net.add_module("out", torch.nn.Linear(CHANNELS * 4 * 4, 10))
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=RATE)
        self.noise = torch.Generator().manual_seed(1)
        #: What a checkpoint has: no list of names, no state_dict.
        self.model = {"net": self.net, "opt": self.opt, "noise": self.noise}

    def train(self, x: Any, y: Any, steps: int) -> None:
        torch = self.torch
        pictures, labels = torch.from_numpy(x).movedim(3, 1), torch.from_numpy(y)
        for _ in range(steps):
            chosen = torch.randint(len(x), (BATCH,), generator=self.noise)
            self.opt.zero_grad()
            torch.nn.functional.cross_entropy(self.net(pictures[chosen]), labels[chosen]).backward()
            self.opt.step()

    def scores(self, x: Any) -> Any:
        with self.torch.no_grad():
            return self.net(self.torch.from_numpy(x).movedim(3, 1)).numpy()


# -- JAX ---------------------------------------------------------------------------------------------------------------


class OnJax:
    """The same layers, optimizer and generator, as flax.nnx and optax have them."""

    def __init__(self) -> None:
        import jax
        import optax
        from flax import nnx

        class Net(nnx.Module):  # type: ignore[misc,unused-ignore]  # flax may not be installed
            def __init__(self, rngs: Any) -> None:
                self.conv = nnx.Conv(1, CHANNELS, (3, 3), strides=2, padding=1, rngs=rngs)
                self.out = nnx.Linear(CHANNELS * 4 * 4, 10, rngs=rngs)

            def __call__(self, x: Any) -> Any:
                h = nnx.relu(self.conv(x))
                return self.out(h.reshape(len(h), -1))

        def step(net: Any, opt: Any, x: Any, y: Any) -> None:
            def loss(net: Any) -> Any:
                return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()

            opt.update(net, nnx.grad(loss)(net))

        self.net = Net(nnx.Rngs(0))
        # torch's defaults, which are not those of optax
        self.opt = nnx.Optimizer(self.net, optax.adamw(RATE, eps=1e-8, weight_decay=1e-2), wrt=nnx.Param)
        self.noise = nnx.Rngs(2)
        self.model = {"net": self.net, "opt": self.opt, "noise": self.noise}
        self._step = nnx.jit(step)
        self._choose = jax.random.randint

    def train(self, x: Any, y: Any, steps: int) -> None:
        for _ in range(steps):
            chosen = np.asarray(self._choose(self.noise(), (BATCH,), 0, len(x)))
            self._step(self.net, self.opt, x[chosen], y[chosen])

    def scores(self, x: Any) -> Any:
        return np.asarray(self.net(x))


# -- the program -------------------------------------------------------------------------------------------------------


def accuracy(scores: Any, y: Any) -> float:
    return float(np.mean(scores.argmax(1) == y))


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description="Trains on PyTorch, and goes on with JAX.")
    parser.add_argument("--steps", default=40, type=int, help="steps of each of the three parts")
    parser.add_argument("--folder", help="where the checkpoints go; a temporary folder by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        return run(options.steps, Path(options.folder or temporary))


def run(steps: int, folder: Path) -> dict[str, float]:
    x, y, held_out, shown = digits()
    found = {}

    def report(name: str, scores: Any) -> None:
        found[name] = accuracy(scores, shown)
        print(f"{name}: {found[name]:.1%} of {HELD_OUT} held-out digits")

    # 1. Train on torch. The checkpoint has the net, the optimizer and the generator.
    first = OnTorch()
    with sv.CheckpointManager(folder / "torch", first.model) as manager:
        first.train(x, y, steps)
        manager.save(steps)
        report("torch", first.scores(held_out))
        first.train(x, y, steps)  # and then the process is killed

    # 2. Another process makes the same objects anew, and goes on from the checkpoint.
    again = OnTorch()
    with sv.CheckpointManager(folder / "torch", again.model) as manager:
        manager.restore()
        again.train(x, y, steps)
        manager.save(2 * steps)
    found["differences"] = float(np.abs(again.scores(held_out) - first.scores(held_out)).max())
    report("torch, from the checkpoint", again.scores(held_out))
    print(f"  differs from the program that was not killed by {found['differences']}")

    # 3. JAX loads the weights and the state of the optimizer, from the objects of torch.
    moved = OnJax()
    source = {"net": again.net, "opt": again.opt}
    loaded = sv.load({"net": moved.net, "opt": moved.opt}, source, rules=sv.rules("torch", "nnx", FLATTEN))
    found["moved"] = float(np.abs(moved.scores(held_out) - again.scores(held_out)).max())
    report("JAX, before a step", moved.scores(held_out))
    print(f"  {len(loaded.loaded)} arrays moved; the scores differ by {found['moved']:.1e}")

    # 4. Training goes on, with a manager for the same three things.
    with sv.CheckpointManager(folder / "jax", moved.model) as manager:
        moved.train(x, y, steps)
        manager.save(3 * steps)
        report("JAX, trained on", moved.scores(held_out))
        moved.train(x, y, 1)
        manager.restore()
    report("JAX, from the checkpoint", moved.scores(held_out))
    return found


if __name__ == "__main__":
    main()
