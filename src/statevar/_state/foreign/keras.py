"""Keras 3 on each of its backends: variables, layers and models, optimizers, metrics and seed generators."""

from __future__ import annotations

from typing import Any

import keras

from ..._arrays.slots import Adapter, Opened
from .keras_layers import children_of_layer
from .keras_optimizers import accept_state, children_of_optimizer
from .keras_variables import slot_of
from .layers import unique

__all__ = ["ADAPTER"]


def _open(x: Any) -> Opened:
    if isinstance(x, keras.Variable):
        return slot_of(x)
    if isinstance(x, keras.layers.Layer):
        return children_of_layer(x)
    if isinstance(x, keras.optimizers.Optimizer):
        return children_of_optimizer(x)
    if isinstance(x, keras.metrics.Metric):
        return dict(unique([(each.name, each) for each in (*x._variables, *x._metrics)]))
    if isinstance(x, keras.random.SeedGenerator):
        return {"state": x.state}
    if isinstance(x, list | tuple):  # in the wrapper by which a layer tracks it
        return dict(enumerate(x))
    return dict(x) if isinstance(x, dict) else None


ADAPTER = Adapter(_open, accept=accept_state)
