"""Files of ``flax.serialization``: equal to what Flax restores, without Flax and without msgpack."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import statevar as sv
from tests.checkpoint.others import edited, edits, is_refused, read_alone, same, summary, tried

flax = pytest.importorskip("flax")
msgpack = pytest.importorskip("msgpack")
pytest.importorskip("jax")

DTYPES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "complex64", "complex128", "bfloat16", "int4", "uint4"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"),
)


def dtype(name: str) -> Any:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name, name))


def tree() -> dict[str, Any]:
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    return {
        "params": {name: (rng.normal(size=(2, 3)) * 3).astype(dtype(name)) for name in DTYPES},
        "jax": {"kernel": jnp.arange(6.0).reshape(2, 3), "half": jnp.ones(3, jnp.bfloat16), "step": jnp.int32(3)},
        "opt": [np.arange(3.0), (np.float32(2.5), {"mu": np.zeros((0, 4))}), {}],
        "a/b~c": np.ones((1, 1, 1, 1, 1)),
        "numbers": {"step": 7, "rate": 0.5, "big": 2**63, "less": -(2**40), "none": None, "yes": True, "text": "é"},
        "z": 1 + 2j,
        "bytes": b"abc",
    }


def saved_at(path: Path, content: Any) -> Path:
    path.write_bytes(flax.serialization.to_bytes(content))
    return path


def leaves(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict):
        for key, each in content.items():
            step = str(key).replace("~", "~0").replace("/", "~1")
            yield from leaves(each, f"{path}/{step}" if path else step)
    else:
        yield path, content


def restored(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays, and the other leaves, that Flax restores from a file."""
    found = dict(leaves(flax.serialization.msgpack_restore(path.read_bytes())))
    arrays = {name: each for name, each in found.items() if isinstance(each, np.ndarray | np.generic)}
    return arrays, {name: each for name, each in found.items() if name not in arrays}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_at(tmp_path_factory.mktemp("flax") / "a.msgpack", tree())


def test_every_dtype_is_equal_to_what_flax_restores(file: Path) -> None:
    arrays, others = restored(file)
    assert len(arrays) == len(DTYPES) + 7
    arrays["bytes"] = np.frombuffer(others.pop("bytes"), np.uint8)
    others["z"] = str(others["z"])  # JSON has no complex numbers
    with sv.load(file) as saved:
        same(saved, arrays)
        assert dict(saved.metadata) == others
        assert {name: saved.variables[f"params/{name}"].dtype for name in DTYPES} == {name: name for name in DTYPES}


def test_without_flax(file: Path) -> None:
    arrays, others = restored(file)
    assert read_alone(file) == summary(arrays | {"bytes": np.frombuffer(others["bytes"], np.uint8)})


def test_a_train_state(tmp_path: Path) -> None:
    optax = pytest.importorskip("optax")
    import jax
    import jax.numpy as jnp
    from flax import linen
    from flax.training.train_state import TrainState

    net = linen.Sequential([linen.Dense(3), linen.Dense(2)])
    params = net.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    state = TrainState.create(apply_fn=net.apply, params=params, tx=optax.adamw(1e-3))
    state = state.apply_gradients(grads=params)
    path = saved_at(tmp_path / "state.msgpack", state)
    with sv.load(path) as saved:
        same(saved, restored(path)[0])
        assert saved.metadata["step"] == 1
        assert saved["opt_state/0/count"] == 1
        kernel = saved["opt_state/0/mu/layers_0/kernel"]
    model = {"params": {"layers_0": {"kernel": sv.Variable(np.zeros((4, 3), "float32"))}}}
    sv.load(model, path, rename={"params": "weights", "opt_state/0/mu": "params"}, strict=False)
    assert np.array_equal(model["params"]["layers_0"]["kernel"].numpy(), kernel)


def test_an_array_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 24)
    content = {"w": np.arange(20.0).reshape(4, 5), "h": np.arange(30).astype(dtype("bfloat16")), "small": np.ones(2)}
    path = saved_at(tmp_path / "a", {"params": content})
    assert b"__msgpack_chunked_array__" in path.read_bytes()
    with sv.load(path) as saved:
        same(saved, {f"params/{name}": each for name, each in content.items()})
    with sv.load(path, mmap=True) as saved:
        same(saved, {f"params/{name}": each for name, each in content.items()})


@pytest.mark.parametrize("length", [1, 100, 70_000])
def test_a_single_array_and_many_keys(length: int, tmp_path: Path) -> None:
    with sv.load(saved_at(tmp_path / "a", np.arange(length))) as saved:
        same(saved, {"value": np.arange(length)})
    count = min(length, 20_000)
    with sv.load(saved_at(tmp_path / "b", {f"k{i}": np.float32(i) for i in range(count)})) as saved:
        assert saved[f"k{count - 1}"] == count - 1


def test_a_dtype_that_is_not_read_is_listed_and_named(tmp_path: Path) -> None:
    content = {"date": np.array(["2020-01-01"], "datetime64[D]"), "w": np.ones(2)}
    path = saved_at(tmp_path / "a", content)
    with sv.load(path) as saved:
        assert saved["w"].tolist() == [1.0, 1.0]
        assert saved.variables["date"].dtype == "datetime64[D]"
        with pytest.raises(sv.errors.CheckpointError, match="no variable has the dtype datetime64"):
            saved["date"]


# -- forged files --------------------------------------------------------------------------------------------


def packed(content: Any) -> bytes:
    result: bytes = msgpack.packb(content)
    return result


def array(shape: Any = (2,), name: Any = "float32", raw: Any = bytes(8), code: int = 1) -> Any:
    return msgpack.ExtType(code, packed((shape, name, raw)))


def ext(payload: bytes, code: int = 1, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return b"\x81\xa1w" + b"\xc9" + struct.pack(">Ib", size, code) + payload


def chunked(shape: Any, chunks: Any, **more: Any) -> bytes:
    return packed({"w": {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks, **more}})


def nested(count: int, opening: bytes, leaf: bytes) -> bytes:
    return b"\x81\xa1w" + opening * count + leaf


DEEP_EXTENSION = b"\xc0"
for _ in range(2000):
    DEEP_EXTENSION = b"\xc9" + struct.pack(">Ib", len(DEEP_EXTENSION), 1) + DEEP_EXTENSION

HOSTILE: Mapping[str, bytes] = {
    "only the beginning": b"\x81\xa1w",
    "half of an array": packed({"w": array()})[:-3],
    "more behind the end": packed({"w": array()}) + b"\xc0",
    "a mapping of 4,000,000,000": b"\xdf\xff\xff\xff\xff\xa1w\xc0",
    "a mapping of 65,535": b"\xde\xff\xff\xa1w\xc0",
    "a list of 4,000,000,000": b"\x81\xa1w\xdd\xff\xff\xff\xff",
    "400,000 values": b"\x81\xa1w\xdd" + struct.pack(">I", 400_000) + b"\xc0" * 400_000,
    "a text of 4 GB": b"\x81\xa1w\xdb\xff\xff\xff\xffx",
    "bytes of 4 GB": b"\x81\xa1w\xc6\xff\xff\xff\xffx",
    "an extension of 4 GB": ext(b"x", length=2**32 - 1),
    "an extension longer than its content": ext(packed(((1,), "int8", b"x")) + b"\xc0"),
    "an extension shorter than its content": ext(packed(((1,), "int8", b"x")), length=5),
    "an empty extension": b"\x81\xa1w\xc7\x00\x01\xc0",
    "an unknown extension": packed({"w": array(code=9)}),
    "a negative extension": packed({"w": msgpack.Timestamp(1)}),
    "the byte that is never used": b"\x81\xa1w\xc1",
    "a key twice": b"\x82\xa1w\x01\xa1w\x02",
    "a key as text and number": b"\x82\xa11\x01\x01\x02",
    "an empty key": b"\x82\xa1w\x01\xa0\x02",
    "NUL in a key": b"\x82\xa1w\x01\xa1\0\x02",
    "a key that is a mapping": b"\x82\xa1w\x01\x80\x02",
    "a key that is a list": b"\x82\xa1w\x01\x91\x01\x02",
    "a key that is bytes": b"\x82\xa1w\x01\xc4\x01x\x02",
    "a key that is a float": b"\x82\xa1w\x01\xcb" + bytes(8) + b"\x02",
    "a key that is None": b"\x82\xa1w\x01\xc0\x02",
    "a key that is an array": b"\x82\xa1w\x01" + packed(array()) + b"\x02",
    "a key that is no UTF-8": b"\x82\xa1w\x01\xa1\xff\x02",
    "a text that is no UTF-8": b"\x81\xa1w\xa1\xff",
    "lists 200 deep": nested(200, b"\x91", b"\xc0"),
    "lists 100,000 deep": nested(100_000, b"\x91", b"\xc0"),
    "mappings 100,000 deep": nested(100_000, b"\x81\xa1w", b"\xc0"),
    "extensions 2,000 deep": b"\x81\xa1w" + DEEP_EXTENSION,
    "mappings 100,000 deep in a key": b"\x82\xa1w\xc0" + b"\x81" * 100_000,
    "mappings in the shape": ext(packed(({"a": {"b": {}}}, "int8", b"x"))),
    "an array in the shape": packed({"w": array(shape=(array(),))}),
    "a shape of another size": packed({"w": array(shape=(3,))}),
    "a bomb of sizes": packed({"w": array(shape=(2**60,))}),
    "a product that wraps around": packed({"w": array(shape=(2**62, 2**62, 2**4))}),
    "a product that wraps to the right size": packed({"w": array(shape=(2**32, 2**32 + 2))}),
    "sizes that overflow before a zero": packed({"w": array(shape=(2**62, 2**62, 0), raw=b"")}),
    "a negative size": packed({"w": array(shape=(-2,))}),
    "two negative sizes": packed({"w": array(shape=(-1, -2))}),
    "a size that is a bool": packed({"w": array(shape=(True, 2))}),
    "a size that is a float": packed({"w": array(shape=(2.0,))}),
    "a size that is a text": packed({"w": array(shape=("2",))}),
    "a shape that is a number": packed({"w": array(shape=2)}),
    "a shape of 100 axes": packed({"w": array(shape=(1,) * 100, raw=bytes(4))}),
    "a dtype of objects": packed({"w": array(name="object")}),
    "a dtype of the module ml_dtypes": packed({"w": array(name="finfo", raw=bytes(8))}),
    "a dtype of its own name": packed({"w": array(name="__name__")}),
    "a dtype with fields": packed({"w": array(name="f4,f4")}),
    "a dtype that is bytes": packed({"w": array(name=b"float32")}),
    "a dtype that is a list": packed({"w": array(name=["float32"])}),
    "a bool of 2": packed({"w": array(name="bool", raw=b"\2\1")}),
    "bytes that are a text": packed({"w": array(raw="12345678")}),
    "bytes that are a number": packed({"w": array(raw=8)}),
    "two fields": ext(packed(((2,), "float32"))),
    "four fields": ext(packed(((2,), "float32", bytes(8), 1))),
    "a mapping for an array": ext(packed({"shape": 1})),
    "a complex number of three": packed({"w": msgpack.ExtType(2, packed((1.0, 2.0, 3.0)))}),
    "a complex number of texts": packed({"w": msgpack.ExtType(2, packed(("1", "2")))}),
    "parts without a shape": packed({"w": {"__msgpack_chunked_array__": True, "chunks": {"0": array()}}}),
    "parts that are missing": chunked({"0": 2}, {}),
    "parts of another size": chunked({"0": 3}, {"0": array()}),
    "parts of a bomb": chunked({"0": 2**60}, {"0": array()}),
    "parts in another order": chunked({"0": 4}, {"1": array(), "0": array()}),
    "parts of two dtypes": chunked({"0": 4}, {"0": array(), "1": array(name="int32")}),
    "parts of no numbers": chunked({"0": 2}, {"0": array(name="object")}),
    "parts that are numbers": chunked({"0": 2}, {"0": 1}),
    "parts and more": chunked({"0": 2}, {"0": array()}, more=1),
    "a shape of parts that is a list": chunked([2], {"0": array()}),
    "a size of parts that is a text": chunked({"0": "2"}, {"0": array()}),
}


def test_the_small_file_is_read(tmp_path: Path) -> None:
    """Else the tests below would say nothing."""
    (tmp_path / "a").write_bytes(packed({"w": array(), "c": msgpack.ExtType(2, packed((1.0, 2.0))), "1": 1}))
    with sv.load(tmp_path / "a") as saved:
        assert saved["w"].tolist() == [0.0, 0.0]
        assert dict(saved.metadata) == {"c": "(1+2j)", "1": 1}
    (tmp_path / "a").write_bytes(chunked({"0": 2, "1": 2}, {"0": array(), "1": array()}))
    with sv.load(tmp_path / "a") as saved:
        assert saved["w"].shape == (2, 2)
    (tmp_path / "a").write_bytes(nested(90, b"\x81\xa1w", packed(array())))
    with sv.load(tmp_path / "a") as saved:
        assert list(saved) == ["/".join("w" * 91)]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_forged_file_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(HOSTILE[case])
    is_refused(path, "load: ")
    assert list(tmp_path.iterdir()) == [path]


SMALL = packed({"params": {"w": array(), "l": [1, 0.5, None, "x"]}, "n": array((), "int32", bytes(4), 3), "b": b"ab"})


@settings(max_examples=150)
@given(changes=edits(len(SMALL)))
def test_a_changed_file_is_refused_or_read(changes: list[tuple[int, bytes | None]], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(SMALL[:2] + edited(SMALL, changes)[2:])
    tried(tmp_path / "a")
