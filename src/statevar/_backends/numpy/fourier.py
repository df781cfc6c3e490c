"""Gradients of ``np.fft``. Those of ``autograd`` are wrong for most ``norm`` and ``n`` where numbers are real.

A transform pads or cuts its array, and multiplies by a symmetric matrix along each axis. So its gradient is the same
transform of the gradient, cut or padded. Where one side has half of the last axis, the other half follows from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.numpy.fft import truncate_pad
from autograd.numpy.numpy_vjps import match_complex

from ..._arrays.types import HostArray

__all__ = ["GRADIENTS"]

_HALF_RESULT = ("rfft", "rfft2", "rfftn", "ihfft")
_HALF_ARGUMENT = ("irfft", "irfft2", "irfftn", "hfft")


def _line(n: int | None = None, axis: int = -1, norm: str | None = None) -> tuple[Any, Any, Any]:
    return None if n is None else (n,), (axis,), norm


def _plane(s: Any = None, axes: Any = (-2, -1), norm: str | None = None) -> tuple[Any, Any, Any]:
    return s, axes, norm


def _space(s: Any = None, axes: Any = None, norm: str | None = None) -> tuple[Any, Any, Any]:
    return s, axes, norm


_Gradient = Callable[[Sequence[int], Any, Any, Any], Callable[[Any], Any]]


def _gradient(name: str) -> _Gradient:
    """The gradient of a function of ``np.fft``, in the form that autograd keeps."""
    arguments = _space if name.endswith("n") else _plane if name.endswith("2") else _line
    transform = anp.fft.ifftn if name.startswith(("ifft", "irfft", "ihfft")) else anp.fft.fftn

    def gradient(_: Any, ans: Any, args: Any, kwargs: Any) -> Callable[[Any], Any]:
        x = args[0]
        s, axes, norm = arguments(*args[1:], **kwargs)
        shape, lengths = np.shape(x), np.shape(ans)
        if axes is None:
            axes = range(-(len(shape) if s is None else len(s)), 0)
        axes = [axis % len(shape) for axis in axes]
        if len(set(axes)) < len(axes):
            raise NotImplementedError("an axis is transformed twice")
        sizes, last = [lengths[axis] for axis in axes], axes[-1]
        if name in _HALF_RESULT:
            sizes[-1] = shape[last] if s is None or s[-1] in (None, -1) else s[-1]
        weights = _weights(shape, last, sizes[-1], ans.dtype) if name in _HALF_ARGUMENT else None

        def pulled_back(g: Any) -> tuple[Any]:
            found = truncate_pad(transform(g, sizes, axes, norm), shape)
            return (match_complex(x, found if weights is None else found * weights),)

        return pulled_back

    return gradient


def _weights(shape: tuple[int, ...], axis: int, size: int, dtype: Any) -> HostArray:
    """How often the numbers along an axis of the given half count: twice if they stand for a conjugate too."""
    weights = np.zeros(shape[axis], dtype)
    weights[: size // 2 + 1] = 2
    weights[0] = 1
    if size % 2 == 0:
        weights[size // 2 : size // 2 + 1] = 1
    return weights.reshape([-1 if each == axis else 1 for each in range(len(shape))])


#: Maps each function to its gradient.
GRADIENTS: dict[Any, _Gradient] = {
    getattr(np.fft, name): _gradient(name)
    for name in ("fft", "fft2", "fftn", "ifft", "ifft2", "ifftn", *_HALF_RESULT, *_HALF_ARGUMENT)
}
