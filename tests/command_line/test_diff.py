"""``statevar diff``: what differs between two checkpoints, of any formats; and how two arrays differ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.command_line.running import Runner, assert_valid
from tests.internals import HOST, difference

STEPS = "1 of 1 differ, by at most 1 (relative 0.333)"


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two files that differ in every way in which files of one model can."""
    dense = {"kernel": sv.Variable([[1.0, 2.0], [3.0, 4.0]]), "bias": sv.Variable([0.0, math.nan])}
    same = {"text": sv.Variable(np.array(["a"])), "none": sv.Variable(shape=(None, 2), dtype="int32")}
    a: dict[str, Any] = {"enc": dense, "again": dense, "old": sv.Variable(1.0), "steps": sv.Variable(3), **same}
    sv.save(a, tmp_path / "a", metadata={"epoch": 1, "gone": None})
    dense["kernel"].assign([[1.0, 2.0], [3.0, 4.5]])
    dense["bias"].trainable = False
    b = {"enc": dense, "new": sv.Variable(1.0), "steps": sv.Variable(4.0), **same, "first\x1b[2J": same["text"]}
    b["none"] = sv.Variable(shape=..., dtype="int32")
    sv.save(b, tmp_path / "b", metadata={"epoch": 2})
    return tmp_path / "a", tmp_path / "b"


def test_everything_that_differs_is_told(run: Runner, two: tuple[Path, Path]) -> None:
    a, b = two
    ran = run("diff", a, b)
    assert ran.status == 1
    assert ran.err == ""
    assert sorted(ran.lines) == sorted(
        [
            "- old",
            "+ new",
            "~ enc/bias  trainable true -> false",
            "~ enc/kernel  1 of 4 differ, by at most 0.5 (relative 0.0913)",
            "~ none  declared ?x2 -> any",
            f"~ steps  dtype int32 -> float32; trainable false -> true; autocast false -> true; {STEPS}",
            "- alias again = enc",
            "+ alias first\\x1b[2J = text",
            "~ metadata epoch  1 -> 2",
            "~ metadata gone  None -> nothing",
            "1 same, 6 different",
        ]
    )


def test_as_json(run: Runner, two: tuple[Path, Path]) -> None:
    ran = run("diff", *two, "--json")
    assert ran.status == 1
    assert_valid(ran.json, "diff")
    assert ran.json["changed"]["none"] == {"facts": {"declared": {"a": [None, 2], "b": "..."}}}
    assert ran.json["changed"]["enc/kernel"]["values"] | {"relative": None} == {
        "elements": 4,
        "changed": 1,
        "maximum": 0.5,
        "relative": None,
        "nan": 0,
    }
    assert ran.json["metadata"] == {"epoch": {"a": 1, "b": 2}, "gone": {"a": None}}
    assert ran.json["aliases"] == {"added": {"first\x1b[2J": "text"}, "removed": {"again": "enc"}}


def test_the_same_is_0_and_quiet_is_quiet(run: Runner, two: tuple[Path, Path]) -> None:
    a, b = two
    assert run("diff", a, a) == (0, "6 same, 0 different\n", "")
    assert run("diff", a, a, "-q") == (0, "", "")
    assert run("diff", a, b, "--quiet") == (1, "", "")
    same = run("diff", a, a, "--json")
    assert_valid(same.json, "diff")
    assert same.status == 0


def test_what_is_looked_at_and_how_exactly(run: Runner, two: tuple[Path, Path]) -> None:
    a, b = two
    assert run("diff", a, b, "--only", "enc/kernel", "--only", "text").lines[-1] == "1 same, 1 different"
    ran = run("diff", a, b, "--only", "text", "--only", "old")
    assert ran.lines == ["- old", "+ alias first\\x1b[2J = text", "1 same, 1 different"]
    for tolerance in (["--atol", "0.5"], ["--rtol", "0.125"], ["--rtol", "0.1", "--atol", "0.1"]):
        ran = run("diff", a, b, "--only", "enc/kernel", *tolerance)
        assert ran.lines == ["- alias again = enc", "1 same, 0 different"]
    assert run("diff", a, b, "--only", "enc/kernel", "--rtol", "0.124").status == 1


def test_mistakes(run: Runner, two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    assert run("diff", a, b, "--only", "enc/kernal")[::2] == (
        4,
        f"statevar diff: no name in {a} or {b} matches --only 'enc/kernal'. Hint: did you mean 'enc/kernel'?\n",
    )
    for value in ("-1", "nan", "inf", "x"):
        assert run("diff", a, b, f"--atol={value}").status == 2
    assert run("diff", a, tmp_path / "none").status == 4
    assert run("diff", a, a, "--steps")[::2] == (
        2,
        f"statevar diff: {a} is not the folder of a manager with steps. Hint: leave out --steps\n",
    )
    content, four = a.read_bytes(), np.float32(4).tobytes()
    assert four in content
    (tmp_path / "damaged").write_bytes(content.replace(four, np.float32(5).tobytes()))
    assert run("diff", tmp_path / "damaged", b).status == 3


def test_other_formats_have_other_flags(run: Runner, tmp_path: Path) -> None:
    w = np.asarray([1.0, np.nan], "float32")
    np.savez(tmp_path / "a.npz", w=w, n=np.int64(2**62))
    sv.save({"w": sv.Variable(w, trainable=False), "n": sv.Variable(np.int64(2**62 + 1))}, tmp_path / "b")
    assert run("diff", tmp_path / "a.npz", tmp_path / "b").lines == [
        "~ w  trainable true -> false",
        "~ n  1 of 1 differ, by at most 1 (relative 2.17e-19)",
        "0 same, 2 different",
    ]
    assert run("diff", tmp_path / "a.npz", tmp_path / "a.npz").status == 0


def test_the_first_of_two_paths_is_no_difference(run: Runner, tmp_path: Path) -> None:
    v, w = sv.Variable(1.0), sv.Variable(2.0)
    sv.save({"a": v, "b": v, "c": w}, tmp_path / "ab")
    sv.save({"b": v, "a": v, "c": w}, tmp_path / "ba")
    sv.save({"a": v, "b": sv.Variable(1.0), "c": w}, tmp_path / "two")
    assert run("diff", tmp_path / "ab", tmp_path / "ba") == (0, "2 same, 0 different\n", "")
    assert run("diff", tmp_path / "ba", tmp_path / "ab").status == 0
    assert run("diff", tmp_path / "ab", tmp_path / "two").lines == ["- alias b = a", "3 same, 0 different"]
    assert run("diff", tmp_path / "two", tmp_path / "ab").lines == ["+ alias b = a", "3 same, 0 different"]
    sv.save({"c": w}, tmp_path / "c")
    assert run("diff", tmp_path / "ab", tmp_path / "c").lines[0] == "- a"


def test_equal_checksums_are_not_read(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"w": sv.Variable(np.ones(1000, "float32"))}
    sv.save(model, tmp_path / "a")
    sv.save(model, tmp_path / "b", max_shard_size=10)
    monkeypatch.setattr(sv.checkpoint.Checkpoint, "arrays", lambda *_: pytest.fail("it is read"))
    assert run("diff", tmp_path / "a", tmp_path / "b").status == 0


def test_folders_of_managers(run: Runner, tmp_path: Path) -> None:
    v = sv.Variable(0)
    for name in ("one", "two"):
        with sv.CheckpointManager(tmp_path / name, {"v": v}) as manager:
            for step in (1, 2, 3) if name == "one" else (2, 3, 4):
                v.assign(step if step != 3 else len(name) + (name == "two"))
                manager.save(step, {"loss": float(step)})
    one, two = tmp_path / "one", tmp_path / "two"
    assert run("diff", one, two).lines == [
        "~ v  1 of 1 differ, by at most 1 (relative 0.333)",
        "~ metrics loss  3.0 -> 4.0",
        "0 same, 1 different",
    ]
    assert run("diff", one, two, "--step", "2").status == 0
    assert run("diff", one, two / "step-0000000002", "--step", "2").status == 0
    assert run("diff", one, two, "--step", "1").status == 4
    ran = run("diff", one, two, "--steps")
    assert ran.status == 1
    assert ran.lines[:5] == ["- step 1", "+ step 4", "step 2:", "1 same, 0 different", "step 3:"]
    as_json = run("diff", one, two, "--steps", "--json").json
    assert_valid(as_json, "diff")
    assert (as_json["added"], as_json["removed"], list(as_json["steps"])) == ([4], [1], ["2", "3"])
    assert run("diff", one, one, "--steps", "-q") == (0, "", "")


# -- arrays ----------------------------------------------------------------------------------------------------

numbers = [name for name in HOST if name != "string"]


@settings(max_examples=80)
@given(st.sampled_from(numbers), st.sampled_from(numbers), st.integers(0, 2**32))
def test_it_differs_as_numpy_says(one: str, other: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 4, (3, 5)).astype(HOST[name]) for name in (one, other))
    with np.errstate(all="ignore"):
        a, b = (each.astype(np.complex128) for each in (x, y))
        found = difference(x, y)
        assert found.changed == np.count_nonzero(a != b)
        assert found.maximum == np.abs(a - b).max()
        assert found.relative == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a)) if a.any() else True
        assert difference(x, y, atol=1).changed == np.count_nonzero(np.abs(a - b) > 1)
        assert difference(x.T, x.T) == difference(x, x)


def test_integers_are_compared_exactly() -> None:
    low, high = np.array([-(2**63)]), np.array([2**63 - 1])
    assert difference(low, high).maximum == 2.0**64 - 1
    assert difference(high, high - 1).changed == 1
    assert difference(high, high - 1, atol=1).changed == 0
    assert difference(np.array([200], "uint8"), np.array([100], "uint8")).maximum == 100
    assert difference(np.array([1], "int8"), np.array([-128], "int8")).maximum == 129


def test_what_is_not_finite() -> None:
    x = np.array([np.nan, np.inf, np.inf, -np.inf, 1.0, np.nan])
    y = np.array([np.nan, np.inf, -np.inf, 1.0, np.nan, 2.0])
    assert difference(x, y, atol=1e300) == (6, 4, 0.0, None, 2)
    assert difference(x + 0j, y + 0j).changed == 4
    assert difference(np.zeros(0), np.zeros(0)) == (0, 0, 0.0, None, 0)
    assert difference(np.array(-0.0), np.array(0.0)).changed == 0
    assert difference(np.array(["a", "b"], HOST["string"]), np.array(["a", "c"], HOST["string"])).changed == 1


def test_many_blocks_are_one() -> None:
    x = np.zeros(600_000, "float32")
    y = x.copy()
    y[[0, 300_000, 599_999]] = [1, 2, 3]
    assert difference(x + 1, y + 1)[:3] == (600_000, 3, 3.0)
