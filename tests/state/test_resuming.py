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


@pytest.mark.own_process
@pytest.mark.parametrize("name", resuming.PROGRAMS)
def test_a_killed_program_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    command = [sys.executable, "-m", "tests.state.resuming", name, str(tmp_path / "killed")]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    program = resuming.PROGRAMS[name]
    assert resuming.run(program, tmp_path / "killed") == resuming.run(program, tmp_path / "whole")
