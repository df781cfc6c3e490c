"""What holds what: the items of containers, the attributes of objects; and the walk through all of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from .._core.variable import Variable

__all__ = [
    "SEQUENCES",
    "SETS",
    "Attribute",
    "Children",
    "Container",
    "Open",
    "Opener",
    "Unordered",
    "edges",
    "slots_of",
    "walk",
]

#: What something holds: in a list, or by key.
Children = list[Any] | dict[Any, Any]
Open = Callable[[Any], Children | None]

_LEAVES = (str, bytes, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
SEQUENCES = (list, tuple, deque)
SETS = (set, frozenset)


class Container:
    """The base of a class of ours that may hold variables or none: it is entered by attribute, whatever else it is."""


def walk(target: Any) -> Iterator[Any]:
    """Each variable, maybe again, and each thing that may hold some, once: a cycle is fine.

    Depth first, without recursion.
    """
    met: dict[int, Any] = {}  # keeps what it met, so that no id comes again
    opener = Opener()
    stack = [target]
    while stack:
        each = stack.pop()
        if isinstance(each, Variable):
            yield each
        elif id(each) not in met and (held := opener(each)) is not None:
            met[id(each)] = each
            yield each
            stack.extend(reversed(held.values() if isinstance(held, dict) else held))


def edges(target: Any, met: dict[int, Any], opener: Open) -> Iterator[tuple[int, Any, Any]]:
    """(id of the holder, key, what it holds), in the order of `walk`. What is met again comes again.

    Args:
        met: what was entered, by id; it grows.
    """
    if id(target) in met or (held := opener(target)) is None:
        return
    met[id(target)] = target
    frames = [(id(target), _items(held))]
    while frames:
        holder, rest = frames[-1]
        for key, each in rest:
            if isinstance(each, Variable) or (entered := id(each)) in met:
                yield holder, key, each
            elif (held := opener(each)) is not None:
                met[entered] = each
                yield holder, key, each
                frames.append((entered, _items(held)))
                break
        else:
            frames.pop()


def _items(held: Children) -> Iterator[tuple[Any, Any]]:
    return iter(held.items() if isinstance(held, dict) else enumerate(held))


class Opener:
    """Opens objects, and remembers for each type how."""

    def __init__(self) -> None:
        self._openers = _OPENERS.copy()

    def __call__(self, each: Any) -> Children | None:
        cls = type(each)
        try:
            opener = self._openers[cls]
        except KeyError:
            opener = _opener(each)
            if each.__class__ is cls:  # a weakref.proxy has the class of what it stands for
                self._openers[cls] = opener
        return None if opener is None else opener(each)


def _opener(each: Any) -> Open | None:
    """How to open it, and what is of its type."""
    if isinstance(each, _LEAVES):
        return None
    contents = _contents(each)
    if type(each).__module__ == "builtins":
        return contents
    if contents is not None and not isinstance(each, (dict, *SEQUENCES, *SETS, Container)):
        return contents  # what a mapping is made of is its own affair
    attributes = _attributes(each)
    if contents is None or attributes is None:
        return contents or attributes

    def both(each: Any) -> Children:
        items, named = contents(each) or (), attributes(each)
        assert isinstance(named, dict | None)
        return {
            **(items if isinstance(items, dict) else dict(enumerate(items))),
            **{Attribute(name): value for name, value in (named or {}).items()},
        }

    return both


def _contents(each: Any) -> Open | None:
    if isinstance(each, Mapping):
        return dict
    if isinstance(each, SEQUENCES):
        fields = getattr(type(each), "_fields", None)  # of a namedtuple
        return list if fields is None else lambda each: dict(zip(fields, each, strict=True))
    return _unordered if isinstance(each, SETS) else None


def _unordered(each: Any) -> Children:
    return {Unordered(n): one for n, one in enumerate(each)}


def _attributes(each: Any) -> Open | None:
    slots = list(dict.fromkeys(slots_of(type(each))))
    ours = type(each).__module__.startswith("statevar.")
    if not slots and not hasattr(each, "__dict__"):
        return None

    def opened(each: Any) -> Children | None:
        held = dict(getattr(each, "__dict__", None) or {})
        if ours and "__wrapped__" in held:  # a function that `jit` compiled is a function
            return None
        for slot in slots:
            if hasattr(each, slot):
                held[slot] = getattr(each, slot)
        return held

    return opened


@dataclass(frozen=True)
class Attribute:
    """The key of an attribute of what has items as well."""

    name: str


@dataclass(frozen=True)
class Unordered:
    """The key of what a set holds."""

    number: int


#: For types that need no look.
_OPENERS: dict[type, Open | None] = {
    **dict.fromkeys((bool, bytes, complex, float, int, str, type(None))),
    **dict.fromkeys((list, tuple), list),
    **dict.fromkeys((set, frozenset), _unordered),
    dict: dict,
}


def slots_of(cls: type) -> list[str]:
    """The names in ``__slots__`` of a class and its bases."""
    return [slot for each in cls.__mro__ for slot in _slots(each)]


def _slots(cls: type) -> list[str]:
    slots = cls.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else slots
    return [_mangled(name, cls) for name in names if name not in ("__dict__", "__weakref__")]


def _mangled(name: str, cls: type) -> str:
    owner = cls.__name__.lstrip("_")
    return f"_{owner}{name}" if name.startswith("__") and not name.endswith("__") and owner else name
