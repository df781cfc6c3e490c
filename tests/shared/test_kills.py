"""A process that is killed inside a write, a read or a fork: nobody else waits for it, and nothing is torn or lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers import ROOT, thorough
from tests.shared.records import add, consistent, created, opened, put_together

pytestmark = pytest.mark.own_process  # which a fork of the tests does not copy


def killed_after(step: int, function: Any) -> bool:
    """Runs it in a child that is killed before the n-th bytecode of ours; returns whether it was killed."""
    pid = os.fork()
    if pid == 0:
        left = [step]

        def trace(frame: Any, event: str, _: Any) -> Any:
            if "_shared" not in frame.f_code.co_filename:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        signal.alarm(60)
        sys._getframe().f_trace_opcodes = True
        sys.settrace(trace)
        function()
        sys.settrace(None)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), f"the child ended with status {status}"
    return status == signal.SIGKILL


def test_random_kills_leave_everything_whole(shm: Path) -> None:
    kills = thorough(15, 1000)
    command = [sys.executable, "-m", "tests.shared.killed_program", str(shm / "kills.svs"), str(kills), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["hung"]
    assert found["after"]
    assert found["whole"]
    assert found["money"] == 0
    assert found["bad"] == [0] * 8, done.stderr
    assert found["acknowledged"] <= found["counter"] <= found["acknowledged"] + kills


def test_a_kill_at_each_step_of_a_commit_of_several_leaves_all_or_nothing(shm: Path) -> None:
    pool = created(str(shm / "a.svs"), a=np.int64(10), b=np.zeros(100_000, np.int64), c=np.int64(30))
    records = [pool.records[name] for name in "abc"]
    step, round_ = 1, 0
    while killed_after(step, lambda: put_together(records, [round_ + 1] * 3)):  # noqa: B023  # called at once
        for reader in (pool, opened(str(shm / "a.svs"))):
            seen = {int(value.flat[0]) for value in consistent([reader.records[name] for name in "abc"])}
            assert len(seen) == 1 or seen == {10, 0, 30}
        assert add(records[step % 3], 0) > 0  # settles what was left, at any of them
        put_together(records, [round_] * 3)
        assert [int(value.flat[0]) for value in consistent(records)] == [round_] * 3
        round_ += 1
        step += thorough(23, 1)
    assert [int(value.flat[0]) for value in consistent(records)] == [round_ + 1] * 3
    assert step > 300, "the steps of the commit were seen"


def test_a_kill_at_each_step_of_a_write_of_rows_leaves_it_whole(shm: Path) -> None:
    pool = created(str(shm / "a.svs"), rows=np.zeros((3000, 8), np.float32))
    record, expected, step = pool.records["rows"], np.zeros((3000, 8), np.float32), 1
    while killed_after(step, lambda: add(record, 1.0, (step, step + 2))):  # noqa: B023  # called at once
        version, before = record.version, record.read()[0].copy()
        if not np.array_equal(before, expected):  # it was committed and then killed
            expected[step : step + 2] += 1.0
        np.testing.assert_array_equal(before, expected)
        add(record, 1.0, (5, 6))
        expected[5] += 1.0
        assert record.version == version + 1
        np.testing.assert_array_equal(record.read()[0], expected)
        step += thorough(17, 1)
    assert step > 200, "the steps of the write were seen"


def fork_a_child_that_lives(end: int, wait: int) -> None:
    """Forks a child that lives until everybody else has closed the second end of a pipe."""
    if os.fork() == 0:
        os.close(wait)
        signal.alarm(60)
        os.read(end, 1)
        os._exit(0)


def test_a_child_does_not_keep_the_claims_of_a_parent_that_has_mapped_the_file(shm: Path) -> None:
    """A mapping keeps the open file that it was made through, in the child too, and so what is locked in it."""
    place = str(shm / "a.svs")
    record = created(place, a=np.arange(100_000, dtype=np.float32)).records["a"]
    ready, told = os.pipe()
    end, wait = os.pipe()  # the child lives until we close it
    parent = os.fork()
    if parent == 0:
        signal.alarm(60)
        own = opened(place).records["a"]  # the memory is its own, and not that of the process which has forked it
        kept = [own.read(), own.read_own(), own.claim("assign", "a")]  # noqa: F841  # as long as the process lives
        fork_a_child_that_lives(end, wait)
        os.write(told, b"x")
        signal.pause()
    assert os.read(ready, 1) == b"x"
    assert record.claim_if_free() is None
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    signal.alarm(60)  # a hang ends the test
    assert add(record, 1.0) == 1
    signal.alarm(0)
    os.close(wait)


@pytest.mark.parametrize("with_view", [False, True])
def test_a_child_does_not_keep_the_claims_of_a_parent_that_is_killed(shm: Path, with_view: bool) -> None:
    pool = created(str(shm / "a.svs"), a=np.arange(100_000, dtype=np.float32))
    record = pool.records["a"]
    view = record.read()[0] if with_view else None  # held over the forks
    ready, told = os.pipe()
    end, wait = os.pipe()  # the child lives until we close it
    parent = os.fork()
    if parent == 0:
        signal.alarm(60)
        claim = record.claim("assign", "a")
        fork_a_child_that_lives(end, wait)

        def fill(_: Any, new: Any) -> None:
            os.write(told, b"x")
            signal.pause()

        record.write(claim, fill)
    assert os.read(ready, 1) == b"x"
    holder = record.holder()
    assert holder is not None
    assert holder[0] == parent
    assert record.claim_if_free() is None
    assert record.is_committing()
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    signal.alarm(60)  # a hang ends the test
    assert add(record, 1.0) == 1
    signal.alarm(0)
    os.close(wait)
    if view is not None:
        np.testing.assert_array_equal(view, np.arange(100_000))


def test_a_view_that_a_child_has_keeps_its_slot_after_the_parent_dropped_it(shm: Path) -> None:
    pool = created(str(shm / "a.svs"), a=np.zeros(50_000, np.float32))
    record = pool.records["a"]
    view: Any = record.read()[0]
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(begin)
        signal.alarm(60)
        os.read(begun, 1)  # until the parent has written
        os._exit(int(view.any()))
    del view
    for _ in range(6):
        add(record, 1.0)
    os.close(begin)
    assert os.waitpid(child, 0)[1] == 0
    made = sum(bool(word) for word in record.words[16:32])
    assert made == 3, "one slot more than two, since one was held"
    add(record, 1.0)
    assert not any(record.is_leased(slot) for slot in range(made))


def test_a_child_has_claims_of_its_own(shm: Path) -> None:
    pool = created(str(shm / "a.svs"), a=np.int64(0))
    record = pool.records["a"]
    claim = record.claim("assign", "a")
    child = os.fork()
    if child == 0:
        free = record.claim_if_free() is not None
        os._exit(free or claim.is_valid())
    assert os.waitpid(child, 0)[1] == 0
    assert claim.is_valid()
    claim.release()
    assert not claim.is_valid()
    assert opened(str(shm / "a.svs")).records["a"].claim_if_free() is not None
