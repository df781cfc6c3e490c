"""JAX's transforms, for variables whose values an overlay hands in and out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .._transforms import Transforms

__all__ = ["TRANSFORMS"]


class JAXTransforms(Transforms):
    tapes = False

    # -- gradients -----------------------------------------------------------------------------------------

    def value_and_grad(
        self, fn: Callable[[list[Any]], tuple[Any, Any]], values: list[Any]
    ) -> tuple[tuple[Any, Any], list[Any]]:
        result: tuple[tuple[Any, Any], list[Any]] = jax.value_and_grad(fn, has_aux=True)(values)
        return result

    def zeros_like(self, array: Any) -> Any:
        return jnp.zeros_like(array)


TRANSFORMS = JAXTransforms()
