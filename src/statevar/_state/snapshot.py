"""`snapshot`: the values of many variables at one moment; `restore` and `rollback` put them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from .._arrays import tracing
from .._arrays.registry import owner_of
from .._arrays.shapes import DeclaredShape
from .._arrays.types import Array
from .._core import overlays, sharing
from .._core.cell import Cell
from .._core.copies import LOADING, Loading, follow, living, process
from .._core.held import are_free
from .._core.holds import while_locked
from .._core.lost import check_not_lost, destroyed
from .._core.readable import State
from .._core.reentry import enterable_again
from .._core.shown import Shown
from .._core.tables import count_text
from .._core.traced import check_traced_read
from .._core.variable import Variable
from .._public import public
from ..errors import describe
from .accepting import forget
from .paths import Targets
from .summarized import Summarized, SummaryParts
from .transaction import Transaction

__all__ = ["Snapshot", "restore", "rollback", "snapshot"]

_ATTEMPTS = 3
_version = attrgetter("_version")
_published = attrgetter("_snapshot")
_declared = attrgetter("_declared")
_backend = attrgetter("_backend")
_handle = attrgetter("_handle")


#: The tokens of the variables of a loaded snapshot, the process that they are of, and the load.
_Links: TypeAlias = "tuple[list[int | tuple[str, str] | None], str, Loading]"


@public()
class Snapshot(Mapping[str, Array], Summarized):
    """The values of variables at one moment: a read-only mapping of path to array, in the order of the arguments.

    No later write changes it. A variable without a value is left out. It is indexed by path, or by the variable.

    The path of a variable is its path in the object that was passed, such as ``layers/0/kernel``. A variable that was
    passed itself, or in a list of variables, has its own `Variable.path`. A key that is no path in the object is looked
    up among the variables' own paths.

    A copy of a snapshot has the same values, and `restore` of it writes the same variables. If `copy.deepcopy` or a
    pickle copies the variables in the same call, as in ``copy.deepcopy((model, snapshot))``, the copy of the snapshot
    belongs to the copies of the variables. A snapshot that is loaded in another process, without its variables, can be
    read but not restored.
    """

    _is_mapping = True

    __slots__ = ("_absent", "_declared_shapes", "_found", "_loaded", "_moved", "_places", "_values", "_versions")

    def __init__(
        self, targets: Targets, values: list[Any], versions: list[int], declared_shapes: list[DeclaredShape]
    ) -> None:
        # Lists in the order of the variables, and not a `State` for each: a thousand of those take 0.3 ms.
        self._found = targets
        self._values = values  # arrays, or leases of them; `_value` makes the arrays
        self._versions = versions
        self._declared_shapes = declared_shapes
        self._places: dict[Variable, int] | None = None
        self._moved: dict[Variable, Variable] | None = None  # the variables that were copied after the snapshot was
        self._loaded: _Links | None = None  # until the variables of a loaded snapshot are looked for
        self._absent: frozenset[Variable] = frozenset()  # the variables that stand for those that do not exist here

    @property
    def _targets(self) -> Targets:
        if self._loaded is not None:
            self._find_variables(self._loaded)
        if self._moved is not None:
            self._replace(self._moved)
            self._moved = None
        return self._found

    def _place(self, variable: Variable | None) -> int:
        if self._places is None:
            self._places = {each: i for i, each in enumerate(self._targets.variables)}
        return -1 if variable is None else self._places.get(variable, -1)

    def __getitem__(self, key: str | Variable) -> Array:
        variable = key if isinstance(key, Variable) else self._targets.find(key)
        i = self._place(variable)
        if variable is None or i < 0 or (value := self._value(i)) is None:
            raise KeyError(key)
        return variable._as_stored(value, "snapshot", variable._path)  # without any gradient

    if TYPE_CHECKING:

        @overload
        def get(self, key: str | Variable, /) -> Array | None: ...
        @overload
        def get(self, key: str | Variable, /, default: Any) -> Any: ...
        def get(self, key: str | Variable, /, default: Any = None) -> Any: ...

    def _value(self, i: int) -> Any:
        """The value of the variable in a place as an array, or None if it had none."""
        value = self._values[i]
        return None if value is None else self._found.variables[i]._backend.leased(value)

    def __iter__(self) -> Iterator[str]:
        named = self._targets.by_path.items()
        return (path for path, variable in named if self._values[self._place(variable)] is not None)

    def __len__(self) -> int:
        return sum(value is not None for value in self._values)

    @property
    def versions(self) -> dict[str, int]:
        """The `Variable.version` of each variable at the moment of the snapshot, by path."""
        return {path: self._versions[self._place(each)] for path, each in self._targets.by_path.items()}

    # -- copies and pickles ----------------------------------------------------------------------------

    def __copy__(self) -> Snapshot:
        return self._copied()

    def __deepcopy__(self, memo: dict[Any, Any]) -> Snapshot:
        copied = memo[id(self)] = self._copied()  # no later write changes the values, so they are shared
        copied._replace({each: memo[id(each)] for each in copied._found.variables if id(each) in memo})
        follow(memo, copied._follow)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        targets = self._targets
        facts = []
        for i, (variable, declared) in enumerate(zip(targets.variables, self._declared_shapes, strict=True)):
            fact = variable._pickled(State(self._value(i), None, declared, 0))
            if variable in self._absent:
                fact["token"] = None
            elif variable._backend.is_shared:  # the variable of a process over this record, whichever loads it
                record = variable._handle.record
                fact["token"] = record.pool.id, record.path
            del fact["loading"]  # a variable that only stands for another one is not that variable's copy
            facts.append(fact)
        return Snapshot._restored, (facts, targets.outline(), self._versions, process(), LOADING)

    @staticmethod
    def _restored(facts: list[Any], outline: list[Any], versions: list[int], origin: str, loading: Loading) -> Snapshot:
        tokens = [fact.pop("token") for fact in facts]
        variables = [Variable._restore(fact) for fact in facts]
        values = [variable._stored() if variable.is_initialized else None for variable in variables]
        declared = [variable.declared_shape for variable in variables]
        snapshot = Snapshot(Targets.from_outline("snapshot", outline, variables), values, versions, declared)
        snapshot._loaded = tokens, origin, loading
        return snapshot

    def _find_variables(self, links: _Links) -> None:
        """Puts the variables that exist in the places of those that stand for them since the load."""
        tokens, origin, loading = links
        self._loaded = None
        found: dict[Variable, Variable] = {}
        for stand_in, number in zip(self._found.variables, tokens, strict=True):
            if isinstance(number, tuple):
                from .._core.pools import variable_over  # noqa: PLC0415  # imported by the first program that shares

                variable = variable_over(*number)
            else:
                variable = None if number is None else loading.loaded.get(number)
                if variable is None and number is not None and origin == process():
                    variable = living(number)
            if variable is not None:
                found[stand_in] = variable
        self._absent = frozenset(each for each in self._found.variables if each not in found)
        self._replace(found)

    def _copied(self) -> Snapshot:
        copied = Snapshot(self._targets, self._values, self._versions, self._declared_shapes)
        copied._absent = self._absent
        return copied

    def _follow(self, variable: Variable, copy: Variable) -> None:
        """Called by `copy.deepcopy` when it copies a variable after it has copied this snapshot."""
        if self._place(variable) >= 0:
            self._moved = (self._moved or {}) | {variable: copy}

    def _replace(self, other: Mapping[Variable, Variable]) -> None:
        if other:
            self._found = self._found.replaced(other)
            self._absent -= other.keys()
            self._places = None

    _repr_pretty_ = Shown._repr_pretty_  # IPython looks no further than the class with `__repr__`

    def __repr__(self) -> str:
        return f"<Snapshot of {count_text(len(self._values), 'variable')}>"

    def _summarized(self, stats: bool | None) -> SummaryParts:
        """The values for `summary`."""
        from .entries import entries_of_values  # noqa: PLC0415  # imported when something is shown

        named = self._targets.named()
        entries, sources = entries_of_values((path, each, self._value(self._place(each))) for path, each in named)
        return entries, sources, {}, stats


@public()
def snapshot(*variables: Any) -> Snapshot:
    """Takes the values of all variables at one moment. Nothing is copied, and no writer waits.

    While the snapshot is alive, the next write to one of the variables makes a copy. Inside a transaction, the snapshot
    has the values that the transaction has written. A write by the library's own optimizer or compiled function at the
    same moment may be in the snapshot for one variable and not for another.

    Args:
        variables: variables, of any backends; containers of variables; objects that have them as attributes.

    >>> import statevar as sv
    >>> with sv.name_scope("counts"):
    ...     hits, misses = sv.Variable([1, 2], name="hits"), sv.Variable(3, name="misses")
    >>> before = sv.snapshot(hits, misses)
    >>> hits += 10
    >>> before["counts/hits"], before.versions
    (array([1, 2], dtype=int32), {'counts/hits': 0, 'counts/misses': 0})
    >>> list(sv.snapshot({"layers": [hits, misses]}))
    ['layers/0', 'layers/1']
    """
    return _snapshot(Targets("snapshot", variables))


def _snapshot(targets: Targets) -> Snapshot:
    found = targets.variables
    overlay = overlays.current() if overlays.active else None
    cells: Sequence[Cell] = found if overlay is None else [overlay.read(variable) for variable in found]
    if (keeps := tracing.anywhere) is not None and keeps():
        for variable, cell in zip(found, cells, strict=True):
            if not cell._is_value:
                check_traced_read(variable)
    if overlay is not None:
        return _taken(targets, cells)
    if sharing.active and any(variable._backend.is_shared for variable in found):
        return _taken_of_shared(targets)
    for _ in range(_ATTEMPTS):
        # A writer raises the version before it publishes the value. So if no version changed from before the first
        # value was read until after the last, the variables had all these values at the same time.
        versions = list(map(_version, found))
        values = list(map(_published, found))
        kinds = dict(zip(map(type, values), values, strict=True))
        if type(None) in kinds and (len(kinds) > 1 or (values := _leases(found) or values)[0] is None):
            values = [_value(cell) if value is None else value for cell, value in zip(found, values, strict=True)]
        for kind, example in kinds.items():
            owner = owner_of(example)
            if owner is not None and (is_destroyed := owner.is_destroyed) is not None:
                _check_exist(found, values, kind, is_destroyed)
        declared = list(map(_declared, found))
        if versions == list(map(_version, found)):
            return Snapshot(targets, values, versions, declared)
    # The writers never pause, so take all locks at once.
    return while_locked(found, lambda _: _taken(targets, found))


def _check_exist(
    found: Sequence[Variable], values: Sequence[Any], kind: type, is_destroyed: Callable[[Any], bool]
) -> None:
    """Raises UninitializedError if an array of one type, which the user may have donated, no longer exists."""
    if any(map(is_destroyed, [value for value in values if type(value) is kind])):
        pairs = zip(found, values, strict=True)
        raise destroyed("snapshot", next(each._path for each, x in pairs if type(x) is kind and is_destroyed(x)))


def _value(cell: Cell) -> Array | None:
    """The value of a variable; None if it has never had one."""
    if cell._handle is not None:
        return cell._stored()
    check_not_lost(cell, "snapshot")
    return None


def _leases(found: Sequence[Cell]) -> list[Any] | None:
    """What keeps the values of variables of one library; None if some of them must be read each by itself."""
    backends = set(map(_backend, found))
    if len(backends) > 1 or not (backend := backends.pop()).reads_unlocked:
        return None
    leases = backend.lease(list(map(_handle, found)))
    return leases if leases is not None and are_free(found) else None


def _taken(targets: Targets, cells: Sequence[Cell]) -> Snapshot:
    states = [_versioned(each) for each in cells]
    values, versions = [value for value, _ in states], [version for _, version in states]
    return Snapshot(targets, values, versions, [each._declared for each in cells])


def _versioned(cell: Cell) -> tuple[Array | None, int]:
    """The value of a variable, or None, and its version."""
    if cell._backend.is_shared:
        return cell._versioned()
    return _value(cell), cell._version


def _taken_of_shared(targets: Targets) -> Snapshot:
    """A snapshot of variables that other processes may write at any moment, whose locks would keep nobody out."""
    found = targets.variables
    for _ in range(_ATTEMPTS):
        states = [each._state() for each in found]
        versions = [each.version for each in states]
        # Each variable had its version from when it was read until now, so all had them when the last one was read.
        if versions == [each._shared_version() if each._backend.is_shared else each._version for each in found]:
            for variable, state in zip(found, states, strict=True):
                if state.value is None:
                    check_not_lost(variable, "snapshot")
            return Snapshot(targets, [each.value for each in states], versions, [each.declared for each in states])
    with Transaction(found, targets.path):  # the writers never pause, so keep all of them out
        return _taken(targets, found)


@public()
def restore(snapshot: Snapshot) -> None:
    """Gives each variable of a snapshot back its value, shape and declared shape, in one transaction.

    Nothing is copied: the variables share memory with the snapshot until they are written.

    Raises:
        ValueError: the snapshot was loaded from a pickle, and one of its variables does not exist in this process.

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
    targets = snapshot._targets
    if snapshot._absent:
        gone = next(each for each in targets.variables if each in snapshot._absent)
        raise ValueError(
            describe(
                "restore",
                "the snapshot was loaded from a pickle, and its variable does not exist in this process",
                targets.path(gone) or gone.path,
                "write its values: for path, v in sv.named_variables(model).items(): v.assign(snapshot[path])",
            )
        )
    with Transaction(targets.variables, targets.path) as transaction:
        _restore(transaction, snapshot, range(len(snapshot._values)))


def _restore(transaction: Transaction, snapshot: Snapshot, which: Iterable[int]) -> None:
    variables = snapshot._targets.variables
    for i in which:
        transaction._store(variables[i], snapshot._value(i), snapshot._declared_shapes[i])


@public()
def rollback(*variables: Any) -> AbstractContextManager[Snapshot]:
    """Undoes every write of the ``with`` block when it ends, with or without an exception.

    Other threads never see the writes of the block, and wait until it ends before they write. Writes by the library's
    own optimizer through `Variable.parameter` are undone too, but other threads see them until then.

    Args:
        variables: variables as for `transaction`. Writes to variables that are not listed are undone as well.

    Returns:
        A context manager, which gives the `Snapshot` of the variables before the block. It can be entered again once
        the block has ended.

    >>> import statevar as sv
    >>> v = sv.Variable([1.0, 2.0])
    >>> with sv.rollback(v):
    ...     v *= 10
    ...     print(v.value)
    [10. 20.]
    >>> v.value
    array([1., 2.], dtype=float32)
    """
    return _rollback(Targets("rollback", variables), variables)


@enterable_again("rollback")
def _rollback(targets: Targets, given: Sequence[Any]) -> Iterator[Snapshot]:
    found = targets.variables
    with Transaction(found, targets.path) as transaction:
        before = _snapshot(targets)
        versions = [variable.version for variable in found]
        try:
            yield before
        finally:
            transaction._drop()
            changed = [
                i
                for i, variable in enumerate(found)
                if variable._backend.misses_writes or variable.version != versions[i]
            ]
            _restore(transaction, before, changed)
            if targets.entered:  # only other libraries make state late
                known = set(found)
                for target in given:
                    forget(target, known)
