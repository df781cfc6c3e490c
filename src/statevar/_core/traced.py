"""What happens to a variable in code that is traced for a program of which it cannot be part: an error."""

from __future__ import annotations

from typing import Any

from .._arrays.tracing import loaded_tracings
from ..errors import TraceError

__all__ = ["check_no_trace", "check_traced_read", "code_is_traced", "refused_by_transform", "traced_write"]


def check_traced_read(cell: Any) -> None:
    """Raises TraceError if a library would build the current value into a program that it keeps."""
    own, name, hint = cell._guard, cell._backend.name, "use sv.jit, or sv.functionalize"
    if own is None or own.may_read(None):
        if not _is_elsewhere(cell):
            return
        name = _library(cell)
        hint = _way_out(cell, name)
    raise TraceError.of(
        "read",
        f"{name} is tracing this code: the current value would be baked into the compiled function and never updated",
        cell._path,
        f"{hint}; or pass the value as an argument",
    )


def code_is_traced(cell: Any) -> bool:
    """Whether the code is traced, by the library of the variable or by another one."""
    tracing = cell._backend.tracing
    return bool(cell._is_value or (tracing is not None and tracing.is_tracing()) or _is_elsewhere(cell))


def check_no_trace(cell: Any, operation: str) -> None:
    """Raises TraceError if the code is traced by a library that cannot make a write part of its program."""
    tracing = cell._backend.tracing
    own = tracing is not None and not tracing.writes_when_traced and tracing.is_tracing()
    if own or _is_elsewhere(cell):
        raise traced_write(cell, operation)
    if (error := refused_by_transform(cell, operation)) is not None:
        raise error


def refused_by_transform(cell: Any, operation: str, x: Any = None) -> TraceError | None:
    """The error for a write in a transform in which no memory can be written; None if there is none."""
    tracing = cell._backend.tracing
    name = "" if tracing is None else tracing.refuses_writes(x)
    if not name:
        return None
    problem = f"the code runs in {name}, in which a variable cannot be written"
    hint = "use sv.grad or sv.vmap, which keep writes; or return the new value and assign it outside"
    return TraceError.of(operation, problem, cell._path, hint)


def traced_write(cell: Any, operation: str) -> TraceError:
    """The error for a write that would not be part of the program."""
    hint = "return the new value from the traced function and assign it outside"
    who = "this code is being traced"
    if _is_elsewhere(cell):
        name = _library(cell)
        who = f"{name} is tracing this code"
        hint = f"{_way_out(cell, name)}; or {hint}"
    problem = f"{who}: the write would happen once, during the trace, and not in later calls"
    return TraceError.of(operation, problem, cell._path, hint)


def _is_elsewhere(cell: Any) -> bool:
    """Whether a program is traced, and kept, of which the variable cannot be part."""
    elsewhere = cell._backend.traced_elsewhere
    return elsewhere is not None and bool(elsewhere())


def _library(cell: Any) -> str:
    """The name of the library that traces this code: another one, or perhaps the variable's own."""
    loaded = loaded_tracings()
    for name, each in loaded.items():
        # A shared variable is no part of a program of its own library either.
        if (name != cell._backend.name or cell._backend.is_shared) and each.keeps():
            return name
    # Dynamo follows Python code itself, and may have given up on this function: then it does not tell.
    return next(iter(loaded))


def _way_out(cell: Any, library: str) -> str:
    """What to do instead of code that a library traces."""
    if library == cell._backend.name:
        return f"use sv.jit, since a program that {library} makes in this way has no variables"
    return f"create the variable with backend={library!r} and use sv.jit"
