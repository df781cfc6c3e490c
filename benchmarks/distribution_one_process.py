"""The section `one-process` of `bench_distribution.py`: variables on one device, beside those of an older checkout.

Whoever has one process and one device pays nothing for the rest: set ``STATEVAR_BEFORE`` to the ``src`` folder of a
checkout from before, such as one of ``git worktree add --detach ../before COMMIT``. Both trees take turns, each time in
a new process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from processes import Row, on_processes, print_ratios, race

_LIBRARIES = ("numpy", "jax", "torch", "tensorflow")
_CALLS = 500
_TREES = "ours", "before"


def tables(rounds: int) -> None:
    before = os.environ.get("STATEVAR_BEFORE")
    if not before:
        print("\n### one process\n\nNot measured: STATEVAR_BEFORE names no older checkout.")
        return
    for library in _LIBRARIES:
        rows = [
            Row(f"{library}: {name}", ours * 1e6, raw * 1e6, limit=1.02)
            for name, (ours, raw) in _beside(library, before, max(2, rounds // 5)).items()
        ]
        print_ratios(f"one process: {library}, beside {before}", rows, unit="µs")


def _beside(library: str, before: str, turns: int) -> dict[str, tuple[float, float]]:
    """The seconds of each statement at its best, in this tree and in the other one."""
    paths = {"ours": str(Path(__file__).parents[1] / "src"), "before": str(Path(before).resolve())}
    best: dict[str, dict[str, float]] = {tree: {} for tree in _TREES}
    for turn in range(turns):
        for tree in _TREES if turn % 2 else reversed(_TREES):
            (found,) = on_processes(statements, 1, "", source=paths[tree], backend=library)
            for name, seconds in found.items():
                best[tree][name] = min(seconds, best[tree].get(name, seconds))
    return {name: (best["ours"][name], best["before"][name]) for name in best["ours"]}


def statements(backend: str) -> dict[str, float]:
    """Runs in a process: the seconds of what is done most."""
    import numpy as np

    import statevar as sv

    value = np.ones(16, "float32")
    v, x = sv.Variable(value, backend=backend), sv.Variable(2 * value, backend=backend).value
    many = [sv.Variable(value, backend=backend) for _ in range(100)]

    def item() -> None:
        v[3] = 1.0

    def block() -> None:
        with sv.transaction(v):
            v.assign(x)

    jobs: dict[str, Callable[[], object]] = {
        "read": lambda: v.value,
        "assign": lambda: v.assign(x),
        "assign_add of a number": lambda: v.assign_add(1.0),
        "set an item": item,
        "add to a number": lambda: v + 1.0,
        "a transaction": block,
    }
    found = race(jobs, 30, calls=_CALLS)
    makes: dict[str, Callable[[], object]] = {
        "make a variable": lambda: sv.Variable(value, backend=backend),
        "snapshot of 100": lambda: sv.snapshot(many),
    }
    return found | race(makes, 30, calls=_CALLS // 10)
