"""A program for `test_sharding_jax`: variables over 2 processes with 2 devices each.

The first process does alone all that must not communicate: it would wait for ever for the other one, which does nothing
until the first has written a file.
"""

from __future__ import annotations

import copy
import operator
import pickle
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

import statevar as sv
from tests.helpers import until
from tests.variable.mesh_cases import IDS, MASK, ROWS, X, refused, several

P: Any = PartitionSpec


def alone(v: Any, whole: Any, halves: Any) -> None:
    """What communicates with nobody: writes of host values, and all that needs no other part of the value."""
    for _ in range(2):
        v.assign(X)
        v.assign_add(X).assign_sub(1.0)
        v.assign_add(jax.device_put(X, jax.local_devices()[1]))
        v.assign(jnp.asarray(X))
        v[1, 2] = 5.0
        v[0:2] = ROWS[:2]
        v[MASK] = 2.0
        v[IDS] = jnp.asarray(ROWS)
        v.at[IDS].add(1.0)
        v.at[:, IDS].divide(2.0)
        v.update(lambda a: a * 2)
        several(v)
        with sv.transaction(v, whole):
            v.assign_add(1.0)
            whole.assign_add(1.0)
        before = sv.snapshot([v])
        v.assign_add(1.0)
        sv.restore(before)
    assert copy.deepcopy(v).sharding == v.sharding
    assert sv.Variable("normal", shape=(8, 12), seed=1, sharding=("data",), mesh=v.sharding.mesh).version == 0
    several(halves)
    holder = {"w": jnp.copy(v.value)}  # somebody else's array
    view = sv.view(holder)["w"]
    view.assign(X)
    view.assign_add(1.0)
    view[IDS] = ROWS
    view.at[0, 0].add(1.0)
    with sv.transaction():
        view.assign_sub(X)
    assert view.sharding == holder["w"].sharding == v.sharding
    # Each process has all of these.
    assert whole.numpy().tolist() == [2.0, 3.0]
    assert float(whole[0]) == 2.0
    assert "[2. 3.]" in repr(whole)
    assert halves.numpy().shape == (8, 12)
    assert sv.Variable(whole.value, device="CPU:0").numpy().tolist() == [2.0, 3.0]
    error = sv.errors.NotAddressableError
    problem = "the value is spread as ('data', 'model') over {'data': 2, 'model': 2}, and other processes have a part"

    def edited() -> None:
        with v.edit():
            pass

    for step in (v.numpy, v.tolist, lambda: np.asarray(v), edited, lambda: pickle.dumps(v), lambda: np.sin(v)):
        refused(error, step, problem, "sv.gather")
    refused(error, lambda: operator.setitem(v, v.value > 1, 0.0), "and other processes have a part")
    assert "'v'" in repr(v)
    plain = sv.Variable(X, backend="jax", name="plain")
    refused(sv.errors.DeviceError, lambda: plain.assign(v), "of which other processes have a part", "at 'plain'")
    assert plain.version == 0


def together(v: Any, whole: Any) -> None:
    v.assign(X)
    assert np.array_equal(sv.gather(v), X)
    assert float(v[5, 1]) == X[5, 1]
    count = sv.Variable(0, backend="jax", name="count")
    placed = sv.Variable(0, backend="jax", device="CPU:0", name="placed")
    x = np.ones((2, 8), "float32")

    def step() -> Any:
        loss, (gradient,) = sv.value_and_grad(lambda: ((x @ v.value) ** 2).mean(), [v])()
        v.assign_sub(0.001 * gradient)
        count.assign_add(1)
        whole.assign_add(1.0)
        return loss

    compiled = sv.jit(step)
    before = whole.numpy()
    losses = [float(compiled()), float(compiled()), float(step())]
    with sv.transaction():
        losses.append(float(compiled()))
    losses.append(float(compiled()))
    assert losses == sorted(losses, reverse=True), losses
    assert (int(count), count.device) == (5, jax.local_devices()[0])
    assert np.array_equal(whole.numpy(), before + 5)
    expected = sv.Variable(X, backend="jax")
    for _ in range(5):
        gradient = sv.grad(lambda: ((x @ expected.value) ** 2).mean(), [expected])()[0]
        expected.assign_sub(0.001 * gradient)
    np.testing.assert_allclose(sv.gather(v), expected.numpy(), rtol=1e-5)
    total = sv.Variable(0.0, backend="jax")
    add_up = sv.jit(lambda: total.assign_add(v.value.sum()).shape)
    for _ in range(2):
        add_up()
    np.testing.assert_allclose(float(total), 2 * expected.numpy().sum(), rtol=1e-4)
    add_up()
    assert total.device == jax.local_devices()[0]
    refused(
        sv.errors.DeviceError,
        sv.jit(lambda: (v.assign_add(1.0), placed.assign_add(1), None)[2]),
        "jit: the function uses variables on different devices",
        "at 'placed'",
    )
    assert placed.numpy() == 0
    batch = sv.shard_batch(np.full((4, 12), float(jax.process_index()), "float32"), v.sharding.mesh, "data")
    v.assign(batch)
    assert v.sharding.spec == P("data", "model")
    assert sv.gather(v).sum() == 48.0
    v.reshard((None, ("data", "model")))
    assert sv.gather(v).sum() == 48.0
    blocks = v._backend.pieces(v.value)
    assert [block.offsets for block in blocks] == [(0, 6 * jax.process_index() + 3 * n) for n in range(2)]
    assert [b.first for b in v._backend.pieces(whole.value)] == [jax.process_index() == 0]
    keys = sv.Variable(jax.random.split(jax.random.key(0), 8), sharding=("data",), mesh=v.sharding.mesh)
    assert keys.sharding.spec == P("data")
    wanted = jax.random.key_data(jax.random.split(jax.random.key(0), 8))
    keys.reshard(("model",))  # each process has all of them, half on each device
    refused(sv.errors.DTypeError, lambda: sv.gather(keys), "gather: a key of jax.random (key<fry>) is no number")
    keys.reshard(None)
    assert np.array_equal(jax.random.key_data(keys.value), wanted)
    keys.reshard(("data",), v.sharding.mesh)
    keys.reshard(None)
    assert np.array_equal(jax.random.key_data(keys.value), wanted)
    rows = jax.random.split(jax.random.key(jax.process_index()), 4)
    assert sv.shard_batch(rows, v.sharding.mesh).shape == (8,)


def main(folder: Path) -> None:
    sv.distributed.initialize()
    for number, kind in enumerate((jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto)):
        mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(kind,) * 2)
        v = sv.Variable(X, sharding=("data", "model"), mesh=mesh, name="v")
        whole = sv.Variable(np.array([0.0, 1.0], "float32"), sharding=(), mesh=mesh, name="whole")
        halves = sv.Variable(X, sharding=("model",), mesh=mesh, name="halves")
        done = folder / f"done{number}"
        if jax.process_index() == 0:
            alone(v, whole, halves)
            done.touch()
        else:
            until(done.exists)
            whole.assign([2.0, 3.0])
        together(v, whole)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
