"""Files in pieces: how arrays are cut, that any block is read exactly, and that nothing damaged or forged is read."""

from __future__ import annotations

import copy
import math
import re
import shutil
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from statevar.errors import CheckpointError
from tests.checkpoint.damaged import nothing_changes, open_files
from tests.checkpoint.pieces import change_index, change_part, index_of, noise, saved
from tests.internals import blocks, part, pieces_reader

Block = blocks.Block


# -- geometry --------------------------------------------------------------------------------------------------------


@st.composite
def shapes_and_cuts(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Any]]:
    """A shape, and the blocks of a mesh over it, which need not be equal."""
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=3)))
    edges = [sorted({0, size, *draw(st.lists(st.integers(0, size), max_size=2))}) for size in shape]
    axes = [list(pairwise(each)) for each in edges]
    found = [Block(tuple(a for a, _ in each), tuple(b - a for a, b in each)) for each in product(*axes)]
    return shape, draw(st.permutations(found))


@given(shapes_and_cuts(), st.integers(1, 40))
def test_blocks_of_a_mesh_cover_an_array_and_those_they_are_cut_into_too(case: Any, limit: int) -> None:
    shape, found = case
    assert blocks.flaw_of(shape, found) is None
    smaller = [tile for each in found for tile in blocks.cut(each, shape, 512, 512 * limit)]
    assert blocks.flaw_of(shape, smaller) is None
    assert all(tile.size <= limit for tile in smaller)


@given(shapes_and_cuts(), st.data())
def test_a_hole_an_overlap_and_a_block_outside_are_found(case: Any, data: st.DataObject) -> None:
    shape, found = case
    one = data.draw(st.sampled_from(found))
    rest = [each for each in found if each is not one]
    assert f"{math.prod(shape) - one.size} of the {math.prod(shape)}" in str(blocks.flaw_of(shape, rest))
    assert blocks.flaw_of(shape, [*found, one]) == "some pieces overlap"
    if shape:
        axis = data.draw(st.integers(0, len(shape) - 1))
        moved = list(one.offsets)
        moved[axis] += 1
        assert blocks.flaw_of(shape, [*rest, Block(tuple(moved), one.sizes)]) is not None


def test_an_overlap_beside_a_hole_of_its_size_is_found() -> None:
    square = [Block((i, j), (2, 2)) for i in (0, 2) for j in (0, 2)]
    assert blocks.flaw_of((4, 4), square) is None
    assert blocks.flaw_of((4, 4), [*square[:3], Block((1, 1), (2, 2))]) == "some pieces overlap"
    assert blocks.flaw_of((), [Block((), ())]) is None
    assert blocks.flaw_of((), [Block((), ())] * 2) == "some pieces overlap"
    assert blocks.flaw_of((0, 3), []) is None


def test_many_blocks_are_checked_in_moderate_time() -> None:
    grid = [Block((i, j), (1, 1)) for i in range(200) for j in range(200)]
    assert blocks.flaw_of((200, 200), grid) is None
    # Each is one cut deeper than the one before: no mesh does that.
    nested = [Block((i, i), (1, 1000 - i)) for i in range(1000)] + [Block((i + 1, i), (999 - i, 1)) for i in range(999)]
    assert blocks.flaw_of((1000, 1000), nested) == "some pieces overlap"


@pytest.mark.parametrize(
    ("shape", "block", "sizes"),
    [
        ((4096, 4096), (1024, 4096), {(1024, 1024)}),  # cut over rows by a mesh: then over columns
        ((4096, 4096), (4096, 4096), {(1024, 1024)}),
        ((50_000, 768), (50_000, 768), {(3125, 192)}),
        ((3, 3, 512, 512), (3, 3, 512, 512), {(3, 3, 256, 256)}),
        ((10_000_000, 2), (10_000_000, 2), {(312_500, 2)}),  # not into runs of four bytes
        ((7,), (7,), {(7,)}),
    ],
)
def test_large_blocks_are_cut_square(shape: Any, block: Any, sizes: set[Any]) -> None:
    found = blocks.cut(Block((0,) * len(shape), block), shape, 4, 4 << 20)
    assert {each.sizes for each in found} == sizes


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, tiles and windows of a few bytes, so that small arrays have many."""
    for module, name, value in [
        (part, "CHUNK", 16),
        (part, "_TILE", 128),
        (pieces_reader, "CHUNK", 16),
        (pieces_reader, "_WINDOW", 64),
        (blocks, "_RUN", 8),
    ]:
        monkeypatch.setattr(module, name, value)


def block_of(checkpoint: Any, path: str, block: Any) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = checkpoint._source.block(path, block)
    return found


@settings(max_examples=60)
@given(data=st.data())
def test_any_block_of_any_array_is_read_exactly(
    small_chunks: None, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shape, found = data.draw(shapes_and_cuts())
    dtype = data.draw(st.sampled_from(["float32", "bool", "int4", "complex64", "complex128", "float16", "int8"]))
    array = noise(shape, dtype)
    processes = data.draw(st.integers(1, 3))
    cuts = [found[number::processes] for number in range(processes)]
    folder = saved(tmp_path_factory.mktemp("pieces"), {"a": array}, {"a": cuts})
    with sv.load(folder) as checkpoint:
        assert checkpoint["a"].tobytes() == array.tobytes()
        for _ in range(3):
            offsets = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
            sizes = tuple(data.draw(st.integers(1, size - at)) for size, at in zip(shape, offsets, strict=True))
            block = Block(offsets, sizes)
            got = block_of(checkpoint, "a", block)
            assert got.shape == sizes
            assert got.tobytes() == np.ascontiguousarray(array[block.index_in((0,) * array.ndim)]).tobytes()
    assert sv.verify(folder).checked == 1


# -- damage ----------------------------------------------------------------------------------------------------------

Model = dict[str, sv.Variable]
SECONDS = 20.0  # of a processor: an attack costs minutes, and a refusal less than one
MEMORY = 100_000_000


def model() -> Model:
    return {
        "w": sv.Variable(np.zeros((6, 4), "float32")),
        "b": sv.Variable(np.zeros(5, "int8")),
        "s": sv.Variable(["", ""], dtype="string"),
        "unset": sv.Variable(shape=(2,), dtype="float32"),
    }


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of two processes."""
    arrays = {"w": noise((6, 4), "float32", 1), "b": np.arange(5, dtype="int8"), "s": np.array(["one", "é"], object)}
    cuts = {
        "w": [[Block((0, 0), (3, 4))], [Block((3, 0), (3, 2)), Block((3, 2), (3, 2))]],
        "b": [[], [Block((0,), (5,))]],
        "s": [[Block((0,), (2,))], []],
    }
    return saved(tmp_path_factory.mktemp("sound") / "a", arrays, cuts, unset={"unset": ("float32", (2,))})


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "a"))


def is_refused(folder: Path) -> str:
    """The message. Nothing is loaded, no file stays open, and it costs little."""
    target, before = model(), open_files()
    tracemalloc.start()
    begun = time.process_time()
    with nothing_changes(target), pytest.raises(CheckpointError) as caught:
        sv.load(target, folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not isinstance(caught.value, sv.errors.CheckpointMismatchError), caught.value
    assert (time.process_time() - begun < SECONDS, peak < MEMORY) == (True, True)
    assert open_files() == before
    return str(caught.value)


@pytest.mark.parametrize("most", [256, 0])
def test_a_sound_one_is_loaded(most: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces_reader, "_OPEN", most)  # of many parts, each is opened when it is read
    target = model()
    assert sv.load(target, folder).loaded == ["w", "b", "s", "unset"]
    assert target["w"].numpy().tobytes() == noise((6, 4), "float32", 1).tobytes()
    assert target["s"].numpy().tolist() == ["one", "é"]
    assert sv.verify(folder) == sv.checkpoint.Verification(3, [], {})
    with sv.load(folder) as checkpoint:
        assert (list(checkpoint), checkpoint["b"].tolist()) == (["w", "b", "s"], [0, 1, 2, 3, 4])
    with sv.load(folder, mmap=True) as checkpoint:
        assert checkpoint["w"].shape == (6, 4)


def test_a_part_is_a_plain_file_for_other_programs(folder: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    first, second = (safetensors.load_file(each) for each in sorted(folder.glob("part-*")))
    assert (sorted(first), sorted(second)) == (["s", "w[0:3,0:4]"], ["b", "w[3:6,0:2]", "w[3:6,2:4]"])
    assert second["w[3:6,2:4]"].tobytes() == noise((6, 4), "float32", 1)[3:, 2:].tobytes()
    for each in folder.glob("part-*"):
        with pytest.raises(CheckpointError, match="only the part .* Hint: load its index"):
            sv.load(each)


def test_every_flipped_bit_is_noticed(sound: Path, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for source in sorted(sound.iterdir()):
        content = source.read_bytes()
        for at in rng.choice(len(content), min(len(content), 80), replace=False):
            damaged = bytearray(content)
            damaged[at] ^= 1 << int(rng.integers(8))
            (folder / source.name).write_bytes(damaged)
            is_refused(folder)
        (folder / source.name).write_bytes(content)
    sv.load(model(), folder)


def test_every_truncation_and_every_longer_file_is_noticed(sound: Path, folder: Path) -> None:
    for source in sorted(sound.iterdir()):
        content = source.read_bytes()
        lengths = {0, 7, 8, len(content) - 1, *np.linspace(0, len(content) - 1, 20).astype(int).tolist()}
        for wrong in (*(content[:length] for length in lengths), content + b"\0"):
            (folder / source.name).write_bytes(wrong)
            is_refused(folder)
        (folder / source.name).write_bytes(content)


def test_damage_names_the_file_and_the_tensor_and_is_seen_only_where_it_is(folder: Path) -> None:
    last = folder / "part-00001-of-00002.safetensors"
    content = bytearray(last.read_bytes())
    content[content.index(noise((6, 4), "float32", 1)[3:, 2:].tobytes()) + 3] ^= 1
    last.write_bytes(content)
    assert f"{last}: w[3:6,2:4]" in is_refused(folder)
    assert list(sv.verify(folder).damaged) == ["w"]
    with sv.load(folder) as checkpoint:
        assert block_of(checkpoint, "w", Block((0, 0), (3, 4))).shape == (3, 4)
        with pytest.raises(CheckpointError, match="damaged"):
            block_of(checkpoint, "w", Block((0, 2), (4, 1)))
    target = model()
    assert sv.load(target, folder, only=["b", "s"]).loaded == ["b", "s"]


@pytest.mark.parametrize("most", [256, 0])
def test_a_part_that_is_missing_or_of_another_save_is_noticed(
    most: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces_reader, "_OPEN", most)
    first, second = sorted(folder.glob("part-*"))
    other = saved(tmp_path / "b", {"w": noise((6, 4), "float32", 2)}, {"w": [[Block((0, 0), (6, 4))]]})
    whole = second.read_bytes()
    second.unlink()
    assert f"the file {second.name} is missing" in is_refused(folder)
    shutil.copy(next(other.glob("part-*")), second)
    assert "from different saves" in is_refused(folder)
    shutil.copy(first, second)
    assert "from different saves" in is_refused(folder)
    second.write_bytes(whole)
    shutil.copy(other / "index.json", folder)
    assert "missing" in is_refused(folder)


def test_bytes_that_are_no_value_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", {"b": np.array([True, False])}, {"b": [[Block((0,), (2,))]]})

    def three(header: Any, data: bytearray) -> None:
        data[0] = 3

    change_part(folder, 0, three)
    with pytest.raises(CheckpointError, match="neither 0 nor 1"):
        sv.load({"b": sv.Variable([False, False])}, folder)
    assert list(sv.verify(folder).damaged) == ["b"]


# -- forged files ----------------------------------------------------------------------------------------------------

BIG = 2**62


def put(*keys: Any) -> Callable[[Any], Callable[[Any], None]]:
    """A change of one place in an index."""

    def with_value(value: Any) -> Callable[[Any], None]:
        def change(content: Any) -> None:
            place = content
            for key in keys[:-1]:
                place = place[key]
            if value is ...:
                del place[keys[-1]]
            else:
                place[keys[-1]] = copy.deepcopy(value)

        return change

    return with_value


SHAPES, PIECES = ("metadata", "statevar.shapes"), ("metadata", "statevar.pieces")
WHOLE = ["w[0:3,0:4]", [0, 0], [3, 4]]
LATER = [["w[3:6,0:2]", [3, 0], [3, 2]], ["w[3:6,2:4]", [3, 2], [3, 2]]]
EXCHANGED = [[LATER[0][0], *LATER[1][1:]], [LATER[1][0], *LATER[0][1:]]]
SIZES, FACTS = ("metadata", "statevar.sizes"), ("metadata", "statevar.variables", "w")
FIRST = "part-00000-of-00002.safetensors"
INDEXES: dict[str, tuple[Callable[[Any], None], str]] = {
    "a huge array": (put(*SHAPES, "w")(["float32", [BIG, 4]]), "no variable that there can be"),
    "a large array": (put(*SHAPES, "w")(["float32", [BIG >> 8, 4]]), "24 of the"),
    "too many axes": (put(*SHAPES, "b")(["int8", [1] * 65]), "no variable that there can be"),
    "another rank": (put(*SHAPES, "b")(["int8", [5, 1]]), "no block of the array"),
    "another dtype": (put(*SHAPES, "b")(["uint8", [5]]), "not the piece that the index names"),
    "a wider dtype": (put(*SHAPES, "b")(["float64", [5]]), "not the piece that the index names"),
    "an unknown dtype": (put(*SHAPES, "b")(["float1", [5]]), "no variable that there can be"),
    "a dtype that is a list": (put(*SHAPES, "b")([["int8"], [5]]), "the dtype and the shape"),
    "a shape that is a text": (put(*SHAPES, "b")(["int8", "5"]), "no variable that there can be"),
    "no shape": (put(*SHAPES, "b")(["int8"]), "the dtype and the shape"),
    "no value": (put(*SHAPES, "b")(["int8", None]), "a piece that is none"),
    "a variable less": (put(*SHAPES, "b")(...), "a variable that it does not name"),
    "no shapes": (put(*SHAPES)({}), "a variable that it does not name"),
    "shapes that are a list": (put(*SHAPES)([]), "expected a JSON object"),
    "a hole": (put(*PIECES, "w")(LATER), "12 of the 24 elements"),
    "no pieces": (put(*PIECES, "w")(...), "0 of the 24 elements"),
    "an overlap": (put(*PIECES, "w")([WHOLE, *LATER, WHOLE]), "some pieces overlap"),
    "an overlap and a hole": (put(*PIECES, "w", 1, 1)([2, 0]), "some pieces overlap"),
    "outside": (put(*PIECES, "w", 1, 1)([4, 0]), "no part of an array"),
    "far outside": (put(*PIECES, "w", 1, 1)([BIG, 0]), "no part of an array"),
    "huge offsets": (put(*PIECES, "w", 1, 1)([10**30, 0]), "no block of the array"),
    "huge sizes": (put(*PIECES, "w", 1, 2)([10**30, 0]), "no block of the array"),
    "a size of true": (put(*PIECES, "w", 1, 2)([3, True]), "no block of the array"),
    "pieces exchanged": (
        put(*PIECES, "w")([WHOLE, [LATER[0][0], *LATER[1][1:]], [LATER[1][0], *LATER[0][1:]]]),
        "not the",
    ),
    "a tensor of another": (put(*PIECES, "w", 0, 0)("b"), "not the piece|twice"),
    "an unknown tensor": (put(*PIECES, "w", 0, 0)("x"), "a piece that is none"),
    "a piece that is a text": (put(*PIECES, "w", 0)("x"), "a piece that is none"),
    "a piece that is short": (put(*PIECES, "w", 0)(["w[0:3,0:4]", [0, 0]]), "a piece that is none"),
    "pieces that are a text": (put(*PIECES, "w")("x"), "must list the pieces"),
    "pieces of no variable": (put(*PIECES, "x")([]), "a variable that it does not name"),
    "pieces of the unset": (put(*PIECES, "unset")([WHOLE]), "a piece that is none"),
    "strings in pieces": (put(*PIECES, "s")([["s", [0], [1]], ["b", [1], [1]]]), "strings are in several pieces"),
    "longer strings": (put(*SHAPES, "s")(["string", [10**6]]), "2 of the 1000000"),
    "a size less": (put(*SIZES)({}), "the size of each file"),
    "another size": (
        put("metadata", "statevar.sizes", "part-00000-of-00002.safetensors")(5),
        "does not have the tensors",
    ),
    "a size that is a text": (
        put("metadata", "statevar.sizes", "part-00000-of-00002.safetensors")("5"),
        "the size of each file",
    ),
    "one more tensor": (put("weight_map", "x")(FIRST), "the piece of no variable"),
    "a tensor of the other file": (
        put("weight_map", "b")("part-00000-of-00002.safetensors"),
        "does not have the tensors",
    ),
    "facts of no variable": (put("metadata", "statevar.variables", "x")({}), "a variable that it does not name"),
    "unknown facts": (put(*FACTS)({"size": 1}), "no variable that there can be"),
    "a second shape": (put(*FACTS)({"shape": [6, 4]}), "no variable that there can be"),
    "facts that are a list": (put(*FACTS)([]), "no variable that there can be"),
    "a flag that is none": (
        put(*FACTS)({"trainable": 1}),
        "no variable that there can be",
    ),
    "a newer format": (put("metadata", "statevar.format")("3"), "newer statevar"),
    "the older format": (put("metadata", "statevar.format")("1"), "only the part"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_a_forged_index_is_refused(kind: str, folder: Path) -> None:
    change, message = INDEXES[kind]
    change_index(folder, change)
    assert re.search(message, is_refused(folder))


def test_the_index_is_loaded_after_a_change_of_nothing(folder: Path) -> None:
    change_index(folder, lambda content: None)
    change_part(folder, 1, lambda header, data: None)
    sv.load(model(), folder)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "..", "", "a\\b", "x" * 300])
def test_an_index_reaches_no_other_folder(name: str, folder: Path) -> None:
    def change(content: Any) -> None:
        content["weight_map"] = dict.fromkeys(content["weight_map"], name)
        for key in ("statevar.files", "statevar.sizes"):
            content["metadata"][key] = dict.fromkeys([name], next(iter(content["metadata"][key].values())))

    change_index(folder, change)
    assert "not the name of a file in its folder" in is_refused(folder)


HEADERS: dict[str, tuple[Callable[[Any, bytearray], None], str]] = {
    "another path": (lambda header, _: header["places"]["b"].__setitem__(0, "w"), "not the piece"),
    "another place": (lambda header, _: header["places"]["b"].__setitem__(1, [1]), "not the piece"),
    "a place that is a text": (lambda header, _: header["places"].__setitem__("b", "b"), "not the piece"),
    "a place less": (lambda header, _: header["places"].__delitem__("b"), "of each tensor where it belongs"),
    "a checksum less": (lambda header, _: header.__setitem__("chunks", header["chunks"][16:]), "number of checksums"),
    "no checksums": (lambda header, _: header.__setitem__("chunks", ""), "number of checksums"),
    "another shape": (lambda header, _: header["tensors"]["b"].__setitem__("shape", [5, 1]), "not the piece"),
    "another dtype": (lambda header, _: header["tensors"]["b"].__setitem__("dtype", "U8"), "not the piece"),
    "another format": (lambda header, _: header["texts"].__setitem__("statevar.format", "1"), "no part of"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_forged_part_is_refused(kind: str, folder: Path) -> None:
    change, message = HEADERS[kind]
    change_part(folder, 1, change)
    assert re.search(message, is_refused(folder))


def test_an_index_of_very_many_pieces_is_refused_at_once(folder: Path) -> None:
    def change(content: Any) -> None:
        content["metadata"]["statevar.pieces"]["w"] = [WHOLE] * 10_000

    change_index(folder, change)
    assert "overlap" in is_refused(folder)
    assert index_of(folder)["metadata"]["statevar.format"] == "2"
