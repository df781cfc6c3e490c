"""Saves and loads of several processes, as threads: the same bits on any number of them, all or nothing in all."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import CheckpointError, CheckpointMismatchError, ProcessError, ReplicaError, StorageError
from tests.checkpoint.many import Processes, Sharding, has, spread, write
from tests.checkpoint.pieces import noise
from tests.internals import files, part, pieces_reader

Make = Callable[[int], Processes]
COUNTS = (1, 2, 4)
SHAPE = (8, 12)

VALUES = {
    "rows": noise(SHAPE, "float32", 1),
    "cols": noise(SHAPE, "float32", 2),
    "grid": noise(SHAPE, "complex64", 3),
    "uneven": noise((7, 5), "int8", 4),
    "whole": noise((3, 5), "float64", 5),
    "flags": noise((9,), "bool", 6),
    "words": np.array(["a", "é", ""], object),
    "step": np.array(7, "int32"),
    "empty": np.zeros((0, 3), "float32"),
}
PARTS = {"rows": (4,), "cols": (1, 4), "grid": (2, 2), "uneven": (3, 2)}


def model(index: int, count: int, *, zero: bool = False, turned: bool = False, plain: bool = False) -> dict[str, Any]:
    """The variables of one process."""
    made: dict[str, Any] = {}
    for name, value in VALUES.items():
        start: Any = np.zeros_like(value) if zero and value.dtype != object else value
        if zero and value.dtype == object:
            start = np.array([""] * value.size, object)
        start = start.tolist() if value.dtype == object else start
        if name in PARTS and not plain:
            parts = tuple(reversed((*PARTS[name], 1)[:2])) if turned else PARTS[name]
            made[name] = spread(start, Sharding(parts, index, count), dtype=_dtype(value))
        else:
            made[name] = sv.Variable(start, dtype=_dtype(value), trainable=False)
    made["unset"] = sv.Variable(shape=(2,), dtype="float32", trainable=False)
    return made


def _dtype(value: Any) -> str:
    return "string" if value.dtype == object else str(value.dtype)


def is_right(target: dict[str, Any]) -> bool:
    words = target["words"].numpy().tolist() == VALUES["words"].tolist()
    return words and all(has(target[name], value) for name, value in VALUES.items() if name != "words")


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Processes]:
    return lambda count: Processes(monkeypatch, count)


def sizes(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.iterdir())


@pytest.mark.parametrize(("savers", "loaders"), list(itertools.product(COUNTS, COUNTS)))
def test_any_number_saves_and_any_other_loads_the_same_bits(
    savers: int, loaders: int, processes: Make, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    processes(savers).all(lambda index: sv.save(model(index, savers), path, metadata={"epoch": 3}))
    assert len(list(tmp_path.iterdir())) == 1 + savers
    assert sv.verify(path).checked == len(VALUES)

    def load(index: int) -> list[bool]:
        found = []
        for kind in ({}, {"turned": True}, {"plain": True}):
            target = model(index, loaders, zero=True, **kind)
            report = sv.load(target, path)
            assert (report.missing, report.unexpected, sorted(report.loaded)) == ([], [], sorted(target))
            found.append(is_right(target))
        return found

    assert processes(loaders).all(load) == [[True] * 3] * loaders
    with sv.load(path) as saved:  # by one process, without an object
        assert saved.metadata == {"epoch": 3}
        assert all(saved[name].tobytes() == value.tobytes() for name, value in VALUES.items() if name != "words")
        assert saved["words"].tolist() == VALUES["words"].tolist()
        assert saved.variables["step"].trainable is False
        assert "unset" not in saved


# -- who writes and reads what -----------------------------------------------------------------------------------------


def test_each_byte_is_written_once_and_shared_out(processes: Make, tmp_path: Path) -> None:
    state = {f"v{i}": noise((50_000,), "float32", i) for i in range(8)}  # all processes have them
    rows = noise((400, 500), "float32", 9)
    total = sum(each.nbytes for each in (*state.values(), rows))

    def save(index: int) -> int:
        seen: list[int] = []
        spread_rows = spread(rows, Sharding((4,), index, 4))
        whole = {name: sv.Variable(value) for name, value in state.items()}
        sv.save({**whole, "rows": spread_rows}, tmp_path / "a", progress=lambda each: seen.append(each.done))
        return seen[-1]

    written = processes(4).all(save)
    assert sum(written) == total
    assert max(written) == total // 4  # nobody writes more than a share
    parts = [each for each in tmp_path.iterdir() if each.name != "a"]
    assert total < sum(each.stat().st_size for each in parts) < 1.05 * total


def test_a_process_reads_what_its_devices_need(
    processes: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, size in [(part, "CHUNK", 1 << 12), (part, "_TILE", 1 << 14), (pieces_reader, "CHUNK", 1 << 12)]:
        monkeypatch.setattr(module, name, size)
    value = noise((512, 1024), "float32", 1)  # tiles of 64 x 64
    processes(4).all(lambda index: sv.save({"w": spread(value, Sharding((4,), index, 4))}, tmp_path / "a"))
    read: list[int] = []
    monkeypatch.setattr(pieces_reader.PiecesSource, "_count", lambda _, nbytes: read.append(nbytes))
    for parts in ((4,), (1, 4), (2, 2)):
        read.clear()

        def load(index: int, parts: tuple[int, ...] = parts) -> bool:
            target = spread(np.zeros_like(value), Sharding(parts, index, 4))
            sv.load({"w": target}, tmp_path / "a")
            return has(target, value)

        assert processes(4).all(load) == [True] * 4
        assert sum(read) <= (1.1 if parts == (4,) else 2.2) * value.nbytes


def test_one_process_without_spread_values_writes_one_file_as_ever(tmp_path: Path) -> None:
    target = {"w": sv.Variable([1.0, 2.0])}
    sv.save(target, tmp_path / "a")
    sv.save(target, tmp_path / "b", alone=True, timeout=1.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes()[8:9] == b"{"
    with pytest.raises(ValueError, match="expected timeout to be a number of seconds > 0, got 0"):
        sv.save(target, tmp_path / "a", timeout=0)


def test_one_process_of_several_may_save_and_load_alone(processes: Make, tmp_path: Path) -> None:
    def both(index: int) -> float:
        target = {"w": sv.Variable(float(index))}
        sv.save(target, tmp_path / f"rank{index}", alone=True)
        target["w"].assign(-1.0)
        sv.load(target, tmp_path / f"rank{index}", alone=True)
        return float(target["w"])

    assert processes(3).all(both) == [0.0, 1.0, 2.0]
    results = processes(2).run(
        lambda index: sv.save(
            {"w": spread(VALUES["rows"], Sharding((2,), index, 2))}, tmp_path / f"x{index}", alone=True
        )
    )
    for each in results:
        assert isinstance(each, sv.errors.NotAddressableError)
        assert "other processes have a part of the value, at 'w'. Hint: call save in every process" in str(each)


def test_options_of_save_that_are_for_one_file_are_refused(processes: Make, tmp_path: Path) -> None:
    results = processes(2).run(lambda index: sv.save({"w": sv.Variable(1.0)}, tmp_path / "a", max_shard_size=10))
    assert all("max_shard_size is for values of one process" in str(each) for each in results)


# -- options of load ---------------------------------------------------------------------------------------------------


def test_a_file_of_one_process_is_loaded_by_several(processes: Make, tmp_path: Path) -> None:
    sv.save(model(0, 1, plain=True), tmp_path / "a")
    sv.save(model(0, 1, plain=True), tmp_path / "b", max_shard_size=200)

    def load(index: int, name: str) -> bool:
        target = model(index, 3, zero=True, turned=True)
        sv.load(target, tmp_path / name)
        return is_right(target)

    for name in "ab":
        assert processes(3).all(partial(load, name=name)) == [True] * 3
    content = bytearray((tmp_path / "a").read_bytes())
    content[content.index(VALUES["cols"].tobytes())] ^= 1  # one process checks it for all
    (tmp_path / "a").write_bytes(content)

    def refused(index: int) -> tuple[str, bool]:
        target = model(index, 3, zero=True)
        with pytest.raises(CheckpointError, match="cols.*damaged|damaged.*cols") as caught:
            sv.load(target, tmp_path / "a")
        return str(caught.value), is_zero(target)

    results = processes(3).all(refused)
    assert all(zero for _, zero in results)
    assert sum(" of 3: " in text for text, _ in results) == 2  # the two that had not seen it


def is_zero(target: dict[str, Any]) -> bool:
    return all(has(target[name], np.zeros_like(value)) for name, value in VALUES.items() if name != "words")


def test_names_patterns_casts_and_aliases(processes: Make, tmp_path: Path) -> None:
    value = np.arange(24, dtype="float32").reshape(4, 6)

    def save(index: int) -> None:
        w = spread(value, Sharding((2,), index, 2))
        sv.save(
            {"old": {"w": w}, "again": {"w": w}, "b": sv.Variable(np.ones(3, "int32"))}, tmp_path / "a", separator="."
        )

    processes(2).all(save)

    def load(index: int) -> list[Any]:
        w = spread(np.zeros((4, 6), "float64"), Sharding((1, 2), index, 2), dtype="float64")
        target = {"new": {"w": w}, "again": {"w": w}, "b": sv.Variable(np.zeros(3, "int32"))}
        first = sv.load(target, tmp_path / "a", rename={"old": "new"}, cast=True, only=["new/*", "again/*"])
        assert has(w, value.astype("float64"))
        with pytest.raises(CheckpointMismatchError, match="expected float64, got float32; pass cast=True"):
            sv.load(target, tmp_path / "a", rename={"old": "new"})
        second = sv.load(target, tmp_path / "a", strict=False)
        flat = {"w": spread(np.zeros((4, 6), "float32"), Sharding((2,), index, 2))}
        third = sv.load(flat, {"w": value})
        assert has(flat["w"], value)
        sv.load(flat, tmp_path / "a", rules=[("old/w", "w", "i o -> i o")], strict=False)
        late: dict[str, Any] = {"old": {"w": flat["w"]}}
        waits = sv.load(late, tmp_path / "a", on_create=True)
        late["b"] = sv.Variable(np.zeros(3, "int32"))
        waits.fill()
        return [first.loaded, second.loaded, third.loaded, late["b"].numpy().tolist()]

    assert processes(2).all(load) == [[["new/w"], ["b"], ["w"], [1, 1, 1]]] * 2


def test_an_object_that_does_not_match_is_one_error_in_all(processes: Make, tmp_path: Path) -> None:
    processes(2).all(lambda index: sv.save(model(index, 2), tmp_path / "a"))

    def load(index: int) -> tuple[str, bool]:
        target = model(index, 2, zero=True)
        if index == 1:
            target["more"] = sv.Variable(0.0)
        with pytest.raises(CheckpointMismatchError) as caught:
            sv.load(target, tmp_path / "a")
        return str(caught.value), is_zero(target)

    (zero, first), (one, second) = processes(2).all(load)
    assert (first, second) == (True, True)
    assert "process 1 of 2: load: the file does not match the object, and nothing was loaded" in zero
    assert "missing     more" in zero
    assert "missing     more" in one

    def other_axes(index: int) -> None:
        variable = spread(np.zeros((3, 1), "int32"), Sharding((1, 1), index, 2), shape=...)
        sv.load({"b": variable}, {"b": np.zeros(3, "int32")})

    assert all("cannot be spread as the variable is" in str(each) for each in processes(2).run(other_axes))


# -- errors in one process ---------------------------------------------------------------------------------------------


def test_what_is_not_the_same_is_named_and_nothing_is_written(processes: Make, tmp_path: Path) -> None:
    def different(change: Callable[[dict[str, Any]], object], number: int, index: int) -> None:
        target = model(index, 4)
        if index == number:
            change(target)
        sv.save(target, tmp_path / "a")

    cases: list[tuple[Callable[[dict[str, Any]], object], int, str]] = [
        (lambda target: target["whole"].assign(-VALUES["whole"]), 2, "process 2 of 4 has version 1 and not 0"),
        (lambda target: target.update(step=sv.Variable(8)), 0, "process 0 of 4 has another value, at 'step'"),
        (lambda target: target.update(step=sv.Variable(8.0)), 0, "process 0 of 4 has dtype float32 and not int32"),
        (lambda target: target["words"].assign(["a", "e", ""]), 1, "process 1 of 4 has version 1 and not 0"),
        (lambda target: write(target["rows"]), 3, "process 3 of 4 has version 1 and not 0, at 'rows'"),
        (lambda target: target.pop("whole"), 1, "process 1 of 4 has no such variable, at 'whole'"),
        (lambda target: target.update(more=sv.Variable(0.0)), 1, "only process 1 of 4 has it, at 'more'"),
        (lambda target: target.update(whole=sv.Variable(1.0)), 1, "process 1 of 4 has shape [] and not [3, 5]"),
        (lambda target: target["unset"].assign([1.0, 2.0]), 1, "processes 0, 2 and 3 of 4 has no value, at 'unset'"),
    ]
    for change, number, message in cases:
        results = processes(4).run(lambda index: different(change, number, index))  # noqa: B023  # called at once
        assert all(type(each) is ReplicaError for each in results), results
        assert len({str(each) for each in results}) == 1
        assert str(results[0]).startswith("save: copies that should be equal differ: ")
        assert message in str(results[0]), str(results[0])
        assert not list(tmp_path.iterdir())


def test_fifty_of_fifty_differences_are_named_and_nothing_is_written(processes: Make, tmp_path: Path) -> None:
    chance, some = random.Random(0), processes(4)
    models = [model(index, 4) for index in range(4)]
    some.all(lambda index: sv.save(models[index], tmp_path / "a"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(50):
        path, wrong = chance.choice(["rows", "cols", "grid", "whole", "step", "flags"]), chance.randrange(4)
        skips = path in PARTS or chance.random() < 0.5
        for index, each in enumerate(models):
            if skips and path in PARTS and index != wrong:  # all but one have written it
                write(each[path])
            elif skips and path not in PARTS and index != wrong:
                each[path].assign(each[path].numpy())
            elif not skips:  # all have written it, and one another value
                value = each[path].numpy().copy()
                bits = value.reshape(-1).view(np.uint8)
                bits[0] ^= index == wrong
                each[path].assign(value)
        results = some.run(lambda index: sv.save(models[index], tmp_path / "a"))
        expected = "has version" if skips else "has another value"
        for each in results:
            assert isinstance(each, ReplicaError), each
            assert f"process {wrong} of 4 {expected}" in str(each), (path, str(each))
            assert f"at {path!r}" in str(each)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        if skips and path in PARTS:
            write(models[wrong][path])
        elif skips:
            models[wrong][path].assign(models[wrong][path].numpy())
        else:
            for each in models:
                each[path].assign(VALUES[path])


def test_another_path_in_one_process_is_an_error_in_all(processes: Make, tmp_path: Path) -> None:
    results = processes(3).run(lambda index: sv.save({"w": sv.Variable(1.0)}, tmp_path / f"a{index // 2}"))
    assert all(type(each) is ReplicaError for each in results)
    assert "a0' in process 0, and '" in str(results[0])
    assert "a1' in process 2. Hint: pass the same path in every process" in str(results[1])
    assert not list(tmp_path.iterdir())


def test_a_process_that_does_not_come_is_named(processes: Make, tmp_path: Path) -> None:
    some = processes(3)
    results = some.run(lambda index: index == 1 or sv.save({"w": sv.Variable(1.0)}, tmp_path / "a", timeout=0.2))
    for each in (results[0], results[2]):
        assert isinstance(each, ProcessError)
        assert 1 in each.processes  # on a busy machine perhaps not alone
        assert " not come within 0.2 s" in str(each)
    assert not list(tmp_path.iterdir())


@pytest.mark.own_process(shared=True)
@pytest.mark.parametrize(
    ("operation", "error"),
    [
        *(
            (name, OSError(28, "No space left on device"))
            for name in ("create", "write", "sync", "sync_folder", "rename")
        ),
        *((name, KeyboardInterrupt()) for name in ("create", "write", "rename", "read")),
    ],
)
@pytest.mark.parametrize("number", [0, 1])
def test_an_error_in_one_process_is_one_in_all_and_the_old_save_or_the_new_one_is_whole(
    operation: str,
    number: int,
    error: BaseException,
    processes: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a"

    def state(index: int, value: int) -> dict[str, Any]:
        whole = np.full((4, 4), value, "float32")
        return {"w": spread(whole, Sharding((4,), index, 2)), "n": sv.Variable(value), "m": sv.Variable([value] * 3)}

    def save(value: int) -> list[Any]:
        return processes(2).run(lambda index: sv.save(state(index, value), path, timeout=10.0))

    def value_at() -> int:
        assert sv.verify(path)
        with sv.load(path) as saved:
            (found,) = {int(x) for name in saved for x in np.asarray(saved[name]).ravel()}
        return found

    assert save(1) == [None, None]
    real = getattr(files, operation)
    for fail_at in range(100):
        calls = [0]

        def failing(*args: Any) -> Any:
            if Processes.mine() == number:
                calls[0] += 1  # noqa: B023  # called at once
                if calls[0] == fail_at + 1:  # noqa: B023  # called at once
                    raise error
            return real(*args)

        before = value_at()
        monkeypatch.setattr(files, operation, failing)
        results = save(before + 1)
        monkeypatch.setattr(files, operation, real)
        after = value_at()
        if calls[0] <= fail_at:
            assert (results, after) == ([None, None], before + 1)
            break
        failed = [each is not None for each in results]
        assert failed[0] == failed[1] or after == before + 1, (fail_at, results)
        assert after in (before, before + 1)
        if failed == [False, False]:
            assert after == before + 1
        elif failed == [True, True] and isinstance(error, OSError):
            other = results[1 - number]
            assert isinstance(other, StorageError), other
            assert f"process {number} of 2" in str(other)
        assert save(before + 2) == [None, None]
        assert len(list(tmp_path.iterdir())) == 3, "something is left behind"
    else:
        raise AssertionError("the operation never ends")


# -- managers ----------------------------------------------------------------------------------------------------------


def state_of(index: int, count: int, value: float) -> dict[str, Any]:
    whole = np.full((4, 4), value, "float32")
    return {"w": spread(whole, Sharding((4,), index, count)), "n": sv.Variable(value), "step": sv.Variable(int(value))}


def put(state: dict[str, Any], value: float) -> None:
    write(state["w"], value)
    state["n"].assign(value)
    state["step"].assign(int(value))


def value_of(state: dict[str, Any]) -> float:
    blocks = state["w"]._handle.published.blocks.values()
    (found,) = {float(x) for block in blocks for x in block.ravel()} | {float(state["n"]), float(state["step"])}
    return found


@pytest.mark.parametrize("count", [1, 3])
def test_managers_save_keep_and_restore_together(count: int, processes: Make, tmp_path: Path) -> None:
    def run(index: int) -> Any:
        state = state_of(index, count, 0.0)
        with sv.CheckpointManager(tmp_path / "run", state, keep=2, best="loss") as manager:
            assert manager.restore() is None
            for step in range(1, 6):
                put(state, step)
                manager.save(state["step"], {"loss": abs(step - 2)}, wait=step % 2 == 0)
            manager.save(5, exist_ok=True)
            with pytest.raises(ValueError, match="step 5 has a checkpoint already"):
                manager.save(5)
            manager.wait()
            assert (manager.steps(), manager.best, manager.latest) == ([2, 4, 5], 2, 5)
            put(state, 9.0)
            restored = manager.restore()
            assert restored == sv.checkpoint.Restored(5, {}, sv.checkpoint.LoadReport(["w", "n", "step"]))
            assert value_of(state) == 5.0
            assert manager.restore(manager.best) is not None
            assert value_of(state) == 2.0
            manager.delete(4)
            assert manager.steps() == [2, 5]
        return sorted(path.name for path in (tmp_path / "run").iterdir())

    found = processes(count).all(run)
    assert found == [[".lock", "step-0000000002", "step-0000000005"]] * count
    names = {path.name for path in (tmp_path / "run" / "step-0000000005").iterdir()}
    assert names == {"index.json"} | {f"part-{i:05d}-of-{count:05d}.safetensors" for i in range(count)}
    other = state_of(0, 1, 0.0)
    with sv.CheckpointManager(tmp_path / "run", other) as manager:  # one process goes on
        assert manager.restore() is not None
        assert value_of(other) == 5.0


def test_all_fall_back_to_the_same_older_step(processes: Make, tmp_path: Path) -> None:
    def save(index: int) -> None:
        state = state_of(index, 2, 0.0)
        with sv.CheckpointManager(tmp_path, state) as manager:
            for step in (1, 2, 3, 4):
                put(state, step)
                manager.save(step)

    processes(2).all(save)
    last = tmp_path / "step-0000000004" / "part-00001-of-00002.safetensors"
    content = bytearray(last.read_bytes())
    content[content.index(np.full(4, 4.0, "float32").tobytes())] ^= 1  # a row, which only process 1 reads
    last.write_bytes(content)
    (tmp_path / "step-0000000003" / "part-00000-of-00002.safetensors").unlink()

    def restore(index: int) -> tuple[int, list[int], float, str]:
        state = state_of(index, 2, 0.0)
        with sv.CheckpointManager(tmp_path, state) as manager:
            restored = manager.restore()
            assert restored is not None
            with pytest.raises(CheckpointError, match="damaged"):
                manager.restore(4)
            manager.save(4, wait=True)  # in place of the damaged one
            assert (again := manager.restore(4)) is not None
            assert again.step == 4
            return restored.step, list(restored.skipped), value_of(state), restored.skipped[4]

    with pytest.warns(RuntimeWarning, match="restored step 2, because newer checkpoints are damaged"):
        (first, second) = processes(2).all(restore)
    assert first[:3] == second[:3] == (2, [4, 3], 2.0)
    assert "process 1 of 2: " in first[3]


def test_a_failed_save_of_managers_is_raised_in_all_and_the_next_one_works(
    processes: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = files.write, [False]

    def write_or_not(file: int, buffers: Any, offset: int) -> int:
        if full[0] and threading.current_thread().name.startswith("statevar") and "1" in _names_of(file):
            raise OSError(28, "No space left on device")
        return real(file, buffers, offset)

    def _names_of(file: int) -> str:
        return Path(f"/proc/self/fd/{file}").resolve().name.partition("-of-")[0]

    monkeypatch.setattr(files, "write", write_or_not)
    barrier = threading.Barrier(2)

    def run(index: int) -> list[str]:
        state = state_of(index, 2, 0.0)
        found = []
        with sv.CheckpointManager(tmp_path, state) as manager:
            manager.save(1, wait=True)
            barrier.wait()
            full[0] = True
            barrier.wait()
            manager.save(2)
            with pytest.raises(StorageError, match="No space left") as caught:
                manager.wait()
            found.append(str(caught.value))
            barrier.wait()
            full[0] = False
            barrier.wait()
            manager.save(3, wait=True)
            with pytest.raises(ReplicaError, match="the step is 4 in process 0, and 5 in process 1"):
                manager.save(4 + index)
            assert manager.steps() == [1, 3]
        return found

    (zero,), (one,) = processes(2).all(run)
    assert "process 1 of 2: " in zero
    assert "process 1 of 2: " not in one
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step-0000000001", "step-0000000003"]


def test_the_folder_of_another_manager_is_refused_in_all(processes: Make, tmp_path: Path) -> None:
    with sv.CheckpointManager(tmp_path, {"w": sv.Variable(0.0)}):
        results = processes(2).run(lambda index: sv.CheckpointManager(tmp_path, {"w": sv.Variable(0.0)}))
    assert all(isinstance(each, sv.errors.ConflictError) for each in results), results
    for manager in processes(2).all(lambda index: sv.CheckpointManager(tmp_path, {"w": sv.Variable(0.0)})):
        manager.close()


def test_trees_are_saved_and_restored_together(processes: Make, tmp_path: Path) -> None:
    def run(index: int) -> Any:
        with sv.CheckpointManager(tmp_path) as manager:
            manager.save(1, state=({"w": np.arange(6.0)}, 7))
            return manager.restore(like=({"w": np.zeros(6)}, 0))

    for tree, number in processes(2).all(run):
        assert (tree["w"].tolist(), number) == ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 7)
