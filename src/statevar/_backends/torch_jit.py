"""`sv.jit` on torch: the Python code becomes one graph of tensors for each signature, which Inductor compiles.

The graph is made by ``make_fx``, which follows autograd and leaves Python behind, under an overlay that gives the
variables' values as the graph's inputs. Dynamo is not asked: it cannot follow locks and ContextVars, and its guards at
each call take three times as long as ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any, Final

import numpy as np
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from .. import _scopes
from .._calls import Call, Tracing
from .._forks import guarded
from .._transforms import Program
from .._variable import Variable
from ..errors import TraceError, describe
from .torch import _UNHELD, BACKEND, _use_count

__all__ = ["TorchJit"]

Tensor = torch.Tensor

_ATTEMPTS = 20  # each finds at least one variable more
_MAKES = 3  # traces that may make variables which live on
_EAGERLY = 4  # programs compiled at their first call; more of them run once as they were traced: a number may differ

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
    "mm addmm bmm baddbmm mv dot view _unsafe_view reshape expand detach alias t transpose permute select slice unsqueeze "
    "squeeze cat stack full full_like zeros zeros_like ones ones_like empty_like new_zeros new_ones new_full arange clone "
    "copy_ _to_copy convolution convolution_backward native_layer_norm native_layer_norm_backward _softmax "
    "_softmax_backward_data _log_softmax _log_softmax_backward_data rand rand_like randn randn_like split flip "
    "select_backward slice_backward where lift_fresh_copy lift_fresh scalar_tensor native_dropout cumsum tril triu".split()
)
_DIVISIONS = ("div", "floor_divide", "remainder", "fmod")


class _Slot:
    """The place of a tensor in what a function returned."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


class _Graph:
    """The program for one signature of the arguments and one set of shapes of the variables."""

    __slots__ = (
        "_call",
        "_detached",
        "_example",
        "_locks",
        "_plan",
        "_started",
        "extra",
        "in_place",
        "module",
        "out",
        "outs",
        "shapes",
        "variables",
        "written",
    )

    def __init__(self, variables: list[Variable], shapes: list[Any]) -> None:
        self.variables = variables
        self.shapes = shapes
        self.module: Any = None
        self.written: list[bool] = []  # by the graph, in place of its input
        self.extra: list[Variable] = []  # whose new values it returns: they have another shape, or had none
        self.out: Any = None
        self.outs = 0  # how many tensors of what it returns are the function's
        self.in_place = False
        self._call: Callable[..., Any] | None = None
        self._detached: list[int] = []
        self._started = False
        self._example: list[Tensor] = []
        self._plan: list[tuple[Variable, Any, bool]] = []
        self._locks: list[Any] = []

    def finish(self, *, donate: bool) -> None:
        """Once all is known."""
        self.in_place = donate and not self.extra and None not in self.shapes and _is_sure(self.module)
        self._plan = list(zip(self.variables, self.shapes, self.written, strict=True))
        self._locks = [variable._lock for variable in self.variables]

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, tensors: list[Tensor]) -> Any:
        """A call outside of any scope, in place, with the locks held; `_MISS` if that cannot be.

        One function, since each call of Python's takes 0.1 us of the 10 that a small program takes.
        """
        call = self._call
        if call is None or not self.in_place:
            return _MISS
        values: list[Tensor] = []
        began = watched = False
        grad = _is_grad_enabled()
        try:
            for variable, shape, writes in self._plan:
                variable._lock.acquire()
                handle = variable._handle
                if variable._holder is not None or handle is None or variable._shape != shape:
                    return _MISS
                if handle.shared:
                    if not handle.exclusive() and writes:  # which looks whether its storage was replaced
                        handle.replace(handle.tensor.clone())
                    if handle.tensor.shape != shape:
                        return _MISS
                elif writes and _use_count(handle.address) != _UNHELD:
                    handle.replace(handle.tensor.clone())
                values.append(handle.tensor)
            if grad:
                _set_grad_enabled(False)
            began = True
            found = call(*values, *tensors)
            for variable, _, writes in self._plan:
                if writes:
                    variable._version += 1
                    if variable._handle.shared:
                        variable._handle.seen = variable._handle.parameter._version
                    if variable._watchers is not None:
                        variable._watchers.record(variable._version)
                        watched = True
            began = False
        finally:
            # No call that Python runs stands before this loop: Ctrl-C comes where one begins.
            interrupt: KeyboardInterrupt | None = None
            while True:
                try:
                    if grad:
                        _set_grad_enabled(True)
                    if began:  # it failed: what it has written by now has no number
                        began = False
                        self._count_up()
                    for lock in self._locks:
                        if lock._is_owned():
                            lock.release()
                    break
                except KeyboardInterrupt as error:
                    interrupt = error
            if interrupt is not None:
                raise interrupt
        if watched:
            for variable, _, writes in self._plan:
                if writes:
                    variable._deliver()
        return self._result(found)

    def _count_up(self) -> None:
        for variable, _, writes in self._plan:
            if writes:
                variable._version += 1

    def run_carefully(self, tensors: list[Tensor]) -> Any:
        """A call that may wait, takes part in a transaction, and keeps the old values until it has ended."""
        with Call("jit", self.variables) as call:
            inputs, news = [], []
            for variable, shape, writes in self._plan:
                value = call.read(variable)
                if (None if value is None else BACKEND.shape(value)) != shape:
                    return _MISS
                if value is None:
                    continue
                value = value.detach().contiguous()
                if writes:
                    value = value.clone()
                    news.append((variable, value))
                inputs.append(value)
            if not self._started:
                self._start(inputs, tensors)
            with torch.no_grad():
                found = (self._call or self.module)(*inputs, *tensors)
            call.keep([*news, *zip(self.extra, found[self.outs :], strict=True)])
        return self._result(found)

    def _result(self, found: Any) -> Any:
        for index in self._detached:
            found[index] = found[index].detach()
        out = self.out
        return found[out.index] if type(out) is _Slot else None if out is None else _built(out, found)

    # -- compiling ------------------------------------------------------------------------------------------------

    def _start(self, inputs: list[Tensor], tensors: list[Tensor]) -> None:
        pass

    def compile(self, inputs: list[Tensor], tensors: list[Tensor]) -> None:
        """Has Inductor compile it."""
        self._call = _compiled(self.module, [*inputs, *tensors])


def _compiled(module: Any, inputs: list[Tensor]) -> Callable[..., Any]:
    import torch._dynamo.config  # noqa: PLC0415  # a second
    import torch._inductor  # noqa: PLC0415

    if torch._dynamo.config.disable:  # TORCH_COMPILE_DISABLE=1
        call: Callable[..., Any] = module
        return call
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = torch._inductor.compile(module, inputs)
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


def _is_sure(module: Any) -> bool:
    """Whether nothing in a graph can fail when it runs, as an index out of range would."""
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        target = node.target
        if not isinstance(target, torch._ops.OpOverload):
            if getattr(target, "__name__", "") != "getitem":
                return False
            continue
        name = target.name().removeprefix("aten::").partition(".")[0]
        if target.namespace != "aten":
            return False
        if name.startswith(_DIVISIONS):
            value = node.meta.get("val")
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return False
        tags = target.tags
        if not (torch.Tag.pointwise in tags or torch.Tag.reduction in tags or name in _SURE):
            return False
    return True


class TorchJit:
    """What runs the calls of one function."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._graphs: dict[Any, list[_Graph]] = {}
        self._count = 0
        self._makes = 0
        self._statics = bool(program.static_argnums or program.static_argnames)
        self._name = getattr(program.fn, "__qualname__", None) or repr(program.fn)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _is_compiling():  # part of what `torch.compile` traces around it
            return self._program.fn(*args, **kwargs)
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
            self._trace(key, args, kwargs, tensors)
        raise TraceError(describe("jit", f"the shapes of the variables of {self._name} change all the time"))

    # -- the signature ----------------------------------------------------------------------------------------------

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        """What makes a program another one; its tensors are collected on the way."""
        modes: Any = _default_dtype()
        if _is_any_autocast():
            modes = (modes, *((each, torch.is_autocast_enabled(each), torch.get_autocast_dtype(each)) for each in _kinds()))
        if _scopes.active:
            modes = (modes, _scopes.autocast_dtype())
        try:
            if self._statics:
                nums = {n % len(args) if args else 0 for n in self._program.static_argnums if -len(args) <= n < len(args)}
                parts = tuple(
                    (_Static, type(each), each) if i in nums else _signature(each, tensors) for i, each in enumerate(args)
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
            for _ in range(_ATTEMPTS):
                graph, inputs, touched = self._attempt(sorted(known, key=id), args, kwargs, tensors)
                if touched.keys() <= known.keys():
                    break
                known.update(touched)
            else:
                raise TraceError(describe("jit", f"every trace of {self._name} touches other variables"))
            graph.finish(donate=self._program.donate)
            graph.compile(inputs, tensors)
            self._graphs.setdefault(key, []).insert(0, graph)
            self._count += 1

    def _attempt(
        self, known: list[Variable], args: Any, kwargs: Any, tensors: list[Tensor]
    ) -> tuple[_Graph, list[Tensor], dict[Variable, None]]:
        overlay: Any = _scopes.overlay() if _scopes.active else None
        values = []
        for variable in known:
            current = variable if overlay is None else overlay.read(variable)
            values.append(None if current._handle is None else current._stored().detach().contiguous())
        inputs = [value for value in values if value is not None]
        graph = _Graph(known, [None if value is None else BACKEND.shape(value) for value in values])
        frames: list[Tracing] = []

        def flat(*traced: Tensor) -> list[Tensor]:
            given = iter(traced)
            own = [None if value is None else next(given) for value in values]
            frame = Tracing("jit", zip(known, own, strict=True))
            frames.append(frame)
            rebuilt, named = self._rebuilt(args, kwargs, given)
            with frame:
                out = self._program.fn(*rebuilt, **named)
            for variable, tensor in zip(known, own, strict=True):
                if tensor is not None and tensor._version:
                    raise TraceError(
                        describe("jit", "its value was written past it, by an operation of torch in place",
                                 variable.path, "use v.assign, v.assign_add, v[…] = …, or v.value.clone()")
                    )  # fmt: skip
            return _outputs(graph, frame, own, out)

        try:
            with torch.inference_mode(False), torch.enable_grad():
                graph.module = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(
                    *inputs, *(_normal(each) for each in tensors)
                )
        except (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode) as error:
            raise TraceError(
                describe(
                    "jit",
                    f"the Python code of {self._name} asks for a number that only the compiled program will have",
                    hint="use sv.cond, sv.while_loop or torch.where; or pass what it depends on as a Python number",
                )
            ) from error
        finally:
            touched = self._touched(frames.pop()) if frames else {}
        return graph, inputs, touched

    def _touched(self, frame: Tracing) -> dict[Variable, None]:
        own = {id(each) for each in frame.created_here()}
        touched = {each: None for each in [*frame.missed, *frame.written] if id(each) not in own}
        lasting = frame.lasting()
        if lasting:
            self._makes += 1
            if self._makes > _MAKES:
                raise TraceError(
                    describe(
                        "jit",
                        "every trace of the function makes a variable that lives on",
                        lasting[0].path,
                        "make it once: before, or on the first call only",
                    )
                )
        touched.update(dict.fromkeys(lasting))
        for variable in touched:
            if variable.backend != "torch":
                raise TraceError(
                    describe(
                        "jit",
                        f"torch compiles this function, and the variable is of {variable.backend}: its value would be "
                        "kept for ever",
                        variable.path,
                        "make it with backend='torch', or read it outside and pass the value",
                    )
                )
        return touched


def _outputs(graph: _Graph, frame: Tracing, own: list[Tensor | None], out: Any) -> list[Tensor]:
    """What the graph returns, after it has written the new values over its inputs."""
    found: list[Tensor] = []
    graph.out = _template(out, found, frame)
    graph.outs = len(found)
    graph.extra = []
    inputs = dict(zip(graph.variables, own, strict=True))
    made = {id(each) for each in frame.created_here()}
    over: list[tuple[Tensor, Tensor]] = []
    written: set[Variable] = set()
    extra: list[Tensor] = []
    for variable in frame.written:
        if id(variable) in made or variable not in inputs:
            continue
        new, old = frame.drafts[variable]._snapshot.detach(), inputs[variable]
        if old is None or old.shape != new.shape:
            graph.extra.append(variable)
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
    if isinstance(out, torch.SymInt | torch.SymFloat | torch.SymBool):
        raise TraceError(
            describe("jit", "the function returns a number that only the compiled program will have",
                     hint="return the tensor, without .item()")
        )  # fmt: skip
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
