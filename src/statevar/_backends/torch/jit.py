"""`sv.jit` on torch: the Python code becomes one graph of tensors for each signature, which Inductor compiles.

``make_fx`` makes the graph, without Python code and with autograd's operations, under an overlay in which the values of
the variables are the graph's inputs. Dynamo is not used: it cannot follow locks and ContextVars, and its guards at each
call take three times as long as ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from threading import RLock
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.transforms import Program
from ..._core import overlays, scopes
from ..._core.forks import guarded
from ..._core.variable import Variable
from ..._transforms.call import CreationLimit, Retry, TraceOverlay, check_library
from ..._transforms.interpreted import Interpreted, UncompilableError
from ...errors import TraceError, describe
from .adapter import BACKEND
from .arguments import Static, replaced, signature, template_of
from .graph import Graph
from .nodes import may_write, name_of, written_by
from .parts import part_of, spec_of, whole_of

__all__ = ["TorchJit"]

Tensor = torch.Tensor

_ATTEMPTS = 20  # each finds at least one more variable
_EAGERLY = 4  # programs compiled before their first call; later ones first run as traced, as numbers may keep changing

#: The operations of a program from which Inductor takes so long that it is worth a warning, and from which it is not
#: asked at all: a scan of 60 steps with its gradient has 1,300, which took 89 s on a busy machine of two cores.
_MANY = 500
_TOO_MANY = 3_000

#: Parts of torch's messages for Python code that needs the value of a tensor without one.
_ASKED = (".numpy() is not supported for tensor subclasses", "is not tracked with proxy for")

#: Taken during a trace, which replaces parts of torch for the whole process.
_tracing = guarded(RLock())

_in_dynamo = torch.compiler.is_dynamo_compiling
_is_any_autocast = torch._C._is_any_autocast_enabled
_default_dtype = torch.get_default_dtype


class TorchJit:
    """Runs the calls of one function, with a graph for each signature of the arguments."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._graphs: dict[Any, list[Graph]] = {}
        self._count = 0
        self._limit = CreationLimit()
        self._statics = bool(program.static_argnums or program.static_argnames)
        self._interpreted: Interpreted | None = None  # set if torch cannot compile the function
        self._name = getattr(program.fn, "__qualname__", None) or repr(program.fn)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _in_dynamo():  # the call is part of an outer `torch.compile`
            return self._program.fn(*args, **kwargs)
        if self._interpreted is not None:
            return self._interpreted(args, kwargs)
        tensors: list[Tensor] = []
        key = self._key(args, kwargs, tensors)
        graphs = self._graphs.get(key)
        if graphs is not None and not overlays.active:
            for graph in graphs:
                try:  # suppress() would take 0.3 us
                    return graph.run(tensors)
                except Retry:
                    continue
        return self._call_carefully(key, args, kwargs, tensors)

    def _call_carefully(self, key: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        for _ in range(_ATTEMPTS):
            for graph in self._graphs.get(key, ()):
                with suppress(Retry):
                    return graph.run_carefully(tensors)
            try:
                self._trace(key, args, kwargs, tensors)
            except UncompilableError as error:
                warnings.warn(f"{error} {self._name} runs uncompiled.", RuntimeWarning, stacklevel=4)
                self._interpreted = Interpreted(self._program)
                return self._interpreted(args, kwargs)
        raise TraceError.of("jit", f"the shapes of the variables that {self._name} uses keep changing")

    # -- the signature ----------------------------------------------------------------------------------------------

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        """Returns the cache key of a call; appends the tensors of its arguments to ``tensors``."""
        modes: Any = _default_dtype()
        if _is_any_autocast():
            modes = (
                modes,
                *((each, torch.is_autocast_enabled(each), torch.get_autocast_dtype(each)) for each in _platforms()),
            )
        if overlays.active and (cast_to := scopes.autocast_dtype()) is not None:
            modes = (modes, cast_to)
        try:
            if self._statics:
                nums = {
                    n % len(args) if args else 0 for n in self._program.static_argnums if -len(args) <= n < len(args)
                }
                parts = tuple(
                    (Static, type(each), each) if i in nums else signature(each, tensors) for i, each in enumerate(args)
                )
                named = tuple(
                    (name, Static, type(each), each)
                    if name in self._program.static_argnames
                    else (name, signature(each, tensors))
                    for name, each in kwargs.items()
                )
            else:
                parts = tuple([signature(each, tensors) for each in args])
                named = tuple([(name, signature(each, tensors)) for name, each in kwargs.items()]) if kwargs else ()
            key = (modes, parts, named)
            hash(key)
        except (TypeError, ValueError) as error:  # `hash` of a memoryview raises the second one
            raise TypeError(
                describe(
                    "jit",
                    f"an argument of {self._name} is neither an array, a number, a variable, nor hashable ({error})",
                    hint="pass tensors in tuples, lists or dicts; or let the function close over the object",
                )
            ) from None
        return key

    def _rebuilt(self, args: Any, kwargs: Any, tensors: Iterator[Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """Returns the arguments with the tensors replaced by traced ones, in the order of `_key`."""
        program = self._program
        nums = {n % len(args) for n in program.static_argnums if -len(args) <= n < len(args)} if args else set()
        rebuilt = [each if i in nums else replaced(each, tensors) for i, each in enumerate(args)]
        named = {
            name: each if name in program.static_argnames else replaced(each, tensors) for name, each in kwargs.items()
        }
        return rebuilt, named

    # -- tracing ------------------------------------------------------------------------------------------------------

    def _trace(self, key: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
        """Adds a program for these arguments and the shapes that the variables have now."""
        with _tracing:
            known: dict[Variable, None] = {}
            in_place = self._program.donate
            for _ in range(_ATTEMPTS):
                graph, inputs, touched = self._attempt(sorted(known, key=id), args, kwargs, tensors, in_place)
                if not touched.keys() <= known.keys():
                    known.update(touched)
                elif in_place and not may_write(graph.module):
                    in_place = False
                else:
                    break
            else:
                raise TraceError.of("jit", f"each trace of {self._name} uses different variables")
            graph.finish()
            self._check_size(graph)
            if self._count < _EAGERLY and graph.compiles:
                graph.compile(inputs, tensors)
            self._graphs.setdefault(key, []).insert(0, graph)
            self._count += 1

    def _check_size(self, graph: Graph) -> None:
        """Warns of a program that takes long to compile, and has one of very many operations run as it was traced."""
        count = len(graph.module.graph.nodes)
        if count <= _MANY:
            return
        graph.compiles = count <= _TOO_MANY
        what = "torch may take minutes to compile them" if graph.compiles else "so it runs them one by one, uncompiled"
        problem = f"the program of {self._name} has {count:,} operations, since torch writes every step of a loop out"
        hint = (
            "compile the body of the loop with sv.jit and call it in a loop of Python; or use JAX or TensorFlow, where "
            "the loops of statevar stay loops"
        )
        warnings.warn(describe("jit", f"{problem}; {what}", hint=hint), RuntimeWarning, stacklevel=6)

    def _attempt(
        self, known: list[Variable], args: Any, kwargs: Any, tensors: list[Tensor], in_place: bool
    ) -> tuple[Graph, list[Tensor], dict[Variable, None]]:
        overlay: Any = overlays.current() if overlays.active else None
        values = []
        for variable in known:
            current = variable if overlay is None else overlay.read(variable)
            values.append(None if current._handle is None else current._stored().detach())
        inputs = [part_of(value).contiguous() for value in values if value is not None]
        graph = Graph(known, values)
        frames: list[TraceOverlay] = []

        def flat(*traced: Tensor) -> list[Tensor]:
            given = iter(traced)
            own = [None if value is None else next(given) for value in values]
            wholes = [
                None if part is None else whole_of(part, spec_of(value))
                for part, value in zip(own, values, strict=True)
            ]
            frame = _Trace("jit", zip(known, wholes, strict=True))
            frames.append(frame)
            rebuilt, named = self._rebuilt(args, kwargs, given)
            with frame:
                out = self._program.fn(*rebuilt, **named)
            return _outputs(graph, frame, own, out, in_place=in_place)

        try:
            with torch.inference_mode(False), torch.enable_grad(), _inlining():
                graph.module = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(
                    *inputs, *(_normal(each) for each in tensors)
                )
            self._check(graph, values)
        except (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode) as error:
            raise self._asks_for_a_value() from error
        except RuntimeError as error:
            if not any(each in str(error) for each in _ASKED):
                raise
            raise self._asks_for_a_value() from error
        finally:
            touched = self._touched(frames.pop()) if frames else {}
        return graph, inputs, touched

    def _check(self, graph: Graph, values: list[Any]) -> None:
        """Raises TraceError if the code needs the value of a tensor, or writes a variable's value in place."""
        nodes = list(graph.module.graph.nodes)
        if any(name_of(node) == "_local_scalar_dense" for node in nodes):
            raise self._asks_for_a_value()
        given = (variable for variable, value in zip(graph.variables, values, strict=True) if value is not None)
        inputs = dict(zip((node for node in nodes if node.op == "placeholder"), given, strict=False))
        wrote = [inputs[root] for node in nodes if (root := written_by(node)) in inputs]
        for variable in wrote[: len(wrote) - graph.copies]:  # our own writes come last
            raise TraceError.of(
                "jit",
                "an in-place operation of torch writes to the value directly, not through the variable",
                variable.path,
                "use v.assign, v.assign_add or v[…] = …; or work on a copy, v.value.clone()",
            )

    def _asks_for_a_value(self) -> TraceError:
        return TraceError.of(
            "jit",
            f"the Python code of {self._name} needs a value that is only known when the compiled program runs",
            hint="use sv.cond or torch.where, and tensors instead of .item() and .numpy(); or pass the value as a "
            "Python number",
        )

    def _touched(self, frame: TraceOverlay) -> dict[Variable, None]:
        own = {id(each) for each in frame.created_here()}
        touched = {each: None for each in [*frame.discovered, *frame.written] if id(each) not in own}
        lasting = frame.lasting()
        self._limit.check(lasting)
        touched.update(dict.fromkeys(lasting))
        check_library(BACKEND, touched)
        return touched


class _Trace(TraceOverlay):
    """An overlay in which variables that were not given have tensors without data; the next trace gets the data."""

    __slots__ = ("fake",)

    under_own_trace = True

    def _discover(self, variable: Variable) -> Any:
        self.fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
        with _disable_current_modes():  # else the snapshot would have no data either, and a transaction might keep it
            return super()._discover(variable)

    def given(self, variable: Variable, value: Tensor) -> Tensor:
        if any(each() is variable for each, _ in self.created):
            return value.detach().clone()  # a constant of the program, unless the variable outlives the trace
        traced: Tensor = self.fake.from_tensor(value.detach(), static_shapes=True)
        return traced


def _inlining() -> AbstractContextManager[Any]:
    """In the block, functions of ``torch.compile`` run as plain Python and become part of the trace."""
    import torch._dynamo.config  # noqa: PLC0415  # takes a second; compiling takes longer

    patched: AbstractContextManager[Any] = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
    return patched


def _outputs(graph: Graph, frame: TraceOverlay, own: list[Tensor | None], out: Any, *, in_place: bool) -> list[Tensor]:
    """Traces the writes of new values over the inputs, where allowed; returns the outputs of the graph."""
    found: list[Tensor] = []
    graph.out = template_of(out, found)
    graph.outs = len(found)
    graph.extra, graph.specs = [], []
    graph.reshapes = False
    inputs = dict(zip(graph.variables, own, strict=True))
    made = {id(each) for each in frame.created_here()}
    over: list[tuple[Tensor, Tensor]] = []
    written: set[Variable] = set()
    extra: list[Tensor] = []
    for variable in frame.written:
        if id(variable) in made or variable not in inputs:
            continue
        snapshot, old = frame.drafts[variable]._snapshot, inputs[variable]
        new = snapshot.detach()
        if (backend := variable._backend).is_sharded:
            new = backend.pinned(new, variable.sharding)  # type: ignore[attr-defined]  # of a ShardedBackend
        spec, new = spec_of(new), part_of(new)
        if not in_place or old is None or old.shape != new.shape:
            graph.extra.append(variable)
            graph.specs.append(spec)
            graph.reshapes |= old is None or old.shape != new.shape
            extra.append(new)
            continue
        written.add(variable)
        if snapshot is not old:
            over.append((old, new))
    graph.written = [variable in written for variable in graph.variables]
    lost = {_storage(old) for old, _ in over}  # results that are views of old values must be copied before the write
    found = [each.clone() if _storage(each) in lost else each for each in [*found, *extra]]
    over = [(old, new.clone() if _storage(new) in lost else new) for old, new in over]
    for old, new in over:
        old.copy_(new)
    graph.copies = len(over)
    return found


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _normal(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


def _platforms() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)
