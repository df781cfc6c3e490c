"""Each format that the library reads can be looked at on the command line, and shows the values that were written."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.checkpoint import pieces
from tests.command_line.programs import Run
from tests.command_line.running import Runner
from tests.internals import blocks

Writer = Callable[[Path], Path]

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
BIAS = np.array([-1.5, 0.0, 2.0], np.float32)
FLAT: dict[str, Any] = {"kernel": KERNEL, "bias": BIAS}


def variables() -> dict[str, Any]:
    return {name: sv.Variable(array) for name, array in FLAT.items()}


def ours(place: Path) -> Path:
    sv.save(variables(), place / "a.safetensors")
    return place / "a.safetensors"


def ours_in_files(place: Path) -> Path:
    sv.save(variables(), place / "a", max_shard_size=16)
    return place / "a"


def ours_in_pieces(place: Path) -> Path:
    cuts = {
        "kernel": [[blocks.Block((0, 0), (1, 3))], [blocks.Block((1, 0), (1, 3))]],
        "bias": [[blocks.Block((0,), (3,))], []],
    }
    return pieces.saved(place / "a", FLAT, cuts)


def of_a_manager(place: Path) -> Path:
    with sv.CheckpointManager(place / "run", variables()) as manager:
        manager.save(3, wait=True)
    return place / "run"


def safetensors(place: Path) -> Path:
    pytest.importorskip("safetensors.numpy").save_file(FLAT, place / "a.safetensors")
    return place / "a.safetensors"


def npz(place: Path) -> Path:
    np.savez(place / "a.npz", **FLAT)
    return place / "a.npz"


def compressed(place: Path) -> Path:
    np.savez_compressed(place / "a.npz", **FLAT)
    return place / "a.npz"


def npy(place: Path) -> Path:
    np.save(place / "kernel.npy", KERNEL)
    return place / "kernel.npy"


def torch(place: Path) -> Path:
    library = pytest.importorskip("torch")
    library.save({name: library.from_numpy(array) for name, array in FLAT.items()}, place / "a.pt")
    return place / "a.pt"


def torch_index(place: Path) -> Path:
    library = pytest.importorskip("torch")
    for name, array in FLAT.items():
        library.save({name: library.from_numpy(array)}, place / f"{name}.bin")
    index = place / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {name: f"{name}.bin" for name in FLAT}}))
    return index


def torch_dcp(place: Path) -> Path:
    library = pytest.importorskip("torch")
    dcp = pytest.importorskip("torch.distributed.checkpoint")
    with warnings.catch_warnings(action="ignore"):  # that there is one process
        state = {name: library.from_numpy(array) for name, array in FLAT.items()}
        dcp.save(state, checkpoint_id=place / "a", no_dist=True)
    return place / "a"


def h5(place: Path) -> Path:
    with pytest.importorskip("h5py").File(place / "a.h5", "w") as file:
        file.update(FLAT)
    return place / "a.h5"


def keras(place: Path) -> Path:
    with zipfile.ZipFile(place / "a.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", "{}")
        archive.write(h5(place), "model.weights.h5")
    return place / "a.keras"


def orbax(place: Path) -> Path:
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(place / "a", dict(FLAT))
    return place / "a"


def orbax_manager(place: Path) -> Path:
    ocp = pytest.importorskip("orbax.checkpoint")
    with ocp.CheckpointManager(place / "a") as manager:
        for step in (9, 10):
            manager.save(step, args=ocp.args.StandardSave(dict(FLAT)))
    return place / "a"


def zarr(place: Path) -> Path:
    library = pytest.importorskip("tensorstore")
    for name, array in FLAT.items():
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(place / "a" / name)},
            "metadata": {"shape": array.shape, "data_type": "float32"},
        }
        library.open(spec, create=True).result()[...] = array
    (place / "a/zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group"}))
    return place / "a"


def tensorflow(place: Path) -> Path:
    library = pytest.importorskip("tensorflow")
    library.raw_ops.SaveV2(
        prefix=str(place / "model"),
        tensor_names=list(FLAT),
        shape_and_slices=[""] * len(FLAT),
        tensors=[library.constant(array) for array in FLAT.values()],
    )
    return place / "model"


def gguf(place: Path) -> Path:
    library = pytest.importorskip("gguf")
    writer = library.GGUFWriter(place / "a.gguf", "llama")
    for name, array in FLAT.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return place / "a.gguf"


def msgpack(place: Path) -> Path:
    path = place / "a.msgpack"
    path.write_bytes(pytest.importorskip("flax.serialization").to_bytes(dict(FLAT)))
    return path


WRITERS: list[Writer] = [
    *(ours, ours_in_files, ours_in_pieces, of_a_manager, safetensors, npz, compressed, npy),
    *(torch, torch_index, torch_dcp, h5, keras, orbax, orbax_manager, zarr, tensorflow, gguf, msgpack),
]
#: Their values have checksums that a read compares.
CHECKED = (ours, ours_in_files, ours_in_pieces, of_a_manager, tensorflow)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_the_values_of_each_format_are_shown(write: Writer, statevar: Run, tmp_path: Path) -> None:
    path = write(tmp_path)
    expected = {"kernel": KERNEL} if write is npy else FLAT
    document = statevar("inspect", path, "--stats", "--json").document("inspect")
    found = {each["path"]: each for each in document["variables"]}
    assert set(found) == set(expected)
    assert set(statevar("ls", path, "--only", "*").lines) == set(expected)
    for name, array in expected.items():
        assert (found[name]["shape"], found[name]["dtype"]) == (list(array.shape), "float32")
        assert found[name]["nbytes"] == array.nbytes
        assert found[name]["statistics"]["mean"] == array.mean()
        shown = statevar("show", path, name, "--json").document("show")
        assert shown["value"] == array.tolist()
        assert shown["checked"] == (write in CHECKED)
    assert statevar("show", path, "kernel[-1]").out == "[0.75 1.   1.25]\n"
    assert {line.split()[0] for line in statevar("inspect", path).lines[1 : 1 + len(expected)]} == set(expected)
    verified = statevar("verify", path, "--json").document("verify")["files"]
    assert all(each["whole"] for each in verified)
    assert [len(each["unchecked"]) for each in verified] == [0 if write in CHECKED else len(expected)] * len(verified)


def test_the_steps_of_orbax_are_listed(statevar: Run, tmp_path: Path) -> None:
    path = orbax_manager(tmp_path)
    assert [line.split()[0] for line in statevar("ls", path).lines[1:3]] == ["9", "10"]
    assert statevar("inspect", path, "--json").document("inspect")["path"].endswith("/10")
    assert statevar("inspect", path, "--step", 9, "--json").document("inspect")["path"].endswith("/9")


def test_a_library_that_is_missing_is_named(statevar: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = h5(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    ran = statevar("inspect", path)
    assert (ran.status, ran.err) == (
        2,
        f"statevar inspect: to read this file needs h5py, at '{path}'. Hint: pip install 'statevar[h5]'.\n",
    )


def test_the_prefix_of_a_checkpoint_of_tensorflow_is_a_path_for_every_command(run: Runner, tmp_path: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    prefix = tensorflow.train.Checkpoint(v=tensorflow.Variable([1.0])).save(str(tmp_path / "ck"))
    assert run("watch", prefix, "--rounds", 1).out.endswith("2 variables\n")
    ran = run("inspect", prefix, "--step", 1)
    assert (ran.status, ran.err) == (
        2,
        f"statevar inspect: {prefix} is not the folder of a manager, so it has no step 1\n",
    )
