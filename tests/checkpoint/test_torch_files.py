"""Files of torch.save are read without torch, equal to what torch reads, and no code in them runs."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pickle
import struct
import subprocess
import sys
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
from tests.checkpoint.forged import bits, is_refused_or_right, rewritten
from tests.internals import pickles

torch = pytest.importorskip("torch")

DTYPES = (
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
)


def of_dtype(name: str) -> Any:
    values = torch.tensor([[0.0, 1.0, 2.0], [4.0, 8.0, 16.0]])
    return values.to(getattr(torch, name))


def host(tensor: Any) -> tuple[Any, ...]:
    """What torch has in a tensor, as `bits` gives it."""
    plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    content = plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return str(plain.dtype).removeprefix("torch."), tuple(plain.shape), content


BIG = torch.arange(24.0).reshape(2, 3, 4)
VIEWS = {
    "permuted": BIG.permute(2, 0, 1),
    "part": BIG[:, 1:, ::2],
    "row": BIG[1],
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(3.5),
    "expanded": torch.ones(1).expand(3),
    "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "negative": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "buffer": torch.nn.Buffer(torch.ones(2)),
    "channels last": torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


def trained() -> tuple[Any, Any]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(3, 3)
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    net(torch.ones(2, 2, 2, 2)).square().sum().backward()
    optimizer.step()
    return net, optimizer


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_and_view_is_read_as_torch_reads_it(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    saved = {"dtypes": {name: of_dtype(name) for name in DTYPES}, "views": VIEWS}
    torch.save(saved, path, pickle_protocol=protocol)
    theirs = torch.load(path, weights_only=True) if protocol == 2 else saved  # it warns of the other protocols
    for mmap in (False, True):
        with sv.load(path, mmap=mmap) as ours:
            assert len(ours) + len(ours.aliases) == len(DTYPES) + len(VIEWS)
            for group, tensors in theirs.items():
                for name, tensor in tensors.items():
                    assert bits(ours[f"{group}/{name}"]) == host(tensor), name
                    assert not ours[f"{group}/{name}"].flags.writeable
            assert mmap or ours.read("views/part").flags.c_contiguous
    assert not sv.verify(path).damaged


@pytest.mark.parametrize("dtype", ["bool", "bfloat16", "float32", "int64", "complex64"])
def test_big_endian(dtype: str, tmp_path: Path) -> None:
    tensor = of_dtype(dtype)
    torch.save({"x": tensor}, tmp_path / "little.pt")
    with zipfile.ZipFile(tmp_path / "little.pt") as archive:
        content = archive.read("little/data/0")
    width = tensor.element_size() // (2 if tensor.is_complex() else 1)
    swapped = np.frombuffer(content, f"V{width}").tobytes() if width == 1 else None
    swapped = swapped or np.frombuffer(content, f"u{width}").byteswap().tobytes()
    change = {"little/byteorder": b"big", "little/data/0": swapped}
    rewritten(tmp_path / "little.pt", tmp_path / "big.pt", change)
    assert bits(sv.load(tmp_path / "big.pt")["x"]) == host(tensor)


def test_a_training_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    net, optimizer = trained()
    model = net.state_dict()
    checkpoint = {
        "model": model,
        "ema": model,
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": np.float64(0.5),
        "history": [1.0, None, float("inf")],
        "args": argparse.Namespace(lr=0.1, out=Path("runs/a")),
        "counts": collections.Counter("aab"),
        "defaults": collections.defaultdict(list, {"k": [1]}),
        "names": {"b"},
        "dtype": torch.float32,
        "device": torch.device("cuda", 0),
        "size": torch.Size([1, 2]),
        "mixed": [1, torch.ones(2)],
        "array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "key": b"ab",
    }
    for protocol in (2, 5):
        torch.save(checkpoint, path, pickle_protocol=protocol)
        with sv.load(path) as saved:
            assert bits(saved["model/1/running_mean"]) == host(model["1.running_mean"])
            assert bits(saved["optimizer/state/0/exp_avg"]) == host(optimizer.state_dict()["state"][0]["exp_avg"])
            assert bits(saved["array"]) == bits(checkpoint["array"])
            assert saved["mixed/1"].tolist() == [1.0, 1.0]
            assert saved.aliases == {"ema": "model"}
            assert "ema/0/weight" in saved
            group = saved.metadata["optimizer"]["param_groups"][0]
            assert group["lr"] == 0.01
            assert group["betas"] == [0.9, 0.999]
            assert group["params"] == [0, 1, 2, 3, 4, 5]
            rest = {name: each for name, each in saved.metadata.items() if name != "optimizer"}
        assert rest == {
            "epoch": 3,
            "best": 0.5,
            "history": [1.0, None, float("inf")],
            "args": {"lr": 0.1, "out": "runs/a"},
            "counts": {"a": 2, "b": 1},
            "defaults": {"k": [1]},
            "names": ["b"],
            "dtype": "torch.float32",
            "device": "cuda:0",
            "size": [1, 2],
            "mixed": {"0": 1},
            "key": "6162",
        }


def layers() -> dict[str, Any]:
    """Variables with the names and shapes of the network in `trained`."""
    net, _ = trained()
    model: dict[str, Any] = {}
    for name, tensor in net.state_dict().items():
        place = model
        *outer, last = name.split(".")
        for step in outer:
            place = place.setdefault(step, {})
        place[last] = sv.Variable(np.zeros(tensor.shape, host(tensor)[0]))
    return model


def test_weights_of_torch_are_loaded_and_saved_under_its_names(tmp_path: Path) -> None:
    net, _ = trained()
    weights = net.state_dict()
    torch.save(weights, tmp_path / "net.pt")
    model = layers()
    assert not sv.load(model, tmp_path / "net.pt").unexpected
    assert bits(model["3"]["weight"].value) == host(weights["3.weight"])
    safetensors = pytest.importorskip("safetensors.torch")
    for size in (None, 64):
        sv.save(model, tmp_path / "ours", separator=".", max_shard_size=size)
        assert set(sv.load(tmp_path / "ours")) == {name.replace(".", "/") for name in weights}
        again = layers()
        sv.load(again, tmp_path / "ours")
        assert bits(again["3"]["weight"].value) == host(weights["3.weight"])
        assert sv.verify(tmp_path / "ours")
    sv.save(model, tmp_path / "ours", separator=".")
    back = safetensors.load_file(tmp_path / "ours")
    assert sorted(back) == sorted(weights)
    net.load_state_dict(back)
    safetensors.save_file(weights, tmp_path / "theirs")
    sv.load(layers(), tmp_path / "theirs", separator=".")
    with sv.load(tmp_path / "theirs") as as_it_is, sv.load(tmp_path / "net.pt", separator="/") as names:
        assert set(as_it_is) == set(names) == set(weights)


@settings(max_examples=30)
@given(segments=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0."), min_size=1), min_size=1))
def test_names_are_exact_both_ways(segments: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "names.safetensors"
    tree: Any = sv.Variable(1.0)
    for segment in reversed(segments):
        tree = {segment: tree}
    sv.save(tree, path)
    names = list(sv.load(path))
    sv.save(tree, path, separator=".")
    assert list(sv.load(path, separator="/")) == [".".join(segments)]
    assert list(sv.load(path)) == list(sv.load(path, separator=".")) == names
    sv.load(tree, path)


def test_a_name_with_the_separator_is_an_error(tmp_path: Path) -> None:
    problem = "save: the segment 'a.b' contains the separator '.', at 'x/a.b'. Hint: rename the variable"
    with pytest.raises(sv.errors.NameScopeError, match=problem):
        sv.save({"x": {"a.b": sv.Variable(1.0)}}, tmp_path / "x", separator=".")
    for separator in ("", None, "\0"):
        with pytest.raises(ValueError, match="save: expected separator to be a text such as '.', got"):
            sv.save({"x": sv.Variable(1.0)}, tmp_path / "x", separator=separator)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
    sv.save({"x": sv.Variable(1.0)}, tmp_path / "x")
    with pytest.raises(ValueError, match="load: expected separator to be a text such as '.', got ''"):
        sv.load(tmp_path / "x", separator="")


def test_two_names_with_one_path_are_an_error(tmp_path: Path) -> None:
    torch.save({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(sv.errors.CheckpointError, match="both have the path 'a/b'.*Hint: pass separator=\"/\""):
        sv.load(tmp_path / "x.pt")
    assert set(sv.load(tmp_path / "x.pt", separator="/")) == {"a.b", "a/b"}


def test_tied_tensors_are_one(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    torch.save({"encoder.weight": shared, "decoder.weight": shared[:], "part": shared[1:]}, tmp_path / "x.pt")
    with sv.load(tmp_path / "x.pt") as saved:
        assert list(saved) == ["encoder/weight", "part"]
        assert saved.aliases == {"decoder/weight": "encoder/weight"}
        assert saved["part"].tolist() == [1.0, 2.0, 3.0]
    untied = {f"{name}coder": {"weight": sv.Variable(np.zeros(4, np.float32))} for name in ("en", "de")}
    untied["part"] = sv.Variable(np.zeros(3, np.float32))  # type: ignore[assignment]
    sv.load(untied, tmp_path / "x.pt")
    assert untied["decoder"]["weight"].value.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_tensor_alone_has_the_name_of_the_file(tmp_path: Path) -> None:
    torch.save(torch.ones(2), tmp_path / "w.pt")
    assert list(sv.load(tmp_path / "w.pt")) == ["w"]
    torch.save([torch.ones(2), 5], tmp_path / "w.pt")
    with sv.load(tmp_path / "w.pt") as saved:
        assert list(saved) == ["0"]
        assert saved.metadata == {"1": 5}
    torch.save(5, tmp_path / "w.pt")
    assert sv.load(tmp_path / "w.pt").metadata == {"value": 5}


UNREADABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "save x.to_dense()"),
    "csr": (lambda: torch.eye(3).to_sparse_csr(), "save x.to_dense()"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "save x.dequantize()"),
    "meta": (lambda: torch.ones(3, device="meta"), "a tensor on the device meta has no values"),
    "complex32": (lambda: torch.ones(2, dtype=torch.complex32), "no variable has torch's dtype complex32"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested tensor is no array"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", UNREADABLE)
def test_a_tensor_that_is_no_array_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    make, problem = UNREADABLE[case]
    torch.save({"bad": make(), "good": torch.ones(2)}, tmp_path / "x.pt")
    with sv.load(tmp_path / "x.pt") as saved:
        assert list(saved) == ["bad", "good"]
        assert saved["good"].tolist() == [1.0, 1.0]
        with pytest.raises(sv.errors.CheckpointError, match=r"x\.pt: bad") as caught:
            saved["bad"]
        assert problem in str(caught.value)


def test_an_index_of_hugging_face(tmp_path: Path) -> None:
    net, _ = trained()
    weights = net.state_dict()
    parts = {name: f"pytorch_model-0000{1 + i // 5}-of-00002.bin" for i, name in enumerate(weights)}
    for part in set(parts.values()):
        torch.save({name: weights[name] for name in weights if parts[name] == part}, tmp_path / part)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1.0}, "weight_map": parts}))
    model = layers()
    assert len(sv.load(model, index).loaded) == len(weights)
    assert bits(model["3"]["weight"].value) == host(weights["3.weight"])
    (tmp_path / parts["3.weight"]).unlink()
    with pytest.raises(sv.errors.CheckpointError, match="load: the file pytorch_model-00002-of-00002.bin is missing"):
        sv.load(index)
    for bad in ({"w": "../x.bin"}, {"w": index.name}, {"w": "/etc/passwd"}):
        index.write_text(json.dumps({"weight_map": bad}))
        with pytest.raises(sv.errors.CheckpointError):
            sv.load(index)


def test_no_torch_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({name: of_dtype(name) for name in DTYPES}, path)
    program = f"""
import sys
for name in ("torch", "tensorflow", "jax", "safetensors"):
    sys.modules[name] = None
import statevar as sv
with sv.load({str(path)!r}) as saved:
    print({{name: saved[name].tobytes().hex() for name in saved}})
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    expected = {name: host(of_dtype(name))[2].hex() for name in DTYPES}
    assert printed.strip() == str(expected)


# -- forged files ------------------------------------------------------------------------------------------------------


class Gadget:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def opcodes(text: bytes) -> bytes:
    return b"\x80\x02" + text + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


SYSTEM = name("os", "system") + text("touch forged") + b"\x85R"
STORAGE = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x02tQ"  # two elements


def tensor(
    offset: bytes = b"K\x00", shape: bytes = b"K\x02\x85", strides: bytes = b"K\x01\x85", storage: bytes = STORAGE
) -> bytes:
    hooks = name("collections", "OrderedDict") + b")R"
    call = name("torch._utils", "_rebuild_tensor_v2")
    return b"}" + text("w") + call + b"(" + storage + offset + shape + strides + b"\x89" + hooks + b"tRs"


def size(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


FORGED: dict[str, bytes] = {
    "reduce": opcodes(SYSTEM),
    "reduce of posix": opcodes(name("posix", "system") + text("true") + b"\x85R"),
    "reduce by a stack": b"\x80\x04" + text("os") + text("system") + b"\x93" + text("true") + b"\x85R.",
    "inst": opcodes(b"(" + text("true") + b"ios\nsystem\n"),
    "obj": opcodes(b"(" + name("os", "system") + text("true") + b"o"),
    "newobj": opcodes(name("subprocess", "Popen") + text("true") + b"\x85\x81"),
    "newobj_ex": b"\x80\x04" + name("subprocess", "Popen") + text("true") + b"\x85}\x92.",
    "build": opcodes(name("collections", "OrderedDict") + b")R" + SYSTEM + b"b"),
    "build of a list": opcodes(b"]}b"),
    "ext1": opcodes(b"\x82\x01"),
    "ext4": opcodes(b"\x84\x01\x00\x00\x00"),
    "persid": opcodes(b"Pstorage\n"),
    "next buffer": b"\x80\x05\x97.",
    "eval": opcodes(name("builtins", "eval") + text("1") + b"\x85R"),
    "exec": opcodes(name("builtins", "exec") + text("1") + b"\x85R"),
    "getattr": opcodes(name("builtins", "getattr") + text("a") + text("b") + b"\x86R"),
    "import": opcodes(name("builtins", "__import__") + text("os") + b"\x85R"),
    "open": opcodes(name("builtins", "open") + text("forged") + text("w") + b"\x86R"),
    "bytearray of a number": opcodes(name("builtins", "bytearray") + size(1 << 40) + b"\x85R"),
    "bytes of a number": opcodes(name("builtins", "bytes") + size(1 << 40) + b"\x85R"),
    "torch.load": opcodes(name("torch", "load") + text("x") + b"\x85R"),
    "torch.hub": opcodes(name("torch.hub", "load") + text("x") + b"\x85R"),
    "torch._utils import": opcodes(name("torch._utils", "_import_dotted_name") + text("os.system") + b"\x85R"),
    "torch._utils set state": opcodes(name("torch._utils", "_set_obj_state") + b"}}\x86R"),
    "a dotted name": b"\x80\x04" + text("torch._utils") + text("_rebuild_tensor.__globals__") + b"\x93.",
    "numpy's loader": opcodes(name("numpy", "load") + text("x") + b"\x85R"),
    "numpy's caller": opcodes(name("numpy.testing._private.utils", "runstring") + text("1") + b"}\x86R"),
    "a type that calls": opcodes(
        name("torch._tensor", "_rebuild_from_type_v2") + b"(" + name("os", "system") + b"N" + text("true") + b"\x85}tR"
    ),
    "codecs": opcodes(name("_codecs", "encode") + text("a") + text("hex") + b"\x86R"),
    "a call of a number": opcodes(b"K\x01)R"),
    "a call without a tuple": opcodes(name("collections", "OrderedDict") + b"NR"),
    "a wrong argument": opcodes(name("torch._utils", "_rebuild_tensor_v2") + b"(tR"),
    "a huge memo": opcodes(b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff"),
    "a huge text": opcodes(b"X\xff\xff\xff\x7fa"),
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b".",
    "a huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b".",
    "a huge frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62),
    "a huge integer": opcodes(b"\x8b\x00\x00\x10\x00" + bytes(1 << 20)),
    "an integer of a negative length": opcodes(b"\x8b\xff\xff\xff\xff"),
    "a deep key": opcodes(b"}" + b")" + b"\x85" * 50_000 + b"Ns"),
    "a deep list": opcodes(b"]" * 5000 + b"a" * 4999),
    "a list of itself": opcodes(b"]q\x00h\x00a"),
    "a dict of itself": opcodes(b"}q\x00" + text("a") + b"h\x00s"),
    "laughs": opcodes(b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(90))),
    "repeated copies": opcodes(
        b"](" + b"N" * 100_000 + b"eq\x000" + (name("collections", "OrderedDict") + b"h\x00\x85R0") * 1000
    ),
    "repeated texts": opcodes(
        text("a" * 100_000) + b"q\x000" + (name("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R0") * 9999
    ),
    "a chain of paths": opcodes(text("a" * 5000) + b"q\x00" + name("pathlib", "PosixPath") + b"(h\x00h\x00h\x00tR"),
    "keys with one hash": opcodes(
        b"}(" + b"".join(b"\x8a\x0a%bN" % (i * (2**61 - 1)).to_bytes(10, "little") for i in range(1, 30_000)) + b"u"
    ),
    "an empty stack": opcodes(b"000"),
    "no mark": opcodes(b"t"),
    "no stop": b"\x80\x02N",
    "nothing": b"",
    "a missing memo": opcodes(b"h\x05"),
    "half a pair": opcodes(b"}(Nu"),
    "no utf-8": opcodes(b"X\x01\x00\x00\x00\xff"),
    "a shape beyond the storage": opcodes(tensor(shape=b"K\x03\x85")),
    "an offset beyond the storage": opcodes(tensor(offset=b"K\x01")),
    "a negative offset": opcodes(tensor(offset=b"J\xff\xff\xff\xff")),
    "a negative stride": opcodes(tensor(strides=b"J\xff\xff\xff\xff\x85")),
    "a huge stride": opcodes(tensor(strides=size(1 << 62) + b"\x85")),
    "a huge shape": opcodes(tensor(shape=size(1 << 62) + b"\x85", strides=b"K\x00\x85")),
    "a repeated element": opcodes(tensor(shape=size(1 << 40) + b"\x85", strides=b"K\x00\x85")),
    "a shape of many axes": opcodes(tensor(shape=b"(" + b"K\x01" * 100 + b"t", strides=b"(" + b"K\x01" * 100 + b"t")),
    "a shape without strides": opcodes(tensor(strides=b")")),
    "a bool as a size": opcodes(tensor(shape=b"\x88\x85")),
    "a float as a size": opcodes(tensor(shape=b"G\x40\x00\x00\x00\x00\x00\x00\x00\x85")),
    "no storage": opcodes(tensor(storage=b"N")),
    "a storage outside": opcodes(tensor(storage=STORAGE.replace(text("0"), text("../../secret")))),
    "a storage of another size": opcodes(tensor(storage=STORAGE.replace(b"K\x02tQ", b"K\x03tQ"))),
    "a storage of another dtype": opcodes(tensor(storage=STORAGE.replace(b"FloatS", b"DoubleS"))),
    "a storage without a class": opcodes(tensor(storage=STORAGE.replace(name("torch", "FloatStorage"), b"N"))),
    "an identifier that is no storage": opcodes(tensor(storage=STORAGE.replace(text("storage"), text("module")))),
    "an empty name": opcodes(tensor().replace(text("w"), text(""))),
    "a name with NUL": opcodes(tensor().replace(text("w"), text("a\0"))),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "sound.pt"
    torch.save({"w": torch.tensor([1.0, 2.0])}, path)
    return path


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_pickle_is_refused(case: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rewritten(sound, tmp_path / "x.pt", {"sound/data.pkl": FORGED[case]})
    assert is_refused_or_right(tmp_path / "x.pt", None)
    assert [each.name for each in tmp_path.iterdir()] == ["x.pt"]


def test_containers_of_python_are_read(tmp_path: Path) -> None:
    losses = collections.defaultdict(int, {"a": 1})
    torch.save({"recent": collections.deque([1.0, 2.0], 5), "losses": losses, "kinds": [int, str]}, tmp_path / "x.pt")
    metadata = dict(sv.load(tmp_path / "x.pt").metadata)
    assert (metadata["recent"], metadata["losses"]) == ([1.0, 2.0], {"a": 1})


LONG = b"X" + struct.pack("<I", 500_000) + b"a" * 500_000 + b"q\x00"
ENCODED = name("_codecs", "encode") + b"h\x00" + text("latin1") + b"\x86R"
AMPLIFIED = {
    "a long name, many times": (LONG + tensor() + b"q\x01](" + b"}h\x00h\x01s" * 5000 + b"e", "names"),
    "a long text, encoded many times": (LONG + b"](" + ENCODED * 50 + b"e", "more bytes"),
}


@pytest.mark.parametrize("case", AMPLIFIED)
def test_a_small_file_becomes_no_large_object(case: str, sound: Path, tmp_path: Path) -> None:
    content, problem = AMPLIFIED[case]
    rewritten(sound, tmp_path / "x.pt", {"sound/data.pkl": opcodes(content)})
    tracemalloc.start()
    try:
        with pytest.raises(sv.errors.CheckpointError, match=problem):
            sv.load(tmp_path / "x.pt")
        assert tracemalloc.get_traced_memory()[1] < 200 * (tmp_path / "x.pt").stat().st_size
    finally:
        tracemalloc.stop()


def test_bytes_that_are_in_many_places_are_written_out_once(sound: Path, tmp_path: Path) -> None:
    content = b"B" + struct.pack("<I", 100_000) + b"a" * 100_000 + b"q\x00](" + b"h\x00" * 10_000 + b"e"
    rewritten(sound, tmp_path / "x.pt", {"sound/data.pkl": opcodes(content)})
    texts = sv.load(tmp_path / "x.pt").metadata["value"]
    assert len(texts) == 10_000
    assert len({id(each) for each in texts}) == 1


def test_a_pickle_of_too_many_steps_is_refused(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "_MOST_STEPS", 1000)
    rewritten(sound, tmp_path / "x.pt", {"sound/data.pkl": opcodes(b"N0" * 1000)})
    with pytest.raises(sv.errors.CheckpointError, match="the pickle has more than 1000 steps"):
        sv.load(tmp_path / "x.pt")


def test_the_forged_tensor_is_else_read(sound: Path, tmp_path: Path) -> None:
    rewritten(sound, tmp_path / "x.pt", {"sound/data.pkl": opcodes(tensor())})
    assert sv.load(tmp_path / "x.pt")["w"].tolist() == [1.0, 2.0]


def test_the_error_names_the_function_and_how_to_convert(sound: Path, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "x": Gadget(os.system, "touch forged")}, tmp_path / "x.pt")
    with pytest.raises(sv.errors.CheckpointError) as caught:
        sv.load(tmp_path / "x.pt")
    assert str(caught.value) == (
        "load: the pickle refers to 'posix.system', which may be code; nothing was executed, "
        f"at '{tmp_path / 'x.pt'}'. "
        "Hint: if you trust the file, save its tensors alone with torch: "
        'torch.save(torch.load(path, weights_only=False)["state_dict"], "weights.pt"); '
        "of a whole module .state_dict() instead."
    )


MEMBERS: dict[str, Any] = {
    "no storage": {"sound/data/0": None},
    "a short storage": {"sound/data/0": bytes(7)},
    "a long storage": {"sound/data/0": bytes(9)},
    "two pickles": {"other/data.pkl": b"N."},
    "another order": {"sound/byteorder": b"middle"},
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_forged_archive_is_refused(case: str, sound: Path, tmp_path: Path) -> None:
    rewritten(sound, tmp_path / "x.pt", MEMBERS[case])
    assert is_refused_or_right(tmp_path / "x.pt", None)


def test_a_compressed_archive_is_refused(sound: Path, tmp_path: Path) -> None:
    rewritten(sound, tmp_path / "x.pt", {}, compression=zipfile.ZIP_DEFLATED)
    assert is_refused_or_right(tmp_path / "x.pt", None)


@settings(max_examples=300)
@given(data=st.data())
def test_any_change_of_the_pickle_is_refused_or_harmless(data: st.DataObject, sound: Path) -> None:
    with zipfile.ZipFile(sound) as archive:
        content = bytearray(archive.read("sound/data.pkl"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path = sound.with_name("changed.pt")
    rewritten(sound, path, {"sound/data.pkl": bytes(content)})
    is_refused_or_right(path, {"w": np.zeros(2, np.float32)})


@settings(max_examples=150)
@given(data=st.data())
def test_any_change_of_a_byte_is_refused_or_harmless(data: st.DataObject, sound: Path) -> None:
    content = bytearray(sound.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = sound.with_name("mutated.pt")
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2]))])
    is_refused_or_right(path, {})


def test_what_pickle_reads_without_torch_is_read_the_same() -> None:
    """The machine against Python's own, on plain data."""
    values: list[Any] = [
        None,
        True,
        0,
        -1,
        2**31,
        2**100,
        -(2**70),
        1.5,
        "é",
        b"x",
        [1, [2]],
        (1,),
        (1, 2, 3, 4),
        {"a": {"b": 1}},
    ]
    values += [list(range(1000)), "x" * 300, b"y" * 70_000, {str(i): i for i in range(500)}]
    for protocol in (2, 3, 4, 5):
        content = pickle.dumps(values, protocol)
        assert pickles.unpickled(content, pickles.BUILTINS, "here") == values
