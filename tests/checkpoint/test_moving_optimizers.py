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
    "sgd": {"torch": ["opt/{}/momentum_buffer"], "nnx": ["opt/opt_state/0/trace/{short}"]},
}


def state(library: str, optimizer: str, *, step: int = 0, seed: int | None = None, net: bool = True) -> dict[str, Any]:
    """The weights and the state of an optimizer by path, as variables."""
    random = None if seed is None else np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for path, shape in SHAPES[library].items():
        names = {"flat": path.replace("/", "_"), "short": path.removeprefix("net/")}
        for name in [path] * net + [each.format(path, **names) for each in LAYOUTS[optimizer][library]]:
            if name.endswith(("step", "count", "iteration")):
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


@pytest.mark.parametrize("net", [True, False])
@pytest.mark.parametrize(
    ("optimizer", "source", "target"),
    [
        (optimizer, source, target)
        for optimizer, libraries in LAYOUTS.items()
        for source in libraries
        for target in libraries
        if source != target
    ],
)
def test_a_state_has_the_axes_of_its_parameter(optimizer: str, source: str, target: str, net: bool) -> None:
    if not net and "keras" in (source, target):
        pytest.skip("the names of Keras are clear only beside those of the weights")
    mine = state(source, optimizer, step=7, seed=0, net=net)
    other = state(target, optimizer, net=net)
    rules = sv.rules(source, target)
    report = sv.load(nested(other), nested(mine), rules=rules)
    assert set(report.loaded) == set(other)
    back = state(source, optimizer, net=net)
    sv.load(nested(back), nested(other), rules=rules.inverse())
    for path, v in mine.items():
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


def test_keras_keeps_the_momentum_times_the_learning_rate() -> None:
    target = {path: v for path, v in state("keras", "adam").items() if not path.endswith("velocity")}
    message = refused(state("torch", "sgd"), target, ("torch", "keras"))
    assert "the state of SGD with momentum, which contains the learning rate, in keras is not moved" in message


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
