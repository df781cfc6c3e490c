"""Writes an open checkpoint again, with some variables changed: as one file, as a folder, or where it is.

Whatever is not changed stays as it is: the bytes of values, names, flags, aliases and metadata. Each array is read, and
its checksum compared, when it is written, so that one at a time is in memory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from .._arrays.dtypes import STORED
from .._arrays.registry import get_backend
from .._arrays.types import HostArray
from .._state.by_path import needed
from .._state.paths import Paths
from ..errors import CheckpointError, ConflictError, DTypeError
from . import _files
from ._checkpoint import Checkpoint, index_at
from ._formats.safetensors.index import INDEX, encode_index
from ._formats.safetensors.values import VariableRecord, to_tensor
from ._formats.safetensors.writer import FileDigest, NewFile, Replacement, ToWrite, sweep, write_all, write_tensors
from ._save import UNTOUCHED, check_path, index_of, shards_of, sweep_shards, texts_of
from ._sources import OtherFile, OwnFiles
from ._step_folder import StepFolder, is_step

__all__ = ["Change", "Layout", "layout_of", "rewrite", "undisturbed", "write_file", "write_folder"]

#: How a checkpoint lies on the disk: one file of ours, an index and its files, parts of several processes, or a file of
#: another program.
Layout = Literal["file", "files", "pieces", "other"]


class Change(NamedTuple):
    """What a variable is to be in the new file.

    Attributes:
        record: all facts about it.
        array: its value; None if that does not change.
    """

    record: VariableRecord
    array: HostArray | None


def layout_of(checkpoint: Checkpoint) -> Layout:
    """How an open checkpoint lies on the disk."""
    if isinstance(checkpoint._source, OtherFile):
        return "other"
    if not isinstance(checkpoint._source, OwnFiles):
        return "pieces"
    parts, place = checkpoint._source.parts, _place(checkpoint.path)
    if len(parts) == 1 and parts[0].path == place:
        return "file"
    return "other" if any(part.digest is None for part in parts) else "files"


def write_file(
    checkpoint: Checkpoint,
    target: Path,
    changes: Mapping[str, Change] | None = None,
    only: Collection[str] | None = None,
) -> None:
    """Writes a checkpoint to one file of ours, which replaces what is there.

    Args:
        checkpoint: the open checkpoint.
        target: the path of the new file.
        changes: what changes, by path.
        only: the paths to write; by default all.
    """
    _files.require_posix("save", target)
    items, texts = _content(checkpoint, changes or {}, only)
    with _files.os_errors_as("save", target, UNTOUCHED):
        place = _files.place_to_save(target)
        with Replacement(place) as new:
            write_tensors(new.file, items, texts)
            new.commit()
        with suppress(OSError):  # the save is complete, and the next one sweeps again
            sweep_shards(place)


def write_folder(checkpoint: Checkpoint, target: Path, shard_size: int, only: Collection[str] | None = None) -> None:
    """Writes a checkpoint to a new folder of an index and files, as the steps of a manager are.

    Args:
        checkpoint: the open checkpoint.
        target: the path of the folder, where nothing may be but an empty folder.
        shard_size: the size of a file in bytes.
        only: the paths to write; by default all.
    """
    _files.require_posix("save", target)
    items, texts = _content(checkpoint, {}, only)
    with _files.os_errors_as("save", target, UNTOUCHED):
        place = Path(os.path.realpath(target))
        aside = place.with_name(f".{place.name[:150]}.{os.urandom(4).hex()}.tmp")
        _files.make_folder(aside)
        try:
            written = {}
            for i, group in enumerate(shards_of(items, shard_size)):
                name = f"part-{i:05d}.safetensors"
                file = _files.create(aside / name)
                try:
                    written[name] = write_tensors(file, group, {})
                finally:
                    _files.close(file)
            file = _files.create(aside / INDEX)
            try:
                write_all(file, [memoryview(index_of(written, texts))], 0)
                _files.sync(file)
            finally:
                _files.close(file)
            _files.sync_folder(aside)
            _files.rename(aside, place)
        except BaseException:
            with suppress(OSError):
                for name in _files.names(aside):
                    _files.remove(aside / name)
                _files.remove_folder(aside)
            raise
        _files.sync_folder(place.parent)


@contextmanager
def undisturbed(path: Path) -> Iterator[None]:
    """Keeps managers away from the checkpoint at a path while the block changes it, if it is a step of one.

    Raises:
        ConflictError: a running program has a manager of the folder.
    """
    folder = _place(path).parent
    if not is_step(folder):
        yield
        return
    try:
        claim = StepFolder(folder.parent)
    except ConflictError as error:
        problem = "a running program has a manager of this folder, which may remove the checkpoint"
        hint = "change it when the program has ended, or write another file"
        raise ConflictError.of("edit", problem, str(folder.parent), hint) from error
    try:
        yield
    finally:
        claim.free()


def rewrite(checkpoint: Checkpoint, changes: Mapping[str, Change], backup: Path | None = None) -> None:
    """Changes variables of a checkpoint of ours where it is, in one step: readers see all changes or none.

    Of several files only those with a changed variable are written. Others may be shared with other checkpoints.

    Args:
        checkpoint: the open checkpoint, whose layout is ``"file"`` or ``"files"``.
        changes: what changes, by path.
        backup: a second name for the present file, which must not exist; only of one file.

    Raises:
        ConflictError: the checkpoint was replaced since it was opened.
    """
    _files.require_posix("edit", checkpoint.path)
    place = _place(checkpoint.path)
    with _files.os_errors_as("edit", checkpoint.path, UNTOUCHED):
        if layout_of(checkpoint) == "file":
            _rewrite_file(checkpoint, place, changes, backup)
        else:
            _rewrite_files(checkpoint, place, changes)


def _rewrite_file(checkpoint: Checkpoint, place: Path, changes: Mapping[str, Change], backup: Path | None) -> None:
    items, texts = _content(checkpoint, changes, None)
    with Replacement(place) as new:
        write_tensors(new.file, items, texts)
        if _files.place_of(place) != _files.identity(_own(checkpoint).parts[0].file):
            raise _replaced(checkpoint)
        if backup is not None:
            _files.link(place, backup)
        new.commit()


def _rewrite_files(checkpoint: Checkpoint, place: Path, changes: Mapping[str, Change]) -> None:
    index = index_at(place)
    parts = _own(checkpoint).parts
    if index is None or index.files != {part.path.name: part.digest for part in parts}:
        raise _replaced(checkpoint)
    items, _ = _content(checkpoint, changes, None)
    by_name = {item.path: item for item in items}
    changed = {_name(checkpoint, path) for path in changes}
    with ExitStack() as open_files:
        new: list[NewFile] = []
        files: dict[str, str] = {}
        tensors: dict[str, str] = {}
        nbytes = 0
        for part in parts:
            if changed.isdisjoint(part.variables):
                name, written = (
                    part.path.name,
                    FileDigest(str(part.digest), dict.fromkeys(part.entries, ""), part.total),
                )
            else:
                one = NewFile(place.parent, partial(_new_name, part.path.name), part.path)
                new.append(open_files.enter_context(one))
                written = write_tensors(one.file, [by_name[each] for each in part.variables], {})
                name = one.path.name
            files[name] = written.digest
            tensors |= dict.fromkeys(written.checksums, name)
            nbytes += written.nbytes
        _files.sync_folder(place.parent)  # the files must be on the disk before an index names them
        content = encode_index(files, tensors, nbytes, index.texts)
        with Replacement(place) as replacement:
            write_all(replacement.file, [memoryview(content)], 0)
            _files.sync(replacement.file)
            if index_at(place) != index:
                raise _replaced(checkpoint)
            replacement.commit(new)
    with suppress(OSError):  # the change is complete, and the next one sweeps again
        _sweep(place)


def _sweep(place: Path) -> None:
    """Removes the files that the index at a place does not name any more."""
    sweep_shards(place)
    if place.name == INDEX:
        pattern = re.compile(r"part-\d{5}(\.[0-9a-f]{8})?\.safetensors")

        def named() -> Collection[str]:
            index = index_at(place)
            return () if index is None else index.files

        sweep(place.parent, pattern, named)


def _new_name(old: str, token: str) -> str:
    """The name of a new version of a file.

    >>> _new_name("a.1b2c3d4e-00001-of-00002.safetensors", "0" * 8), _new_name("part-00000.safetensors", "0" * 8)
    ('a.00000000-00001-of-00002.safetensors', 'part-00000.00000000.safetensors')
    """
    if match := re.fullmatch(r"(.+)\.[0-9a-f]{8}-(\d{5}-of-\d{5}\.safetensors)", old, re.DOTALL):
        return f"{match[1]}.{token}-{match[2]}"
    return re.sub(r"(\.[0-9a-f]{8})?\.safetensors$", "", old) + f".{token}.safetensors"


def _replaced(checkpoint: Checkpoint) -> ConflictError:
    problem = "another program has replaced the checkpoint meanwhile, so nothing was changed"
    return ConflictError.of("edit", problem, str(checkpoint.path), "look at the new one, and try again")


def _place(path: Path) -> Path:
    return Path(os.path.realpath(path / INDEX if path.is_dir() else path))


def _own(checkpoint: Checkpoint) -> OwnFiles:
    assert isinstance(checkpoint._source, OwnFiles)
    return checkpoint._source


# -- the content -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Stored(ToWrite):
    """A variable of an open checkpoint, which is read when it is written."""

    read: Callable[[], HostArray]

    def tensor(self) -> HostArray:
        """Reads the value, and returns it as contiguous bytes."""
        return to_tensor(self.read(), self.saved.dtype)


def _content(
    checkpoint: Checkpoint, changes: Mapping[str, Change], only: Collection[str] | None
) -> tuple[list[ToWrite], dict[str, str]]:
    """The variables to write, under their names in the file, and its metadata."""
    numpy = get_backend("numpy")
    items: list[ToWrite] = []
    for path, record in checkpoint.variables.items():
        if only is not None and path not in only:
            continue
        name = _name(checkpoint, path)
        check_path(name)
        if record.dtype not in STORED:
            hint = "leave it out, as convert --only does"
            raise DTypeError.of("save", f"no variable has the dtype {record.dtype}", path, hint)
        change = changes.get(path, Change(record, None))
        if change.array is not None or record.shape is None:
            items.append(ToWrite(name, change.record, numpy, change.array))
        else:
            items.append(_Stored(name, change.record, numpy, checkpoint, partial(_read, checkpoint, path)))
    return items, _texts(checkpoint, [*checkpoint.variables] if only is None else only)


def _read(checkpoint: Checkpoint, path: str) -> HostArray:
    found = checkpoint.arrays([path])[path]
    if isinstance(found, CheckpointError):
        raise found
    return found


def _name(checkpoint: Checkpoint, path: str) -> str:
    """The name of a variable in a file of ours: that which it has, if the separator of the file is kept."""
    if checkpoint._names is None or layout_of(checkpoint) == "other":
        return path
    return checkpoint._names[path]


def _texts(checkpoint: Checkpoint, paths: Collection[str]) -> dict[str, str]:
    """The metadata: that of the file, without what describes its layout; of other programs what we know of it."""
    aliases = needed(checkpoint.aliases, paths)
    texts = texts_of(Paths({}, aliases), checkpoint.metadata)
    for name, text in checkpoint._texts.items():
        if not name.startswith("statevar.") or name in _KEPT:
            texts[name] = text
    return texts


_KEPT = ("statevar.metadata", "statevar.metrics", "statevar.separator", "statevar.step")
