"""What may be drawn: the functions from random words to numbers, of which each library computes the same bits.

They use no operation that is rounded twice, or that two libraries or their compilers round in two ways.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import frexp, inf, ldexp
from typing import ClassVar

import numpy as np

from ..dtypes import HOST
from ..types import Array
from .words import Word, Words

__all__ = ["PRECISION", "Bernoulli", "Integers", "Normal", "Numbers", "Order", "Uniform", "Weighted", "WideIntegers"]

#: The bits of a significand, with the first one.
PRECISION = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}


class Numbers(ABC):
    """A kind of random numbers. It can be hashed, so that a library may keep a program for it."""

    #: The name of the dtype.
    dtype: str
    #: Whether an element depends on no other one, so that any range can be drawn alone.
    elementwise: ClassVar[bool] = True

    @property
    def words(self) -> int:
        """How many random words an element takes."""
        return 2

    def blocks(self, count: int) -> int:
        """The number of blocks, of two words each, that so many elements take."""
        return (count * self.words + 1) // 2

    @abstractmethod
    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        """Returns a flat array of numbers.

        Args:
            operands: arrays of parameters, as flat as the result.
        """


@dataclass(frozen=True)
class Uniform(Numbers):
    """Floating-point numbers in [low, high), all equally far apart."""

    dtype: str
    low: float
    high: float

    @property
    def words(self) -> int:
        return 2 if self.dtype == "float64" else 1

    @cached_property
    def grid(self) -> tuple[int, float]:
        """The number of points, and their distance: a power of two."""
        mantissa, exponent = frexp(self.high - self.low)
        bits = PRECISION[self.dtype]
        points = round(ldexp(mantissa, bits))
        if points == 1 << (bits - 1):
            points, exponent = 2 * points, exponent - 1
        return points, ldexp(1.0, exponent - bits)

    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        points, distance = self.grid
        bits = PRECISION[self.dtype]
        wide = self.dtype == "float64"
        kind = "float64" if wide else "float32"
        if wide:
            number = _wide(words, state, count, points)
        else:
            word = words.interleaved(*words.blocks(state, (count + 1) // 2), count)
            number = words.floating(_scaled(words, word, points, bits), kind)
        number = number * distance
        if self.low:
            number = number + _rounded(self.low, kind)
            number = words.clipped(number, self.low, _below(self.high, self.dtype))  # since it may be rounded up
        return number if kind == self.dtype else words.cast(number, self.dtype)


def _scaled(words: Words, word: Word, points: int, bits: int) -> Word:
    """An integer below the number of points, of 2**bits at most."""
    if points == 1 << bits:
        return words.shifted(word, bits - 32)
    return words.product(word, words.constant(points))[0]


def _wide(words: Words, state: Array, count: int, points: int) -> Array:
    """Integers below 2**53 at most, as float64."""
    upper, lower = words.blocks(state, count)
    if points == 1 << 53:
        first, second = words.shifted(upper, -5), words.shifted(lower, -6)
        return words.floating(first, "float64") * 2.0**26 + words.floating(second, "float64")
    first, second, *_ = _multiplied(words, [upper, lower], points)
    # In two halves of 16 bits, so that each converts without a sign.
    half, rest = words.shifted(second, -16), words.both(second, words.constant(0xFFFF))
    number = words.floating(first, "float64") * 2.0**32 + words.floating(half, "float64") * 2.0**16
    return number + words.floating(rest, "float64")


def _multiplied(words: Words, drawn: list[Word], size: int) -> list[Word]:
    """The product of a number of several words, the uppermost first, and one of 64 bits, in as many words as both."""
    zero = words.both(drawn[0], words.constant(0))
    total = [zero] * (len(drawn) + 2)  # the lowest first
    for i, word in enumerate(reversed(drawn)):
        for j, factor in enumerate((size & 0xFFFFFFFF, size >> 32)):
            upper, lower = words.product(word, words.constant(factor))
            total[i + j] = words.add(total[i + j], lower)
            carried = words.add(upper, words.carry(total[i + j], lower))  # which does not overflow
            for k in range(i + j + 1, len(total)):
                total[k] = words.add(total[k], carried)
                carried = words.carry(total[k], carried)
    return total[::-1]


def _rounded(number: float, dtype: str) -> float:
    return float(HOST[dtype].type(number))


def _below(number: float, dtype: str) -> float:
    """The largest number of a dtype below another one."""
    host = HOST[dtype]
    rounded = host.type(number)
    if float(rounded) < number:
        return float(rounded)
    if dtype == "bfloat16":
        bits = np.asarray(rounded).view(np.uint16)
        if rounded == 0:
            return -float(np.asarray(1, np.uint16).view(host))
        return float((bits - np.uint16(1) if rounded > 0 else bits + np.uint16(1)).view(host))
    return float(np.nextafter(rounded, host.type(-inf)))


@dataclass(frozen=True)
class Normal(Numbers):
    """Numbers of a normal distribution of the mean 0 and the variance 1."""

    dtype: str

    @property
    def words(self) -> int:
        return 2 if self.dtype == "float64" else 1

    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        if self.dtype == "float64":
            return words.normal_double(*words.blocks(state, count))
        number = words.normal(words.interleaved(*words.blocks(state, (count + 1) // 2), count))
        return number if self.dtype == "float32" else words.cast(number, self.dtype)


@dataclass(frozen=True)
class Integers(Numbers):
    """Integers of at most 32 bits in [low, high), the upper word of the product of 64 random bits and their number.

    The operands are the bounds, modulo 2**32.

    Args:
        full: whether there are 2**32 of them.
    """

    dtype: str
    full: bool = False

    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        low, high = map(words.from_integers, operands)
        number, lower = words.blocks(state, count)
        if not self.full:
            minus = words.add(words.xor(low, words.constant(0xFFFFFFFF)), words.constant(1))
            number = words.below(words.add(high, minus), number, lower)
        return words.integers((words.add(number, low),), self.dtype)


@dataclass(frozen=True)
class WideIntegers(Numbers):
    """Integers of 64 bits in [low, high): of 64 random bits or, if there are more than 2**32 of them, of 128."""

    dtype: str
    low: int
    high: int

    @property
    def words(self) -> int:
        return 4 if self.high - self.low > 1 << 32 else 2

    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        size = self.high - self.low
        first, second = words.blocks(state, count * self.words // 2)
        if self.words == 2:
            drawn = [words.below(words.constant(size), first, second)] if size < 1 << 32 else [first]
        else:
            drawn = [words.every_second(each, start) for start in (0, 1) for each in (first, second)]
            drawn = (drawn if size == 1 << 64 else _multiplied(words, drawn, size))[:2]
        number = words.add(drawn[-1], words.constant(self.low & 0xFFFFFFFF))
        upper = words.add(words.carry(number, drawn[-1]), words.constant((self.low >> 32) & 0xFFFFFFFF))
        if len(drawn) == 2:
            upper = words.add(upper, drawn[0])
        return words.integers((upper, number), self.dtype)


@dataclass(frozen=True)
class Bernoulli(Numbers):
    """True with the probability of the operand, of float32, to the nearest multiple of 2**-32."""

    dtype: str = "bool"

    @property
    def words(self) -> int:
        return 1

    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        word = words.interleaved(*words.blocks(state, (count + 1) // 2), count)
        (p,) = operands
        limit = words.from_floating(words.rounded(words.clipped(p, 0.0, 1 - 2.0**-24) * 2.0**32))
        return words.less(word, limit) | (p >= 1.0)


@dataclass(frozen=True)
class Order(Numbers):
    """The numbers 0, 1, 2 … in random order: that of random pairs of words."""

    dtype: str = "int32"
    elementwise: ClassVar[bool] = False

    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        return words.cast(words.order(*words.blocks(state, count)), self.dtype)


@dataclass(frozen=True)
class Weighted(Numbers):
    """Indices with the probabilities of the operand, of float32, each to the nearest multiple of 2**-31."""

    dtype: str = "int32"
    elementwise: ClassVar[bool] = False

    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        (p,) = operands
        weights = words.from_floating(words.rounded(words.clipped(p, 0.0, 1.0) * 2.0**31))
        ends = words.cumulated(weights)  # of integers, whose sum does not depend on the order
        drawn = words.below(ends[-1:], *words.blocks(state, count))
        return words.cast(words.position(ends, drawn), self.dtype)
