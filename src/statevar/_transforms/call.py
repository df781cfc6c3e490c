"""One call of a compiled function: a transaction over the variables that it is known to touch."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Self

from .._arrays.backend import Backend
from .._arrays.types import Array
from .._core import overlays
from .._core.overlays import Overlay
from .._core.variable import Variable
from .._state.transaction import TransactionOverlay
from ..errors import TraceError
from .overlay import ValueOverlay

__all__ = ["CompiledCall", "CreationLimit", "Retry", "TraceOverlay", "check_library"]

_CREATING_TRACES = 3  # traces that may make variables which live on


class Retry(BaseException):
    """Ends an attempt to call a compiled program: the call begins again, or goes another way.

    It is no Exception, so that no ``except Exception`` in the traced code stops it.

    Args:
        reason: one of those that the library of the program has.
        variable: the variable that stood in the way, if there is one.
    """

    def __init__(self, reason: str, variable: Variable | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.variable = variable


def check_library(backend: Backend, variables: Iterable[Variable]) -> None:
    """Raises TraceError unless the variables that a program touches are of the library that compiles it."""
    for variable in variables:
        if variable._backend is not backend:
            raise TraceError.of(
                "jit",
                f"{backend.name} compiles this function, and the variable is of {variable.backend}: its value "
                "would be kept for ever",
                variable.path,
                f"make it with backend={backend.name!r}, or read it outside and pass the value",
            )


class CreationLimit:
    """Counts the traces of a program that make variables which live on, and ends where each one does."""

    __slots__ = ("_count",)

    def __init__(self) -> None:
        self._count = 0

    def check(self, lasting: list[Variable]) -> None:
        """Raises TraceError if this happens again and again."""
        if not lasting:
            return
        self._count += 1
        if self._count > _CREATING_TRACES:
            raise TraceError.of(
                "jit",
                "every trace of the function makes a variable that lives on",
                lasting[0].path,
                "make it once: before, or on the first call only",
            )


class TraceOverlay(ValueOverlay):
    """The values of variables while a function is traced. Which variables there are is found on the way.

    After the code has run, `discovered` has the variables that it touched beyond those given, `written` those that it
    wrote, and `lasting` those that it made and that are still alive.
    """

    __slots__ = ()

    discovers = True

    def lasting(self) -> list[Variable]:
        """The variables that the code has made and that somebody keeps. Forgets the values, so ask for those before.

        Raises:
            TraceError: one of them holds a traced value, which dies with the trace.
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
                    "a variable was made from a traced value and kept: the value dies with the trace",
                    variable.path,
                    "make it outside, or give it an initializer",
                )
        return self.created_here()


class CompiledCall:
    """Holds the variables, hands out their values, and keeps the new ones, all at once, if the block ends well.

    Inside a transaction it takes part in that.

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
        self._ordered = sorted(variables, key=id)
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
        """The value; None if there is none."""
        current = variable if self._outer is None else self._outer.read(variable)
        return None if current._handle is None else current._stored()

    def keep(self, values: Iterable[tuple[Variable, Array]]) -> None:
        """Writes new values; others see them when the block has ended."""
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
