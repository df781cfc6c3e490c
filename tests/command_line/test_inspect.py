"""`statevar inspect`: the table, the figures, JSON, pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.command_line.programs import Run

NAMES = ["encoder/0/kernel", "encoder/0/bias", "head/kernel", "wrong", "steps", "unset", "half", "waves", "words"]


def test_a_table_of_the_variables(statevar: Run, file: Path) -> None:
    ran = statevar("inspect", file)
    assert (ran.status, ran.err) == (0, "")
    head, *lines = ran.lines
    rows = {line.split()[0]: line.split()[1:] for line in lines[:9]}
    assert head.split() == ["path", "shape", "dtype", "size"]
    assert set(rows) == set(NAMES)
    assert rows["encoder/0/kernel"] == ["3x4", "float32", "48", "B"]
    assert rows["head/kernel"] == ["3x2", "float32", "24", "B", "frozen"]
    assert rows["steps"] == ["scalar", "int32", "4", "B"]
    assert rows["unset"] == ["no", "value", "float32", "declared", "?x4"]
    assert rows["words"] == ["2", "string"]
    assert lines[9:] == [
        "9 variables, 32 elements, 120 B",
        "also known as: tied = encoder/0",
        'metadata: {"trained on": "digits"}',
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sort", "name"], sorted(NAMES)),
        (["--sort", "size", "--limit", "2"], ["encoder/0/kernel", "head/kernel"]),
        (["--only", "*/kernel", "--only", "step?"], ["encoder/0/kernel", "head/kernel", "steps"]),
        (["--only", "encoder/*", "--limit", "1"], ["encoder/0/kernel"]),
    ],
)
def test_which_variables_and_in_which_order(statevar: Run, file: Path, options: list[str], expected: list[str]) -> None:
    document = statevar("inspect", file, "--json", *options).document("inspect")
    assert [each["path"] for each in document["variables"]] == expected
    text = statevar("inspect", file, *options)
    assert [line.split()[0] for line in text.lines[1 : 1 + len(expected)]] == expected
    assert ("more: --limit 0 prints all" in text.out) == ("--limit" in options)


def test_json_has_every_fact(statevar: Run, file: Path) -> None:
    document = statevar("inspect", file, "--json").document("inspect")
    assert document["aliases"] == {"tied": "encoder/0"}
    assert document["metadata"] == {"trained on": "digits"}
    facts = {each["path"]: each for each in document["variables"]}
    with sv.load(file) as saved:
        assert list(facts) == list(saved.variables)
        for name, record in saved.variables.items():
            got = facts[name]
            assert got["shape"] == (None if record.shape is None else list(record.shape))
            assert got["declared_shape"] == list(record.declared)  # type: ignore[arg-type]  # none has any shape
            for fact in ("dtype", "trainable", "autocast", "aggregation", "backend"):
                assert got[fact] == getattr(record, fact)


def test_figures_are_those_of_the_values(statevar: Run, file: Path) -> None:
    document = statevar("inspect", file, "--stats", "--json").document("inspect")
    figures = {each["path"]: each["statistics"] for each in document["variables"]}
    kernel = np.arange(12.0)
    found = figures["encoder/0/kernel"]
    assert (found["minimum"], found["maximum"], found["mean"]) == (0, 11, kernel.mean())
    assert found["std"] == pytest.approx(kernel.std())
    assert found["histogram"] == np.histogram(kernel, 24)[0].tolist()
    assert (figures["wrong"]["nan"], figures["wrong"]["infinite"], figures["wrong"]["minimum"]) == (1, 1, -3)
    assert figures["waves"]["mean"] == 5  # of complex numbers, their absolute values
    assert figures["words"] is figures["unset"] is None
    text = statevar("inspect", file, "--stats", "--only", "wrong")
    assert text.lines[0].split() == [
        "path",
        "shape",
        "dtype",
        "size",
        "mean",
        "std",
        "range",
        "not",
        "finite",
        "histogram",
    ]
    assert "[-3, 1]" in text.lines[1]
    assert "1 NaN, 1 inf" in text.lines[1]
    assert text.lines[1].endswith("█")


def test_sums_of_the_parts_of_a_path(statevar: Run, file: Path) -> None:
    ran = statevar("inspect", file, "--depth", 1, "--only", "encoder/*", "--only", "head/*")
    assert [line.split() for line in ran.lines] == [
        ["path", "variables", "elements", "size", "share"],
        ["encoder", "2", "16", "64", "B", "72.7", "%"],
        ["head", "1", "6", "24", "B", "27.3", "%"],
        *(line.split() for line in ran.lines[3:]),
    ]
    document = statevar("inspect", file, "--depth", 2, "--json").document("inspect")
    assert [each["path"] for each in document["groups"]][:2] == ["encoder/0", "head/kernel"]
    assert sum(each["share"] for each in document["groups"]) == pytest.approx(1)


def test_names_with_dots_are_added_up_by_them(statevar: Run, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"net.0.weight": np.ones(3), "net.0.bias": np.ones(1), "out.bias": np.ones(2)}
    np.savez(tmp_path / "a.npz", **arrays)
    document = statevar("inspect", tmp_path / "a.npz", "--depth", 2, "--json").document("inspect")
    assert [(each["path"], each["elements"]) for each in document["groups"]] == [("net.0", 4), ("out.bias", 2)]


def test_damage_is_named_and_the_rest_is_shown(statevar: Run, damaged: Path) -> None:
    assert statevar("inspect", damaged).status == 0  # the header is whole
    ran = statevar("inspect", damaged, "--stats")
    assert ran.status == 3
    assert "[1, 2]" in ran.lines[1]
    assert ran.lines[2].split()[-1] == "DAMAGED"
    assert ran.err == (f"statevar inspect: the tensor is damaged: its checksum does not match, at '{damaged}: b'.\n")
    document = statevar("inspect", damaged, "--stats", "--json").document("inspect")
    assert [each["damage"] for each in document["variables"]] == [
        None,
        "the tensor is damaged: its checksum does not match",
    ]


def test_a_step_of_a_manager(statevar: Run, run_folder: Path) -> None:
    newest = statevar("inspect", run_folder, "--json").document("inspect")
    assert newest["path"].endswith("step-0000000300")
    assert newest["metrics"] == {"loss": 1 / 300, "accuracy": None}
    assert statevar("inspect", run_folder, "--step", 1, "--json").document("inspect")["metrics"]["loss"] == 1
    assert statevar("inspect", run_folder / "step-0000000001").status == 0
    ran = statevar("inspect", run_folder, "--step", 7)
    assert ran.status == 4
    assert ran.err == f"statevar inspect: {run_folder} has no step 7. Hint: its newest steps are 1, 2, 300\n"


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (["--only", "hed/*"], 4, "no name in {} matches --only 'hed/*'. Hint: statevar ls {}"),
        (["--only", "hed/kernel"], 4, "matches --only 'hed/kernel'. Hint: did you mean 'head/kernel'?"),
        (["--only", "*", "--only", "x"], 4, "matches --only 'x'"),
        (
            ["--limit", "-1"],
            2,
            "argument --limit: invalid non-negative integer value: '-1'. Hint: statevar inspect --help",
        ),
        (["--step", "1"], 2, "{} is not the folder of a manager, so it has no step 1"),
        (["--stats", "--depth", "1"], 2, "--stats is of single variables, and --depth adds them up"),
        (["--stat"], 2, "unknown arguments: --stat. Hint: statevar inspect --help"),
        (["--png", "{}"], 2, "does not end with .png. Hint: --png histograms.png"),
        (["--sort", "age"], 2, "argument --sort: invalid choice: 'age'"),
    ],
)
def test_a_wrong_option_is_one_line(statevar: Run, file: Path, options: list[str], status: int, text: str) -> None:
    before = file.read_bytes()
    ran = statevar("inspect", file, *(each.format(file) for each in options))
    assert (ran.status, ran.out) == (status, "")
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("statevar inspect: ")
    assert text.format(file, file) in ran.err
    assert file.read_bytes() == before


@pytest.mark.slow
def test_pictures(statevar: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    arrays = {
        "a$x$<b>&": rng.normal(size=50),
        "same": np.ones(3),
        "nan": np.full(2, np.nan),
        "\x1b語": rng.normal(size=9),
    }
    path = tmp_path / "a.safetensors"
    sv.save({name: sv.Variable(array) for name, array in arrays.items()}, path)
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    ran = statevar("inspect", path, "--png", png, "--svg", svg)
    assert (ran.status, ran.err) == (0, "")
    assert png.read_bytes().startswith(b"\x89PNG")
    drawn = svg.read_text()
    assert drawn.count('id="axes_') == 3  # one has no finite number
    assert "a$x$&lt;b&gt;&amp;" in drawn
    assert statevar("inspect", path, "--svg", tmp_path / "b.svg").status == 0
    assert (tmp_path / "b.svg").read_text() == drawn
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    ran = statevar("inspect", path, "--png", tmp_path / "c.png")
    assert ran.status == 2
    assert ran.err == "statevar inspect: --png needs matplotlib. Hint: pip install 'statevar[plot]'\n"
