"""Reads arrays in chunks (Zarr, in folders or in an OCDBT database) with tensorstore, within the limits of the store.

tensorstore gets a description that is made here, of files in one folder; nothing in it comes from a file but the names
of arrays. It does not follow ``..``, and decodes no chunk to more bytes than the metadata says. But it believes the
metadata: a file of 200 bytes can claim an array of terabytes whose chunks are all missing, so that every element has
the fill value, or chunks that are larger than the array. Therefore an array is read only if it, and each of its chunks,
takes at most `_FREE` bytes or `_RATIO` times the bytes of the whole store, and if its chunks are not too many for it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._arrays.dtypes import KEYS
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ...errors import StatevarError
from .. import _files
from .reader import DEEPEST, LONGEST_HEADER, ByteFile, Reader, described, library, numpy_dtype
from .safetensors.header import nbytes_of, refuse
from .safetensors.values import fresh_bytes

__all__ = ["Folder", "StoredArrays", "Zarr", "inside", "read_json"]

_FREE = 64 << 20  # bytes that any array may take
_RATIO = 100  # bytes of an array for each byte of the store; zeros are compressed more, but not a whole checkpoint
_FREE_CHUNKS = 10_000  # chunks that any array may have
_BYTES_OF_CHUNK = 16  # of the store for each further chunk: a place and a length
_MOST_FILES = 1_000_000
_WIDEST = 16  # bytes of the largest element

#: The dtypes that `numpy_dtype` knows and tensorstore reads.
_NUMBERS = {
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (4, 8, 16, 32, 64)),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e3m4", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    *("float4_e2m1fn", "int2"),
}


class Folder:
    """A folder with its files, of which none lies elsewhere.

    Args:
        path: the path of the folder.

    Raises:
        CheckpointError: a link leads out of it, or something in it is no file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = Path(os.path.realpath(path))
        #: The size of each file in bytes, by its path in the folder, with ``/``.
        self.files: dict[str, int] = {}
        with _files.os_errors_as("load", path):
            self._list()
        self.total = sum(self.files.values())

    def _list(self) -> None:
        folders, count = [("", 0)], 0
        while folders:
            prefix, depth = folders.pop()
            if depth > DEEPEST:
                refuse("load", f"folders are nested more than {DEEPEST} deep", self.path)
            with os.scandir(self.place / prefix) as entries:
                for entry in entries:
                    count += 1
                    if count > _MOST_FILES:
                        refuse("load", f"the folder has more than {_MOST_FILES} files", self.path)
                    name = prefix + entry.name
                    if entry.is_symlink():
                        inside(self.path, name)
                    if entry.is_dir(follow_symlinks=False):
                        folders.append((f"{name}/", depth + 1))
                    else:
                        status = entry.stat()
                        if not stat.S_ISREG(status.st_mode):
                            refuse("load", f"{name!r:.100} in the folder is no file", self.path)
                        self.files[name] = status.st_size

    def json(self, name: str) -> Any:
        """Parses a file of the folder.

        Raises:
            CheckpointError: it is missing, or is not JSON.
        """
        if name not in self.files:
            refuse("load", f"the file {name} is missing", self.path)
        file = ByteFile(self.place / name)
        try:
            if file.size > LONGEST_HEADER:
                refuse("load", f"the file has {file.size} bytes, and the limit is {LONGEST_HEADER}", file.path)
            return read_json(file.read(file.size, 0), file.path)
        finally:
            file.close()


def inside(folder: Path, name: str) -> Path:
    """Returns the path of something in a folder.

    Raises:
        CheckpointError: it is a link that leads out of the folder.
    """
    path = folder / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        refuse("load", f"the link {name!r:.100} leads out of the folder", folder, "copy what it links to")
    return path


def read_json(text: bytes, where: Any) -> Any:
    """Parses JSON of another program.

    Raises:
        CheckpointError: it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse("load", f"invalid JSON ({type(error).__name__}: {str(error)[:80]})", where)


class Zarr(NamedTuple):
    """Where the arrays of a folder are, and in which version of Zarr.

    Attributes:
        folder: the folder.
        version: 2 or 3.
        ocdbt: whether the folder is an OCDBT database, which has the files of the arrays in it.
    """

    folder: Folder
    version: int
    ocdbt: bool = False

    @property
    def facts_name(self) -> str:
        """The name of the file that describes an array."""
        return ".zarray" if self.version == 2 else "zarr.json"

    def kvstore(self, prefix: str = "") -> dict[str, Any]:
        """Describes the files whose names begin with a prefix, for tensorstore."""
        if self.ocdbt:
            return {"driver": "ocdbt", "base": {"driver": "file", "path": f"{self.folder.place}/"}, "path": prefix}
        return {"driver": "file", "path": f"{self.folder.place}/{prefix}"}

    def facts(self, content: Any, where: str) -> tuple[str, Shape]:
        """Returns the dtype and the shape that the metadata of an array claims."""
        key = "dtype" if self.version == 2 else "data_type"
        sound = isinstance(content, dict) and content.get("zarr_format") == self.version and key in content
        if not sound:
            refuse("load", f"the file {self.facts_name} does not describe an array", where)
        shape = content.get("shape")
        if type(shape) is not list or nbytes_of(shape, _WIDEST) is None:
            refuse("load", "the array has a shape that no array can have", where)
        return _dtype(content[key]), tuple(shape)


def _dtype(value: Any) -> str:
    """The canonical name of a dtype; of one that is not read, its description in the file."""
    text = value if isinstance(value, str) else json.dumps(value)
    if (
        text[:1] in ("<", ">", "|")
        and text[1:2] in ("b", "i", "u", "f", "c")
        and text[2:] in ("1", "2", "4", "8", "16")
    ):
        try:
            return np.dtype(text).name
        except TypeError:  # such as |b8
            return text
    return text[:100]


class StoredArrays(Reader):
    """The arrays of a folder, each read in one go by tensorstore.

    Args:
        path: the path to name in errors.
        zarr: where the arrays are.
        stored: by name, the name of the array in the store.
        metadata: the rest of the file.
        aliases: further names of the arrays.
        keys: for the names in the store of random keys, their dtype. A key has one axis less than its numbers.
    """

    def __init__(
        self,
        path: Path,
        zarr: Zarr,
        stored: Mapping[str, str],
        *,
        metadata: Mapping[str, Any],
        aliases: Mapping[str, str] | None = None,
        keys: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.aliases, self.metadata = path, aliases or {}, metadata
        self._zarr, self._stored = zarr, stored
        self._library = library("tensorstore", "orbax", path)
        # Without a cache each array would read the nodes of the database anew; chunks are read once, and not kept.
        self._context = self._library.Context(
            {"cache_pool": {"total_bytes_limit": 0}, "cache_pool#nodes": {"total_bytes_limit": 16 << 20}}
        )
        self._raw = self._all_facts()
        self._keys = {name: keys[place] for name, place in stored.items() if keys and place in keys}
        self.variables = {name: described(*self._seen_as(name)) for name in stored}

    def _all_facts(self) -> dict[str, tuple[str, Shape]]:
        """The dtype and the shape of each array, by name. All are asked for before the first answer is waited for."""
        zarr = self._zarr
        with _errors_of(self.path):
            files = self._library.KvStore.open(self._spec(""), context=self._context).result()
            asked = {name: files.read(_prefix(place) + zarr.facts_name) for name, place in self._stored.items()}
            answers = {name: each.result() for name, each in asked.items()}
        facts = {}
        for name, answer in answers.items():
            where = f"{self.path}: {name}"
            if answer.state != "value":
                refuse("load", f"the array {self._stored[name]!r:.100} is not in the store", where)
            facts[name] = zarr.facts(read_json(answer.value, where), where)
        return facts

    def _spec(self, prefix: str) -> dict[str, Any]:
        spec = self._zarr.kvstore(prefix)
        return {**spec, "cache_pool": "cache_pool#nodes"} if self._zarr.ocdbt else spec

    def _seen_as(self, name: str) -> tuple[str, Shape]:
        dtype, shape = self._raw[name]
        key = self._keys.get(name)
        if key is None:
            return dtype, shape
        if dtype != "uint32" or shape[-1:] != KEYS[key][0].shape:
            refuse("load", f"a random key of {key} is not stored as its numbers", f"{self.path}: {name}")
        return key, shape[:-1]

    def read(self, name: str) -> HostArray:
        dtype, shape = self._raw[name]
        where = f"{self.path}: {name}"
        if dtype not in _NUMBERS:
            hint = "read it with tensorstore or zarr, and assign the array to a variable"
            refuse("load", f"the array has the dtype {dtype}, which is none of numbers", where, hint)
        with _errors_of(where):
            store = self._library.open(
                {
                    "driver": "zarr" if self._zarr.version == 2 else "zarr3",
                    "kvstore": self._spec(_prefix(self._stored[name])),
                },
                open=True,
                read=True,
                context=self._context,
            ).result()
            if tuple(store.shape) != shape or store.dtype.name != dtype:
                refuse("load", "the array has another shape or dtype than when the file was opened", where)
            self._check_sizes(store, where)
            # Memory of tensorstore's would stay in its hands, and be aligned for nobody.
            array = fresh_bytes(math.prod(shape) * numpy_dtype(dtype).itemsize).view(numpy_dtype(dtype)).reshape(shape)
            self._library.array(array).write(store).result()
        key = self._keys.get(name)
        return array if key is None else array.view(KEYS[key]).reshape(shape[:-1])

    def _check_sizes(self, store: Any, where: str) -> None:
        """Raises CheckpointError if the array, its chunks or their number are too large for the store."""
        shape, width = tuple(store.shape), numpy_dtype(store.dtype.name).itemsize
        layout = store.chunk_layout
        outer, inner = (tuple(each.shape or shape) for each in (layout.write_chunk, layout.read_chunk))
        total = self._zarr.folder.total
        most = max(_FREE, _RATIO * total)
        largest = max(math.prod(shape), math.prod(outer), math.prod(inner)) * width
        advice = "read it with tensorstore, and assign the array to a variable"
        if largest > most:
            problem = f"the array or a chunk of it takes {largest} bytes, and the whole store has {total}"
            refuse("load", f"{problem}: at most {most} are read", where, advice)
        count = max(_count(shape, inner), _count(outer, inner))
        if count > _FREE_CHUNKS + total // _BYTES_OF_CHUNK:
            refuse("load", f"the array has {count} chunks, and the whole store has {total} bytes", where, advice)

    def close(self) -> None:
        """Does nothing: tensorstore keeps no file open."""


def _prefix(place: str) -> str:
    return f"{place}/" if place else ""


def _count(shape: Shape, part: Shape) -> int:
    """The number of parts that a shape has."""
    return math.prod(-(-length // max(1, step)) for length, step in zip(shape, part, strict=True))


@contextmanager
def _errors_of(where: Any) -> Iterator[None]:
    """Turns the errors of tensorstore, which are many built-in ones, into CheckpointError."""
    try:
        yield
    except (ValueError, IndexError, KeyError, TypeError, RuntimeError, OSError) as error:
        if isinstance(error, StatevarError):
            raise
        said = str(error).partition(" [")[0]  # the rest describes the request
        refuse("load", f"tensorstore says: {said:.300}", where)
