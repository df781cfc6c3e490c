"""A tree of which somebody has said that its arrays are state."""

from __future__ import annotations

from typing import Any

__all__ = ["Plain"]


class Plain:
    """An object in a tree of which the user or an adapter has said that its arrays are state, as a walk meets it."""

    __slots__ = ("each",)

    def __init__(self, each: Any) -> None:
        self.each = each
