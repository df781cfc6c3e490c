"""Rows, slices and masks of variables of TensorFlow: in place, as TensorFlow's own operations, and sparse gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import address, assert_same, host
from tests.internals import adapter
from tests.variable.test_rows import UFUNCS, start

tf = pytest.importorskip("tensorflow")

WRITES: dict[str, Callable[[sv.Variable], object]] = {
    "add": lambda v: v.at[[1, 0, 1]].add(1.0),
    "subtract, by positions": lambda v: v.at[[1, 0, 1], 1].subtract(1.0),
    "set": lambda v: v.__setitem__(np.array([1, 0, 1]), np.ones((3, 2), "float32")),
    "multiply": lambda v: v.at[tf.constant([1, 0, 1])].multiply(2.0),
    "min": lambda v: v.at[[1, 0, 1]].min(2.0),
    "a mask of few": lambda v: v.__setitem__(tf.range(100) == 7, 3.0),
    "a mask and rows": lambda v: v.at[tf.range(100) == 7].add(np.ones((1, 2), "float32")),
    "a row": lambda v: v.__setitem__(3, 5.0),
    "a slice": lambda v: v.at[2:40].add(1.0),
    "a slice backwards": lambda v: v.__setitem__((slice(None, 3, -2), 1), 8.0),
}


def table(rows: int = 100) -> sv.Variable:
    v = sv.Variable(start((rows, 2)), backend="tensorflow", name="table")
    v.at[[0]].add(0.0)  # TensorFlow has copied an array of NumPy's now, whose memory it does not write
    return v


@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_in_place_and_reads_after_it_share_memory(write: str) -> None:
    v = table()
    before = address(v)
    WRITES[write](v)
    assert address(v) == before
    one, other = np.asarray(v.value), np.asarray(sv.snapshot(v)[v])
    assert one.ctypes.data == other.ctypes.data == before  # no copy-on-read
    kept, expected = v.value, np.array(v.value)
    WRITES[write](v)
    assert_same(kept, expected)
    assert address(v) != before


@pytest.mark.parametrize("write", WRITES)
def test_what_the_user_may_scatter_into_is_not_written_in_place(write: str) -> None:
    """An operation of the user's could write memory that a reader has got after ours has ended copy-on-read."""
    v, model = table(), table()
    WRITES[write](model)
    v.parameter.scatter_add(tf.IndexedSlices(tf.zeros((1, 2)), tf.constant([0])))
    kept, expected = v.value, np.array(v.value)
    WRITES[write](v)
    assert_same(v, model)
    one, other = np.asarray(v.value), np.asarray(v.value)
    assert one.ctypes.data != other.ctypes.data  # each read is a copy, as TensorFlow has it after a scatter
    v.parameter.scatter_add(tf.IndexedSlices(tf.ones((1, 2)), tf.constant([0])))
    assert_same(kept, expected)
    assert_same(one, host(model.value))


@pytest.mark.parametrize("operation", ["set", "add", "subtract", "multiply", "divide", "min", "max"])
def test_many_duplicates_follow_numpy(operation: str) -> None:
    """More than a thousand, which some of TensorFlow's scatters write in parallel, in any order."""
    ids = np.random.default_rng(0).integers(-5, 5, 3000)
    x = np.random.default_rng(1).choice([0.5, 1.0, 2.0], (3000, 2)).astype("float32")
    if operation in ("multiply", "divide"):
        ids, x = ids[:40], x[:40]
    model = start((5, 2))
    v = sv.Variable(model, backend="tensorflow")
    if operation == "set":
        model[ids] = x
    else:
        UFUNCS[operation].at(model, ids, x)
    getattr(v.at[ids], operation)(x)
    assert_same(v, model)


def test_versions_of_tensorflow_without_what_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    module = adapter("tensorflow")
    monkeypatch.setattr(module, "_Eager", None)
    eager = module.rows.eager
    monkeypatch.setattr(eager, "_Eager", None)
    monkeypatch.setattr(eager, "_execute", None)
    for write in WRITES.values():
        v, expected = table(), sv.Variable(start((100, 2)))
        write(v)
        write(expected)
        assert_same(v, expected)
        v.assign(tf.ones((100, 2)))
        assert_same(v, np.ones((100, 2)))


def test_an_error_that_comes_after_the_scatter_does_not_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may raise when the scatter returns: its error was dropped, and the rows were added twice."""
    module = adapter("tensorflow").rows.eager

    def interrupted(*arguments: Any) -> None:
        execute(*arguments)
        if arguments[1].startswith("ResourceScatter"):
            raise TimeoutError("from a signal handler")

    execute = module._execute
    if execute is None:
        pytest.skip("this TensorFlow has no fast path")
    v = sv.Variable(np.zeros((4, 2), "float32"), backend="tensorflow")
    monkeypatch.setattr(module, "_execute", interrupted)
    with pytest.raises(TimeoutError, match="from a signal handler"):
        v.at[np.array([1, 3])].add(np.ones((2, 2), "float32"))
    monkeypatch.undo()
    assert_same(v, [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]])


def test_rows_without_elements() -> None:
    v = sv.Variable(np.zeros((3, 0), "float32"), backend="tensorflow")
    v.at[[0, 2]].add(1.0)
    v[[1, 1]] = np.zeros((2, 0), "float32")
    sv.jit(lambda ids: (v.at[ids].add(1.0).at[ids].set(2.0), None)[1])(tf.constant([0, 1]))
    assert v[[0, 1]].shape == sv.jit(lambda ids: v[ids])(tf.constant([0, 1])).shape == (2, 0)
    assert v.version == 3  # a call of a compiled function counts one


def test_nan_is_kept_by_min_and_max() -> None:
    v = sv.Variable(np.ones((4, 1), "float32"), backend="tensorflow")
    x = np.array([[np.nan], [0.0], [5.0]], "float32")
    v.at[[0, 0, 1]].min(x)
    v.at[[2, 3, 3]].max(x[::-1])
    assert_same(v, [[np.nan], [1.0], [5.0], [np.nan]])


def test_a_graph_that_reads_meanwhile_sees_whole_writes() -> None:
    v = sv.Variable(np.zeros((2000, 8), "float32"), backend="tensorflow")
    ids = np.arange(2000)

    @tf.function  # type: ignore[untyped-decorator]
    def extremes() -> Any:
        value = v.value
        return tf.reduce_min(value), tf.reduce_max(value)

    extremes()
    torn: list[tuple[float, float]] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            low, high = (float(each) for each in extremes())
            if low != high:
                torn.append((low, high))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(200):
            v.at[ids].add(1.0)
    finally:
        ended.set()
        thread.join()
    assert not torn
    assert_same(v, np.full((2000, 8), 200.0))


# -- in compiled functions ---------------------------------------------------------------------------------------


def add_and_set(v: sv.Variable, ids: Any, x: Any) -> Any:
    v.at[ids].add(x)
    v[ids] = x
    return None


def gather_and_add(v: sv.Variable, ids: Any, x: Any) -> Any:
    rows = v[ids]
    v.at[ids].subtract(rows * x)
    return rows


def use_what_is_between(v: sv.Variable, ids: Any, x: Any) -> Any:
    v.at[ids].add(x)
    between = tf.reduce_sum(v.value)
    v.at[ids].multiply(x)
    return between


def return_the_new_value(v: sv.Variable, ids: Any, x: Any) -> Any:
    v.at[ids].max(x)
    return v.value


def known_rows(v: sv.Variable, ids: Any, x: Any) -> Any:
    v.at[[1, -1, 1]].min(x)
    v.at[[1, 0, 1]].power(2.0)
    return None


STEPS = (add_and_set, gather_and_add, use_what_is_between, return_the_new_value, known_rows)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("compiled", [sv.jit, tf.function])
def test_a_compiled_function_writes_the_same_rows(step: Callable[..., Any], compiled: Any) -> None:
    v, model = table(6), sv.Variable(start((6, 2)))
    run = compiled(lambda ids, x: step(v, ids, x))
    for ids in ([3, -1, 3], [0, 1, 2]):
        x = np.array([[2.0], [0.5], [4.0]], "float32") * np.ones(2, "float32")
        kept, expected = v.value, np.array(v.value)
        got = run(tf.constant(ids), tf.constant(x))
        if step is use_what_is_between:
            model.at[ids].add(x)
            between = model.numpy().sum()
            model.at[ids].multiply(x)
            assert float(got) == between
        else:
            wanted = step(model, ids, x)
            if wanted is not None:
                assert_same(got, wanted)
        assert_same(v, model)
        assert_same(kept, expected)
        del kept


IN_PLACE: list[Callable[..., Any]] = [
    gather_and_add,
    lambda v, ids, x: v.__setitem__(ids, x),
    lambda v, ids, x: (v.at[ids].add(x).at[ids].subtract(x), None)[1],
    lambda v, ids, x: (v.at[ids].multiply(x), None)[1],
    lambda v, ids, x: (v.at[[1, -1, 1]].min(x), None)[1],
    lambda v, ids, x: v.__setitem__(ids[0], x[0]),
]


@pytest.mark.parametrize("step", IN_PLACE)
def test_sv_jit_writes_rows_in_place(step: Callable[..., Any]) -> None:
    v = table()
    run = sv.jit(lambda ids, x: step(v, ids, x))
    ids, x = tf.constant([1, 0, 1]), tf.ones((3, 2))
    run(ids, x)
    before = address(v)
    run(ids, x)
    assert address(v) == before
    one, other = np.asarray(v.value), np.asarray(v.value)
    assert one.ctypes.data == other.ctypes.data


def test_sv_jit_does_not_scatter_into_what_the_user_may_scatter_into() -> None:
    v = table()
    run = sv.jit(lambda ids: (v.at[ids].add(1.0), None)[1])
    for number in range(3):
        if number == 1:
            v.parameter.scatter_add(tf.IndexedSlices(tf.zeros((1, 2)), tf.constant([0])))
        run(tf.constant([0, 1]))
        assert v.numpy()[:3, 0].tolist() == [2.0 + number, 4.0 + number, 5.0]
    one, other = np.asarray(v.value), np.asarray(v.value)
    assert one.ctypes.data != other.ctypes.data  # each read is a copy, as TensorFlow has it after a scatter


def test_a_traced_row_out_of_bounds_is_not_written() -> None:
    for operation in ("set", "add", "subtract", "multiply", "min", "max"):
        v, model = table(4), start((4, 2))
        x = np.full((4, 2), -3.0, "float32")
        run = sv.jit(lambda ids, x, v=v, name=operation: (getattr(v.at[ids], name)(x), None)[1])
        run(tf.constant([9, 3, -7, 3]), tf.constant(x))
        if operation == "set":
            model[3] = -3.0
        else:
            UFUNCS[operation].at(model, [3, 3], x[:2])
        assert_same(v, model)
    v = sv.Variable(np.array([-0.0, np.nan], "float32"), backend="tensorflow")
    sv.jit(lambda ids: (v.at[ids].add(1.0).at[ids].subtract(1.0), None)[1])(tf.constant([-5, 5]))
    assert np.signbit(v.numpy()).tolist() == [True, False]


# -- sparse gradients ------------------------------------------------------------------------------------------


def gradient_of_rows(v: sv.Variable, index: Any) -> Any:
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(2.0 * v[index])
    return tape.gradient(loss, v)


@pytest.mark.parametrize("index", [[0, 3, 0], np.array([[0, 3], [4, -1]]), [False, True, True, False, False]])
def test_the_gradient_of_rows_is_sparse_and_is_written_in_place(index: Any) -> None:
    v, model = sv.Variable(start((5, 2)), backend="tensorflow"), start((5, 2))
    gradient = gradient_of_rows(v, index)
    assert isinstance(gradient, tf.IndexedSlices)
    v.at[[0]].add(0.0)
    before = address(v)
    v.assign_sub(gradient)
    np.subtract.at(model, np.array(index), np.float32(2.0))
    assert_same(v, model)
    assert address(v) == before
    v.assign_add(gradient, use_locking=False).assign_add(gradient)
    v -= gradient
    v += gradient
    with sv.transaction(v):
        v.assign_sub(gradient)
    np.add.at(model, np.array(index), np.float32(2.0))
    assert_same(v, model)
    assert v.version == 7
    v.at[...].subtract(gradient)
    v.at[:].max(gradient)
    np.subtract.at(model, np.array(index), np.float32(2.0))
    model[np.array(index)] = np.maximum(model[np.array(index)], 2.0)
    assert_same(v, model)


def test_a_sparse_gradient_in_compiled_functions() -> None:
    v, model = sv.Variable(start((5, 2)), backend="tensorflow"), start((5, 2))
    for compiled in (tf.function, sv.jit):

        @compiled  # type: ignore[untyped-decorator]
        def step(ids: Any) -> None:
            with tf.GradientTape() as tape:
                value = v.value
                tape.watch(value)
                loss = tf.reduce_sum(2.0 * tf.gather(value, ids))
            gradient = tape.gradient(loss, value)
            assert isinstance(gradient, tf.IndexedSlices)
            v.assign_sub(gradient)

        step(tf.constant([1, 1]))
        model[1] -= 4.0
        assert_same(v, model)


def test_a_sparse_value_that_is_no_sum_is_refused() -> None:
    v = sv.Variable(start((5, 2)), backend="tensorflow", name="table")
    gradient = gradient_of_rows(v, [0, 1])
    refused = "got an IndexedSlices, and a variable is dense, at 'table'"
    for write in (
        lambda: v.assign(gradient),
        lambda: v.__imul__(gradient),
        lambda: v.update(lambda value: gradient),
        lambda: v.at[0].add(gradient),
        lambda: v.__setitem__(..., gradient),
    ):
        with pytest.raises(sv.errors.DTypeError, match=refused):
            write()
    with pytest.raises(sv.errors.IndexingError, match="index 7 is out of bounds for axis 0 with size 5"):
        v.assign_add(tf.IndexedSlices(tf.ones((1, 2)), tf.constant([7])))
    with pytest.raises(sv.errors.ShapeError, match=r"at.add: shape \(1, 3\) does not broadcast into"):
        v.assign_add(tf.IndexedSlices(tf.ones((1, 3)), tf.constant([2])))
    assert_same(v, start((5, 2)))
    assert v.version == 0
