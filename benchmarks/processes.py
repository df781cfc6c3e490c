"""Runs a function of a benchmark in several local processes at once, and times statements there in turns.

A function runs in all processes of a group as one program: what communicates is called by all of them, in the same
order. So the rounds of a race are counted, and never limited by a clock, which is another one in each process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from bench_concurrency import print_table

from tests.launch import ROOT, run

__all__ = ["Row", "on_processes", "print_ratios", "race"]

_ANSWER = "benchmark answers: "
_PROGRAM = """
import json, sys
sys.path.insert(0, {folder!r})
import {module}
answer = {module}.{function}(**json.loads(sys.argv[1]))
print({marker!r} + json.dumps(answer), flush=True)
"""


def on_processes(
    function: Callable[..., Any],
    count: int,
    library: str,
    *,
    devices: int = 1,
    limit: float = 300.0,
    source: str = "",
    **arguments: Any,
) -> list[Any]:
    """Calls a function in so many new processes of an engine, and returns what each call returned, by process.

    Args:
        function: of a module in this folder, found there by its name. What it returns, and takes, is JSON.
        library: jax, torch or tensorflow: the engine whose environment the processes get.
        devices: the virtual devices of each process, of JAX.
        limit: seconds after which the processes are ended, an error.
        source: the folder in which they find statevar, by default that of this checkout.
    """
    program = _PROGRAM.format(
        folder=str(Path(__file__).parent),
        module=Path(function.__code__.co_filename).stem,
        function=function.__name__,
        marker=_ANSWER,
    )
    environment = {"PYTHONPATH": f"{source}{os.pathsep}{ROOT}"} if source else {}
    printed = run(
        ["-c", program, json.dumps(arguments)],
        count,
        library=library,
        devices=devices,
        limit=limit,
        environment=environment,
    )
    return [json.loads(each.rpartition(_ANSWER)[2]) for each in printed]


def race(jobs: dict[str, Callable[[], object]], rounds: int = 20, *, calls: int = 1) -> dict[str, float]:
    """The seconds of one call of each job at its best. They take turns, after a first round that does not count.

    Args:
        calls: how often a job is called in one turn.
    """
    best = dict.fromkeys(jobs, float("inf"))
    names = list(jobs)
    for done in range(rounds + 1):
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            job = jobs[name]
            start = time.perf_counter()
            for _ in range(calls):
                job()
            if done:
                best[name] = min(best[name], (time.perf_counter() - start) / calls)
    return best


@dataclass(frozen=True)
class Row:
    """One line of a table: what ours takes beside the raw library."""

    what: str
    ours: float  #: seconds, or whatever both are measured in
    raw: float
    limit: float | None = None  #: the ratio that the design asks for at most
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.ours / self.raw if self.raw else float("inf")

    @property
    def met(self) -> bool | None:
        return None if self.limit is None else self.ratio <= self.limit

    def cells(self) -> list[str]:
        target = "" if self.limit is None else f"≤ {self.limit:g}"
        reached = {True: "yes", False: "no", None: ""}[self.met]
        return [self.what, f"{self.ours:.4g}", f"{self.raw:.4g}", f"{self.ratio:.2f}", target, reached, self.note]


def print_ratios(title: str, rows: Iterable[Row], unit: str = "s") -> list[Row]:
    """Prints a table of ratios, and returns its rows."""
    rows = list(rows)
    heads = ["what", f"statevar, {unit}", f"raw, {unit}", "ratio", "target", "met", "note"]
    print_table(title, heads, [each.cells() for each in rows])
    return rows
