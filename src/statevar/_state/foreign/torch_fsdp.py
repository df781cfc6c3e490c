"""What `fully_shard` has gathered of a parameter: a value of its own, with which a module computes.

It keeps it after a forward, until a backward or the next use of ``module.state_dict()``. A parameter that was written
meanwhile would not be seen by the next forward, as after ``p.copy_(x)``. So torch is told to let go of it.
"""

from __future__ import annotations

import sys
from typing import Any
from weakref import ref

__all__ = ["let_go"]


#: The groups of parameters that `fully_shard` has made, by the id of a parameter; None for one that it has not made.
_groups: dict[int, tuple[ref[Any], ref[Any] | None]] = {}


def _group_of(parameter: Any) -> Any:
    known = _groups.get(id(parameter))
    if known is None or known[0]() is not parameter:
        _look()
        known = _groups.setdefault(id(parameter), (ref(parameter), None))
        if known[0]() is not parameter:  # another one, which is gone
            known = _groups[id(parameter)] = (ref(parameter), None)
    return None if known[1] is None else known[1]()


def _look() -> None:
    """Finds the parameters of all modules, and forgets those that are gone."""
    for number in [number for number, (parameter, _) in list(_groups.items()) if parameter() is None]:
        _groups.pop(number, None)
    # Private in torch 2.13; without it a module is to be told: ``module.reshard()``.
    states = getattr(sys.modules.get("torch.distributed._composable_state"), "_module_state_mapping", {})
    for found in list(states.values()):
        for group in getattr(found() if isinstance(found, ref) else found, "_fsdp_param_groups", ()):
            for each in group.fsdp_params:
                _groups[id(each.sharded_param)] = ref(each.sharded_param), ref(group)


def let_go(parameter: Any) -> None:
    """Has the next forward gather the new value of a parameter that was written. Does nothing to any other tensor."""
    if hasattr(parameter, "device_mesh") and (group := _group_of(parameter)) is not None:
        group._to_sharded()
