"""What saving and loading cost, beside writing and reading the same bytes, and beside other libraries.

Run ``python benchmarks/bench_checkpoint.py``, about half an hour; ``--quick`` for 100 MB in place of 1 GB, about five
minutes; ``--size MB`` for another size, ``--folder PATH`` for where to save, ``--only REGEX`` for the sections
(checksums, save, load, first, open, memory, stall, beside) in whose name it is found, ``--peers REGEX`` for the other
libraries. It prints Markdown tables. Nothing is asserted: a busy machine gives other figures.

Each library is in a process of its own, and takes turns with the raw thing: disks are fast at one time and slow at
another. A figure is the best of the rounds, in brackets their median; a ratio is that of the best, in brackets the
median of the rounds' ratios. Before a save, everything that others left to be written is on the disk.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from bench_concurrency import print_table
from bench_variable import machine, set_environment
from harness import Names, Workers, load
from peers_under_faults import SYSTEMS, System, versions

_CHUNK = 8 << 20
_MANY_BUFFERS = 1024  # that one preadv takes
_COUNTS = (4, 10_000)  # variables
_APART = 10  # variables of 4 MB, while a file takes 64 MB
_OURS = "statevar.save"
_MANAGER = "statevar.CheckpointManager"
_RAW = "raw"

#: What is on the disk for sure when the call returns: what strace shows an fsync of, with safetensors 0.8.0, torch
#: 2.13.0, Keras 3.15.1, TensorFlow 2.21.0 and Orbax 0.12.8. (ext4 begins to write when a file replaces another.)
_SYNCED = {
    _OURS: "all",
    "np.savez": "nothing",
    "safetensors.numpy.save_file": "nothing",
    "torch.save": "nothing",
    "keras .weights.h5": "nothing",
    "tf.train.Checkpoint.write": "nothing",
    "orbax StandardCheckpointer": "all but its metadata",
}
#: Whose loading notices a changed bit: `peers_under_faults.py`.
_CHECKED = {_OURS, "np.savez", "tf.train.Checkpoint.write"}


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    size: int  #: bytes of the state
    folder: Path
    rounds: int  #: with ours
    peer_rounds: int
    limit: float  #: of one row, in seconds; two rounds are always made
    seconds: float  #: of training in one round
    peers: str

    def systems(self) -> list[str]:
        """The other libraries."""
        return [name for name in _SYNCED if name != _OURS and re.search(self.peers, name)]


# -- the raw thing ---------------------------------------------------------------------------------------------


class Raw(System):
    """The bytes of all variables, one after the other."""

    file = "state.raw"

    def put(self, values: dict[str, Any]) -> None:
        self._sizes = [value.nbytes for value in values.values()]
        self._bytes = np.concatenate([value.reshape(-1).view(np.uint8) for value in values.values()])
        self._loaded: list[Any] = []

    def save(self, step: int) -> None:
        """To a new file, on the disk, in the place of the old one."""
        new = self.path.with_suffix(".new")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        view = memoryview(self._bytes)  # type: ignore[arg-type]  # NumPy's stubs omit Buffer for 3.11
        for start in range(0, len(view), _CHUNK):
            piece = view[start : start + _CHUNK]
            while len(piece):
                piece = piece[os.write(file, piece) :]
        os.fsync(file)
        os.close(file)
        new.replace(self.path)
        _sync(self.path.parent)

    def load(self) -> Any:
        """Into new buffers, one for each variable. The old ones live until then, as with anyone who replaces state."""
        new = [np.empty(size, np.uint8) for size in self._sizes]
        file = os.open(self.path, os.O_RDONLY)
        offset = 0
        for start in range(0, len(new), _MANY_BUFFERS):
            offset = _read(file, new[start : start + _MANY_BUFFERS], offset)
        os.close(file)
        self._loaded = new
        return new

    def checksum(self) -> str:
        """What `statevar` adds: XXH3, in pieces."""
        digest = import_module("xxhash").xxh3_128()
        view = memoryview(self._bytes)  # type: ignore[arg-type]  # as above
        for start in range(0, len(view), _CHUNK):
            digest.update(view[start : start + _CHUNK])
        text: str = digest.hexdigest()
        return text


def _read(file: int, buffers: list[Any], offset: int) -> int:
    views = [memoryview(buffer) for buffer in buffers]
    while views:
        count = os.preadv(file, views, offset)
        if not count:
            raise RuntimeError("the file is too short")
        offset += count
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if count:
            views[0] = views[0][count:]
    return offset


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# -- the names that statements use -----------------------------------------------------------------------------


def open_names(folder: Path, worker: str, size: int) -> Names:
    """The names of one worker. Its name says which system it is, and with how many variables: ``raw 4``."""
    name, _, count = worker.rpartition(" ")
    kind = Raw if name == _RAW else SYSTEMS[name]
    mine = folder / f"{re.sub(r'[^a-z0-9]', '_', worker)}_{size}"
    mine.mkdir(exist_ok=True)
    system = kind(mine, _values(size, int(count)))
    return {"s": system, "sync": partial(_sync_all, mine), "forget": partial(_forget, mine), "os": os}


def _values(size: int, count: int) -> dict[str, Any]:
    elements = max(1, size // 4 // count)
    noise = np.random.default_rng(0).random(elements, np.float32)  # some compress
    return {f"v{i}": noise + np.float32(i) for i in range(count)}


def _sync_all(folder: Path) -> None:
    """Puts on the disk what the library has left to the system: files, and the folders that name them."""
    for path in [folder, *folder.rglob("*")]:
        _sync(path)


def _forget(folder: Path) -> None:
    """The system's copies of the files in memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


@contextmanager
def _workers(effort: Effort, names: list[str], count: int, size: int | None = None) -> Iterator[Workers]:
    """Processes that hold the state, and their folder, which goes with them."""
    with tempfile.TemporaryDirectory(dir=effort.folder, ignore_cleanup_errors=True) as folder:
        workers = Workers([f"{name} {count}" for name in names], partial(open_names, Path(folder)))
        try:
            if not workers.missing:
                workers.open(effort.size if size is None else size)
            yield workers
        finally:
            workers.close()


# -- turns -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Seconds, one for each round."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    def text(self, unit: float = 1.0) -> str:
        return f"{self.best / unit:.3g} ({statistics.median(self.seconds) / unit:.3g})"

    def __add__(self, other: Figures) -> Figures:
        return Figures(tuple(a + b for a, b in zip(self.seconds, other.seconds, strict=True)))

    def over(self, other: Figures) -> str:
        ratios = [a / b for a, b in zip(self.seconds, other.seconds, strict=True)]
        return f"{self.best / other.best:.2f} ({statistics.median(ratios):.2f})"


def turns(jobs: dict[str, Callable[[], tuple[float, ...]]], rounds: int, limit: float) -> dict[str, list[Figures]]:
    """The figures of what each job returns. After a first round, which does not count."""
    got: dict[str, list[tuple[float, ...]]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    start = time.perf_counter()
    names = list(jobs)
    for done in range(rounds):
        if done >= 2 and time.perf_counter() - start > limit:
            break
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            got[name].append(jobs[name]())
    return {name: [Figures(each) for each in zip(*rows, strict=True)] for name, rows in got.items()}


def _save_job(workers: Workers, worker: str) -> Callable[[], tuple[float, ...]]:
    """Seconds until it returns, and until all is on the disk."""

    def job() -> tuple[float, ...]:
        workers.ask(worker, "evaluate", "os.sync()")
        returned = workers.ask(worker, "time", "s.save(1)", "pass", 1)
        return returned, returned + workers.ask(worker, "time", "sync()", "pass", 1)

    return job


def _time_job(workers: Workers, worker: str, statement: str, before: str = "None") -> Callable[[], tuple[float, ...]]:
    def job() -> tuple[float, ...]:
        workers.ask(worker, "evaluate", before)
        return (workers.ask(worker, "time", statement, "pass", 1),)

    return job


# -- save and load ---------------------------------------------------------------------------------------------


def print_rows(title: str, heads: list[str], rows: Iterable[list[str]]) -> None:
    """Each as soon as it is known."""
    print_table(title, heads, (row + [""] * (len(heads) - len(row)) for row in rows))


def _beside_raw(effort: Effort, count: int, measure: Callable[[Race], list[str]]) -> Iterator[list[str]]:
    """A row for each library, measured in turns with the raw thing."""
    for name in [_OURS, *effort.systems()]:
        with _workers(effort, [_RAW, name], count) as workers:
            rounds = effort.rounds if name == _OURS else effort.peer_rounds
            race = Race(workers, name, f"{name} {count}", f"{_RAW} {count}", rounds, effort.limit)
            yield [name, *(workers.missing.values() or measure(race))]


@dataclass(frozen=True)
class Race:
    """A library and the raw thing."""

    workers: Workers
    name: str
    worker: str
    raw: str
    rounds: int
    limit: float

    def run(self, **jobs: Callable[[], tuple[float, ...]]) -> dict[str, list[Figures]]:
        return turns(jobs, self.rounds, self.limit)


def print_save(effort: Effort) -> None:
    """Until the call returns, and until the state would survive a power cut."""
    heads = ["save", "returns, s", "/ raw", "synced", "all on disk, s", "/ raw", "/ (raw + checksum)", "target", "met"]
    for count in _COUNTS:
        title = f"save: {effort.size / 1e6:,.0f} MB in {count:,} variables"
        print_rows(title, heads, _beside_raw(effort, count, _save_cells))


def _save_cells(race: Race) -> list[str]:
    got = race.run(
        mine=_save_job(race.workers, race.worker),
        raw=_save_job(race.workers, race.raw),
        checksum=_time_job(race.workers, race.raw, "s.checksum()"),
    )
    (returns, durable), base = got["mine"], got["raw"][0]
    cells = [returns.text(), returns.over(base), _SYNCED[race.name], durable.text(), durable.over(base)]
    return [*cells, *_target(race.name, durable, base + got["checksum"][0])]


def _target(name: str, mine: Figures, base: Figures) -> list[str]:
    return [mine.over(base)] + (["≤ 1.1", _met(mine.best <= 1.1 * base.best)] if name == _OURS else [])


def print_load(effort: Effort) -> None:
    """Of a file that the system still has in memory, and of one that it has to read from the disk."""
    heads = [
        "load",
        "checks",
        "from the disk, s",
        "/ raw",
        "cached, s",
        "/ (raw + checksum)",
        "/ raw",
        "target",
    ]
    for count in _COUNTS:
        title = f"load: {effort.size / 1e6:,.0f} MB in {count:,} variables"
        print_rows(title, [*heads, "met"], _beside_raw(effort, count, _load_cells))


def _load_cells(race: Race) -> list[str]:
    for worker in (race.worker, race.raw):
        race.workers.ask(worker, "evaluate", "s.save(1)")
    mine, raw = (partial(_time_job, race.workers, worker, "s.load()") for worker in (race.worker, race.raw))
    cold = race.run(mine=mine(before="forget()"), raw=raw(before="forget()"))
    got = race.run(mine=mine(), raw=raw(), checksum=_time_job(race.workers, race.raw, "s.checksum()"))
    (loaded,), (base,), (checksum,) = got.values()
    cells = ["yes" if race.name in _CHECKED else "no", cold["mine"][0].text(), cold["mine"][0].over(cold["raw"][0])]
    return [*cells, loaded.text(), loaded.over(base + checksum), *_target(race.name, loaded, base)]


def _met(reached: bool) -> str:
    return "yes" if reached else "no"


# -- the first load of a process --------------------------------------------------------------------------------

# Memory that is new to a process takes longer to get than the bytes to read; `print_load` has it already.
_FIRST = {
    _OURS: """
import statevar as sv
model = {f"v{i}": sv.Variable(np.zeros(size // 4 // count, np.float32)) for i in range(count)}
load = lambda: sv.load(model, path)
sv.load  # imports it
""",
    _RAW: """
def load():
    arrays = [np.empty(size // 4 // count * 4, np.uint8) for _ in range(count)]
    file = os.open(path, os.O_RDONLY)
    offset = os.path.getsize(path) - sum(array.nbytes for array in arrays)
    for start in range(0, count, bench._MANY_BUFFERS):
        offset = bench._read(file, arrays[start : start + bench._MANY_BUFFERS], offset)
    os.close(file)
    return arrays
""",
}


def print_first(effort: Effort) -> None:
    """Of a cached file, in a new process: as a program loads that begins where another one ended."""
    heads = ["variables", "statevar.load, s", "/ raw", "target", "met"]
    print_rows(f"first: the first load of {effort.size / 1e6:,.0f} MB in a process", heads, _first_rows(effort))


def _first_rows(effort: Effort) -> Iterator[list[str]]:
    for count in _COUNTS:
        with _workers(effort, [_OURS], count) as workers:
            workers.ask(f"{_OURS} {count}", "evaluate", "s.save(1)")
            path = workers.ask(f"{_OURS} {count}", "evaluate", "s.path")
            jobs: dict[str, Callable[[], tuple[float, ...]]]
            jobs = {name: partial(_first_load, name, effort.size, count, path) for name in _FIRST}
            (mine,), (base,) = turns(jobs, effort.rounds, 10 * effort.limit).values()
            yield [f"{count:,}", mine.text(), *_target(_OURS, mine, base)]


def _first_load(name: str, size: int, count: int, path: Path) -> tuple[float]:
    source = (
        "import os, time, numpy as np, bench_checkpoint as bench\n"
        f"size, count, path = {size}, {count}, {str(path)!r}\n{_FIRST[name]}\n"
        "start = time.perf_counter()\nkept = load()\nprint(time.perf_counter() - start)"
    )
    command, here = [sys.executable, "-c", source], Path(__file__).parent
    return (float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=here).stdout),)


# -- opening ---------------------------------------------------------------------------------------------------

_OPENERS = {
    "sv.load(path)": "module('statevar').load(path).close()",
    "sv.load(path), one array": "module('statevar').load(path)['v1']",
    "safetensors.safe_open": "module('safetensors').safe_open(path, 'np').keys()",
}


def print_open(effort: Effort) -> None:
    """A file's names, dtypes and shapes, and one array of it."""
    heads = ["what, variables", "ms", "target", "met"]
    print_rows(f"open: a file of {effort.size / 1e6:,.0f} MB", heads, _open_rows(effort))


def _open_rows(effort: Effort) -> Iterator[list[str]]:
    for count in _COUNTS:
        with _workers(effort, [_OURS], count) as workers:
            if workers.missing:
                yield [_OURS, *workers.missing.values()]
                continue
            workers.ask(f"{_OURS} {count}", "evaluate", "s.save(1)")
            path = workers.ask(f"{_OURS} {count}", "evaluate", "s.path")
            for name, statement in _OPENERS.items():
                yield [f"{name}, {count:,}", *_open_cells(name, statement, path)]


def _open_cells(name: str, statement: str, path: Path) -> list[str]:
    code = compile(statement, "<benchmark>", "eval")
    seconds = []
    try:
        for _ in range(20):
            start = time.perf_counter()
            eval(code, {"module": import_module, "path": path})
            seconds.append(time.perf_counter() - start)
    except ImportError as error:
        return [str(error)]
    got = Figures(tuple(seconds))
    return [got.text(1e-3)] + (["≤ 5", _met(got.best <= 0.005)] if name == "sv.load(path)" else [])


# -- memory ----------------------------------------------------------------------------------------------------


def print_memory(effort: Effort) -> None:
    """The peak above what is resident before, while nobody writes."""
    heads = ["save", *(f"{count:,} variables, MB" for count in _COUNTS), "target", "met"]
    print_rows(f"memory: peak of saving {effort.size / 1e6:,.0f} MB", heads, _memory_rows(effort))


def _memory_rows(effort: Effort) -> Iterator[list[str]]:
    for name in [_OURS, *effort.systems()]:
        peaks = [_peak(effort, name, count) for count in _COUNTS]
        cells = [f"{peak / 1e6:,.1f}" if isinstance(peak, int) else peak for peak in peaks]
        met = all(isinstance(peak, int) and peak <= 64e6 for peak in peaks)
        yield [name, *cells, *(["≤ 64", _met(met)] if name == _OURS else [])]


def _peak(effort: Effort, name: str, count: int) -> int | str:
    with _workers(effort, [name], count) as workers:
        for problem in workers.missing.values():
            return problem
        extra = workers.ask(f"{name} {count}", "extra", "s.save(1)", "pass")
        return "unknown" if extra is None else int(extra)


# -- in the background -----------------------------------------------------------------------------------------


def print_stall(effort: Effort) -> None:
    """How long the call takes that begins to save in the background, while nothing else is saved."""
    cases = [(_MANAGER, 1000), (_MANAGER, 10_000), ("orbax CheckpointManager", 1000)]
    rows = (_stall_row(effort, *case) for case in cases if case[0] == _MANAGER or re.search(effort.peers, case[0]))
    heads = ["what, variables", "ms", "at worst", "for each 1000", "target", "met"]
    print_rows(f"stall: `manager.save(step)` of {effort.size / 10e6:,.0f} MB", heads, rows)


def _stall_row(effort: Effort, name: str, count: int) -> list[str]:
    worker = f"{name} {count}"
    with _workers(effort, [name], count, effort.size // 10) as workers:
        for problem in workers.missing.values():
            return [name, problem]
        seconds = []
        start = time.perf_counter()
        for step in range(1, 4 * effort.rounds):
            took = workers.ask(worker, "time", f"s.start({step})", "pass", 1)
            workers.ask(worker, "evaluate", "s.wait()")
            seconds += [took] if step > 2 else []  # the first ones make folders and threads
            if step > 5 and time.perf_counter() - start > effort.limit:
                break
    got = Figures(tuple(seconds))
    each = statistics.median(seconds) / count * 1e6
    row = [f"{name}, {count:,}", got.text(1e-3), f"{max(seconds) * 1e3:.3g}", f"{each:.2f}"]
    return row + (["≤ 1", _met(each <= 1)] if name == _MANAGER else [])


class Training:
    """Steps of a dense layer each: its gradient is two products, then its variable is written."""

    def __init__(self, size: int, folder: Path) -> None:
        import statevar as sv

        self._random = np.random.default_rng(0)
        count = max(2, size // (4 << 20))
        self.variables = {f"w{i}": sv.Variable(self._noise(1024, 1024) / 1024) for i in range(count)}
        # Those far apart after each other: a save writes all files again in which a variable has changed.
        self._in_turn = [v for i in range(_APART) for v in list(self.variables.values())[i::_APART]]
        self._x = self._noise(256, 1024)
        self.manager = sv.CheckpointManager(folder / "steps", self.variables, keep=2)
        self._steps = self._saves = 0

    def _noise(self, *shape: int) -> Any:
        return self._random.random(shape, np.float32)

    def run(self, seconds: float) -> tuple[float, float]:
        """What a step took, and how much of that its thread was at work: others may have had the processor."""
        first = self._steps
        start, busy = time.perf_counter(), time.thread_time()
        while time.perf_counter() - start < seconds:
            v = self._in_turn[self._steps % len(self._in_turn)]
            gradient = self._x.T @ (self._x @ v.value)
            gradient *= np.float32(1e-6)
            v.assign_sub(gradient)
            self._steps += 1
        steps = self._steps - first
        return (time.perf_counter() - start) / steps, (time.thread_time() - busy) / steps

    def save(self) -> None:
        self._saves += 1
        self.manager.save(self._saves)  # and not wait=True: nobody waits for it
        self.manager.wait()


def _run_beside(
    training: Training, seconds: float, save: Callable[[], None], saves: list[float]
) -> tuple[float, float]:
    """As `Training.run`, while a thread saves again and again; adds what the saves took."""
    done = threading.Event()

    def saver() -> None:
        while not done.is_set():
            start = time.perf_counter()
            save()
            saves.append(time.perf_counter() - start)

    thread = threading.Thread(target=saver)
    thread.start()
    got = training.run(seconds)
    done.set()
    thread.join()
    return got


def print_beside(effort: Effort) -> None:
    """Steps in the foreground: alone, beside saves of their variables, and beside somebody who writes as many bytes."""
    with tempfile.TemporaryDirectory(dir=effort.folder, ignore_cleanup_errors=True) as folder:
        training = Training(effort.size, Path(folder))
        raw = Raw(Path(folder), {"v": np.ones(effort.size // 4, np.float32)})
        saves: dict[str, list[float]] = {"beside saves": [], "beside raw saves": []}
        ways: dict[str, Callable[[], None]] = {"beside saves": training.save, "beside raw saves": lambda: raw.save(1)}

        def alone() -> tuple[float, ...]:
            os.sync()
            return training.run(effort.seconds)

        def beside(name: str) -> tuple[float, ...]:
            os.sync()
            return _run_beside(training, effort.seconds, ways[name], saves[name])

        jobs: dict[str, Callable[[], tuple[float, ...]]] = {"alone": alone}
        jobs |= {name: partial(beside, name) for name in ways}
        got = turns(jobs, effort.rounds, 10 * effort.limit)
        training.manager.close()
    base, base_busy = got["alone"]
    rows = []
    for name, (step, busy) in got.items():
        mine = saves.get(name, [])
        each = Figures(tuple(mine)).text() if mine else ""
        rows.append(
            [name, step.text(1e-3), step.over(base), busy.text(1e-3), busy.over(base_busy), str(len(mine)), each]
        )
    rows[1] += ["≤ 1.15", _met(got["beside saves"][0].best <= 1.15 * base.best)]
    heads = ["a step", "ms", "/ alone", "at work, ms", "/ alone", "saves", "s each", "target", "met"]
    print_rows(f"beside: a step of training while {effort.size / 1e6:,.0f} MB are saved again and again", heads, rows)


# -- checksums -------------------------------------------------------------------------------------------------

_CHECKSUMS: dict[str, Callable[[Any], object]] = {
    "zlib.crc32": zlib.crc32,
    "crc32c": lambda data: import_module("crc32c").crc32c(data),
    "google_crc32c": lambda data: import_module("google_crc32c").value(bytes(data)),
    "xxhash.xxh3_64": lambda data: import_module("xxhash").xxh3_64_intdigest(data),
    "xxhash.xxh3_128": lambda data: import_module("xxhash").xxh3_128_intdigest(data),
    "blake3": lambda data: import_module("blake3").blake3(data).digest(),
    "hashlib.blake2b": lambda data: hashlib.blake2b(data).digest(),
    "hashlib.sha256": lambda data: hashlib.sha256(data).digest(),
    "a copy of the bytes": bytes,
}


def print_checksums(effort: Effort) -> None:
    """One thread, on bytes that are in memory and not in a cache."""
    data = np.random.default_rng(0).bytes(100_000_000)
    view = memoryview(data)
    best = dict.fromkeys(_CHECKSUMS, float("inf"))
    absent = set()
    for _ in range(effort.rounds):
        for name, checksum in _CHECKSUMS.items():
            try:
                start = time.perf_counter()
                for offset in range(0, len(view), _CHUNK):
                    checksum(view[offset : offset + _CHUNK])
                best[name] = min(best[name], time.perf_counter() - start)
            except ImportError:
                absent.add(name)
    rows = [[name, "not installed" if name in absent else f"{0.1 / best[name]:.1f}"] for name in _CHECKSUMS]
    print_rows("checksums: GB/s, 8 MB at a time", ["what", "GB/s"], rows)


# -- the command -----------------------------------------------------------------------------------------------

_SECTIONS: dict[str, Callable[[Effort], None]] = {
    "checksums": print_checksums,
    "save": print_save,
    "load": print_load,
    "first": print_first,
    "open": print_open,
    "memory": print_memory,
    "stall": print_stall,
    "beside": print_beside,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, and 100 MB unless --size is given")
    parser.add_argument("--size", type=int, metavar="MB", help="of the state (default 1000)")
    parser.add_argument("--only", default="", metavar="REGEX", help=f"to find in {', '.join(_SECTIONS)}")
    parser.add_argument("--peers", default="", metavar="REGEX", help=f"to find in {', '.join(_SYNCED)}; '^$' for none")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to save")
    options = parser.parse_args()
    set_environment(1)
    os.environ["KERAS_BACKEND"] = "numpy"
    size = (options.size or (100 if options.quick else 1000)) * 1_000_000
    rounds, peer_rounds, limit, seconds = (3, 2, 10.0, 1.5) if options.quick else (9, 4, 45.0, 4.0)
    effort = Effort(size, options.folder, rounds, peer_rounds, limit, seconds, options.peers)
    print(f"{machine(1)} {versions()}.")
    start = time.perf_counter()
    for name, section in _SECTIONS.items():
        if re.search(options.only, name):
            began = time.perf_counter()
            section(effort)
            print(f"\n*{name}: {time.perf_counter() - began:.0f} s*", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s; load {load()} at the end.")


if __name__ == "__main__":
    main()
