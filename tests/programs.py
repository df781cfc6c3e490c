"""Programs of several processes: starts them, as a launcher would, and ends what is left of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.helpers import PATIENCE, ROOT

__all__ = ["END", "KILLED", "run_program", "started"]

KILLED = -signal.SIGKILL

#: The last line of a process that is not to wait for the others, as some libraries do at exit.
END = "\nsys.stdout.flush(); os._exit(0)\n"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, as the system says."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def environments(library: str, count: int) -> list[dict[str, str]]:
    """What the launcher of a library puts into the environment of each process."""
    ports = free_ports(count)
    found = []
    for index in range(count):
        if library == "torch":
            place = {"RANK": index, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0]}
        elif library == "jax":
            address = f"127.0.0.1:{ports[0]}"
            place = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": count, "JAX_PROCESS_ID": index}
        else:
            cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
            place = {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})}
        found.append({name: str(value) for name, value in place.items()})
    return found


@contextmanager
def started(library: str, count: int, code: str, **environment: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that run the same code, each with `LIBRARY` in its environment; none is left at the end."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    processes: list[subprocess.Popen[str]] = []
    try:
        processes.extend(
            subprocess.Popen(
                [sys.executable, "-c", "import os, sys\n" + code],
                env=os.environ | quiet | place | {"LIBRARY": library} | environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for place in environments(library, count)
        )
        yield processes
    finally:
        for each in processes:
            each.kill()
        for each in processes:
            each.communicate()


def run_program(
    library: str, count: int, code: str, codes: Sequence[int] | None = None, **environment: str
) -> list[str]:
    """Runs the code in each process to its end; returns what each has printed.

    Args:
        codes: the exit code of each process, which is 0 by default.
    """
    with started(library, count, code, **environment) as processes:
        printed = [each.communicate(timeout=PATIENCE)[0] for each in processes]
        ended = [each.returncode for each in processes]
    assert ended == list(codes or [0] * count), "\n".join(
        f"-- process {i} --\n{x[-3000:]}" for i, x in enumerate(printed)
    )
    return printed
