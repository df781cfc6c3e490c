"""The processes of torch.distributed, which speak through the store of its process group, never through the group."""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from datetime import timedelta
from importlib import import_module
from typing import Any

from ..._arrays.launch import Launch, launch_of_slurm, number_in
from ..._arrays.world import Engine, World
from ...errors import ProcessError

__all__ = ["ENGINE", "TorchWorld"]

_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_NUMBERS = ("RANK", "WORLD_SIZE")
_ANSWER = timedelta(seconds=30)  # within which a store does what needs no waiting
_SHORTEST, _LONGEST = 0.0005, 0.05  # seconds between two looks at a key


def _distributed() -> Any:
    return import_module("torch.distributed")


class TorchWorld(World):
    """This process among those of the default process group."""

    engine = "torch"

    def __init__(self, store: Any, index: int, count: int) -> None:
        super().__init__(index, count)
        # The store of process 0 has the server, which ends with the process group: nothing here may keep it.
        self._of = weakref.ref(store)
        dist = _distributed()
        below = store
        while isinstance(below, dist.PrefixStore):
            below = below.underlying_store
        self._address = (below.host, below.port) if isinstance(below, dist.TCPStore) else None
        self._own = threading.local()
        self._longest = max(_LONGEST, self.count / 10_000)  # the looks of many processes are many

    def is_of(self, store: Any) -> bool:
        """Whether it is the world of the process group that has this store."""
        return self._of() is store

    def is_over(self) -> bool:
        dist = _distributed()
        return not dist.is_initialized() or not self.is_of(dist.distributed_c10d._get_default_store())

    def _set(self, key: str, value: bytes) -> None:
        try:
            self._client().set(key, value)
        except RuntimeError as error:
            raise self.gone(error) from error

    def _get(self, key: str, seconds: float) -> bytes | None:
        begin = time.monotonic()
        try:
            # Not `wait`, which prints a warning each time that it ends without a value.
            while not self._client().check([key]):
                waited = time.monotonic() - begin
                if waited >= seconds:
                    return None
                time.sleep(min(max(waited / 10, _SHORTEST), self._longest, seconds - waited))
            found: bytes = self._client().get(key)
        except RuntimeError as error:
            raise self.gone(error) from error
        return found

    def _delete(self, key: str) -> None:
        try:
            self._client().delete_key(key)
        except RuntimeError as error:
            raise self.gone(error) from error

    def _client(self) -> Any:
        """A connection of this thread alone: one that somebody waits on, such as the program itself, is locked."""
        client = getattr(self._own, "client", None)
        if client is None:
            dist = _distributed()
            # torchrun keeps its store when it starts the processes again.
            prefix = f"statevar/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
            if self._address is None:
                return dist.PrefixStore(prefix, self._of())
            store = dist.TCPStore(*self._address, is_master=False, wait_for_workers=False, timeout=_ANSWER)
            client = self._own.client = dist.PrefixStore(prefix, store)
        return client


class _TorchEngine(Engine):
    """Whether torch is meant is asked before anybody needs it, so only `start` imports it."""

    def __init__(self) -> None:
        self._world: TorchWorld | None = None

    def world(self) -> World | None:
        dist = sys.modules.get("torch.distributed")
        if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_backend() == "fake":
            return None
        store = dist.distributed_c10d._get_default_store()
        if self._world is None or not self._world.is_of(store):
            self._world = TorchWorld(store, dist.get_rank(), dist.get_world_size())
        return self._world

    def asked(self, environment: Mapping[str, str]) -> int | None:
        launch = self._launch(environment)
        return None if launch is None else launch.count

    def start(self, environment: Mapping[str, str], seconds: float) -> None:
        import torch  # noqa: PLC0415  # see the class

        dist = _distributed()
        launch = self._launch(environment)
        assert launch is not None  # by the contract
        # What torch reads itself, such as the program that has started the processes, stays as it is.
        os.environ.setdefault("MASTER_ADDR", launch.host)
        os.environ.setdefault("MASTER_PORT", str(launch.port))
        if torch.cuda.is_available() and launch.local is not None:
            torch.cuda.set_device(launch.local % torch.cuda.device_count())
        try:
            wait = timedelta(seconds=seconds)
            store, rank, count = next(dist.rendezvous("env://", launch.index, launch.count, timeout=wait))
            dist.init_process_group(store=store, rank=rank, world_size=count)
        except (RuntimeError, ValueError) as error:
            raise launch.failed(error, seconds) from error

    def stop(self) -> None:
        dist = _distributed()
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()
        self._world = None

    def _launch(self, environment: Mapping[str, str]) -> Launch | None:
        given = [each for each in (*_NUMBERS, *_ADDRESS) if each in environment]
        if not set(_NUMBERS) & set(given):
            return launch_of_slurm(environment, *_ADDRESS)
        if len(given) < len(_NUMBERS) + len(_ADDRESS):
            missing = [each for each in (*_NUMBERS, *_ADDRESS) if each not in given]
            raise ProcessError.of(
                "initialize",
                f"the environment has {', '.join(given)}, and not {', '.join(missing)}",
                hint="start the program with torchrun, which sets all of them",
            )
        count = number_in(environment, "WORLD_SIZE")
        index = number_in(environment, "RANK", below=count)
        local = number_in(environment, "LOCAL_RANK") if "LOCAL_RANK" in environment else None
        return Launch(index, count, environment["MASTER_ADDR"], number_in(environment, "MASTER_PORT"), local)


ENGINE = _TorchEngine()
