"""A pool: one file of variables that processes share."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays.dtypes import STORED
from .._arrays.types import HostArray
from ..errors import DTypeError
from . import forks
from .durable import begin, check_mode, checksum, flush, recover, sync
from .durable import synced as noted
from .entry import Siblings, stride_of
from .layout import (
    CURRENT,
    DECIDED,
    DIRTY,
    HEAD,
    OFFSETS,
    PAGE,
    RECORD,
    SLOTS,
    SMALL,
    SUMS,
    SYNCED,
    TRANSACTION,
    UNMADE,
    VERSIONS,
    Block,
    Header,
    damaged,
    new_transaction,
    open_offset,
    quiet_of,
    rounded,
    salts_of,
    sealed_offset,
    stamp_of,
)
from .memory import words_of
from .opened import Opened
from .record import Record
from .room import descriptors

__all__ = ["New", "Pool"]


class New:
    """A variable that is to be added to a pool.

    Attributes:
        path: its path in the pool.
        value: its first value.
        dtype: the canonical name of its dtype.
        version: its first version.
        facts: what else is to be known of it, as JSON has it.
    """

    __slots__ = ("dtype", "facts", "path", "value", "version")

    def __init__(self, path: str, value: HostArray, dtype: str, version: int = 0, facts: Any = None) -> None:
        self.path, self.value, self.dtype, self.version = path, value, dtype, version
        self.facts: dict[str, Any] = facts or {}

    def meta(self) -> dict[str, Any]:
        """What the index of the pool says of it.

        Raises:
            DTypeError: its values have no fixed size.
        """
        dtype = STORED[self.dtype]
        if dtype.hasobject or dtype.kind == "T":
            hint = "keep the text in a variable of its own that is not shared"
            raise DTypeError.of("share", f"values of dtype {self.dtype} have no fixed size", self.path, hint)
        return {"path": self.path, "dtype": self.dtype, "shape": list(self.value.shape), "facts": self.facts}


class Pool:
    """A pool that is open in this process.

    Two objects on the same file are as two processes: the claims of one exclude those of the other.

    Attributes:
        name: what errors call it.
        place: where the file is.
        id: a random text that is in the file.
        durable: ``"no"``, ``"sync"`` (when `sync` is called) or ``"commit"`` (at each write).
        records: its variables, by path.
    """

    def __init__(self, fd: int, place: Any) -> None:
        self.place: Any = place
        self.name: str = place.name
        self.opened = Opened(fd, place)
        header = Header.decode(os.pread(fd, PAGE, 0), self.name)
        self.id, self.durable = header.pool, header.durable
        self._salt = int(self.id, 16)
        self.records: dict[str, Record] = {}
        self.siblings = Siblings(self.refresh)
        array, _, _ = self.opened.view(0, PAGE)
        self._head = words_of(array, 0, PAGE)
        self._known = 0
        self.refresh()
        recover(self)
        forks.register(self)

    @classmethod
    def create(cls, place: Any, new: Sequence[New], *, durable: str = "no") -> Pool:
        """Makes the file of a pool, which appears whole, with all its variables, or not at all.

        Raises:
            FileExistsError: there is one already.
            StorageError: there is no room for it.
            ValueError: a pool in memory cannot be durable.
        """
        check_mode(durable, place)
        header = Header(secrets.token_hex(16), durable)
        index = [each.meta() for each in new]
        block = Block(PAGE, 0, 0, index)
        block.end = block.slots + rounded(_room(new))
        with descriptors("share", place.name):
            fd, finish = place.create_file(block.end)
            try:
                opened = Opened(os.dup(fd), place)
                array, _, _ = opened.view(0, block.end)
                _write_block(array, PAGE, block, new, header.pool, durable != "no")
                text = header.encode()
                array[: len(text)] = np.frombuffer(text, np.uint8)
                head = words_of(array, 0, PAGE)
                head[HEAD] = sealed_offset(PAGE, int(header.pool, 16))
                begin(head, header.pool)
                finish(sync=durable != "no")
                return cls(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC), place)
            finally:
                os.close(fd)

    @classmethod
    def open(cls, place: Any) -> Pool:
        """Opens the file of a pool.

        Raises:
            FileNotFoundError: there is none.
            SharedError: it is damaged, cut short, of another layout, or others may write it.
        """
        with descriptors("attach", place.name):
            return cls(place.open_file(), place)

    def again(self) -> Pool:
        """Opens the same file once more, also if its name is gone or another pool has it by now."""
        with descriptors("attach", self.name):
            return type(self)(os.open(f"/proc/self/fd/{self.opened.memory.fd}", os.O_RDWR | os.O_CLOEXEC), self.place)

    def add(self, new: Sequence[New]) -> None:
        """Adds variables, all or none. A path that is there by now stays as it is.

        Raises:
            StorageError: there is no room for them.
        """
        with self.opened.growing():
            at = self.siblings.used()
            wanted = [each for each in new if each.path not in self.records]
            if not wanted:
                return
            index = [each.meta() for each in wanted]
            block = Block(at, self._known, len(self.siblings.by_number), index)
            block.end = block.slots + rounded(_room(wanted))
            self.opened.place.grow(self.opened.claims.fd, at, block.end - at)
            array, start, _ = self.opened.view(at, block.end - at)
            _write_block(array, start, block, wanted, self.id, self.durable != "no")
            if self.durable != "no":
                flush(self.opened)
            self._head[HEAD] = sealed_offset(at, self._salt)  # the commit of all of them
        self.refresh()

    def refresh(self) -> None:
        """Finds the variables that other processes have added.

        Raises:
            SharedError: the list of them is damaged.
        """
        with self.opened.lock:
            at = open_offset(self._head[HEAD], self._salt)
            if at is None:
                raise damaged(self.name, "the word that says where its variables are is unreadable")
            blocks: list[Block] = []
            while at != self._known:
                if at < self._known or not at:
                    raise damaged(self.name, "its list of variables is broken")
                block = Block.decode(self.opened.read, at, self.opened.size(), self.id, self.name)
                blocks.append(block)
                at = block.previous
            for block in reversed(blocks):
                self._take(block)

    def _take(self, block: Block) -> None:
        numbered = self.siblings.by_number
        del numbered[block.first :]  # of a block that an interrupt has left half taken
        if block.first != len(numbered):
            raise damaged(self.name, "its list of variables is broken")
        taken = [
            Record(self, block.first + position, block.records + position * RECORD, meta)
            for position, meta in enumerate(block.index)
        ]
        numbered.extend(taken)
        self.records.update((record.path, record) for record in taken)
        self.siblings.end = block.end
        self._known = block.at

    def sync(self) -> None:
        """Returns when the values of this moment, or later ones, are on the disk; see `durable.sync`."""
        sync(self)

    # Forks

    def before_fork(self) -> None:
        self.opened.before_fork()

    def in_parent(self) -> None:
        self.opened.in_parent()

    def in_child(self) -> None:
        for each in self.siblings.by_number:
            each.owner, each.turn = None, threading.RLock()
        self.opened.in_child()


def first_slots(nbytes: int) -> int:
    """How many slots a value has at first. A reader that copies has as many writes' time, less one, for it."""
    return 4 if nbytes < SMALL else 2


def _room(new: Sequence[New]) -> int:
    """The bytes of the first slots of some variables, and what lies between them."""
    return sum(rounded(first_slots(each.value.nbytes) * stride_of(each.value.nbytes)) for each in new)


def _write_block(array: HostArray, start: int, block: Block, new: Sequence[New], pool: str, synced: bool) -> None:
    """Writes a block with its first values into memory of which ``array[start]`` is its first byte."""
    text = block.encode(pool)
    array[start : start + len(text)] = np.frombuffer(text, np.uint8)
    at = block.slots
    for position, each in enumerate(new):
        begin = start + block.records - block.at + position * RECORD
        words = words_of(array, begin, RECORD)
        for word in range(RECORD // 8):
            words[word] = 0
        index, nbytes = block.first + position, each.value.nbytes
        salts = salts_of(pool, index)
        stride = stride_of(nbytes)
        for slot in range(SLOTS):
            words[VERSIONS + slot] = UNMADE
        for slot in range(first_slots(nbytes)):
            words[VERSIONS + slot] = DIRTY
            words[OFFSETS + slot] = sealed_offset(at + slot * stride, salts[slot])
        words[VERSIONS] = stamp_of(each.version, salts[0])
        words[CURRENT] = each.version
        words[TRANSACTION], words[DECIDED] = quiet_of(pool, index), new_transaction(salts[0])
        value = np.ndarray(each.value.shape, STORED[each.dtype], array, start + at - block.at)
        value[...] = each.value
        if synced:  # as the first generation, or as what was added to the last one
            words[SYNCED] = words[SYNCED + 1] = noted(0, each.version)
            words[SUMS] = checksum(value.reshape(-1).view(np.uint8).data if nbytes else b"", each.version)
        at += rounded(first_slots(nbytes) * stride)
