"""The writes of a variable, for programs that try each of them on values over a mesh and on NumPy."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest

import statevar as sv

Program = Callable[[Any], object]

#: What `At` can do.
AT = ("set", "add", "subtract", "multiply", "divide", "floor_divide", "remainder", "power", "min", "max")
X = (np.arange(96, dtype="float32") % 11).reshape(8, 12) + 1.5
IDS = np.array([1, 5, 1])
MASK = X > 6
ROWS = X[:3]


def refused(kind: type[Exception], step: Callable[[], object], *parts: str) -> None:
    """Asserts that a step raises an error whose text has these parts."""
    with pytest.raises(kind) as raised:
        step()
    for part in parts:
        assert part in str(raised.value), (part, str(raised.value))


def several(v: Any) -> None:
    v.assign_add(1.0)
    v[0] = 3.0
    v[1:3, 2:5] = ROWS[:2, :3]
    v.assign(v.value * 0.5)
    v -= 1.0


def transacted(v: Any) -> None:
    with sv.transaction():
        several(v)
        v.at[IDS].add(2.0)


def rolled_back(v: Any) -> None:
    with sv.rollback(v):
        several(v)
    v.assign_add(0.5)


def failed(v: Any) -> None:
    with suppress(ZeroDivisionError), sv.transaction():
        several(v)
        _ = 1 / 0
    v.assign_add(0.25)


def constrained(v: Any) -> None:
    v.constraint = lambda a: abs(a) * 2
    v.assign_sub(3.0)
    v[1] = -4.0
    v.constraint = None


def _whole() -> dict[str, Program]:
    found: dict[str, Program] = {
        "a list": lambda v: v.assign(X.tolist()),
        "an array": lambda v: v.assign(X),
        "another variable": lambda v: v.assign(sv.Variable(X)),
        "assign_add": lambda v: v.assign_add(X),
        "assign_sub": lambda v: v.assign_sub(2.0),
        "a row": lambda v: v.assign_add(X[0]),
        "a column": lambda v: v.assign_sub(X[:, :1]),
        "without a lock": lambda v: v.assign(X, use_locking=False).assign_add(X, use_locking=False),
        "another dtype": lambda v: v.assign_add(X.astype("float64")),
        "update": lambda v: v.update(lambda a: a * 0.9 + 1),
        "set_value": lambda v: sv.set_value(v, X),
        "update_all": lambda v: sv.update_all([v], "add", [X]),
        "several": several,
        "a transaction": transacted,
        "a rollback": rolled_back,
        "a transaction that fails": failed,
        "a constraint": constrained,
    }
    for name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"):
        found[name] = partial(_operated, name, 2.0)
    found["matmul"] = partial(_operated, "imatmul", np.eye(12, dtype="float32") * 2)
    found["imul array"] = partial(_operated, "imul", X)
    found["itruediv array"] = partial(_operated, "itruediv", X)
    return found


def _operated(name: str, x: Any, v: Any) -> None:
    getattr(operator, name)(v, x)


def _set(index: Any, x: Any, v: Any) -> None:
    v[index] = x


def _at(operation: str, index: Any, x: Any, v: Any) -> None:
    getattr(v.at[index], operation)(x)


#: By a name: an index, and what is written there.
ITEMS: dict[str, tuple[Any, Any]] = {
    "a number": ((2, 3), 7.0),
    "from the end": ((-1, -1), 7.0),
    "one row": (2, ROWS[0]),
    "a block": ((slice(1, 4), slice(2, 7)), ROWS[:, :5]),
    "a block of one column": ((slice(1, 4), slice(2, 7)), ROWS[:, :1]),
    "steps": ((slice(None, None, 2), slice(10, 1, -3)), ROWS[0, :3]),
    "backwards": (slice(None, None, -1), X),
    "a new axis": ((None, slice(1, 4), 3), ROWS[:1, :3]),
    "all": (slice(None), X),
    "an ellipsis": ((..., 1), X[:, 0]),
    "nothing": (slice(3, 3), 1.0),
    "rows": (IDS, ROWS),
    "rows of a table": (IDS.reshape(3, 1), ROWS[:, None]),
    "columns": ((slice(None), IDS), X[:, :3]),
    "rows of a block": ((slice(1, 3), IDS), ROWS[:2, :3]),
    "elements": ((IDS, IDS), ROWS[0, :3]),
    "a mask": (MASK, 1.5),
    "a mask and an array": (MASK, np.arange(MASK.sum(), dtype="float32")),
    "a mask of rows": (MASK[:, 0], ROWS[0]),
    "a mask of rows and a number": (MASK[:, 0], 2.0),
}

WRITES: dict[str, Program] = {
    **_whole(),
    **{name: partial(_set, *item) for name, item in ITEMS.items()},
    **{f"at rows {each}": partial(_at, each, IDS, ROWS / 4) for each in AT},
    **{f"at elements {each}": partial(_at, each, (IDS, IDS), ROWS[0, :3]) for each in ("add", "divide", "max", "set")},
    **{f"at a block {each}": partial(_at, each, (slice(1, 3), slice(2, 5)), X[0, :3]) for each in ("add", "power")},
    **{f"at a mask {each}": partial(_at, each, MASK, 2.0) for each in ("multiply", "remainder")},
    **{f"at columns {each}": partial(_at, each, (slice(None), IDS), 2.0) for each in ("subtract", "divide")},
}
