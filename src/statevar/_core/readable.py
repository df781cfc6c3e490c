"""`Readable`: what a variable keeps in memory, and every way to read it.

A read takes no lock while a snapshot is published. Else it takes the lock, asks the library, and publishes what it got;
that is all that this file changes of a variable.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from .._arrays.backend import Backend
from .._arrays.shapes import DeclaredShape, Shape, is_static
from .._arrays.slot_backend import SlotHandle
from .._arrays.stored import Stored
from .._arrays.tracing import Tracing
from .._arrays.types import Array
from ..errors import ComputationError, DTypeError, ReplicaError, UninitializedError
from . import overlays
from .elsewhere import refuses
from .holds import IN_PROGRAMS, Hold
from .lost import destroyed, missing
from .watchers import Watchers
from .writes import Write

__all__ = ["Aggregation", "Readable", "State", "traced_value"]

Aggregation = Literal["none", "mean", "sum", "only_first_replica"]


class State:
    """The state of a cell at one moment.

    Args:
        value: an array that no later write changes; None if there was no value.
        shape: the shape of the value; None if there was no value.
        declared: the declared shape.
        version: the number of writes up to that moment.
    """

    # No named tuple, which would take 0.4 ms of every import.
    __slots__ = ("declared", "shape", "value", "version")

    def __init__(self, value: Any, shape: Shape | None, declared: DeclaredShape, version: int) -> None:
        self.value = value
        self.shape = shape
        self.declared = declared
        self.version = version


class Readable:
    """The handle of a variable and the facts known about it."""

    __slots__ = (
        "__weakref__",
        "_aggregation",
        "_autocast",
        "_backend",
        "_constraint",
        "_declared",
        "_device",
        "_dtype",
        "_dtype_name",
        "_guard",
        "_handle",
        "_holder",
        "_lock",
        "_name",
        "_path",
        "_shape",
        "_snapshot",
        "_trainable",
        "_version",
        "_watchers",
        "_writes",
    )

    #: Whether each write replaces the value, so that there is no handle.
    _is_value: ClassVar[bool] = False

    _aggregation: Aggregation
    _autocast: bool
    _backend: Backend
    _constraint: Callable[[Any], Any] | None
    _declared: DeclaredShape
    _device: Any
    _dtype: Any
    _dtype_name: str
    _guard: Tracing | None
    _handle: Any
    _holder: Hold | None
    _lock: Any
    _name: str
    _path: str
    _shape: Shape | None
    _snapshot: Any
    _trainable: bool
    _version: int
    _watchers: Watchers | None
    _writes: dict[str, Write]

    # -- reading ---------------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """The shape of the value. A variable without a value has its declared shape.

        Raises:
            UninitializedError: there is no value, and the declared shape is open.
        """
        current = self if not overlays.active else self._current()
        if current._backend.drifts and current._handle is not None:
            current._observe("shape", writing=False)
        shape = current._shape
        if shape is not None:
            return shape
        declared = self.declared_shape
        if is_static(declared):
            return declared  # type: ignore[return-value]  # is_static says so
        raise UninitializedError.of(
            "shape",
            f"the variable has no value yet, and its declared shape {declared} is open",
            self._path,
            "assign a value first, or read declared_shape",
        )

    if not TYPE_CHECKING:
        shape = shape.setter(
            refuses("shape", "a shape changes with the value", "v.assign(v.value.reshape(…), validate_shape=False)")
        )

    @property
    def declared_shape(self) -> DeclaredShape:
        """The shape that every value must fit: ``None`` is an open axis, ``...`` is any shape."""
        return self._declared if not overlays.active else self._current()._declared

    def _observe(self, operation: str, *, writing: bool) -> None:
        """Follows, or refuses, what code outside has done to the value: one place knows what is really stored.

        Asked before a read, a write, a save and a transaction of a library that `drifts`.

        Raises:
            DTypeError: the value has another dtype now, or a write would give it one.
            DeviceError: the memory of the value is gone.
            ShapeError: the value has a shape now that does not fit the declared shape.
        """
        handle = None if self._is_value else self._handle
        stored = self._backend.stored(handle, self._dtype_name, writing)
        if stored is not None:
            self._follow(operation, stored)

    def _as_stored(self, value: Any, operation: str, path: str) -> Array:
        """A value that was read from the cell, without its gradient, as a value of the cell's dtype.

        Raises:
            DTypeError: it has another dtype. It must not be taken for no value.
        """
        found = self._backend.operand(value, self._dtype)
        if found is None:
            problem = f"the value is {self._backend.dtype_name(value)}, and the variable is {self._dtype_name}"
            raise DTypeError.of(operation, problem, path, f"assign a value of {self._dtype_name} to the variable")
        return found

    def _current(self) -> Readable:
        """The cell to read: this one, or the one that the open overlay has in its place."""
        overlay = overlays.current()
        if overlay is None and self._backend.is_sharded:
            overlay = self._around_replicas()
        current: Readable = self if overlay is None else overlay.read(self)
        return current

    def _around_replicas(self) -> overlays.Overlay | None:
        """The overlay around a call that runs this code once for each replica, each of them in a thread of its own."""
        backend: Any = self._backend
        if not backend.runs_per_replica():
            return None
        caller = backend.caller()
        if caller is not None and (opened := overlays.values_of.get(caller)):
            inner: Any = opened[-1]
            if inner is backend.overlay_around():  # of the program that is traced
                return inner  # type: ignore[no-any-return]  # any overlay, as it is kept
            problem = f"{inner.what} is around the code of the replicas, which runs in other threads"
            raise ReplicaError.of("read", problem, self._path, "use it in the code of each replica, in strategy.run")
        holder = self._holder
        return holder if isinstance(holder, overlays.Overlay) and holder.is_of(caller) else None

    def _initialized(self, operation: str) -> Any:
        """The handle of a variable that has a value.

        Raises:
            UninitializedError: the variable has no value.
        """
        if self._handle is None:
            raise missing(self, operation)
        return self._handle

    def _resource(self) -> Any:
        """The object by which the gradient functions of the library name the variable, or None."""
        if self._handle is None:
            return None
        with self._lock:
            return self._backend.resource(self._initialized("handle"))

    def _stored(self) -> Any:
        """The value in the dtype in which it is stored, even inside an `autocast` scope."""
        snapshot, backend = self._snapshot, self._backend
        if snapshot is not None:
            if backend.is_destroyed is not None and backend.is_lost(snapshot):
                raise destroyed("read", self._path)
            return snapshot
        if (tracing := backend.tracing) is not None and tracing.is_tracing():
            handle = self._initialized("read")
            if not overlays.active or overlays.current() is None:
                tracing.captured(handle)
            return traced_value(tracing, handle)
        if backend.reads_unlocked and (handle := self._handle) is not None:
            value = backend.snapshot_unlocked(handle)
            # No write was under way; or it is a shared value, of which each snapshot is what was committed last.
            if value is not None and ((self._holder is None and not IN_PROGRAMS) or backend.is_shared):
                return value
            del value  # a reference to the value would keep the write from being in place
        with self._lock:
            backend = self._backend  # which may have changed since, as the handle with it
            handle = self._initialized("read")
            if (holder := self._holder) is not None and holder.writes_here(self):
                return backend.snapshot_within_write(handle)
            if IN_PROGRAMS and id(self) in IN_PROGRAMS.get(get_ident(), ()):
                return backend.snapshot_within_write(handle)
            if backend.drifts and (stored := backend.stored(handle, self._dtype_name, False)) is not None:
                self._follow("read", stored)
                if self._handle is not handle:
                    return self._stored()
            try:
                value = backend.snapshot(handle)
            except backend.late_errors as error:
                raise ComputationError.late("read", backend.name, error, self._path) from error
            self._snapshot = handle.published
            return value

    def _state(self) -> State:
        """The present state of the cell: value, shape and version are of the same moment."""
        with self._lock:
            value, version = self._versioned()
            return State(value, self._shape, self._declared, version)

    def _versioned(self) -> tuple[Any, int]:
        """The value, or None, and its version. The caller has the lock."""
        if self._backend.is_shared:
            backend: Any = self._backend
            return backend.read_versioned(self._handle)  # type: ignore[no-any-return]  # of a SharedBackend
        value = None if self._handle is None else self._stored()  # first, since it may update the version
        return value, self._version

    def _shared_version(self) -> int:
        """The version of a shared variable, which counts the writes of all processes."""
        return self._handle.record.version  # type: ignore[no-any-return]  # of a SharedHandle

    if TYPE_CHECKING:  # `Cell` has it, since it writes

        def _follow(self, operation: str, stored: Stored) -> None: ...


def traced_value(tracing: Tracing, handle: Any) -> Array:
    """The value of a variable in a program that is traced: of a view, what its owner has for it."""
    return handle.slot.read() if type(handle) is SlotHandle else tracing.traced_value(handle)
