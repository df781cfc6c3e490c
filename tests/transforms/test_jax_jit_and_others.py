"""`sv.jit` on JAX beside errors, threads, tasks, transactions and other compiled functions."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import Any

import pytest

import statevar as sv
from tests.faults import INTERRUPT, Interruption, assert_free, nothing_happens
from tests.helpers import PATIENCE, assert_same, until
from tests.threads import in_threads, is_waiting, repeat
from tests.transforms.on_jax import Counted, inc, nothing, nothing_changes, var

jax = pytest.importorskip("jax")
jnp = jax.numpy
pytestmark = pytest.mark.usefixtures("nothing_is_left_open")


# -- jit: errors ------------------------------------------------------------------------------------------------------


def raising(error: type[BaseException]) -> None:
    raise error("injected")


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, INTERRUPT])
def test_an_exception_in_a_trace_changes_nothing(error: type[BaseException]) -> None:
    v, w = var([0.0, 0.0]), var([1.0])
    fails = True

    def step() -> None:
        inc(v)
        w.assign(w.value * 2)
        v[0] = 5.0
        with sv.transaction(v):
            inc(v)
            if fails:
                raising(error)

    f = sv.jit(step)
    for _ in range(2):
        with nothing_happens(error, v, w), jax.checking_leaks():
            f()
    fails = False
    f()
    assert_same(v, [6.0, 2.0])
    fails = True
    f()  # the program is compiled, and Python runs no more
    w.assign([1.0, 1.0], validate_shape=False)
    with nothing_happens(error, v):
        f()
    assert_free(w)


@pytest.mark.own_process(shared=True)
@pytest.mark.parametrize("by_name", [False, True])
def test_ctrl_c_at_any_moment_of_a_warm_call(by_name: bool) -> None:
    """Python looks for signals when a call returns: JAX has eaten the old values by then."""
    v, w, x = var(0.0), var(1.0), jnp.float32(1.0)

    @sv.jit
    def f(x: Any) -> None:
        v.assign_add(x * w.value)

    def step() -> None:
        f(x=x) if by_name else f(x)

    step()
    for nth in range(1, 100):
        before = float(v)
        step()  # which brings the array back to the program
        interruption = Interruption(nth)
        error = interruption.run(step)
        assert (error is None) == (not interruption.where)
        assert float(v) - before in (1.0, 2.0), interruption.where
        assert_free(v, w)
        if error is None:
            assert nth > 3, "it was interrupted nowhere"
            return
    raise AssertionError("it never ended")


def test_an_exception_while_it_runs_leaves_the_values_or_says_what_is_lost() -> None:
    """Without donation the values survive; with it, what is lost says so, and everything is free."""

    def fail(_: Any) -> Any:
        raise RuntimeError("injected")

    def step(x: Any) -> None:
        v.assign(jax.pure_callback(fail, jax.ShapeDtypeStruct((2,), "float32"), v.value + x))
        jax.block_until_ready(x)

    for donate in (False, True):
        v = var([1.0, 2.0], name="v")
        f = sv.jit(step, donate=donate)
        with pytest.raises(jax.errors.JaxRuntimeError, match="injected"):
            f(1.0)
            jax.block_until_ready(v.value)
        if v.version == 0:  # JAX may tell of it after the call
            try:
                assert_same(v, [1.0, 2.0])
            except sv.errors.UninitializedError:
                assert donate
                assert not v.is_initialized
        assert_same(v.assign([3.0, 4.0]), [3.0, 4.0])
        again = sv.jit(partial(lambda v: nothing(inc(v)), v))
        again()
        assert_same(v, [4.0, 5.0])
        assert_free(v)


# -- jit: threads, tasks, transactions ---------------------------------------------------------------------------------


def test_no_update_is_lost() -> None:
    """nnx.jit: 318 of 1001; brainstate: 448; jax.Ref: Array has been deleted."""
    v, n = var(0.0), var(0)
    f = sv.jit(lambda: nothing(inc(v), n.assign_add(1)))
    in_threads(*[repeat(125, f)] * 8)
    assert_same(v, 1000.0)
    assert_same(n, 1000)
    assert v.version == n.version == 1000


def test_jitted_and_eager_writers_lose_nothing() -> None:
    v, w = var(0.0), var(0.0)
    f = sv.jit(lambda: nothing(inc(v), inc(w)))
    g = sv.jit(lambda: nothing(inc(w), inc(v)))

    def transfer() -> None:
        with sv.transaction(w, v):
            inc(v)
            f()
            inc(w)

    in_threads(*[repeat(50, each) for each in (f, g, transfer, lambda: inc(v), f, g)])
    assert_same(v, 350.0)
    assert_same(w, 300.0)
    assert_free(v, w)


def test_others_see_all_of_a_call_or_nothing() -> None:
    v, w = var(0.0), var(0.0)
    f = sv.jit(lambda: nothing(inc(v), inc(w)))
    f()
    end = threading.Event()

    def look() -> None:
        while not end.is_set():
            cut = sv.snapshot(v, w)
            assert float(cut[v]) == float(cut[w])

    def write() -> None:
        try:
            repeat(300, f)()
        finally:
            end.set()

    in_threads(look, write)


def test_no_thread_sees_a_tracer() -> None:
    """Brainstate's states hold the tracer while a function is traced."""
    v, w = var(0.0), var(0.0)
    began, looked = threading.Event(), threading.Event()
    seen: list[Any] = []

    def step() -> None:
        inc(v)
        began.set()
        assert looked.wait(PATIENCE)

    def look() -> None:
        assert began.wait(PATIENCE)
        seen.extend([v.value, v.version, v.numpy(), sv.snapshot(v)[v]])
        inc(v, 10.0)  # nor does it wait: no lock is held while JAX traces
        inc(w)
        seen.append(v.value)
        looked.set()

    in_threads(sv.jit(step), look)
    assert not any(isinstance(each, jax.core.Tracer) for each in seen)
    assert [float(each) for each in seen] == [0.0, 0, 0.0, 0.0, 10.0]
    assert_same(v, 11.0)
    assert_free(v, w)


def test_two_threads_trace_at_once_and_do_not_wait() -> None:
    v, w = var(0.0), var(0.0)
    barrier, met = threading.Barrier(2), threading.local()

    def step(x: Any) -> Any:
        if not hasattr(met, "once"):
            met.once = True
            barrier.wait(PATIENCE)
        inc(v, x)
        inc(w, v.value)
        return v.value

    f = sv.jit(step)

    def call(x: Any) -> None:
        f(x)

    try:
        in_threads(lambda: call(jnp.ones(())), lambda: call(jnp.ones((), "int32")))
    except threading.BrokenBarrierError:
        pytest.fail("one of them waits for the other")
    assert_same(v, 2.0)
    assert_same(w, 3.0)
    assert_free(v, w)


def test_tasks_take_turns_around_calls() -> None:
    v = var(0.0)
    f = sv.jit(lambda: inc(v).value)

    async def one() -> None:
        for _ in range(5):
            async with sv.transaction(v):
                before = float(v)
                await asyncio.sleep(0)
                assert float(f()) == before + 1.0
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(one() for _ in range(5)))

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert_same(v, 25.0)


def test_a_call_inside_a_transaction_is_part_of_it() -> None:
    v, w = var([1.0]), var([5.0])
    f = sv.jit(lambda x: (inc(v, x), w.assign(v.value * 2), v.value)[2])
    f(1.0)
    with sv.transaction(v, w):
        inc(v)
        assert_same(f(1.0), [4.0])
        assert_same(w, [8.0])
        seen: list[Any] = []
        in_threads(lambda: seen.append((v.numpy().tolist(), w.numpy().tolist())))
        assert seen == [([2.0], [4.0])]
    assert_same(v, [4.0])
    for called in (f, sv.jit(lambda x: inc(v, x))):  # the second one is traced inside
        with nothing_changes(v, w), pytest.raises(KeyError), sv.transaction(v):
            called(1.0)
            called(1.0)
            raise KeyError
    with nothing_changes(v, w), sv.rollback(v, w):
        f(3.0)
    with sv.StatelessScope() as scope, nothing_changes():
        f(1.0)
    assert_same(scope.get_current_value(v), [5.0])
    assert_same(v, [4.0])
    assert_free(v, w)


def test_a_program_waits_for_a_transaction() -> None:
    v = var(0.0)
    f = sv.jit(lambda: v.assign(v.value * 2 + 1))
    f()
    order: list[str] = []

    def call() -> None:
        f()
        order.append("called")

    caller = threading.Thread(target=call)
    with sv.transaction(v):
        inc(v, 10.0)
        caller.start()
        until(lambda: order or is_waiting(caller))
        order.append("committed")
    caller.join()
    assert order == ["committed", "called"], "it did not wait"
    assert_same(v, 23.0)
    assert_free(v)


def test_programs_run_inside_an_update() -> None:
    v, w = var(1.0), var(2.0)
    f = sv.jit(lambda x: (inc(w, x), x * 2)[1])
    v.update(f)
    assert_same(v, 2.0)
    assert_same(w, 3.0)
    g = sv.jit(lambda: inc(v))
    with pytest.raises(sv.errors.ReentrantWriteError):
        v.update(lambda a: (g(), a)[1])
    assert_same(v, 2.0)
    assert_free(v, w)


def test_watchers_see_the_versions() -> None:
    v = var(0.0)
    f = sv.jit(lambda: nothing(inc(v), inc(v)))
    seen: list[tuple[int, float]] = []
    with v.subscribe(lambda variable, version: seen.append((version, float(variable)))):
        f()
        f()
        with sv.transaction(v):
            f()
    assert [version for version, _ in seen] == [1, 2, v.version]
    assert [value for _, value in seen] == [2.0, 4.0, 6.0]
    reached: list[bool] = []
    target = v.version + 3
    waiter = threading.Thread(target=lambda: reached.append(v.wait(target, timeout=PATIENCE)))
    waiter.start()
    until(lambda: is_waiting(waiter))
    repeat(3, f)()
    waiter.join()
    assert reached == [True]


def test_many_variables_are_one_program() -> None:
    variables = [var(float(i)) for i in range(200)]
    step = Counted(lambda: nothing(*[v.assign_add(1.0) for v in variables]))
    f = sv.jit(step)
    f()
    f()
    assert step.since() == 2
    assert [float(v) for v in variables] == [i + 2.0 for i in range(200)]


def test_a_variable_of_another_library_is_an_error() -> None:
    v, n = var(0.0), sv.Variable(1.0, name="n")
    with nothing_changes(v), pytest.raises(sv.errors.TraceError, match="numpy"):
        sv.jit(lambda: inc(v, n.value))()
    hidden = sv.jit(lambda: inc(v, get().value), backend="jax")

    def get() -> sv.Variable:
        return n

    with (
        nothing_changes(v),
        pytest.raises(
            sv.errors.TraceError,
            match="^jit: jax compiles this function, but the variable belongs to numpy: its current value would be "
            "baked into the compiled function, at 'n'. Hint: create it with backend='jax', or read it outside the "
            "function and pass the value.",
        ),
    ):
        hidden()


# -- jit in jit -------------------------------------------------------------------------------------------------------


def test_a_program_in_a_program_writes_as_often_as_it_is_called() -> None:
    v = var(0.0)
    f = sv.jit(lambda: nothing(inc(v)))
    g = sv.jit(lambda: nothing(f(), f(), inc(v)))
    g()
    g()
    f()
    assert_same(v, 7.0)
    assert_free(v)


def test_a_program_in_a_raw_one_is_an_error() -> None:
    """jax.jit around sv.jit would lose the writes."""
    v = var(0.0, name="v")
    f = sv.jit(lambda: inc(v).value)
    with nothing_changes(v), pytest.raises(sv.errors.TraceError, match="at 'v'"):
        jax.jit(f)()
    f()
    with pytest.raises(sv.errors.TraceError, match="at 'v'"):
        jax.jit(f)()
    assert_same(v, 1.0)
    assert_free(v)


def test_the_numbers_of_a_key_of_jax_random() -> None:
    key = jax.random.key(3)
    v = sv.Variable(jax.random.key_data(key), trainable=False)

    @sv.jit
    def draw() -> Any:
        key, used = jax.random.split(jax.random.wrap_key_data(v.value))
        v.assign(jax.random.key_data(key))
        return jax.random.normal(used)

    assert float(draw()) != float(draw())
