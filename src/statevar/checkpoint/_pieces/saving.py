"""A save of several processes: each writes its own pieces, process 0 checks them and commits by one rename.

Nothing is gathered. In three phases, in which an error in one process is an error in all:

1. All have the same variables, with the same values or as many writes. Process 0 makes the place.
2. Each process writes its part, syncs it, and tells the checksum of its header.
3. Process 0 reads the headers of all parts, checks that the pieces cover each array exactly, and commits the index.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..._state.snapshot import Snapshot
from ...errors import CheckpointError, NotAddressableError, ReplicaError, describe
from .. import _files
from .._formats.reader import nbytes_in_memory
from .._formats.safetensors.header import digest_of
from .._formats.safetensors.index import decode_index
from .._formats.safetensors.values import VariableRecord
from .._formats.safetensors.writer import ToWrite
from .._together import Group
from .blocks import flaw_of
from .contents import Located, contents_of, encode_contents, located_in
from .facts import WHOLE, Holding, dealt, differences, fact_of, holding_of
from .part import PartFile, Pieces, nbytes_of, write_part

__all__ = ["Place", "Save", "save_in_pieces"]

_MOST = 20  # differences that an error lists
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
        save: list[Save] = []
        with group.phase("begin") as phase, storage():
            told = place.begin() if group.leads else ""
            save.append(prepare())
            holdings = _held(save[0], group)
            facts = _facts(save[0], holdings) if group.count > 1 else {}
            digest = digest_of(json.dumps(facts).encode())
            answers = phase.agree({"same": dict(same), "facts": digest, "told": told})
        whole = _compared(group, answers, holdings, facts, where)
        told, texts = answers[0]["told"], save[0].texts
        records = {item.path: item.saved for item in save[0].items}
        mine = _mine(group, holdings, whole)
        _release(save.pop(), holdings)
        with ExitStack() as stack:
            with group.phase("parts") as phase, storage():
                name, file = stack.enter_context(place.part(told, group.index, group.count))
                total = sum(map(nbytes_in_memory, records.values()))
                wrote = write_part(file, mine, list(records), total, reporter(sum(map(nbytes_of, mine))))
                mine.clear()
                # From here process 0 may commit it, even if this process does not hear of that any more.
                place.keep(not group.leads)
                try:
                    answers = phase.agree([name, *wrote])
                finally:
                    if phase.failed:
                        place.keep(False)
            with group.phase("commit"), storage():
                if group.leads:
                    parts = {name: (digest, nbytes) for name, digest, nbytes in answers}
                    place.commit(_index(place.folder(told), parts, records, texts))
    except BaseException:
        if group.leads:
            place.drop()
        raise


# -- before anything is written --------------------------------------------------------------------------


def _held(save: Save, group: Group) -> dict[str, Holding]:
    """What this process has of each value."""
    holdings = {item.path: holding_of(item) for item in save.items if item.saved.shape is not None}
    for path, holding in holdings.items() if group.count == 1 else ():
        backend: Any = holding.item.backend
        if backend.is_sharded and backend.spans(holding.item.value):
            problem = "other processes have a part of the value"
            raise NotAddressableError.of("save", problem, path, "call save in every process, without alone=True")
    return holdings


def _facts(save: Save, holdings: Mapping[str, Holding]) -> dict[str, list[Any]]:
    return {
        item.path: fact_of(item, holdings.get(item.path), version)
        for item, version in zip(save.items, save.cut._versions, strict=True)
    }


def _compared(
    group: Group,
    answers: Sequence[Mapping[str, Any]],
    holdings: Mapping[str, Holding],
    facts: Mapping[str, list[Any]],
    where: Path,
) -> set[str]:
    """Compares what the processes have, and returns the paths of the values that each of them has as a whole."""
    _check_same([each["same"] for each in answers], where)
    whole = {path for path, holding in holdings.items() if holding.kind == WHOLE}
    if len({each["facts"] for each in answers}) > 1:
        all_facts = group.agree("compare", lambda: facts)
        if found := differences(all_facts):
            raise _differ(found, where)
        whole = {path for path in whole if all(mine[path][2] == WHOLE for mine in all_facts)}
    return whole


def _release(save: Save, holdings: dict[str, Holding]) -> None:
    """Lets go of the values: each is released once it is written, so that the program can write in place again."""
    holdings.clear()
    for item in save.items:
        item.value = None
    save.cut._values.clear()


def _mine(group: Group, holdings: Mapping[str, Holding], whole: set[str]) -> list[Pieces]:
    """What this process writes: its pieces of what is spread, and its share of what all have."""
    if group.count == 1:  # cutting is for those who read
        shares = {path: {0: [holdings[path].whole()]} for path in whole}
    else:
        shares = dealt({path: holdings[path].described() for path in sorted(whole)}, group.count)
    mine = []
    for path, holding in holdings.items():
        if path not in whole:
            mine += [holding.piece(each) for each in holding.pieces if each.first]
        elif blocks := shares[path].get(group.index):
            mine.append(holding.blocks(blocks))
    return mine


def _check_same(answers: Sequence[Mapping[str, Any]], where: Path) -> None:
    for name, value in answers[0].items():
        for index, each in enumerate(answers):
            if each[name] != value:
                problem = f"the {name} is {value!r} in process 0, and {each[name]!r} in process {index}"
                hint = f"pass the same {name} in every process; alone=True saves what one process has"
                raise ReplicaError.of("save", problem, str(where), hint)


def _differ(found: list[tuple[str, str]], where: Path) -> ReplicaError:
    problem = "the processes do not have the same state, and nothing was written"
    lines = [f"  {path}: {reason}" for path, reason in found[:_MOST]]
    if len(found) > _MOST:
        lines.append(f"  and {len(found) - _MOST} more")
    lines.append("Hint: every process must make the same writes; state of one process is saved with alone=True.")
    return ReplicaError("\n".join([describe("save", problem, str(where)), *lines]))


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
