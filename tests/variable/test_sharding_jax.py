"""Variables of JAX over several devices and processes. The cases run in programs of their own; see `mesh_jax`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import statevar as sv
from tests.launch import run

#: Seconds after which a program hangs. It compiles some hundred small programs.
_LIMIT = 300.0
_HERE = Path(__file__).parent
_CASES = [
    name
    for file in ("mesh_jax.py", "mesh_views_jax.py")
    for name in re.findall(r"^@case\ndef (\w+)", (_HERE / file).read_text(), re.MULTILINE)
]


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """What went wrong in each case of the program with 8 devices, by its name."""
    sv.Variable(0.0, backend="jax")  # it is installed
    (printed,) = run([str(_HERE / "mesh_jax.py")], 1, library="jax", devices=8, limit=_LIMIT)
    found: dict[str, str] = json.loads(printed.rpartition("cases: ")[2])
    return found


@pytest.mark.parametrize("name", _CASES)
def test_over_the_devices_of_one_process(name: str, failures: dict[str, str]) -> None:
    assert name not in failures, failures[name]


def test_over_two_processes(tmp_path: Path) -> None:
    sv.Variable(0.0, backend="jax")  # it is installed
    run([str(_HERE / "mesh_jax_processes.py"), str(tmp_path)], 2, library="jax", devices=2, limit=_LIMIT)
