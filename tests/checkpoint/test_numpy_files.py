"""Files of NumPy are read as `sv.load` reads ours: lazily, and without unpickling."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
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

DTYPES = ("bool", *(f"{s}int{b}" for s in ("", "u") for b in (8, 16, 32, 64)), "float16", "float32", "float64")
ARRAYS: dict[str, Any] = {
    **{name: (np.arange(6) % 2).reshape(2, 3).astype(name) for name in (*DTYPES, "complex64", "complex128")},
    "big-endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
    "big-endian fortran": np.asfortranarray(np.arange(6, dtype=">i8").reshape(2, 3)),
    "empty": np.zeros((0, 3)),
    "scalar": np.float64(2.5),
    "layers/0/kernel": np.ones((3, 2)),
    "../outside": np.ones(1),
}
WRITERS: dict[str, Callable[..., None]] = {"stored": np.savez, "compressed": np.savez_compressed}


@pytest.fixture(params=WRITERS)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "x.npz"
    WRITERS[request.param](path, **ARRAYS)
    return path


@pytest.mark.parametrize("mmap", [False, True])
def test_an_archive_is_read_as_numpy_reads_it(mmap: bool, archive: Path) -> None:
    with np.load(archive) as theirs, sv.load(archive, mmap=mmap) as saved:
        assert list(saved) == theirs.files
        for name in saved:
            native = theirs[name].astype(theirs[name].dtype.newbyteorder("="))
            assert bits(saved[name]) == bits(native), name
            assert saved.variables[name].shape == theirs[name].shape
            assert not saved[name].flags.writeable
        assert saved.read("fortran").flags.writeable is not mmap or "fortran" not in saved
    assert sv.verify(archive) == sv.verify(archive)
    assert sv.verify(archive).unchecked == list(ARRAYS)


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_read_as_numpy_reads_it(name: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.npy"
    np.save(path, ARRAYS[name])
    native = ARRAYS[name].astype(ARRAYS[name].dtype.newbyteorder("="))
    for mmap in (False, True):
        with sv.load(path, mmap=mmap) as saved:
            assert list(saved) == ["weights"]
            assert bits(saved["weights"]) == bits(native)
    v = sv.Variable(np.zeros(native.shape, native.dtype))
    sv.load(v, path)
    assert bits(v.value) == bits(native)


@settings(max_examples=60)
@given(data=st.data())
def test_every_shape_and_order(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 4), max_size=5)))
    dtype = data.draw(st.sampled_from(["<f4", ">i2", "|b1", "<c16", ">u8"]))
    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    array = array.transpose(data.draw(st.permutations(range(len(shape)))))
    path = tmp_path_factory.getbasetemp() / "any.npz"
    data.draw(st.sampled_from(list(WRITERS.values())))(path, x=array)
    assert bits(sv.load(path)["x"]) == bits(array.astype(array.dtype.newbyteorder("=")))


def test_it_loads_into_variables(archive: Path) -> None:
    kernel, scalar = sv.Variable(np.zeros((3, 2))), sv.Variable(np.float64(0))
    model = {"layers": [{"kernel": kernel}], "scalar": scalar}
    report = sv.load(model, archive, strict=False)
    assert report.loaded == ["layers/0/kernel", "scalar"]
    assert scalar.value == 2.5
    with pytest.raises(sv.errors.CheckpointMismatchError, match="unexpected"):
        sv.load(model, archive)


UNREADABLE = {
    "objects": (np.array([1, "a"], object), "an array of objects is a pickle"),
    "structured": (np.zeros(2, [("a", "f4")]), "a structured array has several dtypes"),
    "dates": (np.zeros(2, "M8[s]"), "no variable has the dtype '<M8[s]'"),
    "texts": (np.array(["a"]), "no variable has the dtype '<U1'"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_array_that_no_variable_can_have_is_named_and_the_others_are_read(case: str, tmp_path: Path) -> None:
    array, problem = UNREADABLE[case]
    path = tmp_path / "x.npz"
    np.savez(path, bad=array, good=np.ones(2))
    with sv.load(path) as saved:
        assert list(saved) == ["bad", "good"]
        assert saved["good"].tolist() == [1.0, 1.0]
        with pytest.raises(sv.errors.CheckpointError, match="x.npz: bad") as caught:
            saved["bad"]
    assert problem in str(caught.value)
    assert list(sv.verify(path).damaged) == ["bad"]
    v = {"bad": sv.Variable(np.zeros(array.shape), dtype="float32"), "good": sv.Variable([0.0, 0.0], dtype="float64")}
    with pytest.raises(sv.errors.CheckpointError):
        sv.load(v, path)
    assert v["good"].version == 0


def test_a_member_that_changes_is_found_where_it_has_a_checksum(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    assert not sv.verify(path)


# -- forged files ------------------------------------------------------------------------------------------------------


def header(text: str, version: int = 1, data: bytes = bytes(8)) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text.encode("latin1") + data


def described(descr: str, order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


FORGED_ARRAYS = {
    "code": header("__import__('os').system('true')"),
    "a call in the shape": header(described("'<f4'", shape="(exit(),)")),
    "a power": header(described("'<f4'", shape="(9**9**9,)")),
    "a huge shape": header(described("'<f4'", shape="(2**62,)")),
    "larger than the file": header(described("'<f4'", shape="(1000000000000,)")),
    "no array has it": header(described("'<f4'", shape="(9223372036854775807, 9223372036854775807)")),
    "many axes": header(described("'<f4'", shape="(" + "1," * 100 + ")")),
    "a negative length": header(described("'<f4'", shape="(-2,)")),
    "a bool as a length": header(described("'<f4'", shape="(True, 2)")),
    "a float as a length": header(described("'<f4'", shape="(2.0,)")),
    "a list as the shape": header(described("'<f4'", shape="[2]")),
    "no order": header(described("'<f4'", order="0")),
    "another key": header("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}"),
    "a missing key": header("{'descr': '<f4', 'shape': (2,)}"),
    "a list": header("['<f4', False, (2,)]"),
    "deep": header("(" * 4000 + ")" * 4000),
    "deep signs": header("-" * 9000 + "1"),
    "long": header(" " * 60000, data=b""),
    "a claim of a long header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(20),
    "a short header": b"\x93NUMPY\x01\x00\x76\x00{",
    "nothing": b"\x93NUMPY",
    "a newer version": header(described("'<f4'"), version=9),
    "no UTF-8": b"\x93NUMPY\x03\x00\x04\x00\x00\x00\xff\xfe\xfd\xfc" + bytes(8),
    "too much data": header(described("'<f4'"), data=bytes(9)),
    "too little data": header(described("'<f4'"), data=bytes(7)),
    "a bool of two": header(described("'|b1'"), data=b"\x01\x02"),
    "NUL": header("\0" * 20),
    "an object": header(described("'|O'")),
    "an object, as numbers": header(described("'<O8'")),
    "void": header(described("'|V4'")),
    "a subarray": header(described("'(2,)f4'")),
    "a text as code": header(described("'f4,f4'")),
    "no dtype": header(described("'xyz'")),
    "a number as the dtype": header(described("4")),
}


@pytest.mark.parametrize("case", FORGED_ARRAYS)
def test_a_forged_array_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(FORGED_ARRAYS[case])
    assert is_refused_or_right(path, None)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", FORGED_ARRAYS[case])
    assert is_refused_or_right(path, None)


def saved_array(**options: Any) -> bytes:
    memory = io.BytesIO()
    np.save(memory, np.ones(2), **options)
    return memory.getvalue()


def bomb(path: Path) -> None:
    """A member that inflates to 100 MB, and says so."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))


def lying_bomb(path: Path) -> None:
    """A member that claims more bytes than its compressed ones can give."""
    header_text = described("'<f4'", shape="(250000000,)")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header(header_text, data=bytes(100)))
    content = path.read_bytes()
    at = content.index(b"PK\x01\x02")
    wrong = struct.pack("<I", 10 + len(header_text) + 1_000_000_000)
    path.write_bytes(content[: at + 24] + wrong + content[at + 28 :])


def changed_directory(offset: int, value: bytes) -> Callable[[Path], None]:
    """An archive whose record of a member has other bytes at an offset."""

    def make(path: Path) -> None:
        np.savez(path.with_suffix(".npz"), a=np.ones(2), b=np.zeros(3))
        content = path.with_suffix(".npz").read_bytes()
        at = content.index(b"PK\x01\x02") + offset
        path.write_bytes(content[:at] + value + content[at + len(value) :])

    return make


def overlapping(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", saved_array())
        archive.writestr("b.npy", saved_array())
    content = path.read_bytes()
    second = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: second + 42] + bytes(4) + content[second + 46 :])


@pytest.mark.filterwarnings("ignore:Duplicate name")
def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", saved_array())
        archive.writestr("a", saved_array())


def many(path: Path) -> None:
    """A directory that claims four billion members."""
    np.savez(path.with_suffix(".npz"), a=np.ones(2))
    content = path.with_suffix(".npz").read_bytes()
    at = content.rindex(b"PK\x05\x06")
    path.write_bytes(content[: at + 8] + b"\xfe\xff\xfe\xff" + content[at + 12 :])


FORGED_ARCHIVES: dict[str, Callable[[Path], None]] = {
    "a bomb of zeros": bomb,
    "a bomb that lies": lying_bomb,
    "overlapping members": overlapping,
    "a name twice": twice,
    "many members": many,
    "encrypted": changed_directory(8, b"\x01"),
    "another method": changed_directory(10, b"\x0e"),
    "another size": changed_directory(20, b"\xff\xff\xff\x00"),
    "beyond the file": changed_directory(42, b"\xff\xff\xff\x7f"),
    "a long name": changed_directory(28, b"\xff\xff"),
    "a long extra field": changed_directory(30, b"\xff\xff"),
    "wide numbers without any": changed_directory(20, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    "another disk": changed_directory(34, b"\x01"),
    "another name": changed_directory(46, b"z"),
}


@pytest.mark.parametrize("case", FORGED_ARCHIVES)
def test_a_forged_archive_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    FORGED_ARCHIVES[case](path)
    assert is_refused_or_right(path, None)


@settings(max_examples=150)
@given(data=st.data(), kind=st.sampled_from(list(WRITERS)))
def test_any_change_of_a_byte_is_refused_or_harmless(
    data: st.DataObject, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    right = {"a": np.arange(3.0), "b": np.ones((2, 2), bool)}
    path = folder / "mutated.npz"
    WRITERS[kind](path, **right)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    mutated = folder / "mutated"
    mutated.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2]))])
    is_refused_or_right(mutated, {})


def test_an_archive_with_zip64_records_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w", force_zip64=True) as member:
        member.write(saved_array())
    assert sv.load(path)["a"].tolist() == [1.0, 1.0]
    rewritten(path, tmp_path / "y.npz", {"b.npy": saved_array()})
    assert list(sv.load(tmp_path / "y.npz")) == ["a", "b"]


def test_nothing_but_numpy_is_imported(archive: Path) -> None:
    program = f"""
import sys
for name in ("torch", "tensorflow", "jax", "h5py", "tensorstore"):
    sys.modules[name] = None
import statevar as sv
with sv.load({str(archive)!r}) as saved:
    print(sum(saved[name].size for name in saved))
print(sorted(name.rpartition(".")[2] for name in sys.modules if name.startswith("statevar.")))
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    total = sum(np.size(each) for each in ARRAYS.values())
    size, modules = printed.splitlines()
    assert int(size) == total
    assert "npy" in modules
    assert "torch_pt" not in modules
