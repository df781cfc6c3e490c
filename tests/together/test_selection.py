"""Which tests a run has: what `--backends` hides, and what `--touching` leaves out."""

from __future__ import annotations

import json
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Without, can_touch


def item(folder: Path, text: str, *fixtures: str, **parameters: Any) -> Any:
    path = folder / "test_it.py"
    path.write_text(text)
    found = SimpleNamespace(path=path, fixturenames=fixtures)
    return SimpleNamespace(**vars(found), callspec=SimpleNamespace(params=parameters)) if parameters else found


@pytest.mark.parametrize(
    ("expected", "text", "fixtures", "parameters"),
    [
        (True, "", ("backend",), {"backend": "jax"}),
        (False, "import jax", ("backend",), {"backend": "torch"}),
        (True, "", ("backend",), {"backend": "torch", "other": "jax"}),
        (True, "import jax", (), {"n": 1, "how": "assign"}),
        (False, "import torch", (), {"n": 1, "how": "assign"}),
        (True, "from tests.transforms.on_jax import var", (), {}),
        (True, "", ("backends",), {}),
        (False, "", (), {}),
    ],
)
def test_a_test_can_touch_a_library(
    expected: bool, text: str, fixtures: tuple[str, ...], parameters: dict[str, Any], tmp_path: Path
) -> None:
    assert can_touch(item(tmp_path, text, *fixtures, **parameters), "jax") is expected


def test_a_hidden_library_is_not_found() -> None:
    finder = Without(frozenset({"numpy", "tensorflow"}), PathFinder)
    for name in ("numpy", "numpy.linalg", "keras", "tensorflow"):
        assert finder.find_spec(name) is None
    found = finder.find_spec("json")
    assert found is not None
    assert found.origin == json.__file__
    assert finder.invalidate_caches == PathFinder.invalidate_caches
