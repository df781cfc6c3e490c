"""What tests of records share: pools in a folder, and writes of one process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from tests.internals import shared_part

if sys.platform != "linux":
    pytest.skip("variables are shared on Linux only", allow_module_level=True)

places = shared_part("places")
pools = shared_part("pool")
commits = shared_part("commit")


def created(where: str, **values: Any) -> Any:
    """A new pool with these variables at the path of a file."""
    new = [pools.New(path, np.asarray(value), str(np.asarray(value).dtype)) for path, value in values.items()]
    return pools.Pool.create(places.place_of(where), new)


def opened(where: str) -> Any:
    return pools.Pool.open(places.place_of(where))


def add(record: Any, x: Any, rows: tuple[int, int] | None = None) -> int:
    """``v += x``, of all or of some rows; returns the version."""
    start, end = rows if rows is not None else (0, 0)

    def fill(old: Any, new: Any) -> None:
        if rows is None:
            np.add(old, x, out=new)
        else:
            new[start:end] += x

    with_claim = record.claim("assign", record.path)
    try:
        return int(record.write(with_claim, fill, rows))
    finally:
        with_claim.release()


def put(record: Any, x: Any) -> int:
    claim = record.claim("assign", record.path)
    try:
        return int(record.write(claim, lambda _, new: np.copyto(new, x)))
    finally:
        claim.release()


def put_together(records: Sequence[Any], values: Sequence[Any], *, abandon: bool = False) -> None:
    """Writes several at once; each value may be a function of the old one."""
    ordered = sorted(zip(records, values, strict=True), key=lambda each: each[0].key)
    with ExitStack() as stack:
        claimed: list[Any] = []
        prepared: list[Any] = []
        for record, _ in ordered:
            claim = record.claim("transaction", record.path, others=claimed)
            stack.callback(claim.release)
            claimed.append(record)
            prepared.append(claim)
        for number, (record, value) in enumerate(ordered):

            def fill(old: Any, new: Any, value: Any = value) -> None:
                np.copyto(new, value(old) if callable(value) else value)

            prepared[number] = record.prepare(prepared[number], fill, record.version + 1)
        if abandon:
            commits.abandon(prepared)
        else:
            commits.commit(prepared)


def consistent(records: Sequence[Any]) -> list[Any]:
    """The values of several at one moment: read until nothing moved meanwhile."""
    while True:
        read = [each.read() for each in records]
        if [each.version for each in records] == [version for _, version in read]:
            return [value for value, _ in read]
