"""`Structure`: the pytree in which variables were passed, and pytrees of values of the same form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .._arrays.trees import like
from .._core.variable import Variable
from ..errors import describe
from .paths import contents_of, paths_in, variables_in

__all__ = ["Structure"]


class Structure:
    """The form in which variables were passed: alone, in a list, tuple or dict, in a pytree of these, or in an object.

    The variables in an object are keyed by path.

    >>> import statevar as sv
    >>> v, w = sv.Variable(1, name="v"), sv.Variable(2, name="w")
    >>> structure = Structure("functionalize", {"a": v, "b": [w, v]})
    >>> structure.variables == [v, w], structure.build(lambda variable: variable.name)
    (True, {'a': 'v', 'b': ['w', 'v']})
    """

    __slots__ = ("_operation", "_tree", "variables")

    def __init__(self, operation: str, tree: Any) -> None:
        self._operation = operation
        if not isinstance(tree, Variable | Iterator):
            contents_of(operation, tree)  # raises an error of the whole tree, with the path in it
        self._tree = _opened(operation, tree)
        found: dict[Variable, None] = {}
        self.build(found.setdefault)
        #: Each variable once.
        self.variables = list(found)

    def build(self, leaf: Callable[[Variable], Any]) -> Any:
        """Builds a pytree of this form, with ``leaf(variable)`` in place of each variable."""
        return _mapped(self._tree, leaf)

    def pairs(self, values: Any) -> list[tuple[Variable, Any]]:
        """Pairs each variable with its value in a pytree of values.

        Raises:
            ValueError: the values have another form than the variables.
        """
        found: dict[Variable, Any] = {}
        for variable, value in _zipped(self._operation, self._tree, values, "values"):
            found.setdefault(variable, value)
        return list(found.items())


def _opened(operation: str, tree: Any) -> Any:
    if isinstance(tree, Variable):
        return tree
    if isinstance(tree, Mapping):
        return {key: _opened(operation, each) for key, each in tree.items()}
    if isinstance(tree, list | tuple):
        return like(tree, [_opened(operation, each) for each in tree])
    if isinstance(tree, set | frozenset):
        return {variable: variable for variable in variables_in(operation, [tree])}
    return paths_in(operation, tree).variables


def _mapped(tree: Any, leaf: Callable[[Variable], Any]) -> Any:
    if isinstance(tree, Variable):
        return leaf(tree)
    if isinstance(tree, dict):
        return {key: _mapped(each, leaf) for key, each in tree.items()}
    return like(tree, [_mapped(each, leaf) for each in tree])


def _zipped(operation: str, tree: Any, values: Any, where: str) -> list[tuple[Variable, Any]]:
    if isinstance(tree, Variable):
        return [(tree, values)]
    if isinstance(tree, dict):
        if not isinstance(values, Mapping) or values.keys() != tree.keys():
            got = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(
                describe(operation, f"expected {where} to be a dict with the keys {sorted(map(str, tree))}, got {got}")
            )
        return [pair for key in tree for pair in _zipped(operation, tree[key], values[key], f"{where}[{key!r}]")]
    if not isinstance(values, list | tuple) or len(values) != len(tree):
        got = f"{len(values)}" if isinstance(values, list | tuple) else type(values).__name__
        raise ValueError(
            describe(operation, f"expected {where} to be {len(tree)} values in a list or tuple, got {got}")
        )
    return [
        pair
        for i, (each, value) in enumerate(zip(tree, values, strict=True))
        for pair in _zipped(operation, each, value, f"{where}[{i}]")
    ]
