"""The functions of a namespace that compute along axes: sums, extremes, searching, sorting and sets."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..._arrays.dtypes import HOST, dtype_kind
from ...errors import ShapeError
from .elementwise import Elementwise
from .operands import INTEGER

__all__ = ["Reductions", "UniqueAll", "UniqueCounts", "UniqueInverse"]


class UniqueAll(NamedTuple):
    """What `unique_all` returns."""

    values: Any
    indices: Any
    inverse_indices: Any
    counts: Any


class UniqueCounts(NamedTuple):
    """What `unique_counts` returns."""

    values: Any
    counts: Any


class UniqueInverse(NamedTuple):
    """What `unique_inverse` returns."""

    values: Any
    inverse_indices: Any


class Reductions(Elementwise):
    """Statistical, searching, sorting, set and utility functions."""

    # -- sums ------------------------------------------------------------------------------------------------

    def sum(self, x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
        """The sum of the elements, of all or along axes; of integers in 32 bits or more."""
        array, more = self._summed("sum", x, dtype)
        return self._own("sum")(array, axis=axis, keepdims=keepdims, **more)

    def prod(self, x: Any, /, *, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
        """The product of the elements, of all or along axes; of integers in 32 bits or more."""
        array, more = self._summed("prod", x, dtype)
        if type(axis) is not tuple:
            return self._own("prod")(array, axis=axis, keepdims=keepdims, **more)
        for each in sorted(axis_of(each, array) for each in axis):  # torch has it along one axis
            array = self._own("prod")(array, axis=each, keepdims=True, **more)
        return array if keepdims or not axis else self._own("squeeze")(array, axis=axis)

    def cumulative_sum(
        self, x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
    ) -> Any:
        """The sums of the elements up to each one, along an axis; ``include_initial`` puts a 0 before them."""
        return self._cumulative("cumulative_sum", 0, x, axis, dtype, include_initial)

    def cumulative_prod(
        self, x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
    ) -> Any:
        """The products of the elements up to each one, along an axis; ``include_initial`` puts a 1 before them."""
        return self._cumulative("cumulative_prod", 1, x, axis, dtype, include_initial)

    def _cumulative(
        self, operation: str, first: int, x: Any, axis: int | None, dtype: Any, include_initial: bool
    ) -> Any:
        array, more = self._summed(operation, x, dtype)
        shape = self._backend.shape(array)
        if axis is None:
            if len(shape) != 1:
                problem = f"expected axis=, since the array has {len(shape)} axes"
                raise ShapeError.of(operation, problem, "", "pass axis=0, or xp.reshape(x, (-1,))")
            axis = 0
        result = self._own(operation)(array, axis=axis, **more)
        if not include_initial:
            return result
        axis = axis_of(axis, array)
        start = self._number(first, self._backend.dtype_name(result), result, operation)
        edge = self._own("broadcast_to")(start, (*shape[:axis], 1, *shape[axis + 1 :]))
        return self._own("concat")([edge, result], axis=axis)

    def _summed(self, operation: str, x: Any, dtype: Any) -> tuple[Any, dict[str, Any]]:
        """The array in the dtype in which it is summed, and the argument that keeps the library from another one."""
        array, name = self._one(operation, x, "number")
        if dtype is not None:
            name = self._dtype(dtype, name)
        elif dtype_kind(name) in ("int", "uint") and HOST[name].itemsize < HOST[INTEGER].itemsize:
            name = INTEGER if dtype_kind(name) == "int" else f"u{INTEGER}"
        array = self._cast(array, name)
        return array, {"dtype": self._backend.dtype(name)} if dtype_kind(name) in ("int", "uint") else {}

    def mean(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """The mean of the elements, of all or along axes; of integers a float."""
        return self._own("mean")(self._one("mean", x, "float")[0], axis=axis, keepdims=keepdims)

    def var(self, x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
        """The variance of the elements; ``correction=1`` divides by one less than their number."""
        array, _ = self._one("var", x, "real float")
        return self._own("var")(array, axis=axis, correction=correction, keepdims=keepdims)

    def std(self, x: Any, /, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
        """The standard deviation of the elements; ``correction=1`` divides by one less than their number."""
        array, _ = self._one("std", x, "real float")
        return self._own("std")(array, axis=axis, correction=correction, keepdims=keepdims)

    # -- extremes and truth --------------------------------------------------------------------------------------

    def max(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """The largest element, of all or along axes; NaN if there is one."""
        (array,), was = self._ordered("max", x)
        return self._cast(self._own("max")(array, axis=axis, keepdims=keepdims), was)

    def min(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """The smallest element, of all or along axes; NaN if there is one."""
        (array,), was = self._ordered("min", x)
        return self._cast(self._own("min")(array, axis=axis, keepdims=keepdims), was)

    def argmax(self, x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
        """The index of the first largest element; without an axis, its index in the flattened array."""
        return self._places(self._own("argmax")(self._one("argmax", x, "order")[0], axis=axis, keepdims=keepdims))

    def argmin(self, x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
        """The index of the first smallest element; without an axis, its index in the flattened array."""
        return self._places(self._own("argmin")(self._one("argmin", x, "order")[0], axis=axis, keepdims=keepdims))

    def all(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """Whether no element is 0, of all or along axes."""
        return self._own("all")(self._truth(self._array(x, "all")), axis=axis, keepdims=keepdims)

    def any(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """Whether an element is not 0, of all or along axes."""
        return self._own("any")(self._truth(self._array(x, "any")), axis=axis, keepdims=keepdims)

    def count_nonzero(self, x: Any, /, *, axis: Any = None, keepdims: bool = False) -> Any:
        """The number of the elements that are not 0, of all or along axes."""
        return self._places(self._own("count_nonzero")(self._array(x, "count_nonzero"), axis=axis, keepdims=keepdims))

    def diff(self, x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Any:
        """The differences between neighbours along an axis, ``n`` times; first the array gets what is to be added."""
        parts = [each for each in (prepend, x, append) if each is not None]
        arrays, _ = self._common("diff", parts, "number")
        array = self._own("concat")(arrays, axis=axis) if len(arrays) > 1 else arrays[0]
        axis = axis_of(axis, array)
        for _ in range(n):
            before = (slice(None),) * axis
            array = self._own("subtract")(array[(*before, slice(1, None))], array[(*before, slice(None, -1))])
        return array

    # -- searching and sorting ------------------------------------------------------------------------------------

    def where(self, condition: Any, x1: Any, x2: Any, /) -> Any:
        """The elements of x1 where the condition holds, else those of x2."""
        truth = self._truth(self._array(condition, "where"))
        (left, right), _ = self._common("where", (x1, x2))
        return self._own("where")(self._beside(truth, left), left, right)

    def nonzero(self, x: Any, /) -> tuple[Any, ...]:
        """The indices of the elements that are not 0, an array for each axis."""
        array = self._array(x, "nonzero")
        if not self._backend.shape(array):
            raise ShapeError.of("nonzero", "a scalar has no indices", "", "pass xp.reshape(x, (1,))")
        return tuple(self._places(each) for each in self._own("nonzero")(self._truth(array)))

    def searchsorted(self, x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Any:
        """The indices at which the elements of x2 would be put into x1, whose elements are sorted."""
        (known, wanted), _ = self._common("searchsorted", (x1, x2), "order")
        if sorter is not None:
            known = self._own("take")(known, self._indices(sorter, "searchsorted"), axis=0)
        return self._places(self._own("searchsorted")(known, wanted, side=side))

    def sort(self, x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
        """The elements in order, along an axis."""
        (array,), was = self._ordered("sort", x)
        if not self._backend.shape(array):
            raise ShapeError.of("sort", "a scalar has no order", "", "pass xp.reshape(x, (1,))")
        return self._cast(self._own("sort")(array, axis=axis, descending=descending, stable=stable), was)

    def argsort(self, x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
        """The indices that sort the elements along an axis; of equal elements the first one comes first."""
        array, _ = self._one("argsort", x, "order")
        if not self._backend.shape(array):
            raise ShapeError.of("argsort", "a scalar has no order", "", "pass xp.reshape(x, (1,))")
        return self._places(self._own("argsort")(array, axis=axis, descending=descending, stable=stable))

    # -- sets ----------------------------------------------------------------------------------------------------

    def unique_values(self, x: Any, /) -> Any:
        """The different elements, in order."""
        (array,), was = self._ordered("unique_values", x)
        return self._cast(self._own("unique_values")(array), was)

    def unique_counts(self, x: Any, /) -> UniqueCounts:
        """The different elements, in order, and how often each is there."""
        (array,), was = self._ordered("unique_counts", x)
        values, counts = self._own("unique_counts")(array)
        return UniqueCounts(self._cast(values, was), self._places(counts))

    def unique_inverse(self, x: Any, /) -> UniqueInverse:
        """The different elements, in order, and the index in them of each element."""
        (array,), was = self._ordered("unique_inverse", x)
        values, inverse = self._own("unique_inverse")(array)
        inverse = self._own("reshape")(inverse, self._backend.shape(array))
        return UniqueInverse(self._cast(values, was), self._places(inverse))

    def unique_all(self, x: Any, /) -> UniqueAll:
        """The different elements, in order, with the index of the first, the index of each in them, and the counts."""
        (array,), was = self._ordered("unique_all", x)
        values, indices, inverse, counts = self._own("unique_all")(array)
        inverse = self._own("reshape")(inverse, self._backend.shape(array))
        return UniqueAll(self._cast(values, was), *map(self._places, (indices, inverse, counts)))

    # -- helpers ---------------------------------------------------------------------------------------------------

    def _indices(self, x: Any, operation: str) -> Any:
        """Indices in the dtype that every function of the library takes."""
        array, _ = self._one(operation, x, "integer")
        return self._cast(array, self._backend.default_dtype("int64"))

    def _places(self, array: Any) -> Any:
        """Indices or counts that a function has returned, in the dtype of indices."""
        return self._cast(array, self._backend.default_dtype("int64"))


def axis_of(axis: int, array: Any) -> int:
    """The number of an axis from the front."""
    return axis + len(array.shape) if axis < 0 else axis
