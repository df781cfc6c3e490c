"""The path of each object that a walk finds, and the objects that have no path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from numbers import Integral
from typing import Any, TypeVar

from .._arrays.slots import Named
from .._core.variable import Variable
from .._core.views import owner_of_thing
from ..errors import NameScopeError
from .by_path import ByPath, followed
from .walk import Attribute, Children, Opener, Unordered, Whole, edges, segment

__all__ = ["Names", "named"]

_Object = TypeVar("_Object")


def named(target: Any, cls: type[_Object]) -> tuple[dict[str, _Object], Names]:
    """The objects of a class in a target by their first paths, and the names of everything that was found."""
    names = Names(target)
    places, paths = names.places, names.paths
    found: dict[str, _Object] = {}
    for parent, key, each in edges(target, names.met, names.children):
        # Without a call for each variable, since the saving of a checkpoint waits for this loop.
        if (which := id(each)) in places:
            names.again.append((parent, key, which))
            continue
        places[which] = (parent, key, each)
        if isinstance(each, cls):
            path = paths[parent] if parent in paths else names.path_to(parent)
            found[f"{path}/{key}" if path else str(key)] = each
    return (_named_after(found, names) if names.after else found), names


def _named_after(found: dict[str, _Object], names: Names) -> dict[str, _Object]:
    """The same objects; those that belong to a thing of another object are named by the path of that thing."""
    paths = {id(each): path for path, each in found.items()}
    changed = False
    for which, (parent, key, each) in list(names.places.items()):
        thing = names.after.get((parent, key))
        known = None if thing is None else owner_of_thing(thing)
        if known is not None and (path := paths.get(id(known))) is not None:
            names.places[which] = parent, path, each
            changed = True
    if not changed:
        return found
    names.paths = {names.root: ""}
    return {names.path_to(id(each)): each for each in found.values()}


class Names:
    """The first path to each object that a walk finds.

    A path is made only when it is needed: those of 10,000 objects in a chain would take 100 MB.
    """

    def __init__(self, target: Any) -> None:
        self.met: dict[int, Any] = {}
        self.opener = Opener()
        #: For the id of each object: the id of its parent, its key there, and the object, so that its id stays its own.
        self.places: dict[int, tuple[int, Any, Any]] = {id(target): (id(target), "", target)}
        self.root = id(target)
        self.paths = {self.root: ""}
        #: The things after which children are named: by the id of the parent, and the key that they have else.
        self.after: dict[tuple[int, Any], Any] = {}
        #: The objects that were found again: the id of the parent, the key, and the id of the object.
        self.again: list[tuple[int, Any, int]] = []
        #: The mappings that have aliases of their own.
        self.whole: list[ByPath] = []
        #: The variables that are keys: the id of the mapping, and the variable.
        self.keys: list[tuple[int, Variable]] = []
        #: The objects whose key cannot be in a path: the id of the parent, the key, and the object.
        self._aside: list[tuple[int, Any, Any]] = []

    def children(self, each: Any) -> Children | Variable | None:
        """The children of an object, by index or path segment. Those without a possible segment are put aside."""
        children = self.opener(each)
        if not isinstance(children, dict) or _is_simple(children):
            return children
        if isinstance(each, ByPath):
            self.whole.append(each)
        named: dict[str, Any] = {}
        twice: dict[str, None] = {}
        for key, value in children.items():
            if not _is_nameable(key):
                self._aside.append((id(each), key, value))
                if isinstance(key, Variable):
                    self.keys.append((id(each), key))
                continue
            step = segment(key)
            if isinstance(key, Named):
                self.after[id(each), step] = key.thing
            if named.setdefault(step, value) is not value:
                self._aside.append((id(each), _Twice(step), value))
                twice[step] = None
        for step in twice:
            self._aside.append((id(each), _Twice(step), named.pop(step)))
        return named

    def path(self, parent: int, key: Any) -> str:
        """The path of the child that a parent has at a key."""
        return _joined(self.path_to(parent), key)

    def path_to(self, which: int) -> str:
        keys: list[str] = []
        at = which
        while (known := self.paths.get(at)) is None:
            at, key, _ = self.places[at]
            keys.append(str(key))
        path = self.paths[which] = "/".join(([known] if known else []) + keys[::-1])
        return path

    def aliases(self, variables: Iterable[Variable]) -> dict[str, str]:
        """The aliases of these variables and of the containers with them, for `Paths.aliases`."""
        found: dict[str, str] = {}
        if self.again:
            reach = self._reach(variables)
            again = [edge for edge in self.again if edge[2] in reach]
            parents = {parent for parent, _, _ in again}
            for which in self.places:  # parents come first, so that each path extends one that is made
                if which in parents:
                    self.path_to(which)
            found = {self.path(parent, key): self.path_to(which) for parent, key, which in again}
        further: dict[str, str] = {}
        for each in self.whole:
            which = id(each)
            for alias, first in each.aliases.items():  # the first path in the mapping is perhaps a further one here
                place = self.path(which, first) if first else self.path_to(which)
                further[self.path(which, alias)] = followed(place, found)
        return found | further

    def _reach(self, variables: Iterable[Variable]) -> set[int]:
        """The ids of the variables and of all objects that contain one of them."""
        parents: dict[int, list[int]] = {}
        for parent, _, which in self.again:
            parents.setdefault(which, []).append(parent)
        reach = set(map(id, variables))
        todo = list(reach) if parents else []
        while todo:
            which = todo.pop()
            new = {self.places[which][0], *parents.get(which, ())} - reach
            reach |= new
            todo.extend(new)
        return reach

    def check(self, operation: str, found: dict[str, Any], cls: type) -> None:
        """Raises NameScopeError if an object of the class has no path."""
        for parent, key, _ in self.unnamed(found, cls):
            raise NameScopeError.of(
                operation,
                f"{_problem(key)}, and a {cls.__name__} has no other path",
                self.path_to(parent),
                "keep it in an attribute, in a list, or in a dict with string keys",
            )

    def check_keys(self, operation: str, found: Collection[Variable]) -> None:
        """Raises NameScopeError if a variable is only the key of a mapping, since keys are not searched."""
        known = set(found) if self.keys else set()
        for parent, key in self.keys:
            if key not in known:
                hint = "keep it in an attribute, a list, or as a value too"
                raise NameScopeError.of(
                    operation, f"the variable {key.path!r} is only a key", self.path_to(parent), hint
                )

    def unnamed(self, found: dict[str, Any], cls: type[_Object]) -> Iterator[tuple[int, Any, _Object]]:
        """The objects of the class that have no path: the id of the parent, the key, and the object."""
        named = set(map(id, found.values())) if self._aside else set()
        for parent, key, each in self._aside:
            descendants = (one for _, _, one in edges(each, self.met, self.opener))
            itself = self.opener(each)
            for one in (itself if isinstance(itself, Variable) else each, *descendants):
                if isinstance(one, cls) and id(one) not in named:
                    yield parent, key, one


@dataclass(frozen=True)
class _Twice:
    """The key of an object whose path segment is also that of another object, as with the keys 1 and "1"."""

    segment: str


def _joined(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _is_simple(keys: dict[Any, Any]) -> bool:
    """Whether all keys are strings that need no escaping, by a quick test."""
    if not set(map(type, keys)) <= {str} or "" in keys:
        return False
    text = "".join(keys)
    return text.isascii() and not ("~" in text or "/" in text or "\0" in text)


def _is_nameable(key: Any) -> bool:
    """Whether a key can be the segment of a path."""
    if isinstance(key, Attribute | Whole):
        key = key.name if isinstance(key, Attribute) else key.path
    if isinstance(key, Named):
        return True
    if isinstance(key, str):
        return key != "" and "\0" not in key and _is_text(key) and not isinstance(key, Enum)
    return isinstance(key, Integral) and not isinstance(key, Enum | bool)


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no file can store
        return False
    return True


def _problem(key: Any) -> str:
    """The reason why a key cannot be the segment of a path."""
    if isinstance(key, Unordered):
        return "a set has no order"
    if isinstance(key, _Twice):
        return f"two keys are both written {key.segment!r} in a path"
    if isinstance(key, Whole):
        key = key.path
    if isinstance(key, str) and not isinstance(key, Enum):
        return f"a key is empty, or contains NUL or half a surrogate pair: {key!r}"
    return f"expected a string or an integer as key, got {key!r}"
