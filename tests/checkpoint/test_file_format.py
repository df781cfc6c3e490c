"""The file format, beside the real package safetensors: each opens what the other writes, and ours is the stricter."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import CheckpointError
from tests.internals import CODES, HOST, Entry, Header, decode, encode, header_format, laid_out

safetensors = pytest.importorskip("safetensors")
safe_numpy = pytest.importorskip("safetensors.numpy")

#: Those that are in a file as themselves, and those of them that NumPy has without ml_dtypes.
WHOLE = [name for name in HOST if not name.startswith(("complex", "int4", "uint4", "string"))]
PLAIN = [name for name in WHOLE if not name.startswith(("bfloat", "float8"))]

Array = np.ndarray[Any, Any]


def any_bits(dtype: str, shape: tuple[int, ...] = (3, 5)) -> Array:
    """Infinities, NaNs with a payload and -0.0 are among them."""
    raw = np.frombuffer(np.random.default_rng(0).bytes(math.prod(shape) * HOST[dtype].itemsize), np.uint8)
    return (raw % 2 if dtype == "bool" else raw).view(HOST[dtype]).reshape(shape)


def assert_same_bits(got: Any, expected: Array) -> None:
    got = np.asarray(got)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.tobytes() == expected.tobytes()


def variables(dtypes: list[str]) -> dict[str, Any]:
    """Of each dtype one array in C order, one that is transposed, an empty one and a scalar."""
    return {
        dtype: {
            "plain": sv.Variable(any_bits(dtype), dtype=dtype),
            "strided": sv.Variable(any_bits(dtype, (4, 6))[::2, ::-1].T, dtype=dtype),
            "empty": sv.Variable(any_bits(dtype, (0, 2)), dtype=dtype),
            "scalar": sv.Variable(any_bits(dtype, ()), dtype=dtype),
        }
        for dtype in dtypes
    }


# -- the package opens what we write -----------------------------------------------------------------------


def test_the_package_opens_our_files_with_numpy(tmp_path: Path) -> None:
    model = variables(PLAIN)
    sv.save(model, tmp_path / "a", metadata={"epoch": 3})
    named = sv.named_variables(model)
    assert len(named) == 4 * len(PLAIN)
    loaded = safe_numpy.load_file(tmp_path / "a")
    assert loaded.keys() == named.keys()
    for path, array in loaded.items():
        assert_same_bits(array, named[path].numpy())
    with safetensors.safe_open(tmp_path / "a", framework="np") as file:
        assert set(file.keys()) == named.keys()
        assert json.loads(file.metadata()["statevar.metadata"]) == {"epoch": 3}
        assert_same_bits(file.get_slice("float32/strided")[1:3], named["float32/strided"].numpy()[1:3])


def test_the_package_opens_our_files_with_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safe_torch = pytest.importorskip("safetensors.torch")
    model = variables(WHOLE)
    sv.save(model, tmp_path / "a")
    named = sv.named_variables(model)
    loaded = safe_torch.load_file(tmp_path / "a")
    assert loaded.keys() == named.keys()
    for path, tensor in loaded.items():
        assert str(tensor.dtype) == f"torch.{path.partition('/')[0]}"
        assert tensor.shape == named[path].shape
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0, np.uint8)
        assert raw.tobytes() == named[path].numpy().tobytes()


def test_the_package_opens_our_files_with_jax(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    safe_flax = pytest.importorskip("safetensors.flax")
    model = variables([name for name in PLAIN if "64" not in name] + ["bfloat16"])
    sv.save(model, tmp_path / "a")
    named = sv.named_variables(model)
    for path, array in safe_flax.load_file(tmp_path / "a").items():
        assert_same_bits(array, named[path].numpy())


def test_the_package_opens_our_files_with_tensorflow(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    safe_tensorflow = pytest.importorskip("safetensors.tensorflow")
    model = variables(PLAIN)
    sv.save(model, tmp_path / "a")
    named = sv.named_variables(model)
    for path, array in safe_tensorflow.load_file(tmp_path / "a").items():
        assert_same_bits(array, named[path].numpy())


def test_the_package_opens_what_has_no_dtype_of_its_own(tmp_path: Path) -> None:
    """The table at the top of `_values`."""
    z = sv.Variable(np.array([1 + 2j, -0.0 - 4j], "complex64"))
    i = sv.Variable([-8, 7], dtype="int4")
    s = sv.Variable(["é", ""], dtype="string")
    sv.save({"z": z, "i": i, "s": s, "unset": sv.Variable(shape=(2,), dtype="float32")}, tmp_path / "a")
    loaded = safe_numpy.load_file(tmp_path / "a")
    assert_same_bits(loaded["z"], np.array([[1, 2], [-0.0, -4]], "float32"))
    assert_same_bits(loaded["i"], np.array([-8, 7], "int8"))
    assert loaded["s"].tobytes() == np.array([2, 0], "<i8").tobytes() + "é".encode()
    assert loaded.keys() == {"z", "i", "s"}


def test_the_package_opens_each_of_several_files(tmp_path: Path) -> None:
    model = variables(["float32", "int8", "bool"])
    sv.save(model, tmp_path / "index", max_shard_size=100)
    index = json.loads((tmp_path / "index").read_text())
    named = sv.named_variables(model)
    assert index["weight_map"].keys() == named.keys()
    files = {path.name: safe_numpy.load_file(path) for path in tmp_path.glob("*.safetensors")}
    assert len(files) > 2
    assert set(index["weight_map"].values()) == {name for name, tensors in files.items() if tensors}
    for path, name in index["weight_map"].items():
        assert_same_bits(files[name][path], named[path].numpy())


# -- we open what the package writes -----------------------------------------------------------------------


def test_we_open_files_of_the_package_from_numpy(tmp_path: Path) -> None:
    arrays = {f"{dtype}.{len(shape)}": any_bits(dtype, shape) for dtype in PLAIN for shape in [(3, 5), (0, 2), ()]}
    safe_numpy.save_file(arrays, tmp_path / "a", metadata={"format": "np"})
    with sv.load(tmp_path / "a") as checkpoint:
        assert set(checkpoint) == arrays.keys()
        for name, array in arrays.items():
            assert_same_bits(checkpoint[name], array)
            assert checkpoint.variables[name].dtype == name.partition(".")[0]
        assert (dict(checkpoint.metadata), dict(checkpoint.aliases)) == ({}, {})
    found = sv.verify(tmp_path / "a")
    assert found
    assert (found.checked, set(found.unchecked), found.damaged) == (0, set(arrays), {})
    model = {name: sv.Variable(shape=array.shape, dtype=array.dtype) for name, array in arrays.items()}
    assert sorted(sv.load(model, tmp_path / "a").loaded) == sorted(arrays)
    for name, array in arrays.items():
        assert_same_bits(model[name].numpy(), array)


def test_we_open_files_of_the_package_from_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safe_torch = pytest.importorskip("safetensors.torch")
    linear = torch.nn.Linear(3, 2).to(torch.bfloat16)
    eights = {f"{name}": torch.tensor([1.0, -0.0, 448.0]).to(getattr(torch, name)) for name in WHOLE if "8_" in name}
    assert len(eights) == 2
    safe_torch.save_file({**linear.state_dict(), **eights}, tmp_path / "a")
    model = {
        "weight": sv.Variable(shape=(2, 3), dtype="bfloat16", backend="torch"),
        "bias": sv.Variable(shape=(2,), dtype="bfloat16"),
        **{name: sv.Variable(shape=(3,), dtype=name) for name in eights},
    }
    sv.load(model, tmp_path / "a")
    assert torch.equal(model["weight"].value, linear.weight)
    assert model["bias"].numpy().astype("float32").tolist() == linear.bias.tolist()
    for name, tensor in eights.items():
        assert model[name].numpy().astype("float32").tolist() == tensor.float().tolist()


def test_we_open_complex_numbers_of_the_package(tmp_path: Path) -> None:
    array = any_bits("complex64")
    safe_numpy.save_file({"z": array}, tmp_path / "a")
    v = sv.Variable(shape=array.shape, dtype="complex64")
    sv.load({"z": v}, tmp_path / "a")
    assert_same_bits(v.numpy(), array)


@pytest.mark.parametrize("code", ["F8_E8M0", "F4", "F6_E2M3", "Q1"])
def test_a_dtype_that_we_have_not_is_named(tmp_path: Path, code: str) -> None:
    (tmp_path / "a").write_bytes(file_of({"w": tensor(dtype=code, shape=[0], data_offsets=[0, 0])}))
    with pytest.raises(CheckpointError, match=f"^load: the tensor 'w' has the unknown dtype '{code}', at '.*a'.$"):
        sv.load(tmp_path / "a")


# -- the encoder and the decoder ---------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=12)
names = texts.filter(lambda name: name != "" and "\0" not in name and name != "__metadata__")
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
tensors = st.lists(
    st.tuples(names, st.sampled_from(sorted(CODES)), shapes), unique_by=lambda tensor: tensor[0], max_size=6
)
metadata = st.dictionaries(texts.filter(lambda key: not key.startswith("statevar.")), texts, max_size=4)


def size_of(entries: list[Entry]) -> int:
    return sum(entry.nbytes for entry in entries)


@given(tensors, metadata)
def test_what_is_encoded_is_decoded(given_tensors: list[Any], texts: dict[str, str]) -> None:
    entries = laid_out(given_tensors)
    beginning = encode(entries, texts)
    header = decode(beginning, len(beginning) + size_of(entries), "here")
    assert header.metadata == texts
    assert list(header.entries.values()) == entries
    assert header.begin == len(beginning)
    assert header.digest is not None
    assert {(entry.name, entry.code, entry.shape) for entry in entries} == set(given_tensors)


@given(tensors)
def test_every_tensor_is_aligned_and_there_are_no_holes(given_tensors: list[Any]) -> None:
    entries = laid_out(given_tensors)
    assert len(encode(entries, {})) % 64 == 0
    assert all(entry.start % CODES[entry.code] == 0 for entry in entries)
    assert [entry.start for entry in entries] == [0, *(entry.stop for entry in entries)][: len(entries)]


@given(tensors, metadata)
def test_the_package_reads_what_is_encoded(given_tensors: list[Any], texts: dict[str, str]) -> None:
    entries = laid_out(given_tensors)
    read = safetensors.deserialize(encode(entries, texts) + bytes(size_of(entries)))
    assert {(name, each["dtype"], tuple(each["shape"])) for name, each in read} == set(given_tensors)


def test_the_length_of_a_header_does_not_depend_on_checksums() -> None:
    entries = laid_out([("w", "F32", (2,))])
    assert len(encode(entries, {"a": "0" * 32})) == len(encode(entries, {"a": "f" * 32}))


def test_text_in_metadata_is_not_taken_for_the_checksum() -> None:
    trap = f'"statevar.header":"{"0" * 32}"'
    beginning = encode([], {"a": trap, trap: "b"})
    assert decode(beginning, len(beginning), "here").metadata == {"a": trap, trap: "b"}


def test_a_header_that_is_too_long_for_readers_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header_format, "_LONGEST_HEADER", 1000)
    with pytest.raises(
        CheckpointError,
        match=r"save: the header takes 1\d\d\d bytes, and readers accept 1000\. Hint: set max_shard_size.",
    ):
        encode([], {"a": "b" * 1000})


@given(tensors, st.data())
def test_any_changed_bit_of_a_header_is_noticed(given_tensors: list[Any], data: st.DataObject) -> None:
    entries = laid_out(given_tensors)
    content = bytearray(encode(entries, {"statevar.format": "1"}))  # as every file of ours has
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CheckpointError):
        decode(bytes(content), len(content) + size_of(entries), "here")


# -- where ours and the package disagree --------------------------------------------------------------------


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


def theirs(content: bytes) -> list[tuple[str, str, tuple[int, ...], bytes]] | None:
    """What the package reads; None if it refuses."""
    try:
        read = safetensors.deserialize(content)
    except safetensors.SafetensorError:
        return None
    return sorted((name, each["dtype"], tuple(each["shape"]), bytes(each["data"])) for name, each in read)


def ours(content: bytes) -> list[tuple[str, str, tuple[int, ...], bytes]] | None:
    try:
        header: Header = decode(content, len(content), "here")
    except CheckpointError:
        return None
    data = content[header.begin :]
    return sorted(
        (each.name, each.code, each.shape, data[each.start : each.stop]) for each in header.entries.values()
    )  # fmt: skip


EMPTY = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'

#: By what they are: headers that only ours refuses, as text.
STRICTER = {
    "a name twice": f'{{"a":{EMPTY},"a":{EMPTY}}}',
    "a name twice, once escaped": f'{{"a":{EMPTY},"\\u0061":{EMPTY}}}',
    "a key of metadata twice": '{"__metadata__":{"a":"b","a":"c"}}',
    "metadata that is null": '{"__metadata__":null}',
    "an empty name": f'{{"":{EMPTY}}}',
    "NUL in a name": f'{{"a\\u0000b":{EMPTY}}}',
    "a tensor as a list": '{"a":["F32",[0],[0,0]]}',
    "a further field": f'{{"a":{EMPTY[:-1]},"more":1}}}}',
    "a dtype without arrays": EMPTY.replace("F32", "F8_E8M0").join(['{"a":', "}"]),
    "65 dimensions": EMPTY.replace("[0]", str([0] * 65)).join(['{"a":', "}"]),
}


@pytest.mark.parametrize("kind", STRICTER)
def test_ours_refuses_what_the_package_lets_pass(kind: str) -> None:
    content = file_of(STRICTER[kind].encode())
    assert theirs(content) is not None
    assert ours(content) is None


#: Headers that nobody should take.
REFUSED: dict[str, str | bytes] = {
    "nothing": "",
    "a list": "[]",
    "a comma too many": f'{{"a":{EMPTY},}}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "text behind it": "{}x",
    "NUL behind it": "{}\0",
    "half a header": f'{{"a":{EMPTY}',
    "no UTF-8": b'{"\xff":' + EMPTY.encode() + b"}",
    "a control character": f'{{"a\n":{EMPTY}}}',
    "NaN": f'{{"a":{EMPTY.replace("[0]", "[NaN]")}}}',
    "Infinity": f'{{"a":{EMPTY.replace("[0]", "[Infinity]")}}}',
    "a float": f'{{"a":{EMPTY.replace("[0]", "[0.0]")}}}',
    "an exponent": f'{{"a":{EMPTY.replace("[0]", "[0e0]")}}}',
    "a bool": f'{{"a":{EMPTY.replace("[0]", "[false]")}}}',
    "a text": f'{{"a":{EMPTY.replace("[0]", "[" + chr(34) + "0" + chr(34) + "]")}}}',
    "a zero in front": f'{{"a":{EMPTY.replace("[0]", "[00]")}}}',
    "hexadecimal": f'{{"a":{EMPTY.replace("[0]", "[0x0]")}}}',
    "negative": f'{{"a":{EMPTY.replace("[0]", "[-1]")}}}',
    "10,000 digits": f'{{"a":{EMPTY.replace("[0]", "[1" + "0" * 10_000 + "]")}}}',
    "deep": '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    "a shape without its bytes": f'{{"a":{EMPTY.replace("[0]", "[1]")}}}',
    "bytes without their shape": f'{{"a":{EMPTY.replace("[0,0]", "[0,4]")}}}',
    "offsets that go back": f'{{"a":{EMPTY.replace("[0,0]", "[4,0]")}}}',
    "a hole in front": f'{{"a":{EMPTY.replace("[0,0]", "[4,4]")}}}',
    "metadata twice": '{"__metadata__":{},"__metadata__":{}}',
    "metadata of numbers": '{"__metadata__":{"a":1}}',
    "comments": "{/**/}",
    "single quotes": "{'a':1}",
    "half a surrogate pair in a name": f'{{"\\ud800":{EMPTY}}}',
    "half a surrogate pair in metadata": '{"__metadata__":{"a":"\\ud800"}}',
    "minus zero": f'{{"a":{EMPTY.replace("[0]", "[-0]")}}}',
    "an overflow before a zero": f'{{"a":{EMPTY.replace("[0]", f"[{2**62},5,0]")}}}',
}


@pytest.mark.parametrize("kind", REFUSED)
def test_ours_refuses_what_the_package_refuses(kind: str) -> None:
    header = REFUSED[kind]
    for data in (b"", bytes(4)):
        content = file_of(header if isinstance(header, bytes) else header.encode(), data)
        assert theirs(content) is None
        assert ours(content) is None


#: A value that stands where another should, as JSON.
ODD = st.sampled_from(
    [
        *("null", "true", "false", "[]", "{}", "[0]", "[[0,8]]", '"F32"', '"f32"', '"F64"', '"BOOL"', '""', '"0"'),
        *("-1", "1.0", "1e0", "8e0", "NaN", "0", "1", "2", "4", "8", "16", "[8]", "[1,2]", "[2,1]", "[0,0]", "[8,0]"),
        *("[0,16]", "[8,16]", "[4,12]", "[0,8,16]", "[-8,0]", "[1.0,2]", "[true,8]", "[2,0]", "[0,2]"),
        *(str(2**31), str(2**32), str(2**63), str(2**64), f"[{2**32},{2**32}]", f"[{2**63},2]", f"[0,{2**64}]"),
        *("-0", "[-0,8]", '"\\ud800"', f"[{2**62},5,0]", f"[{2**62},0]"),
    ]
)
SPACES = st.sampled_from(["", "", "", " ", "\n", "\t", "\r", "\f", "\xa0", "\0"])


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A header of up to three tensors, in which up to three things are wrong."""
    pairs: list[tuple[str, list[tuple[str, str]]]] = []
    offset = 0
    for i in range(draw(st.integers(0, 3))):
        code = draw(st.sampled_from(sorted(CODES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        stop = offset + math.prod(shape) * CODES[code]
        fields = [("dtype", f'"{code}"'), ("shape", str(shape)), ("data_offsets", f"[{offset},{stop}]")]
        pairs.append((f"t{i}", fields))
        offset = stop
    for _ in range(draw(st.integers(0, 3)) if pairs else 0):
        i = draw(st.integers(0, len(pairs) - 1))
        name, fields = pairs[i]
        j = draw(st.integers(0, max(len(fields) - 1, 0)))
        match draw(st.sampled_from(["value", "value", "drop", "again", "key", "name", "tensor", "order"])):
            case "value" if fields:
                fields[j] = fields[j][0], draw(ODD)
            case "drop" if fields:
                del fields[j]
            case "again" if fields:
                fields.append(fields[j])
            case "key" if fields:
                fields[j] = draw(st.sampled_from(["Shape", "shape", "dtype", "", "more"])), fields[j][1]
            case "name":
                pairs[i] = draw(st.sampled_from(["", "t0", "t1", "a/b", "../a", "é", "__metadata__"])), fields
            case "tensor":
                pairs.append((draw(st.sampled_from([name, "more"])), list(fields)))
            case "order":
                pairs.reverse()
    space = [draw(SPACES) for _ in range(4)]
    text = ",".join(
        f'"{name}":{space[0]}{{{",".join(f"{json.dumps(key)}{space[1]}:{value}" for key, value in fields)}}}'
        for name, fields in pairs
    )
    extra = draw(st.sampled_from(["", "", "", '"__metadata__":{}', '"__metadata__":{"a":"b"}', '"__metadata__":[]']))
    return f"{space[2]}{{{','.join(filter(None, (extra, text)))}}}{space[3]}".encode()


@given(headers(), st.integers(0, 40))
@settings(max_examples=300)
@example(b"{}", 0)
def test_ours_takes_no_header_that_the_package_refuses(header: bytes, count: int) -> None:
    for data in (bytes(range(count)), bytes(_end(header))):
        content = file_of(header, data)
        read, expected = ours(content), theirs(content)
        if read is not None:
            assert read == expected, "ours takes what the package refuses, or reads it differently"


def _end(header: bytes) -> int:
    """Where the data seems to end, so that some of the changed headers are sound."""
    try:
        return int(min(max(each["data_offsets"][1] for each in json.loads(header).values() if each), 1000))
    except (KeyError, ValueError, TypeError, AttributeError, IndexError):
        return 0


@given(tensors, st.binary(min_size=1, max_size=3), st.data())
def test_ours_takes_no_changed_file_of_the_package(given_tensors: list[Any], other: bytes, data: st.DataObject) -> None:
    """Of a file without checksums, so that the checks behind them are reached."""
    arrays = {name: np.zeros(shape, _NUMPY[code]) for name, code, shape in given_tensors if code in _NUMPY}
    content = bytearray(safe_numpy.save(arrays, {"a": "b"}))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + len(other)] = other
    read = ours(bytes(content))
    assert read is None or read == theirs(bytes(content))


#: What the package can write of NumPy.
_NUMPY = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "?",
}

Changed = Callable[[bytes], bytes]

#: Changes of the frame around the header.
FRAMES: dict[str, Changed] = {
    "nothing": lambda content: b"",
    "7 bytes": lambda content: content[:7],
    "only a length": lambda content: content[:8],
    "a header of no bytes": lambda content: bytes(8),
    "one byte less": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "a length past the end": lambda content: (len(content) - 7).to_bytes(8, "little") + content[8:],
    "a length of 2**63": lambda content: (2**63).to_bytes(8, "little") + content[8:],
    "a length of 2**64 - 1": lambda content: b"\xff" * 8 + content[8:],
    "big-endian": lambda content: content[:8][::-1] + content[8:],
    "a length that is one too small": lambda content: (content[0] - 1).to_bytes(1, "little") + content[1:],
}


#: Where a key is written twice, among texts with quotes and backslashes.
TWICE = {
    "a dtype": '"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}',
    "a shape": '"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"shape":[0]}',
    "offsets, once with texts": '"a":{"dtype":"F32","shape":[0],"data_offsets":["a","b"],"data_offsets":[0,0]}',
    "a name, once with a quote": f'"\\"":{EMPTY},"\\u0022":{EMPTY}',
    "a name that ends in a backslash": f'"\\\\":{EMPTY},"\\\\":{EMPTY}',
    "a key of metadata with quotes": r'"__metadata__":{"\"\\\"":"\\","\"\\\"":"\\\\\""}',
}


@pytest.mark.parametrize("kind", TWICE)
def test_a_key_that_comes_twice_is_refused(kind: str) -> None:
    content = file_of(f"{{{TWICE[kind]}}}".encode(), b"")
    with pytest.raises(CheckpointError, match="a name occurs twice"):
        decode(content, len(content), "here")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a"\\/\n\0é😀')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('a"\\é')), inner),
)


def count_texts(value: Any) -> int:
    if isinstance(value, dict):
        return len(value) + sum(map(count_texts, value.values()))
    return sum(map(count_texts, value)) if isinstance(value, list) else isinstance(value, str)


@given(_JSON, st.booleans(), st.integers(0, 2))
def test_texts_are_counted_as_they_are_parsed(value: Any, ascii_only: bool, depth: int) -> None:
    for _ in range(depth):  # as the metadata is: JSON in a text of JSON
        value = json.dumps(value)
    assert header_format._count_texts(json.dumps(value, ensure_ascii=ascii_only).encode()) == count_texts(value)


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("writer", ["ours", "theirs"])
def test_a_broken_frame_is_refused(kind: str, writer: str) -> None:
    sound = encode([Entry("w", "F32", (2,), 0, 8)], {"a": "b"}) + bytes(8)
    if writer == "theirs":
        sound = safe_numpy.save({"w": np.zeros(2, "float32")})
    assert ours(sound) is not None
    content = FRAMES[kind](sound)
    assert theirs(content) is None
    assert ours(content) is None
