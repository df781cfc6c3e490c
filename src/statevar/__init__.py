"""One variable for every array library."""

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING

from . import errors, initializers
from ._arrays.registry import backend_names
from ._arrays.shapes import ShapeLike as Shape
from ._arrays.types import DType
from ._core.deferring import deferred
from ._core.forks import guarded
from ._core.frozen import FrozenVariable
from ._core.placement import set_log_device_placement, set_soft_device_placement
from ._core.replicas import per_replica
from ._core.scopes import autocast, device, mesh, name_scope
from ._core.variable import Variable
from .interop import assign, batch_get_value, batch_set_value, get_value, set_value

if TYPE_CHECKING:
    from . import distributed, shared
    from ._core.array_api.namespace import Namespace, namespace
    from ._state.all_reduce import all_reduce
    from ._state.generator import Generator
    from ._state.module import Module, named_variables, variables
    from ._state.replicas import check_replicas
    from ._state.sharding import gather, local_rows, materialize, shard, shard_batch
    from ._state.share import attach, share
    from ._state.snapshot import Snapshot, restore, rollback, snapshot
    from ._state.summary import Summary, summary
    from ._state.together import update_all
    from ._state.transaction import transaction
    from ._state.view import View, view
    from ._transforms.control_flow import cond, fori_loop, scan, while_loop
    from ._transforms.functionalize import StatelessScope, functionalize
    from ._transforms.grad import grad, value_and_grad
    from ._transforms.jit import jit
    from ._transforms.remat import remat
    from ._transforms.tape import GradientTape
    from ._transforms.vmap import vmap
    from .checkpoint import Checkpoint, CheckpointManager, Rules, filled, load, rules, save, verify

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "DType",
    "FrozenVariable",
    "Generator",
    "GradientTape",
    "Module",
    "Namespace",
    "Rules",
    "Shape",
    "Snapshot",
    "StatelessScope",
    "Summary",
    "Variable",
    "View",
    "__version__",
    "all_reduce",
    "assign",
    "attach",
    "autocast",
    "backend_names",
    "batch_get_value",
    "batch_set_value",
    "check_replicas",
    "cond",
    "deferred",
    "device",
    "distributed",
    "errors",
    "filled",
    "fori_loop",
    "functionalize",
    "gather",
    "get_value",
    "grad",
    "initializers",
    "jit",
    "load",
    "local_rows",
    "materialize",
    "mesh",
    "name_scope",
    "named_variables",
    "namespace",
    "per_replica",
    "remat",
    "restore",
    "rollback",
    "rules",
    "save",
    "scan",
    "set_log_device_placement",
    "set_soft_device_placement",
    "set_value",
    "shard",
    "shard_batch",
    "share",
    "shared",
    "snapshot",
    "summary",
    "transaction",
    "update_all",
    "value_and_grad",
    "variables",
    "verify",
    "view",
    "vmap",
    "while_loop",
]


#: The modules that are loaded on first use, by name: together they would double the import time (docs/performance.md).
_LATER = {
    name: module
    for module, names in {
        "checkpoint": ("Checkpoint", "CheckpointManager", "Rules", "filled", "load", "rules", "save", "verify"),
        "_core.array_api.namespace": ("Namespace", "namespace"),
        "_transforms.jit": ("jit",),
        "_transforms.control_flow": ("cond", "fori_loop", "scan", "while_loop"),
        "_transforms.grad": ("grad", "value_and_grad"),
        "_transforms.vmap": ("vmap",),
        "_transforms.remat": ("remat",),
        "_state.replicas": ("check_replicas",),
        "_state.snapshot": ("Snapshot", "restore", "rollback", "snapshot"),
        "_transforms.functionalize": ("StatelessScope", "functionalize"),
        "_transforms.tape": ("GradientTape",),
        "_state.all_reduce": ("all_reduce",),
        "_state.generator": ("Generator",),
        "_state.module": ("Module", "named_variables", "variables"),
        "_state.share": ("attach", "share"),
        "_state.sharding": ("gather", "local_rows", "materialize", "shard", "shard_batch"),
        "_state.summary": ("Summary", "summary"),
        "_state.together": ("update_all",),
        "_state.transaction": ("transaction",),
        "_state.view": ("View", "view"),
    }.items()
    for name in names
}

#: The modules for everybody that are loaded on first use.
_MODULES = ("distributed", "shared")

#: A fork takes this lock first. Otherwise Python's own lock of a module being imported could stay locked in the child.
_loading = guarded(RLock())

if not TYPE_CHECKING:  # with `__getattr__`, a type checker would accept every name

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            with _loading:
                return import_module(f".{name}", __name__)
        if name not in _LATER:
            from ._core.elsewhere import hint_for_module  # noqa: PLC0415

            raise AttributeError(f"module 'statevar' has no attribute {name!r}{hint_for_module(name, __all__)}")
        with _loading:
            return globals().setdefault(name, getattr(import_module(f".{_LATER[name]}", __name__), name))


def __dir__() -> list[str]:
    return __all__
