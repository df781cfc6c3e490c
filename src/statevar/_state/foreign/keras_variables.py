"""The slots of variables of Keras 3, whose values belong to the library that Keras computes with."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ..._arrays.registry import backend_names, get_backend
from ..._arrays.slots import Shared, Slot
from ...errors import ForeignStateError, TraceError
from .table import adapters_of

__all__ = ["slot_of"]


def slot_of(variable: Any) -> Slot:
    """The slot of a variable: that of the parameter or `tf.Variable` in it, or of the array that Keras replaces.

    Raises:
        ForeignStateError: it has no value, or one of a library that statevar does not know.
    """
    value = variable._value
    name = keras.backend.backend()
    if value is None:
        problem = f"Keras keeps the value of {variable.path!r} elsewhere: it is not made yet, or fit is running"
        hint = "use it after the layer was built; in a callback, ask for self.model first, which brings it back"
        raise ForeignStateError.of("view", problem, hint=hint)
    inner = next((found for adapter in adapters_of(type(value)) if (found := adapter.open(value)) is not None), None)
    if isinstance(inner, Slot):
        return _Inner(variable, inner)
    if name not in backend_names():
        problem = f"Keras computes with {name}, and statevar has no adapter of its arrays"
        raise ForeignStateError.of("view", problem, hint=f"use a backend of Keras that is one of {backend_names()}")
    return _Replaced(variable, name)


class _Inner:
    """The slot of a variable whose value is an object of the library that changes itself."""

    def __init__(self, variable: Any, inner: Slot) -> None:
        self.backend = inner.backend
        self.thing = inner.thing
        self.shared = inner.shared
        self.resource = getattr(inner, "resource", None)
        self.read = inner.read
        self.write = inner.write
        self.version = inner.version
        self._variable = variable

    @property
    def trainable(self) -> bool:
        """Whether Keras trains it."""
        return bool(self._variable.trainable)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self._variable.trainable = trainable


class _Replaced:
    """The slot of a variable whose value is an array that Keras replaces."""

    def __init__(self, variable: Any, backend: str) -> None:
        self.backend = backend
        self.thing = variable
        # Others may write an array of NumPy; of another library, the trainer donates what it finds.
        self.shared: Shared = "in_place" if get_backend(backend).is_host else "donated"

    @property
    def trainable(self) -> bool:
        """Whether Keras trains it."""
        return bool(self.thing.trainable)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        self.thing.trainable = trainable

    def read(self) -> Any:
        """The present array; in a stateless scope of Keras, that of the scope."""
        if keras.src.backend.common.stateless_scope.in_stateless_scope():
            return self.thing.value
        value = self.thing._value
        if value is None:
            problem = f"Keras keeps the value of {self.thing.path!r} elsewhere while fit is running"
            raise TraceError.of("read", problem, hint="in a callback, ask for self.model first, which brings it back")
        return value

    def write(self, array: Any) -> None:
        """Has Keras store an array."""
        if self.thing._value is None:
            self.read()  # which raises, since Keras would forget the write
        self.thing.assign(np.array(array) if self.shared == "in_place" else array)

    def version(self) -> None:
        """Returns None: Keras counts no writes."""
