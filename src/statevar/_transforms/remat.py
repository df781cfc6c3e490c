"""`remat`: recomputes intermediate results for the gradient instead of storing them; writes are made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from .._arrays.registry import transforms_of
from .._arrays.trees import tree_map
from .._core.variable import Variable
from .._public import public
from .lift import library_of, plain
from .overlay import InnerOverlay, ValueOverlay, keep_writes

if TYPE_CHECKING:
    from .._arrays.types import Array

__all__ = ["remat"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class _Reading(InnerOverlay):
    """Remembers the values that were read, so that the code can run again on the same values."""

    __slots__ = ("seen",)

    def __init__(self, what: str, seen: dict[Variable, Array]) -> None:
        super().__init__(what, seen.items())
        self.seen = seen

    def given(self, variable: Variable, value: Array) -> Array:
        self.seen.setdefault(variable, value)
        return value


@public()
def remat(fn: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns the function with its intermediate results recomputed for the gradient instead of stored.

    Its writes are made once.

    Source: ``jax.checkpoint``.

    >>> import jax.numpy as jnp
    >>> import statevar as sv
    >>> w, calls = sv.Variable(jnp.array(2.0)), sv.Variable(0, backend="jax")
    >>> block = sv.remat(lambda x: (calls.assign_add(1), jnp.sin(w.value * x))[1])
    >>> gradient = sv.grad(lambda: block(3.0), w)()
    >>> f"{float(gradient):.3f}", int(calls)
    ('2.881', 1)
    """

    @wraps(fn)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        transforms = transforms_of(library_of((args, kwargs), fn))

        def run(base: ValueOverlay) -> Any:
            seen: dict[Variable, Array] = {}
            written: list[Variable] = []

            def pure(args: Any, kwargs: Any) -> tuple[Any, list[Array]]:
                frame = _Reading("remat", dict(seen) if written else seen)
                with frame:
                    out = tree_map(plain, fn(*args, **kwargs))
                    outgoing, new = frame.outgoing()
                if not written:
                    written.extend(outgoing)
                return out, new

            out, new = transforms.remat(pure)(args, kwargs)
            for variable, value in zip(written, new, strict=True):
                base.take_over(variable, value)
            return out

        out: _R = keep_writes("remat", run, {})
        return out

    return wrapped
