"""The page on scale shows what its script computes, and the script counts as the code does."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import statevar as sv
from tests.helpers import ROOT


@cache
def scale() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks/scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_what_the_script_computes() -> None:
    page = (ROOT / "docs/scale.md").read_text()
    for table in scale().tables().split("\n\n**"):
        assert table.removeprefix("**") in page, "run benchmarks/scale.py, and copy its tables"


def test_the_pieces_are_counted_as_they_are_written(tmp_path: Path) -> None:
    jax = pytest.importorskip("jax")
    mesh = jax.make_mesh((1,), ("data",))
    model = [sv.Variable(np.zeros((3, 1 << 18), "float32"), sharding=("data",), mesh=mesh) for _ in range(4)]
    with sv.CheckpointManager(tmp_path, model) as manager:
        manager.save(1, wait=True)
        content = (manager.path(1) / "index.json").read_bytes()
    found = json.loads(json.loads(content)["metadata"]["statevar.pieces"])
    expected = scale().Save(1, 1, scale().Model(4 * 3 << 18, 4, 4), scale().MEASURED, scale().CLUSTER)
    assert sum(map(len, found.values())) == expected.pieces == 16


def test_the_costs_grow_as_they_must() -> None:
    module = scale()
    small, large = (module.Save(count, count, module.MODEL, module.MEASURED, module.CLUSTER) for count in (8, 512))
    assert small.nbytes_of_one * 8 == large.nbytes_of_one * 512 == module.MODEL.nbytes
    assert large.writing < small.writing
    assert large.committing > small.committing
    assert large.comparing > small.comparing
    assert large.waiting(5) > small.waiting(5)
    assert module.breaks(60.0, lambda count: count / 10) == "600"
    assert module.breaks(60.0, lambda _: 0.0) == "never"
