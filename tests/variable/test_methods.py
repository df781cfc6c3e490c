"""The methods and properties of arrays, which a variable has on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_type, assert_same, total

Call = Callable[[Any], Any]

VALUE = np.array([[4.0, 2.0, 7.0], [1.0, 3.0, -5.0]], "float32")

#: name -> (call, what NumPy gives for it)
METHODS: dict[str, tuple[Call, Call]] = {
    "T": (lambda v: v.T, lambda a: a.T),
    "mT": (lambda v: v.mT, lambda a: a.T),
    "transpose": (lambda v: v.transpose(), lambda a: a.T),
    "transpose(1, 0)": (lambda v: v.transpose(1, 0), lambda a: a.T),
    "transpose((0, 1))": (lambda v: v.transpose((0, 1)), lambda a: a),
    "reshape(3, 2)": (lambda v: v.reshape(3, 2), lambda a: a.reshape(3, 2)),
    "reshape((3, -1))": (lambda v: v.reshape((3, -1)), lambda a: a.reshape(3, -1)),
    "reshape(-1)": (lambda v: v.reshape(-1), lambda a: a.reshape(-1)),
    "ravel": (lambda v: v.ravel(), lambda a: a.ravel()),
    "flatten": (lambda v: v.flatten(), lambda a: a.flatten()),
    "astype": (lambda v: v.astype("int32"), lambda a: a.astype("int32")),
    "astype(bool)": (lambda v: v.astype(bool), lambda a: a.astype(bool)),
    "real": (lambda v: v.real, lambda a: a),
    "imag": (lambda v: v.imag, lambda a: a * 0),
    "conj": (lambda v: v.conj(), lambda a: a),
    "clip": (lambda v: v.clip(0.0, 3.0), lambda a: a.clip(0, 3)),
    "clip(max=)": (lambda v: v.clip(max=3.0), lambda a: a.clip(None, 3)),
    "round": (lambda v: v.round(), lambda a: a.round()),
    "cumsum": (lambda v: v.cumsum(), lambda a: a.cumsum()),
    "cumsum(1)": (lambda v: v.cumsum(axis=1), lambda a: a.cumsum(1)),
    "cumprod(0)": (lambda v: v.cumprod(axis=0), lambda a: a.cumprod(0)),
    "dot": (lambda v: v.dot(v.T), lambda a: a @ a.T),
    "dot(2.0)": (lambda v: v.dot(2.0), lambda a: a * 2),
    "sum(dtype=)": (lambda v: v.sum(dtype="float16"), lambda a: a.sum(dtype="float16")),
    "std(correction=1)": (lambda v: v.std(correction=1), lambda a: a.std(ddof=1)),
    "var(correction=1)": (lambda v: v.var(axis=0, correction=1), lambda a: a.var(axis=0, ddof=1)),
}
REDUCTIONS = ("sum", "prod", "mean", "std", "var", "min", "max", "argmin", "argmax", "any", "all")


@pytest.mark.parametrize(("call", "expected"), list(METHODS.values()), ids=list(METHODS))
def test_a_variable_has_the_methods_of_an_array(backend: str, call: Call, expected: Call) -> None:
    v = sv.Variable(VALUE, backend=backend)
    got = call(v)
    assert isinstance(got, array_type(backend) if backend != "numpy" else (np.ndarray, np.generic))
    assert_same(got, expected(VALUE), rtol=1e-5)
    assert v.version == 0


@pytest.mark.parametrize("name", REDUCTIONS)
def test_a_variable_has_the_reductions_of_an_array(backend: str, name: str) -> None:
    v = sv.Variable(VALUE, backend=backend)
    for arguments in ({}, {"axis": 0}, {"axis": -1}, {"axis": 1, "keepdims": True}):
        got = getattr(v, name)(**arguments)
        assert isinstance(got, array_type(backend) if backend != "numpy" else (np.ndarray, np.generic))
        assert_same(got, getattr(VALUE, name)(**arguments), rtol=1e-5)
    if name[:3] != "arg":
        assert_same(getattr(v, name)((0, 1)), getattr(VALUE, name)((0, 1)), rtol=1e-5)
    i = sv.Variable([[1, 2], [3, 4]], backend=backend)
    assert_same(getattr(i, name)(axis=0), getattr(np.array([[1, 2], [3, 4]]), name)(axis=0), rtol=1e-5)


def test_a_complex_variable_has_a_real_and_an_imaginary_part(backend: str) -> None:
    v = sv.Variable([1 + 2j, 3j], backend=backend)
    assert_same(v.real, [1.0, 0.0])
    assert_same(v.imag, [2.0, 3.0])
    assert_same(v.conj(), [1 - 2j, -3j])


def test_squeeze(backend: str) -> None:
    v = sv.Variable(np.ones((1, 2, 1), "float32"), backend=backend)
    assert tuple(v.squeeze().shape) == (2,)
    assert tuple(v.squeeze(0).shape) == (2, 1)
    assert tuple(v.squeeze((0, 2)).shape) == (2,)


def test_python_values(backend: str) -> None:
    v = sv.Variable([[1.5, 2.0]], name="w", backend=backend)
    assert v.tolist() == [[1.5, 2.0]]
    item = sv.Variable([[7]], backend=backend).item()
    assert (item, type(item)) == (7, int)
    with pytest.raises(sv.errors.ShapeError, match=r"item: expected one element, got shape \(1, 2\), at 'w'"):
        v.item()
    with pytest.raises(sv.errors.ShapeError, match=r"mT: expected two axes or more, got shape \(2,\)"):
        sv.Variable([1.0, 2.0], backend=backend).mT  # noqa: B018


def test_a_scalar_is_formatted_as_a_number(backend: str) -> None:
    v = sv.Variable(2.0 / 3.0, name="w", backend=backend)
    assert f"{v:.2f} {v:>8.3f} {sv.Variable(7, backend=backend):03d}" == "0.67    0.667 007"
    assert f"{v}" == str(v)
    assert f"{sv.Variable(0.5, dtype='bfloat16', backend=backend):.2f}" == "0.50"
    with pytest.raises(TypeError, match=r"format: expected a scalar for the format '.2f', got shape \(2,\), at 'v'"):
        f"{sv.Variable([1.0, 2.0], name='v', backend=backend):.2f}"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda v: v.sum(), np.ones_like(VALUE)),
        (lambda v: v.mean(axis=0)[0], np.array([[0.5, 0, 0], [0.5, 0, 0]])),
        (lambda v: v.T[2][1], np.array([[0, 0, 0], [0, 0, 1.0]])),
        (lambda v: v.reshape(-1)[3], np.array([[0, 0, 0], [1.0, 0, 0]])),
        (lambda v: v.max(), np.array([[0, 0, 1.0], [0, 0, 0]])),
        (lambda v: v.cumsum(axis=1)[0, 1], np.array([[1.0, 1.0, 0], [0, 0, 0]])),
    ],
    ids=["sum", "mean", "T", "reshape", "max", "cumsum"],
)
def test_gradients_pass_through_methods(backend: str, call: Call, expected: Any) -> None:
    v = sv.Variable(VALUE, backend=backend)
    if backend == "numpy" and expected[0, 1] == expected[0, 0] == 1 and not expected[1].any():
        pytest.skip("autograd has no gradient for np.cumsum with a dtype")
    assert_same(sv.grad(lambda: total(call(v)), v)(), expected)


def test_methods_work_in_compiled_functions(backend: str) -> None:
    v = sv.Variable(VALUE, backend=backend)

    @sv.jit
    def step(x: Any) -> Any:
        v.assign_add(x)
        return v.sum(axis=0) + v.T[:, 0] + v.mean()

    x = sv.Variable(VALUE, backend=backend, trainable=False).value
    two = VALUE * 2
    assert_same(step(x), two.sum(0) + two.T[:, 0] + two.mean(), rtol=1e-5)


def test_functions_of_numpy_give_numpy_arrays_still(backend: str) -> None:
    v = sv.Variable(VALUE, backend=backend)
    for name in (*REDUCTIONS, "ravel", "transpose", "squeeze", "real", "imag", "cumsum", "round", "std"):
        got = getattr(np, name)(v)
        assert isinstance(got, np.ndarray | np.generic), name
        assert_same(got, getattr(np, name)(VALUE), rtol=1e-6)
    assert isinstance(np.reshape(v, (3, 2)), np.ndarray)
    assert_same(np.sum(v, axis=(0, 1)), VALUE.sum())
    assert_same(np.linalg.norm(v, axis=(-2, -1)), np.linalg.norm(VALUE), rtol=1e-6)
    assert isinstance(np.clip(v, 0, 1), np.ndarray)
    assert not hasattr(v, "__array_function__")


def test_reshape_of_jax_gives_an_array_of_jax(backend: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    v = sv.Variable(VALUE, backend=backend)
    assert isinstance(jnp.reshape(v, (3, 2)), array_type("jax"))
    with pytest.raises(AttributeError, match="reshape: expected a shape only, got order="):
        v.reshape((3, 2), order="F")


@pytest.mark.parametrize(
    "call",
    [
        lambda v: np.copyto(v, 1.0),
        lambda v: np.put(v, [0], [1.0]),
        lambda v: np.putmask(v, np.ones((2, 3), bool), 1.0),
        lambda v: np.place(v, np.ones((2, 3), bool), [1.0]),
        lambda v: np.fill_diagonal(v, 1.0),
        lambda v: np.add.at(v, 0, 1.0),
    ],
    ids=["copyto", "put", "putmask", "place", "fill_diagonal", "add.at"],
)
def test_numpy_does_not_write_into_a_variable(backend: str, call: Call) -> None:
    v = sv.Variable(VALUE, name="w", backend=backend)
    before = v.value
    with pytest.raises(sv.errors.ReadOnlyError, match=r"this would write into a snapshot of the variable.*, at 'w'"):
        call(v)
    assert_same(v, VALUE)
    assert_same(before, VALUE)


@pytest.mark.parametrize("limit", [[0.0, 1.0, 2.0], np.array([0.0, 1.0, 2.0]), (0, 1, 2), "a variable"])
def test_clip_takes_lists_and_arrays(backend: str, limit: Any) -> None:
    v = sv.Variable(VALUE, backend=backend, trainable=False)
    bound = sv.Variable([0.0, 1.0, 2.0], backend=backend, trainable=False) if isinstance(limit, str) else limit
    lower = np.array([0, 1, 2], "float32")
    assert_same(v.clip(bound, 5.0), np.clip(VALUE, lower, 5.0))
    assert_same(v.clip(max=bound), np.minimum(VALUE, lower))
    with pytest.raises(TypeError, match="clip: expected numbers or arrays of .* as limits, got str"):
        v.clip("a", 1.0)


def test_a_fraction_limits_integers_without_being_cut(backend: str) -> None:
    v = sv.Variable([1, -2, 3], backend=backend)
    result = v.clip(0.5, 2.5)
    assert isinstance(result, array_type(backend))
    assert_same(result, [1.0, 0.5, 2.5])
    assert_same(v.clip(0, 2), np.array([1, 0, 2], "int32"), dtype=True)
    assert_same(v.clip([0.5, 0.5, 0.5], None), [1.0, 0.5, 3.0])


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8"])
@pytest.mark.parametrize("decimals", [-1, -2, -3, -12])
def test_integers_are_rounded_to_tens_and_hundreds(backend: str, dtype: str, decimals: int) -> None:
    values = [15, 25, 26, 99, 100, 4, 0, 50, 51] + ([-15, -25, -26, -99, -4] if dtype != "uint8" else [])
    v = sv.Variable(values, dtype=dtype, backend=backend)
    expected = np.array([round(each, decimals) for each in values]).astype(dtype)
    for result in (v.round(decimals), round(v, decimals)):
        assert isinstance(result, array_type(backend))
        assert_same(result, expected, dtype=True)
    assert_same(v.round(), np.array(values, dtype), dtype=True)


def test_complex_values_are_rounded(backend: str) -> None:
    v = sv.Variable([1.26 + 2.74j], backend=backend, trainable=False)
    assert_same(v.round(1), np.array([1.3 + 2.7j], "complex64"), rtol=1e-6)


def test_bools_are_counted_and_searched(backend: str) -> None:
    v = sv.Variable([[False, True], [True, True]], backend=backend)
    assert_same(v.argmax(), 1)
    assert_same(v.argmin(axis=1), [0, 0])
    assert_same(v.cumsum(), [0, 1, 2, 3])
    assert_same(v.cumprod(axis=1), [[0, 0], [1, 1]])


@pytest.mark.parametrize("length", [2.0, 1.9, "2"])
def test_a_length_is_an_integer(backend: str, length: Any) -> None:
    v = sv.Variable(VALUE, backend=backend)
    with pytest.raises(TypeError, match="reshape: expected integers, got"):
        v.reshape(length, 3)
    with pytest.raises(TypeError, match="transpose: expected integers, got"):
        v.transpose(length, 0)
    with pytest.raises(TypeError):
        v.round(length)
