"""Variables over the processes of torch: `DTensor`, in any placement, is written and read as a tensor on one device."""

from __future__ import annotations

from pathlib import Path

import pytest

import statevar as sv
from tests.launch import run

HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def torch_is_tested() -> None:
    sv.Variable(0.0, backend="torch")  # it is installed


def test_every_write_keeps_the_sharding() -> None:
    """The last process has a smaller part than the others, or none, where a size does not divide."""
    (printed,) = run([str(HERE / "mesh_writes_torch.py"), "3"], 1)
    assert int(printed.split()[0]) > 100


def test_two_processes_have_one_value() -> None:
    printed = run([str(HERE / "mesh_processes_torch.py")], 2, library="torch")
    assert printed[0] == printed[1]
    assert printed[0].split()[-1] == "resumed"
