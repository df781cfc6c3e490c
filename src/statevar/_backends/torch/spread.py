"""Which torch tensors have no memory of their own, and parameters in whose place a module has got such a tensor.

A tensor whose class has a ``__torch_dispatch__`` is a wrapper: its elements are in other tensors, such as the part of a
`DTensor` that this process has. Torch ignores ``parameter.data = …`` of a wrapper, and counts the uses of the wrapper
and not those of the memory: a write would be lost, and a snapshot would change.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from ..._arrays.placement import Spread
from ...errors import DeviceError

__all__ = ["Places", "is_over_a_mesh", "spread_of"]

_NONE = torch.Tensor.__torch_dispatch__


def is_over_a_mesh(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a `DTensor`. Its class is imported only once somebody has made one."""
    return hasattr(tensor, "placements") and hasattr(tensor, "device_mesh")


def spread_of(value: Any) -> Spread | None:
    """How the elements of a tensor of any class are spread; None if they are in its own memory."""
    cls = type(value)
    if getattr(cls, "__torch_dispatch__", _NONE) == _NONE or isinstance(value, FakeTensor):
        return None
    if is_over_a_mesh(value):
        placed = ", ".join(map(str, value.placements))
        return Spread(
            f"a {cls.__name__} over a mesh of {value.device_mesh.size()} processes, placed as {placed}",
            "pass x.full_tensor() for the whole value, or x.to_local() for the part of this process",
        )
    return Spread(
        f"a {cls.__name__}, a tensor whose elements are in other tensors", "pass a plain torch.Tensor with its value"
    )


class Places:
    """The modules in which a parameter of ours was registered.

    Functions that shard a module (`fully_shard`, `parallelize_module`) put other parameters into it. The variable would
    stay behind with the old value, so the next access to it is an error.
    """

    __slots__ = ("_found", "_parameter")

    def __init__(self, parameter: torch.Tensor) -> None:
        key = id(parameter)
        self._parameter = weakref.ref(parameter, lambda _: _known.pop(key, None))
        self._found: list[tuple[weakref.ref[torch.nn.Module], str]] = []
        _watch_registrations()
        _known[key] = self

    def check(self) -> None:
        """Raises DeviceError if a module has a parameter in place of this one that is spread, or made of another."""
        for module, name in self._found:
            if (owner := module()) is not None:
                new = owner._parameters.get(name)
                if new is None and not self._is_registered():
                    new = vars(owner).get(
                        name
                    )  # a part of a flat parameter, say, or the product of a weight and a norm
                self._check(owner, name, new)

    def _is_registered(self) -> bool:
        parameter = self._parameter()
        owners = (module() for module, _ in self._found)
        return any(each is parameter for owner in owners if owner is not None for each in owner._parameters.values())

    def _check(self, module: torch.nn.Module, name: str, new: Any) -> None:
        parameter = self._parameter()
        if new is parameter or not isinstance(new, torch.Tensor) or parameter is None:
            return
        spread = spread_of(new)
        if spread is None and not isinstance(new, torch.nn.Parameter):
            spread = Spread("another tensor", "")
        if spread is None and new.is_meta and not parameter.is_meta:
            spread = Spread("a parameter on the device 'meta', which has no elements", "")
        if spread is None and hasattr(parameter, "_fsdp_orig_uid"):  # while fully_shard has it gathered
            spread = Spread("a parameter that fully_shard manages", "")
        if spread is not None:
            raise DeviceError.of(
                "parameter",
                f"{type(module).__name__}.{name} was the parameter of a variable, and is {spread.what} now: the "
                "variable would keep the old value",
                hint="give the module a parameter of its own before sharding it, and assign to the variable afterwards",
            )


_known: dict[int, Places] = {}
_watching: list[Any] = []


def _registered(module: torch.nn.Module, name: str, parameter: Any) -> None:
    if (places := _known.get(id(parameter))) is not None:
        places._found.append((weakref.ref(module), name))
    elif (old := module._parameters.get(name)) is not None and (places := _known.get(id(old))) is not None:
        places._check(module, name, parameter)


def _watch_registrations() -> None:
    if not _watching:
        _watching.append(torch.nn.modules.module.register_module_parameter_registration_hook(_registered))
