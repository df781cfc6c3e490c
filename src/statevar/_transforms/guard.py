"""Notices that a compiled function would have other variables now than those that it was compiled with.

A compiler runs the Python code once. Later the code might find another variable in an attribute, a list, a closure or a
global name. So each way on which it found its variables is checked before each call, by identity.

The checks are written as a Python function of their own, as `dataclasses` does it: a loop over a table of them would
take five times as long, and a call of a small program takes 7 us. It refers to containers only by the way that leads to
them, so that it keeps nothing alive but the variables, which the program has anyway.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeAlias

from .._arrays.shapes import is_static
from .._core import settings
from .._core.variable import Variable
from .reachable import Edge, Graph, reach

__all__ = ["Guard", "Run"]

Run: TypeAlias = Callable[[tuple[Any, ...], dict[str, Any]], Any]

_SIZED = (list, dict, set, deque)
_MOST_LOCALS = 500  # of a function
_REFRESHES = 3  # by a way that turned out not to matter, before only those that matter are checked


class Guard:
    """The ways from a function to the variables that its program uses.

    Args:
        roots: the function, and a weak reference to its object if it is a method. They are kept alive.
        used: the variables that the program uses.

    """

    __slots__ = ("_code", "_refreshes", "_roots", "_routes", "_seen", "_settings", "_used", "variables")

    #: The identities of all variables that stand beside those used: programs for the same ones may be kept.
    variables: frozenset[int]

    def __init__(self, roots: list[Any], used: Iterable[Variable]) -> None:
        self._roots = roots
        self._used = {id(variable): variable for variable in used}
        self._refreshes = 0
        self._seen = settings.latest.copy()
        self._settings = self._settings_now()
        graph = reach(roots)
        self._routes, self.variables = _routes(graph, self._used)
        self._code = _Code(graph, roots, self._used, lean=False)

    def checked(self, run: Run, changed: Run) -> Run:
        """Returns ``run`` with a check before: if a way leads to another variable now, ``changed`` runs instead."""
        return self._code.function(run, changed, self._seen, self._has_other_settings)

    def still_holds(self) -> bool:
        """Whether the code finds the same variables on the same ways, although the check found a difference.

        If so, `checked` then makes a check of what is there now.
        """
        if self._has_other_settings():
            return False
        graph = reach(self._roots)
        if _routes(graph, self._used)[0] != self._routes:
            return False
        self._refreshes += 1
        self._code = _Code(graph, self._roots, self._used, lean=self._refreshes > _REFRESHES)
        return True

    def _settings_now(self) -> list[Any]:
        return list(chain.from_iterable(map(settings.settings_of, self._used.values())))

    def _has_other_settings(self) -> bool:
        """Whether a variable has other settings than those that are part of the program."""
        latest = settings.latest[0]  # first: a change that comes later is seen by the next call
        if not all(map(operator.is_, self._settings_now(), self._settings)):
            return True
        self._seen[0] = latest
        return False


def _routes(graph: Graph, used: dict[int, Variable]) -> tuple[dict[Any, int | None], frozenset[int]]:
    """What the objects that lead to used variables have: the used ones by identity, and where others can be reached.

    Returns:
        For each edge of such an object that leads to variables, the used variable or the number of the object at its
        end, or None; and the identities of all the variables that these objects have.
    """
    leading = _leading(graph, used)
    towards_any = _leading(graph, {id(variable): variable for variable in graph.variables()})
    numbers = {each: number for number, each in enumerate(each for each in graph.edges if each in leading)}
    routes: dict[Any, int | None] = {}
    variables: set[int] = set()
    for parent, number in numbers.items():
        for index, edge in enumerate(graph.edges[parent]):
            child = id(edge.child)
            place = (number, edge.step, index if edge.step == "key" else str(edge.key))
            if isinstance(edge.child, Variable):
                variables.add(child)
                routes[place] = child if child in used else None
            elif child in towards_any:
                routes[place] = numbers.get(child)
    return routes, frozenset(variables)


def _leading(graph: Graph, used: dict[int, Variable]) -> set[int]:
    """The objects from which a used variable can be reached, and those that the code of the function names."""
    parents: dict[int, list[int]] = {}
    for parent, edges in graph.edges.items():
        for edge in edges:
            parents.setdefault(id(edge.child), []).append(parent)
    found: set[int] = graph.named.copy()
    stack = [parent for each in used for parent in parents.get(each, ())]
    while stack:
        each = stack.pop()
        if each not in found:
            found.add(each)
            stack.extend(parents.get(each, ()))
    return found


class _Code:
    """Writes the check of the ways to the used variables.

    Args:
        lean: leaves out what leads to no variable yet: None, and empty containers.
    """

    def __init__(self, graph: Graph, roots: list[Any], used: dict[int, Variable], *, lean: bool) -> None:
        self.leading = _leading(graph, used)
        self._graph = graph
        self._used = used
        self._lean = lean
        self._lines: list[str] = []
        self._constants: dict[str, Any] = {"is_": operator.is_}
        self._names: dict[int, str] = {}  # the constant or local name of each object
        self._todo: list[tuple[Any, str, bool]] = []
        for root in roots:
            self.enter(root, self.constant(root), is_constant=True)
        for number, owner in graph.owners.items():
            if number in self.leading:
                self.enter(owner, self.constant(owner), is_constant=True)
        while self._todo:
            self._check(*self._todo.pop())
        del self._graph, self._names  # which keep objects alive

    def constant(self, each: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants[name] = each
        return name

    def enter(self, each: Any, name: str, *, is_constant: bool) -> None:
        """Has the children of an object checked, which stands under this name in the code."""
        if id(each) not in self._names:
            self._names[id(each)] = name
            self._todo.append((each, name, is_constant))

    def function(self, run: Run, changed: Run, seen: list[object], has_other_settings: Callable[[], bool]) -> Run:
        """The check as a function: it calls ``changed`` if a check fails or raises anything, else ``run``.

        Args:
            seen: what `settings.latest` had when the settings of the variables were compared last.
            has_other_settings: compares them.
        """
        if not self._used and not any(line.startswith("if ") for line in self._lines):
            return run
        source = "\n".join(
            [
                "def checked(args, kwargs):",
                "    try:",
                "        if latest[0] is not seen[0] and has_other_settings(): raise ValueError",
                *(f"        {line}" for line in self._lines),
                "    except Exception:",
                "        return changed(args, kwargs)",
                "    return run(args, kwargs)",
            ]
        )
        namespace = {
            **self._constants,
            "run": run,
            "changed": changed,
            "latest": settings.latest,
            "seen": seen,
            "has_other_settings": has_other_settings,
        }
        exec(source, namespace)  # noqa: S102  # names of attributes are literals in it, all else are constants
        found: Run = namespace.pop("checked")
        return found

    def _fails_if(self, condition: str) -> None:
        self._lines.append(f"if {condition}: raise ValueError")

    def _check(self, each: Any, name: str, is_constant: bool) -> None:
        edges = self._graph.edges.get(id(each), [])
        if isinstance(each, _SIZED):
            if type(each) is list and len(edges) == len(each) > 0 and all(id(item) in self._used for item in each):
                self._check_items(each, name)
                return
            self._fails_if(f"len({name}) != {len(each)}")
        namespaces: dict[str, str] = {}
        if not self._lean and any(edge.step == "attribute" for edge in edges):
            self._fails_if(f"len({self._namespace(name, '__dict__', namespaces)}) != {len(each.__dict__)}")
        for edge in edges:
            child = edge.child
            expression = self._expression(each, name, edge, is_constant, namespaces)
            if isinstance(child, Variable):
                if id(child) in self._used:
                    known = self.constant(child)
                    self._fails_if(f"{known} not in {name}" if edge.step == "key" else f"{expression} is not {known}")
            elif id(child) in self.leading:
                if (met := self._names.get(id(child))) is not None:
                    self._fails_if(f"{expression} is not {met}")
                else:
                    self._assign(child, expression)
            elif not self._lean:
                if child is None:
                    self._fails_if(f"{expression} is not None")
                elif isinstance(child, _SIZED) and not child:
                    self._fails_if(expression)

    def _check_items(self, variables: list[Variable], name: str) -> None:
        """Checks a list that has only used variables: all at once, which is much faster."""
        if len(variables) > 3 and all(map(_differs_from_others, variables)):
            self._fails_if(f"{name} != {self.constant(variables.copy())}")  # identical items count as equal
        elif len(variables) > _MOST_LOCALS:
            self._fails_if(f"len({name}) != {len(variables)}")
            self._fails_if(f"not all(map(is_, {name}, {self.constant(variables.copy())}))")
        else:
            known = list(map(self.constant, variables))
            self._lines.append(f"[{', '.join(f'i_{each}' for each in known)}] = {name}")
            self._fails_if(" or ".join(f"i_{each} is not {each}" for each in known))

    def _assign(self, child: Any, expression: str) -> None:
        name = f"x{len(self._names)}"
        self._lines.append(f"{name} = {expression}")
        self.enter(child, name, is_constant=False)

    def _expression(self, each: Any, name: str, edge: Edge, is_constant: bool, namespaces: dict[str, str]) -> str:
        """The code that follows an edge."""
        step, key = edge.step, edge.key
        if step == "referent":
            return f"{name}()"
        if step == "item":
            if isinstance(each, dict) and type(each) is not dict:  # a defaultdict would make the item
                return f"dict.get({name}, {self._key(key)})"
            return f"{name}[{self._key(key)}]"
        if step == "key":
            return self.constant(key)
        if step == "attribute":
            return f"{self._namespace(name, '__dict__', namespaces)}[{key!r}]"
        if step == "cell":
            if is_constant:  # the cells of a function never change, only their contents
                return f"{self.constant(each.__closure__[key])}.cell_contents"
            return f"{name}.__closure__[{key}].cell_contents"
        if step == "global":
            if is_constant:
                return f"{self._constant_once(each.__globals__, namespaces, 'globals')}[{key!r}]"
            return f"{self._namespace(name, '__globals__', namespaces)}[{key!r}]"
        if step == "class":
            return f"{self._namespace(name, '__dict__', namespaces)}[{key!r}]"
        if step == "type":
            return f"type({name}).__dict__[{key!r}]"
        return f"{name}.{key}"

    def _key(self, key: Any) -> str:
        return repr(key) if type(key) in (int, str, bool) else self.constant(key)

    def _namespace(self, name: str, member: str, namespaces: dict[str, str]) -> str:
        if member not in namespaces:
            namespaces[member] = f"d{len(self._names)}_{len(self._lines)}"
            self._lines.append(f"{namespaces[member]} = {name}.{member}")
        return namespaces[member]

    def _constant_once(self, each: Any, namespaces: dict[str, str], what: str) -> str:
        if what not in namespaces:
            namespaces[what] = self.constant(each)
        return namespaces[what]


def _differs_from_others(variable: Variable) -> bool:
    """Whether ``variable == other`` is an array of several elements, or raises: it is true for no other variable."""
    shape: Any = variable._declared
    return is_static(shape) and math.prod(shape) > 1 and type(variable).__eq__ is Variable.__eq__
