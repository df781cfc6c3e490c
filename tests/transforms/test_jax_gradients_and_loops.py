"""Gradients and control flow on JAX: what its peers get wrong."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import assert_free, nothing_happens
from tests.helpers import assert_same
from tests.threads import in_threads
from tests.transforms.on_jax import Counted, inc, nothing, nothing_changes, var

jax = pytest.importorskip("jax")
jnp = jax.numpy
pytestmark = pytest.mark.usefixtures("nothing_is_left_open")


# -- gradients --------------------------------------------------------------------------------------------------------


def test_a_gradient_keeps_running_statistics() -> None:
    p, s = var([1.0, 1.0]), var(0.0, trainable=False)
    fn = Counted(lambda: (s.assign_add(jax.lax.stop_gradient(p.value.sum())), (p.value**2).sum())[1])
    value, gradients = sv.value_and_grad(fn)()
    assert_same(value, 2.0)
    assert list(gradients) == [p]
    assert_same(gradients[p], [2.0, 2.0])
    assert_same(s, 2.0)
    assert s.version == 1
    assert p.version == 0
    assert_free(p, s)


def test_a_gradient_goes_through_a_write() -> None:
    """jax.Ref: an error when what is differentiated is written to it."""
    p, m = var(3.0), var(0.0, trainable=False)

    def loss() -> Any:
        m.assign(p.value**2)
        m.assign_add(p.value)
        return m.value * p.value

    with jax.checking_leaks():
        for compiled in (lambda f: f, sv.jit):
            gradient = compiled(sv.grad(loss, p))()
            assert_same(gradient, 27.0 + 6.0)
            assert_same(m, 12.0)
            assert not isinstance(m.value, jax.core.Tracer)
    assert m.version == 2
    assert_free(p, m)


def test_a_gradient_keeps_no_traced_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """When JAX looks for leaks, which only newer versions do here, every value of the trace is gone."""
    p, m = var(3.0), var(0.0, trainable=False)
    traced: list[weakref.ref[Any]] = []
    alive: list[Any] = []
    real = jax.value_and_grad

    def loss() -> Any:
        m.assign(p.value**2)
        traced.extend(weakref.ref(each.value) for each in (p, m))
        return m.value

    def value_and_grad(*args: Any, **options: Any) -> Any:
        differentiated = real(*args, **options)

        def call(values: Any) -> Any:
            result = differentiated(values)
            gc.collect()
            alive.extend(each() for each in traced)
            return result

        return call

    monkeypatch.setattr(jax, "value_and_grad", value_and_grad)
    assert_same(sv.grad(loss, p)(), 6.0)
    assert alive == [None, None]


def test_a_training_step_is_traced_once_and_learns() -> None:
    p, s = var([1.0, 1.0]), var(0.0, trainable=False)

    def loss() -> Any:
        inc(s)
        return (p.value**2).sum()

    def step() -> Any:
        value, gradient = sv.value_and_grad(loss, p)()
        p.assign_sub(0.1 * gradient)
        return value

    counted = Counted(step)
    f = sv.jit(counted)
    values = [float(f()) for _ in range(3)]
    np.testing.assert_allclose(values, [2.0, 2 * 0.8**2, 2 * 0.8**4], rtol=1e-5)
    assert counted.since() == 2
    assert_same(s, 3.0)
    assert_same(p, [0.8**3] * 2, rtol=1e-5)
    assert_free(p, s)


def test_a_step_of_optax_is_that_of_raw_arrays() -> None:
    optax = pytest.importorskip("optax")
    v = [var([1.0, -2.0]), var(3.0)]
    optimizer = optax.adam(0.1)
    start = optimizer.init([each.value for each in v])
    state = jax.tree.map(lambda x: sv.Variable(x, trainable=False, backend="jax"), start)
    raw, raw_state = [each.value for each in v], start

    def loss(values: Any) -> Any:
        return (values[0] ** 2).sum() * values[1] ** 2

    @sv.jit
    def step() -> Any:
        value, gradients = sv.value_and_grad(lambda: loss([each.value for each in v]), v)()
        now = jax.tree.map(lambda each: each.value, state, is_leaf=lambda each: isinstance(each, sv.Variable))
        updates, new = optimizer.update(gradients, now)
        for each, update in zip(v, updates, strict=True):
            each.assign_add(update)
        jax.tree.map(
            lambda each, x: nothing(each.assign(x)), state, new, is_leaf=lambda each: isinstance(each, sv.Variable)
        )
        return value

    for _ in range(5):
        gradients = jax.grad(loss)(raw)
        updates, raw_state = optimizer.update(gradients, raw_state)
        raw = optax.apply_updates(raw, updates)
        step()
    for each, right in zip(v, raw, strict=True):
        assert_same(each, right, rtol=1e-5)


def test_higher_orders_are_right() -> None:
    p = var(2.0)
    compilers: list[Any] = [lambda f: f, sv.jit]
    for compiled in compilers:
        assert_same(compiled(sv.grad(lambda: sv.grad(lambda: p.value**3, p)(), p))(), 12.0)
        assert_same(compiled(sv.grad(lambda: sv.grad(lambda: sv.grad(lambda: p.value**4, p)(), p)(), p))(), 48.0)
        assert_same(compiled(sv.grad(lambda: jax.grad(lambda x: x**2 * p.value)(3.0), p))(), 6.0)
    assert_same(jax.grad(lambda x: sv.grad(lambda: p.value**2 * x, p)())(3.0), 4.0)
    assert_free(p)


def test_gradients_in_threads_lose_no_write() -> None:
    w, calls = var(2.0), var(0.0, trainable=False)

    def loss(x: Any) -> Any:
        inc(calls)
        return w.value**2 * x

    f = sv.value_and_grad(loss)
    results: list[float] = []

    def run(x: float) -> None:
        results.extend([float(f(x)[1][w]) / x for _ in range(25)])

    in_threads(*(lambda x=x: run(x) for x in (1.0, 2.0, 3.0, 4.0)))
    assert results == [4.0] * 100
    assert_same(calls, 100.0)
    assert_free(w, calls)


def test_no_thread_sees_a_tracer_of_a_gradient() -> None:
    w, s = var(2.0), var(0.0, trainable=False)
    seen: list[Any] = []

    def loss() -> Any:
        s.assign(w.value * 3)
        in_threads(lambda: seen.extend([w.value, s.value, s.version]))
        return s.value

    assert_same(sv.grad(loss, w)(), 3.0)
    assert not any(isinstance(each, jax.core.Tracer) for each in seen)
    assert {float(each) for each in seen[1::3]} == {0.0}
    assert_same(s, 6.0)


def test_an_exception_in_a_gradient_changes_nothing() -> None:
    w, s = var([2.0]), var([0.0], trainable=False)

    def loss() -> Any:
        inc(s)
        raise RuntimeError("injected")

    for transform in (lambda f: sv.grad(f, w), sv.grad, lambda f: sv.jit(sv.grad(f, w))):
        with nothing_happens(RuntimeError, w, s), jax.checking_leaks():
            transform(loss)()


def test_a_gradient_in_a_transaction_is_part_of_it() -> None:
    w, s = var(2.0), var(0.0, trainable=False)
    f = sv.grad(lambda: (inc(s, w.value), w.value**2)[1], w)
    with sv.transaction(w, s):
        w.assign(3.0)
        assert_same(f(), 6.0)
        assert_same(s, 3.0)
        with pytest.raises(KeyError), sv.transaction():
            f()
            raise KeyError
        assert_same(s, 3.0)
    assert_same(s, 3.0)
    with sv.StatelessScope({w: 10.0}) as scope:
        assert_same(f(), 20.0)
    assert_same(scope.get_current_value(s), 13.0)
    assert_same(s, 3.0)
    assert_free(w, s)


# -- control flow that the peers get wrong ----------------------------------------------------------------------------


def test_a_condition_reads_what_the_body_writes() -> None:
    """jax.Ref: the condition sees the first value for ever."""
    v = var(0)

    def loop() -> Any:
        return sv.while_loop(lambda i: (v.value < 4) & (i < 100), lambda i: (inc(v, 1), i + 1)[1], 0)

    assert int(loop()) == 4
    assert_same(v, 4)
    v.assign(0)
    f = sv.jit(loop)
    assert [int(f()), int(f())] == [4, 0]
    assert_same(v, 4)


def test_a_scan_that_writes_what_is_no_carry() -> None:
    """nnx.scan with a broadcast variable: [1, 1, 1], and 0 in the end."""
    v = var(0.0)
    runs: list[Callable[[Any], Any]] = [lambda f: f(), lambda f: sv.jit(f)()]
    for run in runs:
        v.assign(0.0)
        _, ys = run(lambda: sv.scan(lambda c, _: (c, inc(v).value), 0.0, jnp.ones(3)))
        assert_same(ys, [1.0, 2.0, 3.0])
        assert_same(v, 3.0)


def test_a_map_that_writes_what_is_one_for_all() -> None:
    v, each = var(0.0, name="v"), var([0.0, 0.0, 0.0])
    with (
        nothing_changes(v),
        pytest.raises(
            sv.errors.TraceError,
            match="^vmap: the examples write different values to a variable that they share, at 'v'. Hint: give the "
            "variable an axis",
        ),
    ):
        sv.vmap(lambda x: (inc(v, x), x)[1])(jnp.arange(3.0))
    scale = var(10.0)
    f = sv.jit(sv.vmap(lambda x: inc(each, x * scale.value).value * 2, variable_axes={each: 0}))
    assert_same(f(jnp.arange(3.0)), [0.0, 20.0, 40.0])
    assert_same(each, [0.0, 10.0, 20.0])
    assert_free(v, each)


def test_remat_of_code_that_writes_writes_once() -> None:
    w, calls = var(2.0), var(0.0, trainable=False)
    block = sv.remat(lambda x: (inc(calls), jnp.sin(w.value * x))[1])
    compilers: list[Any] = [lambda f: f, sv.jit]
    for n, compiled in enumerate(compilers):
        assert_same(compiled(sv.grad(lambda: block(3.0), w))(), 3 * np.cos(6.0), rtol=1e-5)
        assert_same(calls, n + 1.0)


def test_one_layer_used_twice_counts_twice() -> None:
    """equinox: two states, unless it is told."""
    calls, w = var(0.0, trainable=False), var(2.0)

    def layer(x: Any) -> Any:
        inc(calls)
        return x * w.value

    assert_same(sv.jit(lambda x: layer(layer(x)))(3.0), 12.0)
    assert_same(calls, 2.0)
    assert_same(sv.grad(lambda: layer(layer(jnp.float32(3.0))), w)(), 12.0)
    assert_same(calls, 4.0)


def test_nothing_leaks() -> None:
    v, w = var([0.0, 0.0]), var(1.0)

    def body(carry: Any, x: Any) -> Any:
        return carry, inc(v, x).value * w.value

    with jax.checking_leaks():
        sv.jit(lambda: sv.scan(body, 0.0, jnp.arange(3.0)))()
        sv.grad(lambda: sv.remat(lambda x: inc(v, x).value.sum() * w.value)(2.0), w)()
        sv.cond(jnp.array(True), lambda: nothing(inc(v)), lambda: nothing(inc(w)))
        sv.vmap(lambda x: inc(v, x).value.sum(), variable_axes={v: 0})(jnp.ones(2))
    for each in (v, w):
        assert not isinstance(each.value, jax.core.Tracer)
    assert_free(v, w)


def test_programs_are_collected() -> None:
    """Pitfall P11: a program made in a loop must not keep its variables for ever."""

    def program() -> weakref.ref[sv.Variable]:
        v = var(np.zeros(3, "float32"))
        sv.jit(lambda: nothing(inc(v)))()
        return weakref.ref(v)

    alive = program()
    gc.collect()
    assert alive() is None


class Pair:
    """A node of a nest, of somebody's own."""

    fails = False

    def __init__(self, first: Any, second: Any) -> None:
        if Pair.fails:
            raise ZeroDivisionError
        self.first, self.second = first, second


jax.tree_util.register_pytree_node(Pair, lambda pair: ((pair.first, pair.second), None), lambda _, parts: Pair(*parts))


@pytest.mark.parametrize("donate", [True, False])
def test_a_result_that_cannot_be_put_together_loses_no_value(donate: bool) -> None:
    v = sv.Variable(jnp.zeros(3))

    def program() -> Any:
        v.assign_add(1.0)
        return Pair(v.value.sum(), {"double": v.value * 2})

    step = sv.jit(program, donate=donate)
    for _ in range(2):
        pair = step()
    assert float(pair.first) == 6.0
    assert pair.second["double"].tolist() == [4.0] * 3
    Pair.fails = True
    try:
        with pytest.raises(ZeroDivisionError):
            step()
    finally:
        Pair.fails = False
    assert v.value.tolist() == [3.0] * 3, "the step was done"
    assert float(step().first) == 12.0
