"""The public suite for the state of other libraries, on what TensorFlow tracks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import CheckpointMismatchError, ForeignStateError, ReadOnlyError
from statevar.testing import StateSuite
from tests.variable.memory_ways import aligned

tf: Any = pytest.importorskip("tensorflow")


class TestModules(StateSuite):
    counts = (8, 2000)

    def make(self) -> Any:
        class Net(tf.Module):  # type: ignore[misc]  # it has no types
            def __init__(self) -> None:
                super().__init__(name="net")
                self.w = tf.Variable([[1.0, 2.0]], name="anything")
                self.count = tf.Variable(0, trainable=False)
                self.layers = [tf.Module(), {"b": tf.Variable([3.0, 4.0])}]
                self.layers[0].w = self.w  # tied
                self.pair = (tf.Variable(1.0), "a text")

        return Net()

    def change(self, thing: Any) -> None:
        thing.w.assign_add([[1.0, -1.0]])
        thing.count.assign_add(1)
        thing.layers[1]["b"].assign(thing.layers[1]["b"] * 2)
        thing.pair[0].assign_sub(3.0)

    def read(self, thing: Any) -> dict[str, Any]:
        paths = {"w": thing.w, "count": thing.count, "layers/1/b": thing.layers[1]["b"], "pair/0": thing.pair[0]}
        return {path: each.numpy() for path, each in paths.items()}


class TestCheckpointables(StateSuite):
    """A generator, and objects that only `tf.train.Checkpoint` knows."""

    def make(self) -> Any:
        inner = tf.Module()
        inner.v = tf.Variable([1.0, 2.0])
        return tf.train.Checkpoint(net=inner, rng=tf.random.Generator.from_seed(3))

    def change(self, thing: Any) -> None:
        thing.rng.normal([3])
        thing.net.v.assign_add([1.0, 1.0])

    def read(self, thing: Any) -> dict[str, Any]:
        return {"net/v": thing.net.v.numpy(), "rng/state": thing.rng.state.numpy()}


class TestModelsOfKeras2(StateSuite):
    """A compiled model round `fit`."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        self.keras: Any = pytest.importorskip("tf_keras")

    def make(self) -> Any:
        net = self.network()
        self.change(net)
        return net

    def network(self) -> Any:
        layers = self.keras.layers
        net = self.keras.Sequential(
            [
                layers.Input((4,)),
                layers.Dense(3),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Dense(3),
                layers.Dense(4, name="out"),
            ]
        )
        net.compile(self.keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
        return net

    def test_a_model_before_its_first_step_takes_the_state_of_its_optimizer(self, tmp_path: Any) -> None:
        net = self.make()
        sv.save(net, tmp_path / "x.safetensors")
        expected = self.bits(net)
        other = self.network()
        with pytest.raises(CheckpointMismatchError, match="missing +out/bias"):
            sv.load(other, tmp_path / "x.safetensors", rename={"out/bias": "out/elsewhere"})
        assert len(other.optimizer.variables) == 1  # the number of iterations
        sv.load(other, tmp_path / "x.safetensors")
        self.expect_bits(other, expected, "load")
        self.change(other)

    def change(self, thing: Any) -> None:
        x, y = np.random.default_rng(0).normal(size=(2, 8, 4))
        thing.fit(x, y, epochs=2, verbose=0)

    def read(self, thing: Any) -> dict[str, Any]:
        dense, norm, _, second, out = thing.layers
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        found = {f"batch_normalization/{name}": getattr(norm, name) for name in names}
        for path, layer in (("dense", dense), ("dense_1", second), ("out", out)):
            found |= {f"{path}/{name}": getattr(layer, name) for name in ("kernel", "bias")}
        paths = {each.ref(): path for path, each in found.items()}
        optimizer = thing.optimizer
        found |= {"optimizer/iteration": optimizer.iterations, "optimizer/learning_rate": optimizer._learning_rate}
        for number, parameter in enumerate(thing.trainable_variables):
            path = f"optimizer/{paths[parameter.ref()]}"
            found |= {f"{path}/momentums": optimizer._momentums[number]}
            found |= {f"{path}/velocities": optimizer._velocities[number]}
        return {path: each.numpy() for path, each in found.items()}


def test_a_view_is_the_variable_for_tapes_and_functions() -> None:
    w = tf.Variable([1.0, 2.0])
    v = sv.view(w)
    assert sv.view(w) is v
    assert v.parameter is w
    assert sv.get_value(w).tolist() == [1.0, 2.0]
    sv.set_value(w, [3.0, 4.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(w**2)
    assert tape.gradient(loss, w).numpy().tolist() == [6.0, 8.0]
    assert sv.assign(w, [5.0, 6.0]) is v
    assert w.numpy().tolist() == [5.0, 6.0]


def test_a_view_in_a_tf_function_is_read_and_written_by_each_call() -> None:
    w = tf.Variable([1.0, 2.0])
    v = sv.view(w)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def step(x: Any) -> Any:
        before = v.value
        v.assign_add(x)
        v.at[0].add(10.0)
        return before

    for expected in ([1.0, 2.0], [12.0, 3.0], [23.0, 4.0]):
        assert step(tf.constant([1.0, 1.0])).numpy().tolist() == expected
    assert w.numpy().tolist() == [34.0, 5.0]
    w.assign([0.0, 0.0])
    assert step(tf.constant([1.0, 1.0])).numpy().tolist() == [0.0, 0.0]


def test_what_is_assigned_is_copied() -> None:
    memory = aligned("float32", (4096,))  # TensorFlow ends the process if it computes with other memory
    memory[:] = 1
    w = tf.Variable(np.zeros(4096, np.float32))
    sv.view(w).assign(tf.experimental.dlpack.from_dlpack(memory.__dlpack__()))
    memory[:] = 7
    assert w.numpy()[0] == 1


def test_trainable_is_fixed() -> None:
    v = sv.view(tf.Variable(1.0))
    with pytest.raises(ReadOnlyError, match="TensorFlow decides whether a tf.Variable is trainable when it makes it"):
        v.trainable = False
    assert v.trainable


def test_what_cannot_be_taken_is_named() -> None:
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    module = tf.Module()
    module.v, module.table = tf.Variable(1.0), table
    with pytest.raises(ForeignStateError, match="has state of tensorflow, which statevar would leave out, at 'table'"):
        sv.snapshot(module)
