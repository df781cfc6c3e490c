"""The interface between the variable and array libraries: the `Backend` that an adapter implements.

The rules for an adapter:

1. It is imported only when its library is used; no code outside it names the library.
2. It knows nothing of `Variable`: it gets handles and arrays, but no names, scopes, locks or versions.
3. The caller has converted and checked everything before a verb runs. A verb that fails halfway leaves the handle as it
   was.
4. A *handle* is the library's storage of a variable. Its attribute ``published`` is the snapshot that readers may take
   without the lock, or None if they must call `Backend.snapshot`. A write verb returns the handle to keep: the one it
   got, or a new one.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np

from .._public import public
from ..errors import ShardingError, describe
from . import dtypes
from .first_values import FirstValue, Made
from .host import put_in_place
from .indexing import OwnSelection, Selection
from .placement import Spread
from .shapes import DeclaredShape, Shape
from .stored import Stored
from .tracing import Tracing
from .types import Array, HostArray, Operation
from .unreadable import Unreadable

if TYPE_CHECKING:
    from .random.draws import Draws
    from .transforms import Transforms

__all__ = ["Backend", "Handle", "Refusal"]

#: Makes the error for a write to the lent array with this number.
Refusal: TypeAlias = Callable[[int], Exception]

_BITWISE = (operator.and_, operator.or_, operator.xor)


@public("statevar.backends")
class Handle(Protocol):
    """The storage of one variable in its library."""

    published: Any


@public("statevar.backends")
class Backend(ABC):
    """One array library, as the variable uses it. The methods are in the same order in every adapter."""

    #: The name that users write: ``backend="numpy"``.
    name: ClassVar[str]
    #: Whether the arrays of the library are NumPy arrays.
    is_host: ClassVar[bool] = False
    #: Whether code outside can write an array of this library in place.
    has_writable_arrays: ClassVar[bool] = False
    #: Whether a handle may be replaced while another thread writes it, since no user code refers to its contents.
    replaceable: ClassVar[bool] = False
    #: The `Tracing` of this library; None if the library traces no code.
    tracing: ClassVar[Tracing | None] = None
    #: Whether a program is traced, and kept, of which a variable of this library cannot be part; None while nothing can
    #: trace one. The registry sets it.
    traced_elsewhere: Callable[[], bool] | None = None
    #: The adapter of the arrays: itself; for views, whose handles are slots, and for sharded values, the adapter that
    #: the registry has for their library.
    native: Backend
    #: Whether the handles are slots over state that other code has.
    is_view: ClassVar[bool] = False
    #: Whether the values are spread over several devices or processes; see `ShardedBackend`.
    is_sharded: ClassVar[bool] = False
    #: Whether such a value may be cut; see `ShardedBackend`.
    cuts: ClassVar[bool] = False
    #: Whether the values lie in memory that processes share; see `SharedBackend`.
    is_shared: ClassVar[bool] = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        backend = super().__new__(cls)
        backend.native = backend
        return backend

    #: The errors by which the library reports, when an array is used, that it could not be computed.
    late_errors: ClassVar[tuple[type[Exception], ...]] = ()

    # -- ownership -----------------------------------------------------------------------------------

    @abstractmethod
    def owns(self, value: Any) -> bool:
        """Whether the value is an array of this library. Called with arrays of other libraries too."""

    def is_symbolic(self, array: Array) -> bool:
        """Whether an array of this library stands for a value in a traced program, or has its gradient recorded."""
        return False

    def transforms(self) -> Transforms:
        """The gradients, the compiler and the loops of the library. Called through `registry.transforms_of`.

        Raises:
            NotImplementedError: the adapter has no transforms.
        """
        raise NotImplementedError(
            describe(
                "transforms",
                f"the adapter of {self.name} has no gradients, compiler or loops",
                hint="implement its method Backend.transforms",
            )
        )

    def draws(self) -> Draws:
        """The random numbers of the library. Called through `registry.draws_of`.

        By default NumPy computes them on the host, which needs the state of the generator to be known. A library that
        traces code overrides it.
        """
        from .random.draws import Draws  # noqa: PLC0415  # few programs draw

        return Draws(self)

    def attach(self, variable_type: type, snapshot_type: type) -> None:
        """Registers statevar's types with a library that has a registry of types. Called once."""

    # -- dtypes, shapes and devices -------------------------------------------------------------------

    @abstractmethod
    def dtype(self, name: str) -> Any:
        """The library's dtype object for a canonical name.

        Raises:
            DTypeError: the library does not have the dtype; the hint says how to enable it, if that is possible.
        """

    def default_dtype(self, name: str) -> str:
        """The dtype of a variable that is made, without ``dtype=``, from a value of the dtype with this name.

        It is the same dtype, or the widest one of the same kind if the library has this one only after a setting of
        its own. The value is then cast by the usual rule, so a number that does not fit is an error.
        """
        return name

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
        """The device of an array, as `device` returns it."""

    @abstractmethod
    def device_name(self, device: Any) -> str:
        """The portable name of a device, such as ``"CPU:0"``."""

    def devices(self) -> Sequence[Any]:
        """The devices of this process, the fastest first: accelerators before the host, each kind by its numbers."""
        return [self.device(None)]

    def holds(self, device: Any, dtype: str) -> bool:
        """Whether a device can store values of a dtype that the library has. Asked before a variable is made.

        A device may lack a dtype that the library has on others. A better implementation tries it once.

        Raises:
            DeviceError: there is no such device, as may be for a device object of the library.
        """
        return True

    def spread(self, value: Any) -> Spread | None:
        """Says how an array of this library is spread over several devices or processes; None if it is in one place.

        A variable of this adapter lies in one place. This is asked of a first value and of the operands that `operand`
        returns None for: it must do so for an array whose elements cannot be moved to another device.
        """
        return None

    def placement(self, value: Any, spec: Any, mesh: Any) -> tuple[Backend, Any] | None:
        """The adapter of a new variable that is to be spread, and its sharding; None if it lies in one place.

        Where the arrays are NumPy arrays it is only asked if a sharding was asked for.

        Args:
            value: the first value: an array of any library, a `FirstValue` or anything else; None if there is none.
            spec: the sharding that was asked for: the axes of a mesh, or a sharding of the library. None if nothing
                was asked for, so that the variable follows its first value.
            mesh: the mesh of the library that was asked for, or None.

        Raises:
            ShardingError: a sharding was asked for that the library does not have.
        """
        if spec is None:
            return None
        problem = f"a variable of {self.name} lies in one place, and sharding={spec!r} was asked for"
        raise ShardingError.of(
            "Variable", problem, hint="pass backend='jax' or backend='torch'; or None, which leaves it in one place"
        )

    def unreadable(self, value: Any) -> Unreadable | None:
        """Says why an array of this library cannot be stored: it would lose a part of its meaning, or has no elements.

        For instance a masked or a sparse array. Asked whenever `spread` is asked; `operand` must return None for it.
        """
        return None

    def spread_handle(self, handle: Handle) -> Spread | None:
        """Does what `spread` does for a handle that `create` has just made."""
        return None

    # -- conversion ------------------------------------------------------------------------------------

    @abstractmethod
    def operand(self, value: Any, dtype: Any) -> Array | None:
        """Returns the value if it is an array of this library and of this dtype, ready for a write verb. Else None.

        Every write calls it, so it should make no more than two tests. The result has no gradient. It must accept every
        result of `cast` to the dtype.
        """

    def rows_in(self, value: Any) -> tuple[Array, Array] | None:
        """The indices and the rows in a sparse object of the library, such as the gradient of a few rows; else None.

        Asked if a value that is to be added or subtracted is no dense array.
        """
        return None

    @abstractmethod
    def from_host(self, array: HostArray, device: Any) -> Array:
        """Turns a host array into an operand of the write verbs, which copy what they store.

        The array may belong to the caller, who may overwrite it a moment later: the value that the verb stores must not
        share its memory. It may also be the result of `compute_on_host`, in a dtype that the library lacks.

        Args:
            device: None for the library's default.
        """

    def operand_from_host(self, array: HostArray) -> Array:
        """Does what `from_host` does, for a write of a variable that has a value: the verb moves the operand there.

        So the library's default device plays no part: it may be far away, or one that stores no values.
        """
        return self.from_host(array, None)

    @abstractmethod
    def to_host(self, array: Array) -> HostArray:
        """Converts an array to a NumPy array to be read at once: without a copy if possible, and then read-only."""

    def packed(self, array: Array) -> HostArray:
        """Converts an array as `to_host` does, to be stored: in a file, a pickle or a text.

        `from_host` takes it back. They differ for arrays that NumPy has no dtype for, such as random keys.
        """
        return self.to_host(array)

    @abstractmethod
    def import_array(self, array: Array, dtype: Any = None) -> Array:
        """Converts a snapshot of this library or of NumPy to a read-only array of this library, if possible uncopied.

        Args:
            dtype: the dtype that the library's protocol asked for, or None.
        """

    #: Functions of the library that must get the variable's parameter instead of its value.
    wants_parameters: ClassVar[frozenset[Any]] = frozenset()

    #: Functions of the library of which it is known that they write no argument but ``out=``. It may grow.
    only_reading: ClassVar[Container[Any]] = frozenset()

    def call_reading(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        lent: Sequence[Array],
        refusal: Refusal,
    ) -> Any:
        """Calls a function of the library whose arguments contain snapshots in place of variables.

        A library whose functions can write their arguments overrides it, and raises ``refusal(number)`` before a
        function writes into ``lent[number]``.

        Args:
            lent: the snapshots, as they are among the arguments.
        """
        return function(*args, **kwargs)

    def over_one_mesh(
        self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a function of the library, as it takes them where one of them is a value that is spread.

        Only asked if `is_sharded`. A library that does not compute with one array that is spread and another that is in
        one place overrides it; what is in one place is the same in every process.
        """
        return args, kwargs

    def as_other_operand(self, array: HostArray) -> Any:
        """Converts a NumPy array or scalar to an operand of the library's own operators."""
        return array

    @abstractmethod
    def cast(self, array: Array, dtype: Any) -> Array:
        """Casts an array of this library to another dtype; differentiable where the library is."""

    def without_weak_type(self, array: Array) -> Array:
        """The array as a variable stores it, without marks such as JAX's weak type; or a variable's value.

        The array may be traced.
        """
        return array

    def as_immutable(self, array: Array, *, fresh: bool) -> Array:
        """The array in a form that nobody can change, to be a snapshot.

        Args:
            fresh: the caller has made the array and nobody else refers to it, so it need not be copied.
        """
        return array

    def copied(self, array: Array) -> Array:
        """A snapshot of an array that other code may change or destroy: a copy, to which its gradient passes.

        A library whose arrays cannot change has to copy too, since a program may destroy an array that it is given.
        """
        shape, device = self.shape(array), self.device_of(array)
        return self.snapshot(self.create(array, declared=shape, device=device, trainable=False))

    def over_host(self, array: HostArray, device: Any) -> Array:
        """An array of this library over the memory of a host array, which it keeps alive.

        Args:
            array: C-contiguous. Its memory never changes as long as the array, or anything that it keeps alive, exists.
                If NumPy may write it, nobody else is on the memory; the memory of a read-only one others may read, so
                a library that `has_writable_arrays` copies it.
            device: the host, as `device` returns it.

        Returns:
            The array, or that of a copy where the library cannot share memory with NumPy.
        """
        x = self.from_host(array, device)
        return self.snapshot(self.create(x, declared=array.shape, device=device, trainable=False))

    def over_again(self, array: Array) -> Array | None:
        """The array that `over_host` has returned, for another reader; None if it was destroyed, or perhaps written."""
        return None if self.is_lost(array) else array

    def guarded(self, array: Array) -> Array:
        """A snapshot for a view that the user gets: a copy, if the library would let the user write the view."""
        return array

    def moved(self, array: Array, device: Any) -> Array:
        """The array on a device, as `device` returns it; differentiable where the library is.

        Called for the operands of an operator that lie on two devices, and for the value of a variable that moves.
        """
        return array

    def are_apart(self, left: Array, right: Array) -> bool:
        """Whether an operator would compute with these arrays, of two devices, on one that the library chooses.

        Asked once variables lie on two devices. False if the library refuses it, or if an array is on several devices.
        """
        return False

    def needs_one_device(self, function: Any, arrays: Sequence[Array]) -> bool:
        """Whether a function of the library, which takes variables by its protocol, refuses arrays as they lie.

        They are then moved to one device. False for a function that itself moves an array.
        """
        return False

    def computing_on(self, device: Any) -> AbstractContextManager[Any]:
        """A block in which the library computes on a device, for operands that `moved` has brought there."""
        return nullcontext()

    def beside(self, array: Array, other: Array) -> Array:
        """The array on the device of another one; differentiable where the library is. May return it as it is.

        Only called with arrays of this library. A library that itself computes with arrays of two devices needs none.
        """
        return array

    @abstractmethod
    def in_range(self, before: Array, after: Array) -> bool:
        """Whether a cast has left every integer equal and every finite value finite."""

    @abstractmethod
    def namespace(self) -> Any:
        """The array API namespace of the library."""

    def array_functions(self) -> Mapping[str, Callable[..., Any]]:
        """Functions of the array API standard that `statevar.namespace` is to call in place of those in `namespace`.

        They are for what the library's own function lacks. Their names are those of the standard: ``"clip"``,
        ``"linalg.inv"``. They get arrays of one dtype, on one device, and all arguments of the standard by keyword that
        are not positional.
        """
        return {}

    def dlpack(self, array: Array, request: dict[str, Any]) -> Any:
        """The DLPack capsule of a snapshot, marked read-only where the consumer can be told."""
        return array.__dlpack__(**request)

    def dlpack_device(self, array: Array) -> tuple[int, int]:
        """The DLPack device of a snapshot."""
        platform, index = array.__dlpack_device__()
        return int(platform), int(index)

    @abstractmethod
    def round(self, array: Array, decimals: int) -> Array:
        """Rounds an array to a number of decimals, half to even. The result is no view, as of `get`.

        The decimals of integers are 0 or more.
        """

    # -- handles -----------------------------------------------------------------------------------------

    @abstractmethod
    def create(self, array: Array, *, declared: DeclaredShape, device: Any, trainable: bool) -> Handle:
        """Makes a handle that stores an operand: a copy of it, even if it is immutable, as in `assign`."""

    def create_from(self, first: FirstValue, *, declared: DeclaredShape, device: Any, trainable: bool) -> Handle:
        """Makes a handle of a first value that nobody else has, so that its memory can be taken.

        A better implementation takes no memory beyond the value: it makes a constant on the device, lets `fill` write
        into the memory that it stores, or takes that of a `Made` array.

        Args:
            device: the device that was asked for, or None for the library's default; a `Made` array of this library
                stays where it is.
        """
        if isinstance(first, Made) and self.owns(first.array):
            x = first.array
        else:
            x = self.from_host(first.to_host(), device)
        return self.create(x, declared=declared, device=device, trainable=trainable)

    def relocated(
        self, handle: Handle, array: Array, *, declared: DeclaredShape, device: Any, trainable: bool
    ) -> Handle:
        """The handle of a variable that moves to another device. Called under the lock of the variable.

        A library whose parameter stays the same object changes the handle, and returns it.

        Args:
            array: a snapshot of the value on the device, as `moved` has returned it.

        Raises:
            DeviceError: the library cannot move what code outside has of the handle, and so would leave it behind.
        """
        if device == self.device_of_handle(handle):
            return handle
        return self.create(array, declared=declared, device=device, trainable=trainable)

    def is_unshared(self, held: list[Array]) -> bool:
        """Whether it is certain that nobody but this list has its only element, an array of this library.

        A variable then takes the memory of what a callable has returned. So the array must own its memory, have nothing
        in it that it does not show, and be laid out as `create` would; where the library cannot tell, it is False.
        """
        return False

    @abstractmethod
    def device_of_handle(self, handle: Handle) -> Any:
        """The device of the value in a handle, as `device` returns it."""

    def sharding_on(self, device: Any) -> Any:
        """How a value is spread that has this device, as `device_of_handle` says it; None if it lies in one place."""
        return None

    @abstractmethod
    def snapshot(self, handle: Handle) -> Array:
        """The current value, which later writes do not change. Called under the variable's lock.

        Should raise one of `late_errors` if it is already known that the value could not be computed.

        May set ``handle.published`` to the value.
        """

    #: Whether values can be read without the lock of the variable: the backend has the three verbs that follow.
    reads_unlocked: ClassVar[bool] = False

    def snapshot_unlocked(self, handle: Handle) -> Array | None:
        """Does what `snapshot` does, without the lock of the variable; None if it needs the lock.

        Another thread may be writing the handle. So the caller asks afterwards whether a write was under way, and drops
        the result if one was. A write verb that is called later must find that somebody has the array.
        """
        return None

    def lease(self, handles: Sequence[Handle]) -> list[Any] | None:
        """Keeps the values of many handles as they are, without making an array of each; None if that is impossible.

        Called without a lock, as `snapshot_unlocked`, and a write verb that is called later must find the lease.

        Returns:
            For each handle what keeps its value until it is dropped, and from which `leased` makes an array.
        """
        return None

    def leased(self, lease: Any) -> Array:
        """The value of a lease as an array. What is no lease but a snapshot already may be returned as it is."""
        return lease

    #: Tells of the array of a variable whether its memory was donated to a program; None if that cannot happen.
    #: Every read asks it, so it should be a function in C.
    is_destroyed: Callable[[Array], bool] | None = None

    def is_lost(self, array: Array) -> bool:
        """Whether an array, which may be traced, was donated to a program and no longer exists; see `is_destroyed`."""
        return False

    def snapshot_within_write(self, handle: Handle) -> Array:
        """A copy of the current value, for code that reads in the middle of a write of its own thread.

        A signal handler may run between two instructions of a write verb, which has perhaps found that nobody holds the
        value and is about to change it. So nothing here may share memory with the handle, or change what it caches.
        """
        host = np.array(self.to_host(self.snapshot(handle)))
        device = self.device_of_handle(handle)
        x = self.from_host(host, device)
        return self.snapshot(self.create(x, declared=host.shape, device=device, trainable=False))

    def is_computed(self, array: Any) -> bool:
        """Whether the library itself has computed an array, so that nobody can write its memory. False if it may not.

        Asked of the result of an `update`, which is copied otherwise. It may be anything.
        """
        return False

    # Each write verb is called under the lock, with the operand's dtype and shape checked, while no reader can reach
    # ``handle.published``. They share one signature so that there is one call site. An operand on another device is
    # moved to the device of the variable.

    @abstractmethod
    def assign(self, handle: Handle, x: Array, _op: Any = None, _where: Any = None) -> Handle:
        """Stores x, whose shape fits the declared shape: a copy of it, even if it is immutable.

        An immutable array may share the memory of somebody who can write it, for instance through DLPack.

        Args:
            _op: anything but None if x was computed from values of the variable, so that it need not be copied.
        """

    @abstractmethod
    def apply(self, handle: Handle, x: Array, op: Operation, _where: Any = None) -> Handle:
        """Stores ``op(value, x)`` where op is `operator.add`, sub, mul, and_, or_ or xor, and x broadcasts."""

    @abstractmethod
    def put(self, handle: Handle, x: Array, operation: str, where: Selection) -> Handle:
        """Applies one of `AT_OPERATIONS` at a selection, into which x broadcasts.

        An element selected twice is changed twice; ``set`` keeps the last of several values.
        """

    @abstractmethod
    def redeclare(self, handle: Handle, x: Array, _op: Any = None, _where: Any = None) -> Handle:
        """Stores x as `assign` does; it may have any shape, and the handle has that declared shape from now on."""

    def write_all(self, handles: list[Handle], xs: list[Array], op: Operation | None, began: list[bool]) -> bool:
        """Does `assign` (if op is None) or `apply` for many handles in one call of the library: all of them, or none.

        Called like a write verb, with the locks of all. Each operand has the shape of the value or, for an operator,
        the shape (). Where the handle of a variable changes, it is replaced in the list: an interrupt may keep the
        caller from a result.

        Args:
            began: gets an item before the first value changes. From then on all of them change, and what a signal
                handler raises meanwhile is raised afterwards.

        Returns:
            False, with nothing changed, if the library cannot do it in one call; or if code outside may have changed
            one of the values, so that `stored` must be asked.
        """
        return False

    def write_traced(self, handle: Handle, verb: str, x: Array, op: Any, where: Any) -> Handle:
        """Does a write verb, by its name, as a step of a program that the library is tracing."""
        written: Handle = getattr(self, verb)(handle, x, op, where)
        return written

    # `fork`, `fork_from_host`, `adopt` and `savepoint` copy here. An adapter can override them to share memory.

    def fork(self, handle: Handle, array: Array | None) -> Handle:
        """Makes a second handle that starts with a snapshot of this one and is then written independently of it.

        A better implementation shares the memory until it is written, and makes a lighter handle than `create` does.

        Args:
            array: a snapshot of this handle, of any age; None for the present value. The caller keeps it until the fork
                is adopted or dropped, so a handle that counts its readers may be its own fork.
        """
        array = self.snapshot(handle) if array is None else array
        return self.create(array, declared=self.shape(array), device=self.device_of_handle(handle), trainable=False)

    def fork_from_host(self, handle: Handle, array: HostArray) -> Handle:
        """Makes a handle like `fork`, but from a host array that nobody will write again.

        A better implementation uses the memory of the array.
        """
        return self.fork(handle, self.from_host(array, self.device_of_handle(handle)))

    def result_apart(self, handle: Handle, x: Array, op: Operation | None) -> Array | None:
        """Returns the value that `assign` (if op is None) or `apply` would store, in memory that nobody else has.

        A transaction keeps it in place of a fork, which takes longer to make, until it reads or writes the variable
        again: then it is given to `fork_of_result`, else to `adopt`, which for such a value does the same again if it
        is called again. x has the shape of the value or, for an operator, the shape ().

        Returns:
            None if a fork is better, as for a large value; and always if `adopt` of the result could fail. `adopt` of a
            fork may fail, unless `adopt_cannot_fail`.
        """
        return None

    def fork_of_result(self, handle: Handle, result: Array) -> Handle:
        """Makes a handle like `fork`, from a value that `result_apart` has returned."""
        raise NotImplementedError

    def prepare_adoption(self, handle: Handle, other: Handle) -> bool:
        """Does the part of `adopt` that may fail, if `adopt_cannot_fail`. Called before it, under the lock.

        No variable of the commit that needs it has changed yet, and no reader can reach their values.

        Returns:
            False if this `adopt` may fail nevertheless. The commit then remembers the old value.
        """
        return True

    #: Whether `prepare_adoption` is called for what `result_apart` has returned, too.
    prepares_results: ClassVar[bool] = False

    def adopt(self, handle: Handle, other: Handle) -> Handle:
        """Stores the value of a fork, which may have any shape. Called under the lock; the fork is not used again.

        In place of a fork it takes what `result_apart` has returned for the same handle.

        A better implementation copies nothing, since a commit adopts one fork after the other while readers wait.
        """
        return self.redeclare(handle, self.snapshot(other))

    #: Whether `adopt` never fails once `prepare_adoption` has returned True, and may be called again with the same fork
    #: after Ctrl-C interrupted it.
    adopt_cannot_fail: ClassVar[bool] = False

    def savepoint(self, handle: Handle) -> Handle:
        """Makes a handle from which `adopt` restores the present value if a commit fails.

        Not called where `adopt` cannot fail. A better implementation is lighter than a fork, since it is never written.
        """
        return self.fork(handle, None)

    def known(self, x: Array) -> HostArray | None:
        """The elements of an operand as a host array, or None if a traced program will compute them."""
        return None if self.is_symbolic(x) else self.to_host(x)

    def compute(self, old: Array, x: Array, op: Operation) -> Array:
        """Returns ``op(old, x)`` and changes neither; the result may have another dtype or shape."""
        return op(old, x)

    #: Computes ``op(left, right)`` of values, arrays and numbers for Python's operators, where the operators of the
    #: library do less than those of other libraries. None if they do not.
    operate: ClassVar[Any] = None  # a function, which a type checker would take for a method

    @abstractmethod
    def compute_put(self, old: Array, x: Array, operation: str, where: Selection) -> Array:
        """Returns the value that `put` would store, and changes neither array."""

    @abstractmethod
    def get(self, array: Array, where: Selection) -> Array:
        """Returns the selected elements; differentiable where the library is.

        A write to the result must not change the array, so it is no view, unless the library has no such writes.
        """

    #: Whether a fork keeps the rows that were written apart from the rest, so that `get_written` is asked before `get`.
    keeps_rows: ClassVar[bool] = False

    def get_written(self, handle: Handle, where: Selection) -> Array | None:
        """Does what `get` does with the value of a fork, without making the whole value; None if that is necessary."""
        return None

    # An index may have arrays of the library that lie on a device. If `takes_index`, they stay there, and the verbs
    # `get`, `put` and `compute_put` get an `OwnSelection`; else they are moved to the host, where NumPy checks them.

    #: Whether a write can no longer be in place once the value was read; reads at indices then ask `get_within` first.
    marks_reads: ClassVar[bool] = False

    def get_within(self, handle: Handle, where: Selection) -> Array | None:
        """Returns what `get` returns of the value in a handle, which nobody gets. Called under the variable's lock.

        The selection is not basic, so the elements are a copy. None if the whole value must be read after all.
        """
        return None

    def select_rows(self, index: Any, shape: Shape) -> Selection | None:
        """Checks an index of rows; None for any index that the library cannot check faster than the caller can.

        An optional short cut for the commonest indices: one array of the library, of integers or a mask.
        """
        return None

    def takes_index(self, part: Any) -> bool:
        """Whether a part of an index is an array of this library that should stay on its device."""
        return False

    def is_outside(self, indices: list[tuple[Array, int]]) -> bool:
        """Whether any index is out of the range of its axis, which has the given size. Only asked if `takes_index`."""
        raise NotImplementedError

    def count_nonzero(self, mask: Array) -> int:
        """The number of elements that a mask selects. Only asked if `takes_index`."""
        raise NotImplementedError

    def set_trainable(self, handle: Handle, trainable: bool) -> None:
        """Tells the library whether gradients of the handle are wanted."""

    def parameter(self, handle: Handle) -> Any:
        """The library's own mutable object that its optimizers write, or None if the library has none."""
        return None

    def resource(self, handle: Handle) -> Any:
        """The object by which the library's gradient functions name a variable, or None if they take the parameter."""
        return None

    def is_parameter(self, handle: Handle, thing: Any) -> bool:
        """Whether an object is what `parameter` returns. Unlike `parameter`, it changes nothing."""
        return False

    #: Whether the version counts every write, including those of the library's own functions through `parameter`.
    counts_all_writes: ClassVar[bool] = True

    #: Whether code outside can write a value without any count, so that an equal version does not prove an equal value.
    misses_writes: ClassVar[bool] = False

    #: Whether a handle can get a value of another dtype or shape behind our back, so that `stored` must be asked.
    drifts: ClassVar[bool] = False

    def stored(self, handle: Handle | None, dtype: str, writing: bool) -> Stored | None:
        """What is really stored, if code outside may have changed its dtype or shape, or made it impossible to write.

        Called before reads and writes if `drifts`, and for the shape. None if all is as the write verbs left it, which
        must be found out fast.

        Args:
            handle: None if the variable has no value yet.
            dtype: the dtype of the variable.
            writing: whether a write follows, and not a read.
        """
        return None

    def unseen_writes(self, handle: Handle) -> int:
        """The number of writes to the handle that did not come through the write verbs."""
        return 0

    # -- the processes of a distributed program --------------------------------------------------------------

    #: What tells two arrays of one type apart that need other steps in `all_reduce`: a function in C, and hashable.
    facts: ClassVar[Any] = operator.attrgetter("dtype", "shape")

    def processes(self) -> int:
        """The number of processes that the engine of the library runs, such as those of torch.distributed; else 1."""
        return 1

    def runs_per_shard(self) -> bool:
        """Whether the running code is that of one of several shards or replicas in a program, as in `jax.shard_map`.

        Then `all_reduce` combines the arrays of all of them, which have the same structure.
        """
        return False

    def all_reduce(self, arrays: Sequence[Array], reduction: str) -> list[Array]:
        """Combines arrays of one dtype over all processes or shards, in one collective. Each of them calls it.

        Args:
            reduction: ``"sum"``, ``"mean"`` (of floating-point and complex numbers), ``"min"``, ``"max"``, or
                ``"first"``: the arrays of process 0.

        Returns:
            New arrays of the same shapes, on the devices of the given ones. They have no gradient.
        """
        raise NotImplementedError

    def reduced_replicas(self, value: Any, reduction: str) -> Array:
        """One array of a value of `tf.distribute` that has one for each replica of this process."""
        raise NotImplementedError

    # -- for adapters whose library lacks an operation for a dtype ---------------------------------------

    def compute_on_host(self, old: Array, x: Array, op: Operation) -> Array:
        """Implements `compute` with NumPy."""
        host = self.to_host(old)
        result = np.asarray(op(host, self.to_host(x)))
        if op in _BITWISE:
            result = result.astype(host.dtype, copy=False)  # NumPy widens int4 and uint4
        return self.from_host(result, self.device_of(old))

    def in_range_on_host(self, before: Array, after: Array) -> bool:
        """Implements `in_range` with NumPy."""
        old, new = self.to_host(before), self.to_host(after)
        if dtypes.is_integer(self.dtype_name(after)):
            return bool(((new.astype(old.dtype) == old) & ((new < 0) == (old < 0))).all())
        return bool((np.isfinite(new) | ~np.isfinite(old)).all())

    def put_on_host(self, old: Array, x: Array, operation: str, where: Selection) -> Array:
        """Implements `compute_put` with NumPy."""
        if isinstance(where, OwnSelection):
            where = where.on_host()
        result = np.array(self.to_host(old))
        put_in_place(result, self.to_host(x), operation, where)
        return self.from_host(result, self.device_of(old))
