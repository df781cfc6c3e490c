"""The processes of a program that runs on several devices or machines: ``sv.distributed``.

Statevar starts no processes. A launcher does it (``torchrun``, ``srun``, a script), and `initialize` tells the library
of the arrays about it. A program that starts its library by itself need not call `initialize`.

>>> import statevar as sv
>>> sv.distributed.initialize()
>>> sv.distributed.process_index(), sv.distributed.process_count()
(0, 1)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container
from typing import TYPE_CHECKING

from ._arrays.heartbeat import set_dead_after
from ._arrays.registry import backend_names, get_backend
from ._arrays.world import barrier, current_world, engines, gather
from ._public import public
from .errors import ProcessError

if TYPE_CHECKING:
    from ._arrays.world import Engine

__all__ = ["initialize", "is_initialized", "process_count", "process_index", "shutdown"]


@public("statevar.distributed")
def initialize(backend: str | None = None, *, timeout: float = 300.0, dead_after: float | None = None) -> None:
    """Connects this process with the other processes of its program, as its environment says.

    Call it at the start of a program, in every process, before the first array is made. A program of one process has
    nothing to do, and a library whose engine runs already is left as it is; so a second call does nothing.

    What the environment has to say, for each library:

    - torch: ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``, which ``torchrun`` sets; or Slurm's
      ``srun``. A GPU is chosen by ``LOCAL_RANK``.
    - JAX: ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``; or Slurm's ``srun``, or Open MPI.
    - TensorFlow: ``TF_CONFIG``. It makes a ``tf.distribute.MultiWorkerMirroredStrategy``, which starts the engine.

    Args:
        backend: the library; by default the imported one, or the one that the environment speaks of.
        timeout: the seconds in which all processes have to start. Waits for the other processes of the program in torch
            and JAX; TensorFlow has a time of its own.
        dead_after: the seconds of silence after which the other processes take this one for dead, by default 20. A
            process that is busy is not silent, however long it takes.

    Raises:
        ProcessError: a part of the environment is missing or wrong, two libraries could be meant, or the other
            processes did not come.
        UnknownBackendError: there is no such backend.

    Source: ``torch.distributed.init_process_group`` and ``jax.distributed.initialize``, with the environments of both.

    >>> import statevar as sv
    >>> sv.distributed.initialize("torch")  # nothing, unless a launcher has set the environment
    """
    if dead_after is not None:
        set_dead_after(dead_after)
    if is_initialized():
        return
    name = _engine_asked(backend)
    if name is not None:
        engines(imported=False)[name].start(os.environ, timeout)
    current_world()  # begins to give signs of life


@public("statevar.distributed")
def is_initialized() -> bool:
    """Whether this process is connected with other processes of its program.

    Raises:
        ProcessError: two engines run, and do not agree on the processes.

    >>> import statevar as sv
    >>> sv.distributed.is_initialized()
    False
    """
    return current_world().count > 1


@public("statevar.distributed")
def process_index() -> int:
    """The number of this process among those of its program, from 0; 0 if it is the only one.

    Raises:
        ProcessError: two engines run, and do not agree on the processes.

    >>> import statevar as sv
    >>> sv.distributed.process_index()
    0
    """
    return current_world().index


@public("statevar.distributed")
def process_count() -> int:
    """The number of processes of this program; 1 if this is the only one.

    Raises:
        ProcessError: two engines run, and do not agree on the processes.

    >>> import statevar as sv
    >>> sv.distributed.process_count()
    1
    """
    return current_world().count


@public("statevar.distributed")
def shutdown(*, timeout: float = 300.0) -> None:
    """Waits until every process calls it, and ends the engine. Does nothing in a program of one process.

    The store through which processes speak is mostly in process 0. A program that calls `shutdown` at its end keeps
    process 0 from ending while others still need it.

    Args:
        timeout: the seconds to wait for the others.

    Raises:
        ProcessError: another process died or is late. The engine is ended all the same.

    >>> import statevar as sv
    >>> sv.distributed.shutdown()
    """
    world = current_world()
    if world.count == 1:
        return
    try:
        barrier(world, "shutdown", seconds=timeout)
        with contextlib.suppress(ProcessError):
            # Process 0 has the store, so it ends after the others have read from it.
            gather(world, "shutdown/read", b"", seconds=timeout)
    except ProcessError:
        world.heartbeat.stop()
        raise
    else:
        world.heartbeat.stop(tell=False)
    finally:
        for engine in engines().values():
            if engine.world() is not None:
                engine.stop()


def _engine_asked(backend: str | None) -> str | None:
    """The library whose engine the environment asks for; None if this program has one process."""
    if backend is not None and backend not in backend_names():
        get_backend(backend)  # raises the error for an unknown name
    counts = {name: engine.asked(os.environ) for name, engine in _candidates(backend).items()}
    asked = [name for name, count in counts.items() if count is not None]
    if not asked and (others := _asked_of_others(counts)):
        meant = backend or " and ".join(counts)
        raise ProcessError.of(
            "initialize",
            f"the environment starts {others}, and says nothing about the processes of {meant}",
            hint=f"set the variables of {meant} that help(sv.distributed.initialize) names, or pass the library "
            "whose processes they are",
        )
    several = [name for name in asked if (counts[name] or 1) > 1]
    if len(several) > 1:
        raise ProcessError.of(
            "initialize",
            f"the environment can start {' and '.join(several)}",
            hint=f"pass the one that is meant: sv.distributed.initialize({several[0]!r})",
        )
    return several[0] if several else None


def _candidates(backend: str | None) -> dict[str, Engine]:
    """The engines that may be meant: that of the library, or those of the imported libraries, or all."""
    if backend is not None:
        return {name: engine for name, engine in engines(imported=False).items() if name == backend}
    return engines() or engines(imported=False)


def _asked_of_others(known: Container[str]) -> str:
    """The processes that the environment starts for other libraries, for an error; empty if there are none."""
    for name, engine in engines(imported=False).items():
        if name not in known and (count := engine.asked(os.environ) or 1) > 1:
            return f"{count} processes of {name}"
    return ""
