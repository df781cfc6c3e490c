"""Pytrees of arrays, as the arguments of control flow are: tuples, lists, dicts and None."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["leaves", "tree_map"]


def tree_map(fn: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Applies ``fn`` to each leaf of a pytree and the leaves at the same place in the others; None is no leaf.

    >>> tree_map(lambda a, b: a + b, {"x": (1, [2]), "y": None}, {"x": (10, [20]), "y": None})
    {'x': (11, [22]), 'y': None}
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        return type(tree)((key, tree_map(fn, each, *(other[key] for other in others))) for key, each in tree.items())
    if isinstance(tree, list | tuple):
        parts = [tree_map(fn, *each) for each in zip(tree, *others, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return fn(tree, *others)


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
