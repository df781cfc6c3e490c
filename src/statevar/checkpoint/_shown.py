"""How checkpoints and the results of loads, saves and checks are shown: short, however many names are in them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .._arrays.dtypes import KEYS, STORED
from .._core.shown import Raw, Shown
from .._core.tables import escaped

if TYPE_CHECKING:
    from .._state.summarized import SummaryParts

__all__ = ["Result", "metadata_text", "summary_of"]

_MANY = 20  # names that a text lists
_LONGEST = 400  # characters of metadata


def summary_of(checkpoint: Any, stats: bool | None) -> SummaryParts:
    """The values in a checkpoint for `summary`. None is read unless ``stats`` says so."""
    from .._state.entries import Entry  # noqa: PLC0415  # imported when something is shown

    entries, sources = [], []
    for path, record in checkpoint.variables.items():
        has_value = record.shape is not None
        shape = record.shape if has_value else record.declared
        elements = math.prod(shape) if has_value else 0
        size, note = elements * STORED[record.dtype].itemsize, "" if has_value else "uninitialized"
        entries.append(Entry(path, shape, record.dtype, record.backend, elements, size, record.trainable, note))
        sources.append(None if record.dtype in KEYS else partial(_read, checkpoint, path))
    return entries, sources, checkpoint.aliases, stats is True


def _read(checkpoint: Any, path: str) -> tuple[list[Any], str]:
    return [checkpoint.read(path)], ""


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """The metadata of a checkpoint in a line; empty if there is none."""
    if not metadata:
        return ""
    words = escaped(json.dumps(dict(metadata), ensure_ascii=False, default=str))
    return f"metadata: {words}" if len(words) <= _LONGEST else f"metadata: {words[:_LONGEST]} …"


class Result(Shown):
    """A result with names in it: in ``repr`` a few of each list, in ``print`` a few lines, in HTML lists that fold."""

    __slots__ = ()

    def _head(self) -> str:
        """The result in a line."""
        raise NotImplementedError

    def _lists(self) -> Mapping[str, Sequence[str]]:
        """What is listed below it, by title."""
        return {}

    def _shown_fields(self) -> Iterator[tuple[str, Any]]:
        for each in dataclasses.fields(self):  # type: ignore[arg-type]  # every result is a dataclass
            if each.repr:
                yield each.name, getattr(self, each.name)

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        return ((name, _abridged(value)) for name, value in self._shown_fields())

    _repr_pretty_ = Shown._repr_pretty_  # IPython looks no further than the class with `__repr__`

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._shown_parts())})"

    def __str__(self) -> str:
        lines = [f"{type(self).__name__}: {self._head()}"]
        lists = {title: each for title, each in self._lists().items() if each}
        width = max(map(len, lists), default=0)
        for title, names in lists.items():
            lines += [f"  {title.ljust(width)}  {escaped(name)}" for name in names[:_MANY]]
            if len(names) > _MANY:
                lines.append(f"  {title.ljust(width)}  … and {len(names) - _MANY:,} more")
        return "\n".join(lines)

    def _shown_html(self) -> str:
        from .._core.html import folded, page, text  # noqa: PLC0415  # imported when a notebook asks for it

        shown = f"<div><b>{text(type(self).__name__)}</b> {text(self._head())}</div>"
        for title, names in self._lists().items():
            if names:
                body = "".join(f'<div class="name">{text(name)}</div>' for name in names)
                shown += folded(f"{text(title)} ({len(names):,})", body, opened=len(names) <= _MANY)
        return page(shown)


def _abridged(value: Any) -> Any:
    """A list or dict with few enough items to be printed, or anything else as it is."""
    if isinstance(value, list) and len(value) > _MANY:
        return [*value[:_MANY], Raw(f"… {len(value) - _MANY:,} more")]
    if isinstance(value, dict) and len(value) > _MANY:
        some = dict(list(value.items())[:_MANY])
        return {**some, Raw("…"): Raw(f"{len(value) - _MANY:,} more")}
    return value
