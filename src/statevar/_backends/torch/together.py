"""Writes many parameters in one call, by the kernels that torch has for lists of tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import torch

__all__ = ["write_all"]

# Private in torch 2.13, and what its optimizers use. Without one, the variables are written one after the other.
_IN_PLACE = {
    op: call
    for op, name in {
        None: "_foreach_copy_",
        operator.add: "_foreach_add_",
        operator.sub: "_foreach_sub_",
        operator.mul: "_foreach_mul_",
    }.items()
    if (call := getattr(torch, name, None)) is not None
}


_is_cpu = attrgetter("is_cpu")
_tensor = attrgetter("tensor")


def write_all(
    handles: list[Any], xs: list[Any], op: Any, began: list[bool], all_exclusive: Callable[[list[Any]], bool]
) -> bool:
    """Does `TorchBackend.write_all`; returns whether it did.

    Args:
        all_exclusive: whether every handle is plain and exclusive; False if that must be asked of each.
    """
    call = _IN_PLACE.get(op)
    if call is None:
        return False
    if not all(map(_is_cpu, xs)) or not all_exclusive(handles):
        for handle, x in zip(handles, xs, strict=True):
            if handle.shared or handle.traced or x.device != handle.tensor.device or (x.is_cpu and not handle.plain):
                return False
        for handle in handles:
            if not handle.exclusive():
                handle.replace(handle.copied())  # which changes no value, so that an error here leaves all as they were
    began.append(True)
    call(list(map(_tensor, handles)), xs)
    return True
