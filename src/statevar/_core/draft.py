"""`Draft`: the cell that the owner of a hold reads and writes in place of a variable; and the commit of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from operator import attrgetter
from typing import Any, Final, TypeVar

from .._arrays.shapes import DeclaredShape, Shape
from .._arrays.types import HostArray
from .cell import Cell, State
from .holds import Hold, drain, releasing
from .overlays import Overlay

__all__ = ["Draft", "commit", "draft_of", "fork", "look", "value_draft"]

_new = object.__new__
_lock_of = attrgetter("_lock")
_ATTEMPTS = (None,) * 100  # Ctrl-C does not come a hundred times in a millisecond
#: The handle of a draft that is a value: a placeholder that is only compared with None.
_VALUE: Final = object()


def _of_origin(name: str) -> Any:
    return property(attrgetter(f"_origin.{name}"))


class Draft(Cell):
    """A cell with a value of its own that takes everything else from its variable.

    A transaction makes one for each variable it writes, and copying ten more slots took longer than the write.
    """

    __slots__ = ("_origin",)

    _origin: Cell
    _watchers = None
    _backend = _of_origin("_backend")
    _constraint = _of_origin("_constraint")
    _device = _of_origin("_device")
    _dtype = _of_origin("_dtype")
    _dtype_name = _of_origin("_dtype_name")
    _path = _of_origin("_path")
    _trainable = _of_origin("_trainable")

    def _current(self) -> Cell:
        return self

    def _take_on(self, handle: Any, shape: Shape) -> None:
        """Takes on another handle, and the shape of its value."""
        self._handle = handle
        self._snapshot = handle.published
        self._shape = shape

    def _restore(self, value: Any, declared: DeclaredShape) -> None:
        """Takes on a snapshot of its variable, of any age, or no value if it is None."""
        backend = self._backend
        if value is None:
            self._handle = self._snapshot = self._shape = None
        elif self._handle is None:
            x = self._as_stored(value, "restore", self._path)
            self._declared = declared
            self._create(x, backend.shape(x))
        else:
            self._take_on(backend.fork(self._handle, value), backend.shape(value))
        self._declared = declared
        self._version += 1

    def _give(self, host: HostArray | None) -> None:
        """Takes ownership of a host array of its dtype; None leaves it without a value."""
        if host is None:
            self._restore(None, self._declared)
            return
        backend, handle = self._backend, self._handle
        if handle is None:
            self._create(backend.from_host(host, self._device), host.shape)
        else:
            self._take_on(backend.fork_from_host(handle, host), host.shape)
        self._version += 1

    def _become(self, value: Any, shape: Shape | None, declared: DeclaredShape, version: int) -> None:
        """Takes on the fields of a `State` without making a handle: for a draft that is a value."""
        self._snapshot = value
        self._handle = None if value is None else _VALUE
        self._shape = shape
        self._declared = declared
        self._version = version


_Draft = TypeVar("_Draft", bound=Draft)


def draft_of(cell: Cell, hold: Hold, lock: Any) -> Draft:
    """Makes a draft that the owner of a hold can read; `fork` makes one that it can write."""
    draft: Draft = _new(Draft)
    draft._origin = cell
    draft._handle = cell._handle
    draft._snapshot = cell._snapshot
    draft._shape = cell._shape
    draft._declared = cell._declared
    draft._version = cell._version
    draft._holder = hold
    draft._lock = lock
    return draft


def look(cell: Cell, hold: Overlay) -> Draft:
    """Makes a draft to read while other threads may write: its value and its version are of the same moment."""
    with cell._lock:
        value = None if cell._handle is None else cell._stored()  # first, since it may update the version
        draft = draft_of(cell, hold, hold.lock)
        draft._snapshot = value
        return draft


def fork(cell: Cell, hold: Overlay) -> Draft:
    """Makes a draft that the owner of a hold can write."""
    if cell._backend.drifts:
        cell._observe("transaction", writing=True)
    draft: Draft = _new(Draft)  # `draft_of` inlined for speed: a transaction makes one for each variable it writes
    draft._origin = cell if type(cell) is not Draft else cell._origin  # so that the draft of an outer level can die
    draft._shape = cell._shape
    draft._declared = cell._declared
    draft._version = cell._version
    draft._holder = hold
    draft._lock = hold.lock
    if (handle := cell._handle) is None:
        draft._handle = draft._snapshot = None
        return draft
    if (snapshot := cell._snapshot) is not None:
        draft._handle = handle = cell._backend.fork(handle, snapshot)
    else:
        with cell._lock:
            draft._handle = handle = cell._backend.fork(handle, cell._snapshot)
    draft._snapshot = handle.published
    return draft


def value_draft(cls: type[_Draft], cell: Cell, overlay: Overlay, declared: DeclaredShape, version: int) -> _Draft:
    """Makes a draft of a class whose drafts are values; it has no value yet."""
    draft = _new(cls)
    draft._origin = cell
    draft._holder = draft._handle = draft._snapshot = draft._shape = None
    draft._lock = overlay.lock
    draft._declared = declared
    draft._version = version
    return draft


# -- the commit --------------------------------------------------------------------------------------------


def commit(drafts: Mapping[Any, Draft], check: Callable[[], None] | None = None) -> None:
    """Gives each variable the value, shape and version of its draft. The caller holds the variables.

    No reader sees one variable new and then another one old: first every snapshot is hidden, so that readers must
    wait for the lock, then all values and versions change, and only then the first snapshot is published.

    Args:
        check: called while no thread can read the variables; if it raises, nothing has changed.
    """
    cells: list[Cell] = sorted(drafts, key=id)
    release = releasing(map(_lock_of, cells))
    try:
        for cell in cells:
            cell._lock.acquire()
        _exchange(cells, drafts, check)
    finally:
        drain(release)


def _exchange(cells: list[Cell], drafts: Mapping[Any, Draft], check: Callable[[], None] | None) -> None:
    """Does the part of `commit` under the locks: first the steps that can fail, then those that cannot."""
    before: list[tuple[Cell, tuple[Any, State]]] = []
    for cell in cells:
        cell._snapshot = None
    try:
        if check is not None:
            check()
        several = len(cells) > 1
        for cell in cells:
            if cell._backend.adopt_cannot_fail:
                cell._prepare(drafts[cell])
                continue
            if several:
                before.append((cell, cell._savepoint()))
            cell._adopt(drafts[cell])
    except BaseException:
        with ExitStack() as undo:  # puts each variable back even if that fails for another
            undo.callback(_publish, cells)
            for cell, savepoint in before:
                undo.callback(cell._put_back, savepoint)
        raise
    # No call stands between the try above and the one below: Ctrl-C comes where one begins.
    interrupt: BaseException | None = None
    for _ in _ATTEMPTS:
        try:
            for cell in cells:
                if cell._backend.adopt_cannot_fail:
                    cell._adopt(drafts[cell])
                if (handle := cell._handle) is not None:
                    cell._snapshot = handle.published
            break
        except BaseException as error:  # noqa: BLE001  # Ctrl-C: it is too late to undo, and the loop can be repeated
            interrupt = error
    for cell in cells:
        if cell._watchers is not None:
            cell._watchers.record(cell._version)
    if interrupt is not None:
        raise interrupt


def _publish(cells: list[Cell]) -> None:
    for cell in cells:
        handle = cell._handle
        cell._snapshot = None if handle is None else handle.published
