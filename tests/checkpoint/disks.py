"""Disks that fail: what a power cut may leave of the operations that were done, and the k-th operation that fails.

Both stand behind `internals.files`, through which persistence does every file operation.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.internals import files

#: What a disk writes whole or not at all.
BLOCK = 512

#: What is in a folder: by name, the bytes of a file or what is in a folder. Sorted, so that equal ones are equal.
Tree: TypeAlias = tuple[tuple[str, Any], ...]

ROOT = 0

# -- what was done -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Write:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Change:
    """Of names in a folder, in one step: what each leads to from now on, if anything."""

    folder: int
    names: dict[str, int | None]


@dataclass(frozen=True)
class Sync:
    """Of a file: its bytes. Of a folder: its names."""

    node: int


@dataclass(frozen=True)
class New:
    """An empty file, or an empty folder, which no name leads to yet."""

    node: int
    is_folder: bool


@dataclass(frozen=True)
class Mark:
    """A save was begun, or it has returned."""

    generation: int
    returned: bool


Event: TypeAlias = Write | Change | Sync | New | Mark


class Recorder:
    """Does every operation in a folder that was empty, and keeps a log of them.

    A file is known by its inode, whatever its name, so that links and renames need no bookkeeping.

    Args:
        root: the folder that is the disk.
        without: operations that are left out, and do nothing: ``"sync"``.
    """

    def __init__(self, root: Path, without: Collection[str] = ()) -> None:
        self.log: list[Event] = []
        self._root = Path(os.path.realpath(root))
        self._without = without
        self._names: dict[int, dict[str, int]] = {ROOT: {}}
        self._by_inode: dict[tuple[int, int], int] = {}
        self._ids = count(1)
        self._lock = threading.Lock()

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """From now on, `_files` does what it does through us."""
        for name in ("create", "write", "sync", "sync_folder", "rename", "link", "remove", "make_folder"):
            patch.setattr(files, name, self._recorded(getattr(self, f"_{name}"), getattr(files, name), name))
        patch.setattr(files, "remove_folder", self._recorded(self._remove, files.remove_folder, "remove_folder"))

    def begin(self, generation: int) -> None:
        self.log.append(Mark(generation, returned=False))

    def end(self, generation: int) -> None:
        self.log.append(Mark(generation, returned=True))

    def _recorded(self, note: Callable[..., None], do: Callable[..., Any], name: str) -> Callable[..., Any]:
        def operation(*args: Any) -> Any:
            if name in self._without:
                return None
            with self._lock:
                result = do(*args)
                note(result, *args)
            return result

        return operation

    def _create(self, file: int, path: Path, _mode: int = 0) -> None:
        self._by_inode[files.identity(file)] = node = self._new(is_folder=False)
        self._change(path, node)

    def _write(self, written: int, file: int, buffers: Any, offset: int) -> None:
        data = b"".join(bytes(each) for each in buffers)[:written]
        self.log.append(Write(self._by_inode[files.identity(file)], offset, data))

    def _sync(self, _: None, file: int) -> None:
        self.log.append(Sync(self._by_inode[files.identity(file)]))

    def _sync_folder(self, _: None, folder: Path) -> None:
        self.log.append(Sync(self._node(folder)))

    def _rename(self, _: None, source: Path, target: Path) -> None:
        assert source.parent == target.parent, "only a rename in one folder is modelled"
        node = self._node(source)
        names = self._names[folder := self._node(source.parent)]
        del names[source.name]
        names[target.name] = node
        self.log.append(Change(folder, {source.name: None, target.name: node}))

    def _link(self, _: None, source: Path, target: Path) -> None:
        self._change(target, self._node(source))

    def _remove(self, _: None, path: Path) -> None:
        self._change(path, None)

    def _make_folder(self, _: None, path: Path) -> None:
        node = self._new(is_folder=True)
        self._names[node] = {}
        self._change(path, node)

    def _new(self, *, is_folder: bool) -> int:
        node = next(self._ids)
        self.log.append(New(node, is_folder))
        return node

    def _change(self, path: Path, node: int | None) -> None:
        names = self._names[folder := self._node(path.parent)]
        if node is None:
            del names[path.name]
        else:
            names[path.name] = node
        self.log.append(Change(folder, {path.name: node}))

    def _node(self, path: Path) -> int:
        node = ROOT
        for name in Path(os.path.realpath(path.parent), path.name).relative_to(self._root).parts:
            node = self._names[node][name]
        return node


# -- what a power cut may leave of it ------------------------------------------------------------------------


@dataclass
class _File:
    content: bytes
    #: Blocks that were written and are not surely on the disk.
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def bits(self) -> int:
        """One for each block, and one for the length of the file."""
        return len(self.pending) + 1 if self.pending else 0

    def after(self, choice: int) -> bytes:
        content = bytearray(self.content)
        for i, (offset, data) in enumerate(self.pending):
            if choice >> i & 1:
                content.extend(bytes(max(0, offset - len(content))))
                content[offset : offset + len(data)] = data
        if choice >> len(self.pending) & 1:  # it has its length, and zeros where nothing came
            end = max((offset + len(data) for offset, data in self.pending), default=0)
            content.extend(bytes(max(0, end - len(content))))
        return bytes(content)

    def sync(self) -> None:
        self.content = self.after(-1)
        self.pending = []


@dataclass
class _Folder:
    names: dict[str, int]
    pending: list[dict[str, int | None]] = field(default_factory=list)

    @property
    def bits(self) -> int:
        return len(self.pending)

    def after(self, choice: int) -> dict[str, int]:
        names: dict[str, int | None] = dict(self.names)
        for i, change in enumerate(self.pending):
            if choice >> i & 1:
                names.update(change)
        return {name: node for name, node in names.items() if node is not None}

    def sync(self) -> None:
        self.names = self.after(-1)
        self.pending = []


class Disk:
    """What is surely on it, and what may be: each bit of a choice says whether one more thing is.

    As POSIX has it: a block that was written may be there or not until its file is synced, and the length of the file
    as well; a name may be changed or not until its folder is synced, each change whole, and none waits for another.
    """

    def __init__(self) -> None:
        self._nodes: dict[int, _File | _Folder] = {ROOT: _Folder({})}

    def do(self, event: Event) -> None:
        if isinstance(event, New):
            self._nodes[event.node] = _Folder({}) if event.is_folder else _File(b"")
        elif isinstance(event, Sync):
            self._nodes[event.node].sync()
        elif isinstance(event, Change):
            folder = self._nodes[event.folder]
            assert isinstance(folder, _Folder)
            folder.pending.append(event.names)
        elif isinstance(event, Write):
            file = self._nodes[event.file]
            assert isinstance(file, _File)
            file.pending.extend(_blocks(event.offset, event.data))

    @property
    def bits(self) -> int:
        return sum(node.bits for node in self._nodes.values())

    def after(self, choice: int) -> Tree:
        """The whole disk, after a power cut that has left what the bits of ``choice`` say."""
        found: dict[int, Any] = {}
        for number, node in self._nodes.items():
            found[number] = node.after(choice & (1 << node.bits) - 1)
            choice >>= node.bits

        def tree(number: int) -> Any:
            content = found[number]
            if isinstance(content, bytes):
                return content
            return tuple(sorted((name, tree(child)) for name, child in content.items()))

        whole: Tree = tree(ROOT)
        return whole


def _blocks(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """The parts of a write of which each is there whole or not at all."""
    start = 0
    while start < len(data):
        stop = min(len(data), start + BLOCK - (offset + start) % BLOCK)
        yield offset + start, data[start:stop]
        start = stop


def choices(bits: int, limit: int, rng: random.Random) -> Iterator[int]:
    """All, or some: nothing and all of it, each alone, all but one, those before and after each, and random ones."""
    if 1 << bits <= limit:
        yield from range(1 << bits)
        return
    full = (1 << bits) - 1
    for i in range(bits):
        yield from (1 << i, full ^ 1 << i, (1 << i) - 1, full ^ (1 << i) - 1)
    for _ in range(limit):
        yield rng.getrandbits(bits)


@dataclass(frozen=True)
class Cut:
    """A disk after a power cut, and which saves had begun and returned before it; 0 is none."""

    disk: Tree
    begun: int
    returned: int


def power_cuts(log: list[Event], limit: int, rng: random.Random) -> list[Cut]:
    """Every different disk that a power cut after any operation may leave; at most ``limit`` were tried for each."""
    disk, begun, returned = Disk(), 0, 0
    cuts: dict[Cut, None] = {}
    for event in log:
        if isinstance(event, Mark):
            begun = event.generation
            returned = event.generation if event.returned else returned
        disk.do(event)
        for choice in choices(disk.bits, limit, rng):
            cuts.setdefault(Cut(disk.after(choice), begun, returned))
    return list(cuts)


def build(tree: Tree, folder: Path) -> None:
    """Makes it, in a folder that is not there yet."""
    folder.mkdir()
    for name, content in tree:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            build(content, folder / name)


def names_in(folder: Path) -> set[str]:
    """What is there now."""
    return {each.name for each in folder.iterdir()}


# -- the k-th operation fails ----------------------------------------------------------------------------------

#: The names in `_files` that are no operations of the system.
UNFAILING = ("kind_of_mode", "os_errors_as", "path_of", "require_posix", "storage_error")

#: Every operation of `_files` that asks the system: a new one fails in turn too.
OPERATIONS = tuple(name for name in files.__all__ if name not in UNFAILING)


class Fault:
    """Counts the operations, and makes one of them fail.

    Args:
        number: which, from 0.
        error: that it raises; ``None`` for a write, or a read, that does half of what it is asked.
        late: whether it is done before it raises.
    """

    def __init__(self, number: int, error: BaseException | None, *, late: bool = False) -> None:
        self.number = number
        self.error = error
        self.late = late
        self.done: list[str] = []
        self._lock = threading.Lock()

    @property
    def failed(self) -> str | None:
        """The operation that failed; None if there were not so many."""
        return self.done[self.number] if len(self.done) > self.number else None

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in OPERATIONS:
            patch.setattr(files, name, self._failing(name, getattr(files, name)))

    def _failing(self, name: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any) -> Any:
            with self._lock:
                mine = len(self.done) == self.number
                self.done.append(name)
            if not mine:
                return do(*args)
            if self.error is None:
                return do(*_halved(name, args))
            if self.late or name == "close":  # a file is closed whatever close says
                do(*args)
            raise self.error

        return operation


def _halved(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    if name == "write":
        file, buffers, offset = args
        first = memoryview(buffers[0]).cast("B")
        return file, [first[: max(1, len(first) // 2)]], offset
    if name == "read":
        file, buffer, offset = args
        return file, buffer[: max(1, len(buffer) // 2)], offset
    return args


def system_error(number: int) -> OSError:
    """As the system would tell of it."""
    return OSError(number, os.strerror(number))
