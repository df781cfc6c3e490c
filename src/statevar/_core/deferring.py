"""`deferred`: variables that are made without a value, and remember how to make it.

The scope defers what a variable can make later as well: initializers, and values that lie on the host, which are
copied. So the value can be made where it is wanted: cut over a mesh, or not at all if a file is loaded instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import count
from typing import Any, Final
from weakref import ref

import numpy as np

from .._arrays.dtypes import KEYS, cast_host, default_for, dtype_name, keys_are_no_numbers
from .._arrays.first_values import Made
from .._arrays.registry import owner_of
from .._arrays.shapes import DeclaredShape, Shape, fits
from .._public import public
from ..errors import ShapeError
from ..initializers import draws_anew, is_ours
from .convert import host_from_python, unwrapped
from .creation import called_later, initial_value
from .foreign import array_in, check_readable

__all__ = ["DEPTH", "RECIPES", "Recipe", "deferred", "forget", "recipe_for", "recipe_of", "remember", "suspended"]

#: How many scopes are open in this thread or task.
DEPTH: Final[ContextVar[int]] = ContextVar("statevar_deferred", default=0)
#: By the id of a variable without a value: the variable, and how to make its value.
RECIPES: Final[dict[int, tuple[ref[Any], Recipe]]] = {}
_numbers = count()


class _Deferred(ContextDecorator):
    """A ``with`` block, or a decorated function. It has no state, so it can be entered again, also inside itself."""

    def __enter__(self) -> None:
        DEPTH.set(DEPTH.get() + 1)

    def __exit__(self, *_: object) -> None:
        DEPTH.set(DEPTH.get() - 1)

    def __reduce__(self) -> tuple[Any, ...]:
        return deferred, ()


@public()
def deferred() -> _Deferred:
    """Makes the variables of the block without values; each remembers how to make its own.

    The values are made later: by `shard`, in shards, so that none is ever whole on a device; by `materialize`, where
    the variable is; or not at all if `load` or a `CheckpointManager` gives the variable another one. Until then a read
    is an error, and copies and pickles remember it too. The numbers are the same as without the block.

    Deferred are initializers, and values that lie on the host: numbers, lists and NumPy arrays, of which the variable
    keeps a copy. An array that another library has on a device is there already, and is stored at once. A function of
    your own is called later, in the order in which the variables were made; one that is called without a shape is
    called at once, since its result says the shape.

    >>> import statevar as sv
    >>> with sv.deferred():
    ...     model = {"kernel": sv.Variable("normal", shape=(2, 2), seed=0), "bias": sv.Variable([1.0, 2.0])}
    >>> model["bias"].is_initialized, model["bias"].shape
    (False, (2,))
    >>> sv.materialize(model)
    >>> model["bias"].value
    array([1., 2.], dtype=float32)
    """
    return _Deferred()


@contextmanager
def suspended() -> Iterator[None]:
    """Inside it, variables get their values at once: copies, and what an initializer makes when it is called."""
    token = DEPTH.set(0)
    try:
        yield
    finally:
        DEPTH.reset(token)


class Recipe:
    """How the first value of a variable is made.

    Args:
        initializer: the name of an initializer, a callable, or a host array.
        shape: the shape of the value.
        dtype: the dtype that the value has, unless another was asked for.
        seed: of a named initializer. Without one it is chosen now, so that copies get the same numbers.
        chosen: whether the seed was chosen, so that another process has another one.
    """

    __slots__ = ("chosen", "dtype", "initializer", "number", "seed", "shape")

    def __init__(self, initializer: Any, shape: Shape, dtype: str, seed: Any = None, chosen: bool = False) -> None:
        self.initializer = initializer
        self.shape = shape
        self.dtype = dtype
        self.seed = seed
        self.chosen = chosen
        self.number = next(_numbers)  # the order in which the variables were made

    def parts(self) -> tuple[Any, ...]:
        """The arguments of an equal one, for copies and pickles, which contain no private names."""
        return self.initializer, self.shape, self.dtype, self.seed, self.chosen

    def make(self, dtype: str) -> tuple[Any, bool]:
        """The value, or a `FirstValue`, and whether nobody else has it."""
        if isinstance(self.initializer, np.ndarray):  # a copy, since copies of the variable have the same one
            return Made(self.initializer.copy(), self.shape, dtype), True
        with suspended():
            value, _, fresh = initial_value(self.initializer, self.shape, dtype, self.seed)
        return value, fresh

    def settle(self, dtype: str, declared: DeclaredShape | None, path: str) -> None:
        """Casts a host value to the dtype of the variable, and checks its shape, as a variable with a value does."""
        if declared is not None and not fits(self.shape, declared):
            problem = f"the initial value has shape {self.shape}, which does not fit the declared shape {declared}"
            raise ShapeError.of("Variable", problem, path)
        if isinstance(self.initializer, _Host):
            if dtype in KEYS:
                raise keys_are_no_numbers("Variable", dtype, path)
            host, exact = self.initializer.host, self.initializer.exact
            self.initializer = np.array(cast_host(host, dtype, exact=exact, operation="Variable", path=path))
        self.dtype = dtype


class _Host:
    """A value that lies on the host, before the dtype of the variable is known."""

    __slots__ = ("exact", "host")

    def __init__(self, host: Any, exact: bool) -> None:
        self.host = host
        self.exact = exact


def recipe_for(initializer: Any, declared: DeclaredShape | None, dtype: str | None, seed: Any) -> Recipe | None:
    """What a variable remembers in place of its value; None if it gets the value at once, or has none.

    Raises:
        The errors of `initial_value`, as far as they can be known without making the value.
    """
    if initializer is None:
        return None
    if isinstance(initializer, str) or (seed is None and is_ours(initializer)):
        return _of_ours(initializer, declared, dtype, seed)
    value = array_in(unwrapped(initializer))
    if seed is not None:
        return None  # which is an error
    if value is initializer and callable(value):
        found = called_later(value, declared)
        return None if found is None else Recipe(found, declared, dtype or "float32")  # type: ignore[arg-type]  # static
    owner = owner_of(value)
    if owner is not None and (not owner.is_host or owner.is_symbolic(value)):
        return None
    check_readable(value, owner, "Variable", "")
    host, exact = host_from_python(value, "Variable", "") if owner is None else (owner.to_host(value), False)
    return Recipe(_Host(host, exact), host.shape, default_for(host) if exact else dtype_name(host.dtype))


def _of_ours(initializer: Any, declared: DeclaredShape | None, dtype: str | None, seed: Any) -> Recipe:
    dtype = dtype or "float32"
    first, _, _ = initial_value(initializer, declared, dtype, seed)
    chosen = draws_anew(initializer, seed)
    if isinstance(first, Made):  # made as a whole, which can take long, so it is not made again
        return Recipe(first.array, first.shape, dtype, None, chosen)
    if chosen:
        seed = int.from_bytes(os.urandom(16))
        if not isinstance(initializer, str):
            options = getattr(initializer, "keywords", {})
            initializer, seed = partial(initializer, **({"seed": seed} | options)), None
    return Recipe(initializer, first.shape, dtype, seed, chosen)


def remember(cell: Any, recipe: Recipe) -> None:
    """Remembers how the value of a variable is made that has none."""
    number = id(cell)
    RECIPES[number] = ref(cell, partial(_dropped, RECIPES, number)), recipe


def _dropped(recipes: dict[int, Any], number: int, _: Any) -> None:
    recipes.pop(number, None)  # not by its global name, which is gone when the interpreter ends


def recipe_of(cell: Any) -> Recipe | None:
    """How the value of a variable is made; None if it has one, or was not made in `deferred`."""
    found = RECIPES.get(id(cell)) if RECIPES else None
    return found[1] if found is not None and found[0]() is cell else None


def forget(cell: Any) -> None:
    """Called when a variable gets a value."""
    RECIPES.pop(id(cell), None)
