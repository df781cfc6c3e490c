"""What both versions of Keras need to name what is in a layer. It imports neither."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from .table import adapters_of

__all__ = ["DEPTH", "attribute_name", "built_for_load", "elements", "has_state", "stable_name", "unique"]

DEPTH = 4  #: containers in containers of an attribute


def unique(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The pairs with ``_1``, ``_2`` and so on at names that were there before."""
    count: dict[str, int] = {}
    found = []
    for name, each in pairs:
        number = count.get(name, 0)
        count[name] = number + 1
        found.append((f"{name}_{number}" if number else name, each))
    return found


def stable_name(layer: Any) -> str:
    """The name of a layer that the user gave, or that of its class: Keras numbers the others in each process anew."""
    usual = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", type(layer).__name__))  # as both versions do it
    usual = re.sub(r"([a-z])([A-Z])", r"\1_\2", usual).lower()
    return usual if re.fullmatch(rf"{re.escape(usual)}(_\d+)?", layer.name) else str(layer.name)


def attribute_name(layer: Any, name: str, root: str) -> str:
    """The name of an attribute in a path: without an underscore, if the layer is one of Keras' own, as in its files."""
    return name.lstrip("_") if type(layer).__module__.startswith(f"{root}.") else name


def has_state(value: Any, tracked: tuple[type, ...], root: str, depth: int = DEPTH) -> bool:
    """Whether a value may be state: of Keras, of ours, or of another library that has an adapter.

    Args:
        tracked: the classes of Keras whose objects have state.
        root: the root module of Keras; what else is from there has none.
    """
    if isinstance(value, tracked):
        return True
    if isinstance(value, list | tuple | set | dict):
        return depth > 0 and any(has_state(each, tracked, root, depth - 1) for each in _values(value))
    roots = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    if root in roots:
        return False
    return "statevar" in roots or (bool(adapters_of(type(value))) and not hasattr(type(value), "__array__"))


def elements(value: Any, depth: int = DEPTH) -> Iterable[Any]:
    """A value, and if it is a container, what is in it."""
    yield value
    if isinstance(value, list | tuple | set | dict) and depth:
        for each in _values(value):
            yield from elements(each, depth - 1)


def built_for_load(model: Any) -> Callable[[], None]:
    """Builds the optimizer of a compiled model before its first step, as ``fit`` would; returns what undoes it.

    It only adds to the lists and dicts of the optimizer, and sets attributes.
    """
    optimizer = model.optimizer
    before = dict(vars(optimizer))
    lengths = [(each, len(each)) for each in before.values() if isinstance(each, list)]
    keys = [(each, set(each)) for each in before.values() if isinstance(each, dict)]

    def undo() -> None:
        vars(optimizer).clear()
        vars(optimizer).update(before)
        for each, length in lengths:  # not by their own methods, by which Keras and TensorFlow track changes
            for storage in (each, getattr(each, "_storage", None)):
                if isinstance(storage, list) and len(storage) > length:
                    list.__delitem__(storage, slice(length, None))
        for found, known in keys:
            for key in set(found) - known:
                dict.pop(found, key)

    try:
        optimizer.build(model.trainable_variables)
    except BaseException:
        undo()
        raise
    return undo


def _values(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container
