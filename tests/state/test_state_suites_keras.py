"""The public suite for the state of other libraries, on Keras 3.

Keras computes with one library in a process. Here it is that of ``KERAS_BACKEND``; the last test runs this file again
with each of the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
keras: Any = pytest.importorskip("keras")

import statevar as sv  # noqa: E402  # after the choice of the backend
from statevar.errors import CheckpointMismatchError, ForeignStateError  # noqa: E402
from statevar.testing import StateSuite  # noqa: E402
from tests.helpers import thorough  # noqa: E402

BACKEND = os.environ["KERAS_BACKEND"]
TRAINS = BACKEND != "numpy"  # which has no gradients
X, Y = np.random.default_rng(0).normal(size=(2, 8, 4)).astype(np.float32)


def host(variable: Any) -> Any:
    return keras.ops.convert_to_numpy(variable.value)


def network() -> Any:
    layers = keras.layers
    net = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(3),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
            layers.Dense(4, name="out"),
        ]
    )
    net.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
    return net


class TestModels(StateSuite):
    """A compiled model round `fit`, which on JAX donates the arrays that it finds."""

    counts = (8, 2000)

    def make(self) -> Any:
        net = network()
        self.change(net)
        return net

    def change(self, thing: Any) -> None:
        if TRAINS:
            thing.fit(X, Y, epochs=2, verbose=0)
        else:
            for each in thing.variables:
                each.assign(host(each) + np.ones((), each.dtype))

    def read(self, thing: Any) -> dict[str, Any]:
        dense, norm, dropout, second, out = thing.layers
        found = {f"dense/{name}": getattr(dense, name) for name in ("kernel", "bias")}
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        found |= {f"batch_normalization/{name}": getattr(norm, name) for name in names}
        found |= {f"dense_1/{name}": getattr(second, name) for name in ("kernel", "bias")}
        found |= {"dropout/seed_generator/state": dropout.seed_generator.state}
        found |= {f"out/{name}": getattr(out, name) for name in ("kernel", "bias")}
        trained = {id(each): path for path, each in found.items()}
        optimizer = thing.optimizer
        found |= {"optimizer/iteration": optimizer.iterations, "optimizer/learning_rate": optimizer._learning_rate}
        for number, parameter in enumerate(optimizer._trainable_variables if optimizer.built else ()):
            path = f"optimizer/{trained[id(parameter)]}"
            found |= {f"{path}/momentum": optimizer._momentums[number]}
            found |= {f"{path}/velocity": optimizer._velocities[number]}
        return {path: host(each) for path, each in found.items()}


class TestParts(StateSuite):
    """What may stand alone: a layer that the user wrote, a metric and a seed generator."""

    def make(self) -> Any:
        class Scale(keras.layers.Layer):  # type: ignore[misc]  # it has no types
            def __init__(self) -> None:
                super().__init__()
                self.scale = self.add_weight(shape=(2,), initializer="ones", name="factor")
                self._blocks = [keras.layers.Dense(1), {"deep": keras.layers.Dense(2)}]
                self.noise = keras.random.SeedGenerator(3)

            def call(self, x: Any) -> Any:
                return self._blocks[1]["deep"](self._blocks[0](x * self.scale))

        layer = Scale()
        layer(np.ones((3, 2), np.float32))
        thing = {"layer": layer, "mean": keras.metrics.Mean(name="mean")}
        self.change(thing)
        return thing

    def change(self, thing: Any) -> None:
        thing["layer"].scale.assign(host(thing["layer"].scale) * 2)
        keras.random.normal((2,), seed=thing["layer"].noise)
        thing["mean"].update_state([1.0, 2.0])

    def read(self, thing: Any) -> dict[str, Any]:
        layer = thing["layer"]
        first, second = layer._blocks[0], layer._blocks[1]["deep"]
        found = {
            "layer/_blocks/0/kernel": first.kernel,
            "layer/_blocks/0/bias": first.bias,
            "layer/_blocks/1/deep/kernel": second.kernel,
            "layer/_blocks/1/deep/bias": second.bias,
            "layer/noise/state": layer.noise.state,
            "layer/factor": layer.scale,
            **{f"mean/{each.name}": each for each in thing["mean"].variables},
        }
        return {path: host(each) for path, each in found.items()}


def test_layers_are_found_whatever_they_are_called() -> None:
    """Keras numbers layers and variables without a name for each process; two weights of a layer may have one name."""

    class Pair(keras.layers.Layer):  # type: ignore[misc]  # it has no types
        def build(self, shape: Any) -> None:
            self.one = self.add_weight(shape=(2,), name="k")
            self.two = self.add_weight(shape=(2,), name="k")
            self.inner = keras.layers.Dense(2, name="k")
            self.inner.build(shape)

        def call(self, x: Any) -> Any:
            return self.inner(x) * self.one + self.two

    def make() -> Any:
        layers = keras.layers
        inner = keras.Sequential([layers.Input((6, 6, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2)])
        lstm = layers.Bidirectional(layers.LSTM(2))
        shape = layers.Reshape((2, 1))
        net = keras.Sequential([layers.Input((6, 6, 1)), inner, shape, lstm, layers.Dense(2), Pair()])
        net.compile(keras.optimizers.Nadam(0.1), "mse")
        net.optimizer.build(net.trainable_variables)
        return net

    first, second = make(), make()
    found = sv.named_variables(first)
    assert list(found) == list(sv.named_variables(second))
    assert len(found) == len(first.variables) + len(first.optimizer.variables)
    for path in ("sequential/conv2d/kernel", "bidirectional/forward_layer/cell/recurrent_kernel", "pair/inner/bias"):
        assert path in found
        assert any(name.startswith(f"optimizer/{path}/") for name in found)
    assert {"pair/k", "pair/k_1", "optimizer/u_product", "optimizer/pair/k_1/momentum"} <= set(found)


def test_state_of_others_in_a_layer_is_found() -> None:
    layer = keras.layers.Dense(2)
    layer.build((3, 3))
    layer.more = [np.random.default_rng(1)]
    assert list(sv.named_variables(layer)) == ["more/0", "kernel", "bias"]


def test_a_layer_in_an_attribute_has_the_name_of_the_attribute() -> None:
    class Net(keras.Model):  # type: ignore[misc]  # it has no types
        def __init__(self) -> None:
            super().__init__()
            self.first = keras.layers.Dense(2)
            self.more = [keras.layers.Dense(3)]

        def call(self, x: Any) -> Any:
            return self.more[0](self.first(x))

    net = Net()
    net(X)
    assert sorted(sv.named_variables(net)) == ["first/bias", "first/kernel", "more/0/bias", "more/0/kernel"]


def test_a_layer_that_is_not_built_is_named() -> None:
    net = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    problem = r"is not built, so its variables do not exist yet.*call the model once"
    with pytest.raises(ForeignStateError, match=problem):
        sv.snapshot({"net": net, "v": sv.Variable(1.0)})


def test_a_model_before_its_first_step_takes_the_state_of_its_optimizer(tmp_path: Any) -> None:
    if not TRAINS:
        pytest.skip("Keras does not train with NumPy")
    net, suite = TestModels().make(), TestModels()
    sv.save(net, tmp_path / "x.safetensors")
    expected = suite.bits(net)
    other = network()
    with pytest.raises(CheckpointMismatchError, match="missing +out/bias"):
        sv.load(other, tmp_path / "x.safetensors", rename={"out/bias": "out/elsewhere"})
    assert not other.optimizer.built
    assert len(other.optimizer.variables) == 2
    sv.load(other, tmp_path / "x.safetensors")
    suite.expect_bits(other, expected, "load")
    other.fit(X, Y, verbose=0)


def test_the_state_of_plain_variables_of_tensorflow_in_an_optimizer_is_state(tmp_path: Any) -> None:
    """As in a loop of one's own, without a model of Keras."""
    if BACKEND != "tensorflow":
        pytest.skip("Keras takes variables of the library that it computes with")
    tf = pytest.importorskip("tensorflow")
    w, b = tf.Variable([1.0, 2.0]), sv.Variable([3.0], backend="tensorflow", name="b")
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build([w, b.parameter])
    tree = {"w": w, "b": b, "optimizer": optimizer}
    states = [f"optimizer/{name}/{state}" for name in ("w", "b") for state in ("momentum", "velocity")]
    assert list(sv.view(tree)) == ["w", "b", "optimizer/iteration", "optimizer/learning_rate", *states]
    optimizer.apply_gradients([(tf.ones(2), w), (tf.ones(1), b.parameter)])
    sv.save(tree, tmp_path / "x.safetensors")
    kept = sv.view(tree)["optimizer/w/momentum"].numpy()
    optimizer.apply_gradients([(tf.ones(2), w), (tf.ones(1), b.parameter)])
    sv.load(tree, tmp_path / "x.safetensors")
    np.testing.assert_array_equal(host(optimizer._momentums[0]), kept)


def test_a_callback_writes_during_fit() -> None:
    if not TRAINS:
        pytest.skip("Keras does not train with NumPy")
    net = network()
    net.optimizer.learning_rate = 0.0
    seen = []

    class Set(keras.callbacks.Callback):  # type: ignore[misc]  # it has no types
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            found = sv.named_variables(self.model)
            seen.append(float(sv.get_value(found["out/bias"])[0]))
            sv.set_value(found["out/bias"], np.full(4, epoch + 1.0))

    net.fit(X, Y, epochs=3, verbose=0, callbacks=[Set()])
    assert seen == [0.0, 1.0, 2.0]
    assert host(net.layers[-1].bias).tolist() == [3.0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("library", thorough(["torch"], ["jax", "torch", "numpy"]))
def test_the_same_with_another_backend_of_keras(library: str) -> None:
    if BACKEND != "tensorflow":
        pytest.skip("this is the run with another backend")
    pytest.importorskip(library)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(
        command, env=os.environ | {"KERAS_BACKEND": library}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
