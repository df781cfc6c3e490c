"""`ByPath`: variables under whole paths, as a file has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

from .._core.variable import Variable
from ..errors import describe

__all__ = ["ByPath", "followed", "needed"]


class ByPath(MutableMapping[str, Variable]):
    """What `VariablesByPath` is, without its displays, which know what names variables, which knows this class."""

    def __init__(self, variables: Mapping[str, Variable] | None = None, aliases: Mapping[str, str] | None = None):
        self._variables: dict[str, Variable] = {}
        self._aliases: dict[str, str] = {}
        for path, variable in (variables or {}).items():
            self[path] = variable
        wanted = {_checked(path): first for path, first in (aliases or {}).items()}
        kept = needed(wanted, self._variables)
        for path in wanted:
            if path in self._variables or path not in kept:
                problem = "an alias is the path of a variable" if path in self._variables else "an alias leads nowhere"
                raise ValueError(describe("VariablesByPath", problem, path))
        self._aliases = wanted

    @property
    def aliases(self) -> Mapping[str, str]:
        """Each further path of a variable or of a container, mapped to its first path."""
        return MappingProxyType(self._aliases)

    def __getitem__(self, path: str) -> Variable:
        return self._variables[path if path in self._variables else followed(path, self._aliases)]

    def __setitem__(self, path: str, variable: Variable) -> None:
        """Sets a variable. At a further path it is set for all of them."""
        first = followed(_checked(path), self._aliases)
        self._variables[path if path in self._variables else first] = _variable(variable, path)

    def __delitem__(self, path: str) -> None:
        """Removes a variable and its aliases, or one alias."""
        if path in self._aliases:
            del self._aliases[path]
        else:
            del self._variables[path]
        self._aliases = needed(self._aliases, self._variables)

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __eq__(self, other: object) -> bool:
        return self is other  # equality of mappings would compare all values

    __hash__ = object.__hash__


def _checked(path: Any) -> str:
    if not isinstance(path, str):
        raise TypeError(describe("VariablesByPath", f"expected a path as key, got {path!r}"))
    if not path:
        raise ValueError(describe("VariablesByPath", "a path is not empty"))
    return path


def _variable(given: Any, path: str) -> Variable:
    if not isinstance(given, Variable):
        problem = f"expected a variable, got {type(given).__name__}"
        raise TypeError(describe("VariablesByPath", problem, path, "pass sv.Variable(x)"))
    return given


def needed(aliases: Mapping[str, str], paths: Iterable[str]) -> dict[str, str]:
    """The aliases that lead to one of the paths or to a container of it.

    >>> needed({"again": "first", "other": "gone"}, ["first/kernel"])
    {'again': 'first'}
    """
    places = {""} if (paths := list(paths)) else set()
    new = list(paths)
    kept: dict[str, str] = {}
    while new:
        for path in new:
            while path and path not in places:
                places.add(path)
                path = path.rpartition("/")[0]  # noqa: PLW2901  # the container of it
        new = [alias for alias, first in aliases.items() if alias not in kept and first in places]
        kept |= {alias: aliases[alias] for alias in new}
    return {alias: first for alias, first in aliases.items() if alias in kept}


def followed(path: str, aliases: Mapping[str, str]) -> str:
    """The first path of the object at a path.

    >>> followed("again/kernel", {"again": "first"})
    'first/kernel'
    """
    if not aliases:
        return path
    place: str | None = None  # the object itself: not the empty name, which files of other programs may contain
    for step in path.split("/"):
        place = step if place is None else f"{place}/{step}"
        if place in aliases:
            place = aliases[place] or None
    return place or ""
