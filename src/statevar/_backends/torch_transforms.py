"""Torch's transforms."""

from __future__ import annotations

from .._transforms import Transforms

__all__ = ["TRANSFORMS"]


class TorchTransforms(Transforms):
    pass


TRANSFORMS = TorchTransforms()
