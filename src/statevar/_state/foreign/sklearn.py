"""scikit-learn: what an estimator has learned, in all attributes that are no arguments of its constructor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from ..._arrays.slots import Adapter, Opened, Place, Shared
from ...errors import ForeignStateError
from .items import Number
from .states import BytesState

__all__ = ["ADAPTER"]

_OPTIONS = (bool, str, bytes, type, type(None), np.random.RandomState)  # the last is a generator, with its own adapter


class LearnedArray:
    """The slot of an array in an attribute or a list. An estimator replaces it, or writes in place."""

    backend = "numpy"
    trainable = False
    shared: Shared = "in_place"

    def __init__(self, place: Place, items: Any, key: Any) -> None:
        self.thing = place
        self._items = items
        self._key = key

    def read(self) -> Any:
        """The array that is there now; a scalar or numbers as an array."""
        return np.asarray(self._items[self._key])

    def write(self, array: Any) -> None:
        """Writes in place, or replaces numbers by numbers of the same type."""
        old = self._items[self._key]
        if isinstance(old, np.ndarray) and old.flags.writeable:
            old[...] = array
        elif isinstance(old, list | tuple):
            self._items[self._key] = type(old)(array.tolist())
        else:
            self._items[self._key] = array[()].copy()

    def version(self) -> None:
        """Returns None: nobody counts."""


def _open(x: Any) -> Opened:
    if isinstance(x, type) or type(x).__module__.partition(".")[0] == "numpy":
        return None
    if not isinstance(x, BaseEstimator) and hasattr(type(x), "__setstate__"):  # a tree, which is compiled
        problem = f"the state of {type(x).__module__}.{type(x).__qualname__} is in memory that only scikit-learn reads"
        raise ForeignStateError.of("view", problem, hint="keep it outside of what you pass: joblib.dump(model, file)")
    if not hasattr(x, "__dict__"):
        return None
    options = type(x)._get_param_names() if isinstance(x, BaseEstimator) else ()
    children: dict[str, Any] = {}
    for name, value in vars(x).items():
        if name in options:
            if not isinstance(value, np.ndarray | int | float):  # an estimator in it learns, as the steps of a pipeline
                children[name] = _named(value)
        elif (child := _child(Place(x, name), vars(x), name, value)) is not None:
            children[name] = child
    return children


def _named(value: Any) -> Any:
    """A list of names and estimators, as a pipeline has, as a dict."""
    pairs = isinstance(value, list) and all(isinstance(each, tuple) and isinstance(each[0], str) for each in value)
    return {each[0]: each[1] for each in value} if pairs else value


def _child(place: Place, items: Any, key: Any, value: Any) -> Any:
    """The slot or the object for a value that an estimator has learned; None if it is none that changes."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "OUS":
        return BytesState(place, partial(_read_texts, items, key), partial(_write_texts, items, key))
    if isinstance(value, np.ndarray | np.generic):
        return LearnedArray(place, items, key)
    if isinstance(value, _OPTIONS):
        return value if isinstance(value, np.random.RandomState) else None
    if isinstance(value, int | float):
        return Number(items, key, attribute=False, thing=place)
    if not isinstance(value, list | tuple | dict):
        return value
    if isinstance(value, list | tuple) and all(isinstance(each, int | float) for each in value):
        return LearnedArray(place, items, key) if value else None
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = {str(k): _child(Place(place.holder, *place.keys, k), value, k, each) for k, each in pairs}
    return {name: child for name, child in found.items() if child is not None}


def _read_texts(items: Any, key: Any) -> bytes:
    return json.dumps(items[key].tolist()).encode()


def _write_texts(items: Any, key: Any, data: bytes) -> None:
    items[key] = np.array(json.loads(data), items[key].dtype)


def _accept(x: Any, arrays: Mapping[str, Any]) -> Callable[[], None] | None:
    """Gives an estimator that has learned nothing yet the arrays and numbers that a file has."""
    if not isinstance(x, BaseEstimator):
        return None
    made = [name for name in arrays if name.isidentifier() and name.endswith("_") and not hasattr(x, name)]
    for name in made:
        array = np.array(arrays[name])
        vars(x)[name] = array if array.ndim else array.item()

    def undo() -> None:
        for name in made:
            vars(x).pop(name, None)

    return undo


def _forget(x: Any, paths: list[str]) -> None:
    """Removes what an estimator has learned since: everything, if it had learned nothing before."""
    if not isinstance(x, BaseEstimator):
        return
    options = type(x)._get_param_names()
    new = {path.partition("/")[0] for path in paths}
    state: Any = _open(x)
    learned = {
        name for name, child in state.items() if hasattr(child, "read") or isinstance(child, dict | BaseEstimator)
    }
    gone = set(vars(x)) if learned.difference(options) <= new else {path for path in paths if "/" not in path}
    for name in gone.difference(options):
        vars(x).pop(name, None)


ADAPTER = Adapter(_open, accept=_accept, forget=_forget)
