"""`snapshot`: what many variables held at one moment; `restore` and `rollback` put it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

from .._arrays.shapes import DeclaredShape
from .._arrays.types import Array
from .._core import scopes
from .._core.commit import while_locked
from .._core.variable import Variable
from .._public import public
from ..errors import NameScopeError, describe
from .paths import variables_in
from .transaction import transaction

__all__ = ["Snapshot", "restore", "rollback", "snapshot"]

_ATTEMPTS = 3
_version = attrgetter("_version")
_published = attrgetter("_snapshot")
_declared = attrgetter("_declared")


@public()
class Snapshot(Mapping[str, Array]):
    """What variables held at one moment: a read-only mapping of path to array, in the order they were given.

    No later write changes it. A variable without a value is left out. It is indexed by path, or by the variable.
    """

    __slots__ = ("_by_path", "_declared", "_values", "_variables", "_versions")

    def __init__(
        self, variables: list[Variable], values: list[Any], versions: list[int], declared: list[DeclaredShape]
    ) -> None:
        self._variables = variables
        self._values = values
        self._versions = versions
        self._declared = declared
        self._by_path: dict[str, int] | None = None

    def _index(self) -> dict[str, int]:
        if self._by_path is None:
            self._by_path = {}
            for i, variable in enumerate(self._variables):
                if variable.path in self._by_path:
                    raise NameScopeError(
                        describe(
                            "snapshot",
                            "two variables have this path",
                            variable.path,
                            "index by the variable, or make them in different name_scopes",
                        )
                    )
                self._by_path[variable.path] = i
        return self._by_path

    def __getitem__(self, key: str | Variable) -> Array:
        if isinstance(key, Variable):
            i = next((i for i, variable in enumerate(self._variables) if variable is key), -1)
        else:
            i = self._index().get(key, -1)
        if i < 0 or self._values[i] is None:
            raise KeyError(key)
        variable = self._variables[i]
        return variable._backend.operand(self._values[i], variable._dtype)  # cut from any gradient

    def __iter__(self) -> Iterator[str]:
        return (path for path, i in self._index().items() if self._values[i] is not None)

    def __len__(self) -> int:
        return sum(value is not None for value in self._values)

    @property
    def versions(self) -> dict[str, int]:
        """The `Variable.version` of each, by path."""
        return {path: self._versions[i] for path, i in self._index().items()}

    def __repr__(self) -> str:
        return f"<Snapshot of {len(self._variables)} variables>"


@public()
def snapshot(*variables: Any) -> Snapshot:
    """What all of the variables held at one moment. Nothing is copied, and no writer waits.

    A later write to one of them makes a copy while the snapshot lives.

    Args:
        variables: variables, of any backends; containers of them; objects that have them as attributes.

    Inside a transaction it has what the transaction has written. What a library's own optimizer or compiled function
    writes at this very moment is not part of the promise.

    >>> import statevar as sv
    >>> with sv.name_scope("counts"):
    ...     hits, misses = sv.Variable([1, 2], name="hits"), sv.Variable(3, name="misses")
    >>> before = sv.snapshot(hits, misses)
    >>> hits += 10
    >>> before["counts/hits"], before.versions
    (array([1, 2], dtype=int32), {'counts/hits': 0, 'counts/misses': 0})
    """
    found = variables_in("snapshot", variables)
    overlay = scopes.overlay() if scopes.active else None
    if overlay is not None:
        return _taken(found, [overlay.read(variable) for variable in found])
    for _ in range(_ATTEMPTS):
        # A writer raises the version before it publishes. So if no version changed from before the first value was
        # taken until after the last, all of them were there at once.
        versions = list(map(_version, found))
        values = list(map(_published, found))
        if type(None) in set(map(type, values)):
            values = [
                variable._stored() if value is None and variable._handle is not None else value
                for variable, value in zip(found, values, strict=True)
            ]
        declared = list(map(_declared, found))
        if versions == list(map(_version, found)):
            return Snapshot(found, values, versions, declared)
    # For writers that never pause: all locks at once.
    return while_locked(found, lambda _: _taken(found, found))


def _taken(found: list[Variable], current: list[Variable]) -> Snapshot:
    values = [None if each._handle is None else each._stored() for each in current]
    return Snapshot(found, values, [each._version for each in current], [each._declared for each in current])


@public()
def restore(snapshot: Snapshot) -> None:
    """Gives every variable of a snapshot the value, the shape and the declared shape that it had, in one transaction.

    Nothing is copied: the variables share memory with the snapshot until they are written.

    >>> import statevar as sv
    >>> v = sv.Variable([1.0, 2.0])
    >>> before = sv.snapshot(v)
    >>> v *= 10
    >>> sv.restore(before)
    >>> v.value
    array([1., 2.], dtype=float32)
    """
    if not isinstance(snapshot, Snapshot):
        raise TypeError(
            describe(
                "restore", f"expected a Snapshot, got {type(snapshot).__name__}", hint="take it with sv.snapshot(…)"
            )
        )
    with transaction(snapshot._variables):
        _restore(snapshot, range(len(snapshot._variables)))


def _restore(snapshot: Snapshot, which: Any) -> None:
    work = scopes.overlay()
    assert work is not None, "restore runs in a transaction"
    for i in which:
        work.write(snapshot._variables[i])._restore_value(snapshot._values[i], snapshot._declared[i])


@public()
@contextmanager
def rollback(*variables: Any) -> Iterator[Snapshot]:
    """Tries something and puts it back: what the block writes is dropped when it ends, however it ends.

    Other threads see none of it, and wait before they write. What the library's own optimizer writes through
    `Variable.parameter` is put back too, but seen meanwhile.

    Args:
        variables: as for `transaction`. Writes to variables that are not listed are dropped as well.

    Yields:
        What the variables held before.

    >>> import statevar as sv
    >>> v = sv.Variable([1.0, 2.0])
    >>> with sv.rollback(v):
    ...     v *= 10
    ...     print(v.value)
    [10. 20.]
    >>> v.value
    array([1., 2.], dtype=float32)
    """
    found = variables_in("rollback", variables)
    with transaction(found):
        before = snapshot(found)
        versions = [variable.version for variable in found]
        try:
            yield before
        finally:
            work: Any = scopes.overlay()
            work.drop()
            _restore(before, [i for i, variable in enumerate(found) if variable.version != versions[i]])
