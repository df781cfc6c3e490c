"""Objects of running code cannot be copied or pickled, and their error says what to do instead."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import statevar as sv

MADE: dict[str, tuple[Callable[[sv.Variable, Path], Any], str]] = {
    "a subscription": (
        lambda v, _: v.subscribe(print),
        r"subscribe: a subscription belongs to its variable, and cannot be copied or pickled. Hint: subscribe to the c",
    ),
    "a StatelessScope": (
        lambda v, _: sv.StatelessScope({v: 1.0}),
        "StatelessScope: a scope belongs to the thread or task that opens it, and cannot be.*Hint: make a new one of",
    ),
    "a tape": (
        lambda v, _: sv.GradientTape(),
        "GradientTape: a tape belongs to the thread or task that opens it, and cannot be.*Hint: make a new one",
    ),
    "a transaction": (
        lambda v, _: sv.transaction(v),
        "transaction: a transaction belongs to the code that has opened it, and cannot be.*Hint: make a new one",
    ),
    "a rollback": (lambda v, _: sv.rollback(v), "rollback: a context manager belongs to the code that enters it, and"),
    "an edit": (lambda v, _: v.edit(), "edit: a context manager belongs to the code that enters it, and cannot be"),
    "a pause of a tape": (
        lambda v, _: sv.GradientTape().stop_recording(),
        "stop_recording: a context manager belongs to the code that enters it, and cannot be copied or pickled. Hint",
    ),
    "a manager": (
        lambda v, path: sv.CheckpointManager(path / "steps", v),
        "CheckpointManager: a manager has the lock of its folder and a thread that writes, and cannot be copied.*Hint",
    ),
}


@pytest.mark.parametrize("what", list(MADE))
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_belongs_to_running_code_is_not_copied(tmp_path: Path, what: str, how: Callable[[Any], Any]) -> None:
    make, message = MADE[what]
    v = sv.Variable(1.0)
    each = make(v, tmp_path)
    with pytest.raises(TypeError, match=f"^{message}"):
        how(each)
    if how is not copy.copy:
        with pytest.raises(TypeError, match=f"^{message}"):
            how([each])
    if isinstance(each, sv.CheckpointManager):
        each.close()


def test_a_module_that_has_one_says_so() -> None:
    class Model(sv.Module):
        def __init__(self) -> None:
            self.v = sv.Variable(1.0)
            self.subscription = self.v.subscribe(lambda *_: None)

    with pytest.raises(TypeError, match="^subscribe: a subscription belongs to its variable"):
        copy.deepcopy(Model())
