"""Trees of arrays that only their user can call state: of equinox, optax and haiku, and dataclasses of flax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._arrays.slots import Adapter, Opened

__all__ = ["ADAPTER", "open_plain"]


def _open(_x: Any) -> Opened:
    return None


def open_plain(x: Any) -> Opened:
    """The items or attributes of a tree, without those that its library calls static."""
    if isinstance(x, type):
        return None
    if isinstance(x, Mapping):
        return dict(x)
    if isinstance(x, tuple):
        return dict(zip(names, x, strict=True)) if (names := getattr(type(x), "_fields", None)) else None
    own = getattr(x, "__dict__", None)
    if own is None:
        return None
    fields = getattr(x, "__dataclass_fields__", {})
    static = {name for name, field in fields.items() if field.metadata.get("static") or not _is_node(field)}
    return {name: each for name, each in own.items() if name not in static}


def _is_node(field: Any) -> bool:
    """Whether a field of a dataclass of flax has arrays."""
    return bool(field.metadata.get("pytree_node", True))


ADAPTER = Adapter(_open, open_plain)
