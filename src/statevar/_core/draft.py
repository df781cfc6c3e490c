"""`Draft`: what the owner of a hold reads and writes in place of a variable; and the commit of several drafts."""

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
#: The handle of a draft that is a value: only asked whether there is one.
_VALUE: Final = object()


def _of_origin(name: str) -> Any:
    return property(attrgetter(f"_origin.{name}"))


class Draft(Cell):
    """A cell that has a value of its own, and asks its variable for the rest.

    There is one for each variable that a transaction writes, and copying ten slots more took longer than the write.
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
        """Takes on another handle."""
        self._handle = handle
        self._snapshot = handle.published
        self._shape = shape

    def _restore(self, value: Any, declared: DeclaredShape) -> None:
        """Takes on a snapshot of its variable, taken at any time, or no value."""
        backend = self._backend
        if value is None:
            self._handle = self._snapshot = self._shape = None
        elif self._handle is None:
            x = backend.operand(value, self._dtype)
            self._declared = declared
            self._create(x, backend.shape(x))
        else:
            self._take_on(backend.fork(self._handle, value), backend.shape(value))
        self._declared = declared
        self._version += 1

    def _give(self, host: HostArray | None) -> None:
        """Takes on a host array of its dtype that is given up to it, or no value."""
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
        """Takes on the parts of a `State` whose value no handle has: for a draft that is a value."""
        self._snapshot = value
        self._handle = None if value is None else _VALUE
        self._shape = shape
        self._declared = declared
        self._version = version


_Draft = TypeVar("_Draft", bound=Draft)


def draft_of(cell: Cell, hold: Hold, lock: Any) -> Draft:
    """A draft of a cell to read, for the owner of a hold. `fork` makes one to write."""
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
    """A draft to read, whatever other threads write: value and version belong together."""
    with cell._lock:
        value = None if cell._handle is None else cell._stored()  # first: it may bring the version up to date
        draft = draft_of(cell, hold, hold.lock)
        draft._snapshot = value
        return draft


def fork(cell: Cell, hold: Overlay) -> Draft:
    """A draft to write."""
    draft: Draft = _new(Draft)  # `draft_of`, written out: a transaction makes one for each first write
    draft._origin = cell
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
    """A draft of a class whose drafts are values; it has none yet."""
    draft = _new(cls)
    draft._origin = cell
    draft._holder = draft._handle = draft._snapshot = draft._shape = None
    draft._lock = overlay.lock
    draft._declared = declared
    draft._version = version
    return draft


# -- the commit --------------------------------------------------------------------------------------------


def commit(drafts: Mapping[Any, Draft], check: Callable[[], None] | None = None) -> None:
    """Makes each variable what its draft is. The caller holds the variables.

    No reader sees some of them new and then another one old: first every snapshot is hidden, so that readers come
    for the lock, then all values and versions change, and only then the first snapshot is published.

    Args:
        check: called when nobody can read any more; what it raises leaves everything as it was.
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
    """The part of `commit` under the locks: first all that can fail, then all that cannot."""
    before: list[tuple[Cell, tuple[Any, State]]] = []
    for cell in cells:
        cell._snapshot = None
    try:
        if check is not None:
            check()
        several = len(cells) > 1
        for cell in cells:
            if not cell._backend.adopt_cannot_fail:
                if several:
                    before.append((cell, cell._savepoint()))
                cell._adopt(drafts[cell])
    except BaseException:
        with ExitStack() as undo:  # puts each back, even if another one cannot be
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
        except BaseException as error:  # noqa: BLE001  # Ctrl-C: there is no way back, and the way on can be gone again
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
