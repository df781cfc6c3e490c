"""`Displays`: a variable in notebooks and pretty printers. The code is imported when one of them asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .shown import Shown, raw_lines

__all__ = ["Displays", "FrozenDisplays"]


class Displays(Shown):
    """The displays of a `Variable`."""

    __slots__ = ()

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        from .shown_variable import parts_of  # noqa: PLC0415  # the import of statevar must not take longer for it

        return parts_of(self)

    def _shown_tree(self) -> Iterator[tuple[str, Any]]:
        from .shown_variable import tree_of  # noqa: PLC0415  # the same

        return tree_of(self)

    def _shown_html(self) -> str:
        from .shown_variable import html_of  # noqa: PLC0415  # the same

        return html_of(self)


class FrozenDisplays(Shown):
    """The displays of a `FrozenVariable`."""

    __slots__ = ()

    value: Any

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        yield "value", raw_lines(repr(self.value))
