"""The only place in which the tests import what is private: a private module that moves is a change to this file.

Importing it loads no framework. What needs one stands behind `adapter` and `engine`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from statevar._arrays import collectives, draws, first_values, launch, registry
from statevar._arrays import heartbeat as heartbeats
from statevar._arrays import world as worlds
from statevar._arrays.differences import difference
from statevar._arrays.dtypes import HOST, dtype_kind
from statevar._arrays.indexing import Selection, last_of_each
from statevar._arrays.random import host as host_draws
from statevar._arrays.random import numbers as random_numbers
from statevar._arrays.random import tables as random_tables
from statevar._arrays.random.host import WORDS as random_words
from statevar._arrays.registry import get_backend
from statevar._arrays.shapes import broadcasts_into, canonical_shape, fits
from statevar._arrays.statistics import merged, statistics
from statevar._cli import completion, output
from statevar._cli import main as command_line
from statevar._cli import reading as cli_reading
from statevar._cli import target as targets
from statevar._cli import verify as cli_verify
from statevar._cli import watch as watching
from statevar._cli.exits import CommandError
from statevar._core import cell as cell_module  # which makes the locks
from statevar._core import copies, elsewhere, held, holds, overlays, placement, scopes
from statevar._core.holds import while_locked
from statevar._core.watchers import Watchers
from statevar._state import entries as summary_entries
from statevar._state import left_out, replicas
from statevar._state import module as tracking
from statevar._state import snapshot as snapshots
from statevar._state import transaction as transactions
from statevar._state.by_path import needed
from statevar._state.paths import Paths, named_in, objects_in, paths_in, variables_in
from statevar._state.walk import Opener
from statevar.checkpoint import _files as files
from statevar.checkpoint import _together as together
from statevar.checkpoint._formats import pickles
from statevar.checkpoint._formats.safetensors import header as header_format
from statevar.checkpoint._formats.safetensors import values as file_values
from statevar.checkpoint._formats.safetensors import writer as writing
from statevar.checkpoint._formats.safetensors.header import (
    CODES,
    DIGITS,
    Entry,
    Header,
    decode,
    digest_of,
    encode,
    laid_out,
)
from statevar.checkpoint._formats.tensor_bundle import crc32c as checksums_of_tensorflow
from statevar.checkpoint._formats.tensor_bundle import names as names_of_tensorflow
from statevar.checkpoint._pieces import blocks, contents, part
from statevar.checkpoint._pieces import reader as pieces_reader
from statevar.checkpoint._rules.layers import Layers, differences
from statevar.checkpoint._save import items_of

__all__ = [
    "CODES",
    "DIGITS",
    "HOST",
    "PUBLIC",
    "CommandError",
    "Entry",
    "Header",
    "Layers",
    "Opener",
    "Paths",
    "Selection",
    "Watchers",
    "adapter",
    "blocks",
    "broadcasts_into",
    "canonical_shape",
    "cell_module",
    "checksums_of_tensorflow",
    "cli_reading",
    "cli_verify",
    "collectives",
    "command_line",
    "completion",
    "contents",
    "copies",
    "decode",
    "difference",
    "differences",
    "digest_of",
    "draws",
    "dtype_kind",
    "elsewhere",
    "encode",
    "engine",
    "file_values",
    "files",
    "first_values",
    "fits",
    "get_backend",
    "header_format",
    "heartbeats",
    "held",
    "holds",
    "host_draws",
    "items_of",
    "laid_out",
    "last_of_each",
    "launch",
    "left_out",
    "merged",
    "named_in",
    "names_of_tensorflow",
    "needed",
    "objects_in",
    "output",
    "overlays",
    "part",
    "paths_in",
    "pickles",
    "pieces_reader",
    "placement",
    "random_numbers",
    "random_tables",
    "random_words",
    "registry",
    "replicas",
    "scopes",
    "shared_part",
    "snapshots",
    "statistics",
    "summary_entries",
    "targets",
    "together",
    "tracking",
    "transactions",
    "variables_in",
    "watching",
    "while_locked",
    "worlds",
    "writing",
]

#: The modules for everybody. What else is in the package is private.
PUBLIC = (
    "statevar",
    "statevar.backends",
    "statevar.checkpoint",
    "statevar.distributed",
    "statevar.errors",
    "statevar.initializers",
    "statevar.interop",
    "statevar.shared",
    "statevar.testing",
)

#: How sv.jit compiles; each imports its framework.
_ENGINES = {
    "jax_arrays": "statevar._backends.jax.arrays",
    "jax_sharded_rows": "statevar._backends.jax.sharded_rows",
    "jax_indices": "statevar._backends.jax.indices",
    "jax_rows": "statevar._backends.jax.rows",
    "jax_pytree": "statevar._backends.jax.pytree",
    "jax_tracing": "statevar._backends.jax.tracing",
    "numpy_row_log": "statevar._backends.numpy.row_log",
    "tensorflow_handles": "statevar._backends.tensorflow.handles",
    "tensorflow_jit": "statevar._backends.tensorflow.jit",
    "torch_first_values": "statevar._backends.torch.first_values",
    "torch_graph": "statevar._backends.torch.graph",
    "torch_indices": "statevar._backends.torch.indices",
    "torch_jit": "statevar._backends.torch.jit",
    "torch_nodes": "statevar._backends.torch.nodes",
    "torch_streams": "statevar._backends.torch.streams",
}


def adapter(library: str) -> ModuleType:
    """The module of a library's adapter; imports the library."""
    return import_module(f"statevar._backends.{library}.adapter")


def engine(name: str) -> ModuleType:
    """A module of those that compile for one library; imports the library."""
    return import_module(_ENGINES[name])


def shared_part(name: str) -> ModuleType:
    """A module of what processes share, which is loaded when a program first shares something."""
    return import_module(f"statevar._shared.{name}")
