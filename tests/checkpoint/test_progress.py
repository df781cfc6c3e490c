"""How far a save is: the steps that are under way, the callback, and the bar."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.checkpoint import Progress
from tests.helpers import PATIENCE
from tests.internals import files

SIZE = 1000


def model(names: str = "ab") -> dict[str, sv.Variable]:
    return {name: sv.Variable(np.zeros(SIZE // 4, "float32")) for name in names}


class Gate:
    """Stops each save where its file is to be synced, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._arrived, self._open, self._sync = threading.Semaphore(0), threading.Event(), files.sync
        monkeypatch.setattr(files, "sync", self._wait)

    def _wait(self, file: int) -> None:
        self._arrived.release()
        assert self._open.wait(PATIENCE)
        self._sync(file)

    def arrived(self, count: int = 1) -> None:
        """Waits until so many more saves have come here."""
        for _ in range(count):
            assert self._arrived.acquire(timeout=PATIENCE)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


# -- the steps under way --------------------------------------------------------------------------------------------


def test_the_steps_that_are_under_way(tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    with sv.CheckpointManager(tmp_path, state := model()) as manager:
        assert manager.pending == []
        manager.save(7)
        gate.arrived()
        state["a"] += 1.0
        manager.save(5)  # waits in line
        assert (manager.pending, manager.steps()) == ([7, 5], [])
        assert repr(manager) == f"<CheckpointManager at {str(tmp_path)!r}, writing [7, 5]>"
        gate.open()
        manager.wait()
        assert (manager.pending, manager.steps()) == ([], [5, 7])
        assert repr(manager) == f"<CheckpointManager at {str(tmp_path)!r}>"

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files, "sync", full)
        with pytest.raises(sv.errors.StorageError):
            manager.save(8, wait=True)
        assert manager.pending == []
    assert manager.pending == []


# -- the callback ---------------------------------------------------------------------------------------------------


def test_the_callback_has_the_step_and_the_thread_that_writes(tmp_path: Path) -> None:
    told: list[tuple[Progress, str]] = []

    def show(progress: Progress) -> None:
        told.append((progress, threading.current_thread().name))

    with sv.CheckpointManager(tmp_path, model(), shard_size=SIZE, progress=show) as manager:
        manager.save(3, wait=True)
        manager.save(4)
    assert [(each.step, each.done, each.total) for each, _ in told] == [
        (step, done, 2 * SIZE) for step in (3, 4) for done in (SIZE, 2 * SIZE)
    ]
    assert all(thread.startswith("statevar-checkpoint") for _, thread in told)
    told.clear()
    sv.save(model(), tmp_path / "a", progress=show)
    assert {(each.step, thread) for each, thread in told} == {(None, threading.current_thread().name)}


def test_a_callback_that_raises_fails_its_save_and_no_other(tmp_path: Path) -> None:
    bad: list[int | None] = [2]

    def show(progress: Progress) -> None:
        if progress.step in bad:
            raise KeyError("no such row")

    with sv.CheckpointManager(tmp_path, model(), progress=show) as manager:
        manager.save(1, wait=True)
        manager.save(2)
        with pytest.raises(KeyError, match="no such row") as caught:
            manager.wait()
        assert caught.value.__notes__ == ["The save of step 2 failed in the background."]
        assert manager.steps() == [1]
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step-0000000001"]
        bad.clear()
        manager.save(2, wait=True)
        assert manager.steps() == [1, 2]


@pytest.mark.parametrize("call", ["wait", "close", "restore"])
def test_a_callback_cannot_wait_for_its_own_save(call: str, tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model(), progress=lambda _: getattr(manager, call)()) as manager:
        problem = "^progress: the function that is called with the progress of a save cannot wait for that save. Hint: "
        with pytest.raises(sv.errors.ConflictError, match=problem):
            manager.save(1, wait=True)
        assert manager.steps() == []


@pytest.mark.parametrize("progress", ["rich", 3, 1])
def test_what_is_no_callback(progress: Any, tmp_path: Path) -> None:
    problem = f"expected progress to be a callable, True or None, got {progress!r}"
    with pytest.raises(TypeError, match=f"^CheckpointManager: {problem}"):
        sv.CheckpointManager(tmp_path / "run", model(), progress=progress)
    with pytest.raises(TypeError, match=f"^save: {problem}"):
        sv.save(model(), tmp_path / "a", progress=progress)
    assert not list(tmp_path.iterdir())


# -- the bar --------------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal in place of stderr, and what was drawn on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._master, slave = os.openpty()
        self.file = os.fdopen(slave, "w")
        self.drawn = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def open(self) -> None:
        """Puts it in the place of stderr. pytest does so too, between a fixture and its test."""
        self._monkeypatch.setattr(sys, "stderr", self.file)

    def _read(self) -> None:
        while True:
            try:
                self.drawn += os.read(self._master, 65536).decode(errors="replace")
            except OSError:  # nobody has the other end open any more
                os.close(self._master)
                return

    def close(self) -> str:
        self.file.close()
        self._reader.join(PATIENCE)
        return self.drawn


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    pytest.importorskip("rich")
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal(monkeypatch)


def test_a_bar_is_drawn_and_erased(terminal: Terminal, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    terminal.open()
    outs = sys.stdout, sys.stderr
    with sv.CheckpointManager(tmp_path / "run", model(), progress=True) as manager:
        for step in (1, 2):
            manager.save(step, wait=True)
    sv.save(model(), tmp_path / "a", progress=True)
    assert (sys.stdout, sys.stderr) == outs
    drawn = terminal.close()
    assert "saving step 1 " in drawn
    assert "saving step 2 " in drawn
    assert "2.0/2.0 kB" in drawn
    assert drawn.endswith("\x1b[?25h\r\x1b[1A\x1b[2K"), "the cursor is shown, and the line erased"
    assert capsys.readouterr().out == ""


def test_several_managers_share_one_line(terminal: Terminal, tmp_path: Path, gate: Gate) -> None:
    terminal.open()
    managers = [sv.CheckpointManager(tmp_path / name, model(), progress=True) for name in "ab"]
    for manager in managers:
        manager.save(3)
    gate.arrived(2)
    gate.open()
    for manager in managers:
        manager.close()
    drawn = terminal.close()
    assert "saving 2 checkpoints" in drawn
    assert "\x1b[1A\x1b[2K\x1b[1A" not in drawn, "one line at a time"


def test_a_terminal_that_goes_away_fails_no_save(terminal: Terminal, tmp_path: Path, gate: Gate) -> None:
    terminal.open()
    with sv.CheckpointManager(tmp_path, model(), progress=True) as manager:
        manager.save(1)
        gate.arrived()
        terminal.close()
        gate.open()
        manager.wait()
        assert manager.steps() == [1]


def test_without_a_terminal_nothing_is_drawn(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    with sv.CheckpointManager(tmp_path / "run", model(), progress=True) as manager:
        manager.save(1, wait=True)
    sv.save(model(), tmp_path / "a", progress=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("asks", [True, False, None])
def test_without_rich(asks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    calls: list[Callable[[], object]] = [
        lambda: sv.CheckpointManager(tmp_path / "run", model(), progress=asks).close(),
        lambda: sv.save(model(), tmp_path / "a", progress=asks),
    ]
    if not asks:
        for call in calls:
            call()
        return
    for call in calls:
        with pytest.raises(
            sv.errors.BackendNotInstalledError, match=r"progress=True needs rich. Hint: pip install rich"
        ):
            call()
    assert not list(tmp_path.iterdir())
