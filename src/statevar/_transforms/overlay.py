"""The overlay of pure functions: variables in it change by replacement, and no variable outside changes.

A transaction's overlay writes real drafts, in place where it can. Here a write computes a new value, by the library's
own differentiable and traceable operations, so that a gradient, a compiler or a loop of the library can follow it. The
values live in the overlay and nowhere else: another thread never sees one, and an exception drops them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock
from typing import Any, ClassVar, Final, Self, TypeVar
from weakref import ref

from .._arrays.backend import Backend
from .._arrays.registry import loaded_backends
from .._arrays.shapes import DeclaredShape
from .._arrays.types import Array
from .._core import forks, overlays
from .._core.cell import Cell, State
from .._core.draft import value_draft
from .._core.overlays import Overlay
from .._core.variable import Variable
from .._core.writes import ASSIGN
from .._state.transaction import PathOf, TransactionOverlay
from ..errors import ConflictError, TraceError
from .draft import ValueDraft

__all__ = ["InnerOverlay", "ValueOverlay", "keep_writes"]

_HERE: Final = object()

_Result = TypeVar("_Result")


def past_overlay(library: str, what: str, path: str) -> TraceError:
    """The error of code that goes past the values of an overlay to the variable itself."""
    return TraceError.of(
        "read",
        f"code that {library} has compiled, or that holds v.parameter, uses the variable itself inside {what}, "
        "and not its value there",
        path,
        f"use sv.jit in place of the compiler of {library}, and v or v.value in place of v.parameter",
    )


def _check_access(uses: Callable[[Any], bool] | None) -> bool:
    """`Tracing.trace_mark` gets it. Asked about a handle that a compiled function, or its own parameter, uses.

    It would read what the code around it has replaced, write what it shall not change, and get no gradient.
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
    """Values in place of variables, for the code that runs inside.

    Args:
        what: for errors: ``"jit"``, ``"a StatelessScope"``.
        values: what some variables shall be; converted and checked like what is assigned.
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
    #: Whether it finds out which variables there are, and the code runs again with their values given.
    discovers: ClassVar[bool] = False
    #: Whether it was opened by a transform of ours, under a tracer of the library's that it started.
    under_own_trace: ClassVar[bool] = False

    def __init__(
        self, what: str, values: Iterable[tuple[Variable, Any]] = (), *, only: Iterable[Variable] | None = None
    ) -> None:
        super().__init__(what)
        self.lock = RLock()
        self.drafts: dict[Variable, ValueDraft] = {}
        self.written: dict[Variable, None] = {}  # in the order of their first write
        self.discovered: dict[Variable, None] = {}  # read or written, and not among the values given
        self.created: list[tuple[ref[Variable], bool]] = []  # and whether its first value is traced
        self._only = None if only is None else dict.fromkeys(only)
        self._saved: list[tuple[dict[Variable, State], dict[Variable, None]]] = []  # one for each open transaction
        self._keeps = False
        self._opened = False
        self.stale: Variable | None = None  # read here, and then written by another thread before it was written here
        self._work: TransactionOverlay | None = None  # holds what is written, if it is kept
        self._around: Overlay | None = None
        self._marks: dict[str, Any] = {}
        for variable, value in values:
            self.seed(variable, value)

    def seed(self, variable: Variable, value: Any) -> None:
        """Gives a variable a value before the code runs; not counted as a write."""
        # Under a transform of ours, what is declared comes from the overlay around, in `__enter__`.
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
            for backend in loaded_backends():
                if (tracing := backend.tracing) is not None:
                    self._marks[backend.name] = tracing.trace_mark(_check_access)
            self._opened = True
            overlays.active.append(None)  # Ctrl-C comes after a call, so not between these two lines
            self._around = overlays.push(self)
            if self.under_own_trace and isinstance(outer := self.outer, ValueOverlay):
                for variable, draft in self.drafts.items():
                    self.declare(draft, outer._find(variable, outer._marks.get(variable._backend.name)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        interrupt: KeyboardInterrupt | None = None
        while True:
            try:
                overlays.pop(self, self._around)
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
        """The overlay around this one, of the same thread or task."""
        around = self._around
        return around if around is not None and around.is_mine() else None

    def declare(self, draft: ValueDraft, outer: ValueDraft) -> None:
        """Declares the shape of a value that came through a transform. A place for subclasses."""
        draft._become(draft._snapshot, draft._shape, outer._declared, outer._version)

    # -- as `overlays.current` -----------------------------------------------------------------------------

    def read(self, variable: Any) -> ValueDraft:
        """The draft of a variable; what is outside, if it has none yet."""
        return self._find(variable, _HERE)

    def _find(self, variable: Variable, now: Any) -> ValueDraft:
        """`read` by code that runs under the tracer marked ``now``."""
        backend = variable._backend
        if (tracing := backend.tracing) is not None:
            mark = self._marks.get(backend.name)
            if not (tracing.may_read(mark) if now is _HERE else tracing.may_read(mark, now)):
                raise TraceError.of(
                    "read",
                    f"this code is traced by a transform of {backend.name} inside {self.what}, which would keep "
                    "the value of now for ever",
                    variable._path,
                    "use the transform of statevar (sv.jit, sv.scan, sv.cond, sv.remat…), or read it outside and "
                    "pass the value as an argument",
                )
        draft = self.drafts.get(variable)
        return self._discover(variable) if draft is None else draft

    def write(self, variable: Any) -> ValueDraft:
        """The same, after other writers were kept out if the write is to be kept; `check_write` follows."""
        draft = self.drafts.get(variable)
        if variable not in self.written:
            if self._keeps:
                self._reserve(variable, draft)
            elif self.under_own_trace and isinstance(outer := self.outer, ValueOverlay):
                outer.write(variable)  # reserved before it is read
        return self._discover(variable) if draft is None else draft

    def check_write(self, draft: ValueDraft, operation: str) -> None:
        """Raises if a variable may not be written here."""
        backend = draft._backend
        if self._only is not None and draft._origin not in self._only:
            raise TraceError.of(
                operation,
                f"{self.what} may write the variables it was given, and this is none of them: its new value "
                "would be lost",
                draft._path,
                "list it",
            )
        if backend.tracing is not None and not backend.tracing.may_write(self._marks.get(backend.name)):
            raise TraceError.of(
                operation,
                f"this code is traced by a transform of {backend.name} inside {self.what}, which would lose the write",
                draft._path,
                "use the transform of statevar: sv.jit, sv.grad, sv.scan, sv.cond, sv.while_loop, sv.vmap…",
            )

    def _discover(self, variable: Variable) -> ValueDraft:
        """The draft of a variable that was not given."""
        with self._place(variable._backend):
            return self._draft_outside(variable)

    def _place(self, backend: Backend) -> AbstractContextManager[None]:
        """Where it is read: where this overlay was opened, also if it is discovered in a loop of the library inside."""
        tracing = backend.tracing
        return nullcontext() if tracing is None else tracing.under(self._marks.get(backend.name))

    def _draft_outside(self, variable: Variable) -> ValueDraft:
        self.discovered[variable] = None
        outer = self.outer
        if outer is None:
            source: Cell = variable
            if not self.discovers:
                self._check_outside(variable)
        elif not isinstance(outer, ValueOverlay):
            source = outer.read(variable)
        else:
            # Where a transform of ours has opened this overlay, it knows what it does between the two.
            source = outer._find(variable, (outer if self.under_own_trace else self)._marks.get(variable._backend.name))
        state = source._state()
        draft = self._draft(variable, state.declared, state.version)
        if state.value is not None:
            value = overlays.seen_by_tapes(variable, state.value, outer if isinstance(outer, ValueOverlay) else None)
            value = self.given(variable, value)
            shape = state.shape if value is state.value else variable._backend.shape(value)
            draft._become(value, shape, state.declared, state.version)
        self.drafts[variable] = draft
        return draft

    def _check_outside(self, variable: Variable) -> None:
        """Raises if a library traces this code and would keep the value that a variable, of any library, has now."""
        for backend in loaded_backends():
            if backend.tracing is not None and not backend.tracing.may_read(None, self._marks.get(backend.name)):
                raise TraceError.of(
                    "read",
                    f"{self.what} was not given this variable, and {backend.name} traces this code and would keep "
                    "the value of now for ever",
                    variable._path,
                    "call it in sv.jit, or list the variable in sv.functionalize",
                )

    def given(self, variable: Variable, value: Array) -> Array:
        """What the code gets for the value of a variable that was not given. A place for subclasses."""
        return value

    def _draft(self, variable: Variable, declared: DeclaredShape, version: int) -> ValueDraft:
        """A draft of a variable, without a value."""
        draft = value_draft(ValueDraft, variable, self, declared, version)
        draft._overlay = self
        return draft

    def on_create(self, variable: Variable, value: Array | None) -> None:
        """A variable was made by the code; ``value`` is what only this overlay may have."""
        self.created.append((ref(variable), value is not None))
        if value is not None:
            draft = self.drafts[variable] = self._draft(variable, variable._declared, variable._version)
            draft._set(value)

    # -- a transaction inside: what it wrote can be dropped ---------------------------------------------------

    def depth(self) -> int:
        """How many transactions are open inside."""
        return len(self._saved)

    def begin(self) -> None:
        """Opens one."""
        self._saved.append(({v: draft._state() for v, draft in self.drafts.items()}, dict(self.written)))

    def leave(self, *, commits: bool) -> None:
        """Closes one."""
        if not commits:
            self.drop()
        self._saved.pop()

    def drop(self) -> None:
        """Forgets what the innermost one has written."""
        states, self.written = self._saved[-1]
        self.written = dict(self.written)
        for variable, draft in list(self.drafts.items()):
            if variable in states:
                state = states[variable]
                draft._become(state.value, state.shape, state.declared, state.version)
            else:
                del self.drafts[variable]

    def abandon(self, depth: int) -> None:
        """Drops and closes those above."""
        while len(self._saved) > depth:
            self.leave(commits=False)

    def hold_all(self, variables: list[Variable], path_of: PathOf | None) -> None:
        """Nothing to do: nobody else writes here."""

    def hold_if_free(self, variables: list[Variable], path_of: PathOf | None) -> None:
        """Nothing to do."""

    def release(self) -> None:
        """Nothing to do."""

    # -- what comes of it -----------------------------------------------------------------------------------

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """What was written is kept when the block ends, all at once; an exception drops it.

        What is written is held from its first write, so that no update of another thread is lost.
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
        """Keeps other writers of some variables out from now on."""
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
        if draft is None or any(each is variable for each in self.created_here()):
            return
        if draft._version != variable._version:
            self.stale = variable
            raise ConflictError.of(
                self.what,
                "another thread has written it since it was read here, so nothing was kept",
                variable.path,
                "call it in sv.transaction(…, v), which keeps other writers out",
            )

    def created_here(self) -> list[Variable]:
        """The variables that the code has made and that are alive."""
        return [variable for each, _ in self.created if (variable := each()) is not None]

    def _keep(self) -> None:
        outer, work = self.outer, self._work
        if isinstance(outer, ValueOverlay):
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
        """Keeps what came out of a transform as the new value of a variable that was written inside."""
        draft = self.write(variable)
        self.check_write(draft, self.what)
        draft._replace(value, variable._backend.shape(value))

    def values(self, variables: Iterable[Variable]) -> Iterator[Any]:
        """The values of some variables; None for one that has none."""
        return (self.read(variable)._snapshot for variable in variables)


def keep_writes(what: str, run: Callable[[ValueOverlay], _Result], reserved: dict[Variable, None]) -> _Result:
    """``run(overlay)`` inside an overlay of that name; what it has written is kept in the end.

    If another thread writes a variable between its being read and written here, it runs again, with the variable
    reserved: no update is lost, of the other thread or of this one.

    Args:
        reserved: variables that are known to be written; grows.
    """
    while True:
        overlay = ValueOverlay(what)
        known = reserved.copy()  # other threads may find some too
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
    """The overlay inside a transform of ours, under the tracer that it has started."""

    __slots__ = ()

    under_own_trace = True
