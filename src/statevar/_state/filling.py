"""Trees whose arrays are replaced in a copy: modules of equinox, states of optax, named tuples, frozen dataclasses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from functools import partial
from typing import Any

from .._arrays.registry import owner_of
from .._core.variable import Variable
from ..errors import ForeignStateError, NameScopeError, describe
from .foreign.items import Item
from .foreign.plain import Plain
from .walk import Attribute, Opener, kind_of, segment

__all__ = ["Filling"]


class Filling:
    """The arrays in a tree, by path, and copies of the tree with other arrays.

    Args:
        operation: whom errors name.
        tree: any tree that `view` takes, of arrays and numbers only: what changes by itself needs no copy.

    Attributes:
        leaves: the arrays and numbers in nested dicts, by the keys of the tree.

    Raises:
        ForeignStateError: something in the tree cannot be taken, or is state that changes by itself.
        NameScopeError: two leaves have one path.
        TypeError: there is no array in the tree.

    >>> filling = Filling("filled", ({"w": 1.0}, 2))
    >>> filling.leaves
    {'0': {'w': 1.0}, '1': 2}
    >>> filling.with_values(lambda path, old: old + 1 if path == "0/w" else old)
    ({'w': 2.0}, 2)
    """

    def __init__(self, operation: str, tree: Any) -> None:
        self._operation = operation
        self._tree = tree
        self.leaves: dict[str, Any] = {}
        self.with_values(self._add)
        if not self.leaves:
            what = type(tree).__name__
            hint = "pass a tree of arrays, such as a state of optax"
            raise TypeError(describe(operation, f"found no array in {what}", hint=hint))

    def _add(self, path: str, leaf: Any) -> Any:
        inner = self.leaves
        *outer, last = [each.replace("~1", "/").replace("~0", "~") for each in path.split("/")]
        for key in outer:
            inner = inner.setdefault(key, {})
        if last in inner:
            hint = "rename the attribute or the key"
            raise NameScopeError.of(self._operation, "two leaves of the tree have this path", path, hint)
        inner[last] = leaf
        return leaf

    def with_values(self, value: Callable[[str, Any], Any]) -> Any:
        """A copy of the tree with ``value(path, old)`` in place of each array and number."""
        opener = Opener()
        new = self._rebuilt(opener, opener.plain(self._tree), "", value, set())
        for _, error in opener.refused:
            raise error._at(self._operation, "")
        return new

    def _rebuilt(
        self, opener: Opener, plain: Any, path: str, value: Callable[[str, Any], Any], within: set[int]
    ) -> Any:
        if isinstance(plain, Variable):
            raise self._changes_itself(plain, path)
        each = plain.each if isinstance(plain, Plain) else plain
        if id(each) in within:
            problem = f"the {type(each).__qualname__} contains itself"
            raise ForeignStateError.of(self._operation, problem, path, "pass a tree")
        children = opener(plain)
        for refused, error in opener.refused:
            if refused is each:
                raise error._at(self._operation, path)
        if children is None:
            return each
        if isinstance(children, Variable):
            declared = any(adapter.open(each) is not None for adapter in kind_of(type(each)).adapters)
            if declared or owner_of(each) is None:
                raise self._changes_itself(each, path)
            return value(path, each)
        changes = {}
        within.add(id(each))
        for key, child in _items(children):
            where = f"{path}/{segment(key)}" if path else segment(key)
            inner = child.each if isinstance(child, Plain) else child
            if isinstance(inner, Item):
                changes[key] = value(where, inner.present())
            elif (new := self._rebuilt(opener, child, where, value, within)) is not inner:
                changes[key] = new
        within.discard(id(each))
        return _with(each, changes) if changes else each

    def _changes_itself(self, each: Any, path: str) -> ForeignStateError:
        problem = f"the {type(each).__qualname__} is state that can be written, and a copy of it would be another one"
        hint = "write into it: sv.load(tree, source)"
        return ForeignStateError.of(self._operation, problem, path, hint)


def _items(children: list[Any] | dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    return iter(children.items() if isinstance(children, dict) else enumerate(children))


def _with(each: Any, changes: dict[Any, Any]) -> Any:
    """A copy of a container or an object with other items or attributes, whether or not it can change."""
    items = {key: new for key, new in changes.items() if not isinstance(key, Attribute)}
    named = {key.name: new for key, new in changes.items() if isinstance(key, Attribute)}
    if isinstance(each, partial):
        parts = {"func": each.func, "args": each.args, "keywords": each.keywords} | changes
        return type(each)(parts["func"], *parts["args"], **parts["keywords"])
    if isinstance(each, tuple):
        if hasattr(type(each), "_fields"):
            fields: Any = each
            return fields._replace(**items)
        return type(each)([items.get(number, old) for number, old in enumerate(each)])
    if isinstance(each, Mapping) and not isinstance(each, dict):
        kind: Any = type(each)
        return kind({**each, **items})
    new = copy(each)
    if isinstance(each, dict | list | deque):
        for key, value in items.items():
            new[key] = value
    else:
        named |= items
    for name, value in named.items():
        object.__setattr__(new, name, value)
    return new
