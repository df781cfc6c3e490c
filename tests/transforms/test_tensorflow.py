"""TensorFlow's own side of the transforms: tapes, `sv.jit` by one graph, and raw ``tf.function`` at the border."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar.errors import ConflictError, DTypeError, ReentrantWriteError, TraceError
from tests.helpers import PATIENCE, until
from tests.internals import engine
from tests.threads import is_waiting

tf = pytest.importorskip("tensorflow")


Pair = namedtuple("Pair", "first second")  # noqa: PYI024  # its form is what matters


@pytest.fixture(autouse=True)
def clean_scope() -> Iterator[None]:
    """tf.map_fn leaves a mark if its body raises in a graph, on which optimizers of TensorFlow 1 stumble later."""
    yield
    tf.compat.v1.get_variable_scope()._caching_device = None


def variable(value: Any, name: str = "v", dtype: str = "float32", **options: Any) -> sv.Variable:
    return sv.Variable(value, dtype=dtype, backend="tensorflow", name=name, **options)


def total(x: Any) -> Any:
    return tf.reduce_sum(x)


def run(threads: list[threading.Thread]) -> None:
    for each in threads:
        each.start()
    for each in threads:
        each.join()


def outcome_of(call: Callable[[], Any]) -> Any:
    """What it returns as a list; or the error, which must name the variable and what to use."""
    try:
        result = call()
    except TraceError as error:
        for part in ("'v'", "sv."):
            assert part in str(error)  # noqa: PT017
        return TraceError
    return result.numpy().tolist() if isinstance(result, tf.Tensor) else result


# -- gradients ----------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_what_was_read_and_writes_are_kept_once() -> None:
    w, calls = variable([1.0, 2.0]), variable(0, dtype="int32")

    def loss(x: float) -> Any:
        value = total((w * x) ** 2)
        w.assign([100.0, 100.0])  # after the read
        calls.assign_add(1)
        return value

    value, gradients = sv.value_and_grad(loss)(3.0)
    assert float(value) == 45.0
    assert gradients[w].numpy().tolist() == [18.0, 36.0]
    assert (calls.version, int(calls), w.numpy().tolist()) == (1, 1, [100.0, 100.0])


def test_listed_variables_have_gradients_in_their_form_and_zeros() -> None:
    w, unused = variable([1.0, 2.0]), variable([[1.0]])
    (value, aux), gradients = sv.value_and_grad(lambda: (total(w.value), "aux"), {"w": w, "u": [unused]}, True)()
    assert (float(value), aux) == (3.0, "aux")
    assert gradients["w"].numpy().tolist() == [1.0, 1.0]
    assert gradients["u"][0].numpy().tolist() == [[0.0]]


def test_two_variables_that_share_a_tensor_have_their_own_gradients() -> None:
    shared = tf.constant([1.0, 2.0])
    a, b = sv.Variable(shared), sv.Variable(shared)
    a.assign(shared), b.assign(shared)
    gradients = sv.grad(lambda: total(a * 2.0) + total(b * 3.0))()
    assert gradients[a].numpy().tolist() == [2.0, 2.0]
    assert gradients[b].numpy().tolist() == [3.0, 3.0]


def test_gathered_gradients_are_dense() -> None:
    w = variable([[1.0], [2.0], [3.0]])
    gradient = sv.grad(lambda: total(tf.gather(w.value, [0, 2, 2])), w)()
    assert isinstance(gradient, tf.Tensor)
    assert gradient.numpy().tolist() == [[1.0], [0.0], [2.0]]


def test_complex_gradients_are_those_of_tensorflow() -> None:
    w = variable([1 + 2j], dtype="complex64")
    raw = tf.Variable([1 + 2j], dtype=tf.complex64)
    with tf.GradientTape() as tape:
        loss = total(tf.abs(raw) ** 2)
    ours = sv.grad(lambda: total(tf.abs(w.value) ** 2), w)()
    np.testing.assert_allclose(ours.numpy(), tape.gradient(loss, raw).numpy())


@pytest.mark.parametrize("wrap", [lambda f: f, sv.jit, lambda f: tf.function(f, autograph=False)])
def test_second_order_is_right(wrap: Callable[..., Any]) -> None:
    w = variable([1.0, 2.0])

    def second() -> Any:
        return sv.grad(lambda: total(sv.grad(lambda: total(w**3), w)()), w)()

    assert wrap(second)().numpy().tolist() == [6.0, 12.0]


def test_raw_tapes_work_around_and_inside() -> None:
    w = variable(3.0)
    with tf.GradientTape() as tape:
        gradient = sv.grad(lambda: w**3, w)()
    assert float(tape.gradient(gradient, w.parameter)) == 18.0

    def inner() -> Any:
        x = w.value
        with tf.GradientTape() as inside:
            inside.watch(x)
            y = x**3
        return inside.gradient(y, x)

    assert float(sv.grad(inner, w)()) == 18.0


def test_an_exception_drops_the_writes() -> None:
    w = variable(1.0)

    def loss() -> Any:
        w.assign_add(1.0)
        raise KeyError("no")

    with pytest.raises(KeyError):
        sv.grad(loss, w)()
    assert (float(w), w.version) == (1.0, 0)


def test_results_that_have_no_gradient_are_errors() -> None:
    w, n = variable([1.0]), variable([1], dtype="int32")
    with pytest.raises(TraceError, match="expected a tensor that TensorFlow has computed, got"):
        sv.grad(lambda: (w.value, np.float32(1.0))[1], w)()
    with pytest.raises(DTypeError, match="expected the function to return a real number, got int32"):
        sv.grad(lambda: total(n.value), w)()


def test_gradients_in_threads_lose_no_write() -> None:
    w = variable(2.0)
    found: list[bool] = []

    def work(k: int) -> None:
        found.extend(float(sv.grad(lambda: w * float(k), w)()) == k for _ in range(30))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    run(threads)
    assert found == [True] * 120


# -- jit ----------------------------------------------------------------------------------------------------------


def counting(fn: Callable[..., Any], **options: Any) -> tuple[Any, list[None]]:
    """A compiled function, and an element for each time that it was traced."""
    traces: list[None] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        traces.append(None)
        return fn(*args, **kwargs)

    return sv.jit(counted, **options), traces


def test_values_are_read_at_each_call_and_trace_nothing_anew() -> None:
    v, w = variable([1.0, 2.0]), variable(10.0)

    def step(x: Any, flag: bool = True) -> Any:
        v.assign_add(w * x)
        return {"sum": total(v.value), "rest": (None, "text", v)}

    compiled, traces = counting(step)
    assert float(compiled(tf.constant([1.0, 1.0]))["sum"]) == 23.0
    w.assign(100.0)
    out = compiled(np.ones(2, np.float32))
    assert float(out["sum"]) == 223.0
    assert out["rest"][:2] == (None, "text")
    assert out["rest"][2] is v
    assert (v.version, w.version, len(traces)) == (2, 1, 1)
    compiled(tf.ones([1]))
    assert len(traces) == 2


def test_numbers_are_no_part_of_the_program() -> None:
    v = variable(0.0)
    step, traces = counting(lambda x, n: v.assign_add(x).value * tf.cast(n, tf.float32))
    assert [float(step(float(i), i)) for i in range(4)] == [0.0, 1.0, 6.0, 18.0]
    assert len(traces) == 1


def test_numbers_keep_their_precision_in_float64() -> None:
    v = variable(0.0, dtype="float64")
    step, traces = counting(lambda x: v.assign_add(x).value)
    assert float(step(0.1)) == 0.1
    step(0.2)
    assert (float(v), len(traces)) == (0.1 + 0.2, 2)


def test_numbers_that_steer_the_code_are_part_of_it() -> None:
    v = variable(0.0)

    def step(n: int) -> None:
        for _ in range(n):
            v.assign_add(1.0)

    compiled, _ = counting(step)
    compiled(3), compiled(4), compiled(3)
    assert (float(v), v.version) == (10.0, 3)


def test_a_number_that_does_not_fit_is_an_error() -> None:
    v = variable(100, dtype="int8")
    step = sv.jit(lambda x: v.assign_add(x))
    step(1)
    with pytest.raises(OverflowError, match="300"):
        step(300)
    w = variable(1, dtype="int32")
    step = sv.jit(lambda x: w.assign(x))
    step(5)
    with pytest.raises(OverflowError):
        step(2**31)
    assert (int(v), int(w)) == (101, 5)


def test_static_arguments_are_given_by_position_and_name() -> None:
    v = variable(1.0)
    step, traces = counting(lambda x, how: v * x if how == "times" else v + x, static_argnums=1)
    assert float(step(3.0, "times")) == 3.0
    assert float(step(3.0, "plus")) == 4.0
    assert float(step(4.0, "plus")) == 5.0
    assert len(traces) == 2

    def named(x: Any, n: int) -> Any:
        return v * x * sum(range(n))

    compiled = sv.jit(named, static_argnames="n")
    assert float(compiled(2.0, n=3)) == 6.0
    assert float(compiled(2.0, 4)) == 12.0
    with pytest.raises(TypeError, match="neither an array"):
        compiled(2.0, n={1})  # type: ignore[arg-type]


def test_variables_as_arguments_are_told_apart_by_identity() -> None:
    a, b = variable(1.0, "a"), variable(2.0, "b")
    step = sv.jit(lambda nest, x: nest["to"][0].assign_add(x))
    assert step({"to": [a]}, 1.0) is a
    assert step({"to": [b]}, 1.0) is b
    step({"to": [a]}, 5.0)
    assert (float(a), float(b)) == (7.0, 3.0)


def test_a_changed_shape_traces_again() -> None:
    v = sv.Variable(tf.ones([2]), shape=(None,))
    step, traces = counting(lambda: total(v.assign_add(1.0).value))
    assert float(step()) == 4.0
    v.assign([1.0, 1.0, 1.0])
    assert float(step()) == 6.0
    v.assign([[1.0]], validate_shape=False)
    assert float(step()) == 2.0
    assert (float(step()), len(traces)) == (3.0, 3)


def test_code_that_changes_the_shape_changes_it_at_each_call() -> None:
    v, fixed = sv.Variable(tf.ones([1]), shape=(None,)), variable([1.0])

    @sv.jit
    def grow() -> None:
        v.assign(tf.concat([v.value, v.value], 0))

    @sv.jit
    def declare() -> None:
        fixed.assign(tf.concat([fixed.value, fixed.value], 0), validate_shape=False)

    for _ in range(2):
        grow(), declare()
    assert v.shape == fixed.shape == (4,)
    assert v.version == fixed.version == 2


def test_a_constant_is_written_at_each_call() -> None:
    v, constant = variable([1.0, 2.0]), tf.constant([5.0, 6.0])
    step = sv.jit(lambda: v.assign(constant))
    for _ in range(2):
        v.assign([1.0, 2.0])
        step()
        assert v.numpy().tolist() == [5.0, 6.0]


def test_a_variable_without_a_value_gets_its_first_one() -> None:
    v = sv.Variable(shape=(2,), dtype="float32", backend="tensorflow")
    step = sv.jit(lambda x: v.assign(x))
    step([1.0, 2.0])
    step([3.0, 4.0])
    assert v.numpy().tolist() == [3.0, 4.0]


def test_everything_or_nothing_when_the_graph_fails() -> None:
    v, w = variable([1.0, 2.0]), variable(0, dtype="int32")

    @sv.jit
    def step(x: Any) -> Any:
        v.assign_add(x)
        w.assign_add(1)
        tf.debugging.assert_positive(x)
        return total(v.value)

    step(tf.constant([1.0, 1.0]))
    for _ in range(20):
        with pytest.raises(tf.errors.InvalidArgumentError):
            step(tf.constant([1.0, -1.0]))
    assert (v.numpy().tolist(), int(w), v.version, w.version) == ([2.0, 3.0], 1, 1, 1)


def test_python_in_the_graph_fails_or_reads() -> None:
    v = variable(1.0)

    def ask(x: Any) -> Any:
        if x < 0:
            raise ValueError("negative")
        return x + v.numpy()  # in another thread, or inside the call

    @sv.jit
    def step(x: Any) -> Any:
        out = tf.py_function(ask, [x], tf.float32)
        v.assign_add(1.0)
        return out

    assert float(step(1.0)) == 2.0
    with pytest.raises(tf.errors.InvalidArgumentError, match="negative"):
        step(-1.0)
    assert (float(v), v.version) == (2.0, 1)


def test_an_exception_in_the_trace_changes_nothing() -> None:
    v = variable(1.0)
    fails = [True]

    @sv.jit
    def step() -> Any:
        v.assign_add(1.0)
        if fails[0]:
            raise KeyError("trace")
        return v.value

    with pytest.raises(KeyError):
        step()
    assert (float(v), v.version) == (1.0, 0)
    fails[0] = False
    assert float(step()) == 2.0


def test_a_branch_on_a_value_is_an_error_that_says_so() -> None:
    v = variable(1.0)

    @sv.jit
    def step() -> Any:
        return v.assign(0.0) if v.value > 0 else v

    for call in (step, sv.jit(v.numpy), sv.jit(lambda: float(v)), sv.jit(lambda: np.sin(v))):
        with pytest.raises(TraceError, match=r"jit: the code needs a value .* Hint: use sv\.cond"):
            call()
    assert float(v) == 1.0


def _edit(v: Any) -> None:
    with v.edit() as a:
        a[...] = 1.0


@pytest.mark.parametrize("read", [lambda v: v.numpy(), np.asarray, np.sin, lambda v: v.tolist(), _edit])
def test_numpy_in_a_raw_function(read: Any) -> None:
    """It was the error of TensorFlow, without a word of the variable."""
    v = variable([1.0, 2.0])
    with pytest.raises(TraceError) as caught:
        tf.function(lambda: (read(v), tf.constant(1.0))[1], autograph=False)()
    assert str(caught.value) == (
        "numpy: TensorFlow is tracing this code, and only the compiled function has the value for NumPy. "
        "Hint: use functions of TensorFlow; or tf.numpy_function."
    )
    assert v.numpy().tolist() == [1.0, 2.0]


def test_a_variable_made_on_the_first_call_is_kept() -> None:
    made: list[sv.Variable] = []

    @sv.jit
    def step(x: Any) -> Any:
        if not made:
            made.append(variable(5.0))
        return made[0].assign_add(x).value

    x = tf.constant(1.0)
    assert [float(step(x)), float(step(x)), float(made[0])] == [6.0, 7.0, 7.0]


def test_a_variable_made_on_every_call_is_an_error() -> None:
    made: list[sv.Variable] = []
    step = sv.jit(lambda x: made.append(variable(x)))
    with pytest.raises(TraceError, match="only valid while the function is being traced"):
        step(tf.constant(1.0))
    step = sv.jit(lambda x: made.append(variable(1.0)))
    with pytest.raises(TraceError, match="creates a new variable each time it is traced"):
        step(tf.constant(1.0))
    scratch = sv.jit(lambda x: sv.Variable(x * 2.0).assign_add(1.0).value)
    assert [float(scratch(tf.constant(each))) for each in (1.0, 2.0)] == [3.0, 5.0]
    fresh = sv.jit(lambda x: variable(5.0).assign_add(x).value)
    assert [float(fresh(tf.constant(each))) for each in (1.0, 2.0)] == [6.0, 7.0]


def test_a_call_inside_a_transaction_is_part_of_it() -> None:
    v, w = variable(1.0, "v"), variable(10.0, "w")
    step, traces = counting(lambda: (w.assign_add(v), v.assign_add(1.0))[1].value)
    with sv.transaction(v):
        v.assign(5.0)
        assert float(step()) == 6.0
        assert float(step()) == 7.0
    assert (float(v), float(w), v.version, w.version) == (7.0, 21.0, 3, 2)
    before = len(traces)
    with pytest.raises(KeyError), sv.transaction(v):
        step()
        raise KeyError
    assert (float(v), float(w), len(traces)) == (7.0, 21.0, before)
    step()
    assert (float(v), float(w)) == (8.0, 28.0)


def test_inside_a_scope_and_a_gradient_it_is_part_of_them() -> None:
    w = variable([1.0, 2.0])
    square = sv.jit(lambda x: total((w * x) ** 2))
    assert sv.grad(lambda: square(2.0), w)().numpy().tolist() == [8.0, 16.0]
    with sv.StatelessScope({w: [0.0, 1.0]}):
        assert float(square(1.0)) == 1.0
    assert float(square(1.0)) == 5.0


def test_autocast_is_part_of_the_program() -> None:
    w = variable([1.0])
    read = sv.jit(lambda: w.value)
    assert read().dtype == tf.float32
    with sv.autocast("bfloat16"):
        assert read().dtype == tf.bfloat16
    assert read().dtype == tf.float32


def test_freezing_a_variable_traces_again() -> None:
    w, b = variable(1.0, "w"), variable(1.0, "b")
    gradients = sv.jit(lambda: list(sv.grad(lambda: w * b)().values()))
    assert len(gradients()) == 2
    b.trainable = False
    assert len(gradients()) == 1


def test_a_raw_tape_reaches_through() -> None:
    w = variable(3.0)
    square = sv.jit(lambda x: w * w * x)
    x = tf.constant(2.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = square(x)
    to_w, to_x = tape.gradient(y, [w.parameter, x])
    assert (float(to_w), float(to_x)) == (12.0, 9.0)


def test_in_a_raw_function_it_is_part_of_that() -> None:
    v = variable(0.0)
    step = sv.jit(lambda x: v.assign_add(x).value)
    raw = tf.function(lambda x: step(x) * 2, autograph=False)
    assert [float(raw(tf.constant(1.0))), float(raw(tf.constant(1.0))), float(v)] == [2.0, 4.0, 2.0]


def test_watchers_and_waiters_are_told() -> None:
    v = variable(0.0)
    seen: list[int] = []
    step = sv.jit(lambda: v.assign_add(1.0))
    with v.subscribe(lambda _, version: seen.append(version)):
        step(), step()
    assert seen == [1, 2]
    assert v.wait(2, timeout=0)


def test_who_holds_a_variable_is_waited_for() -> None:
    v = variable(0.0)
    step = sv.jit(lambda: v.assign_add(1.0).value)
    step()
    with pytest.raises((ReentrantWriteError, ConflictError)):
        v.update(lambda old: step())
    inside, caller, called = threading.Event(), threading.current_thread(), list[float]()

    def hold() -> None:
        with sv.transaction(v):
            inside.set()
            until(lambda: called or is_waiting(caller))
            v.assign(10.0)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(PATIENCE)
    called.append(float(step()))
    thread.join()
    assert called == [11.0]


def test_threads_lose_nothing_and_see_no_half() -> None:
    v, w = variable([0.0] * 64, "v"), variable([0.0] * 64, "w")
    step = sv.jit(lambda: (v.assign_add(tf.ones(64)), w.assign_add(tf.ones(64)), None)[2])
    step()
    torn: list[Any] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            cut = sv.snapshot([v, w])
            both = np.concatenate([cut[each].numpy() for each in ("v", "w")])
            if (both != both[0]).any():
                torn.append(both)

    def work() -> None:
        for _ in range(200):
            step()
            v.assign_add(0.0)

    reader, writers = threading.Thread(target=look), [threading.Thread(target=work) for _ in range(3)]
    reader.start()
    run(writers)
    done.set()
    reader.join()
    assert not torn
    assert float(v[0]) == float(w[0]) == 601.0
    assert v.version == 1201


def test_long_calls_let_readers_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine("tensorflow_jit"), "_LONG", 0.0)
    monkeypatch.setattr(engine("tensorflow_jit"), "_LONG_EACH", 0.0)
    v = variable([1.0, 2.0])
    step, traces = counting(lambda: v.assign_add([1.0, 1.0]))
    for _ in range(8):
        step()
    assert len(traces) == 2  # the second: values in, values out, without the locks
    assert (v.version, v.numpy().tolist()) == (8, [9.0, 10.0])


def test_a_shared_buffer_is_updated_in_place() -> None:
    v = variable(tf.zeros([1 << 20]))
    step = sv.jit(lambda x: v.assign_add(x))
    x = tf.ones([1 << 20])
    step(x)
    before = v.value
    step(x)
    assert float(before[0]) == 1.0
    assert float(v[0]) == 2.0


def test_a_variable_dies_with_its_function() -> None:
    def make() -> weakref.ref[sv.Variable]:
        v = variable(1.0)
        sv.jit(lambda: v.assign_add(1.0).value)()
        return weakref.ref(v)

    died = make()
    gc.collect()
    assert died() is None


def test_a_variable_of_another_library_inside_is_an_error() -> None:
    hidden = {"n": sv.Variable(1.0)}
    v = variable(1.0)

    class Holder:
        __slots__ = ()

        def read(self) -> Any:
            return eval("hidden['n'].value", {"hidden": hidden})

    holder = Holder()
    with pytest.raises(TraceError, match="tensorflow compiles this function, but the variable belongs to numpy"):
        sv.jit(lambda: v.value * holder.read())()


def test_pytrees_of_every_type_go_in_and_come_out() -> None:
    class Settings(dict[Any, Any]):
        """The library sorts it, and cannot if the keys are of several types."""

    double = sv.jit(lambda tree: Settings({"y": [tree["x"].second, "text"], 2: Pair(tree["x"].first * 2, None)}))
    for number in (1.0, 3.0):
        out = double(Settings(x=Pair(tf.constant(number), tf.constant(number))))
        assert type(out) is Settings
        assert list(out) == ["y", 2]
        assert out[2] == Pair(2 * number, None)
        assert out["y"] == [number, "text"]


def test_ragged_arguments_and_results_are_taken() -> None:
    v = variable(2.0)
    double = sv.jit(lambda x: x * v.value)
    for _ in range(2):
        assert double(tf.ragged.constant([[1.0], [2.0, 3.0]])).to_list() == [[2.0], [4.0, 6.0]]


# -- raw functions of TensorFlow at the border ----------------------------------------------------------------------


def read_in_function(v: sv.Variable) -> Any:
    return tf.function(lambda: v.value * 2, autograph=False)()


def write_in_function(v: sv.Variable) -> Any:
    return tf.function(lambda: v.assign_add([1.0, 1.0]).value, autograph=False)()


def read_in_cond(v: sv.Variable) -> Any:
    return tf.cond(tf.constant(True), lambda: v.value * 2, lambda: v.value)


def write_in_cond(v: sv.Variable) -> Any:
    return tf.cond(tf.constant(True), lambda: v.assign_add([1.0, 1.0]).value, lambda: v.value)


def read_in_loop(v: sv.Variable) -> Any:
    return tf.while_loop(lambda i, _: i < 2, lambda i, x: (i + 1, x + v.value), (tf.constant(0), tf.zeros(2)))[1]


def write_in_loop(v: sv.Variable) -> Any:
    return tf.while_loop(lambda i: i < 1, lambda i: (v.assign_add([1.0, 1.0]), i + 1)[1:], (tf.constant(0),))


def read_in_map(v: sv.Variable) -> Any:
    return tf.reduce_sum(tf.map_fn(lambda x: x * v.value, tf.ones([2, 2])), 0)


def write_in_map(v: sv.Variable) -> Any:
    return tf.map_fn(lambda x: v.assign_add(x).value, tf.ones([1, 2]))


def write_in_vectorized_map(v: sv.Variable) -> Any:
    return tf.vectorized_map(lambda x: v.assign_add(x).value, tf.ones([1, 2]))


def read_in_recompute(v: sv.Variable) -> Any:
    return tf.recompute_grad(lambda x: x * v.value)(tf.constant(2.0))


def write_in_recompute(v: sv.Variable) -> Any:
    return tf.recompute_grad(lambda x: v.assign_add([1.0, 1.0]).value * x)(tf.constant(1.0))


READS = [read_in_function, read_in_cond, read_in_loop, read_in_map, read_in_recompute]
WRITES = [
    write_in_function, write_in_cond, write_in_loop, write_in_map, write_in_vectorized_map, write_in_recompute,
]  # fmt: skip


@pytest.mark.parametrize("read", READS)
def test_a_read_in_a_raw_form_is_right_or_an_error(read: Callable[..., Any]) -> None:
    v = variable([1.0, 2.0])
    for value in ([1.0, 2.0], [3.0, 4.0]):
        v.assign(value)
        expected = [2 * each for each in value]
        assert read(v).numpy().tolist() == expected
        assert outcome_of(lambda: sv.jit(read)(v)) in (TraceError, expected)
        assert outcome_of(lambda: sv.grad(lambda: total(read(v)), v)()) in (TraceError, [2.0, 2.0])
        with sv.StatelessScope({v: [10.0, 20.0]}):
            assert outcome_of(lambda: read(v)) in (TraceError, [20.0, 40.0])


@pytest.mark.parametrize("write", WRITES)
def test_a_write_in_a_raw_form_is_kept_or_an_error(write: Callable[..., Any]) -> None:
    v = variable([1.0, 2.0])
    failed = outcome_of(lambda: sv.jit(write)(v)) is TraceError
    assert v.numpy().tolist() == ([1.0, 2.0] if failed else [2.0, 3.0])
    v.assign([1.0, 2.0])
    with sv.StatelessScope({v: [10.0, 20.0]}) as scope:
        failed = outcome_of(lambda: write(v)) is TraceError
        assert scope.get_current_value(v).numpy().tolist() == ([10.0, 20.0] if failed else [11.0, 21.0])
    assert v.numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("opens", [lambda v: sv.StatelessScope({v: [5.0, 5.0]}), lambda v: sv.StatelessScope()])
def test_a_function_traced_before_goes_past_no_overlay(opens: Callable[..., Any]) -> None:
    v = variable([1.0, 2.0])
    read = tf.function(lambda: v.value * 2, autograph=False)
    write = tf.function(lambda: v.assign_add([1.0, 1.0]).value, autograph=False)
    read(), write()
    v.assign([1.0, 2.0])
    with opens(v):
        for raw in (read, write, lambda: v.parameter + 1.0):
            with pytest.raises(TraceError, match=r"uses the variable itself inside .* at 'v'"):
                raw()
    with pytest.raises(TraceError, match="inside value_and_grad"):
        sv.grad(lambda: total(read()), v)()
    assert v.numpy().tolist() == [1.0, 2.0]
    plain = tf.Variable(1.0)
    with opens(v):
        assert float(plain + 1.0) == 2.0


def test_a_function_traced_before_is_right_inside_jit_or_an_error() -> None:
    v = variable([1.0, 2.0])
    read = tf.function(lambda: v.value * 2, autograph=False)
    write = tf.function(lambda: v.assign_add([1.0, 1.0]).value, autograph=False)
    read(), write()
    v.assign([1.0, 2.0])
    assert sv.jit(lambda: (v.value, read())[1])().numpy().tolist() == [2.0, 4.0]

    @sv.jit
    def around() -> Any:
        before = v.value
        write()
        return before, v.value

    assert [each.numpy().tolist() for each in around()] == [[1.0, 2.0], [2.0, 3.0]]
    for raw in (read, write):
        with pytest.raises(TraceError, match=r"uses the variable itself inside jit.* at 'v'"):
            sv.jit(lambda raw=raw: (v.assign_add([1.0, 1.0]), raw())[1])()
    assert v.numpy().tolist() == [2.0, 3.0]


def test_an_optimizer_of_keras_works_inside_jit() -> None:
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another backend")
    w = variable([1.0, 2.0])
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build([w.parameter])

    @sv.jit
    def step() -> Any:
        loss, gradient = sv.value_and_grad(lambda: total(w**2), w)()
        optimizer.apply_gradients([(gradient, w.parameter)])
        return loss, w.value

    for expected in ([0.0, 0.0], [0.0, 0.0]):
        loss, after = step()
        assert after.numpy().tolist() == w.numpy().tolist() == expected
    assert float(loss) == 0.0


# -- control flow in a graph ----------------------------------------------------------------------------------------


def scanned(v: sv.Variable, w: sv.Variable, reverse: bool = False) -> Any:
    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        v.assign_add(x * w.value)
        return {"c": carry["c"] + 1.0}, (carry["c"] * x, v.value)

    return sv.scan(body, {"c": tf.constant(0.0)}, tf.constant([1.0, 2.0, 3.0]), reverse=reverse)


def nested(v: sv.Variable, w: sv.Variable) -> Any:
    def body(carry: Any, x: Any) -> tuple[Any, None]:
        return sv.cond(x > 1.0, lambda: carry + v.assign_add(x * w).value, lambda: carry), None

    return sv.scan(body, tf.constant(0.0), tf.constant([1.0, 2.0, 3.0]))


def branched(v: sv.Variable, w: sv.Variable) -> Any:
    return [
        sv.cond(w.value * sign > 0, lambda x: v.assign_add(x).value, lambda x: x * w.value, tf.constant(3.0))
        for sign in (1.0, -1.0)
    ]


def looped(v: sv.Variable, w: sv.Variable) -> Any:
    return sv.while_loop(lambda _: v.value < 100.0, lambda i: (v.assign(v.value * w.value), i + 1)[1], 0)


def counted(v: sv.Variable, w: sv.Variable) -> Any:
    return sv.fori_loop(1, 4, lambda i, c: c + v.assign_add(tf.cast(i, tf.float32) * w).value, tf.constant(0.0))


def mapped(v: sv.Variable, w: sv.Variable) -> Any:
    s = sv.vmap(lambda x, y: (v.assign(w.value * 2), {"xy": x * y * w.value})[1], in_axes=(1, None), out_axes=1)
    return s(tf.reshape(tf.range(6.0), (2, 3)), tf.constant([1.0, 2.0]))


def rematerialised(v: sv.Variable, w: sv.Variable) -> Any:
    block = sv.remat(lambda x: (v.assign_add(1.0), tf.sin(w.value * x))[1])
    return sv.grad(lambda: block(tf.constant(3.0)), w)()


def empty(v: sv.Variable, w: sv.Variable) -> Any:
    return sv.scan(lambda c, x: (c, x * w.value), tf.constant(1.0), tf.zeros([0, 2]))


FORMS: list[Callable[..., Any]] = [
    scanned, lambda v, w: scanned(v, w, True), nested, branched, looped, counted, mapped, rematerialised, empty,
]  # fmt: skip


def plain(tree: Any) -> Any:
    return tf.nest.map_structure(lambda x: np.asarray(x).tolist(), tree)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrap", [sv.jit, lambda f: tf.function(f, autograph=False)])
def test_a_graph_gives_what_python_loops_give(form: Callable[..., Any], wrap: Callable[..., Any]) -> None:
    v, w = variable(1.0, "v"), variable(2.0, "w")
    expected, after = form(v, w), float(v)
    compiled = wrap(lambda: form(v, w))
    for _ in range(2):
        v.assign(1.0)
        assert plain(compiled()) == plain(expected)
        assert float(v) == after


@pytest.mark.parametrize(
    "form",
    [
        lambda w: sv.scan(lambda c, x: (c * w.value + x, c), tf.constant(1.0), tf.constant([1.0, 2.0]))[0],
        lambda w: sv.cond(w.value > 0, lambda: w.value**2, lambda: w.value),
        lambda w: sv.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * w.value), (0, tf.constant(1.0)))[1],
        lambda w: total(sv.vmap(lambda x: x * w.value**2)(tf.constant([1.0, 2.0]))),
    ],
)
def test_gradients_through_control_flow_in_a_graph(form: Callable[..., Any]) -> None:
    w = variable(2.0, "w")
    expected = float(sv.grad(lambda: form(w), w)())
    assert float(sv.jit(lambda: sv.grad(lambda: form(w), w)())()) == expected
    assert float(sv.jit(lambda: sv.grad(lambda: form(w))()[w])()) == expected


def test_what_a_graph_cannot_lift_is_an_error() -> None:
    v, w = variable(1.0, "v"), variable([1.0, 2.0], "w")
    with pytest.raises(sv.errors.ShapeError, match="the carry must keep its shape"):
        sv.jit(lambda: sv.scan(lambda c, x: (tf.stack([c, c]) * v, x), tf.constant(0.0), w.value))()
    with pytest.raises(TypeError, match="expected a result of the structure"):
        sv.jit(lambda: sv.cond(v.value > 0, lambda: (v.value,), lambda: {"a": v.value}))()
    with pytest.raises(TraceError, match="the examples write different values"):
        sv.jit(lambda: sv.vmap(lambda x: v.assign(x).value)(w.value))()
    assert float(v) == 1.0
