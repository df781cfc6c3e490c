"""`FrozenVariable`: the read-only copy that a library's transform gets in place of a variable."""

from __future__ import annotations

from typing import Any, NoReturn

from .._arrays.backend import Backend
from .._arrays.registry import default_backend, owner_of
from .._arrays.shapes import Shape
from .._public import public
from ..errors import ReadOnlyError
from .displays import FrozenDisplays
from .protocols import Protocols
from .shown import Shown

__all__ = ["FrozenVariable"]


@public()
class FrozenVariable(Protocols, FrozenDisplays):
    """The value of a variable inside or after a transform that copies its arguments, such as ``jax.jit``.

    It reads and computes like the variable. A write to it would be lost, so it raises `ReadOnlyError`. A transform
    also returns one for each variable, for example for its gradient: take ``.value``.
    """

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: Any) -> None:
        self._value = value

    @property
    def _backend(self) -> Backend:  # type: ignore[override]  # a slot in Variable, a property here
        return owner_of(self._value) or default_backend()

    @property
    def value(self) -> Any:
        """The array, or the object that the transform put in its place."""
        return self._value

    @property
    def shape(self) -> Shape:
        """The shape of the value."""
        return self._backend.shape(self._value)

    @property
    def dtype(self) -> Any:
        """The dtype of the value."""
        return self._value.dtype

    @property
    def ndim(self) -> int:
        """The number of axes of the value."""
        return len(self.shape)

    def __getstate__(self) -> Any:
        state: tuple[Any, dict[str, Any]] = object.__getstate__(self)  # type: ignore[assignment]  # there is a slot
        attributes, slots = state
        owner = owner_of(self._value)
        if owner is not None and (value := owner.operand(self._value, self._value.dtype)) is not None:
            slots["_value"] = value  # without its gradient, which neither a copy nor a pickle can have
        return attributes, slots

    _repr_pretty_ = Shown._repr_pretty_  # IPython looks no further than the class with `__repr__`

    def __repr__(self) -> str:
        return f"<FrozenVariable {self._value!r}>"

    def _apply(self, operation: str, other: Any) -> NoReturn:
        raise ReadOnlyError.of(
            operation,
            "this is a copy of the variable that a transform made, and the write would be lost",
            hint="return the new value from the transformed function and assign it to the variable outside",
        )

    def assign(self, value: Any, *_: Any, **__: Any) -> NoReturn:
        """Raises `ReadOnlyError`, since the copy cannot be written."""
        self._apply("assign", value)

    def assign_add(self, value: Any, *_: Any, **__: Any) -> NoReturn:
        """Raises `ReadOnlyError`, since the copy cannot be written."""
        self._apply("assign_add", value)

    def assign_sub(self, value: Any, *_: Any, **__: Any) -> NoReturn:
        """Raises `ReadOnlyError`, since the copy cannot be written."""
        self._apply("assign_sub", value)

    def to(self, device: Any) -> NoReturn:
        """Raises `ReadOnlyError`, since the copy cannot be moved in place of the variable."""
        self._apply("to", device)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        self._apply("setitem", value)

    @property
    def at(self) -> NoReturn:
        """Raises `ReadOnlyError`, since the copy cannot be written."""
        self._apply("at", None)
