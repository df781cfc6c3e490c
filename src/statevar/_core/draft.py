"""`Draft`: the cell that the owner of a hold reads and writes in place of a variable; and the commit of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import compress
from operator import attrgetter, methodcaller
from threading import get_ident
from typing import Any, Final, TypeAlias, TypeVar

from .._arrays.backend import Backend
from .._arrays.shapes import DeclaredShape, Shape
from .._arrays.types import Array, HostArray
from . import moving, sharing
from .cell import Cell
from .holds import Hold, begin_program, drain, end_program, releasing
from .lost import forget
from .overlays import Overlay
from .readable import State
from .writes import Write

__all__ = ["Draft", "Written", "commit", "draft_of", "draft_of_written", "fork", "look", "value_draft", "write_all"]

#: What a transaction has of a variable that it has written once, in place of a draft: the handle that the variable had
#: then, and the `Backend.result_apart`.
Written: TypeAlias = tuple[Any, Any]

_new = object.__new__
_lock_of = attrgetter("_lock")
_handle_of = attrgetter("_handle")
_holder_of = attrgetter("_holder")
_shape_of = attrgetter("_shape")
_operand_shape_of = attrgetter("shape")
_try_to_take = methodcaller("acquire", False)
_release = methodcaller("release")
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
    _aggregation = _of_origin("_aggregation")
    _backend = _of_origin("_backend")
    _constraint = _of_origin("_constraint")
    _device = _of_origin("_device")
    _dtype = _of_origin("_dtype")
    _dtype_name = _of_origin("_dtype_name")
    _path = _of_origin("_path")
    _trainable = _of_origin("_trainable")

    def _current(self) -> Cell:
        return self

    def _versioned(self) -> tuple[Any, int]:
        return (None if self._handle is None else self._stored()), self._version

    def _shared_version(self) -> int:
        return self._version

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
            handle = moving.made_at_home(self, value) if moving.happened else None
            if handle is None:
                handle = backend.fork(self._handle, value)
            self._take_on(handle, backend.shape(value))
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

    def _give_pieces(self, value: Array) -> None:
        """Takes ownership of a value that is spread, of its dtype, in the sharding of its variable."""
        if self._handle is not None:
            self._restore(value, self._declared)
            return
        backend: Any = self._backend
        handle = backend.created_from_pieces(value, trainable=self._trainable)
        self._take_on(handle, backend.shape(value))
        self._tell_place(handle)
        forget(self)
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
        value, version = cell._versioned()  # first, since it may update the version
        draft = draft_of(cell, hold, hold.lock)
        draft._snapshot = value
        draft._version = version
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


def draft_of_written(cell: Cell, hold: Overlay, written: Written) -> Draft:
    """Makes a draft of a variable that was written once."""
    handle, result = written
    backend = cell._backend
    draft = draft_of(cell, hold, hold.lock)
    draft._take_on(backend.fork_of_result(handle, result), backend.shape(result))
    draft._version += 1
    return draft


# -- the commit --------------------------------------------------------------------------------------------


def commit(drafts: Mapping[Any, Draft | Written], check: Callable[[], None] | None = None) -> None:
    """Gives each variable the value, shape and version of its draft. The caller holds the variables.

    Of a variable that was written once there can be a `Written` in place of a draft.

    No reader sees one variable new and then another one old: first every snapshot is hidden, so that readers must
    wait for the lock, then all values and versions change, and only then the first snapshot is published.

    Args:
        check: called while no thread can read the variables; if it raises, nothing has changed.
    """
    if len(drafts) == 1:
        (cell,) = drafts
        with cell._lock:
            _exchange([cell], drafts, check)
        return
    cells: list[Cell] = sorted(drafts, key=id)
    release = releasing(map(_lock_of, cells))
    try:
        for cell in cells:
            cell._lock.acquire()
        _exchange(cells, drafts, check)
        for cell in cells:  # a third of the time of `drain`
            cell._lock.release()
    except BaseException:  # also Ctrl-C between two locks
        drain(release)
        raise


def _exchange(cells: list[Cell], drafts: Mapping[Any, Draft | Written], check: Callable[[], None] | None) -> None:
    """Does the part of `commit` under the locks: first the steps that can fail, then those that cannot."""
    before: list[tuple[Cell, tuple[Any, State]]] = []
    adopted: list[Cell] = []
    drafted: list[tuple[Cell, Draft]] = []
    sure: list[tuple[Cell, Draft]] = []  # the drafts whose adoption cannot fail
    written: list[tuple[Cell, Written, int]] = []  # with the new version
    asked: list[tuple[Cell, Written, int]] = []  # those of which the backend says whether storing them may fail
    shared: sharing.Commit | None = None
    interrupt: BaseException | None = None
    try:
        if sharing.active and (ours := {cell: drafts[cell] for cell in cells if cell._backend.is_shared}):
            shared = sharing.Commit(ours)
            cells = [cell for cell in cells if cell not in ours]
        for cell in cells:
            cell._snapshot = None
            if type(new := drafts[cell]) is tuple:
                (asked if cell._backend.prepares_results else written).append((cell, new, cell._version + 1))
            else:
                drafted.append((cell, new))  # type: ignore[arg-type]  # it is no tuple
        if check is not None:
            check()
        several = len(cells) > 1 or shared is not None
        for cell, draft in drafted:
            if cell._backend.adopt_cannot_fail and cell._prepare(draft):
                sure.append((cell, draft))
                continue
            if several:
                before.append((cell, cell._savepoint()))
            adopted.append(cell)
            cell._adopt(draft)
        for one in asked:
            cell, (origin, result), version = one
            if cell._handle is origin and cell._backend.prepare_adoption(origin, result):
                written.append(one)
                continue
            before.append((cell, cell._savepoint()))
            adopted.append(cell)
            cell._handle = cell._overwrite(result)
            cell._version = version
        if shared is not None:
            shared.store()
            interrupt = shared.late
    except BaseException as error:
        if shared is None or not shared.stored:
            _undo(cells, before, shared)
            raise
        interrupt = error  # Ctrl-C, when the values of shared variables were visible already
    # No call stands between the try above and the one below: Ctrl-C comes where one begins.
    for _ in _ATTEMPTS:
        try:
            if shared is not None:
                for cell, version in shared.versions.items():
                    cell._version = version
            for cell, (origin, result), version in written:
                handle = cell._backend.adopt(origin, result) if cell._handle is origin else cell._overwrite(result)
                cell._handle = handle
                cell._version = version  # before it is published, as in a write
                cell._snapshot = handle.published
            for cell, draft in sure:
                cell._adopt(draft)
                if (handle := cell._handle) is not None:
                    cell._snapshot = handle.published
            if adopted:
                _publish(adopted)
            break
        except BaseException as error:  # noqa: BLE001  # Ctrl-C: it is too late to undo, and the loop can be repeated
            interrupt = error
    for cell in cells if shared is None else drafts:
        if cell._watchers is not None:
            cell._watchers.record(cell._version)
    if interrupt is not None:
        raise interrupt


def _undo(cells: list[Cell], before: list[tuple[Cell, tuple[Any, State]]], shared: sharing.Commit | None) -> None:
    """Puts each variable back, even if that fails for another."""
    with ExitStack() as undo:
        if shared is not None:
            undo.callback(shared.abandon)
        undo.callback(_publish, cells)
        for cell, savepoint in before:
            undo.callback(cell._put_back, savepoint)


# -- many variables in one call of the library ----------------------------------------------------------------


def write_all(cells: list[Cell], write: Write, xs: list[Any]) -> bool:
    """Does one kind of write to many variables of one backend: to all of them or, on an exception, to none.

    No reader sees one variable new and then another one old, as in `commit`.

    Args:
        cells: the variables, each of them once, in code without overlays and traces.
        xs: an operand for each, of the dtype of its variable.

    Returns:
        False, with nothing changed, if they must be written in another way: one of them is held, has no value, or gets
        another shape; or the library has no such call.
    """
    me, backend = get_ident(), cells[0]._backend
    locks = list(map(_lock_of, cells))
    taken: list[bool] = []
    release = map(_release, compress(locks, taken))  # not `releasing`: code in the middle of a write has taken some
    around, marked = None, False
    handles: list[Any] = []
    versions: list[int] = []  # those from now on
    began: list[bool] = []  # whether the library has begun to write
    try:
        taken.extend(map(_try_to_take, locks))
        if not all(taken):  # waiting for one lock after the other would need an order
            return False
        handles = list(map(_handle_of, cells))
        shapes = list(map(_shape_of, cells))
        if any(map(_holder_of, cells)) or None in handles or not _fit(shapes, xs, write, backend):
            return False
        around, marked = begin_program(me, frozenset(map(id, cells))), True  # code in the middle of it reads copies
        for cell in cells:
            cell._snapshot = None
        versions = [cell._version + 1 for cell in cells]
        if not backend.write_all(handles, xs, write.op, began):
            began.clear()
            return False
    finally:
        interrupt: BaseException | None = None
        for _ in _ATTEMPTS:
            try:
                if began:  # also after an exception: it has perhaps written
                    for cell, version, handle in zip(cells, versions, handles, strict=True):
                        cell._version = version  # before it is published, as in a write
                        cell._handle = handle
                        cell._snapshot = handle.published
                if marked:
                    end_program(me, around)
                break
            except BaseException as error:  # noqa: BLE001  # of a signal: too late to undo, and this can be repeated
                interrupt = error
        drain(release)
        if interrupt is not None:
            raise interrupt
    for cell, version in zip(cells, versions, strict=True):
        if (watchers := cell._watchers) is not None:
            watchers.record(version)
            watchers.deliver(cell)
    return True


def _fit(shapes: list[Shape | None], xs: list[Any], write: Write, backend: Backend) -> bool:
    """Whether each operand has the shape of its variable, or is a scalar for an operator."""
    found = list(map(_operand_shape_of, xs))
    if not isinstance(found[0], tuple):  # TensorFlow takes 1 to 4 us to compare its own shape with a tuple
        found = list(map(backend.shape, xs))
    if found == shapes:
        return True
    return write.op is not None and all(x == () or x == shape for x, shape in zip(found, shapes, strict=True))


def _publish(cells: list[Cell]) -> None:
    for cell in cells:
        handle = cell._handle
        cell._snapshot = None if handle is None else handle.published
