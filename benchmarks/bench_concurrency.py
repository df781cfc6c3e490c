"""What transactions, snapshots, holds and threads cost, beside the same work without them.

Run ``python benchmarks/bench_concurrency.py``, two to three minutes; ``--quick`` for a first impression, ``--only
REGEX`` for the sections (transaction, contention, snapshot, together, many, reads, writers, hogwild, memory, edit,
wait) in whose name it is found. It prints Markdown tables. Nothing is asserted: a busy machine gives other figures.
"""

from __future__ import annotations

import argparse
import gc
import random
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
from bench_variable import machine, set_environment
from harness import Case, Contender, Names, Race, Target, Workers, load, row, table_head

import statevar as sv
from statevar.errors import ConflictError

_BACKENDS = ("numpy", "jax", "torch", "tensorflow")
_FLOAT32 = 4  # bytes
_MEDIUM = 25_000  # elements: 100 kB
_LARGE = 25_000_000  # 100 MB

Job: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    batch: float  #: of one contender in one round of a race, in seconds
    limit: float  #: of one row of a race
    slice: float  #: of one round of threads
    repeats: int  #: rounds of threads
    big: int  #: bytes of the array whose peak is measured


_FULL = Effort(rounds=30, batch=0.002, limit=1.5, slice=0.25, repeats=5, big=1_000_000_000)
_QUICK = Effort(rounds=3, batch=0.001, limit=0.3, slice=0.05, repeats=3, big=400_000_000)

# -- an optimistic transaction ---------------------------------------------------------------------------------
# What `sv.transaction` could be instead: nobody is kept out, and who comes too late tries again.


def optimistic(variables: Sequence[Any], compute: Callable[[Any], Any]) -> int:
    """Gives each variable ``compute(value)``, all at once. Returns how often it had to begin again."""
    for retries in range(1_000_000):
        seen = [(variable._version, compute(variable._stored())) for variable in variables]
        new = [
            variable._backend.fork_from_host(variable._handle, value)
            for variable, (_, value) in zip(variables, seen, strict=True)
        ]
        ordered = sorted(variables, key=id)
        for variable in ordered:
            variable._lock.acquire()
        try:
            if all(
                v._version == version and v._holder is None for v, (version, _) in zip(variables, seen, strict=True)
            ):
                _store(variables, new)
                return retries
        finally:
            for variable in ordered:
                variable._lock.release()
    raise RuntimeError("a million retries")


def _store(variables: Sequence[Any], handles: Sequence[Any]) -> None:
    for variable in variables:
        variable._snapshot = None  # readers come for the lock, so nobody sees half of it
    for variable, handle in zip(variables, handles, strict=True):
        variable._handle = handle
        variable._version += 1
    for variable, handle in zip(variables, handles, strict=True):
        variable._snapshot = handle.published


# -- the names that statements use -----------------------------------------------------------------------------


def open_names(worker: str, size: int) -> Names:
    """The names of one worker. Its name says what it holds, ``numpy.many``; ``size`` is only used for the peak."""
    library, _, what = worker.partition(".")
    if what == "peak":
        return {"np": np, "sv": sv, "v": sv.Variable(np.ones(size, np.float32)), "one": np.ones((), np.float32)}
    if what == "raw_peak":
        return {"np": np, "b": np.ones(size, np.float32), "one": np.ones((), np.float32)}
    if what == "large":
        return _one(_LARGE)
    if what == "small":
        return _one(1)
    if what == "medium":
        return {"sv": sv, "vs1000": _variables(1000, np.ones(_MEDIUM, np.float32))}
    x = _ARRAYS[library]()
    vs = _variables(1000, x)
    names: Names = {"sv": sv, "x": x, "vs1000": vs, "vs10": vs[:10], "vs1": vs[:1]}
    names |= {"xs": [x] * 1000} | _BARE[library](x)
    if library == "numpy":
        names |= {"optimistic": optimistic, "add": lambda a: np.asarray(a + x), "copy": lambda _: x.copy()}
    return names


def _variables(count: int, x: Any) -> list[Any]:
    return [sv.Variable(x) for _ in range(count)]


def _one(size: int) -> Names:
    """A variable, one with a subscriber, and an array held as a program without us would."""
    x = np.ones(size, np.float32)
    watched = sv.Variable(x)
    return {
        "v": sv.Variable(x),
        "w": watched,
        "subscription": watched.subscribe(lambda _, __: None),
        "r": SimpleNamespace(a=x.copy()),
        "x": x,
        "fn": lambda a: a + x,
    }


def _jax_array() -> Any:
    import jax.numpy as jnp

    return jnp.ones(1)


def _torch_array() -> Any:
    import torch

    return torch.ones(1)


def _tensorflow_array() -> Any:
    import tensorflow as tf

    return tf.ones(1)


_ARRAYS: dict[str, Callable[[], Any]] = {
    "numpy": lambda: np.ones(1, np.float32),
    "jax": _jax_array,
    "torch": _torch_array,
    "tensorflow": _tensorflow_array,
}


def _jax_bare(x: Any) -> Names:
    import jax

    together = jax.jit(lambda bs, xs: [b + y for b, y in zip(bs, xs, strict=True)], donate_argnums=0)
    return {"together": together, "bs": [x + 0 for _ in range(1000)]}


def _torch_bare(x: Any) -> Names:
    import torch

    return {"torch": torch, "bs": [x.clone() for _ in range(1000)]}


def _tensorflow_bare(x: Any) -> Names:
    import tensorflow as tf

    return {"bs": [tf.Variable(x) for _ in range(1000)]}


_BARE: dict[str, Callable[[Any], Names]] = {
    "numpy": lambda x: {"np": np, "bs": [x.copy() for _ in range(1000)]},
    "jax": _jax_bare,
    "torch": _torch_bare,
    "tensorflow": _tensorflow_bare,
}

# -- rows that one thread measures -----------------------------------------------------------------------------


def transaction_cases() -> list[Case]:
    """Writes in a transaction, beside the same writes bare. All on 4 B: what is added does not depend on size."""
    where = [("numpy", count) for count in (1, 10, 1000)] + [(backend, 10) for backend in _BACKENDS[1:]]
    return [_transaction(verb, backend, count) for verb in ("assign_add", "assign") for backend, count in where]


def _transaction(verb: str, backend: str, count: int) -> Case:
    writes = f"[v.{verb}(x) for v in vs{count}]"
    after = f"[v._handle.array.block_until_ready() for v in vs{count}]" if backend == "jax" else "pass"
    peers = [Contender("listing none", backend, f"with sv.transaction(): {writes}", after)]
    if backend == "numpy":
        compute = "add" if verb == "assign_add" else "copy"
        peers.append(Contender("optimistic", backend, f"optimistic(vs{count}, {compute})"))
    return Case(
        f"transaction, {verb} of {count:,}",
        backend,
        1,
        Contender("statevar", backend, f"with sv.transaction(vs{count}): {writes}", after),
        Contender("bare", backend, writes, after),
        tuple(peers),
        Target({1: 3, 10: 2, 1000: 1.5}[count], "ratio"),
    )


def snapshot_cases() -> list[Case]:
    """One moment of 1000 variables, beside their values one by one, which are no moment."""
    where = [("100 kB", "numpy.medium"), *(("4 B", backend) for backend in _BACKENDS)]
    return [
        Case(
            f"snapshot of 1000, {size} each",
            worker.partition(".")[0],
            1,
            Contender("statevar", worker, "sv.snapshot(vs1000)"),
            Contender("one by one", worker, "[v.value for v in vs1000]"),
            target=Target(200, "us"),
        )
        for size, worker in where
    ]


def together_cases() -> list[Case]:
    """`update_all` of 1000 variables, beside one call of the library on a list of arrays."""
    raw = {
        "numpy": "for b in bs: np.add(b, x, out=b)",
        "jax": "bs = together(bs, xs)",
        "torch": "torch._foreach_add_(bs, xs)",
        "tensorflow": "for b in bs: b.assign_add(x, read_value=False)",
    }
    return [
        Case(
            "update_all, add to 1000",
            backend,
            1,
            Contender("statevar", backend, "sv.update_all(vs1000, 'add', xs)", after),
            Contender("raw", backend, raw[backend], "bs[0].block_until_ready()" if backend == "jax" else "pass"),
            (
                Contender("one by one", backend, "for v, y in zip(vs1000, xs): v.assign_add(y)", after),
                Contender("batch_set_value", backend, "sv.batch_set_value(zip(vs1000, xs))", after),
            ),
            Target(1.5, "ratio") if backend in ("torch", "jax") else None,
        )
        for backend in _BACKENDS
        for after in ["vs1000[0]._handle.array.block_until_ready()" if backend == "jax" else "pass"]
    ]


def edit_cases() -> list[Case]:
    """`update`, `edit` and `subscribe`, beside what a program without them would do."""
    return [
        case for size, worker in (("4 B", "numpy.small"), ("100 MB", "numpy.large")) for case in _edits(size, worker)
    ]


def _edits(size: str, worker: str) -> list[Case]:
    copied = "b = r.a.copy(); b[0] = 1; r.a = b"
    statements = {
        "update": ("v.update(fn)", "r.a = fn(r.a)"),
        "edit": ("with v.edit() as e: e[0] = 1", copied),
        "edit(slice(0, 10))": ("with v.edit(slice(0, 10)) as e: e[0] = 1", "r.a[0:10][0] = 1"),
        "edit(slice(0, 10)), beside a copy": ("with v.edit(slice(0, 10)) as e: e[0] = 1", copied),
        "assign_add, one subscriber": ("w.assign_add(x)", "v.assign_add(x)"),
    }
    return [
        Case(f"{name}, {size}", "numpy", 1, Contender("statevar", worker, ours), Contender("raw", worker, raw))
        for name, (ours, raw) in statements.items()
    ]


def print_cases(title: str, cases: Sequence[Case], effort: Effort) -> None:
    """The rows, measured in turns, each visited at several times."""
    workers = Workers(sorted({each.worker for case in cases for each in case.contenders}), open_names)
    for name, problem in workers.missing.items():
        print(f"\nNot measured: {name} ({problem})")
    races = [Race(case, workers) for case in cases if case.ours.worker in workers]
    passes = 1 if effort is _QUICK else 3
    for _ in range(passes):
        for race in races:
            race.run(-(-effort.rounds // passes), effort.batch, effort.limit / passes)
    print(f"\n### {title}\n\n{table_head()}")
    for race in races:
        print(row(race.result()), flush=True)
    workers.close()


# -- threads ---------------------------------------------------------------------------------------------------


def throughput(jobs: Sequence[Job], seconds: float, beside: Job | None = None) -> float:
    """How often the jobs ran a second, all together, each in a thread of its own.

    Args:
        jobs: what returns False has failed, and is not counted.
        beside: runs in one more thread, and is not counted.
    """
    running = True
    counts = [0] * len(jobs)
    barrier = threading.Barrier(len(jobs) + (beside is not None) + 1)

    def run(i: int, job: Job) -> None:
        barrier.wait()
        count = 0
        while running:
            count += job() is not False
        if i >= 0:
            counts[i] = count

    everybody = [*enumerate(jobs), *([] if beside is None else [(-1, beside)])]
    threads = [threading.Thread(target=run, args=each) for each in everybody]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    time.sleep(seconds)
    running = False
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def in_turns(contenders: dict[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of what each returned, over rounds that begin with another one each time."""
    names = list(contenders)
    got: dict[str, list[float]] = {name: [] for name in names}
    for done in range(repeats):
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            got[name].append(contenders[name]())
    return {name: statistics.median(figures) for name, figures in got.items()}


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """The first column to the left, figures to the right."""
    print(f"\n### {title}\n\n| {' | '.join(heads)} |\n|---{'|--:' * (len(heads) - 1)}|")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def _met(reached: bool) -> str:
    return "yes" if reached else "no"


# -- transactions that meet ------------------------------------------------------------------------------------


class _Mover:
    """Adds to its variables in one step, or tries to: it returns False for a conflict, and counts them."""

    def __init__(self, how: str, variables: list[Any], x: Any) -> None:
        self.retries = 0
        self._variables = variables
        self._x = x
        self._how = _HOWS[how]

    def __call__(self) -> bool:
        return self._how(self)

    def _add(self) -> None:
        for variable in self._variables:
            variable.assign_add(self._x)

    def listed(self) -> bool:
        with sv.transaction(self._variables):
            self._add()
        return True

    def unlisted(self) -> bool:
        try:
            with sv.transaction():
                self._add()
        except ConflictError:
            self.retries += 1
            return False
        return True

    def patient(self) -> bool:
        done = self.unlisted()
        if not done:
            time.sleep(random.random() * 1e-4)  # or two that conflict would do so again and again
        return done

    def optimistic(self) -> bool:
        self.retries += optimistic(self._variables, lambda value: np.asarray(value + self._x))
        return True


_HOWS: dict[str, Callable[[_Mover], bool]] = {
    "listed": _Mover.listed,
    "none listed": _Mover.unlisted,
    "none listed, ≤ 0.1 ms between tries": _Mover.patient,
    "optimistic": _Mover.optimistic,
}


def print_contention(effort: Effort) -> None:
    """Threads over the same ten variables, each beginning with another one, and over ten of their own."""
    heads = ["10 variables in one transaction, commits per second (conflicts per commit)", *_HOWS]
    rows = [
        _contention(size, threads, shared, effort)
        for size in (1, 250_000)
        for threads, shared in ((1, True), (2, True), (8, True), (2, False), (8, False))
    ]
    print_table("contention: locks against optimism", heads, rows)


def _contention(size: int, threads: int, shared: bool, effort: Effort) -> list[str]:
    x = np.ones(size, np.float32)
    retries = dict.fromkeys(_HOWS, 0)
    commits = dict.fromkeys(_HOWS, 0.0)

    def measured(how: str) -> Callable[[], float]:
        def run() -> float:
            sets = [_variables(10, x) for _ in range(1 if shared else threads)]
            rotated = [sets[i % len(sets)][i:] + sets[i % len(sets)][:i] for i in range(threads)]
            movers = [_Mover(how, variables, x) for variables in rotated]
            rate = throughput(movers, effort.slice)
            retries[how] += sum(mover.retries for mover in movers)
            commits[how] += rate * effort.slice
            return rate

        return run

    rates = in_turns({how: measured(how) for how in _HOWS}, effort.repeats)
    name = f"{_bytes(size)}, {threads} thread{'s' * (threads > 1)}"
    if threads > 1:
        name += ", the same ten" if shared else ", ten each"
    return [name, *(f"{rates[how]:,.0f} ({_rounded(retries[how] / max(commits[how], 1))})" for how in _HOWS)]


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _bytes(size: int) -> str:
    return {1: "4 B", _MEDIUM: "100 kB", 250_000: "1 MB", 2_500_000: "10 MB"}[size]


# -- many variables --------------------------------------------------------------------------------------------


def print_many(effort: Effort) -> None:
    """Microseconds per variable, for more and more of them: linear, if they stay the same."""
    counts = (1_000, 10_000, 100_000)
    figures = [_many(count, 2 if effort is _QUICK else 3) for count in counts]
    rows = []
    for what in figures[0]:
        each = [figure[what] / count * 1e6 for figure, count in zip(figures, counts, strict=True)]
        rows.append([what, *(f"{us:.2f}" for us in each), "≤ 10", _met(max(each) <= 10)])
    heads = ["µs per variable", *(f"{count:,} variables" for count in counts), "target", "met"]
    print_table("many variables of 4 B on NumPy", heads, rows)


def _many(count: int, rounds: int) -> dict[str, float]:
    """Seconds, the best of some rounds."""
    got = [_life(count) for _ in range(rounds)]
    return {what: min(each[what] for each in got) for what in got[0]}


def _life(count: int) -> dict[str, float]:
    """Seconds of each thing that can be done with them. The garbage collector stays on: it sees each that is made."""
    x = np.ones(1, np.float32)
    variables: list[Any] = []
    jobs: dict[str, Callable[[], object]] = {
        "create": lambda: variables.extend(sv.Variable(x) for _ in range(count)),
        "gc.collect": gc.collect,
        "read each": lambda: [v.value for v in variables],
        "snapshot": lambda: sv.snapshot(variables),
        "transaction that holds all": lambda: _hold(variables),
        "transaction that writes all": lambda: _write(variables, x),
        "write each, bare": lambda: [v.assign_add(x) for v in variables],
        "drop": variables.clear,
    }
    gc.collect()
    seconds = {}
    for what, job in jobs.items():
        start = time.perf_counter()
        job()
        seconds[what] = time.perf_counter() - start
    return seconds


def _hold(variables: list[Any]) -> None:
    with sv.transaction(variables):
        pass


def _write(variables: list[Any], x: Any) -> None:
    with sv.transaction(variables):
        for variable in variables:
            variable.assign_add(x)


# -- readers ---------------------------------------------------------------------------------------------------

_READS = 1000  # in one job, in a loop without calls


def print_reads(effort: Effort) -> None:
    """Reads a second of all threads together. Under the GIL more threads read no more, and ours no less."""
    settings = [(threads, writes) for writes in (False, True) for threads in (1, 2, 8)]
    contenders: dict[str, Callable[[], float]] = {}
    for threads, writes in settings:  # all in turns: the first ratio is what the others are held against
        contenders |= _reads(_readers(threads, writes), threads, writes, effort)
    rates = in_turns(contenders, effort.repeats)
    rows = []
    most = 0.0
    for name in (_readers(*setting) for setting in settings):
        ours, raw = rates[f"{name}, ours"], rates[f"{name}, raw"]
        most = most or 1.25 * raw / ours
        figures = [f"{ours / 1e6:.1f}", f"{raw / 1e6:.1f}", f"{raw / ours:.2f}"]
        rows.append([name, *figures, f"≤ {most:.2f}", _met(raw / ours <= most)])
    heads = ["readers", "statevar, M/s", "`r.a`, M/s", "times as long", "target", "met"]
    print_table("reads by threads, 4 B on NumPy (target: 1.25 times the first ratio)", heads, rows)


def _readers(threads: int, writes: bool) -> str:
    return f"{threads} thread{'s' * (threads > 1)}{', and one that writes' * writes}"


def _reads(name: str, threads: int, writes: bool, effort: Effort) -> dict[str, Callable[[], float]]:
    x = np.ones(1, np.float32)
    v = sv.Variable(x)
    r = SimpleNamespace(a=x.copy())

    def read_ours() -> None:
        for _ in repeat(None, _READS):
            v.value  # noqa: B018  # the read is what is timed

    def read_raw() -> None:
        for _ in repeat(None, _READS):
            r.a  # noqa: B018  # the read is what is timed

    def write_raw() -> None:
        r.a = r.a + x

    def measured(read: Job, write: Job) -> Callable[[], float]:
        return lambda: throughput([read] * threads, effort.slice, write if writes else None) * _READS

    return {
        f"{name}, ours": measured(read_ours, lambda: v.assign_add(x)),
        f"{name}, raw": measured(read_raw, write_raw),
    }


# -- writers ---------------------------------------------------------------------------------------------------


def print_writers(effort: Effort) -> None:
    """Threads that each add to a large value of their own: NumPy lets the GIL go, and so must we."""
    rows = [_writers(threads, effort) for threads in (1, 2, 8)]
    heads = ["threads", "statevar, per second", "`np.add(b, x, out=b)`, per second", "ratio", "target", "met"]
    print_table("assign_add by threads, 10 MB each on NumPy", heads, rows)


def _writers(threads: int, effort: Effort) -> list[str]:
    x = np.ones(2_500_000, np.float32)
    ours: list[Job] = [partial(v.assign_add, x) for v in _variables(threads, x)]
    raw: list[Job] = [partial(np.add, b, x, out=b) for b in (x.copy() for _ in range(threads))]
    contenders = {
        "ours": lambda: throughput(ours, effort.slice * 2),
        "raw": lambda: throughput(raw, effort.slice * 2),
    }
    rates = in_turns(contenders, effort.repeats + 2)
    ratio = rates["ours"] / rates["raw"]
    return [f"{threads}", f"{rates['ours']:,.0f}", f"{rates['raw']:,.0f}", f"{ratio:.2f}", "≥ 0.9", _met(ratio >= 0.9)]


def print_hogwild(effort: Effort) -> None:
    """One variable, many threads: what ``use_locking=False`` gains and loses."""
    rows = [_hogwild(size, threads, effort) for size in (1, _MEDIUM, 2_500_000) for threads in (1, 2, 8)]
    heads = ["one variable", "locking, per second", "not locking, per second", "gain", "kept, locking", "kept, not"]
    print_table("use_locking=False, assign_add on NumPy", heads, rows)


def _hogwild(size: int, threads: int, effort: Effort) -> list[str]:
    x = np.ones(size, np.float32)
    kept: dict[bool, list[float]] = {True: [], False: []}

    def measured(locking: bool) -> Callable[[], float]:
        def run() -> float:
            v = sv.Variable(np.zeros(size, np.float32))
            done = [0] * threads  # `v.version` loses counts as well

            def add(i: int) -> None:
                v.assign_add(x, use_locking=locking)
                done[i] += 1

            rate = throughput([partial(add, i) for i in range(threads)], effort.slice)
            kept[locking].append(float(v.value[0]) / sum(done))
            return rate

        return run

    rates = in_turns({"locking": measured(True), "not": measured(False)}, effort.repeats)
    gain = rates["not"] / rates["locking"]
    parts = [f"{statistics.median(kept[locking]):.1%}" for locking in (True, False)]
    name = f"{_bytes(size)}, {threads} thread{'s' * (threads > 1)}"
    return [name, f"{rates['locking']:,.0f}", f"{rates['not']:,.0f}", f"{gain:.2f}", *parts]


# -- memory ----------------------------------------------------------------------------------------------------

# What runs once before, what is measured, the target in arrays.
_PEAKS: dict[str, tuple[str, str, int]] = {
    "assign_add, nothing held": ("None", "v.assign_add(one)", 0),
    "assign_add, a snapshot lives": ("None", "s = v.value; v.assign_add(one)", 1),
    "assign_add, the snapshot has died": ("[v.assign_add(one) for s in [v.value]] and None", "v.assign_add(one)", 0),
    "assign_add in a transaction": ("None", "with sv.transaction(v): v.assign_add(one)", 1),
    "edit": ("None", "with v.edit() as e: e[0] = 1", 1),
    "update(lambda a: a + 1)": ("None", "v.update(lambda a: a + one) is None", 1),
}


def print_memory(effort: Effort) -> None:
    """The peak beyond the array itself, each in a process of its own."""
    size = _affordable(effort.big)
    rows = []
    for name, (before, statement, arrays) in _PEAKS.items():
        extra = _peak("numpy.peak", before, statement, size)
        part = None if extra is None else extra / size
        met = "" if part is None else _met(part <= arrays + 0.05)
        rows.append([name, _megabytes(extra), f"≤ {arrays * size / 1e6:,.0f} MB, and 5 %", met])
    raw = _peak("numpy.raw_peak", "None", "np.add(b, one, out=b)", size)
    rows.append(["`np.add(b, x, out=b)`", _megabytes(raw), "", ""])
    print_table(f"memory: peak beyond an array of {size / 1e6:,.0f} MB", ["what", "extra peak", "target", "met"], rows)


def _peak(worker: str, before: str, statement: str, size: int) -> int | None:
    workers = Workers([worker], open_names)
    try:
        workers.open(size // _FLOAT32)
        workers.ask(worker, "evaluate", before)
        extra: int | None = workers.ask(worker, "extra", statement, "pass")
        return extra
    finally:
        workers.close()


def _affordable(wanted: int) -> int:
    """At most a fifth of the memory that is available: the array, its copy, what the worker starts from."""
    info = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", info.read_text()) if info.exists() else None
    available = int(found[1]) * 1024 if found else wanted
    return min(wanted, available // 5 // 1_000_000 * 1_000_000)


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"


# -- waiting ---------------------------------------------------------------------------------------------------


def print_wait(effort: Effort) -> None:
    """How long after a write the thread goes on that waits for it: half of a ball's way to and fro."""
    balls = 300 if effort is _QUICK else 2000
    x = np.ones(1, np.float32)

    def variables() -> float:
        ping, pong = sv.Variable(x), sv.Variable(x)
        return _ball(
            balls,
            lambda i: (ping.assign(x), pong.wait(i + 1)),
            lambda i: (ping.wait(i + 1), pong.assign(x)),
        )

    def hand_over(ping: Any, pong: Any) -> float:
        return _ball(balls, lambda _: (ping.release(), pong.acquire()), lambda _: (ping.acquire(), pong.release()))

    def locks() -> float:
        ping, pong = threading.Lock(), threading.Lock()
        ping.acquire()
        pong.acquire()
        return hand_over(ping, pong)

    def semaphores() -> float:
        return hand_over(threading.Semaphore(0), threading.Semaphore(0))

    contenders = {"v.wait": variables, "threading.Semaphore": semaphores, "threading.Lock": locks}
    got = in_turns(contenders, effort.repeats)
    print_table("wait: from the write to the waking, µs", list(got), [[f"{each * 1e6:.1f}" for each in got.values()]])


def _ball(balls: int, here: Callable[[int], object], there: Callable[[int], object]) -> float:
    def other() -> None:
        for i in range(balls):
            there(i)

    thread = threading.Thread(target=other)
    thread.start()
    start = time.perf_counter()
    for i in range(balls):
        here(i)
    seconds = time.perf_counter() - start
    thread.join()
    return seconds / balls / 2


# -- the command -----------------------------------------------------------------------------------------------

_SECTIONS: dict[str, Callable[[Effort], None]] = {
    "many": print_many,  # first, while the heap is new
    "transaction": lambda effort: print_cases("transaction, µs for all its variables", transaction_cases(), effort),
    "contention": print_contention,
    "snapshot": lambda effort: print_cases("snapshot", snapshot_cases(), effort),
    "together": lambda effort: print_cases("many variables in one call", together_cases(), effort),
    "reads": print_reads,
    "writers": print_writers,
    "hogwild": print_hogwild,
    "memory": print_memory,
    "edit": lambda effort: print_cases("update, edit, subscribe", edit_cases(), effort),
    "wait": print_wait,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few short rounds, and 400 MB in place of 1 GB")
    parser.add_argument("--only", default="", metavar="REGEX", help=f"to find in {', '.join(_SECTIONS)}")
    options = parser.parse_args()
    set_environment(1)
    print(machine(1))
    start = time.perf_counter()
    for name, section in _SECTIONS.items():
        if re.search(options.only, name):
            began = time.perf_counter()
            section(_QUICK if options.quick else _FULL)
            print(f"\n*{name}: {time.perf_counter() - began:.0f} s*", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s; load {load()} at the end.")


if __name__ == "__main__":
    main()
