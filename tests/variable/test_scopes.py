"""Scope objects are entered again, and inside themselves, by several threads; a wrong argument is told at the call."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.threads import in_threads


def path() -> str:
    return sv.Variable(0.0, name="v").path


def cast() -> str:
    v = sv.Variable(0.0)
    return str(v.value.dtype)


#: A scope, a question, and the answer outside, in the scope, and in the scope twice.
SCOPES: dict[str, tuple[Callable[[], Any], Callable[[], Any], list[Any]]] = {
    "name_scope": (lambda: sv.name_scope("a"), path, ["v", "a/v", "a/a/v"]),
    "Module.name_scope": (lambda: sv.Module("m").name_scope(), path, ["v", "m/v", "m/m/v"]),
    "autocast": (lambda: sv.autocast("float16"), cast, ["float32", "float16", "float16"]),
    "no autocast": (lambda: sv.autocast(None), cast, ["float32", "float32", "float32"]),
    "device": (lambda: sv.device("CPU:0"), lambda: sv.Variable(0.0).device, ["cpu", "cpu", "cpu"]),
}


@pytest.mark.parametrize("case", SCOPES)
def test_a_scope_is_entered_again_and_inside_itself(case: str) -> None:
    make, ask, (outside, inside, twice) = SCOPES[case]
    scope = make()
    for each in (scope, scope, copy.deepcopy(scope), pickle.loads(pickle.dumps(scope))):
        scope = each
        assert ask() == outside
        with scope:
            assert ask() == inside
            with scope:
                assert ask() == twice
                with pytest.raises(KeyError), scope:
                    raise KeyError
                assert ask() == twice
            assert ask() == inside
    assert ask() == outside


@pytest.mark.parametrize("case", SCOPES)
def test_threads_and_tasks_share_a_scope_object(case: str) -> None:
    make, ask, (outside, inside, _) = SCOPES[case]
    scope = make()

    def thread() -> None:
        for _ in range(50):
            with scope:
                assert ask() == inside
            assert ask() == outside

    in_threads(thread, thread, thread)

    async def task() -> None:
        for _ in range(10):
            with scope:
                await asyncio.sleep(0)
                assert ask() == inside
            await asyncio.sleep(0)
            assert ask() == outside

    async def tasks() -> None:
        await asyncio.gather(task(), task(), task())

    asyncio.run(tasks())


def test_a_scope_decorates_a_function() -> None:
    @sv.name_scope("a")
    def nested(depth: int) -> str:
        return nested(depth - 1) if depth else path()

    assert [nested(0), nested(2), nested(0)] == ["a/v", "a/a/a/v", "a/v"]


def test_scopes_that_end_in_another_order_leave_nothing() -> None:
    first, second = sv.name_scope("a"), sv.autocast("float16")
    third = sv.name_scope("b")
    for scope in (first, second, third):
        scope.__enter__()
    for scope in (first, second, third):
        scope.__exit__(None, None, None)
    assert (path(), cast()) == ("v", "float32")


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "name": (lambda: sv.name_scope("a/b"), sv.errors.NameScopeError, "name: expected a non-empty string without '/'"),
    "module": (lambda: sv.Module("m").__class__("x/y"), sv.errors.NameScopeError, "name: expected a non-empty string"),
    "int": (lambda: sv.autocast("int32"), sv.errors.DTypeError, "autocast: expected a floating-point dtype, got int32"),
    "complex": (lambda: sv.autocast("complex64"), sv.errors.DTypeError, "expected a floating-point dtype"),
    "unknown": (lambda: sv.autocast("float31"), sv.errors.DTypeError, "float31"),
    "device": (lambda: sv.device("C P U"), sv.errors.DeviceError, "device: expected a name such as 'CPU:0'"),
    "empty device": (lambda: sv.device(""), sv.errors.DeviceError, "device: expected a name such as 'CPU:0'"),
    "number": (
        lambda: sv.device(0),
        sv.errors.DeviceError,
        "device: expected a name such as 'CPU:0' or 'GPU:1', got 0",
    ),
    "rollback": (lambda: sv.rollback(3), TypeError, "rollback: found no variable in int"),
    "transaction": (lambda: sv.transaction(3), TypeError, "transaction: found no variable in int"),
    "stateless": (lambda: sv.StatelessScope({3: 4}), TypeError, "StatelessScope: expected variables as keys"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_argument_is_told_at_the_call(case: str) -> None:
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()


def test_the_names_of_devices_that_libraries_have_are_accepted() -> None:
    for name in ("cuda:0", "GPU", "mps", "/job:localhost/replica:0/task:0/device:CPU:0", None, object()):
        sv.device(name)


def test_a_rollback_and_an_edit_are_entered_again(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    scope, edit, part = sv.rollback(v), v.edit(), v.edit(0)
    for start in (1.0, 5.0):
        v.assign([start, 2.0])
        with scope as before:
            v.assign_add(1.0)
            assert_same(before[v], [start, 2.0])
        assert_same(v, [start, 2.0])
        with edit as array:
            array[...] = array + 1.0
        with part as array:
            array[...] = 9.0
        assert_same(v, [9.0, 3.0])
        with pytest.raises(KeyError), edit as array:
            array[...] = 0.0
            raise KeyError
        assert_same(v, [9.0, 3.0])


def test_a_rollback_and_an_edit_are_not_entered_inside_themselves(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    for scope, name in ((sv.rollback(v), "rollback"), (v.edit(), "edit")):
        with scope:
            message = (
                f"{name}: this context manager is open already, here or in another thread. Hint: make one for each"
            )
            with pytest.raises(RuntimeError, match=message), scope:
                pass
        with scope:
            pass
    with sv.rollback(v), sv.rollback(v):
        v.assign_add(1.0)
    assert_same(v, [1.0, 2.0])


def test_a_transaction_and_a_stateless_scope_are_entered_again(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)
    together = sv.transaction(v)
    for _ in range(2):
        with together, together:
            v.assign_add(1.0)
    assert float(v) == 2.0
    stateless = sv.StatelessScope({v: 5.0})
    for value in (6.0, 7.0):
        with stateless:
            v.assign_add(1.0)
            assert float(v) == value
    assert float(v) == 2.0


def test_a_tape_is_a_result_and_not_entered_again() -> None:
    tape = sv.GradientTape()
    with tape:
        pass
    with pytest.raises(RuntimeError, match="GradientTape: this tape was entered before. Hint: create a new tape"), tape:
        pass


def test_a_stateless_scope_inside_itself(backend: str) -> None:
    v = sv.Variable(0.0, backend=backend)
    scope = sv.StatelessScope({v: 5.0})
    with scope:
        with pytest.raises(RuntimeError, match="StatelessScope: "), scope:
            pass
        v.assign_add(1.0)
        assert float(v) == 6.0
    assert float(scope.get_current_value(v)) == 6.0
    with scope:
        assert float(v) == 6.0
    assert float(v) == 0.0
