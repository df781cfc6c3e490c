"""Transactions and `update_all` on TensorFlow: tensors that are computed apart, and then stored without fail."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import assert_free
from tests.helpers import address, assert_same
from tests.internals import adapter

tf = pytest.importorskip("tensorflow")

WAYS: dict[str, Callable[[list[sv.Variable]], None]] = {
    "transaction": lambda found: add_in_a_transaction(found),
    "update_all": lambda found: sv.update_all(found, "add", 1.0),
}


def made(count: int = 3, dtype: str = "float32") -> list[sv.Variable]:
    return [sv.Variable(np.array([i, 10], dtype), backend="tensorflow", name=f"v{i}") for i in range(count)]


def add_in_a_transaction(found: list[sv.Variable]) -> None:
    with sv.transaction(found):
        for v in found:
            v.assign_add(1.0)


def no_drafts(patch: pytest.MonkeyPatch) -> None:
    for verb in ("fork", "savepoint"):
        patch.setattr(type(made(1)[0]._backend), verb, lambda *_: pytest.fail("a draft"))


@pytest.mark.parametrize("dtype", ["float32", "int32", "bfloat16"])
def test_a_transaction_that_writes_each_variable_once_makes_no_drafts(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_drafts(monkeypatch)
    operators: dict[Callable[[Any, Any], Any], list[int]] = {
        operator.iadd: [2, 12],
        operator.isub: [-2, 8],
        operator.imul: [0, 20],
    }
    for op, expected in operators.items():
        (v, w), given = made(2, dtype), tf.constant([7, 7], dtype)
        before = v.value
        with sv.transaction(v, w):
            v = op(v, 2)  # it is the same variable
            w.assign(given)
        assert_same(v, expected)
        assert_same(w, [7, 7])
        assert_same(before, [0, 10])
        assert (v.version, v.dtype_name, v.shape) == (1, dtype, (2,))
        v.assign_add(w)
        assert_same(v, np.add(expected, 7))
        assert_same(w, [7, 7])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("which", range(3))
@pytest.mark.own_process(shared=True)
def test_an_interrupt_while_the_tensors_are_stored_comes_after_the_last(
    way: str, which: int, done: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = made()
    module = adapter("tensorflow").eager
    store, calls = module.store, 0

    def interrupted(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == which + 1:
            if done:
                store(*arguments)
            raise KeyboardInterrupt
        store(*arguments)

    monkeypatch.setattr(module, "store", interrupted)
    with pytest.raises(KeyboardInterrupt):
        WAYS[way](found)
    monkeypatch.undo()
    for i, v in enumerate(found):
        assert_same(v, [i + 1, 11])
        assert v.version == 1
    assert_free(*found)


@pytest.mark.parametrize("way", WAYS)
def test_snapshots_and_readers_keep_the_old_values(way: str) -> None:
    found = made()
    taken, values = sv.snapshot(found), [v.value for v in found[:2]]
    WAYS[way](found)
    WAYS[way](found)
    for i, v in enumerate(found):
        assert_same(taken[v], [i, 10])
        assert_same(v, [i + 2, 12])
    assert_same(values[1], [1, 10])


@pytest.mark.parametrize("way", WAYS)
def test_the_value_that_is_stored_can_be_written_in_place(way: str) -> None:
    found = made()
    WAYS[way](found)
    before = address(found[0])
    found[0].assign_add(tf.ones(2))
    assert address(found[0]) == before
    held = found[0].value
    found[0].assign_add(tf.ones(2))
    assert_same(held, [2, 12])
    assert_same(found[0], [3, 13])


@pytest.mark.parametrize("way", WAYS)
def test_what_a_tape_or_the_user_has_is_written_in_the_other_way(way: str) -> None:
    found = made()
    found[1].parameter.assign_add([5.0, 5.0])
    with tf.GradientTape() as tape:
        WAYS[way](found)
        loss = tf.reduce_sum(found[0].value * found[0].value)
    assert_same(tape.gradient(loss, found[0].parameter), [2, 22])
    assert_same(found[1], [7, 16])
    found[1].parameter.assign([1.0, 2.0])
    WAYS[way](found)
    assert_same(found[1], [2, 3])
    assert_same(found[2], [4, 12])


def test_an_operand_is_copied_for_the_variable() -> None:
    """The memory of a tensor may be that of somebody who writes it."""
    torch: Any = pytest.importorskip("torch")
    theirs = torch.ones(2)
    x = tf.experimental.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(theirs))
    found = made(2)
    with sv.transaction(found):
        for v in found:
            v.assign(x)
    kept = found[0].value
    theirs.fill_(5.0)
    sv.update_all(found, "add", 0.0)
    assert_same(found[0], [1, 1])
    sv.update_all(found, "assign", [x, x])
    theirs.fill_(6.0)
    assert_same(found[1], [5, 5])
    assert_same(kept, [1, 1])


def test_versions_of_tensorflow_without_what_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    module = adapter("tensorflow")
    for each in (module, module.eager):
        monkeypatch.setattr(each, "_Eager", None)
    monkeypatch.setattr(module.eager, "_execute", None)
    found = made()
    for way in WAYS.values():
        way(found)
    assert_same(found[2], [4, 12])
