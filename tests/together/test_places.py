"""`pytest --device NAME`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import statevar as sv
from tests.helpers import ROOT, array_of
from tests.places import is_accelerator, places, skip_what_assumes_the_host


def test_what_the_tests_make_lies_on_the_device_of_the_run(backend: str) -> None:
    first = sv.Variable([1.0, 2.0], backend=backend)
    by_default = sv.Variable(array_of(backend, [1.0, 2.0]))
    assert first.device == by_default.device == places.get(backend, first.device)
    first.assign_add(by_default)
    assert first.device == by_default.device
    assert first.numpy().tolist() == [2.0, 4.0]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False, capture_output=True, text=True)


def test_a_run_on_the_second_device() -> None:
    sv.Variable(0.0, backend="jax")  # it is installed
    here = f"{__file__}::test_what_the_tests_make_lies_on_the_device_of_the_run"
    result = run("--device", "CPU:1", "--backends=numpy,jax", "-v", here)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 passed" in result.stdout
    assert "device: CPU:1, with jax" in result.stdout


def test_a_device_that_nobody_has() -> None:
    result = run("--device", "GPU:7", "--backends=numpy", __file__)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--device GPU:7: no library of this run has it." in result.stderr
    assert "numpy: device: there is no device 'GPU:7'" in result.stderr


@pytest.mark.host
def test_what_assumes_the_host_is_skipped_on_an_accelerator(request: pytest.FixtureRequest) -> None:
    assert [is_accelerator(name) for name in ("CPU:0", "cpu", "CPU:1", "GPU:0", "cuda:0")] == [False] * 3 + [True] * 2
    marked: list[str] = []

    class Item:
        def __init__(self, is_marked: bool) -> None:
            self.is_marked = is_marked

        def get_closest_marker(self, name: str) -> object:
            return name if self.is_marked else None

        def add_marker(self, mark: pytest.MarkDecorator) -> None:
            marked.append(mark.kwargs["reason"])

    items: list[pytest.Item] = [Item(True), Item(False)]  # type: ignore[list-item]  # as much of one as is asked
    skip_what_assumes_the_host("CPU:1", items)
    assert not marked
    skip_what_assumes_the_host("GPU:0", items)
    assert marked == ["assumes the memory of the host, and the run is on GPU:0"]
    assert request.node.get_closest_marker("host") is not None
