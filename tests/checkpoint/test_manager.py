"""`CheckpointManager`: what it keeps, links, restores, refuses. What disks do is in test_storage_faults."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import PATIENCE, address, array_of, assert_same, counts_prove, host, until
from tests.internals import files
from tests.threads import in_threads, is_waiting


def model(backend: str = "numpy") -> dict[str, sv.Variable]:
    return {name: sv.Variable(np.zeros(1000, "float32"), backend=backend) for name in ("a", "b", "c")}


def files_of(folder: Path) -> dict[str, int]:
    """The inode of each file of a checkpoint."""
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_it_restores_what_was_there(tmp_path: Path, backend: str) -> None:
    state = model(backend)
    with sv.CheckpointManager(tmp_path / "made" / "by it", state) as manager:
        assert manager.restore() is None
        assert manager.latest is None
        for step in (1, 2):
            state["a"] += 1.0
            manager.save(step, {"loss": 1 / step})
            state["b"] += 1.0  # after the cut: not in it
        manager.wait()
        assert manager.steps() == [1, 2]
        state["a"].assign(np.zeros(1000, "float32"))
        restored = manager.restore()
        assert restored is not None
        assert (restored.step, restored.skipped, restored.report.loaded) == (2, {}, ["a", "b", "c"])
        assert [float(host(state[name])[0]) for name in "abc"] == [2, 1, 0]
        assert manager.restore(1) is not None
        assert [float(host(state[name])[0]) for name in "abc"] == [1, 0, 0]
        assert manager.metrics(2) == {"loss": 0.5}
        other = model(backend)
        assert sv.load(other, manager.path(2)).loaded == ["a", "b", "c"]
        assert_same(other["a"], np.full(1000, 2, "float32"))
        assert sv.verify(manager.path(2))


@pytest.mark.parametrize(
    ("made", "what", "hint"),
    [
        (".metadata", "a checkpoint of torch.distributed.checkpoint", "load it with sv.load"),
        ("checkpoint", "a folder of TensorFlow checkpoints", "load it with sv.load"),
        ("saved_model.pb", "a SavedModel of TensorFlow", "load it with sv.load"),
        ("3/_CHECKPOINT_METADATA", "the folder of a CheckpointManager of orbax", "pass one of its steps"),
    ],
)
def test_a_folder_of_another_program_is_no_start_from_nothing(made: str, what: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / made).parent.mkdir(exist_ok=True)
    (tmp_path / made).write_bytes(b"")
    with sv.CheckpointManager(tmp_path, model()) as manager:
        with pytest.raises(sv.errors.CheckpointNotFoundError, match=f"it is {what}.* Hint: {hint}"):
            manager.restore()
        manager.save(1)
        assert manager.restore() is not None


def test_a_save_returns_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_write, write = threading.Event(), files.write

    def slowly(*arguments: Any) -> int:
        assert may_write.wait(PATIENCE)
        return write(*arguments)

    monkeypatch.setattr(files, "write", slowly)
    state = model()
    with sv.CheckpointManager(tmp_path, state) as manager:
        manager.save(1)
        assert manager.steps() == []
        state["a"] += 1.0
        manager.save(2)  # waits in line
        state["a"] += 1.0
        third = threading.Thread(target=manager.save, args=(3,))  # two are under way: this one waits here
        third.start()
        until(lambda: is_waiting(third))
        may_write.set()
        third.join()
        manager.wait()
        for step in (1, 2, 3):
            assert sv.load(manager.path(step))["a"][0] == step - 1


@pytest.mark.skipif(not counts_prove(), reason="a save reads the value, which is then left to its reader")
def test_what_is_written_is_let_go(tmp_path: Path) -> None:
    """Else the program would copy each variable at its next write, until the save has ended."""
    state = {str(i): sv.Variable(np.zeros(3_000_000, "float32")) for i in range(3)}
    found: list[bool] = []

    def written_in_place(name: str) -> bool:
        before = address(state[name])
        with np.errstate(all="ignore"):
            return address(state[name].assign_add(1.0)) == before

    def show(progress: Any) -> None:
        if not found and progress.done > 12_000_000:  # the first is on its way to the disk, the last is not
            found.extend([written_in_place("0"), written_in_place("2")])

    with sv.CheckpointManager(tmp_path, state, shard_size="12MB", progress=show) as manager:
        manager.save(1, wait=True)
    assert found == [True, False]
    assert all(map(written_in_place, state))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep": 1}, [9]),
        ({"keep": 3}, [7, 8, 9]),
        ({"keep": 2, "keep_every": 4}, [0, 4, 8, 9]),
        ({"keep": 1, "best": "loss"}, [3, 9]),
        ({"keep": 1, "best": "loss", "mode": "max"}, [8, 9]),
        ({"keep": 2, "best": "unknown"}, [8, 9]),
    ],
)
def test_the_newest_each_nth_and_the_best_are_kept(tmp_path: Path, options: dict[str, Any], kept: list[int]) -> None:
    losses = [5, 4, 3, 1, 2, 3, 4, 5, 9, 8]
    with sv.CheckpointManager(tmp_path, model(), **options) as manager:
        for step, loss in enumerate(losses):
            manager.save(step, {"loss": loss})
        manager.wait()
        assert manager.steps() == kept
    with sv.CheckpointManager(tmp_path, model(), **options) as again:  # what it knows, it knows from the files
        assert again.steps() == kept
        if options.get("best") == "loss":
            assert again.best == kept[0]


def test_an_unchanged_file_is_linked_and_each_checkpoint_loads_alone(tmp_path: Path) -> None:
    state = model()
    with sv.CheckpointManager(tmp_path, state, keep=1, shard_size=4000) as manager:
        manager.save(1, wait=True)
        first = files_of(manager.path(1))
        state["b"] += 1.0
        manager.save(2, wait=True)  # removes step 1
        second = files_of(manager.path(2))
        assert manager.steps() == [2]
        changed = {name for name in second if second[name] != first[name]}
        assert changed == {"index.json", "part-00001.safetensors"}
        assert len(second) == 4
        assert sv.verify(manager.path(2)).checked == 3
        loaded = sv.load(manager.path(2))
        assert [loaded[name][0] for name in "abc"] == [0, 1, 0]
        state["d"] = sv.Variable(1.0)  # what is in a file has changed
        del state["a"]
        manager.save(3, wait=True)
        assert sorted(sv.load(manager.path(3))) == ["b", "c", "d"]


@pytest.mark.parametrize("harm", [damage, Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_not_linked_but_written_anew(tmp_path: Path, harm: Any) -> None:
    with sv.CheckpointManager(tmp_path, model(), shard_size=4000) as manager:
        manager.save(1, wait=True)
        harm(manager.path(1) / "part-00001.safetensors")
        manager.save(2, wait=True)
        assert sv.verify(manager.path(2)).checked == 3
        shared = files_of(manager.path(1)).items() & files_of(manager.path(2)).items()
        assert {name for name, _ in shared} == {"part-00000.safetensors", "part-00002.safetensors"}


@pytest.mark.parametrize("lives", [True, False])
def test_a_variable_that_was_replaced_is_written(tmp_path: Path, lives: bool) -> None:
    state = model()
    with sv.CheckpointManager(tmp_path, state, shard_size=4000) as manager:
        manager.save(1, wait=True)
        before = state["a"] if lives else None
        state["a"] = sv.Variable(np.ones(1000, "float32"))  # of the same version
        manager.save(2, wait=True)
        assert sv.load(manager.path(2))["a"][0] == 1
        assert lives == (before is not None)


def test_threads_may_save_with_one_manager(tmp_path: Path) -> None:
    state = model()
    with sv.CheckpointManager(tmp_path, state, keep=100) as manager:
        in_threads(*[partial(_save_some, manager, first) for first in range(0, 40, 10)])
        manager.wait()
        assert manager.steps() == list(range(40))


def _save_some(manager: sv.CheckpointManager, first: int) -> None:
    for step in range(first, first + 10):
        manager.save(step)


def test_writes_that_the_version_does_not_see_are_written() -> None:
    torch = pytest.importorskip("torch")
    import tempfile

    v = sv.Variable(np.zeros(1000, "float32"), backend="torch")
    parameter = v.parameter
    with tempfile.TemporaryDirectory() as folder, sv.CheckpointManager(folder, {"v": v}) as manager:
        manager.save(1, wait=True)
        parameter.data.numpy()[...] = 7  # no counter of torch sees it
        manager.save(2, wait=True)
        manager.save(3, wait=True)
        assert sv.load(manager.path(2))["v"][0] == 7
        assert (
            files_of(manager.path(3))["part-00000.safetensors"] == files_of(manager.path(2))["part-00000.safetensors"]
        )
    assert torch is not None


def test_a_file_system_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(files, "link", refuse)
    with sv.CheckpointManager(tmp_path, model()) as manager:
        manager.save(1, wait=True)
        manager.save(2, wait=True)
        assert sv.verify(manager.path(2)).checked == 3


def test_a_program_that_has_gone_back_comes_to_its_step_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = model()
    with sv.CheckpointManager(tmp_path, state) as manager:
        for step in (1, 2):
            state["a"] += 1.0
            manager.save(step, wait=True)
        damage(manager.path(2) / "part-00000.safetensors")
    with sv.CheckpointManager(tmp_path, state) as manager:  # the program is started again
        with pytest.warns(RuntimeWarning, match="restored step 1"):
            manager.restore()
        state["a"] += 5.0
        manager.save(2, wait=True)
        assert sv.load(manager.path(2))["a"][0] == 6
        with pytest.raises(ValueError, match="step 2 has a checkpoint already"):  # which is whole
            manager.save(2)

        def refuse(*_: Any) -> None:
            monkeypatch.undo()
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(files, "open_file", refuse)
        with pytest.warns(RuntimeWarning, match="restored step 1"):
            manager.restore()
        with pytest.raises(ValueError, match="step 2 has a checkpoint already"):  # which may be whole
            manager.save(2)


def test_the_newest_that_is_whole_is_restored(tmp_path: Path) -> None:
    state = model()
    with sv.CheckpointManager(tmp_path, state) as manager:
        for step in (1, 2, 3):
            state["a"] += 1.0
            manager.save(step, wait=True)
        damage(manager.path(3) / "part-00000.safetensors")
        (manager.path(2) / "index.json").write_text("{")
        with pytest.warns(
            RuntimeWarning, match="restored step 1, because newer checkpoints are damaged: step 3: load: the tensor"
        ):
            restored = manager.restore()
        assert restored is not None
        assert restored.step == 1
        assert list(restored.skipped) == [3, 2]
        assert "the tensor is damaged" in restored.skipped[3]
        assert "invalid JSON" in restored.skipped[2]
        assert state["a"].value[0] == 1
        with pytest.raises(sv.errors.CheckpointError, match="the tensor is damaged"):
            manager.restore(3)
        with pytest.raises(sv.errors.CheckpointNotFoundError, match="step-0000000009"):
            manager.restore(9)
        damage(manager.path(1) / "part-00000.safetensors")
        before = state["a"].version
        with pytest.raises(
            sv.errors.CheckpointError,
            match=r"(?s)restore: every checkpoint is damaged, and nothing was loaded, at '[^\n]*'\.\nload: ",
        ):
            manager.restore()
        assert state["a"].version == before


def test_a_program_that_has_changed_is_told(tmp_path: Path) -> None:
    state = model()
    with sv.CheckpointManager(tmp_path, state) as manager:
        manager.save(1, wait=True)
        state["new"] = sv.Variable(0.0)
        with pytest.raises(sv.errors.CheckpointMismatchError, match="missing     new"):
            manager.restore()
        restored = manager.restore(strict=False)
        assert restored is not None
        assert restored.report.missing == ["new"]


def test_a_failed_save_is_told_at_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = model()
    with sv.CheckpointManager(tmp_path, state) as manager:
        manager.save(1, wait=True)

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(files, "sync", full)
            manager.save(2)
            with pytest.raises(
                sv.errors.StorageError, match="No space left on device.*earlier checkpoints are untouched"
            ) as caught:
                manager.wait()
        assert caught.value.errno == 28
        assert caught.value.__notes__ == ["The save of step 2 failed in the background."]
        manager.wait()  # told once
        assert manager.steps() == [1]
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step-0000000001"]
        manager.save(2, wait=True)
        assert manager.steps() == [1, 2]


def test_bad_arguments_and_a_closed_manager_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"CheckpointManager: expected keep to be an integer >= 1, got 0"):
        sv.CheckpointManager(tmp_path, model(), keep=0)
    with pytest.raises(ValueError, match="expected mode 'min' or 'max', got 'least'"):
        sv.CheckpointManager(tmp_path, model(), mode="least")  # type: ignore[arg-type]
    manager = sv.CheckpointManager(tmp_path, model())
    for step in (-1, True, 1.5):
        with pytest.raises(ValueError, match="save: expected step to be an integer >= 0"):
            manager.save(step)  # type: ignore[arg-type]
    manager.save(1, wait=True)
    with pytest.raises(
        ValueError,
        match=r"save: step 1 has a checkpoint already, at .* Hint: call delete\(1\) first, or pass exist_ok=",
    ):
        manager.save(1)
    with pytest.raises(TypeError, match="save: the metadata cannot be stored as JSON"):
        manager.save(2, metadata={"a": {1, 2}})
    manager.delete(1)
    assert manager.steps() == []
    with pytest.raises(sv.errors.CheckpointNotFoundError):
        manager.delete(1)
    manager.save(1, metadata={"note": "again"}, wait=True)
    assert sv.load(manager.path(1)).metadata == {"note": "again"}
    manager.close()
    manager.close()
    for call in (lambda: manager.save(5), manager.restore, lambda: manager.delete(1)):
        with pytest.raises(ValueError, match="the manager is closed"):
            call()


def test_one_manager_has_the_folder(tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model()):
        with pytest.raises(
            sv.errors.ConflictError, match=r"another manager uses this folder, at .* Hint: close it first"
        ):
            sv.CheckpointManager(tmp_path, model())
        code = (
            "import sys, statevar as sv\n"
            "try: sv.CheckpointManager(sys.argv[1], {})\n"
            "except sv.errors.ConflictError: print('refused')\n"
        )
        result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
        assert result.stdout == "refused\n"
    sv.CheckpointManager(tmp_path, model()).close()


def test_a_forked_child_has_no_manager_and_keeps_no_lock(tmp_path: Path) -> None:
    code = """
import os, sys, statevar as sv
manager = sv.CheckpointManager(sys.argv[1], {"v": sv.Variable(1.0)})
told, go_on = os.pipe(), os.pipe()
if not (child := os.fork()):
    try:
        manager.save(1)
    except sv.errors.ConflictError as error:
        os.write(told[1], str(error).encode())
    os.read(go_on[0], 1)
    os._exit(0)
print(os.read(told[0], 1000).decode())
manager.close()
sv.CheckpointManager(sys.argv[1], {}).close()  # the child lives, and has no lock
os.write(go_on[1], b"x")
os.waitpid(child, 0)
"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "save: this manager belongs to another process" in result.stdout


def test_what_is_under_way_at_the_end_of_a_program_is_written(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, statevar as sv\n"
        "manager = sv.CheckpointManager(sys.argv[1], {'w': sv.Variable(np.ones(3_000_000))})\n"
        "manager.save(7)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert sv.verify(tmp_path / "step-0000000007")


def test_leftovers_of_a_dead_manager_are_removed(tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model()) as manager:
        manager.save(3, wait=True)
    for name in (".step-0000000004.0123abcd.tmp", ".step-0000000001.0123abcd.deleted"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-00000.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not ours")
    with sv.CheckpointManager(tmp_path, model()) as manager:
        assert manager.steps() == [3]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "notes.txt", "step-0000000003"]


def test_progress_counts_linked_files_too(tmp_path: Path) -> None:
    told: list[Any] = []
    with sv.CheckpointManager(tmp_path, model(), shard_size=4000, progress=told.append) as manager:
        manager.save(1, wait=True)
        manager.save(2, wait=True)  # linked: counted all the same
        assert repr(manager) == f"<CheckpointManager at {str(tmp_path)!r}>"
    assert [each.done for each in told] == [4000, 8000, 12000] * 2
    assert {each.total for each in told} == {12000}
    assert all(each.rate > 0 for each in told)
    assert pickle.loads(pickle.dumps(told[0])) == told[0]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is the whole process that stands back")
def test_who_writes_in_the_background_stands_back(tmp_path: Path) -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)  # of the calling thread

    usual = niceness()
    found: list[int] = []
    with sv.CheckpointManager(
        tmp_path, {"v": sv.Variable(1.0)}, progress=lambda _: found.append(niceness())
    ) as manager:
        for step in range(3):
            manager.save(step, wait=step == 1)
    assert found == [min(usual + 15, 19), usual, min(usual + 15, 19)]
    assert niceness() == usual


def test_one_that_is_waited_for_comes_after_those_that_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    v = sv.Variable(np.zeros(1000, "float32"))
    gate, committed = threading.Event(), list[int]()
    with sv.CheckpointManager(tmp_path, {"v": v}) as manager:
        commit = manager._folder.commit

        def note(folder: Path, step: int) -> None:
            commit(folder, step)
            committed.append(step)

        monkeypatch.setattr(manager._folder, "commit", note)
        manager._background.writers[False].submit(gate.wait)  # its thread has not come to the first save yet
        manager.save(1)
        v.assign_add(1.0)

        def open_the_gate() -> None:
            """When the thread that saves step 2 has come to its wait, or past it."""
            until(lambda: committed or any(map(is_waiting, manager._background.writers[True]._threads)))
            gate.set()

        in_threads(lambda: manager.save(2, wait=True), open_the_gate)
        assert committed == [1, 2]
        assert [sv.load(manager.path(step))["v"][0] for step in (1, 2)] == [0.0, 1.0]


def test_a_module_is_saved_and_restored(tmp_path: Path, backend: str) -> None:
    class Dense(sv.Module):
        def __init__(self) -> None:
            self.kernel = sv.Variable(np.ones((2, 2), "float32"), backend=backend)
            self.steps = sv.Variable(0, backend=backend)

    dense = Dense()
    with sv.CheckpointManager(tmp_path, dense) as manager:
        manager.save(1)
        dense.kernel *= 2.0
        dense.steps += 1
        manager.restore()
        assert_same(dense.kernel, np.ones((2, 2), "float32"))
        assert int(dense.steps) == 0


# -- steps, metrics and metadata ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.int64, np.uint8, np.array, int])
def test_a_step_may_be_an_integer_of_any_kind(make: Callable[[int], Any], tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model(), np.int64(2), np.int32(3)) as manager:  # type: ignore[arg-type]
        for step in range(1, 6):
            manager.save(make(step))
        manager.wait()
        assert manager.steps() == [3, 4, 5]
        assert all(type(step) is int for step in manager.steps())
        restored = manager.restore(make(4))
        assert restored is not None
        assert restored.step == 4
        manager.delete(make(4))
        assert manager.steps() == [3, 5]


def test_a_step_of_a_library(backend: str, tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model()) as manager:
        manager.save(array_of(backend, 7, "int32"), wait=True)
        assert manager.steps() == [7]


@pytest.mark.parametrize("step", [1.0, np.float32(2.0), np.bool_(True), "3", None, np.array([1, 2]), -1, np.int8(-1)])
def test_what_is_no_step(step: Any, tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model()) as manager:
        with pytest.raises(ValueError, match="save: expected step to be an integer >= 0, got"):
            manager.save(step)
        assert manager.steps() == []


@pytest.mark.parametrize("value", [7.0, [7]])
def test_what_is_no_step_of_a_library(backend: str, value: Any, tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model()) as manager:
        with pytest.raises(ValueError, match="save: expected step to be an integer >= 0, got"):
            manager.save(array_of(backend, value))
        assert manager.steps() == []


def test_traced_code_saves_nothing(backend: str, tmp_path: Path) -> None:
    """The step, the metric or the values would be traced, or those of the trace."""
    if backend == "numpy":
        pytest.skip("NumPy traces nothing")
    state = model(backend)
    count = sv.Variable(3, backend=backend)
    with sv.CheckpointManager(tmp_path, state) as manager:
        saves: list[Callable[[Any], object]] = [
            lambda x: manager.save(x),
            lambda x: manager.save(1, {"loss": x}),
            lambda x: manager.save(count),
            lambda x: manager.save(1),
        ]
        for save in saves:
            with pytest.raises(
                sv.errors.TraceError, match="save: this code is traced: .* Hint: save outside the funct"
            ):
                sv.jit(lambda x, save=save: (save(x), state["a"].value + 1.0)[1])(array_of(backend, 1, "int32"))
        assert (manager.pending, manager.steps()) == ([], [])


@pytest.mark.parametrize("inside", [True, False])
def test_a_variable_as_step_is_read_from_the_cut(backend: str, inside: bool, tmp_path: Path) -> None:
    """Another thread counts: the step of each checkpoint is the count that is in it."""
    count, twin = sv.Variable(0, backend=backend), sv.Variable(0, backend=backend)
    state = {"count": count, "twin": twin} if inside else {"twin": twin}
    done = threading.Event()

    def counts() -> None:
        while not done.is_set():
            with sv.transaction(count, twin):
                count.assign_add(1)
                twin.assign_add(1)

    thread = threading.Thread(target=counts)
    thread.start()
    try:
        with sv.CheckpointManager(tmp_path, state, keep=100) as manager:
            for _ in range(10):
                manager.save(count, {"twin": twin}, exist_ok=True)
            manager.wait()
            for step in manager.steps():
                with sv.load(manager.path(step)) as saved:
                    assert int(saved["twin"]) == step
                    assert list(saved) == list(state)
                assert manager.metrics(step) == {"twin": step}
    finally:
        done.set()
        thread.join()


def test_a_variable_that_is_no_step(tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model()) as manager:
        for variable in (sv.Variable([1, 2]), sv.Variable(shape=(), dtype="int32")):
            with pytest.raises(ValueError, match="save: expected a variable with one element as a number, got <Var"):
                manager.save(variable)
        with pytest.raises(ValueError, match="save: expected step to be an integer >= 0, got 1.5"):
            manager.save(sv.Variable(1.5))
        manager.save(sv.Variable([3]), wait=True)
        assert manager.steps() == [3]


def test_a_step_that_exists_may_be_left_as_it_is(tmp_path: Path) -> None:
    state = {"v": sv.Variable(1.0)}
    with sv.CheckpointManager(tmp_path, state) as manager:
        manager.save(1)
        state["v"].assign(2.0)
        manager.save(1, exist_ok=True)  # while it is written
        manager.save(1, exist_ok=True, wait=True)
        assert manager.restore() is not None
        assert float(state["v"]) == 1.0
        manager.save(sv.Variable(1), exist_ok=True)  # just restored
        for step in (1, sv.Variable(1)):
            with pytest.raises(ValueError, match=r"step 1 has a checkpoint already, at .*pass exist_ok=True to keep"):
                manager.save(step)
        assert manager.steps() == [1]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_number_that_is_not_finite_is_stored_and_never_the_best(mode: Any, tmp_path: Path) -> None:
    losses: dict[int, Any] = {1: 0.5, 2: float("nan"), 3: np.float32("inf"), 4: -np.inf, 5: sv.Variable(float("nan"))}
    with sv.CheckpointManager(tmp_path, model(), keep=9, best="loss", mode=mode) as manager:
        for step, loss in losses.items():
            manager.save(step, {"loss": loss})
        manager.wait()
        assert manager.best == 1
    with sv.CheckpointManager(tmp_path, model(), keep=9, best="loss", mode=mode) as manager:
        for step, loss in losses.items():
            np.testing.assert_equal(manager.metrics(step), {"loss": float(loss)})
        assert manager.best == 1
        assert bool(sv.verify(manager.path(2)))
    with sv.CheckpointManager(tmp_path / "alone", model(), best="loss", mode=mode) as manager:
        manager.save(1, {"loss": float("nan")}, wait=True)
        assert (manager.best, manager.steps()) == (None, [1])


def test_metrics_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, model()) as manager:
        for metrics in ({"loss": "low"}, {"loss": [1.0, 2.0]}, {"loss": None}):
            with pytest.raises(TypeError, match="save: expected the metric 'loss' to be a number, got"):
                manager.save(1, metrics)
        for metrics in ({1: 2.0}, [("loss", 1.0)]):  # type: ignore[assignment]
            with pytest.raises(TypeError, match="save: expected metrics to map strings to numbers, got"):
                manager.save(1, metrics)
        assert manager.steps() == []


def test_metadata_takes_scalars_of_numpy(tmp_path: Path) -> None:
    metadata = {"a": np.float32(0.1), "b": [np.int64(3), {"c": np.bool_(True)}], "d": np.str_("x"), "e": np.array(2)}
    expected = {"a": float(np.float32(0.1)), "b": [3, {"c": True}], "d": "x", "e": 2}
    with sv.CheckpointManager(tmp_path, model()) as manager:
        manager.save(1, metadata=metadata, wait=True)
        with sv.load(manager.path(1)) as saved:
            assert saved.metadata == expected
        for bad in (np.float32("nan"), np.array([1.0, 2.0]), np.complex64(1), object()):
            with pytest.raises(TypeError, match="save: the metadata cannot be stored as JSON"):
                manager.save(2, metadata={"x": bad})
    sv.save(model(), tmp_path / "a", metadata=metadata)
    assert sv.load(tmp_path / "a").metadata == expected


def test_metadata_takes_what_metrics_take(backend: str, tmp_path: Path) -> None:
    step, loss = sv.Variable(7, backend=backend), sv.Variable(0.5, backend=backend)
    metadata = {"step": step, "loss": loss.value, "more": [{"step": step}]}
    with sv.CheckpointManager(tmp_path, model()) as manager:
        manager.save(step, {"loss": loss.value, "step": step}, metadata=metadata, wait=True)
        assert sv.load(manager.path(7)).metadata == {"step": 7, "loss": 0.5, "more": [{"step": 7}]}


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"a": {"b": [1, (2, 3)]}}, "tuple is no type of it, at 'a/b/1'"),
        ({"a": {"b": float("nan")}}, "it has no nan, at 'a/b'"),
        ({"a": [{"b": {3: 4}}]}, "the key 3 is no string, at 'a/0/b/3'"),
        ({"a": sv.Variable([1.0, 2.0])}, "Variable is no type of it, at 'a'"),
        ({"config": {"path": Path("x")}}, "PosixPath is no type of it, at 'config/path'"),
    ],
)
def test_an_error_about_metadata_says_where(metadata: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=f"^save: the metadata cannot be stored as JSON: {problem}. Hint: use strings"):
        sv.save(model(), tmp_path / "a", metadata=metadata)
