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
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.helpers import PATIENCE, ROOT, thorough, until
from tests.internals import shared_part

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux only")

waiting = shared_part("waiting")
VALUE, FLAG, BACK = 0, 3, 8  # words of two records; the flag of the second is word 11


class Words:
    """Words in a file that several processes map."""

    def __init__(self, path: str) -> None:
        with Path(path).open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 4096)
        self.words = memoryview(self._memory).cast("Q")
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def write(self, value: int, record: int = VALUE) -> None:
        self.words[record] = value
        waiting.announce(self.words, record + FLAG, self.address)

    def wait(self, value: int, timeout: float | None = PATIENCE, record: int = VALUE) -> bool:
        done: bool = waiting.wait_for(
            lambda: self.words[record] >= value, self.words, record + FLAG, self.address, timeout
        )
        return done


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
    words = Words(path)
    words.write(5)
    assert words.wait(5, 0)
    assert words.wait(5, None)
    assert not words.words[FLAG], "no writer has to wake anybody"


def test_a_time_out_ends_it(path: str, how: str) -> None:
    words = Words(path)
    start = time.monotonic()
    assert not words.wait(1, 0)
    assert not words.wait(1, -1)
    assert not words.wait(1, 0.02)
    assert time.monotonic() - start >= 0.02


def test_a_thread_is_woken(path: str, how: str) -> None:
    words, got = Words(path), []
    thread = threading.Thread(target=lambda: got.append(words.wait(1)))
    thread.start()
    until(lambda: words.words[FLAG])
    assert not got
    words.write(1)
    thread.join(PATIENCE)
    assert got == [True]


def test_another_version_does_not_end_it(path: str, how: str) -> None:
    words, got = Words(path), []
    thread = threading.Thread(target=lambda: got.append(words.wait(3)))
    thread.start()
    for value in (1, 2):
        until(lambda: words.words[FLAG])
        words.write(value)
    until(lambda: words.words[FLAG])
    assert not got
    words.write(3)
    thread.join(PATIENCE)
    assert got == [True]


def test_a_writer_that_was_killed_before_it_woke_anybody_costs_a_moment(path: str) -> None:
    words, got = Words(path), []
    thread = threading.Thread(target=lambda: got.append(words.wait(1)))
    thread.start()
    until(lambda: words.words[FLAG])
    words.words[VALUE] = 1  # and nobody is told
    thread.join(PATIENCE)
    assert got == [True]


@pytest.mark.parametrize("content", [0, 2, 1 << 32, (1 << 64) - 1])
def test_a_damaged_flag_does_no_harm(content: int, path: str) -> None:
    words, got = Words(path), []
    words.words[FLAG] = content
    thread = threading.Thread(target=lambda: got.append(words.wait(1)))
    thread.start()
    until(lambda: words.words[FLAG] == 1)
    words.words[FLAG] = content
    words.write(1)
    thread.join(PATIENCE)
    assert got == [True]


ECHO = """
import sys
from tests.shared.test_waiting import BACK, Words, waiting
words, number = Words(sys.argv[1]), int(sys.argv[2])
waiting._SLICE = 60.0  # nothing but a wake-up ends a wait
for value in range(1, number + 1):
    assert words.wait(value), value
    words.write(value, BACK)
"""


def test_no_wake_up_is_lost(path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes wake each other in turns, and a third part of the time before the other has gone to sleep.

    A wait that nobody ends would last a minute here: the slice that would hide it is that long.
    """
    if not waiting.has_futex():
        pytest.skip("this system has no futex")
    monkeypatch.setattr(waiting, "_SLICE", 60.0)
    number = thorough(1_000, 50_000)
    words, longest = Words(path), 0.0
    other = subprocess.Popen([sys.executable, "-c", ECHO, path, str(number)], cwd=ROOT)
    try:
        words.write(1)
        assert words.wait(1, record=BACK)  # it has started
        for value in range(2, number + 1):
            start = time.monotonic()
            words.write(value)
            for _ in range(value % 3 * 40):
                pass
            assert words.wait(value, record=BACK), value
            longest = max(longest, time.monotonic() - start)
        assert other.wait(PATIENCE) == 0
    finally:
        other.kill()
        other.wait()
    with capsys.disabled():
        print(f"\nwake-ups: {2 * number:,}, of which 0 were lost; the longest round took {longest * 1000:.0f} ms")
    assert longest < 30


def test_of_many_waiters_none_is_forgotten(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All wait on one flag, which each sets and each writer clears: the race that a flag beside the word would lose."""
    if not waiting.has_futex():
        pytest.skip("this system has no futex")
    monkeypatch.setattr(waiting, "_SLICE", 60.0)
    number, late = thorough(300, 10_000), []
    words, seen = Words(path), [0] * 4

    def follow(mine: int) -> None:
        for value in range(1, number + 1):
            if not words.wait(value, 30):
                late.append((mine, value))
                return
            seen[mine] = value

    threads = [threading.Thread(target=follow, args=(mine,)) for mine in range(4)]
    for each in threads:
        each.start()
    for value in range(1, number + 1):
        words.write(value)
        until(lambda value=value: late or min(seen[value % 4], seen[0]) >= value - 1)  # type: ignore[misc]
    for each in threads:
        each.join(PATIENCE)
    assert (seen, late) == ([number] * 4, [])


WAITS = """
import sys
from tests.shared.test_waiting import Words
words = Words(sys.argv[1])
try:
    words.wait(1, None)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("number", "output", "code"), [(signal.SIGINT, b"interrupted\n", 0), (signal.SIGKILL, b"", -9)]
)
def test_a_waiter_can_be_interrupted_and_killed(number: int, output: bytes, code: int, path: str) -> None:
    words = Words(path)
    process = subprocess.Popen([sys.executable, "-c", WAITS, path], cwd=ROOT, stdout=subprocess.PIPE)
    until(lambda: words.words[FLAG])
    os.kill(process.pid, number)
    assert process.communicate(timeout=PATIENCE)[0] == output
    assert process.returncode == code
    words.write(1)  # what a waiter leaves behind is a flag
    assert not words.words[FLAG]


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
    words = Words(path)
    assert not words.wait(1, 0.01)
    words.words[FLAG] = 1
    words.write(1)
    assert len(calls) >= 2
