"""Files that are damaged or mixed up: each is noticed, nothing is loaded, and nothing else happens."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

import statevar as sv
from statevar.errors import CheckpointError
from tests.checkpoint.damaged import is_refused, model, nothing_changes, open_files, refusal, state, with_index_checksum
from tests.internals import decode


def region_of(content: bytes, at: int) -> str:
    """What a byte of a file belongs to."""
    header = decode(content, len(content), "here")
    if at < 8:
        return "length"
    if at < header.begin:
        return "header"
    place = at - header.begin
    return next(entry.name for entry in header.entries.values() if entry.start <= place < entry.stop)


# -- damage by accident ------------------------------------------------------------------------------------


def test_a_sound_file_is_loaded(sound: bytes, tmp_path: Path) -> None:
    """Else the tests below would say nothing."""
    (tmp_path / "a").write_bytes(sound)
    target = model()
    assert len(sv.load(target, tmp_path / "a").loaded) == 10
    assert {path: each[:2] for path, each in state(target).items()} == {
        path: each[:2] for path, each in state(model(1)).items()
    }


def test_every_truncation_is_noticed(sound: bytes, tmp_path: Path) -> None:
    target, path = model(), tmp_path / "a"
    lengths = sorted({len(sound) * i // 64 for i in range(64)} | {1, 7, 8, 9, len(sound) - 1})
    files = open_files()
    for length in lengths:
        path.write_bytes(sound[:length])
        message = is_refused(target, path)
        assert message.startswith("load: "), message
        assert str(path) in message
        with pytest.raises(CheckpointError):
            sv.load(path)
        with pytest.raises(CheckpointError):
            sv.verify(path)
    for more in (b"\0", b"{}", bytes(64), sound):
        path.write_bytes(sound + more)
        is_refused(target, path)
    assert open_files() == files, "a file was left open"
    print(f"{len(lengths) + 4} lengths of {len(sound)} bytes: all noticed")


def test_a_flipped_bit_in_any_byte_is_noticed(sound: bytes, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    target, path = model(), tmp_path / "a"
    counts: dict[str, int] = {}
    before = state(target)
    for at in range(len(sound)):
        content = bytearray(sound)
        content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        where = region_of(sound, at)
        message = refusal(target, path)
        counts[where] = counts.get(where, 0) + 1
        if where in ("length", "header"):
            with pytest.raises(CheckpointError):
                sv.verify(path)
            continue
        assert f"{path}: {where}" in message, "the tensor is named"
        assert list(sv.verify(path).damaged) == [where], "the others are sound"
        with sv.load(path) as checkpoint:
            for name in checkpoint:
                if name == where:
                    with pytest.raises(CheckpointError, match="the tensor is damaged: its checksum does not match"):
                        checkpoint[name]
                else:
                    checkpoint[name]
    assert state(target) == before
    assert len(counts) == 2 + 8, counts  # an empty array has no byte, nor has one that was not set
    print(f"{sum(counts.values())} of {len(sound)} noticed: {counts}")


def test_every_flipped_bit_of_the_length_and_the_header_is_noticed(sound: bytes) -> None:
    begin = decode(sound, len(sound), "here").begin
    step = 7  # every bit would take a minute; this meets each bit of some byte of each word
    for bit in [*range(64), *range(64, 8 * begin, step)]:
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CheckpointError):
            decode(bytes(content), len(content), "here")


def test_zeros_and_swapped_blocks_are_noticed(sound: bytes, tmp_path: Path) -> None:
    """What a power cut or a bad copy leaves."""
    target, path = model(), tmp_path / "a"
    for size in (16, 64, 512):
        for start in range(0, len(sound) - 2 * size, size):
            for content in (
                sound[:start] + bytes(size) + sound[start + size :],
                sound[:start]
                + sound[start + size : start + 2 * size]
                + sound[start : start + size]
                + sound[start + 2 * size :],
            ):
                if content != sound:
                    path.write_bytes(content)
                    refusal(target, path)


def test_all_damaged_tensors_are_named_at_once(sound: bytes, tmp_path: Path) -> None:
    header = decode(sound, len(sound), "here")
    content = bytearray(sound)
    for name in ("steps", "layers/0/bias"):
        content[header.begin + header.entries[name].start] ^= 1
    (tmp_path / "a").write_bytes(content)
    message = is_refused(model(), tmp_path / "a")
    assert message.count("\n") == 1
    assert "a: steps" in message
    assert "a: layers/0/bias" in message
    assert set(sv.verify(tmp_path / "a").damaged) == {"steps", "layers/0/bias"}
    assert not sv.verify(tmp_path / "a")


def test_one_damaged_variable_of_many_is_named_alone(tmp_path: Path) -> None:
    """Though neighbours are read together."""
    many = {f"v{i}": sv.Variable([float(i)] * 3) for i in range(1500)}
    path = tmp_path / "a"
    sv.save(many, path)
    content = path.read_bytes()
    header = decode(content, len(content), "here")
    for name in ("v0", "v511", "v512", "v700", "v1499"):
        changed = bytearray(content)
        changed[header.begin + header.entries[name].start + 5] ^= 64
        path.write_bytes(changed)
        message = is_refused(many, path)
        assert message == f"load: the tensor is damaged: its checksum does not match, at '{path}: {name}'."
        assert list(sv.verify(path).damaged) == [name]
        assert sv.verify(path).checked == 1499
    path.write_bytes(content[: header.begin + 9000])
    is_refused(many, path)


def test_damage_anywhere_in_a_large_array_is_noticed(tmp_path: Path) -> None:
    """Which is read in pieces."""
    path, size = tmp_path / "a", 20_000_000
    target = {"v": sv.Variable(np.zeros(size // 4, "float32"))}
    sv.save(target, path)
    sv.load(target, path)
    begin = path.stat().st_size - size
    for at in (0, (8 << 20) - 1, 8 << 20, 17_000_000, size - 1):
        with path.open("r+b") as file:
            file.seek(begin + at)
            file.write(b"\1")
        with pytest.raises(CheckpointError, match="the tensor is damaged"):
            sv.load(target, path)
        with path.open("r+b") as file:
            file.seek(begin + at)
            file.write(b"\0")
    assert not target["v"].numpy().any()
    sv.load(target, path)
    os.truncate(path, begin + (8 << 20))
    with pytest.raises(CheckpointError):
        sv.load(target, path)
    assert target["v"].version == 2


def test_damage_is_no_matter_of_strictness(sound: bytes, tmp_path: Path) -> None:
    content = bytearray(sound)
    content[-1] ^= 1
    (tmp_path / "a").write_bytes(content)
    target = model()
    with nothing_changes(target), pytest.raises(CheckpointError, match="damaged"):
        sv.load(target, tmp_path / "a", strict=False, cast=True)


def test_what_is_not_asked_for_may_be_damaged(sound: bytes, tmp_path: Path) -> None:
    header = decode(sound, len(sound), "here")
    content = bytearray(sound)
    content[header.begin + header.entries["flags"].start] ^= 1
    (tmp_path / "a").write_bytes(content)
    target = model()
    assert sv.load(target, tmp_path / "a", only="steps").loaded == ["steps"]
    assert target["steps"].numpy() == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"{", b"{}", b"PK\3\4" + bytes(60), b"\x80\x02}q\0." + bytes(60)])
def test_what_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    is_refused(model(), tmp_path / "a")


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(sv.errors.CheckpointNotFoundError, match=r"load: the folder has no index\.json, at .*a file\."):
        sv.load(tmp_path)


# -- a file that shrinks while it is read ----------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("left", ["nothing", "the header", "half of the data"])
def test_a_file_that_was_cut_after_it_was_opened_is_noticed(
    sound: bytes, tmp_path: Path, left: str, mapped: bool
) -> None:
    path = tmp_path / "a"
    path.write_bytes(sound)
    begin = decode(sound, len(sound), "here").begin
    with sv.load(path, mmap=mapped) as checkpoint:
        names = list(checkpoint)
        os.truncate(path, {"nothing": 0, "the header": begin, "half of the data": (begin + len(sound)) // 2}[left])
        outcomes = []
        for name in names:
            try:
                checkpoint[name]
                outcomes.append("read")
            except CheckpointError:
                outcomes.append("storage_error")
    assert "storage_error" in outcomes
    assert outcomes[names.index("empty")] == "read"
    assert (left == "half of the data" and not mapped) == (outcomes.count("read") > 1)


def test_a_file_that_is_changed_in_place_after_it_was_opened_is_noticed(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(sound)
    with sv.load(path) as checkpoint:
        with path.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(bytes([sound[-1] ^ 1]))
        assert len([name for name in checkpoint if not _reads(checkpoint, name)]) == 1


def _reads(checkpoint: sv.Checkpoint, name: str) -> bool:
    try:
        checkpoint[name]
    except CheckpointError:
        return False
    return True


# -- several files -------------------------------------------------------------------------------------------


def save_shards(folder: Path, seed: int) -> tuple[Path, list[Path]]:
    folder.mkdir()
    index = folder / "index"
    sv.save(model(seed, extra=9), index, max_shard_size=100)
    files = sorted((path for path in folder.glob("*.safetensors")), key=lambda path: path.name.partition("-")[2])
    assert len(files) > 4
    return index, files


def test_files_of_two_saves_that_were_exchanged_are_noticed(tmp_path: Path) -> None:
    """They have the same tensors, of the same shapes: only the checksum in the index tells."""
    index, files = save_shards(tmp_path / "a", 1)
    _, others = save_shards(tmp_path / "b", 2)
    assert len(files) == len(others)
    target = model(3, extra=9)
    for mine, other in zip(files, others, strict=True):
        content = mine.read_bytes()
        if content == other.read_bytes():
            continue  # what has no value, or has the same one
        shutil.copyfile(other, mine)
        message = is_refused(target, index)
        assert "the file and the index are from different saves" in message
        assert mine.name in message
        mine.write_bytes(content)
    sv.load(target, index)


def test_files_that_exchanged_their_names_are_noticed(tmp_path: Path) -> None:
    index, files = save_shards(tmp_path / "a", 1)
    for first, second in itertools.pairwise(files):
        one, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)
        is_refused(model(3, extra=9), index)
        first.write_bytes(one)
        second.write_bytes(other)


@pytest.mark.parametrize("what", ["missing", "renamed", "emptied", "a folder", "cut", "damaged"])
def test_harm_to_one_file_of_several_is_noticed(tmp_path: Path, what: str) -> None:
    index, files = save_shards(tmp_path / "a", 1)
    for path in files:
        content = path.read_bytes()
        match what:
            case "missing":
                path.unlink()
            case "renamed":
                path.rename(path.with_name("other.safetensors"))
            case "emptied":
                path.write_bytes(b"")
            case "a folder":
                path.unlink()
                path.mkdir()
            case "cut":
                path.write_bytes(content[:-1])
            case "damaged":
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        target = model(3, extra=9)
        expected = sv.errors.StorageError if what == "a folder" else CheckpointError
        with nothing_changes(target), pytest.raises(expected) as caught:
            sv.load(target, index)
        if what in ("missing", "renamed"):
            assert f"load: the file {path.name} is missing, at " in str(caught.value)
        if what == "a folder":
            path.rmdir()
        path.write_bytes(content)
    sv.load(target, index)


def test_an_index_of_another_save_is_noticed(tmp_path: Path) -> None:
    """With the files' names put right, as somebody might who wants it to work."""
    index, files = save_shards(tmp_path / "a", 1)
    other, others = save_shards(tmp_path / "b", 2)
    content = other.read_text()
    for mine, each in zip(files, others, strict=True):
        content = content.replace(each.name, mine.name)
    shutil.copyfile(other, index)
    is_refused(model(3, extra=9), index)  # no such files
    index.write_text(content)
    is_refused(model(3, extra=9), index)  # the checksum of the index
    index.write_bytes(with_index_checksum(json.loads(content)))
    assert "different saves" in is_refused(model(3, extra=9), index)


def test_a_flipped_bit_of_an_index_is_noticed(tmp_path: Path) -> None:
    index, _ = save_shards(tmp_path / "a", 1)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    content = index.read_bytes()
    target = model(3, extra=9)
    with nothing_changes(target):
        for at in range(len(content)):
            changed = bytearray(content)
            changed[at] ^= 1 << rng.randrange(8)
            index.write_bytes(changed)
            refusal(target, index)
        for length in {len(content) * i // 64 for i in range(64)}:
            index.write_bytes(content[:length])
            refusal(target, index)
    print(f"{len(content)} bytes and 64 lengths: all noticed")
