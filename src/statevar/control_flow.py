"""Loops, branches and maps over code that reads and writes variables, the same on every library.

On JAX, and where a library traces, they are the library's own, with the variables among the values that go through
them. Elsewhere they are Python's. Either way what the code writes is kept once it has ended, all of it or, on an
exception, nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from ._functional import Functional, Lifted, PureDraft, keep_writes
from ._registry import default_backend, owner_of
from ._trees import leaves, tree_map
from ._variable import Variable
from .compilation import backend_of
from .errors import ShapeError, TraceError, UninitializedError, describe

if TYPE_CHECKING:
    from ._backend import Array, Backend
    from ._transforms import Transforms

__all__ = ["cond", "fori_loop", "remat", "scan", "vmap", "while_loop"]

_ATTEMPTS = 20


# -- what they share ------------------------------------------------------------------------------------------


def _library(nest: Any, *functions: Callable[..., Any]) -> Backend:
    """Whose arrays these are; else whose variables the functions can reach; else NumPy."""
    owners = [owner for each in leaves(nest) if (owner := owner_of(_plain(each))) is not None]
    return next((each for each in owners if not each.is_host), None) or _reached(owners, functions)


def _reached(owners: list[Backend], functions: Iterable[Callable[..., Any]]) -> Backend:
    found = [backend_of(each, (), {}) for each in functions]
    return next((each for each in found if not each.is_host), owners[0] if owners else default_backend())


def _plain(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, Variable) else leaf


class _Lift:
    """Makes pure functions of code, with the values of the variables that it writes going in and coming out."""

    def __init__(self, what: str, base: Functional, written: Iterable[Variable]) -> None:
        self._what = what
        self._base = base
        self.written = list(dict.fromkeys(written))

    def values(self) -> list[Array]:
        """What goes in. Nobody else writes the variables from now on."""
        self._base.reserve(self.written)
        return [self._value(variable) for variable in self.written]

    def _value(self, variable: Variable) -> Array:
        value = self._base.read(variable)._snapshot
        if value is None:
            raise UninitializedError(
                describe(self._what, "the variable has no value to begin with", variable.path, "assign one first")
            )
        return value

    def run(self, values: Iterable[Array], fn: Callable[..., Any], *args: Any) -> tuple[Any, list[Array]]:
        """``fn(*args)`` with these values of the variables; the result, and their new values."""
        frame = Lifted(self._what, zip(self.written, values, strict=True))
        with frame:
            out = tree_map(_plain, fn(*args))
            new = list(frame.values(self.written))
        known = dict.fromkeys(self.written)
        for variable in frame.written:
            if variable not in known:
                raise TraceError(
                    describe(self._what, "the code writes other variables each time it is traced", variable.path)
                )
        return out, new

    def keep(self, values: Iterable[Array]) -> None:
        """What came out."""
        for variable, value in zip(self.written, values, strict=True):
            self._base.take_over(variable, value)


def _written(what: str, transforms: Transforms, *calls: tuple[Any, ...]) -> dict[Variable, None]:
    """The variables that some functions write; nothing is computed."""
    found: dict[Variable, None] = {}

    def probe(fn: Callable[..., Any]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            frame = Lifted(what)
            with frame:
                fn(*args)
            found.update(frame.written)

        return run

    for fn, *args in calls:
        transforms.written_by(probe(fn), *args)
    return found


# -- scan -------------------------------------------------------------------------------------------------------


def scan(
    body: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """Calls ``carry, y = body(carry, x)`` for each ``x`` along the first axis, and stacks what comes out.

    Args:
        body: keeps the structure, shapes and dtypes of ``carry``; may read and write variables.
        init: the first carry: an array, or a nest (tuple, list, dict) of arrays.
        xs: arrays of shape ``(length, …)``, or a nest of them; None calls ``body`` with None.
        length: how many times; needed without ``xs``.
        reverse: from the last to the first.

    Returns:
        The last carry, and the ``y`` of every step, stacked along a new first axis.

    Raises:
        ShapeError: the arrays in ``xs`` have different lengths, or there is no length.

    Source: ``jax.lax.scan``.

    >>> import numpy as np
    >>> import statevar as sv
    >>> total = sv.Variable(0.0)
    >>> def body(carry, x):
    ...     total.assign_add(x)
    ...     return carry + 1, carry * x
    >>> sv.scan(body, 0, np.array([1.0, 2.0, 3.0])), float(total)
    ((3, array([0., 2., 6.])), 6.0)
    """
    count = _length(xs, length)
    backend = _library((init, xs), body)
    transforms = backend.transforms()

    def run(base: Functional) -> tuple[Any, Any]:
        if not transforms.lifts((init, xs)):
            return _scan_in_python(body, init, xs, count, reverse, transforms)
        lift = _Lift("scan", base, _written("scan", transforms, (body, init, tree_map(_row, xs))))

        def pure(carry: Any, x: Any) -> tuple[Any, Any]:
            (out, y), new = lift.run(carry[1], body, carry[0], x)
            return (out, new), y

        (carry, new), ys = transforms.scan(pure, (init, lift.values()), xs, count, reverse=reverse)
        if count:
            lift.keep(new)
        return carry, ys

    return keep_writes("scan", run, {})


def _row(x: Any) -> Any:
    """An ``x`` as the body gets it, also where there is none."""
    if x.shape[0]:
        return x[0]
    owner = owner_of(x)
    assert owner is not None, "it has a shape"
    return owner.cast(owner.namespace().sum(x, axis=0), x.dtype)


def _length(xs: Any, length: int | None) -> int:
    lengths = {int(each.shape[0]) if len(each.shape) else -1 for each in leaves(xs)} | (
        {length} if length is not None else set()
    )
    if len(lengths) != 1 or -1 in lengths:
        raise ShapeError(
            describe(
                "scan",
                f"expected arrays of one length along their first axis, got {sorted(lengths)}",
                hint="pass xs, or length",
            )
        )
    return lengths.pop()


def _scan_in_python(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, count: int, reverse: bool, transforms: Transforms
) -> tuple[Any, Any]:
    found = []
    for i in reversed(range(count)) if reverse else range(count):
        carry, y = body(carry, tree_map(lambda x, i=i: x[i], xs))
        found.append(tree_map(_plain, y))
    if reverse:
        found.reverse()
    if found:
        return carry, tree_map(lambda *each: transforms.stack(each), *found)
    # Once on zeros, and without its writes, to see what a step would have given.
    with Functional("scan"):
        _, y = body(carry, tree_map(_row, xs))
    return carry, tree_map(lambda each: transforms.stack([each])[:0], tree_map(_plain, y))


# -- branches -----------------------------------------------------------------------------------------------------


def cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """``true_fn(*operands)`` if ``pred`` holds, else ``false_fn(*operands)``. Both return the same structure.

    Source: ``jax.lax.cond``.

    >>> import statevar as sv
    >>> v = sv.Variable(-2.0, backend="torch", trainable=False)
    >>> sv.cond(v.value < 0, lambda: v.assign(-v.value).value, lambda: v.value)
    tensor(2.)
    """
    pred = _plain(pred)
    backend = _library((pred, operands), true_fn, false_fn)
    transforms = backend.transforms()

    def run(base: Functional) -> Any:
        if not transforms.lifts((pred, operands)):
            return tree_map(_plain, (true_fn if bool(pred) else false_fn)(*operands))
        written = _written("cond", transforms, (true_fn, *operands), (false_fn, *operands))
        lift = _Lift("cond", base, written)

        def lifted(fn: Callable[..., Any]) -> Callable[..., Any]:
            return lambda values, operands: lift.run(values, fn, *operands)

        out, new = transforms.cond(pred, lifted(true_fn), lifted(false_fn), (lift.values(), operands))
        lift.keep(new)
        return out

    return keep_writes("cond", run, {})


# -- loops ----------------------------------------------------------------------------------------------------------


def while_loop(cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init: Any) -> Any:
    """``carry = body_fun(carry)`` as long as ``cond_fun(carry)`` holds; either may read variables.

    Raises:
        TraceError: ``cond_fun`` writes a variable.

    Source: ``jax.lax.while_loop``.

    >>> import jax.numpy as jnp
    >>> import statevar as sv
    >>> v = sv.Variable(jnp.array(1))
    >>> sv.while_loop(lambda i: v.value < 100, lambda i: (v.assign(v.value * 2), i + 1)[1], 0), int(v)
    (Array(7, dtype=int32, weak_type=True), 128)
    """
    backend = _library(init, body_fun, cond_fun)
    transforms = backend.transforms()

    def run(base: Functional) -> Any:
        if not transforms.lifts(init):
            carry = init
            while _holds(cond_fun, carry):
                carry = tree_map(_plain, body_fun(carry))
            return carry
        lift = _Lift("while_loop", base, _written("while_loop", transforms, (body_fun, init)))

        def condition(carry: Any) -> Any:
            with Lifted("the condition of while_loop", zip(lift.written, carry[1], strict=True), only=()):
                return _plain(cond_fun(carry[0]))

        carry, new = transforms.while_loop(
            condition, lambda carry: lift.run(carry[1], body_fun, carry[0]), (init, lift.values())
        )
        lift.keep(new)
        return carry

    return keep_writes("while_loop", run, {})


def _holds(cond_fun: Callable[[Any], Any], carry: Any) -> bool:
    with Functional("the condition of while_loop", only=()):
        return bool(_plain(cond_fun(carry)))


def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init: Any) -> Any:
    """``carry = body_fun(i, carry)`` for each ``i`` from ``lower`` up to, but without, ``upper``.

    Source: ``jax.lax.fori_loop``.

    >>> import statevar as sv
    >>> v = sv.Variable(0)
    >>> sv.fori_loop(1, 5, lambda i, carry: carry + v.assign_add(i).value, 0), int(v)
    (np.int32(20), 10)
    """
    if isinstance(lower, int) and isinstance(upper, int):
        backend = _library(init, body_fun)
        transforms = backend.transforms()
        if transforms.lifts(init) and upper - lower > transforms.unrolls:
            # A scan has a gradient, and a while loop has none.
            numbers = backend.namespace().arange(lower, max(lower, upper))
            return scan(lambda carry, i: (body_fun(i, carry), None), init, numbers)[0]
        return keep_writes("fori_loop", lambda _: _count(lower, upper, body_fun, init), {})

    def step(carry: Any) -> Any:
        i, inner = carry
        return i + 1, body_fun(i, inner)

    return while_loop(lambda carry: carry[0] < upper, step, (lower, init))[1]


def _count(lower: int, upper: int, body_fun: Callable[[Any, Any], Any], carry: Any) -> Any:
    for i in range(lower, upper):
        carry = tree_map(_plain, body_fun(i, carry))
    return carry


# -- maps -----------------------------------------------------------------------------------------------------------


def vmap(
    fn: Callable[..., Any],
    in_axes: Any = 0,
    out_axes: int = 0,
    axis_size: int | None = None,
    variable_axes: Mapping[Variable, int] | None = None,
) -> Callable[..., Any]:
    """Maps a function of one example over an axis of its arguments, and of variables.

    Args:
        fn: may read and write variables.
        in_axes: the axis of the arguments: an int or None for all, or one for each argument. None: the same for all
            examples.
        out_axes: the axis of the results along which the examples lie.
        axis_size: how many examples; needed if nothing is mapped.
        variable_axes: variables that have an element for each example along an axis: each example reads and writes
            its own. Other variables are the same for all, and so must be what is written to them.

    Raises:
        ShapeError: on calling: the sizes of the axes differ, or there is none.
        TraceError: on calling: examples write different values to a variable that is not in ``variable_axes``.

    Source: ``jax.vmap``.

    >>> import numpy as np
    >>> import statevar as sv
    >>> state = sv.Variable([1.0, 2.0])
    >>> step = sv.vmap(lambda x: state.assign_add(x).value * 10, variable_axes={state: 0})
    >>> step(np.array([1.0, 1.0], np.float32)), state.value
    (array([20., 30.], dtype=float32), array([2., 3.], dtype=float32))
    """
    axes = dict(variable_axes or {})

    @wraps(fn)
    def mapped(*args: Any) -> Any:
        each_axis = tuple(in_axes) if isinstance(in_axes, list | tuple) else (in_axes,) * len(args)
        if len(each_axis) != len(args):
            raise ValueError(describe("vmap", f"expected {len(each_axis)} arguments, as in in_axes, got {len(args)}"))
        backend = next(iter(axes))._backend if axes else _library(args, fn)
        transforms = backend.transforms()

        def run(base: Functional) -> Any:
            size = _axis_size(args, each_axis, axes, axis_size)
            mapping = _Mapping(fn, args, each_axis, out_axes, size, axes, base, transforms)
            return mapping.lifted() if transforms.lifts(args) else mapping.in_python()

        return keep_writes("vmap", run, {})

    return mapped


def _axis_size(args: tuple[Any, ...], in_axes: tuple[Any, ...], axes: dict[Variable, int], size: int | None) -> int:
    sizes = {
        int(leaf.shape[axis])
        for arg, axis in zip(args, in_axes, strict=True)
        if axis is not None
        for leaf in leaves(arg)
    }
    sizes |= {variable.shape[axis] for variable, axis in axes.items()}
    sizes |= {size} if size is not None else set()
    if len(sizes) != 1:
        raise ShapeError(
            describe("vmap", f"expected one size for all mapped axes, got {sorted(sizes)}", hint="pass axis_size")
        )
    return sizes.pop()


@dataclass(frozen=True)
class _Mapping:
    """One call of a mapped function."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    in_axes: tuple[Any, ...]
    out_axes: int
    size: int
    axes: dict[Variable, int]
    base: Functional
    transforms: Transforms

    def lifted(self) -> Any:
        """By the library's own map."""
        mapped, axes, base, transforms = list(self.axes), self.axes, self.base, self.transforms
        values = [base.read(variable)._snapshot for variable in mapped]
        where = ([axes[variable] for variable in mapped], *self.in_axes)
        written: list[Variable] = []

        def pure(values: list[Array], *args: Any) -> tuple[Any, list[Array]]:
            frame = _Example("vmap", zip(mapped, values, strict=True))
            with frame:
                out = tree_map(_plain, self.fn(*args))
                written[:] = frame.written
                return out, list(frame.values(frame.written))

        transforms.written_by(transforms.vmap(pure, where, 0, self.size), values, *self.args)
        outs = (self.out_axes, [axes.get(variable) for variable in written])
        try:
            out, new = transforms.vmap(pure, where, outs, self.size)(values, *self.args)
        except ValueError as error:
            if "out_axes" not in str(error) and "axis spec" not in str(error):
                raise
            raise _differs([each for each in written if each not in axes]) from error
        for variable, value in zip(written, new, strict=True):
            base.take_over(variable, value)
        return out

    def in_python(self) -> Any:
        """One example after the other, each beginning with what is outside."""
        axes, base, transforms = self.axes, self.base, self.transforms
        found, frames = [], []
        for i in range(self.size):
            part = [
                arg if axis is None else tree_map(lambda leaf, axis=axis, i=i: _take(leaf, i, axis), arg)
                for arg, axis in zip(self.args, self.in_axes, strict=True)
            ]
            seeds = [(variable, _take(base.read(variable)._snapshot, i, axis)) for variable, axis in axes.items()]
            frame = _Example("vmap", seeds)
            with frame:
                found.append(tree_map(_plain, self.fn(*part)))
            frames.append(frame)
        for variable in dict.fromkeys(each for frame in frames for each in frame.written):
            values = [frame.drafts[variable]._snapshot if variable in frame.drafts else None for frame in frames]
            if variable in axes:
                base.take_over(variable, transforms.stack(values, axes[variable]))
            elif any(variable not in frame.written for frame in frames) or not _equal(variable, values):
                raise _differs([variable])
            else:
                base.take_over(variable, values[0])
        return tree_map(lambda *each: transforms.stack(each, self.out_axes), *found)


class _Example(Lifted):
    """The variables of one example; those that are mapped have its part of the value, whatever is declared."""

    __slots__ = ()

    def declare(self, draft: PureDraft, outer: PureDraft) -> None:
        """Leaves the shape open: it has an axis less."""


def _take(leaf: Any, i: int, axis: int) -> Any:
    where = axis if axis >= 0 else axis + len(leaf.shape)
    return leaf[(slice(None),) * where + (i,)]


def _equal(variable: Variable, values: list[Any]) -> bool:
    hosts = [variable._backend.to_host(value) for value in values]
    return all(np.array_equal(hosts[0], each, equal_nan=hosts[0].dtype.kind in "fc") for each in hosts[1:])


def _differs(variables: list[Variable]) -> TraceError:
    return TraceError(
        describe(
            "vmap",
            "each example writes its own value, and there is one for all",
            ", ".join(variable.path for variable in variables),
            "give the variable an axis: variable_axes={v: 0}",
        )
    )


# -- rematerialisation ------------------------------------------------------------------------------------------------


class _Reading(Lifted):
    """Remembers what was read, so that the code can run again on the same values."""

    __slots__ = ("seen",)

    def __init__(self, what: str, seen: dict[Variable, Array]) -> None:
        super().__init__(what, seen.items())
        self.seen = seen

    def given(self, variable: Variable, value: Array) -> Array:
        self.seen.setdefault(variable, value)
        return value


def remat(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose intermediate results are computed again for the gradient, and not kept till then.

    What it writes is written once.

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
    def wrapped(*args: Any) -> Any:
        transforms = _library(args, fn).transforms()

        def run(base: Functional) -> Any:
            seen: dict[Variable, Array] = {}
            written: list[Variable] = []

            def pure(*args: Any) -> tuple[Any, list[Array]]:
                frame = _Reading("remat", dict(seen) if written else seen)
                with frame:
                    out = tree_map(_plain, fn(*args))
                    new = list(frame.values(frame.written))
                if not written:
                    written.extend(frame.written)
                return out, new

            out, new = transforms.remat(pure)(*args)
            for variable, value in zip(written, new, strict=True):
                base.take_over(variable, value)
            return out

        return keep_writes("remat", run, {})

    return wrapped
