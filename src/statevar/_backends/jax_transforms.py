"""JAX's transforms, for variables whose values an overlay hands in and out.

`Jit` keeps one jitted pure function of ``(written values, read values, *args)``. Which variables those are is found by
tracing: a variable met for the first time aborts the trace, which begins again with its value given. So the lists only
grow, and a warm call is JAX's own dispatch between two loops over the variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import starmap
from typing import Any

import jax
import jax.numpy as jnp

from .. import _scopes
from .._calls import Call, Tracing
from .._commit import while_all_locked
from .._holds import Hold
from .._shapes import fits
from .._transforms import Program, Transforms
from .._variable import Variable
from ..errors import TraceError, describe
from .jax import by_identity

__all__ = ["TRANSFORMS"]

_ATTEMPTS = 50  # each finds at least one variable more
_MAKES = 3  # traces that may make variables which live on
_ONCE = ((),)
_copy = jax.jit(jnp.copy)


class JAXTransforms(Transforms):
    tapes = False

    # -- gradients -----------------------------------------------------------------------------------------

    def value_and_grad(
        self, fn: Callable[[list[Any]], tuple[Any, Any]], values: list[Any]
    ) -> tuple[tuple[Any, Any], list[Any]]:
        result: tuple[tuple[Any, Any], list[Any]] = jax.value_and_grad(fn, has_aux=True)(values)
        return result

    def zeros_like(self, array: Any) -> Any:
        return jnp.zeros_like(array)

    # -- compilation ---------------------------------------------------------------------------------------

    def jit(self, program: Program) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        return _Jit(program)

    # -- control flow --------------------------------------------------------------------------------------

    def lifts(self, nest: Any) -> bool:
        return True

    def written_by(self, fn: Callable[..., Any], *args: Any) -> None:
        jax.eval_shape(lambda *each: (fn(*each), None)[1], *args)

    def scan(self, body: Callable[..., Any], carry: Any, xs: Any, length: int | None, *, reverse: bool) -> Any:
        return jax.lax.scan(body, carry, xs, length, reverse=reverse)

    def cond(self, predicate: Any, on_true: Callable[..., Any], on_false: Callable[..., Any], operands: Any) -> Any:
        return jax.lax.cond(predicate, on_true, on_false, *operands)

    def while_loop(self, condition: Callable[..., Any], body: Callable[..., Any], carry: Any) -> Any:
        return jax.lax.while_loop(condition, body, carry)

    def vmap(self, fn: Callable[..., Any], in_axes: Any, out_axes: Any, axis_size: int | None) -> Callable[..., Any]:
        mapped: Callable[..., Any] = jax.vmap(fn, in_axes, out_axes, axis_size=axis_size)
        return mapped

    def remat(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        result: Callable[..., Any] = jax.checkpoint(fn)
        return result

    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Any:
        return jnp.stack([jnp.asarray(each) for each in arrays], axis)


class _Again(BaseException):
    """Aborts a trace that met a variable for the first time; no ``except Exception`` of the user's sees it."""


class _Held(Exception):  # noqa: N818  # no error: it ends a wait with locks in hand
    def __init__(self, variable: Variable, holder: Hold) -> None:
        self.variable, self.holder = variable, holder


class _Config:
    """The variables that a program is known to touch, and the compiled function for them."""

    __slots__ = ("call", "careful", "cold", "known", "ordered", "read", "written")

    def __init__(self, jit: _Jit, written: tuple[Variable, ...], read: tuple[Variable, ...]) -> None:
        self.written, self.read = written, read
        self.known = written + read
        self.ordered = sorted(self.known, key=id)
        self.cold = True  # nothing was compiled yet
        program = jit.program
        make = partial(
            jax.jit,
            partial(jit.trace, self),
            static_argnums=tuple(n + 2 if n >= 0 else n for n in program.static_argnums) or None,
            static_argnames=program.static_argnames or None,
        )
        self.call = make(donate_argnums=(0,)) if program.donate else make()
        self.careful = make()  # inside a transaction, which may still drop the new values


class _Jit:
    def __init__(self, program: Program) -> None:
        self.program = program
        self._makes = 0  # traces that made a variable which lives on
        self._config = _Config(self, (), ())

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        run = self._alone if not _scopes.active or _scopes.overlay() is None else self._within
        for _ in range(_ATTEMPTS):
            config = self._config
            by_identity.on = True
            try:
                return run(config, args, kwargs)
            except _Again:
                continue
            except _Held as met:
                variable, holder = met.variable, met.holder
                holder.wait("jit", variable.path, lambda: variable._holder is holder)  # noqa: B023  # called at once
            finally:
                by_identity.on = False
        raise TraceError(describe("jit", "every trace of the function touches other variables"))

    def _alone(self, config: _Config, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call outside of any transaction: in place of the old values."""
        if config.cold:  # no lock is held while JAX traces and compiles for the first time
            values = [[_array(each) for each in some] for some in (config.written, config.read)]
            config.call.lower(*values, *args, **kwargs).compile()
            config.cold = False
        kept: list[Any] = []

        def body(ordered: list[Variable]) -> Any:
            for variable in ordered:
                if variable._holder is not None:
                    raise _Held(variable, variable._holder)
            written = config.written
            donates = self.program.donate
            values: list[Any] = []
            for variable in written:
                variable._snapshot = None
                if (handle := variable._handle) is None:
                    values.append(None)
                else:
                    array = handle.array
                    values.append(_copy(array) if donates and handle.published is not None else array)
            read = [_array(variable) for variable in config.read]
            try:
                # C code puts the result into the list before Python looks for signals.
                kept.extend(starmap(partial(config.call, values, read, *args, **kwargs), _ONCE))
            finally:
                if kept:
                    for variable, array in zip(written, kept[0][1], strict=True):
                        _store(variable, array)
                else:
                    for variable in written:
                        _put_back(variable, self.program.donate)
            return kept[0][0]

        out = while_all_locked(config.ordered, body)
        for variable in config.written:
            if variable._watchers is not None:
                variable._watchers.deliver(variable)
        return out

    def _within(self, config: _Config, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call inside a transaction, as a part of it."""
        with Call("jit", config.known) as call:
            values = [[call.read(each) for each in some] for some in (config.written, config.read)]
            out, news = config.careful(*values, *args, **kwargs)
            call.keep(zip(config.written, news, strict=True))
        return out

    def trace(self, config: _Config, written: Any, read: Any, *args: Any, **kwargs: Any) -> Any:
        """The pure function; runs only while JAX traces."""
        by_identity.on = False
        try:
            frame = Tracing("jit", zip(config.known, (*written, *read), strict=True))
            with frame:
                out = self.program.fn(*args, **kwargs)
                out = jax.tree.map(lambda leaf: leaf, out)  # the values of variables in it, while they are here
                news = list(frame.values(config.written))
            own = {id(each) for each in frame.created_here()}
            wrote = {id(each) for each in frame.written}
            touched = [each for each in dict.fromkeys([*frame.missed, *frame.written]) if id(each) not in own]
            lasting = frame.lasting()
            if lasting:
                self._makes += 1
                if self._makes > _MAKES:
                    raise TraceError(
                        describe(
                            "jit",
                            "every trace of the function makes a variable that lives on",
                            lasting[0].path,
                            "make it once: before, or on the first call only",
                        )
                    )
            self._learn(config, [*touched, *lasting], wrote)
            return out, news
        finally:
            by_identity.on = True

    def _learn(self, config: _Config, touched: list[Variable], wrote: set[int]) -> None:
        """Begins again if the trace has met variables that were not given."""
        written = dict.fromkeys([*config.written, *(each for each in touched if id(each) in wrote)])
        read = [each for each in dict.fromkeys([*config.read, *touched]) if each not in written]
        if len(written) > len(config.written) or len(read) > len(config.read):
            for variable in touched:
                if variable.backend != "jax":
                    raise TraceError(
                        describe(
                            "jit",
                            f"JAX compiles this function, and the variable is of {variable.backend}: its value would "
                            "be kept for ever",
                            variable.path,
                            "make it with backend='jax', or read it outside and pass the value",
                        )
                    )
            self._config = _Config(self, tuple(written), tuple(read))
            raise _Again


def _array(variable: Variable) -> Any:
    handle = variable._handle
    return None if handle is None else handle.array


def _store(variable: Variable, array: Any) -> None:
    """A new value, that nobody else has; the lock is taken."""
    handle = variable._handle
    if handle is None or array is None:
        _store_first(variable, array)
        return
    if array.shape != variable._shape:
        _reshape(variable, array.shape)
    handle.array = array
    handle.published = None
    variable._version += 1
    if variable._watchers is not None:
        variable._watchers.record(variable._version)


def _store_first(variable: Variable, array: Any) -> None:
    if array is not None:
        variable._handle = variable._backend.create(array, declared=(), device=variable._device, trainable=False)
        _reshape(variable, array.shape)
        variable._version += 1


def _reshape(variable: Variable, shape: Any) -> None:
    variable._shape = shape
    if not fits(shape, variable._declared):
        variable._declared = shape


def _put_back(variable: Variable, donated: bool) -> None:
    """After an error: the old value, if the program has not eaten it."""
    handle = variable._handle
    if handle is None:
        return
    if donated and handle.array.is_deleted():
        variable._handle = variable._snapshot = None  # it is gone: reading says so
        return
    variable._snapshot = handle.published


TRANSFORMS = JAXTransforms()
