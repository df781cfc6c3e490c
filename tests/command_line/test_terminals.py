"""The command line as a process: exit statuses, pipes, terminals, encodings, and names that would harm them."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.command_line.programs import Run, environment, process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="terminals and signals of POSIX")

HOSTILE = {
    "plain": 1.0,
    "clear\x1b[2J\x1b]0;title\x07": 2.0,
    "line\nbreak\r\t": 3.0,
    "right\u202eto left": 4.0,
    "c1\x9b31m": 5.0,
    "語é" + "x" * 3000: 6.0,
    "{0}%s{name!r}": 7.0,
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "a.safetensors"
    values: dict[str, Any] = {name: sv.Variable(np.array([value, value + 1])) for name, value in HOSTILE.items()}
    values["twice\x1b[31m"] = values["plain"]
    sv.save(values, path, metadata={"note\x1b[31m": "\x1b[2J\x9b"})
    return path


def printable(text: str) -> bool:
    return all(each.isprintable() or each == "\n" for each in text)


def in_terminal(*arguments: object, columns: int = 80, variables: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Runs a command whose output is a terminal. Returns its status, and what the terminal got."""
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-m", "statevar", *map(str, arguments)],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment({"TERM": "xterm", **(variables or {})}),
    )  # fmt: skip
    os.close(theirs)
    got = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side has ended
            break
        if not some:
            break
        got += some
    os.close(ours)
    return child.wait(60), got.decode().replace("\r\n", "\n")


def test_names_from_a_file_cannot_harm_a_terminal(statevar: Run, hostile: Path) -> None:
    for arguments in (
        *(("inspect", hostile), ("inspect", hostile, "--stats"), ("inspect", hostile, "--depth", 1), ("ls", hostile)),
        *(("verify", hostile), ("show", hostile, "no\x1b[2Jname"), ("inspect", hostile, "--only", "\x1b[2J")),
    ):
        ran = statevar(*arguments)
        assert printable(ran.out), arguments
        assert printable(ran.err), arguments
    assert r"clear\x1b[2J\x1b]0;title\x07" in statevar("ls", hostile).lines
    assert r"right\u202eto left" in statevar("ls", hostile).lines
    for name, value in HOSTILE.items():  # each can be shown by its own name
        assert statevar("show", hostile, f"{name}[0]").out == f"{value}\n"
    assert statevar("inspect", hostile, "--json").out.isascii()
    document = statevar("inspect", hostile, "--json").document("inspect")
    assert {each["path"] for each in document["variables"]} == set(HOSTILE)
    assert document["metadata"] == {"note\x1b[31m": "\x1b[2J\x9b"}


def test_a_command_is_a_process(file: Path, damaged: Path, tmp_path: Path) -> None:
    ran = process("show", file, "steps")
    assert (ran.status, ran.out, ran.err) == (0, "7\n", "")
    ran = process("verify", damaged)
    assert (ran.status, ran.err) == (3, "")
    ran = process("inspect", tmp_path / "nothing")
    assert (ran.status, ran.out) == (4, "")
    assert ran.err == f"statevar inspect: the system said No such file or directory, at '{tmp_path / 'nothing'}'.\n"
    ran = process()
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "statevar: the following arguments are required: COMMAND. Hint: statevar --help\n"


def test_help_and_version(statevar: Run) -> None:
    assert statevar("--version").out == f"statevar {sv.__version__}\n"
    text = statevar("--help").out
    for command in ("inspect", "ls", "show", "verify", "completion"):
        assert f"    {command}" in text
        ran = statevar(command, "--help")
        assert (ran.status, ran.err) == (0, "")
        assert ran.out.startswith(f"usage: statevar {command} ")
    assert statevar("inspekt").err.startswith("statevar: argument COMMAND: invalid choice: 'inspekt'")


def many(place: Path) -> Path:
    """A file with more names than a pipe has room for."""
    path = place / "many.npz"
    names: dict[str, Any] = {f"v{i}": np.zeros(0) for i in range(400)}
    names |= {f"{i}" * 900: np.zeros(0) for i in range(100, 300)}
    np.savez(path, **names)
    return path


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "statevar", "ls", str(many(tmp_path))]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == b"v0\n"
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(60) == 141  # as cat and grep: 0 would say that all was well


def test_ctrl_c_ends_a_command_that_waits_for_its_reader(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "statevar", "ls", str(many(tmp_path))]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert child.stdout is not None
    assert child.stdout.readline() == b"v0\n"
    child.send_signal(signal.SIGINT)
    assert child.wait(60) == 130
    assert child.communicate()[1] == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full")
def test_a_full_disk_is_named(file: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        ran = process("ls", file, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert ran.status == 2
    assert ran.err == "statevar ls: the system said No space left on device, at 'the output'.\n"


def test_an_encoding_without_the_characters(hostile: Path) -> None:
    ran = process("inspect", hostile, "--stats", env={"PYTHONIOENCODING": "ascii"})
    assert (ran.status, ran.err) == (0, "")
    assert ran.raw.isascii()
    assert r"\u8a9e\xe9xxx" in ran.out
    assert ran.lines[1].endswith("@                      @"), "bars are ASCII too"
    ran = process("show", hostile, "\udce9", env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert ran.status == 4
    assert printable(ran.err)


def test_colours_are_for_terminals(statevar: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in statevar("verify", file).out
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[32mwhole\x1b[0m" in statevar("verify", file).out
    assert "\x1b" not in statevar("inspect", file, "--json").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in statevar("verify", file).out


def test_a_terminal(hostile: Path) -> None:
    status, text = in_terminal("inspect", hostile, columns=60)
    assert status == 0
    assert text.startswith("\x1b[1mpath")
    plain = re.sub("\x1b\\[[0-9]+m", "", text)
    assert printable(plain)
    rows = plain.splitlines()
    assert all(len(row) <= 60 for row in rows[:8]), "a name is cut on its left, so that a row is a line"
    assert any(row.startswith("…xxx") for row in rows)
    _, text = in_terminal("inspect", hostile, "--stats", columns=56)
    rows = re.sub("\x1b\\[[0-9]+m", "", text).splitlines()
    assert rows[0].split() == ["path", "shape", "mean", "std", "range", "histogram"], "there is no room for the rest"
    assert all(len(row) <= 56 for row in rows[:8])
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        _, text = in_terminal("inspect", hostile, "--only", "plain", variables=variables)
        assert "\x1b" not in text
    status, text = in_terminal("show", hostile, "plain", "--npy")
    assert status == 2
    assert text == "statevar show: --npy writes bytes, which a terminal cannot show. Hint: add > array.npy\n"


_IMPORTS = """
import runpy, sys
sys.argv = ["statevar", *sys.argv[1:]]
try:
    runpy.run_module("statevar", run_name="__main__")
except SystemExit:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def test_a_command_imports_nothing_that_it_does_not_need(file: Path) -> None:
    command = [sys.executable, "-c", _IMPORTS, "inspect", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(), timeout=60)
    loaded = set(done.stderr.split())
    assert "statevar.checkpoint" in loaded
    assert not loaded & {"rich", "matplotlib", "jax", "torch", "tensorflow", "h5py", "tensorstore", "asyncio"}
    assert not any(name.endswith(("_cli.plot", "_cli.show", "_cli.verify", "_cli.completion")) for name in loaded)


_PEAK = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
print(os.wait4(process.pid, 0)[2].ru_maxrss)
"""


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    count, size = 100, 100_000_000
    header: dict[str, Any] = {
        f"layers.{i}": {"dtype": "F32", "shape": [size // 4], "data_offsets": [i * size, (i + 1) * size]}
        for i in range(count)
    }
    text = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:  # sparse: it takes no room on the disk
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + count * size)
    assert path.stat().st_blocks * 512 < 10_000_000

    def peak(*command: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, sys.executable, *command],
            capture_output=True, text=True, check=True, env=environment(), timeout=60,
        )  # fmt: skip
        return int(done.stdout)

    kilobytes = peak("-m", "statevar", "inspect", str(path)) - peak("-c", "import numpy")
    assert kilobytes * (1 if sys.platform == "linux" else 1 / 1024) < 50_000


_CLOSED = """
import os, subprocess, sys
statevar, file = [sys.executable, "-m", "statevar"], sys.argv[1]
for arguments, close in ((["ls", file], 1), (["show", file, "steps", "--npy"], 1), (["ls", "nowhere"], 2)):
    run = subprocess.run([*statevar, *arguments], preexec_fn=lambda: os.close(close), stdout=subprocess.PIPE)
    print(run.returncode, run.stdout)
"""


def test_closed_streams_are_no_error(file: Path) -> None:
    command = [sys.executable, "-c", _CLOSED, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(), timeout=60)
    assert done.stdout.splitlines() == ["0 b''", "0 b''", "4 b''"]
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full")
def test_an_error_that_cannot_be_written_has_its_status_all_the_same(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        assert process("ls", tmp_path / "x", stdout=None, stderr=full, capture_output=False).status == 4


def test_a_reader_of_an_array_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(1 << 18))
    # The shell says the status: `wait` is told 0 if something else in this process has waited for all children.
    said = ["sh", "-c", '"$@"; echo "status $?" >&2', "sh"]
    command = [*said, sys.executable, "-m", "statevar", "show", str(tmp_path / "a.npy"), "--npy"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.read(6) == b"\x93NUMPY"
    child.stdout.close()
    assert child.stderr.read() == b"status 141\n"
    child.stderr.close()
    child.wait(60)
