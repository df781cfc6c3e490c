"""`sv.shard`, `sv.gather` and `sv.shard_batch`, on a library of the tests; and what the others say to them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests import boxes


@pytest.fixture(autouse=True)
def boxarray() -> Iterator[Any]:
    with boxes.installed():
        yield importlib.import_module("boxarray")


class Dense(sv.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        self.kernel = sv.Variable("normal", shape=(inputs, outputs), seed=1, backend="boxarray")
        self.bias = sv.Variable("zeros", shape=(outputs,), backend="boxarray")


class Model(sv.Module):
    def __init__(self) -> None:
        self.layers = [Dense(4, 8), Dense(8, 2)]
        self.tied = self.layers[0]
        self.steps = sv.Variable(0, backend="boxarray")
        self.further: list[sv.Variable] = []


LAYOUT: dict[str, Any] = {"*/kernel": (None, "model"), "*/bias": ("model",), "*": ()}
CUT = {
    "layers/0/kernel": "Spread(-, model)",
    "layers/0/bias": "Spread(model)",
    "layers/1/kernel": "Spread(-, model)",
    "layers/1/bias": "Spread(model)",
    "steps": "Spread()",
}


@pytest.mark.parametrize("deferred", [False, True])
def test_the_first_pattern_that_matches_says_how(deferred: bool) -> None:
    expected = {path: v.numpy() for path, v in Model().named_variables().items()}
    if deferred:
        with sv.deferred():
            model = Model()
    else:
        model = Model()
    found = sv.shard(model, LAYOUT, mesh=boxes.mesh())
    assert {path: str(each) for path, each in found.items()} == CUT
    for path, v in model.named_variables().items():
        assert v.sharding is found[path]
        np.testing.assert_array_equal(sv.gather(v), expected[path])
        assert v.version == 0
    handles = [v._handle for v in model.variables]
    assert sv.shard(model, LAYOUT) == found  # on the mesh that they have
    assert handles == [v._handle for v in model.variables]  # nothing has moved


def test_a_deferred_model_learns_its_place_before_it_has_values() -> None:
    with sv.deferred(), sv.mesh(boxes.mesh()):
        model = Model()
        sv.shard(model, LAYOUT)
    assert {path: str(v.sharding) for path, v in model.named_variables().items()} == CUT
    assert not any(v.is_initialized for v in model.variables)
    model.steps.assign(3)
    sv.materialize(model)
    assert sv.gather(model.steps) == 3
    assert {path: str(v.sharding) for path, v in model.named_variables().items()} == CUT


def test_dicts_lists_and_single_variables_are_taken() -> None:
    v, w = sv.Variable([1.0, 2.0], backend="boxarray"), sv.Variable([3.0, 4.0], backend="boxarray")
    found = sv.shard({"a": [v, w], "b": v}, {"a/1": ("data",), "*": None}, mesh=boxes.mesh())
    assert found["a/0"] is None
    assert str(found["a/1"]) == str(w.sharding) == "Spread(data)"
    sv.shard([v, w], {"*": None})
    assert (v.sharding, w.sharding) == (None, None)
    assert w.numpy().tolist() == [3.0, 4.0]
    sv.shard(v, {"*": ("model",)}, mesh=boxes.mesh())
    assert str(v.sharding) == "Spread(model)"
    assert sv.shard({}, {"*": ()}) == {}


def test_all_problems_are_in_one_message_and_nothing_has_moved() -> None:
    model = Model()
    odd, host = sv.Variable([1.0, 2.0, 3.0], backend="boxarray"), sv.Variable([1.0, 2.0])
    model.further += [odd, host, sv.Variable([1.0, 2.0], backend="boxarray")]
    layout = {"*/kernel": (None, "rows"), "*/bias": ("data", "model"), "kernl": (), "*/0": ("data",), "*/1": ()}
    with pytest.raises(sv.errors.ShardingError) as raised:
        sv.shard(model, layout, mesh=boxes.mesh())
    assert str(raised.value) == (
        "shard: nothing has moved, since there are 9 problems:\n"
        "  'kernl': matches no path; the paths are 'layers/0/kernel', 'layers/0/bias', 'layers/1/kernel', …\n"
        "  'layers/0/kernel': the mesh has no axis 'rows'; its axes are data, model\n"
        "  'layers/0/bias': a value of shape (8,) cannot be spread as Spread(data, model): it has 1 axes, and the "
        "sharding 2\n"
        "  'layers/1/kernel': the mesh has no axis 'rows'; its axes are data, model\n"
        "  'layers/1/bias': a value of shape (2,) cannot be spread as Spread(data, model): it has 1 axes, and the "
        "sharding 2\n"
        "  'steps': no pattern matches it\n"
        "  'further/0': a value of shape (3,) cannot be spread as Spread(data): axis 0 of size 3 does not divide by 2\n"
        "  'further/1': a variable of numpy lies in one place, and sharding=() was asked for\n"
        '  \'further/2\': no pattern matches it. Hint: end the dict with "*": () for the rest, or with "*": None to '
        "leave it in one place."
    )
    assert not any(v.sharding for v in model.variables)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (
            {"*": (), "*/kernel": (None, "model")},
            r"'\*/kernel': another pattern before it .* such as 'layers/0/kernel'",
        ),
        ({"tied": (), "*": ()}, "'tied': matches 'tied', which is also 'layers/0'"),
        ({}, "there are 5 problems:\n  'layers/0/kernel': no pattern matches it"),
    ],
)
def test_patterns_that_say_nothing_are_errors(layout: dict[str, Any], expected: str) -> None:
    with pytest.raises(sv.errors.ShardingError, match=expected):
        sv.shard(Model(), layout, mesh=boxes.mesh())


def test_wrong_arguments_are_errors() -> None:
    with pytest.raises(TypeError, match=r"shard: expected a dict of patterns, got tuple"):
        sv.shard(Model(), ("model",), mesh=boxes.mesh())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"shard: expected patterns of paths as keys, got 1\. Hint: shard\(model, "):
        sv.shard(Model(), {1: ()}, mesh=boxes.mesh())  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="shard: found no variable in object"):
        sv.shard(object(), {"*": ()})
    with pytest.raises(sv.errors.ShardingError, match="nothing has moved, since 'w': .* a view of state"):
        sv.shard({"w": sv.view(np.ones(2))}, {"*": ()}, mesh=boxes.mesh())
    model = Model()
    with sv.transaction(model), pytest.raises(sv.errors.ConflictError, match="shard: a variable cannot move"):
        sv.shard(model, LAYOUT, mesh=boxes.mesh())
    assert not any(v.sharding for v in model.variables)


def test_what_fails_while_it_moves_leaves_all_where_they_were() -> None:
    model = Model()
    sv.shard(model, LAYOUT, mesh=boxes.mesh())
    values = {path: sv.gather(v) for path, v in model.named_variables().items()}
    adapter: Any = type(model.steps._backend)
    real = adapter.resharded

    def fail(self: Any, array: Any, sharding: Any) -> Any:
        if array.shape == (2,):
            raise MemoryError("the device is full")
        return real(self, array, sharding)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "resharded", fail)
        with pytest.raises(MemoryError, match="the device is full"):
            sv.shard(model, {"*/kernel": (), "*": ()})
    assert {path: str(v.sharding) for path, v in model.named_variables().items()} == CUT
    for path, v in model.named_variables().items():
        np.testing.assert_array_equal(sv.gather(v), values[path])
    model.steps.assign_add(1)  # nothing holds them


def test_gather_reads_trees_and_objects() -> None:
    v = sv.Variable([1.0, 2.0], backend="boxarray", sharding=("data",), mesh=boxes.mesh(2, 3))
    model = Model()
    assert list(sv.gather(model)) == list(model.named_variables())
    tree = sv.gather({"v": v, "rest": [v.value, None, np.ones(2)]})
    assert tree["v"].tolist() == tree["rest"][0].tolist() == [1.0, 2.0]
    assert tree["rest"][1] is None
    tree["v"][:] = 9.0
    assert sv.gather(v).tolist() == [1.0, 2.0]
    with sv.transaction(v):
        v.assign_add(1.0)
        assert sv.gather(v).tolist() == [2.0, 3.0]
    with pytest.raises(TypeError, match="gather: found no variable in object"):
        sv.gather(object())


def test_gather_is_numpy_for_a_variable_in_one_place(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    found = sv.gather([v, v.value])
    assert [each.tolist() for each in found] == [[1.0, 2.0], [1.0, 2.0]]
    assert all(type(each) is np.ndarray and each.flags.writeable for each in found)


def test_a_batch_needs_rows_and_a_mesh(boxarray: Any) -> None:
    with sv.mesh(boxes.mesh()):
        batch = sv.shard_batch({"x": np.ones((4, 3), "float32"), "y": sv.Variable([1.0, 2.0])}, axis=("data",))
    assert isinstance(batch["x"], boxarray.Boxes)
    assert str(batch["x"].spread) == str(batch["y"].spread) == "Spread(data)"
    with pytest.raises(sv.errors.ShardingError, match="shard_batch: expected a mesh of a library, got object"):
        sv.shard_batch(np.ones(2), object())
    with pytest.raises(sv.errors.ShapeError, match="expected an array with an axis of examples"):
        sv.shard_batch(np.float32(1), boxes.mesh())
    with pytest.raises(TypeError, match="expected an array, got float.*pass np.asarray"):
        sv.shard_batch([1.0, 2.0], boxes.mesh())
    with pytest.raises(sv.errors.ShardingError, match="does not divide"):
        sv.shard_batch(np.ones((3, 2), "float32"), boxes.mesh())


def test_a_process_reads_its_own_rows_of_a_batch(boxarray: Any) -> None:
    assert sv.local_rows(64, boxes.mesh()) == slice(0, 64)
    with sv.mesh(boxes.mesh()):
        assert sv.local_rows(64, axis=("data", "model")) == slice(0, 64)
    with pytest.raises(sv.errors.ShardingError, match="local_rows: .*does not divide"):
        sv.local_rows(3, boxes.mesh())
    for count in (-8, 8.0):
        with pytest.raises(TypeError, match="local_rows: expected the number of rows of the whole batch, got"):
            sv.local_rows(count, boxes.mesh())  # type: ignore[arg-type]
    with pytest.raises(sv.errors.ShardingError, match="local_rows: there is no mesh"):
        sv.local_rows(64)
