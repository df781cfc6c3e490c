"""Tells whether JAX is tracing, and which of its traces bake the values that they read into a program."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..._arrays.host import ONE_BY_ONE, combine
from ..._arrays.traced_index import cannot_write, check_for_mask, check_slices
from ..._arrays.tracing import AccessCheck, Tracing
from .placing import call_traced

__all__ = ["TRACING", "JAXTracing", "is_eager"]


def _hook(name: str) -> Any:
    """Finds a semi-public function or object of JAX in the module where this version has it; None if there is none."""
    for module in ("jax.extend.core", "jax._src.core", "jax.core"):
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # JAX moves it between versions
            found = getattr(sys.modules.get(module), name, None)
        if found is not None:
            return found
    return None


_context = _hook("trace_ctx")  # its ``trace`` is the fastest to ask
_take = _hook("take_current_trace")
_Eager = _hook("EvalTrace")
# The traces of grad and vmap, which keep nothing. Any other may be that of jit, or of scan, cond or checkpoint.
_PASSING = frozenset({"JVPTrace", "LinearizeTrace", "BatchTrace"})


def _trace() -> Any:
    """The current trace, eager or of a transform; a new object, equal to no other, where JAX does not tell."""
    if _context is not None:
        return _context.trace
    if _take is None:
        return object()
    with _take() as trace:
        return trace


def is_eager() -> bool:
    """Whether no transform of JAX is running; where JAX does not tell, none that bakes values into a program."""
    if _context is not None and _Eager is not None:
        return type(_context.trace) is _Eager
    if _take is None or _Eager is None:
        return not _bakes()
    return type(_trace()) is _Eager


def _is_staged() -> bool:
    """Whether a transform is running, directly or further out, that computes no values while Python code runs.

    Its program is kept, as that of jit, or its results are traced even where no operand is, as those of ``shard_map``.
    """
    now = _trace()
    while (cls := type(now).__name__) != "EvalTrace":
        if cls not in _PASSING and cls != "JaxprTrace":  # that of gradients in older versions
            return True
        now = getattr(now, "parent_trace", None)
        if now is None:  # JAX does not tell
            return True
    return False


_under_jit: Any = _hook("unsafe_am_i_under_a_jit_DO_NOT_USE")
_bakes: Any = _under_jit if _context is None and _take is None and _under_jit is not None else _is_staged


class JAXTracing(Tracing):
    guards_reads = True

    def is_tracing(self) -> bool:
        if _context is not None and type(_context.trace) is _Eager:  # asked first, since it takes a fifth of the time
            return False
        return bool(_bakes())

    def keeps(self, mark: Any = None) -> bool:
        if mark is None:
            return type(_context.trace) is not _Eager and _bakes() if _context is not None else bool(_bakes())
        return not self.may_read(mark)

    def question(self) -> tuple[str, dict[str, Any]]:
        names = {"jax_context": _context, "jax_eager": _Eager, "jax_bakes": _bakes}
        eager = "" if _context is None else "type(jax_context.trace) is not jax_eager and "
        return f"{eager}jax_bakes()", names

    def kept(self, mark: Any) -> bool:
        return mark is not None and not self.may_read(None, mark)

    def trace_mark(self, check_access: AccessCheck) -> Any:
        return _trace()

    def may_read(self, mark: Any, now: Any = None) -> bool:
        if now is None:
            if mark is None:
                # The usual case is an eager read. Otherwise ask for a transform such as jit, at any depth.
                return (_context is not None and type(_context.trace) is _Eager) or not _bakes()
            now = _trace()
        while now is not mark:
            cls = type(now)
            if cls is _Eager or cls.__name__ == "EvalTrace":
                return mark is None
            if cls.__name__ not in _PASSING:
                return False
            now = getattr(now, "parent_trace", None)
            if now is None:  # JAX does not tell, so it may be a trace of jit
                return False
        return True

    def may_write(self, mark: Any) -> bool:
        return mark is None or _trace() is mark

    def outside_trace(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = jax.ensure_compile_time_eval()
        return context

    def traced_value(self, handle: Any) -> Any:
        handle.published = handle.array  # handed out: no write may donate it
        return handle.array

    def get_symbolic(self, array: Any, index: Any) -> Any:
        parts, joined = _split(index)
        rank = jax.eval_shape(lambda: jnp.zeros(array.shape, array.dtype)[index]).ndim
        return call_traced(lambda old, *given: old[joined(given)], array, *parts, parts=[None] * rank)

    def put_symbolic(self, old: Any, x: Any, operation: str, index: Any) -> Any:
        parts, joined = _split(index)
        return call_traced(lambda old, x, *given: _put(old, x, operation, joined(given)), old, jnp.asarray(x), *parts)


def _split(index: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The arrays of an index, and a function that puts them, or others in their place, into the index again."""
    parts = index if isinstance(index, tuple) else (index,)
    is_array = [isinstance(part, jax.Array | np.ndarray) for part in parts]

    def joined(arrays: Sequence[Any]) -> Any:
        rest = iter(arrays)
        whole = tuple(next(rest) if found else part for found, part in zip(is_array, parts, strict=True))
        return whole if isinstance(index, tuple) else whole[0]

    return [part for found, part in zip(is_array, parts, strict=True) if found], joined


def _put(old: Any, x: Any, operation: str, index: Any) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    check_slices(parts)
    if len(parts) == 1 and getattr(parts[0], "dtype", None) == jnp.bool_:
        mask = parts[0]
        check_for_mask(x.shape, mask.shape, old.shape)
        mask = mask.reshape(*mask.shape, *[1] * (old.ndim - mask.ndim))
        return jnp.where(mask, combine(operation, old, x, jnp.minimum, jnp.maximum), old)
    if operation not in ONE_BY_ONE:
        return getattr(old.at[index], operation)(x, mode="drop")
    if any(getattr(part, "ndim", 0) for part in parts):
        raise cannot_write(operation)
    new = combine(operation, old.at[index].get(mode="clip"), x, jnp.minimum, jnp.maximum)
    return old.at[index].set(new, mode="drop")


TRACING = JAXTracing()
