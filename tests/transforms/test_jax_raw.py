"""Raw transforms of JAX around reads and writes: right, or an error, and never a stale value."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

import statevar as sv
from tests.faults import assert_free
from tests.helpers import assert_same
from tests.internals import engine
from tests.transforms.on_jax import inc, nothing, nothing_changes, var

jax = pytest.importorskip("jax")
jnp = jax.numpy
jax_tracing = engine("jax_tracing")
pytestmark = pytest.mark.usefixtures("nothing_is_left_open")


# -- law 5: the library's own transforms ----------------------------------------------------------------------


def sharded(call: Callable[[], Any]) -> Any:
    """Runs ``call()`` in a ``shard_map`` without jit, in which each result is a tracer, also that of constants."""
    run: Any = getattr(jax, "shard_map", None) or importlib.import_module("jax.experimental.shard_map").shard_map
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("x",))
    spec = jax.sharding.PartitionSpec()
    return run(lambda x: (call(), x)[1], mesh=mesh, in_specs=spec, out_specs=spec)(jnp.ones(2))


READS: dict[str, Callable[[Any], Any]] = {
    "jit": lambda v: jax.jit(lambda: v.value + 0)(),
    "jit of vmap": lambda v: jax.jit(jax.vmap(lambda x: x + v.value))(jnp.ones(2)),
    "grad of jit": lambda v: jax.grad(jax.jit(lambda x: x * v.value))(1.0),
    "scan": lambda v: jax.lax.scan(lambda c, x: (c + v.value, None), 0.0, jnp.ones(3))[0],
    "while_loop": lambda v: jax.lax.while_loop(lambda c: c < v.value, lambda c: c + 1, 0.0),
    "cond": lambda v: jax.lax.cond(True, lambda x: x + v.value, lambda x: x, 0.0),
    "checkpoint": lambda v: jax.checkpoint(lambda x: x * v.value)(1.0),
    "eval_shape": lambda v: jax.eval_shape(lambda: v.value).shape and 0,
    "operator": lambda v: jax.jit(lambda x: x + v)(1.0),
    "jnp": lambda v: jax.jit(lambda: jnp.sin(v))(),
    "snapshot": lambda v: jax.jit(lambda: sv.snapshot(v)["v"] + 0)(),
    "snapshot in a list": lambda v: jax.jit(lambda: sv.snapshot([v, v])["v"] + 0)(),
    "shard_map": lambda v: sharded(lambda: v.value),
}

WRITES: dict[str, Callable[[Any], Any]] = {
    "jit": lambda v: jax.jit(lambda: nothing(inc(v)))(),
    "jit of an argument": lambda v: jax.jit(lambda a: nothing(inc(a)))(v),
    "scan": lambda v: jax.lax.scan(lambda c, x: ((inc(v), c)[1], None), 0.0, jnp.ones(3)),
    "scan over the carry": lambda v: jax.lax.scan(lambda c, x: (inc(c), None), v, jnp.ones(3)),
    "while_loop": lambda v: jax.lax.while_loop(lambda c: c < 3, lambda c: (inc(v), c + 1)[1], 0),
    "cond": lambda v: jax.lax.cond(True, lambda: nothing(inc(v)), lambda: None),
    "checkpoint": lambda v: jax.checkpoint(lambda x: (inc(v), x)[1])(1.0),
    "grad": lambda v: jax.grad(lambda x: (inc(v, x), x)[1])(1.0),
    "vmap": lambda v: jax.vmap(lambda x: (inc(v, x), x)[1])(jnp.ones(3)),
    "eval_shape": lambda v: jax.eval_shape(lambda: nothing(inc(v))),
    "shard_map": lambda v: sharded(lambda: inc(v)),
    "vmap of shard_map": lambda v: jax.vmap(lambda x: (sharded(lambda: inc(v)), x)[1])(jnp.ones(2)),
}

CONTEXTS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "alone": lambda call: call(),
    "sv.jit": lambda call: sv.jit(lambda: (call(), None)[1], backend="jax")(),
    "sv.grad": lambda call: sv.grad(lambda: (call(), jnp.float32(0.0))[1], var(1.0))(),
    "sv.scan": lambda call: sv.scan(lambda c, x: ((call(), c)[1], None), 0.0, jnp.ones(2)),
    "sv.cond": lambda call: sv.cond(jnp.array(True), lambda: (call(), 0.0)[1], lambda: 0.0),
    "sv.vmap": lambda call: sv.vmap(lambda x: (call(), x)[1])(jnp.ones(2)),
    "StatelessScope": lambda call: in_scope(call),
    "transaction": lambda call: in_transaction(call),
}


def in_scope(call: Callable[[], Any]) -> None:
    with sv.StatelessScope():
        call()


def in_transaction(call: Callable[[], Any]) -> None:
    with sv.transaction():
        call()


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("read", READS)
def test_a_read_in_a_raw_transform(read: str, context: str) -> None:
    """It would be frozen: nnx and brainstate give the old value, or leak a tracer."""
    v = var(2.0, name="v")
    for _ in range(2):
        with nothing_changes(v), pytest.raises(sv.errors.TraceError, match="^read: .*, at 'v'. Hint: .*sv.|list it"):
            CONTEXTS[context](lambda: READS[read](v))


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("write", WRITES)
def test_a_write_in_a_raw_transform(write: str, context: str) -> None:
    """It would be lost, or leak a tracer."""
    v = var(2.0, name="v")
    for _ in range(2):
        with (
            nothing_changes(v),
            jax.checking_leaks(),
            pytest.raises((sv.errors.TraceError, sv.errors.ReadOnlyError), match="assign_add: |read: "),
        ):
            CONTEXTS[context](lambda: WRITES[write](v))


def test_a_write_in_vmap_in_shard_map() -> None:
    v = var(2.0, name="v")
    with nothing_changes(v), pytest.raises(sv.errors.TraceError, match="^assign_add: this code is being traced"):
        sharded(lambda: jax.vmap(lambda x: (inc(v), x)[1])(jnp.ones(2)))
    assert_same(inc(v), 3.0)


def test_a_raw_program_that_ran_before() -> None:
    """Pitfall P1: JAX remembers a trace by the function, also from before."""
    v = var(2.0, name="v")
    raw = jax.jit(lambda x: x * v.value)

    @sv.jit
    def step(x: Any) -> Any:
        v.assign_add(0.0)
        return raw(x)

    with pytest.raises(sv.errors.TraceError, match="^read: .*at 'v'"):
        raw(1.0)
    for x in (1.0, jnp.ones(2), jnp.ones(3)):
        with pytest.raises(sv.errors.TraceError, match="^read: .*at 'v'"):
            step(x)
    v.assign(5.0)
    with pytest.raises(sv.errors.TraceError, match="^read: .*at 'v'"):
        raw(1.0)
    assert_free(v)


def test_what_the_library_makes_right_works() -> None:
    """jax.grad and jax.vmap keep nothing."""
    v = var(3.0)

    def f(x: Any) -> Any:
        return x**2 * v.value

    def check() -> list[Any]:
        return [
            jax.grad(f)(2.0),
            jax.grad(jax.grad(f))(2.0),
            jax.vmap(f)(jnp.array([1.0, 2.0])).sum(),
            jax.vmap(jax.grad(f))(jnp.array([1.0, 2.0])).sum(),
            jax.jvp(f, (2.0,), (1.0,))[1],
            jax.vjp(f, 2.0)[1](1.0)[0],
            jax.jacfwd(f)(2.0),
        ]

    for value in (3.0, 4.0):
        v.assign(value)
        expected = [4 * value, 2 * value, 5 * value, 6 * value, 4 * value, 4 * value, 4 * value]
        for got in (check(), sv.jit(check)()):
            for each, right in zip(got, expected, strict=True):
                assert_same(each, right, rtol=1e-6)
    with jax.disable_jit():
        assert_same(jax.jit(f)(2.0), 16.0)


def test_raw_jit_of_functionalize_is_the_way_out() -> None:
    v = var([1.0, 2.0])
    pure = jax.jit(sv.functionalize(lambda x: inc(v, x).value.sum(), v))
    out, new = pure(v.value, 1.0)
    assert_same(out, 5.0)
    assert_same(new, [2.0, 3.0])
    v.assign(new)
    assert_same(pure(v.value, 1.0)[0], 7.0)
    steps = jax.lax.scan(lambda value, x: pure(value, x)[::-1], v.value, jnp.ones(3))
    assert_same(steps[0], [5.0, 6.0])


# -- law 5, when JAX hides its semi-public names -------------------------------------------------------------


def without(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Hides hooks of JAX's from the adapter."""

    def hide(patch: pytest.MonkeyPatch) -> None:
        for name in names:
            patch.setattr(jax_tracing, name, None)

    return hide


def without_parents(patch: pytest.MonkeyPatch) -> None:
    """Traces do not tell inside which other trace they run."""
    real: Any = jax_tracing._trace
    known: dict[int, tuple[Any, Any]] = {}

    def opaque() -> Any:
        trace = real()
        if type(trace) is jax_tracing._Eager:
            return trace
        if id(trace) not in known:
            known[id(trace)] = trace, type(type(trace).__name__, (), {})()
        return known[id(trace)][1]

    patch.setattr(jax_tracing, "_trace", opaque)


HIDDEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "nothing": without(),
    "context": without("_context"),
    "take": without("_take"),
    "eager": without("_Eager"),
    "under jit": without("_under_jit"),
    "context and under jit": without("_context", "_under_jit"),
    "eager and context": without("_Eager", "_context"),
    "parents": without_parents,
    "passing": lambda patch: patch.setattr(jax_tracing, "_PASSING", frozenset()),
}


@pytest.mark.parametrize("hidden", HIDDEN)
def test_with_hooks_missing_nothing_is_stale(hidden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    HIDDEN[hidden](monkeypatch)
    v = var(2.0, name="v")
    assert_same(inc(v).value, 3.0)
    f = sv.jit(lambda x: inc(v, x).value)
    for _ in range(2):
        v.assign(2.0)
        assert_same(f(1.0), 3.0)
    v.assign(2.0)
    assert_same(sv.grad(lambda: v.value**2, v)(), 4.0)
    assert_same(sv.jit(lambda: sv.scan(lambda c, x: (inc(v, x).value, None), 0.0, jnp.ones(3))[0])(), 5.0)
    v.assign(2.0)
    for context in ("alone", "sv.jit", "sv.grad", "sv.scan", "StatelessScope", "transaction"):
        for read in READS.values():
            with pytest.raises(sv.errors.TraceError, match="^read: .*'v'"):
                CONTEXTS[context](lambda read=read: read(v))  # type: ignore[misc]
        for write in WRITES.values():
            with pytest.raises((sv.errors.TraceError, sv.errors.ReadOnlyError)):
                CONTEXTS[context](lambda write=write: write(v))  # type: ignore[misc]

    def differentiated() -> Any:
        return jax.grad(lambda x: x * v.value)(1.0)

    def mapped() -> Any:
        return jax.vmap(lambda x: x * v.value)(jnp.ones(1))[0]

    for fn in (differentiated, mapped, sv.jit(differentiated), sv.jit(mapped)):
        for value in (2.0, 3.0):
            v.assign(value)
            try:
                got = fn()
            except sv.errors.TraceError:
                assert hidden != "nothing"  # strict; or right
            else:
                assert_same(got, value)
    assert_free(v)
