"""State that another library or object keeps: the `Slot` that reads and writes it, and the `Backend` of such handles.

A variable of ours owns its memory. A *view* is a variable over one leaf of somebody else's state: its handle is a slot,
which knows how to read the leaf and how to write it. `slot_backend` makes, for any adapter, a second adapter with the
same arrays and the same verbs, whose handles are slots. So whatever works on variables works on views.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary

from .._public import public
from ..errors import ShapeError
from .backend import Backend, Handle
from .stored import Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from .indexing import Selection
    from .types import Array, HostArray, Operation

__all__ = [
    "Adapter",
    "Named",
    "Opened",
    "Place",
    "Shared",
    "Slot",
    "SlotBackend",
    "SlotHandle",
    "place_of",
    "slot_backend",
]

#: What others may do to an array that `Slot.read` has returned: nothing; destroy it, as a JAX program does to an
#: argument that was donated; or write into it.
Shared: TypeAlias = Literal["never", "donated", "in_place"]


@public("statevar.interop")
@runtime_checkable
class Slot(Protocol):
    """One leaf of somebody else's state, as a variable reads and writes it. Third parties implement it.

    Attributes:
        backend: the name of the library of the arrays that `read` returns: ``"torch"``.
        thing: the object whose state it is. There is one variable for each thing, as long as the variable lives. Where
            the leaf is no object of its own, such as an array that is replaced in a dict, it is a `Place`.
        trainable: whether gradients of it are wanted. Setting it tells the library, if that is possible.
        shared: what others may do to an array that `read` has returned: ``"never"`` anything, so that it is taken as a
            snapshot without a copy; it may be ``"donated"`` to a program, which destroys it; or be written
            ``"in_place"``.

    >>> import numpy as np
    >>> import statevar as sv
    >>> class Row:
    ...     backend, trainable, shared = "numpy", False, "in_place"
    ...
    ...     def __init__(self, table, number):
    ...         self.thing, self._row = sv.interop.Place(table, number), table[number]
    ...
    ...     def read(self):
    ...         return self._row
    ...
    ...     def write(self, array):
    ...         self._row[...] = array
    ...
    ...     def version(self):
    ...         return None
    >>> table = np.zeros((3, 2), np.float32)
    >>> sv.view(Row(table, 1)).assign_add(5.0).value
    array([5., 5.], dtype=float32)
    >>> table
    array([[0., 0.],
           [5., 5.],
           [0., 0.]], dtype=float32)
    """

    backend: str
    thing: Any
    trainable: bool
    shared: Shared

    def read(self) -> Any:
        """The present array, without a copy where that is possible."""

    def write(self, array: Any) -> None:
        """Stores an array of the same dtype and shape: as a whole, or it raises and nothing has changed.

        The array may be read-only, and the slot must not keep it unless its library's arrays cannot change.
        """

    def version(self) -> int | None:
        """The number of writes that the library itself has counted; None if it counts none."""


@public("statevar.interop")
class Place:
    """Identifies a leaf by the object that holds it and by its key there, for `Slot.thing`.

    Two places are equal if they name the same key of the same object, whatever that contains.

    >>> import statevar as sv
    >>> holder = {"a": 1}
    >>> sv.interop.Place(holder, "a") == sv.interop.Place(holder, "a") != sv.interop.Place({"a": 1}, "a")
    True
    """

    __slots__ = ("_hash", "holder", "keys")

    def __init__(self, holder: Any, *keys: Hashable) -> None:
        self.holder = holder
        self.keys = keys
        self._hash = hash((id(holder), keys))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self.holder is other.holder and self.keys == other.keys

    def __hash__(self) -> int:
        return self._hash

    def __deepcopy__(self, memo: dict[Any, Any]) -> Place:
        from copy import deepcopy  # noqa: PLC0415  # only copies need it

        return Place(deepcopy(self.holder, memo), *deepcopy(self.keys, memo))

    def __repr__(self) -> str:
        return (
            f"Place({type(self.holder).__name__} at {id(self.holder):#x}{''.join(f', {key!r}' for key in self.keys)})"
        )


#: The leaves and containers that an object has, by name: slots, and objects that are opened in turn.
Opened: TypeAlias = "Slot | dict[Any, Any] | None"


@public("statevar.interop")
class Adapter:
    """Says what in the objects of a library is state.

    A package registers one under the entry point ``statevar.state``. The name of the entry point is the root module of
    the classes, which are found through their bases. So the adapter is loaded only once an object of the library was
    met.

    Args:
        open: returns what the library itself declares to be state in an object: a `Slot` for a leaf; a dict of name to
            child for a container, where a child is a `Slot` or any object, which is opened in turn; or None for an
            object that is not the library's state.
        open_plain: the same for arrays and containers that are state only if the user says so, by `statevar.view`.
        open_item: ``open_item(holder, key, x)`` returns a slot for an array that cannot change, and which a write
            replaces in its holder; or None. `Item` does it for dicts, lists and attributes.
        accept: ``accept(x, {path: array})`` makes state that does not exist yet, such as that of an optimizer before
            its first step, and returns a function that undoes it, or None. A load calls it with the arrays in the file
            whose paths begin with that of the object, without that beginning.
        forget: ``forget(x, paths)`` removes such state again, which was made in a `statevar.rollback`.
    """

    __slots__ = ("accept", "forget", "open", "open_item", "open_plain")

    def __init__(
        self,
        open: Callable[[Any], Opened],  # noqa: A002  # the verb that users write
        open_plain: Callable[[Any], Opened] | None = None,
        open_item: Callable[[Any, Any, Any], Slot | None] | None = None,
        accept: Callable[[Any, dict[str, Any]], Callable[[], object] | None] | None = None,
        forget: Callable[[Any, list[str]], object] | None = None,
    ) -> None:
        self.open = open
        self.open_plain = open_plain
        self.open_item = open_item
        self.accept = accept
        self.forget = forget


@public("statevar.interop")
class Named:
    """The key of a child that belongs to a thing of another object, as the momentum of an optimizer to a parameter.

    Its segment in a path is the path of the thing, if the same search finds it, else the given text.
    """

    __slots__ = ("text", "thing")

    def __init__(self, thing: Any, text: str) -> None:
        self.thing = thing
        self.text = text

    def __str__(self) -> str:
        return self.text


def place_of(thing: Any) -> Place:
    """The place by which a thing is known: itself, or the place of an object of its own."""
    return thing if isinstance(thing, Place) else Place(thing)


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
            return self.native.device_of(handle.slot.read())
        if handle.handle is None:
            return self.native.device_of(handle.array)
        return self.native.device_of_handle(handle.handle)

    def snapshot(self, handle: Any) -> Array:
        if type(handle) is SlotHandle:
            array = self._now(handle)
            return array if handle.slot.shared == "never" else self.native.copied(array)
        return handle.array if handle.handle is None else self.native.snapshot(handle.handle)

    def snapshot_unlocked(self, handle: Any) -> Array | None:
        return None

    def lease(self, handles: Sequence[Handle]) -> list[Any] | None:
        return None

    def leased(self, lease: Any) -> Array:
        return lease

    def is_lost(self, array: Array) -> bool:
        return array is not None and self.native.is_lost(array)

    def snapshot_within_write(self, handle: Any) -> Array:
        if type(handle) is SlotHandle or handle.handle is None:
            return self.snapshot(handle)
        return self.native.snapshot_within_write(handle.handle)

    def assign(self, handle: Any, x: Array, _op: Any = None, _where: Any = None) -> Any:
        if type(handle) is SlotHandle:
            return self._write(handle, x if handle.slot.shared == "in_place" else self._apart(x))
        if handle.handle is None:
            return handle.take(self._own(handle, x))
        return handle.take(self.native.assign(handle.handle, x, _op, _where))

    def apply(self, handle: Any, x: Array, op: Operation, _where: Any = None) -> Any:
        if type(handle) is SlotHandle:
            return self._write(handle, self._computed(self._now(handle), x, op))
        if handle.handle is None:
            return handle.take(self._own(handle, self._computed(handle.array, x, op)))
        return handle.take(self.native.apply(handle.handle, x, op, _where))

    def put(self, handle: Any, x: Array, operation: str, where: Selection) -> Any:
        if type(handle) is SlotHandle:
            return self._write(handle, self.native.compute_put(self._now(handle), x, operation, where))
        if handle.handle is None:
            return handle.take(self._own(handle, self.native.compute_put(handle.array, x, operation, where)))
        return handle.take(self.native.put(handle.handle, x, operation, where))

    def redeclare(self, handle: Any, x: Array, _op: Any = None, _where: Any = None) -> Any:
        slot = (handle if type(handle) is SlotHandle else handle.origin).slot
        shape = self.native.shape(slot.read())
        if self.native.shape(x) != shape:
            hint = "assign a value of this shape; the library that owns the state decides on its shape"
            raise ShapeError.of("assign", f"expected shape {shape} of a view, got {self.native.shape(x)}", "", hint)
        return self.assign(handle, x, _op, _where)

    def write_all(self, handles: list[Handle], xs: list[Array], op: Operation | None, began: list[bool]) -> bool:
        return False

    def write_traced(self, handle: Any, verb: str, x: Array, op: Any, where: Any) -> Any:
        return getattr(self, verb)(handle, x, op, where)

    def fork(self, handle: Any, array: Array | None) -> Any:
        origin = handle if type(handle) is SlotHandle else handle.origin
        return _Fork(self.snapshot(handle) if array is None else array, origin)

    def fork_from_host(self, handle: Any, array: HostArray) -> Any:
        origin = handle if type(handle) is SlotHandle else handle.origin
        x = self.native.import_array(self.native.from_host(array, self.device_of_handle(handle)))
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
        return Stored(self.native.dtype_name(array), self.native.shape(array), hint)

    def unseen_writes(self, handle: Any) -> int:
        return handle.others() if type(handle) is SlotHandle else 0

    # -- steps -------------------------------------------------------------------------------------------------------

    def _now(self, handle: SlotHandle) -> Array:
        """The present array, as a variable stores one: no scalar of NumPy, no weak type of JAX."""
        return self.native.without_weak_type(handle.slot.read())

    def _write(self, handle: SlotHandle, x: Array) -> SlotHandle:
        handle.unseen = handle.others()
        handle.slot.write(x)
        return handle.wrote()

    def _apart(self, x: Array) -> Array:
        """A copy of an array that a slot may keep: others may have the array or its memory, or destroy it there."""
        return self.native.copied(self._operand(x))

    def _own(self, fork: _Fork, x: Array) -> Handle:
        """A handle of the library for the value that a fork gets with its first write."""
        native = self.native
        x = self._operand(x)
        return native.create(x, declared=native.shape(x), device=native.device_of(fork.array), trainable=False)

    def _computed(self, old: Array, x: Array, op: Operation) -> Array:
        return self._operand(self.native.compute(self._operand(old), x, op))

    def _operand(self, x: Array) -> Array:
        """An array without its gradient, of the dtype that it has."""
        found = self.native.operand(x, self.native.dtype(self.native.dtype_name(x)))
        return x if found is None else found


def _object_of(handle: Any) -> Any:
    """The library's own object over which a view is; None for a place in a container."""
    if type(handle) is not SlotHandle:
        return None
    thing = handle.slot.thing
    return None if isinstance(thing, Place) else thing


_made: WeakKeyDictionary[Backend, Backend] = WeakKeyDictionary()
_making = Lock()


def slot_backend(native: Backend) -> Backend:
    """The adapter for slots whose arrays are those of another adapter. It is the same one at each call."""
    with _making:
        found = _made.get(native)
        if found is None:
            cls = type(f"{type(native).__name__}OfSlots", (SlotBackend, type(native)), {})
            found = object.__new__(cls)
            found.__dict__.update({k: v for k, v in vars(native).items() if k != "traced_elsewhere"})  # native too
            _made[native] = found
    return found
