"""Variables on the second of two devices, which both JAX and TensorFlow can pretend to have."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

import statevar as sv
from tests.helpers import ROOT

BODY = """
import copy, pickle
import numpy as np
import statevar as sv

backend = {backend!r}
first = sv.Variable([1.0, 2.0], backend=backend, device="CPU:0")
with sv.device("CPU:1"):
    second = sv.Variable([1.0, 2.0], backend=backend)
    inner = sv.Variable([0.0], backend=backend, device="CPU:0")
assert "device=CPU:1" in repr(second), repr(second)
assert "device=CPU:0" in repr(inner), repr(inner)
place = second.device

def stays(step):
    assert second.device == place, step
    assert "device=CPU:1" in repr(second), (step, repr(second))

second.assign([3.0, 4.0]); stays("assign a list")
second.assign(first.value); stays("assign an array of the other device")
second.assign_add(first.value); stays("add an array of the other device")
second += 1.0; stays("add a number")
second -= np.ones(2, "float32"); stays("subtract a host array")
second[0] = first.value[1]; stays("write an item of the other device")
second.at[[0, 0]].add(first.value); stays("accumulate")
second *= first.value; stays("multiply by an array of the other device")
second /= first.value; stays("divide by an array of the other device")
second.assign([3.0, 4.0], use_locking=False); stays("assign a list without a lock")
second.assign(first.value, use_locking=False); stays("assign an array of the other device without a lock")
second.assign_add(1.0, use_locking=False); stays("add a number without a lock")
second.assign([[1.0]], validate_shape=False); stays("change the shape")
assert second.numpy().tolist() == [[1.0]]
for made in (copy.copy(second), copy.deepcopy(second), pickle.loads(pickle.dumps(second))):
    assert made.device == place, made
left = sv.Variable([1.0, 2.0], backend=backend, device="CPU:0")
right = sv.Variable([3.0, 4.0], backend=backend, device="CPU:1")
name = left._backend.device_name

def lies(array, where, *values):
    assert np.asarray(array).tolist() == list(values), array
    if backend == "jax":  # TensorFlow itself computes with operands of two devices
        assert name(left._backend.device_of(array)) == where, array

lies(left + right, "CPU:0", 4.0, 6.0)
lies(right * left, "CPU:1", 3.0, 8.0)
lies(right - left.value, "CPU:1", 2.0, 2.0)
lies(left < right, "CPU:0", True, True)
lies(right + np.ones(2, "float32"), "CPU:1", 4.0, 5.0)
lies(np.ones(2, "float32") + right, "CPU:1", 4.0, 5.0)
with sv.device("CPU:1"):
    lies(left + right, "CPU:1", 4.0, 6.0)
try:
    left + sv.Variable([1.0, 2.0, 3.0], backend=backend, device="CPU:1")
except Exception as error:
    assert not isinstance(error, sv.errors.StatevarError), error  # of the library, as on one device
else:
    raise AssertionError("no error")
from tests.helpers import total
gradient = sv.grad(lambda: total(left * right), left)()
lies(gradient, "CPU:0", 3.0, 4.0)
late = sv.Variable(shape=(1,), backend=backend, device="CPU:1")
late.assign([1.0])
assert late.device == place
follows = sv.Variable(second.value)
assert follows.device == place, follows
try:
    sv.Variable(0.0, backend=backend, device="CPU:2")
except sv.errors.DeviceError as error:
    assert "'CPU:0', 'CPU:1'" in str(error).replace("device:", ""), error
else:
    raise AssertionError("no error")
"""

PRELUDE = {
    "jax": "",
    "tensorflow": """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
""",
}


#: The default device that the user has chosen in torch is not where our own tensors belong.
DEFAULT = """
import torch
torch.set_default_device("meta")  # as "cuda" would be, on a machine that has it
import numpy as np
import statevar as sv

def has(v, *values):
    assert v.value.device.type == "cpu" and v.numpy().reshape(-1).tolist() == list(values), v

v = sv.Variable([1.0, 2.0], backend="torch", device="CPU:0", trainable=False)
address = v.value.data_ptr()
v.assign_add(1.0)
v += np.ones(2, "float32")
assert v.value.data_ptr() == address, "a write is not in place"
has(v, 3.0, 4.0)
v.assign([5.0, 6.0]); has(v, 5.0, 6.0)
v /= 2; has(v, 2.5, 3.0)
v[0] = 7; v.at[[1, 1]].add([1.0, 2.0]); has(v, 7.0, 6.0)
v[v.numpy() > 6.5] = 0; has(v, 0.0, 6.0)
v.update(lambda a: a + 1); has(v, 1.0, 7.0)
with v.edit() as array:
    array[0] = 3
has(v, 3.0, 7.0)
with sv.transaction():
    v.assign([8.0, 9.0])
    v.assign_sub(1)
has(v, 7.0, 8.0)
with sv.rollback(v):
    v.assign(0 * v.value)
has(v, 7.0, 8.0)
v.assign([[1, 2, 3]], validate_shape=False); has(v, 1.0, 2.0, 3.0)
step = sv.jit(lambda x: (v.assign_add(x), v.value.sum())[1])
assert float(step(torch.ones(3, device="cpu"))) == 9.0
sv.jit(lambda: v.assign([[0.0, 0.0, 2.0]]))(); has(v, 0.0, 0.0, 2.0)
t = sv.Variable([3.0], backend="torch", device="CPU:0")
assert sv.grad(lambda: (t * t).sum(), t)().tolist() == [6.0]
total = sv.scan(lambda carry, x: (carry + x, carry), torch.zeros((), device="cpu"), torch.ones(3, device="cpu"))[0]
assert float(total) == 3.0
for place in (None, torch.device("meta")):
    try:
        sv.Variable([1.0], backend="torch", device=place, name="w")
    except sv.errors.DeviceError as error:
        assert "got a tensor on the device 'meta', which has no elements" in str(error), error
        assert "at 'w'. Hint: pass device='CPU:0'; or shape=" in str(error), error
    else:
        raise AssertionError("no error")
late = sv.Variable(shape=(2,), backend="torch")
late.assign(torch.ones(2, device="cpu")); has(late, 1.0, 1.0)
torch.set_default_device("cpu")
assert sv.Variable([1.0], backend="torch").value.device.type == "cpu"
"""


def test_torchs_default_device_is_for_first_values_only() -> None:
    sv.Variable(0.0, backend="torch")  # it is installed
    result = subprocess.run([sys.executable, "-c", DEFAULT], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.parametrize("name", PRELUDE)
def test_a_variable_stays_on_its_device(name: str) -> None:
    sv.Variable(0.0, backend=name)  # it is installed
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "TF_CPP_MIN_LOG_LEVEL": "3"}
    code = PRELUDE[name] + BODY.format(backend=name)
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_torch_computes_with_operands_of_two_devices() -> None:
    sv.Variable(0.0, backend="torch")  # it is installed
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    v = sv.Variable([1.0, 2.0], backend="torch", trainable=False)
    # The tensors of this mode have devices, and no values; so the variable has such a value too, in a scope.
    with FakeTensorMode(), sv.StatelessScope({v: torch.ones(2)}):
        there = torch.ones(2, device="cuda:0")
        with pytest.raises(RuntimeError, match="device"):
            v.value + there
        assert (v + there).device == torch.device("cpu")
        assert (v < there).device == torch.device("cpu")
        with sv.device(there.device):
            assert (v * there).device == there.device
    with pytest.raises(RuntimeError, match="must match"):
        v + torch.ones(3)


@pytest.mark.parametrize("name", [0, 1.5, ("CPU", 0), b"CPU:0"])
def test_a_device_is_a_name_or_an_object_of_the_library(backend: str, name: Any) -> None:
    with pytest.raises(sv.errors.DeviceError, match=r"^device: (expected a name such as|there is no device) "):
        sv.Variable(1.0, backend=backend, device=name)


def test_a_device_of_another_library_is_an_error_of_ours(backend: str) -> None:
    torch = pytest.importorskip("torch")
    if backend not in ("torch", "tensorflow"):
        with pytest.raises(sv.errors.DeviceError, match="^device: "):
            sv.Variable(1.0, backend=backend, device=torch.device("cpu"))


def test_the_long_names_of_tensorflow_are_names(backend: str) -> None:
    v = sv.Variable(1.0, backend=backend, device="/job:localhost/replica:0/task:0/device:CPU:0")
    assert v.device == sv.Variable(1.0, backend=backend, device="CPU:0").device
