"""The handles of variables of TensorFlow: a ``tf.Variable``, who else may write it, and leases of its value."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from sys import getrefcount
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from . import eager

try:
    from tensorflow.python.eager.record import could_possibly_record
except ImportError:  # not public: without it, every read asks TensorFlow again

    def could_possibly_record() -> bool:
        return True


try:
    from tensorflow.python.ops.resource_variable_ops import ResourceVariable as Resource
except ImportError:  # not public: without it, a tf.function can create variables in its first trace only
    Resource = tf.Variable

__all__ = [
    "READ",
    "Fork",
    "Handle",
    "Lease",
    "Resource",
    "beside",
    "could_possibly_record",
    "end_lease",
    "expose",
    "handle_of",
]

READ = tf.raw_ops.ReadVariableOp


class Lease:
    """Keeps the value of a variable at one version: nothing but a reference, until the variable is written.

    A snapshot of many variables takes one of each, where a tensor of each would take twenty times as long. Who writes
    the variable counts the references to its lease, and keeps the value first if somebody has it.
    """

    __slots__ = ("value", "variable")

    def __init__(self, variable: Any) -> None:
        self.variable = variable
        self.value: Any = None

    def keep(self) -> Any:
        """The value, as a tensor.

        No lock is needed: a write begins after it has set the value here, so a value that was read here and finds
        none is the old one.
        """
        if self.value is None:
            value = _constant_of(self.variable)
            if self.value is None:
                self.value = value
        return self.value


def _references(handle: Any) -> int:
    """The number of references to the lease of a handle."""
    return getrefcount(handle.lease)


def _calibrate() -> int:
    """The number of references to a lease that nobody has; -2 where counts prove nothing, so that there are none."""
    handle = SimpleNamespace(lease=Lease(None))
    unheld = _references(handle)
    held = [handle.lease]
    counts = getattr(sys, "_is_gil_enabled", lambda: True)() and _references(handle) == unheld + len(held)
    return unheld if counts else -2


_UNLEASED = _calibrate()


class Handle:
    """The storage of one variable: a ``tf.Variable``, and what is known of who reads and writes it."""

    __slots__ = ("cached", "captured", "counter", "dimensions", "dtype", "lease", "lent", "published", "variable")

    def __init__(self, variable: Any) -> None:
        self.variable = variable
        self.dtype = variable.dtype
        self.published = None  # readers must call `snapshot`, so that a gradient tape sees the read
        self.cached: Any = None
        self.dimensions: Any = None
        self.counter: Any = None  # counts the writes by compiled graphs; None until a graph writes
        self.lease: Lease | None = None  # None if it may be written without our knowing
        self.captured = False  # whether a graph of the user's own has it
        self.lent = False  # whether the user has the `tf.Variable`, and may scatter into it at any moment


class Fork:
    """Replaces the `tf.Variable` in a fork, with the methods that the verbs use, since one takes 0.1 ms to make."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor
        self.dtype = tensor.dtype
        self.trainable = False
        self.redeclared = False

    @property
    def shape(self) -> Any:
        return self._tensor.shape

    @property
    def device(self) -> Any:
        return self._tensor.device

    def value(self) -> Any:
        return self._tensor

    read_value = value

    def assign(self, x: Any, *, read_value: bool) -> None:
        self._tensor = beside(x, self)

    def assign_add(self, x: Any, *, read_value: bool) -> None:
        self._tensor = eager.combine("AddV2", self._tensor, beside(x, self))  # `+` takes twice as long

    def assign_sub(self, x: Any, *, read_value: bool) -> None:
        self._tensor = eager.combine("Sub", self._tensor, beside(x, self))


def handle_of(variable: Any) -> Handle:
    """The handle of a `tf.Variable` that was made for it."""
    variable._statevar = True
    handle = Handle(variable)
    handle.lease = Lease(variable) if _UNLEASED > 0 else None
    return handle


def end_lease(handle: Handle) -> None:
    """Does what must be done before a write: whoever has a lease of the value keeps the value."""
    if handle.lease is not None and (_references(handle) != _UNLEASED or handle.lease.value is not None):
        handle.lease.keep()
        handle.lease = Lease(handle.variable)


def expose(handle: Handle) -> None:
    """From now on a graph, or whoever has the `tf.Variable`, may write it at any time."""
    handle.cached = None
    if (lease := handle.lease) is not None:
        lease.keep()
        handle.lease = None
    if handle.counter is None:
        with tf.init_scope(), tf.device("CPU:0"):
            handle.counter = Resource(0, trainable=False, dtype=tf.int64)  # of no strategy


def _constant_of(variable: Any) -> Any:
    """The present value, without a gradient, also where a graph is built."""
    with nullcontext() if tf.executing_eagerly() else tf.init_scope():
        value = READ(resource=variable.handle, dtype=variable.dtype)
        return tf.stop_gradient(value) if could_possibly_record() else value


def beside(x: Any, variable: Any) -> Any:
    """A tensor on the device of a variable."""
    if x.device == variable.device:
        return x
    with tf.device(variable.device):
        return tf.identity(x)
