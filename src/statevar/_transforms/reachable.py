"""Finds the variables that a function can reach, and so the library that compiles it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ref

from .._arrays.backend import Backend
from .._arrays.registry import default_backend, loaded_backends, owner_of
from .._core.variable import Variable
from .._state.paths import slots_of
from ..errors import TraceError

__all__ = ["backend_of"]


def backend_of(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Backend:
    """The library of the variables that a function can reach, else of its arguments or modules, else NumPy."""
    met: dict[int, Any] = {}
    found = list(dict.fromkeys(_reachable([fn, args, kwargs], met)))
    backends = list(dict.fromkeys(variable._backend for variable in found))
    if len(backends) > 1:
        names = " and ".join(backend.name for backend in backends)
        raise TraceError.of(
                "jit", f"one library compiles a function, but this one can reach variables of {names}",
                hint="use a function of its own for the variables of each library")  # fmt: skip
    if backends:
        return backends[0]
    arrays = (owner_of(each) for each in met.values() if not isinstance(each, dict | list | tuple | ModuleType))
    owner = next((owner for owner in arrays if owner is not None and not owner.is_host), None)
    if owner is not None:
        return owner
    roots = {each.__name__.partition(".")[0] for each in met.values() if isinstance(each, ModuleType)}
    libraries = [backend for backend in loaded_backends() if backend.name in roots and not backend.is_host]
    return libraries[0] if len(libraries) == 1 else default_backend()


def _reachable(roots: list[Any], met: dict[int, Any]) -> Iterator[Variable]:
    """The variables in arguments, closures, bound objects, and the globals that the code names."""
    stack = list(reversed(roots))
    while stack:
        each = stack.pop()
        if isinstance(each, Variable):
            yield each
            continue
        if id(each) in met or each is None:
            continue
        met[id(each)] = each
        if isinstance(each, ref):
            stack.append(each())
        elif isinstance(each, partial):
            stack.extend([each.func, each.args, each.keywords])
        elif isinstance(each, MethodType):
            stack.extend([each.__func__, each.__self__])
        elif isinstance(each, FunctionType):
            stack.extend(_used_by(each))
        elif isinstance(each, dict):
            stack.extend(each.values())
        elif isinstance(each, list | tuple | set | frozenset):
            stack.extend(each)
        elif hasattr(each, "__wrapped__"):
            stack.append(each.__wrapped__)
        else:
            if isinstance(each, ModuleType | type):
                continue
            call = vars(type(each)).get("__call__")
            if isinstance(call, FunctionType):
                stack.append(call)
            stack.extend(getattr(each, "__dict__", {}).values())
            stack.extend(getattr(each, slot) for slot in slots_of(type(each)) if hasattr(each, slot))


def _used_by(function: FunctionType) -> list[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    named = [function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *named]


def _names(code: CodeType) -> Iterator[str]:
    """The names that code uses, and those of the functions written inside it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # raises if it is empty
    except ValueError:
        return False
    return True
