"""Fourteen properties of variables that processes share, each with a figure and the bar that it has to meet.

Each row runs in a process of its own, and every process that it starts has a time limit.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from processes import race
from shared_faults import QUICK as FEW
from shared_faults import Children, memory, numbers, until, with_shared_memory_of
from shared_faults import adds as adds_of
from shared_peers import missing

import statevar as sv
from statevar.errors import ConflictError, SharedError, StorageError

__all__ = ["FULL", "QUICK", "ROWS", "Found", "Scale"]

_FORK = multiprocessing.get_context("fork")
_MEDIUM = 1 << 18  # float32 elements: 1 MiB
_LARGE = 25_000_000  # 100 MB
_FOLDER = Path("/dev/shm") / f"statevar-{os.geteuid()}"


@dataclass(frozen=True)
class Scale:
    """How much is tried."""

    runs: int  #: of row 1
    adds: int
    reads: int
    kills: int
    mutations: int
    transactions: int
    wakes: int
    rounds: int  #: of a race
    readers: int
    before: str = ""  #: the folder src of a statevar to compare private variables with


FULL = Scale(20, 5000, 10_000, 1000, 10_000, 10_000, 100_000, 20, 32)
QUICK = Scale(2, 1000, 1000, 60, 500, 1000, 4000, 5, 8)


@dataclass(frozen=True)
class Found:
    """What a row has found."""

    what: str
    figure: str
    bar: str
    met: bool | None  #: None if what it is compared with is not there


def _name(what: str) -> str:
    return f"benchmark-{what}-{os.getpid()}"


def _remove(name: str) -> None:
    (_FOLDER / name).unlink(missing_ok=True)


# -- 1, 2: nothing is lost, nothing is torn ----------------------------------------------------------------------


def counted(scale: Scale) -> Found:
    names = ["statevar"] if "LMDB" in missing() else ["statevar", "LMDB"]
    effort, seconds, whole = replace(FEW, adds=scale.adds, limit=60.0), dict.fromkeys(names, 9000000000.0), 0
    for _ in range(scale.runs):
        for name in names:
            start = time.perf_counter()
            text = adds_of(name, effort)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
            whole += name == "statevar" and text.startswith(f"{4 * scale.adds:,} of")
    beside, met = "LMDB is not installed", None if whole == scale.runs else False
    if "LMDB" in seconds:
        ratio = seconds["statevar"] / seconds["LMDB"]
        beside, met = f"{ratio:.2f} of LMDB", whole == scale.runs and ratio <= 3
    return Found(
        f"4 x {scale.adds} `+= 1`, {scale.runs} runs",
        f"{whole} of {scale.runs} whole; {seconds['statevar']:.2f} s, {beside}",
        "all whole; ≤ 3 of LMDB",
        met,
    )


def torn(scale: Scale) -> Found:
    name = _name("torn")
    model = {each: sv.Variable(np.zeros(_MEDIUM, np.float32)) for each in ("a", "b")}
    sv.share(model, name)
    stop, found = numbers("b", 1), numbers("q", 4)

    def write(number: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for value in range(1, 1 << 20):
            with sv.transaction(model):
                for each in model.values():
                    each.assign(np.full(_MEDIUM, value * 2 + number, np.float32))
            if stop[0]:
                return

    def is_torn(array: Any) -> bool:
        return bool(array.min() != array.max())

    try:
        with Children() as children:
            for number in range(2):
                children.start(write, number)
            done = 0
            while done < scale.reads:
                found[0] += is_torn(model["a"].value)
                found[1] += is_torn(np.array(model["b"].value))
                cut = sv.snapshot(model)
                found[2] += is_torn(cut["a"]) or is_torn(cut["b"]) or bool(cut["a"][0] != cut["b"][0])
                done += 3
            stop[0] = 1
            found[3] = children.finish(20.0)
    finally:
        _remove(name)
    text = f"{found[0]} views, {found[1]} copies, {found[2]} snapshots of {done:,}; writes {int(cut['a'][0]) // 2:,}"
    return Found("torn reads of 1 MB, as views, copies and snapshots of two", text, "0", not any(found))


# -- 3, 4: killed ------------------------------------------------------------------------------------------------

_WRITERS, _READERS, _TOTAL = 4, 2, 1000


class _Bank:
    """What is killed: a counter, three accounts with a constant sum, a pair that is always equal, and a table."""

    def __init__(self, name: str) -> None:
        self.counter = sv.Variable(0, dtype="int64")
        self.accounts = [sv.Variable(_TOTAL if each == 0 else 0, dtype="int64") for each in range(3)]
        self.pair = [sv.Variable(np.zeros(1 << 15, np.float32)) for _ in range(2)]
        self.large = sv.Variable(np.zeros(_MEDIUM, np.float32))
        self.rows = sv.Variable(np.zeros((512, 128), np.float32))
        sv.share(self, name)
        self.noted, self.progress = numbers("q", _WRITERS), numbers("q", _WRITERS + _READERS)
        self.wrong = numbers("q", 8)  # sums, pairs, large ones, rows, held ones, versions, exceptions, reads

    def write(self, number: int) -> None:
        self._leave_a_child()
        draw = random.Random(os.getpid())
        jobs = [self._count, self._pay, self._fill, self._fill_both, self._fill_rows, self._roll_back, self._edit]
        while True:
            try:
                draw.choice(jobs)(number, draw)
            except Exception:  # counted, whatever it is
                self.wrong[6] += 1
                raise
            self.progress[number] += 1

    def _leave_a_child(self) -> None:
        """Forks a process that outlives this one, as a program does that has workers of its own."""
        parent = os.getpid()
        if os.fork() == 0:
            signal.alarm(300)
            while os.getppid() == parent:
                time.sleep(0.05)
            time.sleep(0.5)
            os._exit(0)

    def _count(self, number: int, _draw: random.Random) -> None:
        self.counter.assign_add(1)
        self.noted[number] += 1

    def _pay(self, _number: int, draw: random.Random) -> None:
        payer, payee = draw.sample(self.accounts, 2)
        with sv.transaction(payer, payee):
            payer.assign_sub(7)
            payee.assign_add(7)

    def _fill(self, _number: int, draw: random.Random) -> None:
        self.large.assign(np.full(_MEDIUM, draw.randrange(1000), np.float32))

    def _fill_both(self, _number: int, draw: random.Random) -> None:
        value = np.full(1 << 15, draw.randrange(1000), np.float32)
        with sv.transaction(self.pair):
            for each in self.pair:
                each.assign(value)

    def _fill_rows(self, _number: int, draw: random.Random) -> None:
        first = draw.randrange(500)
        self.rows[first : first + draw.randrange(1, 12)] = float(draw.randrange(1000))

    def _roll_back(self, _number: int, _draw: random.Random) -> None:
        try:
            with sv.transaction(self.accounts):
                self.accounts[0].assign_sub(5)
                1 / 0  # noqa: B018  # fails half-way
        except ZeroDivisionError:
            pass

    def _edit(self, _number: int, draw: random.Random) -> None:
        with self.rows.edit() as array:
            array[draw.randrange(512)] = draw.randrange(1000)

    def read(self, number: int) -> None:
        version = 0
        while True:
            try:
                self.look()
                self.wrong[5] += self.counter.version < version
                version = self.counter.version
            except Exception:  # counted, whatever it is
                self.wrong[6] += 1
                raise
            self.progress[number] += 1

    def look(self) -> None:
        """Counts what must not be."""
        cut = sv.snapshot([*self.accounts, *self.pair])
        self.wrong[0] += sum(int(cut[each]) for each in self.accounts) != _TOTAL
        first, second = (cut[each] for each in self.pair)
        self.wrong[1] += bool(first.min() != first.max() or second.min() != second.max() or first[0] != second[0])
        large, rows = self.large.value, self.rows.value
        value, sums = large[0], rows.sum(axis=1)
        self.wrong[2] += bool(large.min() != large.max())
        self.wrong[3] += bool((rows.min(axis=1) != rows.max(axis=1)).any())
        time.sleep(0.001)
        self.wrong[4] += bool(large.max() != value or (rows.sum(axis=1) != sums).any())
        self.wrong[7] += 1


def killed(scale: Scale) -> Found:
    name = _name("kill")
    bank, draw, hangs, slowest, writers = _Bank(name), random.Random(1), 0, 0.0, 0
    try:
        with Children(limit=900) as children:
            for number in range(_WRITERS):
                children.start(bank.write, number)
            for number in range(_WRITERS, _WRITERS + _READERS):
                children.start(bank.read, number)
            until(lambda: all(bank.progress), 20.0)
            for _ in range(scale.kills):
                time.sleep(draw.random() * 0.02)
                victim = draw.randrange(_WRITERS + _READERS)
                writers += victim < _WRITERS
                children.processes[victim].kill()
                start, before = time.perf_counter(), list(bank.progress)
                children.processes[victim].join()
                others = [each for each in range(_WRITERS + _READERS) if each != victim]
                if not until(lambda: all(bank.progress[each] > before[each] for each in others), 10.0):  # noqa: B023  # called at once
                    hangs += 1
                    break
                slowest = max(slowest, time.perf_counter() - start)
                children.start(bank.write if victim < _WRITERS else bank.read, victim, at=victim)
        bank.look()
        ahead = int(bank.counter) - sum(bank.noted)
    finally:
        _remove(name)
    wrong = sum(list(bank.wrong)[:7])
    text = (
        f"{hangs} hangs; all others go on after {slowest * 1e3:.0f} ms at most; counter ahead by {ahead}; "
        f"wrong {wrong} of {bank.wrong[7]:,} looks"
    )
    bar = "0 hangs, ≤ 1 s, ahead by 0 to the kills, 0 wrong"
    ok = not hangs and slowest <= 1 and 0 <= ahead <= writers and not wrong
    return Found(f"{scale.kills} kills of writers and readers, whose forked children live on", text, bar, ok)


def killed_after_fork(_: Scale) -> Found:
    """A program has forked a worker, which holds a view, and is killed as the owner of an edit."""
    name = _name("fork")
    v = sv.Variable(np.zeros(100_000), shared=f"{name}/v")
    view, ready, seconds = v.value, numbers("b", 1), numbers("d", 1)

    def program() -> None:
        if os.fork() == 0:  # the worker of the program, with the view
            signal.alarm(15)
            while True:
                time.sleep(0.1)
        with v.edit() as array:
            array[...] = 1
            ready[0] = 1
            time.sleep(30)

    def write() -> None:
        start = time.perf_counter()
        v.assign_add(1.0)
        seconds[0] = time.perf_counter() - start

    try:
        with Children(limit=60) as children:
            first = children.start(program)
            until(lambda: ready[0], 10.0)
            first.kill()
            first.join()
            children.start(write)
            hangs = children.finish(10.0)
    finally:
        _remove(name)
    ok = not hangs and float(v.value[0]) == 1 and float(view[0]) == 0
    figure = "hangs" if hangs else f"written after {seconds[0] * 1e3:.1f} ms"
    return Found("a program is killed in an edit; its forked child has a view and lives", figure, "no hang", ok)


# -- 5, 6: what it costs -----------------------------------------------------------------------------------------


def times(scale: Scale) -> Found:
    name = _name("times")
    model = {
        "small": sv.Variable(np.zeros((), np.float32)),
        "count": sv.Variable(0),
        "medium": sv.Variable(np.zeros(_MEDIUM, np.float32)),
        "large": sv.Variable(np.zeros((1000, 25_000), np.float32)),
    }
    sv.share(model, name)
    small, count, medium, large = model.values()
    x, y = np.ones(_MEDIUM, np.float32), np.zeros(_MEDIUM, np.float32)
    turns = cycle([y, y.copy()])  # as a shared variable has two slots in turns, which do not stay in the cache
    big, into, row = np.ones((1000, 25_000), np.float32), np.zeros((1000, 25_000), np.float32), np.ones(25_000, "f4")
    pair = [sv.Variable(0.0, shared=f"{name}/pair/{each}") for each in range(2)]

    def written() -> None:
        medium.assign(x)

    def viewed() -> None:  # of a value that was written since, and is not kept from the last view
        medium.value  # noqa: B018  # the read is what is measured

    def transaction() -> None:
        with sv.transaction(pair):
            for each in pair:
                each.assign_add(1.0)

    def write_row() -> None:
        large[7] = row

    try:
        many = race(
            {
                "read 4 B": lambda: small.value,
                "view 1 MB": lambda: medium.value,
                "+= 1": lambda: count.assign_add(1),
                "a transaction over two": transaction,
                "a snapshot of two": lambda: sv.snapshot(pair),
            },
            scale.rounds,
            calls=500,
        )
        some = race(
            {
                "assign 1 MB": written,
                "copyto 1 MB": lambda: np.copyto(y, x),
                "in turns": lambda: np.copyto(next(turns), x),
            },
            scale.rounds,
            calls=20,
        )
        first_read = first_view = float("inf")
        for _round in range(scale.rounds * 10):
            written()
            start = time.perf_counter()
            viewed()
            first_view = min(first_view, time.perf_counter() - start)
            small.assign_add(1.0)
            start = time.perf_counter()
            small.value  # noqa: B018  # the read is what is measured
            first_read = min(first_read, time.perf_counter() - start)
        few = race({"assign 100 MB": lambda: large.assign(big), "copyto 100 MB": lambda: np.copyto(into, big)}, 5)
        rows = race({"a row of 100 MB": write_row}, scale.rounds, calls=20)
    finally:
        _remove(name)
    us = {
        what: seconds * 1e6
        for what, seconds in {
            **many,
            **rows,
            "the first read after a write": first_read,
            "the first view": first_view,
        }.items()
    }
    medium_ratio = some["assign 1 MB"] / some["copyto 1 MB"]
    large_ratio = few["assign 100 MB"] / few["copyto 100 MB"]
    bars = {"read 4 B": 2, "+= 1": 10, "view 1 MB": 12, "a row of 100 MB": 50}
    figures = [f"{what} {value:.3g} µs" for what, value in us.items()]
    in_turns = some["assign 1 MB"] / some["in turns"]
    figures += [
        f"assign 1 MB {medium_ratio:.2f} of copyto, {in_turns:.2f} of copyto to two in turns",
        f"assign 100 MB {large_ratio:.2f}",
    ]
    bar = ", ".join(f"{what} ≤ {limit} µs" for what, limit in bars.items()) + ", 1 MB ≤ 1.5, 100 MB ≤ 1.1"
    ok = all(us[what] <= limit for what, limit in bars.items()) and medium_ratio <= 1.5 and large_ratio <= 1.1
    return Found("times", ", ".join(figures), bar, ok)


def readers(scale: Scale) -> Found:
    figure = memory("statevar", replace(FEW, readers=scale.readers))
    try:
        ok = float(figure.split()[0]) <= 1
    except ValueError:
        ok = False
    return Found(f"private memory of each of {scale.readers} readers of 16.8 MB", figure, "≤ 1 MB", ok)


# -- 7, 8, 9, 10: files ------------------------------------------------------------------------------------------


def mutated(scale: Scale) -> Found:
    """Bytes of the header, the index and the records are changed, one mutation at a time, and the pool is used."""
    name = _name("mutate")
    model = _whole_model()
    sv.share(model, name)
    for _ in range(5):
        with sv.transaction(model):
            for each in model.values():
                each.assign_add(1)
    content = (_FOLDER / name).read_bytes()
    _remove(name)
    draw, verdicts, path = random.Random(2), Counter[str](), Path(f"/dev/shm/{name}.svs")
    values = [int(each) for each in model.values()]
    places = _constant_and_words(content)
    changes = [_mutation(draw, content, places) for _ in range(scale.mutations)]
    try:
        while changes:
            verdict, done = numbers("b", len(changes)), numbers("q", 1)

            def use(changes: list[tuple[int, bytes]] = changes, verdict: Any = verdict, done: Any = done) -> None:
                for at, (offset, new) in enumerate(changes):
                    done[0] = at
                    path.unlink(missing_ok=True)
                    path.write_bytes(content[:offset] + new + content[offset + len(new) :])
                    path.chmod(0o600)
                    signal.alarm(20)
                    verdict[at] = _use(str(path), values)

            with Children() as children:
                children.start(use)
                children.finish(600.0)
                code = children.processes[0].exitcode
            verdicts.update(_VERDICTS[each] for each in list(verdict) if each)
            if code == 0:
                break
            verdicts["hangs" if code == -signal.SIGALRM else f"died ({code})"] += 1
            changes = changes[done[0] + 1 :]
    finally:
        path.unlink(missing_ok=True)
    text = ", ".join(f"{count:,} {what}" for what, count in verdicts.most_common())
    bar = "noticed or harmless, no signal"
    return Found(f"{scale.mutations:,} mutations of the file", text, bar, set(verdicts) <= {"noticed", "harmless"})


_VERDICTS = {1: "harmless", 2: "noticed", 3: "SILENT", 4: "another error"}
_FILL = 0x5A5A5A5A5A5A5A5A  # a value that no other word of the file has


def _whole_model() -> dict[str, sv.Variable]:
    return {f"layers/{each}": sv.Variable(_FILL + each, dtype="int64") for each in range(4)}


def _constant_and_words(content: bytes) -> list[int]:
    """The places of the file that have something, and no value: what is zero and unused is left out in half."""
    data = np.frombuffer(content, np.uint8)
    words = np.frombuffer(content[: len(content) // 8 * 8], np.int64)
    is_value = np.repeat(np.abs(words - _FILL) < 1000, 8)
    used = np.flatnonzero((data[: is_value.size] != 0) & ~is_value)
    return [int(each) for each in used]


def _mutation(draw: random.Random, content: bytes, places: list[int]) -> tuple[int, bytes]:
    offset = draw.choice(places)
    kind = draw.randrange(4)
    if kind == 0:
        return offset, bytes([content[offset] ^ 1 << draw.randrange(8)])
    if kind == 1:
        return offset, bytes([draw.randrange(256)])
    if kind == 2:
        return offset // 8 * 8, draw.randbytes(8)
    return offset // 8 * 8, bytes(8)


def _use(path: str, values: list[int]) -> int:
    """Reads all, writes all, and reads again."""
    model = _whole_model()
    try:
        sv.attach(model, path)
        if [int(each) for each in model.values()] != values:
            return 3
        with sv.transaction(model):
            for each in model.values():
                each.assign_add(1)
        model["layers/0"].assign_add(1)
        cut = sv.snapshot(model)
        right = [value + 1 + (at == 0) for at, value in enumerate(values)]
        return 1 if [int(cut[each]) for each in model.values()] == right else 3
    except (SharedError, StorageError, ConflictError):
        return 2
    except Exception:  # noqa: BLE001  # it should have been noticed
        return 4


def no_room(_: Scale) -> Found:
    command = with_shared_memory_of("64m", [sys.executable, "-c", _NO_ROOM])
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    lines = done.stdout.strip().splitlines()
    ok = done.returncode == 0 and lines[-1:] == ["whole"] and sum("StorageError" in each for each in lines) == 2
    named = all("remount" in each or "disk" in each or "path" in each for each in lines if "StorageError" in each)
    figure = "; ".join(each[:150].replace("|", "/") for each in lines) or (done.stderr.strip() or "?")[-150:]
    bar = "StorageError with the size and the way out, twice; the value whole"
    return Found("100 MB, and one slot too many, in a /dev/shm of 64 MB", figure, bar, ok and named)


_NO_ROOM = """
import numpy as np, os
import statevar as sv
try:
    sv.share({"v": sv.Variable(np.zeros(25_000_000, np.float32))}, "large")
except Exception as error:
    print(type(error).__name__, error, flush=True)
v = sv.Variable(np.zeros(4_000_000, np.float32), shared="slots/v")
held = []
try:
    for number in range(1, 10):
        held.append(v.value)
        v.assign(np.full(4_000_000, number, np.float32))
except Exception as error:
    print(type(error).__name__, error, flush=True)
print("whole" if v.value.min() == v.value.max() == number - 1 and all(a.min() == a.max() for a in held) else "TORN")
"""


def all_killed(_: Scale) -> Found:
    """All processes are killed: what has a name reopens whole, what has none is gone; so is what was half made."""
    name, problems = _name("all"), list[str]()
    ready, noted = numbers("b", 3), numbers("q", 2)

    def work(number: int) -> None:
        v = sv.Variable(np.zeros(_MEDIUM, np.float32), shared=f"{name}/v")
        steps = sv.Variable(0, shared=f"{name}/steps", dtype="int64")
        while True:
            with sv.transaction(v, steps):
                v.assign_add(1.0)
                steps.assign_add(1)
            noted[number] += 1
            ready[number] = 1

    def without_name() -> None:
        v = sv.Variable(np.zeros(_LARGE, np.float32))
        sv.share(v)
        v.assign_add(1.0)
        ready[2] = 1
        signal.pause()

    def make() -> None:
        sv.share({"v": sv.Variable(np.ones(_LARGE, np.float32))}, f"{name}-large")

    free = shutil.disk_usage("/dev/shm").free
    draw, halves = random.Random(3), 0
    try:
        with Children() as children:
            for number in range(2):
                children.start(work, number)
            children.start(without_name)
            until(lambda: all(ready), 30.0)
            time.sleep(0.3)
        v = sv.Variable(np.zeros(_MEDIUM, np.float32), shared=f"{name}/v")
        steps = sv.Variable(0, shared=f"{name}/steps", dtype="int64")
        value = v.value
        if not (value.min() == value.max() == int(steps) and sum(noted) <= int(steps) <= sum(noted) + 2):
            problems.append("the named pool is not whole")
        named = (_FOLDER / name).stat().st_size
        if free - shutil.disk_usage("/dev/shm").free > named + (1 << 20):
            problems.append("memory is left of the anonymous pool")
        for _attempt in range(20):
            with Children() as children:
                children.start(make)
                time.sleep(draw.random() * 0.15)
            halves += bool(_half_made(name))
            _remove(f"{name}-large")
        sv.share({"v": sv.Variable(0)}, f"{name}-next")
        if left := _half_made(name):
            problems.append(f"left: {left}")
    finally:
        for each in (name, f"{name}-large", f"{name}-next"):
            _remove(each)
    figure = ", ".join(problems) or f"whole; nothing is left; {halves} of 20 killed creators left a file for a while"
    return Found("all processes are killed", figure, "whole; nothing left", not problems)


def _half_made(name: str) -> list[str]:
    """The files in the folder of names that are no pools."""
    known = {name, f"{name}-large", f"{name}-next"}
    return [each.name for each in _FOLDER.iterdir() if each.name not in known and each.name.startswith(".")]


def power_cuts(scale: Scale) -> Found:
    """After a power cut each page is as it was at the last sync, or as it was written since: drawn at random."""
    folder = Path(f"/dev/shm/benchmark-power-{os.getpid()}")
    folder.mkdir(mode=0o700)
    path, draw, verdicts = folder / "pool.svs", random.Random(4), Counter[str]()
    model = {"v": sv.Variable(np.zeros(5000)), "w": sv.Variable(np.zeros(5000))}
    trials = max(50, scale.kills // 5)
    try:
        sv.share(model, path, durable="sync")
        for number in range(1, trials + 1):
            value = np.full(5000, float(number * 10))
            with sv.transaction(model):
                for each in model.values():
                    each.assign(value)
            model["v"].sync()
            synced = path.read_bytes()
            for later in range(1, draw.randrange(2, 6)):
                with sv.transaction(model):
                    for each in model.values():
                        each.assign(value + later)
            now = path.read_bytes()
            pages = [(now if draw.random() < 0.5 else synced)[at : at + 4096] for at in range(0, len(now), 4096)]
            cut = folder / "cut.svs"
            cut.write_bytes(b"".join(pages))
            cut.chmod(0o600)
            verdicts[_after_a_restart(cut, number * 10)] += 1
            cut.unlink()
    finally:
        shutil.rmtree(folder)
    text = ", ".join(f"{count} {what}" for what, count in verdicts.most_common())
    return Found(f"{trials} power cuts after a sync", text, "what was synced, or later", set(verdicts) == {"whole"})


def _after_a_restart(path: Path, synced: int) -> str:
    """What a process finds in a file, on a machine that was started anew."""
    command = [sys.executable, "-c", _RESTARTED, str(path)]
    boot = "/proc/sys/kernel/random/boot_id"
    mount = f'echo 01234567-89ab-cdef-0123-456789abcdef > "$0.boot" && mount --bind "$0.boot" {boot} && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, str(path), *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    Path(f"{path}.boot").unlink(missing_ok=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["died"])[-1][:100]
    low, high = map(float, done.stdout.split())
    return "whole" if synced <= low <= high < synced + 10 else f"{low} to {high} for {synced}"


_RESTARTED = """
import sys, warnings
import numpy as np
import statevar as sv
warnings.simplefilter("ignore")
model = {"v": sv.Variable(np.zeros(5000)), "w": sv.Variable(np.zeros(5000))}
sv.attach(model, sys.argv[1])
values = [each.value for each in model.values()]
print(min(v.min() for v in values), max(v.max() for v in values))
assert all(v.min() == v.max() for v in values), "torn"
"""


# -- 11, 12, 13: together ----------------------------------------------------------------------------------------


def opposite_orders(scale: Scale) -> Found:
    name = _name("orders")
    model = [sv.Variable(0, dtype="int64") for _ in range(3)]
    sv.share(model, name)
    done, conflicts, each_does = numbers("q", 4), numbers("q", 4), scale.transactions // 4

    def work(number: int) -> None:
        draw = random.Random(number)
        while done[number] < each_does:
            order = draw.sample(model, 3)
            try:
                with sv.transaction():
                    for each in order:
                        each.assign_add(1)
            except ConflictError:
                conflicts[number] += 1
            else:
                done[number] += 1

    try:
        with Children(limit=300) as children:
            for number in range(4):
                children.start(work, number)
            late = children.finish(280.0)
    finally:
        _remove(name)
    values, total = {int(each) for each in model}, sum(done)
    text = f"{total:,} committed, {sum(conflicts):,} ConflictErrors, {late} hang; each has {sorted(values)}"
    bar = "no deadlock, sums right"
    ok = not late and values == {4 * each_does}
    return Found(f"{scale.transactions:,} transactions in opposite orders, unlisted", text, bar, ok)


def woken(scale: Scale) -> Found:
    name = _name("wake")
    ball = [sv.Variable(0, shared=f"{name}/{each}") for each in ("there", "back")]
    balls, lost = scale.wakes // 2, numbers("q", 2)

    def answer() -> None:
        for number in range(1, balls + 1):
            lost[1] += not ball[0].wait(number, timeout=10.0)
            ball[1].assign_add(1)

    seconds = []
    try:
        with Children(limit=500) as children:
            children.start(answer)
            for number in range(1, balls + 1):
                start = time.perf_counter()
                ball[0].assign_add(1)
                lost[0] += not ball[1].wait(number, timeout=10.0)
                seconds.append((time.perf_counter() - start) / 2)
                if lost[0]:
                    break
            children.finish(20.0)
    finally:
        _remove(name)
    text = f"{sum(lost)} lost; {statistics.median(seconds) * 1e6:.0f} µs in the middle of all"
    return Found(f"{2 * balls:,} wake-ups", text, "0 lost", not sum(lost))


def _add(variable: sv.Variable) -> None:
    variable.assign_add(1)


def started_otherwise(_: Scale) -> Found:
    name, problems = _name("start"), []
    folder = Path(f"/dev/shm/benchmark-start-{os.getpid()}")
    folder.mkdir(mode=0o700)
    sizes = []
    try:
        for kind, where in (("named", name), ("file", str(folder / "pool.svs")), ("anonymous", None)):
            v = sv.Variable(0.0)
            sv.share({"v": v}, where)
            sizes.append(len(pickle.dumps(v)))
            for method in ("fork", "forkserver", "spawn"):
                context: Any = multiprocessing.get_context(method)
                process = context.Process(target=_add, args=(v,))
                before = float(v)
                process.start()
                process.join(60)
                if process.is_alive():
                    process.kill()
                if float(v) != before + 1:
                    problems.append(f"{kind} by {method}")
    finally:
        _remove(name)
        shutil.rmtree(folder)
    figure = f"fail: {', '.join(problems)}" if problems else f"all; {', '.join(map(str, sizes))} bytes"
    what = "fork, forkserver and spawn; pickles of a named, a file's and an anonymous one"
    return Found(what, figure, "all; ≤ 200 bytes", not problems and max(sizes) <= 200)


# -- 14: variables that are not shared -------------------------------------------------------------------------------


def private(scale: Scale) -> Found:
    """In turns with another statevar, if there is one."""
    sources = {"now": str(Path(sv.__file__).parents[1])} | ({"before": scale.before} if scale.before else {})
    best: dict[str, dict[str, float]] = {}
    for _ in range(max(3, scale.rounds // 2)):
        for which, source in sources.items():
            done = subprocess.run(
                [sys.executable, "-c", _PRIVATE],
                check=True,
                capture_output=True,
                text=True,
                timeout=60,
                env={**os.environ, "PYTHONPATH": source},
            )
            for what, took in zip(("read", "assign", "import"), map(float, done.stdout.split()), strict=True):
                best.setdefault(what, {})[which] = min(best.get(what, {}).get(which, 9e9), took)
    ratios = {what: each["now"] / each["before"] for what, each in best.items() if "before" in each}
    units = {"read": (1e6, "µs"), "assign": (1e6, "µs"), "import": (1e3, "ms")}
    figure = ", ".join(
        f"{what} {each['now'] * units[what][0]:.3g} {units[what][1]}" + (f" ({ratios[what]:.2f})" if ratios else "")
        for what, each in best.items()
    )
    ok = bool(ratios) and max(ratios.values()) <= 1.1
    return Found("private variables, and the ratio to before", figure, "≤ 1.1 of before (--before SRC)", ok)


_PRIVATE = """
import sys, time, timeit
start = time.perf_counter()
import statevar as sv
imported = time.perf_counter() - start
assert "statevar._shared" not in sys.modules
import numpy as np
v, x = sv.Variable(np.zeros(1)), np.ones(1)
def best(job):
    return min(timeit.repeat(job, number=2000, repeat=30, globals={"v": v, "x": x})) / 2000
print(best("v.value"), best("v.assign(x)"), imported)
"""

#: By number.
ROWS: dict[int, Callable[[Scale], Found]] = {
    1: counted,
    2: torn,
    3: killed,
    4: killed_after_fork,
    5: times,
    6: readers,
    7: mutated,
    8: no_room,
    9: all_killed,
    10: power_cuts,
    11: opposite_orders,
    12: woken,
    13: started_otherwise,
    14: private,
}
