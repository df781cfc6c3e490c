"""`statevar completion`: what may come next, and the scripts in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import statevar as sv
from tests.command_line.programs import Run, environment
from tests.internals import completion


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file whose names a shell would run if it expanded them."""
    path = tmp_path / "a.st"
    tree = {
        "enc": [{"kernel": sv.Variable([1.0]), "bias": sv.Variable([1.0])}],
        "dense:0": {"a": sv.Variable(1.0), "b": sv.Variable(1.0)},
        "$(touch HIT)": sv.Variable(1.0),
        "`touch HIT`": sv.Variable(1.0),
        "two words": sv.Variable(1.0),
        "it's": sv.Variable(1.0),
        "no\x1b[2J": sv.Variable(1.0),
        "list[0]": sv.Variable([1.0]),
    }
    sv.save(tree, path)
    return path


def after(*words: object) -> list[str] | None:
    found = completion.following([*map(str, words)])
    return None if found is None else [word for word, _ in found]


def test_what_may_come_next(model: Path) -> None:
    assert {"inspect", "edit", "completion", "--help"} <= set(after("") or ())
    assert after("in") == ["inspect"]
    assert after("zzz", "") == []
    assert after("completion", "") == ["bash", "zsh", "fish"]
    assert after("completion", "bash", "") == []
    assert after("inspect", "--so") == ["--sort"]
    assert after("inspect", model, "--sort", "") == ["file", "name", "size"]
    assert after("inspect", model, "--limit", "") == []
    assert after("inspect", model, "--png", "") is None
    assert after("inspect", "") is after("verify", model, "") is after("show", "") is None
    assert after("inspect", model, "") == []
    assert after("show", model, "enc/0/k") == after("inspect", model, "--only", "enc/0/k") == ["enc/0/kernel"]
    assert after("edit", model, "steps=1", "enc/0/k") == ["enc/0/kernel"]
    assert after("edit", model, "-o", "") is after("diff", model, "") is after("watch", "") is None
    assert after("show", "--step", 3, model, "enc") == ["enc/0/kernel", "enc/0/bias"]
    assert "--words" not in (after("completion", "--") or ())
    names = after("show", model, "") or []
    assert {"$(touch HIT)", "two words", "list[0]"} <= set(names)
    assert not any("\x1b" in name for name in names)
    assert after("show", model.with_name("nothing"), "") == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("statevar sho", ["show"]),
        ("statevar show {} enc/0/k", ["enc/0/kernel"]),
        ("statevar show {} 'two", ["two words"]),
        ("statevar show {} two", [r"two\ words"]),
        ("statevar show {} dense:0/", ["0/a", "0/b"]),  # bash has cut the word at the colon
        ("statevar show {} \\$", [r"\$\(touch\ HIT\)"]),
        ('statevar show {} "$', []),  # it would be run between these quotes
        ("statevar show {} '$", ["$(touch HIT)"]),
        ("statevar show {} list", [r"list\[0\]"]),
        ("statevar show {} it", [r"it\'s"]),
        ("statevar show {} 'it", []),
        ("statevar inspect {} --sort s", ["size"]),
    ],
)
def test_words_for_bash(statevar: Run, model: Path, line: str, expected: list[str]) -> None:
    ran = statevar("completion", "bash", "--words", line.format(model))
    assert ran.lines == ["words", *expected]


_BASH = r"""
source "$1"
shift
for line in "$@"; do
    COMP_LINE=$line COMP_POINT=${#line}
    _statevar
    printf '%s|' "${COMPREPLY[@]}"
    echo
done
"""
_FISH = r"""
source $argv[1]
for line in $argv[2..-1]; complete -C $line | string join '|'; end
"""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_in_the_real_shells(statevar: Run, shell: str, model: Path, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script, driver = tmp_path / "script", tmp_path / "driver"
    script.write_text(statevar("completion", shell).out)
    subprocess.run([program, "-n", script], check=True)
    if shell == "zsh":
        return  # its completion runs only at a prompt
    driver.write_text({"bash": _BASH, "fish": _FISH}[shell])
    installed = tmp_path / "bin/statevar"
    installed.parent.mkdir()
    installed.write_text(f'#!/bin/sh\nexec {sys.executable} -m statevar "$@"\n')
    installed.chmod(0o755)
    lines = ["statevar insp", f"statevar show {model.name} enc/0/", f"statevar show {model.name} ", "statevar inspect "]
    done = subprocess.run(
        [program, driver, script, *lines], capture_output=True, text=True, check=True, cwd=tmp_path, timeout=120,
        env=environment({"PATH": f"{installed.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}),
    )  # fmt: skip
    first, names, every, files = done.stdout.splitlines()
    assert first.split("\t")[0].rstrip("|") == "inspect"
    assert [each.split("\t")[0] for each in names.rstrip("|").split("|")] == [
        "enc/0/kernel",
        "enc/0/bias",
    ] or shell == "fish"
    assert "enc/0/kernel" in names
    assert "touch" in every
    assert "a.st" in files or shell == "bash"  # where there is no word, readline completes files
    assert not (tmp_path / "HIT").exists(), "a name was run"


def test_no_words_at_all_are_an_empty_one(statevar: Run) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "inspect" in statevar("completion", shell, "--words").out
