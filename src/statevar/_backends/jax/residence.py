"""Stores the arrays of a compiled program's variables between its calls.

A call of a program over a thousand small variables would spend a fifth of its time on locking each variable, taking its
array and storing the new one. So the program keeps the arrays, as a loop written by hand would, and a warm call is one
lock and JAX's dispatch. Any other read or write of one of the variables first gives its array back (`recall`); the next
call fetches it again (`lend`).

Locks are taken in one order: those of the variables, by id, and then that of the residence.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from typing import Any, Final
from weakref import WeakSet, ref

import jax
import jax.numpy as jnp

from ..._core.forks import in_child
from ..._core.holds import Hold, while_locked
from ..._core.variable import Variable
from ..._transforms.call import Retry
from ...errors import ReentrantWriteError
from .arrays import brought_home

__all__ = ["HELD", "Residence"]

HELD: Final = "another thread or task holds a variable"

_copy = jax.jit(jnp.copy)
_everyone: WeakSet[Residence] = WeakSet()


class Lent:
    """The handle of a variable whose array a compiled program has, so that its calls need not fetch the array.

    A read of the array gives it back to the variable.
    """

    __slots__ = ("_lender", "fresh", "index", "own", "published")

    def __init__(self, lender: Residence, index: int) -> None:
        self._lender = lender
        self.index = index
        self.own: Any = None  # the array, once it has been given back
        self.published: Any = None
        self.fresh: Any = None

    @property
    def array(self) -> Any:
        if self.own is None:
            if self._lender.writes_here(None):
                return self.present  # the program goes on with it
            self._lender.recall(self)
        return self.own

    @array.setter
    def array(self, array: Any) -> None:
        if self.own is None:
            self._lender.recall(self)
        self.own = array

    @property
    def present(self) -> Any:
        """The array, which stays where it is."""
        if self.own is not None:
            return self.own
        lender = self._lender
        return (lender.fresh[0][1] if lender.fresh else lender.values)[self.index]


class Residence(Hold):
    """The arrays of some variables, in the order of the program."""

    __slots__ = (
        "__weakref__",
        "_bases",
        "_variables",
        "calls",
        "fresh",
        "homes",
        "is_mixed",
        "lock",
        "missing",
        "place",
        "running",
        "values",
    )

    lends = True

    def __init__(self, variables: Sequence[Variable]) -> None:
        super().__init__("a compiled program")
        # Weak, since the handle of each variable refers to the residence, and arrays must die with their variables.
        self._variables = [ref(variable) for variable in variables]
        self._bases = [0] * len(variables)
        self.lock = threading.RLock()
        self.values: list[Any] = [None] * len(variables)
        self.missing = list(range(len(variables)))  # the indices of variables whose arrays are not here
        self.homes: list[Any] = [None] * len(variables)  # where each variable lies, and whether the user said so
        self.is_mixed = False  # whether the arrays are over several devices, and not all variables are
        self.place: Any = None  # the sharding of a result that lies there
        self.calls = 0
        self.running = 0  # the thread that is inside a call
        self.fresh: list[Any] | None = None  # gets the result of the call that is running
        _everyone.add(self)

    def is_mine(self) -> bool:
        return False

    def is_writing(self, variable: Any) -> bool:
        """True: a call may have changed the variable since its version was last updated."""
        return True

    def writes_here(self, variable: Any) -> bool:
        """Whether the running code was called in the middle of a call of the program, in the thread that calls it."""
        return self.running == get_ident()

    def lend(self, *, copies: bool) -> bool:
        """Fetches the missing arrays.

        Returns:
            False if that is impossible: a variable has no value yet, or watchers want to see each of its versions.

        Raises:
            Retry: another thread or task holds a variable (`HELD`).
        """
        missing = [(variable, i) for i in list(self.missing) if (variable := self._variables[i]()) is not None]
        places = dict(missing)

        def body(ordered: list[Variable]) -> bool:
            for variable in ordered:
                if (holder := variable._holder) is not None and holder is not self:
                    if not holder.lends:
                        raise Retry(HELD, variable)
                    holder.give_back(variable)
                if variable._handle is None or variable._watchers is not None:
                    return False
            for variable in ordered:
                handle = variable._handle
                if variable._holder is self:
                    continue  # another thread was faster
                with self.lock:
                    i = places[variable]
                    variable._lend(Lent(self, i), self, partial(self._take, handle, i, copies=copies))
            return True

        return while_locked(places, body)

    def _take(self, handle: Any, i: int, *, copies: bool) -> Callable[[], object]:
        array = handle.array
        if copies and handle.published is not None:
            array = _copy(array)
        self.values[i] = array
        self.homes[i] = array.sharding, getattr(array, "committed", True)  # keys have no such attribute
        self._bases[i] = self.calls
        return partial(self.missing.remove, i)

    def recall(self, handle: Lent) -> None:
        """Gives an array back to its variable, until it is lent again."""
        with self.lock:
            if handle.own is not None:
                return
            i = handle.index
            variable = self._variables[i]()
            around, self.running = self.running, get_ident()  # code in the middle of this reads copies
            try:
                if variable is not None:
                    variable._end_loan(handle, self, self.calls - self._bases[i])
                handle.own = self._at_home(i) if self.is_mixed else self.values[i]
                if i not in self.missing:
                    self.missing.append(i)
                self.values[i] = None
            finally:
                self.running = around

    def bring_home(self) -> None:
        """Moves the results of a call back to the devices of the variables; called with the lock, with a new `place`.

        JAX computes where the arguments lie, and a variable that was not placed on a device follows them. Beside
        values that are spread over several devices it stays there until it is recalled, since each call takes it there.
        """
        devices = self.values[0].sharding.device_set
        self.is_mixed = len(devices) > 1 and any(home.device_set != devices for home, _ in self.homes)
        if not self.is_mixed:
            for i, (array, (home, _)) in enumerate(zip(self.values, self.homes, strict=True)):
                if array.sharding.device_set != home.device_set:
                    self.values[i] = jax.device_put(array, home)
        self.place = self.values[0].sharding

    def _at_home(self, i: int) -> Any:
        array, (home, committed) = self.values[i], self.homes[i]
        if array is None or array.is_deleted() or array.sharding.device_set == home.device_set:
            return array
        return brought_home(array, home, committed=committed)

    def give_back(self, variable: Any) -> None:
        if self.writes_here(variable):
            raise ReentrantWriteError.of(
                "jit",
                "this thread is already inside a call of a compiled program that writes this variable",
                variable._path,
                "write before or after the call",
            )
        variable._handle.array  # noqa: B018  # reading it recalls it

    def give_all_back(self) -> None:
        """Gives all arrays back to the variables, when the program is deleted."""
        for each in self._variables:
            variable = each()
            if variable is not None and variable._holder is self:
                self.give_back(variable)

    def drop_deleted(self) -> None:
        """Removes the values of variables whose arrays were donated to a program that then failed."""
        with self.lock:
            for i, array in enumerate(self.values):
                variable = self._variables[i]()
                if array is not None and array.is_deleted() and variable is not None:
                    self.values[i] = None
                    self.missing.append(i)
                    variable._lose_value()


def _after_fork() -> None:
    for each in _everyone:
        each.lock = threading.RLock()


in_child(_after_fork)
