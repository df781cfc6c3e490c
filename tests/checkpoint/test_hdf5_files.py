"""HDF5 files and models of Keras, read without Keras: by its names where they are exact, and equal to what it has."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import CheckpointError
from tests.helpers import ROOT

h5py = pytest.importorskip("h5py")

LIBRARIES = {"keras": "torch", "tf_keras": "tensorflow"}


@pytest.fixture(scope="module", params=LIBRARIES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of one library. A process has one backend of Keras, so another one writes them."""
    library, backend = request.param, LIBRARIES[request.param]
    for each in (library, backend):
        pytest.importorskip(each)
    folder = tmp_path_factory.mktemp(library)
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.checkpoint.keras_writer", str(folder), library],
        capture_output=True, text=True, timeout=200, check=False, env=environment, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def expected(folder: Path, name: str = "trained") -> dict[str, Any]:
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


def test_a_model_of_keras_has_the_names_of_its_layers_and_variables(written: Path) -> None:
    wanted = expected(written)
    with sv.load(written / "trained.keras") as saved:
        assert {name for name in saved if not name.startswith(("optimizer/", "metrics/"))} == set(wanted)
        for name, array in wanted.items():
            assert saved[name].dtype == array.dtype
            assert np.array_equal(saved[name], array)
        assert np.array_equal(saved["layers/dense/vars/0"], wanted["first/kernel"])  # the path in the file stays a name
        assert saved.metadata["config"]["config"]["name"] == "net"
        assert saved.metadata["keras_version"]


def test_weights_have_the_names_of_layers_if_keras_has_written_them(written: Path) -> None:
    """Only a model has the classes of its layers, which tell the names of the variables."""
    wanted = expected(written)
    with sv.load(written / "trained.weights.h5") as saved:
        assert np.array_equal(saved["layers/dense/vars/0"], wanted["first/kernel"])
        named = "first/vars/0" in saved
        assert named == ("layers/dense" in saved.aliases)
        if named:
            assert np.array_equal(saved["encoder/inside/vars/1"], wanted["encoder/inside/bias"])


def test_a_file_with_lists_of_names_has_the_names_of_its_variables(written: Path) -> None:
    wanted = expected(written)
    with sv.load(written / "trained.h5") as saved:
        arrays = {name: saved[name] for name in saved if not name.startswith("optimizer_weights/")}
        assert np.array_equal(arrays["first/kernel"], wanted["first/kernel"])
        assert np.array_equal(arrays["norm/moving_variance"], wanted["norm/moving_variance"])
        assert np.array_equal(arrays["encoder/inside/kernel"], wanted["encoder/inside/kernel"])
        assert sorted(x.tobytes() for x in arrays.values()) == sorted(x.tobytes() for x in wanted.values())
        assert "model_config" in saved.metadata


def test_bfloat16_of_keras(written: Path) -> None:
    if not (written / "half.keras").exists():
        pytest.skip("Keras 2 does not write it")
    with sv.load(written / "half.keras") as saved:
        for name, array in expected(written, "half").items():
            assert saved.variables[name].dtype == "bfloat16"
            assert np.array_equal(saved[name].astype("float32"), array)


def test_weights_of_keras_are_loaded_into_variables(written: Path) -> None:
    wanted = expected(written)
    model = {"first": {"kernel": sv.Variable(np.zeros_like(wanted["first/kernel"]))}}
    sv.load(model, written / "trained.keras", only="first/kernel", strict=False)
    assert np.array_equal(model["first"]["kernel"].numpy(), wanted["first/kernel"])


# -- any HDF5 file ---------------------------------------------------------------------------------------

ARRAYS: dict[str, Any] = {
    **{
        name: np.arange(6).reshape(2, 3).astype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint64")
    },
    **{
        name: np.linspace(-1, 1, 5).astype(name)
        for name in ("float16", "float32", "float64", "complex64", "complex128")
    },
    "bool": np.array([True, False]),
    "big-endian": np.arange(4, dtype=">f8"),
    "scalar": np.float32(3),
    "empty": np.zeros((0, 3), "float32"),
}


def every_kind(file: Any) -> None:
    for name, array in ARRAYS.items():
        file.create_dataset(f"plain/{name}", data=array)
        if np.ndim(array) and np.size(array):
            file.create_dataset(f"chunked/{name}", data=array, chunks=True, shuffle=True)
            file.create_dataset(f"zipped/{name}", data=array, compression="gzip")
            file.create_dataset(f"lzf/{name}", data=array, compression="lzf", fletcher32=True)
    file.create_dataset("words", data=["é", ""])
    file.create_dataset("bytes", data=np.array([b"ab", b"c"]))
    file["same"] = file["plain"]
    file["link"] = h5py.SoftLink("soft")
    file["soft"] = h5py.SoftLink("/same/int8")
    file["plain/soft"] = h5py.SoftLink("int16")
    file["plain/parent"] = file["/"]
    file.attrs["step"] = 3
    file.attrs["name"] = "run"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "x.h5"
    with h5py.File(path, "w") as file:
        every_kind(file)
    return path


def test_every_dtype_and_layout_is_what_h5py_reads(plain: Path) -> None:
    with sv.load(plain) as saved:
        for name in saved:
            if name in ("words", "bytes"):
                continue
            wanted = np.asarray(ARRAYS[name.partition("/")[2]])
            assert (saved[name].shape, saved[name].dtype) == (wanted.shape, wanted.dtype.newbyteorder("="))
            assert np.array_equal(saved[name], wanted), name
        assert saved["words"].tolist() == ["é", ""]
        assert saved["bytes"].tolist() == ["ab", "c"]
        assert (
            saved["same/int8"].tolist()
            == saved["link"].tolist()
            == saved["soft"].tolist()
            == saved["plain/int8"].tolist()
        )
        assert saved["plain/soft"].tolist() == saved["plain/int16"].tolist()
        assert dict(saved.metadata) == {"step": 3, "name": "run"}
        assert len(saved) == len([*saved])
    with sv.load(plain, mmap=True) as saved:
        assert saved["plain/float32"].tolist() == ARRAYS["float32"].tolist()
    assert sv.verify(plain)


def test_several_threads_read_compressed_arrays(plain: Path) -> None:
    with sv.load(plain) as saved:
        found = saved.arrays(list(saved))
    assert not [name for name, array in found.items() if isinstance(array, CheckpointError)]


UNREADABLE: dict[str, tuple[Callable[[Any], None], str]] = {
    "bytes without a dtype": (lambda file: file.create_dataset("x", data=np.zeros(2, "V2")), "bytes without a dtype"),
    "a structure": (lambda file: file.create_dataset("x", data=np.zeros(2, "i4,f4")), "cannot be a variable"),
    "a reference": (lambda file: file.create_dataset("x", data=file.ref, dtype=h5py.ref_dtype), "cannot be a variable"),
    "nothing": (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "it has no value"),
    "never written": (lambda file: file.create_dataset("x", (3,), "f4"), "it was never written"),
    "a bomb": (lambda file: file.create_dataset("x", (2**40,), "f4", chunks=(1024,)), "has only 0 bytes in the file"),
    "a bomb of one chunk": (
        lambda file: file.create_dataset("x", (2**28,), "u1", chunks=(2**28,), compression="gzip"), "has only 0 bytes"
    ),
    "an external file": (
        lambda file: file.create_dataset("x", (4,), "u1", external=[("/etc/hostname", 0, 4)]), "in another file"
    ),
    "a virtual dataset": (lambda file: virtual(file), "in another file"),
    "scale and offset": (lambda file: file.create_dataset("x", data=np.arange(9), scaleoffset=0), "the filters"),
}  # fmt: skip


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (4,))
    file.create_virtual_dataset("x", layout)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_what_cannot_be_read_is_listed_and_refused(kind: str, tmp_path: Path) -> None:
    make, reason = UNREADABLE[kind]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        make(file)
        file["other"] = np.ones(2)
    with sv.load(tmp_path / "x.h5") as saved:
        assert list(saved) == ["other", "x"]
        assert saved["other"].tolist() == [1, 1]
        with pytest.raises(CheckpointError, match=reason):
            saved["x"]


def with_cycle(file: Any) -> None:
    file["x"] = h5py.SoftLink("/y")
    file["y"] = h5py.SoftLink("/x")


def deep(file: Any) -> None:
    for _ in range(200):
        file = file.create_group("g")


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "an external link": (lambda file: file.__setitem__("x", h5py.ExternalLink("/etc/passwd", "/")), "to another file"),
    "a link to nothing": (lambda file: file.__setitem__("x", h5py.SoftLink("/nothing")), "is not in the file"),
    "a link with dots": (lambda file: file.__setitem__("x", h5py.SoftLink("../../y")), "is not in the file"),
    "links in a circle": (with_cycle, "is not in the file"),
    "deep groups": (deep, "more than 100 levels deep"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused(kind: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[kind]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        make(file)
    with pytest.raises(CheckpointError, match=reason):
        sv.load(tmp_path / "x.h5")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "w.h5"
    with h5py.File(path, "w") as file:
        for i in range(3):
            group = file.create_group(f"layers/dense_{i}/vars")
            group.attrs["name"] = f"layer{i}"
            group["0"] = np.arange(6, dtype="float32")
        file.attrs["layer_names"] = ["a", "b"]
    return path.read_bytes()


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in members.items():
            made.writestr(name, content)


ARCHIVES: dict[str, tuple[dict[str, bytes], int, str]] = {
    "compressed weights": ({"model.weights.h5": bytes(100_000_000)}, zipfile.ZIP_DEFLATED, "is compressed"),
    "weights that are no HDF5": ({"model.weights.h5": bytes(100)}, zipfile.ZIP_STORED, "no HDF5 file"),
    "a name with dots": ({"../model.weights.h5": bytes(100)}, zipfile.ZIP_STORED, "has no model.weights.h5"),
    "a config of 100,000 levels": (
        {"config.json": b"[" * 100_000, "model.weights.h5": b""}, zipfile.ZIP_STORED, "invalid JSON"
    ),
    "a config that is a list": ({"config.json": b"[]", "model.weights.h5": b""}, zipfile.ZIP_STORED, "JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_hostile_model_is_refused(kind: str, tmp_path: Path) -> None:
    members, compression, reason = ARCHIVES[kind]
    archive(tmp_path / "x.keras", members, compression)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=reason):
            sv.load(tmp_path / "x.keras")
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "layers",
    [None, "x", {}, [None], [{}], [{"class_name": 1}],
     [{"class_name": "Dense"}], [{"class_name": "Dense", "config": 1}],
     [{"class_name": "Dense", "config": {"name": 7}}], [{"class_name": "Dense", "config": {"name": "other"}}] * 3],
)  # fmt: skip
def test_a_config_that_contradicts_the_weights_changes_no_name(layers: Any, weights: bytes, tmp_path: Path) -> None:
    config = json.dumps({"config": {"layers": layers}}).encode()
    content = weights.replace(b"layer_names", b"layer_namez")
    archive(tmp_path / "x.keras", {"config.json": config, "model.weights.h5": content})
    with sv.load(tmp_path / "x.keras") as saved:
        assert len(saved) == 3
        assert {"layer0", "layer1", "layer2"} >= {name.partition("/")[0] for name in saved} - {"layers"}
        assert saved["layers/dense_0/vars/0"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_heap_that_would_never_end_is_refused(weights: bytes, tmp_path: Path) -> None:
    """libhdf5 1.14 loops for ever where the free space at the end of a heap claims to have no bytes."""
    content = bytearray(weights)
    at = content.index(b"GCOL") + 16
    while number := int.from_bytes(content[at : at + 2], "little"):
        assert number < 100
        at += 16 + (int.from_bytes(content[at + 8 : at + 16], "little") + 7 & ~7)
    content[at + 8 : at + 16] = bytes(8)
    (tmp_path / "x.h5").write_bytes(content)
    begun = time.process_time()
    with sv.load(tmp_path / "x.h5") as saved:
        assert "layers/dense_0/vars/0" in saved  # the names in the heap are lost, the arrays are not
    assert time.process_time() - begun < 20


@settings(max_examples=200)
@given(st.randoms(use_true_random=False))
def test_a_mutated_file_is_refused_or_read(
    weights: bytes, tmp_path_factory: pytest.TempPathFactory, chance: random.Random
) -> None:
    content = bytearray(weights)
    for _ in range(chance.choice([1, 1, 3, 10])):
        at = chance.randrange(len(content))
        how = chance.randrange(4)
        if how == 0:
            content[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            content[at : at + 8] = chance.choice([bytes(8), b"\xff" * 8, (2**62).to_bytes(8, "little")])
        elif how == 2:
            source = chance.randrange(len(content))
            content[at : at + 32] = content[source : source + 32]
        else:
            del content[at : at + chance.randrange(64)]
    path = tmp_path_factory.getbasetemp() / "mutated.h5"
    path.write_bytes(content)
    try:
        with sv.load(path) as saved:
            for array in saved.arrays(list(saved)).values():
                assert isinstance(array, CheckpointError) or array.nbytes < 2**21
    except CheckpointError:
        pass


WITHOUT = """
import sys
for name in ("tensorflow", "keras", "tf_keras", "torch", "jax", *sys.argv[2:]):
    sys.modules[name] = None
import statevar as sv
with sv.load(sys.argv[1]) as saved:
    print(saved["plain/int8"].tolist())
"""


def test_it_is_read_where_keras_cannot_be_imported(plain: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(plain)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.stdout, done.returncode) == ("[[0, 1, 2], [3, 4, 5]]\n", 0), done.stderr


def test_without_h5py_the_error_has_the_command_that_installs_it(plain: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(plain), "h5py"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 1
    assert "BackendNotInstalledError: load: to read this file needs h5py" in done.stderr
    assert "pip install 'statevar[h5]'" in done.stderr
