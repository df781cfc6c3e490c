"""`jit`: compiles code that reads and writes variables, without being told which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial, update_wrapper, wraps
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary, ref

from ._arrays.backend import Backend
from ._arrays.registry import default_backend, get_backend, loaded_backends, owner_of, transforms_of
from ._arrays.transforms import Program
from ._core import scopes
from ._core.variable import Variable
from ._state.paths import slots_of
from .errors import TraceError, describe

__all__ = ["Jit", "backend_of", "jit"]


def jit(
    fn: Callable[..., Any],
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    *,
    backend: str | None = None,
) -> Jit:
    """Compiles a function that reads and writes variables.

    Which variables it touches is found while it is traced: through closures, attributes, containers, and arguments.
    A call is a transaction over them: other threads see all of its writes at once, and on an exception none.

    Args:
        fn: any callable. As with every compiler, its Python code runs when it is traced, not at each call.
        static_argnums: positional arguments that are part of the program: hashable; another value traces again.
        static_argnames: the same for keyword arguments.
        donate: write in place of the old values of the variables, where nobody else holds them. False keeps them until
            the call has ended, so that they survive an error while it runs; it needs the memory of both.
        backend: the library that compiles; by default that of the variables in reach, else of the arguments, else of
            the modules that the function names.

    JAX: ``jax.jit``. torch: ``torch.compile``, of one graph. TensorFlow: ``tf.function``. NumPy: runs it.

    Variables that are passed as arguments are told apart by identity. Their values are read at each call and never
    kept; a changed shape traces again. A variable made by the first call is kept.

    Raises:
        TraceError: on calling: every call makes a variable that lives on; or the variables belong to several libraries.

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
    """What `jit` returns: called like the function. As a method in a class it binds like one."""

    def __init__(self, program: Program, backend: str | None = None) -> None:
        update_wrapper(self, program.fn)
        self._program = program
        self._backend = backend
        self._bound: WeakKeyDictionary[Any, Jit] = WeakKeyDictionary()
        self._run: Callable[[tuple[Any, ...], dict[str, Any]], Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function, compiled."""
        if scopes.active and (overlay := scopes.overlay()) is not None and overlay.pure:
            return self._program.fn(*args, **kwargs)  # part of what is traced around it
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
        """For a copy of an object that holds it: a bound method is then one of the copy."""
        return Jit(replace(self._program, fn=deepcopy(self._program.fn, memo)), self._backend)


def _bound_program(program: Program, instance: Any) -> Program:
    """The program of a method: the instance is no argument, and told apart by identity."""
    held = ref(instance)  # or the instance, which the compiled function would keep, would never die

    @wraps(program.fn)
    def fn(*args: Any, **kwargs: Any) -> Any:
        return program.fn(held(), *args, **kwargs)

    nums = tuple(n - 1 if n > 0 else n for n in program.static_argnums if n != 0)
    return replace(program, fn=fn, static_argnums=nums)


def backend_of(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Backend:
    """Whose variables a function can reach; else whose arrays it gets; else what it imports; else NumPy."""
    met: dict[int, Any] = {}
    found = list(dict.fromkeys(_reachable([fn, args, kwargs], met)))
    backends = list(dict.fromkeys(variable._backend for variable in found))
    if len(backends) > 1:
        names = " and ".join(backend.name for backend in backends)
        raise TraceError(
            describe(
                "jit", f"a program is compiled by one library, and {names} variables are in reach",
                hint="keep them in different functions",
            )
        )  # fmt: skip
    if backends:
        return backends[0]
    arrays = (owner_of(each) for each in met.values() if not isinstance(each, dict | list | tuple | ModuleType))
    owner = next((owner for owner in arrays if owner is not None and not owner.is_host), None)
    if owner is not None:
        return owner
    roots = {each.__name__.partition(".")[0] for each in met.values() if isinstance(each, ModuleType)}
    libraries = [backend for backend in loaded_backends() if backend.name in roots and not backend.is_host]
    return libraries[0] if len(libraries) == 1 else default_backend()


def _reachable(roots: list[Any], met: dict[int, Any]) -> Iterator[Variable]:
    """The variables in arguments, closures, bound objects, and the globals that the code names."""
    stack = list(reversed(roots))
    while stack:
        each = stack.pop()
        if isinstance(each, Variable):
            yield each
            continue
        if id(each) in met or each is None:
            continue
        met[id(each)] = each
        if isinstance(each, Jit):
            stack.append(each._program.fn)
        elif isinstance(each, ref):
            stack.append(each())
        elif isinstance(each, partial):
            stack.extend([each.func, each.args, each.keywords])
        elif isinstance(each, MethodType):
            stack.extend([each.__func__, each.__self__])
        elif isinstance(each, FunctionType):
            stack.extend(_held_by(each))
        elif isinstance(each, dict):
            stack.extend(each.values())
        elif isinstance(each, list | tuple | set | frozenset):
            stack.extend(each)
        elif hasattr(each, "__wrapped__"):
            stack.append(each.__wrapped__)
        else:
            if isinstance(each, ModuleType | type):
                continue
            call = vars(type(each)).get("__call__")
            if isinstance(call, FunctionType):
                stack.append(call)
            stack.extend(getattr(each, "__dict__", {}).values())
            stack.extend(getattr(each, slot) for slot in slots_of(type(each)) if hasattr(each, slot))


def _held_by(function: FunctionType) -> list[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    named = [function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *named]


def _names(code: CodeType) -> Iterator[str]:
    """The names that code uses, and those of the functions written inside it."""
    yield from code.co_names
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _names(each)


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # raises if it is empty
    except ValueError:
        return False
    return True
