"""Every state of the disk that a power cut may leave is one save, whole: the last that returned, or the one under way.

Each element says which save it belongs to, so that a mixture shows. What a power cut may leave is in `disks`.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import pytest

import statevar as sv
from tests.checkpoint.disks import Cut, Recorder, build, names_in, power_cuts
from tests.checkpoint.generations import generation_of, made, put
from tests.internals import files

pytestmark = pytest.mark.slow

#: How much is tried after each operation: all of it, where that is not more.
LIMIT = 200
FEW = 8  # are enough to find a fault


# -- what is saved, and how it is looked at --------------------------------------------------------------------


@dataclass
class Survey:
    """What became of every power cut."""

    states: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def faults(self) -> int:
        return self.states - self.verdicts["old"] - self.verdicts["new"]

    def __str__(self) -> str:
        found = ", ".join(f"{number} {name}" for name, number in sorted(self.verdicts.items()))
        return f"{self.states} states: {found}"


def survey(recorder: Recorder, look: Callable[[Path], int], folder: Path, limit: int = LIMIT) -> Survey:
    """Builds what each power cut may leave, and has a look at it.

    Args:
        look: returns which save it finds; 0 if none, -1 for a mixture.
    """
    rng = random.Random(seed := time.time_ns())
    result = Survey()
    names = count()
    with pytest.MonkeyPatch.context() as patch:  # nothing is to survive the looks themselves
        patch.setattr(files, "sync", lambda _: None)
        patch.setattr(files, "sync_folder", lambda _: None)
        for cut in power_cuts(recorder.log, limit, rng):
            place = folder / str(next(names))
            build(cut.disk, place)
            result.states += 1
            verdict, why = judged(cut, look, place)
            result.verdicts[verdict] += 1
            result.examples.setdefault(verdict, f"{why}; seed {seed}, {cut}")
            shutil.rmtree(place)
    return result


def judged(cut: Cut, look: Callable[[Path], int], place: Path) -> tuple[str, str]:
    try:
        found = look(place)
    except (sv.errors.StatevarError, OSError, ValueError, RuntimeWarning, AssertionError) as error:
        return "LOST", repr(error)
    if found < 0 or found > cut.begun:
        return "SILENT", f"found {found}"
    if found < cut.returned:
        return "FORGOTTEN", f"found {found}"
    return ("new" if found == cut.begun else "old"), ""


def assert_none(result: Survey) -> None:
    assert not result.faults, {name: why[:2000] for name, why in result.examples.items() if name.isupper()}


# -- files ---------------------------------------------------------------------------------------------------------

#: The options of each save, one after the other, over one path.
SAVES: dict[str, list[dict[str, int]]] = {
    "the first file": [{}],
    "a file over a file": [{}, {}, {}],
    "the first shards": [{"max_shard_size": 700}],
    "shards over a file": [{}, {"max_shard_size": 700}],
    "shards over shards": [{"max_shard_size": 700}, {"max_shard_size": 700}],
    "a file over shards": [{"max_shard_size": 700}, {}],
    "shards over others": [{"max_shard_size": 700}, {"max_shard_size": 1400}, {}],
}

NAME = "model.safetensors"


def saved(folder: Path, options: list[dict[str, int]], without: tuple[str, ...] = ()) -> Recorder:
    """Saves that often, one generation after the other."""
    (folder / "disk").mkdir()
    recorder, model = Recorder(folder / "disk", without), made()
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        for generation, each in enumerate(options, 1):
            put(model, generation)
            recorder.begin(generation)
            sv.save(model, folder / "disk" / NAME, max_shard_size=each.get("max_shard_size"))
            recorder.end(generation)
    return recorder


def look_at_file(place: Path) -> int:
    """Loads it; then saves again, which works, and leaves nothing else behind."""
    model = made()
    try:
        sv.load(model, place / NAME)
        assert sv.verify(place / NAME)
        found = generation_of(model)
    except sv.errors.CheckpointNotFoundError:
        found = 0
    put(model, 7)
    sv.save(model, place / NAME)
    assert names_in(place) == {NAME}, f"left behind: {names_in(place)}"
    again = made()
    sv.load(again, place / NAME)
    assert generation_of(again) == 7
    return found


@pytest.mark.parametrize("scenario", SAVES)
def test_a_power_cut_leaves_one_whole_save(scenario: str, memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = survey(saved(memory, SAVES[scenario]), look_at_file, memory)
    with capsys.disabled():
        print(f"\npower cuts, {scenario}: {result}")
    assert_none(result)
    assert result.states > 50
    assert result.verdicts["new"]
    assert result.verdicts["old"]


# -- checkpoints ---------------------------------------------------------------------------------------------------


def managed(folder: Path, without: tuple[str, ...] = (), saves: int = 4) -> Recorder:
    """Saves checkpoints, of which two are kept, and every even one links a file of the one before."""
    (folder / "disk").mkdir()
    recorder, model = Recorder(folder / "disk", without), made()
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        with sv.CheckpointManager(folder / "disk" / "run", model, keep=2, shard_size=700) as manager:
            for generation in range(1, saves + 1):
                put(model, generation)
                recorder.begin(generation)
                manager.save(generation, wait=True)
                recorder.end(generation)
    return recorder


def look_at_checkpoints(place: Path) -> int:
    """Restores the newest; then saves the next one, after which there is nothing that does not belong there."""
    model = made()
    with sv.CheckpointManager(place / "run", model, keep=2, shard_size=700) as manager:
        restored = manager.restore()
        found = 0 if restored is None else generation_of(model)
        assert restored is None or (found == restored.step and not restored.skipped)
        assert all(sv.verify(manager.path(step)) for step in manager.steps()), "an elder one is damaged"
        put(model, 7)
        manager.save(7, wait=True)
        assert manager.latest == 7
        names = {f"step-{step:010d}" for step in manager.steps()} | {".lock"}
        assert len(names) <= 3
        assert names_in(place / "run") == names, f"left behind: {names_in(place / 'run')}"
        again = made()
        sv.load(again, manager.path(7))
        assert generation_of(again) == 7
    return found


def test_a_power_cut_leaves_the_manager_a_whole_checkpoint(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = managed(memory)
    result = survey(recorder, look_at_checkpoints, memory)
    with capsys.disabled():
        print(f"\npower cuts, four checkpoints of which two are kept: {result}")
    assert_none(result)
    assert result.states > 300
    assert result.verdicts["new"]
    assert result.verdicts["old"]


# -- the test of the test --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left_out", ["sync", "sync_folder"])
@pytest.mark.parametrize("scenario", ["a file over a file", "shards over shards", "checkpoints"])
def test_it_finds_what_is_not_synced(
    scenario: str, left_out: str, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if scenario == "checkpoints":
        result = survey(managed(memory, (left_out,), saves=2), look_at_checkpoints, memory, FEW)
    else:
        result = survey(saved(memory, SAVES[scenario], (left_out,)), look_at_file, memory, FEW)
    with capsys.disabled():
        print(f"\npower cuts, {scenario} without {left_out}: {result}")
    assert result.verdicts["LOST" if left_out == "sync" else "FORGOTTEN"]
    assert not result.verdicts["SILENT"], result.examples["SILENT"][:2000]


def test_it_finds_what_is_written_in_place(memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A saver without a temporary file, and without checksums."""
    (memory / "disk").mkdir()
    recorder = Recorder(memory / "disk")
    path = memory / "disk" / NAME
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        for generation in (1, 2):
            recorder.begin(generation)
            file = os.open(path, os.O_RDWR) if path.exists() else files.create(path)
            files.write(file, [np.full(600, generation, "float32")], 0)
            files.sync(file)
            files.sync_folder(path.parent)
            files.close(file)
            recorder.end(generation)

    def look(place: Path) -> int:
        if not (place / NAME).exists():
            return 0
        found = set(np.frombuffer((place / NAME).read_bytes(), "float32").tolist())
        return int(found.pop()) if len(found) == 1 else -1

    result = survey(recorder, look, memory)
    with capsys.disabled():
        print(f"\npower cuts, in place: {result}")
    assert result.verdicts["SILENT"] > 10
