"""Processes of one program, as threads of this one: their store, and a library that spreads NumPy arrays over them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import statevar as sv
from statevar.backends import Piece, ShardedBackend
from tests.helpers import PATIENCE, let_pass
from tests.internals import HOST, get_backend, together, worlds


class Store:
    """Keys with values, which threads wait for."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.changed = threading.Condition()


class ThreadWorld(worlds.World):
    """A thread as a process among others."""

    engine = "threads"

    def __init__(self, store: Store, index: int, count: int) -> None:
        super().__init__(index, count)
        self._store = store

    def _set(self, key: str, value: bytes) -> None:
        with self._store.changed:
            self._store.values[key] = value
            self._store.changed.notify_all()

    def _get(self, key: str, seconds: float) -> bytes | None:
        with self._store.changed:
            self._store.changed.wait_for(lambda: key in self._store.values, seconds)
            return self._store.values.get(key)

    def _delete(self, key: str) -> None:
        with self._store.changed:
            self._store.values.pop(key, None)


_mine = threading.local()


class Processes:
    """So many processes, which do the same with their own objects, one call after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        monkeypatch.setattr(together, "current_world", lambda: getattr(_mine, "world", None) or worlds.current_world())
        self.store = Store()
        self.worlds = [ThreadWorld(self.store, index, count) for index in range(count)]

    @staticmethod
    def mine() -> int:
        """The number of the process that calls; -1 in a thread that is of none."""
        world = getattr(_mine, "world", None)
        return -1 if world is None else world.index

    def run(self, call: Callable[[int], Any]) -> list[Any]:
        """Calls it in each process, with its number. Returns the results; an error is the result of its process."""
        results: list[Any] = [None] * len(self.worlds)

        def process(index: int) -> None:
            _mine.world = self.worlds[index]
            try:
                results[index] = call(index)
            except BaseException as error:  # noqa: BLE001  # the test looks at it
                results[index] = error

        threads = [threading.Thread(target=process, args=(index,)) for index in range(len(self.worlds))]
        for each in threads:
            each.start()
        for each in threads:
            each.join(PATIENCE)
            assert not each.is_alive(), "a process hangs"
        return results

    def all(self, call: Callable[[int], Any]) -> list[Any]:
        """Calls it in each process; an error is raised here."""
        results = self.run(call)
        for each in results:
            if isinstance(each, BaseException):
                raise each
        assert not self.store.values, "keys were left in the store"
        return results


# -- arrays that are spread ----------------------------------------------------------------------------------------


class Sharding(NamedTuple):
    """How a process has an array: each axis in so many parts, dealt out over the processes."""

    parts: tuple[int, ...]
    process: int
    processes: int
    copies: bool = False  #: whether each block is in two processes

    def blocks(self, shape: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...], bool]]:
        """The offsets and sizes of the blocks of this process, and whether it is the first that has them."""
        cuts = (*self.parts, *(1,) * (len(shape) - len(self.parts)))
        edges = [[size * i // n for i in range(n + 1)] for size, n in zip(shape, cuts, strict=True)]
        found = []
        for number, each in enumerate(product(*(range(n) for n in cuts))):
            owners = [number % self.processes]
            if self.copies:
                owners.append((number + 1) % self.processes)
            if self.process in owners:
                offsets = tuple(edge[i] for edge, i in zip(edges, each, strict=True))
                stops = tuple(edge[i + 1] for edge, i in zip(edges, each, strict=True))
                sizes = tuple(b - a for a, b in zip(offsets, stops, strict=True))
                found.append((offsets, sizes, owners[0] == self.process))
        return found


class Array:
    """The blocks of an array that a process has."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, sharding: Sharding, blocks: dict[Any, Any]) -> None:
        self.shape, self.dtype, self.sharding, self.blocks = shape, dtype, sharding, blocks


class Handle:
    """The storage of a variable."""

    def __init__(self, array: Array) -> None:
        self.published = array


class SpreadNumPy(ShardedBackend, type(get_backend("numpy"))):  # type: ignore[misc]
    """As much of an adapter as checkpoints use."""

    adopt_cannot_fail = False
    reads_unlocked = False

    def sharding(self, spec: Any, mesh: Any) -> Any:
        return spec

    def problem_with(self, shape: Any, sharding: Any) -> str | None:
        too_many = len(sharding.parts) > len(shape)
        return f"it has {len(shape)} axes" if too_many else None

    def sharding_name(self, sharding: Any) -> str:
        return f"in {sharding.parts} parts"

    def pieces(self, array: Any) -> list[Any]:
        first = {offsets: first for offsets, _, first in array.sharding.blocks(array.shape)}
        return [Piece(offsets, block, first[offsets]) for offsets, block in array.blocks.items()]

    copies = pieces

    def from_pieces(self, shape: Any, dtype: str, sharding: Any, read: Any) -> Any:
        blocks = {offsets: read(offsets, sizes) for offsets, sizes, _ in sharding.blocks(shape)}
        return Array(shape, HOST[dtype], sharding, blocks)

    def spans(self, array: Any) -> bool:
        here: int = sum(block.size for block in array.blocks.values())
        return bool(here < math.prod(array.shape))

    def gather(self, array: Any) -> Any:
        raise NotImplementedError

    resharded = from_local = gather  # type: ignore[assignment]

    def operand(self, value: Any, dtype: Any) -> Any:
        return value if isinstance(value, Array) and value.dtype == dtype else None

    def create(self, array: Any, *, declared: Any, device: Any, trainable: bool) -> Any:
        return Handle(array)

    def fork(self, handle: Any, array: Any) -> Any:
        return Handle(handle.published if array is None else array)

    def device_of_handle(self, handle: Any) -> Any:
        return handle.published.sharding

    def savepoint(self, handle: Any) -> Any:
        return handle

    def put_back(self, handle: Any, savepoint: Any) -> Any:
        return savepoint

    def adopt(self, handle: Any, fork: Any) -> Any:
        return fork

    def prepare_adoption(self, handle: Any, fork: Any) -> bool:
        return False

    def snapshot(self, handle: Any) -> Any:
        return handle.published


SPREAD = SpreadNumPy()
SPREAD.native = get_backend("numpy")


def spread(value: np.ndarray[Any, Any], sharding: Sharding, **options: Any) -> sv.Variable:
    """A variable of which this process has its blocks."""
    variable = sv.Variable(value, **options)

    whole = variable.numpy()
    blocks = {
        offsets: whole[tuple(slice(a, a + n) for a, n in zip(offsets, sizes, strict=True))].copy()
        for offsets, sizes, _ in sharding.blocks(value.shape)
    }
    variable._placed(SPREAD, sharding, Handle(Array(value.shape, whole.dtype, sharding, blocks)))
    return variable


def has(variable: sv.Variable, whole: np.ndarray[Any, Any]) -> bool:
    """Whether a process has its blocks of a value, bit for bit."""
    if not variable._backend.is_sharded:
        same: bool = variable.numpy().tobytes() == whole.tobytes()
        return same
    array: Array = variable._handle.published
    expected = array.sharding.blocks(whole.shape)
    there = set(array.blocks) == {offsets for offsets, _, _ in expected}
    return there and all(
        array.blocks[offsets].tobytes()
        == np.ascontiguousarray(whole[tuple(slice(a, a + n) for a, n in zip(offsets, sizes, strict=True))]).tobytes()
        for offsets, sizes, _ in expected
    )


def write(variable: sv.Variable, value: Any = None) -> None:
    """Writes a number to all elements of a variable that is spread; or only counts a write, as if one were left out."""
    if value is not None:
        old: Array = variable._handle.published
        blocks = {offsets: np.full_like(block, value) for offsets, block in old.blocks.items()}
        variable._placed(SPREAD, old.sharding, Handle(Array(old.shape, old.dtype, old.sharding, blocks)))
    variable._version += 1


# -- processes without a library that starts them ----------------------------------------------------------------------


class FolderWorld(worlds.World):
    """A process among others whose store is a folder: each key is a file, which is there as a whole or not at all."""

    engine = "a folder"

    def __init__(self, folder: Path, index: int, count: int) -> None:
        super().__init__(index, count)
        self._folder = folder

    def _place(self, key: str) -> Path:
        return self._folder / key.replace("/", "+")

    def _set(self, key: str, value: bytes) -> None:
        aside = self._folder / f".{self.index}.{threading.get_ident()}"
        aside.write_bytes(value)
        aside.replace(self._place(key))

    def _get(self, key: str, seconds: float) -> bytes | None:
        end = time.monotonic() + seconds
        while True:
            with suppress(FileNotFoundError):
                return self._place(key).read_bytes()
            if time.monotonic() >= end:
                return None
            let_pass(0.002)

    def _delete(self, key: str) -> None:
        self._place(key).unlink(missing_ok=True)


def be_process(folder: Path, index: int, count: int) -> None:
    """Makes this process the one of that number."""
    world = FolderWorld(folder, index, count)
    world.heartbeat.start()
    vars(together)["current_world"] = lambda: world
