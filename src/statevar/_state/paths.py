"""Finds the variables in anything, and names them: containers, dataclasses, objects with attributes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from numbers import Integral
from typing import Any, TypeVar

from .._core.variable import Variable
from ..errors import NameScopeError, describe
from .walk import SEQUENCES, SETS, Attribute, Children, Container, Opener, Unordered, edges, slots_of, walk

__all__ = [
    "Container",
    "Paths",
    "Targets",
    "followed",
    "named_in",
    "objects_in",
    "paths_in",
    "slots_of",
    "variables_in",
]

_Object = TypeVar("_Object")

_VARIABLES = {Variable}


@dataclass(frozen=True)
class Paths:
    """The variables in something by path, in the order in which they are met, depth first.

    A segment of a path is the name of an attribute or a field, the index in a list or tuple, or the key of a mapping.
    In keys, ``~`` is written ``~0`` and ``/`` is written ``~1``, as in JSON pointers (RFC 6901). So no two places have
    one path.

    Attributes:
        variables: by the first path.
        aliases: for each place where a variable, or a container with variables, stands again: the place where it stood
            first, empty for the object itself. So all further paths are known, however many they are: forty lists that
            hold the next one twice have 2**40.

    >>> import statevar as sv
    >>> dense = {"kernel": sv.Variable([[1.0]]), "bias": sv.Variable([0.0])}
    >>> paths = paths_in("paths", {"first": dense, "again": dense})
    >>> list(paths.variables), paths.aliases
    (['first/kernel', 'first/bias'], {'again': 'first'})
    >>> paths.find("again/bias") is dense["bias"]
    True
    """

    variables: dict[str, Variable] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)

    def find(self, path: str) -> Variable | None:
        """The variable to which a path leads, the first one or any other; None if there is none."""
        return self.variables.get(followed(path, self.aliases))


def followed(path: str, aliases: Mapping[str, str]) -> str:
    """The first path of what a path leads to.

    >>> followed("again/kernel", {"again": "first"})
    'first/kernel'
    """
    if not aliases:
        return path
    place = ""
    for segment in path.split("/"):
        place = f"{place}/{segment}" if place else segment
        place = aliases.get(place, place)
    return place


def variables_in(operation: str, targets: Iterable[Any]) -> list[Variable]:
    """Each variable once, in the order in which they are met.

    Raises:
        TypeError: one of the targets holds no variable, and is no empty container.
    """
    targets = list(targets)
    if len(targets) == 1 and _is_plain(targets[0]):
        return list(dict.fromkeys(targets[0]))
    found: dict[Variable, None] = {}
    for target in targets:
        if isinstance(target, Variable):  # the usual case
            found[target] = None
            continue
        target = _gone_through(target)  # noqa: PLW2901  # an iterator can be gone through once
        if _is_plain(target):
            found |= dict.fromkeys(target)
            continue
        inside = dict.fromkeys(each for each in walk(target) if isinstance(each, Variable))
        if not inside:
            _check_empty(operation, target)
        found |= inside
    return list(found)


def paths_in(operation: str, target: Any) -> Paths:
    """The variables in something, by path. One that is given alone has its own `Variable.path`.

    Raises:
        NameScopeError: a variable can be reached by no path that can be written down.
        TypeError: there is no variable, and it is no empty container.
    """
    if isinstance(target, Variable):
        return Paths({target.path: target})
    target = _gone_through(target)
    variables, names = _named(target, Variable)
    names.check(operation, variables, Variable)
    if not variables:
        _check_empty(operation, target)
    return Paths(variables, names.aliases(variables.values()))


class Targets:
    """The variables that a function such as `snapshot` was given, and the path of each in the object that was given.

    A variable that was given itself has its own `Variable.path`; so has one that can be reached by no path in the
    object, as in a set.

    Attributes:
        variables: each once, in the order in which they are met.

    Raises:
        TypeError: one of the targets holds no variable, and is no empty container.

    >>> import statevar as sv
    >>> w = sv.Variable(0.0, name="w")
    >>> targets = Targets("snapshot", [w, {"layers": [w, sv.Variable(1.0)]}])
    >>> list(targets.by_path)
    ['w', 'layers/0', 'layers/1']
    >>> targets.path(targets.variables[1]), targets.find("layers/0") is w
    ('layers/1', True)
    """

    __slots__ = ("_by_path", "_operation", "_parts", "_path_of", "variables")

    def __init__(self, operation: str, targets: Iterable[Any]) -> None:
        self._operation = operation
        #: Each as a variable, a list of variables, or paths; the first two are named when somebody asks.
        self._parts: list[Variable | list[Variable] | Paths] = []
        self._by_path: dict[str, Variable] | None = None
        self._path_of: dict[Variable, str] | None = None
        for target in targets:
            self._parts += self._parts_of(target)
        found = map(_variables_of, self._parts)
        self.variables = list(dict.fromkeys(next(found) if len(self._parts) == 1 else chain.from_iterable(found)))

    def _parts_of(self, target: Any) -> list[Variable | list[Variable] | Paths]:
        if isinstance(target, Variable):
            return [target]
        target = _gone_through(target)
        if _is_plain(target):
            return [list(target)]
        variables, names = _named(target, Variable)
        unnamed = [variable for _, _, variable in names.unnamed(variables, Variable)]
        if not variables and not unnamed:
            _check_empty(self._operation, target)
        return [Paths(variables, names.aliases(variables.values())), *unnamed]

    def find(self, path: str) -> Variable | None:
        """The variable to which a path leads in the targets; else the only one whose own path it is; else None.

        Raises:
            NameScopeError: the path leads to two variables, in two of the targets.
        """
        found = self.by_path.get(path)
        if found is not None:
            return found
        others = (paths_in(self._operation, part) if isinstance(part, list) else part for part in self._parts)
        further = (part.find(path) for part in others if isinstance(part, Paths) and part.aliases)
        found = next((each for each in further if each is not None), None)
        if found is None:
            own = [variable for variable in self.variables if variable.path == path]
            found = own[0] if len(own) == 1 else None
        return found

    def path(self, variable: Any) -> str | None:
        """The first path of a variable; None if it is not among the targets."""
        if self._path_of is None:
            self._path_of = {}
            for path, each in self._named():
                self._path_of.setdefault(each, path)
        return self._path_of.get(variable)

    @property
    def by_path(self) -> dict[str, Variable]:
        """The variables by path.

        Raises:
            NameScopeError: a path leads to two variables, in two of the targets.
        """
        if self._by_path is None:
            found: dict[str, Variable] = {}
            for path, variable in self._named():
                if found.setdefault(path, variable) is not variable:
                    raise NameScopeError.of(
                        self._operation,
                        "two variables have this path",
                        path,
                        "index by the variable, or give one object that holds both",
                    )
            self._by_path = found
        return self._by_path

    def _named(self) -> Iterator[tuple[str, Variable]]:
        for part in self._parts:
            if isinstance(part, Variable):
                yield part.path, part
            elif isinstance(part, Paths):
                yield from part.variables.items()
            else:
                met: dict[Variable, str] = {}
                for i, variable in enumerate(part):
                    met.setdefault(variable, str(i))
                yield from ((path, variable) for variable, path in met.items())


def _variables_of(part: Variable | list[Variable] | Paths) -> Iterable[Variable]:
    if isinstance(part, Variable):
        return (part,)
    return part.variables.values() if isinstance(part, Paths) else part


def named_in(operation: str, target: Any, cls: type[_Object]) -> dict[str, _Object]:
    """The objects of a class inside something, by their first paths. Errors are those of `paths_in`."""
    found, names = _named(target, cls)
    names.check(operation, found, cls)
    return found


def objects_in(target: Any, cls: type[_Object]) -> list[_Object]:
    """The objects of a class inside something, each once, in the order in which they are met."""
    found = {id(each): each for each in walk(target) if isinstance(each, cls)}
    found.pop(id(target), None)
    return list(found.values())


def _is_plain(target: Any) -> bool:
    """Whether it is a list of variables and of nothing else: a thousand take 0.02 ms."""
    if type(target) is not list and type(target) is not tuple:
        return False
    types = set(map(type, target))
    return types == _VARIABLES or all(issubclass(cls, Variable) for cls in types)


def _gone_through(target: Any) -> Any:
    return list(target) if isinstance(target, Iterator) else target


def _check_empty(operation: str, target: Any) -> None:
    containers = (Mapping, *SEQUENCES, *SETS)
    if isinstance(target, Container) or (isinstance(target, containers) and not len(target)):
        return
    raise TypeError(
        describe(
            operation,
            f"found no variable in {type(target).__name__}",
            hint="pass variables, containers of them, or objects that have them as attributes",
        )
    )


# -- paths -----------------------------------------------------------------------------------------------


def _named(target: Any, cls: type[_Object]) -> tuple[dict[str, _Object], _Names]:
    names = _Names(target)
    places, paths = names.places, names.paths
    found: dict[str, _Object] = {}
    for holder, key, each in edges(target, names.met, names.children):
        # No calls for each variable: who saves a checkpoint waits for this.
        if (which := id(each)) in places:
            names.again.append((holder, key, which))
            continue
        places[which] = (holder, key, each)
        if isinstance(each, cls):
            path = paths[holder] if holder in paths else names.path_to(holder)
            found[f"{path}/{key}" if path else str(key)] = each
    return found, names


class _Names:
    """The first path to each thing that is met.

    Paths are made for what is asked only: those of 10,000 things in a chain have 100 MB.
    """

    def __init__(self, target: Any) -> None:
        self.met: dict[int, Any] = {}
        self._opener = Opener()
        # The holder, the key in it, and the thing, which is kept: no id comes again.
        self.places: dict[int, tuple[int, Any, Any]] = {id(target): (id(target), "", target)}
        self.paths = {id(target): ""}
        #: What was met again: the holder, the key, and which it is.
        self.again: list[tuple[int, Any, int]] = []
        #: What cannot be named: the holder, the key, and the thing.
        self._aside: list[tuple[int, Any, Any]] = []

    def children(self, each: Any) -> Children | None:
        """What it holds; each key is an index, or the segment of a path. What cannot be named is put aside."""
        held = self._opener(each)
        if not isinstance(held, dict) or _is_simple(held):
            return held
        named: dict[str, Any] = {}
        twice: dict[str, None] = {}
        for key, value in held.items():
            if not _is_nameable(key):
                self._aside.append((id(each), key, value))
                continue
            segment = _segment(key)
            if named.setdefault(segment, value) is not value:
                self._aside.append((id(each), _Twice(segment), value))
                twice[segment] = None
        for segment in twice:
            self._aside.append((id(each), _Twice(segment), named.pop(segment)))
        return named

    def path(self, holder: int, key: Any) -> str:
        """The path of what a thing has at a key."""
        return _joined(self.path_to(holder), key)

    def path_to(self, which: int) -> str:
        keys: list[str] = []
        at = which
        while (known := self.paths.get(at)) is None:
            at, key, _ = self.places[at]
            keys.append(str(key))
        path = self.paths[which] = "/".join(([known] if known else []) + keys[::-1])
        return path

    def aliases(self, variables: Iterable[Variable]) -> dict[str, str]:
        """`Paths.aliases`."""
        if not self.again:
            return {}
        reach = self._reach(variables)
        again = [step for step in self.again if step[2] in reach]
        holders = {holder for holder, _, _ in again}
        for which in self.places:  # from above: each path has the one before to build on
            if which in holders:
                self.path_to(which)
        return {self.path(holder, key): self.path_to(which) for holder, key, which in again}

    def _reach(self, variables: Iterable[Variable]) -> set[int]:
        """From where a step or more lead to a variable."""
        holders: dict[int, list[int]] = {}
        for holder, _, which in self.again:
            holders.setdefault(which, []).append(holder)
        reach = set(map(id, variables))
        todo = list(reach) if holders else []
        while todo:
            which = todo.pop()
            above = {self.places[which][0], *holders.get(which, ())} - reach
            reach |= above
            todo.extend(above)
        return reach

    def check(self, operation: str, found: dict[str, Any], cls: type) -> None:
        """Raises NameScopeError if something of the class was put aside, and has no path anywhere else."""
        for holder, key, _ in self.unnamed(found, cls):
            raise NameScopeError.of(
                operation,
                f"{_problem(key)}, and a {cls.__name__} has no other path",
                self.path_to(holder),
                "keep it in an attribute, a list, or a dict of strings",
            )

    def unnamed(self, found: dict[str, Any], cls: type[_Object]) -> Iterator[tuple[int, Any, _Object]]:
        """What was put aside, is of the class, and has no path anywhere else: the holder, the key, and the thing."""
        named = set(map(id, found.values())) if self._aside else set()
        for holder, key, each in self._aside:
            inside = (one for _, _, one in edges(each, self.met, self._opener))
            for one in (each, *inside):
                if isinstance(one, cls) and id(one) not in named:
                    yield holder, key, one


@dataclass(frozen=True)
class _Twice:
    """The key of what has the same segment as something else."""

    segment: str


def _joined(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _is_simple(keys: dict[Any, Any]) -> bool:
    """Whether all keys are segments as they are: this is quick to see."""
    if not set(map(type, keys)) <= {str} or "" in keys:
        return False
    text = "".join(keys)
    return text.isascii() and not ("~" in text or "/" in text or "\0" in text)


def _is_nameable(key: Any) -> bool:
    """Whether a key can be the segment of a path."""
    if isinstance(key, Attribute):
        key = key.name
    if isinstance(key, str):
        return key != "" and "\0" not in key and _is_text(key) and not isinstance(key, Enum)
    return isinstance(key, Integral) and not isinstance(key, Enum | bool)


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no file can hold
        return False
    return True


def _problem(key: Any) -> str:
    """Why it cannot."""
    if isinstance(key, Unordered):
        return "a set has no order"
    if isinstance(key, _Twice):
        return f"two keys are written {key.segment!r}"
    if isinstance(key, str) and not isinstance(key, Enum):
        return f"a key is empty, or has NUL or half a surrogate pair: {key!r}"
    return f"expected a string or an integer as key, got {key!r}"


def _segment(key: Any) -> str:
    """A key as the segment of a path.

    >>> _segment("input/output~old"), _segment(7)
    ('input~1output~0old', '7')
    """
    if isinstance(key, Attribute):
        key = key.name
    return key.replace("~", "~0").replace("/", "~1") if isinstance(key, str) else str(int(key))
