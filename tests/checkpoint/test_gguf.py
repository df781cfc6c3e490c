"""Files of llama.cpp: equal to what the package gguf reads, without that package."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import CheckpointError
from tests.checkpoint.others import edited, edits, is_refused, read_alone, same, summary, tried

gguf = pytest.importorskip("gguf")

PLAIN = ("float32", "float16", "float64", "int8", "int16", "int32", "int64")
READ = ("Q8_0", "Q4_0")
NOT_READ = ("Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0")


def quantised(array: Any, name: str) -> Any:
    return gguf.quants.quantize(array, gguf.GGMLQuantizationType[name])


def written(path: Path, *, alignment: int = 32, **options: Any) -> Path:
    """A file with a tensor of each type."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama", **options)
    writer.add_custom_alignment(alignment)
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("scale", 0.5)
    writer.add_bool("flag", True)
    writer.add_uint64("large", 2**63)
    writer.add_int8("small", -3)
    writer.add_array("tokens", ["a", "é", ""])
    writer.add_array("scores", [1.5, -2.0])
    for i, dtype in enumerate(PLAIN):
        writer.add_tensor(f"blk.{i}.weight", (rng.normal(size=(3, 5)) * 50).astype(dtype))
    rows = rng.normal(size=(2, 3, 256)).astype("float32")
    for name in ("BF16", *READ, *NOT_READ):
        writer.add_tensor(f"{name}.weight", quantised(rows, name), raw_dtype=gguf.GGMLQuantizationType[name])
    writer.add_tensor("vector", np.arange(7, dtype="float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gguf") / "model.gguf")


def by_gguf(path: Path) -> dict[str, Any]:
    """The arrays that statevar reads, as the package gguf reads them."""
    found = {}
    for tensor in gguf.GGUFReader(path).tensors:
        kind = tensor.tensor_type.name
        if kind in NOT_READ:
            continue
        decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type) if kind in ("BF16", *READ) else tensor.data
        found[tensor.name.replace(".", "/")] = decoded
    return found


def test_every_type_is_equal_to_what_gguf_reads(file: Path) -> None:
    wanted = by_gguf(file)
    with sv.load(file) as saved:
        assert saved.variables["BF16/weight"].dtype == "bfloat16"
        found = {name: saved[name] for name in saved if name.partition("/")[0] not in NOT_READ}
        assert [saved.variables[f"blk/{i}/weight"].dtype for i in range(len(PLAIN))] == list(PLAIN)
        assert saved.variables["Q4_0/weight"][:2] == ("float32", (2, 3, 256))
    found["BF16/weight"] = found["BF16/weight"].astype("float32")  # as gguf gives it
    same(found, wanted)


def test_names_may_stay_as_they_are(file: Path) -> None:
    with sv.load(file, separator="/") as saved:
        assert "blk.0.weight" in saved


def test_a_type_that_is_not_read_is_listed_and_named(file: Path) -> None:
    with sv.load(file) as saved:
        for name in NOT_READ:
            path = f"{name}/weight"
            assert (saved.variables[path].dtype, saved.variables[path].shape) == (name, (2, 3, 256))
            with pytest.raises(CheckpointError) as caught:
                saved[path]
            text = str(caught.value)
            assert f"the tensor is quantised as {name}, and only Q8_0 and Q4_0 are read" in text
            assert "llama-quantize --allow-requantize IN.gguf OUT.gguf F32" in text
            assert "gguf.quants.dequantize(tensor.data, tensor.tensor_type)" in text


def test_metadata(file: Path) -> None:
    with sv.load(file) as saved:
        assert dict(saved.metadata) == {
            "general.architecture": "llama",
            "general.alignment": 32,
            "llama.block_count": 2,
            "scale": 0.5,
            "flag": True,
            "large": 2**63,
            "small": -3,
            "tokens": ["a", "é", ""],
            "scores": [1.5, -2.0],
        }


def test_a_vocabulary_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    words = [f"{'é' * (i % 40)}{i}" for i in range(50_000)] + ["x" * 2_000_000, "", "end"]
    raw = b"".join(text(word) for word in words)
    (tmp_path / "a").write_bytes(forged(keys=[("t", array(8, len(words), raw)), ("after", value(0, b"\7"))]))
    with sv.load(tmp_path / "a") as saved:
        assert saved.metadata["t"] == words
        assert saved.metadata["after"] == 7
        assert saved["w"].tolist() == [0.0] * 4


@pytest.mark.parametrize("alignment", [8, 256])
def test_another_alignment(alignment: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", alignment=alignment)
    with sv.load(path) as saved:
        assert saved["vector"].tolist() == list(range(7))
        assert np.array_equal(saved["Q8_0/weight"], by_gguf(path)["Q8_0/weight"])


def test_version_2_is_read_and_1_and_4_are_not(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    for version in (2, 1, 4):
        content[4:8] = struct.pack("<I", version)
        (tmp_path / "a").write_bytes(content)
        if version == 2:
            with sv.load(tmp_path / "a") as saved:
                assert saved["vector"].tolist() == list(range(7))
        else:
            is_refused(tmp_path / "a", f"expected version 2 or 3 of GGUF, got {version}")


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.gguf", endianess=gguf.GGUFEndian.BIG)
    is_refused(path, "big-endian")
    is_refused(path, "Hint: convert it: gguf-convert-endian FILE little.")


def test_without_the_package(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    arrays = {"w": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(3, "float16")}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_alone(path) == summary(arrays)


def test_into_variables_and_from_mapped_memory(file: Path) -> None:
    model: dict[str, Any] = {
        "blk": {"0": {"weight": sv.Variable(np.zeros((3, 5), "float32"))}},
        "vector": sv.Variable([0.0] * 7),
    }
    sv.load(model, file, strict=False)
    assert model["vector"].numpy().tolist() == list(range(7))
    with sv.load(file, mmap=True) as saved:
        assert np.array_equal(saved["blk/0/weight"], model["blk"]["0"]["weight"].numpy())
        assert np.array_equal(saved["Q4_0/weight"], by_gguf(file)["Q4_0/weight"])
        assert not saved["vector"].flags.writeable


@settings(max_examples=25)
@given(blocks=st.integers(1, 5), seed=st.integers(0, 2**32 - 1), name=st.sampled_from(READ))
def test_any_bytes_are_dequantised_as_by_gguf(blocks: int, seed: int, name: str, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[name]
    width = gguf.GGML_QUANT_SIZES[kind][1]
    raw = np.random.default_rng(seed).integers(0, 256, blocks * width, np.uint8)
    (tmp_path / "a").write_bytes(forged([("w", (32, blocks), int(kind), 0)], data=raw.tobytes()))
    with np.errstate(all="ignore"):
        wanted = gguf.quants.dequantize(raw.reshape(blocks, width), kind)
    with sv.load(tmp_path / "a") as saved:
        assert np.array_equal(saved["w"], wanted, equal_nan=True)


def test_more_blocks_than_are_read_at_once(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(70_000, 32)).astype("float32")
    raw = quantised(rows, "Q4_0")
    (tmp_path / "a").write_bytes(forged([("w", (32, 70_000), 2, 0)], data=raw.tobytes()))
    with sv.load(tmp_path / "a") as saved:
        assert np.array_equal(saved["w"], gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q4_0))


# -- models in several files ---------------------------------------------------------------------------------


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    written(tmp_path / "m.gguf", split_max_tensors=6)
    return sorted(tmp_path.iterdir())


def test_a_split_model_is_whole_whichever_part_is_given(split: list[Path], file: Path) -> None:
    assert len(split) == 3
    with sv.load(file) as one:
        for path in split:
            with sv.load(path) as saved:
                assert list(saved) == list(one)
                names = [name for name in saved if name.partition("/")[0] not in NOT_READ]
                same({name: saved[name] for name in names}, {name: one[name] for name in names})
                assert saved.metadata["general.architecture"] == "llama"


def test_a_missing_or_foreign_part_is_an_error(split: list[Path]) -> None:
    content = split[1].read_bytes()
    split[1].unlink()
    is_refused(split[0], "the part m-00002-of-00003.gguf of the model is missing")
    split[1].write_bytes(split[2].read_bytes())
    is_refused(split[0], "the files are not the parts of one model")
    split[1].write_bytes(content)
    split[0].rename(split[0].with_name("first.gguf"))
    is_refused(split[0].with_name("first.gguf"), "llama-gguf-split --merge")


# -- forged files --------------------------------------------------------------------------------------------


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def forged(
    tensors: list[tuple[Any, tuple[int, ...], int, int]] | None = None,
    keys: list[tuple[Any, bytes]] | None = None,
    *,
    data: bytes = bytes(64),
    counts: tuple[int, int] | None = None,
    axes: int | None = None,
    version: int = 3,
) -> bytes:
    """A file of whatever is given: tensors as (name, sizes, type, offset), keys as (name, type and value)."""
    tensors = [("w", (4,), 0, 0)] if tensors is None else tensors
    keys = keys or []
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(keys))))
    for name, value in keys:
        head += text(name) + value
    for name, sizes, kind, offset in tensors:
        head += text(name) + struct.pack("<I", len(sizes) if axes is None else axes)
        head += struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % 32) + data


def value(kind: int, raw: bytes) -> bytes:
    return struct.pack("<I", kind) + raw


def array(kind: int, count: int, raw: bytes = b"") -> bytes:
    return value(9, struct.pack("<IQ", kind, count) + raw)


NESTED = struct.pack("<IQ", 9, 1) * 200 + struct.pack("<IQ", 0, 0)
HUGE = (2**31, 2**31, 2**31)

HOSTILE: dict[str, bytes] = {
    "only the magic": b"GGUF",
    "half a header": b"GGUF" + bytes(10),
    "version 0": forged(version=0),
    "more tensors than bytes": forged(counts=(2**63, 0)),
    "more keys than bytes": forged(counts=(1, 2**63)),
    "all counts at their highest": forged(counts=(2**64 - 1, 2**64 - 1)),
    "a tensor too many": forged(counts=(2, 0)),
    "a key too many": forged(counts=(1, 1)),
    "out of the file": forged([("w", (17,), 0, 0)]),
    "an offset out of the file": forged([("w", (4,), 0, 2**20)]),
    "the highest offset": forged([("w", (4,), 0, 2**64 - 1)]),
    "an offset that wraps around": forged([("w", (4,), 0, 2**64 - 16)]),
    "a bomb of sizes": forged([("w", (2**40,), 0, 0)]),
    "a product that wraps around": forged([("w", HUGE, 0, 0)]),
    "sizes that wrap around to zero": forged([("w", (2**32, 2**32), 0, 0)]),
    "sizes that overflow before a zero": forged([("w", (0, 2**62, 2**62), 0, 0)]),
    "the highest size": forged([("w", (2**64 - 1,), 0, 0)]),
    "quantised, out of the file": forged([("w", (32, 1000), 8, 0)]),
    "quantised, a bomb of sizes": forged([("w", (32, 2**50), 2, 0)]),
    "quantised, the highest offset": forged([("w", (32,), 8, 2**64 - 1)]),
    "quantised, half a block": forged([("w", (16,), 8, 0)]),
    "quantised, a row of another length": forged([("w", (33, 32), 2, 0)]),
    "quantised, without axes": forged([("w", (), 8, 0)]),
    "4,000,000,000 axes": forged([("w", (), 0, 0)], axes=2**32 - 1),
    "100 axes": forged([("w", (1,) * 100, 0, 0)]),
    "an unknown type": forged([("w", (4,), 1000, 0)]),
    "a type of several bytes": forged([("w", (4,), 2**32 - 1, 0)]),
    "a quantised type that is not read": forged([("w", (256,), 12, 0)]),
    "a name twice": forged([("w", (4,), 0, 0), ("w", (4,), 0, 0)]),
    "two names with one path": forged([("a.b", (4,), 0, 0), ("a/b", (4,), 0, 0), ("a.b", (4,), 0, 0)]),
    "an empty name": forged([("", (4,), 0, 0)]),
    "NUL in a name": forged([("a\0", (4,), 0, 0)]),
    "a name that is no UTF-8": forged([(b"\xff\xfe", (4,), 0, 0)]),
    "a key twice": forged(keys=[("a", value(0, b"\1"))] * 2),
    "an empty key": forged(keys=[("", value(0, b"\1"))]),
    "an unknown type of value": forged(keys=[("a", value(13, bytes(8)))]),
    "a text that is no UTF-8": forged(keys=[("a", value(8, text(b"\xff")))]),
    "a text of 16 EB": forged(keys=[("a", value(8, struct.pack("<Q", 2**64 - 1)))]),
    "a list of numbers longer than the file": forged(keys=[("a", array(12, 2**60))]),
    "a list of bytes longer than the file": forged(keys=[("a", array(0, 2**63))]),
    "a list of texts longer than the file": forged(keys=[("a", array(8, 2**60))]),
    "a list of lists longer than the file": forged(keys=[("a", array(9, 2**60))]),
    "3,000,000 texts": forged(keys=[("a", array(8, 3_000_000, bytes(24_000_000)))]),
    "a list of an unknown type": forged(keys=[("a", array(99, 1, bytes(8)))]),
    "lists 200 deep": forged(keys=[("a", value(9, NESTED))]),
    "an alignment of 0": forged(keys=[("general.alignment", value(4, bytes(4)))]),
    "an alignment that is no power of two": forged(keys=[("general.alignment", value(4, struct.pack("<I", 48)))]),
    "an alignment that is a text": forged(keys=[("general.alignment", value(8, text("32")))]),
    "an alignment behind the file": forged(keys=[("general.alignment", value(4, struct.pack("<I", 2**31)))]),
    "a negative alignment": forged(keys=[("general.alignment", value(5, struct.pack("<i", -32)))]),
    "a part of 2": forged(keys=[("split.count", value(2, b"\2\0"))]),
    "a part of a text": forged(keys=[("split.count", value(8, text("2")))]),
    "a part of 2**64 - 1": forged(keys=[("split.count", value(10, b"\xff" * 8))]),
}


def test_the_small_file_is_read(tmp_path: Path) -> None:
    """Else the tests below would say nothing."""
    (tmp_path / "a").write_bytes(forged(keys=[("a", array(9, 1, struct.pack("<IQ", 0, 2) + b"\1\2"))]))
    with sv.load(tmp_path / "a") as saved:
        assert saved["w"].tolist() == [0.0] * 4
        assert saved.metadata["a"] == [[1, 2]]


@pytest.mark.parametrize("case", HOSTILE)
def test_a_forged_file_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "a-00001-of-00002.gguf"
    path.write_bytes(HOSTILE[case])
    is_refused(path, "load: ")
    assert list(tmp_path.iterdir()) == [path]


SMALL = forged(
    [("blk.0.w", (4, 2), 0, 0), ("q", (32,), 2, 32)],
    [("general.alignment", value(4, struct.pack("<I", 32))), ("t", array(8, 2, text("a") + text("b")))],
)


@settings(max_examples=150)
@given(changes=edits(len(SMALL)))
def test_a_changed_file_is_refused_or_read(changes: list[tuple[int, bytes | None]], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"GGUF" + edited(SMALL, changes)[4:])
    tried(tmp_path / "a")
