"""``statevar edit``: values and flags in a file are changed, all or nothing, and nothing else is."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tracemalloc
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.checkpoint.disks import Fault, names_in, system_error
from tests.checkpoint.pieces import saved
from tests.checkpoint.test_to_variables import contents
from tests.command_line.running import Runner
from tests.helpers import ROOT
from tests.internals import blocks, files


def model() -> dict[str, Any]:
    dense = {
        "kernel": sv.Variable(np.arange(6, dtype="float32").reshape(2, 3), autocast=False, aggregation="sum"),
        "bias": sv.Variable([0.0, 1.0, 2.0], shape=(None,)),
    }
    return {
        "enc": dense,
        "again": dense,
        "steps": sv.Variable(3),
        "names": sv.Variable(np.array(["x", "y"])),
        "none": sv.Variable(shape=(None, 2), dtype="float32"),
        "flag": sv.Variable([True, False]),
        "z": sv.Variable([1 + 2j]),
        "half": sv.Variable([1.0, 2.0], dtype="bfloat16"),
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here."""
    monkeypatch.setattr(files, "sync", lambda _: None)
    monkeypatch.setattr(files, "sync_folder", lambda _: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    sv.save(model(), tmp_path / "m.safetensors", metadata={"epoch": 3})
    return tmp_path / "m.safetensors"


def values(path: Path) -> dict[str, Any]:
    with sv.load(path) as checkpoint:
        return {name: checkpoint[name].tolist() for name in checkpoint}


def everything(path: Path) -> dict[str, Any]:
    with sv.load(path) as checkpoint:
        return contents(checkpoint)


@pytest.mark.parametrize(
    ("change", "name", "expected", "says"),
    [
        ("enc/bias[1]=nan", "enc/bias", [0.0, "nan", 2.0], "enc/bias[1]: 1 of 3 elements change, 1.0 -> nan"),
        ("enc/bias[:2]=[-inf, 1e3]", "enc/bias", ["-inf", 1000.0, 2.0], "2 of 3 elements change, 0.0 -> -inf, ..."),
        ("enc/bias = 0.5", "enc/bias", [0.5, 0.5, 0.5], "3 of 3 elements change"),
        ("enc/bias=[7, 8]", "enc/bias", [7.0, 8.0], "the shape changes, 3 -> 2"),
        ("again/bias[[0, 2]]+=1", "enc/bias", [1.0, 1.0, 3.0], "again/bias[[0, 2]]: 2 of 3"),
        ("enc/kernel[:, 1]*=2", "enc/kernel", [[0.0, 2.0, 2.0], [3.0, 8.0, 5.0]], "2 of 6"),
        ("enc/kernel[...]=[1, 2, 3]", "enc/kernel", [[1.0, 2.0, 3.0]] * 2, "6 of 6"),
        ("enc/kernel/=2", "enc/kernel", [[0.0, 0.5, 1.0], [1.5, 2.0, 2.5]], "5 of 6"),
        ("steps-=5", "steps", -2, "3 -> -2"),
        ("steps//=2", "steps", 1, "3 -> 1"),
        ("steps%=2", "steps", 1, "3 -> 1"),
        ("steps**=2", "steps", 9, "3 -> 9"),
        ("names=two words", "names", ["two words", "two words"], "'x' -> 'two words', ..."),
        ("names[0]='[q]'", "names", ["[q]", "y"], "'x' -> '[q]'"),
        ('names=["a=b", ""]', "names", ["a=b", ""], "'x' -> 'a=b', ..."),
        ("none=[[1, 2]]", "none", [[1.0, 2.0]], "gets its first value, of shape 1x2"),
        ("flag[1]=true", "flag", [True, True], "1 of 2 elements change, False -> True"),
        ("z=-1-2j", "z", [-1 - 2j], "1 of 1"),
        ("half*=0.5", "half", [0.5, 1.0], "2 of 2"),
    ],
)
def test_a_value_changes_and_nothing_else(
    run: Runner, path: Path, change: str, name: str, expected: Any, says: str
) -> None:
    before = everything(path)
    ran = run("edit", path, change)
    assert ran.status == 0, ran.err
    assert says in ran.lines[0]
    assert ran.lines[1:] == [f"wrote {path}"]
    after = everything(path)
    got = values(path)[name]
    assert repr(got).replace("nan", "'nan'").replace("inf", "'inf'").replace("-'", "'-") == repr(expected)
    for all_of in (before, after):
        all_of["values"].pop(name, None)
    if name == "none" or change == "enc/bias=[7, 8]":
        shape = np.shape(got)
        before["records"][name] = before["records"][name]._replace(shape=shape)
    assert before == after
    assert sv.verify(path)
    assert names_in(path.parent) == {path.name}


def test_flags_change(run: Runner, path: Path) -> None:
    before = everything(path)
    ran = run(
        "edit",
        path,
        "again/kernel.trainable=false",
        "enc/kernel.autocast=true",
        "enc/bias.aggregation=only_first_replica",
        "none.trainable=False",
    )
    assert ran.lines[:3] == [
        "again/kernel.trainable: true -> false",
        "enc/kernel.autocast: false -> true",
        "enc/bias.aggregation: mean -> only_first_replica",
    ]
    records = before["records"]
    records["enc/kernel"] = records["enc/kernel"]._replace(trainable=False, autocast=True)
    records["enc/bias"] = records["enc/bias"]._replace(aggregation="only_first_replica")
    records["none"] = records["none"]._replace(trainable=False)
    assert everything(path) == before


@pytest.mark.parametrize(
    ("change", "status", "error"),
    [
        ("steps=1.5", 2, "statevar edit: 1.5 cannot be represented as int32, at 'steps'. Hint: if that is intended"),
        ("flag=2", 2, "at 'flag'"),
        ("steps=4000000000", 2, "at 'steps'"),
        ("enc/bias[3]=1", 2, "index 3 is out of bounds for axis 0 with size 3 (shape (3,)), at 'enc/bias'"),
        ("enc/kernel=[1, 2, 3]", 2, "at 'enc/kernel'. Hint: enc/kernel[...]=VALUE repeats it along the axes"),
        ("none+=1", 2, "at 'none'"),
        ("enc/bais[3]=1", 4, "no variable 'enc/bais' in {path}. Hint: did you mean 'enc/bias'?"),
        ("q**=1", 4, "no variable 'q' in {path}. Hint: statevar ls {path}"),
        ("steps", 2, "expected NAME[INDEX]=VALUE, got 'steps'"),
        ("steps=", 2, "'' is not a value. Hint: a value is a number"),
        ("steps=None", 2, "'None' is not a value"),
        ("steps=__import__('os').abort()", 2, "is not a value"),
        ("steps=9**9**9", 2, "is not a value"),
        ("steps='1'", 2, "\"'1'\" is a text, and the variable has the dtype int32"),
        ("enc/bias[exit()]=1", 2, "'exit()' is not an index"),
        ("enc/bias=@missing.npy", 4, "No such file or directory"),
        ("enc/bias=@{path}", 2, "has 7 arrays, and @ takes a file of one"),
        ("enc/bias=1e999", 2, "'1e999' is not a value"),
        ("steps.trainable=true", 2, "'steps' cannot be trainable: int32 has no gradients"),
        ("steps.autocast=true", 2, "'steps' cannot follow autocast scopes: int32 is no floating-point dtype"),
        ("enc/bias.trainable=maybe", 2, "trainable is true or false, got 'maybe'"),
        ("enc/bias.aggregation=max", 2, "aggregation is one of none, mean, sum, only_first_replica, got 'max'"),
        ("enc/bias.trainable+=true", 2, "a flag is set with =, got 'enc/bias.trainable' with another operator"),
    ],
)
def test_a_mistake_changes_nothing(run: Runner, path: Path, change: str, status: int, error: str) -> None:
    before = path.read_bytes()
    ran = run("edit", path, "enc/bias=5", change.replace("{path}", str(path)))
    assert ran.status == status
    assert ran.err.startswith("statevar edit: ")
    assert error.replace("{path}", str(path)) in ran.err
    assert path.read_bytes() == before
    assert names_in(path.parent) == {path.name}


def test_names_may_have_any_characters(run: Runner, tmp_path: Path) -> None:
    names = ["a", "a=b", "a[0]", "a+", "w.trainable", "w", "[", "\x1b[31m", "é"]
    sv.save({name: sv.Variable([0.0, 0.0]) for name in names}, tmp_path / "m")
    assert run("edit", tmp_path / "m", "a=b=1", "a[0]=2", "a[1]=3", "a+=4", "w.trainable=5", "[=6").status == 0
    assert [values(tmp_path / "m")[name] for name in names[:7]] == [
        [0.0, 3.0],
        [1.0, 1.0],
        [2.0, 2.0],
        [4.0, 4.0],
        [5.0, 5.0],
        [0.0, 0.0],
        [6.0, 6.0],
    ]
    ran = run("edit", tmp_path / "m", "\x1b[31m=1", "é[0]-=1")
    assert ran.lines[:2] == [
        "\\x1b[31m: 2 of 2 elements change, 0.0 -> 1.0, ...",
        "é[0]: 1 of 2 elements change, 0.0 -> -1.0",
    ]


def test_a_file_of_numpy_is_a_value(run: Runner, path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "k.npy", np.full((2, 3), 7, "float32"))
    assert run("edit", path, f"enc/kernel=@{tmp_path / 'k.npy'}").status == 0
    assert values(path)["enc/kernel"] == [[7.0] * 3] * 2
    np.save(tmp_path / "o.npy", np.array([None]), allow_pickle=True)
    assert run("edit", path, f"enc/bias=@{tmp_path / 'o.npy'}").status == 3


def test_dry_run_output_and_backup(run: Runner, path: Path, tmp_path: Path) -> None:
    before, content = everything(path), path.read_bytes()
    ran = run("edit", path, "steps=4", "-n")
    assert ran.lines == ["steps: 1 of 1 elements change, 3 -> 4", "nothing was written (--dry-run)"]
    out = tmp_path / "out.safetensors"
    assert run("edit", path, "steps=4", "-o", out).lines[-1] == f"wrote {out}"
    assert path.read_bytes() == content
    assert everything(out)["records"] == before["records"]
    assert values(out)["steps"] == 4
    assert run("edit", path, "steps=3").lines[-1] == "nothing changes, so nothing was written"
    assert path.read_bytes() == content
    assert run("edit", path, "steps=5", "--backup").status == 0
    assert path.with_name("m.safetensors.bak").read_bytes() == content
    ran = run("edit", path, "steps=6", "--backup")
    assert ran.status == 2
    assert "there is a backup already" in ran.err
    assert values(path)["steps"] == 5
    assert run("edit", path, "steps=6", "-o", "a.npz").err.startswith("statevar edit: -o writes a file of statevar")


def test_mode_and_links_stay(run: Runner, path: Path, tmp_path: Path) -> None:
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert run("edit", link, "steps=4").status == 0
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert values(path)["steps"] == 4


def test_several_files(run: Runner, tmp_path: Path) -> None:
    """Only the one with the variable is written; the others stay as they are."""
    index = tmp_path / "m.json"
    sv.save(model(), index, metadata={"epoch": 3}, max_shard_size=20)
    before, names = everything(index), names_in(tmp_path)
    ran = run("edit", index, "steps=4", "enc/bias.trainable=false")
    assert ran.status == 0, ran.err
    after = everything(index)
    assert before["records"].pop("enc/bias")._replace(trainable=False) == after["records"].pop("enc/bias")
    assert before["values"].pop("steps") != after["values"].pop("steps")
    assert before == after
    assert len(names_in(tmp_path)) == len(names)
    assert len(names & names_in(tmp_path)) == len(names) - 1, "both are in one file"
    assert run("edit", index, "steps=9", "--backup").status == 2
    assert values(index)["steps"] == 4
    assert run("diff", index, index).status == 0
    sv.save(model(), index, max_shard_size=20)
    assert len(names_in(tmp_path)) == len(names), "the next save removes all that was there"


def test_a_step_of_a_manager(run: Runner, tmp_path: Path) -> None:
    here = model()
    with sv.CheckpointManager(tmp_path, here, keep=2, best="loss", shard_size=20) as manager:
        manager.save(1, {"loss": 0.5}, metadata={"a": 1})
        here["steps"].assign(4)
        manager.save(2, {"loss": 0.75}, wait=True)  # most of its files are those of step 1
        ran = run("edit", tmp_path, "steps=7")
        assert ran.status == 2
        assert ran.err.startswith("statevar edit: a running program has a manager of this folder")
        assert run("edit", tmp_path, "steps=7", "-n").status == 0
        assert run("edit", tmp_path, "steps=7", "-o", tmp_path / "out").status == 0
    one = everything(tmp_path / "step-0000000001")
    assert run("edit", tmp_path, "steps=7", "enc/bias=[1, 2]").lines[-1] == f"wrote {tmp_path / 'step-0000000002'}"
    assert run("edit", tmp_path, "steps+=1").status == 0
    assert everything(tmp_path / "step-0000000001") == one
    assert len(names_in(tmp_path / "step-0000000002")) == len(names_in(tmp_path / "step-0000000001"))
    assert run("edit", tmp_path, "steps=1", "--step", "5").status == 4
    with sv.CheckpointManager(tmp_path, here, keep=2, best="loss", shard_size=20) as manager:
        assert manager.metrics(2) == {"loss": 0.75}
        restored = manager.restore()
        assert restored is not None
        assert restored.step == 2
        assert here["steps"].numpy() == 8
        manager.save(3, {"loss": 1.0}, wait=True)
        manager.save(4, {"loss": 1.0}, wait=True)
        assert manager.steps() == [1, 3, 4]


def test_files_of_other_programs(run: Runner, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.ones(2, "float32"))
    ran = run("edit", tmp_path / "a.npz", "w=2")
    assert ran.status == 2
    assert f"pass -o OUT, or: statevar convert {tmp_path / 'a.npz'} NEW.safetensors" in ran.err
    assert run("edit", tmp_path / "a.npz", "w=2", "-o", tmp_path / "b").status == 0
    assert values(tmp_path / "b") == {"w": [2.0, 2.0]}


def test_safetensors_of_other_programs_keep_their_metadata(run: Runner, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "m.safetensors"
    safetensors.save_file({"model.w": np.ones(2, "float32"), "model.n": np.arange(2)}, path, {"format": "pt"})
    assert run("edit", path, "model.w[0]=5").status == 0
    assert safetensors.load_file(path)["model.w"].tolist() == [5.0, 1.0]
    with pytest.importorskip("safetensors").safe_open(path, "np") as file:
        assert file.metadata()["format"] == "pt"


def test_parts_of_several_processes_become_one_file(run: Runner, tmp_path: Path) -> None:
    w = np.arange(24, dtype="float32").reshape(6, 4)
    cuts = {
        "w": [[blocks.Block((0, 0), (3, 4))], [blocks.Block((3, 0), (3, 4))]],
        "b": [[], [blocks.Block((0,), (2,))]],
    }
    folder = saved(tmp_path / "a", {"w": w, "b": np.zeros(2, "int8")}, cuts, unset={"unset": ("float32", (2,))})
    ran = run("edit", folder, "b=1")
    assert ran.status == 2
    assert "has the parts of several processes or devices" in ran.err
    assert run("edit", folder, "b=1", "-o", tmp_path / "b").status == 0
    assert values(tmp_path / "b") == {"w": w.tolist(), "b": [1, 1]}
    assert run("diff", folder, tmp_path / "b").lines == ["~ b  2 of 2 differ, by at most 1", "2 same, 1 different"]
    assert run("convert", folder, tmp_path / "c.safetensors").status == 0
    assert run("diff", folder, tmp_path / "c.safetensors").status == 0


def test_large_values_pass_through_memory_one_at_a_time(run: Runner, tmp_path: Path) -> None:
    model = {f"w{i}": sv.Variable(np.full(1 << 20, i, "uint8")) for i in range(16)}
    sv.save({**model, "n": sv.Variable(1)}, tmp_path / "m")
    run("edit", tmp_path / "m", "n=2")  # what is imported takes memory too
    tracemalloc.start()
    try:
        assert run("edit", tmp_path / "m", "n=3").status == 0
        assert tracemalloc.get_traced_memory()[1] < 12 << 20, "the writer keeps 8 MB to write at once"
    finally:
        tracemalloc.stop()


def test_random_keys_are_carried_along(run: Runner, backends: list[str], tmp_path: Path) -> None:
    if "jax" not in backends:
        pytest.skip("random keys are JAX's")
    import jax

    sv.save({"key": sv.Variable(jax.random.key(7)), "n": sv.Variable(1)}, tmp_path / "m")
    before = everything(tmp_path / "m")
    assert run("edit", tmp_path / "m", "n=2", "key.aggregation=none").status == 0
    after = everything(tmp_path / "m")
    assert after["values"]["key"] == before["values"]["key"]
    assert after["records"]["key"] == before["records"]["key"]._replace(aggregation="none")
    assert run("edit", tmp_path / "m", "key=3").err.startswith("statevar edit: random keys are not edited here: 'key'")


def test_damage_is_found_and_not_written_again(run: Runner, path: Path) -> None:
    content = path.read_bytes()
    two = np.float32(2).tobytes()
    path.write_bytes(content.replace(two, np.float32(3).tobytes()))
    before = path.read_bytes()
    ran = run("edit", path, "steps=4")
    assert ran.status == 3
    assert "checksum does not match" in ran.err
    assert path.read_bytes() == before
    assert names_in(path.parent) == {path.name}


def test_a_save_meanwhile_is_not_lost(run: Runner, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = sv.checkpoint.Checkpoint.arrays

    def arrays(checkpoint: Any, paths: Any) -> Any:
        sv.save({"other": sv.Variable(1)}, path)
        return read(checkpoint, paths)

    monkeypatch.setattr(sv.checkpoint.Checkpoint, "arrays", arrays)
    ran = run("edit", path, "steps=4")
    monkeypatch.undo()
    assert ran.status == 2
    assert "another program has replaced the checkpoint meanwhile, so nothing was changed" in ran.err
    assert values(path) == {"other": 1}


@pytest.mark.parametrize("max_shard_size", [None, 20])
def test_every_operation_may_fail(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_shard_size: int | None
) -> None:
    """The old file stays, or the new one is there; and nothing else is left."""
    path = tmp_path / "m"
    sv.save(model(), path, max_shard_size=max_shard_size)
    old, names = everything(path), len(names_in(tmp_path))
    for number in count():
        fault = Fault(number, system_error(errno.ENOSPC))
        with monkeypatch.context() as patch:
            fault.install(patch)
            ran = run("edit", path, "steps=4", "enc/bias.trainable=false")
        if fault.failed is None:
            break
        assert everything(path) == old or values(path)["steps"] == 4
        assert ran.status in (0, 2, 3)
        if ran.status:
            assert ran.err
        run("edit", path, "steps=3", "enc/bias.trainable=true")
        assert everything(path) == old
        assert len(names_in(tmp_path)) == names
    assert number > 10


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_kill_leaves_the_old_or_the_new(memory: Path) -> None:
    program = [sys.executable, "-m", "tests.command_line.killed_edits_program", str(memory)]
    ran = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (ran.stdout.splitlines(), ran.returncode) == (["old and new"] * 2, 0), ran.stderr


def test_what_becomes_infinite_is_no_warning(run: Runner, path: Path) -> None:
    assert run("edit", path, "enc/kernel/=0") == (
        0,
        f"enc/kernel: 6 of 6 elements change, 0.0 -> nan, ...\nwrote {path}\n",
        "",
    )


def test_an_output_without_a_name_changes_nothing(run: Runner, path: Path) -> None:
    before = path.read_bytes()
    ran = run("edit", path, "steps=4", "-o", "")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "statevar edit: -o got an empty path. Hint: pass the path of the new file, or leave out -o\n"
    assert path.read_bytes() == before


def test_the_hint_about_repeating_is_given_where_it_helps(run: Runner, path: Path) -> None:
    assert "Hint: enc/kernel[...]=VALUE repeats it" in run("edit", path, "enc/kernel=[1,2,3]").err
    for change in ("enc/kernel[:1]=[1,2]", "steps=[1,2]", "none=1", "enc/kernel+=[1,2]"):
        ran = run("edit", path, change)
        assert ran.status == 2
        assert "repeats" not in ran.err
