"""Torch's transforms, for code whose variables have values in an overlay."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from threading import local
from typing import Any

import torch
from torch._functorch.eager_transforms import enable_inplace_requires_grad
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode
from torch.utils.checkpoint import checkpoint

from ..._arrays.transforms import Program, Tape, Transforms
from ..._arrays.trees import leaves, tree_map  # in `torch.utils._pytree`, None is a leaf
from ..._core import overlays
from ..._transforms.interpreted import UncompilableError
from ...errors import describe

__all__ = ["TRANSFORMS"]

Tensor = torch.Tensor

_modes_open = torch._C._len_torch_dispatch_stack


class _Open(local):
    """The number of recording tapes of the running thread."""

    def __init__(self) -> None:
        self.count = 0


_open = _Open()


class TorchTape(Tape):
    """Records with autograd. A watched array is a leaf of its own: no gradient reaches the variable's parameter."""

    def __init__(self) -> None:
        # An outer tape, or ``torch.func.grad``, needs the gradient of a gradient.
        self._nested = _open.count > 0 or torch._C._functorch.peek_interpreter_stack() is not None
        self._modes = ExitStack()
        if torch.is_inference_mode_enabled():
            self._modes.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled() and not _turned_off_by_code():
            self._modes.enter_context(torch.enable_grad())
        self._closed = False
        _open.count += 1

    def watch(self, array: Tensor) -> Tensor:
        if self._nested and array.requires_grad:
            return array.view_as(array)
        if torch._C._functorch.peek_interpreter_stack() is None:
            return array.detach().requires_grad_()
        with enable_inplace_requires_grad(True):  # under ``torch.func.grad`` or vmap
            return array.detach().requires_grad_()

    def watch_object(self, thing: Any) -> Tensor | None:
        known = isinstance(thing, Tensor) and thing.requires_grad and thing.is_leaf
        return thing if known and torch._C._functorch.peek_interpreter_stack() is None else None

    def gradients(self, target: Tensor, sources: Sequence[Tensor], *, keep: bool) -> list[Tensor]:
        if not target.requires_grad or not sources:
            return [torch.zeros_like(source.detach()) for source in sources]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            target, list(sources), retain_graph=keep or self._nested, create_graph=self._nested, allow_unused=True
        )
        return [
            torch.zeros_like(source.detach()) if gradient is None else gradient
            for source, gradient in zip(sources, found, strict=True)
        ]

    def pull_back(
        self, target: Tensor, weight: Tensor | None, sources: Sequence[Tensor], *, keep: bool
    ) -> list[Tensor | None]:
        wanted = [each for each in sources if each.requires_grad]
        if not target.requires_grad or not wanted:
            return [None] * len(sources)
        again = self._nested or (keep and not self._closed)  # an outer tape, or this one, may compute more gradients
        found = iter(
            torch.autograd.grad(
                target,
                wanted,
                torch.ones_like(target) if weight is None else weight,
                retain_graph=keep or again,
                create_graph=again,
                allow_unused=True,
            )
        )
        return [next(found) if each.requires_grad else None for each in sources]

    def paused(self) -> AbstractContextManager[None]:
        return torch.no_grad()

    def concrete(self, array: Any) -> Any:
        if self._nested or not isinstance(array, Tensor):
            return array
        return array.detach()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _open.count -= 1
            self._modes.close()


def _turned_off_by_code() -> bool:
    """Whether the code in the overlay, not its caller, has turned gradients off: they must then stay off."""
    overlay: Any = overlays.current() if overlays.active else None
    mark = getattr(overlay, "_marks", {}).get("torch")
    return mark is not None and bool(mark.grad)


class TorchTransforms(Transforms):
    # -- gradients -----------------------------------------------------------------------------------------

    def tape(self) -> Tape:
        return TorchTape()

    def zeros_like(self, array: Tensor) -> Tensor:
        return torch.zeros_like(array.detach())

    # -- compilation ---------------------------------------------------------------------------------------

    def jit(self, program: Program) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        from .jit import TorchJit  # noqa: PLC0415  # only compiling needs it

        return TorchJit(program).__call__  # a call of a bound method is faster than one of an object

    # -- control flow --------------------------------------------------------------------------------------

    unrolls = math.inf  # Inductor compiles no loops

    def stages_loops(self, pytree: Any) -> bool:
        return _is_traced() or any(isinstance(each, FakeTensor) for each in leaves(pytree))

    def written_by(self, fn: Callable[..., Any], *args: Any) -> None:
        with disable_proxy_modes_tracing():
            fn(*args)

    def scan(self, body: Callable[..., Any], carry: Any, xs: Any, length: int | None, *, reverse: bool) -> Any:
        count = length if length is not None else int(next(leaves(xs)).shape[0])
        found = []
        for i in reversed(range(count)) if reverse else range(count):
            carry, y = body(carry, tree_map(lambda x, i=i: x[i], xs))
            found.append(y)
        if reverse:
            found.reverse()
        if found:
            return carry, tree_map(lambda *each: self.stack(each), *found)
        zeros = tree_map(lambda x: torch.zeros(x.shape[1:], dtype=x.dtype, device=x.device), xs)
        return carry, tree_map(lambda y: self.stack([y])[:0], body(carry, zeros)[1])

    def cond(self, predicate: Any, on_true: Callable[..., Any], on_false: Callable[..., Any], operands: Any) -> Any:
        if not isinstance(predicate, Tensor):
            return (on_true if predicate else on_false)(*operands)
        # Both branches are computed: `torch.cond` takes no branch that closes over traced values.
        return tree_map(partial(_chosen, predicate.reshape(()).bool()), on_true(*operands), on_false(*operands))

    def while_loop(self, condition: Callable[..., Any], body: Callable[..., Any], carry: Any) -> Any:
        while True:
            goes_on = condition(carry)
            if isinstance(goes_on, Tensor):
                raise UncompilableError(
                    describe(
                        "while_loop",
                        "under sv.jit, torch cannot compile a loop whose end depends on a computed value",
                        hint="use sv.fori_loop or sv.scan with a length that is a Python number",
                    )
                )
            if not goes_on:
                return carry
            carry = body(carry)

    def vmap(
        self, fn: Callable[..., Any], in_axes: Any, out_axes: Any, axis_size: int | None, axis_name: Any = None
    ) -> Callable[..., Any]:
        mapped = torch.func.vmap(fn, in_axes, out_axes, randomness="different")

        def wrapped(*args: Any) -> Any:
            try:
                return mapped(*args)
            except RuntimeError as error:
                if "data-dependent control flow" not in str(error):
                    raise
                raise UncompilableError(
                    describe(
                        "vmap",
                        "under sv.jit, torch cannot map code that branches or loops on a computed value",
                        hint="use torch.where, or loops with a length that is a Python number",
                    )
                ) from error
            except ValueError as error:
                if "BatchedTensor when out_dim is None" not in str(error):
                    raise
                raise ValueError(f"out_axes: {error}") from error  # the caller's name of it

        return wrapped

    def remat(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            if _is_traced():  # Inductor itself decides what to recompute
                return fn(*args)
            return checkpoint(fn, *args, use_reentrant=False)

        return wrapped

    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Tensor:
        return torch.stack(_tensors(arrays), axis)


def _is_traced() -> bool:
    """Whether `sv.jit` traces the running code."""
    return _modes_open() > 0 and get_proxy_mode() is not None


def _tensors(values: Sequence[Any], beside: Tensor | None = None) -> list[Tensor]:
    """The values as tensors; numbers on the device of the first tensor, whatever torch's default device is."""
    first = next((each for each in values if isinstance(each, Tensor)), beside)
    device = torch.device("cpu") if first is None else first.device
    return [each if isinstance(each, Tensor) else torch.as_tensor(each, device=device) for each in values]


def _chosen(predicate: Tensor, yes: Any, no: Any) -> Tensor:
    yes, no = _tensors([yes, no], predicate)
    if yes.shape != no.shape or yes.dtype != no.dtype:
        raise TypeError(
            describe(
                "cond",
                f"the branches return {tuple(yes.shape)} {yes.dtype} and {tuple(no.shape)} {no.dtype}",
                hint="return the same shapes and dtypes from both",
            )
        )
    return torch.where(predicate, yes, no)


TRANSFORMS = TorchTransforms()
