"""`Checkpoint`, a mapping from path to array that reads each array when you ask for it."""

from __future__ import annotations

import difflib
import json
import math
import os
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from html import escape
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from .._arrays.types import HostArray
from .._core.copies import Uncopied
from .._core.shown import Shown
from .._core.tables import count_text
from .._public import public
from .._state.by_path import followed
from .._state.paths import path_matches
from .._state.summarized import Summarized, SummaryParts
from .._state.variables_by_path import VariablesByPath
from .._state.walk import segment
from ..errors import CheckpointError, CheckpointNotFoundError, StorageError, describe
from . import _files
from ._formats.others import Other, other_at
from ._formats.safetensors.header import digest_of, parse_json, refuse
from ._formats.safetensors.index import INDEX, Index, decode_index, is_index
from ._formats.safetensors.reader import TensorFile, read_bytes
from ._formats.safetensors.values import VariableRecord
from ._pieces.blocks import Block
from ._pieces.contents import contents_of
from ._pieces.reader import PiecesSource
from ._shown import metadata_text, summary_of
from ._sources import OtherFile, OwnFiles, Source, close_all
from ._to_variables import variables_of

__all__ = ["Checkpoint", "encode_metrics", "index_at", "open_checkpoint"]

_Result = TypeVar("_Result")

_ATTEMPTS = 10  # attempts to open files that another process keeps replacing
_LONGEST_INDEX = 100_000_000
_OPEN_AGAIN = "open it again with sv.load(path)"


@public()
class Checkpoint(Uncopied, Mapping[str, HostArray], Summarized):
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

    numbers: Collection[str] = ()  #: Python's numbers among the values: a file has none

    def __init__(
        self,
        path: Path,
        source: Source,
        facts: _Facts,
        *,
        mapped: bool = False,
        separator: str | None = None,
        identity: str = "",
        texts: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        #: The metadata in the header as it is written; empty for a file of another program.
        self._texts = dict(texts or {})
        #: The checksums of the headers, which no other save has; empty for a file of another program.
        self.identity = identity
        self._mapped = mapped
        self._source = source
        #: By path, the name in the file; None if they are the same.
        self._names = None if separator in (None, "/") else _names(source.variables, facts, separator, path)
        self.variables: Mapping[str, VariableRecord] = MappingProxyType(
            dict(source.variables)
            if self._names is None
            else {ours: source.variables[name] for ours, name in self._names.items()}
        )
        self.aliases: Mapping[str, str] = MappingProxyType(facts.aliases)
        self.metadata: Mapping[str, Any] = MappingProxyType(facts.metadata)
        #: The metrics that were given to `CheckpointManager.save`.
        self.metrics: dict[str, float] = facts.metrics
        for alias in self.aliases:
            if alias in self.variables or not alias:
                refuse("load", f"{alias!r} is no valid alias: it is empty, or the path of a variable", path)
        # Last, because the caller closes the files if this constructor raises.
        self._close = weakref.finalize(self, source.closer())

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
        name = self._name(path)
        if name is None:
            raise KeyError(path)
        if not self._close.alive:
            raise ValueError(describe("load", "the checkpoint is closed", str(self.path), _OPEN_AGAIN))
        if self._mapped:
            array = self._source.mapped(name)
        else:
            found = self._source.arrays([name])[name]
            if isinstance(found, CheckpointError):
                raise found
            array = found
        return array if array.dtype.names is None else array[array.dtype.names[0]]

    def arrays(self, paths: Iterable[str]) -> dict[str, HostArray | CheckpointError]:
        """Reads arrays, by path. The error of a damaged array takes its place; a path without a value is absent."""
        return self._by_path(self._source.arrays, paths)

    def block(self, path: str, block: Block) -> HostArray:
        """Reads a block of the array of a path."""
        return self._source.block(path if self._names is None else self._names[path], block)

    @property
    def checks_blocks(self) -> bool:
        """Whether `block` compares the checksum of what it reads; else `damage` does."""
        return self._source.checks_blocks

    @property
    def has_chunks(self) -> bool:
        """Whether `block` reads the chunks that have the block, and nothing else."""
        return self._source.has_chunks

    def damage(self, paths: Iterable[str] | None = None) -> dict[str, CheckpointError]:
        """Reads tensors, by default all, and returns the error of each damaged one, by path."""
        return self._by_path(self._source.damage, self if paths is None else paths)

    def _by_path(self, ask: Callable[[Iterable[str]], dict[str, _Result]], paths: Iterable[str]) -> dict[str, _Result]:
        if self._names is None:
            return ask(path for path in paths if self.variables[path].shape is not None)
        names = {path: self._names[path] for path in paths if self.variables[path].shape is not None}
        found = ask(names.values())
        return {path: found[name] for path, name in names.items() if name in found}

    def _name(self, path: str) -> str | None:
        """The name of a tensor in the file; None if there is no such tensor."""
        # A forged file may have a variable inside of an alias.
        first = path if path in self.variables else followed(path, self.aliases)
        if first not in self.variables or self.variables[first].shape is None:
            return None
        return first if self._names is None else self._names[first]

    def to_variables(self, backend: str | None = None, *, only: str | Iterable[str] | None = None) -> VariablesByPath:
        """Makes a variable of each one in the file, with its value and every flag, under the same paths and aliases.

        ``sv.save(checkpoint.to_variables(), path, metadata=checkpoint.metadata)`` writes the same checkpoint again. A
        variable that was saved without a value has none. The names of another program's file become paths. A file that
        was saved with a ``separator`` needs the same one again.

        Args:
            backend: the library of the variables. By default each has that with which it was saved, or NumPy if another
                program wrote the file. Random keys exist on JAX only.
            only: one or several patterns with ``*`` and ``?``: only the variables whose paths match.

        Raises:
            BackendNotInstalledError: the library is not installed.
            CheckpointError: an array is damaged.
            DTypeError: there are no variables of the dtype of an array, or not of this library.

        >>> import statevar as sv, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "state.safetensors"
        >>> sv.save({"layers": [{"w": sv.Variable([1.0, 2.0], trainable=False)}]}, path)
        >>> with sv.load(path) as saved:
        ...     found = saved.to_variables()
        >>> found["layers/0/w"].assign([3.0, 4.0]).trainable
        False
        >>> sv.save(found, path)
        >>> sv.load(path)["layers/0/w"]
        array([3., 4.], dtype=float32)
        """
        if not self._close.alive:
            raise ValueError(describe("to_variables", "the checkpoint is closed", str(self.path), _OPEN_AGAIN))
        wanted = (lambda _: True) if only is None else path_matches(only)
        records = {path: record for path, record in self.variables.items() if wanted(path)}
        if only is not None and not records:
            raise CheckpointError.of("to_variables", f"no path matches only={only!r}", str(self.path))
        return variables_of(records, self.aliases, self.arrays, backend)

    def checksum(self, path: str) -> str | None:
        """Returns the checksum of a tensor; None if the variable has no value, or another program wrote the file."""
        first = followed(path, self.aliases)
        return self._source.checksum(first if self._names is None else self._names[first])

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

    def _uncopied(self) -> tuple[str, str, str]:
        return "load", "an opened checkpoint has files of this process", _OPEN_AGAIN

    _repr_pretty_ = Shown._repr_pretty_  # IPython looks no further than the class with `__repr__`

    def __repr__(self) -> str:
        return f"<Checkpoint of {count_text(len(self.variables), 'variable')} at {str(self.path)!r}>"

    def __str__(self) -> str:
        return "\n".join(filter(None, [super().__str__(), metadata_text(self.metadata)]))

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        yield "", str(self.path)
        yield from super()._shown_parts()
        if self.metadata:
            yield "metadata", dict(self.metadata)

    def _shown_html(self) -> str:
        return super()._shown_html() + f"<div>{escape(metadata_text(self.metadata))}</div>"

    def _summarized(self, stats: bool | None) -> SummaryParts:
        return summary_of(self, stats)


class _Facts(NamedTuple):
    """The facts about a checkpoint that are in no tensor."""

    aliases: dict[str, str]
    metadata: dict[str, Any]
    metrics: dict[str, float]
    #: Whether the names in the file are paths, in which the separator of another program may occur.
    names_are_paths: bool


def _own_facts(texts: dict[str, str], path: Path) -> _Facts:
    aliases = parse_json(texts.pop("statevar.aliases", "{}").encode(), path)
    if not all(isinstance(each, str) for each in aliases.values()):
        refuse("load", "statevar.aliases must map strings to strings", path)
    metadata = parse_json(texts.pop("statevar.metadata", "{}").encode(), path, numbers=True)
    return _Facts(aliases, metadata, _numbers(texts.pop("statevar.metrics", "{}"), path), names_are_paths=False)


def _names(names: Iterable[str], facts: _Facts, separator: str, path: Path) -> dict[str, str]:
    """Returns the names in a file by our paths, in which ``/`` stands for the separator of the file.

    Raises:
        CheckpointError: two names have the same path.
    """
    found: dict[str, str] = {}
    for name in names:
        ours = _path_of(name, separator, facts)
        if ours in found:
            problem = f"the names {found[ours]!r:.100} and {name!r:.100} both have the path {ours!r:.100}"
            refuse("load", problem, path, 'pass separator="/" to take the names as they are')
        found[ours] = name
    if facts.names_are_paths:
        aliases = {
            _path_of(name, separator, facts): _path_of(first, separator, facts) for name, first in facts.aliases.items()
        }
        facts.aliases.clear()
        facts.aliases.update(aliases)
    return found


def _path_of(name: str, separator: str, facts: _Facts) -> str:
    if facts.names_are_paths:
        return name.replace(separator, "/")
    return "/".join(map(segment, name.split(separator)))


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


def open_checkpoint(path: Path, *, mapped: bool = False, separator: str | None = None) -> Checkpoint:
    """Opens a file, an index and its files, or a folder with an index; also those of other programs.

    Args:
        path: the path.
        mapped: whether arrays are in the mapped memory of the file.
        separator: what stands between the segments of a name in the file; None for what its program writes.

    Raises:
        BackendNotInstalledError: the library that reads this format is not installed.
        CheckpointError: the checkpoint is damaged, or no reader reads its format.
        CheckpointNotFoundError: the path does not exist, or is a folder without an index.
        StorageError: the system cannot read it.
    """
    other = None
    try:
        return _open(path, mapped, separator)
    except (CheckpointError, StorageError) as error:
        better = None
        with suppress(OSError, ValueError):  # then the first error says more
            other = other_at(path)
            better = _better(error, path, other)
        if other is None or other.reader is None:
            if better is None:
                raise
            raise better from error
    with _files.os_errors_as("load", path):
        reader = other.open(path)
    try:
        facts = _Facts(dict(reader.aliases), dict(reader.metadata), {}, names_are_paths=True)
        return Checkpoint(path, OtherFile(reader), facts, mapped=mapped, separator=separator or reader.separator)
    except BaseException:
        reader.close()
        raise


def _better(error: CheckpointError | StorageError, path: Path, other: Other | None) -> Exception | None:
    """The error that says what another program has written at a path, or which file may be meant; None if unknown."""
    better: CheckpointError | StorageError
    if other is not None:
        better = type(error).of("load", f"this is {other.what}, and no checkpoint of statevar", str(path), other.hint)
    elif isinstance(error, CheckpointNotFoundError) and error.strerror and (near := _near(path)):
        better = type(error).of("load", f"the system said {error.strerror}", str(path), f"the folder has {near!r}")
    else:
        return None
    if isinstance(error, StorageError) and isinstance(better, StorageError):
        better.errno, better.strerror, better.filename = error.errno, error.strerror, str(path)
    return better


def _near(path: Path) -> str | None:
    """The name in the folder of a path that is most like the name of the path."""
    names = sorted(
        each.name for each in path.parent.iterdir() if not each.name.startswith(".") and each.name != path.name
    )
    longer = [name for name in names if Path(name).stem == path.name]
    return next(iter(longer or difflib.get_close_matches(path.name, names, 1, 0.8)), None)


def _open(path: Path, mapped: bool, separator: str | None) -> Checkpoint:
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
                return _opened(path, place, mapped, separator)
            except (CheckpointError, FileNotFoundError):
                # If another process has replaced it meanwhile, the next attempt finds the new one. There is always a
                # second attempt, since the new file may have the inode number of the old one.
                if attempt + 1 == _ATTEMPTS or (attempt and _files.place_of(place) == before):
                    raise
    raise AssertionError("the last attempt returns or raises")


def _opened(path: Path, place: Path, mapped: bool, separator: str | None) -> Checkpoint:
    index = index_at(place)
    texts = {} if index is None else dict(index.texts)
    source: Source
    if index is not None and index.is_in_pieces:
        source = PiecesSource(place.parent, contents_of(index, texts, path), path)
        identity = digest_of(*(str(each).encode() for each in index.files.values()))
    else:
        source, texts, identity = _whole(index, texts, path, place)
    close = source.closer()
    written = dict(texts)
    try:
        separator = separator or texts.pop("statevar.separator", None)
        facts = _own_facts(texts, path)
        return Checkpoint(path, source, facts, mapped=mapped, separator=separator, identity=identity, texts=written)
    except BaseException:
        close()
        raise


def _whole(index: Index | None, texts: dict[str, str], path: Path, place: Path) -> tuple[Source, dict[str, str], str]:
    """Opens files that contain whole tensors. Returns their texts too, and what tells them from another save."""
    parts: list[TensorFile] = []
    try:
        if index is None:
            parts.append(TensorFile(place, None))
            return OwnFiles(parts), parts[0].texts, str(parts[0].digest or "")
        for name, digest in index.files.items():
            try:
                parts.append(TensorFile(place.parent / name, digest))
            except FileNotFoundError as error:
                raise CheckpointError.of("load", f"the file {name} is missing", str(path)) from error
        _check_map(index, parts, path)
        return OwnFiles(parts), texts, digest_of(*(str(part.digest).encode() for part in parts))
    except BaseException:
        close_all([part.file for part in parts])
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
