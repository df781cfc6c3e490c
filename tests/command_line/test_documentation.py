"""The sessions in docs/command-line.md show what the commands print."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import statevar as sv
from tests.helpers import ROOT
from tests.internals import command_line

PAGE = (ROOT / "docs/command-line.md").read_text()


def sessions(heading: str) -> Iterator[tuple[str, str]]:
    """The commands in a section, each with what it prints."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for each in re.split(r"^\$ statevar ", block, flags=re.MULTILINE)[1:]:
            command, _, printed = each.partition("\n")
            yield command, printed


@pytest.mark.parametrize("heading", ["diff", "edit", "convert"])
def test_a_session_is_as_it_is_shown(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    kernel = np.arange(6, dtype="float32").reshape(2, 3)
    dense = {"kernel": sv.Variable(kernel), "bias": sv.Variable([0.0, math.nan, 0.0])}
    before = {"encoder": dense, "decoder": dense, "steps": sv.Variable(1200)}
    sv.save(before, "before.safetensors", metadata={"epoch": 3})
    sv.save(before, "model.safetensors", metadata={"epoch": 3})
    if heading != "edit":
        dense["bias"].trainable = False
        sv.save(before, "model.safetensors")
        dense["bias"].assign([0.0, 0.0, 0.0])
        dense["kernel"].at[:, 1:].multiply(0.5)
        after = {"encoder": dense, "steps": before["steps"], "scale": sv.Variable(1.0)}
        sv.save(after, "after.safetensors", metadata={"epoch": 4})
    found = [*sessions(heading)]
    assert found
    for command, printed in found:
        command_line(shlex.split(command))
        out, err = capsys.readouterr()
        assert err + out == printed, command
