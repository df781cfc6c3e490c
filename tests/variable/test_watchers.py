"""`wait` and `subscribe`: who is told of a new version, when, and in which order."""

from __future__ import annotations

import gc
import logging
import threading
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import PATIENCE, assert_same
from tests.threads import in_threads, repeat


def test_wait_returns_at_the_version(backend: str) -> None:
    v = sv.Variable(0, backend=backend)
    assert v.wait(0)
    assert not v.wait(1, timeout=0.01)
    seen: list[Any] = []

    def waiter() -> None:
        assert v.wait(3, timeout=PATIENCE)
        seen.append(int(v))

    in_threads(waiter, waiter, repeat(3, lambda: v.assign_add(1)))
    assert seen == [3, 3]


def test_waiting_for_what_nobody_else_can_write_is_an_error(backend: str) -> None:
    v = sv.Variable(0, name="w", backend=backend)
    message = "wait: this thread holds the variable for a transaction, so no other thread can write version 1, at 'w'"
    with sv.transaction(v):
        with pytest.raises(sv.errors.ConflictError, match=message):
            v.wait(1)
        v += 1
        assert v.wait(1)
    assert v.wait(1)


def test_every_kind_of_write_is_told(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend, constraint=lambda a: a)
    w = sv.Variable([1.0, 2.0], backend=backend)
    told: list[tuple[str, int]] = []
    for each in (v, w):
        each.subscribe(lambda variable, version: told.append((variable.name, version)))

    def writes(each: sv.Variable) -> None:
        each.assign([3.0, 4.0])
        each.assign_add(1.0, use_locking=False)
        each[0] = 5.0
        each.at[[0, 0]].add(1.0)
        each.update(lambda a: a + 1)
        with each.edit() as array:
            array[0] = 1
        with each.edit(0) as array:
            array[...] = 2
        with sv.transaction(each):
            each.assign_add(1.0).assign_add(1.0)
        sv.restore(sv.snapshot(each))
        sv.set_value(each, [0.0, 0.0])

    writes(v)
    writes(w)
    expected = [1, 2, 3, 4, 5, 6, 7, 9, 10, 11]
    assert told == [(each.name, version) for each in (v, w) for version in expected]


def test_failed_writes_are_not_told(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    told: list[int] = []
    v.subscribe(lambda _, version: told.append(version))
    with pytest.raises(sv.errors.ShapeError):
        v.assign([1.0, 2.0])
    with pytest.raises(KeyError), sv.transaction(v):
        v += 1.0
        raise KeyError
    with sv.rollback(v):
        v += 1.0
    assert told == []


def test_they_are_called_in_order_and_without_a_lock(backend: str) -> None:
    v = sv.Variable(0, backend=backend)
    told: list[int] = []
    elsewhere: list[int] = []

    def callback(variable: sv.Variable, version: int) -> None:
        told.append(version)
        if version % 50 == 0:
            in_threads(lambda: elsewhere.append(int(variable.assign_add(0).value >= 0)))

    with v.subscribe(callback):
        in_threads(*[repeat(40, lambda: v.assign_add(1))] * 4)
    assert told == list(range(1, v.version + 1))
    assert elsewhere, "another thread could write while the subscriber ran"


def test_a_transaction_is_told_when_all_of_it_is_there(backend: str) -> None:
    v, w = sv.Variable(0, backend=backend), sv.Variable(0, backend=backend)
    seen: list[tuple[int, int]] = []
    v.subscribe(lambda *_: seen.append((int(v), int(w))))
    with sv.transaction(v, w):
        v += 1
        w += 1
        assert seen == []
    assert seen == [(1, 1)]


def test_a_subscriber_may_write_the_variable() -> None:
    v = sv.Variable(0)
    told: list[int] = []

    def up_to_three(variable: sv.Variable, version: int) -> None:
        told.append(version)
        if variable < 3:
            variable.assign_add(1)

    v.subscribe(up_to_three)
    v += 1
    assert told == [1, 2, 3]


def test_what_a_subscriber_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    v = sv.Variable(0, name="w")
    told: list[int] = []

    def broken(variable: sv.Variable, version: int) -> None:
        raise ZeroDivisionError("oh")

    v.subscribe(broken)
    v.subscribe(lambda _, version: told.append(version))
    with caplog.at_level(logging.ERROR, logger="statevar"):
        v += 1
        v += 1
    assert told == [1, 2], "the next one is called, and the write is done"
    assert int(v) == 2
    assert "broken" in caplog.text
    assert "raised an exception on version 1 of 'w'" in caplog.text
    assert "ZeroDivisionError: oh" in caplog.text


class Dashboard:
    def __init__(self) -> None:
        self.versions: list[int] = []

    def changed(self, variable: sv.Variable, version: int) -> None:
        self.versions.append(version)


def test_a_subscription_ends_with_its_subscriber() -> None:
    v = sv.Variable(0)
    dashboard = Dashboard()
    versions = dashboard.versions
    v.subscribe(dashboard.changed)
    v += 1
    del dashboard
    gc.collect()
    v += 1
    assert versions == [1]
    assert v._watchers is not None
    assert v._watchers._subscriptions == ()


def test_a_subscription_is_cancelled_once_or_twice() -> None:
    v = sv.Variable(0)
    told: list[int] = []
    subscription = v.subscribe(lambda _, version: told.append(version))
    v += 1
    subscription.cancel()
    subscription.cancel()
    v += 1
    assert told == [1]
    with v.subscribe(lambda _, version: told.append(version)):
        v += 1
    v += 1
    assert told == [1, 3]


def test_a_subscriber_does_not_keep_the_variable() -> None:
    import weakref

    v = sv.Variable(np.zeros(3))
    v.subscribe(print)
    alive = weakref.ref(v)
    del v
    gc.collect()
    assert alive() is None


def test_what_cannot_be_called_is_no_subscriber() -> None:
    with pytest.raises(TypeError, match="subscribe: expected a callable, got 3, at 'w'"):
        sv.Variable(0, name="w").subscribe(3)  # type: ignore[arg-type]


def test_a_pipeline_of_two_threads_misses_no_version(backend: str) -> None:
    source, result = sv.Variable(0.0, backend=backend), sv.Variable(0.0, backend=backend)
    items = 20

    def stage() -> None:
        for version in range(1, items + 1):
            assert source.wait(version, timeout=PATIENCE)
            assert float(source) >= version
            result.assign_add(1.0)

    in_threads(stage, repeat(items, lambda: source.assign_add(1.0)))
    assert_same(result, float(items))


@pytest.mark.own_process(shared=True)
def test_ctrl_c_in_a_subscriber_leaves_it_working() -> None:
    v = sv.Variable(0)
    told: list[int] = []

    def interrupted(_: sv.Variable, version: int) -> None:
        told.append(version)
        if version == 1:
            raise KeyboardInterrupt

    v.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        v += 1
    v += 1
    assert told == [1, 2]
    assert threading.active_count() >= 1
