"""Random numbers of JAX: one compiled program for each kind of numbers and each shape."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..._arrays.dtypes import HOST
from ..._arrays.random.draws import Draws
from ..._arrays.random.numbers import Numbers
from ..._arrays.random.words import Word, Words
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from .adapter import BACKEND

__all__ = ["DRAWS"]


class _JAXWords(Words):
    """Words as uint32, which has the arithmetic of words."""

    def unpacked(self, state: Any) -> tuple[Word, Word, Word, Word]:
        words = lax.bitcast_convert_type(state, jnp.uint32)
        return words[0:1], words[1:2], words[2:3], words[3:4]

    def packed(self, words: tuple[Word, Word, Word, Word]) -> Any:
        return lax.bitcast_convert_type(jnp.concatenate(words), jnp.int32)

    def counted(self, count: int, beside: Word) -> Word:
        return lax.iota(jnp.uint32, count)

    def less(self, left: Word, right: Word) -> Any:
        return jnp.less(left, right)

    def chosen(self, condition: Any, yes: Any, no: Any) -> Any:
        return jnp.where(condition, yes, no)

    def joined(self, parts: list[Word]) -> Word:
        return jnp.concatenate(parts)

    def interleaved(self, left: Word, right: Word, count: int) -> Word:
        return jnp.stack([left, right], 1).reshape(-1)[:count]

    def at(self, table: HostArray, index: Word) -> Any:
        return jnp.asarray(table).at[index].get(mode="promise_in_bounds")

    def cast(self, array: Any, dtype: str) -> Any:
        return array.astype(HOST[dtype])

    def floating(self, word: Word, dtype: str) -> Any:
        return lax.bitcast_convert_type(word, jnp.int32).astype(HOST[dtype])

    def from_floating(self, array: Any) -> Word:
        return array.astype(jnp.uint32)

    def bits(self, array: Any) -> tuple[Word, ...]:
        if array.dtype == np.float32:
            return (lax.bitcast_convert_type(array, jnp.uint32),)
        bits = lax.bitcast_convert_type(array, jnp.uint64)
        return (bits >> np.uint64(32)).astype(jnp.uint32), bits.astype(jnp.uint32)

    def integers(self, words: tuple[Word, ...], dtype: str) -> Any:
        if len(words) == 1:
            return words[0].astype(HOST[dtype])
        upper, lower = words
        bits = (upper.astype(jnp.uint64) << np.uint64(32)) | lower.astype(jnp.uint64)
        return lax.bitcast_convert_type(bits, HOST[dtype])

    def from_integers(self, array: Any) -> Word:
        return array.astype(jnp.uint32)

    def every_second(self, word: Word, start: int) -> Word:
        return word[start::2]

    def clipped(self, array: Any, low: float, high: float) -> Any:
        return jnp.clip(array, low, high)

    def rounded(self, array: Any) -> Any:
        return jnp.rint(array)

    def cumulated(self, word: Word) -> Word:
        return jnp.cumsum(word, dtype=jnp.uint32)

    def position(self, ends: Word, word: Word) -> Any:
        return jnp.searchsorted(ends, word, side="right")

    def order(self, upper: Word, lower: Word) -> Any:
        return lax.sort((upper, lower, lax.iota(jnp.int32, upper.size)), num_keys=2, is_stable=True)[2]


_WORDS = _JAXWords()


@jax.jit
def _after(state: Any, lower: Any, upper: Any) -> Any:
    return _WORDS.packed(_WORDS.moved(state, lower, upper))


@jax.jit
def _child(state: Any, lower: Any, upper: Any) -> Any:
    *_, low, high = _WORDS.moved(state, lower, upper)
    return _WORDS.child(state, (low, high))


@jax.jit
def _lane(state: Any, index: Any) -> Any:
    return _WORDS.lane(state, _WORDS.from_integers(index).reshape(1))


@partial(jax.jit, static_argnums=(1, 2))
def _draw(state: Any, numbers: Numbers, shape: Shape, *operands: Any) -> Any:
    if numbers.elementwise:
        operands = tuple(x.reshape(1) if x.size == 1 else jnp.broadcast_to(x, shape).reshape(-1) for x in operands)
    return numbers.draw(_WORDS, state, prod(shape), *operands).reshape(shape)


class JAXDraws(Draws):
    """Random numbers of JAX, the same in a program as outside of it."""

    def after(self, state: Any, blocks: int) -> Any:
        return _after(state, *_halves(blocks))

    def child(self, state: Any, number: int) -> Any:
        return _child(state, *_halves(number))

    def lane(self, state: Any, index: Any) -> Any:
        return _lane(state, jnp.asarray(index))

    def draw(self, state: Any, numbers: Numbers, shape: Shape, operands: tuple[Any, ...]) -> Any:
        return _draw(state, numbers, shape, *operands)

    def taken(self, array: Any, indices: Any) -> Any:
        return jnp.take(array, indices, axis=0)


def _halves(blocks: int) -> tuple[np.uint32, np.uint32]:
    upper, lower = divmod(blocks, 1 << 32)
    return np.uint32(lower), np.uint32(upper)


DRAWS = JAXDraws(BACKEND)
