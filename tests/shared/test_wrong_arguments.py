"""What is no place, no pool or no pattern is refused by name: what was called, what it got, and what to write."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import statevar as sv
from statevar import errors
from tests.command_line.running import Runner

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="variables are shared on Linux only"),
    pytest.mark.usefixtures("shm"),
]


@pytest.mark.parametrize("wrong", [1, 1.5, True, [], ("run7", "w"), b"run7/w"], ids=repr)
def test_shared_is_text_or_a_path(wrong: Any) -> None:
    said = re.escape(f'Variable: shared= is {type(wrong).__name__}, and not text. Hint: write shared="pool/variable"')
    with pytest.raises(TypeError, match=said):
        sv.Variable(0, shared=wrong)


@pytest.mark.parametrize("wrong", ["~/run7/w", "./run7/w", "../run7/w"])
def test_the_path_of_a_file_never_becomes_the_name_of_a_pool_in_memory(wrong: str) -> None:
    with pytest.raises(ValueError, match=f"shared='{re.escape(wrong)}' is a path in which no part ends in '.svs'"):
        sv.Variable(0, shared=wrong)
    assert sv.shared.ls() == []


DURABLE: tuple[Literal["no", "sync", "commit"], ...] = ("no", "sync", "commit")
OPERATIONS: dict[str, Callable[[Any], Any]] = {
    "share": lambda where: sv.share({"w": sv.Variable(0)}, where),
    "attach": lambda where: sv.attach({"w": sv.Variable(0)}, where),
    "unlink": sv.shared.unlink,
}


@pytest.mark.parametrize("where", ["", "..", ".hidden", "a\0", "x" * 300, "/", 1, b"run7", True, []], ids=repr)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_error_names_what_was_called(operation: str, where: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{operation}: expected .*, got .* Hint: "):
        OPERATIONS[operation](where)


@pytest.mark.parametrize("operation", ["attach", "unlink"])
def test_only_share_makes_a_pool_without_a_name(operation: str) -> None:
    with pytest.raises(TypeError, match=f"^{operation}: expected the name or the path of a pool, got NoneType. Hint: "):
        OPERATIONS[operation](None)


def test_a_file_or_a_folder_that_is_no_pool_is_not_called_one(tmp_path: Path) -> None:
    text = tmp_path / "data.csv"
    text.write_text("a,b\n" * 5000)
    with pytest.raises(errors.SharedError, match="is no file of shared variables"):
        sv.share({"w": sv.Variable(0)}, text)
    with pytest.raises(errors.SharedError, match="expected a file, got a folder"):
        sv.share({"w": sv.Variable(0)}, tmp_path)
    assert text.read_text() == "a,b\n" * 5000


def test_attach_says_when_nothing_matches() -> None:
    sv.share({"a": sv.Variable(1), "b": sv.Variable(2)}, "run7")
    with pytest.raises(errors.CheckpointMismatchError, match="no path matches only='q'"):
        sv.attach({"a": sv.Variable(0)}, "run7", only="q")
    assert sv.attach({"a": sv.Variable(0)}, "run7", only="q", strict=False) == {}


def test_two_variables_of_a_pool_do_not_get_one_path() -> None:
    sv.share({"a": sv.Variable(1), "b": sv.Variable(2)}, "run7")
    mine = sv.Variable(0)
    with pytest.raises(errors.CheckpointMismatchError, match="rename maps both 'a' and 'b' to 'x'"):
        sv.attach({"x": mine}, "run7", rename=lambda _: "x")
    assert mine.shared is None


def test_a_pool_that_keeps_less_than_asked_for_is_not_taken(tmp_path: Path) -> None:
    for index, made in enumerate(DURABLE):
        for wanted in DURABLE:
            place = tmp_path / f"{made}-{wanted}.svs"
            sv.share({"w": sv.Variable(1)}, place, durable=made)
            mine = {"w": sv.Variable(2)}
            if index >= DURABLE.index(wanted):
                sv.share(mine, place, durable=wanted, exist_ok=True)
                assert int(mine["w"]) == 1
                continue
            with pytest.raises(errors.SharedError, match=f"made with durable='{made}', and not with '{wanted}'"):
                sv.share(mine, place, durable=wanted, exist_ok=True)
            assert mine["w"].shared is None


NOT_POOLS = ["show shared:run7 w", "inspect shared:run7", "verify shared:run7", "diff shared:run7 shared:run7"]
NOT_POOLS += ["edit shared:run7 w=1", "convert shared:run7 x.npz"]


@pytest.mark.parametrize("command", NOT_POOLS)
def test_commands_that_read_files_say_that_they_take_no_pool(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    sv.share({"w": sv.Variable(1)}, "run7")
    code, _, err = Runner(capsys)(*command.split())
    assert code != 0
    assert "reads files, and 'shared:run7' means variables that processes share" in err
    assert "sv.attach" in err


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.CheckpointNotFoundError, match="there is no folder .*/data, at '.*/data/run7.svs'"):
        sv.Variable(0, shared=tmp_path / "data" / "run7.svs" / "w")
