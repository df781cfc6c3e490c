"""Checkpoints of orbax and Zarr stores: equal to what orbax restores and what was stored, without orbax and JAX."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import statevar as sv
from statevar.errors import BackendNotInstalledError, CheckpointError, StatevarError
from tests.checkpoint.others import edited, edits, is_refused, read_alone, same, summary, tried

tensorstore = pytest.importorskip("tensorstore")
ocp = pytest.importorskip("orbax.checkpoint")
pytest.importorskip("jax")

LAYOUTS = [(ocdbt, zarr3) for ocdbt in (True, False) for zarr3 in (True, False)]
DTYPES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "complex64", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
)


def dtype(name: str) -> Any:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def arrays() -> dict[str, Any]:
    """By path, the arrays of the tree."""
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    return {
        **{f"params/{name}": (rng.normal(size=(2, 3)) * 3).astype(dtype(name)) for name in DTYPES},
        "opt/0": jnp.arange(6.0).reshape(2, 3),
        "opt/1/mu": jnp.ones(3, jnp.bfloat16),
        "opt/1/count": jnp.int32(3),
        "zeros": np.zeros((4, 4)),
        "dot.ted~1slash": np.ones(2),
    }


def tree() -> dict[str, Any]:
    found = arrays()
    return {
        "params": {name: found[f"params/{name}"] for name in DTYPES},
        "opt": [found["opt/0"], {"mu": found["opt/1/mu"], "count": found["opt/1/count"]}, {}],
        "zeros": found["zeros"],
        "dot.ted/slash": found["dot.ted~1slash"],
        "step": 7,
        "rate": 0.5,
        "yes": True,
        "none": None,
    }


NUMBERS = {"step": 7, "rate": 0.5, "yes": True, "none": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in each layout, and those of two managers."""
    place = tmp_path_factory.mktemp("orbax")
    for ocdbt, zarr3 in LAYOUTS:
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt, use_zarr3=zarr3)
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(place / f"{ocdbt:d}{zarr3:d}", {**tree(), "text": "é"})
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(place / "standard", tree())
    with ocp.CheckpointManager(place / "manager") as manager:
        for step in (3, 11):
            manager.save(step, args=ocp.args.StandardSave(tree()))
    items = ("state", "notes")
    with ocp.CheckpointManager(place / "items", item_names=items) as manager:
        notes = ocp.args.JsonSave({"seen": 5})
        manager.save(0, args=ocp.args.Composite(state=ocp.args.StandardSave(tree()), notes=notes))
    with ocp.CheckpointManager(place / "trees", item_names=("model", "ema")) as manager:
        small = ocp.args.StandardSave({"w": np.ones(2)})
        manager.save(0, args=ocp.args.Composite(model=small, ema=small))
    return place


@pytest.mark.parametrize(("ocdbt", "zarr3"), LAYOUTS)
def test_every_layout_and_dtype_is_equal_to_what_was_saved(folder: Path, ocdbt: bool, zarr3: bool) -> None:
    with sv.load(folder / f"{ocdbt:d}{zarr3:d}") as saved:
        same(saved, arrays())
        assert dict(saved.metadata) == {**NUMBERS, "text": "é"}
        assert {name: saved.variables[f"params/{name}"].dtype for name in DTYPES} == {name: name for name in DTYPES}
        assert saved.read("zeros").flags.writeable
    model: dict[str, Any] = {"zeros": sv.Variable(np.ones((4, 4))), "opt": [sv.Variable(np.zeros((2, 3), "float32"))]}
    sv.load(model, folder / f"{ocdbt:d}{zarr3:d}", strict=False)
    same({"opt/0": model["opt"][0].numpy()}, {"opt/0": arrays()["opt/0"]})
    assert not model["zeros"].numpy().any()


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_it_is_equal_to_what_orbax_restores(folder: Path) -> None:
    with ocp.PyTreeCheckpointer() as checkpointer:
        restored = checkpointer.restore(folder / "standard")
    with sv.load(folder / "standard") as saved:
        found = {name: each for name, each in saved.items() if name.startswith("params/")}
        same(found, {f"params/{name}": restored["params"][name] for name in DTYPES})
        same({"w": saved["opt/1/mu"]}, {"w": restored["opt"][1]["mu"]})
        assert saved.metadata["step"] == restored["step"]


def test_without_orbax_and_jax(folder: Path) -> None:
    assert read_alone(folder / "standard", "tensorstore") == summary(arrays())


def test_random_keys_are_keys(tmp_path: Path) -> None:
    import jax

    keys = {"one": jax.random.key(3), "many": jax.random.split(jax.random.key(4, impl="rbg"), 5)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", keys)
    with sv.load(tmp_path / "a") as saved:
        assert (saved.variables["one"].dtype, saved.variables["one"].shape) == ("key<fry>", ())
        assert (saved.variables["many"].dtype, saved.variables["many"].shape) == ("key<rbg>", (5,))
        same(saved, {name: jax.random.key_data(key) for name, key in keys.items()})
    variable = sv.Variable(jax.random.key(0), backend="jax")
    sv.load({"one": variable}, tmp_path / "a", strict=False)
    assert (jax.random.key_data(variable.value) == jax.random.key_data(keys["one"])).all()


def test_variables_of_nnx_have_their_own_names(tmp_path: Path) -> None:
    nnx = pytest.importorskip("flax.nnx")
    net = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "a", nnx.state(net))
    model = {"kernel": sv.Variable(np.zeros((2, 3), "float32")), "bias": sv.Variable([1.0] * 3)}
    with sv.load(tmp_path / "a") as saved:
        assert sorted(saved) == ["bias/value", "kernel/value"]
        assert np.array_equal(saved["kernel"], net.kernel[...])
    assert sv.load(model, tmp_path / "a").loaded == ["kernel", "bias"]
    assert np.array_equal(model["kernel"].numpy(), net.kernel[...])


def test_the_steps_of_a_manager(folder: Path) -> None:
    for place in (folder / "manager" / "11", folder / "manager" / "3" / "default"):
        with sv.load(place) as saved:
            same(saved, arrays())
    with sv.load(folder / "items" / "0") as saved:
        same(saved, arrays())
        assert saved.metadata["notes"] == {"seen": 5}
    with pytest.raises(StatevarError) as caught:
        sv.load(folder / "manager")
    assert f"this is the folder of a CheckpointManager of orbax, and no checkpoint of statevar, at '{folder}" in str(
        caught.value
    )
    assert f"Hint: pass one of its steps: '{folder / 'manager' / '11'}'." in str(caught.value)


def test_several_trees_are_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="this checkpoint of orbax has several trees: ema, model, at "):
        sv.load(folder / "trees" / "0")
    with sv.load(folder / "trees" / "0" / "ema") as saved:
        same(saved, {"w": np.ones(2)})


def test_an_unfinished_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "7.orbax-checkpoint-tmp"
    shutil.copytree(folder / "manager" / "3", place)
    (place / "default").rename(place / "default.orbax-checkpoint-tmp")
    is_refused(place, "orbax has not finished this checkpoint")


def test_a_checkpoint_without_arrays_is_named(tmp_path: Path) -> None:
    (tmp_path / "_CHECKPOINT_METADATA").write_text("{}")
    is_refused(tmp_path, "this checkpoint of orbax has no tree of arrays (_METADATA)")


def test_without_tensorstore(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(
        BackendNotInstalledError, match=r"needs tensorstore, at .*Hint: pip install 'statevar\[orbax\]'"
    ):
        sv.load(folder / "standard")


# -- Zarr ----------------------------------------------------------------------------------------------------

V2: dict[str, dict[str, Any]] = {
    "plain": {"compressor": None},
    "zstd": {"compressor": {"id": "zstd", "level": 1}},
    "blosc": {"compressor": {"id": "blosc", "cname": "lz4"}, "chunks": [2, 2]},
    "gzip": {"compressor": {"id": "gzip", "level": 1}, "chunks": [1, 5]},
    "fortran": {"order": "F", "chunks": [3, 2]},
    "slashes": {"dimension_separator": "/", "chunks": [2, 2]},
    "big": {"dtype": ">f4"},
    "filled": {"fill_value": 7.5, "chunks": [2, 2]},
}
SHARDS = {
    "name": "sharding_indexed",
    "configuration": {"chunk_shape": [2, 2], "codecs": [{"name": "bytes"}, {"name": "gzip"}]},
}
V3: dict[str, dict[str, Any]] = {
    "plain": {},
    "zstd": {"codecs": [{"name": "bytes"}, {"name": "zstd"}]},
    "big": {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
    "shards": {"codecs": [SHARDS], "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 6]}}},
    "turned": {"codecs": [{"name": "transpose", "configuration": {"order": [1, 0]}}, {"name": "bytes"}]},
}


def stored(place: Path, version: int, array: Any, **metadata: Any) -> Path:
    """Writes an array with tensorstore."""
    kind = "zarr" if version == 2 else "zarr3"
    given = {"dtype": array.dtype.str if array.dtype.isbuiltin == 1 else array.dtype.name} if version == 2 else {}
    given = {**given, "shape": list(array.shape), **metadata}
    if version == 3:
        given["data_type"] = array.dtype.name
    spec = {"driver": kind, "kvstore": {"driver": "file", "path": f"{place}/"}, "metadata": given, "create": True}
    tensorstore.open(spec).result().write(array).result()
    return place


@pytest.mark.parametrize(("version", "cases"), [(2, V2), (3, V3)])
def test_a_zarr_store(version: int, cases: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    wanted: dict[str, Any] = {}
    for name, options in cases.items():
        array = np.arange(20, dtype="float32").reshape(4, 5)
        if name == "filled":
            array[2:] = 7.5  # these chunks are not stored
        stored(tmp_path / "group" / name, version, array, **options)
        wanted[f"group/{name}"] = array
    for name in DTYPES:
        array = np.arange(6).reshape(2, 3).astype(dtype(name))
        wanted[name] = array
        stored(tmp_path / name, version, array)
    if version == 2:
        (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
        (tmp_path / ".zattrs").write_text('{"epoch": 3}')
    else:
        root = {"zarr_format": 3, "node_type": "group", "attributes": {"epoch": 3}}
        (tmp_path / "zarr.json").write_text(json.dumps(root))
    with sv.load(tmp_path) as saved:
        same(saved, wanted)
        assert dict(saved.metadata) == {"epoch": 3}
    with sv.load(tmp_path / "float32") as saved:
        same(saved, {"value": wanted["float32"]})


def test_an_array_of_texts_is_listed_and_named(tmp_path: Path) -> None:
    facts = {
        "zarr_format": 2,
        "shape": [2],
        "chunks": [2],
        "dtype": "<U5",
        "compressor": None,
        "fill_value": "",
        "order": "C",
    }
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    stored(tmp_path / "w", 2, np.ones(2))
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / ".zarray").write_text(json.dumps({**facts, "filters": None}))
    with sv.load(tmp_path) as saved:
        assert saved["w"].tolist() == [1.0, 1.0]
        assert saved.variables["names"].dtype == "<U5"
        with pytest.raises(CheckpointError, match="the array has the dtype <U5, which is none of numbers"):
            saved["names"]


# -- forged stores -------------------------------------------------------------------------------------------


def facts(**changes: Any) -> dict[str, Any]:
    plain = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "<f4", "compressor": None, "fill_value": 0}
    return {**plain, "order": "C", "filters": None, **changes}


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def facts3(shape: Any = (4,), chunk: Any = (4,), codecs: Any = (BYTES,), **changes: Any) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": codecs,
        **changes,
    }


def zstd_bomb(blocks: int) -> bytes:
    """A frame of zstd that has 128 KB of zeros in each block of four bytes."""
    block = 131072 << 3 | 1 << 1
    each = block.to_bytes(3, "little") + b"\0"
    return b"\x28\xb5\x2f\xfd\0\x58" + each * blocks + (block | 1).to_bytes(3, "little") + b"\0"


ZSTD = {"compressor": {"id": "zstd", "level": 1}}
INNER = {"name": "sharding_indexed", "configuration": {"chunk_shape": [1], "codecs": [BYTES]}}

#: What describes an array, and the bytes of its first chunk.
HOSTILE: dict[str, tuple[Any, bytes | None]] = {
    "a bomb of missing chunks": (facts(shape=[10**12]), None),
    "a bomb of missing chunks in two dimensions": (facts(shape=[10**6, 10**6], chunks=[1000, 1000]), None),
    "many small missing chunks": (facts(shape=[10**7], chunks=[1]), None),
    "a chunk larger than the array": (facts(chunks=[10**12]), bytes(16)),
    "a product that wraps around": (facts(shape=[2**62, 2**62], chunks=[2, 2]), bytes(16)),
    "sizes that overflow before a zero": (facts(shape=[2**62, 2**62, 0], chunks=[1, 1, 1]), None),
    "a negative size": (facts(shape=[-4]), bytes(16)),
    "a size that is a float": (facts(shape=[4.5]), bytes(16)),
    "a size that is a text": (facts(shape=["4"]), bytes(16)),
    "a size of 4,000 digits": (facts(shape=[10**3999]), bytes(16)),
    "a shape that is a number": (facts(shape=4), bytes(16)),
    "100 axes": (facts(shape=[1] * 100, chunks=[1] * 100), bytes(4)),
    "chunks of zero": (facts(chunks=[0]), bytes(16)),
    "negative chunks": (facts(chunks=[-4]), bytes(16)),
    "chunks of another rank": (facts(chunks=[2, 2]), bytes(16)),
    "no chunks": (facts(chunks=None), bytes(16)),
    "a chunk cut short": (facts(), bytes(15)),
    "a chunk that is too long": (facts(), bytes(17)),
    "an empty chunk": (facts(), b""),
    "a bomb of zstd": (facts(**ZSTD), zstd_bomb(8000)),
    "no zstd": (facts(**ZSTD), bytes(16)),
    "a bomb of blosc": (facts(compressor={"id": "blosc"}), b"\2\1\2\4" + b"\xff\xff\xff\x7f" * 2 + b"\x10\0\0\0"),
    "no gzip": (facts(compressor={"id": "gzip", "level": 1}), bytes(16)),
    "an unknown compressor": (facts(compressor={"id": "pickle"}), bytes(16)),
    "a filter that runs code": (facts(filters=[{"id": "pickle", "protocol": 5}]), bytes(16)),
    "objects": (facts(dtype="|O", filters=[{"id": "pickle"}]), b"cos\nsystem\n(S'true'\ntR."),
    "a structure": (facts(dtype=[["a", "<f4"]]), bytes(16)),
    "an unknown dtype": (facts(dtype="<f3"), bytes(16)),
    "a dtype that is a number": (facts(dtype=4), bytes(16)),
    "an order that is none": (facts(order="X"), bytes(16)),
    "no JSON": ("{", bytes(16)),
    "deep JSON": ("[" * 100_000, bytes(16)),
    "a list": ([], bytes(16)),
    "another version": (facts(zarr_format=3), bytes(16)),
    "a version that is none": (facts(zarr_format=1), bytes(16)),
    "3: a bomb of missing chunks": (facts3([10**12]), None),
    "3: many small missing chunks": (facts3([10**7], [1]), None),
    "3: a chunk larger than the array": (facts3(chunk=[10**12]), bytes(16)),
    "3: a shard of many chunks": (facts3(chunk=[10**7], codecs=[INNER]), bytes(16)),
    "3: a shard without an index": (facts3(codecs=[INNER]), bytes(16)),
    "3: a shard whose places are out of it": (facts3(codecs=[INNER]), b"\x7f" * 68),
    "3: a bomb of zstd": (facts3(codecs=[BYTES, {"name": "zstd"}]), zstd_bomb(8000)),
    "3: an unknown codec": (facts3(codecs=[BYTES, {"name": "pickle"}]), bytes(16)),
    "3: an unknown dtype": (facts3(data_type="object"), bytes(16)),
    "3: a dtype that is a mapping": (facts3(data_type={"name": "x"}), bytes(16)),
    "3: no codecs": (facts3(codecs=[]), bytes(16)),
    "3: a storage transformer": (facts3(storage_transformers=[{"name": "x"}]), bytes(16)),
}


def forged(place: Path, content: Any, chunk: bytes | None, version: int) -> None:
    place.mkdir(parents=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (place / (".zarray" if version == 2 else "zarr.json")).write_text(text)
    if chunk is not None:
        (place / "c").mkdir() if version == 3 else None
        (place / ("0" if version == 2 else "c/0")).write_bytes(chunk)


def as_zarr(place: Path, content: Any, chunk: bytes | None, version: int) -> None:
    forged(place, content, chunk, version)


def as_orbax(place: Path, content: Any, chunk: bytes | None, version: int) -> None:
    forged(place / "w", content, chunk, version)
    (place / "_METADATA").write_text(json.dumps(described(use_zarr3=version == 3)))


def described(**changes: Any) -> dict[str, Any]:
    return {"tree_metadata": {"('w',)": leaf("w")}, "use_ocdbt": False, "use_zarr3": False, **changes}


def leaf(*keys: Any, kind: Any = "jax.Array", empty: Any = False) -> dict[str, Any]:
    value = {"value_type": kind, "skip_deserialize": empty}
    return {"key_metadata": [{"key": key, "key_type": 2} for key in keys], "value_metadata": value}


@pytest.mark.parametrize("make", [as_zarr, as_orbax])
@pytest.mark.parametrize("version", [2, 3])
def test_a_small_store_is_read(make: Callable[..., None], version: int, tmp_path: Path) -> None:
    """Else the tests below would say nothing."""
    make(tmp_path / "a", facts() if version == 2 else facts3(), np.arange(4, dtype="<f4").tobytes(), version)
    with sv.load(tmp_path / "a") as saved:
        assert next(iter(saved.values())).tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("make", [as_zarr, as_orbax])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_forged_store_is_refused(case: str, make: Callable[..., None], tmp_path: Path) -> None:
    make(tmp_path / "a", *HOSTILE[case], 3 if case.startswith("3:") else 2)
    is_refused(tmp_path / "a", "load: ")


TREES: dict[str, Any] = {
    "no JSON": "{",
    "deep JSON": "[" * 100_000,
    "a list": [],
    "no tree": {},
    "a tree that is a list": described(tree_metadata=[]),
    "a leaf that is nothing": described(tree_metadata={"w": None}),
    "a leaf without keys": described(tree_metadata={"w": leaf()}),
    "keys that are a number": described(tree_metadata={"w": {**leaf("w"), "key_metadata": 1}}),
    "a kind that is a list": described(tree_metadata={"w": leaf("w", kind=[])}),
    "emptiness that is a number": described(tree_metadata={"w": leaf("w", empty=0)}),
    "NUL in a key": described(tree_metadata={"w": leaf("w\0")}),
    "two leaves with one path": described(tree_metadata={"a": leaf("w"), "b": leaf("w")}),
    "an array that is missing": described(tree_metadata={"w": leaf("x")}),
    "an empty key": described(tree_metadata={"w": leaf("")}),
    "an array in the folder above": described(tree_metadata={"w": leaf("../b")}),
    "an array at an absolute path": described(tree_metadata={"w": leaf("/etc")}),
    "an array in a folder of dots": described(tree_metadata={"w": leaf("w/../../b")}),
    "a number that is an array": described(tree_metadata={"w": leaf("w", kind="scalar")}),
    "a text that is missing": described(tree_metadata={"w": leaf("w", kind="string")}),
    "20,000 numbers": described(tree_metadata={str(i): leaf(str(i), kind="scalar") for i in range(20_000)}),
    "a database that is none": described(),
    "another version": described(use_zarr3=True),
}


@pytest.mark.parametrize("case", TREES)
def test_a_forged_tree_is_refused(case: str, tmp_path: Path) -> None:
    as_orbax(tmp_path / "a", facts(), bytes(16), 2)
    as_orbax(tmp_path / "b", facts(), bytes(16), 2)
    content = TREES[case]
    (tmp_path / "a" / "_METADATA").write_text(content if isinstance(content, str) else json.dumps(content))
    if case == "a database that is none":
        (tmp_path / "a" / "manifest.ocdbt").write_bytes(bytes(40))
    is_refused(tmp_path / "a", "load: ")


@pytest.mark.parametrize("make", [as_zarr, as_orbax])
def test_nothing_outside_of_the_folder_is_read(make: Callable[..., None], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.ones(4, "<f4").tobytes())
    make(tmp_path / "a", facts(), None, 2)
    inner = tmp_path / "a" / "w" if make is as_orbax else tmp_path / "a"
    (inner / "0").symlink_to(secret)
    is_refused(tmp_path / "a", "leads out of the folder")
    (inner / "0").unlink()
    os.mkfifo(inner / "0")  # reading it would wait for ever
    is_refused(tmp_path / "a", "in the folder is no file")
    (inner / "0").unlink()
    (inner / "more").symlink_to(tmp_path)
    is_refused(tmp_path / "a", "leads out of the folder")
    (inner / "more").unlink()
    (inner / "0").write_bytes(secret.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path / "a")  # the user's own link is followed
    with sv.load(tmp_path / "link") as saved:
        assert next(iter(saved.values())).tolist() == [1.0] * 4


@pytest.mark.parametrize("item", ["default", "notes"])
def test_an_item_that_is_elsewhere_is_not_read(item: str, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "manager" / "3", tmp_path / "3")
    elsewhere = tmp_path / "elsewhere"
    if item == "default":
        (tmp_path / "3" / "default").rename(elsewhere)
    else:
        elsewhere.mkdir()
        (elsewhere / "metadata").write_text("{}")
    (tmp_path / "3" / item).symlink_to(elsewhere)
    is_refused(tmp_path / "3", f"the link {item!r} leads out of the folder")


def test_folders_that_are_nested_without_end(tmp_path: Path) -> None:
    as_zarr(tmp_path / "a", facts(), bytes(16), 2)
    (tmp_path / "a" / "/".join("d" * 150)).mkdir(parents=True)
    is_refused(tmp_path / "a", "folders are nested more than 100 deep")


def test_zeros_that_are_not_stored_are_read_up_to_a_limit(tmp_path: Path) -> None:
    as_zarr(tmp_path / "a", facts(shape=[2**24], chunks=[2**20]), None, 2)
    with sv.load(tmp_path / "a") as saved:
        assert saved["value"].shape == (2**24,)
    as_zarr(tmp_path / "b", facts(shape=[2**24 + 1], chunks=[2**20]), None, 2)
    is_refused(tmp_path / "b", f"takes {4 * (2**24 + 1)} bytes, and the whole store has")
    (tmp_path / "b" / "1").write_bytes(bytes(2**22))  # a store of 4 MB may have an array of 400 MB
    with sv.load(tmp_path / "b") as saved:
        assert saved["value"].shape == (2**24 + 1,)


TEXT = json.dumps(facts(shape=[4, 2], chunks=[2, 2])).encode()


@settings(max_examples=100)
@given(changes=edits(len(TEXT)))
def test_changed_facts_are_refused_or_read(
    changes: list[tuple[int, bytes | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("a")
    (place / ".zarray").write_bytes(edited(TEXT, changes))
    (place / "0.0").write_bytes(bytes(16))
    tried(place)


@settings(max_examples=60)
@given(changes=edits(400), which=...)
def test_a_changed_database_is_refused_or_read(
    changes: list[tuple[int, bytes | None]],
    which: bool,
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("a") / "x"
    shutil.copytree(folder / "trees" / "0" / "model", place)
    data = sorted((each for each in place.rglob("*") if each.parent.name == "d"), key=lambda each: each.name)
    target = (place / "manifest.ocdbt", *data)[which]
    target.write_bytes(edited(target.read_bytes(), changes))
    tried(place)
