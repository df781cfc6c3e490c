"""Variables as attributes of objects in which another library looks for its state: registered there, or an error."""

# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv


def module_of(torch: Any, v: sv.Variable) -> Any:
    net = torch.nn.Sequential(torch.nn.Linear(2, 1))
    net.w = v
    return net


def variable_of(backend: str, **options: Any) -> sv.Variable:
    return sv.Variable([1.0, 2.0], backend=backend, **options)


# -- torch -------------------------------------------------------------------------------------------------------------


def test_a_module_of_torch_registers_a_variable() -> None:
    torch = pytest.importorskip("torch")
    v = variable_of("torch", name="w")
    net = module_of(torch, v)
    assert net.w is v.parameter
    assert sv.view(net.w) is v
    assert [name for name, _ in net.named_parameters()] == ["w", "0.weight", "0.bias"]
    assert net.state_dict()["w"].tolist() == [1.0, 2.0]
    found = sv.named_variables({"v": v, "net": net})
    assert list(found) == ["v", "net/0/weight", "net/0/bias"]
    assert sv.named_variables(net)["w"] is v
    net.steps = sv.Variable(0, trainable=False, backend="torch")
    assert not net.steps.requires_grad
    assert net.state_dict()["steps"] == 0


def test_what_torch_does_to_its_module_is_done_to_the_variable() -> None:
    torch = pytest.importorskip("torch")
    v = variable_of("torch")
    net = module_of(torch, v)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    net.w.square().sum().backward()
    optimizer.step()
    assert v.value.tolist() == [-1.0, -2.0]
    v.assign([3.0, 4.0])
    assert net.state_dict()["w"].tolist() == [3.0, 4.0]
    net.load_state_dict({**net.state_dict(), "w": torch.tensor([5.0, 6.0])})
    assert v.value.tolist() == [5.0, 6.0]
    swapped = torch.func.functional_call(doubling(v), {"w": torch.ones(2)}, ())
    assert swapped.tolist() == [2.0, 2.0]
    net.double()
    with pytest.raises(sv.errors.DTypeError, match="code outside has changed the value to float64"):
        v.numpy()


def doubling(v: sv.Variable) -> Any:  # the class exists only with torch
    import torch

    class Doubles(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = v
            self.calls = 0

        def forward(self) -> Any:
            self.calls = self.calls + 1
            return self.w * 2

    return Doubles()


def test_copies_and_pickles_of_a_module_of_torch_have_one_state() -> None:
    torch = pytest.importorskip("torch")
    v = variable_of("torch")
    net = module_of(torch, v)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    buffer = io.BytesIO()
    torch.save({"net": net, "optimizer": optimizer}, buffer)
    buffer.seek(0)
    for copied, stepping in (
        copy.deepcopy((net, optimizer)),
        tuple(torch.load(buffer, weights_only=False).values()),
        pickle.loads(pickle.dumps((net, optimizer))),
    ):
        copied.w.sum().backward()
        stepping.step()
        assert copied.w.tolist() == [0.0, 1.0]
        sv.view(copied.w).assign([7.0, 8.0])
        assert copied.state_dict()["w"].tolist() == [7.0, 8.0]
        assert v.value.tolist() == [1.0, 2.0]


def test_a_compiled_and_a_traced_module_of_torch_use_the_variable() -> None:
    torch = pytest.importorskip("torch")
    v = variable_of("torch")
    net = doubling(v)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for _ in range(2):
        assert compiled().tolist() == (v.value * 2).tolist()
        v.assign_add(1.0)
    assert net.calls == 2
    assert list(dict(torch.fx.symbolic_trace(net).named_parameters())) == ["w"]
    assert list(torch.export.export(doubling(v), ()).state_dict) == ["w"]
    assert torch.equal(torch.optim.swa_utils.AveragedModel(net).module(), net())
    pytest.importorskip("torch.nn.utils.prune").random_unstructured(net, "w", amount=1)
    assert list(net.state_dict()) == ["w_orig", "w_mask"]


def test_an_attribute_of_a_module_of_torch_is_replaced_and_deleted() -> None:
    torch = pytest.importorskip("torch")
    v, other = variable_of("torch"), variable_of("torch")
    net = module_of(torch, v)
    net.w = other
    assert sv.view(net.w) is other
    net.w = torch.nn.Parameter(torch.zeros(3))
    assert dict(net.named_parameters())["w"].tolist() == [0.0, 0.0, 0.0]
    net.w = v
    del net.w
    assert not hasattr(net, "w")
    assert "w" not in net.state_dict()
    with pytest.raises(TypeError, match="cannot assign 'int' as parameter"):
        net.w = v
        net.w = 3
    listed = torch.nn.ParameterList([v, other])
    assert sv.variables(listed) == (v, other)


def test_a_variable_lives_as_long_as_the_module_that_registers_it() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Module()
    net.w = sv.Variable([1.0, 2.0], backend="torch", constraint=lambda x: x.clamp(min=0.0))
    gc.collect()
    sv.view(net.w).assign([-1.0, 3.0])
    assert net.w.tolist() == [0.0, 3.0]
    dead = weakref.ref(sv.view(net.w))
    del net
    gc.collect()
    assert dead() is None


def test_a_view_is_registered_as_the_thing_that_it_views() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.ones(2))
    net = torch.nn.Module()
    net.w = sv.view(weight)
    assert net.w is weight
    norm = torch.nn.BatchNorm1d(2)
    with pytest.raises(sv.errors.ForeignStateError, match="a module of torch cannot register a view of an item"):
        net.mean = sv.named_variables(norm)["running_mean"]


def test_a_variable_is_no_buffer() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Module()
    text = "a module of torch cannot register a variable as a buffer, .*, at 'Module.b'. Hint: assign it, b = v"
    with pytest.raises(sv.errors.ForeignStateError, match=text):
        net.register_buffer("b", variable_of("torch"))
    assert not net.state_dict()
    net.register_buffer("b", torch.zeros(2))


def test_a_variable_without_a_value_is_not_registered() -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Module()
    with pytest.raises(sv.errors.UninitializedError, match="parameter: "):
        net.w = sv.Variable(shape=2, dtype="float32", backend="torch")
    assert not hasattr(net, "w")


# -- TensorFlow --------------------------------------------------------------------------------------------------------


def test_a_module_of_tensorflow_registers_a_variable(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    v = variable_of("tensorflow")
    module = tf.Module()
    module.w = v
    assert module.w is v.parameter
    assert module.trainable_variables == (v.parameter,)
    assert sv.view(module.w) is v
    checkpoint = tf.train.Checkpoint(module=module, v=v)
    path = checkpoint.save(str(tmp_path / "x"))
    v.assign([3.0, 4.0])
    checkpoint.restore(path).assert_consumed()
    assert v.numpy().tolist() == [1.0, 2.0]
    assert tf.train.load_checkpoint(path).has_tensor("v/.ATTRIBUTES/VARIABLE_VALUE")
    del module.w
    assert not module.variables
    with pytest.raises(
        sv.errors.ForeignStateError, match=r"tensorflow in a list, .*, at 'Module.ws'. Hint: put v.param"
    ):
        module.ws = [v]


def test_a_layer_of_keras_2_registers_a_variable() -> None:
    pytest.importorskip("tensorflow")
    keras = pytest.importorskip("tf_keras")
    v = variable_of("tensorflow")
    layer = keras.layers.Layer()
    layer.w = v
    (weight,) = layer.trainable_weights
    assert weight is v.parameter


# -- errors ------------------------------------------------------------------------------------------------------------


def of_torch() -> Any:
    return pytest.importorskip("torch").nn.Linear(1, 1)


def of_tensorflow() -> Any:
    return pytest.importorskip("tensorflow").Module()


def of_checkpoints() -> Any:
    return pytest.importorskip("tensorflow").train.Checkpoint()


def of_tf_keras() -> Any:
    pytest.importorskip("tensorflow")
    return pytest.importorskip("tf_keras").layers.Dense(1)


def of_keras() -> Any:
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras").layers.Dense(1)


def of_keras_metrics() -> Any:
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras").metrics.Mean()


def of_nnx() -> Any:
    pytest.importorskip("jax")
    nnx = pytest.importorskip("flax.nnx")
    return nnx.Linear(1, 1, rngs=nnx.Rngs(0))


MAKE = "Hint: make it a variable of {0}, sv.Variable\\(v, backend='{1}'\\), or keep the variable outside of it"
ADD_WEIGHT = "Hint: let Keras make the variable, w = self.add_weight"
REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...], str, str]] = {
    "torch": (of_torch, ("numpy", "jax"), "a module of torch", MAKE.format("torch", "torch")),
    "tensorflow": (of_tensorflow, ("numpy",), "an object of TensorFlow", MAKE.format("TensorFlow", "tensorflow")),
    "checkpoints": (of_checkpoints, ("numpy",), "an object of TensorFlow", MAKE.format("TensorFlow", "tensorflow")),
    "tf_keras": (of_tf_keras, ("numpy",), "a layer of Keras 2", MAKE.format("TensorFlow", "tensorflow")),
    "keras": (of_keras, ("numpy", "tensorflow"), "an object of Keras", ADD_WEIGHT),
    "keras metrics": (of_keras_metrics, ("numpy",), "an object of Keras", ADD_WEIGHT),
    "nnx": (of_nnx, ("numpy", "jax"), "an object of nnx", r"self.w = nnx.Param\(v.value\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_registered_is_an_error_at_the_assignment(case: str) -> None:
    make, backends, what, hint = REFUSED[case]
    holder = make()
    before = list(vars(holder))
    for backend in backends:
        if backend not in ("numpy", "tensorflow"):
            pytest.importorskip(backend)
        v = variable_of(backend)
        where = f"at '{type(holder).__qualname__}.w'"
        text = f"attribute: {what} cannot register a variable of {backend}, so .* would leave it out, {where}. .*{hint}"
        with pytest.raises(sv.errors.ForeignStateError, match=text):
            holder.w = v
        if case != "torch":
            for container in ([v], (1, v), {"a": v}):
                with pytest.raises(
                    sv.errors.ForeignStateError, match=f"{what} cannot register a variable of {backend} in"
                ):
                    holder.w = container
        assert list(vars(holder)) == before
    holder.n = 3
    holder.x = np.ones(2) if case != "nnx" else "text"
    assert holder.n == 3


def test_a_library_that_is_imported_later_looks_for_variables_too() -> None:
    import subprocess
    import sys

    pytest.importorskip("torch")
    code = (
        "import sys, statevar as sv\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "net = torch.nn.Module()\n"
        "net.w = sv.Variable([1.0], backend='torch')\n"
        "assert len(net.state_dict()) == 1\n"
        "try: net.v = sv.Variable([1.0])\n"
        "except sv.errors.ForeignStateError: pass\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
