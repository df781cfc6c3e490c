"""`jit`: compiles code that reads and writes variables, and finds out which variables they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace
from functools import update_wrapper, wraps
from typing import Any
from weakref import WeakKeyDictionary, ref

from .._arrays.registry import get_backend, transforms_of
from .._arrays.transforms import Program
from .._core import overlays
from .._public import public
from ..errors import describe
from .reachable import backend_of

__all__ = ["Jit", "jit"]


@public()
def jit(
    fn: Callable[..., Any],
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    *,
    backend: str | None = None,
) -> Jit:
    """Compiles a function that reads and writes variables.

    The variables that it uses are found while it is traced: through closures, attributes, containers, and arguments.
    A call is a transaction over them: other threads see all of its writes at once and, on an exception, none.

    Args:
        fn: any callable. As with every compiler, its Python code runs when it is traced, not at each call.
        static_argnums: positional arguments that are part of the program. They must be hashable; a new value is traced
            again.
        static_argnames: names of keyword arguments that are part of the program, as with ``static_argnums``.
        donate: overwrite the old values of the variables where nothing else refers to them. False keeps the old values
            until the call has ended, so that they survive an error in it; this needs memory for both.
        backend: the library that compiles; by default that of the variables that ``fn`` can reach, else of the
            arguments, else of the modules that ``fn`` names.

    JAX code is compiled by ``jax.jit``, torch code by ``torch.compile`` (as one graph), TensorFlow code by
    ``tf.function``; NumPy code runs as plain Python.

    Variables that are passed as arguments are told apart by identity. Their values are read anew at each call; a new
    shape is traced again. The first call may create variables.

    Raises:
        TraceError: on calling: every call creates a new variable; or the variables belong to several libraries.

    Source: ``jax.jit``.

    >>> import jax.numpy as jnp
    >>> import statevar as sv
    >>> total = sv.Variable(jnp.zeros(2))
    >>> @sv.jit
    ... def add(x):
    ...     total.assign_add(x)
    ...     return total.value.sum()
    >>> float(add(1.0)), float(add(2.0)), total.value
    (2.0, 6.0, Array([3., 3.], dtype=float32))
    """
    nums = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    names = (static_argnames,) if isinstance(static_argnames, str) else tuple(static_argnames)
    if not callable(fn):
        raise TypeError(describe("jit", f"expected a callable, got {type(fn).__name__}"))
    return Jit(Program(fn, nums, names, bool(donate)), backend)


class Jit:
    """A compiled function, as `jit` returns it. It is called like the function, and binds as a method in a class."""

    def __init__(self, program: Program, backend: str | None = None) -> None:
        update_wrapper(self, program.fn)
        self._program = program
        self._backend = backend
        self._bound: WeakKeyDictionary[Any, Jit] = WeakKeyDictionary()
        self._run: Callable[[tuple[Any, ...], dict[str, Any]], Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function, compiled."""
        if overlays.active and (overlay := overlays.current()) is not None and overlay.holds_values:
            return self._program.fn(*args, **kwargs)  # it is part of an outer trace
        run = self._run
        if run is None:
            name, program = self._backend, self._program
            backend = get_backend(name) if name is not None else backend_of(program.fn, args, kwargs)
            run = self._run = transforms_of(backend).jit(program)
        return run(args, kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = self._bound.get(instance)
        if bound is None:
            bound = self._bound[instance] = Jit(_bound_program(self._program, instance), self._backend)
        return bound

    def __deepcopy__(self, memo: dict[int, Any]) -> Jit:
        """Copies it with an object that contains it, so that a bound method of the copy is bound to the copy."""
        return Jit(replace(self._program, fn=deepcopy(self._program.fn, memo)), self._backend)


def _bound_program(program: Program, instance: Any) -> Program:
    """The program of a method of one instance, which is no argument of the program."""
    weak = ref(instance)  # the compiled function must not keep the instance alive

    @wraps(program.fn)
    def fn(*args: Any, **kwargs: Any) -> Any:
        return program.fn(weak(), *args, **kwargs)

    nums = tuple(n - 1 if n > 0 else n for n in program.static_argnums if n != 0)
    return replace(program, fn=fn, static_argnums=nums)
