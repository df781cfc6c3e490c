"""The overlay of pure functions: writes in it replace the values of variables, and no variable outside changes.

The overlay of a transaction writes drafts, in place where it can. Here a write computes a new value with the library's
own differentiable and traceable operations, so that a gradient, a compiler or a loop of the library can follow it. The
values exist only in the overlay: another thread never sees one, and an exception drops them all.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Self, TypeVar
from weakref import ref

from .._arrays.backend import Backend
from .._arrays.shapes import DeclaredShape
from .._arrays.tracing import loaded_tracings
from .._arrays.types import Array
from .._core import forks, overlays
from .._core.cell import Cell
from .._core.draft import value_draft
from .._core.overlays import Overlay
from .._core.readable import State
from .._core.variable import Variable
from .._core.writes import ASSIGN
from .._state.transaction import PathOf, TransactionOverlay
from ..errors import ConflictError, TraceError
from .draft import ValueDraft

__all__ = ["InnerOverlay", "ValueOverlay", "keep_writes"]

_Result = TypeVar("_Result")


def past_overlay(library: str, what: str, path: str) -> TraceError:
    """The error for code that uses a variable itself instead of its value in an overlay."""
    return TraceError.of(
        "read",
        f"code that {library} has compiled, or that has v.parameter, uses the variable itself inside {what} instead of "
        "its value there",
        path,
        f"use sv.jit instead of the compiler of {library}, and v or v.value instead of v.parameter",
    )


def _check_access(uses: Callable[[Any], bool] | None) -> bool:
    """Raises TraceError if code uses the handle of a variable that has another value in the running overlay.

    A compiled function, or code with ``v.parameter``, would read the old value, write the variable itself, and get no
    gradient. `Tracing.trace_mark` passes this function to the library.

    Returns:
        Whether an overlay of values is running.
    """
    overlay = overlays.current() if overlays.active else None
    if overlay is None or not overlay.holds_values:
        return False
    if uses is None:
        return True
    for each in forks.living():
        if each._handle is not None and uses(each._handle):
            raise past_overlay(each._backend.name, overlay.what, each.path)
    return True


class ValueOverlay(Overlay):
    """Gives variables values of their own for the code in a ``with`` block.

    Args:
        what: the name of the transform or scope in errors: ``"jit"``, ``"a StatelessScope"``.
        values: values for some variables; converted and checked as in an assignment.
        only: the variables that may be written; by default all.
    """

    __slots__ = (
        "_around",
        "_keeps",
        "_marks",
        "_only",
        "_opened",
        "_saved",
        "_work",
        "created",
        "discovered",
        "drafts",
        "stale",
        "written",
    )

    holds_values = True
    #: Whether it only finds out which variables the code uses; the code then runs again with their values given.
    discovers: ClassVar[bool] = False
    #: Whether a transform of ours opened it, under a tracer of the library that the transform started.
    under_own_trace: ClassVar[bool] = False
    #: Whether what the code creates is unknown to the code outside, also afterwards.
    owns_created: ClassVar[bool] = False

    def __init__(
        self, what: str, values: Iterable[tuple[Variable, Any]] = (), *, only: Iterable[Variable] | None = None
    ) -> None:
        super().__init__(what)
        self.drafts: dict[Variable, ValueDraft] = {}
        self.written: dict[Variable, None] = {}  # in the order of their first write
        self.discovered: dict[Variable, None] = {}  # variables that were used and were not among the values given
        self.created: list[tuple[ref[Variable], bool]] = []  # each with whether its first value is traced
        self._only = None if only is None else dict.fromkeys(only)
        self._saved: list[tuple[dict[Variable, State], dict[Variable, None]]] = []  # one for each open transaction
        self._keeps = False
        self._opened = False
        self.stale: Variable | None = None  # a variable that another thread wrote between a read and a write here
        self._work: TransactionOverlay | None = None  # holds the written variables, if the writes are to be kept
        self._around: Overlay | None = None
        self._marks: dict[str, Any] = {}
        for variable, value in values:
            self.seed(variable, value)

    def seed(self, variable: Variable, value: Any) -> None:
        """Gives a variable a value before the code runs, without counting a write."""
        # Under a transform of ours, the declared shape comes from the outer overlay, in `__enter__`.
        declared = ... if self.under_own_trace else variable._declared
        draft = self._draft(variable, declared, variable._version)
        if not self.under_own_trace and value is not None:
            x = draft._convert(value, self.what)
            ASSIGN.check(draft, self.what, x, None)
            value = variable._backend.as_immutable(x, fresh=False)
        draft._set(value)
        self.drafts[variable] = draft

    # -- with ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            for name, tracing in list(loaded_tracings().items()):
                self._marks[name] = tracing.trace_mark(_check_access)
            self._opened = True
            overlays.active.append(None)  # Ctrl-C is raised after a call, so not between these two lines
            self._around = overlays.push(self)
            overlays.open_values(self)
            if self.under_own_trace and isinstance(outer := self.outer, ValueOverlay):
                for variable, draft in self.drafts.items():
                    self.declare(draft, outer._find(variable, outer._marks))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                overlays.pop(self, self._around)
                overlays.close_values(self)
                self.end()
                if self._opened:
                    self._opened = False
                    overlays.active.pop()
                self._marks.clear()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    @property
    def outer(self) -> Overlay | None:
        """The overlay around this one in the same thread or task; None if there is none."""
        around = self._around
        return around if around is not None and around.is_mine() else None

    def declare(self, draft: ValueDraft, outer: ValueDraft) -> None:
        """Copies the declared shape to a value that came through a transform. Subclasses may override it."""
        draft._become(draft._snapshot, draft._shape, outer._declared, outer._version)

    # -- as `overlays.current` -----------------------------------------------------------------------------

    def read(self, variable: Any) -> ValueDraft:
        """The draft of a variable; a new one, with the value from outside, if it has none yet."""
        return self._find(variable, None)

    def _find(self, variable: Variable, now: dict[str, Any] | None) -> ValueDraft:
        """`read` by code that runs now or, if marks are given, under the traces that they are of."""
        own = variable._backend.name
        for name, tracing in loaded_tracings().items():
            mark = self._marks.get(name)
            if now is not None:
                may_read = tracing.may_read(mark, now.get(name))
            else:
                may_read = tracing.may_read(mark) if name == own else not tracing.keeps(mark)
            if not may_read:
                raise TraceError.of(
                    "read",
                    f"a transform of {name} traces this code inside {self.what}: the current value would be "
                    "baked into the traced function and never updated",
                    variable._path,
                    "use the transform of statevar (sv.jit, sv.scan, sv.cond, sv.remat…), or read the variable outside "
                    "and pass its value as an argument",
                )
        draft = self.drafts.get(variable)
        return self._discover(variable) if draft is None else draft

    def write(self, variable: Any) -> ValueDraft:
        """The draft of a variable that is about to be written; keeps other writers out if the write is to be kept."""
        draft = self.drafts.get(variable)
        if variable not in self.written:
            if self._keeps:
                self._reserve(variable, draft)
            elif self.under_own_trace and isinstance(outer := self.outer, ValueOverlay) and not self._owns(variable):
                outer.write(variable)  # reserves it before it is read
        return self._discover(variable) if draft is None else draft

    def check_write(self, draft: ValueDraft, operation: str) -> None:
        """Raises TraceError if a variable may not be written here."""
        backend = draft._backend
        if self._only is not None and draft._origin not in self._only:
            raise TraceError.of(
                operation,
                f"{self.what} may not write this variable: the new value would be lost",
                draft._path,
                "list it in sv.functionalize, or write it in the body of the loop",
            )
        for name, tracing in loaded_tracings().items():
            mark = self._marks.get(name)
            if not tracing.may_write(mark) if name == backend.name else tracing.keeps(mark):
                raise TraceError.of(
                    operation,
                    f"a transform of {name} traces this code inside {self.what}: the write would be lost",
                    draft._path,
                    "use the transform of statevar: sv.jit, sv.grad, sv.scan, sv.cond, sv.while_loop, sv.vmap…",
                )

    def _discover(self, variable: Variable) -> ValueDraft:
        """Creates the draft of a variable that was not given."""
        with self._place(variable._backend):
            return self._draft_outside(variable)

    def _place(self, backend: Backend) -> AbstractContextManager[None]:
        """The context in which to read a variable: that in which the overlay was opened, outside any loop in it."""
        tracing = backend.native.tracing
        return nullcontext() if tracing is None else tracing.under(self._marks.get(backend.name))

    def _draft_outside(self, variable: Variable) -> ValueDraft:
        self.discovered[variable] = None
        outer = self.outer
        own = self._owns(variable)
        if own:
            source: Cell = variable  # the code around does not know it
        elif outer is None:
            around = variable._around_replicas() if variable._backend.is_sharded else None
            source = variable
            if around is not None and around is not self:
                source = around.read(variable)
            elif not self.discovers:
                self._check_outside(variable)
        elif not isinstance(outer, ValueOverlay):
            source = outer.read(variable)
        else:
            # A transform of ours that opened this overlay passes the values between the two itself.
            source = outer._find(variable, (outer if self.under_own_trace else self)._marks)
        state = source._state()
        draft = self._draft(variable, state.declared, state.version)
        if state.value is not None:
            value = overlays.seen_by_tapes(variable, state.value, outer if isinstance(outer, ValueOverlay) else None)
            value = value if own else self.given(variable, value)
            shape = state.shape if value is state.value else variable._backend.shape(value)
            draft._become(value, shape, state.declared, state.version)
        self.drafts[variable] = draft
        return draft

    def _check_outside(self, variable: Variable) -> None:
        """Raises TraceError if a library traces this code and would bake the current value of the variable into it."""
        for name, tracing in loaded_tracings().items():
            own, mark = name == variable._backend.name, self._marks.get(name)
            if not tracing.may_read(None, mark) if own else tracing.kept(mark):
                raise TraceError.of(
                    "read",
                    f"{self.what} was not given this variable, and {name} is tracing this code: the current "
                    "value would be baked into the traced function and never updated",
                    variable._path,
                    "use sv.jit instead, or list the variable in sv.functionalize",
                )

    def given(self, variable: Variable, value: Array) -> Array:
        """Returns the value that the code reads for a variable that was not given. Subclasses may override it."""
        return value

    def _draft(self, variable: Variable, declared: DeclaredShape, version: int) -> ValueDraft:
        """Creates a draft of a variable, without a value."""
        draft = value_draft(ValueDraft, variable, self, declared, version)
        draft._overlay = self
        return draft

    def on_create(self, variable: Variable, value: Array | None) -> None:
        """Registers a variable that the code has created; only this overlay may have ``value``, if it is not None."""
        self.created.append((ref(variable), value is not None))
        if value is not None:
            draft = self.drafts[variable] = self._draft(variable, variable._declared, variable._version)
            draft._set(value)

    # -- transactions in the block: their writes can be dropped -----------------------------------------------

    def depth(self) -> int:
        """The number of open transactions in the block."""
        return len(self._saved)

    def begin(self) -> None:
        """Opens a transaction."""
        self._saved.append(({v: draft._state() for v, draft in self.drafts.items()}, dict(self.written)))

    def leave(self, *, commits: bool) -> None:
        """Closes the innermost transaction; drops its writes unless it commits."""
        if not commits:
            self.drop()
        self._saved.pop()

    def drop(self) -> None:
        """Drops the writes of the innermost transaction."""
        states, self.written = self._saved[-1]
        self.written = dict(self.written)
        for variable, draft in list(self.drafts.items()):
            if variable in states:
                state = states[variable]
                draft._become(state.value, state.shape, state.declared, state.version)
            else:
                del self.drafts[variable]

    def abandon(self, depth: int) -> None:
        """Drops and closes the transactions above a depth."""
        while len(self._saved) > depth:
            self.leave(commits=False)

    def hold_all(self, variables: list[Variable], path_of: PathOf | None) -> None:
        """Does nothing: no other thread writes in this overlay."""

    def hold_if_free(self, variables: list[Variable], path_of: PathOf | None) -> None:
        """Does nothing: no other thread writes in this overlay."""

    def release(self) -> None:
        """Does nothing: the overlay holds no variables."""

    # -- keeping the writes ---------------------------------------------------------------------------------

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Writes the new values to the variables, all at once, when the block ends; an exception drops them.

        Each variable is held from its first write on, so that no update of another thread is lost.
        """
        self._keeps = True
        try:
            yield
            if self.written:
                self._keep()
        finally:
            self._keeps = False
            if self._work is not None:
                self._work.abandon(0)

    def reserve(self, variables: Iterable[Variable]) -> None:
        """Keeps other writers of these variables out from now on."""
        for variable in sorted(variables, key=id):
            self.write(variable)

    def _reserve(self, variable: Variable, draft: ValueDraft | None) -> None:
        outer = self.outer
        if outer is not None:
            outer.write(variable)
            return
        if self._work is None:
            self._work = TransactionOverlay()
            self._work.opened_for(self.what)
        self._work.hold(variable)
        if draft is None or self._made(variable):
            return
        if draft._version != variable._version:
            self.stale = variable
            raise ConflictError.of(
                self.what,
                "another thread has written the variable since it was read here, so nothing was written",
                variable.path,
                "call it in sv.transaction(…, v), which keeps other writers out",
            )

    def created_here(self) -> list[Variable]:
        """The variables that the code has created and that are still alive."""
        return [variable for each, _ in self.created if (variable := each()) is not None]

    def _made(self, variable: Variable) -> bool:
        """Whether the code has created a variable."""
        return any(each() is variable for each, _ in self.created)

    def _owns(self, variable: Variable) -> bool:
        return self.owns_created and self._made(variable)

    def _keep(self) -> None:
        outer, work = self.outer, self._work
        if isinstance(outer, ValueOverlay):
            for each, traced in self.created:  # before they are written there
                if (made := each()) is not None and (not traced or made in self.drafts):
                    outer.on_create(made, self.drafts[made]._snapshot if traced else None)
            for variable in self.written:
                outer.take_over(variable, self.drafts[variable]._snapshot)
            return
        target = outer if outer is not None else work
        assert target is not None, "a write is reserved first"
        for variable in self.written:
            draft = self.drafts[variable]
            target.write(variable)._keep_value(draft._snapshot, self.what, target)
        if work is not None:
            work.leave(commits=True)
            self._work = None

    def take_over(self, variable: Variable, value: Array) -> None:
        """Writes the new value that a transform returned for a variable that the transformed code wrote."""
        draft = self.write(variable)
        self.check_write(draft, self.what)
        draft._replace(value, variable._backend.shape(value))

    def values(self, variables: Iterable[Variable]) -> Iterator[Any]:
        """The values of these variables; None for one that has no value."""
        return (self.read(variable)._snapshot for variable in variables)


def keep_writes(what: str, run: Callable[[ValueOverlay], _Result], reserved: dict[Variable, None]) -> _Result:
    """Calls ``run(overlay)`` in an overlay named ``what``, and keeps the writes when it has ended.

    If another thread writes a variable between a read and a write here, the call runs again with the variable reserved,
    so that neither thread's update is lost.

    Args:
        reserved: variables that are known to be written; variables found on the way are added.
    """
    while True:
        overlay = ValueOverlay(what)
        known = reserved.copy()  # other threads may add to it
        try:
            with overlay.keeping(), overlay:
                overlay.reserve(known)
                return run(overlay)
        except ConflictError:
            stale = overlay.stale
            if stale is None or stale in known or overlay.outer is not None:
                raise
            reserved[stale] = None


class InnerOverlay(ValueOverlay):
    """The overlay that a transform of ours opens under the tracer that it has started."""

    __slots__ = ()

    under_own_trace = True
    owns_created = True

    def _forget_created(self) -> None:
        for made in self.created_here():
            for known in (self.drafts, self.written, self.discovered):
                known.pop(made, None)

    def outgoing(self) -> tuple[list[Variable], list[Any]]:
        """The variables that this code has written and not created, and their new values: those for the code outside.

        Called once, when the code has ended. What it has created is forgotten.

        Raises:
            TraceError: a variable that the code has created outlives it, and its value is only valid inside.
        """
        if not self.created:
            return list(self.written), list(self.values(self.written))
        kept = [variable for variable in self.written if not self._made(variable)]
        values = list(self.values(kept))
        inside = [each for each, traced in self.created if traced or each() in self.written]
        self._forget_created()
        if any(each() is not None for each in inside):
            gc.collect()
        for each in inside:
            if (variable := each()) is not None:
                raise TraceError.of(
                    self.what,
                    "a variable that this code has created outlives it, and its value is only valid inside",
                    variable.path,
                    "create it outside",
                )
        return kept, values
