"""The functions of a namespace that compute element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ..._arrays.dtypes import dtype_kind
from .operands import Operands

__all__ = ["Elementwise"]

_One: TypeAlias = Callable[["Elementwise", Any], Any]
_Two: TypeAlias = Callable[["Elementwise", Any, Any], Any]


def _of_one(name: str, floor: str, doc: str) -> _One:
    def function(self: Elementwise, x: Any, /) -> Any:
        return self._own(name)(self._one(name, x, floor)[0])

    _name(function, name, doc)
    return function


def _of_two(name: str, floor: str, doc: str) -> _Two:
    def function(self: Elementwise, x1: Any, x2: Any, /) -> Any:
        (left, right), _ = self._common(name, (x1, x2), floor)
        return self._own(name)(left, right)

    _name(function, name, doc)
    return function


def _name(function: Callable[..., Any], name: str, doc: str) -> None:
    function.__name__ = name
    function.__qualname__ = f"Namespace.{name}"
    function.__doc__ = doc


class Elementwise(Operands):
    """Elementwise functions. Bools count as integers where a number is needed, integers as floats where a float is."""

    __slots__ = ()

    acos = _of_one("acos", "float", "The inverse cosine of each element, in radians.")
    acosh = _of_one("acosh", "float", "The inverse hyperbolic cosine of each element.")
    asin = _of_one("asin", "float", "The inverse sine of each element, in radians.")
    asinh = _of_one("asinh", "float", "The inverse hyperbolic sine of each element.")
    atan = _of_one("atan", "float", "The inverse tangent of each element, in radians.")
    atanh = _of_one("atanh", "float", "The inverse hyperbolic tangent of each element.")
    cos = _of_one("cos", "float", "The cosine of each element, which is in radians.")
    cosh = _of_one("cosh", "float", "The hyperbolic cosine of each element.")
    exp = _of_one("exp", "float", "e to the power of each element.")
    expm1 = _of_one("expm1", "float", "exp(x) - 1 of each element, accurate near 0.")
    log = _of_one("log", "float", "The natural logarithm of each element.")
    log10 = _of_one("log10", "float", "The logarithm to base 10 of each element.")
    log1p = _of_one("log1p", "float", "log(1 + x) of each element, accurate near 0.")
    log2 = _of_one("log2", "float", "The logarithm to base 2 of each element.")
    reciprocal = _of_one("reciprocal", "float", "1 / x of each element.")
    sin = _of_one("sin", "float", "The sine of each element, which is in radians.")
    sinh = _of_one("sinh", "float", "The hyperbolic sine of each element.")
    sqrt = _of_one("sqrt", "float", "The square root of each element.")
    tan = _of_one("tan", "float", "The tangent of each element, which is in radians.")
    tanh = _of_one("tanh", "float", "The hyperbolic tangent of each element.")
    signbit = _of_one("signbit", "real float", "Whether the sign of each element is negative, also of -0.0.")
    negative = _of_one("negative", "number", "Each element with the other sign.")
    positive = _of_one("positive", "number", "Each element as it is.")
    square = _of_one("square", "number", "Each element times itself.")
    bitwise_invert = _of_one("bitwise_invert", "bits", "Each element with all bits inverted; of bools, not x.")
    isfinite = _of_one("isfinite", "", "Whether each element is neither infinite nor NaN.")
    isinf = _of_one("isinf", "", "Whether each element is infinite.")
    isnan = _of_one("isnan", "", "Whether each element is NaN.")

    add = _of_two("add", "number", "x1 + x2.")
    subtract = _of_two("subtract", "number", "x1 - x2.")
    multiply = _of_two("multiply", "number", "x1 * x2.")
    divide = _of_two("divide", "float", "x1 / x2; of integers a float.")
    pow = _of_two("pow", "number", "x1 ** x2.")
    floor_divide = _of_two("floor_divide", "real number", "x1 / x2, rounded down.")
    remainder = _of_two("remainder", "real number", "The remainder of `floor_divide`, with the sign of x2.")
    atan2 = _of_two("atan2", "real float", "The angle of the point (x2, x1), in radians.")
    copysign = _of_two("copysign", "real float", "The size of x1 with the sign of x2.")
    hypot = _of_two("hypot", "real float", "sqrt(x1**2 + x2**2).")
    logaddexp = _of_two("logaddexp", "real float", "log(exp(x1) + exp(x2)), without overflow.")
    nextafter = _of_two("nextafter", "real float", "The next floating-point number after x1 in the direction of x2.")
    equal = _of_two("equal", "", "Whether x1 == x2.")
    not_equal = _of_two("not_equal", "", "Whether x1 != x2.")
    less = _of_two("less", "order", "Whether x1 < x2.")
    less_equal = _of_two("less_equal", "order", "Whether x1 <= x2.")
    greater = _of_two("greater", "order", "Whether x1 > x2.")
    greater_equal = _of_two("greater_equal", "order", "Whether x1 >= x2.")
    bitwise_and = _of_two("bitwise_and", "bits", "x1 & x2.")
    bitwise_or = _of_two("bitwise_or", "bits", "x1 | x2.")
    bitwise_xor = _of_two("bitwise_xor", "bits", "x1 ^ x2.")
    bitwise_left_shift = _of_two("bitwise_left_shift", "integer", "x1 << x2.")
    bitwise_right_shift = _of_two("bitwise_right_shift", "integer", "x1 >> x2.")

    def abs(self, x: Any, /) -> Any:
        """The absolute value of each element."""
        array, name = self._one("abs", x, "number")
        return array if dtype_kind(name) == "uint" else self._own("abs")(array)

    def sign(self, x: Any, /) -> Any:
        """-1, 0 or 1 by the sign of each element; of complex numbers x / abs(x)."""
        array, name = self._one("sign", x, "number")
        return self._cast(self._truth(array), name) if dtype_kind(name) == "uint" else self._own("sign")(array)

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
