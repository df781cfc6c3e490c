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

    __slots__ = (
        "call",
        "careful",
        "cold",
        "donates",
        "known",
        "locks",
        "ordered",
        "read",
        "releases",
        "reshapes",
        "written",
    )

    def __init__(self, jit: _Jit, written: tuple[Variable, ...], read: tuple[Variable, ...]) -> None:
        self.written, self.read = written, read
        self.known = written + read
        self.ordered = sorted(self.known, key=id)
        # Bound once: a warm call over a hundred variables has 0.1 us for each.
        self.locks = [variable._lock for variable in self.ordered]
        self.releases = [lock.release for lock in self.locks]
        self.cold = True  # nothing was compiled yet
        self.reshapes = False  # whether a program gives a variable another shape
        program = jit.program
        self.donates = program.donate
        make = partial(
            jax.jit,
            partial(jit.trace, self),
            static_argnums=tuple(n + 2 if n >= 0 else n for n in program.static_argnums) or None,
            static_argnames=program.static_argnames or None,
        )
        self.call = make(donate_argnums=(0,)) if self.donates else make()
        self.careful = make()  # inside a transaction, which may still drop the new values


class _Jit:
    def __init__(self, program: Program) -> None:
        self.program = program
        self._makes = 0  # traces that made a variable which lives on
        self._config = _Config(self, (), ())

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        config = self._config
        if config.cold or _scopes.active:
            return self._carefully(args, kwargs)
        try:
            return self._alone(config, args, kwargs)
        except (_Again, _Held):
            return self._carefully(args, kwargs)

    def _carefully(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call that may have to trace, to wait, or to tell variables among its arguments apart."""
        run = self._alone if not _scopes.active or _scopes.overlay() is None else self._within
        for _ in range(_ATTEMPTS):
            config = self._config
            by_identity.on = True
            try:
                if config.cold and run == self._alone:  # no lock is held while JAX first traces and compiles
                    values = [[_array(each) for each in some] for some in (config.written, config.read)]
                    config.call.lower(*values, *args, **kwargs).compile()
                    config.cold = False
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
        """A call outside of any transaction: in place of the old values.

        One function, since each call of Python's takes 0.1 us of the 5 that JAX takes for a small program.
        """
        kept: list[Any] = []
        handles: list[Any] = []
        written = config.written
        watched = False
        try:
            for variable in config.ordered:
                variable._lock.acquire()
                if (holder := variable._holder) is not None:
                    raise _Held(variable, holder)
            handles = [variable._handle for variable in written]
            for variable in written:
                variable._snapshot = None
            if config.donates:
                values = [None if h is None else h.array if h.published is None else _copy(h.array) for h in handles]
            else:
                values = [None if h is None else h.array for h in handles]
            read = [_array(variable) for variable in config.read] if config.read else []
            by_identity.on = True
            # C code puts the result into the list before Python looks for signals: the old values are gone by then.
            if kwargs:
                kept.extend(starmap(partial(config.call, values, read, *args, **kwargs), _ONCE))
            else:
                kept.extend(map(config.call, (values,), (read,), *zip(args, strict=False)))
            by_identity.on = False
            out, news = kept[0]
            if config.reshapes or None in handles:
                _store_anew(written, news)
                watched = True
            else:
                for variable, handle, array in zip(written, handles, news, strict=True):
                    handle.array = array
                    handle.published = None
                    variable._version += 1
                    if variable._watchers is not None:
                        variable._watchers.record(variable._version)
                        watched = True
            for release in config.releases:
                release()
        except BaseException:
            # No call that Python runs stands before this loop: Ctrl-C comes where one begins.
            by_identity.on = False
            interrupt: KeyboardInterrupt | None = None
            while True:
                try:
                    if kept:
                        _store_anew(written, kept[0][1])
                    elif handles:
                        _put_back(written)
                    for lock in config.locks:
                        if lock._is_owned():
                            lock.release()
                    break
                except KeyboardInterrupt as error:
                    interrupt = error
            if interrupt is not None:
                raise interrupt from None
            raise
        if watched:
            for variable in written:
                variable._deliver()
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
            config.reshapes |= any(
                new is not None and old is not None and new.shape != old.shape
                for old, new in zip(written, news, strict=True)
            )
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


def _store_anew(variables: Sequence[Variable], arrays: Sequence[Any]) -> None:
    """Also first values, and others shapes; may be begun again. The locks are taken."""
    for variable, array in zip(variables, arrays, strict=True):
        if array is None or _array(variable) is array:
            continue
        handle = variable._backend.create(array, declared=(), device=None, trainable=False)
        handle.published = None  # nobody else has it
        variable._shape = array.shape
        if not fits(array.shape, variable._declared):
            variable._declared = array.shape
        variable._handle = handle
        variable._version += 1
        if variable._watchers is not None:
            variable._watchers.record(variable._version)


def _put_back(variables: Sequence[Variable]) -> None:
    """After an error: the old values, those that the program has not eaten."""
    for variable in variables:
        handle = variable._handle
        if handle is not None and handle.array.is_deleted():
            variable._handle = handle = None  # reading says that there is none
        variable._snapshot = None if handle is None else handle.published


TRANSFORMS = JAXTransforms()
