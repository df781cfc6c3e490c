"""Ctrl-C at any moment, of this thread or another: nothing is left locked, held, open or half done."""

from __future__ import annotations

import ctypes
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import Interrupt, Interruption, assert_free
from tests.helpers import PATIENCE, every_table_has_a_log, until
from tests.internals import overlays, while_locked

pytestmark = pytest.mark.own_process


def divide(v: sv.Variable) -> None:
    v /= 2.0


def taken_and_released(v: sv.Variable) -> bool:
    """Whether nobody had its lock."""
    free: bool = v._lock.acquire(blocking=False)
    if free:
        v._lock.release()
    return free


def in_another_thread(function: Callable[[], bool]) -> bool:
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results == [True]


def left_behind(variables: list[sv.Variable]) -> str:
    """What an interrupt has left locked, held or open."""
    for v in variables:
        if v._holder is not None:
            return f"held for {v._holder.what}"
        if not in_another_thread(partial(taken_and_released, v)):
            return "locked"
    return "" if overlays._overlay.get() is None else "the transaction is still open"


Operation = Callable[[sv.Variable, sv.Variable], object]


def fresh() -> list[sv.Variable]:
    return [sv.Variable(np.array([1.0, 2.0], "float32"), backend="numpy") for _ in range(2)]


def values(variables: list[sv.Variable]) -> list[Any]:
    return [v.numpy().tolist() for v in variables]


def leaks(operation: Operation) -> list[str]:
    """Runs it again and again, interrupted one place later each time. Returns where it left something behind."""
    variables = fresh()
    before = values(variables)
    operation(*variables)
    whole = (before, values(variables))
    found: list[str] = []
    for nth in range(1, 2000):
        variables = fresh()
        interruption = Interruption(nth, __file__)
        error = interruption.run(lambda variables=variables: operation(*variables))  # type: ignore[misc]
        if not interruption.where:
            assert nth > 3, "it was interrupted nowhere"
            return found
        assert error is not None, f"the interrupt at {interruption.where} got lost"
        error.__traceback__ = error.__context__ = None  # frames that are still alive would hold generators back
        del error
        if left := left_behind(variables):
            found.append(f"{interruption.where}: {left}")
        elif values(variables) not in whole:
            found.append(f"{interruption.where}: half done, {values(variables)}")
        elif uncounted := [
            v.name for v, old in zip(variables, before, strict=True) if v.numpy().tolist() != old and not v.version
        ]:
            found.append(f"{interruption.where}: a new value has the old version, {uncounted}")
        overlays.active.clear()  # may count one too many, which costs time only
        overlays._overlay.set(None)
    raise AssertionError("it never ended")


def edit(a: sv.Variable, index: Any) -> None:
    with a.edit(index) as array:
        array[...] = 5.0


def constrained(a: sv.Variable) -> None:
    a.constraint = np.abs
    a.assign_sub(7.0)


def move(a: sv.Variable, b: sv.Variable, *listed: sv.Variable) -> None:
    with sv.transaction(listed):
        a.assign_sub(b)
        b.assign_add(1.0)


def nest(a: sv.Variable, b: sv.Variable) -> None:
    with sv.transaction(a):
        a.assign_sub(1.0)
        with sv.transaction(b):
            b.assign_add(1.0)


def write_rows(a: sv.Variable, b: sv.Variable) -> None:
    with sv.transaction(a, b):
        a.at[[0, 1, 0]].add(1.0)
        with sv.transaction():
            b[[1]] = a[[0]]
            b.at[[1]].add(1.0)


def write_rows_of_a_held_value(a: sv.Variable, b: sv.Variable) -> None:
    held = a.value
    write_rows(a, b)
    del held


def roll_back(a: sv.Variable, b: sv.Variable) -> None:
    with sv.rollback(a, b):
        move(a, b)


INTERRUPTED: dict[str, Operation] = {
    "assign": lambda a, b: a.assign([3.0, 4.0]),
    "assign_add": lambda a, b: a.assign_add(1.0),
    "setitem": lambda a, b: a.__setitem__(0, 5.0),
    "rows": lambda a, b: a.at[[0, 1, 0]].add(1.0),
    "divide": lambda a, b: divide(a),
    "read": lambda a, b: (a.value, a.numpy()),
    "update": lambda a, b: a.update(lambda value: value + 1),
    "edit": lambda a, b: edit(a, ...),
    "edit a part": lambda a, b: edit(a, 0),
    "constraint": lambda a, b: constrained(a),
    "transaction": lambda a, b: move(a, b, a, b),
    "transaction, unlisted": move,
    "transactions, nested": nest,
    "transaction, rows": write_rows,
    "transaction, rows of a held value": write_rows_of_a_held_value,
    "rollback": roll_back,
    "update_all": lambda a, b: sv.update_all([a, b], "add", 1.0),
    "restore": lambda a, b: sv.restore(sv.snapshot(a, b)),
    "snapshot": lambda a, b: sv.snapshot(a, b),
    "snapshot, under locks": lambda a, b: while_locked([a, b], lambda taken: [v.value for v in taken]),
}


@pytest.mark.parametrize("operation", INTERRUPTED)
def test_an_interrupt_at_any_moment_leaves_nothing_behind(operation: str) -> None:
    with every_table_has_a_log():
        assert leaks(INTERRUPTED[operation]) == []


def test_the_search_finds_a_lock_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""

    def careless(a: sv.Variable, b: sv.Variable) -> None:
        a._lock.acquire()
        a._stored()
        a._lock.release()

    assert any("locked" in each for each in leaks(careless))


def has_version(v: sv.Variable, version: int) -> bool:
    return v.version >= version


def write_until_interrupted(v: sv.Variable, started: threading.Event) -> None:
    try:
        started.set()
        while True:
            v.assign_add(1.0)
            v[...] = float(v.version % 7)
    except Interrupt:
        pass


def interrupt(thread: threading.Thread) -> None:
    """Until it has ended: an exception that comes while another one is handled may get lost."""
    end = time.monotonic() + PATIENCE
    while thread.is_alive():
        assert time.monotonic() < end, "a thread waits for ever"
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Interrupt))
        thread.join(0.05)


def test_interrupts_from_another_thread_leave_nothing_behind() -> None:
    """Real ones: 200 threads that write are hit at a random moment, two at a time."""
    v = sv.Variable(np.zeros(100, "float32"), backend="numpy")
    rng = random.Random(0)
    for _ in range(100):
        started = [threading.Event() for _ in range(2)]
        threads = [threading.Thread(target=write_until_interrupted, args=(v, each), daemon=True) for each in started]
        for thread in threads:
            thread.start()
        for each in started:
            each.wait()
        has_written = partial(has_version, v, v.version + rng.randrange(20))
        until(has_written)
        for thread in threads:
            interrupt(thread)
    value = v.numpy()
    assert (value == value[0]).all(), "an interrupted write is whole or did not happen"
    assert_free(v)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signals")
def test_ctrl_c_leaves_no_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between any two bytecodes of a write, a thousand times."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # some come in a destructor, which swallows them
    rng = random.Random(seed := time.time_ns())
    v = sv.Variable(np.zeros(100, "float32"))
    caught = 0
    armed = False

    def interrupt(*_: object) -> None:
        if armed:
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        while caught < 1000:
            try:
                armed = True
                # Again and again: one that comes in a destructor is lost.
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0002, 0.001), 0.01)
                while True:
                    v.assign_add(1.0)
                    with sv.transaction(v):
                        v.assign_add(1.0)
                    v.update(lambda a: a + 1)
                    with v.edit() as array:
                        array[...] = v.value[0] + 1
            except KeyboardInterrupt:
                armed = False  # before Python looks for signals: only a call does
                signal.setitimer(signal.ITIMER_REAL, 0)
                caught += 1
            value = v.numpy()
            assert (value == value[0]).all(), f"half a write, seed {seed}"
            if not caught % 20:
                worked = threading.Thread(target=v.assign_add, args=(1.0,), daemon=True)
                worked.start()
                worked.join(PATIENCE)
                assert not worked.is_alive(), f"locked after {caught} interrupts, seed {seed}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
