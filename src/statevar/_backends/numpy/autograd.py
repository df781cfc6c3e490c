"""Gradients of NumPy code, computed by the package ``autograd``. Imported when the first gradient is needed.

``autograd`` puts a box around an array and records the computations on it. Its own boxes work with ``autograd.numpy``;
ours also work with plain ``np.*``, know their tape, and raise an error where a box would silently become a plain array.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

import autograd.numpy as anp
import ml_dtypes
import numpy as np
from autograd.core import VJPNode, add_outgrads, primitive_vjps
from autograd.extend import defvjp, primitive
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.numpy.numpy_vjps import unbroadcast
from autograd.numpy.numpy_vspaces import ArrayVSpace
from autograd.tracer import Box, isbox, notrace_primitives, trace_primitives_map, trace_stack
from autograd.util import toposort

from ..._arrays import transforms
from ..._arrays.host import combine
from ..._arrays.indexing import Selection, turns
from ..._arrays.types import Array, HostArray
from ...errors import TraceError
from .fourier import GRADIENTS

__all__ = ["Tape", "put"]

# -- recorded steps ---------------------------------------------------------------------------------


class _Node(VJPNode):  # type: ignore[misc]  # autograd has no types
    """One step of a computation: the steps it depends on, and the function that passes its gradient back to them."""

    __slots__ = ("again", "parents", "tape", "vjp")

    def __init__(self, value: Any, fun: Any, args: Any, kwargs: Any, argnums: Any, parents: Any) -> None:
        self.tape: Tape = parents[0].tape
        self.parents: Sequence[_Node] = ()  # a node without parents is not recorded
        self.again: Callable[[], Any] | None = None
        if not self.tape.recording or _is_whole(value):
            return
        if isbox(value) and value._trace >= self.tape.id:
            # A variable among the arguments has returned a box of its own, which autograd has not seen.
            self.again = lambda: _again(fun, args, kwargs, argnums, parents)
            return
        try:
            self.vjp = (_OURS.get(fun.fun) or primitive_vjps[fun])(argnums, value, args, kwargs)
        except KeyError:
            _no_gradient(_name(fun))
        except (AssertionError, NotImplementedError, TypeError) as error:  # there is no gradient for these arguments
            _no_gradient(_name(fun), str(error))
        self.parents = parents

    @classmethod
    def leaf(cls, tape: Tape) -> _Node:
        node: _Node = cls.new_root()
        node.tape = tape
        return node


# The set itself, not a copy, so that later registrations count too.
notrace_primitives[_Node] = notrace_primitives[VJPNode]


def _where(argnums: Any, _: Any, args: Any, kwargs: Any) -> Callable[[Any], Any]:
    """The gradient of ``np.where``, since autograd's own does not undo the broadcasting."""
    condition = args[0]

    def part(argnum: int, g: Any) -> Any:
        chosen = anp.where(condition, g, 0) if argnum == 1 else anp.where(condition, 0, g)
        return unbroadcast(chosen, anp.metadata(args[argnum]))

    return lambda g: [part(argnum, g) if argnum else None for argnum in argnums]


#: The gradients that autograd has not, or not right, by NumPy's function.
_OURS: dict[Any, Any] = {np.where: _where, np.positive: lambda *_: lambda g: (g,), **GRADIENTS}


def _is_whole(value: Any) -> bool:
    """Whether a value is an integer or a boolean, which has no gradient."""
    dtype = getattr(value, "dtype", None)
    return isinstance(value, int) if dtype is None else dtype.kind in "biu"


def _again(fun: Any, args: Any, kwargs: Any, argnums: Any, parents: Any) -> Any:
    boxed = list(args)
    for argnum, node in zip(argnums, parents, strict=True):
        boxed[argnum] = NumPyBox(args[argnum], node.tape.id, node)
    return fun(*[each.value if _is_foreign(type(each)) else each for each in boxed], **kwargs)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function))


def _no_gradient(name: str, reason: str = "") -> NoReturn:
    raise TraceError.of(
        f"np.{name}",
        f"the package autograd has no gradient for this function{reason and f' ({reason})'}",
        hint="use other functions, or define its gradient with autograd.extend.defvjp",
    ) from None


def _unboxed(value: Any) -> Any:
    while isbox(value):
        value = value._value
    return value


def _is_foreign(cls: type) -> bool:
    """Whether a type takes part in NumPy's dispatch and is not an array or a box: a variable, a data frame."""
    ufunc = getattr(cls, "__array_ufunc__", None)
    return ufunc is not None and ufunc is not np.ndarray.__array_ufunc__ and not issubclass(cls, Box)


def _has_box(value: Any) -> bool:
    return isbox(value) or (type(value) in (list, tuple) and any(map(_has_box, value)))


# -- the array that code computes with -----------------------------------------------------------------------

_REDUCTIONS = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min"}


class NumPyBox(ArrayBox):  # type: ignore[misc]  # autograd has no types
    """An array whose gradient is recorded."""

    __slots__ = ()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(_is_foreign(type(each)) for each in inputs):
            return NotImplemented  # it turns itself into an array and calls the function again
        _refuse_out(ufunc, kwargs)
        if method == "reduce" and ufunc.__name__ in _REDUCTIONS and not kwargs.keys() - {"axis", "keepdims"}:
            return getattr(anp, _REDUCTIONS[ufunc.__name__])(inputs[0], **{"axis": 0, **kwargs})
        if method != "__call__":
            _no_gradient(f"{ufunc.__name__}.{method}")
        function = trace_primitives_map.get(ufunc)
        if function is None:
            _no_gradient(_name(ufunc))
        if any(map(isbox, kwargs.values())):
            _by_position(ufunc)
        if kwargs and function not in notrace_primitives[_Node]:
            _no_gradient(f"{ufunc.__name__} with {', '.join(kwargs)}")
        return function(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if any(_is_foreign(each) for each in types):
            return NotImplemented
        _refuse_out(func, kwargs)
        if any(map(_has_box, kwargs.values())):
            _by_position(func)
        function = _functions().get(func)
        if function is not None and not hasattr(function, "_is_autograd_primitive"):
            return function(*args, **kwargs)  # such as `concatenate`, which is written for boxes, and `shape`
        known = func in _OURS or function in primitive_vjps or function in notrace_primitives[_Node]
        if function is not None and known:
            # autograd does not look for boxes in lists.
            return function(
                *[anp.array(each) if _has_box(each) and not isbox(each) else each for each in args], **kwargs
            )
        plain = getattr(func, "_implementation", None)
        if plain is None:
            _no_gradient(_name(func))
        try:
            return plain(*args, **kwargs)  # it may consist of functions that have gradients
        except TraceError:
            _no_gradient(_name(func))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        return np.array(self._plain("np.asarray"), dtype) if copy else np.asarray(self._plain("np.asarray"), dtype)

    def _plain(self, operation: str) -> Any:
        """Returns the plain array once the tape has stopped recording; raises TraceError before."""
        if self._node.tape.recording:
            raise TraceError.of(
                operation,
                "the gradient of this value is being recorded, and would be lost in a plain array or number",
                hint="compute with np functions, return it with has_aux=True, or call stop_recording() of the tape",
            )
        value = self._value
        return value._plain(operation) if isinstance(value, NumPyBox) else _unboxed(value)

    def __float__(self) -> float:
        return float(self._plain("float"))

    def __int__(self) -> int:
        return int(self._plain("int"))

    def __complex__(self) -> complex:
        return complex(self._plain("complex"))

    def __index__(self) -> int:
        return np.asarray(self._plain("index")).__index__()

    def item(self, *index: Any) -> Any:
        return np.asarray(self._plain("item")).item(*index)

    def tolist(self) -> Any:
        return np.asarray(self._plain("tolist")).tolist()

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TraceError.of(
            "setitem",
            "an array whose gradient is being recorded cannot be changed in place",
            hint="use np.where, or v.at[…]",
        )

    def __repr__(self) -> str:
        value = _unboxed(self)
        return f"<recorded {value!r}>" if self._node.tape.recording else repr(value)

    __str__ = __repr__
    __hash__ = object.__hash__

    def __pos__(self) -> Any:
        return self

    def __floordiv__(self, other: Any) -> Any:
        return anp.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return anp.floor_divide(other, self)

    real = property(anp.real)
    imag = property(anp.imag)
    dot = anp.dot
    conj = anp.conj
    nbytes = property(lambda self: np.asarray(_unboxed(self)).nbytes)

    def copy(self) -> Any:
        return self  # a box cannot be written


def _deferring(plain: Any) -> Any:
    """Returns an operator that leaves the work to a variable's own, since autograd would not see the variable's box."""

    def operator(self: Any, other: Any) -> Any:
        return NotImplemented if _is_foreign(type(other)) else plain(self, other)

    return operator


for _verb in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"):
    for _dunder in (f"__{_verb}__", f"__r{_verb}__"):
        setattr(NumPyBox, _dunder, _deferring(getattr(NumPyBox, _dunder)))
for _verb in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(NumPyBox, f"__{_verb}__", _deferring(getattr(ArrayBox, f"__{_verb}__")))


def _refuse_out(function: Any, kwargs: dict[str, Any]) -> None:
    out = kwargs.pop("out", None)
    if any(each is not None for each in (out if isinstance(out, tuple) else (out,))):
        raise TraceError.of(
            f"np.{_name(function)}", "out= would lose the gradient", hint="use the result that the function returns"
        )


def _by_position(function: Any) -> NoReturn:
    raise TraceError.of(
        f"np.{_name(function)}", "autograd does not see an array that is passed by keyword", hint="pass it by position"
    )


@cache
def _functions() -> dict[Any, Any]:
    """Maps each function of NumPy to the one that ``autograd`` has instead."""
    found: dict[Any, Any] = {}
    for plain, ours in ((np, anp), (np.linalg, anp.linalg), (np.fft, anp.fft)):
        for name, function in vars(ours).items():
            if callable(function) and callable(original := getattr(plain, name, None)):
                found[original] = function
    return found


def _boxed(value: Any, trace: int, node: Any) -> Any:
    """Returns the result of a step: a box, or the plain value if the step is not recorded."""
    if type(node) is not _Node:
        if _is_whole(value):
            raise TypeError(f"Can't differentiate w.r.t. type {type(value)}")  # as autograd does
        return ArrayBox(value, trace, node)
    if node.again is not None:
        return node.again()
    return NumPyBox(value, trace, node) if node.parents else value


def _register() -> None:
    """Makes autograd use our boxes for our nodes, and its own boxes for its own nodes."""
    Box.types.add(NumPyBox)
    types = [cls for cls, box in Box.type_mappings.items() if box is ArrayBox]
    whole = [np.bool_, int, bool, *map(np.dtype, "bhilqBHILQ")]
    for cls in (*types, NumPyBox, ml_dtypes.bfloat16, *[getattr(each, "type", each) for each in whole]):
        Box.type_mappings[cls] = _boxed
    ArrayVSpace.register(ml_dtypes.bfloat16)


_register()

# -- writes ---------------------------------------------------------------------------------------------------


@primitive  # type: ignore[untyped-decorator]  # autograd has no types
def _scattered(values: Any, positions: HostArray, size: int) -> Any:
    result = np.zeros(size, values.dtype)
    np.add.at(result, positions, values)
    return result


defvjp(_scattered, lambda _ans, _values, positions, _size: lambda g: g[positions])


def put(old: Any, x: Any, operation: str, where: Selection) -> Any:
    """Does what `Backend.compute_put` does, with functions that have gradients of every order."""
    positions = where.flat().reshape(-1)
    if not positions.size:
        return old
    shape = np.shape(_unboxed(old))
    target = anp.ravel(old)
    extra = (1,) * (len(where.shape) - len(np.shape(_unboxed(x))))  # autograd's `broadcast_to` does not add these axes
    values = anp.ravel(anp.broadcast_to(anp.reshape(x, extra + np.shape(_unboxed(x))), where.shape))
    if operation == "set":
        result = _replaced(target, positions, values)
    elif operation in ("add", "subtract"):
        result = target + _scattered(values if operation == "add" else -values, positions, int(np.prod(shape)))
    else:
        result = target
        for turn in turns(positions):  # an element that is selected twice is changed twice
            at = positions[turn]
            result = _replaced(result, at, combine(operation, result[at], values[turn], anp.minimum, anp.maximum))
    return anp.reshape(result, shape)


def _replaced(target: Any, positions: HostArray, values: Any) -> Any:
    """Replaces the values at some positions; where a position occurs twice, the last value counts."""
    size = target.shape[0]
    source = np.arange(size)
    source[positions] = np.arange(size, size + positions.size)
    return anp.concatenate((target, values))[source]


# -- the tape ---------------------------------------------------------------------------------------------------

# Where boxes of two tapes meet, autograd takes the one with the larger number for the box of the inner tape. Its own
# counter goes down when a trace ends in any thread, so two tapes may get the same number. Ours only grows, and is far
# enough ahead that autograd's own traces, open around or within a tape of ours, keep their order.
_ROOM = 1000
_last: int = 0
_lock = threading.Lock()


def _new_number() -> int:
    global _last  # noqa: PLW0603  # like autograd's own counter
    with _lock:
        _last = max(_last, int(trace_stack.top)) + _ROOM
        trace_stack.top = _last + _ROOM // 2
        return _last


class Tape(transforms.Tape):
    """Records the computations on boxes."""

    def __init__(self) -> None:
        self.id = _new_number()
        self.recording = True

    def watch(self, array: Array) -> Array:
        return NumPyBox(array, self.id, _Node.leaf(self))

    def gradients(self, target: Array, sources: Sequence[Array], *, keep: bool) -> list[Array]:
        found = self.pull_back(target, None, sources, keep=keep)
        return [_zeros(each) if gradient is None else gradient for each, gradient in zip(sources, found, strict=True)]

    def pull_back(
        self, target: Array, weight: Array | None, sources: Sequence[Array], *, keep: bool
    ) -> list[Array | None]:
        nodes = [self._mine(each) for each in sources]
        box = self._mine(target)
        if box is None:
            return [None] * len(nodes)
        wanted = {each._node for each in nodes if each is not None}
        outgrads = {box._node: (np.ones(box.shape, box.dtype) if weight is None else weight, False)}
        found: dict[_Node, Any] = {}
        for node in toposort(box._node):
            gradient, _ = outgrads.pop(node)
            if node in wanted:
                found[node] = gradient
            for parent, part in zip(node.parents, node.vjp(gradient), strict=True):
                outgrads[parent] = add_outgrads(outgrads.get(parent), part)
        return [None if each is None or each._node not in found else _like(found[each._node], each) for each in nodes]

    @contextmanager
    def paused(self) -> Iterator[None]:
        before, self.recording = self.recording, False
        try:
            yield
        finally:
            self.recording = before

    def _mine(self, array: Any) -> Any:
        """Returns this tape's own box within the boxes of inner tapes; None if there is none."""
        while isbox(array) and array._trace > self.id:
            array = array._value
        return array if isbox(array) and array._trace == self.id else None

    def concrete(self, array: Array) -> Array:
        while isbox(array) and array._trace >= self.id:
            array = array._value
        return array

    def close(self) -> None:
        self.recording = False


def _like(gradient: Any, source: Any) -> Any:
    """Converts a gradient to the dtype of its source."""
    dtype = source.dtype
    if gradient.shape != source.shape:
        raise TraceError.of(
            "gradient",
            f"the package autograd computed a gradient of shape {gradient.shape} for a value of shape {source.shape}",
            hint="broadcast explicitly: the gradient of one of the functions used does not undo broadcasting",
        )
    if isbox(gradient):
        return gradient if gradient.dtype == dtype else gradient.astype(dtype)
    if np.iscomplexobj(gradient) and dtype.kind != "c":
        gradient = np.real(gradient)
    # A copy: the array may belong to another object, such as the seed.
    return np.array(gradient, dtype)


def _zeros(array: Any) -> Any:
    return np.zeros(np.shape(_unboxed(array)), array.dtype)
