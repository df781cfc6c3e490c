"""The extension ``linalg`` of a namespace, and what the main namespace has of it."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..._arrays.dtypes import dtype_kind
from ...errors import ShapeError
from .operands import Operands
from .reductions import Reductions

__all__ = ["Linalg", "Products"]


class Eigh(NamedTuple):
    """What `eigh` returns."""

    eigenvalues: Any
    eigenvectors: Any


class QR(NamedTuple):
    """What `qr` returns."""

    Q: Any
    R: Any


class Slogdet(NamedTuple):
    """What `slogdet` returns."""

    sign: Any
    logabsdet: Any


class SVD(NamedTuple):
    """What `svd` returns."""

    U: Any
    S: Any
    Vh: Any


class Products(Operands):
    """The functions of ``linalg`` that the main namespace has too."""

    def matmul(self, x1: Any, x2: Any, /) -> Any:
        """The matrix product; of vectors the inner product, and of stacks of matrices one product for each."""
        (left, right), name = self._common("matmul", (x1, x2), "number")
        return self._cast(self._own("matmul")(left, right), name)

    def matrix_transpose(self, x: Any, /) -> Any:
        """The matrices with rows and columns exchanged."""
        return self._own("matrix_transpose")(self._array(x, "matrix_transpose"))

    def tensordot(self, x1: Any, x2: Any, /, *, axes: Any = 2) -> Any:
        """The sum of products over the last axes of x1 and the first of x2, or over those that are given."""
        (left, right), name = self._common("tensordot", (x1, x2), "number")
        return self._cast(self._own("tensordot")(left, right, axes=axes), name)

    def vecdot(self, x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
        """The inner products of vectors along an axis; those of x1 are conjugated."""
        (left, right), name = self._common("vecdot", (x1, x2), "number")
        lengths = self._backend.shape(left)[axis], self._backend.shape(right)[axis]
        if lengths[0] != lengths[1]:
            raise ShapeError.of("vecdot", f"expected vectors of one length, got {lengths[0]} and {lengths[1]}")
        return self._cast(self._own("vecdot")(left, right, axis=axis), name)


class Linalg(Products):
    """Linear algebra, ``xp.linalg``. The arguments may be stacks of matrices; integers count as floats.

    So do floats of 16 bits as float32, but in products and norms, which have the dtype of their arguments.
    """

    def __init__(self, reductions: Reductions) -> None:
        super().__init__(reductions._backend, reductions._device)
        self._reductions = reductions

    def _of(self, operation: str, x: Any, **more: Any) -> Any:
        return self._own(f"linalg.{operation}")(self._wide(operation, x, "float"), **more)

    def cholesky(self, x: Any, /, *, upper: bool = False) -> Any:
        """The triangular matrix L with ``L @ L.T == x``, or the upper one."""
        return self._of("cholesky", x, upper=upper)

    def cross(self, x1: Any, x2: Any, /, *, axis: int = -1) -> Any:
        """The cross product of vectors of three elements along an axis."""
        (left, right), _ = self._common("cross", (x1, x2), "number")
        return self._own("linalg.cross")(left, right, axis=axis)

    def det(self, x: Any, /) -> Any:
        """The determinants."""
        return self._of("det", x)

    def diagonal(self, x: Any, /, *, offset: int = 0) -> Any:
        """The diagonals with a number; the main one has 0."""
        return self._own("linalg.diagonal")(self._array(x, "diagonal"), offset=offset)

    def eigh(self, x: Any, /) -> Eigh:
        """The eigenvalues in order, and the eigenvectors, of symmetric or Hermitian matrices."""
        return Eigh(*self._of("eigh", x))

    def eigvalsh(self, x: Any, /) -> Any:
        """The eigenvalues in order, of symmetric or Hermitian matrices; they are real."""
        return self._of("eigvalsh", x)

    def inv(self, x: Any, /) -> Any:
        """The inverse matrices."""
        return self._of("inv", x)

    def matrix_norm(self, x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:  # noqa: A002  # the name in the standard
        """The norms of matrices: "fro", "nuc", 1, 2, infinity, and the negative ones."""
        array, name = self._one("matrix_norm", x, "float")
        result = self._own("linalg.matrix_norm")(self._widened(array, name), keepdims=keepdims, ord=ord)
        return result if dtype_kind(name) == "complex" else self._cast(result, name)

    def matrix_power(self, x: Any, n: int, /) -> Any:
        """The matrices times themselves, n times; the inverse ones if n is negative."""
        array, name = self._one("matrix_power", x, "float")
        return self._cast(self._own("linalg.matrix_power")(self._widened(array, name), n), name)

    def matrix_rank(self, x: Any, /, *, rtol: Any = None) -> Any:
        """The number of the singular values that are not 0, up to a tolerance."""
        more = {} if rtol is None else {"rtol": rtol}
        return self._of("matrix_rank", x, **more)

    def outer(self, x1: Any, x2: Any, /) -> Any:
        """The products of each element of one vector with each of the other."""
        (left, right), _ = self._common("outer", (x1, x2), "number")
        return self._own("linalg.outer")(left, right)

    def pinv(self, x: Any, /, *, rtol: Any = None) -> Any:
        """The pseudo-inverse matrices."""
        more = {} if rtol is None else {"rtol": rtol}
        return self._of("pinv", x, **more)

    def qr(self, x: Any, /, *, mode: str = "reduced") -> QR:
        """The orthonormal matrices Q and the upper triangular ones R with ``Q @ R == x``."""
        return QR(*self._of("qr", x, mode=mode))

    def slogdet(self, x: Any, /) -> Slogdet:
        """The signs of the determinants, and the logarithms of their absolute values."""
        return Slogdet(*self._of("slogdet", x))

    def solve(self, x1: Any, x2: Any, /) -> Any:
        """The solutions of ``x1 @ x == x2``; x2 is a vector if it has one axis."""
        (left, right), name = self._common("solve", (x1, x2), "float")
        return self._own("linalg.solve")(self._widened(left, name), self._widened(right, name))

    def svd(self, x: Any, /, *, full_matrices: bool = True) -> SVD:
        """The singular value decomposition ``x == U @ diag(S) @ Vh``."""
        return SVD(*self._of("svd", x, full_matrices=full_matrices))

    def svdvals(self, x: Any, /) -> Any:
        """The singular values, the largest first."""
        return self._of("svdvals", x)

    def trace(self, x: Any, /, *, offset: int = 0, dtype: Any = None) -> Any:
        """The sums of diagonals; of integers in 32 bits or more."""
        return self._reductions.sum(self.diagonal(x, offset=offset), axis=-1, dtype=dtype)

    def vector_norm(self, x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:  # noqa: A002  # the name in the standard
        """The norms of vectors, of all elements or along axes."""
        array, name = self._one("vector_norm", x, "float")
        result = self._own("linalg.vector_norm")(array, axis=axis, keepdims=keepdims, ord=ord)
        if dtype_kind(name) != "complex":
            return self._cast(result, name)
        return result
