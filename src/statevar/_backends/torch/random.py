"""Random numbers of torch: on the host by NumPy, elsewhere by torch's operations; in a graph by one operation of ours.

So a draw is one node of a graph, for which Inductor compiles nothing.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch

from ..._arrays.random.draws import Draws
from ..._arrays.random.numbers import Numbers
from ..._arrays.random.words import Word, Words
from ..._arrays.shapes import Shape
from ..._arrays.types import Array, HostArray
from .adapter import BACKEND
from .dtypes import DTYPES
from .host import shared_tensor
from .tracing import open_transforms

__all__ = ["DRAWS"]

Tensor = torch.Tensor

_MASK = 0xFFFFFFFF


class _TorchWords(Words):
    """Words as int64 from 0 to 2**32 - 1, since torch has few operations of uint32."""

    def unpacked(self, state: Tensor) -> tuple[Word, Word, Word, Word]:
        words = state.to(torch.int64) & _MASK
        return words[0:1], words[1:2], words[2:3], words[3:4]

    def packed(self, words: tuple[Word, Word, Word, Word]) -> Array:
        return _signed(torch.cat(words))

    def counted(self, count: int, beside: Word) -> Word:
        return torch.arange(count, device=beside.device)

    def constant(self, number: int) -> Word:
        return number

    def add(self, left: Word, right: Word) -> Word:
        return (left + right) & _MASK

    def shifted(self, word: Word, distance: int) -> Word:
        return (word << distance) & _MASK if distance >= 0 else word >> -distance

    def times(self, left: Word, right: Word) -> Word:
        return (left * right) & _MASK

    def product(self, left: Word, right: Word) -> tuple[Word, Word]:
        product = left * right  # modulo 2**64, as a signed integer
        return (product >> 32) & _MASK, product & _MASK

    def below(self, size: Word, upper: Word, lower: Word) -> Word:
        middle = (upper * size & _MASK) + ((lower * size >> 32) & _MASK)
        return ((upper * size >> 32) + (middle >> 32)) & _MASK

    def less(self, left: Word, right: Word) -> Array:
        return right > left if isinstance(left, int) else left < right

    def chosen(self, condition: Tensor, yes: Any, no: Any) -> Array:
        return torch.where(condition, yes, no)

    def joined(self, parts: list[Word]) -> Word:
        return torch.cat(parts)

    def interleaved(self, left: Word, right: Word, count: int) -> Word:
        return torch.stack([left, right], 1).reshape(-1)[:count]

    def at(self, table: HostArray, index: Word) -> Array:
        return _table(table.dtype.str, table.tobytes(), index.device)[index]

    def cast(self, array: Tensor, dtype: str) -> Array:
        return array.to(DTYPES[dtype])

    def floating(self, word: Word, dtype: str) -> Array:
        return word.to(DTYPES[dtype])

    def from_floating(self, array: Tensor) -> Word:
        return array.to(torch.int64)

    def bits(self, array: Tensor) -> tuple[Word, ...]:
        if array.dtype == torch.float32:
            return (array.view(torch.int32).to(torch.int64),)
        bits = array.view(torch.int64)
        return (bits >> 32) & _MASK, bits & _MASK

    def integers(self, words: tuple[Word, ...], dtype: str) -> Array:
        if len(words) == 1:
            return _signed(words[0]).to(DTYPES[dtype])
        upper, lower = words
        joined = (upper << 32) | lower
        return joined if dtype == "int64" else joined.view(DTYPES[dtype])

    def from_integers(self, array: Tensor) -> Word:
        return array.to(torch.int64) & _MASK

    def every_second(self, word: Word, start: int) -> Word:
        return word[start::2]

    def clipped(self, array: Tensor, low: float, high: float) -> Array:
        return array.clamp(low, high)

    def rounded(self, array: Tensor) -> Array:
        return torch.round(array)

    def cumulated(self, word: Word) -> Word:
        return torch.cumsum(word, 0) & _MASK

    def position(self, ends: Word, word: Word) -> Array:
        return torch.searchsorted(ends, word, side="right")

    def order(self, upper: Word, lower: Word) -> Array:
        # As int64 in the order of pairs of words: the sign comes from the upper one.
        return torch.argsort(((upper ^ (1 << 31)) << 32) | lower, stable=True)


def _signed(word: Tensor) -> Array:
    return ((word ^ (1 << 31)) - (1 << 31)).to(torch.int32)


@cache
def _table(dtype: str, content: bytes, device: torch.device) -> Array:
    return torch.from_numpy(np.frombuffer(content, dtype).copy()).to(device)


# -- the operations of a graph -------------------------------------------------------------------------------------

#: The numbers of the nodes of graphs, by their text, which is the same in every process.
_known: dict[str, Numbers] = {}


def _code_of(numbers: Numbers) -> str:
    code = repr(numbers)
    _known.setdefault(code, numbers)
    return code


@torch.library.custom_op(
    "statevar::draw", mutates_args=(), schema="(Tensor state, Tensor[] operands, str code, SymInt[] shape) -> Tensor"
)
def _draw(state: Tensor, operands: list[Tensor], code: str, shape: list[int]) -> Array:
    return DRAWS.drawn(state, _known[code], tuple(shape), tuple(operands))


@_draw.register_fake
def _(state: Tensor, operands: list[Tensor], code: str, shape: list[int]) -> Array:
    return torch.empty(shape, dtype=DTYPES[_known[code].dtype], device=state.device)


@_draw.register_vmap
def _(info: Any, dims: Any, state: Tensor, operands: list[Tensor], code: str, shape: list[int]) -> tuple[Array, int]:
    states = _parts(state, dims[0], info.batch_size)
    each = [_parts(x, dim, info.batch_size) for x, dim in zip(operands, dims[1], strict=True)]
    lanes = [_draw(one, [x[i] for x in each], code, shape) for i, one in enumerate(states)]
    return torch.stack(lanes), 0


@torch.library.custom_op("statevar::after", mutates_args=(), schema="(Tensor state, int blocks) -> Tensor")
def _after(state: Tensor, blocks: int) -> Array:
    return _WORDS.after(state, blocks)


@torch.library.custom_op("statevar::child", mutates_args=(), schema="(Tensor state, int number) -> Tensor")
def _child(state: Tensor, number: int) -> Array:
    return _WORDS.child(state, _WORDS.ahead(state, number))


@torch.library.custom_op("statevar::lane", mutates_args=(), schema="(Tensor state, Tensor index) -> Tensor")
def _lane(state: Tensor, index: Tensor) -> Array:
    return _WORDS.lane(state, _WORDS.from_integers(index.to(state.device)).reshape(1))


for _each in (_after, _child, _lane):
    _each.register_fake(lambda state, _: torch.empty_like(state))


@_after.register_vmap
def _(info: Any, dims: Any, state: Tensor, blocks: int) -> tuple[Array, int]:
    return torch.stack([_after(one, blocks) for one in _parts(state, dims[0], info.batch_size)]), 0


@_child.register_vmap
def _(info: Any, dims: Any, state: Tensor, number: int) -> tuple[Array, int]:
    return torch.stack([_child(one, number) for one in _parts(state, dims[0], info.batch_size)]), 0


@_lane.register_vmap
def _(info: Any, dims: Any, state: Tensor, index: Tensor) -> tuple[Array, int]:
    parts = (_parts(x, dim, info.batch_size) for x, dim in zip((state, index), dims, strict=True))
    return torch.stack([_lane(*each) for each in zip(*parts, strict=True)]), 0


def _parts(x: Tensor, dim: int | None, size: int) -> list[Tensor]:
    return [x] * size if dim is None else list(x.unbind(dim))


# -- the random numbers ----------------------------------------------------------------------------------------------

_modes_open = torch._C._len_torch_dispatch_stack
_in_dynamo = torch.compiler.is_dynamo_compiling


def _is_intercepted() -> bool:
    """Whether an operation may be one of a graph, or of a transform of ``torch.func``."""
    return bool(_in_dynamo() or _modes_open() or open_transforms())


class TorchDraws(Draws):
    """Random numbers of torch, the same in a graph as outside of it."""

    def after(self, state: Tensor, blocks: int) -> Array:
        if _is_intercepted():
            return _after(state, blocks)
        return super().after(state, blocks) if _is_on_host(state) else _WORDS.after(state, blocks)

    def child(self, state: Tensor, number: int) -> Array:
        return _child(state, number)

    def lane(self, state: Tensor, index: Any) -> Array:
        return _lane(state, torch.as_tensor(index))

    def draw(self, state: Tensor, numbers: Numbers, shape: Shape, operands: tuple[Tensor, ...]) -> Array:
        operands = tuple(each.detach() for each in operands)
        if _is_intercepted():
            return _draw(state, list(operands), _code_of(numbers), list(shape))
        return self.drawn(state, numbers, shape, operands)

    def drawn(self, state: Tensor, numbers: Numbers, shape: Shape, operands: tuple[Tensor, ...]) -> Array:
        """Does what `draw` does, outside of graphs and transforms."""
        if _is_on_host(state):
            return super().draw(state, numbers, shape, operands)
        operands = tuple(each.to(state.device) for each in operands)
        if numbers.elementwise:
            operands = tuple(x.reshape(1) if x.numel() == 1 else x.expand(shape).reshape(-1) for x in operands)
        return numbers.draw(_WORDS, state, prod(shape), *operands).reshape(shape)

    def taken(self, array: Tensor, indices: Tensor) -> Array:
        return array[indices.to(array.device)]

    def _from_host(self, array: Any, state: Tensor) -> Array:
        return shared_tensor(np.asarray(array, order="C"))  # `ascontiguousarray` gives an array without axes one


def _is_on_host(state: Tensor) -> bool:
    return state.device.type == "cpu"


_WORDS = _TorchWords()
DRAWS = TorchDraws(BACKEND)
