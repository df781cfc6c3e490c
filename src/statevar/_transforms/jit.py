"""`jit`: compiles code that reads and writes variables, and finds out which variables they are."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import update_wrapper, wraps
from types import FrameType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeAlias, TypeVar, overload
from weakref import ref

from .._arrays.registry import get_backend, owner_of, transforms_of
from .._arrays.transforms import Program
from .._arrays.trees import like
from .._core import overlays, scopes
from .._core.variable import Variable
from .._public import public
from ..errors import describe
from .guard import Guard, Run
from .randomness import Generators
from .reachable import backend_of, reach

__all__ = ["Jit", "jit"]

_P = ParamSpec("_P")
_Q = ParamSpec("_Q")
_R = TypeVar("_R")

_OTHERS = 8  # programs to keep beside the present one

#: The position or name of an argument, and the keys that lead to a place in it.
_Place: TypeAlias = tuple[Any, ...]


# For type checkers it is a function and no `Jit`: they know how functions bind in a class and are overridden.


@overload
def jit(
    fn: Callable[_P, _R],
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    *,
    backend: str | None = None,
) -> Callable[_P, _R]: ...


@overload
def jit(
    *,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    backend: str | None = None,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...


@public()
def jit(
    fn: Callable[..., Any] | None = None,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate: bool = True,
    *,
    backend: str | None = None,
) -> Any:
    """Compiles a function that reads and writes variables.

    The variables that it uses are found while it is traced: through closures, attributes, containers, and arguments.
    A call is a transaction over them: other threads see all of its writes at once and, on an exception, none.

    Args:
        fn: any callable. As with every compiler, its Python code runs when it is traced, not at each call. If it is
            omitted, ``jit`` returns a decorator with the other arguments: ``@sv.jit(static_argnames="training")``.
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
    if fn is None:
        return lambda fn: jit(fn, nums, names, donate, backend=backend)
    if not callable(fn):
        raise TypeError(describe("jit", f"expected a callable, got {type(fn).__name__}"))
    return Jit(Program(fn, nums, names, bool(donate)), backend)


class Jit(Generic[_P, _R]):
    """A compiled function, as `jit` returns it. It is called like the function, and binds as a method in a class."""

    __name__: str
    __qualname__: str
    __wrapped__: Callable[_P, _R]

    def __init__(self, program: Program, backend: str | None = None) -> None:
        update_wrapper(self, program.fn)
        self._program = program
        self._backend = backend
        self._bound: dict[int, Jit[Any, Any]] = {}  # the methods of objects, by the identities of the objects
        self._owner: Jit[Any, Any] | None = None  # of a method: the function in the class
        self._instance: Callable[[], Any] = _no_instance  # of a method: a weak reference, so that the object can die
        self._kept: Any = None
        self._roots: list[Any] = [program.fn]
        self._run: Run | None = None  # the program with a check before it
        self._unchecked: Run | None = None
        self._guard: Guard | None = None
        self._others: list[tuple[Run, Guard]] = []  # programs for the same variables in other places
        self._notes = _Notes(self._roots)
        self._takes_apart: Callable[[Any], bool] = _no_object
        #: The programs for objects with variables among the arguments, by their places and identities.
        self._for_objects: dict[Any, tuple[tuple[Any, ...], Jit[Any, Any]]] = {}
        self._cast_to: str | None = None  # the dtype of the `autocast` scope in which the program was made
        self._in_autocast: dict[str | None, Jit[_P, _R]] = {}  # the programs for other scopes, by their dtypes

    def __call__(self, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """Calls the function, compiled."""
        out: _R
        if overlays.active:
            if (overlay := overlays.current()) is not None and overlay.holds_values:
                out = self._program.fn(*args, **kwargs)  # it is part of an outer trace
                return out
            if (dtype := scopes.autocast_dtype()) != self._cast_to:
                return self._within_autocast(dtype)(*args, **kwargs)
        run = self._run or self._compiler(args, kwargs)
        if (args or kwargs) and not (  # in this order, since a call without arguments is the fastest
            _plain(map(type, args)) and (not kwargs or _plain(map(type, kwargs.values())))
        ):
            objects = {} if all(map(_is_plain, (*args, *kwargs.values()))) else self._objects(args, kwargs)
            if objects:
                out = self._with_objects(objects, args, kwargs)
                return out
        try:
            out = run(args, kwargs)
            return out
        finally:
            if self._notes.traced:
                self._watch()

    # -- which variables the function finds -----------------------------------------------------------------

    def _compiler(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        """Returns a new program, which is compiled when it is called."""
        name, program = self._backend, self._program
        backend = get_backend(name) if name is not None else backend_of(program.fn, args, kwargs)
        self._notes = _Notes(self._roots)
        if not backend.is_host:  # else the function runs at each call, and finds its variables itself
            program = replace(program, fn=self._notes.noting(program.fn))
        self._guard = None
        transforms = transforms_of(backend)
        self._takes_apart = transforms.takes_apart
        run = self._run = self._unchecked = transforms.jit(program)
        return run

    def _watch(self) -> None:
        """Remembers how the variables that were used in a trace are found."""
        used = self._notes.taken()
        guard = self._guard = Guard(self._roots, used)
        self._others = [each for each in self._others if each[1].variables == guard.variables]
        self._check()

    def _check(self) -> None:
        """Has each call checked from now on."""
        guard, run, me = self._guard, self._unchecked, ref(self)
        assert guard is not None, "the program was traced"
        assert run is not None, "the program was traced"

        def changed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            jit = me()
            assert jit is not None, "it is being called"
            return jit._renewed(args, kwargs)(args, kwargs)

        self._run = guard.checked(run, changed)

    def _renewed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        """Returns the program for the variables that the function finds now."""
        guard, run = self._guard, self._unchecked
        if guard is None or run is None:  # another thread is compiling
            return self._compiler(args, kwargs)
        if guard.still_holds():
            self._check()
            return run
        self._others = [(run, guard), *self._others]
        for number, (another, its_guard) in enumerate(self._others[1:], 1):
            if its_guard.still_holds():
                del self._others[number]
                self._unchecked, self._guard = another, its_guard
                self._check()
                return another
        del self._others[_OTHERS:]
        return self._compiler(args, kwargs)

    def _within_autocast(self, dtype: str | None) -> Jit[_P, _R]:
        """The function in an `autocast` scope with another dtype, in which it reads other values."""
        found = self._in_autocast.get(dtype)
        if found is None:
            found = Jit(self._program, self._backend)
            found._roots, found._cast_to = self._roots, dtype
            self._in_autocast[dtype] = found
        return found

    # -- objects with variables among the arguments ---------------------------------------------------------

    def _objects(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[_Place, Any]:
        """The objects that lead to variables, among the arguments and in their containers, by their places."""
        program = self._program
        nums = {n % len(args) for n in program.static_argnums if -len(args) <= n < len(args)} if args else set()
        found: dict[_Place, Any] = {}
        for name, each in (*enumerate(args), *kwargs.items()):
            if not _is_plain(each):
                static = name in nums or name in program.static_argnames
                found.update(self._objects_in(each, (name,), static=static))
        return found

    def _objects_in(self, argument: Any, place: _Place, *, static: bool) -> Iterator[tuple[_Place, Any]]:
        if isinstance(argument, list | tuple | dict):
            for key, each in argument.items() if isinstance(argument, dict) else enumerate(argument):
                if not _is_plain(each):
                    yield from self._objects_in(each, (*place, key), static=static)
        elif type(argument) not in _PLAIN and (static or not self._takes_apart(argument)) and _has_variables(argument):
            yield place, argument

    def _with_objects(self, objects: dict[_Place, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls the program for these objects, which are told apart by identity, as those of methods are."""
        key = tuple((place, id(each)) for place, each in objects.items())
        kept, found = self._for_objects.get(key, ((), None))
        if found is None or any(alive() is not each for alive, each in zip(kept, objects.values(), strict=True)):
            kept = tuple(_reference(each, lambda _: self._for_objects.pop(key, None)) for each in objects.values())
            found = self._partial(dict(zip(objects, kept, strict=True)), len(args))
            self._for_objects[key] = kept, found
        rest = [_without(each, (n,), objects) for n, each in enumerate(args) if (n,) not in objects]
        named = {name: _without(each, (name,), objects) for name, each in kwargs.items() if (name,) not in objects}
        return found(*rest, **named)

    def _partial(self, objects: dict[_Place, Any], count: int) -> Jit[Any, Any]:
        """The function with some arguments given, as references, and the others left."""
        program = self._program
        function = program.fn
        whole = {place[0]: each for place, each in objects.items() if len(place) == 1}
        parts = {place: each for place, each in objects.items() if len(place) > 1}

        @wraps(function)
        def fn(*rest: Any, **named: Any) -> Any:
            left = iter(rest)
            args: list[Any] = [whole[place]() if place in whole else next(left) for place in range(count)]
            names = {place: each() for place, each in whole.items() if isinstance(place, str)} | named
            for (place, *keys), each in parts.items():
                into: Any = args if isinstance(place, int) else names
                into[place] = _with_part(into[place], keys, each())
            return function(*args, **names)

        del fn.__wrapped__  # its signature has more arguments
        places = [place for place in range(count) if place not in whole]
        static = {n % count for n in program.static_argnums if -count <= n < count} if count else set()
        nums = tuple(number for number, place in enumerate(places) if place in static)
        names = tuple(name for name in program.static_argnames if name not in whole)
        found: Jit[Any, Any] = Jit(replace(program, fn=fn, static_argnums=nums, static_argnames=names), self._backend)
        found._roots = [*self._roots, *objects.values()]
        found._cast_to = self._cast_to
        return found

    # -- methods --------------------------------------------------------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> Self: ...

    @overload
    def __get__(self: Jit[Concatenate[Any, _Q], _R], instance: object, owner: type | None = None) -> Jit[_Q, _R]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        bound = self._bound.get(id(instance))
        if bound is None or bound._instance() is not instance:
            bound = self._bound[id(instance)] = self._bind(instance)
        return bound

    def _bind(self, instance: Any) -> Jit[Any, Any]:
        """Makes the method of an object, which is told apart by identity and is no argument of the program."""
        number, all_bound = id(instance), self._bound

        def forget(gone: ref[Any]) -> None:
            if (bound := all_bound.get(number)) is not None and bound._instance is gone:
                del all_bound[number]

        try:
            weak = ref(instance, forget)
        except TypeError:
            raise TypeError(
                describe(
                    "jit",
                    "a compiled method needs a weak reference to its object, which "
                    f"{type(instance).__name__} does not allow",
                    hint="add '__weakref__' to its __slots__, or compile a function of the variables",
                )
            ) from None
        program = self._program
        method = program.fn

        @wraps(method)
        def fn(*args: Any, **kwargs: Any) -> Any:
            if (living := weak()) is None:
                raise ReferenceError(
                    describe(
                        "jit",
                        f"the object of the compiled method {method.__name__} no longer exists",
                        hint="keep a reference to the object as long as you use its method",
                    )
                )
            return method(living, *args, **kwargs)

        nums = tuple(n - 1 if n > 0 else n for n in program.static_argnums if n != 0)
        bound: Jit[Any, Any] = Jit(replace(program, fn=fn, static_argnums=nums), self._backend)
        bound._owner, bound._instance, bound._roots = self, weak, [method, weak]
        return bound

    # -- copies ---------------------------------------------------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> Jit[_P, _R]:
        """Copies it with an object that contains it, so that a bound method of the copy is bound to the copy."""
        if self._owner is not None:
            found: Jit[_P, _R] = self._owner.__get__(deepcopy(self._instance(), memo))
            return found
        return Jit(replace(self._program, fn=deepcopy(self._program.fn, memo)), self._backend)

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickles it like a function: by its name or, in picklers that can do so, with its code. It compiles anew."""
        if self._owner is not None:
            return _bound_to, (self._owner, self._instance())
        if self._is_importable() and not (self.__module__ == "__main__" and _pickles_code()):
            return str(vars(self)["__qualname__"])
        return _compiled_anew, (self._program, self._backend)

    def _is_importable(self) -> bool:
        """Whether its name in its module stands for it, and not for something else."""
        found: Any = sys.modules.get(getattr(self, "__module__", None) or "")
        for name in getattr(self, "__qualname__", "<>").split("."):
            found = getattr(found, name, None)
        return found is self


#: Types of arguments that lead to no variables, or of which each library knows how to pass them.
_PLAIN: set[type] = {bool, int, float, complex, str, bytes, type(None), range, slice, frozenset, Variable}
_plain = _PLAIN.issuperset


def _is_plain(argument: Any) -> bool:
    """Whether an argument is of a plain type, or a container of such arguments."""
    cls = type(argument)
    if cls in _PLAIN:
        return True
    if cls is list or cls is tuple:
        return all(map(_is_plain, argument))
    return cls is dict and all(map(_is_plain, argument.values()))


def _without(argument: Any, place: _Place, objects: dict[_Place, Any]) -> Any:
    """An argument with None in place of each of the objects."""
    if place in objects:
        return None
    if _is_plain(argument) or not isinstance(argument, list | tuple | dict):
        return argument
    items = argument.items() if isinstance(argument, dict) else enumerate(argument)
    return like(argument, [_without(each, (*place, key), objects) for key, each in items])


def _with_part(argument: Any, keys: list[Any], part: Any) -> Any:
    """A container with another part at the end of a way."""
    if not keys:
        return part
    items = argument.items() if isinstance(argument, dict) else enumerate(argument)
    return like(argument, [_with_part(each, keys[1:], part) if key == keys[0] else each for key, each in items])


def _has_variables(argument: Any) -> bool:
    if isinstance(argument, Variable) or owner_of(argument) is not None:
        _PLAIN.add(type(argument))
        return False
    return next(reach([argument]).variables(), None) is not None


def _reference(each: Any, gone: Callable[[Any], object]) -> Callable[[], Any]:
    try:
        return ref(each, gone)
    except TypeError:  # then it lives as long as the program
        return lambda: each


class _Notes:
    """The variables that the traces of a program have used."""

    __slots__ = ("_roots", "_used", "_warned", "traced")

    def __init__(self, roots: list[Any]) -> None:
        self._used: list[ref[Variable]] = []  # weak, so that what the code has created can die
        self.traced = False  # whether there was another trace
        self._roots = roots
        self._warned = False  # that the code draws random numbers

    def noting(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which notes the variables that each trace of it uses."""

        @wraps(fn)
        def traced(*args: Any, **kwargs: Any) -> Any:
            generators = None if self._warned else Generators(self._roots)
            out = fn(*args, **kwargs)
            if generators is not None:
                self._warned = generators.warn_if_drawn(getattr(fn, "__name__", repr(fn)))
            overlay = overlays.current_values() if overlays.active else None
            if overlay is not None:
                self._used.extend(map(ref, getattr(overlay, "drafts", ())))
                self.traced = True
            return out

        return traced

    def taken(self) -> list[Variable]:
        """The variables of all traces."""
        self.traced = False
        used = {id(variable): variable for each in self._used if (variable := each()) is not None}
        self._used = list(map(ref, used.values()))
        return list(used.values())


def _no_instance() -> None:
    return None


def _no_object(argument: Any) -> bool:
    return False


def _bound_to(function: Jit[Any, Any], instance: Any) -> Any:
    bound = function._bind(instance)
    bound._kept = instance  # nothing else may refer to an object that was pickled with its method
    return bound


def _compiled_anew(program: Program, backend: str | None) -> Jit[Any, Any]:
    return Jit(program, backend)


def _pickles_code() -> bool:
    """Whether the pickler that is running stores the code of what stands in ``__main__``, as cloudpickle and dill do.

    The standard pickler calls the same method, and it can store only the name.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if "cloudpickle" in module or module.partition(".")[0] == "dill":
            return True
        frame = frame.f_back
    return False
