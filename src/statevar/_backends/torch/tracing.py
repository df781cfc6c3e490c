"""Tells whether Dynamo is tracing, and leaves the modes in which torch traces for `sv.jit`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from ..._arrays.host import ONE_BY_ONE, combine
from ..._arrays.traced_index import TracedSelection, cannot_write, check_for_mask, traced_selection
from ..._arrays.tracing import AccessCheck, Tracing
from ...errors import TraceError
from .spread import is_over_a_mesh

__all__ = ["TRACING", "TorchTracing", "is_kept", "open_transforms", "outside_transforms", "transform"]

# Asked at every write; each dot costs 30 ns. `torch.compiler.is_compiling` and the flag of ``torch.fx`` tell of all
# threads at once: one that compiles would lead the others to believe that their own code is traced.
_in_dynamo = torch.compiler.is_dynamo_compiling
_in_jit_trace = torch._C._is_tracing
_is_grad_enabled = torch.is_grad_enabled
_modes_open = torch._C._len_torch_dispatch_stack
_mode_of = torch._C._get_dispatch_mode
_PROXIES = getattr(torch._C._TorchDispatchModeKey, "PROXY", None)
_modes_that_trace = [
    each
    for name in ("FAKE", "PROXY", "FUNCTIONAL")
    if (each := getattr(torch._C._TorchDispatchModeKey, name, None)) is not None
]
_is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
#: The number of the transforms of ``torch.func`` that run now.
open_transforms: Any = getattr(torch._C._functorch, "get_dynamic_layer_stack_depth", lambda: 0)
_fx: Any = torch.fx._symbolic_trace
_fx_trace = torch.fx.Tracer.trace.__code__


def _in_fx_trace() -> bool:
    """Whether ``torch.fx`` traces the calling code. Asked where its flag says that it does so in some thread."""
    frame = sys._getframe(1)
    while frame.f_code is not _fx_trace:
        if (outer := frame.f_back) is None:
            return False
        frame = outer
    return True


def _is_without_variables() -> bool:
    """Whether code is traced of which a variable cannot be part: Dynamo alone follows reads and writes."""
    if _in_dynamo():
        return False
    return (
        _in_jit_trace()
        or (_modes_open() > 0 and any(_mode_of(each) is not None for each in _modes_that_trace))
        or (_fx._is_fx_tracing_flag and _in_fx_trace())
    )


def is_kept() -> bool:
    """Whether Dynamo, ``torch.export``, ``torch.fx``, ``torch.jit.trace`` or a fake mode runs the Python code."""
    return _in_dynamo() or _is_without_variables()


#: `_is_without_variables` outside of Dynamo, in few calls; see `Tracing.question`.
_QUESTION = (
    "torch_in_jit_trace() or torch_modes_open() and torch_is_kept() or torch_fx._is_fx_tracing_flag and torch_is_kept()"
)
_NAMES = {
    "torch_in_dynamo": _in_dynamo,
    "torch_in_jit_trace": _in_jit_trace,
    "torch_modes_open": _modes_open,
    "torch_is_kept": is_kept,
    "torch_fx": _fx,
}


def transform() -> str:
    """The transform of ``torch.func`` that runs now and in which no tensor from outside can be written.

    All results are its own tensors, also those that do not depend on its arguments. In ``vmap`` they are plain ones.
    """
    if not open_transforms():
        return ""
    names = [each.key().name for each in torch._C._functorch.get_interpreter_stack() or ()]
    return next((f"torch.func.{name.lower()}" for name in names if name != "Vmap"), "")


def outside_transforms(array: Any) -> AbstractContextManager[Any]:
    """A block in which the transforms of ``torch.func`` do not run, for the first value of a variable."""
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack  # noqa: PLC0415  # needed only here

    if isinstance(array, torch.Tensor) and _is_wrapped(array):
        problem = f"the value is a tensor of {transform()}: it is only valid in the transform"
        raise TraceError.of("Variable", problem, hint="return it from the function, and store it outside")
    block: AbstractContextManager[Any] = temporarily_clear_interpreter_stack()
    return block


class _Mark:
    """Remembers whether gradients were recorded, and code was traced, where an overlay was opened."""

    __slots__ = ("grad", "kept", "proxies", "without_variables")

    def __init__(self) -> None:
        self.grad = _is_grad_enabled()
        self.without_variables = _is_without_variables()
        self.kept = is_kept()
        self.proxies = _mode_of(_PROXIES) if _PROXIES is not None and _modes_open() else None


class TorchTracing(Tracing):
    inlines_python = True
    writes_when_traced = True

    is_tracing = staticmethod(_in_dynamo)  # a method that calls it would take twice as long

    def keeps(self, mark: Any = None) -> bool:
        return is_kept() and not (mark is not None and mark.kept)

    def question(self) -> tuple[str, dict[str, Any]]:
        return f"torch_in_dynamo() or {_QUESTION}", _NAMES  # Dynamo takes the first call for true

    def question_of_own(self) -> tuple[str, dict[str, Any]]:
        return f"not torch_in_dynamo() and ({_QUESTION} or {{}})", _NAMES

    def kept(self, mark: Any) -> bool:
        return mark is not None and bool(mark.kept)

    def trace_mark(self, check_access: AccessCheck) -> Any:
        return _Mark()

    def may_read(self, mark: Any, now: Any = None) -> bool:
        without = _is_without_variables() if now is None else now.without_variables
        return not without or (mark is not None and mark.without_variables)

    def may_write(self, mark: Any) -> bool:
        return self.may_read(mark)

    def under(self, mark: Any) -> AbstractContextManager[Any]:
        # The first run of the body of a loop, which finds out what it writes, is not traced. But a variable that it is
        # the first to read is an input of what is traced.
        if mark is None or mark.proxies is None or _mode_of(_PROXIES) is not None:
            return nullcontext()
        proxies: AbstractContextManager[Any] = mark.proxies
        return proxies

    def outside_trace(self) -> AbstractContextManager[Any]:
        return _disable_current_modes() if _modes_open() else nullcontext()

    def refuses_writes(self, x: Any = None) -> str:
        if isinstance(x, torch.Tensor) and open_transforms() and _is_wrapped(x):
            return transform() or "torch.func.vmap"
        return transform()

    def get_symbolic(self, array: Any, index: Any) -> Any:
        _check_in_one_place(array)
        if _is_mask(index):
            return array[index]
        where = traced_selection(index, tuple(array.shape), _shape_of)
        positions, _ = _positions(where, array.device, array.numel())
        return array.reshape(-1)[positions].reshape(where.shape)

    def put_symbolic(self, old: Any, x: Any, operation: str, index: Any) -> Any:
        _check_in_one_place(old)
        x = x.to(old.device)
        if _is_mask(index):
            mask = _only(index)
            check_for_mask(tuple(x.shape), tuple(mask.shape), tuple(old.shape))
            mask = mask.reshape(*mask.shape, *[1] * (old.dim() - mask.dim()))
            return torch.where(mask, combine(operation, old, x, torch.minimum, torch.maximum).to(old.dtype), old)
        where = traced_selection(index, tuple(old.shape), _shape_of)
        size = old.numel()
        clipped, inside = _positions(where, old.device, size)
        at = torch.where(inside, clipped, size)  # what is outside goes into one more element, which is dropped
        values = x.expand(where.shape).reshape(-1)
        line = torch.cat([old.reshape(-1), old.new_zeros(1)])
        if operation != "set" and (operation in ONE_BY_ONE or where.unique):
            if not where.unique:
                raise cannot_write(operation)
            values = combine(operation, line[at], values, torch.minimum, torch.maximum).to(old.dtype)
            operation = "set"
        if operation == "set" and where.unique:
            new = line.scatter(0, at, values)  # and not `index_put`: see `rows._set_rows`
        elif operation == "set":  # the last one of each
            order = torch.arange(at.numel(), device=old.device)
            last = torch.full((size + 1,), -1, device=old.device).scatter_reduce(0, at, order, "amax")
            new = torch.where(last >= 0, values[last.clamp(min=0)], line)
        elif operation in ("add", "subtract"):
            new = line.scatter_add(0, at, values if operation == "add" else -values)
        else:
            new = line.scatter_reduce(0, at, values, {"multiply": "prod", "min": "amin", "max": "amax"}[operation])
        return new[:size].reshape(old.shape)

    def traced_value(self, handle: Any) -> Any:
        value: torch.Tensor = handle.parameter.clone()
        return value


def _check_in_one_place(array: Any) -> None:
    if is_over_a_mesh(array):
        problem = "the index is only known when the compiled program runs, and the value is over a mesh"
        raise TraceError.of("index", problem, hint="pass the index as a NumPy array, or read and write outside of it")


def _only(index: Any) -> Any:
    return index[0] if isinstance(index, tuple) and len(index) == 1 else index


def _is_mask(index: Any) -> bool:
    return isinstance(part := _only(index), torch.Tensor) and part.dtype is torch.bool


def _shape_of(part: Any) -> tuple[int, ...] | None:
    if not isinstance(part, torch.Tensor):
        return None
    if part.is_floating_point() or part.dtype is torch.bool:
        raise TraceError.of("index", f"a traced index of {part.dtype} beside others is not supported")
    return tuple(part.shape)


def _positions(where: TracedSelection, device: Any, size: int) -> tuple[Any, Any]:
    """The position of each selected element, the nearest one if it is outside, and whether it is inside."""
    positions = torch.tensor(where.base.tolist(), dtype=torch.int64, device=device)
    inside = torch.ones(where.base.size, dtype=torch.bool, device=device)
    for part, length, stride, which in where.terms:
        numbers = part.to(device=device, dtype=torch.int64).reshape(-1)
        numbers = numbers[torch.tensor(which.tolist(), dtype=torch.int64, device=device)]
        numbers = torch.where(numbers < 0, numbers + length, numbers)
        inside = inside & (numbers >= 0) & (numbers < length)
        positions = positions + stride * numbers.clamp(0, max(length - 1, 0))
    return positions, inside


TRACING = TorchTracing()
