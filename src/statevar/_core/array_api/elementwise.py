"""The functions of a namespace that compute element by element."""

from __future__ import annotations

from typing import Any

from ..._arrays.dtypes import dtype_kind
from .operands import Operands

__all__ = ["Elementwise"]


class Elementwise(Operands):
    """Elementwise functions. Bools count as integers where a number is needed, integers as floats where a float is."""

    def acos(self, x: Any, /) -> Any:
        """The inverse cosine of each element, in radians."""
        return self._of_one("acos", x, "float")

    def acosh(self, x: Any, /) -> Any:
        """The inverse hyperbolic cosine of each element."""
        return self._of_one("acosh", x, "float")

    def asin(self, x: Any, /) -> Any:
        """The inverse sine of each element, in radians."""
        return self._of_one("asin", x, "float")

    def asinh(self, x: Any, /) -> Any:
        """The inverse hyperbolic sine of each element."""
        return self._of_one("asinh", x, "float")

    def atan(self, x: Any, /) -> Any:
        """The inverse tangent of each element, in radians."""
        return self._of_one("atan", x, "float")

    def atanh(self, x: Any, /) -> Any:
        """The inverse hyperbolic tangent of each element."""
        return self._of_one("atanh", x, "float")

    def cos(self, x: Any, /) -> Any:
        """The cosine of each element, which is in radians."""
        return self._of_one("cos", x, "float")

    def cosh(self, x: Any, /) -> Any:
        """The hyperbolic cosine of each element."""
        return self._of_one("cosh", x, "float")

    def exp(self, x: Any, /) -> Any:
        """E to the power of each element."""
        return self._of_one("exp", x, "float")

    def expm1(self, x: Any, /) -> Any:
        """exp(x) - 1 of each element, accurate near 0."""
        return self._of_one("expm1", x, "float")

    def log(self, x: Any, /) -> Any:
        """The natural logarithm of each element."""
        return self._of_one("log", x, "float")

    def log10(self, x: Any, /) -> Any:
        """The logarithm to base 10 of each element."""
        return self._of_one("log10", x, "float")

    def log1p(self, x: Any, /) -> Any:
        """log(1 + x) of each element, accurate near 0."""
        return self._of_one("log1p", x, "float")

    def log2(self, x: Any, /) -> Any:
        """The logarithm to base 2 of each element."""
        return self._of_one("log2", x, "float")

    def reciprocal(self, x: Any, /) -> Any:
        """1 / x of each element."""
        return self._of_one("reciprocal", x, "float")

    def sin(self, x: Any, /) -> Any:
        """The sine of each element, which is in radians."""
        return self._of_one("sin", x, "float")

    def sinh(self, x: Any, /) -> Any:
        """The hyperbolic sine of each element."""
        return self._of_one("sinh", x, "float")

    def sqrt(self, x: Any, /) -> Any:
        """The square root of each element."""
        return self._of_one("sqrt", x, "float")

    def tan(self, x: Any, /) -> Any:
        """The tangent of each element, which is in radians."""
        return self._of_one("tan", x, "float")

    def tanh(self, x: Any, /) -> Any:
        """The hyperbolic tangent of each element."""
        return self._of_one("tanh", x, "float")

    def signbit(self, x: Any, /) -> Any:
        """Whether the sign of each element is negative, also of -0.0."""
        return self._of_one("signbit", x, "real float")

    def negative(self, x: Any, /) -> Any:
        """Each element with the other sign."""
        return self._of_one("negative", x, "number")

    def positive(self, x: Any, /) -> Any:
        """Each element as it is."""
        return self._of_one("positive", x, "number")

    def square(self, x: Any, /) -> Any:
        """Each element times itself."""
        return self._of_one("square", x, "number")

    def bitwise_invert(self, x: Any, /) -> Any:
        """Each element with all bits inverted; of bools, not x."""
        return self._of_one("bitwise_invert", x, "bits")

    def isfinite(self, x: Any, /) -> Any:
        """Whether each element is neither infinite nor NaN."""
        return self._of_one("isfinite", x, "")

    def isinf(self, x: Any, /) -> Any:
        """Whether each element is infinite."""
        return self._of_one("isinf", x, "")

    def isnan(self, x: Any, /) -> Any:
        """Whether each element is NaN."""
        return self._of_one("isnan", x, "")

    def add(self, x1: Any, x2: Any, /) -> Any:
        """x1 + x2."""
        return self._of_two("add", x1, x2, "number")

    def subtract(self, x1: Any, x2: Any, /) -> Any:
        """x1 - x2."""
        return self._of_two("subtract", x1, x2, "number")

    def multiply(self, x1: Any, x2: Any, /) -> Any:
        """x1 * x2."""
        return self._of_two("multiply", x1, x2, "number")

    def divide(self, x1: Any, x2: Any, /) -> Any:
        """x1 / x2; of integers a float."""
        return self._of_two("divide", x1, x2, "float")

    def pow(self, x1: Any, x2: Any, /) -> Any:
        """x1 ** x2."""
        return self._of_two("pow", x1, x2, "number")

    def floor_divide(self, x1: Any, x2: Any, /) -> Any:
        """x1 / x2, rounded down."""
        return self._of_two("floor_divide", x1, x2, "real number")

    def remainder(self, x1: Any, x2: Any, /) -> Any:
        """The remainder of `floor_divide`, with the sign of x2."""
        return self._of_two("remainder", x1, x2, "real number")

    def atan2(self, x1: Any, x2: Any, /) -> Any:
        """The angle of the point (x2, x1), in radians."""
        return self._of_two("atan2", x1, x2, "real float")

    def copysign(self, x1: Any, x2: Any, /) -> Any:
        """The size of x1 with the sign of x2."""
        return self._of_two("copysign", x1, x2, "real float")

    def hypot(self, x1: Any, x2: Any, /) -> Any:
        """sqrt(x1**2 + x2**2)."""
        return self._of_two("hypot", x1, x2, "real float")

    def logaddexp(self, x1: Any, x2: Any, /) -> Any:
        """log(exp(x1) + exp(x2)), without overflow."""
        return self._of_two("logaddexp", x1, x2, "real float")

    def nextafter(self, x1: Any, x2: Any, /) -> Any:
        """The next floating-point number after x1 in the direction of x2."""
        return self._of_two("nextafter", x1, x2, "real float")

    def equal(self, x1: Any, x2: Any, /) -> Any:
        """Whether x1 == x2."""
        return self._of_two("equal", x1, x2, "")

    def not_equal(self, x1: Any, x2: Any, /) -> Any:
        """Whether x1 != x2."""
        return self._of_two("not_equal", x1, x2, "")

    def less(self, x1: Any, x2: Any, /) -> Any:
        """Whether x1 < x2."""
        return self._of_two("less", x1, x2, "order")

    def less_equal(self, x1: Any, x2: Any, /) -> Any:
        """Whether x1 <= x2."""
        return self._of_two("less_equal", x1, x2, "order")

    def greater(self, x1: Any, x2: Any, /) -> Any:
        """Whether x1 > x2."""
        return self._of_two("greater", x1, x2, "order")

    def greater_equal(self, x1: Any, x2: Any, /) -> Any:
        """Whether x1 >= x2."""
        return self._of_two("greater_equal", x1, x2, "order")

    def bitwise_and(self, x1: Any, x2: Any, /) -> Any:
        """x1 & x2."""
        return self._of_two("bitwise_and", x1, x2, "bits")

    def bitwise_or(self, x1: Any, x2: Any, /) -> Any:
        """x1 | x2."""
        return self._of_two("bitwise_or", x1, x2, "bits")

    def bitwise_xor(self, x1: Any, x2: Any, /) -> Any:
        """x1 ^ x2."""
        return self._of_two("bitwise_xor", x1, x2, "bits")

    def bitwise_left_shift(self, x1: Any, x2: Any, /) -> Any:
        """x1 << x2."""
        return self._of_two("bitwise_left_shift", x1, x2, "integer")

    def bitwise_right_shift(self, x1: Any, x2: Any, /) -> Any:
        """x1 >> x2."""
        return self._of_two("bitwise_right_shift", x1, x2, "integer")

    def abs(self, x: Any, /) -> Any:
        """The absolute value of each element."""
        array, name = self._one("abs", x, "number")
        return array if dtype_kind(name) == "uint" else self._own("abs")(array)

    def sign(self, x: Any, /) -> Any:
        """-1, 0 or 1 by the sign of each element; of complex numbers x / abs(x)."""
        array, name = self._one("sign", x, "number")
        return self._cast(self._truth(array), name) if dtype_kind(name) == "uint" else self._own("sign")(array)

    def _of_one(self, operation: str, x: Any, floor: str) -> Any:
        return self._own(operation)(self._one(operation, x, floor)[0])

    def _of_two(self, operation: str, x1: Any, x2: Any, floor: str) -> Any:
        (left, right), _ = self._common(operation, (x1, x2), floor)
        return self._own(operation)(left, right)

    # -- what integers are already ---------------------------------------------------------------------------

    def ceil(self, x: Any, /) -> Any:
        """Each element rounded up."""
        return self._rounded("ceil", x)

    def floor(self, x: Any, /) -> Any:
        """Each element rounded down."""
        return self._rounded("floor", x)

    def trunc(self, x: Any, /) -> Any:
        """Each element rounded towards 0."""
        return self._rounded("trunc", x)

    def round(self, x: Any, /) -> Any:
        """Each element rounded to an integer, halves to the even one."""
        array, name = self._one("round", x, "number")
        return self._own("round")(array) if dtype_kind(name) in ("float", "complex") else array

    def _rounded(self, operation: str, x: Any) -> Any:
        array, name = self._one(operation, x, "real number")
        return self._own(operation)(array) if dtype_kind(name) == "float" else array

    def conj(self, x: Any, /) -> Any:
        """The complex conjugate of each element, which is the element itself if it is not complex."""
        array, name = self._one("conj", x, "number")
        return self._own("conj")(array) if dtype_kind(name) == "complex" else array

    def real(self, x: Any, /) -> Any:
        """The real part of each element, which is the element itself if it is not complex."""
        array, name = self._one("real", x, "number")
        return self._own("real")(array) if dtype_kind(name) == "complex" else array

    def imag(self, x: Any, /) -> Any:
        """The imaginary part of each element, which is 0 if it is not complex."""
        array, name = self._one("imag", x, "number")
        return self._own("imag")(array) if dtype_kind(name) == "complex" else self._own("zeros_like")(array)

    # -- truth -------------------------------------------------------------------------------------------------

    def logical_and(self, x1: Any, x2: Any, /) -> Any:
        """Whether both elements are not 0."""
        return self._own("logical_and")(*self._truths("logical_and", x1, x2))

    def logical_or(self, x1: Any, x2: Any, /) -> Any:
        """Whether one of the elements is not 0."""
        return self._own("logical_or")(*self._truths("logical_or", x1, x2))

    def logical_xor(self, x1: Any, x2: Any, /) -> Any:
        """Whether exactly one of the elements is not 0."""
        return self._own("logical_xor")(*self._truths("logical_xor", x1, x2))

    def logical_not(self, x: Any, /) -> Any:
        """Whether each element is 0."""
        return self._own("logical_not")(*self._truths("logical_not", x))

    def _truths(self, operation: str, *xs: Any) -> list[Any]:
        return [self._truth(each) for each in self._common(operation, xs)[0]]

    def _truth(self, array: Any) -> Any:
        """Whether each element is not 0."""
        backend = self._backend
        if (name := backend.dtype_name(array)) == "bool":
            return array
        return self._own("not_equal")(array, self._number(0, name, array, "not_equal"))

    # -- order ---------------------------------------------------------------------------------------------------

    def maximum(self, x1: Any, x2: Any, /) -> Any:
        """The larger one of two elements; NaN if one of them is NaN."""
        return self._extreme("maximum", x1, x2)

    def minimum(self, x1: Any, x2: Any, /) -> Any:
        """The smaller one of two elements; NaN if one of them is NaN."""
        return self._extreme("minimum", x1, x2)

    def _extreme(self, operation: str, x1: Any, x2: Any) -> Any:
        (left, right), was = self._ordered(operation, x1, x2)
        return self._cast(self._own(operation)(left, right), was)

    def _ordered(self, operation: str, *xs: Any) -> tuple[list[Any], str]:
        """Arrays that can be compared, of one dtype, and the dtype of the result, which is bool if they all were."""
        arrays, computed = self._common(operation, xs, "order")
        if computed != "uint8":
            return arrays, computed
        _, was = self._common(operation, xs)
        return arrays, was

    def clip(self, x: Any, /, min: Any = None, max: Any = None) -> Any:  # noqa: A002  # the standard's names
        """Each element, but at least ``min`` and at most ``max``; None is no limit.

        The dtype is that of ``xp.minimum(xp.maximum(x, min), max)``.
        """
        limits = [each for each in (min, max) if each is not None]
        (array, *bounds), was = self._ordered("clip", x, *limits)
        remaining = iter(bounds)
        if min is not None:
            array = self._own("maximum")(array, next(remaining))
        if max is not None:
            array = self._own("minimum")(array, next(remaining))
        return self._cast(array, was)
