"""The extension ``linalg`` of the array API, with TensorFlow's functions. Operands may be variables."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from .operators import MULTIPLIED_AS
from .operators import matmul as _matmul
from .operators import promoted as _promoted
from .receive import taking_variables, tensor_of

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


class _Eigh(NamedTuple):
    eigenvalues: Any
    eigenvectors: Any


class _QR(NamedTuple):
    Q: Any
    R: Any


class _Slogdet(NamedTuple):
    sign: Any
    logabsdet: Any


class _SVD(NamedTuple):
    U: Any
    S: Any
    Vh: Any


matrix_transpose = taking_variables(tf.linalg.matrix_transpose, "matrix_transpose")
matmul = taking_variables(_matmul, "matmul")
det = taking_variables(tf.linalg.det, "det")
inv = taking_variables(tf.linalg.inv, "inv")


def cholesky(x: Any, /, *, upper: bool = False) -> Any:
    lower = tf.linalg.cholesky(tensor_of(x))
    return tf.linalg.adjoint(lower) if upper else lower


def cross(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    x1, x2 = (tf.unstack(_moved(x, axis, -1), 3, axis=-1) for x in _promoted(tensor_of(x1), tensor_of(x2)))
    parts = [x1[i - 2] * x2[i - 1] - x1[i - 1] * x2[i - 2] for i in range(3)]  # tf.linalg.cross has no complex numbers
    return _moved(tf.stack(parts, axis=-1), -1, axis)


def diagonal(x: Any, /, *, offset: int = 0) -> Any:
    x = tensor_of(x)
    rows, columns = x.shape[-2:]
    if offset <= -rows or offset >= columns:
        return x[..., 0, :0] if rows else x[..., :0, 0]
    return tf.linalg.diag_part(x, k=offset)


def eigh(x: Any, /) -> _Eigh:
    values, vectors = tf.linalg.eigh(tensor_of(x))
    return _Eigh(tf.math.real(values), vectors)


def eigvalsh(x: Any, /) -> Any:
    return tf.math.real(tf.linalg.eigvalsh(tensor_of(x)))


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:  # noqa: A002  # the standard's name
    x = tensor_of(x)
    if ord == "fro":
        return _root(tf.reduce_sum(_squared(x), [-2, -1], keepdims))
    if ord in ("nuc", 2, -2):
        s = tf.linalg.svd(x, compute_uv=False)
        reduce = {"nuc": tf.reduce_sum, 2: tf.reduce_max, -2: tf.reduce_min}[ord]
        found = reduce(s, -1)
        return found[..., None, None] if keepdims else found
    first, second = (-2, -1) if abs(ord) == 1 else (-1, -2)
    sums = tf.reduce_sum(tf.abs(x), first, keepdims=True)
    found = (tf.reduce_max if ord > 0 else tf.reduce_min)(sums, second, keepdims=True)
    return found if keepdims else tf.squeeze(found, [-2, -1])


def matrix_power(x: Any, n: int, /) -> Any:
    x = tensor_of(x)
    if n < 0:
        x, n = tf.linalg.inv(x), -n
    result = tf.eye(x.shape[-1], batch_shape=x.shape[:-2], dtype=x.dtype)
    while n:
        if n % 2:
            result = tf.matmul(result, x)
        n //= 2
        x = tf.matmul(x, x) if n else x
    return result


def matrix_rank(x: Any, /, *, rtol: Any = None) -> Any:
    x = tensor_of(x)
    s = tf.linalg.svd(x, compute_uv=False)
    if rtol is None:
        rtol = max(x.shape[-2:]) * tf.experimental.numpy.finfo(s.dtype.as_numpy_dtype).eps
    limit = tf.reduce_max(s, -1, keepdims=True) * _as_limit(rtol, s.dtype)
    return tf.reduce_sum(tf.cast(s > limit, tf.int64), -1)


def outer(x1: Any, x2: Any, /) -> Any:
    x1, x2 = _promoted(tensor_of(x1), tensor_of(x2))
    return x1[:, None] * x2[None, :]


def pinv(x: Any, /, *, rtol: Any = None) -> Any:
    x = tensor_of(x)
    if rtol is None:
        rtol = max(x.shape[-2:]) * float(tf.experimental.numpy.finfo(x.dtype.real_dtype.as_numpy_dtype).eps)
    s, u, v = tf.linalg.svd(x, full_matrices=False)  # TensorFlow's own `pinv` is of real numbers
    large = s > tf.reduce_max(s, -1, keepdims=True) * _as_limit(rtol, s.dtype)
    inverse = tf.where(large, 1 / tf.where(large, s, tf.ones_like(s)), tf.zeros_like(s))
    return tf.matmul(v * tf.cast(inverse, x.dtype)[..., None, :], u, adjoint_b=True)


def _as_limit(rtol: Any, dtype: Any) -> Any:
    """A tolerance, or one for each matrix, beside singular values."""
    rtol = tf.cast(rtol, dtype)
    return rtol[..., None] if rtol.shape.rank else rtol


def qr(x: Any, /, *, mode: str = "reduced") -> _QR:
    return _QR(*tf.linalg.qr(tensor_of(x), full_matrices=mode == "complete"))


def slogdet(x: Any, /) -> _Slogdet:
    sign, logabsdet = tf.linalg.slogdet(tensor_of(x))
    return _Slogdet(sign, tf.math.real(logabsdet))


def solve(x1: Any, x2: Any, /) -> Any:
    x1, x2 = _promoted(tensor_of(x1), tensor_of(x2))
    if x2.shape.rank == 1:
        return tf.squeeze(tf.linalg.solve(x1, tf.broadcast_to(x2[:, None], [*x1.shape[:-1], 1])), -1)
    return tf.linalg.solve(x1, x2)


def svd(x: Any, /, *, full_matrices: bool = True) -> _SVD:
    s, u, v = tf.linalg.svd(tensor_of(x), full_matrices=full_matrices)
    return _SVD(u, s, tf.linalg.adjoint(v))


def svdvals(x: Any, /) -> Any:
    return tf.linalg.svd(tensor_of(x), compute_uv=False)


def tensordot(x1: Any, x2: Any, /, *, axes: Any = 2) -> Any:
    x1, x2 = _promoted(tensor_of(x1), tensor_of(x2))
    wide = MULTIPLIED_AS.get(x1.dtype, x1.dtype)
    return tf.cast(tf.tensordot(tf.cast(x1, wide), tf.cast(x2, wide), axes), x1.dtype)


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
    parts = tf.linalg.diag_part(tensor_of(x), k=offset)
    return tf.reduce_sum(parts if dtype is None else tf.cast(parts, dtype), -1)


def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
    x1, x2 = _promoted(tensor_of(x1), tensor_of(x2))
    return tf.reduce_sum(tf.math.conj(x1) * x2, axis)


def vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:  # noqa: A002
    x = tensor_of(x)
    if ord == 2:
        return _root(tf.reduce_sum(_squared(x), axis, keepdims))
    size = tf.abs(x)
    if ord == math.inf:
        return tf.reduce_max(size, axis, keepdims)
    if ord == -math.inf:
        return tf.reduce_min(size, axis, keepdims)
    if ord == 0:
        return tf.reduce_sum(tf.cast(size != 0, size.dtype), axis, keepdims)
    return tf.reduce_sum(size**ord, axis, keepdims) ** (1 / ord)


def _squared(x: Any) -> Any:
    return tf.math.real(x * tf.math.conj(x)) if x.dtype.is_complex else x * x


def _root(x: Any) -> Any:
    """The square root, with the gradient 0 at 0 that other libraries have."""
    positive = x > 0
    return tf.where(positive, tf.sqrt(tf.where(positive, x, tf.ones_like(x))), tf.zeros_like(x))


def _moved(x: Any, source: int, destination: int) -> Any:
    return tf.experimental.numpy.moveaxis(x, source, destination)
