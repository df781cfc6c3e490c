"""`all_reduce`: values of all processes, combined in one collective for each dtype."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Literal

import numpy as np

from .._arrays.collectives import Leaf, Plan, engine_of, plan_of, reduced, state_of
from .._arrays.dtypes import dtype_kind
from .._arrays.registry import default_backend, owner_of
from .._arrays.trees import like
from .._arrays.types import Array
from .._core.convert import unwrapped
from .._core.foreign import check_readable
from .._core.replicas import is_per_replica
from .._core.variable import Variable
from .._public import public
from ..errors import DTypeError, NotAddressableError, describe

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
    values: list[Any] = []
    structure = _flat(tree, values)
    kinds = set(map(type, values))
    if any(map(_is_special, kinds)):
        values = [_value(each, reduction) for each in values]
    arrays = [_of_number(each) for each in values] if kinds & _NUMBERS else values
    key, plan = _key_of(arrays, structure, reduction)
    if plan is not None:
        results = plan.run(arrays)
    else:
        leaves = [_leaf(each, reduction) for each in arrays]
        results = reduced(leaves, reduction, "all_reduce", structure=repr(structure), key=key)
    if kinds & _NUMBERS:
        results = [_like(*each) for each in zip(values, results, strict=True)]
    return _filled(tree, iter(results), kinds)


_NUMBERS = {int, float, complex}
#: The widest dtype for a Python number.
_WIDEST = {int: "int64", float: "float64", complex: "complex128"}


def _flat(tree: Any, values: list[Any]) -> Any:
    """Appends the leaves of a tree, and returns its keys and its form, which must be the same in all processes."""
    if isinstance(tree, dict):
        return "dict", *[(_name(key), _flat(each, values)) for key, each in tree.items()]
    if isinstance(tree, list | tuple):
        return "list", *[_flat(each, values) for each in tree]
    if tree is None:
        return None
    values.append(tree)
    return 0


def _filled(tree: Any, results: Iterator[Any], kinds: set[type]) -> Any:
    """A tree like another one, with the results in place of its leaves, whose classes are given."""
    if isinstance(tree, dict | list | tuple):
        parts = tree.values() if isinstance(tree, dict) else tree
        new = [next(results) if type(each) in kinds else _filled(each, results, kinds) for each in parts]
        return new if type(tree) is list else like(tree, new)
    return None if tree is None else next(results)


def _name(key: Any) -> Any:
    """A key as it is the same in all processes."""
    if isinstance(key, Variable):
        return key.path
    return key if isinstance(key, str | int | tuple) else type(key).__name__


def _key_of(values: list[Any], structure: Any, reduction: str) -> tuple[Hashable, Plan | None]:
    """What tells arrays of one structure from others, or None; and the plan for it if it was combined before."""
    types = tuple(map(type, values))
    facts: dict[type, Any] = {}
    for cls, each in dict(zip(types, values, strict=True)).items():
        if (owner := owner_of(each)) is None:
            return None, None
        facts[cls] = owner.facts
    try:
        if len(facts) == 1:
            told = tuple(map(*facts.values(), values))  # in a third of the time
        else:
            told = tuple([facts[cls](each) for cls, each in zip(types, values, strict=True)])
        key = reduction, structure, types, told, state_of()
        return key, plan_of(key)
    except (AttributeError, TypeError):  # of a traced array, which has no such facts, or none that can be hashed
        return None, None


def _is_special(cls: type) -> bool:
    """Whether objects of a class stand for an array: variables, and values of `tf.distribute`."""
    return getattr(cls, "_is_ours", False) or cls.__name__ == "PerReplica"


def _value(value: Any, reduction: str) -> Any:
    value = unwrapped(value)
    if is_per_replica(value) and (owner := owner_of(value)) is not None:  # of tf.distribute
        return owner.reduced_replicas(value, reduction)
    return value


def _of_number(value: Any) -> Any:
    """A Python number as an array of the widest dtype that the engine has; anything else as it is."""
    if type(value) not in _NUMBERS:
        return value
    return np.asarray(value, engine_of(default_backend()).default_dtype(_WIDEST[type(value)]))


def _leaf(value: Any, reduction: str) -> Leaf:
    owner = owner_of(value)
    if owner is None:
        hint = "pass arrays, variables, numbers, or lists, tuples and dicts of them; of an object, sv.variables(x)"
        raise TypeError(describe("all_reduce", f"got {type(value).__name__}, which is no array", hint=hint))
    spread = owner.spread(value)
    if spread is not None and owner.processes() > 1 and not owner.runs_per_shard():
        problem = f"got {spread.what}, and not a value of this process"
        raise NotAddressableError.of("all_reduce", problem, hint=spread.hint)
    check_readable(value, None if spread is not None else owner, "all_reduce", "")
    dtype = owner.dtype_name(value)
    kind = dtype_kind(dtype)
    if kind in ("string", "key") or (reduction in ("mean", "sum") and kind == "bool"):
        raise DTypeError.of("all_reduce", f"{dtype} values have no {reduction}", hint="combine them yourself")
    if reduction == "mean" and kind in ("int", "uint"):
        problem, hint = f"the mean of {dtype} values is no {dtype}", "use 'sum', or cast them to a floating-point dtype"
        raise DTypeError.of("all_reduce", problem, hint=hint)
    if reduction in ("min", "max") and kind == "complex":
        raise DTypeError.of("all_reduce", "complex numbers have no order, so that there is no minimum and no maximum")
    return Leaf(owner, value, dtype)


def _like(value: Any, result: Array) -> Any:
    """A result like the value that was given: a number for a number."""
    return type(value)(result.item()) if type(value) in _NUMBERS else result
