"""Finds the variables in any object, and their paths: in containers, dataclasses, objects with attributes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, Self, TypeVar

from .._core.variable import Variable
from ..errors import NameScopeError, describe
from .by_path import followed
from .left_out import refuse_lost_state, refuse_variables_of_variables, warn_of_plain_state
from .names import named
from .walk import SEQUENCES, SETS, Container, Opener, kind_of, slots_of, walk

__all__ = [
    "Container",
    "Paths",
    "Rename",
    "Targets",
    "contents_of",
    "followed",
    "named_in",
    "objects_in",
    "path_matches",
    "paths_in",
    "renamed",
    "slots_of",
    "variables_in",
]

#: Maps the paths in a file or a pool, or their prefixes, to object paths.
Rename = Mapping[str, str] | Callable[[str], str | None]

_Object = TypeVar("_Object")

_VARIABLES = {Variable}


@dataclass(frozen=True)
class Paths:
    """The variables in an object by path, in the order in which they are found, depth first.

    A segment of a path is the name of an attribute or a field, the index in a list or tuple, or the key of a mapping.
    In keys, ``~`` is written ``~0`` and ``/`` is written ``~1``, as in JSON pointers (RFC 6901), so that no two places
    have the same path.

    Attributes:
        variables: each variable once, by its first path.
        alone: whether the object is a variable itself.
        aliases: maps each further path of a variable, or of a container with variables, to its first path, which is
            empty for the object itself. All other paths follow from these, so that they need not be listed: forty
            lists, each of which contains the next one twice, have 2**40.

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
    alone: bool = False

    def find(self, path: str) -> Variable | None:
        """The variable at a path, which may be its first path or any other; None if there is none."""
        return self.variables.get(followed(path, self.aliases))


def path_matches(patterns: str | Iterable[str]) -> Callable[[str], bool]:
    """Whether a whole path matches one of the patterns, in which ``*`` is any text and ``?`` any character.

    >>> matches = path_matches("*/kernel")
    >>> matches("layers/0/kernel"), matches("kernel"), path_matches("layers[0]")("layers[0]")
    (True, False, True)
    """
    each = [pattern.replace("[", "[[]") for pattern in ([patterns] if isinstance(patterns, str) else patterns)]
    return lambda path: any(fnmatchcase(path, pattern) for pattern in each)


def renamed(path: str, rename: Rename | None) -> str | None:
    """The object path of a path elsewhere, as in a file; None if it is to be skipped. The longest prefix counts."""
    if rename is None:
        return path
    if not isinstance(rename, Mapping):
        return rename(path)
    head = path
    while head:
        if head in rename:
            return (rename[head] + path[len(head) :]).strip("/")
        head = head.rpartition("/")[0]
    return path


def variables_in(operation: str, targets: Iterable[Any]) -> list[Variable]:
    """The variables in all targets, each once, in the order in which they are found.

    Raises:
        ForeignStateError: one of the targets contains state of another library.
        TypeError: one of the targets contains no variable, and is not an empty container.
    """
    targets = list(targets)
    if len(targets) == 1 and _is_plain(targets[0]):
        return list(dict.fromkeys(targets[0]))
    found: dict[Variable, None] = {}
    for target in targets:
        if isinstance(target, Variable):  # the usual case
            found[target] = None
            continue
        target = _listed(operation, target)  # noqa: PLW2901  # an iterator can be consumed only once
        if isinstance(target, Variable):
            found[target] = None
            continue
        if _is_plain(target):
            found |= dict.fromkeys(target)
            continue
        opener = Opener()
        in_target = dict.fromkeys(each for each in walk(target, opener) if isinstance(each, Variable))
        _check(operation, target, opener, in_target)
        found |= in_target
    return list(found)


def paths_in(operation: str, target: Any) -> Paths:
    """The variables in an object by path. A variable that is passed itself has its own `Variable.path`.

    Raises:
        ForeignStateError: the object contains state of another library.
        NameScopeError: a variable has no path that can be written.
        TypeError: the object contains no variable, and is not an empty container.
    """
    target = target if isinstance(target, Variable) else _listed(operation, target)
    if isinstance(target, Variable):
        # The path of a view has a number, which another process would not give it.
        return Paths({target.name if target._backend.is_view else target.path: target}, alone=True)
    variables, names = named(target, Variable)
    names.check(operation, variables, Variable)
    names.check_keys(operation, variables.values())
    _check(operation, target, names.opener, variables.values())
    return Paths(variables, names.aliases(variables.values()))


class Targets:
    """The variables that were passed to a function such as `snapshot`, with their paths in the passed objects.

    A variable has its own `Variable.path` if it was passed itself, or in a list or tuple of variables and nothing else;
    and if it has no path in its object, as in a set.

    Attributes:
        variables: each variable once, in the order in which they are found.
        entered: whether an object of another library was entered, which may make more state later.

    Raises:
        ForeignStateError: one of the targets contains state of another library.
        TypeError: one of the targets contains no variable, and is not an empty container.

    >>> import statevar as sv
    >>> w = sv.Variable(0.0, name="w")
    >>> targets = Targets("snapshot", [w, {"layers": [w, sv.Variable(1.0)]}])
    >>> list(targets.by_path)
    ['w', 'layers/0', 'layers/1']
    >>> targets.path(targets.variables[1]), targets.find("layers/0") is w
    ('layers/1', True)
    """

    __slots__ = ("_operation", "_parts", "_path_of", "_places", "entered", "variables")

    def __init__(self, operation: str, targets: Iterable[Any]) -> None:
        self._operation = operation
        self.variables: list[Variable]
        self.entered: bool = False
        #: Each target as a variable, a list of variables, or paths.
        self._parts: list[Variable | list[Variable] | Paths] = []
        self._places: dict[str, Variable | None] | None = None  # None for a path of two variables
        self._path_of: dict[Variable, str] | None = None
        targets = list(targets)
        if set(map(type, targets)) == {Variable}:  # nothing but variables: in a quarter of the time
            self._parts = targets
            self.variables = list(dict.fromkeys(targets))
            return
        for target in targets:
            self._parts += self._parts_of(target)
        found = map(_variables_of, self._parts)
        self.variables = list(dict.fromkeys(next(found) if len(self._parts) == 1 else chain.from_iterable(found)))

    def _parts_of(self, target: Any) -> list[Variable | list[Variable] | Paths]:
        target = target if isinstance(target, Variable) else _listed(self._operation, target)
        if isinstance(target, Variable):
            return [target]
        if _is_plain(target):
            return [list(target)]
        variables, names = named(target, Variable)
        unnamed = [variable for _, _, variable in names.unnamed(variables, Variable)]
        found = [*variables.values(), *unnamed]
        names.check_keys(self._operation, found)
        _check(self._operation, target, names.opener, found)
        self.entered = self.entered or names.opener.entered
        return [Paths(variables, names.aliases(variables.values())), *unnamed]

    def replaced(self, other: Mapping[Variable, Variable]) -> Targets:
        """The same targets, with other variables in place of some."""
        new = object.__new__(Targets)
        new._operation = self._operation
        new.entered = self.entered
        new._parts = [_replaced(part, other) for part in self._parts]
        new._places = new._path_of = None
        new.variables = [other.get(each, each) for each in self.variables]
        return new

    def outline(self) -> list[Any]:
        """The parts with the number of each variable in its place, for a pickle."""
        number = {each: i for i, each in enumerate(self.variables)}
        return [
            (number[part],)
            if isinstance(part, Variable)
            else ({path: number[each] for path, each in part.variables.items()}, part.aliases)
            if isinstance(part, Paths)
            else [number[each] for each in part]
            for part in self._parts
        ]

    @classmethod
    def from_outline(cls, operation: str, outline: list[Any], variables: list[Variable]) -> Self:
        """The targets that `outline` has described, with these variables."""
        new = cls(operation, ())
        for part in outline:
            if isinstance(part, list):
                new._parts.append([variables[i] for i in part])
            elif len(part) == 1:
                new._parts.append(variables[part[0]])
            else:
                new._parts.append(Paths({path: variables[i] for path, i in part[0].items()}, part[1]))
        new.variables = variables
        return new

    def find(self, path: str) -> Variable | None:
        """The variable at a path in the targets; else the only one with this `Variable.path`; else None.

        Raises:
            NameScopeError: the path leads to two variables.
        """
        places = self._by_path()
        if path in places:
            if (found := places[path]) is None:
                raise self._ambiguous(path)
            return found
        for part in self._parts:
            further = part.find(path) if isinstance(part, Paths) else _at(part, path) if type(part) is list else None
            if further is not None:
                return further
        own = [variable for variable in self.variables if variable.path == path]
        return own[0] if len(own) == 1 else None

    def path(self, variable: Any) -> str | None:
        """The first path of a variable; None if it is not among the targets."""
        if self._path_of is None:
            self._path_of = {}
            for path, each in self.named():
                self._path_of.setdefault(each, path)
        return self._path_of.get(variable)

    @property
    def by_path(self) -> dict[str, Variable]:
        """The variables of all targets by path.

        Raises:
            NameScopeError: a path leads to two variables.
        """
        found: dict[str, Variable] = {}
        for path, variable in self._by_path().items():
            if variable is None:
                raise self._ambiguous(path)
            found[path] = variable
        return found

    def _by_path(self) -> dict[str, Variable | None]:
        if self._places is None:
            places: dict[str, Variable | None] = {}
            for path, variable in self.named():
                if places.setdefault(path, variable) is not variable:
                    places[path] = None
            self._places = places
        return self._places

    def _ambiguous(self, path: str) -> NameScopeError:
        hint = "index by the variable, or give one object that contains both"
        return NameScopeError.of(self._operation, "two variables have this path", path, hint)

    def named(self) -> Iterator[tuple[str, Variable]]:
        for part in self._parts:
            if isinstance(part, Paths):
                yield from part.variables.items()
            else:
                yield from ((variable.path, variable) for variable in dict.fromkeys(_variables_of(part)))


def _replaced(
    part: Variable | list[Variable] | Paths, other: Mapping[Variable, Variable]
) -> Variable | list[Variable] | Paths:
    if isinstance(part, Variable):
        return other.get(part, part)
    if isinstance(part, Paths):
        return Paths({path: other.get(each, each) for path, each in part.variables.items()}, part.aliases)
    return [other.get(each, each) for each in part]


def _at(variables: list[Variable], path: str) -> Variable | None:
    """The variable at an index that is written as a path."""
    return variables[int(path)] if path.isdecimal() and int(path) < len(variables) else None


def _variables_of(part: Variable | list[Variable] | Paths) -> Iterable[Variable]:
    if isinstance(part, Variable):
        return (part,)
    return part.variables.values() if isinstance(part, Paths) else part


def named_in(operation: str, target: Any, cls: type[_Object]) -> dict[str, _Object]:
    """The objects of a class in a target, by their first paths. Errors are those of `paths_in`."""
    found, names = named(target, cls)
    names.check(operation, found, cls)
    return found


def contents_of(operation: str, target: Any) -> list[Variable]:
    """The variables in an object, which may have none, each once, in the order in which they are found.

    Raises:
        ForeignStateError: the object contains state of another library.
    """
    opener = Opener()
    found = {id(each): each for each in walk(target, opener) if isinstance(each, Variable)}
    refuse_lost_state(operation, target, opener, found.values())
    return list(found.values())


def objects_in(target: Any, cls: type[_Object]) -> list[_Object]:
    """The objects of a class in a target, each once, in the order in which they are found, without the target."""
    found = {id(each): each for each in walk(target) if isinstance(each, cls)}
    found.pop(id(target), None)
    return list(found.values())


def _is_plain(target: Any) -> bool:
    """Whether an object is a list or tuple of variables only. It takes 0.02 ms for a thousand variables."""
    if type(target) is not list and type(target) is not tuple:
        return False
    types = set(map(type, target))
    return types == _VARIABLES or all(issubclass(cls, Variable) for cls in types)


def _listed(operation: str, target: Any) -> Any:
    """A target that can be searched several times: a list of an iterator, and the variable that a leaf is."""
    if isinstance(target, Iterator):
        return list(target)
    kind = kind_of(type(target))
    if kind.adapters or kind.is_slot:
        opener = Opener()
        found = opener(target)
        if isinstance(found, Variable):
            return found
        for each, error in opener.refused:
            if each is target:
                raise error._at(operation, "")
    return target


def _check(operation: str, target: Any, opener: Opener, found: Collection[Variable]) -> None:
    """Raises an error if nothing was found, or if what was found is not all the state; warns of plain arrays."""
    refuse_lost_state(operation, target, opener, found)
    if not found and not opener.entered:
        _check_empty(operation, target, has_arrays=any(kind_of(type(each)).is_array for each in opener.aside))
    refuse_variables_of_variables(operation, found)
    warn_of_plain_state(operation, target, opener.aside, found)


def _check_empty(operation: str, target: Any, *, has_arrays: bool) -> None:
    containers = (Mapping, *SEQUENCES, *SETS)
    if isinstance(target, Container) or (isinstance(target, containers) and not len(target)):
        return
    raise TypeError(
        describe(
            operation,
            f"found no variable in {type(target).__name__}",
            hint="pass a view of its arrays: sv.view(x)"
            if has_arrays
            else "pass variables, containers of variables, or objects that have them as attributes",
        )
    )
