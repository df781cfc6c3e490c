"""The system refuses: a full disk, a broken one, a folder that is gone. What was saved before is still there, whole.

The k-th file operation fails, for every k (`tests.checkpoint.disks`); then what a real system refuses.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import statevar as sv
from tests.checkpoint.disks import Fault, names_in, system_error
from tests.checkpoint.generations import generation_of, made, put
from tests.internals import files
from tests.threads import in_threads

pytestmark = pytest.mark.slow

NAME = "model.safetensors"

#: How an operation fails: what it raises, and whether it does what it should before that.
FAILURES: dict[str, tuple[Callable[[], BaseException | None], bool]] = {
    "full": (lambda: system_error(errno.ENOSPC), False),
    "broken": (lambda: system_error(errno.EIO), False),
    "short": (lambda: None, False),
    "interrupted before": (lambda: KeyboardInterrupt("injected"), False),
    "interrupted after": (lambda: KeyboardInterrupt("injected"), True),
}


#: An error of the system, or an interrupt.
EACH = [
    pytest.param(name, marks=[pytest.mark.own_process(shared=True)] if "interrupted" in name else ())
    for name in FAILURES
]


@pytest.fixture(params=EACH)
def failure(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here."""
    monkeypatch.setattr(files, "sync", lambda _: None)
    monkeypatch.setattr(files, "sync_folder", lambda _: None)


@contextmanager
def failing(fault: Fault, outcome: list[BaseException]) -> Iterator[None]:
    """One operation of the block fails; what the block raises is put aside, and must be what a user can use."""
    with pytest.MonkeyPatch.context() as patch:
        fault.install(patch)
        try:
            yield
        except (sv.errors.StatevarError, KeyboardInterrupt) as error:
            outcome.append(error)
    for each in outcome:
        if isinstance(fault.error, KeyboardInterrupt):
            assert each is fault.error
        else:
            assert fault.error is not None, f"half a write is no error: {each!r}"
            assert_tells(each, fault.error)


def assert_tells(error: BaseException, cause: BaseException) -> None:
    assert isinstance(error, sv.errors.StorageError)
    assert isinstance(error, OSError)
    assert isinstance(cause, OSError)
    assert error.errno is not None
    assert error.errno == cause.errno
    assert error.filename
    form = rf"\w+: the system said {os.strerror(error.errno)}, at '.+'\.( Hint: .+\.)?"
    assert re.fullmatch(form, str(error)), str(error)


def open_files() -> set[str]:
    """By number and inode, where the system tells."""
    found = set()
    numbers = Path("/proc/self/fd")
    for each in numbers.iterdir() if numbers.is_dir() else ():
        with suppress(OSError):
            status = each.stat()
            found.add(f"{each.name}:{status.st_dev}:{status.st_ino}")
    return found


def assert_none_left_open(before: set[str], fault: Fault) -> None:
    left = open_files() - before
    if fault.late and fault.failed in ("create", "open_file"):  # it has been opened, and nobody has learnt its number
        for each in left:
            os.close(int(each.partition(":")[0]))
        return
    assert not left, f"a file is still open after {fault.failed}"


def loaded(path: Path) -> int:
    """Of which save it is, whole."""
    model = made()
    sv.load(model, path)
    return generation_of(model)


# -- the k-th operation of a save -------------------------------------------------------------------------------

#: The options of the first save, of the second, which fails, and of the third.
SAVES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a file": ({}, {}, {}),
    "shards": ({"max_shard_size": 700}, {"max_shard_size": 700}, {"max_shard_size": 700}),
    "shards over a file": ({}, {"max_shard_size": 700}, {}),
    "a file over shards": ({"max_shard_size": 700}, {}, {}),
}


@pytest.mark.parametrize("scenario", SAVES)
def test_a_save_that_fails_leaves_a_whole_file(
    scenario: str, failure: str, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = SAVES[scenario]
    make_error, late = FAILURES[failure]
    results: Counter[str] = Counter()
    for number in count():
        path = memory / str(number) / NAME
        path.parent.mkdir()
        model = made()
        put(model, 1)
        sv.save(model, path, **first)
        put(model, 2)
        before = open_files()
        fault = Fault(number, make_error(), late=late)
        raised: list[BaseException] = []
        with failing(fault, raised):
            sv.save(model, path, **second)
        if fault.failed is None:
            break
        where = f"operation {number}, {fault.failed}"
        found = loaded(path)
        assert found == 2 or (raised and found == 1), where
        assert not (found == 2 and "untouched" in str(raised)), f"{where}: it was saved, and says otherwise"
        assert generation_of(model) == 2, f"{where}: the variables have changed"
        assert_none_left_open(before, fault)
        results["failed" if raised else "saved all the same"] += 1
        put(model, 3)
        sv.save(model, path, **third)
        assert loaded(path) == 3, where
        assert names_in(path.parent) == {NAME, *shards_of(path)}, where
        shutil.rmtree(path.parent)
    with capsys.disabled():
        print(f"\n{failure} at each of {sum(results.values())} operations of a save, {scenario}: {dict(results)}")
    assert sum(results.values()) > 10


def shards_of(path: Path) -> set[str]:
    """The files that an index names."""
    content = path.read_bytes()
    return set(json.loads(content)["weight_map"].values()) if content.startswith(b'{"') else set()


def test_a_load_that_fails_is_all_or_nothing(failure: str, memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_error, late = FAILURES[failure]
    results: Counter[str] = Counter()
    model = made()
    for options in ({}, {"max_shard_size": 700}):
        put(model, 1)
        sv.save(model, path := memory / f"{len(options)}.safetensors", **options)  # type: ignore[arg-type]
        for number in count():
            put(model, 2)
            put(model, 3)
            before = open_files()
            fault = Fault(number, make_error(), late=late)
            raised: list[BaseException] = []
            with failing(fault, raised):
                sv.load(model, path)
            if fault.failed is None:
                break
            found = generation_of(model)
            assert found == 1 or (raised and found == 3), fault.failed
            assert_none_left_open(before, fault)
            results["failed" if raised else "loaded all the same"] += 1
            sv.load(model, path)
            assert generation_of(model) == 1
    with capsys.disabled():
        print(f"\n{failure} at each of {sum(results.values())} operations of a load: {dict(results)}")
    assert sum(results.values()) > 20


# -- the k-th operation of a manager -------------------------------------------------------------------------------


def test_a_checkpoint_that_fails_leaves_a_whole_one(
    failure: str, memory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_error, late = FAILURES[failure]
    results: Counter[str] = Counter()
    for number in count():
        model = made()
        with sv.CheckpointManager(memory / str(number), model, keep=2, shard_size=700) as manager:
            for step in (1, 2, 3):
                put(model, step)
                manager.save(step, wait=True)
            put(model, 4)
            before = open_files()
            fault = Fault(number, make_error(), late=late)
            raised: list[BaseException] = []
            with failing(fault, raised):
                manager.save(4, wait=True)
            if fault.failed is None:
                break
            where = f"operation {number}, {fault.failed}"
            assert generation_of(model) == 4, f"{where}: the variables have changed"
            assert_none_left_open(before, fault)
            restored = manager.restore()
            assert restored is not None, where
            assert generation_of(model) == restored.step, where
            assert restored.step == 4 or (raised and restored.step == 3), where
            results["failed" if raised else "saved all the same"] += 1
            put(model, 5)
            manager.save(5, wait=True)
            assert len(manager.steps()) == 2, where
            assert loaded(manager.path(5)) == 5, where
            assert not left_in(manager), where
    with capsys.disabled():
        print(f"\n{failure} at each of {number} operations of a checkpoint: {dict(results)}")
    assert number > 20


def left_in(manager: sv.CheckpointManager) -> set[str]:
    """What does not belong into its folder."""
    return names_in(manager.directory) - {".lock", *(manager.path(step).name for step in manager.steps())}


def test_a_start_that_fails_is_tried_again(failure: str, memory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_error, late = FAILURES[failure]
    results: Counter[str] = Counter()
    for number in count():
        directory = memory / str(number) / "run"
        model = made()
        put(model, 1)
        before = open_files()
        fault = Fault(number, make_error(), late=late)
        raised: list[BaseException] = []
        with failing(fault, raised):
            sv.CheckpointManager(directory, model).close()
        if fault.failed is None:
            break
        assert_none_left_open(before, fault)
        results["failed" if raised else "started all the same"] += 1
        with sv.CheckpointManager(directory, model) as manager:
            manager.save(1, wait=True)
            assert not left_in(manager), fault.failed
    with capsys.disabled():
        print(f"\n{failure} at each of {sum(results.values())} operations of a manager's start: {dict(results)}")
    assert sum(results.values()) > 5


def test_what_fails_in_the_background_is_told_at_the_next_call(memory: Path) -> None:
    model = made()
    with sv.CheckpointManager(memory / "run", model) as manager:
        put(model, 1)
        manager.save(1, wait=True)
        with pytest.MonkeyPatch.context() as patch:
            Fault(8, system_error(errno.ENOSPC)).install(patch)
            put(model, 2)
            manager.save(2)
            with pytest.raises(sv.errors.StorageError, match="save: the system said No space left on device") as caught:
                manager.wait()
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.__notes__ == ["The save of step 2 failed in the background."]
        assert manager.steps() == [1]
        manager.save(2, wait=True)
        assert manager.steps() == [1, 2]


# -- what a real system refuses ----------------------------------------------------------------------------------

#: Files may not be larger than 100 kB from some moment on: the system says so in the middle of a write.
LIMITED = """
import os, resource, sys
import numpy as np
import statevar as sv

folder, what = sys.argv[1:]
model = {name: sv.Variable(np.full(20_000, 1.0, "float32")) for name in "ab"}
path = os.path.join(folder, "model.safetensors")
sv.save(model, path)
manager = sv.CheckpointManager(os.path.join(folder, "run"), model)
manager.save(1, wait=True)
for v in model.values():
    v.assign_add(1.0)
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
try:
    if what == "manager":
        manager.save(2, wait=True)
    else:
        sv.save(model, path, max_shard_size=200_000 if what == "file" else 90_000)
except sv.errors.StorageError as error:
    print(error.errno, str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, before)
again = {name: sv.Variable(np.zeros(20_000, "float32")) for name in "ab"}
sv.load(again, path)
print(sorted({float(x) for v in again.values() for x in v.value}), manager.restore().step)
sv.save(model, path)
manager.save(3, wait=True)
manager.close()
print(sorted(os.listdir(folder)), sorted(os.listdir(manager.directory)))
"""


@pytest.mark.parametrize("what", ["file", "shards", "manager"])
def test_a_limit_on_the_size_of_files_leaves_what_was_saved(what: str, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIMITED, str(tmp_path), what],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not done.returncode, done.stderr
    *error, values, names = done.stdout.splitlines()
    if what == "shards":  # of which each is small enough
        assert not error
        assert values == "[2.0] 1"
    else:
        assert error[0].startswith(f"{errno.EFBIG} save: the system said File too large, at '")
        assert error[0].endswith("untouched.")
        assert values == "[1.0] 1"
    last = "['.lock', 'step-0000000001', 'step-0000000003']"
    assert names == f"['model.safetensors', 'run'] {last}"


def refused(path: Path, text: str, number: int | None = None) -> None:
    """Nothing can be saved there, and the error says why."""
    model = made()
    put(model, 1)
    for options in ({}, {"max_shard_size": 700}):
        with pytest.raises(sv.errors.StorageError, match=text) as caught:
            sv.save(model, path, **options)  # type: ignore[arg-type]
        assert caught.value.errno == number
        assert str(path) in str(caught.value)
    assert generation_of(model) == 1


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    refused(tmp_path / "missing" / NAME, "save: the system said No such file or directory", errno.ENOENT)
    model = made()
    with pytest.raises(sv.errors.CheckpointNotFoundError, match="load: the system said No such file") as caught:
        sv.load(model, tmp_path / "missing" / NAME)
    assert caught.value.errno == errno.ENOENT
    assert not names_in(tmp_path)


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file" / NAME, "save: the system said Not a directory", errno.ENOTDIR)
    with pytest.raises(sv.errors.StorageError, match="load: the system said Not a directory"):
        sv.load(made(), tmp_path / "file" / NAME)
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(sv.errors.StorageError, match="Manager: the system said Not a directory") as caught:
            sv.CheckpointManager(place, made())
        assert caught.value.errno == errno.ENOTDIR
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_where_a_file_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    message = r"save: the path is a folder, at '.*'\. Hint: pass the path of a file in it\."
    refused(tmp_path / NAME, message, errno.EISDIR)
    assert names_in(tmp_path) == {NAME}


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    refused(tmp_path / ("x" * 300), "save: the system said File name too long", errno.ENAMETOOLONG)
    assert not names_in(tmp_path)


def test_a_loop_of_links_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(sv.errors.StorageError, match="load: the system said Too many levels of symbolic links"):
        sv.load(made(), tmp_path / "a")


def test_a_folder_that_is_read_only_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    (probe := tmp_path / "probe").mkdir(0o500)
    if os.access(probe, os.W_OK):
        pytest.skip("root may write everywhere")
    model = made()
    put(model, 1)
    sv.save(model, tmp_path / NAME)
    manager = sv.CheckpointManager(tmp_path / "run", model)
    manager.save(1, wait=True)
    put(model, 2)
    for folder in (tmp_path, tmp_path / "run"):
        folder.chmod(0o500)
    try:
        with pytest.raises(sv.errors.StorageError, match="save: the system said Permission denied") as caught:
            sv.save(model, tmp_path / NAME)
        assert caught.value.errno == errno.EACCES
        with pytest.raises(sv.errors.StorageError, match="save: the system said Permission denied"):
            manager.save(2, wait=True)
        assert loaded(tmp_path / NAME) == 1
        assert loaded(manager.path(1)) == 1
    finally:
        for folder in (tmp_path, tmp_path / "run"):
            folder.chmod(0o700)
    sv.save(model, tmp_path / NAME)
    manager.save(2, wait=True)
    manager.close()
    assert loaded(tmp_path / NAME) == loaded(manager.path(2)) == 2
    (tmp_path / NAME).chmod(0)
    with pytest.raises(sv.errors.StorageError, match="load: the system said Permission denied"):
        sv.load(model, tmp_path / NAME)


def test_a_folder_that_vanishes_is_told_and_used_when_it_is_back(tmp_path: Path) -> None:
    model, directory = made(), tmp_path / "run"
    with sv.CheckpointManager(directory, model, shard_size=700) as manager:
        put(model, 1)
        manager.save(1, wait=True)
        shutil.rmtree(directory)
        for call in (lambda: manager.save(2), manager.steps, manager.restore, lambda: manager.latest):
            with pytest.raises(sv.errors.CheckpointNotFoundError, match=f"No such file or directory, at '{directory}'"):
                call()
        directory.mkdir()
        assert manager.steps() == []
        assert manager.restore() is None
        manager.save(2, wait=True)  # nothing has changed since the files that are gone
        put(model, 3)
        manager.save(3, wait=True)
        assert manager.steps() == [2, 3]
        assert loaded(manager.path(2)) == 1
        assert loaded(manager.path(3)) == 3
        with pytest.raises(sv.errors.ConflictError):  # it has the folder that has come again
            sv.CheckpointManager(directory, model)


def test_a_folder_that_another_manager_has_taken_is_a_conflict(tmp_path: Path) -> None:
    model, directory = made(), tmp_path / "run"
    put(model, 1)
    with sv.CheckpointManager(directory, model) as manager:
        shutil.rmtree(directory)
        with sv.CheckpointManager(directory, model) as other:
            with pytest.raises(sv.errors.ConflictError, match="another manager uses this folder"):
                manager.save(1, wait=True)
            other.save(1, wait=True)
        manager.save(2, wait=True)
        assert manager.steps() == [1, 2]


# -- while eight threads write ----------------------------------------------------------------------------------


def test_every_checkpoint_is_one_moment(backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight threads move amounts from one variable to another, so that the sum tells of a cut through a transaction."""
    model = {f"v{i:02d}": sv.Variable(100, backend=backend) for i in range(64)}
    each = 25
    done = threading.Event()
    sums: list[int] = []
    moved = count()

    def writer(seed: int) -> None:
        chosen = random.Random(seed)
        while not done.is_set():
            source, target = chosen.sample(list(model.values()), 2)
            with sv.transaction(source, target):
                source -= 1
                target += 1
            next(moved)
            time.sleep(0)  # the turn of the thread that saves

    def saver() -> None:
        try:
            with sv.CheckpointManager(tmp_path / "run", model, keep=each) as manager:
                for step in range(each):
                    manager.save(step)
                    sv.save(model, tmp_path / NAME)
                    sums.append(total(tmp_path / NAME))
                manager.wait()
                sums.extend(total(manager.path(step)) for step in manager.steps())
        finally:
            done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        in_threads(saver, *(lambda seed=seed: writer(seed) for seed in range(8)))
    finally:
        sys.setswitchinterval(interval)
    with capsys.disabled():
        print(f"\n{len(sums)} checkpoints while 8 threads moved {(moves := next(moved))} amounts on {backend}")
    assert sums == [6400] * 2 * each
    assert moves > 20


def total(path: Path) -> int:
    assert sv.verify(path)
    with sv.load(path) as checkpoint:
        return sum(int(array) for array in checkpoint.values())
