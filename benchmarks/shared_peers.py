"""The ways to share an array and a counter between processes, each as its manual shows it.

All of them keep what they share in a folder of /dev/shm, or in memory without a name, so that no disk is measured.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

__all__ = ["PEERS", "Array", "Peer", "Statevar", "missing"]

Array = np.ndarray[Any, Any]

_FORK = multiprocessing.get_context("fork")
_MAP = 2 << 30  # bytes that LMDB may take
_LIFE = 300  # seconds of a server
_START = 20.0  # seconds that a server has to start


class Peer(ABC):
    """A counter, and an array of float32. Children get it by a fork."""

    modules: ClassVar[tuple[str, ...]] = ()
    program: ClassVar[str] = ""  #: that must be installed beside them
    #: Whether `view` gives memory that no later write changes, without a copy.
    has_view: ClassVar[bool] = False
    has_array: ClassVar[bool] = True

    def __init__(self, size: int) -> None:
        self.size = size
        self.folder = Path(f"/dev/shm/statevar-benchmark-{os.getpid()}")
        self.folder.mkdir(exist_ok=True)
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Makes them, with zeros."""

    def before_fork(self) -> None:
        """What the parent does before it forks."""

    def child(self) -> None:
        """What a process does after the fork."""

    @abstractmethod
    def add(self) -> None:
        """Adds one to the counter, as one step where there is such a thing."""

    @abstractmethod
    def count(self) -> int: ...

    @abstractmethod
    def put(self, value: Array) -> None: ...

    @abstractmethod
    def get(self) -> Array:
        """A copy, or what nobody changes any more."""

    def view(self) -> Array:
        raise NotImplementedError("it has no view that stays as it is")

    def close(self) -> None:
        """Removes what was made."""
        shutil.rmtree(self.folder, ignore_errors=True)


class _Mapped(Peer):
    """Memory of which both are views: the counter first."""

    def views(self, buffer: Any) -> None:
        self.counter = np.frombuffer(buffer, np.int64, 1)
        self.array = np.frombuffer(buffer, np.float32, self.size, 64)

    def add(self) -> None:
        self.counter[0] += 1

    def count(self) -> int:
        return int(self.counter[0])

    def put(self, value: Array) -> None:
        self.array[...] = value

    def get(self) -> Array:
        return self.array.copy()


class SharedMemory(_Mapped):
    def open(self) -> None:
        from multiprocessing.shared_memory import SharedMemory

        self.memory = SharedMemory(create=True, size=64 + 4 * self.size)
        self.views(self.memory.buf)
        self.array[...] = 0

    def close(self) -> None:
        del self.counter, self.array
        self.memory.close()
        self.memory.unlink()
        super().close()


class Memmap(_Mapped):
    def open(self) -> None:
        self.map = np.memmap(self.folder / "array", np.uint8, "w+", shape=(64 + 4 * self.size,))
        self.views(self.map)
        self.array[...] = 0


class Torch(Peer):
    modules = ("torch",)

    def open(self) -> None:
        import torch

        torch.set_num_threads(1)  # a child of a fork could not use more
        self.torch = torch
        share: Any = torch.Tensor.share_memory_
        self.counter = share(torch.zeros(1, dtype=torch.int64))
        self.array = share(torch.zeros(self.size))

    def add(self) -> None:
        self.counter += 1

    def count(self) -> int:
        return int(self.counter)

    def put(self, value: Array) -> None:
        self.array.copy_(self.torch.from_numpy(value))

    def get(self) -> Array:
        copied: Array = self.array.clone().numpy()
        return copied


class TorchLock(Torch):
    """As the tutorials have it."""

    def open(self) -> None:
        super().open()
        self.lock = _FORK.Lock()

    def add(self) -> None:
        with self.lock:
            super().add()

    def put(self, value: Array) -> None:
        with self.lock:
            super().put(value)

    def get(self) -> Array:
        with self.lock:
            return super().get()


class MpArray(Peer):
    def open(self) -> None:
        self.counter = _FORK.Value("q", 0)
        self.array = _FORK.Array("f", self.size)

    def add(self) -> None:
        with self.counter.get_lock():
            self.counter.value += 1

    def count(self) -> int:
        return int(self.counter.value)

    def put(self, value: Array) -> None:
        with self.array.get_lock():
            self._view()[...] = value

    def get(self) -> Array:
        with self.array.get_lock():
            return self._view().copy()

    def _view(self) -> Array:
        memory: Any = self.array.get_obj()
        return np.frombuffer(memory, np.float32)


class Manager(Peer):
    def open(self) -> None:
        multiprocessing.current_process().daemon = False  # else it may not start the manager's process
        self.manager = SyncManager(ctx=_FORK)
        self.manager.start(signal.alarm, (_LIFE,))  # it ends even if this program is killed
        self.lock = self.manager.Lock()
        self.shared: Any = self.manager.dict(counter=0, array=np.zeros(self.size, np.float32))

    def add(self) -> None:
        with self.lock:
            self.shared["counter"] += 1

    def count(self) -> int:
        return int(self.shared["counter"])

    def put(self, value: Array) -> None:
        self.shared["array"] = value

    def get(self) -> Array:
        array: Array = self.shared["array"]
        return array

    def close(self) -> None:
        self.manager.shutdown()
        super().close()


class SQLite(Peer):
    modules = ("sqlite3",)

    def open(self) -> None:
        self.child()
        self.database.execute("create table state (name text primary key, value blob)")
        self.database.execute("insert into state values ('counter', 0)")
        self.put(np.zeros(self.size, np.float32))

    def child(self) -> None:
        import sqlite3

        self.database = sqlite3.connect(self.folder / "state.db", isolation_level=None, timeout=30)
        self.database.execute("pragma journal_mode=wal")
        self.database.execute("pragma synchronous=off")

    def add(self) -> None:
        self.database.execute("update state set value = value + 1 where name = 'counter'")

    def count(self) -> int:
        return int(self._value("counter"))

    def put(self, value: Array) -> None:
        self.database.execute("insert or replace into state values ('array', ?)", (value,))

    def get(self) -> Array:
        return np.frombuffer(self._value("array"), np.float32)

    def _value(self, name: str) -> Any:
        return self.database.execute("select value from state where name = ?", (name,)).fetchone()[0]

    def close(self) -> None:
        self.database.close()
        super().close()


class LMDB(Peer):
    """Without sync, since memory does not have it. It must be opened after a fork."""

    modules = ("lmdb",)

    def open(self) -> None:
        self._process = 0
        with self._begin(write=True) as transaction:
            transaction.put(b"counter", b"0")
        self.put(np.zeros(self.size, np.float32))

    def _begin(self, *, write: bool = False) -> Any:
        if self._process != os.getpid():
            lmdb: Any = import_module("lmdb")
            self.store, self._process = lmdb.open(str(self.folder), map_size=_MAP, sync=False), os.getpid()
        return self.store.begin(write=write)

    def before_fork(self) -> None:
        self.store.close()
        self._process = 0

    def add(self) -> None:
        with self._begin(write=True) as transaction:
            transaction.put(b"counter", b"%d" % (int(transaction.get(b"counter")) + 1))

    def count(self) -> int:
        with self._begin() as transaction:
            return int(transaction.get(b"counter"))

    def put(self, value: Array) -> None:
        with self._begin(write=True) as transaction:
            transaction.put(b"array", value.tobytes())

    def get(self) -> Array:
        with self._begin() as transaction:
            return np.frombuffer(transaction.get(b"array"), np.float32)

    def close(self) -> None:
        if self._process == os.getpid():
            self.store.close()
        super().close()


class Redis(Peer):
    modules = ("redis",)
    program = "redis-server"

    def open(self) -> None:
        options = ["--port", "0", "--unixsocket", str(self.folder / "socket"), "--save", "", "--dir", str(self.folder)]
        command = ["timeout", str(_LIFE), self.program, *options]  # it ends even if this program is killed
        quiet = subprocess.DEVNULL
        self.server = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        end = time.monotonic() + _START
        while not (self.folder / "socket").exists():
            if time.monotonic() > end or self.server.poll() is not None:
                raise RuntimeError("the server has not started")
            time.sleep(0.01)
        self.child()
        self.client.set("counter", 0)
        self.put(np.zeros(self.size, np.float32))

    def child(self) -> None:
        redis: Any = import_module("redis")
        self.client = redis.Redis(unix_socket_path=str(self.folder / "socket"))

    def add(self) -> None:
        self.client.incr("counter")

    def count(self) -> int:
        return int(self.client.get("counter"))

    def put(self, value: Array) -> None:
        self.client.set("array", value.tobytes())

    def get(self) -> Array:
        return np.frombuffer(self.client.get("array"), np.float32)

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()
        super().close()


class UltraDict(Peer):
    modules = ("UltraDict", "atomics", "psutil")

    def open(self) -> None:
        module: Any = import_module("UltraDict")
        self.name = f"statevar{os.getpid()}"
        self.dict = module.UltraDict(
            name=self.name, shared_lock=True, buffer_size=1 << 16, full_dump_size=8 * self.size + (1 << 20)
        )
        self.dict["counter"] = 0
        self.put(np.zeros(self.size, np.float32))

    def child(self) -> None:
        module: Any = import_module("UltraDict")
        self.inherited = self.dict  # which would remove the memory if it were collected here
        self.dict = module.UltraDict(name=self.name, shared_lock=True)

    def add(self) -> None:
        with self.dict.lock:
            self.dict["counter"] += 1

    def count(self) -> int:
        return int(self.dict["counter"])

    def put(self, value: Array) -> None:
        self.dict["array"] = value

    def get(self) -> Array:
        array: Array = self.dict["array"]
        return array

    def close(self) -> None:
        self.dict.unlink()
        super().close()


class Atomics(Peer):
    """Bytes that are added to without a lock; it has no arrays."""

    modules = ("atomics",)
    has_array = False

    def open(self) -> None:
        from multiprocessing.shared_memory import SharedMemory

        self.atomics: Any = import_module("atomics")
        self.memory = SharedMemory(create=True, size=64)
        self.bytes: Any = self.memory.buf

    def add(self) -> None:
        with self.atomics.atomicview(buffer=self.bytes[:8], atype=self.atomics.INT) as counter:
            counter.inc()

    def count(self) -> int:
        return int.from_bytes(self.bytes[:8], "little")

    def put(self, value: Array) -> None:
        raise NotImplementedError("it has numbers and no arrays")

    def get(self) -> Array:
        raise NotImplementedError("it has numbers and no arrays")

    def close(self) -> None:
        self.bytes.release()
        self.memory.close()
        self.memory.unlink()
        super().close()


class Statevar(Peer):
    """Both in one pool with a name."""

    modules = ("statevar",)
    has_view = True

    def open(self) -> None:
        import statevar as sv

        self.sv, self.name = sv, f"benchmark-{os.getpid()}"
        self.counter = sv.Variable(np.zeros((), np.int64), name="counter")
        self.array = sv.Variable(np.zeros(self.size, np.float32), name="array")
        sv.share({"counter": self.counter, "array": self.array}, self.name)

    def add(self) -> None:
        self.counter.assign_add(1)

    def count(self) -> int:
        return int(self.counter)

    def put(self, value: Array) -> None:
        self.array.assign(value)

    def get(self) -> Array:
        return self.view().copy()

    def view(self) -> Array:
        value: Array = self.array.value
        return value

    def close(self) -> None:
        self.sv.shared.unlink(self.name)
        super().close()


#: In the order of the table.
PEERS: dict[str, type[Peer]] = {
    "SharedMemory + NumPy": SharedMemory,
    "numpy.memmap": Memmap,
    "torch share_memory_": Torch,
    "torch + mp.Lock": TorchLock,
    "mp.Array": MpArray,
    "Manager": Manager,
    "UltraDict": UltraDict,
    "atomics": Atomics,
    "SQLite WAL": SQLite,
    "LMDB": LMDB,
    "Redis": Redis,
    "statevar": Statevar,
}


def missing() -> dict[str, str]:
    """The peers of which something is not installed, and what."""
    found = {}
    for name, kind in PEERS.items():
        lacks = [module for module in kind.modules if find_spec(module) is None]
        lacks += [kind.program] if kind.program and shutil.which(kind.program) is None else []
        if lacks:
            found[name] = f"no {', '.join(lacks)}"
    return found
