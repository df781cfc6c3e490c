"""The children of objects, which are items and attributes; and the walk through all of them."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from .._arrays.slots import Adapter, Named, Opened
from .._core.variable import Variable
from .._core.views import lender_of, view_of
from ..errors import ForeignStateError, StatevarError
from .by_path import ByPath
from .foreign.items import Number
from .foreign.plain import Plain
from .foreign.table import adapters_of
from .kinds import StateIn, is_array, is_generator, is_slot, state_in

__all__ = [
    "FUNCTIONS",
    "SEQUENCES",
    "SETS",
    "Attribute",
    "Children",
    "Container",
    "Kind",
    "Open",
    "Opener",
    "Plain",
    "Tree",
    "Unordered",
    "Whole",
    "edges",
    "is_ours_compiled",
    "kind_of",
    "segment",
    "segment_key",
    "slots_of",
    "walk",
]

#: The children of an object: in a list, or by key.
Children = list[Any] | dict[Any, Any]
#: Returns the children of an object, the variable that a leaf of another library is, or None.
Open = Callable[[Any], Children | Variable | None]

_LEAVES = (str, bytes, type, ModuleType, BuiltinFunctionType)
FUNCTIONS = (FunctionType, MethodType, partial)
SEQUENCES = (list, tuple, deque)
SETS = (set, frozenset)


class Container:
    """Base class for objects that may contain no variable, and whose attributes are always searched."""


class Tree(Container):
    """Base class for an object that stands for a tree of which the user has said that its arrays are state."""

    __slots__ = ("_plain",)

    def __init__(self, tree: Any) -> None:
        self._plain = Plain(tree)


def walk(target: Any, opener: Opener | None = None) -> Iterator[Any]:
    """Iterates over the variables in an object and over the objects that may contain variables, depth first.

    Each object comes once, even in a cycle; a variable comes as often as it is found. Does not recurse.
    """
    met: dict[int, Any] = {}  # keeps the objects alive, so that no id is used again
    opener = opener or Opener()
    stack = [target]
    while stack:
        each = stack.pop()
        if isinstance(each, Variable):
            yield each
        elif id(each) not in met and (children := opener(each)) is not None:
            met[id(each)] = each
            if isinstance(children, Variable):
                yield children
                continue
            yield each
            stack.extend(reversed(children.values() if isinstance(children, dict) else children))


def edges(target: Any, met: dict[int, Any], opener: Open) -> Iterator[tuple[int, Any, Any]]:
    """Iterates over (id of the parent, key, child) in the order of `walk`, with every further occurrence of a child.

    Args:
        met: the objects that were entered, by id. More are added during the iteration.
    """
    if id(target) in met or (children := opener(target)) is None or isinstance(children, Variable):
        return
    met[id(target)] = target
    frames = [(id(target), _items(children))]
    while frames:
        parent, rest = frames[-1]
        for key, each in rest:
            if isinstance(each, Variable):
                yield parent, key, each
            elif (entered := id(each)) in met:
                yield parent, key, each if type(found := met[entered]) is not _Leaf else found.variable
            elif (children := opener(each)) is not None:
                if isinstance(children, Variable):
                    met[entered] = _Leaf(each, children)
                    yield parent, key, children
                    continue
                met[entered] = each
                yield parent, key, each
                frames.append((entered, _items(children)))
                break
        else:
            frames.pop()


class _Leaf:
    """A leaf of another library that was met, and the variable that it is."""

    __slots__ = ("each", "variable")

    def __init__(self, each: Any, variable: Variable) -> None:
        self.each = each
        self.variable = variable


def _items(children: Children) -> Iterator[tuple[Any, Any]]:
    return iter(children.items() if isinstance(children, dict) else enumerate(children))


@dataclass(frozen=True)
class Kind:
    """The facts about a class that decide how its objects are searched.

    Attributes:
        state_in: lists the state that another library keeps in an object; None if its objects never have any.
        is_array: whether its objects are arrays of any library.
        is_generator: whether its objects are random generators.
        shared: the attributes of the class and its bases that have variables, which are not entered.
        adapters: the adapters that may enter its objects.
        is_slot: whether its objects are slots.
    """

    state_in: StateIn | None
    is_array: bool
    is_generator: bool
    shared: tuple[str, ...]
    adapters: tuple[Adapter, ...]
    is_slot: bool


_kinds: WeakKeyDictionary[type, Kind] = WeakKeyDictionary()


def kind_of(cls: type) -> Kind:
    """The kind of a class. It takes microseconds, so it is remembered."""
    kind = _kinds.get(cls)
    if kind is None:
        kind = _kinds[cls] = Kind(
            state_in(cls), is_array(cls), is_generator(cls), tuple(_shared(cls)), adapters_of(cls), is_slot(cls)
        )
    return kind


def _shared(cls: type) -> Iterator[str]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found.update(vars(base))
    for name, value in found.items():
        # The elements and no deeper: a class may list all its objects, as an enumeration does, or a whole program.
        elements = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
        if any(isinstance(each, Variable) for each in elements):
            yield name


class Opener:
    """Returns the children of objects, and remembers for each type how to find them.

    Attributes:
        aside: the objects that are not entered, or not wholly, and are no plain values, as often as they were found:
            state of other libraries, arrays, generators, functions with variables of their own, objects that cannot be
            searched, and objects with variables in their class.
        entered: whether an adapter has entered an object, which may have no state yet.
        refused: the objects that have state which cannot be taken, each with its error.
    """

    def __init__(self) -> None:
        self._openers: dict[type, Open | None] = {**_OPENERS, Plain: self._open_plain}
        self._plain: dict[int, Plain] = {}  # one for each object, so that a cycle ends
        self.aside: list[Any] = []
        self.entered = False
        self.refused: list[tuple[Any, StatevarError]] = []

    def __call__(self, each: Any) -> Children | Variable | None:
        cls = type(each)
        try:
            opener = self._openers[cls]
        except KeyError:
            opener = self._opener(each, cls)
            if each.__class__ is cls:  # not for a weakref.proxy, which has the class of its referent
                self._openers[cls] = opener
        return None if opener is None else opener(each)

    def _opener(self, each: Any, cls: type) -> Open | None:
        kind = kind_of(cls)
        if kind.is_slot and hasattr(each, "thing"):
            return self._view
        if issubclass(cls, Tree):
            return lambda tree: self._open_plain(tree._plain)
        if issubclass(cls, ByPath):
            return _whole_paths
        opener = self._opener_without(each, cls, kind)
        return partial(self._open_by, kind.adapters, opener) if kind.adapters else opener

    def _opener_without(self, each: Any, cls: type, kind: Kind) -> Open | None:
        """The function for an object that no adapter enters."""
        if kind.is_generator or (kind.is_array and kind.state_in is None):
            return self._put_aside
        if issubclass(cls, FUNCTIONS):
            return self._put_function_aside
        opener = _opener(each)
        if kind.state_in is not None:
            return partial(self._open_foreign, kind.state_in, None if kind.is_array else opener)
        if opener is None:
            return None if _is_leaf(each) else self._put_tracked_aside
        if kind.shared or (isinstance(each, Mapping) and not isinstance(each, dict | Container | MappingProxyType)):
            return partial(self._open_partly, opener)
        return partial(self._open_ours, opener) if cls.__module__.startswith("statevar.") else opener

    def _open_by(self, adapters: tuple[Adapter, ...], otherwise: Open | None, each: Any) -> Children | Variable | None:
        known: Variable | None = lender_of(each)
        if known is not None:
            return known
        found = self._asked(each, [adapter.open for adapter in adapters])
        return (None if otherwise is None else otherwise(each)) if found is None else found

    def _asked(self, each: Any, opens: list[Callable[[Any], Opened]]) -> Children | Variable | None:
        """What the first of some functions that knows an object returns, with a variable in place of a slot."""
        try:
            found = next((found for each_open in opens if (found := each_open(each)) is not None), None)
            if isinstance(found, dict | list):
                self.entered = True
                return found
            return None if found is None else view_of(found, Variable)
        except StatevarError as error:
            self.refused.append((each, error))
            return {}

    def _view(self, slot: Any) -> Children | Variable | None:
        return self._asked(slot, [lambda each: each])

    def plain(self, each: Any) -> Any:
        """A child in a tree of which the user has said that its arrays are state."""
        if isinstance(each, Variable):
            return each
        return self._plain.setdefault(id(each), Plain(each))

    def _open_plain(self, plain: Plain) -> Children | Variable | None:
        each = plain.each
        kind = kind_of(type(each))
        if kind.is_slot and hasattr(each, "thing"):
            return self._view(each)
        opens = [adapter.open for adapter in kind.adapters]
        opens += [adapter.open_plain for adapter in kind.adapters if adapter.open_plain is not None]
        children: Any = lender_of(each)
        if children is None and opens:
            children = self._asked(each, opens)
        if children is None:
            if kind.is_array:
                problem = f"the {type(each).__qualname__} is an array that statevar cannot write"
                values = ", or an array of its values: x.to_numpy()" if hasattr(each, "to_numpy") else ""
                hint = f"keep a variable in its place: sv.Variable(x){values}"
                error = ForeignStateError.of("view", problem, hint=hint)
                self.refused.append((each, error))
                return None
            children = self(each)
        if children is None or isinstance(children, Variable):
            return children
        items = children.items() if isinstance(children, dict) else enumerate(children)
        return {key: self._plain_item(each, key, child) for key, child in items}

    def _plain_item(self, holder: Any, key: Any, child: Any) -> Any:
        """A child of a tree: as a slot, if a write replaces it in its holder."""
        where, attribute = (key.name, True) if isinstance(key, Attribute) else (key, None)
        if type(child) in (int, float, complex):
            return Number(holder, where, attribute=attribute)
        for adapter in kind_of(type(child)).adapters:
            if adapter.open_item is not None and (slot := adapter.open_item(holder, where, child)) is not None:
                return slot
        return self.plain(child)

    def _put_aside(self, each: Any) -> None:
        self.aside.append(each)

    def _put_function_aside(self, each: Any) -> None:
        if not isinstance(each, FunctionType) or _has_values(each):
            self.aside.append(each)

    def _put_tracked_aside(self, each: Any) -> None:
        if gc.is_tracked(each):  # else it refers to no other object
            self.aside.append(each)

    def _open_foreign(self, state: StateIn, opener: Open | None, each: Any) -> Children | Variable | None:
        if opener is None or state(each):
            self.aside.append(each)
            return None
        return opener(each)

    def _open_partly(self, opener: Open, each: Any) -> Children | Variable | None:
        self.aside.append(each)  # the attributes of a mapping are not entered, nor are those of a class
        return opener(each)

    def _open_ours(self, opener: Open, each: Any) -> Children | Variable | None:
        if is_ours_compiled(each):
            self.aside.append(each)
            return None
        return opener(each)


def _has_values(function: FunctionType) -> bool:
    return bool(function.__closure__ or function.__defaults__ or function.__kwdefaults__ or function.__dict__)


def is_ours_compiled(each: Any) -> bool:
    """Whether an object is a function that `jit` has compiled. It is not searched, as no function is."""
    return type(each).__module__.startswith("statevar.") and "__wrapped__" in getattr(each, "__dict__", ())


def _is_leaf(each: Any) -> bool:
    """Whether an object has no state: a string, a class, a module; or a namespace, which stands for a module."""
    return isinstance(each, _LEAVES) or getattr(type(each), "_is_namespace", False) is True


def _opener(each: Any) -> Open | None:
    """The function that returns the children of objects of this type; None if they have none."""
    if _is_leaf(each):
        return None
    if isinstance(each, Mapping) and type(each).__module__.partition(".")[0] == "statevar":
        return None  # a snapshot or a checkpoint: it has values and not variables, and may read them from a file
    contents = _contents(each)
    if type(each).__module__ == "builtins":
        return contents
    if contents is not None and not isinstance(each, (dict, *SEQUENCES, *SETS, Container)):
        return contents  # the attributes of other mappings are implementation details
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
        return _entries
    if isinstance(each, SEQUENCES):
        fields = getattr(type(each), "_fields", None)  # a namedtuple has them
        return list if fields is None else lambda each: dict(zip(fields, each, strict=True))
    return _unordered if isinstance(each, SETS) else None


def _entries(mapping: Any) -> Children:
    try:
        return dict(mapping)
    except TypeError:  # its keys have no hash, as in a mapping by identity
        return {Unordered(n): one for n, one in enumerate(mapping.values())}


def _unordered(each: Any) -> Children:
    return {Unordered(n): one for n, one in enumerate(each)}


def _attributes(each: Any) -> Open | None:
    slots = list(dict.fromkeys(slots_of(type(each))))
    if not slots and not hasattr(each, "__dict__"):
        return None

    def opened(each: Any) -> Children | None:
        named = dict(getattr(each, "__dict__", None) or {})
        for slot in slots:
            if hasattr(each, slot):
                named[slot] = getattr(each, slot)
        return named

    return opened


@dataclass(frozen=True)
class Attribute:
    """The key of an attribute, if the object has items as well."""

    name: str


@dataclass(frozen=True)
class Unordered:
    """The key of an element of a set."""

    number: int


@dataclass(frozen=True)
class Whole:
    """The key of a variable that is the whole rest of its path."""

    path: str


def _whole_paths(each: ByPath) -> Children:
    return {Whole(path): variable for path, variable in each.items()}


#: The openers of built-in types, known beforehand.
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


def segment(key: Any) -> str:
    """Writes a key as the segment of a path.

    >>> segment("input/output~old"), segment(7)
    ('input~1output~0old', '7')
    """
    if isinstance(key, Attribute):
        key = key.name
    if isinstance(key, Named):
        return str(key)
    if isinstance(key, Whole):
        return key.path
    return key.replace("~", "~0").replace("/", "~1") if isinstance(key, str) else str(int(key))


def segment_key(text: str) -> str:
    """Returns the key that a segment of a path stands for.

    >>> segment_key("input~1output~0old")
    'input/output~old'
    """
    return text.replace("~1", "/").replace("~0", "~")
