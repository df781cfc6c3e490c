"""Combines tensors over the replicas of a `tf.distribute` strategy, or over its workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import tensorflow as tf

from ...errors import ReplicaError
from .strategies import in_run, replica_number

__all__ = ["all_reduce", "processes", "reduced_replicas", "replicas_of_a_process"]


def processes() -> int:
    """The number of workers of the cluster that TensorFlow runs; 1 without one."""
    try:
        from tensorflow.python.eager.context import context  # noqa: PLC0415

        server = context()._collective_ops_server_def
        jobs = () if server is None else server.cluster.job
        return max(1, sum(len(job.tasks) for job in jobs if job.name in ("worker", "chief")))
    except (ImportError, AttributeError):  # not public: without it, only a strategy in scope tells
        if not tf.distribute.has_strategy():
            return 1
        resolver = tf.distribute.get_strategy().cluster_resolver
        return 1 if resolver is None else max(1, int(resolver.cluster_spec().num_tasks("worker")))


def all_reduce(arrays: Sequence[Any], reduction: str) -> list[Any]:
    """Does what `Backend.all_reduce` does; in ``strategy.run``, over all replicas."""
    flat = tf.concat([tf.reshape(tf.stop_gradient(each), [-1]) for each in arrays], 0)
    if in_run():
        flat = _over_replicas(flat, reduction)
    else:
        if not tf.distribute.has_strategy():
            problem = f"{processes()} workers of TensorFlow run, and no strategy is in scope"
            raise ReplicaError.of("all_reduce", problem, hint="call it in `with strategy.scope()`")
        strategy = tf.distribute.get_strategy()
        results = strategy.run(_over_replicas, args=(flat, reduction, replicas_of_a_process(strategy)))
        flat = strategy.experimental_local_results(results)[0]
    parts = tf.split(flat, [prod(each.shape) for each in arrays])
    return [tf.reshape(part, each.shape) for part, each in zip(parts, arrays, strict=True)]


def reduced_replicas(value: Any, reduction: str) -> Any:
    """The values of the replicas of this process as one; in ``strategy.run``, that of the replica itself."""
    if in_run():
        return value.values[replica_number()]
    return _of_one(value.values, reduction)


def _of_one(values: Sequence[Any], reduction: str) -> Any:
    """The values of the replicas of a process as one."""
    first, *others = values
    with tf.device(first.device):
        for each in others if reduction != "first" else ():
            first = _PAIRS[reduction](first, each)
        return first / tf.cast(len(values), first.dtype) if reduction == "mean" else first


def _over_replicas(flat: Any, reduction: str, same: int = 1) -> Any:
    """Combines one tensor of each replica.

    Args:
        same: how many replicas after each other give the same tensor.
    """
    context = tf.distribute.get_replica_context()
    if reduction not in ("mean", "sum") and processes() > 1:
        return _OF_ROWS[reduction](context.all_gather(flat[None], 0))

    def merge(strategy: Any, x: Any) -> Any:
        # Not `context.all_reduce`: in eager code its collectives get into those of programs (seen in TensorFlow 2.21).
        if reduction in ("mean", "sum"):
            return strategy.extended.reduce_to(tf.distribute.ReduceOp[reduction.upper()], x, destinations=x)
        return strategy.extended.broadcast_to(_of_one(strategy.experimental_local_results(x), reduction), x)

    total = context.merge_call(merge, args=(flat,))
    return total if same == 1 or reduction != "sum" else tf.cast(total / same, flat.dtype)


def replicas_of_a_process(strategy: Any) -> int:
    """How many replicas of a strategy run in this process."""
    return len(strategy.extended.worker_devices)


_PAIRS: dict[str, Callable[[Any, Any], Any]] = {
    "mean": tf.add,
    "sum": tf.add,
    "min": tf.minimum,
    "max": tf.maximum,
}
_OF_ROWS: dict[str, Callable[[Any], Any]] = {
    "min": lambda rows: tf.reduce_min(rows, 0),
    "max": lambda rows: tf.reduce_max(rows, 0),
    "first": lambda rows: rows[0],
}
