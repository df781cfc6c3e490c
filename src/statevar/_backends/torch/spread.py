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
from ...errors import ConflictError, DeviceError

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

    Functions that shard a module put other parameters into it. The variable follows a parameter over a mesh that stands
    for the same values (`fully_shard`, `parallelize_module`); of any other it would keep the old value, so that the
    next access to it is an error.

    Args:
        parameter: the parameter.
        before: those of the parameter in whose place a function has put this one, and which manages it.
    """

    __slots__ = ("_found", "_managed", "_parameter")

    def __init__(self, parameter: torch.Tensor, before: Places | None = None) -> None:
        key = id(parameter)
        self._parameter = weakref.ref(parameter, lambda _: _known.pop(key, None))
        self._found: list[tuple[weakref.ref[torch.nn.Module], str]] = [] if before is None else list(before._found)
        self._managed = before is not None
        _watch_registrations()
        _known[key] = self

    def replacement(self) -> Any:
        """The parameter that a module has in place of this one, if the variable can follow it; else None."""
        parameter = self._parameter()
        if parameter is not None:
            for module, name in self._found:
                new = None if (owner := module()) is None else owner._parameters.get(name)
                if new is not None and new is not parameter and _stands_for(new, parameter):
                    return new
        return None

    def wrote(self) -> None:
        """Has `fully_shard` let go of what it has gathered of the old value, for instance in a forward for evaluation.

        The next forward gathers the new value. Torch does it before it saves or loads the state of a module.
        """
        parameter = self._parameter()
        for module, name in self._found if self._managed else ():
            if (owner := module()) is not None and owner._parameters.get(name) is not parameter:
                for hook in list(owner._state_dict_pre_hooks.values()):
                    if str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp."):
                        hook(owner, "", keep_vars=True)

    def check(self) -> None:
        """Raises an error if a module has a parameter in place of this one that is spread, or made of another.

        Raises:
            ConflictError: the variable can follow it, but has not done so, since it was put there in this moment.
            DeviceError: the variable would keep the old value.
        """
        for module, name in self._found:
            if (owner := module()) is not None:
                new = owner._parameters.get(name)
                if new is None and not self._is_registered():
                    # A part of a flat parameter, say, or the product of a weight and a norm.
                    new = vars(owner).get(name)
                self._check(owner, name, new)

    def _is_registered(self) -> bool:
        parameter = self._parameter()
        owners = (module() for module, _ in self._found)
        return any(each is parameter for owner in owners if owner is not None for each in owner._parameters.values())

    def _check(self, module: torch.nn.Module, name: str, new: Any) -> None:
        parameter = self._parameter()
        if new is parameter or not isinstance(new, torch.Tensor) or parameter is None:
            return
        if self._managed and isinstance(new, torch.nn.Parameter):
            return  # while `fully_shard` has gathered it
        if _stands_for(new, parameter):
            raise ConflictError.of("parameter", "the module was sharded in the middle of this access", hint="try again")
        spread = spread_of(new)
        if spread is None and not isinstance(new, torch.nn.Parameter):
            spread = Spread("another tensor", "")
        if spread is None and new.is_meta and not parameter.is_meta:
            spread = Spread("a parameter on the device 'meta', which has no elements", "")
        if spread is None and hasattr(parameter, "_fsdp_orig_uid"):  # while fully_shard has it gathered
            spread = Spread("a parameter that fully_shard has gathered", "")
        if spread is not None:
            raise DeviceError.of(
                "parameter",
                f"{type(module).__name__}.{name} was the parameter of a variable, and is {spread.what} now: the "
                "variable would keep the old value",
                hint="read the variable once after the module was sharded, outside of its forward; or give the module "
                "a parameter of its own before",
            )


def _stands_for(new: Any, old: Any) -> bool:
    """Whether a parameter is over a mesh and stands for the same values as another one, from which it was made.

    `fully_shard` has a larger part of a value in the module while it has gathered it, which goes away again.
    """
    made: Any = new
    if not isinstance(new, torch.nn.Parameter) or not is_over_a_mesh(new):
        return False
    if new.shape != old.shape or new.dtype != old.dtype or any(each.is_partial() for each in made.placements):
        return False
    return not is_over_a_mesh(old) or bool(made._local_tensor.numel() < old._local_tensor.numel())


_known: dict[int, Places] = {}
_watching: list[Any] = []


def _registered(module: torch.nn.Module, name: str, parameter: Any) -> None:
    if (places := _known.get(id(parameter))) is not None:
        places._found.append((weakref.ref(module), name))
    elif (old := module._parameters.get(name)) is not None and (places := _known.get(id(old))) is not None:
        if _stands_for(parameter, old):
            return  # the variable follows it when it is used next
        places._check(module, name, parameter)


def _watch_registrations() -> None:
    if not _watching:
        _watching.append(torch.nn.modules.module.register_module_parameter_registration_hook(_registered))
