"""`verify`: checks a saved file for damage."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._public import public
from . import _files
from ._checkpoint import open_checkpoint
from ._shown import Result

__all__ = ["Verification", "verify"]


@public("statevar.checkpoint")
@dataclass(frozen=True, repr=False)
class Verification(Result):
    """The result of `verify`. It is true if no tensor is damaged.

    Attributes:
        checked: the number of tensors whose checksum matches.
        unchecked: the paths of the tensors without a checksum, which another program wrote.
        damaged: the paths of the damaged tensors, each with the reason.
    """

    checked: int
    unchecked: list[str]
    damaged: dict[str, str]

    def __bool__(self) -> bool:
        return not self.damaged

    def _head(self) -> str:
        unchecked = f", {len(self.unchecked):,} without a checksum" if self.unchecked else ""
        return f"{self.checked:,} checked{unchecked}, {len(self.damaged):,} damaged"

    def _lists(self) -> Mapping[str, Sequence[str]]:
        damaged = [f"{path}: {why}" for path, why in self.damaged.items()]
        return {"damaged": damaged, "unchecked": self.unchecked}


@public()
def verify(path: str | os.PathLike[str]) -> Verification:
    """Reads a whole checkpoint, and names each damaged tensor.

    Args:
        path: the path of a file, of an index, or of a checkpoint of a `CheckpointManager`.

    Raises:
        CheckpointError: the checkpoint cannot be opened, because the header or the index is damaged, or a file is
            missing.
        CheckpointNotFoundError: the path does not exist.
        StorageError: the system cannot read a file.

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
    with open_checkpoint(_files.path_of("verify", path)) as checkpoint:
        damaged = {name: str(error) for name, error in checkpoint.damage().items()}
        names = list(checkpoint)
        whole = [name for name in names if name not in damaged]
        unchecked = [name for name in whole if checkpoint.checksum(name) is None]
    return Verification(len(whole) - len(unchecked), unchecked, damaged)
