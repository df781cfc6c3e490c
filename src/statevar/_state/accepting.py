"""State that objects of other libraries make late: an adapter makes what a file has, and removes what was undone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from .._arrays.shapes import Shape
from .._arrays.types import HostArray
from .._core.variable import Variable
from .._core.views import owner_of_thing
from .names import Names, named
from .walk import kind_of

__all__ = ["Offered", "accept", "forget"]

Read: TypeAlias = Callable[[str], HostArray]
Described: TypeAlias = Callable[[str], tuple[Shape | None, str]]


class Offered(Mapping[str, HostArray]):
    """Arrays of a file that an object has no place for yet. Each is read when it is asked for.

    Args:
        sources: the paths in the file, by the object's own names.
        read: returns the array at a path.
        described: returns the shape and the dtype of the array at a path.
    """

    def __init__(self, sources: Mapping[str, str], read: Read, described: Described) -> None:
        self._sources = sources
        self._read = read
        self._described = described

    def __getitem__(self, name: str) -> HostArray:
        return self._read(self._sources[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def described(self, name: str) -> tuple[Shape | None, str]:
        """The shape and the dtype of an array, without reading it: a load writes the value later anyway."""
        return self._described(self._sources[name])


def accept(target: Any, unknown: Iterable[str], read: Read, described: Described) -> Callable[[], None] | None:
    """Has the objects in a target make the state that a file has and they have not yet.

    Args:
        unknown: the paths in the file at which the target has no variable.
        read: returns the array of a path.
        described: returns its shape and dtype.

    Returns:
        A function that undoes it; None if nothing was made.
    """
    paths = list(unknown)
    if not paths:
        return None
    found, names = named(target, Variable)
    undo: list[Callable[[], object]] = []
    try:
        for each, beginning, after in _acceptors(found, names):
            inside = {_renamed(path[len(beginning) :], after): path for path in paths if path.startswith(beginning)}
            if inside:
                arrays = Offered(inside, read, described)
                undo += [
                    back
                    for adapter in kind_of(type(each)).adapters
                    if adapter.accept is not None and (back := adapter.accept(each, arrays)) is not None
                ]
    except BaseException:
        _undo(undo)
        raise
    return (lambda: _undo(undo)) if undo else None


def forget(target: Any, known: Collection[Variable]) -> None:
    """Has the objects in a target remove the state that they have made since, as far as they can.

    Args:
        known: the variables that the target had before.
    """
    found, names = named(target, Variable)
    new = [path for path, variable in found.items() if variable not in known]
    for each, beginning, after in _acceptors(found, names) if new else ():
        inside = [_renamed(path[len(beginning) :], after) for path in new if path.startswith(beginning)]
        for adapter in kind_of(type(each)).adapters if inside else ():
            if adapter.forget is not None:
                adapter.forget(each, inside)


def _undo(calls: list[Callable[[], object]]) -> None:
    while calls:
        calls.pop()()


def _acceptors(found: dict[str, Variable], names: Names) -> Iterable[tuple[Any, str, dict[str, str]]]:
    """The objects that may make state: each with the beginning of its paths, and what its keys are in those."""
    paths = {id(variable): path for path, variable in found.items()}
    for which, (_, _, each) in list(names.places.items()):
        if any(adapter.accept is not None for adapter in kind_of(type(each)).adapters):
            after = {
                path: str(key)
                for (parent, key), thing in names.after.items()
                if parent == which and (path := paths.get(id(owner_of_thing(thing)))) is not None
            }
            path = names.path_to(which)
            yield each, f"{path}/" if path else "", after


def _renamed(path: str, after: dict[str, str]) -> str:
    """A path in an object, with the object's own key in place of the path of the thing that it is named after."""
    head = path
    while head := head.rpartition("/")[0]:
        if head in after:
            return after[head] + path[len(head) :]
    return path
