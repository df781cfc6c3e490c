"""The only place in which the tests import what is private: a private module that moves is a change to this file.

Importing it loads no framework. What needs one stands behind `adapter` and `engine`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from statevar import _holds as holds
from statevar import _scopes as scopes
from statevar import _variable as variable_module  # which makes the locks
from statevar import snapshots, tracking, transactions
from statevar._collect import Paths, found_in, named_in, paths_in, variables_in
from statevar._commit import while_locked
from statevar._dtypes import HOST, kind
from statevar._indexing import Selection, last_of_each
from statevar._registry import get_backend
from statevar._shapes import broadcasts_into, canonical_shape, fits
from statevar._watchers import Watchers
from statevar.checkpoint import _files as files
from statevar.checkpoint import _format as header_format
from statevar.checkpoint import _writing as writing
from statevar.checkpoint._format import CODES, DIGITS, Entry, Header, decode, digest_of, encode, laid_out
from statevar.checkpoint.saving import items_of

__all__ = [
    "CODES",
    "DIGITS",
    "HOST",
    "PUBLIC",
    "Entry",
    "Header",
    "Paths",
    "Selection",
    "Watchers",
    "adapter",
    "broadcasts_into",
    "canonical_shape",
    "decode",
    "digest_of",
    "encode",
    "engine",
    "files",
    "fits",
    "found_in",
    "get_backend",
    "header_format",
    "holds",
    "items_of",
    "kind",
    "laid_out",
    "last_of_each",
    "named_in",
    "paths_in",
    "scopes",
    "snapshots",
    "tracking",
    "transactions",
    "variable_module",
    "variables_in",
    "while_locked",
    "writing",
]

#: The modules for everybody. What else is in the package is private.
PUBLIC = (
    "statevar",
    "statevar.backends",
    "statevar.checkpoint",
    "statevar.errors",
    "statevar.initializers",
    "statevar.interop",
    "statevar.testing",
)

#: How sv.jit compiles; each imports its framework.
_ENGINES = {
    "tensorflow_jit": "statevar._engines.tensorflow_jit",
    "torch_graph": "statevar._engines.torch_graph",
    "torch_jit": "statevar._engines.torch_jit",
    "torch_nodes": "statevar._engines.torch_nodes",
}


def adapter(library: str) -> ModuleType:
    """The module of a library's adapter; imports the library."""
    return import_module(f"statevar._backends.{library}")


def engine(name: str) -> ModuleType:
    """A module of those that compile for one library; imports the library."""
    return import_module(_ENGINES[name])
