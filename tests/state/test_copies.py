"""Copies and pickles of variables and snapshots: what a subclass adds, one moment, and who belongs to whom."""

# mypy: disable-error-code="attr-defined, assignment"

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.state.models import Clip, Dense

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda v: pickle.loads(pickle.dumps(v)),
    "pickle protocol 2": lambda v: pickle.loads(pickle.dumps(v, 2)),
}
DEEP = {name: how for name, how in COPIES.items() if name != "copy"}


class Tagged(sv.Variable):
    """Has attributes in a dict, and an ``__init__`` of its own."""

    def __init__(self, tag: str, value: Any, *, backend: str = "numpy") -> None:
        super().__init__(value, name="tagged", backend=backend)
        self.tag = [tag]


class Slotted(sv.Variable):
    __slots__ = ("__hidden", "unit", "unset")

    def __new__(cls, unit: str, *args: Any, **kwargs: Any) -> Self:
        assert unit
        return super().__new__(cls)

    def __init__(self, unit: str, value: Any, *, backend: str = "numpy") -> None:
        super().__init__(value, backend=backend)
        self.unit = unit
        self.__hidden = [unit]

    @property
    def hidden(self) -> list[str]:
        return self.__hidden


class Stateful(sv.Variable):
    """Says itself what is kept."""

    def __getstate__(self) -> Any:
        return {"kept": self.kept}

    def __setstate__(self, state: Any) -> None:
        self.kept = state["kept"]
        self.dropped = None


@pytest.mark.parametrize("how", COPIES)
def test_a_subclass_keeps_what_it_has_added(backend: str, how: str) -> None:
    v = Tagged("m/s", [1.0, 2.0], backend=backend)
    v.later = 3
    w = COPIES[how](v)
    assert type(w) is Tagged
    assert (w.tag, w.later, w.name) == (["m/s"], 3, "tagged")
    assert (w.tag is v.tag) == (how == "copy")
    w.assign([5.0, 6.0])
    assert_same(v, [1.0, 2.0])
    s = COPIES[how](Slotted("kg", 1, backend=backend))
    assert (type(s), s.unit, s.hidden) == (Slotted, "kg", ["kg"])
    assert not hasattr(s, "unset")
    each = Stateful(1.0, backend=backend)
    each.kept, each.dropped = [1], 2
    again = COPIES[how](each)
    assert (again.kept, again.dropped) == ([1], None)


@pytest.mark.parametrize("how", DEEP)
def test_attributes_and_constraints_may_refer_to_the_variable(how: str) -> None:
    v = Tagged("a", 1.0)
    v.me = v
    v.constraint = Clip(v)
    w = DEEP[how](v)
    assert w.me is w
    assert w.constraint.upper is w
    upper = sv.Variable(2.0)
    model = {"w": sv.Variable(0.0, constraint=Clip(upper)), "upper": upper}
    other = DEEP[how](model)
    assert other["w"].constraint.upper is other["upper"]


def test_a_pickle_has_value_and_declaration_of_one_moment(backend: str) -> None:
    v = sv.Variable([1.0], shape=(1,), backend=backend)
    stored = type(v)._current

    def between(self: sv.Variable) -> Any:
        cell = stored(self)
        state = type(cell)._state

        def changed_meanwhile(cell: Any) -> Any:
            found = state(cell)
            v.assign([[1.0, 2.0]], validate_shape=False)  # another thread writes right after the value was read
            return found

        return type("Cell", (), {"_state": changed_meanwhile, "__getattr__": lambda _, name: getattr(cell, name)})()

    for how in COPIES.values():
        v.assign([1.0], validate_shape=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sv.Variable, "_current", between)
            w = how(v)
        assert w.shape == w.declared_shape


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_snapshot_restores_the_variables_it_was_taken_of(backend: str, how: str) -> None:
    v = sv.Variable([1.0, 2.0], name="v", backend=backend)
    u = sv.Variable(shape=(None,), dtype="int32", name="u", backend=backend)
    before = sv.snapshot(v, [u])
    after = COPIES[how](before)
    assert type(after) is sv.Snapshot
    assert list(after) == list(before) == ["v"]
    assert after.versions == before.versions
    v.assign([[7.0]], validate_shape=False)
    u.assign([1])
    assert_same(after["v"], [1.0, 2.0])
    assert_same(after[v], [1.0, 2.0])
    sv.restore(after)
    assert_same(v, [1.0, 2.0])
    assert v.declared_shape == (2,)
    assert not u.is_initialized
    v.assign_add(1.0)
    assert_same(after["v"], [1.0, 2.0])  # the memory is shared with nobody who writes
    assert_same(before["v"], [1.0, 2.0])


@pytest.mark.parametrize("how", COPIES)
def test_the_values_of_a_copied_snapshot_are_read_only(how: str) -> None:
    v = sv.Variable([1.0, 2.0], name="v")
    after = COPIES[how](sv.snapshot(v))
    for value in (after["v"], after["v"].view()):
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 9.0
        with pytest.raises(ValueError, match="WRITEABLE"):
            value.setflags(write=True)


@pytest.mark.parametrize("how", DEEP)
@pytest.mark.parametrize("order", ["model first", "snapshot first", "inside"])
def test_copied_together_they_belong_together(backend: str, how: str, order: str) -> None:
    model = Dense(backend=backend)
    before = sv.snapshot(model)
    if order == "inside":
        vars(model)["before"] = before
        other = DEEP[how](model)
        copied = other.before
    elif order == "model first":
        other, copied = DEEP[how]((model, before))
    else:
        copied, other = DEEP[how]((before, model))
    for each in (model, other):
        each.kernel.assign_add(1.0)
    sv.restore(copied)
    assert_same(other.kernel, np.ones((2, 2)))
    assert_same(model.kernel, np.full((2, 2), 2.0))
    sv.restore(before)
    assert_same(model.kernel, np.ones((2, 2)))
    assert list(copied) == ["kernel", "bias", "calls"]
    assert copied[other.kernel] is not None


@pytest.mark.parametrize("how", DEEP)
def test_a_part_that_was_copied_too_belongs_to_its_copy(how: str) -> None:
    v, w = sv.Variable(1.0, name="v"), sv.Variable(2.0, name="w")
    copied, other = DEEP[how]((sv.snapshot(v, w), v))
    for each in (v, w, other):
        each.assign(9.0)
    sv.restore(copied)
    assert (float(v), float(w), float(other)) == (9.0, 2.0, 1.0)


def test_an_alias_and_an_own_path_are_still_found_after_a_load() -> None:
    v, w = sv.Variable(1.0, name="v"), sv.Variable(2.0, name="w")
    before = sv.snapshot({"a": [v], "b": {"again": v}}, w, [v, w])
    after = pickle.loads(pickle.dumps(before))
    assert (float(after["a/0"]), float(after["b/again"]), float(after["w"])) == (1.0, 1.0, 2.0)
    assert list(after) == list(before)


def test_a_snapshot_of_variables_that_are_gone_can_be_read_and_not_restored(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="v", backend=backend)
    w = sv.Variable(0.0, name="w", backend=backend)
    data = pickle.dumps(sv.snapshot({"v": v, "w": w}))
    del v
    gc.collect()
    w.assign(5.0)
    for after in (
        pickle.loads(data),
        copy.deepcopy(pickle.loads(data)),
        pickle.loads(pickle.dumps(pickle.loads(data))),
    ):
        assert_same(after["v"], [1.0, 2.0])
        with pytest.raises(ValueError, match="restore: ") as caught:
            sv.restore(after)
        assert "restore: the snapshot was loaded from a pickle, and its variable does not exist" in str(caught.value)
        assert "at 'v'. Hint: write its values: for path, v in sv.named_variables(model)" in str(caught.value)
        assert float(w) == 5.0


def test_a_snapshot_in_another_process(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="v", backend=backend)
    code = """
import pickle, sys
import statevar as sv
snapshot, model, again = pickle.load(sys.stdin.buffer)
try:
    sv.restore(snapshot)
except ValueError as error:
    print(snapshot["v"].tolist() if hasattr(snapshot["v"], "tolist") else snapshot["v"].numpy().tolist(), error)
for path, v in sv.named_variables(model).items():
    v.assign([0.0, 0.0])
sv.restore(again)
print(model["x"].numpy().tolist())
"""
    w = sv.Variable([3.0, 4.0], backend=backend)
    data = pickle.dumps((sv.snapshot(v), {"x": w}, sv.snapshot(w)))
    result = subprocess.run([sys.executable, "-c", code], input=data, check=True, capture_output=True)
    lines = result.stdout.decode().strip().split("\n")[-2:]
    assert lines[0].startswith("[1.0, 2.0] restore: the snapshot was loaded from a pickle")
    assert lines[1] == "[3.0, 4.0]"


def test_a_pickled_snapshot_is_small_and_has_only_public_names() -> None:
    import pickletools

    v = sv.Variable(np.zeros(100_000), name="v")
    data = pickle.dumps((sv.snapshot(v), Dense()))
    assert len(data) < 1_000_000
    words = " ".join(argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)).split()
    assert {word for word in words if word.split(".")[0] == "statevar"} == {"statevar"}


def test_other_objects_of_ours_are_copied_or_say_that_they_cannot_be(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="v", backend=backend)
    frozen = sv.FrozenVariable(v.value)
    for how in COPIES.values():
        assert_same(how(frozen).value, [1.0, 2.0])
    w = copy.deepcopy({"v": v, "at": v.at[0]})
    w["at"].set(5.0)
    assert_same(w["v"], [5.0, 2.0])
    assert_same(v, [1.0, 2.0])
    transaction = sv.transaction(v)
    for how in COPIES.values():
        with pytest.raises(
            TypeError, match="transaction: a transaction belongs to the code that has opened it, and cannot"
        ):
            how(transaction)
    with transaction:
        v.assign([3.0, 3.0])
        with pytest.raises(TypeError, match="transaction: "):
            copy.copy(transaction)
    assert_same(v, [3.0, 3.0])


def test_the_tokens_of_variables_that_are_gone_are_forgotten() -> None:
    from tests.internals import copies

    kept = []
    for _ in range(1000):
        v = sv.Variable(0.0)
        kept.append(bytearray(40))  # so that the ids differ
        pickle.dumps(v)
        del v
    assert len(copies._tokens) < 1000 or len(copies._variables) > 300
