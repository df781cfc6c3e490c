"""`sv.jit` on JAX: what its peers lose, freeze or leak, we keep, see, or refuse."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import assert_free
from tests.helpers import address, assert_same
from tests.threads import in_threads, repeat
from tests.transforms.on_jax import Counted, inc, nothing, nothing_changes, var

jax = pytest.importorskip("jax")
jnp = jax.numpy
pytestmark = pytest.mark.usefixtures("nothing_is_left_open")

#: How often a new signature is traced: JAX before 0.10 forgets between ``lower`` and the call.
ONCE = 1 if jax.__version_info__ >= (0, 10) else 2


# -- jit: what is read and written --------------------------------------------------------------------------


def test_it_finds_what_is_read_and_written() -> None:
    """Through a closure, an attribute and containers; values read later are seen."""
    v, r = var([0.0, 0.0]), var([3.0, 3.0])
    holder = SimpleNamespace(deep={"r": [r]})

    def step(x: Any) -> Any:
        v.assign_add(holder.deep["r"][0].value * x)
        return v.value.sum()

    f = sv.jit(step)
    assert_same(f(1.0), 6.0)
    assert_same(f(2.0), 18.0)
    r.assign([0.0, 0.0])  # nnx.jit and jax.jit keep the old value
    assert_same(f(5.0), 18.0)
    v.assign([1.0, 2.0])
    r.assign([1.0, 1.0])
    assert_same(f(1.0), 5.0)
    assert_same(v, [2.0, 3.0])
    assert v.version == 5
    assert r.version == 2
    assert_free(v, r)


def test_it_traces_again_for_shapes_and_not_for_values() -> None:
    v, r = var([0.0, 0.0]), var(1.0)
    step = Counted(lambda x: (v.assign_add(r.value), x * 2)[1])
    f = sv.jit(step)
    f(jnp.ones(3))
    assert step.since() == 2, "once to find the variables, once with their values"
    for _ in range(3):
        f(jnp.ones(3))
        r.assign_add(1.0)
        v.assign([9.0, 9.0])
    assert step.since() == 0, "values are no part of the program"
    held = v.value
    f(jnp.ones(3))
    assert step.since() == 0, "nor is who holds them"
    f(jnp.ones(4))
    assert step.since() == ONCE
    v.assign(jnp.zeros(5), validate_shape=False)
    f(jnp.ones(4))
    assert step.since() == ONCE
    f(jnp.ones(4))
    f(jnp.ones(3))
    assert step.since() <= ONCE**2, "the new shape with three"
    assert_same(held, [9.0, 9.0])
    assert_same(v, np.full(5, 3 * float(r)))
    assert v.shape == (5,)


def test_python_numbers_do_not_trace_again() -> None:
    """Pitfall P5: weak types must not reach a variable."""
    v = var(0.0)
    step = Counted(lambda x: v.assign(x * 2.0).value)
    f = sv.jit(step)
    for x in (1.0, 2.0, 3.0):
        f(x)
    f(np.float32(4.0))
    step.since()
    f(5.0)
    v.assign(1)
    f(6.0)
    assert step.since() == 0
    assert not v.value.weak_type
    assert_same(v.value, np.array(12.0, "float32"), dtype=True)


def test_each_value_of_a_static_argument_is_a_program() -> None:
    """Each value is a program, with its own writes."""
    a, b = var(0.0), var(0.0)

    def step(x: Any, flag: bool, *, times: int = 1) -> Any:
        for _ in range(times):
            inc(a)
        if flag:
            inc(b)
        return x

    counted = Counted(step)
    f = sv.jit(counted, static_argnums=1, static_argnames="times")
    f(1.0, False)
    f(1.0, False)
    assert counted.since() == 2
    f(1.0, True)
    f(1.0, False)
    f(1.0, True)
    assert (float(a), float(b)) == (5.0, 2.0)
    counted.since()
    f(1.0, True, times=3)
    f(2.0, True, times=3)
    assert counted.since() == ONCE**2  # an older JAX also tells 1.0 and 2.0 apart
    assert (float(a), float(b)) == (11.0, 4.0)
    f = sv.jit(counted, static_argnums=(-1,))
    f(1.0, True)
    assert (float(a), float(b)) == (12.0, 5.0)
    # An older JAX lets it in, as an array.
    with pytest.raises(TypeError, match="static argument of type numpy.ndarray is not hashable" if ONCE == 1 else None):
        sv.jit(step, static_argnames=["times"])(1.0, False, times=np.ones(2))  # type: ignore[arg-type]


def test_each_way_to_write_works() -> None:
    def writes(v: sv.Variable) -> None:
        v.assign([4.0, 5.0, 6.0])
        v.assign_add(1.0).assign_sub([0.0, 1.0, 2.0])
        v *= 2.0
        v /= 4.0
        v[::-1] = [1.0, 2.0, 3.0]
        v[np.array([False, True, True])] = -1.0
        v.at[[0, 0, 2]].add(1.0)
        v.at[1].multiply(3.0)
        v.update(lambda a: a + 1)
        v.assign_add(1.0, use_locking=False)
        sv.assign(v, v.value * 2)

    v, alone = var([1.0, 2.0, 3.0]), var([1.0, 2.0, 3.0])
    writes(alone)
    sv.jit(writes)(v)
    assert_same(v, alone.numpy())
    assert v.version == 1, "a call is one step for everybody else"
    assert_free(v)


def test_what_needs_a_number_says_so() -> None:
    """Python cannot branch on, or edit, what is only known when the program runs."""
    v = var([1.0, 2.0], name="w")

    def edits() -> None:
        with v.edit() as array:
            array[0] = 1.0

    for wrong in (
        lambda: 1 if v.value[0] > 0 else 0,
        lambda: float(v.value[0]),
        lambda: v.numpy(),
        lambda: np.asarray(v),
        edits,
    ):
        with (
            nothing_changes(v),
            pytest.raises((jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)),
        ):
            sv.jit(wrong)()


def test_library_functions_take_a_variable() -> None:
    """``__jax_array__`` alone no longer does for jnp.sin."""
    v = var([1.0, 2.0])
    f = sv.jit(lambda: (jnp.sin(v), jnp.matmul(v, v), jnp.where(v > 1, v, 0.0), jnp.stack([v, v]), v.value + v, v @ v))
    for got, expected in zip(
        f(),
        (np.sin([1.0, 2.0]), 5.0, [0.0, 2.0], [[1.0, 2.0]] * 2, [2.0, 4.0], 5.0),
        strict=True,
    ):
        assert_same(got, expected, rtol=1e-6)
    v.assign([0.0, 0.0])
    assert_same(f()[1], 0.0)


def test_what_comes_out_is_no_variable() -> None:
    v = var([1.0, 2.0], name="w")
    out: Any = sv.jit(lambda: {"v": inc(v), "x": [v.value]})()
    assert type(out["v"]) is sv.FrozenVariable
    assert_same(out["v"].value, [2.0, 3.0])
    assert_same(out["x"][0], [2.0, 3.0])
    inc(v)
    assert_same(out["v"].value, [2.0, 3.0])
    with pytest.raises(sv.errors.ReadOnlyError):
        out["v"].assign([0.0, 0.0])


# -- jit: variables among the arguments ---------------------------------------------------------------------------


@jax.tree_util.register_pytree_node_class
class Box:
    def __init__(self, content: Any) -> None:
        self.content = content

    def tree_flatten(self) -> Any:
        return (self.content,), None

    @classmethod
    def tree_unflatten(cls, _: Any, children: Any) -> Any:
        return cls(*children)


def test_variables_as_arguments_are_written() -> None:
    """jax.jit(f)(nnx_variable) loses the update without a word."""
    v, w, u = var([1.0, 2.0]), var(5.0), var(7.0)

    def step(a: Any, nest: Any, *, key: Any, x: Any) -> Any:
        a.assign_add(x)
        nest["l"][0].assign_add(nest["b"].content.value)
        key.assign(a.value.sum())
        return x

    counted = Counted(step)
    f = sv.jit(counted)
    for _ in range(2):
        f(v, {"l": [w, 1.0], "b": Box(u)}, key=u, x=1.0)
    assert_same(v, [3.0, 4.0])
    assert_same(u, 7.0)
    assert_same(w, 17.0)
    counted.since()
    f(v, {"l": [w, 1.0], "b": Box(u)}, key=u, x=1.0)
    assert counted.since() == 0
    f(v, {"l": [u, 1.0], "b": Box(w)}, key=w, x=1.0)  # others: told apart by identity
    assert counted.since() >= 1
    assert_same(v, [5.0, 6.0])
    assert_same(u, 9.0 + 24.0)
    assert_same(w, 11.0)
    assert_free(v, w, u)


def test_one_variable_passed_twice_is_one() -> None:
    """Nnx hijax: 1 instead of 2; jax.Ref: an error."""
    v = var(0.0)
    sv.jit(lambda a, b: nothing(inc(a), inc(b)))(v, v)
    assert_same(v, 2.0)
    sv.jit(lambda a: nothing(inc(a), inc(v)))(v)  # passed, and in the closure
    assert_same(v, 4.0)


def test_two_of_a_kind_are_not_mixed_up() -> None:
    v, w = var(0.0), var(10.0)
    f = sv.jit(lambda a: inc(a).value)
    assert [float(f(each)) for each in (v, w, v, w)] == [1.0, 11.0, 2.0, 12.0]
    assert f._run is not None  # type: ignore[attr-defined]
    del w
    gc.collect()
    assert float(f(v)) == 3.0


def test_a_frozen_variable_may_be_an_argument() -> None:
    v = var([1.0, 2.0])
    frozen = jax.jit(lambda x: x)(v)
    assert_same(sv.jit(lambda a: a.value * 2)(frozen), [2.0, 4.0])


# -- jit: methods, wrappers, and what it is -------------------------------------------------------------------------


class Counter:
    def __init__(self, start: float) -> None:
        self.v = var(start)
        self.parts = {"w": [var(1.0)]}  # objax forgets those in a list

    @sv.jit
    def add(self, x: Any, times: int = 1) -> Any:
        """Adds."""
        for part in self.parts["w"]:
            self.v.assign_add(x * part.value * times)
        return self.v.value


def test_methods_keep_the_state_of_their_object() -> None:
    a, b = Counter(0.0), Counter(100.0)
    assert [float(a.add(1.0)), float(b.add(1.0)), float(a.add(2.0))] == [1.0, 101.0, 3.0]
    assert float(a.add(x=1.0, times=2)) == 5.0
    assert a.add.__name__ == "add"
    assert Counter.add.__doc__ == "Adds."
    assert a.add is a.add
    a.parts["w"][0].assign(0.0)
    assert float(a.add(5.0)) == 5.0
    alive = weakref.ref(b)
    del b
    gc.collect()
    assert alive() is None, "the compiled method keeps its object"


def test_a_static_argument_of_a_method_counts_self() -> None:
    class Repeater:
        def __init__(self) -> None:
            self.v = var(0.0)

        def add(self, x: Any, times: int) -> None:
            for _ in range(times):
                self.v.assign_add(x)

        jitted = sv.jit(add, static_argnums=2)
        named = sv.jit(add, static_argnames=("times",))

    r = Repeater()
    r.jitted(1.0, 3)
    r.named(1.0, times=2)
    assert_same(r.v, 5.0)


SCALE = var(3.0)


def test_a_callable_object_is_compiled_with_what_it_holds() -> None:
    """What its ``__call__`` names, and the functions that it holds, are found."""

    class Global:
        def __call__(self, x: Any) -> Any:
            runs.append("global")
            return SCALE.value * x

    class Holds:
        def __init__(self, fn: Callable[..., Any]) -> None:
            self.fns = [fn]

        def __call__(self, x: Any) -> Any:
            runs.append("holds")
            return self.fns[0](x)

    runs: list[str] = []
    v = var(0.0)
    for each in (Global(), Holds(lambda x: inc(v, x).value)):
        f = sv.jit(each)
        f(1.0)
        runs.clear()
        f(1.0)
        assert not runs, "it is not compiled"
    assert_same(v, 2.0)


def test_what_cannot_be_called_is_refused() -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="^jit: expected a callable, got int"):
        sv.jit(wrong)


def test_errors_of_the_function_and_of_the_call() -> None:
    v = var(0.0)
    f = sv.jit(lambda x: inc(v, x))
    with nothing_changes(v):
        with pytest.raises(TypeError, match="positional argument"):
            f()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="keyword"):
            f(1.0, y=2.0)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="valid JAX type|str"):
            f("no")
        with pytest.raises(sv.errors.ShapeError, match="assign_add: "):
            f(jnp.ones(3))
    f(1.0)


# -- jit: made inside ---------------------------------------------------------------------------------------------


def test_a_variable_made_by_the_first_call_is_kept() -> None:
    """Nnx drops it in two of its modes."""
    box: list[sv.Variable] = []

    def step(x: Any) -> Any:
        if not box:
            box.append(var([1.0, 1.0], name="lazy"))
        box[0].assign(box[0].value * x)
        return box[0].value

    counted = Counted(step)
    f = sv.jit(counted)
    with jax.checking_leaks():
        assert_same(f(2.0), [2.0, 2.0])
        assert_same(f(3.0), [6.0, 6.0])
    assert_same(box[0], [6.0, 6.0])
    box[0].assign([1.0, 2.0])
    assert_same(f(3.0), [3.0, 6.0])
    assert len(box) == 1
    assert_free(box[0])


def test_a_lazy_variable_with_an_initializer_is_kept() -> None:
    class Dense:
        w: sv.Variable | None = None

        @sv.jit
        def __call__(self, x: Any) -> Any:
            if self.w is None:
                self.w = sv.Variable(jnp.ones, shape=(2, 3), dtype="float32", name="kernel", backend="jax")
            return x @ self.w.value

    dense = Dense()
    assert_same(dense(jnp.ones((4, 2))), np.full((4, 3), 2.0))
    assert dense.w is not None
    assert not isinstance(dense.w.value, jax.core.Tracer)
    dense.w.assign(dense.w.value * 2)
    assert_same(dense(jnp.ones((4, 2))), np.full((4, 3), 4.0))


def test_a_variable_for_the_call_alone_costs_no_trace() -> None:
    def step(x: Any) -> Any:
        scratch = var(x * 2)
        inc(scratch)
        zero = var(0.0)
        inc(zero, scratch.value)
        return zero.value

    counted = Counted(step)
    f = sv.jit(counted, backend="jax")
    with jax.checking_leaks():
        assert [float(f(x)) for x in (1.0, 2.0, 3.0)] == [3.0, 5.0, 7.0]
    assert counted.since() == 1


def test_a_variable_made_from_a_traced_value_and_kept() -> None:
    box: list[sv.Variable] = []

    def step(x: Any) -> Any:
        box.append(var(x * 2, name="t"))
        return box[-1].value + 1

    with pytest.raises(
        sv.errors.TraceError,
        match="^jit: a variable was created from a traced value, which is only valid while the function is being "
        "traced, and outlives the trace, at 't'. Hint: ",
    ):
        sv.jit(step, backend="jax")(1.0)
    with pytest.raises(sv.errors.UninitializedError, match="at 't'"):
        box[-1].value  # noqa: B018  # it has none


def test_a_variable_made_by_every_trace_is_an_error() -> None:
    box: list[sv.Variable] = []

    def step() -> None:
        box.append(var(0.0, name="n"))
        inc(box[-1])

    with pytest.raises(
        sv.errors.TraceError, match="^jit: the function creates a new variable each time it is traced, at 'n'. Hint: "
    ):
        sv.jit(step, backend="jax")()
    assert [float(each) for each in box] == [0.0] * len(box)
    assert_free(*box)


def test_a_variable_without_a_value_gets_its_first_one() -> None:
    u = sv.Variable(shape=(None,), dtype="float32", backend="jax", name="u")
    step = Counted(lambda x: u.assign(x).value.sum())
    f = sv.jit(step)
    assert_same(f(jnp.ones(2)), 2.0)
    assert u.shape == (2,)
    assert u.version == 1
    assert_same(f(jnp.ones(3)), 3.0)
    assert u.shape == (3,)
    assert str(u.declared_shape) == "(None,)"
    assert_same(u, [1.0, 1.0, 1.0])
    assert_free(u)
    w = sv.Variable(shape=(None,), dtype="float32", backend="jax", name="w")
    g = sv.jit(lambda: w.value * 2)
    for _ in range(2):
        with pytest.raises(sv.errors.UninitializedError, match="read: the variable has no value yet, at 'w'"):
            g()
    w.assign([1.0])
    assert_same(g(), [2.0])


def test_a_shape_that_changes_inside_is_kept() -> None:
    v = var([1.0])
    f = sv.jit(lambda: v.assign(jnp.concatenate([v.value, v.value]), validate_shape=False).shape[0])
    assert [int(f()) for _ in range(3)] == [2, 4, 8]
    assert v.shape == v.declared_shape == (8,)
    assert_free(v)
    with nothing_changes(v), pytest.raises(sv.errors.ShapeError, match="assign: expected shape"):
        sv.jit(lambda: v.assign(jnp.zeros(3)))()


# -- jit: donation --------------------------------------------------------------------------------------------------


def test_writes_are_in_place_and_reads_are_left_alone() -> None:
    v, r = var(np.zeros(1000, "float32")), var(np.ones(1000, "float32"))
    f = sv.jit(lambda: v.assign_add(r.value).value.sum())
    f()
    f()
    before, other = address(v), address(r)
    for _ in range(5):
        f()
    assert address(v) == before
    assert address(r) == other
    assert_same(r, np.ones(1000))
    assert_same(v, np.full(1000, 7.0))
    plain = sv.jit(lambda: inc(v), donate=False)
    plain()
    array = v._handle.array
    plain()
    assert not array.is_deleted()
    assert_same(v, np.full(1000, 9.0))


def test_what_somebody_holds_survives() -> None:
    """Nnx with donate_argnums: Array has been deleted."""
    v = var([0.0, 0.0, 0.0])
    first = v.value
    f = sv.jit(lambda: inc(v).value)
    out = f()
    second = v.value
    aliases = [jax.device_put(second, second.sharding), second.addressable_data(0), np.asarray(second), second[:]]
    frozen, snapshot = jax.jit(lambda x: x)(v), sv.snapshot(v)
    f()
    f()
    assert_same(first, [0.0] * 3)
    assert_same(out, [1.0] * 3)
    assert_same(second, [1.0] * 3)
    assert_same(frozen.value, [1.0] * 3)
    assert_same(snapshot[v], [1.0] * 3)
    for alias in aliases:
        assert_same(alias, [1.0] * 3)
    assert_same(v, [3.0] * 3)


def test_two_variables_that_share_an_array_are_not_donated_twice() -> None:
    """jax: Attempt to donate the same buffer twice."""
    x, y = var(np.zeros(3, "float32")), var(np.ones(3, "float32"))
    y.assign(x.value)
    f = sv.jit(lambda: nothing(inc(x), inc(y, 2.0)))
    f()
    f()
    assert_same(x, [2.0] * 3)
    assert_same(y, [4.0] * 3)
    sv.jit(lambda: nothing(y.assign(x.value)))()  # and what the program makes shared
    f()
    assert_same(x, [3.0] * 3)
    assert_same(y, [4.0] * 3)
    given = jnp.full(3, 5.0)
    x.assign(given)
    sv.jit(lambda a: inc(x, a))(given)  # donated, and an argument
    assert_same(x, [10.0] * 3)
    assert_same(given, [5.0] * 3)


def test_the_result_and_the_variable_are_two() -> None:
    v = var(np.zeros(3, "float32"))
    f = sv.jit(lambda: inc(v).value)
    outs = [f() for _ in range(4)]
    assert [float(out[0]) for out in outs] == [1.0, 2.0, 3.0, 4.0]


def test_a_program_is_compiled_beside_a_write_of_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX destroys the old value in a write, and for a moment the variable has no new one."""
    v = var([1.0, 2.0])
    traced, writing, waiting = threading.Event(), threading.Event(), threading.Event()
    wait = sv.Variable._wait_until_free

    def waited(self: Any, operation: str) -> None:
        waiting.set()
        wait(self, operation)

    def write() -> None:
        assert traced.wait(60)
        with v._lock:
            v._handle.array.delete()
            writing.set()
            assert waiting.wait(60)
            v._handle = type(v._handle)(jnp.asarray([3.0, 4.0]))

    @sv.jit
    def f() -> None:
        inc(v)
        traced.set()  # what the call writes is known now, and it is compiled for that
        assert writing.wait(60)

    monkeypatch.setattr(sv.Variable, "_wait_until_free", waited)
    in_threads(write, f)
    assert v.numpy().tolist() == [4.0, 5.0]


def test_readers_beside_a_donating_program_see_whole_values() -> None:
    """With reference counts, 54 036 of such reads failed; no read may be torn, deleted, or a tracer."""
    v = var(np.zeros(100, "float32"))
    f = sv.jit(lambda: inc(v))
    f()
    end = threading.Event()

    def read() -> None:
        last = 0.0
        while not end.is_set():
            array = v.numpy()
            assert array.min() == array.max() >= last
            last = array.min()

    def write() -> None:
        try:
            repeat(500, f)()
        finally:
            end.set()

    in_threads(read, read, write)
    assert_same(v, np.full(100, 501.0))
