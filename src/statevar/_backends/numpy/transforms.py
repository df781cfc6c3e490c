"""NumPy's transforms: gradients come from the package ``autograd``, everything else is plain Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..._arrays.transforms import Program, Tape, Transforms
from ..._arrays.types import Array
from ..._transforms.interpreted import Interpreted
from ...errors import BackendNotInstalledError

__all__ = ["TRANSFORMS"]


class NumPyTransforms(Transforms):
    # -- gradients -----------------------------------------------------------------------------------------

    def tape(self) -> Tape:
        try:
            from . import autograd  # noqa: PLC0415  # only gradients need it
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "autograd":
                raise  # autograd is installed but broken: its own error says more
            raise BackendNotInstalledError.of(
                "gradient",
                "NumPy itself computes no gradients, and the package autograd is not installed",
                hint="pip install 'statevar[autograd]'",
            ) from error
        return autograd.Tape()

    def zeros_like(self, array: Array) -> Array:
        return np.zeros(array.shape, array.dtype)

    # -- compilation ---------------------------------------------------------------------------------------

    def takes_apart(self, argument: Any) -> bool:
        return True  # nothing is compiled, so every argument is passed as it is

    def jit(self, program: Program) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
        return Interpreted(program)

    # -- control flow --------------------------------------------------------------------------------------

    def stack(self, arrays: Sequence[Any], axis: int = 0) -> Array:
        return np.stack(list(arrays), axis)


TRANSFORMS = NumPyTransforms()
