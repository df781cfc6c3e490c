"""The names of the arrays in HDF5 files of Keras, as users know them.

============================  ==========================================  =========================================
written by                    path of an array                            name
============================  ==========================================  =========================================
``save_weights``, ``save``    ``layers/dense_1/vars/0``                   ``<name of the layer>/kernel``
in Keras 3, TF-Keras
Keras 2, ``save("….h5")``     ``model_weights/<layer>/<variable>:0``      ``<name of the layer>/kernel``
any other program             a group, a dataset                          the same
============================  ==========================================  =========================================

In the first format the path has the class of a layer and its position among the layers of this class. The name of the
layer comes from the configuration of the model, which only a ``.keras`` has, and from the attribute ``name``, which
newer versions of Keras write. The names of the variables of a layer come from a table of Keras's own layers. Where any
of them is unknown, or two sources contradict each other, the path stays. It remains an alias in any case.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ...._state.walk import segment
from .tree import Tree

__all__ = ["Names", "names_in"]

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")  # the latter in Keras 2.12 and 2.13
_LAYERS = "layer_names"
_WEIGHTS = "weight_names"


class Names(NamedTuple):
    """The names in a file.

    Attributes:
        places: the path in the file of each array, by its name.
        aliases: each further name of an array or of a group of arrays, mapped to its first one.
        metadata: the configuration of the model and the version of Keras; the attributes of the file.
    """

    places: dict[str, str]
    aliases: dict[str, str]
    metadata: dict[str, Any]


def names_in(tree: Tree, facts: Mapping[str, Any]) -> Names:
    """Returns the names of the arrays in a file.

    Args:
        tree: the file.
        facts: the parsed ``config.json`` and ``metadata.json`` of a model of Keras; empty for another file.
    """
    metadata = tree.attributes("")
    if "config.json" in facts:
        metadata = {**facts.get("metadata.json", {}), "config": facts["config.json"]}
    root = "model_weights" if "model_weights" in tree.groups else ""
    if metadata_of := _listed(tree, root, _LAYERS):
        places, aliases = _named_by_lists(tree, root, metadata_of)
    elif any(group.rpartition("/")[2] == "vars" for group in tree.groups):
        places, aliases = _named_by_layers(tree, facts)
    else:
        places, aliases = {path: path for path in tree.datasets}, {}
    names = {place: name for name, place in places.items()}
    for path, first in tree.aliases.items():
        aliases.setdefault(path, names.get(first, first))
    return Names(places, {alias: name for alias, name in aliases.items() if name and alias not in places}, metadata)


# -- Keras 3: a group for each layer ---------------------------------------------------------------------


class _Layer(NamedTuple):
    """A layer in the configuration of a model."""

    name: str
    variables: dict[str, list[str]]  # the names of its variables, by the path of a group in that of the layer
    layers: dict[str, _Layer]  # the layers of a model inside of the model, by the name of their group


def _named_by_layers(tree: Tree, facts: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    major = str(facts.get("metadata.json", {}).get("keras_version", "")).partition(".")[0]
    model = _Layer("", {}, _layers_of(facts.get("config.json"), major, 0))
    groups: dict[str, str] = {}  # by path, the name
    known: dict[str, list[str]] = {}  # by path of a group of variables, their names
    aliases: dict[str, str] = {}
    layers: dict[str, _Layer | None] = {"": model}
    inner = _inner(tree)
    for path in tree.groups:  # from the outside to the inside
        parent, _, last = path.rpartition("/")
        if not path:
            groups[path] = ""
            continue
        if path.rpartition("/")[2] in _CONTAINERS and parent in layers:
            _name_layers(tree, path, layers[parent], inner, groups, layers, aliases)
        if path not in groups:
            groups[path] = _joined(groups[parent], last)
    for path, layer in layers.items():
        for below, names in (layer.variables if layer is not None else {}).items():
            known[_joined(path, below, "vars")] = names
    places = {}
    for path in tree.datasets:
        parent, _, last = path.rpartition("/")
        variables = known.get(parent, [])
        numbered = {str(i): name for i, name in enumerate(variables)}
        name = _joined(groups[parent], last)
        if last in numbered and set(inner.get(parent, ())) == set(numbered):
            better = _joined(groups[parent.rpartition("/")[0]], numbered[last])
            aliases[name] = better
            name = better
        places[name] = path
    if len(places) < len(tree.datasets):  # two arrays have the same name
        return {path: path for path in tree.datasets}, {}
    return places, aliases


def _name_layers(
    tree: Tree,
    path: str,
    model: _Layer | None,
    inner: Mapping[str, list[str]],
    groups: dict[str, str],
    layers: dict[str, _Layer | None],
    aliases: dict[str, str],
) -> None:
    """Gives the groups of layers the names of the layers. The group of all the layers of a model is left out."""
    parent = path.rpartition("/")[0]
    names: dict[str, str] = {}
    for last in inner.get(path, ()):
        group = _joined(path, last)
        layer = model.layers.get(last) if model is not None else None
        said = tree.attributes(f"{group}/vars").get("name") if "vars" in inner.get(group, ()) else None
        name = layer.name if layer is not None else said
        if isinstance(name, str) and name and said in (None, name):
            names[last] = segment(name)
            layers[group] = layer
    taken = Counter([*names.values(), *inner.get(parent, ())])
    groups[path] = _joined(groups[parent], path.rpartition("/")[2])
    for last, name in names.items():
        if taken[name] == 1:
            groups[_joined(path, last)] = _joined(groups[parent], name)
            aliases[_joined(groups[path], last)] = _joined(groups[parent], name)


def _inner(tree: Tree) -> dict[str, list[str]]:
    """The names of the groups and arrays in each group."""
    found: dict[str, list[str]] = {}
    for path in (*tree.groups, *tree.datasets):
        if path:
            parent, _, last = path.rpartition("/")
            found.setdefault(parent, []).append(last)
    return found


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _layers_of(value: Any, major: str, depth: int) -> dict[str, _Layer]:
    """The layers of a model, by the names of their groups, from its configuration."""
    config = value.get("config") if isinstance(value, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else None
    if not isinstance(layers, list) or depth > _DEEPEST:
        return {}
    found: dict[str, _Layer] = {}
    used: Counter[str] = Counter()
    for each in layers:
        if not isinstance(each, dict) or not isinstance(each.get("class_name"), str):
            return {}  # then the positions are unknown
        inner = each.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        group = _snake_case(each["class_name"])
        count, used[group] = used[group], used[group] + 1
        if isinstance(inner, dict) and isinstance(name, str):
            is_own = str(each.get("module", "")).startswith(("keras.layers", "keras.src.layers"))
            is_own = is_own and each.get("registered_name") in (None, each["class_name"])
            variables = _variables_of(each["class_name"], inner, major) if is_own else {}
            found[f"{group}_{count}" if count else group] = _Layer(name, variables, _layers_of(each, major, depth + 1))
    return found


_DEEPEST = 20  # levels of models in models


def _snake_case(name: str) -> str:
    """The name that Keras gives to the group of a class."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _variables_of(kind: str, config: Mapping[str, Any], major: str) -> dict[str, list[str]]:
    """The names of the variables of one of Keras's layers in their order, by the group inside of that of the layer."""

    def chosen(*options: tuple[str, str]) -> list[str]:
        return [name for option, name in options if not option or config.get(option, True)]

    if config.get("lora_rank") or config.get("quantization_config") or kind not in _KNOWN:
        return {}
    if kind == "EinsumDense":
        return {"": ["kernel"] + (["bias"] if config.get("bias_axes") else [])}
    if kind == "Embedding":
        return {"": ["embeddings"]}
    if kind.startswith("Separable"):
        return {"": chosen(("", "depthwise_kernel"), ("", "pointwise_kernel"), ("use_bias", "bias"))}
    if kind.startswith("Depthwise"):
        return {"": chosen(("", "kernel" if major >= "3" else "depthwise_kernel"), ("use_bias", "bias"))}
    if kind == "BatchNormalization" and not config.get("renorm"):
        statistics = ("", "moving_mean"), ("", "moving_variance")
        return {"": chosen(("scale", "gamma"), ("center", "beta"), *statistics)}
    if kind in ("LayerNormalization", "GroupNormalization") and not config.get("rms_scaling"):
        return {"": chosen(("scale", "gamma"), ("center", "beta"))}
    if kind in _RECURRENT:
        return {"cell": chosen(("", "kernel"), ("", "recurrent_kernel"), ("use_bias", "bias"))}
    if kind == "MultiHeadAttention":
        names = chosen(("", "kernel"), ("use_bias", "bias"))
        sides = ("query", "key", "value", "output")
        return {f"{prefix}{side}_dense": names for prefix in ("", "_") for side in sides}
    if kind == "Dense" or "Conv" in kind:
        return {"": chosen(("", "kernel"), ("use_bias", "bias"))}
    return {}


_RECURRENT = ("LSTM", "GRU", "SimpleRNN")
_KNOWN = {
    *("Dense", "EinsumDense", "Embedding", "MultiHeadAttention", *_RECURRENT),
    *(f"{kind}Normalization" for kind in ("Batch", "Layer", "Group")),
    *(f"{kind}Conv{axes}D" for kind in ("", "Depthwise", "Separable") for axes in (1, 2, 3)),
    *(f"Conv{axes}DTranspose" for axes in (1, 2, 3)),
}


# -- Keras 2: lists of names -----------------------------------------------------------------------------


def _listed(tree: Tree, group: str, name: str) -> list[str]:
    """A list of names in the attributes of a group. A long one is in several attributes."""
    attributes = tree.attributes(group)
    found = attributes.get(name)
    if found is None:
        found, i = [], 0
        while isinstance(part := attributes.get(f"{name}{i}"), list):
            found += part
            i += 1
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []


def _named_by_lists(tree: Tree, root: str, layers: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Names the weights of a file that has a list of the layers, and of each layer a list of its weights."""
    places: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for layer in layers:
        group = _joined(root, layer)
        for weight in _listed(tree, group, _WEIGHTS) if group in tree.groups else ():
            path = _joined(group, weight)
            name = _name_of_weight(layer, weight)
            if path in tree.datasets and name not in places and name not in tree.datasets:
                places[name] = path
                aliases[path] = name
    named = set(places.values())
    places |= {path: path for path in tree.datasets if path not in named}
    return places, aliases


def _name_of_weight(layer: str, weight: str) -> str:
    """The name of a weight: that of its layer, and what follows it in the name of the variable.

    >>> _name_of_weight("first", "first/kernel:0"), _name_of_weight("first", "model/first/kernel")
    ('first/kernel', 'first/kernel')
    >>> _name_of_weight("encoder", "dense_1/kernel:0")  # a model inside of the model
    'encoder/dense_1/kernel'
    """
    parts = weight.removesuffix(":0").split("/")
    if layer in parts[:-1]:
        parts = parts[parts.index(layer) + 1 :]
    return "/".join([layer, *parts])
