"""Gradients of code that reads and writes variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from .._arrays.backend import Backend
from .._arrays.dtypes import is_differentiable
from .._arrays.registry import owner_of, transforms_of
from .._arrays.transforms import Tape
from .._arrays.trees import tree_map
from .._arrays.types import Array
from .._core import overlays
from .._core.variable import Variable
from .._public import public
from .._state.structure import Structure
from ..errors import DTypeError, ShapeError, TraceError, describe
from .overlay import ValueOverlay, keep_writes

__all__ = ["grad", "value_and_grad"]

_ATTEMPTS = 20  # each finds at least one variable more


@public()
def value_and_grad(
    fn: Callable[..., Any], variables: Any = None, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """Returns a function that computes the value of ``fn`` and its gradients with respect to variables.

    Args:
        fn: returns a real scalar, computed by the library of the variables; it may read and write any variables.
        variables: a variable, a pytree of them, or an object that contains them. By default the trainable variables
            that ``fn`` reads; JAX then runs ``fn`` twice the first time, to find them.
        has_aux: ``fn`` returns ``(scalar, anything)``.

    Returns:
        A function with the arguments of ``fn`` that returns ``(value, gradients)``, or
        ``((value, aux), gradients)``. The gradients have the structure of ``variables``; by default they are a dict by
        variable. They are zeros where the value does not depend on a variable. Complex gradients follow the library's
        own convention.

    Raises:
        DTypeError: one of ``variables`` has integers, booleans or strings, which have no gradient.
        ShapeError: on calling: ``fn`` did not return a scalar.
        TraceError: on calling: the variables belong to several libraries.
        ValueError: one of ``variables`` is not trainable.

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
    """
    structure = None if variables is None else Structure("value_and_grad", variables)
    if structure is not None:
        for variable in structure.variables:
            _check_asked(variable)
    found: dict[Variable, None] = {}  # grows with the calls
    written: dict[Variable, None] = {}

    @wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        for _ in range(_ATTEMPTS):
            wanted = found if structure is None else dict.fromkeys(structure.variables)
            run = _Run(fn, args, kwargs, has_aux, wanted, written, discovers=structure is None)
            value, gradients = run()
            if run.again:
                found.update(run.again)
                continue
            return value, (structure.build(gradients.__getitem__) if structure is not None else gradients)
        raise TraceError.of("value_and_grad", "each run of the function reads different variables")

    return wrapped


@public()
def grad(fn: Callable[..., Any], variables: Any = None, has_aux: bool = False) -> Callable[..., Any]:
    """Returns a function like that of `value_and_grad`, which returns only the gradients, or ``(gradients, aux)``.

    Source: ``jax.grad``.

    >>> import statevar as sv
    >>> w = sv.Variable([1.0, 2.0], backend="torch")
    >>> sv.grad(lambda: (w * w).sum(), w)()
    tensor([2., 4.])
    """
    both = value_and_grad(fn, variables, has_aux)

    @wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
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


class _Recording(ValueOverlay):
    """An overlay in which the variables that gradients are wanted for have values that the library's tape watches."""

    __slots__ = ("_discovers", "_opened_for", "_wanted", "backend", "leaves", "misses", "tape")

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

    def given(self, variable: Variable, value: Array) -> Array:
        if variable not in self._wanted and not (self._discovers and variable.trainable):
            return value
        backend = variable._backend
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
        leaf = self.leaves[variable] = self.tape.watch(value)
        return leaf

    def on_create(self, variable: Variable, value: Array | None) -> None:
        super().on_create(variable, value)
        if value is not None and transforms_of(variable._backend).tapes:
            self.written[variable] = None  # only this overlay has its first value

    def open_tape(self, backend: Backend) -> None:
        """Creates the tape, if gradients of variables of this library may be wanted."""
        first = next(iter(self._wanted), None)
        expected = self.backend or (first._backend if first is not None else backend)
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
    if backend is not None and backend is not variable._backend:
        raise TraceError.of(
            "value_and_grad",
            f"expected variables of one library, got variables of {backend.name} and {variable.backend}",
            variable.path,
            "list the variables of one library only",
        )


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
        *,
        discovers: bool,
    ) -> None:
        self._call: Callable[[], Any] = lambda: fn(*args, **kwargs)
        self._has_aux = has_aux
        self._wanted = wanted
        self._written = written
        self._discovers = discovers
        self.again: dict[Variable, None] = {}

    def __call__(self) -> tuple[Any, dict[Variable, Array]]:
        for variable, other in zip(self._wanted, list(self._wanted)[1:], strict=False):
            _one_library(variable._backend, other)
        first = next(iter(self._wanted), None)
        by_function = first is not None and not transforms_of(first._backend).tapes
        return keep_writes("value_and_grad", self._by_function if by_function else self._by_tape, self._written)

    def _by_tape(self, base: ValueOverlay) -> tuple[Any, dict[Variable, Array]]:
        frame = _Recording((), self._wanted, self._discovers)
        try:
            with frame:
                if self._wanted:
                    open_tapes(frame, next(iter(self._wanted))._backend)
                loss, aux = self._split(self._call())
                for variable in self._wanted:
                    frame.read(variable)
            if frame.misses:
                self.again = frame.misses
                return None, {}
            self._remember(frame)
            tape = frame.tape
            if tape is None:  # no trainable variable was read
                gradients: dict[Variable, Array] = {}
            else:
                leaves = list(frame.leaves)
                found = tape.gradients(loss, [frame.leaves[each] for each in leaves], keep=False)
                gradients = dict(zip(leaves, found, strict=True))
                loss = tape.concrete(loss)
                aux = tree_map(lambda leaf: tape.concrete(leaf) if owner_of(leaf) is frame.backend else leaf, aux)
            for variable in frame.written:
                value = frame.drafts[variable]._snapshot
                base.take_over(variable, value if tape is None else tape.concrete(value))
            return ((loss, aux) if self._has_aux else loss), gradients
        finally:
            if frame.tape is not None:
                frame.tape.close()

    def _by_function(self, base: ValueOverlay) -> tuple[Any, dict[Variable, Array]]:
        wanted = list(self._wanted)
        frames: list[_Recording] = []

        def pure(values: list[Array]) -> tuple[Array, Any]:
            frame = _Recording(zip(wanted, values, strict=True), self._wanted, self._discovers)
            frames.append(frame)
            with frame:
                loss, aux = self._split(self._call())
                news = list(frame.values(frame.written))
            frame.drafts.clear()  # traced values, which JAX would report as leaked if they outlived the trace
            return loss, (aux, news)

        values = [base.read(variable)._stored() for variable in wanted]
        (loss, (aux, news)), gradients = transforms_of(wanted[0]._backend).value_and_grad(pure, values)
        frame = frames[-1]
        if frame.misses:
            self.again = frame.misses
            return None, {}
        self._remember(frame)
        for variable, new in zip(frame.written, news, strict=True):
            base.take_over(variable, new)
        return ((loss, aux) if self._has_aux else loss), dict(zip(wanted, gradients, strict=True))

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
        shape = getattr(loss, "shape", None)
        if shape is None or tuple(shape) != ():
            raise ShapeError.of(
                "value_and_grad",
                f"expected the function to return a scalar array, got {type(loss).__name__} of shape {shape}",
                hint="sum or average it",
            )
        return loss, aux
