"""`sv.namespace`: each function of the array API standard, with one result and one dtype on every library."""

from __future__ import annotations

import copy
import enum
import itertools
import pickle
import re
from collections.abc import Callable, Iterable
from typing import Any

import array_api_compat
import array_api_compat.numpy as oracle
import numpy as np
import pytest

import statevar as sv
from tests.helpers import ROOT, array_of, array_type, assert_same, host
from tests.internals import HOST

VALUES: dict[str, Any] = {
    "bool": [[True, False], [True, True]],
    "int8": [[4, -2], [1, 3]],
    "uint8": [[4, 2], [1, 3]],
    "int32": [[4, -2], [1, 3]],
    "float16": [[0.25, -0.5], [0.75, 0.5]],
    "bfloat16": [[0.25, -0.5], [0.75, 0.5]],
    "float32": [[0.25, -0.5], [0.75, 0.5]],
    "complex64": [[0.25 + 1j, -0.5], [0.75, 0.5j]],
}
#: How exact the results of a dtype are.
EXACT = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "complex64": 1e-5}
WIDE = {"float16": "float64", "bfloat16": "float64", "float32": "float64", "complex64": "complex128"}

FLOATS = ("float32", "int32", "bool", "bfloat16", "complex64")
REALS = ("float32", "int8", "bool", "float16")
PAIRS = (("float32", "float32"), ("int32", "float16"), ("uint8", "int8"), ("bool", "int8"), ("float32", "complex64"))
NUMBERED = (("float32", 2.0), ("int32", 0.5), (2, "uint8"), (True, "int32"), (0.5, "bfloat16"))


def dtype_of(array: Any) -> str:
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


def met(*operands: Any) -> str:
    """The dtype in which operands meet: the rule of docs/array-api.md, written a second time."""
    order = ["bool", "uint8", "int8", "int16", "int32", "float16", "bfloat16", "float32", "complex64"]
    kinds = ["b", "ui", "fV", "c"]
    kind_of: Callable[[str], int] = lambda name: next(  # noqa: E731
        i for i, each in enumerate(kinds) if HOST[name].kind in each
    )
    arrays = [each for each in operands if isinstance(each, str)]
    numbers = [{bool: "bool", int: "int32", float: "float32"}[type(each)] for each in operands if type(each) is not str]
    highest = max(map(kind_of, arrays), default=-1)
    top = sorted({each for each in arrays if kind_of(each) == highest}, key=order.index)
    result = "int16" if top == ["uint8", "int8"] else "float32" if top == ["float16", "bfloat16"] else (top or [""])[-1]
    return max([*([result] if result else []), *numbers], key=kind_of)


def floor(name: str, needs: str) -> str:
    """The dtype in which a function computes that needs numbers, or floats."""
    kind = HOST[name].kind
    if needs == "float":
        return "float32" if kind in "bui" else name
    return "int32" if needs == "number" and kind == "b" else name


def check(name: str, backend: str, got: Any, reference: Any, dtype: str, computed: str | None = None) -> None:
    assert isinstance(got, array_type(backend) | np.generic), f"{name}: {type(got)}"
    assert dtype_of(got) == dtype, f"{name}: {dtype_of(got)}, expected {dtype}"
    try:
        assert_same(host(got).astype(WIDE.get(dtype, dtype)), reference, rtol=EXACT.get(computed or dtype, 0.0))
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error


def wide(x: Any, dtype: str) -> Any:
    """An operand for the oracle."""
    return np.asarray(VALUES[x] if isinstance(x, str) else x).astype(HOST[dtype]).astype(WIDE.get(dtype, dtype))


_turns = itertools.count()


def some(cases: Iterable[Any], backend: str) -> list[Any]:
    """The cases to try: JAX, which compiles each, has them in turns."""
    cases = list(cases)
    if backend != "jax":
        return cases
    return cases[::4] if len(cases) > 12 else [cases[next(_turns) % len(cases)]]


#: Functions of one array: what they need, and the dtypes to try. The results have the dtype of the array, or bool.
OF_ONE = {
    **dict.fromkeys(("acosh", "asinh", "atan", "cos", "cosh", "exp", "expm1"), ("float", FLOATS)),
    **dict.fromkeys(("sin", "sinh", "sqrt", "tan", "tanh"), ("float", FLOATS)),
    **dict.fromkeys(("acos", "asin", "atanh", "log1p"), ("float", ("float32", "bool", "bfloat16"))),
    **dict.fromkeys(("log", "log2", "log10", "reciprocal"), ("float", ("float32", "uint8", "complex64"))),
    **dict.fromkeys(("abs", "negative", "positive", "sign", "square"), ("number", (*REALS, "uint8"))),
    **dict.fromkeys(("ceil", "floor", "trunc", "round"), ("number", REALS)),
    **dict.fromkeys(("conj", "real", "imag"), ("number", ("float32", "int8"))),
    **dict.fromkeys(("isfinite", "isinf", "isnan", "logical_not"), ("", ("float32", "int8", "bool"))),
    "signbit": ("float", ("float32", "int8", "float16")),
    "bitwise_invert": ("", ("int8", "uint8", "bool")),
}
OF_TWO = {
    **dict.fromkeys(("add", "subtract", "multiply"), ("number", (*PAIRS, *NUMBERED))),
    **dict.fromkeys(("divide",), ("float", (*PAIRS, *NUMBERED))),
    **dict.fromkeys(("floor_divide", "remainder"), ("number", (*PAIRS[:2], *NUMBERED[:2]))),
    **dict.fromkeys(("atan2", "copysign", "hypot", "logaddexp"), ("float", (*PAIRS[:4], *NUMBERED))),
    **dict.fromkeys(("maximum", "minimum"), ("", (*PAIRS[:4], *NUMBERED, ("bool", "bool")))),
    **dict.fromkeys(("less", "less_equal", "greater", "greater_equal"), ("", (*PAIRS[:4], *NUMBERED))),
    **dict.fromkeys(("equal", "not_equal"), ("", (*PAIRS, *NUMBERED))),
    **dict.fromkeys(("bitwise_and", "bitwise_or", "bitwise_xor"), ("", (("uint8", "int8"), ("bool", "bool")))),
    **dict.fromkeys(("logical_and", "logical_or", "logical_xor"), ("", (("bool", "bool"), ("int8", "float32")))),
    "pow": ("number", (("uint8", 2), ("bool", 2), (2.0, "float32"), ("int32", 0.5))),
    "nextafter": ("float", (("float32", "float32"), ("float32", 2.0))),
    "bitwise_left_shift": ("number", (("int8", 1), ("bool", "uint8"))),
    "bitwise_right_shift": ("number", (("int8", 1),)),
}
BOOLEAN = ("is", "signbit", "logical", "less", "greater", "equal", "not_equal")


def test_functions_of_one_array(backend: str) -> None:
    for name, (needs, dtypes) in OF_ONE.items():
        for dtype in some(dtypes, backend):
            v = sv.Variable(VALUES[dtype], dtype=dtype, backend=backend)
            xp = sv.namespace(v)
            computed = floor(dtype, needs)
            with np.errstate(all="ignore"):
                reference, got = getattr(oracle, name)(wide(dtype, computed)), getattr(xp, name)(v)
            out = "bool" if name.startswith(BOOLEAN) else computed
            check(f"{name} of {dtype}", backend, got, reference.astype(WIDE.get(out, out)), out)


def test_functions_of_two_operands(backend: str) -> None:
    for name, (needs, pairs) in OF_TWO.items():
        for pair in some(pairs, backend):
            operands = [sv.Variable(VALUES[x], dtype=x, backend=backend) if isinstance(x, str) else x for x in pair]
            xp = sv.namespace(*operands)
            computed = floor(met(*pair), needs)
            with np.errstate(all="ignore"):
                left, right = (wide(x, computed) for x in pair)
                narrow = [each.astype("float32") for each in (left, right)] if name == "nextafter" else (left, right)
                reference, got = getattr(oracle, name)(*narrow), getattr(xp, name)(*operands)
            out = "bool" if name.startswith(BOOLEAN) else computed
            check(f"{name} of {pair}", backend, got, reference.astype(WIDE.get(out, out)), out, computed)


#: Of a matrix: (the dtypes of the matrix, the call, the dtype of the result by that of the matrix).
Call = Callable[[Any, Any], Any]
SUMMED = {"bool": "int32", "int8": "int32", "uint8": "uint32", "int32": "int32", "float32": "float32"}
AS_FLOAT = {"bool": "float32", "int8": "float32", "int32": "float32", "float32": "float32", "bfloat16": "bfloat16"}
SAME = {each: each for each in VALUES}
INDEX = dict.fromkeys(VALUES, "index")
TRUTH = dict.fromkeys(VALUES, "bool")
OF_A_MATRIX: dict[str, tuple[tuple[str, ...], dict[str, str], tuple[Call, ...]]] = {
    **{
        name: (("bool", "int8", "uint8", "float32"), SUMMED, calls)
        for name, calls in {
            "sum": (lambda xp, x: xp.sum(x), lambda xp, x: xp.sum(x, axis=(0, 1), keepdims=True)),
            "prod": (lambda xp, x: xp.prod(x, axis=1), lambda xp, x: xp.prod(x, axis=(0, 1))),
            "cumulative_sum": (lambda xp, x: xp.cumulative_sum(x, axis=0, include_initial=True),),
            "cumulative_prod": (lambda xp, x: xp.cumulative_prod(x, axis=1),),
            "linalg.trace": (lambda xp, x: xp.linalg.trace(x, offset=1),),
        }.items()
    },
    **{
        name: (("bool", "int32", "float32", "bfloat16"), AS_FLOAT, calls)
        for name, calls in {
            "mean": (lambda xp, x: xp.mean(x, axis=0),),
            "std": (lambda xp, x: xp.std(x), lambda xp, x: xp.std(x, axis=1, correction=1, keepdims=True)),
            "var": (lambda xp, x: xp.var(x, axis=(0, 1), correction=0.5), lambda xp, x: xp.var(x, axis=0)),
        }.items()
    },
    **{
        name: (("float32", "int8", "bool"), SAME, calls)
        for name, calls in {
            "max": (lambda xp, x: xp.max(x), lambda xp, x: xp.max(x, axis=1, keepdims=True)),
            "min": (lambda xp, x: xp.min(x, axis=(0, 1)),),
            "sort": (lambda xp, x: xp.sort(x), lambda xp, x: xp.sort(x, axis=0, descending=True)),
            "unique_values": (lambda xp, x: xp.unique_values(x),),
            "clip": (
                lambda xp, x: xp.clip(x, min=xp.asarray(1, dtype=x.dtype)),
                lambda xp, x: xp.clip(x, max=xp.asarray(0, dtype=x.dtype)),
                lambda xp, x: xp.clip(x, x, x),
            ),
            "where": (lambda xp, x: xp.where(x, x, x), lambda xp, x: xp.where(x == x, x, xp.flip(x))),
            "broadcast_to": (lambda xp, x: xp.broadcast_to(x, (3, 2, 2)),),
            "broadcast_arrays": (lambda xp, x: xp.broadcast_arrays(x, xp.zeros((3, 1, 1)))[0],),
            "concat": (lambda xp, x: xp.concat([x, x], axis=1), lambda xp, x: xp.concat([x, x], axis=None)),
            "stack": (lambda xp, x: xp.stack((x, x), axis=-1),),
            "unstack": (lambda xp, x: xp.unstack(x, axis=1)[0],),
            "expand_dims": (lambda xp, x: xp.expand_dims(x, axis=1),),
            "squeeze": (lambda xp, x: xp.squeeze(xp.expand_dims(x, axis=0), axis=0),),
            "flip": (lambda xp, x: xp.flip(x, axis=-1),),
            "moveaxis": (lambda xp, x: xp.moveaxis(x, 0, 1),),
            "permute_dims": (lambda xp, x: xp.permute_dims(x, (1, 0)),),
            "matrix_transpose": (lambda xp, x: xp.matrix_transpose(x), lambda xp, x: xp.linalg.matrix_transpose(x)),
            "reshape": (lambda xp, x: xp.reshape(x, (-1,)),),
            "repeat": (lambda xp, x: xp.repeat(x, 2, axis=0), lambda xp, x: xp.repeat(x, 2)),
            "tile": (lambda xp, x: xp.tile(x, (1, 2)),),
            "roll": (lambda xp, x: xp.roll(x, 1), lambda xp, x: xp.roll(x, (1, -1), axis=(0, 1))),
            "tril": (lambda xp, x: xp.tril(x, k=-1),),
            "triu": (lambda xp, x: xp.triu(x),),
            "take": (lambda xp, x: xp.take(x, xp.asarray([1, -2, 0]), axis=1),),
            "take_along_axis": (lambda xp, x: xp.take_along_axis(x, xp.asarray([[1, 0]]), axis=0),),
            "linalg.diagonal": (lambda xp, x: xp.linalg.diagonal(x, offset=-1),),
            "zeros_like": (lambda xp, x: xp.zeros_like(x),),
            "ones_like": (lambda xp, x: xp.ones_like(x),),
            "full_like": (lambda xp, x: xp.full_like(x, 1),),
            "asarray": (lambda xp, x: xp.asarray(x), lambda xp, x: xp.asarray(x, copy=True)),
            "astype": (lambda xp, x: xp.astype(x, x.dtype),),
            "meshgrid": (
                lambda xp, x: xp.meshgrid(x[0, :], x[1, :])[1],
                lambda xp, x: xp.meshgrid(x[0, :], x[1, :], indexing="ij")[0],
            ),
            "from_dlpack": (lambda xp, x: xp.from_dlpack(x),),
        }.items()
    },
    **{
        name: (("float32", "uint8", "bool"), INDEX, calls)
        for name, calls in {
            "argmax": (lambda xp, x: xp.argmax(x), lambda xp, x: xp.argmax(x, axis=0, keepdims=True)),
            "argmin": (lambda xp, x: xp.argmin(x, axis=1),),
            "argsort": (lambda xp, x: xp.argsort(x), lambda xp, x: xp.argsort(x, axis=0)),
            "count_nonzero": (lambda xp, x: xp.count_nonzero(x, axis=0), lambda xp, x: xp.count_nonzero(x)),
            "nonzero": (lambda xp, x: xp.nonzero(x)[1],),
            "searchsorted": (
                lambda xp, x: xp.searchsorted(xp.sort(xp.reshape(x, (-1,))), x[0, :]),
                lambda xp, x: xp.searchsorted(xp.sort(xp.reshape(x, (-1,))), x[1, :], side="right"),
            ),
            "unique_counts": (lambda xp, x: xp.unique_counts(x).counts,),
            "unique_inverse": (lambda xp, x: xp.unique_inverse(x).inverse_indices,),
            "unique_all": (lambda xp, x: xp.unique_all(x).indices, lambda xp, x: xp.unique_all(x).inverse_indices),
        }.items()
    },
    **{
        name: (("float32", "int8", "bool"), TRUTH, calls)
        for name, calls in {
            "all": (lambda xp, x: xp.all(x), lambda xp, x: xp.all(x, axis=1)),
            "any": (lambda xp, x: xp.any(x, axis=(0, 1), keepdims=True),),
        }.items()
    },
    **{
        name: (("float32", "int8", "uint8", "complex64"), SAME, calls)
        for name, calls in {
            "matmul": (
                lambda xp, x: xp.matmul(x, x),
                lambda xp, x: xp.matmul(x[0, :], x),
                lambda xp, x: xp.matmul(x[0, :], x[1, :]),
                lambda xp, x: xp.matmul(xp.stack([x, x]), x),
            ),
            "tensordot": (lambda xp, x: xp.tensordot(x, x, axes=1), lambda xp, x: xp.tensordot(x, x)),
            "vecdot": (lambda xp, x: xp.vecdot(x, x), lambda xp, x: xp.linalg.vecdot(x, x, axis=0)),
            "linalg.matmul": (lambda xp, x: xp.linalg.matmul(x, x[0, :]),),
            "linalg.tensordot": (lambda xp, x: xp.linalg.tensordot(x, x, axes=((0,), (1,))),),
            "linalg.outer": (lambda xp, x: xp.linalg.outer(x[0, :], x[1, :]),),
            "linalg.cross": (
                lambda xp, x: xp.linalg.cross(xp.reshape(x, (-1,))[:3], xp.reshape(xp.flip(x), (-1,))[:3]),
            ),
            "diff": (lambda xp, x: xp.diff(x), lambda xp, x: xp.diff(x, axis=0, prepend=x[:1, :])),
        }.items()
    },
}


def test_functions_of_a_matrix(backend: str) -> None:
    index = "int32" if backend == "jax" else "int64"
    for name, (dtypes, results, calls) in OF_A_MATRIX.items():
        for dtype in some(dtypes, backend):
            v, xp = sv.Variable(VALUES[dtype], dtype=dtype, backend=backend), None
            xp = sv.namespace(v)
            out = index if results[dtype] == "index" else results[dtype]
            computed = out if results in (SUMMED, AS_FLOAT) else dtype
            for call in calls:
                reference = np.asarray(call(oracle, wide(dtype, computed)))
                if name == "from_dlpack" and backend == "torch" and v.trainable:
                    continue  # DLPack has no gradient
                check(f"{name} of {dtype}", backend, call(xp, v), reference.astype(WIDE.get(out, out)), out)


SYMMETRIC = [[4.0, 1.0], [1.0, 3.0]]
LINALG: dict[str, Call] = {
    "cholesky": lambda xp, x: xp.linalg.cholesky(x, upper=True),
    "det": lambda xp, x: xp.linalg.det(xp.stack([x, x])),
    "eigh": lambda xp, x: xp.linalg.eigh(x).eigenvalues,
    "eigvalsh": lambda xp, x: xp.linalg.eigvalsh(x),
    "inv": lambda xp, x: xp.linalg.inv(x),
    "matrix_norm": lambda xp, x: xp.stack(
        [xp.linalg.matrix_norm(x, ord=o) for o in ("fro", "nuc", 1, -1, 2, -2, xp.inf, -xp.inf)]
    ),
    "matrix_power": lambda xp, x: xp.stack([xp.linalg.matrix_power(x, n) for n in (0, 1, 3, -2)]),
    "matrix_rank": lambda xp, x: xp.linalg.matrix_rank(x),
    "pinv": lambda xp, x: xp.linalg.pinv(x),
    "qr": lambda xp, x: xp.matmul(xp.linalg.qr(x).Q, xp.linalg.qr(x, mode="complete").R),
    "slogdet": lambda xp, x: xp.linalg.slogdet(x).logabsdet,
    "solve": lambda xp, x: xp.stack([xp.linalg.solve(x, x[0, :]), xp.linalg.solve(x, x + 1)[0, :]]),
    "svd": lambda xp, x: xp.linalg.svd(x, full_matrices=False).S,
    "svdvals": lambda xp, x: xp.linalg.svdvals(x),
    "vector_norm": lambda xp, x: xp.stack([xp.linalg.vector_norm(x, ord=o) for o in (0, 1, 2, 3, xp.inf, -xp.inf)]),
}


@pytest.mark.parametrize("dtype", ["float32", "int32", "complex64"])
def test_linalg(backend: str, dtype: str) -> None:
    v = sv.Variable(np.asarray(SYMMETRIC, dtype), backend=backend)
    xp, out = sv.namespace(v), "complex64" if dtype == "complex64" else "float32"
    for name, call in LINALG.items():
        reference, got = np.asarray(call(oracle, np.asarray(SYMMETRIC, WIDE[out]))), call(xp, v)
        if name == "matrix_rank":
            assert int(got) == 2
            continue
        real = np.isrealobj(reference)
        check(f"{name} of {dtype}", backend, got, reference, "float32" if real else out)


def test_floats_of_16_bits(backend: str) -> None:
    for dtype in ("float16", "bfloat16"):
        v = sv.Variable(np.asarray(SYMMETRIC), dtype=dtype, backend=backend)
        xp = sv.namespace(v)
        for name, call in LINALG.items():
            if backend == "jax" and name not in ("cholesky", "matrix_norm", "solve"):
                continue  # each takes a second to compile
            if name == "matrix_rank":
                assert int(call(xp, v)) == 2
                continue
            out = dtype if name in ("matrix_norm", "matrix_power", "vector_norm") else "float32"
            check(f"{name} of {dtype}", backend, call(xp, v), np.asarray(call(oracle, np.array(SYMMETRIC))), out, dtype)
        for name in ("log2", "log10"):
            check(name, backend, getattr(xp, name)(v), getattr(np, name)(SYMMETRIC), dtype)
        x = np.array([0.0, 1.0, -1.0, 2.0, 0.5, np.nan, 1.0], HOST[dtype])
        towards = np.array([-1.0, 2.0, 2.0, -np.inf, 0.5, 1.0, np.nan], HOST[dtype])
        result = xp.nextafter(xp.asarray(x), xp.asarray(towards))
        check("nextafter", backend, result, np.nextafter(x, towards).astype("float32"), dtype)


def test_the_first_nan_is_the_largest_and_the_smallest(backend: str) -> None:
    xp = sv.namespace(sv.Variable(1.0, backend=backend))
    x = xp.asarray([[1.0, np.nan, np.inf], [-np.inf, 5.0, 5.0], [2.0, np.nan, np.nan]])
    assert (int(xp.argmax(x)), int(xp.argmin(x))) == (1, 1)
    assert host(xp.argmax(x, axis=1)).tolist() == [1, 1, 1]
    assert host(xp.argmin(x, axis=1)).tolist() == [1, 0, 1]


_FFT = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
_FFTN = ("fftn", "ifftn", "rfftn", "irfftn")


def fourier(xp: Any, name: str, x: Any) -> list[Any]:
    function = getattr(xp.fft, name)
    if name in _FFTN:
        return [function(x), function(x, s=(3, 2), axes=(0, 1), norm="ortho"), function(x, norm="forward")]
    if name in _FFT:
        return [function(x), function(x, n=5, norm="forward"), function(x, axis=0, norm="ortho")]
    return [function(x), function(x, axes=0)]


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_fft(backend: str, dtype: str) -> None:
    values = [[1, 4, 2], [3, -1, 5]]
    v = sv.Variable(values, dtype=dtype, backend=backend)
    xp = sv.namespace(v)
    for name in (*_FFT, *_FFTN, "fftshift", "ifftshift"):
        for got, reference in zip(
            fourier(xp, name, v), fourier(oracle, name, np.asarray(values, "float64")), strict=True
        ):
            out = dtype if name.endswith("shift") else "float32" if np.isrealobj(reference) else "complex64"
            assert dtype_of(got) == out, name
            np.testing.assert_allclose(host(got), reference, rtol=1e-5, atol=1e-5, err_msg=name)
    for name in ("fftfreq", "rfftfreq"):
        for n in (4, 5):
            check(name, backend, getattr(xp.fft, name)(n, d=0.5), getattr(oracle.fft, name)(n, d=0.5), "float32")


def test_creation(backend: str) -> None:
    xp = sv.namespace(sv.Variable(0.0, backend=backend))
    for name, got, reference, dtype in (
        ("zeros", xp.zeros(3), np.zeros(3), "float32"),
        ("zeros", xp.zeros((2, 0), dtype="int8"), np.zeros((2, 0), "int8"), "int8"),
        ("ones", xp.ones((1, 2), dtype=xp.bool), np.ones((1, 2), "bool"), "bool"),
        ("full", xp.full(2, 7), np.full(2, 7), "int32"),
        ("full", xp.full((2, 1), 0.5), np.full((2, 1), 0.5), "float32"),
        ("full", xp.full((), True), np.full((), True), "bool"),
        ("full", xp.full(2, xp.asarray(3, dtype="int8")), np.full(2, 3), "int8"),
        ("eye", xp.eye(2, 3, k=1), np.eye(2, 3, 1), "float32"),
        ("eye", xp.eye(2, dtype="int32"), np.eye(2), "int32"),
        ("arange", xp.arange(3), np.arange(3), "int32"),
        ("arange", xp.arange(1, 2, 0.5), np.arange(1, 2, 0.5), "float32"),
        ("arange", xp.arange(sv.Variable(3)), np.arange(3), "int32"),
        ("linspace", xp.linspace(0, 1, 5), np.linspace(0, 1, 5), "float32"),
        ("linspace", xp.linspace(0, 1, 4, endpoint=False), np.linspace(0, 1, 4, endpoint=False), "float32"),
        ("asarray", xp.asarray([1, 2]), np.asarray([1, 2]), "int32"),
        ("asarray", xp.asarray([1.5, 2]), np.asarray([1.5, 2]), "float32"),
        ("asarray", xp.asarray(True), np.asarray(True), "bool"),
        ("asarray", xp.asarray(1j), np.asarray(1j), "complex64"),
        ("asarray", xp.asarray([1, 2], dtype=xp.float16), np.asarray([1, 2]), "float16"),
        ("asarray", xp.asarray(np.asarray([1, 2], "int8")), np.asarray([1, 2]), "int8"),
        ("asarray", xp.asarray([xp.asarray(1), 2.5]), np.asarray([1, 2.5]), "float32"),
    ):
        check(name, backend, got, np.asarray(reference).astype(WIDE.get(dtype, dtype)), dtype)
    assert tuple(xp.empty((2, 3)).shape) == tuple(xp.empty_like(xp.zeros((2, 3))).shape) == (2, 3)
    assert dtype_of(xp.empty(1, dtype="int8")) == "int8"
    with pytest.raises(ValueError, match="copy=False"):
        xp.asarray([1], copy=False)
    with pytest.raises(sv.errors.RangeError, match="arange: 4294967296 is out of the range of int32"):
        xp.arange(2**32)
    with pytest.raises(TypeError, match="asarray: 0.5 cannot be represented as int32"):
        xp.asarray(0.5, dtype="int32")


def test_dtypes(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    xp = sv.namespace(v)
    assert v.dtype == xp.float32 == xp.zeros(1).dtype
    assert xp.result_type(v, 2, xp.int8) == xp.float32
    assert xp.result_type(xp.int8, xp.uint8) == xp.int16
    assert xp.can_cast(xp.int8, xp.int32)
    assert not xp.can_cast(xp.int32, xp.int8)
    assert xp.can_cast(v, "complex64")
    assert xp.isdtype(v.dtype, "real floating")
    assert xp.isdtype(xp.int8, ("bool", "integral"))
    assert xp.isdtype(xp.int8, xp.int8)
    assert not xp.isdtype(xp.bool, "numeric")
    with pytest.raises(ValueError, match="isdtype: expected a dtype or one of 'bool', .*, got 'float'"):
        xp.isdtype(xp.bool, "float")
    info = xp.finfo(v)
    assert (info.bits, info.eps, info.dtype) == (32, 2.0**-23, xp.float32)
    assert xp.finfo("bfloat16").eps == 2.0**-7
    assert xp.finfo(xp.complex64).dtype == xp.float32
    assert (xp.iinfo("int8").min, xp.iinfo(xp.uint8).max) == (-128, 255)
    with pytest.raises(TypeError, match="finfo: expected a dtype of floats, got int8"):
        xp.finfo(xp.int8)
    assert dtype_of(xp.astype(v, "bool")) == "bool"
    with pytest.raises(TypeError, match="astype: cannot cast complex64 to float32"):
        xp.astype(xp.asarray([1j]), xp.float32)


def test_info(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    xp = sv.namespace(v)
    info = xp.__array_namespace_info__()
    assert {name: dtype_of(xp.zeros(1, dtype=each)) for name, each in info.default_dtypes().items()} == {
        "real floating": "float32",
        "complex floating": "complex64",
        "integral": "int32",
        "indexing": "int32" if backend == "jax" else "int64",
    }
    assert set(info.dtypes(kind=("unsigned integer", "bool"))) >= {"bool", "uint8", "uint16", "uint32"}
    assert info.capabilities()["boolean indexing"]
    assert info.devices()
    assert dtype_of(xp.zeros(2, device=info.default_device())) == "float32"
    assert xp.__array_api_version__ == "2024.12"
    assert v.__array_namespace__(api_version="2023.12") is xp
    with pytest.raises(ValueError, match="got '1.0'"):
        v.__array_namespace__(api_version="1.0")


def test_every_function_of_the_standard_is_tested() -> None:
    xp = sv.namespace()
    elsewhere = {"can_cast", "finfo", "iinfo", "isdtype", "result_type", "arange", "empty", "empty_like", "eye", "full"}
    elsewhere |= {"linspace", "ones", "zeros"}
    tested = {*OF_ONE, *OF_TWO, *OF_A_MATRIX, *elsewhere, *(f"linalg.{name}" for name in LINALG)}
    tested |= {f"fft.{name}" for name in (*_FFT, *_FFTN, "fftshift", "ifftshift", "fftfreq", "rfftfreq")}
    public = {name for name in dir(xp) if not name.startswith("_") and callable(getattr(xp, name))}
    public -= {*HOST, "linalg", "fft"}
    for extension in ("linalg", "fft"):
        public |= {f"{extension}.{name}" for name in dir(getattr(xp, extension)) if not name.startswith("_")}
    assert {"linalg.matrix_transpose", "linalg.vecdot"} <= public
    assert public - {"linalg.matrix_transpose", "linalg.vecdot"} <= tested
    assert len(tested) > 160


# -- promotion, and what may be an operand -------------------------------------------------------------------------

_PAGE = ROOT / "docs" / "array-api.md"
ROWS = re.findall(r"^\| `(.+?)` \| (\w+) \|$", _PAGE.read_text() if _PAGE.exists() else "", re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_table_of_promotions(backend: str, row: tuple[str, str]) -> None:
    xp = sv.namespace(sv.Variable(0.0, backend=backend))
    names = ("int8", "uint8", "int16", "int32", "float16", "bfloat16", "float32", "complex64")
    found: dict[str, Any] = {name: sv.Variable([1, 1], dtype=name, backend=backend) for name in names}
    found |= {"bool_": sv.Variable([True, True], backend=backend), "xp": xp, "np": np}
    got = eval(row[0], found)
    assert dtype_of(got) == ("int32" if backend == "jax" and row[1] == "int64" else row[1])


def test_the_table_is_read() -> None:
    assert len(ROWS) >= 25


class Level(enum.IntEnum):
    HIGH = 2


def test_operands_of_any_kind_and_order(backend: str) -> None:
    v = sv.Variable([1.0, 3.0], backend=backend)
    xp = sv.namespace(v)
    numpy = np.asarray([2.0, 2.0], "float32")
    for other in (2, 2.0, Level.HIGH, numpy, np.float32(2), sv.Variable([2.0, 2.0]), array_of(backend, numpy)):
        for operands in ((v, other), (other, v), (v.value, other)):
            got = xp.maximum(*operands)
            assert dtype_of(got) == "float32"
            assert_same(got, [2.0, 3.0])
    assert_same(xp.where(v > 2, v, 0), [0.0, 3.0])
    assert_same(xp.where(v > 2, 0.5, v), [1.0, 0.5])
    assert_same(xp.clip(v, max=2), [1.0, 2.0])
    assert dtype_of(xp.maximum(1, 2.0)) == "float32"
    small = sv.Variable([1, 2], dtype="int8", backend=backend)
    with pytest.raises(sv.errors.RangeError, match="maximum: 300 is out of the range of int8"):
        xp.maximum(small, 300)
    assert dtype_of(xp.maximum(small, xp.asarray(2))) == "int32"  # an array without axes is no Python number
    assert dtype_of(xp.maximum(small, np.int16(2))) == "int16"
    with pytest.raises(TypeError, match=r"sin: expected an array, got a list. Hint: pass xp.asarray\(x\)"):
        xp.sin([1.0])
    with pytest.raises(TypeError, match="less: not defined for complex numbers, got complex64. Hint: pass the real"):
        xp.less(xp.asarray(1j), v)
    with pytest.raises(TypeError, match="bitwise_and: expected integers, got float32"):
        xp.bitwise_and(v, 1)
    with pytest.raises(sv.errors.ShapeError, match="vecdot: expected vectors of one length, got 2 and 3"):
        xp.vecdot(v, xp.zeros(3))


def test_which_namespace() -> None:
    assert sv.namespace() is sv.namespace(None, 1.0) is sv.namespace(np.ones(2)) is sv.namespace(sv.Variable(1.0))
    assert repr(sv.namespace()) == "<the array API namespace of numpy>"
    with pytest.raises(TypeError, match="namespace: a value of type str cannot be read"):
        sv.namespace("numpy")


def test_one_namespace_of_a_library(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    xp = sv.namespace(v, np.ones(2), None, 2.0, sv.Variable(1.0))
    assert xp is sv.namespace(sv.Variable(1.0), v) is v.__array_namespace__() is sv.namespace(v.value)
    assert pickle.loads(pickle.dumps(xp)) is copy.deepcopy(xp) is xp
    if backend != "tensorflow":  # a tensor has none
        assert xp == array_api_compat.array_namespace(v.value) == array_api_compat.array_namespace(v, v.value)
    assert isinstance(xp.__name__, str)
    assert {"sin", "linalg", "fft", "float32", "bool", "pi", "clip"} <= set(dir(xp))
    with pytest.raises(AttributeError, match=f"neither the array API standard nor {backend} has 'no_such'"):
        xp.no_such  # noqa: B018


def test_two_libraries_are_an_error(backend: str) -> None:
    other = {"numpy": "jax", "jax": "torch", "torch": "tensorflow", "tensorflow": "jax"}[backend]
    pytest.importorskip(other)
    v, w = sv.Variable([1.0], backend=backend), sv.Variable([1.0], backend=other)
    if backend == "numpy":
        assert sv.namespace(v, w) is sv.namespace(w)
        return
    with pytest.raises(TypeError, match=f"namespace: got arrays of two libraries, {backend} and {other}. Hint: conv"):
        sv.namespace(v, w)
    with pytest.raises(TypeError, match=f"add: got arrays of two libraries, {backend} and {other}"):
        sv.namespace(v).add(v, w.value)


# -- gradients and compiled code --------------------------------------------------------------------------------------

DIFFERENTIABLE: dict[str, Call] = {
    "clip": lambda xp, x: xp.clip(x, 1.5, 3.5),
    "where": lambda xp, x: xp.where(x > 2, x * x, 0.0),
    "maximum": lambda xp, x: xp.maximum(2.0, x),
    "take": lambda xp, x: xp.take(x, xp.asarray([1, 1]), axis=0),
    "sort": lambda xp, x: xp.sort(x, axis=0) * xp.asarray([[1.0, 2.0], [3.0, 4.0]], dtype=x.dtype),
    "cumulative_sum": lambda xp, x: xp.cumulative_sum(x, axis=1, include_initial=True),
    "std": lambda xp, x: xp.std(x, axis=0, correction=1),
    "mean": lambda xp, x: xp.mean(x * x),
    "prod": lambda xp, x: xp.prod(x, axis=(0, 1)),
    "vecdot": lambda xp, x: xp.vecdot(x, x),
    "copysign": lambda xp, x: xp.copysign(x, -x),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x, (3, 2, 2)),
    "meshgrid": lambda xp, x: xp.meshgrid(x[0, :], x[1, :])[0],
    "concat": lambda xp, x: xp.concat([x, x * x], axis=1),
    "diff": lambda xp, x: xp.diff(x * x, axis=0),
    "astype": lambda xp, x: xp.astype(x, x.dtype) * x,
    "matrix_transpose": lambda xp, x: xp.matmul(xp.matrix_transpose(x), x),
    "logaddexp": lambda xp, x: xp.logaddexp(x, 0.5),
    "logaddexp of equals": lambda xp, x: xp.logaddexp(x, xp.matrix_transpose(x)) + xp.logaddexp(x[0, 1], x),
    "positive": lambda xp, x: xp.positive(x) * x,
    "outer": lambda xp, x: xp.linalg.outer(x[0, :], x[1, :]),
    "trace": lambda xp, x: xp.linalg.trace(x * x),
    "cross": lambda xp, x: xp.linalg.cross(xp.reshape(x, (-1,))[:3], xp.reshape(x, (-1,))[1:]),
    "vector_norm": lambda xp, x: xp.linalg.vector_norm(x, axis=1),
    "matrix_norm": lambda xp, x: xp.linalg.matrix_norm(x) + xp.linalg.matrix_norm(x, ord=1),
    "matrix_power": lambda xp, x: xp.linalg.matrix_power(x, 3),
    "solve": lambda xp, x: xp.linalg.solve(x, x[0, :]),
    "inv": lambda xp, x: xp.linalg.inv(x),
    "pinv": lambda xp, x: xp.linalg.pinv(x),
    "cholesky": lambda xp, x: xp.linalg.cholesky(x),
    "slogdet": lambda xp, x: xp.linalg.slogdet(x).logabsdet,
    "rfft": lambda xp, x: xp.real(xp.fft.rfft(x, n=3)) + xp.imag(xp.fft.rfft(x, n=3, norm="forward")),
    "irfft": lambda xp, x: xp.fft.irfft(x, n=5, norm="ortho"),
    "hfft": lambda xp, x: xp.fft.hfft(x),
    "fftn": lambda xp, x: xp.real(xp.fft.fftn(x, norm="forward")) + xp.real(xp.fft.rfftn(x)),
}
POINT = np.array([[4.0, 1.0], [1.0, 3.0]])


def test_gradients(backend: str) -> None:
    if backend == "numpy":
        pytest.importorskip("autograd")
    v = sv.Variable(POINT.astype("float32"), backend=backend)
    xp = sv.namespace(v)

    def loss(xp: Any, x: Any, call: Call) -> Any:
        result = call(xp, x)
        return xp.sum(result * xp.cos(xp.astype(result, result.dtype) * 0.1))

    for name, call in some(DIFFERENTIABLE.items(), backend):
        step, expected = 1e-5, np.zeros_like(POINT)
        for place in np.ndindex(POINT.shape):
            values = []
            for sign in (1, -1):
                x = POINT.copy()
                x[place] += sign * step
                if name == "cholesky":  # which reads one triangle
                    x = (x + x.T) / 2 if backend != "numpy" else x
                values.append(float(loss(oracle, x, call)))
            expected[place] = (values[0] - values[1]) / (2 * step)
        got = host(sv.grad(lambda call=call: loss(xp, v.value, call), v)())
        if name == "cholesky":
            got, expected = got + got.T, expected + expected.T
        np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-3, err_msg=name)


def test_in_jit(backend: str) -> None:
    v = sv.Variable([[1.0, 2.0], [3.0, 4.0]], backend=backend)
    count = sv.Variable([1, 2], backend=backend)

    @sv.jit
    def step(x: Any) -> Any:
        xp = sv.namespace(v)
        new = xp.where(v > 2, xp.divide(count, 2), xp.clip(v, max=x)) + xp.eye(2) + xp.linspace(0, 1, 2)
        v.assign(new)
        return xp.sum(count), xp.matmul(v, xp.ones(2)), xp.maximum(0.0, v), xp.arange(2) + count.value

    results = [step(array_of(backend, 1.5, "float32")) for _ in range(2)]
    w = np.array([[1.0, 2.0], [3.0, 4.0]])
    for counted, product, positive, numbers in results:
        w = np.where(w > 2, np.array([0.5, 1.0]), np.minimum(w, 1.5)) + np.eye(2) + np.linspace(0, 1, 2)
        assert dtype_of(counted) == dtype_of(numbers) == "int32"
        assert dtype_of(product) == dtype_of(positive) == "float32"
        assert_same(product, w.sum(1), rtol=1e-6)
        assert_same(positive, w, rtol=1e-6)
    assert_same(v, w, rtol=1e-6)


def test_in_vmap_and_scan(backend: str) -> None:
    w = sv.Variable(0.0, backend=backend)
    rows = sv.namespace(w).asarray([[1.0, 2.0], [3.0, 4.0]])

    def of_one(row: Any) -> Any:
        xp = sv.namespace(w)
        return xp.add(xp.sum(xp.clip(row, max=2.5)), xp.matmul(row, row))

    def step(carry: Any, row: Any) -> Any:
        xp = sv.namespace(w)
        carry = xp.add(carry, xp.max(row))
        return carry, xp.astype(carry, "int32")

    assert_same(sv.vmap(of_one)(rows), [8.0, 30.0])
    last, numbers = sv.scan(step, sv.namespace(w).asarray(0.0), rows)
    assert_same(last, 6.0)
    assert_same(numbers, [2, 6])


def test_in_compiled_torch(backend: str) -> None:
    if backend != "torch":
        pytest.skip("torch only")
    import torch

    v = sv.Variable([1.0, 4.0], backend=backend, trainable=False)
    xp = sv.namespace(v)
    compiled = torch.compile(lambda v: xp.sum(xp.sqrt(v) + xp.maximum(v, v)), fullgraph=True, backend="eager")
    assert_same(compiled(v), 8.0)


def test_new_arrays_lie_where_the_variables_do(backend: str) -> None:
    v = sv.Variable([1.0], backend=backend)
    xp = sv.namespace(v)
    for made in (xp.zeros(2), xp.asarray([1.0]), xp.arange(2), xp.fft.fftfreq(3), xp.zeros(1, device="CPU:0")):
        assert (
            str(getattr(made, "device", v.device)).lower().rpartition("/")[2]
            == str(made.device).lower().rpartition("/")[2]
        )
    with pytest.raises(sv.errors.DeviceError):
        xp.zeros(2, device="GPU:99")
    with sv.device("CPU:0"):
        assert_same(xp.ones(2), [1.0, 1.0])
