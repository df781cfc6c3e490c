"""The array API namespace of each backend takes variables wherever it takes arrays, and numbers beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat
import array_api_compat.numpy as numpy_namespace
import numpy as np
import pytest

import statevar as sv
from tests.helpers import assert_same, total
from tests.internals import Opener

Call = Callable[[Any, Any], Any]

MATRIX = np.array([[4.0, 2.0], [1.0, 3.0]], "float32")
SYMMETRIC = np.array([[4.0, 1.0], [1.0, 3.0]], "float32")
SMALL = np.array([0.25, 0.5, 0.75], "float32")
INTEGERS = np.array([[4, 2], [1, 3]], "int32")
TRUTHS = np.array([[True, False], [True, True]])
COMPLEX = np.array([1 + 2j, 3j], "complex64")

#: Name of the group -> (value of the variable, {name: call of the namespace and the variable}).
GROUPS: dict[str, tuple[Any, dict[str, Call]]] = {}


def named(*names: str, call: Callable[[Any, Any], Any]) -> dict[str, Call]:
    """Calls ``call(function, x)`` with each function of the namespace."""

    def bound(name: str) -> Call:
        return lambda xp, x: call(_find(xp, name), x)

    return {name: bound(name) for name in names}


def _find(xp: Any, name: str) -> Any:
    for part in name.split("."):
        xp = getattr(xp, part)
    return xp


GROUPS["of one array"] = (
    MATRIX,
    named(
        *(
            "abs",
            "acosh",
            "asinh",
            "atan",
            "ceil",
            "cos",
            "cosh",
            "exp",
            "expm1",
            "floor",
            "isfinite",
            "isinf",
            "isnan",
        ),
        *("log", "log10", "log1p", "log2", "negative", "positive", "reciprocal", "round", "sign", "signbit", "sin"),
        *("sinh", "sqrt", "square", "tan", "tanh", "trunc"),
        call=lambda f, x: f(x),
    ),
)
GROUPS["of one small array"] = SMALL, named("acos", "asin", "atanh", call=lambda f, x: f(x))
GROUPS["of one complex array"] = COMPLEX, named("conj", "imag", "real", "abs", call=lambda f, x: f(x))
GROUPS["of truth values"] = (
    TRUTHS,
    named("bitwise_invert", "logical_not", "all", "any", "sum", call=lambda f, x: f(x))
    | named("bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_xor", call=lambda f, x: f(x, x)),
)
_TWO = (
    *("add", "atan2", "copysign", "divide", "equal", "floor_divide", "greater", "greater_equal", "hypot", "less"),
    *("less_equal", "logaddexp", "maximum", "minimum", "multiply", "not_equal", "pow", "remainder", "subtract"),
)
GROUPS["of two arrays"] = MATRIX, named(*_TWO, "nextafter", call=lambda f, x: f(x, x))
GROUPS["with a number"] = MATRIX, named(*_TWO, call=lambda f, x: f(x, 1.5))
GROUPS["with a number on the left"] = MATRIX, named(*_TWO, call=lambda f, x: f(1.5, x))
GROUPS["bounds"] = (
    MATRIX,
    {
        "both": lambda xp, x: xp.clip(x, 0.0, 2.0),
        "min": lambda xp, x: xp.clip(x, 2.0),
        "max": lambda xp, x: xp.clip(x, None, 2.0),
        "by name": lambda xp, x: xp.clip(x, min=1.5, max=2.0),
        "arrays": lambda xp, x: xp.clip(x, x, x),
    },
)
GROUPS["dtypes"] = (
    MATRIX,
    {
        "astype": lambda xp, x: xp.astype(x, xp.int32),
        "astype of the same": lambda xp, x: xp.astype(x, xp.float32, copy=False),
        "isdtype": lambda xp, x: xp.asarray(xp.isdtype(x.dtype, "real floating")),
        "finfo": lambda xp, x: xp.asarray(float(xp.finfo(x.dtype).eps), dtype=xp.float32),
        "result_type": lambda xp, x: xp.zeros((1,), dtype=xp.result_type(x, xp.float32)),
    },
)
GROUPS["integers"] = (
    INTEGERS,
    named("bitwise_left_shift", "bitwise_right_shift", call=lambda f, x: f(x, x))
    | {
        "clip": lambda xp, x: xp.clip(x, 2, 3),
        "sum": lambda xp, x: xp.sum(x),
        "prod": lambda xp, x: xp.prod(x, axis=0),
    },
)
_REDUCTIONS = ("sum", "prod", "max", "min", "mean", "std", "var", "all", "any", "argmax", "argmin", "count_nonzero")
GROUPS["reductions"] = MATRIX, named(*_REDUCTIONS, call=lambda f, x: f(x))
GROUPS["reductions of an axis"] = (
    MATRIX,
    named(*_REDUCTIONS, "cumulative_sum", "cumulative_prod", call=lambda f, x: f(x, axis=1)),
)
GROUPS["reductions that keep the axes"] = (
    MATRIX,
    named(*_REDUCTIONS, call=lambda f, x: f(x, axis=1, keepdims=True)),
)
GROUPS["shapes"] = (
    MATRIX,
    {
        "broadcast_arrays": lambda xp, x: xp.broadcast_arrays(x, xp.ones((1, 2)))[0],
        "broadcast_to": lambda xp, x: xp.broadcast_to(x, (3, 2, 2)),
        "concat": lambda xp, x: xp.concat([x, x], axis=0),
        "concat of all": lambda xp, x: xp.concat([x, x], axis=None),
        "expand_dims": lambda xp, x: xp.expand_dims(x, axis=0),
        "flip": lambda xp, x: xp.flip(x),
        "flip of an axis": lambda xp, x: xp.flip(x, axis=0),
        "moveaxis": lambda xp, x: xp.moveaxis(x, 0, 1),
        "permute_dims": lambda xp, x: xp.permute_dims(x, (1, 0)),
        "repeat": lambda xp, x: xp.repeat(x, 2, axis=0),
        "reshape": lambda xp, x: xp.reshape(x, (4,)),
        "roll": lambda xp, x: xp.roll(x, 1, axis=0),
        "stack": lambda xp, x: xp.stack([x, x], axis=1),
        "squeeze": lambda xp, x: xp.squeeze(xp.expand_dims(x, axis=1), axis=1),
        "tile": lambda xp, x: xp.tile(x, (2, 1)),
        "unstack": lambda xp, x: xp.unstack(x)[1],
        "tril": lambda xp, x: xp.tril(x),
        "triu": lambda xp, x: xp.triu(x, k=1),
        "meshgrid": lambda xp, x: xp.meshgrid(x[0], x[1])[1],
    },
)
GROUPS["others"] = (
    MATRIX,
    {
        "matmul": lambda xp, x: xp.matmul(x, x),
        "matmul of a vector": lambda xp, x: xp.matmul(x, x[0]),
        "matrix_transpose": lambda xp, x: xp.matrix_transpose(x),
        "tensordot": lambda xp, x: xp.tensordot(x, x, axes=1),
        "vecdot": lambda xp, x: xp.vecdot(x, x),
        "argsort": lambda xp, x: xp.argsort(x),
        "sort": lambda xp, x: xp.sort(x, descending=True),
        "searchsorted": lambda xp, x: xp.searchsorted(xp.asarray([1.0, 2.0], dtype=xp.float32), x[0]),
        "nonzero": lambda xp, x: xp.nonzero(x)[0],
        "where": lambda xp, x: xp.where(x > 2, x, x),
        "where with a number": lambda xp, x: xp.where(x > 2, x, 0.0),
        "take": lambda xp, x: xp.take(x, xp.asarray([1, 0]), axis=0),
        "take_along_axis": lambda xp, x: xp.take_along_axis(x, xp.asarray([[1, 0], [0, 1]]), axis=1),
        "unique_values": lambda xp, x: xp.unique_values(x),
        "unique_counts": lambda xp, x: xp.unique_counts(x).counts,
        "unique_inverse": lambda xp, x: xp.unique_inverse(x).inverse_indices,
        "diff": lambda xp, x: xp.diff(x),
        "zeros_like": lambda xp, x: xp.zeros_like(x),
        "ones_like": lambda xp, x: xp.ones_like(x),
        "full_like": lambda xp, x: xp.full_like(x, 3.0),
        "asarray": lambda xp, x: xp.asarray(x),
    },
)
GROUPS["linalg"] = (
    SYMMETRIC,
    named(
        *("linalg.cholesky", "linalg.det", "linalg.diagonal", "linalg.eigvalsh", "linalg.inv", "linalg.matrix_norm"),
        *("linalg.matrix_rank", "linalg.matrix_transpose", "linalg.pinv", "linalg.svdvals", "linalg.trace"),
        "linalg.vector_norm",
        call=lambda f, x: f(x),
    )
    | {
        "cross": lambda xp, x: xp.linalg.cross(xp.ones((3,)), xp.asarray([1.0, 2.0, 3.0])),
        "eigh": lambda xp, x: xp.linalg.eigh(x).eigenvalues,
        "upper cholesky": lambda xp, x: xp.linalg.cholesky(x, upper=True),
        "matmul": lambda xp, x: xp.linalg.matmul(x, x),
        "matrix_norm": lambda xp, x: xp.linalg.matrix_norm(x, ord=1),
        "nuclear norm": lambda xp, x: xp.linalg.matrix_norm(x, ord="nuc", keepdims=True),
        "matrix_power": lambda xp, x: xp.linalg.matrix_power(x, 3),
        "inverse power": lambda xp, x: xp.linalg.matrix_power(x, -2),
        "outer": lambda xp, x: xp.linalg.outer(x[0], x[1]),
        "qr": lambda xp, x: xp.matmul(*xp.linalg.qr(x)),
        "slogdet": lambda xp, x: xp.linalg.slogdet(x).logabsdet,
        "solve": lambda xp, x: xp.linalg.solve(x, x + 1),
        "solve of a vector": lambda xp, x: xp.linalg.solve(x, x[0]),
        "svd": lambda xp, x: xp.linalg.svd(x, full_matrices=False).S,
        "tensordot": lambda xp, x: xp.linalg.tensordot(x, x),
        "vecdot": lambda xp, x: xp.linalg.vecdot(x, x),
        "norm of an axis": lambda xp, x: xp.linalg.vector_norm(x, axis=1, ord=1, keepdims=True),
    },
)
_FFT = ("fft", "ifft", "fftn", "ifftn", "rfft", "irfft", "rfftn", "irfftn", "hfft", "ihfft", "fftshift", "ifftshift")
GROUPS["fft"] = (
    MATRIX,
    named(*(f"fft.{name}" for name in _FFT), call=lambda f, x: f(x))
    | named(
        *(f"fft.{name}" for name in _FFT[:2]),
        call=lambda f, x: f(x, n=3, axis=0, norm="ortho"),
    )
    | {
        "forward": lambda xp, x: xp.fft.rfft(x, norm="forward"),
        "fftfreq": lambda xp, x: xp.fft.fftfreq(4),
        "rfftfreq": lambda xp, x: xp.fft.rfftfreq(5, d=0.5),
    },
)


@pytest.mark.parametrize("group", list(GROUPS))
def test_a_namespace_takes_variables_where_it_takes_arrays(backend: str, group: str) -> None:
    host, calls = GROUPS[group]
    v = sv.Variable(host, backend=backend)
    xp = v.__array_namespace__()
    for name, call in calls.items():
        got = call(xp, v)
        try:
            assert type(got) is type(call(xp, v.value)) or backend == "jax"
            assert_same(got, call(xp, v.value))
            assert_same(got, call(numpy_namespace, host), rtol=1e-5)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_variables_and_arrays_have_one_namespace(backend: str) -> None:
    v = sv.Variable(MATRIX, backend=backend)
    if backend == "tensorflow":
        return  # a tensor has none
    for pair in ((v, v.value), (v.value, v)):
        xp = array_api_compat.array_namespace(*pair)
        assert xp == array_api_compat.array_namespace(v.value)
        assert xp.__name__ == array_api_compat.array_namespace(v.value).__name__
        assert_same(xp.sin(v), np.sin(MATRIX), rtol=1e-6)


def test_a_namespace_is_not_searched_for_variables(backend: str) -> None:
    """Else what searches the attributes of a model goes through the functions of the library, each time."""
    xp = sv.namespace(sv.Variable(0.0, backend=backend))
    xp.sum(xp.zeros(2))  # it keeps the functions that it has used
    opener = Opener()
    assert opener(xp) is None
    assert not opener.aside


@pytest.mark.parametrize("name", ["maximum", "clip", "linalg.inv", "fft.rfft", "matmul"])
def test_a_function_of_a_namespace_has_gradients(backend: str, name: str) -> None:
    v = sv.Variable(SYMMETRIC, backend=backend)
    xp = v.__array_namespace__()
    more: dict[str, Any] = {"maximum": (2.0,), "clip": (0.0, 2.0), "matmul": (v,)}

    def loss() -> Any:
        return total(xp.real(_find(xp, name)(v, *more.get(name, ()))))

    if name != "fft.rfft":
        loss = lambda: total(_find(xp, name)(v, *more.get(name, ())))  # noqa: E731
    step, expected = 1e-2, np.zeros_like(SYMMETRIC)
    for place in np.ndindex(SYMMETRIC.shape):
        values = []
        for sign in (1, -1):
            host = SYMMETRIC.astype("float64")
            host[place] += sign * step
            arguments = [host if each is v else each for each in more.get(name, ())]
            values.append(np.real(_find(numpy_namespace, name)(host, *arguments)).sum())
        expected[place] = (values[0] - values[1]) / (2 * step)
    assert_same(sv.grad(loss, v)(), expected, rtol=2e-2)
