"""What a reader of another program's file is: `Reader`, and `Extents` for files whose tensors are ranges of bytes.

A reader parses the header when the file is opened, and reads each tensor when it is asked for. It executes nothing, and
believes nothing: it checks every claim of the file against the size of the file before it asks for memory.
"""

from __future__ import annotations

import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from ..._arrays.dtypes import STORED
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from ...errors import BackendNotInstalledError
from .. import _files
from .safetensors.header import nbytes_of, refuse
from .safetensors.values import VariableRecord, fresh_bytes, plain

__all__ = [
    "DEEPEST",
    "LONGEST_HEADER",
    "ByteFile",
    "Extent",
    "Extents",
    "Reader",
    "Window",
    "described",
    "library",
    "nbytes_in_memory",
    "numpy_dtype",
]

LONGEST_HEADER = 100_000_000  #: bytes of a header, an index or a pickle
DEEPEST = 100  #: levels of nesting in a header, an index or a pickle


class Reader(ABC):
    """An open file of another program: a lazy mapping from name to array.

    Attributes:
        path: the path of the file.
        variables: by name, the facts about each tensor (`described`), for which none is read.
        aliases: each further name of a tensor that is stored once, mapped to its first name.
        metadata: the rest of the file as JSON has it: the step, the learning rate, hyperparameters.
        separator: what the program puts between the segments of a name: ``"."`` for torch. The keys of nested mappings
            are joined by ``/`` in any case, and ``/`` and ``~`` in a key are escaped (`statevar._state.walk.segment`).
    """

    path: Path
    variables: Mapping[str, VariableRecord]
    aliases: Mapping[str, str]
    metadata: Mapping[str, Any]
    separator: str = "/"

    @abstractmethod
    def read(self, name: str) -> HostArray:
        """Reads one tensor into new, writable memory. Several threads may call this at once.

        Raises:
            CheckpointError: the tensor is damaged, or is of a kind that cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Closes the file. It must be allowed to call this twice."""

    def mapped(self, name: str) -> HostArray:
        """Returns a tensor in the mapped memory of the file. A format that cannot be mapped reads it instead."""
        return self.read(name)

    def check(self, name: str) -> None:
        """Reads one tensor, and compares its checksum, also where `read` does not, as that would take longer.

        Raises:
            CheckpointError: the tensor is damaged, or is of a kind that cannot be read.
        """
        self.read(name)

    def checksum(self, name: str) -> str | None:  # most formats have none
        """Returns the checksum of a tensor that `check` compares; None if the file has none."""
        return None


def described(dtype: str, shape: Shape) -> VariableRecord:
    """Returns the record of a tensor with the default of every fact that other programs do not store.

    Args:
        dtype: the canonical name. It may also be the name of a dtype that no variable can have: of ``ml_dtypes``, or
            what another program calls a tensor that cannot be read.
        shape: the shape.
    """
    if dtype in STORED:
        return plain(dtype, shape)
    return plain("float16", shape)._replace(dtype=dtype)


@lru_cache(maxsize=64)
def numpy_dtype(name: str) -> np.dtype[Any]:
    """Returns the NumPy dtype of a dtype's name. Only names of NumPy's and of ``ml_dtypes`` may be passed."""
    if name in STORED:
        return STORED[name]
    import ml_dtypes  # noqa: PLC0415  # which a program without such tensors does not need

    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def library(name: str, extra: str, path: Path, what: Literal["read", "write"] = "read") -> ModuleType:
    """Imports the library that a reader or writer of a format needs.

    Args:
        name: the name of the module.
        extra: the extra of statevar that installs it.
        path: the file that cannot be read or written without it.
        what: which of the two.

    Raises:
        BackendNotInstalledError: it is not installed. The hint is the command that installs it.
    """
    with suppress(ImportError):
        return import_module(name)
    hint = f"pip install 'statevar[{extra}]'"
    raise BackendNotInstalledError.of(
        "load" if what == "read" else "save", f"to {what} this file needs {name}", str(path), hint
    )


class ByteFile:
    """An open file, whose every read is checked against its size first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _files.os_errors_as("load", path):
            self._file = _files.open_file(path)
            try:
                self.size = _files.size(self._file)
            except BaseException:
                _files.close(self._file)
                raise
        self._open = True

    def read(self, count: int, offset: int) -> bytes:
        """Returns ``count`` bytes.

        Raises:
            CheckpointError: the file has no such bytes.
        """
        self.check(count, offset)
        memory = bytearray(count)
        self.fill(memoryview(memory), offset)
        return bytes(memory)

    def check(self, count: int, offset: int) -> None:
        """Raises CheckpointError if the file does not have ``count`` bytes at ``offset``."""
        if offset < 0 or count < 0 or offset + count > self.size:
            problem = f"{count} bytes at byte {offset} are needed, and the file has {self.size}"
            refuse("load", f"the file is damaged or cut short: {problem}", self.path)

    def fill(self, memory: memoryview, offset: int) -> None:
        """Reads bytes into memory until it is full."""
        with _files.os_errors_as("load", self.path):
            while len(memory):
                count = _files.read(self._file, [memory], offset)
                if count <= 0:
                    refuse("load", f"the file ends at byte {offset}, but more bytes should follow", self.path)
                memory, offset = memory[count:], offset + count

    def mapped(self, count: int, offset: int) -> HostArray:
        """Returns bytes in the mapped memory of the file, read-only."""
        if _files.size(self._file) < self.size:
            refuse("load", f"the file was cut short after it was opened: it had {self.size} bytes", self.path)
        return np.frombuffer(mmap.mmap(self._file, 0, access=mmap.ACCESS_READ), np.uint8, count, offset)

    def close(self) -> None:
        """Closes the file, once."""
        if self._open:
            self._open = False
            with suppress(OSError):  # nothing was written, so nothing is lost
                _files.close(self._file)


class Window(ByteFile):
    """A range of bytes of an open file, as a file. Closing it does nothing."""

    def __init__(self, file: ByteFile, start: int, size: int) -> None:
        file.check(size, start)
        self.path = file.path
        self.size = size
        self._whole = file
        self._start = start

    def fill(self, memory: memoryview, offset: int) -> None:
        self._whole.fill(memory, self._start + offset)

    def mapped(self, count: int, offset: int) -> HostArray:
        return self._whole.mapped(count, self._start + offset)

    def close(self) -> None:
        """Leaves the file open, which belongs to somebody else."""


class Extent(NamedTuple):
    """A tensor as a range of bytes of a file.

    Attributes:
        file: the file.
        offset: the place of its first element, in bytes.
        dtype: the name of its dtype, one that `numpy_dtype` knows.
        shape: its shape.
        strides: the distances between neighbours on each axis, in elements and not negative; None for C order.
        swapped: whether the bytes of each number are in big-endian order.
    """

    file: ByteFile
    offset: int
    dtype: str
    shape: Shape
    strides: Shape | None = None
    swapped: bool = False


class Extents(Reader):
    """A reader of tensors that are ranges of bytes: each is read in one go when it is asked for.

    Args:
        path: the path to name in errors.
        extents: the tensors by name. They are checked here, all of them.
        files: the files, which `close` closes.
        refused: by name, the record of each tensor that cannot be read, and the reason, which is the error of its read.
    """

    def __init__(
        self,
        path: Path,
        extents: Mapping[str, Extent],
        files: Iterable[ByteFile],
        *,
        refused: Mapping[str, tuple[VariableRecord, str]] | None = None,
        aliases: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.variables = {name: described(each.dtype, tuple(each.shape)) for name, each in extents.items()}
        self._refused = refused or {}
        self.variables |= {name: record for name, (record, _) in self._refused.items()}
        self.aliases = aliases or {}
        self.metadata = metadata or {}
        self._extents = extents
        self._files = list(files)
        #: By name, the number of bytes in the file from the first element to the end of the last one.
        self._spans = {name: _checked_span(each, f"{path}: {name}") for name, each in extents.items()}

    def read(self, name: str) -> HostArray:
        """Reads one tensor into new memory. If its elements do not follow each other, they are copied from there."""
        if name in self._refused:
            refuse("load", self._refused[name][1], f"{self.path}: {name}")
        extent, span = self._extents[name], self._spans[name]
        raw = fresh_bytes(span)
        if span:
            extent.file.fill(memoryview(raw), extent.offset)  # type: ignore[arg-type]  # NumPy's stubs for 3.11
        array = _array(raw, extent)
        if extent.dtype == "bool" and raw.size and raw.max() > 1:
            refuse("load", "a bool is stored as neither 0 nor 1", f"{self.path}: {name}")
        if extent.swapped:
            array = array.byteswap()
        return array if array.flags.c_contiguous else np.asarray(array, order="C")

    def mapped(self, name: str) -> HostArray:
        extent, span = self._extents.get(name), self._spans.get(name)
        if extent is None or not span or extent.swapped or extent.offset % numpy_dtype(extent.dtype).itemsize:
            array = self.read(name)
            array.setflags(write=False)
            return array
        return _array(extent.file.mapped(span, extent.offset), extent)

    def close(self) -> None:
        for file in self._files:
            file.close()


def _array(raw: HostArray, extent: Extent) -> HostArray:
    """The elements of a tensor in the bytes of its span."""
    flat = raw.view(numpy_dtype(extent.dtype))
    if extent.strides is None or not flat.size:
        return flat.reshape(extent.shape)
    strides = [step * flat.itemsize for step in extent.strides]
    return np.lib.stride_tricks.as_strided(flat, extent.shape, strides, writeable=flat.flags.writeable)


def _checked_span(extent: Extent, where: str) -> int:
    """The number of bytes that the elements of a tensor extend over in its file.

    Raises:
        CheckpointError: no array has this shape, or it reaches beyond the file, or it is larger than the file.
    """
    width = numpy_dtype(extent.dtype).itemsize
    nbytes = nbytes_of(extent.shape, width)
    if nbytes is None:
        refuse("load", "the tensor has a shape that no array can have", where)
    span = nbytes
    if extent.strides is not None:
        sound = len(extent.strides) == len(extent.shape)
        sound = sound and all(type(step) is int and 0 <= step < 2**48 for step in extent.strides)
        if not sound:
            refuse("load", "the tensor has strides that no array can have", where)
        if nbytes:
            reach = sum((length - 1) * step for length, step in zip(extent.shape, extent.strides, strict=True))
            span = (reach + 1) * width
    if span:
        extent.file.check(span, extent.offset)
    if nbytes > extent.file.size:
        problem = f"the tensor takes {nbytes} bytes in memory, and its file has only {extent.file.size}"
        refuse("load", problem, where, "save it as an ordinary array: expand() repeats one element without storing it")
    return span


def nbytes_in_memory(record: VariableRecord) -> int:
    """The number of bytes that a tensor takes in memory; 0 if its dtype is none of ours, so that it cannot be read."""
    try:
        return math.prod(record.shape or ()) * numpy_dtype(record.dtype).itemsize
    except AttributeError:
        return 0
