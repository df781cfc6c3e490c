"""Transforms over shared variables: the values, gradients and versions of a program that runs without them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import statevar as sv
from statevar import errors

from ..helpers import array_of, assert_same, host, total
from ..threads import in_threads, repeat

pytestmark = pytest.mark.usefixtures("shm")


def shared(value: Any, backend: str, name: str = "w") -> sv.Variable:
    return sv.Variable(np.asarray(value, np.float32), shared=f"run7/{name}", name=name, backend=backend)


def step(w: sv.Variable, steps: sv.Variable) -> Callable[[Any], Any]:
    """One step of a descent over a variable, which another one counts."""

    def fn(x: Any) -> Any:
        loss, (gradient,) = sv.value_and_grad(lambda: total((w * x - 1) ** 2), [w])()
        w.assign_sub(0.125 * gradient)
        steps.assign_add(1.0)
        return loss

    return fn


def test_a_program_computes_what_the_code_computes(backend: str) -> None:
    mine, other = shared([1, 2, 3], backend), shared([1, 2, 3], backend)
    alone = sv.Variable(np.array([1, 2, 3], np.float32), backend=backend)
    steps = [sv.Variable(0.0, backend=backend) for _ in range(2)]
    program, code = sv.jit(step(mine, steps[0])), step(alone, steps[1])
    x = np.array([0.5, 1, 1.5], np.float32)
    for number in range(1, 4):
        assert_same(program(x), code(x), rtol=1e-6)
        assert_same(other.value, alone.value, rtol=1e-6)
        assert other.version == mine.version == number
        assert steps[0].version == number
    other.assign(np.zeros(3, np.float32))  # between two calls
    alone.assign(np.zeros(3, np.float32))
    assert_same(program(x), code(x), rtol=1e-6)
    assert_same(other.value, alone.value, rtol=1e-6)


def test_a_large_value_in_a_program(backend: str) -> None:
    w = shared(np.ones(50_000), backend)
    other = shared(np.ones(50_000), backend)
    program = sv.jit(lambda: w.assign(w * 2 + 1))
    held = other.value
    for expected in (3, 7, 15):
        program()
        assert host(other.value).min() == host(other.value).max() == expected
    assert host(held).min() == host(held).max() == 1


def test_several_at_once(backend: str) -> None:
    model = {name: sv.Variable(np.float32(number), backend=backend) for number, name in enumerate("abc")}
    private = sv.Variable(np.float32(10), backend=backend)
    sv.share({name: model[name] for name in "ab"}, "run7")
    twin = {name: sv.Variable(np.float32(0), backend=backend) for name in "ab"}
    sv.attach(twin, "run7")

    def rotate() -> Any:
        a, b, c = model["a"].value, model["b"].value, model["c"].value
        model["a"].assign(b)
        model["b"].assign(c)
        model["c"].assign(a)
        private.assign_add(a)
        return a + b + c

    program = sv.jit(rotate)
    for _ in range(3):
        assert float(host(program())) == 3
        assert sum(float(each) for each in twin.values()) + float(model["c"]) == 3
    assert [float(model[name]) for name in "abc"] == [0, 1, 2]
    assert float(private) == 13


def test_an_error_in_a_program_leaves_everything(backend: str) -> None:
    w, private = shared([1, 2], backend), sv.Variable(np.float32(1), backend=backend)

    def fn(fails: bool) -> None:
        w.assign_add(1.0)
        private.assign_add(1.0)
        if fails:
            raise KeyError

    program = sv.jit(fn, static_argnames="fails")
    program(fails=False)
    with pytest.raises(KeyError):
        program(fails=True)
    assert_same(w.value, np.array([2, 3]))
    assert (float(private), w.version) == (2, 1)


def test_a_program_in_a_transaction(backend: str) -> None:
    w, other = shared([1, 2], backend), shared([1, 2], backend)
    program = sv.jit(lambda: w.assign_add(1.0))
    program()
    with sv.transaction(w):
        program()
        w.assign(w.value * 2)
        program()
        assert_same(w.value, np.array([7, 9]))
        in_threads(lambda: assert_same(other.value, np.array([2, 3])))
    assert_same(other.value, np.array([7, 9]))
    with pytest.raises(KeyError), sv.transaction(w):
        program()
        raise KeyError
    assert_same(other.value, np.array([7, 9]))


@pytest.mark.parametrize("how", ["share", "attach"])
def test_a_program_from_before_the_variable_was_shared(backend: str, how: str) -> None:
    w, steps = sv.Variable(np.array([1, 2], np.float32), backend=backend), sv.Variable(np.float32(0), backend=backend)
    program = sv.jit(step(w, steps))
    x = np.array([0.5, 1], np.float32)
    program(x)
    value = host(w)
    if how == "share":
        sv.share({"w": w}, "run7")
        other = shared([0, 0], backend)
    else:
        other = shared([5, 6], backend)
        value = np.array([5, 6], np.float32)
        sv.attach({"w": w}, "run7")
    alone = sv.Variable(value, backend=backend)
    code = step(alone, sv.Variable(np.float32(0), backend=backend))
    for _ in range(2):
        assert_same(program(x), code(x), rtol=1e-6)
        assert_same(other.value, alone.value, rtol=1e-6)
    other.assign(np.zeros(2, np.float32))
    alone.assign(np.zeros(2, np.float32))
    assert_same(program(x), code(x), rtol=1e-6)
    assert_same(other.value, alone.value, rtol=1e-6)


def test_no_step_of_two_owners_is_lost(backend: str) -> None:
    mine, other = shared(0, backend), shared(0, backend)
    n = 20
    programs = [sv.jit(partial(each.assign_add, 1.0)) for each in (mine, other)]
    in_threads(*[repeat(n, program) for program in programs])
    assert float(mine) == float(other) == mine.version == 2 * n


def test_loops(backend: str) -> None:
    w, other = shared([1, 2], backend), shared([1, 2], backend)

    def body(carry: Any, x: Any) -> tuple[Any, Any]:
        w.assign_add(x)
        return carry + w.value, w.value

    xs = np.arange(1, 4, dtype=np.float32)

    def loop() -> Any:
        return sv.scan(body, array_of(backend, [0, 0], "float32"), array_of(backend, xs))

    for run in (loop, sv.jit(loop)):
        w.assign([1.0, 2.0])
        carry, ys = run()
        assert_same(carry, np.array([2 + 4 + 7, 3 + 5 + 8]))
        assert_same(ys, np.array([[2, 3], [4, 5], [7, 8]]))
        assert_same(other.value, np.array([7, 8]))


def test_maps_and_gradients(backend: str) -> None:
    w, other = shared([1, 2], backend), shared([1, 2], backend)
    rows = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    assert_same(sv.vmap(lambda x: total(w * x))(rows), np.array([5, 11, 17]))
    (gradient,) = sv.grad(lambda: total(w**3), [w])()
    assert_same(gradient, np.array([3, 12]))
    other.assign([2.0, 3.0])
    assert_same(sv.vmap(lambda x: total(w * x))(rows), np.array([8, 18, 28]))
    (gradient,) = sv.grad(lambda: total(w**3), [w])()
    assert_same(gradient, np.array([12, 27]))
    assert w.version == 1
    with pytest.raises(errors.StatevarError):
        sv.vmap(lambda x: w.assign(x))(rows)  # it writes per example
    assert_same(other.value, np.array([2, 3]))
