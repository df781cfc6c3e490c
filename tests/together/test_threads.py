"""Row 7: threads are counted. A lost update or a torn read is a number that is not zero."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same, host
from tests.threads import in_threads, repeat

THREADS = 8
ADDS = 2000


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def test_no_update_is_lost(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)
    in_threads(*[repeat(ADDS, lambda: v.assign_add(1.0))] * THREADS)
    assert float(v) == THREADS * ADDS
    assert v.version == THREADS * ADDS


def test_a_write_without_locking_is_counted_though_it_may_be_overwritten(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)
    in_threads(*[repeat(200, lambda: v.assign_add(1.0, use_locking=False))] * THREADS)
    assert v.version == THREADS * 200
    assert 0.0 < float(v) <= THREADS * 200


def test_no_update_of_any_kind_is_lost(backend: str) -> None:
    v = sv.Variable(np.zeros(4, "float32"), backend=backend)
    turns = 200

    def scatter() -> None:
        v.at[[0, 0, 3]].add(1.0)

    def block() -> None:
        v.at[1:3].add(1.0)

    def operators() -> None:
        nonlocal_v = v
        nonlocal_v += 1.0
        nonlocal_v -= 1.0

    def read() -> None:
        v.numpy()

    in_threads(*[repeat(turns, function) for function in (scatter, scatter, block, block, operators, read)])
    assert_same(v, [4.0 * turns, 2.0 * turns, 2.0 * turns, 2.0 * turns])


def test_without_locking_every_write_is_whole(backend: str) -> None:
    v = sv.Variable(np.zeros(1000, "float32"), backend=backend)
    x = np.ones(1000, "float32")
    broken = 0

    def unlocked() -> None:
        v.assign_add(x, use_locking=False)

    def read() -> None:
        nonlocal broken
        snapshot = v.value
        first = host(snapshot)
        broken += int((first != first[0]).any())
        v.at[...].add(0.0)
        broken += int((host(snapshot) != first).any())

    in_threads(*[repeat(100, unlocked)] * 4, repeat(100, read), repeat(100, lambda: v.assign_add(x)))
    assert broken == 0
    assert 1 <= v.numpy()[0] <= 500
    v.assign(x).assign_add(x, use_locking=False)
    assert_same(v, np.full(1000, 2.0))


def test_a_plain_array_loses_updates() -> None:
    """The test above can fail: the same on an ndarray, read and written back."""
    array = np.zeros(())

    def add() -> None:
        value = array[()]
        time.sleep(0)  # another thread's turn
        array[()] = value + 1

    in_threads(*[repeat(ADDS, add)] * THREADS)
    assert array < THREADS * ADDS


def torn(read: Callable[[], Any], write: Callable[[float], object], reads: int) -> int:
    """How many of the reads saw a mixture of two writes."""
    done = threading.Event()
    count = 0

    def writer() -> None:
        value = 0.0
        while not done.is_set():
            value += 1.0
            write(value)

    def reader() -> None:
        nonlocal count
        try:
            for _ in range(reads):
                value = read()
                count += int((value != value[0]).any())
        finally:
            done.set()

    in_threads(writer, reader)
    return count


MEGABYTE = 250_000
READS = 34_000  # in each of three ways to write: 102,000 on each backend


@pytest.mark.slow
@pytest.mark.parametrize("how", ["assign", "assign_add", "setitem"])
def test_no_read_is_torn(backend: str, how: str) -> None:
    v = sv.Variable(np.zeros(MEGABYTE, "float32"), backend=backend)
    values = [np.full(MEGABYTE, value, "float32") for value in range(4)]

    def write(value: float) -> None:
        if how == "assign":
            v.assign(values[int(value) % 4])
        elif how == "assign_add":
            v.assign_add(1.0)
        else:
            v[...] = value

    assert torn(lambda: v._backend.to_host(v.value), write, READS) == 0


def test_no_copy_is_torn(backend: str) -> None:
    v = sv.Variable(np.zeros(MEGABYTE, "float32"), backend=backend)
    values = [np.full(MEGABYTE, value, "float32") for value in range(4)]
    assert torn(v.numpy, lambda value: v.assign(values[int(value) % 4]), 500) == 0


@pytest.mark.slow
def test_a_plain_array_is_torn() -> None:
    """The tests above can fail: the same on an ndarray."""
    array = np.zeros(4 * MEGABYTE, "float32")

    def write(value: float) -> None:
        array[...] = value

    assert torn(array.copy, write, 2000) > 0


def test_a_held_snapshot_stays_what_it_was(backend: str) -> None:
    v = sv.Variable(np.zeros(10_000, "float32"), backend=backend)
    changed = 0

    def reader() -> None:
        nonlocal changed
        for _ in range(200):
            snapshot = v.value
            first = host(snapshot)[0]
            for _ in range(3):
                changed += int((host(snapshot) != first).any())

    in_threads(reader, reader, repeat(400, lambda: v.assign_add(1.0)))
    assert changed == 0


def test_shape_and_value_change_together(backend: str) -> None:
    v = sv.Variable(np.full(1, 1.0, "float32"), shape=(None,), backend=backend)
    wrong = 0

    def writer() -> None:
        for size in range(1, 300):
            v.assign(np.full(size % 7 + 1, float(size % 7 + 1), "float32"))

    def reader() -> None:
        nonlocal wrong
        for _ in range(300):
            value = host(v.value)
            wrong += int((value != value.size).any())

    in_threads(writer, reader, writer)
    assert wrong == 0


def test_first_assignments_of_several_threads_are_all_counted(backend: str) -> None:
    for _ in range(20):
        v = sv.Variable(shape=(), backend=backend)
        in_threads(*[lambda v=v: v.assign(0.0)] * 4)
        assert v.version == 4
        assert float(v) == 0.0


def test_default_names_are_unique_across_threads() -> None:
    names: list[str] = []

    def make() -> None:
        with sv.name_scope("test_default_names_are_unique_across_threads"):
            names.extend(sv.Variable(0).name for _ in range(200))

    in_threads(*[make] * 4)
    assert len(set(names)) == len(names) == 800
