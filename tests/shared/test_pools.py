"""The pools of this machine: listed, watched and removed, by `sv.shared` and at the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.command_line.running import Runner, assert_valid
from tests.helpers import ROOT
from tests.internals import shared_part, watching

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux only"),
    pytest.mark.usefixtures("shm"),
]


@pytest.fixture
def model() -> dict[str, Any]:
    return {"w": sv.Variable(np.zeros(3)), "steps": sv.Variable(7)}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)


HOLDS = """
import sys
from tests.internals import shared_part
shared_part("places").MEMORY = sys.argv[1]
pool = shared_part("pool").Pool.open(shared_part("places").place_of("run7"))
print("open", flush=True)
sys.stdin.read()
"""


def test_pools_are_listed_with_their_processes(model: dict[str, Any], shm: Path) -> None:
    assert sv.shared.ls() == []
    sv.share(model, "run7")
    sv.share({"a": sv.Variable(0)}, "other")
    model["steps"] += 1
    other, run7 = sv.shared.ls()
    assert (other.name, other.variables, other.problem) == ("other", {"a": 0}, "")
    assert run7.variables == {each: model[each].version for each in model}
    assert run7.nbytes >= 4096 * 3
    assert run7.pids == (os.getpid(),)
    command = [sys.executable, "-c", HOLDS, str(shm)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"open\n"
        assert sv.shared.ls()[1].pids == tuple(sorted((os.getpid(), process.pid)))
        process.stdin.close()
    assert sv.shared.ls()[1].pids == (os.getpid(),)


def test_a_damaged_pool_is_listed_and_can_be_removed(model: dict[str, Any], shm: Path) -> None:
    sv.share(model, "run7")
    with (shm / f"statevar-{os.geteuid()}" / "run7").open("r+b") as file:
        file.write(b"x")
    (found,) = sv.shared.ls()
    assert "is no file of shared variables" in found.problem
    assert found.variables == {}
    sv.shared.unlink("run7")
    assert sv.shared.ls() == []


def test_unlink_leaves_those_who_have_it(model: dict[str, Any], tmp_path: Path) -> None:
    sv.share(model, "run7")
    sv.shared.unlink("run7")
    model["steps"] += 1
    assert int(model["steps"]) == 8
    with pytest.raises(sv.errors.CheckpointNotFoundError):
        sv.shared.unlink("run7")
    sv.shared.unlink("run7", missing_ok=True)
    sv.share({"steps": sv.Variable(0)}, "run7")
    assert sv.shared.ls()[0].variables == {"steps": 0}


def test_unlink_removes_the_file_of_a_pool_and_no_other(model: dict[str, Any], tmp_path: Path) -> None:
    sv.share(model, tmp_path / "run7.svs")
    sv.shared.unlink(tmp_path / "run7.svs")
    (tmp_path / "letter.svs").write_text("dear reader")
    with pytest.raises(sv.errors.SharedError, match="unlink: the file is no pool of shared variables, at "):
        sv.shared.unlink(tmp_path / "letter.svs")
    assert [each.name for each in tmp_path.iterdir() if each.suffix] == ["letter.svs"]


def test_collect_removes_only_what_nobody_can_use(model: dict[str, Any], shm: Path) -> None:
    assert sv.shared.collect() == []
    sv.share(model, "run7")
    folder = shm / f"statevar-{os.geteuid()}"
    dead = f".statevar-4194305-1-{'0' * 16}.tmp"
    living = f".statevar-{os.getpid()}-{shared_part('temporary').started(os.getpid())}-{'0' * 16}.tmp"
    for name in (dead, living):
        (folder / name).touch()
    assert sv.shared.collect() == [dead]
    assert {each.name for each in folder.iterdir()} == {"run7", living}
    assert [each.name for each in sv.shared.ls()] == ["run7"]


# -- at the shell --------------------------------------------------------------------------------------------------


def test_ls_at_the_shell(run: Runner, model: dict[str, Any]) -> None:
    assert run("ls", "shared:") == (0, "no pool of shared variables has a name\n", "")
    sv.share(model, "run7")
    lines = run("ls", "shared:").lines
    assert lines[0].split() == ["pool", "variables", "size", "processes"]
    assert lines[1].split()[:2] == ["run7", "2"]
    assert lines[1].split()[-1] == str(os.getpid())
    assert run("ls", "shared:run7").lines == ["w", "steps"]
    assert run("ls", "shared:run7", "--only", "s*").lines == ["steps"]
    pools = run("ls", "shared:", "--json").json
    assert_valid(pools, "ls")
    assert pools["pools"][0]["versions"] == {each: model[each].version for each in model}
    assert_valid(run("ls", "shared:run7", "--json").json, "ls")
    missing = run("ls", "shared:none")
    assert missing.status == 4
    assert "there are no shared variables of this name, at 'none'" in missing.err


Watch = Callable[..., Any]


@pytest.fixture
def watch(run: Runner, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watches a pool; between two looks one of the functions is called."""

    def watch(path: str, *meanwhile: Callable[[], object], options: tuple[str, ...] = ()) -> Any:
        steps = iter(meanwhile)
        monkeypatch.setattr(watching, "wait", lambda _: next(steps)())
        return run("watch", path, "--rounds", len(meanwhile) + 1, *options)

    return watch


def test_writes_are_watched(watch: Watch, model: dict[str, Any]) -> None:
    sv.share(model, "run7")
    start = model["steps"].version

    def write() -> None:
        model["steps"] += 1
        model["steps"] += 1

    def add() -> None:
        sv.Variable(0.0, shared="run7/late")

    def replace() -> None:
        sv.shared.unlink("run7")

    def again() -> None:
        sv.share({"x": sv.Variable(0)}, "run7")

    steps = (write, lambda: None, add, replace, lambda: None, again)
    lines = [line[9:] if line[0] != " " else line for line in watch("shared:run7", *steps).lines]
    assert lines == [
        "  2 variables",
        "~ 1 variable written",
        f"  steps  version {start} -> {start + 2}",
        "+ 1 variable added",
        "  late  version 0",
        "- the pool is gone",
        "  1 variable",
    ]


def test_watching_as_json_and_by_pattern(watch: Watch, model: dict[str, Any]) -> None:
    import json

    sv.share(model, "run7")

    def write() -> None:
        model["steps"] += 1
        model["w"] += 1

    ran = watch("shared:run7", write, options=("--json", "--only", "w"))
    events = [json.loads(line) for line in ran.lines]
    for each in events:
        assert_valid(each, "watch")
    assert [each["event"] for each in events] == ["present", "changed"]
    assert events[1]["versions"] == {"w": model["w"].version}
    assert watch("shared:run7", options=("--only", "none")).status == 4
