r"""Reads files of NumPy: ``.npy``, an array, and ``.npz``, an archive of arrays. No object is unpickled, ever.

::

    6 bytes    \x93NUMPY
    2 bytes    the version
    2 or 4     the length of the header, little-endian
    header     a dict as Python writes it: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
    data       the bytes of the array

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..._arrays.dtypes import HOST
from ..._arrays.shapes import Shape
from ..._arrays.types import HostArray
from .archive import Archive, Member
from .reader import ByteFile, Extent, Extents, described
from .safetensors.header import nbytes_of, refuse
from .safetensors.values import VariableRecord, fresh_bytes

__all__ = ["open_npy"]

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000  # NumPy's own limit; no header of numbers is longer than a few hundred bytes
_BEGINNING = 256  # bytes to read first: enough for the header of almost any array
_KEYS = {"descr", "fortran_order", "shape"}


class _Header(NamedTuple):
    descr: Any
    shape: Shape
    fortran_order: bool
    length: int  # in bytes, with all that stands before the array

    def strides(self) -> Shape | None:
        """The strides in elements; None for C order."""
        if not self.fortran_order:
            return None
        return tuple(math.prod(self.shape[:axis]) for axis in range(len(self.shape)))

    def dtype(self) -> tuple[str, bool] | None:
        """The name of the dtype, and whether the bytes of its numbers are in big-endian order; None if we have none."""
        try:
            dtype = np.dtype(self.descr) if isinstance(self.descr, str) else None
        except (TypeError, ValueError):
            dtype = None
        if dtype is None or dtype.name not in HOST or dtype.kind not in "biufc":
            return None
        return dtype.name, dtype.str.startswith(">")


def open_npy(path: Path) -> Extents:
    """Opens a file of ``numpy.save``, whose array has the name of the file, or of ``numpy.savez``."""
    file = ByteFile(path)
    try:
        is_archive = file.read(min(file.size, 4), 0) in (b"PK\x03\x04", b"PK\x05\x06")  # the second one is empty
        if not is_archive:
            return _opened_array(path, file)
    except BaseException:
        file.close()
        raise
    file.close()
    return _Npz(Archive(path))


def _opened_array(path: Path, file: ByteFile) -> Extents:
    name = path.stem or "array"
    header = _header(path, lambda count: file.read(min(count, file.size), 0))
    extents, refused = {}, {}
    found = header.dtype()
    if found is None:
        refused[name] = _refusal(header)
    else:
        dtype, swapped = found
        extents[name] = Extent(file, header.length, dtype, header.shape, header.strides(), swapped)
        if file.size != header.length + math.prod(header.shape) * HOST[dtype].itemsize:
            refuse("load", f"the file has {file.size} bytes, and its header describes another size", path)
    return Extents(path, extents, [file], refused=refused)


class _Npz(Extents):
    """An archive of arrays. Those that are stored are ranges of bytes; those that are compressed are inflated."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        #: By name, the member and the header of each compressed array.
        self._compressed: dict[str, tuple[Member, _Header]] = {}
        extents: dict[str, Extent] = {}
        refused: dict[str, tuple[VariableRecord, str]] = {}
        try:
            for each in archive:
                name = each.removesuffix(".npy")
                if not name or "\0" in name or name in extents or name in refused or name in self._compressed:
                    refuse("load", f"an array has the name {each!r:.100}, which is empty or occurs twice", archive.path)
                self._enter(name, archive.member(each), extents, refused)
            super().__init__(archive.path, extents, [archive.file], refused=refused)
        except BaseException:
            archive.file.close()
            raise
        known = dict(self.variables)
        for name, (_, header) in self._compressed.items():
            known[name] = described(self._dtype(header)[0], header.shape)
        self.variables = {name: known[name] for name in (each.removesuffix(".npy") for each in archive)}

    def _enter(
        self,
        name: str,
        member: Member,
        extents: dict[str, Extent],
        refused: dict[str, tuple[VariableRecord, str]],
    ) -> None:
        def beginning(count: int) -> bytes:
            count = min(count, member.size)
            if not member.is_compressed:
                return self._archive.file.read(count, member.start)
            memory = bytearray(count)
            self._archive.inflate(member, memoryview(memory))
            return bytes(memory)

        where = f"{self._archive.path}: {name}"
        header = _header(where, beginning)
        found = header.dtype()
        if found is None:
            refused[name] = _refusal(header)
            return
        dtype, swapped = found
        if member.size != header.length + math.prod(header.shape) * HOST[dtype].itemsize:
            refuse("load", f"the array takes {member.size} bytes, and its header describes another size", where)
        if member.is_compressed:
            self._compressed[name] = member, header
        else:
            start = member.start + header.length
            extents[name] = Extent(self._archive.file, start, dtype, header.shape, header.strides(), swapped)

    def read(self, name: str) -> HostArray:
        if name not in self._compressed:
            return super().read(name)
        member, header = self._compressed[name]
        dtype, swapped = self._dtype(header)
        raw = fresh_bytes(member.size - header.length)
        self._archive.inflate(member, memoryview(raw), header.length)  # type: ignore[arg-type]  # NumPy's stubs for 3.11
        if dtype == "bool" and raw.size and raw.max() > 1:
            refuse("load", "a bool is stored as neither 0 nor 1", f"{self.path}: {name}")
        flat = raw.view(HOST[dtype])
        if swapped:
            flat = flat.byteswap()
        return np.asarray(flat.reshape(header.shape, order="F" if header.fortran_order else "C"), order="C")

    @staticmethod
    def _dtype(header: _Header) -> tuple[str, bool]:
        found = header.dtype()
        assert found is not None
        return found


def _header(where: Any, beginning: Any) -> _Header:
    """Parses a header.

    Args:
        where: the place to name in errors.
        beginning: returns so many of the first bytes, or all if there are fewer.
    """
    content = beginning(_BEGINNING)
    version = tuple(content[6:8])
    width = 2 if version == (1, 0) else 4
    if not content.startswith(_MAGIC) or version not in ((1, 0), (2, 0), (3, 0)) or len(content) < 8 + width:
        refuse("load", "this is no array of NumPy, or of a newer format", where)
    length = int.from_bytes(content[8 : 8 + width], "little")
    begin = 8 + width
    if length > _LONGEST_HEADER:
        refuse("load", f"the header of the array has {length} bytes, and the limit is {_LONGEST_HEADER}", where)
    if begin + length > len(content):
        content = beginning(begin + length)
    text = content[begin : begin + length]
    try:
        value = ast.literal_eval(text.decode("utf-8" if version == (3, 0) else "latin1").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        value = None
    if len(text) != length or type(value) is not dict or value.keys() != _KEYS:
        refuse("load", "the header of the array is damaged", where)
    shape, fortran_order = value["shape"], value["fortran_order"]
    if type(shape) is not tuple or type(fortran_order) is not bool or nbytes_of(shape, _WIDEST) is None:
        refuse("load", "the header of the array describes a shape that no array can have", where)
    return _Header(value["descr"], shape, fortran_order, begin + length)


_WIDEST = 16  # bytes of the largest element


def _refusal(header: _Header) -> tuple[VariableRecord, str]:
    """The record of an array that cannot be read, and the reason."""
    descr = header.descr
    if isinstance(descr, list):
        what, why = "structured", "a structured array has several dtypes: save each field as an array of its own"
    elif isinstance(descr, str) and descr.lstrip("<>|=").startswith("O"):
        what, why = "object", "an array of objects is a pickle, which can run any code: it is not read"
    elif isinstance(descr, str) and descr.lstrip("<>|=").startswith("V"):
        what, why = (
            descr,
            f"NumPy has saved the bytes ({descr}) without their dtype: save x.view('uint16') of a bfloat16",
        )
    else:
        what, why = f"{descr:.20}" if isinstance(descr, str) else "unknown", f"no variable has the dtype {descr!r:.40}"
    return described(what, header.shape), why
