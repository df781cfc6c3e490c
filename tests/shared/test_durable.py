"""What a loss of power may leave of a pool: the values of the last sync that has returned, or later ones, all whole.

The kernel writes pages back whenever it likes. So after each line of the code that changes the file, the disk may have,
of each sector, what was in it at any moment since the last flush. All this is recorded, and such disks are built.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from statevar.errors import SharedError, StateWarning, StorageError
from tests.helpers import thorough
from tests.internals import shared_part

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux only")

durable = shared_part("durable")
layout = shared_part("layout")
places = shared_part("places")
pools = shared_part("pool")
commits = shared_part("commit")
#: What a disk writes whole or not at all.
SECTOR = 512
SIZES = {"a": 3, "b": 300, "large": 20_000}


def new(names: dict[str, int], generation: int = 0) -> list[Any]:
    return [pools.New(name, np.full(size, generation, "int64"), "int64") for name, size in names.items()]


def write(pool: Any, generation: int, names: list[str]) -> None:
    """Writes one number everywhere, in one step."""

    def fill(_: Any, array: Any) -> None:
        half = len(array) // 2
        array[:half] = generation
        array[half:] = generation

    records = [pool.records[name] for name in names]
    claims = [each.claim("assign", each.path) for each in records]
    if len(names) == 1:
        records[0].write(claims[0], fill)
    else:
        both = zip(records, claims, strict=True)
        commits.commit([each.prepare(claim, fill, each.version + 1) for each, claim in both])
    for each in claims:
        each.release()


def read(pool: Any) -> dict[str, int]:
    """The number in each variable; -1 if it has several."""
    found = {}
    for name, record in pool.records.items():
        values = set(record.read()[0].tolist())
        found[name] = values.pop() if len(values) == 1 else -1
    return found


# -- what the disk may have ----------------------------------------------------------------------------------------


class Recorder:
    """Keeps what has been in each sector of a file since it was last flushed, after each line that changes it."""

    def __init__(self, path: Path) -> None:
        self._file = path
        self.history: list[list[bytes]] = []
        self._last = b""
        self.marks = {"begun": 0, "returned": 0}
        self.cuts: list[tuple[list[list[bytes]], dict[str, int]]] = []

    def flushed(self) -> None:
        self._last = self._file.read_bytes()
        self.history = [[self._last[at : at + SECTOR]] for at in range(0, len(self._last), SECTOR)]

    def look(self) -> None:
        content = self._file.read_bytes()
        if content == self._last:
            return
        for number, at in enumerate(range(0, len(content), SECTOR)):
            sector = content[at : at + SECTOR]
            if number >= len(self.history):
                self.history.append([bytes(len(sector)), sector] if any(sector) else [sector])
            elif self.history[number][-1] != sector:
                self.history[number].append(sector)
        self._last = content
        self.cuts.append(([list(each) for each in self.history], dict(self.marks)))

    @contextmanager
    def recording(self, monkeypatch: pytest.MonkeyPatch, sync: Callable[[Any], None]) -> Iterator[None]:
        folder = str(Path(str(durable.__file__)).parent)
        modules = [f"{folder}/{name}.py" for name in ("durable", "commit", "claims", "entry", "pool", "recovery")]

        def trace(frame: Any, _: str, __: Any) -> Any:
            if frame.f_code.co_filename not in (*modules, __file__):
                return None
            self.look()
            return trace

        def flush(opened: Any) -> None:
            self.look()
            sync(opened)
            self.flushed()

        monkeypatch.setattr(durable, "flush", flush)
        monkeypatch.setattr(pools, "flush", flush)
        self.flushed()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            yield
        finally:
            sys.settrace(before)


def some(history: list[list[bytes]], rng: random.Random, kind: int) -> bytes:
    """A disk: all the oldest, all the newest, or of each sector any."""
    if kind == 0:
        return b"".join(each[0] for each in history)
    if kind == 1:
        return b"".join(each[-1] for each in history)
    likely = rng.random()
    return b"".join(each[-1] if rng.random() < likely else rng.choice(each) for each in history)


def survey(
    recorder: Recorder, folder: Path, monkeypatch: pytest.MonkeyPatch, together: tuple[str, str], number: int
) -> Counter[str]:
    """Opens what each loss of power may leave, and says what became of it."""
    rng, found = random.Random(seed := time.time_ns()), Counter[str]()
    path = folder / "after.svs"
    monkeypatch.setattr(durable, "_boot", lambda: 7)
    for history, marks in recorder.cuts:
        for kind in range(number):
            path.write_bytes(some(history, rng, kind))
            path.chmod(0o600)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StateWarning)
                try:
                    pool = pools.Pool.open(places.place_of(path))
                    values = read(pool)
                except SharedError as error:
                    found[f"LOST {error}"[:300]] += 1
                    continue
            if -1 in values.values():
                found[f"TORN {values} {marks} seed {seed}"] += 1
            elif values[together[0]] != values[together[1]]:
                found[f"MIXED {values} {marks} seed {seed}"] += 1
            elif min(values[each] for each in together) < marks["returned"]:
                found[f"FORGOTTEN {values} {marks} seed {seed}"] += 1
            elif max(values.values()) > marks["begun"]:
                found[f"SILENT {values} {marks}"] += 1
            else:
                found["whole"] += 1
                write(pool, 99, list(values))  # it goes on
                assert set(read(pool).values()) == {99}
    return found


def recorded(
    path: Path, mode: str, monkeypatch: pytest.MonkeyPatch, sync: Callable[[Any], None] = lambda _: None
) -> Recorder:
    """Writes, syncs, writes more than there are slots, and adds variables between."""
    pool = pools.Pool.create(places.place_of(path), new(SIZES), durable=mode)
    recorder = Recorder(path)
    with recorder.recording(monkeypatch, sync):
        for generation in range(1, thorough(4, 5)):
            recorder.marks["begun"] = generation
            write(pool, generation, ["a", "large"])
            if mode == "sync":
                pool.sync()
            recorder.marks["returned"] = generation
            if mode == "sync":
                write(pool, generation, ["b"])
                write(pool, generation, ["a", "large"])
                write(pool, generation, ["large", "a"])
            if generation == 2:
                pool.add(new({"late": 5}, 2))
    return recorder


@pytest.mark.parametrize("mode", ["sync", "commit"])
def test_a_loss_of_power_leaves_what_sync_has_returned_from(
    mode: str, shm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = recorded(shm / "before.svs", mode, monkeypatch)
    found = survey(recorder, shm, monkeypatch, ("a", "large"), thorough(3, 20))
    with capsys.disabled():
        print(
            f"\nlosses of power, durable={mode!r}: {len(recorder.cuts)} moments, {sum(found.values()):,} disks, {found}"
        )
    assert list(found) == ["whole"]
    assert len(recorder.cuts) > 100


def test_a_sync_that_has_failed_or_was_killed_harms_nothing(
    shm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its first or its second flush does not return; then more is written, and synced again."""
    pool = pools.Pool.create(places.place_of(shm / "before.svs"), new(SIZES), durable="sync")
    recorder = Recorder(shm / "before.svs")
    outcomes: list[bool] = []  # of the next flushes

    def flush(_: Any) -> None:
        if outcomes and not outcomes.pop(0):
            raise OSError(5, "Input/output error")

    with recorder.recording(monkeypatch, flush):
        for generation, fails in enumerate((1, 0, 2, 2, 0), 1):
            recorder.marks["begun"] = generation
            write(pool, generation, ["a", "large"])
            outcomes[:] = [True] * (fails - 1) + [False] * (fails > 0)
            if fails:
                with pytest.raises(StorageError, match="sync: the values are written, and the disk does not keep them"):
                    pool.sync()
            else:
                pool.sync()
                recorder.marks["returned"] = generation
            write(pool, generation, ["large"])
    found = survey(recorder, shm, monkeypatch, ("a", "large"), thorough(2, 20))
    with capsys.disabled():
        print(f"\nlosses of power after failed syncs: {found.total():,} disks: {found}")
    assert list(found) == ["whole"]


def test_others_may_write_while_it_syncs(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each disk that a sync has left has both variables of one transaction."""
    path = shm / "before.svs"
    pool = pools.Pool.create(places.place_of(path), new({"a": 3, "large": 20_000}), durable="sync")
    other, ended, number = pools.Pool.open(places.place_of(path)), threading.Event(), 0

    def writes() -> None:
        generation = 0
        while not ended.is_set():
            generation += 1
            write(other, generation, ["a", "large"])

    thread = threading.Thread(target=writes)
    thread.start()
    try:
        for number in range(20):
            before = read(pool)["a"]
            pool.sync()
            (shm / "after.svs").write_bytes(path.read_bytes())
            (shm / "after.svs").chmod(0o600)
            with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
                warnings.simplefilter("ignore", StateWarning)
                values = read(reopened(shm / "after.svs", patch, number))
            assert values["a"] == values["large"] >= before
    finally:
        ended.set()
        thread.join()
    assert number == 19


def test_the_recorder_finds_a_flush_that_is_left_out(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pools.Pool.create(places.place_of(shm / "before.svs"), new(SIZES), durable="sync")
    recorder = Recorder(shm / "before.svs")
    with recorder.recording(monkeypatch, lambda _: None):
        monkeypatch.setattr(durable, "flush", lambda _: None)
        for generation in range(1, 4):
            recorder.marks["begun"] = generation
            write(pool, generation, ["a", "large"])
            pool.sync()
            recorder.marks["returned"] = generation
    found = survey(recorder, shm, monkeypatch, ("a", "large"), 10)
    assert any(each != "whole" for each in found)


# -- what is said --------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path: Path) -> Any:
    return pools.Pool.create(places.place_of(tmp_path / "run7.svs"), new({"a": 3, "b": 20_000}), durable="sync")


def reopened(path: Path, monkeypatch: pytest.MonkeyPatch, boot: int) -> Any:
    """Opens a pool after the machine has started anew."""
    monkeypatch.setattr(durable, "_boot", lambda: boot)
    return pools.Pool.open(places.place_of(path))


def test_what_was_not_synced_is_told(pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(pool, 1, ["a", "b"])
    pool.sync()
    write(pool, 2, ["b"])
    with pytest.warns(StateWarning) as told:
        again = reopened(tmp_path / "run7.svs", monkeypatch, 7)
    assert str(told[0].message) == (
        "attach: the machine has stopped before the last values were synced: of 'b' version 2 was not, and version 1 "
        f"is used, at '{tmp_path}/run7.svs'. Hint: call v.sync() after what must not be lost."
    )
    assert read(again) == {"a": 1, "b": 1}
    write(again, 3, ["a", "b"])
    again.sync()
    assert read(reopened(tmp_path / "run7.svs", monkeypatch, 8)) == {"a": 3, "b": 3}  # and nothing is told
    assert read(pools.Pool.open(places.place_of(tmp_path / "run7.svs"))) == {"a": 3, "b": 3}


def test_a_damaged_value_falls_back_to_an_older_one(pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for generation in (1, 2):
        write(pool, generation, ["a", "b"])
        pool.sync()
    record = pool.records["b"]
    record.slot(record.word() >> 48)[0][7] = 99
    with pytest.warns(StateWarning, match="of 'b' the synced value is damaged, and version 1 is used"):
        again = reopened(tmp_path / "run7.svs", monkeypatch, 7)
    assert read(again) == {"a": 2, "b": 1}


def test_without_any_whole_value_nothing_is_used(pool: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = pool.records["b"]
    record.slot(0)[0][7] = 99
    with pytest.raises(SharedError, match="no value of 'b' is whole since the machine has stopped"):
        reopened(tmp_path / "run7.svs", monkeypatch, 7)


def test_within_a_start_of_the_machine_nothing_is_asked(pool: Any, tmp_path: Path) -> None:
    write(pool, 5, ["a", "b"])
    assert read(pools.Pool.open(places.place_of(tmp_path / "run7.svs"))) == {"a": 5, "b": 5}


def test_a_pool_that_was_shared_without_it_says_so(tmp_path: Path) -> None:
    pool = pools.Pool.create(places.place_of(tmp_path / "run7.svs"), new({"a": 3}))
    with pytest.raises(SharedError, match="was shared without durable=, and cannot be synced. Hint: share "):
        pool.sync()


def test_a_mode_must_exist_and_fit_the_place() -> None:
    with pytest.raises(ValueError, match="share: expected durable to be one of 'no', 'sync', 'commit', got 'yes'"):
        durable.check_mode("yes", places.place_of("a.svs"))
    with pytest.raises(ValueError, match="share: durable='sync' needs a file, and 'run7' is in memory, which "):
        durable.check_mode("sync", places.place_of("run7"))
    durable.check_mode("commit", places.place_of("a.svs"))


def test_the_same_state_is_not_flushed_twice(pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[Any] = []
    monkeypatch.setattr(durable, "flush", flushes.append)
    write(pool, 1, ["a"])
    pool.sync()
    count = len(flushes)
    pool.sync()
    assert len(flushes) == count
    write(pool, 2, ["a"])
    pool.sync()
    assert len(flushes) > count
