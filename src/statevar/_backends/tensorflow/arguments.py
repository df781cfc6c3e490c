"""Splits arguments and results of a compiled function into tensors, and structure that is part of the cache key."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from ..._arrays.registry import owner_of
from ..._arrays.transforms import Program
from ..._arrays.trees import like, tree_map  # in `tf.nest`, the keys of a dict must be sortable
from ..._core.variable import Variable
from ...errors import describe

__all__ = [
    "EXACT_NUMBERS",
    "SINGLE_NUMBERS",
    "Arguments",
    "Key",
    "Static",
    "better_for",
    "emptied",
    "filled",
    "static_of",
]

_DOUBLE = {"float64", "complex128"}
_NARROW = {"int4", "int8", "int16", "uint4", "uint8", "uint16", "uint32", "uint64"}

#: The ways to pass numbers: as tensors of single or double precision, or exactly, as part of the program.
SINGLE_NUMBERS, _DOUBLE_NUMBERS, EXACT_NUMBERS = range(3)

Key: TypeAlias = Any
Static: TypeAlias = tuple[frozenset[int], frozenset[str]]  #: the positions and names of static arguments


def static_of(program: Program) -> Static:
    """The positions and names of static arguments: each static parameter is in both sets."""
    nums, names = set(program.static_argnums), set(program.static_argnames)
    with suppress(TypeError, ValueError):
        parameters = [
            each.name
            for each in inspect.signature(program.fn).parameters.values()
            if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
        ]
        nums = {num + len(parameters) if num < 0 else num for num in nums}
        both = {*(parameters[num] for num in nums if num < len(parameters)), *names}
        nums |= {index for index, name in enumerate(parameters) if name in both}
        names |= both
    return frozenset(nums), frozenset(names)


class Arguments:
    """The arguments of a call: the key of the graph that it needs, and the tensors that are passed to the graph."""

    __slots__ = ("_args", "_kwargs", "_leaves", "_static", "full_key", "key", "mode", "numbers", "tensors")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], static: Static) -> None:
        self._args, self._kwargs = args, kwargs
        self._static = static
        self._leaves: list[Any] = []
        self.numbers: tuple[Any, ...] = ()
        nums, names = static
        key: list[Any] = []
        for index, each in enumerate(args):
            if nums and index in nums:
                key.append(_hashable(each))
            else:
                key.append(self._enter(each))
        for name in sorted(kwargs):
            key.append(name)
            key.append(_hashable(kwargs[name]) if name in names else self._enter(kwargs[name]))
        self.numbers = tuple(each for each in self._leaves if _is_number(each))
        self.key: Key = tuple(key)
        self.mode = -1

    def _enter(self, each: Any) -> Any:
        """Adds the tensors and numbers of an argument to the leaves; returns its part of the key."""
        if isinstance(each, tf.Tensor):
            self._leaves.append(each)
            return each.dtype, tuple(each.shape)
        if isinstance(each, Variable):
            return "variable", each
        if isinstance(each, np.ndarray | np.generic):
            return self._enter(tf.constant(each))
        if _is_number(each):
            self._leaves.append(each)
            return _number_dtype(each, SINGLE_NUMBERS)
        if isinstance(each, list | tuple):
            return type(each), tuple([self._enter(inner) for inner in each])
        if isinstance(each, dict):
            return type(each), tuple([(name, self._enter(inner)) for name, inner in each.items()])
        if isinstance(each, tf.__internal__.CompositeTensor) and not isinstance(each, tf.Variable):
            self._leaves.extend(tf.nest.flatten(each, expand_composites=True))
            return tf.type_spec_from_value(each)
        owner = None if isinstance(each, tf.Variable) else owner_of(each)
        if owner is not None:
            return self._enter(tf.constant(owner.to_host(each)))
        return id(each) if isinstance(each, tf.Variable) else _hashable(each)

    def pass_numbers(self, mode: int) -> None:
        """Sets the way in which numbers are passed."""
        if mode == self.mode:
            return
        self.mode = mode
        if not self.numbers:
            self.tensors, self.full_key = self._leaves, self.key
        elif mode == EXACT_NUMBERS:
            self.tensors = [each for each in self._leaves if not _is_number(each)]
            self.full_key = (self.key, tuple(map(repr, self.numbers)))  # 0.0 is not -0.0
        else:
            self.tensors = [
                tf.constant(each, _number_dtype(each, mode)) if _is_number(each) else each for each in self._leaves
            ]
            self.full_key = (self.key, mode)

    def rebuilt(self, tensors: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
        """Returns the arguments with other tensors in place of those that are passed."""
        rest = iter(tensors)
        nums, names = self._static
        leave = partial(self._leave, rest)
        args = [each if i in nums else tree_map(leave, each) for i, each in enumerate(self._args)]
        kwargs = {
            name: self._kwargs[name] if name in names else tree_map(leave, self._kwargs[name])
            for name in sorted(self._kwargs)
        }
        return args, kwargs

    def _leave(self, rest: Iterator[Any], each: Any) -> Any:
        if isinstance(each, tf.Tensor | np.ndarray | np.generic):
            return next(rest)
        if isinstance(each, Variable | tf.Variable):
            return each
        if _is_number(each):
            return each if self.mode == EXACT_NUMBERS else next(rest)
        if isinstance(each, tf.__internal__.CompositeTensor):
            parts = [next(rest) for _ in tf.nest.flatten(each, expand_composites=True)]
            return tf.nest.pack_sequence_as(each, parts, expand_composites=True)
        return next(rest) if owner_of(each) is not None else each


def _is_number(value: Any) -> bool:
    return type(value) in (float, int, complex)  # not bool, which has two values, nor NumPy's, which have a dtype


def _number_dtype(value: Any, mode: int) -> Any:
    if type(value) is int:
        return tf.int32 if -(2**31) <= value < 2**31 else tf.int64
    if type(value) is complex:
        return tf.complex128 if mode == _DOUBLE_NUMBERS else tf.complex64
    return tf.float64 if mode == _DOUBLE_NUMBERS else tf.float32


def better_for(numbers: tuple[Any, ...], mode: int, dtypes: set[str]) -> int:
    """Returns the way to pass numbers to code that uses variables of these dtypes."""
    if mode == EXACT_NUMBERS:
        return mode
    for number in numbers:
        if type(number) is not int:
            mode = _DOUBLE_NUMBERS if dtypes & _DOUBLE else mode
        elif dtypes & (_NARROW if _number_dtype(number, mode) is tf.int32 else _NARROW | {"int32"}):
            return EXACT_NUMBERS  # a tensor would be cast to the dtype without a check
    return mode


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except (TypeError, ValueError):  # the second one of a memoryview
        raise TypeError(
            describe(
                "jit",
                f"an argument of type {type(value).__name__} is neither an array, nor a pytree of arrays, nor hashable",
                hint="pass arrays, or let the function close over the object",
            )
        ) from None
    return type(value), value


def emptied(out: Any, flat: list[Any]) -> Any:
    """Returns the result of a function with an `_Out` in place of each tensor; appends the tensors to ``flat``."""

    def place_of(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray):
            leaf = tf.constant(leaf)
        if isinstance(leaf, tf.__internal__.CompositeTensor) and not isinstance(leaf, tf.Variable):
            parts = tf.nest.flatten(leaf, expand_composites=True)
            return _Composite(tf.type_spec_from_value(leaf), [place_of(each) for each in parts])
        if not isinstance(leaf, tf.Tensor):
            return leaf
        flat.append(leaf)
        return _Out(len(flat) - 1)

    return tree_map(place_of, out)


@dataclass(frozen=True, slots=True)
class _Out:
    """The place of a tensor in the result of a function."""

    index: int


@dataclass(frozen=True, slots=True)
class _Composite:
    """The place of a tensor that consists of several, such as a ragged one."""

    spec: Any
    parts: list[Any]


def filled(out: Any, flat: list[Any]) -> Any:
    """Returns the result that `emptied` has taken apart, with other tensors in its places."""
    # By hand, since it runs at every call: `tree_map` takes four times as long.
    cls = type(out)
    if cls is _Out:
        return flat[out.index]
    if cls is _Composite:
        return tf.nest.pack_sequence_as(out.spec, filled(out.parts, flat), expand_composites=True)
    if isinstance(out, list | tuple):
        return like(out, [filled(each, flat) for each in out])
    if isinstance(out, dict):
        return like(out, [filled(each, flat) for each in out.values()])
    return out
