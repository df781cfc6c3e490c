"""One variable for every array library."""

from . import errors, initializers
from ._frozen import FrozenVariable
from ._registry import backend_names
from ._scopes import autocast, device, name_scope
from ._variable import Variable
from .compilation import jit
from .gradients import grad, value_and_grad
from .interop import assign, batch_get_value, batch_set_value, get_value, set_value
from .stateless import StatelessScope, functionalize
from .snapshots import Snapshot, restore, rollback, snapshot
from .transactions import transaction

__version__ = "0.1.0"

__all__ = [
    "FrozenVariable",
    "Snapshot",
    "StatelessScope",
    "Variable",
    "__version__",
    "assign",
    "autocast",
    "backend_names",
    "batch_get_value",
    "batch_set_value",
    "device",
    "errors",
    "functionalize",
    "get_value",
    "grad",
    "initializers",
    "jit",
    "name_scope",
    "restore",
    "rollback",
    "set_value",
    "snapshot",
    "transaction",
    "value_and_grad",
]
