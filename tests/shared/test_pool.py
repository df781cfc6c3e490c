"""Pools: a file that appears whole, variables that are added while others use it, and room that is used again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from statevar.errors import DTypeError, StorageError
from tests.helpers import thorough
from tests.internals import shared_part
from tests.shared.records import add, consistent, created, opened, places, pools
from tests.shared.test_kills import killed_after
from tests.threads import in_threads


@pytest.fixture
def file(shm: Path) -> str:
    return str(shm / "pool.svs")


def new(path: str, value: Any = 0) -> Any:
    array = np.asarray(value)
    return pools.New(path, array, str(array.dtype))


def test_one_of_several_creators_wins_and_the_file_appears_whole(file: str) -> None:
    won: list[Any] = []

    def create() -> None:
        try:
            won.append(created(file, a=np.arange(70_000), b=np.float32(2)))
        except FileExistsError:
            assert int(opened(file).records["a"].read()[0][-1]) == 69_999

    in_threads(*[create] * 6)
    assert len(won) == 1
    assert [each.name for each in Path(file).parent.iterdir()] == ["pool.svs"]
    assert (won[0].id, won[0].durable, won[0].name) == (opened(file).id, "no", file)


def test_a_value_without_a_fixed_size_is_refused(file: str) -> None:
    with pytest.raises(DTypeError) as error:
        pools.Pool.create(places.place_of(file), [pools.New("text", np.array(["a"]), "string")])
    assert str(error.value) == (
        "share: values of dtype string have no fixed size, at 'text'. "
        "Hint: keep the text in a variable of its own that is not shared."
    )
    assert not Path(file).exists()


def test_variables_are_added_to_a_pool_that_others_use(file: str) -> None:
    mine, theirs = created(file), opened(file)
    mine.add([new("a", 1), new("b", np.ones(70_000))])
    assert not theirs.records
    theirs.add([new("a", 5), new("c", 3)])  # "a" stays as it is
    mine.refresh()
    for pool in (mine, theirs, opened(file)):
        assert list(pool.records) == ["a", "b", "c"]
        assert [int(value.flat[0]) for value in consistent(list(pool.records.values()))] == [1, 1, 3]
        assert [record.index for record in pool.records.values()] == [0, 1, 2]
    assert add(theirs.records["b"], 1.0) == 1
    assert mine.records["b"].read()[0].min() == 2


def test_many_add_at_the_same_time(file: str) -> None:
    everybody = [created(file), *(opened(file) for _ in range(3))]

    def adding(number: int) -> None:
        for each in range(12):
            everybody[number].add([new(f"{number}/{each}", number), new(f"all/{each}", each)])
            add(everybody[number].records[f"all/{each}"], 1)

    in_threads(*(lambda number=number: adding(number) for number in range(4)))
    pool = opened(file)
    assert len(pool.records) == 60
    assert [int(pool.records[f"all/{each}"].read()[0]) for each in range(12)] == [each + 4 for each in range(12)]
    for each in everybody:
        each.refresh()
        assert {path: record.index for path, record in each.records.items()} == {
            path: record.index for path, record in pool.records.items()
        }


@pytest.mark.own_process
def test_a_kill_at_each_step_of_an_addition_adds_all_or_nothing(file: str) -> None:
    step, killed = 1, True
    while killed:
        pool = created(file, a=np.zeros(20_000))
        both = [new("x", 1), new("y", np.full(70_000, 2.0))]
        killed = killed_after(step, lambda: pool.add(both))  # noqa: B023  # called at once
        theirs = opened(file)
        assert ("x" in theirs.records) == ("y" in theirs.records) >= (not killed)
        assert add(theirs.records["a"], 1.0) > 0
        pool.add([*both, new("z", 3)])
        size = Path(file).stat().st_size
        assert [int(record.read()[0].max()) for record in pool.records.values()] == [1, 1, 2, 3]
        assert size == pool.siblings.used(), "what was begun was used again"
        Path(file).unlink()
        step += thorough(401, 7)
    assert step > 300, "the steps were seen"


@pytest.mark.own_process
def test_a_child_adds_what_its_parent_finds(file: str) -> None:
    pool = created(file, a=np.int64(0))
    child = os.fork()
    if child == 0:
        pool.add([new("late", 7)])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    pool.refresh()
    assert int(pool.records["late"].read()[0]) == 7


def test_a_pool_keeps_few_descriptors_whatever_it_has(file: str) -> None:
    pool = created(file, **{f"v{number}": np.zeros(9000) for number in range(40)})
    before = len(list(Path("/proc/self/fd").iterdir()))
    held = [record.read()[0] for record in pool.records.values()]
    for record in pool.records.values():
        for _ in range(3):
            add(record, 1.0)
            held.append(record.read()[0])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert len(held) == 160


def test_memory_that_the_system_does_not_map_is_an_error_that_says_so(shm: Path) -> None:
    (shm / "empty").write_bytes(b"")
    with (shm / "empty").open("rb") as file:
        message = r"the system does not map 1,152,921,504,606,846,976 bytes of memory .*ulimit -v"
        with pytest.raises(StorageError, match=message):
            shared_part("memory").Mapped(file.fileno(), 0, 1 << 60)


def test_a_pool_is_opened_again_where_its_name_has_gone_to_another_one(shm: Path) -> None:
    first = created(str(shm / "pool.svs"), a=np.int64(0))
    (shm / "pool.svs").unlink()
    created(str(shm / "pool.svs"), b=np.int64(0))
    again = first.again()
    assert again.id == first.id
    assert add(again.records["a"], 1) == 1
    assert first.records["a"].version == 1
