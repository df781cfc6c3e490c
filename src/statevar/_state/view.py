"""`view`: the variables over state that other libraries keep, or that plain arrays are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._core.shown import Shown
from .._core.variable import Variable
from .._public import public
from ..errors import describe
from .left_out import article
from .paths import paths_in
from .summarized import Summarized
from .walk import Opener, Plain, Tree

__all__ = ["View", "as_variable", "view"]


@public()
class View(Tree, Mapping[str, Variable], Summarized):
    """The variables over a tree of somebody's state, by path. `view` makes it.

    It is a mapping from path to variable, and usable wherever variables are: in `snapshot`, `save` and so
    on. The tree is searched at each use, so what was added to it since is found.

    >>> import numpy as np
    >>> import statevar as sv
    >>> tree = sv.view({"mean": np.zeros(2), "count": 0})
    >>> list(tree), len(tree)
    (['mean', 'count'], 2)
    >>> tree["mean"].assign_add(1.0).value
    array([1., 1.])
    >>> {path: v.shape for path, v in tree.items()}
    {'mean': (2,), 'count': ()}
    """

    __slots__ = ()

    _is_mapping = True

    def __getitem__(self, path: str) -> Variable:
        paths = paths_in("view", self)
        found = paths.find(path)
        if found is None:
            raise KeyError(path)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(paths_in("view", self).variables)

    def __len__(self) -> int:
        return len(paths_in("view", self).variables)

    def __eq__(self, other: object) -> bool:
        return self is other  # equality of mappings would compare the values

    __hash__ = object.__hash__

    _repr_pretty_ = Shown._repr_pretty_  # IPython looks no further than the class with `__repr__`

    def __repr__(self) -> str:
        return f"<View of {article(type(self._plain.each))}>"

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        return iter(self.items()) if len(self) <= _PARTS else self._summary().parts()


_PARTS = 100  # variables that a printer of nested objects gets one by one


@public()
def view(x: Any) -> Any:
    """A variable over a leaf of somebody else's state, or a container of the variables over a tree of it.

    Nothing is copied: what is written to the variable is written to the thing, and what its owner writes is read. The
    same thing has the same variable for as long as somebody holds that.

    State that a library declares, such as the parameters of a ``torch.nn.Module`` or an optimizer, needs no `view` in
    functions that take variables: `save`, `transaction`, `set_value` and the others find it. Plain arrays in dicts,
    lists and attributes are taken only by `view`.

    Args:
        x: a leaf, such as a ``torch.nn.Parameter``, a NumPy array, a generator or a `statevar.interop.Slot`; or a dict,
            list, dataclass or object that contains such. A variable is returned as it is.

    Returns:
        A `Variable`, or a `View` of a tree.

    Raises:
        ForeignStateError: something in it is state that cannot be taken.
        TypeError: there is no state in it.

    >>> import numpy as np
    >>> import statevar as sv
    >>> array = np.zeros(2)
    >>> v = sv.view(array)
    >>> v.assign_add(5.0) is sv.view(array)
    True
    >>> array
    array([5., 5.])
    """
    found = x if isinstance(x, Variable) else _leaf("view", x, plain=True)
    if found is not None:
        return found
    tree = View(x)
    paths_in("view", tree)  # raises what it would raise later
    return tree


def as_variable(operation: str, x: Any) -> Variable | None:
    """The variable over a leaf that a library declares to be state; None if the object is no such leaf.

    Raises:
        ForeignStateError: it is one that cannot be taken.
    """
    return _leaf(operation, x, plain=False)


def _leaf(operation: str, x: Any, *, plain: bool) -> Variable | None:
    opener = Opener()
    found = opener(Plain(x) if plain else x)
    if isinstance(found, Variable):
        return found
    if opener.refused and opener.refused[0][0] is x:
        raise opener.refused[0][1]._at(operation, "")
    if plain and found is None:
        name = f"{type(x).__module__}.{type(x).__qualname__}" if type(x).__module__ != "builtins" else type(x).__name__
        problem = f"the {name} has no state that can be viewed"
        raise TypeError(describe("view", problem, hint="pass an array, a model, or a container of those"))
    return None
