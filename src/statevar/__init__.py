"""One variable for every array library."""

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
from .transactions import transaction

__version__ = "0.1.0"

__all__ = [
    "FrozenVariable",
    "GradientTape",
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
    "name_scope",
    "remat",
    "restore",
    "rollback",
    "scan",
    "set_value",
    "snapshot",
    "transaction",
    "value_and_grad",
    "vmap",
    "while_loop",
]
