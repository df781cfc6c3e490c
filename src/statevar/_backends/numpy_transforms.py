"""NumPy's transforms."""

from __future__ import annotations

from .._transforms import Transforms

__all__ = ["TRANSFORMS"]


class NumPyTransforms(Transforms):
    pass


TRANSFORMS = NumPyTransforms()
