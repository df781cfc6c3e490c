"""What a variable is, beside its value: names, shape, dtype, place, flags; and how it is copied."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal, Self

from .._arrays.dtypes import HOST, is_differentiable
from .._arrays.shapes import DeclaredShape, Shape, is_static
from ..errors import DTypeError, UninitializedError, describe
from . import scopes
from .protocols import Protocols

__all__ = ["Aggregation", "Description"]

Aggregation = Literal["none", "mean", "sum", "only_first_replica"]


class Description(Protocols):
    """Properties of a variable, and its copies. Nothing here changes the value."""

    __slots__ = (
        "_aggregation",
        "_autocast",
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
        "_trainable",
        "_version",
    )

    _aggregation: Aggregation
    _autocast: bool
    _constraint: Callable[[Any], Any] | None
    _declared: DeclaredShape
    _device: Any
    _dtype: Any
    _dtype_name: str
    _handle: Any
    _lock: Any
    _name: str
    _path: str
    _shape: Shape | None
    _trainable: bool
    _version: int

    @abstractmethod
    def _current(self) -> Self:
        """Itself, or what stands for it in the transaction that runs."""

    @abstractmethod
    def _initialized(self, operation: str) -> Any:
        """The handle; raises UninitializedError if there is none."""

    @abstractmethod
    def _stored(self) -> Any:
        """The value in the dtype it is stored in."""

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
        shape = self._shape if not scopes.active else self._current()._shape
        if shape is not None:
            return shape
        declared = self.declared_shape
        if is_static(declared):
            return declared  # type: ignore[return-value]  # is_static says so
        raise UninitializedError(
            describe("shape", f"declared as {declared}, and no value yet", self._path, "read declared_shape")
        )

    @property
    def declared_shape(self) -> DeclaredShape:
        """What the shape may be: ``None`` for an open axis, ``...`` for any shape."""
        return self._declared if not scopes.active else self._current()._declared

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
        """How many writes there were. A write by the library's own optimizer counts where it can be seen.

        >>> import statevar as sv
        >>> sv.Variable(0).assign_add(1).assign_add(1).version
        2
        """
        current = self._current() if scopes.active else self
        handle = self._handle
        unseen = (
            0 if handle is None else self._backend.unseen_writes(handle)
        )  # first: it may bring the other up to date
        return current._version + unseen

    @property
    def is_initialized(self) -> bool:
        """Whether there is a value."""
        return (self._current() if scopes.active else self)._handle is not None

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
        return self._restore(self._state(self._current()._stored() if self.is_initialized else None))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        value = self._backend.to_host(self._current()._stored()).copy() if self.is_initialized else None
        state = self._state(value)
        if self.is_initialized and self._device is None:
            state["device"] = self._backend.device_name(self.device)
        elif self._device is not None:
            state["device"] = self._backend.device_name(self._device)
        return type(self)._restore, (state,)

    def _state(self, value: Any) -> dict[str, Any]:
        return {
            "initializer": value,
            "shape": self.declared_shape,
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
