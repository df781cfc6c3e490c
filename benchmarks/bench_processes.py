"""State that processes share: what it keeps, what it costs, and what is left of it after SIGKILL, beside eleven others.

Run ``python benchmarks/bench_processes.py``, about twenty minutes, or ``--quick``, about four; ``--only REGEX`` for the
sections (faults, small, large, rows) in whose name it is found, ``--peers REGEX`` for the systems, ``--rows 1,5`` for
some of the rows at the end. It prints Markdown tables. Nothing is asserted: a busy machine gives other figures.

It runs with a /dev/shm of its own where `unshare` allows it (as root, or with user namespaces): so nothing is left in
that of the machine, and at most 4 GB of memory are used. Linux only. What is timed is timed in turns, each system in a
process of its own; the shortest time counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_concurrency import print_table
from bench_variable import machine, set_environment
from harness import Case, Contender, Names, Race, Workers, load
from shared_faults import FAULTS, FULL, QUICK, with_shared_memory_of
from shared_peers import PEERS, missing
from shared_rows import FULL as MANY
from shared_rows import QUICK as FEW
from shared_rows import ROWS

_INSIDE = "STATEVAR_BENCHMARK_INSIDE"
_ROOM = "4g"
_PATIENCE = 200.0  # seconds for one fault of one system
_ROW = 900.0  # seconds for one row
_WORKER = 300  # seconds that a worker of a race may live with one size
_MEDIUM, _LARGE = 1 << 18, 25_000_000  # float32 elements: 1 MiB and 100 MB

_WITHOUT_ARRAYS = ("4 processes add one: kept", "left after SIGKILL of all")

# -- faults ----------------------------------------------------------------------------------------------------


def print_faults(names: list[str], quick: bool) -> None:
    rows = ([name, *(_fault(name, fault, quick) for fault in FAULTS)] for name in names)
    print_table("The same faults for all", ["", *FAULTS], rows)


def _fault(name: str, fault: str, quick: bool) -> str:
    """The cell of one fault; found in a process of its own."""
    if not PEERS[name].has_array and fault not in _WITHOUT_ARRAYS:
        return "no arrays"
    command = [sys.executable, __file__, "--fault", fault, "--peer", name, *(["--quick"] * quick)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["died"])[-1]
        return last[:90].replace("|", "/")
    cell: str = json.loads(done.stdout.splitlines()[-1])
    return cell


# -- times -----------------------------------------------------------------------------------------------------


def open_names(worker: str, size: int) -> Names:
    """The names of one worker, which is called like what it shares."""
    if worker == "np.copyto":
        return {"np": np, "x": np.ones(size, np.float32), "y": np.zeros(size, np.float32)}
    return {"peer": _open(worker, size), "x": np.ones(size, np.float32)}


_opened: list[Any] = []


def _open(name: str, size: int) -> Any:
    signal.alarm(_WORKER)  # the kernel ends a worker that hangs
    while _opened:
        _opened.pop().close()
    _opened.append(PEERS[name](size))
    return _opened[-1]


def _works(name: str, size: int) -> bool:
    """Whether a new process can write and read it, and ends by itself."""
    command = [sys.executable, "-c", _TRY, str(Path(__file__).parent), name, str(size)]
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
    except subprocess.TimeoutExpired:
        return False


_TRY = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from shared_peers import PEERS
peer = PEERS[sys.argv[2]](int(sys.argv[3]))
for _ in range(1000):
    peer.add()
for _ in range(100 if peer.size < 10_000_000 else 5):
    if peer.has_array:
        peer.put(np.ones(peer.size, np.float32))
        peer.get()
peer.close()
"""


def print_times(title: str, statements: dict[str, str], names: list[str], size: int, quick: bool) -> None:
    """A row for each system, with the ratio to the fastest of all in each column."""
    able = [name for name in names if PEERS[name].has_array or size == 1]
    names = [name for name in able if _works(name, size)]
    workers = Workers([*names, "np.copyto"], open_names)
    try:
        workers.open(size)
        columns = {what: _race(statement, names, workers, size, quick) for what, statement in statements.items()}
    finally:
        workers.close()
    heads = [f"{what}, µs (ratio to statevar)" for what in statements]
    rows = [[name, *(_cell(columns[what], name) for what in statements)] for name in [*names, "np.copyto"]]
    print_table(title, ["", *heads], rows)
    if hang := [name for name in able if name not in names]:
        print(f"\nFails or hangs in one process: {', '.join(hang)}", flush=True)


def _race(statement: str, names: Iterable[str], workers: Workers, size: int, quick: bool) -> dict[str, float]:
    able = [name for name in names if "view" not in statement or PEERS[name].has_view]
    contenders = [Contender(name, name, statement) for name in able]
    if not contenders:
        return {}
    if "put" in statement or "get" in statement:
        contenders.append(Contender("np.copyto", "np.copyto", "np.copyto(y, x)"))
    case = Case(statement, "", size, contenders[0], contenders[-1], tuple(contenders[1:-1]))
    race = Race(case, workers)
    race.run(3 if quick else 12, 0.005, 20.0)
    return {each.label: seconds for each, seconds in race.result().seconds.items()}


def _cell(seconds: dict[str, float], name: str) -> str:
    if name not in seconds:
        return ""
    us = seconds[name] * 1e6
    text = f"{us:,.0f}" if us >= 100 else f"{us:.3g}"
    return f"{text} ({seconds[name] / seconds['statevar']:.2f})" if "statevar" in seconds else text


_SMALL = {"read 8 B": "peer.count()", "add one": "peer.add()"}
_ARRAYS = {"put 1 MB": "peer.put(x)", "get 1 MB": "peer.get()", "view 1 MB": "peer.view()"}
_BIG = {"put 100 MB": "peer.put(x)", "get 100 MB": "peer.get()", "view 100 MB": "peer.view()"}

# -- the rows --------------------------------------------------------------------------------------------------


def print_rows(chosen: list[int], quick: bool, before: str) -> None:
    rows = ([str(number), *_row(number, quick, before)] for number in chosen)
    print_table("What statevar has to meet", ["", "what", "figure", "bar", "met"], rows)


def _row(number: int, quick: bool, before: str) -> list[str]:
    """Found in a process of its own."""
    command = [sys.executable, __file__, "--row", str(number), "--before", before, *(["--quick"] * quick)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_ROW)
    except subprocess.TimeoutExpired:
        return [ROWS[number].__name__, "hangs", "", "no"]
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["died"])[-1]
        return [ROWS[number].__name__, last[:200].replace("|", "/"), "", "no"]
    cells: list[str] = json.loads(done.stdout.splitlines()[-1])
    return cells


# -- the command -----------------------------------------------------------------------------------------------


def _inside() -> None:
    """Starts this program again, with a /dev/shm of its own."""
    if os.environ.get(_INSIDE) or shutil.which("unshare") is None:
        return
    if subprocess.run(with_shared_memory_of(_ROOM, ["true"]), check=False, capture_output=True).returncode:
        return
    os.environ[_INSIDE] = "1"
    command = with_shared_memory_of(_ROOM, [sys.executable, *sys.argv])
    os.execvp(command[0], command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer trials")
    parser.add_argument("--only", default="", metavar="REGEX", help="to find in faults, small, large, rows")
    parser.add_argument("--peers", default="", metavar="REGEX", help=f"to find in {', '.join(PEERS)}")
    parser.add_argument("--rows", default="", metavar="1,5", help="these of the rows; all by default")
    parser.add_argument(
        "--before", default="", metavar="SRC", help="the folder src of a statevar to compare row 14 with"
    )
    parser.add_argument("--row", type=int, choices=list(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--fault", choices=list(FAULTS), help=argparse.SUPPRESS)
    parser.add_argument("--peer", choices=list(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if sys.platform != "linux":
        parser.error("it needs Linux")
    set_environment(1)
    if options.fault:
        print(json.dumps(FAULTS[options.fault](options.peer, QUICK if options.quick else FULL)))
        return
    if options.row:
        found = ROWS[options.row](replace(FEW if options.quick else MANY, before=options.before))
        print(json.dumps([found.what, found.figure, found.bar, {True: "yes", False: "NO", None: "unknown"}[found.met]]))
        return
    _inside()
    start = time.perf_counter()
    own = "its own" if os.environ.get(_INSIDE) else "that of the machine"
    print(f"{machine(1)} /dev/shm: {own}.\n", flush=True)
    absent = missing()
    names = [name for name in PEERS if re.search(options.peers, name) and name not in absent]
    quick = options.quick
    if re.search(options.only, "faults"):
        print_faults(names, quick)
    if re.search(options.only, "small"):
        print_times("A counter", _SMALL, names, 1, quick)
        print_times("An array of 1 MB", _ARRAYS, names, _MEDIUM, quick)
    if re.search(options.only, "large"):
        chosen = [name for name in names if name not in ("Manager", "UltraDict", "SQLite WAL", "Redis")]
        print_times("An array of 100 MB", _BIG, chosen, _LARGE, quick)
    if re.search(options.only, "rows"):
        print_rows([int(each) for each in options.rows.split(",") if each] or list(ROWS), quick, options.before)
    print()
    for name, why in absent.items():
        print(f"Left out: {name} ({why})")
    print(f"\n{time.perf_counter() - start:.0f} s; load {load()} at the end.")


if __name__ == "__main__":
    main()
