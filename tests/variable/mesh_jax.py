"""A program for `test_sharding_jax`: variables over the 8 virtual devices of one process. It prints what failed.

It runs in a process of its own, since the number of devices is settled when JAX is imported.
"""

from __future__ import annotations

import copy
import gc
import json
import operator
import pickle
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import statevar as sv
from tests.internals import engine
from tests.variable import mesh_views_jax
from tests.variable.mesh_cases import AT, WRITES, Program, refused, several

CASES: dict[str, Callable[[], object]] = dict(mesh_views_jax.CASES)
P: Any = PartitionSpec
TABLE = (np.arange(96, dtype="float32") / 7).reshape(8, 12) + 1


def case(function: Callable[[], object]) -> Callable[[], object]:
    CASES[function.__name__] = function
    return function


MESHES = {
    kind.name: jax.make_mesh((2, 4), ("data", "model"), axis_types=(kind,) * 2)
    for kind in (AxisType.Auto, AxisType.Explicit)
}
MESH = MESHES["Explicit"]  # as `jax.make_mesh` makes it
EACH_MESH = list(MESHES.values())


def made(value: Any = TABLE, sharding: Any = (None, "model"), mesh: Any = MESH, **options: Any) -> Any:
    return sv.Variable(value, backend="jax", sharding=sharding, mesh=mesh, **options)


def spread(mesh: Any, *axes: Any) -> Any:
    return NamedSharding(mesh, P(*axes))


def pointers(v: Any) -> list[int]:
    """Where the shards lie. It does not read the variable, which would mark the value as handed out."""
    return [shard.data.unsafe_buffer_pointer() for shard in v._handle.present.addressable_shards]


def check(v: Any, expected: Any, sharding: Any, what: object) -> None:
    assert v.sharding == sharding, (what, v.sharding)
    assert v.value.sharding == sharding, (what, v.value.sharding)
    np.testing.assert_allclose(np.asarray(v.value), expected, rtol=2e-6, atol=1e-6, err_msg=str(what))


def on_numpy(program: Program) -> tuple[Any, int]:
    v = sv.Variable(TABLE, backend="numpy")
    program(v)
    return v.numpy(), v.version


# -- every write -------------------------------------------------------------------------------------------------------


@case
def every_write_keeps_the_sharding() -> None:
    for name, program in WRITES.items():
        expected, version = on_numpy(program)
        v = made(sharding=("data", "model"))
        program(v)
        check(v, expected, spread(MESH, "data", "model"), name)
        assert v.version == version, (name, v.version, version)


@case
def every_write_leaves_snapshots_as_they_are() -> None:
    mesh = MESHES["Auto"]
    for name, program in list(WRITES.items())[::3]:
        v = made(sharding=("model",), mesh=mesh)
        sharding, before = v.sharding, v.value
        program(v)
        check(v, on_numpy(program)[0], sharding, name)
        assert np.array_equal(np.asarray(before), TABLE), name


@case
def every_write_keeps_the_sharding_in_compiled_code() -> None:
    for mesh, names in (MESH, list(WRITES)), (MESHES["Auto"], list(WRITES)[1::3]):
        variables = {name: made(mesh=mesh, name=f"v{number}") for number, name in enumerate(names)}

        @sv.jit
        def step(variables: dict[str, Any] = variables) -> None:
            for name, v in variables.items():
                WRITES[name](v)

        step()
        for name, v in variables.items():
            check(v, on_numpy(WRITES[name])[0], spread(mesh, None, "model"), name)


@case
def no_write_is_missing_here() -> None:
    operations = {name for name in dir(made().at[0]) if name[0] != "_"}
    assert operations == set(AT), operations ^ set(AT)
    operators = {name.strip("_") for name in vars(operator) if re.fullmatch("__i[a-z]+__", name)}
    mine = {name for name in operators if hasattr(sv.Variable, f"__{name}__")} - {"index", "inv", "invert"}
    tried = {*("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul"), *OF_INTEGERS}
    assert mine == tried, mine ^ tried


OF_INTEGERS = ("iand", "ior", "ixor", "ilshift", "irshift")


@case
def integers_booleans_and_keys() -> None:
    numbers = np.arange(8, dtype="int32") + 1
    for name in OF_INTEGERS:
        v, expected = made(numbers, ("data",)), numbers.copy()
        getattr(operator, name)(v, 3)
        check(v, getattr(operator, name)(expected, 3), spread(MESH, "data"), name)
    v = made(numbers > 3, ("model",))
    v ^= True
    check(v, numbers <= 3, spread(MESH, "model"), "bool")
    keys = sv.Variable(jax.random.split(jax.random.key(0), 8), sharding=("model",), mesh=MESH)
    keys.assign(jax.random.split(jax.random.key(1), 8))
    assert keys.sharding == spread(MESH, "model")
    scalar = made(2.0, ())
    scalar[...] = 3.0
    scalar[()] = 4.0
    scalar[True] = 5.0
    scalar.at[...].multiply(2.0)
    assert float(scalar) == 10.0
    assert scalar.sharding == spread(MESH)


# -- in place, and without communication -------------------------------------------------------------------------------


@case
def writes_are_in_place_if_nobody_holds_the_value() -> None:
    of_jax = jnp.ones((8, 12))
    writes: dict[str, Program] = {
        "add": lambda v: v.assign_add(1.0),
        "add array": lambda v: v.assign_add(TABLE),
        "item": lambda v: operator.setitem(v, (2, 3), 1.0),
        "block": lambda v: operator.setitem(v, (slice(1, 3), slice(2, 9)), 1.0),
        "rows": lambda v: v.at[np.array([1, 5, 1])].add(2.0),
        "divide": lambda v: v.at[np.array([1, 5])].divide(2.0),
        "mask": lambda v: operator.setitem(v, TABLE > 5, 0.0),
        "array of JAX": lambda v: v.assign(of_jax),
    }
    for mesh in EACH_MESH:
        for name, program in writes.items():
            v = made(mesh=mesh)
            program(v)
            places = pointers(v)
            assert v[np.array([1, 2])].shape == (2, 12)  # hands out no snapshot
            program(v)
            assert pointers(v) == places, name
        v = made(mesh=mesh)
        step = sv.jit(lambda v=v: v.assign(v * 0.5).shape)
        step()
        places = pointers(v)
        step()
        assert pointers(v) == places


@case
def memory_does_not_grow_with_the_writes() -> None:
    def used() -> dict[Any, int]:
        gc.collect()
        found: dict[Any, int] = {}
        alive: Any = jax.live_arrays
        for array in alive():
            devices = array.sharding.device_set
            size = int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize
            for device in devices if len(devices) > 1 else ():  # the others are the shards of these
                found[device.id] = found.get(device.id, 0) + size
        return found

    v = made(np.ones((64, 128), "float32"))
    step = sv.jit(lambda: v.assign(v * 0.5).shape)
    host = np.ones((64, 128), "float32")

    def writes() -> None:
        v.assign_add(1.0)
        v[3] = 2.0
        v.at[[1, 2]].add(1.0)
        v.assign(host)
        step()

    writes()
    before = used()
    for _ in range(100):
        writes()
    assert used() == before, (before, used())
    assert len({*before.values()}) == 1, before


@case
def no_write_at_an_index_communicates() -> None:
    programs: list[str] = []
    rows: Any = engine("jax_sharded_rows")
    real = rows.program
    now = ""

    def kept(function: Any, sharding: Any, donate: bool = False) -> Any:
        compiled = real(function, sharding, donate)

        def call(*args: Any) -> Any:
            programs.append(now)
            ready = compiled.lower(*args).compile()
            found = re.findall("all-gather|all-reduce|collective-permute|all-to-all", ready.as_text())
            assert not found, (now, found)
            shard, temporary = 1 << 17, ready.memory_analysis().temp_size_in_bytes
            assert temporary <= 2.5 * shard, (now, temporary)
            return ready(*args)

        return call

    rows.program = kept
    try:
        large = np.ones((256, 1024), "float32")
        for mesh in EACH_MESH:
            v = made(large, ("data", "model"), mesh)
            x = TABLE
            indices = {
                "item": ((3, 5), 1.0),
                "row": (3, large[0]),
                "block": ((slice(1, 9), slice(2, 14)), x),
                "step": (slice(None, None, -2), 2.0),
                "rows": (np.array([1, 5, 1]), large[:3]),
                "columns": ((slice(None), np.array([3, 900])), large[:, :2]),
                "elements": ((np.array([3, 200]), np.array([3, 900])), large[0, :2]),
                "mask": (large > 2, 1.0),
            }
            for name, (index, value) in indices.items():
                now = name
                v[index] = value
                if mesh is MESH:
                    v.at[index].divide(value)
    finally:
        rows.program = real
    assert set(programs) == set(indices)


# -- compiled code, gradients, loops -----------------------------------------------------------------------------------


def written_and_read(v: Any) -> Any:
    several(v)
    return (v * v).sum()


@case
def a_training_step() -> None:
    x = np.ones((4, 8), "float32")
    for mesh in EACH_MESH:
        w, b = made(mesh=mesh, name="w"), made(np.zeros(12, "float32"), ("model",), mesh, name="b")
        count = sv.Variable(0, backend="jax", name="count")

        def loss() -> Any:
            return ((x @ w.value + b.value) ** 2).mean()  # noqa: B023  # called at once

        def step() -> Any:
            value, gradients = sv.value_and_grad(loss)()
            for variable, gradient in gradients.items():
                assert jax.typeof(gradient).shape == variable.shape
                variable.assign_sub(0.001 * gradient)
            count.assign_add(1)  # noqa: B023  # called at once
            return value

        compiled = sv.jit(step)
        values = [float(compiled()) for _ in range(3)] + [float(step())]
        with sv.transaction():
            values.append(float(compiled()))
        values.append(float(compiled()))
        assert values == sorted(values, reverse=True), values
        assert w.sharding == spread(mesh, None, "model")
        assert b.sharding == spread(mesh, "model")
        # A variable of one device is lifted to the mesh in the program, and comes home when it is read.
        assert (int(count), count.device, count.sharding) == (6, jax.devices()[0], None)
        _, gradients = sv.value_and_grad(loss)()
        assert {v.path: g.sharding for v, g in gradients.items()} == {"w": w.sharding, "b": b.sharding}
        if mesh is not MESH:
            continue
        zero = sv.grad(lambda: (w * 0).sum() + 1.0, [w, b])()  # noqa: B023  # called at once
        assert [g.sharding for g in zero] == [w.sharding, b.sharding]
        written = sv.grad(partial(written_and_read, w), [w])()
        assert written[0].sharding == w.sharding
    v = made()
    refused(
        sv.errors.ShardingError,
        lambda: sv.grad(lambda x: (x * v.value).sum(), argnums=0)(np.ones((8, 12), "float32")),
        "JAX needs the mesh of the values",
        "Hint: call it in sv.jit, or in `with jax.set_mesh(mesh):`",
    )
    with jax.set_mesh(MESH):
        assert sv.grad(lambda x: (x * v.value).sum(), argnums=0)(np.ones((8, 12), "float32")).shape == (8, 12)


def set_to(v: Any, x: Any) -> None:
    v.assign(x)


def counted(v: Any, n: Any) -> Any:
    several(v)
    return n + 1


@case
def loops_and_branches() -> None:
    for mesh in EACH_MESH:
        v = made(mesh=mesh)

        def body(carry: Any, _: Any) -> Any:
            several(v)  # noqa: B023  # called at once
            return carry, v[1, 1]  # noqa: B023  # called at once

        def run() -> None:
            sv.scan(body, 0.0, None, length=2)
            sv.cond(jnp.array(True), lambda: several(v), lambda: set_to(v, jnp.zeros((8, 12))))  # noqa: B023  # called at once
            sv.cond(jnp.array(False), lambda: None, lambda: set_to(v, v + 1.0))  # noqa: B023  # called at once
            sv.while_loop(lambda n: n < 2, partial(counted, v), 0)  # noqa: B023  # called at once
            sv.vmap(lambda x: (v * x).sum())(jnp.arange(3.0))  # noqa: B023  # called at once

        def reference() -> Any:
            expected = sv.Variable(TABLE, backend="numpy")
            for _ in range(3):
                several(expected)
            expected.assign_add(1.0)
            several(expected)
            several(expected)
            return expected.numpy()

        run()
        check(v, reference(), spread(mesh, None, "model"), "eager")
        v.assign(TABLE)
        sv.jit(run)()
        check(v, reference(), spread(mesh, None, "model"), "compiled")


def mean_of(w: Any, v: Any) -> Any:
    return v.assign(jnp.broadcast_to(w.value.mean(), (8, 12))).shape


@case
def values_that_compiled_code_would_spread_otherwise() -> None:
    other = jax.device_put(TABLE, spread(MESHES["Auto"], "data"))
    for mesh in EACH_MESH:
        v, w = made(mesh=mesh), made(mesh=mesh)
        sharding = v.sharding
        steps: dict[str, Program] = {
            "zeros": lambda v: v.assign(jnp.zeros((8, 12))).shape,
            "a mean": partial(mean_of, w),
            "an array of another device": lambda v: v.assign(jax.device_put(TABLE, jax.devices()[3])).shape,
            "a constant": lambda v: v.assign_add(TABLE).shape,
        }
        for name, step in steps.items():
            sv.jit(partial(step, v))()
            assert v.sharding == sharding, name
        assigning = sv.jit(lambda x, v=v: v.assign(x).shape)
        assigning(TABLE)
        check(v, TABLE, sharding, "an argument")
        for assign in (assigning, sv.jit(lambda x, v=v: v.assign(x).shape)):  # compiled, and not yet
            refused(
                sv.errors.DeviceError,
                partial(assign, jax.device_put(TABLE, jax.devices()[3])),
                "jit: an argument is on CPU:3, and a variable of the function is spread as (None, 'model') over ",
                "Hint: pass an array of NumPy, or one on the same devices: jax.device_put(x, v.sharding)",
            )
        at = sv.jit(lambda n, v=v: (v.at[n].add(1.0), operator.setitem(v, (n, 0), 9.0), v[n])[2])
        expected = TABLE[3] + 1
        expected[0] = 9.0
        assert np.allclose(at(3), expected)
        assert v.sharding == sharding
    v = made(mesh=MESHES["Auto"])
    assert v.assign(other).sharding == spread(MESHES["Auto"], None, "model")
    v.assign_add(other)
    check(v, TABLE * 2, spread(MESHES["Auto"], None, "model"), "operands of another sharding")


@case
def a_program_follows_a_variable_that_moved() -> None:
    v = made()
    step = sv.jit(lambda: v.assign(v * 2).shape)
    step()
    step()
    for sharding in (spread(MESH, "data"), spread(MESH), spread(MESH, "model", "data")):
        v.reshard(sharding)
        step()
        assert v.sharding == sharding
        step()
        assert v.sharding == sharding
    v.reshard(None)
    step()
    assert v.sharding is None
    v.reshard((None, "model"), MESH)
    step()
    check(v, TABLE * 2**10, spread(MESH, None, "model"), "after all moves")


# -- several variables -------------------------------------------------------------------------------------------------


@case
def variables_of_several_places() -> None:
    v, w, one = made(), made(np.ones(8, "float32"), ("data",)), sv.Variable(np.zeros(3, "float32"), backend="jax")
    far = sv.Variable(np.zeros(3, "float32"), backend="jax", device="CPU:2", name="far")
    homes = {each: each.device for each in (v, w, one, far)}
    with sv.transaction(v, w, one, far):
        v.assign_add(1.0)
        for each in (w, one, far):
            each[0] = 1.0
    sv.update_all([v, w, one, far], "add", 1.0)
    sv.update_all([v, w], "multiply", 2.0)
    sv.jit(lambda: (v.assign_add(1.0), w.assign_add(1.0), one.assign_add(1.0), None)[3])()
    reads = sv.jit(lambda: one.assign_add(v.value.sum() * 0).shape)
    for _ in range(3):
        reads()
    assert one.numpy().tolist() == [3.0, 2.0, 2.0]
    reads()
    assert np.allclose(v.numpy(), (TABLE + 2) * 2 + 1)
    assert w.numpy().tolist() == [5.0] * 8
    assert one.numpy().tolist() == [3.0, 2.0, 2.0]
    assert homes == {each: each.device for each in homes}
    refused(
        sv.errors.DeviceError,
        sv.jit(lambda: (v.assign_add(1.0), far.assign_add(1.0), None)[2]),
        "jit: the function uses variables on different devices: this one is on CPU:2, and",
        "at 'far'. Hint: give it the same mesh: sv.Variable(…, sharding=(), mesh=mesh), or leave out its device",
    )
    assert far.numpy().tolist() == [2.0, 1.0, 1.0]
    other = made(np.ones(4, "float32"), ("x",), jax.make_mesh((2,), ("x",), devices=jax.devices()[:2]), name="other")
    refused(
        sv.errors.DeviceError,
        sv.jit(lambda: (v.assign_add(1.0), other.assign_add(1.0), None)[2]),
        "jit: the function uses variables on different devices",
    )
    with sv.transaction(v, other):
        v.assign_add(1.0)
        other.assign_add(v[0, :4])
    assert other.value.sharding.device_set == set(jax.devices()[:2])


@case
def operands_and_results() -> None:
    v, one = made(mesh=MESHES["Auto"]), sv.Variable(TABLE, backend="jax")
    assert (v + 1).sharding == v.sharding
    assert jnp.sin(v).sharding == v.sharding
    assert type(np.sin(v)) is np.ndarray
    assert np.array_equal(v + one, TABLE * 2)
    assert np.array_equal(v + sv.Variable(TABLE[0], backend="jax", device="CPU:3"), TABLE + TABLE[0])
    assert np.array_equal(v * jax.device_put(jnp.float32(2), jax.devices()[5]), TABLE * 2)
    assert one.assign(v * 2).device == jax.devices()[0]
    assert np.array_equal(one, TABLE * 2)
    assert np.array_equal(sv.Variable(TABLE * 0).assign(v), TABLE)
    assert v.assign(sv.Variable(TABLE)).sharding == spread(MESHES["Auto"], None, "model")
    assert jax.jit(lambda x: x * 2)(v).sharding == v.sharding
    refused(sv.errors.ShardingError, v.__dlpack__, "DLPack passes the memory of one device")


@case
def values_on_two_meshes() -> None:
    for mesh in EACH_MESH:
        line = jax.make_mesh((8,), ("x",), axis_types=mesh.axis_types[:1])
        v, w = made(sharding=("data", "model"), mesh=mesh), made(sharding=("x",), mesh=line)
        v.assign_add(w)
        w.assign(v)
        sv.jit(lambda v=v, w=w: (v.assign_add(1.0), w.assign_add(1.0), None)[2])()
        for step in (lambda v=v, w=w: v.assign_add(w).shape, lambda v=v, w=w: w.assign(v).shape):
            if mesh is MESH:
                refused(sv.errors.ShardingError, sv.jit(step), "jit: a compiled function combines values on the meshes")
            else:
                sv.jit(step)()
        assert (v.sharding, w.sharding) == (spread(mesh, "data", "model"), spread(line, "x"))
    half = jax.make_mesh((2,), ("data",), devices=jax.devices()[2:4])
    v, other = made(), made(sharding=("data",), mesh=half)
    other.assign(v)
    other.assign_add(v)
    check(other, TABLE * 2, spread(half, "data"), "other devices")


@case
def views_of_arrays_over_a_mesh() -> None:
    for mesh in EACH_MESH:
        place = spread(mesh, None, "model")
        reference, tree = jax.new_ref(jax.device_put(TABLE, place)), {"w": jax.device_put(TABLE, place)}
        views: list[tuple[Any, Any]] = [
            (sv.view(reference), partial(operator.getitem, reference, ...)),
            (sv.view(tree)["w"], partial(operator.getitem, tree, "w")),
        ]
        for v, now in views:
            expected = sv.Variable(TABLE, backend="numpy")
            for program in (several, WRITES["a mask"], WRITES["at rows divide"], WRITES["an array"]):
                program(v)
                program(expected)
                np.testing.assert_allclose(np.asarray(now()), expected.numpy(), rtol=2e-6)
                assert now().sharding.is_equivalent_to(place, 2)
            assert np.array_equal(v[1:3], expected.value[1:3])


@case
def reads_at_indices() -> None:
    ids = np.array([1, 5, 1])
    indices: list[tuple[Any, Any]] = [
        ((2, 3), ()),
        (2, ("model",)),
        (slice(2, 5), (None, "model")),
        ((slice(None), slice(2, 5)), (None, None)),
        ((slice(None, None, 2), slice(10, 1, -3)), (None, None)),
        (slice(None, None, -1), (None, "model")),
        ((None, slice(1, 4), 3, None), (None, None, None)),
        (..., (None, "model")),
    ]
    arrays: list[tuple[Any, Any]] = [
        (ids, (None, "model")),
        (ids.reshape(3, 1), (None, None, "model")),
        ((ids, ids), (None,)),
    ]
    arrays += [((slice(None), ids), (None, None)), (TABLE > 5, (None,)), (TABLE[:, 0] > 5, (None, "model"))]
    for mesh, each in (MESH, [*indices, *arrays]), (MESHES["Auto"], [*indices[:2], *arrays[:2]]):
        v = made(mesh=mesh)
        for index, axes in each:
            part = v[index]
            assert np.array_equal(part, TABLE[index]), index
            assert part.sharding.spec == P(*axes), (index, part.sharding)
        parts = sv.jit(lambda v=v, each=each: [v[index] for index, _ in each])()
        for part, (index, _) in zip(parts, each, strict=True):
            assert np.array_equal(part, TABLE[index]), index
        assert len(list(v)) == 8


# -- shapes and shardings that do not fit ------------------------------------------------------------------------------


@case
def what_cannot_be_cut_changes_nothing() -> None:
    v = made(name="v")
    error, narrow = sv.errors.ShardingError, np.ones((3, 7), "float32")
    cut = "cannot be spread as (None, 'model') over {'data': 2, 'model': 4}: "
    problem = f"assign: a value of shape (3, 7) {cut}axis 1 of size 7 does not divide over the 4 of mesh axis 'model'"
    for step in (
        lambda: v.assign(narrow, validate_shape=False),
        lambda: v.assign(narrow, validate_shape=False, use_locking=False),
        sv.jit(lambda: v.assign(jnp.ones((3, 7)), validate_shape=False).shape),
    ):
        refused(error, step, problem, "at 'v'. Hint: call v.reshard(…) first")
    refused(error, lambda: v.assign([1.0], validate_shape=False), f"{cut}it names 2 axes, and the value has 1")
    assert v.version == 0
    check(v, TABLE, spread(MESH, None, "model"), "unchanged")
    v.assign(np.ones((3, 8), "float32"), validate_shape=False)
    check(v, np.ones((3, 8)), spread(MESH, None, "model"), "another shape")
    late = sv.Variable(shape=(None, None), backend="jax", sharding=(None, "model"), mesh=MESH, name="late")
    refused(error, lambda: late.assign([[1.0, 2.0, 3.0]]), "axis 1 of size 3 does not divide", "at 'late'")
    assert not late.is_initialized
    late.assign(jnp.ones((2, 8)))
    check(late, np.ones((2, 8)), spread(MESH, None, "model"), "a late value")
    refused(error, lambda: made(TABLE[:, :11]), "axis 1 of size 11 does not divide over the 4 of mesh axis 'model'")
    refused(error, lambda: made([[1.0, 2.0]]), "axis 1 of size 2 does not divide")
    refused(error, lambda: made(sharding=(None, "x")), "the mesh has no axis 'x'. Hint: its axes are 'data', 'model'")
    refused(error, lambda: made(sharding=("model", "model")), "the mesh axis 'model' is used twice")
    refused(error, lambda: made(sharding="model"), "Hint: write ('model',)")
    refused(error, lambda: made(sharding=("data",), mesh=None), "there is no mesh. Hint: pass mesh=jax.make_mesh")
    refused(error, lambda: made(sharding=("data",), mesh=3), "got a mesh of type int")
    refused(error, lambda: made(sharding=("x",), name="w"), "Variable: the mesh has no axis 'x', at 'w'.")
    theirs = spread(MESHES["Auto"], "data")
    problem = "got a sharding of the library, which has a mesh, and another mesh"
    refused(error, lambda: made(sharding=theirs, name="w"), f"Variable: {problem}, at 'w'. Hint: leave out mesh=")
    refused(error, lambda: v.reshard(theirs, MESH), f"reshard: {problem}, at 'v'")
    assert sv.Variable(TABLE, sharding=theirs, mesh=MESHES["Auto"]).sharding == theirs
    with sv.mesh(MESH):
        assert sv.Variable(TABLE, sharding=theirs).sharding == theirs
    with jax.set_mesh(MESH):
        assert made(sharding=(["data", "model"],), mesh=None).sharding == spread(MESH, ("data", "model"))


@case
def shardings_of_jax() -> None:
    follows = sv.Variable(jax.device_put(TABLE, spread(MESH, "data")))
    assert follows.sharding == spread(MESH, "data")
    assert sv.Variable(follows, device="CPU:1").device == jax.devices()[1]
    host = jax.sharding.NamedSharding(MESH, P("data"), memory_kind="pinned_host")
    refused(sv.errors.ShardingError, lambda: made(sharding=host, mesh=None), "and the sharding is in 'pinned_host'")
    empty = made(np.zeros((0, 4), "float32"), mesh=MESHES["Auto"])
    empty.assign_add(1.0)
    empty[:, 0] = 3.0
    assert empty.numpy().shape == (0, 4)
    whole = made(sharding=())
    assert whole.numpy().tolist() == TABLE.tolist()
    of_one = made(mesh=jax.make_mesh((1, 1), ("data", "model"), devices=jax.devices()[2:3]))
    of_one.assign_add(1.0)
    assert of_one.sharding.mesh.devices.tolist() == [[jax.devices()[2]]]
    other = jax.sharding.GSPMDSharding if hasattr(jax.sharding, "GSPMDSharding") else None
    assert other is None or made(sharding=other.get_replicated(jax.devices())).assign_add(1.0).version == 1


@case
def the_scope_of_jax_set_mesh() -> None:
    for mesh in EACH_MESH:
        before = sv.Variable(0, backend="jax")
        with jax.set_mesh(mesh):
            count, noise = sv.Variable(0, backend="jax"), sv.Variable("normal", shape=(3,), backend="jax")
            w, late = sv.Variable(jnp.ones((8, 12))), sv.Variable(shape=(2,), backend="jax")
            late.assign([1.0, 2.0])
            assert {each.sharding.spec for each in (count, noise, late)} == {P()}
            sv.jit(partial(counted, w))(count.assign_add(1).value)
            sv.jit(lambda c=count: c.assign_add(1).shape)()
            assert int(count) == 2
            assert w.sharding.is_equivalent_to(spread(mesh), 2)
            assert sv.Variable(1.0, backend="jax", device="CPU:2").device == jax.devices()[2]
            before.assign_add(1)  # follows, as arrays of JAX do
            assert int(before) == 1
            assert before.sharding.is_equivalent_to(spread(mesh), 0)
            assert "sharding=() over {'data': 2, 'model': 4} backend=jax" in repr(before)
        assert int(pickle.loads(pickle.dumps(before))) == 1
        before.assign_add(1)
        assert int(before) == 2


@case
def random_numbers_do_not_depend_on_the_mesh() -> None:
    for name in ("normal", "orthogonal", "glorot_uniform"):
        expected = sv.Variable(name, shape=(8, 12), seed=3).numpy()
        for axes in ((), ("data",), (None, "model"), ("data", "model")):
            assert np.array_equal(made(name, axes, shape=(8, 12), seed=3), expected), (name, axes)
    assert made("zeros", ("data",), shape=(8, 12)).sharding == spread(MESH, "data")
    assert made(lambda shape, dtype: jnp.ones(shape, dtype), ("data",), shape=(8,)).sharding == spread(MESH, "data")


# -- copies, snapshots, trees ------------------------------------------------------------------------------------------


@case
def copies_snapshots_and_saves() -> None:
    v = made(name="v")
    twin = copy.deepcopy(v)
    twin.assign_add(1.0)
    check(twin, TABLE + 1, v.sharding, "a copy")
    check(v, TABLE, v.sharding, "the original")
    loaded = pickle.loads(pickle.dumps(v))
    assert np.array_equal(loaded, TABLE)
    assert loaded.sharding is None  # a pickle has the value and no mesh
    snapshot = sv.snapshot([v])
    several(v)
    sv.restore(snapshot)
    check(v, TABLE, v.sharding, "restored")
    v.reshard(("data",))
    v.assign_add(1.0)
    sv.restore(snapshot)
    check(v, TABLE, spread(MESH, "data"), "restored after it was spread otherwise")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.safetensors"
        sv.save([v], path)
        v.assign_add(1.0)
        sv.load([v], path)
    check(v, TABLE, spread(MESH, "data"), "loaded")
    pure = sv.functionalize(lambda x: (v.assign_add(x), v[0, 0])[1], [v])
    for call in (pure, jax.jit(pure)):
        out, (new,) = call([v.value], 1.0)
        assert float(out) == 2.0
        assert new.sharding.is_equivalent_to(v.sharding, 2)
    assert jax.tree.leaves(v)[0].sharding == v.sharding
    assert jax.tree.map(lambda x: x + 1, v).value.sharding.is_equivalent_to(v.sharding, 2)


@case
def pieces() -> None:
    for axes, count in (((None, "model"), 4), (("data", "model"), 8), ((), 1)):
        v = made(sharding=axes)
        backend, found = v._backend, np.zeros_like(TABLE)
        blocks = backend.pieces(v.value)
        assert len(blocks) == count
        assert all(block.first for block in blocks)
        for block in blocks:
            place = tuple(slice(o, o + n) for o, n in zip(block.offsets, block.array.shape, strict=True))
            assert not found[place].any()
            found[place] = np.asarray(block.array)
        assert np.array_equal(found, TABLE)
        reads: list[Any] = []

        def read(offsets: Any, sizes: Any) -> Any:
            reads.append(offsets)  # noqa: B023  # called at once
            return TABLE[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]

        again = backend.from_pieces((8, 12), "float32", v.sharding, read)
        assert len(reads) == count
        assert np.array_equal(again, TABLE)
        assert again.sharding == v.sharding
        assert np.array_equal(backend.gather(v.value), TABLE)


@case
def batches_share_no_memory() -> None:
    for axis in ("data", ("data", "model")):
        rows = np.ones((8, 4096), "float32")
        batch = sv.shard_batch({"rows": rows}, MESH, axis)["rows"]
        rows[:] = 2.0  # as a loader does that fills the same memory again
        assert np.asarray(batch).max() == 1.0
    keys = jax.random.split(jax.random.key(0), 8)
    batch = sv.shard_batch(keys, MESH)
    assert batch.sharding == spread(MESH, "data")
    assert np.array_equal(jax.random.key_data(batch), jax.random.key_data(keys))


@case
def gather_is_no_part_of_a_program() -> None:
    v = sv.Variable(np.ones((8, 2), "float32"), sharding=("data",), mesh=MESH)
    refused(sv.errors.TraceError, sv.jit(lambda: sv.gather(v)), "gather: the value is traced")
    refused(sv.errors.TraceError, jax.jit(lambda: sv.gather(v)), "jax is tracing this code")


@case
def keys_and_values_without_elements_are_saved() -> None:
    keys = sv.Variable(jax.random.split(jax.random.key(0), 8), sharding=("model",), mesh=MESH, name="keys")
    empty = made(np.zeros((0, 8), "float32"), name="empty")
    v = made(name="v")
    with tempfile.TemporaryDirectory() as folder:
        sv.save([keys, empty, v], Path(folder) / "all")
        new = sv.Variable(jax.random.split(jax.random.key(1), 8), sharding=("data",), mesh=MESH, name="keys")
        sv.load([new, empty, made(TABLE * 0, name="v")], Path(folder) / "all")
    assert np.array_equal(jax.random.key_data(new.value), jax.random.key_data(keys.value))
    backend: Any = keys._backend
    assert [block.offsets for block in backend.pieces(keys.value)] == [(0,), (2,), (4,), (6,)]
    empty.assign_add(1.0)
    assert empty.numpy().shape == (0, 8)
    assert np.asarray(v[3:3]).shape == (0, 12)
    assert np.asarray(v[TABLE[:, 0] < 0]).shape == (0, 12)


def main() -> None:
    errors = {}
    for name, function in CASES.items():
        try:
            function()
        except Exception:  # noqa: BLE001  # the test of this name fails with it
            errors[name] = traceback.format_exc()
    print("cases:", json.dumps(errors))


if __name__ == "__main__":
    if sys.argv[1:]:
        CASES = {name: CASES[name] for name in sys.argv[1:]}
    main()
