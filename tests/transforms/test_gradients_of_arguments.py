"""Gradients with respect to the arguments of a function, alone and beside those of variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import statevar as sv
from tests.helpers import array_of, array_type, assert_same, total

COMPILED: dict[str, Callable[[str, Any], Any]] = {
    "eager": lambda backend, fn: fn,
    "sv.jit": lambda backend, fn: sv.jit(fn, backend=backend),
}


@pytest.fixture(params=COMPILED)
def compiled(request: pytest.FixtureRequest, backend: str) -> Callable[[Any], Any]:
    if request.param == "sv.jit" and backend == "torch":
        pytest.skip("tests/transforms/test_torch.py compiles gradients, which takes seconds")
    return lambda fn: COMPILED[request.param](backend, fn)


def _x(backend: str) -> Any:
    return array_of(backend, [1.0, 2.0], "float32")


def test_an_argument(backend: str, compiled: Callable[[Any], Any]) -> None:
    x = _x(backend)
    squared = sv.grad(lambda x: total(x * x), argnums=0)
    gradient = compiled(squared)(x)
    assert isinstance(gradient, array_type(backend))
    assert_same(gradient, [2.0, 4.0])
    last = sv.value_and_grad(lambda k, x: total(x * x) * k, argnums=-1)
    value, gradient = compiled(last)(3.0, x)
    assert_same(value, 15.0)
    assert_same(gradient, [6.0, 12.0])


def test_several_arguments_and_trees(backend: str, compiled: Callable[[Any], Any]) -> None:
    x = _x(backend)
    both = sv.grad(lambda x, y: total(x * y["a"][0] * y["b"]), argnums=(0, 1))
    first, second = compiled(both)(x, {"a": [x], "b": x})
    assert_same(first, [1.0, 4.0])
    assert_same(second["a"][0], [1.0, 4.0])
    assert_same(second["b"], [1.0, 4.0])


def test_beside_variables(backend: str, compiled: Callable[[Any], Any]) -> None:
    x, w = _x(backend), sv.Variable(np.array([3.0, 4.0], "float32"), backend=backend)
    calls = sv.Variable(0, backend=backend)

    def loss(x: Any) -> Any:
        calls.assign_add(1)
        return total(w * w * x)

    of_w, of_x = compiled(sv.grad(loss, w, argnums=0))(x)
    assert_same(of_w, [6.0, 16.0])
    assert_same(of_x, [9.0, 16.0])
    with_aux = sv.value_and_grad(lambda x: (loss(x), 7), has_aux=True, argnums=0)
    (value, aux), of_x = compiled(with_aux)(x)
    assert (float(value), aux, int(calls)) == (41.0, 7, 2)
    assert_same(of_x, [9.0, 16.0])


def test_a_variable_or_a_number_as_the_argument(backend: str) -> None:
    w, v = (sv.Variable(np.float32(each), backend=backend) for each in (3.0, 5.0))
    assert_same(sv.grad(lambda w: w * w * v.value, argnums=0)(w), 30.0)
    assert_same(sv.grad(lambda x: x * x * v.value, argnums=0)(2.0), 20.0)


def test_higher_orders(backend: str) -> None:
    x = _x(backend)
    second = sv.grad(lambda x: sv.grad(lambda x: total(x * x * x), argnums=0)(x)[0], argnums=0)(x)
    assert_same(second, [6.0, 0.0])


def test_nothing_to_differentiate(backend: str) -> None:
    """It returned ``{}``."""
    x, calls = _x(backend), sv.Variable(0, backend=backend, trainable=False)

    def loss(x: Any) -> Any:
        calls.assign_add(1)
        return total(x * x)

    for transform in (sv.grad, sv.value_and_grad):
        with pytest.raises(
            ValueError,
            match="^value_and_grad: no trainable variable was read. Hint: read .*pass argnums=0",
        ):
            transform(loss)(x)
    assert int(calls) == 0


@pytest.mark.parametrize("argnums", [1, -2, (0, 1)])
def test_an_argument_that_is_not_there(argnums: Any, backend: str) -> None:
    with pytest.raises(ValueError, match="^value_and_grad: expected argnums of the 1 positional arguments, got "):
        sv.grad(lambda x: total(x), argnums=argnums)(_x(backend))


def test_an_argument_without_gradients(backend: str) -> None:
    x = array_of(backend, [1, 2], "int32")
    with pytest.raises(sv.errors.DTypeError, match="^value_and_grad: int32 has no gradients. Hint: pass floats"):
        sv.grad(lambda x: total(x) * 1.0, argnums=0)(x)
    with pytest.raises(TypeError, match="value_and_grad: .*str"):
        sv.grad(lambda x: total(x), argnums=0)("text")


def test_a_tape_watches_an_array(backend: str) -> None:
    x, w = _x(backend), sv.Variable(np.array([3.0, 4.0], "float32"), backend=backend)
    if backend == "jax":
        with (
            sv.GradientTape() as tape,
            pytest.raises(sv.errors.TraceError, match="differentiates functions"),
        ):
            tape.watch(x)
        return
    with sv.GradientTape(persistent=True) as tape:
        y = tape.watch(x)
        z = total(y * w.value * w.value)
    assert_same(tape.gradient(z, x), [9.0, 16.0])
    assert_same(tape.gradient(z, y), [9.0, 16.0])
    assert_same(tape.gradient(z, w), [6.0, 16.0])


def test_a_tape_whose_watched_array_was_not_used(backend: str) -> None:
    """It gave None, although TensorFlow's own tape knows the array itself."""
    if backend == "jax":
        pytest.skip("JAX has no tape")
    x, w = _x(backend), sv.Variable(np.array([3.0, 4.0], "float32"), backend=backend)
    with sv.GradientTape(persistent=True) as tape:
        tape.watch(x)
        z = total(x * w.value)
    if backend == "tensorflow":
        assert_same(tape.gradient(z, x), [3.0, 4.0])
        return
    with pytest.raises(ValueError, match="^gradient: the target does not depend on the array that tape"):
        tape.gradient(z, x)
    assert_same(tape.gradient(z, x, unconnected_gradients="zero"), [0.0, 0.0])


@pytest.mark.parametrize("argnums", [np.int64(0), np.array(0), sv.Variable(0), -1])
def test_a_position_may_be_any_integer(backend: str, argnums: Any) -> None:
    assert_same(sv.grad(lambda x: total(x * x), argnums=argnums)(_x(backend)), [2.0, 4.0])
    one: Any = np.array([0])
    assert_same(sv.grad(lambda x: total(x * x), argnums=one)(_x(backend))[0], [2.0, 4.0])


@pytest.mark.parametrize("argnums", ["x", "0", 0.0, True, (0, "x"), [0.5], {"x": 0}])
def test_what_is_no_position_is_an_error_at_once(argnums: Any) -> None:
    with pytest.raises(
        TypeError, match=r"value_and_grad: expected a position or several as argnums, got .*argnums=\(0, "
    ):
        sv.grad(lambda x: x, argnums=argnums)


def test_an_argument_is_named_once(backend: str) -> None:
    for argnums in ((0, 0), (0, -1)):
        with pytest.raises(ValueError, match="value_and_grad: argnums names an argument twice"):
            sv.grad(lambda x: total(x * x), argnums=argnums)(_x(backend))


def test_the_function_must_be_callable() -> None:
    with pytest.raises(TypeError, match="value_and_grad: expected a callable, got Variable"):
        sv.grad(sv.Variable(1.0))  # type: ignore[call-overload]


def test_a_function_returns_a_real_scalar(backend: str) -> None:
    v = sv.Variable([1.0, 2.0], backend=backend)
    for returned, message in (
        (lambda: None, "got NoneType. Hint: return the loss"),
        (lambda: 1.0, "got float."),
        (lambda: (total(v.value), 1), r"got tuple. Hint: return \(loss, the rest\), and pass has_aux=True"),
        (lambda: v * 2.0, r"got one of shape \(2,\). Hint: sum or average it"),
    ):
        with pytest.raises(
            sv.errors.ShapeError, match=f"^value_and_grad: expected the function .* scalar array, {message}"
        ):
            sv.grad(returned, v)()
    with pytest.raises(sv.errors.DTypeError, match="a real number, got complex64. Hint: take its absolute value"):
        sv.grad(lambda: total(v * 1j), v)()
    with pytest.raises(sv.errors.DTypeError, match="return a real number, got int32. Hint: compute it as a float"):
        sv.grad(lambda: v.astype("int32")[0], v)()
