"""TensorFlow's transforms, for code whose variables have values in an overlay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import tensorflow as tf

from ..._arrays.transforms import Program, Tape, Transforms
from ..._arrays.trees import leaves, tree_map  # in `tf.nest`, None is a leaf, and the keys of a dict must be sortable
from ...errors import DTypeError, ShapeError, TraceError, describe
from .jit import Jitted
from .tracing import inlined

__all__ = ["TRANSFORMS"]


class TensorFlowTape(Tape):
    """A `tf.GradientTape` that watches only what is passed to `watch`; outer tapes record what it computes."""

    def __init__(self) -> None:
        # Persistent, since only `gradients` is told whether another call follows.
        self._tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
        self._tape.__enter__()
        self._open = True

    def watch(self, array: Any) -> Any:
        # A tensor of its own: two variables may share one, and the tape tells sources apart by their tensors. An outer
        # tape records the copy, which shares the memory.
        leaf = tf.identity(array)
        self._tape.watch(leaf)
        return leaf

    def watch_in_place(self, array: Any) -> Any:
        self._tape.watch(array)
        return array

    def gradients(self, target: Any, sources: Sequence[Any], *, keep: bool) -> list[Any]:
        if not isinstance(target, tf.Tensor):
            raise TraceError.of(
                "gradient",
                f"expected a tensor that TensorFlow has computed, got {type(target).__name__}, which has no gradient",
                hint="compute it with TensorFlow's functions, such as tf.reduce_sum",
            )
        if not (target.dtype.is_floating or target.dtype.is_complex):
            raise DTypeError.of("gradient", f"expected a real scalar, got {target.dtype.name}")
        found = self.pull_back(target, None, sources, keep=keep)
        return [tf.zeros_like(source) if each is None else each for each, source in zip(found, sources, strict=True)]

    def pull_back(self, target: Any, weight: Any, sources: Sequence[Any], *, keep: bool) -> list[Any]:
        # If the tape is kept, the gradient of this gradient may be needed, so it is recorded.
        with self.paused() if self._open and not keep else nullcontext():
            found = self._tape.gradient(target, list(sources), output_gradients=weight)
        return [None if each is None else tf.convert_to_tensor(each) for each in found]  # tf.gather has IndexedSlices

    def paused(self) -> AbstractContextManager[None]:
        result: AbstractContextManager[None] = self._tape.stop_recording()
        return result

    def close(self) -> None:
        if self._open:
            self._open = False
            self._tape.__exit__(None, None, None)


class TensorFlowTransforms(Transforms):
    # -- gradients -----------------------------------------------------------------------------------------

    def tape(self) -> Tape:
        return TensorFlowTape()

    def zeros_like(self, array: Any) -> Any:
        return tf.zeros_like(array)

    # -- compilation ---------------------------------------------------------------------------------------

    def jit(self, program: Program) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        return Jitted(program).__call__  # a call of a bound method is faster than one of an object

    # -- control flow --------------------------------------------------------------------------------------

    unrolls = 16.0  # a graph of a few unrolled steps is faster, and `vmap` can map it

    def stages_loops(self, pytree: Any) -> bool:
        return not tf.executing_eagerly()

    def written_by(self, fn: Callable[..., Any], *args: Any) -> None:
        _results(fn, *args)

    def scan(self, body: Callable[..., Any], carry: Any, xs: Any, length: int | None, *, reverse: bool) -> Any:
        first, sequences = _tensors(carry), _tensors(xs)
        count = int(length if length is not None else sequences[0].shape[0])
        example = tree_map(lambda x: tf.TensorSpec(x.shape[1:], x.dtype), _rebuilt(xs, sequences))
        after, y = _results(body, carry, example)
        _check_carry("scan", carry, first, after)
        parts = list(leaves(y))
        # As TensorArrays, since the gradient of a slice would be as long as the whole at each step.
        inputs = [tf.TensorArray(each.dtype, count, element_shape=each.shape[1:]).unstack(each) for each in sequences]
        outputs = [tf.TensorArray(each.dtype, count, element_shape=each.shape) for each in parts]

        def step(i: Any, carried: list[Any], arrays: list[Any]) -> tuple[Any, list[Any], list[Any]]:
            at = count - 1 - i if reverse else i
            out, y = body(_rebuilt(carry, carried), _rebuilt(xs, [each.read(at) for each in inputs]))
            written = [array.write(at, each) for array, each in zip(arrays, _tensors(y), strict=True)]
            return i + 1, _aligned("scan", carry, out), written

        _, last, outputs = tf.while_loop(
            lambda i, *_: i < count, step, (tf.constant(0), first, outputs), maximum_iterations=count
        )
        stacked = [
            tf.ensure_shape(array.stack(), [count, *spec.shape]) for array, spec in zip(outputs, parts, strict=True)
        ]
        return _rebuilt(carry, last), _rebuilt(y, stacked)

    def cond(self, predicate: Any, on_true: Callable[..., Any], on_false: Callable[..., Any], operands: Any) -> Any:
        structure: list[Any] = []

        def branch(fn: Callable[..., Any]) -> Callable[[], list[Any]]:
            def run() -> list[Any]:
                out = fn(*operands)
                structure.append(out)
                return [tf.constant(0), *_aligned("cond", structure[0], out)]  # a branch must return something

            return run

        found = tf.cond(tf.cast(predicate, tf.bool), branch(on_true), branch(on_false))
        return _rebuilt(structure[0], found[1:])

    def while_loop(self, condition: Callable[..., Any], body: Callable[..., Any], carry: Any) -> Any:
        def step(_: Any, *carried: Any) -> list[Any]:
            out = body(_rebuilt(carry, carried))
            new = _aligned("while_loop", carry, out)
            _check_carry("while_loop", carry, carried, new)
            return [tf.constant(0), *new]  # a loop must carry something

        found = tf.while_loop(
            lambda _, *carried: tf.cast(condition(_rebuilt(carry, carried)), tf.bool),
            step,
            [tf.constant(0), *_tensors(carry)],
        )
        return _rebuilt(carry, found[1:])

    def vmap(
        self, fn: Callable[..., Any], in_axes: Any, out_axes: Any, axis_size: int | None, axis_name: Any = None
    ) -> Callable[..., Any]:
        def mapped(*args: Any) -> Any:
            flat = _tensors(args)
            axes = _spread(in_axes, args) if isinstance(in_axes, list | tuple) else [in_axes] * len(flat)
            taken = [_moved(x, axis, 0) for x, axis in zip(flat, axes, strict=True) if axis is not None]
            size = axis_size if axis_size is not None else int(taken[0].shape[0])
            results: list[Any] = []

            def each(elements: list[Any]) -> list[Any]:
                _, *own = elements
                rest = iter(own)
                out = fn(
                    *_rebuilt(args, [x if axis is None else next(rest) for x, axis in zip(flat, axes, strict=True)])
                )
                found = _tensors(out)
                for x, axis in zip(found, _spread(out_axes, out), strict=True):
                    if axis is None and _depends(x, elements):
                        raise ValueError("vmap: a result with out_axes None depends on the mapped values")
                results[:] = [out]
                return [tf.constant(0), *found]

            found = tf.vectorized_map(each, [tf.range(size), *taken])[1:]
            places = _spread(out_axes, results[0])
            return _rebuilt(
                results[0],
                [x[0] if axis is None else _moved(x, 0, axis) for x, axis in zip(found, places, strict=True)],
            )

        return mapped

    # `remat` is inherited and recomputes nothing. tf.recompute_grad gives captured values no gradient, and if they are
    # passed as arguments instead, it has no gradient of higher order.

    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Any:
        return tf.stack(list(arrays), axis)


def _tensors(tree: Any) -> list[Any]:
    return [tf.convert_to_tensor(each) for each in leaves(tree)]


def _rebuilt(tree: Any, flat: Sequence[Any]) -> Any:
    """Returns a pytree with the structure of another one and these leaves."""
    rest = iter(flat)
    return tree_map(lambda _: next(rest), tree)


def _aligned(what: str, form: Any, tree: Any) -> list[Any]:
    """Returns the leaves of a pytree, in the order of another one, which must have the same structure."""
    if not _alike(form, tree):
        raise TypeError(describe(what, f"expected a result of the structure {_form(form)}, got {_form(tree)}"))
    found: list[Any] = []
    tree_map(lambda _, each: found.append(tf.convert_to_tensor(each)), form, tree)
    return found


def _alike(form: Any, tree: Any) -> bool:
    if isinstance(form, dict):
        return isinstance(tree, dict) and form.keys() == tree.keys() and all(_alike(form[k], tree[k]) for k in form)
    if isinstance(form, list | tuple):
        return type(form) is type(tree) and len(form) == len(tree) and all(map(_alike, form, tree))
    return (form is None) == (tree is None) and not isinstance(tree, dict | list | tuple)


def _form(tree: Any) -> str:
    return str(tree_map(lambda _: "*", tree)).replace("'*'", "*")


def _check_carry(what: str, form: Any, before: Sequence[Any], after: Any) -> None:
    for old, new in zip(before, leaves(after) if not isinstance(after, list) else after, strict=False):
        if old.dtype != new.dtype or not old.shape.is_compatible_with(new.shape):
            raise ShapeError.of(
                what,
                f"the carry must keep its shape and dtype, but changed from {old.dtype.name}{tuple(old.shape)} to "
                f"{new.dtype.name}{tuple(new.shape)}",
                hint="cast the result of the body",
            )


def _results(fn: Callable[..., Any], *args: Any) -> Any:
    """Returns the shapes and dtypes of the result of ``fn(*args)``, found with a trace that never runs."""
    found: list[Any] = []

    def probe(*flat: Any) -> None:
        inlined()
        out = fn(*_rebuilt(args, flat))
        specs = [tf.TensorSpec(each.shape, each.dtype) for each in _tensors(out)]
        found.append(_rebuilt(out, specs))

    specs = [
        each if isinstance(each, tf.TensorSpec) else tf.TensorSpec.from_tensor(tf.convert_to_tensor(each))
        for each in leaves(args)
    ]
    tf.function(probe, autograph=False).get_concrete_function(*specs)
    return found[-1]


def _spread(axes: Any, tree: Any) -> list[Any]:
    """Returns the axis of each leaf, from axes that stand for one leaf or for a whole pytree."""
    if isinstance(axes, list | tuple):
        parts = tree.values() if isinstance(tree, dict) else tree
        return [axis for each, part in zip(axes, parts, strict=True) for axis in _spread(each, part)]
    return [axes for _ in leaves(tree)]


def _moved(x: Any, source: int, target: int) -> Any:
    rank = len(x.shape)
    order = list(range(rank))
    order.insert(target % rank, order.pop(source % rank))
    return x if order == list(range(rank)) else tf.transpose(x, order)


def _depends(x: Any, on: list[Any]) -> bool:
    """Whether a tensor in the graph that is being built was computed from one of the others."""
    wanted, met, stack = {id(each) for each in on}, set(), [x]
    while stack:
        each = stack.pop()
        if id(each) in wanted:
            return True
        if not tf.is_symbolic_tensor(each) or id(each) in met:
            continue
        met.add(id(each))
        stack.extend(each.op.inputs)
    return False


TRANSFORMS = TensorFlowTransforms()
