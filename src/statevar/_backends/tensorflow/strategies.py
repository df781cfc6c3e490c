"""What a `tf.distribute` strategy tells: whether one is in scope, which replica runs, and the values of replicas."""

from __future__ import annotations

import sys
from threading import current_thread
from typing import Any

import tensorflow as tf

from ...errors import ShardingError

__all__ = ["Distributed", "caller", "combined", "in_run", "makes_own_variables", "replica_number", "strategy_in_scope"]

#: Values with one for each replica.
Distributed = tf.distribute.DistributedValues

_MIRRORS = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
_ONE_PLACE = (tf.distribute.OneDeviceStrategy,)


def strategy_in_scope() -> Any | None:
    """The strategy in whose scope the code is, if a variable that is made there has a copy for each replica.

    Raises:
        ShardingError: variables of this strategy are something else.
    """
    if not tf.distribute.has_strategy():
        return None
    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, _MIRRORS):
        return strategy
    if isinstance(strategy, _ONE_PLACE):
        return None
    problem = f"a {type(strategy).__name__} is in scope, whose variables are not one copy for each replica"
    hint = "use tf.distribute.MirroredStrategy or MultiWorkerMirroredStrategy; or make it outside of strategy.scope()"
    raise ShardingError.of("Variable", problem, hint=hint)


def makes_own_variables() -> bool:
    """Whether ``tf.Variable`` would make something else here than one variable in one place."""
    return tf.distribute.has_strategy() and not isinstance(tf.distribute.get_strategy(), _ONE_PLACE)


def in_run() -> bool:
    """Whether the code runs in ``strategy.run``, once for each replica."""
    return tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()


def replica_number() -> int:
    """The number of the replica whose code is running, among those of this process."""
    return int(tf.distribute.get_replica_context()._replica_id)


def caller() -> int | None:
    """The thread that has called ``strategy.run``, in a thread that it has started for one replica."""
    me = current_thread()
    for number, frame in sys._current_frames().items():
        each: Any = frame
        while each is not None:
            if each.f_code.co_name == "_call_for_each_replica" and me in each.f_locals.get("threads", ()):
                return number
            each = each.f_back
    return None


def combined(strategy: Any, values: Any, aggregation: str, destination: Any) -> Any:
    """The values of all replicas as one tensor, combined as TensorFlow does it for a variable.

    Called outside of the replicas, by every worker.

    Args:
        aggregation: ``"mean"``, ``"sum"`` or ``"only_first_replica"``.
        destination: a variable, or the name of a device.
    """
    if aggregation == "only_first_replica":
        first = strategy.experimental_local_results(values)[0]
        result = strategy.extended.broadcast_to(first, destinations=destination)
    else:
        op = tf.distribute.ReduceOp[aggregation.upper()]
        result = strategy.extended.reduce_to(op, values, destinations=destination)
    return strategy.experimental_local_results(result)[0]
