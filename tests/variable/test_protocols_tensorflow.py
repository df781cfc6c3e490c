"""The table of ``docs/protocols.md``: TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.variable.protocols import OTHER, VALUE, Call, assert_result, calls, row, variable

TENSORFLOW: dict[str, tuple[Call, Call]] = {
    "convert_to_tensor": (lambda tf, v: tf.convert_to_tensor(v), np.asarray),
    "constant": (lambda tf, v: tf.constant(v), np.asarray),
    "sin": (lambda tf, v: tf.sin(v), np.sin),
    "add": (lambda tf, v: tf.add(v, v), lambda a: a + a),
    "matmul": (lambda tf, v: tf.matmul(OTHER, v), lambda a: OTHER @ a),
    "reduce_sum": (lambda tf, v: tf.reduce_sum(v, axis=0), lambda a: a.sum(0)),
    "concat": (lambda tf, v: tf.concat([v, OTHER], 0), lambda a: np.concatenate([a, OTHER])),
    "stack": (lambda tf, v: tf.stack([v, v]), lambda a: np.stack([a, a])),
    "cast": (lambda tf, v: tf.cast(v, tf.int32), lambda a: a.astype(np.int32)),
    "where": (lambda tf, v: tf.where(OTHER > 1, v, 0.0), lambda a: np.where(OTHER > 1, a, 0)),
    "reshape": (lambda tf, v: tf.reshape(v, [-1]), lambda a: a.reshape(-1)),
    "gather": (lambda tf, v: tf.gather(v, [1, 0]), lambda a: a[[1, 0]]),
    "map_fn": (lambda tf, v: tf.map_fn(lambda x: x * 2, v), lambda a: a * 2),
    "nn.softmax": (lambda tf, v: tf.nn.softmax(v), lambda a: np.exp(a) / np.exp(a).sum(1, keepdims=True)),
    "c + v": (lambda tf, v: tf.constant(OTHER) + v, lambda a: OTHER + a),
    "v - c": (lambda tf, v: v - tf.constant(OTHER), lambda a: a - OTHER),
    "c @ v": (lambda tf, v: tf.constant(OTHER) @ v, lambda a: OTHER @ a),
    "Variable(v)": (lambda tf, v: tf.Variable(v).value(), np.asarray),
    "Variable.assign(v)": (lambda tf, v: tf.Variable(tf.zeros((2, 2))).assign(v).value(), np.asarray),
    "Variable + v": (lambda tf, v: tf.Variable(OTHER) + v, lambda a: OTHER + a),
    "function(f)(v)": (lambda tf, v: tf.function(lambda x: tf.sin(x) * x)(v), lambda a: np.sin(a) * a),
    "function(f)({'w': v})": (lambda tf, v: tf.function(lambda tree: tf.sin(tree["w"]))({"w": v}), np.sin),
    "data": (lambda tf, v: list(tf.data.Dataset.from_tensor_slices(v)), list),
    "data.batch": (lambda tf, v: next(iter(tf.data.Dataset.from_tensors(v).batch(1))), lambda a: a[None]),
}


@row(TENSORFLOW)
def test_tensorflow_functions_take_a_variable(backend: str, tf: Any, call: Call, expected: Call) -> None:
    assert_result(call(tf, variable(backend)), "tensorflow", expected(VALUE))


def test_a_tensorflow_function_over_a_variable_reads_those_of_tensorflow_only(backend: str, tf: Any) -> None:
    v = variable(backend)
    function = tf.function(lambda: tf.sin(v))
    if backend == "tensorflow":
        assert_result(function(), "tensorflow", np.sin(VALUE))
        return
    with pytest.raises(sv.errors.TraceError, match="tensorflow is tracing this code: the current value would be baked"):
        function()


def test_a_tensorflow_function_sees_every_write_to_its_argument(backend: str, tf: Any) -> None:
    v = variable(backend)
    traces = []

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def double(x: Any) -> Any:
        traces.append(x)
        return x * 2

    for _ in range(3):
        assert_same(double(v), v.numpy() * 2)
        v.assign_add(1.0)
    assert len(traces) == 1


def test_a_tensorflow_function_reads_and_writes_the_variable_it_closes_over(tf: Any) -> None:
    v = variable("tensorflow")

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def step(x: Any) -> Any:
        before = v * 1
        v.assign_add(x)
        after = v.value
        v.assign(v * 2)
        v[0] = 0.0
        return before, after

    expected = VALUE
    for count in (1, 2):
        before, after = step(tf.constant(OTHER))
        assert_same(before, expected)
        assert_same(after, expected + OTHER)
        expected = (expected + OTHER) * 2
        expected[0] = 0.0
        assert_same(v, expected)
        assert_same(v.parameter, expected)
        assert v.version == 3 * count
    v.assign(VALUE)
    assert_same(step(tf.constant(OTHER))[0], VALUE)
    assert v.version == 10


def test_writes_in_a_tensorflow_loop_are_counted_as_they_run(tf: Any) -> None:
    v = sv.Variable(0, backend="tensorflow")

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def count(times: Any) -> Any:
        for _ in tf.range(times):
            v.assign_add(1)
        return v.value

    assert int(count(tf.constant(5))) == 5
    assert int(count(tf.constant(7))) == 12
    assert v.version == 12


TAPED: dict[str, Call] = {
    "tf.multiply(v, x)": lambda tf, v, x: tf.multiply(v, x),
    "v * x": lambda tf, v, x: v * x,
    "x * v": lambda tf, v, x: x * v,
    "v.value * x": lambda tf, v, x: v.value * x,
    "ndarray * v": lambda tf, v, x: x.numpy() * v,
    "stack([v]) * x": lambda tf, v, x: tf.stack([v]) * x,
    "v[:] * x": lambda tf, v, x: v[:] * x,
    "function(f)(v)": lambda tf, v, x: tf.function(lambda w: w * x)(v),
    "function over v": lambda tf, v, x: tf.function(lambda: tf.multiply(v, x))(),
}


@calls(TAPED)
def test_a_gradient_tape_watches_the_reads_of_a_trainable_variable(tf: Any, call: Call) -> None:
    v, constant, x = variable("tensorflow"), variable("tensorflow", trainable=False), tf.constant(OTHER)
    v.value, constant.value  # noqa: B018  # an earlier read must not be what the tape gets
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(call(tf, v, x)) + tf.reduce_sum(call(tf, constant, x))
    gradients = tape.gradient(loss, [v.parameter, constant.parameter])
    assert_same(gradients[0], OTHER)
    assert gradients[1] is None


def test_gradients_of_tensorflow_take_a_variable(tf: Any) -> None:
    v, w = variable("tensorflow", name="v"), variable("tensorflow", OTHER)
    with tf.GradientTape(persistent=True) as tape:
        loss = tf.reduce_sum(v * v * w)
    assert_same(tape.gradient(loss, v), 2 * VALUE * OTHER)
    by_name = tape.gradient(loss, {"v": v, "w": [w.parameter]})
    assert_same(by_name["v"], 2 * VALUE * OTHER)
    assert_same(by_name["w"][0], VALUE**2)
    assert_same(tape.jacobian(loss, v), 2 * VALUE * OTHER)
    assert tape.gradient(loss, variable("tensorflow", trainable=False)) is None
    assert_same(tf.function(lambda: tf.gradients(tf.reduce_sum(v * v), [v]))()[0], 2 * VALUE)
    v.assign_add(1.0)
    assert_same(v, VALUE + 1)


@pytest.mark.parametrize("other", ["numpy", "jax", "torch"])
def test_a_gradient_tape_has_no_gradient_of_a_variable_of_another_library(tf: Any, other: str) -> None:
    pytest.importorskip(other)
    v = variable(other, name="v")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(v))
    with pytest.raises(AttributeError, match=r"has no attribute 'handle', at 'v'. Hint: write v.parameter"):
        tape.gradient(loss, v)


def test_a_gradient_tape_watches_the_parameter_and_not_the_variable(backend: str, tf: Any) -> None:
    v = variable(backend)
    with tf.GradientTape() as tape, pytest.raises(ValueError, match="not tf"):
        tape.watch(v)


def test_tensorflow_writes_through_the_parameter(tf: Any) -> None:
    v = variable("tensorflow")
    before = v.value
    v.parameter.assign_sub(0.5 * tf.ones((2, 2)))
    assert_same(v, VALUE - 0.5)
    assert_same(before, VALUE)


def test_an_index_of_a_tensor_must_be_the_value(backend: str, tf: Any) -> None:
    v = variable(backend, np.array([1, 0], np.int32))
    with pytest.raises(TypeError):
        tf.range(3)[v]
    assert_same(tf.gather(tf.range(3), v), [1, 0])
