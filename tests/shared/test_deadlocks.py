"""Circles of waits that lead through the threads of a process and through other processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import statevar as sv
from statevar.errors import ConflictError

#: Holds one variable, then writes another one. It says what it does, and waits for a line before it goes on.
PROGRAM = """
import sys
import statevar as sv
held, wanted = (sv.Variable(0, shared=f"{sys.argv[1]}/{name}") for name in sys.argv[2:])
try:
    with sv.transaction(held):
        print("held", flush=True)
        sys.stdin.readline()
        wanted += 1
    print("written")
except sv.errors.ConflictError:
    print("conflict")
"""


@pytest.mark.parametrize(
    ("first", "second", "theirs"),
    [
        pytest.param("a", "b", "c", id="the-other-process-waits-against-the-order"),
        pytest.param("c", "a", "b", id="a-thread-waits-against-the-order"),
        pytest.param("a", None, "b", id="a-variable-that-is-not-shared"),
    ],
)
def test_a_circle_through_two_threads_and_another_process(
    tmp_path: Path, first: str, second: str | None, theirs: str
) -> None:
    """This thread waits for a thread that waits for a process that waits for this thread."""
    file = str(tmp_path / "pool.svs")
    variables = {name: sv.Variable(0, name=name) for name in "abc"}
    sv.share(variables, file)
    mine, between = variables[first], sv.Variable(0) if second is None else variables[second]
    results: list[str] = []
    mine_is_held, between_is_held = threading.Event(), threading.Event()

    def write(held: sv.Variable, wanted: sv.Variable, says: threading.Event, waits_for: threading.Event) -> None:
        try:
            with sv.transaction(held):
                says.set()
                assert waits_for.wait(60)
                wanted.assign_add(1)
        except ConflictError as error:
            results.append("conflict" if "would be a deadlock: process " in str(error) else str(error))
        else:
            results.append("written")

    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, file, theirs, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        threads = [
            threading.Thread(target=write, args=(mine, between, mine_is_held, between_is_held), daemon=True),
            threading.Thread(
                target=write, args=(between, variables[theirs], between_is_held, mine_is_held), daemon=True
            ),
        ]
        for each in threads:
            each.start()
        assert mine_is_held.wait(60)
        child.stdin.write("\n")
        child.stdin.flush()
        for each in threads:
            each.join(10)
        if any(each.is_alive() for each in threads):
            child.kill()
            pytest.fail("all of them wait for ever")
        results.append(child.stdout.readline().strip())
    assert sorted(results) == ["conflict", "written", "written"]
