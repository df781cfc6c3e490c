"""The arguments of a variable that are no value: what each may be, and the errors if it is something else."""

from __future__ import annotations

from typing import Any

from ..errors import describe
from .readable import Aggregation

__all__ = ["AGGREGATIONS", "aggregation_of", "check_constraint", "flag"]

AGGREGATIONS: tuple[Aggregation, ...] = ("none", "mean", "sum", "only_first_replica")


def aggregation_of(given: Any) -> Aggregation:
    """The aggregation that is meant by None or by a member of an enumeration of another library."""
    name = "none" if given is None else str(getattr(given, "name", given)).lower()
    for each in AGGREGATIONS:
        if each == name and not isinstance(given, str):
            return each
    raise ValueError(describe("aggregation", f"expected one of {', '.join(AGGREGATIONS)}, got {given!r}"))


def flag(name: str, given: Any, path: str = "") -> bool:
    """A truth value, also of NumPy or as 0 or 1. Anything else may be a misplaced argument, and None a default."""
    if isinstance(given, bool):
        return given
    try:
        if not isinstance(given, str) and given in (0, 1):
            return bool(given)
    except (TypeError, ValueError):
        pass
    raise TypeError(describe(name, f"expected True or False, got {given!r}", path))


def check_constraint(constraint: Any, path: str) -> None:
    """Raises TypeError if a constraint cannot be called."""
    if not callable(constraint):
        raise TypeError(describe("constraint", f"expected a callable or None, got {constraint!r}", path))
