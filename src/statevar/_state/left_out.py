"""Finds what a search leaves out although it is state: an error where variables or models are lost, else a warning."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np

from .._arrays.slots import Named, place_of
from .._core.variable import Variable
from ..errors import ForeignStateError, NameScopeError, StateWarning, describe
from .kinds import is_foreign, library_of
from .walk import FUNCTIONS, Attribute, Opener, Plain, Unordered, is_ours_compiled, kind_of, segment, walk

__all__ = ["article", "refuse_lost_state", "refuse_variables_of_variables", "warn_of_plain_state"]

#: The operations that keep the values of variables, and so would lose those of arrays.
_KEEPING = frozenset({"rollback", "save", "snapshot"})
_NAMED = 5  # objects that one error names

#: The class of an object that was passed, the path of a thing in it, and the class of that thing.
_warned: set[tuple[str, str, str]] = set()
#: The objects that were looked through, so that a model with arrays or functions is not searched twice for each
#: snapshot: the id, the class and the names of the object, and the classes of the things in it.
_looked_through: set[tuple[int, str, tuple[str, ...], tuple[str, ...]]] = set()
_MANY = 10_000
_BUILTIN_CONTAINERS = (list, tuple, dict, set, frozenset)


def refuse_lost_state(operation: str, target: Any, opener: Opener, found: Collection[Variable]) -> None:
    """Raises an error if an object contains state that a search cannot take along.

    Args:
        opener: the opener of the search, which knows what it did not enter.
        found: the variables that the search found.

    Raises:
        ForeignStateError: the object contains state of another library.
        NameScopeError: it contains variables in an object that cannot be searched.
    """
    for each, error in opener.refused:
        raise error._at(operation, _path_of(target, each))
    if not opener.aside:
        return
    things = {id(each): each for each in opener.aside}
    foreign = {which: each for which, each in things.items() if _is_lost(each, found)}
    if foreign:
        raise _foreign_error(operation, list(_located(target, foreign)))
    known = set(found)
    for which, each in things.items():
        hidden = _hidden_in(each, known) if _is_opaque(each) else None
        if hidden is not None:
            ((path, _),) = _located(target, {which: each})
            what = "a variable" if isinstance(hidden, Variable) else article(type(hidden))
            if isinstance(each, Mapping):
                problem = f"{article(type(each))} has {what} in an attribute, but only its items are searched"
                hint = "make it an item, or derive the class from sv.Module too"
            else:
                problem = f"{article(type(each))} contains {what}, but such an object cannot be searched"
                hint = "keep it in an attribute, a list or a dict"
            raise NameScopeError.of(operation, problem, path, hint)


def refuse_variables_of_variables(operation: str, found: Collection[Variable]) -> None:
    """Raises an error if a variable that is saved has another one in an attribute, which is not searched.

    Only for `save`: looking at the attributes of each variable would make a snapshot 5 % slower.

    Raises:
        NameScopeError: a variable has one that was not found, in an attribute of its own.
    """
    if operation != "save":
        return
    with_attributes = [(variable, own) for variable in found if (own := vars(variable))]
    known = set(found) if with_attributes else set()
    for variable, own in with_attributes:
        for name, value in own.items():
            if any(isinstance(each, Variable) and each not in known for each in walk(value)):
                problem = f"the attribute {name!r} of the variable contains a variable, but variables are not searched"
                hint = "keep it in an attribute of the object, in a list or a dict as well"
                raise NameScopeError.of(operation, problem, variable.path, hint)


def warn_of_plain_state(operation: str, target: Any, aside: list[Any], found: Collection[Variable]) -> None:
    """Warns once of each array and generator that an operation leaves out, and of each variable only code has."""
    if not aside or operation not in _KEEPING:
        return
    things = {id(each): each for each in aside}
    cls = f"{type(target).__module__}.{type(target).__qualname__}"
    outline = id(target), cls, _top_of(target), tuple(type(each).__name__ for each in things.values())
    if outline in _looked_through and not isinstance(target, _BUILTIN_CONTAINERS):  # whose ids are soon used again
        return
    known = set(found)
    wanted = {which: each for which, each in things.items() if _is_plain_state(each) or _uses_more(each, known)}
    for path, each in (*(_located(target, wanted) if wanted else ()), *_shared(target, things, known)):
        key = cls, path, type(each).__name__
        if key not in _warned:
            message = describe(operation, *_warning(each, path))
            warnings.warn(message, StateWarning, stacklevel=_caller())
            _warned.add(key)  # after the warning, which may be an error
    if len(_looked_through) > _MANY:
        _looked_through.clear()
    _looked_through.add(outline)


def _top_of(target: Any) -> tuple[str, ...]:
    """The names of what an object contains, without a search."""
    return tuple(map(str, getattr(target, "__dict__", ())))


# -- state of other libraries ------------------------------------------------------------------------------------------


def _is_lost(each: Any, found: Collection[Variable]) -> bool:
    """Whether an object has state of its library that is not the memory of one of the variables."""
    state = kind_of(type(each)).state_in
    return state is not None and any(not _is_ours(thing, found) for thing in state(each))


def _is_ours(thing: Any, found: Iterable[Variable]) -> bool:
    """Whether a library's object is the `Variable.parameter` of one of the variables."""
    return any(
        variable._handle is not None and variable._backend.is_parameter(variable._handle, thing) for variable in found
    )


def _foreign_error(operation: str, places: list[tuple[str, Any]]) -> ForeignStateError:
    (path, first), *others = places
    library = library_of(type(first))
    more = ", ".join(f"{article(type(each))} at {where!r}" for where, each in others[: _NAMED - 1])
    if len(others) >= _NAMED:
        more += f" and {len(others) - _NAMED + 1} more"
    problem = f"{article(type(first))} has state of {library}, which statevar would leave out"
    if more:
        problem += f" (and so would be {more})"
    hint = (
        f"keep it outside of the object that you pass and save it with {library}'s own functions, "
        f"{_by_view(first)}or copy its arrays into variables: sv.Variable(array)"
    )
    return ForeignStateError.of(operation, problem, path, hint)


def _by_view(each: Any) -> str:
    """The part of a hint that says how the arrays in an object become state; empty if they cannot."""
    opens = [adapter.open_plain for adapter in kind_of(type(each)).adapters if adapter.open_plain is not None]
    return "pass a view of its arrays, sv.view(x), " if any(found(each) for found in opens) else ""


def article(cls: type) -> str:
    """The name of a class in a sentence: with its module, or with the library it comes from."""
    name = f"{cls.__module__}.{cls.__qualname__}" if cls.__module__ != "builtins" else cls.__qualname__
    library = library_of(cls)
    inherits = library and not cls.__module__.startswith(library)  # the arrays of jax are from jaxlib
    return f"the {name}" + (f" (a subclass of {library}'s)" if inherits else "")


# -- arrays, generators and functions ----------------------------------------------------------------------------------


def _is_plain_state(each: Any) -> bool:
    kind = kind_of(type(each))
    return (kind.is_array or kind.is_generator) and not (kind.state_in and kind.state_in(each))


def _warning(each: Any, path: str) -> tuple[str, str, str]:
    """The problem, the path and the hint of a warning."""
    silence = "or ignore the warning: warnings.simplefilter('ignore', sv.errors.StateWarning)"
    if kind_of(type(each)).is_generator:
        problem = f"{article(type(each))} is not a variable, so its state is left out"
        return problem, path, f"keep the state in a variable, or in the metadata of the checkpoint; {silence}"
    if kind_of(type(each)).is_array:
        problem = f"{article(type(each))} is not a variable, so it is left out"
        return problem, path, f"if it changes, make it one: sv.Variable(x, trainable=False); {silence}"
    if isinstance(each, _Shared):
        problem = (
            f"the variable belongs to the class {each.cls.__qualname__}, whose objects share it, so it is left out"
        )
        return problem, path, f"make it an attribute of the object, in __init__; {silence}"
    problem = "a function uses a variable that the object does not contain, so the variable is left out"
    return problem, path, f"keep the variable in an attribute as well; {silence}"


def _is_opaque(each: Any) -> bool:
    """Whether an object has children that no path leads to, such as an iterator or an array of objects."""
    kind = kind_of(type(each))
    if kind.is_array:
        return str(getattr(each, "dtype", "")) == "object"
    if kind.shared and not isinstance(each, Mapping):
        return False
    return kind.state_in is None and not kind.is_generator and not _is_function(each)


def _is_function(each: Any) -> bool:
    return isinstance(each, FUNCTIONS) or is_ours_compiled(each)


def _uses_more(each: Any, known: set[Variable]) -> bool:
    """Whether a function uses variables that were not found."""
    return _is_function(each) and not known.issuperset(_variables_held_by(each))


def _hidden_in(each: Any, known: set[Variable]) -> Any:
    """A variable that was not found, or state of another library, in an opaque object; None if there is none."""
    for one in _held_by(each):
        if one not in known if isinstance(one, Variable) else _is_lost(one, known):
            return one
    return None


def _variables_held_by(root: Any) -> Iterator[Variable]:
    return (each for each in _held_by(root) if isinstance(each, Variable))


def _held_by(root: Any) -> Iterator[Any]:
    """The variables and the objects of other libraries in what a function or an opaque object refers to."""
    stack, met = list(_referents(root)), {id(root)}
    while stack:
        each = stack.pop()
        if isinstance(each, Variable):
            yield each
        elif id(each) in met or isinstance(each, type):
            continue
        elif _is_function(each) or isinstance(each, (*_BUILTIN_CONTAINERS, Iterator)):
            met.add(id(each))
            stack += _referents(each)
        elif kind_of(type(each)).state_in is not None:
            yield each
        elif _is_function(root):
            met.add(id(each))
            yield from (one for one in walk(each) if isinstance(one, Variable))


def _referents(each: Any) -> Iterable[Any]:
    if isinstance(each, FunctionType):
        cells = (cell.cell_contents for cell in each.__closure__ or () if _is_filled(cell))
        return [*cells, *(each.__defaults__ or ()), *(each.__kwdefaults__ or {}).values(), *each.__dict__.values()]
    if isinstance(each, MethodType):
        return [each.__self__, each.__func__]
    if isinstance(each, partial):
        return [each.func, *each.args, *each.keywords.values()]
    if is_ours_compiled(each):
        return [each.__wrapped__]
    if isinstance(each, dict):
        return list(each.values())
    if isinstance(each, _BUILTIN_CONTAINERS):
        return list(each)
    return np.ravel(each).tolist() if kind_of(type(each)).is_array else gc.get_referents(each)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # raises if it is empty
    except ValueError:
        return False
    return True


def _shared(target: Any, things: Mapping[int, Any], known: set[Variable]) -> Iterator[tuple[str, _Shared]]:
    """The path of each attribute in which an object finds variables of its class that were not found."""
    for which, each in things.items():
        for name in kind_of(type(each)).shared:
            value = getattr(each, name, None)
            if value is getattr(type(each), name, None) and not known.issuperset(_variables_held_by([value])):
                for path, _ in _located(target, {which: each}):
                    yield _joined(path, name), _Shared(type(each))


class _Shared:
    """Stands for a variable in an attribute of a class."""

    def __init__(self, cls: type) -> None:
        self.cls = cls


# -- where it is -------------------------------------------------------------------------------------------------------


def _located(target: Any, wanted: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """The path of each wanted object, in the order of a walk; or of the outermost one around it that is not entered."""
    opener, met = Opener(), set()
    named: set[int] = set()
    stack: list[tuple[str, Any, tuple[str, Any] | None]] = [("", target, None)]
    while stack:
        path, each, around = stack.pop()
        if wrapped := type(each) is Plain:
            each = each.each
        if id(each) in met or isinstance(each, Variable):
            continue
        met.add(id(each))
        if around is None and is_foreign(type(each)) and not _is_entered(each):
            around = path, each
        if id(each) in wanted:
            place = path, each
            state = kind_of(type(each)).state_in
            if around is not None:
                if state is not None and state(each):
                    place = around
                elif around[1] is not each and _is_plain_state(each) and kind_of(type(around[1])).state_in is not None:
                    continue  # a constant, since the library says what is state in such an object
            if id(place[1]) not in named:
                named.add(id(place[1]))
                yield place
            continue
        children = opener(opener.plain(each) if wrapped else each)
        if children is None or isinstance(children, Variable):
            continue
        items = children.items() if isinstance(children, dict) else enumerate(children)
        stack += reversed([(_joined(path, key), child, around) for key, child in items])


def _path_of(target: Any, wanted: Any) -> str:
    """The path of an object, or of a slot of the same thing; empty if it is the target itself."""
    opener, met = Opener(), set()
    stack: list[tuple[str, Any]] = [("", target)]
    while stack:
        path, each = stack.pop()
        inner = each.each if type(each) is Plain else each
        if inner is wanted or (kind_of(type(wanted)).is_slot and _is_of(inner, wanted)):
            return path
        if id(inner) in met or isinstance(inner, Variable):
            continue
        met.add(id(inner))
        children = opener(each)
        if isinstance(children, dict | list):
            items = children.items() if isinstance(children, dict) else enumerate(children)
            stack += reversed([(_joined(path, key), child) for key, child in items])
    return ""


def _is_of(each: Any, slot: Any) -> bool:
    """Whether an object is a slot of the same thing; each search makes new ones."""
    return kind_of(type(each)).is_slot and place_of(each.thing) == place_of(slot.thing)


def _is_entered(each: Any) -> bool:
    """Whether an adapter says what is state in an object, so that what it does not say is no state of the library."""
    return any(adapter.open(each) is not None for adapter in kind_of(type(each)).adapters)


def _joined(path: str, key: Any) -> str:
    if isinstance(key, Unordered):
        return path  # of the set
    step = segment(key) if isinstance(key, str | int | Attribute | Named) else repr(key)
    return f"{path}/{step}" if path else step


def _caller() -> int:
    """The number of frames between the caller of this function and the code that called statevar."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "statevar":
        level, frame = level + 1, frame.f_back
    return level
