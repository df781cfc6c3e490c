"""`Variable`: a named, mutable, thread-safe array of any library. The only writer of its handle."""

from __future__ import annotations

import operator
from collections.abc import Callable
from threading import RLock
from typing import Any, Literal, Self

from . import _scopes
from ._at import At
from ._backend import Array, HostArray, Operation
from ._convert import inferred_dtype, to_operand
from ._creation import initial_value
from ._display import variable_repr
from ._dtypes import HOST, dtype_name, is_differentiable, is_floating
from ._frozen import FrozenVariable
from ._indexing import Selection, select
from ._operations import check_operator, closed_operators
from ._protocols import Protocols
from ._registry import attach, default_backend, get_backend, owner_of
from ._shapes import DeclaredShape, Shape, broadcasts_into, canonical_shape, fits, is_static
from .errors import (
    DTypeError,
    ReentrantWriteError,
    ShapeError,
    TraceError,
    UninitializedError,
    describe,
)

__all__ = ["Aggregation", "Variable"]

Aggregation = Literal["none", "mean", "sum", "only_first_replica"]
_AGGREGATIONS = ("none", "mean", "sum", "only_first_replica")


#: Raises if an operand does not fit the variable; returns the selection, the new shape, or None.
Check = Callable[[str, Any, Any], Any]


class Variable(Protocols):
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
        "_aggregation",
        "_autocast",
        "_backend",
        "_closed",
        "_constraint",
        "_declared",
        "_device",
        "_dtype",
        "_dtype_name",
        "_handle",
        "_lock",
        "_name",
        "_path",
        "_shape",
        "_snapshot",
        "_trainable",
        "_version",
        "_writing",
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
            _scopes.check_name(name)
        declared = None if shape is None else canonical_shape(shape)
        asked = None if dtype is None else dtype_name(dtype)
        value, asked = initial_value(initializer, declared, asked, seed)
        library = get_backend(backend) if backend is not None else owner_of(value) or default_backend()
        if value is not None:
            asked = asked or inferred_dtype(value, "Variable")
        self._dtype_name: str = asked or "float32"
        self._dtype: Any = library.dtype(self._dtype_name)
        self._closed = closed_operators(self._dtype_name)
        place = _scopes.current_device() if device is None else device
        self._device: Any = None if place is None else library.device(place)
        self._backend = library
        self._lock = RLock()
        self._writing = False
        self._snapshot: Any = None
        self._handle: Any = None
        self._version = 0
        self._autocast = bool(autocast) and is_floating(self._dtype_name)
        self._aggregation: Aggregation = aggregation
        self._trainable = bool(trainable) and is_differentiable(self._dtype_name)
        self._constraint: Callable[[Any], Any] | None = None
        self._path = "" if name is None else _scopes.path_of(name)
        self.constraint = constraint
        if value is None:
            assert declared is not None
            self._declared: DeclaredShape = declared
            self._shape: Shape | None = None
        else:
            self._initialize(value, declared)
        self._name: str = _scopes.unique_name("variable") if name is None else name
        self._path = _scopes.path_of(self._name)

    def _initialize(self, value: Any, declared: DeclaredShape | None) -> None:
        backend = self._backend
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
        self._shape = shape
        self._keep(backend.create(x, declared=self._declared, device=self._device, trainable=self._trainable))

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
        if snapshot is None or _scopes.active:
            return self._read()
        return snapshot

    def _read(self) -> Any:
        value = self._stored()
        cast_to = _scopes.autocast_dtype() if _scopes.active and self._autocast else None
        if cast_to is None or cast_to == self._dtype_name:
            return value
        return self._backend.cast(value, self._backend.dtype(cast_to))

    def _stored(self) -> Any:
        """The value in the dtype it is stored in, whatever autocast scopes are open."""
        snapshot = self._snapshot
        if snapshot is not None:
            return snapshot
        backend = self._backend
        if backend.traces and backend.is_tracing():
            return backend.traced_value(self._initialized("read"))
        with self._lock:
            handle = self._initialized("read")
            value = backend.snapshot(handle)
            if not self._writing:
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
            use_locking: False takes no lock on NumPy and JAX, and always copies: each write happens whole, and
                may overwrite that of another thread. Torch and TensorFlow hold a mutable object, and lock.
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
            return self._write("assign", self._backend.redeclare, self._redeclares, value, None, None, use_locking)
        return self._write("assign", self._backend.assign, self._fits, value, None, None, use_locking)

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
            return self._write(operation, self._backend.apply, self._broadcasts, other, op, None, use_locking)
        check_operator(operation, op, self._dtype_name, self._path)
        check = self._multiplies if op is operator.matmul else self._broadcasts
        return self._write(operation, None, check, other, op, None, use_locking)

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
        return self._write(operation or f"at.{kind_}", self._backend.put, self._selects, value, kind_, index)

    def _write(
        self,
        operation: str,
        verb: Any,
        check: Check,
        value: Any,
        op: Any,
        index: Any,
        locking: bool = True,
    ) -> Self:
        """The only way a variable changes. Converts, locks, checks, hides the snapshot, writes, publishes.

        Args:
            operation: its name, for errors.
            verb: the backend's write verb; None to compute the new value first and then assign it.
            check: raises if x does not fit; returns the selection, the new shape, or None.
            op: the operator, or the kind of write at an index.
        """
        backend = self._backend
        x = backend.operand(value, self._dtype)
        if x is None:
            x = to_operand(value, backend, self._dtype_name, operation=operation, path=self._path)
        if backend.traces and backend.is_tracing():
            return self._write_traced(operation, verb, check, x, op, index)
        if not locking and backend.replaceable and self._handle is not None:
            return self._write_unlocked(operation, check, x, op, index)
        self._lock.acquire()  # `with` takes 0.08 us more
        try:
            if self._writing:
                raise ReentrantWriteError(
                    describe(operation, "a write to this variable is under way in this thread", self._path)
                )
            self._writing = True
            try:
                handle = self._handle
                if handle is None:
                    self._first_write(operation, check, x)
                    return self
                where = check(operation, x, index)
                if verb is None or self._constraint is not None:
                    x = self._computed(operation, backend.snapshot(handle), x, op, where)
                    verb = backend.redeclare if check == self._redeclares else backend.assign
                self._snapshot = None  # no new reader can take it now; those who did are counted
                try:
                    handle = verb(handle, x, op, where)
                finally:
                    self._handle = handle
                    self._snapshot = handle.published
                if type(where) is tuple:
                    self._shape = where
                    self._declared = where if not fits(where, self._declared) else self._declared
                self._version += 1
            finally:
                self._writing = False
        finally:
            self._lock.release()
        return self

    def _write_unlocked(self, operation: str, check: Check, x: Array, op: Any, index: Any) -> Self:
        """Computes aside and swaps the handle. A write of another thread may be overwritten, whole; none is mixed.

        In place, two writers would meet in one buffer, under a reader's snapshot; on JAX, in a donated one.
        """
        backend = self._backend
        where = check(operation, x, index)
        x = self._computed(operation, self._stored(), x, op, where)
        shape = backend.shape(x)
        declared = self._declared if fits(shape, self._declared) else shape
        self._handle = backend.create(x, declared=declared, device=self._device, trainable=self._trainable)
        self._snapshot = None  # the next reader publishes the handle that it then finds
        self._shape, self._declared = shape, declared
        self._version += 1
        return self

    def _keep(self, handle: Any) -> None:
        self._handle = handle
        self._snapshot = handle.published

    def _first_write(self, operation: str, check: Check, x: Array) -> None:
        if check not in (self._fits, self._redeclares):
            self._initialized(operation)
        shape = check(operation, x, None)
        if self._constraint is not None:
            x = self._computed(operation, None, x, None, None)
        if not fits(shape, self._declared):
            self._declared = shape
        backend = self._backend
        self._keep(backend.create(x, declared=self._declared, device=self._device, trainable=self._trainable))
        self._shape = shape
        self._version += 1

    def _write_traced(self, operation: str, verb: Any, check: Check, x: Array, op: Any, index: Any) -> Self:
        """A write that becomes part of a traced program: no lock, no snapshot, no Python counter."""
        backend = self._backend
        if not backend.writes_when_traced:
            raise TraceError(
                describe(
                    operation,
                    "this code is being traced: the write would happen once, now, and never again",
                    self._path,
                    "return the new value from the traced function and assign it outside",
                )
            )
        handle = self._initialized(operation)
        where = check(operation, x, index)
        if verb is None or self._constraint is not None:
            x = self._computed(operation, backend.traced_value(handle), x, op, where)
            verb = backend.assign
        self._handle = verb(handle, x, op, where)
        return self

    def _computed(self, operation: str, old: Any, x: Array, op: Any, where: Any) -> Array:
        """The value to assign: what the operation gives, constrained, checked against dtype and shape."""
        backend = self._backend
        shape = backend.shape(x) if op is None else self._shape
        new = x
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

    # What a write checks, under the lock, against the shape the variable has then.

    def _fits(self, operation: str, x: Array, index: None) -> Shape | None:
        if getattr(x, "shape", False) == self._shape:  # most arrays have it; a verb call costs 0.1 us
            return None
        shape = self._backend.shape(x)
        if not fits(shape, self._declared):
            raise ShapeError(
                describe(
                    operation,
                    f"expected shape {self._declared}, got {shape}",
                    self._path,
                    "pass validate_shape=False to change the shape",
                )
            )
        return shape

    def _redeclares(self, operation: str, x: Array, index: None) -> Shape:
        return self._backend.shape(x)

    def _broadcasts(self, operation: str, x: Array, index: None) -> None:
        shape = getattr(x, "shape", None)
        if shape == self._shape or shape == ():
            return
        shape = self._backend.shape(x)
        if not broadcasts_into(shape, self.shape):
            raise ShapeError(describe(operation, f"shape {shape} does not broadcast into {self._shape}", self._path))

    def _selects(self, operation: str, x: Array, index: Any) -> Selection:
        where = select(index, self.shape, self._path)
        shape = self._backend.shape(x)
        if not broadcasts_into(shape, where.shape):
            raise ShapeError(
                describe(operation, f"shape {shape} does not broadcast into the selected {where.shape}", self._path)
            )
        return where

    def _multiplies(self, operation: str, x: Array, index: None) -> None:
        shape, mine = self._backend.shape(x), self.shape
        square = (mine[-1:] or (0,)) * 2
        if not mine or shape[-2:] != square or not broadcasts_into(shape[:-2], mine[:-2]):
            raise ShapeError(
                describe(operation, f"expected a matrix of shape {square} for {mine}, got {shape}", self._path)
            )

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name given at creation, or a default one that is unique within its scope."""
        return self._name

    @property
    def path(self) -> str:
        """The names of the scopes at creation and the variable's own, joined by slashes."""
        return self._path

    @property
    def shape(self) -> Shape:
        """The shape of the value; what is declared, for a variable without a value.

        Raises:
            UninitializedError: there is no value, and the declared shape is open.
        """
        shape = self._shape
        if shape is not None:
            return shape
        if is_static(self._declared):
            return self._declared  # type: ignore[return-value]  # is_static says so
        raise UninitializedError(
            describe("shape", f"declared as {self._declared}, and no value yet", self._path, "read declared_shape")
        )

    @property
    def declared_shape(self) -> DeclaredShape:
        """What the shape may be: ``None`` for an open axis, ``...`` for any shape."""
        return self._declared

    @property
    def dtype(self) -> Any:
        """The dtype of what is stored, as an object of the variable's library."""
        return self._dtype

    @property
    def dtype_name(self) -> str:
        """The dtype's name, the same on every backend."""
        return self._dtype_name

    @property
    def ndim(self) -> int:
        """How many axes the value has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements the value has."""
        count = 1
        for length in self.shape:
            count *= length
        return count

    @property
    def nbytes(self) -> int:
        """How many bytes the value's elements take, as NumPy would store them."""
        return self.size * HOST[self._dtype_name].itemsize

    @property
    def device(self) -> Any:
        """Where the value lies, as the library names it."""
        handle = self._handle
        if handle is not None:
            return self._backend.placed(handle)
        return self._backend.device(None) if self._device is None else self._device

    @property
    def backend(self) -> str:
        """The name of the array library."""
        return self._backend.name

    @property
    def version(self) -> int:
        """How many writes there were. A write by the library's own optimizer counts where it can be seen."""
        handle = self._handle
        return self._version + (0 if handle is None else self._backend.unseen_writes(handle))

    @property
    def is_initialized(self) -> bool:
        """Whether there is a value."""
        return self._handle is not None

    @property
    def parameter(self) -> Any:
        """The library's own mutable object, for its own optimizers: ``nn.Parameter``, ``tf.Variable``.

        Raises:
            AttributeError: the library has none.
        """
        with self._lock:
            parameter = self._backend.parameter(self._initialized("parameter"))
        if parameter is None:
            raise AttributeError(
                describe("parameter", f"{self.backend} has no mutable parameter object", self._path, "use v.value")
            )
        return parameter

    # -- flags -----------------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        """Whether gradients are wanted.

        Raises:
            DTypeError: on setting it to True for a dtype that has no gradients.
        """
        return self._trainable

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        if trainable and not is_differentiable(self._dtype_name):
            raise DTypeError(describe("trainable", f"{self._dtype_name} has no gradients", self._path))
        with self._lock:
            self._trainable = bool(trainable)
            if self._handle is not None:
                self._backend.set_trainable(self._handle, self._trainable)

    @property
    def constraint(self) -> Callable[[Any], Any] | None:
        """The callable that every write applies to the new value, if any."""
        return self._constraint

    @constraint.setter
    def constraint(self, constraint: Callable[[Any], Any] | None) -> None:
        if constraint is not None and not callable(constraint):
            raise TypeError(describe("constraint", f"expected a callable or None, got {constraint!r}", self._path))
        self._constraint = constraint

    @property
    def autocast(self) -> bool:
        """Whether `autocast` scopes change what reads return."""
        return self._autocast

    @property
    def aggregation(self) -> Aggregation:
        """How the values of replicas are combined."""
        return self._aggregation

    # -- copies ----------------------------------------------------------------------------------------

    def __copy__(self) -> Self:
        return self._restore(self._state(self._stored() if self.is_initialized else None))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        value = self._backend.to_host(self._stored()).copy() if self.is_initialized else None
        state = self._state(value)
        if self.is_initialized and self._device is None:
            state["device"] = self._backend.device_name(self.device)
        elif self._device is not None:
            state["device"] = self._backend.device_name(self._device)
        return _restored, (type(self), state)

    def _state(self, value: Any) -> dict[str, Any]:
        return {
            "initializer": value,
            "shape": self._declared,
            "dtype": self._dtype_name,
            "trainable": self._trainable,
            "autocast": self._autocast,
            "aggregation": self._aggregation,
            "name": self._name,
            "backend": self._backend.name,
            "device": self._device,
            "constraint": self._constraint,
            "path": self._path,
        }

    @classmethod
    def _restore(cls, state: dict[str, Any]) -> Self:
        path = state.pop("path")
        variable = cls(**state)
        variable._path = path
        return variable

    def __repr__(self) -> str:
        return variable_repr(self)


def _restored(cls: type[Variable], state: dict[str, Any]) -> Variable:
    return cls._restore(state)


# Lets `jnp.sin(v)` and `jax.jit(f)(v)` take a variable of any backend.
attach(Variable, FrozenVariable)
