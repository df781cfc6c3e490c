"""`sv.jit` without a compiler: the function runs as it is, and a call is a transaction all the same."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any
from weakref import ref

from .._arrays.transforms import Program
from .._arrays.types import Array
from .._core import overlays
from .._core.cell import release_each
from .._core.variable import Variable
from .._state.transaction import Transaction, TransactionOverlay
from ..errors import ConflictError, TraceError

__all__ = ["Interpreted", "UncompilableError"]

_ATTEMPTS = 50  # each finds at least one variable more


class UncompilableError(TraceError):
    """The program is right, and beyond what the library compiles: it runs as it is."""


class Interpreted:
    """Runs the function in a transaction that holds, from the start, every variable known from earlier calls.

    Who holds all it touches meets no conflict. A call that meets a new variable may, and then it runs again.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._known: dict[int, ref[Variable]] = {}  # weak: a variable that was an argument need not live as long
        self._made: set[Any] = set()  # the static arguments of calls that made variables which live on

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
        raise ConflictError.of("jit", "the function touches other variables each time it runs")

    def _living(self) -> list[Variable]:
        found = [variable for each in list(self._known.values()) if (variable := each()) is not None]
        return sorted(found, key=id)  # one order for everybody, so that two calls never wait for each other

    def _learn(self, run: _Run, held: list[Variable]) -> bool:
        """Remembers what a call has touched; whether that was more than it held."""
        new = run.touched.keys() - set(map(id, held))
        for number in new:
            if (variable := run.touched[number]()) is not None:
                self._known[number] = ref(variable, partial(self._forget, number))
        return bool(new)

    def _forget(self, number: int, gone: ref[Variable]) -> None:
        if self._known.get(number) is gone:  # or the number is another variable's by now
            del self._known[number]

    def _static(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The static arguments of a call: with others it is another program."""
        program = self._program
        return (
            tuple(args[n] for n in program.static_argnums if -len(args) <= n < len(args)),
            tuple((name, kwargs[name]) for name in program.static_argnames if name in kwargs),
        )


class _Run(TransactionOverlay):
    """The transaction of one call; sees which variables it touches and makes."""

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

    def write(self, variable: Any) -> Any:
        if variable._holder is not self:
            self.touched[id(variable)] = ref(variable)
        return super().write(variable)

    def on_create(self, variable: Variable, value: Array | None) -> None:
        self.created.append(ref(variable))

    def lasting(self) -> list[Variable]:
        """The variables that were made and that somebody keeps."""
        if any(each() is not None for each in self.created):
            gc.collect()
        return [variable for each in self.created if (variable := each()) is not None]

    def check_made(self) -> None:
        """Raises if a variable that was made lives on. What was written to the others is dropped."""
        made = {id(variable): variable for each in self.created if (variable := each()) is not None}
        for variable in made.values():
            for level in self._levels:
                level.pop(variable, None)  # or it would live on because of its draft
            self._seen.pop(variable, None)
        self._held[:] = [variable for variable in self._held if id(variable) not in made]
        release_each(made.values(), self)
        made.clear()
        del variable
        if lasting := self.lasting():
            raise TraceError.of(
                "jit",
                "every call makes a variable that lives on",
                lasting[0].path,
                "make it outside, or only on the first call",
            )
