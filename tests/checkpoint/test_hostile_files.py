"""Files made to harm: each is refused, cheaply, and reaches nothing else."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import CheckpointError
from tests.checkpoint.damaged import (
    Model,
    Raw,
    dumped,
    is_refused,
    nothing_changes,
    open_files,
    state,
    with_index_checksum,
)
from tests.internals import DIGITS, HOST, decode, digest_of

SECONDS = 20.0  # of a processor: an attack costs minutes, and a refusal less than one
MEMORY = 100_000_000

# -- hostile files ---------------------------------------------------------------------------------------------


def with_checksum(content: Any, data: bytes = b"", *, spread: bool = True) -> bytes:
    """A file of ours with a sound checksum over whatever its header says.

    Args:
        content: the header; its metadata may have texts, or what is to be JSON in a text.
        spread: whether the tensors get their checksums too.
    """
    content = copy.deepcopy(content)
    texts = content.get("__metadata__") if isinstance(content, dict) else None
    if isinstance(texts, dict):
        tensors = [each for name, each in content.items() if name != "__metadata__"]
        if spread:
            texts["statevar.checksums"] = "".join(_checksum(each, data) for each in tensors)
        for name in ("variables", "aliases", "metadata", "metrics"):
            key = f"statevar.{name}"
            if key in texts and not isinstance(texts[key], str):
                texts[key] = dumped(texts[key])
        texts["statevar.header"] = "0" * DIGITS
    text = dumped(content).encode("utf-8", "surrogatepass")
    blank = len(text).to_bytes(8, "little") + text
    guard = f'"statevar.header":"{"0" * DIGITS}"'.encode()
    return blank.replace(guard, guard.replace(b"0" * DIGITS, digest_of(blank).encode()), 1) + data


def _checksum(tensor: Any, data: bytes) -> str:
    try:
        start, stop = tensor["data_offsets"]
        return digest_of(data[start:stop])
    except (TypeError, KeyError, ValueError):
        return "0" * DIGITS


def unset(**changes: Any) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "shape": [2],
        "declared": [2],
        "trainable": True,
        "autocast": True,
        "aggregation": "mean",
        "backend": "numpy",
        **changes,
    }


def header_of(**changes: Any) -> dict[str, Any]:
    """A small valid header of ours, of the variables ``v`` (float32) and ``s`` (string), with changes to each part."""
    parts: dict[str, Any] = {
        "v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "s": {"dtype": "U8", "shape": [9], "data_offsets": [8, 17]},
        "texts": {},
        "variable": {},
        "string": {},
        **changes,
    }
    texts = {
        "statevar.format": "1",
        "statevar.variables": {
            "v": unset(**parts["variable"]) if isinstance(parts["variable"], dict) else parts["variable"],
            "s": unset(**{"dtype": "string", "shape": [], "declared": []} | parts["string"]),
        },
        "statevar.aliases": {"again": "v"},
        "statevar.metadata": {"epoch": 3},
        "statevar.metrics": {"loss": 0.5},
    }
    return {"__metadata__": {**texts, **parts["texts"]}, "v": parts["v"], "s": parts["s"]}


DATA = np.array([1.0, 2.0], "<f4").tobytes() + np.array([1], "<i8").tobytes() + b"a"


def small() -> Model:
    v = sv.Variable(shape=..., dtype="float32")
    return {"v": v, "s": sv.Variable(shape=..., dtype="string"), "again": v}


def test_the_small_valid_file_is_loaded(tmp_path: Path) -> None:
    """Else the tests below would say nothing."""
    (tmp_path / "a").write_bytes(with_checksum(header_of(), DATA))
    target = small()
    sv.load(target, tmp_path / "a")
    assert target["v"].numpy().tolist() == [1.0, 2.0]
    assert target["s"].numpy().item() == "a"
    with sv.load(tmp_path / "a") as checkpoint:
        assert dict(checkpoint.aliases) == {"again": "v"}
        assert dict(checkpoint.metadata) == {"epoch": 3}
        assert checkpoint.metrics == {"loss": 0.5}


def tensor_with(**changes: Any) -> dict[str, Any]:
    return header_of(v={"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes})


def text_with(**changes: Any) -> dict[str, Any]:
    return header_of(texts={f"statevar.{name}": value for name, value in changes.items()})


DEEP = "[" * 50_000 + "]" * 50_000
MANY = Raw("1" + "0" * 9_999)

#: Headers that get a sound checksum, so that the checks behind it are reached.
HOSTILE: dict[str, Any] = {
    "overlap": tensor_with(data_offsets=[1, 9]),
    "the bytes of another": tensor_with(dtype="U8", shape=[9], data_offsets=[8, 17]),
    "a hole": tensor_with(shape=[1], data_offsets=[0, 4]),
    "out of range": tensor_with(shape=[100], data_offsets=[17, 417]),
    "a bomb of declared sizes": tensor_with(shape=[2**40], data_offsets=[0, 2**42]),
    "a product that wraps around": tensor_with(shape=[2**62 + 2**61, 2**3], data_offsets=[0, 0]),
    "a product that wraps to the right size": tensor_with(shape=[2**32, 2**32 + 2], data_offsets=[0, 8]),
    "negative offsets": tensor_with(data_offsets=[-8, 0]),
    "offsets that go back": tensor_with(data_offsets=[8, 0]),
    "negative shape": tensor_with(shape=[-2]),
    "two negative lengths": tensor_with(shape=[-1, -2]),
    "huge offsets": tensor_with(data_offsets=[2**64, 2**64 + 8]),
    "offsets of 10,000 digits": tensor_with(data_offsets=[MANY, MANY]),
    "a shape of 10,000 digits": tensor_with(shape=[MANY]),
    "a shape of 4,000 digits": tensor_with(shape=[10**3999] * 100),
    "100 dimensions": tensor_with(shape=[1] * 99 + [2]),
    "200,000 dimensions": tensor_with(shape=Raw("[" + "1," * 200_000 + "2]")),
    "a bool as size": tensor_with(shape=[True, 2]),
    "a float as size": tensor_with(shape=[Raw("2.0")]),
    "an exponent as size": tensor_with(shape=[Raw("2e0")]),
    "NaN as size": tensor_with(shape=[Raw("NaN")]),
    "Infinity as offset": tensor_with(data_offsets=[0, Raw("Infinity")]),
    "a text as size": tensor_with(shape=["2"]),
    "a shape that is a number": tensor_with(shape=2),
    "a shape that is null": tensor_with(shape=None),
    "a shape that is a mapping": tensor_with(shape={"0": 2}),
    "three offsets": tensor_with(data_offsets=[0, 4, 8]),
    "no offsets": tensor_with(data_offsets=[]),
    "an unknown dtype": tensor_with(dtype="X32"),
    "a long unknown dtype": tensor_with(dtype="X" * 1_000_000),
    "a dtype that is a number": tensor_with(dtype=32),
    "a dtype that is a list": tensor_with(dtype=["F32"]),
    "another dtype of the same size": tensor_with(dtype="I32"),
    "a further field": tensor_with(more=1),
    "a tensor that is a list": header_of(v=["F32", [2], [0, 8]]),
    "a tensor that is null": header_of(v=None),
    "a deep tensor": header_of(v=Raw(DEEP)),
    "an empty name": {**header_of(), "": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    "NUL in a name": {**header_of(), "a\0": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},
    "no metadata of ours but a checksum": {**header_of(), "__metadata__": {"statevar.more": "1"}},
    "metadata that is a list": {**header_of(), "__metadata__": []},
    "metadata of numbers": header_of(texts={"a": 1}),
    "a newer format": text_with(format="2"),
    "a format that is a number": text_with(format=1),
    "variables that are no JSON": text_with(variables="{"),
    "variables that are a list": text_with(variables=[]),
    "deep variables": text_with(variables=DEEP),
    "variables with a name twice": text_with(variables='{"v":{},"v":{}}'),
    "variables with NaN": header_of(variable={"trainable": Raw("NaN")}),
    "a variable that is null": header_of(variable=None),
    "a variable that is a text": header_of(variable="float32"),
    "a variable that is a list": header_of(variable=["float32", [2]]),
    "another dtype": header_of(variable={"dtype": "int32"}),
    "a dtype that is unknown to us": header_of(variable={"dtype": "object"}),
    "a dtype that is no text": header_of(variable={"dtype": {"a": 1}}),
    "a dtype that is nothing": header_of(variable={"dtype": {}}),
    "another shape of the same size": header_of(variable={"shape": [1, 2]}),
    "no shape, and a tensor": header_of(variable={"shape": None}),
    "a shape of texts": header_of(variable={"shape": ["2"]}),
    "a shape of bools": header_of(variable={"shape": [True, 2]}),
    "a declared shape of texts": header_of(variable={"declared": ["2"]}),
    "a declared shape that is a number": header_of(variable={"declared": 2}),
    "a negative declared shape": header_of(variable={"declared": [-2]}),
    "a flag that is a number": header_of(variable={"trainable": 1}),
    "a flag that is null": header_of(variable={"autocast": None}),
    "an unknown aggregation": header_of(variable={"aggregation": "x"}),
    "an aggregation that is a list": header_of(variable={"aggregation": []}),
    "a backend that is a number": header_of(variable={"backend": 1}),
    "a further key": header_of(variable={"more": 1}),
    "more strings than bytes": header_of(string={"shape": [2]}),
    "many more strings than bytes": header_of(string={"shape": [2**40]}),
    "a negative number of strings": header_of(string={"shape": [-1]}),
    "fewer strings than bytes": header_of(string={"shape": [0]}),
    "a string in two dimensions": header_of(s={"dtype": "U8", "shape": [9, 1], "data_offsets": [8, 17]}),
    "aliases that are a list": text_with(aliases=[]),
    "aliases that are no JSON": text_with(aliases="no"),
    "aliases of numbers": text_with(aliases={"again": 1}),
    "deep aliases": text_with(aliases=DEEP),
    "an alias that is a variable": text_with(aliases={"v": "s"}),
    "an alias without a name": text_with(aliases={"": "v"}),
    "metadata of ours that is a list": text_with(metadata=[]),
    "deep metadata": text_with(metadata=DEEP),
    "metrics of texts": text_with(metrics={"loss": "low"}),
    "metrics that are a list": text_with(metrics=[1]),
    "metrics that are a number": text_with(metrics="1"),
    "deep metrics": text_with(metrics=DEEP),
    # What NumPy cannot hold, though it has no bytes.
    "lengths that overflow before a zero": header_of(
        v={"dtype": "F32", "shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}, variable={"shape": [2**62, 2**62, 0]}
    ),
    "a string of 100 dimensions": header_of(string={"shape": [1] * 100}),
    "strings of a huge shape without elements": header_of(string={"shape": [2**60, 0]}),
    "a string's shape of 4,000 digits": header_of(string={"shape": Raw(f"[{','.join(['1' + '0' * 3999] * 1000)}]")}),
    "metrics of 400 digits": text_with(metrics={"loss": 10**350}),
    "metrics that are infinite": text_with(metrics={"loss": Raw("1e999")}),
    "metrics that are no number": text_with(metrics={"loss": Raw("NaN")}),
    "metadata of 10,000 digits": text_with(metadata={"a": MANY}),
}


@contextmanager
def cheap() -> Iterator[None]:
    """Takes little of the processor and of memory."""
    tracemalloc.start()
    begun = time.process_time()  # what other programs do does not count
    try:
        yield
        seconds, peak = time.process_time() - begun, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seconds < SECONDS, f"{seconds:.1f} seconds of a processor"
    assert peak < MEMORY, f"{peak / 1e6:.0f} MB"


def is_refused_cheaply(path: Path, target: Model) -> None:
    """By each way in; nothing changes, on the disk neither."""
    around = path.parent.parent
    before = sorted(str(each) for each in around.rglob("*"))
    with cheap():
        with nothing_changes(target), pytest.raises(CheckpointError) as caught:
            sv.load(target, path)
        assert len(str(caught.value)) < 10_000, "a message that nobody can read"
        str(caught.value).encode()
        with pytest.raises(CheckpointError), sv.load(path) as checkpoint:
            for name in checkpoint:
                checkpoint[name]
    assert sorted(str(each) for each in around.rglob("*")) == before


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_header_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    data = DATA if "without elements" not in kind and "before a zero" not in kind else DATA[8:]
    (folder / "a").write_bytes(with_checksum(HOSTILE[kind], data))
    files = open_files()
    is_refused_cheaply(folder / "a", small())
    assert open_files() == files, "a file was left open"


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "0" * 96])
def test_each_tensor_has_one_checksum(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(with_checksum(header_of(texts={"statevar.checksums": text}), DATA, spread=False))
    assert "the number of checksums differs from the number of tensors" in is_refused(small(), tmp_path / "a")


def data_with(data: bytes) -> bytes:
    header = header_of(
        s={"dtype": "U8", "shape": [len(data)], "data_offsets": [8, 8 + len(data)]}, string={"shape": [2]}
    )
    return with_checksum(header, DATA[:8] + data)


#: The bytes of two strings, whose lengths come first.
STRINGS = {
    "lengths that are too large": np.array([1, 2], "<i8").tobytes() + b"a",
    "lengths that are too small": np.array([1, 0], "<i8").tobytes() + b"ab",
    "a negative length": np.array([-1, 2], "<i8").tobytes() + b"a",
    "lengths that wrap around": np.array([2**62, 2**62], "<i8").tobytes() + b"a",
    "lengths of 2**63 - 1": np.array([2**63 - 1, 2**63 - 1], "<i8").tobytes(),
    "no UTF-8": np.array([1, 0], "<i8").tobytes() + b"\xff",
    "a letter in two strings": np.array([1, 1], "<i8").tobytes() + "é".encode(),
    "half a surrogate pair": np.array([3, 0], "<i8").tobytes() + b"\xed\xa0\x80",
}


@pytest.mark.parametrize("kind", STRINGS)
def test_hostile_strings_are_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a").write_bytes(data_with(STRINGS[kind]))
    is_refused_cheaply(folder / "a", small())


@pytest.mark.parametrize(
    ("dtype", "code", "shape"),
    [
        ("key<fry>", "U32", [4]),
        ("key<fry>", "U32", []),
        ("key<fry>", "I32", [2]),
        ("key<fry>", "U8", [2]),
        ("key<rbg>", "U32", [2]),
        ("key<own>", "U32", [2]),
        ("key", "U32", [2]),
    ],
)
def test_a_tensor_that_holds_no_random_key_is_refused(dtype: str, code: str, shape: list[int], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a"
    nbytes = int(np.prod(shape)) * (1 if code == "U8" else 4)
    facts = unset(dtype=dtype, shape=[], declared=[], trainable=False, autocast=False)
    for record in (facts, {"dtype": dtype}):
        header = {
            "__metadata__": {"statevar.format": "1", "statevar.variables": {"v": record}},
            "v": {"dtype": code, "shape": shape, "data_offsets": [0, nbytes]},
        }
        path.write_bytes(with_checksum(header, bytes(nbytes)))
        is_refused_cheaply(path, {"v": sv.Variable(0)})


@pytest.mark.parametrize(
    ("dtype", "code", "byte"), [("bool", "BOOL", 2), ("bool", "BOOL", 255), ("int4", "I8", 8), ("uint4", "U8", 16)]
)
def test_a_byte_that_is_no_value_is_refused(dtype: str, code: str, byte: int, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a"
    header = {
        "__metadata__": {"statevar.format": "1", "statevar.variables": {"v": unset(dtype=dtype)}},
        "v": {"dtype": code, "shape": [2], "data_offsets": [0, 2]},
    }
    path.write_bytes(with_checksum(header, bytes([0, byte])))
    is_refused_cheaply(path, {"v": sv.Variable([0, 1], dtype=dtype)})


def test_a_long_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)  # a hole: the disk has one page
    is_refused_cheaply(path, small())


# -- hostile indexes ---------------------------------------------------------------------------------------------


def index_with(name: str, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"total_size": 8, "statevar.format": "1", "statevar.files": {name: "0" * DIGITS}, **metadata},
        "weight_map": {"v": name},
    }


#: Names of files that an index must not reach, of which the first few exist.
NAMES = [
    *("../secret", "../in/a", "./a", "sub/file", "{absolute}", "..", ".", "", "/", "a\\b", "..\\secret", "C:secret"),
    *("a\0b", "/etc/passwd", "file:///etc/passwd", "~/x/y", "x" * 1_000),
    *("\ud800", "\udc80", "\U0001f600" * 200),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("writer", ["ours", "theirs"])
def test_an_index_reaches_no_file_of_another_folder(name: str, writer: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    secret = tmp_path / "secret"
    for path in (secret, folder / "sub" / "file", folder / "a"):
        sv.save({"v": sv.Variable([6.0, 7.0])}, path)
    name = name.replace("{absolute}", str(secret))
    content: Any = index_with(name) if writer == "ours" else {"metadata": {}, "weight_map": {"v": name}}
    (folder / "index").write_bytes(with_index_checksum(content) if writer == "ours" else json.dumps(content).encode())
    target = {"v": sv.Variable([0.0, 0.0])}
    is_refused_cheaply(folder / "index", target)
    with pytest.raises(
        CheckpointError, match=r"the index names '.*, which is not the name of a file in its folder|invalid JSON"
    ):
        sv.load(target, folder / "index")


INDEXES: dict[str, Any] = {
    "a list": [1],
    "nothing": {},
    "a map that is null": {"metadata": {}, "weight_map": None},
    "a map that is a list": {"metadata": {}, "weight_map": ["a"]},
    "a map to numbers": {"metadata": {}, "weight_map": {"v": 1}},
    "a map to null": {"metadata": {}, "weight_map": {"v": None}},
    "metadata that is a list": {"metadata": [], "weight_map": {"v": "a"}},
    "metadata that is null": {"metadata": None, "weight_map": {"v": "a"}},
    "a further key": {"metadata": {}, "weight_map": {"v": "a"}, "more": 1},
    "a float": {"metadata": {"total_size": 1.5}, "weight_map": {"v": "a"}},
    "deep": {"metadata": {"a": Raw(DEEP)}, "weight_map": {"v": "a"}},
    "10,000 digits": {"metadata": {"total_size": MANY}, "weight_map": {"v": "a"}},
    "a file that is the index": index_with("index"),
    "a file that is not there": index_with("b"),
    "a checksum that does not fit": index_with("a"),
    "files that are a list": index_with("a", **{"statevar.files": ["a"]}),
    "files that are missing": index_with("a", **{"statevar.files": {}}),
    "files without checksums": index_with("a", **{"statevar.files": {"a": None}}),
    "a tensor that the file has not": {"metadata": {}, "weight_map": {"v": "a", "w": "a"}},
    "not all that the file has": {"metadata": {}, "weight_map": {}},
    "a tensor in another file": {"metadata": {}, "weight_map": {"v": "c", "w": "a"}},
}


@pytest.mark.parametrize("kind", [each for each in INDEXES if each != "not all that the file has"])
def test_a_hostile_index_is_refused(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    sv.save({"v": sv.Variable([6.0, 7.0])}, folder / "a")
    sv.save({"w": sv.Variable([6.0, 7.0])}, folder / "c")
    (folder / "index").write_bytes(with_index_checksum(INDEXES[kind]))
    is_refused_cheaply(folder / "index", {"v": sv.Variable([0.0, 0.0])})


def test_an_index_that_is_too_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "index"
    with path.open("wb") as file:
        file.write(b'{"weight_map":{}')
        file.truncate(500_000_000)
    is_refused_cheaply(path, small())


# -- any change of a valid header --------------------------------------------------------------------------------

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, 1, 2, 3, 8, 9, 17, 18, -1, 2**31, 2**40, 2**63, "", "v", "s", "more", "float32", "F32"),
        *("int32", "string", "U8", "I8", "BOOL", "F64", "complex64", "...", "mean", "1", "2", "[]", "{}", "null"),
        *(
            [],
            {},
            [0],
            [1],
            [2],
            [9],
            [1, 2],
            [2, 1],
            [0, 8],
            [8, 17],
            [0, 17],
            [None],
            [None, 2],
            ["2"],
            [[2]],
            [True],
        ),
        *({"v": "s"}, {"x": "v"}, {"v": {}}, Raw("1.5"), Raw("NaN"), Raw("1e3"), Raw("1e999"), Raw("-0"), MANY),
        *([2**62, 0], [0, 2**62, 2**62], [2**70, 0], "\ud800"),
    ]
)


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [before, *(place for key, each in inside for place in places(each, (*before, key)))]


@st.composite
def changed(draw: st.DrawFn, valid: dict[str, Any]) -> Any:
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        # The deeper ones first: they are more, and what is behind the first check is seldom reached.
        place = draw(st.sampled_from([each for each in places(content) if each]))
        holder = content
        for key in place[:-1]:
            holder = holder[key]
        key = place[-1]
        match draw(st.sampled_from(["value", "value", "remove", "rename", "copy"])):
            case "value":
                holder[key] = copy.deepcopy(draw(ODD))
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[draw(st.sampled_from(["v", "s", "more", "", "dtype", "shape", "../v"]))] = holder.pop(key)
            case "copy":
                source = content
                for step in draw(st.sampled_from([each for each in places(content) if each])):
                    source = source[step]
                holder[key] = copy.deepcopy(source)
            case _:
                pass
    return content


@given(changed(header_of()), st.booleans())
@settings(max_examples=300)
def test_a_changed_header_is_refused_or_read_rightly(
    tmp_path_factory: pytest.TempPathFactory, content: Any, spread: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed"
    raw = with_checksum(content, DATA, spread=spread)
    path.write_bytes(raw)
    target = small()
    before = state(target)
    try:
        sv.load(target, path)
    except CheckpointError:
        assert state(target) == before
    else:
        assert state(target) != before
    try:
        checkpoint = sv.load(path)
    except CheckpointError:
        return
    with checkpoint:
        header = decode(raw, len(raw), "here")
        for name in checkpoint:
            saved, entry = checkpoint.variables[name], header.entries[name]
            try:
                array = checkpoint[name]
            except CheckpointError:
                continue
            assert (array.dtype, array.shape) == (HOST[saved.dtype], saved.shape)
            if saved.dtype != "string":
                narrow = saved.dtype in ("int4", "uint4")
                assert (array.astype("int8") if narrow else array).tobytes() == raw[header.begin :][
                    entry.start : entry.stop
                ]


# -- what a bad file leaves behind ---------------------------------------------------------------------------------

#: A file is refused late, then its number is given to another file. Run alone, since it may close what is not its own.
CLOSED_TWICE = """
import gc, os, sys
import statevar as sv
from statevar.errors import CheckpointError
from tests.internals import DIGITS, HOST, decode, digest_of

for path in sys.argv[1:]:
    try:
        sv.load(path)
    except CheckpointError:
        pass
    else:
        raise SystemExit(f"{path} was not refused")
    file = os.open(os.devnull, os.O_RDONLY)
    gc.collect()
    os.fstat(file)
"""


def test_a_file_that_is_refused_is_closed_once(tmp_path: Path) -> None:
    paths = []
    for i, kind in enumerate(each for each in HOSTILE if "alias" in each or "metrics" in each or "metadata" in each):
        paths.append(tmp_path / str(i))
        paths[-1].write_bytes(with_checksum(HOSTILE[kind], DATA))
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_TWICE, *map(str, paths)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


BOUNDED = """
import resource, sys
import statevar as sv
from statevar.errors import CheckpointError
from tests.internals import DIGITS, HOST, decode, digest_of

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
for path in sys.argv[2:]:
    try:
        with sv.load(path) as checkpoint:
            for name in checkpoint:
                checkpoint[name]
    except CheckpointError:
        continue
    raise SystemExit(f"{path} was not refused")
"""


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """In a process that has little, and where NumPy's own memory counts."""
    paths = []
    for i, kind in enumerate(HOSTILE):
        paths.append(str(tmp_path / str(i)))
        Path(paths[-1]).write_bytes(with_checksum(HOSTILE[kind], DATA))
    used = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if not used:
        pytest.skip("this system does not bound a process's memory")
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    limit = _baseline(environment) + MEMORY
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, str(limit), *paths],
        capture_output=True, text=True, timeout=100, check=False, env=environment,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def _baseline(environment: dict[str, str]) -> int:
    """The address space of a process that has imported us."""
    program = "import statevar, resource; print(open('/proc/self/statm').read().split()[0], resource.getpagesize())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    pages, size = map(int, done.stdout.split())
    return pages * size
