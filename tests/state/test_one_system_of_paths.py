"""A snapshot, a transaction's errors, a load and a pure function name a variable by its path in the object they got."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.internals import variables_in


class Layer(sv.Module):
    def __init__(self, backend: str, value: float) -> None:
        self.kernel = sv.Variable([value, value], name="kernel", backend=backend)


class Model(sv.Module):
    """Two layers, whose variables have one name."""

    def __init__(self, backend: str) -> None:
        self.layers = [Layer(backend, 1.0), Layer(backend, 2.0)]


PATHS = ["layers/0/kernel", "layers/1/kernel"]


def test_a_snapshot_has_the_paths_of_a_checkpoint(backend: str, tmp_path: Path) -> None:
    model = Model(backend)
    sv.save(model, tmp_path / "model")
    cut = sv.snapshot(model)
    with sv.load(tmp_path / "model") as saved:
        assert list(cut) == list(sv.named_variables(model)) == list(saved) == PATHS
    assert cut.versions == dict.fromkeys(PATHS, 0)
    assert_same(cut["layers/1/kernel"], [2.0, 2.0])
    assert_same(cut[model.layers[0].kernel], [1.0, 1.0])
    assert "kernel" not in cut, "two variables have it as their own"


def test_a_snapshot_keeps_the_paths_of_its_moment(backend: str) -> None:
    model = Model(backend)
    first = model.layers[0].kernel
    cut = sv.snapshot(model)
    model.layers.reverse()
    first.assign([5.0, 5.0])
    assert_same(cut["layers/0/kernel"], [1.0, 1.0])
    sv.restore(cut)
    assert_same(first, [1.0, 1.0])


def test_where_there_is_no_object_a_variable_has_its_own_path(backend: str) -> None:
    with sv.name_scope("encoder"):
        v = sv.Variable(1.0, name="v", backend=backend)
    w = sv.Variable(2.0, name="w", backend=backend)
    assert list(sv.snapshot(v, w)) == ["encoder/v", "w"]
    assert list(sv.snapshot(v, {"deep": [w]})) == ["encoder/v", "deep/0"]
    assert set(sv.snapshot({v, w})) == {"encoder/v", "w"}, "a set has no order"


def test_a_list_of_variables_is_the_same_as_the_variables_one_by_one(backend: str) -> None:
    v, w = sv.Variable(1.0, name="v", backend=backend), sv.Variable(2.0, name="w", backend=backend)
    cut = sv.snapshot([v, w, v])
    assert list(cut) == list(cut.versions) == ["v", "w"]
    assert len(cut) == 2
    assert_same(cut["w"], 2.0)
    assert_same(cut["2"], 1.0)  # a path that a checkpoint of the list has
    assert "3" not in cut


def test_further_paths_lead_to_the_same_variable(backend: str) -> None:
    layer = Layer(backend, 3.0)
    cut = sv.snapshot({"first": layer, "again": layer})
    assert list(cut) == ["first/kernel"]
    assert_same(cut["again/kernel"], [3.0, 3.0])


def test_a_path_that_two_objects_share_is_an_error_where_it_is_looked_up(backend: str) -> None:
    one, other = Layer(backend, 1.0), Layer(backend, 2.0)
    cut = sv.snapshot(one, other)
    assert_same(cut[other.kernel], [2.0, 2.0])
    for look_up in (lambda: cut["kernel"], lambda: list(cut), lambda: cut.versions):
        with pytest.raises(
            sv.errors.NameScopeError, match="^snapshot: two variables have this path, at 'kernel'. Hint: "
        ):
            look_up()
    more = sv.snapshot(one, other, {"layers": [one]})
    assert_same(more["layers/0/kernel"], [1.0, 1.0], dtype=False)  # no other path is concerned
    one.kernel.assign([9.0, 9.0])
    sv.restore(cut)
    assert_same(one.kernel, [1.0, 1.0])


def test_looking_up_takes_constant_time() -> None:
    """A look-up compares no variables: a comparison of variables is an array."""
    count = 3000
    variables = [sv.Variable(float(i)) for i in range(count)]
    cut = sv.snapshot({"all": variables})
    compared = 0

    class Counting(sv.Variable):
        def __eq__(self, other: object) -> Any:
            nonlocal compared
            compared += 1
            return super().__eq__(other)

        __hash__ = sv.Variable.__hash__

    missing = Counting(0.0)
    assert [float(cut[f"all/{i}"]) for i in range(count)] == [float(cut[v]) for v in variables] == list(range(count))
    with pytest.raises(KeyError):
        cut[missing]
    assert compared == 0


def test_the_error_of_a_transaction_names_the_variable_in_the_object(backend: str) -> None:
    model = Model(backend)
    kernel = model.layers[1].kernel
    with pytest.raises(sv.errors.ReentrantWriteError, match="^transaction: .*, at 'layers/1/kernel'"):
        kernel.update(lambda value: [value, sv.transaction(model).__enter__()][0])
    assert kernel.version == 0


def test_the_error_of_two_transactions_that_wait_for_each_other_names_it(backend: str) -> None:
    model = Model(backend)
    first, second = (layer.kernel for layer in model.layers)
    held, waits = threading.Event(), threading.Event()
    messages: list[str] = []

    def other() -> None:
        with sv.transaction(second):
            held.set()
            waits.wait(60)
            try:
                with sv.transaction({"inner": first}):
                    pass
            except sv.errors.ConflictError as error:
                messages.append(str(error))

    thread = threading.Thread(target=other)
    with sv.transaction(first):
        thread.start()
        held.wait(60)
        waits.set()
        try:
            with sv.transaction(model):
                pass
        except sv.errors.ConflictError as error:
            messages.append(str(error))
    thread.join(60)
    assert len(messages) == 1, "one of them gives way"
    assert ", at 'inner'" in messages[0] or ", at 'layers/1/kernel'" in messages[0]


def test_what_a_load_does_not_fit_is_named_by_its_path(backend: str, tmp_path: Path) -> None:
    sv.save(Model(backend), tmp_path / "model")
    model = Model(backend)
    model.layers[1].kernel.assign([[1.0]], validate_shape=False)
    with pytest.raises(sv.errors.CheckpointMismatchError, match="layers/1/kernel"):
        sv.load(model, tmp_path / "model")


def test_a_pure_function_loses_no_variable_of_the_same_name(backend: str) -> None:
    model = Model(backend)
    pure = sv.functionalize(lambda: [layer.kernel.assign_add(1.0) for layer in model.layers] and None, model)
    _, new = pure(dict(zip(PATHS, ([1.0, 1.0], [2.0, 2.0]), strict=True)))
    assert list(new) == PATHS
    assert_same(new["layers/1/kernel"], [3.0, 3.0])


def test_a_gradient_is_there_for_each_variable_of_the_same_name(backend: str) -> None:
    model = Model(backend)

    def loss() -> Any:
        first, second = (layer.kernel.value for layer in model.layers)
        product = first * second
        return product[0] + product[1]

    gradients = sv.grad(loss, model)()
    assert list(gradients) == PATHS
    assert_same(gradients["layers/0/kernel"], [2.0, 2.0])


def test_the_same_variables_are_found_with_and_without_paths(backend: str) -> None:
    v = sv.Variable(1.0, backend=backend)
    held = {"set": {v}, "list": [sv.Variable(2.0, backend=backend)], 1: v, "1": [v]}
    assert {id(each) for each in variables_in("test", [held])} == {
        id(each) for each in sv.snapshot(held)._targets.variables
    }
