"""Variables on the second of two devices, which both JAX and TensorFlow can pretend to have."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import statevar as sv

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
second.assign([[1.0]], validate_shape=False); stays("change the shape")
assert second.numpy().tolist() == [[1.0]]
for made in (copy.copy(second), copy.deepcopy(second), pickle.loads(pickle.dumps(second))):
    assert made.device == place, made
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


@pytest.mark.parametrize("name", PRELUDE)
def test_a_variable_stays_on_its_device(name: str) -> None:
    sv.Variable(0.0, backend=name)  # it is installed
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "TF_CPP_MIN_LOG_LEVEL": "3"}
    code = PRELUDE[name] + BODY.format(backend=name)
    result = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
