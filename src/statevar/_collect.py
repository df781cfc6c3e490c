"""Finds the variables in anything, and names them: containers, dataclasses, objects with attributes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from numbers import Integral
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

from ._variable import Variable
from .errors import NameScopeError, describe

__all__ = ["Container", "Paths", "found_in", "named_in", "paths_in", "slots_of", "variables_in"]

#: What something holds: in a list, or by key.
Inside = list[Any] | dict[Any, Any]
Opener = Callable[[Any], Inside | None]

_Kind = TypeVar("_Kind")

_VARIABLES = {Variable}
_LEAVES = (str, bytes, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_SEQUENCES = (list, tuple, deque)
_SETS = (set, frozenset)
#: How many steps are gone into containers that stand again, and how many more for each thing there is.
_ALIASES, _ALIASES_EACH = 10_000, 4


class Container:
    """The base of a class of ours that may hold variables or none: it is entered by attribute, whatever else it is."""


@dataclass(frozen=True)
class Paths:
    """The variables in something by path, in the order in which they are met, depth first.

    A segment of a path is the name of an attribute or a field, the index in a list or tuple, or the key of a mapping.
    In keys, ``~`` is written ``~0`` and ``/`` is written ``~1``, as in JSON pointers (RFC 6901). So no two places have
    one path.

    What is reached again has the first path in `variables`, and further ones in `aliases`. Containers that share parts
    many times over can have more paths than a memory holds: forty lists that hold the next one twice have 2**40. So
    `aliases` has each place where a variable itself stands again; for each place where a container stands again, what
    it holds, up to an equal share of 10,000 steps and 4 for each thing there is; and none that leads in a circle.
    `find` knows all paths.

    Attributes:
        variables: by the first path.
        aliases: the first path, by any further one.
        shared: for each place where a container with variables stands again, the place where it stood first; empty for
            the object itself.

    >>> import statevar as sv
    >>> dense = {"kernel": sv.Variable([[1.0]]), "bias": sv.Variable([0.0])}
    >>> paths = paths_in("paths", {"first": dense, "again": dense})
    >>> list(paths.variables), paths.shared
    (['first/kernel', 'first/bias'], {'again': 'first'})
    >>> paths.aliases
    {'again/kernel': 'first/kernel', 'again/bias': 'first/bias'}
    """

    variables: dict[str, Variable] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)

    def find(self, path: str) -> Variable | None:
        """The variable to which a path leads, the first one or any other; None if there is none."""
        place = ""
        for segment in path.split("/"):
            place = f"{place}/{segment}" if place else segment
            place = self.shared.get(place, place)
        return self.variables.get(self.aliases.get(place, place))


def variables_in(operation: str, targets: Iterable[Any]) -> list[Variable]:
    """Each variable once, in the order in which they are met.

    Raises:
        TypeError: one of the targets holds no variable, and is no empty container.
    """
    targets = list(targets)
    if len(targets) == 1 and _is_plain(targets[0]):
        return list(dict.fromkeys(targets[0]))
    found: dict[Variable, None] = {}
    for target in targets:
        if isinstance(target, Variable):  # the usual case
            found[target] = None
            continue
        target = _gone_through(target)  # noqa: PLW2901
        if _is_plain(target):
            found |= dict.fromkeys(target)
            continue
        inside = dict.fromkeys(each for each in _walk(target) if isinstance(each, Variable))
        if not inside:
            _check_empty(operation, target)
        found |= inside
    return list(found)


def paths_in(operation: str, target: Any) -> Paths:
    """The variables in something, by path. One that is given alone has its own `Variable.path`.

    Raises:
        NameScopeError: a variable can be reached by no path that can be written down.
        TypeError: there is no variable, and it is no empty container.
    """
    if isinstance(target, Variable):
        return Paths({target.path: target})
    target = _gone_through(target)
    variables, names = _named(operation, target, Variable)
    if not variables:
        _check_empty(operation, target)
    return Paths(variables, *names.further(variables.values()))


def named_in(operation: str, target: Any, kind: type[_Kind]) -> dict[str, _Kind]:
    """The objects of a kind inside something, by their first paths. Errors are those of `paths_in`."""
    return _named(operation, target, kind)[0]


def found_in(target: Any, kind: type[_Kind]) -> list[_Kind]:
    """The objects of a kind inside something, each once, in the order in which they are met."""
    found = {id(each): each for each in _walk(target) if isinstance(each, kind)}
    found.pop(id(target), None)
    return list(found.values())


def _is_plain(target: Any) -> bool:
    """Whether it is a list of variables and of nothing else: a thousand take 0.02 ms."""
    if type(target) is not list and type(target) is not tuple:
        return False
    kinds = set(map(type, target))
    return kinds == _VARIABLES or all(issubclass(kind, Variable) for kind in kinds)


def _gone_through(target: Any) -> Any:
    return list(target) if isinstance(target, Iterator) else target  # it can be gone through once


def _check_empty(operation: str, target: Any) -> None:
    containers = (Mapping, *_SEQUENCES, *_SETS)
    if isinstance(target, Container) or (isinstance(target, containers) and not len(target)):
        return
    raise TypeError(
        describe(
            operation,
            f"found no variable in {type(target).__name__}",
            hint="pass variables, containers of them, or objects that have them as attributes",
        )
    )


# -- what holds what -------------------------------------------------------------------------------------


def _walk(target: Any) -> Iterator[Any]:
    """Each variable, maybe again, and each thing that may hold some, once: a cycle is fine.

    Depth first, without recursion.
    """
    met: dict[int, Any] = {}  # keeps what it met, so that no id comes again
    inside = _Insides()
    stack = [target]
    while stack:
        each = stack.pop()
        if isinstance(each, Variable):
            yield each
        elif id(each) not in met and (held := inside(each)) is not None:
            met[id(each)] = each
            yield each
            stack.extend(reversed(held.values() if isinstance(held, dict) else held))


def _steps(target: Any, met: dict[int, Any], inside: Opener, around: set[int]) -> Iterator[tuple[int, Any, Any]]:
    """(id of the holder, key, what it holds), in the order of `_walk`. What is met again comes again.

    Args:
        met: what was entered, by id; it grows.
        around: the ids of what holds the thing, and of what holds that, and so on, at each step.
    """
    if id(target) in met or (held := inside(target)) is None:
        return
    met[id(target)] = target
    frames = [(id(target), _items(held))]
    around.add(id(target))
    while frames:
        holder, rest = frames[-1]
        for key, each in rest:
            if isinstance(each, Variable) or (entered := id(each)) in met:
                yield holder, key, each
            elif (held := inside(each)) is not None:
                met[entered] = each
                yield holder, key, each
                frames.append((entered, _items(held)))
                around.add(entered)
                break
        else:
            frames.pop()
            around.remove(holder)


def _items(held: Inside) -> Iterator[tuple[Any, Any]]:
    return iter(held.items() if isinstance(held, dict) else enumerate(held))


class _Insides:
    """Opens objects, and remembers for each type how."""

    def __init__(self) -> None:
        self._openers = _OPENERS.copy()

    def __call__(self, each: Any) -> Inside | None:
        kind = type(each)
        try:
            opener = self._openers[kind]
        except KeyError:
            opener = _opener(each)
            if each.__class__ is kind:  # a weakref.proxy has the class of what it stands for
                self._openers[kind] = opener
        return None if opener is None else opener(each)


def _opener(each: Any) -> Opener | None:
    """How to open it, and what is of its type."""
    if isinstance(each, _LEAVES):
        return None
    contents = _contents(each)
    if type(each).__module__ == "builtins":
        return contents
    if contents is not None and not isinstance(each, (dict, *_SEQUENCES, *_SETS, Container)):
        return contents  # what a mapping is made of is its own affair
    attributes = _attributes(each)
    if contents is None or attributes is None:
        return contents or attributes

    def both(each: Any) -> Inside:
        items, named = contents(each) or (), attributes(each)
        assert isinstance(named, dict | None)
        return {
            **(items if isinstance(items, dict) else dict(enumerate(items))),
            **{_Attribute(name): value for name, value in (named or {}).items()},
        }

    return both


def _contents(each: Any) -> Opener | None:
    if isinstance(each, Mapping):
        return dict
    if isinstance(each, _SEQUENCES):
        fields = getattr(type(each), "_fields", None)  # of a namedtuple
        return list if fields is None else lambda each: dict(zip(fields, each, strict=True))
    return _unordered if isinstance(each, _SETS) else None


def _unordered(each: Any) -> Inside:
    return {_Unordered(n): one for n, one in enumerate(each)}


def _attributes(each: Any) -> Opener | None:
    slots = list(dict.fromkeys(slots_of(type(each))))
    ours = type(each).__module__.startswith(f"{__package__}.")
    if not slots and not hasattr(each, "__dict__"):
        return None

    def opened(each: Any) -> Inside | None:
        held = dict(getattr(each, "__dict__", None) or {})
        if ours and "__wrapped__" in held:  # a function that `jit` compiled is a function
            return None
        for slot in slots:
            if hasattr(each, slot):
                held[slot] = getattr(each, slot)
        return held

    return opened


@dataclass(frozen=True)
class _Attribute:
    """The key of an attribute of what has items as well."""

    name: str


@dataclass(frozen=True)
class _Unordered:
    """The key of what a set holds."""

    number: int


#: For types that need no look.
_OPENERS: dict[type, Opener | None] = {
    **dict.fromkeys((bool, bytes, complex, float, int, str, type(None))),
    **dict.fromkeys((list, tuple), list),
    **dict.fromkeys((set, frozenset), _unordered),
    dict: dict,
}


def slots_of(kind: type) -> list[str]:
    """The names in ``__slots__`` of a class and its bases."""
    return [slot for each in kind.__mro__ for slot in _slots(each)]


def _slots(kind: type) -> list[str]:
    slots = kind.__dict__.get("__slots__", ())
    names = [slots] if isinstance(slots, str) else slots
    return [_mangled(name, kind) for name in names if name not in ("__dict__", "__weakref__")]


def _mangled(name: str, kind: type) -> str:
    owner = kind.__name__.lstrip("_")
    return f"_{owner}{name}" if name.startswith("__") and not name.endswith("__") and owner else name


# -- paths -----------------------------------------------------------------------------------------------


def _named(operation: str, target: Any, kind: type[_Kind]) -> tuple[dict[str, _Kind], _Names]:
    names = _Names(target)
    found = {
        names.path(holder, key): each
        for holder, key, each in _steps(target, names.met, names.inside, names.around)
        if names.is_first(holder, key, each) and isinstance(each, kind)
    }
    names.check(operation, found, kind)
    return found, names


class _Names:
    """The first path to each thing that is met.

    Paths are made for what is asked only: those of 10,000 things in a chain have 100 MB.
    """

    def __init__(self, target: Any) -> None:
        self.met: dict[int, Any] = {}
        self.around: set[int] = set()
        self._insides = _Insides()
        # The holder, the key in it, and the thing, which is kept: no id comes again.
        self._places: dict[int, tuple[int, Any, Any]] = {id(target): (id(target), "", target)}
        self._paths = {id(target): ""}
        #: What was met again, in the same way; and whether it holds its holder.
        self._again: list[tuple[int, Any, int, bool]] = []
        #: What cannot be named: the holder, the key, and the thing.
        self._aside: list[tuple[int, Any, Any]] = []

    def inside(self, each: Any) -> Inside | None:
        """What it holds; each key is an index, or the segment of a path. What cannot be named is put aside."""
        held = self._insides(each)
        if not isinstance(held, dict):
            return held
        named: dict[str, Any] = {}
        twice: dict[str, None] = {}
        for key, value in held.items():
            if not _is_nameable(key):
                self._aside.append((id(each), key, value))
                continue
            segment = _segment(key)
            if named.setdefault(segment, value) is not value:
                self._aside.append((id(each), _Twice(segment), value))
                twice[segment] = None
        for segment in twice:
            self._aside.append((id(each), _Twice(segment), named.pop(segment)))
        return named

    def is_first(self, holder: int, key: Any, each: Any) -> bool:
        """Notes a step, and says whether it is the first to this thing."""
        if id(each) in self._places:
            self._again.append((holder, key, id(each), id(each) in self.around))
            return False
        self._places[id(each)] = (holder, key, each)
        return True

    def path(self, holder: int, key: Any) -> str:
        """The path of what a thing has at a key."""
        return _joined(self._path_to(holder), key)

    def _path_to(self, which: int) -> str:
        keys: list[str] = []
        at = which
        while (known := self._paths.get(at)) is None:
            at, key, _ = self._places[at]
            keys.append(str(key))
        path = self._paths[which] = "/".join(([known] if known else []) + keys[::-1])
        return path

    def further(self, variables: Iterable[Variable]) -> tuple[dict[str, str], dict[str, str]]:
        """`Paths.aliases` and `Paths.shared`."""
        reach = self._reach(variables)
        again = [step for step in self._again if step[2] in reach]
        ours = set(map(id, variables))
        holders = {holder for holder, _, _, _ in again}
        for which in self._places:  # from above: each path has the one before to build on
            if which in holders:
                self._path_to(which)
        aliases = {self.path(holder, key): self._path_to(which) for holder, key, which, _ in again if which in ours}
        shared = {self.path(holder, key): self._path_to(which) for holder, key, which, _ in again if which not in ours}
        links = [
            (self.path(holder, key), which) for holder, key, which, back in again if which not in ours and not back
        ]
        steps = self._steps_to(reach) if links else {}
        left = _ALIASES + _ALIASES_EACH * len(self._places)
        for n, link in enumerate(links):
            share = left // (len(links) - n)
            todo = [link]
            while todo and share:  # the steps that do not lead back make no circle
                path, which = todo.pop()
                share, left = share - 1, left - 1
                if which in ours:
                    aliases[path] = self._path_to(which)
                todo.extend((_joined(path, key), inner) for key, inner in reversed(steps[which][:share]))
        return aliases, shared

    def _reach(self, variables: Iterable[Variable]) -> set[int]:
        """From where a step or more lead to a variable."""
        holders: dict[int, list[int]] = {}
        for holder, _, which, _ in self._again:
            holders.setdefault(which, []).append(holder)
        reach = set(map(id, variables))
        todo = list(reach) if holders else []
        while todo:
            which = todo.pop()
            above = {self._places[which][0], *holders.get(which, ())} - reach
            reach |= above
            todo.extend(above)
        return reach

    def _steps_to(self, reach: set[int]) -> dict[int, list[tuple[Any, int]]]:
        """The steps on from each thing: keys, and where they lead. Without those that lead back to what is around."""
        steps: dict[int, list[tuple[Any, int]]] = {which: [] for which in reach}
        for which, (holder, key, _) in self._places.items():
            if which in reach and holder != which:
                steps[holder].append((key, which))
        for holder, key, which, back in self._again:
            if which in reach and not back:
                steps[holder].append((key, which))
        return steps

    def check(self, operation: str, found: dict[str, Any], kind: type) -> None:
        """Raises NameScopeError if something of the kind was put aside, and has no path anywhere else."""
        named = set(map(id, found.values()))
        for holder, key, each in self._aside:
            inside = (one for _, _, one in _steps(each, self.met, self._insides, set()))
            for one in (each, *inside):
                if isinstance(one, kind) and id(one) not in named:
                    raise NameScopeError(
                        describe(
                            operation,
                            f"{_problem(key)}, and a {kind.__name__} has no other path",
                            self._path_to(holder),
                            "keep it in an attribute, a list, or a dict of strings",
                        )
                    )


@dataclass(frozen=True)
class _Twice:
    """The key of what has the same segment as something else."""

    segment: str


def _joined(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _is_nameable(key: Any) -> bool:
    """Whether a key can be the segment of a path."""
    if isinstance(key, _Attribute):
        key = key.name
    if isinstance(key, str):
        return key != "" and "\0" not in key and _is_text(key) and not isinstance(key, Enum)
    return isinstance(key, Integral) and not isinstance(key, Enum | bool)


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no file can hold
        return False
    return True


def _problem(key: Any) -> str:
    """Why it cannot."""
    if isinstance(key, _Unordered):
        return "a set has no order"
    if isinstance(key, _Twice):
        return f"two keys are written {key.segment!r}"
    if isinstance(key, str) and not isinstance(key, Enum):
        return f"a key is empty, or has NUL or half a surrogate pair: {key!r}"
    return f"expected a string or an integer as key, got {key!r}"


def _segment(key: Any) -> str:
    """A key as the segment of a path.

    >>> _segment("input/output~old"), _segment(7)
    ('input~1output~0old', '7')
    """
    if isinstance(key, _Attribute):
        key = key.name
    return key.replace("~", "~0").replace("/", "~1") if isinstance(key, str) else str(int(key))
