"""Random words and numbers with NumPy: in pieces that fit into the cache of a core, on all cores."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..draws import on_all_cores
from ..dtypes import HOST
from ..types import Array, HostArray
from .numbers import Numbers
from .tables import INDEX_BITS, SINGLE, normal_table
from .threefry import PARITY, ROTATIONS
from .words import Word, Words

__all__ = ["WORDS", "draw_on_host"]

#: The elements that are drawn at once: what is computed for them fits into the cache of a core.
PIECE = 1 << 16
_FEW = 8  # blocks that Python computes faster than NumPy
_WORD = 0xFFFFFFFF


def draw_on_host(state: HostArray, numbers: Numbers, count: int, operands: tuple[HostArray, ...]) -> HostArray:
    """A flat array of numbers.

    Args:
        operands: flat arrays, each of one element or, if the numbers are drawn one by one, of as many as the result.
    """
    if count <= PIECE or not numbers.elementwise:
        found: HostArray = numbers.draw(WORDS, state, count, *operands)
        return found
    out = np.empty(count, HOST[numbers.dtype])

    def draw_piece(number: int, _memory: Any) -> None:
        start, end = number * PIECE, min(count, (number + 1) * PIECE)
        parts = [each if each.size == 1 else each[start:end] for each in operands]
        ahead = WORDS.after(state, numbers.blocks(start))
        out[start:end] = numbers.draw(WORDS, ahead, end - start, *parts)

    on_all_cores(draw_piece, -(-count // PIECE))
    return out


class _HostWords(Words):
    """Words as NumPy's uint32, which has the arithmetic of words."""

    def unpacked(self, state: HostArray) -> tuple[Word, Word, Word, Word]:
        words = np.ascontiguousarray(state).view(np.uint32)
        return words[0:1], words[1:2], words[2:3], words[3:4]

    def packed(self, words: tuple[Word, Word, Word, Word]) -> Array:
        return np.concatenate(words).view(np.int32)

    def counted(self, count: int, beside: Word) -> Word:
        return np.arange(count, dtype=np.uint32)

    def product(self, left: Word, right: Word) -> tuple[Word, Word]:
        product = np.multiply(left, right, dtype=np.uint64)
        return (product >> np.uint64(32)).astype(np.uint32), product.astype(np.uint32)

    def less(self, left: Word, right: Word) -> Array:
        return np.less(left, right)

    def chosen(self, condition: HostArray, yes: Any, no: Any) -> Array:
        return np.where(condition, yes, no)

    def joined(self, parts: list[Word]) -> Word:
        return np.concatenate(parts)

    def interleaved(self, left: Word, right: Word, count: int) -> Word:
        both = np.empty((left.size, 2), np.uint32)
        both[:, 0] = left
        both[:, 1] = right
        return both.reshape(-1)[:count]

    def at(self, table: HostArray, index: Word) -> Array:
        return table[index]

    def cast(self, array: HostArray, dtype: str) -> Array:
        return array.astype(HOST[dtype])

    def floating(self, word: Word, dtype: str) -> Array:
        return word.view(np.int32).astype(HOST[dtype])

    def from_floating(self, array: HostArray) -> Word:
        return array.astype(np.uint32)

    def bits(self, array: HostArray) -> tuple[Word, ...]:
        if array.dtype == np.float32:
            return (array.view(np.uint32),)
        bits = array.view(np.uint64)
        return (bits >> np.uint64(32)).astype(np.uint32), bits.astype(np.uint32)

    def integers(self, words: tuple[Word, ...], dtype: str) -> Array:
        if len(words) == 1:
            return words[0].astype(HOST[dtype])
        upper, lower = words
        return ((upper.astype(np.uint64) << np.uint64(32)) | lower).view(HOST[dtype])

    def from_integers(self, array: HostArray) -> Word:
        return array.astype(np.uint32)

    def every_second(self, word: Word, start: int) -> Word:
        return np.ascontiguousarray(word[start::2])

    def clipped(self, array: HostArray, low: float, high: float) -> Array:
        return np.clip(array, array.dtype.type(low), array.dtype.type(high))

    def rounded(self, array: HostArray) -> Array:
        return np.rint(array)

    def cumulated(self, word: Word) -> Word:
        return np.cumsum(word, dtype=np.uint32)

    def position(self, ends: Word, word: Word) -> Array:
        return np.searchsorted(ends, word, side="right")

    def order(self, upper: Word, lower: Word) -> Array:
        """Sorts with NumPy's fast algorithm, which is not stable, unless two keys are equal."""
        keys = (upper.astype(np.uint64) << np.uint64(32)) | lower
        order = np.argsort(keys)
        ordered = keys[order]
        return np.argsort(keys, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order

    def moved(self, state: HostArray, lower: Word, upper: Word) -> tuple[Word, Word, Word, Word]:
        """Computes with Python's integers, which takes a fifth of the time for one word."""
        words = np.ascontiguousarray(state).view(np.uint32)
        position = int(words[2]) + (int(words[3]) << 32) + int(lower) + (int(upper) << 32)
        new = np.array([position & _WORD, position >> 32 & _WORD], np.uint64).astype(np.uint32)
        return words[0:1], words[1:2], new[0:1], new[1:2]

    def below(self, size: Word, upper: Word, lower: Word) -> Word:
        """Computes with 64 bits."""
        product = np.multiply(lower, size, dtype=np.uint64)
        product >>= np.uint64(32)
        product += np.multiply(upper, size, dtype=np.uint64)
        product >>= np.uint64(32)
        return product.astype(np.uint32)

    def normal(self, word: Word) -> Array:
        """Finds the bits by float64, to which no integer is rounded, which takes a quarter of the time."""
        start, slope = normal_table(SINGLE)
        bits = (word & np.uint32(0x7FFFFFFF)).view(np.int32).astype(np.float64).view(np.int64)
        index = bits >> (52 - INDEX_BITS)
        index -= (1023 << INDEX_BITS) - 1
        np.maximum(index, 0, out=index)
        bits >>= 52 - INDEX_BITS - SINGLE.fraction
        bits &= (1 << SINGLE.fraction) - 1
        number = bits.astype(np.float32)
        number *= slope.take(index, mode="clip")
        number += start.take(index, mode="clip")
        signed = number.view(np.uint32)
        signed ^= word & np.uint32(1 << 31)
        return number

    def blocks(self, state: HostArray, count: int) -> tuple[Word, Word]:
        """Does the rounds in place, which takes a third of the time, or a few with Python's integers."""
        if count <= _FEW:
            return self._few(state, count)
        *key, low, high = self.unpacked(state)
        keys = (*key, key[0] ^ key[1] ^ np.uint32(PARITY))
        first = self.counted(count, low)
        first += low
        second = np.full(count, high)
        if int(low[0]) + count > 1 << 32:
            second += first < low
        first += keys[0]
        second += keys[1]
        turned = np.empty_like(first)
        for group in range(5):
            for distance in ROTATIONS[group % 2]:
                first += second
                np.left_shift(second, np.uint32(distance), out=turned)
                second >>= np.uint32(32 - distance)
                second |= turned
                second ^= first
            first += keys[(group + 1) % 3]
            second += keys[(group + 2) % 3] + np.uint32(group + 1)
        return first, second

    def _few(self, state: HostArray, count: int) -> tuple[Word, Word]:
        first, second, low, high = np.ascontiguousarray(state).view(np.uint32).tolist()
        position = low + (high << 32)
        keys = (first, second, first ^ second ^ PARITY)
        found = []
        for number in range(position, position + count):
            first, second = (number + keys[0]) & _WORD, ((number >> 32) + keys[1]) & _WORD
            for group in range(5):
                for distance in ROTATIONS[group % 2]:
                    first = (first + second) & _WORD
                    second = ((second << distance) & _WORD | second >> (32 - distance)) ^ first
                first = (first + keys[(group + 1) % 3]) & _WORD
                second = (second + keys[(group + 2) % 3] + group + 1) & _WORD
            found.append((first, second))
        words = np.array(found, np.uint32).reshape(count, 2)
        return np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])


WORDS = _HostWords()
