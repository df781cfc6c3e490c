"""The public suite for the state of other libraries, on objects of flax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from statevar.testing import StateSuite


def host(array: Any) -> Any:
    """A value that JAX has, as NumPy has it; for keys, their numbers."""
    jax = pytest.importorskip("jax")
    is_key = jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)


class _OfFlax(StateSuite):
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        self.jax: Any = pytest.importorskip("jax")
        self.nnx: Any = pytest.importorskip("flax.nnx")

    def read(self, thing: Any) -> dict[str, Any]:
        """All variables of `nnx.state`, by the keys that nnx gives, each once."""
        found = {}
        for part, each in thing.items():
            for path, variable in self.nnx.to_flat_state(self.nnx.state(each)):
                found["/".join(map(str, (part, *path)))] = host(variable.get_value())
        return found


class TestModulesOfNnx(_OfFlax):
    """Layers in lists, statistics of a batch, a shared layer, generators of random numbers."""

    counts = (8, 2000)

    def make(self) -> Any:
        nnx = self.nnx
        rngs = nnx.Rngs(0, noise=1)
        layers = [nnx.Linear(2, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)]
        net = nnx.Sequential(*layers, nnx.Linear(3, 3, rngs=rngs))
        net.layers.append(net.layers[3])
        thing = {"net": net, "rngs": rngs}
        self.change(thing)
        return thing

    def change(self, thing: Any) -> None:
        thing["net"](thing["rngs"].noise.normal((4, 2)))
        for _, each in self.nnx.to_flat_state(self.nnx.state(thing["net"], self.nnx.Param)):
            each[...] += 0.5
        params = self.nnx.state(thing["net"], self.nnx.Param)
        self.nnx.update(thing["net"], self.jax.tree.map(lambda x: x + 0.5, params))


class TestTrainingOfNnx(_OfFlax):
    """A model and its optimizer, round a compiled step."""

    donate: tuple[int, ...] = ()

    def make(self) -> Any:
        nnx = self.nnx
        optax = pytest.importorskip("optax")
        net = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(1)))
        thing = {"net": net, "opt": nnx.Optimizer(net, optax.adam(0.1), wrt=nnx.Param), "rngs": nnx.Rngs(2)}
        self.change(thing)
        return thing

    def change(self, thing: Any) -> None:
        nnx = self.nnx
        if not hasattr(self, "step"):
            jnp = self.jax.numpy

            def step(net: Any, opt: Any, rngs: Any) -> None:
                x = rngs.normal((4, 2))
                opt.update(net, nnx.grad(lambda net: jnp.square(net(x)[:, :2] - x).sum())(net))

            self.step: Any = nnx.jit(step, donate_argnums=self.donate)
        self.step(thing["net"], thing["opt"], thing["rngs"])


class TestDonatedTrainingOfNnx(TestTrainingOfNnx):
    """A step that destroys the arrays that the model had before."""

    donate = (0, 1, 2)


class TestVariablesOfNnx(_OfFlax):
    """What else a variable may hold: a reference, a tree, a number; and arrays in attributes."""

    def make(self) -> Any:
        nnx, jnp = self.nnx, self.jax.numpy

        class Cache(nnx.Module):  # type: ignore[misc,name-defined]  # the class is known only here
            def __init__(self) -> None:
                self.ref = nnx.Param(jnp.ones(3), ref=True)
                self.tree = nnx.Cache({"keys": jnp.zeros((2, 2)), "pair": (jnp.ones(2), 0)})
                self.count = nnx.Variable(0)
                self.plain = jnp.ones(2)

        return Cache()

    def change(self, thing: Any) -> None:
        thing.ref[...] += 1
        keys, (pair, count) = thing.tree.get_value().values()
        thing.tree.set_value({"keys": keys + 1, "pair": (pair * 2, count + 1)})
        thing.count.set_value(thing.count.get_value() + 1)
        thing.plain = thing.plain + 1

    def read(self, thing: Any) -> dict[str, Any]:
        keys, (pair, count) = thing.tree.get_value().values()
        found = {"ref": thing.ref.get_value(), "tree/keys": keys, "tree/pair/0": pair, "plain": thing.plain}
        numbers = {"tree/pair/1": count, "count": thing.count.get_value()}
        return {name: host(each) for name, each in found.items()} | {k: np.int64(v) for k, v in numbers.items()}


class TestStatesOfNnx(_OfFlax):
    """A state that was split from its module, with variables and with arrays."""

    def make(self) -> Any:
        nnx = self.nnx
        state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
        return {"pure": nnx.as_pure(nnx.state(nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0))]))), "state": state}

    def change(self, thing: Any) -> None:
        thing["pure"][0]["kernel"] = thing["pure"][0]["kernel"] + 1
        thing["state"]["bias"][...] += 1

    def read(self, thing: Any) -> dict[str, Any]:
        state = {f"state/{name}": host(each.get_value()) for name, each in thing["state"].items()}
        return state | {f"pure/0/{name}": host(each) for name, each in thing["pure"][0].items()}
