"""Runs a command in this process: what it prints, and its exit status."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest

from tests.helpers import ROOT
from tests.internals import command_line


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def assert_valid(document: Any, schema: str) -> None:
    """It is as one of the schemas says that users get."""
    jsonschema = pytest.importorskip("jsonschema")
    rules = json.loads((ROOT / "docs/schemas" / f"{schema}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(rules)
    jsonschema.validate(document, rules, jsonschema.Draft202012Validator)


class Runner:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ran:
        self._capsys.readouterr()
        try:
            status = command_line([str(each) for each in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = self._capsys.readouterr()
        assert err.count("\n") <= 1 or not status, "an error is one line"
        return Ran(status, out, err)
