"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.checkpoint.conftest import memory
from tests.command_line.programs import OF_TERMINALS, Ran, Run
from tests.command_line.running import Runner
from tests.internals import command_line

__all__ = ["memory", "run"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    """Runs a command in this process."""
    return Runner(capsys)


@pytest.fixture
def statevar(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process, and gives its output as bytes and as JSON of a schema too."""
    for name in OF_TERMINALS:
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: object) -> Ran:
        capfdbinary.readouterr()
        try:
            status = command_line([*map(str, arguments)])
        except SystemExit as error:
            status = int(error.code or 0)
        out, err = capfdbinary.readouterr()
        return Ran(status, out, err.decode())

    return run


def model() -> dict[str, Any]:
    """Variables of several kinds, of which one has two paths."""
    kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
    found: dict[str, Any] = {
        "encoder": [{"kernel": sv.Variable(kernel), "bias": sv.Variable(np.zeros(4, np.float32))}],
        "head": {"kernel": sv.Variable(kernel[:, :2], trainable=False)},
        "wrong": sv.Variable(np.array([1, np.nan, np.inf, -3], np.float32)),
        "steps": sv.Variable(7),
        "unset": sv.Variable(shape=(None, 4), dtype="float32"),
        "half": sv.Variable([1.5, -2.0], dtype="bfloat16"),
        "waves": sv.Variable([3 + 4j]),
        "words": sv.Variable(["a", "é\x1b[31m\n"]),
    }
    found["tied"] = found["encoder"][0]
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    sv.save(model(), path, metadata={"trained on": "digits"})
    return path


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A file in which one byte of ``b`` is another one."""
    path = tmp_path / "damaged.safetensors"
    sv.save({"a": sv.Variable([1.0, 2.0]), "b": sv.Variable([3.0, 4.0])}, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """The folder of a manager with three steps, of which the second one is damaged."""
    folder = tmp_path / "run"
    v = sv.Variable([0.0, 0.0])
    with sv.CheckpointManager(folder, {"v": v, "still": sv.Variable(np.zeros(500))}, shard_size=1000) as manager:
        for step in (1, 2, 300):
            v.assign([step, 1.0])
            manager.save(step, metrics={"loss": 1 / step, "accuracy": float("nan")}, wait=True)
    (folder / "step-0000000002" / "index.json").write_text("{")
    return folder
