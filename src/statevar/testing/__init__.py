"""The suite that an adapter for another array library must pass.

::

    # test_my_backend.py
    from statevar.testing import BackendSuite


    class TestMyBackend(BackendSuite):
        backend = "mylib"

Run it with pytest. Each test is a method without arguments that raises AssertionError, so any other runner, or a
loop, will do as well. Whoever writes the adapter reads `statevar.backends` first.
"""

from __future__ import annotations

from ._conversion import Conversion
from ._handles import Handles
from ._laws import Laws

__all__ = ["BackendSuite"]


class BackendSuite(Conversion, Handles, Laws):
    """What every backend must do: the contract of each verb, and the laws of the variable.

    Derive from it, and say whom to test. NumPy is the oracle: shapes, dtypes, selections and operators must
    give what NumPy gives, exactly. An operation that the library lacks may be done by NumPy, see
    `statevar.backends.Backend.compute_on_host`. A test that needs what the library does not have is skipped,
    with the reason.

    Attributes:
        backend: the name under which the backend is registered. Required.
        dtypes: the names of the dtypes that the library holds; all others must be refused with `DTypeError`. If
            left empty, those that are not refused. float32, int32 and bool are always required.
        guards_snapshots: whether a reader that writes what it was given is refused, or changes nothing but its
            own. True unless you say otherwise.
        address: a method from a variable to the address of its buffer, for a library that writes in place. It
            must keep no reference to the buffer. Without it, nobody checks that writes are in place.
        gradient: a method from a scalar function of the variable, and the variable, to the library's gradient,
            for a library that differentiates. Without it, nobody checks that reads can be differentiated.

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
