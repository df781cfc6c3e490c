"""Variables as pytree nodes of JAX: among the arguments of a function they stand for their value, or themselves."""

from __future__ import annotations

import threading
from typing import Any

import jax

__all__ = ["by_identity", "register"]


class _ByIdentity(threading.local):
    """Whether variables among arguments stand for themselves, as in a call of `sv.jit`, not for their values."""

    on = False


by_identity = _ByIdentity()


class Same:
    """Wraps an object that JAX must compare by identity, as part of the structure of a call's arguments."""

    __slots__ = ("object",)

    def __init__(self, each: Any) -> None:
        self.object = each

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.object is other.object

    def __hash__(self) -> int:
        return id(self.object)


def register(variable_type: type, snapshot_type: type) -> None:
    """Registers both types as pytree nodes of JAX."""

    def flatten(variable: Any) -> tuple[tuple[Any, ...], Any]:
        return ((), Same(variable)) if by_identity.on else ((_leaf(variable),), None)

    def unflatten(same: Any, leaves: Any) -> Any:
        # A transform must not create a variable: it returns a copy of the value, which raises an error on a write.
        return snapshot_type(leaves[0]) if same is None else same.object

    jax.tree_util.register_pytree_node(variable_type, flatten, unflatten)
    jax.tree_util.register_pytree_node(
        snapshot_type, lambda snapshot: ((snapshot.value,), None), lambda _, leaves: snapshot_type(leaves[0])
    )


def _leaf(variable: Any) -> Any:
    """The value of a variable of any backend as a leaf that JAX accepts.

    A NumPy snapshot never changes, so JAX may read it later.
    """
    value = variable.value
    variable._check_exists(value, "read")
    return value if isinstance(value, jax.Array) else variable.__array__()
