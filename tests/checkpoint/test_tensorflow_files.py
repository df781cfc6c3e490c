"""Checkpoints that TensorFlow has written, read without TensorFlow: equal to what its own loader reads."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import CheckpointError
from tests.internals import checksums_of_tensorflow as sums
from tests.internals import names_of_tensorflow as naming

tf = pytest.importorskip("tensorflow")

DTYPES = {
    **{name: np.dtype(name) for name in ("bool", "int8", "int16", "int32", "int64", "float16", "float32", "float64")},
    **{name: np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64", "complex64", "complex128")},
    **{
        name: np.dtype(getattr(ml_dtypes, name))
        for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")
    },
}
SHAPES: dict[str, tuple[int, ...]] = {"scalar": (), "vector": (7,), "matrix": (3, 5), "empty": (0, 4)}


def save(prefix: Path, tensors: dict[str, Any], slices: Iterable[str] = ()) -> None:
    """Writes tensors under their names, as `tf.compat.v1.train.Saver` does."""
    names = list(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[name.partition("@")[0] for name in names],
        shape_and_slices=list(slices) or [""] * len(names),
        tensors=list(tensors.values()),
    )


def values_of(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    rng = np.random.default_rng(len(shape))
    numbers = rng.integers(0, 8, shape) - (0 if dtype.kind in "bu" or dtype.name.startswith("uint") else 4)
    return numbers.astype(np.int8).astype(dtype) if dtype.kind != "b" else numbers > 3


class Net(tf.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.reshape(tf.range(6.0), (2, 3)), name="dense/kernel")
        self.again = self.kernel
        self.parts = {"x/y.z": tf.Variable(1.0), "list": [tf.Variable([2, 3])]}
        self.words = tf.Variable(["é", "", "b" * 300])
        self.generator = tf.random.Generator.from_seed(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that TensorFlow writes for these tests."""
    folder = tmp_path_factory.mktemp("tensorflow")
    save(
        folder / "dtypes",
        {
            f"{dtype}/{shape}": tf.constant(values_of(DTYPES[dtype], SHAPES[shape]))
            for dtype in DTYPES
            for shape in SHAPES
        },
    )
    net = Net()
    checkpoint = tf.train.Checkpoint(net=net, step=tf.Variable(5, dtype="int64"))
    manager = tf.train.CheckpointManager(checkpoint, str(folder / "run"), max_to_keep=2)
    manager.save()
    net.kernel.assign_add(tf.ones((2, 3)))
    manager.save()
    tf.saved_model.save(net, str(folder / "exported"))
    iterator = iter(tf.data.Dataset.range(10))
    tf.train.Checkpoint(iterator=iterator, v=tf.Variable(1.5)).write(str(folder / "iterator"))
    return folder


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_what_tensorflow_reads(dtype: str, folder: Path) -> None:
    theirs = tf.train.load_checkpoint(str(folder / "dtypes"))
    with sv.load(folder / "dtypes") as saved:
        for kind, shape in SHAPES.items():
            name = f"{dtype}/{kind}"
            ours, wanted = saved[name], theirs.get_tensor(name)
            assert (ours.dtype, ours.shape) == (wanted.dtype, wanted.shape) == (DTYPES[dtype], shape)
            assert np.array_equal(ours.astype(np.complex128), np.asarray(wanted).astype(np.complex128))
            assert saved.variables[name].dtype == dtype
            assert saved.read(name).flags.writeable


def test_tensors_in_the_mapped_memory_of_the_file(folder: Path) -> None:
    with sv.load(folder / "dtypes", mmap=True) as saved, sv.load(folder / "dtypes") as read:
        for name in saved:
            assert saved[name].tobytes() == read[name].tobytes()


@pytest.mark.parametrize(
    ("shape", "parts"),
    [((8, 3), ["0,3:-", "3,5:-"]), ((2, 90), ["0,2:0,70", "0,2:70,20"]), ((3,), ["0,1", "1,1", "2,1"]), ((4,), ["-"])],
)
@pytest.mark.parametrize("dtype", ["float32", "string", "int4"])
def test_a_partitioned_variable_is_joined(dtype: str, shape: tuple[int, ...], parts: list[str], tmp_path: Path) -> None:
    numbers = np.arange(np.prod(shape)).reshape(shape)
    whole = numbers.astype(str) if dtype == "string" else (numbers % 8).astype(DTYPES[dtype])
    tensors = {}
    for i, part in enumerate(parts):
        place = tuple(
            slice(None) if each == "-" else slice(int(each.split(",")[0]), sum(map(int, each.split(","))))
            for each in part.split(":")
        )
        tensors[f"v@{i}"] = tf.constant(whole[place])
    save(tmp_path / "x", tensors, [f"{' '.join(map(str, shape))} {part}" for part in parts])
    with sv.load(tmp_path / "x") as saved:
        assert list(saved) == ["v"]
        assert saved["v"].tolist() == whole.tolist()
    assert sv.verify(tmp_path / "x").checked == 1


def test_names_are_the_paths_of_the_objects(folder: Path) -> None:
    with sv.load(folder / "run") as saved:
        assert list(saved) == [
            "net/generator/_state_var", "net/kernel", "net/parts/list/0", "net/parts/x~1y.z", "net/words",
            "save_counter", "step",
        ]  # fmt: skip
        assert saved["net/again"].tolist() == saved["net/kernel"].tolist() == [[1, 2, 3], [4, 5, 6]]
        assert saved["dense/kernel"].tolist() == saved["net/kernel"].tolist()  # the name of the variable itself
        assert saved["net/words"].tolist() == ["é", "", "b" * 300]
        assert saved["save_counter"] == 2


@pytest.mark.parametrize(
    "path",
    ["run", "run/checkpoint", "run/ckpt-2", "run/ckpt-2.index", "run/ckpt-2.data-00000-of-00001", "exported",
     "exported/variables", "exported/variables/variables"],
)  # fmt: skip
def test_each_path_of_a_checkpoint_opens_it(path: str, folder: Path) -> None:
    with sv.load(folder / path) as saved:
        name = "kernel" if path.startswith("exported") else "net/kernel"
        assert saved[name].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_an_older_checkpoint_of_the_folder(folder: Path) -> None:
    with sv.load(folder / "run/ckpt-1") as saved:
        assert saved["net/kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_folder_that_was_moved_is_opened_though_its_list_has_the_old_path(folder: Path, tmp_path: Path) -> None:
    for each in (folder / "run").iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/r\\303\\274n/../ckpt-1"\n')
    with sv.load(tmp_path) as saved:
        assert saved["save_counter"] == 1


def test_what_is_loaded_into_variables(folder: Path) -> None:
    model = {"net": {"kernel": sv.Variable(np.zeros((2, 3), "float32"))}, "step": sv.Variable(0, dtype="int64")}
    report = sv.load(model, folder / "run", only=["net/kernel", "step"])
    assert sorted(report.loaded) == ["net/kernel", "step"]
    assert model["net"]["kernel"].numpy().tolist() == [[1, 2, 3], [4, 5, 6]]  # type: ignore[index]


def test_what_only_tensorflow_can_read_is_listed_and_refused(folder: Path) -> None:
    with sv.load(folder / "iterator") as saved:
        assert set(saved) == {"iterator/ITERATOR_STATE", "v"}
        assert saved["v"] == 1.5
        with pytest.raises(CheckpointError, match=r"only TensorFlow can read this \(variant\)"):
            saved["iterator/ITERATOR_STATE"]


def test_slot_variables_are_named_by_their_optimizer(tmp_path: Path) -> None:
    keras = pytest.importorskip("tf_keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="last")])
    optimizer = keras.optimizers.legacy.Adam()
    optimizer.apply_gradients([(tf.ones_like(v), v) for v in model.trainable_variables])
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "x"))
    kernel = "model/layer_with_weights-0/kernel"
    with sv.load(tmp_path / "x") as saved:
        slot = optimizer.get_slot(model.layers[0].kernel, "m").numpy()
        assert np.array_equal(saved[f"optimizer/{kernel}/m"], slot)
        assert np.array_equal(saved["last/kernel"], saved[kernel])
        assert np.array_equal(saved["model/layer-0/kernel"], saved[kernel])


def test_names_of_keys() -> None:
    value = "/.ATTRIBUTES/VARIABLE_VALUE"
    keys = {"a": "a", f"a{value}": f"a{value}", f"b{value}": "b", "t/.ATTRIBUTES/table-keys": "t/table-keys"}
    assert naming.names_of(keys) == {name: key for key, name in keys.items()}
    assert naming.name_of(f"w/.OPTIMIZER_SLOT/a.Sb/m{value}") == "a~1b/w/m"
    assert naming.name_of("x.ATTRIBUTES/y") == "x.ATTRIBUTES/y"


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_the_checksum_of_joined_bytes(first: bytes, second: bytes) -> None:
    crc = 0xFFFFFFFF
    for octet in first + second:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert sums.crc32c(second, sums.crc32c(first)) == crc ^ 0xFFFFFFFF


@pytest.mark.parametrize("size", [16383, 16384, 16385, 70_001])
def test_the_checksum_of_many_bytes_is_that_of_their_parts(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    crc = 0
    for start in range(0, size, 1000):
        crc = sums.crc32c(data[start : start + 1000], crc)
    assert sums.crc32c(data) == crc


def test_verify_names_a_damaged_tensor(folder: Path, tmp_path: Path) -> None:
    for each in folder.glob("dtypes.*"):
        (tmp_path / each.name).write_bytes(each.read_bytes())
    assert sv.verify(tmp_path / "dtypes").checked == len(DTYPES) * len(SHAPES)
    place = tmp_path / "dtypes.data-00000-of-00001"
    content = bytearray(place.read_bytes())
    content[content.index(values_of(DTYPES["float64"], (3, 5)).tobytes()) + 2] ^= 1
    place.write_bytes(content)
    damaged = sv.verify(tmp_path / "dtypes").damaged
    assert list(damaged) == ["float64/matrix"]
    assert "the tensor is damaged: its checksum does not match" in damaged["float64/matrix"]


WITHOUT = """
import sys
for name in ("tensorflow", "keras", "tf_keras", "torch", "jax", "google.protobuf"):
    sys.modules[name] = None
import statevar as sv
with sv.load(sys.argv[1]) as saved:
    print(saved["net/kernel"].tolist(), saved["net/words"].tolist()[0])
assert not [name for name in sys.modules if name.startswith(("tensorflow.", "keras.", "torch."))]
"""


def test_it_is_read_where_tensorflow_cannot_be_imported(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(folder / "run")], capture_output=True, text=True, timeout=100, check=False,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"}, encoding="utf-8",
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]] é\n", 0), done.stderr


# -- forged files ----------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def nested(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def fixed(field: int, value: int) -> bytes:
    return varint(field << 3 | 5) + value.to_bytes(4, "little")


def shape(*sizes: int) -> bytes:
    return nested(2, b"".join(nested(2, number(1, size)) for size in sizes))


def entry(
    *sizes: int, dtype: int = 1, file: int = 0, offset: int = 0, size: int = 8, crc: int = 0, more: bytes = b""
) -> bytes:
    return (
        number(1, dtype) + shape(*sizes) + number(3, file) + number(4, offset) + number(5, size) + fixed(6, crc) + more
    )


def block(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(varint(0) + varint(len(k)) + varint(len(v)) + k + v for k, v in entries) + bytes(4) + b"\1\0\0\0"


def stored(content: bytes, kind: int = 0) -> bytes:
    content += bytes([kind])
    return content + sums.masked(sums.crc32c(content)).to_bytes(4, "little")


HEADER = number(1, 1)
MAGIC = bytes.fromhex("57fb808b247547db")


def table(entries: Iterable[tuple[bytes, bytes]] = (), content: bytes | None = None, kind: int = 0) -> bytes:
    """An index with sound checksums, so that the checks behind them are reached."""
    content = block([(b"", HEADER), *entries]) if content is None else content
    data = stored(content, kind)
    return indexed(data, [(0, len(content))])


def indexed(data: bytes, places: Iterable[tuple[int, int]], last: tuple[int, int] | None = None) -> bytes:
    index = block([(b"z" * (i + 1), varint(at) + varint(size)) for i, (at, size) in enumerate(places)])
    at, size = last or (len(data), len(index))
    footer = varint(0) + varint(0) + varint(at) + varint(size)
    return data + stored(index) + footer.ljust(40, b"\0") + MAGIC


def graph(*nodes: bytes, more: Iterable[tuple[bytes, bytes]] = ()) -> Callable[[Path], bytes]:
    """An index with a graph of objects, which is a string in the file of the tensors."""

    def made(path: Path) -> bytes:
        content = b"".join(nested(1, node) for node in nodes)
        crc = sums.crc32c(len(content).to_bytes(4, "little"))
        lengths = varint(len(content)) + sums.masked(crc).to_bytes(4, "little")
        crc = sums.crc32c(lengths[-4:] + content, crc)
        path.with_name("x.data-00000-of-00001").write_bytes(bytes(8) + lengths + content)
        size = len(lengths) + len(content)
        text = entry(dtype=7, offset=8, size=size, crc=sums.masked(crc))
        known = [(b"_CHECKPOINTABLE_OBJECT_GRAPH", text), (b"v/.ATTRIBUTES/VARIABLE_VALUE", entry(2))]
        return table(sorted([*known, *more]))

    return made


def child(node: int, name: bytes = b"c") -> bytes:
    return nested(1, number(1, node) + nested(2, name))


VARIABLE = nested(2, nested(1, b"VARIABLE_VALUE") + nested(3, b"v/.ATTRIBUTES/VARIABLE_VALUE"))
LENGTHS = varint(1) + sums.masked(sums.crc32c((1).to_bytes(4, "little"))).to_bytes(4, "little")
PART = nested(7, nested(1, number(1, 0) + number(2, 1)))
ENDLESS = b"\xff" * 30

FORGED: dict[str, bytes | Callable[[Path], bytes]] = {
    "no footer": b"x" * 200,
    "a footer and nothing else": bytes(40) + MAGIC,
    "a footer of endless integers": ENDLESS + ENDLESS[:10] + MAGIC,
    "an index block past the end": indexed(stored(block([(b"", HEADER)])), [(0, 10)], (1000, 1000)),
    "an index block of 2**63 bytes": indexed(b"", [], (0, 2**63)),
    "a data block past the end": indexed(stored(block([(b"", HEADER)])), [(0, 10_000)]),
    "a data block of 2**62 bytes": indexed(stored(block([(b"", HEADER)])), [(2**62, 2**62)]),
    "a block read twice": indexed(stored(block([(b"", HEADER)])), [(0, len(block([(b"", HEADER)])))] * 2),
    "a damaged block": table([(b"v", entry(2))]).replace(b"v", b"w", 1),
    "a block with snappy": table(kind=1),
    "a block of an unknown kind": table(kind=9),
    "a block without an end": table(content=b"abc"),
    "a block of 2**31 restarts": table(content=b"\xff\xff\xff\x7f"),
    "a key that shares bytes with none": table(content=varint(9) + varint(0) + varint(0) + bytes(4) + b"\1\0\0\0"),
    "a value past the block": table(content=varint(0) + varint(0) + varint(2**40) + bytes(4) + b"\1\0\0\0"),
    "an endless integer": table(content=ENDLESS + bytes(4) + b"\1\0\0\0"),
    "no header": table(content=block([])),
    "no header, but a tensor": table(content=block([(b"v", entry(2))])),
    "names out of order": table([(b"w", entry(2)), (b"v", entry(2, offset=8))]),
    "a name twice": table([(b"v", entry(2)), (b"v", entry(2))]),
    "a name that is no UTF-8": table([(b"\xff\xfe", entry(2))]),
    "a name of 100,000 slashes": table([(b"/" * 100_000, entry(2))]),
    "a name with NUL": table([(b"a\0b", entry(2))]),
    "big-endian": table(content=block([(b"", HEADER + number(2, 1))])),
    "a newer format": table(content=block([(b"", HEADER + nested(3, number(2, 9)))])),
    "2**40 files": table(content=block([(b"", number(1, 2**40))])),
    "a missing file": table([(b"v", entry(2, file=1))]),
    "a file of 2**63": table([(b"v", entry(2, file=2**63))]),
    "a field past the end": table([(b"v", entry(2) + varint(7 << 3 | 2) + varint(1000))]),
    "a field of a group": table([(b"v", entry(2) + varint(7 << 3 | 3))]),
    "a shape that is a number": table([(b"v", number(1, 1) + number(2, 7))]),
    "a dtype that is bytes": table([(b"v", nested(1, b"x"))]),
    "a negative size": table([(b"v", entry(-2))]),
    "an unknown rank": table([(b"v", number(1, 1) + nested(2, number(3, 1)))]),
    "a bomb of declared sizes": table([(b"v", entry(2**40, size=2**42))]),
    "a product that wraps around": table([(b"v", entry(2**62, 2**3, size=0))]),
    "a product that wraps to the right size": table([(b"v", entry(2**32, 2**32 + 2))]),
    "100 axes": table([(b"v", entry(*[1] * 99, 2))]),
    "20,000 axes": table([(b"v", entry(*[1] * 20_000))]),
    "past the end of the file": table([(b"v", entry(2, offset=4))]),
    "an offset of 2**62": table([(b"v", entry(2, offset=2**62))]),
    "an offset of -8": table([(b"v", entry(2, offset=-8))]),
    "tensors that share bytes": table([(b"v", entry(2)), (b"w", entry(1, offset=4, size=4))]),
    "fewer bytes than the shape": table([(b"v", entry(3))]),
    "more bytes than the shape": table([(b"v", entry(1))]),
    "more strings than bytes": table([(b"v", entry(2**40, dtype=7))]),
    "a part that is missing": table([(b"v", entry(1, more=PART, size=0))]),
    "parts with a gap": table([(b"v", entry(4, more=PART, size=0))]),
    "parts that overlap": table([(b"v", entry(1, more=PART + PART, size=0))]),
    "parts of another rank": table([(b"v", entry(1, 1, more=PART, size=0))]),
    "parts by two axes": table([(b"v", entry(2, 2, size=0, more=nested(7, nested(1, number(2, 1)) * 2)))]),
    "a graph that is no message": graph(b"\x07"),
    "a graph that refers to nothing": graph(child(7)),
    "a graph of 200 levels": graph(*(child(i + 1) for i in range(200)), VARIABLE),
    "a graph with huge paths": graph(*(child(i + 1, b"x" * 2_000_000) for i in range(12)), VARIABLE),
    "a graph of names that are no UTF-8": graph(child(1, b"\xff"), VARIABLE),
}  # fmt: skip


def is_refused_cheaply(path: Path, size: int) -> None:
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(CheckpointError) as caught, sv.load(path) as saved:
            for name in saved:
                saved[name]
        seconds, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 10_000
    assert seconds < 20
    assert peak < 20_000_000 + 20 * size


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_checkpoint_is_refused(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(8))
    made = FORGED[kind]
    content = made(tmp_path / "x") if callable(made) else made
    (tmp_path / "x.index").write_bytes(content)
    is_refused_cheaply(tmp_path / "x.index", len(content) + (tmp_path / "x.data-00000-of-00001").stat().st_size)


def test_the_sound_checkpoints_of_the_forger_are_read(tmp_path: Path) -> None:
    """Else the tests above would say nothing."""
    nodes = graph(child(1, b"v") + child(1, b"again") + child(0, b"itself"), VARIABLE + child(0, b"parent"))
    (tmp_path / "x.index").write_bytes(nodes(tmp_path / "x"))
    with sv.load(tmp_path / "x") as saved:
        assert dict(saved.aliases) == {"again": "v"}
        assert saved["again"].tolist() == [0, 0]
    (tmp_path / "y.index").write_bytes(table([(b"a", entry(2)), (b"b", entry(0, 5, size=0))]))
    (tmp_path / "y.data-00000-of-00001").write_bytes(np.array([1, 2], "<f4").tobytes())
    with sv.load(tmp_path / "y") as saved:
        assert saved["a"].tolist() == [1, 2]
        assert saved["b"].shape == (0, 5)


def test_a_graph_of_too_many_objects_gives_no_further_names(tmp_path: Path) -> None:
    nodes = graph(child(1, b"v") + child(1, b"again"), VARIABLE, *[b""] * 200_000)
    (tmp_path / "x.index").write_bytes(nodes(tmp_path / "x"))
    with sv.load(tmp_path / "x") as saved:
        assert (list(saved), dict(saved.aliases)) == (["v"], {})


def test_names_that_the_graph_contradicts_stay_readable(tmp_path: Path) -> None:
    more = [(name, entry(0, size=0)) for name in (b"/odd", b"a//b", b"other/inner")]
    nodes = graph(child(1, b"v") + child(1, b"other"), VARIABLE, more=more)
    (tmp_path / "x.index").write_bytes(nodes(tmp_path / "x"))
    with sv.load(tmp_path / "x") as saved:
        assert {name: saved[name].size for name in saved} == {"/odd": 0, "a//b": 0, "other/inner": 0, "v": 2}
        assert dict(saved.aliases) == {}


@pytest.mark.parametrize("text", ["", 'model_checkpoint_path: "', 'model_checkpoint_path: ".."', "x" * 5_000_000])
def test_a_list_that_names_no_checkpoint_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text(text)
    with pytest.raises((CheckpointError, FileNotFoundError)):
        sv.load(tmp_path)


def test_a_list_cannot_name_a_checkpoint_of_another_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{folder / "run" / "ckpt-1"}"')
    with pytest.raises(FileNotFoundError, match="there is no checkpoint of TensorFlow"):
        sv.load(tmp_path)


def size_of_first_block(index: bytearray) -> int:
    for size in range(8, len(index)):
        if sums.masked(sums.crc32c(bytes(index[: size + 1]))).to_bytes(4, "little") == index[size + 1 : size + 5]:
            return size
    raise AssertionError("no block was found")


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.booleans())
def test_a_mutated_checkpoint_is_refused_or_read_as_it_was(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, chance: random.Random, in_block: bool
) -> None:
    """With the checksum of the block put right, so that the parser of its content is reached."""
    whole = {each.suffix: each.read_bytes() for each in folder.glob("run/ckpt-2.*")}
    index = bytearray(whole.pop(".index"))
    place = tmp_path_factory.getbasetemp() / "mutated"
    ((suffix, data),) = whole.items()
    place.with_name(f"mutated{suffix}").write_bytes(data)
    size = size_of_first_block(index) if in_block else len(index)
    for _ in range(chance.choice([1, 1, 3])):
        at = chance.randrange(size)
        if chance.random() < 0.5:
            index[at] ^= 1 << chance.randrange(8)
        else:
            index[at] = chance.choice([0, 1, 127, 128, 255])
    if in_block:
        index[size + 1 : size + 5] = sums.masked(sums.crc32c(bytes(index[: size + 1]))).to_bytes(4, "little")
    place.with_name("mutated.index").write_bytes(index)
    try:
        with sv.load(place) as saved:
            for name in saved:
                try:
                    array = saved[name]
                except CheckpointError:
                    continue
                assert array.nbytes <= len(data) + 16 * array.size
    except CheckpointError:
        pass
