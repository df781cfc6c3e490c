"""The `Backend` of shared variables, whose handles are records of a pool.

`shared_backend` makes, for any adapter, a second adapter with the same arrays, whose handles are records. The values
lie in host memory, so NumPy computes each write, for every library alike. A read gives an array of the library over the
same memory, where the library can share memory with NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary, ref

import numpy as np

from .._arrays.backend import Backend, Handle
from .._arrays.host import IN_PLACE, put_in_place
from .._arrays.registry import get_backend
from ..errors import ConflictError, DeviceError, ShapeError, UninitializedError

if TYPE_CHECKING:
    from .._arrays.first_values import FirstValue
    from .._arrays.indexing import Selection
    from .._arrays.shapes import DeclaredShape, Shape
    from .._arrays.stored import Stored
    from .._arrays.tracing import Tracing
    from .._arrays.types import Array, HostArray, Operation
    from .claims import Claim
    from .commit import Prepared
    from .record import Record

__all__ = ["SharedBackend", "SharedHandle", "shared_backend"]


class SharedHandle:
    """The handle of a shared variable. Nothing is published, since other processes may write at any time."""

    __slots__ = ("claim", "record", "seen")

    published = None
    # As a handle of torch has them, for a program that was made before the variable was shared.
    use = None
    shared = True

    def exclusive(self) -> bool:
        """Tells such a program that the variable has another handle now."""
        raise ConflictError.of("jit", "the variable is shared with other processes", self.record.path)

    def __init__(self, record: Record) -> None:
        self.record = record
        #: The claim of the last owner of the variable in this process. Weak, so that it ends with its hold.
        self.claim: ref[Claim] | None = None
        #: The version of the value that was read last, and what gives the array of the library over it, or None.
        self.seen: tuple[int, Callable[[], Any]] | None = None

    def claimed(self) -> Claim:
        """The claim with which the record can be written."""
        if self.claim is None or (claim := self.claim()) is None:
            raise ConflictError.of("write", "this process does not hold the shared variable", self.record.path)
        return claim

    def write(
        self, fill: Callable[[HostArray, HostArray], object], rows: tuple[int, int] | None = None
    ) -> SharedHandle:
        """Writes the record; see `Record.write`."""
        self.record.write(self.claimed(), fill, rows)
        return self


class _Fork:
    """A value that is written apart from its record, in memory of this process: a fork of NumPy's adapter."""

    __slots__ = ("handle", "record")

    published = None
    use = None

    def __init__(self, handle: Any, record: Record) -> None:
        self.handle = handle
        self.record = record


class SharedBackend(Backend):
    """The verbs of a handle's life for records; all else comes from the adapter that it is mixed with."""

    is_shared: ClassVar[bool] = True

    #: The adapter of the arrays that a read gives, and the one of the arrays in the pool.
    arrays: Backend
    host: Backend
    #: Where a shared value lies, as the library names the host.
    home: Any

    #: No library can have a shared variable in a program that it keeps, so none asks its own tracing.
    tracing: ClassVar[Tracing | None] = None
    replaceable: ClassVar[bool] = False
    adopt_cannot_fail: ClassVar[bool] = False
    prepares_results: ClassVar[bool] = False
    reads_unlocked: ClassVar[bool] = True
    keeps_rows: ClassVar[bool] = False
    marks_reads: ClassVar[bool] = False
    #: A variable that attaches gets another value, perhaps with an equal version.
    counts_all_writes: ClassVar[bool] = False
    misses_writes: ClassVar[bool] = False
    drifts: ClassVar[bool] = False

    if not TYPE_CHECKING:

        @property
        def traced_elsewhere(self) -> Callable[[], bool] | None:
            """A program of its own library is as far away as one of another library."""
            return self.host.traced_elsewhere

    # -- handles, in the order of `Backend`. A handle is a `SharedHandle`, the `_Fork` of a draft, or a handle of the
    # -- library for a value that somebody has made apart.

    def copied(self, array: Array) -> Array:
        return self.arrays.copied(array)

    def create(self, array: Array, *, declared: DeclaredShape, device: Any, trainable: bool) -> Handle:
        return self.arrays.create(array, declared=declared, device=device, trainable=trainable)

    def create_from(self, first: FirstValue, *, declared: DeclaredShape, device: Any, trainable: bool) -> Handle:
        return self.arrays.create_from(first, declared=declared, device=device, trainable=trainable)

    def device_of_handle(self, handle: Any) -> Any:
        return self.home if type(handle) in (SharedHandle, _Fork) else self.arrays.device_of_handle(handle)

    def snapshot(self, handle: Any) -> Array:
        if type(handle) is SharedHandle:
            return self.read_versioned(handle)[0]
        if type(handle) is _Fork:
            return self.arrays.over_host(self.host.snapshot(handle.handle), self.home)
        return self.arrays.snapshot(handle)

    def snapshot_unlocked(self, handle: Any) -> Array | None:
        return self.snapshot(handle)

    def read_versioned(self, handle: SharedHandle) -> tuple[Array, int]:
        """The value of a record and its version, which are of one moment. Later writes do not change the value."""
        record, arrays = handle.record, self.arrays
        if self.is_host:
            return record.read()
        if (seen := handle.seen) is not None and seen[0] == record.version and (found := seen[1]()) is not None:
            again = arrays.over_again(found)
            if again is not None:
                return again, seen[0]
        if arrays.has_writable_arrays:
            array, version = record.read_own()
            over = arrays.over_host(array, self.home)
            if record.is_small:  # a new one takes as long
                return over, version
        else:
            array, version = record.read()
            over = arrays.over_host(array, self.home)
        handle.seen = version, (lambda: over) if record.is_kept else ref(over)
        return over, version

    def lease(self, handles: Sequence[Handle]) -> list[Any] | None:
        return None

    def leased(self, lease: Any) -> Array:
        return lease

    def snapshot_within_write(self, handle: Any) -> Array:
        if type(handle) is SharedHandle:
            return self.snapshot(handle)  # what was committed last: no write changes the memory of it
        if type(handle) is _Fork:
            return self.arrays.over_host(self.host.snapshot_within_write(handle.handle), self.home)
        return self.arrays.snapshot_within_write(handle)

    def assign(self, handle: Any, x: Array, _op: Any = None, _where: Any = None) -> Any:
        host = self.arrays.to_host(x)
        if type(handle) is SharedHandle:
            return handle.write(lambda _, new: np.copyto(new, host))
        handle.handle = self.host.assign(handle.handle, host)
        return handle

    def apply(self, handle: Any, x: Array, op: Operation, _where: Any = None) -> Any:
        host = self.arrays.to_host(x)
        if type(handle) is SharedHandle:
            ufunc = IN_PLACE[op.__name__]
            return handle.write(lambda old, new: ufunc(old, host, out=new, casting="unsafe"))
        handle.handle = self.host.apply(handle.handle, host, op)
        return handle

    def put(self, handle: Any, x: Array, operation: str, where: Selection) -> Any:
        host = self.arrays.to_host(x)
        if type(handle) is SharedHandle:
            rows = _rows_of(where)
            return handle.write(lambda _, new: put_in_place(new, host, operation, where), rows)
        handle.handle = self.host.put(handle.handle, host, operation, where)
        return handle

    def redeclare(self, handle: Any, x: Array, _op: Any = None, _where: Any = None) -> Any:
        shape = handle.record.shape
        if self.arrays.shape(x) != shape:
            problem = f"expected shape {shape} of a shared variable, got {self.arrays.shape(x)}"
            hint = "a shared variable keeps its shape, for which its pool has the room; make another variable"
            raise ShapeError.of("assign", problem, handle.record.path, hint)
        return self.assign(handle, x, _op, _where)

    def write_all(self, handles: list[Handle], xs: list[Array], op: Operation | None, began: list[bool]) -> bool:
        return False

    def relocated(self, handle: Handle, array: Array, **_: Any) -> Handle:
        problem = "the value lies in the memory that processes share, which is on the host"
        raise DeviceError.of("to", problem, hint="make a variable of its own: sv.Variable(v, device=…)")

    def fork(self, handle: Any, array: Array | None) -> Any:
        if type(handle) is _Fork:
            host = None if array is None else self.arrays.to_host(array)
            return _Fork(self.host.fork(handle.handle, host), handle.record)
        # Not of an array that a user has: code that writes past its flags must not be in what is committed.
        host = handle.record.read_own(writable=False)[0] if array is None else self.arrays.to_host(array)
        return _Fork(self.host.fork(None, host), handle.record)  # type: ignore[arg-type]  # it forks the array

    def fork_from_host(self, handle: Any, array: HostArray) -> Any:
        return _Fork(self.host.fork_from_host(None, array), handle.record)  # type: ignore[arg-type]  # as in `fork`

    def result_apart(self, handle: Handle, x: Array, op: Operation | None) -> Array | None:
        return None

    def prepare_adoption(self, handle: Handle, other: Handle) -> bool:
        return False  # `adopt` writes, which can fail

    def adopt(self, handle: Any, other: Any) -> Any:
        if type(handle) is SharedHandle:
            array = self.host.snapshot(other.handle)
            return handle.write(lambda _, new: np.copyto(new, array))
        handle.handle = other.handle
        return handle

    def prepared(self, handle: SharedHandle, fork: Any, version: int) -> Prepared:
        """Writes the value of a fork to a slot that nobody reads; the commit of several variables makes it visible."""
        if fork is None:
            problem = "a shared variable always has a value, and the write would leave it without one"
            raise UninitializedError.of("write", problem, handle.record.path)
        inner = fork.handle
        if (log := getattr(inner, "log", None)) is not None:
            return handle.record.prepare(handle.claimed(), lambda _, new: log.write_into(new), version, log.span())
        array = self.host.snapshot(inner)
        return handle.record.prepare(handle.claimed(), lambda _, new: np.copyto(new, array), version)

    def savepoint(self, handle: Any) -> Any:
        return self.fork(handle, None)

    def get_written(self, handle: Handle, where: Selection) -> Array | None:
        return None

    def get_within(self, handle: Handle, where: Selection) -> Array | None:
        return None

    def select_rows(self, index: Any, shape: Shape) -> Selection | None:
        return None

    def takes_index(self, part: Any) -> bool:
        return False  # NumPy writes at the index

    def set_trainable(self, handle: Any, trainable: bool) -> None:
        """Nobody but the variable asks whether its gradient is wanted."""

    def parameter(self, handle: Any) -> Any:
        return None

    def resource(self, handle: Any) -> Any:
        return None

    def is_parameter(self, handle: Any, thing: Any) -> bool:
        return False

    def stored(self, handle: Any, dtype: str, writing: bool) -> Stored | None:
        return None

    def unseen_writes(self, handle: Any) -> int:
        return 0


def _rows_of(where: Selection) -> tuple[int, int]:
    """The first of the rows that a write at a selection can change, and the one after the last."""
    shape = where.of_shape
    if not shape:
        return 0, 0
    count, first = shape[0], where.index[0] if where.index else ...
    if type(first) is int:
        first += count if first < 0 else 0
        return first, first + 1
    if type(first) is slice:
        span = range(*first.indices(count))
        return (min(span[0], span[-1]), max(span[0], span[-1]) + 1) if span else (0, 0)
    if type(first) is np.ndarray and first.dtype.kind in "iu":
        if not first.size:
            return 0, 0
        low, high = int(first.min()), int(first.max())
        return (low, high + 1) if low >= 0 else (0, count) if high >= 0 else (low + count, high + count + 1)
    if type(first) is np.ndarray and first.ndim == 1:
        chosen = np.flatnonzero(first)
        return (int(chosen[0]), int(chosen[-1]) + 1) if chosen.size else (0, 0)
    return 0, count


_made: WeakKeyDictionary[Backend, SharedBackend] = WeakKeyDictionary()
_making = Lock()


def shared_backend(arrays: Backend) -> SharedBackend:
    """The adapter for records whose values another adapter reads. It is the same one at each call."""
    with _making:
        found = _made.get(arrays)
        if found is None:
            cls: Any = type(f"{type(arrays).__name__}OfRecords", (SharedBackend, type(arrays)), {})
            found = object.__new__(cls)
            found.__dict__.update({k: v for k, v in vars(arrays).items() if k != "traced_elsewhere"})  # native too
            found.arrays = arrays
            found.host = get_backend("numpy")
            found.home = arrays.device("CPU:0")
            _made[arrays] = found
    return found
