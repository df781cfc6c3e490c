"""Makes pure functions of code that writes variables: what loops, branches, maps and rematerialisation share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .._arrays.registry import default_backend, owner_of
from .._arrays.trees import leaves, tree_map
from .._core.variable import Variable
from ..errors import TraceError, UninitializedError
from .overlay import InnerOverlay, ValueOverlay
from .reachable import backend_of

if TYPE_CHECKING:
    from .._arrays.backend import Backend
    from .._arrays.transforms import Transforms
    from .._arrays.types import Array

__all__ = ["CarriedState", "library_of", "plain", "written_by"]


def library_of(pytree: Any, *functions: Callable[..., Any]) -> Backend:
    """Whose arrays these are; else whose variables the functions can reach; else NumPy."""
    owners = [owner for each in leaves(pytree) if (owner := owner_of(plain(each))) is not None]
    return next((each for each in owners if not each.is_host), None) or _reached(owners, functions)


def _reached(owners: list[Backend], functions: Iterable[Callable[..., Any]]) -> Backend:
    found = [backend_of(each, (), {}) for each in functions]
    return next((each for each in found if not each.is_host), owners[0] if owners else default_backend())


def plain(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Variable) else leaf


class CarriedState:
    """Makes pure functions of code, with the values of the variables that it writes going in and coming out."""

    def __init__(self, what: str, base: ValueOverlay, written: Iterable[Variable]) -> None:
        self._what = what
        self._base = base
        self.written = list(dict.fromkeys(written))

    def values(self) -> list[Array]:
        """What goes in. Nobody else writes the variables from now on."""
        self._base.reserve(self.written)
        return [self._value(variable) for variable in self.written]

    def _value(self, variable: Variable) -> Array:
        value = self._base.read(variable)._snapshot
        if value is None:
            raise UninitializedError.of(
                self._what, "the variable has no value to begin with", variable.path, "assign one first"
            )
        return value

    def run(self, values: Iterable[Array], fn: Callable[..., Any], *args: Any) -> tuple[Any, list[Array]]:
        """``fn(*args)`` with these values of the variables; the result, and their new values."""
        frame = InnerOverlay(self._what, zip(self.written, values, strict=True))
        with frame:
            out = tree_map(plain, fn(*args))
            new = list(frame.values(self.written))
        known = dict.fromkeys(self.written)
        for variable in frame.written:
            if variable not in known:
                raise TraceError.of(self._what, "the code writes other variables each time it is traced", variable.path)
        return out, new

    def keep(self, values: Iterable[Array]) -> None:
        """What came out."""
        for variable, value in zip(self.written, values, strict=True):
            self._base.take_over(variable, value)


def written_by(what: str, transforms: Transforms, *calls: tuple[Any, ...]) -> dict[Variable, None]:
    """The variables that some functions write; nothing is computed."""
    found: dict[Variable, None] = {}

    def probe(fn: Callable[..., Any]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            frame = InnerOverlay(what)
            with frame:
                fn(*args)
            found.update(frame.written)

        return run

    for fn, *args in calls:
        transforms.written_by(probe(fn), *args)
    return found
