"""``statevar watch``: what happens in the folder of a manager, and to a file that is saved again and again."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.command_line.running import Ran, Runner, assert_valid
from tests.helpers import PATIENCE
from tests.internals import watching

Meanwhile = Callable[..., Ran]


@pytest.fixture
def watch(run: Runner, monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Watches a path; between two looks one of the functions is called."""

    def watch(path: Path, *meanwhile: Callable[[], object], options: tuple[str, ...] = ()) -> Ran:
        steps = iter(meanwhile)
        monkeypatch.setattr(watching, "wait", lambda seconds: next(steps)())
        return run("watch", path, "--rounds", len(meanwhile) + 1, *options)

    return watch


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[sv.CheckpointManager]:
    with sv.CheckpointManager(tmp_path / "run", {"w": sv.Variable(np.zeros(3, "float32"))}, keep=2) as manager:
        yield manager


def without_time(ran: Ran) -> list[str]:
    assert ran.err == ""
    return [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in ran.lines]


def save(manager: sv.CheckpointManager, step: int, **metrics: float) -> Callable[[], None]:
    return lambda: manager.save(step, metrics, wait=True)


def test_a_folder(watch: Meanwhile, manager: sv.CheckpointManager) -> None:
    save(manager, 1, loss=0.5)()
    index = manager.path(2) / "index.json"
    ran = watch(
        manager.directory,
        save(manager, 2, loss=0.25),
        lambda: index.write_text("{}"),
        save(manager, 3, **{"lo\x1b[2Jss": float("nan")}),
        lambda: None,
    )
    lines = [re.sub(r"\d+ B|\d+\.\d kB", "N B", line) for line in without_time(ran)]
    assert lines.pop(2).startswith("~ step 2  damaged: load: this is not an index")
    assert lines == [
        "  step 1  1 variable  N B  loss=0.5",
        "+ step 2  1 variable  N B  loss=0.25",
        "- step 1",
        "+ step 3  1 variable  N B  lo\\x1b[2Jss=nan",
    ]


def test_damage_is_told(watch: Meanwhile, manager: sv.CheckpointManager) -> None:
    save(manager, 1)()
    (manager.path(1) / "index.json").unlink()
    save(manager, 2)()
    (manager.path(2) / "index.json").write_text("{}")
    lines = without_time(watch(manager.directory))
    assert lines[0] == "  step 1  damaged: its index is missing"
    assert lines[1].startswith("  step 2  damaged: load: this is not an index")
    assert len(lines) == 2


def test_a_folder_as_json(watch: Meanwhile, manager: sv.CheckpointManager) -> None:
    ran = watch(
        manager.directory, save(manager, 1, loss=float("inf")), save(manager, 2), save(manager, 3), options=("--json",)
    )
    events = [json.loads(line) for line in ran.lines]
    for event in events:
        assert_valid(event, "watch")
    assert [(event["event"], event["step"]) for event in events] == [
        ("new", 1),
        ("new", 2),
        ("removed", 1),
        ("new", 3),
    ]
    assert events[0]["metrics"] == {"loss": None}
    assert events[-1]["bytes"] == sum(each.stat().st_size for each in manager.path(3).iterdir())


NO_CHECKPOINT = "load: this is a text file, and no checkpoint of statevar"
HINT = "Hint: pass the path of a file that sv.save has written."


def test_a_file(watch: Meanwhile, tmp_path: Path) -> None:
    path, model = tmp_path / "m", {"w": sv.Variable(np.zeros(4, "float32")), "n": sv.Variable(1), "v": sv.Variable(2.0)}
    sv.save(model, path)

    def change() -> None:
        model["w"].at[1:3].add(0.5)
        model["n"].assign_add(1)
        sv.save(model, path)

    ran = watch(
        path,
        lambda: None,
        change,
        lambda: sv.save(model, path),
        path.unlink,
        lambda: path.write_text("hello"),
        lambda: sv.save({**model, "new": sv.Variable(1)}, path, metadata={"a": 1}),
    )
    assert without_time(ran) == [
        "  3 variables",
        "~ saved; 2 of 3 variables differ",
        "  ~ w  2 of 4 differ, by at most 0.5",
        "  ~ n  1 of 1 differ, by at most 1 (relative 1)",
        "~ saved; no variable differs",
        "- the file is gone",
        f"! damaged: {NO_CHECKPOINT}, at '{path}'. {HINT}",
        "~ saved; 1 of 4 variables differ",
        "  + new",
        "  ~ metadata a  nothing -> 1",
    ]


def test_a_file_as_json_and_only_some(watch: Meanwhile, tmp_path: Path) -> None:
    path, model = tmp_path / "m", {"w": sv.Variable([0.0]), "n": sv.Variable(1)}
    sv.save(model, path, max_shard_size=4)

    def change() -> None:
        model["n"].assign_add(1)
        sv.save(model, path, max_shard_size=4)

    ran = watch(path, change, options=("--json",))
    present, saved = (json.loads(line) for line in ran.lines)
    assert_valid(present, "watch")
    assert_valid(saved, "watch")
    assert saved["changed"]["n"]["values"]["maximum"] == 1
    assert without_time(watch(path, change, options=("--only", "w")))[1:] == ["~ saved; no variable differs"]


def test_a_file_that_is_overwritten_in_place(watch: Meanwhile, tmp_path: Path) -> None:
    """Of other programs, whose old values are gone then."""
    path = tmp_path / "a.npz"
    np.savez(path, w=np.zeros(3))
    lines = without_time(watch(path, lambda: np.savez(path, w=np.ones(3)), lambda: np.savez(path, w=np.ones(5))))
    assert lines == ["  1 variable", *["~ saved; not compared: the old values are gone"] * 2]


def test_damage_of_a_new_save_is_told(watch: Meanwhile, tmp_path: Path) -> None:
    path, v = tmp_path / "m", sv.Variable([1.0, 2.0])
    sv.save({"v": v}, path)

    def damaged() -> None:
        v.assign([3.0, 4.0])
        sv.save({"v": v}, tmp_path / "other")
        content = bytearray((tmp_path / "other").read_bytes())
        content[-1] ^= 1
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").replace(path)

    lines = without_time(watch(path, damaged))
    assert lines[1].startswith("~ saved; not compared: load: the tensor is damaged")


def test_mistakes(run: Runner, tmp_path: Path) -> None:
    assert run("watch", tmp_path / "none")[::2] == (
        4,
        f"statevar watch: there is nothing at this path yet, at '{tmp_path / 'none'}'.\n",
    )
    assert run("watch", "shared:no-such-pool").status == 4
    assert run("watch", tmp_path, "--only", "w").status == 2
    assert run("watch", tmp_path, "--interval", "-1").status == 2
    assert run("watch", tmp_path, "--rounds", "1") == (0, "", "")


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "statevar", *map(str, arguments)]


def test_ctrl_c_ends_it_and_a_pipe_gets_each_line_at_once(manager: sv.CheckpointManager) -> None:
    save(manager, 1)()
    with subprocess.Popen(
        program("watch", manager.directory, "--interval", 0.01),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "step 1" in process.stdout.readline()
        save(manager, 2)()
        assert "+ step 2" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (130, "")


def test_a_terminal_gets_a_table(manager: sv.CheckpointManager) -> None:
    pytest.importorskip("rich")
    save(manager, 7, loss=0.5)()
    shown = on_terminal(program("watch", manager.directory, "--rounds", 2, "--interval", 0))
    assert "variables" in shown
    assert re.search(r"7 │ +1 │.*B │ +0\.5", shown), shown


def test_a_terminal_gets_lines_if_rich_cannot_be_imported(manager: sv.CheckpointManager, tmp_path: Path) -> None:
    broken = tmp_path / "packages" / "rich"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('a part of it is missing')")
    save(manager, 7, loss=0.5)()
    path = os.pathsep.join((str(broken.parent), str(Path(sv.__file__).parents[1])))
    shown = on_terminal(program("watch", manager.directory, "--rounds", 1), PYTHONPATH=path)
    assert re.search(r"step 7  1 variable  .*B  loss=0\.5", shown), shown


def on_terminal(command: list[str], **variables: str) -> str:
    """What a command shows in a terminal."""
    ours, theirs = pty.openpty()
    environment: dict[str, Any] = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    environment |= variables
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # the end of a terminal
            while more := os.read(ours, 65536):
                shown += more
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    return shown.decode()


def test_a_pattern_that_matches_nothing_is_an_error(run: Runner, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    sv.save({"kernel": sv.Variable(1.0)}, path)
    ran = run("watch", path, "--rounds", 1, "--only", "kernal")
    assert (ran.status, ran.out) == (4, "")
    assert ran.err == f"statevar watch: no name in {path} matches --only 'kernal'. Hint: did you mean 'kernel'?\n"
