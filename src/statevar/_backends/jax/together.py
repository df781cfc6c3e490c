"""Writes many arrays in one program: one for each operation, compiled once for the shapes and dtypes of a list."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp

from .arrays import is_concrete, is_memory_short, settled, store

__all__ = ["result_for", "write_all"]


def _program(op: Any, *, donate: bool) -> Any:
    def run(arrays: list[Any], xs: list[Any]) -> list[Any]:
        if op is None:
            return [jnp.copy(x) for x in xs]
        return [op(array, x) for array, x in zip(arrays, xs, strict=True)]

    return jax.jit(run, donate_argnums=0 if donate else (), keep_unused=donate)


#: By the operator, None for an assignment, and by whether the old arrays are overwritten.
_PROGRAMS = {
    (op, donate): _program(op, donate=donate)
    for op in (None, operator.add, operator.sub, operator.mul, operator.and_, operator.or_, operator.xor)
    for donate in (False, True)
}


#: The handles of the calls that have begun and not ended, and what will have their results.
_under_way: list[tuple[list[Any], list[Any]]] = []


def result_for(handle: Any) -> Any:
    """What a call of this thread that is under way has computed for a handle, or None."""
    for handles, kept in _under_way:
        if kept and any(each is handle for each in handles):
            return next(array for each, array in zip(handles, kept[0], strict=True) if each is handle)
    return None


def write_all(
    handles: list[Any], arrays: list[Any], xs: list[Any], op: Any, began: list[bool], *, donate: bool
) -> bool:
    """Does `JAXBackend.write_all`, whose handles have these arrays, all on one device; returns whether it did."""
    if is_memory_short(*arrays):
        return False
    kept: list[Any] = []
    home = arrays[0].sharding
    _under_way.append((handles, kept))
    try:
        began.append(True)
        news = store(kept, _PROGRAMS[op, donate], arrays, xs)
        if news[0].sharding.device_set != home.device_set:  # where the operands are, as none was given a device
            news = [jax.device_put(new, home) for new in news]
        settled(news[0], next((x for x in xs if is_concrete(x) and x.is_ready()), None))  # they are computed together
        _give(handles, news)
    except BaseException as error:
        if kept:  # the old arrays may no longer exist
            _give(handles, kept[0])
        elif isinstance(error, ValueError):  # they are on several devices, and nothing has run
            return False
        elif not any(array.is_deleted() for array in arrays):  # nothing was written, so nothing is to be counted
            began.clear()
        raise
    finally:
        _under_way.remove((handles, kept))
    return True


def _give(handles: list[Any], arrays: list[Any]) -> None:
    for handle, array in zip(handles, arrays, strict=True):
        handle.array = array
        handle.published = None
