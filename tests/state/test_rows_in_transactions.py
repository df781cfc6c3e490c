"""A transaction on NumPy costs the rows that it writes, and not the table: they are kept in a log until the commit."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

import statevar as sv
from tests.faults import nothing_happens
from tests.helpers import address, assert_same, counts_prove
from tests.internals import adapter

ROWS, WIDTH = 20_000, 64  # 5 MB
IDS = np.array([5, 19_999, 7, 5])

counted = pytest.mark.skipif(not counts_prove(), reason="a value that was read once is left to its reader")


def table() -> sv.Variable:
    return sv.Variable(np.ones((ROWS, WIDTH), "float32"))


def write(v: sv.Variable) -> None:
    """Several writes of rows, and reads of rows."""
    v.at[IDS].add(1.0)
    assert_same(v[IDS], np.repeat([[3.0], [2.0], [2.0], [3.0]], WIDTH, 1))
    v[[7, 8]] = np.full((2, WIDTH), 9.0)
    v[100] = 4.0
    v[200:203] = 5.0
    v.at[v.shape[0] - 1].multiply(3.0)
    assert_same(v[100], np.full(WIDTH, 4.0))
    assert_same(v[199:202], np.repeat([[1.0], [5.0], [5.0]], WIDTH, 1))


def expected() -> np.ndarray[Any, Any]:
    model = np.ones((ROWS, WIDTH), "float32")
    model[[5, 19_999, 7, 8, 100, 200, 201, 202]] = np.array([[3, 6, 9, 9, 4, 5, 5, 5]]).T
    return model


def nothing() -> None:
    pass


Way: TypeAlias = Callable[[sv.Variable, Callable[[], None]], None]


def listed(v: sv.Variable, then: Callable[[], None] = nothing) -> None:
    with sv.transaction(v):
        write(v)
        then()


def read_before(v: sv.Variable, then: Callable[[], None] = nothing) -> None:
    with sv.transaction():
        assert v[5].sum() == WIDTH
        write(v)
        then()


def nested(v: sv.Variable, then: Callable[[], None] = nothing) -> None:
    with sv.transaction(v):
        v.at[IDS].add(1.0)
        with sv.transaction():
            v.at[IDS].subtract(1.0)
            with sv.transaction():
                write(v)
                then()


def undone(v: sv.Variable, then: Callable[[], None] = nothing) -> None:
    with sv.transaction(v):
        write(v)
        then()
        with pytest.raises(KeyError), sv.transaction():
            v.at[[5, 6]].add(7.0)
            raise KeyError


def compiled(v: sv.Variable, then: Callable[[], None] = nothing) -> None:
    @sv.jit
    def step() -> None:
        write(v)
        then()

    step()


WAYS: list[Way] = [listed, read_before, nested, undone, compiled]


@counted
@pytest.mark.parametrize("way", WAYS)
def test_it_costs_the_rows(way: Way) -> None:
    v = table()
    before = address(v)
    tracemalloc.start()
    try:
        way(v, nothing)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500_000, "a copy of the table takes ten times as much"
    assert address(v) == before
    assert_same(v, expected())
    if way is nested:
        assert v.version == 7
    v.at[IDS].add(1.0)
    assert address(v) == before, "the transaction has left a reference to the value"


def elements(v: sv.Variable) -> None:
    v.at[IDS, [1, 2, 3, 1]].add(1.0)
    v[7, 3] = 5.0
    v[v.shape[0] - 2, -1] = 6.0
    assert_same(v[IDS, [1, 2, 3, 3]], [3.0, 2.0, 5.0, 1.0])
    assert v[7, 3] == 5.0


def elements_by_a_mask(v: sv.Variable) -> None:
    mask = np.zeros((ROWS, WIDTH), "bool")
    mask[[7, 19_998, 5], [3, 63, 1]] = True
    v[mask] = [3.0, 5.0, 6.0]
    v.at[19_999, 2].add(1.0)
    assert_same(v[mask], [3.0, 5.0, 6.0])


@counted
@pytest.mark.parametrize("way", [elements, elements_by_a_mask])
def test_single_elements_cost_what_they_are(way: Callable[[sv.Variable], None]) -> None:
    v = table()
    before = address(v)
    tracemalloc.start()
    try:
        with sv.transaction(v):
            way(v)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000, "a copy of the table takes 5 MB"
    assert address(v) == before
    model = np.ones((ROWS, WIDTH), "float32")
    model[[5, 19_999, 7, 19_998], [1, 2, 3, 63]] = [3.0, 2.0, 5.0, 6.0]
    assert_same(v, model)
    with sv.transaction(v):
        v[7, 3] = 0.0
        v.at[[7]].add(1.0)  # a whole row, after an element of it
        assert v[7, 3] == 1.0
    with sv.transaction(v):
        v[7, 3] = 2.0
        assert v[7].sum() == 2 * WIDTH
        assert v[7:9].sum() == 3 * WIDTH
    model[7] = 2.0
    assert_same(v, model)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when", ["before", "in it", "by another thread"])
def test_snapshots_stay(way: Way, when: str) -> None:
    v = table()
    kept: list[Any] = []

    def keep() -> None:
        kept.append(v.value)

    def keep_elsewhere() -> None:
        thread = threading.Thread(target=keep)
        thread.start()
        thread.join()

    if when == "before":
        keep()
    way(v, {"before": nothing, "in it": keep, "by another thread": keep_elsewhere}[when])
    assert_same(v, expected())
    v.at[IDS].add(1.0)
    (old,) = kept
    assert_same(old, expected() if when == "in it" else np.ones((ROWS, WIDTH)))


def test_the_whole_is_read_and_written_in_between() -> None:
    v = table()
    with sv.transaction(v):
        v.at[IDS].add(1.0)
        v *= 2.0
        v.at[IDS].add(1.0)
        first = v.value
        v.at[IDS].add(1.0)
        assert_same(first[IDS], np.repeat([[8.0], [5.0], [5.0], [8.0]], WIDTH, 1))
        v.at[IDS, 0].subtract(1.0)
    assert_same(v[IDS[:3]][:, :2], [[8.0, 10.0], [5.0, 6.0], [5.0, 6.0]])
    assert v.value.sum() == 2 * ROWS * WIDTH + WIDTH * (8 + 4 + 4) - 4
    with sv.transaction(v):
        v.at[IDS].add(1.0)
        v.assign(np.zeros((ROWS, WIDTH)))
        v.at[IDS].add(1.0)
    assert v.value.sum() == 4 * WIDTH
    with sv.transaction(v):
        v.at[IDS].add(1.0)
        v.assign(np.zeros((2, WIDTH)), validate_shape=False)
    assert v.shape == (2, WIDTH)


def test_many_rows_end_the_log() -> None:
    v, model = table(), np.ones((ROWS, WIDTH), "float32")
    rng = np.random.default_rng(0)
    with sv.transaction(v):
        for _ in range(8):
            rows = rng.integers(-ROWS, ROWS, 600)
            v.at[rows].add(1.0)
            np.add.at(model, rows, 1.0)
            assert_same(v[rows], model[rows])
        v.at[:].add(1.0)
        v[np.arange(ROWS) % 2 == 0] = 5.0
    model += 1.0
    model[::2] = 5.0
    assert_same(v, model)


def test_a_value_that_was_restored_in_the_transaction_gets_the_rows() -> None:
    v = table()
    old = sv.snapshot(v)
    v.at[IDS].add(1.0)
    with sv.transaction(v):
        v.at[[0]].add(1.0)
        sv.restore(old)
        write(v)
    assert_same(v, expected())
    v.at[[0]].add(1.0)
    present = v.numpy()
    kept = [v.value, v.value]  # as many references as a transaction has to a value that it starts with
    with sv.transaction(v):
        sv.restore(old)
        write(v)
    assert_same(v, expected())
    for each in kept:
        assert_same(each, present)
    del kept, each
    with pytest.raises(KeyError), sv.rollback(v):
        with sv.transaction(v):
            v.at[IDS].add(1.0)
        raise KeyError
    assert_same(v, expected())


def test_a_commit_without_memory_for_the_copy_changes_nothing() -> None:
    """The old value of the second variable is held, so that a commit copies it."""
    variables = sorted([table(), table()], key=id)
    held = variables[1].value
    real = adapter("numpy")._copy

    def fail(*_: Any) -> None:
        raise MemoryError("injected")

    with nothing_happens(MemoryError, *variables), pytest.MonkeyPatch.context() as patch, sv.transaction(variables):
        for v in variables:
            v.at[IDS].add(1.0)
        patch.setattr(adapter("numpy"), "_copy", fail)
    assert adapter("numpy")._copy is real
    assert_same(held, np.ones((ROWS, WIDTH)))


@counted
def test_a_subscriber_writes_in_place() -> None:
    v = table()
    before = address(v)

    def add(v: sv.Variable, version: int) -> None:
        if version == 1:
            v.at[[3]].add(1.0)

    with v.subscribe(add), sv.transaction(v):
        v.at[[1, 2]].add(1.0)
    assert v.version == 2
    assert address(v) == before


def test_a_conflict_drops_the_rows() -> None:
    v, other = table(), sv.Variable(0)

    def elsewhere() -> None:
        other.assign_add(1)

    with pytest.raises(sv.errors.ConflictError), sv.transaction(v):
        int(other)
        v.at[IDS].add(1.0)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert_same(v, np.ones((ROWS, WIDTH)))
    assert v.version == 0


def add_to_some(v: sv.Variable, model: np.ndarray[Any, Any]) -> None:
    v.at[[5, 5, 6]].add(1.0)
    np.add.at(model, [5, 5, 6], 1.0)


def set_others(v: sv.Variable, model: np.ndarray[Any, Any]) -> None:
    for rows in ([7, 8, 7], slice(4, 6)):
        v[rows] = model[rows] = 8.0


def read(v: sv.Variable, model: np.ndarray[Any, Any]) -> None:
    assert_same(v[[4, 5, 7, 9, 5]], model[[4, 5, 7, 9, 5]])
    assert_same(v[5], model[5])


def read_all(v: sv.Variable, model: np.ndarray[Any, Any]) -> None:
    assert_same(v, model)


def write_inside(v: sv.Variable, model: np.ndarray[Any, Any]) -> None:
    with sv.transaction():
        add_to_some(v, model)
    with pytest.raises(KeyError), sv.transaction():
        v[[5, 7]] = 3.0
        raise KeyError


def single_elements(v: sv.Variable, model: np.ndarray[Any, Any]) -> None:
    v[[5, 6], [1, 2]] = model[[5, 6], [1, 2]] = 2.0


FIRST: dict[str, Callable[[], tuple[Any, Any]]] = {
    "rows": lambda: (np.array([9, 5, 7]), np.arange(3.0 * WIDTH).reshape(3, WIDTH)),
    "repeated": lambda: (IDS, np.arange(4.0 * WIDTH).reshape(4, WIDTH)),
    "negative": lambda: (np.array([-1, 5, -ROWS]), 7.0),
    "of two axes": lambda: (np.array([[5, 7], [9, 5]]), np.arange(2.0).reshape(2, 1) + np.zeros((2, WIDTH))),
    "none": lambda: (np.array([], "int64"), 7.0),
    "a slice": lambda: (slice(5, 9), np.arange(4.0).reshape(4, 1)),
}


@pytest.mark.parametrize("then", [add_to_some, set_others, read, read_all, write_inside, single_elements, None])
@pytest.mark.parametrize("first", FIRST)
def test_rows_that_are_set_first(first: str, then: Callable[..., None] | None) -> None:
    """They are kept as they were passed until something else happens to the rows."""
    v, model = table(), np.ones((ROWS, WIDTH), "float32")
    index, x = FIRST[first]()
    with sv.transaction(v):
        v[index] = model[index] = x
        if isinstance(index, np.ndarray):
            index[...] = 3  # the transaction has its own copy
        if isinstance(x, np.ndarray):
            x[...] = -1.0
        if then is not None:
            then(v, model)
            then(v, model)
        assert elsewhere_is_one(v)
    assert_same(v, model)


def elsewhere_is_one(v: sv.Variable) -> bool:
    """Whether another thread sees the table as it was."""
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(bool((v.numpy() == 1.0).all())))
    thread.start()
    thread.join()
    return seen[0]
