"""TensorFlow: variables, modules and what else it tracks, and generators."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from ..._arrays.slots import Adapter, Opened, Shared
from ...errors import ForeignStateError, ReadOnlyError, ReplicaError

__all__ = ["ADAPTER", "VariableSlot"]

#: The attributes in which TensorFlow keeps its own books, beside those that begin with ``_self_``.
_BOOKS = frozenset({"_name", "_scope_name", "_name_scope", "_setattr_tracking", "_tf_api_names", "_kwargs"})


class VariableSlot:
    """The slot of a `tf.Variable`."""

    backend = "tensorflow"
    shared: Shared = "never"  # TensorFlow copies a value that is read before it writes the next one

    def __init__(self, variable: tf.Variable) -> None:
        self.thing = variable

    @property
    def trainable(self) -> bool:
        """Whether tapes watch it. TensorFlow decides that once, when it makes a variable."""
        return bool(self.thing.trainable)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        if trainable != self.trainable:
            problem = "TensorFlow decides whether a tf.Variable is trainable when it makes it"
            raise ReadOnlyError.of("trainable", problem, hint="make it with tf.Variable(x, trainable=...)")

    @property
    def resource(self) -> Any:
        """The object by which a tape knows the variable."""
        return self.thing.handle

    def read(self) -> Any:
        """The present value."""
        return self.thing.read_value()

    def write(self, array: Any) -> None:
        """Assigns a value."""
        self.thing.assign(array, read_value=False)

    def version(self) -> None:
        """Returns None: TensorFlow counts no writes."""


class ReplicatedSlot(VariableSlot):
    """The slot of a variable of which each replica of a `tf.distribute` strategy has a copy.

    The value is the one that TensorFlow reads outside of ``strategy.run``, and a write changes all copies. For a
    variable that is combined when it is read (``ON_READ``), that is what the copies combine to.
    """

    @property
    def resource(self) -> Any:
        """The object by which a tape knows the copy of the replica that runs, or else of the first one."""
        if _in_run():
            return self.thing.handle
        return self.thing.distribute_strategy.experimental_local_results(self.thing)[0].handle

    def write(self, array: Any) -> None:
        """Assigns a value to all copies."""
        if _in_run():
            problem = "this code runs once for each replica, and the variable belongs to code outside"
            raise ReplicaError.of("write", problem, hint="write it outside of strategy.run, or by its own assign")
        strategy, count = self.thing.distribute_strategy, self.thing.distribute_strategy.num_replicas_in_sync
        if self._is_sum() and not array.dtype.is_floating and tf.reduce_any(array % count != 0):
            problem = (
                f"each of {count} replicas has an equal share of the sum, and an element does not divide by {count}"
            )
            raise ReplicaError.of("write", problem, hint="write a multiple; or make the variable of a floating dtype")
        with _scope_of(strategy):
            self.thing.assign(array, read_value=False)

    def _is_sum(self) -> bool:
        return _is_combined_on_read(self.thing) and self.thing.aggregation == tf.VariableAggregation.SUM


def _is_combined_on_read(variable: tf.Variable) -> bool:
    return bool(variable.synchronization == tf.VariableSynchronization.ON_READ)


def _in_run() -> bool:
    return tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()


def _scope_of(strategy: Any) -> AbstractContextManager[Any]:
    """The scope of a strategy, in which TensorFlow writes its variables, unless it is open."""
    is_open = tf.distribute.has_strategy() and tf.distribute.get_strategy() is strategy
    scope: AbstractContextManager[Any] = nullcontext() if is_open else strategy.scope()
    return scope


def _open(x: Any) -> Opened:
    if isinstance(x, tf.Variable):
        return _variable(x)
    if isinstance(x, tf.random.Generator):
        return {"state": x.state}
    if isinstance(x, list | tuple):  # in the wrapper by which a module tracks it
        return dict(enumerate(x))
    if isinstance(x, Mapping):
        return dict(x)
    if isinstance(x, tf.Module | tf.train.Checkpoint) or _is_only_tracked(x):
        return {name: each for name, each in vars(x).items() if not _is_book(name, each)}
    return None


def _variable(variable: tf.Variable) -> VariableSlot:
    if isinstance(variable, tf.distribute.DistributedValues) and hasattr(variable, "read_value"):
        if _is_combined_on_read(variable) and variable.aggregation == tf.VariableAggregation.NONE:
            problem = f"the replicas of a {type(variable).__name__} without aggregation have no common value"
            raise ForeignStateError.of("view", problem, hint="make it with an aggregation, such as MEAN or SUM")
        return ReplicatedSlot(variable)
    if hasattr(variable, "_policy") or not hasattr(variable, "read_value"):  # such as parts on parameter servers
        problem = f"a {type(variable).__name__} of tf.distribute has a value for each of several devices"
        raise ForeignStateError.of("view", problem, hint="save and restore it with tf.train.Checkpoint")
    if not tf.executing_eagerly() and not tf.inside_function():
        hint = "use it in eager code or in a tf.function"
        raise ForeignStateError.of(
            "view", "the variable is one of a tf.Graph, which only a session can read", hint=hint
        )
    return VariableSlot(variable)


def _is_only_tracked(x: Any) -> bool:
    """Whether an object is one of the class whose attributes TensorFlow tracks, and of nothing more special."""
    return type(x).__name__ in ("AutoTrackable", "_UserObject")


def _is_book(name: str, value: Any) -> bool:
    return name.startswith("_self_") or name in _BOOKS or isinstance(value, str | bool | int | float | bytes | None)


ADAPTER = Adapter(_open)
