"""The methods and properties that arrays have, defined once by the array API namespace of the variable's library.

The arguments are those of the array API standard (``axis``, ``keepdims``). A result is an array of the library and is
computed from one snapshot; gradients pass through it.
"""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

from .._arrays.dtypes import KEYS, check_kind, dtype_kind, dtype_name, is_floating
from .._arrays.types import DType
from ..errors import ShapeError, describe
from .operators import Operators

__all__ = ["Methods"]

_Axis: TypeAlias = int | tuple[int, ...] | None


class Methods(Operators):
    """What an object with a ``value`` has of an array's methods; none of them changes it."""

    __slots__ = ()

    # -- views --------------------------------------------------------------------------------------------

    @property
    def T(self) -> Any:  # noqa: N802  # the standard's name
        """The value with its axes in reverse order."""
        return self.transpose()

    @property
    def mT(self) -> Any:  # noqa: N802  # as above
        """The value with its last two axes exchanged."""
        if len(self.shape) < 2:
            raise ShapeError.of("mT", f"expected two axes or more, got shape {self.shape}", getattr(self, "_path", ""))
        return self._xp().matrix_transpose(self._apart())

    @property
    def real(self) -> Any:
        """The real part of the value, which is the value itself if it is not complex."""
        return self._xp().real(self._apart()) if self._is_complex() else self._apart()

    @property
    def imag(self) -> Any:
        """The imaginary part of the value, which is zero if it is not complex."""
        return self._xp().imag(self._apart()) if self._is_complex() else self._xp().zeros_like(self.value)

    def _apart(self) -> Any:
        """The value, for a view that is returned: a write to it must not change the variable without an error."""
        return self._backend.guarded(self.value)

    def transpose(self, *axes: Any) -> Any:
        """The value with its axes in the given order, or in reverse order: ``v.transpose(1, 0)``."""
        order = _flat("transpose", axes) or tuple(range(len(self.shape)))[::-1]
        return self._xp().permute_dims(self._apart(), order)

    def reshape(self, *shape: Any, **other: Any) -> Any:
        """The value with another shape; -1 stands for the length that is left: ``v.reshape(2, -1)``."""
        if other:  # an AttributeError, after which `jax.numpy.reshape` converts the variable itself
            raise AttributeError(describe("reshape", f"expected a shape only, got {', '.join(other)}="))
        return self._xp().reshape(self._apart(), _flat("reshape", shape))

    def squeeze(self, axis: _Axis = None) -> Any:
        """The value without the given axes of length 1; by default without all of them."""
        if axis is None:
            axis = tuple(i for i, length in enumerate(self.shape) if length == 1)
        return self._xp().squeeze(self._apart(), axis=axis)

    def ravel(self) -> Any:
        """The elements in one axis."""
        return self._xp().reshape(self._apart(), (-1,))

    def flatten(self) -> Any:
        """The elements in one axis."""
        return self.ravel()

    # -- conversions ----------------------------------------------------------------------------------------

    def astype(self, dtype: DType, copy: bool = True) -> Any:
        """The value cast to a dtype, which is given in any form that `Variable` accepts.

        >>> import statevar as sv
        >>> sv.Variable([1.5, 2.5]).astype("int32")
        array([1, 2], dtype=int32)
        """
        backend = self._backend
        target = dtype_name(dtype)
        try:
            return backend.cast(self._apart(), backend.dtype(target))
        except Exception:  # of any library
            source = backend.dtype_name(self.value)
            if source in KEYS or target in KEYS:
                check_kind(source, target, "astype", getattr(self, "_path", ""))
            raise

    def item(self) -> Any:
        """The only element as a Python number or text.

        Raises:
            ShapeError: there are several elements, or none.
        """
        host = self._host("item")
        if host.size != 1:
            problem = f"expected one element, got shape {host.shape}"
            raise ShapeError.of("item", problem, getattr(self, "_path", ""), "index it first: v[0], or use v.tolist()")
        return host.item()

    def tolist(self) -> Any:
        """The value as nested lists of Python numbers."""
        return self._host("tolist").tolist()

    def __format__(self, spec: str) -> str:
        if not spec:
            return str(self)
        if self.shape:
            problem = f"expected a scalar for the format {spec!r}, got shape {self.shape}"
            raise TypeError(describe("format", problem, getattr(self, "_path", ""), "index it first: v[0]"))
        return format(self._host("format").item(), spec)

    # -- reductions -------------------------------------------------------------------------------------------

    def sum(self, axis: _Axis = None, dtype: DType | None = None, keepdims: bool = False) -> Any:
        """The sum of the elements, of all or along axes."""
        return self._xp().sum(self.value, axis=axis, keepdims=keepdims, **self._native(dtype))

    def prod(self, axis: _Axis = None, dtype: DType | None = None, keepdims: bool = False) -> Any:
        """The product of the elements, of all or along axes."""
        return self._xp().prod(self.value, axis=axis, keepdims=keepdims, **self._native(dtype))

    def mean(self, axis: _Axis = None, keepdims: bool = False) -> Any:
        """The mean of the elements, of all or along axes. The mean of integers is a float."""
        xp, value = self._xp(), self._floating()
        return xp.mean(value, axis=axis, keepdims=keepdims)

    def var(self, axis: _Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
        """The variance of the elements; ``correction=1`` divides by one less than their number."""
        return self._xp().var(self._floating(), axis=axis, correction=correction, keepdims=keepdims)

    def std(self, axis: _Axis = None, correction: float = 0.0, keepdims: bool = False) -> Any:
        """The standard deviation of the elements; ``correction=1`` divides by one less than their number."""
        return self._xp().std(self._floating(), axis=axis, correction=correction, keepdims=keepdims)

    def min(self, axis: _Axis = None, keepdims: bool = False) -> Any:
        """The smallest element, of all or along axes."""
        return self._xp().min(self.value, axis=axis, keepdims=keepdims)

    def max(self, axis: _Axis = None, keepdims: bool = False) -> Any:
        """The largest element, of all or along axes."""
        return self._xp().max(self.value, axis=axis, keepdims=keepdims)

    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Any:
        """The index of the first smallest element; without an axis, its index in the flattened value."""
        return self._xp().argmin(self._ordered(), axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Any:
        """The index of the first largest element; without an axis, its index in the flattened value."""
        return self._xp().argmax(self._ordered(), axis=axis, keepdims=keepdims)

    def any(self, axis: _Axis = None, keepdims: bool = False) -> Any:
        """Whether an element is not zero, of all or along axes."""
        return self._xp().any(self.value, axis=axis, keepdims=keepdims)

    def all(self, axis: _Axis = None, keepdims: bool = False) -> Any:
        """Whether no element is zero, of all or along axes."""
        return self._xp().all(self.value, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: int | None = None) -> Any:
        """The sums of the elements up to each one; without an axis, of the flattened value."""
        return self._xp().cumulative_sum(self.value if axis is not None else self.ravel(), axis=axis or 0)

    def cumprod(self, axis: int | None = None) -> Any:
        """The products of the elements up to each one; without an axis, of the flattened value."""
        return self._xp().cumulative_prod(self.value if axis is not None else self.ravel(), axis=axis or 0)

    # -- elementwise and the rest --------------------------------------------------------------------------------

    def clip(self, min: Any = None, max: Any = None) -> Any:  # noqa: A002  # the standard's names
        """The value with its elements limited to the range from ``min`` to ``max``; None is no limit.

        The limits may be numbers, lists or arrays; integers with a limit that is a float give floats.
        """
        limits = [self._limit(each) for each in (min, max)]
        kinds = {"float" if isinstance(each, float) else kind for each, kind in limits}
        rises = not is_floating(self._backend.dtype_name(self.value)) and "float" in kinds
        return self._xp().clip(self._floating() if rises else self.value, *(each for each, _ in limits))

    def round(self, decimals: int = 0) -> Any:
        """The value rounded to a number of decimals, half to even."""
        return self._rounded(operator.index(decimals))

    def conj(self) -> Any:
        """The complex conjugate, which is the value itself if it is not complex."""
        return self._xp().conj(self._apart()) if self._is_complex() else self._apart()

    def conjugate(self) -> Any:
        """The complex conjugate, as `conj`."""
        return self.conj()

    def dot(self, other: Any) -> Any:
        """The matrix product with another array, ``v @ other``; with a scalar, ``v * other``."""
        scalar = not self.shape or not getattr(other, "shape", (None,)) or isinstance(other, int | float | complex)
        return self * other if scalar else self @ other

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _xp(self) -> Any:
        return self._backend.namespace()

    def _is_complex(self) -> bool:
        return self._backend.dtype_name(self.value).startswith("complex")

    def _ordered(self) -> Any:
        """The value for a comparison of its elements, for which torch takes no bools."""
        value, backend = self.value, self._backend
        return backend.cast(value, backend.dtype("uint8")) if backend.dtype_name(value) == "bool" else value

    def _limit(self, limit: Any) -> tuple[Any, str]:
        """A limit of `clip` as the library takes it, and the kind of its dtype."""
        if limit is None or type(limit) in (bool, int, float):
            return limit, type(limit).__name__
        backend, _, operand = self._operands(operator.le, limit)
        if operand is NotImplemented or backend is not self._backend.native:
            problem = f"expected numbers or arrays of {self._backend.name} as limits, got {type(limit).__name__}"
            raise TypeError(describe("clip", problem, getattr(self, "_path", "")))
        return operand, dtype_kind(backend.dtype_name(operand)) if hasattr(operand, "dtype") else ""

    def _native(self, dtype: Any) -> dict[str, Any]:
        """The argument ``dtype=`` for a function of the library."""
        return {} if dtype is None else {"dtype": self._backend.dtype(dtype_name(dtype))}

    def _floating(self) -> Any:
        """The value, as a float if it is an integer or bool, since torch and TensorFlow compute no mean of those."""
        name = self._backend.dtype_name(self.value)
        if name.startswith(("float", "bfloat", "complex")):
            return self.value
        return self * 1.0


def _flat(operation: str, lengths: tuple[Any, ...]) -> tuple[int, ...]:
    """The integers of ``f(1, 2)`` or ``f((1, 2))``."""
    found = lengths[0] if len(lengths) == 1 and isinstance(lengths[0], tuple | list) else lengths
    try:
        return tuple(map(operator.index, found))
    except TypeError:
        raise TypeError(describe(operation, f"expected integers, got {found!r}")) from None
