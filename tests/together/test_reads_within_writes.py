"""A read inside a write of the same thread: by a trace function, a signal handler, a finalizer, a constraint.

Such a read gets the value before the write or the value after it, whole, and what it got never changes.
"""

from __future__ import annotations

import gc
import operator
import pickle
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same, every_table_has_a_log, host, thorough

pytestmark = pytest.mark.own_process(shared=True)

OURS = str(Path(sv.__file__).parent)

#: The writes whose operand is not a number.
OPERANDS = {"matmul": [[0.0, 1.0], [1.0, 0.0]]}


def in_place(v: sv.Variable, name: str, value: Any) -> None:
    getattr(operator, f"i{name}")(v, value)


def writes_of(v: sv.Variable, dtype: str) -> dict[str, Callable[[], object]]:
    """A call of every write that variables of this dtype have: a new one joins by itself."""
    operators = {"subtract": "sub", "multiply": "mul", "divide": "truediv", "floor_divide": "floordiv"}
    operators |= {"remainder": "mod", "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor"}
    two: Any = True if dtype == "bool" else 2.0
    calls: dict[str, Callable[[], object]] = {}
    for name in v._writes:
        operand = OPERANDS.get(name, two)
        if name.startswith("at."):
            calls[name] = partial(lambda verb: getattr(v.at[[0, 1, 1]], verb)(two), name.removeprefix("at."))
            calls[f"{name} of a row"] = partial(lambda verb: getattr(v.at[0], verb)(two), name.removeprefix("at."))
        elif name.startswith("assign"):
            calls[name] = partial(getattr(v, name), operand)
            calls[f"{name} without locking"] = partial(getattr(v, name), operand, use_locking=False)
        else:
            calls[name] = partial(in_place, v, operators.get(name, name), operand)
    calls["assign"] = partial(v.assign, [[two, two], [two, two]])
    calls["assign without locking"] = partial(v.assign, [[two, two], [two, two]], use_locking=False)
    calls["assign another shape"] = partial(v.assign, [two], validate_shape=False)
    calls["setitem"] = partial(v.__setitem__, 0, two)
    calls["setitem of a mask"] = lambda: v.__setitem__(np.array([[True, False], [False, True]]), two)
    calls["update"] = lambda: v.update(lambda value: value)
    calls["edit"] = partial(edit, v)
    operation: Any = "bitwise_and" if dtype == "bool" else "add"
    calls["update_all"] = partial(sv.update_all, [v, sv.Variable(two, dtype=dtype, backend=v.backend)], operation, two)
    calls["transaction"] = partial(within_a_transaction, v, two)
    calls["transaction of rows"] = partial(rows_within_a_transaction, v, two)
    calls["restore"] = partial(sv.restore, sv.snapshot(v.assign([[two, two], [two, two]])))
    return calls


def edit(v: sv.Variable) -> None:
    with v.edit() as array:
        array[...] = 1


def within_a_transaction(v: sv.Variable, value: Any) -> None:
    with sv.transaction(v):
        v[0] = value


def rows_within_a_transaction(v: sv.Variable, value: Any) -> None:
    with sv.transaction(v):
        v[[0]] = value


class Look:
    """Calls a function at the n-th bytecode of statevar that runs while a condition is true."""

    def __init__(self, nth: int, while_true: Callable[[], bool], call: Callable[[], object], *files: str) -> None:
        self.left = nth
        self.where = ""
        self._while_true = while_true
        self._call = call
        self._files = (OURS, *files)

    def run(self, function: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys._getframe().f_trace_opcodes = True  # Python 3.12 asks for this when the trace function is set
        sys.settrace(self._enter)
        try:
            function()
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, _: Any) -> Any:
        if self.where or not any(each in frame.f_code.co_filename for each in self._files):
            return None
        frame.f_trace = self._step
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode" and not self.where and self._while_true():
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}, in {frame.f_code.co_name}"
                self._call()
        return self._step


class Reads:
    """The values that were read, each with a copy of what it was at that moment."""

    def __init__(self, v: sv.Variable) -> None:
        self._v = v
        self._kept: list[tuple[Any, Any]] = []

    def __call__(self, *_: object) -> None:
        value = self._v.value
        self._kept.append((value, np.array(host(value))))

    def __len__(self) -> int:
        return len(self._kept)

    def problem(self, *values: Any) -> str:
        """What is wrong with a read: it was none of these values, or it has changed."""
        for value, then in self._kept:
            now = host(value)
            if not any(then.shape == np.shape(each) and np.array_equal(then, each, equal_nan=True) for each in values):
                return f"read {then.tolist()}, which was never the value"
            if now.shape != then.shape or not np.array_equal(now, then, equal_nan=True):
                return f"read {then.tolist()}, which became {now.tolist()}"
        return ""


def old_value(dtype: str) -> Any:
    return np.array([[1, 0], [3, 4]]).astype(dtype)


def made(backend: str, dtype: str) -> sv.Variable:
    return sv.Variable(old_value(dtype), backend=backend, trainable=False)


#: The distance between two bytecodes that are tried. Each operation begins at another one.
STEPS = thorough(
    usual={"numpy": 5, "jax": 29, "torch": 17, "tensorflow": 41},
    exhaustive={"numpy": 1, "jax": 7, "torch": 3, "tensorflow": 7},
)
OPERATIONS = [*writes_of(made("numpy", "float32"), "float32"), "bitwise_and", "bitwise_or", "bitwise_xor"]


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_trace_function_reads_at_every_bytecode_of_a_write(backend: str, operation: str) -> None:
    dtype = "bool" if operation.startswith("bitwise") else "float32"
    v = made(backend, dtype)
    write = writes_of(v, dtype)[operation]
    old = old_value(dtype)
    v.assign(old, validate_shape=False)
    write()
    new = v.numpy()
    found: list[str] = []
    anywhere = "without" in operation or "rows" in operation
    within = (lambda: True) if anywhere else v._lock._is_owned  # the rest is like any other read
    step: int = STEPS[backend]
    for nth in range(1 + len(operation) % step, 5000, step):
        v.assign(old, validate_shape=False)
        version = v.version
        reads = Reads(v)
        look = Look(nth, within, reads)
        with every_table_has_a_log():
            look.run(write)
        if not look.where:
            break
        now = v.numpy()
        v.assign_add(1.0) if dtype == "float32" else v.assign(~old)
        if problem := reads.problem(old, new):
            found.append(f"{look.where}: {problem}")
        if now.shape != new.shape or not np.array_equal(now, new, equal_nan=True):
            found.append(f"{look.where}: the write became {now.tolist()}")
        if v.version <= version + 1:
            found.append(f"{look.where}: a write was not counted")
    assert nth > 20 or operation == "setitem", "it looked nowhere"
    assert not found, "\n".join(found[:20])


def test_a_read_within_a_write_of_rows_sees_the_rows_before() -> None:
    v = made("numpy", "float32")
    with every_table_has_a_log():
        for nth in range(1, 5000):
            v.assign(old_value("float32"))
            reads = Reads(v)
            look = Look(nth, lambda: True, reads)
            with sv.transaction(v):
                v[[1]] = 7.0
                look.run(lambda: v.at[[0, 0]].add(1.0))
                v.at[[1]].add(0.0)
            if not look.where:
                break
            assert not reads.problem([[1.0, 0.0], [7.0, 7.0]], [[3.0, 2.0], [7.0, 7.0]]), look.where
            assert_same(v, [[3.0, 2.0], [7.0, 7.0]])
    assert nth > 100, "it looked nowhere"


@pytest.mark.parametrize("trainable", [False, True])
def test_a_signal_handler_reads_in_the_middle_of_writes(backend: str, trainable: bool) -> None:
    v = sv.Variable(np.zeros(1000, "float32"), backend=backend, trainable=trainable)
    v.assign_add(0.0)
    v.value  # noqa: B018  # so that whatever the library compiles is compiled
    kept: list[tuple[Any, float]] = []
    going = True

    def handler(*_: object) -> None:
        value = v.value
        kept.append((value, float(host(value)[0])))
        if going:
            signal.setitimer(signal.ITIMER_REAL, 2e-4)  # not before, since a handler may be interrupted too

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 2e-4)
    try:
        for _ in range(3000):
            v.assign_add(1.0)
    finally:
        going = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert kept, "no signal came"
    for value, first in kept:
        assert np.all(host(value) == first)
    assert_same(v.value, np.full(1000, 3000.0))


class Finalized:
    """Calls a function when the garbage collector finds it, which may be in the middle of anything."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.me = self

    def __del__(self) -> None:
        self.call()


def test_a_finalizer_reads_in_the_middle_of_writes(backend: str) -> None:
    v = made(backend, "float32")
    reads = Reads(v)
    values = [v.numpy()]
    before = gc.get_threshold()
    gc.set_threshold(1, 1000, 1000)  # only the youngest objects, since the libraries have millions
    try:
        for step in range(50):
            Finalized(reads)
            v.assign_add(1.0)
            values.append(old_value("float32") + step + 1)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(reads) == 50
    assert not reads.problem(*values)


def test_a_subscriber_and_a_constraint_read_during_the_write(backend: str) -> None:
    v = made(backend, "float32")
    reads = Reads(v)

    def constraint(value: Any) -> Any:
        reads()
        return value

    v.constraint = constraint
    values = [v.numpy()]
    with v.subscribe(reads):
        for step in range(5):
            v.assign_add(1.0)
            values.append(old_value("float32") + step + 1)
    assert len(reads) == 10
    assert not reads.problem(*values)


@pytest.mark.slow
def test_a_read_in_the_middle_of_a_compiled_call(backend: str) -> None:
    v = made(backend, "float32")

    @sv.jit
    def step() -> None:
        v.assign_add(1.0)

    step()
    step()
    for nth in range(1, 5000):
        old = v.numpy()
        reads = Reads(v)
        # The code that Inductor writes, and that torch.fx writes: an interrupt may come there too.
        look = Look(nth, lambda: True, reads, "torchinductor", "eval_with_key")
        look.run(step)
        if not look.where:
            break
        assert np.array_equal(v.numpy(), old + 1.0), look.where
        v.assign_add(1.0)
        assert not reads.problem(old, old + 1.0), look.where
        v.assign_sub(1.0)
    assert nth > 20, "it looked nowhere"


@pytest.mark.slow
def test_a_commit_is_read_before_or_after_but_never_half(backend: str) -> None:
    v, w = made(backend, "float32"), made(backend, "float32")
    v.assign([[0.0, 0.0], [0.0, 0.0]])
    w.assign([[0.0, 0.0], [0.0, 0.0]])
    seen: list[tuple[Any, Any]] = []

    def swap(to: float) -> None:
        with sv.transaction(v, w):
            v[0, 0] = to
            w[0, 0] = to

    for nth in range(1, 5000):
        before = float(v[0, 0])
        look = Look(nth, lambda: v._lock._is_owned() and w._lock._is_owned(), lambda: seen.append((v.value, w.value)))
        look.run(partial(swap, before + 1.0))
        if not look.where:
            break
        a, b = seen[-1]
        assert float(a[0, 0]) == float(b[0, 0]) in (before, before + 1.0), look.where
    assert nth > 5, "it looked nowhere"


def test_a_handler_that_writes_in_the_middle_of_a_write_gets_an_error() -> None:
    v = sv.Variable([0.0, 0.0], name="w")
    errors: list[str] = []

    def write() -> None:
        try:
            v.assign([5.0, 5.0])
        except sv.errors.ReentrantWriteError as error:
            errors.append(str(error))

    def commit() -> None:
        with sv.transaction(v):
            v.assign_add(1.0)

    for function in (lambda: v.assign_add(1.0), commit):
        for nth in range(1, 1000):
            look = Look(nth, v._lock._is_owned, write)
            look.run(function)
            if not look.where:
                break
    assert any("this thread is already inside a write of this variable, at 'w'" in each for each in errors)
    assert any("the transaction of this thread is being committed, at 'w'" in each for each in errors)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["parameter", "transaction", "pickle", "trainable"])
def test_whatever_a_handler_does_in_the_middle_of_a_write_loses_nothing(backend: str, what: str) -> None:
    v = made(backend, "float32")
    refused = False

    def handler() -> None:
        nonlocal refused
        try:
            match what:
                case "parameter":
                    hasattr(v, "parameter")
                case "transaction":
                    with sv.transaction():
                        host(v.value)
                case "pickle":
                    pickle.dumps(v)
                case "trainable":
                    v.trainable = not v.trainable
        except sv.errors.ReentrantWriteError:
            refused = True

    writes: list[Callable[[sv.Variable], object]] = [lambda v: v.assign_add(1.0), lambda v: v.__setitem__((0, 0), 9.0)]
    for write in writes:
        v = made(backend, "float32")
        write(v)
        expected = v.numpy()
        for nth in range(1, 3000, 3):
            v = made(backend, "float32")
            version = v.version
            look = Look(nth, v._lock._is_owned, handler)
            look.run(partial(write, v))
            if not look.where:
                break
            assert_same(v, expected)
            assert v.version == version + 1, look.where
    assert refused == (what == "parameter")
