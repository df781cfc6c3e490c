"""What is particular to the state of nnx, of references of JAX and of trees of arrays."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv

jax: Any = pytest.importorskip("jax")
jnp: Any = jax.numpy


def nnx() -> Any:
    return pytest.importorskip("flax.nnx")


def new_ref(x: Any) -> Any:
    if not hasattr(jax, "new_ref"):
        pytest.skip("this JAX has no references")
    return jax.new_ref(x)


def linear() -> Any:
    return nnx().Linear(2, 3, rngs=nnx().Rngs(0))


# -- one leaf ----------------------------------------------------------------------------------------------------------


def test_values_are_read_and_set_as_those_of_keras_are() -> None:
    net = linear()
    sv.set_value(net.bias, [1.0, 2.0, 3.0])
    assert net.bias[...].tolist() == sv.get_value(net.bias).tolist() == [1.0, 2.0, 3.0]
    assert sv.view(net.bias) is sv.view(net.bias)
    assert sv.view(net.bias).parameter is net.bias
    ref = new_ref(jnp.zeros(2))
    sv.set_value(ref, [4.0, 5.0])
    assert ref[...].tolist() == sv.get_value(ref).tolist() == [4.0, 5.0]


def test_what_is_stored_is_an_array_of_jax_whatever_was_assigned(tmp_path: Path) -> None:
    """An array of NumPy in a variable of nnx would be saved as no value at all."""
    net = linear()
    sv.set_value(net.bias, np.ones(3, np.float32))
    sv.view(net.kernel).assign(np.ones((2, 3)))
    assert isinstance(net.bias.get_raw_value(), jax.Array)
    assert isinstance(net.kernel.get_raw_value(), jax.Array)
    sv.save(net, tmp_path / "x.safetensors")
    sv.load(net, tmp_path / "x.safetensors")
    with sv.transaction(net):
        for each in sv.variables(net):
            each.assign_add(1.0)
    with sv.rollback(net):
        sv.view(net.bias).assign(0.0 * net.bias[...])
    assert net.bias[...].tolist() == [2.0, 2.0, 2.0]


def test_a_slot_that_gives_an_array_of_another_library_is_an_error() -> None:
    class Slot:
        backend, trainable, shared = "jax", False, "never"

        def __init__(self) -> None:
            self.thing = sv.interop.Place(self, 0)
            self.array = jnp.zeros(2)

        def read(self) -> Any:
            return self.array

        def write(self, array: Any) -> None:
            self.array = np.asarray(array)

        def version(self) -> None:
            return None

    view = sv.view(Slot())
    view.assign([1.0, 2.0])
    for call in (lambda: view.value, lambda: sv.snapshot(view), lambda: sv.save(view, "never written")):
        with pytest.raises(sv.errors.ForeignStateError, match="given ndarray, which is no array of jax"):
            call()


def test_an_array_of_numpy_that_others_have_stored_is_read() -> None:
    net = linear()
    net.bias.set_value(np.ones(3, np.float32))
    assert sv.get_value(net.bias).tolist() == [1.0, 1.0, 1.0]
    sv.view(net.bias).assign_add(1.0)
    assert isinstance(net.bias.get_raw_value(), jax.Array)
    net.bias.set_value(np.ones(3))
    with pytest.raises(sv.errors.ForeignStateError, match=r"NumPy array of float64, which JAX stores as float32"):
        sv.get_value(net.bias)


def test_only_params_are_trainable_and_nnx_decides_it() -> None:
    net = nnx().BatchNorm(2, rngs=nnx().Rngs(0))
    trainable = {path for path, each in sv.named_variables(net).items() if each.trainable}
    assert trainable == {"scale", "bias"}
    for each in (net.scale, net.mean):
        view = sv.view(each)
        with pytest.raises(sv.errors.ReadOnlyError, match="nnx asks the type of a variable whether it is trained"):
            view.trainable = not view.trainable
        assert view.trainable is (each is net.scale)


def test_keys_are_keys() -> None:
    rngs = nnx().Rngs(3)
    view = sv.named_variables(rngs)["default/key"]
    assert view.dtype_name == "key<fry>"
    before = sv.snapshot(rngs)
    drawn = rngs.normal((2,))
    sv.restore(before)
    assert rngs.normal((2,)).tolist() == drawn.tolist()


def test_a_donated_value_is_gone_with_an_error_and_a_snapshot_brings_it_back() -> None:
    holder = {"w": jnp.ones(2)}
    tree = sv.view(holder)
    before = sv.snapshot(tree)
    view = tree["w"]
    jax.jit(lambda x: x + 1, donate_argnums=0)(holder["w"])
    with pytest.raises(sv.errors.UninitializedError, match="the array was donated to a program, or deleted"):
        view.value  # noqa: B018
    sv.restore(before)
    assert holder["w"].tolist() == [1.0, 1.0]


SHARDED = """
import jax
import numpy as np
import statevar as sv

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("x",))
over_both = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
on_second = jax.sharding.SingleDeviceSharding(jax.devices()[1])
for place in (over_both, on_second):
    tree = {"w": jax.device_put(jax.numpy.arange(4.0), place)}
    view = sv.view(tree)
    before = sv.snapshot(view)
    view["w"].assign(np.ones(4)).assign_add(1.0)
    assert tree["w"].tolist() == [2.0] * 4
    assert tree["w"].sharding == place
    with sv.transaction(view):
        view["w"].assign_sub(1.0)
    assert tree["w"].sharding == place
    sv.restore(before)
    assert tree["w"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert tree["w"].sharding == place
    (made,) = sv.filled((tree["w"],), {"0": np.ones(4, np.float32)})
    assert made.tolist() == [1.0] * 4
    assert made.sharding == place
"""


def test_arrays_stay_on_their_devices() -> None:
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", SHARDED]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


# -- traces ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: linear().bias, lambda: new_ref(jnp.zeros(3))], ids=["nnx", "ref"])
def test_in_a_program_of_jax_state_is_neither_read_nor_written(make: Callable[[], Any]) -> None:
    thing = make()
    view = sv.view(thing)
    before = sv.get_value(view)

    @jax.jit  # type: ignore[untyped-decorator]
    def program(x: Any) -> Any:
        for call in (
            lambda: sv.get_value(thing),
            lambda: view.value,
            lambda: view.assign([1.0, 2.0, 3.0]),
            lambda: view.assign_add(x),
            lambda: sv.set_value(thing, x),
        ):
            with pytest.raises(sv.errors.TraceError):
                call()
        return x

    program(jnp.ones(3))
    assert sv.get_value(view).tolist() == before.tolist()


def test_in_a_program_of_nnx_variables_have_no_values() -> None:
    net = linear()

    @nnx().jit  # type: ignore[untyped-decorator]
    def program(inner: Any) -> None:
        for call in (
            lambda: sv.variables(inner),
            lambda: sv.get_value(inner.bias),
            lambda: sv.set_value(inner.bias, 1),
        ):
            with pytest.raises(sv.errors.TraceError, match="JAX is tracing this code, and the Param has no value yet"):
                call()

    program(net)
    with pytest.raises(sv.errors.TraceError, match="pass its value as an argument"):
        sv.jit(lambda: sv.view(net.bias).assign_add(1.0))()


def test_gradients_of_a_view_are_those_of_its_value_and_never_silently_zero() -> None:
    net = linear()
    view = sv.view(net.kernel)
    assert sv.grad(lambda: (view.value**2).sum(), view)().tolist() == (2 * net.kernel[...]).tolist()
    with pytest.raises(sv.errors.TraceError, match=r"has not read the view.*take the gradient by jax's own functions"):
        sv.grad(lambda: net(jnp.ones((1, 2))).sum(), view)()
    gradients = nnx().grad(lambda net: net(jnp.ones((1, 2))).sum())(net)
    assert gradients["kernel"][...].tolist() == [[1.0] * 3] * 2


def test_gradients_of_arrays_in_a_tree_are_wanted_if_the_user_says_so() -> None:
    params = {"w": jnp.array([1.0, 2.0]), "b": jnp.zeros(2)}
    tree = sv.view(params)
    with pytest.raises(ValueError, match="not trainable"):
        sv.grad(lambda: (tree["w"] ** 2).sum(), tree["w"])
    w = tree["w"]
    w.trainable = True
    assert sv.view(params)["w"] is w
    assert w.trainable
    assert sv.grad(lambda: (tree["w"] ** 2).sum(), {"w": tree["w"]})()["w"].tolist() == [2.0, 4.0]


# -- modules -----------------------------------------------------------------------------------------------------------


def test_a_mixed_model_is_the_sum_of_its_parts() -> None:
    optax = pytest.importorskip("optax")
    net = linear()
    model = {"v": sv.Variable(1.0), "net": net, "opt": nnx().Optimizer(net, optax.adam(0.1), wrt=nnx().Param)}
    assert sorted(sv.named_variables(model)) == [
        "net/bias",
        "net/kernel",
        "opt/opt_state/0/count",
        "opt/opt_state/0/mu/bias",
        "opt/opt_state/0/mu/kernel",
        "opt/opt_state/0/nu/bias",
        "opt/opt_state/0/nu/kernel",
        "opt/step",
        "v",
    ]


def test_static_attributes_and_the_definition_of_a_graph_are_no_state() -> None:
    class Net(nnx().Module):  # type: ignore[misc]  # the class is known only here
        def __init__(self) -> None:
            self.w = nnx().Param(jnp.ones(2))
            self.shape = nnx().static([2, 3])
            self.parts = nnx().data([jnp.zeros(2), {"x": jnp.zeros(3)}])

    net = Net()
    assert sorted(sv.named_variables(net)) == ["parts/0", "parts/1/x", "w"]
    definition, state = nnx().split(net)
    assert sorted(sv.view({"definition": definition, "state": state})) == [
        "state/parts/0",
        "state/parts/1/x",
        "state/w",
    ]


def test_a_view_of_a_variable_is_not_copied_deeply() -> None:
    with pytest.raises(sv.errors.ForeignStateError, match=r"nnx\.clone\(module\)"):
        copy.deepcopy(sv.view(linear().bias))


# -- trees that cannot be written --------------------------------------------------------------------------------------


def trees() -> dict[str, Callable[[], tuple[Any, str]]]:
    def equinox() -> tuple[Any, str]:
        return pytest.importorskip("equinox").nn.Linear(2, 3, key=jax.random.key(0)), "weight"

    def optax() -> tuple[Any, str]:
        return pytest.importorskip("optax").adam(0.1).init({"w": jnp.ones(2)}), "0/count"

    def linen() -> tuple[Any, str]:
        return pytest.importorskip("flax").core.freeze({"params": {"kernel": jnp.ones(2)}}), "params/kernel"

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        w: Any

    return {
        "equinox": equinox,
        "optax": optax,
        "linen": linen,
        "tuple": lambda: ((jnp.ones(2),), "0"),
        "frozen dataclass": lambda: (Frozen(jnp.ones(2)), "w"),
    }


@pytest.mark.parametrize("kind", trees())
def test_a_tree_that_cannot_change_is_read_and_the_error_of_a_write_says_what_to_do(kind: str, tmp_path: Path) -> None:
    tree, path = trees()[kind]()
    view = sv.view(tree)
    before = sv.get_value(view[path])
    sv.save(view, tmp_path / "x.safetensors")
    assert sv.snapshot(view)[path].tolist() == before.tolist()
    with pytest.raises(sv.errors.ReadOnlyError, match=re.escape("sv.filled(tree, source)")):
        view[path].assign(view[path].value)
    with pytest.raises(sv.errors.ReadOnlyError):
        sv.load(view, tmp_path / "x.safetensors")
    assert sv.get_value(view[path]).tolist() == before.tolist()


def test_what_is_left_out_of_a_model_says_that_a_view_takes_it() -> None:
    optax = pytest.importorskip("optax")
    state = optax.adam(0.1).init({"w": jnp.ones(2)})
    with pytest.raises(sv.errors.ForeignStateError, match=r"pass a view of its arrays, sv\.view\(x\)"):
        sv.snapshot({"v": sv.Variable(1.0), "state": state})
    assert len(sv.snapshot({"v": sv.Variable(1.0), "state": sv.view(state)})) == 4
    frozen = pytest.importorskip("flax").core.freeze({"a": {"b": jnp.ones(2)}})
    with pytest.raises(sv.errors.ForeignStateError, match=r"has state of flax.*at 'p'.*sv\.view\(x\)"):
        sv.save({"v": sv.Variable(1.0), "p": frozen}, "never written")
    with pytest.raises(sv.errors.ForeignStateError, match="pass the dict, the list or the object that has it"):
        sv.view(jnp.ones(2))


def test_static_fields_and_functions_are_no_state() -> None:
    eqx = pytest.importorskip("equinox")
    net = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
    assert sorted(sv.view(net)) == ["layers/0/bias", "layers/0/weight", "layers/1/bias", "layers/1/weight"]
    partial = jax.tree_util.Partial(jnp.add, jnp.ones(2), b=3.0)
    assert sorted(sv.view(partial)) == ["args/0", "keywords/b"]
    assert sv.filled(partial, {"args/0": jnp.zeros(2), "keywords/b": np.float64(4)}).keywords == {"b": 4.0}
