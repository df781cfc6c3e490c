"""Small programs of reads, writes, branches and loops, drawn at random: every library, and every way to run, agree.

The reference is a plain interpreter on NumPy arrays in double precision, which knows no variables.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st

import statevar as sv
from tests.faults import assert_free
from tests.helpers import array_of, host, thorough, total

Expression: TypeAlias = tuple[Any, ...]
Statement: TypeAlias = tuple[Any, ...]
State: TypeAlias = dict[str, Any]

NAMES = ("a", "b", "c")  # c is not trainable
START = {"a": [0.5, -1.0], "b": [1.5, 0.25], "c": [-0.75, 2.0]}
ROWS = [[0.3, -0.2], [1.1, 0.4], [-0.6, 0.9], [1.0, 0.0], [0.0, 1.0]]  # the last two select an element
X = [0.7, -1.3]
MARGIN = 1e-3  # a branch must not hang on how a library rounds

# -- programs -----------------------------------------------------------------------------------------------------

names = st.sampled_from(NAMES)
leaves = st.one_of(
    st.tuples(st.just("read"), names),
    st.just(("x",)),
    st.tuples(st.just("number"), st.sampled_from([-1.5, -0.5, 0.5, 2.0])),
)
expressions = st.recursive(
    leaves, lambda inner: st.tuples(st.sampled_from(["+", "-", "*", "/"]), inner, inner), max_leaves=4
)
simple = st.one_of(
    st.tuples(st.sampled_from(["assign", "add", "subtract", "multiply", "update"]), names, expressions),
    st.tuples(st.just("set"), names, st.sampled_from([0, 1]), expressions),
    st.tuples(st.just("swap"), names, names),
)


def blocks(statements: st.SearchStrategy[Statement]) -> st.SearchStrategy[list[Statement]]:
    return st.lists(statements, min_size=1, max_size=3)


def compound(statements: st.SearchStrategy[Statement]) -> st.SearchStrategy[Statement]:
    block = blocks(statements)
    return st.one_of(
        st.tuples(st.just("cond"), expressions, st.sampled_from([-0.41, 0.13, 1.07]), block, block),
        st.tuples(st.just("scan"), st.sampled_from([1, 3]), block),
        st.tuples(st.just("remat"), block),
        st.tuples(st.just("transaction"), block),
        st.tuples(st.just("fails"), block),
        st.tuples(st.just("rollback"), block),
    )


programs = blocks(st.recursive(simple, compound, max_leaves=5))


def squash(array: Any) -> Any:
    """Keeps values small."""
    return array / (1.0 + array * array)


def value(expression: Expression, read: Callable[[str], Any], x: Any) -> Any:
    match expression:
        case ("read", name):
            return read(name)
        case ("x",):
            return x
        case ("number", number):
            return number + x * 0.0
        case (op, left, right):
            p, q = value(left, read, x), value(right, read, x)
            return p + q if op == "+" else p - q if op == "-" else p * q if op == "*" else p / (1.0 + q * q)
    raise AssertionError(expression)


def loss_of(read: Callable[[str], Any], x: Any) -> Any:
    return total(squash(read("a")) + squash(read("b")) * 2.0 * x + squash(read("c")))


def with_variables(block: list[Statement], v: dict[str, sv.Variable], x: Any) -> None:
    """Runs a program on variables."""

    def read(name: str) -> Any:
        return v[name].value

    for statement in block:
        match statement:
            case ("assign", name, e):
                v[name].assign(squash(value(e, read, x)))
            case ("add", name, e):
                v[name].assign_add(squash(value(e, read, x)))
            case ("subtract", name, e):
                v[name] -= squash(value(e, read, x))
            case ("multiply", name, e):
                v[name] *= squash(value(e, read, x))
            case ("update", name, e):
                v[name].update(lambda old, e=e: old + squash(value(e, read, x)))
            case ("set", name, index, e):
                v[name][index] = squash(value(e, read, x))[index]
            case ("swap", one, other):
                before = read(one)
                v[one].assign(v[other])
                v[other].assign(before)
            case ("cond", e, threshold, yes, no):
                sv.cond(
                    total(value(e, read, x)) > threshold,
                    lambda yes=yes: with_variables(yes, v, x),
                    lambda no=no: with_variables(no, v, x),
                )
            case ("scan", count, body):

                def step(carry: Any, row: Any, body: Any = body) -> Any:
                    with_variables(body, v, row)
                    return squash(carry + read("a")), carry * row

                carry, ys = sv.scan(step, x, array_of(v["a"].backend, ROWS[:count], "float32"))
                v["c"].assign_add(squash(carry + ys[-1]))
            case ("remat", body):
                sv.remat(lambda x, body=body: with_variables(body, v, x))(x)
            case ("transaction", body):
                with sv.transaction(v):
                    with_variables(body, v, x)
            case ("fails", body):
                with suppress(KeyError), sv.transaction(v["a"]):
                    with_variables(body, v, x)
                    raise KeyError
            case ("rollback", body):
                with sv.rollback(v):
                    with_variables(body, v, x)
            case _:
                raise AssertionError(statement)


def plainly(block: list[Statement], state: State, x: Any, rows: Any, margins: list[float] | None = None) -> None:
    """Runs a program on arrays of any library."""
    for statement in block:
        match statement:
            case ("assign", name, e):
                state[name] = squash(value(e, state.__getitem__, x))
            case ("add" | "update", name, e):
                state[name] = state[name] + squash(value(e, state.__getitem__, x))
            case ("subtract", name, e):
                state[name] = state[name] - squash(value(e, state.__getitem__, x))
            case ("multiply", name, e):
                state[name] = state[name] * squash(value(e, state.__getitem__, x))
            case ("set", name, index, e):
                here = rows[3 + index]
                state[name] = state[name] * (1.0 - here) + squash(value(e, state.__getitem__, x)) * here
            case ("swap", one, other):
                state[one], state[other] = state[other], state[one]
            case ("cond", e, threshold, yes, no):
                got = total(value(e, state.__getitem__, x))
                if margins is not None:
                    margins.append(abs(float(got) - threshold))
                plainly(yes if got > threshold else no, state, x, rows, margins)
            case ("scan", count, body):
                carry, y = x, x
                for row in rows[:count]:
                    plainly(body, state, row, rows, margins)
                    carry, y = squash(carry + state["a"]), carry * row
                state["c"] = state["c"] + squash(carry + y)
            case ("remat" | "transaction", body):
                plainly(body, state, x, rows, margins)
            case ("fails" | "rollback", body):
                plainly(body, dict(state), x, rows, margins)
            case _:
                raise AssertionError(statement)


def expected(program: list[Statement]) -> tuple[float, State, State]:
    """The loss, the state afterwards, and the gradients by finite differences."""
    x, rows = np.array(X), np.array(ROWS)

    def run(start: State, margins: list[float] | None = None) -> tuple[float, State]:
        state = dict(start)
        plainly(program, state, x, rows, margins)
        return float(loss_of(state.__getitem__, x)), state

    start = {name: np.array(START[name]) for name in NAMES}
    margins: list[float] = []
    loss, state = run(start, margins)
    assume(all(margin > MARGIN for margin in margins))
    gradients = {}
    for name in ("a", "b"):
        gradients[name] = np.zeros(2)
        for i in range(2):
            step = np.eye(2)[i] * 1e-6
            up, down = (run({**start, name: start[name] + sign * step})[0] for sign in (1, -1))
            gradients[name][i] = (up - down) / 2e-6
    return loss, state, gradients


def assert_close(got: Any, right: Any) -> None:
    array = host(got)
    assert array.shape == np.shape(right)
    np.testing.assert_allclose(array.astype("float64"), right, rtol=2e-3, atol=2e-4)


class Trial:
    """A program with its variables in one library."""

    def __init__(self, backend: str, program: list[Statement]) -> None:
        self.backend, self.program = backend, program
        self.v = {
            name: sv.Variable(np.array(START[name], "float32"), trainable=name != "c", backend=backend)
            for name in NAMES
        }
        self.x = array_of(backend, X, "float32")

    def __call__(self, x: Any) -> Any:
        with_variables(self.program, self.v, x)
        return loss_of(lambda name: self.v[name].value, x)

    def start_again(self) -> None:
        for name, each in self.v.items():
            each.assign(np.array(START[name], "float32"))

    def assert_state(self, state: State) -> None:
        for name, each in self.v.items():
            assert_close(each, state[name])

    def assert_untouched(self, versions: list[int]) -> None:
        self.assert_state(START)
        assert [each.version for each in self.v.values()] == versions

    def end(self) -> None:
        self.start_again()  # or the write of `assert_free` would round
        assert_free(*self.v.values())

    def versions(self) -> list[int]:
        return [each.version for each in self.v.values()]


#: Every kind of statement, nested.
TOUR: list[Statement] = [
    ("swap", "a", "b"),
    ("scan", 3, [("add", "a", ("*", ("x",), ("read", "b"))), ("set", "b", 1, ("read", "a"))]),
    ("cond", ("read", "a"), 0.13, [("multiply", "b", ("read", "c"))], [("assign", "a", ("read", "b"))]),
    ("cond", ("read", "b"), 1.07, [("swap", "a", "c")], [("scan", 1, [("update", "c", ("/", ("read", "a"), ("x",)))])]),
    ("fails", [("assign", "a", ("number", 2.0)), ("scan", 3, [("assign", "b", ("x",))])]),
    ("remat", [("subtract", "c", ("+", ("read", "a"), ("x",)))]),
    ("rollback", [("assign", "b", ("number", 0.5)), ("transaction", [("set", "c", 0, ("x",))])]),
    ("transaction", [("assign", "b", ("-", ("read", "a"), ("read", "c")))]),
]


def for_programs(check: Callable[[list[Statement]], None], examples: int) -> None:
    """Checks the tour, and programs drawn at random."""
    limit = settings(max_examples=max(examples, 1), phases=PHASES if examples else (Phase.explicit,))
    limit(example(TOUR)(given(programs)(check)))()


PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
#: How many programs: JAX compiles each part of each, and torch.compile takes seconds.
EAGERLY = {"numpy": 30, "jax": 6, "torch": 20, "tensorflow": 20}
COMPILED = thorough(
    {"numpy": 20, "jax": 3, "torch": 0, "tensorflow": 1}, {"numpy": 20, "jax": 3, "torch": 0, "tensorflow": 3}
)


def test_a_program_gives_what_numpy_gives(backend: str) -> None:
    def check(program: list[Statement]) -> None:
        trial = Trial(backend, program)
        loss, state, _ = expected(program)
        assert_close(trial(trial.x), loss)
        trial.assert_state(state)
        trial.end()

    for_programs(check, EAGERLY[backend])


def test_a_program_as_a_pure_function_gives_the_same(backend: str) -> None:
    def check(program: list[Statement]) -> None:
        trial = Trial(backend, program)
        loss, state, _ = expected(program)
        got, new = sv.functionalize(trial, trial.v)(START, trial.x)
        assert_close(got, loss)
        for name in NAMES:
            assert_close(new[name], state[name])
        with sv.StatelessScope() as scope:
            assert_close(trial(trial.x), loss)
        for name, each in trial.v.items():
            kept = scope.get_current_value(each)
            assert_close(each if kept is None else kept, state[name])
        trial.assert_untouched([0, 0, 0])

    for_programs(check, EAGERLY[backend] // 2)


def test_gradients_of_a_program_are_its_finite_differences(backend: str) -> None:
    """Against finite differences, and against the library's own of the same program without variables."""

    def check(program: list[Statement]) -> None:
        trial = Trial(backend, program)
        loss, state, gradients = expected(program)
        got, found = sv.value_and_grad(trial)(trial.x)
        assert_close(got, loss)
        trial.assert_state(state)
        assert trial.v["c"] not in found
        for name in ("a", "b"):
            if trial.v[name] in found:
                assert_close(found[trial.v[name]], gradients[name])
            else:
                np.testing.assert_allclose(gradients[name], 0.0, atol=1e-7)
        trial.start_again()
        asked = sv.grad(trial, {"b": trial.v["b"], "a": [trial.v["a"]]})(trial.x)
        own = OWN[backend](program)
        for grad, name in ((asked["a"][0], "a"), (asked["b"], "b")):
            assert_close(grad, gradients[name])
            np.testing.assert_allclose(host(grad), own[name], rtol=1e-4, atol=1e-5)
        trial.assert_state(state)
        trial.end()

    for_programs(check, EAGERLY[backend] // 2)


def test_a_compiled_program_gives_the_same(backend: str) -> None:
    def check(program: list[Statement]) -> None:
        trial = Trial(backend, program)
        loss, state, gradients = expected(program)
        f = sv.jit(trial, backend=backend)
        for _ in range(2):  # traced, and warm
            assert_close(f(trial.x), loss)
            trial.assert_state(state)
            trial.start_again()
        versions = trial.versions()
        with suppress(KeyError), sv.transaction(trial.v):
            assert_close(f(trial.x), loss)
            raise KeyError
        trial.assert_untouched(versions)
        step = sv.jit(lambda x: sv.value_and_grad(trial, [trial.v["a"], trial.v["b"]])(x), backend=backend)
        got, found = step(trial.x)
        assert_close(got, loss)
        trial.assert_state(state)
        for grad, name in zip(found, ("a", "b"), strict=True):
            assert_close(grad, gradients[name])
        trial.end()

    for_programs(check, COMPILED[backend])


def test_second_order_of_a_program_is_right(backend: str) -> None:
    """The gradient of the squared norm of the gradient, against finite differences of the first order."""

    def check(program: list[Statement]) -> None:
        trial = Trial(backend, program)
        a, start = trial.v["a"], np.array(START["a"], "float32")
        expected(program)  # no branch hangs on rounding

        def norm() -> Any:
            gradient = sv.grad(trial, a)(trial.x)
            return total(gradient * gradient)

        (got,) = sv.grad(norm, [a])()
        right = np.zeros(2)
        for i in range(2):
            sides = []
            for sign in (1, -1):
                trial.start_again()
                a.assign(start + sign * np.eye(2, dtype="float32")[i] * 5e-3)
                sides.append(float(norm()))
            right[i] = (sides[0] - sides[1]) / 1e-2
        scale = max(1.0, float(np.abs(right).max()))
        np.testing.assert_allclose(host(got) / scale, right / scale, atol=0.1)
        trial.end()

    for_programs(check, COMPILED[backend] // 2)


# -- each library's own gradient --------------------------------------------------------------------------------------


def own_of_numpy(program: list[Statement]) -> State:
    autograd = pytest.importorskip("autograd")
    x, rows = np.array(X), np.array(ROWS)

    def fn(a: Any, b: Any) -> Any:
        state = {"a": a, "b": b, "c": np.array(START["c"])}
        plainly(program, state, x, rows)
        return loss_of(state.__getitem__, x)

    start = [np.array(START[name]) for name in ("a", "b")]
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a gradient is zero
        return {name: autograd.grad(fn, i)(*start) for i, name in enumerate(("a", "b"))}


def own_of_jax(program: list[Statement]) -> State:
    import jax
    import jax.numpy as jnp

    x, rows = jnp.array(X), jnp.array(ROWS)

    def fn(trained: State) -> Any:
        state = {**trained, "c": jnp.array(START["c"])}
        plainly(program, state, x, rows)
        return loss_of(state.__getitem__, x)

    return {name: np.asarray(g) for name, g in jax.grad(fn)({n: jnp.array(START[n]) for n in ("a", "b")}).items()}


def own_of_torch(program: list[Statement]) -> State:
    import torch

    x, rows = torch.tensor(X), torch.tensor(ROWS)
    leaves = {name: torch.tensor(START[name], requires_grad=True) for name in ("a", "b")}
    state: State = {**leaves, "c": torch.tensor(START["c"])}
    plainly(program, state, x, rows)
    found: Any = torch.autograd.grad(loss_of(state.__getitem__, x), list(leaves.values()), allow_unused=True)
    return {name: np.zeros(2) if g is None else g.numpy() for name, g in zip(leaves, found, strict=True)}


def own_of_tensorflow(program: list[Statement]) -> State:
    import tensorflow as tf

    x, rows = tf.constant(X), tf.constant(ROWS)
    leaves = {name: tf.constant(START[name]) for name in ("a", "b")}
    with tf.GradientTape() as tape:
        tape.watch(leaves)
        state: State = {**leaves, "c": tf.constant(START["c"])}
        plainly(program, state, x, rows)
        loss = loss_of(state.__getitem__, x)
    found = tape.gradient(loss, leaves, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return {name: each.numpy() for name, each in found.items()}


OWN: dict[str, Callable[[list[Statement]], State]] = {
    "numpy": own_of_numpy,
    "jax": own_of_jax,
    "torch": own_of_torch,
    "tensorflow": own_of_tensorflow,
}


# -- gradients through what is not drawn ----------------------------------------------------------------------


def test_a_gradient_goes_through_fori_loop(backend: str) -> None:
    v, s = sv.Variable([1.0, 2.0], backend=backend), sv.Variable([1.0, 1.0], trainable=False, backend=backend)

    def run() -> Any:
        s.assign([1.0, 1.0])
        carry = sv.fori_loop(0, 3, lambda i, carry: carry + s.assign(s.value * v.value).value, v.value * 0.0)
        return total(carry)

    assert_close(sv.grad(run, v)(), [1.0 + 2.0 + 3.0, 1.0 + 4.0 + 12.0])
    assert_close(s, [1.0, 8.0])
    assert_close(sv.jit(sv.grad(run, v), backend=backend)(), [6.0, 17.0])


def test_a_gradient_goes_through_vmap(backend: str) -> None:
    v, each = sv.Variable(3.0, backend=backend), sv.Variable([1.0, 2.0], backend=backend)

    def run(x: Any) -> Any:
        def one(x: Any) -> Any:
            return each.assign(each.value * v.value * x).value * v.value

        return total(sv.vmap(one, variable_axes={each: 0})(x))

    gradients = sv.grad(run, [v, each])(array_of(backend, [1.0, 10.0], "float32"))
    assert_close(gradients[0], 6.0 * 21.0)
    assert_close(gradients[1], [9.0, 90.0])
    assert_close(each, [3.0, 60.0])
    mapped = sv.vmap(lambda x: sv.grad(lambda: v.value * v.value * x, v)())
    assert_close(mapped(array_of(backend, [1.0, 10.0], "float32")), [6.0, 60.0])


def test_a_gradient_goes_through_while_loop(backend: str) -> None:
    if backend == "jax":
        pytest.skip("JAX has no reverse-mode gradient of a while_loop")
    v = sv.Variable(2.0, backend=backend)
    gradient = sv.grad(lambda: sv.while_loop(lambda carry: carry < 30.0, lambda carry: carry * v.value, v.value), v)()
    assert_close(gradient, 80.0)  # 2**5
