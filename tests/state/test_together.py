"""`update_all`: many variables in one step, all of them or none."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import Interruption, assert_free
from tests.helpers import PATIENCE, array_of, assert_same, host
from tests.internals import adapter

SHAPES = [(2,), (), (2, 3), (2,), (0,)]


def made(backend: str, dtype: str = "float32", count: int = 5) -> list[sv.Variable]:
    return [
        sv.Variable(np.full(shape, i + 1, dtype), backend=backend, name=f"v{i}")
        for i, shape in enumerate(SHAPES[:count])
    ]


def operands(backend: str, dtype: str = "float32", count: int = 5) -> list[Any]:
    return [array_of(backend, np.full(shape, 2, dtype), dtype) for shape in SHAPES[:count]]


def is_one_call(backend: str) -> bool:
    return backend != "numpy"  # which has no such call; and TensorFlow stores tensors that it has computed before


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize(
    "operation", ["assign", "assign_add", "assign_sub", "add", "subtract", "multiply", "floor_divide", "pow"]
)
def test_it_does_what_each_write_would_do(backend: str, operation: Any, dtype: str) -> None:
    symbols: dict[str, Callable[[Any, Any], Any]] = {
        "assign": lambda old, x: np.full_like(old, x),
        "floor_divide": lambda old, x: old // x,
        "pow": lambda old, x: old**x,
        "multiply": lambda old, x: old * x,
    }
    sign = -1 if operation in ("assign_sub", "subtract") else 1
    expected = symbols.get(operation, lambda old, x: old + sign * x)
    for held in (False, True):
        found = made(backend, dtype)
        before = [(v.value, v.numpy().copy()) for v in found] if held else []
        sv.update_all(found, operation, operands(backend, dtype))
        for i, v in enumerate(found):
            assert_same(v, expected(np.full(SHAPES[i], i + 1, dtype), 2))
            assert (v.version, v.dtype_name, v.shape) == (1, dtype, SHAPES[i])
        for value, old in before:
            assert_same(value, old)
        assert_free(*found)


def test_numbers_lists_and_mappings_are_values(backend: str) -> None:
    a, b = sv.Variable([1.0, 2.0], backend=backend), sv.Variable([[3.0]], backend=backend)
    sv.update_all([a, b], "multiply", 10)
    sv.update_all([a, b], "add", [[1.0, 1.0], 0.5])
    sv.update_all((a, b), "subtract", {b: [[0.5]], a: 1})
    sv.update_all([a, b], "divide", 10.0)
    assert_same(a, [1.0, 2.0])
    assert_same(b, [[3.0]])
    sv.update_all({"layer": [a, b]}, "assign", (value for value in (np.zeros(2), np.ones((1, 1)))))
    assert_same(a, [0.0, 0.0])
    assert_same(b, [[1.0]])
    sv.update_all([], "add", [])


def test_gradients_are_values(backend: str) -> None:
    w, b = sv.Variable([1.0, 2.0], backend=backend), sv.Variable(3.0, backend=backend)
    xp = w.__array_namespace__()
    gradients = sv.grad(lambda: xp.sum(w * w) + b * 2.0)()
    sv.update_all([w, b], "subtract", gradients)
    assert_same(w, [-1.0, -2.0])
    assert_same(b, 1.0)


def test_variables_of_several_dtypes_and_backends(backend: str, backends: list[str]) -> None:
    found = [
        sv.Variable(np.ones(2, dtype), backend=name)
        for name in dict.fromkeys(("numpy", backend))
        for dtype in ("float32", "int32", "float32")
    ]
    sv.update_all(found, "add", 1)
    for v in found:
        assert_same(v, [2, 2])


def test_a_variable_twice_is_written_twice(backend: str) -> None:
    a, b = made(backend, count=2)
    sv.update_all([a, b, a], "add", [1.0, 1.0, 2.0])
    assert_same(a, [4.0, 4.0])
    assert_same(b, 3.0)


def test_each_operand_is_read_before_anything_is_written(backend: str) -> None:
    a, b = sv.Variable([1.0, 2.0], backend=backend), sv.Variable([3.0, 4.0], backend=backend)
    sv.update_all([a, b], "assign", [b.value, a.value])
    assert_same(a, [3.0, 4.0])
    assert_same(b, [1.0, 2.0])
    sv.update_all([a, b], "add", [a.value, a.value])
    assert_same(a, [6.0, 8.0])
    assert_same(b, [4.0, 6.0])


BAD: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "a shape": (
        "assign",
        [np.zeros(2), np.zeros(3)],
        sv.errors.ShapeError,
        r"assign: expected shape \(\), got \(3,\), at 'v1'",
    ),
    "a shape of an operator": ("add", [0.0, np.zeros(3)], sv.errors.ShapeError, r"shape \(3,\) does not .*, at 'v1'"),
    "a dtype": ("add", [0.0, 1j], sv.errors.DTypeError, "^add: 1j cannot be represented as float32, at 'v1'"),
    "no array": ("assign", [np.zeros(2), object()], sv.errors.StatevarError, "at 'v1'"),
    "too few": ("add", [1.0], ValueError, "^update_all: got 1 values for 2 variables"),
    "too many": ("add", [1.0] * 3, ValueError, "^update_all: got 3 values for 2 variables"),
    "one array": ("add", np.zeros(3), ValueError, "^update_all: got 3 values for 2 variables"),
    "a text": ("add", "12", TypeError, "^update_all: expected several values, got str. Hint: pass a list"),
    "a mapping": ("add", {}, ValueError, "^update_all: the mapping has no value for a variable, at 'v0'"),
    "no operation": ("plus", 1.0, ValueError, "^update_all: unknown operation 'plus'. Hint: known are 'assign', "),
    "an operation at indices": ("at.add", 1.0, ValueError, "^update_all: unknown operation 'at.add'"),
    "bits of floats": ("bitwise_and", 1, sv.errors.DTypeError, "^bitwise_and: .*, at 'v0'"),
}


@pytest.mark.parametrize("bad", BAD)
def test_an_error_changes_nothing(backend: str, bad: str) -> None:
    operation, values, error, text = BAD[bad]
    found = made(backend, count=2)
    with pytest.raises(error, match=text):
        sv.update_all(found, operation, values)
    assert_same(found[0], [1.0, 1.0])
    assert_same(found[1], 2.0)
    assert [v.version for v in found] == [0, 0]
    assert_free(*found)


def test_an_operation_that_fails_changes_nothing(backend: str) -> None:
    if backend != "numpy":
        pytest.skip("only NumPy can be asked to raise")
    found = [sv.Variable(np.full(2, 1e38, "float32"), backend=backend) for _ in range(2)]
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        sv.update_all(found, "multiply", [1.0, 1e38])
    for v in found:
        assert_same(v, np.full(2, 1e38, "float32"))
        assert v.version == 0
    assert_free(*found)


def test_a_constraint_that_fails_changes_nothing(backend: str) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("injected")

    found = made(backend, count=2)
    found[1].constraint = fail
    with pytest.raises(ValueError, match="injected"):
        sv.update_all(found, "add", 1.0)
    found[1].constraint = None
    assert_same(found[0], [1.0, 1.0])
    assert_free(*found)


def test_a_variable_without_a_value(backend: str) -> None:
    a, b = sv.Variable([1.0], backend=backend), sv.Variable(shape=(1,), dtype="float32", backend=backend, name="b")
    with pytest.raises(sv.errors.UninitializedError, match="^add: the variable has no value yet, at 'b'"):
        sv.update_all([a, b], "add", 1.0)
    assert_same(a, [1.0])
    sv.update_all([a, b], "assign", [[2.0], [3.0]])
    assert_same(b, [3.0])


def test_an_open_shape_may_grow(backend: str) -> None:
    a, b = (sv.Variable([1.0], shape=(None,), backend=backend) for _ in range(2))
    sv.update_all([a, b], "assign", [[1.0, 2.0], [3.0]])
    assert_same(a, [1.0, 2.0])
    assert_same(b, [3.0])


def test_the_library_writes_them_in_one_call(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made(backend)
    for verb in ("assign", "apply"):
        monkeypatch.setattr(type(found[0]._backend), verb, lambda *_: pytest.fail("one after the other"))
    if not is_one_call(backend):
        return
    sv.update_all(found, "add", operands(backend))
    sv.update_all(found, "multiply", 2.0)
    sv.update_all(found, "assign", operands(backend))
    for v in found:
        assert_same(v, np.full(v.shape, 2.0, "float32"))


def test_subscribers_are_told_once(backend: str) -> None:
    found = made(backend, count=2)
    told: list[tuple[str, int]] = []
    subscriptions = [v.subscribe(lambda v, version: told.append((v.name, version))) for v in found]
    sv.update_all(found, "add", 1.0)
    assert sorted(told) == [("v0", 1), ("v1", 1)]
    del subscriptions


def test_it_is_part_of_a_transaction(backend: str) -> None:
    found = made(backend, count=2)
    with pytest.raises(ZeroDivisionError), sv.transaction(*found):
        sv.update_all(found, "add", 1.0)
        assert_same(found[1], 3.0)
        raise ZeroDivisionError
    assert_same(found[1], 2.0)
    with sv.StatelessScope():
        sv.update_all(found, "add", 1.0)
        assert_same(found[1], 3.0)
    assert_same(found[1], 2.0)


def test_it_is_part_of_a_program(backend: str) -> None:
    found = made(backend, count=2)
    step = sv.jit(lambda: sv.update_all(found, "add", 1.0))
    for _ in range(3):
        step()
    assert_same(found[0], [4.0, 4.0])
    assert_same(found[1], 5.0)
    sv.update_all(found, "add", 1.0)  # which takes the values back from the program
    assert_same(found[1], 6.0)


def test_it_waits_for_a_hold(backend: str) -> None:
    found = made(backend, count=2)
    entered, goes_on = threading.Event(), threading.Event()

    def hold() -> None:
        with sv.transaction(found[1]):
            found[1].assign_add(10.0)
            entered.set()
            goes_on.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(PATIENCE)
    writer = threading.Thread(target=sv.update_all, args=(found, "add", 1.0))
    writer.start()
    assert_same(found[0], [1.0, 1.0])
    goes_on.set()
    for thread in (holder, writer):
        thread.join(PATIENCE)
    assert_same(found[0], [2.0, 2.0])
    assert_same(found[1], 13.0)


def test_other_threads_see_all_or_none(backend: str) -> None:
    found = [sv.Variable(np.zeros(3, "float32"), backend=backend) for _ in range(4)]
    rounds, over = 60, threading.Event()
    torn: list[Any] = []

    def look() -> None:
        while not over.is_set():
            seen = [host(value).tolist() for value in sv.snapshot(found).values()]
            if any(each != seen[0] for each in seen):
                torn.append(seen)

    def write() -> None:
        for _ in range(rounds):
            sv.update_all(found, "add", 1.0)

    reader = threading.Thread(target=look)
    writers = [threading.Thread(target=write) for _ in range(2)]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join(PATIENCE)
    over.set()
    reader.join(PATIENCE)
    assert not torn
    for v in found:
        assert_same(v, np.full(3, 2 * rounds, "float32"))
        assert v.version == 2 * rounds


def test_torch_parameters_of_modules(backend: str) -> None:
    """What user code has may be changed behind our back, so it is looked at before."""
    if backend != "torch":
        pytest.skip("about nn.Parameter")
    torch: Any = pytest.importorskip("torch")
    a, b = (sv.Variable([1.0, 2.0], backend="torch") for _ in range(2))
    a.parameter.data.mul_(10.0)
    before = a.value
    sv.update_all([a, b], "add", 1.0)
    assert_same(before, [10.0, 20.0])
    assert_same(a.parameter, [11.0, 21.0])
    net = torch.nn.Module()
    net.register_parameter("a", a.parameter)
    net.half()
    with pytest.raises(sv.errors.DTypeError, match="^add: code outside has changed the value to float16"):
        sv.update_all([a, b], "add", 1.0)
    assert_same(b, [2.0, 3.0])


def test_jax_with_64_bits_switched_off(backend: str) -> None:
    if backend != "jax":
        pytest.skip("about jax.enable_x64")
    jax: Any = pytest.importorskip("jax")
    with jax.enable_x64(True):
        found = [sv.Variable(np.ones(2, "float64"), backend="jax") for _ in range(2)]
    with pytest.raises(sv.errors.DTypeError, match="^[a-z]*: .*64 bits"):
        sv.update_all(found, "add", [np.ones(2, "float32")] * 2)
    assert found[0].dtype_name == "float64"


def test_an_error_of_a_signal_handler_in_the_middle_leaves_all_or_none(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time-out is an `Exception`, and no `KeyboardInterrupt`: NumPy stored the first value and not the second."""
    if backend not in ("numpy", "tensorflow"):
        pytest.skip("it writes all in one call")
    found = made(backend, count=2)
    owner, name = (type(found[0]._backend), "assign") if backend == "numpy" else (adapter(backend).eager, "store")
    real, calls = getattr(owner, name), 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TimeoutError("from a signal handler")
        return real(*arguments)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(TimeoutError, match="from a signal handler"):
        sv.update_all(found, "add", 1.0)
    monkeypatch.undo()
    assert_same(found[0], [2.0, 2.0])
    assert_same(found[1], 3.0)
    assert [v.version for v in found] == [1, 1]
    assert_free(*found)


@pytest.mark.own_process(shared=True)
def test_an_interrupt_at_any_moment_leaves_all_or_none(backend: str) -> None:
    for nth in range(1, 4000):
        found = [sv.Variable(np.array([1.0, 2.0], "float32"), backend=backend) for _ in range(2)]
        interruption = Interruption(nth, __file__)
        interruption.run(lambda found=found: sv.update_all(found, "add", 1.0))  # type: ignore[misc]
        if not interruption.where:
            assert nth > 50
            return
        if interruption.where.startswith("contextlib"):  # of JAX itself: an older one runs Python code after a donation
            continue
        after = [v.numpy().tolist() for v in found]
        assert after in ([[1.0, 2.0]] * 2, [[2.0, 3.0]] * 2), interruption.where
        assert after[0] == [1.0, 2.0] or all(v.version == 1 for v in found), interruption.where
        if nth % 20 == 0:
            assert_free(*found)
        assert [v._holder for v in found] == [None, None], interruption.where
    raise AssertionError("it never ended")
