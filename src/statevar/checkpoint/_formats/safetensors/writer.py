"""Writes files of tensors, and replaces existing files in one step.

A file survives a power cut because of the order: sync the bytes, then rename the file, then sync the folder.
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
from ....errors import ComputationError
from ... import _files
from .header import FORMAT, digest_of, encode, laid_out, room_for_checksums, with_checksums
from .values import VariableRecord, code_of, difference, tensor_shape, to_tensor

__all__ = [
    "LOST_BY_POWER",
    "FileDigest",
    "NewFile",
    "Replacement",
    "Stream",
    "ToWrite",
    "rest_of",
    "shared_stem",
    "sweep",
    "write_all",
    "write_file",
    "write_tensors",
]

#: Bytes to write at once: enough that the calls cost nothing, and few enough to stay in the processor's cache.
_CHUNK = 8 << 20
_BUFFERS = 512  # for one pwritev; Linux takes up to 1024


@dataclass(slots=True)
class ToWrite:
    """A variable to write. ``value`` is released once it is written, so that a later write need not copy it."""

    path: str
    saved: VariableRecord
    backend: Backend
    value: Any

    def tensor(self) -> HostArray:
        """Returns the value as contiguous bytes."""
        try:
            host = self.backend.packed(self.value)
        except self.backend.late_errors as error:
            raise ComputationError.late("save", self.backend.name, error, self.path) from error
        return to_tensor(host, self.saved.dtype)


@dataclass(frozen=True, slots=True)
class FileDigest:
    """The facts about a complete file: the checksum of its header, the checksum of each tensor by path, its size."""

    digest: str
    checksums: dict[str, str]
    nbytes: int


def write_tensors(
    file: int, items: Iterable[ToWrite], texts: Mapping[str, str], wrote: Callable[[int], None] | None = None
) -> FileDigest:
    """Writes a file of tensors, and waits until it is on the disk.

    Args:
        file: the open file.
        items: the variables. One without a value gets no tensor.
        texts: further metadata.
        wrote: called after each write, with the number of bytes written.
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
    stream = Stream(file, len(header), wrote)
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


class Stream:
    """Writes bytes one after the other, in large pieces."""

    def __init__(self, file: int, offset: int, wrote: Callable[[int], None] | None) -> None:
        self.offset = offset
        self._file = file
        self._wrote = wrote
        self._waiting: list[memoryview] = []
        self._count = 0

    def append(self, tensor: HostArray) -> str:
        """Adds the bytes of a tensor, and returns their checksum."""
        memory = memoryview(tensor)  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
        if len(memory) <= _CHUNK:
            self.add(memory)
            return digest_of(memory)
        digest = xxhash.xxh3_128()
        for start in range(0, len(memory), _CHUNK):
            piece = memory[start : start + _CHUNK]
            digest.update(piece)  # before it is written, while it is in the processor's cache
            self.add(piece)
        return digest.hexdigest()

    def add(self, memory: memoryview) -> None:
        """Adds bytes, which must not change before they are flushed."""
        if len(memory):
            self._waiting.append(memory)
            self._count += len(memory)
        if self._count >= _CHUNK or len(self._waiting) >= _BUFFERS:
            self.flush()

    def flush(self) -> None:
        """Writes to the file what was added since the last call."""
        count, waiting = self._count, self._waiting
        self._count, self._waiting = 0, []
        write_all(self._file, waiting, self.offset)
        self.offset += count
        if self._wrote is not None and count:
            self._wrote(count)


def write_all(file: int, buffers: list[memoryview], offset: int) -> None:
    """Writes all the buffers, even if the system takes only a part at a time."""
    while buffers:
        count = _files.write(file, buffers, offset)
        if count <= 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        offset += count
        buffers = rest_of(buffers, count)


def write_file(path: Path, content: bytes) -> None:
    """Writes a new file, and waits until it is on the disk."""
    file = _files.create(path)
    try:
        write_all(file, [memoryview(content)], 0)
        _files.sync(file)
    finally:
        _files.close(file)


def rest_of(buffers: list[memoryview], count: int) -> list[memoryview]:
    """Returns what remains of buffers after their first ``count`` bytes."""
    for i, buffer in enumerate(buffers):
        if count < len(buffer):
            return [buffer[count:], *buffers[i + 1 :]]
        count -= len(buffer)
    return []


# -- files that are not complete yet ----------------------------------------------------------------------


class NewFile:
    """A new file with a unique name, which is removed when the block ends unless `keep` was called.

    It is locked until then, so that the `sweep` of another save leaves it alone.

    Args:
        folder: the folder.
        name: returns the name of the file for eight random digits.
        replaces: the file that it will replace, whose mode, owner and extended attributes it gets before any bytes.
    """

    def __init__(self, folder: Path, name: Callable[[str], str], replaces: Path) -> None:
        self._keeps = False
        attributes = _files.attributes(replaces)
        while True:
            self.path = folder / name(os.urandom(4).hex())
            try:
                # Nobody may open it in between who may not open the old one.
                self.file = _files.create(self.path, 0o666 if attributes is None else attributes.mode & 0o600)
            except FileExistsError:
                continue
            try:
                locked = True
                with suppress(OSError):  # a file system without locks, where a sweep removes nothing
                    locked = _files.lock(self.file)
                if locked and _files.place_of(self.path) == _files.identity(self.file):
                    if attributes is not None:
                        _files.set_attributes(self.file, attributes)
                    break
            except BaseException:
                self._give_up()
                raise
            self._give_up()  # a sweep came before the lock, and removes the file as a leftover

    def keep(self, keeps: bool = True) -> None:
        """Sets whether the file stays when the block ends."""
        self._keeps = keeps

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keeps:
            self._give_up()
        else:
            with suppress(OSError):  # its bytes are on the disk already
                _files.close(self.file)

    def _give_up(self) -> None:
        """Removes and closes the file. Errors are ignored: a later save removes what cannot be removed now."""
        try:
            with suppress(OSError):
                _files.remove(self.path)
        finally:
            with suppress(OSError):
                _files.close(self.file)


class Replacement(NewFile):
    """A new file that replaces the target in one step, once it is complete."""

    def __init__(self, target: Path) -> None:
        self.target = target
        stem = shared_stem(target)
        sweep(target.parent, re.compile(rf"\.{re.escape(stem)}\.[0-9a-f]{{8}}\.tmp"))
        super().__init__(target.parent, lambda token: f".{stem}.{token}.tmp", target)

    def commit(self, others: Iterable[NewFile] = ()) -> None:
        """Replaces the target with this file, whose bytes are synced already. On return the name is synced too.

        Args:
            others: the files that this one names, to be kept with it.
        """
        files = (self, *others)
        for each in files:  # first: Ctrl-C right after the rename must not remove them; without it they are swept later
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


#: The hint of an error that comes after the rename.
LOST_BY_POWER = "the new file is in place already, but a power cut could still undo that; save again"


def shared_stem(target: Path) -> str:
    """Returns the beginning of the names of a target's temporary files and shards.

    It is the name of the target, or a digest if that is too long or, unlike the text of an index, not valid Unicode.
    """
    name = os.fsencode(target.name)
    try:
        if len(name) <= 150 and target.name.encode():
            return target.name
    except UnicodeEncodeError:
        return digest_of(name)
    return f"{target.name[:20]}-{digest_of(name)}"


def sweep(folder: Path, pattern: re.Pattern[str], needed: Callable[[], Container[str]] = tuple) -> None:
    """Removes the files that a killed save has left. A file of a running save is locked.

    Args:
        folder: the folder to sweep.
        pattern: matches the names of the files to remove.
        needed: returns the names that must stay; called once a file is locked, since its save may have just ended.
    """
    # One sweep at a time: a sweep locks the file that it looks at, and another one would take that for a running save.
    turn = _files.open_file(folder)
    try:
        with suppress(OSError):  # a file system without locks: go on
            if not _files.wait_for(turn, _PATIENCE):
                return  # another process keeps the folder locked: a later save removes the leftovers
        for name in _files.names(folder):
            if pattern.fullmatch(name):
                with suppress(OSError):  # not permitted, or another process removed it
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
