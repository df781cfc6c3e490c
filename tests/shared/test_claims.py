"""Claims: who has one, for how long, and what waits for what."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import ConflictError
from tests.helpers import thorough, until
from tests.internals import shared_part
from tests.shared.records import add, created, opened, put_together
from tests.threads import in_threads, repeat


@pytest.fixture
def file(shm: Path) -> str:
    return str(shm / "pool.svs")


def claimed(*records: Any) -> list[Any]:
    """Claims of several records in this order, whatever it is."""
    claims: list[Any] = []
    for number, record in enumerate(records):
        claims.append(record.claim("assign", record.path, others=records[:number]))
    return claims


def released(claims: list[Any]) -> None:
    for each in claims:
        each.release()


def test_a_claim_excludes_others_until_it_is_released(file: str) -> None:
    mine, theirs = (pool.records["a"] for pool in (created(file, a=np.int64(0)), opened(file)))
    assert mine.holder() is theirs.holder() is None
    claim = mine.claim("assign", "a")
    assert theirs.claim_if_free() is None
    holder = theirs.holder()
    assert holder is not None
    assert holder[0] == os.getpid()
    assert 0 <= holder[1] < 60
    assert claim.is_valid()
    claim()
    claim.release()
    assert not claim.is_valid()
    assert mine.holder() is theirs.holder() is None
    with pytest.raises(ConflictError, match=r"assign: the claim of it has ended, at 'a'. Hint: claim it anew."):
        mine.write(claim, lambda _, new: new)
    other = theirs.claim_if_free()
    assert mine.claim_if_free() is None
    del other
    assert add(mine, 1) == 1


def test_a_newer_claim_of_the_same_object_takes_over(file: str) -> None:
    mine, theirs = (pool.records["a"] for pool in (created(file, a=np.int64(0)), opened(file)))
    older = mine.claim("assign", "a")
    newer = mine.claim_if_free()
    older.release()
    assert (older.is_valid(), newer.is_valid(), theirs.claim_if_free()) == (False, True, None)
    assert older.number < newer.number
    del older
    assert mine.write(newer, lambda old, new: np.add(old, 1, out=new)) == 1


def test_a_claim_that_is_dropped_is_released(file: str) -> None:
    mine, theirs = (pool.records["a"] for pool in (created(file, a=np.int64(0)), opened(file)))
    mine.claim("assign", "a")
    assert theirs.claim_if_free() is not None


def test_opposite_orders_are_an_error_that_names_the_other_and_no_deadlock(file: str) -> None:
    mine, theirs = created(file, a=np.int64(0), b=np.int64(0)).records, opened(file).records
    has_b, waits = threading.Event(), threading.Event()

    def in_order() -> None:
        first = theirs["a"].claim("transaction", "a")
        waits.set()
        assert has_b.wait(60)
        second = theirs["b"].claim("transaction", "b", others=[theirs["a"]])
        released([first, second])

    def against_it() -> None:
        claim = mine["b"].claim("transaction", "b")
        has_b.set()
        assert waits.wait(60)
        with pytest.raises(ConflictError) as error:
            mine["a"].claim("transaction", "a", others=[mine["b"]])
        text = str(error.value)
        assert text.startswith(
            f"transaction: waiting for it would be a deadlock: process {os.getpid()} has had it for "
        )
        assert text.endswith(
            " s, at 'a'. Hint: list all the variables in one sv.transaction(...), "
            "which always takes them in the same order."
        )
        claim.release()

    in_threads(in_order, against_it)
    assert [add(mine[name], 1) for name in "ab"] == [1, 1]


def test_a_wait_against_the_order_that_is_no_deadlock_ends(file: str) -> None:
    mine, theirs = created(file, a=np.int64(0), b=np.int64(0)).records, opened(file).records
    claim = theirs["a"].claim("assign", "a")
    done = threading.Event()

    def against_it() -> None:
        released(claimed(mine["b"], mine["a"]))
        done.set()

    thread = threading.Thread(target=against_it)
    thread.start()
    until(lambda: theirs["b"].words[11])  # it says for what it waits
    claim.release()
    assert done.wait(60)
    thread.join()
    assert not theirs["b"].words[11]


def test_many_transactions_in_all_orders_end_or_say_that_they_would_not(file: str) -> None:
    names = "abcd"
    first = created(file, **dict.fromkeys(names, np.int64(0)))
    count = thorough(60, 2500)
    conflicts = [0] * 4

    def transactions(number: int, pool: Any) -> Callable[[], None]:
        rng = np.random.default_rng(number)

        def one() -> None:
            records = [pool.records[name] for name in rng.permutation(list(names))[:3]]
            if number % 2:
                put_together(records, [lambda x: x + 1] * 3)  # in the order
                return
            while True:
                claims: list[Any] = []
                try:
                    for position, record in enumerate(records):
                        claims.append(record.claim("assign", record.path, others=records[:position]))
                        record.write(claims[-1], lambda old, new: np.add(old, 1, out=new))
                except ConflictError:
                    conflicts[number] += 1
                    for record, claim in zip(records, claims, strict=False):
                        record.write(claim, lambda old, new: np.subtract(old, 1, out=new))
                else:
                    return
                finally:
                    released(claims)

        return one

    pools = [first, *(opened(file) for _ in range(3))]
    in_threads(*(repeat(count, transactions(number, pool)) for number, pool in enumerate(pools)))
    assert sum(int(record.read()[0]) for record in first.records.values()) == 4 * count * 3
    print(f"\n{4 * count} transactions, {sum(conflicts)} conflicts")


def test_what_a_transaction_asks_grows_with_its_variables_and_no_faster(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del shm
    asked: list[None] = []
    claim = shared_part("claims").Claim
    is_valid = claim.is_valid

    def counted(self: Any) -> bool:
        asked.append(None)
        return bool(is_valid(self))

    monkeypatch.setattr(claim, "is_valid", counted)
    many = [sv.Variable(0) for _ in range(600)]
    sv.share(many)
    for times in (1, 2):
        asked.clear()
        with sv.transaction(*many):
            for each in many:
                each.assign_add(1)
        assert len(asked) < 10 * len(many)
        assert {int(each) for each in many} == {times}
