"""`sv.jit` on TensorFlow: a graph that reads the variables' own resources, and writes them when all else is done.

The code is traced into one ``tf.function`` graph with its variables in an overlay. Their values are read from the
resources that they live in, so that a call passes none, and their new values are assigned at the end, after everything
in the graph that can fail. The locks are held meanwhile: nobody sees half of it.

Where that cannot be, the values go in as arguments and come out as results, which `CompiledCall` keeps: in a
transaction; for a variable without a value, or whose declared shape changes; where Python code runs within the graph,
which might ask for the same locks; and where the graph runs for so long that readers should not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import RLock
from time import perf_counter
from typing import Any, Final, Self

import tensorflow as tf

from ..._arrays.backend import Backend
from ..._arrays.shapes import fits
from ..._arrays.transforms import Program
from ..._core import overlays, scopes
from ..._core.cell import count_writes
from ..._core.holds import Locks
from ..._core.variable import Variable
from ..._transforms.call import CompiledCall, Retry, TraceOverlay, check_library
from ..._transforms.draft import ValueDraft
from ..._transforms.overlay import past_overlay
from ...errors import StatevarError, TraceError
from .adapter import BACKEND
from .arguments import EXACT_NUMBERS, SINGLE_NUMBERS, Arguments, Key, better_for, emptied, filled, static_of

__all__ = ["Jitted"]

_ATTEMPTS = 20  # each finds a variable more, or meets a variable that another thread has changed
#: A graph that takes longer, in seconds and per variable, runs without the locks. Keeping values costs about that much.
_LONG, _LONG_EACH = 5e-3, 1e-4
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
_HARMLESS = {"ReadVariableOp", "VarHandleOp", "Placeholder"}
_IN_PLACE = {"AddV2": "assign_add", "Sub": "assign_sub"}

# Why a call is made again.
_STALE: Final = "a variable is not what the graph was traced for"
_HELD: Final = "somebody else holds a variable"


class _Trace(TraceOverlay):
    """Reads the resources of what was not given, and remembers their state."""

    __slots__ = ("_past", "first", "graph", "resources", "seen")

    def __enter__(self) -> Self:
        self.graph = tf.compat.v1.get_default_graph()
        self.first: dict[Variable, Any] = {}  # what was read
        self._past: dict[Variable, int] = {}
        self.resources: list[Any] = []
        self.seen: dict[Variable, tuple[Any, ...]] = {}
        super().__enter__()
        return self

    def read(self, variable: Any) -> ValueDraft:
        """As what it is around; read anew after an optimizer of TensorFlow, or another raw operation, has used it."""
        if variable in self.first and variable not in self.written and variable in self.drafts:
            past = len(_used_past(self.graph, variable))
            if past != self._past.get(variable, 0):
                self._past[variable] = past
                del self.drafts[variable]
        return super().read(variable)

    def check_past(self) -> None:
        """Raises if something used a variable itself that has another value here."""
        for variable, draft in self.drafts.items():
            if (variable in self.written or variable not in self.seen) and _used_past(self.graph, variable):
                raise past_overlay(BACKEND.name, self.what, draft._path)

    def written_outside(self) -> list[Variable]:
        """The variables that it has written and not made: the others start anew with each call, or are made twice."""
        made = {id(variable) for variable in self.created_here()}
        return [variable for variable in self.written if id(variable) not in made]

    def seen_outside(self) -> dict[Variable, tuple[Any, ...]]:
        """What it has seen of the variables that it has not made. Forgets it, so that those it has made can die."""
        made = {id(variable) for variable in self.created_here()}
        seen = {variable: state for variable, state in self.seen.items() if id(variable) not in made}
        self.seen.clear()
        self.first.clear()
        self._past.clear()
        return seen

    def _discover(self, variable: Variable) -> ValueDraft:
        check_library(BACKEND, [variable])
        self.seen[variable] = (variable._handle, variable._shape, variable._trainable)
        self.resources.append(variable._handle)
        return super()._discover(variable)

    def _place(self, backend: Backend) -> AbstractContextManager[None]:
        if self.outer is not None:  # a transaction keeps what it has read; this trace only finds the variables
            scope: AbstractContextManager[None] = tf.init_scope()
            return scope
        return super()._place(backend)

    def given(self, variable: Variable, value: Any) -> Any:
        if not value.shape.is_fully_defined():  # declared so; the graph is for this shape
            value = tf.ensure_shape(value, variable._shape)
        self.first[variable] = value
        return value


def _used_past(graph: Any, variable: Variable) -> list[Any]:
    """The operations, other than reads, that got the resource of a variable."""
    handle = variable._handle
    if handle is None or not hasattr(handle.variable, "handle"):
        return []
    try:
        captures = graph.function_captures.by_val_internal
    except AttributeError:  # not public; this is slower
        captures = {id(outside): inside for outside, inside in graph.captures}
    captured = captures.get(id(handle.variable.handle))
    return [] if captured is None else [op for op in captured.consumers() if op.type != "ReadVariableOp"]


@dataclass(slots=True)
class _Traced:
    """A graph, and what it does to variables."""

    call: Callable[[list[Any]], list[Any]]
    out: Any  # the pytree that was returned: `_Out` in place of each tensor
    known: list[Variable]
    #: What was found on the way: each variable with its handle, shape, and whether it was trainable.
    checks: list[tuple[Any, ...]]
    written: list[Variable]
    shapes: list[Any]
    #: Whether the graph itself writes the variables.
    direct: bool
    #: What TensorFlow itself only refers to weakly: a variable that the code has made and dropped starts each call.
    resources: list[Any]
    calls: int = 0
    long: int = 0
    locks: Locks | None = None

    def run(self, tensors: list[Any]) -> Any:
        """Calls a direct one.

        Raises:
            Retry: `_STALE`, or `_HELD` with the variable.
        """
        started = 0.0

        def locked() -> list[Any]:
            nonlocal started
            for variable, handle, shape, trainable in self.checks:
                if variable._holder is not None:
                    raise Retry(_HELD, variable)
                if variable._handle is not handle or variable._shape != shape or variable._trainable is not trainable:
                    raise Retry(_STALE)
            for variable in self.written:
                variable._handle.cached = None
            started = perf_counter()
            try:
                results = self.call(tensors)
            except Exception:
                raise
            except BaseException:  # Ctrl-C: nobody knows whether it was done
                count_writes(self.written, self.shapes)
                raise
            count_writes(self.written, self.shapes)
            return results

        if self.locks is None:
            self.locks = Locks(self.known)
        flat = self.locks.while_taken(locked)
        took = perf_counter() - started
        self.calls += 1
        if self.calls > 1:  # the first one also compiles
            self.long = self.long + 1 if took > _LONG + _LONG_EACH * len(self.known) else 0
        for variable in self.written:
            if variable._watchers is not None:
                variable._watchers.deliver(variable)
        return self.results(flat)

    def results(self, flat: list[Any]) -> Any:
        return filled(self.out, flat)


class Jitted:
    """One compiled function: a graph for each signature of its arguments.

    Numbers are passed as tensors, so that another number does not trace again: as float32 or int32, and as float64
    where variables are. Code that does not run so, such as ``range(n)``, and code that uses integer variables which a
    number may not fit, gets them as they are, and is traced for each.
    Strings, booleans, None and other objects are part of the program, and so are variables, by identity.
    """

    def __init__(self, program: Program) -> None:
        self._fn = program.fn
        self._static = static_of(program)
        self._lock = RLock()  # one trace at a time
        self._direct: dict[Key, _Traced] = {}
        self._pure: dict[Key, _Traced] = {}
        self._known: dict[Key, dict[Variable, None]] = {}
        self._numbers: dict[Key, int] = {}

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not tf.executing_eagerly():
            return self._fn(*args, **kwargs)  # part of a raw tf.function: TensorFlow's own reads and writes are right
        arguments = Arguments(args, kwargs, self._static)
        overlay = None
        if overlays.active:
            overlay = overlays.current()
            arguments.key = (arguments.key, scopes.autocast_dtype())
        for _ in range(_ATTEMPTS):
            arguments.pass_numbers(self._numbers.get(arguments.key, SINGLE_NUMBERS))
            if overlay is not None:
                return self._call_pure(arguments)
            traced = self._direct.get(arguments.full_key)
            if traced is None:
                traced = self._trace_direct(arguments)
                if traced is None:
                    continue
            if not traced.direct or traced.long > 3:
                return self._call_pure(arguments)
            try:
                return traced.run(arguments.tensors)
            except Retry as retry:
                if retry.variable is not None:
                    retry.variable._wait_until_free("jit")
                    continue
            with self._lock:
                if self._direct.get(arguments.full_key) is traced:
                    del self._direct[arguments.full_key]
        return self._call_pure(arguments)  # which waits for all, one after the other

    # -- tracing ---------------------------------------------------------------------------------------------

    def _trace_direct(self, arguments: Arguments) -> _Traced | None:
        """The graph for these arguments; None if they must be passed in another way."""
        with self._lock:
            traced = self._direct.get(arguments.full_key)
            if traced is None:
                traced = self._trace(arguments, ())
                if traced is None:
                    return None
                self._direct[arguments.full_key] = traced
                self._known.setdefault(arguments.full_key, {}).update(dict.fromkeys(traced.known))
            return traced

    def _trace(self, arguments: Arguments, values: tuple[tuple[Variable, Any], ...]) -> _Traced | None:
        """Traces, once more if variables were made: those that last are there by then."""
        key, mode = arguments.key, arguments.mode
        try:
            traced, lasting = self._trace_once(arguments, values)
            if lasting:
                traced, lasting = self._trace_once(arguments, values)
        except (TypeError, ValueError, AttributeError, NotImplementedError, tf.errors.OpError, TraceError) as error:
            if arguments.numbers and mode != EXACT_NUMBERS:
                self._numbers[key] = EXACT_NUMBERS
                return None
            raise _explained(error) from error
        if lasting:
            raise TraceError.of(
                "jit",
                "every call makes a variable that lives on, and a compiled function runs its Python code once",
                lasting[0].path,
                "make it on the first call only, or outside",
            )
        better = better_for(arguments.numbers, mode, {variable.dtype_name for variable in traced.known})
        if better != mode:
            self._numbers[key] = better
            return None
        return traced

    def _trace_once(
        self, arguments: Arguments, values: tuple[tuple[Variable, Any], ...]
    ) -> tuple[_Traced, list[Variable]]:
        given = [variable for variable, value in values if value is not None]
        found: list[Any] = []

        def body(*tensors: Any) -> list[Any]:
            found.clear()
            inner = tensors[len(arguments.tensors) :]
            seeds = dict.fromkeys((variable for variable, _ in values), None)
            seeds.update(zip(given, inner, strict=True))
            trace = _Trace("jit", seeds.items())
            args, kwargs = arguments.rebuilt(tensors)
            with trace:
                out = self._fn(*args, **kwargs)
                flat: list[Any] = []
                out = emptied(out, flat)
            trace.check_past()
            written = trace.written_outside()
            news = [trace.drafts[variable]._snapshot for variable in written]
            direct = not values and _is_direct(trace, written)
            found.append((trace, out, written, news, direct))
            if direct:
                _assign_last(trace, written, flat)
                return flat
            return [*flat, *news]

        specs = [tf.TensorSpec(each.shape, each.dtype) for each in arguments.tensors]
        specs += [tf.TensorSpec(value.shape, value.dtype) for _, value in values if value is not None]
        function = tf.function(body, autograph=False).get_concrete_function(*specs)
        trace, out, written, news, direct = found[-1]
        seen = trace.seen_outside()
        known = list(dict.fromkeys([*seen, *(variable for variable, _ in values)]))
        checks = [(variable, *state) for variable, state in seen.items()]
        shapes = [tuple(new.shape) for new in news]
        traced = _Traced(_caller(function), out, known, checks, written, shapes, direct, trace.resources)
        return traced, trace.lasting()

    # -- values in, values out -------------------------------------------------------------------------------

    def _call_pure(self, arguments: Arguments) -> Any:
        for _ in range(_ATTEMPTS):
            known = list(self._known.get(arguments.full_key, ()))
            with CompiledCall("jit", known) as call:
                values = tuple((variable, call.read(variable)) for variable in known)
                traced = self._traced_pure(arguments, values)
                if traced is None:
                    arguments.pass_numbers(self._numbers.get(arguments.key, SINGLE_NUMBERS))
                    continue
                if not traced.checks:
                    inputs = [value for _, value in values if value is not None]
                    results = traced.call([*arguments.tensors, *inputs])
                    count = len(results) - len(traced.written)
                    call.keep(zip(traced.written, results[count:], strict=True))
                    return traced.results(results[:count])
            with self._lock:
                self._known.setdefault(arguments.full_key, {}).update(dict.fromkeys(each[0] for each in traced.checks))
        raise TraceError.of("jit", "the function touches other variables each time it is traced")

    def _traced_pure(self, arguments: Arguments, values: tuple[tuple[Variable, Any], ...]) -> _Traced | None:
        shapes = tuple(
            (id(variable), None if value is None else tuple(value.shape), variable._trainable)
            for variable, value in values
        )
        key = (arguments.full_key, shapes)
        with self._lock:
            traced = self._pure.get(key)
            if traced is None:
                traced = self._trace(arguments, values)
                if traced is not None and not traced.checks:
                    self._pure[key] = traced
            return traced


def _is_direct(trace: _Trace, written: list[Variable]) -> bool:
    """Whether the graph may write what the code has written."""
    for variable in written:
        handle = trace.seen[variable][0]
        if handle is None or not fits(tuple(trace.drafts[variable]._snapshot.shape), variable._declared):
            return False
    return not any(op.type in _PYTHON for op in _operations(trace.graph))


def _operations(graph: Any) -> Iterator[Any]:
    """Those of a graph, and of the functions that it calls."""
    yield from graph.get_operations()
    for function in graph._functions.values() if hasattr(graph, "_functions") else ():
        inner = getattr(function, "graph", None)
        if inner is not None:
            yield from inner.get_operations()


def _assign_last(trace: _Trace, written: list[Variable], results: list[Any]) -> None:
    """Writes the variables, once everything that the graph computes, checks or does has gone well."""
    writes = [_write_of(trace, variable) for variable in written]
    first = [op for op in trace.graph.get_operations() if op.op_def.is_stateful and op.type not in _HARMLESS]
    with tf.control_dependencies(None), tf.control_dependencies([*results, *first, *(x for _, x in writes)]):
        done = tf.no_op()  # one for all: each pair of them would be an edge
    with tf.control_dependencies([done]):
        for write, x in writes:
            write(x, read_value=False)


def _write_of(trace: _Trace, variable: Variable) -> tuple[Any, Any]:
    """How a variable gets its new value, and what of: a sum is added in place, where nobody holds the old value."""
    resource, new = trace.seen[variable][0].variable, trace.drafts[variable]._snapshot
    if tf.is_symbolic_tensor(new) and new.op.type in _IN_PLACE:
        old, x = new.op.inputs
        if old is trace.first[variable] and x.shape == new.shape:
            return getattr(resource, _IN_PLACE[new.op.type]), x
    return resource.assign, new


def _caller(function: Any) -> Callable[[list[Any]], list[Any]]:
    """What calls a concrete function with a list of tensors; past its checks, where TensorFlow lets us."""
    flat, deferred = getattr(function, "_call_flat", None), getattr(function.graph, "deferred_external_captures", True)
    if flat is None or deferred:  # not public: twice the dispatch without it
        return lambda tensors: list(function(*tensors))
    captured = list(function.captured_inputs)
    return lambda tensors: list(flat(tensors, captured))


def _explained(error: Exception) -> Exception:
    if isinstance(error, StatevarError) or "symbolic" not in str(error).lower():
        return error
    return TraceError.of(
        "jit",
        "the code asks for a value that only a call will have; what TensorFlow says: "
        + str(error).strip().partition("\n")[0].rstrip("."),
        hint="use sv.cond, sv.while_loop or tf.where; or static_argnums for an argument",
    )
