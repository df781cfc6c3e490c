"""`save`: whatever a variable can hold comes back bit for bit, on any backend; and the files that it leaves."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.checkpoint import Progress
from statevar.errors import DTypeError, NameScopeError, StorageError, TraceError
from tests.helpers import address, array_of
from tests.internals import HOST, files, items_of, paths_in, writing

Array = np.ndarray[Any, Any]


def can_hold(backend: str, dtype: str) -> bool:
    try:
        sv.Variable(shape=(1,), dtype=dtype, backend=backend)
    except DTypeError:
        return False
    return True


def any_bits(dtype: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Infinities, NaNs with a payload and -0.0 are among them."""
    rng = np.random.default_rng(seed)
    if dtype == "string":
        texts = ["", "a", "é" * 20, "\U0001f600", "a\0b", " "]
        return np.array(rng.choice(texts, shape), HOST["string"])
    if dtype in ("int4", "uint4"):
        return (
            rng.integers(-8 if dtype == "int4" else 0, 8 if dtype == "int4" else 16, shape)
            .astype("int8")
            .astype(HOST[dtype])
        )
    raw = np.frombuffer(rng.bytes(math.prod(shape) * HOST[dtype].itemsize), np.uint8)
    return (raw % 2 if dtype == "bool" else raw).view(HOST[dtype]).reshape(shape)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_same_bits(got: Any, expected: Any) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    if got.dtype == HOST["string"]:
        assert got.tolist() == expected.tolist()
    else:
        assert got.tobytes() == expected.tobytes()


#: From an array to another that lies otherwise in memory.
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "plain": lambda array: array,
    "transposed": lambda array: array.T,
    "Fortran": np.asfortranarray,
    "strided": lambda array: array[::2],
    "backwards": lambda array: array[::-1],
    "offset": lambda array: array[1:],
    "broadcast": lambda array: np.broadcast_to(array, (2, *array.shape)),
    "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
}
shapes = st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that is to be had: a test of bits need not wait for a disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        yield Path(name)


# -- values -------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(HOST)), shapes, st.sampled_from(sorted(LAYOUTS)), st.integers(0, 2**32))
@settings(max_examples=150)
def test_any_array_comes_back_bit_for_bit(folder: Path, dtype: str, shape: Any, layout: str, seed: int) -> None:
    array = (
        LAYOUTS[layout](any_bits(dtype, shape, seed))
        if dtype != "string" or layout != "big-endian"
        else any_bits(dtype, shape)
    )
    v = sv.Variable(array, dtype=dtype)
    sv.save({"v": v}, folder / "a")
    with sv.load(folder / "a") as checkpoint:
        assert_same_bits(checkpoint["v"], v.numpy())
        assert checkpoint.variables["v"].dtype == dtype
    w = sv.Variable(shape=v.shape, dtype=dtype)
    sv.load({"v": w}, folder / "a")
    assert_same_bits(w.numpy(), v.numpy())
    assert (w.dtype_name, w.shape, w.version) == (dtype, v.shape, 1)


def of_every_dtype(backend: str, dtypes: Iterable[str]) -> dict[str, dict[str, sv.Variable]]:
    shapes = {"plain": (3, 4), "empty": (0, 2), "scalar": (), "deep": (1, 1, 5)}
    return {
        name: {kind: sv.Variable(any_bits(name, shape), dtype=name, backend=backend) for kind, shape in shapes.items()}
        for name in dtypes
    }


def test_every_dtype_goes_from_every_backend_to_every_other(backend: str, backends: list[str], folder: Path) -> None:
    held = {each: [name for name in HOST if can_hold(each, name)] for each in backends}
    sv.save(of_every_dtype(backend, held[backend]), folder / "a")
    with sv.load(folder / "a") as checkpoint:
        assert {saved.backend for saved in checkpoint.variables.values()} == {backend}
    for other in backends:
        both = [name for name in held[backend] if name in held[other]]
        assert {"float32", "int32", "bool"} <= set(both)
        target = of_every_dtype(other, both)
        for v in sv.variables(target):
            v.assign(np.zeros(v.shape, HOST[v.dtype_name]))
        report = sv.load(target, folder / "a", only=[f"{name}/*" for name in both])
        assert len(report.loaded) == 4 * len(both)
        for path, v in sv.named_variables(target).items():
            assert_same_bits(v.numpy(), any_bits(path.partition("/")[0], v.shape))
            assert v.backend == other


def test_a_dtype_that_a_backend_has_not_is_cast(backend: str, folder: Path) -> None:
    wide = sv.Variable(np.array([1.5, -2.0], "float64"), dtype="float64")
    sv.save({"v": wide}, folder / "a")
    v = sv.Variable([0.0, 0.0], dtype="float32", backend=backend)
    with pytest.raises(sv.errors.CheckpointMismatchError, match=r"v: expected float32, got float64; pass cast=True"):
        sv.load({"v": v}, folder / "a")
    sv.load({"v": v}, folder / "a", cast=True)
    assert v.numpy().tolist() == [1.5, -2.0]


def test_what_the_writes_have_made_is_saved(backend: str, folder: Path) -> None:
    """And not what the variable was made of."""
    v = sv.Variable(np.zeros((2, 3), "float32"), backend=backend)
    v[0, 1:] = [1.0, 2.0]
    v.assign_add(1.0)
    held = sv.snapshot(v)
    sv.save({"v": v}, folder / "a")
    v.assign_sub(5.0)
    with sv.load(folder / "a") as checkpoint:
        assert checkpoint["v"].tolist() == [[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]
    assert np.asarray(held[v]).tolist() == [[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]


def test_a_library_s_own_strides_are_saved_in_order(backend: str, folder: Path) -> None:
    array = np.arange(6, dtype="float32").reshape(2, 3)
    given = array_of(backend, array)
    turned = __import__("tensorflow").transpose(given) if backend == "tensorflow" else given.T
    v = sv.Variable(turned)
    assert v.backend == backend
    sv.save({"v": v}, folder / "a")
    with sv.load(folder / "a") as checkpoint:
        assert checkpoint["v"].tolist() == array.T.tolist()


def test_saving_changes_nothing(backend: str, folder: Path) -> None:
    told: list[Any] = []
    v = sv.Variable([1.0, 2.0], backend=backend)
    v.subscribe(lambda *each: told.append(each))
    sv.save({"v": v}, folder / "a")
    assert (v.version, v.numpy().tolist(), told) == (0, [1.0, 2.0], [])


def test_a_tensor_that_needs_a_gradient_is_saved(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable(torch.nn.Parameter(torch.ones(2)))
    with sv.transaction(v):
        v.assign(v * 2.0)
        sv.save({"v": v}, folder / "a")
    with sv.load(folder / "a") as checkpoint:
        assert checkpoint["v"].tolist() == [2.0, 2.0]


# -- what else is known of a variable -----------------------------------------------------------------------

DECLARED: list[Any] = [(2, 3), (None, 3), (2, None), (None, None), ...]


@pytest.mark.parametrize("declared", DECLARED, ids=str)
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_flags_and_declared_shapes_are_kept(declared: Any, trainable: bool, autocast: bool, folder: Path) -> None:
    options: dict[str, Any] = {"trainable": trainable, "autocast": autocast}
    for aggregation in ("none", "mean", "sum", "only_first_replica"):
        v = sv.Variable(np.ones((2, 3), "float32"), shape=declared, aggregation=aggregation, **options)
        u = sv.Variable(shape=declared, dtype="bfloat16", aggregation=aggregation, **options)
        sv.save({"v": v, "u": u}, folder / "a")
        with sv.load(folder / "a") as checkpoint:
            for name, each in (("v", v), ("u", u)):
                saved = checkpoint.variables[name]
                assert saved.declared == each.declared_shape == declared
                assert (saved.trainable, saved.autocast) == (each.trainable, each.autocast)
                assert (saved.aggregation, saved.dtype) == (aggregation, each.dtype_name)
            assert checkpoint.variables["v"].shape == (2, 3)
            assert checkpoint.variables["u"].shape is None


def test_a_variable_of_which_everything_is_the_default_is_saved(backend: str, folder: Path) -> None:
    """It has no tensor, no axes and no option: what is recorded of it would have been nothing."""
    v = sv.Variable(shape=(), dtype="float32", backend=backend)
    sv.save({"a": v, "b": v}, folder / "model")
    with sv.load(folder / "model") as saved:
        assert saved.variables["a"].shape is None
        assert saved.aliases == {"b": "a"}
    w = sv.Variable(1.0, backend=backend)
    assert sv.load({"a": w}, folder / "model", only="a").loaded == ["a"]
    assert not w.is_initialized


def test_a_variable_without_a_value_is_saved_without_one(backend: str, folder: Path) -> None:
    u = sv.Variable(shape=(2,), dtype="float32", backend=backend)
    v = sv.Variable(1.0, backend=backend)
    sv.save({"u": u, "v": v}, folder / "a")
    with sv.load(folder / "a") as checkpoint:
        assert (list(checkpoint), len(checkpoint), list(checkpoint.variables)) == (["v"], 1, ["v", "u"])
        with pytest.raises(KeyError):
            checkpoint["u"]
    filled = sv.Variable([1.0, 2.0], backend=backend)
    assert sv.load({"u": filled, "v": v}, folder / "a").loaded == ["u", "v"]
    assert not filled.is_initialized
    filled.assign([3.0, 4.0])
    assert filled.numpy().tolist() == [3.0, 4.0]


def test_a_file_without_a_single_value_is_whole(folder: Path) -> None:
    sv.save({"u": sv.Variable(shape=(2,), dtype="float32")}, folder / "a")
    sv.save([], folder / "b")
    assert sv.verify(folder / "a")
    assert list(sv.load(folder / "a").variables) == ["u"]
    assert list(sv.load(folder / "b").variables) == []
    assert sv.load([], folder / "b").loaded == []


# -- names ---------------------------------------------------------------------------------------------------

keys = st.one_of(
    st.integers(-3, 3),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6),
    st.sampled_from(
        [
            "a/b",
            "~",
            "~1",
            "/",
            "__metadata__x",
            'q"uote',
            "back\\slash",
            "é",
            "e\u0301",
            "\u2028",
            "statevar.header",
            " ",
            ".",
        ]
    ),
)


@given(
    st.dictionaries(
        keys.filter(lambda key: key != "__metadata__"),
        st.dictionaries(keys, st.floats(width=32), min_size=1, max_size=3),
        min_size=1,
        max_size=3,
    )
)
def test_any_keys_come_back(folder: Path, values: dict[Any, dict[Any, float]]) -> None:
    model = {key: {each: sv.Variable(value) for each, value in inside.items()} for key, inside in values.items()}
    empty = {key: {each: sv.Variable(7.0) for each in inside} for key, inside in values.items()}
    try:
        paths = sv.named_variables(model)
    except NameScopeError:
        return  # two keys that are written alike: 1 and "1"
    sv.save(model, folder / "a")
    sv.load(empty, folder / "a")
    for key, inside in values.items():
        for each, value in inside.items():
            assert_same_bits(empty[key][each].numpy(), np.array(value, "float32"))
    with sv.load(folder / "a") as checkpoint:
        assert set(checkpoint) == set(paths)


def test_a_variable_alone_has_its_own_path(folder: Path) -> None:
    with sv.name_scope("encoder"):
        v = sv.Variable([1.0], name="bias")
    sv.save(v, folder / "a")
    with sv.load(folder / "a") as checkpoint:
        assert list(checkpoint) == ["encoder/bias"]
    w = {"encoder": {"bias": sv.Variable([0.0])}}
    sv.load(w, folder / "a")
    assert w["encoder"]["bias"].numpy().tolist() == [1.0]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"": 0}, "a key is empty, or contains NUL or half a surrogate pair: ''"),
        ({"a\0b": 0}, "a key is empty, or contains NUL"),
        ({"\ud800": 0}, "half a surrogate pair"),
        ({1.5: 0}, "expected a string or an integer as key, got 1.5"),
        ({1: 0, "1": 0}, "two keys are both written '1' in a path"),
        ({"__metadata__": 0}, "the file format reserves this name"),
    ],
    ids=["empty", "NUL", "surrogate", "float", "twice", "metadata"],
)
def test_a_name_that_no_file_can_hold_is_refused(model: dict[Any, Any], message: str, folder: Path) -> None:
    sv.save([], folder / "a")
    before = (folder / "a").read_bytes()
    with pytest.raises(NameScopeError, match=f"^save: .*{re.escape(message)}"):
        sv.save({key: sv.Variable(1.0) for key in model}, folder / "a")
    assert (folder / "a").read_bytes() == before
    assert names_in(folder) == ["a"]


def test_the_own_name_of_a_variable_may_be_no_name_for_a_file(folder: Path) -> None:
    with pytest.raises(NameScopeError, match="^save: the path is empty, or contains NUL"):
        sv.save(sv.Variable(1.0, name="a\0b"), folder / "a")
    assert not names_in(folder)


def test_what_is_shared_is_saved_once(folder: Path) -> None:
    layer = {"kernel": sv.Variable(np.ones(1000, "float32")), "bias": sv.Variable([2.0])}
    model = {"first": layer, "again": layer, "last": layer["bias"], "list": [layer["kernel"]]}
    sv.save(model, folder / "a")
    assert (folder / "a").stat().st_size < 2 * 4000
    with sv.load(folder / "a") as checkpoint:
        assert list(checkpoint) == ["first/kernel", "first/bias"]
        assert {"last", "list/0"} <= checkpoint.aliases.keys()
        for path in ("again/bias", "last", "first/bias"):
            assert checkpoint[path].tolist() == [2.0]
        assert checkpoint["list/0"].shape == (1000,)


def test_a_model_of_many_paths_is_saved(folder: Path) -> None:
    """40 lists that each hold the next one twice: 2**40 paths."""
    model: list[Any] = [sv.Variable(3.0)]
    for _ in range(40):
        model = [model, model]
    sv.save(model, folder / "a")
    with sv.load(folder / "a") as checkpoint:
        assert checkpoint["/".join(["1"] * 40 + ["0"])].item() == 3.0
    assert len(sv.load(model, folder / "a").loaded) == 1


def test_a_cycle_is_saved(folder: Path) -> None:
    model: dict[str, Any] = {"v": sv.Variable(3.0)}
    model["self"] = model
    sv.save(model, folder / "a")
    with sv.load(folder / "a") as checkpoint:
        assert checkpoint["self/self/v"].item() == 3.0
    model["v"].assign(0.0)
    sv.load(model, folder / "a")
    assert model["v"].numpy() == 3.0


# -- files -----------------------------------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
def test_the_mode_is_what_the_umask_leaves(mask: int, tmp_path: Path) -> None:
    with umask(mask):
        sv.save({"v": sv.Variable(1.0)}, tmp_path / "a")
        sv.save({"v": sv.Variable(1.0), "w": sv.Variable(2.0)}, tmp_path / "b", max_shard_size=4)
    assert len(names_in(tmp_path)) == 4
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")  # which is not there yet
    (tmp_path / "chain").symlink_to(tmp_path / "link")
    for name, value in (("link", 1.0), ("chain", 2.0)):
        sv.save({"v": sv.Variable(value)}, tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert names_in(tmp_path / "real") == ["a"]
        assert sv.load(tmp_path / "real" / "a")["v"] == value
        assert sv.load(tmp_path / name)["v"] == value


def test_shards_lie_beside_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    model = [sv.Variable(1.0), sv.Variable(2.0)]
    sv.save(model, tmp_path / "link", max_shard_size=4)
    assert names_in(tmp_path) == ["link", "real"]
    assert len(names_in(tmp_path / "real")) == 3
    assert sv.load(tmp_path / "real" / "a")["1"] == 2.0
    assert sv.load(model, tmp_path / "link").loaded == ["0", "1"]


def test_a_folder_is_no_path_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(
        StorageError,
        match=re.escape(f"save: the path is a folder, at '{tmp_path}'. Hint: pass the path of a file in it."),
    ):
        sv.save({"v": sv.Variable(1.0)}, tmp_path)
    assert not names_in(tmp_path)


def test_a_path_without_its_folder_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a"
    message = f"save: the system said No such file or directory, at '{path}'."
    with pytest.raises(StorageError, match=re.escape(message)) as caught:
        sv.save({"v": sv.Variable(1.0)}, path)
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.errno == 2
    assert str(path) == caught.value.filename
    assert not names_in(tmp_path)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 100, "with space", "-dash", ".hidden", "a.b.c", "ü(1)[2]*?"])
def test_any_file_name_will_do(name: str, tmp_path: Path) -> None:
    model = [sv.Variable(1.0), sv.Variable(2.0)]
    for options in ({}, {"max_shard_size": 4}, {}):
        sv.save(model, tmp_path / name, **options)  # type: ignore[arg-type]  # a dict has one type of values
        assert sv.load(tmp_path / name)["1"] == 2.0
        assert len(names_in(tmp_path)) == (3 if options else 1), "what was there before is removed"


@pytest.mark.skipif(sys.platform != "linux", reason="this system has texts as names of files")
@pytest.mark.parametrize("limit", [None, 4])
def test_a_file_name_that_is_no_text_will_do(limit: int | None, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff")
    model = [sv.Variable(1.0), sv.Variable(2.0)]
    sv.save(model, path, max_shard_size=limit)
    assert sv.load(model, path).loaded == ["0", "1"]


def test_a_path_may_be_a_text_or_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sv.save([sv.Variable(1.0)], "a")
    sv.save([sv.Variable(1.0), sv.Variable(2.0)], "./b", max_shard_size=4)
    assert sv.load("a")["0"] == sv.load("b")["0"] == 1.0


def test_an_older_save_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the new name is there, the old file is."""
    path = tmp_path / "a"
    sv.save({"v": sv.Variable(1.0)}, path)
    rename = files.rename
    seen = []

    def looks(source: Path, target: Path) -> None:
        seen.append(float(sv.load(path)["v"]))
        rename(source, target)
        seen.append(float(sv.load(path)["v"]))

    monkeypatch.setattr(files, "rename", looks)
    sv.save({"v": sv.Variable(2.0)}, path)
    assert seen == [1.0, 2.0]


# -- several files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [400, 1000, "1kB", "0.4 KB", 399, 1])
def test_the_size_of_files_is_bounded(limit: int | str, tmp_path: Path) -> None:
    model = {f"v{i}": sv.Variable(np.full(100, i, "float32")) for i in range(5)}
    sv.save(model, tmp_path / "a", max_shard_size=limit)
    number = {400: 400, 1000: 1000, "1kB": 1000, "0.4 KB": 400, 399: 399, 1: 1}[limit]
    index = json.loads((tmp_path / "a").read_text())
    assert index["metadata"]["total_size"] >= 5 * 400
    by_file: dict[str, list[str]] = {}
    for name, file in index["weight_map"].items():
        by_file.setdefault(file, []).append(name)
    assert set(by_file) == {each.name for each in tmp_path.iterdir()} - {"a"}
    count = math.ceil(5 / max(number // 400, 1))
    assert len(by_file) == count
    assert all(len(names) <= max(number // 400, 1) for names in by_file.values())
    for i, name in enumerate(sorted(by_file, key=lambda name: name.partition("-")[2]), 1):
        assert re.fullmatch(rf"a\.[0-9a-f]{{8}}-{i:05d}-of-{count:05d}\.safetensors", name)
    loaded = {f"v{i}": sv.Variable(shape=(100,), dtype="float32") for i in range(5)}
    sv.load(loaded, tmp_path / "a")
    assert all((loaded[f"v{i}"].numpy() == i).all() for i in range(5))


def test_what_fits_goes_to_one_file(tmp_path: Path) -> None:
    sv.save({"v": sv.Variable(np.ones(100, "float32"))}, tmp_path / "a", max_shard_size=400)
    assert names_in(tmp_path) == ["a"]
    assert not (tmp_path / "a").read_bytes().startswith(b"{")


def test_several_files_keep_all_that_one_does(tmp_path: Path) -> None:
    layer = [sv.Variable([1.0, 2.0]), sv.Variable(["a", "bc"], dtype="string")]
    model = {
        "x": layer,
        "y": layer,
        "u": sv.Variable(shape=(None,), dtype="int8"),
        "z": sv.Variable(1j, trainable=False),
    }
    sv.save(model, tmp_path / "a", max_shard_size=1, metadata={"a": [1.5, None, "é"]})
    sv.save(model, tmp_path / "b", metadata={"a": [1.5, None, "é"]})
    with sv.load(tmp_path / "a") as several, sv.load(tmp_path / "b") as one:
        assert dict(several.variables) == dict(one.variables)
        assert (several.aliases, several.metadata) == (one.aliases, one.metadata)
        assert {name: several[name].tolist() for name in several} == {name: one[name].tolist() for name in one}


@pytest.mark.parametrize("size", [0, -1, True, "", "0", "big", "-5MB", "5 XB", 1.5, None.__class__, "1e3"])
def test_a_size_that_is_none_is_refused(size: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^save: expected a number of bytes or a string such as '5GB', got"):
        sv.save({"v": sv.Variable(1.0)}, tmp_path / "a", max_shard_size=size)
    assert not names_in(tmp_path)


# -- metadata ------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inside, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), json_values, max_size=4))
def test_any_metadata_comes_back(folder: Path, metadata: dict[str, Any]) -> None:
    sv.save({"v": sv.Variable(1.0)}, folder / "a", metadata=metadata)
    with sv.load(folder / "a") as checkpoint:
        assert dict(checkpoint.metadata) == metadata
        assert json.dumps(dict(checkpoint.metadata)) == json.dumps(metadata)


BAD_METADATA: dict[str, Any] = {
    "NaN": {"a": math.nan},
    "infinite": {"a": [math.inf]},
    "an object": {"a": object()},
    "bytes": {"a": b""},
    "a tuple": {"a": (1, 2)},
    "a number as key": {1: 2},
    "None as key": {None: 1},
    "a key twice": {1: 1, "1": 2},
    "a key twice inside": {"a": {1: 1, "1": 2}},
    "half a surrogate pair": {"a": "\ud800"},
    "402 digits": {"a": 10**401},
    "no mapping": [1],
}
BAD_METADATA["itself"] = {"a": BAD_METADATA}
BAD_METADATA["a"] = BAD_METADATA


@pytest.mark.parametrize("kind", [each for each in BAD_METADATA if each != "a"])
def test_metadata_that_would_not_come_back_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match="^save: (the metadata cannot be stored as JSON|expected metadata to be a mapping, got list)"
    ):
        sv.save({"v": sv.Variable(1.0)}, tmp_path / "a", metadata=BAD_METADATA[kind])
    assert not names_in(tmp_path)


def test_the_reserved_names_are_free_in_metadata(tmp_path: Path) -> None:
    metadata = {"statevar.header": "0" * 32, "__metadata__": {"format": "2"}, '"statevar.header":"': "x"}
    sv.save({"v": sv.Variable(1.0)}, tmp_path / "a", metadata=metadata)
    assert dict(sv.load(tmp_path / "a").metadata) == metadata


# -- progress --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 10_000_000])
def test_progress_grows_to_the_whole(limit: int | None, tmp_path: Path) -> None:
    model = {
        "large": sv.Variable(np.zeros(5_000_000, "float32")),
        "many": [sv.Variable(float(i)) for i in range(600)],
        "words": sv.Variable(["é", "abc"], dtype="string"),
        "wave": sv.Variable([1j], dtype="complex64"),
        "small": sv.Variable([1], dtype="int4"),
        "empty": sv.Variable(np.zeros((0,), "float32")),
        "unset": sv.Variable(shape=(2,), dtype="float32"),
    }
    steps: list[Progress] = []
    sv.save(model, tmp_path / "a", progress=steps.append, max_shard_size=limit)
    assert len(steps) > 2
    assert [each.done for each in steps] == sorted({each.done for each in steps})
    assert {each.total for each in steps} == {20_000_000 + 2400 + 21 + 8 + 1}
    assert steps[-1].done == steps[-1].total
    seconds = [each.seconds for each in steps]
    assert seconds == sorted(seconds)
    assert steps[-1].rate == steps[-1].done / steps[-1].seconds


def test_an_error_of_progress_leaves_what_was_there(tmp_path: Path) -> None:
    v = sv.Variable([1.0])
    sv.save({"v": v}, tmp_path / "a")
    v.assign([2.0])
    for limit in (None, 1):
        with pytest.raises(ZeroDivisionError):
            sv.save([v, sv.Variable(0.0)], tmp_path / "a", progress=lambda _: 1 / 0, max_shard_size=limit)
    assert names_in(tmp_path) == ["a"]
    assert sv.load(tmp_path / "a")["v"].tolist() == [1.0]


# -- memory ------------------------------------------------------------------------------------------------------------

PEAK = """
import sys
import numpy as np
import statevar as sv

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

v = sv.Variable(np.ones(50_000_000, "float32"))
sv.save([sv.Variable(1.0)], sys.argv[1])
sv.load([sv.Variable(0.0)], sys.argv[1])
before = peak()
sv.save([v], sys.argv[1])
saved = peak()
sv.load([v], sys.argv[1])
print(saved - before, peak() - saved)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="this system does not tell a process's peak of memory")
def test_a_save_makes_no_second_copy(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(folder / "a")], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    extra, more = map(int, done.stdout.split())
    assert extra < 64_000_000, f"{extra / 1e6:.0f} MB beside a variable of 200 MB"
    assert more < 264_000_000, "a load holds the new value beside the old one, and nothing more"


def test_what_is_on_the_disk_is_held_no_longer(folder: Path) -> None:
    """So that a write to it meanwhile copies nothing."""
    first, _, second = model = [sv.Variable(np.zeros(16 << 18, "float32")) for _ in range(3)]
    before = address(first), address(second)
    seen: list[tuple[bool, bool]] = []

    def writes(progress: Progress) -> None:
        if progress.done > 32 << 20 and not seen:
            with np.errstate(all="ignore"):  # with warnings as errors, as here, no sum is made in place
                first.assign_add(1.0)
                second.assign_add(1.0)
            seen.append((address(first) == before[0], address(second) == before[1]))

    sv.save(model, folder / "a", progress=writes)
    assert seen == [(True, False)]
    with sv.load(folder / "a") as checkpoint:
        assert not checkpoint["0"].any()
        assert not checkpoint["2"].any()


def test_what_is_written_is_the_memory_of_the_variable(backend: str) -> None:
    """Also where another library holds it."""
    v = sv.Variable(np.ones((50, 40), "float32"), backend=backend)
    found = paths_in("save", {"v": v})
    (item,) = items_of(found, sv.snapshot(v))
    assert item.tensor().ctypes.data == address(v)


# -- inside other things ------------------------------------------------------------------------------------


def test_a_transaction_saves_its_drafts(backend: str, folder: Path) -> None:
    v, w = sv.Variable([1.0], backend=backend), sv.Variable([1.0], backend=backend)
    with pytest.raises(ZeroDivisionError), sv.transaction(v):
        v.assign([5.0])
        w.assign([6.0])
        sv.save({"v": v, "w": w}, folder / "a")
        raise ZeroDivisionError
    assert (v.numpy().tolist(), w.numpy().tolist()) == ([1.0], [1.0])
    with sv.load(folder / "a") as checkpoint:
        assert (checkpoint["v"].tolist(), checkpoint["w"].tolist()) == ([5.0], [6.0])


@pytest.mark.parametrize("backend_", ["jax", "torch", "tensorflow"])
def test_a_traced_value_is_not_saved(folder: Path, backend_: str) -> None:
    pytest.importorskip(backend_)
    v = sv.Variable([1.0, 2.0], backend=backend_)

    @sv.jit
    def step() -> Any:
        v.assign_add(1.0)
        sv.save({"v": v}, folder / "a")
        return v.value

    with pytest.raises(
        TraceError, match="^save: a traced value cannot be saved, at 'v'. Hint: save outside the function."
    ):
        step()
    assert not names_in(folder)
    assert v.numpy().tolist() == [1.0, 2.0]
    sv.save({"v": v}, folder / "a")


def test_what_holds_no_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="^save: found no variable in int"):
        sv.save(3, tmp_path / "a")
    assert not names_in(tmp_path)


@pytest.mark.parametrize("shards", [None, 40])
def test_a_folder_that_somebody_has_locked_is_saved_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int | None
) -> None:
    """As ``flock FOLDER python train.py`` does: that lock is held until we end."""
    monkeypatch.setattr(writing, "_PATIENCE", 0.05)
    state = {f"v{i}": sv.Variable(np.full(10, i, "float32")) for i in range(3)}
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        for _ in range(2):
            sv.save(state, tmp_path / "state", max_shard_size=shards)
    finally:
        os.close(folder)
    assert sv.load(tmp_path / "state").keys() == state.keys()
    sv.save(state, tmp_path / "state", max_shard_size=shards)  # what the others had to leave is swept now
    assert len(list(tmp_path.iterdir())) == (1 if shards is None else 4)


@pytest.mark.parametrize("limits", [(None, None, None), (2000, 2000, 2000), (None, 2000, 4000)], ids=str)
def test_threads_that_save_to_one_path_leave_one_whole_save(folder: Path, limits: tuple[int | None, ...]) -> None:
    """Each save is whole; the last one stays, and nothing of the others."""
    path = folder / "a"

    def saves(value: int, limit: int | None) -> None:
        model = [sv.Variable(np.full(500, value, "float32")) for _ in range(4)]
        for _ in range(15):
            sv.save(model, path, max_shard_size=limit)
            with sv.load(path) as checkpoint:
                assert len({x for name in checkpoint for x in checkpoint[name].tolist()}) == 1

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(saves, value, limit) for value, limit in enumerate(limits)]:
            done.result()
    index = path.read_bytes()
    kept = set(json.loads(index)["weight_map"].values()) if index.startswith(b"{") else set()
    assert set(names_in(folder)) == {"a"} | kept


def test_one_save_is_one_cut(folder: Path) -> None:
    """While another thread moves one from here to there."""
    v, w = sv.Variable(np.full(1000, 0.0)), sv.Variable(np.full(1000, 100.0))
    stop = threading.Event()

    def moves() -> None:
        while not stop.is_set():
            with sv.transaction(v, w):
                v.assign_add(1.0)
                w.assign_sub(1.0)

    thread = threading.Thread(target=moves)
    thread.start()
    try:
        for _ in range(30):
            sv.save([v, w], folder / "a")
            with sv.load(folder / "a") as checkpoint:
                assert (checkpoint["0"] + checkpoint["1"] == 100.0).all()
                assert (checkpoint["0"] == checkpoint["0"][0]).all()
    finally:
        stop.set()
        thread.join()
    assert v.version > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_snapshot_whose_shape_was_changed_in_place_is_not_saved(tmp_path: Path) -> None:
    """NumPy cannot forbid it. The file would have had a shape that the variable never had."""
    v = sv.Variable(np.ones(2, "float32"), name="v")
    v.value.shape = (2, 1)
    with pytest.raises(
        sv.errors.ShapeError,
        match=r"^save: code outside has changed the shape of the variable's snapshot to \(2, 1\), in place, and the "
        r"declared shape is \(2,\), at 'v'. Hint: set it back, as in v.value.shape = \(2,\), and use v.value.reshape",
    ):
        sv.save({"v": v}, tmp_path / "v.safetensors")
    assert v.shape == (2,)
    v.value.shape = (2,)
    sv.save({"v": v}, tmp_path / "v.safetensors")
