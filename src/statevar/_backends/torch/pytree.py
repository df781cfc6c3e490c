"""Variables as pytree nodes of torch: to ``torch.func`` and ``torch.vmap`` an argument stands for its value."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.utils import _pytree

__all__ = ["register"]


def register(variable_type: type, snapshot_type: type, receive: Any) -> None:
    """Registers both types as pytree nodes of torch.

    Args:
        receive: returns the value of a variable as a tensor.
    """

    def flatten(variable: Any) -> tuple[list[Any], None]:
        value = receive(variable)
        while is_functorch_wrapped_tensor(value):  # read inside the transform, which takes what was there before
            value = get_unwrapped(value)
        return [value], None

    def unflatten(leaves: Any, _: None) -> Any:
        return snapshot_type(next(iter(leaves)))  # a copy, which raises an error on a write

    def flatten_snapshot(snapshot: Any) -> tuple[list[Any], None]:
        return [snapshot.value], None

    for cls, how in ((variable_type, flatten), (snapshot_type, flatten_snapshot)):
        with suppress(ValueError):  # it is registered already
            _pytree.register_pytree_node(cls, how, unflatten, serialized_type_name=f"statevar.{cls.__name__}")
