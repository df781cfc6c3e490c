"""`Checkpoint`, a mapping from path to array that reads each array when you ask for it."""

from __future__ import annotations

import difflib
import json
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
from ..errors import CheckpointError, CheckpointNotFoundError, StorageError, describe
from . import _files
from ._formats.others import other_at
from ._formats.safetensors.header import Entry, parse_json, refuse
from ._formats.safetensors.index import Index, decode_index, is_index
from ._formats.safetensors.reader import TensorFile, neighbours, read_bytes
from ._formats.safetensors.values import PARTIAL, VariableRecord, fresh_bytes, from_tensor

__all__ = ["INDEX", "Checkpoint", "encode_metrics", "index_at", "open_checkpoint"]

_Result = TypeVar("_Result")

INDEX = "index.json"  #: the name of the index in a checkpoint that is a folder

_CHUNK = 8 << 20  # bytes that a thread reads in one job
_READERS = min(4, os.cpu_count() or 1)
_ATTEMPTS = 10  # attempts to open files that another process keeps replacing
_LONGEST_INDEX = 100_000_000


@public()
class Checkpoint(Mapping[str, HostArray]):
    """An opened checkpoint: a mapping from path to array. Each lookup reads the array and checks its checksum.

    Attributes:
        path: the path of the checkpoint.
        variables: the facts about each variable, which take no reading: dtype, shape, declared shape, flags.
        aliases: each further path of a variable or of a container, mapped to its first path.
        metadata: the ``metadata`` that was given to `save`.

    >>> import statevar as sv, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "state.safetensors"
    >>> sv.save({"w": sv.Variable([1.0, 2.0]), "steps": sv.Variable(3)}, path)
    >>> with sv.load(path) as saved:
    ...     print(list(saved), saved["w"], saved.variables["steps"].dtype)
    ['w', 'steps'] [1. 2.] int32
    """

    def __init__(self, path: Path, parts: list[TensorFile], texts: dict[str, str], *, mapped: bool) -> None:
        self.path = path
        self._mapped = mapped
        self._part_of = {name: part for part in parts for name in part.variables}
        self.variables: Mapping[str, VariableRecord] = MappingProxyType(
            {name: saved for part in parts for name, saved in part.variables.items()}
        )
        self.aliases: Mapping[str, str] = MappingProxyType(_texts(texts, "statevar.aliases", path))
        self.metadata: Mapping[str, Any] = MappingProxyType(
            parse_json(texts.pop("statevar.metadata", "{}").encode(), path, numbers=True)
        )
        #: The metrics that were given to `CheckpointManager.save`.
        self.metrics: dict[str, float] = _numbers(texts.pop("statevar.metrics", "{}"), path)
        for alias in self.aliases:
            if alias in self.variables or not alias:
                refuse("load", f"{alias!r} is no valid alias: it is empty, or the path of a variable", path)
        # Last, because the caller closes the files if this constructor raises.
        self._close = weakref.finalize(self, _close_all, [part.file for part in parts])

    def __getitem__(self, path: str) -> HostArray:
        """Reads an array, and returns it read-only.

        Raises:
            CheckpointError: the array is damaged.
            KeyError: no variable has this path, or it was saved without a value.
        """
        array = self.read(path)
        array.setflags(write=False)
        return array

    def __contains__(self, path: object) -> bool:
        name = followed(path, self.aliases) if isinstance(path, str) else path
        saved = self.variables.get(name) if isinstance(name, str) else None
        return saved is not None and saved.shape is not None

    def __eq__(self, other: object) -> bool:
        return self is other  # equality of mappings would read and compare all arrays

    __hash__ = object.__hash__

    def read(self, path: str) -> HostArray:
        """Reads an array, and returns it writable unless the file is mapped. Of random keys it returns their numbers.

        Raises:
            CheckpointError: the array is damaged.
            KeyError: no variable has this path, or it was saved without a value.
        """
        name = followed(path, self.aliases)
        part = self._part_of.get(name)
        if part is None or name not in part.entries:
            raise KeyError(path)
        if not self._close.alive:
            raise ValueError(
                describe("load", "the checkpoint is closed", str(self.path), "open it again with sv.load(path)")
            )
        if self._mapped:
            with _files.os_errors_as("load", part.path):
                array = from_tensor(part.mapped(part.entries[name]), self.variables[name], f"{part.path}: {name}")
        else:
            found = self.arrays([name])[name]
            if isinstance(found, CheckpointError):
                raise found
            array = found
        return array if array.dtype.names is None else array[array.dtype.names[0]]

    def arrays(self, names: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        """Reads arrays, by path. The error of a damaged array takes its place; a path without a value is absent."""

        def read(part: TensorFile, entries: Sequence[Entry]) -> list[HostArray | CheckpointError]:
            memory = [fresh_bytes(entry.nbytes) for entry in entries]
            errors = part.fill(memory, entries)
            return [
                self._array(part, entry, raw) if error is None else error
                for entry, raw, error in zip(entries, memory, errors, strict=True)
            ]

        return self._in_threads(read, names)

    def damage(self) -> dict[str, CheckpointError]:
        """Reads all tensors, and returns the error of each damaged one, by path."""
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
        """Returns the results of ``read`` by path. Several threads call it, so that one hashes while another reads."""
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
            except CheckpointError as error:  # the file was cut short
                return [error] * len(group)

        if len(groups) < 2:  # starting a thread takes longer than reading a small array
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
        """Returns the checksum of a tensor; None if the variable has no value, or another program wrote the file."""
        name = followed(path, self.aliases)
        return self._part_of[name].checksums.get(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, saved in self.variables.items() if saved.shape is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def close(self) -> None:
        """Closes the files. They are also closed when the last reference to the checkpoint is gone."""
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
        refuse("load", f"{key} must map strings to strings", path)
    return value


#: The numbers that JSON lacks, as texts.
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode_metrics(metrics: Mapping[str, float]) -> str:
    """Returns JSON with the metrics of a checkpoint. Those that are not finite are texts in it."""
    return json.dumps({name: x if math.isfinite(x) else str(x) for name, x in metrics.items()}, ensure_ascii=False)


def _numbers(text: str, path: Path) -> dict[str, float]:
    value = {
        name: _NOT_FINITE.get(each, each) if isinstance(each, str) else each
        for name, each in parse_json(text.encode(), path, numbers=True).items()
    }
    try:
        return {name: float(each) for name, each in value.items() if _is_number(each, path)}
    except OverflowError:
        refuse("load", _NUMBERS, path)


_NUMBERS = "statevar.metrics must map strings to numbers"


def _is_number(value: Any, path: Path) -> bool:
    if type(value) not in (int, float):
        refuse("load", _NUMBERS, path)
    return True


def _close_all(files: list[int]) -> None:
    try:
        while files:
            with suppress(OSError):  # nothing was written, so nothing is lost
                _files.close(files.pop())
    finally:
        if files:  # Ctrl-C
            _close_all(files)


def open_checkpoint(path: Path, *, mapped: bool = False) -> Checkpoint:
    """Opens a file, an index and its files, or a folder with an index.

    Raises:
        CheckpointError: the checkpoint is damaged.
        CheckpointNotFoundError: the path does not exist, or is a folder without an index.
        StorageError: the system cannot read it.
    """
    try:
        return _open(path, mapped)
    except (CheckpointError, StorageError) as error:
        better = None
        with suppress(OSError, ValueError):  # then the first error says more
            better = _better(error, path)
        if better is None:
            raise
        raise better from error


def _better(error: CheckpointError | StorageError, path: Path) -> CheckpointError | StorageError | None:
    """The error that says what another program has written at a path, or which file may be meant; None if unknown."""
    if (other := other_at(path)) is not None:
        better = type(error).of("load", f"this is {other[0]}, and no checkpoint of statevar", str(path), other[1])
    elif isinstance(error, CheckpointNotFoundError) and error.strerror and (near := _near(path)):
        better = type(error).of("load", f"the system said {error.strerror}", str(path), f"the folder has {near!r}")
    else:
        return None
    if isinstance(error, StorageError) and isinstance(better, StorageError):
        better.errno, better.strerror, better.filename = error.errno, error.strerror, str(path)
    return better


def _near(path: Path) -> str | None:
    """The name in the folder of a path that is most like the name of the path."""
    names = sorted(each.name for each in path.parent.iterdir() if not each.name.startswith("."))
    longer = [name for name in names if Path(name).stem == path.name]
    return next(iter(longer or difflib.get_close_matches(path.name, names, 1, 0.8)), None)


def _open(path: Path, mapped: bool) -> Checkpoint:
    for attempt in range(_ATTEMPTS):
        with _files.os_errors_as("load", path):
            place = Path(
                os.path.realpath(path / INDEX if path.is_dir() else path)
            )  # follows links: the files are in the folder of the real index
            if path.is_dir() and not place.exists():
                raise CheckpointNotFoundError.of(
                    "load",
                    f"the folder has no {INDEX}",
                    str(path),
                    "pass a checkpoint of a CheckpointManager, or a file",
                )
            before = _files.place_of(place)
            try:
                return _opened(path, place, mapped)
            except (CheckpointError, FileNotFoundError):
                # If another process has replaced it meanwhile, the next attempt finds the new one. There is always a
                # second attempt, since the new file may have the inode number of the old one.
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
    """Reads an index; returns None if the file is not one."""
    file = _files.open_file(place)
    try:
        total = _files.size(file)
        if not is_index(read_bytes(file, min(8, total), 0, place)):
            return None
        if total > _LONGEST_INDEX:
            refuse("load", f"the index has {total} bytes, and the limit is {_LONGEST_INDEX}", place)
        return decode_index(read_bytes(file, total, 0, place), place)
    finally:
        _files.close(file)


def _check_map(index: Index, parts: list[TensorFile], path: Path) -> None:
    found = {name: part.path.name for part in parts for name in part.entries}
    if found != index.tensors or sum(len(part.variables) for part in parts) != len(
        {name for part in parts for name in part.variables}
    ):
        refuse("load", "the files do not contain the tensors that the index names", path)
