"""`sv.deferred`: variables that remember how to make their value."""

from __future__ import annotations

import asyncio
import importlib
import pickle
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests import boxes
from tests.helpers import array_of, assert_same


def constant(shape: Any, dtype: Any) -> Any:
    return np.full(shape, 7, dtype)


#: What makes a variable, given the backend.
WAYS: dict[str, Callable[..., sv.Variable]] = {
    "a name": partial(sv.Variable, "normal", shape=(2, 3), seed=0),
    "a name without numbers": partial(sv.Variable, "zeros", shape=(2, 3), dtype="int32"),
    "a matrix": partial(sv.Variable, "orthogonal", shape=(3, 3), seed=1),
    "a function of ours": partial(sv.Variable, partial(sv.initializers.normal, stddev=2.0, seed=3), shape=(4,)),
    "a function": partial(sv.Variable, constant, shape=(2,), dtype="int32"),
    "a class": partial(sv.Variable, lambda shape: np.ones(shape, "float32"), shape=(2,)),
    "a number": partial(sv.Variable, 5),
    "a bool": partial(sv.Variable, True),
    "a list": partial(sv.Variable, [[1.5, 2.5]]),
    "a NumPy array": partial(sv.Variable, np.arange(4, dtype="int16")),
    "a wide NumPy array": partial(sv.Variable, np.arange(4, dtype="int32"), dtype="float32"),
    "an open shape": partial(sv.Variable, [1.0, 2.0], shape=(None,)),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_value_is_made_later_and_is_the_same(backend: str, way: str) -> None:
    expected = WAYS[way](backend=backend, name="w")
    with sv.deferred():
        v = WAYS[way](backend=backend, name="w")
    assert not v.is_initialized
    assert (v.dtype, v.declared_shape, v.trainable) == (expected.dtype, expected.declared_shape, expected.trainable)
    assert "value=<deferred>" in repr(v)
    sv.materialize(v)
    assert_same(v, expected, dtype=True)
    assert (v.version, v.device) == (0, expected.device)
    sv.materialize(v.assign_add(1) if v.dtype_name != "bool" else v)
    assert repr(v).partition("value=")[0] == repr(expected).partition("value=")[0]


def test_a_read_says_what_to_do(backend: str) -> None:
    with sv.deferred():
        v = sv.Variable("ones", shape=(2,), name="w", backend=backend)
    expected = r"read: the variable was made in sv\.deferred and has no value yet, at 'w'\. Hint: sv\.shard\(model, "
    with pytest.raises(sv.errors.UninitializedError, match=expected):
        _ = v.value
    with pytest.raises(sv.errors.UninitializedError, match=r"assign_add: .*sv\.materialize\(model\)"):
        v.assign_add(1.0)
    with sv.transaction(v), pytest.raises(sv.errors.UninitializedError, match=r"made in sv\.deferred"):
        _ = v.value
    assert_same(v.assign([3.0, 4.0]), [3.0, 4.0])
    sv.materialize(v)  # which leaves what was assigned
    assert_same(v, [3.0, 4.0])


def test_errors_come_when_the_variable_is_made() -> None:
    with sv.deferred():
        with pytest.raises(sv.errors.InitializerError, match="unknown initializer 'nothing'"):
            sv.Variable("nothing", shape=(2,))
        with pytest.raises(sv.errors.ShapeError, match="a shape without open axes"):
            sv.Variable("ones", shape=(None,))
        with pytest.raises(sv.errors.ShapeError, match="does not fit the declared shape"):
            sv.Variable([1.0, 2.0], shape=(3,))
        with pytest.raises(sv.errors.RangeError, match="int8"):
            sv.Variable(300, dtype="int8")
        with pytest.raises(sv.errors.DTypeError, match="floating-point"):
            sv.Variable("normal", shape=(2,), dtype="int32")
        with pytest.raises(sv.errors.InitializerError, match="of which none is named shape"):
            sv.Variable(lambda a, b, c: a, shape=(2,))
        with pytest.raises(sv.errors.InitializerError, match="seed= works only with the name"):
            sv.Variable([1.0], seed=0)


def test_an_array_that_lies_on_a_device_is_stored_at_once(backend: str) -> None:
    with sv.deferred():
        v = sv.Variable(array_of(backend, [1.0, 2.0], "float32"))
    assert v.backend == backend
    assert v.is_initialized == (backend != "numpy")
    sv.materialize(v)
    assert_same(v, [1.0, 2.0])


def test_the_host_value_is_that_of_the_moment() -> None:
    array = np.zeros(2, "float32")
    with sv.deferred():
        v = sv.Variable(array)
    array += 1
    sv.materialize(v)
    assert_same(v, [0.0, 0.0])


def test_a_function_is_called_later_in_the_order_of_creation() -> None:
    called = []

    def make(number: int, shape: Any, dtype: Any) -> Any:
        called.append(number)
        return np.full(shape, number, dtype)

    with sv.deferred():
        model = {"b": sv.Variable(partial(make, 1), shape=(2,)), "a": sv.Variable(partial(make, 2), shape=())}
        at_once = sv.Variable(lambda: 3.0)
    assert (called, at_once.is_initialized) == ([], True)
    sv.materialize([model["a"], model["b"]])
    assert called == [1, 2]
    assert_same(model["b"], [1.0, 1.0])


def test_all_values_are_made_or_none() -> None:
    def fail(shape: Any, dtype: Any) -> Any:
        raise KeyError("no such weights")

    with sv.deferred():
        model = [sv.Variable("ones", shape=(2,)), sv.Variable(fail, shape=(2,)), sv.Variable("ones", shape=(2,))]
    with pytest.raises(KeyError, match="no such weights"):
        sv.materialize(model)
    assert [v.is_initialized for v in model] == [False, False, False]
    model[1].assign([1.0, 2.0])
    sv.materialize(model)
    assert all(v.is_initialized for v in model)


def test_what_is_made_in_an_initializer_has_its_value() -> None:
    def from_another(shape: Any, dtype: Any) -> Any:
        return sv.Variable("ones", shape=shape, dtype=dtype)

    with sv.deferred():
        v = sv.Variable(from_another, shape=(2,))
        sv.materialize(v)
    assert_same(v, [1.0, 1.0])


def test_copies_and_pickles_remember_it_too(backend: str) -> None:
    with sv.deferred():
        model = {
            "drawn": sv.Variable("normal", shape=(2, 2), backend=backend),
            "given": sv.Variable([1, 2], backend=backend),
        }
        whole = sv.Variable("ones", shape=(1,), backend=backend)
        sv.materialize(whole)
        assert deepcopy(whole).is_initialized
    copies = [deepcopy(model), pickle.loads(pickle.dumps(model))]
    sv.materialize([model, *copies])
    for each in copies:
        assert_same(each["drawn"], model["drawn"])  # without a seed, which was chosen when it was made
        assert_same(each["given"].assign_add(1), [2, 3])
    assert_same(model["given"], [1, 2])


def test_a_load_gives_the_value_and_nothing_else_is_made(tmp_path: Path, backend: str) -> None:
    def fail(shape: Any, dtype: Any) -> Any:
        raise AssertionError("it is not asked for")

    sv.save({"w": sv.Variable([1.0, 2.0]), "b": sv.Variable(3.0)}, tmp_path / "model.safetensors")
    with sv.deferred():
        model = {"w": sv.Variable(fail, shape=(2,), backend=backend), "b": sv.Variable("zeros", shape=())}
    assert list(sv.named_variables(model)) == ["w", "b"]
    with pytest.raises(sv.errors.UninitializedError, match=r"save: .*made in sv\.deferred.*, at 'w'"):
        sv.save(model, tmp_path / "other.safetensors")
    sv.load(model, tmp_path / "model.safetensors", only="w", strict=False)
    assert_same(model["w"], [1.0, 2.0])
    sv.materialize(model)
    assert_same(model["b"], 0.0)


def test_the_scope_is_of_one_thread_and_one_task() -> None:
    made = []

    def make() -> None:
        made.append(sv.Variable("ones", shape=(2,)).is_initialized)

    async def tasks() -> None:
        async def deferring() -> None:
            with sv.deferred():
                await asyncio.sleep(0)
                assert not sv.Variable("ones", shape=(2,)).is_initialized

        await asyncio.gather(deferring(), asyncio.to_thread(make))
        make()

    with sv.deferred():
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
    asyncio.run(tasks())
    scope = sv.deferred()
    with scope, scope:
        pass
    make()
    assert made == [True, True, True, True]
    assert not scope(lambda: sv.Variable("ones", shape=()))().is_initialized


def test_a_module_can_be_looked_at() -> None:
    class Dense(sv.Module):
        def __init__(self) -> None:
            self.kernel = sv.Variable("glorot_uniform", shape=(2, 3), name="kernel")

    with sv.deferred():
        model = Dense()
    assert repr(model) == "<Dense: 1 variable, 1 without a value, 0 elements, 0 bytes>"
    assert str(model).splitlines()[-1].split() == ["kernel", "2x3", "float32", "deferred"]
    assert [v.shape for v in model.variables] == [(2, 3)]
    with pytest.raises(TypeError, match="materialize: found no variable in object"):
        sv.materialize(object())


@pytest.fixture
def boxarray() -> Iterator[Any]:
    with boxes.installed():
        yield importlib.import_module("boxarray")


def test_values_are_made_in_their_shards(boxarray: Any) -> None:
    with sv.deferred(), sv.mesh(boxes.mesh()):
        v = sv.Variable("normal", shape=(4, 6), seed=1, backend="boxarray", sharding=("data", "model"))
        w = sv.Variable([[1.0], [2.0]], backend="boxarray")
    assert str(v.sharding) == "Spread(data, model)"
    asked = []
    adapter: Any = type(v._backend)
    real = adapter.from_pieces

    def from_pieces(self: Any, shape: Any, *rest: Any) -> Any:
        asked.append(shape)
        return real(self, shape, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapter, "from_pieces", from_pieces)
        sv.materialize(v)
        w.reshard(("data",), mesh=boxes.mesh())
    assert asked == [(4, 6), (2, 1)]
    assert_same(sv.gather(v), sv.Variable("normal", shape=(4, 6), seed=1))
    assert sv.gather(w).tolist() == [[1.0], [2.0]]
