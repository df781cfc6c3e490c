"""Fixtures of the tests of files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import statevar as sv
from tests.checkpoint.damaged import model


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder of a file system in memory, where there is one: thousands of disks are built in it."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "a"
    sv.save(model(1), path, metadata={"epoch": 3})
    return path.read_bytes()
