"""The table of ``docs/protocols.md``: JAX."""

from __future__ import annotations

import operator
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same
from tests.variable.protocols import OTHER, VALUE, Call, assert_result, calls, double, row, variable

JAX: dict[str, tuple[Call, Call]] = {
    "jnp.asarray": (lambda jnp, v: jnp.asarray(v), np.asarray),
    "jnp.asarray(v, dtype)": (lambda jnp, v: jnp.asarray(v, "float16"), lambda a: a.astype("float16")),
    "jnp.array": (lambda jnp, v: jnp.array(v), np.asarray),
    "jnp.sin": (lambda jnp, v: jnp.sin(v), np.sin),
    "jnp.add": (lambda jnp, v: jnp.add(v, v), lambda a: a + a),
    "jnp.sum": (lambda jnp, v: jnp.sum(v, axis=0), lambda a: a.sum(0)),
    "jnp.matmul": (lambda jnp, v: jnp.matmul(v, OTHER), lambda a: a @ OTHER),
    "jnp.einsum": (lambda jnp, v: jnp.einsum("ij,jk", v, OTHER), lambda a: a @ OTHER),
    "jnp.concatenate": (lambda jnp, v: jnp.concatenate([v, OTHER]), lambda a: np.concatenate([a, OTHER])),
    "jnp.stack": (lambda jnp, v: jnp.stack([v, v]), lambda a: np.stack([a, a])),
    "jnp.where": (lambda jnp, v: jnp.where(OTHER > 1, v, 0.0), lambda a: np.where(OTHER > 1, a, 0)),
    "jnp.reshape": (lambda jnp, v: jnp.reshape(v, -1), lambda a: a.reshape(-1)),
    "jnp.linalg.norm": (lambda jnp, v: jnp.linalg.norm(v), np.linalg.norm),
    "x.at[].set(v)": (lambda jnp, v: jnp.zeros((2, 2)).at[:].set(v), np.asarray),
    "x + v": (lambda jnp, v: jnp.asarray(OTHER) + v, lambda a: OTHER + a),
    "v - x": (lambda jnp, v: v - jnp.asarray(OTHER), lambda a: a - OTHER),
    "x @ v": (lambda jnp, v: jnp.asarray(OTHER) @ v, lambda a: OTHER @ a),
}


@row(JAX)
def test_jax_functions_take_a_variable(backend: str, jnp: Any, call: Call, expected: Call) -> None:
    assert_result(call(jnp, variable(backend)), "jax", expected(VALUE))


TRANSFORMS: dict[str, tuple[Call, Call]] = {
    "jit": (lambda jax, v: jax.jit(lambda x: x * 2 + x.value)(v), lambda a: a * 3),
    "jit of a dict": (lambda jax, v: jax.jit(lambda tree: tree["w"] * 2)({"w": v}), lambda a: a * 2),
    "vmap": (lambda jax, v: jax.vmap(jax.numpy.sum)(v), lambda a: a.sum(1)),
    "scan": (lambda jax, v: jax.lax.scan(lambda c, x: (c + x, c * x), jax.numpy.ones(2), v)[0], lambda a: 1 + a.sum(0)),
    "cond": (lambda jax, v: jax.lax.cond(True, jax.numpy.sin, jax.numpy.cos, v), np.sin),
    "checkpoint": (lambda jax, v: jax.checkpoint(jax.numpy.sin)(v), np.sin),
    "value_and_grad": (lambda jax, v: jax.value_and_grad(jax.numpy.sum)(v)[0], np.sum),
    "linearize": (lambda jax, v: jax.linearize(jax.numpy.sin, v)[0], np.sin),
}


@row(TRANSFORMS)
def test_jax_transforms_take_a_variable_as_argument(backend: str, jax: Any, call: Call, expected: Call) -> None:
    assert_result(call(jax, variable(backend)), "jax", expected(VALUE))


FROZEN: dict[str, tuple[Call, Call]] = {
    "jit": (lambda jax, v: jax.jit(lambda x: x)(v), np.asarray),
    "grad": (lambda jax, v: jax.grad(lambda x: jax.numpy.sum(x * x))(v), lambda a: 2 * a),
    "tree.map": (lambda jax, v: jax.tree.map(jax.numpy.negative, v), np.negative),
    "device_put": (lambda jax, v: jax.device_put(v), np.asarray),
    "cond": (lambda jax, v: jax.lax.cond(True, lambda x: x, lambda x: x, v), np.asarray),
}


@row(FROZEN)
def test_jax_gives_back_a_frozen_variable(backend: str, jax: Any, call: Call, expected: Call) -> None:
    v = variable(backend)
    got = call(jax, v)
    assert type(got) is sv.FrozenVariable
    assert_result(got.value, "jax", expected(VALUE))
    assert_same(v, VALUE)


def _increment(v: Any) -> None:
    v += 1.0


def _set_item(v: Any) -> None:
    v[0] = 1.0


WRITES: dict[str, Call] = {
    "assign": lambda v: v.assign(OTHER),
    "assign_add": lambda v: v.assign_add(1.0),
    "assign_sub": lambda v: v.assign_sub(1.0),
    "+=": _increment,
    "*=": double,
    "v[0] = 1": _set_item,
    "at.add": lambda v: v.at[0].add(1.0),
}


@calls(WRITES)
def test_a_write_to_a_frozen_variable_raises(backend: str, jax: Any, call: Call) -> None:
    v = variable(backend)
    with pytest.raises(sv.errors.ReadOnlyError, match="return the new value"):
        jax.jit(call)(v)
    with pytest.raises(sv.errors.ReadOnlyError):
        call(jax.jit(lambda x: x)(v))
    assert_same(v, VALUE)
    assert v.version == 0


def test_jit_sees_every_write_to_its_argument(backend: str, jax: Any) -> None:
    v = variable(backend)
    traces = []

    def traced(x: Any) -> Any:
        traces.append(x)
        return x * 2

    double = jax.jit(traced)
    for _ in range(3):
        assert_same(double(v), v.numpy() * 2)
        v.assign_add(1.0)
    assert len(traces) == 1


def test_a_variable_has_one_leaf_for_jax(backend: str, jax: Any) -> None:
    v = variable(backend)
    (leaf,) = jax.tree.leaves({"w": v})
    assert_same(leaf, VALUE)
    assert jax.eval_shape(lambda x: x @ x, v).shape == (2, 2)


def test_optax_takes_variables_as_a_tree(backend: str) -> None:
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    parameters = {"w": variable(backend)}
    optimizer = optax.sgd(0.5)
    gradients = jax.grad(lambda tree: jax.numpy.sum(tree["w"] * tree["w"]))(parameters)
    updates, _ = optimizer.update(gradients, optimizer.init(parameters), parameters)
    parameters["w"] += updates["w"].value
    assert_same(parameters["w"], VALUE * 0)


AFTER = """
import sys
import statevar as sv
v = sv.Variable([1.0, 2.0])
assert "jax" not in sys.modules
import jax.numpy as jnp, jax
assert jnp.sin(v).shape == (2,)
assert type(jax.jit(lambda x: x)(v)) is sv.FrozenVariable
assert jax.grad(lambda x: (x * x).sum())(v).value.tolist() == [2.0, 4.0]
assert (jnp.ones(2) + v).tolist() == [2.0, 3.0]
"""


@pytest.mark.usefixtures("jax")
def test_jax_takes_a_variable_that_was_made_before_it_was_imported() -> None:
    done = subprocess.run([sys.executable, "-c", AFTER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


NOT_JAX: dict[str, tuple[Call, Call]] = {
    "lax.sin": (lambda jax, v: jax.lax.sin(v), np.sin),
    "lax.add": (lambda jax, v: jax.lax.add(v, v), lambda a: a + a),
    "scan's carry": (
        lambda jax, v: jax.lax.scan(lambda c, _: (c * 2, None), v, None, 2)[0],
        lambda a: a * 4,
    ),
}


@row(NOT_JAX)
def test_jax_needs_the_value_where_it_has_no_protocol(backend: str, jax: Any, call: Call, expected: Call) -> None:
    v = variable(backend)
    with pytest.raises((TypeError, ValueError)):
        call(jax, v)
    assert_result(call(jax, jax.numpy.asarray(v)), "jax", expected(VALUE))
    if backend == "jax":
        assert_result(call(jax, v.value), "jax", expected(VALUE))


def test_an_index_of_a_jax_array_must_be_the_value(backend: str, jnp: Any) -> None:
    v = variable(backend, np.array([2, 0], np.int32))
    with pytest.raises((TypeError, ValueError)):
        jnp.arange(3)[v]
    assert_same(jnp.arange(3)[jnp.asarray(v)], [2, 0])
    assert_same(jnp.take(jnp.arange(3), v), [2, 0])


def test_jax_asks_for_a_dtype_before_it_asks_for_an_array(backend: str, jnp: Any) -> None:
    v = variable(backend)
    if backend in ("torch", "tensorflow"):  # whose dtypes are their own objects
        with pytest.raises(TypeError, match="data type"):
            jnp.zeros_like(v)
    assert_result(jnp.zeros_like(jnp.asarray(v)), "jax", VALUE * 0)


def test_a_variable_and_its_gradient_are_different_trees(backend: str, jax: Any) -> None:
    v = variable(backend)
    gradient = jax.grad(lambda x: jax.numpy.sum(x * x))(v)
    older = f"Custom node type mismatch: expected type: {re.escape(str(sv.Variable))}, value: <FrozenVariable"
    with pytest.raises(ValueError, match=f"different types|{older}"):
        jax.tree.map(operator.sub, {"w": v}, {"w": gradient})
    assert_same(jax.tree.map(operator.sub, {"w": jax.numpy.asarray(v)}, {"w": gradient.value})["w"], -VALUE)


@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "hessian"])
def test_derivatives_that_compare_the_argument_with_the_result(transform: str) -> None:
    """JAX compares the nodes and asks no protocol, so the error is its own; with `value` it works."""
    jax = pytest.importorskip("jax")
    v = sv.Variable([1.0, 2.0], backend="jax")
    of_square = getattr(jax, transform)(lambda x: (x * x).sum())
    with pytest.raises(ValueError, match="Variable"):
        of_square(v)
    expected = np.diag([2.0, 2.0]) if transform == "hessian" else np.array([2.0, 4.0])
    assert_same(of_square(v.value), expected.astype("float32"))


def test_updates_of_optax() -> None:
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    v = sv.Variable([1.0, 2.0], backend="jax")
    updates = jax.numpy.ones(2)
    with pytest.raises(ValueError, match="Variable"):
        optax.apply_updates(v, updates)
    v.assign(optax.apply_updates(v.value, updates))
    assert_same(v, np.array([2.0, 3.0], "float32"))
