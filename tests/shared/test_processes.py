"""Variables that processes share: nothing is lost, nobody waits for one that has gone, and a fork copies no hold."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar import errors
from tests.helpers import let_pass, thorough
from tests.internals import shared_part

pytestmark = pytest.mark.own_process  # which a fork of the tests does not copy

TEXT = 10_000


def child(function: Callable[[], object]) -> tuple[int, int]:
    """Runs it in a forked process, which an alarm ends if it hangs. Returns its id and where its answer is read."""
    answer, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            text = str(function())
        except BaseException as error:  # noqa: BLE001  # the parent looks at it
            text = f"{type(error).__name__}: {error}"
        os.write(told, text.encode())
        os._exit(0)
    os.close(told)
    return pid, answer


def ended(started: tuple[int, int]) -> str:
    pid, answer = started
    with os.fdopen(answer) as file:
        text = file.read(TEXT)
    assert os.waitpid(pid, 0)[1] == 0, "the child hung or died"
    return text


def shared(**values: Any) -> dict[str, sv.Variable]:
    """Variables in an anonymous pool."""
    model = {name: sv.Variable(value, name=name, backend="numpy") for name, value in values.items()}
    sv.share(model)
    return model


def add(v: sv.Variable, times: int) -> int:
    for _ in range(times):
        v.assign_add(1)
    return v.version


def test_no_increment_of_four_processes_is_lost(shm: Path) -> None:
    v, times = shared(v=np.int64(0))["v"], thorough(200, 5000)
    for each in [child(lambda: add(v, times)) for _ in range(4)]:
        ended(each)
    assert int(v.numpy()) == v.version == 4 * times


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_variables_are_arguments_of_other_processes(shm: Path, method: str) -> None:
    anonymous = shared(v=np.int64(0))["v"]
    named = sv.Variable(np.int64(0), shared=shm / "a.svs/w", name="kernel", backend="numpy")
    assert len(pickle.dumps(anonymous)) <= 200
    assert len(pickle.dumps(named)) <= 200
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as executor:
        for v in (anonymous, named):
            list(executor.map(add, [v] * 4, [5] * 4))
            assert int(v.numpy()) == v.version == 20


def test_a_child_cannot_write_under_the_hold_of_its_parent(shm: Path) -> None:
    model = shared(v=np.zeros(3), w=np.zeros(3))
    v, w = model["v"], model["w"]
    parent, outside = os.getpid(), -1
    text = ""
    try:
        with sv.transaction(v):
            v.assign_add(1)
            outside = os.fork()
            if outside == 0:
                signal.alarm(60)
                w.assign_add(1)  # which the parent does not hold
    except errors.ConflictError as error:
        text = str(error)
    if outside == 0:
        expected = (
            f"process {parent} held it when it forked this process, and only that process can write under its hold, "
            "at 'v'. Hint: let the child leave the block of the parent without writing, and begin a block of its own."
        )
        os._exit(0 if text.endswith(expected) else 1)
    assert not text
    assert os.waitpid(outside, 0)[1] == 0
    assert v.numpy().tolist() == [1.0] * 3
    assert v.version == 1
    assert ended(child(lambda: add(v, 1))) == "2"


def test_a_child_waits_for_a_thread_of_its_parent_that_holds(shm: Path) -> None:
    v = shared(v=np.int64(0))["v"]
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with sv.transaction(v):
            inside.set()
            assert leave.wait(60)
            v.assign_add(1)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(60)
    waiting = child(lambda: (v.assign_add(10), int(v.numpy()))[1])
    leave.set()
    assert ended(waiting) == "11"
    thread.join()


def test_a_fork_takes_the_locks_of_variables_before_those_of_pools(shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way round, a thread that writes would wait for one while the fork waits for the other."""
    v = shared(v=np.int64(0))["v"]
    seen: list[bool] = []
    original = shared_part("pool").Pool.before_fork

    def before_fork(pool: Any) -> None:
        seen.append(v._lock._is_owned())
        original(pool)

    monkeypatch.setattr(shared_part("pool").Pool, "before_fork", before_fork)
    assert ended(child(lambda: add(v, 1))) == "1"
    assert seen
    assert all(seen)


def test_children_go_on_when_their_parent_has_ended(shm: Path) -> None:
    v = shared(v=np.int64(0))["v"]
    done, tell = os.pipe()

    def leave_a_child() -> int:
        parent = os.getpid()
        if os.fork() == 0:
            signal.alarm(60)
            while os.getppid() == parent:
                let_pass(0.001)
            v.assign_add(1)
            os.write(tell, b"x")
            os._exit(0)
        return 0

    ended(child(leave_a_child))
    assert os.read(done, 1) == b"x"
    assert int(v.numpy()) == 1


def test_a_subscriber_of_a_child_is_told_what_its_parent_writes(shm: Path) -> None:
    v = shared(v=np.int64(0))["v"]
    told = threading.Event()
    v.subscribe(lambda *_: told.set())
    ready, begin = os.pipe()

    def wait() -> bool:
        os.write(begin, b"x")
        return told.wait(50) and v.wait(1, 50)

    waiting = child(wait)
    assert os.read(ready, 1) == b"x"
    v.assign_add(1)
    assert ended(waiting) == "True"


@pytest.mark.parametrize("what", ["edit", "update", "transaction"])
def test_others_go_on_when_a_holder_is_killed_whose_child_lives(shm: Path, what: str) -> None:
    model = shared(v=np.zeros(50_000), w=np.zeros(3))
    v, w = model["v"], model["w"]
    held = v.value
    ready, begun = os.pipe()
    end, lives = os.pipe()  # the child of the one that is killed lives until we close it

    def stay(value: Any = None) -> Any:
        if os.fork() == 0:
            os.close(lives)
            signal.alarm(60)
            os.read(end, 1)
            os._exit(0)
        os.write(begun, b"x")
        signal.pause()
        return value

    def hold() -> None:
        if what == "edit":
            with v.edit() as array:
                array[...] = 1
                stay()
        elif what == "update":
            v.update(stay)
        else:
            with sv.transaction(v, w):
                v.assign_add(1)
                w.assign_add(1)
                stay()

    pid, answer = child(hold)
    assert os.read(ready, 1) == b"x"
    assert v.numpy().max() == 0, "a read does not wait"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(answer)
    signal.alarm(60)  # a hang ends the test
    with sv.transaction(v, w):
        v.assign_add(2)
        w.assign_add(2)
    signal.alarm(0)
    assert v.numpy().min() == v.numpy().max() == 2
    assert held.max() == 0
    assert v.version == w.version == 1
    os.close(lives)


def test_ctrl_c_ends_the_wait_for_a_process_that_was_stopped(shm: Path) -> None:
    v = shared(v=np.int64(0))["v"]

    def stop() -> None:
        with sv.transaction(v):
            os.kill(os.getpid(), signal.SIGSTOP)

    pid, answer = child(stop)
    os.waitpid(pid, os.WUNTRACED)
    assert int(v.numpy()) == 0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    me = os.getpid()

    def interrupt() -> None:
        let_pass(0.2)
        os.kill(me, signal.SIGINT)

    for write in (lambda: v.assign_add(1), lambda: v.update(lambda x: x + 1)):
        interrupting = child(interrupt)
        with pytest.raises(KeyboardInterrupt):
            write()
        ended(interrupting)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(answer)
    assert add(v, 1) == 1


def test_opposite_orders_are_errors_and_no_deadlock(shm: Path) -> None:
    accounts = list(shared(a=np.int64(9), b=np.int64(9), c=np.int64(9)).values())

    def work() -> int:
        chance, conflicts, done = random.Random(os.getpid()), 0, 0
        while done < thorough(100, 2500):
            source, target = chance.sample(accounts, 2)
            try:
                with sv.transaction():  # which takes them in the order of the writes
                    source.assign_sub(1)
                    target.assign_add(1)
                done += 1
            except errors.ConflictError as error:
                assert "waiting for it would be a deadlock: " in str(error)  # noqa: PT017  # in a loop
                conflicts += 1
        return conflicts

    for each in [child(work) for _ in range(3)]:
        assert ended(each).isdigit()
    assert sum(int(v.numpy()) for v in accounts) == 27


def test_two_variables_over_one_place_cannot_both_be_held(shm: Path) -> None:
    first, second = (sv.Variable(0, shared=shm / "a.svs/w", name=name, backend="numpy") for name in "ab")
    problem = (
        "this thread holds it already, through another variable over the same place in the pool, at 'b'. "
        "Hint: write both through one variable."
    )
    with pytest.raises(errors.ConflictError) as error, sv.transaction(first):
        second.assign_add(1)
    assert str(error.value).endswith(problem)
    assert first.version == second.version == 0
    assert add(second, 1) == first.version == 1
