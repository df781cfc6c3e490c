"""A shared variable does what any variable does, and everything that one owner does is seen by all the others.

Two variables over one record stand for two processes where nothing but their order matters: each has its own claims,
and the kernel keeps them apart as it keeps processes apart.
"""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar import errors

from ..helpers import array_type, assert_same, host, until
from ..threads import in_threads, repeat


@pytest.fixture
def pool(shm: Path) -> str:
    """The name of a pool that does not exist yet."""
    return "run7"


def pair(pool: str, value: Any, backend: str) -> tuple[sv.Variable, sv.Variable]:
    """Two variables over one record."""
    first = sv.Variable(value, name="w", shared=f"{pool}/w", backend=backend)
    return first, sv.Variable(np.zeros_like(value), name="other", shared=f"{pool}/w", backend=backend)


def test_every_write_is_seen_by_the_others(pool: str, backend: str) -> None:
    v, other = pair(pool, np.arange(6, dtype=np.float32).reshape(2, 3), backend)
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert isinstance(other.value, array_type(backend))
    assert_same(other.value, expected)
    writes: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
        (lambda w: w.assign(np.full((2, 3), 4.0)), lambda _: np.full((2, 3), 4.0)),
        (lambda w: w.assign_add(2.0), lambda a: a + 2),
        (lambda w: w.assign_sub([[1.0, 2.0, 3.0]]), lambda a: a - [1, 2, 3]),
        (lambda w: w.__imul__(3.0), lambda a: a * 3),
        (lambda w: w.__itruediv__(2.0), lambda a: a / 2),
        (lambda w: w.at[[0, 0, 1]].add(1.0), lambda a: a + np.array([[2], [1]])),
        (lambda w: w.at[0, ::-1].set([7.0, 8.0, 9.0]), lambda a: np.stack([[9, 8, 7], a[1]])),
        (lambda w: w.at[host(w) > 8].multiply(0.5), lambda a: np.where(a > 8, a / 2, a)),
        (lambda w: w.update(lambda a: a * a), lambda a: a * a),
    ]
    expected = expected.copy()
    for i, (write, what) in enumerate(writes):
        writer, reader = (v, other) if i % 2 else (other, v)
        expected = np.asarray(what(host(reader)), np.float32)
        write(writer)
        assert_same(reader.value, expected)
        assert reader.version == writer.version == i + 1
    with v.edit() as array:
        array[1] = -1
    expected[1] = -1
    assert_same(other.value, expected)


def test_what_was_read_does_not_change(pool: str, backend: str) -> None:
    for size in (4, 100_000):  # values that are copied, and those that are leased
        v = sv.Variable(np.zeros(size, np.float32), shared=f"{pool}/w{size}", backend=backend)
        held = [v.value]
        for _ in range(7):
            v.assign_add(1.0)
            held.append(v.value)
            for number, each in enumerate(held):
                assert host(each).min() == host(each).max() == number


def test_a_thread_that_reads_never_waits_for_one_that_holds(pool: str) -> None:
    v, other = pair(pool, np.zeros(3, np.float32), "numpy")
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        def fn(a: Any) -> Any:
            inside.set()
            assert leave.wait(20)
            return a + 1

        v.update(fn)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(20)
    assert_same(v.value, np.zeros(3, np.float32))
    assert_same(other.value, np.zeros(3, np.float32))
    assert sv.snapshot(v, other).versions
    leave.set()
    thread.join(20)
    assert_same(other.value, np.ones(3, np.float32))


def test_no_write_is_lost_between_owners(pool: str, backend: str) -> None:
    v, other = pair(pool, np.zeros(3, np.float32), backend)
    n = 100
    in_threads(*[repeat(n, partial(each.assign_add, 1.0)) for each in (v, other, v, other)])
    assert_same(v.value, np.full(3, 4 * n, np.float32))
    assert v.version == other.version == 4 * n


def test_transactions_commit_all_or_nothing(pool: str, backend: str) -> None:
    model = {"a": sv.Variable(1.0, backend=backend), "b": sv.Variable([1, 2], backend=backend)}
    assert sv.share(model, pool) == {"a": f"{pool}/a", "b": f"{pool}/b"}
    twin = {"a": sv.Variable(0.0, backend=backend), "b": sv.Variable([0, 0], backend=backend)}
    assert sv.attach(twin, pool) == {"a": f"{pool}/a", "b": f"{pool}/b"}
    private = sv.Variable(0, backend=backend)
    with sv.transaction(model, private):
        model["a"].assign(5.0)
        model["b"] += 1
        private += 1
        assert_same(model["a"].value, np.float32(5))
        in_threads(lambda: assert_same(twin["a"].value, np.float32(1)))
    assert_same(twin["a"].value, np.float32(5))
    assert_same(twin["b"].value, np.array([2, 3], np.int32))
    with pytest.raises(ZeroDivisionError), sv.transaction(model, private):
        model["a"].assign(7.0)
        private += 1
        1 / 0  # noqa: B018  # fails half-way
    assert_same(twin["a"].value, np.float32(5))
    assert int(private) == 1
    before = sv.snapshot(twin)
    with sv.rollback(model):
        model["b"] *= 10
    assert_same(twin["b"].value, before["b"])
    model["b"] *= 10
    sv.restore(before)
    assert_same(model["b"].value, np.array([2, 3], np.int32))


def test_a_transaction_in_a_transaction(pool: str) -> None:
    v = sv.Variable(np.zeros(40_000), shared=f"{pool}/v")
    with sv.transaction(v):
        v[3] = 1.0
        with pytest.raises(KeyError), sv.transaction(v):
            v[4] = 2.0
            raise KeyError
        with sv.transaction():
            v[5] = 3.0
        assert v.version == 2
    assert [float(v.value[i]) for i in (3, 4, 5)] == [1, 0, 3]


def test_a_variable_that_is_only_read_is_compared(pool: str) -> None:
    model = {"a": sv.Variable(1.0), "b": sv.Variable(1.0)}
    sv.share(model, pool)
    twin = sv.Variable(0.0, shared=f"{pool}/a")
    late = pytest.raises(errors.ConflictError, match="wrote the variable after this transaction had read it")
    with late, sv.transaction(model["b"]):
        model["b"].assign(float(model["a"]) + 1)
        in_threads(lambda: twin.assign(5.0))
    assert float(model["b"]) == 1


def test_snapshots_are_of_one_moment(pool: str) -> None:
    model = {"a": sv.Variable(np.zeros(3)), "b": sv.Variable(np.zeros(20_000))}
    sv.share(model, pool)
    twin = {"a": sv.Variable(np.zeros(3)), "b": sv.Variable(np.zeros(20_000))}
    sv.attach(twin, pool)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            with sv.transaction(twin):
                twin["a"] += 1.0
                twin["b"] += 1.0

    def read() -> None:
        try:
            for _ in range(100):
                cut = sv.snapshot(model)
                assert cut["a"].min() == cut["b"].min() == cut["b"].max()
        finally:
            stop.set()

    in_threads(write, read)


def test_wait_and_subscribe_hear_of_the_others(pool: str) -> None:
    v, other = pair(pool, np.zeros((), np.int32), "numpy")
    assert not v.wait(1, timeout=0.01)
    got: list[int] = []
    with v.subscribe(lambda _, version: got.append(version)):
        other.assign(1)
        assert v.wait(1, timeout=10)
        until(lambda: got == [1])
        v.assign(2)
        assert got == [1, 2]
        other.assign(3)
        v.assign(4)
        assert got == [1, 2, 3, 4]
    other.assign(5)
    assert got == [1, 2, 3, 4]


def test_subscribers_are_told_of_a_transaction_once(pool: str) -> None:
    v, other = pair(pool, np.zeros((), np.int32), "numpy")
    got: list[int] = []
    with v.subscribe(lambda _, version: got.append(version)):
        with sv.transaction(v):
            v += 1
            v += 1
        assert got == [2]
        other.assign(7)
        v += 1
        assert got == [2, 3, 4]


def test_subscribers_from_before_hear_of_the_others_too(pool: str) -> None:
    v = sv.Variable(0)
    got: list[int] = []
    v.subscribe(lambda _, version: got.append(version))
    sv.share([v], pool)
    twin = sv.Variable(0, shared=f"{pool}/0")
    twin.assign(5)
    until(lambda: got == [1])


def test_pickles_attach_and_copies_do_not(pool: str, backend: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", shared=f"{pool}/w", backend=backend, trainable=False)
    data = pickle.dumps(v)
    assert len(data) <= 200
    loaded = pickle.loads(data)
    assert (loaded.shared, loaded.name, loaded.trainable, loaded.backend) == (f"{pool}/w", "w", False, backend)
    loaded.assign_add(1.0)
    assert_same(v.value, np.array([2, 3], np.float32))
    copied = copy.deepcopy(v)
    assert copied.shared is None
    copied.assign_add(1.0)
    assert_same(v.value, np.array([2, 3], np.float32))
    assert_same(sv.Variable(v).assign_add(1.0).value, np.array([3, 4], np.float32))


def test_a_snapshot_in_a_pickle_finds_the_variable_over_the_record(pool: str) -> None:
    v = sv.Variable([1.0, 2.0], name="w", shared=f"{pool}/w")
    before = sv.snapshot(v)
    v.assign([8.0, 9.0])
    loaded, cut = pickle.loads(pickle.dumps((v, before)))
    sv.restore(cut)
    assert_same(loaded.value, np.array([1, 2], np.float32))
    assert_same(v.value, np.array([1, 2], np.float32))


def test_new_variables_may_be_shared_in_a_transaction(pool: str) -> None:
    v = sv.Variable(1.0, shared=f"{pool}/v")
    with pytest.raises(KeyError), sv.transaction(v):
        v += 1.0
        w = sv.Variable(5.0, shared=f"{pool}/w")
        again = pickle.loads(pickle.dumps(v))
        raise KeyError
    assert (float(v), float(w), float(again)) == (1, 5, 1)


def test_threads_that_attach_at_once_have_records_of_their_own(pool: str) -> None:
    for number in range(5):
        made: list[sv.Variable] = []
        name = f"{pool}/w{number}"
        in_threads(*[lambda name=name, made=made: made.append(sv.Variable(0, shared=name)) for _ in range(6)])
        in_threads(*[repeat(50, partial(each.assign_add, 1)) for each in made])
        assert {int(each) for each in made} == {300}


def test_a_pool_without_a_name_is_attached_by_a_pickle(backend: str) -> None:
    model = {"a": sv.Variable([1.0, 2.0], backend=backend)}
    sv.share(model)
    loaded = pickle.loads(pickle.dumps(model))
    loaded["a"] += 1.0
    assert_same(model["a"].value, np.array([2, 3], np.float32))


def test_save_and_load(pool: str, backend: str, tmp_path: Any) -> None:
    v, other = pair(pool, np.arange(4, dtype=np.float32), backend)
    sv.save({"w": v}, tmp_path / "w.safetensors")
    v.assign([9.0, 9.0, 9.0, 9.0])
    sv.load({"w": other}, tmp_path / "w.safetensors")
    assert_same(v.value, np.arange(4, dtype=np.float32))
    manager = sv.CheckpointManager(tmp_path / "steps", {"w": v})
    manager.save(1)
    other.assign_add(1.0)
    manager.save(2)
    manager.restore(step=1)
    assert_same(other.value, np.arange(4, dtype=np.float32))
    manager.restore(step=2)
    assert_same(other.value, np.arange(1, 5, dtype=np.float32))


def test_a_manager_writes_a_variable_that_has_attached_anew(pool: str, tmp_path: Any) -> None:
    sv.Variable(7, shared=f"{pool}/w")
    model = {"w": sv.Variable(3)}
    manager = sv.CheckpointManager(tmp_path, model)
    manager.save(1)
    sv.attach(model, pool)  # with the same version, and another value
    manager.save(2)
    model["w"].assign(0)
    manager.restore(step=2)
    assert int(model["w"]) == 7


def test_gradients(pool: str, backend: str) -> None:
    v, _ = pair(pool, np.float32(3.0), backend)
    value, (gradient,) = sv.value_and_grad(lambda: v * v, [v])()
    assert float(host(value)) == 9
    assert float(host(gradient)) == 6


def test_asyncio(pool: str) -> None:
    v, other = pair(pool, np.zeros(()), "numpy")

    async def add(each: sv.Variable) -> None:
        for _ in range(20):
            async with sv.transaction(each):
                each += 1
                await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(add(v), add(other), add(v))

    asyncio.run(main())
    assert float(v) == 60


def test_mistakes_say_what_to_do(pool: str) -> None:
    v = sv.Variable(np.zeros(3, np.float32), name="w", shared=f"{pool}/w")
    with pytest.raises(errors.ShapeError) as error:
        sv.Variable(np.zeros(4, np.float32), name="v", shared=f"{pool}/w")
    assert str(error.value) == (
        "Variable: the pool has shape (3,) and dtype float32, and the variable has shape (4,) and dtype float32: "
        f"'{pool}/w', at 'v'. Hint: use another name, or the same shape and dtype."
    )
    with pytest.raises(errors.DTypeError, match="and dtype float32, and the variable has shape .* and dtype float64"):
        sv.Variable(np.zeros(3), shared=f"{pool}/w")
    with pytest.raises(ValueError, match="shared='run7' does not name a pool and a variable in it"):
        sv.Variable(0, shared="run7")
    with pytest.raises(errors.UninitializedError, match="has no value to make it with"):
        sv.Variable(shape=(3,), shared=f"{pool}-absent/w")
    with pytest.raises(errors.ConflictError, match="is shared already"):
        sv.share(v)
    with pytest.raises(errors.StorageError, match="there is a pool .* already.*exist_ok=True"):
        sv.share([sv.Variable(0)], pool)
    with pytest.raises(errors.CheckpointNotFoundError):
        sv.attach([sv.Variable(0)], f"{pool}-absent")
    with pytest.raises(errors.CheckpointMismatchError) as mismatch:
        sv.attach({"w": sv.Variable(0), "x": sv.Variable(0)}, pool)
    assert "mismatched  w: the pool has shape (3,) and dtype float32" in str(mismatch.value)
    assert "missing     x" in str(mismatch.value)
    with pytest.raises(errors.ShapeError, match="expected shape .* of a shared variable"):
        v.assign([1.0, 2.0], validate_shape=False)
    with pytest.raises(errors.DeviceError, match="in the memory that processes share"):
        v.to("CPU:0")
    with pytest.raises(AttributeError, match="a shared variable has no parameter"):
        _ = v.parameter
    with pytest.raises(errors.ConflictError, match="cannot move inside of a transaction"), sv.transaction():
        sv.share([sv.Variable(0)])
    with pytest.raises(errors.SharedError, match="the variable is not shared"):
        sv.Variable(0).sync()
    assert_same(v.value, np.zeros(3, np.float32))


def test_two_pools_do_not_change_in_one_step(pool: str) -> None:
    a, b = sv.Variable(0, shared=f"{pool}/a"), sv.Variable(0)
    sv.share([b])
    several = pytest.raises(errors.ConflictError, match="variables of two pools, .* share the variables in one pool")
    with several, sv.transaction(a, b):
        a += 1
        b += 1
    assert (int(a), int(b), a.version) == (0, 0, 0)


def test_attach_takes_a_part_under_other_names(pool: str) -> None:
    sv.share({"encoder": {"w": sv.Variable(1.0), "b": sv.Variable(2.0)}, "steps": sv.Variable(3)}, pool)
    mine = {"enc": {"w": sv.Variable(0.0), "b": sv.Variable(0.0)}}
    assert sv.attach(mine, pool, rename={"encoder": "enc"}, only="enc/*") == {
        "enc/w": f"{pool}/encoder/w",
        "enc/b": f"{pool}/encoder/b",
    }
    assert float(mine["enc"]["b"]) == 2
    steps = sv.Variable(0)
    assert sv.attach({"steps": steps, "more": sv.Variable(0)}, pool, strict=False) == {"steps": f"{pool}/steps"}
    assert int(steps) == 3


def test_share_or_attach(pool: str) -> None:
    first, second = {"w": sv.Variable(1.0)}, {"w": sv.Variable(2.0)}
    sv.share(first, pool, exist_ok=True)
    sv.share(second, pool, exist_ok=True)
    assert float(second["w"]) == 1


def test_an_error_names_the_library_that_traces(pool: str) -> None:
    jax = pytest.importorskip("jax")
    pytest.importorskip("torch")  # once it is loaded, it could be torch that traces
    v, _ = pair(pool, np.zeros(2, np.float32), "jax")
    with pytest.raises(errors.TraceError, match="jax is tracing this code"):
        jax.jit(lambda x: x + v.value)(1.0)
