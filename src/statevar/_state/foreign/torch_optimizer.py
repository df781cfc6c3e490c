"""What is state in optimizers, schedulers and scalers of PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..._arrays.registry import get_backend
from ..._arrays.slots import Named, Place
from ...errors import ForeignStateError
from .items import Number
from .torch_tensor import TensorItem

__all__ = ["accept_state", "children_of_optimizer", "children_of_scaler", "children_of_scheduler", "forget_state"]


# -- optimizers --------------------------------------------------------------------------------------------------------


def children_of_optimizer(optimizer: torch.optim.Optimizer) -> dict[Any, Any]:
    """The state of each parameter, under the parameter's own path, and the numbers of the groups."""
    children: dict[Any, Any] = {}
    for number, parameter in enumerate(_parameters(optimizer)):
        state = _Items(partial(_state, optimizer, parameter))
        place = Place(optimizer, "state", Place(parameter))
        children[Named(parameter, str(number))] = _leaves(optimizer.state.get(parameter) or {}, state, place)
    groups = {}
    for number, group in enumerate(optimizer.param_groups):
        items = _Items(partial(_group, optimizer, number))
        options = {name: value for name, value in group.items() if name not in ("params", "param_names")}
        groups[str(number)] = _leaves(options, items, Place(optimizer, "group", number), options=True)
    return {**children, "param_groups": groups}


def _state(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> Any:
    return optimizer.state[parameter]


def _group(optimizer: torch.optim.Optimizer, number: int) -> Any:
    return optimizer.param_groups[number]


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class _Items:
    """A dict or list that is looked up at each access, since its owner may have replaced it."""

    def __init__(self, now: Callable[[], Any]) -> None:
        self._now = now

    def __getitem__(self, key: Any) -> Any:
        return self._now()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._now()[key] = value


class _Sequence:
    """A list or tuple of numbers in a holder. Writing an element of a tuple replaces the tuple."""

    def __init__(self, holder: Any, key: Any) -> None:
        self._owner = holder
        self._key = key

    def __getitem__(self, number: int) -> Any:
        return self._owner[self._key][number]

    def __setitem__(self, number: int, value: Any) -> None:
        old = self._owner[self._key]
        if isinstance(old, list):
            old[number] = value
        else:
            self._owner[self._key] = (*old[:number], value, *old[number + 1 :])


def _leaves(state: Any, items: Any, place: Place, *, options: bool = False) -> dict[str, Any]:
    """The slots of the tensors and numbers in a dict.

    Args:
        state: what is there now.
        items: through which the slots look it up again.
        options: whether what is neither tensor nor number is an option, which is not state. Else a list is an error,
            since state that grows cannot go back to an older length.

    Raises:
        ForeignStateError: something is neither tensor nor number.
    """
    found: dict[str, Any] = {}
    for name, value in state.items() if isinstance(state, dict) else enumerate(state):
        where = Place(place.holder, *place.keys, name)
        if isinstance(value, torch.Tensor):
            found[str(name)] = TensorItem(where, items, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[str(name)] = Number(items, name, thing=where)
        elif isinstance(value, list | tuple) and options:
            if inner := _leaves(value, _Sequence(items, name), where, options=options):
                found[str(name)] = inner
        elif not (options or value is None or isinstance(value, bool | str)):
            what = f"the state {name!r} of {type(place.holder).__qualname__} is a {type(value).__qualname__}"
            hint = "keep it outside of what you pass, and save it with its own state_dict()"
            raise ForeignStateError.of("view", f"{what}, which is no tensor and no number", hint=hint)
    return found


# -- schedulers and scalers --------------------------------------------------------------------------------------------


def children_of_scheduler(scheduler: Any) -> dict[str, Any]:
    """The numbers of a scheduler, such as its epoch, and the schedulers in it. Its functions are options."""
    own = {name: value for name, value in vars(scheduler).items() if name != "optimizer"}
    found = _leaves(own, _Items(lambda: vars(scheduler)), Place(scheduler, "attributes"), options=True)
    inner = own.get("_schedulers")
    return found | ({"_schedulers": list(inner)} if inner else {})


def children_of_scaler(scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """The numbers of a gradient scaler; none if it is not enabled."""
    return _leaves(scaler.state_dict(), _Scaler(scaler), Place(scaler, "state"))


class _Scaler:
    """The state of a scaler as a dict. It makes its tensors with the first loss."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self._scaler = scaler

    def __getitem__(self, name: str) -> Any:
        return self._scaler.state_dict()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._scaler.load_state_dict({**self._scaler.state_dict(), name: value})


# -- state that does not exist yet -------------------------------------------------------------------------------------


def accept_state(x: Any, arrays: Any) -> Callable[[], None] | None:
    """Makes the state of an optimizer before its first step, as it is in a file; returns what undoes it.

    Args:
        x: an optimizer; any other object makes its state itself.
        arrays: `Offered` by a file, by the number of the parameter and the name of its state: ``0/exp_avg``.
    """
    if not isinstance(x, torch.optim.Optimizer):
        return None
    made: list[str] = []
    for path in arrays:
        if (place := _place_of(x, path)) is None:
            continue
        parameter, name = place
        shape, dtype = arrays.described(path)
        if shape and hasattr(parameter, "device_mesh"):
            x.state[parameter][name] = _over_mesh(parameter, shape, get_backend("torch").dtype(dtype))
            made.append(path)
            continue
        tensor = get_backend("torch").operand_from_host(arrays[path])
        on_device = tensor.dim() > 0 or any(
            group.get("capturable") or group.get("fused")
            for group in x.param_groups
            if any(each is parameter for each in group["params"])
        )
        x.state[parameter][name] = tensor.to(parameter.device) if on_device else tensor
        made.append(path)
    return partial(forget_state, x, made)


def _over_mesh(parameter: Any, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """State of a parameter over a mesh, spread as optimizers make it. A load reads the values, in their parts."""
    if tuple(parameter.shape) == shape:
        return torch.zeros_like(parameter, dtype=dtype)
    from torch.distributed.tensor import zeros  # noqa: PLC0415  # loaded already, by whoever made the parameter

    return zeros(shape, dtype=dtype, device_mesh=parameter.device_mesh)


def forget_state(x: Any, paths: list[str]) -> None:
    """Removes state of the parameters of an optimizer, by the paths that `accept_state` takes."""
    for path in paths if isinstance(x, torch.optim.Optimizer) else ():
        if (place := _place_of(x, path)) is not None:
            parameter, name = place
            x.state[parameter].pop(name, None)
            if not x.state[parameter]:
                del x.state[parameter]


def _place_of(optimizer: torch.optim.Optimizer, path: str) -> tuple[torch.Tensor, str] | None:
    """The parameter and the name of its state at a path; None if it is no path of a parameter's state."""
    parameters = _parameters(optimizer)
    number, _, name = path.partition("/")
    if not number.isdecimal() or int(number) >= len(parameters) or not name or "/" in name:
        return None
    return parameters[int(number)], name
