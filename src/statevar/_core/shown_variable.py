"""One variable in notebooks and in pretty printers: its parts, and its HTML. Imported when it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from .._arrays.statistics import Statistics, merged, statistics
from .display import facts_of, host_parts, shape_repr, unavailable, value_text
from .html import folded, page, table, text
from .shown import Raw, raw_lines
from .tables import bytes_text, count_text, number_text, shape_text

__all__ = ["ENOUGH", "html_of", "parts_of", "tree_of"]

#: The elements that a display looks at to tell their mean. Ten nanoseconds each, where the value is on the host.
ENOUGH = 1 << 24
_LINES = 12  # of a value that is shown without a click


def parts_of(variable: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a variable for printers of nested objects."""
    shape, _, where, is_spread = facts_of(variable)
    yield "", variable.path
    yield "shape", Raw(shape_repr(shape))
    yield "dtype", variable.dtype_name
    yield "sharding" if is_spread else "device", where
    yield "backend", variable.backend
    if variable.shared is not None:
        yield "shared", variable.shared
    yield "trainable", variable.trainable
    yield "value", _value_lines(variable)


def tree_of(variable: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a variable for a printer that shows arrays itself."""
    shape, has_value, where, is_spread = facts_of(variable)
    yield "path", variable.path
    parts = host_parts(variable)[0] if has_value and prod(shape) <= ENOUGH else []
    is_array = len(parts) == 1 and parts[0].dtype.names is None  # random keys have a dtype that nobody knows
    # As an object of its own: an array that was read twice is the same one, which would be marked as shared.
    yield "value", parts[0].view() if is_array else _value_lines(variable)
    if is_spread:
        yield "sharding", Raw(where)
    yield "backend", variable.backend
    yield "trainable", variable.trainable
    yield "version", variable.version


def html_of(variable: Any) -> str:
    """The facts, the statistics and the value of a variable."""
    shape, has_value, where, _ = facts_of(variable)
    facts = [shape_text(shape), variable.dtype_name, f"{variable.backend} on {where}"]
    if has_value:
        facts.append(bytes_text(variable.nbytes))
    if variable.shared is not None:
        facts.append(f"shared as {variable.shared}")
    facts += ["trainable" if variable.trainable else "not trainable", count_text(variable.version, "write")]
    name = f'<b class="name">{text(variable.path)}</b>'
    shown = value_text(variable).lstrip("\n")
    return page(
        f'<div>{text(type(variable).__name__)} {name} <span class="more">{text(", ".join(facts))}</span></div>',
        _figures(variable),
        folded("value", f"<pre>{text(shown, lines=True)}</pre>", opened=shown.count("\n") < _LINES),
    )


def _value_lines(variable: Any) -> Any:
    return raw_lines(value_text(variable).lstrip("\n"))


def _figures(variable: Any) -> str:
    """A table with the statistics of a value, or nothing if there are none."""
    try:
        found = _statistics(variable)
    except Exception as error:  # noqa: BLE001  # the other facts are shown all the same
        return table(["statistics"], [[unavailable(error)]])
    if found is None:
        return ""
    bad = found.nan + found.infinite
    row = [number_text(each) for each in (found.mean, found.std, found.minimum, found.maximum)]
    heads = ["mean", "std", "minimum", "maximum", "zeros", "not finite"]
    return table(heads, [[*row, f"{found.zeros:,}" if found.zeros else "", f"{bad:,}" if bad else ""]], heads)


def _statistics(variable: Any) -> Statistics | None:
    shape, has_value, _, _ = facts_of(variable)
    if not has_value or not 1 < prod(shape) <= ENOUGH:
        return None
    return merged(each for part in host_parts(variable)[0] if (each := statistics(part)) is not None)
