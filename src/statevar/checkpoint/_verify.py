"""`verify`: whether what was saved is whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .._public import public
from ._checkpoint import open_checkpoint

__all__ = ["Verification", "verify"]


@public("statevar.checkpoint")
@dataclass(frozen=True)
class Verification:
    """Whether what was saved is whole. It is true if nothing is damaged.

    Attributes:
        checked: how many tensors have the checksum that they were saved with.
        unchecked: those without one, since somebody else has written them.
        damaged: why each of the others cannot be loaded, by path.
    """

    checked: int
    unchecked: list[str]
    damaged: dict[str, str]

    def __bool__(self) -> bool:
        return not self.damaged


@public()
def verify(path: str | os.PathLike[str]) -> Verification:
    """Reads all that was saved and names each tensor that is damaged.

    Args:
        path: of a file, an index, or a checkpoint of a `CheckpointManager`.

    Raises:
        CheckpointError: it cannot be opened at all: the header, the index or a whole file is damaged.
        CheckpointNotFoundError: there is no such file.
        StorageError: the system cannot read it.

    >>> import pathlib, tempfile
    >>> import statevar as sv
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> sv.save({"w": sv.Variable([1.0, 2.0]), "steps": sv.Variable(3)}, path)
    >>> sv.verify(path)
    Verification(checked=2, unchecked=[], damaged={})
    >>> content = bytearray(path.read_bytes())
    >>> content[-1] ^= 1
    >>> _ = path.write_bytes(content)
    >>> list(sv.verify(path).damaged)
    ['steps']
    """
    with open_checkpoint(Path(path)) as checkpoint:
        damaged = {name: str(error) for name, error in checkpoint.damage().items()}
        names = list(checkpoint)
        whole = [name for name in names if name not in damaged]
        unchecked = [name for name in whole if checkpoint.checksum(name) is None]
    return Verification(len(whole) - len(unchecked), unchecked, damaged)
