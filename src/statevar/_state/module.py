"""`Module`: an object that knows the variables it holds; `variables` and `named_variables` of anything else."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from .._core import scopes
from .._core.forks import guarded
from .._core.variable import Variable
from .._public import public
from .paths import Container, named_in, objects_in, paths_in, variables_in

__all__ = ["Module", "named_variables", "variables"]

_LINES = 20  # of the tree that is printed

_hooks: list[Callable[[Module], object]] = []
_hooks_lock = guarded(threading.RLock())  # again by a finalizer that ends a hook


class _DefaultName:
    """``name``, until there is an attribute of this name. None on the class: a field of a dataclass has no default."""

    def __get__(self, module: Module | None, owner: type) -> str:
        if module is None:
            raise AttributeError("name")
        return _snake_case(owner.__name__)


@public()
class Module(Container):
    """Base class of what holds variables: a layer, an optimizer, a filter, a simulation.

    Variables and submodules are found in attributes, and in lists, tuples, dicts and objects there, at the moment in
    which they are asked for: what was appended, replaced or deleted since is seen. A variable has the path of
    attributes that leads to it, such as ``encoder/layers/0/kernel``, so that nobody need choose unique names.

    Args:
        name: of its `name_scope`; by default the name of the class in snake case. A subclass need not call
            ``super().__init__()``.

    It can be copied with `copy.deepcopy` and pickled, with its variables. What an attribute of the class holds, and
    not of the instance, belongs to no module.

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
    >>> print(model)
    <Model: 4 variables, 13 elements, 52 bytes>
      layers/0: <Dense: 2 variables, 9 elements, 36 bytes>
      layers/1: <Dense: 2 variables, 4 elements, 16 bytes>
    """

    name: str = _DefaultName()  # type: ignore[assignment]  # gives a string

    def __init__(self, name: str | None = None) -> None:
        if name is not None:
            scopes.check_name(name)
            self.name = name

    def name_scope(self) -> AbstractContextManager[str]:
        """Puts the module's name before the path of every variable made inside the ``with`` block.

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
        """The variables inside, each once, in the order of attributes and items, depth first."""
        return tuple(objects_in(self, Variable))

    @property
    def trainable_variables(self) -> tuple[Variable, ...]:
        """Those of the `variables` that gradients are wanted for."""
        return tuple(variable for variable in self.variables if variable.trainable)

    @property
    def non_trainable_variables(self) -> tuple[Variable, ...]:
        """The other `variables`."""
        return tuple(variable for variable in self.variables if not variable.trainable)

    @property
    def submodules(self) -> tuple[Module, ...]:
        """The modules inside, at any depth, each once, in the order of `variables`; not the module itself."""
        return tuple(objects_in(self, Module))

    def named_variables(self) -> dict[str, Variable]:
        """The `variables` by path, as the function `named_variables` gives them."""
        return dict(paths_in("named_variables", self).variables)

    def named_submodules(self) -> dict[str, Module]:
        """The `submodules` by path. Errors are those of `named_variables`.

        >>> import statevar as sv
        >>> outer, inner = sv.Module(), sv.Module()
        >>> outer.steps = {"first": inner, "last": inner}
        >>> list(outer.named_submodules())
        ['steps/first']
        """
        return named_in("named_submodules", self, Module)

    def __repr__(self) -> str:
        return _line(self)

    def __str__(self) -> str:
        try:
            lines = [
                f"{'  ' * depth}{path}: {_line(each)}" for depth, path, each in _tree(self.named_submodules(), _LINES)
            ]
            more = len(self.submodules) - len(lines)
        except Exception:  # noqa: BLE001  # it never raises
            return _line(self)
        return "\n".join([_line(self), *lines, *([f"  … and {more:,} more"] if more > 0 else [])])


@public()
def variables(obj: Any) -> tuple[Variable, ...]:
    """The variables in anything, each once, in the order of attributes and items, depth first.

    Args:
        obj: a variable; a `Module`; a dict, list, tuple or set; a dataclass; any object with attributes; any mix.

    Functions, classes, modules of Python, and what a variable itself refers to, are not looked into.

    Raises:
        TypeError: there is no variable in it, and it is no `Module` and no empty container.

    >>> import statevar as sv
    >>> v, w = sv.Variable(1.0, name="v"), sv.Variable(2.0, name="w")
    >>> [each.name for each in sv.variables({"a": [v, w], "b": v})]
    ['v', 'w']
    """
    return tuple(variables_in("variables", [obj]))


@public()
def named_variables(obj: Any) -> dict[str, Variable]:
    """The variables in anything by path: the attributes, indices and keys that lead to each, joined by slashes.

    In keys, ``~`` is written ``~0`` and ``/`` is written ``~1``, as in JSON pointers (RFC 6901). A variable that is
    reached twice has its first path.

    Args:
        obj: as for `variables`. A variable alone has its own `Variable.path`.

    Raises:
        NameScopeError: a variable has no path: it is in a set only, or under a key that is no string and no integer.
        TypeError: there is no variable in it, and it is no `Module` and no empty container.

    Source: ``torch.nn.Module.named_parameters``, RFC 6901.

    >>> import statevar as sv
    >>> v, w = sv.Variable(1.0), sv.Variable(2.0)
    >>> list(sv.named_variables({"mean": v, "in/out": [w, v]}))
    ['mean', 'in~1out/0']
    """
    return dict(paths_in("named_variables", obj).variables)


def _on_setattr(hook: Callable[[Module], object]) -> Callable[[], None]:
    """Has it called with each module of which an attribute was just set; what is returned ends that."""
    with _hooks_lock:
        _hooks.append(hook)
        # Only while somebody listens: a `__setattr__` in Python takes 0.4 us, and Python's own 0.02 us.
        Module.__setattr__ = _told  # type: ignore[method-assign]  # by one of the same form

    def remove() -> None:
        with _hooks_lock:
            if hook in _hooks:
                _hooks.remove(hook)
                if not _hooks:
                    del Module.__setattr__

    return remove


def _told(module: Any, name: str, value: Any) -> None:
    super(Module, module).__setattr__(name, value)
    for hook in _hooks.copy():
        hook(module)


def _snake_case(name: str) -> str:
    """The name of a class as that of a scope.

    >>> _snake_case("MLP"), _snake_case("DenseLayer2D"), _snake_case("_HTTPCache")
    ('mlp', 'dense_layer2_d', 'http_cache')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.lower().strip("_") or "module"


def _line(module: Module) -> str:
    """The counts of what is in a module, in one line. Never raises."""
    name = type(module).__name__
    try:
        variables = objects_in(module, Variable)
        filled = [variable for variable in variables if variable.is_initialized]
        counts = [_count(len(variables), "variable")]
        if len(filled) < len(variables):
            counts.append(f"{len(variables) - len(filled)} without a value")
        counts.append(_count(sum(variable.size for variable in filled), "element"))
        counts.append(_count(sum(variable.nbytes for variable in filled), "byte"))
    except Exception as error:  # noqa: BLE001  # a repr never raises
        return f"<{name} at {id(module):#x}, unavailable: {type(error).__name__}>"
    return f"<{name}: {', '.join(counts)}>"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _tree(modules: dict[str, Module], most: int) -> list[tuple[int, str, Module]]:
    """(depth, path from the module above, module) of the first few. A module above comes before what it holds."""
    rows: list[tuple[int, str, Module]] = []
    above: list[str] = []
    for path, each in modules.items():
        if len(rows) == most:
            break
        while above and not path.startswith(f"{above[-1]}/"):
            above.pop()
        start = len(above[-1]) + 1 if above else 0
        above.append(path)
        rows.append((len(above), path[start:], each))
    return rows
