"""`Variable`: a named, mutable, thread-safe array of any library. The only writer of its handle."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from threading import RLock
from typing import Any, Self

from .._arrays.dtypes import dtype_name, is_differentiable, is_floating
from .._arrays.indexing import Selection
from .._arrays.registry import attach, default_backend, get_backend, owner_of
from .._arrays.shapes import DeclaredShape, Shape, canonical_shape, fits
from .._arrays.tracing import Tracing
from .._arrays.types import Array, HostArray, Operation
from .._public import public
from ..errors import ConflictError, ShapeError, TraceError, UninitializedError, describe
from . import scopes
from .at import At
from .cell import Holding
from .checks import Check, broadcasts, fits_declared, multiplies, redeclares, selects
from .convert import inferred_dtype, to_operand, to_value, unwrapped
from .creation import initial_value
from .description import Aggregation
from .display import variable_repr
from .edit import edit
from .forks import register
from .frozen import FrozenVariable
from .holds import BUSY, Hold, Overlay
from .operations import check_operator, closed_operators
from .watchers import Callback, Subscription, Watchers

__all__ = ["Aggregation", "Draft", "Variable"]

_AGGREGATIONS = ("none", "mean", "sum", "only_first_replica")


@public()
class Variable(Holding):
    """A named, mutable, thread-safe array that behaves the same on every array library.

    Reading takes a snapshot that no later write changes; nothing is copied for it. A write is in place when
    nobody holds the old value, happens whole or not at all, and is never lost to another thread.

    Args:
        initializer: a number or nested list; an array of any library, whose library the variable then
            follows; another variable; the name of an initializer (``"glorot_uniform"``); a callable
            ``(shape, dtype)``; or None, for a variable that has no value yet.
        shape: what the shape may be. ``None`` leaves an axis open, ``...`` leaves everything open. Needed
            for names, callables and variables without a value.
        dtype: a name, a Python type, or any library's dtype. By default an array keeps its own; Python
            numbers become float32, int32, bool or complex64.
        trainable: whether gradients are wanted. Always False for dtypes that have none.
        autocast: whether `autocast` scopes change what reads return.
        aggregation: how replicas are combined: ``"none"``, ``"mean"``, ``"sum"`` or ``"only_first_replica"``.
        name: not unique unless left out.
        backend: ``"numpy"``, ``"jax"``, ``"torch"``, ``"tensorflow"``, or a third party's. By default the
            library of the initial array, else NumPy.
        device: ``"CPU:0"``, ``"GPU:1"``, or a device of the library; by default that of the `device` scope,
            of the initial array, or of the library.
        constraint: a callable applied to the new value by every write, in the same atomic step.
        seed: for named random initializers: the same seed gives the same numbers on every backend.

    Raises:
        DTypeError: the dtype is unknown, the library cannot hold it, or the value does not fit it.
        InitializerError: the initial value cannot be made.
        RangeError: a number is out of the dtype's range.
        ShapeError: the value does not have the declared shape.

    Source: ``keras.Variable`` and ``tf.Variable``.

    >>> import statevar as sv
    >>> v = sv.Variable([[1.0, 2.0], [3.0, 4.0]], name="w")
    >>> before = v.value
    >>> v.assign_add(10.0)[0, 1]
    np.float32(12.0)
    >>> before[0, 1]
    np.float32(2.0)
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_guard",
    )

    def __init__(
        self,
        initializer: Any = None,
        shape: Any = None,
        dtype: Any = None,
        trainable: bool = True,
        autocast: bool = True,
        aggregation: Aggregation = "mean",
        name: str | None = None,
        *,
        backend: str | None = None,
        device: Any = None,
        constraint: Callable[[Any], Any] | None = None,
        seed: int | None = None,
    ) -> None:
        if aggregation not in _AGGREGATIONS:
            raise ValueError(
                describe("aggregation", f"expected one of {', '.join(_AGGREGATIONS)}, got {aggregation!r}")
            )
        if name is not None:
            scopes.check_name(name)
        declared = None if shape is None else canonical_shape(shape)
        asked = None if dtype is None else dtype_name(dtype)
        value, asked = initial_value(initializer, declared, asked, seed)
        library = get_backend(backend) if backend is not None else owner_of(value) or default_backend()
        if value is not None:
            asked = asked or inferred_dtype(value, "Variable")
        self._dtype_name: str = asked or "float32"
        self._dtype: Any = library.dtype(self._dtype_name)
        self._closed = closed_operators(self._dtype_name)
        place = scopes.current_device() if device is None else device
        self._device: Any = None if place is None else library.device(place)
        self._backend = library
        tracing = library.tracing
        self._guard = tracing if tracing is not None and tracing.guards_reads else None
        self._lock = RLock()
        self._holder: Hold | None = None
        self._watchers: Watchers | None = None
        self._snapshot: Any = None
        self._handle: Any = None
        self._version = 0
        self._autocast = bool(autocast) and is_floating(self._dtype_name)
        self._aggregation: Aggregation = aggregation
        self._trainable = bool(trainable) and is_differentiable(self._dtype_name)
        self._constraint: Callable[[Any], Any] | None = None
        self._path = "" if name is None else scopes.path_of(name)
        self.constraint = constraint
        if value is None:
            assert declared is not None
            self._declared: DeclaredShape = declared
            self._shape: Shape | None = None
        else:
            self._initialize(value, declared)
        self._name: str = scopes.unique_name("variable") if name is None else name
        self._path = scopes.path_of(self._name)
        register(self)

    def _initialize(self, value: Any, declared: DeclaredShape | None) -> None:
        backend = self._backend
        overlay: Any = scopes.overlay() if scopes.active else None
        traced = overlay is not None and overlay.pure and backend.is_symbolic(unwrapped(value))
        if traced:
            x = to_value(value, backend, self._dtype_name, operation="Variable", path=self._path)
        else:
            x = to_operand(value, backend, self._dtype_name, operation="Variable", path=self._path, device=self._device)
        shape = backend.shape(x)
        if declared is not None and not fits(shape, declared):
            raise ShapeError(
                describe(
                    "Variable",
                    f"the initial value has shape {shape}, which does not fit the declared {declared}",
                    self._path,
                )
            )
        self._declared = shape if declared is None else declared
        if not traced:
            self._shape = shape
            self._keep(backend.create(x, declared=self._declared, device=self._device, trainable=self._trainable))
        else:
            self._shape = None
        if overlay is not None:
            overlay.make(self, x if traced else None)

    # -- reading -------------------------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """A snapshot of the value, as an array of the variable's library. No later write changes it.

        Raises:
            UninitializedError: nothing was assigned yet.

        >>> import statevar as sv
        >>> v = sv.Variable([1, 2])
        >>> snapshot = v.value
        >>> v += 1
        >>> snapshot, v.value
        (array([1, 2], dtype=int32), array([2, 3], dtype=int32))
        """
        snapshot = self._snapshot
        if snapshot is None or scopes.active:
            return self._read()
        if self._guard is not None and not self._guard.may_read(None):
            raise self._frozen_read()
        return snapshot

    def _frozen_read(self) -> TraceError:
        return TraceError(
            describe(
                "read",
                f"this code is traced by {self._backend.name}, which would keep the value of now for ever",
                self._path,
                "use sv.jit, or sv.functionalize; or pass the value as an argument",
            )
        )

    def _read(self) -> Any:
        current = self._current() if scopes.active else self
        if self._guard is not None and not current._is_value and not self._guard.may_read(None):
            raise self._frozen_read()
        value = current._stored()
        if not scopes.active:
            return value
        if scopes.tapes():
            value = scopes.seen_by_tapes(self, value, scopes.values_overlay())
        cast_to = scopes.autocast_dtype() if self._autocast else None
        if cast_to is None or cast_to == self._dtype_name:
            return value
        return self._backend.cast(value, self._backend.dtype(cast_to))

    def _current(self) -> Self:
        overlay = scopes.overlay()
        current: Self = self if overlay is None else overlay.read(self)
        return current

    def _stored(self) -> Any:
        """The value in the dtype it is stored in, whatever scopes are open."""
        snapshot = self._snapshot
        if snapshot is not None:
            return snapshot
        backend = self._backend
        if (tracing := backend.tracing) is not None and tracing.is_tracing():
            return tracing.traced_value(self._initialized("read"))
        with self._lock:
            handle = self._initialized("read")
            value = backend.snapshot(handle)
            holder = self._holder
            if holder is None or not holder.writes(self):  # a finalizer may read in the middle of a write
                self._snapshot = handle.published
                if self._handle is not handle:  # an unlocked write came between
                    self._snapshot = None
            return value

    def _initialized(self, operation: str) -> Any:
        if self._handle is None:
            raise UninitializedError(
                describe(operation, "the variable has no value yet", self._path, "assign one first")
            )
        return self._handle

    def numpy(self) -> HostArray:
        """The value as a NumPy array of the caller's own, writable.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0])
        >>> v.numpy()[0] = 9.0
        >>> v.value
        array([1., 2.], dtype=float32)
        """
        return self.__array__(copy=True)

    # -- writing ---------------------------------------------------------------------------------------

    def assign(
        self, value: Any, validate_shape: bool = True, use_locking: bool = True, name: str | None = None
    ) -> Self:
        """Replaces the value.

        Args:
            value: a number, nested list, variable, or an array of any library, of the variable's shape; it
                is not broadcast. Cast if that loses neither kind nor range.
            validate_shape: False takes on the shape of ``value``, and declares it if it was not allowed.
            use_locking: False computes aside without a lock, and always copies: each write happens whole, and may
                overwrite that of another thread.
            name: taken for compatibility with ``tf.Variable.assign``, and without effect there too.

        Returns:
            The variable.

        Raises:
            DTypeError: the cast would lose the fraction, the imaginary part, or a NaN.
            RangeError: a number is out of the dtype's range.
            ShapeError: ``value`` has another shape than declared.

        Source: ``tf.Variable.assign``, ``tf.raw_ops.Assign``.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0])
        >>> v.assign([3.0, 4.0]).assign([[5.0]], validate_shape=False).shape
        (1, 1)
        """
        if not validate_shape:
            return self._write("assign", self._backend.redeclare, redeclares, value, None, None, use_locking)
        return self._write("assign", self._backend.assign, fits_declared, value, None, None, use_locking)

    def assign_add(self, value: Any, use_locking: bool = True, name: str | None = None) -> Self:
        """Adds to the value; ``value`` broadcasts into the variable's shape.

        Args and errors are those of `assign`. No update is lost between threads.

        Source: ``tf.Variable.assign_add``.

        >>> import statevar as sv
        >>> sv.Variable([1, 2]).assign_add(1).value
        array([2, 3], dtype=int32)
        """
        return self._apply("assign_add", operator.add, value, use_locking)

    def assign_sub(self, value: Any, use_locking: bool = True, name: str | None = None) -> Self:
        """Subtracts from the value; otherwise as `assign_add`.

        >>> import statevar as sv
        >>> sv.Variable([1, 2]).assign_sub(1).value
        array([0, 1], dtype=int32)
        """
        return self._apply("assign_sub", operator.sub, value, use_locking)

    def _apply(self, operation: str, op: Operation, other: Any, use_locking: bool = True) -> Self:
        if op in self._closed:
            return self._write(operation, self._backend.apply, broadcasts, other, op, None, use_locking)
        check_operator(operation, op, self._dtype_name, self._path)
        check = multiplies if op is operator.matmul else broadcasts
        return self._write(operation, None, check, other, op, None, use_locking)

    def update(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Replaces the value by ``fn(value, *args)``, in one step that no other write comes between.

        Other threads read the old value meanwhile; those that write wait.

        Args:
            fn: gets the snapshot and returns the new value; called once. It may read and write other variables.

        Returns:
            The value that was written, as `value` returned it at that moment.

        Raises:
            ConflictError: waiting for another thread would never end, since it waits for this one.
            DTypeError, RangeError, ShapeError: as `assign`, of what ``fn`` returned; nothing has changed then,
                nor has it if ``fn`` raises.
            ReentrantWriteError: ``fn`` writes the same variable.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0])
        >>> v.update(lambda a, rate: a * (1 - rate), 0.5)
        array([0.5, 1. ], dtype=float32)
        """
        backend = self._backend
        if backend.tracing is not None and backend.tracing.is_tracing():
            return self.assign(fn(self.value, *args)).value

        def body(target: Variable, hold: Hold) -> Any:
            target._initialized("update")
            new = fn(target._stored(), *args)
            target._write_held("update", backend.assign, fits_declared, new, None, None, hold)
            return target._stored()

        return self._while_held("update", "an update", body)

    def edit(self, index: Any = ...) -> AbstractContextManager[HostArray]:
        """A writable NumPy array of the value, which is stored when the ``with`` block ends.

        It is one copy of what ``index`` selects, and stored in one write; an exception drops it. Other threads read
        the old value meanwhile; those that write wait. The array is read-only once the block has ended.

        Args:
            index: edits these elements only; NumPy's indexing.

        Raises:
            IndexingError: the index selects nothing of this shape.
            ReentrantWriteError: the block writes the variable in another way, or edits it again.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 7.0, 9.0])
        >>> with v.edit() as array:
        ...     array[array > 5] = -1
        >>> v.value
        array([ 1., -1., -1.], dtype=float32)
        """
        return edit(self, index)

    def wait(self, version: int, timeout: float | None = None) -> bool:
        """Waits until the variable has reached a version.

        Args:
            version: `version` counts writes: ``v.wait(v.version + 1)`` waits for the next one.
            timeout: in seconds; None waits for ever.

        Returns:
            Whether it has; False after the timeout. What a compiled function or an optimizer of the library writes
            wakes nobody.

        Raises:
            ConflictError: the caller holds the variable, in a transaction, an update or an edit.

        >>> import statevar as sv
        >>> v = sv.Variable(0)
        >>> v.wait(1, timeout=0.01)
        False
        >>> v.assign(5).wait(1)
        True
        """
        if self.version >= version:
            return True
        holder = self._holder
        if holder is not None and holder is not BUSY and holder.is_mine():
            raise ConflictError(
                describe(
                    "wait",
                    f"this thread holds it for {holder.what}, so that nobody can write version {version}",
                    self._path,
                    "wait before or after",
                )
            )
        return self._watched().wait_for(lambda: self.version >= version, timeout)

    def subscribe(self, callback: Callback) -> Subscription:
        """Calls ``callback(variable, version)`` after every write that is committed, in order.

        It is called without a lock, in the thread that wrote or in one that wrote meanwhile. What it raises is
        logged (logger ``"statevar"``); the write is done. If it is a bound method, the subscription ends with the
        object; any other callable is kept until `Subscription.cancel`.

        >>> import statevar as sv
        >>> v = sv.Variable(0)
        >>> with v.subscribe(lambda variable, version: print(version, variable.value)):
        ...     _ = v.assign(5).assign(6)
        1 5
        2 6
        """
        if not callable(callback):
            raise TypeError(describe("subscribe", f"expected a callable, got {callback!r}", self._path))
        return self._watched().add(callback)

    def _watched(self) -> Watchers:
        with self._lock:
            if self._watchers is None:
                if self._holder is not None and self._holder.lends:
                    self._holder.give_back(self)  # what has it does not tell
                self._watchers = Watchers()
            return self._watchers

    def __setitem__(self, index: Any, value: Any) -> None:
        """Writes the elements that NumPy's indexing selects; ``value`` broadcasts to them."""
        self._put("set", index, value, "setitem")

    @property
    def at(self) -> At:
        """Writes at an index: ``v.at[i].add(x)``; also set, subtract, multiply, divide, min, max.

        An element that is selected twice is changed twice.

        Source: ``jax.numpy.ndarray.at``, ``numpy.ufunc.at``.

        >>> import statevar as sv
        >>> v = sv.Variable([0, 0, 0])
        >>> v.at[[0, 2, 2]].add(1).value
        array([1, 0, 2], dtype=int32)
        """
        return At(self)

    def _put(self, kind_: str, index: Any, value: Any, operation: str = "") -> Self:
        if kind_ != "set":
            check_operator(f"at.{kind_}", kind_, self._dtype_name, self._path)
        return self._write(operation or f"at.{kind_}", self._backend.put, selects, value, kind_, index)

    def _write(
        self,
        operation: str,
        verb: Any,
        check: Check,
        value: Any,
        op: Any,
        index: Any,
        locking: bool = True,
        hold: Hold | None = None,
    ) -> Self:
        """The only way a variable changes. Converts, locks, checks, hides the snapshot, writes, publishes.

        Args:
            operation: its name, for errors.
            verb: the backend's write verb; None to compute the new value first and then assign it.
            check: raises if x does not fit; returns the selection, the new shape, or None.
            op: the operator, or the kind of write at an index.
            hold: of the caller, who holds the variable already and has applied its constraint.
        """
        v: Variable = self  # or, in a transaction, its draft
        overlay: Overlay | None = None
        if hold is None and scopes.active and (overlay := scopes.overlay()) is not None and overlay.pure:
            overlay.write(self)._write(operation, verb, check, value, op, index)
            return self
        backend = self._backend
        x = backend.operand(value, self._dtype)
        if x is None:
            x = to_operand(value, backend, self._dtype_name, operation=operation, path=self._path)
        if hold is None:
            if (tracing := backend.tracing) is not None and tracing.is_tracing():
                return self._write_traced(tracing, operation, verb, check, x, op, index)
            if self._constraint is not None:
                self._write_constrained(operation, verb, check, x, op, index)
                return self
            if overlay is not None:
                v, hold = overlay.write(self), overlay
            elif not locking and self._handle is not None:
                return self._write_unlocked(operation, check, x, op, index)
        with v._lock:
            if v._holder is not hold:
                v._wait_for_holder(operation)
            v._holder = BUSY
            try:
                handle = v._handle
                if handle is None:
                    v._first_write(operation, check, x)
                else:
                    where = check(v, operation, x, index)
                    if verb is None:
                        x = v._computed(operation, backend.snapshot(handle), x, op, where)
                        verb = backend.assign
                    v._snapshot = None  # no new reader can take it now; those who did are counted
                    try:
                        handle = verb(handle, x, op, where)
                        if type(where) is tuple:
                            v._shape = where
                            v._declared = where if not fits(where, v._declared) else v._declared
                        v._version += 1  # before it is published: `snapshot` compares versions without the lock
                    finally:
                        v._handle = handle
                        v._snapshot = handle.published
                if (watchers := v._watchers) is not None:
                    watchers.record(v._version)
            finally:
                v._holder = hold
        if watchers is not None and hold is None:
            watchers.deliver(v)
        return self

    def _write_constrained(self, operation: str, verb: Any, check: Check, x: Any, op: Any, index: Any) -> None:
        # Not in `_write`: what a function closes over is slower to reach, also where it is not called (0.15 us).
        self._while_held(
            operation,
            "a write",
            lambda target, hold: target._write_held(operation, verb, check, x, op, index, hold),
        )

    def _write_held(self, operation: str, verb: Any, check: Check, value: Any, op: Any, index: Any, hold: Hold) -> None:
        """A write by the one who holds the variable. Runs the constraint without the lock: it is foreign code."""
        if self._constraint is not None:
            backend = self._backend
            x = to_operand(value, backend, self._dtype_name, operation=operation, path=self._path)
            old = None
            if self._handle is not None:
                old = self._stored()
            elif check not in (fits_declared, redeclares):
                self._initialized(operation)
            value = self._computed(operation, old, x, op, check(self, operation, x, index))
            del old  # or the write could not be in place
            if check is redeclares:
                verb = backend.redeclare
            else:
                verb, check = backend.assign, fits_declared
            op = index = None
        self._write(operation, verb, check, value, op, index, True, hold)

    def _write_unlocked(self, operation: str, check: Check, x: Array, op: Any, index: Any) -> Self:
        """Computes aside and swaps. A write of another thread may be overwritten, whole; none is mixed.

        In place, two writers would meet in one buffer, under a reader's snapshot; on JAX, in a donated one.
        """
        backend = self._backend
        where = check(self, operation, x, index)
        x = self._computed(operation, self._stored(), x, op, where)
        shape = backend.shape(x)
        declared = self._declared if fits(shape, self._declared) else shape
        if not backend.replaceable:  # somebody holds the parameter: it changes in a moment, under the lock
            return self._write(operation, backend.redeclare, redeclares, x, None, None)
        if backend.is_host and op is not None and x.flags.c_contiguous and x.flags.owndata:
            self._handle = backend.given(self._handle, x)  # computed here: nobody else has it
        else:
            self._handle = backend.create(x, declared=declared, device=self._device, trainable=self._trainable)
        self._snapshot = None  # the next reader publishes the handle that it then finds
        self._shape, self._declared = shape, declared
        self._version += 1
        if self._watchers is not None:
            self._watchers.record(self._version)
            self._watchers.deliver(self)
        return self

    def _first_write(self, operation: str, check: Check, x: Array) -> None:
        if check not in (fits_declared, redeclares):
            self._initialized(operation)
        shape = check(self, operation, x, None)
        if not fits(shape, self._declared):
            self._declared = shape
        backend = self._backend
        self._keep(backend.create(x, declared=self._declared, device=self._device, trainable=self._trainable))
        self._shape = shape
        self._version += 1

    def _write_traced(
        self, tracing: Tracing, operation: str, verb: Any, check: Check, x: Array, op: Any, index: Any
    ) -> Self:
        """A write that becomes part of a traced program: no lock, no snapshot, no Python counter."""
        backend = self._backend
        if not tracing.writes_when_traced:
            raise TraceError(
                describe(
                    operation,
                    "this code is being traced: the write would happen once, now, and never again",
                    self._path,
                    "return the new value from the traced function and assign it outside",
                )
            )
        if scopes.active and scopes.overlay() is not None:
            raise TraceError(
                describe(
                    operation,
                    "a compiled function writes past the transaction it is called in, and could not be undone",
                    self._path,
                    "call it before or after the transaction",
                )
            )
        handle = self._initialized(operation)
        where = check(self, operation, x, index)
        if verb is None or self._constraint is not None:
            x = self._computed(operation, tracing.traced_value(handle), x, op, where)
            verb = backend.assign
        self._handle = verb(handle, x, op, where)
        return self

    def _computed(self, operation: str, old: Any, x: Array, op: Any, where: Any) -> Array:
        """The value to assign: what the operation gives, constrained, checked against dtype and shape."""
        backend = self._backend
        shape = backend.shape(x) if op is None else self._shape
        new = x
        if old is not None and (cut := backend.operand(old, self._dtype)) is not None:
            old = cut  # from its gradient: what is stored has none
        if isinstance(where, Selection):
            new = backend.compute_put(old, x, op, where)
        elif op is not None:
            new = backend.compute(old, x, op)
        if self._constraint is not None:
            new = self._constraint(new)
        new = to_operand(new, backend, self._dtype_name, operation=operation, path=self._path)
        if backend.shape(new) != shape:
            raise ShapeError(
                describe(operation, f"expected a result of shape {shape}, got {backend.shape(new)}", self._path)
            )
        return new

    def __repr__(self) -> str:
        return variable_repr(self)


class Draft(Variable):
    """A variable that one thread reads and writes in place of another; nobody else knows it.

    It has a value of its own and asks the other one for the rest: there is one for each variable that a transaction
    writes, and copying ten slots more took longer than the write.
    """

    __slots__ = ("_origin",)

    _origin: Variable
    _watchers = None

    def _current(self) -> Self:
        return self


for _slot in ("_backend", "_constraint", "_device", "_dtype", "_dtype_name", "_path", "_trainable"):
    setattr(Draft, _slot, property(operator.attrgetter(f"_origin.{_slot}")))
Variable._drafts = Draft
# Lets `jnp.sin(v)` and `jax.jit(f)(v)` take a variable of any backend.
attach(Variable, FrozenVariable)
