"""The arithmetic on words that a library must have for random numbers: the interface `Words`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, TypeAlias

import numpy as np

from ..types import Array, HostArray
from .tables import DOUBLE, INDEX_BITS, SINGLE, Precision, normal_table
from .threefry import threefry

__all__ = ["Word", "Words"]

#: An array of words in the form that one library computes with them.
Word: TypeAlias = Any

#: The upper word of the numbers of the blocks that are the keys of lanes. No stream comes there.
LANES = 0xFFFFFFFF

_MASK = 0xFFFF


class Words(ABC):
    """Arithmetic on flat arrays of words: integers of 32 bits without a sign, modulo 2**32.

    A state is an array of int32 of the shape (4,) with the bits of four words: the key, and the number of the next
    block, the lower word first. An array of one word broadcasts.
    """

    #: The number of blocks that are computed together: words count them.
    largest = 1 << 31

    # -- of the library ------------------------------------------------------------------------------------

    @abstractmethod
    def unpacked(self, state: Array) -> tuple[Word, Word, Word, Word]:
        """The words of a state, each as an array of one."""

    @abstractmethod
    def packed(self, words: tuple[Word, Word, Word, Word]) -> Array:
        """The state of four arrays of one word."""

    @abstractmethod
    def counted(self, count: int, beside: Word) -> Word:
        """The words 0, 1, 2 … on the device of another array."""

    def constant(self, number: int) -> Word:
        """A word that broadcasts."""
        return np.uint32(number)

    # What follows is right for arrays of uint32 with the operators of NumPy.

    def add(self, left: Word, right: Word) -> Word:
        """The sum modulo 2**32."""
        return left + right

    def xor(self, left: Word, right: Word) -> Word:
        """The bits in which two words differ."""
        return left ^ right

    def both(self, left: Word, right: Word) -> Word:
        """The bits that two words have in common."""
        return left & right

    def either(self, left: Word, right: Word) -> Word:
        """The bits that at least one of two words has."""
        return left | right

    def shifted(self, word: Word, distance: int) -> Word:
        """The bits moved to the left or, if the distance is negative, to the right; zeros follow."""
        return word << self.constant(distance) if distance >= 0 else word >> self.constant(-distance)

    def times(self, left: Word, right: Word) -> Word:
        """The product modulo 2**32."""
        return left * right

    @abstractmethod
    def less(self, left: Word, right: Word) -> Array:
        """Whether the left word is less than the right one."""

    @abstractmethod
    def chosen(self, condition: Array, yes: Array, no: Array) -> Array:
        """Elements of two arrays, or of two arrays of words."""

    @abstractmethod
    def joined(self, parts: list[Word]) -> Word:
        """Arrays of words one after the other."""

    @abstractmethod
    def interleaved(self, left: Word, right: Word, count: int) -> Word:
        """The first words of an array that takes one word of each in turn."""

    @abstractmethod
    def at(self, table: HostArray, index: Word) -> Array:
        """The elements of a table, as an array of the library, on the device of the index."""

    @abstractmethod
    def cast(self, array: Array, dtype: str) -> Array:
        """The array, not of words, in another dtype."""

    @abstractmethod
    def floating(self, word: Word, dtype: str) -> Array:
        """Words below 2**31 as float32 or float64, to which they convert without rounding."""

    @abstractmethod
    def from_floating(self, array: Array) -> Word:
        """Numbers in [0, 2**32) of float32 that are integers as words."""

    @abstractmethod
    def bits(self, array: Array) -> tuple[Word, ...]:
        """The bits of float32 as one word, or of float64 as two, the upper first."""

    @abstractmethod
    def integers(self, words: tuple[Word, ...], dtype: str) -> Array:
        """One word as integers of at most 32 bits, or two words, the upper first, as integers of 64 bits."""

    @abstractmethod
    def from_integers(self, array: Array) -> Word:
        """The lower 32 bits of integers."""

    @abstractmethod
    def every_second(self, word: Word, start: int) -> Word:
        """Every second word, from the first or the second one on."""

    @abstractmethod
    def clipped(self, array: Array, low: float, high: float) -> Array:
        """Numbers that are not below one and not above the other, in the dtype of the array."""

    @abstractmethod
    def rounded(self, array: Array) -> Array:
        """The nearest integers, even ones for halves, in the dtype of the array."""

    @abstractmethod
    def cumulated(self, word: Word) -> Word:
        """The sum of each word and those before it, modulo 2**32."""

    @abstractmethod
    def position(self, ends: Word, word: Word) -> Array:
        """How many of the ends, which do not decrease, are not above a word."""

    @abstractmethod
    def order(self, upper: Word, lower: Word) -> Array:
        """The indices that sort pairs of words; equal pairs keep their order."""

    # -- made of these ---------------------------------------------------------------------------------------

    def rotated(self, word: Word, distance: int) -> Word:
        """The bits moved to the left; those that fall off come back on the right."""
        return self.either(self.shifted(word, distance), self.shifted(word, distance - 32))

    def product(self, left: Word, right: Word) -> tuple[Word, Word]:
        """The upper and the lower word of the product."""
        mask = self.constant(_MASK)
        a, b = self.shifted(left, -16), self.both(left, mask)
        c, d = self.shifted(right, -16), self.both(right, mask)
        low, left_middle, right_middle = self.times(b, d), self.times(a, d), self.times(b, c)
        middle = self.add(self.add(self.both(left_middle, mask), self.both(right_middle, mask)), self.shifted(low, -16))
        upper = self.add(
            self.add(self.times(a, c), self.shifted(middle, -16)),
            self.add(self.shifted(left_middle, -16), self.shifted(right_middle, -16)),
        )
        return upper, self.either(self.shifted(middle, 16), self.both(low, mask))

    def carry(self, total: Word, part: Word) -> Word:
        """1 where a sum modulo 2**32 is less than a part of it, else 0."""
        return self.chosen(self.less(total, part), self.constant(1), self.constant(0))

    def below(self, size: Word, upper: Word, lower: Word) -> Word:
        """Integers below a size: the upper word of the product of it and the random number in two words."""
        first, middle = self.product(upper, size)
        total = self.add(middle, self.product(lower, size)[0])
        return self.add(first, self.carry(total, middle))

    def normal(self, word: Word) -> Array:
        """Numbers of a normal distribution as float32, each of one random word. See `tables`."""
        integer = self.both(word, self.constant(0x7FFFFFFF))
        # With 24 bits at most, so that no library rounds it, and with all 20 bits that count.
        for least, kept in ((1 << 24, 0x7FFFFFF8), (1 << 27, 0x7FFFFF80)):
            small = self.less(integer, self.constant(least))
            integer = self.chosen(small, integer, self.both(integer, self.constant(kept)))
        (bits,) = self.bits(self.floating(integer, "float32"))
        fraction = self.both(self.shifted(bits, INDEX_BITS + SINGLE.fraction - 23), self.constant(0xFFF))
        return self._line(SINGLE, self.shifted(bits, INDEX_BITS - 23), 127, fraction, word)

    def normal_double(self, upper: Word, lower: Word) -> Array:
        """Numbers of a normal distribution as float64, each of two random words."""
        integer = self.floating(self.both(upper, self.constant(0x7FFFFFFF)), "float64") * 2.0**21
        first, second = self.bits(integer + self.floating(self.shifted(lower, -11), "float64"))
        fraction = self.shifted(self.both(first, self.constant(0x1FFF)), 13)
        fraction = self.either(fraction, self.shifted(second, -19))
        return self._line(DOUBLE, self.shifted(first, INDEX_BITS - 20), 1023, fraction, upper)

    def _line(self, precision: Precision, index: Word, bias: int, fraction: Word, sign: Word) -> Array:
        """The numbers on the lines of a table.

        Args:
            index: the exponent with its bias, and the bits of the index that follow.
            sign: a word, whose first bit is the sign.
        """
        positive = self.less(self.constant(0), index)  # else it is that of the number 0
        index = self.add(index, self.constant(2**32 + 1 - (bias << INDEX_BITS)))
        index = self.chosen(positive, index, self.both(index, self.constant(0)))
        start, slope = (self.at(each, index) for each in normal_table(precision))
        number = start + self.floating(fraction, precision.dtype) * slope
        return self.chosen(self.less(sign, self.constant(1 << 31)), number, -number)

    def blocks(self, state: Array, count: int) -> tuple[Word, Word]:
        """The two random words of each of the next blocks."""
        if count > self.largest:
            states = [(self.after(state, start), start) for start in range(0, count, self.largest)]
            parts = [self.blocks(each, min(self.largest, count - start)) for each, start in states]
            return self.joined([first for first, _ in parts]), self.joined([second for _, second in parts])
        *key, low, high = self.unpacked(state)
        position = self.add(low, self.counted(count, low))
        return threefry(self, (key[0], key[1]), (position, self.add(high, self.carry(position, low))))

    def moved(self, state: Array, lower: Word, upper: Word) -> tuple[Word, Word, Word, Word]:
        """The words of the state after a number of blocks, which is given in two words."""
        *key, low, high = self.unpacked(state)
        new = self.add(low, lower)
        return key[0], key[1], new, self.add(self.add(high, upper), self.carry(new, low))

    def after(self, state: Array, blocks: int) -> Array:
        """The state after a number of blocks."""
        return self.packed(self._moved(state, blocks))

    def ahead(self, state: Array, blocks: int) -> tuple[Word, Word]:
        """The number of the block that is so many blocks ahead, the lower word first."""
        return self._moved(state, blocks)[2:]

    def _moved(self, state: Array, blocks: int) -> tuple[Word, Word, Word, Word]:
        upper, lower = divmod(blocks, 1 << 32)
        return self.moved(state, self.constant(lower), self.constant(upper % (1 << 32)))

    def child(self, state: Array, position: tuple[Word, Word]) -> Array:
        """The state of a new stream, whose key is the block of this one at a position, the lower word first."""
        *key, _, _ = self.unpacked(state)
        zero = self.both(key[0], self.constant(0))
        return self.packed((*threefry(self, (key[0], key[1]), position), zero, zero))

    def lane(self, state: Array, index: Word) -> Array:
        """The state with another key, for one of several lanes that share the position."""
        *key, low, high = self.unpacked(state)
        last = self.either(key[0], self.constant(LANES))
        return self.packed((*threefry(self, (key[0], key[1]), (index, last)), low, high))
