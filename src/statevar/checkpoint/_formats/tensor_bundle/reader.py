"""Opens checkpoints and SavedModels of TensorFlow, and reads their variables."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...._arrays.dtypes import STORED
from ...._arrays.host import empty_aligned
from ...._arrays.types import HostArray
from ....errors import CheckpointError, CheckpointNotFoundError
from ..reader import LONGEST_HEADER, ByteFile, Extent, Extents, described, numpy_dtype
from ..safetensors.header import nbytes_of, refuse
from ..safetensors.values import VariableRecord, fresh_bytes
from .crc32c import crc32c, masked
from .entries import DTYPES, UNREADABLE, Index, Stored, parse_index
from .names import GRAPH, further_names, names_of
from .wire import varint

__all__ = ["open_tensor_bundle", "prefix_of"]

_PIECE = 1 << 20
_LIST = "checkpoint"  # the file that names the newest checkpoint of a folder


def open_tensor_bundle(path: Path) -> Bundle:
    """Opens a checkpoint by its prefix, one of its files or its folder, or the folder of a SavedModel.

    Raises:
        CheckpointError: it is damaged.
        CheckpointNotFoundError: there is none.
    """
    prefix = prefix_of(path)
    if prefix is None and path.is_file():
        hint = "load it with TensorFlow, and save it with tf.compat.v1.train.Saver(write_version=2)"
        refuse(
            "load", "there is no index beside this file, or it is a checkpoint of TensorFlow before 0.12", path, hint
        )
    if prefix is None:
        hint = "pass the path of a checkpoint without .index, or the folder of a SavedModel"
        raise CheckpointNotFoundError.of("load", "there is no checkpoint of TensorFlow", str(path), hint)
    return Bundle(path, prefix)


def prefix_of(path: Path) -> Path | None:
    """Returns what all files of a checkpoint begin with; None if there is no checkpoint.

    Args:
        path: the prefix, a file ``….index`` or ``….data-…``, a file ``checkpoint`` or its folder, or the folder of a
            SavedModel.
    """
    if path.is_dir():
        places = [path / "variables" / "variables", path / "variables"]
        if (path / _LIST).is_file():
            places.insert(0, path / _newest(path / _LIST))
    elif path.name == _LIST and path.is_file():
        places = [path.with_name(_newest(path))]
    else:
        places = [path, path.with_name(re.sub(r"\.index$|\.data-\d{5}-of-\d{5}$", "", path.name))]
    return next((place for place in places if _index_of(place).is_file()), None)


def _index_of(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _newest(path: Path) -> str:
    """The name of the newest checkpoint of a folder, from its list. A path to another folder counts as its last part.

    TensorFlow writes the absolute path in some cases, which is wrong once the folder has been moved.
    """
    file = ByteFile(path)
    try:
        text = file.read(min(file.size, _PIECE), 0).decode("utf-8", "replace")
    finally:
        file.close()
    found = re.search(r'^\s*model_checkpoint_path\s*:\s*("(?:[^"\\\n]|\\.)*")', text, re.MULTILINE)
    try:
        name = ast.literal_eval(f"b{found[1]}").decode() if found else ""
    except (SyntaxError, ValueError):
        name = ""
    name = re.split(r"[/\\]", name)[-1]
    if name in ("", ".", "..") or "\0" in name:
        hint = "pass the path of a checkpoint, without .index"
        refuse("load", "the list of the checkpoints in this folder names none", path, hint)
    return name


class Bundle(Extents):
    """An open checkpoint of TensorFlow.

    A read does not compare the checksum of a tensor, which takes longer than the read itself; `check` does.
    """

    def __init__(self, path: Path, prefix: Path) -> None:
        index_path = _index_of(prefix)
        self._index = _parsed(index_path)
        self._prefix = prefix
        self._opened: dict[int, ByteFile] = {}
        try:
            entries = self._index.tensors
            self._check_places(index_path)
            graph = entries.pop(GRAPH, None)
            keys = names_of(entries)
            self._by_name = {name: entries[key] for name, key in keys.items()}
            extents, refused = {}, {}
            for name, each in self._by_name.items():
                where = f"{path}: {name}"
                if each.code not in DTYPES:
                    refused[name] = _refusal(each)
                elif _is_range(each):
                    extents[name] = self._extent(each, where)
                else:
                    self._check_size(each, where)
            super().__init__(
                path,
                extents,
                self._opened.values(),
                refused=refused,
                aliases=self._aliases(graph, keys, index_path),
            )
            known = self.variables
            self.variables = {
                name: known[name] if name in known else described(DTYPES[each.code], each.shape)
                for name, each in self._by_name.items()
            }
        except BaseException:
            for file in self._opened.values():
                file.close()
            raise

    def read(self, name: str) -> HostArray:
        stored, where = self._by_name[name], f"{self.path}: {name}"
        if stored.code not in DTYPES or _is_range(stored):
            return super().read(name)
        if not stored.windows:
            return self._value(stored, where)
        array = empty_aligned(stored.shape, numpy_dtype(DTYPES[stored.code]))
        for window, part in zip(stored.windows, self._parts(stored), strict=True):
            place = (slice(None),) * stored.axis + (slice(window.start, window.start + window.length),)
            array[place if stored.shape else ()] = self._value(part, where)
        return array

    def checksum(self, name: str) -> str | None:
        """Returns the dtype, the shape and the checksums of a tensor in the file, which only `check` compares."""
        stored = self._by_name[name]
        if stored.code not in DTYPES:
            return None
        return f"{stored.code} {stored.shape} " + " ".join(f"{each.crc:08x}" for each in self._parts(stored))

    def check(self, name: str) -> None:
        """Reads a tensor, and compares its checksum.

        Raises:
            CheckpointError: it is damaged.
        """
        stored, where = self._by_name[name], f"{self.path}: {name}"
        if stored.code not in DTYPES:
            refuse("load", self._refused[name][1], where)
        for part in self._parts(stored):
            if DTYPES[part.code] == "string":
                _strings(self._bytes(part), part, where)  # which are checked by every read
                continue
            crc, end = 0, part.offset + part.size
            for start in range(part.offset, end, _PIECE):
                crc = crc32c(self._file(part).read(min(_PIECE, end - start), start), crc)
            if masked(crc) != part.crc:
                refuse("load", "the tensor is damaged: its checksum does not match", where)

    # -- files -----------------------------------------------------------------------------------------

    def _file(self, stored: Stored) -> ByteFile:
        number = stored.file
        if number not in self._opened:
            name = f"{self._prefix.name}.data-{number:05d}-of-{self._index.files:05d}"
            try:
                self._opened[number] = ByteFile(self._prefix.with_name(name))
            except CheckpointNotFoundError as error:
                raise CheckpointError.of("load", f"the file {name} is missing", str(self._prefix)) from error
        return self._opened[number]

    def _parts(self, stored: Stored) -> list[Stored]:
        return [self._index.parts[each.key] for each in stored.windows] or [stored]

    def _check_places(self, where: Path) -> None:
        """Raises CheckpointError if tensors reach beyond their files, or two of them share bytes."""
        entries = (*self._index.tensors.values(), *self._index.parts.values())
        number = end = -1
        for each in sorted(entries, key=lambda each: (each.file, each.offset)):
            if each.windows:
                continue  # it has no bytes of its own
            if each.file >= self._index.files:
                refuse("load", f"the index refers to file {each.file}, and there are {self._index.files}", where)
            self._file(each).check(each.size, each.offset)
            if each.size:
                if each.file == number and each.offset < end:
                    refuse("load", "the index is damaged: two tensors share bytes", where)
                number, end = each.file, each.offset + each.size

    def _extent(self, stored: Stored, where: str) -> Extent:
        dtype = DTYPES[stored.code]
        if nbytes_of(stored.shape, numpy_dtype(dtype).itemsize) != stored.size:
            refuse("load", _OTHER_SIZE, where)
        return Extent(self._file(stored), stored.offset, dtype, stored.shape)

    def _check_size(self, stored: Stored, where: str) -> None:
        """Checks the size of a tensor that is no range of bytes as NumPy has them."""
        dtype = DTYPES[stored.code]
        width = 1 if dtype == "string" else numpy_dtype(dtype).itemsize  # a string takes one byte or more
        if nbytes_of(stored.shape, numpy_dtype(dtype).itemsize) is None:
            refuse("load", "the tensor has a shape that no array can have", where)
        for part in self._parts(stored):
            least = nbytes_of(part.shape, width)
            if least is None or part.size < least or (part.size > least and dtype != "string"):
                refuse("load", _OTHER_SIZE, where)

    def _aliases(self, graph: Stored | None, keys: Mapping[str, str], where: Path) -> dict[str, str]:
        if graph is None:
            return {}
        if DTYPES.get(graph.code) != "string" or graph.shape or graph.windows or graph.size > LONGEST_HEADER:
            refuse("load", "the graph of the objects is damaged", where)
        content = _strings(self._bytes(graph), graph, where)[0]

        def same(key: str) -> Hashable:
            stored = self._index.tensors[key]
            return stored.code, stored.shape, tuple(each.crc for each in self._parts(stored))

        return further_names(content, keys, same, where)

    # -- values ----------------------------------------------------------------------------------------

    def _bytes(self, stored: Stored) -> HostArray:
        raw = fresh_bytes(stored.size)
        if stored.size:
            self._file(stored).fill(memoryview(raw), stored.offset)  # type: ignore[arg-type]  # NumPy's stubs for 3.11
        return raw

    def _value(self, stored: Stored, where: str) -> HostArray:
        dtype, raw = DTYPES[stored.code], self._bytes(stored)
        if dtype == "string":
            return _texts(raw, stored, where)
        if dtype == "bool" and raw.size and raw.max() > 1:
            refuse("load", "a bool is stored as neither 0 nor 1", where)
        if dtype in _NARROW:
            return _narrow(raw, dtype, where).reshape(stored.shape)
        return raw.view(numpy_dtype(dtype)).reshape(stored.shape)


_NARROW = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}  #: the bits of the dtypes whose elements do not fill a byte
_OTHER_SIZE = "the index is damaged: the tensor has another number of bytes than its shape"


def _is_range(stored: Stored) -> bool:
    """Whether the bytes in the file are the bytes of the array."""
    return not stored.windows and DTYPES[stored.code] not in ("string", *_NARROW)


def _refusal(stored: Stored) -> tuple[VariableRecord, str]:
    """The record of a tensor that cannot be read, and the reason."""
    what = UNREADABLE.get(stored.code, f"dtype {stored.code} of TensorFlow")
    why = f"only TensorFlow can read this ({what}): no array is stored, but the state of an iterator, or the like"
    if stored.code not in UNREADABLE:
        why = f"the tensor is of {what}, which is unknown here: update statevar"
    return described(what, stored.shape), why


def _parsed(path: Path) -> Index:
    file = ByteFile(path)
    try:
        if file.size > LONGEST_HEADER:
            refuse("load", f"the index has {file.size} bytes, and the limit is {LONGEST_HEADER}", path)
        return parse_index(file.read(file.size, 0), path)
    finally:
        file.close()


def _narrow(raw: HostArray, dtype: str, where: str) -> HostArray:
    """Integers of a few bits, of which each has a byte: the other bits are zero, or are the sign."""
    bits = _NARROW[dtype]
    if dtype.startswith("uint"):
        wide, fits = raw, raw < 1 << bits
    else:
        wide = raw.view(np.int8) << 8 - bits >> 8 - bits
        fits = (raw < 1 << bits) | (raw.view(np.int8) == wide)
    if not fits.all():
        refuse("load", f"a value is out of the range of {dtype}", where)
    return wide.astype(numpy_dtype(dtype))


def _texts(raw: HostArray, stored: Stored, where: Any) -> HostArray:
    array = np.empty(math.prod(stored.shape), STORED["string"])
    try:
        for i, content in enumerate(_strings(raw, stored, where)):
            array[i] = content.decode()
    except UnicodeDecodeError:
        hint = "read it with tf.train.load_checkpoint: a variable of strings can have texts only"
        refuse("load", "a string is not valid UTF-8", where, hint)
    return array.reshape(stored.shape)


def _strings(raw: HostArray, stored: Stored, where: Any) -> list[bytes]:
    """The strings of a tensor: their lengths, the checksum of these, and then their bytes."""
    content, count, at = raw.tobytes(), math.prod(stored.shape), 0
    lengths = []
    for _ in range(count):
        length, at = varint(content, at, where)
        lengths.append(length)
    wide = b"".join(length.to_bytes(4 if length < 2**32 else 8, "little") for length in lengths)
    crc, stop = crc32c(wide), at + 4
    if stop + sum(lengths) != len(content) or masked(crc).to_bytes(4, "little") != content[at:stop]:
        refuse("load", "the tensor is damaged: the lengths of its strings do not match", where)
    if masked(crc32c(content[at:], crc)) != stored.crc:
        refuse("load", "the tensor is damaged: its checksum does not match", where)
    found = []
    for length in lengths:
        found.append(content[stop : stop + length])
        stop += length
    return found
