"""SIGKILL at any moment: the newest save is whole, none that has returned is lost, and nothing is left for ever.

Run as a program, this is the server of a test: a process without frameworks, in which a fork is safe and quick. It
forks a child for each kill, and then has a look at what is left.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import pytest

import statevar as sv
from tests.checkpoint.disks import names_in
from tests.helpers import ROOT, let_pass, until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")]

SIZE = 20_000
SHARD = 100_000  # bytes: each variable has a file
MOMENTS = 3.0  # of how many saves a kill comes at one

Model: TypeAlias = dict[str, sv.Variable]
#: Runs for ever; says 0 when it has begun, and each save that has returned.
Program: TypeAlias = Callable[[Callable[[int], None]], NoReturn]


# -- what is saved -----------------------------------------------------------------------------------------------


def made(generation: int = 0) -> Model:
    model = {name: sv.Variable(np.zeros(SIZE, "float32")) for name in "abc"}
    model["seldom"] = sv.Variable(np.zeros(SIZE, "int32"))
    put(model, generation)
    return model


def put(model: Model, generation: int) -> None:
    """Makes it the state of a save. Every other one has the same ``seldom``."""
    for i, name in enumerate("abc"):
        model[name].assign(np.full(SIZE, 4 * generation + i, "float32"))
    if model["seldom"].numpy()[0] != generation // 2:
        model["seldom"].assign(np.full(SIZE, generation // 2, "int32"))


def generation_of(model: Model) -> int:
    """Of which save it is; all of it is of one."""
    found = {(float(x) - i) / 4 for i, name in enumerate("abc") for x in np.unique(model[name].numpy())}
    assert len(found) == 1, f"a mixture of {found}"
    generation = int(found.pop())
    assert set(model["seldom"].numpy().tolist()) == {generation // 2}, f"{generation} has the wrong 'seldom'"
    return generation


# -- children ----------------------------------------------------------------------------------------------------


class Child:
    """A process that runs a program, has begun, and is killed."""

    def __init__(self, program: Program) -> None:
        self._ear, mouth = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(self._ear)
                program(lambda number: _say(mouth, number))
            except BaseException as error:  # noqa: BLE001  # the server sees how it ended
                print(f"a child: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os.close(mouth)
        self.said = -1
        self.hear()

    def hear(self) -> None:
        """Waits until it says one more number."""
        number = os.read(self._ear, 8)
        assert len(number) == 8, "the child has died by itself"
        self.said = int.from_bytes(number, "little")

    def kill(self) -> int:
        """Returns the last number that it has said."""
        os.kill(self._pid, signal.SIGKILL)
        assert os.waitpid(self._pid, 0)[1] == signal.SIGKILL, "the child has died by itself"
        while number := os.read(self._ear, 8):
            self.said = int.from_bytes(number, "little")
        os.close(self._ear)
        return self.said


def _say(mouth: int, number: int) -> None:
    os.write(mouth, number.to_bytes(8, "little"))


# -- saves over one path ------------------------------------------------------------------------------------------


def over_one_path(
    folder: Path, kills: int, rng: random.Random, *, writers: int, max_shard_size: int | None
) -> Counter[str]:
    """Each writer saves every so many generations; the kill of one does not disturb the others."""
    path = folder / "model.safetensors"
    result: Counter[str] = Counter()

    def program(first: int) -> Program:
        def run(say: Callable[[int], None]) -> NoReturn:
            model, generation = made(first), first
            say(0)
            while True:
                put(model, generation)
                sv.save(model, path, max_shard_size=max_shard_size)
                say(generation)
                generation += writers

        return run

    last, model = 0, made(0)
    longest = duration(lambda: sv.save(model, path, max_shard_size=max_shard_size)) * MOMENTS
    while result["kills"] < kills:
        children = [Child(program(last + i)) for i in range(1, writers + 1)]
        returned = []
        for child in children:
            let_pass(rng.uniform(0, longest))
            returned.append(child.kill())
        result["kills"] += writers
        result["files that a kill left"] += len(names_in(folder)) - 1 - len(shards_of(path))
        assert sv.verify(path)
        sv.load(model, path)
        found = generation_of(model)
        possible = {number + more for i, number in enumerate(returned) for more in (0, writers) if number}
        possible |= {last + i for i, number in enumerate(returned, 1) if not number}
        possible |= set() if any(returned) else {last}
        assert found in possible, f"{returned} have returned, found {found}"
        result["saves that came before their answer"] += found not in (*returned, last)
        last = max(found, *returned) + 1
        put(model, last)
        sv.save(model, path, max_shard_size=max_shard_size)
        assert names_in(folder) == {path.name, *shards_of(path)}, f"left behind: {names_in(folder)}"
    result["saves"] = last
    return result


def shards_of(path: Path) -> set[str]:
    """The files that an index names."""
    content = path.read_bytes()
    return set(json.loads(content)["weight_map"].values()) if content.startswith(b'{"') else set()


def duration(function: Callable[[], object]) -> float:
    begun = time.monotonic()
    function()
    return time.monotonic() - begun


# -- checkpoints -----------------------------------------------------------------------------------------------------


def manager_of(folder: Path, model: Model) -> sv.CheckpointManager:
    return sv.CheckpointManager(folder, model, keep=2, shard_size=SHARD)


def saving(folder: Path) -> Program:
    """Waits for the folder; then restores, and saves in the background, three at a time."""

    def run(say: Callable[[int], None]) -> NoReturn:
        model = made()
        managers: list[sv.CheckpointManager] = []

        def it_is_ours() -> bool:
            with suppress(sv.errors.ConflictError):
                managers.append(manager_of(folder, model))
            return bool(managers)

        until(it_is_ours)
        manager = managers[0]
        restored = manager.restore()
        step = 0 if restored is None else restored.step
        assert generation_of(model) == step
        say(0)
        while True:
            for _ in range(3):
                step += 1
                put(model, step)
                manager.save(step)
            manager.wait()
            say(step)

    return run


def waiting(folder: Path) -> Program:
    """The same, but is there at once."""

    def run(say: Callable[[int], None]) -> NoReturn:
        say(0)
        saving(folder)(lambda number: say(number) if number else None)

    return run


def look(folder: Path, returned: int, result: Counter[str]) -> int:
    """Whoever was killed has the folder no more, and all is well in it. Saves one more, and returns its step."""
    before = names_in(folder)
    model = made()
    with manager_of(folder, model) as manager:
        belonging = {".lock", *(manager.path(step).name for step in manager.steps())}
        assert names_in(folder) == belonging, f"left behind: {names_in(folder)}"
        result["folders that a kill left"] += len(before - belonging)
        restored = manager.restore()
        found = 0 if restored is None else restored.step
        assert restored is None or not restored.skipped
        assert generation_of(model) == found
        assert returned <= found <= returned + 3, f"{returned} has returned, found {found}"
        assert all(sv.verify(manager.path(step)) for step in manager.steps())
        result["saves that came before their answer"] += found - returned
        put(model, found + 1)
        manager.save(found + 1, wait=True)
        assert manager.steps() == [found, found + 1][-2 if found else -1 :]
        assert len(names_in(folder)) == 1 + len(manager.steps()), f"left behind: {names_in(folder)}"
    result["saves"] = found + 1
    return found + 1


def one_manager(folder: Path, kills: int, rng: random.Random) -> Counter[str]:
    result: Counter[str] = Counter()
    model, last = made(), 0
    with manager_of(folder, model) as manager:
        put(model, last := 1)
        longest = duration(lambda: manager.save(1, wait=True)) * MOMENTS * 3
    for _ in range(kills):
        child = Child(saving(folder))
        let_pass(rng.uniform(0, longest))
        last = look(folder, child.kill() or last, result)
    return result + Counter(kills=kills)


def two_managers(folder: Path, kills: int, rng: random.Random) -> Counter[str]:
    """The second has the folder once the first is dead, not before, and goes on where that one was."""
    result: Counter[str] = Counter()
    last, model = 0, made()
    while result["kills"] < kills:
        first = Child(saving(folder))
        second = Child(waiting(folder))
        try:
            manager_of(folder, model)
        except sv.errors.ConflictError:
            result["refused"] += 1
        let_pass(rng.uniform(0, 0.05))
        last = first.kill() or last
        second.hear()
        assert second.said > last, f"{last} has returned, and the next one saved {second.said}"
        let_pass(rng.uniform(0, 0.05))
        last = look(folder, second.kill(), result)
        result["kills"] += 2
    assert 2 * result["refused"] == result["kills"]
    return result


# -- the tests -------------------------------------------------------------------------------------------------------

Kind: TypeAlias = Callable[[Path, int, random.Random], Counter[str]]

#: What is killed, and how often.
KINDS: dict[str, tuple[int, Kind]] = {
    "a file": (40, partial(over_one_path, writers=1, max_shard_size=None)),
    "shards": (40, partial(over_one_path, writers=1, max_shard_size=SHARD)),
    "two writers": (20, partial(over_one_path, writers=2, max_shard_size=None)),
    "one manager": (60, one_manager),
    "two managers": (40, two_managers),
}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = time.time_ns()
    # Python 3.12 warns of any fork beside threads; those here are the idle ones of a BLAS.
    strict = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    command = [sys.executable, *strict, "-m", "tests.checkpoint.test_kills", kind, str(tmp_path), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert not done.returncode, f"seed {seed}\n{done.stderr[-4000:]}"
    assert not done.stderr, done.stderr
    result = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\nkills, {kind}, seed {seed}: {result}")
    assert result["kills"] == KINDS[kind][0]
    assert result["saves"] > KINDS[kind][0] / 2


if __name__ == "__main__":
    number, function = KINDS[sys.argv[1]]
    print(json.dumps(function(Path(sys.argv[2]), number, random.Random(int(sys.argv[3])))))
