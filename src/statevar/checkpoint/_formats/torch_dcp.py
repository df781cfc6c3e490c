"""Reads a folder of torch.distributed.checkpoint, without torch and without a process group.

The file ``.metadata`` is a pickle: which tensor has which shape and dtype, of which chunks it is made, and where each
chunk is. A chunk is a tensor that ``torch.save`` has written somewhere in a file of the folder.

Source: torch/distributed/checkpoint/metadata.py and filesystem.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ..._state.walk import segment
from ...errors import CheckpointError
from .archive import Archive
from .pickles import Name, Named, unpickled
from .reader import LONGEST_HEADER, ByteFile, Reader, Window, described, numpy_dtype
from .safetensors.header import nbytes_of, refuse
from .safetensors.index import is_plain
from .torch_objects import NAMES, Dtype, are_sizes
from .torch_pt import Saved

__all__ = ["open_torch_dcp"]

_CONVERT = "convert it with torch: torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, 'weights.pt')"


class _Chunk(NamedTuple):
    start: Shape
    shape: Shape
    place: _Place


class _Place(NamedTuple):
    file: str
    offset: int
    length: int


def _class(name: str) -> Callable[..., Named]:
    return lambda *args: Named(name, args)


_METADATA = "torch.distributed.checkpoint.metadata."
_CLASSES = (
    *(f"{_METADATA}{name}" for name in ("BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex")),
    *(f"{_METADATA}{name}" for name in ("StorageMeta", "TensorProperties", "TensorStorageMetadata")),
    f"{_METADATA}_MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.distributed.checkpoint.filesystem._StoragePrefix",
)
_NAMES = NAMES | {name: Name(name, _class(name.rpartition(".")[2])) for name in _CLASSES}


class _Folder(Reader):
    separator = "."

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aliases = {}
        self.metadata: dict[str, Any] = {}
        self._files: dict[str, ByteFile] = {}
        self._tensors: dict[str, tuple[str, list[_Chunk]]] = {}
        self._entered = 0  # bytes of the values that are no tensors
        variables = {}
        try:
            saved = self._parsed()
            places = self._places(saved.get("storage_data"))
            paths = saved.get("planner_data")
            items = saved.get("state_dict_metadata")
            if type(items) is not dict:
                refuse("load", "the metadata names no tensors", path)
            for full, item in items.items():
                steps = paths.get(full, (full,)) if type(paths) is dict else (full,)
                steps = tuple(map(str, steps)) if type(steps) is tuple and type(full) is str else (str(full),)
                name = "/".join(map(segment, steps))
                if not name or name in variables or "\0" in name or not isinstance(item, Named):
                    refuse("load", f"the name {name!r:.100} is empty or occurs twice", path)
                if item.name == "BytesStorageMetadata":
                    self._enter_value(steps, places.get((full, None)))
                else:
                    dtype, shape = self._enter(name, full, item, places)
                    variables[name] = described(dtype, shape)
        except CheckpointError:
            self.close()
            raise
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            self.close()
            refuse("load", f"the metadata is damaged ({str(error)[:100]})", path)
        except BaseException:
            self.close()
            raise
        self.variables = variables

    def _parsed(self) -> Named:
        file = ByteFile(self.path / ".metadata")
        try:
            if file.size > LONGEST_HEADER:
                refuse("load", f"the metadata has {file.size} bytes, and the limit is {LONGEST_HEADER}", self.path)
            saved = unpickled(file.read(file.size, 0), _NAMES, self.path, hint=_CONVERT)
        finally:
            file.close()
        if not isinstance(saved, Named) or saved.name != "Metadata":
            refuse("load", "the file .metadata contains something else", self.path)
        return saved

    def _places(self, infos: Any) -> dict[tuple[Any, Any], _Place]:
        """Returns where each chunk is, by the name of its tensor and its start; of a value there is no start."""
        places = {}
        for index, info in infos.items() if type(infos) is dict else ():
            if not isinstance(index, Named) or not isinstance(info, Named):
                refuse("load", "the metadata is damaged", self.path)
            file, offset, length = (info.get(name) for name in ("relative_path", "offset", "length"))
            if type(file) is not str or not is_plain(file) or type(offset) is not int or type(length) is not int:
                refuse("load", f"the metadata names {file!r:.100}, which is no file in the folder", self.path)
            if info.get("transform_descriptors"):
                refuse("load", "the files are compressed by an extension of torch", self.path, _CONVERT)
            self._file(file).check(length, offset)
            start = index.get("offset")
            places[index.get("fqn"), start if start is None else tuple(start)] = _Place(file, offset, length)
        return places

    def _file(self, name: str) -> ByteFile:
        if name not in self._files:
            try:
                self._files[name] = ByteFile(self.path / name)
            except FileNotFoundError:
                refuse("load", f"the file {name} is missing", self.path)
        return self._files[name]

    def _enter(self, name: str, full: str, item: Named, places: dict[tuple[Any, Any], _Place]) -> tuple[str, Shape]:
        where = f"{self.path}: {name}"
        properties, shape, chunks = (item.get(each) for each in ("properties", "size", "chunks"))
        dtype = properties.state[0] if isinstance(properties, Named) and type(properties.state) is tuple else None
        if type(dtype) is not Dtype or dtype.name is None or type(shape) is not tuple or type(chunks) is not list:
            refuse("load", "the metadata of the tensor is damaged", where)
        total = sum(file.size for file in self._files.values())
        nbytes = nbytes_of(shape, 1)
        if nbytes is None or nbytes > total:
            refuse("load", "the tensor has more elements than the files have bytes", where)
        found = []
        for chunk in chunks:
            start: Any = chunk.get("offsets") if isinstance(chunk, Named) else None
            lengths: Any = chunk.get("sizes") if isinstance(chunk, Named) else None
            sound = are_sizes(start) and are_sizes(lengths) and len(start) == len(lengths) == len(shape)
            if not sound or any(a + n > full for a, n, full in zip(start, lengths, shape, strict=True)):
                refuse("load", "a chunk of the tensor lies outside of it", where)
            place = places.get((full, start), places.get((full, None)))
            if place is None:
                refuse("load", "a chunk of the tensor is in no file", where)
            found.append(_Chunk(start, lengths, place))
        if sum(math.prod(chunk.shape) for chunk in found) != math.prod(shape):
            refuse("load", "the chunks of the tensor do not cover it", where)
        self._tensors[name] = dtype.name, found
        return dtype.name, shape

    def _enter_value(self, steps: tuple[str, ...], place: _Place | None) -> None:
        """Enters a value that is no tensor, which was saved like a tensor."""
        if place is None:
            refuse("load", "a value is in no file", f"{self.path}: {'/'.join(steps)}")
        self._entered += place.length
        if self._entered > sum(file.size for file in self._files.values()):  # or reading them could take for ever
            refuse("load", "several values have the same place", self.path)
        inner = self.metadata
        for step in steps[:-1]:
            inner = inner.setdefault(step, {})
            if type(inner) is not dict:
                refuse("load", "a value contains another one", f"{self.path}: {'/'.join(steps)}")
        found = self._saved(place).metadata
        inner[steps[-1]] = found["value"] if found.keys() == {"value"} else found

    def _saved(self, place: _Place) -> Saved:
        return Saved(Archive(self.path, Window(self._file(place.file), place.offset, place.length)))

    def read(self, name: str) -> HostArray:
        dtype, chunks = self._tensors[name]
        shape = self.variables[name].shape
        assert shape is not None
        where = f"{self.path}: {name}"
        if len(chunks) == 1:
            return self._part(chunks[0], dtype, where)
        _check_apart(chunks, where)
        array = np.empty(shape, numpy_dtype(dtype))
        for chunk in chunks:
            place = tuple(slice(a, a + n) for a, n in zip(chunk.start, chunk.shape, strict=True))
            array[place] = self._part(chunk, dtype, where)
        return array

    def _part(self, chunk: _Chunk, dtype: str, where: str) -> HostArray:
        saved = self._saved(chunk.place)
        if len(saved.variables) != 1:
            refuse("load", "a chunk of the tensor is not one tensor", where)
        part = saved.read(next(iter(saved.variables)))
        if part.shape != chunk.shape or part.dtype != numpy_dtype(dtype):
            refuse("load", f"a chunk is {part.dtype.name}{list(part.shape)}, and the metadata says other", where)
        return part

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _check_apart(chunks: list[_Chunk], where: str) -> None:
    """Refuses chunks that overlap: as they have as many elements as the tensor, they would leave a gap."""
    starts = np.array([chunk.start for chunk in chunks], np.int64)
    ends = starts + np.array([chunk.shape for chunk in chunks], np.int64)
    for i in range(1, len(chunks)):
        if ((starts[:i] < ends[i]) & (starts[i] < ends[:i])).all(axis=1).any():
            refuse("load", "two chunks of the tensor overlap", where)


def open_torch_dcp(path: Path) -> Reader:
    """Opens a folder of torch.distributed.checkpoint."""
    return _Folder(path)
