"""Cases of `mesh_jax`: views of arrays of JAX that others have spread over the devices of a mesh."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import statevar as sv
from tests.variable.mesh_cases import WRITES, refused

__all__ = ["CASES"]

CASES: dict[str, Callable[[], object]] = {}
P: Any = PartitionSpec
TABLE = (np.arange(96, dtype="float32") / 7).reshape(8, 12) + 1
EXPLICIT, AUTO = (
    jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2) for kind in (AxisType.Explicit, AxisType.Auto)
)


def case(function: Callable[[], object]) -> Callable[[], object]:
    CASES[function.__name__] = function
    return function


def viewed(mesh: Any = EXPLICIT, *axes: Any) -> tuple[dict[str, Any], Any]:
    """A dict with an array, and the view of it."""
    holder = {"w": jax.device_put(TABLE, NamedSharding(mesh, P(*(axes or ("data", "model")))))}
    return holder, sv.view(holder)["w"]


def check(holder: Any, expected: Any, sharding: Any, what: object = "") -> None:
    assert holder["w"].sharding == sharding, (what, holder["w"].sharding)
    np.testing.assert_allclose(np.asarray(holder["w"]), expected, rtol=2e-6, atol=1e-6, err_msg=str(what))


@case
def every_write_of_a_view_keeps_the_sharding() -> None:
    for mesh, names in (EXPLICIT, list(WRITES)[::3]), (AUTO, list(WRITES)[1::6]):
        for name in names:
            expected = sv.Variable(TABLE, backend="numpy")
            WRITES[name](expected)
            holder, view = viewed(mesh)
            sharding = holder["w"].sharding
            WRITES[name](view)
            check(holder, expected.numpy(), sharding, name)
            assert view.sharding == sharding, name


@case
def a_view_says_how_its_value_is_spread() -> None:
    holder, view = viewed(AUTO, None, "model")
    assert view.sharding == NamedSharding(AUTO, P(None, "model"))
    assert "sharding=(None, 'model') over {'data': 2, 'model': 4} backend=jax" in repr(view)
    assert sv.Variable(view).sharding == view.sharding
    holder["w"] = jnp.asarray(TABLE)
    assert view.sharding is None
    assert sv.view(holder)["w"] is view
    assert "device=CPU:0" in repr(view)
    view.assign(TABLE)
    view.at[[0, 1]].add(1.0)
    assert len(holder["w"].devices()) == 1
    holder["w"] = jax.device_put(TABLE, NamedSharding(EXPLICIT, P("data")))
    assert sv.view(holder)["w"] is view
    view[0] = 3.0
    check(holder, np.concatenate([np.full((1, 12), 3.0), TABLE[1:]]), NamedSharding(EXPLICIT, P("data")))


@case
def a_snapshot_of_a_view_is_restored_to_where_its_owner_has_it() -> None:
    sv.Variable(0.0, backend="jax").to("CPU:1")  # from now on snapshots may lie elsewhere than their variables
    for mesh in (EXPLICIT, AUTO):
        holder, view = viewed(mesh)
        before, sharding = sv.snapshot([view]), holder["w"].sharding
        view.assign_add(1.0)
        sv.restore(before)
        check(holder, TABLE, sharding)
        holder["w"] = jax.device_put(TABLE * 0, NamedSharding(mesh, P("model")))
        sv.restore(before)
        check(holder, TABLE, NamedSharding(mesh, P("model")))
        with sv.rollback([view]):
            holder["w"] = jnp.zeros((8, 12))
        assert np.array_equal(holder["w"], TABLE)


@case
def gradients_operands_and_files_of_views() -> None:
    holder, view = viewed()
    view.trainable = True
    (gradient,) = sv.grad(lambda: (view.value**2).sum(), [view])()
    assert gradient.sharding == view.sharding
    other = sv.Variable(TABLE, sharding=("model",), mesh=AUTO)
    view.assign_add(other)
    view.assign_sub(gradient)
    check(holder, np.zeros((8, 12)), view.sharding)
    other.assign(view.value + 1.0)
    assert np.array_equal(sv.gather({"view": view, "other": other})["other"], np.ones((8, 12)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.safetensors"
        sv.save(sv.view(holder), path)
        view.assign(TABLE)
        sv.load(sv.view(holder), path)
        check(holder, np.zeros((8, 12)), NamedSharding(EXPLICIT, P("data", "model")))
    refused(sv.errors.ShardingError, lambda: view.reshard(()), "the variable is a view of state that another object")
