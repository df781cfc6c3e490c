"""Values that differ by process are combined: `per_replica` in writes, by the aggregation, and `all_reduce`."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.helpers import array_of, array_type, assert_same
from tests.launch import run

START = {
    "torch": """
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
me, count = dist.get_rank(), dist.get_world_size()
make = torch.tensor
mesh = dist.device_mesh.init_device_mesh("cpu", (2,), mesh_dim_names=("data",))
""",
    "jax": """
import os, jax, jax.numpy as jnp
jax.distributed.initialize(
    os.environ["JAX_COORDINATOR_ADDRESS"], int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"])
)
me, count = jax.process_index(), jax.process_count()
make = jnp.asarray
mesh = jax.make_mesh((2,), ("data",))
""",
}

PROGRAM = """
import json
import numpy as np
import statevar as sv

answer = {}

def refused(name, step):
    try:
        step()
    except Exception as error:
        answer[name] = f"{type(error).__name__}: {error}"
    else:
        answer[name] = "no error"

for backend in (LIBRARY, "numpy"):
    for aggregation in ("mean", "sum", "only_first_replica"):
        found = []
        for x in (me + 1.0, [me + 1.0, 2.0], np.array([me + 1.0, 2.0], "float32"), make([me + 1.0, 2.0])):
            v = sv.Variable([1.0, 1.0], backend=backend, aggregation=aggregation, name="v")
            whole = x if not isinstance(x, float) else [x, 2.0]
            v.assign(sv.per_replica(whole))
            found.append(v.numpy().tolist())
            v.assign_add(sv.per_replica(x)).assign_sub(sv.per_replica(x))
            found.append(v.numpy().tolist())
            v[0] = sv.per_replica(me + 1.0)
            v *= sv.per_replica(whole)
            with sv.transaction():
                v.assign_add(sv.per_replica(whole))
            found.append(v.numpy().tolist())
            assert v.version == 6
        answer[f"{backend} {aggregation}"] = found
    none = sv.Variable([1.0, 1.0], backend=backend, aggregation="none", name="none")
    refused(f"{backend} none", lambda: none.assign(sv.per_replica([1.0, 2.0])))
    step = sv.Variable(0, backend=backend, name="step")
    refused(f"{backend} int", lambda: step.assign_add(sv.per_replica(1)))
    step = sv.Variable(0, backend=backend, name="step", aggregation="sum")
    answer[f"{backend} step"] = int(step.assign_add(sv.per_replica(me + 1)))
    several = sv.Variable([0.0, 0.0], backend=backend).assign(sv.per_replica(np.array([[me, 1.0], [3.0, 5.0]]), axis=0))
    answer[f"{backend} axis"] = several.numpy().tolist()

class Model(sv.Module):
    def __init__(self):
        self.w = sv.Variable([me + 1.0, 1.0], backend=LIBRARY)
        self.b = sv.Variable(me + 3.0, backend=LIBRARY)

model = Model()
tree = {
    "library": [make([me + 1.0, 4.0]), (make([[me + 1]]), None)],
    "host": np.array([me, 7], "float32"),
    "flag": np.array([me == 0, True]),
    "numbers": {"loss": 0.5 + me, "count": me + 1},
    "model": [model.w, model.b],
}
plain = lambda each: each.tolist() if hasattr(each, "tolist") else each
def listed(tree):
    if isinstance(tree, dict): return {key: listed(each) for key, each in tree.items()}
    if isinstance(tree, list | tuple): return [listed(each) for each in tree]
    return plain(tree)
for reduction in ("min", "max"):
    answer[reduction] = listed(sv.all_reduce(tree, reduction))
total = sv.all_reduce({key: each for key, each in tree.items() if key != "flag"}, "sum")
answer["sum"] = listed(total)
first, second = total["library"]
answer["types"] = [type(first) is type(make([1.0])), str(second[0].dtype), type(total["host"]).__name__]
answer["mean"] = listed(sv.all_reduce(make([me + 1.0, 2.0])))
gradients = sv.grad(lambda: (model.w.value * (me + 1.0)).sum() + model.b.value * 2.0, [model.w, model.b])()
answer["gradients"] = listed(sv.all_reduce(gradients))
refused("int", lambda: sv.all_reduce(np.array(1)))
refused("bool", lambda: sv.all_reduce(np.array(True), "sum"))
refused("shapes", lambda: sv.all_reduce([make([1.0] * (me + 1))]))
refused("dtypes", lambda: sv.all_reduce(np.ones(2, "float32" if me else "float16"), "sum"))
refused("keys", lambda: sv.all_reduce({"a" if me else "b": 1.0}))
refused("writes", lambda: model.w.assign(sv.per_replica([1.0, 2.0])) if me else model.b.assign(sv.per_replica(1.0)))
assert model.w.version == model.b.version == 0
for name, axes in (("replicated", ()), ("rows", ("data",))):
    for aggregation in ("mean", "sum", "only_first_replica"):
        v = sv.Variable(np.zeros(4, "float32"), backend=LIBRARY, sharding=axes, mesh=mesh, aggregation=aggregation)
        kept = str(v.sharding)
        v.assign(sv.per_replica(np.array([me + 1.0, 2.0, 3.0, 4.0])))
        v.assign_add(sv.per_replica(make([me + 1.0, 0.0, 0.0, 0.0])))
        v[1] = sv.per_replica(me + 1.0)
        assert str(v.sharding) == kept
        answer[f"{name} {aggregation}"] = sv.gather(v).tolist()
    sv.check_replicas(v)
refused("spread", lambda: sv.all_reduce(v.value))
def traced():
    return model.w.assign_add(sv.per_replica(np.ones(2, "float32"))).value
refused("traced", lambda: sv.jit(traced)())
answer["last"] = listed(sv.all_reduce(make([1.0]), "sum"))
print("answer", json.dumps(answer), flush=True)
if LIBRARY == "torch":
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.parametrize("library", START)
def test_two_processes_combine_their_values(library: str) -> None:
    sv.Variable(0.0, backend=library)  # it is installed
    program = f"LIBRARY = {library!r}\n{START[library]}{PROGRAM}"
    for printed in run(["-c", program], 2, library=library):
        answer: dict[str, Any] = json.loads(printed.partition("answer ")[2])
        for backend in (library, "numpy"):
            for aggregation, x, two in (("mean", 1.5, 2.0), ("sum", 3.0, 4.0), ("only_first_replica", 1.0, 2.0)):
                each = [[x, two], [x, two], [x * x + x, two * two + two]]
                assert answer[f"{backend} {aggregation}"] == each * 4
            assert "at 'none'. Hint: you must specify an aggregation" in answer[f"{backend} none"]
            assert "DTypeError: assign_add: the mean of int32 values of several replicas" in answer[f"{backend} int"]
            assert (answer[f"{backend} step"], answer[f"{backend} axis"]) == (3, [1.75, 3.0])
        assert answer["min"] == {
            "library": [[1.0, 4.0], [[[1]], None]],
            "host": [0.0, 7.0],
            "flag": [False, True],
            "numbers": {"loss": 0.5, "count": 1},
            "model": [[1.0, 1.0], 3.0],
        }
        assert answer["max"] == {
            "library": [[2.0, 4.0], [[[2]], None]],
            "host": [1.0, 7.0],
            "flag": [True, True],
            "numbers": {"loss": 1.5, "count": 2},
            "model": [[2.0, 1.0], 4.0],
        }
        assert answer["sum"] == {
            "library": [[3.0, 8.0], [[[3]], None]],
            "host": [1.0, 14.0],
            "numbers": {"loss": 2.0, "count": 3},
            "model": [[3.0, 2.0], 7.0],
        }
        assert answer["types"] == [True, "torch.int64" if library == "torch" else "int32", "ndarray"]
        assert answer["mean"] == [1.5, 2.0]
        assert answer["gradients"] == [[1.5, 1.5], 2.0]
        assert "DTypeError: all_reduce: the mean of int64 values is no int64" in answer["int"]
        assert "DTypeError: all_reduce: bool values have no sum" in answer["bool"]
        for name in ("shapes", "dtypes", "keys", "writes"):
            assert "ReplicaError" in answer[name]
            assert "the processes gave different values to combine; this one gave 1:" in answer[name]
        assert "TraceError: assign_add: values of several replicas cannot be combined" in answer["traced"]
        for name in ("replicated", "rows"):
            for aggregation, x, two in (("mean", 1.5, 2.0), ("sum", 3.0, 4.0), ("only_first_replica", 1.0, 2.0)):
                assert answer[f"{name} {aggregation}"] == [2 * x, x, 1.5 * two, 2 * two]
        assert "NotAddressableError: all_reduce: got a" in answer["spread"]
        assert answer["last"] == [2.0]


def test_one_process_stores_the_value_itself(backend: str) -> None:
    x = array_of(backend, [1.0, 2.0], "float32")
    for aggregation in ("mean", "sum", "only_first_replica"):
        v = sv.Variable([0.0, 0.0], backend=backend, aggregation=aggregation)
        assert_same(v.assign(sv.per_replica(x)), x)
        assert_same(v.assign_add(sv.per_replica([1.0, 1.0])), [2.0, 3.0])
        v[1] = sv.per_replica(5)
        v -= sv.per_replica(sv.Variable([1.0, 1.0]))
        assert_same(v, [1.0, 4.0])
        assert v.version == 4
        with pytest.raises(sv.errors.ShapeError):
            v.assign(sv.per_replica([1.0]))
        with pytest.raises(sv.errors.DTypeError):
            v.assign(sv.per_replica([1j, 2j]))
        assert_same(v, [1.0, 4.0])
    for aggregation, expected in (("mean", [2.0, 4.0]), ("sum", [4.0, 8.0]), ("only_first_replica", [1.0, 3.0])):
        v = sv.Variable([0.0, 0.0], backend=backend, aggregation=aggregation)  # type: ignore[arg-type]
        both = array_of(backend, [[1.0, 3.0], [3.0, 5.0]], "float32")
        assert_same(v.assign(sv.per_replica(both, axis=0)), expected)
        assert_same(v.assign(sv.per_replica(both.T if backend != "tensorflow" else both, axis=-1)), v.numpy())
        with pytest.raises(sv.errors.ReplicaError, match="axis 2 is out of bounds for a value of shape"):
            v.assign(sv.per_replica(both, axis=2))


def test_what_cannot_be_combined(backend: str) -> None:
    v = sv.Variable([0.0], backend=backend, aggregation="none", name="v")
    with pytest.raises(
        sv.errors.ReplicaError,
        match="^assign: the value differs by replica, and the variable has the aggregation 'none', at 'v'. Hint: you",
    ):
        v.assign(sv.per_replica([1.0]))
    assert sv.Variable(1, backend=backend).assign_add(1).numpy() == 2  # the mean is refused where it is asked for
    count = sv.Variable([1], backend=backend, name="n")
    for write in (lambda: count.assign(sv.per_replica([1])), lambda: count.__setitem__(0, sv.per_replica(1))):
        with pytest.raises(sv.errors.DTypeError, match="the mean of int32 values of several replicas is no int32, at"):
            write()
    flag = sv.Variable([True], backend=backend, aggregation="sum")
    with pytest.raises(sv.errors.DTypeError, match="bool values have no sum"):
        flag.assign(sv.per_replica([True]))
    with pytest.raises(sv.errors.ReplicaError, match="is no first value"):
        sv.Variable(sv.per_replica([1.0]), backend=backend)
    assert repr(sv.per_replica(3.0)) == "sv.per_replica(3.0)"
    assert repr(sv.per_replica(3.0, axis=0)) == "sv.per_replica(3.0, axis=0)"
    w = sv.Variable([1.0], backend=backend)
    assert_same(w.assign_add(sv.per_replica(sv.per_replica([1.0]))), [2.0])
    with pytest.raises(sv.errors.TraceError, match="traced or differentiated"):
        sv.grad(lambda: w.assign(sv.per_replica([1.0])).value.sum(), w)()


def test_all_reduce_of_one_process_keeps_the_tree(backend: str) -> None:
    class Pair(NamedTuple):
        x: Any
        y: Any

    v = sv.Variable([1.0, 2.0], backend=backend)
    tree = {"v": v, "pair": Pair(array_of(backend, [1.0], "float32"), [2.5, None]), "n": 3, "z": 1j}
    for reduction in ("sum", "min", "max"):
        if reduction == "sum":
            found = sv.all_reduce(tree, "sum")
            assert found["z"] == 1j
        else:
            found = sv.all_reduce({key: each for key, each in tree.items() if key != "z"}, reduction)
        assert isinstance(found["v"], array_type(backend))
        assert_same(found["v"], [1.0, 2.0])
        assert type(found["pair"]) is Pair
        assert (found["pair"].y, found["n"], type(found["n"])) == ([2.5, None], 3, int)
    assert sv.all_reduce([], "mean") == []


def test_what_all_reduce_refuses(backend: str) -> None:
    for value, reduction, error, text in (
        ([1, 2], "mean", sv.errors.DTypeError, "the mean of int64 values is no int64. Hint: use 'sum'"),
        (array_of(backend, [True]), "sum", sv.errors.DTypeError, "bool values have no sum"),
        (array_of(backend, [1j], "complex64"), "min", sv.errors.DTypeError, "complex numbers have no order"),
        ({"a": "text"}, "sum", TypeError, "all_reduce: got str, which is no array. Hint: pass arrays"),
        (sv.Module(), "sum", TypeError, "got Module, which is no array"),
        (1.0, "average", ValueError, "expected one of mean, sum, min, max, got 'average'"),
    ):
        with pytest.raises(error, match=text):
            sv.all_reduce(value, reduction)  # type: ignore[arg-type]


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
dtypes = st.sampled_from(["float32", "float64", "int32", "uint8", "bool", "complex64", "float16"])


@given(st.lists(st.tuples(shapes, dtypes), max_size=6), st.sampled_from(["sum", "max"]))
@settings(max_examples=30, deadline=None)
def test_buckets_give_back_each_array(facts: list[tuple[tuple[int, ...], str]], reduction: str) -> None:
    """Over an engine of NumPy that combines with two times the same, as if another process had the same values."""
    from tests.internals import collectives, get_backend

    calls: list[str] = []

    class Two(type(get_backend("numpy"))):  # type: ignore[misc]
        def processes(self) -> int:
            return 2

        def all_reduce(self, arrays: Any, reduction: str) -> list[Any]:
            assert len({each.dtype for each in arrays}) == 1
            calls.append(arrays[0].dtype.name)
            flat = np.concatenate([each.reshape(-1) for each in arrays])
            flat = flat + flat if reduction == "sum" else flat
            parts = np.split(flat, np.cumsum([each.size for each in arrays])[:-1])
            return [part.reshape(each.shape) for part, each in zip(parts, arrays, strict=True)]

    engine = Two()
    arrays = [np.arange(int(np.prod(shape))).reshape(shape).astype(dtype) for shape, dtype in facts]
    arrays = [each for each in arrays if reduction == "max" or each.dtype != bool]
    leaves = [collectives.Leaf(engine, each, each.dtype.name) for each in arrays]
    results = collectives.reduced(leaves, reduction, "all_reduce")
    for before, got in zip(arrays, results, strict=True):
        assert (got.shape, got.dtype) == (before.shape, before.dtype)
        assert (got == (before + before if reduction == "sum" else before)).all()
    assert len(calls) == len({each.dtype for each in arrays}) + bool(arrays)  # and one for the digest


SHARDS = """
import numpy as np, jax, jax.numpy as jnp, statevar as sv
from jax.sharding import PartitionSpec as P
mesh = jax.make_mesh((4,), ("data",))
x = jax.device_put(jnp.arange(8.0), jax.sharding.NamedSharding(mesh, P("data")))
def body(x):
    found = sv.all_reduce({"x": x, "n": [x * 2]}, "mean")
    return found["x"], found["n"][0], sv.all_reduce(x, "sum"), sv.all_reduce(x, "max")
step = jax.jit(jax.shard_map(body, mesh=mesh, in_specs=P("data"), out_specs=P()))
for got, expected in zip(step(x), ([3.0, 4.0], [6.0, 8.0], [12.0, 16.0], [6.0, 7.0])):
    assert got.tolist() == expected, (got, expected)
text = step.lower(x).compile().as_text()
assert text.count(" all-reduce(") + text.count(" all-reduce-start(") <= 3, text
assert jax.jit(lambda x: sv.all_reduce(x, "sum"))(x).tolist() == x.tolist()  # one process
per_device = jax.device_put(jnp.arange(8.0).reshape(4, 2), jax.sharding.NamedSharding(mesh, P("data")))
for aggregation, expected in (("mean", [3.0, 4.0]), ("sum", [12.0, 16.0]), ("only_first_replica", [0.0, 1.0])):
    v = sv.Variable(np.zeros(2, "float32"), backend="jax", aggregation=aggregation)
    assert v.assign(sv.per_replica(per_device, axis=0)).numpy().tolist() == expected
"""


def test_shards_and_devices_of_jax() -> None:
    sv.Variable(0.0, backend="jax")  # it is installed
    run(["-c", SHARDS], 1, library="jax", devices=4)
