"""Values that are spread over several devices or processes are refused, by name, and change nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import statevar as sv
from tests.helpers import PATIENCE, ROOT

COMMON = """
import numpy as np
import statevar as sv

def refused(step, *parts):
    try:
        step()
    except sv.errors.DeviceError as error:
        for part in parts:
            assert part in str(error), (part, str(error))
        return str(error)
    raise AssertionError("no error")
"""

JAX = """
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))
rows = NamedSharding(mesh, P("data"))
spread = jax.device_put(jnp.arange(8.0), rows)
"""

TORCH = """
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
mesh = init_device_mesh("cpu", (2,))
spread = DTensor.from_local(torch.ones(2, 3), mesh, [Shard(0)])
"""

TENSORFLOW = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
spread = strategy.experimental_distribute_values_from_function(
    lambda context: tf.constant([1.0, 2.0]) * float(context.replica_id_in_sync_group)
)
"""

PRELUDE = {"jax": JAX, "torch": TORCH, "tensorflow": TENSORFLOW}


def run(library: str, code: str) -> None:
    sv.Variable(0.0, backend=library)  # it is installed
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "TF_CPP_MIN_LOG_LEVEL": "3"}
    result = subprocess.run(
        [sys.executable, "-c", COMMON + PRELUDE[library] + code],
        env=environment,
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 0, result.stderr[-3000:]


WHAT = {
    "torch": "a DTensor over a mesh of 2 processes, placed as S",
    "tensorflow": "a PerReplica",
}


@pytest.mark.parametrize("library", [each for each in PRELUDE if each != "jax"])
def test_a_first_value_is_refused(library: str) -> None:
    run(
        library,
        f"""
if {library!r} != "torch":  # a variable of torch follows it
    with sv.name_scope("net"):
        text = refused(lambda: sv.Variable(spread, name="w"), {WHAT[library]!r}, "on one device, at 'net/w'. Hint: ")
    assert text.startswith("Variable: got "), text
late = sv.Variable(shape=..., dtype="float32", backend={library!r}, name="late")
if {library!r} == "torch":
    refused(lambda: late.assign(spread), {WHAT[library]!r}, "at 'late'")
    assert not late.is_initialized and late.version == 0
    late.assign([1.0])
else:  # the values of the replicas are combined
    assert late.assign(spread).numpy().tolist() == [0.5, 1.0]
""",
    )


@pytest.mark.parametrize("library", ["torch"])  # values of tf.distribute are combined
def test_an_operand_that_cannot_be_moved_is_refused(library: str) -> None:
    run(
        library,
        f"""
for backend in ({library!r}, "numpy"):
    zeros = np.zeros((2, 3) if {library!r} == "torch" else 2, "float32")
    v = sv.Variable(zeros, backend=backend, name="v", trainable=False)
    before = v.value
    writes = {{
        "assign": lambda: v.assign(spread),
        "unlocked": lambda: v.assign(spread, use_locking=False),
        "assign_add": lambda: v.assign_add(spread),
        "setitem": lambda: v.__setitem__(..., spread),
        "at": lambda: v.at[...].add(spread),
        "imul": lambda: v.__imul__(spread),
        "update": lambda: v.update(lambda _: spread),
        "set_value": lambda: sv.set_value(v, spread),
        "transaction": lambda: transaction(v),
    }}
    def transaction(v):
        with sv.transaction():
            v.assign_add(1.0)
            v.assign(spread)
    for name, write in writes.items():
        refused(write, {WHAT[library]!r}, "at 'v'. Hint: pass ")
        assert v.version == 0 and (v.numpy() == 0).all(), name
    assert not np.any(np.asarray(before))
""",
    )


def test_an_array_over_several_devices_is_moved_into_a_jax_variable() -> None:
    run(
        "jax",
        """
one = jax.devices()[1]
v = sv.Variable(np.zeros(8, "float32"), backend="jax", device="CPU:1", name="v")
free = sv.Variable(np.zeros(8, "float32"), backend="jax", name="free")
for w, home in ((v, one), (free, jax.devices()[0])):
    def stays(step):
        assert w.device == home and w.value.sharding.device_set == {home}, (step, w)
    w.assign(spread); stays("assign")
    w.assign_add(spread); stays("assign_add")
    w.assign(spread, use_locking=False); stays("without a lock")
    w.assign_add(spread, use_locking=False); stays("add without a lock")
    w[:] = spread; stays("setitem")
    w.at[:].add(spread); stays("at")
    w.update(lambda a: spread); stays("update")
    with sv.transaction():
        w.assign_add(spread); w.assign(spread)
    stays("transaction")
    w *= spread; stays("imul")
    assert w.numpy().tolist() == [float(i) ** 2 for i in range(8)]
refused(lambda: sv.Variable(0.0, backend="jax", device=rows), "device: expected one device, got a sharding over 4")
sv.Variable(spread, device="CPU:2")
assert sv.Variable(spread, backend="numpy").numpy().tolist() == list(range(8))
""",
    )


def test_a_compiled_jax_program_leaves_the_variable_on_its_device() -> None:
    run(
        "jax",
        """
v = sv.Variable(np.zeros(8, "float32"), backend="jax", name="v")
home = jax.devices()[0]
step = sv.jit(lambda x: v.assign_add(x).value.sum())
refused(
    lambda: step(spread),
    "jit: an argument is a JAX array over 4 devices",
    "lie on CPU:0, at 'v'. Hint: pass jax.device_put(x, v.device)",
)
assert v.version == 0
assert float(step(jnp.ones(8))) == 8.0
refused(lambda: step(spread), "jit: an argument is a JAX array over 4 devices")
assert v.version == 1 and v.numpy().tolist() == [1.0] * 8
other = sv.Variable(np.zeros(8, "float32"), backend="jax", name="other")
moved = sv.jit(lambda x: other.assign_add(x).value.sum())
moved(jax.device_put(jnp.ones(8), jax.devices()[3]))
assert other.device == home, other
closed = sv.Variable(np.zeros(8, "float32"), backend="jax", name="closed")
sv.jit(lambda: closed.assign(spread).value.sum())()
assert closed.device == home and closed.numpy().tolist() == list(range(8)), closed
""",
    )


def test_devices_of_jax_are_those_of_the_process() -> None:
    run(
        "jax",
        """
for index, device in enumerate(jax.local_devices()):
    v = sv.Variable(0.0, backend="jax", device=f"CPU:{index}")
    assert v.device == device and f"device=CPU:{index}" in repr(v), v
class Far:  # a device of another process, which has the lowest numbers of all
    platform, id, process_index = "cpu", 1, 1
adapter = v._backend
assert adapter.device_name(Far()) == "CPU:1 of process 1"
real, jax.local_devices = jax.local_devices, lambda backend=None: real()[2:]
assert sv.Variable(0.0, backend="jax", device="CPU:0").device == real()[2]
assert adapter.device_name(real()[3]) == "CPU:1"
""",
    )


def test_parts_of_other_processes_are_refused_by_jax_variables() -> None:
    run(
        "jax",
        """
from unittest.mock import patch
v = sv.Variable(np.zeros(8, "float32"), backend="jax", name="v")
with patch.object(type(spread), "is_fully_addressable", False):  # as if two of the devices were another process's
    for step in (lambda: v.assign(spread), lambda: v.assign_add(spread)):
        refused(step, "a JAX array of which other processes have a part", "at 'v'. Hint: pass sv.gather(x), on every")
assert v.version == 0 and not v.numpy().any()
""",
    )


def test_a_module_that_is_sharded_leaves_no_stale_variable() -> None:
    run(
        "torch",
        """
from torch.distributed.fsdp import fully_shard

def model(**variables):
    net = torch.nn.Linear(4, 4, bias=False)
    net.weight = variables["w"].parameter
    return net

w = sv.Variable(np.ones((4, 4), "float32"), backend="torch", name="w")
net = torch.nn.Sequential(model(w=w))
fully_shard(net, mesh=mesh)
assert w.parameter is net[0].weight and w.sharding.placements == (Shard(0),)  # the variable follows it

w = sv.Variable(np.ones((4, 4), "float32"), backend="torch", name="w")
net = model(w=w)
other = torch.nn.Parameter(DTensor.from_local(torch.ones(1, 4), mesh, [Shard(0)]))  # of another shape
for change in (lambda: setattr(net, "weight", other), lambda: net._parameters.__setitem__("weight", other)):
    refused(lambda: (change(), w.value), "Linear.weight was the parameter of a variable, and is a DTensor over a mesh")

import warnings
import torch.nn.utils.prune
from torch.distributed.fsdp import FullyShardedDataParallel
for change in (lambda net: FullyShardedDataParallel(net, device_id=torch.device("cpu")), torch.nn.utils.weight_norm):
    w = sv.Variable(np.ones((4, 4), "float32"), backend="torch", name="w")
    with warnings.catch_warnings(action="ignore"):
        kept = change(model(w=w))
    refused(lambda: w.value, "Linear.weight was the parameter of a variable, and is another tensor now")

w = sv.Variable(np.ones((4, 4), "float32"), backend="torch", name="w")
kept = torch.nn.utils.prune.l1_unstructured(model(w=w), "weight", 4)  # keeps the parameter, by another name
w.assign_add(1.0)
assert (kept.weight_orig == 2).all()

w = sv.Variable(np.ones((4, 4), "float32"), backend="torch", name="w")
net = model(w=w)
net.weight = torch.nn.Parameter(torch.zeros(4, 4))  # the user's own decision
assert (w.assign_add(1.0).numpy() == 2).all()
del net
w.assign_add(1.0)
""",
    )


def test_other_wrappers_of_torch_are_refused() -> None:
    run(
        "torch",
        """
from torch.testing._internal.two_tensor import TwoTensor
two = TwoTensor(torch.ones(2), torch.ones(2))
refused(lambda: sv.Variable(two, name="t"), "a TwoTensor, a tensor whose elements are in other tensors", "at 't'")
class Benign(torch.Tensor):
    pass
assert sv.Variable(torch.ones(2).as_subclass(Benign)).assign_add(1.0).numpy().tolist() == [2.0, 2.0]
""",
    )


def test_the_scope_of_tensorflow_places_a_variable() -> None:
    run(
        "tensorflow",
        """
late = sv.Variable(shape=(2,), dtype="float32", backend="tensorflow")
with tf.device("CPU:1"):
    assert "CPU:1" in repr(sv.Variable([1.0], backend="tensorflow"))
    assert "CPU:1" in repr(sv.Variable("normal", shape=(2,), backend="tensorflow"))
    assert "CPU:0" in repr(sv.Variable([1.0], backend="tensorflow", device="CPU:0"))
    assert sv.Variable(shape=(2,), backend="tensorflow").device == "CPU:1"
    late.assign([1.0, 2.0])
assert late.device == "CPU:1", late
assert "CPU:0" in repr(sv.Variable([1.0], backend="tensorflow"))
""",
    )
