"""Pytrees of arrays, as the arguments of control flow are: tuples, lists, dicts and None."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from copy import copy
from types import FunctionType
from typing import Any

__all__ = ["leaves", "like", "tree_map"]


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Applies ``fn`` to each leaf of a pytree and the leaves at the same place in the others; None is no leaf.

    >>> tree_map(lambda a, b: a + b, {"x": (1, [2]), "y": None}, {"x": (10, [20]), "y": None})
    {'x': (11, [22]), 'y': None}
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        return like(tree, [tree_map(fn, each, *(other[key] for other in others)) for key, each in tree.items()])
    if isinstance(tree, list | tuple):
        return like(tree, [tree_map(fn, *each) for each in zip(tree, *others, strict=True)])
    return fn(tree, *others)


def like(container: Any, parts: Collection[Any]) -> Any:
    """Returns a tuple, list or dict of the same class and with the same attributes, but with other elements or values.

    A subclass may take other arguments than its elements: a defaultdict takes a function, a Counter counts.

    >>> from collections import defaultdict
    >>> like({"x": 1, "y": 2}, [10, 20]), like(defaultdict(list, x=1), [10])
    ({'x': 10, 'y': 20}, defaultdict(<class 'list'>, {'x': 10}))
    """
    cls: Any = type(container)
    new: Any
    if cls is list or cls is tuple:
        return cls(parts)
    if cls is dict:
        return dict(zip(container, parts, strict=True))
    if isinstance(container, dict):
        new = copy(container)
        dict.update(new, zip(container, parts, strict=True))  # the `update` of a Counter adds
        return new
    if isinstance(container, list):
        new = copy(container)
        new[:] = parts
        return new
    if hasattr(cls, "_make"):  # a namedtuple
        return cls._make(parts)
    if not isinstance(cls.__new__, FunctionType):
        return cls(parts)
    new = tuple.__new__(cls, parts)
    vars(new).update(getattr(container, "__dict__", {}))
    return new


def leaves(tree: Any) -> Iterator[Any]:
    """Iterates over the leaves of a pytree, from left to right."""
    if isinstance(tree, dict):
        for each in tree.values():
            yield from leaves(each)
    elif isinstance(tree, list | tuple):
        for each in tree:
            yield from leaves(each)
    elif tree is not None:
        yield tree
