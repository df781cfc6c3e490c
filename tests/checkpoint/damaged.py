"""What the tests of damaged and of hostile files share: a model of many kinds, and that a bad file changes nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import CheckpointError
from tests.internals import DIGITS, digest_of

Model = dict[str, Any]


def model(seed: int = 0, *, extra: int = 0) -> Model:
    """A bit of everything."""
    rng = np.random.default_rng(seed)
    layer = {"kernel": sv.Variable(rng.normal(size=(3, 4)).astype("float32")), "bias": sv.Variable([float(seed)] * 4)}
    return {
        "layers": [layer, {"kernel": sv.Variable(rng.normal(size=(4, 2)), dtype="bfloat16")}],
        "again": layer,
        "flags": sv.Variable(rng.integers(0, 2, 9) == 1),
        "steps": sv.Variable(seed),
        "empty": sv.Variable(np.zeros((0, 3), "float32")),
        "unset": sv.Variable(shape=(2,), dtype="float32"),
        "wave": sv.Variable(rng.normal(size=3) + 1j, dtype="complex64"),
        "words": sv.Variable([f"n{seed}", "", "é"], dtype="string"),
        "small": sv.Variable(rng.integers(-8, 8, 5), dtype="int4"),
        **{f"more{i}": sv.Variable(rng.normal(size=8), dtype="float32") for i in range(extra)},
    }


def state(target: Model) -> dict[str, Any]:
    return {
        path: (v.numpy().tobytes() if v.dtype_name != "string" else v.numpy().tolist(), v.shape, v.version)
        if v.is_initialized
        else (None, v.declared_shape, v.version)
        for path, v in sv.named_variables(target).items()
    }


@contextmanager
def nothing_changes(target: Model) -> Iterator[None]:
    before = state(target)
    yield
    assert state(target) == before


def open_files() -> int:
    """How many this process has; 0 where the system does not tell."""
    place = Path("/proc/self/fd")
    return len(list(place.iterdir())) if place.is_dir() else 0


def is_refused(target: Model, path: Path) -> str:
    """The message."""
    with nothing_changes(target):
        return refusal(target, path)


def refusal(target: Model, path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        sv.load(target, path)
    assert not isinstance(caught.value, sv.errors.CheckpointMismatchError)
    return str(caught.value)


class Raw(str):
    """A piece of JSON as it is to stand there."""

    __slots__ = ()


def dumped(value: Any) -> str:
    """JSON, with pieces that no encoder would write."""
    pieces: list[str] = []

    def replaced(each: Any) -> Any:
        if isinstance(each, Raw):
            pieces.append(each)
            return f"<{len(pieces) - 1}>"
        if isinstance(each, dict):
            return {key: replaced(value) for key, value in each.items()}
        return [replaced(one) for one in each] if isinstance(each, list | tuple) else each

    text = json.dumps(replaced(value), separators=(",", ":"))
    for i, piece in enumerate(pieces):
        text = text.replace(f'"<{i}>"', piece)
    return text


def with_index_checksum(content: Any) -> bytes:
    content = copy.deepcopy(content)
    if isinstance(content, dict) and isinstance(content.get("metadata"), dict):
        content["metadata"]["statevar.index"] = "0" * DIGITS
    blank = dumped(content).encode("utf-8", "surrogatepass")
    guard = f'"statevar.index":"{"0" * DIGITS}"'.encode()
    return blank.replace(guard, guard.replace(b"0" * DIGITS, digest_of(blank).encode()), 1)
