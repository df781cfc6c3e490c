"""A compiled torch program, with the calls that read and write the variables."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from sys import getrefcount
from threading import get_ident
from typing import Any, Final

import torch

from ..._core.cell import count_writes
from ..._core.holds import begin_program, drain, end_program, releasing
from ..._core.variable import Variable
from ..._transforms.call import CompiledCall, Retry
from ...errors import ConflictError, describe
from .adapter import BACKEND
from .arguments import Slot, built
from .handles import UNHELD, UNHELD_FORK, UNHELD_STORAGE, UNLEASED, use_count
from .nodes import is_plain
from .parts import kind_of, part_of, spec_of, whole_of

__all__ = ["Graph"]

Tensor = torch.Tensor

# The reasons to make a call in another way.
_DIFFERS: Final = "a variable differs in shape, dtype, device or layout from the one that the program was traced for"
_HELD: Final = "another thread or task holds a variable"

_set_grad_enabled = torch._C._set_grad_enabled
_is_grad_enabled = torch.is_grad_enabled


class Graph:
    """The program for one signature of the arguments and one set of shapes, dtypes and devices of the variables."""

    __slots__ = (
        "_call",
        "_compiled",
        "_detached",
        "_ids",
        "_locks",
        "_on_streams",
        "_plan",
        "_ran",
        "_releases",
        "_targets",
        "compiles",
        "copies",
        "extra",
        "in_place",
        "layouts",
        "lean",
        "module",
        "out",
        "outs",
        "reshapes",
        "shapes",
        "specs",
        "variables",
        "written",
    )

    def __init__(self, variables: list[Variable], values: list[Any]) -> None:
        self.variables = variables
        self.shapes = [None if value is None else BACKEND.shape(value) for value in values]
        self.layouts = [_layout_of(value) for value in values]
        self.module: Any = None
        self.written: list[bool] = []  # which variables the graph writes, in place
        self.extra: list[Variable] = []  # variables whose new values it returns: of another shape, or the first
        self.specs: list[Any] = []  # what torch keeps with them, if they are over a mesh
        self.out: Any = None
        self.compiles = True  # whether Inductor compiles it; otherwise it runs as it was traced
        self.copies = 0  # the number of inputs that it writes
        self.outs = 0  # the number of returned tensors that belong to the function's result
        self.in_place = False  # whether it writes its inputs; otherwise it returns new values
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
        self._ids: frozenset[int] = frozenset()
        self._on_streams = False  # whether the variables are on an accelerator

    def finish(self) -> None:
        """Prepares the calls, once the graph is complete."""
        self.in_place = not self.extra and None not in self.shapes
        elsewhere = any(each._backend.is_sharded or each._backend.is_shared for each in self.variables)
        self.lean = not self.reshapes and None not in self.shapes and not elsewhere
        handles = (variable._handle for variable in self.variables)
        self._on_streams = any(handle is not None and handle.use is not None for handle in handles)
        self._locks = [variable._lock for variable in self.variables]
        self._releases = [lock.release for lock in self._locks]
        acquires = [lock.acquire for lock in self._locks]
        self._plan = list(zip(acquires, self.variables, self.shapes, self.layouts, self.written, strict=True))
        self._targets = [each for each, writes in zip(self.variables, self.written, strict=True) if writes] + self.extra
        self._ids = frozenset(map(id, self._targets))

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, tensors: list[Tensor]) -> Any:
        """Runs a call outside of any scope, in place, with the locks taken.

        It is one long function, since each Python call takes 0.1 us of the 10 us that a small program takes.

        Raises:
            Retry: the call must be made in another way.
        """
        call = self._call
        if call is None or not self.lean:
            raise Retry(_DIFFERS)
        values: list[Tensor] = []
        news: list[tuple[Variable, Tensor]] = []
        began = watched = False
        grad = _is_grad_enabled()
        # Before the variables are looked at: a signal handler that reads one later gets a copy, and other threads,
        # which read without the lock if nobody writes, wait for it.
        me = get_ident()
        around = begin_program(me, self._ids)
        try:
            for acquire, variable, shape, layout, writes in self._plan:
                acquire()
                handle = variable._handle
                if variable._holder is not None:
                    raise Retry(_HELD)  # noqa: TRY301  # as Ctrl-C would, for the same end
                if handle is None or variable._shape != shape:
                    raise Retry(_DIFFERS)  # noqa: TRY301  # as Ctrl-C would, for the same end
                if handle.shared:
                    try:
                        shared = not handle.exclusive()  # which also finds a replaced storage
                    except ConflictError:  # a module has another parameter now, which the variable follows
                        variable._observe("jit", writing=writes)
                        raise Retry(_DIFFERS) from None
                    if shared and writes:
                        handle.replace(handle.copied())
                    if handle.tensor.shape != shape or _layout_of(handle.tensor) != layout:
                        raise Retry(_DIFFERS)  # noqa: TRY301  # as Ctrl-C would, for the same end
                elif writes and (  # `exclusive`, written out
                    use_count(handle.address) != UNHELD
                    or getrefcount(handle.storage) != UNHELD_STORAGE
                    or getrefcount(handle.tensor) != UNLEASED
                    or handle.tensor.data_ptr() != handle.data
                    or not (handle.plain or handle.exclusive())
                ):
                    handle.replace(handle.copied())
                tensor = handle.tensor
                if not tensor.is_contiguous():  # as the program takes it to be
                    raise Retry(_DIFFERS)  # noqa: TRY301  # as Ctrl-C would, for the same end
                values.append(tensor)
            if grad:
                _set_grad_enabled(False)
            if self._on_streams:
                self._wait_for_streams()
            began = self.in_place
            found = call(*values, *tensors)
            if self._detached:
                found = self._apart(found)
            if not self.in_place:
                news.extend(zip(self.extra, found[self.outs :], strict=True))
                _store(news)
            watched = count_writes(self._targets)
            began = False
            if self._on_streams:
                self._done_on_streams()
            for variable in self._targets:
                if (handle := variable._handle).shared:
                    handle.seen = handle.parameter._version - handle.unseen
            if grad:
                _set_grad_enabled(True)
            end_program(me, around)
            for release in self._releases:
                release()
        except BaseException:
            # No Python call stands before this loop, since Ctrl-C is raised at the start of one.
            interrupt: KeyboardInterrupt | None = None
            while True:
                try:
                    if news:  # it cannot be undone, and the rest cannot fail
                        _store(news)
                    if began:  # the graph may have written, so the versions must change
                        began = False
                        count_writes(self._targets)
                    if grad:
                        _set_grad_enabled(True)
                    end_program(me, around)
                    drain(releasing(self._locks))
                    break
                except KeyboardInterrupt as another:
                    interrupt = another
            if interrupt is not None:
                raise interrupt from None
            raise
        if watched:
            for variable in self._targets:
                variable._deliver()
        return self._result(found)

    def run_carefully(self, tensors: list[Tensor]) -> Any:
        """Runs a call that may wait, may be part of a transaction, and keeps the old values until it has ended.

        Raises:
            Retry: the variables differ from those that the program was traced for.
        """
        with CompiledCall("jit", self.variables) as call:
            inputs, news = [], []
            for _, variable, shape, layout, writes in self._plan:
                value = call.read(variable)
                if (None if value is None else BACKEND.shape(value)) != shape or _layout_of(value) != layout:
                    raise Retry(_DIFFERS)
                if value is None:
                    continue
                part = part_of(value.detach()).contiguous()
                if writes:
                    part = part.clone()
                    news.append((variable, whole_of(part, spec_of(value))))
                inputs.append(part)
            if self._call is None:
                found = self._first(inputs, tensors)
            else:
                with torch.no_grad():
                    found = self._call(*inputs, *tensors)
            found = self._apart(found)
            call.keep([*news, *zip(self.extra, map(whole_of, found[self.outs :], self.specs), strict=True)])
        return self._result(found)

    def _apart(self, found: Any) -> list[Tensor]:
        """Detaches results that are tensors of variables, so that the next write finds them shared."""
        apart: list[Tensor] = list(found)
        for index in self._detached:
            apart[index] = apart[index].detach()
        return apart

    def _result(self, found: Any) -> Any:
        out = self.out
        return found[out.index] if type(out) is Slot else None if out is None else built(out, found)

    def _wait_for_streams(self) -> None:
        """Has the current stream wait for the last write of each variable, and for reads of those that it writes."""
        for _, variable, _, _, writes in self._plan:
            handle = variable._handle
            if handle.use is not None:
                (handle.use.write if writes else handle.use.read)(handle.tensor)

    def _done_on_streams(self) -> None:
        for variable in self.variables:
            if (use := variable._handle.use) is not None:
                use.done()

    # -- compiling ------------------------------------------------------------------------------------------------

    def compile(self, inputs: list[Tensor], tensors: list[Tensor]) -> None:
        """Compiles the graph with Inductor. Without it, the first call runs the graph as it was traced."""
        self._compiled = _compiled(self.module, [*inputs, *tensors])

    def _first(self, inputs: list[Tensor], tensors: list[Tensor]) -> Any:
        """Runs the first calls, which find the results that are also inputs or new values."""
        if self._compiled is None and self._ran and self.compiles:
            self.compile(inputs, tensors)
        self._ran = True
        given = [*inputs, *tensors]
        with torch.no_grad():
            found = (self._compiled or self.module)(*given)
        known = {id(each) for each in [*given, *found[self.outs :]]}  # Inductor may return one tensor for two results
        self._detached = [i for i in range(self.outs) if id(found[i]) in known]
        self._call = self._compiled if self.compiles else self.module
        return found


def _layout_of(tensor: Tensor | None) -> Any:
    return None if tensor is None else kind_of(tensor)


def _store(news: list[tuple[Variable, Tensor]]) -> None:
    """Gives variables new memory, with the locks taken; a second call continues an interrupted one."""
    while news:
        variable, fresh = news[-1]
        storage = fresh.untyped_storage()
        if use_count(storage._cdata) != UNHELD_FORK or not fresh.is_contiguous() or storage.nbytes() != fresh.nbytes:
            fresh = fresh.clone(memory_format=torch.contiguous_format)  # it is shared
        variable._handle.replace(fresh)
        news.pop()


def _compiled(module: Any, inputs: list[Tensor]) -> Callable[..., Any]:
    import torch._dynamo.config  # noqa: PLC0415  # takes a second
    import torch._inductor.config  # noqa: PLC0415  # only compiled functions need it

    call: Callable[..., Any] = module
    if torch._dynamo.config.disable:  # TORCH_COMPILE_DISABLE=1
        return call
    try:
        # The inputs have been checked: Inductor's own checks would take as long as a small program.
        checks = torch._inductor.config.patch(size_asserts=not all(is_plain(node) for node in module.graph.nodes))
        with torch.no_grad(), checks, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = torch._inductor.compile(module, [*inputs])
    except Exception as error:
        if "compiler" not in f"{type(error).__name__} {error}".lower():
            raise
        warnings.warn(
            describe("jit", f"torch cannot compile here, so the program runs uncompiled: {error}"),
            RuntimeWarning,
            stacklevel=2,
        )
        return call
    return call
