"""What is state in a module of PyTorch: parameters, persistent buffers, extra state, and what its attributes hold."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch

from ..._arrays.slots import Opened, Place
from ...errors import ForeignStateError
from .states import BytesState
from .torch_tensor import TensorItem

__all__ = ["children_of_module"]

#: The attributes in which torch keeps its own books.
_BOOKS = frozenset(vars(torch.nn.Module())) | {"_flat_weights", "_flat_weight_refs"}


def children_of_module(module: torch.nn.Module) -> Opened:
    """The state of a module by the names that torch gives; None if its constructor has not run."""
    own = vars(module)
    if "_parameters" not in own and not isinstance(module, torch.jit.ScriptModule):
        return None
    for hook in list(own.get("_state_dict_pre_hooks", {}).values()):  # as `module.state_dict()` calls them, too
        if str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp."):
            hook(module, "", keep_vars=True)  # puts back what is stored, in place of what a forward has gathered
    children: dict[str, Any] = {name: each for name, each in module._parameters.items() if each is not None}
    passing = module._non_persistent_buffers_set
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in passing:
            children[name] = TensorItem(Place(module, "buffers", name), module._buffers, name)
    children |= {name: each for name, each in module._modules.items() if each is not None}
    if type(module).get_extra_state is not torch.nn.Module.get_extra_state:
        children["_extra_state"] = _extra_state(module)
    # What is neither: variables of ours, generators, lists of modules that torch itself does not see.
    children |= {name: each for name, each in own.items() if not _is_of_torch(name) and not _is_plain(each)}
    return children


def _is_of_torch(name: str) -> bool:
    """Whether torch keeps its own books in an attribute; `fully_shard` makes its names at run time."""
    return name in _BOOKS or name.startswith("__composable_api_")


def _is_plain(value: Any) -> bool:
    """Whether an attribute is a value that torch does not save: a number, a text, or a tensor that is no buffer."""
    return value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.Tensor)


def _extra_state(module: torch.nn.Module) -> BytesState:
    where = Place(module, "extra state")
    return BytesState(where, partial(_read_extra, module), partial(_write_extra, module))


def _read_extra(module: torch.nn.Module) -> bytes:
    state = module.get_extra_state()
    if isinstance(state, bytes):
        return b"b" + state
    try:
        return b"j" + json.dumps(state).encode()
    except (TypeError, ValueError) as error:
        name = type(module).__qualname__
        problem = f"get_extra_state of {name} returns {type(state).__name__}, which is no JSON ({error})"
        raise ForeignStateError.of("view", problem, hint="return bytes, or numbers, texts, lists and dicts") from None


def _write_extra(module: torch.nn.Module, data: bytes) -> None:
    module.set_extra_state(data[1:] if data[:1] == b"b" else json.loads(data[1:]))
