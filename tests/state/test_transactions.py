"""`transaction`: several variables change together, for everybody at once, or not at all."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import ReentrantWriteError
from tests.helpers import PATIENCE, address, assert_same, until
from tests.internals import adapter, holds
from tests.threads import in_threads, repeat

BACKENDS = ("numpy", "jax", "torch", "tensorflow")


def elsewhere(function: Any) -> Any:
    """What a function returns in another thread."""
    results: list[Any] = []
    in_threads(lambda: results.append(function()))
    return results[0]


def test_it_reads_its_own_writes_and_others_do_not(backend: str) -> None:
    v, w = sv.Variable([1.0, 2.0], backend=backend), sv.Variable([5, 6], backend=backend)
    with sv.transaction(v, w):
        v += 1.0
        w[0] = 9
        v.at[1].multiply(10.0)
        assert_same(v, [2.0, 30.0])
        assert_same(w, [9, 6])
        assert (v.version, w.version) == (2, 1)
        assert elsewhere(lambda: (v.numpy().tolist(), w.numpy().tolist())) == ([1.0, 2.0], [5, 6])
        assert elsewhere(lambda: v.version) == 0
    assert_same(v, [2.0, 30.0])
    assert_same(w, [9, 6])
    assert (v.version, w.version) == (2, 1)


def test_an_exception_drops_everything(backend: str) -> None:
    v, w = sv.Variable([1.0], backend=backend), sv.Variable([5], backend=backend)
    with pytest.raises(ZeroDivisionError), sv.transaction(v):
        v += 1.0
        w.assign([7])  # not listed, and dropped as well
        w.assign([1 // 0])
    assert_same(v, [1.0])
    assert_same(w, [5])
    assert v.version == w.version == 0
    assert_same(v.assign_add(1.0), [2.0])
    assert_same(w.assign_add(1), [6])


@pytest.mark.parametrize("size", [3, 10_000])
def test_an_exception_drops_everything_after_an_unlocked_write(backend: str, size: int) -> None:
    """It publishes nothing, so that a transaction may be the first to ask for the value."""
    v = sv.Variable(np.zeros(size, "float32"), backend=backend)
    with np.errstate(all="ignore"):
        v.assign_add(1.0, use_locking=False)
        with pytest.raises(KeyError), sv.transaction(v):
            v += 5.0
            assert elsewhere(lambda: v.numpy()[0]) == 1.0
            raise KeyError
    assert_same(v, np.ones(size))


def test_a_conflict_that_was_caught_delays_no_commit() -> None:
    a, b = sv.Variable(0), sv.Variable(0)
    began, held, end = threading.Event(), threading.Event(), threading.Event()

    def winner() -> None:
        with sv.transaction(b):
            began.set()
            assert held.wait(PATIENCE)
            a.assign_add(1)  # waits for the loser
            assert end.wait(PATIENCE), "the loser's commit waited for this transaction"

    def loser() -> None:
        assert began.wait(PATIENCE)
        with sv.transaction(a):
            held.set()
            a.assign(5)
            until(lambda: holds._waiting)
            with pytest.raises(sv.errors.ConflictError):
                b.assign_add(1)
        end.set()

    in_threads(winner, loser)
    assert (int(a), int(b)) == (6, 0)


def test_every_write_is_part_of_it(backend: str) -> None:
    def writes(v: sv.Variable) -> None:
        v.assign([4.0, 5.0, 6.0])
        v.assign_add(1.0).assign_sub([0.0, 1.0, 2.0])
        v *= 2.0
        v /= 4.0
        v[::-1] = [1.0, 2.0, 3.0]
        v[v.value > 2] = -1.0
        v.at[[0, 0, 2]].add(1.0)
        v.update(lambda a: a + 1)
        with v.edit() as array:
            array[1] = 50
        sv.set_value(v, sv.get_value(v) + 1)

    v, alone = (sv.Variable([1.0, 2.0, 3.0], backend=backend) for _ in range(2))
    writes(alone)
    with pytest.raises(KeyError), sv.transaction(v):
        writes(v)
        assert_same(v, alone.numpy())
        assert v.version == alone.version
        raise KeyError
    assert_same(v, [1.0, 2.0, 3.0])
    with sv.transaction(v):
        writes(v)
    assert_same(v, alone.numpy())
    assert v.version == alone.version
    assert_same(v.assign_add(1.0), alone.numpy() + 1)


#: What may follow the first write of a variable, of which a transaction keeps only the result; and the value then.
AFTER: dict[str, tuple[Callable[[sv.Variable], object], float, int]] = {
    "nothing": (lambda v: None, 3.0, 1),
    "read": (lambda v: assert_same(v, [3.0, 4.0]), 3.0, 1),
    "write": (lambda v: v.assign_add(1.0), 4.0, 2),
    "read and write": (lambda v: v.assign(v + 1.0), 4.0, 2),
    "row": (lambda v: v.__setitem__(0, 7.0), 7.0, 2),
    "update": (lambda v: v.update(lambda value: value * 2.0), 6.0, 2),
    "another shape": (lambda v: v.assign([9.0], validate_shape=False), 9.0, 2),
    "snapshot": (lambda v: assert_same(sv.snapshot([v])[v.path], [3.0, 4.0]), 3.0, 1),
}


@pytest.mark.parametrize("held", [False, True], ids=["alone", "held"])
@pytest.mark.parametrize("after", AFTER)
def test_what_follows_a_first_write(backend: str, after: str, held: bool) -> None:
    """In the block, in one inside it, and in one inside it that fails; and of several variables."""
    then, expected, writes = AFTER[after]
    for inside in (None, "commits", "fails"):
        v, w, plain = (sv.Variable([1.0, 2.0], backend=backend, name="v") for _ in range(3))
        before = [each.value for each in (v, w, plain)] if held else []
        seen: list[Any] = []
        with sv.transaction(v, plain):
            v.assign_add(2.0)
            w.assign([3.0, 4.0])
            plain.assign_sub([1.0, 1.0])
            if inside is None:
                then(v)
                then(w)
            else:
                try:
                    with sv.transaction(v):
                        then(v)
                        then(w)
                        seen += [v.numpy(), w.numpy()]
                        assert inside == "commits"
                except AssertionError:
                    assert inside == "fails"
                    expected, writes = 3.0, 1
            assert elsewhere(lambda v=v, w=w: (v.numpy()[0], w.numpy()[0], v.version)) == (1.0, 1.0, 0)
        assert [float(each.numpy().flat[0]) for each in (v, w, plain)] == [expected, expected, 0.0]
        assert [each.version for each in (v, w, plain)] == [writes, writes, 1]
        for each in before:
            assert_same(each, [1.0, 2.0])
        for each in (v, w, plain):
            each.assign_add(1.0)  # into memory of its own
        assert [float(each.flat[0]) for each in seen] == [AFTER[after][1]] * len(seen)
        assert_same(plain, [1.0, 2.0])


@pytest.mark.parametrize("drop", [KeyError, None], ids=["dropped", "committed"])
def test_numbers_and_dtypes_of_a_first_write(backend: str, drop: type[Exception] | None) -> None:
    small = "int4" if backend == "numpy" else "int8"
    a, b = (sv.Variable(3, dtype=dtype, backend=backend) for dtype in (small, "uint8"))
    c, d = sv.Variable(3.0, dtype="float16", backend=backend), sv.Variable(True, backend=backend)
    dtypes = [v.dtype for v in (a, b, c, d)]
    with suppress(KeyError), sv.transaction():
        a &= 1
        b &= 1
        c += 0.5
        d.assign(False)
        if drop:
            raise drop
    assert [v.numpy().item() for v in (a, b, c, d)] == ([3, 3, 3.0, True] if drop else [1, 1, 3.5, False])
    assert [v.dtype for v in (a, b, c, d)] == dtypes
    assert [v.numpy().shape for v in (a, b, c, d)] == [()] * 4


def test_a_first_write_wins_over_one_without_locking() -> None:
    """It replaces the value, with another shape, while the transaction holds the variable."""
    v = sv.Variable([1.0, 2.0], shape=None)
    with sv.transaction(v):
        v.assign([3.0, 4.0])
        in_threads(lambda: v.assign([[5.0], [6.0]], use_locking=False, validate_shape=False))
        assert elsewhere(lambda: v.shape) == (2, 1)
    assert_same(v, [3.0, 4.0])
    assert v.shape == (2,)
    assert_same(v.assign_add(1.0), [4.0, 5.0])


def test_a_write_in_the_middle_of_a_first_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a signal handler. It may write another variable, and read this one."""
    v, w = sv.Variable([1.0], name="v"), sv.Variable([1.0])
    numpy = type(adapter("numpy").BACKEND)
    real, refusals = numpy.result_apart, []

    def result_apart(self: Any, handle: Any, x: Any, op: Any) -> Any:
        for write in (lambda: v.assign_add(5.0), lambda: v.__setitem__(0, 5.0), lambda: v.update(lambda a: a)):
            with pytest.raises(ReentrantWriteError) as refusal:
                write()
            refusals.append(str(refusal.value))
        assert_same(v, [1.0])
        assert_same(w.assign_add(2.0), [3.0])
        return real(self, handle, x, op)

    with sv.transaction(v, w):
        monkeypatch.setattr(numpy, "result_apart", result_apart)
        v.assign_add(1.0)
        monkeypatch.undo()
        assert_same(v, [2.0])
        assert_same(v.assign_add(1.0), [3.0])
    assert_same(v, [3.0])
    assert_same(w, [3.0])
    assert "assign_add: this thread is already inside a write of this variable, at 'v'" in refusals[0]
    assert all("this thread is already inside a write of this variable, at 'v'" in each for each in refusals)


def test_shape_and_initialization_are_part_of_it(backend: str) -> None:
    v, u = sv.Variable([1.0], backend=backend), sv.Variable(shape=(None,), backend=backend)
    with pytest.raises(KeyError), sv.transaction(v, u):
        v.assign([[1.0, 2.0]], validate_shape=False)
        u.assign([1.0, 2.0])
        assert v.declared_shape == (1, 2)
        assert v.shape == (1, 2)
        assert u.is_initialized
        assert u.shape == (2,)
        raise KeyError
    assert_same(v, [1.0])
    assert str(v.declared_shape) == "(1,)"
    assert not u.is_initialized
    with sv.transaction(v, u):
        v.assign([[1.0, 2.0]], validate_shape=False)
        u.assign([1.0, 2.0])
    assert v.shape == v.declared_shape == (1, 2)
    assert_same(v, [[1.0, 2.0]])
    assert_same(u, [1.0, 2.0])
    assert u.assign([3.0]).shape == (1,)


def test_a_failed_write_leaves_the_transaction_going(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", backend=backend)
    with sv.transaction(v):
        v += 1.0
        with pytest.raises(sv.errors.ShapeError, match="at 'w'"):
            v.assign([1.0])
        with pytest.raises(sv.errors.IndexingError, match="at 'w'"):
            v[7] = 1.0
        assert_same(v, [2.0, 3.0])
    assert_same(v, [2.0, 3.0])


def test_constraints_hold_inside(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend, constraint=lambda a: a * 0 + 3)
    with sv.transaction(v):
        v.assign([5.0, 6.0])
        assert_same(v, [3.0, 3.0])
        v[0] = 8.0
        assert_same(v, [3.0, 3.0])
    assert_same(v, [3.0, 3.0])


def test_snapshots_taken_inside_do_not_change(backend: str) -> None:
    v = sv.Variable(np.zeros(5000, "float32"), backend=backend)
    before = v.value
    with sv.transaction(v):
        v += 1.0
        one = v.value
        v += 1.0
        v[0] = 9.0
        assert_same(one, np.ones(5000))
    v += 1.0
    assert_same(one, np.ones(5000))
    assert_same(before, np.zeros(5000))
    assert_same(v, [10.0] + [3.0] * 4999)


def test_variables_of_different_backends_change_together(backend: str) -> None:
    v, w = sv.Variable([1.0], backend=backend), sv.Variable([1.0])
    with sv.transaction([v, {"w": w}]):
        v += 1.0
        w += 2.0
    with pytest.raises(KeyError), sv.transaction(v, w):
        v *= 0.0
        w *= 0.0
        raise KeyError
    assert_same(v, [2.0])
    assert_same(w, [3.0])


def test_it_takes_objects() -> None:
    class Model:
        def __init__(self) -> None:
            self.w = sv.Variable([1.0])
            self.layers = [{"b": sv.Variable(0.0)}]
            self.itself = self

    model = Model()
    with pytest.raises(KeyError), sv.transaction(model):
        model.w += 1.0
        model.layers[0]["b"].assign_add(1.0)
        raise KeyError
    assert_same(model.w, [1.0])
    with pytest.raises(TypeError, match="transaction: found no variable in int. Hint: pass variables, containers"):
        sv.transaction(3)
    with sv.transaction([]):
        pass


def test_nested_ones_belong_to_the_outer(backend: str) -> None:
    v, w = sv.Variable([1.0], backend=backend), sv.Variable([1.0], backend=backend)
    with pytest.raises(KeyError), sv.transaction(v):
        v += 1.0
        with sv.transaction(v, w):
            v += 1.0
            w += 1.0
        assert_same(v, [3.0])
        assert elsewhere(lambda: w.numpy().tolist()) == [1.0], "the inner one commits nothing by itself"
        raise KeyError
    assert_same(v, [1.0])
    assert_same(w, [1.0])
    with sv.transaction(v):
        v += 1.0
        with pytest.raises(ZeroDivisionError), sv.transaction(w):
            v += 100.0
            w += 100.0
            v.assign([1 / 0])
        assert_same(v, [2.0])
        assert_same(w, [1.0])
        w += 5.0
        with sv.transaction():
            v += 0.5
    assert_same(v, [2.5])
    assert_same(w, [6.0])


def test_writers_wait_and_readers_do_not(backend: str) -> None:
    v = sv.Variable([0.0], backend=backend)
    began, ended = threading.Event(), threading.Event()
    order: list[str] = []

    def holder() -> None:
        with sv.transaction(v):
            v.assign([1.0])
            began.set()
            assert ended.wait(PATIENCE), "the reader waited"
            order.append("commit")

    def reader() -> None:
        assert began.wait(PATIENCE)
        assert_same(v, [0.0])
        ended.set()

    def writer() -> None:
        assert began.wait(PATIENCE)
        v.assign_add([10.0])
        order.append("write")

    in_threads(holder, reader, writer)
    assert order == ["commit", "write"]
    assert_same(v, [11.0])


def test_a_variable_read_and_not_listed_is_checked(backend: str) -> None:
    rate, v = sv.Variable(2.0, name="rate", backend=backend), sv.Variable(1.0, backend=backend)
    with (
        pytest.raises(
            sv.errors.ConflictError,
            match="transaction: another thread wrote the variable after this transaction had read it, "
            "so nothing was committed, at 'rate'. Hint: list the variable",
        ),
        sv.transaction(v),
    ):
        v.assign(v * rate)
        elsewhere(lambda: rate.assign(100.0))
        assert float(rate) == 2.0, "what was read stays what it was"
    assert float(v) == 1.0
    with sv.transaction(v):
        v.assign(v * rate)
    assert float(v) == 100.0


def test_a_variable_read_first_and_written_then_is_checked(backend: str) -> None:
    v = sv.Variable(1.0, backend=backend)
    with pytest.raises(sv.errors.ConflictError, match="another thread wrote the variable after"), sv.transaction():
        old = float(v)
        elsewhere(lambda: v.assign(50.0))
        v.assign(old + 1)
    assert float(v) == 50.0
    with sv.transaction():
        v.assign(float(v) + 1)
    assert float(v) == 51.0


def test_opposite_orders_do_not_hang_if_listed(backend: str) -> None:
    a, b = sv.Variable(0, backend=backend), sv.Variable(0, backend=backend)

    def both(*variables: sv.Variable) -> None:
        with sv.transaction(*variables):
            for variable in variables:
                variable.assign_add(1)

    in_threads(repeat(100, lambda: both(a, b)), repeat(100, lambda: both(b, a)))
    assert (int(a), int(b)) == (200, 200)


def test_opposite_orders_are_an_error_if_not_listed(backend: str) -> None:
    a, b = (sv.Variable(0, backend=backend, name=name) for name in "ab")
    meet = threading.Barrier(2, timeout=PATIENCE)
    conflicts: list[str] = []

    def crossing(first: sv.Variable, second: sv.Variable) -> None:
        try:
            with sv.transaction():
                first.assign_add(1)
                meet.wait()
                second.assign_add(1)
        except sv.errors.ConflictError as error:
            conflicts.append(str(error))

    in_threads(lambda: crossing(a, b), lambda: crossing(b, a))
    assert len(conflicts) == 1
    assert "waiting for a transaction of another thread would be a deadlock" in conflicts[0]
    assert (int(a), int(b)) == (1, 1), "one of them did both"


def test_who_tries_again_at_once_gets_on() -> None:
    """Two that take the same variables in opposite orders, and try again as soon as they lose."""
    variables = [sv.Variable(0) for _ in range(10)]
    conflicts = 0

    def work(order: list[sv.Variable]) -> None:
        nonlocal conflicts
        for _ in range(200):
            while True:
                try:
                    with sv.transaction():
                        for variable in order:
                            variable.assign_add(1)
                    break
                except sv.errors.ConflictError:
                    conflicts += 1

    in_threads(lambda: work(variables), lambda: work(variables[::-1]))
    assert [int(variable) for variable in variables] == [400] * 10
    assert conflicts < 4000, "they kept each other from it"


def test_a_transaction_leaves_no_garbage(backend: str) -> None:
    v, rate = sv.Variable(np.zeros(1000, "float32"), backend=backend), sv.Variable(1.0)
    with np.errstate(all="ignore"):
        v += 1.0
        while gc.collect():
            pass  # what other tests left: some of torch's garbage takes two rounds
        gc.disable()
        try:
            with sv.transaction(v):
                v += float(rate)  # read, and not listed
            v += 1.0  # JAX copies once more
            before = address(v)
            v += 1.0
            assert address(v) == before, "what the transaction had is gone, so the write is in place"
            assert not gc.collect()
        finally:
            gc.enable()


def test_readers_never_see_half_a_commit(backend: str) -> None:
    """Whoever sees the new value of one variable finds the new value of the next."""
    variables = [sv.Variable(0, backend=backend) for _ in range(5)]
    done = threading.Event()
    torn = 0

    def writer() -> None:
        for _ in range(300 if backend == "numpy" else 60):
            with sv.transaction(variables):
                for variable in variables:
                    variable.assign_add(1)
        done.set()

    def reader() -> None:
        nonlocal torn
        while not done.is_set():
            seen = [int(variable) for variable in variables]
            torn += int(seen != sorted(seen))

    in_threads(writer, reader, reader)
    assert torn == 0


def test_it_may_be_used_again_and_is_left_clean() -> None:
    v = sv.Variable(0)
    both = sv.transaction(v)
    for _ in range(3):
        with both:
            v += 1
        with both, both:
            v += 1

    def add() -> None:
        nonlocal_v = v
        with both:
            nonlocal_v += 1

    in_threads(*[repeat(10, add)] * 3)
    assert int(v) == 36


def test_autocast_inside_changes_reads_and_not_the_variable(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    with sv.transaction(v), sv.autocast("float16"):
        v += 1.0
        assert sv.Variable(v.value).dtype_name == "float16"
    assert v.dtype_name == "float32"
    assert_same(v, [2.0])


def test_it_ends_where_it_began() -> None:
    v = sv.Variable(0)
    begun = sv.transaction(v)
    begun.__enter__()

    def end() -> str:
        with pytest.raises(RuntimeError) as error:
            begun.__exit__(None)
        return str(error.value)

    assert "the with block ended in another thread or task than it began in" in elsewhere(end)
    begun.__exit__(None)
    v += 1


def test_copies_and_pickles_inside_have_what_it_wrote(backend: str) -> None:
    import copy
    import pickle

    v = sv.Variable([1.0], backend=backend)
    with sv.transaction(v):
        v += 1.0
        copies = [copy.copy(v), copy.deepcopy(v), pickle.loads(pickle.dumps(v)), sv.Variable(v)]
    for each in copies:
        assert_same(each, [2.0])
        each.assign_add(1.0)
    assert_same(v, [2.0])


def test_compiled_functions_are_refused_when_they_are_traced() -> None:
    tf = pytest.importorskip("tensorflow")
    v = sv.Variable([1.0], name="w", backend="tensorflow")

    @tf.function  # type: ignore[untyped-decorator]
    def step() -> None:
        v.assign_add([1.0])

    with pytest.raises(sv.errors.TraceError, match="would write past the transaction"), sv.transaction(v):
        step()
    assert_same(v, [1.0])


def test_torch_optimizers_still_hold_the_parameter() -> None:
    torch = pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    parameter = v.parameter
    with sv.transaction(v):
        v.assign_add([1.0, 1.0])
    assert v.parameter is parameter
    (v.value**2).sum().backward()
    torch.optim.SGD([parameter], lr=0.5).step()
    assert_same(v, [0.0, 0.0])


# -- a commit on torch, which need not remember the old values where no other code can come in between -----------


@pytest.fixture
def on_torch() -> list[sv.Variable]:
    pytest.importorskip("torch")
    return [sv.Variable([float(i), 10.0], name=f"v{i}", backend="torch") for i in range(3)]


def write_each(variables: list[sv.Variable]) -> None:
    """Each in another way: once, once from another dtype and layout, and twice."""
    torch = pytest.importorskip("torch")
    variables[0].assign_add(1.0)
    variables[1].assign(torch.tensor([[5.0, 0.0], [6.0, 0.0]])[:, 0])
    variables[2].assign_add(2.0)
    variables[2].assign_sub(1.0)


def test_a_commit_on_torch_writes_a_parameter_that_was_taken_meanwhile(on_torch: list[sv.Variable]) -> None:
    """Another thread takes it after the write of the transaction and before the commit."""
    with sv.transaction(on_torch):
        write_each(on_torch)
        parameters = [elsewhere(lambda v=v: v.parameter) for v in on_torch]
        assert [p.tolist() for p in parameters] == [[0.0, 10.0], [1.0, 10.0], [2.0, 10.0]]
        counted = [p._version for p in parameters]
    wanted = [[1.0, 11.0], [5.0, 6.0], [3.0, 11.0]]
    assert [p.tolist() for p in parameters] == wanted
    assert [v.numpy().tolist() for v in on_torch] == wanted
    assert [v.version for v in on_torch] == [1, 1, 2]
    assert all(p._version > before for p, before in zip(parameters, counted, strict=True)), "autograd must notice"
    parameters[0].data.add_(1.0)
    assert_same(on_torch[0], [2.0, 12.0])


@pytest.mark.parametrize("which", range(3))
def test_a_commit_on_torch_within_a_mode_that_refuses_changes_nothing(on_torch: list[sv.Variable], which: int) -> None:
    """Code of a torch function mode runs in the middle of the commit, and fails at one of the variables."""
    modes = pytest.importorskip("torch.overrides")
    torch = pytest.importorskip("torch")

    class Refusing(modes.TorchFunctionMode):  # type: ignore[name-defined,misc]  # of a module that may be missing
        writes = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function == torch.Tensor.data.__set__:
                self.writes += 1
                if self.writes == which + 1:
                    raise MemoryError("refused")
            return function(*args, **(kwargs or {}))

    transaction = sv.transaction(on_torch)
    transaction.__enter__()
    write_each(on_torch)
    with pytest.raises(MemoryError, match="refused"), Refusing():
        transaction.__exit__(None, None, None)
    assert [v.numpy().tolist() for v in on_torch] == [[0.0, 10.0], [1.0, 10.0], [2.0, 10.0]]
    assert [v.version for v in on_torch] == [0, 0, 0]
    with sv.transaction(on_torch):
        write_each(on_torch)
    assert [v.numpy().tolist() for v in on_torch] == [[1.0, 11.0], [5.0, 6.0], [3.0, 11.0]]


def test_a_transaction_on_torch_in_inference_mode_leaves_a_variable_that_can_be_trained(
    on_torch: list[sv.Variable],
) -> None:
    torch = pytest.importorskip("torch")
    with torch.inference_mode(), sv.transaction(on_torch):
        write_each(on_torch)
    with sv.transaction(on_torch):
        with torch.inference_mode():
            on_torch[0].assign_add(1.0)
        on_torch[1].assign(torch.ones(2))
    transaction = sv.transaction(on_torch)
    transaction.__enter__()
    write_each(on_torch)
    with torch.inference_mode():
        transaction.__exit__(None, None, None)
    for v in on_torch:
        (v.value * v.value).sum().backward()
        assert v.parameter.grad is not None
