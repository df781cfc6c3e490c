"""`name[index]` on the command line: an index is parsed as NumPy has it, and nothing is ever evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.checkpoint import pieces
from tests.internals import CommandError, blocks, cli_reading, targets

whole = st.integers(-9, 9)
slices = st.builds(slice, *[st.one_of(st.none(), whole)] * 2, st.sampled_from([None, 1, 2, -1, -3]))


def lists() -> st.SearchStrategy[list[Any]]:
    return st.one_of(st.lists(whole, max_size=3), st.lists(st.booleans(), max_size=3))


def text_of(key: Any) -> str:
    if isinstance(key, slice):
        return ":".join("" if each is None else str(each) for each in (key.start, key.stop, key.step))
    return "..." if key is ... else str(key)


@given(parts=st.lists(st.one_of(whole, slices, lists(), st.just(...), st.none()), min_size=1, max_size=4))
@settings(max_examples=200)
def test_an_index_is_what_numpy_takes(parts: list[Any]) -> None:
    key = targets.key_of(", ".join(map(text_of, parts)))
    assert key == (tuple(parts) if len(parts) > 1 else parts[0])
    assert targets.key_of(f" {text_of(parts[0])},") == (parts[0],)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "1.0", "'a'", "1j", "True", "-True", "[True, 1]", "[1.0]", "{1}", "1:2:3:4", "a:b", "1:2.0"),
        *("f()", "__import__('os').system('x')", "1 if 1 else 2", "2**99**99", "[i for i in x]", "lambda: 0", "x := 1"),
        *("0][0", "0].y[0", "0\n][0", "*[1]", "\0", "[" * 5000, "-" * 20000 + "1", "9" * 5000, "b''", "f'{x}'"),
    ],
)
def test_what_is_no_index_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is not an index"):
        targets.key_of(text)


@pytest.mark.parametrize(
    ("text", "name", "key"),
    [
        ("w", "w", ...),
        ("w[0]", "w", 0),
        ("w [0]", "w", 0),
        ("layers[0]", "layers[0]", ...),
        ("layers[0][0]", "layers[0]", 0),
        ("layers[0][0, [1, 2]]", "layers[0]", (0, [1, 2])),
        ("layers[1]", "layers", 1),
        ("x[[0]]", "x", [0]),
        ("a[b", "a[b", ...),
        ("a[b[0]", "a[b", 0),
        ("end\t[0]", "end\t", 0),
    ],
)
def test_the_longest_known_name_wins(text: str, name: str, key: Any) -> None:
    known = {"w", "layers", "layers[0]", "x", "a[b", "end\t"}
    found = targets.target(text, known.__contains__)
    assert found is not None
    assert (found.name, found.key) == (name, key)


@pytest.mark.parametrize("text", ["v", "v[0]", "[0]", "w[0", "w0]", ""])
def test_an_unknown_name_is_none(text: str) -> None:
    assert targets.target(text, {"w"}.__contains__) is None


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    folder = tmp_path_factory.mktemp("pieces") / "a"
    cuts = [blocks.Block((0, start, 0), (4, size, 6)) for start, size in ((0, 2), (2, 3))]
    return pieces.saved(folder, {"x": array}, {"x": [[cuts[0]], [cuts[1]]]}), array


@given(key=st.lists(st.one_of(st.integers(-4, 3), slices, st.just(...)), min_size=1, max_size=3))
@settings(max_examples=60)
def test_a_part_of_a_large_array_is_what_numpy_says(parts: tuple[Path, Any], key: list[Any]) -> None:
    path, array = parts
    key = [each for at, each in enumerate(key) if each is not ... or ... not in key[:at]]
    wanted = targets.Target("x", tuple(key), "")
    with sv.load(path, mmap=True) as checkpoint, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_reading, "_LARGE", 0)
        assert checkpoint.has_chunks
        found, _ = cli_reading.part(checkpoint, wanted)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array[tuple(key)])
