"""Variables in the scope of a strategy of tf.distribute do what a tf.Variable does there, also in strategy.run."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.launch import run

# In one process of its own: the devices must be set before TensorFlow uses one.
pytestmark = pytest.mark.own_process(shared=True)

AGGREGATIONS = ("none", "mean", "sum", "only_first_replica")


@pytest.fixture(scope="module")
def tf() -> Any:
    module = pytest.importorskip("tensorflow")
    if multiprocessing.parent_process() is None:  # the test runs elsewhere, but pytest makes the fixtures here too
        return module
    cpu = module.config.list_physical_devices("CPU")[0]
    module.config.set_logical_device_configuration(cpu, [module.config.LogicalDeviceConfiguration()] * 2)
    return module


@pytest.fixture(scope="module")
def strategy(tf: Any) -> Any:
    if multiprocessing.parent_process() is None:
        return None
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def replicas(variable: Any) -> list[Any]:
    """The value of each replica."""
    spread = variable.parameter if isinstance(variable, sv.Variable) else variable
    return [each.numpy().tolist() for each in spread.distribute_strategy.experimental_local_results(spread)]


def equal(variable: Any) -> Any:
    """The value, which all replicas have."""
    first, second = replicas(variable)
    assert first == second == variable.numpy().tolist()
    return first


def made(strategy: Any, value: Any, **options: Any) -> sv.Variable:
    with strategy.scope():
        return sv.Variable(value, backend="tensorflow", **options)


def number(tf: Any) -> Any:
    """1.0 in the first replica, 2.0 in the second."""
    return tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group + 1, tf.float32)


def outcome(step: Callable[[], Any]) -> Any:
    """What a program returns, replica by replica, or the builtin error that it raises."""
    try:
        return [each.numpy().tolist() for each in step().values]
    except Exception as error:  # noqa: BLE001  # of TensorFlow, or ours
        kinds: tuple[type[Exception], ...] = (TypeError, ValueError, RuntimeError)
        return next((each for each in kinds if isinstance(error, each)), Exception)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_writes_in_run_are_those_of_a_tf_variable(tf: Any, strategy: Any, aggregation: str, compiled: bool) -> None:
    wrap = tf.function(autograph=False) if compiled else lambda step: step

    def body(variable: Any, method: str, value: Any) -> Any:
        getattr(variable, method)(number(tf) * tf.constant(value))
        return variable.value if isinstance(variable, sv.Variable) else variable.value()

    def program(variable: Any, method: str, value: Any) -> Callable[[], Any]:
        return lambda: strategy.run(lambda: body(variable, method, value))

    for method in ("assign", "assign_add", "assign_sub"):
        with strategy.scope():
            theirs = tf.Variable([1.0, 1.0], aggregation=tf.VariableAggregation[aggregation.upper()])
            ours = sv.Variable([1.0, 1.0], backend="tensorflow", aggregation=aggregation)  # type: ignore[arg-type]
            assert ours.parameter.aggregation == theirs.aggregation
        for value in ([1.0, 2.0], [0.5, 0.25]):
            expected, got = (outcome(wrap(program(v, method, value))) for v in (theirs, ours))
            assert got == expected
            assert replicas(ours) == replicas(theirs)
            assert ours.numpy().tolist() == theirs.numpy().tolist()
        assert ours.version == 2


def test_a_variable_in_scope_has_a_copy_for_each_replica(tf: Any, strategy: Any) -> None:
    v = made(strategy, [1.0, 2.0], name="v", aggregation="sum")
    assert v.sharding is strategy
    assert type(v.parameter).__name__ == "MirroredVariable"
    assert v.parameter.aggregation == tf.VariableAggregation.SUM
    assert "2 replicas of MirroredStrategy" in repr(v)
    assert equal(v) == [1.0, 2.0]
    named = made(strategy, "normal", shape=(2, 3), seed=0)
    assert_array = sv.Variable("normal", shape=(2, 3), seed=0, backend="tensorflow").numpy()
    assert np.array_equal(equal(named), assert_array)
    late = made(strategy, None, shape=(2,), dtype="float32")
    assert late.sharding is strategy
    assert equal(late.assign([5.0, 6.0])) == [5.0, 6.0]
    with strategy.scope():
        theirs = tf.Variable([3.0, 4.0])
    follows = sv.Variable(theirs, name="follows")
    assert (equal(follows), follows.sharding) == ([3.0, 4.0], strategy)
    explicit = sv.Variable([7.0], backend="tensorflow", sharding=strategy)
    assert (equal(explicit), explicit.sharding) == ([7.0], strategy)
    with strategy.scope():
        assert sv.Variable([1.0], backend="tensorflow", device="CPU:1").sharding is None
        assert sv.Variable([1.0]).sharding is None  # of NumPy
    assert sv.Variable([1.0], backend="tensorflow").sharding is None


def writes_outside(tf: Any, path: Path) -> dict[str, Callable[[Any], object]]:
    def edited(v: Any) -> None:
        with v.edit() as array:
            array[array > 2] = 9

    def transaction(v: Any) -> None:
        with sv.transaction():
            v.assign_add(1.0)
            v[0, 0] = 4.0
            v.at[1].multiply(2.0)

    def restored(v: Any) -> None:
        before = sv.snapshot({"v": v})
        v.assign_add(5.0)
        sv.restore(before)
        assert equal(v) == [[1.0, 2.0], [3.0, 4.0]]
        v.assign_sub(1.0)

    def loaded(v: Any) -> None:
        sv.save({"v": v}, path)
        v.assign(np.zeros((2, 2)))
        sv.load({"v": v}, path)

    x = np.array([[0.5, 1.5], [2.0, 3.0]], "float32")
    return {
        "assign": lambda v: v.assign(x),
        "assign_add": lambda v: v.assign_add(x),
        "assign_sub": lambda v: v.assign_sub(x),
        "broadcast": lambda v: v.assign_add(2.0),
        "unlocked": lambda v: v.assign(x, use_locking=False),
        "setitem": lambda v: v.__setitem__(0, 7.0),
        "row": lambda v: v.__setitem__([1, 0], x),
        "mask": lambda v: v.__setitem__(np.array([[True, False], [False, True]]), -1.0),
        "at": lambda v: v.at[[0, 0]].add(x),
        "at.min": lambda v: v.at[0].min([0.0, 9.0]),
        "iadd": lambda v: v.__iadd__(x),
        "isub": lambda v: v.__isub__(x),
        "imul": lambda v: v.__imul__(x),
        "itruediv": lambda v: v.__itruediv__(2.0),
        "ifloordiv": lambda v: v.__ifloordiv__(2.0),
        "imod": lambda v: v.__imod__(2.0),
        "ipow": lambda v: v.__ipow__(2.0),
        "imatmul": lambda v: v.__imatmul__(x),
        "update": lambda v: v.update(lambda a: a * 3),
        "edit": edited,
        "transaction": transaction,
        "restore": restored,
        "load": loaded,
        "set_value": lambda v: sv.set_value(v, x),
        "update_all": lambda v: sv.update_all([v], "add", 1.0),
        "jit": lambda v: sv.jit(lambda: v.assign_add(x))(),
        "graph": lambda v: tf.function(lambda: [v.assign_add(x), None][1], autograph=False)(),
        "redeclare": lambda v: v.assign(np.ones((3, 2), "float32"), validate_shape=False),
    }


@pytest.mark.parametrize("in_scope", [False, True])
def test_a_write_outside_of_run_changes_every_replica(tf: Any, strategy: Any, tmp_path: Path, in_scope: bool) -> None:
    start = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    ours, plain = made(strategy, start, name="v"), sv.Variable(start, name="v", backend="tensorflow")
    for name, write in writes_outside(tf, tmp_path / "v.safetensors").items():
        for v in (ours, plain):
            v.assign(start, validate_shape=False)
        version = ours.version - plain.version
        held = ours.value
        if in_scope:
            with strategy.scope():
                write(ours)
        else:
            write(ours)
        if name != "restore":
            write(plain)
            assert np.array_equal(equal(ours), plain.numpy()), name
            assert ours.version - plain.version == version, name
        equal(ours)
        assert held.numpy().tolist() == start.tolist(), name


def test_an_error_leaves_every_replica_as_it_was(tf: Any, strategy: Any) -> None:
    v = made(strategy, [1.0, 2.0], name="v")
    for error, write in (
        (sv.errors.ShapeError, lambda: v.assign([1.0])),
        (sv.errors.DTypeError, lambda: v.assign([1j, 1j])),
        (sv.errors.IndexingError, lambda: v.__setitem__(7, 1.0)),
        (sv.errors.ShapeError, lambda: strategy.run(lambda: v.assign([1.0]))),
        (ZeroDivisionError, lambda: v.update(lambda a: 1 / 0)),
    ):
        with pytest.raises(error):
            write()
        assert equal(v) == [1.0, 2.0]
        assert v.version == 0

    class Boom(BaseException):
        pass

    from unittest.mock import patch

    parts = v._handle.parts
    real = type(parts[0].variable)
    for at_part in (0, 1):
        for after in (False, True):
            backend = v._backend.native
            apply = backend.apply

            def failing(part: Any, *rest: Any, at_part: int = at_part, after: bool = after, apply: Any = apply) -> Any:
                if part is parts[at_part] and not after:
                    raise Boom
                result = apply(part, *rest)
                if part is parts[at_part]:
                    raise Boom
                return result

            with patch.object(type(backend), "apply", lambda _, *args: failing(*args)), pytest.raises(Boom):
                v.assign_add(1.0)
            equal(v)
    assert real is type(parts[1].variable)


def test_other_writes_in_run(tf: Any, strategy: Any) -> None:
    ones = np.ones(3, "float32")
    for aggregation, of_numbers in (("mean", 1.5), ("sum", 3.0), ("only_first_replica", 1.0)):
        v = made(strategy, ones, name="v", aggregation=aggregation)

        def at(v: Any = v) -> None:
            i = tf.distribute.get_replica_context().replica_id_in_sync_group
            v.at[int(i)].add(number(tf))  # another index in each replica

        strategy.run(at)
        share = {"mean": [1.5, 2.0, 1.0], "sum": [2.0, 3.0, 1.0], "only_first_replica": [2.0, 1.0, 1.0]}
        assert equal(v) == share[aggregation]
        v.assign(ones)
        strategy.run(lambda v=v: v.__setitem__(1, number(tf)))
        assert equal(v) == [1.0, of_numbers, 1.0]
        v.assign(ones * 2)
        strategy.run(lambda v=v: v.__imul__(number(tf)))
        assert equal(v) == [2 * of_numbers] * 3
        v.assign(ones * 2)
        strategy.run(lambda v=v: v.update(lambda a: a * number(tf)))
        assert equal(v) == [2 * of_numbers] * 3
        with pytest.raises(sv.errors.ReplicaError, match="setitem: the replicas write at different indices"):
            strategy.run(
                lambda v=v: v.__setitem__(int(tf.distribute.get_replica_context().replica_id_in_sync_group), 1.0)
            )
        equal(v)

    v = made(strategy, ones, name="v", aggregation="none")
    strategy.run(lambda: v.__setitem__(1, number(tf)))
    strategy.run(lambda: v.__imul__(number(tf)))
    assert replicas(v) == [[1.0, 1.0, 1.0], [2.0, 4.0, 2.0]]
    assert v.numpy().tolist() == [1.0, 1.0, 1.0]  # the first replica's, as a tf.Variable's

    capped = made(strategy, ones, name="capped", aggregation="sum", constraint=lambda a: tf.minimum(a, 2.0))
    strategy.run(lambda: capped.assign_add([number(tf), 0.0, -1.0]))
    assert equal(capped) == [2.0, 1.0, -1.0]  # of the sum, and not of each


def test_replicas_that_differ_are_found(tf: Any, strategy: Any) -> None:
    v = made(strategy, [1.0, 2.0], name="v", aggregation="none")
    sv.check_replicas(v)
    strategy.run(lambda: v.assign(number(tf) * [1.0, 2.0]))
    with pytest.raises(sv.errors.ReplicaError, match="this process has one value on CPU:0 and another one on CPU:1"):
        sv.check_replicas({"v": v})
    v.assign([3.0, 4.0])
    sv.check_replicas(v)


def test_moves_into_and_out_of_a_strategy(tf: Any, strategy: Any) -> None:
    v = sv.Variable([1.0, 2.0], backend="tensorflow", name="v", aggregation="sum")
    assert equal(v.reshard(strategy)) == [1.0, 2.0]
    assert (v.sharding, v.parameter.aggregation) == (strategy, tf.VariableAggregation.SUM)
    w = sv.Variable([1.0, 2.0], backend="tensorflow", name="w").reshard(strategy)
    w.assign_add(1.0)
    assert w.reshard(None).sharding is None
    assert w.assign_add(1.0).numpy().tolist() == [3.0, 4.0]
    with pytest.raises(sv.errors.ShardingError, match="a variable of tensorflow lies in one place"):
        w.reshard(("data",))


def test_integers_have_no_mean(tf: Any, strategy: Any) -> None:
    step = made(strategy, 0, name="step")
    assert equal(step.assign_add(1)) == 1
    with pytest.raises(sv.errors.DTypeError, match="assign_add: the mean of int32 values of several replicas is no"):
        strategy.run(lambda: step.assign_add(1))
    with strategy.scope(), pytest.raises(ValueError, match="MEAN and a non-floating dtype"):
        tf.Variable(0, aggregation=tf.VariableAggregation.MEAN)
    assert (equal(step), step.version) == (1, 1)
    for aggregation, value in (("sum", 2), ("only_first_replica", 1)):
        count = made(strategy, 0, aggregation=aggregation)
        strategy.run(lambda count=count: count.assign_add(1))
        assert equal(count) == value


def test_values_that_differ_by_replica(tf: Any, strategy: Any) -> None:
    def values() -> Any:
        return strategy.run(lambda: number(tf) * [1.0, 2.0])

    for aggregation, expected in (("mean", [1.5, 3.0]), ("sum", [3.0, 6.0]), ("only_first_replica", [1.0, 2.0])):
        for v in (
            made(strategy, [1.0, 1.0], aggregation=aggregation),
            sv.Variable([1.0, 1.0], backend="tensorflow", aggregation=aggregation),  # type: ignore[arg-type]
            sv.Variable([1.0, 1.0], aggregation=aggregation),  # type: ignore[arg-type]
        ):
            for x in (values(), sv.per_replica(values())):
                assert v.assign(x).numpy().tolist() == expected
                assert v.assign_add(x).numpy().tolist() == [2 * each for each in expected]
            with sv.transaction():
                v.assign_sub(x)
            assert v.numpy().tolist() == expected
        v = made(strategy, [1.0, 1.0], aggregation=aggregation)
        strategy.run(lambda v=v: v.assign(sv.per_replica(number(tf) * [1.0, 2.0])))
        assert equal(v) == expected
        held = values()
        strategy.run(lambda v=v, held=held: v.assign(held))  # by its name, and not as an argument
        assert equal(v) == expected
    v = made(strategy, [1.0, 1.0], name="w", aggregation="none")
    with pytest.raises(sv.errors.ReplicaError, match="at 'w'. Hint: you must specify an aggregation"):
        v.assign(values())
    with pytest.raises(sv.errors.DeviceError, match="a PerReplica of tf.distribute"):
        sv.Variable(values(), name="w")
    with strategy.scope():
        mirrored = tf.Variable([5.0, 6.0])
        counted = tf.Variable(
            [1.0, 1.0], synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM
        )
    strategy.run(lambda: counted.assign_add(number(tf) * [1.0, 1.0]))
    assert equal(v.assign(mirrored)) == [5.0, 6.0]
    assert equal(v.assign(counted)) == [5.0, 5.0]
    assert equal(v.assign_add(mirrored)) == [10.0, 11.0]


def test_reads_in_run_are_those_of_the_replica(tf: Any, strategy: Any) -> None:
    v = made(strategy, [1.0, 2.0], name="v", aggregation="none")
    strategy.run(lambda: v.assign(number(tf) * [1.0, 2.0]))

    def reads() -> Any:
        assert v.shape == (2,)
        return v.value + tf.square(v) + v * 1.0 + v[:] + tf.convert_to_tensor(v)

    for step in (reads, tf.function(reads, autograph=False)):
        first, second = strategy.run(step).values
        assert first.numpy().tolist() == [5.0, 12.0]
        assert second.numpy().tolist() == [12.0, 32.0]
    read = strategy.run(lambda: tf.constant(v.numpy()))
    assert [each.numpy().tolist() for each in read.values] == [[1.0, 2.0], [2.0, 4.0]]


def test_a_training_step(tf: Any, strategy: Any) -> None:
    x = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant([1.0, 2.0]) * float(context.replica_id_in_sync_group + 1)
    )
    w = made(strategy, [1.0, 1.0], name="w")
    other = sv.Variable([1.0, 1.0], backend="tensorflow", name="other")

    def step(x: Any) -> Any:
        loss, (gradient,) = sv.value_and_grad(lambda: tf.reduce_sum(w * w * x), [w])()
        w.assign_sub(0.1 * gradient)
        return loss

    def raw(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(w.value * w.value * x)
        gradient = tape.gradient(loss, w.parameter)
        w.assign_sub(0.1 * gradient)
        return loss

    for run_step in (step, raw):
        w.assign([1.0, 1.0])
        strategy.run(run_step, args=(x,))
        assert np.allclose(equal(w), [1 - 0.1 * 2 * 1.5, 1 - 0.1 * 2 * 3.0])
        w.assign([1.0, 1.0])
        tf.function(lambda run_step=run_step: strategy.run(run_step, args=(x,)), autograph=False)()
        assert np.allclose(equal(w), [1 - 0.1 * 2 * 1.5, 1 - 0.1 * 2 * 3.0])
    gradient = sv.grad(lambda: tf.reduce_sum(w * w), w)()
    assert np.allclose(gradient, 2 * w.numpy())
    total = sv.jit(lambda: w.assign_add(other).value + 1)()
    assert np.allclose(total, w.numpy() + 1)
    equal(w)
    optimizer = tf.keras.optimizers.SGD(0.5)
    with strategy.scope():
        optimizer.build([w.parameter])


def test_programs_that_run_replicas_are_compiled(tf: Any, strategy: Any) -> None:
    v = made(strategy, [1.0, 1.0], name="v", aggregation="sum")

    def body() -> None:
        v.assign_add(number(tf) * v)

    step = sv.jit(lambda: strategy.run(body) and None)
    step()
    assert equal(v) == [4.0, 4.0]
    step()
    assert equal(v) == [16.0, 16.0]

    def twice() -> None:
        v.assign([1.0, 1.0])
        strategy.run(body)

    sv.jit(twice)()
    assert equal(v) == [4.0, 4.0]

    def squares() -> Any:
        return strategy.reduce("SUM", strategy.run(lambda: tf.reduce_sum(v * v)), axis=None)

    def trained() -> None:
        v.assign([1.0, 2.0])
        strategy.run(step_down)

    def step_down() -> None:
        v.assign_sub(0.25 * sv.grad(lambda: tf.reduce_sum(v * v), v)())

    def in_transaction() -> None:
        with sv.transaction():
            trained()

    for program in (trained, sv.jit(trained), in_transaction, tf.function(trained, autograph=False)):
        v.assign([5.0, 5.0])
        program()
        assert equal(v) == [0.0, 0.0]  # the gradient of what was assigned just before
    read = strategy.run(sv.jit(lambda: v.value + 1.0))
    assert [each.numpy().tolist() for each in read.values] == [[1.0, 1.0]] * 2
    with pytest.raises(sv.errors.ReplicaError, match="open it around strategy.run"):
        strategy.run(sv.jit(lambda: v.assign_add([1.0, 1.0]).value))
    assert equal(v) == [0.0, 0.0]
    grad: Any = sv.grad(squares, v)
    for around in (grad, sv.jit(lambda: grad())):
        with pytest.raises(
            sv.errors.ReplicaError, match="grad is around the code of the replicas, which runs in other"
        ):
            around()
    apart = made(strategy, [1.0, 1.0], name="apart", aggregation="none")
    with pytest.raises(sv.errors.ReplicaError, match="sv.jit has one value of it"):
        sv.jit(lambda: strategy.run(lambda: apart.value * 2))()


def test_a_transaction_around_run(tf: Any, strategy: Any) -> None:
    v = made(strategy, [1.0, 1.0], name="v", aggregation="sum")

    def body() -> None:
        v.assign_add(number(tf) * v)

    with sv.transaction():
        strategy.run(body)
        assert replicas(v) == [[1.0, 1.0]] * 2
        assert v.value.numpy().tolist() == [4.0, 4.0]
        strategy.run(body)
        assert v.value.numpy().tolist() == [16.0, 16.0]
    assert (equal(v), v.version) == ([16.0, 16.0], 2)
    with pytest.raises(ZeroDivisionError), sv.transaction():
        strategy.run(body)
        raise ZeroDivisionError
    assert (equal(v), v.version) == ([16.0, 16.0], 2)


def test_what_cannot_be_done_in_run(tf: Any, strategy: Any) -> None:
    v = made(strategy, [1.0, 2.0], name="v")
    late = sv.Variable(shape=(2,), dtype="float32", backend="tensorflow", name="late")
    plain = sv.Variable([1.0, 2.0], backend="tensorflow", name="plain")

    def transaction() -> None:
        with sv.transaction():
            v.assign_add(1.0)

    def edit() -> None:
        with v.edit() as array:
            array[0] = 1

    problems = {
        "Variable: this code runs once for each replica of a MirroredStrategy": (
            lambda: sv.Variable([1.0], backend="tensorflow", name="w"),
            lambda: sv.Variable([1.0], backend="tensorflow", name="w", sharding=strategy),
        ),
        "a variable that each of the 2 replicas": (lambda: late.assign([1.0, 2.0]),),
        "and the variable was made outside of its scope": (
            lambda: plain.assign_add(1.0),
            lambda: tf.function(lambda: [plain.assign_add(1.0), None][1], autograph=False)(),
        ),
        "a transaction in code that runs once for each replica": (transaction,),
        "transaction: this code runs once for each replica of a MirroredStrategy": (edit,),
    }
    for text, steps in problems.items():
        for step in steps:
            with pytest.raises(sv.errors.StatevarError, match=text):
                strategy.run(step)
            assert (equal(v), v.version) == ([1.0, 2.0], 0)
            assert (plain.numpy().tolist(), late.is_initialized) == ([1.0, 2.0], False)


def test_copies_and_pickles(tf: Any, strategy: Any) -> None:
    v = made(strategy, [1.0, 2.0], name="v", aggregation="sum")
    for copied in (copy.copy(v), copy.deepcopy(v), copy.deepcopy({"v": v})["v"]):
        assert copied.sharding is strategy
        assert copied.parameter is not v.parameter
        assert equal(copied.assign_add(1.0)) == [2.0, 3.0]
        assert equal(v) == [1.0, 2.0]
    with strategy.scope():
        assert pickle.loads(pickle.dumps(v)).sharding is strategy
    again = pickle.loads(pickle.dumps(v))  # a process that reads it has no such strategy
    assert (again.sharding, again.numpy().tolist(), again.aggregation) == (None, [1.0, 2.0], "sum")


def test_other_strategies(tf: Any, strategy: Any) -> None:
    one = tf.distribute.OneDeviceStrategy("CPU:1")
    v = made(one, [1.0, 2.0], name="v")
    assert (v.sharding, v.device) == (None, "CPU:1")
    one.run(lambda: v.assign_add([1.0, 1.0]))
    assert v.numpy().tolist() == [2.0, 3.0]
    single = tf.distribute.MirroredStrategy(["CPU:1"])
    v = made(single, [1.0, 2.0], name="v", aggregation="sum")
    single.run(lambda: v.assign_add([1.0, 1.0]))
    single.run(lambda: v.at[0].add(1.0))
    v.assign_add(1.0)
    assert replicas(v) == [[4.0, 4.0]]
    central = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])
    with pytest.raises(sv.errors.ShardingError, match="a CentralStorageStrategy is in scope, whose variables are not"):
        made(central, [1.0])
    assert made(central, [1.0], device="CPU:0").sharding is None
    w = made(strategy, [1.0], name="w")
    with pytest.raises(sv.errors.ReplicaError, match="in another strategy"):
        single.run(lambda: w.assign([2.0]))
    with single.scope():
        assert equal(w.assign([3.0])) == [3.0]


def test_state_of_keras_and_tensorflow_made_in_a_scope(tf: Any, strategy: Any) -> None:
    with strategy.scope():
        mirrored = tf.Variable([1.0, 2.0], aggregation=tf.VariableAggregation.SUM)
        total = tf.Variable(
            [1.0, 1.0], synchronization=tf.VariableSynchronization.ON_READ, aggregation=tf.VariableAggregation.SUM
        )
    sv.set_value(mirrored, [3.0, 4.0])
    assert sv.get_value(mirrored).tolist() == equal(mirrored) == [3.0, 4.0]
    v = sv.view(mirrored)
    v.assign_add(1.0)
    v[0] = 9.0
    with sv.transaction():
        v *= 2.0
    assert equal(mirrored) == [18.0, 10.0]
    strategy.run(lambda: total.assign_add(number(tf) * [1.0, 1.0]))
    assert sv.get_value(total).tolist() == [5.0, 5.0]
    sv.set_value(total, [8.0, 2.0])
    assert total.read_value().numpy().tolist() == [8.0, 2.0]
    assert replicas(total) == [[4.0, 1.0], [4.0, 1.0]]
    with pytest.raises(sv.errors.ReplicaError, match="write it outside of strategy.run, or by its own assign"):
        strategy.run(lambda: v.assign([0.0, 0.0]))
    assert equal(mirrored) == [18.0, 10.0]
    with strategy.scope():
        options = {"synchronization": tf.VariableSynchronization.ON_READ, "dtype": tf.int32}
        counts = tf.Variable([1, 1], aggregation=tf.VariableAggregation.SUM, **options)
        apart = tf.Variable([1, 1], aggregation=tf.VariableAggregation.NONE, **options)
    with pytest.raises(sv.errors.ReplicaError, match="an element does not divide by 2"):
        sv.set_value(counts, [4, 5])
    assert sv.get_value(counts).tolist() == [2, 2]
    with pytest.raises(sv.errors.ForeignStateError, match="without aggregation have no common value"):
        sv.view(apart)


def test_a_keras_model_made_in_a_scope(tf: Any, strategy: Any, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras computes with another library")
    with strategy.scope():
        model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1, use_bias=False)])
        model.compile("sgd", "mse")
    kernel = model.layers[0].kernel
    sv.set_value(kernel, [[1.0], [2.0]])
    assert equal(kernel.value) == [[1.0], [2.0]] == sv.get_value(kernel).tolist()
    v = sv.view(kernel)
    v += 1.0
    assert equal(kernel.value) == [[2.0], [3.0]]
    sv.save(model, tmp_path / "model.safetensors")
    before = sv.snapshot(model)
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0, batch_size=2)
    assert equal(kernel.value) != [[2.0], [3.0]]
    trained = equal(kernel.value)
    sv.restore(before)
    assert equal(kernel.value) == [[2.0], [3.0]]
    v.assign(trained)
    sv.load(model, tmp_path / "model.safetensors")
    assert equal(kernel.value) == [[2.0], [3.0]]


def test_all_reduce_in_and_out_of_run(tf: Any, strategy: Any) -> None:
    def tree() -> Any:
        i = number(tf)
        return {"a": i * [1.0, 2.0], "b": [tf.cast(i, tf.int32), {"c": i * tf.ones((2, 2))}], "d": None}

    def sums(reduction: str) -> Any:
        return sv.all_reduce(tree(), reduction)  # type: ignore[arg-type]

    for reduction, factor in (("sum", 3.0), ("min", 1.0), ("max", 2.0)):
        for step in (sums, tf.function(sums, autograph=False)):
            found = strategy.run(step, args=(reduction,))
            outside = sv.all_reduce(strategy.run(tree), reduction)  # type: ignore[arg-type]
            for each in (0, 1):
                assert found["a"].values[each].numpy().tolist() == [factor, 2 * factor]
                assert found["b"][0].values[each].numpy() == factor
                assert found["b"][1]["c"].values[each].numpy().tolist() == [[factor] * 2] * 2
            assert outside["a"].numpy().tolist() == [factor, 2 * factor]
            assert outside["b"][0].numpy() == factor
    mean = strategy.run(lambda: sv.all_reduce({"a": number(tf)}))
    assert [each.numpy() for each in mean["a"].values] == [1.5, 1.5]
    assert sv.all_reduce(strategy.run(lambda: number(tf)), "mean").numpy() == 1.5
    with pytest.raises(sv.errors.DTypeError, match="the mean of int32 values is no int32"):
        strategy.run(lambda: sv.all_reduce(tf.constant(1)))
    assert sv.all_reduce(tf.constant(3.0), "sum").numpy() == 3.0  # one process


WORKER = """
import json, os
import numpy as np, tensorflow as tf, statevar as sv
strategy = tf.distribute.MultiWorkerMirroredStrategy()
me = strategy.cluster_resolver.task_id
answer = {}
with strategy.scope():
    for aggregation in ("none", "mean", "sum", "only_first_replica"):
        theirs = tf.Variable([me + 1.0, 1.0], aggregation=tf.VariableAggregation[aggregation.upper()])
        ours = sv.Variable([me + 1.0, 1.0], backend="tensorflow", aggregation=aggregation)
        for method in ("assign", "assign_add", "assign_sub"):
            for wrap in (lambda f: f, lambda f: tf.function(f, autograph=False)):
                for v in (theirs, ours):
                    def body(v=v):
                        getattr(v, method)(tf.constant([me + 1.0, 2.0]))
                    wrap(lambda: strategy.run(body))()
                answer[f"{aggregation} {method}"] = [theirs.numpy().tolist(), ours.numpy().tolist()]
    v = sv.Variable([1.0, 2.0], backend="tensorflow", aggregation="mean")
    assert v.sharding is strategy
    v.assign(sv.per_replica([me, 1.0]))
    answer["per_replica"] = v.numpy().tolist()
    host = sv.Variable([0.0, 0.0], aggregation="sum").assign(sv.per_replica(np.array([me, 1.0])))
    answer["host"] = host.numpy().tolist()
    tree = {"a": tf.constant([me, 1.0]), "b": 2.0 * me}
    reduced = {each: sv.all_reduce(tree, each) for each in ("mean", "sum", "max")}
    answer["all_reduce"] = {key: [each["a"].numpy().tolist(), each["b"]] for key, each in reduced.items()}
    at = sv.Variable(np.zeros(3), backend="tensorflow", aggregation="sum")
    def put(index, x):
        at[index] = x
    def put_slice(index, x):
        at[index : index + 1] = [x]
    def maximum(index, x):
        at.at[index].max(x)
    refused = {}
    for wrap in (lambda f: f, lambda f: tf.function(f, autograph=False)):
        for how in (put, put_slice, maximum):
            for kind in (int,) if how is put_slice else (int, lambda index: np.array([index]), tf.constant):
                for index in (1, 2 * me):
                    at.assign(np.zeros(3))
                    try:
                        wrap(lambda: strategy.run(lambda: how(kind(index), me + 1.0)))()
                    except (sv.errors.ReplicaError, tf.errors.InvalidArgumentError) as error:
                        assert index != 1, error
                        assert "setitem: the replicas write at different indices" in str(error), error
                        assert not at.numpy().any(), at
                        refused.setdefault(how.__name__, []).append(type(error).__name__)
                    else:
                        assert index == 1, at
                        assert at.numpy().tolist() == [0, 3, 0], at
    program = tf.function(lambda i: strategy.run(put, (i, tf.constant(1.0, tf.float64))), autograph=False)
    for index in (1, 2 * me, 1):
        at.assign(np.zeros(3))
        try:
            program(tf.constant(index))
        except tf.errors.InvalidArgumentError as error:
            assert index != 1, error
            assert "setitem: the replicas write at different indices" in str(error), error
            assert not at.numpy().any(), at
            refused.setdefault("symbolic", []).append(type(error).__name__)
        else:
            assert index == 1, at
            assert at.numpy().tolist() == [0, 2, 0], at
    answer["refused"] = refused
    answer["in run"] = strategy.run(lambda: sv.all_reduce(tf.constant([me, 1.0]), "sum")).numpy().tolist()
    try:
        sv.all_reduce({"a" if me else "b": tf.constant(1.0)})
    except sv.errors.ReplicaError as error:
        answer["different"] = str(error)
try:
    sv.all_reduce(tf.constant(1.0))
except sv.errors.ReplicaError as error:
    answer["no scope"] = str(error)
print("answer", json.dumps(answer), flush=True)
"""


def test_two_workers(tf: Any) -> None:
    import json

    answers = [json.loads(each.partition("answer ")[2]) for each in run(["-c", WORKER], 2, library="tensorflow")]
    for me, answer in enumerate(answers):
        for aggregation in AGGREGATIONS:
            for method in ("assign", "assign_add", "assign_sub"):
                theirs, ours = answer[f"{aggregation} {method}"]
                assert ours == theirs, (aggregation, method, me)
        assert (answer["per_replica"], answer["host"]) == ([0.5, 1.0], [1.0, 2.0])
        assert answer["all_reduce"] == {"mean": [[0.5, 1.0], 1.0], "sum": [[1.0, 2.0], 2.0], "max": [[1.0, 1.0], 2.0]}
        assert answer["in run"] == [1.0, 2.0]
        eager, program = ["ReplicaError"], ["InvalidArgumentError"]
        assert answer["refused"] == {
            "put": eager * 3 + program * 3,
            "put_slice": eager + program,
            "maximum": eager * 3 + program * 3,
            "symbolic": program,
        }
        assert "the processes gave different values to combine" in answer["different"]
        assert "2 workers of TensorFlow run, and no strategy is in scope" in answer["no scope"]
