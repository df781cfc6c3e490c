"""Fixtures of the tests of commands."""

from __future__ import annotations

import pytest

from tests.checkpoint.conftest import memory
from tests.command_line.running import Runner

__all__ = ["memory", "run"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    """Runs a command in this process."""
    return Runner(capsys)
