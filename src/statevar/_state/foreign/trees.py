"""Trees of arrays that only their user can call state: modules of equinox, states of optax, parameters of haiku."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._arrays.slots import Adapter, Opened

__all__ = ["ADAPTER"]


def _open(_x: Any) -> Opened:
    return None


def _open_plain(x: Any) -> Opened:
    if isinstance(x, type):
        return None
    if isinstance(x, Mapping):
        return dict(x)
    if isinstance(x, tuple):
        return dict(zip(names, x, strict=True)) if (names := getattr(type(x), "_fields", None)) else None
    own = getattr(x, "__dict__", None)
    if own is None:
        return None
    static = {
        name for name, field in getattr(x, "__dataclass_fields__", {}).items() if field.metadata.get("static", False)
    }
    return {name: each for name, each in own.items() if name not in static}


ADAPTER = Adapter(_open, _open_plain)
