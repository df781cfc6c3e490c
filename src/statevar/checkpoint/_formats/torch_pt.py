"""Reads what ``torch.save`` writes (``.pt``, ``.pth``, ``.bin``, ``.ckpt``), without torch: an archive of storages.

::

    name/data.pkl     a pickle of the saved object, in which each tensor refers to a storage
    name/byteorder    "little" or "big"
    name/data/0 …     the bytes of each storage, not compressed

Source: torch/serialization.py, and torch.Tensor.__reduce_ex__.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..._arrays.types import HostArray
from ..._state.walk import segment
from .archive import Archive
from .pickles import Name, Named, unpickled
from .reader import DEEPEST, LONGEST_HEADER, Extent, Extents, Reader, described, numpy_dtype
from .safetensors.header import refuse
from .safetensors.values import VariableRecord
from .torch_objects import NAMES, Array, Storage, Tensor, Unreadable, stored

__all__ = ["Found", "Saved", "open_torch_pt"]

_CONVERT = (
    "if you trust the file, save its tensors alone with torch: "
    'torch.save(torch.load(path, weights_only=False)["state_dict"], "weights.pt"); '
    "of a whole module .state_dict() instead"
)
_MOST_VALUES = 1_000_000  # of the metadata, which may contain a list many times
_CONTAINER = 4  # values that a container counts for, since it takes longer
_FREE_NAMES, _NAMES_OF_A_BYTE = 1_000_000, 32  # characters of paths, which repeat the keys of containers


class Found:
    """The tensors and the other values in an object that was saved.

    Attributes:
        tensors: each tensor by its path, once.
        aliases: further paths of tensors, and of containers of tensors.
        metadata: the other values, as JSON has them, in mappings as in the object.

    Args:
        tree: the object.
        name: the name of a tensor that is the whole object.
        where: the place to name in errors.
        nbytes: the size of the pickle, which limits what is made of it.
    """

    def __init__(self, tree: Any, name: str, where: Any, nbytes: int) -> None:
        self.tensors: dict[str, Tensor | Unreadable | Array] = {}
        self.aliases: dict[str, str] = {}
        self._where = where
        self._characters = _FREE_NAMES + _NAMES_OF_A_BYTE * nbytes
        self._texts: dict[int, str] = {}  # of bytes, which may be in many places
        self._first: dict[Tensor, str] = {}
        self._seen: dict[int, tuple[str, Any, int, bool]] = {}
        self._open: set[int] = set()
        self._keep: list[Any] = []  # so that no other object gets the identity of one that was seen
        rest, *_ = self._enter(tree, name if _is_tensor(tree) else "", 0)
        self.metadata: dict[str, Any] = {} if rest is _NOTHING else rest if isinstance(rest, dict) else {"value": rest}

    def _enter(self, value: Any, path: str, depth: int) -> tuple[Any, int, bool]:
        """Returns what JSON has of a value, the number of values in it, and whether it contains tensors."""
        if _is_tensor(value):
            self._add(value, path)
            return _NOTHING, 1, True
        if isinstance(value, Named):
            value = value.state if value.name == "argparse.Namespace" else f"<{value.name}>"
        if not isinstance(value, dict | list | tuple):
            return self._as_json(value), 1, False
        if not value:
            return ({} if isinstance(value, dict) else []), _CONTAINER, False
        if depth > DEEPEST or id(value) in self._open:
            refuse("load", f"the object is nested more than {DEEPEST} levels deep, or contains itself", self._where)
        if id(value) in self._seen:
            first, rest, count, has_tensors = self._seen[id(value)]
            if has_tensors:
                self._set_alias(path, first)
        else:
            self._open.add(id(value))
            rest, count, has_tensors = self._enter_items(value, path, depth)
            self._open.discard(id(value))
            self._seen[id(value)] = path, rest, count, has_tensors
            self._keep.append(value)
        return rest, count, has_tensors

    def _enter_items(self, value: Any, path: str, depth: int) -> tuple[Any, int, bool]:
        items = list(value.items() if isinstance(value, dict) else enumerate(value))
        rest, total, has_tensors = {}, _CONTAINER, False
        for key, each in items:
            step = self._step(key)
            if each is None or isinstance(each, bool | int | float | str):  # which needs no path
                rest[key if isinstance(key, str) else step] = each
                total += 1
                continue
            self._characters -= len(path) + len(step)
            if self._characters < 0:
                refuse("load", "the names in the file are much longer than the file", self._where)
            found, count, has = self._enter(each, f"{path}/{step}" if path else step, depth + 1)
            total, has_tensors = total + count, has_tensors or has
            if found is not _NOTHING:
                rest[key if isinstance(key, str) else step] = found
            if total > _MOST_VALUES:
                refuse("load", f"the object has more than {_MOST_VALUES} values", self._where)
        if not rest:
            return _NOTHING, total, has_tensors
        if isinstance(value, dict) or len(rest) < len(items):
            return rest, total, has_tensors
        return list(rest.values()), total, has_tensors

    def _step(self, key: Any) -> str:
        if isinstance(key, str):
            return segment(key)
        if isinstance(key, bool | int | float) or key is None:
            return str(key)
        return segment("-".join(map(str, key)) if isinstance(key, tuple) else str(key)[:100])

    def _as_json(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            if id(value) not in self._texts:
                self._texts[id(value)] = value.hex()
            return self._texts[id(value)]
        return value.full if isinstance(value, Name) else f"<{type(value).__name__}>"

    def _add(self, tensor: Tensor | Unreadable | Array, path: str) -> None:
        if not path or "\0" in path or path in self.tensors or path in self.aliases:
            refuse("load", f"a tensor has the path {path!r:.100}, which is empty or occurs twice", self._where)
        if type(tensor) is Tensor and 0 not in tensor.shape:
            first = self._first.setdefault(tensor, path)
            if first != path:
                self.aliases[path] = first
                return
        self.tensors[path] = tensor

    def _set_alias(self, path: str, first: str) -> None:
        if not path or path in self.tensors or path in self.aliases:
            refuse("load", f"a container has the path {path!r:.100}, which is empty or occurs twice", self._where)
        self.aliases[path] = first


_NOTHING = object()


def _is_tensor(value: Any) -> bool:
    return type(value) in (Tensor, Unreadable, Array) or (isinstance(value, Named) and value.name == "numpy.array")


class Saved(Extents):
    """The tensors of one archive."""

    separator = "."

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        try:
            root = self._root()
            self._swapped = self._is_big_endian(root)
            pickle = archive.read(f"{root}data.pkl", LONGEST_HEADER)
            tree = unpickled(pickle, NAMES, archive.path, stored, _CONVERT)
            found = Found(tree, archive.path.stem, archive.path, len(pickle))
            self._changes: dict[str, tuple[str, ...]] = {}
            self._arrays: dict[str, Array] = {}
            extents, refused = self._placed(found, f"{root}data/")
            super().__init__(
                archive.path,
                extents,
                [archive.file],
                refused=refused,
                aliases=found.aliases,
                metadata=found.metadata,
            )
            records = dict(self.variables)
            for name, array in self._arrays.items():
                facts = array.facts()
                assert facts is not None
                records[name] = described(*facts)
            self.variables = {name: records[name] for name in found.tensors}
        except BaseException:
            archive.file.close()
            raise

    def read(self, name: str) -> HostArray:
        if name in self._arrays:
            return self._arrays[name].value()
        array = super().read(name)
        for change in self._changes.get(name, ()):
            (np.conjugate if change == "conj" else np.negative)(array, out=array)
        return array

    def mapped(self, name: str) -> HostArray:
        return self.read(name) if name in self._changes else super().mapped(name)

    def _root(self) -> str:
        roots = [name.removesuffix("data.pkl") for name in self._archive if _last(name) == "data.pkl"]
        if len(roots) != 1:
            refuse("load", f"the archive has {len(roots)} members data.pkl", self._archive.path)
        return roots[0]

    def _is_big_endian(self, root: str) -> bool:
        if f"{root}byteorder" not in self._archive:
            return False
        order = self._archive.read(f"{root}byteorder", 10)
        if order not in (b"little", b"big"):
            refuse("load", f"the byte order {order!r} is not known", self._archive.path)
        return order == b"big"

    def _placed(self, found: Found, folder: str) -> tuple[dict[str, Extent], dict[str, tuple[VariableRecord, str]]]:
        """Returns the place of each tensor that can be read, and the reason for each of the others."""
        starts: dict[Storage, int] = {}
        extents, refused = {}, {}
        for name, each in found.tensors.items():
            if isinstance(each, Unreadable):
                refused[name] = described(each.kind, each.shape), each.why
            elif isinstance(each, Tensor):
                storage = each.storage
                if storage not in starts:
                    starts[storage] = self._start(storage, folder)
                extents[name] = self._extent(each, starts[storage], name)
                if each.changes:
                    self._changes[name] = each.changes
            else:
                self._enter_array(name, each, refused)
        return extents, refused

    def _start(self, storage: Storage, folder: str) -> int:
        """The place of a storage in the file, whose size is checked."""
        name = folder + storage.key
        if name not in self._archive:
            refuse("load", f"the archive has no storage {storage.key!r:.100}", self._archive.path)
        member = self._archive.member(name)
        width = 1 if storage.dtype is None else _width(storage.dtype)
        if member.is_compressed or member.size != storage.elements * width:
            problem = f"the storage {storage.key!r:.100} is compressed, or has another size than the pickle says"
            refuse("load", problem, self._archive.path)
        return member.start

    def _extent(self, tensor: Tensor, start: int, name: str) -> Extent:
        width = _width(tensor.dtype)
        strides: tuple[int, ...] | None = tensor.strides
        if len(tensor.strides) != len(tensor.shape):
            refuse("load", "the tensor has not one stride for each axis", f"{self._archive.path}: {name}")
        steps = zip(tensor.shape, tensor.strides, strict=True)
        reach = tensor.offset + sum((length - 1) * step for length, step in steps) + 1 if 0 not in tensor.shape else 0
        size = tensor.storage.elements * (1 if tensor.storage.dtype is None else width)
        if tensor.offset < 0 or reach * width > size:
            refuse("load", "the tensor reaches beyond its storage", f"{self._archive.path}: {name}")
        if _is_c_order(tensor.shape, tensor.strides):
            strides = None
        swapped = self._swapped and width > 1
        return Extent(self._archive.file, start + tensor.offset * width, tensor.dtype, tensor.shape, strides, swapped)

    def _enter_array(self, name: str, each: Any, refused: dict[str, tuple[VariableRecord, str]]) -> None:
        """Enters an array of NumPy, whose bytes are in the pickle."""
        array = each
        if isinstance(each, Named):  # (version, shape, dtype, is in Fortran order, bytes)
            state = each.state if type(each.state) is tuple and len(each.state) == 5 else (1, (), None, False, None)
            array = Array(state[2], state[1], state[4], fortran_order=state[3] is True)
        if array.facts() is None:
            shape = array.shape if type(array.shape) is tuple and len(array.shape) <= 64 else ()
            why = "an array of NumPy whose dtype no variable has, or whose bytes are not those of its shape"
            refused[name] = described("object", shape), why
        else:
            self._arrays[name] = array


def _width(dtype: str) -> int:
    return 1 if dtype.startswith("float8") else numpy_dtype(dtype).itemsize


def _is_c_order(shape: Iterable[int], strides: Iterable[int]) -> bool:
    expected = 1
    for length, step in zip(reversed(tuple(shape)), reversed(tuple(strides)), strict=True):
        if length != 1 and step != expected:
            return False
        expected *= length
    return True


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def open_torch_pt(path: Path) -> Reader:
    """Opens a file of ``torch.save``."""
    return Saved(Archive(path))
