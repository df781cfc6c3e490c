"""The extension ``fft`` of the array API, with TensorFlow's functions. Operands may be variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ...errors import describe
from .receive import tensor_of

__all__ = [
    "fft",
    "fftfreq",
    "fftn",
    "fftshift",
    "hfft",
    "ifft",
    "ifftn",
    "ifftshift",
    "ihfft",
    "irfft",
    "irfftn",
    "rfft",
    "rfftfreq",
    "rfftn",
]


def fft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    return _complex(tf.signal.fft, x, n, axis, norm, inverse=False)


def ifft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    return _complex(tf.signal.ifft, x, n, axis, norm, inverse=True)


def fftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    return _along(fft, x, s, axes, norm)


def ifftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    return _along(ifft, x, s, axes, norm)


def rfft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    x = _last(tensor_of(x), axis)
    n = x.shape[-1] if n is None else n
    return _back(tf.signal.rfft(x, [n]), axis) * _scale(n, norm, inverse=False)


def irfft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    x = _last(_as_complex(tensor_of(x)), axis)
    n = 2 * (x.shape[-1] - 1) if n is None else n
    result = _back(tf.signal.irfft(x, [n]), axis)
    return result * tf.cast(_scale(n, norm, inverse=True), result.dtype)


def rfftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    x = tensor_of(x)
    sizes, axes = _resolved(x, s, axes)
    x = rfft(x, n=sizes[-1], axis=axes[-1], norm=norm)
    return _along(fft, x, sizes[:-1], axes[:-1], norm) if len(axes) > 1 else x


def irfftn(x: Any, /, *, s: Any = None, axes: Any = None, norm: str = "backward") -> Any:
    x = tensor_of(x)
    sizes, axes = _resolved(x, s, axes)
    last = sizes[-1] if s is not None else 2 * (sizes[-1] - 1)
    if len(axes) > 1:
        x = _along(ifft, x, sizes[:-1], axes[:-1], norm)
    return irfft(x, n=last, axis=axes[-1], norm=norm)


def hfft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    x = _as_complex(tensor_of(x))
    return irfft(tf.math.conj(x), n=n, axis=axis, norm=_OTHER[norm])


def ihfft(x: Any, /, *, n: int | None = None, axis: int = -1, norm: str = "backward") -> Any:
    return tf.math.conj(rfft(x, n=n, axis=axis, norm=_OTHER[norm]))


def fftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Any:
    with tf.device(device):
        return tf.constant(np.fft.fftfreq(n, d), dtype or tf.float32)


def rfftfreq(n: int, /, *, d: float = 1.0, dtype: Any = None, device: Any = None) -> Any:
    with tf.device(device):
        return tf.constant(np.fft.rfftfreq(n, d), dtype or tf.float32)


def fftshift(x: Any, /, *, axes: Any = None) -> Any:
    return tf.signal.fftshift(tensor_of(x), axes)


def ifftshift(x: Any, /, *, axes: Any = None) -> Any:
    return tf.signal.ifftshift(tensor_of(x), axes)


_OTHER = {"backward": "forward", "forward": "backward", "ortho": "ortho"}


def _complex(function: Callable[[Any], Any], x: Any, n: int | None, axis: int, norm: str, *, inverse: bool) -> Any:
    x = _last(_as_complex(tensor_of(x)), axis)
    n = x.shape[-1] if n is None else n
    return _back(function(_resized(x, n)), axis) * _scale(n, norm, inverse=inverse)


def _scale(n: int, norm: str, *, inverse: bool) -> Any:
    """What TensorFlow's result, which is normalized backward, is multiplied with."""
    if norm not in _OTHER:
        raise ValueError(describe("fft", f"expected norm='backward', 'ortho' or 'forward', got {norm!r}"))
    return {"backward": 1.0, "ortho": n**0.5 if inverse else n**-0.5, "forward": n if inverse else 1 / n}[norm]


def _as_complex(x: Any) -> Any:
    return x if x.dtype.is_complex else tf.cast(x, tf.complex128 if x.dtype == tf.float64 else tf.complex64)


def _resized(x: Any, n: int) -> Any:
    """The last axis cut off, or filled up with zeros."""
    length = x.shape[-1]
    if n <= length:
        return x[..., :n]
    return tf.pad(x, [[0, 0]] * (x.shape.rank - 1) + [[0, n - length]])


def _resolved(x: Any, s: Any, axes: Any) -> tuple[list[int], list[int]]:
    if axes is None:
        axes = range(x.shape.rank) if s is None else range(-len(s), 0)
    axes = list(axes)
    return ([x.shape[axis] for axis in axes] if s is None else list(s)), axes


def _along(function: Callable[..., Any], x: Any, s: Any, axes: Sequence[int] | None, norm: str) -> Any:
    x = tensor_of(x)
    for n, axis in zip(*_resolved(x, s, axes), strict=True):
        x = function(x, n=n, axis=axis, norm=norm)
    return x


def _last(x: Any, axis: int) -> Any:
    return x if axis in (-1, x.shape.rank - 1) else tf.experimental.numpy.moveaxis(x, axis, -1)


def _back(x: Any, axis: int) -> Any:
    return x if axis in (-1, x.shape.rank - 1) else tf.experimental.numpy.moveaxis(x, -1, axis)
