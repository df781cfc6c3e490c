"""Objects of many kinds that hold variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import statevar as sv
from tests.internals import Paths


class Dense(sv.Module):
    """Does not call ``super().__init__()``."""

    def __init__(self, inputs: int = 2, outputs: int = 2, backend: str = "numpy") -> None:
        self.kernel = sv.Variable("ones", shape=(inputs, outputs), name="kernel", backend=backend)
        self.bias = sv.Variable("zeros", shape=(outputs,), name="bias", backend=backend)
        self.calls = sv.Variable(0, name="calls", backend=backend, trainable=False)

    def __call__(self, x: Any) -> Any:
        self.calls.assign_add(1)
        return x @ self.kernel + self.bias


class Model(sv.Module):
    def __init__(self, backend: str = "numpy") -> None:
        super().__init__()
        self.layers = [Dense(2, 3, backend), Dense(3, 1, backend)]
        self.heads = {"mean": Dense(1, 1, backend)}

    @sv.jit
    def step(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Record:
    left: Any = None
    right: Any = None


@dataclass(slots=True)
class Slotted:
    left: Any = None
    right: Any = None


class Plain:
    """Any attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Secret:
    __slots__ = ("__inside", "__weakref__")

    def __init__(self, inside: Any) -> None:
        self.__inside = inside


class Bag(dict[str, Any]):
    """A dict with attributes."""


class Stack(sv.Module, Mapping[str, Any]):
    """A module that is a mapping as well."""

    def __init__(self, **items: Any) -> None:
        self.items_of_it = items
        self.scale = scalar()

    def __getitem__(self, key: str) -> Any:
        return self.items_of_it[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_of_it)

    def __len__(self) -> int:
        return len(self.items_of_it)


class Clip:
    def __init__(self, upper: sv.Variable) -> None:
        self.upper = upper

    def __call__(self, value: Any) -> Any:
        return np.minimum(value, self.upper.value)


def scalar(name: str = "v") -> sv.Variable:
    return sv.Variable(0.0, name=name)


def paths(obj: Any) -> list[str]:
    return list(sv.named_variables(obj))


def all_paths(found: Paths) -> set[str]:
    """Of what has no cycles."""
    todo, paths = list(found.variables), set(found.variables)
    while todo:
        path = todo.pop()
        more = {
            alias + path.removeprefix(first)
            for alias, first in found.aliases.items()
            if path == first or path.startswith(f"{first}/")
        } - paths
        paths |= more
        todo += more
    return paths


def module_of(attributes: dict[str, Any]) -> sv.Module:
    module = sv.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    return module
