"""The types and helpers for authors of adapters to other array libraries; users do not need this module.

An adapter is a subclass of `Backend` and one instance of it. The docstring of each method is its contract: who calls
it, which checks were made before, what it may change. ``docs/adding-a-backend.md`` explains them with a worked example,
and `statevar.testing.BackendSuite` checks them. These rules apply to every method:

1. **An adapter serves one library.** It is imported when the first array of that library is used, or when its name is
   requested. Importing it may import the library. Nothing else may depend on that import.
2. **It knows nothing of variables**: no names, scopes, locks or versions. It gets handles, arrays of its library, and
   NumPy arrays, and has no other state of its own.
3. **A handle is the storage of one variable.** No other code may see the memory that the write verbs change. Its
   attribute ``published`` is the snapshot that readers take without a call, or None if they must call
   `Backend.snapshot`.
4. **A snapshot never changes.** While a snapshot is alive, a write verb leaves it as it is and makes a new value. An
   adapter that cannot detect whether it is alive must copy: in the write verbs or, with ``published`` always None, in
   `Backend.snapshot`.
5. **A write verb returns the handle to keep**, the same or another. If it raises, the handle is unchanged.
6. **An operand belongs to the caller.** A write verb copies the operand to store it, even if the library's arrays are
   immutable: one may share the memory of somebody who can write it. The operand may be on another device than the
   handle; the result is on the device of the handle.
7. **NumPy's behaviour is the reference.** Selections follow NumPy's indexing; an element selected twice is changed
   twice, and ``set`` keeps the last of several values. Where the library lacks an operation, use
   `Backend.compute_on_host` and `Backend.put_on_host`.
8. **An error has a class of** `statevar.errors`, and a message built by `statevar.errors.describe`. `Backend.dtype` and
   `Backend.device` raise for a dtype or device that the library lacks, and never replace it by another.

Register the instance under the entry point group ``statevar.backends``. Its name there is the *root module of the
library's arrays*, and also the adapter's `Backend.name`, so that no other adapter is loaded to find the owner of an
array.

.. code-block:: toml

    [project.entry-points."statevar.backends"]
    boxarray = "statevar_box:BACKEND"
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays.backend import Backend, Handle
from ._arrays.dtypes import host_of, is_integer
from ._arrays.first_values import FirstValue, Made
from ._arrays.host import AT_OPERATIONS, combine, dlpack_of_host, put_in_place
from ._arrays.indexing import OwnSelection, Rows, Selection, last_of_each, repeats, turns
from ._arrays.placement import Spread, no_such_device, parse_device
from ._arrays.shapes import DeclaredShape, Shape
from ._arrays.sharded_backend import Axes, Piece, ReadBlock, ShardedBackend
from ._arrays.stored import Stored
from ._arrays.tracing import Tracing
from ._arrays.transforms import Program, Tape, Transforms
from ._arrays.types import Array, HostArray, Operation
from ._arrays.unreadable import Unreadable

__all__ = [
    "AT_OPERATIONS",
    "Array",
    "Axes",
    "Backend",
    "DeclaredShape",
    "FirstValue",
    "Handle",
    "HostArray",
    "Made",
    "Operation",
    "OwnSelection",
    "Piece",
    "Program",
    "ReadBlock",
    "Rows",
    "Selection",
    "Shape",
    "ShardedBackend",
    "Spread",
    "Stored",
    "Tape",
    "Tracing",
    "Transforms",
    "Unreadable",
    "combine",
    "dlpack_of_host",
    "host_dtype",
    "is_integer",
    "last_of_each",
    "no_such_device",
    "parse_device",
    "put_in_place",
    "repeats",
    "turns",
]


def host_dtype(name: str) -> np.dtype[Any]:
    """Returns the NumPy dtype of a dtype name, including those of ``ml_dtypes``.

    Raises:
        DTypeError: there is no dtype of that name.

    >>> host_dtype("float32"), host_dtype("bfloat16")
    (dtype('float32'), dtype(bfloat16))
    """
    return host_of(name)
