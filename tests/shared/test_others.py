"""What cannot be shared says why and what to do, and nothing of it has moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar import errors

from ..helpers import assert_same, host

BELONGS = (
    "share: the value belongs to an object of another library, which would go on with memory of its own, at {path!r}. "
    "Hint: share a variable with a copy of it, sv.Variable(v), and carry values over with assign."
)


def refused(kind: type[Exception], model: Any, shm: Path) -> str:
    """The error of sharing a model with a variable beside it, which is left as it was."""
    beside = sv.Variable(np.ones(3, np.float32))
    with pytest.raises(kind) as error:
        sv.share({"beside": beside, "model": model}, "refused")
    assert beside.shared is None
    assert not [each for each in shm.rglob("*") if each.is_file()]
    return str(error.value)


def a_module_of_torch() -> tuple[Any, str]:
    import torch

    return torch.nn.Linear(2, 3), "weight"


def a_model_of_keras() -> tuple[Any, str]:
    keras = pytest.importorskip("keras")
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3, name="dense")]), "dense/kernel"


def a_module_of_flax() -> tuple[Any, str]:
    nnx = pytest.importorskip("flax.nnx")
    return nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "kernel"


def a_variable_of_tensorflow() -> tuple[Any, str]:
    import tensorflow as tf

    return tf.Variable([1.0]), ""


def a_view() -> tuple[Any, str]:
    return sv.view({"x": np.ones(3)}), "x"


@pytest.mark.parametrize(
    "make", [a_module_of_torch, a_model_of_keras, a_module_of_flax, a_variable_of_tensorflow, a_view]
)
def test_the_state_of_other_libraries(make: Callable[[], tuple[Any, str]], shm: Path) -> None:
    model, path = make()
    before = [host(each) for each in sv.variables(model)]
    assert before
    assert refused(errors.ForeignStateError, model, shm) == BELONGS.format(path=f"model/{path}".rstrip("/"))
    for each, value in zip(sv.variables(model), before, strict=True):
        assert each.shared is None
        assert_same(each, value)


def test_a_parameter_that_others_have(shm: Path) -> None:
    torch = pytest.importorskip("torch")
    problem = "share: code outside has v.parameter, such as an optimizer or a module, and it would write other memory"
    hint = "Hint: share a variable with a copy of it, sv.Variable(v), and carry values over with assign."
    v = sv.Variable(np.ones(3, np.float32), backend="torch")
    optimizer = torch.optim.SGD([v.parameter], lr=1.0)
    assert refused(errors.ForeignStateError, v, shm) == f"{problem}, at 'model'. {hint}"
    v.value.sum().backward()
    optimizer.step()  # which still has it
    assert_same(v.value, np.zeros(3))
    module = torch.nn.Module()
    module.w = w = sv.Variable(np.ones(3, np.float32), backend="torch")
    assert refused(errors.ForeignStateError, w, shm) == f"{problem}, at 'model'. {hint}"


def test_attributes_of_other_libraries(shm: Path) -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable(np.ones(3, np.float32), shared="run7/w", backend="torch")
    module = torch.nn.Linear(2, 3)
    with pytest.raises(errors.ForeignStateError) as error:
        module.scale = v
    assert str(error.value) == (
        "attribute: a module of torch cannot register a variable that processes share, so parameters() and "
        "state_dict() would leave it out, at 'Linear.scale'. Hint: keep the variable outside of it, and give its code "
        "v.value."
    )
    with pytest.raises(AttributeError, match=r"a shared variable has no parameter.* use v\.value, and write with"):
        torch.optim.SGD([v.parameter], lr=1.0)
    assert set(dict(module.named_parameters())) == {"weight", "bias"}


def test_layers_of_keras(shm: Path) -> None:
    keras = pytest.importorskip("keras")
    v = sv.Variable(np.float32(1), shared="run7/w", backend="tensorflow")
    layer = keras.layers.Layer()
    with pytest.raises(errors.ForeignStateError, match="a variable that processes share.*keep the variable outside"):
        layer.scale = v


def test_values_that_lie_elsewhere(shm: Path) -> None:
    jax = pytest.importorskip("jax")
    if len(jax.devices()) > 1:
        v = sv.Variable(jax.device_put(np.ones(3, np.float32), jax.devices()[1]))
        assert refused(errors.DeviceError, v, shm) == (
            "share: the value is on CPU:1, and what processes share lies on the host, at 'model'. Hint: bring it to "
            "the host first: v.to('CPU:0'), v.reshard(None)."
        )
        assert v.device == "cpu:1"
    spread = jax.sharding.NamedSharding(
        jax.sharding.Mesh(np.array(jax.devices()), ("x",)), jax.sharding.PartitionSpec("x")
    )
    v = sv.Variable(jax.device_put(np.ones(len(jax.devices()), np.float32), spread))
    if len(jax.devices()) > 1:
        text = refused(errors.DeviceError, v, shm)
        assert "Hint: bring it to the host first: v.to('CPU:0'), v.reshard(None)." in text
    key = sv.Variable(jax.random.key(0), backend="jax")
    text = refused(errors.DTypeError, key, shm)
    assert "a key of jax.random (key<fry>) is no number" in text
    assert "Hint: jax.random.key_data(v.value) are the numbers of a key." in text


def test_variables_without_a_value(shm: Path, backend: str) -> None:
    v = sv.Variable(shape=(3,), backend=backend)
    assert refused(errors.UninitializedError, v, shm) == (
        "share: the variable has no value yet, at 'model'. Hint: share it after its first assignment."
    )
    v.assign(np.ones(3, np.float32))
    sv.share({"v": v}, "run7")
    later = sv.Variable(shape=(3,), shared="run7/v", backend=backend)
    assert_same(later.value, np.ones(3))
