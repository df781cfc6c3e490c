"""The `Backend` of views, whose handles are slots.

`slot_backend` makes, for any adapter, a second adapter with the same arrays and the same verbs, whose handles are
slots. So whatever works on variables works on views.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from ..errors import ForeignStateError, ShapeError
from .backend import Backend, Handle
from .slots import Place, Slot
from .stored import Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from .indexing import Selection
    from .types import Array, HostArray, Operation

__all__ = ["SlotBackend", "SlotHandle", "slot_backend"]


class SlotHandle:
    """The handle of a view. Nothing is published, since other code may change the value at any time."""

    __slots__ = ("seen", "slot", "unseen")

    published = None
    use = None  # as a handle of torch: no streams are known

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.seen = slot.version()  # what the library had counted after our last write
        self.unseen = 0  # the writes of other code until then

    @property
    def parameter(self) -> Any:
        """The array itself, for code of the library that is being traced."""
        return self.slot.read()

    def wrote(self) -> SlotHandle:
        """Takes note that the last write was ours."""
        if self.seen is not None and (now := self.slot.version()) is not None:
            self.seen = now
        return self

    def others(self) -> int:
        """The number of writes by other code, as far as the library counts them."""
        if self.seen is None or (now := self.slot.version()) is None:
            return self.unseen
        return self.unseen + now - self.seen


class _Fork:
    """A value that is written apart from its view. It starts with a snapshot, which the first write leaves as it is."""

    __slots__ = ("array", "handle", "origin")

    use = None

    def __init__(self, array: Any, origin: SlotHandle) -> None:
        self.array = array
        self.handle: Any = None  # a handle of the library, once it was written
        self.origin = origin

    @property
    def published(self) -> Any:
        return self.array if self.handle is None else self.handle.published

    def take(self, handle: Any) -> _Fork:
        """Takes on a written value."""
        self.handle = handle
        self.array = None
        return self


class SlotBackend(Backend):
    """The verbs of a handle's life for slots; all else comes from the adapter that it is mixed with.

    A write is `Slot.write` of a whole value that was computed apart, so it happens whole or not at all. A fork is a
    value of the library, so a transaction computes on memory of its own and writes each slot once, when it commits.
    """

    is_view: ClassVar[bool] = True

    #: The adapter of the arrays that the slots read and write, which may be one for values that are spread.
    arrays: Backend

    replaceable: ClassVar[bool] = False
    adopt_cannot_fail: ClassVar[bool] = False
    reads_unlocked: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = False
    marks_reads: ClassVar[bool] = False
    counts_all_writes: ClassVar[bool] = False
    misses_writes: ClassVar[bool] = True
    drifts: ClassVar[bool] = True

    if not TYPE_CHECKING:

        @property
        def traced_elsewhere(self) -> Callable[[], bool] | None:
            """The adapter knows it; the registry tells only the adapter."""
            return self.native.traced_elsewhere

    # -- handles, in the order of `Backend`. A handle is a `SlotHandle` of a view, or the `_Fork` of a draft. ----------

    def device_of_handle(self, handle: Any) -> Any:
        if type(handle) is SlotHandle:
            return self.arrays.device_of(handle.slot.read())
        if handle.handle is None:
            return self.arrays.device_of(handle.array)
        return self.arrays.device_of_handle(handle.handle)

    def snapshot(self, handle: Any) -> Array:
        if type(handle) is SlotHandle:
            array = self._now(handle)
            return array if handle.slot.shared == "never" else self.arrays.copied(array)
        return handle.array if handle.handle is None else self.arrays.snapshot(handle.handle)

    def snapshot_unlocked(self, handle: Any) -> Array | None:
        return None

    def lease(self, handles: Sequence[Handle]) -> list[Any] | None:
        return None

    def leased(self, lease: Any) -> Array:
        return lease

    def is_lost(self, array: Array) -> bool:
        return array is not None and self.arrays.is_lost(array)

    def snapshot_within_write(self, handle: Any) -> Array:
        if type(handle) is SlotHandle or handle.handle is None:
            return self.snapshot(handle)
        return self.arrays.snapshot_within_write(handle.handle)

    def assign(self, handle: Any, x: Array, _op: Any = None, _where: Any = None) -> Any:
        if type(handle) is SlotHandle:
            return self._write(handle, x if handle.slot.shared == "in_place" else self._apart(x))
        if handle.handle is None:
            return handle.take(self._own(handle, x))
        return handle.take(self.arrays.assign(handle.handle, x, _op, _where))

    def apply(self, handle: Any, x: Array, op: Operation, _where: Any = None) -> Any:
        if type(handle) is SlotHandle:
            return self._write(handle, self._computed(self._now(handle), x, op))
        if handle.handle is None:
            return handle.take(self._own(handle, self._computed(handle.array, x, op)))
        return handle.take(self.arrays.apply(handle.handle, x, op, _where))

    def put(self, handle: Any, x: Array, operation: str, where: Selection) -> Any:
        if type(handle) is SlotHandle:
            return self._write(handle, self.arrays.compute_put(self._now(handle), x, operation, where))
        if handle.handle is None:
            return handle.take(self._own(handle, self.arrays.compute_put(handle.array, x, operation, where)))
        return handle.take(self.arrays.put(handle.handle, x, operation, where))

    def redeclare(self, handle: Any, x: Array, _op: Any = None, _where: Any = None) -> Any:
        slot = (handle if type(handle) is SlotHandle else handle.origin).slot
        shape = self.arrays.shape(slot.read())
        if self.arrays.shape(x) != shape:
            hint = "assign a value of this shape; the library that owns the state decides on its shape"
            raise ShapeError.of("assign", f"expected shape {shape} of a view, got {self.arrays.shape(x)}", "", hint)
        return self.assign(handle, x, _op, _where)

    def write_all(self, handles: list[Handle], xs: list[Array], op: Operation | None, began: list[bool]) -> bool:
        return False

    def write_traced(self, handle: Any, verb: str, x: Array, op: Any, where: Any) -> Any:
        return getattr(self, verb)(handle, x, op, where)

    def fork(self, handle: Any, array: Array | None) -> Any:
        origin = handle if type(handle) is SlotHandle else handle.origin
        return _Fork(self._present(handle) if array is None else array, origin)

    def fork_from_host(self, handle: Any, array: HostArray) -> Any:
        origin = handle if type(handle) is SlotHandle else handle.origin
        x = self.arrays.import_array(self.arrays.from_host(array, self.device_of_handle(handle)))
        return _Fork(x, origin)

    def result_apart(self, handle: Handle, x: Array, op: Operation | None) -> Array | None:
        return None

    def fork_of_result(self, handle: Handle, result: Array) -> Handle:
        raise AssertionError("`result_apart` of a view returns nothing")

    def prepare_adoption(self, handle: Handle, other: Handle) -> bool:
        return False  # `adopt` writes, which can fail

    def adopt(self, handle: Any, other: Any) -> Any:
        if type(handle) is not SlotHandle:
            handle.array, handle.handle = other.array, other.handle
            return handle
        return self.redeclare(handle, self._operand(self.snapshot(other)))

    def savepoint(self, handle: Any) -> Any:
        return self.fork(handle, None)

    def get_written(self, handle: Handle, where: Selection) -> Array | None:
        return None

    def get_within(self, handle: Handle, where: Selection) -> Array | None:
        return None

    def set_trainable(self, handle: Any, trainable: bool) -> None:
        if type(handle) is SlotHandle:
            handle.slot.trainable = trainable

    def parameter(self, handle: Any) -> Any:
        return _object_of(handle)

    def resource(self, handle: Any) -> Any:
        return getattr(handle.slot, "resource", None) if type(handle) is SlotHandle else None

    def is_parameter(self, handle: Any, thing: Any) -> bool:
        return _object_of(handle) is thing

    def stored(self, handle: Any, dtype: str, writing: bool) -> Stored | None:
        if type(handle) is not SlotHandle:
            return None
        array = handle.slot.read()
        hint = "take a new view of it: sv.view(x)"
        return Stored(self.arrays.dtype_name(array), self.arrays.shape(array), hint)

    def unseen_writes(self, handle: Any) -> int:
        return handle.others() if type(handle) is SlotHandle else 0

    # -- steps -------------------------------------------------------------------------------------------------------

    def _now(self, handle: SlotHandle) -> Array:
        """The present array, as a variable stores one: no scalar of NumPy, no weak type of JAX."""
        array = self.arrays.without_weak_type(handle.slot.read())
        if not self.arrays.owns(array):  # stored as it is, it would be taken for no value
            problem = f"the slot has given {type(array).__name__}, which is no array of {self.arrays.name}"
            raise ForeignStateError.of("read", problem, hint="its method read must return an array of Slot.backend")
        return array

    def _write(self, handle: SlotHandle, x: Array) -> SlotHandle:
        if self.is_sharded:
            x = self.arrays.beside(x, handle.slot.read())  # as the owner has spread it
        handle.unseen = handle.others()
        handle.slot.write(x)
        return handle.wrote()

    def _present(self, handle: Any) -> Array:
        """A snapshot, for a write. A value that its owner has destroyed is left as it is: a whole write replaces it."""
        if type(handle) is SlotHandle and handle.slot.shared == "donated":
            array = handle.slot.read()
            if self.arrays.is_lost(array):
                return array
        return self.snapshot(handle)

    def _apart(self, x: Array) -> Array:
        """A copy of an array that a slot may keep: others may have the array or its memory, or destroy it there."""
        return self.arrays.copied(self._operand(x))

    def _own(self, fork: _Fork, x: Array) -> Handle:
        """A handle of the library for the value that a fork gets with its first write."""
        arrays = self.arrays
        x = self._operand(x)
        return arrays.create(x, declared=arrays.shape(x), device=arrays.device_of(fork.array), trainable=False)

    def _computed(self, old: Array, x: Array, op: Operation) -> Array:
        return self._operand(self.arrays.compute(self._operand(old), x, op))

    def _operand(self, x: Array) -> Array:
        """An array without its gradient, of the dtype that it has."""
        found = self.arrays.operand(x, self.arrays.dtype(self.arrays.dtype_name(x)))
        return x if found is None else found


def _object_of(handle: Any) -> Any:
    """The library's own object over which a view is; None for a place in a container."""
    if type(handle) is not SlotHandle:
        return None
    thing = handle.slot.thing
    return None if isinstance(thing, Place) else thing


_made: WeakKeyDictionary[Backend, Backend] = WeakKeyDictionary()
_making = Lock()


def slot_backend(arrays: Backend) -> Backend:
    """The adapter for slots whose arrays are those of another adapter. It is the same one at each call."""
    with _making:
        found = _made.get(arrays)
        if found is None:
            cls: Any = type(f"{type(arrays).__name__}OfSlots", (SlotBackend, type(arrays)), {})
            found = object.__new__(cls)
            found.__dict__.update({k: v for k, v in vars(arrays).items() if k != "traced_elsewhere"})  # native too
            found.arrays = arrays
            _made[arrays] = found
    return found
