"""What a variable says to ``sharding=`` and ``mesh=``, whatever its library."""

from __future__ import annotations

import importlib
import math
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any, assert_type

import numpy as np
import pytest

import statevar as sv
from tests import boxes
from tests.internals import worlds


def test_a_variable_of_one_device_has_no_sharding(backend: str) -> None:
    assert sv.Variable([1.0, 2.0], backend=backend).sharding is None
    with sv.mesh(object()):  # which only a variable with sharding= looks at
        assert sv.Variable([1.0, 2.0], backend=backend).sharding is None


def test_numpy_cannot_spread_a_value() -> None:
    expected = r"sharding=\('data',\) was asked for.*Hint: pass backend='jax' or backend='torch'"
    with pytest.raises(sv.errors.ShardingError, match=expected):
        sv.Variable([1.0, 2.0], sharding=("data",), backend="numpy")
    with pytest.raises(sv.errors.ShardingError, match="was asked for"):
        sv.Variable([1.0, 2.0], mesh=object(), backend="numpy")


def test_a_device_and_a_sharding_are_too_much(backend: str) -> None:
    expected = "got device='CPU:0' and a sharding or a mesh, which say both where the value is, at 'w'"
    with pytest.raises(sv.errors.ShardingError, match=expected):
        sv.Variable([1.0, 2.0], name="w", device="CPU:0", sharding=("data",), backend=backend)


def test_a_mesh_scope_can_be_entered_again() -> None:
    scope = sv.mesh(object())
    with scope, scope:
        pass


# -- on boxarray, a library of the tests that has devices in another process -------------------------------------------


@pytest.fixture
def boxarray() -> Iterator[Any]:
    with boxes.installed():
        yield importlib.import_module("boxarray")


def spread(axes: Any = ("data",), *elsewhere: int, shape: tuple[int, ...] = (4, 2)) -> sv.Variable:
    value = np.arange(math.prod(shape), dtype="float32").reshape(shape)
    return sv.Variable(value, name="w", backend="boxarray", sharding=axes, mesh=boxes.mesh(*elsewhere))


READS: dict[str, Callable[[sv.Variable], object]] = {
    "np.asarray": np.asarray,
    "numpy": lambda v: v.numpy(),
    "tolist": lambda v: v.tolist(),
    "np.sin": np.sin,
    "get_value": sv.get_value,
    "pickle": pickle.dumps,
    "edit": lambda v: v.edit().__enter__(),
}


@pytest.mark.parametrize("what", READS)
def test_a_read_that_would_have_to_communicate_says_what_to_call(boxarray: Any, what: str) -> None:
    v = spread(("data",), 2, 3)
    with pytest.raises(sv.errors.NotAddressableError, match=r"Hint: sv\.gather\(v\), on every process\."):
        READS[what](v)
    assert sv.gather(v).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    v.assign_add(1.0)  # nothing holds it
    READS[what](spread((), 2, 3))  # which is whole in each process


@pytest.mark.parametrize("convert", [float, int, bool, lambda v: v.item()])
def test_a_number_that_is_elsewhere_is_not_converted(boxarray: Any, convert: Callable[[Any], object]) -> None:
    with pytest.raises(sv.errors.NotAddressableError, match="other processes have parts of the value, at 'w'"):
        convert(_elsewhere(boxarray))


def _elsewhere(boxarray: Any) -> sv.Variable:
    """A scalar on a mesh of which this process has no device."""
    nowhere = boxarray.Mesh({"data": 1}, (0,))
    return sv.Variable(1.0, name="w", backend="boxarray", sharding=(), mesh=nowhere)


def test_repr_shows_the_sharding_and_what_is_here(boxarray: Any) -> None:
    assert repr(spread()) == (
        "<Variable 'w' shape=(4, 2) dtype=float32 sharding=Spread(data) backend=boxarray value=\n"
        "[[0. 1.]\n [2. 3.]\n [4. 5.]\n [6. 7.]]>"
    )
    shards = {
        ("data",): "value=<shard 0 of 2, 2x2>",
        (None, "model"): "value=\n[[0. 1.]",
        ("data", "model"): "value=<shards 0-1 of 4, 2x1 each>",
        (("model", "data"),): "value=<shards 0,2 of 4, 1x2 each>",
        (): "value=\n[[0. 1.]",
    }
    for axes, text in shards.items():
        assert text in repr(spread(axes, 2, 3))
    assert "value=<no shards in this process>" in repr(_elsewhere(boxarray))


def test_repr_of_a_large_value_reads_the_corners_only(boxarray: Any) -> None:
    v, plain = (
        spread(("data", "model"), shape=(100, 40)),
        sv.Variable(np.arange(4000.0, dtype="float32").reshape(100, 40)),
    )
    assert repr(v).partition("value=")[2] == repr(plain).partition("value=")[2]


def test_the_mesh_says_the_library(boxarray: Any) -> None:
    for value in (np.ones((2, 2), "float32"), [[1.0, 2.0], [3.0, 4.0]]):
        v = sv.Variable(value, sharding=("data",), mesh=boxes.mesh())
        assert v.backend == "boxarray"
        assert str(sv.Variable(value, sharding=v.sharding).sharding) == "Spread(data)"
        with sv.mesh(boxes.mesh()), sv.deferred():
            assert sv.Variable(value, sharding=("data",)).backend == "boxarray"
    with pytest.raises(sv.errors.ShardingError, match="a variable of numpy lies in one place"):
        sv.Variable([1.0, 2.0], backend="numpy", sharding=("data",), mesh=boxes.mesh())
    with pytest.raises(sv.errors.ShardingError, match="a variable of numpy lies in one place"):
        sv.Variable([1.0, 2.0], sharding=("data",))


def test_reshard_moves_both_ways_and_says_why_it_cannot(boxarray: Any) -> None:
    v = sv.Variable(np.ones((4, 2), "float32"), name="w", backend="boxarray")
    with sv.mesh(boxes.mesh()):
        assert str(v.reshard(("data",)).sharding) == "Spread(data)"
    assert str(v.reshard((None, "model")).sharding) == "Spread(-, model)"  # on the mesh that it has
    assert v.reshard(None).sharding is None
    assert v.device == "cpu"
    with pytest.raises(sv.errors.ShardingError, match="reshard: there is no mesh, at 'w'"):
        v.reshard(("data",))
    with pytest.raises(sv.errors.ShardingError, match=r"reshard: .* no axis 'rows'; its axes are data, model, at 'w'"):
        v.reshard(("rows",), mesh=boxes.mesh())
    v = sv.Variable(np.ones((3, 2), "float32"), name="w", backend="boxarray")
    expected = r"reshard: a value of shape \(3, 2\) cannot be spread .* axis 0 of size 3 does not divide by 2, at 'w'"
    with pytest.raises(sv.errors.ShardingError, match=expected):
        v.reshard(("data",), mesh=boxes.mesh())
    assert v.sharding is None


def test_reshard_on_a_library_with_one_place(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", backend=backend)
    assert v.reshard(None) is v
    if backend in ("numpy", "tensorflow"):
        with pytest.raises(sv.errors.ShardingError, match=f"a variable of {backend} lies in one place.*, at 'w'"):
            v.reshard(("data",), mesh=object())


def test_what_cannot_be_undone_does_not_move(boxarray: Any) -> None:
    v = spread()
    with sv.transaction(v), pytest.raises(sv.errors.ConflictError, match="cannot move inside of a transaction"):
        v.reshard(("model",))
    v.update(lambda a: _refused(v, a))
    assert str(v.sharding) == "Spread(data)"


def _refused(v: sv.Variable, a: Any) -> Any:
    with pytest.raises(sv.errors.ReentrantWriteError, match="already inside an update"):
        v.reshard(("model",))
    return a


def test_a_view_does_not_move() -> None:
    view = sv.view(np.ones(2))
    with pytest.raises(sv.errors.ShardingError, match="a view of state that another object has"):
        view.reshard(("data",), mesh=object())


def test_what_a_type_checker_sees() -> None:
    v = sv.Variable([1.0, 2.0], sharding=None, mesh=None)
    assert_type(v.reshard(None), sv.Variable)
    assert_type(sv.shard(v, {"*": None}), dict[str, Any])
    with sv.mesh(None), sv.deferred():
        assert_type(sv.Variable(0.0), sv.Variable)


@pytest.mark.parametrize("name", ["out_sharding", "placements", "layout", "sharding_names"])
def test_arguments_of_others_are_answered(name: str) -> None:
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'. Hint: write sharding="):
        sv.Variable([1.0], **{name: ("data",)})  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match=r"no attribute 'LayoutMap'\. Hint: write sv\.shard\(model"):
        _ = sv.LayoutMap  # type: ignore[attr-defined]


def test_state_of_other_libraries_is_left_to_them() -> None:
    torch, nnx = pytest.importorskip("torch"), pytest.importorskip("flax.nnx")
    for model in (torch.nn.Linear(2, 2), nnx.Linear(2, 2, rngs=nnx.Rngs(0))):
        with pytest.raises(sv.errors.ShardingError, match="(?s)2 problems.*a view of state that another object has"):
            sv.shard(model, {"*": ()}, mesh=object())
        assert set(sv.shard(model, {"*": None}).values()) == {None}


def test_without_a_seed_several_processes_are_refused(boxarray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with sv.deferred():
        late = sv.Variable("normal", shape=(4,), name="late", backend="boxarray")
        seeded = sv.Variable("normal", shape=(4,), seed=0, backend="boxarray")
    monkeypatch.setattr(worlds, "current_world", lambda: SimpleNamespace(count=2))
    options: dict[str, Any] = {"backend": "boxarray", "sharding": ("data",), "mesh": boxes.mesh(), "name": "w"}
    with pytest.raises(sv.errors.InitializerError, match="Variable: each process would draw other .*, at 'w'.*seed="):
        sv.Variable("normal", shape=(4,), **options)
    with pytest.raises(sv.errors.InitializerError, match="each process would draw other"):
        sv.Variable(sv.initializers.orthogonal, shape=(4, 4), **options)
    sv.Variable("normal", shape=(4,), seed=0, **options)
    sv.Variable("zeros", shape=(4,), **options)
    sv.Variable(partial(sv.initializers.normal, seed=1), shape=(4,), **options)
    with pytest.raises(sv.errors.ShardingError, match="'late': each process would draw other random numbers"):
        sv.shard({"late": late, "seeded": seeded}, {"*": ()}, mesh=boxes.mesh())
    sv.shard(seeded, {"*": ()}, mesh=boxes.mesh())
    sv.materialize(late)  # in one place, where each process has its own


def test_writers_wait_for_a_move_and_lose_nothing(boxarray: Any) -> None:
    v = sv.Variable(np.zeros((4, 2), "float32"), backend="boxarray")
    stop = threading.Event()

    def move() -> None:
        for _ in range(60):  # not for ever: who moves again at once may be first each time
            if stop.is_set():
                break
            v.reshard(("data",), mesh=boxes.mesh()).reshard((None, "model")).reshard(None)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(200):
            v.assign_add(1.0)
    finally:
        stop.set()
        mover.join()
    assert v.version == 200
    assert sv.gather(v).tolist() == [[200.0] * 2] * 4
