"""`scan`, `cond`, `while_loop`, `fori_loop`, `vmap`, `remat`: one program, the same results on every library."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.faults import INTERRUPT, assert_free, nothing_happens
from tests.helpers import PATIENCE, array_of, array_type, assert_same, total
from tests.threads import in_threads, repeat

Pair = namedtuple("Pair", "first second")  # noqa: PYI024  # its form is what matters


class Compile:
    """Does nothing, or compiles."""

    def __init__(self, backend: str, mode: str) -> None:
        self.backend, self.mode = backend, mode

    def __call__(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if self.mode == "eager":
            return fn
        compiled = sv.jit(fn, backend=self.backend)

        def run(*args: Any) -> Any:
            with warnings.catch_warnings():  # that torch runs such a loop uncompiled
                warnings.filterwarnings("ignore", "(while_loop|vmap): under sv.jit", RuntimeWarning)
                return compiled(*args)

        return run


@pytest.fixture(params=["eager", "jit"])
def compiled(request: pytest.FixtureRequest, backend: str) -> Compile:
    return Compile(backend, request.param)


class Floats:
    """Makes variables and arrays of one library."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def var(self, value: Any, dtype: str = "float32", **options: Any) -> sv.Variable:
        return sv.Variable(np.asarray(value, dtype), backend=self.backend, **options)

    def array(self, value: Any, dtype: str = "float32") -> Any:
        return array_of(self.backend, value, dtype)


@pytest.fixture
def make(backend: str) -> Floats:
    return Floats(backend)


# -- scan ---------------------------------------------------------------------------------------------------


def test_scan_carries_stacks_and_writes(make: Floats, compiled: Compile) -> None:
    v = make.var(0.0)

    def run(start: Any, xs: Any) -> Any:
        return sv.scan(lambda carry, x: (carry * 2 + x, v.assign_add(x * carry).value), start, xs)

    f = compiled(run)
    for n in range(1, 3):
        carry, ys = f(make.array(1.0), make.array([1.0, 2.0, 3.0]))
        assert_same(carry, 19.0, dtype=False)
        assert_same(ys, np.array([1.0, 7.0, 31.0], "float32") + 31.0 * (n - 1), dtype=True)
        assert isinstance(ys, array_type(make.backend))
        assert_same(v, 31.0 * n)
        assert v.version == n, "a loop is one step for everybody else"
    assert_free(v)


def test_scan_runs_backwards_and_over_nests(make: Floats, compiled: Compile) -> None:
    last = make.var([0.0, 0.0])

    def body(carry: Any, x: Any) -> Any:
        last.assign(x["row"])
        return Pair(carry.first + total(x["row"]), [carry.second[0] + x["n"]]), (x["n"] * 10, {"row": carry.first})

    def run(rows: Any, ns: Any, zero: Any) -> Any:
        return sv.scan(body, Pair(zero, [zero]), {"row": rows, "n": ns}, reverse=True)

    rows = make.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    carry, (tens, ys) = compiled(run)(rows, make.array([1.0, 2.0, 3.0]), make.array(0.0))
    assert type(carry) is Pair
    assert_same(carry.first, 21.0)
    assert_same(carry.second[0], 6.0)
    assert_same(tens, [10.0, 20.0, 30.0])
    assert_same(ys["row"], [18.0, 11.0, 0.0])
    assert_same(last, [1.0, 2.0])


def test_scan_runs_a_length_without_xs(make: Floats, compiled: Compile) -> None:
    v = make.var([1.0, 2.0])

    def run(start: Any) -> Any:
        return sv.scan(lambda carry, x: ((carry + 1, v.assign(v.value * 2))[0], x), start, length=4)

    carry, ys = compiled(run)(make.array(0.0))
    assert_same(carry, 4.0)
    assert ys is None
    assert_same(v, [16.0, 32.0])


def test_scan_of_nothing_writes_nothing(make: Floats, compiled: Compile) -> None:
    v = make.var(1.0)

    def run(start: Any, xs: Any) -> Any:
        return sv.scan(lambda carry, x: (carry + x, v.assign_add(total(x)).value), start, xs)

    carry, ys = compiled(run)(make.array([7.0, 7.0]), make.array(np.zeros((0, 2))))
    assert_same(carry, [7.0, 7.0])
    assert_same(ys, np.zeros((0,)))
    assert_same(v, 1.0)
    assert v.version == 0


def test_scan_runs_in_scan(make: Floats, compiled: Compile) -> None:
    v, w = make.var(0.0), make.var(1.0)

    def inner(carry: Any, x: Any) -> Any:
        v.assign_add(x * w.value)
        return carry + v.value, v.value

    def outer(carry: Any, row: Any) -> Any:
        w.assign(w.value * 2)
        return sv.scan(inner, carry, row)

    carry, ys = compiled(lambda zero, xs: sv.scan(outer, zero, xs))(
        make.array(0.0), make.array([[1.0, 2.0], [3.0, 4.0]])
    )
    assert_same(ys, [[2.0, 6.0], [18.0, 34.0]])
    assert_same(carry, 60.0)
    assert_same(v, 34.0)
    assert_same(w, 4.0)


def test_scan_returns_variables_as_values(make: Floats, compiled: Compile) -> None:
    v = make.var([0.0, 1.0])
    _, ys = compiled(lambda xs: sv.scan(lambda carry, x: (carry, v.assign_add(x)), xs[0], xs))(make.array([1.0, 2.0]))
    assert_same(ys, [[1.0, 2.0], [3.0, 4.0]])


@pytest.mark.parametrize(
    ("xs", "length", "problem"),
    [
        (None, None, r"\[\]"),
        ([np.zeros(2, "float32"), np.zeros(3, "float32")], None, r"\[2, 3\]"),
        (np.zeros(2, "float32"), 3, r"\[2, 3\]"),
        (np.zeros((), "float32"), None, r"\[-1\]"),
    ],
)
def test_lengths_that_differ_are_an_error(backend: str, xs: Any, length: int | None, problem: str) -> None:
    arrays = (
        [array_of(backend, x) for x in xs] if isinstance(xs, list) else None if xs is None else array_of(backend, xs)
    )
    with pytest.raises(
        sv.errors.ShapeError,
        match=f"^scan: expected arrays of one length along their first axis, got {problem}. Hint: pass xs, or length.",
    ):
        sv.scan(lambda carry, x: (carry, x), 0.0, arrays, length)


# -- branches -----------------------------------------------------------------------------------------------------


def test_cond_writes_the_variables_of_the_branch_taken(make: Floats, compiled: Compile) -> None:
    """Branches that write different variables."""
    v, w = make.var(0.0), make.var(5.0)

    def run(x: Any) -> Any:
        return sv.cond(
            total(x) > 2.0,
            lambda y: {"out": v.assign_add(total(y)).value},
            lambda y: {"out": w.assign(w.value + v.value + 100.0).value * total(y)},
            x,
        )

    f = compiled(run)
    assert_same(f(make.array([1.0, 2.0]))["out"], 3.0)
    assert_same(f(make.array([1.0, 1.0]))["out"], 216.0)
    assert_same(f(make.array([2.0, 2.0]))["out"], 7.0)
    assert_same(v, 7.0)
    assert_same(w, 108.0)
    assert_free(v, w)


def test_a_condition_may_be_a_variable_or_a_bool(make: Floats, compiled: Compile) -> None:
    flag, v = make.var(True, "bool"), make.var(0.0)

    def run() -> Any:
        first = sv.cond(flag, lambda: v.assign_add(1.0), lambda: v.assign_add(10.0))
        sv.cond(False, lambda: v.assign_add(100.0).value, lambda: v.value)
        return first

    f = compiled(run)
    assert_same(f(), 1.0)
    flag.assign(False)
    assert_same(f(), 11.0)
    assert_same(v, 11.0)


def test_cond_runs_in_cond_and_without_results(make: Floats, compiled: Compile) -> None:
    v = make.var([0.0, 0.0])

    def add(x: float) -> None:
        v.assign_add(x)

    def run(x: Any) -> Any:
        return sv.cond(x > 0.0, lambda: sv.cond(x > 10.0, lambda: add(100.0), lambda: add(1.0)), lambda: add(-1.0))

    f = compiled(run)
    for x in (20.0, 5.0, -1.0, -1.0):
        assert f(make.array(x)) is None
    assert_same(v, [99.0, 99.0])


# -- loops ----------------------------------------------------------------------------------------------------------


def test_while_loop_reads_what_its_body_writes(make: Floats, compiled: Compile) -> None:
    """The condition reads what the body writes."""
    v = make.var(1.0)

    def run(start: Any) -> Any:
        def body(carry: Any) -> Any:
            v.assign(v.value * 2)
            return {"n": carry["n"] + 1.0}

        return sv.while_loop(lambda carry: v.value < 100.0, body, {"n": start})

    f = compiled(run)
    assert_same(f(make.array(0.0))["n"], 7.0)
    assert_same(v, 128.0)
    assert v.version == 1
    assert_same(f(make.array(3.0))["n"], 3.0)
    v.assign(50.0)
    assert_same(f(make.array(0.0))["n"], 1.0)
    assert_free(v)


def test_a_condition_that_writes_is_an_error(make: Floats, compiled: Compile) -> None:
    v = make.var(0.0, name="v")

    def run(start: Any) -> Any:
        return sv.while_loop(lambda carry: v.assign_add(1.0).value < 3.0, lambda carry: carry + 1.0, start)

    with pytest.raises(
        sv.errors.TraceError,
        match="^assign_add: the condition of while_loop may not write this variable: the new value would be lost, at "
        "'v'. Hint: list it in sv.functionalize, or write it in the body of the loop.",
    ):
        compiled(run)(make.array(0.0))
    assert_same(v, 0.0)
    assert v.version == 0
    assert_free(v)


def test_fori_loop_counts_and_writes(make: Floats, compiled: Compile) -> None:
    v = make.var([0.0, 0.0])

    def body(i: Any, carry: Any) -> Any:
        v[0] = v.value[1] + 1.0
        v[1] = v.value[0]
        return carry + sv.cond(i > 3, lambda: v.value[0], lambda: v.value[0] * 0.0)

    f = compiled(lambda start: sv.fori_loop(2, 5, body, start))
    assert_same(f(make.array(0.0)), 3.0)
    assert_same(f(make.array(1.0)), 7.0)
    assert_same(v, [6.0, 6.0])
    assert_same(compiled(lambda start: sv.fori_loop(5, 2, body, start))(make.array(7.0)), 7.0)
    assert_same(v, [6.0, 6.0])
    assert v.version == 2


def test_bounds_of_fori_loop_may_be_computed(make: Floats, compiled: Compile) -> None:
    v, limit = make.var([0.0, 0.0]), make.var(5, "int32")

    def run(start: Any) -> Any:
        def body(i: Any, carry: Any) -> Any:
            v[0] = v.value[1] + 1.0
            v[1] = v.value[0]
            return carry + v.value[0]

        return sv.fori_loop(2, limit.value, body, start)

    f = compiled(run)
    assert_same(f(make.array(0.0)), 6.0)
    assert_same(v, [3.0, 3.0])
    limit.assign(2)
    assert_same(f(make.array(0.0)), 0.0)
    limit.assign(-3)
    assert_same(f(make.array(7.0)), 7.0)
    assert_same(v, [3.0, 3.0])


# -- maps -------------------------------------------------------------------------------------------------------------


def test_vmap_maps_arguments_and_variables(make: Floats, compiled: Compile) -> None:
    each, scale = make.var([0.0, 10.0, 20.0]), make.var(10.0)

    def one(x: Any, y: Any) -> Any:
        each.assign_add(x * scale.value)
        return each.value + total(y), {"y": y}

    f = compiled(lambda x, y: sv.vmap(one, in_axes=(0, None), variable_axes={each: 0})(x, y))
    out, ys = f(make.array([1.0, 2.0, 3.0]), make.array([1.0, 1.0]))
    assert_same(out, [12.0, 32.0, 52.0])
    assert_same(ys["y"], [[1.0, 1.0]] * 3)
    assert_same(each, [10.0, 30.0, 50.0])
    scale.assign(0.0)
    f(make.array([1.0, 2.0, 3.0]), make.array([1.0, 1.0]))
    assert_same(each, [10.0, 30.0, 50.0])
    assert each.version == 2
    assert each.shape == each.declared_shape == (3,)
    assert_free(each, scale)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_vmap_maps_along_any_axis(make: Floats, compiled: Compile, axis: int) -> None:
    host = np.arange(6.0, dtype="float32").reshape(2, 3)
    v = make.var(host)
    size = host.shape[axis]
    out_axis = 1 if axis else 0

    def run(x: Any) -> Any:
        def one(part: Any) -> Any:
            assert v.shape == part.shape
            return v.assign(v.value * 2 + part).value

        return sv.vmap(one, in_axes=axis, out_axes=out_axis, variable_axes={v: axis})(x)

    out = compiled(run)(make.array(host))
    assert_same(out, host * 3)
    assert_same(v, host * 3)
    assert v.shape == (2, 3)
    assert size in (2, 3)


def test_vmap_writes_once_what_is_the_same_for_all(make: Floats, compiled: Compile) -> None:
    """It is written once; what differs needs an axis."""
    v, w = make.var(1.0), make.var(0.0, name="w")
    f = compiled(lambda x: sv.vmap(lambda x: (v.assign(v.value * 2), x + v.value)[1])(x))
    assert_same(f(make.array([1.0, 2.0])), [3.0, 4.0])
    assert_same(v, 2.0)
    g = compiled(lambda x: sv.vmap(lambda x: (w.assign_add(x), x)[1])(x))
    with pytest.raises(
        sv.errors.TraceError,
        match=r"^vmap: the examples write different values to a variable that they share, at 'w'. Hint: give the "
        r"variable an axis: variable_axes=\{v: 0\}.",
    ):
        g(make.array([1.0, 2.0]))
    assert_same(w, 0.0)
    assert w.version == 0
    assert_free(v, w)


def test_vmap_asks_for_one_size(make: Floats) -> None:
    v = make.var([1.0, 2.0])
    assert_same(sv.vmap(lambda: v.value * 2, variable_axes={v: 0})(), [2.0, 4.0])
    assert_same(sv.vmap(lambda x: x * total(v.value), in_axes=None, axis_size=2)(make.array(2.0)), [6.0, 6.0])
    for x, options, got in (
        (make.array([1.0, 2.0, 3.0]), {"variable_axes": {v: 0}}, r"\[2, 3\]"),
        (make.array([1.0, 2.0, 3.0]), {"axis_size": 4}, r"\[3, 4\]"),
        (make.array(1.0), {"in_axes": None}, r"\[\]"),
    ):
        with pytest.raises(
            sv.errors.ShapeError,
            match=f"^vmap: expected one size for all mapped axes, got {got}. Hint: pass axis_size.",
        ):
            keywords: dict[str, Any] = options
            sv.vmap(lambda x: x, **keywords)(x)


def test_vmap_maps_vmap_and_loops(make: Floats, compiled: Compile) -> None:
    host = np.arange(6.0, dtype="float32").reshape(2, 3)
    grid, rows = make.var(np.zeros((2, 3))), make.var([1.0, 2.0])

    def run(x: Any) -> Any:
        def cell(y: Any) -> Any:
            return grid.assign_add(sv.fori_loop(0, 3, lambda i, carry: carry + y, y * 0.0) * rows.value).value

        return sv.vmap(sv.vmap(cell, variable_axes={grid: 0}), variable_axes={grid: 0, rows: 0})(x)

    out = compiled(run)(make.array(host))
    assert_same(out, host * 3 * [[1.0], [2.0]])
    assert_same(grid, host * 3 * [[1.0], [2.0]])


# -- remat ------------------------------------------------------------------------------------------------------------


def test_remat_gives_the_same_and_writes_once(make: Floats, compiled: Compile) -> None:
    w, calls = make.var([1.0, 2.0]), make.var(0.0, trainable=False)
    block = sv.remat(lambda x: {"y": (calls.assign_add(1.0), total(w.value * w.value * x))[1]})
    f = compiled(lambda x: block(x)["y"])
    assert_same(f(make.array(3.0)), 15.0)
    assert_same(calls, 1.0)
    w.assign([0.0, 1.0])
    assert_same(f(make.array(3.0)), 3.0)
    assert_same(calls, 2.0)
    differentiated = sv.grad(lambda x: block(x)["y"], w)
    gradient = compiled(differentiated)
    assert_same(gradient(make.array(3.0)), [0.0, 6.0])
    assert_same(calls, 3.0)
    assert_free(w, calls)


LOOPS: dict[str, Callable[[Callable[[Any], Any], Any, Any], Any]] = {
    "scan": lambda body, start, xs: sv.scan(lambda carry, x: (body(carry + x), carry), start, xs)[0],
    "fori_loop": lambda body, start, xs: sv.fori_loop(0, 3, lambda i, carry: body(carry + 1.0), start),
    "cond": lambda body, start, xs: sv.cond(total(xs) > 0, lambda: body(body(start + 3.0)), lambda: start),
    "remat": lambda body, start, xs: sv.remat(lambda each: body(body(each)))(start + 3.0),
    "scan in scan": lambda body, start, xs: sv.scan(
        lambda outer, x: (sv.scan(lambda inner, y: (body(inner + y), None), outer, xs)[0], None), start, xs
    )[0],
}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_gradient_flows_to_a_variable_that_only_the_body_reads(make: Floats, compiled: Compile, loop: str) -> None:
    """`sv.jit` failed on torch: the first run of the body, which is not traced, had read the variable."""
    w, calls = make.var(0.5), make.var(0, "int32", trainable=False)

    def body(each: Any) -> Any:
        calls.assign_add(1)
        return each * w.value

    def step(start: Any, xs: Any) -> Any:
        loss, gradients = sv.value_and_grad(lambda: LOOPS[loop](body, start, xs))()
        w.assign_sub(gradients[w] * 0.1)
        return loss

    class Number:  # the same with Python's numbers, as the oracle: a value and its derivative
        def __init__(self, value: float, slope: float = 0.0) -> None:
            self.value, self.slope = value, slope

        def __add__(self, other: float) -> Number:
            return Number(self.value + other, self.slope)

        def times(self, weight: float) -> Number:
            return Number(self.value * weight, self.slope * weight + self.value)

    def expected(weight: float) -> Number:
        x, start = [1.0, 2.0, 3.0], Number(2.0)
        if loop == "scan":
            for each in x:
                start = (start + each).times(weight)
        elif loop == "fori_loop":
            for _ in x:
                start = (start + 1.0).times(weight)
        elif loop == "scan in scan":
            for _ in x:
                for each in x:
                    start = (start + each).times(weight)
        else:
            start = (start + 3.0).times(weight).times(weight)
        return start

    run, weight = compiled(step), 0.5
    for _ in range(3):
        found = run(make.array(2.0), make.array([1.0, 2.0, 3.0]))
        right = expected(weight)
        np.testing.assert_allclose(np.asarray(found), right.value, rtol=1e-5, atol=1e-6)
        weight -= 0.1 * right.slope
        np.testing.assert_allclose(w.numpy(), weight, rtol=1e-5, atol=1e-6)
    assert int(calls) == 3 * {"scan in scan": 9, "cond": 2, "remat": 2}.get(loop, 3)


# -- what they share --------------------------------------------------------------------------------------------------

PROGRAMS: dict[str, Callable[[Floats, Callable[[], Any]], Any]] = {
    "scan": lambda make, step: sv.scan(
        lambda carry, x: ((step(), carry)[1], None), make.array(0.0), make.array([1.0, 2.0])
    ),
    "cond": lambda make, step: sv.cond(make.array(True, "bool"), lambda: (step(), None)[1], lambda: None),
    "while_loop": lambda make, step: sv.while_loop(
        lambda carry: carry < 2.0, lambda carry: (step(), carry + 1.0)[1], make.array(0.0)
    ),
    "fori_loop": lambda make, step: sv.fori_loop(0, 2, lambda i, carry: (step(), carry)[1], make.array(0.0)),
    "vmap": lambda make, step: sv.vmap(lambda x: (step(), x)[1])(make.array([1.0, 2.0])),
    "remat": lambda make, step: sv.remat(lambda x: (step(), x)[1])(make.array(1.0)),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("error", [RuntimeError, INTERRUPT])
def test_an_exception_drops_everything(
    make: Floats, compiled: Compile, program: str, error: type[BaseException]
) -> None:
    v, w = make.var([1.0, 2.0]), make.var([5.0])
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        v.assign_add(1.0)
        w.assign([1.0])
        if steps >= fails_at:
            raise error("injected")

    for fails_at in (1, 2):
        steps = 0
        if fails_at == 2 and (program in ("cond", "remat") or make.backend == "jax"):
            break
        with nothing_happens(error, v, w):
            compiled(lambda: PROGRAMS[program](make, step))()


@pytest.mark.parametrize("program", PROGRAMS)
def test_they_are_part_of_a_transaction(make: Floats, program: str) -> None:
    v = make.var([1.0, 2.0])
    times = 1 if program in ("cond", "vmap", "remat") else 2

    def run() -> None:
        PROGRAMS[program](make, lambda: v.assign_add(1.0))

    seen: list[Any] = []
    with sv.transaction(v):
        v.assign_add(10.0)
        run()
        assert_same(v, np.array([11.0, 12.0]) + times)
        in_threads(lambda: seen.append(v.numpy().tolist()))
        with pytest.raises(KeyError), sv.transaction():
            run()
            raise KeyError
        assert_same(v, np.array([11.0, 12.0]) + times)
    assert seen == [[1.0, 2.0]]
    before = v.numpy()
    with sv.StatelessScope({v: [0.0, 0.0]}) as scope:
        run()
    assert_same(scope.get_current_value(v), [float(times)] * 2)
    _, new = sv.functionalize(run, v)([0.0, 0.0])
    assert_same(new, [float(times)] * 2)
    with pytest.raises(sv.errors.TraceError, match="functionalize may not write this variable"):
        sv.functionalize(run, [])([])
    with sv.rollback(v):
        run()
    assert_same(v, before)
    assert_free(v)


@pytest.mark.parametrize("program", PROGRAMS)
def test_everybody_sees_one_write(make: Floats, program: str) -> None:
    v = make.var([1.0, 2.0])
    seen: list[int] = []
    inside: list[Any] = []

    def step() -> None:
        v.assign_add(1.0)
        in_threads(lambda: inside.append((v.version, v.numpy().tolist())))

    with v.subscribe(lambda variable, version: seen.append(version)):
        PROGRAMS[program](make, step)
    assert seen == [1]
    assert v.version == 1
    assert inside
    assert all(each == (0, [1.0, 2.0]) for each in inside)


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_update_is_lost(make: Floats, program: str) -> None:
    v = make.var(0.0)
    times = 1 if program in ("cond", "vmap", "remat") else 2

    def run() -> None:
        PROGRAMS[program](make, lambda: v.assign_add(1.0))

    in_threads(*[repeat(5, run)] * 4, repeat(20, lambda: v.assign_add(1.0)))
    assert_same(v, 20.0 * times + 20.0)
    assert_free(v)


@pytest.mark.parametrize("program", PROGRAMS)
def test_tasks_take_turns(make: Floats, program: str) -> None:
    v = make.var(0.0)
    times = 1 if program in ("cond", "vmap", "remat") else 2

    async def one() -> None:
        async with sv.transaction(v):
            before = float(v)
            await asyncio.sleep(0)
            PROGRAMS[program](make, lambda: v.assign_add(1.0))
            await asyncio.sleep(0)
            assert float(v) == before + times

    async def main() -> None:
        await asyncio.gather(one(), one(), one())

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
    assert_same(v, 3.0 * times)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_variable_without_a_value_is_an_error_inside(make: Floats, compiled: Compile, program: str) -> None:
    u = sv.Variable(shape=(2,), dtype="float32", name="u", backend=make.backend)
    with pytest.raises(sv.errors.UninitializedError, match="the variable has no value"):
        compiled(lambda: PROGRAMS[program](make, lambda: u.assign_add(1.0)))()
    assert not u.is_initialized
    assert u.version == 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_way_to_write_works_inside(make: Floats, compiled: Compile, program: str) -> None:

    def write(v: sv.Variable) -> None:
        v *= 2.0
        v[::-1] = v.value
        v.at[[0, 0, 2]].add(1.0)
        v.update(lambda a: a + 1.0)
        v.assign_sub([0.0, 1.0, 0.0], use_locking=False)
        with sv.transaction(v):
            v[np.array([False, True, False])] = 5.0
        with sv.rollback(v):
            v.assign([9.0, 9.0, 9.0])

    v, alone = make.var([1.0, 2.0, 3.0]), make.var([1.0, 2.0, 3.0])
    for _ in range(1 if program in ("cond", "vmap", "remat") else 2):
        write(alone)
    compiled(lambda: PROGRAMS[program](make, lambda: write(v)))()
    assert_same(v, alone.numpy())


@pytest.mark.parametrize("program", ["scan", "cond", "fori_loop", "remat"])
def test_constraints_and_dtypes_hold_inside(make: Floats, compiled: Compile, program: str) -> None:
    v, n = make.var([1.0, 2.0], constraint=lambda a: a * 0.0 + 7.0), make.var(0, "int16")

    def step() -> None:
        v.assign_add(1.0)
        n.assign_add(1)
        n.assign(n.value * 2)

    compiled(lambda: PROGRAMS[program](make, step))()
    assert_same(v, [7.0, 7.0])
    assert_same(n.value, np.array(6 if program in ("scan", "fori_loop") else 2, "int16"), dtype=True)
    for wrong in (lambda: v.assign([1.0]), lambda: v.assign_add("no"), lambda: v.__setitem__(9, 1.0)):
        with pytest.raises(sv.errors.StatevarError):
            compiled(lambda wrong=wrong: PROGRAMS[program](make, wrong))()
    assert_same(v, [7.0, 7.0])
    assert_free(v)


def test_all_of_them_work_together(make: Floats, compiled: Compile) -> None:
    """Newton's method for square roots, for several numbers; the state is kept in variables."""
    x, steps = make.var([1.0, 1.0, 1.0]), make.var([0.0, 0.0, 0.0])
    runs = make.var(0, "int32")

    def root(a: Any) -> Any:
        def body(i: Any) -> Any:
            sv.cond(
                (x.value * x.value - a) * (x.value * x.value - a) > 1e-4,
                lambda: (x.assign((x.value + a / x.value) / 2.0), steps.assign_add(1.0), None)[2],
                lambda: None,
            )
            return i + 1.0

        sv.while_loop(lambda i: i < 10.0, body, a * 0.0)
        return x.value

    def run(a: Any) -> Any:
        runs.assign_add(1)
        return sv.vmap(root, variable_axes={x: 0, steps: 0})(a)

    out = compiled(run)(make.array([1.0, 4.0, 9.0]))
    assert_same(out, [1.0, 2.0, 3.0], rtol=1e-3)
    assert_same(x, [1.0, 2.0, 3.0], rtol=1e-3)
    assert_same(steps, [0.0, 3.0, 4.0])
    assert_same(runs, 1)


def test_a_long_loop_holds_nobody_up(make: Floats) -> None:
    """A reader, and the writer of another variable, do not wait for a loop."""
    v, other = make.var(0.0), make.var(0.0)
    inside, done = threading.Event(), threading.Event()

    def step() -> None:
        v.assign_add(1.0)
        inside.set()
        assert done.wait(PATIENCE)

    def meanwhile() -> None:
        assert inside.wait(PATIENCE)
        assert_same(v, 0.0)
        other.assign_add(1.0)
        done.set()

    in_threads(lambda: PROGRAMS["scan"](make, step), meanwhile)
    assert_same(v, 2.0)
    assert_same(other, 1.0)


OVERLAPPING: dict[str, Callable[[sv.Variable], object]] = {
    "reversed": lambda v: v.__setitem__(slice(None, None, -1), v.value),
    "moved": lambda v: v.__setitem__([0, 1], v.value[1:]),
    "add": lambda v: v.at[[2, 1, 0]].add(v.value),
    "subtract": lambda v: v.at[[2, 1, 0]].subtract(v.value),
    "multiply": lambda v: v.at[[2, 1, 0]].multiply(v.value),
    "max": lambda v: v.at[[2, 0, 0]].max(v.value),
    "divide": lambda v: v.at[[2, 0, 0]].divide(v.value),
    "slice": lambda v: v.__setitem__(slice(1, None), v.value[:-1]),
}


@pytest.mark.parametrize("where", OVERLAPPING)
def test_rows_that_are_computed_from_those_they_overwrite(make: Floats, where: str) -> None:
    """In `sv.jit` on torch, Inductor wrote in place what later rows were computed from."""
    v, alone = make.var([1.0, 2.0, 3.0]), make.var([1.0, 2.0, 3.0])

    def write(each: sv.Variable) -> None:
        each *= 2.0  # so that the value is a temporary one, whose memory the compiler may use again
        OVERLAPPING[where](each)

    compiled = sv.jit(lambda: write(v))
    for _ in range(2):
        write(alone)
        compiled()
        np.testing.assert_allclose(v.numpy(), alone.numpy(), rtol=1e-6)


# -- variables that the code creates -------------------------------------------------------------------------------


def moved(x: Any) -> Any:
    """One more, by a variable that nobody else sees."""
    v = sv.Variable(x, trainable=False)
    v.assign_add(1.0)
    return v.value


#: By verb, a program that adds one to each of three numbers.
LOCAL: dict[str, Callable[[Any], Any]] = {
    "scan": lambda xs: sv.scan(lambda carry, x: (carry, moved(x)), None, xs)[1],
    "fori_loop": lambda xs: sv.fori_loop(0, 1, lambda i, carry: moved(carry), xs),
    "while_loop": lambda xs: sv.while_loop(lambda carry: carry[0] < 2, moved, xs),
    "cond": lambda xs: sv.cond(xs[0] < 2, moved, lambda x: x, xs),
    "vmap": lambda xs: sv.vmap(moved)(xs),
    "remat": lambda xs: sv.remat(moved)(xs),
}


@pytest.mark.parametrize("verb", LOCAL)
def test_what_the_code_creates_is_its_own(verb: str, compiled: Compile, make: Floats) -> None:
    if compiled.mode == "jit" and make.backend == "torch" and verb == "vmap":
        pytest.skip("torch creates no variable from what its own vmap batches")
    assert_same(compiled(LOCAL[verb])(make.array([1.0, 2.0, 3.0])), [2.0, 3.0, 4.0])


@pytest.mark.parametrize("verb", ["vmap", "remat"])
def test_what_the_code_creates_may_not_outlive_it(verb: str, make: Floats) -> None:
    kept: list[sv.Variable] = []

    def keeping(x: Any) -> Any:
        kept.append(sv.Variable(x, trainable=False))
        return kept[-1].assign_add(1.0).value

    with pytest.raises(sv.errors.TraceError, match=rf"^{verb}: a variable that this code has created outlives it, and"):
        getattr(sv, verb)(keeping)(make.array([1.0, 2.0, 3.0]))
