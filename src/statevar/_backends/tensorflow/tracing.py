"""Tells in which of TensorFlow's graphs a value may be used, and finds code that uses a variable past an overlay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import tensorflow as tf

from ..._arrays.tracing import AccessCheck, Tracing

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


TRACING = TensorFlowTracing()
