"""Kills random processes that write and read a pool at random moments, and says what the others saw.

``python -m tests.shared.killed_program FILE KILLS SEED`` prints one line of JSON. A process that is killed is replaced;
every invariant is looked at by readers all the time, and at the end.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.helpers import let_pass, until
from tests.shared.records import add, consistent, created, put, put_together

WRITERS, READERS = 4, 2
MONEY = 1_000_000
#: Seconds within which all others have to go on after a kill.
PATIENCE = 30.0


def counters(n: int) -> Any:
    """Numbers that forked processes share; a kill leaves none half-written."""
    return np.frombuffer(mmap.mmap(-1, 8 * n), np.int64)


def write(pool: Any, number: int, acknowledged: Any, progress: Any) -> None:
    chance, records = random.Random(os.getpid()), pool.records
    while True:
        what = chance.randrange(7)
        if what == 0:
            add(records["counter"], 1)
            acknowledged[number] += 1  # a kill between the two leaves the counter one ahead
        elif what == 1:
            first, second = (records[name] for name in chance.sample("abc", 2))
            amount = chance.randrange(100)
            put_together([first, second], [lambda x: x - amount, lambda x: x + amount])  # noqa: B023  # called at once
        elif what == 2:
            put(records["large"], float(chance.randrange(1000)))
        elif what == 3:
            put_together([records["x"], records["y"]], [float(chance.randrange(1000))] * 2)
        elif what in (4, 5):
            row = chance.randrange(500)
            add(records["rows"], float(chance.randrange(1000)), (row, row + chance.randrange(1, 12)))
        else:
            put_together([records["a"], records["c"]], [0, 0], abandon=True)
        progress[number] += 1


def read(pool: Any, number: int, bad: Any, progress: Any) -> None:
    records = pool.records
    while True:
        bad[0] += sum(int(each) for each in consistent([records[name] for name in "abc"])) != MONEY
        x, y = consistent([records["x"], records["y"]])
        bad[1] += bool(x.min() != x.max() or y.min() != y.max() or x[0] != y[0])
        large, _ = records["large"].read()
        seen = large.min()
        bad[2] += bool(seen != large.max())
        rows, _ = records["rows"].read()
        bad[3] += bool((rows.min(1) != rows.max(1)).any())
        total = rows.sum()
        before = records["counter"].version
        bad[4] += records["counter"].version < before
        let_pass(0.001)  # others write meanwhile, and what is held does not change
        bad[5] += bool(x[0] != x.max() or large.max() != seen or large.min() != seen or rows.sum() != total)
        progress[number] += 1


def started(function: Callable[..., None], *arguments: Any, bad: Any) -> int:
    """A forked process, which ends by an alarm if nobody kills it, and has a child of its own."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.alarm(300)
        if os.fork() == 0:  # lives on for a while when its parent is killed, and must not keep its claims
            signal.alarm(1)
            signal.pause()
        function(*arguments)
    except BaseException:  # noqa: BLE001  # counted
        traceback.print_exc()
        bad[7] += 1
    os._exit(3)


def main(file: str, kills: int, seed: int) -> None:
    large = np.zeros(1 << 18, np.float32)
    pool = created(
        file,
        counter=np.int64(0),
        a=np.int64(MONEY),
        b=np.int64(0),
        c=np.int64(0),
        large=large,
        x=large[: 1 << 16],
        y=large[: 1 << 16],
        rows=np.zeros((512, 64), np.float32),
    )
    acknowledged, progress, bad = counters(WRITERS), counters(WRITERS + READERS), counters(8)
    chance = random.Random(seed)

    def start(number: int) -> int:
        if number < WRITERS:
            return started(write, pool, number, acknowledged, progress, bad=bad)
        return started(read, pool, number, bad, progress, bad=bad)

    everybody = [start(number) for number in range(WRITERS + READERS)]
    slowest, hung, done = 0.0, 0, 0
    while done < kills and not hung:
        done += 1
        let_pass(chance.random() * 0.02)  # the moment of the kill
        victim = chance.randrange(len(everybody))
        os.kill(everybody[victim], signal.SIGKILL)
        os.waitpid(everybody[victim], 0)
        before = progress.copy()
        everybody[victim] = start(victim)
        began = time.monotonic()
        others = np.arange(len(everybody)) != victim
        try:
            until(lambda: (progress > before)[others].all(), PATIENCE)  # noqa: B023  # called at once
        except AssertionError:
            hung = 1
        slowest = max(slowest, time.monotonic() - began)
    for each in everybody:
        os.kill(each, signal.SIGKILL)
        os.waitpid(each, 0)
    records = pool.records
    x, y, rows, counter = (records[name].read()[0] for name in ("x", "y", "rows", "counter"))
    whole = x.min() == x.max() == y.min() == y.max() and bool((rows.min(1) == rows.max(1)).all())
    result = {
        "kills": done,
        "hung": hung,
        "slowest": round(slowest, 3),
        "counter": int(counter),
        "acknowledged": int(acknowledged.sum()),
        "money": sum(int(records[name].read()[0]) for name in "abc") - MONEY,
        "whole": bool(whole),
        "bad": bad.tolist(),
        "writes": int(progress[:WRITERS].sum()),
        "reads": int(progress[WRITERS:].sum()),
        "recoveries": sum(each.words[10] for each in records.values()),
        "after": add(records["counter"], 1) > 0,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
