"""Loops and branches over code that reads and writes variables, the same on every library.

On JAX, and where a library traces, they are the library's own, and the values of the variables are carried through
them. Elsewhere they are Python's. In both cases the writes are kept when the code has ended: all of them or, on an
exception, none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .._arrays.registry import owner_of, transforms_of
from .._arrays.trees import leaves, tree_map
from .._core.variable import Variable
from .._public import public
from ..errors import ShapeError
from .lift import CarriedState, library_of, plain, written_by
from .overlay import InnerOverlay, ValueOverlay, keep_writes

if TYPE_CHECKING:
    from .._arrays.transforms import Transforms

__all__ = ["cond", "fori_loop", "scan", "while_loop"]

_Carry = TypeVar("_Carry")
_Y = TypeVar("_Y")
_R = TypeVar("_R")


# -- scan -------------------------------------------------------------------------------------------------------


@public()
def scan(
    body: Callable[[_Carry, Any], tuple[_Carry, _Y]],
    init: _Carry,
    xs: Any = None,
    length: int | None = None,
    reverse: bool = False,
) -> tuple[_Carry, _Y]:
    """Calls ``carry, y = body(carry, x)`` for each ``x`` along the first axis, and stacks the results.

    Args:
        body: keeps the structure, shapes and dtypes of ``carry``; may read and write variables.
        init: the first carry: an array, or a pytree (tuple, list, dict) of arrays.
        xs: arrays of shape ``(length, …)``, or a pytree of them; None calls ``body`` with None.
        length: the number of steps; required without ``xs``.
        reverse: go from the last ``x`` to the first.

    Returns:
        The last carry, and the ``y`` of every step, stacked along a new first axis.

    Raises:
        ShapeError: the arrays in ``xs`` have different lengths, or no length is given.

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
    backend = library_of((init, xs), body)
    transforms = transforms_of(backend)

    def run(base: ValueOverlay) -> tuple[Any, Any]:
        if not transforms.stages_loops((init, xs)):
            return _scan_in_python(body, init, xs, count, reverse, transforms)
        carried = CarriedState("scan", base, written_by("scan", transforms, (body, init, tree_map(_row, xs))))

        def pure(carry: Any, x: Any) -> tuple[Any, Any]:
            (out, y), new = carried.run(carry[1], body, carry[0], x)
            return (out, new), y

        (carry, new), ys = transforms.scan(pure, (init, carried.values()), xs, count, reverse=reverse)
        if count:
            carried.keep(new)
        return carry, ys

    return keep_writes("scan", run, {})


def _row(x: Any) -> Any:
    """An ``x`` as the body gets it; zeros if ``xs`` is empty."""
    if x.shape[0]:
        return x[0]
    owner = owner_of(x)
    assert owner is not None, "an object with a shape is an array"
    return owner.cast(owner.namespace().sum(x, axis=0), x.dtype)


def _length(xs: Any, length: int | None) -> int:
    lengths = {int(each.shape[0]) if len(each.shape) else -1 for each in leaves(xs)} | (
        {length} if length is not None else set()
    )
    if len(lengths) != 1 or -1 in lengths:
        raise ShapeError.of(
            "scan",
            f"expected arrays of one length along their first axis, got {sorted(lengths)}",
            hint="pass xs, or length",
        )
    return lengths.pop()


def _scan_in_python(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: Any, count: int, reverse: bool, transforms: Transforms
) -> tuple[Any, Any]:
    found = []
    for i in reversed(range(count)) if reverse else range(count):
        carry, y = body(carry, tree_map(lambda x, i=i: x[i], xs))
        found.append(tree_map(plain, y))
    if reverse:
        found.reverse()
    if found:
        return carry, tree_map(lambda *each: transforms.stack(each), *found)
    # No step runs: one on zeros, whose writes are dropped, shows the shapes and dtypes of the results.
    with ValueOverlay("scan"):
        _, y = body(carry, tree_map(_row, xs))
    return carry, tree_map(lambda each: transforms.stack([each])[:0], tree_map(plain, y))


# -- branches -----------------------------------------------------------------------------------------------------


@overload
def cond(pred: Any, true_fn: Callable[..., Variable], false_fn: Callable[..., Variable], *operands: Any) -> Any: ...


@overload
def cond(pred: Any, true_fn: Callable[..., _R], false_fn: Callable[..., _R], *operands: Any) -> _R: ...


@public()
def cond(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any) -> Any:
    """Returns ``true_fn(*operands)`` if ``pred`` is true, else ``false_fn(*operands)``; both of the same structure.

    Source: ``jax.lax.cond``.

    >>> import statevar as sv
    >>> v = sv.Variable(-2.0, backend="torch", trainable=False)
    >>> sv.cond(v.value < 0, lambda: v.assign(-v.value).value, lambda: v.value)
    tensor(2.)
    """
    pred = plain(pred)
    backend = library_of((pred, operands), true_fn, false_fn)
    transforms = transforms_of(backend)

    def run(base: ValueOverlay) -> Any:
        if not transforms.stages_loops((pred, operands)):
            return tree_map(plain, (true_fn if bool(pred) else false_fn)(*operands))
        written = written_by("cond", transforms, (true_fn, *operands), (false_fn, *operands))
        carried = CarriedState("cond", base, written)

        def carrying(fn: Callable[..., Any]) -> Callable[..., Any]:
            return lambda values, operands: carried.run(values, fn, *operands)

        out, new = transforms.cond(pred, carrying(true_fn), carrying(false_fn), (carried.values(), operands))
        carried.keep(new)
        return out

    return keep_writes("cond", run, {})


# -- loops ----------------------------------------------------------------------------------------------------------


@public()
def while_loop(cond_fun: Callable[[_Carry], Any], body_fun: Callable[[_Carry], _Carry], init: _Carry) -> _Carry:
    """Repeats ``carry = body_fun(carry)`` while ``cond_fun(carry)`` is true; both functions may read variables.

    Raises:
        TraceError: ``cond_fun`` writes a variable.

    Source: ``jax.lax.while_loop``.

    >>> import jax.numpy as jnp
    >>> import statevar as sv
    >>> v = sv.Variable(jnp.array(1))
    >>> sv.while_loop(lambda i: v.value < 100, lambda i: (v.assign(v.value * 2), i + 1)[1], 0), int(v)
    (Array(7, dtype=int32, weak_type=True), 128)
    """
    backend = library_of(init, body_fun, cond_fun)
    transforms = transforms_of(backend)

    def run(base: ValueOverlay) -> Any:
        if not transforms.stages_loops(init):
            carry = init
            while _is_true(cond_fun, carry):
                carry = tree_map(plain, body_fun(carry))
            return carry
        carried = CarriedState("while_loop", base, written_by("while_loop", transforms, (body_fun, init)))

        def condition(carry: Any) -> Any:
            with InnerOverlay("the condition of while_loop", zip(carried.written, carry[1], strict=True), only=()):
                return plain(cond_fun(carry[0]))

        carry, new = transforms.while_loop(
            condition, lambda carry: carried.run(carry[1], body_fun, carry[0]), (init, carried.values())
        )
        carried.keep(new)
        return carry

    out: _Carry = keep_writes("while_loop", run, {})
    return out


def _is_true(cond_fun: Callable[[Any], Any], carry: Any) -> bool:
    with ValueOverlay("the condition of while_loop", only=()):
        return bool(plain(cond_fun(carry)))


@public()
def fori_loop(lower: Any, upper: Any, body_fun: Callable[[Any, _Carry], _Carry], init: _Carry) -> _Carry:
    """Repeats ``carry = body_fun(i, carry)`` for each ``i`` from ``lower`` up to, but not including, ``upper``.

    Source: ``jax.lax.fori_loop``.

    >>> import statevar as sv
    >>> v = sv.Variable(0)
    >>> sv.fori_loop(1, 5, lambda i, carry: carry + v.assign_add(i).value, 0), int(v)
    (np.int32(20), 10)
    """
    if isinstance(lower, int) and isinstance(upper, int):
        backend = library_of(init, body_fun)
        transforms = transforms_of(backend)
        if transforms.stages_loops(init) and upper - lower > transforms.unrolls:
            # A scan has a gradient, and a while loop has none.
            numbers = backend.namespace().arange(lower, max(lower, upper))
            return scan(lambda carry, i: (body_fun(i, carry), None), init, numbers)[0]
        out: _Carry = keep_writes("fori_loop", lambda _: _count(lower, upper, body_fun, init), {})
        return out

    def step(carry: Any) -> Any:
        i, inner = carry
        return i + 1, body_fun(i, inner)

    return while_loop(lambda carry: carry[0] < upper, step, (lower, init))[1]


def _count(lower: int, upper: int, body_fun: Callable[[Any, Any], Any], carry: Any) -> Any:
    for i in range(lower, upper):
        carry = tree_map(plain, body_fun(i, carry))
    return carry
