"""The names of the variables in a checkpoint of TensorFlow, as users know them.

`tf.train.Checkpoint` stores a variable under a key such as ``net/dense/kernel/.ATTRIBUTES/VARIABLE_VALUE``, and the
graph of all objects beside it. The names are the paths in the keys: ``net/dense/kernel``. The graph adds the further
paths of shared objects, and the names of variables where they are unique, such as ``dense_7/kernel``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

from ...._state.paths import followed
from ...._state.walk import segment
from ..reader import DEEPEST, LONGEST_HEADER
from ..safetensors.header import refuse
from .wire import Message

__all__ = ["GRAPH", "further_names", "name_of", "names_of"]

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  #: the key of the graph of the objects
_ATTRIBUTE = ".ATTRIBUTES/"
_VALUE = "VARIABLE_VALUE"
_MOST_OBJECTS = 200_000  # parsing them takes a second
_SLOT = "/.OPTIMIZER_SLOT/"


def names_of(keys: Iterable[str]) -> dict[str, str]:
    """Returns the keys by name. Where two keys have the same name, both keep their key as their name."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(name_of(key), []).append(key)
    return {name if len(same) == 1 or key == name else key: key for name, same in found.items() for key in same}


def name_of(key: str) -> str:
    """Returns the name of a variable.

    >>> name_of("net/dense/kernel/.ATTRIBUTES/VARIABLE_VALUE"), name_of("scope/weights")
    ('net/dense/kernel', 'scope/weights')
    >>> name_of("net/w/.OPTIMIZER_SLOT/adam/m/.ATTRIBUTES/VARIABLE_VALUE")  # the slot m of adam for net/w
    'adam/net/w/m'
    >>> name_of("net/x.Sy..z/.ATTRIBUTES/VARIABLE_VALUE")  # of the attribute "x/y.z"
    'net/x~1y.z'
    """
    place, mark, attribute = key.rpartition(_ATTRIBUTE)
    if not mark or (place and not place.endswith("/")):
        return key  # of TensorFlow 1
    place = place.rstrip("/")
    variable, is_slot, slot = place.partition(_SLOT)
    if is_slot:
        optimizer, _, slot = slot.rpartition("/")
        place = "/".join(filter(None, (optimizer, variable, slot)))
    segments = [_unescaped(each) for each in place.split("/")] if place else []
    return "/".join(segments if attribute == _VALUE and segments else [*segments, attribute])


def _unescaped(each: str) -> str:
    """A segment of a key as a segment of our paths. In a key ``.S`` stands for a slash, and ``..`` for a dot."""
    return segment(".".join(part.replace(".S", "/") for part in each.split("..")))


def further_names(
    graph: bytes, names: Mapping[str, str], same: Callable[[str], Hashable], where: Any
) -> dict[str, str]:
    """Returns further names of the variables and of their containers, each mapped to the first one.

    Args:
        graph: the graph of the objects, as it is stored.
        names: the keys by name.
        same: returns what is equal only for keys with equal tensors.
        where: the file to name in errors.

    Raises:
        CheckpointError: the graph is damaged.
    """
    objects = _Objects(graph, where)
    name_by_key = {key: name for name, key in names.items()}
    aliases = objects.aliases(name_by_key)
    for full, keys in objects.keys_by_full_name.items():
        known = [key for key in keys if key in name_by_key]
        # Many variables are named "Variable", or "kernel": such a name says nothing.
        if not 0 < full.count("/") <= DEEPEST or not known or len({same(key) for key in known}) > 1:
            continue
        if followed(full, aliases) == full:
            aliases[full] = name_by_key[known[0]]
    # A damaged graph may give the path of a variable, or of its container, to another one.
    ordered = sorted(names)

    def is_free(alias: str) -> bool:
        at = bisect_left(ordered, f"{alias}/")
        return alias not in names and not (at < len(ordered) and ordered[at].startswith(f"{alias}/"))

    return {alias: name for alias, name in aliases.items() if alias and is_free(alias)}


class _Objects:
    """The graph of the objects: what each refers to by which name, and which keys its variables have."""

    def __init__(self, graph: bytes, where: Any) -> None:
        self._where = where
        self._children: list[tuple[tuple[int, str], ...]] = []
        self._keys: list[tuple[str, ...]] = []
        self.keys_by_full_name: dict[str, dict[str, None]] = {}
        message = Message(graph, where)
        if message.count(1) > _MOST_OBJECTS:
            return  # then there are no further names, and all variables still have their first ones
        for node in message.messages(1):
            self._children.append(tuple((each.number(1), each.text(2)) for each in node.messages(1)))
            attributes = [(each.text(1), each.text(2), each.text(3)) for each in node.messages(2)]
            self._keys.append(tuple(key for name, _, key in attributes if name == _VALUE))
            for _, full, key in attributes:
                self.keys_by_full_name.setdefault(full, {})[key] = None

    def aliases(self, name_by_key: Mapping[str, str]) -> dict[str, str]:
        """Returns the paths that lead to the same objects as others do, by the shortest path to each."""
        paths, further = self._paths()
        aliases = {}
        reached: set[str] = set()  # the paths of variables, and of all that is on the way to them
        for node, path in paths.items():
            for key in self._keys[node]:
                name = name_by_key.get(key, "")
                if name and path and name != path:
                    aliases[path] = name  # the name comes from an older graph
                place = path if name else ""
                while place and place not in reached:
                    reached.add(place)
                    place = place.rpartition("/")[0]
        for path, node in further:
            first = paths[node]
            is_inside_itself = f"{path}/".startswith(f"{first}/") or not first
            if first in reached and path not in reached and not is_inside_itself:
                aliases[path] = first
        return aliases

    def _paths(self) -> tuple[dict[int, str], list[tuple[str, int]]]:
        """The shortest path to each object, and all others that differ from these only in their last step."""
        paths = {0: ""} if self._children else {}
        further: list[tuple[str, int]] = []
        level, total = [0] if paths else [], 0
        for _ in range(DEEPEST):
            beyond = []
            for node in level:
                for child, name in self._children[node]:
                    if child >= len(self._children):
                        refuse("load", "the graph of the objects refers to an object that is not in it", self._where)
                    path = f"{paths[node]}/{segment(name)}" if paths[node] else segment(name)
                    total += len(path) + 1
                    if total > LONGEST_HEADER:
                        refuse("load", f"the paths of the objects take more than {LONGEST_HEADER} bytes", self._where)
                    if child in paths:
                        further.append((path, child))
                    else:
                        paths[child] = path
                        beyond.append(child)
            level = beyond
        if level:
            refuse("load", f"the graph of the objects is more than {DEEPEST} levels deep", self._where)
        return paths, further
