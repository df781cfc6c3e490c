"""`Module`: an object that finds its own variables; and `variables` and `named_variables` for any object."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import scopes
from .._core.forks import guarded
from .._core.shown import Shown
from .._core.tables import count_text
from .._core.variable import Variable
from .._public import public
from ..errors import ReadOnlyError, describe
from .paths import Container, contents_of, named_in, objects_in, paths_in, slots_of, variables_in
from .summarized import Summarized
from .walk import kind_of

__all__ = ["Module", "named_variables", "variables"]

_CONTAINERS = (list, tuple, dict)
_NUMBERS = (bool, int, float, complex, str, bytes, np.generic)
_MANY = 100_000  # elements of an attribute that are not looked through when it is replaced
_PARTS = 100  # variables that a printer of nested objects gets one by one
_PARTS_OF_TREE = 1000  # the same for one that folds

_hooks: list[Callable[[Module], object]] = []
_hooks_lock = guarded(threading.RLock())  # reentrant, since a finalizer may remove a hook


class _DefaultName:
    """The default of ``Module.name``, until the instance has an attribute of this name.

    The class itself has no such attribute, or a dataclass would take it as the default of its field ``name``.
    """

    def __get__(self, module: Module | None, owner: type) -> str:
        if module is None:
            raise AttributeError("name")
        return _snake_case(owner.__name__)


class _NoFlag:
    """Refuses ``module.trainable = …``, which would set an attribute that nothing reads, unless the class declares it.

    The class itself has no such attribute, or a dataclass would take it as the default of its field ``trainable``.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, module: Module | None, owner: type) -> Any:
        if module is not None and self._name in module.__dict__:
            return module.__dict__[self._name]
        raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}")

    def __set__(self, module: Module, value: Any) -> None:
        name = self._name
        if not any(name in getattr(cls, "__annotations__", ()) for cls in type(module).__mro__):
            problem = f"{type(module).__name__} has no such flag, only its variables have"
            hint = f"for v in module.variables: v.trainable = …; or declare your own in the class: {name}: bool"
            raise AttributeError(describe(name, problem, hint=hint))
        module.__dict__[name] = value

    def __delete__(self, module: Module) -> None:
        module.__dict__.pop(self._name, None)


@public()
class Module(Container, Summarized):
    """Base class for objects with variables: a layer, an optimizer, a filter, a simulation.

    Variables and submodules are found in attributes, and in lists, tuples, dicts and objects there. They are looked up
    on every access, so a variable that was appended, replaced or deleted is noticed. The path of a variable is made of
    the attributes that lead to it, such as ``encoder/layers/0/kernel``, so nobody need choose unique names.

    Args:
        name: the name of its `name_scope`; by default the name of the class in snake case. A subclass need not call
            ``super().__init__()``.

    A module can be copied with `copy.deepcopy` and pickled, with its variables. Attributes of the class, as opposed to
    the instance, belong to no module.

    An attribute that is a variable can be deleted, or replaced by another variable, by an object that is no value, or
    by None. Replacing it by a number or an array is a `ReadOnlyError`: to write the variable, use `Variable.assign`.

    Source: ``tf.Module``, ``torch.nn.Module``.

    >>> import statevar as sv
    >>> class Dense(sv.Module):
    ...     def __init__(self, inputs, outputs):
    ...         self.kernel = sv.Variable("glorot_uniform", shape=(inputs, outputs), name="kernel")
    ...         self.bias = sv.Variable("zeros", shape=(outputs,), name="bias")
    ...
    ...     def __call__(self, x):
    ...         return x @ self.kernel + self.bias
    >>> class Model(sv.Module):
    ...     def __init__(self):
    ...         self.layers = [Dense(2, 3)]
    >>> model = Model()
    >>> model.layers.append(Dense(3, 1))
    >>> list(model.named_variables())
    ['layers/0/kernel', 'layers/0/bias', 'layers/1/kernel', 'layers/1/bias']
    >>> model
    <Model: 4 variables, 13 elements, 52 bytes>

    ``print(model)`` lists the variables, as `summary` does.
    """

    name: str = _DefaultName()  # type: ignore[assignment]  # gives a string
    if not TYPE_CHECKING:  # for a type checker there is no such attribute
        trainable = _NoFlag()
        requires_grad = _NoFlag()  # its name in torch

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            scopes.check_name(name)
            self.name = name

    if not TYPE_CHECKING:  # else a type checker would accept every attribute

        def __setattr__(self, name: str, value: Any) -> None:
            if name in (attributes := self.__dict__):
                old = attributes[name]
            else:
                old = getattr(type(self), name, None)
                if type(old) is MemberDescriptorType:
                    old = getattr(self, name, None)
            if (isinstance(old, Variable) or type(old) in _CONTAINERS) and not isinstance(value, Variable):
                _check_replacement(self, name, old, value)
            super().__setattr__(name, value)
            if _hooks:
                for hook in _hooks.copy():
                    hook(self)

    def name_scope(self) -> AbstractContextManager[str]:
        """Puts the module's name before the path of every variable made in the ``with`` block.

        Raises:
            NameScopeError: the name is empty, not a string, or contains a slash.

        Source: ``tf.Module.name_scope``.

        >>> import statevar as sv
        >>> with sv.Module("encoder").name_scope():
        ...     sv.Variable(0.0, name="bias").path
        'encoder/bias'
        """
        return scopes.name_scope(self.name)

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables in the module, each once, in the order of attributes and items, depth first."""
        return tuple(contents_of("variables", self))

    @property
    def trainable_variables(self) -> tuple[Variable, ...]:
        """The `variables` of the module that are trainable."""
        return tuple(variable for variable in self.variables if variable.trainable)

    @property
    def non_trainable_variables(self) -> tuple[Variable, ...]:
        """The `variables` of the module that are not trainable."""
        return tuple(variable for variable in self.variables if not variable.trainable)

    @property
    def submodules(self) -> tuple[Module, ...]:
        """The modules in this module, at any depth and each once, in the order of `variables`; without itself."""
        return tuple(objects_in(self, Module))

    def named_variables(self) -> dict[str, Variable]:
        """The `variables` of the module by path, like the function `named_variables`."""
        return dict(paths_in("named_variables", self).variables)

    def named_submodules(self) -> dict[str, Module]:
        """The `submodules` of the module by path. Errors are those of `named_variables`.

        >>> import statevar as sv
        >>> outer, inner = sv.Module(), sv.Module()
        >>> outer.steps = {"first": inner, "last": inner}
        >>> list(outer.named_submodules())
        ['steps/first']
        """
        return named_in("named_submodules", self, Module)

    _repr_pretty_ = Shown._repr_pretty_  # IPython looks no further than the class with `__repr__`

    def __repr__(self) -> str:
        return _line(self)

    def __str__(self) -> str:
        if _has_its_own_repr(type(self)):
            return repr(self)
        try:
            found = self._summary()
        except Exception:  # noqa: BLE001  # printing never raises
            return _line(self)
        return str(found) if found.variables else _line(self)

    def _shown_parts(self) -> Iterator[tuple[str, Any]]:
        return _parts(self, _PARTS)

    def _shown_tree(self) -> Iterator[tuple[str, Any]]:
        return _parts(self, _PARTS_OF_TREE)


@public()
def variables(obj: Any) -> tuple[Variable, ...]:
    """The variables in any object, each once, in the order of attributes and items, depth first.

    Functions, classes, Python modules, and the attributes of a variable are not searched.

    Args:
        obj: a variable; a `Module`; a dict, list, tuple or set; a dataclass; any object with attributes; any mix.

    Raises:
        TypeError: the object contains no variable, and is neither a `Module` nor an empty container.

    >>> import statevar as sv
    >>> v, w = sv.Variable(1.0, name="v"), sv.Variable(2.0, name="w")
    >>> [each.name for each in sv.variables({"a": [v, w], "b": v})]
    ['v', 'w']
    """
    return tuple(variables_in("variables", [obj]))


@public()
def named_variables(obj: Any) -> dict[str, Variable]:
    """The variables in any object by path: the attributes, indices and keys that lead to each, joined by slashes.

    In keys, ``~`` is written ``~0`` and ``/`` is written ``~1``, as in JSON pointers (RFC 6901). A variable that can be
    reached by several paths has the first of them.

    Args:
        obj: an object as for `variables`. A variable that is passed itself has its own `Variable.path`.

    Raises:
        NameScopeError: a variable has no path, since it is only in a set, or only under a key that is neither a string
            nor an integer.
        TypeError: the object contains no variable, and is neither a `Module` nor an empty container.

    Source: ``torch.nn.Module.named_parameters``, RFC 6901.

    >>> import statevar as sv
    >>> v, w = sv.Variable(1.0), sv.Variable(2.0)
    >>> list(sv.named_variables({"mean": v, "in/out": [w, v]}))
    ['mean', 'in~1out/0']
    """
    return dict(paths_in("named_variables", obj).variables)


def _on_setattr(hook: Callable[[Module], object]) -> Callable[[], None]:
    """Has ``hook(module)`` called after every setting of an attribute of a module; returns a function that stops it."""
    with _hooks_lock:
        _hooks.append(hook)

    def remove() -> None:
        with _hooks_lock:
            if hook in _hooks:
                _hooks.remove(hook)

    return remove


def _check_replacement(module: Module, name: str, old: Any, value: Any) -> None:
    """Raises ReadOnlyError if an attribute with variables would become a number or an array, or a container of them."""
    strings = any(each.dtype_name == "string" for each in _variables_in(old))
    if value is old or not _is_value(value, strings=strings) or next(_variables_in(old), None) is None:
        return
    what = f"{_name_of(type(value))} would replace the variable{'' if isinstance(old, Variable) else 's'}"
    problem = f"{what} in this attribute of {type(module).__name__}, which would then be neither saved nor trained"
    if isinstance(old, Variable):
        hint = f"write the variable: module.{name}.assign(...); or delete it first: del module.{name}"
    else:
        hint = f"write the variables: sv.batch_set_value([(v, x), ...]); or delete them first: del module.{name}"
    raise ReadOnlyError.of("setattr", problem, name, hint)


def _variables_in(attribute: Any) -> Iterator[Variable]:
    """The variables in an attribute, and in the lists, tuples and dicts there."""
    stack, met = [attribute], set()
    while stack and len(stack) < _MANY:
        each = stack.pop()
        if isinstance(each, Variable):
            yield each
        elif type(each) in _CONTAINERS and id(each) not in met:
            met.add(id(each))
            stack += each.values() if isinstance(each, dict) else each


def _is_value(value: Any, *, strings: bool) -> bool:
    """Whether a value is a number or an array, or a container of nothing else, rather than an object that has state."""
    stack, met, found = [value], set(), False
    while stack:
        each = stack.pop()
        if isinstance(each, Variable) or (isinstance(each, str | bytes) and not strings):
            return False
        if isinstance(each, _NUMBERS) or kind_of(type(each)).is_array:
            found = True
        elif type(each) not in _CONTAINERS:
            return False
        elif id(each) not in met:
            met.add(id(each))
            stack += each.values() if isinstance(each, dict) else each
    return found


def _name_of(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _snake_case(name: str) -> str:
    """Turns the name of a class into the name of a scope.

    >>> _snake_case("MLP"), _snake_case("DenseLayer2D"), _snake_case("_HTTPCache")
    ('mlp', 'dense_layer2_d', 'http_cache')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.lower().strip("_") or "module"


def _has_its_own_repr(cls: type[Module]) -> bool:
    """Whether a person has written how these modules are shown. What a dataclass makes itself is no such text."""
    written = cls.__repr__
    is_made = hasattr(written, "__wrapped__") and hasattr(cls, "__dataclass_fields__")
    return written is not Module.__repr__ and not is_made


def _line(module: Module) -> str:
    """The numbers of variables, elements and bytes in a module, in one line. Never raises."""
    name = type(module).__name__
    try:
        variables = objects_in(module, Variable)
        filled = [variable for variable in variables if variable.is_initialized]
        counts = [count_text(len(variables), "variable")]
        if len(filled) < len(variables):
            counts.append(f"{len(variables) - len(filled)} without a value")
        counts.append(count_text(sum(variable.size for variable in filled), "element"))
        counts.append(count_text(sum(variable.nbytes for variable in filled), "byte"))
    except Exception as error:  # noqa: BLE001  # a repr never raises
        return f"<{name} at {id(module):#x}, unavailable: {type(error).__name__}>"
    return f"<{name}: {', '.join(counts)}>"


def _parts(module: Module, most: int) -> Iterator[tuple[str, Any]]:
    """The attributes of a module, or the lines of its summary if it has more than ``most`` variables."""
    if len(objects_in(module, Variable)) > most:
        yield from module._summary().parts()
        return
    attributes = dict(module.__dict__)
    attributes |= {name: getattr(module, name) for name in slots_of(type(module)) if hasattr(module, name)}
    for name, value in attributes.items():
        if (
            not name.startswith("_")
            or isinstance(value, Variable | Module)
            or next(_variables_in(value), None) is not None
        ):
            yield name, value
