"""`statevar ls`, `show` and `verify`."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import statevar as sv
from tests.checkpoint import pieces
from tests.command_line.programs import Run
from tests.internals import blocks, cli_reading, cli_verify


def test_ls_prints_the_paths(statevar: Run, file: Path) -> None:
    with sv.load(file) as saved:
        names = list(saved.variables)
    assert statevar("ls", file).lines == names
    assert statevar("ls", file, "--only", "*/kernel").lines == ["encoder/0/kernel", "head/kernel"]
    document = statevar("ls", file, "--json").document("ls")
    assert (document["names"], document["aliases"]) == (names, {"tied": "encoder/0"})


def test_ls_prints_the_steps_of_a_manager(statevar: Run, run_folder: Path) -> None:
    (run_folder / ".step-0000000400.0123abcd.tmp").mkdir()
    for age, step in enumerate((300, 2, 1)):
        written = (run_folder / ".lock").stat().st_mtime - age * 86400 * 2
        os.utime(run_folder / f"step-{step:010d}", (written, written))
    ran = statevar("ls", run_folder)
    assert ran.status == 0
    rows = [line.split() for line in ran.lines]
    assert rows[0] == ["step", "age", "size", "loss", "accuracy"]
    assert [row[0] for row in rows[1:4]] == ["1", "2", "300"]
    assert (rows[1][1:3], rows[2][1:3]) == (["4", "days"], ["2", "days"])
    assert (rows[1][-2:], rows[3][-2:]) == (["1", "nan"], ["0.00333", "nan"])
    assert "the index is" in ran.lines[2] or "JSON" in ran.lines[2], "the second one is damaged, and says why"
    assert "with the files that several steps share" in ran.lines[4]  # the one that has not changed is linked
    assert ran.lines[5] == "step 400 is not finished: it is being written, or its program was killed"
    document = statevar("ls", run_folder, "--json").document("ls")
    assert [each["step"] for each in document["steps"]] == [1, 2, 300]
    assert [each["problem"] is None for each in document["steps"]] == [True, False, True]
    assert document["steps"][0]["metrics"] == {"loss": 1.0, "accuracy": None}
    assert document["unfinished"] == [400]
    assert document["nbytes"] < sum(each["nbytes"] for each in document["steps"])
    assert set(statevar("ls", run_folder, "--step", 1).lines) == {"v", "still"}


def test_show_prints_a_value_or_a_part_of_it(statevar: Run, file: Path) -> None:
    assert statevar("show", file, "encoder/0/kernel[1:, ::-2]").lines == ["[[ 7.  5.]", " [11.  9.]]"]
    assert statevar("show", file, "tied/kernel[2, 3]").out == "11.0\n"
    assert statevar("show", file, "steps").out == "7\n"
    assert statevar("show", file, "half").out == "[ 1.5 -2. ]\n"
    assert statevar("show", file, "wrong").out == "[ 1. nan inf -3.]\n"
    assert statevar("show", file, "words").lines == ["'a'", r"'é\x1b[31m\n'"]
    document = statevar("show", file, "wrong[[0, 1, 2]]", "--json").document("show")
    assert document == {
        "path": str(file),
        "name": "wrong",
        "index": "[0, 1, 2]",
        "dtype": "float32",
        "shape": [3],
        "checked": True,
        "value": [1.0, None, None],
    }
    assert statevar("show", file, "waves", "--json").document("show")["value"] == [[3.0, 4.0]]
    assert statevar("show", file, "words", "--json").document("show")["value"] == ["a", "é\x1b[31m\n"]
    assert statevar("show", file, "half[None, ..., 0]", "--json").document("show")["value"] == [1.5]


@pytest.mark.parametrize(
    ("name", "dtype"), [("encoder/0/kernel", "<f4"), ("half", "<f4"), ("words", "<U7"), ("steps", "<i4")]
)
def test_show_writes_a_file_of_numpy(statevar: Run, file: Path, name: str, dtype: str) -> None:
    ran = statevar("show", file, name, "--npy")
    array = np.load(io.BytesIO(ran.raw), allow_pickle=False)
    with sv.load(file) as saved:
        assert np.array_equal(array, saved[name].astype(array.dtype))
    assert array.dtype == dtype
    assert ("written as float32" in ran.err) == (name == "half")


def test_show_abridges_what_is_large(statevar: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    array = np.random.default_rng(0).normal(size=(60, 50))
    np.save(path, array)
    ran = statevar("show", path)  # the only one need not be named
    assert len(ran.lines) < 20
    assert ran.err == "statevar show: abridged: 3,000 elements (60x50); --all prints all of them\n"
    ran = statevar("show", path, "--all")
    assert ran.err == ""
    text = ran.out.replace("[", " ").replace("]", " ")
    assert np.array_equal(np.array(text.split(), float), array.reshape(-1)), "every digit is printed"


@pytest.mark.parametrize(
    ("target", "status", "text"),
    [
        ("hed/kernel", 4, "{} has no variable 'hed/kernel'. Hint: did you mean 'head/kernel'?"),
        ("head/kernal[0]", 4, "{} has no variable 'head/kernal[0]'. Hint: did you mean 'head/kernel'?"),
        ("encoder", 4, "{} has no variable 'encoder'. Hint: did you mean 'encoder/0/"),
        ("zzz", 4, "{} has no variable 'zzz'. Hint: statevar ls {}"),
        ("unset", 4, "'unset' was saved without a value, in {}"),
        ("steps[0]", 2, "the index [0] does not fit 'steps', which has the shape ()"),
        ("wrong[4]", 2, "the index [4] does not fit 'wrong', which has the shape (4,): index 4 is out of bounds"),
        ("wrong[os.getcwd()]", 2, "'os.getcwd()' is not an index. Hint: an index may have integers, slices, ..."),
        ("wrong[9**9]", 2, "'9**9' is not an index"),
        ("wrong[99999999999999999999]", 2, "does not fit 'wrong'"),
    ],
)
def test_what_cannot_be_shown_is_one_line(statevar: Run, file: Path, target: str, status: int, text: str) -> None:
    ran = statevar("show", file, target)
    assert (ran.status, ran.out) == (status, "")
    assert ran.err.startswith("statevar show: ")
    assert text.format(file, file) in ran.err
    assert ran.err.count("\n") == 1


def test_show_needs_a_name_if_there_are_several(statevar: Run, file: Path) -> None:
    ran = statevar("show", file)
    assert (ran.status, ran.err) == (
        2,
        f"statevar show: {file} has 9 variables, so one has to be named. Hint: statevar ls {file}\n",
    )
    assert statevar("show", file, "steps", "--npy", "--json").status == 2


@pytest.mark.parametrize("large", [False, True])
def test_show_checks_the_checksum(statevar: Run, damaged: Path, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:  # such a one is checked piece by piece, and then mapped
        monkeypatch.setattr(cli_reading, "_LARGE", 0)
    assert statevar("show", damaged, "a").out == "[1. 2.]\n"
    for target in ("b", "b[0]", "b[[0]]"):  # damaged is the other element
        ran = statevar("show", damaged, target)
        assert (ran.status, ran.out) == (3, "")
        assert ran.err == f"statevar show: the tensor is damaged: its checksum does not match, at '{damaged}: b'.\n"
    ran = statevar("show", damaged, "b[0]", "--unchecked")
    assert ran.status == (0 if large else 3)
    if large:
        assert (ran.out, ran.err) == ("3.0\n", "statevar show: the checksum of 'b' was not compared (--unchecked)\n")


def test_show_reads_and_checks_only_the_chunks_of_a_part(
    statevar: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(3 << 18, dtype=np.float32).reshape(3, -1)  # each row is a chunk of a megabyte
    whole = blocks.Block((0, 0), array.shape)
    path = pieces.saved(tmp_path / "a", {"x": array}, {"x": [[whole]]})
    (file,) = path.glob("part-*")
    content = bytearray(file.read_bytes())
    content[content.index(array[2, -1].tobytes())] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(cli_reading, "_LARGE", 0)
    assert statevar("show", path, "x[1, -2:]").lines == ["[524286. 524287.]"]
    for target in ("x[2, -1]", "x[-1:, -5:]", "x", "x[[0, 2], 0]"):
        assert statevar("show", path, target).status == 3, target


def test_verify(statevar: Run, file: Path, damaged: Path, run_folder: Path, tmp_path: Path) -> None:
    ran = statevar("verify", file)
    assert (ran.status, ran.out) == (0, f"{file}: whole: 8 variables with the right checksum\n")
    assert statevar("verify", "-q", file).out == ""
    ran = statevar("verify", damaged, file, tmp_path / "nothing")
    assert ran.status == 3, "damage is worse than a file that is missing"
    assert ran.lines == [
        f"{damaged}: DAMAGED: 1 of 2 variables",
        "  b: the tensor is damaged: its checksum does not match",
        f"{file}: whole: 8 variables with the right checksum",
    ]
    assert ran.err == f"statevar verify: the system said No such file or directory, at '{tmp_path / 'nothing'}'.\n"
    assert statevar("verify", file, tmp_path / "nothing").status == 4
    np.save(tmp_path / "a.npy", np.ones(2))
    assert statevar("verify", tmp_path / "a.npy").out == f"{tmp_path / 'a.npy'}: readable: 1 without a checksum\n"
    ran = statevar("verify", run_folder, "--json")
    assert ran.status == 3
    found = ran.document("verify")["files"]
    assert [(Path(each["path"]).name[-3:], each["whole"], each["status"]) for each in found] == [
        ("001", True, 0),
        ("002", False, 3),
        ("300", True, 0),
    ]
    assert statevar("verify", run_folder, "--step", 300).status == 0
    assert statevar("verify", damaged, "--json").document("verify")["files"][0]["damaged"] == {
        "b": "the tensor is damaged: its checksum does not match"
    }
    shutil.rmtree(run_folder)
    run_folder.mkdir()
    assert statevar("verify", run_folder).status in (3, 4)


def test_show_prints_one_text_and_small_integers_as_what_they_are(statevar: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    texts = np.array(["a\x1b[0m", "b\0"] * 600, np.dtypes.StringDType())
    sv.save({"words": sv.Variable(texts), "four": sv.Variable([7, -8], dtype="int4")}, path)
    assert statevar("show", path, "words[0]").lines == [r"'a\x1b[0m'"]
    assert statevar("show", path, "words[1]", "--json").document("show")["value"] == "b\0"
    assert len(statevar("show", path, "words", "--all").lines) == 1200
    assert len(statevar("show", path, "words").lines) == 1000
    assert statevar("show", path, "four").out == "[ 7 -8]\n"
    assert '"value": [7, -8]' in statevar("show", path, "four", "--json").out
    assert statevar("show", path, "four[1]").out == "-8\n"


def test_a_path_with_nothing_is_missing_whatever_else_is_asked(statevar: Run, file: Path, tmp_path: Path) -> None:
    nothing, error = tmp_path / "nothing", f"there is nothing at {tmp_path / 'nothing'}\n"
    for command in (("inspect", nothing), ("verify", nothing), ("diff", nothing, file)):
        ran = statevar(*command, "--step", 3)
        assert (ran.status, ran.out) == (4, "")
        assert ran.err == f"statevar {command[0]}: {error}"
    ran = statevar("diff", nothing, file, "--steps")
    assert (ran.status, ran.err) == (4, f"statevar diff: {error}")


def test_a_name_that_looks_like_an_option(statevar: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    sv.save({"-x": sv.Variable(1.0), "y": sv.Variable(2.0)}, path)
    ran = statevar("show", path, "-x")
    assert ran.status == 2
    assert ran.err.endswith("Hint: statevar show --help; names that begin with - are written after --\n")
    assert statevar("show", path, "--", "-x").out == "1.0\n"


def test_what_no_variable_can_be_is_not_called_damaged(statevar: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3), names=np.array(["a", "b"]))
    ran = statevar("verify", tmp_path / "a.npz")
    assert ran.status == 3
    assert ran.lines == [
        f"{tmp_path / 'a.npz'}: unreadable: 1 of 2 variables",
        "  names: no variable has the dtype '<U1'",
    ]
    assert statevar("verify", tmp_path / "a.npz", "--json").document("verify")["files"][0]["damaged"]
    ran = statevar("inspect", tmp_path / "a.npz", "--stats")
    assert (ran.status, "DAMAGED" in ran.out, "unreadable" in ran.out) == (3, False, True)


def test_verify_checks_each_variable_once_and_some_at_a_time(
    statevar: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    sv.save({f"v{i}": sv.Variable(np.zeros(2)) for i in range(5)}, path)
    asked: list[list[str]] = []
    damage = sv.Checkpoint.damage

    def recorded(checkpoint: sv.Checkpoint, paths: list[str]) -> object:
        asked.append(list(paths))
        return damage(checkpoint, paths)

    monkeypatch.setattr(sv.Checkpoint, "damage", recorded)
    for at_once, sizes in ((1, [1, 1, 1, 1, 1]), (32, [2, 2, 1]), (1 << 20, [5])):
        monkeypatch.setattr(cli_verify, "_AT_ONCE", at_once)
        asked.clear()
        assert statevar("verify", path).status == 0
        assert [len(each) for each in asked] == sizes
        assert sorted(name for each in asked for name in each) == [f"v{i}" for i in range(5)]


def test_a_link_that_leads_nowhere_is_not_its_own_hint(statevar: Run, tmp_path: Path) -> None:
    link = tmp_path / "model.safetensors"
    link.symlink_to(tmp_path / "gone")
    assert statevar("ls", link).err == f"statevar ls: the system said No such file or directory, at '{link}'.\n"
