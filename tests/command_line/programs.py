"""Runs commands in the process of the test, and in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import statevar as sv
from tests.helpers import ROOT

#: What would change the output, and is set by whoever runs the tests.
OF_TERMINALS = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "LINES", "PYTHONIOENCODING", "PYTHONUTF8")


@dataclass
class Ran:
    """What a command did."""

    status: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def document(self, schema: str) -> Any:
        """The output as JSON, which must be as its schema says, and have no NaN."""
        jsonschema = pytest.importorskip("jsonschema")

        def refused(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        document = json.loads(self.out, parse_constant=refused)
        rules = json.loads((ROOT / "docs/schemas" / f"{schema}.json").read_text())
        jsonschema.Draft202012Validator.check_schema(rules)
        jsonschema.validate(document, rules, jsonschema.Draft202012Validator)
        return document


Run = Callable[..., Ran]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process, without what would change its output."""
    kept = {name: value for name, value in os.environ.items() if name not in OF_TERMINALS}
    return {**kept, "PYTHONPATH": str(Path(sv.__file__).parents[1]), **(extra or {})}


def process(*arguments: object, env: Mapping[str, str] | None = None, **options: Any) -> Ran:
    """Runs a command in a process of its own, as a shell does."""
    command = [sys.executable, "-m", "statevar", *map(str, arguments)]
    done = subprocess.run(command, check=False, env=environment(env), timeout=60, **{"capture_output": True, **options})
    return Ran(done.returncode, done.stdout or b"", (done.stderr or b"").decode())
