"""Values on the command line: literals that are parsed, never evaluated; texts; files of NumPy."""

from __future__ import annotations

import ast
import cmath
import math
from pathlib import Path
from typing import Any

from .._core.flags import AGGREGATIONS
from ..checkpoint._checkpoint import open_checkpoint
from .exits import CommandError
from .reading import checked

__all__ = ["flag_of", "value_of"]

_NAMES = {"nan": math.nan, "inf": math.inf, "true": True, "false": False}
_ALLOWED = "a value is a number, nan, inf, true, false, a list of them, or @FILE.npy"


def value_of(text: str, dtype: str) -> Any:
    """The value that a text means for a variable of a dtype. Nothing in it is evaluated.

    Raises:
        CommandError: it is no value.

    >>> value_of("[1, -inf, 2e3]", "float32"), value_of("1+2j", "complex64"), value_of("false", "bool")
    ([1, -inf, 2000.0], (1+2j), False)
    >>> value_of("two words", "string"), value_of('["a", "b"]', "string")
    ('two words', ['a', 'b'])
    """
    text = text.strip()
    if text.startswith("@"):
        return _file(text[1:])
    if dtype == "string" and not text.startswith(("'", '"', "[")):
        return text
    try:
        value = _literal(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError, OverflowError):
        raise CommandError(f"{_cut(text)!r} is not a value", hint=_ALLOWED) from None
    if isinstance(value, str) and dtype != "string":
        raise CommandError(f"{_cut(text)!r} is a text, and the variable has the dtype {dtype}", hint=_ALLOWED)
    return value


def flag_of(name: str, text: str) -> bool | str:
    """The value of a flag of a variable.

    Raises:
        CommandError: the flag cannot be that.
    """
    text = text.strip().strip("'\"")
    if name == "aggregation":
        if text in AGGREGATIONS:
            return text
        raise CommandError(f"{name} is one of {', '.join(AGGREGATIONS)}, got {_cut(text)!r}")
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    raise CommandError(f"{name} is true or false, got {_cut(text)!r}")


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | complex | str):
        if isinstance(node.value, float | complex) and not cmath.isfinite(node.value):
            raise ValueError  # 1e999, which Python reads as infinity; whoever wants that writes inf
        return node.value
    if isinstance(node, ast.Name):
        name = node.id.lower()
        if name in _NAMES:
            return _NAMES[name]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        number = _number(node.operand)
        return number if isinstance(node.op, ast.UAdd) else -number
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):  # a complex number
        real, imaginary = _number(node.left), _number(node.right)
        if isinstance(imaginary, complex) and not isinstance(real, complex):
            return complex(real, imaginary.imag if isinstance(node.op, ast.Add) else -imaginary.imag)
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(each) for each in node.elts]
    raise TypeError


def _number(node: ast.expr) -> Any:
    value = _literal(node)
    if type(value) not in (int, float, complex):
        raise TypeError
    return value


def _file(path: str) -> Any:
    with open_checkpoint(Path(path)) as found:
        names = [*found]
        if len(names) != 1:
            raise CommandError(f"{path} has {len(names)} arrays, and @ takes a file of one", hint="numpy.save(path, x)")
        return checked(found, names[0])


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
