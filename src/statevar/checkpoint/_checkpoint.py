"""What was saved, opened: a mapping of paths to arrays that reads each when it is asked for."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

from .._arrays.types import HostArray
from .._public import public
from .._state.paths import followed
from ..errors import CheckpointError, CheckpointNotFoundError, describe
from . import _files
from ._formats.safetensors.header import Entry, parse_json, refuse
from ._formats.safetensors.index import Index, decode_index, is_index
from ._formats.safetensors.reader import TensorFile, neighbours, read_bytes
from ._formats.safetensors.values import PARTIAL, VariableRecord, fresh_bytes, from_tensor

__all__ = ["INDEX", "Checkpoint", "index_at", "open_checkpoint"]

_Result = TypeVar("_Result")

INDEX = "index.json"  #: of a checkpoint that is a folder

_CHUNK = 8 << 20  # bytes that a thread reads before it asks for more
_READERS = min(4, os.cpu_count() or 1)
_ATTEMPTS = 10  # to open files that another process replaces meanwhile
_LONGEST_INDEX = 100_000_000


@public()
class Checkpoint(Mapping[str, HostArray]):
    """What was saved, by path. An array is read, and checked, when it is asked for; each time anew.

    Attributes:
        path: where it is.
        variables: what is known of each variable without reading it: dtype, shape, declared shape, flags.
        aliases: further paths of the same variables, or of what holds them, each with the first one.
        metadata: what `save` was given to keep.

    >>> import statevar as sv, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> sv.save({"w": sv.Variable([1.0, 2.0]), "steps": sv.Variable(3)}, path)
    >>> with sv.load(path) as saved:
    ...     print(list(saved), saved["w"], saved.variables["steps"].dtype)
    ['w', 'steps'] [1. 2.] int32
    """

    def __init__(self, path: Path, parts: list[TensorFile], texts: dict[str, str], *, mapped: bool) -> None:
        self.path = path
        self._parts = parts
        self._mapped = mapped
        self._part_of = {name: part for part in parts for name in part.variables}
        self.variables: Mapping[str, VariableRecord] = MappingProxyType(
            {name: saved for part in parts for name, saved in part.variables.items()}
        )
        self.aliases: Mapping[str, str] = MappingProxyType(_texts(texts, "statevar.aliases", path))
        self.metadata: Mapping[str, Any] = MappingProxyType(
            parse_json(texts.pop("statevar.metadata", "{}").encode(), path, numbers=True)
        )
        #: The metrics that a `CheckpointManager` was given.
        self.metrics: dict[str, float] = _numbers(texts.pop("statevar.metrics", "{}"), path)
        for alias in self.aliases:
            if alias in self.variables or not alias:
                refuse("load", f"{alias!r} is said to be another name, and is a variable", path)
        # Last: whoever made this closes the files if it is refused.
        self._close = weakref.finalize(self, _close_all, [part.file for part in parts])

    def __getitem__(self, path: str) -> HostArray:
        """The array, read-only.

        Raises:
            CheckpointError: it is damaged.
            KeyError: there is none of this path, or it had no value.
        """
        array = self.read(path)
        array.setflags(write=False)
        return array

    def __contains__(self, path: object) -> bool:
        name = followed(path, self.aliases) if isinstance(path, str) else path
        saved = self.variables.get(name) if isinstance(name, str) else None
        return saved is not None and saved.shape is not None

    def __eq__(self, other: object) -> bool:
        return self is other  # arrays are not compared by the way

    __hash__ = object.__hash__

    def read(self, path: str) -> HostArray:
        """The array, for the caller to keep and to write, unless it is mapped."""
        name = followed(path, self.aliases)
        part = self._part_of.get(name)
        if part is None or name not in part.entries:
            raise KeyError(path)
        if not self._close.alive:
            raise ValueError(describe("load", "the checkpoint is closed", str(self.path)))
        if self._mapped:
            with _files.os_errors_as("load", part.path):
                return from_tensor(part.mapped(part.entries[name]), self.variables[name], f"{part.path}: {name}")
        array = self.arrays([name])[name]
        if isinstance(array, CheckpointError):
            raise array
        return array

    def arrays(self, names: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        """The array of each path that has one; in place of a damaged one, the error."""

        def read(part: TensorFile, entries: Sequence[Entry]) -> list[HostArray | CheckpointError]:
            memory = [fresh_bytes(entry.nbytes) for entry in entries]
            errors = part.fill(memory, entries)
            return [
                self._array(part, entry, raw) if error is None else error
                for entry, raw, error in zip(entries, memory, errors, strict=True)
            ]

        return self._in_threads(read, names)

    def damage(self) -> dict[str, CheckpointError]:
        """What is wrong with each tensor that is damaged, by path. Reads all, and keeps nothing."""
        found: dict[str, Any] = self._in_threads(TensorFile.check, self)
        for name in self:
            if found[name] is None and self.variables[name].dtype in PARTIAL:
                found[name] = self.arrays([name])[name]
        return {name: error for name, error in found.items() if isinstance(error, CheckpointError)}

    def _array(self, part: TensorFile, entry: Entry, raw: HostArray) -> HostArray | CheckpointError:
        try:
            return from_tensor(raw, self.variables[entry.name], f"{part.path}: {entry.name}")
        except CheckpointError as error:
            return error

    def _in_threads(
        self, read: Callable[[TensorFile, list[Entry]], list[_Result]], names: Iterable[str]
    ) -> dict[str, _Result | CheckpointError]:
        """What ``read`` returns of neighbours in a file, by path: one thread hashes while another one reads."""
        wanted: dict[TensorFile, list[Entry]] = {}
        for name in names:
            part = self._part_of[name]
            if (entry := part.entries.get(name)) is not None:
                wanted.setdefault(part, []).append(entry)
        groups = [(part, group) for part, entries in wanted.items() for group in neighbours(entries, _CHUNK)]

        def attempt(job: tuple[TensorFile, list[Entry]]) -> Sequence[_Result | CheckpointError]:
            part, group = job
            try:
                with _files.os_errors_as("load", part.path):
                    return read(part, group)
            except CheckpointError as error:  # the file is too short
                return [error] * len(group)

        if len(groups) < 2:  # a thread takes longer than a small array
            found = [attempt(job) for job in groups]
        else:
            with ThreadPoolExecutor(min(_READERS, len(groups))) as pool:
                found = list(pool.map(attempt, groups))
        return {
            entry.name: result
            for (_, group), results in zip(groups, found, strict=True)
            for entry, result in zip(group, results, strict=True)
        }

    def checksum(self, path: str) -> str | None:
        """Of the bytes of a tensor; None if it has no value, or somebody else wrote the file."""
        name = followed(path, self.aliases)
        return self._part_of[name].checksums.get(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, saved in self.variables.items() if saved.shape is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def close(self) -> None:
        """Closes the files. It happens by itself with the last reference."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Checkpoint of {len(self.variables)} variables at {str(self.path)!r}>"


def _texts(texts: dict[str, str], key: str, path: Path) -> dict[str, str]:
    value = parse_json(texts.pop(key, "{}").encode(), path)
    if not all(isinstance(each, str) for each in value.values()):
        refuse("load", f"{key} is no mapping of text to text", path)
    return value


def _numbers(text: str, path: Path) -> dict[str, float]:
    value = parse_json(text.encode(), path, numbers=True)
    try:
        sound = all(type(each) in (int, float) and math.isfinite(each) for each in value.values())
    except OverflowError:
        sound = False
    if not sound:
        refuse("load", "the metrics are no mapping of text to numbers", path)
    return {name: float(each) for name, each in value.items()}


def _close_all(files: list[int]) -> None:
    try:
        while files:
            with suppress(OSError):  # nothing was written
                _files.close(files.pop())
    finally:
        if files:  # Ctrl-C
            _close_all(files)


def open_checkpoint(path: Path, *, mapped: bool = False) -> Checkpoint:
    """Opens a file, an index and its files, or a folder with an index.

    Raises:
        CheckpointError: it is damaged.
        CheckpointNotFoundError: there is nothing.
        StorageError: the system refused.
    """
    for attempt in range(_ATTEMPTS):
        with _files.os_errors_as("load", path):
            place = Path(os.path.realpath(path / INDEX if path.is_dir() else path))  # its files are beside it
            if path.is_dir() and not place.exists():
                raise CheckpointNotFoundError.of(
                    "load", "the folder is no checkpoint: it has no index", str(path), "name a file in it"
                )
            before = _files.place_of(place)
            try:
                return _opened(path, place, mapped)
            except (CheckpointError, FileNotFoundError):
                # Was it replaced while we opened it? Then the next look finds the new one; which may have got the
                # number of the old one, so that one more look is always taken.
                if attempt + 1 == _ATTEMPTS or (attempt and _files.place_of(place) == before):
                    raise
    raise AssertionError("the last attempt returns or raises")


def _opened(path: Path, place: Path, mapped: bool) -> Checkpoint:
    index = index_at(place)
    parts: list[TensorFile] = []
    try:
        if index is None:
            parts.append(TensorFile(place, None))
            return Checkpoint(path, parts, parts[0].texts, mapped=mapped)
        for name, digest in index.files.items():
            try:
                parts.append(TensorFile(place.parent / name, digest))
            except FileNotFoundError as error:
                raise CheckpointError.of("load", f"the file {name} is missing", str(path)) from error
        _check_map(index, parts, path)
        return Checkpoint(path, parts, dict(index.texts), mapped=mapped)
    except BaseException:
        _close_all([part.file for part in parts])
        raise


def index_at(place: Path) -> Index | None:
    file = _files.open_file(place)
    try:
        total = _files.size(file)
        if not is_index(read_bytes(file, min(8, total), 0, place)):
            return None
        if total > _LONGEST_INDEX:
            refuse("load", f"the index has {total} bytes, too many", place)
        return decode_index(read_bytes(file, total, 0, place), place)
    finally:
        _files.close(file)


def _check_map(index: Index, parts: list[TensorFile], path: Path) -> None:
    found = {name: part.path.name for part in parts for name in part.entries}
    if found != index.tensors or sum(len(part.variables) for part in parts) != len(
        {name for part in parts for name in part.variables}
    ):
        refuse("load", "the files do not hold the tensors that the index names", path)
