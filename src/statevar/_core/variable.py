"""`Variable`: a named, mutable, thread-safe array of any library. Its methods are docstrings and a line or two each."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import deepcopy
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Literal, Never, Self, overload

from .._arrays import tracing
from .._arrays.dtypes import KEYS, STORED, dtype_name, is_differentiable, is_floating
from .._arrays.first_values import FirstValue
from .._arrays.indexing import is_basic, select
from .._arrays.registry import default_backend, get_backend, library_of, owner_of, register_types
from .._arrays.shapes import ShapeLike, canonical_shape
from .._arrays.types import DType, HostArray
from .._public import public
from ..errors import ComputationError, ConflictError, DTypeError, describe
from ..initializers import draws_anew
from . import overlays, placement, scopes, settings, views
from .at import At
from .cell import Cell
from .convert import inferred_dtype
from .copies import LOADING, Loading, added_state, is_copied, set_added_state, token
from .creation import initial_value, unexpected
from .deferring import DEPTH, Recipe, recipe_for, recipe_of, remember, suspended
from .display import variable_repr
from .displays import Displays
from .edit import edit
from .elsewhere import Elsewhere, refuses
from .flags import AGGREGATIONS, aggregation_of, check_constraint, flag
from .foreign import check_readable
from .forks import register
from .frozen import FrozenVariable
from .holders import watch_holders
from .holds import BUSY, IN_PROGRAMS, Hold
from .located import Located
from .lost import check_not_lost, destroyed
from .operators import has_traced, index_part
from .protocols import Protocols
from .readable import Aggregation, State
from .sharded import asked_sharding, check_seeded, check_shardable, placement_of, refused_at
from .shown import Shown
from .traced import check_traced_read
from .watchers import Callback, Subscription
from .writes import ASSIGN, KEPT, PUT, REDECLARE, refused

__all__ = ["Variable"]

_UPDATE, _UPDATE_KEPT = ASSIGN.of("update"), ASSIGN.of("update", KEPT)


def _count() -> int:
    new = object()
    return getrefcount(new)


_ONE_NAME = _count()  # the references of an object to which one name refers, as this Python counts them
#: The writes that a sparse operand makes writes of rows.
_AT = {"add": "at.add", "assign_add": "at.add", "subtract": "at.subtract", "assign_sub": "at.subtract"}


@public()
class Variable(Located, Protocols, Elsewhere, Displays):
    """A named, mutable, thread-safe array that behaves the same on every array library.

    Reading returns a snapshot that no later write changes, without a copy. A write is in place if nobody has a snapshot
    of the old value, happens as a whole or not at all, and is never lost to another thread.

    Args:
        initializer: a number or nested list; an array of any library, whose library the variable then
            follows; another variable, also of another framework; the name of an initializer (``"glorot_uniform"``);
            a callable that takes ``(shape, dtype)``, the shape alone, or nothing; or None, for a variable that has no
            value yet.
        shape: the shape that every value must fit: ``None`` is an open axis, ``...`` is any shape. Needed for names,
            variables without a value, and callables that take it. Its type is `statevar.Shape`.
        dtype: a name, a Python type, or any library's dtype. By default an array keeps its own; Python
            numbers become float32, int32, bool or complex64. On JAX without 64 bits an array of 64 bits becomes one
            of 32, if its values fit. Its type is `statevar.DType`.
        trainable: whether gradients are wanted; always False for dtypes without gradients.
        autocast: whether reads follow `autocast` scopes.
        aggregation: how the values of several replicas are combined that differ by replica, when one is written:
            ``"mean"``, ``"sum"``, ``"only_first_replica"``, or ``"none"``, with which they cannot be. It counts for
            `per_replica` values, and in ``strategy.run`` of TensorFlow. None, and a member of
            ``tf.VariableAggregation``, mean the one of their name.
        name: need not be unique; if omitted, a unique name is generated.
        backend: ``"numpy"``, ``"jax"``, ``"torch"``, ``"tensorflow"``, or the name of a third-party backend. By default
            the library of the initial array, or of the mesh; else NumPy.
        device: ``"CPU:0"``, ``"GPU:1"``, a device object of the library, or ``"auto"`` for the fastest device that can
            store the dtype. By default the device of the `device` scope, of the initial array, or the default of the
            library.
        sharding: how the value is spread over several devices or processes, on JAX and torch: for each axis of the
            value the name of the mesh axis over which it is cut, several names, or None; or a sharding object of the
            library. By default a variable follows an initial array that is spread, and else is not.
        mesh: the mesh of ``sharding``, an object of the library; by default that of the `mesh` scope. Alone it means
            that every device of the mesh has the whole value.
        constraint: a callable that every write applies to the new value, in the same atomic step.
        seed: the seed of a named random initializer. A seed gives the same numbers on every backend.
        shared: where the value lies in memory that processes share: ``"run7/w"`` is the variable ``w`` of the pool
            ``run7``; ``"/data/run7.svs/w"`` that of a file. The first process creates it with its initial value; the
            others get the value that it has, whatever their own. See `share`.

    Raises:
        DTypeError: the dtype is unknown, the library does not have it, or the value cannot be cast to it.
        DeviceError: there is no such device, or the value is spread over several devices or processes and a variable of
            this library cannot be.
        InitializerError: the initial value cannot be made.
        RangeError: a number is out of the dtype's range.
        ShapeError: the value does not have the declared shape.
        ShardingError: the value cannot be spread as asked.

    Source: ``keras.Variable`` and ``tf.Variable``.

    >>> import statevar as sv
    >>> v = sv.Variable([[1.0, 2.0], [3.0, 4.0]], name="w")
    >>> before = v.value
    >>> v.assign_add(10.0)[0, 1]
    np.float32(12.0)
    >>> before[0, 1]
    np.float32(2.0)
    """

    __slots__ = ("__dict__",)  # for attributes of the user's own; it costs 32 bytes, and no time

    def __init__(
        self,
        initializer: Any = None,
        shape: ShapeLike | None = None,
        dtype: DType | None = None,
        trainable: bool = True,
        autocast: bool = True,
        aggregation: Aggregation | None = "mean",
        name: str | None = None,
        *,
        backend: str | None = None,
        device: Any = None,
        sharding: Any = None,
        mesh: Any = None,
        constraint: Callable[[Any], Any] | None = None,
        seed: int | None = None,
        shared: str | os.PathLike[str] | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            raise unexpected(unknown, _ARGUMENTS)
        if aggregation not in AGGREGATIONS:
            aggregation = aggregation_of(aggregation)
        if name is not None:
            scopes.check_name(name)
        declared = None if shape is None else canonical_shape(shape)
        asked = None if dtype is None else dtype_name(dtype)
        recipe = None
        if DEPTH.get() and (recipe := recipe_for(initializer, declared, asked, seed)) is not None:
            initializer = seed = None
            declared = recipe.shape if declared is None else declared
        if seed is None and (owner := owner_of(initializer)) is not None:  # the usual case
            value, fresh, unmade = initializer, False, False
        else:
            value, asked, fresh = initial_value(initializer, declared, asked, seed)
            unmade = isinstance(value, FirstValue)
            owner = None if unmade else owner_of(value)
        path = "" if name is None else scopes.path_of(name)
        library = get_backend(backend) if backend is not None else owner or default_backend()
        place = scopes.current_device() if device is None else device
        if sharding is not None or mesh is not None:
            spec, mesh = asked_sharding(sharding, mesh, device, path)
            if backend is None and (owner is None or owner.is_host):  # the mesh says the library, as an array does
                library = library_of(mesh) or library_of(spec) or library
            spread = placement_of("Variable", library, value, spec, mesh, path)
        else:
            spread = None if library.is_host or place is not None else library.placement(value, None, None)
        if spread is not None:
            library, place = spread
            library = library.for_aggregation(aggregation)
            check_shardable(library, place, value, declared, path)
            if unmade and draws_anew(initializer, seed):
                check_seeded(path)
        if value is not None and not unmade:
            check_readable(value, owner, "Variable", path, library)
        if asked is None:
            asked = "float32"
            if value is not None:
                source = inferred_dtype(value, "Variable", path) if owner is None else owner.dtype_name(value)
                asked = library.default_dtype(source)
            elif recipe is not None:
                asked = library.default_dtype(recipe.dtype)
        if recipe is not None:
            recipe.settle(asked, declared, path)
        if constraint is not None:
            check_constraint(constraint, path)
        self._autocast = (autocast is True or flag("autocast", autocast)) and is_floating(asked)
        self._aggregation = aggregation
        Cell.__init__(
            self,
            library,
            asked,
            value,
            declared,
            device=place,
            trainable=trainable is True or flag("trainable", trainable),
            constraint=constraint,
            path=path,
            fresh=fresh,
        )
        if name is None:
            self._name = scopes.unique_name("variable")
            self._path = scopes.path_of(self._name)
            if placement.logged and self._handle is not None:
                placement.say_made(self)
        else:
            self._name = name
        if recipe is not None:
            remember(self, recipe)
        register(self)
        if shared is not None:
            _pooled().place(self, shared)

    # -- properties ------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name given at creation, or a generated name that is unique within its scope."""
        return self._name

    @property
    def path(self) -> str:
        """The names of the scopes open at creation and the variable's own name, joined by slashes."""
        return self._path

    @property
    def dtype(self) -> Any:
        """The dtype of the stored value, as a dtype object of the variable's library."""
        return self._dtype

    if not TYPE_CHECKING:
        dtype = dtype.setter(refuses("dtype", "the dtype of a variable never changes", "sv.Variable(v, dtype=…)"))

    @property
    def dtype_name(self) -> str:
        """The name of the dtype, which is the same on every backend."""
        return self._dtype_name

    @property
    def ndim(self) -> int:
        """The number of axes of the value."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements of the value."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def nbytes(self) -> int:
        """The number of bytes that the elements of the value would take in NumPy."""
        return self.size * STORED[self._dtype_name].itemsize

    @property
    def backend(self) -> str:
        """The name of the array library."""
        return self._backend.name

    @property
    def version(self) -> int:
        """The number of writes so far. Writes by the library's own optimizer are counted where they can be detected.

        A write that Ctrl-C stops may be counted although the value is the old one; a new value is always counted.

        >>> import statevar as sv
        >>> sv.Variable(0).assign_add(1).assign_add(1).version
        2
        """
        current = self._current() if overlays.active else self
        if self._backend.is_shared:
            return current._shared_version()
        handle = self._handle
        unseen = 0 if handle is None else self._backend.unseen_writes(handle)  # first, since it may update `_version`
        return current._version + unseen

    @property
    def shared(self) -> str | None:
        """Where the value lies in memory that processes share, such as ``"run7/w"``; None if it is of this process.

        >>> import statevar as sv
        >>> print(sv.Variable(0.0).shared)
        None
        """
        return _pooled().name_of(self) if self._backend.is_shared else None

    def sync(self) -> None:
        """Has the disk keep what was written, and everything else in the pool of the variable, before it returns.

        A pool in memory needs it for nothing: what was written survives every process, and no restart of the machine.

        Raises:
            SharedError: the variable is not shared, so that only `save` makes it last.
            StorageError: the disk refuses.
        """
        _pooled().sync(self)

    @property
    def is_initialized(self) -> bool:
        """Whether the variable has a value."""
        return (self._current() if overlays.active else self)._handle is not None

    @property
    def parameter(self) -> Any:
        """The library's own mutable object, for the library's optimizers: ``nn.Parameter`` or ``tf.Variable``.

        Raises:
            AttributeError: the library has no such object.
        """
        parameter = self._parameter_or_none()
        if parameter is None and self._backend.is_shared:
            problem = "a shared variable has no parameter: what writes it would write past the other processes"
            raise AttributeError(describe("parameter", problem, self._path, "use v.value, and write with v.assign(x)"))
        if parameter is None:
            raise AttributeError(
                describe("parameter", f"{self.backend} has no mutable parameter object", self._path, "use v.value")
            )
        return parameter

    def _parameter_or_none(self) -> Any:
        with self._lock:
            self._check_not_writing("parameter")
            if self._backend.drifts:
                self._observe("parameter", writing=False)
            parameter = self._backend.parameter(self._initialized("parameter"))
        if parameter is not None:
            self._gave(parameter)
        return parameter

    def _gave(self, thing: Any) -> None:
        views.lent(thing, self)

    # -- flags -----------------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        """Whether gradients of the variable are wanted.

        Raises:
            DTypeError: it is set to True for a dtype that has no gradients.
        """
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        trainable = flag("trainable", trainable, self._path)
        if trainable and not is_differentiable(self._dtype_name):
            raise DTypeError.of("trainable", f"{self._dtype_name} has no gradients", self._path)
        with self._lock:
            if self._handle is not None:
                self._backend.set_trainable(self._handle, trainable)
            self._trainable = trainable
        settings.changed()

    @property
    def constraint(self) -> Callable[[Any], Any] | None:
        """The callable that every write applies to the new value, or None."""
        return self._constraint

    @constraint.setter
    def constraint(self, constraint: Callable[[Any], Any] | None) -> None:
        if constraint is not None:
            check_constraint(constraint, self._path)
        self._constraint = constraint
        if self._backend.is_view:
            views.keep(self, constraint)
        settings.changed()

    @property
    def autocast(self) -> bool:
        """Whether reads return the dtype of an open `autocast` scope."""
        return self._autocast

    @property
    def aggregation(self) -> Aggregation:
        """How the values of several replicas are combined when one that differs by replica is written."""
        return self._aggregation

    # -- reading -------------------------------------------------------------------------------------

    @property
    def value(self) -> Any:
        """A snapshot of the value, as an array of the variable's library. No later write changes it.

        Raises:
            UninitializedError: no value has been assigned yet, or the value was donated to a program of JAX.

        >>> import statevar as sv
        >>> v = sv.Variable([1, 2])
        >>> snapshot = v.value
        >>> v += 1
        >>> snapshot, v.value
        (array([1, 2], dtype=int32), array([2, 3], dtype=int32))
        """
        snapshot = self._snapshot
        if snapshot is None or overlays.active:
            return self._read()
        if (keeps := tracing.anywhere) is not None:  # only a library that traces destroys arrays
            if keeps():
                check_traced_read(self)
            if (is_destroyed := self._backend.is_destroyed) is not None and is_destroyed(snapshot):
                raise destroyed("read", self._path)
        return snapshot

    if not TYPE_CHECKING:
        value = value.setter(
            refuses("value", "a value is read-only", "v.assign(x), or v[...] = x for a value that broadcasts")
        )

    def _read(self) -> Any:
        current = self._current() if overlays.active else self
        if (self._guard is not None or self._backend.traced_elsewhere is not None) and not current._is_value:
            check_traced_read(self)
        value = current._stored()
        if not overlays.active:
            return value
        if overlays.tapes():
            value = overlays.seen_by_tapes(self, value, overlays.current_values())
        cast_to = scopes.autocast_dtype() if self._autocast else None
        if cast_to is None or cast_to == self._dtype_name:
            return value
        return self._backend.cast(value, self._backend.dtype(cast_to))

    def _part_of_unread(self, index: Any) -> Any:
        if self._snapshot is not None or overlays.active or is_basic(index):
            return None
        backend, shape = self._backend, self._shape
        if shape is None or (backend.tracing is not None and backend.tracing.is_tracing()):
            return None
        if backend.traced_elsewhere is not None:  # else it is known already that no program keeps what is read
            check_traced_read(self)
        if (where := backend.select_rows(index, shape)) is None:  # most often they are, and `select` asks more
            if has_traced(backend, index):
                return None
            where = select(index, shape, "", backend, index_part)
        with self._lock:
            handle = self._handle
            if handle is None or self._holder is not None or IN_PROGRAMS or self._shape != shape or where.basic:
                return None
            if self._backend is not backend:  # the variable has moved meanwhile
                return None
            try:
                return backend.get_within(handle, where)
            except backend.late_errors as error:
                raise ComputationError.late("read", backend.name, error, self._path) from error

    def _part_of_draft(self, index: Any) -> Any:
        overlay = overlays.current()
        if overlay is None or overlay.holds_values or overlays.tapes():
            return None
        if self._autocast and scopes.autocast_dtype() is not None:
            return None
        current: Cell = overlay.read(self)
        if current is self or current._snapshot is not None or (handle := current._handle) is None:
            return None
        if self._backend.traced_elsewhere is not None:
            check_traced_read(self)
        return self._backend.get_written(handle, select(index, current.shape, "", self._backend, index_part))

    def numpy(self) -> HostArray:
        """Returns a copy of the value as a writable NumPy array.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0])
        >>> v.numpy()[0] = 9.0
        >>> v.value
        array([1., 2.], dtype=float32)
        """
        return self.__array__(copy=True)

    # -- writing ---------------------------------------------------------------------------------------

    @overload
    def assign(
        self,
        value: Any,
        validate_shape: bool = True,
        use_locking: bool = True,
        name: str | None = None,
        *,
        read_value: Literal[True] = True,
    ) -> Self: ...
    @overload
    def assign(
        self,
        value: Any,
        validate_shape: bool = True,
        use_locking: bool = True,
        name: str | None = None,
        *,
        read_value: Literal[False],
    ) -> None: ...
    def assign(
        self,
        value: Any,
        validate_shape: bool = True,
        use_locking: bool = True,
        name: str | None = None,
        read_value: bool = True,
    ) -> Self | None:
        """Replaces the value.

        Args:
            value: a number, nested list, variable, or array of any library, of the variable's shape; it is not
                broadcast. It is cast if its kind of dtype and its range allow that without loss.
            validate_shape: False changes the shape to that of ``value``, and the declared shape too if need be.
            use_locking: False computes the new value without a lock, and always copies. The write still happens as a
                whole, but it may overwrite a write of another thread.
            name: accepted for compatibility with ``tf.Variable.assign``; it has no effect, as in TensorFlow.
            read_value: False returns None, as in TensorFlow.

        Returns:
            The variable.

        Raises:
            DTypeError: the cast would lose the fraction, the imaginary part, or a NaN.
            RangeError: a number is out of the dtype's range.
            ShapeError: the shape of ``value`` does not fit the declared shape.

        Source: ``tf.Variable.assign``, ``tf.raw_ops.Assign``.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0])
        >>> v.assign([3.0, 4.0]).assign([[5.0]], validate_shape=False).shape
        (1, 1)
        """
        written = self._write(ASSIGN if validate_shape else REDECLARE, value, None, use_locking)
        return written if read_value else None

    @overload
    def assign_add(
        self, value: Any, use_locking: bool = True, name: str | None = None, *, read_value: Literal[True] = True
    ) -> Self: ...
    @overload
    def assign_add(
        self, value: Any, use_locking: bool = True, name: str | None = None, *, read_value: Literal[False]
    ) -> None: ...
    def assign_add(
        self, value: Any, use_locking: bool = True, name: str | None = None, read_value: bool = True
    ) -> Self | None:
        """Adds to the value; ``value`` broadcasts into the variable's shape.

        Arguments and errors are those of `assign`. Of two threads that add at the same time, neither update is lost.

        Source: ``tf.Variable.assign_add``.

        >>> import statevar as sv
        >>> sv.Variable([1, 2]).assign_add(1).value
        array([2, 3], dtype=int32)
        """
        written = self._apply("assign_add", value, use_locking)
        return written if read_value else None

    @overload
    def assign_sub(
        self, value: Any, use_locking: bool = True, name: str | None = None, *, read_value: Literal[True] = True
    ) -> Self: ...
    @overload
    def assign_sub(
        self, value: Any, use_locking: bool = True, name: str | None = None, *, read_value: Literal[False]
    ) -> None: ...
    def assign_sub(
        self, value: Any, use_locking: bool = True, name: str | None = None, read_value: bool = True
    ) -> Self | None:
        """Subtracts from the value; otherwise like `assign_add`.

        >>> import statevar as sv
        >>> sv.Variable([1, 2]).assign_sub(1).value
        array([0, 1], dtype=int32)
        """
        written = self._apply("assign_sub", value, use_locking)
        return written if read_value else None

    def _apply(self, operation: str, other: Any, use_locking: bool = True) -> Self:
        try:
            write = self._writes[operation]
        except KeyError:
            raise refused(operation, self._dtype_name, self._path) from None
        try:
            return self._write(write, other, None, use_locking)
        except DTypeError:  # also of what is no dense array; asking before would make each write slower
            if operation not in _AT or (rows := self._backend.rows_in(other)) is None:
                raise
        return self._write(self._writes[_AT[operation]], rows[1], rows[0], use_locking)

    def update(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Replaces the value by ``fn(value, *args)`` in one atomic step.

        Meanwhile other threads read the old value; threads that write the variable wait.

        Args:
            fn: gets the snapshot and returns the new value; it is called once, and may read and write other variables.

        Returns:
            The value that was written.

        Raises:
            ConflictError: waiting for another thread would be a deadlock.
            DTypeError, RangeError, ShapeError: as `assign`, for the result of ``fn``. The variable has not changed
                then, nor if ``fn`` raises.
            ReentrantWriteError: ``fn`` writes the same variable.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0])
        >>> v.update(lambda a, rate: a * (1 - rate), 0.5)
        array([0.5, 1. ], dtype=float32)
        """
        tracing = self._backend.tracing
        if tracing is not None and tracing.is_tracing():
            return self.assign(fn(self.value, *args)).value

        def body(target: Cell, hold: Hold) -> Any:
            target._initialized("update")
            new = fn(target._stored(), *args)
            write = _UPDATE
            if getrefcount(new) == _ONE_NAME and target._constraint is None and not target._is_value:
                write = _UPDATE_KEPT if target._backend.is_computed(new) else write  # nobody can donate it either
            target._write_held(write, new, hold)
            return target._stored()

        return self._while_held("update", "an update", body)

    def edit(self, index: Any = ...) -> AbstractContextManager[HostArray]:
        """Returns a context manager that gives a writable NumPy array, and stores it when the ``with`` block ends.

        The array is a copy of the elements, stored in one write; if the block raises, it is dropped. Meanwhile other
        threads read the old value; threads that write the variable wait. After the block the array is read-only.

        Args:
            index: selects the elements to edit, by NumPy's indexing; by default all.

        Raises:
            IndexingError: the index is not valid for the variable's shape.
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

        Writes by a compiled function or by the library's own optimizer do not end the wait. Those of other processes
        end it, if the variable is shared.

        Args:
            version: a `version`, which counts the writes: ``v.wait(v.version + 1)`` waits for the next write.
            timeout: the longest time to wait, in seconds; None is without limit.

        Returns:
            True if the version was reached, False after the timeout.

        Raises:
            ConflictError: the caller holds the variable in a transaction, an update or an edit.

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
            raise ConflictError.of(
                "wait",
                f"this thread holds the variable for {holder.what}, so no other thread can write version {version}",
                self._path,
                f"wait before or after {holder.what}",
            )
        if self._backend.is_shared:
            return bool(_pooled().wait(self, version, timeout))
        return self._watched().wait_for(lambda: self.version >= version, timeout)

    def subscribe(self, callback: Callback) -> Subscription:
        """Calls ``callback(variable, version)`` after every committed write, in order.

        The callback runs without a lock, in the thread that wrote or in another that wrote at the same time. If it
        raises, the exception is logged (logger ``"statevar"``) and the write stays done. If it is a bound method, the
        subscription ends with its object; any other callable is kept alive until `Subscription.cancel`. What another
        process writes to a shared variable is told by a thread of its own.

        >>> import statevar as sv
        >>> v = sv.Variable(0)
        >>> with v.subscribe(lambda variable, version: print(version, variable.value)):
        ...     _ = v.assign(5).assign(6)
        1 5
        2 6
        """
        if not callable(callback):
            raise TypeError(describe("subscribe", f"expected a callable, got {callback!r}", self._path))
        if self._backend.is_shared:
            subscription: Subscription = _pooled().subscribe(self, callback)
            return subscription
        subscription = self._watched().add(callback)
        if self._backend.is_view:
            views.keep_subscribed(self, subscription)
        return subscription

    def __setitem__(self, index: Any, value: Any) -> None:
        """Writes the elements that NumPy's indexing selects; ``value`` broadcasts to them."""
        self._write(PUT, value, index)

    @property
    def at(self) -> At[Self]:
        """Writes elements: ``v.at[i].add(x)``. An element that is selected twice is changed twice, in order.

        The other methods are ``set``, ``subtract``, ``multiply``, ``divide``, ``floor_divide``, ``remainder``,
        ``power``, ``min`` and ``max``.

        Source: ``jax.numpy.ndarray.at``, ``numpy.ufunc.at``.

        >>> import statevar as sv
        >>> v = sv.Variable([0, 0, 0])
        >>> v.at[[0, 2, 2]].add(1).value
        array([1, 0, 2], dtype=int32)
        """
        return At(self._put)

    def _put(self, operation: str, index: Any, value: Any) -> Self:
        try:
            write = self._writes[operation]
        except KeyError:
            raise refused(operation, self._dtype_name, self._path) from None
        try:
            return self._write(write, value, index)
        except DTypeError:
            whole = index is ... or (isinstance(index, slice) and index == slice(None))
            if not whole or (rows := self._backend.rows_in(value)) is None:
                raise
        return self._write(write, rows[1], rows[0])

    # -- copies ----------------------------------------------------------------------------------------

    def __copy__(self) -> Self:
        copied = self._rebuilt()
        copied._constraint = self._constraint
        set_added_state(copied, self.__getstate__())
        return copied

    def __deepcopy__(self, memo: dict[Any, Any]) -> Self:
        copied: Self = views.copied_with_its_thing(self, memo) if self._backend.is_view else self._rebuilt()
        is_copied(self, copied, memo)
        copied._constraint = deepcopy(self._constraint, memo)
        set_added_state(copied, deepcopy(self.__getstate__(), memo))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        if self._backend.is_view:
            problem = "a view cannot be pickled without the object whose state it is"
            hint = "pickle that object, and take a view of the new one; or pickle a copy: sv.Variable(v)"
            raise TypeError(describe("pickle", problem, self._path, hint))
        if self._backend.is_shared:
            pickled: tuple[Any, ...] = _pooled().pickled(self, (self._constraint, self.__getstate__()))
            return pickled
        facts = self._pickled(self._whole_state("pickle"))
        constraint, state = self._constraint, self.__getstate__()
        if constraint is None and state is None:
            return type(self)._restore, (facts,)
        # Apart from the facts, since they may refer to the variable.
        return type(self)._restore, (facts,), (constraint, state), None, None, Variable._set_added

    def __getstate__(self) -> Any:
        """The attributes that a subclass has added; a subclass may return something else, for its ``__setstate__``."""
        return added_state(self, Variable)

    def _whole_state(self, operation: str) -> State:
        state = self._current()._state()
        if state.value is None:
            check_not_lost(self._current(), operation)
        return state

    def _rebuilt(self) -> Self:
        state = self._whole_state("copy")
        place = "sharding" if self._backend.is_sharded else "device"
        return self._restore(self._facts(state.value, state.declared) | {place: self._device})

    def _pickled(self, state: State) -> dict[str, Any]:
        """The facts for a pickle of the variable as it was at one moment."""
        backend = self._backend
        with refused_at("pickle", self._path):
            value = None if state.value is None else backend.packed(state.value).copy()
        device = self._device if state.value is None else self.device
        facts = self._facts(value, state.declared)
        # Where a value is spread over is not pickled: another process has other devices.
        is_spread = device is None or backend.sharding_on(device) is not None
        facts["device"] = None if is_spread else backend.device_name(device)
        return facts | {"token": token(self), "loading": LOADING}

    def _facts(self, value: Any, declared: Any) -> dict[str, Any]:
        return {
            "initializer": value,
            "shape": declared,
            "dtype": self._dtype_name,
            "trainable": self._trainable,
            "autocast": self._autocast,
            "aggregation": self._aggregation,
            "name": self._name,
            "backend": self._backend.name,
            "path": self._path,
            "recipe": None if value is not None or (recipe := recipe_of(self)) is None else recipe.parts(),
        }

    @classmethod
    def _restore(cls, facts: dict[str, Any]) -> Self:
        """Makes a variable of the facts in a pickle or a copy. A subclass's ``__init__`` may need other arguments."""
        facts = facts.copy()
        path, number, loading = facts.pop("path"), facts.pop("token", None), facts.pop("loading", None)
        recipe = facts.pop("recipe", None)
        packed = KEYS.get(facts["dtype"])  # what `_pickled` has made of random keys
        if packed is not None and getattr(facts["initializer"], "dtype", None) == packed:
            facts["initializer"] = get_backend(facts["backend"]).from_host(facts["initializer"], None)
        variable = object.__new__(cls)
        with suspended():  # a copy has what its original has
            Variable.__init__(variable, **facts)
        variable._path = path
        if recipe is not None:
            remember(variable, Recipe(*recipe))
        if loading is not None:
            loading.loaded[number] = variable
        return variable

    @classmethod
    def _attached(cls, where: Any, path: str, other: dict[str, Any]) -> Self:
        """Makes a variable over the memory of a shared one that was pickled."""
        return _pooled().attached(where, path, other, cls._restore)  # type: ignore[no-any-return]  # it returns its object

    @staticmethod
    def _set_added(variable: Variable, added: tuple[Any, Any]) -> None:
        variable._constraint, state = added
        set_added_state(variable, state)

    _Loading = Loading  # the name of the class in pickles

    _repr_pretty_ = Shown._repr_pretty_  # IPython looks no further than the class with `__repr__`

    def __repr__(self) -> str:
        return variable_repr(self)


def _pooled() -> Any:
    """The module about places in pools."""
    from . import pooled  # noqa: PLC0415  # imported by the first program that shares a variable

    return pooled


#: The arguments of `Variable`.
_ARGUMENTS = [each for each in Variable.__init__.__annotations__ if each not in ("unknown", "return")]


# So that `jnp.sin(v)` and `jax.jit(f)(v)` accept a variable of any backend.
register_types(Variable, FrozenVariable)
# So that `net.w = v` is seen by the library of `net`, or is an error.
watch_holders(Variable)
