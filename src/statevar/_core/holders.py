"""Variables that become attributes of objects in which another library looks for its state.

Such an object finds only the variables of its own library: `parameters`, `state_dict` and the optimizers of torch would
leave out one of ours without a word. So the methods that set attributes look for our variables. One of the same library
is registered as what the library knows, its parameter. Any other one is an error that says what to write instead.
docs/decisions/0013-variables-in-objects-of-others.md says why. Imports no library.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import partial, wraps
from operator import attrgetter
from typing import Any

from .._arrays.import_hook import call_after_import
from ..errors import ForeignStateError

__all__ = ["watch_holders"]

_CONTAINERS = frozenset({list, tuple, dict})
_BOOKS = frozenset({"_kwargs"})  # the arguments of a tf.train.Checkpoint, which become attributes too
_OUTSIDE = "or keep the variable outside of it"


class _Row:
    """The classes of a library in whose objects it looks for state.

    Args:
        classes: their names, from the module on.
        backend: the backend whose parameters the library knows; empty if there is none.
        what: how the library calls such an object.
        loses: what of the library would leave a variable out.
        hint: what to write instead.
        in_containers: whether the library looks into lists and dicts in attributes too.
        buffers: the name of the function that takes a hook for the registration of buffers; empty if there is none.
    """

    # No named tuple, which would take 0.4 ms of every import.
    def __init__(
        self,
        classes: tuple[str, ...],
        backend: str,
        what: str,
        loses: str,
        hint: str,
        in_containers: bool = True,
        buffers: str = "",
    ) -> None:
        self.classes = classes
        self.backend = backend
        self.what = what
        self.loses = loses
        self.hint = hint
        self.in_containers = in_containers
        self.buffers = buffers


#: By the module after whose import the classes exist.
_ROWS = {
    "torch": _Row(
        ("nn.Module",),
        "torch",
        "a module of torch",
        "parameters() and state_dict()",
        f"make it a variable of torch, sv.Variable(v, backend='torch'), {_OUTSIDE}",
        in_containers=False,
        buffers="nn.modules.module.register_module_buffer_registration_hook",
    ),
    "tensorflow": _Row(
        ("Module",),
        "tensorflow",
        "an object of TensorFlow",
        "its variables and checkpoints",
        f"make it a variable of TensorFlow, sv.Variable(v, backend='tensorflow'), {_OUTSIDE}",
    ),
    "tf_keras": _Row(
        ("layers.Layer",),
        "tensorflow",
        "a layer of Keras 2",
        "its weights and files",
        f"make it a variable of TensorFlow, sv.Variable(v, backend='tensorflow'), {_OUTSIDE}",
    ),
    "keras": _Row(
        ("layers.Layer", "metrics.Metric"),
        "",
        "an object of Keras",
        "its weights and files",
        f"let Keras make the variable, w = self.add_weight(…), and use it as ours with sv.view(w); {_OUTSIDE}",
    ),
    "flax.nnx": _Row(
        ("Module",),
        "",
        "an object of nnx",
        "nnx.state and nnx.split",
        f"let nnx make the variable, self.w = nnx.Param(v.value), and use it as ours with sv.view(self.w); {_OUTSIDE}",
    ),
}

#: By the id of a holder, its variables by attribute: one that has a constraint, or a subscriber, lives as long as it.
_kept: dict[int, dict[str, Any]] = {}


def watch_holders(variable_type: type) -> None:
    """Has each library look for variables in attributes, now or when the library is imported."""
    for module in _ROWS:
        if sys.modules.get(module) is not None:
            _watch_module(module, variable_type)
        else:
            call_after_import(module, partial(_watch_module, module, variable_type))


def _watch_module(module: str, variable_type: type) -> None:
    row = _ROWS[module]
    for name in row.classes:
        cls = attrgetter(name)(sys.modules[module])
        _watch(next(base for base in cls.__mro__ if "__setattr__" in vars(base)), row, variable_type)
    if row.buffers:
        attrgetter(row.buffers)(sys.modules[module])(partial(_refuse_buffer, row, variable_type))


def _refuse_buffer(row: _Row, variable_type: type, holder: Any, name: str, buffer: Any) -> None:
    """Raises an error if a variable is to be a buffer, in whose place the library puts others when it moves it."""
    if isinstance(buffer, variable_type):
        hint = f"assign it, {name} = v, also if it has trainable=False; {_OUTSIDE}"
        raise _error(holder, name, "a variable as a buffer", row, hint)


def _watch(cls: Any, row: _Row, variable_type: type) -> None:
    original: Callable[[Any, str, Any], None] = cls.__setattr__

    @wraps(original)
    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807  # it takes the place of a method
        if isinstance(value, variable_type):
            value = _registered(self, name, value, row)
        elif type(value) in _CONTAINERS and row.in_containers and name not in _BOOKS:
            _check_items(self, name, value, row, variable_type)
        original(self, name, value)

    cls.__setattr__ = __setattr__


def _registered(holder: Any, name: str, variable: Any, row: _Row) -> Any:
    """What the library stores in place of a variable."""
    if variable.backend == row.backend:
        parameter = variable._parameter_or_none()
        if parameter is not None:
            _keep(holder, name, variable)
            return parameter
    kind, hint = f"a variable of {variable.backend}", row.hint
    if variable.shared is not None:
        kind, hint = "a variable that processes share", "keep the variable outside of it, and give its code v.value"
    elif variable.backend == row.backend:
        kind = "a view of an item"
    raise _error(holder, name, kind, row, hint)


def _check_items(holder: Any, name: str, container: Any, row: _Row, variable_type: type) -> None:
    items = container.values() if type(container) is dict else container
    variable: Any = next((each for each in items if isinstance(each, variable_type)), None)
    if variable is not None:
        same = variable.backend == row.backend
        hint = f"put v.parameter there, which sv.view(v.parameter) gives back; {_OUTSIDE}" if same else row.hint
        raise _error(holder, name, f"a variable of {variable.backend} in a {type(container).__name__}", row, hint)


def _error(holder: Any, name: str, kind: str, row: _Row, hint: str) -> ForeignStateError:
    problem = f"{row.what} cannot register {kind}, so {row.loses} would leave it out"
    return ForeignStateError.of("attribute", problem, f"{type(holder).__qualname__}.{name}", hint)


def _keep(holder: Any, name: str, variable: Any) -> None:
    names = _kept.get(id(holder))
    if names is None:
        names = _kept[id(holder)] = {}
        weakref.finalize(holder, _kept.pop, id(holder), None).atexit = False
    names[name] = variable
