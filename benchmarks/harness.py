"""Times statements of several libraries in turns, each library in a process of its own.

Keras takes its backend once per process, and one library's threads and allocator must not disturb another's:
so the parent asks workers over pipes, one at a time, and goes round the contenders again and again. Load that
comes and goes then meets all of them; the minimum over the rounds is what the statement costs.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import time
import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import repeat
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, TypeAlias

__all__ = ["Case", "Contender", "Names", "Race", "Result", "Target", "Workers", "load", "met", "row", "table_head"]

Names: TypeAlias = dict[str, Any]

#: In the source of the loop itself, so that no contender pays for a call. The names are global: a statement
#: may rebind them, as raw JAX must; what it binds beside them lives until the loop ends.
_LOOP = """
def run(count):
    global {names}
    start = clock()
    for _ in repeat(None, count):
        {statement}
    {after}
    return clock() - start
"""

# -- what is compared ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What the design asks for: at most so many microseconds, or so many times the raw library."""

    limit: float
    of: Literal["us", "ratio"]
    plus: float = 0.0  #: microseconds that may come on top of a ratio

    def __str__(self) -> str:
        if self.of == "us":
            return f"≤ {self.limit:g} µs"
        return f"≤ {self.limit:g} of raw" + (f" + {self.plus:g} µs" if self.plus else "")

    def is_met(self, ours: float, raw: float) -> bool:
        """Whether so many seconds of ours and of raw meet it."""
        return ours * 1e6 <= (self.limit if self.of == "us" else self.limit * raw * 1e6 + self.plus)


@dataclass(frozen=True)
class Contender:
    """A statement, run in a worker on the names that the worker holds."""

    label: str
    worker: str
    statement: str
    after: str = "pass"  #: run once after the loop and timed with it: waits for what is asynchronous


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    name: str
    backend: str
    size: int  #: elements of each array
    ours: Contender
    raw: Contender
    peers: tuple[Contender, ...] = ()
    target: Target | None = None
    calls: int = 1  #: how often the operation happens when the statement runs once
    memory: bool = False  #: whether the peak of ours and of raw is measured
    address: str = ""  #: where our value lies, to see whether the write was in place

    @property
    def contenders(self) -> tuple[Contender, ...]:
        return (self.ours, self.raw, *self.peers)


@dataclass(frozen=True)
class Result:
    """What was measured for a case."""

    case: Case
    seconds: dict[Contender, float]  #: of one operation
    #: Bytes that ours and raw need at their peak, beyond what they hold; None where the system does not tell.
    extra: tuple[int | None, int | None]
    in_place: bool | None  #: None if nobody asked


# -- a worker --------------------------------------------------------------------------------------------


def _memory(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Bytes resident now, or at the peak; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


class _Server:
    """Answers the parent: its public methods are the questions."""

    def __init__(self, open_names: Callable[[str, int], Names], worker: str) -> None:
        self._open_names = open_names
        self._worker = worker
        self._names: Names = {}
        self._loops: dict[tuple[str, str], Callable[[int], float]] = {}

    def open(self, size: int) -> None:
        self._names = {}
        self._loops = {}
        gc.collect()  # the arrays of the last size go before those of the next come
        self._names = {**self._open_names(self._worker, size), "clock": time.perf_counter, "repeat": repeat}

    def time(self, statement: str, after: str, count: int) -> float:
        loop = self._loop(statement, after)
        gc.disable()
        try:
            return loop(count)
        finally:
            gc.enable()

    def extra(self, statement: str, after: str) -> int | None:
        """The peak above what is resident before, over a few calls."""
        loop = self._loop(statement, after)
        loop(1)
        gc.collect()
        before = _memory("VmRSS")
        peak = Path("/proc/self/clear_refs")
        if not peak.exists():
            return None
        peak.write_text("5")  # forgets the peak so far: proc(5)
        for _ in range(3):
            loop(1)
        return max(0, _memory("VmHWM") - before)

    def evaluate(self, expression: str) -> Any:
        return eval(expression, self._names)

    def bytes_each(self, expressions: tuple[str, str], many: int) -> list[tuple[float, float]]:
        """What each expression's object takes: resident, and as Python's allocators count."""
        codes = [compile(expression, "<benchmark>", "eval") for expression in expressions]
        # Everything stays alive until the end, so that nothing is made in memory that was freed before.
        kept: list[Any] = [eval(code, self._names) for code in codes for _ in range(many // 5)]
        resident = [self._each(code, many, kept, lambda: _memory("VmRSS")) for code in codes]
        tracemalloc.start()
        traced = [self._each(code, many, kept, lambda: tracemalloc.get_traced_memory()[0]) for code in codes]
        tracemalloc.stop()
        kept.clear()
        return list(zip(resident, traced, strict=True))

    def _each(self, code: Any, many: int, kept: list[Any], used: Callable[[], int]) -> float:
        made: list[Any] = [None] * many
        kept.append(made)
        gc.collect()
        before = used()
        for i in range(many):
            made[i] = eval(code, self._names)
        return (used() - before) / many

    def _loop(self, statement: str, after: str) -> Callable[[int], float]:
        if (statement, after) not in self._loops:
            source = _LOOP.format(names=", ".join(self._names), statement=statement, after=after)
            exec(compile(source, f"<{statement}>", "exec"), self._names)
            self._loops[statement, after] = self._names.pop("run")
        return self._loops[statement, after]


def _serve(connection: Connection, open_names: Callable[[str, int], Names], worker: str) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # TensorFlow greets before its log level counts; errors go through the pipe
    server = _Server(open_names, worker)
    while (request := connection.recv()) is not None:
        question, arguments = request
        try:
            connection.send((getattr(server, question)(*arguments), None))
        except Exception as error:  # noqa: BLE001  # whatever the library raises; the parent tells of it
            connection.send((None, f"{worker}: {question}{arguments}: {type(error).__name__}: {error}"))


class Workers:
    """The processes, started together. Those whose library cannot be imported are left out."""

    def __init__(self, names: Iterable[str], open_names: Callable[[str, int], Names]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: dict[str, Connection] = {}
        for name in names:
            self._pipes[name], theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, open_names, name), daemon=True).start()
        self.missing: dict[str, str] = {}
        for name, problem in self._open(1).items():
            del self._pipes[name]
            self.missing[name] = problem

    def __contains__(self, worker: str) -> bool:
        return worker in self._pipes

    def open(self, size: int) -> None:
        """Gives each worker new arrays."""
        if problems := self._open(size):
            raise RuntimeError("; ".join(problems.values()))

    def _open(self, size: int) -> dict[str, str]:
        for pipe in self._pipes.values():
            pipe.send(("open", (size,)))
        replies = {name: pipe.recv()[1] for name, pipe in self._pipes.items()}
        return {name: problem for name, problem in replies.items() if problem}

    def ask(self, worker: str, question: str, *arguments: Any) -> Any:
        """The answer of one worker, while the others wait."""
        pipe = self._pipes[worker]
        pipe.send((question, arguments))
        answer, problem = pipe.recv()
        if problem:
            raise RuntimeError(problem)
        return answer

    def close(self) -> None:
        for pipe in self._pipes.values():
            pipe.send(None)


# -- measuring -------------------------------------------------------------------------------------------


class Race:
    """A case being measured: the contenders whose library is there, and the best that each has done."""

    def __init__(self, case: Case, workers: Workers, *, peers: bool = True) -> None:
        self._case = case
        self._workers = workers
        contenders = case.contenders if peers else (case.ours, case.raw)
        self._contenders = [each for each in contenders if each.worker in workers]
        self._counts: dict[Contender, int] = {}
        self._best = dict.fromkeys(self._contenders, float("inf"))

    def run(self, rounds: int, batch: float, limit: float) -> None:
        """Goes round the contenders.

        Args:
            batch: about how long one contender runs in one round, in seconds.
            limit: no new round begins after so many seconds, once there were three.
        """
        for each in self._contenders:
            if each not in self._counts:
                self._counts[each] = self._count(each, batch)
        start = time.perf_counter()
        for done in range(rounds):
            if done >= 3 and time.perf_counter() - start > limit:
                break
            # Whoever follows a heavy contender finds the caches cold: each round begins with another one.
            turn = done % len(self._contenders)
            for each in self._contenders[turn:] + self._contenders[:turn]:
                self._best[each] = min(self._best[each], self._time(each, self._counts[each]) / self._counts[each])

    def _time(self, contender: Contender, count: int) -> float:
        seconds: float = self._workers.ask(contender.worker, "time", contender.statement, contender.after, count)
        return seconds

    def _count(self, contender: Contender, batch: float) -> int:
        """How many runs fill a batch. The first one, which may compile, does not tell."""
        self._time(contender, 1)
        count = 1
        while True:
            seconds = self._time(contender, count)
            if seconds >= batch / 2 and count < 1000:
                # The machine may have been busy elsewhere; with too few runs, what is done once a batch would weigh.
                seconds = min(seconds, self._time(contender, count))
            if seconds >= batch / 2 or count >= 1 << 20:
                return count
            count = count * 2 if seconds > batch / 20 else count * 8

    def result(self) -> Result:
        """The best so far, and what the case wants to know of memory."""
        case, ask = self._case, self._workers.ask
        ours = raw = in_place = None
        if case.memory:
            ours, raw = (ask(each.worker, "extra", each.statement, each.after) for each in (case.ours, case.raw))
        if case.address:
            before = ask(case.ours.worker, "evaluate", case.address)
            self._time(case.ours, 3)
            in_place = before == ask(case.ours.worker, "evaluate", case.address)
        return Result(case, {each: best / case.calls for each, best in self._best.items()}, (ours, raw), in_place)


# -- the table -------------------------------------------------------------------------------------------


def table_head() -> str:
    heads = ("what", "on", "statevar, µs", "raw, µs", "ratio", "target", "met", "peers, µs", "extra peak: ours, raw")
    return f"| {' | '.join(heads)} |\n|---|---|--:|--:|--:|---|---|---|---|"


def met(result: Result) -> bool | None:
    """Whether the case meets its target; None if it has none."""
    case, seconds = result.case, result.seconds
    return None if case.target is None else case.target.is_met(seconds[case.ours], seconds[case.raw])


def row(result: Result) -> str:
    """The result as a line of a Markdown table."""
    case, seconds = result.case, result.seconds
    ours, raw = seconds[case.ours], seconds[case.raw]
    peers = [f"{each.label} {_us(seconds[each])}" for each in case.peers if each in seconds]
    memory = [", ".join(f"{size / 1e6:.0f} MB" for size in result.extra if size is not None)]
    if result.in_place is not None:
        memory.append("same buffer" if result.in_place else "another buffer")
    cells = (
        case.name,
        case.backend,
        _us(ours),
        f"{_us(raw)} `{case.raw.statement}`",
        f"{ours / raw:.2f}",
        str(case.target or ""),
        {True: "yes", False: "no", None: ""}[met(result)],
        ", ".join(peers),
        "; ".join(filter(None, memory)),
    )
    return f"| {' | '.join(cells)} |"


def _us(seconds: float) -> str:
    us = seconds * 1e6
    return f"{us:,.0f}" if us >= 100 else f"{us:.3g}"


def load() -> str:
    """How busy the machine is, since that spoils figures."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
