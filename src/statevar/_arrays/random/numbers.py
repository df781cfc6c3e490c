"""What may be drawn: the functions from random words to numbers, of which each library computes the same bits.

They use no operation that is rounded twice, or that two libraries or their compilers round in two ways.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import frexp, inf, ldexp
from typing import Any, ClassVar

import numpy as np

from ..dtypes import HOST
from ..types import Array
from .tables import DOUBLE, INDEX_BITS, SINGLE, normal_table
from .words import Word, Words

__all__ = ["PRECISION", "Bernoulli", "Integers", "Normal", "Numbers", "Order", "Uniform", "Weighted"]

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
    first, second, *_ = _multiplied(words, [upper, lower], [points >> 32, points & 0xFFFFFFFF])
    # In two halves of 16 bits, so that each converts without a sign.
    half, rest = words.shifted(second, -16), words.both(second, words.constant(0xFFFF))
    number = words.floating(first, "float64") * 2.0**32 + words.floating(half, "float64") * 2.0**16
    return number + words.floating(rest, "float64")


def _multiplied(words: Words, left: list[Word], right: list[Any]) -> list[Word]:
    """The product of numbers of several words, the uppermost first."""
    zero = words.both(left[0], words.constant(0))
    total = [zero] * (len(left) + len(right))  # the lowest first
    for i, a in enumerate(reversed(left)):
        for j, b in enumerate(reversed(right)):
            upper, lower = words.product(a, words.constant(b) if isinstance(b, int) else b)
            total[i + j] = words.add(total[i + j], lower)
            carried = words.add(upper, words.carry(total[i + j], lower))  # which does not overflow
            for k in range(i + j + 1, len(total)):
                total[k] = words.add(total[k], carried)
                if k + 1 < len(total):
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
            return self._double(words, state, count)
        word = words.interleaved(*words.blocks(state, (count + 1) // 2), count)
        integer = words.both(word, words.constant(0x7FFFFFFF))
        # With 24 bits at most, so that no library rounds it.
        large = words.less(words.constant(0xFFFFFF), integer)
        integer = words.chosen(large, words.both(integer, words.constant(0x7FFFFF80)), integer)
        (bits,) = words.bits(words.floating(integer, "float32"))
        fraction = words.both(words.shifted(bits, INDEX_BITS + SINGLE.fraction - 23), words.constant(0xFFF))
        index = _index(words, words.shifted(bits, INDEX_BITS - 23), 127 << INDEX_BITS)
        start, slope = (words.at(each, index) for each in normal_table(SINGLE))
        number = start + words.floating(fraction, "float32") * slope
        number = words.chosen(words.less(word, words.constant(1 << 31)), number, -number)
        return number if self.dtype == "float32" else words.cast(number, self.dtype)

    def _double(self, words: Words, state: Array, count: int) -> Array:
        word, lower = words.blocks(state, count)
        integer = words.floating(words.both(word, words.constant(0x7FFFFFFF)), "float64") * 2.0**21
        upper, lower = words.bits(integer + words.floating(words.shifted(lower, -11), "float64"))
        first = words.shifted(words.both(upper, words.constant(0x1FFF)), 13)
        fraction = words.either(first, words.shifted(lower, -19))
        index = _index(words, words.shifted(upper, INDEX_BITS - 20), 1023 << INDEX_BITS)
        start, slope = (words.at(each, index) for each in normal_table(DOUBLE))
        number = start + words.floating(fraction, "float64") * slope
        return words.chosen(words.less(word, words.constant(1 << 31)), number, -number)


def _index(words: Words, index: Word, one: int) -> Word:
    """The index in a table, given the upper bits of a number and those of the number 1."""
    positive = words.less(words.constant(0), index)
    zero = words.both(index, words.constant(0))
    return words.chosen(positive, words.add(index, words.constant(2**32 - one + 1)), zero)


@dataclass(frozen=True)
class Integers(Numbers):
    """Integers in [low, high), the products of 64 random bits, or 128 for a wide dtype, and the number of them.

    Args:
        low, high: the bounds; None if they are operands, of a dtype of 32 bits at most.
    """

    dtype: str
    low: int | None = None
    high: int | None = None

    @property
    def wide(self) -> bool:
        """Whether the integers are wider than a word."""
        return self.dtype.endswith("64")

    @property
    def words(self) -> int:
        return 4 if self.low is not None and self.high is not None and self.high - self.low > 1 << 32 else 2

    def draw(self, words: Words, state: Array, count: int, *operands: Array) -> Array:
        if self.low is None or self.high is None:
            low, high = map(words.from_integers, operands)
            minus = words.add(words.xor(low, words.constant(0xFFFFFFFF)), words.constant(1))
            number = _multiplied(words, [*words.blocks(state, count)], [words.add(high, minus)])[0]
            return words.integers((words.add(low, number),), self.dtype)
        size = self.high - self.low
        if size > 1 << 32:
            first, second = words.blocks(state, 2 * count)
            drawn = [words.every_second(each, start) for start in (0, 1) for each in (first, second)]
        else:
            drawn = [*words.blocks(state, count)]
        if size == 1 << len(drawn) * 16:
            upper = drawn[: len(drawn) // 2]
        else:
            limbs = [size >> 32, size & 0xFFFFFFFF] if size > 1 << 32 else [size]
            upper = _multiplied(words, drawn, limbs)[: len(limbs)]
        return self._from(words, upper)

    def _from(self, words: Words, upper: list[Word]) -> Array:
        assert self.low is not None
        low = words.constant(self.low & 0xFFFFFFFF)
        number = words.add(upper[-1], low)
        if not self.wide:
            return words.integers((number,), self.dtype)
        high = words.constant((self.low >> 32) & 0xFFFFFFFF)
        carried = words.add(words.carry(number, upper[-1]), high)
        if len(upper) == 2:
            carried = words.add(carried, upper[0])
        return words.integers((carried, number), self.dtype)


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
        drawn = _multiplied(words, [*words.blocks(state, count)], [ends[-1:]])[0]
        return words.cast(words.position(ends, drawn), self.dtype)
