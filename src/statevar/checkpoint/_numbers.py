"""The numbers that a `CheckpointManager` gets with a save, the step and the metrics, which may be variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

from .._arrays.registry import owner_of
from .._core.traced import code_is_traced
from .._core.variable import Variable
from .._state.paths import Paths
from .._state.snapshot import Snapshot, snapshot
from ..errors import TraceError, describe

__all__ = ["check_not_traced", "checked_metrics", "count", "cut_of", "floats_of"]


def count(operation: str, name: str, value: Any, least: int) -> int:
    """An integer of Python or any library, as one of Python.

    Raises:
        ValueError: it is no integer, or too small.
    """
    try:
        is_number = not isinstance(value, bool) and "bool" not in str(getattr(value, "dtype", ""))
        number = index(value) if is_number and not getattr(value, "ndim", 0) else None
    except (TypeError, AttributeError):  # a float of TensorFlow raises the second one
        number = None
    if number is None or number < least:
        raise ValueError(describe(operation, f"expected {name} to be an integer >= {least}, got {value!r}"))
    return number


def cut_of(found: Paths, numbers: Sequence[Any]) -> tuple[Snapshot, list[Any]]:
    """Takes a snapshot of the variables that were found, and reads from it those of the numbers that are variables."""
    own = list(found.variables.values())
    cut = snapshot([*own, *(each for each in numbers if isinstance(each, Variable))])
    read = [_in_cut(cut, each) if isinstance(each, Variable) else each for each in numbers]
    for fields in (cut._values, cut._versions, cut._declared_shapes):
        del fields[len(own) :]
    return cut, read


def _in_cut(cut: Snapshot, variable: Variable) -> Any:
    """The value of a variable with one element in a snapshot, as a number of Python."""
    value = cut.get(variable)
    host = None if value is None else variable._backend.to_host(value)
    if host is None or host.size != 1:
        raise ValueError(
            describe("save", f"expected a variable with one element as a number, got {variable!r}", variable.path)
        )
    return host.item()


def check_not_traced(found: Paths) -> None:
    """Raises TraceError in code that is traced, where a save would happen only once."""
    for path, variable in {each._backend: (path, each) for path, each in found.variables.items()}.values():
        if code_is_traced(variable):
            problem = "this code is traced: the save would happen once, during the trace, and not in later calls"
            raise TraceError.of("save", problem, path, "save outside the function")


def checked_metrics(metrics: Any) -> Mapping[str, Any]:
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        raise TypeError(describe("save", f"expected metrics to map strings to numbers, got {metrics!r}"))
    return metrics


def floats_of(metrics: Mapping[str, Any], values: Iterable[Any]) -> dict[str, float]:
    floats = {}
    for name, value in zip(metrics, values, strict=True):
        try:
            owner = owner_of(value)
            floats[name] = float(value if owner is None else owner.to_host(value))  # torch warns if it has a gradient
        except (TypeError, ValueError, OverflowError) as error:
            problem = f"expected the metric {name!r} to be a number, got {value!r:.100}"
            raise TypeError(describe("save", problem)) from error
    return floats
