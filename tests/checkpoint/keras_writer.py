"""Writes models of Keras into a folder, in a process of its own, since a process has one backend of Keras.

Run as ``python -m tests.checkpoint.keras_writer FOLDER LIBRARY``, where the library is ``keras`` or ``tf_keras``.
Beside each model the arrays that it has are written, by the names that they should have.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def layers_of(keras: Any) -> list[Any]:
    """One of each layer that has variables with names of their own, and some twice."""
    layers = keras.layers
    return [
        layers.Dense(3, name="first"),
        layers.Dense(4, use_bias=False, name="second"),
        layers.BatchNormalization(name="norm"),
        layers.BatchNormalization(center=False, name="half_norm"),
        layers.LayerNormalization(name="layer_norm"),
        layers.GroupNormalization(2, name="group_norm"),
        layers.EinsumDense("ab,bc->ac", output_shape=4, bias_axes="c", name="einsum"),
        layers.Reshape((2, 2), name="reshape"),
        layers.Conv1D(3, 1, name="conv"),
        layers.SeparableConv1D(3, 1, name="separable"),
        layers.DepthwiseConv1D(1, name="depthwise"),
        layers.Conv1DTranspose(2, 1, name="transposed"),
        layers.LSTM(2, return_sequences=True, name="lstm"),
        layers.GRU(2, return_sequences=True, name="gru"),
        layers.SimpleRNN(2, return_sequences=True, name="rnn"),
    ]


def model_of(keras: Any) -> Any:
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="inside")], name="encoder")
    words = keras.Input((2,), dtype="int32", name="words")
    first = keras.layers.Flatten()(keras.layers.Embedding(5, 2, name="embedding")(words))
    x = inner(first)
    for layer in layers_of(keras):
        x = layer(x)
    x = keras.layers.MultiHeadAttention(1, 2, name="attention")(x, x)
    model = keras.Model(words, keras.layers.Dense(1, name="last")(keras.layers.Flatten()(x)), name="net")
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=v.shape).astype("float32") for v in model.weights])
    return model


def named(keras: Any, model: Any) -> dict[str, Any]:
    """The arrays of a model by the names that they should have."""
    found = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found.update({f"{layer.name}/{name}": value for name, value in named(keras, layer).items()})
            continue
        for variable in layer.weights:
            name = variable.name.partition(":")[0].rpartition("/")[2]
            path = getattr(variable, "path", variable.name).split("/")
            part = ""
            if type(layer).__name__ in ("LSTM", "GRU", "SimpleRNN"):
                part = "cell/"
            elif type(layer).__name__ == "MultiHeadAttention":
                part = "_" if keras.__name__ == "tf_keras" else ""  # the attributes are private there
                part += {"attention_output": "output"}.get(path[-2], path[-2]) + "_dense/"
            found[f"{layer.name}/{part}{name}"] = array_of(variable)
    return found


def array_of(variable: Any) -> Any:
    return variable.detach().cpu().numpy() if hasattr(variable, "detach") else variable.numpy()


def main(folder: Path, library: str) -> None:
    keras = import_module(library)
    model = model_of(keras)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    np.savez(folder / "trained.npz", **named(keras, model))
    model.save(folder / "trained.keras")
    model.save_weights(folder / "trained.weights.h5")
    model.save(folder / "trained.h5")
    if library == "keras":
        half = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, dtype="bfloat16", name="half")])
        as_numpy = keras.ops.convert_to_numpy
        arrays = {f"half/{v.name}": as_numpy(keras.ops.cast(v, "float32")) for v in half.weights}
        np.savez(folder / "half.npz", **arrays)
        half.save(folder / "half.keras")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
