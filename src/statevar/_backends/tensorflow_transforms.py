"""TensorFlow's transforms, for variables whose values an overlay hands in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from .._transforms import Program, Tape, Transforms
from ..errors import DTypeError, TraceError, describe
from .tensorflow_jit import Jitted

__all__ = ["TRANSFORMS"]


class TensorFlowTape(Tape):
    """A `tf.GradientTape` that watches only what it is told to; tapes around it see what it computes."""

    def __init__(self) -> None:
        # Persistent, since whether it will be asked again is known only when it is asked.
        self._tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
        self._tape.__enter__()
        self._open = True

    def watch(self, array: Any) -> Any:
        # A tensor of its own: two variables may share one, and a gradient is told apart by the tensor. An outer tape
        # follows the copy, which shares the memory.
        leaf = tf.identity(array)
        self._tape.watch(leaf)
        return leaf

    def gradients(self, target: Any, sources: Sequence[Any], *, keep: bool) -> list[Any]:
        if not tf.is_tensor(target):
            raise TraceError(
                describe(
                    "gradient",
                    f"the result is a {type(target).__name__}, which TensorFlow has not computed: no gradient reaches it",
                    hint="compute it by TensorFlow's functions, such as tf.reduce_sum",
                )
            )
        if not (target.dtype.is_floating or target.dtype.is_complex):
            raise DTypeError(describe("gradient", f"expected a real scalar, got {target.dtype.name}"))
        if not self._open:
            return self._gradients(target, sources)
        with self._tape.stop_recording():  # or it would record its own gradient
            return self._gradients(target, sources)

    def _gradients(self, target: Any, sources: Sequence[Any]) -> list[Any]:
        found = self._tape.gradient(target, list(sources), unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(each) for each in found]  # tf.gather's are IndexedSlices

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
        return Jitted(program)

    # -- control flow --------------------------------------------------------------------------------------

    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Any:
        return tf.stack(list(arrays), axis)


TRANSFORMS = TensorFlowTransforms()
