"""Row 8: trainable, constraint, autocast, aggregation, and scopes."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_type, assert_same, host


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_dtypes_without_gradients_are_not_trainable(backend: str, dtype: str) -> None:
    v = sv.Variable([1, 0], dtype=dtype, name="n", trainable=True, backend=backend)
    assert v.trainable is False
    v.trainable = False
    with pytest.raises(sv.errors.DTypeError, match=f"trainable: {dtype} has no gradients, at 'n'"):
        v.trainable = True


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "complex64"])
def test_trainable_can_be_set(backend: str, dtype: str) -> None:
    v = sv.Variable([1, 0], dtype=dtype, backend=backend)
    assert v.trainable is True
    v.trainable = False
    assert v.trainable is False
    assert_same(v.assign_add(1), [2, 1])
    v.trainable = True
    assert v.trainable is True
    assert sv.Variable([1.0], trainable=False, backend=backend).trainable is False


def test_trainable_reaches_torch() -> None:
    pytest.importorskip("torch")
    v = sv.Variable([1.0], backend="torch")
    assert v.value.requires_grad
    v.trainable = False
    assert not v.value.requires_grad
    assert not v.parameter.requires_grad
    assert not sv.Variable([1], backend="torch").value.requires_grad


def test_trainable_reaches_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    for trainable in (True, False):
        v = sv.Variable([1.0], backend="tensorflow", trainable=not trainable)
        v.value  # noqa: B018  # a read before the tape must not hide later ones from it
        v.trainable = trainable
        with tf.GradientTape() as tape:
            y = v.value * 2
        assert (tape.gradient(y, v.parameter) is not None) is trainable


def test_a_constraint_applies_to_every_write(backend: str) -> None:
    v = sv.Variable([3.0, -1.0], constraint=lambda a: a * 0 + abs(a), backend=backend)
    assert_same(v, [3.0, -1.0])
    writes: list[tuple[Any, Any]] = [
        (lambda: v.assign([-2.0, 2.0]), [2.0, 2.0]),
        (lambda: v.assign_add([-5.0, 1.0]), [3.0, 3.0]),
        (lambda: v.assign_sub(4.0), [1.0, 1.0]),
        (lambda: v.__setitem__(0, -7.0), [7.0, 1.0]),
        (lambda: v.at[[1, 1]].add(-3.0), [7.0, 5.0]),
        (lambda: v.__imul__(-1.0), [7.0, 5.0]),
        (lambda: v.__itruediv__(-2.0), [3.5, 2.5]),
        (lambda: v.assign([[-1.0]], validate_shape=False), [[1.0]]),
    ]
    for count, (write, expected) in enumerate(writes, start=1):
        write()
        assert_same(v, expected)
        assert v.version == count
    v.constraint = None
    assert_same(v.assign([[-9.0]]), [[-9.0]])


def test_a_constraint_gets_and_gives_the_librarys_arrays(backend: str) -> None:
    seen = []

    def constraint(value: Any) -> Any:
        seen.append(value)
        return np.minimum(host(value), 5.0)

    v = sv.Variable(shape=(2,), constraint=constraint, backend=backend)
    v.assign([9.0, 1.0])
    v += 4.0
    assert_same(v, [5.0, 5.0])
    assert all(isinstance(each, array_type(backend)) for each in seen[1:])


def test_a_constraint_may_not_change_shape_or_kind(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", backend=backend)
    v.constraint = lambda a: a[:1]
    with pytest.raises(sv.errors.ShapeError, match=r"assign: expected a result of shape \(2,\), got \(1,\), at 'w'"):
        v.assign([3.0, 4.0])
    v.constraint = lambda a: np.array([1j, 2j], "complex64")
    with pytest.raises(sv.errors.DTypeError, match="cannot cast complex64 to float32"):
        v.assign([3.0, 4.0])
    assert_same(v, [1.0, 2.0])
    with pytest.raises(TypeError, match="constraint: expected a callable or None, got 3, at 'w'"):
        v.constraint = 3  # type: ignore[assignment]


def test_no_update_is_lost_under_a_constraint(backend: str) -> None:
    v = sv.Variable(0.0, constraint=lambda a: a, backend=backend)
    threads = [threading.Thread(target=lambda: [v.assign_add(1.0) for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert float(v) == 400.0


def test_autocast_changes_reads(backend: str) -> None:
    v = sv.Variable([1.0, 1.0001], backend=backend)
    with sv.autocast("float16"):
        assert sv.Variable(v.value).dtype_name == "float16"
        assert v.numpy().dtype == np.float16
        assert np.asarray(v).dtype == np.float16
        assert sv.Variable(v + v).dtype_name == "float16"
        assert sv.Variable(v[0]).dtype_name == "float16"
        assert v.dtype_name == "float32"
        with sv.autocast(None):
            assert v.numpy().dtype == np.float32
        with sv.autocast("bfloat16"):
            assert sv.Variable(v.value).dtype_name == "bfloat16"
    assert v.numpy().dtype == np.float32


def test_autocast_leaves_what_is_not_floating(backend: str) -> None:
    n, flag, c = (sv.Variable(value, backend=backend) for value in ([1], [True], [1j]))
    kept = sv.Variable([1.0], autocast=False, backend=backend)
    with sv.autocast("float16"):
        for v, dtype in ((n, "int32"), (flag, "bool"), (c, "complex64"), (kept, "float32")):
            assert sv.Variable(v.value).dtype_name == dtype


def test_autocast_never_changes_what_is_stored(backend: str) -> None:
    # Keras rounds the master weights in assign_add, and loses an assign on torch (research: keras 59, 60).
    exact = np.array([1.0001, 3.0], "float32")
    v = sv.Variable(exact, backend=backend)
    with sv.autocast("float16"):
        v.assign_add(np.float32(0.0001))
        assert v.assign(exact) is v
        v.assign_add([0.0, 0.0])
        v[1] = 2.0001
        v.at[1].multiply(1.0)
        v *= 1.0
        w = sv.Variable(v)
        v.assign(w)
        copied = sv.Variable(0.0, backend=backend).assign(2.0001)
    assert_same(v, np.array([1.0001, 2.0001], "float32"))
    assert_same(w, np.array([1.0001, 2.0001], "float32"))
    assert_same(copied, np.float32(2.0001))


def test_autocast_is_a_floating_dtype() -> None:
    with pytest.raises(sv.errors.DTypeError, match="expected a floating-point dtype, got int32"), sv.autocast("int32"):
        pass
    v = sv.Variable([1.0])
    assert v.numpy().dtype == np.float32


def test_autocast_carries_the_gradient_on_torch() -> None:
    pytest.importorskip("torch")
    v = sv.Variable([1.0, 2.0], backend="torch")
    with sv.autocast("bfloat16"):
        (v.value * 2).sum().backward()
    assert_same(v.parameter.grad, [2.0, 2.0], dtype=False)
    assert v.parameter.grad.dtype == v.dtype


def test_scopes_hold_in_their_own_thread() -> None:
    v = sv.Variable([1.0])
    seen = []

    def other() -> None:
        seen.append((v.numpy().dtype, sv.Variable(0, name="x").path))

    with sv.autocast("float16"), sv.name_scope("mine"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [(np.float32, "x")]


def test_scopes_hold_in_their_own_task() -> None:
    v = sv.Variable([1.0])

    async def scoped(first: asyncio.Event, second: asyncio.Event) -> tuple[Any, str]:
        with sv.autocast("float16"), sv.name_scope("mine"), sv.device("cpu:0"):
            first.set()
            await second.wait()
            return v.numpy().dtype, sv.Variable(0, name="x").path

    async def other(first: asyncio.Event, second: asyncio.Event) -> tuple[Any, str]:
        await first.wait()
        result = v.numpy().dtype, sv.Variable(0, name="x").path
        second.set()
        return result

    async def both() -> list[tuple[Any, str]]:
        events = asyncio.Event(), asyncio.Event()
        return list(await asyncio.gather(scoped(*events), other(*events)))

    assert asyncio.run(both()) == [(np.float16, "mine/x"), (np.float32, "x")]


def test_the_aggregation_is_kept_and_is_the_mean_if_not_given(backend: str) -> None:
    for aggregation in ("none", "mean", "sum", "only_first_replica"):
        assert sv.Variable([1.0], aggregation=aggregation, backend=backend).aggregation == aggregation
    assert sv.Variable([1.0], backend=backend).aggregation == "mean"


def test_positional_order_is_that_of_keras(backend: str) -> None:
    v = sv.Variable([1.0], (1,), "float32", False, False, "sum", "w", backend=backend)
    assert (v.shape, v.dtype_name, v.trainable, v.autocast, v.aggregation, v.name) == (
        (1,),
        "float32",
        False,
        False,
        "sum",
        "w",
    )
