"""Reads values from an open checkpoint: checked, and without taking the memory of a large one."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays.types import HostArray
from .._state.paths import followed
from ..checkpoint._checkpoint import Checkpoint
from ..checkpoint._formats.safetensors.values import VariableRecord
from ..checkpoint._pieces.blocks import Block
from ..errors import CheckpointError
from .paths import nbytes_of
from .target import Target, items

__all__ = ["check", "checked", "first_name", "part"]

#: Arrays of more bytes are mapped into memory, and not read.
_LARGE = 64 << 20


def first_name(checkpoint: Checkpoint, name: str) -> str | None:
    """The first name of a variable that may have several; None if there is no such variable."""
    first = name if name in checkpoint.variables else followed(name, checkpoint.aliases)
    return first if first in checkpoint.variables else None


def checked(checkpoint: Checkpoint, name: str) -> HostArray:
    """Reads an array, and compares its checksum if it has one. A large one is mapped after that, and takes no memory.

    Raises:
        CheckpointError: the array is damaged.
    """
    if (nbytes_of(checkpoint.variables[name]) or 0) > _LARGE:
        check(checkpoint, name)
        return checkpoint[name]
    found = checkpoint.arrays([name])[name]
    if isinstance(found, CheckpointError):
        raise found
    return found if found.dtype.names is None else found[found.dtype.names[0]]


def check(checkpoint: Checkpoint, name: str) -> None:
    """Reads an array piece by piece, and compares its checksum if it has one.

    Raises:
        CheckpointError: the array is damaged.
    """
    if checkpoint.checksum(name) is None:
        return
    if (error := checkpoint.damage([name]).get(name)) is not None:
        raise error


def part(checkpoint: Checkpoint, wanted: Target, *, unchecked: bool = False) -> tuple[HostArray, bool]:
    """Reads a part of an array. Of a checkpoint with checksums of chunks, only the chunks are read that have the part.

    Args:
        checkpoint: the open checkpoint.
        wanted: the name of a variable that has a value, and the index.
        unchecked: whether a large array is read without comparing the checksum of all of it.

    Returns:
        The part, and whether a checksum was compared.

    Raises:
        CheckpointError: the array is damaged.
        CommandError: the index does not fit the shape.
    """
    record = checkpoint.variables[wanted.name]
    has_checksum = checkpoint.checksum(wanted.name) is not None
    if wanted.key is ... or record.dtype.startswith("key<"):  # the numbers of a random key are a further axis
        return items(checked(checkpoint, wanted.name), wanted), has_checksum
    items(np.broadcast_to(np.zeros((), np.bool_), record.shape or ()), wanted)  # an error before anything is read
    if (nbytes_of(record) or 0) <= _LARGE:
        return items(checked(checkpoint, wanted.name), wanted), has_checksum
    if checkpoint.has_chunks and (box := _box(wanted.key, record)) is not None:
        block, rest = box
        return np.asarray(checkpoint.block(wanted.name, block)[rest]), has_checksum
    if not unchecked:
        check(checkpoint, wanted.name)
    return items(checkpoint[wanted.name], wanted), has_checksum and not unchecked


def _box(key: Any, record: VariableRecord) -> tuple[Block, Any] | None:
    """The smallest block that has all the elements of an index, and the index in the block; None of a list or None."""
    shape = record.shape or ()
    parts = list(key) if isinstance(key, tuple) else [key]
    if not all(each is ... or isinstance(each, int | slice) for each in parts):
        return None
    if ... not in parts:
        parts.append(...)
    middle = parts.index(...)
    parts[middle : middle + 1] = [slice(None)] * (len(shape) - len(parts) + 1)
    offsets: list[int] = []
    sizes: list[int] = []
    rest: list[Any] = []
    for each, length in zip(parts, shape, strict=True):
        taken = range(length)[slice(each, each + 1 or None) if isinstance(each, int) else each]
        offsets.append(min(taken[0], taken[-1]) if taken else 0)
        sizes.append(abs(taken[-1] - taken[0]) + 1 if taken else 0)
        rest.append(0 if isinstance(each, int) else slice(None, None, each.step))
    return Block(tuple(offsets), tuple(sizes)), tuple(rest)
