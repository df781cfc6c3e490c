"""Where a save may write, what it takes over from the file that it replaces, and what is no file of ours."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import socket
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import statevar as sv
from tests.checkpoint.disks import names_in
from tests.internals import files

MODEL = {"v": sv.Variable([1.0, 2.0]), "w": sv.Variable([3.0, 4.0])}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as each:
        each.bind(str(path))


def device(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except (OSError, AttributeError):
        pytest.skip("this user may not make a device")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


PLACES: dict[str, tuple[Callable[[Path], None], str]] = {
    "pipe": (pipe, "the path is a named pipe, which a save does not replace"),
    "socket": (unix_socket, "the path is a socket, which a save does not replace"),
    "device": (device, "the path is a device, which a save does not replace"),
    "folder": (Path.mkdir, "the path is a folder"),
    "loop": (loop, "the system said Too many levels of symbolic links"),
}


@pytest.mark.parametrize("limit", [None, 8], ids=["one file", "shards"])
@pytest.mark.parametrize("through", ["itself", "a link", "a link to a link"])
@pytest.mark.parametrize("place", PLACES)
def test_only_a_file_is_replaced(place: str, through: str, limit: int | None, tmp_path: Path) -> None:
    make, problem = PLACES[place]
    make(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("b")
    path = tmp_path / {"itself": "a", "a link": "b", "a link to a link": "c"}[through]
    before = (tmp_path / "a").lstat()
    with pytest.raises(sv.errors.StorageError, match=re.escape(f"save: {problem}, at '{path}'. ")) as caught:
        sv.save(MODEL, path, max_shard_size=limit)
    assert caught.value.errno
    assert caught.value.filename == str(path)
    after = (tmp_path / "a").lstat()
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert set(names_in(tmp_path)) == {"a", "b", "c"}
    with pytest.raises((sv.errors.CheckpointError, sv.errors.StorageError), match=re.escape(f"at '{path}'")):
        sv.load(path)


@pytest.mark.parametrize("place", [*PLACES, "file", "dangling link"])
def test_the_folder_of_a_manager_is_a_folder_or_nothing(place: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if place == "folder":
        sv.CheckpointManager(path, MODEL).close()
        return
    if place == "file":
        path.write_text("mine")
    elif place == "dangling link":
        path.symlink_to("missing")
    else:
        PLACES[place][0](path)
    before = path.lstat()
    with pytest.raises(sv.errors.StorageError, match=re.escape(f"at '{path}'")):
        sv.CheckpointManager(path, MODEL)
    assert path.lstat().st_ino == before.st_ino
    assert set(names_in(tmp_path)) == {"run"}


def test_a_step_that_is_no_folder_is_not_replaced(tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, MODEL) as manager:
        for step, make in ((1, pipe), (2, lambda path: path.write_text("mine"))):
            make(manager.path(step))
            with pytest.raises(ValueError, match=f"save: step {step} has a checkpoint already"):
                manager.save(step, wait=True)
        assert stat.S_ISFIFO(manager.path(1).stat().st_mode)
        assert manager.path(2).read_text() == "mine"


# -- what is taken over ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 8], ids=["one file", "shards"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666, 0o400])
def test_a_save_keeps_the_mode(mode: int, limit: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a"
    sv.save(MODEL, path)
    path.chmod(mode)
    for size in (limit, None, limit):
        sv.save(MODEL, path, max_shard_size=size)
        for name in names_in(tmp_path):
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode, name
    assert sv.verify(path)


def test_no_byte_is_written_while_others_may_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    sv.save(MODEL, path)
    path.chmod(0o600)
    modes = []
    create, write = files.create, files.write

    def created(path: Path, *mode: int) -> int:
        file = create(path, *mode)
        modes.append(stat.S_IMODE(os.fstat(file).st_mode))
        return file

    def written(file: int, *args: Any) -> int:
        modes.append(stat.S_IMODE(os.fstat(file).st_mode))
        return write(file, *args)

    monkeypatch.setattr(files, "create", created)
    monkeypatch.setattr(files, "write", written)
    for limit in (None, 8):
        sv.save(MODEL, path, max_shard_size=limit)
    assert set(modes) == {0o600}


def has_xattrs(folder: Path) -> bool:
    try:
        os.setxattr(folder, "user.probe", b"x")
    except (OSError, AttributeError):
        return False
    os.removexattr(folder, "user.probe")
    return True


def test_a_save_keeps_extended_attributes(tmp_path: Path) -> None:
    if not has_xattrs(tmp_path):
        pytest.skip("this file system has no extended attributes")
    path = tmp_path / "a"
    sv.save(MODEL, path)
    os.setxattr(path, "user.origin", b"run 7")
    sv.save(MODEL, path)
    assert os.getxattr(path, "user.origin") == b"run 7"
    assert os.listxattr(path) == ["user.origin"]


def test_a_save_keeps_the_owner_where_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    sv.save(MODEL, path)
    try:
        os.chown(path, 12345, 23456)
    except PermissionError:
        pytest.skip("this user may not give a file away")
    path.chmod(0o640)
    sv.save(MODEL, path)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 23456, 0o640)


def test_another_group_does_not_get_the_rights_of_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    sv.save(MODEL, path)
    path.chmod(0o664)
    wanted = files.attributes(path)
    assert wanted is not None
    wanted.group += 1
    wanted.owner += 1

    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    file = files.create(tmp_path / "b")
    files.set_attributes(file, wanted)
    files.close(file)
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o644


# -- files of other programs -------------------------------------------------------------------------------------------


def archive(*names: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"x")

    return make


def holding(*names: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).write_bytes(b"x")

    return make


def containing(content: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


def prefix(path: Path) -> None:
    path.with_name(path.name + ".index").write_bytes(bytes(40) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb")


def manager_folder(path: Path) -> None:
    with sv.CheckpointManager(path, MODEL) as manager:
        manager.save(7, wait=True)


def saved_inside(path: Path) -> None:
    path.mkdir()
    sv.save(MODEL, path / "model.safetensors")


def old_torch_file(path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


OTHERS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "old torch": (old_torch_file, "a file that torch.save wrote before version 1.6", "torch.load"),
    "torchscript": (archive("m/data.pkl", "m/constants.pkl"), "a TorchScript archive", "torch.jit.load"),
    "zip": (archive("a.txt"), "a zip archive", "unpack it first"),
    "damaged zip": (containing(b"PK\x03\x04" + b"\xff" * 50), "a damaged zip archive", "another copy"),
    **{
        f"pickle {protocol}": (containing(pickle.dumps({"a": [1.0]}, protocol)), "a pickle", "can run any code")
        for protocol in range(2, 6)
    },
    "large pickle": (containing(pickle.dumps(bytes(100_000))), "a pickle", "can run any code"),
    "gzip": (containing(gzip.compress(b"x" * 100, mtime=0)), "compressed with gzip", "unpack"),
    "tar": (containing(bytes(257) + b"ustar" + bytes(250)), "a tar archive", "unpack"),
    "lfs": (containing(b"version https://git-lfs.github.com/spec/v1\noid x\n"), "a pointer of Git LFS", "git lfs pull"),
    "html": (containing(b"<!DOCTYPE html><html>404</html>"), "an HTML page", "download has failed"),
    "text": (containing(b"epoch,loss\n1,0.5\n"), "a text file", "sv.save"),
    "empty": (containing(b""), "an empty file", "failed"),
    "manager": (manager_folder, "the folder of a CheckpointManager", "step-0000000007"),
    "folder": (saved_inside, "a folder of saved files", "model.safetensors"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_another_program_is_named(case: str, tmp_path: Path) -> None:
    make, what, hint = OTHERS[case]
    path = tmp_path / "x"
    make(path)
    target = {"v": sv.Variable([0.0, 0.0])}
    for call in (lambda: sv.load(path), lambda: sv.verify(path), lambda: sv.load(target, str(path))):
        with pytest.raises((sv.errors.CheckpointError, sv.errors.CheckpointNotFoundError)) as caught:
            call()
        text = str(caught.value)
        assert text.startswith(f"load: this is {what}"), text
        assert "and no checkpoint of statevar" in text
        assert f", at '{path}'. Hint: " in text
        assert hint in text
    assert target["v"].version == 0


def test_a_damaged_file_of_ours_is_not_taken_for_another(tmp_path: Path) -> None:
    path = tmp_path / "a"
    sv.save(MODEL, path)
    content = bytearray(path.read_bytes())
    for length in (0x0280, 0x8B1F, 0xA081):  # as if it were a pickle, gzip, msgpack
        content[:8] = length.to_bytes(8, "little")
        path.write_bytes(content + bytes(50_000))
        with pytest.raises(sv.errors.CheckpointError) as caught:
            sv.load(path)
        assert "this is" not in str(caught.value)


@pytest.mark.parametrize("name", ["model", "model.safetensor", "Model.safetensors"])
def test_a_file_with_a_similar_name_is_named(name: str, tmp_path: Path) -> None:
    sv.save(MODEL, tmp_path / "model.safetensors")
    with pytest.raises(
        sv.errors.CheckpointNotFoundError, match=r"Hint: the folder has 'model.safetensors'\."
    ) as caught:
        sv.load(tmp_path / name)
    assert f"No such file or directory, at '{tmp_path / name}'" in str(caught.value)
    assert caught.value.errno == 2


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path / "no" / "folder"):
        for call in (sv.load, sv.verify, lambda path: sv.load(MODEL, path)):
            with pytest.raises(
                FileNotFoundError, match=re.escape(f"load: the system said No such file or directory, at '{path}'")
            ):
                call(path)
    for operation in (lambda path: sv.load(path), lambda path: sv.save(MODEL, path)):
        with pytest.raises(sv.errors.StorageError, match="a path cannot contain NUL, at "):
            operation(str(tmp_path / "a\0b"))


@pytest.mark.parametrize("path", [3, None, ["a"], 1.5])
def test_what_is_no_path_is_told(path: Any) -> None:
    calls: dict[str, Callable[[Any], Any]] = {
        "save": lambda path: sv.save(MODEL, path),
        "verify": sv.verify,
        "CheckpointManager": lambda path: sv.CheckpointManager(path, MODEL),
    }
    if path is not None:
        calls["load"] = lambda path: sv.load(MODEL, path)
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"{name}: expected a path, got {type(path).__name__}"):
            call(path)


def test_a_path_may_be_bytes(tmp_path: Path) -> None:
    path: Any = os.fsencode(tmp_path / "a")
    sv.save(MODEL, path)
    assert sv.verify(path)
    assert sv.load(MODEL, path).loaded == ["v", "w"]
    assert list(sv.load(path)) == ["v", "w"]
