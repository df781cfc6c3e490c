"""The same faults for each way to share state between processes. Each process that is started has a time limit."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from shared_peers import PEERS, Peer

__all__ = [
    "FAULTS",
    "FULL",
    "QUICK",
    "Children",
    "Effort",
    "adds",
    "memory",
    "numbers",
    "until",
    "with_shared_memory_of",
]

_FORK = multiprocessing.get_context("fork")
_LIMIT = 120  # seconds of a child's life
_HANGS = 3.0  # seconds without any progress
_MEGABYTE = 1 << 20
_MEDIUM = 1 << 18  # float32 elements: 1 MiB
_READ = 1 << 22  # 16.8 MB


@dataclass(frozen=True)
class Effort:
    """How much is tried."""

    adds: int  #: of each of four processes
    limit: float  #: seconds for all of them
    reading: float  #: seconds of torn reads
    kills: int
    readers: int


FULL = Effort(adds=5000, limit=60.0, reading=4.0, kills=50, readers=32)
QUICK = Effort(adds=1000, limit=20.0, reading=1.0, kills=10, readers=8)

# -- processes -------------------------------------------------------------------------------------------------


def numbers(kind: Literal["b", "q", "d"], count: int) -> Any:
    """Zeros in memory that forked processes share. Nobody locks them: each has one writer."""
    sizes = {"b": ctypes.c_int8, "q": ctypes.c_int64, "d": ctypes.c_double}
    return _FORK.RawArray(sizes[kind], count)


class Children:
    """Forked processes. They are killed when the block ends, and by the kernel when they have lived for too long."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self.processes: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def start(self, job: Callable[..., object], *arguments: Any, at: int | None = None) -> Any:
        """Runs a job in a new process, which takes the place of another one, or is the last."""
        process = _FORK.Process(target=self._run, args=(job, arguments))
        process.start()
        if at is None:
            self.processes.append(process)
        else:
            self.processes[at] = process
        return process

    def _run(self, job: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(self._limit)
        code = 3
        try:
            job(*arguments)
            code = 0
        finally:
            os._exit(code)  # without what the parent would do at its end

    def finish(self, limit: float) -> int:
        """Waits, and kills those that have not ended. Returns how many those were."""
        end = time.monotonic() + limit
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        late = [process for process in self.processes if process.is_alive()]
        for process in late:
            process.kill()
            process.join()
        return len(late)


def private_memory() -> int:
    """Bytes that only this process has."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * sum(int(each) for each in re.findall(r"^Private_\w+:\s+(\d+) kB", rollup, re.MULTILINE))


def with_shared_memory_of(size: str, command: list[str]) -> list[str]:
    """The command with a /dev/shm of its own, which goes with it."""
    mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    become_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *become_root, "--mount", "sh", "-c", mount, "sh", *command]


@contextmanager
def _opened(name: str, size: int) -> Iterator[Peer]:
    peer = PEERS[name](size)
    try:
        peer.before_fork()
        yield peer
    finally:
        peer.close()


# -- the faults ------------------------------------------------------------------------------------------------


def adds(name: str, effort: Effort) -> str:
    """What four processes have added, of what they should have."""
    with _opened(name, 1) as peer, Children() as children:
        done = numbers("q", 4)

        def work(number: int) -> None:
            peer.child()
            for _ in range(effort.adds):
                peer.add()
                done[number] += 1

        start = time.perf_counter()
        for number in range(4):
            children.start(work, number)
        late = children.finish(effort.limit)
        seconds = time.perf_counter() - start
        ended = [process.exitcode for process in children.processes]
        text = f"{peer.count():,} of {sum(done):,}, {seconds:.2f} s"
        died = sum(code not in (0, -signal.SIGKILL) for code in ended)
        return text + f"; {died} of 4 died" * bool(died) + "; stopped" * bool(late)


def torn_reads(name: str, effort: Effort) -> str:
    """How many arrays of 1 MB had parts of two writes. Each write fills the array with one number."""
    with _opened(name, _MEDIUM) as peer, Children() as children:
        stop, found = numbers("b", 1), numbers("q", 3)

        def write() -> None:
            peer.child()
            fills = [np.full(_MEDIUM, number, np.float32) for number in range(8)]
            while not stop[0]:
                peer.put(fills[found[2] % len(fills)])
                found[2] += 1

        def read() -> None:
            peer.child()
            while not stop[0]:
                array = peer.view() if peer.has_view else peer.get()
                found[0] += bool(array.min() != array.max())
                found[1] += 1

        children.start(write)
        reader = children.start(read)
        reader.join(effort.reading)
        stop[0] = 1
        late = children.finish(10.0)
        died = sum(process.exitcode == 3 for process in children.processes)
        text = f"{found[0]:,} of {found[1]:,} ({found[2]:,} writes)"
        return text + "; hangs" * bool(late) + f"; {died} died" * bool(died)


def kills(name: str, effort: Effort) -> str:
    """Whether the others go on when a worker is killed, and whether the array is whole in the end."""
    with _opened(name, _MEDIUM) as peer, Children() as children:
        draw, progress, found = random.Random(1), numbers("q", 3), numbers("q", 2)

        def work(number: int) -> None:
            peer.child()
            fills = [np.full(_MEDIUM, each, np.float32) for each in range(8)]
            while True:
                peer.add()
                peer.put(fills[progress[number] % len(fills)])
                progress[number] += 1

        def look() -> None:
            peer.child()
            peer.add()
            array = peer.get()
            found[1] = int(array.min() != array.max())
            found[0] = 1

        for number in range(3):
            children.start(work, number)
        until(lambda: all(progress), 10.0)
        outcome, crashed = "no hang", 0
        for killed in range(1, effort.kills + 1):
            number = draw.randrange(3)
            time.sleep(draw.random() * 0.03)
            children.processes[number].kill()
            children.processes[number].join()
            time.sleep(0.02)  # what was on its way is counted
            before, others = list(progress), [each for each in range(3) if each != number]
            if not until(lambda: any(progress[each] > before[each] for each in others), _HANGS):  # noqa: B023  # called at once
                outcome = f"all hang after kill {killed}"
                break
            for each in range(3):
                if not children.processes[each].is_alive():
                    crashed += each != number
                    children.start(work, each, at=each)
        for process in children.processes:
            process.kill()
            process.join()
        with Children() as last:
            last.start(look)
            hangs = last.finish(5.0)
        if hangs:
            end = "new processes hang"
        elif not found[0]:
            end = "a new process fails"
        else:
            end = "array torn" if found[1] else "array whole"
        return f"{outcome}, {end}" + f"; others crashed {crashed} times" * bool(crashed)


def memory(name: str, effort: Effort) -> str:
    """What each of many readers needs for itself, while all hold an array of 16.8 MB that no write changes."""
    with _opened(name, _READ) as peer, Children() as children:
        peer.put(np.ones(_READ, np.float32))
        peer.before_fork()
        used, read, go = numbers("q", effort.readers), numbers("b", effort.readers), numbers("b", 1)

        def hold(number: int) -> None:
            peer.child()
            before = private_memory()
            array = peer.view() if peer.has_view else peer.get()
            assert float(array.sum()) == _READ
            read[number] = 1
            until(lambda: go[0], 60.0)
            used[number] = max(1, private_memory() - before)
            until(lambda: all(used), 60.0)

        for number in range(effort.readers):
            children.start(hold, number)
        if not until(lambda: all(read) or any(each.exitcode for each in children.processes), 60.0) or not all(read):
            return "a reader fails"
        go[0] = 1
        children.finish(60.0)
        return f"{sum(used) / len(used) / 1e6:.1f} MB"


def left_over(name: str, effort: Effort) -> str:
    """What stays in /dev/shm, and which processes stay, when the program and its workers are killed."""
    before = set(_files())
    with Children() as children:
        ready, workers = numbers("b", 1), numbers("q", 2)

        def program() -> None:
            os.setsid()
            peer = PEERS[name](_MEDIUM)
            peer.before_fork()
            for number in range(2):
                worker = os.fork()
                if not worker:
                    signal.alarm(60)
                    peer.child()
                    while True:
                        peer.add()
                workers[number] = worker
            ready[0] = 1
            signal.pause()

        leader = children.start(program)
        assert leader.pid is not None
        if not until(lambda: ready[0] or not leader.is_alive(), 30.0) or not ready[0]:
            return "it does not start"
        time.sleep(0.3)  # the workers work
        for process in (leader.pid, *workers):
            os.kill(process, signal.SIGKILL)
        leader.join()
        time.sleep(2.0)  # a resource tracker tidies up
        stayed = [each for each in _session(leader.pid) if "resource_tracker" not in each[1]]
        kinds = sorted({_kind(path) for path in set(_files()) - before})
        for process, _ in _session(leader.pid):
            os.kill(process, signal.SIGKILL)
        for path in set(_files()) - before:
            path.unlink(missing_ok=True)
    return ", ".join(kinds + [f"a process ({command})" for _, command in stayed]) or "nothing"


def small_room(name: str, effort: Effort) -> str:
    """What happens when 100 MB are shared, and /dev/shm has 64 MB."""
    command = [sys.executable, "-c", _SMALL_ROOM, str(Path(__file__).parent), name]
    with subprocess.Popen(
        with_shared_memory_of("64m", command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            printed, _ = child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            return "hangs"
    if child.returncode < 0 or child.returncode > 128:
        number = abs(child.returncode) % 128
        return f"{printed.strip() or 'at creation'}: {signal.Signals(number).name}"
    return printed.strip().splitlines()[-1] if printed.strip() else f"exit status {child.returncode}"


_SMALL_ROOM = """
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from shared_peers import PEERS
try:
    peer = PEERS[sys.argv[2]](25_000_000)
    print("created", flush=True)
    peer.put(np.ones(25_000_000, np.float32))
    print("written", flush=True)
except Exception as error:
    print(f"{type(error).__name__}: {str(error)[:90]}".replace(chr(10), " ").replace("|", "/"), flush=True)
os._exit(0)
"""


def until(condition: Callable[[], object], patience: float) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


def _files() -> list[Path]:
    return [path for path in Path("/dev/shm").rglob("*") if not path.is_dir()]


def _kind(path: Path) -> str:
    if path.name.startswith("sem."):
        return "a semaphore"
    return "a segment" if path.parent == Path("/dev/shm") else "its file"


def _session(leader: int) -> list[tuple[int, str]]:
    """The processes of a session, and their commands."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append((int(entry.name), Path(command.partition(" ")[0]).name))
    return found


#: The columns of the table.
FAULTS: dict[str, Callable[[str, Effort], str]] = {
    "4 processes add one: kept": adds,
    "torn reads of 1 MB": torn_reads,
    "SIGKILL of workers": kills,
    "private memory of a reader of 16.8 MB": memory,
    "left after SIGKILL of all": left_over,
    "100 MB in a /dev/shm of 64 MB": small_room,
}
