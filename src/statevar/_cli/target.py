"""``encoder/kernel[0, 1:3]`` on the command line: the name of a variable and an index, which is parsed, never run."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._arrays.types import HostArray
from .exits import CommandError

__all__ = ["Target", "items", "key_of", "target"]

_ALLOWED = "an index may have integers, slices, ..., None, and lists of integers or booleans"


class Target(NamedTuple):
    """A variable, or a part of one.

    Attributes:
        name: the name of the variable.
        key: the index, for NumPy; ``...`` for the whole value.
        text: the index as it was written, without its brackets; "" if there is none.
    """

    name: str
    key: Any
    text: str


def target(text: str, known: Callable[[str], bool]) -> Target | None:
    """Splits a text into a name and an index. Names may have brackets: the longest name that is known is meant.

    Args:
        text: what the user wrote.
        known: whether there is a variable with a name.

    Returns:
        The target; None if no name is known that the text begins with.

    Raises:
        CommandError: the index is not valid.

    >>> target("layers[0]/w[1:, ..., -1]", {"layers[0]/w"}.__contains__)
    Target(name='layers[0]/w', key=(slice(1, None, None), Ellipsis, -1), text='1:, ..., -1')
    >>> target("layers[0]", {"layers", "layers[0]"}.__contains__)
    Target(name='layers[0]', key=Ellipsis, text='')
    """
    if known(text):
        return Target(text, ..., "")
    if not text.endswith("]"):
        return None
    for at in range(len(text) - 1, -1, -1):
        if text[at] != "[":
            continue
        for name in (text[:at], text[:at].rstrip()):
            if known(name):
                inside = text[at + 1 : -1]
                return Target(name, key_of(inside), inside)
    return None


def key_of(text: str) -> Any:
    """The index that a text means, as NumPy takes it. Nothing in it is evaluated.

    Raises:
        CommandError: it is no index.

    >>> key_of("0, ::-1, [1, 2]")
    (0, slice(None, None, -1), [1, 2])
    """
    try:
        parts = _inside(ast.parse(f"x[{text}]", mode="eval").body)
        return tuple(map(_part, parts.elts)) if isinstance(parts, ast.Tuple) else _part(parts)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        raise CommandError(f"{text!r} is not an index", hint=_ALLOWED) from None


def _inside(node: ast.expr) -> ast.expr:
    if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
        raise TypeError  # the text has brackets of its own: 0][1
    return node.slice


def _part(node: ast.expr) -> Any:
    if isinstance(node, ast.Slice):
        return slice(*(None if each is None else _integer(each) for each in (node.lower, node.upper, node.step)))
    if isinstance(node, ast.Constant) and (node.value is ... or node.value is None):
        return node.value
    if isinstance(node, ast.List):
        return _list(node)
    return _integer(node)


def _list(node: ast.List) -> list[Any]:
    if all(isinstance(each, ast.Constant) and isinstance(each.value, bool) for each in node.elts):
        return [each.value for each in node.elts if isinstance(each, ast.Constant)]
    return [_list(each) if isinstance(each, ast.List) else _integer(each) for each in node.elts]


def _integer(node: ast.expr) -> int:
    value = ast.literal_eval(node)  # of literals only; -1 is one too
    if type(value) is not int:
        raise TypeError
    return value


def items(array: HostArray, wanted: Target) -> HostArray:
    """The part of an array that a target means.

    Raises:
        CommandError: the index does not fit the shape.
    """
    try:
        return np.asarray(array[wanted.key], array.dtype)  # one text of an array is a str
    except (IndexError, ValueError, TypeError, OverflowError) as error:
        problem = f"the index [{wanted.text}] does not fit {wanted.name!r}, which has the shape {array.shape}: {error}"
        raise CommandError(problem) from None
