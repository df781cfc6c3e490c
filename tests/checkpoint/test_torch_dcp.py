"""Folders of torch.distributed.checkpoint are read without torch."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.checkpoint.forged import is_refused_or_right

torch = pytest.importorskip("torch")
dcp = pytest.importorskip("torch.distributed.checkpoint")
kinds = pytest.importorskip("torch.distributed.checkpoint.metadata")

ROWS = torch.arange(24.0).reshape(6, 4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dcp") / "step-3"
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    state = {
        "model": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rows": ROWS,
        "top": ROWS[:2].clone(),
        "rest": ROWS[2:].clone(),
        "bf16": torch.ones(3, dtype=torch.bfloat16),
        "step": 3,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        dcp.save(state, checkpoint_id=path, no_dist=True)
    return path


def changed(saved: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of the folder with other metadata."""
    shutil.copytree(saved, target)
    metadata = pickle.loads((target / ".metadata").read_bytes())  # written above
    change(metadata)
    (target / ".metadata").write_bytes(pickle.dumps(metadata))
    return target


def index_of(metadata: Any, name: str) -> Any:
    return next(index for index in metadata.storage_data if index.fqn == name)


def in_chunks(*starts: int) -> Callable[[Any], None]:
    """Makes one tensor of the two halves."""

    def change(metadata: Any) -> None:
        whole = metadata.state_dict_metadata["rows"]
        whole.chunks = []
        for name, start in zip(("top", "rest"), starts, strict=True):
            part = metadata.state_dict_metadata[name].size
            offset = torch.Size([start, 0])
            whole.chunks.append(kinds.ChunkStorageMetadata(offset, part))
            place = metadata.storage_data[index_of(metadata, name)]
            metadata.storage_data[kinds.MetadataIndex("rows", offset)] = place
        del metadata.storage_data[kinds.MetadataIndex("rows", torch.Size([0, 0]))]
        for start, chunk in zip(starts, whole.chunks, strict=True):
            place = metadata.storage_data[index_of(metadata, "top" if chunk is whole.chunks[0] else "rest")]
            metadata.storage_data[kinds.MetadataIndex("rows", torch.Size([start, 0]))] = place

    return change


def test_a_folder_is_read(saved: Path) -> None:
    with sv.load(saved) as checkpoint:
        assert checkpoint["rows"].tolist() == ROWS.tolist()
        assert checkpoint["bf16"].dtype.name == "bfloat16"
        assert checkpoint.variables["model/0/weight"].shape == (3, 2)
        assert checkpoint.metadata["step"] == 3
        assert checkpoint.metadata["optimizer"]["param_groups"]["0"]["lr"] == 0.5
    assert not sv.verify(saved).damaged
    v = {"bf16": sv.Variable(np.zeros(3), dtype="bfloat16")}
    assert sv.load(v, saved, strict=False).loaded == ["bf16"]


def test_chunks_are_put_together(saved: Path, tmp_path: Path) -> None:
    path = changed(saved, tmp_path / "x", in_chunks(0, 2))
    assert sv.load(path)["rows"].tolist() == ROWS.tolist()


def test_no_torch_is_needed(saved: Path) -> None:
    program = f"""
import sys
sys.modules["torch"] = None
import statevar as sv
print(sv.load({str(saved)!r})["rows"].tolist())
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(ROWS.tolist())


def other_place(**parts: Any) -> Callable[[Any], None]:
    def change(metadata: Any) -> None:
        for name, value in parts.items():
            setattr(metadata.storage_data[index_of(metadata, "rows")], name, value)

    return change


def other_tensor(**parts: Any) -> Callable[[Any], None]:
    def change(metadata: Any) -> None:
        for name, value in parts.items():
            setattr(metadata.state_dict_metadata["rows"], name, value)

    return change


FORGED: dict[str, Callable[[Any], None]] = {
    "outside": other_place(relative_path="../secret"),
    "absolute": other_place(relative_path="/etc/passwd"),
    "the metadata itself": other_place(relative_path=".metadata", offset=0, length=10),
    "a missing file": other_place(relative_path="__1_0.distcp"),
    "a number as a file": other_place(relative_path=3),
    "beyond the file": other_place(offset=1 << 40),
    "before the file": other_place(offset=-1),
    "longer than the file": other_place(length=1 << 40),
    "shorter than the chunk": other_place(length=100),
    "compressed": other_place(transform_descriptors=["zstd"]),
    "another size": other_tensor(size=torch.Size([6, 5])),
    "a huge size": other_tensor(size=torch.Size([1 << 30, 1 << 30])),
    "no chunks": other_tensor(chunks=[]),
    "a chunk outside": other_tensor(chunks=[kinds.ChunkStorageMetadata(torch.Size([4, 0]), torch.Size([6, 4]))]),
    "a chunk of another shape": other_tensor(chunks=[kinds.ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([6]))]),
    "no size": other_tensor(size=None),
    "no properties": other_tensor(properties=None),
    "overlapping chunks": in_chunks(1, 2),
    "a chunk in another's place": in_chunks(0, 0),
    "no tensors": lambda metadata: setattr(metadata, "state_dict_metadata", [1]),
    "no places": lambda metadata: setattr(metadata, "storage_data", None),
    "another place's type": lambda metadata: setattr(metadata, "storage_data", {"rows": 1}),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_folder_is_refused(case: str, saved: Path, tmp_path: Path) -> None:
    path = changed(saved, tmp_path / "x", FORGED[case])
    assert is_refused_or_right(path, None)


@settings(max_examples=100)
@given(data=st.data())
def test_any_change_of_the_metadata_is_refused_or_harmless(data: st.DataObject, saved: Path) -> None:
    content = bytearray((saved / ".metadata").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = saved.with_name("mutated")
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(saved, path)
    (path / ".metadata").write_bytes(content)
    is_refused_or_right(path, {})
