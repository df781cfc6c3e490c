"""Notices that a setting of a variable has changed: whether it is trainable, or its constraint.

A compiled program has the settings of its variables in it. Looking at each variable before each call would take too
long, so every change replaces one object, `latest`, and a program looks at its variables again only after that.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["changed", "latest", "settings_of"]

#: One object, which stands for all settings of all variables as they are now.
latest: Final[list[object]] = [object()]


def changed() -> None:
    """Tells that a setting has changed. Called after the change."""
    latest[0] = object()


def settings_of(variable: Any) -> tuple[Any, ...]:
    """The settings of a variable that are part of a compiled program."""
    return variable._trainable, variable._constraint
