"""One call of a compiled function: a transaction over the variables that the function is known to use."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Self

from .._arrays.backend import Backend
from .._arrays.types import Array
from .._core import overlays, sharing
from .._core.overlays import Overlay
from .._core.variable import Variable
from .._state.transaction import TransactionOverlay
from ..errors import TraceError
from .overlay import ValueOverlay

__all__ = ["CompiledCall", "CreationLimit", "Retry", "TraceOverlay", "check_library"]

_CREATING_TRACES = 3  # traces that may create variables which outlive the trace


class Retry(BaseException):
    """Ends an attempt to call a compiled program: the call is tried again, or made in another way.

    It is a BaseException, so that ``except Exception`` in the traced code does not catch it.

    Args:
        reason: one of the reasons that the library's own module defines.
        variable: the variable that prevented the call, if there is one.
    """

    def __init__(self, reason: str, variable: Variable | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.variable = variable


def check_library(backend: Backend, variables: Iterable[Variable]) -> None:
    """Raises TraceError unless all the variables that a program uses belong to the library that compiles it."""
    for variable in variables:
        if variable._backend.is_view:
            raise TraceError.of(
                "jit",
                f"the variable is a view of an object of {variable.backend}, whose own code may write it at any time, "
                "so it cannot be part of a compiled function",
                variable.path,
                "pass its value as an argument, and assign the result outside of the function",
            )
        if variable._backend.native is not backend:
            raise TraceError.of(
                "jit",
                f"{backend.name} compiles this function, but the variable belongs to {variable.backend}: its current "
                "value would be baked into the compiled function",
                variable.path,
                f"create it with backend={backend.name!r}, or read it outside the function and pass the value",
            )


class CreationLimit:
    """Limits how many traces of a program may create variables that outlive the trace."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def check(self, lasting: list[Variable]) -> None:
        """Counts a trace that created lasting variables; raises TraceError once there are too many such traces."""
        if not lasting:
            return
        self._count += 1
        if self._count > _CREATING_TRACES:
            raise TraceError.of(
                "jit",
                "the function creates a new variable each time it is traced",
                lasting[0].path,
                "create it once: before the first call, or in it",
            )


class TraceOverlay(ValueOverlay):
    """The values of variables while a function is traced, which also finds out which variables the function uses.

    After the code has run, `discovered` has the variables that it used beyond those given, `written` those that it
    wrote, and `lasting` those that it created and that are still alive.
    """

    __slots__ = ()

    discovers = True

    def lasting(self) -> list[Variable]:
        """The variables that the code has created and that are still alive. Drops all values: read those before.

        Raises:
            TraceError: the value of one of them is traced, so that it is only valid during the trace.
        """
        if not self.created:
            return []
        self.drafts.clear()
        self.written.clear()
        self.discovered.clear()
        if self.created_here():
            gc.collect()
        for each, traced in self.created:
            variable = each()
            if traced and variable is not None:
                raise TraceError.of(
                    self.what,
                    "a variable was created from a traced value, which is only valid while the function is being "
                    "traced, and outlives the trace",
                    variable.path,
                    "create it outside the function, or with an initializer",
                )
        return self.created_here()


class CompiledCall:
    """Holds the variables of a call, and writes all their new values at once if the ``with`` block ends normally.

    Inside a transaction, the call becomes part of the transaction.

    >>> import statevar as sv
    >>> v = sv.Variable(1)
    >>> with CompiledCall("jit", [v]) as call:
    ...     call.keep([(v, call.read(v) + 1)])
    >>> int(v), v.version
    (2, 1)
    """

    __slots__ = ("_ordered", "_outer", "_what", "_work")

    def __init__(self, what: str, variables: Iterable[Variable]) -> None:
        self._what = what
        self._ordered = sharing.in_order(variables)
        self._outer: Overlay | None = None
        self._work: TransactionOverlay | None = None

    def __enter__(self) -> Self:
        self._outer = overlays.current() if overlays.active else None
        if self._outer is None:
            self._work = TransactionOverlay()
            self._work.opened_for(self._what)
            try:
                self._work.hold_all(self._ordered)
            except BaseException:
                self._work.abandon(0)
                raise
        return self

    def read(self, variable: Variable) -> Array | None:
        """The value of a variable; None if it has none."""
        current = variable if self._outer is None else self._outer.read(variable)
        return None if current._handle is None else current._stored()

    def keep(self, values: Iterable[tuple[Variable, Array]]) -> None:
        """Writes new values; other threads see them when the block has ended."""
        target = self._work if self._outer is None else self._outer
        assert target is not None, "used outside its block"
        for variable, value in values:
            target.write(variable)._keep_value(value, self._what, target)

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        work, self._work = self._work, None
        if work is not None:
            try:
                work.leave(commits=error_type is None)
            except BaseException:
                work.abandon(0)
                raise
