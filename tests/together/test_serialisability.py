"""What threads did at once must be what they could have done one after the other.

Each step (a transaction, a plain write, an update, a snapshot) notes the version and the value of what it read and
wrote. A variable counts its writes, so the versions say which step came before which: the one that wrote a version
before those that read it, those before the one that wrote the next. If that order has no circle, running the steps in
it on plain numbers must give every value that was read, and the end.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import ConflictError, StatevarError
from tests.helpers import PATIENCE
from tests.internals import cell_module, transactions
from tests.threads import NoLock

pytestmark = pytest.mark.slow

SECONDS = 1.5
COUNT = 6


@pytest.fixture(autouse=True)
def switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


# -- the checker --------------------------------------------------------------------------------------------


@dataclass
class Step:
    """What one thread did in one step. By variable: the version and the value read; the version and the value left."""

    reads: dict[int, tuple[int, int]] = field(default_factory=dict)
    writes: dict[int, tuple[int, int]] = field(default_factory=dict)


class NotSerialisableError(AssertionError):
    """What the checker found."""


def check(history: list[Step], first: list[int], last: list[int]) -> None:
    """Raises unless the steps could have been done one after the other.

    Args:
        first: the value of each variable at version 0.
        last: the value of each variable when all threads had ended.
    """
    writers, readers = _by_version(history)
    after: TopologicalSorter[int] = TopologicalSorter(dict.fromkeys(range(len(history)), ()))
    for (variable, version), i in writers.items():
        for j in readers[variable, version]:
            if i != j:
                after.add(j, i)  # what was read had been written
        earlier = version - 1
        while earlier and (variable, earlier) not in writers:
            earlier -= 1  # a transaction may count several writes, of which only the last is seen
        before = [*readers[variable, earlier], *([writers[variable, earlier]] if earlier else [])]
        for j in before:
            if i != j:
                after.add(i, j)  # and had not been written again
    try:
        order = list(after.static_order())
    except CycleError as error:
        raise NotSerialisableError(f"a circle: {[history[i] for i in error.args[1]]}") from None
    _replay([history[i] for i in order], first, last)


def _by_version(history: list[Step]) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], list[int]]]:
    writers: dict[tuple[int, int], int] = {}
    readers: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, step in enumerate(history):
        for variable, (version, _) in step.writes.items():
            if (variable, version) in writers:
                raise NotSerialisableError(f"two steps wrote version {version} of variable {variable}")
            writers[variable, version] = i
        for variable, (version, _) in step.reads.items():
            readers[variable, version].append(i)
    for variable, version in readers:
        if version and (variable, version) not in writers:
            raise NotSerialisableError(f"version {version} of variable {variable} was read, and never committed")
    return writers, readers


def _replay(ordered: list[Step], first: list[int], last: list[int]) -> None:
    model, versions = list(first), [0] * len(first)
    for step in ordered:
        for variable, seen in step.reads.items():
            expected = (versions[variable], model[variable])
            if seen != expected:
                raise NotSerialisableError(f"variable {variable} is {expected} in this order, but {step} read it")
        for variable, (version, value) in step.writes.items():
            versions[variable], model[variable] = version, value
    if model != last:
        raise NotSerialisableError(f"the end is {last}, and should be {model}")


# -- the threads --------------------------------------------------------------------------------------------


@dataclass
class Run:
    """Threads that do random steps on a few variables for a while."""

    variables: list[Any]
    seed: int
    seconds: float
    steps: int = 50
    threads: int = 4
    tolerated: tuple[type[BaseException], ...] = ()
    history: list[Step] = field(default_factory=list)
    refused: int = 0
    errors: list[BaseException] = field(default_factory=list)

    def go(self) -> None:
        end = time.monotonic() + self.seconds
        workers = [
            threading.Thread(target=self._work, args=(random.Random(self.seed * 100 + i), end), daemon=True)
            for i in range(self.threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
            assert not worker.is_alive(), f"a thread waits for ever (seed {self.seed})"

    def _work(self, rng: random.Random, end: float) -> None:
        steps = [self._transaction] * 5 + [self._plain, self._update, self._snapshot]
        try:
            # On a busy machine, until some steps are done.
            while (time.monotonic() < end or len(self.history) <= self.steps) and not self.errors:
                with suppress(*self.tolerated):
                    rng.choice(steps)(rng)
        except BaseException as error:  # noqa: BLE001  # raised by `assert_serialisable`
            self.errors.append(error)

    def _transaction(self, rng: random.Random) -> None:
        chosen = rng.sample(range(COUNT), rng.randint(1, 4))
        listed = chosen[: rng.randint(0, len(chosen))]
        rng.shuffle(listed)
        step = Step()
        try:
            with sv.transaction([self.variables[i] for i in listed]):
                total = 0
                for i in chosen:
                    v = self.variables[i]
                    step.reads[i] = (v.version, int(v))
                    total += step.reads[i][1]
                for i in chosen:
                    if rng.random() < 0.5:
                        self._write(rng, i, total, step)
        except ConflictError:
            self.refused += 1  # then nothing of it may be seen: its versions are not in the history
            return
        self.history.append(step)

    def _write(self, rng: random.Random, i: int, total: int, step: Step) -> None:
        v = self.variables[i]
        if rng.random() < 0.5:
            v.assign((total * 7 + rng.randrange(1000)) % 100_003)
        else:
            v.assign_add(1)
        step.writes[i] = (v.version, int(v))

    def _plain(self, rng: random.Random) -> None:
        """A write alone cannot tell its version; a transaction of just this write can."""
        i = rng.randrange(COUNT)
        v = self.variables[i]
        with sv.transaction(v):
            step = Step({i: (v.version, int(v))})
            v.assign_add(3)
            step.writes[i] = (v.version, int(v))
        self.history.append(step)

    def _update(self, rng: random.Random) -> None:
        i = rng.randrange(COUNT)
        v = self.variables[i]
        seen: list[tuple[int, int]] = []

        def fn(value: Any) -> Any:
            seen.append((v.version, int(value)))
            return value + 5

        new = int(v.update(fn))
        self.history.append(Step({i: seen[0]}, {i: (seen[0][0] + 1, new)}))

    def _snapshot(self, rng: random.Random) -> None:
        chosen = rng.sample(range(COUNT), rng.randint(2, COUNT))
        taken = sv.snapshot([self.variables[i] for i in chosen])
        self.history.append(
            Step({i: (taken.versions[self.variables[i].path], int(taken[self.variables[i]])) for i in chosen})
        )

    def assert_serialisable(self) -> None:
        """Of all steps, and of the end."""
        if self.errors:
            raise NotSerialisableError(f"seed {self.seed}: {self.errors[0]!r}") from self.errors[0]
        try:
            check(self.history, [0] * COUNT, [int(v) for v in self.variables])
        except NotSerialisableError as error:
            raise NotSerialisableError(f"seed {self.seed}, {len(self.history)} steps: {error}") from None


def some(backend: str, count: int, value: Any = 0) -> list[sv.Variable]:
    with sv.name_scope("test_serialisability"):
        return [sv.Variable(value, backend=backend) for _ in range(count)]


def test_threads_could_have_run_one_after_the_other(backend: str) -> None:
    run = Run(some(backend, COUNT), time.time_ns() % 100_000, SECONDS)
    run.go()
    run.assert_serialisable()
    assert len(run.history) > run.steps, "some steps were done"


def test_plain_writes_among_transactions_are_not_lost(backend: str) -> None:
    """Adds outside of transactions, which the history above has inside: none is lost."""
    variables = some(backend, COUNT)
    added = [0] * COUNT
    lock = threading.Lock()
    seed = time.time_ns() % 100_000
    end = time.monotonic() + SECONDS

    def plain(rng: random.Random) -> None:
        while time.monotonic() < end:
            i = rng.randrange(COUNT)
            variables[i].assign_add(1)
            with lock:
                added[i] += 1

    def move(rng: random.Random) -> None:
        while time.monotonic() < end:
            i, j = rng.sample(range(COUNT), 2)
            listed = [variables[i], variables[j]] if rng.random() < 0.5 else []
            with suppress(ConflictError), sv.transaction(listed):
                amount = int(variables[i]) // 2
                variables[i].assign_sub(amount)
                variables[j].assign_add(amount)

    in_time([plain, plain, move, move], seed)
    assert sum(int(v) for v in variables) == sum(added), f"seed {seed}"


def in_time(functions: list[Callable[[random.Random], object]], seed: int) -> None:
    """Runs each in a thread of its own; all of them end, and none raises."""
    errors: list[BaseException] = []

    def guarded(function: Callable[[random.Random], object], rng: random.Random) -> None:
        try:
            function(rng)
        except BaseException as error:  # noqa: BLE001  # raised below
            errors.append(error)

    threads = [
        threading.Thread(target=guarded, args=(function, random.Random(seed * 100 + i)), daemon=True)
        for i, function in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"a thread waits for ever (seed {seed})"
    if errors:
        raise errors[0]


# -- tests of the checker -----------------------------------------------------------------------------------

UNSOUND: dict[str, tuple[list[Step], list[int]]] = {
    "lost update": (
        [Step({0: (0, 0)}, {0: (1, 1)}), Step({0: (0, 0)}, {0: (2, 1)})],
        [1, 0],
    ),
    "one version twice": (
        [Step({0: (0, 0)}, {0: (1, 1)}), Step({0: (0, 0)}, {0: (1, 1)})],
        [1, 0],
    ),
    "write skew": (
        [Step({0: (0, 0), 1: (0, 0)}, {0: (1, 1)}), Step({0: (0, 0), 1: (0, 0)}, {1: (1, 1)})],
        [1, 1],
    ),
    "half a transaction read": (
        [Step({}, {0: (1, 1), 1: (1, 1)}), Step({0: (1, 1), 1: (0, 0)})],
        [1, 1],
    ),
    "what was never committed read": (
        [Step({0: (1, 7)})],
        [0, 0],
    ),
    "another value read than written": (
        [Step({}, {0: (1, 1)}), Step({0: (1, 2)})],
        [1, 0],
    ),
    "another end": (
        [Step({}, {0: (1, 1)})],
        [2, 0],
    ),
    "two readers that disagree": (
        [Step({}, {0: (1, 1)}), Step({}, {1: (1, 1)}), Step({0: (1, 1), 1: (0, 0)}), Step({0: (0, 0), 1: (1, 1)})],
        [1, 1],
    ),
}


@pytest.mark.parametrize("what", UNSOUND)
def test_the_checker_refuses(what: str) -> None:
    history, last = UNSOUND[what]
    with pytest.raises(NotSerialisableError):
        check(history, [0, 0], last)


def test_the_checker_accepts() -> None:
    history = [
        Step({0: (2, 2), 1: (2, 1)}, {}),
        Step({0: (0, 0)}, {0: (2, 2), 1: (1, 9)}),  # 0 was written twice in it
        Step({0: (2, 2)}, {1: (2, 1)}),
        Step({0: (0, 0), 1: (0, 0)}),
    ]
    check(history, [0, 0], [2, 1])


def yield_then(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives other threads a turn first, so that a fault shows soon."""

    def run(*args: Any) -> Any:
        time.sleep(0)
        return function(*args)

    return run


BROKEN: dict[str, tuple[Any, str, Any]] = {
    "no lock": (cell_module, "RLock", NoLock),
    "no hold": (sv.Variable, "_take", lambda self, hold, operation, within=None, path_of=None: None),
    "no waiting": (sv.Variable, "_wait_for_holder", lambda self, operation, path_of=None: None),
    "no comparing": (transactions.TransactionOverlay, "_validate", lambda self: None),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*BROKEN[what])
    monkeypatch.setattr(sv.Variable, "_adopt", yield_then(sv.Variable._adopt))
    for seed in range(1000):
        # A thread may meet the mark of another one's write, or lack an update's own; the checker is to find the rest.
        run = Run(some("numpy", COUNT), seed, 0.2, tolerated=(StatevarError, AttributeError))
        run.go()
        assert not run.errors
        try:
            run.assert_serialisable()
        except NotSerialisableError:
            return
    pytest.fail("the fault was never found")


# -- no deadlock ----------------------------------------------------------------------------------------------


def test_listed_sets_that_overlap_never_conflict(backend: str) -> None:
    """They are taken in one order, whatever order they are listed in: all threads end, and no transaction fails."""
    variables = some(backend, COUNT)
    seed = time.time_ns() % 100_000
    end = time.monotonic() + SECONDS

    def write(rng: random.Random) -> None:
        while time.monotonic() < end:
            chosen = rng.sample(variables, rng.randint(1, COUNT))
            with sv.transaction(chosen):
                for v in chosen:
                    v.assign_add(1)

    def look(rng: random.Random) -> None:
        while time.monotonic() < end:
            sv.snapshot(rng.sample(variables, COUNT))

    in_time([write, write, write, look, look], seed)
    for v in variables:
        assert v.version == int(v), f"seed {seed}: a write was lost"
        assert v._holder is None


def test_sets_that_overlap_never_wait_for_ever(backend: str) -> None:
    """Listed, taken one by one, or by updates within updates, in any order: all threads end."""
    variables = some(backend, COUNT)
    seed = time.time_ns() % 100_000
    end = time.monotonic() + SECONDS

    def listed(rng: random.Random) -> None:
        while time.monotonic() < end:
            chosen = rng.sample(variables, rng.randint(1, COUNT))
            # It may be the one that closes a circle of those who take them one by one.
            with suppress(ConflictError), sv.transaction(chosen):
                for v in chosen:
                    v.assign_add(1)

    def one_by_one(rng: random.Random) -> None:
        while time.monotonic() < end:
            with suppress(ConflictError), sv.transaction():
                for v in rng.sample(variables, rng.randint(1, COUNT)):
                    v.assign_add(1)

    def nested(rng: random.Random) -> None:
        def within(chosen: list[sv.Variable]) -> None:
            def fn(value: Any) -> Any:
                within(chosen[1:])
                return value + 1

            if chosen:
                chosen[0].update(fn)

        while time.monotonic() < end:
            with suppress(ConflictError):
                within(rng.sample(variables, 3))

    in_time([listed, listed, one_by_one, one_by_one, nested, nested], seed)
    for v in variables:
        assert v.version == int(v), f"seed {seed}: a write was lost, or half undone"
        assert v._holder is None


# -- amounts moved between many variables ---------------------------------------------------------------------

Move = Callable[[int, int, int], None]
Total = Callable[[], int]


def wrong_sums(count: int, seconds: float, move: Move, totals: list[Total], seed: int) -> int:
    """How often a sum was not what it always is."""
    end = time.monotonic() + seconds
    wrong = 0

    def write(rng: random.Random) -> None:
        while time.monotonic() < end:
            i, j = rng.sample(range(count), 2)
            move(i, j, rng.randint(1, 10))

    def reader(total: Total) -> Callable[[random.Random], None]:
        def read(_: random.Random) -> None:
            nonlocal wrong
            while time.monotonic() < end:
                wrong += total() != 100 * count

        return read

    in_time([write, write, write, *map(reader, totals)], seed)
    return wrong + sum(total() != 100 * count for total in totals)


def wrong_sums_of_variables(variables: list[sv.Variable], seconds: float, seed: int) -> int:
    def move(i: int, j: int, amount: int) -> None:
        with sv.transaction(variables[i], variables[j]):
            variables[i].assign_sub(amount)
            variables[j].assign_add(amount)

    def in_a_snapshot() -> int:
        taken = sv.snapshot(variables)
        rest = range(3, len(variables))
        return sum(int(taken[v]) for v in variables[:3]) + sum(int(taken._value(i)) for i in rest)

    def in_a_transaction() -> int:
        with sv.transaction(variables):
            return sum(int(v) for v in variables)

    return wrong_sums(len(variables), seconds, move, [in_a_snapshot, in_a_transaction], seed)


def test_amounts_moved_between_200_variables_keep_their_sum() -> None:
    seed = time.time_ns() % 100_000
    assert wrong_sums_of_variables(some("numpy", 200, 100), 2.0, seed) == 0, f"seed {seed}"


def test_amounts_moved_between_20_variables_keep_their_sum(backend: str) -> None:
    seed = time.time_ns() % 100_000
    assert wrong_sums_of_variables(some(backend, 20, 100), SECONDS, seed) == 0, f"seed {seed}"


def test_the_sum_of_plain_arrays_is_wrong() -> None:
    """The tests above can fail: the same with ndarrays in a dict."""
    arrays = {i: np.full((), 100) for i in range(200)}

    def move(i: int, j: int, amount: int) -> None:
        arrays[i] -= amount
        arrays[j] += amount

    def total() -> int:
        return sum(int(array) for array in arrays.values())

    assert any(wrong_sums(200, 1.0, move, [total, total], seed) for seed in range(10))


def test_a_commit_that_hides_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with variables whose transactions write one after the other."""
    commit_all = vars(transactions)["commit"]

    def commit(drafts: dict[sv.Variable, Any], check: Callable[[], None] | None = None) -> None:
        for variable, draft in drafts.items():
            time.sleep(0)  # another thread's turn
            commit_all({variable: draft})

    monkeypatch.setattr(transactions, "commit", commit)
    # Usually thousands in a second. On a busy machine the readers may not get their turn: then once more.
    assert any(wrong_sums_of_variables(some("numpy", 20, 100), 1.0, seed) for seed in range(10))
