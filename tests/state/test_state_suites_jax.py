"""The public suite for the state of other libraries, on references of JAX and on arrays in trees."""

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


class _OfJAX(StateSuite):
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        self.jax: Any = pytest.importorskip("jax")


class TestReferencesOfJAX(_OfJAX):
    counts = (8, 500)

    def make(self) -> Any:
        jax = self.jax
        if not hasattr(jax, "new_ref"):
            self.skip("this JAX has no references")
        return {"ref": jax.new_ref(jax.numpy.ones((2, 3))), "key": jax.new_ref(jax.random.key(1))}

    def change(self, thing: Any) -> None:
        thing["ref"][...] += 1
        thing["key"][...] = self.jax.random.fold_in(thing["key"][...], 1)

    def read(self, thing: Any) -> dict[str, Any]:
        return {name: host(ref[...]) for name, ref in thing.items()}


class TestArraysOfJAX(_OfJAX):
    """Arrays that a compiled step replaces, and whose memory it takes."""

    plain = True
    counts = (8, 500)

    def make(self) -> Any:
        jnp = self.jax.numpy
        return {
            "w": jnp.ones((2, 3)),
            "layers": [jnp.zeros(2), {"b": jnp.ones(())}],
            "key": self.jax.random.key(1),
            "n": 3,
        }

    def change(self, thing: Any) -> None:
        if not hasattr(self, "step"):
            self.step: Any = self.jax.jit(
                lambda tree, key: (self.jax.tree.map(lambda x: x + 1, tree), self.jax.random.split(key)[0]),
                donate_argnums=(0, 1),
            )
        first, rest = thing["layers"]
        new, thing["key"] = self.step((thing["w"], first, rest["b"]), thing["key"])
        thing["w"], thing["layers"][0], rest["b"] = new
        thing["n"] += 1

    def read(self, thing: Any) -> dict[str, Any]:
        first, rest = thing["layers"]
        found = {"w": thing["w"], "layers/0": first, "layers/1/b": rest["b"], "key": thing["key"]}
        return {name: host(each) for name, each in found.items()} | {"n": np.int64(thing["n"])}


class TestStatesOfOptax(_OfJAX):
    """Its named tuples cannot change, so the state is replaced as a whole, and the averages in it are dicts."""

    plain = True

    def make(self) -> Any:
        self.optax = pytest.importorskip("optax")
        params = {"w": self.jax.numpy.ones((2, 3)), "b": self.jax.numpy.zeros(3)}
        thing = {"params": params, "opt": dict(self.optax.adam(0.1).init(params)[0]._asdict())}
        self.change(thing)
        return thing

    def change(self, thing: Any) -> None:
        adam = self.optax.adam(0.1)
        state = adam.init(thing["params"])
        state = (type(state[0])(**thing["opt"]), *state[1:])
        gradients = self.jax.tree.map(lambda x: x + 1, thing["params"])
        updates, state = adam.update(gradients, state)
        thing["params"].update(self.optax.apply_updates(thing["params"], updates))
        thing["opt"]["count"] = state[0].count
        thing["opt"]["mu"].update(state[0].mu)
        thing["opt"]["nu"].update(state[0].nu)

    def read(self, thing: Any) -> dict[str, Any]:
        found = {f"params/{name}": each for name, each in thing["params"].items()}
        found |= {f"opt/{part}/{name}": each for part in ("mu", "nu") for name, each in thing["opt"][part].items()}
        return {path: host(each) for path, each in found.items()} | {"opt/count": host(thing["opt"]["count"])}
