"""Ctrl-C in a claim, a write or a commit, at any moment: nobody waits for ever, and the value is the old or new one."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import ReentrantWriteError
from tests.faults import Interruption
from tests.internals import shared_part
from tests.shared import records as helpers
from tests.shared.records import add, consistent, created, opened, put, put_together

pytestmark = pytest.mark.own_process

WRITES: dict[str, Callable[[list[Any], int], object]] = {
    "write": lambda records, x: put(records[0], x),
    "rows": lambda records, x: add(records[1], 1, (x % 50, x % 50 + 2)),
    "several": lambda records, x: put_together(records, [x, x, x]),
    "abandoned": lambda records, x: put_together(records, [x, x, x], abandon=True),
    "read": lambda records, _: [each.read() for each in records],
}


@pytest.mark.parametrize("name", WRITES)
def test_an_interrupt_at_any_moment_leaves_nothing_claimed_or_half_done(shm: Path, name: str) -> None:
    file = str(shm / "a.svs")
    pool = created(file, a=np.int64(0), b=np.zeros((2000, 8), np.int64), c=np.int64(0))
    mine, theirs = list(pool.records.values()), list(opened(file).records.values())
    step, value = 1, 0
    while True:
        value += 1
        before = [each.copy() for each in consistent(theirs)]
        interruption = Interruption(step, helpers.__file__)
        error = interruption.run(lambda: WRITES[name](mine, value))  # noqa: B023  # called at once
        if not interruption.where:
            assert error is None
            break
        del error
        gc.collect()
        after = [each.copy() for each in consistent(theirs)]
        same = all(np.array_equal(old, new) for old, new in zip(before, after, strict=True))
        if name == "several":
            assert same or all((each == value).all() for each in after), interruption.where
        elif name in ("abandoned", "read"):
            assert same, interruption.where
        for record in theirs:
            claim = record.claim_if_free()
            assert claim is not None, f"it is claimed, after an interrupt in {interruption.where}"
            claim.release()
            assert not record.is_committing()
            assert not any(record.is_leased(slot) for slot in range(3)) or record.nbytes > 1000
        assert [add(record, 0) for record in theirs] == [record.version for record in mine]
        step += 1
    assert step > 20


def test_a_signal_handler_that_writes_in_a_write_does_not_end_its_claim(
    shm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler may come between any two steps of the claim. It gets the error of any write within a write."""
    v = sv.Variable(0, shared="pool/v")
    claims, raised = shared_part("claims"), []
    now = claims._now

    def handler() -> int:
        monkeypatch.setattr(claims, "_now", now)
        try:
            v.assign_add(10)
        except ReentrantWriteError as error:
            raised.append(error)
        return int(now())

    monkeypatch.setattr(claims, "_now", handler)
    v.assign_add(1)
    assert len(raised) == 1
    assert int(v) == 1
