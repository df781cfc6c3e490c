"""The page about the command line: what it says that the commands print about the files that it makes."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line.programs import Run, environment
from tests.helpers import ROOT

PAGE = (ROOT / "docs/command-line.md").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page makes."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    folder = tmp_path_factory.mktemp("page")
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), check=True, timeout=100)
    return folder


def commands_in(section: str) -> list[tuple[str, str]]:
    """The commands in the blocks of a section, each with what it prints."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", section, re.DOTALL):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append((line[2:].rstrip("\n"), ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + line)
    return found


#: They have files of their own (test_documentation.py).
OTHERS = ("diff", "edit", "convert", "watch")
SECTIONS = {text.partition("\n")[0]: commands_in(text) for text in PAGE.split("\n## ")[1:]}


@pytest.mark.parametrize("section", [name for name, commands in SECTIONS.items() if commands and name not in OTHERS])
def test_commands_print_what_the_page_says(
    section: str, made: Path, statevar: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)  # some commands change files
    monkeypatch.chdir(tmp_path)
    status = 0
    for command, expected in SECTIONS[section]:
        if command == "echo $?":
            assert f"{status}\n" == expected
            continue
        program, *arguments = shlex.split(command)
        assert program == "statevar", command
        ran = statevar(*arguments)
        status = ran.status
        got = ran.out + ran.err
        assert doctest.OutputChecker().check_output(expected, got, doctest.ELLIPSIS), f"{command}\n{got}"
