"""Records: what a read gives, what a write changes, which slots are used, and what a commit of several means."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from statevar.errors import ConflictError
from tests.helpers import assert_same
from tests.internals import HOST, shared_part
from tests.shared.records import add, consistent, created, opened, put, put_together
from tests.threads import in_threads, repeat

pools = shared_part("pool")
places = shared_part("places")
commits = shared_part("commit")

SHAPES = ((), (3,), (0, 2), (2, 3, 4), (300, 100))


@pytest.fixture
def file(shm: Path) -> str:
    return str(shm / "pool.svs")


def slots(record: Any) -> int:
    """How many slots were made."""
    return sum(bool(word) for word in record.words[16:32])


def test_every_dtype_and_shape_is_read_as_it_was_created(file: str) -> None:
    rng = np.random.default_rng(0)
    values = {
        f"{name}{shape}": rng.integers(0, 2, shape).astype(HOST[name])
        for name in HOST
        for shape in SHAPES
        if name != "string"
    }
    new = [pools.New(path, value, path.partition("(")[0], 7, {"name": path}) for path, value in values.items()]
    pool = pools.Pool.create(places.place_of(file), new)
    for each in (pool, opened(file)):
        assert list(each.records) == list(values)
        for path, record in each.records.items():
            array, version = record.read()
            assert_same(array, values[path], dtype=True)
            assert (version, record.version, record.facts) == (7, 7, {"name": path})
            assert record.address % 64 == 0


@pytest.mark.parametrize("size", [3, 100_000])
def test_what_was_read_never_changes_and_cannot_be_written(file: str, size: int) -> None:
    record = created(file, a=np.zeros(size, np.float32)).records["a"]
    read = [record.read()[0]]
    for number in range(1, 6):
        assert put(record, float(number)) == number
        read.append(record.read()[0])
    assert [(each.min(), each.max()) for each in read] == [(float(i), float(i)) for i in range(6)]
    with pytest.raises(ValueError, match="WRITEABLE"):
        read[0].setflags(write=True)
    assert record.read()[0] is record.read()[0]


def test_a_large_value_is_not_copied_and_its_slot_is_used_again_when_the_last_view_is_gone(file: str) -> None:
    record = created(file, a=np.zeros(100_000, np.float32)).records["a"]
    part: Any = record.read()[0][5:10].reshape(5, 1)
    for number in range(5):
        put(record, float(number + 1))
    assert slots(record) == 3
    np.testing.assert_array_equal(part, 0)
    assert any(record.is_leased(slot) for slot in range(3))
    del part
    gc.collect()
    assert not any(record.is_leased(slot) for slot in range(3))


def test_more_views_of_different_values_than_there_are_slots_are_an_error_that_changes_nothing(file: str) -> None:
    record = created(file, a=np.zeros(20_000, np.float32)).records["a"]
    held = [record.read()[0]]
    for number in range(1, 16):
        put(record, float(number))
        held.append(record.read()[0])
    with pytest.raises(ConflictError) as error:
        put(record, 99.0)
    assert str(error.value) == (
        "assign: 15 older values of it are still being read without a copy, at 'a'. "
        "Hint: copy what you keep (np.array(v.value)), or drop it before more is written."
    )
    assert [each[0] for each in held] == list(range(16))
    assert record.version == 15
    del held[:4]
    assert put(record, 99.0) == 16


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 299), st.integers(0, 60), st.booleans()), max_size=60))
def test_writes_of_rows_and_of_everything_are_those_of_an_array(writes: list[tuple[int, int, bool]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="statevar-test-") as folder:
        pool = created(f"{folder}/a.svs", a=np.zeros((300, 64), np.float32))
        mine, theirs = pool.records["a"], opened(f"{folder}/a.svs").records["a"]
        expected = np.zeros((300, 64), np.float32)
        held: list[Any] = []
        for number, (start, size, everything) in enumerate(writes):
            record = (mine, theirs)[number % 2]
            end = min(start + size, 300)
            if everything:
                expected[...] = number
                put(record, float(number))
            else:
                expected[start:end] += number
                add(record, float(number), (start, end))
            np.testing.assert_array_equal(mine.read()[0], expected)
            if number % 7 == 0:
                held = [theirs.read()[0], *held[:3]]


def test_a_write_that_raises_changes_nothing(file: str) -> None:
    record = created(file, a=np.zeros(20_000, np.float32)).records["a"]

    def fill(_: Any, new: Any) -> None:
        new[:10] = 5
        raise KeyError("mine")

    claim = record.claim("assign", "a")
    for rows in (None, (0, 10)):
        with pytest.raises(KeyError, match="mine"):
            record.write(claim, fill, rows)
    assert (record.version, record.read()[0].any()) == (0, False)
    assert record.write(claim, lambda old, new: np.add(old, 1, out=new)) == 1
    claim.release()
    assert record.read()[0].min() == record.read()[0].max() == 1


def test_what_was_prepared_is_seen_by_nobody_until_all_is_committed(file: str) -> None:
    pool = created(file, a=np.int64(1), b=np.zeros(20_000, np.int64))
    others = opened(file).records
    a, b = pool.records["a"], pool.records["b"]
    claims = [a.claim("transaction", "a"), b.claim("transaction", "b", others=[a])]
    prepared = [
        a.prepare(claims[0], lambda _, new: np.copyto(new, 5), 10),
        b.prepare(claims[1], lambda _, new: np.copyto(new, 6), 20),
    ]
    assert (others["a"].read(), others["b"].read()[1], others["a"].is_committing()) == ((1, 0), 0, True)
    commits.commit(prepared)
    commits.commit(prepared)  # as after an interrupt
    assert (others["a"].read(), others["b"].read()[1], others["a"].is_committing()) == ((5, 10), 20, False)
    assert others["b"].read()[0].min() == 6
    for claim in claims:
        claim.release()
    assert add(others["a"], 1) == 11
    with pytest.raises(ConflictError, match=r"transaction: the claim of it has ended, at 'a'"):
        commits.commit(prepared)


def test_what_was_abandoned_or_released_is_dropped(file: str) -> None:
    pool = created(file, a=np.int64(1), b=np.int64(2))
    put_together(list(pool.records.values()), [7, 8], abandon=True)
    claim = pool.records["a"].claim("transaction", "a")
    pool.records["a"].prepare(claim, lambda _, new: np.copyto(new, 5), 10)
    claim.release()
    assert [int(each) for each in consistent(list(pool.records.values()))] == [1, 2]
    assert add(pool.records["a"], 1) == 1


def test_one_commit_is_of_one_pool(file: str) -> None:
    first, second = created(file, a=np.int64(1)), created(file.replace("pool", "other"), b=np.int64(1))
    with pytest.raises(ConflictError) as error:
        put_together([first.records["a"], second.records["b"]], [2, 2])
    assert "it writes variables of 2 pools, which no single store can commit: " in str(error.value)
    assert str(error.value).endswith("Hint: share the variables in one pool.")
    assert first.records["a"].read() == second.records["b"].read() == (1, 0)


def test_two_pools_on_one_file_exclude_each_other_in_one_process(file: str) -> None:
    mine, theirs, third = created(file, a=np.int64(0), b=np.int64(0)), opened(file), opened(file)
    in_threads(
        repeat(200, lambda: add(mine.records["a"], 1)),
        repeat(200, lambda: add(theirs.records["a"], 1)),
        repeat(100, lambda: put_together(list(third.records.values()), [lambda x: x + 1] * 2)),
    )
    assert [int(each) for each in consistent(list(theirs.records.values()))] == [500, 100]


def test_a_version_is_waited_for(file: str) -> None:
    mine, theirs = created(file, a=np.int64(0)).records["a"], opened(file).records["a"]
    assert mine.wait(0, None)
    assert not mine.wait(1, 0.01)
    in_threads(lambda: mine.wait(3, None), repeat(3, lambda: add(theirs, 1)))
    assert mine.version == 3
