"""`snapshot`, `restore` and `rollback`: what many variables held at one moment, and back to it."""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import address, assert_same, host
from tests.internals import snapshots
from tests.threads import in_threads


def test_it_is_a_read_only_mapping_of_paths(backend: str) -> None:
    with sv.name_scope("test_it_is_a_read_only_mapping_of_paths"):
        v, w = sv.Variable([1.0], name="v", backend=backend), sv.Variable([2], name="w", backend=backend)
    v += 1.0
    cut = sv.snapshot(v, w)
    assert list(cut) == [v.path, w.path]
    assert len(cut) == 2
    assert v.path in cut
    assert "nothing" not in cut
    assert cut.versions == {v.path: 1, w.path: 0}
    v += 1.0
    w.assign([[7]], validate_shape=False)
    assert_same(cut[v.path], [2.0], dtype=False)
    assert_same(cut[w], [2])
    assert type(cut[v]) is type(sv.snapshot(v)[v])
    assert "2 variables" in repr(cut)
    with pytest.raises(KeyError):
        cut["nothing"]
    with pytest.raises(TypeError):
        cut[v.path] = 1  # type: ignore[index]


def test_it_copies_nothing(backend: str) -> None:
    v = sv.Variable(np.zeros(1000, "float32"), backend=backend)
    before = address(v)
    cut = sv.snapshot([v])
    shared = np.shares_memory(host_view(v, cut[v]), host_view(v, v.value))
    assert shared
    v += 1.0
    assert address(v) != before
    assert_same(cut[v], np.zeros(1000))


def host_view(v: sv.Variable, array: Any) -> Any:
    return v._backend.to_host(array)


def test_torch_gives_no_gradient_to_a_snapshot() -> None:
    pytest.importorskip("torch")
    v = sv.Variable([1.0], backend="torch")
    assert not sv.snapshot(v)[v].requires_grad


def test_a_write_is_in_place_again_when_a_snapshot_of_many_is_dropped(backend: str) -> None:
    several = [sv.Variable(np.zeros(10_000, "float32"), backend=backend) for _ in range(3)]
    for v in several:
        v.assign_add(1.0)
    before = [address(v) for v in several]
    cut = sv.snapshot(several)
    for v in several:
        v.assign_add(1.0)
    assert all(address(v) != old for v, old in zip(several, before, strict=True))
    for v in several:
        assert_same(cut[v], np.ones(10_000))
        v.assign_add(1.0)
    del cut
    before = [address(v) for v in several]
    for v in several:
        v.assign_add(1.0)
        assert_same(v, np.full(10_000, 4))
    if backend == "torch":
        assert before == [address(v) for v in several]


@pytest.mark.parametrize("trainable", [True, False])
def test_what_torch_changes_of_an_item_is_not_changed_in_the_variable(trainable: bool) -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([[1.0, 2.0, 3.0]], backend="torch", trainable=trainable)
    cut = sv.snapshot(v, sv.Variable(0.0, backend="torch"))
    cut[v].requires_grad_().sum().backward()
    cut[v].t_().unsqueeze_(0)
    assert cut[v].shape == (1, 3)
    if not trainable:
        v.value.requires_grad_().sum().backward()
        v.value.t_()
    del cut
    v.assign_add(1.0)
    assert v.shape == v.value.shape == (1, 3)
    assert v.value.requires_grad == trainable
    assert_same(v, [[2.0, 3.0, 4.0]])
    assert torch.equal(v.value, v.value)


def test_a_path_that_two_variables_have_is_ambiguous() -> None:
    a, b = sv.Variable(1, name="twice"), sv.Variable(2, name="twice")
    cut = sv.snapshot(a, b)
    assert int(cut[b]) == 2
    with pytest.raises(sv.errors.NameScopeError, match="two variables have this path, at 'twice'. Hint: index by"):
        cut["twice"]


def test_what_has_no_value_is_left_out(backend: str) -> None:
    v, u = sv.Variable(1.0, backend=backend), sv.Variable(shape=(2,), backend=backend)
    cut = sv.snapshot(v, u)
    assert list(cut) == [v.path]
    with pytest.raises(KeyError):
        cut[u]
    u.assign([1.0, 2.0])
    v += 1.0
    sv.restore(cut)
    assert not u.is_initialized
    assert float(v) == 1.0


def test_restore_gives_back_value_and_shape(backend: str) -> None:
    v, w = sv.Variable([1.0, 2.0], backend=backend), sv.Variable(3, backend=backend)
    cut = sv.snapshot(v, w)
    v.assign([[0.0]], validate_shape=False)
    w += 1
    for _ in range(2):
        sv.restore(cut)
        assert_same(v, [1.0, 2.0])
        assert v.declared_shape == (2,)
        assert int(w) == 3
        v += 1.0
        w[...] = 7
        assert_same(cut[v], [1.0, 2.0])
    assert_same(v, [2.0, 3.0])
    del cut
    with np.errstate(all="ignore"):
        v += 1.0  # JAX copies once more
        before = address(v)
        v += 1.0
    assert address(v) == before, "written in place again"


def test_restore_makes_a_new_version(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    cut = sv.snapshot(v)
    v += 1.0
    sv.restore(cut)
    assert v.version == 2, "whoever waits or caches by version must notice"


def test_restore_is_all_or_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = [sv.Variable([float(i)], backend=backend) for i in range(3)]
    cut = sv.snapshot(variables)
    for variable in variables:
        variable += 10.0  # noqa: PLW2901  # writes the variable
    library = type(variables[0]._backend)
    adopt, calls = library.adopt, 0

    def failing(self: Any, handle: Any, other: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return adopt(self, handle, other)

    monkeypatch.setattr(library, "adopt", failing)
    monkeypatch.setattr(library, "adopt_cannot_fail", False)
    with pytest.raises(MemoryError):
        sv.restore(cut)
    assert [float(v.numpy()[0]) for v in variables] == [10.0, 11.0, 12.0]
    assert [v.version for v in variables] == [1, 1, 1]
    sv.restore(cut)
    assert [float(v.numpy()[0]) for v in variables] == [0.0, 1.0, 2.0]


def test_only_a_snapshot_is_restored() -> None:
    with pytest.raises(TypeError, match="restore: expected a Snapshot, got dict. Hint: take it with sv.snapshot"):
        sv.restore({})  # type: ignore[arg-type]


def test_inside_a_transaction_it_has_what_was_written(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    with sv.transaction(v):
        v += 1.0
        cut = sv.snapshot(v)
        v += 1.0
        assert_same(cut[v], [2.0])
        sv.restore(cut)
        assert_same(v, [2.0])
    assert_same(v, [2.0])


def test_rollback_puts_back_however_it_ends(backend: str) -> None:
    v, w = sv.Variable([1.0, 2.0], backend=backend), sv.Variable(3, backend=backend)
    with sv.rollback(v, w) as before:
        v.assign([[9.0]], validate_shape=False)
        w += 1
        assert int(w) == 4
        assert_same(before[v], [1.0, 2.0])
    assert_same(v, [1.0, 2.0])
    assert int(w) == 3
    with pytest.raises(KeyError), sv.rollback(v):
        v += 1.0
        raise KeyError
    assert_same(v, [1.0, 2.0])
    assert v.version == 0, "for others nothing has happened"
    v += 1.0


def test_rollback_in_a_transaction_drops_its_own_writes(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    with sv.transaction(v):
        v += 1.0
        with sv.rollback(v):
            v += 100.0
        assert_same(v, [2.0])
    assert_same(v, [2.0])


def test_rollback_puts_back_what_an_optimizer_wrote() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    optimizer = torch.optim.SGD([v.parameter], lr=1.0)
    with sv.rollback(v):
        (v.value**2).sum().backward()
        optimizer.step()
        assert v.parameter.data.tolist() == [-1.0, -2.0]
    assert_same(v, [1.0, 2.0])


def moving(variables: list[sv.Variable], seconds: float, cuts: int = 3) -> tuple[int, int]:
    """Writers move amounts between variables; returns how many cuts were taken, and how many had a wrong sum.

    For some seconds, and until a few cuts are taken: on a busy machine the reader may have had no turn by then.
    """
    total = sum(int(v) for v in variables)
    done = threading.Event()
    taken = wrong = 0

    def writer(seed: int) -> None:
        # NumPy's generators let the GIL go at each call: a loop that does so every 50 us keeps CPython 3.11's other
        # threads out for a second and more (they never wait the 5 ms after which they may ask for it).
        chosen = random.Random(seed)
        while not done.is_set():
            source, target = chosen.sample(variables, 2)
            with sv.transaction(source, target):
                source -= 1
                target += 1

    def reader() -> None:
        nonlocal taken, wrong
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end or taken < cuts:
                cut = sv.snapshot(variables)
                taken += 1
                wrong += int(sum(int(host(cut[v])) for v in variables) != total)
        finally:
            done.set()

    in_threads(lambda: writer(1), lambda: writer(2), reader)
    return taken, wrong


def test_generations_are_never_mixed(backend: str) -> None:
    taken, wrong = moving([sv.Variable(100, backend=backend) for _ in range(200)], 1.5)
    assert taken > 2
    assert wrong == 0


def test_writers_that_never_pause_do_not_starve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "_ATTEMPTS", 0)  # every cut takes all locks
    taken, wrong = moving([sv.Variable(100) for _ in range(50)], 1.0)
    assert taken > 2
    assert wrong == 0


@pytest.mark.slow
def test_a_hundred_thousand_variables_are_cut_and_restored() -> None:
    variables = [sv.Variable(np.float32(i)) for i in range(100_000)]
    cut = sv.snapshot(variables)
    with sv.transaction(variables):
        for variable in variables[:10]:
            variable += 1.0  # noqa: PLW2901  # writes the variable
    sv.restore(cut)
    assert float(variables[3]) == 3.0
