"""`filled`: a copy of a tree that cannot change, with the values of a file or of another tree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar, Unpack

import numpy as np

from .._arrays.registry import get_backend, owner_of
from .._core.variable import Variable
from .._public import public
from .._state.filling import Filling
from .._state.foreign.table import adapters_of
from .._state.view import View
from ..errors import DeviceError, StatevarError
from ._load import load
from ._match import LoadOptions

__all__ = ["filled"]

_Tree = TypeVar("_Tree")

_NUMBERS = {bool: np.bool_, int: np.int64, float: np.float64, complex: np.complex128}


@public()
def filled(tree: _Tree, source: Any, **options: Unpack[LoadOptions]) -> _Tree:
    """Returns a copy of a tree with the values of a file or of another tree, for trees that cannot be written.

    Such trees are modules of equinox, states of optax and other named tuples, frozen dataclasses and frozen dicts. The
    copy has the same types, and its arrays have the same dtypes, shapes, libraries and devices. ``tree`` stays as it
    is.

    Args:
        tree: a tree of arrays and numbers: any that `view` takes. Its values do not matter, so those of JAX may be
            of ``jax.ShapeDtypeStruct``, as `jax.eval_shape` returns them.
        source: the path of a file; a mapping from path to array; a snapshot; or another tree of arrays.
        options: those of `load`: ``strict``, ``rename``, ``cast``, ``only``, ``separator``. What is not loaded has the
            value that it has in ``tree``.

    Raises:
        CheckpointError: the file is damaged.
        CheckpointMismatchError: the source does not match the tree. One message lists all the problems.
        ForeignStateError: the tree contains state that changes by itself; `load` writes into it.

    >>> from typing import NamedTuple
    >>> import numpy as np
    >>> import statevar as sv
    >>> class State(NamedTuple):
    ...     count: int
    ...     mean: np.ndarray
    >>> sv.filled(State(0, np.zeros(2)), {"count": 3, "mean": np.ones(2)})
    State(count=3, mean=array([1., 1.]))
    """
    filling = Filling("filled", tree)
    target = _mapped(filling.leaves)
    load(target, _source(source), **options)

    def value(path: str, old: Any) -> Any:
        variable: Any = target
        for key in path.split("/"):
            variable = variable[key.replace("~1", "/").replace("~0", "~")]
        return _like(variable, old) if variable.is_initialized else old

    new: _Tree = filling.with_values(value)
    return new


def _mapped(leaves: dict[str, Any]) -> dict[str, Any]:
    return {key: _mapped(each) if isinstance(each, dict) else _empty(each) for key, each in leaves.items()}


def _empty(leaf: Any) -> Variable:
    """A variable without a value, of the dtype and shape of a leaf, in its place."""
    native = owner_of(leaf)
    if native is None and type(leaf) not in _NUMBERS:  # a shape and a dtype
        return Variable(shape=leaf.shape, dtype=str(leaf.dtype), trainable=False, backend=_library_of(leaf))
    if native is None:
        native, leaf = get_backend("numpy"), np.zeros((), _NUMBERS[type(leaf)])
    try:
        device = native.device(native.device_of(leaf))
    except DeviceError:  # it lies on several
        device = None
    shape, dtype = native.shape(leaf), native.dtype_name(leaf)
    return Variable(shape=shape, dtype=dtype, trainable=False, backend=native.name, device=device)


def _library_of(shape: Any) -> str:
    """The library of the arrays that an object describes."""
    opens = [adapter.open_item for adapter in adapters_of(type(shape)) if adapter.open_item is not None]
    return next(slot.backend for each in opens if (slot := each([shape], 0, shape)) is not None)


def _like(variable: Variable, old: Any) -> Any:
    """The value of a variable as what it replaces is: an array of the same library, or a number of the same type."""
    native = owner_of(old)
    if native is None and type(old) not in _NUMBERS:
        place = getattr(old, "sharding", None)
        return variable.value if place is None else variable._backend.moved(variable.value, place)
    if native is None:
        return type(old)(variable.numpy().item())
    if isinstance(old, np.ndarray):
        return variable.numpy()
    value, device = variable.value, native.device_of(old)
    return value if native.device_of(value) == device else native.moved(value, device)


def _source(source: Any) -> Any:
    if isinstance(source, str | bytes | os.PathLike | View | Variable):
        return source
    if isinstance(source, Mapping) and (_is_ours(source) or not any(_has_parts(each) for each in source.values())):
        return source
    try:
        Filling("filled", source)
    except (StatevarError, TypeError):  # it is an object with variables
        return source
    return View(source)


def _is_ours(source: Any) -> bool:
    return type(source).__module__.partition(".")[0] == "statevar"


def _has_parts(each: Any) -> bool:
    return owner_of(each) is None and not isinstance(each, bool | int | float | complex)
