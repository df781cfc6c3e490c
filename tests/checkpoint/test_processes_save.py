"""Checkpoints of real processes: of JAX and torch across, and of processes that are killed at any moment.

Run as a program, this is the server of a test: a process without frameworks, in which a fork is safe and quick. It
forks the processes of a program, kills one of them, and has a look at what is left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import ProcessError
from tests.checkpoint.many import Sharding, be_process, spread, write
from tests.helpers import ROOT, let_pass, thorough, until
from tests.internals import heartbeats
from tests.launch import Group, free_ports

COUNT = 3  # processes
SURVIVE = 30.0  # seconds in which those that are left have to raise an error
SIZE = (300, 100)


@pytest.mark.own_process
def test_two_processes_of_jax_and_torch_load_what_each_other_saved(tmp_path: Path) -> None:
    for library in ("jax", "torch"):
        sv.Variable(0.0, backend=library)  # it is installed
    program = ["tests/checkpoint/processes_program.py", str(tmp_path), str(free_ports(1)[0])]
    with Group(program, 2, library="jax", devices=2) as group:
        ended = group.wait(grace=None)
    assert [each.status for each in ended] == [0, -signal.SIGKILL], "\n".join(map(str, ended))
    said = [[line for line in each.out.splitlines() if not line.startswith("[Gloo]")] for each in ended]
    assert said == [["loaded", "noticed True"], ["loaded"]]
    for name in ("jax", "torch"):
        assert sv.verify(tmp_path / name).checked == 6
    assert not (tmp_path / "never").exists()


# -- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("kills", [thorough(4, 20)])
def test_a_process_that_is_killed_at_any_moment_loses_nothing(
    kills: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = time.time_ns()
    # Python 3.12 warns of any fork beside threads; those here are the idle ones of a BLAS.
    strict = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    arguments = [str(kills), str(tmp_path), str(seed)]
    command = [sys.executable, *strict, "-m", "tests.checkpoint.test_processes_save", *arguments]
    limit = 100 + 10 * kills
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    assert not done.returncode, f"seed {seed}\n{done.stderr[-4000:]}"
    result = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\nkills of one of {COUNT} processes, seed {seed}: {result}")
    assert result["kills"] == kills
    assert result["errors of survivors"] == kills * (COUNT - 1)


def state_of(index: int, count: int) -> dict[str, Any]:
    """What says of which save it is: a value that is spread, and two that all processes have."""
    zeros = np.zeros(SIZE, "float32")
    rows = spread(zeros, Sharding((COUNT,), index, count))
    return {"rows": rows, "whole": sv.Variable(zeros), "step": sv.Variable(0)}


def put(state: dict[str, Any], step: int) -> None:
    write(state["rows"], step)
    state["whole"].assign(np.full(SIZE, step, "float32"))
    state["step"].assign(step)


def step_in(path: Path) -> int:
    """Of which save a checkpoint is, all of it."""
    with sv.load(path) as saved:
        (found,) = {int(x) for name in saved for x in np.unique(saved[name])}
    return found


def program(folder: Path, store: Path, index: int, mouth: int) -> None:
    """One process: restores, and saves in the background; says each step that has come back."""
    be_process(store, index, COUNT)
    state = state_of(index, COUNT)
    with sv.CheckpointManager(folder, state, keep=2) as manager:
        restored = manager.restore()
        step = 0 if restored is None else restored.step
        assert int(state["step"]) == step
        _say(mouth, 0)
        while True:
            for _ in range(2):
                step += 1
                put(state, step)
                manager.save(step)
            manager.wait()
            _say(mouth, step)


def _say(mouth: int, number: int) -> None:
    os.write(mouth, number.to_bytes(8, "little"))


class Child:
    """A process of a program."""

    def __init__(self, folder: Path, store: Path, index: int) -> None:
        self.ear, mouth = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                os.close(self.ear)
                program(folder, store, index, mouth)
            except ProcessError as error:
                status = 7
                if not any(text in str(error) for text in ("has died", "left the call")):
                    print(f"process {index}: {error}", file=sys.stderr, flush=True)
                    status = 1
            except BaseException as error:  # noqa: BLE001  # the server sees how it ended
                print(f"process {index}: {error!r}", file=sys.stderr, flush=True)
            os._exit(status)
        os.close(mouth)
        self.said = -1

    def hear(self) -> None:
        """Waits until it says one more number, or has ended."""
        self.said = int.from_bytes(os.read(self.ear, 8), "little")

    def status(self) -> int | None:
        """How it ended; None while it runs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def last(self) -> int:
        """The last number that it has said."""
        while number := os.read(self.ear, 8):
            self.said = int.from_bytes(number, "little")
        os.close(self.ear)
        return self.said


def kill_one(folder: Path, rng: random.Random, longest: float, result: Counter[str]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as store:
        children = [Child(folder, Path(store), index) for index in range(COUNT)]
        for each in children:
            each.hear()
        let_pass(rng.uniform(0, longest))
        victim = rng.randrange(COUNT)
        os.kill(children[victim].pid, signal.SIGKILL)
        began = time.monotonic()
        ends: dict[int, int] = {}

        def have_ended() -> bool:
            for index, each in enumerate(children):
                if index not in ends and (status := each.status()) is not None:
                    ends[index] = status
            return len(ends) == COUNT or time.monotonic() > began + SURVIVE

        until(have_ended)
        for index in set(range(COUNT)) - ends.keys():
            os.kill(children[index].pid, signal.SIGKILL)
            os.waitpid(children[index].pid, 0)
        killed = ends.get(victim) == -signal.SIGKILL  # else a busy machine was silent for so long that all gave up
        assert ends == {index: -signal.SIGKILL if index == victim and killed else 7 for index in range(COUNT)}, ends
        returned = max(each.last() for each in children)
    result["kills"] += killed
    result["errors of survivors"] += killed * (COUNT - 1)
    state = state_of(0, 1)
    with sv.CheckpointManager(folder, state, keep=2) as manager:  # one process, which removes what was left
        steps = manager.steps()
        assert [step_in(manager.path(step)) for step in steps] == steps, "a mixture"
        found = max(steps, default=0)
        assert found >= returned, f"{returned} has returned, found {found}"
        assert {path.name for path in folder.iterdir()} == {".lock", *(manager.path(step).name for step in steps)}
        restored = manager.restore()
        assert restored is None or (restored.step, restored.skipped) == (found, {})
    result["steps"] = found


def main() -> None:
    kills, place, seed = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    heartbeats.set_dead_after(1.5)
    rng, result = random.Random(seed), Counter[str]()
    while result["kills"] < kills:
        kill_one(place / "run", rng, 0.4, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
