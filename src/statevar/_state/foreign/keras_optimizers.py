"""What is state in optimizers of Keras 3, by the path of the parameter that it belongs to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import keras

from ..._arrays.slots import Named, Slot
from .keras_variables import slot_of
from .layers import built_for_load, unique
from .table import adapters_of

__all__ = ["accept_state", "children_of_optimizer"]


def children_of_optimizer(optimizer: Any) -> dict[Any, Any]:
    """The numbers of an optimizer, and under each parameter, or its number, what belongs to it."""
    inner = getattr(optimizer, "inner_optimizer", None)  # of an optimizer that scales the loss
    children: dict[Any, Any] = {} if inner is None else {"inner_optimizer": inner}
    parameters = getattr(optimizer, "_trainable_variables", None) or []
    begins: dict[str, list[Any]] = {}
    for each in parameters:
        begins.setdefault(_beginning(each), []).append(each)
    longest_first = sorted(begins, key=len, reverse=True)  # `dense_1` begins with `dense`
    inside = set(map(id, inner.variables)) if inner is not None else set()
    attributes = {id(value): name.strip("_") for name, value in vars(optimizer).items()}
    by_parameter: dict[int, dict[str, Any]] = {}
    met: Counter[str] = Counter()
    rest = []
    for variable in optimizer.variables:
        if id(variable) in inside:
            continue
        begin = next((begin for begin in longest_first if variable.name.startswith(begin)), None)
        if begin is None:
            unnamed = re.fullmatch(r"variable(_\d+)?", variable.name)  # Keras numbers these in each process anew
            rest.append((attributes.get(id(variable), "variable") if unnamed else variable.name, variable))
        else:
            # Parameters of one path get their state in their order.
            parameter = begins[begin][met[variable.name] % len(begins[begin])]
            met[variable.name] += 1
            by_parameter.setdefault(id(parameter), {})[variable.name.removeprefix(begin)] = variable
    children |= unique(rest)
    for number, parameter in enumerate(parameters):
        if (state := by_parameter.get(id(parameter))) is not None:
            children[Named(_thing(parameter), str(number))] = state
    return children


def _beginning(parameter: Any) -> str:
    """With what Keras begins the names of the state of a parameter, which may be a plain `tf.Variable`."""
    name = getattr(parameter, "path", None) or str(parameter.name).replace(":", "_")
    return f"{name.replace('/', '_')}_"


def _thing(parameter: Any) -> Any:
    if isinstance(parameter, keras.Variable):
        return slot_of(parameter).thing
    found = (adapter.open(parameter) for adapter in adapters_of(type(parameter)))
    return next((each.thing for each in found if isinstance(each, Slot)), parameter)


def accept_state(x: Any, _arrays: Mapping[str, Any]) -> Callable[[], None] | None:
    """Makes the state of the optimizer of a compiled model before its first step; returns what undoes it."""
    optimizer = getattr(x, "optimizer", None)
    if isinstance(x, keras.Model) and optimizer is not None and not optimizer.built:
        return built_for_load(x)
    return None
