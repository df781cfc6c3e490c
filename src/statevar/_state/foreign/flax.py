"""Flax: nnx variables, modules, optimizers and generators; the dicts of arrays of linen in trees that are views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from importlib.metadata import version
from typing import Any

from flax import linen as nn
from flax import nnx
from flax.core import FrozenDict

from ..._arrays.registry import owner_of
from ..._arrays.slots import Adapter, Opened, Place
from ...errors import ForeignStateError, ReadOnlyError
from .flax_jax import open_variable
from .items import Item
from .plain import Plain
from .table import adapters_of
from .trees import open_plain

__all__ = ["ADAPTER"]


#: Whether this version of flax has modules that are pytrees, and variables that give what they store.
_KNOWN = hasattr(nnx, "Pytree") and hasattr(nnx.Variable, "get_raw_value")


def _open(x: Any) -> Opened:
    if not _KNOWN:
        return _refused(x)
    if isinstance(x, nnx.Variable):
        return open_variable(x)
    if isinstance(x, nnx.GraphDef):
        return {}
    if isinstance(x, nnx.State):
        return {key: _data(x, key, each) for key, each in x.raw_mapping.items()}
    return _children(x) if isinstance(x, nnx.Pytree) else None


def _open_plain(x: Any) -> Opened:
    if isinstance(x, FrozenDict):
        return _frozen(x, x, ())
    if isinstance(x, nn.Module):  # of linen, whose arrays are elsewhere
        return {}
    return open_plain(x) if is_dataclass(x) and not isinstance(x, type) else None


def _refused(x: Any) -> Opened:
    if isinstance(x, nnx.Variable | nnx.Module):
        problem = f"statevar knows the variables of flax 0.12 and newer, and this is {version('flax')}"
        raise ForeignStateError.of("view", problem, hint="install a newer flax")
    return None


def _children(module: Any) -> dict[str, Any]:
    """The attributes of a module. Those that nnx calls data are state, arrays too; of the others no array is."""
    data = module._pytree__nodes if type(module)._pytree__is_pytree else dict.fromkeys(vars(module), True)
    found = {}
    for name, each in vars(module).items():
        if name.startswith("_pytree__"):
            continue
        if data.get(name):
            found[name] = _data(module, name, each)
        elif owner_of(each) is None:
            found[name] = each
    return found


def _data(holder: Any, key: Any, each: Any) -> Any:
    """What nnx calls data: a variable, a module, an array, or a container of those."""
    if owner_of(each) is None:
        return Plain(each) if isinstance(each, list | tuple | dict) else each
    for adapter in adapters_of(type(each)):
        if adapter.open_item is not None and (slot := adapter.open_item(holder, key, each)) is not None:
            return slot
    return Plain(each)


def _frozen(x: FrozenDict[str, Any], inner: Mapping[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The items of a frozen dict, which gives a new one for each dict in it."""
    found: dict[str, Any] = {}
    for key, each in inner.items():
        where = (*keys, key)
        owner = owner_of(each)
        if isinstance(each, Mapping):
            found[key] = _frozen(x, each, where)
        else:
            found[key] = each if owner is None else _FrozenItem(x, where, owner.name)
    return found


class _FrozenItem(Item):
    """The slot of an array in a frozen dict, which can only be read."""

    def __init__(self, root: FrozenDict[str, Any], keys: tuple[str, ...], backend: str) -> None:
        super().__init__(root, keys[-1], backend, "donated", attribute=False, thing=Place(root, *keys))
        self._keys = keys

    def present(self) -> Any:
        each = self._owner
        for key in self._keys:
            each = each[key]
        return each

    def write(self, array: Any) -> None:
        hint = "make a new tree: sv.filled(tree, source); or use flax.core.unfreeze first"
        raise ReadOnlyError.of("assign", "a FrozenDict cannot change", hint=hint)


ADAPTER = Adapter(_open, _open_plain)
