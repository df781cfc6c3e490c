"""One variable for every array library."""

from typing import TYPE_CHECKING

from . import errors, initializers
from ._frozen import FrozenVariable
from ._registry import backend_names
from ._scopes import autocast, device, name_scope
from ._variable import Variable
from .compilation import jit
from .control_flow import cond, fori_loop, remat, scan, vmap, while_loop
from .gradients import grad, value_and_grad
from .interop import assign, batch_get_value, batch_set_value, get_value, set_value
from .snapshots import Snapshot, restore, rollback, snapshot
from .stateless import StatelessScope, functionalize
from .tapes import GradientTape
from .tracking import Module, named_variables, variables
from .transactions import transaction

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, CheckpointManager, load, save, verify

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "FrozenVariable",
    "GradientTape",
    "Module",
    "Snapshot",
    "StatelessScope",
    "Variable",
    "__version__",
    "assign",
    "autocast",
    "backend_names",
    "batch_get_value",
    "batch_set_value",
    "cond",
    "device",
    "errors",
    "fori_loop",
    "functionalize",
    "get_value",
    "grad",
    "initializers",
    "jit",
    "load",
    "name_scope",
    "named_variables",
    "remat",
    "restore",
    "rollback",
    "save",
    "scan",
    "set_value",
    "snapshot",
    "transaction",
    "value_and_grad",
    "variables",
    "verify",
    "vmap",
    "while_loop",
]


if not TYPE_CHECKING:  # a type checker would take every name for one that is there

    def __getattr__(name: str) -> object:
        # Saving needs more of the standard library than all the rest: a third of the time of an import of NumPy.
        if name in ("Checkpoint", "CheckpointManager", "load", "save", "verify"):
            from . import checkpoint  # noqa: PLC0415

            return globals().setdefault(name, getattr(checkpoint, name))
        raise AttributeError(f"module 'statevar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
