"""`rules`: the rules between two libraries, with those of a model before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._public import public
from ...errors import describe
from .rule import Rules
from .tables import KINDS, rules_between

__all__ = ["rules"]


@public()
def rules(source: str, target: str, *own: Sequence[Any], kinds: Mapping[str, str] | None = None) -> Rules:
    """Returns the rules that turn the weights of one library into those of another, for `load`.

    They cover linear layers, convolutions, embeddings, normalizations, LSTM, GRU and multi-head attention, and the
    states of Adam, AdamW, SGD with momentum and RMSprop.

    Args:
        source: the library that the weights come from: ``"torch"``, ``"keras"``, ``"nnx"`` or ``"linen"``.
        target: the library of the object.
        own: rules of the model, which come first: tuples as `statevar.checkpoint.Rules` takes them. A flatten before a
            linear layer needs one, because only the model has the shape of what is flattened.
        kinds: the kind of layer by path, where the object does not tell.

    Raises:
        ValueError: a library, a kind or a rule is not valid.

    >>> import numpy as np
    >>> import statevar as sv
    >>> state_dict = {"fc.weight": np.ones((5, 12), "float32"), "fc.bias": np.zeros(5, "float32")}
    >>> model = {"fc": {"kernel": sv.Variable(np.zeros((12, 5))), "bias": sv.Variable(np.ones(5))}}
    >>> sv.load(model, state_dict, rules=sv.rules("torch", "nnx"), cast=True).loaded
    ['fc/kernel', 'fc/bias']
    """
    kinds = dict(kinds or {})
    if unknown := [kind for kind in kinds.values() if kind not in KINDS]:
        problem = f"{unknown[0]!r} is no kind of layer"
        raise ValueError(describe("rules", problem, hint=f"the kinds are {', '.join(KINDS)}"))
    return Rules([*Rules(own), *rules_between(source, target)], libraries=(source, target), kinds=kinds)
