"""A write that fails, at whatever step and for whatever reason, leaves the variable as it was, free, and usable."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import INTERRUPT, assert_free, nothing_happens
from tests.helpers import assert_same
from tests.internals import Watchers, adapter, engine, transactions

ERRORS = (MemoryError, INTERRUPT)


@pytest.fixture(params=ERRORS)
def error(request: pytest.FixtureRequest) -> type[BaseException]:
    kind: type[BaseException] = request.param
    return kind


def make(backend: str, value: Any = (1.0, 2.0, 3.0), **options: Any) -> sv.Variable:
    return sv.Variable(np.array(value, "float32"), backend=backend, **options)


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("injected")

    return fail


# -- the writer, step by step -------------------------------------------------------------------------------

Write = Callable[[sv.Variable], object]


def divide(v: sv.Variable) -> None:
    v /= 2.0


#: Ways to write, and the backend's verb that each comes to.
WRITES: dict[str, tuple[Write, str]] = {
    "assign": (lambda v: v.assign([4.0, 5.0, 6.0]), "assign"),
    "assign_add": (lambda v: v.assign_add([1.0]), "apply"),
    "setitem": (lambda v: v.__setitem__(slice(1, None), 9.0), "put"),
    "at": (lambda v: v.at[[0, 0]].add(1.0), "put"),
    "divide": (divide, "compute"),
    "divide, then": (divide, "assign"),
    "redeclare": (lambda v: v.assign([[7.0]], validate_shape=False), "redeclare"),
    "unlocked": (lambda v: v.assign_add(1.0, use_locking=False), "compute"),
}


def patched(patch: pytest.MonkeyPatch, v: sv.Variable, verb: str, function: Any) -> None:
    patch.setattr(type(v._backend), verb, lambda self, *args, **kwargs: function(*args, **kwargs))
    if verb == "adopt":  # it fails from now on
        patch.setattr(type(v._backend), "adopt_cannot_fail", False)
        patch.setattr(type(v._backend), "result_apart", lambda *_: None)


@pytest.mark.parametrize("held", [False, True], ids=["alone", "held"])
@pytest.mark.parametrize("way", WRITES)
def test_a_verb_that_fails_changes_nothing(backend: str, way: str, held: bool, error: type[BaseException]) -> None:
    v = make(backend, name="v")
    snapshot = v.value if held else None
    write, verb = WRITES[way]
    with nothing_happens(error, v), pytest.MonkeyPatch.context() as patch:
        patched(patch, v, verb, raising(error))
        write(v)
    write(v)
    assert v.version > 0
    del snapshot


@pytest.mark.parametrize("way", WRITES)
def test_an_operand_that_fails_changes_nothing(backend: str, way: str, error: type[BaseException]) -> None:
    v = make(backend)
    with nothing_happens(error, v), pytest.MonkeyPatch.context() as patch:
        patched(patch, v, "operand", raising(error))
        WRITES[way][0](v)


@pytest.mark.own_process(shared=True)
def test_an_operand_that_interrupts_changes_nothing(backend: str) -> None:
    class Impatient:
        def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
            raise KeyboardInterrupt("injected")

    v = make(backend)
    with nothing_happens(KeyboardInterrupt, v):
        v.assign_add(Impatient())


def test_a_check_that_fails_changes_nothing(backend: str, error: type[BaseException]) -> None:
    v = make(backend)
    with nothing_happens(error, v), pytest.MonkeyPatch.context() as patch:
        patched(patch, v, "shape", raising(error))
        v.assign_add([1.0])
    with pytest.raises(sv.errors.ShapeError):
        v.assign_add([1.0, 2.0])
    with pytest.raises(sv.errors.ShapeError):
        v.assign([1.0, 2.0])
    with pytest.raises(IndexError):
        v[7] = 1.0
    assert_free(v)


def test_a_snapshot_that_fails_changes_nothing(backend: str, error: type[BaseException]) -> None:
    """Before the published snapshot is hidden: the value is computed aside from one."""
    v = make(backend).assign_add(1.0)
    with nothing_happens(error, v), pytest.MonkeyPatch.context() as patch:
        patched(patch, v, "snapshot", raising(error))
        v._snapshot = None
        divide(v)


#: Inside each adapter's `assign`: what copies, when somebody holds the old value.
COPIES: dict[str, tuple[Callable[[], Any], str]] = {
    "numpy": (lambda: adapter("numpy"), "_new"),
    "jax": (lambda: adapter("jax"), "_Handle"),
    "torch": (lambda: importlib.import_module("torch").Tensor, "clone"),
    "tensorflow": (lambda: adapter("tensorflow").eager, "store"),
}


def test_a_copy_that_fails_changes_nothing(backend: str, error: type[BaseException]) -> None:
    v = make(backend)
    held = v.value
    x = make(backend, (4.0, 5.0, 6.0)).value
    owner, name = COPIES[backend]
    with nothing_happens(error, v), pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner(), name, raising(error))
        v.assign(x)
    assert_same(held, [1.0, 2.0, 3.0])
    assert_same(v.assign(x), [4.0, 5.0, 6.0])


def test_a_first_assignment_that_fails_leaves_no_value(backend: str, error: type[BaseException]) -> None:
    v = sv.Variable(shape=(None,), dtype="float32", backend=backend)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        patched(patch, v, "create", raising(error))
        v.assign([1.0, 2.0])
    with pytest.raises(sv.errors.UninitializedError):
        v.value  # noqa: B018  # there is none
    assert v.version == 0
    assert_same(v.assign([1.0, 2.0]), [1.0, 2.0])
    assert_free(v)


@pytest.mark.parametrize("way", [way for way, (_, verb) in WRITES.items() if verb != "compute"])
def test_an_error_after_the_verb_leaves_a_whole_value(backend: str, way: str, error: type[BaseException]) -> None:
    """What the library has done by then stays done; the variable is whole, free, and usable."""
    v = make(backend)
    expected = make(backend)
    WRITES[way][0](expected)
    write, verb = WRITES[way]
    held = v.value  # or JAX would have been given the old buffer, and no new one come back
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error, match="injected"):
        real = getattr(v._backend, verb)

        def then_fail(*args: Any) -> Any:
            real(*args)
            raise error("injected")

        patched(patch, v, verb, then_fail)
        write(v)
    assert v.numpy().tolist() in (held_value(held), expected.numpy().tolist())
    assert_free(v)


def held_value(held: Any) -> Any:
    return np.asarray(held.tolist() if hasattr(held, "tolist") else held.numpy()).tolist()


def test_watchers_that_fail_leave_the_write_done(backend: str, error: type[BaseException]) -> None:
    """After publishing: the write is done, and the variable is free."""
    v = make(backend)
    with v.subscribe(lambda variable, version: None):
        for step in ("record", "deliver"):
            with pytest.MonkeyPatch.context() as patch, pytest.raises(error, match="injected"):
                patch.setattr(Watchers, step, raising(error))
                v.assign_add(1.0)
    assert_same(v, [3.0, 4.0, 5.0])
    assert v.version == 2
    assert_free(v)


@pytest.mark.own_process(shared=True)
def test_a_subscriber_that_interrupts_leaves_the_write_done(backend: str) -> None:
    """The write is done; the next one is delivered."""
    v = make(backend)
    seen: list[int] = []

    def callback(variable: sv.Variable, version: int) -> None:
        if version == 1:
            raise KeyboardInterrupt("injected")
        seen.append(version)

    with v.subscribe(callback):
        with pytest.raises(KeyboardInterrupt, match="injected"):
            v.assign_add(1.0)
        v.assign_add(1.0)
    assert seen == [2]
    assert_same(v, [3.0, 4.0, 5.0])
    assert_free(v)


# -- foreign code -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in WRITES if way != "redeclare"])
def test_a_constraint_that_fails_changes_nothing(backend: str, way: str, error: type[BaseException]) -> None:
    v = make(backend)
    v.constraint = raising(error)
    before = (v.numpy(), v.version)
    with pytest.raises(error, match="injected"):
        WRITES[way][0](v)
    assert_same(v, before[0])
    assert v.version == before[1]
    v.constraint = None
    assert_free(v)


def test_a_function_that_fails_changes_nothing(backend: str, error: type[BaseException]) -> None:
    v, other = make(backend), make(backend)

    def fn(value: Any) -> Any:
        other.assign_add(1.0)
        raise error("injected")

    with nothing_happens(error, v):
        v.update(fn)
    assert_same(other, [2.0, 3.0, 4.0])
    with pytest.raises(sv.errors.ShapeError):
        v.update(lambda a: a[:2])
    with pytest.raises(sv.errors.ReentrantWriteError):
        v.update(lambda a: v.assign_add(1.0).value)
    assert_free(v, other)


def test_storing_what_a_function_gave_fails_and_changes_nothing(backend: str, error: type[BaseException]) -> None:
    v = make(backend)
    with nothing_happens(error, v), pytest.MonkeyPatch.context() as patch:
        patched(patch, v, "assign", raising(error))
        v.update(lambda a: a + 1)


@pytest.mark.parametrize("index", [..., slice(1, None)], ids=["all", "part"])
def test_an_edit_that_fails_changes_nothing(backend: str, index: Any, error: type[BaseException]) -> None:
    v = make(backend)
    with nothing_happens(error, v), v.edit(index) as array:
        array[...] = 9.0
        raise error("injected")


@pytest.mark.parametrize(
    ("index", "verb"),
    [(..., "fork_from_host"), (..., "adopt"), (slice(1, None), "put")],
    ids=["fork_from_host", "adopt", "put"],
)
def test_an_edit_that_is_not_stored_changes_nothing(
    backend: str, index: Any, verb: str, error: type[BaseException]
) -> None:
    v = make(backend)
    if backend == "numpy" and index is ...:
        verb = "assign"  # it cannot use the memory of a copy
    with nothing_happens(error, v), pytest.MonkeyPatch.context() as patch, v.edit(index) as array:
        array[...] = 9.0
        patched(patch, v, verb, raising(error))


def test_beginning_an_edit_that_fails_changes_nothing(backend: str, error: type[BaseException]) -> None:
    v = make(backend)
    with nothing_happens(error, v), pytest.MonkeyPatch.context() as patch:
        patched(patch, v, "to_host", raising(error))
        with v.edit():
            pytest.fail("the block is not entered")


# -- transactions -------------------------------------------------------------------------------------------


def three(backend: str) -> list[sv.Variable]:
    return sorted((make(backend, (float(i), 10.0)) for i in range(3)), key=id)  # as a commit takes them


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "unlisted"])
def test_a_transaction_that_fails_changes_nothing(backend: str, listed: bool, error: type[BaseException]) -> None:
    variables = three(backend)
    with nothing_happens(error, *variables), sv.transaction(variables if listed else []):
        for v in variables:
            v.assign_add(1.0)
        raise error("injected")


class Adopting:
    """`adopt`, which raises at one variable, before or after the library has stored it."""

    def __init__(self, real: Any, which: int, error: BaseException, *, done: bool) -> None:
        self._real, self._which, self._error, self._done = real, which, error, done
        self.calls = 0

    def __call__(self, handle: Any, other: Any) -> Any:
        self.calls += 1
        if self.calls != self._which + 1:
            return self._real(handle, other)
        if self._done:
            self._real(handle, other)
        raise self._error


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("which", range(3))
def test_a_commit_that_fails_changes_nothing(backend: str, which: int, done: bool, error: type[BaseException]) -> None:
    """At the first, second or third variable, before or after the library has stored it."""
    variables = three(backend)
    held = variables[1].value
    adopt = Adopting(variables[0]._backend.adopt, which, error("injected"), done=done)
    with nothing_happens(error, *variables), pytest.MonkeyPatch.context() as patch:
        patched(patch, variables[0], "adopt", adopt)
        with sv.transaction(variables):
            for v in variables:
                v.assign_add(1.0)
            variables[2][0] = 5.0
    assert adopt.calls > which, "the commit has come to this variable"
    assert_same(held, np.asarray(variables[1].numpy()))


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("which", range(3))
@pytest.mark.own_process(shared=True)
def test_ctrl_c_in_a_commit_that_cannot_fail_comes_after_it(backend: str, which: int, done: bool) -> None:
    """There is no way back where values were written in place: the commit ends, and then the interrupt is raised."""
    variables = three(backend)
    if not variables[0]._backend.adopt_cannot_fail:
        pytest.skip("its commits can fail, and are undone")
    adopt = Adopting(variables[0]._backend.adopt, which, KeyboardInterrupt(), done=done)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(variables[0]._backend), "adopt", lambda _, *arguments: adopt(*arguments))
        with pytest.raises(KeyboardInterrupt), sv.transaction(variables):
            for v in variables:
                v.assign_add(1.0)
    assert adopt.calls > which
    assert sorted(float(v.numpy()[0]) for v in variables) == [1.0, 2.0, 3.0]
    assert [v.version for v in variables] == [1, 1, 1]
    assert_free(*variables)


def test_a_validation_that_fails_changes_nothing(backend: str, error: type[BaseException]) -> None:
    variables = three(backend)
    with nothing_happens(error, *variables), pytest.MonkeyPatch.context() as patch:
        patch.setattr(transactions.TransactionOverlay, "_validate", raising(error))
        with sv.transaction():
            variables[0].assign_add(variables[1])


def test_a_draft_that_fails_leaves_the_others_to_be_committed(backend: str, error: type[BaseException]) -> None:
    """A write inside the block, which is caught there: the others are committed."""
    variables = three(backend)
    with sv.transaction(variables):
        variables[0].assign_add(1.0)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
            patched(patch, variables[1], "result_apart", raising(error))  # without a draft
            patched(patch, variables[1], "apply", raising(error))
            variables[1].assign_add(1.0)
        assert variables[1].numpy()[1] == 10.0
    assert [v.numpy()[1] for v in variables] == [11.0, 10.0, 10.0]
    assert_free(*variables)


def test_entering_a_transaction_that_fails_lets_all_go(backend: str, error: type[BaseException]) -> None:
    """At the second of three variables: the first one is let go."""

    class NoEntry:
        def __enter__(self) -> None:
            raise error("injected")

        def __exit__(self, *_: object) -> None:
            pass

    variables = three(backend)
    with nothing_happens(error, *variables), pytest.MonkeyPatch.context() as patch:
        patch.setattr(variables[1], "_lock", NoEntry())
        with sv.transaction(variables):
            pytest.fail("the block is not entered")


def test_restore_and_rollback_that_fail_change_nothing(backend: str, error: type[BaseException]) -> None:
    variables = three(backend)
    names = sv.snapshot(variables)
    for v in variables:
        v.assign_add(1.0)
    with nothing_happens(error, *variables), pytest.MonkeyPatch.context() as patch:
        patched(patch, variables[0], "adopt", raising(error))
        sv.restore(names)
    with nothing_happens(error, *variables), sv.rollback(variables):
        for v in variables:
            v.assign_add(1.0)
        raise error("injected")


def test_a_finalizer_that_reads_during_a_commit_publishes_nothing(backend: str) -> None:
    """It reads under the commit's own lock, and must not publish what the commit has hidden.

    Else another thread may find the new value of one variable and the old one of the other, after both versions have
    changed.
    """
    a, b = three(backend)[:2]
    hidden: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        real = a._backend.adopt

        def adopt(handle: Any, other: Any) -> Any:
            b.value  # noqa: B018  # as a finalizer would, or a signal handler, that runs here
            hidden.append(b._snapshot is None)
            return real(handle, other)

        patched(patch, a, "adopt", adopt)
        with sv.transaction(a, b):
            a.assign_sub(1.0)
            b.assign_add(1.0)
    assert hidden == [True, True]


@pytest.mark.own_process(shared=True)
def test_ctrl_c_after_a_donation_loses_nothing() -> None:
    """Python looks for signals when a compiled call returns: the old array is gone, the new one not yet stored."""
    pytest.importorskip("jax")
    v = sv.Variable(np.arange(3, dtype="float32"), backend="jax")
    v.assign_add(1.0)  # from here on nobody else has the array: the next write donates it
    with pytest.MonkeyPatch.context() as patch:

        def interrupted(kept: list[Any], function: Any, *arguments: Any) -> Any:
            store(kept, function, *arguments)
            raise KeyboardInterrupt

        store = engine("jax_arrays").store
        for module in (adapter("jax"), engine("jax_rows")):
            patch.setattr(module, "store", interrupted)
        for write in (lambda: v.assign_add(1.0), lambda: v.__setitem__(0, 9.0)):
            with pytest.raises(KeyboardInterrupt):
                write()
    assert v.numpy().tolist() == [9.0, 3.0, 4.0]
    assert v.assign_add(1.0).numpy().tolist() == [10.0, 4.0, 5.0]
