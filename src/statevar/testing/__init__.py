"""The test suites that adapters for other libraries must pass: of their arrays, and of their state.

::

    # test_my_backend.py
    from statevar.testing import BackendSuite


    class TestMyBackend(BackendSuite):
        backend = "mylib"

Run it with pytest. Each test is a method without arguments that raises AssertionError, so any other runner, or a
loop, works too. Before you write an adapter, read `statevar.backends`.

`ShardedSuite` is for an adapter whose library spreads values over several devices. `StateSuite` is for an adapter of
state, `statevar.interop.Adapter`: for each kind of object, derive a class from it.
"""

from __future__ import annotations

from ._conversion import Conversion
from ._handles import Handles
from ._laws import Laws
from ._random import RandomNumbers
from ._sharded import ShardedSuite
from ._state import StateSuite

__all__ = ["BackendSuite", "ShardedSuite", "StateSuite"]


class BackendSuite(Conversion, Handles, Laws, RandomNumbers):
    """Tests that every backend must pass: the contract of each verb, the laws of the variable, and the random numbers.

    Derive a class from it and set the name of your backend. Shapes, dtypes, selections and operators must give exactly
    what NumPy gives. An operation that the library lacks may be done by NumPy, see
    `statevar.backends.Backend.compute_on_host`. A test that needs a feature which the library does not have is skipped,
    with the reason.

    Attributes:
        backend: the name under which the backend is registered. Required.
        dtypes: the names of the dtypes that the library supports. The adapter must refuse all others with
            `DTypeError`. If empty, the dtypes that the adapter does not refuse. float32, int32 and bool are required.
        guards_snapshots: whether a reader that writes to a value gets an error, or changes only its own copy. The
            default is True.
        address: a method that returns the address of a variable's buffer, for a library that writes in place. It must
            keep no reference to the buffer. Without it, the tests of writes in place are skipped.
        gradient: a method that takes a scalar function of a variable, and the variable, and returns the library's
            gradient. Without it, the tests of gradients are skipped.

    >>> import statevar as sv
    >>> from statevar.testing import BackendSuite
    >>> class TestNumPy(BackendSuite):
    ...     backend = "numpy"
    ...
    ...     def address(self, variable: sv.Variable) -> int:
    ...         return variable.value.ctypes.data
    >>> suite = TestNumPy()
    >>> suite.test_snapshot_never_changes()
    >>> suite.test_no_update_is_lost_between_threads()
    """
