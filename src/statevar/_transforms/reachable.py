"""Finds the variables that a function can reach, and through which objects, attributes, items and names.

This tells which library compiles the function, and which variables a compiled function has (`guard`).
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple
from weakref import ref

from .._arrays.backend import Backend
from .._arrays.registry import LIBRARIES, default_backend, loaded_backends, owner_of
from .._core.variable import Variable
from .._state.paths import slots_of
from ..errors import TraceError

__all__ = ["Edge", "Graph", "backend_of", "reach"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
#: Python calls these without the code naming them.
_IMPLICIT = ("__call__", "__enter__", "__exit__", "__getattr__", "__getitem__", "__iter__", "__len__")
#: The code of these is not searched, since it has no variables of the user.
_OTHERS = frozenset({*LIBRARIES, *sys.stdlib_module_names, "statevar"}) - {"__main__"}
#: Attributes of classes that are code.
_NO_VALUES = (FunctionType, property, staticmethod, classmethod)
_CODE = (FunctionType, MethodType, ModuleType, type)
_MOST = 100_000  # objects to search


def backend_of(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Backend:
    """The library of the variables that a function can reach, else of its arguments or modules, else NumPy."""
    graph = Graph([fn, args, kwargs])
    backends = list(dict.fromkeys(variable._backend.native for variable in graph.variables()))
    if not backends:  # perhaps only code that the function calls by name has any
        graph.search_names()
        backends = list(dict.fromkeys(variable._backend.native for variable in graph.variables()))
    if len(backends) > 1:
        names = " and ".join(backend.name for backend in backends)
        raise TraceError.of(
                "jit", f"one library compiles a function, but this one can reach variables of {names}",
                hint="use a function of its own for the variables of each library")  # fmt: skip
    if backends:
        return backends[0]
    met = graph.objects.values()
    arrays = (owner_of(each) for each in met if not isinstance(each, dict | list | tuple | ModuleType))
    owner = next((owner for owner in arrays if owner is not None and not owner.is_host), None)
    if owner is not None:
        return owner
    roots = {each.__name__.partition(".")[0] for each in met if isinstance(each, ModuleType)}
    libraries = [backend for backend in loaded_backends() if backend.name in roots and not backend.is_host]
    return libraries[0] if len(libraries) == 1 else default_backend()


def reach(roots: list[Any]) -> Graph:
    """All that functions and objects can reach, also by names in their code."""
    graph = Graph(roots)
    graph.search_names()
    graph.add_inherited()
    return graph


class Edge(NamedTuple):
    """A way from an object to another one.

    Args:
        step: the kind of way: ``"item"``, ``"attribute"``, ``"global"``, ``"cell"``, ``"member"``, ``"key"`` (the
            child is a key of a dict or an element of a set), ``"referent"``, ``"type"`` (an attribute of the type of
            the object), ``"class"`` (an attribute of a class or module).
        key: the item, attribute or name.
        child: the object at its end.
    """

    step: str
    key: Any
    child: Any


class Graph:
    """The objects that can be reached, and the edges between them."""

    def __init__(self, roots: list[Any]) -> None:
        self.objects: dict[int, Any] = {}  # keeps them alive, so that no id is used again
        self.edges: dict[int, list[Edge]] = {}
        self._names: dict[str, None] = dict.fromkeys(_IMPLICIT)
        #: The classes and modules in which something was found by its name.
        self.owners: dict[int, Any] = {}
        #: Whether a package is the user's own: not installed, or that of the function itself.
        self._users = {name: name not in _OTHERS for each in roots for name in [_root(getattr(each, "__module__", ""))]}
        self._search(roots)
        #: The roots, and the objects that they name, other than code.
        self.named = set(map(id, roots))
        for root in roots:
            named = (edge.child for edge in self.edges.get(id(root), ()))
            self.named |= {id(each) for each in named if id(each) in self.edges and not isinstance(each, _CODE)}

    def variables(self) -> Iterator[Variable]:
        """The variables, each as often as an edge leads to it; those among the roots come first."""
        yield from (each for each in self.objects.values() if isinstance(each, Variable))
        for edges in self.edges.values():
            yield from (edge.child for edge in edges if isinstance(edge.child, Variable))

    def _search(self, roots: list[Any]) -> None:
        stack = list(reversed(roots))
        objects, edges = self.objects, self.edges
        while stack and len(objects) < _MOST:
            each = stack.pop()
            if id(each) in objects or isinstance(each, _PLAIN):
                continue
            objects[id(each)] = each
            if isinstance(each, Variable):
                continue
            found = edges[id(each)] = list(self._children(each))
            stack.extend(edge.child for edge in reversed(found) if not isinstance(edge.child, Variable))

    def _children(self, each: Any) -> Iterator[Edge]:
        if isinstance(each, ref):
            yield Edge("referent", None, each())
        elif isinstance(each, CellType):
            yield from _contents(each)
        elif isinstance(each, partial):
            yield from (Edge("member", name, getattr(each, name)) for name in ("func", "args", "keywords"))
        elif isinstance(each, MethodType):
            yield from (Edge("member", name, getattr(each, name)) for name in ("__func__", "__self__"))
        elif isinstance(each, staticmethod | classmethod):
            yield Edge("member", "__func__", each.__func__)
        elif isinstance(each, property):
            yield Edge("member", "fget", each.fget)
        elif isinstance(each, FunctionType):
            if not _is_foreign(each):
                yield from self._used_by(each)
        elif isinstance(each, dict):
            yield from (Edge("key", key, key) for key in each if isinstance(key, Variable))
            yield from (Edge("item", key, child) for key, child in each.items() if _counts(child))
        elif isinstance(each, list | tuple | deque):
            yield from (Edge("item", index, child) for index, child in enumerate(each) if _counts(child))
        elif isinstance(each, set | frozenset):
            yield from (Edge("key", child, child) for child in each)
        elif isinstance(each, ModuleType | type):
            return
        elif (wrapped := _attribute(each, "__wrapped__")) is not None:
            yield Edge("member", "__wrapped__", wrapped)
        else:
            call = vars(type(each)).get("__call__")
            if isinstance(call, FunctionType):
                yield Edge("type", "__call__", call)
            named = _attribute(each, "__dict__")
            if isinstance(named, dict):
                yield from (Edge("attribute", name, child) for name, child in list(named.items()) if _counts(child))
            for slot in slots_of(type(each)):
                yield Edge("member", slot, _attribute(each, slot))

    def _used_by(self, function: FunctionType) -> Iterator[Edge]:
        for index, cell in enumerate(function.__closure__ or ()):
            for edge in _contents(cell):
                yield Edge("cell", index, edge.child)
        for name in ("__defaults__", "__kwdefaults__"):
            if defaults := getattr(function, name):
                yield Edge("member", name, defaults)
        names = list(_names(function.__code__))
        self._names.update(dict.fromkeys(names))
        for name in names:
            if name in function.__globals__:
                yield Edge("global", name, function.__globals__[name])

    # -- code and variables that are only reached by a name: methods, attributes of classes and of modules -----------

    def search_names(self) -> None:
        """Looks up all names that the code uses in the user's modules, and in the classes of the objects."""
        owners: dict[int, Any] = {}
        met = looked = 0
        while (met, looked) != (len(self.objects), len(self._names)):
            for each in list(self.objects.values())[met:]:
                owners.update((id(owner), owner) for owner in self._owners(each) if id(owner) not in owners)
            met, looked = len(self.objects), len(self._names)
            for owner in owners.values():
                known = {edge.key for edge in self.edges.get(id(owner), ())}
                found = [name for name in vars(owner).keys() & self._names.keys() if name not in known]
                edges = [Edge("class", name, vars(owner)[name]) for name in sorted(found) if _counts(vars(owner)[name])]
                if edges:
                    self.objects[id(owner)] = owner
                    self.owners[id(owner)] = owner
                    self.edges.setdefault(id(owner), []).extend(edges)
                    self._search([edge.child for edge in edges if not isinstance(edge.child, Variable)])

    def add_inherited(self) -> None:
        """Adds an edge from each object to each value in an attribute of its class, or of a base of the class.

        An attribute of the object, or another class, may take the place of it later.
        """
        values = {
            number: [edge for edge in self.edges[number] if not isinstance(edge.child, _NO_VALUES)]
            for number, owner in self.owners.items()
            if isinstance(owner, type)
        }
        if not any(values.values()):
            return
        for number, each in list(self.objects.items()):
            if number not in self.edges or isinstance(each, FunctionType | CellType | ModuleType | dict | list | tuple):
                continue
            bases = each.__mro__[1:] if isinstance(each, type) else type(each).__mro__
            own = {edge.key for edge in self.edges[number]}
            for base in bases:
                inherited = [edge for edge in values.get(id(base), ()) if edge.key not in own]
                own.update(edge.key for edge in inherited)
                self.edges[number] += [Edge("member", edge.key, edge.child) for edge in inherited]

    def _owners(self, each: Any) -> tuple[Any, ...]:
        """The module or the classes in which names are looked up for an object: those of the user, not of libraries."""
        if isinstance(each, ModuleType):
            return (each,) if self._is_users(each.__name__) else ()
        if isinstance(each, FunctionType | CellType | dict | list | tuple):
            return ()
        cls = each if isinstance(each, type) else type(each)
        return tuple(base for base in cls.__mro__ if self._is_users(base.__module__))

    def _is_users(self, module: Any) -> bool:
        root = str(module).partition(".")[0]
        if root not in self._users:
            file = str(getattr(sys.modules.get(root), "__file__", None) or "")
            self._users[root] = root not in _OTHERS and not {"site-packages", "dist-packages"} & set(Path(file).parts)
        return self._users[root]


def _is_foreign(function: FunctionType) -> bool:
    """Whether a library has the function: not one that wraps a function of the user, nor one in a docstring."""
    name = function.__globals__.get("__name__", "")
    if function.__closure__ or _root(name) not in _OTHERS:
        return False
    return vars(sys.modules.get(name, sys)) is function.__globals__


def _attribute(each: Any, name: str) -> Any:
    """An attribute; None if there is none, or if the object's own code fails, as that of a lazy import may."""
    try:
        return getattr(each, name, None)
    except Exception:  # noqa: BLE001  # the code of others
        return None


def _counts(child: Any) -> bool:
    """Whether a child may lead to variables, now or, if it is None, later."""
    return child is None or not isinstance(child, _PLAIN)


def _root(module: Any) -> str:
    return str(module).partition(".")[0]


def _contents(cell: CellType) -> Iterator[Edge]:
    try:
        yield Edge("member", "cell_contents", cell.cell_contents)
    except ValueError:  # it is empty
        return


def _names(code: CodeType) -> Iterator[str]:
    """The names that code uses, and those of the functions written inside it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)
