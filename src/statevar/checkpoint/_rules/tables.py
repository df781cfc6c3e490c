"""Which weights of a layer are which in another library: data, by the kind of the layer.

Of the two names in a row, the first is that of the first library of the table. All names are those in a layer. The
notation of the axes is in `axes.py`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from .rule import Names, Rule, Rules, no_table

__all__ = ["KINDS", "rules_between"]

_Rows = list[tuple[Any, ...]]

_TORCH_NORM: _Rows = [("weight", "gamma"), ("bias", "beta")]
_TORCH_KERNELS: _Rows = [
    ("weight", "kernel", "o i w -> w i o"),
    ("weight", "kernel", "o i h w -> h w i o"),
    ("weight", "kernel", "o i d h w -> d h w i o"),
    ("bias", "bias"),
]

TORCH_KERAS: dict[str, _Rows] = {
    "attention": [
        ("in_proj_weight", ("query/kernel", "key/kernel", "value/kernel"), "([q k v] h d) i -> [q k v] i h d"),
        ("in_proj_bias", ("query/bias", "key/bias", "value/bias"), "([q k v] h d) -> [q k v] h d"),
        ("q_proj_weight", "query/kernel", "(h d) i -> i h d"),
        ("k_proj_weight", "key/kernel", "(h d) i -> i h d"),
        ("v_proj_weight", "value/kernel", "(h d) i -> i h d"),
        ("out_proj/weight", "attention_output/kernel", "o (h d) -> h d o"),
        ("out_proj/bias", "attention_output/bias"),
    ],
    "lstm": [
        ("weight_ih_l0", "lstm_cell/kernel", "([i f g o] h) x -> x ([i f g o] h)"),
        ("weight_hh_l0", "lstm_cell/recurrent_kernel", "([i f g o] h) x -> x ([i f g o] h)"),
        (("bias_ih_l0", "bias_hh_l0"), "lstm_cell/bias", "+ h -> h"),
    ],
    "gru": [
        ("weight_ih_l0", "gru_cell/kernel", "([r z n] h) x -> x ([z r n] h)"),
        ("weight_hh_l0", "gru_cell/recurrent_kernel", "([r z n] h) x -> x ([z r n] h)"),
        (("bias_ih_l0", "bias_hh_l0"), "gru_cell/bias", "both ([r z n] h) -> both ([z r n] h)"),
    ],
    "linear": [("weight", "kernel", "o i -> i o"), ("bias", "bias")],
    "conv": _TORCH_KERNELS,
    "conv_transpose": _TORCH_KERNELS,  # of which in torch the first axis is the input, and in Keras the last one
    "depthwise_conv": [
        ("weight", "kernel", "(c m) 1 w -> w c m"),
        ("weight", "kernel", "(c m) 1 h w -> h w c m"),
        ("bias", "bias"),
    ],
    "embedding": [("weight", "embeddings")],
    "batch_norm": [
        *_TORCH_NORM,
        ("running_mean", "moving_mean"),
        ("running_var", "moving_variance"),
        ("num_batches_tracked", None),
    ],
    "layer_norm": _TORCH_NORM,
    "group_norm": _TORCH_NORM,
    "instance_norm": _TORCH_NORM,
    "rms_norm": [("weight", "scale")],
    "": [(None, "seed_generator_state"), (None, "seed_generator/state")],
}

_SCALE: _Rows = [("weight", "scale"), ("bias", "bias")]

TORCH_NNX: dict[str, _Rows] = {
    "attention": [
        *TORCH_KERAS["attention"][:5],
        ("out_proj/weight", "out/kernel", "o (h d) -> h d o"),
        ("out_proj/bias", "out/bias"),
    ],
    "lstm": [
        (
            "weight_ih_l0",
            ("ii/kernel", "if_/kernel", "ig/kernel", "io/kernel"),
            "([i f g o] h) x -> [i f g o] x h",
        ),
        (
            "weight_hh_l0",
            ("hi/kernel", "hf/kernel", "hg/kernel", "ho/kernel"),
            "([i f g o] h) x -> [i f g o] x h",
        ),
        (
            ("bias_ih_l0", "bias_hh_l0"),
            ("hi/bias", "hf/bias", "hg/bias", "ho/bias"),
            "+ ([i f g o] h) -> [i f g o] h",
        ),
        ("weight_ih_l0", "dense_i/kernel", "([i f g o] h) x -> x ([i f g o] h)"),
        ("weight_hh_l0", "dense_h/kernel", "([i f g o] h) x -> x ([i f g o] h)"),
        (("bias_ih_l0", "bias_hh_l0"), "dense_h/bias", "+ h -> h"),
    ],
    "gru": [
        ("weight_ih_l0", "dense_i/kernel", "([r z n] h) x -> x ([r z n] h)"),
        ("weight_hh_l0", "dense_h/kernel", "([r z n] h) x -> x ([r z n] h)"),
        (("bias_ih_l0", "bias_hh_l0"), "dense_i/bias", "+ ([r z n] h) -> ([r z n] h)", {}, "", "n"),
    ],
    "linear": [("weight", "kernel", "o i -> i o"), ("bias", "bias")],
    "conv": _TORCH_KERNELS,
    "conv_transpose": [
        ("weight", "kernel", "i o w -> -w i o"),
        ("weight", "kernel", "i o h w -> -h -w i o"),
        ("weight", "kernel", "i o d h w -> -d -h -w i o"),
        ("bias", "bias"),
    ],
    "conv_transpose_kernel": _TORCH_KERNELS,
    "embedding": [("weight", "embedding")],
    "batch_norm": [*_SCALE, ("running_mean", "mean"), ("running_var", "var"), ("num_batches_tracked", None)],
    "layer_norm": _SCALE,
    "group_norm": _SCALE,
    "instance_norm": _SCALE,
    "rms_norm": _SCALE[:1],
    "": [(None, "rngs/*")],
}

_KERAS_NORM: _Rows = [("gamma", "scale"), ("beta", "bias")]
_KERNEL: _Rows = [("kernel", "kernel"), ("bias", "bias")]

KERAS_NNX: dict[str, _Rows] = {
    "attention": [
        *((f"{name}/{leaf}", f"{name}/{leaf}") for name in ("query", "key", "value") for leaf in ("kernel", "bias")),
        ("attention_output/kernel", "out/kernel"),
        ("attention_output/bias", "out/bias"),
    ],
    "lstm": [
        (
            "lstm_cell/kernel",
            ("ii/kernel", "if_/kernel", "ig/kernel", "io/kernel"),
            "x ([i f g o] h) -> [i f g o] x h",
        ),
        (
            "lstm_cell/recurrent_kernel",
            ("hi/kernel", "hf/kernel", "hg/kernel", "ho/kernel"),
            "x ([i f g o] h) -> [i f g o] x h",
        ),
        ("lstm_cell/bias", ("hi/bias", "hf/bias", "hg/bias", "ho/bias"), "([i f g o] h) -> [i f g o] h"),
        ("lstm_cell/kernel", "dense_i/kernel"),
        ("lstm_cell/recurrent_kernel", "dense_h/kernel"),
        ("lstm_cell/bias", "dense_h/bias"),
    ],
    "gru": [
        ("gru_cell/kernel", "dense_i/kernel", "x ([z r n] h) -> x ([r z n] h)"),
        ("gru_cell/recurrent_kernel", "dense_h/kernel", "x ([z r n] h) -> x ([r z n] h)"),
        ("gru_cell/bias", "dense_i/bias", "+ ([z r n] h) -> ([r z n] h)", {}, "", "n"),
    ],
    "linear": _KERNEL,
    "conv": _KERNEL,
    "conv_transpose": [
        ("kernel", "kernel", "w o i -> -w i o"),
        ("kernel", "kernel", "h w o i -> -h -w i o"),
        ("kernel", "kernel", "d h w o i -> -d -h -w i o"),
        ("bias", "bias"),
    ],
    "conv_transpose_kernel": _KERNEL,
    "depthwise_conv": [
        ("kernel", "kernel", "w c m -> w 1 (c m)"),
        ("kernel", "kernel", "h w c m -> h w 1 (c m)"),
        ("bias", "bias"),
    ],
    "embedding": [("embeddings", "embedding")],
    "batch_norm": [*_KERAS_NORM, ("moving_mean", "mean"), ("moving_variance", "var")],
    "layer_norm": _KERAS_NORM,
    "group_norm": _KERAS_NORM,
    "instance_norm": _KERAS_NORM,
    "rms_norm": [("scale", "scale")],
    "": [("seed_generator_state", None), ("seed_generator/state", None), (None, "rngs/*")],
}

#: The kinds of layer that an adapter may name.
KINDS = tuple(sorted((TORCH_KERAS.keys() | TORCH_NNX.keys()) - {""}))

#: The recurrent layers, and how their cell may be called in the layer; nothing if the layer is the cell itself.
_RECURRENT = ("lstm", "gru")
_CELLS = {"torch": ("",), "keras": ("{kind}_cell/", "cell/", ""), "nnx": ("cell/", ""), "linen": ("cell/", "")}

#: The layer whose parts have other names in the paths of variables than as attributes: ``query``, ``query_dense``.
_BY_ATTRIBUTE = ("attention", "keras")

_TABLES = {("torch", "keras"): TORCH_KERAS, ("torch", "nnx"): TORCH_NNX, ("keras", "nnx"): KERAS_NNX}

LIBRARIES = ("torch", "keras", "nnx", "linen")
_NEAR = {"flax": "nnx", "jax": "nnx", "pytorch": "torch", "tensorflow": "keras", "tf": "keras", "tf_keras": "keras"}


def rules_between(source: str, target: str) -> Rules:
    """Returns the rules for the layers of two libraries."""
    if source not in LIBRARIES or target not in LIBRARIES or source == target:
        near = [_NEAR.get(name, name) for name in (source, target)]
        raise no_table(source, target, LIBRARIES, near if near[0] != near[1] and set(near) <= set(LIBRARIES) else [])
    if LIBRARIES.index(source) > LIBRARIES.index(target):
        return rules_between(target, source).inverse()
    if (source, target) == ("nnx", "linen"):
        pairs = dict.fromkeys((name, _in_linen(kind, name)) for kind, name in _names_in_nnx())
        return Rules([(f"*/{mine}", other) for mine, other in pairs if other], libraries=(source, target))
    table = _TABLES[source, "nnx" if target == "linen" else target]
    rows = [rule for kind, each in table.items() for row in each for rule in _rules(kind, Rule(*row), source, target)]
    return Rules(rows, libraries=(source, target))


def _rules(kind: str, row: Rule, source: str, target: str) -> list[Rule]:
    """The rules of one row: several for a recurrent layer, whose cell has more than one name."""
    found = []
    for mine, other in product(_spellings(kind, source), _spellings(kind, target)):
        names = _named(row.source, kind, source, mine), _named(row.target, kind, target, other)
        if names[1] is not None or row.target is None:
            found.append(row._replace(source=names[0], target=names[1], kind=kind))
    return found


def _spellings(kind: str, library: str) -> tuple[str, ...]:
    """How the parts of a layer may be called, each as `_named` takes it."""
    return _CELLS[library] if kind in _RECURRENT else ("", "attribute") if (kind, library) == _BY_ATTRIBUTE else ("",)


def _named(names: Names, kind: str, library: str, cell: str) -> Names:
    if names is None:
        return None
    if isinstance(names, tuple):
        each = [_named(name, kind, library, cell) for name in names]
        return None if None in each else tuple(name for name in each if isinstance(name, str))
    if (kind, library) == _BY_ATTRIBUTE and cell:
        part, leaf = names.split("/")
        return f"*/{part.removeprefix('attention_')}_dense/{leaf}"
    if library == "linen":
        return _in_linen(kind, names, cell)
    if library == "keras" and kind in _RECURRENT:
        names = names.removeprefix(f"{kind}_cell/")
    return f"*/{cell.format(kind=kind)}{names}"


def _in_linen(kind: str, name: str, cell: str = "") -> str | None:
    """The pattern of a name of nnx in the variables of linen; None if linen's layer is another one."""
    if kind in ("gru", "") or name.startswith("dense_"):
        return None  # linen's GRU has a kernel for each gate, and its optimized LSTM the names of the other LSTM
    collection = "batch_stats" if name in ("mean", "var") else "params"
    return f"{collection}/*/{cell}{name.replace('if_/', 'if/')}"


def _names_in_nnx() -> list[tuple[str, str]]:
    """Each kind of layer and the name of each of its weights."""
    return [(kind, name) for kind, rows in TORCH_NNX.items() for row in rows for name in Rule(*row).targets()]
