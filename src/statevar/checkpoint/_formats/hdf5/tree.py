"""What is in an HDF5 file: datasets, groups and links. Nothing outside of the file is ever opened.

h5py gets the file as an object that only reads. It parses the structure; the bytes of an ordinary dataset are one range
of the file, which is read past h5py.
"""

from __future__ import annotations

import io
import math
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ...._arrays.shapes import Shape
from ...._state.paths import followed
from ..reader import DEEPEST, LONGEST_HEADER, ByteFile, Extent
from ..safetensors.header import nbytes_of, refuse

__all__ = ["LIBRARY_ERRORS", "Dataset", "Tree", "Window"]

#: What h5py raises for a damaged file.
LIBRARY_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)

_LARGEST_RATIO = 1032  # of deflate: a byte becomes no more than these
_SMALL = 1 << 20  # bytes that may always be asked for
_MOST_LINKS = 10  # to links to links
_MOST_OBJECTS = 1_000_000
_LONGEST_ATTRIBUTE = 1 << 20  # bytes
_HEAP_HEADER = 16  # bytes before the objects of a heap, and before each object


class Window(io.RawIOBase):
    """A range of a file as a file of its own, to read only.

    Args:
        file: the file.
        start: where the range begins.
        size: the number of its bytes.
    """

    def __init__(self, file: ByteFile, start: int, size: int) -> None:
        super().__init__()
        self.file, self.start, self.size = file, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, memory: Any) -> int:
        view = memoryview(memory).cast("B")
        count = max(0, min(len(view), self.size - self._at))
        self.file.fill(view[:count], self.start + self._at)
        self._at += count
        if bytes(view[:4]) == b"GCOL" and not _is_sound_heap(bytes(view[:count])):
            view[:4] = bytes(4)  # libhdf5 1.14 would loop for ever: so it sees no heap, and reports an error
        return count


def _is_sound_heap(heap: bytes) -> bool:
    """Whether the objects in a heap of texts follow each other up to its end, as far as it has been read."""
    size, at = min(int.from_bytes(heap[8:16], "little"), len(heap)), _HEAP_HEADER
    while at + _HEAP_HEADER <= size:
        number, length = int.from_bytes(heap[at : at + 2], "little"), int.from_bytes(heap[at + 8 : at + 16], "little")
        if number == 0:  # the free space at the end, with its header
            return length >= _HEAP_HEADER
        at += _HEAP_HEADER + (length + 7 & ~7)
    return True


class Dataset(NamedTuple):
    """A dataset of an HDF5 file.

    Attributes:
        dtype: the name of its dtype; if it cannot be read, what it is.
        shape: its shape.
        place: where its bytes are; None if h5py has to read it.
        problem: why it cannot be read; empty if it can.
    """

    dtype: str
    shape: Shape
    place: Extent | None = None
    problem: str = ""


class Tree:
    """The datasets and the groups of an HDF5 file, by path.

    Args:
        h5py: the library.
        file: the open file.
        window: where its bytes are.
        where: the path to name in errors.

    Attributes:
        datasets: each dataset once, by its first path.
        groups: the paths of the groups, the root among them, which is empty.
        aliases: each further path of a dataset or a group, mapped to its first one.

    Raises:
        CheckpointError: a link leads to another file, or to nothing.
    """

    def __init__(self, h5py: ModuleType, file: Any, window: Window, where: Path) -> None:
        self._h5py, self._file, self._window, self._where = h5py, file, window, where
        self.datasets: dict[str, Dataset] = {}
        self.groups: list[str] = []
        self.aliases: dict[str, str] = {}
        self._by_address: dict[int, str] = {}
        self._links: dict[str, str] = {}  # soft ones
        self._total = 0
        root = h5py.h5g.open(file.id, b"/")
        self._by_address[h5py.h5o.get_info(root).addr] = ""
        self._enter(root, "", 0)
        self._follow_links()

    def attributes(self, path: str) -> dict[str, Any]:
        """Returns the attributes of a group or a dataset that are short texts, numbers, or lists of them."""
        attributes = self._file[f"/{path}"].attrs
        found: dict[str, Any] = {}
        for name in attributes:
            # h5py does not read each type, such as a reference, and does not tell the size of an empty attribute.
            with suppress(*LIBRARY_ERRORS):
                attribute = attributes.get_id(name)
                nbytes = nbytes_of(attribute.shape or (), 1)
                if nbytes == 0:
                    found[name] = []
                elif nbytes is not None and attribute.get_storage_size() <= _LONGEST_ATTRIBUTE:
                    found[name] = _plain(attributes[name])
        return found

    # -- the walk --------------------------------------------------------------------------------------

    def _enter(self, group: Any, path: str, depth: int) -> None:
        h5l = self._h5py.h5l
        if depth > DEEPEST:
            refuse("load", f"the groups of the file are nested more than {DEEPEST} levels deep", self._where)
        self.groups.append(path)
        names: list[bytes] = []
        group.links.iterate(names.append)
        for encoded in names:
            inner = self._path(path, encoded)
            link = group.links.get_info(encoded)
            if link.type == h5l.TYPE_SOFT:
                self._links[inner] = group.links.get_val(encoded).decode("utf-8", "replace")
            elif link.type != h5l.TYPE_HARD:
                hint = "copy its content into this file: h5py.Group.copy(…, expand_external=True)"
                refuse("load", "a link leads to another file, which is not opened", f"{self._where}: {inner}", hint)
            elif link.u in self._by_address:
                self.aliases[inner] = self._by_address[link.u]
            else:
                self._by_address[link.u] = inner
                self._add(self._h5py.h5o.open(group, encoded), inner, depth)

    def _path(self, path: str, encoded: bytes) -> str:
        try:
            name = encoded.decode()
        except UnicodeDecodeError:
            refuse("load", "a name is not valid UTF-8", f"{self._where}: {path}")
        inner = f"{path}/{name}" if path else name
        self._total += len(inner) + 1
        if len(self._by_address) + len(self.aliases) > _MOST_OBJECTS or self._total > LONGEST_HEADER:
            refuse("load", f"the file has more than {_MOST_OBJECTS} objects, or too long names", self._where)
        return inner

    def _add(self, found: Any, path: str, depth: int) -> None:
        if isinstance(found, self._h5py.h5g.GroupID):
            self._enter(found, path, depth + 1)
        elif isinstance(found, self._h5py.h5d.DatasetID):
            self.datasets[path] = self._dataset(found, path)

    def _follow_links(self) -> None:
        places = {}
        for path, target in self._links.items():
            base = "" if target.startswith("/") else path.rpartition("/")[0]
            places[path] = "/".join(each for each in f"{base}/{target}".split("/") if each not in ("", "."))
        known = {*self.datasets, *self.groups}
        for _ in range(_MOST_LINKS):
            for path, place in list(places.items()):
                if (first := followed(place, self.aliases)) in known:
                    self.aliases[path] = first
                    del places[path]
        for path in places:
            where = f"{self._where}: {path}"
            refuse("load", f"a link leads to {self._links[path]!r:.100}, which is not in the file", where)

    # -- datasets --------------------------------------------------------------------------------------

    def _dataset(self, found: Any, path: str) -> Dataset:
        h5d, h5s = self._h5py.h5d, self._h5py.h5s
        space = found.get_space()
        if space.get_simple_extent_type() == h5s.NULL:
            return Dataset("null", (), problem="it has no value (h5py.Empty)")
        shape = tuple(int(length) for length in space.get_simple_extent_dims())
        dtype, swapped, width = self._dtype(found, path)
        if not width:
            return Dataset(dtype, shape, problem=f"an array of {dtype} cannot be a variable: save it as numbers")
        nbytes = nbytes_of(shape, width)
        if nbytes is None:
            refuse("load", "the array has a shape that no array can have", f"{self._where}: {path}")
        plan = found.get_create_plist()
        layout = plan.get_layout()
        if layout == h5d.VIRTUAL or plan.get_external_count():
            return Dataset(dtype, shape, problem="its bytes are in another file, which is not opened: copy it")
        if not nbytes:
            return Dataset(dtype, shape)
        if layout == h5d.CONTIGUOUS:
            offset = found.get_offset()
            if offset is None:
                return Dataset(dtype, shape, problem="it was never written")
            if dtype == "string":
                self._window.file.check(nbytes, self._window.start + offset)
                return Dataset(dtype, shape)
            return Dataset(
                dtype, shape, Extent(self._window.file, self._window.start + offset, dtype, shape, None, swapped)
            )
        return Dataset(dtype, shape, problem=self._unreasonable(found, plan, nbytes, width))

    def _unreasonable(self, found: Any, plan: Any, nbytes: int, width: int) -> str:
        """Why a dataset in chunks, or inside of its header, is not read; empty if it is."""
        h5z, stored = self._h5py.h5z, found.get_storage_size()
        filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
        if unknown := filters - {h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF}:
            return f"it is compressed by the filters {sorted(unknown)}: save it without them, or with gzip"
        chunk = nbytes
        if plan.get_layout() == self._h5py.h5d.CHUNKED:
            chunk = math.prod(plan.get_chunk()) * width
        if max(nbytes, chunk) > max(_SMALL, _LARGEST_RATIO * stored):
            return f"it would take {max(nbytes, chunk)} bytes of memory, and has only {stored} bytes in the file"
        return ""

    def _dtype(self, found: Any, path: str) -> tuple[str, bool, int]:
        """The name of a dtype, whether its bytes are big-endian, and its width; 0 if there is no such dtype."""
        h5t, kind = self._h5py.h5t, found.get_type()
        width = int(kind.get_size())
        if isinstance(kind, h5t.TypeFloatID):
            fields = tuple(int(each) for each in kind.get_fields())
            name = _FLOATS.get((width, fields))
            return (name, kind.get_order() == h5t.ORDER_BE, width) if name else ("unusual floats", False, 0)
        if isinstance(kind, h5t.TypeStringID):
            return "string", False, width
        if isinstance(kind, h5t.TypeOpaqueID):
            # Keras stores bfloat16 as bytes, and says so in an attribute.
            is_bfloat16 = width == 2 and self.attributes(path).get("dtype") == "bfloat16"
            return ("bfloat16", False, 2) if is_bfloat16 else ("bytes without a dtype", False, 0)
        dtype = None
        with suppress(*LIBRARY_ERRORS):  # h5py knows no such dtype
            dtype = kind.dtype
        if dtype is None or dtype.kind not in "biuc" or dtype.itemsize != width or dtype.itemsize > 16:
            return getattr(dtype, "name", "an unknown kind"), False, 0
        return dtype.name, dtype.byteorder == ">", width


#: The names of floating-point numbers, by their bytes and by their bits: where the sign is, the exponent and its
#: length, the mantissa and its length.
_FLOATS: dict[tuple[int, tuple[int, ...]], str] = {
    (2, (15, 10, 5, 0, 10)): "float16",
    (2, (15, 7, 8, 0, 7)): "bfloat16",
    (4, (31, 23, 8, 0, 23)): "float32",
    (8, (63, 52, 11, 0, 52)): "float64",
}


def _plain(value: Any) -> Any:
    """An attribute as JSON has it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, str | int | float | bool):
        return value
    raise TypeError(type(value))
