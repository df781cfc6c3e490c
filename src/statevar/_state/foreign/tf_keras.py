"""Keras 2 (`tf_keras`), whose variables are those of TensorFlow: layers and models, optimizers and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tf_keras

from ..._arrays.slots import Adapter, Named, Opened
from ...errors import ForeignStateError
from .layers import attribute_name, built_for_load, elements, has_state, stable_name, unique

__all__ = ["ADAPTER"]

_Layer = tf_keras.layers.Layer
_Optimizer = tf_keras.optimizers.Optimizer
_TRACKED = (_Layer, _Optimizer)  # metrics are layers

#: The attributes in which Keras keeps its own books. What `compile` and `fit` measure belongs to one epoch.
_BOOKS = frozenset(
    [
        *("_trainable_weights", "_non_trainable_weights", "_metrics", "_checkpoint", "_input_layers", "_output_layers"),
        *("_layer_call_argspecs", "_created_nodes", "_network_nodes", "_nodes_by_depth", "_inbound_nodes_value"),
        *("_outbound_nodes_value", "_input_coordinates", "_output_coordinates", "compiled_loss", "compiled_metrics"),
        *("history", "_distribution_strategy", "_compiled_trainable_state", "_obj_reference_counts_dict"),
        *("train_function", "train_tf_function", "test_function", "predict_function", "_call_spec", "_mesh"),
        *("_steps_per_execution_tuner", "_saved_model_inputs_spec", "_saved_model_arg_spec", "_layout_map"),
        *("inputs", "outputs", "_nested_inputs", "_nested_outputs", "_feed_inputs", "_losses", "_callable_losses"),
    ]
)


def _open(x: Any) -> Opened:
    # The optimizers of `tf_keras.optimizers.legacy` make their state under names that cannot be foretold.
    if isinstance(x, _Layer):
        return _children_of_layer(x)
    if isinstance(x, _Optimizer):
        return _children_of_optimizer(x)
    return None


def _children_of_layer(layer: Any) -> dict[Any, Any]:
    """The state of a layer: by the names of its attributes and weights, and the names of layers that have neither."""
    if not layer.built and type(layer).build is not _Layer.build and not isinstance(layer, tf_keras.metrics.Metric):
        problem = f"the layer {layer.name!r} is not built, so its variables do not exist yet"
        hint = "call the model once, or give it its shape: model.build(shape)"
        raise ForeignStateError.of("view", problem, hint=hint)
    children: dict[Any, Any] = {}
    for name, value in vars(layer).items():
        if name in _BOOKS or name.startswith("_self_") or _is_variable(value):
            continue
        if has_state(value, _TRACKED, "tf_keras"):
            children[attribute_name(layer, name, "tf_keras")] = value
        elif (generator := getattr(value, "_generator", None)) is not None:  # in Keras' own generator
            children[attribute_name(layer, name, "tf_keras")] = generator
    own = [*layer._trainable_weights, *layer._non_trainable_weights]
    for name, variable in unique((_last(each.name), each) for each in own):
        children.setdefault(name, variable)
    met = {id(each) for value in children.values() for each in elements(value)}
    inner = layer._flatten_layers(recursive=False, include_self=False)
    rest = [each for each in inner if id(each) not in met and not _is_of_compile(layer, each)]
    for name, each in unique((stable_name(each), each) for each in rest):
        children[name if name not in children else f"{name}_layer"] = each
    optimizer = children.pop("optimizer", None)
    if isinstance(optimizer, _Optimizer):  # last, and by the paths of the parameters, which it does not know itself
        children["optimizer"] = _children_of_optimizer(optimizer, layer.trainable_variables)
    elif optimizer is not None:
        children["optimizer"] = optimizer
    return children


def _is_of_compile(layer: Any, each: Any) -> bool:
    """Whether a layer is a metric that `compile` has made."""
    if not isinstance(each, tf_keras.metrics.Metric) or not isinstance(layer, tf_keras.Model):
        return False
    return not any(each is value for value in vars(layer).values())


def _is_variable(value: Any) -> bool:
    return hasattr(value, "read_value") and hasattr(value, "assign")


def _last(name: str) -> str:
    """The name of a weight in its layer: of ``dense/kernel:0`` it is ``kernel``."""
    return name.rpartition("/")[2].partition(":")[0]


def _children_of_optimizer(optimizer: Any, parameters: Sequence[Any] = ()) -> dict[Any, Any]:
    """The numbers of an optimizer, and under each parameter, or its number, what belongs to it."""
    children: dict[Any, Any] = {"iteration": optimizer.iterations}
    if _is_variable(optimizer._learning_rate):
        children["learning_rate"] = optimizer._learning_rate
    taken = {id(each) for each in children.values()}
    by_index: dict[int, dict[str, Any]] = {}
    for name, slots in vars(optimizer).items():
        if not isinstance(slots, list) or name == "_variables":
            continue
        for number, each in enumerate(slots):  # one for each parameter, in the order of `build`
            if _is_variable(each):
                by_index.setdefault(number, {})[name.strip("_")] = each
                taken.add(id(each))
    inner = getattr(optimizer, "inner_optimizer", None)  # of an optimizer that scales the loss
    if inner is not None:
        children["inner_optimizer"] = inner
        taken |= {id(each) for each in inner.variables}
    known = len(parameters) >= len(by_index)
    for number, state in by_index.items():
        children[Named(parameters[number], str(number)) if known else str(number)] = state
    for name, each in unique((_last(each.name), each) for each in optimizer.variables if id(each) not in taken):
        children.setdefault(name, each)
    return children


def _accept(x: Any, _arrays: Mapping[str, Any]) -> Callable[[], None] | None:
    """Makes the state of the optimizer of a compiled model before its first step; returns what undoes it."""
    optimizer = getattr(x, "optimizer", None)
    if isinstance(x, tf_keras.Model) and isinstance(optimizer, _Optimizer) and not getattr(optimizer, "_built", False):
        return built_for_load(x)
    return None


ADAPTER = Adapter(_open, accept=_accept)
