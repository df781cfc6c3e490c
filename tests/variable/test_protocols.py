"""The table of ``docs/protocols.md``: whose calls take a variable of which backend, and what they give."""

from __future__ import annotations

import importlib
import io
import math
import operator
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import address, array_of, array_type, assert_same

Call = Callable[..., Any]

#: What every variable holds unless a test says otherwise, and the other operand; they are equal in one place.
VALUE = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
OTHER = np.array([[0.5, 2.0], [0.25, 1.0]], np.float32)
LIBRARIES = ("numpy", "jax", "torch", "tensorflow")


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax")


@pytest.fixture
def jnp() -> Any:
    return pytest.importorskip("jax.numpy")


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def tf() -> Any:
    return pytest.importorskip("tensorflow")


def lib(name: str) -> Any:
    """A module that a call of a table needs; imported when the call is made."""
    return importlib.import_module(name)


def variable(backend: str, value: Any = VALUE, **options: Any) -> sv.Variable:
    return sv.Variable(np.asarray(value), backend=backend, **options)


def row(table: Mapping[str, Any]) -> pytest.MarkDecorator:
    """One test for each call of a row of the table: name -> (call, what NumPy gives for it)."""
    return pytest.mark.parametrize(("call", "expected"), list(table.values()), ids=list(table))


def calls(table: Mapping[str, Call]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("call", list(table.values()), ids=list(table))


def assert_result(got: Any, library: str, expected: Any, rtol: float = 1e-6) -> None:
    """Asserts that a result has the value, and belongs to the library."""
    if isinstance(got, tuple | list):
        assert len(got) == len(expected)
        for each, one in zip(got, expected, strict=True):
            assert_result(each, library, one, rtol)
        return
    kinds = (np.ndarray, np.generic) if library == "numpy" else array_type(library)
    assert isinstance(got, kinds), f"a {type(got)}, expected one of {library}"
    assert_same(got, expected, rtol=rtol)


def pointer(array: Any) -> int:
    """Where any library's array lies."""
    if isinstance(array, np.ndarray):
        return int(array.ctypes.data)
    if hasattr(array, "data_ptr"):
        return int(array.data_ptr())
    if hasattr(array, "unsafe_buffer_pointer"):
        return int(array.unsafe_buffer_pointer())
    return int(np.asarray(array).ctypes.data)


# -- NumPy ---------------------------------------------------------------------------------------------


ASARRAY: dict[str, Call] = {
    "np.asarray(v)": np.asarray,
    "np.asarray(v, copy=False)": lambda v: np.asarray(v, copy=False),
    "np.array(v, copy=None)": lambda v: np.array(v, copy=None),
    "np.asanyarray(v)": np.asanyarray,
    "np.ascontiguousarray(v)": np.ascontiguousarray,
    "np.atleast_1d(v)": np.atleast_1d,
    "np.asarray(v, its own dtype)": lambda v: np.asarray(v, np.float32),
}


@calls(ASARRAY)
def test_asarray_is_a_read_only_view_of_the_buffer(backend: str, call: Call) -> None:
    v = variable(backend)
    got = call(v)
    assert type(got) is np.ndarray
    assert_same(got, VALUE, dtype=True)
    assert pointer(got) == pointer(call(v)) == address(v)
    with pytest.raises(ValueError, match="read-only"):
        got[0, 0] = 9.0


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int32", "float16", "bfloat16", "float32", "complex64"])
def test_asarray_views_every_dtype(backend: str, dtype: str) -> None:
    v = sv.Variable([[0, 1], [1, 0]], dtype=dtype, backend=backend)
    got = np.asarray(v, copy=False)
    assert got.dtype.name == dtype
    assert_same(got, np.array([[0, 1], [1, 0]], got.dtype))
    assert pointer(got) == address(v)


COPIES: dict[str, Call] = {
    "np.array(v)": np.array,
    "np.array(v, copy=True)": lambda v: np.array(v, copy=True),
    "np.asarray(v, copy=True)": lambda v: np.asarray(v, copy=True),
    "np.asarray(v, another dtype)": lambda v: np.asarray(v, np.float64),
    "np.copy(v)": np.copy,
    "v.numpy()": lambda v: v.numpy(),
}


@calls(COPIES)
def test_a_copy_is_the_callers_own(backend: str, call: Call) -> None:
    v = variable(backend)
    got = call(v)
    assert_same(got, VALUE)
    assert pointer(got) != address(v)
    got[0, 0] = 9.0
    assert_same(v, VALUE)


def test_a_cast_without_a_copy_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match="needs a copy"):
        np.asarray(variable(backend), np.float64, copy=False)


UFUNCS: dict[str, tuple[Call, Call]] = {
    "np.sin": (np.sin, np.sin),
    "np.exp": (np.exp, np.exp),
    "np.negative": (np.negative, np.negative),
    "np.isfinite": (np.isfinite, np.isfinite),
    "np.maximum": (lambda v: np.maximum(v, 2), lambda a: np.maximum(a, 2)),
    "np.arctan2": (lambda v: np.arctan2(OTHER, v), lambda a: np.arctan2(OTHER, a)),
    "np.divmod": (lambda v: np.divmod(v, 2), lambda a: np.divmod(a, 2)),
    "np.modf": (np.modf, np.modf),
    "dtype=": (lambda v: np.add(v, 1, dtype=np.float64), lambda a: np.add(a, 1, dtype=np.float64)),
    "out=": (lambda v: np.add(OTHER, v, out=np.empty_like(VALUE)), lambda a: OTHER + a),
    "where=": (lambda v: np.sqrt(v, out=OTHER * 0, where=OTHER > 0.4), lambda a: np.sqrt(a) * (OTHER > 0.4)),
    "add.reduce": (np.add.reduce, np.add.reduce),
    "add.reduce, axis=1": (lambda v: np.add.reduce(v, axis=1), lambda a: a.sum(1)),
    "add.accumulate": (np.add.accumulate, np.add.accumulate),
    "add.reduceat": (lambda v: np.add.reduceat(v, [0, 1]), lambda a: np.add.reduceat(a, [0, 1])),
    "multiply.outer": (lambda v: np.multiply.outer(v, v), lambda a: np.multiply.outer(a, a)),
}


@row(UFUNCS)
def test_numpy_ufuncs(backend: str, call: Call, expected: Call) -> None:
    assert_result(call(variable(backend)), "numpy", expected(VALUE))


def test_numpy_ufunc_at(backend: str) -> None:
    counts = np.zeros(3, np.int32)
    np.add.at(
        counts, variable(backend, np.array([0, 2, 2], np.int32)), variable(backend, np.array([1, 10, 100], np.int32))
    )
    assert_same(counts, [1, 0, 110])


FUNCTIONS: dict[str, tuple[Call, Call]] = {
    "np.sum": (np.sum, np.sum),
    "np.mean": (lambda v: np.mean(v, axis=0), lambda a: a.mean(0)),
    "np.median": (np.median, np.median),
    "np.argmax": (np.argmax, np.argmax),
    "np.concatenate": (lambda v: np.concatenate([v, OTHER, v]), lambda a: np.concatenate([a, OTHER, a])),
    "np.stack": (lambda v: np.stack((v, OTHER)), lambda a: np.stack((a, OTHER))),
    "np.block": (lambda v: np.block([[v, v]]), lambda a: np.block([[a, a]])),
    "np.where": (lambda v: np.where(OTHER > 1, v, 0), lambda a: np.where(OTHER > 1, a, 0)),
    "np.where on v": (lambda v: np.where(np.asarray(v) > 1, v, OTHER), lambda a: np.where(a > 1, a, OTHER)),
    "np.dot": (lambda v: np.dot(v, OTHER), lambda a: a @ OTHER),
    "np.einsum": (lambda v: np.einsum("ij,jk", v, OTHER), lambda a: a @ OTHER),
    "np.tensordot": (lambda v: np.tensordot(v, v), lambda a: np.tensordot(a, a)),
    "np.clip": (lambda v: np.clip(v, 2, 3), lambda a: np.clip(a, 2, 3)),
    "np.clip by v": (lambda v: np.clip(OTHER, 0, v), lambda a: np.clip(OTHER, 0, a)),
    "np.sort": (lambda v: np.sort(v, axis=None), lambda a: np.sort(a, axis=None)),
    "np.round": (lambda v: np.round(v, 1), lambda a: np.round(a, 1)),
    "np.reshape": (lambda v: np.reshape(v, -1), lambda a: a.reshape(-1)),
    "np.transpose": (np.transpose, np.transpose),
    "np.broadcast_to": (lambda v: np.broadcast_to(v, (2, 2, 2)), lambda a: np.broadcast_to(a, (2, 2, 2))),
    "np.take": (lambda v: np.take(v, [0, 3]), lambda a: np.take(a, [0, 3])),
    "np.cumsum": (np.cumsum, np.cumsum),
    "np.histogram": (lambda v: np.histogram(v, 2), lambda a: np.histogram(a, 2)),
    "np.linalg.inv": (np.linalg.inv, np.linalg.inv),
    "np.linalg.norm": (np.linalg.norm, np.linalg.norm),
    "np.fft.fft": (np.fft.fft, np.fft.fft),
    "np.zeros_like": (np.zeros_like, np.zeros_like),
    "np.isclose": (lambda v: np.isclose(v, VALUE), lambda a: np.isclose(a, VALUE)),
}


@row(FUNCTIONS)
def test_numpy_functions(backend: str, call: Call, expected: Call) -> None:
    assert_result(call(variable(backend)), "numpy", expected(VALUE))


def test_numpy_facts_and_tests(backend: str) -> None:
    v = variable(backend)
    assert (np.shape(v), np.ndim(v), np.size(v)) == ((2, 2), 2, 4)
    assert np.allclose(v, VALUE)
    assert np.array_equal(v, VALUE)
    np.testing.assert_array_equal(np.asarray(v), VALUE)
    target = np.zeros_like(VALUE)
    target[...] = v
    np.copyto(target, v)
    assert_same(target, VALUE)


def test_numpy_saves_a_variable(backend: str) -> None:
    file = io.BytesIO()
    np.savez(file, w=np.asarray(variable(backend)))
    file.seek(0)
    assert_same(np.load(file)["w"], VALUE)


OPERATORS: dict[str, Call] = {
    each.__name__: each
    for each in (
        *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
        *(operator.pow, operator.matmul),
        *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    )
}


@calls(OPERATORS)
def test_operators_with_an_ndarray_stay_with_the_variables_library(backend: str, call: Call) -> None:
    v = variable(backend)
    assert_result(call(v, OTHER), backend, call(VALUE, OTHER))
    assert_result(call(OTHER, v), backend, call(OTHER, VALUE))


@pytest.mark.parametrize("call", [operator.and_, operator.or_, operator.xor])
def test_bitwise_operators_with_an_ndarray_stay_with_the_variables_library(backend: str, call: Call) -> None:
    bits, other = np.array([1, 2, 3], np.int32), np.array([2, 2, 1], np.int32)
    v = variable(backend, bits)
    assert_result(call(v, other), backend, call(bits, other))
    assert_result(call(other, v), backend, call(other, bits))


@pytest.mark.parametrize("scalar", [np.float32(2), np.array(2, np.float32), 2, 2.0], ids=repr)
def test_operators_with_a_scalar_stay_with_the_variables_library(backend: str, scalar: Any) -> None:
    v = variable(backend)
    assert_result(scalar * v, backend, VALUE * 2)
    assert_result(v * scalar, backend, VALUE * 2)
    assert_result(scalar < v, backend, VALUE > 2)
    assert_result(np.multiply(scalar, v), backend, VALUE * 2)


def test_in_place_operators_of_an_ndarray_write_the_ndarray(backend: str) -> None:
    v = variable(backend)
    x = same = OTHER.copy()
    x += v
    x *= v
    x @= v
    assert x is same
    assert_same(x, ((OTHER + VALUE) * VALUE) @ VALUE)
    assert_same(v, VALUE)


OUT: dict[str, Call] = {
    "np.sin(x, out=v)": lambda v: np.sin(OTHER, out=v),
    "np.add(v, x, out=v)": lambda v: np.add(v, OTHER, out=v),
    "np.modf(x, out=(v, v))": lambda v: np.modf(OTHER, out=(v, v)),
    "np.add.reduce(x, out=v)": lambda v: np.add.reduce(OTHER, out=v),
    "np.sum(x, out=v)": lambda v: np.sum(OTHER, out=v),
    "np.add.at(v, 0, 1)": lambda v: np.add.at(v, 0, 1),
    "np.copyto(v, x)": lambda v: np.copyto(v, OTHER),
}


@calls(OUT)
def test_numpy_does_not_write_into_a_variable(backend: str, call: Call) -> None:
    v = variable(backend)
    with pytest.raises((TypeError, ValueError)):
        call(v)
    assert_same(v, VALUE)
    assert v.version == 0


def test_the_error_for_out_names_the_way_round(backend: str) -> None:
    v: Any = variable(backend)
    with pytest.raises(TypeError, match=r"v\.assign\(np\.sin\("):
        np.sin(OTHER, out=v)


# -- operators with the arrays of another library --------------------------------------------------------


@pytest.mark.parametrize("library", LIBRARIES[1:])
@pytest.mark.parametrize("call", [operator.add, operator.mul, operator.matmul, operator.lt, operator.eq])
def test_operators_with_another_librarys_array_go_to_that_library(backend: str, library: str, call: Call) -> None:
    pytest.importorskip(library)
    v, other = variable(backend), array_of(library, OTHER)
    assert_result(call(v, other), library, call(VALUE, OTHER))
    assert_result(call(other, v), library, call(OTHER, VALUE))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("call", [operator.add, operator.matmul, operator.lt])
def test_a_variable_as_the_other_operand_is_what_its_value_would_be(backend: str, library: str, call: Call) -> None:
    pytest.importorskip(library)
    v, w = variable(backend), variable(library, OTHER)
    assert_result(call(v, w), backend if library == "numpy" else library, call(VALUE, OTHER))


@pytest.mark.parametrize("library", LIBRARIES)
def test_any_librarys_array_can_be_assigned(backend: str, library: str) -> None:
    pytest.importorskip(library)
    v = variable(backend)
    assert_same(v.assign(array_of(library, OTHER)), OTHER)
    assert_same(v.assign_add(array_of(library, VALUE)), OTHER + VALUE)
    v[0] = array_of(library, VALUE[0])
    assert_same(v.value[0], VALUE[0])
    v += variable(library)
    assert_same(v.value[0], 2 * VALUE[0])


# -- Python ----------------------------------------------------------------------------------------------


SCALARS: dict[str, tuple[Call, Any]] = {
    "float": (float, 2.0),
    "int": (int, 2),
    "complex": (complex, 2 + 0j),
    "bool": (bool, True),
    "operator.index": (operator.index, 2),
    "range": (range, range(2)),
    "math.sqrt": (math.sqrt, math.sqrt(2)),
    "list[v]": (lambda v: [5, 6, 7][v], 7),
    "list[:v]": (lambda v: [5, 6, 7][:v], [5, 6]),
    "list * v": (lambda v: "ab" * operator.index(v), "abab"),
    "np.arange(3)[v]": (lambda v: np.arange(3)[v], 2),
    "np.zeros(v)": (lambda v: np.zeros(v).shape, (2,)),
    "np.float32(v)": (np.float32, 2),
    "round": (lambda v: float(round(v)), 2.0),
}


@row(SCALARS)
def test_a_scalar_variable_is_a_number_to_python(backend: str, call: Call, expected: Any) -> None:
    got = call(variable(backend, np.array(2, np.int32)))
    assert type(got) is type(expected) or isinstance(got, np.generic)
    assert got == expected


def test_a_variable_is_a_sequence_to_python(backend: str) -> None:
    v = variable(backend, trainable=False)
    first, second = v
    assert_result(first, backend, VALUE[0])
    assert_result(second, backend, VALUE[1])
    assert len(v) == 2
    assert 3.0 in v
    assert 5.0 not in v
    assert [float(x) for x in v[0]] == [1.0, 2.0]
    assert float(sum(v[0])) == 3.0


def test_a_fractional_index_is_refused(backend: str) -> None:
    v = variable(backend, np.float32(2))
    with pytest.raises(TypeError):
        operator.index(v)
    with pytest.raises((TypeError, IndexError)):
        np.arange(3)[v]


# -- JAX ---------------------------------------------------------------------------------------------------


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
def test_jax_functions(backend: str, jnp: Any, call: Call, expected: Call) -> None:
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
def test_jax_transforms(backend: str, jax: Any, call: Call, expected: Call) -> None:
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


def _double(v: Any) -> None:
    v *= 2.0


def _set_item(v: Any) -> None:
    v[0] = 1.0


WRITES: dict[str, Call] = {
    "assign": lambda v: v.assign(OTHER),
    "assign_add": lambda v: v.assign_add(1.0),
    "assign_sub": lambda v: v.assign_sub(1.0),
    "+=": _increment,
    "*=": _double,
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


def test_jax_leaves(backend: str, jax: Any) -> None:
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


# -- PyTorch -------------------------------------------------------------------------------------------------


def _into(torch: Any, v: Any, how: str) -> Any:
    target = torch.ones(2, 2)
    if how == "copy_":
        return target.copy_(v)
    if how == "add_":
        return target.add_(v)
    if how == "setitem":
        target[:] = v
    else:
        target += v
    return target


TORCH: dict[str, tuple[Call, Call]] = {
    "sin": (lambda torch, v: torch.sin(v), np.sin),
    "add": (lambda torch, v: torch.add(v, v), lambda a: a + a),
    "add, by keyword": (lambda torch, v: torch.add(input=torch.ones(2, 2), other=v), lambda a: a + 1),
    "clamp(x, min=v)": (lambda torch, v: torch.clamp(torch.ones(2, 2), min=v), lambda a: np.maximum(a, 1)),
    "sum": (lambda torch, v: torch.sum(v, dim=0), lambda a: a.sum(0)),
    "max": (lambda torch, v: torch.max(v, dim=1).values, lambda a: a.max(1)),
    "matmul": (lambda torch, v: torch.matmul(torch.tensor(OTHER), v), lambda a: OTHER @ a),
    "einsum": (lambda torch, v: torch.einsum("ij,jk", v, torch.tensor(OTHER)), lambda a: a @ OTHER),
    "cat": (lambda torch, v: torch.cat([torch.tensor(OTHER), v]), lambda a: np.concatenate([OTHER, a])),
    "stack of a tuple": (lambda torch, v: torch.stack((v, v)), lambda a: np.stack([a, a])),
    "where": (lambda torch, v: torch.where(torch.tensor(OTHER > 1), v, 0.0), lambda a: np.where(OTHER > 1, a, 0)),
    "split": (lambda torch, v: torch.split(v, 1), lambda a: np.split(a, 2)),
    "reshape": (lambda torch, v: torch.reshape(v, (-1,)), lambda a: a.reshape(-1)),
    "zeros_like": (lambda torch, v: torch.zeros_like(v), np.zeros_like),
    "linalg.norm": (lambda torch, v: torch.linalg.norm(v), np.linalg.norm),
    "F.linear": (lambda torch, v: torch.nn.functional.linear(torch.tensor(OTHER), v), lambda a: OTHER @ a.T),
    "F.relu": (lambda torch, v: torch.nn.functional.relu(v), np.asarray),
    "F.mse_loss": (
        lambda torch, v: torch.nn.functional.mse_loss(v, torch.tensor(OTHER)),
        lambda a: ((a - OTHER) ** 2).mean(),
    ),
    "a module": (lambda torch, v: torch.nn.ReLU()(v), np.asarray),
    "t + v": (lambda torch, v: torch.tensor(OTHER) + v, lambda a: OTHER + a),
    "v + t": (lambda torch, v: v + torch.tensor(OTHER), lambda a: a + OTHER),
    "t @ v": (lambda torch, v: torch.tensor(OTHER) @ v, lambda a: OTHER @ a),
    "t.copy_(v)": (lambda torch, v: _into(torch, v, "copy_"), np.asarray),
    "t.add_(v)": (lambda torch, v: _into(torch, v, "add_"), lambda a: a + 1),
    "t[:] = v": (lambda torch, v: _into(torch, v, "setitem"), np.asarray),
    "t += v": (lambda torch, v: _into(torch, v, "iadd"), lambda a: a + 1),
}


@row(TORCH)
def test_torch_functions(backend: str, torch: Any, call: Call, expected: Call) -> None:
    v = variable(backend)
    assert_result(call(torch, v), "torch", expected(VALUE))
    assert_same(v, VALUE)


def test_torch_compares_variables(backend: str, torch: Any) -> None:
    v = variable(backend)
    assert torch.equal(v, torch.tensor(VALUE))
    assert torch.allclose(v, torch.tensor(VALUE))
    assert torch.numel(v) == 4


TORCH_WRITES: dict[str, Call] = {
    "relu_(v)": lambda torch, v: torch.relu_(v),
    "sin(t, out=v)": lambda torch, v: torch.sin(torch.ones(4), out=v),
    "max(t, 0, out=(v, i))": lambda torch, v: torch.max(
        torch.ones(2, 4), 0, out=(v, torch.zeros(4, dtype=torch.int64))
    ),
    "F.relu(v, inplace=True)": lambda torch, v: torch.nn.functional.relu(v, inplace=True),
    "_foreach_add_([v], 1)": lambda torch, v: torch._foreach_add_([v], 1.0),
}


@calls(TORCH_WRITES)
def test_torch_does_not_write_into_a_variable(backend: str, torch: Any, call: Call) -> None:
    v = variable(backend, VALUE.reshape(-1), trainable=False)
    with pytest.raises(TypeError, match=r"Hint: v\.assign"):
        call(torch, v)
    assert_same(v, VALUE.reshape(-1))
    assert v.version == 0


def test_what_torch_makes_of_a_variable_of_another_library_is_not_the_variable(backend: str, torch: Any) -> None:
    v = variable(backend)
    if backend == "torch":  # it is a view of the parameter, which autograd guards
        with pytest.raises(RuntimeError, match="leaf Variable"):
            torch.reshape(v, (-1,)).add_(10.0)
    else:
        torch.reshape(v, (-1,)).add_(10.0)
        torch.transpose(v, 0, 1).zero_()
    assert_same(v, VALUE)


def test_torch_keeps_running_statistics_in_parameters(torch: Any) -> None:
    """It writes them past every protocol, so they must be what it may write."""
    mean, variance = (variable("torch", each, trainable=False) for each in (np.zeros(4, "f"), np.ones(4, "f")))
    torch.nn.functional.batch_norm(torch.ones(3, 4), mean.parameter, variance.parameter, training=True)
    assert_same(mean, np.full(4, 0.1), rtol=1e-6)


GRADIENTS: dict[str, Call] = {
    "torch.mul(v, x)": lambda torch, v, x: torch.mul(v, x),
    "v * x": lambda torch, v, x: v * x,
    "x * v": lambda torch, v, x: x * v,
    "v.value * x": lambda torch, v, x: v.value * x,
    "v * ndarray": lambda torch, v, x: v * x.numpy(),
    "ndarray * v": lambda torch, v, x: x.numpy() * v,
    "stack([v]) * x": lambda torch, v, x: torch.stack([v]) * x,
    "v[:] * x": lambda torch, v, x: v[:] * x,
    "einsum": lambda torch, v, x: torch.einsum("ij,ij", v, x),
    "copy_": lambda torch, v, x: torch.zeros(2, 2).copy_(v) * x,
}


@calls(GRADIENTS)
def test_a_torch_gradient_reaches_the_parameter(torch: Any, call: Call) -> None:
    v, x = variable("torch"), torch.tensor(OTHER)
    call(torch, v, x).sum().backward()
    assert_same(v.parameter.grad, OTHER)
    (again,) = torch.autograd.grad(call(torch, v, x).sum(), v.parameter)
    assert_same(again, OTHER)
    assert not call(torch, variable("torch", trainable=False), x).requires_grad


def test_torch_differentiates_by_a_variable(torch: Any) -> None:
    v, x = variable("torch"), torch.tensor(OTHER)
    (gradient,) = torch.autograd.grad(torch.mul(v, x).sum(), [v])
    assert_same(gradient, OTHER)
    torch.autograd.backward(torch.mul(v, x).sum(), inputs=[v])
    assert_same(v.parameter.grad, OTHER)
    torch.mul(v, x).sum().backward(inputs=[v])
    assert_same(v.parameter.grad, OTHER * 2)


@pytest.mark.parametrize("other", ["numpy", "jax", "tensorflow"])
def test_torch_cannot_differentiate_by_a_variable_of_another_library(torch: Any, other: str) -> None:
    pytest.importorskip(other)
    v, w = variable("torch"), variable(other)
    with pytest.raises((AttributeError, RuntimeError)):
        torch.autograd.backward(torch.sum(torch.mul(v, w)), inputs=[w])


COMPILED: dict[str, tuple[Call, Call]] = {
    "torch.mul(v, x)": (lambda torch, v, x: torch.mul(v, x), lambda a, b: a * b),
    "torch.stack([v, x])": (lambda torch, v, x: torch.stack([v, x]), lambda a, b: np.stack([a, b])),
    "v * x": (lambda torch, v, x: v * x, lambda a, b: a * b),
    "x * v": (lambda torch, v, x: x * v, lambda a, b: a * b),
    "v.value": (lambda torch, v, x: v.value, lambda a, b: a),
    "F.linear": (lambda torch, v, x: torch.nn.functional.linear(x, v), lambda a, b: b @ a.T),
}


@row(COMPILED)
def test_torch_compiles_a_function_of_a_variable_in_one_graph(torch: Any, call: Call, expected: Call) -> None:
    v, x = variable("torch"), torch.tensor(OTHER)
    torch.compiler.reset()
    compiled = torch.compile(lambda v, x: call(torch, v, x), fullgraph=True, backend="aot_eager")
    for _ in range(3):
        assert_result(compiled(v, x), "torch", expected(v.numpy(), OTHER))
        v.assign_add(1.0)
    compiled(v, x).sum().backward()
    assert v.parameter.grad is not None


def test_torch_compiles_writes_of_a_variable(torch: Any) -> None:
    v, x = variable("torch"), torch.tensor(OTHER)

    def step(x: Any) -> Any:
        v.assign_add(x)
        return v.value

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert_same(compiled(x), VALUE + OTHER)
    assert_same(compiled(x), VALUE + 2 * OTHER)
    assert_same(v, VALUE + 2 * OTHER)
    assert v.version == 2


TENSORS_ONLY: dict[str, tuple[Call, Call]] = {
    "optim.SGD([v])": (
        lambda torch, v: torch.optim.SGD([v]),
        lambda torch, v: torch.optim.SGD([v.parameter]),
    ),
    "register_parameter": (
        lambda torch, v: torch.nn.Module().register_parameter("w", v),
        lambda torch, v: torch.nn.Module().register_parameter("w", v.parameter),
    ),
    "functional_call": (
        lambda torch, v: torch.func.functional_call(torch.nn.Linear(2, 2), {"weight": v}, torch.ones(2)),
        lambda torch, v: torch.func.functional_call(torch.nn.Linear(2, 2), {"weight": v.value}, torch.ones(2)),
    ),
    "default_collate": (
        lambda torch, v: torch.utils.data.default_collate([v, v]),
        lambda torch, v: torch.utils.data.default_collate([v.value, v.value]),
    ),
    "from_numpy": (
        lambda torch, v: torch.from_numpy(v),
        lambda torch, v: torch.from_numpy(v.numpy()),
    ),
    "func.grad": (
        lambda torch, v: torch.func.grad(torch.sum)(v),
        lambda torch, v: torch.func.grad(torch.sum)(v.value),
    ),
    "vmap": (
        lambda torch, v: torch.vmap(torch.sum)(v),
        lambda torch, v: torch.vmap(torch.sum)(v.value),
    ),
    "torch.load of a saved variable": (
        lambda torch, v: _saved(torch, v),
        lambda torch, v: _saved(torch, v.value.detach()),
    ),
}


def _saved(torch: Any, value: Any) -> Any:
    file = io.BytesIO()
    torch.save({"w": value}, file)
    file.seek(0)
    return torch.load(file)["w"]


@pytest.mark.parametrize(("call", "way_round"), list(TENSORS_ONLY.values()), ids=list(TENSORS_ONLY))
def test_torch_takes_only_tensors_here(torch: Any, call: Call, way_round: Call) -> None:
    v = variable("torch")
    with pytest.raises((TypeError, ValueError, pickle.UnpicklingError)):
        call(torch, v)
    way_round(torch, v)


def test_an_index_of_a_torch_tensor_must_be_the_value(torch: Any) -> None:
    """Torch takes whatever has ``__getitem__`` for a tuple of indices, and asks no protocol."""
    v = variable("torch", np.array([1, 0], np.int32))
    with pytest.raises(IndexError), pytest.warns(UserWarning, match="non-tuple sequence"):
        torch.arange(3)[v]
    assert_same(torch.arange(3)[v.value], [1, 0])


# -- TensorFlow ------------------------------------------------------------------------------------------------


TENSORFLOW: dict[str, tuple[Call, Call]] = {
    "convert_to_tensor": (lambda tf, v: tf.convert_to_tensor(v), np.asarray),
    "constant": (lambda tf, v: tf.constant(v), np.asarray),
    "sin": (lambda tf, v: tf.sin(v), np.sin),
    "add": (lambda tf, v: tf.add(v, v), lambda a: a + a),
    "matmul": (lambda tf, v: tf.matmul(OTHER, v), lambda a: OTHER @ a),
    "reduce_sum": (lambda tf, v: tf.reduce_sum(v, axis=0), lambda a: a.sum(0)),
    "concat": (lambda tf, v: tf.concat([v, OTHER], 0), lambda a: np.concatenate([a, OTHER])),
    "stack": (lambda tf, v: tf.stack([v, v]), lambda a: np.stack([a, a])),
    "cast": (lambda tf, v: tf.cast(v, tf.int32), lambda a: a.astype(np.int32)),
    "where": (lambda tf, v: tf.where(OTHER > 1, v, 0.0), lambda a: np.where(OTHER > 1, a, 0)),
    "reshape": (lambda tf, v: tf.reshape(v, [-1]), lambda a: a.reshape(-1)),
    "gather": (lambda tf, v: tf.gather(v, [1, 0]), lambda a: a[[1, 0]]),
    "map_fn": (lambda tf, v: tf.map_fn(lambda x: x * 2, v), lambda a: a * 2),
    "nn.softmax": (lambda tf, v: tf.nn.softmax(v), lambda a: np.exp(a) / np.exp(a).sum(1, keepdims=True)),
    "c + v": (lambda tf, v: tf.constant(OTHER) + v, lambda a: OTHER + a),
    "v - c": (lambda tf, v: v - tf.constant(OTHER), lambda a: a - OTHER),
    "c @ v": (lambda tf, v: tf.constant(OTHER) @ v, lambda a: OTHER @ a),
    "Variable(v)": (lambda tf, v: tf.Variable(v).value(), np.asarray),
    "Variable.assign(v)": (lambda tf, v: tf.Variable(tf.zeros((2, 2))).assign(v).value(), np.asarray),
    "Variable + v": (lambda tf, v: tf.Variable(OTHER) + v, lambda a: OTHER + a),
    "function(f)(v)": (lambda tf, v: tf.function(lambda x: tf.sin(x) * x)(v), lambda a: np.sin(a) * a),
    "function(f)({'w': v})": (lambda tf, v: tf.function(lambda tree: tf.sin(tree["w"]))({"w": v}), np.sin),
    "function over v": (lambda tf, v: tf.function(lambda: tf.sin(v))(), np.sin),
    "data": (lambda tf, v: list(tf.data.Dataset.from_tensor_slices(v)), list),
    "data.batch": (lambda tf, v: next(iter(tf.data.Dataset.from_tensors(v).batch(1))), lambda a: a[None]),
}


@row(TENSORFLOW)
def test_tensorflow_functions(backend: str, tf: Any, call: Call, expected: Call) -> None:
    assert_result(call(tf, variable(backend)), "tensorflow", expected(VALUE))


def test_a_tensorflow_function_sees_every_write_to_its_argument(backend: str, tf: Any) -> None:
    v = variable(backend)
    traces = []

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def double(x: Any) -> Any:
        traces.append(x)
        return x * 2

    for _ in range(3):
        assert_same(double(v), v.numpy() * 2)
        v.assign_add(1.0)
    assert len(traces) == 1


def test_a_tensorflow_function_reads_and_writes_the_variable_it_closes_over(tf: Any) -> None:
    v = variable("tensorflow")

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def step(x: Any) -> Any:
        before = v * 1
        v.assign_add(x)
        after = v.value
        v.assign(v * 2)
        v[0] = 0.0
        return before, after

    expected = VALUE
    for count in (1, 2):
        before, after = step(tf.constant(OTHER))
        assert_same(before, expected)
        assert_same(after, expected + OTHER)
        expected = (expected + OTHER) * 2
        expected[0] = 0.0
        assert_same(v, expected)
        assert_same(v.parameter, expected)
        assert v.version == 3 * count
    v.assign(VALUE)
    assert_same(step(tf.constant(OTHER))[0], VALUE)
    assert v.version == 10


def test_writes_in_a_tensorflow_loop_are_counted_as_they_run(tf: Any) -> None:
    v = sv.Variable(0, backend="tensorflow")

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def count(times: Any) -> Any:
        for _ in tf.range(times):
            v.assign_add(1)
        return v.value

    assert int(count(tf.constant(5))) == 5
    assert int(count(tf.constant(7))) == 12
    assert v.version == 12


TAPED: dict[str, Call] = {
    "tf.multiply(v, x)": lambda tf, v, x: tf.multiply(v, x),
    "v * x": lambda tf, v, x: v * x,
    "x * v": lambda tf, v, x: x * v,
    "v.value * x": lambda tf, v, x: v.value * x,
    "ndarray * v": lambda tf, v, x: x.numpy() * v,
    "stack([v]) * x": lambda tf, v, x: tf.stack([v]) * x,
    "v[:] * x": lambda tf, v, x: v[:] * x,
    "function(f)(v)": lambda tf, v, x: tf.function(lambda w: w * x)(v),
    "function over v": lambda tf, v, x: tf.function(lambda: tf.multiply(v, x))(),
}


@calls(TAPED)
def test_a_gradient_tape_watches_the_reads_of_a_trainable_variable(tf: Any, call: Call) -> None:
    v, constant, x = variable("tensorflow"), variable("tensorflow", trainable=False), tf.constant(OTHER)
    v.value, constant.value  # noqa: B018  # an earlier read must not be what the tape gets
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(call(tf, v, x)) + tf.reduce_sum(call(tf, constant, x))
    gradients = tape.gradient(loss, [v.parameter, constant.parameter])
    assert_same(gradients[0], OTHER)
    assert gradients[1] is None


def test_a_gradient_tape_takes_the_parameter_and_not_the_variable(backend: str, tf: Any) -> None:
    v = variable(backend)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(v))
    with pytest.raises((AttributeError, TypeError)):
        tape.gradient(loss, v)
    with tf.GradientTape() as tape, pytest.raises(ValueError, match="not tf"):
        tape.watch(v)


def test_tensorflow_writes_through_the_parameter(tf: Any) -> None:
    v = variable("tensorflow")
    before = v.value
    v.parameter.assign_sub(0.5 * tf.ones((2, 2)))
    assert_same(v, VALUE - 0.5)
    assert_same(before, VALUE)


def test_an_index_of_a_tensor_must_be_the_value(backend: str, tf: Any) -> None:
    v = variable(backend, np.array([1, 0], np.int32))
    with pytest.raises(TypeError):
        tf.range(3)[v]
    assert_same(tf.gather(tf.range(3), v), [1, 0])


# -- DLPack ------------------------------------------------------------------------------------------------------


DLPACK: dict[str, tuple[str, Call]] = {
    "np.from_dlpack": ("numpy", np.from_dlpack),
    "np.from_dlpack, copy=True": ("numpy", lambda v: np.from_dlpack(v, copy=True)),
    "jnp.from_dlpack": ("jax", lambda v: lib("jax.numpy").from_dlpack(v)),
    "torch.from_dlpack": ("torch", lambda v: lib("torch").from_dlpack(v)),
    "torch.as_tensor": ("torch", lambda v: lib("torch").as_tensor(v)),
    "torch.asarray": ("torch", lambda v: lib("torch").asarray(v)),
    "torch.tensor": ("torch", lambda v: lib("torch").tensor(v)),
    "tf.experimental.dlpack": (
        "tensorflow",
        lambda v: lib("tensorflow").experimental.dlpack.from_dlpack(v.__dlpack__()),
    ),
}


@pytest.mark.parametrize(("library", "call"), list(DLPACK.values()), ids=list(DLPACK))
def test_dlpack(backend: str, library: str, call: Call) -> None:
    pytest.importorskip(library)
    assert_result(call(variable(backend, trainable=False)), library, VALUE)


@pytest.mark.parametrize("library", LIBRARIES)
def test_dlpack_comes_in_as_any_array_does(backend: str, library: str) -> None:
    pytest.importorskip(library)
    source = np.from_dlpack(array_of(library, OTHER))
    assert_same(variable(backend).assign(source), OTHER)
    assert variable(library, OTHER, trainable=False).__dlpack_device__() == (1, 0)


def test_dlpack_of_a_trainable_torch_variable_names_the_way_round(torch: Any) -> None:
    v = variable("torch")
    for call in (np.from_dlpack, torch.from_dlpack, torch.as_tensor, torch.tensor):
        with pytest.raises(BufferError, match=r"v\.value.*v\.value\.detach\(\) or v\.numpy\(\)"):
            call(v)
    assert torch.from_dlpack(v.value.detach()).shape == (2, 2)
    assert torch.as_tensor(v.value).requires_grad
    assert_same(np.from_dlpack(v.value.detach()), VALUE)


def test_numpy_gets_a_read_only_array_by_dlpack(backend: str) -> None:
    assert not np.from_dlpack(variable(backend, trainable=False)).flags.writeable


# -- zero-copy, and what it must not cost ----------------------------------------------------------------------------


#: Large enough for the aligned buffers that JAX and TensorFlow take as they are.
LARGE = np.arange(8192, dtype=np.float32)

ZERO_COPY: dict[str, tuple[str, tuple[str, ...], Call]] = {
    "np.asarray": ("numpy", LIBRARIES, np.asarray),
    "np.from_dlpack": ("numpy", LIBRARIES, np.from_dlpack),
    "torch.as_tensor": ("torch", LIBRARIES, lambda v: lib("torch").as_tensor(v)),
    "torch.asarray": ("torch", LIBRARIES, lambda v: lib("torch").asarray(v)),
    "torch.from_dlpack": ("torch", LIBRARIES, lambda v: lib("torch").from_dlpack(v)),
    "jnp.asarray": ("jax", ("jax",), lambda v: lib("jax.numpy").asarray(v)),
    "jnp.from_dlpack": ("jax", ("jax",), lambda v: lib("jax.numpy").from_dlpack(v)),
    "jax.device_put": ("jax", ("numpy", "jax"), lambda v: lib("jax").device_put(v).value),
    "tf.convert_to_tensor": (
        "tensorflow",
        ("tensorflow",),
        lambda v: lib("tensorflow").convert_to_tensor(v),
    ),
}


@pytest.mark.parametrize(("library", "backends", "call"), list(ZERO_COPY.values()), ids=list(ZERO_COPY))
def test_zero_copy(backend: str, library: str, backends: tuple[str, ...], call: Call) -> None:
    pytest.importorskip(library)
    v = variable(backend, LARGE, trainable=False)
    got = call(v)
    assert_result(got, library, LARGE)
    if backend in backends:
        assert pointer(got) == address(v)
        assert pointer(call(v)) == pointer(got)


HOLDERS: dict[str, tuple[str, Call]] = {
    "v.value": ("numpy", lambda v: v.value),
    "np.asarray": ("numpy", np.asarray),
    "np.asarray, a slice": ("numpy", lambda v: np.asarray(v)[:]),
    "np.from_dlpack": ("numpy", np.from_dlpack),
    "memoryview": ("numpy", lambda v: np.asarray(v).data),
    "pandas.Series": ("pandas", lambda v: lib("pandas").Series(v, copy=False)),
    "scipy.sparse": ("scipy", lambda v: lib("scipy.sparse").csr_array(v[None]).toarray()[0]),
    "torch.sin": ("torch", lambda v: lib("torch").reshape(v, (-1,))),
    "torch.from_dlpack": ("torch", lambda v: lib("torch").from_dlpack(v)),
    "torch.as_tensor": ("torch", lambda v: lib("torch").as_tensor(v)),
    "torch.from_numpy": ("torch", lambda v: lib("torch").from_numpy(np.asarray(v))),
    "jax.device_put": ("jax", lambda v: lib("jax").device_put(v)),
    "jax.device_put, NumPy": ("jax", lambda v: lib("jax").device_put(np.asarray(v))),
    "jnp.asarray": ("jax", lambda v: lib("jax.numpy").asarray(v)),
    "jnp.from_dlpack": ("jax", lambda v: lib("jax.numpy").from_dlpack(v)),
    "tf.convert_to_tensor": ("tensorflow", lambda v: lib("tensorflow").convert_to_tensor(v)),
    "tf.constant": ("tensorflow", lambda v: lib("tensorflow").constant(np.asarray(v))),
}


# torch warns, once a process, that it cannot mark as read-only the tensor it makes of a read-only array.
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning")
@pytest.mark.parametrize("size", [4, 8192])
@pytest.mark.parametrize(("library", "call"), list(HOLDERS.values()), ids=list(HOLDERS))
def test_what_a_holder_has_never_changes(backend: str, library: str, call: Call, size: int) -> None:
    pytest.importorskip(library)
    before = LARGE[:size]
    v = variable(backend, before, trainable=False)
    v.assign_add(0.0)  # so that the buffer is the variable's own
    held = call(v)
    writes: tuple[Call, ...] = (
        lambda w: w.assign_add(1.0),
        lambda w: w.assign(before * 3),
        lambda w: operator.setitem(w, slice(None), -1.0),
        lambda w: w.at[0].multiply(5.0),
        _double,
    )
    for write in writes:
        write(v)
        assert_same(np.asarray(getattr(held, "value", held)), before)
    again = call(v)
    del v  # what is held outlives the variable
    assert_same(np.asarray(getattr(again, "value", again)), [-10.0, *[-2.0] * (size - 1)])


def test_a_torch_tensor_of_a_variable_can_be_written(backend: str, torch: Any) -> None:
    """Not protected: torch has no read-only tensors. The way round is a copy."""
    v = variable(backend, trainable=False)
    torch.tensor(v).add_(10.0)
    torch.from_dlpack(v, copy=True).add_(10.0)
    torch.from_numpy(v.numpy()).add_(10.0)
    assert_same(v, VALUE)


# -- the array API --------------------------------------------------------------------------------------------------


STANDARD: dict[str, tuple[Call, Call]] = {
    "sin": (lambda xp, v: xp.sin(v), np.sin),
    "add": (lambda xp, v: xp.add(v, v), lambda a: a + a),
    "pow": (lambda xp, v: xp.pow(v, v), lambda a: a**a),
    "sum": (lambda xp, v: xp.sum(v, axis=0), lambda a: a.sum(0)),
    "matmul": (lambda xp, v: xp.matmul(v, v), lambda a: a @ a),
    "concat": (lambda xp, v: xp.concat([v, v]), lambda a: np.concatenate([a, a])),
    "stack": (lambda xp, v: xp.stack([v, v]), lambda a: np.stack([a, a])),
    "reshape": (lambda xp, v: xp.reshape(v, (-1,)), lambda a: a.reshape(-1)),
    "permute_dims": (lambda xp, v: xp.permute_dims(v, (1, 0)), lambda a: a.T),
    "asarray": (lambda xp, v: xp.asarray(v), np.asarray),
    "argmax": (lambda xp, v: xp.argmax(v, axis=1), lambda a: a.argmax(1)),
    "where": (lambda xp, v: xp.where(xp.asarray(v) > 2, v, xp.zeros_like(v)), lambda a: np.where(a > 2, a, 0)),
}


@row(STANDARD)
def test_array_api_namespace(backend: str, call: Call, expected: Call) -> None:
    compat = lib("array_api_compat")
    v = variable(backend, trainable=False)
    assert_result(call(compat.array_namespace(v), v), backend, expected(VALUE))


def test_array_api_compat_casts_by_a_method_of_the_array(backend: str) -> None:
    v = variable(backend, trainable=False)
    xp = lib("array_api_compat").array_namespace(v)
    assert_result(xp.astype(v.value, xp.int32), backend, VALUE.astype(np.int32))


def test_array_api_facts(backend: str) -> None:
    compat = lib("array_api_compat")
    v = variable(backend)
    assert compat.is_array_api_obj(v)
    assert compat.size(v) == 4
    assert compat.array_namespace(v) is compat.array_namespace(v, v)


# -- pandas, SciPy, scikit-learn, xarray ------------------------------------------------------------------------------


LINE = VALUE.reshape(-1)

FRAMES: dict[str, Call] = {
    "Series(v)": lambda pd, v: pd.Series(v),
    "Index(v)": lambda pd, v: pd.Index(v).to_series(index=range(4)),
    "DataFrame({'a': v})": lambda pd, v: pd.DataFrame({"a": v}),
    "DataFrame(v)": lambda pd, v: pd.DataFrame(v),
    "df.assign(a=v)": lambda pd, v: pd.DataFrame({"b": range(4)}).assign(a=v),
    "Series * v": lambda pd, v: pd.Series(range(4)) * v,
    "v * Series": lambda pd, v: v * pd.Series(range(4)),
    "Series - v": lambda pd, v: pd.Series(range(4)) - v,
    "v - Series": lambda pd, v: v - pd.Series(range(4)),
    "DataFrame * v": lambda pd, v: pd.DataFrame(np.ones((2, 4))) * v,
    "v * DataFrame": lambda pd, v: v * pd.DataFrame(np.ones((2, 4))),
    "v < DataFrame": lambda pd, v: v < pd.DataFrame(np.full((2, 4), 2.5)),
}


@calls(FRAMES)
def test_pandas(backend: str, call: Call) -> None:
    pd = pytest.importorskip("pandas")
    got, expected = call(pd, variable(backend, LINE)), call(pd, LINE)
    assert type(got) is type(expected)
    assert got.equals(expected)


def test_pandas_keeps_what_it_was_given(backend: str) -> None:
    pd = pytest.importorskip("pandas")
    v = variable(backend, LINE)
    frame, series = pd.DataFrame({"a": v}), pd.Series(v, copy=False)
    v.assign_add(1.0)
    assert_same(frame["a"].to_numpy(), LINE)
    assert_same(series.to_numpy(), LINE)
    assert_same(v, LINE + 1)
    assert pd.Series([2.0, 9.0]).isin(np.asarray(v)).tolist() == [True, False]


SCIPY: dict[str, tuple[Call, Call]] = {
    "linalg.expm": (
        lambda v: lib("scipy.linalg").expm(v),
        lambda a: lib("scipy.linalg").expm(a),
    ),
    "linalg.solve": (
        lambda v: lib("scipy.linalg").solve(v, OTHER),
        lambda a: np.linalg.solve(a, OTHER),
    ),
    "sparse.csr_array(v)": (
        lambda v: lib("scipy.sparse").csr_array(v).toarray(),
        np.asarray,
    ),
    "csr_array @ v": (
        lambda v: lib("scipy.sparse").csr_array(OTHER) @ v,
        lambda a: OTHER @ a,
    ),
    "v @ csr_array": (
        lambda v: v @ lib("scipy.sparse").csr_array(OTHER),
        lambda a: a @ OTHER,
    ),
    "stats.zscore": (
        lambda v: lib("scipy.stats").zscore(v),
        lambda a: (a - a.mean(0)) / a.std(0),
    ),
    "special.expit": (
        lambda v: lib("scipy.special").expit(v),
        lambda a: 1 / (1 + np.exp(-a)),
    ),
    "ndimage.zoom": (
        lambda v: lib("scipy.ndimage").zoom(v, 1),
        np.asarray,
    ),
}


@row(SCIPY)
def test_scipy(backend: str, call: Call, expected: Call) -> None:
    pytest.importorskip("scipy")
    v = variable(backend)
    assert_result(call(v), "numpy", expected(VALUE), rtol=1e-5)
    assert_same(v, VALUE)


def test_scipy_starts_from_a_variable(backend: str) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    v = variable(backend, LINE)
    found = optimize.minimize(lambda x: ((x - 1) ** 2).sum(), v, method="Nelder-Mead")
    np.testing.assert_allclose(found.x, np.ones(4), atol=1e-2)
    assert_same(v, LINE)


def test_scikit_learn(backend: str) -> None:
    pytest.importorskip("sklearn")
    linear, preprocessing = (lib(f"sklearn.{each}") for each in ("linear_model", "preprocessing"))
    x, y = variable(backend), variable(backend, np.array([1.0, 2.0], np.float32))
    expected = linear.LinearRegression().fit(VALUE, [1.0, 2.0])
    assert_same(linear.LinearRegression().fit(x, y).coef_, expected.coef_, rtol=1e-5)
    assert_same(expected.predict(x), expected.predict(VALUE))
    assert_same(preprocessing.StandardScaler().fit_transform(x), [[-1, -1], [1, 1]])


def test_xarray_holds_the_variable_itself(backend: str) -> None:
    """It keeps whatever has ``__array_namespace__``: a live view. The way round is the value as NumPy."""
    xarray = pytest.importorskip("xarray")
    v = variable(backend)
    live, kept = xarray.DataArray(v), xarray.DataArray(np.asarray(v))
    assert live.data is v
    v.assign_add(1.0)
    assert_same(live.values, VALUE + 1)
    assert_same(kept.values, VALUE)
    assert_same((kept * 2).sum("dim_0").values, VALUE.sum(0) * 2)
    live[0] = 9.0
    assert_same(v.value[0], [9.0, 9.0])


def test_a_variable_is_no_buffer(backend: str) -> None:
    v: Any = variable(backend)
    with pytest.raises(TypeError, match="bytes-like"):
        memoryview(v)
    assert np.asarray(v).data.readonly
    assert bytes(np.asarray(v).data) == VALUE.tobytes()
