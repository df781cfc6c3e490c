"""The table of promotions in ``docs/backends.md``, and what it recommends."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import ROOT

COLUMNS = {"numpy": 0, "jax": 1, "torch": 2, "tensorflow": 3}
_SECTION = (ROOT / "docs" / "backends.md").read_text().partition("### Promotion")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| `(.+?)` \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|$", _SECTION, re.MULTILINE)


def variables(backend: str) -> dict[str, Any]:
    """A variable of each dtype, by the name that the table gives it."""
    names = ("int8", "uint8", "int32", "float16", "bfloat16", "float32", "complex64")
    found: dict[str, Any] = {name: sv.Variable([1, 1], dtype=name, backend=backend) for name in names}
    return found | {"bool_": sv.Variable([True, True], backend=backend), "np": np}


def dtype_of(array: Any) -> str:
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_table_of_promotions(backend: str, row: tuple[str, ...]) -> None:
    expression, *expected = row
    assert dtype_of(eval(expression, variables(backend))) == expected[COLUMNS[backend]]


def test_the_table_is_read() -> None:
    assert len(ROWS) >= 25


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [
        ('int32.astype("float32") / 3', "float32"),
        ('int32.astype("float32") + float32', "float32"),
        ('int32.sum(dtype="int32")', "int32"),
        ("float32 * 2", "float32"),
        ("float16 * 2.0", "float16"),
    ],
)
def test_what_gives_one_dtype_everywhere(backend: str, expression: str, dtype: str) -> None:
    assert dtype_of(eval(expression, variables(backend))) == dtype
