"""The processes of jax.distributed, which speak through its coordination service."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from ..._arrays.launch import Launch, launch_of_slurm, number_in
from ..._arrays.world import Engine, World
from ...errors import ProcessError

__all__ = ["ENGINE", "JAXWorld"]

_ADDRESS, _COUNT, _INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
_SHORTEST = 1  # millisecond, since 0 would be no limit
_PREFIX = "statevar/"


def _state() -> Any:
    """What JAX knows of its processes; None if it has not been asked yet.

    JAX has no public way to its store. Its own libraries for checkpoints take this one.
    """
    return getattr(sys.modules.get("jax._src.distributed"), "global_state", None)


class JAXWorld(World):
    """This process among those of jax.distributed."""

    engine = "jax"

    def __init__(self, client: Any, index: int, count: int) -> None:
        super().__init__(index, count)
        self.client = client

    def is_over(self) -> bool:
        return _state() is None or _state().client is not self.client

    def _set(self, key: str, value: bytes) -> None:
        try:
            self.client.key_value_set_bytes(_PREFIX + key, value, allow_overwrite=True)
        except RuntimeError as error:
            raise self.gone(error) from error

    def _get(self, key: str, seconds: float) -> bytes | None:
        try:
            found: bytes
            if seconds <= 0 and hasattr(self.client, "key_value_try_get_bytes"):
                found = self.client.key_value_try_get_bytes(_PREFIX + key)
            else:
                wait = max(_SHORTEST, int(seconds * 1000))
                found = self.client.blocking_key_value_get_bytes(_PREFIX + key, wait)
        except RuntimeError as error:
            if str(error).startswith(("DEADLINE_EXCEEDED", "NOT_FOUND")):
                return None
            raise self.gone(error) from error
        return found

    def _delete(self, key: str) -> None:
        try:
            self.client.key_value_delete(_PREFIX + key)
        except RuntimeError as error:
            raise self.gone(error) from error


class _JAXEngine(Engine):
    """Whether JAX is meant is asked before anybody needs it, so only `start` imports it."""

    def __init__(self) -> None:
        self._world: JAXWorld | None = None

    def world(self) -> World | None:
        state = _state()
        if state is None or state.client is None:
            return None
        if self._world is None or self._world.client is not state.client:
            self._world = JAXWorld(state.client, state.process_id, state.num_processes)
        return self._world

    def asked(self, environment: Mapping[str, str]) -> int | None:
        launch = self._launch(environment)
        return None if launch is None else launch.count

    def start(self, environment: Mapping[str, str], seconds: float) -> None:
        jax: Any = import_module("jax")

        launch = self._launch(environment)
        assert launch is not None  # by the contract
        if jax.config.jax_cpu_collectives_implementation in (None, "", "none"):
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        try:
            # Slurm and Open MPI are known to JAX, which finds everything itself and also this process's devices.
            given = launch.arguments if _ADDRESS in environment else {}
            jax.distributed.initialize(**given, initialization_timeout=max(1, int(seconds)))
        except (RuntimeError, ValueError) as error:
            raise launch.failed(error, seconds) from error

    def stop(self) -> None:
        jax: Any = import_module("jax")

        jax.distributed.shutdown()
        self._world = None

    def _launch(self, environment: Mapping[str, str]) -> Launch | None:
        given = [each for each in (_ADDRESS, _COUNT, _INDEX) if each in environment]
        slurm = launch_of_slurm(environment)
        if slurm is None and all(each in environment for each in _MPI):
            count = number_in(environment, _MPI[0])
            slurm = Launch(number_in(environment, _MPI[1], below=count), count, "", 0, None)
        if not given:
            return slurm
        if given == [_ADDRESS] and slurm is not None:
            return slurm
        if len(given) < 3:  # all of them
            missing = [each for each in (_ADDRESS, _COUNT, _INDEX) if each not in given]
            raise ProcessError.of(
                "initialize",
                f"the environment has {', '.join(given)}, and not {', '.join(missing)}",
                hint="set all three, or call jax.distributed.initialize(address, count, index) first",
            )
        count = number_in(environment, _COUNT)
        index = number_in(environment, _INDEX, below=count)
        host, _, port = environment[_ADDRESS].rpartition(":")
        if not host or not port.isdigit():
            raise ProcessError.of(
                "initialize",
                f"expected an address with a port in {_ADDRESS}, got {environment[_ADDRESS]!r}",
                hint=f"{_ADDRESS}=10.0.0.1:1234, which is free in process 0",
            )
        return Launch(index, count, host, int(port), None)


ENGINE = _JAXEngine()
