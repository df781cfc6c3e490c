"""`Summarized`: an object whose displays are its summary, which is imported when one is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from .._core.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .entries import Entry, Source
    from .summary import Summary

__all__ = ["Summarized", "SummaryParts"]

#: What an object tells its summary: its entries, where the value of each is read, its further paths, and whether the
#: values are to be read.
SummaryParts: TypeAlias = "tuple[Sequence[Entry], Sequence[Source], Mapping[str, str], bool | None]"


class Summarized(Shown):
    """The displays of an object with variables or values."""

    __slots__ = ()

    def _summary(self) -> Summary:
        from .summary import shown_summary  # noqa: PLC0415  # the import of statevar must not take longer for it

        return shown_summary(self)

    def __str__(self) -> str:
        try:
            return str(self._summary())
        except Exception:  # noqa: BLE001  # printing never raises
            return repr(self)

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        return self._summary().parts()

    def _shown_html(self) -> str:
        return self._summary()._shown_html()
