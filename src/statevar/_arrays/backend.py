"""The seam between the variable and array libraries: the `Backend` that an adapter implements.

The laws of an adapter:

1. It is imported only when its library is used; nothing outside it names the library.
2. It knows nothing of `Variable`: it gets handles and arrays, and no names, scopes, locks or versions.
3. The caller has converted and checked everything before a verb runs; a verb that fails halfway through
   leaves the handle whole.
4. A *handle* is what the variable owns. Its attribute ``published`` is the snapshot that readers may take
   without the lock, or None if they must come through `Backend.snapshot`. A write verb returns the handle
   to keep, whether it changed the one it got or made another.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from .._public import public
from ..errors import describe
from . import dtypes
from .host import put_in_place
from .indexing import Selection
from .shapes import DeclaredShape, Shape
from .tracing import Tracing
from .types import Array, HostArray, Operation

if TYPE_CHECKING:
    from .transforms import Transforms

__all__ = ["Backend", "Handle"]

_BITWISE = (operator.and_, operator.or_, operator.xor)


@public("statevar.backends")
class Handle(Protocol):
    """What a variable owns in its library."""

    published: Any


@public("statevar.backends")
class Backend(ABC):
    """One array library, as the variable sees it. Verbs stand in the same order in every adapter."""

    #: The name users write: ``backend="numpy"``.
    name: ClassVar[str]
    #: Whether its arrays are NumPy's own.
    is_host: ClassVar[bool] = False
    #: Whether a handle may be replaced while another thread writes it: nothing outside holds what is in it.
    replaceable: ClassVar[bool] = False
    #: What tells whether code is being traced by this library; None if it traces none.
    tracing: ClassVar[Tracing | None] = None

    # -- whose is it ---------------------------------------------------------------------------------

    @abstractmethod
    def owns(self, value: Any) -> bool:
        """Whether the value is an array of this library. Asked of other libraries' arrays too."""

    def is_symbolic(self, array: Array) -> bool:
        """Whether an array of ours stands for a value of a traced program, or for one whose gradient is recorded."""
        return False

    def transforms(self) -> Transforms:
        """The gradients, the compiler and the loops of the library. Asked through `registry.transforms_of`.

        Raises:
            NotImplementedError: the library has none.
        """
        raise NotImplementedError(
            describe("transforms", f"{self.name} has none", hint="its adapter can have a method transforms()")
        )

    def attach(self, variable_type: type, snapshot_type: type) -> None:
        """Tells the library of our types, where it keeps a registry. Called once, when both are there."""

    # -- dtypes, shapes and devices -------------------------------------------------------------------

    @abstractmethod
    def dtype(self, name: str) -> Any:
        """The library's dtype object.

        Raises:
            DTypeError: the library cannot hold it, with the way to make it, if any.
        """

    def dtype_name(self, array: Array) -> str:
        """The canonical name of an array's dtype."""
        return dtypes.dtype_name(array.dtype)

    def shape(self, array: Array) -> Shape:
        """An array's shape as a tuple of ints."""
        return tuple(array.shape)

    @abstractmethod
    def device(self, name: Any) -> Any:
        """The library's device for a portable name, a device of the library, or None (its default).

        Raises:
            DeviceError: there is no such device.
        """

    @abstractmethod
    def device_of(self, array: Array) -> Any:
        """Where an array lies, as `device` returns it."""

    @abstractmethod
    def device_name(self, device: Any) -> str:
        """The portable name of a device: ``"CPU:0"``."""

    # -- conversion ------------------------------------------------------------------------------------

    @abstractmethod
    def operand(self, value: Any, dtype: Any) -> Array | None:
        """The value, if a write verb can take it as it is: ours and of this dtype. Else None.

        The hot path of every write: no more than two tests. The result is cut from any gradient. Whatever
        `cast` returns for the dtype must be accepted.
        """

    @abstractmethod
    def from_host(self, array: HostArray, device: Any) -> Array:
        """A host array as an operand of the write verbs, which copy what they store.

        The array may be the caller's: what outlives this call and the verb must not alias it. It may also be
        the result of `compute_on_host`, in a dtype that the library lacks. ``device`` is None for its default.
        """

    @abstractmethod
    def to_host(self, array: Array) -> HostArray:
        """An array as NumPy, to be read at once. Zero-copy where the library can; never writable then."""

    @abstractmethod
    def import_array(self, array: Array, dtype: Any = None) -> Array:
        """A snapshot of ours or of NumPy as an array of ours, to be read only. Zero-copy where possible.

        Args:
            dtype: what the library asked for when it called us by its protocol, if anything.
        """

    #: Functions of the library to which a variable is its parameter, not its value.
    wants_parameters: ClassVar[frozenset[Any]] = frozenset()

    def as_other_operand(self, array: HostArray) -> Any:
        """A NumPy array or scalar as the other operand of the library's own operators."""
        return array

    @abstractmethod
    def cast(self, array: Array, dtype: Any) -> Array:
        """An array of ours in another dtype, as the library casts; differentiable where the library is."""

    def without_weak_type(self, array: Array) -> Array:
        """An array of ours as a variable stores it, traced or not: without marks such as JAX's weak type."""
        return array

    def as_immutable(self, array: Array, *, fresh: bool) -> Array:
        """The array as nobody can change it, so that it can be a snapshot: a copy, unless it is ``fresh`` from us."""
        return array

    @abstractmethod
    def in_range(self, before: Array, after: Array) -> bool:
        """Whether a cast kept every value in range: integers equal, finite values finite."""

    @abstractmethod
    def namespace(self) -> Any:
        """The array API namespace of the library."""

    def dlpack(self, array: Array, request: dict[str, Any]) -> Any:
        """The DLPack capsule of a snapshot, marked read-only where the consumer can be told."""
        return array.__dlpack__(**request)

    def dlpack_device(self, array: Array) -> tuple[int, int]:
        """The DLPack device of a snapshot."""
        platform, index = array.__dlpack_device__()
        return int(platform), int(index)

    @abstractmethod
    def round(self, array: Array, decimals: int) -> Array:
        """Rounds to a number of decimals, half to even."""

    # -- a handle's life ---------------------------------------------------------------------------------

    @abstractmethod
    def create(self, array: Array, *, declared: DeclaredShape, device: Any, trainable: bool) -> Handle:
        """A handle that owns a copy of an operand, unless the operand is immutable."""

    @abstractmethod
    def device_of_handle(self, handle: Handle) -> Any:
        """Where the value lies, as `device` returns it."""

    @abstractmethod
    def snapshot(self, handle: Handle) -> Array:
        """The current value, which later writes do not change. Called under the variable's lock.

        May set ``handle.published`` to it.
        """

    # Each write verb is called under the lock, with the operand's dtype and shape checked, while no
    # reader can reach ``handle.published``. They share one signature so that there is one call site. An
    # operand may lie on another device: the verb moves it, the variable stays where it is.

    @abstractmethod
    def assign(self, handle: Handle, x: Array, _op: Any = None, _where: Any = None) -> Handle:
        """Stores x. The shape is the handle's, or fits what was declared."""

    @abstractmethod
    def apply(self, handle: Handle, x: Array, op: Operation, _where: Any = None) -> Handle:
        """Stores ``op(value, x)`` for `operator.add`, sub, mul, and_, or_ or xor; x broadcasts."""

    @abstractmethod
    def put(self, handle: Handle, x: Array, operation: str, where: Selection) -> Handle:
        """Does one of `AT_OPERATIONS` at a selection; x broadcasts to it.

        An element selected twice is changed twice; of several values set, the last is kept.
        """

    @abstractmethod
    def redeclare(self, handle: Handle, x: Array, _op: Any = None, _where: Any = None) -> Handle:
        """Stores x of any shape, which is also the shape declared from now on."""

    # The next three copy, unless an adapter knows better.

    def fork(self, handle: Handle, array: Array | None) -> Handle:
        """A handle that starts with a snapshot of this one, and is written apart by the same verbs.

        ``array`` is that snapshot, or an older one; None stands for the present value. Somebody holds it until the
        fork is adopted or dropped, so that a handle which counts its readers may be its own fork.

        Better: the memory is shared until it is written, and the handle is lighter than what `create` makes.
        """
        array = self.snapshot(handle) if array is None else array
        return self.create(array, declared=self.shape(array), device=self.device_of_handle(handle), trainable=False)

    def fork_from_host(self, handle: Handle, array: HostArray) -> Handle:
        """`fork`, starting with a host array that is given up to us: read-only from now on, for everybody.

        Better: its memory is used.
        """
        return self.fork(handle, self.from_host(array, self.device_of_handle(handle)))

    def adopt(self, handle: Handle, other: Handle) -> Handle:
        """Stores what a fork holds, of any shape; the fork is not used again. Called under the lock.

        Better: nothing is copied, since a commit adopts one after the other while readers wait.
        """
        return self.redeclare(handle, self.snapshot(other))

    #: Whether `adopt` never fails, and may be called again with the same fork after Ctrl-C came in the middle of it.
    adopt_cannot_fail: ClassVar[bool] = False

    def savepoint(self, handle: Handle) -> Handle:
        """A handle from which `adopt` puts back the present value if a commit fails. Not called if `adopt_cannot_fail`.

        Better: lighter than a fork, since it is never written.
        """
        return self.fork(handle, None)

    def compute(self, old: Array, x: Array, op: Operation) -> Array:
        """``op(old, x)``, changing nothing; the result may have another dtype or shape."""
        return op(old, x)

    @abstractmethod
    def compute_put(self, old: Array, x: Array, operation: str, where: Selection) -> Array:
        """What `put` would store, changing nothing."""

    @abstractmethod
    def get(self, array: Array, where: Selection) -> Array:
        """The selected elements; differentiable where the library is."""

    def set_trainable(self, handle: Handle, trainable: bool) -> None:
        """Tells the library whether gradients are wanted."""

    def parameter(self, handle: Handle) -> Any:
        """The library's own mutable object, if it has one that its optimizers hold; else None."""
        return None

    #: Whether the version counts all writes, those of the library's own functions through `parameter` too.
    counts_all_writes: ClassVar[bool] = True

    def unseen_writes(self, handle: Handle) -> int:
        """How many writes reached the handle without coming through the verbs."""
        return 0

    # -- for adapters whose library lacks an operation for a dtype ---------------------------------------

    def compute_on_host(self, old: Array, x: Array, op: Operation) -> Array:
        """`compute` by NumPy."""
        host = self.to_host(old)
        result = np.asarray(op(host, self.to_host(x)))
        if op in _BITWISE:
            result = result.astype(host.dtype, copy=False)  # NumPy widens four bits
        return self.from_host(result, self.device_of(old))

    def in_range_on_host(self, before: Array, after: Array) -> bool:
        """`in_range` by NumPy."""
        old, new = self.to_host(before), self.to_host(after)
        if dtypes.is_integer(self.dtype_name(after)):
            return bool(((new.astype(old.dtype) == old) & ((new < 0) == (old < 0))).all())
        return bool((np.isfinite(new) | ~np.isfinite(old)).all())

    def put_on_host(self, old: Array, x: Array, operation: str, where: Selection) -> Array:
        """`compute_put` by NumPy."""
        result = np.array(self.to_host(old))
        put_in_place(result, self.to_host(x), operation, where)
        return self.from_host(result, self.device_of(old))
