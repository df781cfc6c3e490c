"""Writes files of tensors, and puts them in the place of others in one step.

The order is what makes a file survive a power cut: the bytes to the disk, then the name, then the folder.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xxhash

from ...._arrays.backend import Backend
from ...._arrays.types import HostArray
from ... import _files
from .header import FORMAT, digest_of, encode, laid_out, room_for_checksums, with_checksums
from .values import VariableRecord, code_of, difference, tensor_shape, to_tensor

__all__ = [
    "LOST_BY_POWER",
    "FileDigest",
    "NewFile",
    "Replacement",
    "ToWrite",
    "rest_of",
    "shared_stem",
    "sweep",
    "write_all",
    "write_tensors",
]

#: Bytes that go to the system at once: enough that the calls cost nothing, few enough to stay in a cache.
_CHUNK = 8 << 20
_BUFFERS = 512  # of which POSIX takes at least 16, and Linux 1024


@dataclass(slots=True)
class ToWrite:
    """A variable that is to be written. ``value`` is let go once that is done, so that a write need not copy it."""

    path: str
    saved: VariableRecord
    backend: Backend
    value: Any

    def tensor(self) -> HostArray:
        """Its bytes, in one piece."""
        return to_tensor(self.backend.to_host(self.value), self.saved.dtype)


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file that is complete: the checksum of its header, and those of its tensors by path."""

    digest: str
    checksums: dict[str, str]
    nbytes: int


def write_tensors(
    file: int, items: Iterable[ToWrite], texts: Mapping[str, str], wrote: Callable[[int], None] | None = None
) -> FileDigest:
    """Writes a file of tensors, and waits until it is on the disk.

    Args:
        items: those without a value get no tensor.
        texts: further metadata.
        wrote: called with a number of bytes, each time that so many more are written.
    """
    by_path = {item.path: item for item in items}
    ready = {
        path: item.tensor() for path, item in by_path.items() if item.saved.dtype == "string" and item.value is not None
    }
    entries = laid_out(
        (path, code_of(item.saved.dtype), _shape(item.saved, ready.get(path)))
        for path, item in by_path.items()
        if item.saved.shape is not None
    )
    backend = Counter(item.saved.backend for item in by_path.values()).most_common(1)
    default = backend[0][0] if backend else "numpy"
    differences = {path: difference(item.saved, default) for path, item in by_path.items()}
    metadata = {
        "statevar.format": FORMAT,
        "statevar.backend": default,
        "statevar.variables": _json({path: each for path, each in differences.items() if each}),
        **texts,
    }
    header = encode(entries, metadata | room_for_checksums(len(entries)))
    stream = _Stream(file, len(header), wrote)
    checksums = {}
    for entry in entries:
        item = by_path[entry.name]
        tensor = ready.pop(entry.name) if entry.name in ready else item.tensor()
        item.value = None
        checksums[entry.name] = stream.append(tensor)
        del tensor
    stream.flush()
    header, digest = with_checksums(header, checksums.values())
    write_all(file, [memoryview(header)], 0)
    _files.sync(file)
    return FileDigest(digest, checksums, stream.offset)


def _shape(saved: VariableRecord, text: HostArray | None) -> tuple[int, ...]:
    assert saved.shape is not None
    return tensor_shape(saved.dtype, saved.shape) if text is None else text.shape


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Stream:
    """Bytes one after the other, written in large pieces."""

    def __init__(self, file: int, offset: int, wrote: Callable[[int], None] | None) -> None:
        self.offset = offset
        self._file = file
        self._wrote = wrote
        self._waiting: list[memoryview] = []
        self._count = 0

    def append(self, tensor: HostArray) -> str:
        """Returns the checksum."""
        memory = memoryview(tensor)  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
        if len(memory) <= _CHUNK:
            self._add(memory)
            return digest_of(memory)
        digest = xxhash.xxh3_128()
        for start in range(0, len(memory), _CHUNK):
            piece = memory[start : start + _CHUNK]
            digest.update(piece)  # and then written while it is in the cache
            self._add(piece)
        return digest.hexdigest()

    def _add(self, memory: memoryview) -> None:
        if len(memory):
            self._waiting.append(memory)
            self._count += len(memory)
        if self._count >= _CHUNK or len(self._waiting) >= _BUFFERS:
            self.flush()

    def flush(self) -> None:
        count, waiting = self._count, self._waiting
        self._count, self._waiting = 0, []
        write_all(self._file, waiting, self.offset)
        self.offset += count
        if self._wrote is not None and count:
            self._wrote(count)


def write_all(file: int, buffers: list[memoryview], offset: int) -> None:
    """Writes all of it, however little the system takes at once."""
    while buffers:
        count = _files.write(file, buffers, offset)
        if count <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        offset += count
        buffers = rest_of(buffers, count)


def rest_of(buffers: list[memoryview], count: int) -> list[memoryview]:
    """What is left of some memory after so many bytes."""
    for i, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[i + 1 :]]
        count -= len(buffer)
    return []


# -- files that are not there yet ----------------------------------------------------------------------


class NewFile:
    """A file with a name of its own, which is gone again unless `keep` is called.

    Nobody else's sweep takes it while we live: it is locked until `close`.
    """

    def __init__(self, folder: Path, name: Callable[[str], str]) -> None:
        self._keeps = False
        while True:
            self.path = folder / name(os.urandom(4).hex())
            try:
                self.file = _files.create(self.path)
            except FileExistsError:
                continue
            try:
                locked = True
                with suppress(OSError):  # a file system without locks: a sweep cannot lock it either, and leaves it
                    locked = _files.lock(self.file)
                if locked and _files.place_of(self.path) == _files.identity(self.file):
                    break
            except BaseException:
                self._give_up()
                raise
            self._give_up()  # a sweep came between, and takes it for a dead one's

    def keep(self, keeps: bool = True) -> None:
        """Whether it stays when it is closed."""
        self._keeps = keeps

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keeps:
            self._give_up()
        else:
            with suppress(OSError):  # all of it is on the disk
                _files.close(self.file)

    def _give_up(self) -> None:
        """What went wrong before is what counts: a later save removes what cannot be removed now."""
        try:
            with suppress(OSError):
                _files.remove(self.path)
        finally:
            with suppress(OSError):
                _files.close(self.file)


class Replacement(NewFile):
    """A file that takes the place of another one, in one step, once it is complete."""

    def __init__(self, target: Path) -> None:
        self.target = target
        stem = shared_stem(target)
        sweep(target.parent, re.compile(rf"\.{re.escape(stem)}\.[0-9a-f]{{8}}\.tmp"))
        super().__init__(target.parent, lambda token: f".{stem}.{token}.tmp")

    def commit(self, others: Iterable[NewFile] = ()) -> None:
        """The file's bytes are on the disk already; when this returns, its name is too.

        Args:
            others: files that it names, and that are kept with it.
        """
        files = (self, *others)
        for each in files:  # before: if Ctrl-C comes right after the rename, they are needed, and else swept later
            each.keep()
        try:
            _files.rename(self.path, self.target)
        except OSError:
            if _files.place_of(self.path) == _files.identity(self.file):
                for each in files:
                    each.keep(False)
            raise
        try:
            _files.sync_folder(self.target.parent)
        except OSError as error:
            raise _files.storage_error("save", self.target, error, LOST_BY_POWER) from error


#: The end of an error that comes after a rename.
LOST_BY_POWER = "the new one is there already, but a power cut could still undo that; save again"


def shared_stem(target: Path) -> str:
    """What the names of a target's helpers begin with: no longer than a name can be, and in Unicode, as an index is."""
    name = os.fsencode(target.name)
    try:
        if len(name) <= 150 and target.name.encode():
            return target.name
    except UnicodeEncodeError:
        return digest_of(name)
    return f"{target.name[:20]}-{digest_of(name)}"


def sweep(folder: Path, pattern: re.Pattern[str], needed: Callable[[], Container[str]] = tuple) -> None:
    """Removes what died while it was written: whoever is alive has it locked.

    Args:
        needed: the names that must stay. Asked once a file is locked, since who made it may have lived until then.
    """
    # One at a time: who looks at a file has it locked meanwhile, and another one would take that for its owner.
    turn = _files.open_file(folder)
    try:
        with suppress(OSError):  # a file system without locks
            if not _files.wait_for(turn, _PATIENCE):
                return  # somebody keeps the folder locked: what is left, a later save removes
        for name in _files.names(folder):
            if pattern.fullmatch(name):
                with suppress(OSError):  # it may not be let
                    _remove_if_dead(folder / name, needed)
    finally:
        _files.close(turn)


_PATIENCE = 1.0  # seconds; a sweep takes a millisecond


def _remove_if_dead(path: Path, needed: Callable[[], Container[str]]) -> None:
    file = _files.open_file(path)
    try:
        if _files.lock(file) and path.name not in needed():
            _files.remove(path)
    finally:
        _files.close(file)
