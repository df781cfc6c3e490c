"""Opens HDF5 files, weights of Keras (``.weights.h5``, ``.h5``) and models of Keras (``.keras``)."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...._arrays.dtypes import STORED
from ...._arrays.host import empty_aligned
from ...._arrays.types import HostArray
from ....errors import StatevarError
from ..archive import Archive
from ..reader import LONGEST_HEADER, ByteFile, Extents, described, library, numpy_dtype
from ..safetensors.header import refuse
from .names import names_in
from .tree import LIBRARY_ERRORS, Dataset, Tree, Window

__all__ = ["open_hdf5"]

_WEIGHTS = "model.weights.h5"  # the member of a model of Keras
_MAGIC = b"\x89HDF\r\n\x1a\n"


def open_hdf5(path: Path) -> Hdf5:
    """Opens an HDF5 file, or a model of Keras, which is an archive with such a file in it.

    Raises:
        BackendNotInstalledError: h5py is not installed.
        CheckpointError: the file is damaged, or a link in it leads out of it.
    """
    h5py = library("h5py", "h5", path)
    file = ByteFile(path)
    is_archive = file.size >= 4 and file.read(4, 0) == b"PK\x03\x04"
    facts: dict[str, Any] = {}
    if is_archive:
        file.close()
        archive = Archive(path)
        file = archive.file
    try:
        window = _member(archive, facts) if is_archive else Window(file, 0, file.size)
        return Hdf5(path, h5py, window, facts)
    except BaseException:
        file.close()
        raise


def _member(archive: Archive, facts: dict[str, Any]) -> Window:
    """The file of the weights in a model of Keras. What the other members say is added to ``facts``."""
    if _WEIGHTS not in archive:
        hint = "load it with keras.saving.load_model, and save it again"
        refuse("load", f"the model of Keras has no {_WEIGHTS}", archive.path, hint)
    member = archive.member(_WEIGHTS)
    if member.is_compressed:
        hint = "load it with keras.saving.load_model, and save it again: Keras does not compress the weights"
        refuse("load", f"{_WEIGHTS} is compressed", archive.path, hint)
    for name in ("metadata.json", "config.json"):
        if name in archive:
            facts[name] = _parsed(archive.read(name, LONGEST_HEADER), f"{archive.path}: {name}")
    return Window(archive.file, member.start, member.size)


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        refuse("load", f"invalid JSON ({type(error).__name__}: {str(error)[:80]})", where)
    if not isinstance(value, dict):
        refuse("load", f"expected a JSON object, got {type(value).__name__}", where)
    return value


class Hdf5(Extents):
    """An open HDF5 file.

    The file is named by Keras's names where these are exact (`names_in`), and by the paths in the file otherwise.
    """

    def __init__(self, path: Path, h5py: ModuleType, window: Window, facts: dict[str, Any]) -> None:
        self._h5py = h5py
        self._file: Any = None
        try:
            if window.file.read(min(8, window.size), window.start) != _MAGIC:
                refuse("load", "this is no HDF5 file, or one with a block of another program before it", path)
            self._file = h5py.File(window, "r")
            tree = Tree(h5py, self._file, window, path)
            found = names_in(tree, facts)
            self._places = found.places
            self._known = {name: tree.datasets[place] for name, place in found.places.items()}
            super().__init__(
                path,
                {name: each.place for name, each in self._known.items() if each.place is not None},
                [window.file],
                refused={
                    name: (described(each.dtype, each.shape), each.problem)
                    for name, each in self._known.items()
                    if each.problem
                },
                aliases=found.aliases,
                metadata=found.metadata,
            )
            self.variables = {name: described(each.dtype, each.shape) for name, each in self._known.items()}
        except BaseException as error:
            if self._file is not None:
                self._file.close()
            if isinstance(error, StatevarError) or not isinstance(error, LIBRARY_ERRORS):
                raise
            refuse("load", f"the HDF5 file is damaged: h5py says {_first_line(error)}", path)

    def read(self, name: str) -> HostArray:
        known = self._known[name]
        if known.place is not None or known.problem:
            return super().read(name)
        if known.dtype == "string":
            return self._texts(name, known)
        array = empty_aligned(known.shape, numpy_dtype(known.dtype))
        if array.size:
            raw = self._from_library(name)
            array[...] = raw.view(numpy_dtype("bfloat16")) if known.dtype == "bfloat16" else raw
        return array

    def close(self) -> None:
        self._file.close()
        super().close()

    def _from_library(self, name: str) -> Any:
        """The array of a dataset that is compressed, or in chunks, as h5py reads it."""
        try:
            return np.asarray(self._file[f"/{self._places[name]}"][()])
        except LIBRARY_ERRORS as error:
            refuse("load", f"the tensor is damaged: h5py says {_first_line(error)}", f"{self.path}: {name}")

    def _texts(self, name: str, known: Dataset) -> HostArray:
        array = np.empty(known.shape, STORED["string"])
        if array.size:
            found = self._from_library(name)
            try:
                array[...] = [each.decode() if isinstance(each, bytes) else each for each in found.ravel().tolist()]
            except UnicodeDecodeError:
                refuse("load", "a string is not valid UTF-8", f"{self.path}: {name}")
        return array


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"
