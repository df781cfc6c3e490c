"""`all_reduce`: values of all processes, combined in one collective for each dtype."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from .._arrays.collectives import Leaf, engine_of, reduced
from .._arrays.dtypes import dtype_kind, dtype_name
from .._arrays.registry import default_backend, owner_of
from .._arrays.trees import leaves, tree_map
from .._arrays.types import Array
from .._core.convert import unwrapped
from .._core.foreign import check_readable
from .._core.replicas import is_per_replica
from .._core.variable import Variable
from .._public import public
from ..errors import DTypeError, describe

__all__ = ["all_reduce"]

_REDUCTIONS = ("mean", "sum", "min", "max")


@public()
def all_reduce(tree: Any, reduction: Literal["mean", "sum", "min", "max"] = "mean") -> Any:
    """Combines the values of all processes: each gets the mean, the sum, the minimum or the maximum of theirs.

    All arrays of one dtype travel together, in one collective, which is much faster than one for each array. Every
    process has to make the same call, at the same place in the program, with arrays of the same shapes. With one
    process the values are returned as they are.

    The processes are those of JAX, of torch.distributed, or the replicas of a `tf.distribute` strategy, in and out of
    ``strategy.run``. In `jax.shard_map` the values of all its shards are combined. Arrays of NumPy, and of a library
    that runs no processes, are combined by the engine that does.

    Args:
        tree: an array of any library, a variable, a Python number, or a tuple, list or dict of these, nested in any
            way, such as the gradients that `grad` returns.
        reduction: ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``.

    Returns:
        The same tree with new arrays of the same libraries, shapes and dtypes in it; a variable becomes an array.

    Raises:
        DTypeError: the dtype of an array has no such reduction: integers have no mean.
        ReplicaError: the processes gave trees of other keys, shapes or dtypes.

    Source: ``torch.distributed.all_reduce``, ``tf.distribute.ReplicaContext.all_reduce``, ``jax.lax.pmean``.

    >>> import numpy as np, statevar as sv
    >>> gradients = {"w": np.ones(2, "float32"), "b": [0.5]}
    >>> sv.all_reduce(gradients, "mean")  # one process
    {'w': array([1., 1.], dtype=float32), 'b': [0.5]}
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(describe("all_reduce", f"expected one of {', '.join(_REDUCTIONS)}, got {reduction!r}"))
    values = [_value(each, reduction) for each in leaves(tree)]
    found = [_leaf(each, reduction) for each in values]
    combined = reduced(found, reduction, "all_reduce", structure=_structure(tree))
    results = iter([_like(*each) for each in zip(values, found, combined, strict=True)])
    return tree_map(lambda _: next(results), tree)


def _value(value: Any, reduction: str) -> Any:
    value = unwrapped(value)
    if is_per_replica(value) and (owner := owner_of(value)) is not None:  # of tf.distribute
        return owner.reduced_replicas(value, reduction)
    return value


def _leaf(value: Any, reduction: str) -> Leaf:
    owner = owner_of(value)
    if owner is None:
        if isinstance(value, bool) or not isinstance(value, int | float | complex):
            hint = "pass arrays, variables, numbers, or lists, tuples and dicts of them; of an object, sv.variables(x)"
            raise TypeError(describe("all_reduce", f"got {type(value).__name__}, which is no array", hint=hint))
        owner, dtype = default_backend(), _dtype_of_number(value)
        array: Array = np.asarray(value, dtype)
    else:
        check_readable(value, None if owner.spread(value) else owner, "all_reduce", "")
        array, dtype = value, owner.dtype_name(value)
    kind = dtype_kind(dtype)
    if kind in ("string", "key") or (reduction in ("mean", "sum") and kind == "bool"):
        raise DTypeError.of("all_reduce", f"{dtype} values have no {reduction}", hint="combine them yourself")
    if reduction == "mean" and kind in ("int", "uint"):
        problem, hint = f"the mean of {dtype} values is no {dtype}", "use 'sum', or cast them to a floating-point dtype"
        raise DTypeError.of("all_reduce", problem, hint=hint)
    if reduction in ("min", "max") and kind == "complex":
        raise DTypeError.of("all_reduce", "complex numbers have no order, so that there is no minimum and no maximum")
    return Leaf(owner, array, dtype)


def _dtype_of_number(value: Any) -> str:
    """The widest dtype for a Python number that the engine has."""
    wide = {int: "int64", float: "float64", complex: "complex128"}.get(type(value), dtype_name(type(value)))
    return engine_of(default_backend()).default_dtype(wide)


def _like(value: Any, leaf: Leaf, array: Array) -> Any:
    """A result like the value that was given: a number for a number."""
    return type(value)(array.item()) if isinstance(value, int | float | complex) else array


def _structure(tree: Any) -> str:
    """The keys and the forms of a tree, as a text that is the same in all processes."""
    if isinstance(tree, dict):
        return f"{{{','.join(f'{_key(key)}:{_structure(each)}' for key, each in tree.items())}}}"
    if isinstance(tree, list | tuple):
        return f"({','.join(map(_structure, tree))})"
    return "-" if tree is None else "."


def _key(key: Any) -> str:
    if isinstance(key, Variable):
        return key.path
    return repr(key) if isinstance(key, str | int | tuple) else type(key).__name__
