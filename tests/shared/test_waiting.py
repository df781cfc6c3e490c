"""Waiters sleep until a writer in any process wakes them, and no wake-up is lost."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.helpers import PATIENCE, ROOT, thorough, until
from tests.internals import shared_part

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux only")

waiting = shared_part("waiting")
MARK = 3  # the word of a record beside its version, which is the first
#: A record lies at the start of the file, another one behind it.
THERE, BACK = 0, 8


class Record:
    """A few words in a file that several processes map."""

    def __init__(self, path: str, at: int = THERE) -> None:
        with Path(path).open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 4096)
        self.words = memoryview(self._memory).cast("Q")[at : at + 8]
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory)) + at * 8

    def write(self, version: int) -> None:
        before, self.words[0] = self.words[0], version
        waiting.announce(self.words, MARK, self.address, before)

    def wait(self, version: int, timeout: float | None = PATIENCE) -> bool:
        done: bool = waiting.wait_for(lambda: self.words[0] >= version, self.words, MARK, self.address, timeout)
        return done

    def sleeps(self) -> bool:
        """Whether somebody may be asleep until the next version."""
        return bool(self.words[MARK] > self.words[0])


@pytest.fixture
def path(shm: Path) -> str:
    file = shm / "words"
    file.write_bytes(bytes(4096))
    return str(file)


@pytest.fixture(params=["futex", "polling"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """How it is waited: what this system has, and what others have."""
    name: str = request.param
    if name == "futex":
        if not waiting.has_futex():
            pytest.skip("this system has no futex")
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: pytest.fail("it looked again and again"))
        monkeypatch.setattr(waiting, "time", clock)
    else:
        monkeypatch.setattr(waiting, "_call", lambda: None)
        assert not waiting.has_futex()
    yield name
    monkeypatch.undo()


def test_what_is_there_is_not_waited_for(path: str) -> None:
    record = Record(path)
    record.write(5)
    assert record.wait(5, 0)
    assert record.wait(5, None)
    assert not record.sleeps(), "no writer has to wake anybody"


def test_a_time_out_ends_it(path: str, how: str) -> None:
    record = Record(path)
    start = time.monotonic()
    assert not record.wait(1, 0)
    assert not record.wait(1, -1)
    assert not record.wait(1, 0.02)
    assert time.monotonic() - start >= 0.02


def test_a_thread_is_woken(path: str, how: str) -> None:
    record, got = Record(path), []
    thread = threading.Thread(target=lambda: got.append(record.wait(1)))
    thread.start()
    until(record.sleeps)
    assert not got
    record.write(1)
    thread.join(PATIENCE)
    assert got == [True]


def test_another_version_does_not_end_it(path: str, how: str) -> None:
    record, got = Record(path), []
    thread = threading.Thread(target=lambda: got.append(record.wait(3)))
    thread.start()
    for value in (1, 2):
        until(record.sleeps)
        record.write(value)
    until(record.sleeps)
    assert not got
    record.write(3)
    thread.join(PATIENCE)
    assert got == [True]


def test_a_writer_that_was_killed_before_it_woke_anybody_costs_a_moment(path: str) -> None:
    record, got = Record(path), []
    thread = threading.Thread(target=lambda: got.append(record.wait(1)))
    thread.start()
    until(record.sleeps)
    record.words[0] = 1  # and nobody is told
    thread.join(PATIENCE)
    assert got == [True]


class Slow:
    """The words of a record for a waiter that is slow: something happens right before each of its marks."""

    def __init__(self, words: Any, *happens: Callable[[], object]) -> None:
        self._words, self._happens = words, list(happens)

    def __getitem__(self, at: int) -> int:
        value: int = self._words[at]
        return value

    def __setitem__(self, at: int, value: int) -> None:
        if self._happens:
            self._happens.pop(0)()
        self._words[at] = value


def test_a_mark_that_is_out_of_date_is_set_anew_and_the_others_are_woken(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(path)
    woken: list[int] = []
    monkeypatch.setattr(waiting, "wake", woken.append)
    record.words[0] = 4

    def newer() -> None:
        """Another process writes, and a third one sleeps until the next version."""
        record.words[0] += 1
        record.words[MARK] = record.words[0] + 1

    assert waiting._marked(Slow(record.words), MARK) == (4, False)
    assert waiting._marked(Slow(record.words, newer), MARK) == (5, True)
    assert waiting._marked(Slow(record.words, newer, newer), MARK) == (7, True)
    assert record.words[MARK] == 8
    answers = iter([False, True, True])
    slow = Slow(record.words, newer)
    assert waiting.wait_for(lambda: next(answers), slow, MARK, record.address, 1)
    assert woken == [record.address]
    record.write(9)
    assert woken == [record.address] * 2


@pytest.mark.parametrize("content", [0, 2, 1 << 32, (1 << 64) - 1])
def test_a_damaged_mark_does_no_harm(content: int, path: str) -> None:
    record, got = Record(path), []
    record.words[MARK] = content
    thread = threading.Thread(target=lambda: got.append(record.wait(1)))
    thread.start()
    until(record.sleeps)
    record.words[MARK] = content
    record.write(1)
    thread.join(PATIENCE)
    assert got == [True]


ECHO = """
import sys
from tests.shared.test_waiting import BACK, Record, waiting
there, back, number = Record(sys.argv[1]), Record(sys.argv[1], BACK), int(sys.argv[2])
waiting._SLICE = 60.0  # nothing but a wake-up ends a wait
for value in range(1, number + 1):
    assert there.wait(value), value
    back.write(value)
"""


def test_no_wake_up_is_lost(path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes wake each other in turns, and a third part of the time before the other has gone to sleep.

    A wait that nobody ends would last a minute here: the slice that would hide it is that long.
    """
    if not waiting.has_futex():
        pytest.skip("this system has no futex")
    monkeypatch.setattr(waiting, "_SLICE", 60.0)
    number = thorough(1_000, 50_000)
    there, back, longest = Record(path), Record(path, BACK), 0.0
    other = subprocess.Popen([sys.executable, "-c", ECHO, path, str(number)], cwd=ROOT)
    try:
        there.write(1)
        assert back.wait(1)  # it has started
        for value in range(2, number + 1):
            start = time.monotonic()
            there.write(value)
            for _ in range(value % 3 * 40):
                pass
            assert back.wait(value), value
            longest = max(longest, time.monotonic() - start)
        assert other.wait(PATIENCE) == 0
    finally:
        other.kill()
        other.wait()
    with capsys.disabled():
        print(f"\nwake-ups: {2 * number:,}, of which 0 were lost; the longest round took {longest * 1000:.0f} ms")
    assert longest < 30


def test_of_many_waiters_none_is_forgotten(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All mark the same word, and the slow one writes what is out of date over the marks of the others."""
    if not waiting.has_futex():
        pytest.skip("this system has no futex")
    monkeypatch.setattr(waiting, "_SLICE", 60.0)
    number, late = thorough(300, 10_000), []
    record, seen = Record(path), [0] * 4

    def follow(mine: int) -> None:
        for value in range(1, number + 1):
            if not record.wait(value, 30):
                late.append((mine, value))
                return
            seen[mine] = value

    threads = [threading.Thread(target=follow, args=(mine,)) for mine in range(4)]
    for each in threads:
        each.start()
    for value in range(1, number + 1):
        record.write(value)
        until(lambda value=value: late or min(seen[value % 4], seen[0]) >= value - 1)  # type: ignore[misc]
    for each in threads:
        each.join(PATIENCE)
    assert (seen, late) == ([number] * 4, [])


WAITS = """
import sys
from tests.shared.test_waiting import Record
record = Record(sys.argv[1])
try:
    record.wait(1, None)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("number", "output", "code"), [(signal.SIGINT, b"interrupted\n", 0), (signal.SIGKILL, b"", -9)]
)
def test_a_waiter_can_be_interrupted_and_killed(number: int, output: bytes, code: int, path: str) -> None:
    record = Record(path)
    process = subprocess.Popen([sys.executable, "-c", WAITS, path], cwd=ROOT, stdout=subprocess.PIPE)
    until(record.sleeps)
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE)[0] == output
    assert process.returncode == code
    record.write(1)  # what a waiter leaves behind is a mark, which is out of date now
    assert not record.sleeps()


@pytest.mark.parametrize("machine", ["sparc64", "x86_64"])
def test_elsewhere_it_is_polled(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that is not in the table, and for a 32-bit program on a 64-bit kernel."""
    waiting._call.cache_clear()
    monkeypatch.setattr(waiting.os, "uname", lambda: os.uname_result(("Linux", "", "", "", machine)))
    monkeypatch.setattr(waiting.struct, "calcsize", lambda _: 4 if machine == "x86_64" else 8)
    assert not waiting.has_futex()
    monkeypatch.undo()
    waiting._call.cache_clear()
    assert waiting.has_futex() == (waiting._NUMBERS[struct.calcsize("P")].get(os.uname().machine) is not None)


def test_a_call_that_the_system_refuses_is_replaced(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def refused(*arguments: Any) -> int:
        calls.append(arguments)
        return 38

    monkeypatch.setattr(waiting, "_call", lambda: refused)
    record = Record(path)
    assert not record.wait(1, 0.01)
    record.write(1)
    assert len(calls) >= 2


# -- records of pools ----------------------------------------------------------------------------------------------

FOLLOWS = """
import sys
from tests.internals import shared_part
pool = shared_part("pool").Pool.open(shared_part("places").place_of(sys.argv[1]))
a, b = pool.records["a"], pool.records["b"]
for version in range(1, int(sys.argv[2]) + 1):
    assert a.wait(version, 120) and b.wait(version, 120)
    assert a.read()[1] >= version and b.read()[1] >= version
    print(version, flush=True)
"""


def test_a_record_is_waited_for(tmp_path: Path) -> None:
    """By another process, after writes of one record and of several at once."""
    pools, places = shared_part("pool"), shared_part("places")
    path, zero = str(tmp_path / "a.svs"), np.zeros(3)
    pool = pools.Pool.create(places.place_of(path), [pools.New("a", zero, "float64"), pools.New("b", zero, "float64")])
    a, b = pool.records["a"], pool.records["b"]
    assert a.wait(0, 0)
    assert not a.wait(1, 0.01)

    def fill(_: Any, new: Any) -> None:
        new[...] = 1

    other = subprocess.Popen([sys.executable, "-c", FOLLOWS, path, "4"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        for version in range(1, 5):
            until(lambda: a.words[shared_part("layout").WAITERS] > a.version)
            claims = [each.claim("assign", each.path) for each in (a, b)]
            if version % 2:
                a.write(claims[0], fill)
                b.write(claims[1], fill)
            else:
                both = zip((a, b), claims, strict=True)
                shared_part("commit").commit([each.prepare(claim, fill, version) for each, claim in both])
            for claim in claims:
                claim.release()
            assert other.stdout.readline() == f"{version}\n"
        assert other.wait(PATIENCE) == 0
    finally:
        other.kill()
        other.communicate()
