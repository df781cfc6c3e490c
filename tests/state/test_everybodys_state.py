"""Every kind of object that has state, in every function that takes state: it works, or an error says what to use."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import statevar as sv


def of(module: str) -> Any:
    """A module, or a skip; Keras computes with TensorFlow here."""
    needs = {"keras": "tensorflow", "tf_keras": "tensorflow", "flax.nnx": "jax", "optax": "jax", "equinox": "jax"}
    needs |= {"flax.core": "jax", "haiku": "jax"}
    if module in needs:
        pytest.importorskip(needs[module])
    return pytest.importorskip(module)


# -- the kinds of objects ----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A kind of object.

    Attributes:
        make: makes one.
        leaves: how many leaves it has, by the library's own count.
        plain: whether it is state only if the user says so, by `sv.view`.
        frozen: whether its leaves cannot be replaced.
        is_leaf: whether it is a leaf itself, so that functions of one variable take it.
    """

    make: Callable[[], Any]
    leaves: Callable[[Any], int]
    plain: bool = False
    frozen: bool = False
    is_leaf: bool = False


def leaf(make: Callable[[], Any], **options: bool) -> Kind:
    return Kind(make, lambda _: 1, is_leaf=True, **options)


def torch_net() -> Any:
    nn = of("torch").nn
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def torch_training() -> dict[str, Any]:
    torch = of("torch")
    net = torch.nn.Linear(2, 1)
    opt = torch.optim.AdamW(net.parameters())
    net(torch.ones(3, 2)).sum().backward()
    opt.step()
    return {"net": net, "opt": opt, "plan": torch.optim.lr_scheduler.StepLR(opt, 1)}


def tf_module() -> Any:
    tf = of("tensorflow")
    module = tf.Module()
    module.w, module.inner = tf.Variable([1.0, 2.0]), [tf.Variable(3.0)]
    return module


def keras_model(name: str) -> Any:
    keras = of(name)
    model = keras.Sequential([keras.layers.Dense(2), keras.layers.BatchNormalization()])
    model.build((None, 3))
    return model


def keras_optimizer() -> Any:
    keras = of("keras")
    optimizer = keras.optimizers.Adam()
    optimizer.build([keras.Variable([1.0, 2.0])])
    return optimizer


def nnx_training() -> Any:
    nnx = of("flax.nnx")
    net = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.BatchNorm(2, rngs=nnx.Rngs(0)))
    return {"net": net, "opt": nnx.Optimizer(net, of("optax").adam(0.1), wrt=nnx.Param), "rngs": nnx.Rngs(1)}


def nnx_leaves(thing: Any) -> int:
    nnx = of("flax.nnx")
    return sum(len(nnx.to_flat_state(nnx.state(each))) for each in thing.values())


def jax_leaves(thing: Any) -> int:
    return len(of("jax").tree.leaves(thing))


def jax_tree() -> Any:
    jnp = of("jax").numpy
    return {"w": jnp.ones(2), "inner": [jnp.zeros(3), {"key": of("jax").random.key(0)}]}


def optax_state() -> Any:
    return of("optax").adam(0.1).init({"w": of("jax").numpy.ones(2)})


def haiku_parameters() -> Any:
    haiku, jax = of("haiku"), of("jax")
    return haiku.transform(lambda x: haiku.Linear(2)(x)).init(jax.random.key(0), jax.numpy.ones(3))


@dataclass
class Config:
    mean: Any
    rate: float


def sklearn_pipeline() -> Any:
    of("sklearn")
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LinearRegression()).fit(np.eye(3), np.arange(3.0))


def arrays_of(*names: str) -> Callable[[Any], int]:
    return lambda thing: sum(len(getattr(thing, name)) for name in names)


KINDS: dict[str, Kind] = {
    "np.ndarray": leaf(lambda: np.ones(2), plain=True),
    "dict of arrays": Kind(lambda: {"a": np.ones(2), "b": [np.zeros(1), 1.5]}, lambda _: 3, plain=True),
    "dataclass of arrays": Kind(lambda: Config(np.ones(2), 0.5), lambda _: 2, plain=True),
    "object with arrays": Kind(lambda: SimpleNamespace(a=np.ones(2), n=3), lambda _: 2, plain=True),
    "np.random.Generator": leaf(lambda: np.random.default_rng(0)),
    "np.random.RandomState": leaf(lambda: np.random.RandomState(0)),
    "random.Random": leaf(lambda: random.Random(0)),
    "nn.Parameter": leaf(lambda: of("torch").nn.Parameter(of("torch").ones(2))),
    "torch.Tensor": leaf(lambda: of("torch").ones(2), plain=True),
    "torch.Generator": leaf(lambda: of("torch").Generator()),
    "nn.Module": Kind(torch_net, lambda net: len(net.state_dict())),
    "state_dict": Kind(lambda: dict(torch_net().state_dict()), len, plain=True),
    # Two parameters, six tensors of the optimizer, six numbers of its group; six numbers of the plan.
    "torch optimizer, scheduler": Kind(torch_training, lambda _: 2 + 6 + 6 + 6),
    "tf.Variable": leaf(lambda: of("tensorflow").Variable([1.0, 2.0])),
    "tf.Module": Kind(tf_module, lambda module: len(module.variables)),
    "tf.random.Generator": Kind(lambda: of("tensorflow").random.Generator.from_seed(1), lambda _: 1),
    "keras.Variable": leaf(lambda: of("keras").Variable([1.0, 2.0])),
    "keras model": Kind(lambda: keras_model("keras"), arrays_of("variables")),
    "keras optimizer": Kind(keras_optimizer, arrays_of("variables")),
    "keras metric": Kind(lambda: of("keras").metrics.Mean(), arrays_of("variables")),
    "keras SeedGenerator": Kind(lambda: of("keras").random.SeedGenerator(0), lambda _: 1),
    "tf_keras model": Kind(lambda: keras_model("tf_keras"), arrays_of("variables")),
    "jax.Ref": leaf(lambda: of("jax").new_ref(of("jax").numpy.ones(2))),
    "tree of jax.Array": Kind(jax_tree, jax_leaves, plain=True),
    "optax state": Kind(optax_state, jax_leaves, plain=True, frozen=True),
    "equinox module": Kind(
        lambda: of("equinox").nn.Linear(2, 1, key=of("jax").random.key(0)), jax_leaves, plain=True, frozen=True
    ),
    "nnx.Param": leaf(lambda: of("flax.nnx").Param(of("jax").numpy.ones(2))),
    "nnx module, optimizer, rngs": Kind(nnx_training, nnx_leaves),
    "nnx.State": Kind(lambda: of("flax.nnx").state(nnx_training()["net"]), jax_leaves),
    "FrozenDict of linen": Kind(
        lambda: of("flax.core").FrozenDict({"params": {"w": of("jax").numpy.ones(2)}}), jax_leaves, True, True
    ),
    "parameters of haiku": Kind(haiku_parameters, jax_leaves, plain=True),
    # Means, variances, scales, counts and the number of features; coefficients, intercept, rank, singular values.
    "sklearn pipeline": Kind(sklearn_pipeline, lambda model: sum(map(learned, model.named_steps.values()))),
}


def learned(estimator: Any) -> int:
    return sum(name not in estimator.get_params() for name in vars(estimator))


# -- the functions -----------------------------------------------------------------------------------------------------


def is_key(variable: sv.Variable) -> bool:
    return variable.dtype_name.startswith("key")


def numbers(variable: sv.Variable) -> Any:
    """The value, or the numbers of a random key."""
    return np.array(of("jax").random.key_data(variable.value)) if is_key(variable) else sv.get_value(variable)


def values(target: Any) -> dict[str, Any]:
    return {path: numbers(each) for path, each in sv.named_variables(target).items()}


def other(variable: sv.Variable) -> Any:
    """Another value; the same one where the numbers have a meaning, as in the state of a generator."""
    return sv.get_value(variable) + 1 if variable.dtype_name.startswith("float") else variable.value


def write(target: Any) -> None:
    for each in sv.variables(target):
        each.assign(other(each))


def expect_changed(target: Any, before: dict[str, Any]) -> None:
    for path, value in values(target).items():
        if value.dtype.kind == "f":
            np.testing.assert_array_equal(value, before[path] + 1, err_msg=path)


class Stop(Exception):
    pass


def snapshot(target: Any, _: Path) -> None:
    before = sv.snapshot(target)
    write(target)
    sv.restore(before)


def rollback(target: Any, _: Path) -> None:
    with sv.rollback(target):
        write(target)


def transaction(target: Any, _: Path) -> None:
    before = values(target)
    with sv.transaction(target):
        write(target)
    expect_changed(target, before)
    with pytest.raises(Stop), sv.transaction(target):
        write(target)
        raise Stop
    expect_changed(target, before)


def save_and_load(target: Any, folder: Path) -> None:
    sv.save(target, folder / "x.safetensors")
    write(target)
    assert len(sv.load(target, folder / "x.safetensors").loaded) == len(values(target))


def manager(target: Any, folder: Path) -> None:
    with sv.CheckpointManager(folder / "steps", target) as steps:
        steps.save(1)
        write(target)
        steps.restore()


def update_all(target: Any, _: Path) -> None:
    found = sv.variables(target)
    sv.update_all(found, "assign", [other(each) for each in found])


#: Functions of an object as a whole. After all but the last two the state is as it was before.
OF_OBJECTS: dict[str, Callable[[Any, Path], None]] = {
    "snapshot": snapshot,
    "rollback": rollback,
    "save": save_and_load,
    "manager": manager,
    "transaction": transaction,
    "update_all": update_all,
}


def edit(v: sv.Variable, value: Any) -> None:
    with v.edit() as array:
        array[...] = value


#: Functions of one leaf and a value.
OF_LEAVES: dict[str, Callable[[Any, Any], Any]] = {
    "get_value": lambda x, _: sv.get_value(x),
    "batch_get_value": lambda x, _: sv.batch_get_value([x]),
    "set_value": sv.set_value,
    "batch_set_value": lambda x, value: sv.batch_set_value([(x, value)]),
    "assign": sv.assign,
}
OF_VARIABLES: dict[str, Callable[[sv.Variable, Any], Any]] = {
    "update": lambda v, _: v.update(lambda x: x),
    "edit": edit,
    "at": lambda v, _: v.at[...].set(v.value),
}


def refused(operation: str, call: Callable[[], object]) -> None:
    """Expects an error of ours that says what to use."""
    with pytest.raises((sv.errors.StatevarError, TypeError)) as caught:
        call()
    text = str(caught.value)
    assert text.partition(":")[0] in (operation, operation.removeprefix("batch_"), "assign", "np.asarray"), text
    assert "Hint: " in text, text


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_object_in_every_function(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    thing = kind.make()
    target = sv.view(thing) if kind.plain else thing
    count = kind.leaves(thing)
    v = sv.Variable(1.0)
    mixed = {"theirs": target, "ours": v, "more": [np.random.default_rng(1)]}

    # Nothing is left out in silence, alone or beside others.
    assert len(sv.variables(target)) == count
    assert len(sv.named_variables(mixed)) == count + 2
    assert len(sv.snapshot(mixed)) == count + 2
    if kind.plain and not kind.is_leaf:
        for operation in ("variables", "named_variables", "snapshot", "rollback", "transaction"):
            refused(operation, lambda: getattr(sv, operation)(thing))  # noqa: B023  # called here only
        with pytest.raises((sv.errors.ForeignStateError, TypeError), match=r"^save: .*sv\.view\(x\)"):
            sv.save(thing, tmp_path / "y.safetensors")

    before = values(target)
    for operation, call in OF_OBJECTS.items():
        if kind.frozen and before:
            with pytest.raises(sv.errors.ReadOnlyError, match=r"Hint: "):
                call(target, tmp_path)
        else:
            call(target, tmp_path)
        if operation in ("transaction", "update_all") and not kind.frozen:
            expect_changed(target, before)
            before = values(target)
        for path, value in values(target).items():
            np.testing.assert_array_equal(value, before[path], err_msg=f"{operation}: {path}")

    value = next(iter(before.values()))
    for operation, read in OF_LEAVES.items():
        if kind.is_leaf and (not kind.plain or (isinstance(thing, np.ndarray) and operation != "assign")):
            read(thing, value)
        else:
            refused(operation, lambda: read(thing, value))  # noqa: B023  # called here only
    for each in sv.variables(target):
        for operation, of_leaf in (OF_LEAVES | OF_VARIABLES).items():
            if kind.frozen and "get" not in operation and type(thing) is tuple:
                with suppress(sv.errors.ReadOnlyError):  # optax keeps the averages in dicts, and the count in a tuple
                    of_leaf(each, numbers(each))
            elif (kind.frozen and "get" not in operation) or (is_key(each) and operation not in ("update", "at")):
                refused(operation, lambda: of_leaf(each, numbers(each)))  # noqa: B023  # called here only
            else:
                of_leaf(each, numbers(each))
    for path, value in values(target).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    print(f"{name}: {count} leaves in {len(OF_OBJECTS) + len(OF_LEAVES) + len(OF_VARIABLES) + 2} functions")
