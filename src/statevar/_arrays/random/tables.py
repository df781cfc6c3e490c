"""The inverse of the normal distribution in tables, with which every library computes the same bits.

The logarithm and the error function of two libraries differ in the last bit, and a compiler may fuse a product and a
sum into one rounding. So a normal number is ``start[i] + fraction * slope[i]``, where a slope has so few bits that its
product with a fraction is exact: then the sum is the only rounding, fused or not.

A uniform integer m of `BITS` bits stands for the probability (m + 0.5) / 2**(BITS + 1) of a tail. The index is made of
the exponent of m and its 7 upper bits after the first one, and the fraction of the bits that follow. So the bins are
narrow where the tail is: their width is at most 1/128 of the probability.

The tables are computed once, with additions, products, quotients and square roots of float64 alone, which IEEE 754
rounds in one way on every machine.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

__all__ = ["DOUBLE", "INDEX_BITS", "SINGLE", "Precision", "normal_table"]

HostArray = np.ndarray[Any, Any]

#: The bits of an index that follow the first bit of the integer.
INDEX_BITS = 7


class Precision(NamedTuple):
    """How a normal number of one dtype is made.

    Attributes:
        dtype: the name of the dtype.
        bits: the bits of the integer.
        fraction: the bits of a fraction, and of a slope.
    """

    dtype: str
    bits: int
    fraction: int


SINGLE = Precision("float32", 31, 12)
DOUBLE = Precision("float64", 52, 26)


@cache
def normal_table(precision: Precision) -> tuple[HostArray, HostArray]:
    """The starts and the slopes of the bins: first that of m = 0, then those of m = 1, 2, 4 … with 128 each."""
    dtype, bits, fraction = precision
    count = 1 << INDEX_BITS
    exponents = np.repeat(np.arange(bits), count)
    low = np.ldexp(
        1 + np.tile(np.arange(count), bits) / count, exponents
    )  # the least m of each bin, perhaps no integer
    width = np.ldexp(1.0, exponents - INDEX_BITS)
    single = width <= 1  # such a bin has one integer, or none
    low = np.concatenate([[0.0], low])
    width = np.concatenate([[1.0], width])
    single = np.concatenate([[True], single])
    scale = 2.0 ** -(bits + 1)
    middle = _quantile(np.where(single, np.floor(low) + 0.5, low + width / 2) * scale)
    start, end = (
        _quantile(np.where(single, 0.25, low * scale)),
        _quantile(np.where(single, 0.25, (low + width) * scale)),
    )
    slope = _rounded((end - start) * 2.0**-fraction, fraction)
    # Simpson's rule: the mean over the bin is kept, though the bin is a line.
    mean = (start + 4 * middle + end) / 6
    steps = np.minimum(width, 2.0**fraction)  # the fractions that occur
    centre = (2.0**fraction - 2.0**fraction / np.maximum(steps, 1)) / 2
    slope = np.where(single, 0.0, slope)
    begin = np.where(single, middle, mean - slope * centre)
    tables = begin.astype(dtype), slope.astype(dtype)
    for each in tables:
        each.setflags(write=False)
    return tables


def _rounded(x: HostArray, bits: int) -> HostArray:
    """Numbers rounded to so many significant bits."""
    mantissa, exponent = np.frexp(x)
    rounded: HostArray = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    return rounded


def _quantile(p: HostArray) -> HostArray:
    """The x that a normal number exceeds with the probability p, at most one half: AS241 of Wichura (1988)."""
    q = 0.5 - p
    r = 0.180625 - q * q
    near = q * _polynomial(r, _NEAR) / _polynomial(r, _NEAR_BELOW)
    r = np.sqrt(-_logarithm(p))
    middle = _polynomial(r - 1.6, _MIDDLE) / _polynomial(r - 1.6, _MIDDLE_BELOW)
    far = _polynomial(r - 5.0, _FAR) / _polynomial(r - 5.0, _FAR_BELOW)
    return np.where(np.abs(q) <= 0.425, near, np.where(r <= 5, middle, far))


def _polynomial(x: HostArray, coefficients: tuple[float, ...]) -> HostArray:
    total = np.full_like(x, coefficients[-1])
    for each in coefficients[-2::-1]:
        total *= x
        total += each
    return total


def _logarithm(x: HostArray) -> HostArray:
    """The natural logarithm, without the function of the machine, which other machines may round in another way."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.7071067811865476
    mantissa, exponent = np.where(small, 2 * mantissa, mantissa), exponent - small
    z = (mantissa - 1) / (mantissa + 1)  # the logarithm is twice its inverse hyperbolic tangent
    square, total = z * z, np.zeros_like(z)
    for degree in range(29, 0, -2):
        total *= square
        total += 1 / degree
    found: HostArray = 2 * z * total + exponent * 0.6931471805599453
    return found


_NEAR = (
    *(3.3871328727963666080, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4),
    *(4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
)
_NEAR_BELOW = (
    *(1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3),
    *(2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)
_MIDDLE = (
    *(1.42343711074968357734, 4.63033784615654529590, 5.76949722146069140550, 3.64784832476320460504),
    *(1.27045825245236838258, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
)
_MIDDLE_BELOW = (
    *(1.0, 2.05319162663775882187, 1.67638483018380384940, 6.89767334985100004550e-1),
    *(1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)
_FAR = (
    *(6.65790464350110377720, 5.46378491116411436990, 1.78482653991729133580, 2.96560571828504891230e-1),
    *(2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
)
_FAR_BELOW = (
    *(1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2),
    *(7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)
