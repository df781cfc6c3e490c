"""`vmap`: maps code for one example over many, with variables that may have a value for each example.

On JAX, and where a library traces, it is the library's own map, over the values of the variables too. Elsewhere it is
a loop over the examples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from .._arrays.registry import transforms_of
from .._arrays.trees import leaves, tree_map
from .._core.variable import Variable
from .._public import public
from ..errors import ShapeError, TraceError, describe
from .draft import ValueDraft
from .lift import library_of, plain
from .overlay import InnerOverlay, ValueOverlay, keep_writes

if TYPE_CHECKING:
    from .._arrays.backend import Backend
    from .._arrays.transforms import Transforms
    from .._arrays.types import Array

__all__ = ["vmap"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


@public()
def vmap(
    fn: Callable[_P, _R],
    in_axes: Any = 0,
    out_axes: int = 0,
    axis_size: int | None = None,
    variable_axes: Mapping[Variable, int] | None = None,
    axis_name: Any = None,
) -> Callable[_P, _R]:
    """Maps a function of one example over an axis of its arguments and of variables.

    Args:
        fn: may read and write variables.
        in_axes: the axis of the positional arguments that is mapped: an int or None for all arguments, or one for
            each. None passes the whole argument to every example. Keyword arguments are mapped along axis 0.
        out_axes: the axis of the results along which the examples are stacked.
        axis_size: the number of examples; required if nothing is mapped.
        variable_axes: variables with an element for each example along an axis: each example reads and writes its own.
            Other variables are shared by all examples; every example must write the same value to them. A shared
            `Generator` draws other numbers for each example.
        axis_name: the name of the mapped axis for operations over it, such as ``jax.lax.pmean``; for JAX only.

    Raises:
        ShapeError: on calling: the mapped axes differ in size, or no axis is mapped.
        TraceError: on calling: examples write different values to a variable that is not in ``variable_axes``.
        ValueError: on calling: ``axis_name`` is given, and the library has no named axes.

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
    def mapped(*positional: _P.args, **kwargs: _P.kwargs) -> _R:
        args: tuple[Any, ...] = positional
        each_axis = tuple(in_axes) if isinstance(in_axes, list | tuple) else (in_axes,) * len(args)
        if len(each_axis) != len(args):
            raise ValueError(describe("vmap", f"expected {len(each_axis)} arguments, as in in_axes, got {len(args)}"))
        args, each_axis = (*args, kwargs), (*each_axis, 0)
        backend = next(iter(axes))._backend.native if axes else library_of(args, fn)
        transforms = transforms_of(backend)
        if axis_name is not None and not transforms.names_axes:
            raise ValueError(
                describe(
                    "vmap",
                    f"{backend.name} has no operations over a named axis, got axis_name={axis_name!r}",
                    hint="leave it out, and compute over the axis before or after sv.vmap; or use variables of JAX",
                )
            )

        def run(base: ValueOverlay) -> Any:
            size = _axis_size(args, each_axis, axes, axis_size)
            mapping = _Mapping(fn, args, each_axis, out_axes, size, axes, base, backend, axis_name)
            return mapping.by_library() if transforms.stages_loops(args) else mapping.in_python()

        out: _R = keep_writes("vmap", run, {})
        return out

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
        raise ShapeError.of(
            "vmap", f"expected one size for all mapped axes, got {sorted(sizes)}", hint="pass axis_size"
        )
    return sizes.pop()


@dataclass(frozen=True)
class _Mapping:
    """One call of a mapped function."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]  # the last one has the keyword arguments
    in_axes: tuple[Any, ...]
    out_axes: int
    size: int
    axes: dict[Variable, int]
    base: ValueOverlay
    library: Backend
    axis_name: Any

    @property
    def transforms(self) -> Transforms:
        """The transforms of the library."""
        return transforms_of(self.library)

    def _call(self, args: Sequence[Any]) -> Any:
        *positional, named = args
        return tree_map(plain, self.fn(*positional, **named))

    def by_library(self) -> Any:
        """Maps with the library's own map."""
        mapped, axes, base, transforms = list(self.axes), self.axes, self.base, self.transforms
        values = [base.read(variable)._snapshot for variable in mapped]
        where = ([axes[variable] for variable in mapped], 0, *self.in_axes)
        lanes = self.library.namespace().arange(self.size)
        written: list[Variable] = []

        def pure(values: list[Array], lane: Array, *args: Any) -> tuple[Any, list[Array]]:
            frame = _Example("vmap", zip(mapped, values, strict=True))
            frame.share(lane, axes)
            with frame:
                out = self._call(args)
                written[:], new = frame.outgoing()
                return out, new

        name = self.axis_name
        transforms.written_by(transforms.vmap(pure, where, 0, self.size, name), values, lanes, *self.args)
        outs = (self.out_axes, [axes.get(variable) for variable in written])
        try:
            out, new = transforms.vmap(pure, where, outs, self.size, name)(values, lanes, *self.args)
        except ValueError as error:
            if "out_axes" not in str(error) and "axis spec" not in str(error):
                raise
            raise _differs([each for each in written if each not in axes]) from error
        for variable, value in zip(written, new, strict=True):
            base.take_over(variable, value)
        return out

    def in_python(self) -> Any:
        """Runs one example after the other, each starting with the values from outside."""
        axes, base, transforms = self.axes, self.base, self.transforms
        found, frames = [], []
        for i in range(self.size):
            part = [
                arg if axis is None else tree_map(lambda leaf, axis=axis, i=i: _take(leaf, i, axis), arg)
                for arg, axis in zip(self.args, self.in_axes, strict=True)
            ]
            seeds = [(variable, _take(base.read(variable)._snapshot, i, axis)) for variable, axis in axes.items()]
            frame = _Example("vmap", seeds)
            frame.share(i, axes)
            with frame:
                found.append(self._call(part))
                frame.outgoing()  # forgets what it has created
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


class _Example(InnerOverlay):
    """The variables of one example; a mapped variable has the example's part of the value."""

    __slots__ = ("_axes", "_lane")

    def share(self, lane: Any, axes: dict[Variable, int]) -> None:
        """Sets the index of the example, and the variables of which it has a part of its own."""
        self._lane = lane
        self._axes = axes

    def lane_of(self, variable: Any) -> Any:
        """The index of the example, if it shares the variable."""
        return None if variable in self._axes else self._lane

    def declare(self, draft: ValueDraft, outer: ValueDraft) -> None:
        """Declares no shape: the example's part of a value has one axis less than the declared shape."""


def _take(leaf: Any, i: int, axis: int) -> Any:
    where = axis if axis >= 0 else axis + len(leaf.shape)
    return leaf[(slice(None),) * where + (i,)]


def _equal(variable: Variable, values: list[Any]) -> bool:
    hosts = [variable._backend.packed(value) for value in values]
    return all(np.array_equal(hosts[0], each, equal_nan=hosts[0].dtype.kind in "fc") for each in hosts[1:])


def _differs(variables: list[Variable]) -> TraceError:
    return TraceError.of(
        "vmap",
        "the examples write different values to a variable that they share",
        ", ".join(variable.path for variable in variables),
        "give the variable an axis: variable_axes={v: 0}",
    )
