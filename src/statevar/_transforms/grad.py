"""Gradients of code that reads and writes variables."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar, overload

from .._arrays.backend import Backend
from .._arrays.dtypes import dtype_kind, is_differentiable
from .._arrays.registry import owner_of, transforms_of
from .._arrays.transforms import Tape
from .._arrays.trees import leaves, tree_map
from .._arrays.types import Array
from .._core import overlays
from .._core.convert import inferred_dtype, to_value
from .._core.variable import Variable
from .._public import public
from .._state.structure import Structure
from ..errors import DTypeError, ShapeError, TraceError, describe
from .draft import ValueDraft
from .lift import library_of, plain
from .overlay import ValueOverlay, keep_writes

__all__ = ["grad", "value_and_grad"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_ATTEMPTS = 20  # each finds at least one variable more


@overload
def value_and_grad(fn: Callable[_P, _R], *, has_aux: bool = False) -> Callable[_P, tuple[_R, dict[Variable, Any]]]: ...


@overload
def value_and_grad(
    fn: Callable[_P, _R], variables: Any = None, has_aux: bool = False, argnums: int | Sequence[int] | None = None
) -> Callable[_P, tuple[_R, Any]]: ...


@public()
def value_and_grad(
    fn: Callable[_P, Any], variables: Any = None, has_aux: bool = False, argnums: int | Sequence[int] | None = None
) -> Callable[_P, tuple[Any, Any]]:
    """Returns a function that computes the value of ``fn`` and its gradients, with respect to variables or arguments.

    Args:
        fn: returns a real scalar, computed by the library of the variables; it may read and write any variables.
        variables: a variable, a pytree of them, or an object that contains them. By default the trainable variables
            that ``fn`` reads; JAX then runs ``fn`` twice the first time, to find them.
        has_aux: ``fn`` returns ``(scalar, anything)``.
        argnums: the positions of arguments of ``fn``: arrays, numbers, variables, or pytrees of those. Then the
            gradients are those with respect to the arguments and, if there are ``variables`` too, to both.

    Returns:
        A function with the arguments of ``fn`` that returns ``(value, gradients)``, or
        ``((value, aux), gradients)``. The gradients have the structure of ``variables``; by default they are a dict by
        variable. They are zeros where the value does not depend on a variable. Complex gradients follow the library's
        own convention. With ``argnums`` they have the structure of the argument, or are a tuple with one for each; with
        both, they are ``(gradients of the variables, gradients of the arguments)``.

    Raises:
        DTypeError: one of ``variables`` has integers, booleans or strings, which have no gradient; on calling: one of
            the arguments has.
        DTypeError: on calling: ``fn`` returned an integer or a complex number.
        ShapeError: on calling: ``fn`` did not return a scalar.
        TraceError: on calling: the variables belong to several libraries.
        ValueError: one of ``variables`` is not trainable; on calling: ``fn`` has read no trainable variable, and there
            are no ``argnums``; or has no such argument.

    The writes of ``fn``, such as running statistics, are made once, when it has ended; an exception drops them. For a
    variable that is written after it was read, the gradient is that of the value that was read. Calls can be nested,
    for derivatives of higher order.

    Source: ``jax.value_and_grad``.

    >>> import jax.numpy as jnp
    >>> import statevar as sv
    >>> w, calls = sv.Variable(jnp.array([1.0, 2.0])), sv.Variable(0, backend="jax")
    >>> def loss(x):
    ...     calls.assign_add(1)
    ...     return ((w * x) ** 2).sum()
    >>> value, gradients = sv.value_and_grad(loss)(3.0)
    >>> float(value), gradients[w], int(calls)
    (45.0, Array([18., 36.], dtype=float32), 1)
    >>> sv.value_and_grad(lambda x: (w * x).sum(), w, argnums=0)(3.0)
    (Array(9., dtype=float32), (Array([3., 3.], dtype=float32), Array(3., dtype=float32)))
    """
    if not callable(fn):
        raise TypeError(describe("value_and_grad", f"expected a callable, got {type(fn).__name__}"))
    if argnums is not None:
        _positions(argnums)
    structure = None if variables is None else Structure("value_and_grad", variables)
    if structure is not None:
        for variable in structure.variables:
            _check_asked(variable)
    found: dict[Variable, None] = {}  # grows with the calls
    written: dict[Variable, None] = {}
    discovers = structure is None and argnums is None

    @wraps(fn)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> tuple[Any, Any]:
        chosen = None if argnums is None else _Arguments(fn, args, argnums)
        for _ in range(_ATTEMPTS):
            wanted = found if structure is None else dict.fromkeys(structure.variables)
            run = _Run(fn, args, kwargs, has_aux, wanted, written, chosen, discovers=discovers)
            value, gradients, of_arguments = run()
            if run.again:
                found.update(run.again)
                continue
            if chosen is None:
                return value, (structure.build(gradients.__getitem__) if structure is not None else gradients)
            built = chosen.built(of_arguments)
            return value, (built if structure is None else (structure.build(gradients.__getitem__), built))
        raise TraceError.of("value_and_grad", "each run of the function reads different variables")

    return wrapped


# `fn` has one type in all of them: else mypy cannot choose where a function returns Any, as most losses do.


@overload
def grad(fn: Callable[_P, Any], *, has_aux: Literal[False] = False) -> Callable[_P, dict[Variable, Any]]: ...


@overload
def grad(fn: Callable[_P, Any], *, has_aux: Literal[True]) -> Callable[_P, tuple[dict[Variable, Any], Any]]: ...


@overload
def grad(
    fn: Callable[_P, Any], variables: Any = None, *, has_aux: Literal[True], argnums: int | Sequence[int] | None = None
) -> Callable[_P, tuple[Any, Any]]: ...


@overload
def grad(
    fn: Callable[_P, Any], variables: Any = None, has_aux: bool = False, argnums: int | Sequence[int] | None = None
) -> Callable[_P, Any]: ...


@public()
def grad(
    fn: Callable[_P, Any], variables: Any = None, has_aux: bool = False, argnums: int | Sequence[int] | None = None
) -> Callable[_P, Any]:
    """Returns a function like that of `value_and_grad`, which returns only the gradients, or ``(gradients, aux)``.

    Source: ``jax.grad``.

    >>> import statevar as sv
    >>> w = sv.Variable([1.0, 2.0], backend="torch")
    >>> sv.grad(lambda: (w * w).sum(), w)()
    tensor([2., 4.])
    """
    both = value_and_grad(fn, variables, has_aux, argnums)

    @wraps(fn)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return wrapped


def _check_asked(variable: Variable) -> None:
    if not is_differentiable(variable.dtype_name):
        raise DTypeError.of("value_and_grad", f"{variable.dtype_name} has no gradients", variable.path)
    if not variable.trainable:
        raise ValueError(
            describe("value_and_grad", "the variable is not trainable", variable.path, "set v.trainable = True")
        )


def _positions(argnums: Any) -> tuple[list[int], bool]:
    """The positions of ``argnums``, and whether it is one number and no sequence."""
    try:
        if not isinstance(argnums, bool):
            if hasattr(argnums, "__index__") and not getattr(argnums, "ndim", 0):
                return [operator.index(argnums)], True
            return [operator.index(each) for each in argnums], False
    except TypeError:
        pass
    problem = f"expected a position or several as argnums, got {argnums!r}"
    raise TypeError(describe("value_and_grad", problem, hint="write for example argnums=0, or argnums=(0, 1)"))


class _Arguments:
    """The arguments of a call that gradients are wanted for."""

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], argnums: int | Sequence[int]) -> None:
        asked, self._one = _positions(argnums)
        if not all(-len(args) <= each < len(args) for each in asked):
            problem = f"expected argnums of the {len(args)} positional arguments, got {argnums!r}"
            raise ValueError(describe("value_and_grad", problem, hint="pass the argument by its position"))
        self._numbers = [each % len(args) for each in asked]
        if len(set(self._numbers)) < len(asked):
            raise ValueError(describe("value_and_grad", f"argnums names an argument twice: {argnums!r}"))
        self._args = args
        chosen = [args[number] for number in self._numbers]
        self.backend = library_of(chosen, fn)
        self.values = [self._array(each) for each in leaves(chosen)]

    def _array(self, leaf: Any) -> Array:
        value, backend = plain(leaf), self.backend
        owner = owner_of(value)
        if owner is not backend:
            if not isinstance(value, complex | float | int) and (owner is None or not owner.is_host):
                problem = f"expected arrays of {backend.name} or numbers in argnums, got {type(value).__name__}"
                raise TypeError(describe("value_and_grad", problem))
            name = inferred_dtype(value, "value_and_grad", "")
            value = to_value(value, backend, name, operation="value_and_grad", path="")
        if not is_differentiable(name := backend.dtype_name(value)):
            raise DTypeError.of("value_and_grad", f"{name} has no gradients", hint="pass floats in argnums")
        return value

    def replaced(self, values: Sequence[Array]) -> tuple[Any, ...]:
        """All arguments of the call, with other arrays in place of the chosen ones."""
        rest, args = iter(values), list(self._args)
        for number in self._numbers:
            args[number] = tree_map(lambda _: next(rest), self._args[number])
        return tuple(args)

    def built(self, gradients: Sequence[Array]) -> Any:
        """The gradients in the structure of the arguments."""
        rest = iter(gradients)
        found = tuple(tree_map(lambda _: next(rest), self._args[number]) for number in self._numbers)
        return found[0] if self._one else found


class _Recording(ValueOverlay):
    """An overlay in which the variables that gradients are wanted for have values that the library's tape watches."""

    __slots__ = ("_discovers", "_opened_for", "_wanted", "backend", "leaves", "misses", "tape", "used_views")

    under_own_trace = True

    def __init__(self, values: Iterable[tuple[Variable, Any]], wanted: dict[Variable, None], discovers: bool) -> None:
        super().__init__("value_and_grad", values)
        self.leaves: dict[Variable, Array] = {}
        self.misses: dict[Variable, None] = {}
        self.tape: Tape | None = None
        self.backend: Backend | None = None
        self._opened_for: Backend | None = None
        self._wanted = wanted
        self._discovers = discovers
        self.used_views: set[Variable] = set()

    def read(self, variable: Any) -> ValueDraft:
        if variable._backend.is_view:
            self.used_views.add(variable)
        return super().read(variable)

    def write(self, variable: Any) -> ValueDraft:
        if variable._backend.is_view:
            self.used_views.add(variable)
        return super().write(variable)

    def check_views(self) -> None:
        """Raises TraceError if a view had a value of its own here, and nothing has used it.

        For a library without tapes: its own code computes with what the object of the view has, which is a constant.
        """
        for variable in self._wanted:
            if variable._backend.is_view and variable not in self.used_views:
                problem = "the function has not read the view, and statevar cannot see what other code computes with"
                hint = (
                    f"compute with v.value in the function, or take the gradient by {variable.backend}'s own functions"
                )
                raise TraceError.of("value_and_grad", problem, variable.path, hint)

    def given(self, variable: Variable, value: Array) -> Array:
        if variable not in self._wanted and not (self._discovers and variable.trainable):
            return value
        backend = variable._backend.native
        _one_library(self.backend, variable)
        self.backend = backend
        transforms = transforms_of(backend)
        if not transforms.tapes:
            self.misses[variable] = None
            return value
        if self._opened_for is not backend:
            open_tapes(self.outer, backend)
            self.open_tape(backend)
        assert self.tape is not None
        if variable._backend.is_view and self._has_own_value(variable):
            thing = self.tape.watch_object(variable._backend.parameter(variable._handle))
            if thing is not None:  # code of the library computes with it, and not with a value that it gets from us
                self.leaves[variable] = thing
                return backend.copied(thing)
        leaf = self.leaves[variable] = self.tape.watch(value)
        return leaf

    def _has_own_value(self, variable: Variable) -> bool:
        """Whether no code has written the variable in this overlay or in one around it."""
        overlay: Any = self
        while isinstance(overlay, ValueOverlay):
            if variable in overlay.written:
                return False
            overlay = overlay.outer
        return overlay is None or not overlay.has_written(variable)

    def on_create(self, variable: Variable, value: Array | None) -> None:
        super().on_create(variable, value)
        if value is not None and transforms_of(variable._backend).tapes:
            self.written[variable] = None  # only this overlay has its first value

    def open_tape(self, backend: Backend) -> None:
        """Creates the tape, if gradients of variables of this library may be wanted."""
        first = next(iter(self._wanted), None)
        expected = self.backend or (first._backend.native if first is not None else backend)
        if expected is not backend or self._opened_for is backend:
            return
        if self.tape is not None:  # created on a guess, for another library
            self.tape.close()
        self.tape = transforms_of(backend).tape()
        self._opened_for = backend


def open_tapes(overlay: Any, backend: Backend) -> None:
    """Creates the tapes that record in an overlay and in those around it, from the outermost to the innermost.

    A tape may be created late, at the first read that it must record. But a library takes the tape that was created
    first for the outer one, and would lose the part of an outer gradient that goes through the inner tape.
    """
    if isinstance(overlay, ValueOverlay):
        open_tapes(overlay.outer, backend)
        if isinstance(overlay, _Recording):
            overlay.open_tape(backend)
    else:
        overlay = None
    for tape in overlays.tapes():
        if tape.around is overlay:
            tape.open_tape(backend)


def _one_library(backend: Backend | None, variable: Variable) -> None:
    if backend is not None and backend is not variable._backend.native:
        raise TraceError.of(
            "value_and_grad",
            f"expected variables of one library, got variables of {backend.name} and {variable.backend}",
            variable.path,
            "list the variables of one library only",
        )


def _placed(variable: Variable, gradient: Array) -> tuple[Variable, Array]:
    """A variable and its gradient, which is spread as the variable is, also if it does not depend on the value."""
    backend: Any = variable._backend
    return variable, backend.pinned(gradient, variable._sharding) if backend.is_sharded else gradient


class _Run:
    """One call of a function with its gradients."""

    def __init__(
        self,
        fn: Callable[..., Any],
        args: Any,
        kwargs: Any,
        has_aux: bool,
        wanted: dict[Variable, None],
        written: dict[Variable, None],
        chosen: _Arguments | None,
        *,
        discovers: bool,
    ) -> None:
        self._fn, self._args, self._kwargs = fn, args, kwargs
        self._chosen = chosen
        self._has_aux = has_aux
        self._wanted = wanted
        self._written = written
        self._discovers = discovers
        self.again: dict[Variable, None] = {}

    def _call(self, values: Sequence[Array]) -> Any:
        args = self._args if self._chosen is None else self._chosen.replaced(values)
        return self._fn(*args, **self._kwargs)

    def __call__(self) -> tuple[Any, dict[Variable, Array], Sequence[Array]]:
        """The value, the gradients of the variables, and those of the arguments."""
        for variable, other in zip(self._wanted, list(self._wanted)[1:], strict=False):
            _one_library(variable._backend.native, other)
        first = next(iter(self._wanted), None)
        if self._chosen is not None and first is not None:
            _one_library(self._chosen.backend, first)
        backend = None if first is None else first._backend.native
        if self._chosen is not None:
            backend = self._chosen.backend
        by_function = backend is not None and not transforms_of(backend).tapes
        return keep_writes("value_and_grad", self._by_function if by_function else self._by_tape, self._written)

    def _by_tape(self, base: ValueOverlay) -> tuple[Any, dict[Variable, Array], Sequence[Array]]:
        frame = _Recording((), self._wanted, self._discovers)
        given: list[Array] = []
        try:
            with frame:
                if self._chosen is not None:
                    frame.backend = self._chosen.backend
                    open_tapes(frame, frame.backend)
                    assert frame.tape is not None, "it was opened"
                    given = [frame.tape.watch(value) for value in self._chosen.values]
                elif self._wanted:
                    open_tapes(frame, next(iter(self._wanted))._backend.native)
                loss, aux = self._split(self._call(given))
                for variable in self._wanted:
                    frame.read(variable)
            if frame.misses:
                self.again = frame.misses
                return None, {}, ()
            if self._discovers and not frame.leaves:
                raise ValueError(
                    describe(
                        "value_and_grad",
                        "no trainable variable was read",
                        hint="read variables in the function; or pass argnums=0 for the gradient of its argument",
                    )
                )
            self._remember(frame)
            tape = frame.tape
            gradients: dict[Variable, Array] = {}
            if tape is not None:
                variables = list(frame.leaves)
                found = tape.gradients(loss, [*(frame.leaves[each] for each in variables), *given], keep=False)
                gradients = dict(zip(variables, found, strict=False))
                given = found[len(variables) :]
                loss = tape.concrete(loss)
                aux = tree_map(lambda leaf: tape.concrete(leaf) if owner_of(leaf) is frame.backend else leaf, aux)
            for variable in frame.written:
                value = frame.drafts[variable]._snapshot
                base.take_over(variable, value if tape is None else tape.concrete(value))
            return ((loss, aux) if self._has_aux else loss), gradients, given
        finally:
            if frame.tape is not None:
                frame.tape.close()

    def _by_function(self, base: ValueOverlay) -> tuple[Any, dict[Variable, Array], Sequence[Array]]:
        wanted, count = list(self._wanted), len(self._wanted)
        frames: list[_Recording] = []

        def pure(values: list[Array]) -> tuple[Array, Any]:
            frame = _Recording(zip(wanted, values, strict=False), self._wanted, self._discovers)
            frames.append(frame)
            with frame:
                loss, aux = self._split(self._call(values[count:]))
                frame.check_views()
                news = list(frame.values(frame.written))
            frame.drafts.clear()  # traced values, which JAX would report as leaked if they outlived the trace
            return loss, (aux, news)

        values = [base.read(variable)._stored() for variable in wanted]
        backend = self._chosen.backend if self._chosen is not None else wanted[0]._backend.native
        given = [] if self._chosen is None else self._chosen.values
        (loss, (aux, news)), gradients = transforms_of(backend).value_and_grad(pure, [*values, *given])
        frame = frames[-1]
        if frame.misses:
            self.again = frame.misses
            return None, {}, ()
        self._remember(frame)
        for variable, new in zip(frame.written, news, strict=True):
            base.take_over(variable, new)
        value = (loss, aux) if self._has_aux else loss
        return value, dict(map(_placed, wanted, gradients)), gradients[count:]

    def _remember(self, frame: _Recording) -> None:
        """Remembers the variables that the function writes but does not create, so that the next call reserves them."""
        made = {id(variable) for variable in frame.created_here()}
        self._written.update((variable, None) for variable in frame.written if id(variable) not in made)

    def _split(self, out: Any) -> tuple[Any, Any]:
        if self._has_aux:
            if not isinstance(out, tuple) or len(out) != 2:
                raise TypeError(
                    describe("value_and_grad", f"with has_aux=True, expected (scalar, aux), got {type(out).__name__}")
                )
            loss, aux = out
        else:
            loss, aux = out, None
        if isinstance(loss, Variable):
            loss = loss.value
        shape, owner = getattr(loss, "shape", None), owner_of(loss)
        if shape is None or owner is None:
            problem, hint = f"expected the function to return a scalar array, got {type(loss).__name__}", ""
            if loss is None:
                hint = "return the loss"
            elif isinstance(loss, tuple):
                hint = "return (loss, the rest), and pass has_aux=True"
            raise ShapeError.of("value_and_grad", problem, hint=hint)
        if tuple(shape) != ():
            problem = f"expected the function to return a scalar array, got one of shape {tuple(shape)}"
            raise ShapeError.of("value_and_grad", problem, hint="sum or average it")
        if dtype_kind(name := owner.dtype_name(loss)) != "float":
            hint = "take its absolute value or its real part" if name.startswith("complex") else "compute it as a float"
            problem = f"expected the function to return a real number, got {name}"
            raise DTypeError.of("value_and_grad", problem, hint=hint)
        return loss, aux
