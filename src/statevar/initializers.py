"""Initial values by name: pure functions ``(shape, dtype, seed) -> array``.

Values are drawn on the host from NumPy's Philox generator and then passed to the backend, so that a seed gives the same
numbers on every backend. Scales and names follow Keras.

>>> import statevar as sv
>>> sv.Variable("glorot_uniform", shape=(2, 3), seed=0).shape
(2, 3)
>>> from functools import partial
>>> sv.Variable(partial(sv.initializers.constant, value=7), shape=(2,)).numpy()
array([7., 7.], dtype=float32)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._arrays.dtypes import HOST, dtype_name, host_of, is_floating
from ._arrays.shapes import Shape
from .errors import DTypeError, InitializerError, ShapeError, describe

__all__ = [
    "constant",
    "get",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identity",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "zeros",
]

HostArray = np.ndarray[Any, Any]
Initializer = Callable[..., HostArray]

#: The standard deviation of a standard normal distribution that is truncated at -2 and 2.
_TRUNCATED_STDDEV = 0.87962566103423978


def zeros(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Returns zeros of any dtype."""
    return np.zeros(shape, host_of(dtype))


def ones(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Returns ones of any dtype."""
    return np.ones(shape, host_of(dtype))


def constant(shape: Shape, dtype: Any = "float32", seed: int | None = None, value: Any = 0) -> HostArray:
    """Returns an array of any dtype with ``value`` in every element."""
    return np.full(shape, value, host_of(dtype))


def normal(
    shape: Shape, dtype: Any = "float32", seed: int | None = None, mean: float = 0.0, stddev: float = 0.05
) -> HostArray:
    """Draws from a normal distribution."""
    return _draw(lambda rng: rng.normal(mean, stddev, shape), dtype, seed)


def uniform(
    shape: Shape, dtype: Any = "float32", seed: int | None = None, low: float = -0.05, high: float = 0.05
) -> HostArray:
    """Draws from a uniform distribution over ``[low, high)``."""
    return _draw(lambda rng: rng.uniform(low, high, shape), dtype, seed)


def truncated_normal(
    shape: Shape, dtype: Any = "float32", seed: int | None = None, mean: float = 0.0, stddev: float = 0.05
) -> HostArray:
    """Draws from a normal distribution, and again where a value is more than two ``stddev`` from the mean."""
    return _draw(lambda rng: mean + stddev * _truncated(rng, shape), dtype, seed)


def glorot_uniform(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Draws uniformly from ``±sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    return _scaled_uniform(shape, dtype, seed, 1.0, sum(_fans(shape)) / 2)


def glorot_normal(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Draws from a truncated normal of variance ``2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010)."""
    return _scaled_normal(shape, dtype, seed, 1.0, sum(_fans(shape)) / 2)


def he_uniform(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Draws uniformly from ``±sqrt(6 / fan_in)`` (He et al., 2015)."""
    return _scaled_uniform(shape, dtype, seed, 2.0, _fans(shape)[0])


def he_normal(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Draws from a truncated normal of variance ``2 / fan_in`` (He et al., 2015)."""
    return _scaled_normal(shape, dtype, seed, 2.0, _fans(shape)[0])


def lecun_uniform(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Draws uniformly from ``±sqrt(3 / fan_in)`` (LeCun et al., 1998)."""
    return _scaled_uniform(shape, dtype, seed, 1.0, _fans(shape)[0])


def lecun_normal(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Draws from a truncated normal of variance ``1 / fan_in`` (LeCun et al., 1998)."""
    return _scaled_normal(shape, dtype, seed, 1.0, _fans(shape)[0])


def variance_scaling(
    shape: Shape,
    dtype: Any = "float32",
    seed: int | None = None,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
) -> HostArray:
    """Draws with the variance ``scale / n``, where ``mode`` says what n is.

    Args:
        mode: ``"fan_in"``, ``"fan_out"`` or ``"fan_avg"``.
        distribution: ``"truncated_normal"``, ``"untruncated_normal"`` or ``"uniform"``.
    """
    fan_in, fan_out = _fans(shape)
    fans = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    draws = {
        "truncated_normal": _scaled_normal,
        "uniform": _scaled_uniform,
        "untruncated_normal": _scaled_untruncated,
    }
    for given, known, argument in ((mode, fans, "mode"), (distribution, draws, "distribution")):
        if given not in known:
            raise InitializerError.of("variance_scaling", f"expected {argument} in {', '.join(known)}, got {given!r}")
    return draws[distribution](shape, dtype, seed, scale, fans[mode])


def orthogonal(shape: Shape, dtype: Any = "float32", seed: int | None = None, gain: float = 1.0) -> HostArray:
    """Draws a matrix with orthonormal rows or columns, times ``gain``; all axes but the last are rows (Saxe, 2014)."""
    if len(shape) < 2:
        raise ShapeError.of("orthogonal", f"expected a shape with at least two axes, got {shape}")
    rows, columns = math.prod(shape[:-1]), shape[-1]

    def draw(rng: np.random.Generator) -> HostArray:
        q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # without the signs the distribution is not uniform
        return gain * (q if rows >= columns else q.T).reshape(shape)

    return _draw(draw, dtype, seed)


def identity(shape: Shape, dtype: Any = "float32", seed: int | None = None) -> HostArray:
    """Returns a matrix of any dtype with ones on the diagonal and zeros elsewhere."""
    if len(shape) != 2:
        raise ShapeError.of("identity", f"expected a shape with two axes, got {shape}")
    return np.eye(*shape).astype(host_of(dtype))


_BY_NAME: dict[str, Initializer] = {
    function.__name__: function
    for function in (
        zeros,
        ones,
        constant,
        normal,
        uniform,
        truncated_normal,
        glorot_uniform,
        glorot_normal,
        he_uniform,
        he_normal,
        lecun_uniform,
        lecun_normal,
        variance_scaling,
        orthogonal,
        identity,
    )
}


def get(name: str) -> Initializer:
    """Returns the initializer of a name, in our spelling or in any of Keras: ``"GlorotUniform"``, ``"random_normal"``.

    Raises:
        InitializerError: there is no such initializer; the message lists the known names.
    """
    function = _BY_NAME.get(name) or _BY_NAME.get(_folded(name))
    if function is not None:
        return function
    from difflib import get_close_matches  # noqa: PLC0415

    close = get_close_matches(_folded(name), _BY_NAME, n=1)
    raise InitializerError.of(
        "initializer",
        f"unknown initializer {name!r}",
        hint=f"{f'did you mean {close[0]!r}? ' if close else ''}known initializers are {', '.join(_BY_NAME)}; for a "
        f"string as the value, write [{name!r}], and for a name, name={name!r}",
    )


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name[:1] != "_" and (meant := _folded(name)) in _BY_NAME:
            hint = f"write sv.initializers.{meant}, or its name: sv.Variable({meant!r}, shape=…)"
            raise AttributeError(describe("initializers", f"has no attribute {name!r}", hint=hint))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


#: Other names of Keras for the same initializers.
_ALIASES = {"random_normal": "normal", "random_uniform": "uniform", "zero": "zeros", "one": "ones"}


def _folded(name: str) -> str:
    """A name as we spell it: Keras also writes ``GlorotUniform`` and ``OrthogonalInitializer``."""
    snake = "".join(f"_{each.lower()}" if each.isupper() else each for each in name).strip("_")
    snake = snake.removesuffix("_initializer")
    return _ALIASES.get(snake, snake)


def _draw(draw: Callable[[np.random.Generator], HostArray], dtype: Any, seed: int | None) -> HostArray:
    name = dtype_name(dtype)
    if not is_floating(name):
        raise DTypeError.of(
            "initializer", f"random values need a floating-point dtype, got {name}", hint="pass dtype='float32'"
        )
    # Always drawn in float64, so that float32 and float64 variables get the same numbers.
    return np.asarray(draw(np.random.Generator(np.random.Philox(seed)))).astype(HOST[name])


def _truncated(rng: np.random.Generator, shape: Shape) -> HostArray:
    values = np.asarray(rng.standard_normal(shape))
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(int(outside.sum()))
    return values


def _fans(shape: Shape) -> tuple[float, float]:
    """The fan-in and fan-out of a weight; the axes before the last two are a convolution's window, as in Keras."""
    if len(shape) < 2:
        size = float(math.prod(shape))
        return size, size
    window = math.prod(shape[:-2])
    return float(window * shape[-2]), float(window * shape[-1])


def _scaled_uniform(shape: Shape, dtype: Any, seed: int | None, scale: float, fan: float) -> HostArray:
    limit = math.sqrt(3.0 * scale / max(fan, 1.0))
    return uniform(shape, dtype, seed, -limit, limit)


def _scaled_normal(shape: Shape, dtype: Any, seed: int | None, scale: float, fan: float) -> HostArray:
    return truncated_normal(shape, dtype, seed, 0.0, math.sqrt(scale / max(fan, 1.0)) / _TRUNCATED_STDDEV)


def _scaled_untruncated(shape: Shape, dtype: Any, seed: int | None, scale: float, fan: float) -> HostArray:
    return normal(shape, dtype, seed, 0.0, math.sqrt(scale / max(fan, 1.0)))
