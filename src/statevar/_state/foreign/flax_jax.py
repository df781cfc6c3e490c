"""The slots of nnx variables: what is stored in them, without their hooks."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.errors import FlaxError

from ..._arrays.slots import Opened, Place, Shared, Slot
from ...errors import ForeignStateError, ReadOnlyError, StatevarError, TraceError
from .items import Number
from .jax import REFS, RefSlot, beside, untraced

__all__ = ["open_variable"]


def open_variable(variable: Any) -> Opened:
    """The slot of a variable; of one with several arrays, a slot for each."""
    value = _stored(variable)
    if value is None or isinstance(value, str):
        return {}
    if isinstance(value, (jax.Array, np.ndarray, np.generic, *REFS)):
        return _VariableSlot(variable)
    if isinstance(value, bool | int | float | complex):
        return Number(_Stored(variable), 0, attribute=False, thing=Place(variable, "number"))
    leaves, _ = jax.tree_util.tree_flatten_with_path(value)
    found: dict[Any, Any] = {}
    for number, (path, leaf) in enumerate(leaves):
        inner = found
        *outer, last = [_text(key) for key in path] or ["0"]
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = _leaf(variable, number, leaf)
    return found


def _leaf(variable: Any, number: int, leaf: Any) -> Slot:
    where = Place(variable, number)
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return _LeafSlot(variable, number)
    if isinstance(leaf, bool | int | float | complex):
        return Number(_Leaves(variable), number, attribute=False, thing=where)
    name = type(leaf).__qualname__
    problem = f"the {type(variable).__name__} has a value of type {name}, which is no array and no number"
    raise ForeignStateError.of("view", problem, hint="keep it in an attribute of the module instead")


def _text(key: Any) -> Any:
    for name in ("key", "idx", "name"):
        if hasattr(key, name):
            return getattr(key, name)
    return str(key)


class _Stored:
    """What a variable stores, as the only item of a list."""

    def __init__(self, variable: Any) -> None:
        self._variable = variable

    def __getitem__(self, _: int) -> Any:
        return _stored(self._variable)

    def __setitem__(self, _: int, value: Any) -> None:
        _store(self._variable, value)


class _Leaves(_Stored):
    """The leaves of the tree that a variable stores, as a list."""

    def __getitem__(self, number: int) -> Any:
        return jax.tree_util.tree_leaves(_stored(self._variable))[number]

    def __setitem__(self, number: int, value: Any) -> None:
        leaves, structure = jax.tree_util.tree_flatten(_stored(self._variable))
        leaves[number] = value
        _store(self._variable, jax.tree_util.tree_unflatten(structure, leaves))


class _VariableSlot:
    """The slot of a variable with one array, or with a reference to one."""

    backend = "jax"
    shared: Shared = "donated"

    def __init__(self, variable: Any) -> None:
        self.thing = variable
        self._variable = variable

    @property
    def trainable(self) -> bool:
        """Whether it is an `nnx.Param`."""
        return isinstance(self._variable, nnx.Param)

    @trainable.setter
    def trainable(self, trainable: bool) -> None:
        if trainable != self.trainable:
            name = type(self._variable).__name__
            problem = f"nnx asks the type of a variable whether it is trained, and this is a {name}"
            hint = "pass another filter to nnx.grad and nnx.Optimizer, such as wrt=nnx.All(nnx.Param, ...)"
            raise ReadOnlyError.of("trainable", problem, hint=hint)

    def read(self) -> Any:
        """The array that is stored now."""
        return _as_array(self._now(), self._variable)

    def write(self, array: Any) -> None:
        """Stores an array."""
        old = self._now()
        if isinstance(old, REFS):
            RefSlot(old).write(array)
        else:
            self._store(beside(array, old) if isinstance(old, jax.Array) else array)

    def version(self) -> None:
        """Returns None: nnx counts no writes."""

    def __deepcopy__(self, _: dict[Any, Any]) -> Any:
        problem = "copy.deepcopy of a variable of nnx gives its array and no variable"
        hint = "copy the module, nnx.clone(module), and take a view of the new one; or copy the value: sv.Variable(v)"
        raise ForeignStateError.of("copy", problem, hint=hint)

    def _now(self) -> Any:
        return _stored(self._variable)

    def _store(self, array: Any) -> None:
        _store(self._variable, array)


class _LeafSlot(_VariableSlot):
    """The slot of one of several arrays in a variable."""

    def __init__(self, variable: Any, number: int) -> None:
        super().__init__(variable)
        self.thing = Place(variable, number)
        self._leaves = _Leaves(variable)
        self._number = number

    def _now(self) -> Any:
        return self._leaves[self._number]

    def _store(self, array: Any) -> None:
        self._leaves[self._number] = array


def _as_array(value: Any, variable: Any) -> Any:
    if isinstance(value, REFS):
        return RefSlot(value).read()
    if isinstance(value, jax.Array):
        return untraced(value, type(variable).__name__)
    array = jax.numpy.asarray(value)
    if array.dtype != value.dtype:
        problem = f"the {type(variable).__name__} has a NumPy array of {value.dtype}, which JAX stores as {array.dtype}"
        hint = "give it an array of JAX, or call jax.config.update('jax_enable_x64', True) first"
        raise ForeignStateError.of("read", problem, hint=hint)
    return array


def _stored(variable: Any) -> Any:
    return variable.get_value() if variable.hijax else variable.get_raw_value()


def _store(variable: Any, value: Any) -> None:
    try:
        if variable.hijax:
            variable.set_value(value)
        else:
            variable.set_raw_value(value)
    except StatevarError:
        raise
    except FlaxError as error:
        name = type(variable).__name__
        problem = f"nnx refuses the write of a {name} of another trace ({error})"
        hint = "write it outside of the function that is traced, or pass the module as an argument of nnx.jit"
        raise TraceError.of("write", problem, hint=hint) from error
