"""Initial values by name: pure functions ``(shape, dtype, seed) -> array``. Scales and names follow Keras.

A seed gives the same numbers on every library, device and number of threads, and under every variable name and scope;
without a seed they are new each time. They come from NumPy's Philox4x64-10, a counter-based generator, in blocks of
65536 elements in C order: the key is that of ``np.random.Philox(seed)``, the counter of block b is (0, 0, 0, b), lowest
word first, and the block is what `numpy.random.Generator` draws from there in float64. So all the cores draw at once,
and `part` draws a part of an array without the rest. A variable of another dtype gets the same numbers, rounded.

>>> import statevar as sv
>>> sv.Variable("glorot_uniform", shape=(2, 3), seed=0).shape
(2, 3)
>>> from functools import partial
>>> sv.Variable(partial(sv.initializers.constant, value=7), shape=(2,)).numpy()
array([7., 7.], dtype=float32)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial, wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from ._arrays import draws
from ._arrays.dtypes import dtype_name, host_of, is_floating
from ._arrays.first_values import Constant, Drawn, FirstValue, Made
from ._arrays.shapes import Shape, canonical_shape, is_static
from ._arrays.types import DType
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
    "part",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "zeros",
]

HostArray = np.ndarray[Any, Any]
Initializer = Callable[..., HostArray]
_Arguments = ParamSpec("_Arguments")

#: The standard deviation of a standard normal distribution that is truncated at -2 and 2.
_TRUNCATED_STDDEV = 0.87962566103423978

_BY_NAME: dict[str, Initializer] = {}
_FIRST_VALUES: dict[Any, Callable[..., FirstValue]] = {}


def _initializer(first_value: Callable[_Arguments, FirstValue]) -> Callable[_Arguments, HostArray]:
    """The function for users: it makes the array, where the decorated one only says what it is."""

    @wraps(first_value)
    def make(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> HostArray:
        return first_value(*args, **kwargs).to_host()

    first_value.__annotations__["return"] = make.__annotations__["return"] = "HostArray"  # for `help` and `signature`
    _BY_NAME[first_value.__name__] = make
    _FIRST_VALUES[make] = first_value
    return make


@_initializer
def zeros(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Returns zeros of any dtype."""
    return _constant(shape, dtype, np.zeros((), host_of(dtype)))


@_initializer
def ones(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Returns ones of any dtype."""
    return _constant(shape, dtype, np.ones((), host_of(dtype)))


@_initializer
def constant(shape: Shape, dtype: DType = "float32", seed: int | None = None, value: Any = 0) -> FirstValue:
    """Returns an array of any dtype with ``value`` in every element."""
    if np.ndim(value):
        return _made(np.full(shape, value, host_of(dtype)), dtype)
    return _constant(shape, dtype, np.full((), value, host_of(dtype)))


@_initializer
def normal(
    shape: Shape, dtype: DType = "float32", seed: int | None = None, mean: float = 0.0, stddev: float = 0.05
) -> FirstValue:
    """Draws from a normal distribution."""
    return _normal(shape, dtype, seed, mean, stddev)


@_initializer
def uniform(
    shape: Shape, dtype: DType = "float32", seed: int | None = None, low: float = -0.05, high: float = 0.05
) -> FirstValue:
    """Draws from a uniform distribution over ``[low, high)``."""
    return _uniform(shape, dtype, seed, low, high)


@_initializer
def truncated_normal(
    shape: Shape, dtype: DType = "float32", seed: int | None = None, mean: float = 0.0, stddev: float = 0.05
) -> FirstValue:
    """Draws from a normal distribution, and again where a value is more than two ``stddev`` from the mean."""
    return _truncated(shape, dtype, seed, mean, stddev)


@_initializer
def glorot_uniform(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Draws uniformly from ``±sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    return _scaled_uniform(shape, dtype, seed, 1.0, sum(_fans(shape)) / 2)


@_initializer
def glorot_normal(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Draws from a truncated normal of variance ``2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010)."""
    return _scaled_normal(shape, dtype, seed, 1.0, sum(_fans(shape)) / 2)


@_initializer
def he_uniform(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Draws uniformly from ``±sqrt(6 / fan_in)`` (He et al., 2015)."""
    return _scaled_uniform(shape, dtype, seed, 2.0, _fans(shape)[0])


@_initializer
def he_normal(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Draws from a truncated normal of variance ``2 / fan_in`` (He et al., 2015)."""
    return _scaled_normal(shape, dtype, seed, 2.0, _fans(shape)[0])


@_initializer
def lecun_uniform(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Draws uniformly from ``±sqrt(3 / fan_in)`` (LeCun et al., 1998)."""
    return _scaled_uniform(shape, dtype, seed, 1.0, _fans(shape)[0])


@_initializer
def lecun_normal(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Draws from a truncated normal of variance ``1 / fan_in`` (LeCun et al., 1998)."""
    return _scaled_normal(shape, dtype, seed, 1.0, _fans(shape)[0])


@_initializer
def variance_scaling(
    shape: Shape,
    dtype: DType = "float32",
    seed: int | None = None,
    scale: float = 1.0,
    mode: str = "fan_in",
    distribution: str = "truncated_normal",
) -> FirstValue:
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


@_initializer
def orthogonal(shape: Shape, dtype: DType = "float32", seed: int | None = None, gain: float = 1.0) -> FirstValue:
    """Draws a matrix with orthonormal rows or columns, times ``gain``; all axes but the last are rows (Saxe, 2014)."""
    if len(shape) < 2:
        raise ShapeError.of("orthogonal", f"expected a shape with at least two axes, got {shape}")
    rows, columns = math.prod(shape[:-1]), shape[-1]
    _floating(dtype)
    drawn = _normal((max(rows, columns), min(rows, columns)), "float64", seed, 0.0, 1.0).to_host()
    q, r = np.linalg.qr(drawn)
    q *= np.where(np.diag(r) < 0, -gain, gain)  # without the signs the distribution is not uniform
    return _made((q if rows >= columns else q.T).reshape(shape), dtype)


@_initializer
def identity(shape: Shape, dtype: DType = "float32", seed: int | None = None) -> FirstValue:
    """Returns a matrix of any dtype with ones on the diagonal and zeros elsewhere."""
    if len(shape) != 2:
        raise ShapeError.of("identity", f"expected a shape with two axes, got {shape}")
    return _made(np.eye(*shape, dtype=bool), dtype)


def part(
    initializer: str | Initializer,
    index: Sequence[slice],
    shape: Shape,
    dtype: DType = "float32",
    seed: int | None = None,
    **options: Any,
) -> HostArray:
    """Returns a part of what an initializer returns, without making the rest: for instance one device's part.

    At most a few megabytes of other elements are drawn at a time. An orthogonal matrix has to be made as a whole.

    Args:
        initializer: the name of an initializer, or a function of this module.
        index: one slice for each axis, with the step 1.
        shape: the shape of the whole.
        seed: random numbers need one, or the parts would not belong together.
        options: further arguments of the initializer, such as ``stddev``.

    Raises:
        InitializerError: there is no such initializer, the index has no such slices, or a seed is missing.

    >>> whole = normal((1000, 6), seed=3)
    >>> rows = part("normal", (slice(10, 20), slice(2, 4)), (1000, 6), seed=3)
    >>> bool((rows == whole[10:20, 2:4]).all())
    True
    """
    function = get(initializer) if isinstance(initializer, str) else initializer
    declared: Any = canonical_shape(shape)
    if function not in _FIRST_VALUES or not is_static(declared):
        raise InitializerError.of(
            "part", f"expected an initializer of statevar and a full shape, got {initializer!r} and {shape!r}"
        )
    slices = tuple(index)
    if len(slices) != len(declared) or {getattr(each, "step", 0) for each in slices} - {None, 1}:
        raise InitializerError.of(
            "part", f"expected a slice of step 1 for each axis of the shape {declared}, got {index!r}"
        )
    value = _FIRST_VALUES[function](declared, dtype, seed, **options)
    if seed is None and not isinstance(value, Constant) and function is not identity:
        raise InitializerError.of("part", "random numbers need a seed, or the parts would not belong together")
    return value.part(slices)


def get(name: str) -> Initializer:
    """Returns the initializer of a name, in our spelling or in any of Keras: ``"GlorotUniform"``, ``"random_normal"``.

    Raises:
        InitializerError: there is no such initializer; the message lists the known names.
    """
    function = _BY_NAME.get(name) or _BY_NAME.get(_folded(name))
    if function is not None:
        return function
    from difflib import get_close_matches  # noqa: PLC0415

    meant = _OF_TORCH.get(name.lower().strip("_"))
    close = [meant] if meant else get_close_matches(_folded(name), _BY_NAME, n=1)
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


#: The initializers that are meant by names of `torch.nn.init` and others; their parameters or defaults are others.
_OF_TORCH = {
    "xavier": "glorot_uniform",
    "xavier_uniform": "glorot_uniform",
    "xavier_normal": "glorot_normal",
    "kaiming": "he_normal",
    "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal",
    "trunc_normal": "truncated_normal",
    "normal": "normal",
    "uniform": "uniform",
    "gaussian": "normal",
    "randn": "normal",
    "rand": "uniform",
    "eye": "identity",
}


def _folded(name: str) -> str:
    """A name as we spell it: Keras also writes ``GlorotUniform`` and ``OrthogonalInitializer``."""
    snake = "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")
    if snake.rstrip("_") not in ("normal", "uniform"):  # torch draws from wider distributions by these names
        snake = snake.rstrip("_")
    snake = snake.removesuffix("_initializer")
    return _ALIASES.get(snake, snake)


def is_ours(initializer: Any) -> bool:
    """Whether a callable is a function of this module, or a `functools.partial` that only gives its options."""
    if type(initializer) is partial and not initializer.args and not {"shape", "dtype"} & initializer.keywords.keys():
        initializer = initializer.func
    return type(initializer) is FunctionType and initializer in _FIRST_VALUES


def draws_anew(initializer: Any, seed: Any) -> bool:
    """Whether an initializer of ours, or a name of one, draws other numbers each time: it is random, without a seed."""
    if seed is not None:
        return False
    if type(initializer) is partial:
        if initializer.keywords.get("seed") is not None:
            return False
        initializer = initializer.func
    function = get(initializer) if isinstance(initializer, str) else initializer
    return function not in (zeros, ones, constant, identity)


def first_value(initializer: Any, shape: Shape, dtype: str, seed: int | None) -> FirstValue:
    """What an initializer that `is_ours` returns, not made yet."""
    options = {"seed": seed}
    if type(initializer) is partial:
        initializer, options = initializer.func, options | initializer.keywords
    return _FIRST_VALUES[initializer](shape, dtype, **options)


def _constant(shape: Shape, dtype: Any, value: HostArray) -> FirstValue:
    return Constant(_full(shape), dtype_name(dtype), value)


def _made(array: HostArray, dtype: Any) -> FirstValue:
    host = np.array(array, host_of(dtype), order="C")
    return Made(host, host.shape, dtype_name(dtype))


def _drawn(shape: Shape, dtype: Any, seed: int | None, distribution: draws.Distribution) -> FirstValue:
    return Drawn(_full(shape), _floating(dtype), seed, distribution)


def _full(shape: Any) -> Shape:
    """A shape as a tuple: the functions also take a list, or one length."""
    return tuple(map(operator.index, shape)) if np.iterable(shape) else (operator.index(shape),)


def _floating(dtype: Any) -> str:
    name = dtype_name(dtype)
    if not is_floating(name):
        raise DTypeError.of(
            "initializer", f"random values need a floating-point dtype, got {name}", hint="pass dtype='float32'"
        )
    return name


def _normal(shape: Shape, dtype: Any, seed: int | None, mean: float, stddev: float) -> FirstValue:
    _check_spread("stddev", stddev)
    return _drawn(shape, dtype, seed, draws.normal(float(mean), float(stddev)))


def _truncated(shape: Shape, dtype: Any, seed: int | None, mean: float, stddev: float) -> FirstValue:
    _check_spread("stddev", stddev)
    return _drawn(shape, dtype, seed, draws.truncated_normal(float(mean), float(stddev)))


def _uniform(shape: Shape, dtype: Any, seed: int | None, low: float, high: float) -> FirstValue:
    _check_spread("high - low", high - low)
    return _drawn(shape, dtype, seed, draws.uniform(float(low), float(high)))


def _check_spread(argument: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise InitializerError.of("initializer", f"expected {argument} to be at least 0 and finite, got {value}")


def _fans(shape: Shape) -> tuple[float, float]:
    """The fan-in and fan-out of a weight; the axes before the last two are a convolution's window, as in Keras."""
    if len(shape) < 2:
        size = float(math.prod(shape))
        return size, size
    window = math.prod(shape[:-2])
    return float(window * shape[-2]), float(window * shape[-1])


def _scaled_uniform(shape: Shape, dtype: Any, seed: int | None, scale: float, fan: float) -> FirstValue:
    limit = math.sqrt(3.0 * scale / max(fan, 1.0))
    return _uniform(shape, dtype, seed, -limit, limit)


def _scaled_normal(shape: Shape, dtype: Any, seed: int | None, scale: float, fan: float) -> FirstValue:
    return _truncated(shape, dtype, seed, 0.0, math.sqrt(scale / max(fan, 1.0)) / _TRUNCATED_STDDEV)


def _scaled_untruncated(shape: Shape, dtype: Any, seed: int | None, scale: float, fan: float) -> FirstValue:
    return _normal(shape, dtype, seed, 0.0, math.sqrt(scale / max(fan, 1.0)))
