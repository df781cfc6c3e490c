"""The lock core under a scheduler that tries the orders of threads one by one, instead of hoping for them.

frontrun stops the threads at every access to a shared attribute or lock and runs every order that differs in one that
matters (DPOR), up to a number of preemptions and of orders. What C code touches it cannot see, such as the elements of
an array. So `threads` gives it locks that yield to the scheduler in place of those that were bound at import, and
Python functions in place of the `attrgetter`s of `snapshot`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import frontrun
import pytest

import statevar as sv
from statevar.errors import ConflictError, ReentrantWriteError
from tests.helpers import thorough
from tests.internals import adapter, cell_module, held, holds, overlays, snapshots, transactions
from tests.threads import NoLock

pytestmark = pytest.mark.slow

#: Orders that a search tries at most, if it is to find nothing. Some of those below end before, and have tried all.
MANY = thorough(30, 150)
#: And if it is to find something.
ENOUGH = 1000


class State:
    """What the threads of one run share. Made anew for each run."""

    def __init__(self, count: int = 1, backend: str = "numpy") -> None:
        # By id, as a commit takes the locks: else one run has another order than the next, and cannot be replayed.
        made = [sv.Variable(10.0, name=f"v{i}", backend=backend, trainable=False) for i in range(count)]
        self.variables = sorted(made, key=id)
        self.seen: list[float] = []
        self.refused = 0

    @property
    def values(self) -> list[float]:
        return [float(v) for v in self.variables]

    @property
    def versions(self) -> list[int]:
        return [v.version for v in self.variables]


Worker = Callable[[State], object]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets frontrun run in this process, and see what it would not."""
    monkeypatch.setenv("FRONTRUN_ACTIVE", "1")  # said by its command line, which patches nothing that we need
    monkeypatch.setattr(cell_module, "RLock", lambda: threading.RLock())  # looked up when frontrun has patched it
    monkeypatch.setattr(snapshots, "_version", lambda v: v._version)
    monkeypatch.setattr(snapshots, "_published", lambda v: v._snapshot)
    monkeypatch.setattr(snapshots, "_handle", lambda v: v._handle)
    monkeypatch.setattr(held, "_holder_of", lambda v: v._holder)
    monkeypatch.setattr(sv.Variable, "__repr__", object.__repr__)  # its trace shows keys, which would read the value
    monkeypatch.setattr(holds, "_graph", holds._graph)  # put back what `explore` replaces
    monkeypatch.setattr(holds, "PATIENCE", -1)  # a wait that looks up now and then has no end here
    yield
    overlays.active.clear()
    holds._waiting.clear()


def explore(
    setup: Callable[[], Any], workers: list[Any], is_right: Callable[[Any], bool], bound: int | None, most: int
) -> Any:
    """Tries the orders with at most so many preemptions, or with any number of them."""

    def fresh() -> Any:
        holds._graph = threading.Lock()
        holds._waiting.clear()
        overlays.active.clear()
        return setup()

    return frontrun.explore(
        fresh,
        workers,
        is_right,
        preemption_bound=bound,
        max_executions=most,
        detect_io=False,
        reproduce_on_failure=0,
        trace_packages=["statevar*"],
    )


def assert_always(
    setup: Callable[[], Any], workers: list[Any], is_right: Callable[[Any], bool], bound: int | None = None
) -> None:
    result = explore(setup, workers, is_right, bound, MANY)
    result.assert_holds()
    assert result.num_explored > 1, "the threads never met"


def assert_found(
    setup: Callable[[], Any], workers: list[Any], is_right: Callable[[Any], bool], bound: int | None = None
) -> None:
    result = explore(setup, workers, is_right, bound, ENOUGH)
    assert result.property_holds is False, f"{result.num_explored} orders tried, and the fault not found"


def one() -> State:
    return State(1)


def two() -> State:
    return State(2)


# -- what threads do ------------------------------------------------------------------------------------


def add(s: State) -> None:
    s.variables[0].assign_add(1.0)


def update(s: State) -> None:
    s.variables[0].update(lambda a: a + 1)


def try_add(s: State) -> None:
    """With a broken lock, a thread may meet the mark of the other one's write."""
    try:
        add(s)
    except ReentrantWriteError:
        s.refused += 1


def there(s: State) -> None:
    a, b = s.variables
    with sv.transaction(a, b):
        a.assign_sub(3.0)
        b.assign_add(3.0)


def back(s: State) -> None:
    a, b = s.variables
    with sv.transaction(b, a):
        b.assign_sub(1.0)
        a.assign_add(1.0)


def look(s: State) -> None:
    a, b = s.variables
    taken = sv.snapshot(a, b)
    s.seen.append(float(taken[a]) + float(taken[b]))


def look_and_read(s: State) -> None:
    a, b = s.variables
    with sv.transaction(a, b):
        s.seen.append(float(a) + float(b))


def nested(outer: int) -> Worker:
    """An update that writes the other variable, so that two of them may wait for each other."""

    def run(s: State) -> None:
        def fn(value: Any) -> Any:
            s.variables[1 - outer].assign_add(1.0)
            return value + 1

        try:
            s.variables[outer].update(fn)
        except ConflictError:
            s.refused += 1

    return run


def withdraw(which: int) -> Worker:
    """Takes 15 from one of two variables if both together have it, and lists neither."""

    def run(s: State) -> None:
        a, b = s.variables
        try:
            with sv.transaction():
                if float(a) + float(b) >= 15:
                    s.variables[which].assign_sub(15.0)
        except ConflictError:
            s.refused += 1

    return run


# -- what must hold -------------------------------------------------------------------------------------


def two_added(s: State) -> bool:
    return s.values == [12.0] and s.versions == [2] and not s.refused


def sum_is_kept(s: State) -> bool:
    return sum(s.values) == 20.0 and all(each == 20.0 for each in s.seen)


def both_moved(s: State) -> bool:
    return s.values == [8.0, 12.0] and s.versions == [2, 2]


def all_or_nothing(s: State) -> bool:
    """Each update that was not refused has written both, and at most one was refused."""
    return s.refused <= 1 and s.values[0] == s.values[1] == 12.0 - s.refused


def not_overdrawn(s: State) -> bool:
    return sum(s.values) >= 0 and sum(s.values) == 5.0


# -- the tests ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [[add, add], [add, add, add]], ids=["two", "three"])
def test_no_add_is_lost(workers: list[Worker]) -> None:
    count = len(workers)
    assert_always(one, workers, lambda s: s.values == [10.0 + count] and s.versions == [count], 1)


@pytest.mark.parametrize("other", [add, update])
def test_no_update_is_lost(other: Worker) -> None:
    assert_always(one, [update, other], two_added, 1)


@pytest.mark.parametrize("reader", [look, look_and_read])
def test_no_reader_sees_half_a_transaction(reader: Worker) -> None:
    assert_always(two, [there, reader], sum_is_kept, 1)


#: The function by which an adapter takes a lease, for each library that is read without a lock.
LEASES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "torch": ("_tensor_of", lambda handle: handle.tensor),
    "tensorflow": ("_lease_of", lambda handle: handle.lease),
}


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], State]:
    """Makes two variables of torch, which are read without a lock."""
    return _read_without_a_lock("torch", monkeypatch)


@pytest.fixture(params=LEASES)
def unlocked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], State]:
    """Makes two variables of a library which are read without a lock."""
    return _read_without_a_lock(request.param, monkeypatch)


def _read_without_a_lock(library: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], State]:
    pytest.importorskip(library)
    monkeypatch.setattr(adapter(library), *LEASES[library])
    return lambda: State(2, library)


@pytest.mark.parametrize("reader", [look, look_and_read])
def test_no_reader_without_a_lock_sees_half_a_transaction(unlocked: Callable[[], State], reader: Worker) -> None:
    assert_always(unlocked, [there, reader], sum_is_kept, 1)


def keep_a_snapshot(s: State) -> None:
    """Takes a snapshot, and looks what it has after a write."""
    taken = sv.snapshot(s.variables)
    before = taken.versions[s.variables[0].path]
    s.variables[0].assign_add(1.0)
    s.seen.append(float(taken[s.variables[0]]) - before)


@pytest.mark.parametrize("other", [add, update])
def test_a_snapshot_that_was_taken_without_a_lock_never_changes(unlocked: Callable[[], State], other: Worker) -> None:
    assert_always(unlocked, [keep_a_snapshot, other], lambda s: s.seen == [10.0], 2)


def keep_and_compare(s: State) -> None:
    """Reads a value, without a lock, which no later write changes."""
    value = s.variables[0].value
    before = float(value)
    s.variables[0].assign_add(1.0)
    s.seen.append(20.0 + before - float(value))


def lend(s: State) -> None:
    """Takes the parameter, which user code then writes in place."""
    parameter = s.variables[0].parameter
    getattr(parameter, "assign_add" if hasattr(parameter, "assign_add") else "add_")(1.0)


@pytest.mark.parametrize("other", [add, lend])
def test_a_value_that_was_read_without_a_lock_never_changes(unlocked: Callable[[], State], other: Worker) -> None:
    assert_always(unlocked, [keep_and_compare, other], lambda s: s.seen == [20.0], 2)


def test_transactions_in_both_directions() -> None:
    assert_always(two, [there, back], both_moved, 1)


def test_updates_that_need_each_other_never_wait_for_ever() -> None:
    assert_always(two, [nested(0), nested(1)], lambda s: True, 1)


def test_what_was_only_read_is_compared() -> None:
    assert_always(two, [withdraw(0), withdraw(1)], not_overdrawn, 1)


def test_readers_are_told_before_a_parameter_is_lent(
    monkeypatch: pytest.MonkeyPatch, on_torch: Callable[[], State]
) -> None:
    """A reader that comes when they have been counted must take the lock."""
    torch, count = adapter("torch"), adapter("torch").Handle.exclusive
    taken: list[Any] = []

    def count_and_read(handle: Any) -> bool:
        nobody_has_it: bool = count(handle)
        taken.append(torch.BACKEND.snapshot_unlocked(handle))
        return nobody_has_it

    monkeypatch.setattr(torch.Handle, "exclusive", count_and_read)
    lend(on_torch())
    assert taken == [None]


# -- tests of the tests: the same searches find what is broken --------------------------------------------


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        value = self.value
        self.value = value + 1


def take_nothing(self: sv.Variable, hold: Any, operation: str, within: Any = None, path_of: Any = None) -> None:
    pass


COMMIT = vars(transactions)["commit"]


def commit_one_by_one(drafts: dict[sv.Variable, Any], check: Callable[[], None] | None = None) -> None:
    for variable, draft in drafts.items():
        COMMIT({variable: draft})


def test_it_finds_the_lost_update_of_a_plain_object() -> None:
    assert_found(Counter, [Counter.add, Counter.add], lambda c: c.value == 2)


def test_it_finds_a_lock_that_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_module, "RLock", NoLock)
    assert_found(one, [try_add, try_add], two_added)


def test_it_finds_an_update_that_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sv.Variable, "_take", take_nothing)
    assert_found(one, [update, update], two_added, 1)


def test_it_finds_a_write_that_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sv.Variable, "_wait_for_holder", lambda self, operation: None)
    assert_found(one, [update, add], two_added)


def test_it_finds_transactions_that_hold_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sv.Variable, "_take", take_nothing)
    assert_found(two, [there, back], both_moved, 1)


def test_it_finds_a_snapshot_that_does_not_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_version", lambda v: 0)
    assert_found(two, [there, look], sum_is_kept, 1)


def test_it_finds_leases_that_do_not_ask_who_writes(
    monkeypatch: pytest.MonkeyPatch, unlocked: Callable[[], State]
) -> None:
    monkeypatch.setattr(snapshots, "are_free", lambda cells: True)
    assert_found(unlocked, [there, look], sum_is_kept, 1)


def test_it_finds_a_commit_that_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "commit", commit_one_by_one)
    assert_found(two, [there, look], sum_is_kept, 1)


def test_it_finds_a_circle_of_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds.Hold, "_check_cycle", lambda self, me, operation, path: None)
    assert_found(two, [nested(0), nested(1)], lambda s: True, 1)


def test_it_finds_reads_that_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions.TransactionOverlay, "_validate", lambda self: None)
    assert_found(two, [withdraw(0), withdraw(1)], not_overdrawn, 1)
