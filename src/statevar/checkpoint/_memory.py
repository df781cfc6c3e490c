"""What `load` reads from: an open checkpoint, or arrays in memory by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import xxhash

from .._arrays.dtypes import KEYS
from .._arrays.registry import get_backend, owner_of
from .._arrays.types import HostArray
from .._core.convert import unwrapped
from .._core.foreign import array_in
from .._core.variable import Variable
from .._state.paths import paths_in
from .._state.snapshot import snapshot
from .._state.walk import segment
from ..errors import CheckpointError, describe
from ._formats.safetensors.values import VariableRecord, plain
from ._pieces.blocks import Block

__all__ = ["Arrays", "Loadable"]


class Loadable(Protocol):
    """The part of `Checkpoint` that `load` uses."""

    @property
    def path(self) -> Any:
        """Where it is, for errors."""

    @property
    def variables(self) -> Mapping[str, VariableRecord]:
        """The facts about each array, by name."""

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names."""

    @property
    def numbers(self) -> Collection[str]:
        """The names of Python's numbers, which have no dtype: they fit every one that represents them exactly."""

    def checksum(self, path: str, /) -> str | None:
        """What tells whether two arrays are the same; None if nothing does."""

    def arrays(self, names: Iterable[str], /) -> dict[str, HostArray | CheckpointError]:
        """Reads arrays into memory that nobody else has."""

    def block(self, path: str, block: Block, /) -> HostArray:
        """Reads a block of an array into memory that nobody else has."""

    @property
    def identity(self) -> str:
        """What tells one save from another at the same path; empty if nothing does."""

    @property
    def checks_blocks(self) -> bool:
        """Whether `block` compares the checksum of what it reads; else `damage` does."""

    def damage(self, paths: Iterable[str], /) -> Mapping[str, CheckpointError]:
        """Reads arrays, and returns the error of each damaged one, by name."""

    def close(self) -> None:
        """Closes the files."""


class Arrays:
    """Arrays of any library, in a mapping that may contain mappings and lists, or the variables in any object.

    Args:
        source: the mapping or the object.
        separator: what stands between the segments of a key; None if there is only one segment in each.

    Raises:
        TypeError: a leaf is no array.
    """

    path = ""
    identity = ""
    checks_blocks = True

    def __init__(self, source: Any, separator: str | None) -> None:
        self.aliases: Mapping[str, str] = {}
        leaves = list(_leaves(source)) if isinstance(source, Mapping) else []
        ours = [isinstance(leaf, Variable) for _, leaf in leaves]
        found = [leaf if own else array_in(leaf) for own, (_, leaf) in zip(ours, leaves, strict=True)]
        plain = [not own and (_is_array(leaf) or isinstance(leaf, str)) for own, leaf in zip(ours, found, strict=True)]
        arrays: dict[str, Any] = {}
        objects = not all(own or each for own, each in zip(ours, plain, strict=True))
        if objects or not any(plain):
            source = _without_arrays(source) if any(plain) else source  # a walk would warn of them
            paths, cut = paths_in("load", source), snapshot(source)
            self.aliases = paths.aliases
            arrays = {name: cut[variable] for name, variable in paths.variables.items() if variable.is_initialized}
            ours = [False] * len(leaves)
        seen: set[str] = set()
        for (name, _), leaf, own, is_plain in zip(leaves, found, ours, plain, strict=True):
            path = name if separator is None else name.replace(separator, "/")
            if path in seen:
                raise ValueError(describe("load", "two arrays have this name", path))
            seen.add(path)
            if own or (is_plain and not (objects and isinstance(leaf, str))):
                arrays.setdefault(path, unwrapped(leaf))
        self._arrays: dict[str, Any] = arrays
        self.numbers = frozenset(name for name, each in arrays.items() if type(each) in (bool, int, float, complex))
        self.variables: Mapping[str, VariableRecord] = {name: _record(array, name) for name, array in arrays.items()}

    def checksum(self, path: str) -> str | None:
        array = self._read(path)
        return None if array.dtype.hasobject else xxhash.xxh3_128_hexdigest(array.tobytes())

    def arrays(self, names: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        return {name: self._read(name) for name in names}

    def block(self, path: str, block: Block) -> HostArray:
        array = self._read(path)
        return array if array.shape == block.sizes else array[block.index_in((0,) * array.ndim)].copy()

    def damage(self, paths: Iterable[str]) -> Mapping[str, CheckpointError]:
        return {}

    def close(self) -> None:
        """Does nothing: no file is open."""

    def _read(self, name: str) -> HostArray:
        variable = Variable(self._arrays[name], dtype=self.variables[name].dtype, trainable=False)
        return _numbers_of(variable) if variable.dtype_name in KEYS else variable.numpy()


def _numbers_of(keys: Variable) -> HostArray:
    """The numbers of random keys, as a file has them."""
    return keys._backend.packed(keys.value).copy()


def _leaves(source: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    items = source.items() if isinstance(source, Mapping) else enumerate(source)
    for key, value in items:
        name = f"{prefix}/{_key(key)}" if prefix else _key(key)
        if value is None:
            continue
        if isinstance(value, Mapping | list | tuple):
            if depth > 100:
                raise ValueError(describe("load", "the mapping contains itself, or more than 100 others", name))
            yield from _leaves(value, name, depth + 1)
        else:
            yield name, value


def _without_arrays(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(item) for item in value]
    return None if not isinstance(value, Variable) and _is_array(array_in(value)) else value


def _key(key: Any) -> str:
    """The text of a key. A slash stays: the names of Keras and of flattened trees have slashes."""
    return key if isinstance(key, str) else segment(key) if isinstance(key, int) else str(key)


def _is_array(value: Any) -> bool:
    return owner_of(value) is not None or isinstance(value, int | float | complex)


def _record(array: Any, name: str) -> VariableRecord:
    owner = owner_of(array)
    if owner is None and _is_array(array):
        owner, array = get_backend("numpy"), np.asarray(array)
    if owner is None:
        problem = f"expected an array, got {type(array).__name__}"
        raise TypeError(describe("load", problem, name, "pass a mapping from name to array, or the path of a file"))
    return plain(owner.dtype_name(array), tuple(owner.shape(array)), owner.name)
