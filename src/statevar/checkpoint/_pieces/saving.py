"""A save of several processes: each writes its own pieces, process 0 checks them and commits by one rename.

Nothing is gathered. In three phases, in which an error in one process is an error in all:

1. All have the same variables, with the same values or as many writes. Process 0 makes the place.
2. Each process writes its part, syncs it, and tells the checksum of its header.
3. Process 0 reads the headers of all parts, checks that the pieces cover each array exactly, and commits the index.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..._state.replicas import Digests, compare, record_of, summary
from ..._state.snapshot import Snapshot
from ...errors import CheckpointError, NotAddressableError, ReplicaError
from .. import _files
from .._formats.reader import nbytes_in_memory
from .._formats.safetensors.index import decode_index
from .._formats.safetensors.values import VariableRecord
from .._formats.safetensors.writer import ToWrite
from .._together import Group
from .blocks import flaw_of
from .contents import Located, contents_of, encode_contents, located_in
from .facts import Holding, dealt, holding_of
from .part import PartFile, Pieces, nbytes_of, write_part

__all__ = ["Place", "Save", "save_in_pieces"]

_SHARED = "the folder must be on a file system that all processes share"


class Place(ABC):
    """Where a checkpoint in pieces is written. Each process makes one."""

    @abstractmethod
    def begin(self) -> str:
        """Makes the place, in process 0. Returns what the others need to know of it."""

    @abstractmethod
    def part(self, told: str, index: int, count: int) -> AbstractContextManager[tuple[str, int]]:
        """Makes the file of a process, and gives its name and the open file while the block lasts.

        The file is removed at the end of the block, unless `keep` was called.
        """

    @abstractmethod
    def keep(self, keeps: bool) -> None:
        """Sets whether the file of this process stays."""

    @abstractmethod
    def folder(self, told: str) -> Path:
        """The folder with the parts."""

    @abstractmethod
    def commit(self, content: bytes) -> None:
        """Writes the index, and makes the checkpoint visible in one step, in process 0."""

    @abstractmethod
    def drop(self) -> None:
        """Removes what `begin` has made, as far as that is possible now, after an error in process 0."""


@dataclass(frozen=True, slots=True)
class Save:
    """What is to be saved, and where.

    Attributes:
        cut: the snapshot. Its values are released once they are only kept by what is to be written.
        items: the variables with their values.
        texts: the metadata for the index; those of process 0 count.
    """

    cut: Snapshot
    items: list[ToWrite]
    texts: Mapping[str, str]


def save_in_pieces(
    group: Group,
    place: Place,
    prepare: Callable[[], Save],
    where: Path,
    *,
    hint: str,
    same: Mapping[str, Any],
    reporter: Callable[[int], Callable[[int], None] | None],
) -> None:
    """Saves a snapshot together with the other processes.

    Args:
        group: the processes.
        place: where it is to be.
        prepare: makes what is to be saved; if it raises an error, all do.
        where: the path to name in errors.
        hint: what an error of the system means for earlier saves.
        same: what else must be the same in every process, by its name: the path, the step.
        reporter: makes what is called after each write, from the number of bytes that this process writes.

    Raises:
        ReplicaError: the processes do not have the same variables, or not the same values of them. Nothing is written.
        StorageError: the system cannot write one of the files, in any process.
        ProcessError: a process is missing.
    """
    try:
        storage = partial(_files.os_errors_as, "save", where, hint)
        told, records, texts, pieces = _agreed(group, place, prepare, storage, same)
        with ExitStack() as stack:
            with group.phase("parts") as phase, storage():
                name, file = stack.enter_context(place.part(told, group.index, group.count))
                total = sum(map(nbytes_in_memory, records.values()))
                wrote = write_part(file, pieces, list(records), total, reporter(sum(map(nbytes_of, pieces))))
                pieces.clear()
                # From here process 0 may commit it, even if this process does not hear of that any more.
                place.keep(not group.leads)
                try:
                    parts: dict[str, tuple[str, int]] = {}
                    phase.agree([name, *wrote], lambda all_: parts.update({one: tuple(more) for one, *more in all_}))
                finally:
                    if phase.failed:
                        place.keep(False)
            with group.phase("commit"), storage():
                if group.leads:
                    place.commit(_index(place.folder(told), parts, records, texts))
    except BaseException:
        if group.leads:
            place.drop()
        raise


# -- before anything is written --------------------------------------------------------------------------


def _agreed(
    group: Group,
    place: Place,
    prepare: Callable[[], Save],
    storage: Callable[[], AbstractContextManager[None]],
    same: Mapping[str, Any],
) -> tuple[str, dict[str, VariableRecord], Mapping[str, str], list[Pieces]]:
    """Makes the place, and compares what the processes have.

    Returns:
        What process 0 says of the place, the facts about each variable, the metadata, and what this process writes.
    """
    with group.phase("begin") as phase, storage():
        told = place.begin() if group.leads else ""
        save = prepare()
        holdings = _held(save, group)
        known = _digests(save) if group.count > 1 else {}
        mine = {"same": dict(same), "told": told, "digests": summary(known)}
        told, problem = phase.agree(mine, _begun)
    whole = {path for path, holding in holdings.items() if holding.is_whole}
    if problem == _CLOSER:
        with group.phase("compare") as phase:
            everywhere, problem = phase.agree(known, _compared)
        whole &= set(everywhere)
    if problem is not None:
        raise ReplicaError.of(*problem)
    records = {item.path: item.saved for item in save.items}
    pieces = _mine(group, holdings, whole)
    holdings.clear()
    for item in save.items:
        item.value = None
    save.cut._values.clear()  # each value is released once it is written, so that the program can write in place again
    return told, records, save.texts, pieces


def _held(save: Save, group: Group) -> dict[str, Holding]:
    """What this process has of each value."""
    holdings = {item.path: holding_of(item) for item in save.items if item.saved.shape is not None}
    for path, holding in holdings.items() if group.count == 1 else ():
        backend: Any = holding.item.backend
        if backend.is_sharded and backend.spans(holding.item.value):
            problem = "other processes have a part of the value"
            raise NotAddressableError.of("save", problem, path, "call save in every process, without alone=True")
    return holdings


def _digests(save: Save) -> Digests:
    """What must be the same in every process: versions, and the digest of each block that several of them have."""
    return {
        item.path: record_of(item.backend, item.value, None if item.backend.misses_writes else version)
        for item, version in zip(save.items, save.cut._versions, strict=True)
    }


#: What process 0 decides if the processes do not have the same, and it needs to know more to say what.
_CLOSER = "closer"


def _begun(answers: Sequence[Mapping[str, Any]]) -> tuple[str, Any]:
    """What process 0 says of the place, and a problem: the parts of an error, `_CLOSER`, or None."""
    first = answers[0]
    for name, value in first["same"].items():
        for index, each in enumerate(answers):
            if (other := each["same"][name]) != value:
                problem = f"the {name} is {value!r} in process 0, and {other!r} in process {index}"
                hint = f"pass the same {name} in every process; alone=True saves what one process has"
                return first["told"], ("save", problem, "", hint)
    differs = compare([_records(each["digests"]) for each in answers], "save") is not None
    return first["told"], _CLOSER if differs else None


def _compared(answers: Sequence[Mapping[str, Any]]) -> tuple[list[str], Any]:
    """The paths of the values that every process has as a whole, and the parts of an error or None."""
    found = [_records(each) for each in answers]
    error = compare(found, "save")
    whole = [path for path in found[0] if all("" in each.get(path, ("", "", None, {}, ""))[3] for each in found)]
    return whole, None if error is None else error._parts


def _records(told: Mapping[str, Any]) -> Digests:
    return {path: tuple(record) for path, record in told.items()}


def _mine(group: Group, holdings: Mapping[str, Holding], whole: set[str]) -> list[Pieces]:
    """What this process writes: its pieces of what is spread, and its share of what all have."""
    if group.count == 1:  # cutting is for those who read
        shares = {path: {0: [holdings[path].whole()]} for path in whole}
    else:
        shares = dealt({path: holdings[path].described() for path in sorted(whole)}, group.count)
    mine = []
    for path, holding in holdings.items():
        if path not in whole:
            # Of values that each process has over devices of its own, those of process 0 are saved.
            backend: Any = holding.item.backend
            if group.index == 0 or backend.spans(holding.item.value):
                mine += [holding.piece(each) for each in holding.pieces if each.first]
        elif blocks := shares[path].get(group.index):
            mine.append(holding.blocks(blocks))
    return mine


# -- once all parts are written ---------------------------------------------------------------------------


def _index(
    folder: Path,
    files: Mapping[str, tuple[str, int]],
    records: Mapping[str, VariableRecord],
    texts: Mapping[str, str],
) -> bytes:
    """Checks the parts, and returns the bytes of their index."""
    parts = {name: _opened(folder / name, digest) for name, (digest, _) in files.items()}
    pieces: dict[str, list[Located]] = {path: [] for path, saved in records.items() if saved.shape is not None}
    for name, part in parts.items():
        for path, located in located_in(name, part, records):
            pieces[path].append(located)
    for path, some in pieces.items():
        shape = records[path].shape
        assert shape is not None
        if flaw := flaw_of(shape, [each.block for each in some]):
            hint = "the processes must have all of the value together, and its sharding must be the same in all of them"
            raise CheckpointError.of("save", f"the pieces of the value do not fit together: {flaw}", path, hint)
    content = encode_contents(records, pieces, files, texts)
    index = decode_index(content, folder)
    contents = contents_of(index, dict(index.texts), folder)
    for name, part in parts.items():
        contents.check(name, part)
    return content


def _opened(path: Path, digest: str) -> PartFile:
    try:
        return PartFile(path, digest, stays_open=False)
    except FileNotFoundError as error:
        problem = "another process has written this file, and process 0 does not find it"
        raise CheckpointError.of("save", problem, str(path), _SHARED) from error
