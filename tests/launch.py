"""Starts several local processes of one program, as a cluster would: with the environment that their engine reads.

Tests and benchmarks use it, so it imports nothing but the standard library. Nothing is left behind: whoever leaves the
`Group` ends what still runs, and a process whose parent has ended in whatever way ends by itself.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

#: The folder of the project, where the programs run.
ROOT = Path(__file__).parents[1]
#: Seconds after which something hangs.
LIMIT = 120.0
#: Seconds that the others get to end by themselves once one process has failed.
GRACE = 10.0
#: Characters that are shown of what a process has printed.
SHOWN = 3000


@dataclass(frozen=True)
class Ended:
    """What became of one process."""

    index: int
    status: int | None  #: of the exit; negative: the signal that ended it; None: it had to be ended, it was late
    out: str
    err: str

    def __str__(self) -> str:
        how = "was late" if self.status is None else f"ended with {self.status}"
        return f"process {self.index} {how}\n{self.out[-SHOWN:]}\n{self.err[-SHOWN:]}"


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on, each another one."""
    with ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


def environments(library: str, count: int, devices: int = 1) -> list[dict[str, str]]:
    """What a cluster sets for each of its processes.

    Args:
        library: jax, torch or tensorflow, or "" for none.
        devices: the virtual devices of each process, of JAX.
    """
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1", "OMP_NUM_THREADS": "1"}
    if devices > 1:
        quiet["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    if count == 1 and library != "torch":
        return [quiet]
    ports = free_ports(count)
    workers = [f"localhost:{port}" for port in ports]
    found = []
    for index in range(count):
        own = dict(quiet)
        if library == "jax":
            own |= {
                "JAX_COORDINATOR_ADDRESS": workers[0],
                "JAX_NUM_PROCESSES": str(count),
                "JAX_PROCESS_ID": str(index),
                "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            }
        elif library == "torch":
            own |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(ports[0]), "WORLD_SIZE": str(count)}
            own |= {"LOCAL_WORLD_SIZE": str(count), "RANK": str(index), "LOCAL_RANK": str(index)}
        elif library == "tensorflow":
            task = {"type": "worker", "index": index}
            own["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
        found.append(own)
    return found


class Group:
    """Local processes that run one program.

    Args:
        arguments: of Python: a file and its arguments, or ``["-c", source]``.
        count: how many processes.
        library: jax, torch or tensorflow: the engine whose environment they get; "" for none.
        devices: the virtual devices of each process, of JAX.
        environment: what is set beside that.
        limit: seconds after which `wait` ends what still runs.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        count: int,
        *,
        library: str = "",
        devices: int = 1,
        environment: Mapping[str, str] | None = None,
        limit: float = LIMIT,
    ) -> None:
        self.limit = limit
        self._logs = tempfile.TemporaryDirectory()
        self.processes: list[subprocess.Popen[bytes]] = []
        paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        base = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        for index, own in enumerate(environments(library, count, devices)):
            with self._log(index, "out").open("wb") as out, self._log(index, "err").open("wb") as err:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tests.launch", *arguments],
                    env={**base, **own, **(environment or {})},
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,  # so that what a process has started can be ended with it
                )
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _log(self, index: int, stream: str) -> Path:
        return Path(self._logs.name) / f"{index}.{stream}"

    def printed(self, index: int) -> str:
        """What a process has written to its standard output so far."""
        return self._log(index, "out").read_text(errors="replace")

    def kill(self, index: int) -> None:
        """Ends a process at once, and what it has started."""
        process = self.processes[index]
        if process.poll() is None and hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None:
            process.kill()
        process.wait()

    def wait(self, grace: float | None = GRACE) -> list[Ended]:
        """Waits until all have ended.

        Args:
            grace: seconds that the others get once one has failed, which they would else wait for; None: the limit.
        """
        late: set[int] = set()
        until = time.monotonic() + self.limit
        while running := [index for index, each in enumerate(self.processes) if each.poll() is None]:
            if grace is not None and any(each.poll() for each in self.processes):
                until, grace = min(until, time.monotonic() + grace), None
            if time.monotonic() > until:
                late.update(running)
                for index in running:
                    self.kill(index)
            try:
                self.processes[running[0]].wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        return [
            Ended(
                index,
                None if index in late else each.returncode,
                self.printed(index),
                self._log(index, "err").read_text(errors="replace"),
            )
            for index, each in enumerate(self.processes)
        ]

    def close(self) -> None:
        """Ends what still runs, and removes what was printed."""
        for index, each in enumerate(self.processes):
            self.kill(index)
            if each.stdin is not None:
                each.stdin.close()
        self._logs.cleanup()


def run(arguments: Sequence[str], count: int, **options: Any) -> list[str]:
    """Runs a program on several processes to its end, and returns what each has printed; for ``options`` see `Group`.

    Raises:
        RuntimeError: one has failed or was late. It says which, and what it has printed.
    """
    with Group(arguments, count, **options) as group:
        ended = group.wait()
    if failed := [each for each in ended if each.status != 0]:
        raise RuntimeError("\n".join(map(str, failed)))
    return [each.out for each in ended]


def _run_here(arguments: Sequence[str]) -> None:
    """Runs a program in this process, which ends when its standard input closes: when the parent has ended."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(3)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in the background without it
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<program>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(arguments)
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _run_here(sys.argv[1:])
