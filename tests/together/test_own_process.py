"""The mark `own_process`: what a test does to its process shows in that test, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, thorough, until
from tests.processes import OwnProcess

#: They test what runs the tests, and change as seldom as that.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not thorough(False, True), reason="only `python dev.py full` runs it"),
]

FILE = """
import os, signal, sys, threading
import pytest

def test_passes(tmp_path):
    assert tmp_path.is_dir()

def test_fails():
    print("printed before")
    assert [1, 2] == [1, 3]

@pytest.fixture
def bad():
    yield
    raise ValueError("in a fixture")

def test_fixture_fails(bad):
    pass

def test_is_skipped():
    pytest.skip("for a reason")

def test_interrupts():
    raise KeyboardInterrupt("let through")

def test_is_interrupted_late():
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)

def test_ends():
    print("printed at the end", file=sys.__stderr__, flush=True)
    os._exit(7)

def test_is_killed():
    os.kill(os.getpid(), signal.SIGTERM)
    hang()

def hang():
    threading.Event().wait()

def test_hangs():
    hang()
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[OwnProcess]:
    file = tmp_path / "test_file.py"
    file.write_text(FILE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    made = OwnProcess(file, [f"--rootdir={tmp_path}", "-c", str(tmp_path / "pytest.ini")], limit=20.0)
    yield made
    made.close()


def outcome(process: OwnProcess, name: str) -> tuple[set[str], str]:
    outcomes = process.run(f"test_file.py::{name}")
    return {each.result for each in outcomes}, "".join(each.text for each in outcomes)


def test_tests_run_one_after_the_other_and_failures_have_their_text(process: OwnProcess) -> None:
    assert outcome(process, "test_passes") == ({"passed"}, "")
    results, text = outcome(process, "test_fails")
    assert results == {"passed", "failed"}
    assert "At index 1 diff: 2 != 3" in text
    assert "printed before" in text
    results, text = outcome(process, "test_fixture_fails")
    assert results == {"passed", "failed"}
    assert "ValueError: in a fixture" in text
    assert outcome(process, "test_is_skipped") == ({"passed", "skipped"}, "for a reason")
    assert process.is_alive()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("test_interrupts", "KeyboardInterrupt: let through"),
        ("test_ends", "has ended its process, exit status 7. It has printed:"),
        ("test_ends", "printed at the end"),
        ("test_is_killed", "has ended its process, exit status -15"),
    ],
)
def test_what_ends_the_process_is_a_failure_of_that_test(name: str, text: str, process: OwnProcess) -> None:
    results, found = outcome(process, name)
    assert "failed" in results
    assert text in found
    assert not process.is_alive()


def test_an_interrupt_that_comes_late_ends_that_process_only(process: OwnProcess) -> None:
    process.run("test_file.py::test_is_interrupted_late")
    until(lambda: not process.is_alive())


def test_what_hangs_is_ended_and_shown(process: OwnProcess) -> None:
    outcome(process, "test_passes")  # it has begun
    process.limit = 3.0
    results, found = outcome(process, "test_hangs")
    assert results == {"failed"}
    assert "has not ended after 3 seconds" in found
    assert "in hang" in found, "where it is"
    assert not process.is_alive()


CONFTEST = """
from tests import processes

def pytest_addoption(parser):
    parser.addoption("--backends")
    parser.addoption("--require-backends", action="store_true")

def pytest_configure(config):
    processes.install(config)
"""

MARKED = """
import os
import pytest

first = []

@pytest.mark.own_process
def test_ends():
    os._exit(7)

@pytest.mark.own_process(shared=True)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_raises(error):
    first.append(os.getpid())
    raise error

@pytest.mark.own_process(shared=True)
@pytest.mark.parametrize("case", [1, 2])
def test_shares_a_process(case):
    first.append(os.getpid())
    assert first == [os.getpid()] * (case + 1), "and that of the ValueError is the same one"

@pytest.mark.own_process
@pytest.mark.parametrize("case", [1, 2])
def test_has_a_process_for_all_its_cases(case):
    first.append(os.getpid())
    assert first == [os.getpid()] * case

@pytest.mark.own_process
def test_is_skipped():
    pytest.skip("for a reason")

def test_runs_here():
    assert not first
"""


def test_a_run_goes_on_after_tests_that_interrupt_and_end_their_process(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_file.py").write_text(MARKED)
    path = os.pathsep.join([str(ROOT), *sys.path])
    command = [sys.executable, "-m", "pytest", str(tmp_path), "-q", "-rsf"]
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "3 failed, 5 passed, 1 skipped" in run.stdout, run.stdout
    assert "test_raises[KeyboardInterrupt] - Failed:" in run.stdout
    assert "    raise error\nKeyboardInterrupt" in run.stdout
    assert "exit status 7" in run.stdout
    assert "for a reason" in run.stdout
