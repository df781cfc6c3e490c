"""A program that was killed goes on as if it never had been, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.state import resuming

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has no SIGKILL")


#: Keras computes with one library in a process, which this is not the place to choose.
OTHERS = {"keras": {"KERAS_BACKEND": "jax"}}


@pytest.mark.own_process
@pytest.mark.parametrize("name", resuming.PROGRAMS)
def test_a_killed_program_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    assert process(name, tmp_path / "killed", "killed").returncode == -signal.SIGKILL
    if name in OTHERS:
        pytest.importorskip(OTHERS[name]["KERAS_BACKEND"])
        resumed, whole = process(name, tmp_path / "killed", "goes on"), process(name, tmp_path / "whole", "goes on")
        assert resumed.returncode == whole.returncode == 0
        assert resumed.stdout == whole.stdout != ""
    else:
        program = resuming.PROGRAMS[name]
        assert resuming.run(program, tmp_path / "killed") == resuming.run(program, tmp_path / "whole")


def process(name: str, folder: Path, end: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.state.resuming", name, str(folder), end]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | OTHERS.get(name, {}), stdout=subprocess.PIPE, text=True, check=False
    )
