"""A library of the tests that spreads its arrays over devices, some of them in another process: boxarray."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SITE = Path(__file__).parent / "backends" / "third_party" / "sys-path"


@contextmanager
def installed() -> Iterator[None]:
    """Puts boxarray and its adapter where installed packages are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SITE)
        yield


@cache
def mesh(*elsewhere: int) -> Any:
    """A mesh of two axes, "data" and "model", of two devices each.

    Args:
        elsewhere: the numbers of the devices that are in another process.
    """
    return importlib.import_module("boxarray").Mesh({"data": 2, "model": 2}, elsewhere)
