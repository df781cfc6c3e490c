"""Fixtures of the tests of what processes share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.internals import shared_part


@pytest.fixture
def shm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in memory that stands for /dev/shm in this process, so that nothing is left in the real one."""
    if sys.platform != "linux" or not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="statevar-test-") as folder:
        monkeypatch.setattr(shared_part("places"), "MEMORY", folder)
        yield Path(folder)
