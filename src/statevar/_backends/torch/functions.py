"""Calls torch's functions with snapshots among the arguments, and refuses those that would write into one.

A tensor cannot be made read-only, so each function is asked what it writes. A function in C has schemas, which name the
arguments that it writes. A function in Python has none: it runs in a mode in which torch shows us every operation
before it is done, and the schema of each operation tells whether it would write into the memory of a snapshot. That
takes about 10 us, and 5 us for each operation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import FunctionType
from typing import Any, Final, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..._arrays.backend import Refusal

__all__ = ["call_reading", "only_reading", "writes_nothing"]

Tensor = torch.Tensor

#: The arguments that a function writes: the position, the name, and whether it is a list of tensors.
_Written: TypeAlias = tuple[tuple[int, str, bool], ...]

#: The functions of which it is known that they write at most ``out=``. Looked up before anything else is done.
only_reading: set[Any] = set()

_schemas_of = torch._C._jit_get_schemas_for_operator
#: Python's own methods that write their object: the operators in place, and those of items and attributes.
_WRITING: Final = {
    *(f"__i{name.strip('_')}__" for name in dir(operator) if hasattr(operator, f"__i{name.strip('_')}__")),
    *("__setitem__", "__delitem__", "__set__", "__delete__", "__setstate__"),
}
#: By their schemas, the normalizations do not write these arguments, but in training they do.
_STATISTICS: Final = ("running_mean", "running_var")
#: Parts of the messages with which autograd refuses a write.
_BY_AUTOGRAD: Final = ("is being used in an in-place operation", "functions with out=", "argument 'running_")
_WRITES_SELF: Final = ((0, "self", False),)
_TRAINS: Final = ("training", "train", "use_input_stats")


def call_reading(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], lent: Sequence[Tensor], refusal: Refusal
) -> Any:
    """Calls a function that may read the lent tensors, but not write them; otherwise as `Backend.call_reading`."""
    # A function in Python is not kept in the cache, since users make them without end.
    written = None if isinstance(function, FunctionType) else _written_by(function)
    if written is None:
        return _call_guarded(function, args, kwargs, lent, refusal)
    if not written:
        only_reading.add(function)
    for position, name, is_list in written:
        argument = args[position] if position < len(args) else kwargs.get(name)
        if argument is None and name == "self":
            argument = kwargs.get("input")  # the name of it in Python
        if isinstance(argument, list | tuple):
            if is_list:
                _check(argument, lent, refusal)
        elif not is_list:  # `aten::sort` sorts a list in place, but no tensor
            _check((argument,), lent, refusal)
    if "out" in kwargs:
        out = kwargs["out"]
        _check(out if isinstance(out, list | tuple) else (out,), lent, refusal)
    return function(*args, **kwargs)


def writes_nothing(function: Callable[..., Any]) -> bool:
    """Whether it is known that a function writes no argument, apart from ``out=``."""
    return not isinstance(function, FunctionType) and _written_by(function) == ()


@cache
def _written_by(function: Any) -> _Written | None:
    """The arguments that a function in C writes, apart from ``out=``; None if it must run to tell."""
    if isinstance(function, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return None
    name = getattr(function, "__name__", "")
    if name.startswith("__") and name.endswith("__"):
        in_place = (
            name.startswith("__i") and hasattr(operator, name) and name not in ("__index__", "__inv__", "__invert__")
        )
        return _WRITES_SELF if in_place or name in _WRITING else ()
    schemas = _schemas_of(f"aten::{name}")
    if not schemas:
        return _WRITES_SELF if name.endswith("_") else None
    if any(each.name in _STATISTICS for schema in schemas for each in schema.arguments):
        return None
    return tuple({each: None for schema in schemas for each in _written_in(schema) if each[1] != "out"})


def _written_in(schema: Any) -> Iterator[tuple[int, str, bool]]:
    for position, each in enumerate(schema.arguments):
        kind, info = str(each.type), each.alias_info
        if info is not None and info.is_write and "Tensor" in kind:
            yield position, each.name, "List[" in kind


def _call_guarded(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], lent: Sequence[Tensor], refusal: Refusal
) -> Any:
    try:
        with _Guard(lent, refusal):
            return function(*args, **kwargs)
    except RuntimeError as error:
        # Autograd refuses a write to a tensor that requires a gradient before the mode sees the operation.
        if not any(each in str(error) for each in _BY_AUTOGRAD):
            raise
        watched = [number for number, each in enumerate(lent) if each.requires_grad]
        if len(watched) != 1:
            raise
        raise refusal(watched[0]) from error


def _check(written: Sequence[Any], lent: Sequence[Tensor], refusal: Refusal) -> None:
    for number, tensor in enumerate(lent):
        for each in written:
            if each is tensor:
                raise refusal(number)


def _tensors(argument: Any) -> Iterator[Tensor]:
    if isinstance(argument, Tensor):
        yield argument
    elif isinstance(argument, list | tuple):
        for each in argument:
            yield from _tensors(each)


class _Guard(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types there
    """Looks at every operation before it is done, and raises if it would write into the memory of a lent tensor."""

    supports_higher_order_operators = True

    def __init__(self, lent: Sequence[Tensor], refusal: Refusal) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = {_memory_of(each): number for number, each in enumerate(lent)}
        self._refusal = refusal

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for position, name, _ in _written_by_operation(func):
            for tensor in _tensors(args[position] if position < len(args) else kwargs.get(name)):
                number = self._numbers.get(_memory_of(tensor))
                if number is not None and _trains(func, args, kwargs):
                    raise self._refusal(number)
        return func(*args, **kwargs)


def _memory_of(tensor: Tensor) -> Any:
    """The storage of a tensor, as a number; the tensor itself if it has none, as a sparse one."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return id(tensor)


@cache
def _written_by_operation(function: Any) -> _Written:
    schema = getattr(function, "_schema", None)  # an operation of higher order has none
    if schema is None:
        return ()
    statistics = [(i, each.name, False) for i, each in enumerate(schema.arguments) if each.name in _STATISTICS]
    return tuple(dict.fromkeys([*_written_in(schema), *statistics]))


def _trains(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a call writes its arguments: a normalization does only in training."""
    for position, each in enumerate(function._schema.arguments):
        if each.name in _TRAINS:
            return bool(args[position] if position < len(args) else kwargs.get(each.name, True))
    return True
