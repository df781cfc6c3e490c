"""Variables of which each replica of a `tf.distribute` strategy has a copy.

The handle has the ``tf.Variable`` that the strategy makes, and one ordinary handle for the copy of each replica that is
in this process. Outside of ``strategy.run`` a write changes every copy, by the verbs of the adapter for one device; if
it fails at one of them, all get the value of that one. Inside, the operands of all replicas are combined by the
aggregation of the variable, in TensorFlow's own ``merge_call``, and then it is a write outside.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any
from weakref import ref

import numpy as np
import tensorflow as tf

from ..._arrays.indexing import Selection
from ..._arrays.shapes import DeclaredShape, Shape
from ..._arrays.sharded_backend import Piece, ReadBlock, ShardedBackend
from ..._arrays.stored import Stored
from ..._arrays.types import HostArray, Operation
from ...errors import ReplicaError, ShardingError
from .adapter import BACKEND, TensorFlowBackend
from .collectives import replicas_of_a_process
from .handles import expose, handle_of
from .same_index import check_same_index, different_indices
from .strategies import Distributed, caller, combined, in_run, replica_number, strategy_in_scope
from .tracing import TensorFlowTracing, ours

__all__ = ["ReplicatedTensorFlowBackend", "placement"]

_ADDED = {operator.add: "assign_add", operator.sub: "assign_sub"}
_ATTEMPTS = (None,) * 100  # Ctrl-C does not come a hundred times in a millisecond
_OUTSIDE = "write it outside of strategy.run, or by v.assign, v.assign_add and the like, which combine the replicas"


class _Replicas:
    """The handle of a variable with a copy for each replica.

    Attributes:
        spread: the ``tf.Variable`` that the strategy has made.
        parts: a handle for the copy of each replica in this process; reads outside of ``strategy.run`` see the first.
    """

    __slots__ = ("__weakref__", "parts", "spread")

    published = None

    def __init__(self, spread: Any, parts: list[Any]) -> None:
        self.spread = spread
        self.parts = parts

    @property
    def variable(self) -> Any:
        return self.parts[0].variable

    @property
    def cached(self) -> Any:
        return self.parts[0].cached


def _part(handle: Any) -> Any:
    """The handle of the copy that is read; a draft has one value for all replicas."""
    return handle.parts[0] if type(handle) is _Replicas else handle


class _Tracing(TensorFlowTracing):
    """Code that runs once for each replica reads and writes as code that is traced does: without lock and snapshot."""

    def is_tracing(self) -> bool:
        return not tf.executing_eagerly() or in_run()

    def traced_value(self, handle: Any) -> Any:
        if type(handle) is not _Replicas:
            return super().traced_value(handle)
        if not in_run():
            return handle.variable.value()
        ours.reads = True
        try:
            return handle.spread.value()  # that of this replica
        finally:
            ours.reads = False


class ReplicatedTensorFlowBackend(ShardedBackend, TensorFlowBackend):
    """The adapter for one aggregation, which TensorFlow wants to know when it makes the variable."""

    tracing = _Tracing()
    cuts = False

    def __init__(self, aggregation: str) -> None:
        self.native = BACKEND
        self._aggregation = aggregation

    @property
    def traced_elsewhere(self) -> Callable[[], bool] | None:  # type: ignore[override]  # the registry tells only the native one
        return BACKEND.traced_elsewhere

    def for_aggregation(self, aggregation: str) -> ReplicatedTensorFlowBackend:
        return _adapters[aggregation]

    # -- devices and conversion --------------------------------------------------------------------------------------

    def device(self, name: Any) -> Any:
        return name if isinstance(name, tf.distribute.Strategy) else super().device(name)

    def operand(self, value: Any, dtype: Any) -> Any | None:
        if isinstance(value, Distributed) and isinstance(value, tf.Variable):
            return value.read_value() if value.dtype == dtype else None
        return super().operand(value, dtype)

    def from_host(self, array: HostArray, device: Any) -> Any:
        return super().from_host(array, None if isinstance(device, tf.distribute.Strategy) else device)

    def placement(self, value: Any, spec: Any, mesh: Any) -> tuple[Any, Any] | None:
        return placement(value, spec, mesh)

    # -- handles -----------------------------------------------------------------------------------------------------

    def create(self, array: Any, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if not isinstance(device, tf.distribute.Strategy):  # a temporary value, such as a copy
            return super().create(array, declared=declared, device=device, trainable=trainable)
        check_outside("Variable", "make it in strategy.scope(), before strategy.run")
        if tf.is_symbolic_tensor(array) and (known := tf.get_static_value(array)) is not None:
            array = known  # `init_scope` cannot use a constant of the graph
        aggregation = self._aggregation.upper()
        if aggregation == "MEAN" and not tf.as_dtype(array.dtype).is_floating:
            aggregation = "NONE"  # TensorFlow would refuse to make it; what cannot be combined is a write of replicas
        with tf.init_scope(), _scope(device):
            spread = tf.Variable(
                array,
                trainable=trainable,
                shape=tf.TensorShape(None if declared is ... else declared),
                aggregation=tf.VariableAggregation[aggregation],
            )
        spread._statevar = True
        parts = [handle_of(each) for each in device.experimental_local_results(spread)]
        return _Replicas(spread, parts)

    def create_from(self, first: Any, *, declared: DeclaredShape, device: Any, trainable: bool) -> Any:
        if not isinstance(device, tf.distribute.Strategy):
            return super().create_from(first, declared=declared, device=device, trainable=trainable)
        array = getattr(first, "array", None)
        x = array if self.owns(array) else self.from_host(first.to_host(), None)
        return self.create(x, declared=declared, device=device, trainable=trainable)

    def spread_handle(self, handle: Any) -> None:
        return None

    def device_of_handle(self, handle: Any) -> Any:
        if type(handle) is _Replicas:
            return handle.spread.distribute_strategy
        return super().device_of_handle(handle)

    def snapshot(self, handle: Any) -> Any:
        value = super().snapshot(_part(handle))
        if type(handle) is _Replicas and len(handle.parts) > 1 and tf.executing_eagerly():
            value._statevar_replicas = ref(handle)
        return value

    def snapshot_unlocked(self, handle: Any) -> Any | None:
        return super().snapshot_unlocked(_part(handle))

    def lease(self, handles: Any) -> Any:
        return super().lease([None if each is None else _part(each) for each in handles])

    def snapshot_within_write(self, handle: Any) -> Any:
        return super().snapshot_within_write(_part(handle))

    def assign(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        return self._on_each(BACKEND.assign, handle, x, _op, _where)

    def apply(self, handle: Any, x: Any, op: Operation, _where: Any = None) -> Any:
        return self._on_each(BACKEND.apply, handle, x, op, _where)

    def put(self, handle: Any, x: Any, operation: str, where: Selection) -> Any:
        return self._on_each(BACKEND.put, handle, x, operation, where)

    def redeclare(self, handle: Any, x: Any, _op: Any = None, _where: Any = None) -> Any:
        if type(handle) is not _Replicas:
            return super().redeclare(handle, x, _op, _where)
        if handle.variable.shape.is_compatible_with(x.shape):
            return self.assign(handle, x, _op)
        trainable = handle.variable.trainable
        return self.create(x, declared=tuple(x.shape), device=self.device_of_handle(handle), trainable=trainable)

    def write_all(self, handles: list[Any], xs: list[Any], op: Operation | None, began: list[bool]) -> bool:
        return False

    def write_traced(self, handle: Any, verb: str, x: Any, op: Any, where: Any) -> Any:
        if not in_run():
            return getattr(self, verb)(handle, x, op, where)
        _write_own(_own_part(handle), verb, x, op, where)
        return handle

    def fork(self, handle: Any, array: Any) -> Any:
        check_outside("transaction", "open it around strategy.run")
        return super().fork(_part(handle), array)

    def result_apart(self, handle: Any, x: Any, op: Operation | None) -> Any | None:
        return None

    def set_trainable(self, handle: Any, trainable: bool) -> None:
        for each in handle.parts:
            super().set_trainable(each, trainable)

    def parameter(self, handle: Any) -> Any:
        for each in handle.parts:
            super().parameter(each)
        return handle.spread

    def resource(self, handle: Any) -> Any:
        return super().resource(_own_part(handle) if in_run() else _part(handle))

    def is_parameter(self, handle: Any, thing: Any) -> bool:
        return handle.spread is thing if type(handle) is _Replicas else super().is_parameter(handle, thing)

    def stored(self, handle: Any, dtype: str, writing: bool) -> Stored | None:
        return super().stored(_part(handle), dtype, writing)

    def unseen_writes(self, handle: Any) -> int:
        return super().unseen_writes(_part(handle))

    def _on_each(self, verb: Callable[..., Any], handle: Any, x: Any, op: Any, where: Any) -> Any:
        """Calls a write verb of the adapter for one device with the copy of each replica, which all end up equal."""
        if type(handle) is not _Replicas:
            return verb(handle, x, op, where)
        check_outside("write", _OUTSIDE)
        for part in handle.parts:
            try:
                verb(part, x, op, where)
            except BaseException:
                if tf.executing_eagerly():
                    _make_equal(handle.parts, part)
                raise
        return handle

    # -- replicas ----------------------------------------------------------------------------------------------------

    def runs_per_replica(self) -> bool:
        return in_run()

    def caller(self) -> int | None:
        return caller()

    def overlay_around(self) -> Any:
        if tf.executing_eagerly():
            return None
        graph = tf.compat.v1.get_default_graph()
        while graph is not None and not hasattr(graph, "_statevar_trace"):
            graph = getattr(graph, "outer_graph", None)
        if graph is not None and self._aggregation == "none":
            problem = (
                "the replicas of a variable with the aggregation 'none' may differ, and sv.jit has one value of it"
            )
            raise ReplicaError.of("jit", problem, hint="use tf.function, or another aggregation")
        return None if graph is None else graph._statevar_trace

    def merged(self, x: Any, index: Any, aggregation: str, handle: Any, write: Callable[[Any, Any], object]) -> None:
        strategy = self.device_of_handle(handle)
        context = tf.distribute.get_replica_context()
        if context.strategy is not strategy:
            problem = f"the code runs in another strategy ({context.strategy!r}) than the one of the variable"
            raise ReplicaError.of("write", problem, hint="use one strategy")

        def merge(strategy: Any, x: Any, boxes: Any) -> None:
            indices = [each.index for each in strategy.experimental_local_results(boxes)]
            write(combined(strategy, x, aggregation, handle.spread), _one_of(indices, strategy))

        if index is not None and replicas_of_a_process(strategy) < strategy.num_replicas_in_sync:
            x = check_same_index(strategy, index, x)
        context.merge_call(merge, args=(x, _Box(index)))

    # -- the value, which every process has --------------------------------------------------------------------------

    def sharding(self, spec: Any, mesh: Any) -> Any:
        if isinstance(spec, tf.distribute.Strategy) and mesh is None:
            return spec
        problem = f"expected a strategy of tf.distribute, got sharding={spec!r} and mesh={mesh!r}"
        raise ShardingError.of("sharding", problem, hint="variables of TensorFlow have replicas, and no axes of a mesh")

    def problem_with(self, shape: Shape, sharding: Any) -> str | None:
        return None

    def sharding_name(self, sharding: Any) -> str:
        if isinstance(sharding, tf.distribute.Strategy):
            return f"{sharding.num_replicas_in_sync} replicas of {type(sharding).__name__}"
        return str(sharding)

    def pieces(self, array: Any) -> list[Piece]:
        return [Piece((0,) * len(self.shape(array)), array, True)]

    def pinned(self, array: Any, sharding: Any) -> Any:
        return array

    def copies(self, array: Any) -> list[Piece]:
        found = getattr(array, "_statevar_replicas", lambda: None)()
        if found is None:
            return self.pieces(array)
        first, *others = (BACKEND.snapshot(part) for part in found.parts)
        if self.to_host(first).tobytes() != self.to_host(array).tobytes():  # the variable was written since
            return self.pieces(array)
        values = [array, *others]
        return [Piece((0,) * len(self.shape(array)), each, not number) for number, each in enumerate(values)]

    def from_pieces(self, shape: Shape, dtype: str, sharding: Any, read: ReadBlock) -> Any:
        return self.from_host(read((0,) * len(shape), shape), None)

    def spans(self, array: Any) -> bool:
        return False

    def gather(self, array: Any) -> HostArray:
        return self.to_host(array)

    def resharded(self, array: Any, sharding: Any) -> Any:
        return array

    def from_local(self, local: Any, sharding: Any) -> Any:
        problem = "TensorFlow makes a batch of the parts of its workers itself"
        raise ShardingError.of("shard_batch", problem, hint="use strategy.experimental_distribute_dataset")


class _Box:
    """An index, which TensorFlow must not look into."""

    __slots__ = ("index",)

    def __init__(self, index: Any) -> None:
        self.index = index


def placement(value: Any, spec: Any, mesh: Any) -> tuple[Any, Any] | None:
    """Does what `Backend.placement` does."""
    if spec is not None:
        return _adapters["mean"], _adapters["mean"].sharding(spec, mesh)
    strategy = strategy_in_scope()
    if strategy is None and isinstance(value, Distributed) and isinstance(value, tf.Variable):
        strategy = value.distribute_strategy
    return None if strategy is None else (_adapters["mean"], strategy)


def check_outside(operation: str, hint: str) -> None:
    """Raises ReplicaError if the running code is that of one replica."""
    if in_run():
        strategy = tf.distribute.get_strategy()
        problem = f"this code runs once for each replica of a {type(strategy).__name__}"
        raise ReplicaError.of(operation, problem, hint=hint)


def _scope(strategy: Any) -> Any:
    """The scope of a strategy, unless that of another one is open."""
    if tf.distribute.has_strategy() and tf.distribute.get_strategy() is not strategy:
        problem = f"the variable belongs to another {type(strategy).__name__} than the one that is in scope"
        raise ReplicaError.of("Variable", problem, hint="give it its first value in the scope in which it was made")
    return strategy.scope()


def _own_part(handle: Any) -> Any:
    """The handle of the copy of the replica whose code is running."""
    return handle.parts[replica_number()] if type(handle) is _Replicas else handle


def _write_own(part: Any, verb: str, x: Any, op: Any, where: Any) -> None:
    """Writes the copy of one replica only, as TensorFlow does without an aggregation. The code runs in that replica."""
    expose(part)
    variable = part.variable
    part.counter.assign_add(1, read_value=False)
    if verb == "apply" and op in _ADDED:
        x = x if x.shape == variable.shape else tf.broadcast_to(x, tf.shape(variable))
        getattr(variable, _ADDED[op])(x, read_value=False)
        return
    if verb == "put":
        x = BACKEND.compute_put(variable.read_value(), x, op, where)
    elif verb == "apply":
        x = BACKEND.compute(variable.read_value(), x, op)
    variable.assign(x, read_value=False)


def _make_equal(parts: Sequence[Any], written: Any) -> None:
    """Gives all copies the value of the one at which a write failed, before or after it had changed."""
    interrupt: BaseException | None = None
    for _ in _ATTEMPTS:
        try:
            value = BACKEND.snapshot(written)
            for each in parts:
                if each is not written:
                    BACKEND.assign(each, value, "the value of another replica")
            break
        except Exception:  # noqa: BLE001  # the device is out of memory, or gone: the error of the write says so
            break
        except BaseException as error:  # noqa: BLE001  # Ctrl-C: it can be done again
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _one_of(indices: list[Any], strategy: Any) -> Any:
    """The index at which all replicas write.

    Raises:
        ReplicaError: they differ.
    """
    first = indices[0]
    if first is None or all(_same(first, each) for each in indices[1:]):
        return first
    raise different_indices()


def _same(one: Any, other: Any) -> bool:
    """Whether two indices select the same elements, as far as that is known."""
    if one is other:
        return True
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, slice) and isinstance(other, slice):
        return all(_same(getattr(one, each), getattr(other, each)) for each in ("start", "stop", "step"))
    if tf.is_symbolic_tensor(one) or tf.is_symbolic_tensor(other):
        return False
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


_adapters = {each: ReplicatedTensorFlowBackend(each) for each in ("none", "mean", "sum", "only_first_replica")}
