"""Saves and loads in each of two processes, of JAX and of torch: ``processes_program.py FOLDER PORT``."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import CheckpointMismatchError, ProcessError, ReplicaError

FOLDER = Path(sys.argv[1])
SHAPE = (16, 12)
#: The axes of each value on a mesh of four devices of JAX, and on one of two processes of torch.
LAYOUTS: dict[str, dict[str, Any]] = {
    "jax": {
        "rows": (("data", "model"),),
        "cols": (None, ("data", "model")),
        "grid": ("data", "model"),
        "half": ("model",),
        "whole": (),
    },
    "torch": {"rows": ("data",), "cols": (None, "data"), "grid": (None, "data"), "half": ("data",), "whole": ()},
}


def values() -> dict[str, np.ndarray[Any, Any]]:
    """Any bits, NaN with a payload among them."""
    rng = np.random.default_rng(5)
    return {name: np.frombuffer(rng.bytes(4 * 16 * 12), "<f4").reshape(SHAPE) for name in LAYOUTS["jax"]}


def same(found: Any) -> bool:
    return all(np.asarray(found[name]).tobytes() == value.tobytes() for name, value in values().items())


def spread(library: str, mesh: Any, *, zero: bool, turned: bool = False) -> dict[str, sv.Variable]:
    axes = LAYOUTS[library]
    if turned:
        axes = axes | {"rows": axes["cols"], "cols": axes["rows"], "grid": axes["half"], "half": axes["grid"]}
    return {
        name: sv.Variable(np.zeros(SHAPE, "float32") if zero else value, sharding=axes[name], mesh=mesh)
        for name, value in values().items()
    } | {"step": sv.Variable(0 if zero else 7, backend=library)}


def fully_sharded(mesh: Any) -> None:
    """A module of FSDP2, whose rows do not divide, is saved and loaded as it is."""
    import torch
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    net = torch.nn.Linear(4, 3)
    whole = {name: each.detach().numpy().copy() for name, each in net.named_parameters()}
    fully_shard(net, mesh=mesh)
    sv.save(net, FOLDER / "module")
    with torch.no_grad():
        for each in net.parameters():
            each.zero_()
    assert sv.load(net, FOLDER / "module").loaded == ["weight", "bias"]
    for name, each in net.named_parameters():
        full = each.detach().full_tensor()  # type: ignore[attr-defined]  # of a DTensor
        assert full.numpy().tobytes() == whole[name].tobytes()
    with sv.load(FOLDER / "module") as saved:
        assert saved["weight"].tobytes() == whole["weight"].tobytes()


def main() -> None:
    import jax
    import torch.distributed
    from jax.sharding import AxisType
    from torch.distributed.device_mesh import init_device_mesh

    sv.distributed.initialize("jax", dead_after=3.0)
    me = sv.distributed.process_index()
    torch.distributed.init_process_group("gloo", f"tcp://localhost:{sys.argv[2]}", rank=me, world_size=2)
    meshes = {
        "jax": jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2),
        "torch": init_device_mesh("cpu", (2,), mesh_dim_names=("data",)),
    }

    # Each library loads what the other one has saved, cut in the same way and in another one.
    for library, other in (("jax", "torch"), ("torch", "jax")):
        saved = spread(library, meshes[library], zero=False)
        sv.save(saved, FOLDER / library)
        for target in (library, other):
            for turned in (False, True):
                found = spread(target, meshes[target], zero=True, turned=turned)
                before = {name: each.sharding for name, each in found.items()}
                assert sorted(sv.load(found, FOLDER / library).loaded) == sorted(found)
                assert same(sv.gather(found)), (library, target, turned)
                assert int(found["step"]) == 7
                assert {name: each.sharding for name, each in found.items()} == before
                found["rows"].assign_add(1.0)  # it is a variable as ever
        with sv.load(FOLDER / library) as whole:
            assert same(whole)
        plain = {name: sv.Variable(np.zeros(SHAPE, "float32"), backend=other) for name in values()}
        plain["step"] = sv.Variable(0)
        sv.load(plain, FOLDER / library)
        assert same({name: each.numpy() for name, each in plain.items()})

    # A model that was made without values, and a file of one process.
    if me == 0:
        sv.save({name: sv.Variable(value) for name, value in values().items()}, FOLDER / "one", alone=True)
    for library, mesh in meshes.items():
        with sv.deferred():
            late = {name: sv.Variable("zeros", shape=SHAPE, backend=library) for name in values()}
        sv.shard(late, LAYOUTS[library], mesh=mesh)
        sv.load(late, FOLDER / library, only="*s", strict=False)
        sv.check_replicas(late)
        sv.load(late, FOLDER / "one")
        assert same(sv.gather(late))

    fully_sharded(meshes["torch"])

    # Each process has all of it, over devices of its own.
    own = jax.sharding.Mesh(np.array(jax.local_devices()), ("own",))
    local = {name: sv.Variable(value, sharding=("own",), mesh=own) for name, value in values().items()}
    sv.save(local, FOLDER / "local")
    for each in local.values():
        each.assign(np.zeros(SHAPE, "float32"))
    sv.load(local, FOLDER / "local")
    assert same({name: each.numpy() for name, each in local.items()})
    sv.load(late, FOLDER / "local")
    assert same(sv.gather(late))

    # What one process has alone, or has not, is an error in both, and nothing is written or loaded.
    state = spread("jax", meshes["jax"], zero=False)
    wrong = state | {"step": sv.Variable(7 + me, backend="jax")}
    with pytest.raises(
        ReplicaError, match="save: copies that should be equal differ: process 1 of 2 has another value"
    ):
        sv.save(wrong, FOLDER / "never")
    if me == 1:
        state["more"] = sv.Variable(1.0)
    with pytest.raises(CheckpointMismatchError, match="process 1 of 2|more"):
        sv.load(state, FOLDER / "jax")
    state.pop("more", None)

    # A manager: in the background, and both fall back to the same step.
    with sv.CheckpointManager(FOLDER / "run", state, keep=3) as manager:
        for step in range(1, 5):
            state["step"].assign(step)
            state["rows"].assign_add(np.float32(0.0))
            manager.save(state["step"])
        manager.wait()
        assert manager.steps() == [2, 3, 4]
        if me == 0:
            damaged = manager.path(4) / "part-00001-of-00002.safetensors"
            content = bytearray(damaged.read_bytes())
            content[-1] ^= 1
            damaged.write_bytes(content)
        state["step"].assign(0)
        sv.check_replicas(state)  # after the damage
        with pytest.warns(RuntimeWarning, match="restored step 3"):
            restored = manager.restore()
        assert restored is not None
        assert (restored.step, int(state["step"])) == (3, 3)
        with pytest.raises(ValueError, match="delete: process 0 deletes step 3, and process 1 deletes step 4, at"):
            manager.delete(3 + me)
        assert manager.steps() == [2, 3, 4]
        manager.delete(4)
        assert manager.steps() == [2, 3]
    print("loaded", flush=True)

    # One dies in the middle of a save: the other says so, and what was there is whole.
    if me == 1:
        from tests.internals import files

        files.sync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    began = time.monotonic()
    with pytest.raises(ProcessError, match="save: process 1 of 2 has died"):
        sv.save(state, FOLDER / "jax")
    print("noticed", time.monotonic() - began < 30.0, flush=True)
    with sv.load(FOLDER / "jax") as saved_before:
        assert same(saved_before)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
