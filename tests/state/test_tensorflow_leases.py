"""A snapshot of variables of TensorFlow makes no tensors; who writes a variable keeps its value for the snapshot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.internals import engine

tf = pytest.importorskip("tensorflow")


def made(count: int = 3) -> list[sv.Variable]:
    return [sv.Variable([1.0 + i, 2.0], backend="tensorflow", name=f"v{i}") for i in range(count)]


def by_a_graph(v: sv.Variable) -> None:
    tf.function(lambda: (v.assign_add([1.0, 1.0]), None)[1], autograph=False)()


def by_a_compiled_function(v: sv.Variable) -> None:
    sv.jit(lambda: (v.assign_add(1.0), None)[1])()


def by_a_transaction(v: sv.Variable) -> None:
    with sv.transaction(v):
        v *= 2.0


def under_a_tape(v: sv.Variable) -> None:
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(v.value)
        v.assign(v.value + 1.0)
    assert_same(tape.gradient(loss, v), [1.0, 1.0])


WRITES: dict[str, Callable[[sv.Variable], object]] = {
    "assign": lambda v: v.assign([7.0, 7.0]),
    "assign without locking": lambda v: v.assign([7.0, 7.0], use_locking=False),
    "assign_add": lambda v: v.assign_add(1.0),
    "divide": lambda v: v.__itruediv__(2.0),
    "rows": lambda v: v.at[[0, 1, 0]].add(1.0),
    "a slice": lambda v: v.__setitem__(slice(1), 5.0),
    "a mask": lambda v: v.__setitem__(v.value > 0.0, 5.0),
    "another shape": lambda v: v.assign([[5.0]], validate_shape=False),
    "update": lambda v: v.update(lambda value: value * 2.0),
    "a transaction": by_a_transaction,
    "a graph": by_a_graph,
    "a compiled function": by_a_compiled_function,
    "the parameter": lambda v: v.parameter.assign([9.0, 9.0]),
    "a scatter into the parameter": lambda v: v.parameter.scatter_nd_add([[0]], [1.0]),
    "the handle": lambda v: tf.raw_ops.AssignAddVariableOp(resource=v.handle, value=[1.0, 1.0]),  # type: ignore[attr-defined]
    "restore": lambda v: sv.restore(sv.snapshot(v.assign([3.0, 3.0]))),
    "under a tape": under_a_tape,
}


@pytest.mark.parametrize("write", WRITES)
def test_no_write_changes_a_snapshot(write: str) -> None:
    variables = made()
    before = sv.snapshot(variables)
    WRITES[write](variables[0])
    between = sv.snapshot(variables)
    now = variables[0].numpy()
    WRITES[write](variables[0])
    assert_same(before[variables[0]], [1.0, 2.0])
    assert_same(between[variables[0]], now)
    assert_same(before[variables[1]], [2.0, 2.0])
    sv.restore(before)
    assert_same(variables[0], [1.0, 2.0])


def test_a_snapshot_makes_no_tensors_before_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    variables = made(10)
    for v in variables:
        v.assign_add(1.0)
    module, read = engine("tensorflow_handles"), []

    def counted(**arguments: Any) -> Any:
        read.append(1)
        return tf.raw_ops.ReadVariableOp(**arguments)

    monkeypatch.setattr(module, "READ", counted)
    taken = sv.snapshot(variables)
    assert not read
    variables[0].assign_add(1.0)  # keeps one
    assert len(read) == 1
    assert_same(taken[variables[0]], [2.0, 3.0])
    assert len(read) == 1
    assert_same(taken[variables[1]], [3.0, 3.0])
    assert_same(taken[variables[1]], [3.0, 3.0])
    assert len(read) == 2
    del taken
    for v in variables:  # nobody has their values
        v.assign_add(1.0)
    assert len(read) == 2
    assert_same(sv.snapshot(variables)[variables[0]], [4.0, 5.0])


def test_a_snapshot_is_read_in_a_graph_as_a_constant() -> None:
    v = sv.Variable([1.0, 2.0], backend="tensorflow", name="v")
    taken = sv.snapshot(v)
    read = tf.function(lambda: taken[v] + 0.0)
    assert_same(read(), [1.0, 2.0])
    v.assign([5.0, 5.0])
    assert_same(read(), [1.0, 2.0])
    assert_same(taken[v], [1.0, 2.0])


def test_a_snapshot_that_was_taken_before_has_no_gradient() -> None:
    v = sv.Variable([1.0, 2.0], backend="tensorflow", name="v")
    taken = sv.snapshot(v)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(v.value * taken[v])
    assert_same(tape.gradient(loss, v), [1.0, 2.0])


def test_values_are_freed_with_the_snapshot() -> None:
    v = sv.Variable(np.zeros(1000, "float32"), backend="tensorflow")
    v.assign_add(1.0)

    def address() -> int:
        return int(np.asarray(v.value).ctypes.data)

    before = address()
    taken = sv.snapshot(v)
    v.assign_add(1.0)
    assert address() != before
    assert_same(taken[v], np.ones(1000))
    after = address()
    del taken
    v.assign_add(1.0)
    assert address() == after  # in place
