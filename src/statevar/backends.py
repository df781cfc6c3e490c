"""What the author of an adapter for another array library needs; nothing here is for other users.

An adapter is a subclass of `Backend` and one instance of it. The docstring of each verb is its contract: who
calls it, what was checked before, what it may change. ``docs/adding-a-backend.md`` goes through them with a
worked example, and `statevar.testing.BackendSuite` checks them. What holds for every verb:

1. **An adapter serves one library.** It is imported when the first array of that library is met, or when its
   name is asked for. Importing it may import the library; importing it must not be needed for anything else.
2. **It knows nothing of variables**: no names, scopes, locks or versions. It gets handles, arrays of its
   library, and NumPy arrays, and keeps no state of its own beside them.
3. **A handle is what a variable owns.** Nobody else may see the memory that its verbs write. Its attribute
   ``published`` is the snapshot that readers take without asking, or None if they must come through
   `Backend.snapshot`.
4. **A snapshot never changes.** A write verb that meets one still alive leaves it alone and makes a new
   value. An adapter that cannot tell copies: in the write verbs, or, with ``published`` always None, in
   `Backend.snapshot`.
5. **A write verb returns the handle to keep**, the same or another. If it raises, the handle is as it was.
6. **An operand is not ours to keep or change.** A write verb copies what it stores, unless the library's
   arrays are immutable. It may lie on another device than the handle; the result stays with the handle.
7. **What NumPy does is right.** Selections follow NumPy's indexing; an element selected twice is changed
   twice, and the last of several values set is kept. Where the library lacks an operation,
   `Backend.compute_on_host` and `Backend.put_on_host` have it.
8. **An error is typed**: `statevar.errors`, its message built by `statevar.errors.describe`. A dtype or a device
   that the library lacks is refused by `Backend.dtype` or `Backend.device`, never replaced by another.

Register the instance under the entry point group ``statevar.backends``, with the *root module of the library's
arrays* as the name, which is also the adapter's `Backend.name`: so that asking whose an array is loads no other
adapter.

.. code-block:: toml

    [project.entry-points."statevar.backends"]
    boxarray = "statevar_box:BACKEND"
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arrays.backend import Backend, Handle
from ._arrays.dtypes import HOST, dtype_name, is_integer
from ._arrays.host import AT_OPERATIONS, combine, dlpack_of_host, put_in_place
from ._arrays.indexing import Selection, last_of_each
from ._arrays.placement import no_such_device, parse_device
from ._arrays.shapes import DeclaredShape, Shape
from ._arrays.tracing import Tracing
from ._arrays.transforms import Program, Tape, Transforms
from ._arrays.types import Array, HostArray, Operation

__all__ = [
    "AT_OPERATIONS",
    "Array",
    "Backend",
    "DeclaredShape",
    "Handle",
    "HostArray",
    "Operation",
    "Program",
    "Selection",
    "Shape",
    "Tape",
    "Tracing",
    "Transforms",
    "combine",
    "dlpack_of_host",
    "host_dtype",
    "is_integer",
    "last_of_each",
    "no_such_device",
    "parse_device",
    "put_in_place",
]


def host_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype that holds a dtype on the host, those of ``ml_dtypes`` among them.

    Raises:
        DTypeError: no dtype has that name.

    >>> host_dtype("float32"), host_dtype("bfloat16")
    (dtype('float32'), dtype(bfloat16))
    """
    return HOST[dtype_name(name)]
