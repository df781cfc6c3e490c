"""`GradientTape`: gradients of the computations in a ``with`` block, as in TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from .._arrays.backend import Backend
from .._arrays.dtypes import is_differentiable
from .._arrays.registry import owner_of, transforms_of
from .._arrays.transforms import Tape
from .._arrays.trees import leaves, tree_map
from .._arrays.types import Array
from .._core import overlays
from .._core.convert import to_value
from .._core.copies import Uncopied
from .._core.reentry import enterable_again
from .._core.variable import Variable
from .._public import public
from ..errors import DTypeError, TraceError, describe
from .grad import open_tapes

__all__ = ["GradientTape"]

_UNCONNECTED = ("none", "zero")


@public()
class GradientTape(Uncopied):
    """Records the computations on variables in a ``with`` block, and computes gradients of the results.

    Reads of trainable variables in the block are watched. Writes in the block take effect at once; for a variable that
    is written after it was read, the gradient is that of the value that was read.

    Args:
        persistent: `gradient` may be called more than once; the recording is kept as long as the tape.
        watch_accessed_variables: False watches only the variables and arrays that are passed to `watch`.

    It works for NumPy, torch and TensorFlow; JAX has no tape, and a read of its variables in the block raises. Tapes
    can be nested, for derivatives of higher order: the outer tape records the gradients that the inner one computes.
    Computations after the block are not recorded, except on torch. A tape belongs to the thread or task that opened it.

    Raises:
        TraceError: in the block: a variable of JAX is read; or a NumPy value is turned into a plain number or array.

    Source: ``tf.GradientTape``.

    >>> import numpy as np
    >>> import statevar as sv
    >>> w = sv.Variable([1.0, 2.0])
    >>> with sv.GradientTape() as tape:
    ...     loss = np.sum(w**2)
    >>> tape.gradient(loss, w)
    array([2., 4.], dtype=float32)
    """

    __slots__ = ("_accessed", "_entered", "_leaves", "_persistent", "_recording", "_tapes", "_used", "around")

    def _uncopied(self) -> tuple[str, str, str]:
        return "GradientTape", "a tape belongs to the thread or task that opens it", "make a new one"

    def __init__(self, persistent: bool = False, watch_accessed_variables: bool = True) -> None:
        self._persistent = bool(persistent)
        self._accessed = bool(watch_accessed_variables)
        self._recording = False
        self._entered = False
        #: The overlay of values in which it was entered: only reads from that one are watched.
        self.around: Any = None
        self.reset()

    # -- with ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError(describe("GradientTape", "this tape was entered before", hint="create a new tape"))
        self._entered = self._recording = True
        self.around = overlays.current_values()
        overlays.open_tape(self)
        return self

    def __exit__(self, *_: object) -> None:
        overlays.close_tape(self)
        self._stop()

    def _stop(self) -> None:
        self._recording = False
        for tape in reversed(list(self._tapes.values())):  # torch counts the open tapes
            tape.close()

    # -- watching -----------------------------------------------------------------------------------------

    def watch(self, x: Any) -> Any:
        """Watches a variable, an array, or each of those in a pytree.

        Returns:
            For a variable, the variable; for an array, the array to compute with instead of ``x``: NumPy and torch
            record only computations on that one. `gradient` accepts either as a source. Asking for the gradient of an
            array that only stands for another one, and that nothing was computed with, is an error.

        Raises:
            DTypeError: the dtype is an integer, boolean or string, which have no gradients.
            TypeError: ``x`` is neither a variable nor an array.

        >>> import numpy as np
        >>> import statevar as sv
        >>> with sv.GradientTape() as tape:
        ...     x = tape.watch(np.array([1.0, 2.0]))
        ...     y = np.sum(x**3)
        >>> tape.gradient(y, x)
        array([ 3., 12.])
        """
        return tree_map(self._watch, x)

    def _watch(self, x: Any) -> Any:
        backend = x._backend.native if isinstance(x, Variable) else owner_of(x)
        if backend is None:
            raise TypeError(describe("watch", f"expected a variable or an array, got {type(x).__name__}"))
        name = backend.dtype_name(x) if not isinstance(x, Variable) else x.dtype_name
        if not is_differentiable(name):
            raise DTypeError.of("watch", f"{name} has no gradients", getattr(x, "path", ""))
        if isinstance(x, Variable):
            self._leaves.setdefault(x, [])
            return x
        leaf = self._tape_of(backend).watch_in_place(x)
        self._leaves.setdefault(_Identity(x), []).append((x, leaf))
        return leaf

    def see(self, variable: Any, value: Array) -> Array:
        """Returns the value that a read of a variable returns. `Variable` calls it while the tape is open."""
        variable = getattr(variable, "_origin", variable)
        if not self._recording:
            return value
        if variable not in self._leaves and not (self._accessed and variable.trainable):
            return value
        leaves = self._leaves.setdefault(variable, [])
        if (thing := self._object_of(variable)) is not None:
            leaves[:] = [(thing, thing)]
            return variable._backend.copied(thing)
        for seen, leaf in leaves:
            if seen is value:
                return leaf
        leaf = self._tape_of(variable._backend.native, variable._path).watch(value)
        leaves.append((value, leaf))
        return leaf

    def _object_of(self, variable: Any) -> Any:
        """The object of a view with which other code computes too; None if the library records no such code."""
        backend = variable._backend
        if not backend.is_view or self.around is not None or not transforms_of(backend.native).tapes:
            return None
        thing = backend.parameter(variable._handle)
        if self._recording:
            return self._tape_of(backend.native).watch_object(thing)
        if backend.native not in self._tapes:
            with transforms_of(backend.native).tape() as tape:  # closed at once, since it has nothing to record
                self._tapes[backend.native] = tape
        return self._tapes[backend.native].watch_object(thing)

    def _tape_of(self, backend: Backend, path: str = "") -> Tape:
        if backend in self._tapes:
            return self._tapes[backend]
        transforms = transforms_of(backend)
        if not transforms.tapes:
            raise TraceError.of(
                "GradientTape",
                f"{backend.name} differentiates functions and has no tape",
                path,
                "use value, gradients = sv.value_and_grad(fn, variables)(…)",
            )
        open_tapes(self.around, backend)
        if backend not in self._tapes:  # the tape does not record now
            self._tapes[backend] = transforms.tape()
        return self._tapes[backend]

    def open_tape(self, backend: Backend) -> None:
        """Creates the tape of a library, if it is needed."""
        if self._recording and backend not in self._tapes:
            self._tapes[backend] = transforms_of(backend).tape()

    def watched_variables(self) -> tuple[Variable, ...]:
        """The variables that are watched, in the order of their first reads.

        >>> import statevar as sv
        >>> v, w = sv.Variable(1.0, name="v"), sv.Variable(2.0, name="w")
        >>> with sv.GradientTape() as tape:
        ...     y = w * 2 + v
        >>> [each.name for each in tape.watched_variables()]
        ['w', 'v']
        """
        return tuple(each for each in self._leaves if isinstance(each, Variable))

    @enterable_again("stop_recording")
    def stop_recording(self) -> Iterator[None]:
        """Records nothing in a ``with`` block: neither reads nor computations on values that were read before.

        On torch, tapes around this one do not record either.

        >>> import statevar as sv
        >>> v = sv.Variable(3.0)
        >>> with sv.GradientTape() as tape:
        ...     y = v * v
        ...     with tape.stop_recording():
        ...         print(float(y))
        9.0
        """
        before, self._recording = self._recording, False
        try:
            with ExitStack() as paused:
                if before:
                    for tape in self._tapes.values():
                        paused.enter_context(tape.paused())
                yield
        finally:
            self._recording = before

    def reset(self) -> None:
        """Drops the recording; if the tape is recording, it continues with a new one.

        >>> import numpy as np
        >>> import statevar as sv
        >>> v = sv.Variable(3.0)
        >>> with sv.GradientTape() as tape:
        ...     y = v * v
        ...     tape.reset()
        ...     z = v * 5.0
        >>> tape.gradient([y, z], v)
        array(5., dtype=float32)
        """
        for tape in reversed(list(getattr(self, "_tapes", {}).values())):
            tape.close()
        self._tapes: dict[Backend, Tape] = {}
        #: For each watched variable or array: its values, each with the array that is recorded instead.
        self._leaves: dict[Any, list[tuple[Array, Array]]] = {}
        self._used = False

    # -- gradients ----------------------------------------------------------------------------------------

    def gradient(
        self, target: Any, sources: Any, output_gradients: Any = None, unconnected_gradients: Any = "none"
    ) -> Any:
        """The gradient of a target with respect to sources.

        Args:
            target: a result of the block, of any shape: the gradient is that of its sum. Several targets in a pytree
                are added up.
            sources: a variable, an array that was watched or computed, or a pytree of those.
            output_gradients: weights for the elements of ``target``, with the structure and shapes of ``target``.
            unconnected_gradients: the gradient where the target does not depend on a source: ``"none"`` for None,
                ``"zero"`` for zeros.

        Returns:
            Arrays, in the structure of ``sources``.

        Raises:
            RuntimeError: this is the second call, and the tape is not persistent.
            ValueError: ``unconnected_gradients`` is neither ``"none"`` nor ``"zero"``.

        Source: ``tf.GradientTape.gradient``.

        >>> import numpy as np
        >>> import statevar as sv
        >>> v, w = sv.Variable([1.0, 2.0]), sv.Variable(3.0)
        >>> with sv.GradientTape() as tape:
        ...     y = np.square(v)
        >>> tape.gradient(y, {"v": v, "w": w})
        {'v': array([2., 4.], dtype=float32), 'w': None}
        """
        unconnected = getattr(unconnected_gradients, "value", unconnected_gradients)
        if unconnected not in _UNCONNECTED:
            raise ValueError(
                describe("gradient", f"expected unconnected_gradients 'none' or 'zero', got {unconnected_gradients!r}")
            )
        self._use()
        weighted: list[tuple[Any, Any]] = []
        if output_gradients is None:
            weighted = [(each, None) for each in leaves(target)]
        else:
            tree_map(lambda each, weight: weighted.append((each, weight)), target, output_gradients)
        found = self._added_up(weighted, sources)
        if unconnected == "none":
            tree_map(self._check_used, sources, found)
        self._done()
        if unconnected == "none":
            return found
        return tree_map(lambda source, gradient: _zeros_of(source) if gradient is None else gradient, sources, found)

    def _added_up(self, weighted: list[tuple[Any, Any]], sources: Any) -> Any:
        """The gradients of the sum of the targets, each times its weight, in the structure of the sources."""
        # The recorded arrays of each source. An array that is given twice counts as two sources.
        parts = [(_backend_of(each, "sources"), self._standing_for(each)) for each in leaves(sources)]
        totals: list[Any] = [None] * len(parts)
        for target, weight in weighted:
            backend = _backend_of(target, "target")
            mine = [
                (number, leaf) for number, (theirs, found) in enumerate(parts) if theirs is backend for leaf in found
            ]
            gradients = self._pulled(backend, target, weight, [leaf for _, leaf in mine])
            for (number, _), gradient in zip(mine, gradients, strict=True):
                if gradient is not None:
                    totals[number] = gradient if totals[number] is None else totals[number] + gradient
        remaining = iter(totals)
        return tree_map(lambda _: next(remaining), sources)

    def _check_used(self, source: Any, gradient: Any) -> None:
        """Raises ValueError for an array that was watched, if the code has computed with it and not with its leaf."""
        known = [] if isinstance(source, Variable) else self._leaves.get(_Identity(source), [])
        if gradient is None and any(leaf is not source for _, leaf in known):
            raise ValueError(
                describe(
                    "gradient",
                    "the target does not depend on the array that tape.watch returned",
                    hint="compute with that one: x = tape.watch(x); or pass unconnected_gradients='zero'",
                )
            )

    def _pulled(self, backend: Backend, target: Any, weight: Any, wanted: list[Array]) -> list[Array | None]:
        tape, array = self._tapes.get(backend), self._standing_for(target)[-1:]
        if tape is None or not array or not wanted:
            return [None] * len(wanted)
        if weight is not None:
            weight = to_value(
                weight, backend, backend.dtype_name(array[0]), operation="output_gradients", path="", old=array[0]
            )
        return tape.pull_back(array[0], weight, wanted, keep=True)  # the tape frees it

    def _standing_for(self, source: Any) -> list[Array]:
        """The arrays that a variable or an array was recorded as."""
        found = self._leaves.get(source if isinstance(source, Variable) else _Identity(source))
        if found:
            return [leaf for _, leaf in found]
        if isinstance(source, Variable) and (thing := self._object_of(source)) is not None:
            return [thing]  # nobody has read it through us, but the library may have computed with it
        return [] if isinstance(source, Variable) else [source]

    def _use(self) -> None:
        if self._used and not self._persistent:
            raise RuntimeError(
                describe(
                    "gradient",
                    "the tape is not persistent and has already computed gradients",
                    hint="ask for all in one call, tape.gradient(y, [v, w]), or create the tape with persistent=True",
                )
            )
        self._used = True
        if not self._persistent:
            self._stop()

    def _done(self) -> None:
        if not self._persistent:
            self._leaves = {
                key: [] for key in self._leaves
            }  # `watched_variables` still needs the keys; the graph is freed
            self._tapes.clear()

    def jacobian(self, target: Any, sources: Any) -> Any:
        """The derivative of each element of a target with respect to each source.

        Args:
            target: an array that the block computed.
            sources: a variable, an array that was watched or computed, or a pytree of those.

        Returns:
            Arrays of shape ``target.shape + source.shape``, in the structure of ``sources``; None where the target
            does not depend on a source.

        It takes one pass for each element of the target.

        Source: ``tf.GradientTape.jacobian``.

        >>> import statevar as sv
        >>> v = sv.Variable([1.0, 2.0])
        >>> with sv.GradientTape() as tape:
        ...     y = v * v
        >>> tape.jacobian(y, v)
        array([[2., 0.],
               [0., 4.]], dtype=float32)
        """
        self._use()
        backend = _backend_of(target, "target")
        shape = backend.shape(target)
        flat, rows = list(leaves(sources)), []
        for number in range(int(np.prod(shape))):
            weight = np.zeros(shape)
            weight.reshape(-1)[number] = 1
            rows.append(self._added_up([(target, weight)], flat))
        columns = iter([_stacked(backend, list(column), shape) for column in zip(*rows, strict=True)])
        self._done()
        return tree_map(lambda _: next(columns, None), sources)


def _stacked(backend: Backend, parts: list[Any], shape: Any) -> Any:
    """The parts as one array, with axes of this shape before their own; None if the parts are None."""
    if parts[0] is None:
        return None
    for size in reversed(shape):
        stack = transforms_of(backend).stack
        parts = [stack(parts[start : start + size]) for start in range(0, len(parts), size)]
    return parts[0]


def _backend_of(x: Any, what: str) -> Backend:
    backend = x._backend.native if isinstance(x, Variable) else owner_of(x)
    if backend is None:
        raise TypeError(describe("gradient", f"expected variables or arrays as {what}, got {type(x).__name__}"))
    found: Backend = backend
    return found


def _zeros_of(source: Any) -> Any:
    value = source.value if isinstance(source, Variable) else source
    return transforms_of(_backend_of(source, "sources")).zeros_like(value)


class _Identity:
    """An array as a dict key that is compared by identity."""

    __slots__ = ("array",)

    def __init__(self, array: Any) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.array is other.array
