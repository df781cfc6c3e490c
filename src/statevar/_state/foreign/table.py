"""Which adapter enters the objects of a class: by the root modules of the class and its bases. Imports no library."""

from __future__ import annotations

import sys
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..._arrays.slots import Adapter
from ...errors import ForeignStateError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["adapters_of"]

#: The file in this folder for each root module.
_ROWS = {
    "torch": "torch",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "tf_keras": "tf_keras",
    "flax": "flax",
    "jax": "jax",
    "jaxlib": "jax",
    "equinox": "trees",
    "optax": "trees",
    "haiku": "trees",
    "sklearn": "sklearn",
    "numpy": "numpy",
    "random": "python",
}

#: The entry points by which other packages register an `Adapter`.
_GROUP = "statevar.state"


def adapters_of(cls: type) -> tuple[Adapter, ...]:
    """The adapters that may enter objects of a class, those of its nearest bases first."""
    roots = dict.fromkeys(base.__module__.partition(".")[0] for base in cls.__mro__)
    roots.pop("builtins", None)
    roots.pop("statevar", None)
    # A class that only says that it is of a library is none of it.
    found = [_builtin(row) for root in roots if (row := _ROWS.get(root)) is not None and root in sys.modules]
    third_party = _third_party()
    found += [_loaded(root) for root in roots if root in third_party]
    return tuple(dict.fromkeys(found))


@cache
def _builtin(row: str) -> Adapter:
    found: Adapter = import_module(f"{__package__}.{row}").ADAPTER
    return found


@cache
def _loaded(root: str) -> Adapter:
    point = _third_party()[root]
    found: Any = point.load()
    if isinstance(found, Adapter):
        return found
    if not callable(found):
        hint = f"{point.value} must be a statevar.interop.Adapter, or a function that opens an object"
        raise ForeignStateError.of("view", f"the entry point {root!r} refers to {found!r}", hint=hint)
    return Adapter(found, accept=getattr(found, "accept", None))


def _third_party() -> dict[str, EntryPoint]:
    return _entry_points(tuple(sys.path))


@lru_cache(maxsize=1)
def _entry_points(_path: tuple[str, ...]) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # noqa: PLC0415  # reading the metadata of all packages takes time

    return {point.name: point for point in entry_points(group=_GROUP)}
