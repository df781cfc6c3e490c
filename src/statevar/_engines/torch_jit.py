"""`sv.jit` on torch: the Python code becomes one graph of tensors for each signature, which Inductor compiles.

The graph is made by ``make_fx``, which follows autograd and leaves Python behind, under an overlay that gives the
variables' values as the graph's inputs. Dynamo is not asked: it cannot follow locks and ContextVars, and its guards at
each call take three times as long as ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import RLock
from typing import Any, Final

import numpy as np
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._python_dispatch import _disable_current_modes

from .. import _scopes
from .._backends.torch import _UNHELD, _UNHELD_FORK, BACKEND, _use_count
from .._calls import Call, Makes, Tracing, check_library
from .._forks import guarded
from .._transforms import Program
from .._variable import Variable
from ..errors import TraceError, describe
from .interpreted import Interpreted, UncompilableError

__all__ = ["TorchJit"]

Tensor = torch.Tensor

_ATTEMPTS = 20  # each finds at least one variable more
_EAGERLY = 4  # programs compiled at their first call; more of them run once as they were traced: a number may differ

#: What torch says when Python wants the value of a tensor that has none.
_ASKED = (".numpy() is not supported for tensor subclasses", "is not tracked with proxy for")

_MISS: Final = object()
_PLAIN = frozenset({int, bool, str, bytes, type(None), complex})

#: Tracing replaces parts of torch for the whole process.
_tracing = guarded(RLock())

_is_compiling = torch.compiler.is_compiling
_set_grad_enabled = torch._C._set_grad_enabled
_is_grad_enabled = torch.is_grad_enabled
_is_any_autocast = torch._C._is_any_autocast_enabled
_default_dtype = torch.get_default_dtype

# What cannot fail once it runs, beside the operations that torch tags as pointwise or as reductions. A program of
# these writes in place; one that may fail halfway, at an index out of range, does not.
_SURE = frozenset(
    (  # noqa: SIM905  # the list would take a page
        "mm addmm bmm baddbmm mv dot view _unsafe_view reshape expand detach alias t transpose permute select "
        "slice unsqueeze squeeze cat stack full full_like zeros zeros_like ones ones_like empty_like new_zeros "
        "new_ones new_full arange clone copy_ _to_copy convolution convolution_backward native_layer_norm "
        "native_layer_norm_backward _softmax _softmax_backward_data _log_softmax _log_softmax_backward_data rand "
        "rand_like randn randn_like split flip select_backward slice_backward where lift_fresh_copy lift_fresh "
        "empty scalar_tensor native_dropout cumsum tril triu"
    ).split()
)
_DIVISIONS = ("div", "floor_divide", "remainder", "fmod")


_VIEWS = frozenset(
    (  # noqa: SIM905  # the list would take a page
        "view _unsafe_view reshape expand detach alias t transpose permute select slice unsqueeze squeeze clone "
        "_to_copy lift_fresh_copy lift_fresh"
    ).split()
)


def _name(node: Any) -> str:
    """The name of the operation of a node; empty if it is none of torch's own."""
    target = getattr(node, "target", None)
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    return str(target._schema.name).removeprefix("aten::")


def _written_by(node: Any) -> Any:
    """The node, no view of another, whose memory a node writes; None if it writes none."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.target._schema.is_mutable:
        return None
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            while _name(value) in _VIEWS - {"clone", "_to_copy"}:
                value = value.args[0]  # noqa: PLW2901  # from view to view
            return value
    return None


def _kind(tensor: Tensor | None) -> Any:
    return None if tensor is None else (tensor.dtype, tensor.device)


class _Slot:
    """The place of a tensor in what a function returned."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class _Missed(Exception):  # noqa: N818  # no error: the call goes the other way
    pass


class _Graph:
    """The program for one signature of the arguments and one set of shapes, dtypes and devices of the variables."""

    __slots__ = (
        "_call",
        "_compiled",
        "_detached",
        "_locks",
        "_plan",
        "_ran",
        "_releases",
        "_targets",
        "copies",
        "extra",
        "in_place",
        "kinds",
        "lean",
        "module",
        "out",
        "outs",
        "reshapes",
        "shapes",
        "variables",
        "written",
    )

    def __init__(self, variables: list[Variable], values: list[Any]) -> None:
        self.variables = variables
        self.shapes = [None if value is None else BACKEND.shape(value) for value in values]
        self.kinds = [_kind(value) for value in values]
        self.module: Any = None
        self.written: list[bool] = []  # by the graph, in place of its input
        self.extra: list[Variable] = []  # whose new values it returns: they have another shape, or had none
        self.out: Any = None
        self.copies = 0  # how many inputs it writes
        self.outs = 0  # how many tensors of what it returns are the function's
        self.in_place = False  # it writes its inputs; else it returns the new values
        self.lean = False
        self.reshapes = False
        self._call: Callable[..., Any] | None = None
        self._detached: list[int] = []
        self._ran = False
        self._compiled: Callable[..., Any] | None = None
        self._plan: list[tuple[Any, Variable, Any, Any, bool]] = []
        self._targets: list[Variable] = []
        self._releases: list[Any] = []
        self._locks: list[Any] = []

    def finish(self) -> None:
        """Once all is known."""
        self.in_place = not self.extra and None not in self.shapes
        self.lean = not self.reshapes and None not in self.shapes
        self._locks = [variable._lock for variable in self.variables]
        self._releases = [lock.release for lock in self._locks]
        acquires = [lock.acquire for lock in self._locks]
        self._plan = list(zip(acquires, self.variables, self.shapes, self.kinds, self.written, strict=True))
        self._targets = [each for each, writes in zip(self.variables, self.written, strict=True) if writes] + self.extra

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, tensors: list[Tensor]) -> Any:
        """A call outside of any scope, in place, with the locks held; `_MISS` if that cannot be.

        One function, since each call of Python's takes 0.1 us of the 10 that a small program takes.
        """
        call = self._call
        if call is None or not self.lean:
            return _MISS
        values: list[Tensor] = []
        news: list[tuple[Variable, Tensor]] = []
        began = watched = False
        grad = _is_grad_enabled()
        try:
            for acquire, variable, shape, kind, writes in self._plan:
                acquire()
                handle = variable._handle
                if variable._holder is not None or handle is None or variable._shape != shape:
                    raise _Missed  # noqa: TRY301  # as Ctrl-C would, for the same end
                if handle.shared:
                    if not handle.exclusive() and writes:  # which looks whether its storage was replaced
                        handle.replace(handle.tensor.clone())
                    if handle.tensor.shape != shape or _kind(handle.tensor) != kind:
                        raise _Missed  # noqa: TRY301  # as Ctrl-C would, for the same end
                elif writes and _use_count(handle.address) != _UNHELD:
                    handle.replace(handle.tensor.clone())
                tensor = handle.tensor
                if not tensor.is_contiguous():  # as the program takes it to be
                    raise _Missed  # noqa: TRY301  # as Ctrl-C would, for the same end
                values.append(tensor)
            if grad:
                _set_grad_enabled(False)
            began = self.in_place
            found = call(*values, *tensors)
            if self._detached:
                found = self._apart(found)
            if not self.in_place:
                news.extend(zip(self.extra, found[self.outs :], strict=True))
                _store(news)
            for variable in self._targets:
                variable._version += 1
                if (handle := variable._handle).shared:
                    handle.seen = handle.parameter._version
                if variable._watchers is not None:
                    variable._watchers.record(variable._version)
                    watched = True
            began = False
            if grad:
                _set_grad_enabled(True)
            for release in self._releases:
                release()
        except BaseException as error:
            # No call that Python runs stands before this loop: Ctrl-C comes where one begins.
            interrupt: KeyboardInterrupt | None = None
            while True:
                try:
                    if grad:
                        _set_grad_enabled(True)
                    if news:  # there is no way back, and the way on cannot fail
                        _store(news)
                    if began:  # what it may have written by now has a number of its own
                        began = False
                        for variable in self._targets:
                            variable._version += 1
                    for lock in self._locks:
                        if lock._is_owned():
                            lock.release()
                    break
                except KeyboardInterrupt as another:
                    interrupt = another
            if interrupt is not None:
                raise interrupt from None
            if type(error) is _Missed:
                return _MISS
            raise
        if watched:
            for variable in self._targets:
                variable._deliver()
        return self._result(found)

    def run_carefully(self, tensors: list[Tensor]) -> Any:
        """A call that may wait, takes part in a transaction, and keeps the old values until it has ended."""
        with Call("jit", self.variables) as call:
            inputs, news = [], []
            for _, variable, shape, kind, writes in self._plan:
                value = call.read(variable)
                if (None if value is None else BACKEND.shape(value)) != shape or _kind(value) != kind:
                    return _MISS
                if value is None:
                    continue
                value = value.detach().contiguous()
                if writes:
                    value = value.clone()
                    news.append((variable, value))
                inputs.append(value)
            if self._call is None:
                found = self._first(inputs, tensors)
            else:
                with torch.no_grad():
                    found = self._call(*inputs, *tensors)
            found = self._apart(found)
            call.keep([*news, *zip(self.extra, found[self.outs :], strict=True)])
        return self._result(found)

    def _apart(self, found: Any) -> list[Tensor]:
        """What came out, and never the very tensor of a variable: the next write would not find that it is held."""
        found = list(found)
        for index in self._detached:
            found[index] = found[index].detach()
        return found  # type: ignore[no-any-return]

    def _result(self, found: Any) -> Any:
        out = self.out
        return found[out.index] if type(out) is _Slot else None if out is None else _built(out, found)

    # -- compiling ------------------------------------------------------------------------------------------------

    def compile(self, inputs: list[Tensor], tensors: list[Tensor]) -> None:
        """Has Inductor compile it. The first call runs the graph as it was traced if that was not done before."""
        self._compiled = _compiled(self.module, [*inputs, *tensors])

    def _first(self, inputs: list[Tensor], tensors: list[Tensor]) -> Any:
        """The first calls, which see what comes out as it went in."""
        if self._compiled is None and self._ran:
            self.compile(inputs, tensors)
        self._ran = True
        given = [*inputs, *tensors]
        with torch.no_grad():
            found = (self._compiled or self.module)(*given)
        known = {id(each) for each in [*given, *found[self.outs :]]}  # Inductor returns one tensor for equal results
        self._detached = [i for i in range(self.outs) if id(found[i]) in known]
        self._call = self._compiled
        return found


def _inlining() -> AbstractContextManager[Any]:
    """In the block a function of ``torch.compile`` runs as the Python that it is, and becomes part of the trace."""
    import torch._dynamo.config  # noqa: PLC0415  # a second, of which the compiler takes more

    patched: AbstractContextManager[Any] = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
    return patched


def _compiled(module: Any, inputs: list[Tensor]) -> Callable[..., Any]:
    import torch._dynamo.config  # noqa: PLC0415  # a second
    import torch._inductor.config  # noqa: PLC0415  # only compiled functions need it

    if torch._dynamo.config.disable:  # TORCH_COMPILE_DISABLE=1
        call: Callable[..., Any] = module
        return call
    try:
        # The inputs have been looked at. To be looked at again would take as long as a small program does.
        checks = torch._inductor.config.patch(size_asserts=not all(_is_plain(node) for node in module.graph.nodes))
        with torch.no_grad(), checks, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = torch._inductor.compile(module, [*inputs])
    except Exception as error:
        if "compiler" not in f"{type(error).__name__} {error}".lower():
            raise
        warnings.warn(
            describe("jit", f"torch cannot compile here, so the program runs as it was traced: {error}"),
            RuntimeWarning,
            stacklevel=2,
        )
        return module  # type: ignore[no-any-return]
    return call


def _may_write(module: Any) -> bool:
    """Whether a graph may write over its inputs: nothing in it can fail, as an index out of range would.

    And no input gets the old value of another one. Inductor drops the copy that this takes, and two variables that
    swap their values end with the same one (seen in torch 2.13, in ``torch.compile`` too).
    """
    writes = [node for node in module.graph.nodes if node.target is torch.ops.aten.copy_.default]
    targets = {node.args[0] for node in writes}
    for node in writes:
        source = node.args[1]
        while _name(source) in _VIEWS:
            source = source.args[0]
        if source in targets:
            return False
    return not any(_is_division(node) for node in module.graph.nodes) and all(map(_is_sure, module.graph.nodes))


def _is_sure(node: Any) -> bool:
    """Whether nothing that a node does can fail, beside a division of integers."""
    if node.op != "call_function":
        return True
    if not isinstance(node.target, torch._ops.OpOverload):
        return getattr(node.target, "__name__", "") == "getitem"
    name, tags = _name(node), node.target.tags
    return bool(name) and (torch.Tag.pointwise in tags or torch.Tag.reduction in tags or name in _SURE)


def _is_division(node: Any) -> bool:
    """Of integers."""
    value = node.meta.get("val")
    return _name(node).startswith(_DIVISIONS) and not (isinstance(value, Tensor) and value.is_floating_point())


def _is_plain(node: Any) -> bool:
    """Whether Inductor knows what comes out: an operation of others may say what is not so, and it would go on."""
    return _is_sure(node) and not _name(node).startswith("convolution")


class _Trace(Tracing):
    """Hands out what it was not given as a tensor without values, which only the next trace will have."""

    __slots__ = ("fake",)

    lifted = True

    def _miss(self, variable: Variable) -> Any:
        self.fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
        with _disable_current_modes():  # or the snapshot itself would have none, and perhaps stay with a transaction
            return super()._miss(variable)

    def given(self, variable: Variable, value: Tensor) -> Tensor:
        if any(each() is variable for each, _ in self.created):
            return value.detach().clone()  # a constant of the program, if nobody keeps the variable
        traced: Tensor = self.fake.from_tensor(value.detach(), static_shapes=True)
        return traced


def _store(news: list[tuple[Variable, Tensor]]) -> None:
    """Gives variables new memory. The locks are taken; begun again, it goes on."""
    while news:
        variable, fresh = news[-1]
        storage = fresh.untyped_storage()
        if _use_count(storage._cdata) != _UNHELD_FORK or not fresh.is_contiguous() or storage.nbytes() != fresh.nbytes:
            fresh = fresh.clone(memory_format=torch.contiguous_format)  # somebody else has it too
        variable._handle.replace(fresh)
        news.pop()


class TorchJit:
    """What runs the calls of one function."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._graphs: dict[Any, list[_Graph]] = {}
        self._count = 0
        self._makes = Makes()
        self._statics = bool(program.static_argnums or program.static_argnames)
        self._interpreted: Interpreted | None = None  # if torch cannot compile it
        self._name = getattr(program.fn, "__qualname__", None) or repr(program.fn)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _is_compiling():  # part of what `torch.compile` traces around it
            return self._program.fn(*args, **kwargs)
        if self._interpreted is not None:
            return self._interpreted(args, kwargs)
        tensors: list[Tensor] = []
        key = self._key(args, kwargs, tensors)
        graphs = self._graphs.get(key)
        if graphs is not None and not _scopes.active:
            for graph in graphs:
                if (result := graph.run(tensors)) is not _MISS:
                    return result
        return self._call_carefully(key, args, kwargs, tensors)

    def _call_carefully(self, key: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        for _ in range(_ATTEMPTS):
            for graph in self._graphs.get(key, ()):
                if (result := graph.run_carefully(tensors)) is not _MISS:
                    return result
            try:
                self._trace(key, args, kwargs, tensors)
            except UncompilableError as error:
                warnings.warn(f"{error} {self._name} runs as it is, uncompiled.", RuntimeWarning, stacklevel=4)
                self._interpreted = Interpreted(self._program)
                return self._interpreted(args, kwargs)
        raise TraceError(describe("jit", f"the shapes of the variables of {self._name} change all the time"))

    # -- the signature ----------------------------------------------------------------------------------------------

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        """What makes a program another one; its tensors are collected on the way."""
        modes: Any = _default_dtype()
        if _is_any_autocast():
            modes = (
                modes,
                *((each, torch.is_autocast_enabled(each), torch.get_autocast_dtype(each)) for each in _kinds()),
            )
        if _scopes.active and (cast_to := _scopes.autocast_dtype()) is not None:
            modes = (modes, cast_to)
        try:
            if self._statics:
                nums = {
                    n % len(args) if args else 0 for n in self._program.static_argnums if -len(args) <= n < len(args)
                }
                parts = tuple(
                    (_Static, type(each), each) if i in nums else _signature(each, tensors)
                    for i, each in enumerate(args)
                )
                named = tuple(
                    (name, _Static, type(each), each)
                    if name in self._program.static_argnames
                    else (name, _signature(each, tensors))
                    for name, each in kwargs.items()
                )
            else:
                parts = tuple([_signature(each, tensors) for each in args])
                named = tuple([(name, _signature(each, tensors)) for name, each in kwargs.items()]) if kwargs else ()
            key = (modes, parts, named)
            hash(key)
        except TypeError as error:
            raise TypeError(
                describe(
                    "jit",
                    f"an argument of {self._name} is neither an array, a number, a variable, nor hashable ({error})",
                    hint="pass tensors in tuples, lists or dicts; or let the function close over the object",
                )
            ) from None
        return key

    def _rebuilt(self, args: Any, kwargs: Any, tensors: Iterator[Tensor]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with traced tensors in them, in the order of `_key`."""
        program = self._program
        nums = {n % len(args) for n in program.static_argnums if -len(args) <= n < len(args)} if args else set()
        rebuilt = [each if i in nums else _replaced(each, tensors) for i, each in enumerate(args)]
        named = {
            name: each if name in program.static_argnames else _replaced(each, tensors) for name, each in kwargs.items()
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
                elif in_place and not _may_write(graph.module):
                    in_place = False
                else:
                    break
            else:
                raise TraceError(describe("jit", f"every trace of {self._name} touches other variables"))
            graph.finish()
            if self._count < _EAGERLY:
                graph.compile(inputs, tensors)
            self._graphs.setdefault(key, []).insert(0, graph)
            self._count += 1

    def _attempt(
        self, known: list[Variable], args: Any, kwargs: Any, tensors: list[Tensor], in_place: bool
    ) -> tuple[_Graph, list[Tensor], dict[Variable, None]]:
        overlay: Any = _scopes.overlay() if _scopes.active else None
        values = []
        for variable in known:
            current = variable if overlay is None else overlay.read(variable)
            values.append(None if current._handle is None else current._stored().detach().contiguous())
        inputs = [value for value in values if value is not None]
        graph = _Graph(known, values)
        frames: list[Tracing] = []

        def flat(*traced: Tensor) -> list[Tensor]:
            given = iter(traced)
            own = [None if value is None else next(given) for value in values]
            frame = _Trace("jit", zip(known, own, strict=True))
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

    def _check(self, graph: _Graph, values: list[Any]) -> None:
        """Raises if the code has asked for a value, or written one in torch's own way."""
        nodes = list(graph.module.graph.nodes)
        if any(_name(node) == "_local_scalar_dense" for node in nodes):
            raise self._asks_for_a_value()
        given = (variable for variable, value in zip(graph.variables, values, strict=True) if value is not None)
        inputs = dict(zip((node for node in nodes if node.op == "placeholder"), given, strict=False))
        wrote = [inputs[root] for node in nodes if (root := _written_by(node)) in inputs]
        for variable in wrote[: len(wrote) - graph.copies]:  # ours come last
            raise TraceError(
                describe(
                    "jit",
                    "its value was written past it, by an operation of torch in place",
                    variable.path,
                    "use v.assign, v.assign_add, v[…] = …; or change v.value.clone()",
                )
            )

    def _asks_for_a_value(self) -> TraceError:
        return TraceError(
            describe(
                "jit",
                f"the Python code of {self._name} asks for a value that only the compiled program will have",
                hint="use sv.cond or torch.where, and tensors in place of .item() and .numpy(); or pass what it "
                "depends on as a Python number",
            )
        )

    def _touched(self, frame: Tracing) -> dict[Variable, None]:
        own = {id(each) for each in frame.created_here()}
        touched = {each: None for each in [*frame.missed, *frame.written] if id(each) not in own}
        lasting = frame.lasting()
        self._makes.check(lasting)
        touched.update(dict.fromkeys(lasting))
        check_library(BACKEND, touched)
        return touched


def _outputs(graph: _Graph, frame: Tracing, own: list[Tensor | None], out: Any, *, in_place: bool) -> list[Tensor]:
    """What the graph returns, after it has written the new values over its inputs, if it may."""
    found: list[Tensor] = []
    graph.out = _template(out, found, frame)
    graph.outs = len(found)
    graph.extra = []
    graph.reshapes = False
    inputs = dict(zip(graph.variables, own, strict=True))
    made = {id(each) for each in frame.created_here()}
    over: list[tuple[Tensor, Tensor]] = []
    written: set[Variable] = set()
    extra: list[Tensor] = []
    for variable in frame.written:
        if id(variable) in made or variable not in inputs:
            continue
        new, old = frame.drafts[variable]._snapshot.detach(), inputs[variable]
        if not in_place or old is None or old.shape != new.shape:
            graph.extra.append(variable)
            graph.reshapes |= old is None or old.shape != new.shape
            extra.append(new)
            continue
        written.add(variable)
        if frame.drafts[variable]._snapshot is not old:
            over.append((old, new))
    graph.written = [variable in written for variable in graph.variables]
    lost = {_storage(old) for old, _ in over}  # what still shows an old value must be copied before
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


def _kinds() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


class _Static:
    """Marks a static argument in a signature."""


def _signature(value: Any, tensors: list[Tensor]) -> Any:
    """What of an argument makes a program another one."""
    kind = type(value)
    if kind in _PLAIN:
        return kind, value
    if isinstance(value, Tensor):
        if value.requires_grad:
            value = _cut(value)
        tensors.append(value)
        return value.dtype, value.shape, value.stride(), value.device
    if kind is float:
        return kind, value if value and value == value else repr(value)  # 0.0 and -0.0 are equal
    if isinstance(value, list | tuple):
        return kind, tuple([_signature(each, tensors) for each in value])
    if isinstance(value, dict):
        return kind, tuple([(name, _signature(each, tensors)) for name, each in value.items()])
    if isinstance(value, np.ndarray | np.generic):
        tensor = BACKEND.receive(np.asarray(value))
        tensors.append(tensor)
        return kind, tensor.dtype, tensor.shape, tensor.device
    return kind, value


def _cut(value: Tensor) -> Tensor:
    if _is_grad_enabled():
        raise TraceError(
            describe(
                "jit",
                "an argument requires a gradient, which does not go through a compiled function",
                hint="call sv.value_and_grad inside or around it; or pass x.detach(), or call it under torch.no_grad()",
            )
        )
    return value.detach()


def _replaced(value: Any, tensors: Iterator[Tensor]) -> Any:
    """An argument with the next tensors in place of its own."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return next(tensors)
    if isinstance(value, list | tuple):
        parts = [_replaced(each, tensors) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return type(value)((name, _replaced(each, tensors)) for name, each in value.items())
    return value


def _template(out: Any, found: list[Tensor], frame: Tracing) -> Any:
    """What the function returned, with slots in place of its tensors, which are collected."""
    if isinstance(out, Tensor):
        found.append(out.detach() if out.requires_grad else out)
        return _Slot(len(found) - 1)
    if isinstance(out, list | tuple):
        parts = [_template(each, found, frame) for each in out]
        return type(out)(*parts) if hasattr(out, "_fields") else type(out)(parts)
    if isinstance(out, dict):
        return type(out)((name, _template(each, found, frame)) for name, each in out.items())
    return out


def _built(template: Any, found: Any) -> Any:
    if type(template) is _Slot:
        return found[template.index]
    if isinstance(template, list | tuple):
        parts = [_built(each, found) for each in template]
        return type(template)(*parts) if hasattr(template, "_fields") else type(template)(parts)
    if isinstance(template, dict):
        return type(template)((name, _built(each, found)) for name, each in template.items())
    return template
