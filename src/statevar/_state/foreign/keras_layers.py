"""What is state in layers and models of Keras 3: what Keras tracks of it, and what its attributes hold besides."""

from __future__ import annotations

from typing import Any

import keras

from ...errors import ForeignStateError
from .layers import attribute_name, elements, has_state, stable_name, unique

__all__ = ["children_of_layer"]

_TRACKED = (
    keras.Variable,
    keras.layers.Layer,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
    keras.random.SeedGenerator,
)
#: The attributes in which Keras keeps its own books. What `compile` and `fit` measure belongs to one epoch.
_BOOKS = frozenset(
    [
        *("_tracker", "_trainable_variables", "_non_trainable_variables", "_layers", "_metrics", "_seed_generators"),
        *("_auto_config", "_functional", "_inbound_nodes", "_outbound_nodes", "_operations", "_operations_by_depth"),
        *("_nodes", "_nodes_by_depth", "_inputs", "_outputs", "_inputs_struct", "_outputs_struct", "_compile_loss"),
        *("_compile_metrics", "_loss_tracker", "_compile_config", "_jax_state", "history", "_eval_epoch_iterator"),
        *("_compiled_trainable_state", "_build_shapes_dict", "_losses", "_loss_ids", "_losses_override"),
        *("_call_context_args", "_call_has_context_arg", "call_signature_parameters", "_obj_reference_counts_dict"),
        *("_parameters", "_modules", "_buffers", "_torch_params"),
    ]
)


def children_of_layer(layer: Any) -> dict[Any, Any]:
    """The state of a layer: by the names of its attributes and variables, and the names of layers that have neither.

    Raises:
        ForeignStateError: it has no variables yet, but will get some when it is built.
    """
    if not layer.built and type(layer).build is not keras.layers.Layer.build:
        problem = f"the layer {layer.name!r} is not built, so its variables do not exist yet"
        raise ForeignStateError.of(
            "view", problem, hint="call the model once, or give it its shape: model.build(shape)"
        )
    children: dict[Any, Any] = {}
    # On torch, a layer is a module of torch, which keeps the layers among its attributes apart.
    for name, value in {**vars(layer), **vars(layer).get("_modules", {})}.items():
        if name in _BOOKS or name.startswith("_self_") or isinstance(value, keras.Variable):
            continue  # TensorFlow's books begin with _self_
        if has_state(value, _TRACKED, "keras"):
            children[attribute_name(layer, name, "keras")] = value
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    for name, variable in unique((each.name, each) for each in own):
        children.setdefault(name, variable)
    met = {id(each) for value in children.values() for each in elements(value)}
    rest = [each for each in (*layer._layers, *layer._metrics) if id(each) not in met and _is_own(layer, each)]
    for name, each in unique((stable_name(each), each) for each in rest):
        children[name if name not in children else f"{name}_layer"] = each
    for name, each in unique(("seed_generator", each) for each in layer._seed_generators if id(each) not in met):
        children.setdefault(name, each)
    if "optimizer" in children:  # last, since its state is named by the paths of the parameters
        children["optimizer"] = children.pop("optimizer")
    return children


def _is_own(layer: Any, each: Any) -> bool:
    return each is not getattr(layer, "_functional", None) and each not in (
        getattr(layer, "_loss_tracker", None),
        getattr(layer, "_compile_metrics", None),
    )
