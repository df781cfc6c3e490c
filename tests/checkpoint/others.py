"""What the tests of other programs' files share: reading in a process without those programs, and forged files."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import CheckpointError

FRAMEWORKS = (
    *("flax", "gguf", "h5py", "jax", "keras", "msgpack", "optax", "orbax", "tensorflow", "torch", "zarr"),
    "tensorstore",
)

_ALONE = """
import hashlib, json, sys
path, *hidden = sys.argv[1:]
sys.modules.update(dict.fromkeys(hidden))  # an import of them fails
import statevar as sv
with sv.load(path) as saved:
    arrays = {name: saved[name] for name in saved}
    found = {name: [x.dtype.name, list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()] for name, x in arrays.items()}
print(json.dumps(found))
"""


def read_alone(path: Path, *needed: str) -> dict[str, Any]:
    """Reads a file in a process in which no framework can be imported, but those that are needed."""
    hidden = [name for name in FRAMEWORKS if name not in needed]
    command = [sys.executable, "-c", _ALONE, str(path), *hidden]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def summary(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What `read_alone` returns for arrays."""
    return {
        name: [x.dtype.name, list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()]
        for name, x in ((name, np.asarray(each)) for name, each in arrays.items())
    }


def same(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Asserts that a checkpoint has these arrays, bit for bit, and nothing else."""
    assert summary(saved) == summary(wanted)


def is_refused(path: Path, text: str = "") -> None:
    """Asserts that a file is an error of ours when it is opened or when it is read, and takes no memory to speak of."""
    error = tried(path)
    assert error is not None, "the file was read"
    assert text in str(error)


def tried(path: Path) -> CheckpointError | None:
    """Reads everything in a file or a folder, and returns the error; None if there is none."""
    with takes_memory(path):
        try:
            with sv.load(path) as saved:
                for name, record in saved.variables.items():
                    array = saved[name]
                    assert (array.dtype.name, array.shape) == (record.dtype, record.shape)
        except CheckpointError as error:
            return error
    return None


@contextmanager
def takes_memory(path: Path) -> Iterator[None]:
    """Asserts that the block takes memory of the size of the file, or of a folder 100 MB."""
    if path.is_dir():  # tensorstore has its own memory, and tracemalloc is not safe beside its threads
        before = resident()
        yield
        assert resident("VmHWM") - before < 100.0
        return
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert peak < 10 * size + 20_000_000, f"{peak} bytes for a file of {size}"  # 4 bits are read as 32 bits


def resident(key: str = "VmRSS") -> float:
    """The memory of this process in megabytes, or its peak since the last call for the memory; 0 where unknown."""
    if not sys.platform.startswith("linux"):
        return 0.0
    if key == "VmRSS":
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1000


#: What a forger writes where a size, an offset or a count is.
LARGE = [bytes([0xFF]) * 8, (2**63).to_bytes(8, "little"), (2**40).to_bytes(8, "little"), bytes(8), b"\xff\xff\xff\x7f"]


def edits(size: int) -> st.SearchStrategy[list[tuple[int, bytes | None]]]:
    """Changes to a file: bytes to write at a place, or None to cut it there."""
    place = st.integers(0, size - 1)
    written = st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from(LARGE))
    return st.lists(st.tuples(place, st.one_of(written, written, written, st.none())), min_size=1, max_size=4)


def edited(content: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    for place, new in changes:
        content = content[:place] if new is None else content[:place] + new + content[place + len(new) :]
    return content
