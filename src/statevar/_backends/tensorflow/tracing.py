"""Tells in which of TensorFlow's graphs a value may be used, and finds code that uses a variable past an overlay."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import tensorflow as tf

from ..._arrays.host import ONE_BY_ONE, combine
from ..._arrays.traced_index import TracedSelection, cannot_write, check_for_mask, traced_selection
from ..._arrays.tracing import AccessCheck, Tracing
from ...errors import TraceError
from .traced_rows import gathered_rows, scattered_rows, traced_rows

try:
    from tensorflow.python.pywrap_tfe import TFE_Py_TapeSetIsStopped as _tapes_are_stopped
except ImportError:  # not public: without it, a gradient that tf.recompute_grad drops is not noticed

    def _tapes_are_stopped() -> bool:
        return False


try:  # not public: without it, the question takes five times as long
    from tensorflow.python.framework.ops import _default_graph_stack as _graphs

    _graphs.stack  # noqa: B018  # raises if this version has no such attribute
except (ImportError, AttributeError):
    _graphs = None


__all__ = ["TRACING", "TensorFlowTracing", "inlined", "ours"]

# Graphs of loops and branches, which get outer values again each time the code around them is traced.
_INLINE = {"CondBranchFuncGraph", "WhileBodyFuncGraph", "WhileCondFuncGraph"}

ours = threading.local()  # `ours.reads`: whether the adapter is reading


class TensorFlowTracing(Tracing):
    writes_when_traced = True

    def is_tracing(self) -> bool:
        return not tf.executing_eagerly()

    def keeps(self, mark: Any = None) -> bool:
        if mark is None:  # in most cases, no graph is being built
            return (_graphs is None or bool(_graphs.stack)) and not tf.executing_eagerly()
        return not self.may_read(mark)

    def question(self) -> tuple[str, dict[str, Any]]:
        if _graphs is None:
            return "not tf_eager()", {"tf_eager": tf.executing_eagerly}
        return "tf_graphs.stack and not tf_eager()", {"tf_graphs": _graphs, "tf_eager": tf.executing_eagerly}

    def kept(self, mark: Any) -> bool:
        return mark is not None and mark[0] is not None

    def trace_mark(self, check_access: AccessCheck) -> Any:
        mark = _where()
        if mark[0] is None and not hasattr(graph := tf.compat.v1.get_default_graph(), "watch_variable"):
            graph.watch_variable = partial(_accessed, check_access)
        return mark

    def may_read(self, mark: Any, now: Any = None) -> bool:
        if mark is None:  # the operations of the variable itself are right in any graph
            return True
        opened, _, stopped = mark
        graph, _, stopped_now = _where() if now is None else now
        if stopped_now != stopped:  # in tf.recompute_grad, which gives captured values no gradient
            return False
        while graph is not opened:
            if graph is None:
                return False
            # An inner tf.function would capture the current value, and be called again with it.
            if type(graph).__name__ not in _INLINE and not getattr(graph, "_statevar_inlined", False):
                return False
            graph = getattr(graph, "outer_graph", None)
        return True

    def may_write(self, mark: Any) -> bool:
        return mark is None or _where() == mark

    @contextmanager
    def under(self, mark: Any) -> Iterator[None]:
        graph = None if mark is None else mark[0]
        if graph is None or graph is tf.compat.v1.get_default_graph():
            yield
        else:
            with graph.as_default(), tf.control_dependencies(None):
                yield

    def captured(self, handle: Any) -> None:
        if hasattr(handle, "captured"):  # no slot of a view, which never moves
            handle.captured = True

    def may_fit(self, x: Any, declared: Any) -> bool:
        if x.shape.is_fully_defined():
            return False
        return bool(tf.TensorShape(None if declared is ... else declared).is_compatible_with(x.shape))

    def get_symbolic(self, array: Any, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(part, list) or len(getattr(part, "shape", ())) for part in parts):
            return array[index]  # integers and slices, also traced
        if _is_mask(index):
            return tf.boolean_mask(array, _only(index))
        if (rows := traced_rows(index, tuple(array.shape), _shape_of)) is not None:
            return gathered_rows(array, rows)
        where = traced_selection(index, tuple(array.shape), _shape_of)
        positions, _ = _positions(where)
        return tf.reshape(tf.gather(tf.reshape(array, [-1]), positions), where.shape)

    def put_symbolic(self, old: Any, x: Any, operation: str, index: Any) -> Any:
        if _is_mask(index):
            mask = _only(index)
            check_for_mask(tuple(x.shape), tuple(mask.shape), tuple(old.shape))
            mask = tf.reshape(mask, [*mask.shape, *[1] * (len(old.shape) - len(mask.shape))])
            return tf.where(mask, combine(operation, old, x, tf.minimum, tf.maximum), old)
        if (rows := traced_rows(index, tuple(old.shape), _shape_of)) is not None:
            return scattered_rows(old, x, operation, rows)
        where = traced_selection(index, tuple(old.shape), _shape_of)
        size = math.prod(old.shape)
        clipped, inside = _positions(where)
        at = tf.where(inside, clipped, size)  # what is outside goes into one more element, which is dropped
        values = tf.reshape(tf.broadcast_to(x, where.shape), [-1])
        line = tf.concat([tf.reshape(old, [-1]), tf.zeros([1], old.dtype)], 0)
        if operation != "set" and (operation in ONE_BY_ONE or where.unique):
            if not where.unique:
                raise cannot_write(operation)
            values = tf.cast(combine(operation, tf.gather(line, at), values, tf.minimum, tf.maximum), old.dtype)
            operation = "set"
        if operation == "set" and where.unique:
            new = tf.tensor_scatter_nd_update(line, at[:, None], values)
        elif operation == "set":  # the last one of each
            order = tf.range(where.base.size)
            last = tf.tensor_scatter_nd_max(tf.fill([size + 1], -1), at[:, None], order)
            new = tf.where(last >= 0, tf.gather(values, tf.maximum(last, 0)), line)
        elif operation == "multiply":
            new = line * tf.math.unsorted_segment_prod(values, at, size + 1)
        else:
            name = {"add": "add", "subtract": "sub", "min": "min", "max": "max"}[operation]
            new = getattr(tf, f"tensor_scatter_nd_{name}")(line, at[:, None], values)
        return tf.reshape(new[:size], old.shape)

    def traced_value(self, handle: Any) -> Any:
        return handle.variable.value()


def _where() -> tuple[Any, int, bool]:
    """The graph that is being built, if any; the number of vectorized maps around; whether tapes are off."""
    if tf.executing_eagerly():
        return None, 0, _tapes_are_stopped()
    graph = tf.compat.v1.get_default_graph()
    maps = graph.get_name_scope().split("/")  # tf.vectorized_map makes no graph of its own, but this name
    return graph, sum(each.startswith("loop_body") for each in maps), _tapes_are_stopped()


def _accessed(check_access: AccessCheck, resource: Any) -> None:
    """Called by TensorFlow when code that runs eagerly uses a variable of TensorFlow."""
    foreign = not getattr(ours, "reads", False) and hasattr(resource, "_statevar")
    if not check_access((lambda handle: getattr(handle, "variable", None) is resource) if foreign else None):
        with suppress(AttributeError):  # calls of compiled functions are faster without it
            del tf.compat.v1.get_default_graph().watch_variable


def inlined() -> None:
    """Marks the graph that is being built as used only where it is made, like those of loops."""
    tf.compat.v1.get_default_graph()._statevar_inlined = True


def _only(index: Any) -> Any:
    return index[0] if isinstance(index, tuple) and len(index) == 1 else index


def _is_mask(index: Any) -> bool:
    return isinstance(part := _only(index), tf.Tensor) and part.dtype == tf.bool


def _shape_of(part: Any) -> tuple[int, ...] | None:
    if not isinstance(part, tf.Tensor):
        return None
    if not part.dtype.is_integer:
        raise TraceError.of("index", f"a traced index of {part.dtype.name} beside others is not supported")
    return tuple(part.shape)


def _positions(where: TracedSelection) -> tuple[Any, Any]:
    """The position of each selected element, the nearest one if it is outside, and whether it is inside."""
    positions = tf.constant(where.base, tf.int64)
    inside = tf.ones([where.base.size], tf.bool)
    for part, length, stride, which in where.terms:
        numbers = tf.gather(tf.reshape(tf.cast(part, tf.int64), [-1]), which)
        numbers = tf.where(numbers < 0, numbers + length, numbers)
        inside = inside & (numbers >= 0) & (numbers < length)
        positions += stride * tf.clip_by_value(numbers, 0, max(length - 1, 0))
    return positions, inside


TRACING = TensorFlowTracing()
