"""``statevar convert``: every value arrives, and what a format has no room for is said."""

from __future__ import annotations

import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.checkpoint.disks import names_in
from tests.checkpoint.test_to_variables import contents
from tests.command_line.running import Runner
from tests.internals import HOST


def everything(path: Path) -> dict[str, Any]:
    with sv.load(path) as checkpoint:
        return contents(checkpoint)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with everything that a file can have."""
    dense = {
        "kernel": sv.Variable(np.arange(6, dtype="float32").reshape(2, 3), autocast=False, aggregation="sum"),
        "bias": sv.Variable([0.0, math.nan], shape=(None,), trainable=False),
    }
    model = {
        "enc": dense,
        "again": dense,
        "steps": sv.Variable(3),
        "a/b": sv.Variable([True, False]),
        "none": sv.Variable(shape=(None, 2), dtype="float32"),
        "scalar": sv.Variable(2.0, dtype="float16"),
        "z": sv.Variable([1 + 2j]),
    }
    sv.save(model, tmp_path / "m.safetensors", metadata={"epoch": 3})
    return tmp_path / "m.safetensors"


def test_to_our_own_formats_everything_is_kept(run: Runner, path: Path, tmp_path: Path) -> None:
    before = everything(path)
    folder, other = tmp_path / "folder", tmp_path / "other.safetensors"
    assert run("convert", path, f"{folder}/", "--shard-size", "20B") == (
        0,
        f"wrote {folder}/: 7 variables, all verified\n",
        "",
    )
    assert len(names_in(folder)) > 3
    assert run("convert", folder, other).status == 0
    assert everything(folder) == everything(other) == before
    assert run("diff", path, other).status == 0
    assert names_in(tmp_path) == {"folder", "m.safetensors", "other.safetensors"}


def test_a_separator_is_kept(run: Runner, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    sv.save({"a": {"w": sv.Variable([1.0])}}, tmp_path / "m", separator=".")
    assert run("convert", tmp_path / "m", tmp_path / "n.safetensors").status == 0
    assert list(safetensors.load_file(tmp_path / "n.safetensors")) == ["a.w"]
    assert everything(tmp_path / "n.safetensors") == everything(tmp_path / "m")


def test_only_some(run: Runner, path: Path, tmp_path: Path) -> None:
    ran = run("convert", path, tmp_path / "o.safetensors", "--only", "enc/*", "--only", "z")
    assert ran == (0, f"wrote {tmp_path / 'o.safetensors'}: 3 variables, all verified\n", "")
    after = everything(tmp_path / "o.safetensors")
    assert sorted(after["records"]) == ["enc/bias", "enc/kernel", "z"]
    assert after["aliases"] == {"again": "enc"}
    assert run("convert", path, tmp_path / "p.safetensors", "--only", "z").status == 0
    assert everything(tmp_path / "p.safetensors")["aliases"] == {}
    assert run("convert", path, tmp_path / "p.safetensors", "--only", "y").status == 4


LOST = [
    "the flag autocast of enc/kernel",
    "aggregation of enc/kernel",
    "the flag trainable of enc/bias",
    "the declared shape of enc/bias",
    "none, which has no value",
    "the metadata: epoch",
]


def test_numpy_reads_what_was_written(run: Runner, path: Path, tmp_path: Path) -> None:
    to = tmp_path / "m.npz"
    ran = run("convert", path, to)
    assert ran[:2] == (0, f"wrote {to}: 6 variables, all verified\n")
    said = [f"statevar convert: {to} does not keep {each}" for each in [*LOST, "the aliases again = enc"]]
    assert sorted(ran.err.splitlines()) == sorted(said)
    with np.load(to) as arrays, sv.load(path) as checkpoint:
        assert set(arrays) == set(checkpoint)
        for name in arrays:
            assert arrays[name].dtype == checkpoint[name].dtype
            np.testing.assert_array_equal(arrays[name], checkpoint[name])
    assert zipfile.ZipFile(to).testzip() is None
    assert run("convert", to, tmp_path / "back.safetensors").err == ""
    assert run("diff", to, tmp_path / "back.safetensors").status == 0


def test_hdf5_has_aliases(run: Runner, path: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    to = tmp_path / "m.h5"
    ran = run("convert", path, to)
    assert ran[:2] == (0, f"wrote {to}: 6 variables, all verified\n")
    assert sorted(ran.err.splitlines()) == sorted(f"statevar convert: {to} does not keep {each}" for each in LOST)
    with h5py.File(to) as file:
        assert file["again/kernel"] == file["enc/kernel"]
        assert file["enc/kernel"][()].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    np.savez(tmp_path / "odd.npz", **{"a": np.ones(2), "a/b": np.ones(1)})  # type: ignore[arg-type]  # its stubs
    ran = run("convert", tmp_path / "odd.npz", tmp_path / "odd.h5")
    assert ran.status == 2
    assert "an HDF5 file cannot have 'a/b' beside the others" in ran.err
    assert not (tmp_path / "odd.h5").exists()


def test_one_array(run: Runner, path: Path, tmp_path: Path) -> None:
    ran = run("convert", path, tmp_path / "k.npy", "--only", "enc/kernel")
    assert ran.status == 0
    assert "does not keep the flag autocast of enc/kernel" in ran.err
    assert np.load(tmp_path / "k.npy").tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    ran = run("convert", path, tmp_path / "all.npy")
    assert (ran.status, (tmp_path / "all.npy").exists()) == (2, False)
    assert "a .npy file has one array, and there are 6. Hint: choose one with --only, or convert to .npz" in ran.err


@pytest.mark.parametrize("dtype", sorted(name for name in HOST if HOST[name].isbuiltin != 1))
def test_a_dtype_that_a_format_lacks_is_an_error(run: Runner, tmp_path: Path, dtype: str) -> None:
    value = np.array(["a"], HOST["string"]) if dtype == "string" else np.zeros(2, np.int8)
    sv.save({"w": sv.Variable(value, dtype=dtype), "v": sv.Variable(1.0)}, tmp_path / "m")
    for ending in ("npz", "h5"):
        if ending == "h5":
            pytest.importorskip("h5py")
        to = tmp_path / f"m.{ending}"
        ran = run("convert", tmp_path / "m", to)
        assert ran.err == (
            f"statevar convert: a .{ending} file has no dtype {dtype}, which 'w' has. "
            "Hint: convert to .safetensors, or leave them out with --only\n"
        )
        assert (ran.status, to.exists()) == (2, False)
        assert run("convert", tmp_path / "m", to, "--only", "v").status == 0
    assert names_in(tmp_path) <= {"m", "m.npz", "m.h5"}


def test_mistakes(run: Runner, path: Path, tmp_path: Path) -> None:
    assert run("convert", path, tmp_path / "m.foo").err == (
        f"statevar convert: {tmp_path / 'm.foo'} ends with none of .safetensors, .npz, .npy, .h5, .hdf5. "
        f"Hint: {tmp_path / 'm.foo'}/ is a folder\n"
    )
    np.save(tmp_path / "a.npy", np.ones(2))
    for same in (path, tmp_path / "a.npy"):
        (tmp_path / f"link{same.suffix}").symlink_to(same)
        for to in (same, tmp_path / f"link{same.suffix}"):
            assert "are the same file" in run("convert", same, to).err
        (tmp_path / f"link{same.suffix}").unlink()
    (tmp_path / "a.npy").unlink()
    assert "is a folder that is not empty" in run("convert", path, tmp_path).err
    assert "expected a size such as 5GB, got 'x'" in run("convert", path, f"{tmp_path}/f/", "--shard-size", "x").err
    assert run("convert", tmp_path / "none", tmp_path / "m.npz").status == 4
    content = path.read_bytes()
    path.write_bytes(content.replace(np.float32(4).tobytes(), np.float32(5).tobytes()))
    for name in ("a.safetensors", "a.npz", "a/"):
        assert run("convert", path, f"{tmp_path}/{name}").status == 3
    assert names_in(tmp_path) == {path.name}


def test_the_file_that_is_replaced_keeps_its_mode(run: Runner, path: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "a.safetensors"):
        (tmp_path / name).touch(0o600)
        link = tmp_path / f"link.{name}"
        link.symlink_to(name)
        assert run("convert", path, link).status == 0
        assert link.is_symlink()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_wrong_value_is_found(run: Runner, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk, or a library that writes, may make one."""
    write = np.lib.format.write_array

    def write_another(file: Any, array: Any, **options: Any) -> None:
        write(file, array + 1 if array.dtype.kind == "c" else array, **options)

    monkeypatch.setattr(np.lib.format, "write_array", write_another)
    ran = run("convert", path, tmp_path / "m.npz")
    assert ran.status == 3
    assert "would not have the values of z, so nothing was written" in ran.err
    assert names_in(tmp_path) == {path.name}


def test_from_other_programs(run: Runner, backends: list[str], tmp_path: Path) -> None:
    if "torch" not in backends:
        pytest.skip("torch writes it")
    import torch

    w = torch.arange(3.0, dtype=torch.bfloat16)
    torch.save({"layer.w": w, "tied.w": w, "n": torch.tensor(3)}, tmp_path / "m.pt")
    ran = run("convert", tmp_path / "m.pt", tmp_path / "m.safetensors")
    assert ran == (0, f"wrote {tmp_path / 'm.safetensors'}: 2 variables, all verified\n", "")
    found = sv.load(tmp_path / "m.safetensors").to_variables()
    assert found["tied/w"] is found["layer/w"]
    assert found["layer/w"].dtype_name == "bfloat16"
    assert run("diff", tmp_path / "m.pt", tmp_path / "m.safetensors").status == 0


def test_a_dtype_that_no_variable_has_is_an_error(run: Runner, tmp_path: Path) -> None:
    source, target = tmp_path / "a.npz", tmp_path / "b.safetensors"
    np.savez(source, x=np.arange(3), names=np.array(["a", "b"]))
    for arguments in (
        ("convert", source, target),
        ("convert", source, f"{tmp_path}/b/"),
        ("edit", source, "x=1", "-o", target),
    ):
        ran = run(*arguments)
        assert ran.status == 2
        assert "no variable has the dtype <U1, at 'names'. Hint: leave it out, as convert --only does." in ran.err
        assert names_in(tmp_path) == {"a.npz"}
    assert run("convert", source, target, "--only", "x").status == 0


def test_errors_name_the_file_that_was_asked_for(
    run: Runner, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "nowhere" / "x.npz"
    ran = run("convert", path, target)
    assert (ran.status, ran.err) == (
        4,
        f"statevar convert: the system said No such file or directory, at '{target}'.\n",
    )
    assert run("convert", path, "").err == "statevar convert: B is an empty path. Hint: pass the path of the new file\n"
    monkeypatch.setitem(sys.modules, "h5py", None)
    target = tmp_path / "x.h5"
    assert run("convert", path, target) == (
        2,
        "",
        f"statevar convert: to write this file needs h5py, at '{target}'. Hint: pip install 'statevar[h5]'.\n",
    )
