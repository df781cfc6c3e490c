"""Reads ``pytorch_model.bin.index.json`` of Hugging Face: which file of ``torch.save`` contains which tensor."""

from __future__ import annotations

from pathlib import Path

from ..._arrays.types import HostArray
from .reader import LONGEST_HEADER, ByteFile, Reader
from .safetensors.header import parse_json, refuse
from .safetensors.index import is_plain
from .safetensors.values import VariableRecord
from .torch_pt import open_torch_pt

__all__ = ["open_torch_index", "shards_named_in"]


def shards_named_in(path: Path) -> list[str] | None:
    """Returns the files that an index names, each once; None if the file is no index.

    Raises:
        CheckpointError: it is damaged, or names a file outside its folder.
    """
    file = ByteFile(path)
    try:
        if file.size > LONGEST_HEADER:
            return None
        names = parse_json(file.read(file.size, 0), path, numbers=True).get("weight_map")
    finally:
        file.close()
    if not isinstance(names, dict) or not names or not all(isinstance(each, str) for each in names.values()):
        return None
    for name in names.values():
        if not is_plain(name):
            refuse("load", f"the index names {name!r:.100}, which is not the name of a file in its folder", path)
    return list(dict.fromkeys(names.values()))


class _Shards(Reader):
    separator = "."

    def __init__(self, path: Path, parts: list[Reader]) -> None:
        self.path = path
        self._parts = parts
        self._part_of: dict[str, Reader] = {}
        self.aliases: dict[str, str] = {}
        self.metadata: dict[str, object] = {}
        variables: dict[str, VariableRecord] = {}
        for part in parts:
            if twice := [
                name for name in (*part.variables, *part.aliases) if name in variables or name in self.aliases
            ]:
                refuse("load", f"the tensor {twice[0]!r:.100} is in two files", path)
            variables |= part.variables
            self.aliases |= part.aliases
            self.metadata |= part.metadata
            self._part_of |= dict.fromkeys(part.variables, part)
        self.variables = variables

    def read(self, name: str) -> HostArray:
        return self._part_of[name].read(name)

    def mapped(self, name: str) -> HostArray:
        return self._part_of[name].mapped(name)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def open_torch_index(path: Path) -> Reader:
    """Opens the files that an index names."""
    parts: list[Reader] = []
    try:
        for name in shards_named_in(path) or ():
            try:
                parts.append(open_torch_pt(path.parent / name))
            except FileNotFoundError:
                refuse("load", f"the file {name} is missing", path)
        return _Shards(path, parts)
    except BaseException:
        for part in parts:
            part.close()
        raise
