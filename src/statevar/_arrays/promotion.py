"""The dtype in which arrays and Python numbers meet, by one rule for every library.

The rule is the table of the array API standard, and where that says nothing, the rule of JAX: the highest of the kinds
bool, integer, float and complex wins, with no more bits than an operand of it has. A Python number takes part with its
kind only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..errors import DTypeError
from .dtypes import DEFAULTS, dtype_kind

__all__ = ["promoted"]

_RANK: Final = {"bool": 0, "int": 1, "uint": 1, "float": 2, "complex": 3}


def promoted(operation: str, dtypes: Iterable[str], numbers: Iterable[type] = ()) -> str:
    """The dtype of the result of an operation.

    Args:
        operation: what an error names.
        dtypes: the dtypes of the arrays.
        numbers: the types of the Python numbers: bool, int, float or complex.

    Raises:
        DTypeError: no dtype holds the values of both, or one of them is no dtype of numbers.

    >>> promoted("add", ["int8", "uint8"]), promoted("add", ["int64", "float16"]), promoted("add", ["int8"], [float])
    ('int16', 'float16', 'float32')
    """
    names = sorted(set(dtypes))
    if len(names) > 1 or (names and numbers):
        for each in names:
            if dtype_kind(each) not in _RANK:
                raise DTypeError.of(operation, f"cannot combine {each} with {_others(each, names, numbers)}")
    kinds = sorted(set(numbers), key=lambda each: _RANK[dtype_kind(DEFAULTS[each])])
    if not names:
        return DEFAULTS[kinds[-1]]
    result = names[0] if len(names) == 1 else _of_several(operation, names)
    if kinds and _RANK[dtype_kind(DEFAULTS[kinds[-1]])] > _RANK[dtype_kind(result)]:
        result = _of_several(operation, [result, DEFAULTS[kinds[-1]]])
    return result


def _others(name: str, names: list[str], numbers: Iterable[type]) -> str:
    return ", ".join([*(each for each in names if each != name), *(each.__name__ for each in numbers)])


def _of_several(operation: str, names: list[str]) -> str:
    highest = max(_RANK[dtype_kind(each)] for each in names)
    result = ""
    for each in names:
        if _RANK[dtype_kind(each)] == highest:
            result = _of_one_kind(operation, result, each) if result else each
    # The one dtype of a lower kind that counts: a complex number has two floats, each of as many bits.
    return "complex128" if result == "complex64" and "float64" in names else result


def _of_one_kind(operation: str, left: str, right: str) -> str:
    if left == right:
        return left
    low, high = sorted((left, right), key=_bits)
    if dtype_kind(left) == dtype_kind(right):
        return high if _bits(low) != _bits(high) else "float32"  # float16 and bfloat16
    if _bits(low) != _bits(high) and dtype_kind(high) == "int":
        return high
    unsigned = left if dtype_kind(left) == "uint" else right
    if _bits(unsigned) == 64:
        hint = "cast one of them: xp.astype(x, xp.int64)"
        raise DTypeError.of(operation, f"no integer dtype holds the values of both {left} and {right}", "", hint)
    return f"int{2 * _bits(unsigned)}"


def _bits(name: str) -> int:
    """The number in the name of a dtype, such as 16 of bfloat16 and 8 of float8_e5m2."""
    return int("".join(filter(str.isdigit, name.partition("_")[0])))
