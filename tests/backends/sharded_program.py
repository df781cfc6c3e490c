"""Runs the suite of spread values, and what a user does, in each process: ``sharded_program.py jax``, or ``torch``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.testing import ShardedSuite

LIBRARY = sys.argv[1]


def meshes(lengths: dict[str, int]) -> Iterator[Callable[[], Any]]:
    """Functions that return a mesh, each of another kind."""
    names, shape = tuple(lengths), tuple(lengths.values())
    if LIBRARY == "torch":
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        yield lambda: mesh
        return
    import jax
    from jax.sharding import AxisType

    for kind in (AxisType.Auto, AxisType.Explicit):
        yield lambda kind=kind: jax.make_mesh(shape, names, axis_types=(kind, kind))  # type: ignore[misc]


class Model(sv.Module):
    """A model whose variables are of the library."""

    def __init__(self) -> None:
        self.kernel = sv.Variable("normal", shape=(4, 8), seed=1, backend=LIBRARY)
        self.bias = sv.Variable("zeros", shape=(8,), backend=LIBRARY)
        self.rows = sv.Variable(np.arange(32, dtype="float32").reshape(4, 8), backend=LIBRARY)
        self.steps = sv.Variable(0, backend=LIBRARY, trainable=False)


LAYOUT: dict[str, Any] = {"kernel": (None, "model"), "bias": ("model",), "rows": ("data",), "*": ()}


def spread_a_model(mesh: Any) -> None:
    """A model that is made with values, and one that is made without, have the same in their shards."""
    with sv.deferred():
        late = Model()
    model = Model()
    values = {path: v.numpy() for path, v in model.named_variables().items()}
    for each in (model, late):
        sv.shard(each, LAYOUT, mesh=mesh)
        for path, value in sv.gather(each).items():
            np.testing.assert_array_equal(value, values[path])
        assert each.rows.sharding == sv.Variable(each.rows.value).sharding
        each.steps.assign_add(1)
        assert int(each.steps) == 1  # whole everywhere, so that nobody has to be asked
    with pytest.raises(sv.errors.ShardingError, match="(?s)'kernel': .*'rows': "):
        sv.shard(model, {"rows": (None, "rows"), "kernel": ("data", "data"), "*": ()}, mesh=mesh)
    assert str(sv.gather(model.rows).sum()) == "496.0"
    sv.shard(model, {"*": None})
    assert all(v.sharding is None for v in model.variables)
    np.testing.assert_array_equal(model.kernel.numpy(), values["kernel"])
    batch = sv.shard_batch({"x": np.ones((4, 3), "float32")}, mesh)["x"]
    assert sv.gather(batch).shape[1] == 3


def spread_batches(mesh: Any) -> None:
    """Each process gives its rows, and all are told if they differ in shape."""
    me = sv.distributed.process_index()
    for number in range(2):
        batch = sv.shard_batch({"x": np.full((2, 3), me + number, "float32"), "y": np.array([me, 7], "int32")}, mesh)
        assert sv.gather(batch["x"])[:, 0].tolist() == [number, number, number + 1, number + 1]
        assert sv.gather(batch["y"]).tolist() == [0, 7, 1, 7]
    expected = r"shard_batch: process 0 gives parts of the shapes \[\(2, 1\)\], and process 1 of \[\(4, 1\)\]"
    with pytest.raises(sv.errors.ShardingError, match=expected):
        sv.shard_batch(np.ones((2 + 2 * me, 1), "float32"), mesh)


def what_differs_between_processes(mesh: Any) -> None:
    """Without a seed each process would have other numbers, which nobody would notice."""
    with pytest.raises(sv.errors.InitializerError, match="each process would draw other random numbers"):
        sv.Variable("normal", shape=(4,), backend=LIBRARY, sharding=(), mesh=mesh)


def a_parameter_stays(mesh: Any) -> None:
    """What an optimizer has is not left behind."""
    v = sv.Variable([1.0, 2.0], backend=LIBRARY)
    if LIBRARY == "torch":
        _ = v.parameter
        with pytest.raises(sv.errors.ShardingError, match=r"code outside has v\.parameter"):
            v.reshard((), mesh=mesh)
    else:
        v.reshard((), mesh=mesh)


def writers_and_readers_of_what_moves(mesh: Any) -> None:
    """No write is lost, and no read is of half a write, while another thread moves the variable to and fro."""
    v = sv.Variable(np.zeros((4, 2), "float32"), backend=LIBRARY)
    stop, errors = threading.Event(), []

    def until_the_end(step: Callable[[], object]) -> None:
        try:
            for _ in range(60):  # not for ever: who moves again at once may be first each time
                if stop.is_set():
                    break
                step()
        except BaseException as error:  # noqa: BLE001  # the main thread raises it
            errors.append(error)

    def move() -> None:
        v.reshard(("data",), mesh=mesh).reshard((None, "model"), mesh=mesh).reshard(None)

    def read() -> None:
        whole = sv.gather(v)
        assert (whole == whole[0, 0]).all(), whole
        assert repr(v)

    threads = [threading.Thread(target=until_the_end, args=(step,)) for step in (move, read)]
    for each in threads:
        each.start()
    try:
        for _ in range(40):
            v.assign_add(1.0)
    finally:
        stop.set()
        for each in threads:
            each.join()
    assert not errors, errors
    assert (v.version, sv.gather(v).tolist()) == (40, [[40.0] * 2] * 4)


def a_spread_value_is_written_to_one_device(mesh: Any) -> None:
    """A variable in one place takes operands that are spread, however the library types them."""
    v = sv.Variable(np.zeros((4, 2), "float32"), backend="jax")
    w = sv.Variable(np.ones((4, 2), "float32"), sharding=(None, "model"), mesh=mesh)
    v.assign(w.value).assign_add(w.value[0])
    v[0] = w.value[0]
    v.at[1].add(w.value[1])
    assert v.numpy()[:, 0].tolist() == [1.0, 3.0, 2.0, 2.0]
    assert v.sharding is None


def loaded_without_being_made(mesh: Any, folder: Path) -> None:
    """A model without values learns where it will be, and then gets all of them from files, on another layout too."""

    def fail(shape: Any, dtype: Any) -> Any:
        raise AssertionError("nobody asked for this value")

    def unmade(layout: dict[str, Any]) -> dict[str, sv.Variable]:
        with sv.deferred():
            model = {
                "w": sv.Variable(fail, shape=(4, 8), backend=LIBRARY),
                "n": sv.Variable(fail, shape=(), backend=LIBRARY),
            }
            sv.shard(model, layout, mesh=mesh)
        return model

    saved = unmade({"w": ("data", "model"), "*": ()})
    saved["w"].assign(np.arange(32, dtype="float32").reshape(4, 8))
    saved["n"].assign(5.0)
    sv.save(saved, folder / "model")
    with sv.CheckpointManager(folder / "steps", saved) as manager:
        manager.save(1)
    for layout in ({"w": ("data", "model"), "*": ()}, {"w": ("model",), "*": ()}):
        loaded, restored = unmade(layout), unmade(layout)
        sv.load(loaded, folder / "model")
        with sv.CheckpointManager(folder / "steps", restored) as manager:
            assert manager.restore() is not None
        for each in (loaded, restored):
            assert each["w"].sharding == sv.Variable(each["w"].value).sharding
            assert sv.gather(each["w"]).sum() == 496.0
            assert float(each["n"]) == 5.0


def suite(made: Callable[[], Any], lengths_of_axes: dict[str, int], few: bool) -> ShardedSuite:
    """The suite on a mesh, with all layouts or a few."""

    class Suite(ShardedSuite):
        backend = LIBRARY
        lengths = lengths_of_axes
        layouts = (("data",), ()) if few else ShardedSuite.layouts

        def mesh(self) -> Any:
            return made()

    return Suite()


def main() -> None:
    sv.distributed.initialize(LIBRARY)
    count = sv.distributed.process_count()
    lengths = {"data": 2, "model": 2} if LIBRARY == "jax" else {"data": count, "model": 1}
    for number, made in enumerate(list(meshes(lengths))[count - 2 :]):  # of several processes one mesh
        tests = suite(made, lengths, few=count > 1 or number > 0)
        for name in sorted(dir(tests)):
            if name.startswith("test_"):
                getattr(tests, name)()
                print(name, flush=True)
        spread_a_model(made())
        a_parameter_stays(made())
        if number == 0:
            loaded_without_being_made(made(), Path(sys.argv[2]))
        if count == 1 and number == 0:
            writers_and_readers_of_what_moves(made())
        if count == 1 and LIBRARY == "jax":
            a_spread_value_is_written_to_one_device(made())
        if count > 1:
            spread_batches(made())
            what_differs_between_processes(made())
    print("done", flush=True)


main()
