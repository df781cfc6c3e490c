"""`Cell`: the only code that writes a variable.

Only this file and `draft` change a handle, a shape or a version. `readable`, from which it derives, publishes the
snapshot of a read, and `held` says who may write. Every other file calls a method or a function of these, and a test
checks that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from threading import RLock
from typing import TYPE_CHECKING, Any, Self
from weakref import ref

from .._arrays.backend import Backend
from .._arrays.dtypes import KEYS, is_differentiable, keys_are_no_numbers
from .._arrays.first_values import FirstValue
from .._arrays.indexing import Selection
from .._arrays.registry import owner_of
from .._arrays.shapes import DeclaredShape, Shape, fits
from .._arrays.stored import Stored
from .._arrays.tracing import Tracing
from .._arrays.types import Array
from ..errors import (
    ConflictError,
    DTypeError,
    ReplicaError,
    ShapeError,
    StatevarError,
    TraceError,
)
from . import overlays, placement, settings, sharing
from .convert import to_first, to_operand, to_value, unwrapped
from .foreign import check_readable
from .held import Held
from .holds import BUSY, Hold
from .lost import destroyed, forget, lose
from .merging import for_replicas
from .operators import has_traced, unwrapped_index
from .readable import State, traced_value
from .traced import check_no_trace, refused_by_transform, traced_write
from .writes import ASSIGN, KEPT, REDECLARE, Write, writes_of

__all__ = ["Cell", "count_writes"]


class Cell(Held):
    """Every way to write a variable."""

    __slots__ = ()

    def __init__(
        self,
        backend: Backend,
        dtype: str,
        value: Any,
        declared: DeclaredShape | None,
        *,
        device: Any,
        trainable: bool,
        constraint: Callable[[Any], Any] | None,
        path: str,
        fresh: bool = False,
    ) -> None:
        """Makes a cell with a first value. A cell without one (None) has a declared shape.

        Args:
            fresh: nobody else has the value, so that the cell can take its memory.
        """
        self._backend = backend
        self._dtype_name = dtype
        try:
            self._dtype = backend.dtype(dtype)
        except Exception:  # of any library, which perhaps does not know the name
            if dtype in KEYS:
                raise keys_are_no_numbers("Variable", dtype, path) from None
            raise
        self._writes = writes_of(dtype)
        self._device = None if device is None else placement.chosen(backend, device, dtype, "Variable", path)
        self._path = path
        self._trainable = trainable and is_differentiable(dtype)
        self._constraint = constraint
        tracing = backend.tracing
        self._guard = tracing if tracing is not None and tracing.guards_reads else None
        self._lock = RLock()
        self._holder = None
        self._watchers = None
        self._snapshot = self._handle = self._shape = None
        self._version = 0
        if value is None:
            assert declared is not None, "a variable without a value has a declared shape"
            self._declared = declared
            return
        overlay = overlays.current() if overlays.active else None
        x, first, traced = None, None, False
        if fresh:
            first = to_first(value, backend, dtype, operation="Variable", path=path)
        if first is None:
            traced = overlay is not None and overlay.holds_values and backend.is_symbolic(unwrapped(value))
            if traced:
                x = to_value(value, backend, dtype, operation="Variable", path=path)
            else:
                x = to_operand(value, backend, dtype, operation="Variable", path=path, device=self._device)
        shape = backend.shape(x) if first is None else first.shape
        if declared is not None and not fits(shape, declared):
            problem = f"the initial value has shape {shape}, which does not fit the declared shape {declared}"
            raise ShapeError.of("Variable", problem, path)
        self._declared = shape if declared is None else declared
        if not traced:
            self._create(x, shape, first)
        if overlay is not None:
            overlay.on_create(self, x if traced else None)

    def _over(self, backend: Backend, handle: Any, array: Array, *, trainable: bool, path: str) -> None:
        """Makes a cell over a handle whose memory other code has, in place of ``__init__``.

        Args:
            array: the present value.
        """
        self._backend = backend
        self._dtype_name = backend.dtype_name(array)
        self._dtype = backend.dtype(self._dtype_name)
        self._writes = writes_of(self._dtype_name)
        self._device = self._constraint = self._holder = self._watchers = self._snapshot = None
        self._path = path
        self._trainable = trainable and is_differentiable(self._dtype_name)
        tracing = backend.tracing
        self._guard = tracing if tracing is not None and tracing.guards_reads else None
        self._lock = RLock()
        self._handle = handle
        self._shape = self._declared = backend.shape(array)
        self._version = 0

    @property
    def _sharding(self) -> Any:
        """How the value is spread, of a cell whose backend spreads values. The owner of a view may change it."""
        return self._backend.device_of_handle(self._handle) if self._backend.is_view else self._device

    if TYPE_CHECKING:

        def _current(self) -> Cell: ...

    # -- what code outside has done ----------------------------------------------------------------------

    def _follow(self, operation: str, stored: Stored) -> None:
        """Does what `_observe` says with what is really stored."""
        if stored.move is not None:
            self._follow_move()
            return
        if stored.problem:
            raise stored.error.of(operation, stored.problem, self._path, stored.hint)
        if stored.dtype != self._dtype_name:
            problem = f"code outside has changed the value to {stored.dtype}, and the variable is {self._dtype_name}"
            raise DTypeError.of(operation, problem, self._path, stored.hint)
        if stored.shape == self._shape:
            return
        if not fits(stored.shape, self._declared):
            problem = (
                f"code outside has changed the shape to {stored.shape}, and the declared shape is {self._declared}"
            )
            raise ShapeError.of(operation, problem, self._path, stored.hint)
        with self._lock:
            self._shape = stored.shape

    def _follow_move(self) -> None:
        """Takes on the object that code outside has put in the place of the variable's own, in a module, say."""
        with self._lock:
            handle = self._handle
            stored = None if handle is None else self._backend.stored(handle, self._dtype_name, False)
            if stored is None or stored.move is None:  # another thread was faster
                return
            backend, device, handle, thing = stored.move()
            self._placed(backend, device, handle)
            self._gave(thing)
        settings.changed()

    def _gave(self, thing: Any) -> None:
        """Takes note that user code has an object of the library that is now the variable's own."""

    # -- writing ---------------------------------------------------------------------------------------

    def _write(
        self, write: Write, value: Any, index: Any = None, locking: bool = True, hold: Hold | None = None
    ) -> Self:
        """Changes the variable; nothing else does. Converts, locks, checks, hides the snapshot, writes, publishes.

        Args:
            write: the kind of write.
            value: the operand, of any type.
            index: the index, for a write at an index.
            locking: False computes the new value without the lock and then replaces the handle.
            hold: the hold of a caller who holds the variable already and has applied its constraint.
        """
        cell: Cell = self  # or, in a transaction, its draft
        overlay: overlays.Overlay | None = None
        if hold is None and overlays.active and (overlay := overlays.current()) is not None and overlay.holds_values:
            overlay.write(self)._write(write, value, index)
            return self
        backend = self._backend
        if hold is None and (elsewhere := backend.traced_elsewhere) is not None and elsewhere():
            raise traced_write(self, write.operation)
        traced = False
        if hold is None and (tracing := backend.tracing) is not None:  # NumPy has none of what follows
            traced = tracing.is_tracing()
            if (
                backend.drifts
                and not traced
                and (stored := backend.stored(self._handle, self._dtype_name, True)) is not None
            ):
                self._follow(write.operation, stored)
                if self._backend is not backend:
                    return self._write(write, value, index, locking, hold)
        x = backend.operand(value, self._dtype)
        if x is None:
            x = to_operand(value, backend, self._dtype_name, operation=write.operation, path=self._path, cell=self)
        if hold is None:
            if traced:
                assert tracing is not None
                return self._write_traced(tracing, write, x, index)
            if self._constraint is not None:
                self._write_constrained(write, x, index)
                return self
            if overlay is None and sharing.active and backend.is_shared:
                self._write_shared(write, x, index)
                return self
            if overlay is not None:
                if write.is_whole and overlay.write_apart(self, write, x):
                    return self
                cell, hold = overlay.write(self), overlay
            elif not locking and self._handle is not None:
                return self._write_unlocked(write, x, index)
        with cell._lock:
            if cell._holder is not hold:
                cell._wait_for_holder(write.operation)
            if self._backend is not backend:  # the variable has moved meanwhile
                backend = self._backend
                x = to_operand(value, backend, self._dtype_name, operation=write.operation, path=self._path)
            cell._holder = BUSY
            try:
                handle = cell._handle
                if handle is None:
                    cell._first_write(write, x, value)
                else:
                    check, op = write.check, write.op  # calling write.check(…) itself would take 40 ns longer
                    where = check(cell, write.operation, x, index)
                    if (name := write.verb) is None:
                        x = cell._computed(write, backend.snapshot(handle), x, where)
                        verb = backend.assign
                    else:
                        verb = getattr(backend, name)
                    cell._snapshot = None  # no new reader can get it now; the verb counts the readers that have it
                    try:
                        handle = verb(handle, x, op, where)
                        if where is not None and type(where) is tuple:  # a shape
                            cell._shape = where
                            cell._declared = where if not fits(where, cell._declared) else cell._declared
                        cell._version += 1  # before it is published: `snapshot` compares versions without the lock
                    except BaseException as error:
                        if not isinstance(error, Exception):  # Ctrl-C, perhaps right after the value was written
                            cell._version += 1
                        raise
                    finally:
                        cell._handle = handle
                        cell._snapshot = handle.published
                if (watchers := cell._watchers) is not None:
                    watchers.record(cell._version)
            except Exception as error:
                cell._explain(write, x, error)
                raise
            finally:
                cell._holder = hold
        if watchers is not None and hold is None:
            watchers.deliver(cell)
        return self

    def _write_constrained(self, write: Write, x: Array, index: Any) -> None:
        # Not in `_write`, where every name that the lambda closes over would be slower to reach (0.15 us in all).
        self._while_held(write.operation, "a write", lambda target, hold: target._write_held(write, x, hold, index))

    def _write_shared(self, write: Write, x: Array, index: Any) -> None:
        """Writes a shared variable: at once if no other process holds it, else with a hold, while readers go on."""
        with self._lock:
            backend, handle = self._backend, self._handle
            record = handle.record
            claim = None
            if self._holder is None:
                self._holder = BUSY  # before the claim: a signal handler that writes it would take the claim over
                try:
                    if (claim := record.claim_if_free()) is not None:
                        handle.claim = ref(claim)
                        self._catch_up()
                        check, name, op = write.check, write.verb, write.op
                        where = check(self, write.operation, x, index)
                        if name is None:
                            x = self._computed(write, backend.snapshot(handle), x, where)
                            backend.assign(handle, x, op)
                        else:
                            getattr(backend, name)(handle, x, op, where)
                        self._version += 1
                        if (watchers := self._watchers) is not None:
                            watchers.record(self._version)
                except Exception as error:
                    self._explain(write, x, error)
                    raise
                finally:
                    self._holder = None
                    if claim is not None:
                        claim.release()
        if claim is None:
            self._write_constrained(write, x, index)
        elif watchers is not None:
            watchers.deliver(self)

    def _explain(self, write: Write, x: Array, error: Exception) -> None:
        """Raises an error that says more than that of a write which has failed, if there is one."""
        backend, path = self._backend, self._path
        gone = backend.is_destroyed
        if gone is not None and (handle := self._handle) is not None and backend.is_lost(handle.published):
            raise destroyed(write.operation, path) from error
        if not backend.is_host:
            check_readable(x, owner_of(x), write.operation, path, backend)  # it may say more
        refused = refused_by_transform(self, write.operation, x)
        if refused is not None and (isinstance(error, TraceError) or not isinstance(error, StatevarError)):
            raise refused from error

    def _write_held(self, write: Write, value: Any, hold: Hold, index: Any = None) -> None:
        """Writes for the owner of a hold. Runs the constraint without the lock, since it is the user's code."""
        if self._constraint is not None:
            x = to_operand(value, self._backend, self._dtype_name, operation=write.operation, path=self._path)
            old = None
            if self._handle is not None:
                old = self._stored()
            elif not write.first:
                self._initialized(write.operation)
            value = self._computed(write, old, x, write.check(self, write.operation, x, index))
            del old  # a reference to the old value would keep the write from being in place
            write, index = (_redeclare if write.verb == "redeclare" else _assign)(write.operation), None
        self._write(write, value, index, True, hold)

    def _keep_value(self, value: Array, operation: str, hold: Hold) -> None:
        """Stores a value of any shape that the owner of a hold has computed and constrained."""
        self._write(_kept(operation), value, None, True, hold)

    def _write_unlocked(self, write: Write, x: Array, index: Any) -> Self:
        """Computes the new value without the lock, then replaces the handle.

        It may overwrite the whole write of another thread, but never mixes two. It cannot write in place: two writers
        would write to the same buffer, which may be a reader's snapshot or, on JAX, donated.
        """
        backend = self._backend
        if not backend.is_host:
            check_readable(x, owner_of(x), write.operation, self._path, backend)
        check = write.check
        where = check(self, write.operation, x, index)
        x = self._computed(write, self._stored(), x, where)
        shape = backend.shape(x)
        declared = self._declared if fits(shape, self._declared) else shape
        if not backend.replaceable:  # the user may have the parameter, so it must stay the same object: use the lock
            return self._write(_redeclare(write.operation), x)
        home = None if backend.is_host else backend.device_of_handle(self._handle)
        if backend.is_host and write.op is not None and x.flags.c_contiguous and x.flags.owndata:
            handle = backend.fork_from_host(self._handle, x)  # it was computed here, so nobody else has it
        else:
            device = self._device
            if home is not None and backend.device_of(x) != home:
                device = home  # as every write stays on the device of the variable
            handle = backend.create(x, declared=declared, device=device, trainable=self._trainable)
        with self._lock:  # for a moment, so that no write goes uncounted
            holder = self._holder
            if holder is not None and (holder is BUSY or holder.lends or holder.moves):
                self._wait_for_holder(write.operation)
            moved = self._backend is not backend
            if placement.several and not moved and home is not None:
                moved = backend.device_of_handle(self._initialized(write.operation)) != home
            if not moved:
                self._handle = handle
                self._snapshot = None  # the next reader publishes it
                self._shape, self._declared = shape, declared
                self._version += 1
                if self._watchers is not None:
                    self._watchers.record(self._version)
        if moved:
            return self._write(_redeclare(write.operation), x)
        self._deliver()
        return self

    def _first_write(self, write: Write, x: Array, value: Any) -> None:
        if not write.first:
            self._initialized(write.operation)
        backend = self._backend
        if not backend.is_host and owner_of(unwrapped(value)) is not backend.native:  # then it was made anywhere
            x = backend.from_host(backend.packed(x), self._device)
        shape = write.check(self, write.operation, x, None)
        if not fits(shape, self._declared):
            self._declared = shape
        self._create(x, shape)
        self._version += 1

    def _write_traced(self, tracing: Tracing, write: Write, x: Array, index: Any) -> Self:
        """Writes as a step of the program that is being traced, without lock, snapshot or version."""
        backend = self._backend
        if not tracing.writes_when_traced:
            raise traced_write(self, write.operation)
        merges = backend.is_sharded and backend.runs_per_replica()  # type: ignore[attr-defined]  # of a ShardedBackend
        if overlays.active and overlays.current() is not None:
            if merges:
                problem = "a transaction in code that runs once for each replica would be another one in each of them"
                raise ReplicaError.of(write.operation, problem, self._path, "open it around strategy.run")
            raise TraceError.of(
                write.operation,
                "a compiled function would write past the transaction, which could not undo the write",
                self._path,
                "call the compiled function before or after the transaction",
            )
        if merges and self._aggregation != "none":
            self._write_merged(write, x, index)
            return self
        handle = self._initialized(write.operation)
        tracing.captured(handle)
        if write.verb == "put" and has_traced(backend, index):
            x = tracing.put_symbolic(traced_value(tracing, handle), x, str(write.op), unwrapped_index(index))
            return self._write_traced(tracing, ASSIGN.of(write.operation), x, None)
        if write.verb == "assign" and write.op is None and tracing.may_fit(x, self._declared):
            where = None  # only the program knows the shape, and the library checks it when the program runs
        else:
            where = write.check(self, write.operation, x, index)
        verb, op = write.verb, write.op
        if verb is None or self._constraint is not None:
            x = self._computed(write, traced_value(tracing, handle), x, where)
            verb, op = "assign", op if self._constraint is None else None
        self._handle = backend.write_traced(handle, verb, x, op, where)
        return self

    def _write_merged(self, write: Write, x: Array, index: Any) -> None:
        """Writes in code that runs once for each replica: once, with what all their operands give."""
        write, x, index = for_replicas(self, write, x, index)
        handle = self._initialized(write.operation)
        merged: Any = self._backend.merged  # type: ignore[attr-defined]  # of a ShardedBackend
        merged(x, index, self._aggregation, handle, lambda x, index: self._write(write, x, index))

    def _computed(self, write: Write, old: Any, x: Array, where: Any) -> Array:
        """The value to assign: the result of the operation, constrained, checked against dtype and shape."""
        backend, op = self._backend, write.op
        shape = backend.shape(x) if op is None else self._shape
        new = x
        if old is not None and (cut := backend.operand(old, self._dtype)) is not None:
            old = cut  # without its gradient, since a stored value has none
        if isinstance(where, Selection):
            new = backend.compute_put(old, x, op, where)
        elif op is not None:
            new = backend.compute(old, x, op)
        if self._constraint is not None:
            new = self._constraint(new)
        new = to_operand(new, backend, self._dtype_name, operation=write.operation, path=self._path)
        if backend.shape(new) != shape:
            raise ShapeError.of(
                write.operation, f"expected a result of shape {shape}, got {backend.shape(new)}", self._path
            )
        return new

    def _create(self, x: Array, shape: Shape, first: FirstValue | None = None) -> None:
        """Makes a handle that stores an operand, or a first value in its place, and takes it as the cell's own."""
        self._handle = handle = self._made(self._backend, self._device, x, first)
        self._snapshot = handle.published
        self._shape = shape
        self._tell_place(handle)
        forget(self)

    def _tell_place(self, handle: Any) -> None:
        """Tells `placement` where the first value of the cell is."""
        backend = self._backend
        if not (placement.several or backend.is_host or backend.is_sharded):
            placement.met(backend, backend.device_of_handle(handle))
        if placement.logged and self._path:
            placement.say_made(self)

    def _made(self, backend: Backend, device: Any, x: Array, first: FirstValue | None) -> Any:
        """A handle that stores an operand or a first value, of any adapter of the library, on any device."""
        declared, trainable = self._declared, self._trainable
        if first is None:
            handle = backend.create(x, declared=declared, device=device, trainable=trainable)
        else:
            handle = backend.create_from(first, declared=declared, device=device, trainable=trainable)
        if (spread := backend.spread_handle(handle)) is not None:
            raise spread.refused("Variable", self._path)
        return handle

    def _check_movable(self, operation: str) -> None:
        """Raises an error where a variable cannot move.

        Raises:
            ConflictError: in a transaction, which could not undo it.
            TraceError: in a transform of ours, or while code is traced.
        """
        overlay = overlays.current() if overlays.active else None
        if overlay is not None and not overlay.holds_values:
            problem = "a variable cannot move inside of a transaction, which could not undo it"
            raise ConflictError.of(operation, problem, self._path, "move it before or after the block")
        tracing = self._backend.tracing
        if overlay is not None or (tracing is not None and tracing.is_tracing()):
            problem = "a variable cannot move in a transform or in traced code, which would not move it at each call"
            raise TraceError.of(operation, problem, self._path, "move it outside of the function")
        check_no_trace(self, operation)

    def _movable(self, operation: str) -> Array:
        """A snapshot of the value, without its gradient, for the owner of a hold who moves the cell."""
        if self._backend.drifts:
            self._observe(operation, writing=False)
        return self._as_stored(self._stored(), operation, self._path)

    def _bind(self, backend: Backend, handle: Any) -> None:
        """Takes on a record that processes share as the place of the value. The caller holds the cell."""
        with self._lock:
            self._snapshot = None
            self._backend, self._device, self._dtype = backend, None, backend.dtype(self._dtype_name)
            self._handle = handle
            self._shape = self._declared = handle.record.shape
            self._version = handle.record.version
            self._guard = None
            forget(self)

    def _catch_up(self) -> None:
        """Takes on the version of the record. Called by the owner of a claim, so no other process can write now."""
        self._version = version = self._handle.record.version
        if (watchers := self._watchers) is not None:
            watchers.catch_up(version)

    def _placed(self, backend: Backend, device: Any, handle: Any, shape: Shape | None = None) -> None:
        """Takes on an adapter, a device and a handle that has the same value, or none. The caller holds the cell.

        Args:
            shape: the shape of a first value.
        """
        dtype = backend.dtype(self._dtype_name)
        with self._lock:
            self._snapshot = None
            self._backend, self._device, self._dtype = backend, device, dtype
            self._handle = handle
            if shape is not None:
                self._shape = shape
                self._tell_place(handle)
                forget(self)
            tracing = backend.tracing
            self._guard = tracing if tracing is not None and tracing.guards_reads else None

    # -- steps of a commit, which has taken the lock and hidden the snapshot -----------------------------

    def _prepare(self, draft: Cell) -> bool:
        """Does what may fail of `_adopt`, for a backend whose `adopt` cannot fail; returns whether that holds here."""
        new = draft._handle
        if new is not None and (old := self._handle) is not None:
            return self._backend.prepare_adoption(old, new)
        return True

    def _adopt(self, draft: Cell) -> None:
        """Takes on the value, shape and version of a draft."""
        new = draft._handle
        if new is not None and (old := self._handle) is not None:
            new = self._backend.adopt(old, new)
        self._handle = new
        self._shape = draft._shape
        self._declared = draft._declared
        self._version = draft._version

    def _overwrite(self, result: Any) -> Any:
        """The handle for a `Backend.result_apart` of an older handle, which a write without locking has replaced."""
        backend, handle = self._backend, self._handle
        self._shape = backend.shape(result)
        if not fits(self._shape, self._declared):
            self._declared = self._shape
        return backend.adopt(handle, backend.fork_of_result(handle, result))

    def _savepoint(self) -> tuple[Any, State]:
        """The handle and the state from which `_put_back` undoes the commit if it fails at another variable."""
        handle = self._handle
        old = None if handle is None else self._backend.savepoint(handle)
        return handle, State(old, self._shape, self._declared, self._version)

    def _put_back(self, savepoint: tuple[Any, State]) -> None:
        handle, state = savepoint
        self._shape, self._declared, self._version = state.shape, state.declared, state.version
        if state.value is not None:
            handle = self._backend.adopt(handle, state.value)
        self._handle = handle

    # -- loans: a compiled program keeps the value, and gives it back to the first reader or writer ---------

    def _lend(self, handle: Any, hold: Hold, take: Callable[[], Callable[[], object]]) -> None:
        """Lends the handle to a compiled program. Called with the lock taken, while nobody holds the cell.

        Args:
            handle: the handle that the variable has meanwhile.
            take: takes the value for the program, and returns what must be called once the variable is lent.
        """
        self._holder = BUSY  # so that code in the middle of this, such as a signal handler, reads a copy
        try:
            done = take()
            self._snapshot = None
            self._handle = handle
            done()
        except BaseException:
            self._holder = None
            raise
        self._holder = hold

    def _end_loan(self, handle: Any, hold: Hold, writes: int) -> None:
        """Takes the handle back from a program that has written the variable ``writes`` times."""
        if self._handle is handle:
            self._version += writes
            if self._holder is hold:
                self._holder = None

    def _lose_value(self) -> None:
        """Leaves the cell without a value: a program was interrupted after it had destroyed the value."""
        lose(self)
        self._handle = self._snapshot = self._shape = self._holder = None


@functools.cache
def _assign(operation: str) -> Write:
    return ASSIGN.of(operation)


@functools.cache
def _redeclare(operation: str) -> Write:
    return REDECLARE.of(operation)


@functools.cache
def _kept(operation: str) -> Write:
    return REDECLARE.of(operation, KEPT)


def count_writes(cells: Iterable[Cell], shapes: Iterable[Shape] | None = None) -> bool:
    """Counts one write of each cell, which a compiled program has made under the locks of the cells.

    Args:
        shapes: the new shapes, if they may have changed; the snapshots are then removed as well.

    Returns:
        Whether any of the cells has watchers.
    """
    watched = False
    for cell in cells:
        cell._version += 1
        if (watchers := cell._watchers) is not None:
            watchers.record(cell._version)
            watched = True
    if shapes is not None:
        for cell, shape in zip(cells, shapes, strict=True):
            cell._shape = shape
            cell._snapshot = None
    return watched
