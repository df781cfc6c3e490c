"""Where the arrays of a compiled program's variables live between its calls.

A call of a program over a thousand small variables would spend a fifth of its time on locking each, taking its array
and storing the new one. So the program keeps the arrays, as a loop written by hand would, and a warm call is one lock
and JAX's dispatch. Whoever reads or writes one of the variables in another way gets its array back first (`recall`);
the next call asks for it again (`lend`).

Locks are taken in one order: those of variables, by id, and then the residence's.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakSet, ref

import jax
import jax.numpy as jnp

from ..._core.forks import in_child
from ..._core.holds import Hold, while_locked
from ..._core.variable import Variable
from ..._transforms.call import Retry

__all__ = ["HELD", "Residence"]

HELD: Final = "somebody else holds a variable"

_copy = jax.jit(jnp.copy)
_everyone: WeakSet[Residence] = WeakSet()


class Lent:
    """The handle of a variable whose array a compiled program has, to write it without asking at every call.

    Whoever looks at the array gets it back, and the variable is as any other.
    """

    __slots__ = ("_lender", "index", "own", "published")

    def __init__(self, lender: Residence, index: int) -> None:
        self._lender = lender
        self.index = index
        self.own: Any = None  # the array, once it was given back
        self.published: Any = None

    @property
    def array(self) -> Any:
        if self.own is None:
            self._lender.recall(self)
        return self.own

    @array.setter
    def array(self, array: Any) -> None:
        if self.own is None:
            self._lender.recall(self)
        self.own = array


class Residence(Hold):
    """The arrays of some variables, in the order of the program."""

    __slots__ = ("__weakref__", "_bases", "_variables", "calls", "lock", "missing", "values")

    lends = True

    def __init__(self, variables: Sequence[Variable]) -> None:
        super().__init__("a compiled program")
        # Weakly: each of them, through its handle, keeps the residence, and their arrays must die when they do.
        self._variables = [ref(variable) for variable in variables]
        self._bases = [0] * len(variables)
        self.lock = threading.RLock()
        self.values: list[Any] = [None] * len(variables)
        self.missing = list(range(len(variables)))  # whose arrays are not here
        self.calls = 0
        _everyone.add(self)

    def is_mine(self) -> bool:
        return False

    def is_writing(self, variable: Any) -> bool:
        """A call may have changed it since its version was last brought up to date."""
        return True

    def lend(self, *, copies: bool) -> bool:
        """Fetches what is missing.

        Returns:
            False if it cannot: a variable has no value yet, or somebody wants to be told of each of its versions.

        Raises:
            Retry: somebody else holds a variable (`HELD`).
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
                array = handle.array
                if copies and handle.published is not None:
                    array = _copy(array)
                with self.lock:
                    i = places[variable]
                    self.values[i] = array
                    self._bases[i] = self.calls
                    variable._lend(Lent(self, i), self)
                    self.missing.remove(i)
            return True

        return while_locked(places, body)

    def recall(self, handle: Lent) -> None:
        """Gives an array back: the variable is as any other until it is lent again."""
        with self.lock:
            if handle.own is not None:
                return
            i = handle.index
            variable = self._variables[i]()
            if i not in self.missing:
                self.missing.append(i)
            array, self.values[i] = self.values[i], None
            if variable is not None:
                variable._end_loan(handle, self, self.calls - self._bases[i])
            handle.own = array

    def give_back(self, variable: Any) -> None:
        variable._handle.array  # noqa: B018  # looking at it recalls it

    def give_all_back(self) -> None:
        """After the program: the variables go on without it."""
        for each in self._variables:
            variable = each()
            if variable is not None and variable._holder is self:
                self.give_back(variable)

    def drop_deleted(self) -> None:
        """After an error in the middle of a program that has eaten its arrays: those variables have no value."""
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
