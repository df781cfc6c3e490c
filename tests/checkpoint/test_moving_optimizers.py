"""The states of optimizers under other names, moved by the rules of their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import CheckpointMismatchError

#: The states of one conv and one linear layer in each library, by canonical name; `{}` is the path of the parameter.
SHAPES = {
    "torch": {"net/conv/weight": (5, 3, 2, 2), "net/fc/weight": (4, 5), "net/fc/bias": (4,)},
    "keras": {"net/conv/kernel": (2, 2, 3, 5), "net/fc/kernel": (5, 4), "net/fc/bias": (4,)},
    "nnx": {"net/conv/kernel": (2, 2, 3, 5), "net/fc/kernel": (5, 4), "net/fc/bias": (4,)},
}
LAYOUTS: dict[str, dict[str, list[str]]] = {
    "adam": {
        "torch": ["opt/{}/exp_avg", "opt/{}/exp_avg_sq", "opt/{}/step"],
        "keras": ["adam/{flat}_momentum", "adam/{flat}_velocity", "adam/iteration"],
        "nnx": ["opt/opt_state/0/mu/{short}", "opt/opt_state/0/nu/{short}", "opt/opt_state/0/count"],
    },
    "rmsprop": {
        "torch": ["opt/{}/square_avg", "opt/{}/step"],
        "keras": ["rm_sprop/{flat}_velocity", "rm_sprop/iteration"],
        "nnx": ["opt/opt_state/0/nu/{short}", "opt/step"],
    },
    "sgd": {
        "torch": ["opt/{}/momentum_buffer"],
        "keras": ["sgd/{flat}_momentum", "sgd/iteration", "sgd/learning_rate"],
        "nnx": ["opt/opt_state/0/trace/{short}"],
    },
}


def state(library: str, optimizer: str, *, step: int = 0, seed: int | None = None, net: bool = True) -> dict[str, Any]:
    """The weights and the state of an optimizer by path, as variables."""
    random = None if seed is None else np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for path, shape in SHAPES[library].items():
        names = {"flat": path.replace("/", "_"), "short": path.removeprefix("net/")}
        for name in [path] * net + [each.format(path, **names) for each in LAYOUTS[optimizer][library]]:
            if name.endswith("learning_rate"):
                found[name] = sv.Variable(0.25)  # a power of two: no rounding
            elif name.endswith(("step", "count", "iteration")):
                found[name] = sv.Variable(step, dtype="float32" if library == "torch" else "int32")
            else:
                found[name] = sv.Variable(np.zeros(shape) if random is None else random.normal(size=shape))
    return found


def nested(variables: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, v in variables.items():
        *parents, leaf = path.split("/")
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = v
    return found


@pytest.mark.parametrize(
    ("optimizer", "source", "target", "net"),
    [
        (optimizer, source, target, net)
        for optimizer, libraries in LAYOUTS.items()
        for source in libraries
        for target in libraries
        if source != target
        for net in (True, False)
        if net or "keras" not in (source, target)  # the names of Keras are clear only beside those of the weights
    ],
)
def test_a_state_has_the_axes_of_its_parameter(optimizer: str, source: str, target: str, net: bool) -> None:
    mine = state(source, optimizer, step=7, seed=0, net=net)
    other = state(target, optimizer, net=net)
    rules = sv.rules(source, target)
    report = sv.load(nested(other), nested(mine), rules=rules)
    stay = {"sgd/learning_rate", "sgd/iteration"}  # torch and optax keep no number of updates for SGD
    assert {*report.loaded} >= {*other} - stay
    back = state(source, optimizer, net=net)
    sv.load(nested(back), nested(other), rules=rules.inverse())
    for path, v in mine.items():
        if path not in stay:
            np.testing.assert_array_equal(back[path].numpy(), v.numpy(), err_msg=path)
    if source == "torch" and optimizer != "sgd":
        first = mine[f"opt/net/conv/weight/{'exp_avg_sq' if optimizer == 'adam' else 'square_avg'}"].numpy()
        second = {"keras": f"{'adam' if optimizer == 'adam' else 'rm_sprop'}/net_conv_kernel_velocity"}
        name = second.get(target, "opt/opt_state/0/nu/conv/kernel")
        np.testing.assert_array_equal(other[name].numpy(), first.transpose(2, 3, 1, 0))


def refused(source: dict[str, Any], target: dict[str, Any], libraries: tuple[str, str]) -> str:
    before = {path: v.version for path, v in target.items()}
    with pytest.raises(CheckpointMismatchError) as caught:
        sv.load(nested(target), nested(source), rules=sv.rules(*libraries))
    assert {path: v.version for path, v in target.items()} == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("leaves", "optimizer"),
    [
        (["acc_delta", "square_avg"], "Adadelta"),
        (["exp_avg", "exp_inf", "step"], "Adamax"),
        (["exp_avg", "exp_avg_sq", "max_exp_avg_sq"], "AMSGrad"),
        (["square_avg", "momentum_buffer"], "RMSprop with momentum"),
        (["exp_avg"], "Lion"),
    ],
)
def test_any_other_optimizer_is_an_error_that_names_it(leaves: list[str], optimizer: str) -> None:
    source = state("torch", "adam") | {}
    source = {path: v for path, v in source.items() if path.startswith("net/")}
    source |= {f"opt/net/fc/bias/{leaf}": sv.Variable(np.zeros(4)) for leaf in leaves}
    message = refused(source, state("nnx", "adam"), ("torch", "nnx"))
    assert message.startswith(
        f"load: the state of {optimizer} in torch is not moved to another library, at 'opt/net/fc/bias/"
    )
    assert "Hint: states of Adam, AdamW, SGD with momentum and RMSprop are moved" in message


def test_keras_keeps_minus_the_learning_rate_times_the_momentum() -> None:
    source, target = state("torch", "sgd", seed=3), state("keras", "sgd")
    report = sv.load(nested(target), nested(source), rules=sv.rules("torch", "keras"))
    momentum = source["opt/net/fc/bias/momentum_buffer"].numpy()
    np.testing.assert_array_equal(target["sgd/net_fc_bias_momentum"].numpy(), -0.25 * momentum)
    note = "sgd/net_fc_bias_momentum is opt/net/fc/bias/momentum_buffer times -0.25, because of the learning rate"
    assert note in report.notes
    del target["sgd/learning_rate"]
    message = refused(source, target, ("torch", "keras"))
    assert (
        "the momentum of SGD in keras is a multiple of the learning rate, which is not known, at 'sgd/net_" in message
    )


def test_parameters_with_other_numbers_of_updates_are_an_error() -> None:
    source = state("torch", "adam", step=3)
    source["opt/net/fc/bias/step"].assign(5.0)
    message = refused(source, state("nnx", "adam"), ("torch", "nnx"))
    problem = "the parameters have different numbers of updates: 3.0 at 'opt/net/conv/weight/step', 5.0 at"
    assert f"mismatched  opt/opt_state/0/count: {problem} 'opt/net/fc/bias/step'" in message


def test_settings_of_an_optimizer_are_left_alone() -> None:
    source = state("torch", "adam", seed=1) | {"opt/param_groups/0/lr": sv.Variable(0.1)}
    target = state("keras", "adam") | {"adam/learning_rate": sv.Variable(0.5)}
    report = sv.load(nested(target), nested(source), rules=sv.rules("torch", "keras"))
    assert set(report.skipped) == {"opt/param_groups/0/lr", "adam/learning_rate"}
    assert float(target["adam/learning_rate"]) == 0.5


def test_a_weight_that_is_named_like_a_state_stays_one() -> None:
    target = {"mu": sv.Variable(1.0), "step": sv.Variable(1.0)}
    assert sv.load(target, {"mu": np.float32(2), "step": np.float32(3)}, rules=sv.rules("torch", "nnx")).loaded == [
        "mu",
        "step",
    ]


@pytest.mark.parametrize("optimizer", ["RAdam", "NAdam", "Adagrad"])
def test_the_class_of_an_optimizer_tells_what_names_do_not(optimizer: str) -> None:
    """RAdam keeps the same as Adam under the same names."""
    torch: Any = pytest.importorskip("torch")
    net = torch.nn.ModuleDict({"fc": torch.nn.Linear(5, 4), "conv": torch.nn.Conv2d(3, 5, 2)})
    opt = getattr(torch.optim, optimizer)(net.parameters())
    sum(p.sum() for p in net.parameters()).backward()
    opt.step()
    target = state("nnx", "adam")
    with pytest.raises(CheckpointMismatchError, match=f"the state of {optimizer} in torch is not moved") as caught:
        sv.load(nested(target), {"net": net, "opt": opt}, rules=sv.rules("torch", "nnx"))
    assert "at 'opt/net/fc/weight/" in str(caught.value)
    assert not any(v.version for v in target.values())


@pytest.mark.parametrize("name", ["lion", "nadam"])
def test_the_name_of_an_optimizer_in_keras_tells_too(name: str) -> None:
    source = {path.replace("adam/", f"{name}/"): v for path, v in state("keras", "adam").items()}
    message = refused(source, state("nnx", "adam"), ("keras", "nnx"))
    assert f"the state of {name.title()} in keras is not moved" in message


def gradient(kernel: Any, bias: Any) -> tuple[Any, Any]:
    """Of the sum of squares of a linear layer."""
    x = np.linspace(-1.0, 1.0, 12, dtype="float32").reshape(4, 3)
    error = 2.0 * (x @ kernel + bias)
    return x.T @ error, error.sum(0)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("library", ["optax", "keras"])
def test_an_optimizer_goes_on_in_another_library(library: str, optimizer: str) -> None:
    """Three steps in torch and the fourth in the other library give what four steps in torch give."""
    torch: Any = pytest.importorskip("torch")
    net = torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 2)})
    fc, rate = net["fc"], 0.125
    make = {
        "adam": lambda p: torch.optim.Adam(p, lr=rate),
        "sgd": lambda p: torch.optim.SGD(p, lr=rate, momentum=0.75),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=rate, alpha=0.75, eps=1e-7),
    }
    opt = make[optimizer](net.parameters())

    def step() -> None:
        kernel, bias = gradient(fc.weight.detach().numpy().T, fc.bias.detach().numpy())
        fc.weight.grad, fc.bias.grad = torch.from_numpy(kernel.T.copy()), torch.from_numpy(bias)
        opt.step()

    for _ in range(3):
        step()
    goes_on = optax_that_goes_on if library == "optax" else keras_that_goes_on
    kernel, bias = goes_on(optimizer, {"net": net, "opt": opt}, rate)
    step()
    np.testing.assert_allclose(kernel, fc.weight.detach().numpy().T, atol=1e-5)
    np.testing.assert_allclose(bias, fc.bias.detach().numpy(), atol=1e-5)


def optax_that_goes_on(optimizer: str, source: Any, rate: float) -> list[Any]:
    optax: Any = pytest.importorskip("optax")
    params = {"fc": {"kernel": np.zeros((3, 2), "float32"), "bias": np.zeros(2, "float32")}}
    transform = {
        "adam": lambda: optax.adam(rate),
        "sgd": lambda: optax.sgd(rate, momentum=0.75),
        "rmsprop": lambda: optax.rmsprop(rate, decay=0.75, eps=1e-7, eps_in_sqrt=False, bias_correction=False),
    }[optimizer]()
    state = transform.init(params)
    first = {name: getattr(state[0], name) for name in state[0]._fields}
    import jax

    target = jax.tree.map(lambda x: sv.Variable(np.asarray(x)), {"net": params, "opt": {"opt_state": {"0": first}}})
    sv.load(target, source, rules=sv.rules("torch", "nnx"), strict=optimizer != "rmsprop")
    moved = jax.tree.map(lambda v: v.numpy(), target, is_leaf=lambda v: isinstance(v, sv.Variable))
    state = (state[0]._replace(**moved["opt"]["opt_state"]["0"]), *state[1:])
    kernel, bias = gradient(moved["net"]["fc"]["kernel"], moved["net"]["fc"]["bias"])
    updates, _ = transform.update({"fc": {"kernel": kernel, "bias": bias}}, state, moved["net"])
    found = optax.apply_updates(moved["net"], updates)
    return [found["fc"]["kernel"], found["fc"]["bias"]]


def keras_that_goes_on(optimizer: str, source: Any, rate: float) -> list[Any]:
    keras: Any = pytest.importorskip("keras")
    net = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="fc")])
    made = {
        "adam": lambda: keras.optimizers.Adam(rate),
        "sgd": lambda: keras.optimizers.SGD(rate, momentum=0.75),
        "rmsprop": lambda: keras.optimizers.RMSprop(rate, rho=0.75, epsilon=1e-14),
    }[optimizer]()
    made.build(net.trainable_variables)
    theirs = {v.path: v for v in [*net.variables, *made.variables]}
    values = {path: keras.ops.convert_to_numpy(v.value) for path, v in theirs.items()}
    target = {path: sv.Variable(value, dtype=value.dtype.name) for path, value in values.items()}
    root = net.variables[0].path.partition("/")[0]
    sv.load(
        nested(target), source, rules=sv.rules("torch", "keras"), rename={"net": root}, strict=optimizer != "rmsprop"
    )
    for path, v in theirs.items():
        v.assign(target[path].numpy())
    kernel, bias = gradient(*(keras.ops.convert_to_numpy(v.value) for v in net.variables))
    made.apply([keras.ops.convert_to_tensor(kernel), keras.ops.convert_to_tensor(bias)], net.trainable_variables)
    return [keras.ops.convert_to_numpy(v.value) for v in net.variables]


def test_a_model_and_its_optimizer_go_to_keras_and_back_as_objects() -> None:
    torch: Any = pytest.importorskip("torch")
    keras: Any = pytest.importorskip("keras")

    def trained(steps: int) -> dict[str, Any]:
        net = torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 2)})
        opt = torch.optim.Adam(net.parameters())
        for _ in range(steps):
            opt.zero_grad()
            (net["fc"](torch.ones(4, 3)) ** 2).sum().backward()
            opt.step()
        return {"net": net, "opt": opt}

    mine, back = trained(3), trained(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="fc")])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    theirs, rules = {"net": model, "opt": optimizer}, sv.rules("torch", "keras")
    assert len(sv.load(theirs, mine, rules=rules).loaded) == 7
    assert int(optimizer.iterations) == 3
    sv.load(back, theirs, rules=rules.inverse())
    for state, other in zip(*(each["opt"].state_dict()["state"].values() for each in (mine, back)), strict=True):
        for name, value in state.items():
            np.testing.assert_array_equal(other[name].numpy(), value.numpy(), err_msg=name)
