"""`sv.jit` without a compiler: the function runs as plain Python, and each call is still a transaction."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any
from weakref import ref

from .._arrays.transforms import Program
from .._arrays.types import Array
from .._core import overlays, sharing
from .._core.held import release_each
from .._core.variable import Variable
from .._core.writes import Write
from .._state.transaction import Transaction, TransactionOverlay
from ..errors import ConflictError, TraceError

__all__ = ["Interpreted", "UncompilableError"]

_ATTEMPTS = 50  # each finds at least one more variable


class UncompilableError(TraceError):
    """Raised where a library cannot compile a correct program; `sv.jit` then runs it as plain Python."""


class Interpreted:
    """Runs the function in a transaction that holds, from the start, every variable known from earlier calls.

    Such a call meets no conflict. Only a call that uses a new variable may meet one, and then it runs again.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[int, ref[Variable]] = {}  # weak, so that a variable that was an argument can die
        self._made: set[Any] = set()  # the static arguments of calls that created lasting variables

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        fn = self._program.fn
        if overlays.active and overlays.current() is not None:
            with Transaction(self._living()):
                return fn(*args, **kwargs)
        for _ in range(_ATTEMPTS):
            held = self._living()
            run = _Run()
            try:
                run.hold_all(held)
                run.begin()
                out = fn(*args, **kwargs)
                static = self._static(args, kwargs) if run.created else None
                if static in self._made:
                    run.check_made()
                run.leave(commits=True)
                if run.created and run.lasting():
                    self._made.add(static)
            except ConflictError:
                run.abandon(0)
                if not self._learn(run, held):
                    raise
                continue
            except BaseException:
                run.abandon(0)
                raise
            self._learn(run, held)
            return out
        raise ConflictError.of("jit", "each run of the function uses different variables")

    def _living(self) -> list[Variable]:
        found = [variable for each in list(self._known.values()) if (variable := each()) is not None]
        return sharing.in_order(found)  # one order for all, so that two calls never wait for each other

    def _learn(self, run: _Run, held: list[Variable]) -> bool:
        """Remembers the variables that a call has used. Returns whether it used any that it did not hold."""
        new = run.touched.keys() - set(map(id, held))
        for number in new:
            if (variable := run.touched[number]()) is not None:
                self._known[number] = ref(variable, partial(self._forget, number))
        return bool(new)

    def _forget(self, number: int, gone: ref[Variable]) -> None:
        if self._known.get(number) is gone:  # else the id belongs to another variable by now
            del self._known[number]

    def _static(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The static arguments of a call, which select the program."""
        program = self._program
        return (
            tuple(args[n] for n in program.static_argnums if -len(args) <= n < len(args)),
            tuple((name, kwargs[name]) for name in program.static_argnames if name in kwargs),
        )


class _Run(TransactionOverlay):
    """The transaction of one call, which records the variables that the call uses and creates."""

    __slots__ = ("created", "touched")

    def __init__(self) -> None:
        super().__init__()
        self.what = "jit"
        self.created: list[ref[Variable]] = []
        self.touched: dict[int, ref[Variable]] = {}

    def read(self, variable: Any) -> Any:
        if variable._holder is not self:
            self.touched[id(variable)] = ref(variable)
        return super().read(variable)

    def write_apart(self, variable: Any, write: Write, x: Array) -> bool:
        if variable._holder is not self:
            self.touched[id(variable)] = ref(variable)
        return super().write_apart(variable, write, x)

    def write(self, variable: Any) -> Any:
        if variable._holder is not self:
            self.touched[id(variable)] = ref(variable)
        return super().write(variable)

    def on_create(self, variable: Variable, value: Array | None) -> None:
        self.created.append(ref(variable))

    def lasting(self) -> list[Variable]:
        """The variables that the call created and that are still alive."""
        if any(each() is not None for each in self.created):
            gc.collect()
        return [variable for each in self.created if (variable := each()) is not None]

    def check_made(self) -> None:
        """Raises TraceError if a variable that the call created stays alive after its drafts are dropped."""
        made = {id(variable): variable for each in self.created if (variable := each()) is not None}
        for variable in made.values():
            for level in self._levels:
                level.pop(variable, None)  # its draft would keep it alive
            self._seen.pop(variable, None)
        self._held[:] = [variable for variable in self._held if id(variable) not in made]
        release_each(made.values(), self)
        made.clear()
        del variable
        if lasting := self.lasting():
            raise TraceError.of(
                "jit",
                "every call of the function creates a new variable",
                lasting[0].path,
                "create it outside the function, or in the first call only",
            )
