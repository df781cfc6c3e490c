"""`sv.jit` on TensorFlow: a graph that reads the variables' own resources, and writes them at its end.

The code is traced into one ``tf.function`` graph with its variables in an overlay. The graph reads their values from
their own resources, so that a call passes none, and assigns the new values at its end, after everything that can fail.
The call has the locks of the variables, so that no thread sees half of it.

Where that is impossible, the values are passed as arguments and returned as results, which `CompiledCall` writes: in a
transaction; for a variable without a value, or whose declared shape changes; where Python code runs within the graph,
which might take the same locks; and where the graph runs for so long that readers should not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from threading import RLock, get_ident
from time import perf_counter
from typing import Any, Final, Self

import tensorflow as tf

from ..._arrays.backend import Backend
from ..._arrays.shapes import fits
from ..._arrays.transforms import Program
from ..._core import overlays, scopes
from ..._core.cell import count_writes
from ..._core.holds import Locks, begin_program, end_program
from ..._core.variable import Variable
from ..._transforms.call import CompiledCall, Retry, TraceOverlay, check_library
from ..._transforms.draft import ValueDraft
from ..._transforms.overlay import past_overlay
from ...errors import StatevarError, TraceError
from .adapter import BACKEND, writes_rows
from .arguments import EXACT_NUMBERS, SINGLE_NUMBERS, Arguments, Key, better_for, emptied, filled, static_of
from .handles import end_lease
from .rows import scatter_in_place, scatters_of

__all__ = ["Jitted"]

_ATTEMPTS = 20  # each finds one more variable, or one that another thread has changed
#: Seconds, in all and per variable. A graph that takes longer runs without the locks, which costs about as much.
_LONG, _LONG_EACH = 5e-3, 1e-4
_PYTHON = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}
_HARMLESS = {"ReadVariableOp", "VarHandleOp", "Placeholder"}
_IN_PLACE = {"AddV2": "assign_add", "Sub": "assign_sub"}

# The reasons to try a call again.
_STALE: Final = "a variable has changed in a way that needs a new graph"
_HELD: Final = "another thread or task holds a variable"


class _Trace(TraceOverlay):
    """Reads variables that were not given from their resources, and remembers their state."""

    __slots__ = ("_past", "first", "graph", "resources", "scattered", "seen")

    def __enter__(self) -> Self:
        self.graph = tf.compat.v1.get_default_graph()
        self.first: dict[Variable, Any] = {}  # the first value read of each variable
        self._past: dict[Variable, int] = {}
        self.resources: list[Any] = []
        self.scattered: list[Any] = []  # the handles of variables into which the graph scatters
        self.seen: dict[Variable, tuple[Any, ...]] = {}
        super().__enter__()
        self.graph._statevar_trace = self  # for the threads of replicas
        return self

    def __exit__(self, *error: object) -> None:
        self.graph._statevar_trace = None
        super().__exit__(*error)

    def read(self, variable: Any) -> ValueDraft:
        """Reads a variable; again from its resource if a raw operation, such as an optimizer's, has used it since."""
        if variable in self.first and variable not in self.written and variable in self.drafts:
            past = len(_used_past(self.graph, variable))
            if past != self._past.get(variable, 0):
                self._past[variable] = past
                del self.drafts[variable]
        return super().read(variable)

    def check_past(self) -> None:
        """Raises TraceError if a raw operation used a variable that has another value in the trace."""
        for variable, draft in self.drafts.items():
            if (variable in self.written or variable not in self.seen) and _used_past(self.graph, variable):
                raise past_overlay(BACKEND.name, self.what, draft._path)

    def written_outside(self) -> list[Variable]:
        """The variables that the code wrote but did not create."""
        made = {id(variable) for variable in self.created_here()}
        return [variable for variable in self.written if id(variable) not in made]

    def seen_outside(self) -> dict[Variable, tuple[Any, ...]]:
        """The states of the variables that the code did not create. Drops all states, so that the others can die."""
        made = {id(variable) for variable in self.created_here()}
        seen = {variable: state for variable, state in self.seen.items() if id(variable) not in made}
        self.seen.clear()
        self.first.clear()
        self._past.clear()
        return seen

    def _discover(self, variable: Variable) -> ValueDraft:
        check_library(BACKEND, [variable])
        self.seen[variable] = (variable._handle, variable._shape, variable._trainable)
        if not variable._backend.is_shared:
            self.resources.append(variable._handle)
        return super()._discover(variable)

    def _place(self, backend: Backend) -> AbstractContextManager[None]:
        # A transaction stores its reads, and a shared variable has no resource; this trace only finds the variables.
        if self.outer is not None or backend.is_shared:
            scope: AbstractContextManager[None] = tf.init_scope()
            return scope
        return super()._place(backend)

    def given(self, variable: Variable, value: Any) -> Any:
        if not value.shape.is_fully_defined():  # the declared shape is partly unknown, but the graph is for this one
            value = tf.ensure_shape(value, variable._shape)
        self.first[variable] = value
        return value


def _used_past(graph: Any, variable: Variable) -> list[Any]:
    """The operations of a graph, other than reads, that use the resource of a variable."""
    handle = variable._handle
    if handle is None or variable._backend.is_shared or not hasattr(handle.variable, "handle"):
        return []
    try:
        captures = graph.function_captures.by_val_internal
    except AttributeError:  # not public; this way is slower
        captures = {id(outside): inside for outside, inside in graph.captures}
    captured = captures.get(id(handle.variable.handle))
    return [] if captured is None else [op for op in captured.consumers() if op.type != "ReadVariableOp"]


@dataclass(slots=True)
class _Traced:
    """A graph, with the variables that it reads and writes."""

    call: Callable[[list[Any]], list[Any]]
    out: Any  # the pytree that was returned: `_Out` in place of each tensor
    known: list[Variable]
    #: Each variable that the trace found, with its handle, its shape, and whether it was trainable.
    checks: list[tuple[Any, ...]]
    written: list[Variable]
    shapes: list[Any]
    #: Whether the graph itself writes the variables.
    direct: bool
    #: Keeps resources alive to which TensorFlow has only weak references: of variables that the code drops again.
    resources: list[Any]
    #: The handles of variables into which the graph scatters, so that nobody else may.
    scattered: list[Any]
    calls: int = 0
    long: int = 0
    locks: Locks | None = None
    ids: frozenset[int] = frozenset()

    def run(self, tensors: list[Any]) -> Any:
        """Calls a graph that writes the variables itself.

        Raises:
            Retry: for the reason `_STALE`, or `_HELD` with the variable.
        """
        started = 0.0

        def locked() -> list[Any]:
            nonlocal started
            for variable, handle, shape, trainable in self.checks:
                if variable._holder is not None:
                    raise Retry(_HELD, variable)
                if variable._handle is not handle or variable._shape != shape or variable._trainable is not trainable:
                    raise Retry(_STALE)
            for handle in self.scattered:
                if handle.lent:
                    raise Retry(_STALE)
            for variable in self.written:
                variable._handle.cached = None
                end_lease(variable._handle)
            started = perf_counter()
            try:
                results = self.call(tensors)
            except Exception:
                raise
            except BaseException:  # Ctrl-C: the graph may have written or not
                count_writes(self.written, self.shapes)
                raise
            count_writes(self.written, self.shapes)
            return results

        if self.locks is None:
            self.locks = Locks(self.known)
            self.ids = frozenset(map(id, self.written))
        thread = get_ident()
        around = begin_program(thread, self.ids)
        try:
            flat = self.locks.while_taken(locked)
        finally:
            end_program(thread, around)
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

    Numbers are passed as tensors, so that a new number is not traced again: as float32 or int32, or as float64 if a
    variable has that dtype. Code that cannot run on tensors, such as ``range(n)``, or that uses integer variables into
    which a number may not fit, gets the numbers themselves and is traced for each.
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
            return self._fn(*args, **kwargs)  # in a raw tf.function, TensorFlow's own reads and writes are right
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
        return self._call_pure(arguments)  # it waits for all variables, one after the other

    # -- tracing ---------------------------------------------------------------------------------------------

    def _trace_direct(self, arguments: Arguments) -> _Traced | None:
        """Returns the graph for these arguments; None if the numbers must be passed in another way."""
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
        """Traces, and a second time if the first trace created variables that outlive it, since they exist by then."""
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
                "the function creates a new variable each time it is traced, but its Python code does not run at every "
                "call",
                lasting[0].path,
                "create it outside the function, or in the first call only",
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
        traced = _Traced(
            _caller(function), out, known, checks, written, shapes, direct, trace.resources, trace.scattered
        )
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
        raise TraceError.of("jit", "each trace of the function uses different variables")

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
    """Whether the graph itself may write the variables that the code has written."""
    if any(each._backend.is_sharded or each._backend.is_shared for each in trace.seen):
        return False
    for variable in written:
        handle = trace.seen[variable][0]
        if handle is None or not fits(tuple(trace.drafts[variable]._snapshot.shape), variable._declared):
            return False
    return not any(op.type in _PYTHON for op in _operations(trace.graph))


def _operations(graph: Any) -> Iterator[Any]:
    """The operations of a graph and of the functions that it calls."""
    yield from graph.get_operations()
    for function in graph._functions.values() if hasattr(graph, "_functions") else ():
        inner = getattr(function, "graph", None)
        if inner is not None:
            yield from inner.get_operations()


def _assign_last(trace: _Trace, written: list[Variable], results: list[Any]) -> None:
    """Adds the writes of the variables to the graph, after everything else in it has succeeded."""
    writes = [_write_of(trace, variable) for variable in written]
    first = [op for op in trace.graph.get_operations() if op.op_def.is_stateful and op.type not in _HARMLESS]
    needed = [x for _, inputs in writes for x in inputs]
    with tf.control_dependencies(None), tf.control_dependencies([*results, *first, *needed]):
        done = tf.no_op()  # one node for all, else each pair of them would be an edge
    with tf.control_dependencies([done]):
        for write, _ in writes:
            write()


def _write_of(trace: _Trace, variable: Variable) -> tuple[Callable[[], object], list[Any]]:
    """Returns a function that writes a variable's new value, and what it needs; sums and rows can be in place."""
    handle, new = trace.seen[variable][0], trace.drafts[variable]._snapshot
    resource = handle.variable
    if tf.is_symbolic_tensor(new) and new.op.type in _IN_PLACE:
        old, x = new.op.inputs
        if old is trace.first[variable] and x.shape == new.shape:
            return partial(getattr(resource, _IN_PLACE[new.op.type]), x, read_value=False), [x]
    if writes_rows(handle) and (scatters := scatters_of(new, trace.first.get(variable))):
        trace.scattered.append(handle)
        return partial(scatter_in_place, resource.handle, scatters), [x for _, *inputs in scatters for x in inputs]
    return partial(resource.assign, new, read_value=False), [new]


def _caller(function: Any) -> Callable[[list[Any]], list[Any]]:
    """Returns a function that calls a concrete function with a list of tensors, without its checks if possible."""
    flat, deferred = getattr(function, "_call_flat", None), getattr(function.graph, "deferred_external_captures", True)
    if flat is None or deferred:  # not public: without it, dispatch takes twice as long
        return lambda tensors: list(function(*tensors))
    captured = list(function.captured_inputs)
    return lambda tensors: list(flat(tensors, captured))


def _explained(error: Exception) -> Exception:
    """An error of TensorFlow about a value that only the program has, explained; any other error as it is."""
    if isinstance(error, TraceError) and isinstance(error.__cause__, NotImplementedError):
        error = error.__cause__  # of NumPy, which wanted the elements of a variable
    if not _asks_for_a_value(error):
        return error
    return TraceError.of(
        "jit",
        "the code needs a value that is only known when the compiled function runs; TensorFlow says: "
        + str(error).strip().partition("\n")[0].rstrip("."),
        hint="use sv.cond, sv.while_loop or tf.where; or make an argument static with static_argnums",
    )


#: What only a tensor with a value has.
_OF_A_VALUE = ("numpy", "item", "tolist", "__array__", "__int__", "__float__", "__index__", "__complex__")


def _asks_for_a_value(error: Exception) -> bool:
    if isinstance(error, StatevarError):
        return False
    if isinstance(error, AttributeError):  # else the name is one that no tensor has
        return tf.is_symbolic_tensor(error.obj) and error.name in _OF_A_VALUE
    text = str(error)
    if isinstance(error, TypeError) and "'SymbolicTensor'" in text:  # of int(x), range(x), x.__index__
        return True
    return "symbolic" in text and "tf.Tensor" in text
