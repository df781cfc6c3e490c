"""Random numbers of TensorFlow: in a graph, and on accelerators, by its operations; else by NumPy on the host."""

from __future__ import annotations

from math import prod
from types import FunctionType
from typing import Any

import tensorflow as tf

from ..._arrays.random.draws import Draws
from ..._arrays.random.numbers import Numbers
from ..._arrays.random.words import Word, Words
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ..._state.generator import Generator
from .adapter import BACKEND

__all__ = ["DRAWS"]


class _TensorFlowWords(Words):
    """Words as uint32, which has the arithmetic of words."""

    def unpacked(self, state: Any) -> tuple[Word, Word, Word, Word]:
        words = tf.bitcast(state, tf.uint32)
        return words[0:1], words[1:2], words[2:3], words[3:4]

    def packed(self, words: tuple[Word, Word, Word, Word]) -> Any:
        return tf.bitcast(tf.concat(words, 0), tf.int32)

    def counted(self, count: int, beside: Word) -> Word:
        return tf.cast(tf.range(count, dtype=tf.int64), tf.uint32)

    def constant(self, number: int) -> Word:
        return tf.constant(number, tf.uint32)

    def xor(self, left: Word, right: Word) -> Word:
        return tf.bitwise.bitwise_xor(left, right)

    def both(self, left: Word, right: Word) -> Word:
        return tf.bitwise.bitwise_and(left, right)

    def either(self, left: Word, right: Word) -> Word:
        return tf.bitwise.bitwise_or(left, right)

    def shifted(self, word: Word, distance: int) -> Word:
        if distance >= 0:
            return tf.bitwise.left_shift(word, self.constant(distance))
        return tf.bitwise.right_shift(word, self.constant(-distance))

    def less(self, left: Word, right: Word) -> Any:
        return left < right

    def chosen(self, condition: Any, yes: Any, no: Any) -> Any:
        return tf.where(condition, yes, no)

    def joined(self, parts: list[Word]) -> Word:
        return tf.concat(parts, 0)

    def interleaved(self, left: Word, right: Word, count: int) -> Word:
        return tf.reshape(tf.stack([left, right], 1), [-1])[:count]

    def at(self, table: HostArray, index: Word) -> Any:
        return tf.gather(tf.constant(table), tf.cast(index, tf.int32))

    def cast(self, array: Any, dtype: str) -> Any:
        return tf.cast(array, dtype)

    def floating(self, word: Word, dtype: str) -> Any:
        return tf.cast(tf.bitcast(word, tf.int32), dtype)

    def from_floating(self, array: Any) -> Word:
        return tf.cast(tf.cast(array, tf.int64), tf.uint32)

    def bits(self, array: Any) -> tuple[Word, ...]:
        if array.dtype == tf.float32:
            return (tf.bitcast(array, tf.uint32),)
        words = tf.bitcast(array, tf.uint32)  # the lower first
        return words[:, 1], words[:, 0]

    def integers(self, words: tuple[Word, ...], dtype: str) -> Any:
        if len(words) == 1:
            return tf.cast(tf.bitcast(words[0], tf.int32), dtype)
        upper, lower = words
        return tf.bitcast(tf.stack([lower, upper], 1), dtype)

    def from_integers(self, array: Any) -> Word:
        return tf.cast(tf.cast(array, tf.int64), tf.uint32)

    def every_second(self, word: Word, start: int) -> Word:
        return word[start::2]

    def clipped(self, array: Any, low: float, high: float) -> Any:
        return tf.clip_by_value(array, low, high)

    def rounded(self, array: Any) -> Any:
        return tf.math.rint(array)

    def cumulated(self, word: Word) -> Word:
        return tf.cast(tf.cumsum(tf.cast(word, tf.int64)), tf.uint32)

    def position(self, ends: Word, word: Word) -> Any:
        return tf.searchsorted(tf.cast(ends, tf.int64), tf.cast(word, tf.int64), side="right")

    def order(self, upper: Word, lower: Word) -> Any:
        # As int64 in the order of pairs of words: the sign comes from the upper one.
        keys = self.integers((self.xor(upper, self.constant(1 << 31)), lower), "int64")
        return tf.argsort(keys, stable=True)


_WORDS = _TensorFlowWords()


class TensorFlowDraws(Draws):
    """Random numbers of TensorFlow, the same in a graph as outside of it."""

    def after(self, state: Any, blocks: int) -> Any:
        return super().after(state, blocks) if _is_at_hand(state) else _WORDS.after(state, blocks)

    def child(self, state: Any, number: int) -> Any:
        if _is_at_hand(state):
            return super().child(state, number)
        return _WORDS.child(state, _WORDS.ahead(state, number))

    def lane(self, state: Any, index: Any) -> Any:
        if _is_at_hand(state) and not tf.is_symbolic_tensor(index):
            return super().lane(state, index)
        return _WORDS.lane(state, _WORDS.from_integers(tf.reshape(index, [1])))

    def draw(self, state: Any, numbers: Numbers, shape: Shape, operands: tuple[Any, ...]) -> Any:
        if _is_at_hand(state) and not any(map(tf.is_symbolic_tensor, operands)):
            return super().draw(state, numbers, shape, operands)
        if numbers.elementwise:
            operands = tuple(tf.reshape(x if prod(x.shape) == 1 else tf.broadcast_to(x, shape), [-1]) for x in operands)
        return tf.reshape(numbers.draw(_WORDS, state, prod(shape), *operands), shape)

    def taken(self, array: Any, indices: Any) -> Any:
        return tf.gather(array, indices)


def _is_at_hand(state: Any) -> bool:
    """Whether NumPy can compute with the state at once."""
    return tf.executing_eagerly() and not tf.is_symbolic_tensor(state) and "CPU" in state.device


for _each in vars(Generator).values():
    if isinstance(_each, FunctionType):
        _each.__dict__["autograph_info__"] = {}  # AutoGraph need not rewrite it, which takes seconds

DRAWS = TensorFlowDraws(BACKEND)
