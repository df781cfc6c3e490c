"""Pure functions for code that writes variables, shared by loops, branches, maps and rematerialisation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .._arrays.registry import default_backend, owner_of
from .._arrays.trees import leaves, tree_map
from .._core.lost import missing
from .._core.variable import Variable
from ..errors import TraceError
from .overlay import InnerOverlay, ValueOverlay
from .reachable import backend_of

if TYPE_CHECKING:
    from .._arrays.backend import Backend
    from .._arrays.transforms import Transforms
    from .._arrays.types import Array

__all__ = ["CarriedState", "library_of", "plain", "written_by"]


def library_of(pytree: Any, *functions: Callable[..., Any]) -> Backend:
    """The library of the arrays; else of the variables that the functions can reach; else NumPy."""
    owners = [owner for each in leaves(pytree) if (owner := owner_of(plain(each))) is not None]
    return next((each for each in owners if not each.is_host), None) or _reached(owners, functions)


def _reached(owners: list[Backend], functions: Iterable[Callable[..., Any]]) -> Backend:
    found = [backend_of(each, (), {}) for each in functions]
    return next((each for each in found if not each.is_host), owners[0] if owners else default_backend())


def plain(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Variable) else leaf


class CarriedState:
    """Makes code pure: the values of the variables that it writes become arguments and results."""

    def __init__(self, what: str, base: ValueOverlay, written: Iterable[Variable]) -> None:
        self._what = what
        self._base = base
        self.written = list(dict.fromkeys(written))

    def values(self) -> list[Array]:
        """The values before the code runs. Keeps other writers out from now on."""
        self._base.reserve(self.written)
        return [self._value(variable) for variable in self.written]

    def _value(self, variable: Variable) -> Array:
        value = self._base.read(variable)._snapshot
        if value is None:
            raise missing(variable, self._what)
        return value

    def run(self, values: Iterable[Array], fn: Callable[..., Any], *args: Any) -> tuple[Any, list[Array]]:
        """Calls ``fn(*args)`` with these values of the variables; returns the result and the new values."""
        frame = InnerOverlay(self._what, zip(self.written, values, strict=True))
        with frame:
            out = tree_map(plain, fn(*args))
            new = list(frame.values(self.written))
            outgoing, _ = frame.outgoing()
        known = dict.fromkeys(self.written)
        for variable in outgoing:
            if variable not in known:
                raise TraceError.of(
                    self._what, "the code writes different variables each time it is traced", variable.path
                )
        return out, new

    def keep(self, values: Iterable[Array]) -> None:
        """Writes the new values to the variables."""
        for variable, value in zip(self.written, values, strict=True):
            self._base.take_over(variable, value)


def written_by(what: str, transforms: Transforms, *calls: tuple[Any, ...]) -> dict[Variable, None]:
    """The variables that some calls write, found without computing anything."""
    found: dict[Variable, None] = {}

    def probe(fn: Callable[..., Any]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            frame = InnerOverlay(what)
            with frame:
                fn(*args)
                found.update(dict.fromkeys(frame.outgoing()[0]))

        return run

    for fn, *args in calls:
        transforms.written_by(probe(fn), *args)
    return found
